//! Requests of the API: the methods, and their parameters from JSON.
//!
//! Unknown fields are ignored, and a field that is null counts as missing: client libraries of many languages and releases
//! write these bodies.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::published_message::Content;

mod inspect_requests;
mod map_requests;
mod socketio_requests;

pub(super) use inspect_requests::{ClosesRequest, Explain, Inspect};
pub(super) use map_requests::{MapPublish, MapReadState, MapReadStream, MapRemove};
pub(super) use socketio_requests::{
    SocketioAsk, SocketioDisconnect, SocketioEmit, SocketioJoin, SocketioLeave, SocketioSockets,
};

macro_rules! methods {
    ($($name:ident $word:literal $parameters:ty;)*) => {
        /// A command, alone in its request or in a batch. Borrows from the body.
        #[derive(Debug)]
        pub(super) enum Command<'a> {
            $($name($parameters),)*
            /// An unknown command in a batch, which must not fail the others.
            Unknown,
        }

        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Method {
            $($name),*
        }

        impl Method {
            pub(super) const ALL: &[Self] = &[$(Self::$name),*];

            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $word),*
                }
            }

            /// Reads the parameters of this method.
            pub(super) fn read<'a>(self, body: &'a [u8]) -> serde_json::Result<Command<'a>> {
                match self {
                    $(Self::$name => serde_json::from_slice(body).map(Command::$name)),*
                }
            }

            /// Reads the parameters as the next value of a map.
            fn read_next<'de, M: MapAccess<'de>>(self, map: &mut M) -> Result<Command<'de>, M::Error> {
                match self {
                    $(Self::$name => map.next_value().map(Command::$name)),*
                }
            }
        }

        impl Command<'_> {
            /// Returns the name under which a batch answers the command.
            pub(super) fn method(&self) -> Option<Method> {
                match self {
                    $(Self::$name(_) => Some(Method::$name),)*
                    Self::Unknown => None,
                }
            }
        }
    };
}

methods! {
    Publish "publish" Publish<'a>;
    Broadcast "broadcast" Broadcast<'a>;
    History "history" History<'a>;
    HistoryRemove "history_remove" ChannelRequest<'a>;
    Presence "presence" ChannelRequest<'a>;
    PresenceStats "presence_stats" ChannelRequest<'a>;
    Channels "channels" ChannelsRequest<'a>;
    Connections "connections" Connections<'a>;
    Inspect "inspect" Inspect<'a>;
    Closes "closes" ClosesRequest<'a>;
    Explain "explain" Explain<'a>;
    Info "info" IgnoredAny;
    Shed "shed" Shed<'a>;
    Disconnect "disconnect" Disconnect<'a>;
    Unsubscribe "unsubscribe" Unsubscribe<'a>;
    Subscribe "subscribe" Subscribe<'a>;
    Refresh "refresh" Refresh<'a>;
    SharedPollPublish "shared_poll_publish" SharedPollPublish<'a>;
    Rpc "rpc" Rpc<'a>;
    MapPublish "map_publish" MapPublish<'a>;
    MapRemove "map_remove" MapRemove<'a>;
    MapReadState "map_read_state" MapReadState<'a>;
    MapReadStream "map_read_stream" MapReadStream<'a>;
    MapStats "map_stats" ChannelRequest<'a>;
    MapClear "map_clear" ChannelRequest<'a>;
    SocketioEmit "socketio_emit" SocketioEmit<'a>;
    SocketioAsk "socketio_ask" SocketioAsk<'a>;
    SocketioJoin "socketio_join" SocketioJoin<'a>;
    SocketioLeave "socketio_leave" SocketioLeave<'a>;
    SocketioDisconnect "socketio_disconnect" SocketioDisconnect<'a>;
    SocketioSockets "socketio_sockets" SocketioSockets<'a>;
}

impl Method {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.name() == name)
    }
}

/// One of several commands in a body, as older client libraries send them.
#[derive(Debug, Deserialize)]
pub(super) struct OlderCommand<'a> {
    /// Returned with the answer.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) id: u32,
    #[serde(borrow, default)]
    pub(super) method: RequestText<'a>,
    #[serde(borrow, default)]
    pub(super) params: Option<&'a RawValue>,
}

/// A text, borrowed unless it has escapes. Null reads as empty.
#[derive(Debug, Default)]
pub(super) struct RequestText<'a>(Cow<'a, str>);

impl AsRef<str> for RequestText<'_> {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Deref for RequestText<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct BatchRequest<'a> {
    #[serde(borrow, deserialize_with = "or_default")]
    pub(super) commands: Vec<Command<'a>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) parallel: bool,
}

