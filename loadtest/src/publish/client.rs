//! Publishes through a client connection, without waiting for one answer before the next publication.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::iter::Peekable;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use shared::framing::MessageKind;
use tokio::time::{sleep, timeout};

use super::{ANSWER_TIMEOUT, Issued, Publisher};
use crate::clock::{Alarm, now_ns};
use crate::dialect::Event;
use crate::receive::{Account, next_message};
use crate::schedule::Due;
use crate::subscriber::Subscriber;
use crate::wire::Wire;

/// Wait before a lost publisher connects again. What becomes due meanwhile is sent late, and counts as late.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Publications that wait for their answer, oldest first, by the id they were sent with.
type Unanswered = VecDeque<(u32, Issued)>;

pub(super) async fn run(publisher: Rc<Publisher>, number: u32) {
    let Ok(alarm) = Alarm::new() else {
        publisher.books.borrow_mut().failures.count("out of file descriptors");
        return;
    };
    let mut share = publisher.share(number).peekable();
    while share.peek().is_some() {
        let mut unanswered = Unanswered::new();
        let life = async {
            let limit = publisher.shared.plan.arguments.connections.connect_timeout;
            let user = format!("load-publisher-{number}");
            // It subscribes to nothing, and counts as no connection of the run.
            let subscribers = RefCell::new(vec![Subscriber::new(std::iter::empty(), false)]);
            let books = RefCell::default();
            let account =
                Account { shared: &publisher.shared, subscribers: &subscribers, index: 0, books: &books };
            let target = publisher.shared.plan.first_target(number);
            let opening = timeout(limit.duration(), account.become_ready(target, number, &user, now_ns()));
            let late = |_| Err(format!("publisher not connected within {} s", limit.0));
            let wire = opening.await.unwrap_or_else(late)?;
            let answers_pings = account.with(|subscriber, _| subscriber.answers_pings());
            publish(&publisher, wire, answers_pings, &alarm, &mut share, &mut unanswered).await
        };
        let ended = tokio::select! {
            ended = life => ended,
            () = publisher.stopped() => {
                for (_, issued) in unanswered {
                    publisher.shared.ledger.note_failure(issued.due.channel, issued.sequence);
                }
                return;
            }
        };
        let Err(reason) = ended else { return };
        if unanswered.is_empty() {
            publisher.books.borrow_mut().failures.count(&reason);
        }
        for (_, issued) in unanswered {
            publisher.fail(issued, &reason);
        }
        tokio::select! {
            () = sleep(RECONNECT_PAUSE) => {}
            () = publisher.stopped() => return,
        }
    }
}

/// Sends what is due and takes the answers, until both are done.
async fn publish(
    publisher: &Publisher,
    mut wire: Wire,
    answers_pings: bool,
    alarm: &Alarm,
    share: &mut Peekable<impl Iterator<Item = Due>>,
    unanswered: &mut Unanswered,
) -> Result<(), String> {
    let dialect = &publisher.shared.dialect;
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
            let channel = publisher.shared.ledger.name(due.channel);
            batch.push(dialect.publish(next_id, channel, publisher.payload(issued)));
            if dialect.answers_publications() {
                unanswered.push_back((next_id, issued));
            } else {
                unanswerable.push(issued);
            }
            next_id = (next_id + 1) % (1 << 30);
        }
        if !batch.is_empty() {
            let sent = wire.send(&batch).await.map_err(|error| error.to_string());
            for issued in unanswerable {
                // Nothing more will ever be known about them.
                match &sent {
                    Ok(()) => publisher.confirm(issued),
                    Err(reason) => publisher.fail(issued, reason),
                }
            }
            sent?;
        }
        let next_ns = share.peek().map(|due| due.at_ns);
        if next_ns.is_none() && unanswered.is_empty() {
            // The server must have read everything before the connection goes, which its close frame says.
            let _ = wire.close().await;
            while let Ok(Ok(_)) = timeout(ANSWER_TIMEOUT, next_message(&mut wire)).await {}
            return Ok(());
        }
        let has_room = unanswered.len() < window;
        let oldest_ns = unanswered.front().map(|(_, issued)| issued.due.at_ns);
        tokio::select! {
            message = next_message(&mut wire) => {
                let (kind, message) = message?;
                let pinged = take_answers(publisher, unanswered, kind, &message);
                if let Some(pong) = dialect.pong().filter(|_| pinged && answers_pings) {
                    wire.send(&[pong.to_owned()]).await.map_err(|error| error.to_string())?;
                }
            }
            waited = alarm.wait_until(next_ns.unwrap_or(u64::MAX / 2)), if has_room && next_ns.is_some() => {
                waited.map_err(|error| error.to_string())?;
            }
            () = sleep(ANSWER_TIMEOUT), if oldest_ns.is_some() => {
                return Err("no answer in time".to_owned());
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
    let mut take = |id| {
        let index = unanswered.iter().position(|(sent, _)| *sent == id)?;
        unanswered.remove(index).map(|(_, issued)| issued)
    };
    publisher.shared.dialect.hear(kind, message, |event| match event {
        Event::Done { id } => {
            if let Some(issued) = take(id) {
                publisher.confirm(issued);
            }
        }
        Event::Refused { id, reason } => {
            if let Some(issued) = take(id) {
                publisher.fail(issued, &reason);
            }
        }
        Event::Ping => pinged = true,
        // A bare connection hears its own channel.
        Event::Welcome { .. }
        | Event::Confirmed { .. }
        | Event::Publication(_)
        | Event::Unsubscribed { .. } => {}
    });
    pinged
}
