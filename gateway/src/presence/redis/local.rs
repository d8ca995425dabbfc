//! This node's presence entries, and which of them have not been written to Redis yet.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::{Bytes, BytesMut};
use shared::channel::Channel;
use shared::id::{ClientId, UserId};
use shared::publication::{ClientInfo, Payload, Publication};
use shared::record::encode_record;
use tokio::sync::oneshot;

use crate::broker::BrokerError;
use crate::presence::room::{PresenceRoom, RoomMember};

/// The most clients written by one call of the script.
const WRITE_CLIENTS_MAX: usize = 1_000;

/// The most channels without clients that may wait to be removed from Redis. Past it, everything is written again under
/// another name and the old name's lease is ended, which removes them all at once.
const EMPTIED_WAITING_MAX: usize = 100_000;

pub(super) type RedisPresenceWaiter = oneshot::Sender<Result<(), BrokerError>>;

/// The node's entries and their unwritten changes. Bounded by the node's subscriptions, and by the constant above.
#[derive(Debug, Default)]
pub(super) struct RedisPresenceTable {
    rooms: HashMap<Channel, PresenceRoom<LocalMember>>,
    changed: HashMap<Channel, Changed>,
    /// The changed channels, longest waiting first.
    order: VecDeque<Channel>,
    overflowed: bool,
}

#[derive(Debug)]
struct LocalMember {
    client: ClientId,
    user: UserId,
    record: Bytes,
}

impl RoomMember for LocalMember {
    fn client(&self) -> ClientId {
        self.client
    }

    fn user(&self) -> &UserId {
        &self.user
    }
}

#[derive(Debug, Default)]
struct Changed {
    /// Whether the whole channel must be written, because its content in Redis is unknown.
    whole: bool,
    clients: HashSet<ClientId>,
    users: HashSet<UserId>,
    waiters: Vec<RedisPresenceWaiter>,
}

/// A change of one channel, for one call of the script.
#[derive(Debug)]
pub(super) struct PresenceWrite {
    pub(super) channel: Channel,
    pub(super) whole: bool,
    pub(super) set: Vec<(ClientId, Bytes)>,
    pub(super) removed: Vec<ClientId>,
    pub(super) users_set: Vec<UserId>,
    pub(super) users_removed: Vec<UserId>,
    pub(super) waiters: Vec<RedisPresenceWaiter>,
}

impl RedisPresenceTable {
    pub(super) fn add(&mut self, channel: Channel, info: ClientInfo, waiter: RedisPresenceWaiter) {
        let (client, user) = (info.client, info.user.clone());
        let record = encode(info);
        let room = self.rooms.entry(channel.clone()).or_default();
        let replaced = room.add(LocalMember { client, user: user.clone(), record });
        let changed = self.change(channel);
        changed.clients.insert(client);
        changed.users.insert(user);
        changed.users.extend(replaced);
        changed.waiters.push(waiter);
    }

    pub(super) fn remove(&mut self, channel: Channel, client: ClientId) {
        let Some(room) = self.rooms.get_mut(&channel) else { return };
        let Some(user) = room.remove(client) else { return };
        if room.is_empty() {
            self.rooms.remove(&channel);
        }
        let changed = self.change(channel);
        changed.clients.insert(client);
        changed.users.insert(user);
        self.bound_emptied();
    }

