//! TLS on the client listener. The certificate can be changed while connections are open.
//!
//! Changed files apply to handshakes that begin after they were read. Open connections keep theirs. Unusable files change
//! nothing: the old certificate continues to serve, and the log and a metric report it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;
use crate::transport::ALPN_HTTP2;

pub use tls_config::{TlsConfig, TlsVersion};

mod tls_config;

/// The other protocol offered over TLS: WebSockets need it where HTTP/2 is not spoken.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Largest certificate or key file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The listener's TLS.
#[derive(Debug)]
pub struct ListenerTls {
    server: Arc<ServerConfig>,
    current: Arc<ServingCertificate>,
    files: Files,
    /// The fingerprints of the files as last read, usable or not.
    seen: Mutex<[Option<Fingerprint>; 2]>,
}

/// Why the files of `tls` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{file} cannot be read: {error}", file = file.display())]
    Unreadable { file: PathBuf, error: std::io::Error },
    #[error("{file} is {bytes} bytes long, must be at most {FILE_BYTES_MAX}", file = file.display())]
    TooLong { file: PathBuf, bytes: u64 },
    #[error("{file} contains no certificate in PEM", file = file.display())]
    NoCertificate { file: PathBuf },
    #[error("{file} contains no private key in PEM: {error}", file = file.display())]
    NoKey { file: PathBuf, error: rustls::pki_types::pem::Error },
    #[error("the certificate in {certificate} and the key in {key} cannot be used: {error}",
        certificate = certificate.display(), key = key.display())]
    Unusable { certificate: PathBuf, key: PathBuf, error: rustls::Error },
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

impl ListenerTls {
    /// Reads the files of `config`. `None` if TLS is off.
    pub fn load(config: &TlsConfig) -> Result<Option<Self>, TlsError> {
        let (Some(certificate), Some(key)) = (&config.certificate_file, &config.key_file) else {
            return Ok(None);
        };
        let files = Files { certificate: certificate.clone(), key: key.clone() };
        let provider = Arc::new(ring::default_provider());
        // Taken before reading, so that a change in between is noticed.
        let seen = files.fingerprints();
        let current = Arc::new(ServingCertificate(RwLock::new(files.read(&provider)?)));
        let versions: &[_] = match config.version_min {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        let protocols =
            [ALPN_HTTP2, ALPN_HTTP1].into_iter().filter(|name| config.http2 || *name != ALPN_HTTP2);
        server.alpn_protocols = protocols.map(<[u8]>::to_vec).collect();
        // Clients that return present their session in a ticket, which saves both sides the signature. Nothing is stored
        // here for them, however many they are.
        server.ticketer = ring::Ticketer::new().map_err(TlsError::Setup)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        // A client reconnects over one connection at a time: one ticket is enough.
        server.send_tls13_tickets = 1;
        Ok(Some(Self { server: Arc::new(server), current, files, seen: Mutex::new(seen) }))
    }

    /// Returns the configuration for a new connection's handshake.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// Reads the files again if they have changed. Returns whether a new certificate serves.
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let found = self.files.fingerprints();
        if std::mem::replace(&mut *self.seen.lock(), found) == found {
            return Ok(false);
        }
        self.read().map(|fresh| self.serve(fresh)).map(|()| true)
    }

    /// Reads the files, changed or not, without changing the certificate that serves.
    pub fn read(&self) -> Result<LoadedCertificate, TlsError> {
        // Taken before reading, so that a change in between is noticed.
        let seen = self.files.fingerprints();
        Ok(LoadedCertificate { certified: self.files.read(self.server.crypto_provider())?, seen })
    }

    /// Serves new handshakes with this certificate.
    pub fn serve(&self, fresh: LoadedCertificate) {
        *self.seen.lock() = fresh.seen;
        *self.current.0.write() = fresh.certified;
    }

    /// Reports the result of a reload to the log and the metrics.
    pub fn report_reload(&self, reloaded: Result<(), &TlsError>, metrics: &Metrics) {
        match reloaded {
            Ok(()) => {
                tracing::info!(file = %self.files.certificate.display(), "a new certificate is in use");
                metrics.tls_reload(true);
            }
            Err(error) => {
                tracing::error!(%error, "the changed certificate cannot be used; the old one stays in use");
                metrics.tls_reload(false);
            }
        }
    }

    /// Checks the files for changes at this interval, until stopped.
    pub async fn watch(self: Arc<Self>, interval: Duration, metrics: Arc<Metrics>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let tls = self.clone();
            // Read on a blocking thread, because the disk may be slow.
            match tokio::task::spawn_blocking(move || tls.reload_if_changed()).await {
                Ok(Ok(false)) => {}
                Ok(reloaded) => self.report_reload(reloaded.as_ref().map(|_| ()), &metrics),
                Err(error) => tracing::error!(%error, "the certificate could not be read"),
            }
        }
    }
}

/// A certificate and its key as read, not yet serving.
#[derive(Debug)]
pub struct LoadedCertificate {
    certified: Arc<CertifiedKey>,
    seen: [Option<Fingerprint>; 2],
}

/// The certificate that new handshakes get.
#[derive(Debug)]
struct ServingCertificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What changes when a file is rewritten or replaced, also through a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fingerprint {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Files {
    fn fingerprints(&self) -> [Option<Fingerprint>; 2] {
        [&self.certificate, &self.key].map(|file| {
            let of = |found: Metadata| Fingerprint {
                inode: found.ino(),
                length: found.len(),
                modified: (found.mtime(), found.mtime_nsec()),
            };
            std::fs::metadata(file).ok().map(of)
        })
    }

    fn read(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
        let pem = read_bounded(&self.certificate)?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::NoCertificate { file: self.certificate.clone() })?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate { file: self.certificate.clone() });
        }
        let key = PrivateKeyDer::from_pem_slice(&read_bounded(&self.key)?)
            .map_err(|error| TlsError::NoKey { file: self.key.clone(), error })?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| TlsError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            error,
        })?;
        Ok(Arc::new(certified))
    }
}

fn read_bounded(file: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error| TlsError::Unreadable { file: file.to_owned(), error };
    let bytes = std::fs::metadata(file).map_err(unreadable)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(TlsError::TooLong { file: file.to_owned(), bytes });
    }
    std::fs::read(file).map_err(unreadable)
}

#[cfg(test)]
mod tests;
