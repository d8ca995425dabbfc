//! The certificate authorities that servers are checked against.

use std::fmt::Display;
use std::path::Path;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Why the authorities cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct AuthoritiesError(String);

/// Returns the authorities of a PEM file, or without a file those of the operating system.
pub(crate) fn authorities(file: Option<&Path>) -> Result<RootCertStore, AuthoritiesError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = file {
        let unreadable = |error: &dyn Display| AuthoritiesError(format!("{}: {error}", path.display()));
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
        return Err(AuthoritiesError("there are none".to_owned()));
    }
    Ok(roots)
}
