//! Verifies what clients present to subscribe to a channel or to sign in as a user, and returns the grant.

use bytes::Bytes;
use gateway_core::effect::{Grant, Identity, Overrides, ServerSubscription};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::error::ErrorCode;
use shared::id::{ClientId, UserId};
use shared::protocol::pusher::{Access, PusherChannelKind, USER_BYTES_MAX, socket_id};
use shared::refusal::Refusal;

use super::PusherApp;

/// The result of an admitted subscription, provided that the channel has room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SubscriptionEntry {
    pub(crate) grant: Grant,
    /// The user that becomes a member of the channel.
    pub(crate) member: Option<UserId>,
}

#[derive(Deserialize)]
struct ChannelData<'a> {
    #[serde(borrow)]
    user_id: &'a RawValue,
    #[serde(borrow, default)]
    user_info: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct UserData<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(default)]
    watchlist: Vec<String>,
}

impl PusherApp {
    /// Checks whether a client, signed in as `user`, may subscribe. `data`: the data that the signature covers.
    pub(crate) fn admit(
        &self,
        client: ClientId,
        user: &UserId,
        channel: &str,
        auth: &str,
        data: Option<&str>,
    ) -> Result<SubscriptionEntry, Refusal> {
        let name = self.names.name_of(channel).ok_or(ErrorCode::BadRequest)?;
        let kind = PusherChannelKind::of(&name);
        let mut grant = Grant { user: user.clone(), ..Grant::default() };
        match kind.access {
            Access::Public => return Ok(SubscriptionEntry { grant, member: None }),
            Access::User => {
                let own = self.names.user_of(user.as_str()).map(|user| self.names.of_user(user));
                return match own.is_some_and(|own| own == channel) {
                    true => Ok(SubscriptionEntry { grant, member: None }),
                    false => Err(unauthorized(
                        "the channel belongs to a user who has not signed in on this connection",
                    )),
                };
            }
            Access::Private | Access::Presence => {}
        }
        let mut signed = format!("{}:{name}", socket_id(client));
        if let Some(data) = data {
            signed.push(':');
            signed.push_str(data);
        }
        let terms = self.terms();
        if !terms.signer.verifies_auth(signed.as_bytes(), auth) {
            let what = if data.is_some() { ":<channel data>" } else { "" };
            let signed = format!("{}:{name}{what}", socket_id(client));
            return Err(unauthorized(&format!(
                "the signature is wrong: it must be <key>:<HMAC-SHA256 in hexadecimal of {signed}>"
            )));
        }
        grant.allow.publish = terms.settings.client_events && kind.takes_client_events();
        if kind.access == Access::Private {
            return Ok(SubscriptionEntry { grant, member: None });
        }
        let data: ChannelData<'_> = data
            .and_then(|data| serde_json::from_str(data).ok())
            .ok_or_else(|| invalid("a presence channel needs channel data with a user_id"))?;
        let user = UserId::new(&user_id(data.user_id).ok_or_else(|| invalid(USER_ID))?);
        let info = data.user_info.map(|info| Bytes::copy_from_slice(info.get().as_bytes()));
        if info.as_ref().is_some_and(|info| info.len() > terms.settings.user_info_bytes_max) {
            let max = terms.settings.user_info_bytes_max;
            return Err(invalid(&format!("the user_info is longer than {max} bytes")));
        }
        grant.shown_as = Some(user.clone());
        grant.info = info;
        grant.allow.presence = true;
        grant.overrides = Overrides { force_push_join_leave: Some(true), ..Overrides::default() };
        Ok(SubscriptionEntry { grant, member: Some(user) })
    }

