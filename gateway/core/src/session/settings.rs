//! The settings of sessions that an operator can configure, the same for all of them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::channel::CHANNEL_BYTES_MAX;

/// Limits and timers of a client's session. A rate of 0 is no limit.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionSettings {
    /// Interval between the server's pings, in milliseconds. The first ping is sent after a random part of it, at
    /// least half, so that clients that connected together are not pinged together.
    pub ping_interval_ms: u64,
    /// Time limit for a client to answer a ping, in milliseconds. Must be less than `ping_interval_ms`.
    pub pong_timeout_ms: u64,
    /// Time limit from the opening of a connection to its successful connect command, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Grace period for refreshing an expired connection or subscription, in milliseconds.
    pub expired_close_delay_ms: u64,

    /// The most channels that a connection can be subscribed to.
    pub channels_max: u32,
    /// The longest channel name, in bytes.
    pub channel_bytes_max: u32,
    /// Allows any letters and spaces in channel names, in UTF-8. If false, names are printable ASCII without spaces.
    pub channel_unicode: bool,
    /// Subscribes every client with a user to a channel of that user when it connects: `#ann`, or `NAMESPACE:#ann`.
    pub personal_channel: bool,
    /// The namespace of personal channels. Empty: none.
    pub personal_channel_namespace: Box<str>,
    /// Adds the server's clock to connect results: `time`, in milliseconds since 1970.
    pub tell_time: bool,
    /// Allows each user one connection: when a user connects, the user's other connections are closed with 3504, on
    /// all nodes. Does not apply to anonymous clients.
    pub single_connection: bool,
    /// The most commands of a connection that wait for earlier ones. The node stops reading from a connection at half
    /// of this, and closes a connection that exceeds it.
    pub queued_commands_max: u32,
    /// The same limit in bytes of channel names, tokens and payloads.
    pub queued_bytes_max: u32,

    /// The most commands per second from one connection, on average. A message without commands counts as one.
    pub messages_per_second: u32,
    /// The most commands from one connection in a burst. Must be more than `channels_max`, because libraries
    /// subscribe to all channels in one message.
    pub messages_burst: u32,
    /// The most bytes per second from one connection, on average.
    pub bytes_per_second: u32,
    /// The most bytes from one connection in a burst. Must be at least the longest message, which could otherwise
    /// never be sent.
    pub bytes_burst: u32,

    /// The most events per second that a client can send directly to other subscribers, in protocols with such events
    /// (Pusher's client events). Further events are refused.
    pub client_events_per_second: u32,

    /// The most refused commands within `errors_window_ms`; a connection that exceeds it is closed. Errors that the
    /// client could not avoid are not counted: expired tokens, positions that cannot be recovered from, internal
    /// errors. 0: no limit.
    pub errors_max: u32,
    /// The window of `errors_max`, in milliseconds.
    pub errors_window_ms: u64,

    /// The most publications that one history command returns.
    pub history_limit_max: u32,
    /// The most publications that a subscription can recover.
    pub recovery_limit_max: u32,
    /// The most bytes of publications in one reply, and never more than half of `websocket.outbox_bytes_max`; a
    /// single publication may exceed it. A longer history is returned in part. A longer recovery begins in the reply
    /// and continues as the client reads it.
    pub reply_bytes_max: u32,
    /// The most bytes of a presence reply. A larger presence is refused with error 106.
    pub presence_bytes_max: u32,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            ping_interval_ms: 25_000,
            pong_timeout_ms: 8_000,
            connect_timeout_ms: 10_000,
            expired_close_delay_ms: 25_000,
            channels_max: 128,
            channel_bytes_max: 255,
            channel_unicode: false,
            personal_channel: false,
            personal_channel_namespace: "".into(),
            tell_time: false,
            single_connection: false,
            queued_commands_max: 2_048,
            queued_bytes_max: 1 << 20,
            messages_per_second: 2_000,
            messages_burst: 10_000,
            bytes_per_second: 4 << 20,
            bytes_burst: 16 << 20,
            client_events_per_second: 10,
            errors_max: 300,
            errors_window_ms: 60_000,
            history_limit_max: 1_000,
            recovery_limit_max: 300,
            reply_bytes_max: 256 << 10,
            presence_bytes_max: 1 << 20,
        }
    }
}

/// An invalid setting.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct SettingError {
    pub key: &'static str,
    pub problem: String,
}

