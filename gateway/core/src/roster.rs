//! The members of a channel, by user. A node derives them from the joins and leaves of clients, and from presence where
//! joins and leaves may have been missed, for subscribers that are told of users.
//!
//! A user is a member from its first client to its last. Joins and leaves of different clients come in any order, those of
//! one client in theirs. So the roster keeps clients, and counts them by user.

use std::time::Duration;

use rustc_hash::FxHashMap;
use shared::id::{ClientId, UserId};
use shared::moment::Moment;
use shared::publication::ClientInfo;
use shared::push::OwnedEvent;

use crate::effect::ChannelMembers;

/// How long a join or leave of a client outweighs what is read from presence: a read may have begun before it.
pub const TRUSTED: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Roster {
    clients: FxHashMap<ClientId, Client>,
    users: FxHashMap<UserId, User>,
    /// Clients that have left, and when. A presence read may still show them.
    left: FxHashMap<ClientId, Moment>,
    /// Whether presence was read at least once.
    complete: bool,
    version: u64,
}

#[derive(Debug)]
struct Client {
    user: UserId,
    /// When its join came. `None`: it was read from presence.
    joined_at: Option<Moment>,
}

#[derive(Debug)]
struct User {
    clients: u32,
    /// The client that represents the user.
    info: ClientInfo,
}

impl Roster {
    /// Whether the roster also includes clients that joined before it was made.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Returns how many changes there have been.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the members, ordered by user.
    pub fn members(&self) -> ChannelMembers {
        let mut clients: Vec<ClientInfo> = self.users.values().map(|user| user.info.clone()).collect();
        clients.sort_by(|one, other| one.user.cmp(&other.user));
        ChannelMembers { clients, version: self.version }
    }

