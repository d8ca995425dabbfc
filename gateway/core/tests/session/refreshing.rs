//! Tokens that expire, and their replacement.

use std::time::Duration;

use bytes::Bytes;
use gateway_core::effect::{Denial, Effect, Grant, Identity, OutcomeResult};
use gateway_core::session::{Context, SessionSettings};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::UserId;
use shared::moment::Moment;

use crate::support::{CLIENT, Client, context, error, joined, page, refused};

/// A context without heartbeats, which would be in the way.
fn quiet() -> Context {
    let settings = SessionSettings { ping_interval_ms: 3_600_000, ..SessionSettings::default() };
    Context { settings, ..context() }
}

fn identity(expires: Moment) -> Identity {
    Identity { user: UserId::new("ann"), expires: Some(expires), ..Identity::default() }
}

/// A client that is connected with a token for a minute.
fn for_a_minute() -> Client {
    let expires = Client::open(quiet()).now + Duration::from_secs(60);
    Client::connected(quiet(), identity(expires))
}

/// A client that is connected without expiry, and subscribed to `news` with a token for a minute.
fn subscribed_for_a_minute() -> Client {
    let identity = Identity { user: UserId::new("ann"), ..Identity::default() };
    let mut client = Client::connected(quiet(), identity);
    let expires = Some(client.now + Duration::from_secs(60));
    client.subscribe_with_token("news", Grant { user: UserId::new("ann"), expires, ..Grant::default() });
    client
}

const SUBSCRIPTION_EXPIRED: &str =
    r#"< {"push":{"channel":"news","unsubscribe":{"code":2501,"reason":"subscription expired"}}}"#;

#[test]
fn an_expired_connection_is_closed_after_a_delay() {
    let mut client = for_a_minute();
    client.waits_ms(84_999);
    assert_eq!(client.did(), [""; 0]);
    client.waits_ms(1);
    assert_eq!(client.did(), ["close 3005"]);
}

