//! Publishes to Redis and to a node's API, as fast as they answer or on time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use memchr::memmem::Finder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::link_reader::LinkReader;
use crate::clock::{Alarm, NANOS_PER_SECOND, now_ns};
use crate::mark::PayloadMaker;

const BUFFER_BYTES: usize = 1 << 18;
/// A publisher that is this far ahead of the one who reads waits for them.
const AHEAD_MAX: u64 = 100_000;
const WAIT: Duration = Duration::from_millis(1);
/// How long answers may take after the last was asked for.
const ANSWERS: Duration = Duration::from_secs(20);
/// Requests in one write.
const COMMANDS_PER_WRITE: usize = 100;
const REQUESTS_PER_WRITE: usize = 16;
const API_ERRORS: &[&[u8]] = &[b"\"error\"", b"HTTP/1.1 4", b"HTTP/1.1 5"];
/// Connections that take turns where publications must be on time.
const ON_TIME_CONNECTIONS: usize = 8;

/// Requests that can be sent again and again, and how their answers are told.
#[derive(Debug)]
pub struct PreparedRequests {
    bytes: Vec<u8>,
    publications: u64,
    answer: &'static [u8],
    /// What is in an answer that refuses; one of these.
    errors: &'static [&'static [u8]],
}

impl PreparedRequests {
    /// PUBLISH, pipelined.
    pub fn redis(channel: &str, payload: usize) -> Self {
        let one = redis_publish(channel, &fixed(payload));
        Self {
            bytes: one.repeat(COMMANDS_PER_WRITE),
            publications: COMMANDS_PER_WRITE as u64,
            answer: b"\n",
            errors: &[b"-ERR"],
        }
    }

    /// One publication a request, pipelined.
    pub fn api_single(channel: &str, payload: usize) -> Self {
        let one = http("/api/publish", &publish_request(channel, &fixed(payload)));
        Self {
            bytes: one.repeat(REQUESTS_PER_WRITE),
            publications: REQUESTS_PER_WRITE as u64,
            answer: b"\r\n\r\n",
            errors: API_ERRORS,
        }
    }

    /// Many publications a request.
    pub fn api_batch(channel: &str, payload: usize, size: u16) -> Self {
        let one = format!("{{\"publish\":{}}}", publish_request(channel, &fixed(payload)));
        let body = format!("{{\"commands\":[{}]}}", vec![one; size.into()].join(","));
        Self {
            bytes: http("/api/batch", &body),
            publications: size.into(),
            answer: b"{\"publish\":",
            errors: API_ERRORS,
        }
    }
}

/// What is to be published, and how hard.
#[derive(Debug)]
pub struct Flood<'a> {
    pub address: SocketAddr,
    pub publishing: &'a PreparedRequests,
    pub connections: usize,
    /// Writes of each connection that are not answered yet, at most.
    pub outstanding: u64,
    pub lasts: Duration,
    /// Nobody publishes far ahead of this one.
    pub reader: Option<&'a LinkReader>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Those that were answered.
    pub published: u64,
    pub failed: u64,
}

/// Publishes as fast as it is answered.
pub async fn flood(flood: Flood<'_>) -> io::Result<Sent> {
    let end = Instant::now() + flood.lasts;
    let mut sockets = Vec::new();
    for _ in 0..flood.connections {
        sockets.push(connect(flood.address).await?);
    }
    let each = sockets.into_iter().map(|socket| one(socket, &flood, end));
    let sent = futures_util::future::try_join_all(each).await?;
    Ok(sent.into_iter().fold(Sent::default(), |sum, one| Sent {
        published: sum.published + one.published,
        failed: sum.failed + one.failed,
    }))
}

async fn one(mut socket: TcpStream, flood: &Flood<'_>, end: Instant) -> io::Result<Sent> {
    let PreparedRequests { bytes, publications, answer, errors } = flood.publishing;
    let mut answers = Answers::new(answer, errors);
    let mut writes = 0;
    loop {
        let sending = Instant::now() < end;
        let answered = answers.counted;
        if !sending && answered >= writes * publications {
            let failed = answers.failed;
            return Ok(Sent { published: answered.saturating_sub(failed), failed });
        }
        let has_room = answered + flood.outstanding * publications > writes * publications;
        let is_ahead = flood.reader.is_some_and(|reader| answered > reader.count() + AHEAD_MAX);
        if sending && has_room && !is_ahead {
            // What is outstanding fits into the buffers in between: nobody waits for us to read here.
            timeout(ANSWERS, socket.write_all(bytes)).await.map_err(|_| late())??;
            writes += 1;
        } else if answered < writes * publications {
            let length = timeout(ANSWERS, socket.read(answers.room())).await.map_err(|_| late())??;
            answers.take(length)?;
        } else {
            sleep(WAIT).await;
        }
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "publications were not answered in time")
}

/// Counts answers, also those that are cut in two.
#[derive(Debug)]
struct Answers {
    buffer: Vec<u8>,
    kept: usize,
    answer: Finder<'static>,
    errors: Vec<Finder<'static>>,
    counted: u64,
    failed: u64,
}

