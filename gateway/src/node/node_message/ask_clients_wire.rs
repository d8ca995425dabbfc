//! How an event that asks clients of Socket.IO is written, and what they answer.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::id::ClientId;
use shared::protocol::socketio::{ARGUMENTS_TAG, BINARY_TAG};
use shared::publication::{Payload, Tagged, Tags, is_json};

use crate::node::ask_clients::{ASK_CLIENTS_TIMEOUT_MAX, AskClients, AskOutcome};
use crate::node::control::Among;
use crate::node::wire_target::WireAmong;

use super::NodeRequest;

/// The arguments are behind it.
#[derive(Serialize, Deserialize)]
pub(super) struct WireAskClients {
    among: WireAmong,
    namespace: Box<str>,
    event: Box<str>,
    timeout_ms: u64,
    #[serde(flatten)]
    tags: WireTags,
}

#[derive(Serialize, Deserialize)]
struct WireTags {
    /// How many arguments there are.
    args: Box<str>,
    /// Where bytes stand in base64 among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary: Option<Box<str>>,
}

/// A client and what came of asking it.
#[derive(Serialize, Deserialize)]
pub(super) struct WireAsked {
    client: Box<str>,
    asked: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    said: Option<Box<RawValue>>,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    tags: Option<WireTags>,
}

pub(super) fn write(among: Among, ask: AskClients, payload: &mut Bytes) -> WireAskClients {
    let AskClients { namespace, event, said, timeout } = ask;
    let tags = WireTags::of(&said.tags);
    *payload = said.data.bytes;
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    WireAskClients { among: among.into(), namespace, event, timeout_ms, tags }
}

/// `None` for what no node of any release says.
pub(super) fn read(wire: WireAskClients, payload: Bytes) -> Option<NodeRequest> {
    let WireAskClients { among, namespace, event, timeout_ms, tags } = wire;
    if !is_json(&payload) {
        return None;
    }
    let said = Tagged { data: Payload::json(payload), tags: tags.into() };
    let timeout = Duration::from_millis(timeout_ms).min(ASK_CLIENTS_TIMEOUT_MAX);
    Some(NodeRequest::AskClients(Box::new((among.read()?, AskClients { namespace, event, said, timeout }))))
}

pub(super) fn write_asked(asked: Vec<(ClientId, AskOutcome)>) -> Vec<WireAsked> {
    let write = |(client, asked): (ClientId, AskOutcome)| {
        let label = asked.label().into();
        let said = if let AskOutcome::Answered(said) = asked { Some(said) } else { None };
        let tags = said.as_ref().map(|said| WireTags::of(&said.tags));
        let said = said.and_then(|said| serde_json::from_slice(&said.data.bytes).ok());
        WireAsked { client: client.to_string().into(), asked: label, said, tags }
    };
    asked.into_iter().map(write).collect()
}

/// `None` for what this release does not understand.
pub(super) fn read_asked(wire: Vec<WireAsked>) -> Option<Vec<(ClientId, AskOutcome)>> {
    let read = |WireAsked { client, asked, said, tags }: WireAsked| {
        let asked = match &*asked {
            "answered" => {
                let bytes = Box::<str>::from(said?).into_string();
                AskOutcome::Answered(Tagged { data: Payload::json(bytes), tags: tags?.into() })
            }
            "timeout" => AskOutcome::Timeout,
            "gone" => AskOutcome::Gone,
            "too_many" => AskOutcome::TooMany,
            "too_long" => AskOutcome::TooLong,
            _ => return None,
        };
        Some((ClientId::parse(&client)?, asked))
    };
    wire.into_iter().map(read).collect()
}

impl WireTags {
    fn of(tags: &Tags) -> Self {
        let tag = |name: &str| tags.get(name).cloned();
        Self { args: tag(ARGUMENTS_TAG).unwrap_or_default(), binary: tag(BINARY_TAG) }
    }
}

impl From<WireTags> for Tags {
    fn from(WireTags { args, binary }: WireTags) -> Self {
        let binary = binary.map(|binary| (BINARY_TAG.into(), binary));
        [(ARGUMENTS_TAG.into(), args)].into_iter().chain(binary).collect()
    }
}
