//! A connection for commands: opened again and again for ever, and every call on it has a deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::cluster::{ClusterLives, Redirect, with_asking};
use super::hold::{GiveUpSignal, HoldState, ReconnectBackoff, hold, settled};
use super::redis_config::RedisConfig;
use super::redis_dial::{self, CommandConnection, DialError, RedisDialer};
use super::script::Script;
use super::server::Server;
use crate::broker::measure::{BrokerMetrics, LinkMetrics, Operation};
use crate::broker::{BrokerError, BrokerEvents};
use crate::telemetry::Reminder;

/// Shared by all that send commands. Their commands travel together: nobody waits for another's answer.
#[derive(Debug)]
pub(crate) struct RedisLink {
    state: watch::Receiver<HoldState<OpenLink>>,
    give_up: Arc<GiveUpSignal>,
    timeout: Duration,
    /// Redirections are no failures.
    in_cluster: bool,
    metrics: Arc<BrokerMetrics>,
    _supervisor: AbortOnDropHandle<()>,
}

/// What a link is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum RedisLinkPurpose {
    /// Everything whose answer is short. Whoever keeps things is told when it was opened again.
    Commands,
    /// What may be answered at length, so that nothing short stands in line behind it.
    Reads,
}

impl RedisLinkPurpose {
    /// In the connection's name and in logs.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Reads => "reads",
        }
    }

    fn metrics(self, metrics: &BrokerMetrics) -> &LinkMetrics {
        match self {
            Self::Commands => &metrics.command_link,
            Self::Reads => &metrics.read_link,
        }
    }
}

/// An open connection.
#[derive(Clone, Debug)]
pub(crate) struct OpenLink {
    connection: MultiplexedConnection,
    /// What the server at its other end is: asked when it was opened, and again with every sign of life.
    pub(crate) server: Arc<Server>,
    /// Which connection this is, counted from 1.
    pub(crate) number: u64,
    /// What scripts are told beside that, if the server is a master of a cluster.
    pub(super) of_cluster: Option<Arc<ClusterLives>>,
}

impl RedisLink {
    pub(super) fn start(
        config: &RedisConfig,
        purpose: RedisLinkPurpose,
        dialer: RedisDialer,
        of_cluster: Option<Arc<ClusterLives>>,
        events: Arc<dyn BrokerEvents>,
        metrics: Arc<BrokerMetrics>,
    ) -> Self {
        let (sender, state) = watch::channel(HoldState::Opening);
        let give_up = Arc::new(GiveUpSignal::default());
        let in_cluster = of_cluster.is_some();
        let supervisor = Supervisor {
            of_cluster,
            dialer,
            purpose,
            ping: config.ping(),
            pauses: ReconnectBackoff::new(config.reconnect_max()),
            state: sender,
            give_up: give_up.clone(),
            events,
            metrics: metrics.clone(),
        };
        Self {
            state,
            give_up,
            timeout: config.timeout(),
            in_cluster,
            metrics,
            _supervisor: AbortOnDropHandle::new(tokio::spawn(supervisor.run())),
        }
    }

    /// Follows the connection as it is lost and opened.
    pub(crate) fn watch(&self) -> watch::Receiver<HoldState<OpenLink>> {
        self.state.clone()
    }

    /// The connection there is, for who sends more than a call's worth and keeps the deadline himself. Fails at once
    /// while there is none.
    pub(super) async fn connection(&self) -> Result<(MultiplexedConnection, OpenLink), BrokerError> {
        let up = settled(&self.state).await?;
        Ok((up.connection.clone(), up))
    }

    /// The connection of this number is open, but of no use.
    pub(super) fn give_up(&self, number: u64, reason: &str) {
        self.give_up.connection(number, reason);
    }

    /// To be told of what was refused on the connection of this number: another may end at a better server.
    pub(super) fn heard_refusal(&self, number: u64, error: &BrokerError) {
        if let BrokerError::Refused { kind, text } = error
            && kind.passes_with_the_server()
            && !self.is_redirection(error)
        {
            self.give_up(number, text);
        }
    }

    /// Whether somebody else is to be asked, or the same later, which the caller sees to.
    fn is_redirection(&self, error: &BrokerError) -> bool {
        self.in_cluster && Redirect::read(error).is_some()
    }

