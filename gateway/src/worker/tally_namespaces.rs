//! A worker's counters by namespace, added to the metrics once a turn.

use gateway_core::namespace_id::NamespaceId;

use crate::telemetry::namespace_metrics::{NAMESPACES_MAX, NamespaceMetrics};

const WORD_BITS: usize = u64::BITS as usize;

/// The counts since the last report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NamespaceTally {
    pub(crate) deliveries: u64,
    pub(crate) bytes_out: u64,
    /// The change of the number of subscriptions.
    pub(crate) subscriptions: i64,
}

#[derive(Debug)]
pub(crate) struct NamespaceTallies {
    of: Box<[NamespaceTally]>,
    /// One bit for each namespace with counts.
    touched: [u64; NAMESPACES_MAX / WORD_BITS],
}

impl Default for NamespaceTallies {
    fn default() -> Self {
        Self {
            of: vec![NamespaceTally::default(); NAMESPACES_MAX].into(),
            touched: [0; NAMESPACES_MAX / WORD_BITS],
        }
    }
}

impl NamespaceTallies {
    pub(crate) fn of(&mut self, id: NamespaceId) -> &mut NamespaceTally {
        let at = usize::from(id.0);
        self.touched[at / WORD_BITS] |= 1 << (at % WORD_BITS);
        &mut self.of[at]
    }

    /// Adds the counts since the last report to the metrics, and resets them.
    pub(super) fn report(&mut self, metrics: &NamespaceMetrics) {
        for (word, touched) in self.touched.iter_mut().enumerate() {
            while *touched != 0 {
                let at = word * WORD_BITS + touched.trailing_zeros() as usize;
                *touched &= *touched - 1;
                let NamespaceTally { deliveries, bytes_out, subscriptions } =
                    std::mem::take(&mut self.of[at]);
                let counters = metrics.of(NamespaceId(at as u8));
                counters.deliveries_out_total.inc_by(deliveries);
                counters.bytes_out_total.inc_by(bytes_out);
                counters.subscriptions.add(subscriptions);
            }
        }
    }
}
