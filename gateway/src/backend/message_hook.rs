//! The message hook of raw endpoints: a client's message becomes the body of a request, and the response goes back to it.

use gateway_core::effect::Denial;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use shared::id::{ClientId, UserId};
use shared::publication::{Payload, PayloadKind};

use super::client::HookResponse;
use super::failure::HookFailure;
use super::hook::{ClientOrigin, Hook};

/// The sender of a message, and its channel. Names are percent-encoded where a header could not hold them.
const CLIENT: &str = "tidegate-client";
const USER: &str = "tidegate-user";
const CHANNEL: &str = "tidegate-channel";
/// The content type of binary messages.
const BINARY: &str = "application/octet-stream";
/// The characters that a header's value cannot hold, or that decoding would change.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

/// A client's message and the channel of its raw endpoint, if there is one.
#[derive(Clone, Debug)]
pub struct BareMessage<'a> {
    pub client: ClientId,
    pub user: &'a UserId,
    pub channel: &'a str,
    pub data: Payload,
}

/// Sends a message to the backend, and returns the reply for the sender, if there is one.
pub(super) async fn send(
    hook: &Hook,
    origin: &ClientOrigin,
    sent: BareMessage<'_>,
) -> Result<Option<Payload>, Denial> {
    let BareMessage { client, user, channel, data } = sent;
    let kind = match data.kind {
        PayloadKind::Json => "application/json",
        PayloadKind::Text => "text/plain; charset=utf-8",
        PayloadKind::Binary => BINARY,
    };
    let mut headers: HeaderMap = hook.headers_for(origin);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let values = [client.to_string(), encoded(user.as_str()), encoded(channel)];
    for (name, value) in [CLIENT, USER, CHANNEL].into_iter().zip(&values) {
        headers.insert(name, HeaderValue::from_str(value).expect("what no header holds is encoded"));
    }
    let signed: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
    let answered = hook.exchange(headers, &signed, data.bytes, read).await;
    match answered {
        Ok(answer) => {
            hook.answered();
            Ok(answer)
        }
        Err(failure) => Err(hook.denied(&failure)),
    }
}

fn encoded(name: &str) -> String {
    utf8_percent_encode(name, ENCODED).to_string()
}

fn read(answer: HookResponse) -> Result<Option<Payload>, HookFailure> {
    match answer.status {
        StatusCode::NO_CONTENT => Ok(None),
        StatusCode::OK if answer.body.is_empty() => Ok(None),
        StatusCode::OK => Ok(Some(payload(answer))),
        status => Err(HookFailure::Status(status)),
    }
}

/// Converts a response. The content type tells binary from text; what is not UTF-8 is binary in any case.
fn payload(answer: HookResponse) -> Payload {
    let kind = answer.content_type.as_ref().map(HeaderValue::as_bytes).unwrap_or_default();
    if kind.starts_with(BINARY.as_bytes()) {
        Payload::binary(answer.body)
    } else {
        Payload::of_unknown(answer.body)
    }
}
