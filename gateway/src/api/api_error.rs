//! Why a request was not done, in the words of the API.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use gateway_core::effect::Denial;
use http::StatusCode;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::protocol::centrifuge::json::write_string;
use shared::refusal::Refusal;

use crate::broker::BrokerError;

/// What was sent to the broker may be done all the same. Only whoever asked can tell whether asking again does harm.
const OUTCOME_UNKNOWN: &str = "the outcome is unknown, it may have been done or may yet be";
/// And what helps with a publication.
const OUTCOME_UNKNOWN_OF_PUBLISHING: &str = "the outcome is unknown, it may have been published or may yet be; asking \
    again with the idempotency_key that it had makes no second copy, without one it may";

/// An error of the protocol or of the application: a code that programs know and a message for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ApiError {
    refusal: Refusal,
    /// What in the request was wrong, beyond what the code says.
    detail: Option<Cow<'static, str>>,
}

impl ApiError {
    pub(super) fn with_detail(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { refusal: Refusal::of(code), detail: Some(detail.into()) }
    }

    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::with_detail(ErrorCode::BadRequest, detail)
    }

    /// For what was to be published.
    pub(super) fn not_published(error: BrokerError) -> Self {
        if error.is_outcome_unknown() {
            return Self::with_detail(ErrorCode::Internal, OUTCOME_UNKNOWN_OF_PUBLISHING);
        }
        error.into()
    }

    /// For what was only to be read: asking again does no harm.
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

    /// `{"code":107,"message":"bad request: no channel is given"}`
    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_slice(b"{\"code\":");
        out.put_slice(self.refusal.code.to_string().as_bytes());
        out.put_slice(b",\"message\":");
        write_string(&self.message(), out);
        out.put_u8(b'}');
    }

    /// The same for people.
    pub(crate) fn message(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail}", self.refusal.message),
            None => self.refusal.message.to_string(),
        }
    }

    /// Which of the gateway's own it is.
    pub(super) fn known(&self) -> Option<ErrorCode> {
        self.refusal.known()
    }

    /// There is no room for what was asked for.
    pub(super) fn is_of_limit(&self) -> bool {
        self.known() == Some(ErrorCode::LimitExceeded)
    }

    /// The HTTP status for callers that ask for one in place of 200.
    pub(super) fn status(&self) -> StatusCode {
        match self.known() {
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

/// The words of the application's own servers. There is no client here that could be closed.
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
        // The broker's own log tells what it is refused and when its link is lost; one line a request would only
        // drown it.
        tracing::debug!(%error, "a request of the server API failed");
        if error.is_outcome_unknown() {
            return Self::with_detail(ErrorCode::Internal, OUTCOME_UNKNOWN);
        }
        if let BrokerError::Behind(_) = error {
            return Self::with_detail(ErrorCode::Internal, "this node is behind; it was not published");
        }
        if let BrokerError::Full | BrokerError::NoRoom = error {
            return Self::with_detail(ErrorCode::LimitExceeded, "there is no room for one key more");
        }
        ErrorCode::Internal.into()
    }
}
