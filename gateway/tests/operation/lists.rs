//! Tests `tidegate channels` and `tidegate connections` against a running gateway.

use std::process::Output;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::program::{Serving, program};

async fn tidegate(gateway: &Serving, arguments: &[&str]) -> Output {
    let url = format!("http://{}/api", gateway.address);
    let mut all = arguments.to_vec();
    all.extend(["--url", &url]);
    program().env("TIDEGATE_API_KEY", "demo").run(&all).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn channels_and_connections_are_listed_as_tables_and_as_json() {
    let gateway = program().serve().await;
    let mut clients = Vec::new();
    for channel in ["prices:AAPL", "prices:AAPL", "prices:MSFT"] {
        let url = format!("ws://{}/connection/websocket", gateway.address);
        let (mut client, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let hello = format!(
            "{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}"
        );
        client.send(Message::text(hello)).await.unwrap();
        let mut replies = String::new();
        while !replies.contains("\"id\":2") {
            replies += client.next().await.unwrap().unwrap().to_text().unwrap();
        }
        assert!(!replies.contains("error"), "{replies}");
        clients.push(client);
    }
    let output = tidegate(&gateway, &["channels", "--page", "1"]).await;
    assert!(output.status.success(), "{output:?}");
    let expected = "   clients  channel\n         2  prices:AAPL\n         1  prices:MSFT\n2 channels\n";
    assert_eq!(text(&output.stdout), expected);
    let output = tidegate(&gateway, &["channels", "--pattern", "*MSFT", "--json"]).await;
    assert_eq!(text(&output.stdout), "{\"channel\":\"prices:MSFT\",\"num_clients\":1}\n");
    let output = tidegate(&gateway, &["channels", "--limit", "1", "--json"]).await;
    assert_eq!(text(&output.stdout).lines().count(), 1);
    assert!(text(&output.stderr).contains("--cursor prices:AAPL"), "{output:?}");

    let output = tidegate(&gateway, &["connections", "--channel", "prices:AAPL", "--page", "1"]).await;
    assert!(output.status.success(), "{output:?}");
    let table = text(&output.stdout);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.ends_with("(anonymous), prices:AAPL\n2 connections\n"), "{table}");
    let output = tidegate(&gateway, &["connections", "--json"]).await;
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["client"].is_string() && line["num_channels"] == 1));

    let output = tidegate(&gateway, &["channels", "--key", "wrong"]).await;
    assert!(!output.status.success() && text(&output.stderr).contains("the key is wrong"), "{output:?}");
    let nowhere = program().run(&["channels", "--url", "http://127.0.0.1:1/api", "--key", "x"]).await;
    assert!(!nowhere.status.success() && text(&nowhere.stderr).contains("127.0.0.1:1"), "{nowhere:?}");
    assert!(gateway.terminate().await.success());
}
