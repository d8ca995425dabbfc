//! Sends publications to the server API, several in one request, and again after a lost connection.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use shared::protocol::centrifuge::json::write_string;

use super::read_lines::InputItem;
use crate::exchange::exchange;
use crate::secret::Secret;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The time without an answer after which the user is told that there is none.
const SILENCE: Duration = Duration::from_secs(1);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Why publishing cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("{0:?} is not a URL of a server API, such as http://127.0.0.1:8000/api")]
    Url(String),
    #[error("only http URLs are supported, not {0}")]
    Scheme(String),
    #[error("the API key has characters that a header cannot carry")]
    Key,
    #[error("the gateway answered {0}: {1}")]
    Refused(StatusCode, String),
    #[error("the gateway has not answered for {} s: {last}", .after.as_secs())]
    Unreachable { after: Duration, last: String },
    #[error("the gateway's answer cannot be read: {0}")]
    Answer(String),
}

/// The error of one attempt.
enum AttemptError {
    /// The next attempt may succeed.
    Passing(String),
    Lasting(SendError),
}

/// The result of one publication: `Err` is the gateway's reason for refusing it.
pub(super) type PublishOutcome = Result<(), String>;

pub(super) struct PublishClient {
    client: Client<HttpConnector, Full<Bytes>>,
    url: Uri,
    key: http::HeaderValue,
    retry_for: Duration,
    /// The start of every idempotency key, so that no other run has the same keys.
    run: Option<String>,
    sent: u64,
    pub(super) retries: u64,
}

/// Returns the URL for batches, below the URL of the API. A URL without a path stands for `/api`.
fn batch_url(url: &str) -> Result<Uri, SendError> {
    let invalid = |_| SendError::Url(url.to_owned());
    let given: Uri = url.parse().map_err(invalid)?;
    let api = if given.path() == "/" && given.scheme().is_some() { "/api" } else { "" };
    format!("{}{api}/batch", url.trim_end_matches('/')).parse().map_err(invalid)
}

