//! The answers of a backend, in the shapes of Centrifugo's proxies, and their conversion into the gateway's types.
//!
//! Unknown keys are ignored, and `null` counts as absent.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gateway_core::effect::{
    Capability, Denial, Grant, Identity, Matching, Overrides, Renewal, Rights, ServerSubscription,
};
use gateway_core::map::{KEY_BYTES_MAX, SetMode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use shared::disconnect::{Disconnect, REASON_BYTES_MAX};
use shared::error::ErrorCode;
use shared::id::UserId;
use shared::moment::Moment;
use shared::publication::{Payload, is_json};
use shared::refusal::{CUSTOM_CODES, MESSAGE_BYTES_MAX, Refusal};

use super::failure::HookFailure;
use super::poll_hook::PollResult;
use super::socketio_hook;
use crate::clock::Clock;

/// The longest name of a user, in bytes: it stands in every publication of the user.
const USER_BYTES_MAX: usize = 1_024;

/// The answer of a publish hook that lets a publication pass.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PublishAnswer {
    /// Published in place of what the client sent.
    pub data: Option<Payload>,
    pub skip_history: bool,
    pub tags: BTreeMap<Box<str>, Box<str>>,
    pub idempotency_key: Box<str>,
    pub delta: bool,
    pub version: u64,
    pub version_epoch: Box<str>,
}

/// The answer of a hook that lets a change of a key pass. For a removal, only the key, the tags and the idempotency key count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyAnswer {
    /// The key to change in place of the one that the client named.
    pub key: Option<Box<str>>,
    /// The value in place of the one that the client sent.
    pub data: Option<Payload>,
    pub tags: Option<BTreeMap<Box<str>, Box<str>>>,
    pub mode: SetMode,
    pub idempotency_key: Box<str>,
    pub delta: bool,
    pub version: u64,
    pub version_epoch: Box<str>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "T: DeserializeOwned"))]
struct HookResponseBody<T> {
    result: Option<T>,
    error: Option<WireError>,
    disconnect: Option<WireDisconnect>,
}

#[derive(Deserialize)]
struct WireError {
    code: u32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    temporary: bool,
}

#[derive(Deserialize)]
struct WireDisconnect {
    code: u32,
    #[serde(default)]
    reason: String,
}

/// Parses an answer. The outer result: whether the answer is valid. The inner: what the backend decided.
pub(super) fn read_envelope<T: DeserializeOwned>(
    body: &[u8],
) -> Result<Result<Option<T>, Denial>, HookFailure> {
    // The whole text is checked, because the parser does not look closely at keys that it ignores.
    let text = std::str::from_utf8(body).map_err(|error| HookFailure::Malformed(error.to_string()))?;
    let envelope: HookResponseBody<T> =
        serde_json::from_str(text).map_err(|error| HookFailure::Malformed(error.to_string()))?;
    if let Some(WireDisconnect { code, mut reason }) = envelope.disconnect {
        cut(&mut reason, REASON_BYTES_MAX);
        let disconnect = u16::try_from(code).ok().and_then(|code| Disconnect::custom(code, &reason));
        let disconnect = disconnect.ok_or_else(|| {
            HookFailure::Malformed(format!("{code} is not a code of a disconnect, 3000 to 4999"))
        })?;
        return Ok(Err(Denial::Disconnect(disconnect)));
    }
    if let Some(WireError { code, mut message, temporary }) = envelope.error {
        let is_known = ErrorCode::ALL.iter().any(|known| known.code() == code);
        if !is_known && !CUSTOM_CODES.contains(&code) {
            let problem = format!("{code} is not a code of an error, 400 to 1999 or one of the protocol's");
            return Err(HookFailure::Malformed(problem));
        }
        cut(&mut message, MESSAGE_BYTES_MAX);
        return Ok(Err(Denial::Error(Refusal { code, message: message.into(), temporary })));
    }
    Ok(Ok(envelope.result))
}

/// Shortens a text to this many bytes, at the end of a character.
fn cut(text: &mut String, bytes_max: usize) {
    while text.len() > bytes_max {
        text.pop();
    }
}

