//! Reads all messages that a stream has under some subjects, through a consumer that ends with the read.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::nats_link::NatsLink;
use super::stored::{JetStream, JetStreamError, MessageSelector, nanoseconds, odd};
use crate::broker::BrokerError;

/// The most messages requested at once.
const BATCH: u64 = 1_024;

/// How long the server keeps a consumer that nobody reads from.
const UNREAD: Duration = Duration::from_secs(5);

/// How long a request for messages is open. Messages that exist come at once, so after this time some are clearly gone.
const FEWER: Duration = Duration::from_millis(250);

/// How long after the end of a request nothing more of it is expected.
const SILENT: Duration = Duration::from_millis(500);

/// How often messages written during the read are read as well. A message that is missing after that was rewritten each
/// time; where many things are new at every moment, there is no end to wait for.
const PASSES_MAX: usize = 5;

/// A message that was read.
#[derive(Clone, Debug)]
pub(crate) struct FetchedMessage {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    /// The time of writing in milliseconds since 1970, by the server's clock.
    pub(crate) written: u64,
    pub(crate) payload: Bytes,
}

#[derive(Deserialize)]
struct Consumer {
    name: String,
    num_pending: u64,
}

/// How many messages a consumer has not delivered yet, and how many it has.
#[derive(Deserialize)]
struct ConsumerState {
    num_pending: u64,
    #[serde(default)]
    delivered: HandedOutUntil,
}

#[derive(Deserialize, Default)]
struct HandedOutUntil {
    consumer_seq: u64,
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
    subjects: Option<HashMap<String, u64>>,
}

/// A consumer that is being read.
struct ConsumerReading<'a> {
    jetstream: &'a JetStream,
    link: &'a NatsLink,
    stream: &'a str,
    consumer: String,
    gathered: Vec<FetchedMessage>,
}

impl JetStream {
    /// Returns the last message of each of these subjects, in the order in which they were written.
    pub(crate) async fn gather(
        &self,
        link: &NatsLink,
        stream: &str,
        subjects: &str,
    ) -> Result<Vec<FetchedMessage>, JetStreamError> {
        let (mut reading, count) = self.consume(link, stream, subjects, 1).await?;
        reading.read(count).await?;
        if count > 0 {
            // A message rewritten during the read stands behind all others. Reading it instead of another one ends the
            // count too early.
            for _ in 0..PASSES_MAX {
                if !reading.has_not_all(subjects).await? {
                    break;
                }
                let count = reading.state().await?.num_pending;
                reading.read(count.max(1)).await?;
            }
        }
        Ok(last_of_each(reading.end().await?))
    }

    /// Returns all messages from this sequence on that exist now, in the order in which they were written. Each batch has
    /// a timeout of its own, because there may be many.
    pub(crate) async fn gather_from(
        &self,
        link: &NatsLink,
        stream: &str,
        subjects: &str,
        from: u64,
    ) -> Result<Vec<FetchedMessage>, JetStreamError> {
        let (mut reading, count) = self.consume(link, stream, subjects, from).await?;
        reading.read(count).await?;
        reading.end().await
    }

    /// Creates a consumer. Also returns the number of messages to read.
    async fn consume<'a>(
        &'a self,
        link: &'a NatsLink,
        stream: &'a str,
        subjects: &str,
        from: u64,
    ) -> Result<(ConsumerReading<'a>, u64), JetStreamError> {
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
        let made: Consumer = self.ask(link, &format!("CONSUMER.CREATE.{stream}"), &request).await?;
        let reading =
            ConsumerReading { jetstream: self, link, stream, consumer: made.name, gathered: Vec::new() };
        Ok((reading, made.num_pending))
    }

    /// Returns the subjects alone.
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

