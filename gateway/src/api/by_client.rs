//! Publishing by clients over HTTP: `POST /connection/publish` with the token of a connection. For clients that only
//! publish, and those that cannot hold a connection.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use gateway_core::effect::{Denial, Identity};
use gateway_core::permission::{may_publish, rights};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::channel::CHANNEL_BYTES_MAX;
use shared::error::ErrorCode;
use shared::id::ClientId;
use shared::protocol::ProtocolId;
use shared::protocol::centrifuge::json::write_string;
use shared::publication::{ClientInfo, Payload, Publication, is_too_deep};
use tokio::sync::Semaphore;

use crate::auth::Authenticator;
use crate::backend::{ClientOrigin, HookSubject};
use crate::broker::PublishRequest;
use crate::node::Node;
use crate::telemetry::labels::PublicationSource;

/// The most requests of clients served at once, apart from those of the server API. Further ones are told to come back.
const AT_ONCE_MAX: usize = 1_024;

/// The transport's name, as sent to hooks.
pub(super) const TRANSPORT: &str = "http";

/// The scheme of `Authorization: Bearer TOKEN`.
const SCHEME: &[u8] = b"bearer ";

/// Publishes for clients that send a single request.
#[derive(Debug)]
pub struct ByClient {
    authenticator: Arc<Authenticator>,
    node: Arc<Node>,
    room: Semaphore,
}

#[derive(Deserialize)]
struct ClientPublish<'a> {
    channel: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Why nothing was published: a code of the protocol, and an HTTP status.
#[derive(Debug)]
struct PublishRefusal {
    status: StatusCode,
    code: u32,
    message: String,
}

impl From<ErrorCode> for PublishRefusal {
    fn from(code: ErrorCode) -> Self {
        let status = match code {
            ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
            ErrorCode::UnknownChannel => StatusCode::NOT_FOUND,
            ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
            ErrorCode::TooManyRequests => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, code: code.code(), message: code.message().to_owned() }
    }
}

impl PublishRefusal {
    /// The token does not authenticate a user.
    fn unknown(denial: Denial) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, ..Self::denied(denial) }
    }

    /// The hook has refused, or has failed: then with the status of that error.
    fn by_hook(denial: Denial) -> Self {
        let known = match &denial {
            Denial::Error(refusal) => refusal.error_code(),
            Denial::Disconnect(_) => None,
        };
        let status = known.map_or(StatusCode::FORBIDDEN, |code| Self::from(code).status);
        Self { status, ..Self::denied(denial) }
    }

    fn denied(denial: Denial) -> Self {
        let (code, message) = match denial {
            Denial::Error(refusal) => (refusal.code, refusal.message.into_owned()),
            Denial::Disconnect(disconnect) => (u32::from(disconnect.code), disconnect.reason.into_owned()),
        };
        Self { status: StatusCode::FORBIDDEN, code, message }
    }
}

impl ByClient {
    pub fn new(authenticator: Arc<Authenticator>, node: Arc<Node>) -> Self {
        Self { authenticator, node, room: Semaphore::new(AT_ONCE_MAX) }
    }