macro_rules! with_content {
    ($(#[$doc:meta])* $name:ident { $(#[$of_field:meta])* $field:ident: $type:ty }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        pub(super) struct $name<'a> {
            $(#[$of_field])*
            pub(super) $field: $type,
            #[serde(borrow)]
            data: Option<&'a RawValue>,
            #[serde(borrow)]
            b64data: RequestText<'a>,
            #[serde(deserialize_with = "or_default")]
            skip_history: bool,
            #[serde(deserialize_with = "or_default")]
            tags: BTreeMap<Box<str>, Box<str>>,
            #[serde(borrow)]
            idempotency_key: RequestText<'a>,
            #[serde(deserialize_with = "or_default")]
            version: u64,
            #[serde(borrow)]
            version_epoch: RequestText<'a>,
            #[serde(deserialize_with = "or_default")]
            delta: bool,
            /// The key whose newest value this is, in a channel that has newest values.
            #[serde(borrow)]
            key: Option<RequestText<'a>>,
        }

        impl<'a> $name<'a> {
            pub(super) fn content(&'a self) -> Content<'a> {
                Content {
                    data: self.data,
                    b64data: &self.b64data,
                    skip_history: self.skip_history,
                    tags: &self.tags,
                    idempotency_key: &self.idempotency_key,
                    version: self.version,
                    version_epoch: &self.version_epoch,
                    delta: self.delta,
                    key: self.key.as_deref(),
                }
            }
        }
    };
}

with_content!(Publish {
    #[serde(borrow)]
    channel: RequestText<'a>
});

with_content!(Broadcast {
    #[serde(borrow, deserialize_with = "or_default")]
    channels: Vec<RequestText<'a>>
});

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ChannelRequest<'a> {
    #[serde(borrow)]
    pub(super) channel: RequestText<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct History<'a> {
    #[serde(borrow)]
    pub(super) channel: RequestText<'a>,
    /// 0 for the position only; negative for as many as allowed.
    #[serde(deserialize_with = "or_default")]
    pub(super) limit: i64,
    #[serde(borrow)]
    pub(super) since: Option<Since<'a>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) reverse: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Since<'a> {
    #[serde(deserialize_with = "or_default")]
    pub(super) offset: u64,
    #[serde(borrow)]
    pub(super) epoch: RequestText<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Disconnect<'a> {
    #[serde(borrow)]
    pub(super) user: RequestText<'a>,
    #[serde(borrow)]
    pub(super) client: RequestText<'a>,
    #[serde(borrow)]
    pub(super) session: RequestText<'a>,
    #[serde(borrow, deserialize_with = "or_default")]
    pub(super) whitelist: Vec<RequestText<'a>>,
    #[serde(borrow)]
    pub(super) disconnect: Option<CloseRequest<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CloseRequest<'a> {
    #[serde(deserialize_with = "or_default")]
    pub(super) code: u32,
    #[serde(borrow)]
    pub(super) reason: RequestText<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Unsubscribe<'a> {
    #[serde(borrow)]
    pub(super) channel: RequestText<'a>,
    #[serde(borrow)]
    pub(super) user: RequestText<'a>,
    #[serde(borrow)]
    pub(super) client: RequestText<'a>,
    #[serde(borrow)]
    pub(super) session: RequestText<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ChannelsRequest<'a> {
    #[serde(borrow)]
    pub(super) pattern: RequestText<'a>,
    /// 0 for as many as allowed.
    #[serde(deserialize_with = "or_default")]
    pub(super) limit: u32,
    #[serde(borrow)]
    pub(super) cursor: RequestText<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Connections<'a> {
    #[serde(borrow)]
    pub(super) user: RequestText<'a>,
    #[serde(borrow)]
    pub(super) client: RequestText<'a>,
    #[serde(borrow)]
    pub(super) channel: RequestText<'a>,
    /// A filter in a language that is not supported here.
    #[serde(borrow)]
    pub(super) expression: RequestText<'a>,
    /// 0 for as many as allowed.
    #[serde(deserialize_with = "or_default")]
    pub(super) limit: u32,
    #[serde(borrow)]
    pub(super) cursor: RequestText<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Subscribe<'a> {
    #[serde(borrow)]
    pub(super) channel: RequestText<'a>,
    #[serde(borrow)]
    pub(super) user: RequestText<'a>,
    #[serde(borrow)]
    pub(super) client: RequestText<'a>,
    #[serde(borrow)]
    pub(super) session: RequestText<'a>,
    /// In seconds since 1970. 0 means never.
    #[serde(deserialize_with = "or_default")]
    pub(super) expire_at: i64,
    #[serde(borrow)]
    pub(super) info: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) b64info: RequestText<'a>,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) b64data: RequestText<'a>,
    #[serde(borrow)]
    pub(super) recover_since: Option<Since<'a>>,
    #[serde(rename = "override", deserialize_with = "or_default")]
    pub(super) overrides: Override,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Override {
    pub(super) presence: Option<FlagOverride>,
    pub(super) join_leave: Option<FlagOverride>,
    pub(super) force_recovery: Option<FlagOverride>,
    pub(super) force_positioning: Option<FlagOverride>,
    pub(super) force_push_join_leave: Option<FlagOverride>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FlagOverride {
    #[serde(deserialize_with = "or_default")]
    pub(super) value: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refresh<'a> {
    #[serde(borrow)]
    pub(super) user: RequestText<'a>,
    #[serde(borrow)]
    pub(super) client: RequestText<'a>,
    #[serde(borrow)]
    pub(super) session: RequestText<'a>,
    #[serde(deserialize_with = "or_default")]
    pub(super) expired: bool,
    /// In seconds since 1970. 0 means never.
    #[serde(deserialize_with = "or_default")]
    pub(super) expire_at: i64,
    #[serde(borrow)]
    pub(super) info: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SharedPollPublish<'a> {
    #[serde(borrow)]
    pub(super) channel: RequestText<'a>,
    #[serde(borrow)]
    pub(super) key: RequestText<'a>,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) b64data: RequestText<'a>,
    #[serde(deserialize_with = "or_default")]
    pub(super) version: u64,
    #[serde(borrow)]
    pub(super) epoch: RequestText<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Shed<'a> {
    /// The name or uid of one node. Empty for all.
    #[serde(borrow)]
    pub(super) node: RequestText<'a>,
    /// In seconds. 0 for each node's configured value.
    #[serde(deserialize_with = "or_default")]
    pub(super) over_s: u32,
    /// 0 for each node's configured value.
    #[serde(deserialize_with = "or_default")]
    pub(super) tolerance_percent: u32,
    #[serde(deserialize_with = "or_default")]
    pub(super) stop: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rpc<'a> {
    #[serde(borrow)]
    pub(super) method: RequestText<'a>,
    #[serde(borrow)]
    pub(super) params: Option<&'a RawValue>,
}

/// Reads `{"publish":{…}}`: the field that names a method counts.
impl<'de: 'a, 'a> Deserialize<'de> for Command<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(CommandVisitor)
    }
}

struct CommandVisitor;

impl<'de> Visitor<'de> for CommandVisitor {
    type Value = Command<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command, such as {\"publish\":{}}")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Command<'de>, M::Error> {
        let mut command = Command::Unknown;
        while let Some(name) = map.next_key::<RequestText<'de>>()? {
            let Some(method) = Method::parse(&name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if !matches!(command, Command::Unknown) {
                return Err(serde::de::Error::custom("one command of the batch names two methods"));
            }
            command = method.read_next(&mut map)?;
        }
        Ok(command)
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl<'de: 'a, 'a> Deserialize<'de> for RequestText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(RequestText)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(body: &str) -> serde_json::Result<BatchRequest<'_>> {
        serde_json::from_str(body)
    }

    #[test]
    fn every_method_has_a_name_that_reads_back() {
        for &method in Method::ALL {
            assert_eq!(Method::parse(method.name()), Some(method));
            let command = method.read(b"{}").unwrap();
            assert_eq!(command.method(), Some(method));
        }
        assert_eq!(Method::parse("batch"), None);
    }

    #[test]
    fn a_payload_and_plain_texts_are_borrowed_from_the_body() {
        let body =
            r#"{"channel":"news","data":{ "a" : 1 },"b64data":null,"tags":null,"delta":true}"#.to_owned();
        let publish: Publish<'_> = serde_json::from_str(&body).unwrap();
        let within = |text: &str| body.as_bytes().as_ptr_range().contains(&text.as_ptr());
        assert!(matches!(&publish.channel.0, Cow::Borrowed(channel) if within(channel)));
        let data = publish.content().data.unwrap().get();
        assert_eq!(data, r#"{ "a" : 1 }"#);
        assert!(within(data));
    }

    #[test]
    fn escapes_in_texts_are_read() {
        let publish: Publish<'_> = serde_json::from_str(r#"{"channel":"a\u0062"}"#).unwrap();
        assert_eq!(&*publish.channel, "ab");
    }

    #[test]
    fn a_batch_keeps_what_it_knows_and_marks_what_it_does_not() {
        let batch =
            batch(r#"{"commands":[{"publish":{"channel":"a"}},{"explode":{"x":[1]}},{}],"parallel":true}"#);
        let batch = batch.unwrap();
        assert!(batch.parallel);
        let methods: Vec<_> = batch.commands.iter().map(Command::method).collect();
        assert_eq!(methods, [Some(Method::Publish), None, None]);
    }

    #[test]
    fn a_batch_that_is_malformed_anywhere_is_refused_whole() {
        for bad in [
            r#"{"commands":[{"publish":{}},7]}"#,
            r#"{"commands":[{"publish":{"channel":7}}]}"#,
            r#"{"commands":[{"publish":{},"info":{}}]}"#,
            r#"{"commands":{}}"#,
            r#"{"commands":[]"#,
        ] {
            assert!(batch(bad).is_err(), "{bad}");
        }
    }
}