impl ConsumerReading<'_> {
    /// Reads this many messages, or as many as are left.
    async fn read(&mut self, count: u64) -> Result<(), JetStreamError> {
        let mut left = count;
        let mut deadline = Instant::now() + self.link.timeout();
        while left > 0 {
            if Instant::now() >= deadline {
                return Err(BrokerError::unanswered(self.link.timeout()).into());
            }
            let (before, batch) = (self.gathered.len(), left.min(BATCH));
            let is_cut_short = self.pull(batch, deadline).await?;
            if self.gathered.len() > before {
                deadline = Instant::now() + self.link.timeout();
            }
            left = if is_cut_short { self.state().await?.num_pending } else { left - batch };
        }
        Ok(())
    }

    async fn state(&self) -> Result<ConsumerState, JetStreamError> {
        let name = format!("CONSUMER.INFO.{}.{}", self.stream, self.consumer);
        self.jetstream.ask(self.link, &name, &json!({})).await
    }

    /// Requests this many messages. Returns whether fewer came, because they are gone or take their time.
    async fn pull(&mut self, batch: u64, deadline: Instant) -> Result<bool, JetStreamError> {
        let link = self.link;
        let next = self.jetstream.subject(&format!("CONSUMER.MSG.NEXT.{}.{}", self.stream, self.consumer));
        let expires = FEWER.min(link.timeout() / 4);
        let pull = json!({ "batch": batch, "expires": nanoseconds(expires) }).to_string();
        let mut messages = link.pull(next, pull.into()).await?;
        let (mut read_now, mut is_late) = (0, false);
        while read_now < batch {
            // A server that handles a request only after it has expired may drop it silently.
            let silent = if is_late { deadline } else { deadline.min(Instant::now() + expires + SILENT) };
            let message = match tokio::time::timeout_at(silent, messages.next()).await {
                Ok(Some(message)) => message,
                Err(_) if silent < deadline && link.connection().is_ok() => {
                    // Messages that the consumer has delivered are still on their way.
                    is_late = self.state().await?.delivered.consumer_seq > self.gathered.len() as u64;
                    if is_late {
                        continue;
                    }
                    return Ok(true);
                }
                _ => {
                    link.connection()?;
                    return Err(BrokerError::unanswered(link.timeout()).into());
                }
            };
            match message.status.map(|status| status.as_u16()) {
                None => {
                    let (number, message) = read(message)?;
                    self.gathered.push(message);
                    read_now += 1;
                    let count = self.gathered.len();
                    if number != count as u64 {
                        // A message was lost on the way.
                        let text = format!("message {number} has come as the {count}th");
                        return Err(BrokerError::Unanswered(text.into()).into());
                    }
                }
                // There are fewer messages than there were, or they take their time.
                Some(404 | 408) => return Ok(true),
                // The consumer or its leader is gone, and it is unknown how many messages with it.
                status => return Err(cut_off(status, message.description.as_deref()).into()),
            }
        }
        Ok(false)
    }

    /// Whether the stream has any of these subjects behind the messages that were read. The server counts the pending
    /// messages of a consumer only a moment after they are stored.
    async fn has_not_all(&self, subjects: &str) -> Result<bool, JetStreamError> {
        let sequence = self.gathered.last().map_or(0, |last| last.sequence) + 1;
        let next = MessageSelector::Next { sequence, subject: subjects.to_owned() };
        Ok(self.jetstream.get(self.link, self.stream, &next).await?.is_some())
    }

    async fn end(self) -> Result<Vec<FetchedMessage>, JetStreamError> {
        // No answer is awaited: the server would remove the consumer later by itself.
        let delete = self.jetstream.subject(&format!("CONSUMER.DELETE.{}.{}", self.stream, self.consumer));
        self.link.send(delete, Bytes::new()).await?;
        Ok(self.gathered)
    }
}

fn last_of_each(gathered: Vec<FetchedMessage>) -> Vec<FetchedMessage> {
    let last: HashMap<String, u64> =
        gathered.iter().map(|message| (message.subject.clone(), message.sequence)).collect();
    if last.len() == gathered.len() {
        return gathered;
    }
    gathered.into_iter().filter(|message| last.get(&message.subject) == Some(&message.sequence)).collect()
}

/// Returns the error for a read that the server ended. A new read has another consumer and may succeed, unless the server
/// refused the size of the request.
fn cut_off(status: Option<u16>, description: Option<&str>) -> BrokerError {
    let status = status.unwrap_or_default();
    let description = description.unwrap_or("the consumer does not answer");
    let text = format!("reading was ended by the server: {status} {description}");
    match status {
        503 => BrokerError::Unanswered(text.into()),
        409 if !description.starts_with("Exceeded") => BrokerError::Unanswered(text.into()),
        _ => BrokerError::refused(text),
    }
}

