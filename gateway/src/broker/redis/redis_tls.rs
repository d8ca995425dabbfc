//! TLS to Redis: the authorities that the server's certificate is checked against, and the certificate of this node.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

use super::redis_config::RedisConfig;
use super::redis_dial::DialError;
use crate::authorities::authorities;

pub(super) fn connector(config: &RedisConfig) -> Result<TlsConnector, DialError> {
    let identity = config.client_cert_file.as_deref().zip(config.client_key_file.as_deref());
    tls_connector(config.ca_file.as_deref(), identity)
}

/// `identity` is the file of a certificate and the ones it was signed with, and the file of its key.
pub(crate) fn tls_connector(
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<TlsConnector, DialError> {
    client_config(ca_file, identity).map(|tls| TlsConnector::from(Arc::new(tls)))
}

/// Returns the configuration alone, for callers that connect by other means.
pub(crate) fn client_config(
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, DialError> {
    let unusable = |error: &dyn Display| DialError::Identity(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = authorities(ca_file).map_err(|error| DialError::Authorities(error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DialError::Authorities(error.to_string()))?
        .with_root_certificates(roots);
    Ok(match identity {
        Some((certificate, key)) => {
            let in_file =
                |file: &Path, error: &dyn Display| unusable(&format!("{}: {error}", file.display()));
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| in_file(certificate, &error))?;
            if chain.is_empty() {
                return Err(in_file(certificate, &"holds no certificate"));
            }
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable(&error))?
        }
        None => builder.with_no_client_auth(),
    })
}
