//! What a token says, once its signature has been checked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gateway_core::session::Unserved;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use shared::publication::is_json;

/// The claims that mean something here. Others are passed over, as RFC 7519 §4 asks. `null` is the same as nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Claims {
    /// The user. Empty: anonymous.
    #[serde(deserialize_with = "user")]
    pub(super) sub: Box<str>,
    aud: Value,
    iss: Value,
    exp: Option<Seconds>,
    nbf: Option<Seconds>,
    expire_at: Option<Seconds>,
    /// Subscription tokens only.
    pub(super) channel: Option<Box<str>>,
    /// The one client a subscription token is for. Deprecated in the protocol; empty: any of the user's.
    client: Option<Box<str>>,
    info: Option<Box<RawValue>>,
    b64info: Option<Box<str>>,
    // What is not served.
    channels: Value,
    subs: Value,
    data: Value,
    b64data: Value,
    #[serde(rename = "override")]
    overrides: Value,
}

fn asks_something(claim: &Value) -> bool {
    match claim {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
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
    /// Whether the audience is one that the token names.
    pub(super) fn is_for(&self, audience: &str) -> bool {
        match &self.aud {
            Value::Array(named) => named.iter().any(|named| named == audience),
            named => named == audience,
        }
    }

    pub(super) fn is_by(&self, issuer: &str) -> bool {
        self.iss == issuer
    }

    /// What a connection token asks for in vain.
    pub(super) fn unserved_in_connection(&self) -> impl Iterator<Item = Unserved> {
        let asked = [(Unserved::TokenChannels, &self.channels), (Unserved::TokenSubs, &self.subs)];
        asked.into_iter().filter(|(_, claim)| asks_something(claim)).map(|(what, _)| what)
    }

    /// What a subscription token asks for in vain.
    pub(super) fn unserved_in_subscription(&self) -> impl Iterator<Item = Unserved> {
        let data = if asks_something(&self.data) { &self.data } else { &self.b64data };
        let asked = [(Unserved::TokenData, data), (Unserved::TokenOverride, &self.overrides)];
        asked.into_iter().filter(|(_, claim)| asks_something(claim)).map(|(what, _)| what)
    }

    /// The one client that the token is for, if it is for one.
    pub(super) fn only_for(&self) -> Option<&str> {
        self.client.as_deref().filter(|client| !client.is_empty())
    }

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
        let in_base64 = self.b64info.as_deref().filter(|text| !text.is_empty());
        let info = match (in_base64, &self.info) {
            (Some(text), _) => STANDARD.decode(text).map_err(drop)?,
            (None, Some(info)) => info.get().as_bytes().to_vec(),
            (None, None) => return Ok(None),
        };
        if is_json(&info) { Ok(Some(info.into())) } else { Err(()) }
    }
}

/// A user by name or by number. A number is its digits as they were written: many issuers count their users past what
/// a float can tell apart.
fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<str>, D::Error> {
    let Some(written) = Option::<Box<RawValue>>::deserialize(deserializer)? else {
        return Ok(Box::default());
    };
    match written.get() {
        number if number.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
            Ok(number.into())
        }
        text => serde_json::from_str(text)
            .map_err(|_| serde::de::Error::custom("sub is neither a text nor a number")),
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
    fn a_user_is_a_text_or_the_digits_of_a_number() {
        let user = |json: &str| claims(json).sub;
        assert_eq!(&*user(r#"{"sub":"al\u0069ce"}"#), "alice");
        assert_eq!(&*user(r#"{"sub":7}"#), "7");
        assert_eq!(&*user(r#"{"sub":-7}"#), "-7");
        assert_eq!(&*user(r#"{"sub":123456789012345678901234567890}"#), "123456789012345678901234567890");
        assert_eq!(&*user("{}"), "");
        for bad in [r#"{"sub":true}"#, r#"{"sub":["a"]}"#, r#"{"sub":{"a":1}}"#] {
            assert!(serde_json::from_str::<Claims>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn null_means_missing_in_every_claim() {
        let names = ["sub", "aud", "iss", "exp", "nbf", "expire_at", "channel", "client", "info", "b64info"];
        let all = names.map(|name| format!("\"{name}\":null")).join(",");
        let read = claims(&format!("{{{all}}}"));
        assert_eq!(format!("{read:?}"), format!("{:?}", claims("{}")));
        assert_eq!(read.expires_at(1_000, 0), Ok(None));
        assert_eq!(read.info(), Ok(None));
        assert_eq!((read.channel.as_deref(), read.only_for()), (None, None));
        assert!(!read.is_for("") && !read.is_by(""));
    }

    #[test]
    fn what_is_asked_for_in_vain_is_known_by_its_claim() {
        let connection = |json: &str| claims(json).unserved_in_connection().collect::<Vec<_>>();
        assert_eq!(
            connection(r#"{"channels":["a"],"subs":{"b":{}}}"#),
            [Unserved::TokenChannels, Unserved::TokenSubs]
        );
        assert_eq!(connection(r#"{"channels":[],"subs":null,"data":1}"#), []);
        let subscription = |json: &str| claims(json).unserved_in_subscription().collect::<Vec<_>>();
        assert_eq!(subscription(r#"{"data":{"a":1}}"#), [Unserved::TokenData]);
        assert_eq!(subscription(r#"{"b64data":"e30="}"#), [Unserved::TokenData]);
        assert_eq!(subscription(r#"{"override":{"presence":{"value":true}}}"#), [Unserved::TokenOverride]);
        assert_eq!(subscription(r#"{"channels":["a"],"b64data":"","override":{}}"#), []);
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
