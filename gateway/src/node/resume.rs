//! Resumes a client's earlier session, which another node may have held: whether that is possible, and what the client
//! missed.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt;
use gateway_core::channel_rules::ChannelRules;
use gateway_core::effect::Resumed;
use gateway_core::history::{HistoryFilter, HistoryPage};
use gateway_core::recovery::is_recovered;
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::command::Since;
use shared::disconnect::Disconnect;
use shared::id::ClientId;
use shared::position::StreamPosition;
use shared::protocol::socketio::{Namespace, Resume, UnusableOffset};
use shared::publication::Publication;

use crate::client::ClientKey;
use crate::node::Node;
use crate::node::control::ControlTarget;
use crate::node::node_message::{ClientCommand, NodeRequest};
use crate::sessions::{Holder, SessionHolder, SessionRecord, StoredSession};
use crate::worker::inbox::WorkerEvent;

/// The most histories read at once for one client.
const READ_AT_ONCE: usize = 8;
/// How long to wait for the client's earlier connection to be closed: a node that is alive closes it at once.
const DISPLACE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often to check whether a connection still holds its session, while the store does not answer.
const CHECKS_MAX: u32 = 5;

/// A client's request to resume a session.
#[derive(Debug)]
pub(crate) struct ResumeRequest<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) resume: &'a Resume,
    pub(crate) user: &'a str,
    /// The client's id on this connection, if others know it already.
    pub(crate) own: Option<ClientId>,
    pub(crate) by: &'a SessionHolder,
    /// The most publications read from each channel.
    pub(crate) limit: u32,
    /// If more bytes than this were missed, they are read in pieces, channel by channel.
    pub(crate) bytes_max: usize,
}

/// A session that can be resumed.
#[derive(Debug)]
pub(crate) struct ResumableSession {
    pub(crate) record: SessionRecord,
    pub(crate) resumed: Resumed,
    /// The client's positions before the publications it missed.
    pub(crate) positions: Vec<(Channel, StreamPosition)>,
    before: Holder,
}

/// Why a session cannot be resumed, so that the client starts a new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unrecovered {
    /// There is no such session: the client was away for too long, has left for good, or sent an invalid id.
    Unknown,
    OtherUser,
    /// The connection already has another client id, in a namespace that it joined before.
    OtherClient,
    /// The client's offset is invalid.
    Offset,
    /// The stored session is older than what the client has received.
    Stale,
    /// The publications that the client missed are no longer in history.
    History,
    /// Another connection took the session first.
    Taken,
    /// The store does not answer.
    Unreachable,
}

impl Unrecovered {
    /// Returns the value of the metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::OtherUser => "other_user",
            Self::OtherClient => "other_client",
            Self::Offset => "offset",
            Self::Stale => "stale",
            Self::History => "history",
            Self::Taken => "taken",
            Self::Unreachable => "unreachable",
        }
    }
}

impl From<UnusableOffset> for Unrecovered {
    fn from(unusable: UnusableOffset) -> Self {
        match unusable {
            UnusableOffset::Malformed => Self::Offset,
            UnusableOffset::Newer => Self::Stale,
        }
    }
}

impl Node {
    /// Reads a session and everything its client missed. Nothing is changed by that.
    pub(crate) async fn find_session(
        &self,
        wanted: &ResumeRequest<'_>,
    ) -> Result<ResumableSession, Unrecovered> {
        let ResumeRequest { namespace, resume, user, own, by, .. } = wanted;
        let stored = self.sessions.read(&resume.pid).await.map_err(|_| Unrecovered::Unreachable)?;
        // This connection may take up a session of its own only if the application did not admit it then.
        let may_take = |stored: &StoredSession| {
            stored.holder != by.holder || self.sessions.may_take_up(&resume.pid, by.holder)
        };
        let stored = stored.filter(may_take).ok_or(Unrecovered::Unknown)?;
        let record = SessionRecord::decode(&stored.value).ok_or(Unrecovered::Unknown)?;
        if *record.namespace != *namespace.name() {
            return Err(Unrecovered::Unknown);
        }
        if *record.user != **user {
            return Err(Unrecovered::OtherUser);
        }
        if own.is_some_and(|own| own != record.client) {
            return Err(Unrecovered::OtherClient);
        }
        let rules = self.rules();
        let positions = record.offsets.positions(resume)?;
        let positions = positions.into_iter().map(|(name, position)| {
            let channel = Channel::parse_unicode(name, CHANNEL_BYTES_MAX).ok()?;
            Some((channel, position))
        });
        let positions: Vec<_> = positions.collect::<Option<_>>().ok_or(Unrecovered::Unknown)?;
        let pages = self.read_missed(&rules, &positions, wanted.limit).await?;
        let resumed = resumed(namespace, record.client, pages, &positions, wanted.bytes_max)?;
        Ok(ResumableSession { record, resumed, positions, before: stored.holder })
    }

