//! Fetches a small document from a configured server: once, within a deadline and a size limit. Redirects are not followed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::authorities::{AuthoritiesError, authorities};

/// The address of a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DocumentSource {
    is_tls: bool,
    host: Box<str>,
    port: u16,
    /// The value of the header `Host`.
    authority: Box<str>,
    path: Box<str>,
}

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("its host cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("its host is on {0}: without TLS only loopback and private addresses are allowed")]
    Public(IpAddr),
    #[error("its host has no address")]
    NoAddress,
    #[error("TLS: {0}")]
    Tls(String),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("it answered {0}; redirects are not followed")]
    Redirect(StatusCode),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
    #[error("its answer is incomplete: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

/// Fetches documents, with the TLS settings for all servers.
#[derive(Clone)]
pub(crate) struct Fetcher {
    tls: TlsConnector,
}

impl DocumentSource {
    /// Parses an address that begins with `https://`, or with `http://` if that is allowed.
    pub(crate) fn parse(text: &str, http_allowed: bool) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| format!("is \"{text}\", which is not a URL"))?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if http_allowed => false,
            Some("http") => {
                return Err(
                    "must begin with https://: keys that are fetched without TLS can be replaced on the way"
                        .into(),
                );
            }
            _ => return Err("must begin with https://".into()),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or("must name a host")?;
        if authority.as_str().contains('@') {
            return Err("must not contain a user or a password".into());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if let (false, Ok(address)) = (is_tls, host.parse::<IpAddr>())
            && !is_private(address)
        {
            return Err(
                "must begin with https://, because its host is not on a loopback or private address".into()
            );
        }
        Ok(Self {
            is_tls,
            host: host.into(),
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            authority: authority.as_str().into(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).into(),
        })
    }
}

impl Fetcher {
    /// Creates a fetcher that checks servers against the authorities of a file, or without one against those of the
    /// operating system.
    pub(crate) fn new(ca_file: Option<&std::path::Path>) -> Result<Self, AuthoritiesError> {
        let roots = authorities(ca_file)?;
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring has the versions that rustls holds to be safe")
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Returns the body of the response, if its status is 200 and it has at most `bytes_max` bytes.
    pub(crate) async fn get(
        &self,
        source: &DocumentSource,
        timeout: Duration,
        bytes_max: usize,
    ) -> Result<Bytes, FetchError> {
        let fetched = tokio::time::timeout(timeout, async {
            let stream = connect(source).await?;
            if !source.is_tls {
                return ask(stream, source, bytes_max).await;
            }
            let tls = |error: &dyn std::fmt::Display| FetchError::Tls(error.to_string());
            let name = ServerName::try_from(source.host.to_string()).map_err(|error| tls(&error))?;
            let stream = self.tls.connect(name, stream).await.map_err(|error| tls(&error))?;
            ask(stream, source, bytes_max).await
        });
        fetched.await.unwrap_or(Err(FetchError::Timeout(timeout)))
    }
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fetcher")
    }
}

async fn connect(source: &DocumentSource) -> Result<TcpStream, FetchError> {
    let found = tokio::net::lookup_host((&*source.host, source.port)).await;
    let addresses: Vec<SocketAddr> = found.map_err(FetchError::Unreachable)?.collect();
    let mut failed = FetchError::NoAddress;
    for address in addresses {
        // Checked after the name was resolved, so that the name cannot change its address in between.
        if !source.is_tls && !is_private(address.ip()) {
            return Err(FetchError::Public(address.ip()));
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = FetchError::Unreachable(error),
        }
    }
    Err(failed)
}

async fn ask<S>(stream: S, source: &DocumentSource, bytes_max: usize) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Aborted when this call returns.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::try_from(&*source.path).unwrap_or_default();
    for (name, value) in [
        (header::HOST, &*source.authority),
        (header::ACCEPT, "application/json"),
        (header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION"))),
    ] {
        if let Ok(value) = value.parse() {
            request.headers_mut().insert(name, value);
        }
    }
    let response = sender.send_request(request).await?;
    match response.status() {
        StatusCode::OK => {}
        status if status.is_redirection() => return Err(FetchError::Redirect(status)),
        status => return Err(FetchError::Status(status)),
    }
    let body = Limited::new(response.into_body(), bytes_max).collect().await.map_err(|error| {
        match error.is::<http_body_util::LengthLimitError>() {
            true => FetchError::TooLong(bytes_max),
            false => FetchError::Broken(error),
        }
    })?;
    Ok(body.to_bytes())
}

fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_source_is_https_unless_it_is_near_and_allowed() {
        let source = DocumentSource::parse("https://login.example.org/keys?a=1", false).unwrap();
        assert_eq!((&*source.host, source.port, &*source.path), ("login.example.org", 443, "/keys?a=1"));
        assert_eq!(
            DocumentSource::parse("https://[::1]:9/", false).map(|source| source.host).as_deref(),
            Ok("::1")
        );
        assert!(DocumentSource::parse("http://127.0.0.1:80/keys", false).is_err());
        for near in
            ["http://127.0.0.1/", "http://10.0.0.1:8080/k", "http://[fd00::1]/", "http://keycloak:8080/"]
        {
            assert!(DocumentSource::parse(near, true).is_ok(), "{near}");
        }
        for bad in [
            "http://8.8.8.8/",
            "http://169.254.169.254/",
            "http://[::ffff:8.8.8.8]/",
            "ftp://a/",
            "/keys",
            "",
            "https://user:password@a/",
            "https://",
        ] {
            assert!(DocumentSource::parse(bad, true).is_err(), "{bad}");
        }
    }

    /// Sends this answer to every client, then nothing more.
    async fn server(answer: String) -> DocumentSource {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /keys HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
                // Kept open: an answer has to end by itself, or at the deadline.
                tokio::spawn(async move { stream.read(&mut request).await });
            }
        });
        DocumentSource::parse(&url, true).unwrap()
    }

    async fn fetched(answer: &str, timeout: Duration) -> Result<Bytes, FetchError> {
        let source = server(answer.to_owned()).await;
        let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), ca.cert.pem()).unwrap();
        Fetcher::new(Some(file.path())).unwrap().get(&source, timeout, 8).await
    }

    #[tokio::test]
    async fn a_body_is_fetched_within_its_bounds_and_nothing_is_followed() {
        let long = Duration::from_secs(20);
        let body = fetched("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n12345678", long).await;
        assert_eq!(body.unwrap(), "12345678");
        let body = fetched("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789", long).await;
        assert!(matches!(body, Err(FetchError::TooLong(8))), "{body:?}");
        let body =
            fetched("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n", long).await;
        assert!(matches!(body, Err(FetchError::TooLong(8))), "{body:?}");
        let moved =
            fetched("HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n", long).await;
        assert!(matches!(moved, Err(FetchError::Redirect(_))), "{moved:?}");
        let failed = fetched("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", long).await;
        assert!(matches!(failed, Err(FetchError::Status(_))), "{failed:?}");
        let silent =
            fetched("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n1234", Duration::from_millis(50)).await;
        assert!(matches!(silent, Err(FetchError::Timeout(_))), "{silent:?}");
    }
}
