//! The stream and the consumer of a feed: found, made, and begun with again where it is not known what became of messages.

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

/// A message that nobody says anything of is handed out again after this: readers that change begin anew before that.
const ACK_WAIT: Duration = Duration::from_secs(60);

/// How much longer than it should take an answer to a pull is waited for.
const SLACK: Duration = Duration::from_secs(2);

/// How far a consumer has got.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConsumerProgress {
    /// Messages that were handed out so far, whosever they were.
    pub(super) delivered: u64,
    /// Up to here everything is acknowledged.
    pub(super) done: u64,
    /// Handed out, and not acknowledged.
    pub(super) open: u64,
    /// Not handed out yet.
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

/// Which streams a feed can read, by what they keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keeps {
    Limits,
    WorkQueue,
}

/// What the stream keeps. One that keeps what somebody is interested in would lose it while the consumer is made anew.
pub(super) async fn look_at_stream(
    jetstream: &JetStream,
    link: &NatsLink,
    settings: &NatsFeedConfig,
) -> Result<Keeps, String> {
    let name = format!("STREAM.INFO.{}", settings.stream);
    let info: StreamInfo = jetstream.ask(link, &name, &json!({})).await.map_err(in_words)?;
    match &*info.config.retention {
        "limits" => Ok(Keeps::Limits),
        "workqueue" => Ok(Keeps::WorkQueue),
        other => Err(format!("its retention is {other}: a feed reads streams of limits and of workqueue")),
    }
}

/// Takes the consumer away.
pub(super) async fn unmake(
    jetstream: &JetStream,
    link: &NatsLink,
    settings: &NatsFeedConfig,
) -> Result<(), String> {
    let name = format!("CONSUMER.DELETE.{}.{}", settings.stream, settings.consumer);
    match jetstream.ask::<Value>(link, &name, &json!({})).await {
        Ok(_) | Err(JetStreamError::Refused(code::CONSUMER_NOT_FOUND, _)) => Ok(()),
        Err(failed) => Err(in_words(failed)),
    }
}

/// Makes it, to begin behind this message, or where the settings say.
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
    // Of a work queue, what is acknowledged is gone.
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
    jetstream.ask::<Value>(link, &name, &request).await.map_err(in_words)?;
    if done.is_none() {
        tracing::info!(stream, consumer, "the consumer was not there and is made");
    }
    Ok(())
}

pub(super) fn in_words(failed: JetStreamError) -> String {
    BrokerError::from(failed).to_string()
}

/// How far it has got. None: it is not there.
pub(super) async fn look(
    jetstream: &JetStream,
    link: &NatsLink,
    settings: &NatsFeedConfig,
) -> Result<Option<ConsumerProgress>, String> {
    let name = format!("CONSUMER.INFO.{}.{}", settings.stream, settings.consumer);
    let info: ConsumerInfo = match jetstream.ask(link, &name, &json!({})).await {
        Ok(info) => info,
        Err(JetStreamError::Refused(code::CONSUMER_NOT_FOUND, _)) => return Ok(None),
        Err(failed) => return Err(in_words(failed)),
    };
    let filter = info.config.get("filter_subject").and_then(Value::as_str).unwrap_or_default().to_owned();
    if filter != settings.subject {
        return Err(format!("the consumer {} is there and reads other subjects", settings.consumer));
    }
    Ok(Some(ConsumerProgress {
        delivered: info.delivered.consumer_seq,
        done: info.ack_floor.stream_seq,
        open: info.num_ack_pending,
        left: info.num_pending,
    }))
}

/// Asks for the next messages: no more than so many and so many bytes, waiting for the first for so long.
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
            // A message that is longer than all of them may be.
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
                // Nothing, or nothing more.
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
                Some(503) => return Err(BrokerError::refused("the consumer is not there")),
                Some(status) => return Err(odd(&format!("the status {status}"))),
            }
        }
        if !(is_too_long && messages.is_empty()) {
            break;
        }
    }
    Ok(messages)
}
