//! The claims of a token, once its signature has been checked.

use std::collections::BTreeMap;

use bytes::Bytes;
use gateway_core::effect::{Capability, Overrides, Rights, ServerSubscription, Updates};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::granted::{CapabilityClaim, InvalidClaim, SubscriptionClaim, UpdatesClaim, json_of, rights_of};

/// The claims that the gateway reads. Others are ignored, as RFC 7519 §4 asks. `null` counts as absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenClaims {
    /// The user, unless the configuration names another claim. Empty: anonymous.
    #[serde(deserialize_with = "user")]
    pub(super) sub: Box<str>,
    aud: Value,
    iss: Value,
    exp: Option<Seconds>,
    nbf: Option<Seconds>,
    expire_at: Option<Seconds>,
    info: Option<Box<RawValue>>,
    b64info: Option<Box<str>>,
    // In connection tokens only.
    channels: Option<Vec<Box<str>>>,
    subs: Option<BTreeMap<Box<str>, Option<SubscriptionClaim>>>,
    meta: Option<Box<RawValue>>,
    caps: Option<Vec<CapabilityClaim>>,
    // In subscription tokens only.
    pub(super) channel: Option<Box<str>>,
    /// The one client that a subscription token is for. Deprecated in the protocol; empty: any client of the user.
    client: Option<Box<str>>,
    data: Option<Box<RawValue>>,
    b64data: Option<Box<str>>,
    #[serde(rename = "override")]
    overrides: Option<super::granted::OverrideClaim>,
    allow: Option<Vec<Box<str>>>,
    /// What the client may do with Mercure updates.
    mercure: Option<UpdatesClaim>,
}

/// What is wrong with the times of a token whose signature is right. In seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TokenTimeError {
    /// `exp` has passed: a fresh token may be accepted.
    Expired(i64),
    /// `nbf` lies in the future.
    Early(i64),
    /// The token's grant has ended already, by its `expire_at`.
    Ended(i64),
}

impl TokenClaims {
    /// Whether one of the token's audiences is the right one.
    pub(super) fn is_for(&self, is_right: impl Fn(&str) -> bool) -> bool {
        let names_it = |named: &Value| named.as_str().is_some_and(&is_right);
        match &self.aud {
            Value::Array(named) => named.iter().any(names_it),
            named => names_it(named),
        }
    }

    pub(super) fn is_by(&self, is_right: impl Fn(&str) -> bool) -> bool {
        self.iss.as_str().is_some_and(is_right)
    }

    /// Returns the one client that the token is for, if it names one.
    pub(super) fn only_for(&self) -> Option<&str> {
        self.client.as_deref().filter(|client| !client.is_empty())
    }

    /// Returns when the token's grant ends, in seconds since 1970; `None` if it does not end.
    pub(super) fn expires_at(&self, now: i64, leeway: i64) -> Result<Option<i64>, TokenTimeError> {
        if let Some(exp) = self.exp.filter(|exp| exp.plus(leeway) <= now) {
            return Err(TokenTimeError::Expired(exp.0));
        }
        if let Some(nbf) = self.nbf.filter(|nbf| nbf.0 > now.saturating_add(leeway)) {
            return Err(TokenTimeError::Early(nbf.0));
        }
        let end = match self.expire_at {
            Some(Seconds(0)) => None,
            Some(end) => Some(end.plus(leeway)),
            None => self.exp.map(|exp| exp.plus(leeway)),
        };
        match (end, self.expire_at) {
            (Some(end), expire_at) if end <= now => {
                Err(TokenTimeError::Ended(expire_at.map_or(end, |expire_at| expire_at.0)))
            }
            (end, _) => Ok(end),
        }
    }

    /// Returns the JSON shown to others.
    pub(super) fn info(&self) -> Result<Option<Bytes>, InvalidClaim> {
        json_of("info", self.info.as_deref(), self.b64info.as_deref())
    }

    /// Returns the JSON for the client itself, sent with its subscription.
    pub(super) fn data(&self) -> Result<Option<Bytes>, InvalidClaim> {
        json_of("data", self.data.as_deref(), self.b64data.as_deref())
    }

    pub(super) fn overrides(&self) -> Overrides {
        self.overrides.as_ref().map(|claim| claim.overrides()).unwrap_or_default()
    }

    /// Returns the rights of the subscriber in the channel, beside those that the channel's rules grant.
    pub(super) fn allow(&self) -> Result<Rights, InvalidClaim> {
        rights_of(self.allow.as_deref().unwrap_or_default())
    }

