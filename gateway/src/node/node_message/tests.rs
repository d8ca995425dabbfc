//! Tests questions and answers: encoded, decoded, corrupted, and read by other releases.

use proptest::prelude::*;
use shared::publication::{Payload, Tagged};

use shared::publication::Selection;

use super::*;
use crate::node::control::Among;

fn subscribing(channel: Channel) -> Subscribing {
    let overrides = Overrides { presence: Some(false), force_recovery: Some(true), ..Overrides::default() };
    Subscribing {
        channel,
        expires_at: Some(i64::MAX),
        info: Some("{ \"a\": 1.50 }".into()),
        data: Some("[null]".into()),
        since: Some(Since { offset: 7, epoch: "e".into() }),
        overrides,
    }
}

fn arguments(json: &'static str, binary: Option<&str>) -> Tagged {
    let tags = binary.map(|binary| ("binary".into(), binary.into()));
    Tagged {
        data: Payload::json(json),
        tags: [("args".into(), "2".into())].into_iter().chain(tags).collect(),
    }
}

fn poll(polled: RemotePollRequest) -> NodeRequest {
    NodeRequest::Poll { session: "s".into(), polled }
}

fn among() -> ControlTarget {
    let id = ClientId::from_random;
    let channels = |names: &[&str]| names.iter().map(|name| Channel::parse(name, 255).unwrap()).collect();
    let only = Selection {
        channels: channels(&["room:a", "room:b"]),
        clients: vec![id(4)],
        except_channels: channels(&["room:c"]),
        except_clients: vec![id(5), id(6)],
        volatile: false,
    };
    let among = Among { channel: Channel::parse("room:*", 255).unwrap(), only };
    ControlTarget { among: Some(Box::new(among)), ..ControlTarget::default() }
}

fn every_question() -> Vec<NodeRequest> {
    let id = ClientId::from_random;
    let session = crate::node::SessionId::parse("AAAAAAAAAAAAAAAAAAAAAQ");
    assert!(session.is_some());
    let target = ControlTarget {
        user: Some("ann".into()),
        client: Some(id(1)),
        session,
        except: vec![id(2)],
        ..ControlTarget::default()
    };
    let held = ControlTarget {
        client: Some(id(1)),
        holder: Some(crate::sessions::Holder(u64::MAX)),
        ..ControlTarget::default()
    };
    let channel = Channel::parse("prices:AAPL", 255).unwrap();
    let refreshing = ConnectionExpiry { expired: true, expires_at: Some(7), info: Some("[1]".into()) };
    vec![
        NodeRequest::Act(held, ClientCommand::Disconnect(Disconnect::CONNECTION_LIMIT)),
        NodeRequest::Message { session: "s".into(), data: Bytes::from_static(b"\n\0 any\nbytes \xff") },
        NodeRequest::Channels(ChannelsWanted {
            pattern: "a*".into(),
            after: "b".into(),
            limit: 7,
            names: vec!["c".into()],
        }),
        NodeRequest::Connections(ConnectionsWanted {
            user: Some("".into()),
            client: Some(id(3)),
            channel: Some(channel.clone()),
            from: ConnectionCursor { worker: 3, index: 4 },
            limit: 8,
            detail: Some(DetailWanted { tags: Some([("a".into(), "b".into())].into()) }),
        }),
        NodeRequest::Shed(ShedWanted { over_s: Some(7), tolerance_percent: None, stop: true }),
        NodeRequest::Closes(ClosesWanted { user: Some("".into()), client: Some("c".into()), limit: 9 }),
        NodeRequest::Act(target.clone(), ClientCommand::Disconnect(Disconnect::FORCE_DISCONNECT)),
        NodeRequest::Act(target.clone(), ClientCommand::Unsubscribe(channel.clone())),
        NodeRequest::Act(target.clone(), ClientCommand::Subscribe(Box::new(subscribing(channel)))),
        NodeRequest::Act(target, ClientCommand::Refresh(Box::new(refreshing))),
        NodeRequest::Act(among(), ClientCommand::Unsubscribe(Channel::parse("room:a", 255).unwrap())),
        NodeRequest::Act(among(), ClientCommand::Disconnect(Disconnect::FORCE_DISCONNECT)),
        NodeRequest::AskClients(Box::new((
            *among().among.unwrap(),
            AskClients {
                namespace: "/".into(),
                event: "how".into(),
                arguments: arguments("[1,\"AQI=\"]", Some("[\"/1\"]")),
                timeout: Duration::from_secs(7),
            },
        ))),
        poll(RemotePollRequest::Fetch { wait_ms: 3_000 }),
        poll(RemotePollRequest::Upload(Bytes::from_static(b"4a\x1ebAQ=="))),
        poll(RemotePollRequest::End),
        poll(RemotePollRequest::FetchRest),
        poll(RemotePollRequest::UploadPart(Bytes::from_static(b"4a"))),
    ]
}

