//! Probes whether the broker works, as far as this node can tell by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::node::Node;
use crate::telemetry::{Readiness, Reminder};

/// The time between a canary that came back through the broker and the next one.
const CANARY_INTERVAL: Duration = Duration::from_secs(1);
/// The time between a canary that did not come back and the next one: short, so that a recovery shows soon.
const CANARY_RETRY: Duration = Duration::from_millis(250);

/// Sends canaries, messages to this node itself, through a part of the broker. The node is ready as long as they come
/// back. The part may appear, disappear and be replaced by another one meanwhile.
pub(super) async fn keep_canary(node: Arc<Node>, readiness: Arc<Readiness>, part: usize, named: Arc<str>) {
    let up = &node.metrics.shards.up;
    let mut there = Some(named);
    let mut reminder = Reminder::new();
    loop {
        let now_there = node.broker_part(part);
        if now_there != there {
            if let Some(gone) = there.filter(|name| !name.is_empty()) {
                // Fails only if no value was ever shown under this label.
                let _ = up.remove_label_values(&[&*gone]);
            }
            node.set_usable(part, false);
            readiness.part_changed(part, node.clock.now(), now_there.clone());
            reminder = Reminder::new();
            there = now_there;
        }
        let Some(name) = &there else {
            tokio::time::sleep(CANARY_RETRY).await;
            continue;
        };
        let shown = (!name.is_empty()).then(|| up.with_label_values(&[&**name]));
        let round_trip = node.canary(part).await;
        node.set_usable(part, round_trip.is_ok());
        readiness.set_neighbors(node.neighbors());
        if let Some(shown) = &shown {
            shown.set(i64::from(round_trip.is_ok()));
        }
        let (moment, now) = (node.clock.now(), Instant::now());
        let pause = match round_trip {
            Ok(took) => {
                readiness.canary_returned(part, moment);
                node.metrics.canary_seconds.observe(took.as_secs_f64());
                if let Some(lasted) = reminder.over(now) {
                    tracing::info!(
                        after_ms = lasted.as_millis() as u64,
                        shard = shard(name),
                        "the broker can be used again"
                    );
                }
                CANARY_INTERVAL
            }
            Err(error) => {
                let (kind, reason) = (error.label(), error.to_string());
                if reminder.is_due(&reason, now) {
                    tracing::warn!(kind, %reason, shard = shard(name), "the broker cannot be used");
                }
                readiness.canary_failed(part, moment, reason);
                CANARY_RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The shard's name for log lines, if there are several.
fn shard(name: &str) -> Option<&str> {
    Some(name).filter(|name| !name.is_empty())
}
