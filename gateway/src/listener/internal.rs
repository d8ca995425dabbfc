//! The internal listener: health, metrics and the console, for operators and monitoring.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::console::{self, Console};
use crate::telemetry::{Metrics, Readiness, answer};

/// The most concurrent connections: a few scrapers, probes and people.
const CONNECTIONS_MAX: usize = 256;

/// What is served at one address.
#[derive(Clone, Debug)]
pub(crate) struct Internal {
    pub(crate) clock: Clock,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) metrics: Arc<Metrics>,
    /// `None` if the console is disabled or has its own address.
    pub(crate) console: Option<Arc<Console>>,
    /// Whether health and metrics are served as well as the console.
    pub(crate) health: bool,
}

impl Internal {
    async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let is_for_console =
            path.strip_prefix(console::PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match &self.console {
            Some(console) if is_for_console || !self.health => console.answer(request, peer).await,
            _ => {
                let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
                answer(request.method(), path, accept, self.clock.now(), &self.readiness, &self.metrics)
            }
        }
    }
}

/// Serves until the runtime ends, so that an operator can watch a node drain.
pub(crate) async fn serve(socket: TcpListener, internal: Internal, keep_alive: Duration) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (stream, peer) = match socket.accept().await {
            Ok((stream, peer)) => (stream, peer.ip()),
            Err(error) => {
                tracing::warn!(%error, "an internal connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let internal = internal.clone();
        tokio::spawn(async move {
            let internal = &internal;
            let service =
                service_fn(async |request| Ok::<_, Infallible>(internal.answer(request, peer).await));
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
