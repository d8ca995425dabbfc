//! A subscription goes live: the client gets the publications that the hub held back for it, or reads them from history when
//! it has room.

use bytes::Bytes;
use gateway_core::effect::GoLive;
use gateway_core::hub::{BundleEnd, Bundles, KnownPosition, Prepared, Sink, Subscriber, Writable};
use gateway_core::newest::{LaneFull, LanePut};
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::id::ClientId;
use shared::push::UnsubscribeCode;

use crate::client::Client;
use crate::worker::WorkerLocal;

impl Client {
    pub(super) fn go_live(&mut self, local: &mut WorkerLocal, go_live: &GoLive) {
        let channel = &go_live.channel;
        self.note_position(channel, go_live.position);
        let is_handed_out = local.hub.has_seen_nothing(channel.as_str())
            && go_live.position.is_some_and(|position| local.node.has_handed_out(channel, position));
        let knows = KnownPosition { position: go_live.position, has_last: go_live.has_last, is_handed_out };
        let mut held_back = HeldBackSink {
            can_wait: go_live.can_read_on() && !self.is_closing(),
            bytes_max: local.websocket.outbox_bytes_max,
            frames: Vec::new(),
            publications: 0,
            close: None,
            is_insufficient: false,
            superseded: 0,
            id: self.session.client(),
            members_known: go_live.terms.members_known,
            client: self,
        };
        let key = held_back.client.key.index;
        local.hub.go_live(channel.as_str(), key, knows, &mut held_back);
        let HeldBackSink { frames, publications, close, is_insufficient, superseded, .. } = held_back;
        if is_insufficient {
            // Publications are held back from now on until the client has read on.
            if !self.is_closing() && !self.session.handle_gap(go_live) {
                local.tally.insufficient += 1;
                self.session.handle_unsubscribe(channel, UnsubscribeCode::InsufficientState);
            }
            return;
        }
        self.note_count(local, channel);
        if !frames.is_empty() {
            let bytes: usize = frames.iter().map(Bytes::len).sum();
            let namespace = local.context.rules.namespace_id(channel.as_str());
            let tally = local.tally.namespaces.of(namespace);
            tally.deliveries += publications;
            tally.bytes_out += bytes as u64;
        }
        local.tally.deliveries += publications;
        if go_live.terms.latest.is_some() {
            local.tally.superseded += superseded;
            self.serve_lanes(local);
        }
        for frame in frames {
            self.send_frame(local, frame);
        }
        if let Some(disconnect) = close {
            self.session.handle_disconnect(disconnect);
        }
    }
}

/// Receives the publications that the hub held back for one subscriber while it joined.
#[derive(Debug)]
struct HeldBackSink<'a> {
    client: &'a mut Client,
    id: ClientId,
    /// The version of the channel's members that the client knows.
    members_known: u64,
    bytes_max: usize,
    /// Whether publications that the client has no room for can be read from history later.
    can_wait: bool,
    frames: Vec<Bytes>,
    publications: u64,
    close: Option<Disconnect>,
    is_insufficient: bool,
    /// How many newest values were superseded by newer ones.
    superseded: u64,
}

impl HeldBackSink<'_> {
    /// Whether an event is not for the client, or known to it.
    fn is_excluded(&self, prepared: &Prepared) -> bool {
        prepared.except() == Some(self.id)
            || prepared.publication().is_some_and(|publication| !self.client.session.is_meant(publication))
            || prepared.members_version().is_some_and(|version| version <= self.members_known)
    }

    /// Queues newest values in the client's lanes, behind the reply, where later ones go too.
    fn have_wait(&mut self, subscriber: Subscriber, bundles: &Bundles) -> bool {
        for prepared in bundles.publications() {
            if self.is_excluded(prepared) {
                continue;
            }
            if prepared.publication().is_some() {
                match self.client.put_newest(prepared.clone(), self.bytes_max) {
                    Ok(put) => self.superseded += u64::from(put == LanePut::Instead),
                    Err(LaneFull) => return false,
                }
            } else if let Writable::Frame(frame) = prepared.writable(subscriber.variant) {
                self.frames.push(frame.clone());
            }
        }
        true
    }
}

impl Sink for HeldBackSink<'_> {
    fn deliver(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles) {
        for subscriber in subscribers {
            self.catch_up(*subscriber, bundles);
        }
    }

    fn catch_up(&mut self, subscriber: Subscriber, bundles: &mut Bundles) -> bool {
        if subscriber.is_newest() {
            return self.have_wait(subscriber, bundles);
        }
        let has_excluded = !subscriber.variant.takes_patches()
            && bundles.publications().iter().any(|prepared| self.is_excluded(prepared));
        let rest =
            has_excluded.then(|| bundles.without(subscriber.variant, |prepared| self.is_excluded(prepared)));
        let mut bundle = Some(match &rest {
            Some(rest) => rest,
            None => bundles.get(subscriber.variant),
        });
        let mut is_broken = false;
        while let Some(part) = bundle.take() {
            self.frames.extend_from_slice(&part.writes);
            self.publications += u64::from(part.publications);
            match &part.end {
                None => {}
                Some(BundleEnd::Close(disconnect)) => self.close = Some(disconnect.clone()),
                Some(BundleEnd::Broken(_)) if subscriber.is_positioned() => is_broken = true,
                Some(BundleEnd::Broken(rest)) => bundle = Some(rest),
            }
        }
        let bytes = self.frames.iter().map(Bytes::len).sum();
        !is_broken && (!self.can_wait || self.client.has_room(bytes, self.bytes_max))
    }

    fn insufficient(&mut self, _key: u32, _channel: &Channel) {
        self.is_insufficient = true;
    }
}
