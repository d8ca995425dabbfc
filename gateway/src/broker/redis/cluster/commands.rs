//! Commands beside publications and subscriptions. They go to the only server, or to the master of their key's slot, and
//! again to another if that one redirects them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use super::cluster_parts::ClusterPart;
use super::{Redirect, RedisCluster, slots};
use crate::broker::BrokerError;
use crate::broker::measure::Operation;
use crate::broker::redis::redis_link::{OpenLink, RedisLink};
use crate::broker::redis::script::Script;
use crate::broker::redis::supervise::ConnectionState;

tokio::task_local! {
    /// Set while commands are sent to the server that imports their slot.
    static ASKING: ();
}

/// Whether a command is to be sent behind ASKING.
pub(in crate::broker::redis) fn with_asking() -> bool {
    ASKING.try_with(|()| ()).is_ok()
}

/// The first and the longest pause before a server that asked to try later is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// How many redirections in a row are followed without a pause. If there are more, the masters do not agree yet.
const AT_ONCE: u32 = 3;

/// The connections for commands whose key is known.
#[derive(Clone, Debug)]
pub(crate) enum Commands {
    Server(Arc<RedisLink>),
    /// The connections to masters for commands, or those for reads that may be long.
    Cluster(Arc<RedisCluster>, ReplySize),
}

/// Whether the answers may be long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReplySize {
    Short,
    Long,
}

/// Watches for moments at which keys may have been lost.
#[derive(Debug)]
pub(crate) enum Changes {
    Server(watch::Receiver<ConnectionState<OpenLink>>),
    /// Whether the cluster was asked for its layout yet, and the generation of its data sets.
    Cluster(watch::Receiver<bool>, watch::Receiver<u64>),
}

impl Changes {
    /// Waits for the outcome of the very first attempt to connect.
    pub(crate) async fn first(&mut self) {
        // A closed channel will not change any more.
        match self {
            Self::Server(link) => {
                drop(link.wait_for(|state| !matches!(state, ConnectionState::Opening)).await)
            }
            Self::Cluster(settled, _) => drop(settled.wait_for(|settled| *settled).await),
        }
    }

