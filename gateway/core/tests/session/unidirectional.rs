//! Clients that identify themselves once, and only receive from then on.

use std::sync::Arc;

use gateway_core::effect::{Denial, Identity, OutcomeResult};
use gateway_core::session::ConnectionKind;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::protocol::centrifuge::uni::CentrifugeUniJson;

use crate::support::{CLIENT, Client, context};

fn stranger() -> Client {
    let connection_kind = ConnectionKind::Unidirectional { session: "s3cret".into() };
    Client::coming(connection_kind, Arc::new(CentrifugeUniJson::default()), context())
}

fn connected() -> Client {
    let mut client = stranger();
    client.says(r#"{"token":"t"}"#);
    assert_eq!(client.did(), ["authenticate t"]);
    client.answer(OutcomeResult::Authenticated(Ok(Identity::default())));
    let told = client.did().remove(0);
    let begin = format!(r#"< {{"connect":{{"client":"{CLIENT}","#);
    assert!(told.starts_with(&begin) && told.contains(r#""ping":25,"#), "{told}");
    assert!(told.contains(r#""session":"s3cret""#) && !told.contains("pong"), "{told}");
    client
}

#[test]
fn what_it_says_later_is_not_looked_at() {
    let mut client = stranger();
    client.says("{}");
    client.says("{}");
    client.says("nonsense");
    assert_eq!(client.did(), ["authenticate "], "not while it is being let in");
    let mut client = connected();
    for message in [r#"{"token":"t"}"#, "nonsense", "", r#"{"id":2,"rpc":{}}"#] {
        client.says(message);
    }
    assert_eq!(client.did(), [""; 0]);
}

#[test]
fn its_first_message_must_be_understood() {
    let mut client = stranger();
    client.says("nonsense");
    assert_eq!(client.did(), ["close 3501"]);
}

#[test]
fn pings_come_every_interval_and_nobody_answers() {
    let mut client = connected();
    client.waits_ms(12_500);
    assert_eq!(client.did(), ["< {}"]);
    for _ in 0..5 {
        client.waits_ms(24_999);
        assert_eq!(client.did(), [""; 0]);
        client.waits_ms(1);
        assert_eq!(client.did(), ["< {}"]);
    }
}

#[test]
fn who_is_not_let_in_is_closed() {
    for (denial, close) in [
        (Denial::Error(ErrorCode::TokenExpired.into()), "close 3005"),
        (Denial::Error(ErrorCode::Internal.into()), "close 3004"),
        (Denial::Disconnect(Disconnect::INVALID_TOKEN), "close 3500"),
    ] {
        let mut client = stranger();
        client.says("{}");
        client.did();
        client.answer(OutcomeResult::Authenticated(Err(denial)));
        assert_eq!(client.did(), [close]);
    }
}
