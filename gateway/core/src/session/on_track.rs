//! Keys of polled channels that a client follows. Following a key begins with the application's signature and ends when
//! the signature has expired.

use std::collections::BTreeMap;

use shared::channel::Channel;
use shared::command::TrackBatch;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::reply::Answer;
use smallvec::SmallVec;

use super::on_connect::remaining;
use super::session_state::PendingEffect;
use super::{EXPIRY_MAX, NEVER, Session};
use crate::effect::{Effect, Verified};
use crate::poll::KEY_BYTES_MAX;

/// The end of each key's signature.
type SignatureEnds = BTreeMap<Box<str>, Moment>;

/// The keys that the client follows, by channel.
#[derive(Debug, Default)]
pub(super) struct Tracking(SmallVec<[(Channel, SignatureEnds); 1]>);

impl Tracking {
    fn keys(&self, channel: &Channel) -> Option<&SignatureEnds> {
        self.0.iter().find(|(of, _)| of == channel).map(|(_, keys)| keys)
    }

    fn keys_mut(&mut self, channel: &Channel) -> Option<&mut SignatureEnds> {
        self.0.iter_mut().find(|(of, _)| of == channel).map(|(_, keys)| keys)
    }
}

impl Session {
    pub(super) fn on_track(
        &mut self,
        now: Moment,
        id: u32,
        channel: &str,
        batches: Vec<TrackBatch>,
        untrack: Vec<Box<str>>,
    ) {
        let Some(channel) = self.polled_channel(now, id, channel) else { return };
        let mut keys = batches.iter().flat_map(|batch| &batch.items).map(|(key, _)| &**key).peekable();
        let is_key = |key: &str| (1..=KEY_BYTES_MAX).contains(&key.len());
        if keys.peek().is_none() || !keys.all(is_key) {
            return self.refuse(now, id, ErrorCode::BadRequest);
        }
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::Track { channel: channel.clone(), untrack });
        self.effects.push_back(Effect::Verify { ticket, channel, batches });
    }

    pub(super) fn on_verified(
        &mut self,
        now: Moment,
        id: u32,
        channel: &Channel,
        untrack: Vec<Box<str>>,
        result: Result<Vec<Verified>, ErrorCode>,
    ) {
        let verified = match result {
            Ok(verified) => verified,
            Err(error) => return self.refuse(now, id, error),
        };
        // The subscription may have ended while the signatures were verified.
        if self.find_live(channel.as_str()).is_none() {
            return self.refuse(now, id, ErrorCode::PermissionDenied);
        }
        // If a key is there twice, the last one counts.
        let mut wanted: BTreeMap<Box<str>, (u64, Moment)> = BTreeMap::new();
        let mut first_end: Option<Moment> = None;
        for Verified { items, expires } in verified {
            let expires = expires.map(|expires| expires.min(now + EXPIRY_MAX));
            first_end = [first_end, expires].into_iter().flatten().min();
            let end = expires.map_or(NEVER, |expires| expires + self.context.settings.expired_close_delay());
            wanted.extend(items.into_iter().map(|(key, version)| (key, (version, end))));
        }
        for key in &untrack {
            wanted.remove(key);
        }
        let given_up = self.take_tracked(channel, untrack);
        let known = self.tracking.as_ref().and_then(|tracking| tracking.keys(channel));
        let more = wanted.keys().filter(|key| known.is_none_or(|known| !known.contains_key(*key))).count();
        let keys_max = self.keys_max(channel);
        if known.map_or(0, SignatureEnds::len) + more > keys_max {
            self.refuse(now, id, ErrorCode::LimitExceeded);
        } else {
            let expires = first_end.map(|end| remaining(now, end));
            self.answer(id, Answer::SubRefresh { expires, items: Vec::new() });
            self.begin_tracking(channel, wanted);
        }
        if !given_up.is_empty() {
            self.after_replies(Effect::Unfollow { channel: channel.clone(), keys: given_up });
        }
        self.reckon_expiry();
    }

    pub(super) fn on_untrack(&mut self, now: Moment, id: u32, channel: &str, keys: Vec<Box<str>>) {
        let Some(channel) = self.polled_channel(now, id, channel) else { return };
        if keys.is_empty() {
            return self.refuse(now, id, ErrorCode::BadRequest);
        }
        let keys = self.take_tracked(&channel, keys);
        if !keys.is_empty() {
            self.after_replies(Effect::Unfollow { channel, keys });
            self.reckon_expiry();
        }
        self.answer(id, Answer::SubRefresh { expires: None, items: Vec::new() });
    }

    /// Forgets a key that was removed and whose followers have been told.
    pub fn handle_key_removed(&mut self, channel: &Channel, key: &str) {
        if let Some(keys) = self.tracking.as_mut().and_then(|tracking| tracking.keys_mut(channel)) {
            keys.remove(key);
        }
    }

    /// Forgets all keys of a channel whose subscription has ended.
    pub(super) fn forget_tracking(&mut self, channel: &Channel) {
        if let Some(tracking) = &mut self.tracking {
            tracking.0.retain(|(of, _)| of != channel);
            if tracking.0.is_empty() {
                self.tracking = None;
            }
        }
    }

    /// Returns when the first signature has been expired for too long.
    pub(super) fn tracking_end(&self) -> Option<Moment> {
        let tracking = self.tracking.as_ref()?;
        tracking.0.iter().flat_map(|(_, keys)| keys.values()).copied().min().filter(|end| *end < NEVER)
    }

    /// Stops following keys whose signatures have expired. The client asks for a new signature by itself.
    pub(super) fn end_expired_tracking(&mut self, now: Moment) {
        let Some(tracking) = &mut self.tracking else { return };
        let mut over = Vec::new();
        for (channel, keys) in &mut tracking.0 {
            let mut ended = Vec::new();
            keys.retain(|key, end| {
                if now >= *end {
                    ended.push(key.clone());
                }
                now < *end
            });
            if !ended.is_empty() {
                over.push(Effect::Unfollow { channel: channel.clone(), keys: ended });
            }
        }
        over.into_iter().for_each(|effect| self.after_replies(effect));
    }

    fn begin_tracking(&mut self, channel: &Channel, wanted: BTreeMap<Box<str>, (u64, Moment)>) {
        if wanted.is_empty() {
            return;
        }
        let tracking = self.tracking.get_or_insert_default();
        if tracking.keys(channel).is_none() {
            tracking.0.push((channel.clone(), SignatureEnds::new()));
        }
        let Some(known) = tracking.keys_mut(channel) else { return };
        known.extend(wanted.iter().map(|(key, (_, end))| (key.clone(), *end)));
        let keys = wanted.into_iter().map(|(key, (version, _))| (key, version)).collect();
        self.after_replies(Effect::Follow { channel: channel.clone(), keys });
    }

    /// Stops following `keys` and returns those of them that were followed.
    fn take_tracked(&mut self, channel: &Channel, mut keys: Vec<Box<str>>) -> Vec<Box<str>> {
        let Some(known) = self.tracking.as_mut().and_then(|tracking| tracking.keys_mut(channel)) else {
            return Vec::new();
        };
        keys.retain(|key| known.remove(key).is_some());
        keys
    }

    /// Returns the polled channel of this name, if the client subscribes to it. `None` means that the command has been
    /// dealt with.
    fn polled_channel(&mut self, now: Moment, id: u32, channel: &str) -> Option<Channel> {
        if channel.is_empty() {
            self.close(Disconnect::BAD_REQUEST.because("the command names no channel"));
            return None;
        }
        let subscribed = self.find_live(channel).map(|subscription| subscription.channel.clone());
        let is_polled = |channel: &Channel| {
            self.context.rules.options(channel).is_some_and(|options| options.is_polled())
        };
        let channel = subscribed.filter(is_polled);
        if channel.is_none() {
            self.refuse(now, id, ErrorCode::PermissionDenied);
        }
        channel
    }

    fn keys_max(&self, channel: &Channel) -> usize {
        let options = self.context.rules.options(channel);
        options.map_or(0, |options| options.shared_poll.keys_per_connection_max as usize)
    }
}
