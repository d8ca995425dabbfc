//! Verifies that the application has allowed a user to follow keys, by its signature.
//!
//! A signature is `issued:expires:hmac`. Both times are in seconds since 1970. The rest is the HMAC-SHA256, in
//! hexadecimal, of `issued`, `expires`, the user, the channel and, in hexadecimal, the SHA-256 of the keys in their
//! order; fields and keys are separated by a zero byte.

use ring::{digest, hmac};
use subtle::ConstantTimeEq;

use super::poll_config::PollConfig;
use crate::secret::Secret;

/// How long an expired signature is still accepted, in seconds, because clocks differ.
const GRACE_S: i64 = 5;

#[derive(Debug)]
pub(crate) struct Signatures {
    /// `None`: no signature is valid, and nothing may be followed.
    present: Option<hmac::Key>,
    previous: Option<hmac::Key>,
    /// The previous secret is not accepted for signatures issued after this time. 0: no limit.
    previous_until: i64,
}

/// Why keys may not be followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Problem {
    /// The signature does not match these keys and this user.
    Wrong,
    Expired,
}

impl Signatures {
    pub(crate) fn new(config: &PollConfig) -> Self {
        let key = |secret: &Secret| {
            (!secret.is_empty()).then(|| hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()))
        };
        Self {
            present: key(&config.hmac_secret),
            previous: key(&config.previous_hmac_secret),
            previous_until: config.previous_hmac_secret_until,
        }
    }

    /// Returns when the signature expires, in seconds since 1970; `None`: never.
    pub(crate) fn verify<'a>(
        &self,
        now: i64,
        signature: &str,
        user: &str,
        channel: &str,
        keys: impl Iterator<Item = &'a str>,
    ) -> Result<Option<i64>, Problem> {
        let parts = signature.split_once(':').and_then(|(issued, rest)| {
            let (expires, hmac) = rest.split_once(':')?;
            Some((issued, expires, hmac))
        });
        let (issued, expires, given) = parts.ok_or(Problem::Wrong)?;
        let seconds = |text: &str| text.parse::<i64>().map_err(|_| Problem::Wrong);
        let (issued_s, expires_s) = (seconds(issued)?, seconds(expires)?);

        let fields = [issued, expires, user, channel, &hash(keys)].join("\0");
        let is_signed_with = |key: &hmac::Key| {
            let expected = hexadecimal(hmac::sign(key, fields.as_bytes()).as_ref());
            bool::from(expected.as_bytes().ct_eq(given.as_bytes()))
        };
        let by_previous =
            self.previous.as_ref().filter(|_| self.previous_until == 0 || issued_s <= self.previous_until);
        if !self.present.as_ref().is_some_and(is_signed_with) && !by_previous.is_some_and(is_signed_with) {
            return Err(Problem::Wrong);
        }
        match expires_s {
            ..=0 => Ok(None),
            _ if expires_s.saturating_add(GRACE_S) < now => Err(Problem::Expired),
            _ => Ok(Some(expires_s)),
        }
    }
}

fn hash<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for (at, key) in keys.enumerate() {
        if at > 0 {
            context.update(b"\0");
        }
        context.update(key.as_bytes());
    }
    hexadecimal(context.finish().as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 0xf] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // python3: h = sha256(b"k1\x00k2").hexdigest()
    // hmac.new(b"a secret of thirty-two bytes ...", "\x00".join(["100", "200", "ann", "poll:x", h]).encode(), sha256).hexdigest()
    const SIGNATURE: &str = "100:200:26f88cca3e6300aeaf9f3c100a97b32dca3c5acb1c3503a24d15ef8279b80879";

    fn signatures(present: &str, previous: &str, until: i64) -> Signatures {
        Signatures::new(&PollConfig {
            hmac_secret: Secret::new(present),
            previous_hmac_secret: Secret::new(previous),
            previous_hmac_secret_until: until,
            ..PollConfig::default()
        })
    }

    const SECRET: &str = "a secret of thirty-two bytes ...";

    fn verify(
        signatures: &Signatures,
        now: i64,
        user: &str,
        channel: &str,
        keys: &[&str],
    ) -> Result<Option<i64>, Problem> {
        signatures.verify(now, SIGNATURE, user, channel, keys.iter().copied())
    }

    #[test]
    fn what_the_application_has_signed_is_right_for_its_user_channel_and_keys_alone() {
        let signatures = signatures(SECRET, "", 0);
        assert_eq!(verify(&signatures, 150, "ann", "poll:x", &["k1", "k2"]), Ok(Some(200)));
        for (user, channel, keys) in [
            ("bob", "poll:x", &["k1", "k2"][..]),
            ("", "poll:x", &["k1", "k2"]),
            ("ann", "poll:y", &["k1", "k2"]),
            ("ann", "poll:x", &["k2", "k1"]),
            ("ann", "poll:x", &["k1"]),
            ("ann", "poll:x", &["k1", "k2", "k3"]),
        ] {
            assert_eq!(
                verify(&signatures, 150, user, channel, keys),
                Err(Problem::Wrong),
                "{user} {channel} {keys:?}"
            );
        }
        for wrong in ["", ":", "::", "100:200:", "100:200", "x:y:z", "invalid-signature"] {
            let found = signatures.verify(150, wrong, "ann", "poll:x", ["k1", "k2"].into_iter());
            assert_eq!(found, Err(Problem::Wrong), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_but_a_signature_is_one(text in ".{0,80}", issued in "[0-9-]{0,20}", hmac in "[0-9a-f]{0,70}") {
            let signatures = signatures(SECRET, SECRET, 1);
            for tried in [text, format!("{issued}:{issued}:{hmac}")] {
                let found = signatures.verify(150, &tried, "ann", "poll:x", ["k1", "k2"].into_iter());
                prop_assert_eq!(found, Err(Problem::Wrong));
            }
        }
    }

    #[test]
    fn a_signature_expires_a_few_seconds_late() {
        let signatures = signatures(SECRET, "", 0);
        let at = |now| verify(&signatures, now, "ann", "poll:x", &["k1", "k2"]);
        assert_eq!(at(205), Ok(Some(200)));
        assert_eq!(at(206), Err(Problem::Expired));
    }

    #[test]
    fn the_secret_before_the_present_one_is_taken_for_what_was_signed_in_its_time() {
        let other = "another secret of thirty-two byt";
        for (present, previous, until, expected) in [
            (other, SECRET, 0, Ok(Some(200))),
            (other, SECRET, 100, Ok(Some(200))),
            (other, SECRET, 99, Err(Problem::Wrong)),
            (other, "", 0, Err(Problem::Wrong)),
            ("", "", 0, Err(Problem::Wrong)),
        ] {
            let signatures = signatures(present, previous, until);
            assert_eq!(
                verify(&signatures, 150, "ann", "poll:x", &["k1", "k2"]),
                expected,
                "{previous} {until}"
            );
        }
    }
}
