//! Commands are carried out in their order, and subscribe commands at once.

use gateway_core::effect::OutcomeResult;
use gateway_core::session::JOINS_MAX;
use shared::error::ErrorCode;

use crate::support::{Client, error, joined};

fn subscribes(range: std::ops::Range<usize>) -> String {
    let lines = range.map(|n| format!(r#"{{"id":{n},"subscribe":{{"channel":"c{n}"}}}}"#));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn one_command_waits_for_the_one_before() {
    let mut client = Client::anonymous();
    client.says(concat!(
        r#"{"id":2,"publish":{"channel":"a","data":1}}"#,
        "\n",
        r#"{"id":3,"publish":{"channel":"a","data":2}}"#,
        "\n",
        r#"{"id":4,"rpc":{"method":"m"}}"#
    ));
    assert_eq!(client.did(), ["publish a 1"]);
    client.answer(OutcomeResult::Published(Ok(())));
    assert_eq!(client.did(), ["publish a 2", r#"< {"id":2,"publish":{}}"#]);
    client.answer(OutcomeResult::Published(Ok(())));
    let refused = error(4, ErrorCode::NotAvailable).replacen("< ", "", 1);
    assert_eq!(client.did(), [format!("< {{\"id\":3,\"publish\":{{}}}}\n{refused}")]);
}

#[test]
fn many_subscriptions_are_under_way_at_once() {
    let mut client = Client::anonymous();
    client.says(&subscribes(100..100 + JOINS_MAX + 2));
    let first: Vec<String> = (100..100 + JOINS_MAX).map(|n| format!("join c{n}")).collect();
    assert_eq!(client.did(), first);
    client.answer_for("c107", joined(None));
    let next = format!("join c{}", 100 + JOINS_MAX);
    assert_eq!(client.did(), [&next, r#"< {"id":107,"subscribe":{}}"#, "live c107"]);
    client.answer_for("c103", joined(None));
    client.answer_for("c101", joined(None));
    let did = client.did();
    assert_eq!(did[0], format!("join c{}", 101 + JOINS_MAX));
    assert_eq!(did[1], "< {\"id\":103,\"subscribe\":{}}\n{\"id\":101,\"subscribe\":{}}");
    assert_eq!(did[2..], ["live c103", "live c101"]);
}

#[test]
fn any_other_command_waits_for_all_of_them() {
    let mut client = Client::anonymous();
    client.says(&subscribes(10..12));
    client.says(r#"{"id":12,"publish":{"channel":"c10","data":1}}"#);
    client.says(r#"{"id":13,"subscribe":{"channel":"c13"}}"#);
    assert_eq!(client.did(), ["join c10", "join c11"]);
    client.answer_for("c10", joined(None));
    assert_eq!(client.did(), [r#"< {"id":10,"subscribe":{}}"#, "live c10"]);
    client.answer_for("c11", joined(None));
    assert_eq!(client.did(), ["publish c10 1", r#"< {"id":11,"subscribe":{}}"#, "live c11"]);
    client.answer(OutcomeResult::Published(Ok(())));
    assert_eq!(client.did(), ["join c13", r#"< {"id":12,"publish":{}}"#]);
}

#[test]
fn two_subscriptions_to_one_channel_take_turns() {
    let twice = "{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}\n{\"id\":3,\"subscribe\":{\"channel\":\"a\"}}";
    let mut client = Client::anonymous();
    client.says(twice);
    assert_eq!(client.did(), ["join a"]);
    client.answer(joined(None));
    let did = client.did();
    assert_eq!(did[..2], [r#"< {"id":2,"subscribe":{}}"#, "live a"]);
    assert_eq!(did[2..], [error(3, ErrorCode::AlreadySubscribed)]);

    let mut client = Client::anonymous();
    client.says(twice);
    client.did();
    client.answer(OutcomeResult::Joined(Err(ErrorCode::Internal)));
    let did = client.did();
    assert_eq!(did, ["leave a".to_owned(), "join a".to_owned(), error(2, ErrorCode::Internal)]);
}

#[test]
fn an_outcome_that_nothing_waits_for_is_ignored() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"publish":{"channel":"a","data":1}}"#);
    let Some(gateway_core::effect::Effect::Publish { ticket, .. }) = client.session.poll_effect() else {
        panic!("nothing published")
    };
    let outcome = |ticket| gateway_core::effect::Outcome { ticket, result: OutcomeResult::Published(Ok(())) };
    client.session.handle_outcome(client.now, outcome(gateway_core::effect::Ticket(9_999)));
    assert_eq!(client.did(), [""; 0]);
    client.session.handle_outcome(client.now, outcome(ticket));
    assert_eq!(client.did(), [r#"< {"id":2,"publish":{}}"#]);
    client.session.handle_outcome(client.now, outcome(ticket));
    assert_eq!(client.did(), [""; 0]);
}
