//! Announces this node to the others, and reads their announcements.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::BrokerError;
use crate::node::Node;
use crate::node::ask::QUESTIONS;
use crate::node::control::NodeInfo;
use crate::node::neighbors::keep_latest;
use crate::telemetry::Reminder;

/// How often a node announces itself. A dead node is forgotten after three missed announcements.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(3);
const LEASE: Duration = Duration::from_secs(10);

impl Node {
    /// Returns every node whose announcement is fresh, by name. This node is always among them, announced or not.
    pub async fn nodes(&self) -> Result<Vec<NodeInfo>, BrokerError> {
        let mut nodes: Vec<NodeInfo> = Vec::new();
        for description in self.broker.nodes().await? {
            match NodeInfo::decode(&description) {
                Ok(node) if *node.uid != *self.id.0 => nodes.push(node),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the announcement of a node cannot be read"),
            }
        }
        keep_latest(&mut nodes);
        nodes.push(self.describe());
        nodes.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
        Ok(nodes)
    }

    fn describe(&self) -> NodeInfo {
        NodeInfo {
            uid: (*self.id.0).into(),
            name: (*self.name).into(),
            version: crate::VERSION.into(),
            num_clients: u32::try_from(self.metrics.connections()).unwrap_or(0),
            num_users: self.users.count() as u32,
            num_subs: u32::try_from(self.metrics.subscriptions.get()).unwrap_or(0),
            num_channels: self.interest.channels() as u32,
            uptime: self.clock.now().since(shared::moment::Moment::ZERO).as_secs(),
            questions: QUESTIONS,
            takes_in_at: self.takes_in_at.clone(),
            layout: self.broker.layout().into(),
            lacks: self.lacks(),
            draining: self.balancing.is_leaving(),
            room: self.room(),
            accepts_per_s: self.balancing.accepts_per_s(),
            stamps: true,
        }
    }
}

/// Announces this node, for as long as it runs.
pub(super) async fn keep_announced(node: Arc<Node>) {
    let mut interval = tokio::time::interval(ANNOUNCE_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reminder = Reminder::new();
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            // Other nodes have to know at once that this one accepts no clients.
            () = node.balancing.leave_requested() => {}
        }
        let description = match node.describe().encode() {
            Ok(description) => description,
            Err(error) => {
                tracing::error!(%error, "the announcement of this node cannot be encoded");
                continue;
            }
        };
        match node.broker.announce(&node.id.0, description, LEASE).await {
            Ok(all) => {
                reminder.over(Instant::now());
                node.receive_neighbors(&all);
            }
            Err(error) => {
                node.others_unknown();
                if reminder.is_due(&error.to_string(), Instant::now()) {
                    tracing::warn!(%error, "this node could not announce itself");
                }
            }
        }
    }
}