impl Answers {
    fn new(answer: &'static [u8], errors: &'static [&'static [u8]]) -> Self {
        let (answer, errors) = (Finder::new(answer), errors.iter().map(Finder::new).collect());
        Self { buffer: vec![0; BUFFER_BYTES], kept: 0, answer, errors, counted: 0, failed: 0 }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.kept..]
    }

    fn take(&mut self, length: usize) -> io::Result<()> {
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed a connection"));
        }
        let filled = self.kept + length;
        let bytes = &self.buffer[..filled];
        let mut longest = self.answer.needle().len();
        for error in &self.errors {
            // One that ends in what was kept was counted then.
            let is_new = |at: &usize| at + error.needle().len() > self.kept;
            self.failed += error.find_iter(bytes).filter(is_new).count() as u64;
            longest = longest.max(error.needle().len());
        }
        let mut behind = 0;
        for at in self.answer.find_iter(bytes) {
            self.counted += 1;
            behind = at + self.answer.needle().len();
        }
        // Enough for whatever is cut in two; an answer that was counted is not among it.
        self.kept = (filled - behind).min(longest - 1);
        self.buffer.copy_within(filled - self.kept..filled, 0);
        Ok(())
    }
}

/// Connections on which everything was sent. Kept until it has arrived: a server may give up what was asked for by
/// those who have gone.
#[derive(Debug)]
pub struct Sending {
    _writers: Vec<OwnedWriteHalf>,
    _readers: JoinSet<()>,
}

/// Publishes at a fixed rate, and marks each with the moment it was due.
pub async fn publish_on_time(
    address: SocketAddr,
    via_api: bool,
    channel: &str,
    payload: usize,
    rate: f64,
    count: u64,
) -> io::Result<Sending> {
    let (mut writers, mut readers) = (Vec::new(), JoinSet::new());
    for _ in 0..if via_api { ON_TIME_CONNECTIONS } else { 1 } {
        let (reader, writer) = connect(address).await?.into_split();
        readers.spawn(drain(reader));
        writers.push(writer);
    }
    let (alarm, maker) = (Alarm::new()?, PayloadMaker::new(rand::random(), payload));
    let start_ns = now_ns();
    for number in 0..count {
        let due_ns = start_ns + (number as f64 / rate * NANOS_PER_SECOND as f64) as u64;
        alarm.wait_until(due_ns).await?;
        let payload = maker.make(0, number + 1, due_ns);
        let request = if via_api {
            http("/api/publish", &publish_request(channel, &payload))
        } else {
            redis_publish(channel, &payload)
        };
        let writer = &mut writers[number as usize % if via_api { ON_TIME_CONNECTIONS } else { 1 }];
        timeout(ANSWERS, writer.write_all(&request)).await.map_err(|_| late())??;
    }
    Ok(Sending { _writers: writers, _readers: readers })
}

/// Answers are not looked at: what did not arrive is missing with the reader.
async fn drain(mut reader: OwnedReadHalf) {
    let mut buffer = [0; 4096];
    while let Ok(1..) = reader.read(&mut buffer).await {}
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A payload for all publications of a flood.
fn fixed(payload: usize) -> String {
    PayloadMaker::new(rand::random(), payload).make(0, 1, now_ns())
}

/// The Redis channel in which a node looks for publications to one of its channels.
pub fn redis_channel(channel: &str) -> String {
    format!("tidegate:pub:{{{channel}}}")
}

/// A publication without history, as nodes write and read it: no position, version 1 of the record, JSON.
fn redis_publish(channel: &str, payload: &str) -> Vec<u8> {
    let record = [b":\x01\x00", payload.as_bytes()].concat();
    command(&[b"PUBLISH", redis_channel(channel).as_bytes(), &record])
}

/// A command in the protocol of Redis.
pub fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn publish_request(channel: &str, payload: &str) -> String {
    format!("{{\"channel\":\"{channel}\",\"data\":{payload}}}")
}

fn http(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "Host: localhost\r\nContent-Type: application/json";
    format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_once_however_they_are_cut() {
        let batch: &[u8] = b"x{\"publish\":{}},{\"publish\":{\"error\":1}},{\"publish\":{}}";
        let single =
            b"HTTP/1.1 200 OK\r\n\r\n{}HTTP/1.1 429 Slow\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{\"error\":1}";
        let redis = b":1\r\n-ERR no\r\n:0\r\n";
        let publishing = [
            (batch, PreparedRequests::api_batch("a", 1, 1), 30, 10),
            (single, PreparedRequests::api_single("a", 1), 30, 20),
            (redis, PreparedRequests::redis("a", 1), 30, 10),
        ];
        for (text, publishing, counted, failed) in publishing {
            for size in 1..40 {
                let mut answers = Answers::new(publishing.answer, publishing.errors);
                for piece in text.repeat(10).chunks(size) {
                    answers.room()[..piece.len()].copy_from_slice(piece);
                    answers.take(piece.len()).unwrap();
                }
                assert_eq!((answers.counted, answers.failed), (counted, failed), "in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_command_is_what_redis_reads() {
        assert_eq!(command(&[b"GET", b"key"]), b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");
    }
}
