//! Connecting, from the opening of a connection to the answer to its connect command.

use std::time::Duration;

use bytes::Bytes;
use gateway_core::effect::{Denial, Identity, OutcomeResult};
use gateway_core::session::SessionSettings;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::UserId;

use crate::support::{CLIENT, Client, authenticated, context, error, refused, with_settings};

#[test]
fn a_client_is_authenticated_and_told_who_it_is_and_how_to_stay() {
    let mut client = Client::open(context());
    assert_eq!(client.did(), [""; 0]);
    client.says(r#"{"id":1,"connect":{"token":"abc","name":"js","version":"5"}}"#);
    assert_eq!(client.did(), ["authenticate abc"]);
    assert!(!client.session.is_connected() && client.session.user().is_anonymous());
    client.answer(authenticated("ann"));
    let reply = r#"{"version":"1.2.3","ping":25,"pong":true,"node":"node-1"}"#;
    let reply = reply.replacen('{', &format!(r#"{{"client":"{CLIENT}","#), 1);
    assert_eq!(client.did(), [format!(r#"< {{"id":1,"connect":{reply}}}"#)]);
    assert!(client.session.is_connected());
    assert_eq!(*client.session.user(), UserId::new("ann"));
}

#[test]
fn an_expiry_is_told_in_seconds() {
    let mut client = Client::open(context());
    client.says(r#"{"id":1,"connect":{"token":"abc"}}"#);
    client.did();
    let expires = Some(client.now + Duration::from_millis(90_500));
    client.answer(OutcomeResult::Authenticated(Ok(Identity { expires, ..Identity::default() })));
    assert!(client.did()[0].contains(r#""expires":true,"ttl":90,"#));
}

#[test]
fn no_expiry_is_further_away_than_a_year() {
    let mut client = Client::open(context());
    client.says(r#"{"id":1,"connect":{"token":"abc"}}"#);
    client.did();
    let expires = Some(client.now + Duration::from_secs(u64::from(u32::MAX)));
    client.answer(OutcomeResult::Authenticated(Ok(Identity { expires, ..Identity::default() })));
    assert!(client.did()[0].contains(r#""expires":true,"ttl":31536000,"#));
}

#[test]
fn the_clock_is_told_to_those_who_connect_where_that_is_wanted() {
    for (tell_time, time) in [(true, r#","time":1700000000123}"#), (false, "}")] {
        let settings = SessionSettings { tell_time, ..SessionSettings::default() };
        let mut client = Client::open(with_settings(settings));
        client.says(r#"{"id":1,"connect":{}}"#);
        client.did();
        let time_ms = Some(1_700_000_000_123);
        client.answer(OutcomeResult::Authenticated(Ok(Identity { time_ms, ..Identity::default() })));
        let reply = client.did().remove(0);
        assert!(reply.ends_with(&format!(r#""node":"node-1"{time}}}"#)), "{reply}");
    }
}

#[test]
fn an_identity_that_has_expired_already_is_refused() {
    let mut client = Client::open(context());
    client.says(r#"{"id":1,"connect":{"token":"abc"}}"#);
    client.did();
    let expires = Some(client.now);
    client.answer(OutcomeResult::Authenticated(Ok(Identity { expires, ..Identity::default() })));
    assert_eq!(client.did(), [error(1, ErrorCode::Expired)]);
}

#[test]
fn the_first_command_must_be_connect() {
    for first in [
        r#"{"id":1,"subscribe":{"channel":"news"}}"#,
        r#"{"id":1,"rpc":{"method":"a"}}"#,
        r#"{"send":{"data":1}}"#,
        r#"{"connect":{}}"#,
        "{}",
        "no json",
        "",
    ] {
        let mut client = Client::open(context());
        client.says(first);
        assert_eq!(client.did(), ["close 3501"], "{first}");
        assert!(client.session.is_closed());
    }
}

#[test]
fn a_second_connect_closes() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"connect":{}}"#);
    assert_eq!(client.did(), ["close 3501"]);
}

#[test]
fn an_invalid_token_closes_for_good() {
    let mut client = Client::open(context());
    client.says(r#"{"id":1,"connect":{"token":"bad"}}"#);
    client.did();
    let refusal = Denial::Disconnect(Disconnect::INVALID_TOKEN);
    client.answer(OutcomeResult::Authenticated(Err(refusal)));
    assert_eq!(client.did(), ["close 3500"]);
}

#[test]
fn after_a_connect_error_the_connection_is_of_no_use() {
    let mut client = Client::open(context());
    client
        .says("{\"id\":1,\"connect\":{\"token\":\"old\"}}\n{\"id\":2,\"subscribe\":{\"channel\":\"news\"}}");
    assert_eq!(client.did(), ["authenticate old"]);
    client.answer(OutcomeResult::Authenticated(Err(refused(ErrorCode::TokenExpired))));
    assert_eq!(client.did(), [error(1, ErrorCode::TokenExpired)], "what waited is dropped");
    client.says(r#"{"id":3,"connect":{"token":"new"}}"#);
    assert_eq!(client.did(), ["close 3501"]);
}

#[test]
fn commands_behind_a_connect_wait_for_it() {
    let mut client = Client::open(context());
    client.says("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}\n");
    client.says(r#"{"id":3,"subscribe":{"channel":"b"}}"#);
    assert_eq!(client.did(), ["authenticate "]);
    client.answer(authenticated(""));
    let did = client.did();
    assert_eq!(did[..2], ["join a", "join b"]);
    assert!(did[2].starts_with(r#"< {"id":1,"connect""#));
}

#[test]
fn a_client_that_does_not_connect_in_time_is_stale() {
    let mut silent = Client::open(context());
    silent.waits_ms(9_999);
    assert_eq!(silent.did(), [""; 0]);
    silent.waits_ms(1);
    assert_eq!(silent.did(), ["close 3502"]);

    let mut unanswered = Client::open(context());
    unanswered.says(r#"{"id":1,"connect":{}}"#);
    unanswered.did();
    unanswered.waits_ms(10_000);
    assert_eq!(unanswered.did(), ["close 3502"]);
    unanswered.answer(authenticated("ann"));
    assert_eq!(unanswered.did(), [""; 0], "too late");

    let mut refused_client = Client::open(context());
    refused_client.says(r#"{"id":1,"connect":{}}"#);
    refused_client.did();
    refused_client.answer(OutcomeResult::Authenticated(Err(refused(ErrorCode::Internal))));
    assert_eq!(refused_client.did(), [error(1, ErrorCode::Internal)]);
    refused_client.waits_ms(10_000);
    assert_eq!(refused_client.did(), ["close 3502"]);
}

#[test]
fn the_server_can_close_at_any_time_and_nothing_follows() {
    let mut client = Client::open(context());
    client.says(r#"{"id":1,"connect":{}}"#);
    client.session.handle_disconnect(Disconnect::SHUTDOWN);
    assert_eq!(client.did(), ["authenticate ", "close 3001"]);
    client.answer(authenticated("ann"));
    client.says(r#"{"id":2,"connect":{}}"#);
    client.session.handle_disconnect(Disconnect::SLOW);
    client.waits_ms(1_000_000);
    assert_eq!(client.did(), [""; 0]);
    assert_eq!(client.session.poll_timeout(), None);
    assert!(!client.session.is_connected());
}

#[test]
fn what_was_said_before_a_close_is_sent_before_it() {
    let mut client = Client::anonymous();
    client.says("{\"id\":2,\"rpc\":{\"method\":\"m\"}}\nno json");
    assert_eq!(client.did(), [error(2, ErrorCode::NotAvailable), "close 3501".to_owned()]);
}

#[test]
fn the_answer_to_another_question_closes_a_connecting_client() {
    let mut client = Client::open(context());
    client.says(r#"{"id":1,"connect":{}}"#);
    client.did();
    client.answer(OutcomeResult::Published(Ok(())));
    assert_eq!(client.did(), ["close 3004"]);
}

#[test]
fn what_a_token_says_of_a_client_is_remembered() {
    let info = Some(Bytes::from_static(b"{\"name\":\"Ann\"}"));
    let mut client = Client::connected(context(), Identity { info, ..Identity::default() });
    client.says(r#"{"id":2,"subscribe":{"channel":"log:a"}}"#);
    let Some(gateway_core::effect::Effect::Join(join)) = client.session.poll_effect() else {
        panic!("no join")
    };
    let presence = join.presence.unwrap();
    assert_eq!(presence.conn_info.as_deref(), Some(&b"{\"name\":\"Ann\"}"[..]));
    assert_eq!(presence.client.to_string(), CLIENT);
}
