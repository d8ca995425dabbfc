//! Clients whose request names everything that they follow: they get exactly that, or are refused.

use std::sync::Arc;

use gateway_core::effect::{Identity, OutcomeResult, ServerSubscription};
use gateway_core::session::{ConnectionKind, Context, SessionSettings};
use shared::command::Connect;
use shared::error::ErrorCode;
use shared::id::UserId;
use shared::moment::Moment;
use shared::protocol::event_source::{EventSource, EventSourceRequest};

use crate::support::{CLIENT, Client, context, joined, page, with_settings};

fn asking(context: Context, query: &str, last_event_id: &str) -> Client {
    let request = EventSourceRequest::read(query, Some(last_event_id.as_bytes())).unwrap();
    let protocol = EventSource { types: request.types(), retry_ms: 1_000 };
    let connect: Connect = request.connect();
    let connection_kind = ConnectionKind::Unidirectional { session: "s".into() };
    Client::that_asks(connection_kind, Arc::new(protocol), context, Some(Box::new(connect)))
}

fn ann(subs: &[&str], expires: Option<Moment>) -> OutcomeResult {
    let subs = subs.iter().map(|name| ServerSubscription { channel: (*name).into(), ..Default::default() });
    let subs = subs.collect();
    OutcomeResult::Authenticated(Ok(Identity {
        user: UserId::new("ann"),
        subs,
        expires,
        ..Identity::default()
    }))
}

#[test]
fn the_answer_begins_once_all_channels_are_joined_and_says_where_each_stands() {
    let mut client = asking(context(), "channel=recover:a&channel=recover:b&token=t", "recover:a=life:5");
    assert_eq!(client.did(), ["authenticate t"]);
    client.answer(ann(&["news"], None));
    assert_eq!(
        client.did(),
        ["join recover:a since 5 limit 300 positioned", "join recover:b limit 0 positioned"]
    );
    client.answer_for("recover:a", joined(Some(page(&[6], 6))));
    assert_eq!(client.did(), [""; 0]);
    client.answer_for("recover:b", joined(Some(page(&[], 9))));
    let did = client.did();
    assert_eq!(did[0], "begin");
    assert_eq!(
        did[1],
        format!(
            "< event: subscribed\ndata: {{\"client\":\"{CLIENT}\",\"channels\":{{\"recover:a\":{{\"recovered\":true}},\
             \"recover:b\":{{}}}}}}\nretry: {}\nid: recover:a=life:5&recover:b=life:9\n\n\
             event: recover:a\ndata: 6\nid: recover:a=life:6\n\n",
            500 + shared::id::ClientId::from_random(7).bits() % 1_001
        )
    );
    assert_eq!(did[2..], ["live recover:a @6", "live recover:b @9"]);
}

#[test]
fn what_is_missed_and_cannot_be_had_is_said() {
    for last_id in ["recover:a=death:5", "42"] {
        let mut client = asking(context(), "channel=recover:a", last_id);
        client.did();
        client.answer(ann(&[], None));
        client.did();
        client.answer(joined(Some(page(&[], 7))));
        let did = client.did();
        assert!(
            did[1].contains("{\"recover:a\":{\"recovered\":false}}")
                && did[1].contains("id: recover:a=life:7\n")
        );
    }
}

#[test]
fn one_channel_that_may_not_be_had_refuses_all() {
    for (query, close) in [
        ("channel=news&channel=shut:a", "close 3507"),
        ("channel=$secret", "close 3507"),
        ("channel=nowhere:a", "close 3501"),
    ] {
        let mut client = asking(context(), query, "");
        client.did();
        client.answer(ann(&[], None));
        assert_eq!(client.did(), [close], "{query}");
    }
    let mut client = asking(context(), "channel=news&channel=other", "");
    client.did();
    client.answer(ann(&[], None));
    client.did();
    client.answer_for("news", joined(None));
    client.answer_for("other", OutcomeResult::Joined(Err(ErrorCode::Internal)));
    assert_eq!(client.did(), ["leave other", "leave news", "close 3004"]);
    let few = with_settings(SessionSettings { channels_max: 1, ..SessionSettings::default() });
    let mut client = asking(few, "channel=news&channel=other", "");
    client.did();
    client.answer(ann(&[], None));
    assert_eq!(client.did(), ["close 3505"]);
}

#[test]
fn a_token_that_names_a_channel_opens_it_and_adds_none() {
    let mut client = asking(context(), "channel=shut:a", "");
    client.did();
    client.answer(ann(&["shut:a", "news"], None));
    assert_eq!(client.did(), ["join shut:a limit 0 present"]);
    client.answer(joined(None));
    assert!(client.did()[1].contains("\"channels\":{\"shut:a\":{}}"));
    let refused = client.session.handle_subscribe(
        client.now,
        ServerSubscription { channel: "news".into(), ..Default::default() },
        None,
    );
    assert_eq!(refused, Err(ErrorCode::NotAvailable), "its events would have no place in its id");
}

#[test]
fn without_channels_those_of_the_token_are_followed() {
    let mut client = asking(context(), "token=t", "");
    client.did();
    client.answer(ann(&["news", "shut:a"], None));
    assert_eq!(client.did(), ["join news", "join shut:a limit 0 present"]);
}

#[test]
fn the_application_is_asked_where_its_channels_say_so() {
    let hooked = || {
        let mut context = context();
        let mut options = (*context.rules.default).clone();
        (options.subscribe_hook, options.allow_subscribe) = (true, false);
        context.rules.default = Arc::new(options);
        context
    };
    let begin = || {
        let mut client = asking(hooked(), "channel=news", "");
        client.did();
        client.answer(ann(&[], None));
        assert_eq!(client.did(), ["authorize news "]);
        client
    };
    let mut client = begin();
    let grant = gateway_core::effect::Grant { user: UserId::new("ann"), ..Default::default() };
    client.answer(OutcomeResult::Authorized(Ok(grant)));
    assert_eq!(client.did(), ["join news"]);
    client.answer(joined(None));
    assert_eq!(client.did()[0], "begin");

    let mut client = begin();
    client.answer(OutcomeResult::Authorized(Err(ErrorCode::PermissionDenied.into())));
    assert_eq!(client.did().last().unwrap(), "close 3507");
}

#[test]
fn nobody_answers_its_pings_and_its_end_is_that_of_its_token() {
    let mut client = asking(context(), "channel=news", "");
    client.did();
    let expires = client.now + std::time::Duration::from_secs(60);
    client.answer(ann(&[], Some(expires)));
    client.did();
    client.answer(joined(None));
    client.did();
    client.waits_ms(59_999);
    assert!(client.did().iter().all(|done| done == "ping"));
    client.waits_ms(1);
    assert_eq!(client.did(), ["close 3005"]);
}
