//! Samples of everything that a server can send, at least one of each kind.

use std::collections::BTreeMap;

use bytes::Bytes;
use shared::channel::Channel;
use shared::command::{Phase, SubscriptionKind};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::{ClientId, UserId};
use shared::position::{Epoch, StreamPosition};
use shared::publication::{ClientInfo, Keyed, Payload, Publication, Tags};
use shared::push::{Event, Form, Push, UnsubscribeCode};
use shared::refusal::Refusal;
use shared::reply::{Answer, Connected, Expiry, KeyedAnswer, Reply, Subscribed};

fn epoch() -> Epoch {
    Epoch::parse("abcdefgh").expect("short enough")
}

fn at(offset: u64) -> Option<StreamPosition> {
    Some(StreamPosition { offset, epoch: epoch() })
}

fn client_id(last: u128) -> ClientId {
    ClientId::from_bits(0xc0ffee00_0000_4000_8000_000000000000 | last)
}

fn ada() -> ClientInfo {
    ClientInfo {
        client: client_id(1),
        user: UserId::new("42"),
        conn_info: Some(r#"{"name":"Ada"}"#.into()),
        chan_info: Some("[1]".into()),
    }
}

fn sixth() -> Publication {
    Publication { position: at(6), ..Publication::new(Payload::json("{\"a\": 6}")) }
}

fn seventh() -> Publication {
    let tags = Tags::from([("ticker".into(), "AAPL".into()), ("x\"y".into(), "".into())]);
    Publication { position: at(7), info: Some(ada()), tags, ..Publication::new(Payload::json("7")) }
}

pub(crate) fn replies() -> Vec<(&'static str, Reply)> {
    let ok = |id, answer| Reply::new(id, Ok(answer));
    let connected = |expires| {
        ok(
            1,
            Answer::Connect(Box::new(Connected {
                expires,
                ping_seconds: 25,
                pong: true,
                ..Connected::new(client_id(1), "0.1.0", "a".into())
            })),
        )
    };
    let subscribed = |subscribed| ok(2, Answer::Subscribe(subscribed));
    let on_stream = |offset, recovered, publications| {
        let (recoverable, positioned, was_recovering) = (true, true, true);
        Subscribed {
            recoverable,
            positioned,
            position: at(offset),
            publications,
            recovered,
            was_recovering,
            ..Subscribed::default()
        }
    };
    let nobody =
        ClientInfo { client: client_id(2), user: UserId::ANONYMOUS, conn_info: None, chan_info: None };
    let in_a_minute = Some(Expiry { seconds: 60 });
    vec![
        ("connected", connected(None)),
        ("connected with an expiring token", connected(Some(Expiry { seconds: 3600 }))),
        ("subscribed without a stream", subscribed(Subscribed::default())),
        (
            "subscribed at a position",
            subscribed(Subscribed {
                expires: Some(Expiry { seconds: 0 }),
                was_recovering: false,
                ..on_stream(7, false, vec![])
            }),
        ),
        (
            "subscribed at the start of a stream",
            subscribed(Subscribed { was_recovering: false, ..on_stream(0, false, vec![]) }),
        ),
        ("recovered from offset 5", subscribed(on_stream(5, true, vec![sixth(), seventh()]))),
        ("recovered nothing", subscribed(on_stream(7, true, vec![]))),
        ("not recovered", subscribed(on_stream(7, false, vec![]))),
        ("unsubscribed", ok(3, Answer::Unsubscribe)),
        ("published", ok(4, Answer::Publish)),
        (
            "history",
            ok(
                5,
                Answer::History {
                    publications: vec![sixth()],
                    top: StreamPosition { offset: 9, epoch: epoch() },
                },
            ),
        ),
        (
            "history of an empty stream",
            ok(
                5,
                Answer::History { publications: vec![], top: StreamPosition { offset: 0, epoch: epoch() } },
            ),
        ),
        ("presence", ok(6, Answer::Presence { clients: vec![ada(), nobody] })),
        ("presence of nobody", ok(6, Answer::Presence { clients: vec![] })),
        ("presence stats", ok(7, Answer::PresenceStats { clients: 2, users: 1 })),
        ("presence stats of nobody", ok(7, Answer::PresenceStats { clients: 0, users: 0 })),
        (
            "refreshed",
            ok(8, Answer::Refresh { client: client_id(1), version: "0.1.0", expires: in_a_minute }),
        ),
        ("subscription refreshed", ok(9, Answer::SubRefresh { expires: in_a_minute, items: Vec::new() })),
        ("an error", Reply::new(10, Err(ErrorCode::PermissionDenied.into()))),
        ("a temporary error", Reply::new(10, Err(ErrorCode::Internal.into()))),
        (
            "an application's error",
            Reply::new(10, Err(Refusal::custom(400, "out of stock", true).expect("one of its codes"))),
        ),
        ("connected with all there is", ok(1, Answer::Connect(Box::new(connected_with_all())))),
        ("recovered in patches", subscribed(in_patches())),
        ("subscribed to keys", subscribed(to_keys())),
        ("keys tracked", ok(9, Answer::SubRefresh { expires: None, items: vec![of_a_key()] })),
        ("rpc", ok(11, Answer::Rpc { data: Payload::json("{\"sum\":3}") })),
        ("rpc without data", ok(11, Answer::Rpc { data: Payload::json("") })),
    ]
}

/// Owns the values that a push borrows.
pub(crate) struct Pushed {
    channel: Channel,
    publications: Vec<(&'static str, Publication)>,
    info: ClientInfo,
    subscribed: Subscribed,
    message: Payload,
    disconnect: Disconnect,
}

impl Pushed {
    pub(crate) fn new() -> Self {
        let small = || Publication::new(Payload::json("{\"a\":1}"));
        let publications = vec![
            ("a publication", sixth()),
            ("the first publication of a stream", Publication { position: at(1), ..small() }),
            ("a publication without a stream", small()),
            ("a publication of several lines", Publication::new(Payload::json("{\n \"a\":\n \"b\\nc\"\n}"))),
            ("a publication of text", Publication::new(Payload::text("say \"hi\"\n\u{1}\u{1f}/é"))),
            ("a publication of bytes", Publication::new(Payload::binary(vec![0, 0xff, 0x80]))),
            ("a publication with all there is", Publication { time_ms: 1_800_000_000_123, ..seventh() }),
            ("a publication of a key", of_a_key()),
        ];
        Self {
            channel: Channel::parse("prices:\"A\"", 255).expect("a name"),
            publications,
            info: ada(),
            subscribed: Subscribed {
                recoverable: true,
                positioned: true,
                position: at(7),
                data: Some(Box::new(Payload::json("[2]"))),
                ..Subscribed::default()
            },
            message: Payload::json("{\"m\":1}"),
            disconnect: Disconnect::FORCE_DISCONNECT,
        }
    }

    pub(crate) fn pushes(&self) -> Vec<(&'static str, Push<'_>)> {
        let to = |event| Push::to(&self.channel, event);
        let mut all: Vec<_> =
            self.publications.iter().map(|(name, one)| (*name, to(Event::plain(one)))).collect();
        let (_, sixth) = &self.publications[0];
        let patch = Event::Publication(sixth, Form::Patch(b"8\n8@0,3ZqQX4;"));
        all.extend([
            ("a publication for who takes patches", to(Event::Publication(sixth, Form::Whole))),
            ("a patch", to(patch)),
            ("the end of a subscription", to(Event::Unsubscribed(UnsubscribeCode::InsufficientState))),
            ("a client that joins", to(Event::Joined(&self.info))),
            ("a client that leaves", to(Event::Left(&self.info))),
            ("a subscription of the server's", to(Event::Subscribed(&self.subscribed))),
            ("a message", Push::alone(Event::Message(&self.message))),
            ("an end that is set anew", Push::alone(Event::Refreshed(Some(Expiry { seconds: 60 })))),
            ("an end no more", Push::alone(Event::Refreshed(None))),
            ("the end of the connection", Push::alone(Event::Disconnected(&self.disconnect))),
        ]);
        all
    }
}

pub(crate) fn connected_with_all() -> Connected {
    Connected {
        expires: Some(Expiry { seconds: 3600 }),
        ping_seconds: 25,
        pong: true,
        session: Some("s3cret".into()),
        data: Some(Payload::json("{\"hello\":1}")),
        subs: BTreeMap::from([(Channel::parse("news", 255).expect("a name"), in_patches())]),
        time_ms: Some(1_800_000_000_123),
        ..Connected::new(client_id(1), "0.1.0", "a".into())
    }
}

fn in_patches() -> Subscribed {
    Subscribed {
        position: at(5),
        publications: vec![sixth(), sixth()],
        recovered: true,
        was_recovering: true,
        recoverable: true,
        positioned: true,
        delta: true,
        patches: vec![Bytes::new(), Bytes::from_static(b"8\n8@0,3ZqQX4;")],
        ..Subscribed::default()
    }
}

fn to_keys() -> Subscribed {
    let keyed = KeyedAnswer {
        kind: SubscriptionKind::Map,
        phase: Phase::State,
        cursor: "next".into(),
        state: vec![of_a_key()],
        publish_debounce_ms: 250,
    };
    Subscribed { position: at(7), keyed: Some(Box::new(keyed)), ..Subscribed::default() }
}

fn of_a_key() -> Publication {
    let keyed = Keyed { key: "k".into(), removed: true, score: -3, version: 12, before: None };
    Publication { keyed: Some(Box::new(keyed)), ..sixth() }
}
