//! Joins and leaves: announced by a session for its own client, and asked for by others.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::channel_rules::ChannelOptions;
use gateway_core::effect::{Grant, Identity, OutcomeResult, Overrides};
use gateway_core::session::Context;
use shared::id::UserId;
use shared::push::UnsubscribeCode;

use crate::support::{Client, channel, context, joined};

/// `told` announces joins and leaves to clients that ask, `shown` has presence beside that; `forced` announces to all,
/// `silent` to none.
fn client() -> Client {
    let base = (*context().rules.default).clone();
    let mut context: Context = context();
    for (name, options) in [
        ("told", ChannelOptions { join_leave: true, allow_join_leave: true, ..base.clone() }),
        ("shown", ChannelOptions { join_leave: true, presence: true, ..base.clone() }),
        ("forced", ChannelOptions { join_leave: true, force_push_join_leave: true, ..base.clone() }),
        ("silent", base),
    ] {
        context.rules.namespaces.insert(name.into(), Arc::new(options));
    }
    Client::connected(context, Identity { user: UserId::new("ann"), ..Identity::default() })
}

fn subscribe(client: &mut Client, rest: &str) -> (Vec<String>, Vec<String>) {
    client.says(&format!(r#"{{"id":2,"subscribe":{{{rest}}}}}"#));
    let effects_of = client.did();
    client.answer(joined(None));
    (effects_of, client.did())
}

#[test]
fn a_subscriber_is_announced_once_it_has_been_told_and_again_when_it_leaves() {
    let mut client = client();
    let (effects_of, did) = subscribe(&mut client, r#""channel":"told:a""#);
    assert_eq!(effects_of, ["join told:a"]);
    assert_eq!(did[1..], ["live told:a", "announce told:a ann joined"]);
    client.says(r#"{"id":3,"unsubscribe":{"channel":"told:a"}}"#);
    assert_eq!(client.did()[..2], ["leave told:a", "announce told:a ann left"]);
    assert_eq!(client.session.take_announced(), []);
}

#[test]
fn it_is_told_of_others_where_it_asks_and_may_or_where_all_are() {
    let effects_of = |rest: &str| subscribe(&mut client(), rest).0;
    assert_eq!(effects_of(r#""channel":"told:a","join_leave":true"#), ["join told:a joins"]);
    assert_eq!(effects_of(r#""channel":"silent:a","join_leave":true"#), ["join silent:a"]);
    assert_eq!(effects_of(r#""channel":"forced:a""#), ["join forced:a joins"]);
}

#[test]
fn whoever_leaves_by_closing_is_announced_by_whom_the_session_names() {
    let mut client = client();
    for name in ["told:a", "forced:b", "silent:c"] {
        subscribe(&mut client, &format!(r#""channel":"{name}""#));
    }
    client.says(r#"{"id":9,"subscribe":{"channel":"told:in_flight"}}"#);
    client.did();
    client.session.handle_disconnect(shared::disconnect::Disconnect::SHUTDOWN);
    assert_eq!(client.did(), ["close 3001"]);
    let announced = client.session.take_announced();
    let channels: Vec<_> =
        announced.iter().map(|(channel, info)| (channel.as_str(), info.user.as_str())).collect();
    assert_eq!(channels, [("forced:b", "ann"), ("told:a", "ann")]);
    assert_eq!(client.session.take_announced(), [], "each once");
}

#[test]
fn who_was_ended_before_it_knew_of_it_has_not_been_there() {
    let mut client = client();
    client.says(r#"{"id":2,"subscribe":{"channel":"told:a"}}"#);
    client.did();
    client.session.handle_unsubscribe(&channel("told:a"), UnsubscribeCode::Server);
    client.answer(joined(None));
    assert!(client.did().iter().all(|line| !line.starts_with("announce")));
    client.says(r#"{"id":3,"subscribe":{"channel":"told:a"}}"#);
    client.did();
    client.answer(OutcomeResult::Joined(Err(shared::error::ErrorCode::Internal)));
    assert!(client.did().iter().all(|line| !line.starts_with("announce")));
}

#[test]
fn who_closes_while_it_can_be_seen_in_presence_is_told_as_gone_though_its_join_was_not_announced() {
    let mut closed = client();
    closed.says(r#"{"id":2,"subscribe":{"channel":"shown:a"}}"#);
    closed.did();
    closed.session.handle_disconnect(shared::disconnect::Disconnect::SHUTDOWN);
    let announced = closed.session.take_announced();
    assert_eq!(announced.len(), 1);
    assert_eq!((announced[0].0.as_str(), announced[0].1.user.as_str()), ("shown:a", "ann"));
    assert_eq!(closed.session.take_announced(), [], "once");
    assert!(!closed.session.take_announced_in(&channel("shown:a")), "once");
}

#[test]
fn a_join_that_fails_announces_nothing_since_the_client_may_join_again_at_once() {
    let mut failed = client();
    failed.says(r#"{"id":2,"subscribe":{"channel":"shown:a"}}"#);
    failed.did();
    failed.answer(OutcomeResult::Joined(Err(shared::error::ErrorCode::Internal)));
    assert!(failed.did().iter().all(|line| !line.starts_with("announce")));
}

#[test]
fn a_grant_says_whether_one_is_announced_and_what_of_it() {
    let mut client = client();
    let overrides = Overrides { join_leave: Some(true), ..Overrides::default() };
    let info = Some(Bytes::from_static(b"\"vip\""));
    let grant = Grant { user: UserId::new("ann"), overrides, info, ..Grant::default() };
    client.subscribe_with_token("silent:a", grant);
    let announced = client.session.take_announced();
    assert_eq!(announced.len(), 1);
    assert_eq!(announced[0].1.chan_info.as_deref(), Some(&b"\"vip\""[..]));
}
