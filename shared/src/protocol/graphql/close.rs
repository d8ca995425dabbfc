//! Translation of closes into this protocol's codes, chosen by how its clients react to them.
//!
//! graphql-ws does not reconnect after 4400, 4401, 4406, 4409, 4429 and 4500, and after most codes below 3000. It
//! reconnects at once and without limit after 1000, and with growing pauses after 1001, 1012, 1013, 4403, 4408 and all
//! other codes. So a close that is meant to keep a client away needs one of the first group.

use crate::disconnect::Disconnect;

/// Another node can serve the client.
const SERVICE_RESTART: u16 = 1012;
/// The client was not at fault and may succeed next time.
const TRY_AGAIN_LATER: u16 = 1013;
pub(super) const BAD_REQUEST: u16 = 4400;
/// Final: the client cannot succeed with another token either.
pub(super) const UNAUTHORIZED: u16 = 4401;
/// The client reconnects, with its token of that time.
pub(super) const FORBIDDEN: u16 = 4403;
const INIT_TIMEOUT: u16 = 4408;
pub(super) const ALREADY_EXISTS: u16 = 4409;
pub(super) const TOO_MANY_INITS: u16 = 4429;
/// The protocol's own codes, which an application may use too.
const OWN: [u16; 8] =
    [BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, 4406, INIT_TIMEOUT, ALREADY_EXISTS, TOO_MANY_INITS, 4500];

pub(super) fn translated(disconnect: &Disconnect) -> Disconnect {
    let code = match disconnect {
        // Codes of the transport and those that this module has already translated.
        Disconnect { code: ..3000, .. } => disconnect.code,
        Disconnect { code, .. } if OWN.contains(code) => *code,
        Disconnect { code, .. } if *code == Disconnect::SHUTDOWN.code => SERVICE_RESTART,
        Disconnect { code, .. } if *code == Disconnect::STALE.code => INIT_TIMEOUT,
        Disconnect { code, .. }
            if *code == Disconnect::INVALID_TOKEN.code || *code == Disconnect::EXPIRED.code =>
        {
            FORBIDDEN
        }
        Disconnect { code, .. } if *code == Disconnect::BAD_REQUEST.code => BAD_REQUEST,
        other if other.invites_reconnect() => TRY_AGAIN_LATER,
        _ => UNAUTHORIZED,
    };
    Disconnect { code, reason: disconnect.reason.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether graphql-ws 6.4 reconnects.
    fn comes_back(code: u16) -> bool {
        let is_internal =
            (1000..2000).contains(&code) && ![1000, 1001, 1005, 1006, 1012, 1013, 1014].contains(&code);
        !is_internal && ![4400, 4401, 4406, 4409, 4429, 4500].contains(&code)
    }

    #[test]
    fn who_is_to_come_back_does_and_who_is_not_does_not() {
        // A client with an invalid token must reconnect to present another, and one that was late may be in time next time.
        let with_another_try = [Disconnect::INVALID_TOKEN, Disconnect::STALE];
        for disconnect in Disconnect::ALL.iter().filter(|disconnect| disconnect.code >= 3000) {
            let told = translated(disconnect);
            let expected = disconnect.invites_reconnect() || with_another_try.contains(disconnect);
            assert_eq!(comes_back(told.code), expected, "{disconnect:?}");
            assert_eq!(told.reason, disconnect.reason);
        }
    }

    #[test]
    fn nobody_is_made_to_come_back_at_once_and_for_ever() {
        for disconnect in Disconnect::ALL.iter().filter(|disconnect| disconnect.code >= 3000) {
            assert_ne!(translated(disconnect).code, 1000, "{disconnect:?}");
        }
        assert_eq!(translated(&Disconnect::SHUTDOWN).code, 1012, "a drain");
        for passing in [Disconnect::INTERNAL, Disconnect::SLOW, Disconnect::NO_PONG] {
            assert_eq!(translated(&passing).code, 1013, "{passing:?}");
        }
    }

    #[test]
    fn each_reason_has_the_code_that_the_protocol_gives_it() {
        assert_eq!(translated(&Disconnect::STALE).code, 4408);
        assert_eq!(translated(&Disconnect::INVALID_TOKEN).code, 4403);
        assert_eq!(translated(&Disconnect::EXPIRED).code, 4403);
        assert_eq!(translated(&Disconnect::BAD_REQUEST).code, 4400);
        assert_eq!(translated(&Disconnect::FORCE_DISCONNECT).code, 4401);
        for (code, told) in [(4403, 4403), (4500, 4500), (4000, 1013), (4501, 4401), (3999, 4401)] {
            let own = Disconnect::custom(code, "as the application says").expect("a code of an application");
            assert_eq!(translated(&own).code, told, "{code}");
        }
        for own in [Disconnect::NORMAL, Disconnect::PROTOCOL_ERROR, Disconnect::TOO_BIG] {
            assert_eq!(translated(&own), own);
        }
    }
}
