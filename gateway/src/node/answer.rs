//! Answers the questions of other nodes, and those that this node asks itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::effect::{Renewal, ServerSubscription};
use shared::channel::Channel;
use shared::moment::Moment;
use tokio::sync::oneshot;

use crate::client::read::CommandOutcome;
use crate::engine_io::RemotePollReply;
use crate::node::control::ControlTarget;
use crate::node::glob::Glob;
use crate::node::interest::SHARDS;
use crate::node::node_message::{
    ChannelsPage, ChannelsWanted, ClientCommand, ConnectionCursor, ConnectionExpiry, ConnectionsPage,
    ConnectionsWanted, NodeRequest, NodeRequestError, NodeResponse, PAGE_MAX, Subscribing,
};
use crate::node::{ClosesWanted, Node, SessionId};
use crate::worker::inbox::{ActResult, ActTally, Inbox, WorkerEvent};

/// The most closes in one answer. With the longest names they still fit into a message.
const CLOSES_MAX: u32 = 500;

/// A page of connections takes no further connection once it holds this many bytes.
const PAGE_BYTES_MAX: usize = 256 * 1024;

impl Node {
    pub(super) async fn answer(&self, question: NodeRequest) -> Result<NodeResponse, NodeRequestError> {
        Ok(match question {
            NodeRequest::Message { session, data } => self.hand_to_session(&session, data).await,
            NodeRequest::Channels(wanted) => NodeResponse::Channels(self.list_channels(wanted).await?),
            NodeRequest::Connections(wanted) => {
                NodeResponse::Connections(self.list_connections(wanted).await?)
            }
            NodeRequest::Closes(wanted) => {
                let limit = wanted.limit.clamp(1, CLOSES_MAX);
                NodeResponse::Closes(self.closes.list(&ClosesWanted { limit, ..wanted }))
            }
            NodeRequest::Shed(wanted) => NodeResponse::Shed(self.shed(wanted).await),
            NodeRequest::Poll { session, polled } => match self.engine_io.answer(&session, polled).await {
                RemotePollReply::Packets(packets) => NodeResponse::Packets(packets),
                RemotePollReply::Part(part) => NodeResponse::PacketsPart(part),
                RemotePollReply::Done => NodeResponse::Handled,
                RemotePollReply::Over | RemotePollReply::Unknown => NodeResponse::NoSuchSession,
            },
            NodeRequest::AskClients(wanted) => {
                let (among, ask) = *wanted;
                NodeResponse::Asked(self.ask_clients(among, ask).await)
            }
            NodeRequest::Act(target, act) => {
                let ActResult { clients, failed, full } = self.act(target, act).await;
                NodeResponse::Done { clients, failed, full }
            }
        })
    }

    /// Hands a message to the session's worker as if the session's client had sent it.
    async fn hand_to_session(&self, session: &str, data: Bytes) -> NodeResponse {
        let Some(session) = SessionId::parse(session) else { return NodeResponse::NoSuchSession };
        let (worker, _) = self.session_ids.place(session);
        let Some(inbox) = self.inboxes.get(worker) else { return NodeResponse::NoSuchSession };
        let (taken, outcome) = oneshot::channel();
        inbox.push(WorkerEvent::Message(session, data, taken));
        // A worker that has stopped has no clients.
        match outcome.await.unwrap_or(CommandOutcome::Gone) {
            CommandOutcome::Taken => NodeResponse::Handled,
            CommandOutcome::Repeated => NodeResponse::Repeated,
            CommandOutcome::Gone => NodeResponse::NoSuchSession,
        }
    }

    /// Sends a command to the workers. Returns the number of clients it applied to, once every worker has reported.
    async fn act(&self, target: ControlTarget, act: ClientCommand) -> ActResult {
        let target = Arc::new(target);
        let (acted, done) = ActTally::new();
        match act {
            ClientCommand::Disconnect(disconnect) => self.notify_workers(&target, || {
                WorkerEvent::Disconnect(target.clone(), disconnect.clone(), acted.clone())
            }),
            ClientCommand::Unsubscribe(channel) => self.notify_workers(&target, || {
                WorkerEvent::Unsubscribe(target.clone(), channel.clone(), acted.clone())
            }),
            ClientCommand::Subscribe(wanted) => {
                let Subscribing { channel, expires_at, info, data, since, overrides } = *wanted;
                let expires = expires_at.map(|at| self.moment_of(at));
                let channel = channel.as_str().into();
                let subscription =
                    ServerSubscription { channel, info, data, expires, overrides, members: false };
                let wanted = Arc::new((subscription, since));
                self.notify_workers(&target, || {
                    WorkerEvent::Subscribe(target.clone(), wanted.clone(), acted.clone())
                });
            }
            ClientCommand::Refresh(wanted) => {
                let ConnectionExpiry { expired, expires_at, info } = *wanted;
                let expires = expires_at.map(|at| self.moment_of(at));
                let renewal =
                    if expired { Renewal::Expired } else { Renewal::Stays { expires, info, meta: None } };
                self.notify_workers(&target, || {
                    WorkerEvent::Refresh(target.clone(), renewal.clone(), acted.clone())
                });
            }
        }
        drop(acted);
        done.await.unwrap_or_default()
    }

