//! Decides who may use the console: operators who know the password, or who come through a proxy that authenticates.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::console_config::ConsoleConfig;
use crate::secret::{Secret, SecretFileError};

/// The delay after a wrong password. Wrong passwords are delayed one after the other, which bounds how many can be tried.
const WRONG_DELAY: Duration = Duration::from_millis(200);
/// The longest that a wrong password waits for its turn to be delayed. Past it the request is refused as one of too many.
const WRONG_WAIT_MAX: Duration = Duration::from_secs(5);

const SCHEME: &str = "Basic ";

/// Why a request to the console is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ConsoleRefusal {
    /// The browser should ask for the password.
    Unauthorized,
    /// Too many wrong passwords are being tried.
    TooMany,
}

#[derive(Debug)]
pub(super) struct Gate {
    password: Option<Secret>,
    user_header: Option<HeaderName>,
    proxies: Vec<IpNet>,
    insecure: bool,
    /// One permit, so that wrong passwords are delayed one by one.
    wrong: Semaphore,
    /// The delay of a wrong password, and the longest wait for it.
    delays: [Duration; 2],
}

impl Gate {
    pub(super) fn new(config: &ConsoleConfig) -> Result<Self, SecretFileError> {
        let password = match &config.password_file {
            Some(path) => Some(Secret::from_file(path)?),
            None => Some(config.password.clone()).filter(|password| !password.is_empty()),
        };
        let user_header = HeaderName::from_bytes(config.user_header.as_bytes()).ok();
        let (proxies, insecure) = (config.proxies.clone(), config.insecure);
        Ok(Self {
            password,
            user_header,
            proxies,
            insecure,
            wrong: Semaphore::new(1),
            delays: [WRONG_DELAY, WRONG_WAIT_MAX],
        })
    }

    pub(super) async fn admit(&self, headers: &HeaderMap, peer: IpAddr) -> Result<(), ConsoleRefusal> {
        if self.insecure || self.is_proxied(headers, peer) {
            return Ok(());
        }
        let Some(given) = headers.get(AUTHORIZATION).and_then(|value| password_in(value.as_bytes())) else {
            return Err(ConsoleRefusal::Unauthorized);
        };
        if self.password.as_ref().is_some_and(|own| own.reveal().as_bytes().ct_eq(&given).into()) {
            return Ok(());
        }
        let [delay, wait_max] = self.delays;
        let Ok(Ok(_turn)) = tokio::time::timeout(wait_max, self.wrong.acquire()).await else {
            return Err(ConsoleRefusal::TooMany);
        };
        tokio::time::sleep(delay).await;
        Err(ConsoleRefusal::Unauthorized)
    }

    fn is_proxied(&self, headers: &HeaderMap, peer: IpAddr) -> bool {
        let named = self.user_header.as_ref().and_then(|name| headers.get(name));
        let peer = peer.to_canonical();
        named.is_some_and(|user| !user.is_empty())
            && self.proxies.iter().any(|network| network.contains(&peer))
    }
}

/// Returns the password, which follows the user's name.
fn password_in(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, rest) = value.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) {
        return None;
    }
    let mut pair = STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair.split_off(colon + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn gate(config: &ConsoleConfig) -> Gate {
        Gate::new(config).unwrap()
    }

    fn basic(pair: &str) -> HeaderMap {
        let value = format!("basic {}", STANDARD.encode(pair));
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[tokio::test]
    async fn the_password_opens_whatever_name_goes_with_it_and_only_so_many_can_be_tried() {
        let gate = gate(&ConsoleConfig { password: Secret::new("open: sesame"), ..ConsoleConfig::default() });
        let gate = Gate { delays: [Duration::from_millis(5), Duration::from_millis(50)], ..gate };
        for right in ["ann:open: sesame", ":open: sesame"] {
            assert_eq!(gate.admit(&basic(right), PEER).await, Ok(()), "{right}");
        }
        assert_eq!(gate.admit(&HeaderMap::new(), PEER).await, Err(ConsoleRefusal::Unauthorized));
        for wrong in ["ann:", "open: sesame", "ann:open", "ann:open: sesame "] {
            assert_eq!(gate.admit(&basic(wrong), PEER).await, Err(ConsoleRefusal::Unauthorized), "{wrong}");
        }
        let wrong = basic("ann:guess");
        let many = (0..200).map(|_| gate.admit(&wrong, PEER));
        let mut refused = futures_util::future::join_all(many).await;
        assert_eq!(refused.pop(), Some(Err(ConsoleRefusal::TooMany)));
        assert!(!refused.contains(&Ok(())));
        let held = gate.wrong.acquire().await.unwrap();
        assert_eq!(
            gate.admit(&basic("ann:open: sesame"), PEER).await,
            Ok(()),
            "who knows it waits for nobody"
        );
        drop(held);
    }

    #[tokio::test]
    async fn a_proxys_word_is_taken_from_the_proxy_alone() {
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let gate =
            gate(&ConsoleConfig { user_header: "X-User".to_owned(), proxies, ..ConsoleConfig::default() });
        let named =
            |name: &str| HeaderMap::from_iter([(HeaderName::from_static("x-user"), name.parse().unwrap())]);
        let proxy: IpAddr = "10.1.2.3".parse().unwrap();
        assert_eq!(gate.admit(&named("ann"), proxy).await, Ok(()));
        assert_eq!(gate.admit(&named("ann"), "::ffff:10.1.2.3".parse().unwrap()).await, Ok(()));
        assert_eq!(gate.admit(&named(""), proxy).await, Err(ConsoleRefusal::Unauthorized));
        assert_eq!(gate.admit(&HeaderMap::new(), proxy).await, Err(ConsoleRefusal::Unauthorized));
        assert_eq!(gate.admit(&named("ann"), PEER).await, Err(ConsoleRefusal::Unauthorized));
    }
}
