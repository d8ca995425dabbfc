//! The end of a subscription, by the client or by the server.

use gateway_core::effect::{Ended, OutcomeResult};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::push::UnsubscribeCode;

use crate::support::{Client, channel, error, joined, page};

const SERVER: &str =
    r#"< {"push":{"channel":"news","unsubscribe":{"code":2000,"reason":"server unsubscribe"}}}"#;
const INSUFFICIENT: &str =
    r#"< {"push":{"channel":"news","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#;

#[test]
fn a_client_leaves_and_is_answered() {
    let mut client = Client::anonymous();
    client.subscribe("news");
    client.says(r#"{"id":3,"unsubscribe":{"channel":"news"}}"#);
    assert_eq!(client.did(), ["leave news", r#"< {"id":3,"unsubscribe":{}}"#]);
    assert_eq!(client.session.subscriptions().count(), 0);
    client.subscribe("news");
}

#[test]
fn leaving_where_one_is_not_is_no_error() {
    let mut client = Client::anonymous();
    for name in ["news", "nowhere:a", "a b"] {
        client.says(&format!(r#"{{"id":3,"unsubscribe":{{"channel":"{name}"}}}}"#));
        assert_eq!(client.did(), [r#"< {"id":3,"unsubscribe":{}}"#]);
    }
    client.says(r#"{"id":3,"unsubscribe":{}}"#);
    assert_eq!(client.did(), ["close 3501"]);
}

#[test]
fn of_two_equal_commands_each_is_answered_when_the_channel_is_let_go() {
    let mut client = Client::anonymous();
    let subscribe = |id: u32| format!(r#"{{"id":{id},"subscribe":{{"channel":"news"}}}}"#);
    client.says(&[subscribe(2), subscribe(3)].join("\n"));
    assert_eq!(client.did(), ["join news"]);
    client.session.handle_unsubscribe(&channel("news"), UnsubscribeCode::Server);
    client.answer(joined(None));
    assert_eq!(client.did(), [r#"< {"id":2,"subscribe":{}}"#, "leave news", "join news", SERVER]);
    client.answer(joined(None));
    assert_eq!(client.did(), [r#"< {"id":3,"subscribe":{}}"#, "live news"]);

    let unsubscribe = |id: u32| format!(r#"{{"id":{id},"unsubscribe":{{"channel":"news"}}}}"#);
    client.says(&[unsubscribe(4), unsubscribe(5), subscribe(6), unsubscribe(7), subscribe(8)].join("\n"));
    let both = "< {\"id\":4,\"unsubscribe\":{}}\n{\"id\":5,\"unsubscribe\":{}}";
    assert_eq!(client.did(), ["leave news", "join news", both]);
    client.answer(joined(None));
    assert_eq!(
        client.did(),
        [
            r#"< {"id":6,"subscribe":{}}"#,
            "live news",
            "leave news",
            "join news",
            r#"< {"id":7,"unsubscribe":{}}"#
        ]
    );
    client.answer(joined(None));
    assert_eq!(client.did(), [r#"< {"id":8,"subscribe":{}}"#, "live news"]);
}

#[test]
fn leaving_while_joining_waits_for_the_join() {
    let mut client = Client::anonymous();
    client.says(
        "{\"id\":2,\"subscribe\":{\"channel\":\"news\"}}\n{\"id\":3,\"unsubscribe\":{\"channel\":\"news\"}}",
    );
    assert_eq!(client.did(), ["join news"]);
    client.answer(joined(None));
    let replies =
        [r#"< {"id":2,"subscribe":{}}"#, "live news", "leave news", r#"< {"id":3,"unsubscribe":{}}"#];
    assert_eq!(client.did(), replies);
}

#[test]
fn the_server_ends_a_subscription_and_says_why() {
    for (code, push) in
        [(UnsubscribeCode::Server, SERVER), (UnsubscribeCode::InsufficientState, INSUFFICIENT)]
    {
        let mut client = Client::anonymous();
        client.subscribe("news");
        client.session.handle_unsubscribe(&channel("news"), code);
        assert_eq!(client.did(), ["leave news", push]);
        client.session.handle_unsubscribe(&channel("news"), code);
        assert_eq!(client.did(), [""; 0], "it has ended already");
    }
}

#[test]
fn a_subscription_that_the_server_ends_on_its_way_ends_once_the_client_knows_it() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"news"}}"#);
    client.did();
    client.session.handle_unsubscribe(&channel("news"), UnsubscribeCode::InsufficientState);
    assert_eq!(client.did(), [""; 0]);
    client.answer(joined(None));
    let did = client.did();
    assert_eq!(did, [r#"< {"id":2,"subscribe":{}}"#, "leave news", INSUFFICIENT]);
    assert_eq!(client.session.subscriptions().count(), 0);
}

#[test]
fn a_gap_found_while_joining_does_not_lose_what_was_recovered() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"log:a","recover":true,"epoch":"life","offset":1}}"#);
    client.did();
    client.session.handle_unsubscribe(&channel("log:a"), UnsubscribeCode::InsufficientState);
    client.answer(joined(Some(page(&[2, 3], 3))));
    let did = client.did();
    assert!(did[0].contains(r#""publications":[{"data":2,"offset":2},{"data":3,"offset":3}]"#));
    assert_eq!(did[1], "leave log:a");
    assert!(did[2].contains(r#""code":2500"#));
}

#[test]
fn the_reason_that_lets_no_client_come_back_wins() {
    for codes in [
        [UnsubscribeCode::Server, UnsubscribeCode::InsufficientState],
        [UnsubscribeCode::InsufficientState, UnsubscribeCode::Server],
    ] {
        let mut client = Client::anonymous();
        client.says(r#"{"id":2,"subscribe":{"channel":"news"}}"#);
        client.did();
        for code in codes {
            client.session.handle_unsubscribe(&channel("news"), code);
        }
        client.answer(joined(None));
        assert_eq!(client.did().last().unwrap(), SERVER);
    }
}

#[test]
fn a_join_that_fails_is_not_also_ended() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"news"}}"#);
    client.did();
    client.session.handle_unsubscribe(&channel("news"), UnsubscribeCode::Server);
    client.answer(OutcomeResult::Joined(Err(ErrorCode::Internal)));
    assert_eq!(client.did(), ["leave news".to_owned(), error(2, ErrorCode::Internal)]);
}

#[test]
fn a_subscription_that_the_client_knew_of_ends_for_a_reason_and_a_failed_one_for_none() {
    let mut client = Client::anonymous();
    let subscribe = r#"{"id":3,"subscribe":{"channel":"news"}}"#;
    client.subscribe("news");
    client.says(r#"{"id":2,"unsubscribe":{"channel":"news"}}"#);
    client.did();
    client.subscribe("news");
    client.session.handle_unsubscribe(&channel("news"), UnsubscribeCode::Server);
    client.says(subscribe);
    client.did();
    client.answer(OutcomeResult::Joined(Err(ErrorCode::Internal)));
    client.did();
    assert_eq!(client.ended, [Some(Ended::ByClient), Some(Ended::ByServer(UnsubscribeCode::Server)), None]);

    client.says(subscribe);
    client.did();
    assert_eq!(client.session.take_ended(), [], "it is not there yet");
    client.answer(joined(None));
    client.did();
    client.subscribe("else");
    client.session.handle_unsubscribe(&channel("else"), UnsubscribeCode::InsufficientState);
    client.session.handle_disconnect(Disconnect::SHUTDOWN);
    let ended = [
        (channel("else"), Ended::ByServer(UnsubscribeCode::InsufficientState)),
        (channel("news"), Ended::Disconnected),
    ];
    assert_eq!(client.session.take_ended(), ended);
    assert_eq!(client.did()[0], "leave else");
    assert_eq!(client.ended[3..], [None], "what was taken is not told again");
}
