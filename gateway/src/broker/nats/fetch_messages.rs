//! All that a stream has of some subjects, read through a consumer that ends with the reading.

use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::nats_link::NatsLink;
use super::stored::{JetStream, JetStreamError, nanoseconds, odd};
use crate::broker::BrokerError;

/// Messages that are asked for at once.
const BATCH: u64 = 1_024;

/// When nobody reads it, the server forgets a consumer after this.
const UNREAD: Duration = Duration::from_secs(5);

/// After this it is clear that some of them are not there any more: the others come at once.
const FEWER: Duration = Duration::from_millis(250);

/// A message that was read.
#[derive(Clone, Debug)]
pub(crate) struct FetchedMessage {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    /// In milliseconds since 1970, by the server's clock.
    pub(crate) written: u64,
    pub(crate) payload: Bytes,
}

#[derive(Deserialize)]
struct Consumer {
    name: String,
    num_pending: u64,
}

#[derive(Deserialize)]
struct WithSubjects {
    state: Subjects,
    #[serde(default)]
    total: usize,
}

#[derive(Deserialize)]
struct Subjects {
    #[serde(default)]
    subjects: Option<std::collections::HashMap<String, u64>>,
}

impl JetStream {
    /// Everything, in the order in which it was written.
    pub(crate) async fn gather(
        &self,
        link: &NatsLink,
        stream: &str,
        subjects: &str,
    ) -> Result<Vec<FetchedMessage>, JetStreamError> {
        let deadline = Instant::now() + link.timeout();
        let request = json!({
            "stream_name": stream,
            "config": {
                "deliver_policy": "all",
                "ack_policy": "none",
                "max_deliver": -1,
                "filter_subject": subjects,
                "mem_storage": true,
                "num_replicas": 1,
                "inactive_threshold": nanoseconds(UNREAD),
            },
        });
        let consumer: Consumer = self.ask(link, &format!("CONSUMER.CREATE.{stream}"), &request).await?;
        let mut gathered = Vec::new();
        let mut left = consumer.num_pending;
        while left > 0 {
            let batch = left.min(BATCH);
            let next = self.subject(&format!("CONSUMER.MSG.NEXT.{stream}.{}", consumer.name));
            let expires = nanoseconds(FEWER.min(link.timeout() / 4));
            let pull = json!({ "batch": batch, "expires": expires }).to_string();
            let mut messages = link.pull(next, pull.into()).await?;
            for _ in 0..batch {
                let Ok(Some(message)) = tokio::time::timeout_at(deadline, messages.next()).await else {
                    link.connection()?;
                    return Err(BrokerError::unanswered(link.timeout()).into());
                };
                if message.status.is_some() {
                    // There are fewer than there were.
                    left = batch;
                    break;
                }
                gathered.push(read(message)?);
            }
            left -= batch;
        }
        // The server does it by itself, later.
        let delete = self.subject(&format!("CONSUMER.DELETE.{stream}.{}", consumer.name));
        link.send(delete, Bytes::new()).await?;
        Ok(gathered)
    }

    /// The subjects alone.
    pub(crate) async fn subjects(
        &self,
        link: &NatsLink,
        stream: &str,
        subjects: &str,
    ) -> Result<Vec<String>, JetStreamError> {
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let request: Value = json!({ "subjects_filter": subjects, "offset": offset });
            let info: WithSubjects = self.ask(link, &format!("STREAM.INFO.{stream}"), &request).await?;
            let page = info.state.subjects.unwrap_or_default();
            offset += page.len();
            let is_last = page.is_empty() || offset >= info.total;
            all.extend(page.into_keys());
            if is_last {
                return Ok(all);
            }
        }
    }
}

/// Where a message stands, it says in the subject that it would be acknowledged at, which newer servers begin with two tokens
/// more: `$JS.ACK.stream.consumer.deliveries.sequence.of consumer.nanoseconds.left`.
fn read(message: Message) -> Result<FetchedMessage, BrokerError> {
    let reply = message.reply.as_deref().unwrap_or_default();
    let mut tokens: Vec<&str> = reply.split('.').collect();
    if tokens.len() >= 11 {
        tokens.drain(2..4);
    }
    let number = |at: usize| tokens.get(at).and_then(|token| token.parse::<u64>().ok());
    let (Some(sequence), Some(nanoseconds)) = (number(5), number(7)) else {
        return Err(odd("the place of a message"));
    };
    let (subject, payload) = (message.subject.to_string(), message.payload);
    Ok(FetchedMessage { subject, sequence, written: nanoseconds / 1_000_000, payload })
}
