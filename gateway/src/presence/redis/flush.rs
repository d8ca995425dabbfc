//! The task that writes this node's presence to Redis: changes as they come, the lease, and everything again whenever
//! Redis may have lost it.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use shared::channel::Channel;
use tokio::time::{Instant, MissedTickBehavior};

use super::RedisPresenceShared;
use super::local::PresenceWrite;
use super::read_presence::read_leases;
use crate::broker::BrokerError;
use crate::broker::measure::Operation;
use crate::broker::redis::redis_link::OpenLink;
use crate::broker::redis::script::Script;
use crate::broker::redis::{RedisBroker, ServerGeneration};

pub(super) static LEASE: Script = Script::new(include_str!("scripts/lease.lua"));
pub(super) static WRITE: Script = Script::new(include_str!("scripts/write.lua"));

/// The most channels written in one round trip.
const FLUSH_CHANNELS: usize = 500;

/// The most channels whose keys are prolonged in one round trip.
const PROLONG_CHANNELS: usize = 1_000;

/// How often the lease is renewed within its duration.
const PROLONGS_PER_LEASE: u32 = 4;

/// The expiry of a channel's keys without a write, in leases. It only saves memory, since nobody counts entries without
/// a lease. The keys are prolonged after a third of that.
const LEASES_PER_KEY: u32 = 6;

/// The pause after Redis has refused or did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

pub(super) struct Flusher {
    node: String,
    /// The name under which this node writes at present.
    name: Arc<str>,
    lease: Duration,
    broker: Arc<RedisBroker>,
    shared: Arc<RedisPresenceShared>,
    /// The number of names used so far.
    names: u64,
    /// The generation of Redis at the last renewal of the lease.
    leased_on: Option<ServerGeneration>,
    /// Earlier names whose lease may still be valid, with the time at which it expires by itself.
    left: Vec<(Instant, Arc<str>)>,
    /// The channels that are still to be prolonged in this round.
    prolonging: Vec<Channel>,
}

impl Flusher {
    pub(super) fn new(
        node: &str,
        lease: Duration,
        broker: Arc<RedisBroker>,
        shared: Arc<RedisPresenceShared>,
    ) -> Self {
        let mut flusher = Self {
            node: node.to_owned(),
            name: "".into(),
            lease,
            broker,
            shared,
            names: 0,
            leased_on: None,
            left: Vec::new(),
            prolonging: Vec::new(),
        };
        flusher.take_new_name();
        flusher
    }

