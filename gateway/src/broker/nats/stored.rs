//! Reads and changes what JetStream stores: one request for each operation, over any link.

use std::time::Duration;

use async_nats::{HeaderMap, Message};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::moment::milliseconds;
use super::nats_link::{NatsLink, is_unheard};
use crate::broker::{BrokerError, BrokerRefusal};

/// The server's error codes.
pub(crate) mod code {
    pub(crate) const STREAM_NOT_FOUND: u64 = 10_059;
    pub(crate) const STREAM_NAME_TAKEN: u64 = 10_058;
    /// Another stream takes some of the same subjects.
    pub(crate) const SUBJECTS_TAKEN: u64 = 10_065;
    pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10_071;
    /// In a replicated stream, while another write to the subject is in flight.
    pub(crate) const WRITTEN_MEANWHILE: [u64; 2] = [10_163, 10_164];
    pub(crate) const NO_MESSAGE: u64 = 10_037;
    pub(crate) const CONSUMER_NOT_FOUND: u64 = 10_014;
    /// The deletion of a message failed.
    pub(crate) const NOT_DELETED: u64 = 10_057;
    pub(super) const NOT_ENABLED: u64 = 10_076;
    pub(super) const NOT_ENABLED_FOR_ACCOUNT: u64 = 10_039;
}

/// The prefix of the API's subjects, and how messages are read.
#[derive(Clone, Debug)]
pub(crate) struct JetStream {
    api: String,
    /// Whether messages are read directly, past the API: only with a single replica, because others may lag behind.
    direct: bool,
}

/// A stored message.
#[derive(Clone, Debug)]
pub(crate) struct StoredMessage {
    pub(crate) sequence: u64,
    /// The time of writing in milliseconds since 1970, by the server's clock.
    pub(crate) written: u64,
    pub(crate) payload: Bytes,
}

/// A refusal, with the server's error code.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct JetStreamApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Why a request failed.
#[derive(Clone, Debug)]
pub(crate) enum JetStreamError {
    /// The server refused, with this error code.
    Refused(u64, BrokerError),
    /// No stream takes the subject.
    NoStream,
    Other(BrokerError),
}

impl From<JetStreamError> for BrokerError {
    fn from(failed: JetStreamError) -> Self {
        match failed {
            JetStreamError::Refused(_, error) | JetStreamError::Other(error) => error,
            JetStreamError::NoStream => Self::Unreachable(
                "no stream accepts the message: JetStream cannot be reached, or is not enabled".into(),
            ),
        }
    }
}

impl From<BrokerError> for JetStreamError {
    fn from(error: BrokerError) -> Self {
        Self::Other(error)
    }
}

impl JetStreamApiError {
    fn into_failed(mut self, link: &NatsLink) -> JetStreamError {
        if code::WRITTEN_MEANWHILE.contains(&self.err_code) {
            self.err_code = code::WRONG_LAST_SEQUENCE;
        }
        let kind = match self.err_code {
            10_023 | 10_028 | 10_047 | 10_077 | 10_054 => BrokerRefusal::OutOfMemory,
            10_008 | 10_009 | 10_005 => BrokerRefusal::ClusterDown,
            code::NOT_ENABLED | code::NOT_ENABLED_FOR_ACCOUNT => BrokerRefusal::UnknownCommand,
            _ => BrokerRefusal::Other,
        };
        let text = format!("{} ({})", self.description, self.err_code).into();
        let error = BrokerError::Refused { kind, text };
        if !matches!(
            self.err_code,
            code::WRONG_LAST_SEQUENCE
                | code::NO_MESSAGE
                | code::STREAM_NOT_FOUND
                | code::CONSUMER_NOT_FOUND
                | code::STREAM_NAME_TAKEN
                | code::SUBJECTS_TAKEN
        ) {
            link.failed(&error);
        }
        JetStreamError::Refused(self.err_code, error)
    }
}

/// The error that any answer of the API may hold in place of its result.
#[derive(Deserialize)]
struct JetStreamAnswer {
    error: Option<JetStreamApiError>,
}

#[derive(Deserialize)]
struct PublishAck {
    seq: u64,
}

#[derive(Deserialize)]
struct GetMessageResponse {
    message: FoundMessage,
}

#[derive(Deserialize)]
struct FoundMessage {
    seq: u64,
    #[serde(default)]
    data: String,
    time: String,
}

/// Selects a message.
#[derive(Clone, Debug)]
pub(crate) enum MessageSelector {
    Sequence(u64),
    Last(String),
    /// The first message of these subjects from this sequence on.
    Next {
        sequence: u64,
        subject: String,
    },
}

impl MessageSelector {
    fn request(&self) -> serde_json::Value {
        match self {
            Self::Sequence(sequence) => json!({ "seq": sequence }),
            Self::Last(subject) => json!({ "last_by_subj": subject }),
            Self::Next { sequence, subject } => json!({ "seq": sequence, "next_by_subj": subject }),
        }
    }
}

impl JetStream {
    pub(crate) fn new(domain: &str, direct: bool) -> Self {
        let api = if domain.is_empty() { "$JS.API".to_owned() } else { format!("$JS.{domain}.API") };
        Self { api, direct }
    }

