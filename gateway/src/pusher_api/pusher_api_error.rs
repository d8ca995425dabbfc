//! The errors of this API: a status, and a line for the reader.

use http::StatusCode;

use crate::broker::BrokerError;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PusherApiError {
    pub(super) status: StatusCode,
    pub(super) why: String,
}

impl PusherApiError {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }

    pub(super) fn bad_request(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why)
    }

    pub(super) fn unauthorized(why: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, why)
    }

    pub(super) fn too_large(why: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    }

    pub(super) fn unavailable(why: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, why)
    }
}

impl From<BrokerError> for PusherApiError {
    fn from(error: BrokerError) -> Self {
        // The broker logs the failure itself.
        tracing::debug!(%error, "a request of a Pusher server failed");
        match error.is_outcome_unknown() {
            true => Self::unavailable("the outcome is unknown: the broker did not answer"),
            false => Self::unavailable("the request was not carried out: the broker cannot be used now"),
        }
    }
}
