//! Every reason why a token is not accepted: worded for the operator of the gateway, as a metric label, and as the code
//! that the client receives.

use std::sync::Arc;

use gateway_core::effect::Denial;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;

use super::algorithm::Algorithm;
use super::claims::TokenTimeError;
use super::envelope::EnvelopeError;
use super::granted::InvalidClaim;

/// The longest token that is accepted, in bytes.
pub(super) const TOKEN_BYTES_MAX: usize = 32 * 1024;

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("there is no token, and auth.allow_anonymous is off")]
    Missing,
    #[error("no key is configured (auth.hmac_secret, auth.rsa_public_key, auth.jwks_url and others)")]
    NoKeys,
    #[error("it is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("it is signed with {}, which auth.algorithms does not list", .0.name())]
    Algorithm(Algorithm),
    #[error("it is signed with {}, for which auth has no key", .0.name())]
    NoKeyFor(Algorithm),
    #[error("it names no key (kid), and only auth.jwks_url has keys for its algorithm")]
    NoName,
    #[error("it names a key (kid {0:?}) that auth.jwks_url does not have for its algorithm")]
    UnknownKey(Box<str>),
    #[error("its key cannot be looked up: {0}")]
    Unavailable(Arc<str>),
    #[error("its signature was made with another key, or the token was changed")]
    Signature,
    #[error("its key is auth.{0}, which is no longer accepted")]
    KeyOver(&'static str),
    #[error("its audience does not match auth.audience or auth.audience_pattern")]
    Audience,
    #[error("its issuer does not match auth.issuer or auth.issuer_pattern")]
    Issuer,
    #[error("{}", untimely(*.0))]
    Untimely(TokenTimeError),
    #[error("it is a subscription token")]
    IsForSubscription,
    #[error("it names no channel")]
    NoChannel,
    #[error("it is for channel {granted:?}, not {requested}")]
    Channel { granted: Box<str>, requested: Box<str> },
    #[error("it is for another client")]
    Client,
    #[error(transparent)]
    Ill(#[from] InvalidClaim),
}

fn untimely(untimely: TokenTimeError) -> String {
    match untimely {
        TokenTimeError::Expired(exp) => format!("it has expired (exp {exp})"),
        TokenTimeError::Early(nbf) => format!("it is not valid yet (nbf {nbf})"),
        TokenTimeError::Ended(end) => {
            format!("the connection or subscription that it grants has ended (expire_at {end})")
        }
    }
}

impl TokenError {
    /// Returns the label in the metric of tokens.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLong | Self::Envelope(EnvelopeError::Shape | EnvelopeError::Header(_)) => "malformed",
            Self::Envelope(EnvelopeError::Critical) => "malformed",
            Self::Envelope(EnvelopeError::Claims(_)) | Self::Ill(_) => "claims",
            Self::Envelope(EnvelopeError::Algorithm(_) | EnvelopeError::Es512) | Self::Algorithm(_) => {
                "algorithm"
            }
            Self::NoKeys | Self::NoKeyFor(_) | Self::NoName | Self::UnknownKey(_) | Self::KeyOver(_) => {
                "unknown_key"
            }
            Self::Unavailable(_) => "keys_unavailable",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Issuer => "issuer",
            Self::Untimely(TokenTimeError::Expired(_) | TokenTimeError::Ended(_)) => "expired",
            Self::Untimely(TokenTimeError::Early(_)) => "early",
            Self::IsForSubscription | Self::NoChannel | Self::Channel { .. } | Self::Client => "misplaced",
        }
    }

    /// Whether the token is refused for its times alone. Tokens expire all the time, so that is not reported.
    pub(super) fn is_of_time(&self) -> bool {
        matches!(self, Self::Untimely(_))
    }

    /// Returns the code for a client whose connection token was refused.
    pub(super) fn of_connection(&self) -> Denial {
        match self {
            Self::Missing => Denial::Disconnect(Disconnect::BAD_REQUEST),
            _ => self.of_time_or_keys().unwrap_or(Denial::Disconnect(Disconnect::INVALID_TOKEN)),
        }
    }

    pub(super) fn of_subscription(&self) -> Denial {
        match self {
            Self::Channel { .. } | Self::Client => Denial::Disconnect(Disconnect::INVALID_TOKEN),
            _ => self.of_time_or_keys().unwrap_or(Denial::of(ErrorCode::PermissionDenied)),
        }
    }

    fn of_time_or_keys(&self) -> Option<Denial> {
        let error = match self {
            Self::Untimely(TokenTimeError::Expired(_) | TokenTimeError::Early(_)) => ErrorCode::TokenExpired,
            Self::Untimely(TokenTimeError::Ended(_)) => ErrorCode::Expired,
            // The client may try again: by then the keys may be there.
            Self::Unavailable(_) => ErrorCode::Internal,
            _ => return None,
        };
        Some(Denial::of(error))
    }
}