    /// Verifies a sign-in, and returns who the client is and which users it watches.
    pub(crate) fn sign_in(&self, client: ClientId, auth: &str, data: &str) -> Result<Identity, Refusal> {
        let signed = format!("{}::user::{data}", socket_id(client));
        let terms = self.terms();
        if !terms.signer.verifies_auth(signed.as_bytes(), auth) {
            return Err(unauthorized("the signature of the user data is wrong"));
        }
        let UserData { id, watchlist } =
            serde_json::from_str(data).map_err(|_| invalid("the user data must be an object with an id"))?;
        let id = user_id(id).ok_or_else(|| invalid(USER_ID))?;
        if watchlist.len() > terms.settings.watchlist_max {
            let max = terms.settings.watchlist_max;
            return Err(Refusal {
                message: format!("the watchlist has more than {max} users").into(),
                ..ErrorCode::LimitExceeded.into()
            });
        }
        if watchlist.iter().any(|user| user.is_empty() || user.len() > USER_BYTES_MAX) {
            return Err(invalid("the watchlist contains an invalid user id"));
        }
        let own = self.names.online(&id);
        let mut subs = vec![ServerSubscription {
            channel: own.as_str().into(),
            overrides: Overrides { force_push_join_leave: Some(false), ..Overrides::default() },
            ..ServerSubscription::default()
        }];
        let mut watched: Vec<String> = watchlist.iter().map(|user| self.names.online(user)).collect();
        watched.sort();
        watched.dedup();
        for channel in watched {
            if channel == own {
                subs[0].members = true;
                subs[0].overrides.force_push_join_leave = Some(true);
                continue;
            }
            let overrides = Overrides {
                presence: Some(false),
                join_leave: Some(false),
                force_push_join_leave: Some(true),
                ..Overrides::default()
            };
            let channel = channel.into();
            subs.push(ServerSubscription { channel, overrides, members: true, ..Default::default() });
        }
        let user = UserId::new(&self.names.user(&id));
        Ok(Identity { user, subs, ..Identity::default() })
    }
}

const USER_ID: &str = "the id of a user must be a text or a whole number, of at most 128 bytes";

/// Returns the id of a user. Applications write it as a text or as a number.
fn user_id(raw: &RawValue) -> Option<String> {
    let text = raw.get();
    let id = match text.starts_with('"') {
        true => serde_json::from_str(text).ok()?,
        false => text.parse::<i64>().ok()?.to_string(),
    };
    (1..=USER_BYTES_MAX).contains(&id.len()).then_some(id)
}

fn unauthorized(why: &str) -> Refusal {
    Refusal { message: why.to_owned().into(), ..ErrorCode::Unauthorized.into() }
}

