//! The envelope of a token: JWS in its compact form (RFC 7515 §3.1).

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::algorithm::Algorithm;
use super::claims::{TokenClaims, user_of};
use super::sign_token::{SignError, SigningKey};

/// The longest key name that is looked up, in bytes.
const KID_BYTES_MAX: usize = 256;

/// A token split into its parts. Nothing in it is to be trusted before its signature is checked.
#[derive(Debug)]
pub(super) struct UnverifiedToken<'a> {
    /// The bytes that the signature covers.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
    pub(super) algorithm: Algorithm,
    /// The name of the key, if the header has a usable one.
    pub(super) kid: Option<Box<str>>,
    claims: Vec<u8>,
}

/// Why an envelope cannot be opened, worded for the operator of the gateway.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnvelopeError {
    #[error("it is not a JWT: three base64url parts separated by dots")]
    Shape,
    #[error("its header cannot be read: {0}")]
    Header(NotAnObject),
    #[error("its header requires an extension that is not supported (crit)")]
    Critical,
    #[error("it is signed with {0:?}, which is not supported")]
    Algorithm(String),
    #[error("it is signed with ES512, whose curve P-521 is not supported: use ES256, ES384 or EdDSA")]
    Es512,
    #[error("its claims cannot be read: {0}")]
    Claims(NotAnObject),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum NotAnObject {
    #[error("it must be a JSON object")]
    Another,
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// The members of a header that matter. All others are up to the issuer.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<&'a RawValue>,
    /// Names extensions that must be understood (RFC 7515 §4.1.11). None is.
    crit: Option<IgnoredAny>,
}

impl<'a> UnverifiedToken<'a> {
    pub(super) fn take_apart(token: &'a str) -> Result<Self, EnvelopeError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(EnvelopeError::Shape)?;
        let (header, claims) = signed.split_once('.').ok_or(EnvelopeError::Shape)?;
        // A third dot fails here: it is no base64url.
        let (header, claims) = (decoded(header)?, decoded(claims)?);
        let header: Header<'_> = object(&header).map_err(EnvelopeError::Header)?;
        if header.crit.is_some() {
            return Err(EnvelopeError::Critical);
        }
        let algorithm = Algorithm::by_name(&header.alg).ok_or_else(|| match &*header.alg {
            "ES512" => EnvelopeError::Es512,
            other => EnvelopeError::Algorithm(other.chars().take(32).collect()),
        })?;
        // A name that is no text names no key here, and does no harm where no key is looked up by name.
        let kid = header.kid.and_then(|kid| serde_json::from_str::<Box<str>>(kid.get()).ok());
        let kid = kid.filter(|kid| !kid.is_empty() && kid.len() <= KID_BYTES_MAX);
        Ok(Self { signed: signed.as_bytes(), signature: decoded(signature)?, algorithm, kid, claims })
    }

    /// Returns the claims, with the user from the claim of this name.
    pub(super) fn claims(&self, user_claim: &str) -> Result<TokenClaims, EnvelopeError> {
        let mut claims: TokenClaims = object(&self.claims).map_err(EnvelopeError::Claims)?;
        if user_claim != "sub" {
            let all: HashMap<String, &RawValue> = object(&self.claims).map_err(EnvelopeError::Claims)?;
            let user = all.get(user_claim).map(|user| user_of(user, user_claim)).transpose();
            claims.sub = user.map_err(|error| EnvelopeError::Claims(error.into()))?.unwrap_or_default();
        }
        Ok(claims)
    }
}

/// Returns a signed token with these claims, and with the name of its key if there is one.
pub(super) fn seal(
    key: &SigningKey,
    algorithm: Algorithm,
    kid: Option<&str>,
    claims: &impl Serialize,
) -> Result<String, SignError> {
    #[derive(Serialize)]
    struct WrittenHeader<'a> {
        alg: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        kid: Option<&'a str>,
        typ: &'static str,
    }
    let header = serde_json::to_vec(&WrittenHeader { alg: algorithm.name(), kid, typ: "JWT" })?;
    let claims = serde_json::to_vec(claims)?;
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = key.sign(algorithm, signed.as_bytes())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn decoded(part: &str) -> Result<Vec<u8>, EnvelopeError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| EnvelopeError::Shape)
}

