//! The HTTP requests that publish, and what their answers mean.

use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Builder;
use serde::Deserialize;

use crate::connect::Dialer;
use crate::dialect::Dialect;
use crate::failure::Failure;

/// Makes the request that publishes payloads (JSON) to channels. Returns the request without its body, the body, and
/// whether the status of the answer alone is the outcome.
pub(super) fn request(
    dialect: &Dialect,
    api: &Dialer,
    key: Option<&str>,
    publications: &[(&str, String)],
) -> (Builder, String, bool) {
    if let (Dialect::Template(template), [(channel, payload)]) = (dialect, publications)
        && let Some(publish) = &template.publish
    {
        let (path, body) = publish.publication(channel, payload);
        let request = api.request(&publish.method, &path);
        let headers = publish.headers.iter();
        return (headers.fold(request, |request, (name, value)| request.header(name, value)), body, true);
    }
    let (call, body) = match publications {
        [(channel, payload)] => ("publish", object(channel, payload)),
        several => {
            let publish =
                |(channel, payload): &(&str, String)| format!("{{\"publish\":{}}}", object(channel, payload));
            let commands: Vec<String> = several.iter().map(publish).collect();
            ("batch", format!("{{\"commands\":[{}]}}", commands.join(",")))
        }
    };
    let path = format!("{}/{call}", api.path().trim_end_matches('/'));
    let request = api.request("POST", &path).header(CONTENT_TYPE, "application/json");
    (key.into_iter().fold(request, |request, key| request.header("x-api-key", key)), body, false)
}

/// Returns the outcome of each of `count` publications.
pub(super) fn read_answer(
    by_status: bool,
    count: usize,
    status: StatusCode,
    body: &[u8],
) -> Vec<Result<(), Failure>> {
    let all = |outcome: Result<(), Failure>| vec![outcome; count];
    if by_status && status.is_success() {
        return all(Ok(()));
    }
    if status != StatusCode::OK {
        return all(Err(Failure(format!("HTTP {}", status.as_u16()))));
    }
    match serde_json::from_slice::<Answer>(body) {
        Err(_) => all(Err("an answer that is not of the API".into())),
        Ok(answer) if count == 1 || answer.error.is_some() => all(answer.outcome()),
        Ok(answer) if answer.replies.len() == count => {
            answer.replies.into_iter().map(Answer::outcome).collect()
        }
        Ok(_) => all(Err("an answer with another number of replies".into())),
    }
}

/// The answer to a request, or to one command of a batch.
#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(default)]
    replies: Vec<Answer>,
}

#[derive(Deserialize)]
struct Refusal {
    code: u32,
    #[serde(default)]
    message: String,
}

impl Answer {
    fn outcome(self) -> Result<(), Failure> {
        self.error
            .map_or(Ok(()), |refusal| Err(Failure(format!("error {} {}", refusal.code, refusal.message))))
    }
}

fn object(channel: &str, payload: &str) -> String {
    // A channel name can hold characters that JSON escapes; the payload is JSON already.
    format!("{{\"channel\":{},\"data\":{payload}}}", serde_json::Value::from(channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_without_an_error_confirms() {
        let read = |by_status, count, status: u16, body: &str| {
            read_answer(by_status, count, StatusCode::from_u16(status).unwrap(), body.as_bytes())
        };
        let refused = || Err("error 102 unknown channel".into());
        let refusal = "{\"error\":{\"code\":102,\"message\":\"unknown channel\"}}";
        assert_eq!(read(false, 1, 200, "{\"result\":{\"offset\":1}}"), [Ok(())]);
        assert_eq!(read(false, 1, 200, refusal), [refused()]);
        let replies = format!("{{\"replies\":[{{\"publish\":{{}}}},{refusal}]}}");
        assert_eq!(read(false, 2, 200, &replies), [Ok(()), refused()]);
        assert_eq!(read(false, 2, 200, refusal), [refused(), refused()]);
        assert!(read(false, 2, 200, "{\"replies\":[]}").iter().all(Result::is_err));
        assert!(read(false, 1, 200, "<html>").iter().all(Result::is_err));
        assert_eq!(read(true, 2, 202, "queued messages: 0"), [Ok(()), Ok(())]);
        assert_eq!(read(true, 1, 403, "")[0], Err("HTTP 403".into()));
    }
}
