//! The life of one connection on the client's end: connect, subscribe, listen, and come back if asked to.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use shared::disconnect::Disconnect;
use shared::framing::MessageKind;
use tokio::time::{sleep, timeout};

use crate::clock::now_ns;
use crate::connect::{Entry, connect};
use crate::counts::Received;
use crate::lane::{Lane, Phase};
use crate::subscriber::{Shared, Subscriber};
use crate::wire::{Incoming, Wire};

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A slow reader that reads again has seen everything when nothing more comes for so long.
const QUIET: Duration = Duration::from_millis(500);

/// The account of one connection, and where its thread counts.
#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) subscribers: &'a RefCell<Vec<Subscriber>>,
    pub(crate) index: usize,
    pub(crate) books: &'a RefCell<Received>,
}

/// Why a connection is no more.
enum Ending {
    /// The run is over.
    Stopped,
    /// It was cut with all others, and comes back with them.
    Cut,
    /// It was closed because it was ready, and is opened anew.
    Done,
    /// It never became ready.
    Failed(String),
    Lost {
        reason: String,
        comes_back: bool,
    },
}

impl Account<'_> {
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Subscriber, &mut Received) -> T) -> T {
        work(&mut self.subscribers.borrow_mut()[self.index], &mut self.books.borrow_mut())
    }

    /// Connects as connection number `number`, of a user, and waits until every subscription is confirmed. `due_ns` is
    /// when the attempt was due.
    pub(crate) async fn become_ready(
        &self,
        target: usize,
        number: u32,
        user: &str,
        due_ns: u64,
    ) -> Result<Wire, String> {
        let Shared { plan, dialect, ledger, tokens, .. } = self.shared;
        let target = &plan.targets[target];
        let first_channel = plan.channels_of(number).next().unwrap_or(number % ledger.channels());
        let path = dialect.path(plan.arguments.access.transport, &target.path, ledger.name(first_channel));
        let token = tokens.of(user);
        let bearer = token.as_deref().filter(|_| dialect.shows_token_in_header());
        let mut wire = connect(plan, target, number, Entry { path: &path, bearer })
            .await
            .map_err(|error| error.to_string())?;
        let messages = self.with(|subscriber, books| {
            books.connections.compressed += u64::from(wire.is_compressed());
            books.connections.open.record(now_ns().saturating_sub(due_ns));
            let mut messages = subscriber.begin(self.shared, token.as_deref());
            dialect.opened(|event| {
                // An open connection alone refuses nothing.
                let _ = subscriber.hear(event, self.shared, books, &mut messages);
            });
            messages
        });
        wire.send(&messages).await.map_err(|error| error.to_string())?;
        while !self.with(|subscriber, _| subscriber.is_ready()) {
            let (kind, message) = next_message(&mut wire).await?;
            self.take_in(&mut wire, kind, &message).await?;
        }
        self.with(|_, books| {
            books.connections.ready += 1;
            books.connections.to_ready.record(now_ns().saturating_sub(due_ns));
        });
        Ok(wire)
    }

    /// Accounts for one message, and sends what it asks for. An error says why the connection is given up.
    async fn take_in(&self, wire: &mut Wire, kind: MessageKind, message: &Bytes) -> Result<(), String> {
        let (mut answers, mut refused) = (Vec::new(), None);
        self.with(|subscriber, books| {
            let malformed = self.shared.dialect.hear(kind, message, |event| {
                if let Err(reason) = subscriber.hear(event, self.shared, books, &mut answers) {
                    refused = Some(reason);
                }
            });
            books.deliveries.malformed += malformed;
        });
        match refused {
            Some(reason) => Err(reason),
            None if answers.is_empty() => Ok(()),
            None => wire.send(&answers).await.map_err(|error| error.to_string()),
        }
    }
}

