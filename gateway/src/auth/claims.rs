//! What a token says, once its signature has been checked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use shared::publication::is_json;

/// The claims that mean something here. Others are passed over, as RFC 7519 §4 asks.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Claims {
    /// The user. Empty: anonymous.
    pub(super) sub: Box<str>,
    exp: Option<Seconds>,
    nbf: Option<Seconds>,
    expire_at: Option<Seconds>,
    /// Subscription tokens only.
    pub(super) channel: Option<Box<str>>,
    /// The one client a subscription token is for. Deprecated in the protocol; empty: any of the user's.
    pub(super) client: Box<str>,
    info: Option<Box<RawValue>>,
    b64info: Box<str>,
}

/// What is wrong with a token whose signature is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Untimely {
    /// Its `exp` is past, or its `nbf` is to come: a fresh token may do.
    TokenExpired,
    /// What it grants has ended already.
    GrantExpired,
}

impl Claims {
    /// When what the token grants ends, in seconds since 1970; `None` if it does not end.
    pub(super) fn expires_at(&self, now: i64, leeway: i64) -> Result<Option<i64>, Untimely> {
        if self.exp.is_some_and(|exp| exp.plus(leeway) <= now) {
            return Err(Untimely::TokenExpired);
        }
        if self.nbf.is_some_and(|nbf| nbf.0 > now.saturating_add(leeway)) {
            return Err(Untimely::TokenExpired);
        }
        let end = match self.expire_at {
            Some(Seconds(0)) => None,
            Some(end) => Some(end.plus(leeway)),
            None => self.exp.map(|exp| exp.plus(leeway)),
        };
        match end {
            Some(end) if end <= now => Err(Untimely::GrantExpired),
            end => Ok(end),
        }
    }

    /// The JSON shown to others. `Err` if it is none that others can read.
    pub(super) fn info(&self) -> Result<Option<Bytes>, ()> {
        let info = match &self.info {
            _ if !self.b64info.is_empty() => STANDARD.decode(self.b64info.as_bytes()).map_err(drop)?,
            Some(info) => info.get().as_bytes().to_vec(),
            None => return Ok(None),
        };
        if is_json(&info) { Ok(Some(info.into())) } else { Err(()) }
    }
}

/// A `NumericDate` (RFC 7519 §2): seconds since 1970, of which a part of a second is cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seconds(i64);

impl Seconds {
    fn plus(self, seconds: i64) -> i64 {
        self.0.saturating_add(seconds)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let whole = number.as_i64().or_else(|| {
            let cut = number.as_f64()?.trunc();
            // Within these bounds every float is a whole number of i64.
            (cut.abs() < 9.0e18).then_some(cut as i64)
        });
        whole.map(Self).ok_or_else(|| serde::de::Error::custom("a time that is out of all bounds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Claims {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_token_ends_with_its_exp_unless_expire_at_says_otherwise() {
        let end = |json: &str| claims(json).expires_at(1_000, 0);
        assert_eq!(end("{}"), Ok(None));
        assert_eq!(end(r#"{"exp":1001}"#), Ok(Some(1_001)));
        assert_eq!(end(r#"{"exp":1001.9}"#), Ok(Some(1_001)));
        assert_eq!(end(r#"{"exp":1001,"expire_at":2000}"#), Ok(Some(2_000)));
        assert_eq!(end(r#"{"exp":1001,"expire_at":0}"#), Ok(None));
        assert_eq!(end(r#"{"exp":1000}"#), Err(Untimely::TokenExpired));
        assert_eq!(end(r#"{"exp":1000,"expire_at":0}"#), Err(Untimely::TokenExpired));
        assert_eq!(end(r#"{"expire_at":1000}"#), Err(Untimely::GrantExpired));
        assert_eq!(end(r#"{"exp":2000,"expire_at":-5}"#), Err(Untimely::GrantExpired));
        assert_eq!(end(r#"{"nbf":1000}"#), Ok(None));
        assert_eq!(end(r#"{"nbf":1001}"#), Err(Untimely::TokenExpired));
    }

    #[test]
    fn leeway_widens_a_tokens_time_at_both_ends() {
        let end = |json: &str| claims(json).expires_at(1_000, 30);
        assert_eq!(end(r#"{"exp":971}"#), Ok(Some(1_001)));
        assert_eq!(end(r#"{"exp":970}"#), Err(Untimely::TokenExpired));
        assert_eq!(end(r#"{"nbf":1030}"#), Ok(None));
        assert_eq!(end(r#"{"nbf":1031}"#), Err(Untimely::TokenExpired));
        assert_eq!(end(&format!(r#"{{"exp":{}}}"#, i64::MAX)), Ok(Some(i64::MAX)));
    }

    #[test]
    fn a_time_is_a_number_within_bounds() {
        for bad in [r#"{"exp":"1000"}"#, r#"{"exp":1e300}"#, r#"{"exp":true}"#, r#"{"nbf":[]}"#] {
            assert!(serde_json::from_str::<Claims>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn info_is_json_however_it_is_given() {
        let info = |json: &str| claims(json).info().map(|info| info.map(|info| info.to_vec()));
        assert_eq!(info(r#"{"info":{"a": 1}}"#), Ok(Some(br#"{"a": 1}"#.to_vec())));
        assert_eq!(info(r#"{"info":null}"#), Ok(None));
        assert_eq!(info(r#"{"b64info":"eyJhIjoxfQ==","info":7}"#), Ok(Some(br#"{"a":1}"#.to_vec())));
        assert_eq!(info(r#"{"b64info":"AAAA"}"#), Err(()));
        assert_eq!(info(r#"{"b64info":"?"}"#), Err(()));
        let deep = format!(r#"{{"info":{}{}}}"#, "[".repeat(1_000), "]".repeat(1_000));
        assert_eq!(info(&deep), Err(()));
    }
}
