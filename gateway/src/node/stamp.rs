//! Stamps: what is measured of some publications on their way, and carries their trace to other nodes.

use std::time::Instant;

use shared::publication::Publication;
use shared::stamp::{STAMP_TAG, Stamp};
use tracing::Span;

use crate::node::Node;
use crate::telemetry::labels::Stage;
use crate::telemetry::traces::{SPANS, join_trace, sampled_trace};

impl Node {
    /// Has a publication measured that was asked for at `came`, if it is one of those that are.
    pub(super) fn stamp(&self, publication: &mut Publication, came: Instant) {
        if self.neighbors.read_stamps() && self.metrics.stages.is_due(self.clock.micros()) {
            let since = u64::try_from(came.elapsed().as_micros()).unwrap_or(u64::MAX);
            let came_micros = self.clock.unix_micros().saturating_sub(since);
            publication.stamp = Some(Box::new(Stamp { came_micros, ..Stamp::default() }));
        }
    }

    /// The broker is about to be given the publication, within `span`: it takes its trace along, if that is sampled.
    pub(super) fn seal_stamp(&self, publication: &mut Publication, span: &Span) {
        // Nobody but nodes makes stamps.
        if !publication.tags.is_empty() {
            publication.tags.remove(STAMP_TAG);
        }
        let trace = sampled_trace(span).filter(|_| self.neighbors.read_stamps());
        if let Some(stamp) = publication.stamp.as_deref_mut() {
            stamp.ingress_micros = self.clock.unix_micros().saturating_sub(stamp.came_micros);
            stamp.trace = trace;
            self.metrics.stages.observe(Stage::Ingress, stamp.ingress_micros, trace);
        } else if trace.is_some() {
            let came_micros = self.clock.unix_micros();
            publication.stamp = Some(Box::new(Stamp { came_micros, trace, ..Stamp::default() }));
        }
    }

    /// The broker has brought a publication: answers the span of its delivery here, which is part of its trace.
    pub(super) fn note_arrival(&self, channel: &str, publication: &mut Publication) -> Span {
        let Some(stamp) = publication.stamp.as_deref_mut() else { return Span::none() };
        // 0 would say that it has not come.
        stamp.arrived_micros = self.clock.micros().max(1);
        let given = stamp.came_micros.saturating_add(stamp.ingress_micros);
        self.metrics.stages.observe(
            Stage::Broker,
            self.clock.unix_micros().saturating_sub(given),
            stamp.trace,
        );
        let Some(trace) = stamp.trace else { return Span::none() };
        let span = tracing::info_span!(target: SPANS, parent: None, "deliver", channel, node = &*self.name);
        join_trace(&span, trace);
        span
    }

    /// It is about to be handed to the workers, at this time of the node's own clock.
    pub(super) fn note_handed_out(&self, publication: &Publication, micros: u64) {
        if let Some(stamp) = publication.stamp.as_deref()
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