impl SessionSettings {
    /// Returns every mistake, so that an operator can correct all of them at once.
    pub fn validate(&self) -> Vec<SettingError> {
        let mut mistakes = Mistakes(Vec::new());
        mistakes.bound("ping_interval_ms", self.ping_interval_ms, 1_000, HOUR_MS);
        mistakes.bound("pong_timeout_ms", self.pong_timeout_ms, 1, HOUR_MS);
        mistakes.bound("connect_timeout_ms", self.connect_timeout_ms, 1, HOUR_MS);
        mistakes.bound("expired_close_delay_ms", self.expired_close_delay_ms, 0, 24 * HOUR_MS);
        mistakes.bound("channels_max", self.channels_max, 1, 100_000);
        mistakes.bound("channel_bytes_max", self.channel_bytes_max, 1, CHANNEL_BYTES_MAX as u64);
        mistakes.bound("queued_commands_max", self.queued_commands_max, 1, 1_000_000);
        mistakes.bound("queued_bytes_max", self.queued_bytes_max, 1_024, 1 << 30);
        mistakes.bound("errors_window_ms", self.errors_window_ms, 1, 24 * HOUR_MS);
        mistakes.bound("history_limit_max", self.history_limit_max, 1, 100_000);
        mistakes.bound("recovery_limit_max", self.recovery_limit_max, 1, 100_000);
        mistakes.bound("reply_bytes_max", self.reply_bytes_max, 1_024, 1 << 30);
        mistakes.bound("presence_bytes_max", self.presence_bytes_max, 1_024, 1 << 30);
        if self.pong_timeout_ms >= self.ping_interval_ms {
            mistakes.add("pong_timeout_ms", "must be less than ping_interval_ms");
        }
        if self.messages_per_second > 0 && self.messages_burst == 0 {
            mistakes.add("messages_burst", "must be at least 1 if messages_per_second is not 0");
        } else if self.messages_per_second > 0 && self.messages_burst <= self.channels_max {
            let problem = "must be more than channels_max: a client that connects and subscribes to all channels at once \
                would always be closed";
            mistakes.add("messages_burst", problem);
        }
        if self.queued_commands_max < self.channels_max {
            let problem = "must be at least channels_max: a client that subscribes to all channels at once would always be \
                closed";
            mistakes.add("queued_commands_max", problem);
        }
        if self.bytes_per_second > 0 && self.bytes_burst == 0 {
            mistakes.add("bytes_burst", "must be at least 1 if bytes_per_second is not 0");
        }
        mistakes.0
    }

    pub(super) fn ping_interval(&self) -> Duration {
        Duration::from_millis(self.ping_interval_ms)
    }

    pub(super) fn pong_timeout(&self) -> Duration {
        Duration::from_millis(self.pong_timeout_ms)
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(super) fn expired_close_delay(&self) -> Duration {
        Duration::from_millis(self.expired_close_delay_ms)
    }
}

const HOUR_MS: u64 = 3_600_000;

struct Mistakes(Vec<SettingError>);

impl Mistakes {
    fn add(&mut self, key: &'static str, problem: impl fmt::Display) {
        self.0.push(SettingError { key, problem: problem.to_string() });
    }

    fn bound(&mut self, key: &'static str, value: impl Into<u64>, min: u64, max: u64) {
        let value = value.into();
        if !(min..=max).contains(&value) {
            self.add(key, format_args!("is {value}, must be from {min} to {max}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(SessionSettings::default().validate(), []);
    }

    #[test]
    fn every_mistake_is_listed_with_its_key() {
        let settings = SessionSettings {
            ping_interval_ms: 5_000,
            pong_timeout_ms: 5_000,
            channels_max: 0,
            channel_bytes_max: 256,
            messages_burst: 0,
            bytes_burst: 0,
            recovery_limit_max: 0,
            ..SessionSettings::default()
        };
        let mistakes: Vec<String> = settings.validate().iter().map(SettingError::to_string).collect();
        assert_eq!(
            mistakes,
            [
                "channels_max: is 0, must be from 1 to 100000",
                "channel_bytes_max: is 256, must be from 1 to 255",
                "recovery_limit_max: is 0, must be from 1 to 100000",
                "pong_timeout_ms: must be less than ping_interval_ms",
                "messages_burst: must be at least 1 if messages_per_second is not 0",
                "bytes_burst: must be at least 1 if bytes_per_second is not 0",
            ]
        );
    }

    #[test]
    fn a_client_can_subscribe_to_all_its_channels_at_once() {
        let mistakes = |settings: SessionSettings| {
            settings.validate().into_iter().map(|mistake| mistake.key).collect::<Vec<_>>()
        };
        let many = SessionSettings {
            channels_max: 10_000,
            queued_commands_max: 10_000,
            ..SessionSettings::default()
        };
        assert_eq!(mistakes(many.clone()), ["messages_burst"], "the connect command comes before them");
        assert_eq!(mistakes(SessionSettings { messages_burst: 10_001, ..many.clone() }), [""; 0]);
        assert_eq!(mistakes(SessionSettings { messages_per_second: 0, ..many.clone() }), [""; 0]);
        let impatient = SessionSettings { queued_commands_max: 9_999, messages_burst: 10_001, ..many };
        assert_eq!(mistakes(impatient), ["queued_commands_max"]);
    }

    #[test]
    fn an_unknown_key_is_refused_and_a_missing_one_has_its_default() {
        let read = |text| serde_json::from_str::<SessionSettings>(text);
        assert_eq!(read("{}").unwrap(), SessionSettings::default());
        assert_eq!(read(r#"{"channels_max":7}"#).unwrap().channels_max, 7);
        assert!(read(r#"{"chanels_max":7}"#).is_err());
    }
}
