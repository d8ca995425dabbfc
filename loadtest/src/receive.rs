//! The life of one connection on the client's end: connect, subscribe, listen, and come back if asked to.

use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt;
use shared::disconnect::Disconnect;
use tokio::time::{sleep, timeout};

use crate::clock::now_ns;
use crate::connect::{Entry, connect};
use crate::dialect::Event;
use crate::lane::{Lane, Phase};
use crate::subscriber::Reaction;
use crate::wire::{Incoming, Wire, WireError};

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A slow reader that reads again has seen everything when nothing more comes for so long.
const QUIET: Duration = Duration::from_millis(500);

/// Why a connection is no more.
enum Ending {
    /// The run is over.
    Stopped,
    /// It was cut with all others, and comes back with them.
    Cut,
    /// It never became ready.
    Failed(String),
    Lost {
        reason: String,
        comes_back: bool,
    },
}

/// Keeps one connection until the run stops, or until it is lost and does not come back. `due_ns` is when the ramp
/// wanted it.
pub async fn live(lane: Rc<Lane>, index: usize, due_ns: u64) {
    let mut due_ns = due_ns;
    let mut failed_tries = 0;
    let mut attempt = 0;
    let mut target = lane.shared.plan.first_target(lane.number_of(index));
    let mut was_cut = false;
    loop {
        // Boxed, because opening needs far more state than listening, which lasts.
        let ending = match Box::pin(open(&lane, index, target, attempt, due_ns)).await {
            Ok(wire) => {
                if attempt > 0 {
                    lane.books.borrow_mut().tally.reconnects += 1;
                }
                failed_tries = 0;
                if std::mem::take(&mut was_cut) {
                    lane.shared.away.fetch_sub(1, Ordering::Relaxed);
                }
                let is_slow = lane.subscribers.borrow()[index].is_slow();
                if is_slow { doze(&lane, wire).await } else { listen(&lane, index, wire).await }
            }
            Err(ending) => ending,
        };
        lane.subscribers.borrow_mut()[index].end();
        if attempt == 0 && matches!(ending, Ending::Failed(_)) {
            lane.settle_one();
        }
        target = lane.shared.plan.next_target(target);
        let comes_back = match ending {
            Ending::Stopped => return,
            Ending::Cut => {
                was_cut = true;
                lane.shared.away.fetch_add(1, Ordering::Relaxed);
                lane.books.borrow_mut().tally.ended += 1;
                attempt += 1;
                match lane.until(|phase| phase != Phase::Away).await {
                    Phase::Back { at_ns } => due_ns = at_ns,
                    Phase::Stopping => return,
                    Phase::Running | Phase::Away | Phase::Awake => due_ns = now_ns(),
                }
                continue;
            }
            Ending::Failed(reason) => {
                lane.books.borrow_mut().tally.failures.count(reason);
                let arguments = &lane.shared.plan.arguments.connections;
                arguments.reconnect || arguments.retry
            }
            Ending::Lost { reason, comes_back } => {
                let tally = &mut lane.books.borrow_mut().tally;
                tally.ended += 1;
                tally.disconnects.count(reason);
                comes_back && lane.shared.plan.arguments.connections.reconnect
            }
        };
        if !comes_back {
            lane.subscribers.borrow_mut()[index].leave();
            return;
        }
        tokio::select! {
            () = sleep(pause(&lane, failed_tries)) => {}
            () = lane.stopped() => return,
        }
        failed_tries += 1;
        attempt += 1;
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
    let limit = lane.shared.plan.arguments.connections.connect_timeout;
    let permit = tokio::select! {
        permit = lane.opening.acquire() => permit.map_err(|_| Ending::Stopped)?,
        () = lane.stopped() => return Err(Ending::Stopped),
    };
    let opening = timeout(limit, become_ready(lane, index, target, attempt, due_ns));
    let opened = tokio::select! {
        opened = opening => opened,
        () = lane.stopped() => return Err(Ending::Stopped),
    };
    drop(permit);
    opened.unwrap_or_else(|_| Err(Ending::Failed(format!("not ready within {} s", limit.as_secs_f64()))))
}

async fn become_ready(
    lane: &Rc<Lane>,
    index: usize,
    target: usize,
    attempt: u32,
    due_ns: u64,
) -> Result<Wire, Ending> {
    let shared = &lane.shared;
    let failed = |reason: &dyn std::fmt::Display| Ending::Failed(reason.to_string());
    let number = lane.number_of(index);
    let target = &shared.plan.targets[target];
    let first_channel = shared.plan.channels_of(number).next().unwrap_or(0);
    let path = shared.dialect.path(
        shared.plan.arguments.access.transport,
        &target.path,
        shared.ledger.name(first_channel),
    );
    let token = shared.tokens.of(&format!("load-{number}"));
    let token = token.as_deref();
    let bearer = token.filter(|_| shared.dialect.shows_token_in_header());

    let entry = Entry { path: &path, bearer };
    let mut wire = connect(&shared.plan, target, number, entry).await.map_err(|error| failed(&error))?;
    let messages = {
        let books = &mut lane.books.borrow_mut();
        books.tally.opened += 1;
        books.tally.compressed += u64::from(wire.is_compressed());
        books.open.record(now_ns().saturating_sub(due_ns));
        let subscriber = &mut lane.subscribers.borrow_mut()[index];
        let messages = subscriber.begin(shared, token);
        shared.dialect.opened(|event| {
            subscriber.hear(event, shared, books);
        });
        messages
    };
    wire.send(&messages).await.map_err(|error| failed(&error))?;
    while !lane.subscribers.borrow()[index].is_ready() {
        match wire.next().await {
            Ok(Incoming::Message(kind, message)) => {
                hear(lane, index, &mut wire, kind, &message).await.map_err(|error| match error {
                    Trouble::Wire(error) => failed(&error),
                    Trouble::Refused(reason) => Ending::Failed(reason),
                })?;
            }
            Ok(Incoming::Close { code, reason }) => return Err(Ending::Failed(close_reason(code, &reason))),
            Err(error) => return Err(failed(&error)),
        }
    }
    let books = &mut lane.books.borrow_mut();
    books.tally.ready += 1;
    books.ready.record(now_ns().saturating_sub(due_ns));
    if attempt == 0 {
        lane.settle_one();
    }
    Ok(wire)
}

async fn listen(lane: &Rc<Lane>, index: usize, mut wire: Wire) -> Ending {
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
                // Whether the goodbye still reaches the server changes nothing for the account.
                let _ = timeout(GOODBYE, wire.close()).await;
                return Ending::Stopped;
            }
        };
        let trouble = match incoming {
            Ok(Incoming::Message(kind, message)) => hear(lane, index, &mut wire, kind, &message).await.err(),
            Ok(Incoming::Close { code, reason }) => {
                let comes_back = Disconnect { code, reason: "".into() }.invites_reconnect();
                return Ending::Lost { reason: close_reason(code, &reason), comes_back };
            }
            Err(error) => Some(Trouble::Wire(error)),
        };
        match trouble {
            None => {}
            Some(Trouble::Wire(error)) => {
                return Ending::Lost { reason: error.to_string(), comes_back: true };
            }
            Some(Trouble::Refused(reason)) => return Ending::Lost { reason, comes_back: true },
        }
    }
}

