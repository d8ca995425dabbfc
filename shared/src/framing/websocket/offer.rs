//! The negotiation of permessage-deflate (RFC 7692 §5 and §7).
//!
//! Whatever the client offers, the answer is that neither side keeps a context. Windows only limit the size of messages
//! that may be sent compressed; the server's inflater can read any window that a client may choose.

/// The smallest window, as a power of two of bytes.
pub const WINDOW_BITS_MIN: u8 = 8;
/// The largest window, which is also the default, as a power of two of bytes.
pub const WINDOW_BITS_MAX: u8 = 15;

/// What the server is willing to negotiate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeflatePolicy {
    /// Whether compression is enabled. If not, every offer is declined.
    pub enabled: bool,
    /// The largest window that a client is asked to use, as a power of two of bytes, 8 to 15. Clients that cannot be
    /// asked (they did not offer `client_max_window_bits`) use up to 15.
    pub client_max_window_bits: u8,
}

impl Default for DeflatePolicy {
    fn default() -> Self {
        Self { enabled: true, client_max_window_bits: WINDOW_BITS_MAX }
    }
}

/// The negotiated parameters. A connection only has to keep [`DeflateParams::server_max_window_bits`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeflateParams {
    /// The client's window for messages from the server, 8 to 15.
    pub server_max_window_bits: u8,
    /// The client's window for its own messages, 8 to 15.
    pub client_max_window_bits: u8,
    server_bits_offered: bool,
    client_bits_offered: bool,
}

impl DeflateParams {
    /// Whether the client can read a message of this size that is compressed with a fresh context and the largest
    /// window. A message refers back by less than its own length, so it fits unless it is longer than the window.
    pub fn admits(&self, payload_bytes: usize) -> bool {
        window_admits(self.server_max_window_bits, payload_bytes)
    }

    /// Returns the value of the response's `Sec-WebSocket-Extensions`.
    pub fn response(&self) -> String {
        let mut value = format!("{NAME}; server_no_context_takeover; client_no_context_takeover");
        if self.server_bits_offered {
            value.push_str(&format!("; server_max_window_bits={}", self.server_max_window_bits));
        }
        // Only a client that offered this parameter may be sent it (RFC 7692 §7.1.2.2).
        if self.client_bits_offered && self.client_max_window_bits < WINDOW_BITS_MAX {
            value.push_str(&format!("; client_max_window_bits={}", self.client_max_window_bits));
        }
        value
    }
}

/// Whether a message of this size, compressed with a fresh context, fits a window of this many bits.
pub fn window_admits(window_bits: u8, payload_bytes: usize) -> bool {
    // No compressor refers back further than the largest window, so that every message fits it.
    window_bits >= WINDOW_BITS_MAX || payload_bytes <= 1 << window_bits
}

/// Accepts the first acceptable offer in the request's `Sec-WebSocket-Extensions` headers, in the client's order. An
/// offer with unknown or invalid parameters is skipped.
pub fn negotiate<'h>(
    header_values: impl IntoIterator<Item = &'h str>,
    policy: DeflatePolicy,
) -> Option<DeflateParams> {
    if !policy.enabled {
        return None;
    }
    header_values
        .into_iter()
        .flat_map(|value| split_unquoted(value, b','))
        .take(OFFERS_MAX)
        .find_map(|offer| accept(offer, policy))
}

const NAME: &str = "permessage-deflate";
/// The most offers that are considered. Browsers send one.
const OFFERS_MAX: usize = 16;

fn accept(offer: &str, policy: DeflatePolicy) -> Option<DeflateParams> {
    let mut parts = split_unquoted(offer, b';');
    if !parts.next()?.trim().eq_ignore_ascii_case(NAME) {
        return None;
    }
    let mut seen = OfferParams::default();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(unquoted(value.trim())?)),
            None => (part.trim(), None),
        };
        match (name.to_ascii_lowercase().as_str(), value) {
            ("server_no_context_takeover", None) => once(&mut seen.server_no_context, ())?,
            ("client_no_context_takeover", None) => once(&mut seen.client_no_context, ())?,
            ("server_max_window_bits", Some(bits)) => once(&mut seen.server_bits, window_bits(&bits)?)?,
            // Without a value, the client accepts any.
            ("client_max_window_bits", None) => once(&mut seen.client_bits, WINDOW_BITS_MAX)?,
            ("client_max_window_bits", Some(bits)) => once(&mut seen.client_bits, window_bits(&bits)?)?,
            _ => return None,
        }
    }
    let client_max_window_bits = match seen.client_bits {
        Some(bits) => bits.min(policy.client_max_window_bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX)),
        None => WINDOW_BITS_MAX,
    };
    Some(DeflateParams {
        server_max_window_bits: seen.server_bits.unwrap_or(WINDOW_BITS_MAX),
        client_max_window_bits,
        server_bits_offered: seen.server_bits.is_some(),
        client_bits_offered: seen.client_bits.is_some(),
    })
}

/// The parameters of one offer. Each may occur once.
#[derive(Default)]
struct OfferParams {
    server_no_context: Option<()>,
    client_no_context: Option<()>,
    server_bits: Option<u8>,
    client_bits: Option<u8>,
}

fn once<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

/// Reads 8 to 15 in decimal, without a leading zero (RFC 7692 §7.1.2.1).
fn window_bits(text: &str) -> Option<u8> {
    let bits = text.parse().ok()?;
    ((WINDOW_BITS_MIN..=WINDOW_BITS_MAX).contains(&bits) && text == bits.to_string()).then_some(bits)
}

