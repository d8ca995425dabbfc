//! TLS for `wss://` and `https://`, which trusts the system's certificates or those of a file.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, Error, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// A connection without or with TLS. The latter is boxed, since it is large and rare.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Makes the TLS handshake, if there is to be one.
pub async fn secure(socket: TcpStream, tls: Option<&Tls>) -> io::Result<Stream> {
    let Some(Tls { config, name }) = tls else { return Ok(Stream::Left(socket)) };
    let stream = TlsConnector::from(config.clone()).connect(name.clone(), socket).await?;
    Ok(Stream::Right(Box::new(stream)))
}

/// How to make the TLS handshake with one target.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// The name in the target's certificate.
    name: ServerName<'static>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path} holds no certificate that can be read: {problem}")]
    Unreadable { path: String, problem: String },
    #[error("{0} can stand in no certificate")]
    Name(String),
    #[error(transparent)]
    Setup(#[from] Error),
}

impl Tls {
    /// Trusts the certificates in the file `ca`, or those of the system.
    pub fn towards(host: &str, ca: Option<&Path>) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?;
        let config = builder.with_root_certificates(roots(ca)?).with_no_client_auth();
        Ok(Self { config: Arc::new(config), name })
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        return Ok(roots);
    };
    let unreadable = |error: &dyn std::fmt::Display| TlsError::Unreadable {
        path: path.display().to_string(),
        problem: error.to_string(),
    };
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
        roots.add(certificate.map_err(|error| unreadable(&error))?)?;
    }
    if roots.is_empty() { Err(unreadable(&"there is none in it")) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_told() {
        let error = roots(Some(Path::new("Cargo.toml"))).unwrap_err();
        assert!(error.to_string().starts_with("Cargo.toml holds no certificate"), "{error}");
    }
}