    /// Publishes the request in the body, if the token's user could publish it over a connection without being subscribed.
    pub async fn publish(
        &self,
        headers: &HeaderMap,
        origin: &ClientOrigin,
        body: &Bytes,
    ) -> Response<Full<Bytes>> {
        let mut out = BytesMut::with_capacity(64);
        let status = match self.try_publish(headers, origin, body).await {
            Ok(()) => {
                out.put_slice(b"{\"result\":{}}");
                StatusCode::OK
            }
            Err(PublishRefusal { status, code, message }) => {
                out.put_slice(format!("{{\"error\":{{\"code\":{code},\"message\":").as_bytes());
                write_string(&message, &mut out);
                out.put_slice(b"}}");
                status
            }
        };
        let mut response = Response::new(Full::new(out.freeze()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    async fn try_publish(
        &self,
        headers: &HeaderMap,
        origin: &ClientOrigin,
        body: &Bytes,
    ) -> Result<(), PublishRefusal> {
        let _room = self.room.try_acquire().map_err(|_| ErrorCode::TooManyRequests)?;
        let token = token(headers).ok_or_else(|| PublishRefusal {
            status: StatusCode::UNAUTHORIZED,
            ..ErrorCode::Unauthorized.into()
        })?;
        let identity = self
            .authenticator
            .authenticate(self.node.clock.unix_seconds(), token)
            .wait()
            .await
            .map_err(PublishRefusal::unknown)?;
        let wanted: ClientPublish<'_> = serde_json::from_slice(body).map_err(|_| ErrorCode::BadRequest)?;
        let data = wanted.data.ok_or(ErrorCode::BadRequest)?;
        let data = body.slice_ref(data.get().as_bytes());
        if is_too_deep(&data) {
            return Err(ErrorCode::BadRequest.into());
        }
        let request = self.request(identity, origin, &wanted.channel, data).await?;
        let namespace = self.node.namespace_of(&request.channel);
        self.node.publish(request).await.map_err(|_| ErrorCode::Internal)?;
        self.node.metrics.publication_in(namespace, PublicationSource::Client);
        Ok(())
    }

    async fn request(
        &self,
        identity: Identity,
        origin: &ClientOrigin,
        channel: &str,
        data: Bytes,
    ) -> Result<PublishRequest, PublishRefusal> {
        let rules = self.node.rules();
        let channel = rules.channel(channel, CHANNEL_BYTES_MAX).map_err(|_| ErrorCode::BadRequest)?;
        if !rules.admits_name(&channel) {
            return Err(ErrorCode::BadRequest.into());
        }
        let options = rules.options(&channel).ok_or(ErrorCode::UnknownChannel)?;
        if options.is_polled() {
            return Err(ErrorCode::NotAvailable.into());
        }
        // With a hook, only the hook decides.
        let is_allowed = options.publish_hook
            || self.authenticator.is_insecure()
            || rights(&identity.caps, &rules.names, &channel).publish
            || may_publish(&rules, options, &channel, &identity.user, false);
        if !is_allowed {
            return Err(ErrorCode::PermissionDenied.into());
        }
        let data = Payload::json(data);
        if !options.publication_data_format.admits(&data) {
            return Err(ErrorCode::BadRequest.into());
        }
        // The request belongs to no connection, so the id is a new one.
        let client = ClientId::from_random(rand::random());
        let Identity { user, info, meta, .. } = identity;
        let info = ClientInfo { client, user: user.clone(), conn_info: info, chan_info: None };
        let publication =
            Publication { info: Some(info), delta: options.delta_publish, ..Publication::new(data) };
        let retention = options.retention();
        let request = PublishRequest { channel, publication, retention, idempotency: None, version: None };
        if !options.publish_hook {
            return Ok(request);
        }
        let protocol = ProtocolId::CENTRIFUGE_JSON.format();
        let asker = HookSubject { client, transport: TRANSPORT, protocol, user: &user, meta: meta.as_ref() };
        self.node.ask_publish_hook(origin, &asker, request).await.map_err(PublishRefusal::by_hook)
    }
}

/// Returns the token, or an empty one without the header, which is anonymous. `None` for a malformed header.
fn token(headers: &HeaderMap) -> Option<&str> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Some("") };
    let (scheme, token) = value.as_bytes().split_at_checked(SCHEME.len())?;
    let token = std::str::from_utf8(token.trim_ascii()).ok()?;
    (scheme.eq_ignore_ascii_case(SCHEME) && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_behind_the_word_bearer_or_there_is_none() {
        let read = |value: Option<&str>| {
            let headers = value.map(|value| (AUTHORIZATION, value.parse().unwrap())).into_iter().collect();
            token(&headers).map(str::to_owned)
        };
        assert_eq!(read(None).as_deref(), Some(""));
        assert_eq!(read(Some("Bearer a.b.c")).as_deref(), Some("a.b.c"));
        assert_eq!(read(Some("bearer  a.b.c ")).as_deref(), Some("a.b.c"));
        for none in ["", "Bearer", "Bearer ", "apikey x", "Bearera.b.c"] {
            assert_eq!(read(Some(none)), None, "{none}");
        }
    }
}
