//! The ways in which a hook can fail.

use http::StatusCode;

use super::breaker::Health;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum HookFailure {
    #[error("concurrency_max requests are in flight already")]
    TooMany,
    #[error("it has failed too often, and its circuit breaker is open")]
    Open,
    #[error("it did not answer in time")]
    Timeout,
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("{0}")]
    PrivateAddress(String),
    #[error("the connection ended before the answer: {0}")]
    Broken(String),
    #[error("it answered with the status {0}")]
    Status(StatusCode),
    #[error("its answer is longer than {bytes_max} bytes")]
    TooLong { bytes_max: usize },
    #[error("its answer cannot be understood: {0}")]
    Malformed(String),
}

impl HookFailure {
    /// Returns a bounded label for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::Open => "open",
            Self::Timeout => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::PrivateAddress(_) => "private_address",
            Self::Broken(_) => "broken",
            Self::Status(_) => "status",
            Self::TooLong { .. } => "too_long",
            Self::Malformed(_) => "malformed",
        }
    }

    /// All labels.
    pub(super) const LABELS: [&str; 9] = [
        "too_many",
        "open",
        "timeout",
        "unreachable",
        "private_address",
        "broken",
        "status",
        "too_long",
        "malformed",
    ];

    /// Returns what the failure says about the backend's health. A client can send what makes a backend refuse or fail,
    /// and must not be able to open the breaker for everybody: only what a server says about itself counts.
    pub(super) fn health(&self) -> Health {
        match self {
            Self::Timeout | Self::Unreachable(_) | Self::PrivateAddress(_) | Self::Broken(_) => {
                Health::Failing
            }
            Self::Status(status) if is_overload(*status) => Health::Failing,
            Self::Status(_) | Self::TooLong { .. } | Self::Malformed(_) => Health::Well,
            Self::TooMany | Self::Open => Health::Unknown,
        }
    }

    /// Whether the same request may succeed when it is sent again right away.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Broken(_) => true,
            Self::Status(status) => is_passing(*status),
            _ => false,
        }
    }

    /// Whether the backend cannot have seen the request.
    pub(super) fn was_not_sent(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

/// Whether this is a status with which gateways and servers suggest a retry.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

fn is_overload(status: StatusCode) -> bool {
    is_passing(status) || status == StatusCode::TOO_MANY_REQUESTS
}
