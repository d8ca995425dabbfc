//! The life of one connection on the client's end: connect, subscribe, listen, and come back if asked to.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::RngExt;
use shared::disconnect::Disconnect;
use shared::framing::MessageKind;
use tokio::time::{sleep, timeout};

use crate::arguments::ConnectionArguments;
use crate::clock::now_ns;
use crate::common::{Accounts, Phase, Shared};
use crate::connect::{Entry, connect};
use crate::counts::Received;
use crate::failure::Failure;
use crate::subscriber::Subscriber;
use crate::wire::{Incoming, Wire};

/// How long the close frame of one connection may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A slow reader that reads again has seen everything when nothing comes for this long.
const QUIET: Duration = Duration::from_millis(500);

/// The account of one connection, among those of its thread.
#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) accounts: &'a Mutex<Accounts>,
    pub(crate) index: usize,
}

/// Why a connection ended.
enum Ending {
    /// The run is over.
    Stopped,
    /// The connection was cut with all others, and comes back with them.
    Cut,
    /// The connection was closed because it was ready, and is opened anew.
    Done,
    /// The connection never became ready.
    Failed(Failure),
    Lost {
        reason: Failure,
        comes_back: bool,
    },
}

impl<'a> Account<'a> {
    /// Returns the account of connection number `number`. Connections are dealt out to the threads in turns.
    fn of(shared: &'a Shared, number: u32) -> Self {
        let (number, threads) = (number as usize, shared.accounts.len());
        Self { shared, accounts: &shared.accounts[number % threads], index: number / threads }
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Subscriber, &mut Received) -> T) -> T {
        let Accounts { subscribers, counted } = &mut *self.accounts.lock();
        work(&mut subscribers[self.index], counted)
    }

    /// Connects as connection number `number` and as this user, and waits until every subscription is confirmed. `due_ns`
    /// is when the attempt was due.
    pub(crate) async fn become_ready(
        &self,
        target: usize,
        number: u32,
        user: &str,
        due_ns: u64,
    ) -> Result<Wire, Failure> {
        let Shared { plan, ledger, tokens, .. } = self.shared;
        let (dialect, target) = (&plan.dialect, &plan.targets[target]);
        let first_channel = plan.channels_of(number).next().unwrap_or(number % ledger.channels());
        let path = dialect.path(plan.arguments.access.transport, &target.path, ledger.name(first_channel));
        let token = tokens.of(user);
        let bearer = token.as_deref().filter(|_| dialect.shows_token_in_header());
        let mut wire = connect(plan, target, number, Entry { path: &path, bearer }).await?;
        let messages = self.with(|subscriber, counted| {
            counted.connections.compressed += u64::from(wire.is_compressed());
            counted.connections.open.record(now_ns().saturating_sub(due_ns));
            let mut messages = subscriber.begin(self.shared, token.as_deref());
            dialect.opened(|event| {
                // Nothing is refused before the server has answered.
                let _ = subscriber.hear(event, self.shared, counted, &mut messages);
            });
            messages
        });
        wire.send(&messages).await?;
        while !self.with(|subscriber, _| subscriber.is_ready()) {
            let (kind, message) = next_message(&mut wire).await?;
            self.take_in(&mut wire, kind, &message).await?;
        }
        self.with(|_, counted| {
            counted.connections.ready += 1;
            counted.connections.to_ready.record(now_ns().saturating_sub(due_ns));
        });
        Ok(wire)
    }

    /// Accounts for one message, and sends the answers that it asks for. An error says why the connection is given up.
    async fn take_in(&self, wire: &mut Wire, kind: MessageKind, message: &[u8]) -> Result<(), Failure> {
        let (mut answers, mut refused) = (Vec::new(), None);
        self.with(|subscriber, counted| {
            let malformed = self.shared.plan.dialect.hear(kind, message, |event| {
                if let Err(reason) = subscriber.hear(event, self.shared, counted, &mut answers) {
                    refused = Some(reason);
                }
            });
            counted.deliveries.malformed += malformed;
        });
        match refused {
            Some(reason) => Err(Failure(reason)),
            None if answers.is_empty() => Ok(()),
            None => wire.send(&answers).await,
        }
    }
}

