//! The Centrifuge protocol in JSON, with the client's side of the codec in `shared`.

use bytes::{BufMut, Bytes, BytesMut};
use shared::command::{Command, Connect, Request, Subscribe};
use shared::framing::MessageKind;
use shared::position::{Epoch, StreamPosition};
use shared::protocol::centrifuge::json::client::{
    ClientResult, Received, ReceivedSubscribeResult, decode_frame, encode_command,
};
use shared::publication::Payload;

use super::{Event, Heard, Start, Wanted};

pub(super) const PONG: &str = "{}";

const CONNECT_ID: u32 = 1;
/// Command n + 2 asks for the subscription in slot n.
const FIRST_SUBSCRIBE_ID: u32 = 2;
/// Set in the ids of publications, to tell their answers from others.
const PUBLISH_BIT: u32 = 1 << 31;
/// Many commands are spread over messages of about this size, well below what gateways accept.
const MESSAGE_BYTES: usize = 16 << 10;

pub(super) fn greet<'a>(
    token: Option<&str>,
    wanted: impl Iterator<Item = Wanted<'a>>,
    messages: &mut Vec<String>,
) {
    let connect = Connect {
        token: token.unwrap_or("").into(),
        name: "tidegate-loadtest".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Connect::default()
    };
    let connect = Command { id: CONNECT_ID, request: Request::Connect(Box::new(connect)) };
    write(std::iter::once(connect).chain(wanted.map(subscribe_command)), messages);
}

pub(super) fn subscribe<'a>(wanted: impl Iterator<Item = Wanted<'a>>, messages: &mut Vec<String>) {
    write(wanted.map(subscribe_command), messages);
}

pub(super) fn publish(id: u32, channel: &str, payload: Bytes) -> String {
    let request = Request::Publish { channel: channel.into(), data: Payload::json(payload) };
    let mut out = BytesMut::new();
    encode_command(&Command { id: PUBLISH_BIT | id, request }, &mut out);
    into_text(out)
}

pub(super) fn hear(kind: MessageKind, message: &[u8], mut hear: impl FnMut(Event<'_>)) -> u64 {
    let (MessageKind::Text, Ok(text)) = (kind, std::str::from_utf8(message)) else { return 1 };
    let mut malformed = 0;
    for received in decode_frame(text) {
        match received {
            Ok(Received::Publication { channel, publication }) => hear(Event::Publication(Heard {
                channel: Some(&channel),
                payload: publication.data.as_bytes(),
                offset: publication.offset,
                recovered: false,
            })),
            Ok(Received::Ping) => hear(Event::Ping),
            Ok(Received::Reply { outcome: Ok(ClientResult::Connect(result)), .. }) => {
                hear(Event::Welcome { pong: result.pong });
            }
            Ok(Received::Reply { id, outcome: Ok(ClientResult::Subscribe(result)) }) => {
                confirm(id, &result, &mut hear);
            }
            Ok(Received::Reply { id, outcome: Ok(_) }) => hear(Event::Done { id: id & !PUBLISH_BIT }),
            Ok(Received::Reply { id, outcome: Err(refusal) }) => {
                let command = match id {
                    CONNECT_ID => "connect",
                    PUBLISH_BIT.. => "publish",
                    _ => "subscribe",
                };
                let reason = format!("{command}: error {} {}", refusal.code, refusal.message);
                hear(Event::Refused { id: id & !PUBLISH_BIT, reason });
            }
            Ok(Received::Unsubscribed { channel, .. }) => hear(Event::Unsubscribed { channel: &channel }),
            Ok(
                Received::Subscribed { .. }
                | Received::Joined { .. }
                | Received::Left { .. }
                | Received::Other,
            ) => {}
            Err(_) => malformed += 1,
        }
    }
    malformed
}

fn confirm(id: u32, result: &ReceivedSubscribeResult<'_>, hear: &mut impl FnMut(Event<'_>)) {
    let has_stream = result.positioned || result.recoverable;
    let epoch = Epoch::parse(&result.epoch).filter(|_| has_stream);
    let position = epoch.map(|epoch| StreamPosition { offset: result.offset, epoch });
    let start = Start { position, was_recovering: result.was_recovering, recovered: result.recovered };
    hear(Event::Confirmed { slot: id.saturating_sub(FIRST_SUBSCRIBE_ID), start });
    for publication in &result.publications {
        hear(Event::Publication(Heard {
            channel: None,
            payload: publication.data.as_bytes(),
            offset: publication.offset,
            recovered: true,
        }));
    }
}

fn subscribe_command(wanted: Wanted<'_>) -> Command {
    let since = wanted.since.unwrap_or_default();
    let request = Request::Subscribe(Subscribe {
        channel: wanted.channel.into(),
        recover: wanted.since.is_some(),
        epoch: since.epoch.as_str().into(),
        offset: since.offset,
        positioned: wanted.positioned,
        recoverable: wanted.positioned,
        ..Subscribe::default()
    });
    Command { id: wanted.slot + FIRST_SUBSCRIBE_ID, request }
}

fn write(commands: impl Iterator<Item = Command>, messages: &mut Vec<String>) {
    let mut out = BytesMut::new();
    for command in commands {
        if !out.is_empty() {
            out.put_u8(b'\n');
        }
        encode_command(&command, &mut out);
        if out.len() >= MESSAGE_BYTES {
            messages.push(into_text(out.split()));
        }
    }
    if !out.is_empty() {
        messages.push(into_text(out));
    }
}

fn into_text(bytes: BytesMut) -> String {
    // Commands are written from texts, so nothing is replaced here.
    String::from_utf8(bytes.into())
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_subscriptions_are_spread_over_messages_of_bounded_size() {
        let mut messages = Vec::new();
        let wanted =
            (0..2_000).map(|slot| Wanted { slot, channel: "some-channel", positioned: false, since: None });
        greet(None, wanted, &mut messages);
        assert!(messages.len() > 1);
        assert!(messages.iter().all(|message| message.len() < MESSAGE_BYTES + 1_024));
        assert_eq!(messages.iter().map(|message| message.lines().count()).sum::<usize>(), 2_001);
    }

    #[test]
    fn what_is_not_understood_is_counted() {
        let mut pings = 0;
        let count = |event: Event<'_>| pings += u64::from(event == Event::Ping);
        assert_eq!((hear(MessageKind::Text, b"{\"id\":\n{}", count), pings), (1, 1));
        assert_eq!(hear(MessageKind::Binary, b"{}", |_| {}), 1);
    }
}
