//! Publishes by HTTP: one request after the other on a connection that is kept alive.

use std::iter::Peekable;
use std::rc::Rc;

use http_body_util::Full;
use hyper::header::HOST;
use tokio::time::timeout;

use super::request::{read_answer, request};
use super::{ANSWER_TIMEOUT, Issued, Publisher};
use crate::clock::{Alarm, now_ns};
use crate::http::HttpConnection;
use crate::plan::Target;
use crate::schedule::Due;

pub(super) async fn run(publisher: Rc<Publisher>, number: u32) {
    let Ok(alarm) = Alarm::new() else {
        publisher.books.borrow_mut().failures.count("out of file descriptors");
        return;
    };
    let mut api = ApiConnection { first: number as usize, open: None };
    let mut share = publisher.share(number).peekable();
    loop {
        let due = tokio::select! {
            due = next(&publisher, &alarm, &mut share) => due,
            () = publisher.stopped() => return,
        };
        if due.is_empty() {
            return;
        }
        let issued: Vec<Issued> = due.into_iter().map(|due| publisher.issue(due)).collect();
        let posted = timeout(ANSWER_TIMEOUT, post(&mut api, &publisher, &issued));
        let outcomes = tokio::select! {
            posted = posted => posted.unwrap_or_else(|_| Err("no answer in time".to_owned())),
            () = publisher.stopped() => {
                for one in issued {
                    publisher.shared.ledger.note_failure(one.due.channel, one.sequence);
                }
                return;
            }
        };
        let outcomes = outcomes.unwrap_or_else(|reason| {
            // Whatever state the connection is in, the next publication must not inherit it.
            api.open = None;
            vec![Err(reason); issued.len()]
        });
        for (one, outcome) in issued.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => publisher.confirm(one),
                Err(reason) => publisher.fail(one, &reason),
            }
        }
    }
}

/// The publications of the next request: those that are due by then, or in a closed loop those that there is room for.
/// None when all is published.
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
    /// The address to begin with; where it takes no connection, the next one is asked.
    first: usize,
    open: Option<(HttpConnection, usize)>,
}

impl ApiConnection {
    /// The connection that is open, or a new one, and the address it is to.
    async fn get<'a>(&mut self, apis: &'a [Target]) -> Result<(&mut HttpConnection, &'a Target), String> {
        if self.open.as_ref().is_some_and(|(connection, _)| connection.is_closed()) {
            self.open = None;
        }
        let mut problem = "no address".to_owned();
        for step in 0..apis.len() {
            if self.open.is_some() {
                break;
            }
            let place = (self.first + step) % apis.len();
            match HttpConnection::open(&apis[place]).await {
                Ok(connection) => self.open = Some((connection, place)),
                Err(error) => problem = error,
            }
        }
        let (connection, place) = self.open.as_mut().ok_or(problem)?;
        Ok((connection, &apis[*place]))
    }
}

/// What became of each publication. An error means that it is not known of any.
async fn post(
    connection: &mut ApiConnection,
    publisher: &Publisher,
    issued: &[Issued],
) -> Result<Vec<Result<(), String>>, String> {
    let (connection, api) = connection.get(&publisher.shared.plan.apis).await?;
    let publications: Vec<(&str, String)> = issued
        .iter()
        .map(|one| (publisher.shared.ledger.name(one.due.channel), publisher.payload(*one)))
        .collect();
    let key = publisher.shared.plan.arguments.publications.api_key.as_deref();
    let (request, body, by_status) = request(&publisher.shared.dialect, &api.path, key, &publications);
    let request = request.header(HOST, &api.authority).body(Full::from(body));
    let request = request.map_err(|error| error.to_string())?;
    let (status, body) = connection.ask(request).await?;
    Ok(read_answer(by_status, issued.len(), status, &body))
}
