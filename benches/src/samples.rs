//! Sample messages, channels and subscribers of the benchmarks.

use std::sync::Arc;

use gateway_core::hub::{
    Bundles, Encoding, EncodingId, HoldLimits, Hub, Prepared, Sink, Subscriber, Variant, Variants,
    WebSocketFrames,
};
use gateway_core::namespace_id::NamespaceId;
use shared::channel::Channel;
use shared::framing::{Message, MessageKind};
use shared::id::{ClientId, UserId};
use shared::position::{Epoch, StreamPosition};
use shared::protocol::Protocol;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::protocol::raw::Raw;
use shared::publication::{ClientInfo, Payload, Publication};

/// The channel of most benchmarks.
pub const CHANNEL: &str = "prices:AAPL";

/// Makes a channel. Panics if the name is invalid, which only an error in this folder can cause.
pub fn channel(name: &str) -> Channel {
    match Channel::parse(name, 255) {
        Ok(channel) => channel,
        Err(error) => panic!("{name}: {error}"),
    }
}

pub fn position(offset: u64) -> StreamPosition {
    StreamPosition { offset, epoch: Epoch::from_random(7_777_777_777) }
}

/// Returns a JSON object of exactly this many bytes, at least 64, that resembles a market tick: quotes at the front and
/// few repetitions.
pub fn json(bytes: usize) -> String {
    let mut text = String::from(r#"{"symbol":"AAPL","bid":191.05,"ask":191.07,"note":""#);
    let mut state = 1_u32;
    while text.len() < bytes - 2 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Digits and words, so that deflating finds some repetitions, but not everywhere.
        match state >> 29 {
            0 => text.push_str(" price"),
            1 => text.push_str(" of "),
            _ => text.push(char::from(b'0' + (state >> 24) as u8 % 10)),
        }
    }
    text.truncate(bytes - 2);
    text + "\"}"
}

pub fn publication(bytes: usize, offset: u64) -> Publication {
    Publication { position: Some(position(offset)), ..Publication::new(Payload::json(json(bytes))) }
}

pub fn info() -> ClientInfo {
    ClientInfo {
        client: ClientId::from_random(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        user: UserId::new("ann"),
        conn_info: Some(r#"{"name":"Ann"}"#.into()),
        chan_info: None,
    }
}

pub fn text(data: &str) -> Message<'_> {
    Message { kind: MessageKind::Text, data: data.as_bytes() }
}

/// Returns the gateway's own table of encodings: Centrifuge JSON and raw, each in WebSocket frames.
pub fn variants() -> (Arc<Variants>, [EncodingId; 2]) {
    let mut variants = Variants::default();
    let framing = Arc::new(WebSocketFrames::default());
    let raw = Raw::new(CHANNEL.into(), "".into(), None);
    let protocols: [Arc<dyn Protocol>; 2] = [Arc::new(CentrifugeJson::default()), Arc::new(raw)];
    let add = |protocol| variants.add(Encoding { protocol, framing: framing.clone() });
    let ids = protocols.map(add).map(Option::unwrap_or_default);
    (Arc::new(variants), ids)
}

/// Returns this many publications of 128 bytes in the channel, the first at offset 2: see [`hub`].
pub fn prepared(count: u64, variants: &Arc<Variants>) -> Vec<Arc<Prepared>> {
    let prepare =
        |offset| Prepared::new(channel(CHANNEL), NamespaceId::DEFAULT, publication(128, offset), 0, variants);
    (2..2 + count).map(prepare).collect()
}

/// Counts the deliveries as cheaply as possible, so that nearly all of the cost is the hub's.
#[derive(Debug, Default)]
pub struct Counter {
    pub writes: u64,
    pub bytes: u64,
}

impl Sink for Counter {
    fn deliver(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles) {
        for subscriber in subscribers {
            for frames in &bundles.get(subscriber.variant).writes {
                self.writes += 1;
                self.bytes += frames.len() as u64;
            }
        }
    }

    fn insufficient(&mut self, _key: u32, _channel: &Channel) {}
}

/// Returns a hub with this many subscribers of [`CHANNEL`], whose variants alternate. It has delivered the channel's
/// first publication, so that the subscribers are in the state in which nearly all subscribers nearly always are.
pub fn hub(subscribers: u32, variants: &[Variant]) -> Hub {
    let mut hub = hub_before_its_first(subscribers, variants);
    let first =
        Prepared::new(channel(CHANNEL), NamespaceId::DEFAULT, publication(128, 1), 0, &Arc::default());
    hub.deliver(CHANNEL, &[first], &mut Counter::default());
    hub.finish_sweeps(&mut Counter::default());
    hub
}

/// The same before the first publication, when no subscriber has received anything from the channel's stream yet.
pub fn hub_before_its_first(subscribers: u32, variants: &[Variant]) -> Hub {
    let mut hub = Hub::new(HoldLimits::default());
    for (key, variant) in (0..subscribers).zip(variants.iter().cycle()) {
        listen(&mut hub, &channel(CHANNEL), key, *variant);
    }
    hub
}

/// Subscribes completely: joins the channel and goes live.
pub fn listen(hub: &mut Hub, channel: &Channel, key: u32, variant: Variant) {
    hub.join(channel, Subscriber::new(key, variant).positioned(true), None);
    hub.go_live(channel.as_str(), key, Some(position(0)), &mut Counter::default());
}