    /// Returns the moment of a Unix time. A time in the past becomes now.
    fn moment_of(&self, unix_s: i64) -> Moment {
        let left = unix_s.saturating_sub(self.clock.unix_seconds()).max(0);
        self.clock.now() + Duration::from_secs(left.unsigned_abs())
    }

    async fn list_channels(&self, wanted: ChannelsWanted) -> Result<ChannelsPage, NodeRequestError> {
        let glob = Glob::parse(&wanted.pattern).map_err(|_| NodeRequestError::NotUnderstood)?;
        let limit = wanted.limit.clamp(1, PAGE_MAX) as usize;
        // The first names in order: one more than was asked for shows that there are others.
        let mut first: BTreeSet<Channel> = BTreeSet::new();
        // Where names are given, nothing else is looked at.
        let literal = glob.literal();
        let names = wanted.names.iter().map(|name| &**name).take(PAGE_MAX as usize).chain(literal.as_deref());
        for name in names.clone() {
            let shard = self.interest.shard(name);
            let local = shard.get(name).filter(|local| {
                local.workers != 0 && *name > *wanted.after && glob.matches(local.channel.as_str())
            });
            first.extend(local.map(|local| local.channel.clone()));
        }
        let are_named = names.count() > 0;
        for shard in (0..SHARDS).filter(|_| !are_named) {
            self.interest.for_each_of(shard, |local| {
                let name = local.channel.as_str();
                let is_beyond = first.len() > limit && first.last().is_some_and(|last| name > last.as_str());
                if local.workers != 0 && !is_beyond && name > &*wanted.after && glob.matches(name) {
                    first.insert(local.channel.clone());
                    if first.len() > limit + 1 {
                        first.pop_last();
                    }
                }
            });
            tokio::task::yield_now().await;
        }
        let is_more = first.len() > limit;
        let names: Arc<[Channel]> = first.into_iter().take(limit).collect();
        let until = names.last().filter(|_| is_more).map(|name| name.as_str().into());
        let count = |inbox: &Arc<Inbox>| {
            let (counted, counts) = oneshot::channel();
            inbox.push(WorkerEvent::Count(names.clone(), counted));
            counts
        };
        let counting: Vec<_> = self.inboxes.iter().map(count).collect();
        let mut sums = vec![0_u32; names.len()];
        for counts in counting {
            // A worker that has stopped has no subscribers.
            for (sum, count) in sums.iter_mut().zip(counts.await.unwrap_or_default()) {
                *sum += count;
            }
        }
        let counted = names.iter().zip(sums).filter(|(_, count)| *count > 0);
        Ok(ChannelsPage {
            channels: counted.map(|(name, count)| (name.as_str().into(), count)).collect(),
            until,
        })
    }

    async fn list_connections(&self, wanted: ConnectionsWanted) -> Result<ConnectionsPage, NodeRequestError> {
        let limit = wanted.limit.clamp(1, PAGE_MAX) as usize;
        let target =
            ControlTarget { user: wanted.user.clone(), client: wanted.client, ..ControlTarget::default() };
        let (workers, mut from) = (self.workers_of(&target), wanted.from);
        let wanted = Arc::new(wanted);
        let mut page = ConnectionsPage::default();
        let mut bytes = 0;
        while let Some(inbox) = self.inboxes.get(usize::from(from.worker)) {
            let mut next = None;
            if workers & (1 << from.worker) != 0 {
                let (listed, listing) = oneshot::channel();
                let left = limit - page.connections.len();
                inbox.push(WorkerEvent::List(wanted.clone(), from.index, left, listed));
                let listed = listing.await.unwrap_or_default();
                bytes += listed.bytes;
                page.connections.extend(listed.connections);
                next = listed.next;
            }
            from = match next {
                Some(index) => ConnectionCursor { index, ..from },
                None => ConnectionCursor { worker: from.worker + 1, index: 0 },
            };
            let is_full = page.connections.len() >= limit || bytes >= PAGE_BYTES_MAX;
            if is_full && usize::from(from.worker) < self.inboxes.len() {
                page.next = Some(from);
                break;
            }
        }
        Ok(page)
    }
}
