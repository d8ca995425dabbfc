//! A no to one command, as its client is told: one of the gateway's own ([`ErrorCode`]), or in an application's words.

use std::borrow::Cow;

use crate::disconnect::Disconnect;
use crate::error::ErrorCode;

/// The codes that applications may give to errors of their own.
pub const CUSTOM_CODES: std::ops::RangeInclusive<u32> = 400..=1999;

/// The longest message of an application's error, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: u32,
    pub message: Cow<'static, str>,
    /// The same command may succeed later, so that a client tries again by itself.
    pub temporary: bool,
}

impl Refusal {
    /// One of the gateway's own.
    pub const fn of(error: ErrorCode) -> Self {
        Self { code: error.code(), message: Cow::Borrowed(error.message()), temporary: error.is_temporary() }
    }

    /// Whether it is the server that fails, and only for now: a connection that is made anew may do better.
    pub fn is_outage(&self) -> bool {
        self.temporary && self.known() == Some(ErrorCode::Internal)
    }

    /// In an application's words. `None` for a code that is not one of [`CUSTOM_CODES`], or a message that is too long.
    pub fn custom(code: u32, message: &str, temporary: bool) -> Option<Self> {
        (CUSTOM_CODES.contains(&code) && message.len() <= MESSAGE_BYTES_MAX).then(|| Self {
            code,
            message: Cow::Owned(message.to_owned()),
            temporary,
        })
    }

    /// Which of the gateway's own it is.
    pub fn known(&self) -> Option<ErrorCode> {
        ErrorCode::ALL.into_iter().find(|known| known.code() == self.code)
    }

    /// Whether the client could have known better. What an application refuses is between the two of them.
    pub fn is_clients_fault(&self) -> bool {
        self.known().is_some_and(ErrorCode::is_clients_fault)
    }

    /// The close that says what the error would, where a protocol has no errors. Only what may go well next time invites
    /// the client back.
    pub fn disconnect(&self) -> Disconnect {
        let Some(error) = self.known() else {
            let refused = if self.temporary { Disconnect::REFUSED_FOR_NOW } else { Disconnect::REFUSED };
            return refused.in_words(&self.message);
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

    /// A bounded label: the code's own words, or that an application chose it.
    pub fn label(&self) -> &'static str {
        self.known().map_or("custom", ErrorCode::message)
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
        assert_eq!((own.known(), own.label(), own.is_clients_fault()), (None, "custom", false));
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
            assert_eq!(refusal.known(), Some(error));
            assert_eq!(refusal.is_clients_fault(), error.is_clients_fault());
            assert_eq!(refusal.label(), error.message());
        }
    }
}
