//! A GraphQL client over a WebSocket.

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::client::Socket;
use crate::gateway::{Description, Gateway, gateway};

pub const TRANSPORT_WS: &str = "graphql-transport-ws";
pub const OLD: &str = "graphql-ws";

/// Fields for channels with history and without, and one that a namespace keeps from clients.
pub const FIELDS: &str = r#"
[graphql]
enabled = true
[graphql.subscriptions.message]
channel = "stream:{topic}"
[graphql.subscriptions.plain]
channel = "{name}"
[graphql.subscriptions.shut]
channel = "shut:{name}"
[namespaces.shut]
"#;

pub fn served() -> Description {
    gateway().and(FIELDS)
}

#[derive(Debug)]
pub struct GraphQl {
    pub socket: Socket<TcpStream>,
}

impl Gateway {
    /// Opens a client that has sent nothing yet.
    pub async fn graphql_stranger(&self, subprotocols: &str) -> GraphQl {
        GraphQl { socket: self.open("/graphql", &[("sec-websocket-protocol", subprotocols)]).await }
    }

    /// Opens a client whose `connection_init`, with this payload, is acknowledged.
    pub async fn graphql_with(&self, payload: Value) -> GraphQl {
        let mut client = self.graphql_stranger(TRANSPORT_WS).await;
        client.say(json!({ "type": "connection_init", "payload": payload })).await;
        assert_eq!(client.hear().await, json!({ "type": "connection_ack" }));
        client
    }

    pub async fn graphql(&self) -> GraphQl {
        self.graphql_with(json!({})).await
    }
}

impl GraphQl {
    pub async fn say(&mut self, message: Value) {
        self.socket.send(message.to_string()).await;
    }

    /// Returns the next message that is no ping.
    pub async fn hear(&mut self) -> Value {
        loop {
            let message: Value = serde_json::from_str(&self.socket.text().await).expect("JSON");
            if message["type"] != "ping" {
                return message;
            }
        }
    }

    pub async fn subscribe_with(&mut self, id: &str, payload: Value) {
        self.say(json!({ "type": "subscribe", "id": id, "payload": payload })).await;
    }

    /// Subscribes, and waits until the subscription is live.
    pub async fn subscribe(&mut self, id: &str, query: &str) {
        self.subscribe_with(id, json!({ "query": query })).await;
        self.settle().await;
    }

    /// Waits until everything sent before has been handled.
    pub async fn settle(&mut self) {
        self.say(json!({ "type": "ping" })).await;
        assert_eq!(self.hear().await, json!({ "type": "pong" }));
    }

    /// Returns the payload of the next message, which must be a result of this operation.
    pub async fn next(&mut self, id: &str) -> Value {
        let mut message = self.hear().await;
        assert_eq!((&message["type"], &message["id"]), (&json!("next"), &json!(id)), "{message}");
        message["payload"].take()
    }

    /// Returns the code of the next message, which must be the error that ends this operation.
    pub async fn error(&mut self, id: &str) -> Value {
        let mut message = self.hear().await;
        assert_eq!((&message["type"], &message["id"]), (&json!("error"), &json!(id)), "{message}");
        message["payload"][0]["extensions"]["code"].take()
    }

    pub async fn closed(&mut self) -> u16 {
        self.socket.closed().await.0
    }
}