/// Does not read until all slow readers are woken, and then sees what is left of the connection.
async fn doze(lane: &Rc<Lane>, mut wire: Wire) -> Ending {
    lane.shared.dozing.fetch_add(1, Ordering::Relaxed);
    let phase = lane.until(|phase| matches!(phase, Phase::Awake | Phase::Stopping)).await;
    if phase == Phase::Awake {
        let end = loop {
            match timeout(QUIET, wire.next()).await {
                Err(_) => break "still open".to_owned(),
                Ok(Ok(Incoming::Message(..))) => {}
                Ok(Ok(Incoming::Close { code, reason })) => break close_reason(code, &reason),
                Ok(Err(error)) => break error.to_string(),
            }
        };
        lane.books.borrow_mut().tally.slow_ends.count(end);
    }
    lane.shared.dozing.fetch_sub(1, Ordering::Relaxed);
    lane.stopped().await;
    // Whether the goodbye still reaches the server changes nothing.
    let _ = timeout(GOODBYE, wire.close()).await;
    Ending::Stopped
}

enum Trouble {
    Wire(WireError),
    Refused(String),
}

/// Accounts for one message, and sends what it asks for.
async fn hear(
    lane: &Rc<Lane>,
    index: usize,
    wire: &mut Wire,
    kind: shared::framing::MessageKind,
    message: &bytes::Bytes,
) -> Result<(), Trouble> {
    let mut answers = Vec::new();
    let mut refused = None;
    {
        let books = &mut *lane.books.borrow_mut();
        let subscriber = &mut lane.subscribers.borrow_mut()[index];
        let malformed = lane.shared.dialect.hear(kind, message, |event: Event<'_>| {
            match subscriber.hear(event, &lane.shared, books) {
                Reaction::Nothing => {}
                Reaction::Answer(answer) => answers.push(answer),
                Reaction::Send(messages) => answers.extend(messages),
                Reaction::GiveUp(reason) => refused = Some(reason),
            }
        });
        books.tally.malformed += malformed;
    }
    if let Some(reason) = refused {
        return Err(Trouble::Refused(reason));
    }
    if answers.is_empty() { Ok(()) } else { wire.send(&answers).await.map_err(Trouble::Wire) }
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
