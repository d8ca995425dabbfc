//! Asks one Sentinel which server is the master: in intervals, and at once when the Sentinel reports a change. The
//! connection is reopened for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{FromRedisValue, RedisConnectionInfo, Value, parse_redis_value};
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use super::super::byte_stream::connect;
use super::super::redis_address::RedisAddress;
use super::super::redis_dial::DialError;
use super::super::resp::RedisMessage;
use super::super::subscriptions::{Driver, ReceiveMessage, Subscriptions};
use super::super::supervise::ReconnectBackoff;
use super::SentinelBoard;
use super::decide::{ReportedMaster, SentinelView};
use crate::broker::BrokerError;
use crate::telemetry::Reminder;

/// Events that Sentinels publish when another server becomes the master. The Sentinel that leads the failover first
/// publishes that it has told a replica to become the master, up to a second later that the replica has, and at last that
/// all others know.
const EVENTS: [&str; 3] = ["+switch-master", "+promoted-slave", PROMOTION_EVENT];
const PROMOTION_EVENT: &str = "+failover-state-wait-promotion";

/// How often a replica that was told to become the master is asked whether it has.
const PROMOTION_INTERVAL: Duration = Duration::from_millis(20);

/// The client of one Sentinel.
pub(super) struct SentinelClient {
    pub(super) board: Arc<SentinelBoard>,
    /// The Sentinel's index on the board.
    pub(super) number: usize,
    pub(super) address: RedisAddress,
    pub(super) login: RedisConnectionInfo,
    pub(super) tls: Option<TlsConnector>,
    /// The login and TLS for the servers that the Sentinel watches.
    pub(super) server_login: RedisConnectionInfo,
    pub(super) server_tls: Option<TlsConnector>,
    pub(super) client_name: String,
    pub(super) timeout: Duration,
    /// How often the Sentinel is asked while it reports nothing by itself.
    pub(super) interval: Duration,
    pub(super) pause_max: Duration,
}

/// Receives the events that a Sentinel publishes.
struct SentinelEvents {
    /// The name of the master.
    name: String,
    received: AtomicU64,
    news: Notify,
    /// The replica that was last told to become the master.
    chosen: Mutex<Option<(String, u16)>>,
}

/// A replica that a Sentinel has told to become the master, and does not name as the master yet.
struct PromotedReplica {
    host: String,
    port: u16,
    /// Whether the replica itself says that it is a master.
    is_master: bool,
}

impl ReceiveMessage for SentinelEvents {
    fn receive(&self, message: &RedisMessage) {
        let data = message.data();
        // A Sentinel may watch many masters, and each event says which one it is about.
        if !is_about(&self.name, &data) {
            return;
        }
        if message.name() == PROMOTION_EVENT.as_bytes() {
            *self.chosen.lock() = replica_in(&data);
        }
        self.news.notify_one();
    }

    fn received(&self) -> &AtomicU64 {
        &self.received
    }
}

/// The receiver for a connection on which nothing is subscribed.
struct NoReceiver(AtomicU64);

impl ReceiveMessage for NoReceiver {
    fn receive(&self, _: &RedisMessage) {}

    fn received(&self) -> &AtomicU64 {
        &self.0
    }
}

fn is_about(name: &str, data: &[u8]) -> bool {
    data.split(|byte| *byte == b' ').any(|word| word == name.as_bytes())
}

/// Returns the address of the replica that an event is about: `slave NAME HOST PORT @ …`.
fn replica_in(data: &[u8]) -> Option<(String, u16)> {
    let mut words = std::str::from_utf8(data).ok()?.split(' ').skip(2);
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}

impl SentinelClient {
    pub(super) async fn run(self) {
        let mut pauses = ReconnectBackoff::new(self.pause_max);
        let mut reminder = Reminder::new();
        let mut silent_since: Option<Instant> = None;
        loop {
            let opening = tokio::time::timeout(self.timeout, self.open()).await;
            let why: Arc<str> = match opening.unwrap_or(Err(DialError::Timeout(self.timeout))) {
                Ok((connection, driver, news)) => {
                    let opened = Instant::now();
                    let down_ms = reminder.over(opened).map(|down| down.as_millis() as u64);
                    tracing::info!(sentinel = %self.address, down_ms, "connected to a Sentinel");
                    let why = self.keep(&connection, driver, &news).await;
                    pauses.note_lifetime(opened.elapsed());
                    silent_since = None;
                    why
                }
                Err(error) => error.to_string().into(),
            };
            if reminder.is_due(&why, Instant::now()) {
                tracing::warn!(sentinel = %self.address, reason = %why, "a Sentinel does not answer");
            }
            let silence = silent_since.get_or_insert_with(Instant::now).elapsed();
            self.board.note(self.number, |view| view.silenced(why, silence));
            tokio::time::sleep(pauses.next()).await;
        }
    }