    /// Whether there is a connection at this moment, and to what.
    pub(super) fn now(&self) -> Option<OpenLink> {
        match &*self.state.borrow() {
            HoldState::Up(up) => Some(up.clone()),
            HoldState::Opening | HoldState::Down(_) => None,
        }
    }

    /// One command. Fails at once while there is no connection.
    pub(crate) async fn call(&self, operation: Operation, command: &Cmd) -> Result<Value, BrokerError> {
        self.within_deadline(operation, |mut up| async move { send(&mut up.connection, command).await }).await
    }

    /// One script. `fill` adds the number of keys, the keys and the arguments; it may be called twice.
    pub(crate) async fn eval(
        &self,
        operation: Operation,
        script: &Script,
        fill: impl Fn(&mut Cmd, &OpenLink),
    ) -> Result<Value, BrokerError> {
        self.within_deadline(operation, |mut up| async move {
            let mut command = script.by_hash(&up);
            fill(&mut command, &up);
            match send(&mut up.connection, &command).await {
                Err(error) if is_no_script(&error) => {
                    let load = script.load(&up);
                    send(&mut up.connection, &load).await?;
                    send(&mut up.connection, &command).await
                }
                answer => answer,
            }
        })
        .await
    }

    /// The same script several times in one round trip, and what became of each. Each of `fills` works as in [`RedisLink::eval`].
    pub(super) async fn eval_each<F: Fn(&mut Cmd, &OpenLink)>(
        &self,
        operation: Operation,
        script: &Script,
        fills: &[F],
    ) -> Result<Vec<Result<Value, BrokerError>>, BrokerError> {
        if fills.is_empty() {
            return Ok(Vec::new());
        }
        let answers = self.within_deadline(operation, |mut up| async move {
            let mut pipeline = Pipeline::with_capacity(fills.len());
            for fill in fills {
                let mut command = script.by_hash(&up);
                fill(&mut command, &up);
                pipeline.add_command(command);
            }
            let answers = up.connection.send_packed_commands(&pipeline, 0, pipeline.len()).await?;
            let lacks = |answer: &Value| matches!(answer, Value::ServerError(error) if is_no_script(&error.clone().into()));
            // None of them was carried out then, or the script is there by now.
            if answers.iter().all(lacks) {
                let load = script.load(&up);
                    send(&mut up.connection, &load).await?;
                return up.connection.send_packed_commands(&pipeline, 0, pipeline.len()).await;
            }
            Ok(answers)
        });
        Ok(self.each(answers.await?))
    }

    /// Several commands in one round trip, and what became of each.
    pub(super) async fn call_each(
        &self,
        operation: Operation,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Value, BrokerError>>, BrokerError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let answers = self.within_deadline(operation, |mut up| async move {
            up.connection.send_packed_commands(pipeline, 0, pipeline.len()).await
        });
        Ok(self.each(answers.await?))
    }

    /// Refusals among the answers of a pipeline are counted as those of a single command are.
    fn each(&self, answers: Vec<Value>) -> Vec<Result<Value, BrokerError>> {
        let number = self.now().map_or(0, |up| up.number);
        let each = answers.into_iter().map(|answer| accept(answer).map_err(explain));
        each.inspect(|answer| {
            if let Err(error) = answer
                && !self.is_redirection(error)
            {
                self.metrics.failed(error);
                self.heard_refusal(number, error);
            }
        })
        .collect()
    }

    async fn within_deadline<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        operation: Operation,
        work: impl FnOnce(OpenLink) -> F,
    ) -> Result<T, BrokerError> {
        let start = Instant::now();
        let deadline = (start + self.timeout).into();
        let up = tokio::time::timeout_at(deadline, settled(&self.state)).await;
        let result = match up.unwrap_or(Err(BrokerError::Timeout(self.timeout))) {
            Ok(up) => {
                let number = up.number;
                let answer = tokio::time::timeout_at(deadline, work(up)).await;
                answer
                    .map_or_else(
                        |_| Err(BrokerError::unanswered(self.timeout)),
                        |answer| answer.map_err(explain),
                    )
                    .inspect_err(|error| self.heard_refusal(number, error))
            }
            Err(error) => Err(error),
        };
        match &result {
            Ok(_) => self.metrics.observe_round_trip(operation, start.elapsed()),
            Err(error) if self.is_redirection(error) => {}
            Err(error) => self.metrics.failed(error),
        }
        result
    }
}

