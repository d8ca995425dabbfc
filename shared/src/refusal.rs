//! The refusal of one command, as the client sees it: an [`ErrorCode`] of the gateway, or an application's own error.

use std::borrow::Cow;

use crate::disconnect::Disconnect;
use crate::error::ErrorCode;

/// The codes that applications may use for their own errors.
pub const CUSTOM_CODES: std::ops::RangeInclusive<u32> = 400..=1999;

/// The longest message of an application's error, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: u32,
    pub message: Cow<'static, str>,
    /// Whether the same command may succeed later, so that the client retries by itself.
    pub temporary: bool,
}

impl Refusal {
    /// Makes the refusal for an error of the gateway.
    pub const fn of(error: ErrorCode) -> Self {
        Self { code: error.code(), message: Cow::Borrowed(error.message()), temporary: error.is_temporary() }
    }

    /// Whether the server fails, and only for now: a new connection may succeed.
    pub fn is_outage(&self) -> bool {
        self.temporary && self.error_code() == Some(ErrorCode::Internal)
    }

    /// Makes an application's refusal. `None` for a code outside [`CUSTOM_CODES`], or a message that is too long.
    pub fn custom(code: u32, message: &str, temporary: bool) -> Option<Self> {
        (CUSTOM_CODES.contains(&code) && message.len() <= MESSAGE_BYTES_MAX).then(|| Self {
            code,
            message: Cow::Owned(message.to_owned()),
            temporary,
        })
    }

    /// Returns the gateway's error with this code, if there is one.
    pub fn error_code(&self) -> Option<ErrorCode> {
        ErrorCode::ALL.into_iter().find(|known| known.code() == self.code)
    }

    /// Whether the client could have avoided the error. Never true of an application's own error.
    pub fn is_clients_fault(&self) -> bool {
        self.error_code().is_some_and(ErrorCode::is_clients_fault)
    }

    /// Returns the close that stands for the error in protocols without errors. It invites the client to reconnect only
    /// if the command may succeed next time.
    pub fn disconnect(&self) -> Disconnect {
        let Some(error) = self.error_code() else {
            let refused = if self.temporary { Disconnect::REFUSED_FOR_NOW } else { Disconnect::REFUSED };
            return refused.with_reason(&self.message);
        };
        match error {
            ErrorCode::Internal => Disconnect::INTERNAL,
            ErrorCode::TooManyRequests | ErrorCode::ConcurrentPagination => Disconnect::TOO_MANY_REQUESTS,
            ErrorCode::UnrecoverablePosition => Disconnect::INSUFFICIENT_STATE,
            ErrorCode::Unauthorized | ErrorCode::TokenExpired | ErrorCode::Expired => {
                Disconnect::INVALID_TOKEN
            }
            ErrorCode::PermissionDenied => Disconnect::PERMISSION_DENIED,
            ErrorCode::LimitExceeded => Disconnect::CHANNEL_LIMIT,
            ErrorCode::NotAvailable => Disconnect::NOT_AVAILABLE,
            ErrorCode::BadRequest => Disconnect::BAD_REQUEST,
            ErrorCode::UnknownChannel | ErrorCode::MethodNotFound | ErrorCode::AlreadySubscribed => {
                Disconnect::BAD_REQUEST.because(error.message())
            }
        }
    }

    /// Returns a bounded metric label: the message of the gateway's error, or `custom` for an application's.
    pub fn label(&self) -> &'static str {
        self.error_code().map_or("custom", ErrorCode::message)
    }
}

impl From<ErrorCode> for Refusal {
    fn from(error: ErrorCode) -> Self {
        Self::of(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_has_codes_of_its_own_and_not_the_gateways() {
        let own = Refusal::custom(400, "out of stock", true).unwrap();
        assert_eq!((own.code, &*own.message, own.temporary), (400, "out of stock", true));
        assert_eq!((own.error_code(), own.label(), own.is_clients_fault()), (None, "custom", false));
        assert!(Refusal::custom(1999, "", false).is_some());
        for code in [0, 103, 399, 2000] {
            assert_eq!(Refusal::custom(code, "", false), None, "{code}");
        }
        assert_eq!(Refusal::custom(400, &"x".repeat(MESSAGE_BYTES_MAX + 1), false), None);
    }

    #[test]
    fn what_an_application_refuses_does_not_read_as_a_mistake_of_the_client() {
        let close = |temporary| Refusal::custom(1001, "out of stock", temporary).unwrap().disconnect();
        assert_eq!((close(false).code, &*close(false).reason), (3510, "out of stock"));
        assert_eq!((close(true).code, &*close(true).reason), (3015, "out of stock"));
        assert_eq!(Refusal::custom(400, "", false).unwrap().disconnect(), Disconnect::REFUSED);
    }

    #[test]
    fn every_code_of_the_gateway_is_known_again() {
        for error in ErrorCode::ALL {
            let refusal = Refusal::from(error);
            assert_eq!(refusal.error_code(), Some(error));
            assert_eq!(refusal.is_clients_fault(), error.is_clients_fault());
            assert_eq!(refusal.label(), error.message());
        }
    }
}
