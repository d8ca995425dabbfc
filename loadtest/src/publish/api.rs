//! Publishes by HTTP: one request after the other on a connection that is kept alive.

use std::iter::Peekable;

use tokio::time::timeout;

use super::request::{read_answer, request};
use super::{ANSWER_TIMEOUT, Issued, Publisher, Unanswered};
use crate::clock::{Alarm, now_ns};
use crate::connect::Dialer;
use crate::failure::Failure;
use crate::http::{HttpConnection, RequestFailure};
use crate::plan::Target;
use crate::schedule::Due;

pub(super) async fn run(
    publisher: &Publisher,
    number: u32,
    alarm: &Alarm,
    share: &mut Peekable<impl Iterator<Item = Due>>,
    unanswered: &mut Unanswered,
) {
    let mut api = ApiConnection { first: number as usize, open: None };
    loop {
        let due = next(publisher, alarm, share).await;
        if due.is_empty() {
            return;
        }
        let issued: Vec<Issued> = due.into_iter().map(|due| publisher.issue(due)).collect();
        unanswered.extend(issued.iter().map(|one| (0, *one)));
        let posted = timeout(ANSWER_TIMEOUT, post(&mut api, publisher, &issued)).await;
        let outcomes = posted.unwrap_or_else(|_| Err("no answer in time".into()));
        let outcomes = outcomes.unwrap_or_else(|reason| {
            // The connection may be in any state, so the next publication takes a new one.
            api.open = None;
            vec![Err(reason); issued.len()]
        });
        for ((_, one), outcome) in unanswered.drain(..).zip(outcomes) {
            publisher.settle(one, outcome);
        }
    }
}

/// Waits for the publications of the next request: those that are due, or in a closed loop a whole batch. Returns none
/// when all are published.
async fn next(
    publisher: &Publisher,
    alarm: &Alarm,
    share: &mut Peekable<impl Iterator<Item = Due>>,
) -> Vec<Due> {
    let plan = &publisher.shared.plan;
    let batch = plan.arguments.publications.batch;
    let Some(first) = share.peek().copied() else { return Vec::new() };
    if alarm.wait_until(first.at_ns).await.is_err() {
        return Vec::new();
    }
    let Some(flow) = &publisher.shared.flow else {
        let now = now_ns();
        return std::iter::from_fn(|| share.next_if(|due| due.at_ns <= now)).take(batch).collect();
    };
    flow.admit(batch as u64, plan.audience()).await;
    let now = now_ns();
    if now >= publisher.schedule.end_ns() {
        return Vec::new();
    }
    share.take(batch).map(|due| Due { at_ns: now, ..due }).collect()
}

/// A publisher's connection to one of the addresses of the API.
struct ApiConnection {
    /// The address to begin with. If it accepts no connection, the next one is tried.
    first: usize,
    open: Option<(HttpConnection, Dialer)>,
}

impl ApiConnection {
    /// Returns the open connection, or a new one.
    async fn get(&mut self, apis: &[Target]) -> Result<&mut (HttpConnection, Dialer), Failure> {
        self.open = self.open.take().filter(|(connection, _)| !connection.is_closed());
        let mut problem = "no address".into();
        for target in apis.iter().cycle().skip(self.first % apis.len()).take(apis.len()) {
            if self.open.is_some() {
                break;
            }
            let dialer = Dialer::to(target);
            match dialer.open().await {
                Ok(connection) => self.open = Some((connection, dialer)),
                Err(failure) => problem = failure,
            }
        }
        self.open.as_mut().ok_or(problem)
    }
}

/// Returns the outcome of each publication. An error means that none is known. A request that the server's end of the
/// connection prevented from being sent is sent once more on a new connection.
async fn post(
    connection: &mut ApiConnection,
    publisher: &Publisher,
    issued: &[Issued],
) -> Result<Vec<Result<(), Failure>>, Failure> {
    match try_to_post(connection, publisher, issued).await {
        Err(RequestFailure { unsent: true, .. }) => {
            connection.open = None;
            try_to_post(connection, publisher, issued).await
        }
        posted => posted,
    }
    .map_err(Failure::from)
}

async fn try_to_post(
    connection: &mut ApiConnection,
    publisher: &Publisher,
    issued: &[Issued],
) -> Result<Vec<Result<(), Failure>>, RequestFailure> {
    let plan = &publisher.shared.plan;
    let (connection, dialer) = connection.get(&plan.apis).await?;
    let publications: Vec<(&str, String)> =
        issued.iter().map(|one| (publisher.channel(*one), publisher.payload(*one))).collect();
    let key = plan.arguments.publications.api_key.as_deref();
    let (request, body, by_status) = request(&plan.dialect, dialer, key, &publications);
    let (status, body) = connection.ask(request, body).await?;
    Ok(read_answer(by_status, issued.len(), status, &body))
}