    /// Returns the JSON object for the application's own servers.
    pub(super) fn meta(&self) -> Result<Option<Bytes>, InvalidClaim> {
        match json_of("meta", self.meta.as_deref(), None)? {
            Some(meta) if !meta.starts_with(b"{") => Err(InvalidClaim::Meta),
            meta => Ok(meta),
        }
    }

    /// Returns the server-side subscriptions of the client. `channels` is ignored where there are `subs`.
    pub(super) fn server_subscriptions(&self) -> Result<Vec<ServerSubscription>, InvalidClaim> {
        let plain = |channel: &str| ServerSubscription { channel: channel.into(), ..Default::default() };
        if let Some(subs) = self.subs.as_ref().filter(|subs| !subs.is_empty()) {
            let subscriptions = subs.iter().map(|(channel, claim)| match claim {
                Some(claim) => claim.subscription(channel),
                None => Ok(plain(channel)),
            });
            return subscriptions.collect();
        }
        let mut channels: Vec<&str> = self.channels.iter().flatten().map(|channel| &**channel).collect();
        channels.sort_unstable();
        channels.dedup();
        Ok(channels.into_iter().map(plain).collect())
    }

    pub(super) fn updates(&self) -> Result<Option<Box<Updates>>, InvalidClaim> {
        self.mercure.as_ref().map(UpdatesClaim::updates).transpose()
    }

    pub(super) fn capabilities(&self) -> Result<Box<[Capability]>, InvalidClaim> {
        super::granted::capabilities(self.caps.as_deref().unwrap_or_default())
    }
}

fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<str>, D::Error> {
    match Option::<Box<RawValue>>::deserialize(deserializer)? {
        Some(written) => user_of(&written, "sub").map_err(serde::de::Error::custom),
        None => Ok(Box::default()),
    }
}

/// Returns a user given as a text or a number. A number is kept as the digits that were written: many issuers number
/// their users beyond what a float can tell apart.
pub(super) fn user_of(written: &RawValue, claim: &str) -> Result<Box<str>, serde_json::Error> {
    match written.get() {
        "null" => Ok(Box::default()),
        number if number.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
            Ok(number.into())
        }
        text => serde_json::from_str(text)
            .map_err(|_| serde::de::Error::custom(format_args!("{claim} is neither a string nor a number"))),
    }
}

