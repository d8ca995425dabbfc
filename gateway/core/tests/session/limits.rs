//! Limits on what a client may do.

use gateway_core::effect::{Identity, OutcomeResult};
use gateway_core::session::SessionSettings;
use shared::error::ErrorCode;

use crate::support::{Client, error, joined, page, refused, with_settings};

fn client(settings: SessionSettings) -> Client {
    Client::connected(with_settings(settings), Identity::default())
}

const RPC: &str = r#"{"id":2,"rpc":{"method":"m"}}"#;

#[test]
fn a_client_that_sends_too_many_messages_is_closed() {
    let settings =
        SessionSettings { messages_per_second: 10, messages_burst: 5, ..SessionSettings::default() };
    let mut client = client(settings);
    for _ in 0..4 {
        client.says(RPC);
    }
    assert_eq!(client.did().len(), 1, "the connect was the first of the burst");
    client.waits_ms(100);
    client.says(RPC);
    assert_eq!(client.did(), [error(2, ErrorCode::NotAvailable)]);
    client.says(RPC);
    assert_eq!(client.did(), ["close 3013"]);
}

#[test]
fn each_command_of_a_message_counts() {
    let settings =
        SessionSettings { messages_per_second: 10, messages_burst: 5, ..SessionSettings::default() };
    let mut client = client(settings);
    client.says(&[RPC; 5].join("\n"));
    assert_eq!(client.did(), ["close 3013"], "none of them is carried out");
}

#[test]
fn a_client_that_sends_too_many_bytes_is_closed() {
    let settings =
        SessionSettings { bytes_per_second: 1_000, bytes_burst: 300, ..SessionSettings::default() };
    let mut client = client(settings);
    let long = format!(r#"{{"id":2,"rpc":{{"method":"{}"}}}}"#, "m".repeat(200));
    client.says(&long);
    assert_eq!(client.did(), [error(2, ErrorCode::NotAvailable)]);
    client.waits_ms(100);
    client.says(&long);
    assert_eq!(client.did(), ["close 3013"]);
}

#[test]
fn a_client_that_is_refused_too_often_is_closed_for_good() {
    let settings = SessionSettings { errors_max: 3, errors_window_ms: 3_000, ..SessionSettings::default() };
    let mut client = client(settings);
    for _ in 0..3 {
        client.says(RPC);
        assert_eq!(client.did(), [error(2, ErrorCode::NotAvailable)]);
    }
    client.waits_ms(1_000);
    client.says(RPC);
    assert_eq!(client.did(), [error(2, ErrorCode::NotAvailable)], "one is forgiven each second");
    client.says(RPC);
    assert_eq!(client.did(), [error(2, ErrorCode::NotAvailable), "close 3509".to_owned()]);
}

#[test]
fn errors_of_the_server_are_not_held_against_the_client() {
    let settings = SessionSettings { errors_max: 1, ..SessionSettings::default() };
    let mut client = client(settings);
    for _ in 0..5 {
        client.says(r#"{"id":2,"publish":{"channel":"a","data":1}}"#);
        assert_eq!(client.did(), ["publish a 1"]);
        client.answer(OutcomeResult::Published(Err(ErrorCode::Internal.into())));
        assert_eq!(client.did(), [error(2, ErrorCode::Internal)]);
    }
}

#[test]
fn refusals_that_no_client_can_foresee_are_not_held_against_it() {
    let context = with_settings(SessionSettings { errors_max: 1, ..SessionSettings::default() });
    let mut client = Client::connected(context, Identity::default());
    let recover =
        r#"{"id":2,"subscribe":{"channel":"log:a","recover":true,"epoch":"old","offset":9,"flag":2}}"#;
    for _ in 0..5 {
        client.says(recover);
        client.did();
        client.answer(joined(Some(page(&[], 3))));
        assert_eq!(client.did()[1], error(2, ErrorCode::UnrecoverablePosition));
        for code in [ErrorCode::TokenExpired, ErrorCode::Expired, ErrorCode::TooManyRequests] {
            client.says(r#"{"id":2,"subscribe":{"channel":"$a","token":"t"}}"#);
            client.did();
            client.answer(OutcomeResult::Authorized(Err(refused(code))));
            assert_eq!(client.did(), [error(2, code)]);
        }
    }
    assert!(!client.session.is_closed());
}

#[test]
fn zero_is_no_limit() {
    let settings = SessionSettings {
        messages_per_second: 0,
        bytes_per_second: 0,
        errors_max: 0,
        messages_burst: 0,
        bytes_burst: 0,
        ..SessionSettings::default()
    };
    let mut client = client(settings);
    for _ in 0..10_000 {
        client.says(RPC);
    }
    assert!(!client.session.is_closed());
}

#[test]
fn waiting_commands_are_bounded_and_a_client_ahead_of_them_is_not_read_from() {
    let settings = SessionSettings { queued_commands_max: 4, ..SessionSettings::default() };
    let mut client = client(settings);
    client.says(r#"{"id":2,"publish":{"channel":"a","data":1}}"#);
    client.did();
    client.says(RPC);
    assert!(!client.session.is_congested());
    client.says(RPC);
    assert!(client.session.is_congested());
    client.says(RPC);
    client.says(RPC);
    assert!(!client.session.is_closed());
    client.says(RPC);
    assert_eq!(client.did(), ["close 3013"]);
}

#[test]
fn what_has_waited_is_carried_out_and_no_longer_counted() {
    let settings = SessionSettings { queued_commands_max: 4, ..SessionSettings::default() };
    let mut client = client(settings);
    for _ in 0..10 {
        client.says(r#"{"id":2,"publish":{"channel":"a","data":1}}"#);
        client.says(&[RPC; 3].join("\n"));
        assert!(client.session.is_congested());
        client.did();
        client.answer(OutcomeResult::Published(Ok(())));
        assert!(!client.session.is_congested());
        assert_eq!(client.did()[0].lines().count(), 4);
    }
}