    async fn read_missed(
        &self,
        rules: &ChannelRules,
        positions: &[(Channel, StreamPosition)],
        limit: u32,
    ) -> Result<Vec<HistoryPage>, Unrecovered> {
        let reads = positions.iter().map(|(channel, position)| {
            let options = rules.options(channel).filter(|options| options.keeps_sessions).cloned();
            async move {
                let retention = options.ok_or(Unrecovered::History)?.retention();
                let filter =
                    HistoryFilter { since: Some(position.offset), limit, ..HistoryFilter::default() };
                let page = self.history(channel.clone(), filter, retention).await;
                let page = page.map_err(|_| Unrecovered::Unreachable)?;
                let is_all = is_recovered(&since(*position), &page);
                if is_all { Ok(page) } else { Err(Unrecovered::History) }
            }
        });
        // Collected before they are run: a stream of closures would borrow for too long.
        let reads: Vec<_> = reads.collect();
        let read: Vec<_> = futures_util::stream::iter(reads).buffered(READ_AT_ONCE).collect().await;
        read.into_iter().collect()
    }

    /// Assigns the session to this connection, and closes the connection that held it before.
    pub(crate) async fn take_session(
        &self,
        pid: &str,
        found: &ResumableSession,
        by: &SessionHolder,
        recovery: Duration,
    ) -> Result<(), Unrecovered> {
        let record = SessionRecord { node: (*self.id.0).into(), ..found.record.clone() };
        let taken = self.sessions.take(pid, found.before, by, record.encode(), recovery).await;
        if !taken.map_err(|_| Unrecovered::Unreachable)? {
            return Err(Unrecovered::Taken);
        }
        if found.before == by.holder {
            return Ok(());
        }
        // Only the earlier holder is closed. If several connections resume at once, the last one keeps the client id.
        let (client, before) = (Some(record.client), Some(found.before));
        let target = ControlTarget { client, holder: before, ..ControlTarget::default() };
        let close = NodeRequest::Act(target, ClientCommand::Disconnect(Disconnect::CONNECTION_LIMIT));
        // A node that is gone holds no connection. A node that hangs closes the connection before it does anything else for
        // it.
        let closed = tokio::time::timeout(DISPLACE_TIMEOUT, self.ask(&found.record.node, close)).await;
        if !matches!(closed, Ok(Ok(_))) {
            tracing::debug!(?closed, "the connection that a client had before was not closed by its node");
        }
        Ok(())
    }
}

impl Node {
    /// Closes this connection if another has taken its session. The other may have done so before this connection became the
    /// client, and then found nobody to close.
    pub(crate) async fn close_unless_holder(
        &self,
        pids: &[Box<str>],
        SessionHolder { holder, key, .. }: &SessionHolder,
    ) {
        for pid in pids {
            for _ in 0..CHECKS_MAX {
                match self.sessions.read(pid).await {
                    Ok(Some(stored)) if stored.holder != *holder => return self.displace(*key),
                    Ok(_) => break,
                    Err(_) => tokio::time::sleep(DISPLACE_TIMEOUT).await,
                }
            }
        }
    }

    /// Maintains the sessions of this node's clients until the runtime ends.
    pub(crate) async fn keep_sessions(&self) {
        self.sessions.keep(|key| self.displace(key)).await;
    }

    /// Writes all pending changes of sessions now.
    pub(crate) async fn settle_sessions(&self) {
        self.sessions.settle(|key| self.displace(key)).await;
    }

    /// Tells the worker that the connection's session now belongs to another.
    pub(crate) fn displace(&self, key: ClientKey) {
        if let Some(inbox) = self.inboxes.get(key.worker as usize) {
            inbox.push(WorkerEvent::Displaced(key));
        }
    }
}

fn since(position: StreamPosition) -> Since {
    Since { offset: position.offset, epoch: position.epoch.as_str().into() }
}

