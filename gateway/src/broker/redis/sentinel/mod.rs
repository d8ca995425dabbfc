//! Follows the master that Redis Sentinel names. Every Sentinel is asked in intervals, and at once when it reports a
//! change. A replica that a Sentinel has told to become the master is asked itself.

mod ask_sentinel;
mod decide;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use redis::RedisConnectionInfo;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use self::ask_sentinel::SentinelClient;
use self::decide::{MasterVerdict, ReportedMaster, SentinelView, decide};
use super::access::login;
use super::redis_address::{self, RedisAddress};
use super::redis_config::RedisConfig;
use super::redis_dial::DialError;
use super::redis_tls;
use crate::broker::measure::BrokerMetrics;
use crate::telemetry::Reminder;

/// All Sentinels of the configuration, and the master they name.
pub(super) struct Sentinels {
    board: Arc<SentinelBoard>,
    known: watch::Receiver<KnownMaster>,
    _askers: Vec<AbortOnDropHandle<()>>,
}

/// The present knowledge of the master.
#[derive(Clone, Debug, Default)]
struct KnownMaster {
    /// Once known, a master is always set: it is used until another takes its place, even if the Sentinels fail.
    master: Option<Arc<RedisAddress>>,
    /// Why no Sentinel names a master. `None` without a master means that it is not known yet.
    trouble: Option<Arc<str>>,
}

/// The last view of each Sentinel.
#[derive(Debug)]
struct SentinelBoard {
    /// The name of the master.
    name: String,
    /// Whether the master is reached over TLS.
    tls: bool,
    /// Views in the order of the configuration, each with the address of its Sentinel.
    views: Mutex<Vec<(String, SentinelView)>>,
    known: watch::Sender<KnownMaster>,
    metrics: Arc<BrokerMetrics>,
    reminder: Mutex<Reminder>,
}

impl Sentinels {
    /// Begins to ask and returns at once. `servers` is the login and TLS for connections to the servers that Sentinels
    /// watch. Must be called within a tokio runtime.
    pub(super) fn start(
        config: &RedisConfig,
        servers: (&RedisConnectionInfo, Option<&TlsConnector>),
        client_name: &str,
        metrics: &Arc<BrokerMetrics>,
    ) -> Result<Self, DialError> {
        let file = config.sentinel_password_file.as_deref();
        let login = login(&config.sentinel_user, &config.sentinel_password, file)?;
        let tls = config.sentinel_tls.then(|| redis_tls::connector(config)).transpose()?;
        let (sender, known) = watch::channel(KnownMaster::default());
        let views = config.addresses.iter().map(|address| (address.clone(), SentinelView::Awaited)).collect();
        let board = Arc::new(SentinelBoard {
            name: config.sentinel_master.clone(),
            tls: config.tls,
            views: Mutex::new(views),
            known: sender,
            metrics: metrics.clone(),
            reminder: Mutex::default(),
        });
        let mut askers = Vec::with_capacity(config.addresses.len());
        for (number, text) in config.addresses.iter().enumerate() {
            let (host, port) =
                redis_address::host_and_port(text).map_err(|problem| DialError::Url(problem.to_owned()))?;
            let asker = SentinelClient {
                board: board.clone(),
                number,
                address: RedisAddress::Tcp { host, port, tls: config.sentinel_tls },
                login: login.clone(),
                tls: tls.clone(),
                server_login: servers.0.clone(),
                server_tls: servers.1.cloned(),
                client_name: client_name.to_owned(),
                timeout: config.timeout(),
                interval: config.ping(),
                pause_max: config.reconnect_max(),
            };
            askers.push(AbortOnDropHandle::new(tokio::spawn(asker.run())));
        }
        Ok(Self { board, known, _askers: askers })
    }

    /// Returns the master, or why none is known. Waits while the first answers may still make it known.
    pub(super) async fn master(&self) -> Result<Arc<RedisAddress>, Arc<str>> {
        let mut known = self.known.clone();
        let settled = known.wait_for(|known| known.master.is_some() || known.trouble.is_some()).await;
        let Ok(known) = settled.as_deref() else {
            return Err("the task that asks Sentinel has ended".into());
        };
        known.master.clone().ok_or_else(|| known.trouble.clone().unwrap_or_default())
    }

    /// Returns when another server is the master, with its address.
    pub(super) async fn another_than(&self, address: &RedisAddress) -> Arc<RedisAddress> {
        let mut known = self.known.clone();
        let is_another =
            |known: &KnownMaster| known.master.as_deref().is_some_and(|master| master != address);
        let another = known.wait_for(is_another).await;
        match another.ok().and_then(|known| known.master.clone()) {
            Some(another) => another,
            // Never happens: `self` holds the sender.
            None => std::future::pending().await,
        }
    }

    /// Returns why the Sentinels name no master at present, if they do not.
    pub(super) fn trouble(&self) -> Option<Arc<str>> {
        self.known.borrow().trouble.clone()
    }
}

impl SentinelBoard {
    /// Records the view of a Sentinel, or its silence.
    fn note(&self, number: usize, say: impl FnOnce(&SentinelView) -> SentinelView) {
        let mut views = self.views.lock();
        let Some((_, view)) = views.get_mut(number) else { return };
        *view = say(view);
        let answering = views.iter().filter(|(_, view)| view.is_answer()).count();
        self.metrics.sentinels_up.set(answering as u64);
        let followed = self.known.borrow().master.clone();
        match decide(&self.name, &views, followed.as_deref()) {
            MasterVerdict::Awaited => {}
            MasterVerdict::Master { named, trouble } => self.follow(followed, named, trouble),
            MasterVerdict::Nobody(trouble) => {
                if self.reminder.lock().is_due(&trouble, Instant::now()) {
                    tracing::warn!(master = self.name, reason = trouble, "no master is known from Sentinel");
                }
                self.known.send_modify(|known| known.trouble = Some(trouble.into()));
            }
        }
    }

    fn follow(&self, followed: Option<Arc<RedisAddress>>, named: &ReportedMaster, trouble: Option<String>) {
        if trouble.is_none() {
            self.reminder.lock().over(Instant::now());
        }
        let epoch = named.epoch;
        let (master, name) = (Arc::new(named.address(self.tls)), &self.name);
        match &followed {
            Some(followed) if *followed == master => {}
            Some(followed) => {
                self.metrics.master_changes.increment();
                tracing::info!(name, from = %followed, to = %master, epoch, "Sentinel names another master");
            }
            None => tracing::info!(name, %master, epoch, "Sentinel names the master"),
        }
        let trouble: Option<Arc<str>> = trouble.map(Into::into);
        self.known.send_if_modified(|known| {
            let is_news = known.master.as_ref() != Some(&master) || known.trouble != trouble;
            if is_news {
                *known = KnownMaster { master: Some(master), trouble };
            }
            is_news
        });
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.board.name;
        match &self.known.borrow().master {
            Some(master) => write!(f, "{master}, master {name:?} of Sentinel"),
            None => write!(f, "master {name:?} of Sentinel"),
        }
    }
}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sentinels").field("board", &self.board).finish_non_exhaustive()
    }
}
