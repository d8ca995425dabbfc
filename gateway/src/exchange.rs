//! One HTTP request of the program's own commands, with the whole response, and a readable error otherwise.

use std::error::Error;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connect;

/// Returns the status and the body, which may have at most `answer_bytes_max` bytes. The caller sets a deadline.
pub(crate) async fn exchange<C: Connect + Clone + Send + Sync + 'static>(
    client: &Client<C, Full<Bytes>>,
    request: Request<Full<Bytes>>,
    answer_bytes_max: usize,
) -> Result<(StatusCode, Bytes), String> {
    let response = client.request(request).await.map_err(|error| with_causes(&error))?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), answer_bytes_max).collect().await;
    let answer = answer.map_err(|error| format!("the answer broke off: {error}"))?;
    Ok((status, answer.to_bytes()))
}

/// Formats the error with its causes: the outermost error alone says little.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("not sent")]
    struct NotSent(#[source] io::Error);

    #[test]
    fn an_error_is_told_with_what_led_to_it() {
        let error = NotSent(io::Error::other("nobody listens"));
        assert_eq!(with_causes(&error), "not sent: nobody listens");
    }
}
