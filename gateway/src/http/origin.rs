//! Which pages may connect: the check of `Origin` before a handshake is answered.
//!
//! A browser sends cookies and reaches internal addresses on behalf of any page it shows, and asks no one before it opens a
//! WebSocket. Only the `Origin` header says which page it is (RFC 6455 §10.2).

use crate::http::http_config::HttpConfig;

/// Allows pages that this node's own host serves.
const SAME_ORIGIN: &str = "same-origin";
/// Allows all pages.
const ANY: &str = "*";
/// The origin of pages in local files, in Chromium.
const FILE: &str = "file://";
/// The origin of pages in local files in other browsers, and of all pages without an origin, such as sandboxed frames.
const NULL: &str = "null";
/// Longest `Origin` that is examined, in bytes. A host name has at most 253.
const ORIGIN_BYTES_MAX: usize = 512;

/// The origins that may connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginPolicy {
    any: bool,
    same_origin: bool,
    missing: bool,
    /// `file://`, `null` or both.
    nameless: Vec<&'static str>,
    listed: Vec<Pattern>,
}

/// Why an entry of the list is invalid.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "\"{0}\" is not an origin: use scheme://host or scheme://host:port, with * for the first label of the host and for the \
     port at most; or one of same-origin, file://, null, *"
)]
pub struct InvalidOrigin(String);

impl OriginPolicy {
    /// Parses the list. On failure, returns the position and the fault of every invalid entry.
    pub fn new(config: &HttpConfig) -> Result<Self, Vec<(usize, InvalidOrigin)>> {
        let mut policy = Self {
            any: false,
            same_origin: false,
            missing: config.allow_missing_origin,
            nameless: Vec::new(),
            listed: Vec::new(),
        };
        let mut faults = Vec::new();
        for (index, entry) in config.allowed_origins.iter().enumerate() {
            match entry.trim() {
                ANY => policy.any = true,
                SAME_ORIGIN => policy.same_origin = true,
                FILE => policy.nameless.push(FILE),
                NULL => policy.nameless.push(NULL),
                text => match Pattern::parse(text) {
                    Some(pattern) => policy.listed.push(pattern),
                    None => faults.push((index, InvalidOrigin(entry.clone()))),
                },
            }
        }
        if faults.is_empty() { Ok(policy) } else { Err(faults) }
    }

    /// Whether a request with these headers may proceed. `null` and `file://` identify no page, so they are refused unless
    /// listed or all origins are allowed.
    pub fn allows(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return self.missing };
        if self.any || self.nameless.contains(&origin) {
            return true;
        }
        let Some(origin) = (origin.len() <= ORIGIN_BYTES_MAX).then(|| OriginParts::parse(origin)).flatten()
        else {
            return false;
        };
        let is_same = || host.and_then(|host| origin.is_served_by(host)).unwrap_or(false);
        (self.same_origin && is_same()) || self.listed.iter().any(|pattern| pattern.matches(&origin))
    }
}

/// An entry of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Pattern {
    parts: OriginParts,
    /// Whether the host has to follow one label of any name.
    any_first_label: bool,
    any_port: bool,
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let (any_first_label, authority) = match authority.strip_prefix("*.") {
            // A public suffix such as *.com would allow everyone, so at least two labels must be given.
            Some(rest)
                if rest.split(':').next()?.split('.').filter(|label| !label.is_empty()).count() >= 2 =>
            {
                (true, rest)
            }
            Some(_) => return None,
            None => (false, authority),
        };
        let (any_port, authority) = match authority.strip_suffix(":*") {
            Some(host) => (true, host),
            None => (false, authority),
        };
        let parts = OriginParts::parse(&format!("{scheme}://{authority}"))?;
        Some(Self { parts, any_first_label, any_port })
    }

    fn matches(&self, origin: &OriginParts) -> bool {
        let host = if self.any_first_label {
            match origin.host.split_once('.') {
                Some((label, rest)) if !label.is_empty() => rest,
                _ => return false,
            }
        } else {
            &origin.host
        };
        let port_fits = self.any_port || origin.port == self.parts.port;
        port_fits && host == self.parts.host && origin.scheme == self.parts.scheme
    }
}

/// Scheme, host and port of an origin, in lower case.
#[derive(Clone, PartialEq, Eq, Debug)]
struct OriginParts {
    scheme: String,
    host: String,
    /// The scheme's default port if none is written; 0 for schemes without one.
    port: u16,
}

impl OriginParts {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(in_scheme) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = split_authority(authority, default_port(&scheme))?;
        Some(Self { scheme, host, port })
    }

    /// Whether the request's `Host` serves this origin's pages. The scheme is not compared, because a proxy in front may
    /// have terminated TLS. `None` if `Host` is malformed.
    fn is_served_by(&self, host: &str) -> Option<bool> {
        let (host, port) = split_authority(host, default_port(&self.scheme))?;
        Some(self.host == host && self.port == port)
    }
}

fn default_port(scheme: &str) -> u16 {
    match scheme {
        "http" | "ws" => 80,
        "https" | "wss" => 443,
        _ => 0,
    }
}