#[test]
fn every_question_reads_back_as_it_was_asked() {
    for question in every_question() {
        let told = NodeMessage::Question { id: 9, from: "node \"1\"".into(), question: Some(question) };
        assert_eq!(NodeMessage::decode(&told.encode().unwrap()).unwrap(), told);
    }
}

#[test]
fn every_answer_reads_back_as_it_was_given() {
    let subscription = SubscriptionDetail {
        channel: "a".into(),
        stage: "live".into(),
        position: Some((7, "life".into())),
        passes: Some(false),
        ..Default::default()
    };
    let detail = ConnectionDetail { outbox_bytes: 1, stalled_ms: 2, subscriptions: vec![subscription] };
    let connection = ConnectionInfo {
        client: "c".into(),
        channels: vec!["a".into()],
        detail: Some(Box::new(detail)),
        ..Default::default()
    };
    for answer in [
        Ok(NodeResponse::Handled),
        Ok(NodeResponse::NoSuchSession),
        Ok(NodeResponse::Repeated),
        Ok(NodeResponse::Packets(Bytes::from_static(b"4a\n\x1e2"))),
        Ok(NodeResponse::Packets(Bytes::new())),
        Ok(NodeResponse::PacketsPart(Bytes::from_static(b"4a"))),
        Ok(NodeResponse::Channels(ChannelsPage {
            channels: vec![("a\n".into(), 3)],
            until: Some("b".into()),
        })),
        Ok(NodeResponse::Connections(ConnectionsPage {
            connections: vec![connection],
            next: Some(ConnectionCursor { worker: 1, index: 2 }),
        })),
        Ok(NodeResponse::Shed(ShedReport { state: ShedState::Running, before: 9, ..ShedReport::default() })),
        Ok(NodeResponse::Closes(vec![CloseRecord {
            client: "c".into(),
            code: 3012,
            ..CloseRecord::default()
        }])),
        Ok(NodeResponse::Done { clients: 5, failed: 2, full: 1 }),
        Ok(NodeResponse::Asked(vec![
            (ClientId::from_random(1), AskOutcome::Answered(arguments("[ 1 ]", None))),
            (ClientId::from_random(2), AskOutcome::Answered(arguments("[\"AQI=\"]", Some("[\"/0\"]")))),
            (ClientId::from_random(3), AskOutcome::Timeout),
            (ClientId::from_random(4), AskOutcome::Gone),
            (ClientId::from_random(5), AskOutcome::TooMany),
            (ClientId::from_random(6), AskOutcome::TooLong),
        ])),
        Err(NodeRequestError::NotUnderstood),
        Err(NodeRequestError::Busy),
        Err(NodeRequestError::Late),
    ] {
        let told = NodeMessage::Answer { id: u64::MAX, answer };
        assert_eq!(NodeMessage::decode(&told.encode().unwrap()).unwrap(), told);
    }
}

