//! One Sentinel is asked who is master: again and again, and at once when it tells of a change. Its connection is opened again
//! for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{FromRedisValue, RedisConnectionInfo, Value, parse_redis_value};
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use super::super::address::Address;
use super::super::dial::DialError;
use super::super::hold::Pauses;
use super::super::resp::Message;
use super::super::stream::connect;
use super::super::subscriptions::{Driver, Receive, Subscriptions};
use super::Board;
use super::decide::{Named, Word};
use crate::broker::BrokerError;
use crate::telemetry::Reminder;

/// What Sentinels publish when another server becomes the master. The one that holds the election knows it by the second
/// before it says the first.
const EVENTS: [&str; 2] = ["+switch-master", "+promoted-slave"];

/// Asks one Sentinel.
pub(super) struct Asker {
    pub(super) board: Arc<Board>,
    /// Its place on the board.
    pub(super) number: usize,
    pub(super) address: Address,
    pub(super) login: RedisConnectionInfo,
    pub(super) tls: Option<TlsConnector>,
    pub(super) client_name: String,
    pub(super) timeout: Duration,
    /// How often it is asked while it says nothing by itself.
    pub(super) interval: Duration,
    pub(super) pause_max: Duration,
}

/// Hears what a Sentinel publishes.
struct News {
    /// What the master is called.
    name: String,
    heard: AtomicU64,
    news: Notify,
}

impl Receive for News {
    fn receive(&self, message: &Message) {
        // A Sentinel may watch many masters, and tells of each which one it is about.
        if is_about(&self.name, &message.data()) {
            self.news.notify_one();
        }
    }

    fn heard(&self) -> &AtomicU64 {
        &self.heard
    }
}

fn is_about(name: &str, data: &[u8]) -> bool {
    data.split(|byte| *byte == b' ').any(|word| word == name.as_bytes())
}

impl Asker {
    pub(super) async fn run(self) {
        let mut pauses = Pauses::new(self.pause_max);
        let mut reminder = Reminder::new();
        loop {
            let opening = tokio::time::timeout(self.timeout, self.open()).await;
            let why: Arc<str> = match opening.unwrap_or(Err(DialError::Timeout(self.timeout))) {
                Ok((connection, driver, news)) => {
                    let opened = Instant::now();
                    let down_ms = reminder.over(opened).map(|down| down.as_millis() as u64);
                    tracing::info!(sentinel = %self.address, down_ms, "connected to a Sentinel");
                    let why = self.keep(&connection, driver, &news).await;
                    pauses.held(opened.elapsed());
                    why
                }
                Err(error) => error.to_string().into(),
            };
            if reminder.is_due(&why, Instant::now()) {
                tracing::warn!(sentinel = %self.address, reason = %why, "a Sentinel does not answer");
            }
            self.board.note(self.number, |word| word.silenced(why));
            tokio::time::sleep(pauses.next()).await;
        }
    }

    async fn open(&self) -> Result<(Subscriptions, Driver, Arc<News>), DialError> {
        let stream = connect(&self.address, self.tls.as_ref()).await?;
        let name = self.board.name.clone();
        let news = Arc::new(News { name, heard: AtomicU64::new(0), news: Notify::new() });
        let (connection, driver) = Subscriptions::open(stream, news.clone());
        let server = connection.greet(&self.login).await.map_err(DialError::Refused)?;
        if !server.is_sentinel() {
            return Err(DialError::Unusable("this is no Sentinel"));
        }
        // It may be forbidden, and is not needed to go on.
        if let Err(error) = connection.ask(&["CLIENT", "SETNAME", &self.client_name]).await {
            tracing::debug!(%error, "a Sentinel does not take a client name");
        }
        let events = EVENTS.map(str::to_owned).to_vec();
        connection.subscribe(events).await.map_err(DialError::Refused)?;
        Ok((connection, driver, news))
    }

    /// Until it is lost. Says why it was.
    async fn keep(&self, connection: &Subscriptions, mut driver: Driver, news: &News) -> Arc<str> {
        let asking = async {
            loop {
                match tokio::time::timeout(self.timeout, ask(connection, &self.board.name)).await {
                    Ok(Ok(word)) => self.board.note(self.number, |_| word),
                    Ok(Err(error)) => return error.to_string().into(),
                    Err(_) => return format!("no answer within {} ms", self.timeout.as_millis()).into(),
                }
                tokio::select! {
                    () = news.news.notified() => {}
                    () = tokio::time::sleep(self.interval) => {}
                }
            }
        };
        tokio::select! {
            ended = &mut driver => ended.unwrap_or_else(|error| format!("reading failed: {error}").into()),
            why = asking => why,
        }
    }
}

/// Both questions in one go, so that no election comes between their answers.
async fn ask(connection: &Subscriptions, name: &str) -> Result<Word, BrokerError> {
    let (address, state) = connection
        .ask_both(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name], &["SENTINEL", "MASTER", name])
        .await;
    let address: Option<(String, u16)> = read(&address?)?;
    let Some((host, port)) = address else { return Ok(Word::Unknown) };
    let state: HashMap<String, String> = match state {
        Ok(state) => read(&state)?,
        // It was taken away between the two.
        Err(BrokerError::Refused { text, .. }) if text.contains("No such master") => {
            return Ok(Word::Unknown);
        }
        Err(error) => return Err(error),
    };
    let number = |field: &str| state.get(field).and_then(|text| text.parse::<u64>().ok());
    let epoch = number("config-epoch").ok_or_else(|| unexpected("no config-epoch"))?;
    let others = number("num-other-sentinels").unwrap_or(0) as usize;
    Ok(Word::Names(Named { host, port, epoch, others }))
}

fn read<T: FromRedisValue>(answer: &Bytes) -> Result<T, BrokerError> {
    let value: Value = parse_redis_value(answer).map_err(|error| unexpected(&error.to_string()))?;
    T::from_redis_value(value).map_err(|error| unexpected(&error.to_string()))
}

fn unexpected(what: &str) -> BrokerError {
    BrokerError::Unexpected(format!("of a Sentinel: {what}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_another_master_is_none() {
        let switch = b"main 10.0.0.1 6379 10.0.0.2 6379";
        let promoted = b"slave 10.0.0.2:6379 10.0.0.2 6379 @ main 10.0.0.1 6379";
        assert!(is_about("main", switch) && is_about("main", promoted));
        assert!(!is_about("mai", switch) && !is_about("other", promoted));
    }

    #[test]
    fn answers_are_read_as_sentinel_writes_them() {
        let address: Option<(String, u16)> =
            read(&Bytes::from_static(b"*2\r\n$3\r\n::1\r\n$4\r\n7101\r\n")).unwrap();
        assert_eq!(address, Some(("::1".to_owned(), 7101)));
        assert_eq!(read::<Option<(String, u16)>>(&Bytes::from_static(b"_\r\n")).unwrap(), None);
        let state =
            Bytes::from_static(b"%2\r\n$4\r\nname\r\n$4\r\nmain\r\n$12\r\nconfig-epoch\r\n$1\r\n3\r\n");
        let state: HashMap<String, String> = read(&state).unwrap();
        assert_eq!(state["config-epoch"], "3");
        assert!(read::<HashMap<String, String>>(&Bytes::from_static(b"+OK\r\n")).is_err());
    }
}
