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

/// What a consumer has not handed out yet.
#[derive(Deserialize)]
struct Pending {
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
        self.gather_from(link, stream, subjects, 1).await
    }

    /// The same from this sequence on. Each batch has a timeout of its own: there may be much of it.
    pub(crate) async fn gather_from(
        &self,
        link: &NatsLink,
        stream: &str,
        subjects: &str,
        from: u64,
    ) -> Result<Vec<FetchedMessage>, JetStreamError> {
        let mut request = json!({
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
        if from > 1 {
            request["config"]["deliver_policy"] = json!("by_start_sequence");
            request["config"]["opt_start_seq"] = json!(from);
        }
        let consumer: Consumer = self.ask(link, &format!("CONSUMER.CREATE.{stream}"), &request).await?;
        let mut gathered = Vec::new();
        let mut left = consumer.num_pending;
        let mut deadline = Instant::now() + link.timeout();
        while left > 0 {
            if Instant::now() >= deadline {
                return Err(BrokerError::unanswered(link.timeout()).into());
            }
            let before = gathered.len();
            let batch = left.min(BATCH);
            let next = self.subject(&format!("CONSUMER.MSG.NEXT.{stream}.{}", consumer.name));
            let expires = nanoseconds(FEWER.min(link.timeout() / 4));
            let pull = json!({ "batch": batch, "expires": expires }).to_string();
            let mut messages = link.pull(next, pull.into()).await?;
            let mut is_cut_short = false;
            for _ in 0..batch {
                let Ok(Some(message)) = tokio::time::timeout_at(deadline, messages.next()).await else {
                    link.connection()?;
                    return Err(BrokerError::unanswered(link.timeout()).into());
                };
                match message.status.map(|status| status.as_u16()) {
                    None => {
                        let (number, message) = read(message)?;
                        gathered.push(message);
                        if number != gathered.len() as u64 {
                            // Something of it was lost on the way.
                            let text = format!("message {number} has come as the {}th", gathered.len());
                            return Err(BrokerError::Unanswered(text.into()).into());
                        }
                    }
                    // There are fewer than there were, or what there is takes its time.
                    Some(404 | 408) => {
                        is_cut_short = true;
                        break;
                    }
                    // The consumer or its leader is gone, and with it nobody knows how much of it.
                    status => return Err(cut_off(status, message.description.as_deref()).into()),
                }
            }
            if gathered.len() > before {
                deadline = Instant::now() + link.timeout();
            }
            left = match is_cut_short {
                true => {
                    let name = format!("CONSUMER.INFO.{stream}.{}", consumer.name);
                    self.ask::<Pending>(link, &name, &json!({})).await?.num_pending
                }
                false => left - batch,
            };
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

fn cut_off(status: Option<u16>, description: Option<&str>) -> BrokerError {
    let status = status.unwrap_or_default();
    let reason = description.unwrap_or("the consumer does not answer");
    BrokerError::refused(format!("reading was ended by the server: {status} {reason}"))
}

/// Where a message stands, it says in the subject that it would be acknowledged at, which newer servers begin with two tokens
/// more, and which of the consumer's it is: `$JS.ACK.stream.consumer.deliveries.sequence.of consumer.nanoseconds.left`.
fn read(message: Message) -> Result<(u64, FetchedMessage), BrokerError> {
    let reply = message.reply.as_deref().unwrap_or_default();
    let mut tokens: Vec<&str> = reply.split('.').collect();
    if tokens.len() >= 11 {
        tokens.drain(2..4);
    }
    let number = |at: usize| tokens.get(at).and_then(|token| token.parse::<u64>().ok());
    let (Some(sequence), Some(which), Some(nanoseconds)) = (number(5), number(6), number(7)) else {
        return Err(odd("the place of a message"));
    };
    let (subject, payload) = (message.subject.to_string(), message.payload);
    Ok((which, FetchedMessage { subject, sequence, written: nanoseconds / 1_000_000, payload }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::fake::{FakeReply, serve};
    use super::super::nats_link::NatsLinkPurpose;
    use super::super::{NatsConfig, NatsDialer, NatsUrl};
    use super::*;

    fn message(number: u32) -> FakeReply {
        FakeReply::Message("p.x", format!("$JS.ACK.s.c.1.{number}.{number}.1700000000000000000.0"))
    }

    /// What is gathered of a consumer that has three messages, and whose pulls are answered so, one after the other.
    async fn gathered(pulls: Vec<fn() -> Vec<FakeReply>>, left: u32) -> Result<Vec<u64>, String> {
        let count = AtomicU32::new(0);
        let says = move |subject: &str| match subject {
            "$JS.API.CONSUMER.CREATE.s" => {
                vec![FakeReply::Answer("{\"name\":\"c\",\"num_pending\":3}".to_owned())]
            }
            "$JS.API.CONSUMER.INFO.s.c" => vec![FakeReply::Answer(format!("{{\"num_pending\":{left}}}"))],
            "$JS.API.CONSUMER.MSG.NEXT.s.c" => {
                let number = count.fetch_add(1, Ordering::SeqCst) as usize;
                pulls.get(number).map(|pull| pull()).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let (url, _server) = serve(says).await;
        let config = NatsConfig { url: NatsUrl::new(url), timeout_ms: 2_000, ..NatsConfig::default() };
        let dialer = NatsDialer::new(&config).unwrap();
        let options = dialer.options("test").unwrap();
        let (metrics, nothing) = (Arc::default(), Box::new(|| {}));
        let link = NatsLink::start(
            dialer.servers(),
            options,
            NatsLinkPurpose::Reads,
            config.timeout(),
            metrics,
            nothing,
        );
        let link = link.await.unwrap();
        let all = JetStream::new("", true).gather(&link, "s", "p.>").await;
        let all = all.map_err(|failed| BrokerError::from(failed).to_string())?;
        Ok(all.into_iter().map(|one| one.sequence).collect())
    }

    #[tokio::test]
    async fn a_part_is_not_taken_for_the_whole() {
        let all = gathered(vec![|| vec![message(1), message(2), message(3)]], 0).await;
        assert_eq!(all.unwrap(), [1, 2, 3]);
        for ended in ["409 Consumer Deleted", "409 Leadership Change", "503"] {
            let pull: fn() -> Vec<FakeReply> = match ended {
                "503" => || vec![FakeReply::Status("503")],
                "409 Consumer Deleted" => || vec![message(1), FakeReply::Status("409 Consumer Deleted")],
                _ => || vec![message(1), FakeReply::Status("409 Leadership Change")],
            };
            let told = gathered(vec![pull], 0).await.unwrap_err();
            assert!(told.contains(&ended[..3]), "{ended}: {told}");
        }
    }

    #[tokio::test]
    async fn what_has_a_gap_is_refused() {
        for gap in [|| vec![message(1), message(3)], || vec![message(2), message(3)]] {
            let told = gathered(vec![gap], 0).await.unwrap_err();
            assert!(told.contains("message"), "{told}");
        }
        let late: fn() -> Vec<FakeReply> = || vec![message(1), FakeReply::Status("408 Request Timeout")];
        let told = gathered(vec![late, || vec![message(3)]], 1).await.unwrap_err();
        assert!(told.contains("message 3"), "{told}");
    }

    #[tokio::test]
    async fn what_takes_its_time_is_waited_for_and_what_is_gone_is_not() {
        let late: fn() -> Vec<FakeReply> = || vec![message(1), FakeReply::Status("408 Request Timeout")];
        let rest: fn() -> Vec<FakeReply> = || vec![message(2), message(3)];
        assert_eq!(gathered(vec![late, rest], 2).await.unwrap(), [1, 2, 3]);
        let fewer: fn() -> Vec<FakeReply> = || vec![message(1), FakeReply::Status("404 No Messages")];
        assert_eq!(gathered(vec![fewer], 0).await.unwrap(), [1]);
    }
}
