//! Finds out which master has which slots: asks the known masters, and if none of them answers, any node of the cluster.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::FromRedisValue;
use tokio::sync::{Notify, watch};

use super::RedisCluster;
use super::cluster_parts::ClusterPart;
use super::view::{ClusterView, Layout};
use crate::broker::BrokerError;
use crate::broker::measure::Operation;
use crate::broker::redis::redis_dial::RedisDialer;
use crate::broker::shards::collect_answers::gather;
use crate::telemetry::Reminder;

/// How often the layout is asked for while all is well, and while it is not.
const CALM: Duration = Duration::from_secs(5);
const TROUBLED: Duration = Duration::from_millis(200);

/// The shortest pause between two rounds, because many commands are redirected at the same moment.
const PAUSE: Duration = Duration::from_millis(5);

/// How much longer than the first answer the others may take.
const PATIENCE: Duration = Duration::from_millis(50);

/// The most nodes that are asked if no known master answers.
const STRANGERS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct SlotDiscovery {
    wanted: Notify,
    /// Why nothing is known.
    trouble: Mutex<Arc<str>>,
    /// Every node in the layout that was last known.
    known: Mutex<Vec<(Box<str>, u16)>>,
    /// The number of finished rounds.
    looks: watch::Sender<u64>,
}

impl Default for SlotDiscovery {
    fn default() -> Self {
        Self {
            wanted: Notify::new(),
            trouble: Mutex::new("no node of the cluster was asked yet".into()),
            known: Mutex::default(),
            looks: watch::channel(0).0,
        }
    }
}

impl SlotDiscovery {
    /// Requests a round soon.
    pub(super) fn look(&self) {
        self.wanted.notify_one();
    }

    pub(super) fn trouble(&self) -> Arc<str> {
        self.trouble.lock().clone()
    }

    /// Requests a round, and returns when a round begun after this call has ended, or after the time.
    pub(super) async fn look_within(&self, time: Duration) {
        let mut looks = self.looks.subscribe();
        // A round in flight may have begun before the call.
        let enough = *looks.borrow_and_update() + 2;
        let looking = async {
            loop {
                self.look();
                if looks.changed().await.is_err() || *looks.borrow_and_update() >= enough {
                    return;
                }
            }
        };
        // After the time, the caller goes on with what is known.
        let _ = tokio::time::timeout(time, looking).await;
    }
}

/// Asks again and again, for as long as the cluster exists.
pub(super) async fn keep_looking(cluster: Weak<RedisCluster>, looking: Arc<SlotDiscovery>) {
    let mut reminder = Reminder::new();
    loop {
        let pause = {
            let Some(cluster) = cluster.upgrade() else { return };
            let looked = cluster.look().await;
            let now = Instant::now();
            match looked {
                Ok(layout) => {
                    cluster.apply(&layout);
                    *cluster.looking.known.lock() = layout.known.clone();
                    let unserved = layout.owners.iter().filter(|owner| owner.is_none()).count();
                    match unserved {
                        0 => drop(reminder.over(now)),
                        _ if reminder.is_due("unserved", now) => {
                            tracing::warn!(unserved, "some slots of the cluster have no master");
                        }
                        _ => {}
                    }
                }
                Err(reason) => {
                    if reminder.is_due(&reason, now) {
                        tracing::warn!(%reason, "no node of the cluster reports its slots");
                    }
                    *cluster.looking.trouble.lock() = reason;
                }
            }
            cluster.settled.send_replace(true);
            cluster.looking.looks.send_modify(|looks| *looks += 1);
            if cluster.is_calm() { CALM } else { TROUBLED }
        };
        tokio::time::sleep(PAUSE).await;
        // Ends early if a round is requested.
        let _ = tokio::time::timeout(pause, looking.wanted.notified()).await;
    }
}

impl RedisCluster {
    /// Whether each slot has a master and each master a connection.
    fn is_calm(&self) -> bool {
        let places = self.places.read();
        places.owners.iter().all(Option::is_some) && places.all().all(|part| part.is_up())
    }

    async fn look(&self) -> Result<Layout, Arc<str>> {
        let parts: Vec<Arc<ClusterPart>> =
            self.parts_there().into_iter().filter(|part| part.is_up()).collect();
        let looks = parts.iter().map(|part| async move {
            let mut command = redis::cmd("CLUSTER");
            command.arg("NODES");
            let answer = part.master.link.call(Operation::Nodes, &command).await?;
            let text = String::from_redis_value(answer)
                .map_err(|_| BrokerError::Unexpected("CLUSTER NODES gave no text".into()))?;
            Ok(ClusterView::read(&text, &part.member.host))
        });
        if !parts.is_empty()
            && let Ok(views) = gather(looks, PATIENCE).await
        {
            let layout = Layout::decide(&views);
            // A master that was reset knows of no other masters.
            if !layout.masters.is_empty() {
                return Ok(layout);
            }
        }
        self.ask_strangers().await
    }

    /// Asks the nodes of the configuration, and those that were last known.
    async fn ask_strangers(&self) -> Result<Layout, Arc<str>> {
        let mut addresses = self.config.addresses.clone();
        for (host, port) in self.looking.known.lock().iter() {
            let address = self.config.of_member(host, *port).addresses.swap_remove(0);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(STRANGERS_MAX);
        let looks = addresses.into_iter().map(|address| async move {
            let view = self.ask_stranger(&address).await;
            view.map_err(|reason| BrokerError::Unreachable(format!("{address}: {reason}").into()))
        });
        match gather(looks, PATIENCE).await {
            Ok(views) => {
                let layout = Layout::decide(&views);
                if layout.masters.is_empty() {
                    return Err(
                        "no master of the cluster has any slots: the cluster has to be created first".into(),
                    );
                }
                Ok(layout)
            }
            Err(BrokerError::Unreachable(reason)) => {
                Err(format!("no node of the cluster answers: {reason}").into())
            }
            Err(error) => Err(error.to_string().into()),
        }
    }

    async fn ask_stranger(&self, address: &str) -> Result<ClusterView, String> {
        let config = super::RedisConfig { addresses: vec![address.to_owned()], ..self.config.clone() };
        let name = format!("{}:{}:looking", config.prefix, self.node);
        let dialer = RedisDialer::of_another(&config, name).map_err(|error| error.to_string())?;
        let plain = dialer.dial_plain().await.map_err(|error| error.to_string())?;
        let mut connection = plain.connection.clone();
        let mut command = redis::cmd("CLUSTER");
        command.arg("NODES");
        let answer = tokio::time::timeout(config.timeout(), command.query_async::<String>(&mut connection));
        let text = match answer.await {
            Ok(answer) => {
                answer.map_err(|error| crate::broker::redis::redis_link::explain(error).to_string())?
            }
            Err(_) => return Err(format!("no answer within {} ms", config.timeout_ms)),
        };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        Ok(ClusterView::read(&text, host))
    }
}
