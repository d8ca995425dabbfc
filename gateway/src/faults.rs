//! Faults that tests of a whole node can cause. A release build has none of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use shared::command::Command;
use shared::disconnect::Disconnect;
use shared::framing::Message;
use shared::protocol::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use shared::push::{Event, Push};
use shared::reply::Reply;

/// A publication that contains this text panics while it is encoded for Centrifuge clients.
pub const ENCODING_PANICS: &str = "fault: encoding panics";
/// A message that contains this text panics while it is decoded.
pub const DECODING_PANICS: &str = "fault: decoding panics";

/// A publication that contains this text panics while a worker delivers it.
pub const DELIVERING_PANICS: &str = "fault: delivering panics";

/// A publication that contains this text makes the worker panic after its delivery.
pub const DELIVERED_PANICS: &str = "fault: having delivered panics";

/// An event that contains this text panics while it is sent to a webhook.
pub const TELLING_PANICS: &str = "fault: telling panics";
/// An event that contains this text panics while it is written to the ledger for webhooks.
pub const KEEPING_PANICS: &str = "fault: keeping panics";

/// A record of a feed that contains this text panics while it is read.
pub const READING_PANICS: &str = "fault: reading a record panics";

static ARMED: AtomicBool = AtomicBool::new(false);

/// Arms the faults above in every node of this process.
pub fn arm() {
    ARMED.store(true, Ordering::Relaxed);
}

pub(crate) fn trip(word: &str, bytes: &[u8]) {
    if ARMED.load(Ordering::Relaxed) && memchr::memmem::find(bytes, word.as_bytes()).is_some() {
        panic!("{word}");
    }
}

/// Like [`trip`], for values that are searched in their debug output.
pub(crate) fn trip_over(word: &str, within: &impl std::fmt::Debug) {
    if ARMED.load(Ordering::Relaxed) {
        trip(word, format!("{within:?}").as_bytes());
    }
}

/// Wraps the protocol so that it has these faults.
pub(crate) fn with_faults(protocol: Arc<dyn Protocol>) -> Arc<dyn Protocol> {
    Arc::new(Faulty(protocol))
}

#[derive(Debug)]
struct Faulty(Arc<dyn Protocol>);

impl Protocol for Faulty {
    fn id(&self) -> ProtocolId {
        self.0.id()
    }

    fn open(&self, commands: &mut Vec<Command>) {
        self.0.open(commands);
    }

    fn decode(&self, message: Message<'_>, commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        trip(DECODING_PANICS, message.data);
        self.0.decode(message, commands)
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        self.0.encode_reply(reply, out)
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        if let Event::Publication(publication, _) = &push.event {
            trip(ENCODING_PANICS, &publication.data.bytes);
        }
        self.0.encode_push(push, out)
    }

    fn heartbeat(&self) -> Heartbeat {
        self.0.heartbeat()
    }

    fn close(&self, disconnect: &Disconnect) -> Disconnect {
        self.0.close(disconnect)
    }

    fn encode_close_message(&self, disconnect: &Disconnect, out: &mut BytesMut) -> Encoded {
        self.0.encode_close_message(disconnect, out)
    }

    fn held_bytes(&self) -> usize {
        self.0.held_bytes()
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        self.0.delimiter()
    }
}
