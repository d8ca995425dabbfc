//! Checks that a node can use the files that its configuration names.

use std::path::Path;

use super::Config;
use crate::broker::BrokerKind;
use crate::listener::tls::{ListenerTls, TlsError};
use crate::secret::Secret;

/// Returns every file that is named and cannot be used, as (`section.key`, problem).
pub(super) fn faults(config: &Config) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Err(error) = ListenerTls::load(&config.tls) {
        let key = match &error {
            TlsError::Unreadable { file, .. } | TlsError::TooLong { file, .. }
                if config.tls.key_file.as_ref() == Some(file) =>
            {
                "tls.key_file"
            }
            TlsError::NoKey { .. } => "tls.key_file",
            _ => "tls.certificate_file",
        };
        found.push((key.to_owned(), error.to_string()));
    }
    let of_tokens = config.auth.file_faults();
    found.extend(of_tokens.into_iter().map(|(key, problem)| (format!("auth.{key}"), problem)));
    if let Some(Err(error)) = config.api.keys_file.as_deref().map(Secret::from_file) {
        found.push(("api.keys_file".to_owned(), error.to_string()));
    }
    if let Some(file) = config.console.password_file.as_deref().filter(|_| config.console.enabled) {
        let problem = match Secret::from_file(file) {
            Ok(password) => crate::console::console_config::password_fault(&password),
            Err(error) => Some(error.to_string()),
        };
        found.extend(problem.map(|problem| ("console.password_file".to_owned(), problem)));
    }
    for (name, app) in config.pusher.apps.iter().filter(|_| config.pusher.enabled) {
        for (key, file) in app.secret_files() {
            if let Err(error) = Secret::from_file(file) {
                found.push((format!("pusher.apps.{name}.{key}"), error.to_string()));
            }
        }
    }
    if config.graphql.enabled
        && config.graphql.schema_file.is_some()
        && let Err(unusable) = config.graphql.catalog()
    {
        found.extend(unusable.into_iter().map(|one| (format!("graphql.{}", one.key), one.problem)));
    }
    let backend = &config.backend;
    if let Some(file) = &backend.signing_secret_file {
        let problem = match Secret::from_file(file) {
            Ok(secret) => crate::backend::secret_fault(&secret),
            Err(error) => Some(error.to_string()),
        };
        found.extend(problem.map(|problem| ("backend.signing_secret_file".to_owned(), problem)));
    }
    if let Some(Err(error)) = backend.ca_file.as_deref().map(readable) {
        found.push(("backend.ca_file".to_owned(), format!("cannot be read: {error}")));
    }
    for (name, feed) in &config.feeds {
        for (key, file) in feed.files() {
            if let Err(error) = readable(file) {
                found.push((format!("feeds.{name}.{key}"), format!("cannot be read: {error}")));
            }
        }
    }
    let emitters = &config.socketio.emitters;
    for (key, file) in [
        ("socketio.emitters.ca_file", &emitters.ca_file),
        ("socketio.emitters.client_cert_file", &emitters.client_cert_file),
        ("socketio.emitters.client_key_file", &emitters.client_key_file),
    ] {
        if let Some(Err(error)) = file.as_deref().map(readable) {
            found.push((key.to_owned(), format!("cannot be read: {error}")));
        }
    }
    if config.broker.kind == BrokerKind::Redis {
        for (key, file) in config.redis.password_files() {
            if let Err(error) = Secret::from_file(file) {
                found.push((format!("redis.{key}"), error.to_string()));
            }
        }
        for (key, file) in [
            ("redis.ca_file", &config.redis.ca_file),
            ("redis.client_cert_file", &config.redis.client_cert_file),
            ("redis.client_key_file", &config.redis.client_key_file),
        ] {
            if let Some(Err(error)) = file.as_deref().map(readable) {
                found.push((key.to_owned(), format!("cannot be read: {error}")));
            }
        }
    }
    if config.broker.kind == BrokerKind::Nats {
        for (key, file) in config.nats.secret_files() {
            if let Err(error) = Secret::from_file(file) {
                found.push((format!("nats.{key}"), error.to_string()));
            }
        }
        for (key, file) in config.nats.files() {
            if let Err(error) = readable(file) {
                found.push((format!("nats.{key}"), format!("cannot be read: {error}")));
            }
        }
    }
    found
}

fn readable(file: &Path) -> std::io::Result<()> {
    std::fs::File::open(file).map(|_| ())
}
