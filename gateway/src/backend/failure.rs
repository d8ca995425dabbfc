//! Why a hook was not answered as it should be.

use http::StatusCode;

use super::breaker::Health;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum HookFailure {
    #[error("as many requests as concurrency_max allows are on their way")]
    TooMany,
    #[error("it has failed too often and is left alone for a while")]
    Open,
    #[error("there is no answer within its deadline")]
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
    /// A bounded label for metrics.
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

    /// Every label.
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

    /// What it says of the backend. A client may send what its backend refuses or stumbles over, and must not be able to
    /// have a hook left alone for everybody by that: only what a server says of itself counts.
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

    /// Whether a question may be answered when it is asked again right away.
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

/// What gateways and servers say when another try may do.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

fn is_overload(status: StatusCode) -> bool {
    is_passing(status) || status == StatusCode::TOO_MANY_REQUESTS
}
