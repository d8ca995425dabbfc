//! Whether the broker works, as far as this node can tell by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::node::Node;
use crate::telemetry::{Readiness, Reminder};

/// How long after a message to this node itself has come back through the broker the next one is sent.
const CANARY_INTERVAL: Duration = Duration::from_secs(1);
/// How long after one that did not: what has healed shows soon.
const CANARY_RETRY: Duration = Duration::from_millis(250);
/// Sends messages through the broker to this node itself. As long as they come back, the node is ready.
pub(super) async fn keep_canary(node: Arc<Node>, readiness: Arc<Readiness>) {
    let mut reminder = Reminder::new();
    loop {
        let sung = node.canary().await;
        let (moment, now) = (node.clock.now(), Instant::now());
        let pause = match sung {
            Ok(took) => {
                readiness.canary_returned(moment);
                node.metrics.canary_seconds.observe(took.as_secs_f64());
                if let Some(lasted) = reminder.over(now) {
                    tracing::info!(after_ms = lasted.as_millis() as u64, "the broker can be used again");
                }
                CANARY_INTERVAL
            }
            Err(error) => {
                let (kind, reason) = (error.label(), error.to_string());
                if reminder.is_due(&reason, now) {
                    tracing::warn!(kind, %reason, "the broker cannot be used");
                }
                readiness.canary_failed(moment, reason);
                CANARY_RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}
