//! What a token comes in: JWS in its compact form, signed with an HMAC (RFC 7515 §3.1, RFC 7518 §3.2).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::config::Algorithm;
use crate::secret::Secret;

/// One secret, ready for each signature that is accepted. There are three of them at most.
pub(super) struct Key(Vec<(Algorithm, hmac::Key)>);

/// Why an envelope is not opened, worded for who runs the gateway.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnvelopeError {
    #[error("it is no JWT: three parts in base64url, with dots between them")]
    Shape,
    #[error("its header cannot be read: {0}")]
    Header(NoObject),
    #[error("its header demands what is not understood (crit)")]
    Critical,
    #[error("it is signed with {0:?}, which auth.algorithms does not name")]
    Algorithm(String),
    #[error("its signature is of another secret, or it was changed")]
    Signature,
    #[error("its claims cannot be read: {0}")]
    Claims(NoObject),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum NoObject {
    #[error("it must be a JSON object")]
    Another,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// What of a header matters. All else, `kid` for one, is whatever its issuer likes.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    /// Says that something must be understood which is not (RFC 7515 §4.1.11).
    crit: Option<IgnoredAny>,
}

impl Key {
    pub(super) fn new(secret: &Secret, accepted: &[Algorithm]) -> Self {
        let secret = secret.reveal().as_bytes();
        Self(
            accepted.iter().map(|&algorithm| (algorithm, hmac::Key::new(algorithm.hmac(), secret))).collect(),
        )
    }

    /// The claims of a token that this secret has signed.
    pub(super) fn open<T: DeserializeOwned>(&self, token: &str) -> Result<T, EnvelopeError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(EnvelopeError::Shape)?;
        let (header, claims) = signed.split_once('.').ok_or(EnvelopeError::Shape)?;
        // A third dot is no base64url.
        let (header, claims) = (decoded(header)?, decoded(claims)?);
        let header: Header<'_> = object(&header).map_err(EnvelopeError::Header)?;
        if header.crit.is_some() {
            return Err(EnvelopeError::Critical);
        }
        let named = self.0.iter().find(|(algorithm, _)| algorithm.name() == header.alg);
        let (_, key) = named.ok_or_else(|| EnvelopeError::Algorithm(header.alg.into_owned()))?;
        hmac::verify(key, signed.as_bytes(), &decoded(signature)?).map_err(|_| EnvelopeError::Signature)?;
        object(&claims).map_err(EnvelopeError::Claims)
    }
}

/// A token with these claims.
pub(super) fn seal(
    secret: &Secret,
    algorithm: Algorithm,
    claims: &impl Serialize,
) -> Result<String, serde_json::Error> {
    let header = format!(r#"{{"alg":"{}","typ":"JWT"}}"#, algorithm.name());
    let claims = serde_json::to_vec(claims)?;
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(algorithm.hmac(), secret.reveal().as_bytes());
    let signature = hmac::sign(&key, signed.as_bytes());
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn decoded(part: &str) -> Result<Vec<u8>, EnvelopeError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| EnvelopeError::Shape)
}

/// A list would do for serde, its elements in the order of the fields.
fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, NoObject> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(NoObject::Another);
    }
    Ok(serde_json::from_slice(json)?)
}

impl Algorithm {
    /// As it stands in the header of a token.
    fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::HS256 => hmac::HMAC_SHA256,
            Self::HS384 => hmac::HMAC_SHA384,
            Self::HS512 => hmac::HMAC_SHA512,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ALL: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

    fn signed(secret: &Secret, header: &Value, claims: &[u8]) -> String {
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
    }

    #[test]
    fn the_other_members_of_a_header_do_no_harm() {
        let secret = Secret::new("one");
        let key = Key::new(&secret, &ALL);
        for header in [
            json!({"alg": "HS256"}),
            json!({"alg": "HS256", "typ": 7, "kid": 7}),
            json!({"alg": "HS256", "kid": {"a": [null]}, "jku": "http://127.0.0.1/", "crit": null}),
            json!({"alg": "HS256", "kid": null, "x5c": false, "jwk": {"k": "AA", "kty": "oct"}}),
        ] {
            let claims: Value = key.open(&signed(&secret, &header, b"{\"sub\":\"a\"}")).expect("opens");
            assert_eq!(claims, json!({"sub": "a"}), "{header}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_envelope_is_named() {
        let secret = Secret::new("one");
        let key = Key::new(&secret, &[Algorithm::HS256]);
        let open = |token: &str| key.open::<Value>(token).unwrap_err();
        let with = |header: Value| open(&signed(&secret, &header, b"{}"));
        assert!(matches!(with(json!({"alg": "HS256", "crit": ["b64"]})), EnvelopeError::Critical));
        assert!(matches!(with(json!({"alg": "none"})), EnvelopeError::Algorithm(name) if name == "none"));
        assert!(matches!(with(json!({"alg": "HS512"})), EnvelopeError::Algorithm(_)));
        assert!(matches!(with(json!({"alg": "hs256"})), EnvelopeError::Algorithm(_)));
        assert!(matches!(with(json!({"alg": 7})), EnvelopeError::Header(_)));
        assert!(matches!(with(json!({})), EnvelopeError::Header(_)));
        assert!(matches!(with(json!(["HS256", null])), EnvelopeError::Header(NoObject::Another)));
        assert!(matches!(open(&signed(&secret, &json!({"alg": "HS256"}), b"{")), EnvelopeError::Claims(_)));
        let good = signed(&secret, &json!({"alg": "HS256"}), b"{}");
        for (token, why) in [
            (format!("{good}="), "padding"),
            (format!("{good}."), "four parts"),
            (good.replace('.', ""), "one part"),
            (good.replacen('.', " .", 1), "white space"),
        ] {
            assert!(matches!(open(&token), EnvelopeError::Shape), "{why}");
        }
        let other = signed(&Secret::new("two"), &json!({"alg": "HS256"}), b"{}");
        assert!(matches!(open(&other), EnvelopeError::Signature));
    }
}
