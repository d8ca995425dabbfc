//! A Pusher client, and signatures as an application makes them.

use ring::hmac;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::client::Socket;
use crate::gateway::Gateway;
use crate::http;

/// An app with all features enabled.
pub const APP: &str = r#"
[pusher]
enabled = true
[pusher.apps.shop]
id = "1"
key = "key"
secret = "a secret of the app"
client_events = true
"#;

/// A request of the app's server, with an invalid signature.
pub const POST: &str =
    "POST /apps/1/batch_events?auth_key=key&auth_timestamp=1&auth_version=1.0&auth_signature=x&body_md5=x";

const SECRET: &str = "a secret of the app";

pub fn sign(text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    hmac::sign(&key, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Debug)]
pub struct Pusher {
    pub socket: Socket<TcpStream>,
    pub id: String,
}

impl Gateway {
    /// Connects a client of the app.
    pub async fn pusher(&self) -> Pusher {
        let mut socket = self.open("/app/key?protocol=7&client=js&version=8.4.0&flash=false", &[]).await;
        let established: Value = serde_json::from_str(&socket.text().await).expect("JSON");
        assert_eq!(established["event"], "pusher:connection_established");
        let data: Value = serde_json::from_str(established["data"].as_str().expect("a text")).expect("JSON");
        assert_eq!(data["activity_timeout"], 120);
        Pusher { socket, id: data["socket_id"].as_str().expect("an id").to_owned() }
    }
}

impl Pusher {
    pub async fn say(&mut self, message: Value) {
        self.socket.send(message.to_string()).await;
    }

    /// Returns the next message that is no ping: its event, channel and data, which is parsed if it is JSON.
    pub async fn hear(&mut self) -> (String, String, Value) {
        loop {
            let message: Value = serde_json::from_str(&self.socket.text().await).expect("JSON");
            let event = message["event"].as_str().expect("an event").to_owned();
            if event == "pusher:ping" {
                continue;
            }
            let channel = message["channel"].as_str().unwrap_or_default().to_owned();
            let data = match message["data"].as_str() {
                Some(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
                None => message["data"].clone(),
            };
            return (event, channel, data);
        }
    }

    /// Returns the data of the next message, which must be this event of this channel.
    pub async fn hears(&mut self, event: &str, channel: &str) -> Value {
        let heard = self.hear().await;
        assert_eq!((&*heard.0, &*heard.1), (event, channel), "{}", heard.2);
        heard.2
    }

    /// Subscribes to a channel, with the signature and the data that its name requires.
    pub async fn ask(&mut self, channel: &str, member: Option<Value>) {
        let member = member.map(|member| member.to_string());
        let signed = match &member {
            Some(member) => format!("{}:{channel}:{member}", self.id),
            None => format!("{}:{channel}", self.id),
        };
        let is_public = !channel.starts_with("private-") && !channel.starts_with("presence-");
        let auth = if is_public { String::new() } else { format!("key:{}", sign(&signed)) };
        let mut data = json!({ "channel": channel, "auth": auth });
        if let Some(member) = member {
            data["channel_data"] = member.into();
        }
        self.say(json!({ "event": "pusher:subscribe", "data": data })).await;
    }

    pub async fn subscribe(&mut self, channel: &str) {
        self.ask(channel, None).await;
        self.hears("pusher_internal:subscription_succeeded", channel).await;
    }

    /// Joins a presence channel. Returns the ids of its members, in order.
    pub async fn enter(&mut self, channel: &str, user: &str) -> Vec<String> {
        self.ask(channel, Some(json!({ "user_id": user, "user_info": { "name": user } }))).await;
        let data = self.hears("pusher_internal:subscription_succeeded", channel).await;
        let ids = data["presence"]["ids"].as_array().expect("ids").clone();
        assert_eq!(data["presence"]["count"], ids.len());
        assert_eq!(data["presence"]["hash"][user]["name"], user);
        ids.iter().map(|id| id.as_str().expect("a text").to_owned()).collect()
    }

    /// Signs in as a user.
    pub async fn sign_in(&mut self, user: Value) {
        let user = user.to_string();
        let auth = format!("key:{}", sign(&format!("{}::user::{user}", self.id)));
        self.say(json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": user } })).await;
        self.hears("pusher:signin_success", "").await;
    }

    /// Checks that no message is waiting.
    pub async fn hears_nothing(&mut self) {
        self.say(json!({ "event": "pusher:ping", "data": {} })).await;
        self.hears("pusher:pong", "").await;
    }
}

impl Gateway {
    /// Calls the app's HTTP API, signed as by the app's servers. `more`: further parameters, in the order of their
    /// names. A path that begins with `/users/` names no app.
    pub async fn pusher_api(&self, method: &str, path: &str, more: &str, body: &str) -> (u16, String) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let mut query = format!("auth_key=key&auth_timestamp={}&auth_version=1.0", now.as_secs());
        if !body.is_empty() {
            query += &format!("&body_md5={:x}", md5::compute(body));
        }
        if !more.is_empty() {
            query += &format!("&{more}");
        }
        let path = if path.starts_with("/users/") { path.to_owned() } else { format!("/apps/1{path}") };
        let signature = sign(&format!("{method}\n{path}\n{query}"));
        let target = format!("{path}?{query}&auth_signature={signature}");
        let answer =
            http::request(self.api, method, &target, "Content-Type: application/json\r\n", body).await;
        (answer.status, String::from_utf8(answer.body).expect("text"))
    }
}
