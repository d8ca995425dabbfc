//! A connection for commands. It is reopened for ever, and every call on it has a deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::cluster::{ClusterLives, Redirect, with_asking};
use super::redis_config::RedisConfig;
use super::redis_dial::{self, CommandConnection, DialError, RedisDialer};
use super::script::Script;
use super::server::Server;
use super::supervise::{ConnectionState, GiveUpSignal, ReconnectBackoff, settled, supervise};
use crate::broker::measure::{BrokerMetrics, LinkMetrics, Operation};
use crate::broker::{BrokerError, BrokerEvents};
use crate::telemetry::Reminder;

/// Shared by all senders of commands. Commands are pipelined: no sender waits for the answer of another.
#[derive(Debug)]
pub(crate) struct RedisLink {
    state: watch::Receiver<ConnectionState<OpenLink>>,
    give_up: Arc<GiveUpSignal>,
    timeout: Duration,
    /// Whether the server is of a cluster, where redirections are no failures.
    in_cluster: bool,
    metrics: Arc<BrokerMetrics>,
    _supervisor: AbortOnDropHandle<()>,
}

/// The purpose of a link.
#[derive(Clone, Copy, Debug)]
pub(super) enum RedisLinkPurpose {
    /// For commands with short answers. When the connection was opened again, the broker's events are told.
    Commands,
    /// For reads whose answers may be long, so that no short answer waits behind them.
    Reads,
}

impl RedisLinkPurpose {
    /// Returns the word for the connection's name and for logs.
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
    /// The server at the other end, identified when the connection was opened and again with every ping.
    pub(crate) server: Arc<Server>,
    /// The number of the connection, counted from 1.
    pub(crate) number: u64,
    /// Further arguments of scripts, if the server is a master of a cluster.
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
        let (sender, state) = watch::channel(ConnectionState::Opening);
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

    /// Returns a receiver that follows the connection as it is lost and reopened.
    pub(crate) fn watch(&self) -> watch::Receiver<ConnectionState<OpenLink>> {
        self.state.clone()
    }

    /// Returns the present connection, for callers that send more than one call and keep the deadline themselves. Fails
    /// at once while there is none.
    pub(super) async fn connection(&self) -> Result<(MultiplexedConnection, OpenLink), BrokerError> {
        let up = settled(&self.state).await?;
        Ok((up.connection.clone(), up))
    }

    /// Gives up the connection of this number, which is open but of no use.
    pub(super) fn give_up(&self, number: u64, reason: &str) {
        self.give_up.connection(number, reason);
    }

    /// Takes notice of a refusal on the connection of this number. Gives the connection up if another may reach a server
    /// that does not refuse.
    pub(super) fn note_refusal(&self, number: u64, error: &BrokerError) {
        if let BrokerError::Refused { kind, text } = error
            && kind.passes_with_the_server()
            && !self.is_redirection(error)
        {
            self.give_up(number, text);
        }
    }

    /// Whether the caller must ask another server, or the same one later.
    fn is_redirection(&self, error: &BrokerError) -> bool {
        self.in_cluster && Redirect::read(error).is_some()
    }

    /// Returns the connection that is open at this moment, if there is one.
    pub(super) fn now(&self) -> Option<OpenLink> {
        match &*self.state.borrow() {
            ConnectionState::Up(up) => Some(up.clone()),
            ConnectionState::Opening | ConnectionState::Down(_) => None,
        }
    }

    /// Sends one command. Fails at once while there is no connection.
    pub(crate) async fn call(&self, operation: Operation, command: &Cmd) -> Result<Value, BrokerError> {
        self.within_deadline(operation, |mut up| async move { send(&mut up.connection, command).await }).await
    }

    /// Calls a script. `fill` adds the number of keys, the keys and the arguments; it may be called twice.
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

    /// Calls the same script several times in one round trip, and returns each result. Each of `fills` works as in
    /// [`RedisLink::eval`].
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
            // In this case no call was carried out, and all can be sent again once the script is loaded.
            if answers.iter().all(lacks) {
                let load = script.load(&up);
                    send(&mut up.connection, &load).await?;
                return up.connection.send_packed_commands(&pipeline, 0, pipeline.len()).await;
            }
            Ok(answers)
        });
        Ok(self.each(answers.await?))
    }

    /// Sends several commands in one round trip, and returns each result.
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

    /// Counts refusals among the answers of a pipeline as those of single commands are counted.
    fn each(&self, answers: Vec<Value>) -> Vec<Result<Value, BrokerError>> {
        let number = self.now().map_or(0, |up| up.number);
        let each = answers.into_iter().map(|answer| accept(answer).map_err(explain));
        each.inspect(|answer| {
            if let Err(error) = answer
                && !self.is_redirection(error)
            {
                self.metrics.failed(error);
                self.note_refusal(number, error);
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
                    .inspect_err(|error| self.note_refusal(number, error))
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

/// Translates an error for a caller that has sent something.
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
    state: watch::Sender<ConnectionState<OpenLink>>,
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
                    self.pauses.note_lifetime(opened.elapsed());
                    reason
                }
                Err(error) => {
                    let reason = unreachable(&error);
                    self.state.send_replace(ConnectionState::Down(reason.clone()));
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

    /// Keeps the connection until it is lost. Returns the reason of the loss.
    async fn keep(&self, mut dialed: CommandConnection, number: u64) -> Arc<str> {
        let metrics = self.purpose.metrics(&self.metrics);
        metrics.up.set(1);
        let connection = dialed.connection.clone();
        let show = |server: &Server| {
            let (connection, server) = (connection.clone(), Arc::new(server.clone()));
            let of_cluster = self.of_cluster.clone();
            self.state.send_replace(ConnectionState::Up(OpenLink { connection, server, number, of_cluster }));
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
            tracing::warn!(link = self.purpose.word(), "the server behind a Redis connection has changed");
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
        let (known, received) = (dialed.server.clone(), dialed.received.clone());
        let received = || received.load(Ordering::Relaxed);
        let reason = supervise(lost, self.ping, self.dialer.timeout(), received, ask, known, changed).await;
        metrics.up.set(0);
        self.state.send_replace(ConnectionState::Down(reason.clone()));
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

/// The client library returns a refusal as an answer like any other.
fn accept(answer: Value) -> Result<Value, RedisError> {
    match answer {
        Value::ServerError(error) => Err(error.into()),
        answer => Ok(answer),
    }
}

pub(super) fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