/// Returns the host in lower case and the port of `host`, `host:port`, `[v6]` or `[v6]:port`. `None` for anything else.
fn split_authority(authority: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            match after.strip_prefix(':') {
                Some(port) => (format!("[{address}]"), Some(port)),
                None if after.is_empty() => (format!("[{address}]"), None),
                None => return None,
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (authority.to_owned(), None),
        },
    };
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || !(host.starts_with('[') || host.bytes().all(in_name)) {
        return None;
    }
    let port = match port {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        Some(_) => return None,
        None => default_port,
    };
    Some((host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allowed: &[&str]) -> OriginPolicy {
        let allowed_origins = allowed.iter().map(|entry| (*entry).to_owned()).collect();
        OriginPolicy::new(&HttpConfig { allowed_origins, ..HttpConfig::default() }).unwrap()
    }

    fn allows(allowed: &[&str], origin: &str) -> bool {
        policy(allowed).allows(Some(origin), Some("gateway.example:8000"))
    }

    #[test]
    fn an_origin_is_its_scheme_host_and_port_exactly() {
        let allowed = &["https://app.example.com"];
        assert!(allows(allowed, "https://app.example.com"));
        assert!(allows(allowed, "https://APP.example.com:443"));
        for other in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.net",
            "https://evil.net/https://app.example.com",
            "https://app.example.com@evil.net",
            "https://evilapp.example.com",
            "https://example.com",
            "https://app.example.com.",
            "app.example.com",
            "",
            "null",
        ] {
            assert!(!allows(allowed, other), "{other}");
        }
        assert!(allows(&["capacitor://localhost"], "capacitor://localhost"));
    }

    #[test]
    fn a_star_stands_for_one_whole_label_on_the_left() {
        let allowed = &["https://*.example.com:8443"];
        assert!(allows(allowed, "https://a.example.com:8443"));
        for other in [
            "https://example.com:8443",
            "https://a.b.example.com:8443",
            "https://.example.com:8443",
            "https://aexample.com:8443",
            "https://a.example.com",
        ] {
            assert!(!allows(allowed, other), "{other}");
        }
    }

    #[test]
    fn a_star_stands_for_any_port() {
        let allowed = &["http://localhost:*", "http://[::1]:*", "https://*.example.com:*"];
        for origin in [
            "http://localhost",
            "http://localhost:80",
            "http://LOCALHOST:3000",
            "http://[::1]:5173",
            "https://a.example.com:8443",
        ] {
            assert!(allows(allowed, origin), "{origin}");
        }
        for other in [
            "https://localhost:3000",
            "http://localhost.evil.net:3000",
            "http://localhost:3000.evil.net",
            "http://localhost:",
            "http://localhost:*",
            "http://localhost:99999",
            "http://127.0.0.1:3000",
            "https://example.com:8443",
        ] {
            assert!(!allows(allowed, other), "{other}");
        }
    }

    #[test]
    fn pages_without_a_name_can_be_allowed_by_what_they_send() {
        assert!(allows(&["file://"], "file://") && allows(&["null"], "null"));
        assert!(!allows(&["file://"], "null") && !allows(&["null"], "file://"));
        assert!(!allows(&["file://"], "file://localhost") && !allows(&["file://"], "file:///tmp/x.html"));
        assert!(!allows(&["same-origin"], "file://") && !allows(&["same-origin"], "null"));
        assert!(allows(&["*"], "null") && allows(&["*"], "file://"));
    }

    #[test]
    fn same_origin_is_the_host_the_request_was_sent_to() {
        let policy = policy(&["same-origin"]);
        assert!(policy.allows(Some("http://127.0.0.1:8000"), Some("127.0.0.1:8000")));
        assert!(policy.allows(Some("https://live.example.com"), Some("live.example.com")));
        assert!(policy.allows(Some("https://live.example.com"), Some("Live.Example.com:443")));
        assert!(policy.allows(Some("http://[::1]:8000"), Some("[::1]:8000")));
        assert!(!policy.allows(Some("http://127.0.0.1:8001"), Some("127.0.0.1:8000")));
        assert!(!policy.allows(Some("http://evil.net"), Some("live.example.com")));
        assert!(!policy.allows(Some("http://evil.net"), None));
        assert!(!policy.allows(Some("null"), Some("null")));
    }

    #[test]
    fn a_missing_origin_has_its_own_switch() {
        let mut config = HttpConfig::default();
        assert!(OriginPolicy::new(&config).unwrap().allows(None, Some("x")));
        config.allow_missing_origin = false;
        assert!(!OriginPolicy::new(&config).unwrap().allows(None, Some("x")));
    }

    #[test]
    fn any_origin_is_allowed_only_where_it_is_said() {
        assert!(allows(&["*"], "https://evil.net"));
        assert!(!allows(&[], "http://gateway.example:8000"));
    }

    #[test]
    fn entries_that_mean_nothing_are_told() {
        let allowed_origins =
            ["https://ok.example", "example.com", "https://*.com", "https://a.*.com", "https://x/", "x:*"];
        let allowed_origins = allowed_origins.map(str::to_owned).to_vec();
        let faults = OriginPolicy::new(&HttpConfig { allowed_origins, ..HttpConfig::default() }).unwrap_err();
        assert_eq!(faults.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }
}
