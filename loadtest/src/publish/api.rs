//! Publishes through the server API: one request after the other on a connection that is kept alive.

use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ANSWER_TIMEOUT, Publisher};
use crate::clock::Alarm;
use crate::plan::Target;

const ANSWER_BYTES_MAX: usize = 64 << 10;

pub(super) async fn run(publisher: Rc<Publisher>, number: u32) {
    let Ok(alarm) = Alarm::new() else {
        publisher.books.borrow_mut().tally.failures.count("out of file descriptors");
        return;
    };
    let apis = &publisher.shared.plan.apis;
    let api = &apis[number as usize % apis.len()];
    let mut connection = None;
    for due in publisher.share(number) {
        tokio::select! {
            waited = alarm.wait_until(due.at_ns) => if waited.is_err() { return },
            () = publisher.stopped() => return,
        }
        let issued = publisher.issue(due);
        let channel = publisher.shared.ledger.name(due.channel);
        let posted = timeout(
            ANSWER_TIMEOUT,
            post(&mut connection, &publisher, api, channel, publisher.payload(issued)),
        );
        let outcome = tokio::select! {
            outcome = posted => outcome.unwrap_or_else(|_| Err("no answer in time".to_owned())),
            () = publisher.stopped() => {
                publisher.shared.ledger.note_failure(due.channel, issued.sequence);
                return;
            }
        };
        match outcome {
            Ok(()) => publisher.confirm(issued),
            Err(reason) => {
                // Whatever state the connection is in, the next publication must not inherit it.
                connection = None;
                publisher.fail(issued, &reason);
            }
        }
    }
}

async fn post(
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    publisher: &Publisher,
    api: &Target,
    channel: &str,
    payload: String,
) -> Result<(), String> {
    if connection.as_ref().is_none_or(SendRequest::is_closed) {
        *connection = Some(open(api).await?);
    }
    let Some(sender) = connection else { return Err("no connection".to_owned()) };
    // A channel name can hold what JSON escapes; the payload is JSON already.
    let name = serde_json::to_string(channel).map_err(|error| error.to_string())?;
    let body = format!("{{\"channel\":{name},\"data\":{payload}}}");
    let mut request = Request::post(format!("{}/publish", api.path.trim_end_matches('/')))
        .header(HOST, &api.authority)
        .header(CONTENT_TYPE, "application/json");
    if let Some(key) = &publisher.shared.plan.arguments.publications.api_key {
        request = request.header("X-API-Key", key);
    }
    let request = request.body(Full::from(body)).map_err(|error| error.to_string())?;
    sender.ready().await.map_err(|error| describe(&error))?;
    let response = sender.send_request(request).await.map_err(|error| describe(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| format!("unreadable answer: {error}"))?
        .to_bytes();
    if status != StatusCode::OK {
        return Err(format!("HTTP {}", status.as_u16()));
    }
    read_answer(&body)
}

async fn open(api: &Target) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(api.address).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| describe(&error))?;
    tokio::task::spawn_local(async move {
        // Its end is told to whoever sends next.
        let _ = connection.await;
    });
    Ok(sender)
}

#[derive(serde::Deserialize)]
struct Answer {
    error: Option<Refusal>,
}

#[derive(serde::Deserialize)]
struct Refusal {
    code: u32,
    #[serde(default)]
    message: String,
}

fn read_answer(body: &[u8]) -> Result<(), String> {
    match serde_json::from_slice(body) {
        Ok(Answer { error: None }) => Ok(()),
        Ok(Answer { error: Some(refusal) }) => Err(format!("error {} {}", refusal.code, refusal.message)),
        Err(_) => Err("an answer that is not of the API".to_owned()),
    }
}

fn describe(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        "the connection was lost".to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_without_an_error_confirms() {
        assert_eq!(read_answer(b"{\"result\":{\"offset\":1,\"epoch\":\"a\"}}"), Ok(()));
        let refusal = read_answer(b"{\"error\":{\"code\":102,\"message\":\"unknown channel\"}}");
        assert_eq!(refusal, Err("error 102 unknown channel".to_owned()));
        assert!(read_answer(b"<html>").is_err());
    }
}