/// Returns the value of a parameter: a token, or a quoted string that holds a token (RFC 6455 §9.1).
fn unquoted(value: &str) -> Option<String> {
    let token = match value.strip_prefix('"') {
        Some(rest) => {
            let mut inner = rest.strip_suffix('"')?.chars();
            let mut token = String::new();
            while let Some(next) = inner.next() {
                token.push(if next == '\\' { inner.next()? } else { next });
            }
            token
        }
        None => value.to_owned(),
    };
    (!token.is_empty()
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)))
    .then_some(token)
}

/// Splits at a separator, except inside quoted strings.
fn split_unquoted(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let (mut quoted, mut escaped) = (false, false);
        for (at, byte) in current.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if byte == separator && !quoted => {
                    // Separators are ASCII, so the text can be split on either side of one.
                    rest = current.get(at + 1..);
                    return current.get(..at);
                }
                _ => {}
            }
        }
        rest = None;
        Some(current)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(offer: &str) -> Option<String> {
        negotiate([offer], DeflatePolicy::default()).map(|params| params.response())
    }

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn every_combination_of_parameters_is_answered_without_context() {
        for server_context in ["", "; server_no_context_takeover"] {
            for client_context in ["", "; client_no_context_takeover"] {
                for client_bits in ["", "; client_max_window_bits", "; client_max_window_bits=10"] {
                    for server_bits in 7..=15u8 {
                        let bits = format!("; server_max_window_bits={server_bits}");
                        let (bits, expected) = if server_bits == 7 {
                            ("", PLAIN.to_owned())
                        } else {
                            (&*bits, format!("{PLAIN}{bits}"))
                        };
                        let expected = if client_bits.contains('=') {
                            format!("{expected}{client_bits}")
                        } else {
                            expected
                        };
                        let offer =
                            format!("permessage-deflate{server_context}{client_context}{client_bits}{bits}");
                        assert_eq!(answer(&offer), Some(expected), "{offer}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_offer_with_anything_wrong_is_declined() {
        for wrong in [
            "",
            "x-webkit-deflate-frame",
            "permessage-bzip2",
            "permessage-deflate; unknown",
            "permessage-deflate;",
            "permessage-deflate; ; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=-9",
            "permessage-deflate; server_max_window_bits=9x",
            "permessage-deflate; server_max_window_bits=99999999999999",
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=\"10",
            "permessage-deflate; server_max_window_bits=\"1 0\"",
            "permessage-deflate; server_max_window_bits=\"\"",
            "permessage-deflate; server_max_window_bits=\"10\\",
        ] {
            assert_eq!(answer(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_first_acceptable_offer_wins() {
        let first = "permessage-deflate; server_max_window_bits=9, permessage-deflate";
        assert_eq!(answer(first), Some(format!("{PLAIN}; server_max_window_bits=9")));
        let second = "permessage-deflate; server_max_window_bits=99, foo; a=\",\", permessage-deflate";
        assert_eq!(answer(second), Some(PLAIN.to_owned()));
        let values = ["foo", "permessage-deflate; client_max_window_bits"];
        assert!(negotiate(values, DeflatePolicy::default()).is_some(), "offers may stand in several headers");
    }

    #[test]
    fn quotes_spaces_and_case_do_not_matter() {
        let expected = Some(format!("{PLAIN}; server_max_window_bits=12"));
        assert_eq!(answer("permessage-deflate; server_max_window_bits=\"12\""), expected);
        assert_eq!(answer("permessage-deflate; server_max_window_bits=\"1\\2\""), expected);
        assert_eq!(answer("  Permessage-Deflate ;server_max_window_bits = 12  "), expected);
    }

    #[test]
    fn a_client_is_asked_for_a_smaller_window_only_if_it_can_be() {
        let policy = DeflatePolicy { client_max_window_bits: 10, ..DeflatePolicy::default() };
        let asked = negotiate(["permessage-deflate; client_max_window_bits"], policy).unwrap();
        assert_eq!(asked.response(), format!("{PLAIN}; client_max_window_bits=10"));
        let smaller = negotiate(["permessage-deflate; client_max_window_bits=9"], policy).unwrap();
        assert_eq!(smaller.client_max_window_bits, 9);
        let unasked = negotiate(["permessage-deflate"], policy).unwrap();
        assert_eq!((unasked.response(), unasked.client_max_window_bits), (PLAIN.to_owned(), 15));
    }

    #[test]
    fn compression_that_is_off_is_not_agreed() {
        let policy = DeflatePolicy { enabled: false, ..DeflatePolicy::default() };
        assert_eq!(negotiate(["permessage-deflate"], policy), None);
    }

    #[test]
    fn a_window_limits_the_size_of_what_is_sent_compressed() {
        for bits in 8..=14u8 {
            assert!(window_admits(bits, 1 << bits));
            assert!(!window_admits(bits, (1 << bits) + 1));
        }
        assert!(window_admits(15, usize::MAX));
    }

    proptest! {
        #![proptest_config(crate::framing::websocket::same_every_run())]

        #[test]
        fn any_header_is_answered_with_an_answer_that_is_itself_acceptable(text in "[a-z_;,=\"\\\\ 0-9]{0,80}") {
            let offer = format!("permessage-deflate; {text}");
            if let Some(response) = answer(&offer) {
                prop_assert!(answer(&response).is_some());
            }
        }
    }
}