#[test]
fn a_refreshed_connection_lives_on() {
    let mut client = for_a_minute();
    client.waits_ms(70_000);
    client.says(r#"{"id":2,"refresh":{"token":"new"}}"#);
    assert_eq!(client.did(), ["reauthenticate new"]);
    let expires = client.now + Duration::from_secs(60);
    client.answer(OutcomeResult::Authenticated(Ok(identity(expires))));
    let body = format!(r#"{{"client":"{CLIENT}","version":"1.2.3","expires":true,"ttl":60}}"#);
    assert_eq!(client.did(), [format!(r#"< {{"id":2,"refresh":{body}}}"#)]);
    client.waits_ms(84_999);
    assert_eq!(client.did(), [""; 0]);
    client.waits_ms(1);
    assert_eq!(client.did(), ["close 3005"]);
}

#[test]
fn a_token_without_an_end_takes_the_end_away() {
    let mut client = for_a_minute();
    client.says(r#"{"id":2,"refresh":{"token":"new"}}"#);
    client.did();
    let identity = Identity { user: UserId::new("ann"), ..Identity::default() };
    client.answer(OutcomeResult::Authenticated(Ok(identity)));
    assert!(!client.did()[0].contains("expires"));
    client.waits_ms(1_000_000);
    assert_eq!(client.did(), [""; 0]);
}

#[test]
fn a_refresh_is_refused_or_closes_for_the_right_reason() {
    let now = Client::open(quiet()).now;
    let invalid = Denial::Disconnect(Disconnect::INVALID_TOKEN);
    for (outcome, did) in [
        (Err(refused(ErrorCode::TokenExpired)), "close 3005".to_owned()),
        (Err(refused(ErrorCode::Internal)), error(2, ErrorCode::Internal)),
        (Err(invalid), "close 3500".to_owned()),
        (Ok(Identity { user: UserId::new("bob"), ..Identity::default() }), "close 3500".to_owned()),
        (Ok(identity(now)), error(2, ErrorCode::Expired)),
    ] {
        let mut client = for_a_minute();
        client.says(r#"{"id":2,"refresh":{"token":"new"}}"#);
        client.did();
        client.answer(OutcomeResult::Authenticated(outcome));
        assert_eq!(client.did(), [did]);
    }
    let mut client = for_a_minute();
    client.says(r#"{"id":2,"refresh":{}}"#);
    assert_eq!(client.did(), ["close 3501"]);
}

#[test]
fn a_new_token_may_end_sooner_than_the_old_one() {
    let mut client = for_a_minute();
    client.says(r#"{"id":2,"refresh":{"token":"new"}}"#);
    client.did();
    client.answer(OutcomeResult::Authenticated(Ok(identity(client.now + Duration::from_secs(10)))));
    client.did();
    client.waits_ms(35_000);
    assert_eq!(client.did(), ["close 3005"]);

    let mut client = subscribed_for_a_minute();
    client.says(r#"{"id":3,"sub_refresh":{"channel":"news","token":"new"}}"#);
    client.did();
    let expires = Some(client.now + Duration::from_secs(10));
    client.answer(OutcomeResult::Authorized(Ok(Grant {
        user: UserId::new("ann"),
        expires,
        ..Grant::default()
    })));
    client.did();
    client.waits_ms(35_000);
    assert_eq!(client.did(), ["leave news", SUBSCRIPTION_EXPIRED]);
}

#[test]
fn an_expired_subscription_is_ended_after_a_delay() {
    let mut client = subscribed_for_a_minute();
    client.waits_ms(84_999);
    assert_eq!(client.did(), [""; 0]);
    client.waits_ms(1);
    assert_eq!(client.did(), ["leave news", SUBSCRIPTION_EXPIRED]);
    assert_eq!(client.session.subscriptions().count(), 0);
    client.waits_ms(1_000_000);
    assert_eq!(client.did(), [""; 0], "the connection is as it was");
}

#[test]
fn a_refreshed_subscription_lives_on() {
    let mut client = subscribed_for_a_minute();
    client.waits_ms(70_000);
    client.says(r#"{"id":3,"sub_refresh":{"channel":"news","token":"new"}}"#);
    assert_eq!(client.did(), ["authorize news new"]);
    let expires = Some(client.now + Duration::from_secs(60));
    let info = Some(Bytes::from_static(b"\"chief\""));
    client.answer(OutcomeResult::Authorized(Ok(Grant {
        user: UserId::new("ann"),
        info: info.clone(),
        expires,
        ..Grant::default()
    })));
    assert_eq!(client.did(), [r#"< {"id":3,"sub_refresh":{"expires":true,"ttl":60}}"#]);
    client.says(r#"{"id":4,"publish":{"channel":"news","data":1}}"#);
    let Some(Effect::Publish { publication, .. }) = client.session.poll_effect() else {
        panic!("nothing published")
    };
    assert_eq!(publication.info.unwrap().chan_info, info, "what the new token says is what others see");
    client.waits_ms(84_999);
    assert_eq!(client.did(), [""; 0]);
    client.waits_ms(1);
    assert_eq!(client.did(), ["leave news", SUBSCRIPTION_EXPIRED]);
}

#[test]
fn a_subscription_refresh_is_refused_or_closes_for_the_right_reason() {
    let now = Client::open(quiet()).now;
    let grant = |user: &str, expires| Grant { user: UserId::new(user), expires, ..Grant::default() };
    for (outcome, did) in [
        (Err(refused(ErrorCode::TokenExpired)), error(3, ErrorCode::TokenExpired)),
        (Err(refused(ErrorCode::PermissionDenied)), error(3, ErrorCode::PermissionDenied)),
        (Err(Denial::Disconnect(Disconnect::INVALID_TOKEN)), "close 3500".to_owned()),
        (Ok(grant("bob", None)), "close 3500".to_owned()),
        (Ok(grant("ann", Some(now))), error(3, ErrorCode::Expired)),
    ] {
        let mut client = subscribed_for_a_minute();
        client.says(r#"{"id":3,"sub_refresh":{"channel":"news","token":"new"}}"#);
        client.did();
        client.answer(OutcomeResult::Authorized(outcome));
        assert_eq!(client.did(), [did]);
    }
    for (command, did) in [
        (r#"{"channel":"other","token":"new"}"#, error(3, ErrorCode::PermissionDenied)),
        (r#"{"channel":"news"}"#, error(3, ErrorCode::BadRequest)),
        (r#"{"token":"new"}"#, "close 3501".to_owned()),
    ] {
        let mut client = subscribed_for_a_minute();
        client.says(&format!(r#"{{"id":3,"sub_refresh":{command}}}"#));
        assert_eq!(client.did(), [did], "{command}");
    }
}

#[test]
fn a_subscription_that_ends_while_it_is_refreshed_has_ended() {
    let mut client = subscribed_for_a_minute();
    client.waits_ms(84_000);
    client.says(r#"{"id":3,"sub_refresh":{"channel":"news","token":"new"}}"#);
    client.waits_ms(1_000);
    assert_eq!(client.did(), ["authorize news new", "leave news", SUBSCRIPTION_EXPIRED]);
    client.answer(OutcomeResult::Authorized(Ok(Grant { user: UserId::new("ann"), ..Grant::default() })));
    assert_eq!(client.did(), [error(3, ErrorCode::PermissionDenied)]);
}

#[test]
fn an_end_that_is_no_longer_anyones_wakes_nobody() {
    let mut client = subscribed_for_a_minute();
    client.says(r#"{"id":3,"unsubscribe":{"channel":"news"}}"#);
    client.did();
    client.waits_ms(85_000);
    assert_eq!(client.did(), [""; 0]);
}

#[test]
fn of_several_subscriptions_each_ends_in_its_time() {
    let mut client = subscribed_for_a_minute();
    let expires = Some(client.now + Duration::from_secs(30));
    client.subscribe_with_token("early", Grant { user: UserId::new("ann"), expires, ..Grant::default() });
    client.subscribe("endless");
    client.waits_ms(55_000);
    assert_eq!(client.did()[0], "leave early");
    client.waits_ms(30_000);
    assert_eq!(client.did()[0], "leave news");
    assert_eq!(client.session.subscriptions().count(), 1);
}

#[test]
fn what_new_tokens_say_of_a_client_is_shown_where_it_is_present() {
    let shown_as = |info: &'static str| Some(Bytes::from_static(info.as_bytes()));
    let ann = |info| Identity { user: UserId::new("ann"), info: shown_as(info), ..Identity::default() };
    let grant = |info| Grant { user: UserId::new("ann"), info: shown_as(info), ..Grant::default() };
    let mut client = Client::connected(quiet(), ann("1"));
    client.subscribe("news");
    client.says(r#"{"id":3,"subscribe":{"channel":"log:a","token":"t"}}"#);
    client.did();
    client.answer(OutcomeResult::Authorized(Ok(grant("2"))));
    assert_eq!(client.did(), ["join log:a limit 0 present"]);
    client.answer(joined(Some(page(&[], 0))));
    client.did();

    client.says(r#"{"id":4,"refresh":{"token":"t"}}"#);
    client.did();
    client.answer(OutcomeResult::Authenticated(Ok(ann("3"))));
    assert_eq!(client.did()[0], "present log:a 3 2", "and not in news, which keeps no presence");
    client.says(r#"{"id":5,"sub_refresh":{"channel":"log:a","token":"t"}}"#);
    client.did();
    client.answer(OutcomeResult::Authorized(Ok(grant("4"))));
    assert_eq!(client.did()[0], "present log:a 3 4");

    client.says(r#"{"id":6,"refresh":{"token":"t"}}"#);
    client.did();
    client.answer(OutcomeResult::Authenticated(Ok(ann("3"))));
    assert_eq!(client.did().len(), 1, "nothing is written where nothing has changed");
}