    /// Whether streams may be read directly, past the API.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Sends a request to the API and returns its answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        link: &NatsLink,
        what: &str,
        request: &serde_json::Value,
    ) -> Result<T, JetStreamError> {
        let subject = format!("{}.{what}", self.api);
        let answer = link.ask(subject, None, request.to_string().into()).await?;
        if is_unheard(&answer) {
            let text = "JetStream is not enabled at the server, or cannot be reached";
            let error = BrokerError::Refused { kind: BrokerRefusal::UnknownCommand, text: text.into() };
            link.failed(&error);
            return Err(JetStreamError::Refused(code::NOT_ENABLED, error));
        }
        read(link, &answer)
    }

    /// Returns the subject of a request to the API, for requests whose answers come one by one.
    pub(crate) fn subject(&self, what: &str) -> String {
        format!("{}.{what}", self.api)
    }

    /// Adds a message, if the last one of its subject still has the sequence `after`. Returns the sequence of the new message.
    pub(crate) async fn add(
        &self,
        link: &NatsLink,
        subject: String,
        after: u64,
        alone: bool,
        payload: Bytes,
    ) -> Result<u64, JetStreamError> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", after.to_string());
        if alone {
            // A rollup removes all earlier messages of the subject.
            headers.insert("Nats-Rollup", "sub");
        }
        self.send(link, subject, Some(headers), payload).await
    }

    /// Adds a message unconditionally.
    pub(crate) async fn put(
        &self,
        link: &NatsLink,
        subject: String,
        payload: Bytes,
    ) -> Result<u64, JetStreamError> {
        self.send(link, subject, None, payload).await
    }

    /// Does the same with headers.
    pub(crate) async fn put_with(
        &self,
        link: &NatsLink,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<u64, JetStreamError> {
        self.send(link, subject, Some(headers), payload).await
    }

    async fn send(
        &self,
        link: &NatsLink,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<u64, JetStreamError> {
        let answer = link.ask(subject, headers, payload).await?;
        if is_unheard(&answer) {
            return Err(JetStreamError::NoStream);
        }
        read::<PublishAck>(link, &answer).map(|acknowledged| acknowledged.seq)
    }

    /// Returns the selected message, or `None` if there is none.
    pub(crate) async fn get(
        &self,
        link: &NatsLink,
        stream: &str,
        which: &MessageSelector,
    ) -> Result<Option<StoredMessage>, JetStreamError> {
        if self.direct {
            return self.get_directly(link, stream, which).await;
        }
        let request = which.request();
        match self.ask::<GetMessageResponse>(link, &format!("STREAM.MSG.GET.{stream}"), &request).await {
            Ok(GetMessageResponse { message }) => {
                let payload = BASE64_STANDARD.decode(&message.data).map_err(|_| odd("a message"))?;
                let written = milliseconds(&message.time).ok_or_else(|| odd("the time of a message"))?;
                Ok(Some(StoredMessage { sequence: message.seq, written, payload: payload.into() }))
            }
            Err(JetStreamError::Refused(code::NO_MESSAGE, _)) => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    async fn get_directly(
        &self,
        link: &NatsLink,
        stream: &str,
        which: &MessageSelector,
    ) -> Result<Option<StoredMessage>, JetStreamError> {
        let request = which.request().to_string();
        let subject = format!("{}.DIRECT.GET.{stream}", self.api);
        let answer = link.ask(subject, None, request.into()).await?;
        if is_unheard(&answer) {
            return Err(JetStreamError::NoStream);
        }
        if let Some(status) = answer.status {
            return match status.as_u16() {
                404 => Ok(None),
                status => Err(odd(&format!("the status {status}")).into()),
            };
        }
        let header = |name: &str| {
            let headers = answer.headers.as_ref()?;
            headers.get_last(name).map(|value| value.as_str().to_owned())
        };
        let sequence = header("Nats-Sequence").and_then(|sequence| sequence.parse().ok());
        let written = header("Nats-Time-Stamp").and_then(|time| milliseconds(&time));
        let (Some(sequence), Some(written)) = (sequence, written) else {
            return Err(odd("a message without its place").into());
        };
        Ok(Some(StoredMessage { sequence, written, payload: answer.payload }))
    }

    /// Deletes one message, if it is still there.
    pub(crate) async fn delete(
        &self,
        link: &NatsLink,
        stream: &str,
        sequence: u64,
    ) -> Result<(), JetStreamError> {
        let request = json!({ "seq": sequence, "no_erase": true });
        match self.ask::<serde_json::Value>(link, &format!("STREAM.MSG.DELETE.{stream}"), &request).await {
            Ok(_) | Err(JetStreamError::Refused(code::NO_MESSAGE | code::NOT_DELETED, _)) => Ok(()),
            Err(failed) => Err(failed),
        }
    }

    /// Deletes all messages that a stream has under these subjects.
    pub(crate) async fn purge(
        &self,
        link: &NatsLink,
        stream: &str,
        subjects: &str,
    ) -> Result<(), JetStreamError> {
        let request = json!({ "filter": subjects });
        self.ask::<serde_json::Value>(link, &format!("STREAM.PURGE.{stream}"), &request).await.map(drop)
    }
}

fn read<T: DeserializeOwned>(link: &NatsLink, answer: &Message) -> Result<T, JetStreamError> {
    let parse = |error: serde_json::Error| JetStreamError::Other(odd(&error.to_string()));
    if let JetStreamAnswer { error: Some(error) } = serde_json::from_slice(&answer.payload).map_err(parse)? {
        return Err(error.into_failed(link));
    }
    serde_json::from_slice(&answer.payload).map_err(parse)
}

pub(crate) fn odd(what: &str) -> BrokerError {
    BrokerError::Unexpected(format!("JetStream answered {what} that cannot be read").into())
}

/// Converts a time to nanoseconds, the API's unit.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(i64::MAX as u64).min(i64::MAX as u64)
}
