//! The client listener's HTTP: paths to handlers, and every check that comes before a client is let in.

use std::fmt;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use crate::admission::Admission;
use crate::admission::client_ip::TrustedProxies;
use crate::api::Api;
use crate::client::open::NewClient;
use crate::telemetry::labels::Handshake;
use crate::telemetry::{Metrics, Sparingly};
use crate::transport::encodings::Encodings;

pub mod config;
pub mod origin;
pub mod pages;

mod head;
mod route;
mod stream;
mod upgrade;

pub(crate) use route::OpenedAtOnce;
pub(crate) use stream::Stream;

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
    pub(crate) reception: Reception,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) url_bytes_max: usize,
    /// The ticker page, where the demo is on.
    pub(crate) pages: bool,
    pub(crate) refusals_told: Arc<Sparingly>,
}

/// Where a client goes that has been let in.
#[derive(Clone)]
pub(crate) struct Reception(Arc<dyn Fn(Box<NewClient>) + Send + Sync>);

impl Reception {
    pub(crate) fn new(receive: impl Fn(Box<NewClient>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(receive))
    }

    fn receive(&self, new: NewClient) {
        (self.0)(Box::new(new));
    }
}

impl fmt::Debug for Reception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reception")
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
