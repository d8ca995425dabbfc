//! Signs requests, so that a backend can verify that the gateway sent them, and when.

use http::{HeaderMap, HeaderValue};
use ring::hmac;

use crate::secret::Secret;

/// The time of the signature, in seconds since 1970: a backend refuses requests that are older than it tolerates.
pub(super) const TIMESTAMP: &str = "tidegate-timestamp";
/// `v1=` and the HMAC-SHA256 in hexadecimal.
pub(super) const SIGNATURE: &str = "tidegate-signature";
/// The kind of hook: so that no signed request can be taken for another.
pub(super) const HOOK: &str = "tidegate-hook";

#[derive(Debug)]
pub(super) struct HookSigner(hmac::Key);

impl HookSigner {
    pub(super) fn new(secret: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()))
    }

    /// Signs `timestamp` and `parts`, each as a line that ends with a line break, and then the body.
    pub(super) fn sign(&self, headers: &mut HeaderMap, unix_seconds: i64, parts: &[&[u8]], body: &[u8]) {
        let timestamp = unix_seconds.to_string();
        let mut context = hmac::Context::with_key(&self.0);
        for line in std::iter::once(timestamp.as_bytes()).chain(parts.iter().copied()) {
            context.update(line);
            context.update(b"\n");
        }
        context.update(body);
        let mut signature = String::from("v1=");
        for byte in context.sign().as_ref() {
            for nibble in [byte >> 4, byte & 0xf] {
                signature.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        for (name, value) in [(TIMESTAMP, timestamp), (SIGNATURE, signature)] {
            let value = HeaderValue::from_str(&value).expect("digits and letters are a header's value");
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_hmac_of_time_hook_and_body() {
        let signer = HookSigner::new(&Secret::new("0123456789abcdef0123456789abcdef"));
        let mut headers = HeaderMap::new();
        signer.sign(&mut headers, 1_700_000_000, &[b"connect"], b"{\"client\":\"c\"}");
        assert_eq!(headers[TIMESTAMP], "1700000000");
        // printf '1700000000\nconnect\n{"client":"c"}' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
        assert_eq!(headers[SIGNATURE], "v1=0e934788680c89c075b3aba7c4cba777b4da50fa8a8256e0fe1a9b37713ec7e8");
        let of_connect = headers[SIGNATURE].clone();
        signer.sign(&mut headers, 1_700_000_000, &[b"refresh"], b"{\"client\":\"c\"}");
        assert_ne!(headers[SIGNATURE], of_connect);
    }
}
