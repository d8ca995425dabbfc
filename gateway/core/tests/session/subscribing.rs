//! The subscribe command: who may subscribe, what the session asks of the hub and the broker, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::channel_rules::ChannelOptions;
use gateway_core::effect::{Denial, Effect, Grant, Identity, OutcomeResult};
use gateway_core::name_rule::NameRule;
use gateway_core::session::{Context, SessionSettings};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::{ClientId, UserId};

use crate::support::{Client, authenticated, channel, context, error, joined, page, refused, with_settings};

fn grant(user: &str) -> Grant {
    Grant { user: UserId::new(user), ..Grant::default() }
}

fn subscribe(client: &mut Client, channel: &str) -> Vec<String> {
    client.says(&format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#));
    client.did()
}

#[test]
fn a_subscription_is_joined_then_answered_then_live() {
    let mut client = Client::anonymous();
    assert_eq!(subscribe(&mut client, "news"), ["join news"]);
    client.answer(joined(None));
    assert_eq!(client.did(), [r#"< {"id":2,"subscribe":{}}"#, "live news"]);
    assert_eq!(client.session.subscriptions().collect::<Vec<_>>(), [&channel("news")]);
}

#[test]
fn a_channel_with_history_tells_where_it_stands() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"log:a","positioned":true}}"#);
    assert_eq!(client.did(), ["join log:a limit 0 positioned present"]);
    client.answer(joined(Some(page(&[], 7))));
    let reply = r#"< {"id":2,"subscribe":{"epoch":"life","offset":7,"positioned":true}}"#;
    assert_eq!(client.did(), [reply, "live log:a @7"]);
}

