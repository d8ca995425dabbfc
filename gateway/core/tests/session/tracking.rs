//! Keys of polled channels: which may be followed by whom, how following begins, and all the ways in which it ends.

use std::time::Duration;

use gateway_core::effect::{OutcomeResult, Verified};
use gateway_core::history::HistoryPage;
use shared::error::ErrorCode;
use shared::position::{Epoch, StreamPosition};

use crate::support::{Client, channel, joined};

fn subscribed() -> Client {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"poll:a","type":4}}"#);
    assert_eq!(client.did(), ["join poll:a"]);
    client.answer(joined(None));
    assert_eq!(client.did(), [r#"< {"id":2,"subscribe":{"type":4}}"#, "live poll:a"]);
    client
}

fn track(client: &mut Client, items: &str, untrack: &str) -> Vec<String> {
    client.says(&format!(
        r#"{{"id":3,"sub_refresh":{{"channel":"poll:a","type":1,"track":[{{"signature":"s","items":[{items}]}}],"untrack":[{untrack}]}}}}"#
    ));
    client.did()
}

/// A signature for these keys, valid for this many seconds.
fn signed(client: &Client, keys: &[(&str, u64)], seconds: u64) -> OutcomeResult {
    let items = keys.iter().map(|(key, version)| ((*key).into(), *version)).collect();
    let expires = (seconds > 0).then(|| client.now + Duration::from_secs(seconds));
    OutcomeResult::Verified(Ok(vec![Verified { items, expires }]))
}

fn following(keys: &[(&str, u64)], seconds: u64) -> Client {
    let mut client = subscribed();
    assert_eq!(track(&mut client, r#"{"key":"k"}"#, ""), ["verify poll:a s"]);
    let signed = signed(&client, keys, seconds);
    client.answer(signed);
    client.did();
    client
}

#[test]
fn a_subscriber_of_a_polled_channel_is_told_of_what_its_versions_are() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"poll:a","type":4}}"#);
    client.did();
    let top = StreamPosition { offset: 0, epoch: Epoch::parse("abc").unwrap() };
    client.answer(joined(Some(HistoryPage { publications: Vec::new(), top })));
    assert_eq!(client.did(), [r#"< {"id":2,"subscribe":{"epoch":"abc","type":4}}"#, "live poll:a"]);
}

#[test]
fn a_channel_is_subscribed_as_what_it_is() {
    let mut client = Client::anonymous();
    for (channel, kind, code) in [("poll:a", 0, 103), ("news", 4, 103)] {
        client.says(&format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}","type":{kind}}}}}"#));
        assert!(client.did()[0].contains(&format!(r#""code":{code}"#)), "{channel}");
    }
}

#[test]
fn keys_are_followed_when_their_signature_is_right_and_the_client_knows() {
    let mut client = subscribed();
    assert_eq!(track(&mut client, r#"{"key":"k","version":7},{"key":"l"}"#, ""), ["verify poll:a s"]);
    let signed = signed(&client, &[("k", 7), ("l", 0)], 60);
    client.answer(signed);
    let told = r#"< {"id":3,"sub_refresh":{"expires":true,"ttl":60}}"#;
    assert_eq!(client.did(), [told, "follow poll:a k@7 l@0"]);
}

#[test]
fn what_is_not_signed_is_not_followed() {
    for code in [ErrorCode::PermissionDenied, ErrorCode::TokenExpired, ErrorCode::LimitExceeded] {
        let mut client = subscribed();
        track(&mut client, r#"{"key":"k"}"#, "");
        client.answer(OutcomeResult::Verified(Err(code)));
        let did = client.did();
        assert!(did.len() == 1 && did[0].contains(&format!(r#""code":{}"#, code.code())), "{did:?}");
    }
}

#[test]
fn keys_that_are_none_and_channels_that_are_not_polled_are_refused() {
    let mut client = subscribed();
    for (items, code) in [
        (String::new(), 107),
        (r#"{"key":""}"#.to_owned(), 107),
        (format!(r#"{{"key":"{}"}}"#, "k".repeat(1_025)), 107),
    ] {
        assert!(track(&mut client, &items, "")[0].contains(&format!(r#""code":{code}"#)), "{items}");
    }
    client.subscribe("news");
    for name in ["news", "poll:b", "nowhere:b"] {
        for what in [r#""type":1,"track":[{"items":[{"key":"k"}]}]"#, r#""type":2,"untrack":["k"]"#] {
            client.says(&format!(r#"{{"id":3,"sub_refresh":{{"channel":"{name}",{what}}}}}"#));
            assert!(client.did()[0].contains(r#""code":103"#), "{name}");
        }
    }
}

#[test]
fn a_client_follows_so_many_keys_and_those_it_gives_up_make_room() {
    let mut client = following(&[("a", 0), ("b", 0), ("c", 0)], 0);
    track(&mut client, r#"{"key":"d"}"#, "");
    let more = signed(&client, &[("d", 0)], 0);
    client.answer(more);
    assert!(client.did()[0].contains(r#""code":106"#));
    track(&mut client, r#"{"key":"d"}"#, r#""a","stranger""#);
    let more = signed(&client, &[("d", 0), ("a", 1)], 0);
    client.answer(more);
    assert_eq!(client.did(), [r#"< {"id":3,"sub_refresh":{}}"#, "follow poll:a d@0", "unfollow poll:a a"]);
    track(&mut client, r#"{"key":"d","version":4}"#, "");
    let again = signed(&client, &[("d", 4)], 0);
    client.answer(again);
    assert_eq!(client.did(), [r#"< {"id":3,"sub_refresh":{}}"#, "follow poll:a d@4"], "it has it already");
}

#[test]
fn a_client_follows_what_it_has_untracked_no_more() {
    let mut client = following(&[("a", 0), ("b", 0)], 0);
    client.says(r#"{"id":4,"sub_refresh":{"channel":"poll:a","type":2,"untrack":["a","stranger"]}}"#);
    assert_eq!(client.did(), ["unfollow poll:a a", r#"< {"id":4,"sub_refresh":{}}"#]);
    client.says(r#"{"id":5,"sub_refresh":{"channel":"poll:a","type":2,"untrack":["a"]}}"#);
    assert_eq!(client.did(), [r#"< {"id":5,"sub_refresh":{}}"#]);
}

#[test]
fn keys_whose_signature_has_expired_for_too_long_are_followed_no_more() {
    let mut client = following(&[("a", 0)], 60);
    track(&mut client, r#"{"key":"b"}"#, "");
    let longer = signed(&client, &[("b", 0)], 600);
    client.answer(longer);
    client.did();
    let until = Duration::from_secs(60) + client_grace();
    let (mut unfollowed, mut waited) = (Vec::new(), Duration::ZERO);
    while unfollowed.is_empty() && waited < Duration::from_secs(500) {
        client.waits_ms(1_000);
        waited += Duration::from_secs(1);
        let did = client.did();
        if did.iter().any(|did| did == "< {}") {
            client.says("{}");
        }
        unfollowed = did.into_iter().filter(|did| did.starts_with("unfollow")).collect();
    }
    assert_eq!((unfollowed, waited), (vec!["unfollow poll:a a".to_owned()], until));
}

fn client_grace() -> Duration {
    Duration::from_millis(gateway_core::session::SessionSettings::default().expired_close_delay_ms)
}

#[test]
fn a_key_that_is_removed_makes_room_and_one_of_an_ended_subscription_too() {
    let mut client = following(&[("a", 0), ("b", 0), ("c", 0)], 0);
    client.session.handle_key_removed(&channel("poll:a"), "b");
    track(&mut client, r#"{"key":"d"}"#, "");
    let more = signed(&client, &[("d", 0)], 0);
    client.answer(more);
    assert_eq!(client.did()[1], "follow poll:a d@0");
    client.says(r#"{"id":4,"unsubscribe":{"channel":"poll:a"}}"#);
    assert_eq!(client.did(), ["leave poll:a", r#"< {"id":4,"unsubscribe":{}}"#]);
}

#[test]
fn a_subscription_that_ends_while_signatures_are_looked_at_follows_nothing() {
    let mut client = subscribed();
    track(&mut client, r#"{"key":"k"}"#, "");
    client.session.handle_unsubscribe(&channel("poll:a"), shared::push::UnsubscribeCode::Server);
    client.did();
    let signed = signed(&client, &[("k", 0)], 60);
    client.answer(signed);
    assert!(client.did()[0].contains(r#""code":103"#));
}
