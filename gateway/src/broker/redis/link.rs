//! The connection for commands: opened again and again for ever, and every call on it has a deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::config::Config;
use super::dial::{self, DialError, Dialed, Dialer};
use super::script::Script;
use super::server::Server;
use crate::broker::measure::{BrokerMetrics, Operation};
use crate::broker::{BrokerError, BrokerEvents};

/// A connection that held this long was not part of a run of failures.
const HELD_LONG: Duration = Duration::from_secs(10);

/// The first pause after a loss is at most this long.
const PAUSE_FIRST_MAX: Duration = Duration::from_millis(50);

/// Shared by all that send commands. Their commands travel together: nobody waits for another's answer.
#[derive(Debug)]
pub(crate) struct Link {
    state: watch::Receiver<State>,
    timeout: Duration,
    metrics: Arc<BrokerMetrics>,
    _supervisor: AbortOnDropHandle<()>,
}

#[derive(Clone, Debug)]
pub(crate) enum State {
    /// The first attempt is being made.
    Opening,
    Up(Up),
    Down(Arc<str>),
}

/// An open connection.
#[derive(Clone, Debug)]
pub(crate) struct Up {
    connection: MultiplexedConnection,
    /// What the server at its other end is: asked when it was opened, and again with every sign of life.
    pub(crate) server: Arc<Server>,
    /// Which connection this is, counted from 1.
    pub(crate) number: u64,
}

impl Link {
    pub(crate) fn start(
        config: &Config,
        dialer: Dialer,
        events: Arc<dyn BrokerEvents>,
        metrics: Arc<BrokerMetrics>,
    ) -> Self {
        let (sender, state) = watch::channel(State::Opening);
        let supervisor = Supervisor {
            dialer,
            ping: config.ping(),
            pauses: Pauses::new(config.reconnect_max()),
            state: sender,
            events,
            metrics: metrics.clone(),
        };
        Self {
            state,
            timeout: config.timeout(),
            metrics,
            _supervisor: AbortOnDropHandle::new(tokio::spawn(supervisor.run())),
        }
    }

    /// Follows the connection as it is lost and opened.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The connection there is, for who sends more than a call's worth and keeps the deadline himself. Fails at once
    /// while there is none.
    pub(super) async fn connection(&self) -> Result<(MultiplexedConnection, Up), BrokerError> {
        let up = self.up().await?;
        Ok((up.connection.clone(), up))
    }

    /// One command. Fails at once while there is no connection.
    pub(crate) async fn call(&self, operation: Operation, command: &Cmd) -> Result<Value, BrokerError> {
        self.within_deadline(operation, async {
            let mut connection = self.up().await?.connection;
            send(&mut connection, command).await.map_err(explain)
        })
        .await
    }

    /// One script. `fill` adds the number of keys, the keys and the arguments; it may be called twice.
    pub(crate) async fn eval(
        &self,
        operation: Operation,
        script: &Script,
        fill: impl Fn(&mut Cmd, &Up),
    ) -> Result<Value, BrokerError> {
        self.within_deadline(operation, async {
            let up = self.up().await?;
            let mut connection = up.connection.clone();
            let mut command = script.by_hash();
            fill(&mut command, &up);
            let mut answer = send(&mut connection, &command).await;
            if answer.as_ref().is_err_and(is_no_script) {
                command = script.by_text();
                fill(&mut command, &up);
                answer = send(&mut connection, &command).await;
            }
            answer.map_err(explain)
        })
        .await
    }

    /// The same script several times in one round trip. Each of `fills` works as in [`Link::eval`].
    pub(crate) async fn eval_many<F: Fn(&mut Cmd, &Up)>(
        &self,
        operation: Operation,
        script: &Script,
        fills: &[F],
    ) -> Result<Vec<Value>, BrokerError> {
        if fills.is_empty() {
            return Ok(Vec::new());
        }
        self.within_deadline(operation, async {
            let up = self.up().await?;
            let mut connection = up.connection.clone();
            let mut pipeline = Pipeline::with_capacity(fills.len());
            for fill in fills {
                let mut command = script.by_hash();
                fill(&mut command, &up);
                pipeline.add_command(command);
            }
            let mut answers = send_pipeline(&mut connection, &pipeline).await;
            if answers.as_ref().is_err_and(is_no_script) {
                send(&mut connection, &script.load()).await.map_err(explain)?;
                answers = send_pipeline(&mut connection, &pipeline).await;
            }
            answers.map_err(explain)
        })
        .await
    }

    /// Several commands in one round trip. Fails if one of them does.
    pub(crate) async fn call_many(
        &self,
        operation: Operation,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, BrokerError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        self.within_deadline(operation, async {
            let mut connection = self.up().await?.connection;
            send_pipeline(&mut connection, pipeline).await.map_err(explain)
        })
        .await
    }

    async fn within_deadline<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let start = Instant::now();
        let result =
            tokio::time::timeout(self.timeout, work).await.unwrap_or(Err(BrokerError::Timeout(self.timeout)));
        match &result {
            Ok(_) => self.metrics.observe_round_trip(operation, start.elapsed()),
            Err(BrokerError::Timeout(_)) => self.metrics.timeouts.increment(),
            Err(_) => self.metrics.errors.increment(),
        }
        result
    }

    /// The connection, if there is one. Waits only for the outcome of the very first attempt.
    async fn up(&self) -> Result<Up, BrokerError> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Opening)).await;
        match settled.as_deref() {
            Ok(State::Up(up)) => Ok(up.clone()),
            Ok(State::Down(reason)) => Err(BrokerError::Unreachable(reason.clone())),
            Ok(State::Opening) | Err(_) => Err(BrokerError::Unreachable("the link is closed".into())),
        }
    }
}