    /// Marks every channel to be written from scratch.
    pub(super) fn change_all(&mut self) {
        for channel in self.rooms.keys().cloned().collect::<Vec<_>>() {
            self.change_whole(channel);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Marks a channel to be written from scratch.
    pub(super) fn change_whole(&mut self, channel: Channel) {
        let changed = self.change(channel);
        changed.whole = true;
        self.bound_emptied();
    }

    /// Returns whether too many changes have waited, and resets that. The caller must then change names.
    pub(super) fn take_overflowed(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    pub(super) fn has_changes(&self) -> bool {
        !self.order.is_empty()
    }

    pub(super) fn channels(&self) -> Vec<Channel> {
        self.rooms.keys().cloned().collect()
    }

    pub(super) fn holds(&self, channel: &Channel) -> bool {
        self.rooms.contains_key(channel)
    }

    /// Takes the changes that have waited longest, of at most `channels_max` channels.
    pub(super) fn take(&mut self, channels_max: usize) -> Vec<PresenceWrite> {
        let mut writes = Vec::new();
        for _ in 0..channels_max {
            let Some(channel) = self.order.pop_front() else { break };
            let Some(changed) = self.changed.remove(&channel) else { continue };
            let (write, rest) = self.make_write(channel, changed);
            if let Some(rest) = rest {
                self.order.push_back(write.channel.clone());
                self.changed.insert(write.channel.clone(), rest);
            }
            writes.push(write);
        }
        writes
    }

    /// Returns as much of a change as fits into one call, and the rest for later.
    fn make_write(&self, channel: Channel, changed: Changed) -> (PresenceWrite, Option<Changed>) {
        let Changed { whole, mut clients, users, mut waiters } = changed;
        let mut write = PresenceWrite {
            channel,
            whole,
            set: Vec::new(),
            removed: Vec::new(),
            users_set: Vec::new(),
            users_removed: Vec::new(),
            waiters: Vec::new(),
        };
        let Some(room) = self.rooms.get(&write.channel) else {
            // No client is left: writing the channel from scratch, with nothing, removes it.
            write.whole = true;
            write.waiters = waiters;
            return (write, None);
        };
        if whole {
            clients = room.members().map(|present| present.client).collect();
        }
        let mut later = Changed::default();
        for client in clients {
            if write.set.len() + write.removed.len() == WRITE_CLIENTS_MAX {
                later.clients.insert(client);
                continue;
            }
            match room.get(client) {
                Some(present) => write.set.push((client, present.record.clone())),
                None => write.removed.push(client),
            }
        }
        // A user's entry depends on all of its clients here, so it is written together with the last of them. A room
        // written from scratch names all its users.
        let users = if whole { room.users().into_iter().cloned().collect() } else { users };
        for user in users {
            if !later.clients.is_empty()
                || write.users_set.len() + write.users_removed.len() == WRITE_CLIENTS_MAX
            {
                later.users.insert(user);
            } else if room.has_user(&user) {
                write.users_set.push(user);
            } else {
                write.users_removed.push(user);
            }
        }
        if later.clients.is_empty() && later.users.is_empty() {
            write.waiters = waiters;
            return (write, None);
        }
        later.waiters.append(&mut waiters);
        (write, Some(later))
    }

    fn change(&mut self, channel: Channel) -> &mut Changed {
        if !self.changed.contains_key(&channel) {
            self.order.push_back(channel.clone());
        }
        self.changed.entry(channel).or_default()
    }

    /// Bounds the emptied channels: changed channels without a room.
    fn bound_emptied(&mut self) {
        if self.order.len() > self.rooms.len() + EMPTIED_WAITING_MAX {
            self.overflowed = true;
            self.order.retain(|channel| self.rooms.contains_key(channel));
            self.changed.retain(|channel, _| self.rooms.contains_key(channel));
            self.change_all();
        }
    }
}

/// Encodes client info as a record with no payload.
fn encode(info: ClientInfo) -> Bytes {
    let mut publication = Publication::new(Payload::binary(Bytes::new()));
    publication.info = Some(info);
    let mut record = BytesMut::new();
    encode_record(&publication, &mut record);
    record.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(number: usize) -> Channel {
        Channel::parse(&format!("c{number}"), 255).unwrap()
    }

    fn info(client: u128, user: &str) -> ClientInfo {
        let client = ClientId::from_random(client);
        ClientInfo { client, user: UserId::new(user), conn_info: None, chan_info: None }
    }

    fn add(local: &mut RedisPresenceTable, number: usize, info: ClientInfo) {
        local.add(channel(number), info, oneshot::channel().0);
    }

    #[test]
    fn a_user_goes_with_the_last_of_its_clients() {
        let mut local = RedisPresenceTable::default();
        add(&mut local, 1, info(1, "ann"));
        add(&mut local, 1, info(2, "ann"));
        let writes = local.take(10);
        assert_eq!((writes[0].set.len(), writes[0].users_set.len(), writes[0].waiters.len()), (2, 1, 2));
        assert!(!local.has_changes());

        local.remove(channel(1), info(1, "").client);
        let writes = local.take(10);
        assert_eq!((writes[0].removed.len(), writes[0].users_set.len()), (1, 1));
        assert!(!writes[0].whole && writes[0].users_removed.is_empty());

        add(&mut local, 1, info(3, "bob"));
        local.remove(channel(1), info(2, "").client);
        let writes = local.take(10);
        assert_eq!(writes[0].users_removed, [UserId::new("ann")]);
        assert_eq!(writes[0].users_set, [UserId::new("bob")]);
    }

    #[test]
    fn a_client_that_changes_its_user_leaves_the_old_one() {
        let mut local = RedisPresenceTable::default();
        add(&mut local, 1, info(1, "ann"));
        local.take(10);
        add(&mut local, 1, info(1, "bob"));
        let writes = local.take(10);
        assert_eq!(writes[0].users_removed, [UserId::new("ann")]);
        assert_eq!(writes[0].users_set, [UserId::new("bob")]);
        assert_eq!(writes[0].set.len(), 1);
    }

    #[test]
    fn an_emptied_channel_is_removed_whole() {
        let mut local = RedisPresenceTable::default();
        add(&mut local, 1, info(1, "ann"));
        local.remove(channel(1), info(1, "").client);
        local.remove(channel(1), info(1, "").client);
        let writes = local.take(10);
        assert_eq!(writes.len(), 1);
        assert!(writes[0].whole && writes[0].set.is_empty());
        assert!(local.channels().is_empty());
    }

    #[test]
    fn a_large_room_is_written_in_parts_that_add_up() {
        let mut local = RedisPresenceTable::default();
        let count = WRITE_CLIENTS_MAX * 2 + 5;
        for number in 0..count {
            add(&mut local, 1, info(number as u128, &number.to_string()));
        }
        local.take(1);
        local.change_whole(channel(1));
        let (mut clients, mut users, mut wholes) = (HashSet::new(), HashSet::new(), 0);
        while local.has_changes() {
            for write in local.take(10) {
                assert!(write.set.len() <= WRITE_CLIENTS_MAX && write.users_set.len() <= WRITE_CLIENTS_MAX);
                wholes += usize::from(write.whole);
                clients.extend(write.set.into_iter().map(|(client, _)| client));
                users.extend(write.users_set);
            }
        }
        assert_eq!((clients.len(), users.len(), wholes), (count, count, 1));
    }

    #[test]
    fn too_many_emptied_channels_are_given_up_together() {
        let mut local = RedisPresenceTable::default();
        add(&mut local, 0, info(1, "ann"));
        for number in 1..=EMPTIED_WAITING_MAX {
            add(&mut local, number, info(1, "ann"));
            local.remove(channel(number), info(1, "").client);
        }
        assert!(!local.take_overflowed());
        add(&mut local, 1, info(1, "ann"));
        local.remove(channel(1), info(1, "").client);
        add(&mut local, EMPTIED_WAITING_MAX + 1, info(1, "ann"));
        local.remove(channel(EMPTIED_WAITING_MAX + 1), info(1, "").client);
        assert!(local.take_overflowed());
        assert!(!local.take_overflowed());
        let writes = local.take(10);
        assert_eq!(writes.len(), 1);
        assert!(writes[0].whole && writes[0].set.len() == 1);
    }
}
