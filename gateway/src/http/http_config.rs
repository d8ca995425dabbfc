//! The bounds of an HTTP request and whose word is taken for where it came from.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::http::origin::OriginPolicy;
use crate::setting::Faults;

/// HTTP requests of clients.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Origins of the web pages that may connect: `https://example.com`, `https://*.example.com:8443`,
    /// `http://localhost:*` for any port, `same-origin` for pages that this node's own host serves, `file://` and
    /// `null` for pages in local files (`null` also stands for sandboxed frames of any page), `*` for all.
    pub allowed_origins: Vec<String>,
    /// Accepts clients that send no `Origin` header, as all clients except browsers do.
    pub allow_missing_origin: bool,
    /// Networks of the proxies whose `X-Forwarded-For` header is trusted, such as `10.0.0.0/8`.
    pub trusted_proxies: Vec<IpNet>,
    /// Time limit for a client to begin the head of a request, in milliseconds. The same limit applies again to
    /// completing it.
    pub head_timeout_ms: u64,
    /// Time that an idle connection is kept open for the next request, in milliseconds. Set it longer than the
    /// keep-alive of load balancers and connection pools: otherwise they may send a request on a connection that is
    /// being closed.
    pub keep_alive_ms: u64,
    /// The longest head of a request, in bytes.
    pub head_bytes_max: usize,
    /// The most headers of a request.
    pub headers_max: usize,
    /// The longest path and query of a request, in bytes.
    pub url_bytes_max: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            allowed_origins: vec!["same-origin".to_owned()],
            allow_missing_origin: true,
            trusted_proxies: Vec::new(),
            head_timeout_ms: 10_000,
            keep_alive_ms: 75_000,
            head_bytes_max: 16_384,
            headers_max: 64,
            url_bytes_max: 4096,
        }
    }
}

impl HttpConfig {
    pub fn head_timeout(&self) -> Duration {
        Duration::from_millis(self.head_timeout_ms)
    }

    pub fn keep_alive(&self) -> Duration {
        Duration::from_millis(self.keep_alive_ms)
    }

    pub fn check(&self, faults: &mut Faults) {
        if let Err(invalid) = OriginPolicy::new(self) {
            for (index, problem) in invalid {
                faults.add(format!("allowed_origins.{index}"), problem.to_string());
            }
        }
        faults.outside("head_timeout_ms", self.head_timeout_ms, 10..=120_000);
        faults.outside("keep_alive_ms", self.keep_alive_ms, 10..=3_600_000);
        // hyper refuses to read heads into less than 8 KiB.
        faults.outside("head_bytes_max", self.head_bytes_max, 8192..=1_048_576);
        faults.outside("headers_max", self.headers_max, 8..=1000);
        faults.outside("url_bytes_max", self.url_bytes_max, 64..=65_535);
    }
}
