//! Reads the configuration again while the node runs: everything that can change is swapped, or nothing is.

use std::fmt;
use std::sync::Arc;

use gateway_core::session::{Application, Context};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use shared::protocol::socketio::SocketIoShared;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::api::{self, Api};
use crate::auth::Authenticator;
use crate::backend::HookKind;
use crate::config::{Config, ConfigChange, Mistakes};
use crate::http::graphql;
use crate::http::origin::OriginPolicy;
use crate::http::raw_paths::RawPaths;
use crate::listener::descriptors::Descriptors;
use crate::listener::tls::ListenerTls;
use crate::node::Node;
use crate::pusher::Apps;
use crate::telemetry::labels::ReloadOutcome;
use crate::telemetry::{Metrics, logs};
use crate::worker::Contexts;
use crate::worker::inbox::{Inbox, WorkerEvent};

/// Reads the configuration again, from the sources of the start.
pub type LoadConfigFn = Box<dyn Fn() -> Result<Config, Mistakes> + Send + Sync>;

/// The outcome of a reload.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ReloadReport {
    /// Changes that are in effect from now on.
    pub changed: Vec<ConfigChange>,
    /// Changes that wait for the next start.
    pub needs_restart: Vec<ConfigChange>,
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("this node was started with a fixed configuration, so it has nothing to reload")]
    NoSource,
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
    #[error("{0}")]
    Unusable(String),
}

/// The parts of a node that take another configuration while they run.
pub(super) struct Reloader {
    /// None where the node was given its configuration as a value.
    pub(super) load: Option<LoadConfigFn>,
    /// The configuration in effect. Locked for as long as a reload takes, so that there is one at a time.
    pub(super) running: Mutex<Config>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) node: Arc<Node>,
    pub(super) inboxes: Vec<Arc<Inbox>>,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) origins: Arc<RwLock<OriginPolicy>>,
    pub(super) raw_paths: Arc<RawPaths>,
    pub(super) admission: Arc<Admission>,
    pub(super) descriptors: Descriptors,
    pub(super) api: Arc<Api>,
    pub(super) tls: Option<Arc<ListenerTls>>,
    pub(super) apps: Option<Arc<Apps>>,
    pub(super) socketio: Arc<SocketIoShared>,
    pub(super) graphql: Option<Arc<graphql::GraphqlEndpoint>>,
}

impl Reloader {
    /// Reads, checks and swaps the configuration, and logs a line for each change. May wait for files.
    pub(super) fn reload(&self) -> Result<ReloadReport, ReloadError> {
        let mut running = self.running.lock();
        let done = self.try_reload(&mut running);
        match &done {
            Ok(reloaded) => {
                for ConfigChange { key, old, new } in &reloaded.changed {
                    tracing::info!(key, %old, %new, "a setting has changed");
                }
                for ConfigChange { key, old, new } in &reloaded.needs_restart {
                    tracing::warn!(key, %old, %new, "a changed setting takes effect only after a restart");
                }
                let (changed, needs_restart) = (reloaded.changed.len(), reloaded.needs_restart.len());
                tracing::info!(changed, needs_restart, "the configuration was reloaded");
                self.metrics.config_reloaded(match changed {
                    0 => ReloadOutcome::Unchanged,
                    _ => ReloadOutcome::Applied,
                });
                self.metrics.config_applied(&running.to_toml());
            }
            Err(error) => {
                tracing::error!(%error, "the configuration could not be reloaded; the old one stays in use");
                self.metrics.config_reloaded(ReloadOutcome::Refused);
            }
        }
        done
    }