/// Parses an object. Serde would take a list too, with its elements in the order of the fields.
fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, NotAnObject> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(NotAnObject::Another);
    }
    Ok(serde_json::from_slice(json)?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn token(header: &Value, claims: &[u8]) -> String {
        format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn the_other_members_of_a_header_do_no_harm() {
        for (header, kid) in [
            (json!({"alg": "HS256"}), None),
            (json!({"alg": "HS256", "typ": 7, "kid": 7}), None),
            (json!({"alg": "HS256", "kid": {"a": [null]}, "jku": "http://127.0.0.1/", "crit": null}), None),
            (json!({"alg": "HS256", "kid": null, "x5c": false, "jwk": {"k": "AA", "kty": "oct"}}), None),
            (json!({"alg": "HS256", "kid": "k\"1"}), Some("k\"1")),
            (json!({"alg": "HS256", "kid": ""}), None),
            (json!({"alg": "HS256", "kid": "x".repeat(KID_BYTES_MAX + 1)}), None),
        ] {
            let token = token(&header, b"{\"sub\":\"a\"}");
            let envelope = UnverifiedToken::take_apart(&token).expect("opens");
            assert_eq!(envelope.kid.as_deref(), kid, "{header}");
            assert_eq!(&*envelope.claims("sub").unwrap().sub, "a", "{header}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_envelope_is_named() {
        let open = |token: &str| UnverifiedToken::take_apart(token).unwrap_err();
        let with = |header: Value| open(&token(&header, b"{}"));
        assert!(matches!(with(json!({"alg": "HS256", "crit": ["b64"]})), EnvelopeError::Critical));
        assert!(matches!(with(json!({"alg": "none"})), EnvelopeError::Algorithm(name) if name == "none"));
        assert!(matches!(with(json!({"alg": "ES512"})), EnvelopeError::Es512));
        assert!(matches!(with(json!({"alg": "hs256"})), EnvelopeError::Algorithm(_)));
        assert!(matches!(with(json!({"alg": 7})), EnvelopeError::Header(_)));
        assert!(matches!(with(json!({})), EnvelopeError::Header(_)));
        assert!(matches!(with(json!(["HS256", null])), EnvelopeError::Header(NotAnObject::Another)));
        for claims in [&b"{"[..], b"[]", b"7", b""] {
            let token = token(&json!({"alg": "HS256"}), claims);
            let read = UnverifiedToken::take_apart(&token).unwrap().claims("sub");
            assert!(matches!(read, Err(EnvelopeError::Claims(_))), "{claims:?}");
        }
        let good = token(&json!({"alg": "HS256"}), b"{}");
        for (token, why) in [
            (format!("{good}="), "padding"),
            (format!("{good}."), "four parts"),
            (good.replace('.', ""), "one part"),
            (good.replacen('.', " .", 1), "white space"),
        ] {
            assert!(matches!(open(&token), EnvelopeError::Shape), "{why}");
        }
    }

    #[test]
    fn the_user_may_stand_in_another_claim() {
        let user = |claims: &str, name: &str| {
            let token = token(&json!({"alg": "HS256"}), claims.as_bytes());
            UnverifiedToken::take_apart(&token).unwrap().claims(name).map(|claims| claims.sub)
        };
        let claims = r#"{"sub":"a","user_id":42,"email":"a@example.org","list":["a"],"none":null}"#;
        assert_eq!(user(claims, "sub").as_deref().unwrap(), "a");
        assert_eq!(user(claims, "user_id").as_deref().unwrap(), "42");
        assert_eq!(user(claims, "email").as_deref().unwrap(), "a@example.org");
        assert_eq!(user(claims, "none").as_deref().unwrap(), "");
        assert_eq!(user(claims, "missing").as_deref().unwrap(), "", "sub is not taken instead");
        assert!(user(claims, "list").is_err());
    }
}