    async fn open(&self) -> Result<(Subscriptions, Driver, Arc<SentinelEvents>), DialError> {
        let stream = connect(&self.address, self.tls.as_ref()).await?;
        let name = self.board.name.clone();
        let (received, news, chosen) = (AtomicU64::new(0), Notify::new(), Mutex::new(None));
        let news = Arc::new(SentinelEvents { name, received, news, chosen });
        let (connection, driver) = Subscriptions::open(stream, news.clone());
        let server = connection.greet(&self.login).await.map_err(DialError::Refused)?;
        if !server.is_sentinel() {
            return Err(DialError::Unusable("this server is not a Sentinel"));
        }
        // This may be forbidden. It is not essential.
        if let Err(error) = connection.ask(&["CLIENT", "SETNAME", &self.client_name]).await {
            tracing::debug!(%error, "a Sentinel does not take a client name");
        }
        let events = EVENTS.map(str::to_owned).to_vec();
        connection.subscribe(events).await.map_err(DialError::Refused)?;
        Ok((connection, driver, news))
    }

    /// Waits until a replica that was told to become the master is one. Returns whether it is. Never returns unless there
    /// is a replica that is still to become the master.
    async fn becomes_master(&self, chosen: Option<&PromotedReplica>) -> bool {
        let Some(PromotedReplica { host, port, is_master: false }) = chosen else {
            return std::future::pending().await;
        };
        let address = RedisAddress::Tcp { host: host.clone(), port: *port, tls: self.board.tls };
        let waiting = async {
            // A replica that is promoted is also told to close all connections.
            while let Err(error) = self.is_master(&address).await {
                tracing::debug!(%address, %error, "a replica that was told to be master cannot be asked");
                tokio::time::sleep(PROMOTION_INTERVAL).await;
            }
        };
        tokio::time::timeout(self.timeout, waiting).await.is_ok()
    }

    /// Asks a server until it is a master.
    async fn is_master(&self, address: &RedisAddress) -> Result<(), DialError> {
        let stream = connect(address, self.server_tls.as_ref()).await?;
        let (connection, _driver) = Subscriptions::open(stream, Arc::new(NoReceiver(AtomicU64::new(0))));
        let mut server = connection.greet(&self.server_login).await.map_err(DialError::Refused)?;
        while server.unusable(false).is_some() {
            tokio::time::sleep(PROMOTION_INTERVAL).await;
            server = connection.hello().await.map_err(DialError::Refused)?;
        }
        Ok(())
    }

    /// Keeps the connection until it is lost. Returns the reason of the loss.
    async fn keep(&self, connection: &Subscriptions, mut driver: Driver, news: &SentinelEvents) -> Arc<str> {
        let asking = async {
            let mut chosen: Option<PromotedReplica> = None;
            loop {
                if let Some((host, port)) = news.chosen.lock().take() {
                    chosen = Some(PromotedReplica { host, port, is_master: false });
                }
                let reply = match tokio::time::timeout(self.timeout, ask(connection, &self.board.name)).await
                {
                    Ok(Ok(reply)) => reply,
                    Ok(Err(error)) => return error.to_string().into(),
                    Err(_) => return format!("no answer within {} ms", self.timeout.as_millis()).into(),
                };
                chosen = chosen.filter(|chosen| reply.is_choosing(chosen));
                self.board.note(self.number, |_| reply.view(chosen.as_ref()));
                tokio::select! {
                    () = news.news.notified() => {}
                    () = tokio::time::sleep(self.interval) => {}
                    is_master = self.becomes_master(chosen.as_ref()) => match &mut chosen {
                        Some(chosen) if is_master => chosen.is_master = true,
                        // The Sentinel will name this replica in time.
                        _ => chosen = None,
                    },
                }
            }
        };
        tokio::select! {
            ended = &mut driver => ended.unwrap_or_else(|error| format!("reading failed: {error}").into()),
            why = asking => why,
        }
    }
}

