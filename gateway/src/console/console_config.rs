//! The section `console`: who may look into the cluster with a browser, and what they may do.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::setting::Faults;

/// The shortest password, in bytes.
const PASSWORD_BYTES_MIN: usize = 8;
/// The longest password, in bytes: it must fit into a header.
const PASSWORD_BYTES_MAX: usize = 1_024;

/// A web page for operators that shows the cluster's nodes, channels and connections live.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleConfig {
    /// Serves the console at `/console/`.
    pub enabled: bool,
    /// Address and port for the console alone. Not set: the console is served at `internal.listen`. Port 0: a free
    /// port.
    #[serde(deserialize_with = "crate::setting::address_if_any")]
    pub listen: Option<SocketAddr>,
    /// The password that the browser asks for; any user name is accepted with it. 8 to 1024 printable ASCII
    /// characters.
    pub password: Secret,
    /// A file that holds the password. Replaces `password`.
    pub password_file: Option<PathBuf>,
    /// The header in which an authenticating proxy names the user, such as `X-Forwarded-User`. It is accepted from
    /// `console.proxies` only. Requests from these proxies that carry it need no password.
    pub user_header: String,
    /// Networks of the authenticating proxies, such as `10.0.0.0/8`.
    pub proxies: Vec<IpNet>,
    /// For development only: serves the console without authentication.
    pub insecure: bool,
    /// Makes the console read-only: no publishing, disconnecting or unsubscribing.
    pub read_only: bool,
}

impl ConsoleConfig {
    pub fn check(&self, faults: &mut Faults) {
        let text = self.password.reveal();
        if !text.is_empty()
            && let Some(problem) = password_fault(&self.password)
        {
            faults.add("password", problem);
        }
        if !text.is_empty() && self.password_file.is_some() {
            faults.add("password", "must not be set together with console.password_file");
        }
        if http::HeaderName::from_bytes(self.user_header.as_bytes()).is_err() && !self.user_header.is_empty()
        {
            faults.add(
                "user_header",
                format!("is \"{}\", which is not a valid name of a header", self.user_header),
            );
        }
        if self.user_header.is_empty() != self.proxies.is_empty() {
            faults.add(
                "user_header",
                "must be set together with console.proxies, from which alone the header is accepted",
            );
        }
        let asks_nobody = text.is_empty() && self.password_file.is_none() && self.user_header.is_empty();
        if self.enabled && asks_nobody && !self.insecure {
            let problem =
                "needs console.password, console.password_file, or console.user_header with console.proxies";
            faults.add("enabled", problem);
        }
    }
}

/// Returns why this cannot be a password.
pub(crate) fn password_fault(password: &Secret) -> Option<String> {
    let text = password.reveal();
    let is_sound = (PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    (!is_sound)
        .then(|| format!("must have {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} printable ASCII characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(config: &ConsoleConfig) -> Vec<String> {
        let mut faults = Faults::default();
        config.check(&mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn nobody_gets_in_without_being_asked_by_leaving_something_out() {
        assert!(faulty(&ConsoleConfig::default()).is_empty());
        let on = ConsoleConfig { enabled: true, ..ConsoleConfig::default() };
        assert_eq!(faulty(&on), ["enabled"]);
        let password = ConsoleConfig { password: Secret::new("long enough"), ..on.clone() };
        assert!(faulty(&password).is_empty());
        assert!(faulty(&ConsoleConfig { insecure: true, ..on.clone() }).is_empty());
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let proxied =
            ConsoleConfig { user_header: "X-User".to_owned(), proxies: proxies.clone(), ..on.clone() };
        assert!(faulty(&proxied).is_empty());
        assert_eq!(faulty(&ConsoleConfig { proxies, ..password.clone() }), ["user_header"]);
        assert_eq!(
            faulty(&ConsoleConfig { user_header: "X User".to_owned(), ..on.clone() }),
            ["user_header", "user_header"]
        );
        assert_eq!(faulty(&ConsoleConfig { password: Secret::new("short"), ..on }), ["password"]);
        assert_eq!(faulty(&ConsoleConfig { password_file: Some("f".into()), ..password }), ["password"]);
    }
}