/// Returns the reply to the client, with the position it continues from in each of its channels.
fn resumed(
    namespace: &Namespace,
    client: ClientId,
    pages: Vec<HistoryPage>,
    positions: &[(Channel, StreamPosition)],
    bytes_max: usize,
) -> Result<Resumed, Unrecovered> {
    let bytes: usize = pages.iter().flat_map(|page| &page.publications).map(|one| one.data.bytes.len()).sum();
    let all_at_once = bytes <= bytes_max;
    let (all, mut of_all) = (namespace.channel(), None);
    let mut rooms = Vec::new();
    for ((channel, position), page) in positions.iter().zip(&pages) {
        let since = since(if all_at_once { page.top } else { *position });
        match channel.as_str() == all {
            true => of_all = Some(since),
            false => rooms.push((channel.clone(), since)),
        }
    }
    let is_in = |channel: &Channel| positions.iter().any(|(one, _)| one == channel);
    let is_meant = |one: &Publication| {
        one.except.as_deref() != Some(&client)
            && one.only.as_deref().is_none_or(|only| only.includes(client, is_in))
    };
    let pages = pages.into_iter().filter(|_| all_at_once).zip(positions);
    let missed = pages.map(|(page, (channel, _))| (channel, page.publications.into()));
    let mut missed: Vec<(&Channel, VecDeque<Publication>)> = missed.collect();
    let mut in_order = Vec::new();
    // Merges the channels by time; within a channel the order stays.
    while let Some((channel, next)) = missed
        .iter_mut()
        .filter_map(|(channel, left)| Some((*channel, left.front()?.time_ms, left)))
        .min_by_key(|(_, time_ms, _)| *time_ms)
        .and_then(|(channel, _, left)| Some((channel, left.pop_front()?)))
    {
        if is_meant(&next) {
            in_order.push((channel.clone(), next));
        }
    }
    // Every client of a namespace is in the channel of all.
    let since = of_all.ok_or(Unrecovered::Unknown)?;
    Ok(Resumed { client, since, rooms, missed: in_order })
}

#[cfg(test)]
mod tests {
    use shared::position::Epoch;
    use shared::protocol::socketio::{NamespaceAccess, Namespaces, Routes};
    use shared::publication::{Payload, Selection};

    use super::*;

    fn at(offset: u64) -> StreamPosition {
        StreamPosition { offset, epoch: Epoch::parse("life").unwrap() }
    }

    fn page(times: &[u64], top: u64) -> HistoryPage {
        let first = top - times.len() as u64;
        let publications = times.iter().zip(first + 1..).map(|(time_ms, offset)| Publication {
            time_ms: *time_ms,
            position: Some(at(offset)),
            ..Publication::new(Payload::json(time_ms.to_string()))
        });
        HistoryPage { publications: publications.collect(), top: at(top) }
    }

    fn channel(name: &str) -> Channel {
        Channel::parse(name, 255).unwrap()
    }

    fn of(pages: Vec<HistoryPage>, bytes_max: usize) -> Resumed {
        let mut namespaces = Namespaces::new(":");
        namespaces.add("/", "socketio", NamespaceAccess::default(), Routes::default());
        let positions = [(channel("socketio:*"), at(3)), (channel("socketio:room"), at(7))];
        let namespace = namespaces.named("/").unwrap();
        resumed(namespace, ClientId::from_random(1), pages, &positions, bytes_max).unwrap()
    }

    #[test]
    fn what_was_missed_is_told_in_the_order_in_which_it_was_made() {
        // A time that goes back does not change the order within a channel.
        let resumed = of(vec![page(&[10, 30, 20], 6), page(&[15, 40], 9)], 1_000);
        let told: Vec<String> = resumed
            .missed
            .iter()
            .map(|(channel, one)| format!("{channel} {}", String::from_utf8_lossy(&one.data.bytes)))
            .collect();
        let [all, room] = ["socketio:*", "socketio:room"];
        let expected = [(all, 10), (room, 15), (all, 30), (all, 20), (room, 40)]
            .map(|(channel, time)| format!("{channel} {time}"));
        assert_eq!(told, expected);
        assert_eq!((resumed.since.offset, resumed.rooms[0].1.offset), (6, 9));
    }

    #[test]
    fn what_is_too_much_at_once_is_left_to_be_read_piece_by_piece() {
        let resumed = of(vec![page(&[10, 30], 5), page(&[15], 8)], 5);
        assert_eq!((resumed.missed.len(), resumed.since.offset, resumed.rooms[0].1.offset), (0, 3, 7));
    }

    #[test]
    fn what_was_for_others_is_left_out() {
        let own = ClientId::from_random(1);
        let (mut all, rooms) = (page(&[1, 2, 3, 4, 5], 8), page(&[], 7));
        let to = |channels: &[&str], clients: &[ClientId], except: &[&str]| {
            Some(Box::new(Selection {
                channels: channels.iter().map(|name| channel(name)).collect(),
                clients: clients.into(),
                except_channels: except.iter().map(|name| channel(name)).collect(),
                ..Selection::default()
            }))
        };
        all.publications[0].except = Some(Box::new(own));
        all.publications[1].only = to(&["socketio:room", "socketio:x"], &[], &[]);
        all.publications[2].only = to(&["socketio:x"], &[], &[]);
        all.publications[3].only = to(&[], &[own], &[]);
        all.publications[4].only = to(&[], &[], &["socketio:room"]);
        let resumed = of(vec![all, rooms], 1_000);
        let times: Vec<u64> = resumed.missed.iter().map(|(_, one)| one.time_ms).collect();
        assert_eq!(times, [2, 4]);
    }
}