#[test]
fn the_wire_stays_what_other_nodes_of_this_version_read() {
    let question = NodeRequest::Message { session: "s".into(), data: Bytes::from_static(b"{}") };
    let told = NodeMessage::Question { id: 1, from: "n".into(), question: Some(question) };
    let wire = b"{\"v\":1,\"id\":1,\"from\":\"n\",\"ask\":{\"message\":{\"session\":\"s\"}}}\n{}";
    assert_eq!(&told.encode().unwrap()[..], wire);
    let told =
        NodeMessage::Answer { id: 1, answer: Ok(NodeResponse::Done { clients: 2, failed: 0, full: 0 }) };
    assert_eq!(&told.encode().unwrap()[..], b"{\"v\":1,\"id\":1,\"answer\":{\"done\":{\"clients\":2}}}");
}

#[test]
fn who_of_a_channel_is_meant_is_a_question_that_earlier_releases_do_not_take_for_one_about_all() {
    let question = NodeRequest::Act(among(), ClientCommand::Disconnect(Disconnect::FORCE_DISCONNECT));
    let told = NodeMessage::Question { id: 1, from: "n".into(), question: Some(question) };
    let wire = told.encode().unwrap();
    let wire = String::from_utf8(wire.to_vec()).unwrap();
    assert!(wire.contains(r#""ask":{"among":{"among":{"channel":"room:*""#), "{wire}");
    // Nodes do not nest messages, or put anything else into them.
    for inside in [
        r#"{"channels":{}}"#,
        r#"{"among":{"among":{"channel":"b"},"act":{"disconnect":{"target":{},"code":3503,"reason":"r"}}}}"#,
    ] {
        let wire = format!(
            r#"{{"v":1,"id":1,"from":"n","ask":{{"among":{{"among":{{"channel":"a"}},"act":{inside}}}}}}}"#
        );
        let told = NodeMessage::decode(&Bytes::from(wire)).unwrap();
        assert_eq!(told, NodeMessage::Question { id: 1, from: "n".into(), question: None }, "{inside}");
    }
}

#[test]
fn what_a_later_release_asks_or_answers_is_known_to_be_a_question_or_an_answer() {
    for later in [
        r#"{"v":2,"id":7,"from":"n","ask":["anything"]}"#,
        r#"{"v":1,"id":7,"from":"n","ask":{"explode":{}},"more":1}"#,
    ] {
        let told = NodeMessage::decode(&Bytes::from(later)).unwrap();
        assert_eq!(told, NodeMessage::Question { id: 7, from: "n".into(), question: None }, "{later}");
    }
    for later in [r#"{"v":2,"id":7,"answer":{"handled":1}}"#, r#"{"v":1,"id":7,"answer":"exploded"}"#] {
        let told = NodeMessage::decode(&Bytes::from(later)).unwrap();
        assert_eq!(
            told,
            NodeMessage::Answer { id: 7, answer: Err(NodeRequestError::NotUnderstood) },
            "{later}"
        );
    }
    for broken in ["", "{}", "{\"v\":1,\"id\":1}", "{\"v\":1,\"id\":1,\"ask\":{}}", "[1]", "\n"] {
        assert!(NodeMessage::decode(&Bytes::from(broken)).is_err(), "{broken}");
    }
}

#[test]
fn messages_are_bounded_both_ways() {
    let question =
        NodeRequest::Message { session: "s".into(), data: vec![b'x'; NODE_MESSAGE_BYTES_MAX].into() };
    let told = NodeMessage::Question { id: 1, from: "n".into(), question: Some(question) };
    assert!(matches!(told.encode(), Err(NodeMessageError::TooLong(_))));
    let long = Bytes::from(vec![b' '; NODE_MESSAGE_BYTES_MAX + 1]);
    assert!(matches!(NodeMessage::decode(&long), Err(NodeMessageError::TooLong(_))));
}

proptest! {
    #[test]
    fn spoiled_messages_are_read_or_refused(which in 0_usize..13, at in 0_usize..300, byte: u8) {
        let question = every_question().remove(which);
        let told = NodeMessage::Question { id: 9, from: "n".into(), question: Some(question) };
        let mut wire = told.encode().unwrap().to_vec();
        let at = at % wire.len();
        wire[at] = byte;
        let _ = NodeMessage::decode(&wire.clone().into());
        wire.truncate(at);
        let _ = NodeMessage::decode(&wire.into());
    }
}
