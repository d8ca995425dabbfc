//! Commands that are answered with an error whatever they contain, and commands that break the protocol.

use shared::error::ErrorCode;
use shared::framing::{Message, MessageKind};

use crate::support::{Client, error};

#[test]
fn no_application_stands_behind_the_gateway() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"rpc":{"method":"m","data":{}}}"#);
    assert_eq!(client.did(), [error(2, ErrorCode::NotAvailable)]);
    client.says(r#"{"send":{"data":{}}}"#);
    assert_eq!(client.did(), ["close 3508"]);
}

#[test]
fn a_command_needs_an_id() {
    for command in [
        r#"{"subscribe":{"channel":"a"}}"#,
        r#"{"unsubscribe":{"channel":"a"}}"#,
        r#"{"publish":{"channel":"a","data":1}}"#,
        r#"{"history":{"channel":"log:a"}}"#,
        r#"{"rpc":{"method":"m"}}"#,
        r#"{"refresh":{"token":"t"}}"#,
    ] {
        let mut client = Client::anonymous();
        client.says(command);
        assert_eq!(client.did(), ["close 3501"], "{command}");
    }
}

#[test]
fn what_is_no_command_closes() {
    for message in [
        "",
        "\n",
        "no json",
        "[]",
        r#"{"id":2}"#,
        r#"{"id":2,"ping":{}}"#,
        r#"{"id":2,"rpc":{"method":"m"}} trailing"#,
    ] {
        let mut client = Client::anonymous();
        client.says(message);
        assert_eq!(client.did().last().map(String::as_str), Some("close 3501"), "{message:?}");
    }
}

#[test]
fn json_in_a_binary_message_is_json() {
    let mut client = Client::anonymous();
    let data = br#"{"id":2,"rpc":{"method":"m"}}"#;
    client.session.handle_message(client.now, Message { kind: MessageKind::Binary, data });
    assert_eq!(client.did(), [error(2, ErrorCode::NotAvailable)]);
}

#[test]
fn a_subscription_of_a_kind_that_is_not_served_is_refused() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"a","type":1}}"#);
    let did = client.did();
    assert!(did.len() == 1 && did[0].contains(r#""error""#), "{did:?}");
    assert!(!client.session.is_closed());
}
