//! Subscriptions that the server makes for a client: as it connects, and later.

use std::time::Duration;

use bytes::Bytes;
use gateway_core::effect::{Identity, OutcomeResult, Overrides, ServerSubscription};
use gateway_core::session::{ConnectionKind, Context, JOINS_MAX, SessionSettings};
use shared::command::Since;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::UserId;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::push::UnsubscribeCode;

use crate::support::{CLIENT, Client, channel, context, error, joined, page, with_settings};

fn to(channel: &str) -> ServerSubscription {
    ServerSubscription { channel: channel.into(), ..ServerSubscription::default() }
}

fn ann(subs: Vec<ServerSubscription>) -> OutcomeResult {
    OutcomeResult::Authenticated(Ok(Identity { user: UserId::new("ann"), subs, ..Identity::default() }))
}

/// A client whose token has these subscriptions, up to where its channels are joined.
fn connecting(context: Context, connect: &str, subs: Vec<ServerSubscription>) -> Client {
    let mut client = Client::open(context);
    client.says(&format!(r#"{{"id":1,"connect":{{{connect}}}}}"#));
    client.did();
    client.answer(ann(subs));
    client
}

fn connected(subs: Vec<ServerSubscription>) -> Client {
    let mut client = connecting(context(), "", subs);
    while client.did().iter().any(|line| line.starts_with("join")) {
        client.answer(joined(None));
    }
    assert!(client.session.is_connected());
    client
}

#[test]
fn all_are_joined_before_the_connect_command_is_answered_with_them() {
    let data = Some(Bytes::from_static(br#"{"a":1}"#));
    let subs = vec![ServerSubscription { data, ..to("news") }, to("recover:a")];
    let mut client = connecting(context(), "", subs);
    client.says(r#"{"id":2,"publish":{"channel":"news","data":1}}"#);
    assert_eq!(client.did(), ["join news", "join recover:a limit 0 positioned"]);
    client.answer_for("recover:a", joined(Some(page(&[], 7))));
    assert_eq!(client.did(), [""; 0], "one is missing");
    client.answer_for("news", joined(None));
    let did = client.did();
    let subs = r#""subs":{"news":{"data":{"a":1}},"recover:a":{"recoverable":true,"epoch":"life","offset":7,"positioned":true}}"#;
    assert_eq!(did[0], "publish news 1", "what waited goes on");
    assert!(did[1].contains(subs), "{did:?}");
    assert_eq!(did[2..], ["live recover:a @7", "live news"]);
}

#[test]
fn a_client_that_comes_back_is_given_what_it_missed_of_them() {
    let connect = r#""subs":{"recover:a":{"recover":true,"epoch":"life","offset":5}}"#;
    let mut client = connecting(context(), connect, vec![to("recover:a")]);
    assert_eq!(client.did(), ["join recover:a since 5 limit 300 positioned"]);
    client.answer(joined(Some(page(&[6, 7], 7))));
    let did = client.did();
    assert!(did[0].contains(
        r#""offset":5,"publications":[{"data":6,"offset":6},{"data":7,"offset":7}],"recovered":true"#
    ));
    assert_eq!(did[1..], ["live recover:a @7"]);
}

#[test]
fn what_does_not_fit_into_the_answer_follows_it() {
    let context = with_settings(SessionSettings { reply_bytes_max: 1_024, ..SessionSettings::default() });
    let recover = |name: &str| format!(r#""recover:{name}":{{"recover":true,"epoch":"life","offset":0}}"#);
    let connect = format!(r#""subs":{{{},{}}}"#, recover("a"), recover("b"));
    let mut client = connecting(context, &connect, vec![to("recover:a"), to("recover:b")]);
    client.did();
    let offsets: Vec<u64> = (1..=5).collect();
    client.answer_for("recover:a", joined(Some(page(&offsets, 5))));
    client.answer_for("recover:b", joined(Some(page(&offsets, 5))));
    let did = client.did();
    assert_eq!(did[0].matches(r#""data":"#).count(), 7, "129 bytes each, of 1024: {did:?}");
    assert_eq!(did[1..], ["live recover:a @5", "await room"]);
    client.answer(OutcomeResult::Room);
    assert_eq!(client.did(), ["join recover:b since 2 limit 8 positioned"]);
    client.answer(joined(Some(page(&[3, 4, 5], 5))));
    assert_eq!(client.did()[1..], ["live recover:b @5", "await room"]);
}

#[test]
fn a_client_may_ask_for_channels_that_it_may_subscribe_to() {
    let mut client = connecting(context(), r#""subs":{"news":{},"shut:a":{},"$secret":{}}"#, Vec::new());
    assert_eq!(client.did(), ["join news"]);
    client.answer(joined(None));
    assert!(client.did()[0].contains(r#""subs":{"news":{}}"#));

    let mut client = connecting(context(), r#""subs":{"nowhere:a":{}}"#, Vec::new());
    assert_eq!(client.did(), ["close 3501"]);
    let mut client = connecting(context(), r#""subs":{"news":{"delta":"other"}}"#, Vec::new());
    assert_eq!(client.did(), ["close 3501"]);
}

#[test]
fn more_than_a_connection_may_have_are_too_many() {
    let context = || with_settings(SessionSettings { channels_max: 2, ..SessionSettings::default() });
    let mut client = connecting(context(), "", vec![to("a"), to("b"), to("c")]);
    assert_eq!(client.did(), ["close 3505"]);
    let mut client = connecting(context(), "", vec![to("a"), to("b"), to("a")]);
    assert_eq!(client.did(), ["join a", "join b"], "the same twice is one");
}

#[test]
fn what_cannot_be_is_told_as_an_error() {
    for (name, expected) in [("nowhere:a", ErrorCode::UnknownChannel), ("", ErrorCode::BadRequest)] {
        let mut client = connecting(context(), "", vec![to("news"), to(name)]);
        assert_eq!(client.did(), [error(1, expected)]);
        assert!(client.session.user().is_anonymous());
    }
}

#[test]
fn a_broker_that_fails_for_one_turns_the_client_away_from_all() {
    let mut client = connecting(context(), "", vec![to("a"), to("b")]);
    client.did();
    client.answer_for("a", joined(None));
    client.answer_for("b", OutcomeResult::Joined(Err(ErrorCode::Internal)));
    assert_eq!(client.did(), ["leave b".to_owned(), "leave a".to_owned(), error(1, ErrorCode::Internal)]);
    assert_eq!(client.session.subscriptions().count(), 0);
    assert!(!client.session.is_busy());
}

#[test]
fn so_many_are_joined_at_once_and_the_others_after_them() {
    let subs = (0..JOINS_MAX + 3).map(|number| to(&format!("c{number:02}"))).collect();
    let mut client = connecting(context(), "", subs);
    assert_eq!(client.did().len(), JOINS_MAX);
    client.answer(joined(None));
    assert_eq!(client.did(), [format!("join c{JOINS_MAX}")]);
    for _ in 0..JOINS_MAX + 2 {
        client.answer(joined(None));
        client.did();
    }
    assert!(client.session.is_connected());
    assert_eq!(client.session.subscriptions().count(), JOINS_MAX + 3);
}

#[test]
fn one_that_is_ended_on_the_way_is_not_told_of() {
    let mut client = connecting(context(), "", vec![to("a"), to("b")]);
    client.did();
    client.session.handle_unsubscribe(&channel("a"), UnsubscribeCode::Server);
    client.answer_for("a", joined(None));
    client.answer_for("b", joined(None));
    let did = client.did();
    assert_eq!(did[0], "leave a");
    assert!(did[1].contains(r#""subs":{"b":{}}"#));
    assert_eq!(did[2..], ["live b"]);
    assert_eq!(client.ended, [None]);
}

#[test]
fn every_user_has_a_channel_where_that_is_set() {
    let personal = |namespace: &str| {
        let settings = SessionSettings {
            personal_channel: true,
            personal_channel_namespace: namespace.into(),
            ..SessionSettings::default()
        };
        connecting(with_settings(settings), "", vec![to("news")]).did()
    };
    assert_eq!(personal(""), ["join #ann", "join news"]);
    assert_eq!(personal("log"), ["join log:#ann limit 0 present", "join news"]);
    assert_eq!(personal("nowhere"), [error(1, ErrorCode::UnknownChannel)]);
    let settings = SessionSettings { personal_channel: true, ..SessionSettings::default() };
    let mut nobody = Client::connected(with_settings(settings), Identity::default());
    assert_eq!(nobody.did(), [""; 0]);
    assert_eq!(nobody.session.subscriptions().count(), 0);
}

#[test]
fn who_comes_anew_closes_the_users_other_connections_where_that_is_set() {
    let context = || with_settings(SessionSettings { single_connection: true, ..SessionSettings::default() });
    let mut client = connecting(context(), "", Vec::new());
    assert_eq!(client.did()[0], "close others");
    let mut nobody = Client::connected(context(), Identity::default());
    assert_eq!(nobody.did(), [""; 0]);
}

#[test]
fn clients_do_not_subscribe_to_them_and_may_leave_them() {
    let mut client = connected(vec![to("news")]);
    client.says(r#"{"id":2,"subscribe":{"channel":"news"}}"#);
    assert_eq!(client.did(), [error(2, ErrorCode::AlreadySubscribed)]);
    client.says(r#"{"id":3,"sub_refresh":{"channel":"news","token":"t"}}"#);
    assert_eq!(client.did(), [error(3, ErrorCode::PermissionDenied)]);
    client.says(r#"{"id":4,"unsubscribe":{"channel":"news"}}"#);
    assert_eq!(client.did(), ["leave news", r#"< {"id":4,"unsubscribe":{}}"#]);
}

#[test]
fn a_client_comes_back_as_a_whole_for_a_hole_in_one_of_them() {
    for (code, close) in [
        (UnsubscribeCode::InsufficientState, "close 3010"),
        (UnsubscribeCode::Expired, "close 3006"),
        (UnsubscribeCode::StateInvalidated, "close 3014"),
    ] {
        let mut client = connected(vec![to("news")]);
        client.session.handle_unsubscribe(&channel("news"), code);
        assert_eq!(client.did(), ["leave news", close]);
    }
    let mut client = connected(vec![to("news")]);
    client.session.handle_unsubscribe(&channel("news"), UnsubscribeCode::Server);
    let push = r#"< {"push":{"channel":"news","unsubscribe":{"code":2000,"reason":"server unsubscribe"}}}"#;
    assert_eq!(client.did(), ["leave news", push]);
}

#[test]
fn one_that_ends_by_itself_ends_the_connection() {
    let mut client = Client::open(context());
    client.says(r#"{"id":1,"connect":{}}"#);
    client.did();
    let expires = Some(client.now + Duration::from_secs(60));
    client.answer(ann(vec![ServerSubscription { expires, ..to("news") }]));
    client.did();
    client.answer(joined(None));
    assert!(!client.did()[0].contains(r#""expires""#), "its client cannot refresh it");
    while client.session.is_connected() {
        client.waits_ms(1_000);
        if client.did().iter().any(|line| line == "< {}") {
            client.says("{}");
        }
    }
    assert_eq!(client.now.0, 1_000_000 + 60_000 + 25_000);
}

#[test]
fn the_server_says_more_of_one_than_its_channel_does() {
    let overrides = Overrides {
        presence: Some(true),
        force_recovery: Some(true),
        force_push_join_leave: Some(true),
        ..Overrides::default()
    };
    let mut client = connecting(context(), "", vec![ServerSubscription { overrides, ..to("secret:a") }]);
    assert_eq!(client.did(), ["join secret:a limit 0 positioned joins present"]);
    let overrides = Overrides { force_recovery: Some(false), presence: Some(false), ..Overrides::default() };
    let mut client = connecting(context(), "", vec![ServerSubscription { overrides, ..to("recover:a") }]);
    assert_eq!(client.did(), ["join recover:a limit 0"]);
}

#[test]
fn the_server_subscribes_a_client_later_and_tells_it() {
    let mut client = connected(Vec::new());
    let data = Some(Bytes::from_static(b"7"));
    let now = client.now;
    client.session.handle_subscribe(now, ServerSubscription { data, ..to("recover:a") }, None).unwrap();
    assert_eq!(client.did(), ["join recover:a limit 0 positioned"]);
    client.answer(joined(Some(page(&[], 7))));
    let push = r#"< {"push":{"channel":"recover:a","subscribe":{"recoverable":true,"epoch":"life","offset":7,"positioned":true,"data":7}}}"#;
    assert_eq!(client.did(), [push, "live recover:a @7"]);
    let again = client.session.handle_subscribe(now, to("recover:a"), None);
    assert_eq!(again, Err(ErrorCode::AlreadySubscribed));
    assert_eq!(client.session.handle_subscribe(now, to("no:a"), None), Err(ErrorCode::UnknownChannel));
    assert_eq!(client.session.handle_subscribe(now, to(""), None), Err(ErrorCode::BadRequest));
    assert_eq!(client.did(), [""; 0]);
}

#[test]
fn what_it_is_to_be_given_of_the_past_follows_the_push() {
    let mut client = connected(Vec::new());
    let since = Some(Since { offset: 5, epoch: "life".into() });
    client.session.handle_subscribe(client.now, to("recover:a"), since).unwrap();
    client.did();
    client.answer(joined(Some(page(&[6, 7], 7))));
    let did = client.did();
    let lines: Vec<&str> = did[0].trim_start_matches("< ").split('\n').collect();
    assert_eq!(lines.len(), 3, "{did:?}");
    assert!(lines[0].contains(r#""subscribe":{"recoverable":true,"epoch":"life","offset":5"#));
    assert!(lines[1].contains(r#""pub":{"data":6,"offset":6}"#) && lines[2].contains(r#""offset":7"#));
    assert_eq!(did[1..], ["live recover:a @7"]);
}

#[test]
fn a_server_that_subscribes_a_client_to_too_much_closes_it() {
    let context = with_settings(SessionSettings { channels_max: 1, ..SessionSettings::default() });
    let mut client = Client::connected(context, Identity::default());
    client.session.handle_subscribe(client.now, to("a"), None).unwrap();
    client.did();
    let refused = client.session.handle_subscribe(client.now, to("b"), None);
    assert_eq!(refused, Err(ErrorCode::LimitExceeded));
    assert_eq!(client.did(), ["close 3505"]);
    let late = client.session.handle_subscribe(client.now, to("b"), None);
    assert_eq!(late, Err(ErrorCode::NotAvailable));
}

#[test]
fn where_commands_come_apart_the_answer_says_with_what_they_come() {
    let connection_kind = ConnectionKind::Emulated { session: "secret".into(), node: "id-7".into() };
    let mut client =
        Client::coming(connection_kind, std::sync::Arc::new(CentrifugeJson::default()), context());
    client.says(r#"{"id":1,"connect":{}}"#);
    client.did();
    client.answer(ann(Vec::new()));
    let reply = client.did().remove(0);
    assert!(reply.contains(r#""pong":true,"session":"secret","node":"id-7""#), "{reply}");
}

#[test]
fn where_nothing_comes_back_no_pong_is_expected_and_nothing_is_heard() {
    let one_way = || {
        let connection_kind = ConnectionKind::Unidirectional { session: "s".into() };
        let mut client =
            Client::coming(connection_kind, std::sync::Arc::new(CentrifugeJson::default()), context());
        client.says(r#"{"id":1,"connect":{}}"#);
        client.did();
        client
    };
    let mut client = one_way();
    client.answer(ann(vec![to("news")]));
    client.did();
    client.answer(joined(None));
    let reply = client.did().remove(0);
    assert!(reply.contains(r#""session":"s""#) && !reply.contains("pong"), "{reply}");
    assert!(reply.contains(CLIENT));
    client.says(r#"{"id":2,"unsubscribe":{"channel":"news"}}"#);
    client.says("what is this");
    assert_eq!(client.did(), [""; 0]);
    client.waits_ms(25_000 * 10);
    assert_eq!(client.did(), ["< {}"; 10]);

    for (refusal, close) in [
        (ErrorCode::TokenExpired, "close 3005"),
        (ErrorCode::Internal, "close 3004"),
        (ErrorCode::UnknownChannel, "close 3501"),
    ] {
        let mut client = one_way();
        client.answer(OutcomeResult::Authenticated(Err(crate::support::refused(refusal))));
        assert_eq!(client.did(), [close]);
    }
    let mut client = one_way();
    client.session.handle_disconnect(Disconnect::SHUTDOWN);
    assert_eq!(client.did(), ["close 3001"]);
}
