//! The protocol of a server, described by a file: how to subscribe, how to tell answers apart, how to publish over HTTP.
//!
//! A publication is any message that holds a mark, in any envelope and escaped or not.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{Event, Heard, Start, Wanted};
use crate::mark::Mark;

const BARE_PATH: &str = "/raw/{channel}";
const NAMESPACE_BOUNDARY: char = ':';

/// Other keys of a file are for scripts that start the server.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Template {
    pub subscribe: Subscribing,
    /// Without it, publications go through the gateway's own API.
    pub publish: Option<Publishing>,
}

/// How to subscribe.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Subscribing {
    /// Path and query of the WebSocket, or of the event stream.
    pub path: String,
    /// Whether the path is an event stream, in answer to a GET. A client then sends no messages.
    #[serde(default)]
    pub event_stream: bool,
    /// Messages to send on the open connection.
    #[serde(default)]
    pub open: Vec<String>,
    /// How the message begins after which the server takes subscriptions. Without it, the server takes them at once.
    pub welcome: Option<String>,
    /// Messages that subscribe.
    #[serde(default)]
    pub send: Vec<String>,
    /// How the message begins that confirms the subscription. Without it, sending `send` is enough.
    pub confirmed: Option<String>,
    /// How the message begins that refuses the subscription.
    pub refused: Option<String>,
    /// A message to answer, and the answer.
    pub ping: Option<String>,
    pub pong: Option<String>,
}

/// How to publish.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Publishing {
    #[serde(default = "post")]
    pub method: String,
    pub path: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{path} {problem}")]
pub struct TemplateError {
    path: String,
    problem: String,
}

impl Template {
    /// The raw endpoint: the address is the subscription, and every message a publication.
    pub fn bare() -> Self {
        let path = BARE_PATH.to_owned();
        Self { subscribe: Subscribing { path, ..Subscribing::default() }, publish: None }
    }

    pub(super) fn is_bare(&self) -> bool {
        *self == Self::bare()
    }

    pub fn read(path: &Path) -> Result<Self, TemplateError> {
        let wrong = |problem| TemplateError { path: path.display().to_string(), problem };
        let not_a_server = |problem: &str| wrong(format!("does not describe a server: {problem}"));
        let text = fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let read: Self = toml::from_str(&text).map_err(|error| not_a_server(&error.to_string()))?;
        let subscribe = &read.subscribe;
        if subscribe.ping.is_some() != subscribe.pong.is_some() {
            return Err(not_a_server("it has a ping without a pong, or the other way round"));
        }
        let says = !subscribe.open.is_empty() || !subscribe.send.is_empty() || subscribe.pong.is_some();
        if subscribe.event_stream && says {
            return Err(not_a_server("on an event stream a client says nothing"));
        }
        Ok(read)
    }

