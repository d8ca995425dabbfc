//! The HTTP client towards backends: it keeps connections open, follows no redirect, and connects to allowed addresses only.

use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::Semaphore;
use tower_service::Service;

use super::allowed_address::is_private;
use super::backend_config::LOCALHOST;
use super::failure::HookFailure;

/// The most names that are resolved at once. The system's resolver holds a thread for each.
const LOOKUPS_MAX: usize = 16;
/// The longest head of a response, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Why the client cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the file of backend.ca_file, {file}, cannot be used: {error}")]
    Authorities { file: String, error: String },
    #[error("TLS towards backends cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Resolves a name to addresses.
pub(super) type ResolveFuture = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The settings of a client.
pub(super) struct HookClientParts<'a> {
    pub(super) ca_file: Option<&'a Path>,
    pub(super) allow_private_addresses: bool,
    pub(super) idle_connections_max: usize,
    pub(super) idle_timeout: Duration,
    pub(super) lookup: ResolveFuture,
}

#[derive(Clone)]
pub(super) struct HttpClient(Client<HttpsConnector<HttpConnector<GuardedResolver>>, Full<Bytes>>);

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}

/// The response of a backend.
#[derive(Debug)]
pub(super) struct HookResponse {
    pub(super) status: StatusCode,
    pub(super) content_type: Option<HeaderValue>,
    pub(super) body: Bytes,
}

impl HttpClient {
    pub(super) fn new(parts: HookClientParts<'_>) -> Result<Self, ClientError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(authorities(parts.ca_file)?)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new_with_resolver(GuardedResolver {
            allow_private: parts.allow_private_addresses,
            lookup: parts.lookup,
            turns: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        });
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(parts.idle_timeout)
            .pool_max_idle_per_host(parts.idle_connections_max)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(connector.wrap_connector(tcp));
        Ok(Self(client))
    }

    /// Sends one request and reads the whole response. The caller sets a deadline.
    pub(super) async fn post(
        &self,
        url: &Uri,
        headers: HeaderMap,
        body: Bytes,
        answer_bytes_max: usize,
    ) -> Result<HookResponse, HookFailure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.clone();
        *request.headers_mut() = headers;
        let response = self.0.request(request).await.map_err(|error| not_answered(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, answer_bytes_max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                HookFailure::TooLong { bytes_max: answer_bytes_max }
            } else {
                HookFailure::Broken(error.to_string())
            }
        })?;
        Ok(HookResponse {
            status: head.status,
            content_type: head.headers.get(header::CONTENT_TYPE).cloned(),
            body: body.to_bytes(),
        })
    }
}

/// Returns the resolver of the system.
pub(super) fn system_lookup() -> ResolveFuture {
    Arc::new(|name| Ok((name, 0).to_socket_addrs()?.collect()))
}

/// Returns why a request got no response, by the errors that led to it.
fn not_answered(error: &hyper_util::client::legacy::Error) -> HookFailure {
    let mut innermost = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<NoAllowedAddress>() {
            return HookFailure::PrivateAddress(error.to_string());
        }
        innermost = error.to_string();
        cause = error.source();
    }
    if error.is_connect() { HookFailure::Unreachable(innermost) } else { HookFailure::Broken(innermost) }
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the system's certificate authorities cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    if let Some(path) = file {
        let unusable = |error: &dyn Display| ClientError::Authorities {
            file: path.display().to_string(),
            error: error.to_string(),
        };
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))? {
            let certificate = certificate.map_err(|error| unusable(&error))?;
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
        if roots.len() == before {
            return Err(unusable(&"holds no certificate"));
        }
    }
    Ok(roots)
}

/// The name resolves to no allowed address.
#[derive(Debug, thiserror::Error)]
#[error("{0} has private addresses only, which backend.allow_private_addresses does not allow")]
struct NoAllowedAddress(String);

/// Resolves names and leaves out addresses that are not allowed. It runs right before the connection is made, so a name
/// cannot change its address in between. Addresses that stand in a URL are never resolved.
#[derive(Clone)]
struct GuardedResolver {
    allow_private: bool,
    lookup: ResolveFuture,
    turns: Arc<Semaphore>,
}

impl Service<Name> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { allow_private, lookup, turns } = self.clone();
        Box::pin(async move {
            let turn = turns.acquire_owned().await?;
            let host = name.as_str().to_owned();
            let found = tokio::task::spawn_blocking(move || {
                // Released when the lookup has ended, even if the request that waited for it is gone.
                let _turn = turn;
                lookup(&host)
            });
            let mut found = found.await??;
            if !allow_private && !name.as_str().eq_ignore_ascii_case(LOCALHOST) {
                let some = !found.is_empty();
                found.retain(|address| !is_private(address.ip()));
                if some && found.is_empty() {
                    return Err(NoAllowedAddress(name.as_str().to_owned()).into());
                }
            }
            Ok(found.into_iter())
        })
    }
}
