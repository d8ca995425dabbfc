//! Measures how long this worker takes to write the publications whose latency is measured.

use std::sync::{Arc, Weak};

use gateway_core::hub::Prepared;
use shared::stamp::TraceContext;

use crate::telemetry::labels::Stage;
use crate::telemetry::stages::StageMetrics;

/// The most publications measured at once on a worker. Beyond it the oldest is measured incompletely.
const MEASURED_MAX: usize = 16;

/// A publication that is being written to sockets. Measuring does not keep its payload alive.
#[derive(Debug)]
struct Begun {
    prepared: Weak<Prepared>,
    /// When its delivery began, on the node's clock in microseconds.
    micros: u64,
    trace: Option<TraceContext>,
    /// The last list of subscribers that was written to.
    written: Option<Written>,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    /// On the node's clock, in microseconds.
    micros: u64,
    /// Since the publisher's request, in microseconds.
    since_micros: u64,
}

/// The measurements of one publication on this worker.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Delivered {
    /// Time from the first socket to the last, in microseconds.
    pub(super) socket_micros: u64,
    /// Since the publisher's request, in microseconds.
    pub(super) since_micros: u64,
    pub(super) trace: Option<TraceContext>,
}

#[derive(Debug, Default)]
pub(super) struct Measured {
    begun: [Option<Begun>; MEASURED_MAX],
    next: usize,
    /// Whether any publication was written to a list.
    has_written: bool,
}

impl Delivered {
    pub(super) fn observe(&self, stages: &StageMetrics) {
        stages.observe(Stage::Socket, self.socket_micros, self.trace);
        stages.delivered(self.since_micros, self.trace);
    }
}

impl Begun {
    fn delivered(&self) -> Option<Delivered> {
        let Written { micros, since_micros } = self.written?;
        let socket_micros = micros.saturating_sub(self.micros);
        Some(Delivered { socket_micros, since_micros, trace: self.trace })
    }
}

impl Measured {
    /// Begins to measure a publication in place of the oldest one. Returns the oldest's measurements, if any. A publication
    /// without subscribers here is never written, and only ends this way.
    pub(super) fn begin(&mut self, prepared: &Arc<Prepared>, micros: u64) -> Option<Delivered> {
        let trace = prepared.stamp().and_then(|stamp| stamp.trace);
        let begun = Begun { prepared: Arc::downgrade(prepared), micros, trace, written: None };
        let oldest = self.begun[self.next].replace(begun);
        self.next = (self.next + 1) % MEASURED_MAX;
        oldest?.delivered()
    }

    /// Records that one of the channel's lists of subscribers was written to.
    pub(super) fn note_written(&mut self, prepared: &Arc<Prepared>, micros: u64, since_micros: u64) {
        let is_it = |begun: &&mut Begun| std::ptr::eq(begun.prepared.as_ptr(), Arc::as_ptr(prepared));
        if let Some(begun) = self.begun.iter_mut().flatten().find(is_it) {
            begun.written = Some(Written { micros, since_micros });
            self.has_written = true;
        }
    }

    /// Reports the publications written to every list: the caller knows that no sweep is in progress.
    pub(super) fn take_delivered(&mut self, mut tell: impl FnMut(Delivered)) {
        if !std::mem::take(&mut self.has_written) {
            return;
        }
        for place in &mut self.begun {
            if let Some(delivered) = place.as_ref().and_then(Begun::delivered) {
                *place = None;
                tell(delivered);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::namespace_id::NamespaceId;
    use shared::channel::Channel;
    use shared::publication::{Payload, Publication};

    use super::*;

    #[test]
    fn what_goes_to_several_lists_is_told_once_with_the_last_and_the_oldest_gives_way() {
        let prepared: Vec<Arc<Prepared>> = (0..MEASURED_MAX as u64 + 2)
            .map(|at| {
                let channel = Channel::parse("a", 255).unwrap();
                Prepared::new(
                    channel,
                    NamespaceId::DEFAULT,
                    Publication::new(Payload::text("x")),
                    at,
                    &Arc::default(),
                )
            })
            .collect();
        let mut measured = Measured::default();
        let begin = |measured: &mut Measured, at: usize| measured.begin(&prepared[at], 100 + at as u64);
        assert_eq!(begin(&mut measured, 0), None);
        measured.note_written(&prepared[0], 110, 7);
        measured.note_written(&prepared[0], 130, 27);
        for at in 1..MEASURED_MAX {
            assert_eq!(begin(&mut measured, at), None);
        }
        let first = Delivered { socket_micros: 30, since_micros: 27, trace: None };
        assert_eq!(begin(&mut measured, MEASURED_MAX), Some(first), "it is told as it gives way");
        assert_eq!(begin(&mut measured, MEASURED_MAX + 1), None, "it was never written");
        measured.note_written(&prepared[1], 200, 100);
        measured.note_written(&prepared[2], 142, 50);
        let mut told = Vec::new();
        measured.take_delivered(|delivered| told.push(delivered));
        measured.take_delivered(|delivered| told.push(delivered));
        assert_eq!(told, [Delivered { socket_micros: 40, since_micros: 50, trace: None }]);
    }
}
