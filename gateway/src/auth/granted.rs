//! What claims grant beside the name of a user: subscriptions, overrides of options, capabilities.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gateway_core::effect::{Capability, Matching, Overrides, Rights, ServerSubscription, Updates};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::publication::is_json;
use shared::topic_selector::Selector;

/// The most capabilities of a client.
const CAPABILITIES_MAX: usize = 64;
/// The most channels and patterns in all capabilities of a client together. A command may have to look at each.
const CAPABILITY_CHANNELS_MAX: usize = 512;

/// The most topics to publish to, and to subscribe to. An update may have to be matched with each.
const TOPICS_MAX: usize = 256;

/// Why a claim is invalid.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum InvalidClaim {
    #[error("its {0} is not JSON, or nested too deeply")]
    NotJson(&'static str),
    #[error("its meta is not a JSON object")]
    Meta,
    #[error("it has more than {CAPABILITIES_MAX} caps")]
    Capabilities,
    #[error("its caps name more than {CAPABILITY_CHANNELS_MAX} channels")]
    CapabilityChannels,
    #[error("its caps match by {0:?}, must be exact or wildcard")]
    Matching(Box<str>),
    #[error("its mercure names more than {TOPICS_MAX} topics")]
    Topics,
    #[error("it allows {0:?}, must be one of sub, pub, prs, hst")]
    Right(Box<str>),
}

/// One member of the claim `subs`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SubscriptionClaim {
    info: Option<Box<RawValue>>,
    b64info: Option<Box<str>>,
    data: Option<Box<RawValue>>,
    b64data: Option<Box<str>>,
    #[serde(rename = "override")]
    overrides: Option<OverrideClaim>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OverrideClaim {
    presence: Option<FlagClaim>,
    join_leave: Option<FlagClaim>,
    force_recovery: Option<FlagClaim>,
    force_positioning: Option<FlagClaim>,
    force_push_join_leave: Option<FlagClaim>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct FlagClaim {
    value: bool,
}

/// One element of the claim `caps`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CapabilityClaim {
    channels: Vec<Box<str>>,
    #[serde(rename = "match")]
    matching: Option<Box<str>>,
    allow: Vec<Box<str>>,
}

/// The claim `mercure`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct UpdatesClaim {
    publish: Option<Vec<Box<str>>>,
    subscribe: Option<Vec<Box<str>>>,
    payload: Option<Box<RawValue>>,
}

impl UpdatesClaim {
    pub(super) fn updates(&self) -> Result<Box<Updates>, InvalidClaim> {
        let selectors = |texts: &Option<Vec<Box<str>>>| {
            let texts = texts.as_deref().unwrap_or_default();
            if texts.len() > TOPICS_MAX {
                return Err(InvalidClaim::Topics);
            }
            Ok(texts.iter().map(|text| Selector::new(text)).collect())
        };
        Ok(Box::new(Updates {
            subscribe: selectors(&self.subscribe)?,
            publish: selectors(&self.publish)?,
            payload: json_of("mercure.payload", self.payload.as_deref(), None)?,
        }))
    }
}

impl SubscriptionClaim {
    pub(super) fn subscription(&self, channel: &str) -> Result<ServerSubscription, InvalidClaim> {
        Ok(ServerSubscription {
            channel: channel.into(),
            info: json_of("info", self.info.as_deref(), self.b64info.as_deref())?,
            data: json_of("data", self.data.as_deref(), self.b64data.as_deref())?,
            expires: None,
            overrides: self.overrides.as_ref().map(OverrideClaim::overrides).unwrap_or_default(),
            members: false,
        })
    }
}

impl OverrideClaim {
    pub(super) fn overrides(&self) -> Overrides {
        let value = |flag: Option<FlagClaim>| flag.map(|flag| flag.value);
        Overrides {
            presence: value(self.presence),
            join_leave: value(self.join_leave),
            force_recovery: value(self.force_recovery),
            force_positioning: value(self.force_positioning),
            force_push_join_leave: value(self.force_push_join_leave),
        }
    }
}

