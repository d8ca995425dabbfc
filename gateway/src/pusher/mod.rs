//! The apps of clients that speak Pusher: their names, their signatures, and their channels.
//!
//! Nothing here calls the node: [`admit_subscription`] verifies clients, and `pusher_api` serves the requests of
//! servers over HTTP.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gateway_core::channel_names::ChannelNames;
use parking_lot::RwLock;
use shared::protocol::Protocol;
use shared::protocol::pusher::{Access, Pusher, PusherChannelKind, PusherNames};

use crate::secret::SecretFileError;

pub mod pusher_config;
pub mod webhook;

mod admit_subscription;
mod kinds;
mod signer;

pub(crate) use admit_subscription::SubscriptionEntry;
pub(crate) use kinds::kinds;
pub use pusher_config::PusherConfig;
pub(crate) use signer::AppSigner;

/// An app on a running node. It stays the same object for as long as its key and its namespace do, because its clients hold it.
#[derive(Debug)]
pub(crate) struct PusherApp {
    pub(crate) key: Box<str>,
    pub(crate) names: PusherNames,
    pub(crate) protocol: Arc<dyn Protocol>,
    terms: RwLock<Arc<AppSettings>>,
    is_removed: AtomicBool,
}

/// The part of an app that can change while the node runs.
#[derive(Debug)]
pub(crate) struct AppSettings {
    pub(crate) signer: AppSigner,
    pub(crate) settings: pusher_config::PusherAppConfig,
}

impl PusherApp {
    /// Returns the present settings. An operation must use the result of one call throughout.
    pub(crate) fn terms(&self) -> Arc<AppSettings> {
        self.terms.read().clone()
    }

    /// Whether the app was removed from the configuration, so that its clients are to be closed.
    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Relaxed)
    }

    /// Whether the subscribers of a channel are told their number.
    pub(crate) fn counts(&self, channel: &str) -> bool {
        let kind = || self.names.name_of(channel).map(|name| PusherChannelKind::of(&name).access);
        self.terms().settings.subscription_counts && matches!(kind(), Some(Access::Public | Access::Private))
    }
}

/// All apps of a node.
#[derive(Debug)]
pub(crate) struct Apps {
    known: RwLock<AppIndex>,
    /// The protocol of clients without a valid app, which only tells them so.
    pub(crate) nobodys: Arc<dyn Protocol>,
    pub(crate) config: PusherConfig,
    channel_names: ChannelNames,
}

#[derive(Debug, Default)]
struct AppIndex {
    by_key: HashMap<Box<str>, Arc<PusherApp>>,
    by_id: HashMap<Box<str>, Arc<PusherApp>>,
    by_namespace: HashMap<Box<str>, Arc<PusherApp>>,
}

/// Apps of a configuration, with their secrets read.
#[derive(Debug)]
pub(crate) struct LoadedApps(Vec<(Box<str>, AppSettings)>);

impl Apps {
    /// Returns `None` where Pusher is not served.
    pub(crate) fn new(config: &PusherConfig, names: &ChannelNames) -> Result<Option<Self>, SecretFileError> {
        if !config.enabled {
            return Ok(None);
        }
        let apps = Self {
            known: RwLock::default(),
            nobodys: protocol(config, named("", names)),
            config: config.clone(),
            channel_names: names.clone(),
        };
        apps.go_by(Self::read(config)?);
        Ok(Some(apps))
    }

    /// Reads the apps, which can fail for their secrets.
    pub(crate) fn read(config: &PusherConfig) -> Result<LoadedApps, SecretFileError> {
        let read = |(name, settings): (&String, &pusher_config::PusherAppConfig)| {
            let signer = AppSigner::new(&settings.key, &settings.read_secrets()?);
            let settings = settings.clone();
            Ok((settings.namespace_or(name).into(), AppSettings { signer, settings }))
        };
        config.apps.iter().map(read).collect::<Result<_, _>>().map(LoadedApps)
    }

    /// Replaces the apps. An app that keeps its key and its namespace gets its new settings; all other known apps are
    /// removed, and their clients are to be closed. Returns whether any app was removed.
    pub(crate) fn go_by(&self, read: LoadedApps) -> bool {
        let mut known = self.known.write();
        let mut fresh = AppIndex::default();
        for (namespace, terms) in read.0 {
            let (key, id) = (Box::from(&*terms.settings.key), Box::from(&*terms.settings.id));
            let app = match known.by_namespace.get(&namespace).filter(|app| app.key == key) {
                Some(app) => {
                    *app.terms.write() = Arc::new(terms);
                    app.clone()
                }
                None => self.app(&namespace, terms),
            };
            fresh.by_id.insert(id, app.clone());
            fresh.by_key.insert(key, app.clone());
            fresh.by_namespace.insert(namespace, app);
        }
        let is_there = |app: &Arc<PusherApp>| fresh.by_namespace.values().any(|one| Arc::ptr_eq(app, one));
        let gone: Vec<&Arc<PusherApp>> = known.by_namespace.values().filter(|app| !is_there(app)).collect();
        gone.iter().for_each(|app| app.is_removed.store(true, Ordering::Relaxed));
        let is_any_gone = !gone.is_empty();
        *known = fresh;
        is_any_gone
    }

    fn app(&self, namespace: &str, terms: AppSettings) -> Arc<PusherApp> {
        let names = named(namespace, &self.channel_names);
        Arc::new(PusherApp {
            key: (*terms.settings.key).into(),
            protocol: protocol(&self.config, names.clone()),
            names,
            terms: RwLock::new(Arc::new(terms)),
            is_removed: AtomicBool::new(false),
        })
    }

