//! Replies share messages, and never change places with what makes a channel go live.

use gateway_core::session::{BATCH_BYTES_MAX, REPLIES_PER_MESSAGE_MAX};
use shared::error::ErrorCode;
use shared::push::UnsubscribeCode;

use crate::support::{Client, channel, error, joined};

#[test]
fn replies_of_one_turn_share_a_message() {
    let mut client = Client::anonymous();
    client.says(&[r#"{"id":2,"unsubscribe":{"channel":"a"}}"#; 3].join("\n"));
    assert_eq!(
        client.did(),
        ["< {\"id\":2,\"unsubscribe\":{}}\n{\"id\":2,\"unsubscribe\":{}}\n{\"id\":2,\"unsubscribe\":{}}"]
    );
}

#[test]
fn a_message_of_replies_is_bounded() {
    let count = usize::from(REPLIES_PER_MESSAGE_MAX) * 2 + 1;
    let mut client = Client::anonymous();
    client.says(&vec![r#"{"id":2,"unsubscribe":{"channel":"a"}}"#; count].join("\n"));
    let lines: Vec<usize> = client.did().iter().map(|message| message.lines().count()).collect();
    assert_eq!(lines, [count / 2, count / 2, 1]);

    let mut client = Client::anonymous();
    client.says("{\"id\":2,\"subscribe\":{\"channel\":\"recover:a\",\"recover\":true}}\n{\"id\":3,\"subscribe\":{\"channel\":\"b\"}}");
    client.did();
    let offsets: Vec<u64> = (1..=1_000).collect();
    client.answer(joined(Some(crate::support::page(&offsets, 1_000))));
    client.answer(joined(None));
    let did = client.did();
    assert!(did[0].len() > BATCH_BYTES_MAX);
    assert_eq!(did[1..], ["live recover:a @1000", "await room", r#"< {"id":3,"subscribe":{}}"#, "live b"]);
}

#[test]
fn a_channel_goes_live_after_its_reply_and_before_it_is_left() {
    let mut client = Client::anonymous();
    client.says("{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}\n{\"id\":3,\"subscribe\":{\"channel\":\"b\"}}");
    client
        .says("{\"id\":4,\"unsubscribe\":{\"channel\":\"a\"}}\n{\"id\":5,\"subscribe\":{\"channel\":\"a\"}}");
    client.did();
    client.answer_for("b", joined(None));
    client.answer_for("a", joined(None));
    let did = client.did();
    let replies = "< {\"id\":3,\"subscribe\":{}}\n{\"id\":2,\"subscribe\":{}}";
    assert_eq!(did, [replies, "live b", "live a", "leave a", "join a", r#"< {"id":4,"unsubscribe":{}}"#]);
}

#[test]
fn only_subscribe_replies_come_before_a_channel_that_is_ready_to_go_live() {
    for (command, reply) in [
        (r#"{"id":3,"unsubscribe":{"channel":"elsewhere"}}"#, r#"< {"id":3,"unsubscribe":{}}"#.to_owned()),
        (r#"{"id":3,"rpc":{"method":"m"}}"#, error(3, ErrorCode::NotAvailable)),
    ] {
        let mut client = Client::anonymous();
        client.says(&format!("{{\"id\":2,\"subscribe\":{{\"channel\":\"a\"}}}}\n{command}"));
        assert_eq!(client.did(), ["join a"]);
        client.answer(joined(None));
        assert_eq!(client.did(), [r#"< {"id":2,"subscribe":{}}"#.to_owned(), "live a".to_owned(), reply]);
    }
}

#[test]
fn a_subscription_ended_in_the_same_turn_goes_live_first() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"a"}}"#);
    client.did();
    client.answer(joined(None));
    client.session.handle_unsubscribe(&channel("a"), UnsubscribeCode::Server);
    let did = client.did();
    assert_eq!(did[..3], [r#"< {"id":2,"subscribe":{}}"#, "live a", "leave a"]);
    assert!(did[3].contains(r#""code":2000"#));
}
