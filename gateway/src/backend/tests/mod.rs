//! Tests hooks and events against a stand-in for the application's server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gateway_core::effect::Denial;
use http::Response;
use http_body_util::Full;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::{ClientId, UserId};
use shared::refusal::Refusal;
use tokio::runtime::Handle;

use super::*;
use application::{Application, json, status};

mod application;
mod asks;
mod bears_failures;
mod goes_nowhere_else;
mod tells_events;

/// A backend with these settings, and its metrics.
fn backend(config: &BackendConfig) -> (Backend, Arc<Metrics>) {
    backend_with(config, client::system_lookup())
}

fn backend_with(config: &BackendConfig, lookup: ResolveFuture) -> (Backend, Arc<Metrics>) {
    let mut faults = crate::setting::Faults::default();
    config.check(&mut faults);
    assert_eq!(faults.into_inner(), Vec::new());
    let metrics = Arc::new(Metrics::new());
    let started = Backend::start_with(config, "node-1", Clock::start(), &metrics, &Handle::current(), lookup);
    (started.unwrap().expect("a hook is on"), metrics)
}

fn at(url: String) -> HookConfig {
    HookConfig { url, ..HookConfig::default() }
}

/// Long enough for a test on a busy machine, unless it is about deadlines.
fn patient() -> BackendConfig {
    BackendConfig { timeout_ms: 30_000, retry_delay_ms: 1, ..BackendConfig::default() }
}

fn asker(user: &UserId) -> HookSubject<'_> {
    HookSubject {
        client: ClientId::from_random(7),
        transport: "websocket",
        protocol: "json",
        user,
        meta: None,
    }
}

async fn connect(backend: &Backend) -> Result<Option<Identity>, Denial> {
    backend.connect(&ClientOrigin::default(), &asker(&UserId::ANONYMOUS), ConnectQuestion::default()).await
}

async fn publish(backend: &Backend) -> Result<PublishAnswer, Denial> {
    backend.publish(&ClientOrigin::default(), &asker(&UserId::new("ann")), "news", b"1").await
}

fn refused<T>(code: ErrorCode) -> Result<T, Denial> {
    Err(Denial::Error(code.into()))
}

/// The value of a metric as `/metrics` shows it.
fn shown(metrics: &Metrics, line: &str) -> Option<String> {
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    text.lines().find_map(|shown| shown.strip_prefix(line)?.strip_prefix(' ').map(str::to_owned))
}

fn results(metrics: &Metrics, hook: &str, result: &str) -> String {
    let line = format!("tidegate_backend_results_total{{hook=\"{hook}\",result=\"{result}\"}}");
    shown(metrics, &line).unwrap_or_default()
}

/// Waits until the condition holds. Fails by a deadline.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), waited).await.is_ok(), "{what}");
}