/// Keeps one connection until the run stops, or until it is lost and does not come back. `due_ns` is when it is due by the
/// ramp.
pub async fn live(shared: Arc<Shared>, number: u32, mut due_ns: u64) {
    let account = Account::of(&shared, number);
    let arguments = &shared.plan.arguments.connections;
    let mut failed_tries = 0;
    let mut attempt = 0;
    let mut target = shared.plan.first_target(number);
    let mut was_cut = false;
    loop {
        // Boxed, because opening needs far more state than listening, which takes most of the time.
        let opened = Box::pin(open(account, number, target, attempt, due_ns)).await;
        if attempt == 0 && !matches!(opened, Err(Ending::Stopped)) {
            shared.settled.fetch_add(1, Ordering::Relaxed);
        }
        let ending = match opened {
            Ok(wire) => {
                let is_slow = account.with(|subscriber, counted| {
                    counted.connections.reconnects += u64::from(attempt > 0);
                    subscriber.is_slow()
                });
                failed_tries = 0;
                if std::mem::take(&mut was_cut) {
                    shared.away.fetch_sub(1, Ordering::Relaxed);
                }
                match is_slow {
                    true => doze(account, wire).await,
                    false if arguments.churn => say_goodbye(wire, Ending::Done).await,
                    false => listen(account, wire).await,
                }
            }
            Err(ending) => ending,
        };
        target = shared.plan.next_target(target);
        attempt += 1;
        let comes_back = account.with(|subscriber, counted| {
            subscriber.end();
            let connections = &mut counted.connections;
            let was_ready = !matches!(ending, Ending::Stopped | Ending::Failed(_));
            connections.ended += u64::from(was_ready);
            let comes_back = match &ending {
                Ending::Stopped | Ending::Cut | Ending::Done => true,
                Ending::Failed(Failure(reason)) => {
                    connections.failures.count(reason);
                    arguments.reconnect || arguments.retry || arguments.churn
                }
                Ending::Lost { reason: Failure(reason), comes_back } => {
                    connections.disconnect_reasons.count(reason);
                    *comes_back && arguments.reconnect
                }
            };
            if !comes_back {
                subscriber.leave();
            }
            comes_back
        });
        due_ns = match ending {
            Ending::Stopped => return,
            Ending::Done => now_ns(),
            Ending::Cut => {
                was_cut = true;
                shared.away.fetch_add(1, Ordering::Relaxed);
                match shared.until(|phase| phase != Phase::Away).await {
                    Phase::Back { at_ns } => at_ns,
                    Phase::Stopping => return,
                    Phase::Running | Phase::Away | Phase::Awake => now_ns(),
                }
            }
            Ending::Failed(_) | Ending::Lost { .. } if comes_back => {
                tokio::select! {
                    () = sleep(pause(arguments, failed_tries)), if !arguments.churn => {}
                    () = tokio::task::yield_now(), if arguments.churn => {}
                    () = shared.stopped() => return,
                }
                failed_tries += 1;
                now_ns()
            }
            Ending::Failed(_) | Ending::Lost { .. } => return,
        };
    }
}

/// Connects and waits until every subscription is confirmed.
async fn open(
    account: Account<'_>,
    mut number: u32,
    target: usize,
    attempt: u32,
    due_ns: u64,
) -> Result<Wire, Ending> {
    let shared = account.shared;
    let arguments = &shared.plan.arguments.connections;
    let limit = arguments.connect_timeout;
    if arguments.churn {
        // Each attempt comes from another address and port, as those of different clients do.
        number = number.wrapping_add(attempt.wrapping_mul(arguments.connections));
    }
    let opening = async {
        let permit = shared.opening.acquire().await;
        let user = format!("load-{number}");
        let ready = timeout(limit.duration(), account.become_ready(target, number, &user, due_ns)).await;
        drop(permit);
        ready.unwrap_or_else(|_| Err(Failure(format!("not ready within {} s", limit.0))))
    };
    tokio::select! {
        opened = opening => opened.map_err(Ending::Failed),
        () = shared.stopped() => Err(Ending::Stopped),
    }
}

async fn listen(account: Account<'_>, mut wire: Wire) -> Ending {
    // One wait for all messages, not a new one with each.
    let mut turned = pin!(account.shared.until(|phase| matches!(phase, Phase::Away | Phase::Stopping)));
    loop {
        let incoming = tokio::select! {
            biased;
            incoming = wire.next() => incoming,
            phase = &mut turned => {
                if phase == Phase::Away {
                    return Ending::Cut;
                }
                return say_goodbye(wire, Ending::Stopped).await;
            }
        };
        let reason = match incoming {
            Ok(Incoming::Message(kind, message)) => match account.take_in(&mut wire, kind, &message).await {
                Ok(()) => continue,
                Err(reason) => reason,
            },
            Ok(Incoming::Close { code, reason }) => {
                let comes_back = Disconnect { code, reason: "".into() }.invites_reconnect();
                return Ending::Lost { reason: close_reason(code, &reason), comes_back };
            }
            Err(reason) => reason,
        };
        return Ending::Lost { reason, comes_back: true };
    }
}

/// Does not read until all slow readers are woken, and then finds out how the connection ended.
async fn doze(account: Account<'_>, mut wire: Wire) -> Ending {
    let shared = account.shared;
    shared.dozing.fetch_add(1, Ordering::Relaxed);
    let phase = shared.until(|phase| matches!(phase, Phase::Awake | Phase::Stopping)).await;
    if phase == Phase::Awake {
        let end = loop {
            match timeout(QUIET, next_message(&mut wire)).await {
                Err(_) => break "still open".to_owned(),
                Ok(Ok(_)) => {}
                Ok(Err(Failure(reason))) => break reason,
            }
        };
        account.with(|_, counted| counted.connections.slow_ends.count(end));
    }
    shared.dozing.fetch_sub(1, Ordering::Relaxed);
    shared.stopped().await;
    say_goodbye(wire, Ending::Stopped).await
}

async fn say_goodbye(mut wire: Wire, ending: Ending) -> Ending {
    // The account is the same whether the server receives it or not.
    let _ = timeout(GOODBYE, wire.close()).await;
    ending
}

/// Returns the next message. An error says why there is none.
pub(crate) async fn next_message(wire: &mut Wire) -> Result<(MessageKind, Bytes), Failure> {
    match wire.next().await? {
        Incoming::Message(kind, message) => Ok((kind, message)),
        Incoming::Close { code, reason } => Err(close_reason(code, &reason)),
    }
}

/// Returns a random wait that doubles with each failed try, within the bounds that were given (as official clients wait).
fn pause(arguments: &ConnectionArguments, failed_tries: u32) -> Duration {
    let least = arguments.reconnect_min_ms;
    let most = least.saturating_mul(2_u64.saturating_pow(failed_tries + 1)).min(arguments.reconnect_max_ms);
    Duration::from_millis(rand::rng().random_range(least..=most.max(least)))
}

fn close_reason(code: u16, reason: &str) -> Failure {
    Failure(format!("closed by the server with {code} {reason}").trim_end().to_owned())
}