    pub(crate) async fn next(&mut self) {
        let changed = match self {
            Self::Server(link) => link.changed().await,
            Self::Cluster(_, generation) => generation.changed().await,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Commands {
    pub(crate) fn changes(&self) -> Changes {
        match self {
            Self::Server(link) => Changes::Server(link.watch()),
            Self::Cluster(cluster, _) => {
                Changes::Cluster(cluster.settled.subscribe(), cluster.generation.subscribe())
            }
        }
    }

    /// Calls a script. `key` is one of its keys, and decides where it is sent. `fill` adds the number of keys, the keys
    /// and the arguments; it may be called several times.
    pub(crate) async fn eval(
        &self,
        operation: Operation,
        script: &Script,
        key: &str,
        fill: impl Fn(&mut Cmd, &OpenLink),
    ) -> Result<Value, BrokerError> {
        match self {
            Self::Server(link) => link.eval(operation, script, fill).await,
            Self::Cluster(cluster, reads) => {
                let send = |part: Arc<ClusterPart>| {
                    let fill = &fill;
                    async move { part.link(*reads).eval(operation, script, fill).await }
                };
                cluster.routed(slots::of_key(key.as_bytes()), send).await
            }
        }
    }

    /// Calls the same script several times in as few round trips as possible, each with a key and a `fill` as in
    /// [`Commands::eval`]. Returns each result.
    pub(crate) async fn eval_each<F: Fn(&mut Cmd, &OpenLink)>(
        &self,
        operation: Operation,
        script: &Script,
        fills: &[(String, F)],
    ) -> Vec<Result<Value, BrokerError>> {
        match self {
            Self::Server(link) => {
                let all: Vec<&F> = fills.iter().map(|(_, fill)| fill).collect();
                let answers = link.eval_each(operation, script, &all).await;
                answers.unwrap_or_else(|error| fills.iter().map(|_| Err(error.clone())).collect())
            }
            Self::Cluster(cluster, reads) => {
                let slot = |(key, _): &(String, F)| slots::of_key(key.as_bytes());
                let reads = *reads;
                let together = |part: Arc<ClusterPart>, places: Vec<usize>| async move {
                    let its: Vec<&F> = places.iter().map(|place| &fills[*place].1).collect();
                    part.link(reads).eval_each(operation, script, &its).await
                };
                let alone = |part: Arc<ClusterPart>, place: usize| async move {
                    part.link(reads).eval(operation, script, &fills[place].1).await
                };
                cluster.each(fills.iter().map(slot).collect(), together, alone).await
            }
        }
    }

    /// Does the same, but fails if one of the calls fails.
    pub(crate) async fn eval_many<F: Fn(&mut Cmd, &OpenLink)>(
        &self,
        operation: Operation,
        script: &Script,
        fills: &[(String, F)],
    ) -> Result<Vec<Value>, BrokerError> {
        self.eval_each(operation, script, fills).await.into_iter().collect()
    }

    /// Sends one command, whose first argument is its key.
    pub(crate) async fn call(&self, operation: Operation, command: &Cmd) -> Result<Value, BrokerError> {
        match self {
            Self::Server(link) => link.call(operation, command).await,
            Self::Cluster(cluster, reads) => {
                let send =
                    |part: Arc<ClusterPart>| async move { part.link(*reads).call(operation, command).await };
                cluster.routed(slot_of(command), send).await
            }
        }
    }

    /// Sends several commands in as few round trips as possible. The first argument of each is its key. Returns each result.
    pub(crate) async fn call_each(
        &self,
        operation: Operation,
        pipeline: &Pipeline,
    ) -> Vec<Result<Value, BrokerError>> {
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        match self {
            Self::Server(link) => {
                let answers = link.call_each(operation, pipeline).await;
                answers.unwrap_or_else(|error| commands.iter().map(|_| Err(error.clone())).collect())
            }
            Self::Cluster(cluster, reads) => {
                let (reads, commands) = (*reads, &commands);
                let together = |part: Arc<ClusterPart>, places: Vec<usize>| async move {
                    let mut its = Pipeline::with_capacity(places.len());
                    for place in places {
                        its.add_command(commands[place].clone());
                    }
                    part.link(reads).call_each(operation, &its).await
                };
                let alone = |part: Arc<ClusterPart>, place: usize| async move {
                    part.link(reads).call(operation, commands[place]).await
                };
                cluster.each(commands.iter().map(|command| slot_of(command)).collect(), together, alone).await
            }
        }
    }

    /// Does the same, but fails if one of the commands fails.
    pub(crate) async fn call_many(
        &self,
        operation: Operation,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, BrokerError> {
        self.call_each(operation, pipeline).await.into_iter().collect()
    }
}

fn slot_of(command: &Cmd) -> u16 {
    match command.args_iter().nth(1) {
        Some(redis::Arg::Simple(key)) => slots::of_key(key),
        _ => 0,
    }
}

impl ClusterPart {
    fn link(&self, reads: ReplySize) -> &RedisLink {
        match reads {
            ReplySize::Short => &self.master.link,
            ReplySize::Long => &self.master.reads,
        }
    }
}

impl RedisCluster {
    /// Asks the master of a slot, and follows redirections, within one deadline.
    async fn routed<F: Future<Output = Result<Value, BrokerError>>>(
        &self,
        slot: u16,
        send: impl Fn(Arc<ClusterPart>) -> F,
    ) -> Result<Value, BrokerError> {
        let deadline = Instant::now() + self.config.timeout();
        if !self.is_settled() {
            let settled = tokio::time::timeout_at(deadline, self.settle()).await;
            settled.map_err(|_| BrokerError::Timeout(self.config.timeout()))?;
        }
        let mut next: Option<Arc<ClusterPart>> = None;
        let mut times = 0;
        loop {
            let answer = match next.take() {
                Some(next) => tokio::time::timeout_at(deadline, ASKING.scope((), send(next))).await,
                None => tokio::time::timeout_at(deadline, send(self.owner(slot)?)).await,
            };
            let answer = answer.unwrap_or_else(|_| Err(BrokerError::unanswered(self.config.timeout())));
            let Some(redirect) = answer.as_ref().err().and_then(Redirect::read) else { return answer };
            next = self.redirected(slot, &redirect);
            times += 1;
            let is_known = matches!(redirect, Redirect::Moved { .. }) || next.is_some();
            let pause = match is_known && times <= AT_ONCE {
                true => Duration::ZERO,
                false => (PAUSES.0 * 2_u32.pow(times.min(8) - 1)).min(PAUSES.1),
            };
            if Instant::now() + pause >= deadline {
                return answer;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks each master for its share of the requests, and repeats redirected ones one by one. `wanted` are the slots of
    /// all requests.
    async fn each<A, B>(
        &self,
        wanted: Vec<u16>,
        together: impl Fn(Arc<ClusterPart>, Vec<usize>) -> A,
        alone: impl Fn(Arc<ClusterPart>, usize) -> B,
    ) -> Vec<Result<Value, BrokerError>>
    where
        A: Future<Output = Result<Vec<Result<Value, BrokerError>>, BrokerError>>,
        B: Future<Output = Result<Value, BrokerError>>,
    {
        let missing = || Err(BrokerError::Unexpected("an answer is missing".into()));
        let mut answers: Vec<Result<Value, BrokerError>> = wanted.iter().map(|_| missing()).collect();
        if tokio::time::timeout(self.config.timeout(), self.settle()).await.is_err() {
            answers.fill_with(|| Err(BrokerError::Timeout(self.config.timeout())));
            return answers;
        }
        let mut by_part: BTreeMap<usize, (Arc<ClusterPart>, Vec<usize>)> = BTreeMap::new();
        for (place, slot) in wanted.iter().enumerate() {
            match self.owner(*slot) {
                Ok(owner) => by_part.entry(owner.place).or_insert((owner, Vec::new())).1.push(place),
                Err(error) => answers[place] = Err(error),
            }
        }
        let requests = by_part.into_values().map(|(part, places)| {
            let request = together(part, places.clone());
            async move { (request.await, places) }
        });
        let mut redirected = Vec::new();
        for (given, places) in join_all(requests).await {
            match given {
                Ok(given) => {
                    for (place, answer) in places.into_iter().zip(given) {
                        if answer.as_ref().err().and_then(Redirect::read).is_some() {
                            redirected.push(place);
                        }
                        answers[place] = answer;
                    }
                }
                Err(error) => places.into_iter().for_each(|place| answers[place] = Err(error.clone())),
            }
        }
        let again = redirected.into_iter().map(|place| {
            let alone = &alone;
            let slot = wanted[place];
            async move { (place, self.routed(slot, |part| alone(part, place)).await) }
        });
        for (place, answer) in join_all(again).await {
            answers[place] = answer;
        }
        answers
    }
}