/// What an error means to who has sent something.
pub(crate) fn explain(error: RedisError) -> BrokerError {
    if error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error() {
        return BrokerError::Unanswered(format!("the connection was lost: {error}").into());
    }
    match error.code() {
        Some(code) => BrokerError::refused(format!("{code} {}", error.detail().unwrap_or_default())),
        None => BrokerError::Unexpected(error.to_string().into()),
    }
}

/// Keeps a connection open.
struct Supervisor {
    dialer: RedisDialer,
    purpose: RedisLinkPurpose,
    ping: Duration,
    pauses: ReconnectBackoff,
    state: watch::Sender<HoldState<OpenLink>>,
    give_up: Arc<GiveUpSignal>,
    of_cluster: Option<Arc<ClusterLives>>,
    events: Arc<dyn BrokerEvents>,
    metrics: Arc<BrokerMetrics>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut number = 0;
        let mut reminder = Reminder::new();
        loop {
            let reason = match self.dialer.dial().await {
                Ok(dialed) => {
                    number += 1;
                    let opened = Instant::now();
                    let down_ms = reminder.over(opened).map(|down| down.as_millis() as u64);
                    let (redis, link) = (&dialed.at, self.purpose.word());
                    tracing::info!(number, down_ms, link, %redis, "connected to Redis");
                    let reason = self.keep(dialed, number).await;
                    self.pauses.held(opened.elapsed());
                    reason
                }
                Err(error) => {
                    let reason = unreachable(&error);
                    self.state.send_replace(HoldState::Down(reason.clone()));
                    reason
                }
            };
            if reminder.is_due(&reason, Instant::now()) {
                let redis = self.dialer.place();
                tracing::warn!(redis, %reason, link = self.purpose.word(), "no connection to Redis");
            }
            self.dialer.rest(&mut self.pauses).await;
        }
    }

    /// Until it is lost. Says why it was.
    async fn keep(&self, mut dialed: CommandConnection, number: u64) -> Arc<str> {
        let metrics = self.purpose.metrics(&self.metrics);
        metrics.up.set(1);
        let connection = dialed.connection.clone();
        let show = |server: &Server| {
            let (connection, server) = (connection.clone(), Arc::new(server.clone()));
            let of_cluster = self.of_cluster.clone();
            self.state.send_replace(HoldState::Up(OpenLink { connection, server, number, of_cluster }));
        };
        let tell = || {
            if matches!(self.purpose, RedisLinkPurpose::Commands) {
                self.events.resumed(0);
            }
        };
        show(&dialed.server);
        if number > 1 {
            metrics.reconnects.increment();
            tell();
        }
        let changed = |server: &Server| {
            tracing::warn!(link = self.purpose.word(), "the Redis behind a connection is not what it was");
            show(server);
            tell();
        };
        let ask = || {
            let mut connection = connection.clone();
            async move { redis_dial::identify(&mut connection).await.map_err(explain) }
        };
        let lost = async {
            tokio::select! {
                _ = &mut dialed.driver => "Redis closed the connection".into(),
                reason = self.give_up.wait(number) => reason,
                reason = self.dialer.moved(&dialed.at) => reason,
            }
        };
        let (known, heard) = (dialed.server.clone(), dialed.heard.clone());
        let heard = || heard.load(Ordering::Relaxed);
        let reason = hold(lost, self.ping, self.dialer.timeout(), heard, ask, known, changed).await;
        metrics.up.set(0);
        self.state.send_replace(HoldState::Down(reason.clone()));
        dialed.close().await;
        reason
    }
}

pub(super) fn unreachable(error: &DialError) -> Arc<str> {
    error.to_string().into()
}

async fn send(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    if !with_asking() {
        return connection.send_packed_command(command).await.and_then(accept);
    }
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("ASKING").add_command(command.clone());
    let answers = connection.send_packed_commands(&pipeline, 0, 2).await?;
    answers.into_iter().last().map_or(Ok(Value::Nil), accept)
}

/// The client library hands over a refusal as an answer like any other.
fn accept(answer: Value) -> Result<Value, RedisError> {
    match answer {
        Value::ServerError(error) => Err(error.into()),
        answer => Ok(answer),
    }
}

pub(super) fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