impl PublishClient {
    /// Creates a client. `with_keys`: give each publication an idempotency key, so that a request whose answer was lost
    /// can be sent again without publishing twice.
    pub(super) fn new(
        url: &str,
        key: &Secret,
        retry_for: Duration,
        with_keys: bool,
    ) -> Result<Self, SendError> {
        let url = batch_url(url)?;
        match url.scheme_str() {
            Some("http") => {}
            Some(other) => return Err(SendError::Scheme(other.to_owned())),
            None => return Err(SendError::Url(url.to_string())),
        }
        let mut key = http::HeaderValue::from_str(key.reveal()).map_err(|_| SendError::Key)?;
        key.set_sensitive(true);
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(REQUEST_TIMEOUT));
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            url,
            key,
            retry_for,
            run: with_keys.then(|| uuid::Uuid::new_v4().simple().to_string()),
            sent: 0,
            retries: 0,
        })
    }

    /// Publishes all items, in order for each channel, and returns the outcomes in the order of the items. `complain`
    /// is called at once, and only once, when the gateway does not answer, because the retries may take long.
    pub(super) async fn send(
        &mut self,
        items: &[InputItem],
        complain: &mut impl FnMut(&str),
    ) -> Result<Vec<PublishOutcome>, SendError> {
        let body = self.body(items);
        self.sent += items.len() as u64;
        let begun = Instant::now();
        let mut backoff = BACKOFF_MIN;
        let mut has_complained = false;
        loop {
            let answered = {
                let mut request = std::pin::pin!(self.request(body.clone(), items.len()));
                match tokio::time::timeout(SILENCE, &mut request).await {
                    Ok(answered) => answered,
                    Err(_) => {
                        self.report_problem(&mut has_complained, "no answer has arrived", complain);
                        request.await
                    }
                }
            };
            let last = match answered {
                Ok(outcomes) => {
                    if has_complained {
                        complain(&format!(
                            "{}: published after {} ms; it answers again",
                            self.url,
                            begun.elapsed().as_millis()
                        ));
                    }
                    return Ok(outcomes);
                }
                Err(AttemptError::Lasting(error)) => return Err(error),
                Err(AttemptError::Passing(problem)) => problem,
            };
            self.report_problem(&mut has_complained, &last, complain);
            let after = begun.elapsed();
            // The last attempt is at the end of the time, however long the backoff is by then.
            let left = self.retry_for.saturating_sub(after);
            if left.is_zero() {
                return Err(SendError::Unreachable { after, last });
            }
            self.retries += 1;
            tokio::time::sleep(backoff.mul_f64(rand::random_range(0.5..1.0)).min(left)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn report_problem(&self, has_complained: &mut bool, problem: &str, complain: &mut impl FnMut(&str)) {
        if !std::mem::replace(has_complained, true) {
            let (url, seconds) = (&self.url, self.retry_for.as_secs());
            complain(&format!("{url}: {problem}; trying for up to {seconds} s (--retry-s)"));
        }
    }

    async fn request(&self, body: Bytes, count: usize) -> Result<Vec<PublishOutcome>, AttemptError> {
        let request = Request::post(&self.url)
            .header("X-API-Key", &self.key)
            .header("Content-Type", "application/json")
            .body(Full::new(body))
            .map_err(|_| AttemptError::Lasting(SendError::Url(self.url.to_string())))?;
        let exchange = exchange(&self.client, request, ANSWER_BYTES_MAX);
        let (status, answer) = match tokio::time::timeout(REQUEST_TIMEOUT, exchange).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(problem)) => return Err(AttemptError::Passing(problem)),
            Err(_) => {
                return Err(AttemptError::Passing(format!(
                    "no answer within {} s",
                    REQUEST_TIMEOUT.as_secs()
                )));
            }
        };
        if status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT
        {
            return Err(AttemptError::Passing(format!("the gateway answers {status}")));
        }
        if status != StatusCode::OK {
            return Err(AttemptError::Lasting(SendError::Refused(status, error_in(&answer))));
        }
        outcomes(&answer, count).map_err(AttemptError::Lasting)
    }

    fn body(&self, items: &[InputItem]) -> Bytes {
        let room = items.iter().map(|item| item.channel.len() + item.data.len() + 128).sum();
        let mut body = bytes::BytesMut::with_capacity(room);
        body.extend_from_slice(b"{\"commands\":[");
        for (index, item) in items.iter().enumerate() {
            body.extend_from_slice(if index == 0 { b"{\"publish\":{" } else { b",{\"publish\":{" });
            body.extend_from_slice(b"\"channel\":");
            write_string(&item.channel, &mut body);
            if let Some(run) = &self.run {
                body.extend_from_slice(b",\"idempotency_key\":");
                write_string(&format!("{run}:{}", self.sent + index as u64), &mut body);
            }
            body.extend_from_slice(b",\"data\":");
            body.extend_from_slice(&item.data);
            body.extend_from_slice(b"}}");
        }
        body.extend_from_slice(b"]}");
        body.freeze()
    }
}

#[derive(Deserialize)]
struct Replies {
    replies: Vec<PublishReply>,
}

#[derive(Deserialize)]
struct PublishReply {
    error: Option<PublishErrorBody>,
}

#[derive(Deserialize)]
struct PublishErrorBody {
    code: u32,
    message: String,
}

fn outcomes(answer: &[u8], count: usize) -> Result<Vec<PublishOutcome>, SendError> {
    let replies: Replies =
        serde_json::from_slice(answer).map_err(|error| SendError::Answer(error.to_string()))?;
    if replies.replies.len() != count {
        let problem = format!("{} replies to {count} publications", replies.replies.len());
        return Err(SendError::Answer(problem));
    }
    let outcome = |reply: PublishReply| match reply.error {
        None => Ok(()),
        Some(complaint) => Err(format!("{} ({})", complaint.message, complaint.code)),
    };
    Ok(replies.replies.into_iter().map(outcome).collect())
}

/// Returns the message of an error answer, as far as it is text.
fn error_in(answer: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Whole {
        error: PublishErrorBody,
    }
    match serde_json::from_slice::<Whole>(answer) {
        Ok(Whole { error }) => error.message,
        Err(_) => String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_go_below_the_address_of_the_api_which_need_not_be_spelled_out() {
        for given in
            ["http://host:8000", "http://host:8000/", "http://host:8000/api", "http://host:8000/api/"]
        {
            assert_eq!(batch_url(given).unwrap().to_string(), "http://host:8000/api/batch", "{given}");
        }
        assert_eq!(batch_url("http://host/a/b").unwrap().to_string(), "http://host/a/b/batch");
        assert!(matches!(batch_url("host port"), Err(SendError::Url(_))));
    }
}