/// What is wrong with a result that could be parsed.
pub(super) type InvalidResult = String;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConnectResult {
    user: String,
    expire_at: Option<i64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    channels: Option<Vec<Box<str>>>,
    subs: Option<BTreeMap<Box<str>, Option<SubscribeResult>>>,
    meta: Option<Box<RawValue>>,
    caps: Option<Vec<WireCapability>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireCapability {
    channels: Option<Vec<Box<str>>>,
    allow: Option<Vec<Box<str>>>,
    #[serde(rename = "match")]
    matching: Box<str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SubscribeResult {
    expire_at: Option<i64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<WireOverrides>,
    allow: Option<Vec<Box<str>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireOverrides {
    presence: Option<BoolValue>,
    join_leave: Option<BoolValue>,
    force_recovery: Option<BoolValue>,
    force_positioning: Option<BoolValue>,
    force_push_join_leave: Option<BoolValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BoolValue {
    value: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RefreshResult {
    expired: bool,
    expire_at: Option<i64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    meta: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PublishResult {
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    skip_history: bool,
    tags: Option<BTreeMap<Box<str>, Box<str>>>,
    idempotency_key: Option<Box<str>>,
    delta: bool,
    version: u64,
    version_epoch: Option<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyResult {
    key: Option<Box<str>>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    tags: Option<BTreeMap<Box<str>, Box<str>>>,
    key_mode: Option<Box<str>>,
    idempotency_key: Option<Box<str>>,
    delta: bool,
    version: u64,
    version_epoch: Option<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RpcResult {
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
}

impl ConnectResult {
    /// Returns `Ok(None)` if the grant has ended already.
    pub(super) fn into_identity(self, clock: Clock) -> Result<Option<Identity>, InvalidResult> {
        if self.user.len() > USER_BYTES_MAX {
            return Err(format!("user is longer than {USER_BYTES_MAX} bytes"));
        }
        let Some(expires) = end(self.expire_at, clock) else { return Ok(None) };
        let mut subs = Vec::new();
        for (channel, options) in self.subs.unwrap_or_default() {
            let fault = |fault| format!("subs.{channel}: {fault}");
            let options = options.unwrap_or_default();
            // A subscription that has expired already is left out.
            let Some(expires) = end(options.expire_at, clock) else { continue };
            subs.push(ServerSubscription {
                info: info(options.info, options.b64info).map_err(fault)?,
                data: payload(options.data, options.b64data).map_err(fault)?,
                expires,
                overrides: options.overrides.map(Into::into).unwrap_or_default(),
                members: false,
                channel,
            });
        }
        for channel in self.channels.unwrap_or_default() {
            if !subs.iter().any(|sub| sub.channel == channel) {
                subs.push(ServerSubscription { channel, ..ServerSubscription::default() });
            }
        }
        let caps = self.caps.unwrap_or_default().into_iter().map(Capability::try_from);
        Ok(Some(Identity {
            user: UserId::new(&self.user),
            info: info(self.info, self.b64info)?,
            expires,
            subs,
            meta: meta(self.meta)?,
            caps: caps.collect::<Result<_, _>>()?,
            data: payload(self.data, self.b64data)?,
            ..Identity::default()
        }))
    }
}

impl SubscribeResult {
    /// Returns `Ok(None)` if the grant has ended already.
    pub(super) fn into_grant(self, user: UserId, clock: Clock) -> Result<Option<Grant>, InvalidResult> {
        let Some(expires) = end(self.expire_at, clock) else { return Ok(None) };
        Ok(Some(Grant {
            user,
            shown_as: None,
            info: info(self.info, self.b64info)?,
            expires,
            refreshed_by_server: false,
            data: payload(self.data, self.b64data)?,
            overrides: self.overrides.map(Into::into).unwrap_or_default(),
            allow: rights(self.allow.unwrap_or_default())?,
            identity: None,
            then: None,
            resumed: None,
        }))
    }
}

impl RefreshResult {
    pub(super) fn into_renewal(self, clock: Clock) -> Result<Renewal, InvalidResult> {
        match end(self.expire_at, clock) {
            Some(expires) if !self.expired => {
                Ok(Renewal::Stays { expires, info: info(self.info, self.b64info)?, meta: meta(self.meta)? })
            }
            _ => Ok(Renewal::Expired),
        }
    }
}

impl PublishResult {
    pub(super) fn into_answer(self) -> Result<PublishAnswer, InvalidResult> {
        Ok(PublishAnswer {
            data: of_its_kind(self.data, self.b64data)?,
            skip_history: self.skip_history,
            tags: self.tags.unwrap_or_default(),
            idempotency_key: self.idempotency_key.unwrap_or_default(),
            delta: self.delta,
            version: self.version,
            version_epoch: self.version_epoch.unwrap_or_default(),
        })
    }
}

impl KeyResult {
    pub(super) fn into_answer(self) -> Result<KeyAnswer, InvalidResult> {
        let key = self.key.filter(|key| !key.is_empty());
        if key.as_ref().is_some_and(|key| key.len() > KEY_BYTES_MAX) {
            return Err(format!("key is longer than {KEY_BYTES_MAX} bytes"));
        }
        let mode = match self.key_mode.as_deref().unwrap_or_default() {
            "" => SetMode::Any,
            "if_new" => SetMode::IfNew,
            "if_exists" => SetMode::IfExists,
            _ => return Err("key_mode must be if_new, if_exists or empty".to_owned()),
        };
        Ok(KeyAnswer {
            key,
            data: of_its_kind(self.data, self.b64data)?,
            tags: self.tags,
            mode,
            idempotency_key: self.idempotency_key.unwrap_or_default(),
            delta: self.delta,
            version: self.version,
            version_epoch: self.version_epoch.unwrap_or_default(),
        })
    }
}

impl RpcResult {
    pub(super) fn into_data(self) -> Result<Option<Payload>, InvalidResult> {
        of_its_kind(self.data, self.b64data)
    }
}

impl TryFrom<WireCapability> for Capability {
    type Error = InvalidResult;

    fn try_from(written: WireCapability) -> Result<Self, InvalidResult> {
        let matching = match &*written.matching {
            "" => Matching::Exact,
            "wildcard" => Matching::Wildcard,
            other => return Err(format!("caps: match is \"{other}\", must be \"\" or \"wildcard\"")),
        };
        let channels = written.channels.unwrap_or_default().into();
        Ok(Self { channels, matching, allow: rights(written.allow.unwrap_or_default())? })
    }
}

impl From<WireOverrides> for Overrides {
    fn from(written: WireOverrides) -> Self {
        let value = |written: Option<BoolValue>| written.map(|written| written.value);
        Self {
            presence: value(written.presence),
            join_leave: value(written.join_leave),
            force_recovery: value(written.force_recovery),
            force_positioning: value(written.force_positioning),
            force_push_join_leave: value(written.force_push_join_leave),
        }
    }
}

fn rights(allow: Vec<Box<str>>) -> Result<Rights, InvalidResult> {
    let mut rights = Rights::default();
    for right in allow {
        match &*right {
            "sub" => rights.subscribe = true,
            "pub" => rights.publish = true,
            "prs" => rights.presence = true,
            "hst" => rights.history = true,
            other => return Err(format!("allow: \"{other}\" is not one of sub, pub, prs, hst")),
        }
    }
    Ok(rights)
}

/// Converts a time of expiry in seconds since 1970; 0 is never. `None`: it has passed.
fn end(expire_at: Option<i64>, clock: Clock) -> Option<Option<Moment>> {
    match expire_at {
        None | Some(0) => Some(None),
        Some(at) => {
            let left =
                u64::try_from(at.saturating_sub(clock.unix_seconds())).ok().filter(|&left| left > 0)?;
            Some(Some(clock.now() + Duration::from_secs(left)))
        }
    }
}

fn decoded(in_base64: Option<String>) -> Result<Option<Bytes>, InvalidResult> {
    let Some(text) = in_base64.filter(|text| !text.is_empty()) else { return Ok(None) };
    STANDARD.decode(text).map(|bytes| Some(bytes.into())).map_err(|error| format!("is not base64: {error}"))
}

/// Returns any bytes: decoded from base64, or the JSON as it stands.
fn payload(json: Option<Box<RawValue>>, in_base64: Option<String>) -> Result<Option<Bytes>, InvalidResult> {
    let bytes = decoded(in_base64)?;
    Ok(bytes.or_else(|| json.map(|json| Bytes::copy_from_slice(json.get().as_bytes()))))
}

/// The same, marked as JSON or binary.
pub(super) fn of_its_kind(
    json: Option<Box<RawValue>>,
    in_base64: Option<String>,
) -> Result<Option<Payload>, InvalidResult> {
    let payload = payload(json, in_base64)?;
    Ok(payload.map(|bytes| if is_json(&bytes) { Payload::json(bytes) } else { Payload::binary(bytes) }))
}

/// Describes how each hook reads an answer, or what is wrong with it: for [`crate::readers`].
pub(crate) fn answers_in_words(body: &[u8]) -> Vec<String> {
    let clock = Clock::start();
    vec![
        describe(body, |result: ConnectResult| result.into_identity(clock)),
        describe(body, |result: SubscribeResult| result.into_grant(UserId::ANONYMOUS, clock)),
        describe(body, |result: RefreshResult| result.into_renewal(clock)),
        describe(body, PublishResult::into_answer),
        describe(body, KeyResult::into_answer),
        describe(body, RpcResult::into_data),
        describe(body, PollResult::into_polled),
        describe(body, socketio_hook::describe),
    ]
}

fn describe<T, U>(body: &[u8], mean: impl Fn(T) -> Result<U, InvalidResult>) -> String
where
    T: DeserializeOwned,
    U: std::fmt::Debug,
{
    match read_envelope::<T>(body) {
        Ok(Ok(result)) => format!("{:?}", result.map(mean)),
        Ok(Err(denial)) => format!("{denial:?}"),
        Err(failure) => failure.to_string(),
    }
}

/// Returns JSON that others can read.
fn info(json: Option<Box<RawValue>>, in_base64: Option<String>) -> Result<Option<Bytes>, InvalidResult> {
    match payload(json, in_base64)? {
        Some(bytes) if !is_json(&bytes) => Err("b64info does not contain JSON".to_owned()),
        info => Ok(info),
    }
}

fn meta(json: Option<Box<RawValue>>) -> Result<Option<Bytes>, InvalidResult> {
    match json {
        Some(json) if !json.get().starts_with('{') => Err("meta is not an object".to_owned()),
        json => payload(json, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn denied(body: &str) -> Result<Denial, String> {
        match read_envelope::<Value>(body.as_bytes()) {
            Ok(Err(denied)) => Ok(denied),
            Ok(Ok(result)) => Err(format!("{result:?}")),
            Err(failure) => Err(failure.label().to_owned()),
        }
    }

    #[test]
    fn a_backends_own_codes_are_passed_on_and_others_are_malformed() {
        let refused = |code, message: &'static str, temporary| {
            Ok(Denial::Error(Refusal { code, message: message.into(), temporary }))
        };
        for (body, expected) in [
            (r#"{"error":{"code":400,"message":"no","temporary":true}}"#, refused(400, "no", true)),
            (r#"{"error":{"code":1999,"message":"no"}}"#, refused(1999, "no", false)),
            (r#"{"error":{"code":103,"message":"not you"},"result":{}}"#, refused(103, "not you", false)),
        ] {
            assert_eq!(denied(body), expected, "{body}");
        }
        for code in [0, 99, 114, 399, 2_000, 4_000] {
            let body = format!(r#"{{"error":{{"code":{code},"message":"no"}}}}"#);
            assert_eq!(denied(&body), Err("malformed".to_owned()), "{code}");
        }
        let custom = Disconnect::custom(4_001, "bye").unwrap();
        let body = r#"{"disconnect":{"code":4001,"reason":"bye"},"error":{"code":400,"message":""}}"#;
        assert_eq!(denied(body), Ok(Denial::Disconnect(custom)));
        for code in [0, 1_000, 2_999, 5_000, 70_000] {
            let body = format!(r#"{{"disconnect":{{"code":{code},"reason":"bye"}}}}"#);
            assert_eq!(denied(&body), Err("malformed".to_owned()), "{code}");
        }
        for body in ["", "[]", "nothing", r#"{"error":{"code":-1}}"#, r#"{"error":{"code":"x"}}"#] {
            assert_eq!(denied(body), Err("malformed".to_owned()), "{body}");
        }
        let reason = "é".repeat(100);
        let body = format!(r#"{{"disconnect":{{"code":4999,"reason":"{reason}"}}}}"#);
        let Ok(Denial::Disconnect(cut)) = denied(&body) else { panic!("{body}") };
        assert_eq!(cut.reason.len(), 122, "a close frame holds no more");
    }

    fn identity(body: &str) -> Result<Option<Identity>, InvalidResult> {
        let read = read_envelope::<ConnectResult>(body.as_bytes()).map_err(|failure| failure.to_string())?;
        let result = read.map_err(|denied| format!("{denied:?}"))?.ok_or("no result")?;
        result.into_identity(Clock::start())
    }

    #[test]
    fn what_a_connect_hook_gives_becomes_an_identity() {
        let body = r#"{"result":{"user":"ann","info":{"name": "Ann"},"b64data":"AAE=","channels":["news","a:b"],
            "subs":{"news":{"data":[1],"override":{"presence":{"value":true},"join_leave":{}}},"c":null},
            "meta":{"plan":1},"caps":[{"channels":["u_*"],"match":"wildcard","allow":["pub","hst"]}],
            "labels":{"not":"known"}}}"#;
        let identity = identity(body).unwrap().unwrap();
        assert_eq!(identity.user.as_str(), "ann");
        assert_eq!(identity.info.as_deref(), Some(&b"{\"name\": \"Ann\"}"[..]));
        assert_eq!(identity.data.as_deref(), Some(&[0, 1][..]));
        assert_eq!(identity.meta.as_deref(), Some(&b"{\"plan\":1}"[..]));
        let channels: Vec<&str> = identity.subs.iter().map(|sub| &*sub.channel).collect();
        assert_eq!(channels, ["c", "news", "a:b"], "none is there twice");
        let news = &identity.subs[1];
        assert_eq!(news.data.as_deref(), Some(&b"[1]"[..]));
        let overrides = Overrides { presence: Some(true), join_leave: Some(false), ..Overrides::default() };
        assert_eq!(news.overrides, overrides);
        let caps = &identity.caps[0];
        assert_eq!(caps.matching, Matching::Wildcard);
        assert_eq!(caps.allow, Rights { publish: true, history: true, ..Rights::default() });
        assert_eq!(identity.expires, None);
    }

    #[test]
    fn a_result_that_says_nothing_is_an_anonymous_client_and_one_that_has_ended_is_none() {
        assert_eq!(identity(r#"{"result":{}}"#), Ok(Some(Identity::default())));
        let nulls =
            r#"{"result":{"info":null,"data":null,"subs":null,"expire_at":null,"caps":null},"error":null}"#;
        assert_eq!(identity(nulls), Ok(Some(Identity::default())));
        assert_eq!(identity(r#"{"result":{"user":"ann","expire_at":1}}"#), Ok(None));
        assert_eq!(identity(r#"{"result":{"user":"ann","expire_at":-9223372036854775808}}"#), Ok(None));
        let far = identity(r#"{"result":{"user":"ann","expire_at":9223372036854775807}}"#);
        assert!(far.unwrap().unwrap().expires.is_some());
    }

    #[test]
    fn what_cannot_be_meant_is_told_by_its_key() {
        for (body, told) in [
            (r#"{"result":{"b64info":"AAE="}}"#, "b64info"),
            (r#"{"result":{"b64data":"%"}}"#, "base64"),
            (r#"{"result":{"meta":[1]}}"#, "meta"),
            (r#"{"result":{"caps":[{"allow":["all"]}]}}"#, "allow"),
            (r#"{"result":{"caps":[{"match":"regex"}]}}"#, "caps"),
            (r#"{"result":{"subs":{"news":{"b64info":"AAE="}}}}"#, "subs.news"),
            (r#"{"result":{"user":7}}"#, "invalid type"),
        ] {
            let fault = identity(body).unwrap_err();
            assert!(fault.contains(told), "{body}: {fault}");
        }
    }

    #[test]
    fn who_is_said_to_stay_stays_and_who_has_expired_does_not() {
        let refreshed = |body: &str| {
            let result: RefreshResult = serde_json::from_str(body).unwrap();
            result.into_renewal(Clock::start()).unwrap()
        };
        let stays = Renewal::Stays { expires: None, info: None, meta: None };
        assert_eq!(refreshed("{}"), stays);
        assert_eq!(refreshed(r#"{"expired":true,"expire_at":99999999999}"#), Renewal::Expired);
        assert_eq!(refreshed(r#"{"expire_at":1}"#), Renewal::Expired);
        let until = refreshed(r#"{"expire_at":99999999999}"#);
        assert!(matches!(until, Renewal::Stays { expires: Some(_), .. }), "{until:?}");
    }

    proptest! {
        #[test]
        fn no_answer_however_strange_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            read_all(&body);
        }

        #[test]
        fn no_answer_of_known_keys_panics(
            key in "expire_at|user|b64info|b64data|subs|channels|meta|caps|allow|tags|version|code",
            value in r#"-?[0-9]{1,22}|"[a-zA-Z0-9=]{0,8}"|\[\]|\{\}|null|true|[0-9]\.[0-9]e[0-9]{1,3}"#,
            place in "result|error|disconnect",
        ) {
            read_all(format!(r#"{{"{place}":{{"{key}":{value}}}}}"#).as_bytes());
        }
    }

    fn read_all(body: &[u8]) {
        answers_in_words(body);
    }
}
