//! Translation of closes into this protocol's codes, chosen by how its clients react to them.
//!
//! pusher-js does not reconnect after 4001 to 4099 and after 4300 and above, reconnects after a second for 4100 to
//! 4199, and at once for 4200 to 4299. After codes below 4000 it always reconnects, after a second: so a close that is
//! meant to keep a client away must not have one of those.

use crate::disconnect::Disconnect;

/// The client has too many connections and must stay away.
const OVER_QUOTA: u16 = 4004;
/// The client is not admitted, breaks the protocol or was disconnected by the server, and must stay away.
const NOT_AUTHORIZED: u16 = 4009;
/// Reconnect after a second.
const COME_BACK: u16 = 4100;
/// Reconnect at once: only this connection has failed.
const NO_PONG: u16 = 4201;
/// Codes that this protocol's clients know, which an application may use too.
const OWN: std::ops::RangeInclusive<u16> = 4000..=4299;

pub(super) fn translated(disconnect: &Disconnect) -> Disconnect {
    let code = match disconnect {
        // Codes of the transport, which are sent before any message could be understood.
        Disconnect { code: ..3000, .. } => disconnect.code,
        Disconnect { code, .. } if OWN.contains(code) => *code,
        Disconnect { code, .. } if *code == Disconnect::NO_PONG.code => NO_PONG,
        Disconnect { code, .. } if *code == Disconnect::CONNECTION_LIMIT.code => OVER_QUOTA,
        other if other.invites_reconnect() => COME_BACK,
        _ => NOT_AUTHORIZED,
    };
    Disconnect { code, reason: disconnect.reason.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether pusher-js reconnects.
    fn comes_back(code: u16) -> bool {
        !matches!(code, 4001..=4099 | 4300..)
    }

    #[test]
    fn who_is_to_come_back_does_and_who_is_not_does_not() {
        for disconnect in Disconnect::ALL.iter().filter(|disconnect| disconnect.code >= 3000) {
            let told = translated(disconnect);
            assert_eq!(comes_back(told.code), disconnect.invites_reconnect(), "{disconnect:?}");
            assert_eq!(told.reason, disconnect.reason);
        }
    }

    #[test]
    fn a_drain_and_a_slow_client_do_not_come_back_at_once() {
        for disconnect in [Disconnect::SHUTDOWN, Disconnect::SLOW, Disconnect::FORCE_RECONNECT] {
            assert_eq!(translated(&disconnect).code, 4100, "{disconnect:?}");
        }
        assert_eq!(translated(&Disconnect::NO_PONG).code, 4201);
        assert_eq!(translated(&Disconnect::CONNECTION_LIMIT).code, 4004);
    }

    #[test]
    fn codes_of_the_protocol_and_of_the_transport_are_said_as_they_are() {
        for code in [4001, 4009, 4100, 4200, 4299] {
            let own = Disconnect::custom(code, "as the application says").expect("a code of an application");
            assert_eq!(translated(&own), own);
        }
        for (code, told) in [(4300, 4100), (4499, 4100), (4500, 4009), (3999, 4009)] {
            let own = Disconnect::custom(code, "x").expect("a code of an application");
            assert_eq!(translated(&own).code, told, "{code}");
        }
        for own in [Disconnect::NORMAL, Disconnect::PROTOCOL_ERROR, Disconnect::TOO_BIG] {
            assert_eq!(translated(&own), own);
        }
    }
}
