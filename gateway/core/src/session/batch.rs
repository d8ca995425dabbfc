//! Replies and pushes to the client, batched into as few messages as possible.

use bytes::{BufMut, BytesMut};
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::framing::{MessageKind, OwnedMessage};
use shared::moment::Moment;
use shared::protocol::{Encoded, Protocol};
use shared::push::Push;
use shared::refusal::Refusal;
use shared::reply::{Answer, Reply};

use super::Session;
use super::session_state::Phase;
use crate::effect::{Denial, Effect};

/// Maximum number of replies in one message.
pub const REPLIES_PER_MESSAGE_MAX: u16 = 64;

/// A message of replies is sent once it holds this many bytes.
pub const BATCH_BYTES_MAX: usize = 16 * 1024;

/// Replies that will be sent as one message, and the effects that follow it.
#[derive(Debug)]
pub(super) struct ReplyBatch {
    bytes: BytesMut,
    kind: MessageKind,
    replies: u16,
    /// Effects that must not be performed before the message is sent.
    after: Vec<Effect>,
}

impl Session {
    pub(super) fn answer(&mut self, id: u32, answer: Answer) {
        self.answer_in(None, id, answer);
    }

    /// Answers a command about the subscription to `channel`, which the reply names.
    pub(super) fn answer_in(&mut self, channel: Option<Channel>, id: u32, answer: Answer) {
        // Only a subscribe reply may overtake the effects that make another channel live: then a client that subscribes
        // to many channels at once is answered in one message.
        if !matches!(answer, Answer::Subscribe(_)) {
            self.end_batch_before_live();
        }
        let reply = Reply { id, channel, outcome: Ok(answer) };
        self.write(|protocol, out| protocol.encode_reply(&reply, out));
    }

    /// Answers a command with an error. Closes the client if too many of its commands were refused.
    pub(super) fn refuse(&mut self, now: Moment, id: u32, refusal: impl Into<Refusal>) {
        self.refuse_command(now, None, None, id, refusal.into());
    }

    /// Refuses a command that names a channel.
    pub(super) fn refuse_about(
        &mut self,
        now: Moment,
        channel: &Channel,
        id: u32,
        refusal: impl Into<Refusal>,
    ) {
        self.refuse_command(now, Some(channel), None, id, refusal.into());
    }

    /// Refuses a command about the subscription to a channel, which the reply names.
    pub(super) fn refuse_in(
        &mut self,
        now: Moment,
        channel: Option<&Channel>,
        id: u32,
        refusal: impl Into<Refusal>,
    ) {
        self.refuse_command(now, channel, channel.cloned(), id, refusal.into());
    }

    /// `about` is the channel that the command names; `channel` is the subscription that the reply names.
    fn refuse_command(
        &mut self,
        now: Moment,
        about: Option<&Channel>,
        channel: Option<Channel>,
        id: u32,
        refusal: Refusal,
    ) {
        self.end_batch_before_live();
        let reply = Reply { id, channel, outcome: Err(refusal) };
        self.write(|protocol, out| protocol.encode_reply(&reply, out));
        if let Err(refusal) = &reply.outcome {
            self.note_refusal(now, about, refusal);
        }
    }

    /// Counts a refusal, whether or not a reply tells the client of it, and closes the client if there were too many.
    pub(super) fn note_refusal(&mut self, now: Moment, about: Option<&Channel>, refusal: &Refusal) {
        let namespace = about.map(|channel| self.context.rules.namespace_id(channel.as_str()));
        self.context.observer.refused(namespace, refusal);
        if refusal.is_clients_fault() && !self.limits.allow_error(now, &self.context.settings) {
            self.close(Disconnect::TOO_MANY_ERRORS);
        }
    }

    /// Refuses a command or closes the connection, as the denial says.
    pub(super) fn deny(&mut self, now: Moment, id: u32, denial: Denial) {
        match denial {
            Denial::Error(refusal) => self.refuse(now, id, refusal),
            Denial::Disconnect(disconnect) => self.close(disconnect),
        }
    }

    pub(super) fn write_close_message(&mut self, disconnect: &Disconnect) {
        self.write(|protocol, out| protocol.encode_close_message(disconnect, out));
    }

    pub(super) fn push(&mut self, push: Push<'_>) {
        self.end_batch_before_live();
        self.write(|protocol, out| protocol.encode_push(push, out));
    }

    /// Queues an effect after the replies so far, but not necessarily before the next subscribe reply.
    pub(super) fn after_replies(&mut self, effect: Effect) {
        match &mut self.batch {
            Some(batch) => batch.after.push(effect),
            None => self.effects.push_back(effect),
        }
    }

    /// Ends the current message and queues it for sending.
    pub(super) fn flush(&mut self) {
        let Some(batch) = self.batch.take() else { return };
        let ReplyBatch { bytes, kind, replies, after } = *batch;
        if replies > 0 {
            self.effects.push_back(Effect::Send(OwnedMessage { kind, data: bytes.freeze() }));
        }
        self.effects.extend(after);
    }

    fn end_batch_before_live(&mut self) {
        if self.batch.as_ref().is_some_and(|batch| !batch.after.is_empty()) {
            self.flush();
        }
    }

    fn write(&mut self, encode: impl FnOnce(&dyn Protocol, &mut BytesMut) -> Encoded) {
        if self.phase == Phase::Closed {
            return;
        }
        let delimiter = self.protocol.delimiter();
        if delimiter.is_none() {
            self.flush();
        }
        let batch = self.batch.get_or_insert_with(|| Box::new(ReplyBatch::new()));
        let before = batch.bytes.len();
        if batch.replies > 0 {
            batch.bytes.put_slice(delimiter.unwrap_or_default());
        }
        let start = batch.bytes.len();
        match encode(&*self.protocol, &mut batch.bytes) {
            Encoded::Message(kind) => {
                if batch.replies > 0 && batch.kind != kind {
                    let bytes = batch.bytes.split_off(start);
                    batch.bytes.truncate(before);
                    self.flush();
                    self.batch = Some(Box::new(ReplyBatch { bytes, kind, replies: 1, after: Vec::new() }));
                    return;
                }
                batch.kind = kind;
                batch.replies += 1;
                if batch.replies >= REPLIES_PER_MESSAGE_MAX || batch.bytes.len() >= BATCH_BYTES_MAX {
                    self.flush();
                }
            }
            Encoded::Messages(parts) => {
                let mut bytes = batch.bytes.split_off(start);
                batch.bytes.truncate(before);
                self.flush();
                for (kind, length) in parts {
                    let data = bytes.split_to(length.min(bytes.len())).freeze();
                    self.effects.push_back(Effect::Send(OwnedMessage { kind, data }));
                }
            }
            Encoded::Begin(header) => {
                let message = batch.bytes.split_off(start);
                batch.bytes.truncate(before);
                self.flush();
                self.effects.push_back(Effect::Begin(header));
                if !message.is_empty() {
                    let data = message.freeze();
                    self.effects.push_back(Effect::Send(OwnedMessage { kind: MessageKind::Text, data }));
                }
            }
            Encoded::Nothing => {
                batch.bytes.truncate(before);
                if batch.replies == 0 {
                    self.flush();
                }
            }
            Encoded::Close(disconnect) => {
                batch.bytes.truncate(before);
                self.close(disconnect);
            }
        }
    }
}

impl ReplyBatch {
    fn new() -> Self {
        Self { bytes: BytesMut::new(), kind: MessageKind::Text, replies: 0, after: Vec::new() }
    }
}
