//! The stream and the consumer of a feed: looks them up, creates the consumer, and recreates it when the state of
//! messages is not known.

use async_nats::Message;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::nats_feed_config::NatsFeedConfig;
use crate::broker::BrokerError;
use crate::broker::nats::nats_link::NatsLink;
use crate::broker::nats::stored::{JetStream, JetStreamError, code, nanoseconds, odd};
use crate::feeds::redis_stream::From;
use crate::feeds::source::Bounds;

/// The time after which the server redelivers an unacknowledged message. A new reader recreates the consumer, so it
/// need not wait for this.
const ACK_WAIT: Duration = Duration::from_secs(60);

/// How much longer than its timeout the answer to a pull may take.
const SLACK: Duration = Duration::from_secs(2);

/// The progress of a consumer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConsumerProgress {
    /// Messages delivered so far, to any node.
    pub(super) delivered: u64,
    /// The sequence up to which every message is acknowledged.
    pub(super) done: u64,
    /// Messages delivered and not acknowledged.
    pub(super) open: u64,
    /// Messages not delivered yet.
    pub(super) left: u64,
}

#[derive(Deserialize)]
struct ConsumerInfo {
    delivered: Floor,
    ack_floor: Floor,
    num_ack_pending: u64,
    num_pending: u64,
    config: Value,
}

#[derive(Deserialize)]
struct Floor {
    consumer_seq: u64,
    stream_seq: u64,
}

#[derive(Deserialize)]
struct StreamInfo {
    config: StreamConfig,
}

#[derive(Deserialize)]
struct StreamConfig {
    retention: String,
}

/// The retentions of streams that a feed can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keeps {
    Limits,
    WorkQueue,
}

/// Returns the retention of the stream. Interest retention is refused: the stream would lose messages while the
/// consumer is recreated.
pub(super) async fn look_at_stream(
    jetstream: &JetStream,
    link: &NatsLink,
    settings: &NatsFeedConfig,
) -> Result<Keeps, String> {
    let name = format!("STREAM.INFO.{}", settings.stream);
    let info: StreamInfo = jetstream.ask(link, &name, &json!({})).await.map_err(describe)?;
    match &*info.config.retention {
        "limits" => Ok(Keeps::Limits),
        "workqueue" => Ok(Keeps::WorkQueue),
        other => Err(format!("its retention is {other}, must be limits or workqueue")),
    }
}

/// Deletes the consumer.
pub(super) async fn unmake(
    jetstream: &JetStream,
    link: &NatsLink,
    settings: &NatsFeedConfig,
) -> Result<(), String> {
    let name = format!("CONSUMER.DELETE.{}.{}", settings.stream, settings.consumer);
    match jetstream.ask::<Value>(link, &name, &json!({})).await {
        Ok(_) | Err(JetStreamError::Refused(code::CONSUMER_NOT_FOUND, _)) => Ok(()),
        Err(failed) => Err(describe(failed)),
    }
}

/// Creates the consumer, to begin behind message `done`, or where the settings say.
pub(super) async fn make(
    jetstream: &JetStream,
    link: &NatsLink,
    settings: &NatsFeedConfig,
    bounds: Bounds,
    (keeps, done): (Keeps, Option<u64>),
) -> Result<(), String> {
    let NatsFeedConfig { stream, consumer, .. } = settings;
    let mut config = json!({
        "durable_name": consumer,
        "ack_policy": "explicit",
        "ack_wait": nanoseconds(ACK_WAIT),
        "max_deliver": -1,
        "max_ack_pending": (bounds.records_max * 2).max(1_000),
        "deliver_policy": "all",
    });
    if !settings.subject.is_empty() {
        config["filter_subject"] = json!(settings.subject);
    }
    // A work queue keeps no acknowledged messages, so it is read from its beginning.
    if keeps == Keeps::Limits {
        match (done, settings.from) {
            (Some(done), _) => {
                config["deliver_policy"] = json!("by_start_sequence");
                config["opt_start_seq"] = json!(done + 1);
            }
            (None, From::End) => config["deliver_policy"] = json!("new"),
            (None, From::Beginning) => {}
        }
    }
    let request = json!({ "stream_name": stream, "config": config });
    let name = format!("CONSUMER.DURABLE.CREATE.{stream}.{consumer}");
    jetstream.ask::<Value>(link, &name, &request).await.map_err(describe)?;
    if done.is_none() {
        tracing::info!(stream, consumer, "the consumer did not exist and is created");
    }
    Ok(())
}

