//! Publishes through a client connection, without waiting for one answer before the next publication.

use std::iter::Peekable;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use shared::framing::MessageKind;
use tokio::time::{sleep, timeout};

use super::{ANSWER_TIMEOUT, Publisher, Unanswered};
use crate::clock::{Alarm, now_ns};
use crate::common::Accounts;
use crate::dialect::Event;
use crate::failure::Failure;
use crate::receive::{Account, next_message};
use crate::schedule::Due;
use crate::subscriber::Subscriber;
use crate::wire::Wire;

/// The wait before a lost publisher connects again. Publications that become due meanwhile are sent late, and count as late.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(
    publisher: &Publisher,
    number: u32,
    alarm: &Alarm,
    share: &mut Peekable<impl Iterator<Item = Due>>,
    unanswered: &mut Unanswered,
) {
    while share.peek().is_some() {
        let life = async {
            let (wire, answers_pings) = connect(publisher, number).await?;
            publish(publisher, wire, answers_pings, alarm, share, unanswered).await
        };
        let Err(failure) = life.await else { return };
        if unanswered.is_empty() {
            publisher.shared.published.lock().failures.count(&failure.0);
        }
        for (_, issued) in unanswered.drain(..) {
            publisher.settle(issued, Err(failure.clone()));
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

/// Opens a connection that subscribes to nothing and is not counted. Also returns whether the server wants its pings answered.
async fn connect(publisher: &Publisher, number: u32) -> Result<(Wire, bool), Failure> {
    let shared = &publisher.shared;
    let accounts = Mutex::new(Accounts { subscribers: vec![Subscriber::default()], ..Accounts::default() });
    let account = Account { shared, accounts: &accounts, index: 0 };
    let user = format!("load-publisher-{number}");
    let target = shared.plan.first_target(number);
    let limit = shared.plan.arguments.connections.connect_timeout;
    let opening = timeout(limit.duration(), account.become_ready(target, number, &user, now_ns()));
    let late = |_| Err(Failure(format!("publisher not connected within {} s", limit.0)));
    let wire = opening.await.unwrap_or_else(late)?;
    Ok((wire, account.with(|subscriber, _| subscriber.answers_pings())))
}

/// Sends the publications that are due and reads the answers, until all are sent and answered.
async fn publish(
    publisher: &Publisher,
    mut wire: Wire,
    answers_pings: bool,
    alarm: &Alarm,
    share: &mut Peekable<impl Iterator<Item = Due>>,
    unanswered: &mut Unanswered,
) -> Result<(), Failure> {
    let dialect = &publisher.shared.plan.dialect;
    let window = publisher.shared.plan.arguments.publications.window;
    let mut next_id = 0_u32;
    loop {
        let mut batch = Vec::new();
        let mut unanswerable = Vec::new();
        while unanswered.len() < window
            && batch.len() < window
            && let Some(due) = share.next_if(|due| due.at_ns <= now_ns())
        {
            let issued = publisher.issue(due);
            batch.push(dialect.publish(next_id, publisher.channel(issued), publisher.payload(issued)));
            if dialect.answers_publications() {
                unanswered.push_back((next_id, issued));
            } else {
                unanswerable.push(issued);
            }
            next_id = (next_id + 1) % (1 << 30);
        }
        if !batch.is_empty() {
            let sent = wire.send(&batch).await;
            for issued in unanswerable {
                // The protocol has no answer to them.
                publisher.settle(issued, sent.clone());
            }
            sent?;
        }
        let next_ns = share.peek().map(|due| due.at_ns);
        if next_ns.is_none() && unanswered.is_empty() {
            // The server's close frame says that it has read everything; the connection must not end before.
            let _ = wire.close().await;
            while let Ok(Ok(_)) = timeout(ANSWER_TIMEOUT, next_message(&mut wire)).await {}
            return Ok(());
        }
        let has_room = unanswered.len() < window;
        tokio::select! {
            message = next_message(&mut wire) => {
                let (kind, message) = message?;
                let pinged = take_answers(publisher, unanswered, kind, &message);
                if let Some(pong) = dialect.pong().filter(|_| pinged && answers_pings) {
                    wire.send(&[pong.to_owned()]).await?;
                }
            }
            waited = alarm.wait_until(next_ns.unwrap_or(u64::MAX / 2)), if has_room && next_ns.is_some() => {
                waited?;
            }
            () = sleep(ANSWER_TIMEOUT), if !unanswered.is_empty() => {
                return Err("no answer in time".into());
            }
        }
    }
}

/// Accounts for the answers in one message. Returns whether there was a ping among them.
fn take_answers(
    publisher: &Publisher,
    unanswered: &mut Unanswered,
    kind: MessageKind,
    message: &Bytes,
) -> bool {
    let mut pinged = false;
    let mut settle = |id, outcome| {
        if let Some(index) = unanswered.iter().position(|(sent, _)| *sent == id)
            && let Some((_, issued)) = unanswered.remove(index)
        {
            publisher.settle(issued, outcome);
        }
    };
    publisher.shared.plan.dialect.hear(kind, message, |event| match event {
        Event::Done { id } => settle(id, Ok(())),
        Event::Refused { id, reason } => settle(id, Err(Failure(reason))),
        Event::Ping => pinged = true,
        // A connection to the bare endpoint is subscribed to its channel.
        Event::Welcome { .. }
        | Event::Confirmed { .. }
        | Event::Publication(_)
        | Event::Unsubscribed { .. } => {}
    });
    pinged
}
