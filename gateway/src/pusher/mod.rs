//! The apps of clients that speak Pusher: what they are called, how they sign, and what their channels are.
//!
//! Nothing here asks the node for anything: clients are let in by [`admit`], and what servers ask for over HTTP is
//! `pusher_api`'s.

use std::collections::HashMap;
use std::sync::Arc;

use gateway_core::channel_names::ChannelNames;
use shared::protocol::Protocol;
use shared::protocol::pusher::{Names, Pusher};

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

/// All apps of a node.
#[derive(Debug)]
pub(crate) struct Apps {
    by_key: HashMap<Box<str>, Arc<App>>,
    /// For those who name no app: they are told so, and no more.
    pub(crate) nobodys: Arc<dyn Protocol>,
}

impl Apps {
    /// `None` where Pusher is not served.
    pub(crate) fn new(config: &Config, names: &ChannelNames) -> Result<Option<Self>, SecretFileError> {
        if !config.enabled {
            return Ok(None);
        }
        let mut apps = Self { by_key: HashMap::new(), nobodys: protocol(config, named("", names)) };
        for (name, app) in &config.apps {
            let names = named(app.namespace_or(name), names);
            let secret: Secret = app.read_secret()?;
            let app = Arc::new(App {
                key: (*app.key).into(),
                signer: Signer::new(&app.key, &secret),
                protocol: protocol(config, names.clone()),
                names,
                settings: app.clone(),
            });
            apps.by_key.insert(app.key.clone(), app);
        }
        Ok(Some(apps))
    }

    pub(crate) fn with_key(&self, key: &str) -> Option<&Arc<App>> {
        self.by_key.get(key)
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
