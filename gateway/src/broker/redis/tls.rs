//! TLS to Redis: whom the server's certificate is checked against, and what this node shows of itself.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

use super::config::Config;
use super::dial::DialError;

pub(super) fn connector(config: &Config) -> Result<TlsConnector, DialError> {
    let identity = |error: &dyn Display| DialError::Identity(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DialError::Authorities(error.to_string()))?
        .with_root_certificates(authorities(config.ca_file.as_deref())?);
    let tls = match (&config.client_cert_file, &config.client_key_file) {
        (Some(certificate), Some(key)) => {
            let in_file =
                |file: &Path, error: &dyn Display| identity(&format!("{}: {error}", file.display()));
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| in_file(certificate, &error))?;
            if chain.is_empty() {
                return Err(in_file(certificate, &"holds no certificate"));
            }
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| identity(&error))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(tls)))
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, DialError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = file {
        let unreadable = |error: &dyn Display| DialError::Authorities(format!("{}: {error}", path.display()));
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            roots.add(certificate).map_err(|error| unreadable(&error))?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the system's certificate authorities cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
    }
    if roots.is_empty() {
        return Err(DialError::Authorities("there are none".into()));
    }
    Ok(roots)
}
