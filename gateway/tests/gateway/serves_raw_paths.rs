//! Tests bare endpoints at paths of their own: bound to a channel, to a backend that answers, or to both.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::application::Application;
use crate::gateway::{Description, Gateway, gateway};

const PATHS: &str = r#"
[raw.paths."/"]
channel = "chat"
[raw.paths."/echo"]
messages = "hook"
[raw.paths."/rooms/first"]
channel = "stream:first"
messages = "hook"
[raw.paths."/ticker"]
channel = "stream:prices"
messages = "none"
"#;

fn with_paths(application: &Application) -> Description {
    gateway().and(PATHS).with("backend.message.url", format!("{}/message", application.url))
}

async fn echo() -> Application {
    Application::start(|received| match &received.body[..] {
        b"be silent" => Some((204, String::new())),
        b"fail" => Some((500, "out of order".to_owned())),
        body => Some((200, String::from_utf8_lossy(body).into_owned())),
    })
    .await
}

async fn subscribed(gateway: &Gateway, count: u32) {
    gateway.metric_becomes("tidegate_subscriptions", f64::from(count)).await;
}

#[tokio::test]
async fn a_path_that_stands_for_a_channel_is_as_the_channels_own() {
    let application = echo().await;
    let gateway = with_paths(&application).start().await;
    let mut root = gateway.open("/?from=a-tutorial", &[]).await;
    let mut other = gateway.raw("chat").await;
    subscribed(&gateway, 2).await;
    root.send("hello").await;
    assert_eq!((root.text().await, other.text().await), ("hello".to_owned(), "hello".to_owned()));
    other.send(Message::binary(vec![0, 255])).await;
    assert_eq!(root.data().await, Message::binary(vec![0, 255]));
    assert!(application.requests("/message").is_empty());
    let refused = gateway.try_open("/nowhere", &[]).await;
    assert!(refused.expect_err("there is no such path").to_string().contains("404"));
}

#[tokio::test]
async fn a_backend_answers_the_sender_and_nobody_else() {
    let application = echo().await;
    let gateway = with_paths(&application).start().await;
    let bearer = format!("Bearer {}", gateway.token("ann"));
    let mut ann = gateway.open("/echo", &[("authorization", &bearer)]).await;
    let mut other = gateway.open("/echo", &[]).await;
    for message in ["hello", "{\"json\": 1}", "be silent", "again"] {
        ann.send(message).await;
    }
    for answer in ["hello", "{\"json\": 1}", "again"] {
        assert_eq!(ann.text().await, answer);
    }
    other.send("mine").await;
    assert_eq!(other.text().await, "mine", "this is the first that it gets");

    let received = application.requests("/message");
    let kinds: Vec<&str> =
        received.iter().map(|received| received.headers["content-type"].to_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["text/plain; charset=utf-8", "application/json"]);
    assert_eq!(received[0].headers["tidegate-user"], "ann");
    assert_eq!(received[0].headers["tidegate-channel"], "");
    assert_ne!(received[0].headers["tidegate-client"], received[4].headers["tidegate-client"]);
    subscribed(&gateway, 0).await;
}

#[tokio::test]
async fn a_backend_hears_of_the_channel_and_publishes_to_all_that_are_in_it() {
    let application = echo().await;
    let gateway = with_paths(&application).start().await;
    let (mut one, mut other) =
        (gateway.open("/rooms/first", &[]).await, gateway.open("/rooms/first", &[]).await);
    subscribed(&gateway, 2).await;
    one.send("to the backend").await;
    assert_eq!(one.text().await, "to the backend");
    assert_eq!(application.requests("/message")[0].headers["tidegate-channel"], "stream:first");
    gateway.publish("stream:first", json!("to all")).await;
    assert_eq!((one.text().await, other.text().await), ("\"to all\"".to_owned(), "\"to all\"".to_owned()));
}

#[tokio::test]
async fn what_a_backend_does_not_take_closes_the_sender() {
    let application = echo().await;
    let gateway = with_paths(&application).start().await;
    let mut client = gateway.open("/echo", &[]).await;
    client.send("fail").await;
    assert_eq!(client.closed().await.0, 3004);
}

#[tokio::test]
async fn where_no_messages_are_taken_the_first_closes() {
    let application = echo().await;
    let gateway = with_paths(&application).start().await;
    let mut client = gateway.open("/ticker", &[]).await;
    subscribed(&gateway, 1).await;
    gateway.publish("stream:prices", json!(7)).await;
    assert_eq!(client.text().await, "7");
    client.send("buy").await;
    assert_eq!(client.closed().await, (3507, "permission denied".to_owned()));
    assert!(application.requests("/message").is_empty());
}

#[tokio::test]
async fn who_comes_back_with_a_position_has_missed_nothing() {
    let application = echo().await;
    let gateway = with_paths(&application).start().await;
    for number in 1..=3 {
        gateway.publish("stream:prices", json!(number)).await;
    }
    let top = gateway.api("history", json!({ "channel": "stream:prices", "limit": 0 })).await;
    let epoch = top["epoch"].as_str().expect("an epoch");
    let mut client = gateway.open(&format!("/ticker?offset=1&epoch={epoch}"), &[]).await;
    assert_eq!((client.text().await, client.text().await), ("2".to_owned(), "3".to_owned()));
}

#[tokio::test]
async fn a_token_is_asked_for_as_elsewhere() {
    let application = echo().await;
    let gateway = with_paths(&application).with("auth.allow_anonymous", false).start().await;
    let mut stranger = gateway.open("/echo", &[]).await;
    assert_eq!(stranger.closed().await.0, 3501);
    let offer = format!("tidegate.raw, tidegate.token.{}", gateway.token("ann"));
    let mut ann = gateway.open("/echo", &[("sec-websocket-protocol", &offer)]).await;
    ann.send("hello").await;
    assert_eq!(ann.text().await, "hello");
    let refused = gateway.try_open("/echo", &[("origin", "https://elsewhere.example")]).await;
    assert!(refused.expect_err("pages of elsewhere").to_string().contains("403"));
}
