//! Why a request failed, as reported by the API.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use gateway_core::effect::Denial;
use http::StatusCode;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::protocol::centrifuge::json::write_string;
use shared::refusal::Refusal;

use crate::broker::BrokerError;

/// A command sent to the broker may still be carried out. Only the caller can tell whether repeating it does harm.
const OUTCOME_UNKNOWN: &str =
    "the outcome is unknown: the broker may have carried out the command, or may still do so";
/// The same for a publication, with advice.
const OUTCOME_UNKNOWN_OF_PUBLISHING: &str = "the outcome is unknown: the broker may have published it, or may \
    still do so; repeating the request with the same idempotency_key publishes no second copy, without a key \
    it may";

/// An error of the protocol or of the application: a code for programs and a message for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ApiError {
    refusal: Refusal,
    /// What was wrong with the request, beyond what the code says.
    detail: Option<Cow<'static, str>>,
}

impl ApiError {
    pub(super) fn with_detail(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { refusal: Refusal::of(code), detail: Some(detail.into()) }
    }

    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::with_detail(ErrorCode::BadRequest, detail)
    }

    /// An error of the broker for a publication.
    pub(super) fn not_published(error: BrokerError) -> Self {
        if error.is_outcome_unknown() {
            return Self::with_detail(ErrorCode::Internal, OUTCOME_UNKNOWN_OF_PUBLISHING);
        }
        error.into()
    }

    /// An error of the broker for a read, which can be repeated without harm.
    pub(super) fn not_read(error: BrokerError) -> Self {
        tracing::debug!(%error, "a request of the server API failed");
        ErrorCode::Internal.into()
    }

    pub(super) fn internal(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::with_detail(ErrorCode::Internal, detail)
    }

    pub(super) fn not_available(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::with_detail(ErrorCode::NotAvailable, detail)
    }

    /// Writes the error: `{"code":107,"message":"bad request: no channel is given"}`.
    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_slice(b"{\"code\":");
        out.put_slice(self.refusal.code.to_string().as_bytes());
        out.put_slice(b",\"message\":");
        write_string(&self.message(), out);
        out.put_u8(b'}');
    }

    /// Returns the message with its detail.
    pub(crate) fn message(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail}", self.refusal.message),
            None => self.refusal.message.to_string(),
        }
    }

    /// Returns the error as one of the gateway's own codes, if it is one.
    pub(super) fn error_code(&self) -> Option<ErrorCode> {
        self.refusal.error_code()
    }

    /// Whether a limit was exceeded.
    pub(super) fn is_of_limit(&self) -> bool {
        self.error_code() == Some(ErrorCode::LimitExceeded)
    }

    /// Returns the HTTP status for callers that ask for one in place of 200.
    pub(super) fn status(&self) -> StatusCode {
        match self.error_code() {
            Some(ErrorCode::UnknownChannel | ErrorCode::MethodNotFound) => StatusCode::NOT_FOUND,
            Some(ErrorCode::BadRequest | ErrorCode::NotAvailable | ErrorCode::LimitExceeded) => {
                StatusCode::BAD_REQUEST
            }
            Some(ErrorCode::UnrecoverablePosition) => StatusCode::RANGE_NOT_SATISFIABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        Self { refusal: Refusal::of(code), detail: None }
    }
}

/// The error of the application's own servers. Here there is no client that could be closed.
impl From<Denial> for ApiError {
    fn from(denial: Denial) -> Self {
        let refusal = match denial {
            Denial::Error(refusal) => refusal,
            Denial::Disconnect(Disconnect { code, reason }) => {
                Refusal { code: code.into(), message: reason, temporary: false }
            }
        };
        Self { refusal, detail: None }
    }
}

impl From<BrokerError> for ApiError {
    fn from(error: BrokerError) -> Self {
        // The broker's own log reports refusals and lost links. A line for each request would only drown those.
        tracing::debug!(%error, "a request of the server API failed");
        if error.is_outcome_unknown() {
            return Self::with_detail(ErrorCode::Internal, OUTCOME_UNKNOWN);
        }
        if let BrokerError::Behind(_) = error {
            return Self::with_detail(
                ErrorCode::Internal,
                "a worker of this node is too far behind, so nothing was published: try again later",
            );
        }
        if let BrokerError::Full | BrokerError::NoRoom = error {
            return Self::with_detail(
                ErrorCode::LimitExceeded,
                "the limit on the number or the bytes of keys is reached",
            );
        }
        ErrorCode::Internal.into()
    }
}