fn invalid(why: &str) -> Refusal {
    Refusal { message: why.to_owned().into(), ..ErrorCode::BadRequest.into() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gateway_core::channel_names::ChannelNames;
    use gateway_core::effect::Rights;

    use super::super::{Apps, PusherConfig, pusher_config};
    use super::*;
    use crate::secret::Secret;

    fn app(client_events: bool) -> Arc<PusherApp> {
        let app = pusher_config::PusherAppConfig {
            id: "1".to_owned(),
            key: "key".to_owned(),
            secret: Secret::new("secret"),
            client_events,
            watchlist_max: 2,
            user_info_bytes_max: 16,
            ..pusher_config::PusherAppConfig::default()
        };
        let config = PusherConfig {
            enabled: true,
            apps: [("shop".to_owned(), app)].into(),
            ..PusherConfig::default()
        };
        let apps = Apps::new(&config, &ChannelNames::default()).unwrap().unwrap();
        apps.with_key("key").unwrap()
    }

    fn client() -> ClientId {
        ClientId::from_bits(1 << 64 | 2)
    }

    fn signed(app: &PusherApp, text: &str) -> String {
        format!("key:{}", app.terms().signer.sign(text.as_bytes()))
    }

    fn admit(
        app: &PusherApp,
        user: &str,
        name: &str,
        auth: &str,
        data: Option<&str>,
    ) -> Result<SubscriptionEntry, Refusal> {
        app.admit(client(), &UserId::new(user), &app.names.channel(name), auth, data)
    }

    #[test]
    fn a_public_channel_is_open_and_a_private_one_takes_a_signature_of_this_connection() {
        let app = app(true);
        assert!(!admit(&app, "", "news", "", None).unwrap().grant.allow.publish);
        let right = signed(&app, "1.2:private-a");
        assert!(admit(&app, "", "private-a", &right, None).unwrap().grant.allow.publish);
        let others = [signed(&app, "1.3:private-a"), signed(&app, "1.2:private-b"), String::new()];
        for wrong in others.iter().map(String::as_str).chain(["key:", &right[1..]]) {
            let refusal = admit(&app, "", "private-a", wrong, None).unwrap_err();
            assert_eq!(refusal.error_code(), Some(ErrorCode::Unauthorized), "{wrong}");
        }
        assert!(admit(&app, "", "private-b", &right, None).is_err());
        assert!(admit(&app, "", "private-a", &right, Some("{}")).is_err(), "data is signed too");
    }

    #[test]
    fn client_events_take_a_setting_and_a_channel_that_can_have_them() {
        let (without, with) = (app(false), app(true));
        let allows = |app: &PusherApp, name: &str| {
            let auth = signed(app, &format!("1.2:{name}"));
            admit(app, "", name, &auth, None).unwrap().grant.allow.publish
        };
        assert!(!allows(&without, "private-a") && allows(&with, "private-a"));
        assert!(!allows(&with, "private-encrypted-a"));
    }

    #[test]
    fn a_member_is_whom_the_application_has_signed_for() {
        let app = app(false);
        let enter = |data: &str| {
            let auth = signed(&app, &format!("1.2:presence-a:{data}"));
            admit(&app, "shop:9", "presence-a", &auth, Some(data))
        };
        let entry = enter(r#"{"user_id":"7","user_info":{"a":1}}"#).unwrap();
        assert_eq!((entry.member, entry.grant.info), (Some(UserId::new("7")), Some(r#"{"a":1}"#.into())));
        assert_eq!(entry.grant.user, UserId::new("shop:9"), "whoever the connection is of");
        assert_eq!(enter(r#"{"user_id":10}"#).unwrap().member, Some(UserId::new("10")));
        for wrong in ["{}", "7", r#"{"user_id":""}"#, r#"{"user_id":1.5}"#, r#"{"user_id":null}"#] {
            assert!(enter(wrong).is_err(), "{wrong}");
        }
        assert!(enter(&format!(r#"{{"user_id":"{}"}}"#, "x".repeat(129))).is_err());
        assert!(enter(r#"{"user_id":"7","user_info":"more than sixteen"}"#).is_err());
        let bare = signed(&app, "1.2:presence-a");
        assert!(admit(&app, "", "presence-a", &bare, None).is_err(), "nobody in particular is no member");
    }

    #[test]
    fn a_users_channel_is_for_who_has_signed_in_as_that_user() {
        let app = app(false);
        assert!(admit(&app, "shop:7", "#server-to-user-7", "", None).is_ok());
        for user in ["", "7", "shop:8", "other:7"] {
            assert!(admit(&app, user, "#server-to-user-7", "", None).is_err(), "{user}");
        }
    }

    #[test]
    fn who_signs_in_is_online_and_is_told_who_else_is() {
        let app = app(false);
        let sign_in = |data: &str| app.sign_in(client(), &signed(&app, &format!("1.2::user::{data}")), data);
        let identity = sign_in(r#"{"id":"7","watchlist":["8","8"]}"#).unwrap();
        assert_eq!(identity.user, UserId::new("shop:7"));
        let subs: Vec<_> = identity.subs.iter().map(|sub| (&*sub.channel, sub.members)).collect();
        assert_eq!(subs, [("shop:online#7", false), ("shop:online#8", true)]);
        let own = sign_in(r#"{"id":"7","watchlist":["7"]}"#).unwrap().subs;
        assert_eq!((own.len(), own[0].members, own[0].overrides.presence), (1, true, None));
        assert!(sign_in(r#"{"id":"7","watchlist":["1","2","3"]}"#).is_err());
        assert!(sign_in(r#"{"watchlist":[]}"#).is_err() && sign_in(r#"{"id":""}"#).is_err());
        assert!(app.sign_in(client(), &signed(&app, "1.2:private-a"), "{}").is_err());
    }

    #[test]
    fn rights_beyond_these_come_with_no_signature() {
        let app = app(true);
        let auth = signed(&app, "1.2:private-a");
        let allow = admit(&app, "", "private-a", &auth, None).unwrap().grant.allow;
        assert_eq!(allow, Rights { publish: true, ..Rights::default() });
    }
}