    pub(crate) fn with_key(&self, key: &str) -> Option<Arc<PusherApp>> {
        self.known.read().by_key.get(key).cloned()
    }

    pub(crate) fn with_id(&self, id: &str) -> Option<Arc<PusherApp>> {
        self.known.read().by_id.get(id).cloned()
    }

    /// Returns the app that a channel of the gateway belongs to.
    pub(crate) fn of_channel(&self, channel: &str) -> Option<Arc<PusherApp>> {
        self.in_namespace(self.namespace_of(channel)?)
    }

    /// Returns the namespace of a channel of the gateway, whether or not it is an app's.
    pub(crate) fn namespace_of<'a>(&self, channel: &'a str) -> Option<&'a str> {
        Some(channel.split_once(&*self.channel_names.namespace_boundary)?.0)
    }

    pub(crate) fn in_namespace(&self, namespace: &str) -> Option<Arc<PusherApp>> {
        self.known.read().by_namespace.get(namespace).cloned()
    }

    /// Returns every app with its namespace.
    pub(crate) fn all(&self) -> Vec<(Box<str>, Arc<PusherApp>)> {
        let known = self.known.read();
        known.by_namespace.iter().map(|(namespace, app)| (namespace.clone(), app.clone())).collect()
    }
}

impl PusherConfig {
    /// Returns the protocol of clients of any app, for the encodings that all apps share.
    pub(crate) fn protocol(&self, names: &ChannelNames) -> Arc<dyn Protocol> {
        protocol(self, named("", names))
    }

    /// Returns this configuration with the apps of `new`, as far as a running node can take them over. `enabled`, the
    /// limits and the webhooks stay as they were.
    pub(crate) fn with_live_of(&self, new: &Self) -> Self {
        if !self.enabled || !new.enabled {
            return self.clone();
        }
        let live = |(name, app): (&String, &pusher_config::PusherAppConfig)| {
            let webhooks = self.apps.get(name).map(|own| own.webhooks.clone()).unwrap_or_default();
            (name.clone(), pusher_config::PusherAppConfig { webhooks, ..app.clone() })
        };
        Self { apps: new.apps.iter().map(live).collect(), ..self.clone() }
    }
}

fn named(namespace: &str, names: &ChannelNames) -> PusherNames {
    PusherNames::new(namespace, &names.namespace_boundary, &names.user_boundary)
}

fn protocol(config: &PusherConfig, names: PusherNames) -> Arc<dyn Protocol> {
    let PusherConfig { activity_timeout_s, event_data_bytes_max, .. } = *config;
    Arc::new(Pusher { names, activity_timeout_s, event_data_bytes_max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn config(apps: &[(&str, &str, &str)]) -> PusherConfig {
        let app = |(name, key, secret): &(&str, &str, &str)| {
            let (id, key) = ((*name).to_owned(), (*key).to_owned());
            (
                (*name).to_owned(),
                pusher_config::PusherAppConfig {
                    id,
                    key,
                    secret: Secret::new(secret),
                    ..pusher_config::PusherAppConfig::default()
                },
            )
        };
        PusherConfig { enabled: true, apps: apps.iter().map(app).collect(), ..PusherConfig::default() }
    }

    #[test]
    fn an_app_goes_on_under_another_secret_and_is_gone_with_its_key() {
        let before = config(&[("shop", "k1", "one"), ("chat", "k2", "x")]);
        let apps = Apps::new(&before, &ChannelNames::default()).unwrap().unwrap();
        let (shop, chat) = (apps.with_key("k1").unwrap(), apps.with_key("k2").unwrap());
        let signed = shop.terms().signer.sign(b"text");
        let mut after = config(&[("shop", "k1", "two"), ("chat", "k3", "x"), ("news", "k4", "x")]);
        after.apps.get_mut("shop").unwrap().previous_secret = Secret::new("one");
        assert!(apps.go_by(Apps::read(&after).unwrap()));
        assert!(Arc::ptr_eq(&apps.with_id("shop").unwrap(), &shop) && !shop.is_removed());
        assert_ne!(shop.terms().signer.sign(b"text"), signed);
        assert!(shop.terms().signer.verifies(b"text", &signed), "both hold while the servers change over");
        assert!(chat.is_removed() && apps.with_key("k2").is_none());
        assert!(!Arc::ptr_eq(&apps.with_id("chat").unwrap(), &chat) && apps.with_key("k3").is_some());
        assert!(apps.of_channel("news:a").is_some() && apps.of_channel("news").is_none());
        assert!(!apps.go_by(Apps::read(&after).unwrap()), "nothing is another one");
        assert!(apps.go_by(Apps::read(&config(&[("shop", "k1", "two")])).unwrap()));
        assert!(apps.of_channel("chat:a").is_none() && apps.with_id("news").is_none());
        assert!(!shop.terms().signer.verifies(b"text", &signed));
    }

    #[test]
    fn webhooks_are_not_taken_over_from_another_configuration() {
        let mut before = config(&[("shop", "k1", "one")]);
        let webhook = webhook::Webhook { url: "http://a/".to_owned(), ..webhook::Webhook::default() };
        before.apps.get_mut("shop").unwrap().webhooks.insert("main".to_owned(), webhook);
        let after = config(&[("shop", "k1", "two"), ("chat", "k2", "x")]);
        let merged = before.with_live_of(&after);
        assert_eq!(merged.apps["shop"].webhooks.len(), 1);
        assert_eq!(merged.apps["shop"].secret, Secret::new("two"));
        assert!(merged.apps.contains_key("chat"));
        let off = PusherConfig { enabled: false, ..after };
        assert_eq!(before.with_live_of(&off), before);
    }
}