    /// Whether the channel has no members.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    pub fn has_user(&self, user: &UserId) -> bool {
        self.users.contains_key(user)
    }

    /// Handles the join of a client, and returns the user that is added by it. Anonymous clients are no members.
    pub fn joined(&mut self, now: Moment, info: ClientInfo) -> Option<OwnedEvent> {
        self.left.remove(&info.client);
        if let Some(client) = self.clients.get_mut(&info.client) {
            client.joined_at = Some(now);
            return None;
        }
        self.add(info, Some(now))
    }

    /// Handles the leave of a client, and returns the user that is removed by it.
    pub fn left(&mut self, now: Moment, client: ClientId) -> Option<OwnedEvent> {
        if self.left.len() == self.left.capacity() {
            // Cleaned only when it would grow: many clients can leave at once.
            self.left.retain(|_, at| now.since(*at) < TRUSTED);
        }
        self.left.insert(client, now);
        self.remove(client)
    }

    /// Takes in presence from a read that began within [`TRUSTED`], and returns what has changed.
    pub fn read(
        &mut self,
        now: Moment,
        present: impl IntoIterator<Item = (ClientId, ClientInfo)>,
    ) -> Vec<OwnedEvent> {
        self.complete = true;
        let is_recent = |at: &Moment| now.since(*at) < TRUSTED;
        let mut present: FxHashMap<ClientId, ClientInfo> = present.into_iter().collect();
        self.left.retain(|client, at| is_recent(at) && present.remove(client).is_some());
        let gone = self.clients.iter().filter(|(client, known)| {
            !present.contains_key(*client) && !known.joined_at.as_ref().is_some_and(is_recent)
        });
        let gone: Vec<ClientId> = gone.map(|(client, _)| *client).collect();
        let come = present.into_values().filter(|info| !self.clients.contains_key(&info.client));
        let come: Vec<ClientInfo> = come.collect();
        // Additions first: a user that only has another client by now has not been away.
        let mut changes: Vec<OwnedEvent> = come.into_iter().filter_map(|info| self.add(info, None)).collect();
        changes.extend(gone.into_iter().filter_map(|client| self.remove(client)));
        changes
    }

    fn add(&mut self, info: ClientInfo, joined_at: Option<Moment>) -> Option<OwnedEvent> {
        if info.user.is_anonymous() {
            return None;
        }
        self.clients.insert(info.client, Client { user: info.user.clone(), joined_at });
        if let Some(user) = self.users.get_mut(&info.user) {
            user.clients += 1;
            return None;
        }
        self.users.insert(info.user.clone(), User { clients: 1, info: info.clone() });
        self.version += 1;
        Some(OwnedEvent::MemberAdded { info, version: self.version })
    }

    fn remove(&mut self, client: ClientId) -> Option<OwnedEvent> {
        let user = self.clients.remove(&client)?.user;
        let user_entry = self.users.get_mut(&user)?;
        user_entry.clients -= 1;
        if user_entry.clients > 0 {
            return None;
        }
        self.users.remove(&user);
        self.version += 1;
        Some(OwnedEvent::MemberRemoved { user, version: self.version })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn info(client: u8, user: &str) -> ClientInfo {
        let client = ClientId::from_bits(client.into());
        ClientInfo { client, user: UserId::new(user), conn_info: None, chan_info: None }
    }

    fn present(clients: &[(u8, &str)]) -> Vec<(ClientId, ClientInfo)> {
        clients.iter().map(|(client, user)| info(*client, user)).map(|info| (info.client, info)).collect()
    }

    fn ids(number: u8) -> ClientId {
        ClientId::from_bits(number.into())
    }

    fn added(client: u8, user: &str, version: u64) -> OwnedEvent {
        OwnedEvent::MemberAdded { info: info(client, user), version }
    }

    fn removed(user: &str, version: u64) -> OwnedEvent {
        OwnedEvent::MemberRemoved { user: UserId::new(user), version }
    }

    const NOW: Moment = Moment(100_000);
    const LATER: Moment = Moment(200_000);

    #[test]
    fn a_user_comes_with_its_first_client_and_goes_with_its_last() {
        let mut roster = Roster::default();
        assert_eq!(roster.joined(NOW, info(1, "ann")), Some(added(1, "ann", 1)));
        assert_eq!(roster.joined(NOW, info(2, "ann")), None);
        assert_eq!(roster.joined(NOW, info(2, "ann")), None, "said twice");
        assert_eq!(roster.left(NOW, ids(1)), None);
        assert_eq!(roster.left(NOW, ids(1)), None);
        assert_eq!(roster.left(NOW, ids(2)), Some(removed("ann", 2)));
        assert_eq!(roster.version(), 2);
        assert!(roster.members().clients.is_empty() && roster.clients.is_empty());
    }

    #[test]
    fn nobody_in_particular_is_no_member() {
        let mut roster = Roster::default();
        assert_eq!(roster.joined(NOW, info(1, "")), None);
        assert_eq!(roster.read(NOW, present(&[(1, "")])), []);
        assert_eq!(roster.left(NOW, ids(1)), None);
        assert_eq!(roster.members().clients, []);
    }

    #[test]
    fn clients_of_a_node_that_died_go_when_presence_forgets_them() {
        let mut roster = Roster::default();
        roster.joined(NOW, info(1, "ann"));
        roster.joined(NOW, info(2, "bob"));
        let gone = roster.read(LATER, present(&[(1, "ann")]));
        assert_eq!(gone, [removed("bob", 3)]);
        assert!(roster.is_complete());
    }

    #[test]
    fn a_user_that_has_another_client_by_now_has_not_been_away() {
        let mut roster = Roster::default();
        roster.joined(NOW, info(1, "ann"));
        assert_eq!(roster.read(LATER, present(&[(2, "ann")])), []);
        assert_eq!(roster.members().clients.len(), 1);
    }

    #[test]
    fn what_was_just_said_counts_more_than_what_a_read_shows() {
        let mut roster = Roster::default();
        roster.joined(NOW, info(1, "ann"));
        assert_eq!(roster.read(NOW, present(&[])), [], "it is not written yet");
        roster.left(NOW, ids(1));
        assert_eq!(roster.read(NOW, present(&[(1, "ann")])), [], "it is not removed yet");
        assert_eq!(roster.read(LATER, present(&[(1, "ann")])), [added(1, "ann", 3)]);
    }

    proptest! {
        #[test]
        fn whatever_happens_a_read_long_after_makes_it_what_presence_says(
            steps in prop::collection::vec((0_u8..3, 0_u8..6, 0_u8..3), 0..40),
            last in prop::collection::btree_map(0_u8..6, 0_u8..3, 0..6),
        ) {
            let user = |number: u8| ["ann", "bob", ""][usize::from(number)];
            // A client always belongs to the same user.
            let mut of: BTreeMap<u8, u8> = last.clone();
            let mut roster = Roster::default();
            let mut there = BTreeSet::new();
            let mut follow = |change: Option<OwnedEvent>| match change {
                Some(OwnedEvent::MemberAdded { info, .. }) => assert!(there.insert(info.user)),
                Some(OwnedEvent::MemberRemoved { user, .. }) => assert!(there.remove(&user)),
                _ => {}
            };
            for (what, client, number) in steps {
                let number = *of.entry(client).or_insert(number);
                match what {
                    0 => follow(roster.joined(NOW, info(client, user(number)))),
                    1 => follow(roster.left(NOW, ids(client))),
                    _ => roster.read(NOW, present(&[(client, user(number))])).into_iter()
                        .for_each(|change| follow(Some(change))),
                }
            }
            let clients: Vec<(u8, &str)> =
                last.iter().map(|(client, number)| (*client, user(*number))).collect();
            roster.read(LATER, present(&clients)).into_iter().for_each(|change| follow(Some(change)));
            let expected: BTreeSet<UserId> =
                clients.iter().map(|(_, user)| UserId::new(user)).filter(|user| !user.is_anonymous()).collect();
            let announced: BTreeSet<UserId> =
                roster.members().clients.into_iter().map(|member| member.user).collect();
            prop_assert_eq!(&announced, &expected);
            prop_assert_eq!(&there, &expected, "subscribers were told all of it");
        }
    }
}