    pub(super) async fn run(mut self) {
        let mut lease_due = tokio::time::interval(self.lease / PROLONGS_PER_LEASE);
        lease_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let key_period = self.lease * LEASES_PER_KEY / 3;
        let mut keys_due = tokio::time::interval_at(Instant::now() + key_period, key_period);
        keys_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.broker.link().changes();
        // Until the first connection nothing can be written, and no lease can be taken.
        changes.first().await;
        loop {
            let retiring = self.shared.retiring.lock().take();
            if let Some(done) = retiring {
                // The caller may have given up.
                let _ = done.send(self.give_up_lease().await);
                return;
            }
            let idle = self.prolonging.is_empty() && !self.shared.local.lock().has_changes();
            let shared = self.shared.clone();
            let result = tokio::select! {
                biased;
                // Redis may be another server, or have been emptied.
                () = changes.next() => self.prolong_lease().await,
                _ = lease_due.tick() => self.prolong_lease().await,
                _ = keys_due.tick() => {
                    self.prolonging = self.shared.local.lock().channels();
                    Ok(())
                }
                () = shared.changed.notified(), if idle => Ok(()),
                () = std::future::ready(()), if !idle => self.work().await,
            };
            if let Err(error) = result {
                tracing::debug!(%error, "presence cannot be written");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    async fn work(&mut self) -> Result<(), BrokerError> {
        if self.leased_on.is_none() {
            self.prolong_lease().await?;
        }
        if self.shared.local.lock().take_overflowed() {
            self.broker.metrics().presence_overflows.increment();
            return self.start_anew().await;
        }
        let flushed = self.flush().await;
        // A full Redis accepts no new entries, but present entries still must be kept.
        let prolonged = self.prolong_keys().await;
        flushed.and(prolonged)
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        let writes = self.shared.local.lock().take(FLUSH_CHANNELS);
        let name = self.name.clone();
        let ttl = millis(self.lease * LEASES_PER_KEY);
        let fills: Vec<_> = writes
            .iter()
            .map(|write| {
                let nodes = self.broker.keys().present(&write.channel);
                let (name, key) = (name.clone(), nodes.clone());
                let fill =
                    move |command: &mut Cmd, _: &OpenLink| fill_write(command, write, &nodes, &name, ttl);
                (key, fill)
            })
            .collect();
        let results = self.broker.link().eval_each(Operation::PresenceWrite, &WRITE, &fills).await;
        drop(fills);
        let mut flushed = Ok(());
        for (write, result) in writes.into_iter().zip(results) {
            let result = result.map(drop);
            if result.is_err() {
                // It is not known which part of the write was applied.
                self.shared.local.lock().change_whole(write.channel);
            }
            for waiter in write.waiters {
                // The caller may have given up.
                let _ = waiter.send(result.clone());
            }
            flushed = flushed.and(result);
        }
        flushed
    }

    /// Prolongs a part of the keys that are due. Missing keys are written again.
    async fn prolong_keys(&mut self) -> Result<(), BrokerError> {
        let from = self.prolonging.len().saturating_sub(PROLONG_CHANNELS);
        let part = self.prolonging.split_off(from);
        let name = self.name.clone();
        let ttl = millis(self.lease * LEASES_PER_KEY);
        let mut pipeline = redis::pipe();
        for channel in &part {
            let nodes = self.broker.keys().present(channel);
            pipeline.cmd("PEXPIRE").arg(format!("{nodes}:{name}")).arg(ttl);
            pipeline.cmd("PEXPIRE").arg(format!("{nodes}:{name}:users")).arg(ttl);
            pipeline.cmd("PEXPIRE").arg(nodes).arg(ttl);
        }
        let answers = self.broker.link().call_each(Operation::PresenceWrite, &pipeline).await;
        let (mut prolonged, mut again) = (Ok(()), Vec::new());
        let mut local = self.shared.local.lock();
        for (channel, answers) in part.into_iter().zip(answers.chunks(3)) {
            if let Some(Err(error)) = answers.iter().find(|answer| answer.is_err()) {
                prolonged = Err(error.clone());
                again.push(channel);
            } else if answers.iter().any(|answer| matches!(answer, Ok(Value::Int(0))))
                && local.holds(&channel)
            {
                local.change_whole(channel);
            }
        }
        // Retried after the remaining channels: these may be on a master that is unreachable.
        self.prolonging.splice(0..0, again);
        prolonged
    }

    async fn prolong_lease(&mut self) -> Result<(), BrokerError> {
        let redis = self.broker.generation()?;
        self.end_those_left().await?;
        if self.leased_on.as_ref().is_some_and(|earlier| *earlier != redis) {
            return self.start_anew().await;
        }
        let name = self.name.clone();
        let (held, _) = read_leases(&self.broker, &name, self.lease, "").await?;
        let first = self.leased_on.is_none();
        self.leased_on = Some(redis);
        if held || first {
            return Ok(());
        }
        self.start_anew().await
    }

    /// Writes everything again under a new name. The old name's lease ends in the same step in which the new one's begins.
    async fn start_anew(&mut self) -> Result<(), BrokerError> {
        tracing::info!("all presence is written again");
        self.left.push((Instant::now() + self.lease, self.name.clone()));
        self.take_new_name();
        self.leased_on = None;
        self.shared.local.lock().change_all();
        self.end_those_left().await
    }

    /// Ends the leases of earlier names: clients that left meanwhile would stay present under them until they expire.
    async fn end_those_left(&mut self) -> Result<(), BrokerError> {
        let now = Instant::now();
        self.left.retain(|(until, _)| now < *until);
        while let Some((_, old)) = self.left.last() {
            read_leases(&self.broker, &self.name, self.lease, old).await?;
            self.left.pop();
        }
        Ok(())
    }

    async fn give_up_lease(&mut self) -> Result<(), BrokerError> {
        self.shared.local.lock().clear();
        let name = self.name.clone();
        read_leases(&self.broker, "", Duration::ZERO, &name).await.map(|_| ())
    }

    fn take_new_name(&mut self) {
        self.names += 1;
        self.name = format!("{}.{}", self.node, self.names).into();
    }
}

pub(super) fn fill_write(command: &mut Cmd, write: &PresenceWrite, nodes: &str, name: &str, ttl: u64) {
    command
        .arg(3)
        .arg(nodes)
        .arg(format!("{nodes}:{name}"))
        .arg(format!("{nodes}:{name}:users"))
        .arg(name)
        .arg(ttl)
        .arg(u8::from(write.whole))
        .arg(write.set.len())
        .arg(write.removed.len())
        .arg(write.users_set.len())
        .arg(write.users_removed.len());
    for (client, record) in &write.set {
        command.arg(&client.bits().to_be_bytes()[..]).arg(&record[..]);
    }
    for client in &write.removed {
        command.arg(&client.bits().to_be_bytes()[..]);
    }
    for user in write.users_set.iter().chain(&write.users_removed) {
        command.arg(user.as_str());
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
