//! Signs and verifies with an app's secret: HMAC-SHA256, in hexadecimal.

use std::fmt;

use ring::hmac;

use crate::secret::Secret;

/// The length of a signature, in hexadecimal digits.
const DIGITS: usize = 64;

/// The secrets that an app's servers sign with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Secrets {
    pub(crate) secret: Secret,
    /// The previous secret. Empty where there is none.
    pub(crate) previous: Secret,
}

#[derive(Clone)]
pub(crate) struct AppSigner {
    key: Box<str>,
    secret: hmac::Key,
    /// The previous secret, whose signatures are accepted too.
    previous: Option<hmac::Key>,
}

impl AppSigner {
    pub(crate) fn new(key: &str, Secrets { secret, previous }: &Secrets) -> Self {
        let of = |secret: &Secret| hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes());
        let previous = (!previous.is_empty()).then(|| of(previous));
        Self { key: key.into(), secret: of(secret), previous }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn sign(&self, text: &[u8]) -> String {
        let signature = hmac::sign(&self.secret, text);
        signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether this is the signature of a text. The comparison takes constant time.
    pub(crate) fn verifies(&self, text: &[u8], signature: &str) -> bool {
        let Some(signature) = decoded(signature) else { return false };
        let verifies = |key: &hmac::Key| hmac::verify(key, text, &signature).is_ok();
        verifies(&self.secret) || self.previous.as_ref().is_some_and(verifies)
    }

    /// The same for the `auth` of clients: the app's key, a colon and the signature.
    pub(crate) fn verifies_auth(&self, text: &[u8], auth: &str) -> bool {
        let signature = auth.split_once(':').filter(|(key, _)| *key == &*self.key);
        signature.is_some_and(|(_, signature)| self.verifies(text, signature))
    }
}

impl fmt::Debug for AppSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AppSigner").field(&self.key).finish()
    }
}

fn decoded(hex: &str) -> Option<[u8; DIGITS / 2]> {
    let digits: &[u8; DIGITS] = hex.as_bytes().try_into().ok()?;
    let mut bytes = [0; DIGITS / 2];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "278d425bdf160c739803";

    fn signer() -> AppSigner {
        let secret = Secret::new("7ad3773142a6692b25b8");
        AppSigner::new(KEY, &Secrets { secret, previous: Secret::default() })
    }

    #[test]
    fn what_the_documents_of_the_protocol_sign_is_signed_so() {
        for (text, signature) in [
            ("1234.1234:private-foobar", "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"),
            (
                r#"1234.1234:presence-foobar:{"user_id":10,"user_info":{"name":"Mr. Channels"}}"#,
                "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
            ),
            (
                r#"1234.1234::user::{"id":"12345"}"#,
                "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba",
            ),
        ] {
            assert_eq!(signer().sign(text.as_bytes()), signature);
            assert!(signer().verifies(text.as_bytes(), signature));
            assert!(signer().verifies_auth(text.as_bytes(), &format!("{KEY}:{signature}")));
        }
    }

    #[test]
    fn nothing_else_is_a_signature() {
        let right = signer().sign(b"text");
        for wrong in [
            "",
            ":",
            "zz",
            &right[1..],
            &format!("{right}0"),
            &right.replace(&right[..1], "x"),
            &"é".repeat(32),
        ] {
            assert!(!signer().verifies(b"text", wrong), "{wrong}");
        }
        assert!(!signer().verifies(b"texts", &right));
        for wrong in [right.clone(), format!("other:{right}"), format!(":{right}"), format!("{KEY}x:{right}")]
        {
            assert!(!signer().verifies_auth(b"text", &wrong), "{wrong}");
        }
    }
}
