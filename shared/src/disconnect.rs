//! Every way the gateway closes a connection: a WebSocket close code and a reason.
//!
//! 3000 to 3499 and 4000 to 4499: the client reconnects by itself. 3500 to 3999 and 4500 to 4999: it does not.
//! Below 3000 are the transport's own codes (RFC 6455 §7.4.1).

use std::borrow::Cow;

/// The longest reason that a close frame can carry, in bytes (RFC 6455 §5.5).
pub const REASON_BYTES_MAX: usize = 123;

/// Separates a reason from its explanation.
const BECAUSE: &str = ": ";

#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Disconnect {
    pub code: u16,
    pub reason: Cow<'static, str>,
}

macro_rules! disconnects {
    ($($(#[$doc:meta])* $name:ident = $code:literal $reason:literal;)*) => {
        impl Disconnect {
            $($(#[$doc])* pub const $name: Self = Self { code: $code, reason: Cow::Borrowed($reason) };)*

            /// All codes of the gateway itself, for documentation and for bounded metric labels.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

disconnects! {
    NORMAL = 1000 "";
    PROTOCOL_ERROR = 1002 "protocol error";
    INVALID_TEXT = 1007 "invalid data";
    TOO_BIG = 1009 "message too big";
    CONNECTION_CLOSED = 3000 "connection closed";
    SHUTDOWN = 3001 "shutdown";
    INTERNAL = 3004 "internal server error";
    EXPIRED = 3005 "connection expired";
    SUBSCRIPTION_EXPIRED = 3006 "subscription expired";
    /// The client was too slow. [`SlowCause`] lists the four causes; each is decided where its variant is used.
    SLOW = 3008 "slow";
    WRITE_ERROR = 3009 "write error";
    INSUFFICIENT_STATE = 3010 "insufficient state";
    FORCE_RECONNECT = 3011 "force reconnect";
    NO_PONG = 3012 "no pong";
    TOO_MANY_REQUESTS = 3013 "too many requests";
    STATE_INVALIDATED = 3014 "state invalidated";
    /// The application refused what the client asked for, but may accept it next time.
    REFUSED_FOR_NOW = 3015 "refused for now";
    INVALID_TOKEN = 3500 "invalid token";
    BAD_REQUEST = 3501 "bad request";
    STALE = 3502 "stale";
    FORCE_DISCONNECT = 3503 "force disconnect";
    CONNECTION_LIMIT = 3504 "connection limit";
    CHANNEL_LIMIT = 3505 "channel limit";
    INAPPROPRIATE_PROTOCOL = 3506 "inappropriate protocol";
    PERMISSION_DENIED = 3507 "permission denied";
    NOT_AVAILABLE = 3508 "not available";
    TOO_MANY_ERRORS = 3509 "too many errors";
    /// The application refused what the client asked for.
    REFUSED = 3510 "refused";
}

impl Disconnect {
    /// Makes a close with an application's own code. `None` outside 3000 to 4999, or for a reason that is too long.
    pub fn custom(code: u16, reason: &str) -> Option<Self> {
        ((3000..5000).contains(&code) && reason.len() <= REASON_BYTES_MAX)
            .then(|| Self { code, reason: Cow::Owned(reason.to_owned()) })
    }

    /// Returns the same close with the application's words as its reason, truncated to what a close frame can carry.
    /// Empty words change nothing.
    pub fn with_reason(&self, words: &str) -> Self {
        match cut(words) {
            "" => self.clone(),
            words => Self { code: self.code, reason: words.to_owned().into() },
        }
    }

    /// Returns the same close with an explanation in its reason. The explanation is for operators: see [`Self::plain`].
    pub fn because(&self, why: &str) -> Self {
        let reason = format!("{}{BECAUSE}{why}", self.reason);
        Self { code: self.code, reason: cut(&reason).to_owned().into() }
    }

    /// Returns the explanation that [`Self::because`] added, if there is one.
    pub fn why(&self) -> Option<&str> {
        let known = Self::ALL.iter().find(|known| known.code == self.code)?;
        self.reason.strip_prefix(&*known.reason)?.strip_prefix(BECAUSE)
    }

    /// Returns the close without its explanation, which any client may see.
    pub fn plain(&self) -> Self {
        let known = Self::ALL.iter().find(|known| known.code == self.code);
        known.filter(|_| self.why().is_some()).unwrap_or(self).clone()
    }

    /// Whether clients reconnect by themselves after this close.
    pub fn invites_reconnect(&self) -> bool {
        !matches!(self.code, 1009 | 3500..=3999 | 4500..=4999)
    }

    /// Returns a bounded metric label: the code's own name, or its range for a code that the application chose.
    pub fn label(&self) -> &'static str {
        match Self::ALL.iter().find(|known| known.code == self.code) {
            Some(Self { reason: Cow::Borrowed(""), .. }) => "normal",
            Some(Self { reason: Cow::Borrowed(reason), .. }) => reason,
            _ if self.invites_reconnect() => "custom reconnect",
            _ => "custom terminal",
        }
    }
}

/// Why a client counts as too slow. Each cause closes the client with [`Disconnect::SLOW`] and is not told to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SlowCause {
    /// More bytes wait for the client than its outbox holds.
    OutboxFull,
    /// The client's socket has taken nothing for as long as a write may take.
    WriteTimeout,
    /// The node is short of memory, and keeps more for this client than for others.
    MemoryShort,
    /// The client has asked for the next page of a channel's state after the time for that.
    PageTimeout,
}

impl SlowCause {
    pub const ALL: [Self; 4] = [Self::OutboxFull, Self::WriteTimeout, Self::MemoryShort, Self::PageTimeout];

    /// Returns the cause as a value of a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::OutboxFull => "outbox_full",
            Self::WriteTimeout => "write_timeout",
            Self::MemoryShort => "memory_short",
            Self::PageTimeout => "page_timeout",
        }
    }

    /// Returns the cause in words, for people.
    pub fn description(self) -> &'static str {
        match self {
            Self::OutboxFull => "its outbox is full",
            Self::WriteTimeout => "its socket accepted nothing for too long",
            Self::MemoryShort => "the node is short of memory, and the client has the most pending data",
            Self::PageTimeout => "it asked too late for the next page of a channel's state",
        }
    }

    /// Returns the close for this cause.
    pub fn disconnect(self) -> Disconnect {
        Disconnect::SLOW.because(self.description())
    }

    /// Returns the cause of a close. `None` for any other close, and for one with the same code that the application chose.
    pub fn of(disconnect: &Disconnect) -> Option<Self> {
        let why = disconnect.why().filter(|_| disconnect.code == Disconnect::SLOW.code)?;
        Self::ALL.into_iter().find(|cause| cause.description() == why)
    }
}

/// Truncates a reason to what a close frame can carry.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_of_a_slow_close_is_known_by_the_close_and_not_told_to_clients() {
        for cause in SlowCause::ALL {
            let disconnect = cause.disconnect();
            assert_eq!(SlowCause::of(&disconnect), Some(cause));
            assert_eq!((disconnect.plain(), disconnect.label()), (Disconnect::SLOW, "slow"));
        }
        assert_eq!(SlowCause::of(&Disconnect::SLOW), None);
        let other = Disconnect::INTERNAL.because(SlowCause::OutboxFull.description());
        assert_eq!(SlowCause::of(&other), None);
    }

    #[test]
    fn what_brought_a_close_about_can_be_said_and_left_out() {
        let explained = Disconnect::BAD_REQUEST.because("the command has no id");
        assert_eq!((explained.code, &*explained.reason), (3501, "bad request: the command has no id"));
        assert_eq!(explained.why(), Some("the command has no id"));
        assert_eq!(explained.plain(), Disconnect::BAD_REQUEST);
        assert_eq!(explained.label(), "bad request");
        let own = Disconnect::custom(3501, "no more of this").expect("a code of an application");
        assert_eq!((own.why(), own.plain()), (None, own.clone()));
        assert_eq!(Disconnect::BAD_REQUEST.because(&"é".repeat(200)).reason.len(), 123);
    }

    #[test]
    fn an_application_closes_in_its_own_words_and_everyone_is_told_them() {
        let refused = Disconnect::REFUSED.with_reason("out of stock");
        assert_eq!((refused.code, &*refused.reason), (3510, "out of stock"));
        assert_eq!((refused.plain(), refused.label()), (refused.clone(), "refused"));
        assert_eq!(Disconnect::REFUSED.with_reason(""), Disconnect::REFUSED);
        assert_eq!(Disconnect::REFUSED.with_reason(&"é".repeat(100)).reason.len(), 122);
        assert!(Disconnect::REFUSED_FOR_NOW.invites_reconnect() && !refused.invites_reconnect());
    }
}
