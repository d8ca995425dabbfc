//! Publishes values of all keys on a schedule: one request for each turn in which every key changes once.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HOST};
use tokio::time::timeout;

use super::NewestArguments;
use crate::clock::{Alarm, NANOS_PER_SECOND, now_ns};
use crate::http::HttpConnection;
use crate::plan::Target;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct ValuePublisher<'a> {
    arguments: &'a NewestArguments,
    beside: String,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct PublishedValues {
    /// The number of each key's last value.
    pub(super) last: BTreeMap<u32, u64>,
    pub(super) count: u64,
    /// How far it was behind its schedule.
    pub(super) late_ms_max: f64,
}

impl<'a> ValuePublisher<'a> {
    pub(super) fn of(arguments: &'a NewestArguments) -> Self {
        Self { arguments, beside: format!("{}-beside", arguments.channel) }
    }

    /// `number`: of the last value before these.
    pub(super) async fn publish(self, mut number: u64) -> io::Result<PublishedValues> {
        let NewestArguments { keys, rate, others_rate, duration, address, .. } = *self.arguments;
        let alarm = Alarm::new()?;
        let mut connection = HttpConnection::open(&Target::plain(address)).await.map_err(io::Error::other)?;
        let mut published = PublishedValues::default();
        let (start, turns) = (now_ns(), (duration.as_secs_f64() * rate).round() as u64);
        let at = |turn: u64| start + (turn as f64 / rate * NANOS_PER_SECOND as f64) as u64;
        let mut beside = 0;
        for turn in 0..turns {
            alarm.wait_until(at(turn)).await?;
            let now = now_ns();
            published.late_ms_max = published.late_ms_max.max((now - at(turn)) as f64 / 1e6);
            let mut body = String::with_capacity(keys as usize * 160);
            body.push_str("{\"commands\":[");
            for key in 0..keys {
                number += 1;
                published.last.insert(key, number);
                self.command(&mut body, &self.arguments.channel, Some(key), number);
                body.push(',');
            }
            let due = ((now - start) as f64 / NANOS_PER_SECOND as f64 * others_rate) as u64 + 1;
            for _ in beside..due {
                self.command(&mut body, &self.beside, None, 0);
                body.push(',');
            }
            beside = due;
            body.pop();
            body.push_str("]}");
            published.count += u64::from(keys);
            self.post(&mut connection, body).await?;
        }
        Ok(published)
    }

    fn command(&self, body: &mut String, channel: &str, key: Option<u32>, number: u64) {
        let channel = serde_json::Value::from(channel);
        let key = key.map_or(String::new(), |key| format!("\"key\":\"{key}\","));
        let at = now_ns();
        // Writing to a string cannot fail.
        let _ = write!(body, "{{\"publish\":{{\"channel\":{channel},{key}\"data\":");
        let data = body.len();
        let _ = write!(body, "{{\"at\":{at},\"n\":{number}");
        let missing = self.arguments.payload.saturating_sub(body.len() - data + 1);
        if missing > ",\"p\":\"\"".len() {
            let _ = write!(body, ",\"p\":\"{}\"", "x".repeat(missing - ",\"p\":\"\"".len()));
        }
        body.push_str("}}}");
    }

    async fn post(&self, connection: &mut HttpConnection, body: String) -> io::Result<()> {
        let mut request = Request::post("/api/batch")
            .header(HOST, self.arguments.address.to_string())
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.arguments.api_key {
            request = request.header("x-api-key", key);
        }
        let request = request.body(Full::from(body)).map_err(io::Error::other)?;
        let answer = timeout(ANSWER_TIMEOUT, connection.ask(request)).await;
        let (status, body) = answer.map_err(|_| io::ErrorKind::TimedOut)?.map_err(io::Error::other)?;
        if !status.is_success() || memchr::memmem::find(&body, b"\"error\"").is_some() {
            let said = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            return Err(io::Error::other(format!("publishing was refused: HTTP {status} {said}")));
        }
        Ok(())
    }
}
