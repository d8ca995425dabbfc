//! Connections and subscriptions that the application or the server API renews.

use std::time::Duration;

use bytes::Bytes;
use gateway_core::effect::{Denial, Grant, Identity, OutcomeResult, Renewal};
use gateway_core::session::RENEWAL_RETRY;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::moment::Moment;

use crate::support::{Client, context, error, joined, page, refused};

const END: Moment = Moment(1_000_000 + 5_000);

fn client() -> Client {
    let identity = Identity { expires: Some(END), refreshed_by_server: true, ..Identity::default() };
    Client::connected(context(), identity)
}

fn stays(expires: Option<Moment>) -> Renewal {
    Renewal::Stays { expires, info: None, meta: None }
}

fn renewed(renewal: Renewal) -> OutcomeResult {
    OutcomeResult::Renewed(Ok(renewal))
}

#[test]
fn the_application_is_asked_when_a_connection_expires() {
    let mut client = client();
    client.waits_ms(4_999);
    assert_eq!(client.did(), [""; 0]);
    client.waits_ms(1);
    assert_eq!(client.did(), ["refresh"]);
    client.answer(renewed(stays(Some(END + Duration::from_secs(5)))));
    client.waits_ms(5_000);
    assert_eq!(client.did(), ["refresh"], "and again when the new time is over");
    client.answer(renewed(stays(None)));
    client.says(r#"{"id":2,"unsubscribe":{"channel":"a"}}"#);
    assert_eq!(client.did(), [r#"< {"id":2,"unsubscribe":{}}"#]);
}

#[test]
fn a_client_is_not_told_to_refresh_what_it_cannot() {
    let mut client = Client::open(context());
    client.says(r#"{"id":1,"connect":{}}"#);
    client.did();
    let identity = Identity { expires: Some(END), refreshed_by_server: true, ..Identity::default() };
    client.answer(OutcomeResult::Authenticated(Ok(identity)));
    assert!(!client.did()[0].contains("expires"));
    client.says(r#"{"id":2,"refresh":{"token":"t"}}"#);
    assert_eq!(client.did(), ["close 3501"]);
}

#[test]
fn what_the_application_ends_is_over() {
    for (answer, close) in [
        (Ok(Renewal::Expired), "close 3005"),
        (Ok(stays(Some(Moment(5)))), "close 3005"),
        (Err(Denial::Disconnect(Disconnect::FORCE_DISCONNECT)), "close 3503"),
    ] {
        let mut client = client();
        client.waits_ms(5_000);
        client.did();
        client.answer(OutcomeResult::Renewed(answer));
        assert_eq!(client.did(), [close]);
    }
}

#[test]
fn an_application_that_does_not_answer_is_asked_again_until_it_is_too_late() {
    let grace = Duration::from_secs(60);
    let mut client = client();
    client.waits_ms(5_000);
    let mut asked = 0;
    while client.session.is_connected() {
        for line in client.did() {
            match line.as_str() {
                "refresh" => {
                    asked += 1;
                    client.answer(renewed(Renewal::Unanswered { grace }));
                }
                "< {}" => client.says("{}"),
                line => panic!("{line}"),
            }
        }
        client.waits_ms(500);
    }
    assert_eq!(client.did(), ["close 3005"]);
    assert_eq!(client.now, END + grace);
    let expected = grace.as_millis() / RENEWAL_RETRY.as_millis();
    assert!((expected - 1..=expected).contains(&asked), "{asked}");
}

#[test]
fn a_refusal_and_a_wrong_answer_count_as_none() {
    for answer in [OutcomeResult::Renewed(Err(refused(ErrorCode::Internal))), OutcomeResult::Room] {
        let mut client = client();
        client.waits_ms(5_000);
        client.did();
        client.answer(answer);
        client.waits(RENEWAL_RETRY);
        assert_eq!(client.did(), ["refresh"]);
        client.answer(renewed(stays(None)));
        client.waits_ms(0);
        assert!(client.session.is_connected());
    }
}

#[test]
fn a_question_that_nobody_answers_keeps_a_connection_no_longer_than_others_have() {
    let mut client = client();
    client.waits_ms(5_000);
    assert_eq!(client.did(), ["refresh"]);
    while client.session.is_connected() {
        client.waits_ms(100);
        if client.did().contains(&"< {}".to_owned()) {
            client.says("{}");
        }
    }
    assert_eq!(client.now, END + Duration::from_secs(25));
}

#[test]
fn subscriptions_are_renewed_in_the_same_way() {
    let subscribed = || {
        let mut client = Client::anonymous();
        let grant = Grant { expires: Some(END), refreshed_by_server: true, ..Grant::default() };
        client.subscribe_with_token("a", grant);
        client.waits_ms(5_000);
        assert_eq!(client.did(), ["sub_refresh a"]);
        client
    };
    let mut client = subscribed();
    let info = Some(Bytes::from_static(b"7"));
    client.answer(renewed(Renewal::Stays { expires: Some(END + Duration::from_secs(1)), info, meta: None }));
    client.waits_ms(1_000);
    assert_eq!(client.did(), ["sub_refresh a"]);
    client.says(r#"{"id":5,"sub_refresh":{"channel":"a","token":"t"}}"#);
    assert_eq!(client.did(), [error(5, ErrorCode::PermissionDenied)]);
    client.says(r#"{"id":6,"unsubscribe":{"channel":"a"}}"#);
    client.did();
    client.answer(renewed(Renewal::Expired));
    assert_eq!(client.did(), [""; 0], "it has ended already");

    let mut client = subscribed();
    client.answer(renewed(Renewal::Expired));
    let push = r#"< {"push":{"channel":"a","unsubscribe":{"code":2501,"reason":"subscription expired"}}}"#;
    assert_eq!(client.did(), ["leave a", push]);
}

#[test]
fn the_server_says_how_long_a_connection_is_good_for() {
    let mut client = Client::anonymous();
    let until = client.now + Duration::from_secs(100);
    client.session.handle_refresh(client.now, stays(Some(until)));
    assert_eq!(client.did(), [r#"< {"push":{"refresh":{"expires":true,"ttl":100}}}"#]);
    client.session.handle_refresh(client.now, stays(None));
    assert_eq!(client.did(), [r#"< {"push":{"refresh":{}}}"#]);
    client.session.handle_refresh(client.now, Renewal::Unanswered { grace: Duration::ZERO });
    assert_eq!(client.did(), [""; 0]);
    client.session.handle_refresh(client.now, Renewal::Expired);
    assert_eq!(client.did(), ["close 3005"]);
}

#[test]
fn what_the_application_says_of_a_client_is_shown_where_it_is_present() {
    let mut client = client();
    client.says(r#"{"id":2,"subscribe":{"channel":"log:a"}}"#);
    client.did();
    client.answer(joined(Some(page(&[], 0))));
    client.did();
    let seen_as = |info: &'static [u8]| Some(Bytes::from_static(info));
    client
        .session
        .handle_refresh(client.now, Renewal::Stays { expires: None, info: seen_as(b"1"), meta: None });
    assert_eq!(client.did()[0], "present log:a 1 -");
}