pub(super) fn describe(failed: JetStreamError) -> String {
    BrokerError::from(failed).to_string()
}

/// Returns the progress of the consumer. `None`: it does not exist.
pub(super) async fn look(
    jetstream: &JetStream,
    link: &NatsLink,
    settings: &NatsFeedConfig,
) -> Result<Option<ConsumerProgress>, String> {
    let name = format!("CONSUMER.INFO.{}.{}", settings.stream, settings.consumer);
    let info: ConsumerInfo = match jetstream.ask(link, &name, &json!({})).await {
        Ok(info) => info,
        Err(JetStreamError::Refused(code::CONSUMER_NOT_FOUND, _)) => return Ok(None),
        Err(failed) => return Err(describe(failed)),
    };
    let filter = info.config.get("filter_subject").and_then(Value::as_str).unwrap_or_default().to_owned();
    if filter != settings.subject {
        return Err(format!("the consumer {} exists and reads other subjects", settings.consumer));
    }
    Ok(Some(ConsumerProgress {
        delivered: info.delivered.consumer_seq,
        done: info.ack_floor.stream_seq,
        open: info.num_ack_pending,
        left: info.num_pending,
    }))
}

/// Pulls up to `batch` messages of up to `bytes_max` bytes, and waits up to `wait` for the first one.
pub(super) async fn pull(
    jetstream: &JetStream,
    link: &NatsLink,
    settings: &NatsFeedConfig,
    batch: usize,
    bytes_max: usize,
    wait: Option<Duration>,
) -> Result<Vec<Message>, BrokerError> {
    let subject = jetstream.subject(&format!("CONSUMER.MSG.NEXT.{}.{}", settings.stream, settings.consumer));
    let mut messages = Vec::new();
    let mut request = json!({ "batch": batch, "max_bytes": bytes_max });
    match wait {
        Some(wait) => request["expires"] = json!(nanoseconds(wait)),
        None => request["no_wait"] = json!(true),
    }
    for alone in [false, true] {
        if alone {
            // A single message may be longer than the limit of a batch.
            request = json!({ "batch": 1, "no_wait": true });
        }
        let mut answers = link.pull(subject.clone(), request.to_string().into()).await?;
        let deadline = Instant::now() + wait.unwrap_or_default() + link.timeout().max(SLACK);
        let batch = if alone { 1 } else { batch };
        let mut is_too_long = false;
        while messages.len() < batch {
            let Ok(Some(message)) = tokio::time::timeout_at(deadline, answers.next()).await else {
                link.connection()?;
                return Err(BrokerError::unanswered(link.timeout()));
            };
            match message.status.map(|status| status.as_u16()) {
                None => messages.push(message),
                // 404 and 408: no messages, or no more.
                Some(404 | 408) => break,
                Some(409) => {
                    is_too_long =
                        message.description.as_deref().is_some_and(|text| text.contains("MaxBytes"));
                    if !is_too_long {
                        let reason = message.description.unwrap_or_default();
                        return Err(BrokerError::refused(format!("the pull was ended: {reason}")));
                    }
                    break;
                }
                Some(503) => return Err(BrokerError::refused("the consumer does not exist")),
                Some(status) => return Err(odd(&format!("the status {status}"))),
            }
        }
        if !(is_too_long && messages.is_empty()) {
            break;
        }
    }
    Ok(messages)
}
