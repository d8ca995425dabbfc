//! The bare protocol uses the same session: its address has what other protocols put into commands.

use std::sync::Arc;

use gateway_core::effect::{Denial, OutcomeResult};
use gateway_core::session::{Application, Context, SessionSettings};
use shared::command::Since;
use shared::error::ErrorCode;
use shared::framing::{Message, MessageKind};
use shared::protocol::raw::{MessageHandling, Raw};
use shared::publication::Payload;
use shared::push::UnsubscribeCode;

use crate::support::{Client, authenticated, channel, context, joined, page};

fn open(channel: &str, recover: Option<Since>) -> Client {
    Client::speaking(Arc::new(Raw::new(channel.into(), "token".into(), recover)), context())
}

fn subscribed(channel: &str) -> Client {
    let mut client = open(channel, None);
    assert_eq!(client.did(), ["authenticate token"]);
    client.answer(authenticated("ann"));
    assert_eq!(client.did(), [format!("join {channel}")]);
    client.answer(joined(None));
    assert_eq!(client.did(), [format!("live {channel}")]);
    client
}

#[test]
fn being_opened_connects_and_subscribes() {
    let client = subscribed("news");
    assert!(client.session.is_connected());
}

#[test]
fn what_is_sent_is_published_and_not_answered() {
    let mut client = subscribed("news");
    client.says("hello");
    assert_eq!(client.did(), ["publish news hello"]);
    client.answer(OutcomeResult::Published(Ok(())));
    client.session.handle_message(client.now, Message { kind: MessageKind::Binary, data: b"\x00" });
    client.says("");
    assert_eq!(client.did(), ["publish news \u{0}"]);
    client.answer(OutcomeResult::Published(Ok(())));
    assert_eq!(client.did(), ["publish news "], "an empty text is a text");
}

#[test]
fn what_is_sent_to_the_application_is_answered_in_order_and_a_refusal_closes() {
    let application = Application { messages: true, ..Application::default() };
    let context = Context { application, ..context() };
    let mut client = Client::speaking(
        Arc::new(Raw::new("".into(), "".into(), None).taking(MessageHandling::Ask)),
        context,
    );
    assert_eq!(client.did(), ["authenticate "]);
    client.answer(authenticated("ann"));
    assert_eq!(client.did(), [""; 0], "there is no channel to subscribe to");
    client.says("one");
    client.says("two");
    assert_eq!(client.did(), ["message one"]);
    client.answer(OutcomeResult::Messaged(Ok(Some(Payload::text("uno")))));
    assert_eq!(client.did(), ["message two", "< uno"]);
    client.answer(OutcomeResult::Messaged(Ok(None)));
    client.says("three");
    assert_eq!(client.did(), ["message three"]);
    client.answer(OutcomeResult::Messaged(Err(Denial::of(ErrorCode::Internal))));
    assert_eq!(client.did(), ["close 3004"]);
}

#[test]
fn what_is_sent_where_nothing_is_taken_closes() {
    let raw = Raw::new("news".into(), "".into(), None).taking(MessageHandling::Refuse);
    let mut client = Client::speaking(Arc::new(raw), context());
    client.did();
    client.answer(authenticated("ann"));
    client.did();
    client.answer(joined(None));
    assert_eq!(client.did(), ["live news"]);
    client.says("hello");
    assert_eq!(client.did(), ["close 3507"]);
}

#[test]
fn what_is_sent_early_waits_for_the_subscription() {
    let mut client = open("news", None);
    client.says("early");
    assert_eq!(client.did(), ["authenticate token"]);
    client.answer(authenticated("ann"));
    client.did();
    client.answer(joined(None));
    assert_eq!(client.did(), ["live news", "publish news early"]);
}

#[test]
fn every_refusal_closes() {
    let mut client = open("shut:a", None);
    client.did();
    client.answer(authenticated("ann"));
    assert_eq!(client.did(), ["close 3507"]);

    let mut client = open("news", None);
    client.did();
    client.answer(OutcomeResult::Authenticated(Err(crate::support::refused(ErrorCode::TokenExpired))));
    assert_eq!(client.did(), ["close 3500"]);

    let mut client = subscribed("news");
    client.says("hello");
    client.did();
    client.answer(OutcomeResult::Published(Err(ErrorCode::Internal.into())));
    assert_eq!(client.did(), ["close 3004"]);

    let mut client = open("", None);
    client.did();
    client.answer(authenticated("ann"));
    assert_eq!(client.did(), ["close 3501"]);
}

#[test]
fn what_was_missed_comes_as_messages_of_its_own_before_live() {
    let since = Since { offset: 1, epoch: "life".into() };
    let mut client = open("log:a", Some(since.clone()));
    client.did();
    client.answer(authenticated("ann"));
    assert_eq!(client.did(), ["join log:a since 1 limit 300 positioned present"]);
    client.answer(joined(Some(page(&[2, 3], 3))));
    assert_eq!(client.did(), ["< 2", "< 3", "live log:a @3"]);

    let mut client = open("log:a", Some(since));
    client.did();
    client.answer(authenticated("ann"));
    client.did();
    client.answer(joined(Some(page(&[3], 3))));
    assert_eq!(client.did(), ["leave log:a", "close 3010"]);
}

#[test]
fn the_end_of_the_subscription_is_the_end_of_the_connection() {
    for (code, close) in
        [(UnsubscribeCode::Server, "close 3503"), (UnsubscribeCode::InsufficientState, "close 3010")]
    {
        let mut client = subscribed("news");
        client.session.handle_unsubscribe(&channel("news"), code);
        assert_eq!(client.did(), ["leave news", close]);
    }
}

#[test]
fn the_transport_pings_and_its_pong_counts() {
    let mut client = subscribed("news");
    client.session.handle_transport_pong(client.now);
    client.waits_ms(12_500);
    assert_eq!(client.did(), ["ping"], "a pong that was not asked for means nothing");
    client.waits_ms(3_000);
    client.session.handle_transport_pong(client.now);
    client.waits_ms(21_999);
    assert_eq!(client.did(), [""; 0]);
    client.waits_ms(1);
    assert_eq!(client.did(), ["ping"]);
    client.waits_ms(8_000);
    assert_eq!(client.did(), ["close 3012"]);
}

#[test]
fn limits_hold_here_too() {
    let settings = SessionSettings { bytes_per_second: 10, bytes_burst: 10, ..SessionSettings::default() };
    let raw = Arc::new(Raw::new("news".into(), "".into(), None));
    let mut client = Client::speaking(raw, Context { settings, ..context() });
    client.says("far too long");
    assert_eq!(client.did(), ["authenticate ", "close 3013"]);
}
