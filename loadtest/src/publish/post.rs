//! The HTTP requests that publish, and what their answers mean.

use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;

use crate::dialect::Dialect;

/// One request.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Post {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

/// How the outcome stands in an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AnswerForm {
    /// By the status alone.
    Status,
    /// A result or an error.
    Result,
    /// One of them for each publication.
    Replies,
}

impl Post {
    /// For publications of one moment: channels, and payloads in JSON. `base` is the path that the user gave the API.
    pub(super) fn new(
        dialect: &Dialect,
        base: &str,
        key: Option<&str>,
        publications: &[(&str, String)],
    ) -> (Self, AnswerForm) {
        if let (Dialect::Template(template), [(channel, payload)]) = (dialect, publications)
            && let Some(publish) = &template.publish
        {
            let (path, body) = publish.publication(channel, payload);
            let headers = publish.headers.iter();
            let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
            let method = publish.method.clone();
            return (Self { method, path, headers, body }, AnswerForm::Status);
        }
        let mut headers = vec![(CONTENT_TYPE.to_string(), "application/json".to_owned())];
        headers.extend(key.map(|key| ("x-api-key".to_owned(), key.to_owned())));
        let (call, body, form) = match publications {
            [(channel, payload)] => ("publish", object(channel, payload), AnswerForm::Result),
            several => {
                let commands: Vec<String> = several
                    .iter()
                    .map(|(channel, payload)| format!("{{\"publish\":{}}}", object(channel, payload)))
                    .collect();
                ("batch", format!("{{\"commands\":[{}]}}", commands.join(",")), AnswerForm::Replies)
            }
        };
        let path = format!("{}/{call}", base.trim_end_matches('/'));
        (Self { method: "POST".to_owned(), path, headers, body }, form)
    }
}

/// What became of each of `count` publications.
pub(super) fn read_answer(
    form: AnswerForm,
    count: usize,
    status: StatusCode,
    body: &[u8],
) -> Vec<Result<(), String>> {
    let all = |outcome: Result<(), String>| vec![outcome; count];
    if form == AnswerForm::Status && status.is_success() {
        return all(Ok(()));
    }
    if status != StatusCode::OK {
        return all(Err(format!("HTTP {}", status.as_u16())));
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return all(Err("an answer that is not of the API".to_owned()));
    };
    if form == AnswerForm::Replies && answer.error.is_none() {
        if answer.replies.len() != count {
            return all(Err("an answer with another number of replies".to_owned()));
        }
        return answer.replies.into_iter().map(|reply| outcome(reply.error)).collect();
    }
    all(outcome(answer.error))
}

#[derive(serde::Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(default)]
    replies: Vec<Reply>,
}

#[derive(serde::Deserialize)]
struct Reply {
    error: Option<Refusal>,
}

#[derive(serde::Deserialize)]
struct Refusal {
    code: u32,
    #[serde(default)]
    message: String,
}

fn outcome(error: Option<Refusal>) -> Result<(), String> {
    error.map_or(Ok(()), |refusal| Err(format!("error {} {}", refusal.code, refusal.message)))
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
        let (post, form) = Post::new(&Dialect::Centrifuge, "/api/", Some("k"), std::slice::from_ref(&one));
        assert_eq!((post.path.as_str(), form), ("/api/publish", AnswerForm::Result));
        assert_eq!(post.body, "{\"channel\":\"a\\\"b\",\"data\":{\"x\":1}}");
        assert_eq!(post.headers[1], ("x-api-key".to_owned(), "k".to_owned()));
        let (post, form) = Post::new(&Dialect::Centrifuge, "/api", None, &[one.clone(), one]);
        assert_eq!((post.path.as_str(), form), ("/api/batch", AnswerForm::Replies));
        let body: serde_json::Value = serde_json::from_str(&post.body).unwrap();
        assert_eq!(body["commands"][1]["publish"]["data"]["x"], 1);
    }

    #[test]
    fn only_an_answer_without_an_error_confirms() {
        let read = |form, status: u16, body: &str| {
            read_answer(form, 2, StatusCode::from_u16(status).unwrap(), body.as_bytes())
        };
        let refused = || Err("error 102 unknown channel".to_owned());
        let refusal = "{\"error\":{\"code\":102,\"message\":\"unknown channel\"}}";
        assert_eq!(read(AnswerForm::Result, 200, "{\"result\":{\"offset\":1}}"), [Ok(()), Ok(())]);
        assert_eq!(read(AnswerForm::Result, 200, refusal), [refused(), refused()]);
        let replies = format!("{{\"replies\":[{{\"publish\":{{}}}},{refusal}]}}");
        assert_eq!(read(AnswerForm::Replies, 200, &replies), [Ok(()), refused()]);
        assert_eq!(read(AnswerForm::Replies, 200, refusal), [refused(), refused()]);
        assert!(read(AnswerForm::Replies, 200, "{\"replies\":[]}").iter().all(Result::is_err));
        assert!(read(AnswerForm::Result, 200, "<html>").iter().all(Result::is_err));
        assert_eq!(read(AnswerForm::Status, 202, "queued messages: 0"), [Ok(()), Ok(())]);
        assert_eq!(read(AnswerForm::Status, 403, "")[0], Err("HTTP 403".to_owned()));
    }
}
