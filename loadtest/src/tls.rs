//! A connection with TLS around it where the address asks for it, and whom to trust behind `wss://` and `https://`: the
//! system's certificates, a given one, or on this machine anyone.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// The rule is the small one, and the box of the other is nothing beside the rest of a TLS connection.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Shakes hands where that is wanted.
pub async fn secure(socket: TcpStream, tls: Option<&Tls>) -> io::Result<Stream> {
    match tls {
        None => Ok(Stream::Left(socket)),
        Some(tls) => Ok(Stream::Right(Box::new(tls.connector.connect(tls.name.clone(), socket).await?))),
    }
}

/// How to shake hands with one target.
#[derive(Clone)]
pub struct Tls {
    pub connector: TlsConnector,
    /// What its certificate must say.
    pub name: ServerName<'static>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path} holds no certificate that can be read: {problem}")]
    Unreadable { path: String, problem: String },
    #[error("{0} can stand in no certificate")]
    Name(String),
    #[error("--insecure is for this machine only, and {0} is not on it")]
    InsecureRemote(SocketAddr),
    #[error(transparent)]
    Setup(#[from] Error),
}

/// Makes connectors, all with the same trust.
#[derive(Debug)]
pub struct Trust {
    config: Arc<ClientConfig>,
    insecure: bool,
}

impl Trust {
    pub fn new(ca: Option<&Path>, insecure: bool) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let config = if insecure {
            let anyone = Arc::new(Anyone { provider });
            builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth()
        } else {
            builder.with_root_certificates(roots(ca)?).with_no_client_auth()
        };
        Ok(Self { config: Arc::new(config), insecure })
    }

    pub fn towards(&self, host: &str, address: SocketAddr) -> Result<Tls, TlsError> {
        if self.insecure && !address.ip().is_loopback() {
            return Err(TlsError::InsecureRemote(address));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
        Ok(Tls { connector: TlsConnector::from(self.config.clone()), name })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
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

/// Takes any certificate, so that a test needs none that is signed. Signatures are still checked, since they cost the
/// time that is to be measured.
#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anyone_is_trusted_on_this_machine_only() {
        let trust = Trust::new(None, true).unwrap();
        assert!(trust.towards("127.0.0.1", "127.0.0.1:1".parse().unwrap()).is_ok());
        let refused = trust.towards("example.com", "192.0.2.1:443".parse().unwrap());
        assert!(matches!(refused, Err(TlsError::InsecureRemote(_))));
    }

    #[test]
    fn a_file_without_a_certificate_is_told() {
        let error = Trust::new(Some(Path::new("Cargo.toml")), false).unwrap_err();
        assert!(error.to_string().starts_with("Cargo.toml holds no certificate"), "{error}");
    }
}