    fn try_reload(&self, running: &mut Config) -> Result<ReloadReport, ReloadError> {
        let read = self.load.as_ref().ok_or(ReloadError::NoSource)?()?;
        let merged = running.with_live_of(&read);
        let (changed, needs_restart) = (running.changes(&merged), merged.changes(&read));

        // Everything that can fail comes first. Files are read even if their names are the same.
        let unusable = |error: &dyn fmt::Display| ReloadError::Unusable(error.to_string());
        let origins = OriginPolicy::new(&merged.http).map_err(|faults| unusable(&faults[0].1))?;
        let keys = self.api.read_keys(&merged.api).map_err(|error| unusable(&error))?;
        let tokens = self.authenticator.read(&merged.auth).map_err(|error| unusable(&error))?;
        let apps = Apps::read(&merged.pusher).map_err(|error| unusable(&error))?;
        let catalog = self.graphql.as_ref().map(|endpoint| (endpoint, merged.graphql.catalog()));
        let catalog = catalog.map(|(endpoint, read)| read.map(|catalog| (endpoint, catalog))).transpose();
        let catalog = catalog.map_err(|fault| unusable(&super::graphql_fault(fault)))?;
        let certificate = match self.tls.as_ref().filter(|_| read.tls == running.tls) {
            Some(tls) => {
                let fresh = tls.read().inspect_err(|error| tls.report_reload(Err(error), &self.metrics));
                Some((tls, fresh.map_err(|error| unusable(&error))?))
            }
            None => None,
        };
        // The text of the level was checked with the other settings.
        if merged.telemetry.log_level != running.telemetry.log_level {
            logs::set_level(&merged.telemetry).map_err(|error| unusable(&error))?;
        }

        self.authenticator.go_by(tokens);
        if let Some((tls, fresh)) = certificate {
            tls.serve(fresh);
            tls.report_reload(Ok(()), &self.metrics);
        }
        let rules = Arc::new(self.metrics.namespaces.number(merged.channel_rules()));
        let contexts = contexts(&merged, &self.node, &self.authenticator, self.metrics.clone());
        self.node.set_rules(rules);
        self.node.set_balance(&merged.balance, &merged.drain, merged.limits.accepts_per_s);
        self.node.set_poll_secrets(&merged.shared_poll);
        self.node.set_user_connections_max(merged.limits.connections_per_user_max);
        if self.apps.as_ref().is_some_and(|own| own.go_by(apps)) {
            tracing::info!("apps were removed; their clients are closed one after the other");
        }
        if let Some(Err(error)) = self.node.webhooks.as_ref().map(|webhooks| webhooks.watch_apps()) {
            tracing::error!(error, "webhooks cannot be started");
        }
        for inbox in &self.inboxes {
            inbox.push(WorkerEvent::Renew(contexts.clone()));
        }
        *self.origins.write() = origins;
        self.raw_paths.set(&merged.raw);
        merged.socketio.set_rules(&self.socketio);
        if let Some((endpoint, catalog)) = catalog {
            endpoint.set_catalog(Arc::new(catalog));
        }
        self.api.set_keys(keys);
        let (connections_max, advice) =
            self.descriptors.allow(merged.limits.connections_max, merged.api.connections_max);
        if let Some(advice) = advice {
            tracing::warn!("{advice}");
        }
        self.admission.set_limits(&merged.limits, connections_max);
        self.metrics.connection.max.set(i64::from(connections_max));
        *running = merged;
        Ok(ReloadReport { changed, needs_restart })
    }

    /// Reloads on every SIGHUP, until `stop` is cancelled.
    pub(super) async fn watch(self: Arc<Self>, mut hangups: Signal, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                hung_up = hangups.recv() => if hung_up.is_none() { return },
            }
            let reload = self.clone();
            // The reload has logged its own outcome.
            if let Err(error) = tokio::task::spawn_blocking(move || drop(reload.reload())).await {
                tracing::error!(%error, "reloading the configuration failed");
            }
        }
    }
}

impl api::ReloadFn for Reloader {
    fn reload(&self) -> Result<serde_json::Value, String> {
        let reloaded = Self::reload(self).map_err(|error| error.to_string())?;
        Ok(serde_json::to_value(reloaded).expect("changes are plain values"))
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reloader")
    }
}

/// Returns the contexts of sessions under this configuration.
pub(super) fn contexts(
    config: &Config,
    node: &Node,
    authenticator: &Authenticator,
    metrics: Arc<Metrics>,
) -> Contexts {
    let mut settings = config.session.clone();
    // The outbox must have room beside a long answer for publications that come meanwhile.
    let half = u32::try_from(config.websocket.outbox_bytes_max / 2).unwrap_or(u32::MAX);
    settings.reply_bytes_max = settings.reply_bytes_max.min(half);
    let of_engine_io = config.socketio.session_settings(&settings);
    let usual = Context {
        settings,
        rules: metrics.namespaces.number(config.channel_rules()),
        insecure: authenticator.is_insecure(),
        application: Application {
            rpc: node.asks(HookKind::Rpc),
            messages: node.asks(HookKind::Message),
            events: node.asks(HookKind::SocketIo),
        },
        node: node.name().clone(),
        version: crate::VERSION,
        observer: metrics,
    };
    let engine_io = Arc::new(Context { settings: of_engine_io, ..usual.clone() });
    Contexts { usual: Arc::new(usual), engine_io }
}