pub(super) fn capabilities(claims: &[CapabilityClaim]) -> Result<Box<[Capability]>, InvalidClaim> {
    if claims.len() > CAPABILITIES_MAX {
        return Err(InvalidClaim::Capabilities);
    }
    if claims.iter().map(|claim| claim.channels.len()).sum::<usize>() > CAPABILITY_CHANNELS_MAX {
        return Err(InvalidClaim::CapabilityChannels);
    }
    let capability = |claim: &CapabilityClaim| {
        let matching = match claim.matching.as_deref() {
            None | Some("" | "exact") => Matching::Exact,
            Some("wildcard") => Matching::Wildcard,
            Some(other) => return Err(InvalidClaim::Matching(shortened(other))),
        };
        let channels = claim.channels.clone().into_boxed_slice();
        Ok(Capability { channels, matching, allow: rights_of(&claim.allow)? })
    };
    claims.iter().map(capability).collect()
}

/// Parses the names of rights. Unknown names are errors, so that a misspelled right is not silently missing.
pub(super) fn rights_of(names: &[Box<str>]) -> Result<Rights, InvalidClaim> {
    let mut rights = Rights::default();
    for name in names {
        match &**name {
            "sub" => rights.subscribe = true,
            "pub" => rights.publish = true,
            "prs" => rights.presence = true,
            "hst" => rights.history = true,
            other => return Err(InvalidClaim::Right(shortened(other))),
        }
    }
    Ok(rights)
}

/// Returns the JSON that others can read, given as it is or in base64.
pub(super) fn json_of(
    claim: &'static str,
    plain: Option<&RawValue>,
    base64: Option<&str>,
) -> Result<Option<Bytes>, InvalidClaim> {
    let json = match (base64.filter(|text| !text.is_empty()), plain) {
        (Some(text), _) => STANDARD.decode(text).map_err(|_| InvalidClaim::NotJson(claim))?,
        (None, Some(json)) => json.get().as_bytes().to_vec(),
        (None, None) => return Ok(None),
    };
    if is_json(&json) { Ok(Some(json.into())) } else { Err(InvalidClaim::NotJson(claim)) }
}

fn shortened(text: &str) -> Box<str> {
    text.chars().take(32).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Box<[Capability]>, InvalidClaim> {
        capabilities(&serde_json::from_str::<Vec<CapabilityClaim>>(json).unwrap())
    }

    #[test]
    fn capabilities_say_which_channels_and_what() {
        let caps = read(
            r#"[{"channels":["news","user_42"],"allow":["sub"]},
            {"channels":["chat:*"],"match":"wildcard","allow":["sub","pub","prs","hst"]},{}]"#,
        );
        let caps = caps.unwrap();
        assert_eq!(caps[0].channels.iter().map(|name| &**name).collect::<Vec<_>>(), ["news", "user_42"]);
        assert_eq!(caps[0].matching, Matching::Exact);
        assert_eq!(caps[0].allow, Rights { subscribe: true, ..Rights::default() });
        assert_eq!(caps[1].matching, Matching::Wildcard);
        assert_eq!(caps[1].allow, Rights { subscribe: true, publish: true, presence: true, history: true });
        assert!(caps[2].channels.is_empty());
    }

    #[test]
    fn what_is_not_understood_in_capabilities_is_said_and_not_passed_over() {
        assert_eq!(read(r#"[{"match":"regex"}]"#), Err(InvalidClaim::Matching("regex".into())));
        assert_eq!(read(r#"[{"allow":["subscribe"]}]"#), Err(InvalidClaim::Right("subscribe".into())));
    }

    #[test]
    fn capabilities_are_bounded() {
        let many = |count: usize, one: &str| format!("[{}]", vec![one; count].join(","));
        assert!(read(&many(CAPABILITIES_MAX, "{}")).is_ok());
        assert_eq!(read(&many(CAPABILITIES_MAX + 1, "{}")), Err(InvalidClaim::Capabilities));
        let names = |count: usize| format!(r#"[{{"channels":{}}}]"#, many(count, r#""a""#));
        assert!(read(&names(CAPABILITY_CHANNELS_MAX)).is_ok());
        assert_eq!(read(&names(CAPABILITY_CHANNELS_MAX + 1)), Err(InvalidClaim::CapabilityChannels));
    }
}