#[test]
fn recovery_and_positions_can_be_asked_for_or_forced_where_history_is_kept() {
    let reply_to = |subscribe: &str| {
        let mut client = Client::anonymous();
        client.says(&format!(r#"{{"id":2,"subscribe":{{{subscribe}}}}}"#));
        let did = client.did();
        let kept = did[0].contains(" limit 0");
        client.answer(joined(kept.then(|| page(&[], 0))));
        let reply = client.did().remove(0);
        (did[0].contains("positioned"), reply.contains("\"positioned\""), reply.contains("\"recoverable\""))
    };
    assert_eq!(reply_to(r#""channel":"log:a""#), (false, false, false));
    assert_eq!(reply_to(r#""channel":"log:a","positioned":true"#), (true, true, false));
    assert_eq!(reply_to(r#""channel":"log:a","recoverable":true"#), (true, true, true));
    assert_eq!(reply_to(r#""channel":"position:a""#), (true, true, false));
    assert_eq!(reply_to(r#""channel":"recover:a""#), (true, true, true));
    assert_eq!(reply_to(r#""channel":"a","positioned":true,"recoverable":true"#), (false, false, false));
}

#[test]
fn a_missing_channel_name_breaks_the_protocol_and_an_invalid_one_does_not() {
    let mut client = Client::anonymous();
    assert_eq!(subscribe(&mut client, &"x".repeat(256)), [error(2, ErrorCode::BadRequest)]);
    assert_eq!(subscribe(&mut client, "a b"), [error(2, ErrorCode::BadRequest)]);
    assert_eq!(subscribe(&mut client, ""), ["close 3501"]);
}

#[test]
fn the_channel_length_is_a_setting() {
    let context = with_settings(SessionSettings { channel_bytes_max: 4, ..SessionSettings::default() });
    let mut client = Client::connected(context, Default::default());
    assert_eq!(subscribe(&mut client, "12345"), [error(2, ErrorCode::BadRequest)]);
    assert_eq!(subscribe(&mut client, "1234"), ["join 1234"]);
}

#[test]
fn an_unknown_namespace_is_an_unknown_channel() {
    let mut client = Client::anonymous();
    assert_eq!(subscribe(&mut client, "nowhere:a"), [error(2, ErrorCode::UnknownChannel)]);
}

#[test]
fn a_second_subscription_to_a_channel_is_refused() {
    let mut client = Client::anonymous();
    client.subscribe("news");
    assert_eq!(subscribe(&mut client, "news"), [error(2, ErrorCode::AlreadySubscribed)]);
}

#[test]
fn channels_are_limited() {
    let context = with_settings(SessionSettings { channels_max: 2, ..SessionSettings::default() });
    let mut client = Client::connected(context, Default::default());
    client.subscribe("a");
    assert_eq!(subscribe(&mut client, "b"), ["join b"]);
    assert_eq!(subscribe(&mut client, "c"), [error(2, ErrorCode::LimitExceeded)], "one on its way counts");
    client.answer(joined(None));
    client.did();
    assert_eq!(subscribe(&mut client, "a"), [error(2, ErrorCode::AlreadySubscribed)]);
    client.says(r#"{"id":3,"unsubscribe":{"channel":"a"}}"#);
    client.did();
    assert_eq!(subscribe(&mut client, "c"), ["join c"]);
}

#[test]
fn what_no_rule_allows_is_denied() {
    let mut client = Client::user("ann");
    for channel in ["shut:a", "$a", "$log:a", "named:a#bob", "a#ann"] {
        assert_eq!(subscribe(&mut client, channel), [error(2, ErrorCode::PermissionDenied)], "{channel}");
    }
    assert_eq!(subscribe(&mut client, "named:a#bob,ann"), ["join named:a#bob,ann"]);
}

#[test]
fn in_development_everything_is_allowed_that_exists() {
    let mut client = Client::connected(Context { insecure: true, ..context() }, Default::default());
    for channel in ["shut:a", "$a", "named:a#bob"] {
        assert!(subscribe(&mut client, channel)[0].starts_with("join"), "{channel}");
        client.answer(joined(None));
        client.did();
    }
    assert_eq!(subscribe(&mut client, "nowhere:a"), [error(2, ErrorCode::UnknownChannel)]);
}

#[test]
fn a_token_opens_what_no_rule_does() {
    let mut client = Client::user("ann");
    client.says(r#"{"id":2,"subscribe":{"channel":"$a","token":"abc"}}"#);
    assert_eq!(client.did(), ["authorize $a abc"]);
    assert_eq!(client.session.subscriptions().count(), 0, "the hub does not know it yet");
    client.answer(OutcomeResult::Authorized(Ok(grant("ann"))));
    assert_eq!(client.did(), ["join $a"]);
    client.answer(joined(None));
    assert_eq!(client.did(), [r#"< {"id":2,"subscribe":{}}"#, "live $a"]);
}

#[test]
fn a_bad_token_is_denied_even_where_none_is_needed() {
    let mut client = Client::user("ann");
    client.says(r#"{"id":2,"subscribe":{"channel":"news","token":"abc"}}"#);
    client.did();
    client.answer(OutcomeResult::Authorized(Err(refused(ErrorCode::PermissionDenied))));
    assert_eq!(client.did(), [error(2, ErrorCode::PermissionDenied)]);
    assert_eq!(subscribe(&mut client, "news"), ["join news"]);
}

#[test]
fn an_expired_token_is_told_from_an_expired_grant() {
    let mut client = Client::user("ann");
    for (outcome, code) in [
        (Err(refused(ErrorCode::TokenExpired)), ErrorCode::TokenExpired),
        (Ok(Grant { expires: Some(client.now), ..grant("ann") }), ErrorCode::Expired),
    ] {
        client.says(r#"{"id":2,"subscribe":{"channel":"$a","token":"abc"}}"#);
        client.did();
        client.answer(OutcomeResult::Authorized(outcome));
        assert_eq!(client.did(), [error(2, code)]);
    }
}

#[test]
fn a_token_of_another_user_or_channel_closes_for_good() {
    for outcome in [Ok(grant("bob")), Ok(grant("")), Err(Denial::Disconnect(Disconnect::INVALID_TOKEN))] {
        let mut client = Client::user("ann");
        client.says(r#"{"id":2,"subscribe":{"channel":"$a","token":"abc"}}"#);
        client.did();
        client.answer(OutcomeResult::Authorized(outcome));
        assert_eq!(client.did(), ["close 3500"]);
    }
}

#[test]
fn what_a_token_gives_is_told_and_shown() {
    let mut client = Client::user("ann");
    client.says(r#"{"id":2,"subscribe":{"channel":"log:a","token":"abc"}}"#);
    client.did();
    let expires = Some(client.now + Duration::from_secs(60));
    let info = Some(Bytes::from_static(b"\"editor\""));
    client.answer(OutcomeResult::Authorized(Ok(Grant { expires, info, ..grant("ann") })));
    let Some(Effect::Join(join)) = client.session.poll_effect() else { panic!("no join") };
    let presence = join.presence.unwrap();
    assert_eq!(presence.chan_info.as_deref(), Some(&b"\"editor\""[..]));
    assert_eq!(presence.user, UserId::new("ann"));
    let outcome = gateway_core::effect::Outcome { ticket: join.ticket, result: joined(Some(page(&[], 0))) };
    client.session.handle_outcome(client.now, outcome);
    assert!(client.did()[0].contains(r#""expires":true,"ttl":60"#));
}

#[test]
fn names_of_any_letters_are_for_where_that_is_set() {
    let name = "новости: 日本 🙂";
    let mut client = Client::anonymous();
    assert_eq!(subscribe(&mut client, "a b"), [error(2, ErrorCode::BadRequest)]);
    let mut context = context();
    context.rules.unicode = true;
    context.rules.namespaces.insert("новости".into(), context.rules.default.clone());
    let mut client = Client::connected(context, Identity::default());
    assert_eq!(subscribe(&mut client, name), [format!("join {name}")]);
    client.answer(joined(None));
    client.did();
    assert_eq!(subscribe(&mut client, "a\\nb"), [error(2, ErrorCode::BadRequest)]);
}

#[test]
fn a_name_that_the_rule_of_its_namespace_does_not_admit_is_refused() {
    let mut context = context();
    let mut options = (*context.rules.default).clone();
    options.channel_regex = NameRule::parse("^[a-z]+$").unwrap();
    context.rules.namespaces.insert("lower".into(), Arc::new(options));
    let mut client = Client::connected(context, Identity::default());
    assert_eq!(subscribe(&mut client, "lower:ABC"), [error(2, ErrorCode::BadRequest)]);
    assert_eq!(subscribe(&mut client, "lower:abc"), ["join lower:abc"]);
}

#[test]
fn a_channel_of_one_client_is_for_that_client() {
    let mut context = context();
    let options = ChannelOptions { allow_client_channels: true, ..Default::default() };
    context.rules.namespaces.insert("inbox".into(), Arc::new(options));
    let mut client = Client::connected(context, Identity::default());
    let own = format!("inbox:&{}", client.session.client());
    let of_another = format!("inbox:&{}", ClientId::from_bits(1));
    assert_eq!(subscribe(&mut client, &of_another), [error(2, ErrorCode::PermissionDenied)]);
    assert_eq!(subscribe(&mut client, &own), [format!("join {own}")]);
}

#[test]
fn a_join_that_fails_is_left_and_answered() {
    let mut client = Client::anonymous();
    subscribe(&mut client, "news");
    client.answer(OutcomeResult::Joined(Err(ErrorCode::Internal)));
    assert_eq!(client.did(), ["leave news".to_owned(), error(2, ErrorCode::Internal)]);
    assert_eq!(client.session.subscriptions().count(), 0);
    assert_eq!(subscribe(&mut client, "news"), ["join news"], "it can be tried again");
}

#[test]
fn the_answer_to_another_question_fails_a_join() {
    let mut client = Client::anonymous();
    subscribe(&mut client, "news");
    client.answer(authenticated("bob"));
    assert_eq!(client.did(), ["leave news".to_owned(), error(2, ErrorCode::Internal)]);
    assert!(client.session.user().is_anonymous());
}

#[test]
fn a_client_that_closes_while_joining_still_has_a_channel_to_leave() {
    let mut client = Client::anonymous();
    subscribe(&mut client, "news");
    client.session.handle_disconnect(Disconnect::SHUTDOWN);
    assert_eq!(client.did(), ["close 3001"]);
    assert_eq!(client.session.subscriptions().collect::<Vec<_>>(), [&channel("news")]);
    client.answer(joined(None));
    assert_eq!(client.did(), [""; 0]);
}

#[test]
fn an_unknown_delta_breaks_the_protocol_and_a_known_one_is_not_served() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"news","delta":"fossil"}}"#);
    assert_eq!(client.did(), ["join news"]);
    client.answer(joined(None));
    assert_eq!(client.did()[0], r#"< {"id":2,"subscribe":{}}"#);
    client.says(r#"{"id":3,"subscribe":{"channel":"more","delta":"magic"}}"#);
    assert_eq!(client.did(), ["close 3501"]);
}
