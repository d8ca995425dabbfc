//! The apps of clients that speak Pusher: what they are called, how they sign, and what their channels are.
//!
//! Nothing here asks the node for anything: clients are let in by [`admit`], and what servers ask for over HTTP is
//! `pusher_api`'s.

use std::collections::HashMap;
use std::sync::Arc;

use gateway_core::channel_names::ChannelNames;
use shared::protocol::Protocol;
use shared::protocol::pusher::{Access, Kind, Names, Pusher};

use crate::secret::{Secret, SecretFileError};

pub mod config;

mod admit;
mod kinds;
mod signer;

pub(crate) use admit::Entry;
pub use config::Config;
pub(crate) use kinds::kinds;
pub(crate) use signer::Signer;

/// An app of a node that runs.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) key: Box<str>,
    pub(crate) names: Names,
    pub(crate) signer: Signer,
    pub(crate) protocol: Arc<dyn Protocol>,
    pub(crate) settings: config::App,
}

impl App {
    /// Whether the subscribers of a channel are told how many they are.
    pub(crate) fn counts(&self, channel: &str) -> bool {
        let kind = || self.names.name_of(channel).map(|name| Kind::of(&name).access);
        self.settings.subscription_counts && matches!(kind(), Some(Access::Public | Access::Private))
    }
}

/// All apps of a node.
#[derive(Debug)]
pub(crate) struct Apps {
    by_key: HashMap<Box<str>, Arc<App>>,
    by_id: HashMap<Box<str>, Arc<App>>,
    /// For those who name no app: they are told so, and no more.
    pub(crate) nobodys: Arc<dyn Protocol>,
    pub(crate) config: Config,
}

impl Apps {
    /// `None` where Pusher is not served.
    pub(crate) fn new(config: &Config, names: &ChannelNames) -> Result<Option<Self>, SecretFileError> {
        if !config.enabled {
            return Ok(None);
        }
        let (mut by_key, mut by_id) = (HashMap::new(), HashMap::new());
        for (name, settings) in &config.apps {
            let names = named(settings.namespace_or(name), names);
            let secret: Secret = settings.read_secret()?;
            let app = Arc::new(App {
                key: (*settings.key).into(),
                signer: Signer::new(&settings.key, &secret),
                protocol: protocol(config, names.clone()),
                names,
                settings: settings.clone(),
            });
            by_key.insert(app.key.clone(), app.clone());
            by_id.insert((*settings.id).into(), app);
        }
        let nobodys = protocol(config, named("", names));
        Ok(Some(Self { by_key, by_id, nobodys, config: config.clone() }))
    }

    pub(crate) fn with_key(&self, key: &str) -> Option<&Arc<App>> {
        self.by_key.get(key)
    }

    pub(crate) fn with_id(&self, id: &str) -> Option<&Arc<App>> {
        self.by_id.get(id)
    }
}

impl Config {
    /// What apps' clients are told, whatever their app: for the encodings that all share.
    pub(crate) fn protocol(&self, names: &ChannelNames) -> Arc<dyn Protocol> {
        protocol(self, named("", names))
    }
}

fn named(namespace: &str, names: &ChannelNames) -> Names {
    Names::new(namespace, &names.namespace_boundary, &names.user_boundary)
}

fn protocol(config: &Config, names: Names) -> Arc<dyn Protocol> {
    let Config { activity_timeout_s, event_data_bytes_max, .. } = *config;
    Arc::new(Pusher { names, activity_timeout_s, event_data_bytes_max })
}
