//! Lists a worker's connections and channels in small pieces, so that delivery does not wait for it.

use gateway_core::hub::SubscriptionStage;
use shared::channel::Channel;

use crate::client::Client;
use crate::node::node_message::{
    ConnectionDetail, ConnectionInfo, ConnectionsWanted, DetailWanted, SubscriptionDetail,
};
use crate::worker::Worker;

/// The most places looked at in one piece.
const SCAN_MAX: usize = 2_048;

/// The most bytes listed in one piece: enough for any one connection.
const BYTES_MAX: usize = 128 * 1024;

/// The most channels named for one connection.
const CHANNELS_MAX: usize = 500;

/// A part of a worker's connections.
#[derive(Debug, Default)]
pub(crate) struct WorkerConnections {
    pub(crate) connections: Vec<ConnectionInfo>,
    /// The bytes of text that the connections take.
    pub(crate) bytes: usize,
    /// The place where the next piece begins.
    pub(crate) next: Option<u32>,
}

impl Worker {
    /// Returns the number of subscribers of each of these channels on this worker.
    pub(super) fn count_subscribers(&self, channels: &[Channel]) -> Vec<u32> {
        let count = |channel: &Channel| self.local.hub.subscribers(channel.as_str());
        channels.iter().map(|channel| u32::try_from(count(channel)).unwrap_or(u32::MAX)).collect()
    }

    /// Returns the wanted connections from this place on, at most `limit`. The rest is listed in further pieces.
    pub(super) fn list(&self, wanted: &ConnectionsWanted, from: u32, limit: usize) -> WorkerConnections {
        let mut listed = WorkerConnections::default();
        let places = self.generations.len() as u32;
        let candidates: Vec<u32> = match (wanted.client, wanted.user.as_deref()) {
            (Some(client), _) => vec![self.local.node.client_ids.place(client).1],
            (None, Some(user)) if !user.is_empty() => {
                let mut of_user: Vec<u32> = self.local.directory.of(user).filter(|at| *at >= from).collect();
                of_user.sort_unstable();
                of_user
            }
            _ => (from..places).take(SCAN_MAX + 1).collect(),
        };
        for (looked_at, index) in candidates.into_iter().filter(|index| *index >= from).enumerate() {
            if looked_at >= SCAN_MAX || listed.connections.len() >= limit || listed.bytes >= BYTES_MAX {
                listed.next = Some(index);
                break;
            }
            let Some(client) = self.clients.get(index as usize) else { continue };
            if is_wanted(wanted, client) {
                let info = self.describe(client, wanted.detail.as_ref());
                listed.bytes += bytes_of(&info);
                listed.connections.push(info);
            }
        }
        listed
    }

    fn describe(&self, client: &Client, detail: Option<&DetailWanted>) -> ConnectionInfo {
        let session = &client.session;
        let channels = session.subscriptions().map(|channel| channel.as_str().into());
        ConnectionInfo {
            client: session.client().to_string().into(),
            user: session.user().as_str().into(),
            transport: client.transport().into(),
            protocol: client.protocol.format().into(),
            uptime: self.local.now.since(client.opened).as_secs(),
            channels: channels.take(CHANNELS_MAX).collect(),
            num_channels: session.subscriptions().count() as u32,
            detail: detail.map(|wanted| Box::new(self.detail(client, wanted))),
        }
    }

    fn detail(&self, client: &Client, wanted: &DetailWanted) -> ConnectionDetail {
        let subscriptions = client.session.subscriptions().take(CHANNELS_MAX).map(|channel| {
            let name = channel.as_str().into();
            let Some(found) = self.local.hub.inspect(channel.as_str(), client.key.index) else {
                // The subscription is being authorized, or has just ended.
                return SubscriptionDetail {
                    channel: name,
                    stage: "joining".into(),
                    ..SubscriptionDetail::default()
                };
            };
            let passes = wanted.tags.as_ref().zip(found.filter.as_ref());
            SubscriptionDetail {
                channel: name,
                stage: stage(found.stage).into(),
                positioned: found.positioned,
                newest: found.newest,
                position: found.position.map(|at| (at.offset, at.epoch.as_str().into())),
                filtered: found.filter.is_some(),
                passes: passes.map(|(tags, filter)| filter.matches(tags)),
            }
        });
        ConnectionDetail {
            outbox_bytes: client.outbox_bytes(),
            stalled_ms: client.stalled_for(self.local.now).as_millis() as u64,
            subscriptions: subscriptions.collect(),
        }
    }
}

fn stage(stage: SubscriptionStage) -> &'static str {
    match stage {
        SubscriptionStage::Live => "live",
        SubscriptionStage::Joining => "joining",
        SubscriptionStage::Ahead => "ahead",
        SubscriptionStage::Insufficient => "insufficient",
    }
}

fn is_wanted(wanted: &ConnectionsWanted, client: &Client) -> bool {
    let session = &client.session;
    session.is_connected()
        && !client.is_closing()
        && wanted.client.is_none_or(|wanted| wanted == session.client())
        && wanted.user.as_deref().is_none_or(|user| user == session.user().as_str())
        && wanted.channel.as_ref().is_none_or(|wanted| session.subscriptions().any(|one| one == wanted))
}

/// Returns the approximate size in JSON.
fn bytes_of(info: &ConnectionInfo) -> usize {
    let names: usize = info.channels.iter().map(|channel| channel.len()).sum();
    let channels = match &info.detail {
        Some(detail) => 2 * names + 150 * detail.subscriptions.len(),
        None => names + 3 * info.channels.len(),
    };
    200 + info.user.len() + channels
}
