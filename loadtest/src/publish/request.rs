//! The HTTP requests that publish, and what their answers mean.

use hyper::header::CONTENT_TYPE;
use hyper::http::request::Builder;
use hyper::{Request, StatusCode};
use serde::Deserialize;

use crate::dialect::Dialect;

/// For publications of one moment: channels, and payloads in JSON. `base` is the path that the user gave the API. Returns
/// the request without its body, the body, and whether the status of the answer says it all.
pub(super) fn request(
    dialect: &Dialect,
    base: &str,
    key: Option<&str>,
    publications: &[(&str, String)],
) -> (Builder, String, bool) {
    if let (Dialect::Template(template), [(channel, payload)]) = (dialect, publications)
        && let Some(publish) = &template.publish
    {
        let (path, body) = publish.publication(channel, payload);
        let request = Request::builder().method(publish.method.as_str()).uri(path);
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
    let path = format!("{}/{call}", base.trim_end_matches('/'));
    let request = Request::post(path).header(CONTENT_TYPE, "application/json");
    (key.into_iter().fold(request, |request, key| request.header("x-api-key", key)), body, false)
}

/// What became of each of `count` publications.
pub(super) fn read_answer(
    by_status: bool,
    count: usize,
    status: StatusCode,
    body: &[u8],
) -> Vec<Result<(), String>> {
    let all = |outcome: Result<(), String>| vec![outcome; count];
    if by_status && status.is_success() {
        return all(Ok(()));
    }
    if status != StatusCode::OK {
        return all(Err(format!("HTTP {}", status.as_u16())));
    }
    match serde_json::from_slice::<Answer>(body) {
        Err(_) => all(Err("an answer that is not of the API".to_owned())),
        Ok(answer) if count == 1 || answer.error.is_some() => all(answer.outcome()),
        Ok(answer) if answer.replies.len() == count => {
            answer.replies.into_iter().map(Answer::outcome).collect()
        }
        Ok(_) => all(Err("an answer with another number of replies".to_owned())),
    }
}

/// Of a request, or of one of its commands.
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
    fn outcome(self) -> Result<(), String> {
        self.error.map_or(Ok(()), |refusal| Err(format!("error {} {}", refusal.code, refusal.message)))
    }
}

fn object(channel: &str, payload: &str) -> String {
    // A channel name can hold what JSON escapes; the payload is JSON already.
    format!("{{\"channel\":{},\"data\":{payload}}}", serde_json::Value::from(channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_publication_is_published_and_several_go_as_a_batch() {
        let one = ("a\"b", "{\"x\":1}".to_owned());
        let (head, body, by_status) =
            request(&Dialect::Centrifuge, "/api/", Some("k"), std::slice::from_ref(&one));
        assert_eq!((head.uri_ref().unwrap().path(), by_status), ("/api/publish", false));
        assert_eq!(body, "{\"channel\":\"a\\\"b\",\"data\":{\"x\":1}}");
        assert_eq!(head.headers_ref().unwrap()["x-api-key"], "k");
        let (head, body, _) = request(&Dialect::Centrifuge, "/api", None, &[one.clone(), one]);
        assert_eq!(head.uri_ref().unwrap().path(), "/api/batch");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["commands"][1]["publish"]["data"]["x"], 1);
    }

    #[test]
    fn only_an_answer_without_an_error_confirms() {
        let read = |by_status, count, status: u16, body: &str| {
            read_answer(by_status, count, StatusCode::from_u16(status).unwrap(), body.as_bytes())
        };
        let refused = || Err("error 102 unknown channel".to_owned());
        let refusal = "{\"error\":{\"code\":102,\"message\":\"unknown channel\"}}";
        assert_eq!(read(false, 1, 200, "{\"result\":{\"offset\":1}}"), [Ok(())]);
        assert_eq!(read(false, 1, 200, refusal), [refused()]);
        let replies = format!("{{\"replies\":[{{\"publish\":{{}}}},{refusal}]}}");
        assert_eq!(read(false, 2, 200, &replies), [Ok(()), refused()]);
        assert_eq!(read(false, 2, 200, refusal), [refused(), refused()]);
        assert!(read(false, 2, 200, "{\"replies\":[]}").iter().all(Result::is_err));
        assert!(read(false, 1, 200, "<html>").iter().all(Result::is_err));
        assert_eq!(read(true, 2, 202, "queued messages: 0"), [Ok(()), Ok(())]);
        assert_eq!(read(true, 1, 403, "")[0], Err("HTTP 403".to_owned()));
    }
}
