//! Delivery of newest values: asked for in the data of a subscription, within what its namespace allows, and changed while
//! it lives.

use gateway_core::effect::OutcomeResult;
use shared::error::ErrorCode;
use shared::publication::Payload;

use crate::support::{Client, error, joined, page};

fn subscribe(client: &mut Client, channel: &str, own: &str, more: &str) -> Vec<String> {
    client.says(&format!(
        r#"{{"id":2,"subscribe":{{"channel":"{channel}","data":{{"tidegate":{own}}}{more}}}}}"#
    ));
    client.did()
}

#[test]
fn what_is_asked_for_is_held_within_the_bounds_of_the_namespace() {
    for (own, expected) in [
        (r#"{"delivery":"latest"}"#, "latest 5 times 1000 bytes"),
        (r#"{"delivery":"latest","times_per_s":2,"bytes_per_s":80}"#, "latest 2 times 80 bytes"),
        (r#"{"delivery":"latest","times_per_s":0,"bytes_per_s":0}"#, "latest 10 times 1000 bytes"),
        (r#"{"delivery":"latest","times_per_s":99,"bytes_per_s":9999}"#, "latest 10 times 1000 bytes"),
    ] {
        let did = subscribe(&mut Client::anonymous(), "ticks:a", own, "");
        assert_eq!(did, [format!("join ticks:a {expected}")], "{own}");
    }
    assert_eq!(subscribe(&mut Client::anonymous(), "ticks:a", r#"{"delivery":"all"}"#, ""), ["join ticks:a"]);
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"ticks:a","data":{"of":"the application"}}}"#);
    assert_eq!(client.did(), ["join ticks:a"]);
}

#[test]
fn what_makes_no_sense_or_is_not_to_be_chosen_is_refused() {
    let refused = [error(2, ErrorCode::BadRequest)];
    for (channel, own) in [
        ("ticks:a", r#"{"delivery":"newest"}"#),
        ("ticks:a", r#"{"delivery":"all","times_per_s":5}"#),
        ("log:a", r#"{"delivery":"latest"}"#),
        ("log:a", r#"{"delivery":"all"}"#),
    ] {
        assert_eq!(subscribe(&mut Client::anonymous(), channel, own, ""), refused, "{channel} {own}");
    }
}

#[test]
fn who_comes_is_given_the_newest_of_each_key_and_no_position_to_come_back_to() {
    for more in ["", r#","delta":"fossil","recoverable":true,"positioned":true"#] {
        let mut client = Client::anonymous();
        let did = subscribe(&mut client, "quotes:a", r#"{"delivery":"latest"}"#, more);
        assert_eq!(
            did,
            ["join quotes:a positioned latest 5 times 1000 bytes with the newest of each key"],
            "{more}"
        );
        client.answer(joined(Some(page(&[3, 7], 9))));
        let reply =
            r#"< {"id":2,"subscribe":{"publications":[{"data":3,"offset":3},{"data":7,"offset":7}]}}"#;
        assert_eq!(client.did(), [reply, "live quotes:a @9"]);
    }
    let mut client = Client::anonymous();
    let since = r#","recover":true,"epoch":"gone","offset":5"#;
    subscribe(&mut client, "quotes:a", r#"{"delivery":"all"}"#, since);
    client.answer(joined(Some(page(&[3], 9))));
    let reply = concat!(
        r#"< {"id":2,"subscribe":{"publications":[{"data":3,"offset":3}],"#,
        r#""recovered":true,"was_recovering":true}}"#
    );
    assert_eq!(client.did(), [reply, "live quotes:a @9"], "coming back is coming");
}

#[test]
fn a_snapshot_that_is_too_long_is_not_begun() {
    let mut client = Client::anonymous();
    subscribe(&mut client, "quotes:a", r#"{"delivery":"latest"}"#, "");
    let mut long = page(&[1, 2, 3], 3);
    for publication in &mut long.publications {
        publication.data = Payload::json(format!("\"{}\"", "x".repeat(3 << 20)));
    }
    client.answer(joined(Some(long)));
    assert_eq!(client.did(), ["leave quotes:a", &error(2, ErrorCode::LimitExceeded)]);
}

#[test]
fn a_namespace_can_say_it_for_all_who_say_nothing() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"quotes:a"}}"#);
    let line = "join quotes:a positioned latest 5 times 0 bytes with the newest of each key";
    assert_eq!(client.did(), [line]);
}

/// Subscribes, and then asks for other terms.
fn change(own: &str, to: &str) -> Client {
    let mut client = Client::anonymous();
    let data = if own.is_empty() { String::new() } else { format!(r#","data":{{"tidegate":{own}}}"#) };
    client.says(&format!(r#"{{"id":2,"subscribe":{{"channel":"ticks:a"{data}}}}}"#));
    client.did();
    client.answer(joined(None));
    client.did();
    client.says(&format!(r#"{{"id":3,"rpc":{{"method":"tidegate.delivery","data":{to}}}}}"#));
    client
}

#[test]
fn a_subscription_that_chooses_can_choose_again() {
    let all = r#"{"delivery":"all"}"#;
    let mut client = change(all, r#"{"channel":"ticks:a","delivery":"latest","times_per_s":3}"#);
    assert_eq!(client.did(), ["change delivery ticks:a latest 3 times 1000 bytes"]);
    client.answer(OutcomeResult::Rpc(Ok(Payload::json("{}"))));
    assert_eq!(client.did(), [r#"< {"id":3,"rpc":{"data":{}}}"#]);
    let mut client = change(all, r#"{"channel":"ticks:a","delivery":"all"}"#);
    assert_eq!(client.did(), ["change delivery ticks:a all"]);
}

#[test]
fn one_that_counts_on_having_all_cannot_nor_can_one_that_is_not_there() {
    let all = r#"{"delivery":"all"}"#;
    for (own, to, expected) in [
        ("", r#"{"channel":"ticks:a","delivery":"latest"}"#, ErrorCode::BadRequest),
        (all, r#"{"channel":"ticks:b","delivery":"latest"}"#, ErrorCode::PermissionDenied),
        (all, r#"{"delivery":"latest"}"#, ErrorCode::BadRequest),
        (all, "1", ErrorCode::BadRequest),
    ] {
        assert_eq!(change(own, to).did(), [error(3, expected)], "{own} {to}");
    }
}
