//! Stamps, which some publications carry to measure their latency and to pass on their trace.

use std::time::Instant;

use shared::publication::{Publication, Tags};
use shared::stamp::{STAMP_TAG, Stamp};
use tracing::Span;

use crate::node::Node;
use crate::telemetry::labels::Stage;
use crate::telemetry::traces::{SPANS, join_trace, sampled_trace};

impl Node {
    /// Stamps a publication that was requested at `came`, if its latency is due to be measured.
    pub(super) fn stamp(&self, publication: &mut Publication, came: Instant) {
        if self.neighbors.read_stamps() && self.metrics.stages.is_due(self.clock.micros()) {
            let since = u64::try_from(came.elapsed().as_micros()).unwrap_or(u64::MAX);
            let came_micros = self.clock.unix_micros().saturating_sub(since);
            publication.stamp = Some(Box::new(Stamp { came_micros, ..Stamp::default() }));
        }
    }

    /// Completes the stamp before the publication goes to the broker, within `span`, whose trace it carries if sampled.
    pub(super) fn seal_stamp(&self, publication: &mut Publication, span: &Span) {
        take_tag_off(&mut publication.tags);
        let trace = sampled_trace(span).filter(|_| self.neighbors.read_stamps());
        if let Some(stamp) = publication.stamp.as_deref_mut() {
            stamp.ingress_micros = self.clock.unix_micros().saturating_sub(stamp.came_micros);
            stamp.trace = trace;
            self.metrics.stages.observe(Stage::Ingress, stamp.ingress_micros, trace);
        } else if trace.is_some() {
            // The publication is traced without being measured: which ones are measured was decided before.
            publication.stamp = Some(Box::new(Stamp { trace, ..Stamp::default() }));
        }
    }

    /// Records that a publication has arrived from the broker, or from a read that repairs a gap. Returns the span of its
    /// delivery on this node, which belongs to the publication's trace.
    pub(super) fn note_arrival(&self, channel: &str, publication: &mut Publication) -> Span {
        // Most publications have no stamp, and need no look at the clock.
        if publication.stamp.is_none() {
            return Span::none();
        }
        let unix_micros = self.clock.unix_micros();
        publication.stamp.take_if(|stamp| !stamp.is_credible(unix_micros));
        let Some(stamp) = publication.stamp.as_deref_mut() else { return Span::none() };
        // 0 would mean that the publication has not arrived.
        stamp.arrived_micros = self.clock.micros().max(1);
        if stamp.is_measured() {
            let given = stamp.came_micros.saturating_add(stamp.ingress_micros);
            self.metrics.stages.observe(Stage::Broker, unix_micros.saturating_sub(given), stamp.trace);
        }
        let Some(trace) = stamp.trace else { return Span::none() };
        let span = tracing::info_span!(target: SPANS, parent: None, "deliver", channel, node = &*self.name);
        join_trace(&span, trace);
        span
    }

    /// Records that the publication is about to be handed to the workers, at this time of the node's own clock.
    pub(super) fn note_handed_out(&self, publication: &Publication, micros: u64) {
        if let Some(stamp) = publication.stamp.as_deref()
            && stamp.is_measured()
            && stamp.arrived_micros > 0
        {
            self.metrics.stages.observe(
                Stage::Node,
                micros.saturating_sub(stamp.arrived_micros),
                stamp.trace,
            );
        }
    }
}

/// Removes a publisher's tag of the stamp's name, because only nodes make stamps.
pub(super) fn take_tag_off(tags: &mut Tags) {
    if !tags.is_empty() {
        tags.remove(STAMP_TAG);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use shared::publication::Payload;

    use super::*;
    use crate::node::publish::tests::node;

    fn tagged() -> Publication {
        let tags = [(STAMP_TAG.into(), "1,2".into()), ("by".into(), "me".into())].into();
        Publication { tags, ..Publication::new(Payload::text("x")) }
    }

    #[tokio::test]
    async fn nothing_is_stamped_while_there_is_a_node_that_reads_no_stamps() {
        let node = node(Vec::new());
        node.metrics.stages.set_samples_per_second(10_000);
        let is_stamped = || {
            let mut publication = Publication::new(Payload::text("x"));
            node.stamp(&mut publication, Instant::now());
            publication.stamp.is_some()
        };
        let receive = |others: &[&'static str]| {
            let others: Vec<Bytes> = others.iter().map(|info| Bytes::from_static(info.as_bytes())).collect();
            node.receive_neighbors(&others);
        };
        let (earlier, same) = (r#"{"uid":"a","num_clients":7}"#, r#"{"uid":"b","stamps":true}"#);
        assert!(!is_stamped(), "nobody has been heard");
        receive(&[]);
        assert!(is_stamped(), "it is alone");
        receive(&[same]);
        assert!(is_stamped());
        receive(&[same, earlier]);
        assert!(!is_stamped());
        node.metrics.stages.set_samples_per_second(0);
        receive(&[same]);
        assert!(!is_stamped(), "none are to be");
    }

    #[tokio::test]
    async fn a_stamp_that_a_publisher_sends_goes_no_further() {
        let node = node(Vec::new());
        let mut publication = tagged();
        node.seal_stamp(&mut publication, &Span::none());
        assert_eq!(publication.stamp, None);
        assert_eq!(publication.tags.keys().map(|tag| &**tag).collect::<Vec<_>>(), ["by"]);
    }

    #[tokio::test]
    async fn a_stamp_from_long_ago_is_taken_off_and_one_of_a_trace_alone_is_not_measured() {
        let node = node(Vec::new());
        let arrived = |came_micros| {
            let stamp = Some(Box::new(Stamp { came_micros, ..Stamp::default() }));
            let mut publication = Publication { stamp, ..Publication::new(Payload::text("x")) };
            let _ = node.note_arrival("a", &mut publication);
            publication.stamp.map(|stamp| stamp.is_measured())
        };
        assert_eq!([arrived(1), arrived(0)], [None, Some(false)]);
        assert_eq!(arrived(node.clock.unix_micros()), Some(true));
    }
}