/// Keeps one connection until the run stops, or until it is lost and does not come back. `due_ns` is when the ramp
/// wanted it.
pub async fn live(lane: Rc<Lane>, index: usize, due_ns: u64) {
    let Lane { shared, books, .. } = &*lane;
    let arguments = &shared.plan.arguments.connections;
    let mut due_ns = due_ns;
    let mut failed_tries = 0;
    let mut attempt = 0;
    let mut target = shared.plan.first_target(lane.number_of(index));
    let mut was_cut = false;
    loop {
        // Boxed, because opening needs far more state than listening, which lasts.
        let opened = Box::pin(open(&lane, index, target, attempt, due_ns)).await;
        if attempt == 0 && !matches!(opened, Err(Ending::Stopped)) {
            shared.settled.fetch_add(1, Ordering::Relaxed);
        }
        let ending = match opened {
            Ok(wire) => {
                books.borrow_mut().connections.reconnects += u64::from(attempt > 0);
                failed_tries = 0;
                if std::mem::take(&mut was_cut) {
                    shared.away.fetch_sub(1, Ordering::Relaxed);
                }
                let is_slow = lane.subscribers.borrow()[index].is_slow();
                match is_slow {
                    true => doze(&lane, wire).await,
                    false if arguments.churn => say_goodbye(wire, Ending::Done).await,
                    false => listen(&lane, index, wire).await,
                }
            }
            Err(ending) => ending,
        };
        lane.subscribers.borrow_mut()[index].end();
        target = shared.plan.next_target(target);
        attempt += 1;
        let comes_back = match ending {
            Ending::Stopped => return,
            Ending::Done => {
                books.borrow_mut().connections.ended += 1;
                due_ns = now_ns();
                continue;
            }
            Ending::Cut => {
                was_cut = true;
                shared.away.fetch_add(1, Ordering::Relaxed);
                books.borrow_mut().connections.ended += 1;
                match lane.until(|phase| phase != Phase::Away).await {
                    Phase::Back { at_ns } => due_ns = at_ns,
                    Phase::Stopping => return,
                    Phase::Running | Phase::Away | Phase::Awake => due_ns = now_ns(),
                }
                continue;
            }
            Ending::Failed(reason) => {
                books.borrow_mut().connections.failures.count(reason);
                arguments.reconnect || arguments.retry || arguments.churn
            }
            Ending::Lost { reason, comes_back } => {
                let connections = &mut books.borrow_mut().connections;
                connections.ended += 1;
                connections.disconnect_reasons.count(reason);
                comes_back && arguments.reconnect
            }
        };
        if !comes_back {
            lane.subscribers.borrow_mut()[index].leave();
            return;
        }
        tokio::select! {
            () = sleep(pause(&lane, failed_tries)), if !arguments.churn => {}
            () = tokio::task::yield_now(), if arguments.churn => {}
            () = lane.stopped() => return,
        }
        failed_tries += 1;
        due_ns = now_ns();
    }
}

/// Connects and waits until every subscription is confirmed.
async fn open(
    lane: &Rc<Lane>,
    index: usize,
    target: usize,
    attempt: u32,
    due_ns: u64,
) -> Result<Wire, Ending> {
    let arguments = &lane.shared.plan.arguments.connections;
    let limit = arguments.connect_timeout;
    let mut number = lane.number_of(index);
    if arguments.churn {
        // Each comes from another address and port, as those of different clients do.
        number = number.wrapping_add(attempt.wrapping_mul(arguments.connections));
    }
    let opening = async {
        let permit = lane.opening.acquire().await;
        let account = lane.account(index);
        let user = format!("load-{number}");
        let ready = timeout(limit.duration(), account.become_ready(target, number, &user, due_ns)).await;
        drop(permit);
        ready.unwrap_or_else(|_| Err(format!("not ready within {} s", limit.0)))
    };
    tokio::select! {
        opened = opening => opened.map_err(Ending::Failed),
        () = lane.stopped() => Err(Ending::Stopped),
    }
}

async fn listen(lane: &Rc<Lane>, index: usize, mut wire: Wire) -> Ending {
    let account = lane.account(index);
    // Waited for once, not anew with every message.
    let mut turned = pin!(lane.until(|phase| matches!(phase, Phase::Away | Phase::Stopping)));
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
            Err(error) => error.to_string(),
        };
        return Ending::Lost { reason, comes_back: true };
    }
}

/// Does not read until all slow readers are woken, and then sees what is left of the connection.
async fn doze(lane: &Rc<Lane>, mut wire: Wire) -> Ending {
    lane.shared.dozing.fetch_add(1, Ordering::Relaxed);
    let phase = lane.until(|phase| matches!(phase, Phase::Awake | Phase::Stopping)).await;
    if phase == Phase::Awake {
        let end = loop {
            match timeout(QUIET, next_message(&mut wire)).await {
                Err(_) => break "still open".to_owned(),
                Ok(Ok(_)) => {}
                Ok(Err(reason)) => break reason,
            }
        };
        lane.books.borrow_mut().connections.slow_ends.count(end);
    }
    lane.shared.dozing.fetch_sub(1, Ordering::Relaxed);
    lane.stopped().await;
    say_goodbye(wire, Ending::Stopped).await
}

async fn say_goodbye(mut wire: Wire, ending: Ending) -> Ending {
    // Whether it still reaches the server changes nothing for the account.
    let _ = timeout(GOODBYE, wire.close()).await;
    ending
}

/// The next message; an error says why there will be none.
pub(crate) async fn next_message(wire: &mut Wire) -> Result<(MessageKind, Bytes), String> {
    match wire.next().await {
        Ok(Incoming::Message(kind, message)) => Ok((kind, message)),
        Ok(Incoming::Close { code, reason }) => Err(close_reason(code, &reason)),
        Err(error) => Err(error.to_string()),
    }
}

/// A random wait that doubles with each failed try, from the lower to the upper bound (as the official clients do).
fn pause(lane: &Lane, failed_tries: u32) -> Duration {
    let arguments = &lane.shared.plan.arguments.connections;
    let least = arguments.reconnect_min_ms;
    let most = least.saturating_mul(2_u64.saturating_pow(failed_tries + 1)).min(arguments.reconnect_max_ms);
    Duration::from_millis(rand::rng().random_range(least..=most.max(least)))
}

fn close_reason(code: u16, reason: &str) -> String {
    match reason {
        "" => format!("closed by the server with {code}"),
        reason => format!("closed by the server with {code} {reason}"),
    }
}