/// What a Redis error means to a caller.
pub(crate) fn explain(error: RedisError) -> BrokerError {
    if error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error() {
        BrokerError::Unreachable(error.to_string().into())
    } else {
        refusal(&error).unwrap_or_else(|| BrokerError::Unexpected(error.to_string().into()))
    }
}

/// If the server said no: its code and its words.
fn refusal(error: &RedisError) -> Option<BrokerError> {
    let code = error.code()?;
    Some(BrokerError::refused(format!("{code} {}", error.detail().unwrap_or_default())))
}

/// Waits until the connection is lost, or its server can no longer be used, and says why. The server is asked again
/// and again what it is: `changed` is told whenever it is not what it was. `heard` grows with whatever arrives: a
/// connection that brings bytes is alive, however long an answer stands in line behind them.
pub(super) async fn hold<P: Future<Output = Result<Server, BrokerError>>>(
    lost: impl Future<Output = Arc<str>>,
    interval: Duration,
    timeout: Duration,
    heard: impl Fn() -> u64,
    ask: impl Fn() -> P,
    mut known: Server,
    mut changed: impl FnMut(&Server),
) -> Arc<str> {
    tokio::pin!(lost);
    loop {
        tokio::select! {
            reason = &mut lost => return reason,
            () = tokio::time::sleep(interval) => {}
        }
        let before = heard();
        let answer = tokio::select! {
            reason = &mut lost => return reason,
            answer = tokio::time::timeout(timeout, ask()) => answer,
        };
        match answer {
            Ok(Ok(server)) => {
                if let Some(why) = server.unusable() {
                    return why.into();
                }
                if server != known {
                    changed(&server);
                    known = server;
                }
            }
            // Who refuses is alive.
            Ok(Err(BrokerError::Refused { .. })) => {}
            Ok(Err(error)) => return error.to_string().into(),
            Err(_) if heard() != before => {}
            Err(_) => return format!("nothing arrived within {} ms", timeout.as_millis()).into(),
        }
    }
}

/// Pauses between attempts: each random between nothing and a bound that doubles, so that many nodes do not come
/// back at once.
#[derive(Debug)]
pub(super) struct Pauses {
    bound: Duration,
    max: Duration,
}

impl Pauses {
    pub(super) fn new(max: Duration) -> Self {
        Self { bound: PAUSE_FIRST_MAX.min(max), max }
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.bound.mul_f64(rand::random::<f64>());
        self.bound = (self.bound * 2).min(self.max);
        pause
    }

    /// To be told how long the last connection held.
    pub(super) fn held(&mut self, duration: Duration) {
        if duration >= HELD_LONG {
            *self = Self::new(self.max);
        }
    }
}

/// Keeps a connection open.
struct Supervisor {
    dialer: Dialer,
    ping: Duration,
    pauses: Pauses,
    state: watch::Sender<State>,
    events: Arc<dyn BrokerEvents>,
    metrics: Arc<BrokerMetrics>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut number = 0;
        loop {
            let reason = match self.dialer.dial().await {
                Ok(dialed) => {
                    number += 1;
                    let opened = Instant::now();
                    let reason = self.keep(dialed, number).await;
                    self.pauses.held(opened.elapsed());
                    reason
                }
                Err(error) => {
                    let reason = unreachable(&error);
                    self.state.send_replace(State::Down(reason.clone()));
                    reason
                }
            };
            let pause = self.pauses.next();
            tracing::warn!(
                redis = %self.dialer.address(), %reason, pause_ms = pause.as_millis() as u64,
                "no connection to Redis for commands"
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// Until it is lost. Says why it was.
    async fn keep(&self, mut dialed: Dialed, number: u64) -> Arc<str> {
        self.metrics.command_link_up.set(1);
        tracing::info!(number, "connected to Redis for commands");
        let connection = dialed.connection.clone();
        let show = |server: &Server| {
            let (connection, server) = (connection.clone(), Arc::new(server.clone()));
            self.state.send_replace(State::Up(Up { connection, server, number }));
        };
        show(&dialed.server);
        if number > 1 {
            self.metrics.command_reconnects.increment();
            self.events.resumed();
        }
        let changed = |server: &Server| {
            tracing::warn!("the Redis behind the connection for commands is not what it was");
            show(server);
            self.events.resumed();
        };
        let ask = || {
            let mut connection = connection.clone();
            async move { dial::identify(&mut connection).await.map_err(explain) }
        };
        let lost = async {
            let _ = (&mut dialed.driver).await;
            "Redis closed the connection".into()
        };
        let (known, heard) = (dialed.server.clone(), dialed.heard.clone());
        let heard = || heard.load(Ordering::Relaxed);
        let reason = hold(lost, self.ping, self.dialer.timeout(), heard, ask, known, changed).await;
        self.metrics.command_link_up.set(0);
        self.state.send_replace(State::Down(reason.clone()));
        dialed.close().await;
        reason
    }
}

pub(super) fn unreachable(error: &DialError) -> Arc<str> {
    error.to_string().into()
}

async fn send(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    connection.send_packed_command(command).await.and_then(accept)
}

async fn send_pipeline(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
) -> Result<Vec<Value>, RedisError> {
    let answers = connection.send_packed_commands(pipeline, 0, pipeline.len()).await?;
    answers.into_iter().map(accept).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_again_after_a_connection_that_held() {
        let max = Duration::from_secs(3);
        let mut pauses = Pauses::new(max);
        for _ in 0..20 {
            assert!(pauses.next() <= max);
        }
        assert_eq!(pauses.bound, max);
        pauses.held(Duration::from_secs(1));
        assert_eq!(pauses.bound, max);
        pauses.held(Duration::from_secs(60));
        assert!(pauses.next() <= PAUSE_FIRST_MAX);
    }
}