/// A `NumericDate` (RFC 7519 §2): seconds since 1970, with fractions of a second cut off.
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
            // Within these bounds every float without a fraction is an i64.
            (cut.abs() < 9.0e18).then_some(cut as i64)
        });
        whole.map(Self).ok_or_else(|| serde::de::Error::custom("a time that is out of range"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> TokenClaims {
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
        assert_eq!(end(r#"{"exp":1000}"#), Err(TokenTimeError::Expired(1_000)));
        assert_eq!(end(r#"{"exp":1000,"expire_at":0}"#), Err(TokenTimeError::Expired(1_000)));
        assert_eq!(end(r#"{"expire_at":1000}"#), Err(TokenTimeError::Ended(1_000)));
        assert_eq!(end(r#"{"exp":2000,"expire_at":-5}"#), Err(TokenTimeError::Ended(-5)));
        assert_eq!(end(r#"{"nbf":1000}"#), Ok(None));
        assert_eq!(end(r#"{"nbf":1001}"#), Err(TokenTimeError::Early(1_001)));
    }

    #[test]
    fn leeway_widens_a_tokens_time_at_both_ends() {
        let end = |json: &str| claims(json).expires_at(1_000, 30);
        assert_eq!(end(r#"{"exp":971}"#), Ok(Some(1_001)));
        assert_eq!(end(r#"{"exp":970}"#), Err(TokenTimeError::Expired(970)));
        assert_eq!(end(r#"{"nbf":1030}"#), Ok(None));
        assert_eq!(end(r#"{"nbf":1031}"#), Err(TokenTimeError::Early(1_031)));
        assert_eq!(end(&format!(r#"{{"exp":{}}}"#, i64::MAX)), Ok(Some(i64::MAX)));
    }

    #[test]
    fn a_time_is_a_number_within_bounds() {
        for bad in [r#"{"exp":"1000"}"#, r#"{"exp":1e300}"#, r#"{"exp":true}"#, r#"{"nbf":[]}"#] {
            assert!(serde_json::from_str::<TokenClaims>(bad).is_err(), "{bad}");
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
            assert!(serde_json::from_str::<TokenClaims>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn null_means_missing_in_every_claim() {
        let names = [
            "sub",
            "aud",
            "iss",
            "exp",
            "nbf",
            "expire_at",
            "channel",
            "client",
            "info",
            "b64info",
            "channels",
            "subs",
            "meta",
            "caps",
            "data",
            "b64data",
            "override",
            "allow",
        ];
        let all = names.map(|name| format!("\"{name}\":null")).join(",");
        let read = claims(&format!("{{{all}}}"));
        assert_eq!(format!("{read:?}"), format!("{:?}", claims("{}")));
        assert_eq!(read.expires_at(1_000, 0), Ok(None));
        assert_eq!((read.info(), read.data(), read.meta()), (Ok(None), Ok(None), Ok(None)));
        assert_eq!((read.channel.as_deref(), read.only_for()), (None, None));
        assert_eq!(read.server_subscriptions(), Ok(vec![]));
        assert_eq!(read.capabilities(), Ok(Box::default()));
        assert!(!read.is_for(|_| true) && !read.is_by(|_| true));
    }

    #[test]
    fn subs_count_and_channels_only_without_them() {
        let names = |json: &str| {
            let subs = claims(json).server_subscriptions().unwrap();
            subs.into_iter().map(|sub| sub.channel.into_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(r#"{"channels":["b","a","b"]}"#), ["a", "b"]);
        assert_eq!(names(r#"{"channels":["a"],"subs":{"x":{},"y":null}}"#), ["x", "y"]);
        assert_eq!(names(r#"{"channels":["a"],"subs":{}}"#), ["a"]);
    }

    #[test]
    fn a_subscription_has_its_own_info_data_and_overrides() {
        let read = claims(
            r#"{"subs":{"news":{"info":{"a":1},"b64data":"eyJiIjoyfQ==","override":{"presence":{"value":false},
            "force_recovery":{"value":true},"join_leave":null,"later":{"value":1}}}}}"#,
        );
        let subs = read.server_subscriptions().unwrap();
        let expected = ServerSubscription {
            channel: "news".into(),
            info: Some(Bytes::from_static(br#"{"a":1}"#)),
            data: Some(Bytes::from_static(br#"{"b":2}"#)),
            expires: None,
            members: false,
            overrides: Overrides {
                presence: Some(false),
                force_recovery: Some(true),
                ..Overrides::default()
            },
        };
        assert_eq!(subs, [expected]);
        for bad in [r#"{"subs":{"news":{"b64info":"?"}}}"#, r#"{"subs":{"news":{"b64data":"AAAA"}}}"#] {
            assert!(claims(bad).server_subscriptions().is_err(), "{bad}");
        }
        for bad in [
            r#"{"subs":{"news":{"override":{"presence":{"value":1}}}}}"#,
            r#"{"subs":["news"]}"#,
            r#"{"channels":"news"}"#,
        ] {
            assert!(serde_json::from_str::<TokenClaims>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn meta_is_an_object() {
        let meta = |json: &str| claims(json).meta();
        assert_eq!(meta(r#"{"meta":{"a": 1}}"#), Ok(Some(Bytes::from_static(br#"{"a": 1}"#))));
        assert_eq!(meta(r#"{"meta":[1]}"#), Err(InvalidClaim::Meta));
        assert_eq!(meta(r#"{"meta":"a"}"#), Err(InvalidClaim::Meta));
    }

    #[test]
    fn info_is_json_however_it_is_given() {
        let info = |json: &str| claims(json).info().map(|info| info.map(|info| info.to_vec()));
        assert_eq!(info(r#"{"info":{"a": 1}}"#), Ok(Some(br#"{"a": 1}"#.to_vec())));
        assert_eq!(info(r#"{"info":null}"#), Ok(None));
        assert_eq!(info(r#"{"b64info":"eyJhIjoxfQ==","info":7}"#), Ok(Some(br#"{"a":1}"#.to_vec())));
        assert_eq!(info(r#"{"b64info":"AAAA"}"#), Err(InvalidClaim::NotJson("info")));
        assert_eq!(info(r#"{"b64info":"?"}"#), Err(InvalidClaim::NotJson("info")));
        let deep = format!(r#"{{"info":{}{}}}"#, "[".repeat(1_000), "]".repeat(1_000));
        assert_eq!(info(&deep), Err(InvalidClaim::NotJson("info")));
    }
}
