//! The clients in a channel: a short list where they are few, as in most channels, and tables where they are many.

use std::collections::{BTreeSet, HashMap};

use shared::id::{ClientId, UserId};
use smallvec::SmallVec;

/// The most clients in a list. Every lookup scans the list.
const LISTED_MAX: usize = 8;

/// The size at which tables become a list again: lower, so that a channel around [`LISTED_MAX`] does not alternate.
const LISTED_AGAIN: usize = LISTED_MAX / 2;

/// A client in a channel.
pub(super) trait RoomMember {
    fn client(&self) -> ClientId;
    fn user(&self) -> &UserId;
}

/// The clients of a channel, each once, and their users.
#[derive(Debug)]
pub(super) struct PresenceRoom<M>(RoomMembers<M>);

#[derive(Debug)]
enum RoomMembers<M> {
    /// Most single-user channels never have a second client: the first one takes no allocation.
    Listed(SmallVec<[M; 1]>),
    InTables(Box<Tables<M>>),
}

#[derive(Debug)]
struct Tables<M> {
    clients: HashMap<ClientId, M>,
    /// The number of clients of each user.
    users: HashMap<UserId, u32>,
}

impl<M> Default for PresenceRoom<M> {
    fn default() -> Self {
        Self(RoomMembers::Listed(SmallVec::new()))
    }
}

impl<M: RoomMember> PresenceRoom<M> {
    /// Adds a client, or replaces it. Returns the user that it had before.
    pub(super) fn add(&mut self, member: M) -> Option<UserId> {
        let replaced = self.remove(member.client());
        match &mut self.0 {
            RoomMembers::Listed(list) if list.len() < LISTED_MAX => list.push(member),
            RoomMembers::Listed(list) => {
                let mut tables = Tables { clients: HashMap::new(), users: HashMap::new() };
                std::mem::take(list).into_iter().chain([member]).for_each(|one| tables.add(one));
                self.0 = RoomMembers::InTables(Box::new(tables));
            }
            RoomMembers::InTables(tables) => tables.add(member),
        }
        replaced
    }

    /// Removes a client. Returns its user, if it was here.
    pub(super) fn remove(&mut self, client: ClientId) -> Option<UserId> {
        match &mut self.0 {
            RoomMembers::Listed(list) => {
                let place = list.iter().position(|member| member.client() == client)?;
                Some(list.swap_remove(place).user().clone())
            }
            RoomMembers::InTables(tables) => {
                let user = tables.remove(client)?;
                if tables.clients.len() <= LISTED_AGAIN {
                    self.0 = RoomMembers::Listed(tables.clients.drain().map(|(_, member)| member).collect());
                }
                Some(user)
            }
        }
    }

    pub(super) fn get(&self, client: ClientId) -> Option<&M> {
        match &self.0 {
            RoomMembers::Listed(list) => list.iter().find(|member| member.client() == client),
            RoomMembers::InTables(tables) => tables.clients.get(&client),
        }
    }

    /// Returns the members in no particular order.
    pub(super) fn members(&self) -> impl Iterator<Item = &M> {
        let (listed, in_tables) = match &self.0 {
            RoomMembers::Listed(list) => (Some(list), None),
            RoomMembers::InTables(tables) => (None, Some(tables.clients.values())),
        };
        listed.into_iter().flatten().chain(in_tables.into_iter().flatten())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members().next().is_none()
    }

    /// Returns the number of clients, and the number of users.
    pub(super) fn counts(&self) -> (usize, usize) {
        match &self.0 {
            RoomMembers::Listed(list) => (list.len(), self.users().len()),
            RoomMembers::InTables(tables) => (tables.clients.len(), tables.users.len()),
        }
    }

    pub(super) fn has_user(&self, user: &UserId) -> bool {
        match &self.0 {
            RoomMembers::Listed(list) => list.iter().any(|member| member.user() == user),
            RoomMembers::InTables(tables) => tables.users.contains_key(user),
        }
    }

    /// Returns the users, each once.
    pub(super) fn users(&self) -> BTreeSet<&UserId> {
        match &self.0 {
            RoomMembers::Listed(list) => list.iter().map(RoomMember::user).collect(),
            RoomMembers::InTables(tables) => tables.users.keys().collect(),
        }
    }
}

impl<M: RoomMember> Tables<M> {
    fn add(&mut self, member: M) {
        *self.users.entry(member.user().clone()).or_default() += 1;
        self.clients.insert(member.client(), member);
    }

    fn remove(&mut self, client: ClientId) -> Option<UserId> {
        let user = self.clients.remove(&client)?.user().clone();
        if let Some(clients) = self.users.get_mut(&user) {
            *clients -= 1;
            if *clients == 0 {
                self.users.remove(&user);
            }
        }
        Some(user)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, PartialEq, Debug)]
    struct One(ClientId, UserId);

    impl RoomMember for One {
        fn client(&self) -> ClientId {
            self.0
        }

        fn user(&self) -> &UserId {
            &self.1
        }
    }

    proptest! {
        /// However many clients come and go, a room gives the same answers as a plain table of clients and users.
        #[test]
        fn a_room_is_what_a_table_is(steps in proptest::collection::vec((any::<bool>(), 0_u128..24, 0..6_u8), 0..200)) {
            let (mut room, mut table) = (PresenceRoom::default(), BTreeMap::new());
            for (comes, client, user) in steps {
                let (client, user) = (ClientId::from_random(client), UserId::new(&user.to_string()));
                let before = if comes {
                    (room.add(One(client, user.clone())), table.insert(client, user.clone()))
                } else {
                    (room.remove(client), table.remove(&client))
                };
                prop_assert_eq!(before.0, before.1);
                let members: BTreeMap<_, _> = room.members().map(|one| (one.0, one.1.clone())).collect();
                prop_assert_eq!(&members, &table);
                let users: BTreeSet<&UserId> = table.values().collect();
                prop_assert_eq!(room.users(), users.clone());
                prop_assert_eq!(room.counts(), (table.len(), users.len()));
                prop_assert_eq!(room.has_user(&user), users.contains(&user));
                prop_assert_eq!(room.get(client).map(|one| &one.1), table.get(&client));
                prop_assert_eq!(room.is_empty(), table.is_empty());
                let (is_listed, length) = (matches!(room.0, RoomMembers::Listed(_)), table.len());
                prop_assert!(length <= LISTED_MAX || !is_listed);
                prop_assert!(length > LISTED_AGAIN || is_listed);
            }
        }
    }
}
