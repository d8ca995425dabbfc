//! The encoding of events that ask clients of Socket.IO, and of the clients' answers.

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

/// The question's line; the arguments follow as bytes.
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
    /// The number of arguments.
    args: Box<str>,
    /// The places of base64-encoded bytes among the arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary: Option<Box<str>>,
}

/// A client and the outcome of asking it.
#[derive(Serialize, Deserialize)]
pub(super) struct WireAsked {
    client: Box<str>,
    #[serde(rename = "asked")]
    outcome: Box<str>,
    #[serde(rename = "said", default, skip_serializing_if = "Option::is_none")]
    arguments: Option<Box<RawValue>>,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    tags: Option<WireTags>,
}

pub(super) fn write(among: Among, ask: AskClients, payload: &mut Bytes) -> WireAskClients {
    let AskClients { namespace, event, arguments, timeout } = ask;
    let tags = WireTags::of(&arguments.tags);
    *payload = arguments.data.bytes;
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    WireAskClients { among: among.into(), namespace, event, timeout_ms, tags }
}

/// Returns `None` for a message that no release sends.
pub(super) fn read(wire: WireAskClients, payload: Bytes) -> Option<NodeRequest> {
    let WireAskClients { among, namespace, event, timeout_ms, tags } = wire;
    if !is_json(&payload) {
        return None;
    }
    let arguments = Tagged { data: Payload::json(payload), tags: tags.into() };
    let timeout = Duration::from_millis(timeout_ms).min(ASK_CLIENTS_TIMEOUT_MAX);
    Some(NodeRequest::AskClients(Box::new((
        among.read()?,
        AskClients { namespace, event, arguments, timeout },
    ))))
}

pub(super) fn write_outcomes(outcomes: Vec<(ClientId, AskOutcome)>) -> Vec<WireAsked> {
    let write = |(client, outcome): (ClientId, AskOutcome)| {
        let label = outcome.label().into();
        let arguments = if let AskOutcome::Answered(arguments) = outcome { Some(arguments) } else { None };
        let tags = arguments.as_ref().map(|arguments| WireTags::of(&arguments.tags));
        let arguments = arguments.and_then(|arguments| serde_json::from_slice(&arguments.data.bytes).ok());
        WireAsked { client: client.to_string().into(), outcome: label, arguments, tags }
    };
    outcomes.into_iter().map(write).collect()
}

/// Returns `None` for outcomes that this release does not understand.
pub(super) fn read_outcomes(wire: Vec<WireAsked>) -> Option<Vec<(ClientId, AskOutcome)>> {
    let read = |WireAsked { client, outcome, arguments, tags }: WireAsked| {
        let outcome = match &*outcome {
            "answered" => {
                let bytes = Box::<str>::from(arguments?).into_string();
                AskOutcome::Answered(Tagged { data: Payload::json(bytes), tags: tags?.into() })
            }
            "timeout" => AskOutcome::Timeout,
            "gone" => AskOutcome::Gone,
            "too_many" => AskOutcome::TooMany,
            "too_long" => AskOutcome::TooLong,
            _ => return None,
        };
        Some((ClientId::parse(&client)?, outcome))
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