/// The answer of a Sentinel.
struct SentinelReply {
    /// `None` if the Sentinel knows no master of this name.
    named: Option<ReportedMaster>,
    /// Whether the Sentinel is about to make another server the master.
    fails_over: bool,
}

impl SentinelReply {
    /// Whether this replica is to become the master and is not named yet.
    fn is_choosing(&self, chosen: &PromotedReplica) -> bool {
        let is_named = |named: &ReportedMaster| named.host == chosen.host && named.port == chosen.port;
        self.fails_over && self.named.as_ref().is_some_and(|named| !is_named(named))
    }

    /// Returns the Sentinel's view. A replica that was told to become the master and is one counts as the master,
    /// although the Sentinel names it only after its own check, once a second. Its epoch will be later than the present
    /// one.
    fn view(self, chosen: Option<&PromotedReplica>) -> SentinelView {
        match (self.named, chosen.filter(|chosen| chosen.is_master)) {
            (Some(named), Some(PromotedReplica { host, port, .. })) => SentinelView::Names(ReportedMaster {
                host: host.clone(),
                port: *port,
                epoch: named.epoch.saturating_add(1),
                others: named.others,
                instead_of: Some(Box::new(named)),
            }),
            (Some(named), None) => SentinelView::Names(named),
            (None, _) => SentinelView::Unknown,
        }
    }
}

/// Sends both questions in one write, so that no failover comes between the answers.
async fn ask(connection: &Subscriptions, name: &str) -> Result<SentinelReply, BrokerError> {
    let (address, state) = connection
        .ask_both(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name], &["SENTINEL", "MASTER", name])
        .await;
    let unknown = SentinelReply { named: None, fails_over: false };
    let address: Option<(String, u16)> = read(&address?)?;
    let Some((host, port)) = address else { return Ok(unknown) };
    let state: HashMap<String, String> = match state {
        Ok(state) => read(&state)?,
        // The master was removed between the two questions.
        Err(BrokerError::Refused { text, .. }) if text.contains("No such master") => return Ok(unknown),
        Err(error) => return Err(error),
    };
    let number = |field: &str| state.get(field).and_then(|text| text.parse::<u64>().ok());
    let epoch = number("config-epoch").ok_or_else(|| unexpected("no config-epoch"))?;
    let others = number("num-other-sentinels").unwrap_or(0) as usize;
    let fails_over = state.get("flags").is_some_and(|flags| flags.contains("failover_in_progress"));
    Ok(SentinelReply {
        named: Some(ReportedMaster { host, port, epoch, others, instead_of: None }),
        fails_over,
    })
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
        assert_eq!(replica_in(promoted), Some(("10.0.0.2".to_owned(), 6379)));
        assert_eq!(replica_in(b"slave x"), None);
    }

    #[test]
    fn a_replica_that_was_told_to_be_master_is_the_master_once_it_says_so_until_the_sentinel_says_otherwise()
    {
        let named =
            |port| ReportedMaster { host: "a".to_owned(), port, epoch: 3, others: 2, instead_of: None };
        let said = |fails_over, port| SentinelReply { named: Some(named(port)), fails_over };
        let chosen = |is_master| PromotedReplica { host: "a".to_owned(), port: 2, is_master };
        assert!(said(true, 1).is_choosing(&chosen(false)));
        assert!(!said(false, 1).is_choosing(&chosen(true)), "it has been given up");
        assert!(!said(true, 2).is_choosing(&chosen(true)), "it is named");
        assert_eq!(said(true, 1).view(Some(&chosen(false))), SentinelView::Names(named(1)));
        assert_eq!(said(true, 1).view(None), SentinelView::Names(named(1)));
        let foretold = ReportedMaster { epoch: 4, instead_of: Some(Box::new(named(1))), ..named(2) };
        assert_eq!(said(true, 1).view(Some(&chosen(true))), SentinelView::Names(foretold));
        let unknown = SentinelReply { named: None, fails_over: true };
        assert!(!unknown.is_choosing(&chosen(true)));
        assert_eq!(unknown.view(Some(&chosen(true))), SentinelView::Unknown);
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
