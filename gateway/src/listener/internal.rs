//! The internal listener: health and metrics, for operators and their machines.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::telemetry::{Metrics, Readiness, answer};

/// The most connections at once: a few scrapers and probes.
const CONNECTIONS_MAX: usize = 256;

/// Serves until the runtime ends: an operator wants to see a node drain.
pub(crate) async fn serve(
    socket: TcpListener,
    clock: Clock,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    keep_alive: Duration,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an internal connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (readiness, metrics) = (readiness.clone(), metrics.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response =
                    answer(request.method(), request.uri().path(), clock.now(), &readiness, &metrics);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(keep_alive)
                .title_case_headers(true)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an internal connection ended early");
            }
            drop(permit);
        });
    }
}
