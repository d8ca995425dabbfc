//! One client, message by message, in each dialect.

use bytes::{Bytes, BytesMut};

use super::selection::tests::any;
use super::*;
use crate::channel::Channel;
use crate::command::Request;
use crate::error::ErrorCode;
use crate::id::ClientId;
use crate::position::{Epoch, StreamPosition};
use crate::publication::Publication;
use crate::push::UnsubscribeCode;
use crate::reply::{Answer, Connected, Subscribed};

/// A document is the name of a channel. A leading `!` is an error, `?` a query answered at once, and `@` a question for
/// the application.
#[derive(Debug)]
struct Simple;

impl Planner for Simple {
    fn plan(&self, asked: &RequestedOperation<'_>) -> Result<Plan, Vec<GraphQlError>> {
        match asked.query.split_at(1) {
            ("!", why) => Err(vec![GraphQlError::new("BAD", why).at(1, 2)]),
            ("?", _) => Ok(Plan::Answer(Bytes::from_static(br#""data":{"a":1}"#))),
            ("@", question) => Ok(Plan::Subscribe(PlannedSubscription {
                channel: "".into(),
                ask: Some(Payload::text(question.to_owned())),
                selection: Arc::new(any("m")),
            })),
            _ => Ok(Plan::Subscribe(PlannedSubscription {
                channel: (*asked.query).into(),
                ask: None,
                selection: Arc::new(any("m")),
            })),
        }
    }
}

/// One client.
struct One {
    graphql: GraphQl,
    numbers: Vec<u32>,
}

impl One {
    fn new(dialect: Dialect) -> Self {
        Self { graphql: GraphQl::new(dialect, Arc::new(Simple), 4), numbers: Vec::new() }
    }

    fn connected(dialect: Dialect) -> Self {
        let mut one = Self::new(dialect);
        one.say(r#"{"type":"connection_init"}"#).unwrap();
        one.reply(number::CONNECT, Ok(connected()), None);
        one
    }

    fn say(&mut self, message: &str) -> Result<Vec<Request>, DecodeError> {
        let mut commands = Vec::new();
        let message = Message { kind: MessageKind::Text, data: message.as_bytes() };
        self.graphql.decode(message, &mut commands)?;
        self.numbers.extend(commands.iter().map(|command| command.id).filter(|id| *id >= number::OPERATIONS));
        Ok(commands.into_iter().map(|command| command.request).collect())
    }

    fn subscribe(&mut self, id: &str, query: &str, extensions: &str) -> Request {
        let kind =
            if self.graphql.dialect == Dialect::SubscriptionsTransport { "start" } else { "subscribe" };
        let message = format!(
            r#"{{"type":"{kind}","id":"{id}","payload":{{"query":"{query}","extensions":{{{extensions}}}}}}}"#
        );
        self.say(&message).unwrap().remove(0)
    }

    fn reply(
        &self,
        id: u32,
        outcome: Result<Answer, ErrorCode>,
        channel: Option<&str>,
    ) -> (Encoded, Vec<String>) {
        let channel = channel.map(|name| Channel::parse(name, 255).unwrap());
        let mut out = BytesMut::new();
        let encoded =
            self.graphql.encode_reply(&Reply { id, channel, outcome: outcome.map_err(Into::into) }, &mut out);
        let messages = match &encoded {
            Encoded::Messages(parts) => {
                parts.iter().map(|(_, length)| text(&out.split_to(*length))).collect()
            }
            Encoded::Message(_) => vec![text(&out)],
            _ => Vec::new(),
        };
        (encoded, messages)
    }

    /// Reports that the last operation is live in this channel.
    fn live(&self, channel: &str, offset: u64) {
        let subscribed = Subscribed { position: Some(at(offset)), ..Subscribed::default() };
        self.reply(*self.numbers.last().unwrap(), Ok(Answer::Subscribe(subscribed)), Some(channel));
    }

    fn deliver(&self, channel: &str, offset: u64, json: &str) -> Vec<String> {
        let mut record = BytesMut::new();
        record::put(&Channel::parse(channel, 255).unwrap(), &publication(offset, json), &mut record);
        let mut out = BytesMut::new();
        let lengths = self.graphql.deliver(&record.freeze(), &mut Selected::default(), &mut out);
        lengths.into_iter().map(|length| text(&out.split_to(length))).collect()
    }

    fn actions(&self) -> (Vec<Request>, Option<u16>) {
        let actions = self.graphql.take_actions().unwrap_or_default();
        let requests = actions.commands.into_iter().map(|command| command.request).collect();
        (requests, actions.close.map(|close| close.code))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn connected() -> Answer {
    Answer::Connect(Box::new(Connected::new(ClientId::from_random(1), "1", "n".into())))
}

fn at(offset: u64) -> StreamPosition {
    StreamPosition { offset, epoch: Epoch::parse("life").unwrap() }
}

fn publication(offset: u64, json: &str) -> Publication {
    Publication { position: Some(at(offset)), ..Publication::new(Payload::json(json.to_owned())) }
}

fn unsubscribe(channel: &str) -> Request {
    Request::Unsubscribe { channel: channel.into() }
}

#[test]
fn a_client_says_who_it_is_and_is_welcome() {
    let mut one = One::new(Dialect::TransportWs);
    let init = r#"{"type":"connection_init","payload":{"Authorization":"Bearer t.o.k","lang":"de"}}"#;
    let Request::Connect(connect) = one.say(init).unwrap().remove(0) else { panic!("it connects") };
    assert_eq!((&*connect.token, connect.data), ("t.o.k", Some(Payload::json(r#"{"lang":"de"}"#))));
    assert_eq!(one.reply(number::CONNECT, Ok(connected()), None).1, [r#"{"type":"connection_ack"}"#]);
}

#[test]
fn a_token_may_stand_where_libraries_put_it() {
    for payload in [
        r#"{"token":"t"}"#,
        r#"{"authorization":"t"}"#,
        r#"{"authorization":"bearer t"}"#,
        r#"{"headers":{"AUTHORIZATION":"Bearer t"}}"#,
    ] {
        let init = format!(r#"{{"type":"connection_init","payload":{payload}}}"#);
        let Request::Connect(connect) = One::new(Dialect::TransportWs).say(&init).unwrap().remove(0) else {
            panic!("it connects")
        };
        assert_eq!(&*connect.token, "t", "{payload}");
    }
    for wrong in ["7", "[]", r#"{"token":7}"#] {
        let init = format!(r#"{{"type":"connection_init","payload":{wrong}}}"#);
        assert_eq!(One::new(Dialect::TransportWs).say(&init), Err(DecodeError::Malformed), "{wrong}");
    }
}

#[test]
fn what_breaks_the_protocol_closes_with_the_code_for_it() {
    let code = |one: &mut One, message: &str| one.say(message).unwrap_err().disconnect().code;
    let subscribe = r#"{"type":"subscribe","id":"1","payload":{"query":"news"}}"#;
    let mut early = One::new(Dialect::TransportWs);
    assert_eq!(code(&mut early, subscribe), 4401, "before the ack");
    let mut one = One::connected(Dialect::TransportWs);
    assert_eq!(code(&mut one, r#"{"type":"connection_init"}"#), 4429);
    one.say(subscribe).unwrap();
    assert_eq!(code(&mut one, subscribe), 4409);
    for malformed in [
        "{}",
        "ping",
        r#"{"type":"start","id":"1","payload":{"query":"news"}}"#,
        r#"{"type":"subscribe","id":"","payload":{"query":"news"}}"#,
        r#"{"type":"subscribe","id":"2","payload":{}}"#,
        r#"{"type":"subscribe","id":"2"}"#,
        r#"{"type":"subscribe","id":2,"payload":{"query":"news"}}"#,
        r#"{"type":"complete"}"#,
    ] {
        let error = one.say(malformed).unwrap_err();
        assert_eq!(one.graphql.close(&error.disconnect()).code, 4400, "{malformed}");
    }
}

#[test]
fn pings_are_answered_and_pongs_may_come_unasked() {
    let mut one = One::new(Dialect::TransportWs);
    assert_eq!(one.say(r#"{"type":"ping","payload":{"a":1}}"#), Ok(vec![Request::Ping]));
    assert_eq!(one.reply(number::PING, Ok(Answer::Pong), None).1, [r#"{"type":"pong"}"#]);
    assert_eq!(one.say(r#"{"type":"pong"}"#), Ok(Vec::new()));
}

#[test]
fn each_operation_is_told_under_its_own_id() {
    let mut one = One::connected(Dialect::TransportWs);
    one.subscribe("a", "news", "");
    one.live("news", 0);
    one.subscribe("b", "news", r#""tidegate":{"positions":true}"#);
    one.live("news", 0);
    one.subscribe("c", "sport", "");
    one.live("sport", 0);
    assert_eq!(
        one.deliver("news", 1, "7"),
        [
            r#"{"id":"a","type":"next","payload":{"data":{"m":7}}}"#,
            r#"{"id":"b","type":"next","payload":{"data":{"m":7},"extensions":{"tidegate":{"position":{"epoch":"life","offset":1}}}}}"#,
        ]
    );
    assert!(one.deliver("other", 1, "7").is_empty());
}

#[test]
fn a_mistake_in_a_document_ends_that_operation_alone() {
    let mut one = One::connected(Dialect::TransportWs);
    assert_eq!(one.subscribe("a", "!why", ""), Request::Refused(ErrorCode::BadRequest));
    let (_, told) = one.reply(one.numbers[0], Err(ErrorCode::BadRequest), None);
    assert_eq!(
        told,
        [
            r#"{"id":"a","type":"error","payload":[{"message":"why","locations":[{"line":1,"column":2}],"extensions":{"code":"BAD"}}]}"#
        ]
    );
    assert_eq!(one.actions(), (Vec::new(), None));
    one.subscribe("a", "news", "");
}

#[test]
fn a_question_is_answered_and_over() {
    let mut one = One::connected(Dialect::TransportWs);
    assert_eq!(one.subscribe("a", "?", ""), Request::Ping);
    let (_, told) = one.reply(one.numbers[0], Ok(Answer::Pong), None);
    assert_eq!(
        told,
        [r#"{"id":"a","type":"next","payload":{"data":{"a":1}}}"#, r#"{"id":"a","type":"complete"}"#]
    );
}

#[test]
fn a_channel_is_left_with_its_last_reader() {
    let mut one = One::connected(Dialect::TransportWs);
    for id in ["a", "b"] {
        one.subscribe(id, "news", "");
        one.live("news", 0);
    }
    assert_eq!(one.say(r#"{"type":"complete","id":"a"}"#), Ok(Vec::new()));
    assert_eq!(one.deliver("news", 1, "1").len(), 1);
    assert_eq!(one.say(r#"{"type":"complete","id":"b"}"#), Ok(vec![unsubscribe("news")]));
    assert_eq!(
        one.say(r#"{"type":"complete","id":"b"}"#),
        Ok(Vec::new()),
        "the server may have ended it too"
    );
}

#[test]
fn nothing_late_reaches_whoever_has_the_id_of_one_that_is_over() {
    let mut one = One::connected(Dialect::TransportWs);
    one.subscribe("1", "news", "");
    one.live("news", 0);
    one.say(r#"{"type":"complete","id":"1"}"#).unwrap();
    one.subscribe("1", "sport", "");
    assert!(one.deliver("news", 1, "\"late\"").is_empty());
    one.live("sport", 0);
    assert!(one.deliver("news", 2, "\"late\"").is_empty());
    assert_eq!(one.deliver("sport", 1, "7").len(), 1);
}

#[test]
fn one_that_left_before_it_was_answered_leaves_nothing_behind() {
    let mut one = One::connected(Dialect::TransportWs);
    one.subscribe("a", "@where", "");
    one.say(r#"{"type":"complete","id":"a"}"#).unwrap();
    one.live("news", 0);
    assert_eq!(one.actions(), (vec![unsubscribe("news")], None));
    // Another operation whose channel is still unknown may read the same channel.
    one.subscribe("b", "news", "");
    one.live("news", 0);
    one.subscribe("c", "@where", "");
    assert_eq!(one.say(r#"{"type":"complete","id":"b"}"#), Ok(Vec::new()));
    one.live("news", 0);
    assert_eq!(one.actions(), (Vec::new(), None));
    assert_eq!(one.deliver("news", 1, "1").len(), 1);
}

#[test]
fn whoever_comes_back_is_given_what_it_missed_and_those_beside_it_nothing_twice() {
    let mut one = One::connected(Dialect::TransportWs);
    one.subscribe("a", "news", r#""tidegate":{"positions":true}"#);
    one.live("news", 5);
    one.deliver("news", 6, "6");
    let recover = r#""tidegate":{"recover":{"epoch":"life","offset":4}}"#;
    let Request::Subscribe(subscribe) = one.subscribe("b", "news", recover) else { panic!("it subscribes") };
    assert!(subscribe.recover && subscribe.additional_reader);
    assert_eq!((subscribe.offset, &*subscribe.epoch), (4, "life"));
    let publications = (5..8).map(|offset| publication(offset, &offset.to_string())).collect();
    let (position, recovered) = (Some(at(4)), true);
    let subscribed = Subscribed { publications, position, recovered, ..Subscribed::default() };
    let (_, told) = one.reply(one.numbers[1], Ok(Answer::Subscribe(subscribed)), Some("news"));
    let told: Vec<_> = told.iter().map(|message| (&message[7..8], &message[47..48])).collect();
    assert_eq!(told, [("b", "5"), ("b", "6"), ("a", "7"), ("b", "7")]);
    assert!(one.deliver("news", 7, "7").is_empty());
}

#[test]
fn nobody_is_read_past_by_one_who_comes_from_further_on() {
    let mut one = One::connected(Dialect::TransportWs);
    one.subscribe("a", "news", "");
    one.live("news", 5);
    let recover = r#""tidegate":{"recover":{"epoch":"life","offset":7}}"#;
    let Request::Subscribe(subscribe) = one.subscribe("b", "news", recover) else { panic!("it subscribes") };
    assert_eq!(subscribe.offset, 5);
    let publications = (6..9).map(|offset| publication(offset, &offset.to_string())).collect();
    let subscribed =
        Subscribed { publications, position: Some(at(5)), recovered: true, ..Subscribed::default() };
    let (_, told) = one.reply(one.numbers[1], Ok(Answer::Subscribe(subscribed)), Some("news"));
    let told: Vec<_> = told.iter().map(|message| (&message[7..8], &message[47..48])).collect();
    assert_eq!(told, [("a", "6"), ("a", "7"), ("a", "8"), ("b", "8")]);
}

#[test]
fn what_cannot_be_recovered_is_told_and_not_passed_over() {
    let mut one = One::connected(Dialect::TransportWs);
    one.subscribe("a", "news", r#""tidegate":{"recover":{"epoch":"gone","offset":4}}"#);
    let subscribed = Subscribed { position: Some(at(9)), was_recovering: true, ..Subscribed::default() };
    let (_, told) = one.reply(one.numbers[0], Ok(Answer::Subscribe(subscribed)), Some("news"));
    assert!(told[0].contains(r#""type":"error""#) && told[0].contains("UNRECOVERABLE_POSITION"), "{told:?}");
    assert_eq!(one.actions(), (vec![unsubscribe("news")], None));
}

#[test]
fn the_end_of_a_subscription_is_told_to_its_operations() {
    let mut out = BytesMut::new();
    let channel = Channel::parse("news", 255).unwrap();
    for (code, word) in
        [(UnsubscribeCode::Server, "complete"), (UnsubscribeCode::InsufficientState, "INSUFFICIENT_STATE")]
    {
        let mut one = One::connected(Dialect::TransportWs);
        one.subscribe("a", "news", "");
        one.live("news", 0);
        one.graphql.encode_push(Push::to(&channel, Event::Unsubscribed(code)), &mut out);
        assert!(text(&out).contains(word), "{}", text(&out));
        assert!(one.deliver("news", 1, "1").is_empty());
        assert_eq!(one.actions(), (Vec::new(), None), "the session has left the channel");
        out.clear();
    }
}

#[test]
fn there_are_no_more_operations_than_a_client_may_have() {
    let mut one = One::connected(Dialect::TransportWs);
    for id in ["a", "b", "c", "d"] {
        assert!(matches!(one.subscribe(id, "news", ""), Request::Subscribe(_)));
    }
    assert_eq!(one.subscribe("e", "news", ""), Request::Refused(ErrorCode::LimitExceeded));
    let (_, told) = one.reply(*one.numbers.last().unwrap(), Err(ErrorCode::BadRequest), None);
    assert!(told[0].contains("LIMIT_EXCEEDED"), "{told:?}");
}

#[test]
fn extensions_that_nobody_understands_are_a_mistake() {
    for extensions in [r#""tidegate":{"recover":{"offset":1}}"#, r#""tidegate":{"position":true}"#] {
        let mut one = One::connected(Dialect::TransportWs);
        assert_eq!(
            one.subscribe("a", "news", extensions),
            Request::Refused(ErrorCode::BadRequest),
            "{extensions}"
        );
    }
    let mut one = One::connected(Dialect::TransportWs);
    assert!(matches!(one.subscribe("a", "news", r#""other":{"x":1}"#), Request::Subscribe(_)));
}

#[test]
fn the_old_subprotocol_has_words_of_its_own_and_does_not_wait() {
    let mut one = One::new(Dialect::SubscriptionsTransport);
    one.say(r#"{"type":"connection_init","payload":{}}"#).unwrap();
    one.subscribe("1", "news", "");
    one.reply(number::CONNECT, Ok(connected()), None);
    one.live("news", 0);
    assert_eq!(one.deliver("news", 1, "7"), [r#"{"id":"1","type":"data","payload":{"data":{"m":7}}}"#]);
    one.subscribe("2", "!why", "");
    let (_, told) = one.reply(one.numbers[1], Err(ErrorCode::BadRequest), None);
    assert!(told[0].starts_with(r#"{"id":"2","type":"error","payload":{"message":"why""#), "{told:?}");
    assert_eq!(one.say(r#"{"type":"stop","id":"1"}"#), Ok(vec![unsubscribe("news")]));
    let terminated = one.say(r#"{"type":"connection_terminate"}"#).unwrap_err();
    assert_eq!(terminated.disconnect().code, 1000);
    let refused = One::new(Dialect::SubscriptionsTransport);
    let (_, told) = refused.reply(number::CONNECT, Err(ErrorCode::PermissionDenied), None);
    assert!(told[0].starts_with(r#"{"type":"connection_error","payload":{"message":"#), "{told:?}");
    assert_eq!(refused.actions().1, Some(4403));
}

#[test]
fn in_one_stream_events_name_their_operation_and_in_a_stream_each_they_do_not() {
    let mut one = One::new(Dialect::OneStream);
    let (begins, _) = one.reply(
        number::CONNECT,
        Ok(Answer::Connect(Box::new(Connected {
            session: Some("secret".into()),
            ..Connected::new(ClientId::from_random(1), "1", "node".into())
        }))),
        None,
    );
    assert_eq!(
        begins,
        Encoded::Begin(Some(super::super::Header { name: STREAM_TOKEN, value: "node.secret".into() }))
    );
    one.subscribe("a", "news", "");
    one.live("news", 0);
    assert_eq!(
        one.deliver("news", 1, "7"),
        ["event: next\ndata: {\"id\":\"a\",\"payload\":{\"data\":{\"m\":7}}}\n\n"]
    );
    one.subscribe("b", "?", "");
    let (_, told) = one.reply(one.numbers[1], Ok(Answer::Pong), None);
    assert_eq!(told[1], "event: complete\ndata: {\"id\":\"b\"}\n\n");

    let mut each = One::new(Dialect::StreamEach);
    each.subscribe("", "!why", "");
    let (_, told) = each.reply(each.numbers[0], Err(ErrorCode::BadRequest), None);
    assert!(told[0].starts_with("event: next\ndata: {\"errors\":[{\"message\":\"why\""), "{told:?}");
    assert_eq!(each.actions().1, Some(1000), "its stream ends with it");
    let mut out = BytesMut::new();
    GraphQlRecords.encode_push(Push::alone(Event::Disconnected(&Disconnect::NORMAL)), &mut out);
    assert_eq!(text(&out), "event: complete\ndata:\n\n");
}
