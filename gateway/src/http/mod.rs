//! The client listener's HTTP: paths to handlers, and every check that comes before a client is let in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use crate::api::Api;
use crate::listener::admission::Admission;
use crate::telemetry::labels::Handshake;
use crate::telemetry::{Metrics, Sparingly};
use crate::transport::encodings::Encodings;
use crate::worker::inbox::Inbox;

pub mod client_ip;
pub mod config;
pub mod origin;
pub mod pages;

mod head;
mod route;
mod upgrade;

pub(crate) use route::OpenedAtOnce;

use client_ip::TrustedProxies;
use origin::OriginPolicy;

/// A head that was read without hyper, for [`crate::readers`].
#[derive(PartialEq, Eq, Debug)]
pub struct ReadHead<'a> {
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// How long it is.
    pub bytes: usize,
}

pub(crate) fn read_head(bytes: &[u8]) -> Option<ReadHead<'_>> {
    let (head, bytes) = head::Head::read(bytes)?;
    Some(ReadHead { path: head.path, query: head.query, headers: head.headers().collect(), bytes })
}

/// Where every request of a client goes.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    pub(crate) origins: OriginPolicy,
    pub(crate) proxies: TrustedProxies,
    pub(crate) admission: Arc<Admission>,
    /// Whether clients connect here.
    pub(crate) clients: bool,
    /// `None` where the API has an address of its own.
    pub(crate) api: Option<Arc<Api>>,
    pub(crate) encodings: Arc<Encodings>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) url_bytes_max: usize,
    /// The ticker page, where the demo is on.
    pub(crate) pages: bool,
    pub(crate) refusals_told: Arc<Sparingly>,
}

/// The workers in turn, so that each gets its share of the connections.
#[derive(Debug)]
pub(crate) struct Workers {
    inboxes: Vec<Arc<Inbox>>,
    next: AtomicUsize,
}

impl Workers {
    pub(crate) fn new(inboxes: Vec<Arc<Inbox>>) -> Self {
        Self { inboxes, next: AtomicUsize::new(0) }
    }

    fn next(&self) -> &Arc<Inbox> {
        &self.inboxes[self.next.fetch_add(1, Ordering::Relaxed) % self.inboxes.len()]
    }
}

/// Why a request goes no further, for the client and for the metrics.
#[derive(Debug)]
pub(crate) struct Refused {
    result: Handshake,
    status: StatusCode,
    why: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refused {
    pub(crate) fn new(result: Handshake, status: StatusCode, why: impl Into<String>) -> Self {
        Self { result, status, why: why.into(), header: None }
    }
}