/// Reads a message. The subject of its acknowledgement holds its sequence and its number in the consumer, and two more
/// tokens from newer servers: `$JS.ACK.stream.consumer.deliveries.sequence.of consumer.nanoseconds.left`.
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

    /// The server's replies to one pull.
    type Pull = fn() -> Vec<FakeReply>;

    fn message(number: u32) -> FakeReply {
        FakeReply::Message("p.x", format!("$JS.ACK.s.c.1.{number}.{number}.1700000000000000000.0"))
    }

    /// Returns a message of this subject and stream sequence, with the consumer's sequence `number`.
    fn message_of(subject: &'static str, sequence: u32, number: u32) -> FakeReply {
        FakeReply::Message(subject, format!("$JS.ACK.s.c.1.{sequence}.{number}.1700000000000000000.0"))
    }

    /// A consumer that announces `count` messages and answers its pulls one after the other. `behind` has the answers to requests
    /// for messages after those read; once they are used up, there is none.
    struct Faked {
        count: u32,
        pulls: Vec<Pull>,
        left: u32,
        delivered: u32,
        behind: Vec<u64>,
    }

    /// Gathers the consumer's messages and returns their subjects and sequences. In a log, no message is replaced by a newer one.
    async fn gathered_of(faked: Faked, is_log: bool) -> Result<Vec<(String, u64)>, BrokerError> {
        let Faked { count, pulls, left, delivered, behind } = faked;
        let (pulled, looked) = (AtomicU32::new(0), AtomicU32::new(0));
        let says = move |subject: &str| match subject {
            "$JS.API.CONSUMER.CREATE.s" => {
                vec![FakeReply::Answer(format!("{{\"name\":\"c\",\"num_pending\":{count}}}"))]
            }
            "$JS.API.CONSUMER.INFO.s.c" => vec![FakeReply::Answer(format!(
                "{{\"num_pending\":{left},\"delivered\":{{\"consumer_seq\":{delivered}}}}}"
            ))],
            "$JS.API.CONSUMER.MSG.NEXT.s.c" => {
                let number = pulled.fetch_add(1, Ordering::SeqCst) as usize;
                pulls.get(number).map(|pull| pull()).unwrap_or_default()
            }
            "$JS.API.DIRECT.GET.s" => match behind.get(looked.fetch_add(1, Ordering::SeqCst) as usize) {
                Some(sequence) => vec![FakeReply::Stored("p.x", *sequence)],
                None => vec![FakeReply::Status("404 Message Not Found")],
            },
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
        let jetstream = JetStream::new("", true);
        let all = match is_log {
            true => jetstream.gather_from(&link, "s", "p.>", 1).await?,
            false => jetstream.gather(&link, "s", "p.>").await?,
        };
        Ok(all.into_iter().map(|one| (one.subject, one.sequence)).collect())
    }

    /// Gathers a log of three messages.
    async fn gathered(pulls: Vec<Pull>, left: u32) -> Result<Vec<u64>, String> {
        let all = gathered_of(Faked { count: 3, pulls, left, delivered: 0, behind: Vec::new() }, true).await;
        let all = all.map_err(|error| error.to_string())?;
        Ok(all.into_iter().map(|(_, sequence)| sequence).collect())
    }

    #[tokio::test]
    async fn what_is_written_anew_while_it_is_read_takes_nobodys_place() {
        let ann_twice: Pull = || vec![message_of("p.ann", 1, 1), message_of("p.ann", 3, 2)];
        let then_bob: Pull = || vec![message_of("p.bob", 4, 3), FakeReply::Status("408 Request Timeout")];
        let nothing_yet: Pull = || vec![FakeReply::Status("408 Request Timeout")];
        let faked = Faked {
            count: 2,
            pulls: vec![ann_twice, nothing_yet, then_bob],
            left: 0,
            delivered: 0,
            behind: vec![4, 4],
        };
        let all = gathered_of(faked, false).await.unwrap();
        assert_eq!(all, [("p.ann".to_owned(), 3), ("p.bob".to_owned(), 4)]);
        // The consumer's state may be slightly out of date, so the stream is asked too.
        let one: Pull = || vec![message_of("p.ann", 1, 1), FakeReply::Status("404 No Messages")];
        let then_bob: Pull = || vec![message_of("p.bob", 4, 2), FakeReply::Status("404 No Messages")];
        let faked = Faked { count: 2, pulls: vec![one, then_bob], left: 0, delivered: 0, behind: vec![4] };
        let all = gathered_of(faked, false).await.unwrap();
        assert_eq!(all, [("p.ann".to_owned(), 1), ("p.bob".to_owned(), 4)]);
    }

    #[tokio::test]
    async fn what_a_server_lets_go_of_without_a_word_is_asked_for_again() {
        let nothing: Pull = Vec::new;
        let rest: Pull = || vec![message(2), message(3)];
        assert_eq!(gathered(vec![nothing, || vec![message(1)], rest], 2).await.unwrap(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn what_a_server_has_handed_out_and_does_not_come_is_not_taken_for_read() {
        for is_log in [true, false] {
            let one: Pull = || vec![message(1)];
            let faked = Faked { count: 3, pulls: vec![one], left: 0, delivered: 3, behind: Vec::new() };
            let error = gathered_of(faked, is_log).await.unwrap_err();
            assert!(matches!(error, BrokerError::Unanswered(_) | BrokerError::Timeout(_)), "{error:?}");
        }
    }

    #[tokio::test]
    async fn where_something_new_comes_all_the_time_reading_ends() {
        let new: [Pull; 6] = [
            || vec![message(1)],
            || vec![message(2)],
            || vec![message(3)],
            || vec![message(4)],
            || vec![message(5)],
            || vec![message(6)],
        ];
        let faked = Faked { count: 1, pulls: new.to_vec(), left: 1, delivered: 0, behind: vec![9; 20] };
        let all = gathered_of(faked, false).await.unwrap();
        assert_eq!(all.last().map(|(_, sequence)| *sequence), Some(6));
    }

    #[tokio::test]
    async fn who_can_read_anew_is_not_refused() {
        let says: [(Pull, bool); 5] = [
            (|| vec![FakeReply::Status("409 Consumer Deleted")], false),
            (|| vec![FakeReply::Status("409 Leadership Change")], false),
            (|| vec![FakeReply::Status("503")], false),
            (|| vec![FakeReply::Status("409 Exceeded MaxRequestBatch of 10")], true),
            (|| vec![FakeReply::Status("400 Bad Request")], true),
        ];
        for (pull, is_refused) in says {
            let faked = Faked { count: 1, pulls: vec![pull], left: 0, delivered: 0, behind: Vec::new() };
            let error = gathered_of(faked, false).await.unwrap_err();
            let expected = match is_refused {
                true => matches!(error, BrokerError::Refused { .. }),
                false => matches!(error, BrokerError::Unanswered(_)),
            };
            assert!(expected, "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_part_is_not_taken_for_the_whole() {
        let all = gathered(vec![|| vec![message(1), message(2), message(3)]], 0).await;
        assert_eq!(all.unwrap(), [1, 2, 3]);
        for ended in ["409 Consumer Deleted", "409 Leadership Change", "503"] {
            let pull: Pull = match ended {
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
        let late: Pull = || vec![message(1), FakeReply::Status("408 Request Timeout")];
        let told = gathered(vec![late, || vec![message(3)]], 1).await.unwrap_err();
        assert!(told.contains("message 3"), "{told}");
    }

    #[tokio::test]
    async fn what_takes_its_time_is_waited_for_and_what_is_gone_is_not() {
        let late: Pull = || vec![message(1), FakeReply::Status("408 Request Timeout")];
        let rest: Pull = || vec![message(2), message(3)];
        assert_eq!(gathered(vec![late, rest], 2).await.unwrap(), [1, 2, 3]);
        let fewer: Pull = || vec![message(1), FakeReply::Status("404 No Messages")];
        assert_eq!(gathered(vec![fewer], 0).await.unwrap(), [1]);
    }
}