    pub(super) fn greet<'a>(&self, wanted: impl Iterator<Item = Wanted<'a>>, messages: &mut Vec<String>) {
        messages.extend(self.subscribe.open.iter().cloned());
        if self.subscribe.welcome.is_none() {
            self.subscribe(wanted, messages);
        }
    }

    pub(super) fn subscribe<'a>(&self, wanted: impl Iterator<Item = Wanted<'a>>, messages: &mut Vec<String>) {
        for wanted in wanted {
            messages.extend(self.subscribe.send.iter().map(|text| fill(text, wanted.channel, "")));
        }
    }

    pub(super) fn opened(&self, mut hear: impl FnMut(Event<'_>)) {
        if self.subscribe.welcome.is_none() {
            self.welcome(&mut hear);
        }
    }

    pub(super) fn hear(&self, message: &[u8], mut hear: impl FnMut(Event<'_>)) -> u64 {
        let mut unheard = message;
        while let Some((_, behind)) = Mark::find(unheard) {
            let payload = &unheard[..unheard.len() - behind.len()];
            hear(Event::Publication(Heard { channel: None, payload, offset: 0, recovered: false }));
            unheard = behind;
        }
        if unheard.len() < message.len() {
            return 0;
        }
        let begins =
            |text: &Option<String>| text.as_ref().is_some_and(|text| message.starts_with(text.as_bytes()));
        let Subscribing { ping, welcome, confirmed, refused, .. } = &self.subscribe;
        if ping.as_ref().is_some_and(|ping| ping.as_bytes() == message) {
            hear(Event::Ping);
        } else if begins(refused) {
            hear(Event::Refused { id: 0, reason: String::from_utf8_lossy(message).into_owned() });
        } else if begins(welcome) {
            self.welcome(&mut hear);
        } else if begins(confirmed) {
            hear(Event::Confirmed { slot: 0, start: Start::default() });
        }
        // Other messages of the server mean nothing here.
        0
    }

    /// Returns the path for this channel.
    pub(super) fn path(&self, channel: &str) -> String {
        fill(&self.subscribe.path, channel, "")
    }

    fn welcome(&self, hear: &mut impl FnMut(Event<'_>)) {
        hear(Event::Welcome { pong: self.subscribe.pong.is_some() });
        if self.subscribe.confirmed.is_none() {
            hear(Event::Confirmed { slot: 0, start: Start::default() });
        }
    }
}

impl Publishing {
    /// Returns the path and the body of the request that publishes.
    pub(crate) fn publication(&self, channel: &str, payload: &str) -> (String, String) {
        (fill(&self.path, channel, payload), fill(&self.body, channel, payload))
    }
}

fn post() -> String {
    "POST".to_owned()
}

/// Fills in the channel and the payload in one pass, so that placeholders inside them stay as they are. `{channel}` is the
/// channel's name, `{name}` the name without its namespace, `{payload}` JSON, and `{payload_string}` the same as a JSON
/// string.
fn fill(text: &str, channel: &str, payload: &str) -> String {
    let mut parts = text.split('{');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (filled, behind) = match part.split_once('}') {
            Some(("channel", behind)) => (channel.into(), behind),
            Some(("name", behind)) => {
                (channel.split_once(NAMESPACE_BOUNDARY).map_or(channel, |(_, name)| name).into(), behind)
            }
            Some(("payload", behind)) => (payload.into(), behind),
            Some(("payload_string", behind)) => (serde_json::Value::from(payload).to_string().into(), behind),
            _ => (Cow::Borrowed("{"), part),
        };
        out.push_str(&filled);
        out.push_str(behind);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::PayloadMaker;

    #[test]
    fn a_wire_without_namespaces_is_given_what_stands_behind_them() {
        assert_eq!(fill("/app/key?of={channel}", "shop:a:b", ""), "/app/key?of=shop:a:b");
        assert_eq!(fill("{\"channel\":\"{name}\"}", "shop:a:b", ""), "{\"channel\":\"a:b\"}");
        assert_eq!(fill("{name}", "a", ""), "a");
    }

    #[test]
    fn what_cannot_be_said_is_a_mistake() {
        let path = std::env::temp_dir().join(format!("tidegate-template-{}.toml", std::process::id()));
        let read = |more: &str| {
            fs::write(&path, format!("[subscribe]\npath = '/sse'\n{more}\n")).unwrap();
            let read = Template::read(&path);
            fs::remove_file(&path).unwrap();
            read
        };
        assert!(read("event_stream = true").is_ok());
        for more in ["open = ['x']", "send = ['x']", "ping = 'x'\npong = 'y'"] {
            let error = read(&format!("event_stream = true\n{more}")).unwrap_err();
            assert!(error.to_string().ends_with("on an event stream a client says nothing"), "{more}");
        }
        let error = read("ping = 'x'").unwrap_err().to_string();
        assert!(error.contains("does not describe a server: it has a ping without a pong"), "{error}");
    }

    #[test]
    fn publications_are_found_in_any_envelope_and_several_in_one() {
        let maker = PayloadMaker::new(1, 128);
        let escaped = |sequence| serde_json::Value::from(maker.make(0, sequence, 9)).to_string();
        let message = format!("42[\"message\",[{},{}]]", escaped(1), escaped(2));
        let mut sequences = Vec::new();
        Template::bare().hear(message.as_bytes(), |event| match event {
            Event::Publication(heard) => sequences.push(Mark::find(heard.payload).unwrap().0.sequence),
            other => panic!("{other:?}"),
        });
        assert_eq!(sequences, [1, 2]);
    }

    #[test]
    fn a_request_holds_the_channel_and_the_payload_in_their_places() {
        let body = fill("{channel} {payload_string} {payload} {", "a", "{\"x\":\"{channel}\"}");
        assert_eq!(body, "a \"{\\\"x\\\":\\\"{channel}\\\"}\" {\"x\":\"{channel}\"} {");
    }
}
