//! Finds the address of a client behind proxies.
//!
//! Each proxy appends the address that it was reached from to `X-Forwarded-For`, so the list reads from the client to this
//! node. Whatever the client wrote there itself stands on the left. Going from the right, the first address that is not a
//! trusted proxy is the last one that a trusted proxy has seen: that is the client. `Forwarded` (RFC 7239) is not read.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// The header in which proxies name the client that they forward for.
pub const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The proxies whose `X-Forwarded-For` is trusted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.to_vec())
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Returns the client's address, for a request from `peer` with these lines of [`X_FORWARDED_FOR`].
    pub fn client_ip<'l>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'l [u8]>,
    ) -> IpAddr {
        let mut nearest = peer.to_canonical();
        let lines = forwarded.rev();
        for hop in lines.flat_map(|line| std::str::from_utf8(line).unwrap_or("unreadable").rsplit(',')) {
            if !self.contains(nearest) {
                return nearest;
            }
            match parse(hop.trim()) {
                Some(address) => nearest = address,
                // The entry that a trusted proxy wrote cannot be read: its own address is the nearest one known.
                None => return nearest,
            }
        }
        nearest
    }
}

/// Parses an address as proxies write it: alone, with a port, or in brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address: Option<IpAddr> = bare.parse().ok();
    address.or_else(|| text.parse().ok().map(|socket: SocketAddr| socket.ip())).map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_ip(peer: &str, lines: &[&str]) -> String {
        let proxies = TrustedProxies::new(&["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let forwarded = lines.iter().map(|line| line.as_bytes());
        proxies.client_ip(peer.parse().unwrap(), forwarded).to_string()
    }

    #[test]
    fn a_stranger_is_not_believed() {
        assert_eq!(client_ip("203.0.113.9", &["1.2.3.4"]), "203.0.113.9");
        assert_eq!(client_ip("203.0.113.9", &[]), "203.0.113.9");
    }

    #[test]
    fn the_last_address_that_is_no_proxy_of_ours_is_the_client() {
        assert_eq!(client_ip("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client_ip("10.0.0.1", &["198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(client_ip("::ffff:10.0.0.1", &["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(client_ip("fd00::1", &["[2001:db8::5]:443"]), "2001:db8::5");
    }

    #[test]
    fn what_a_client_writes_itself_stands_on_the_left_and_counts_for_nothing() {
        assert_eq!(client_ip("10.0.0.1", &["1.1.1.1, 10.9.9.9, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(client_ip("10.0.0.1", &["1.1.1.1", "198.51.100.7, 10.0.0.2"]), "198.51.100.7");
    }

    #[test]
    fn unreadable_entries_end_the_search() {
        assert_eq!(client_ip("10.0.0.1", &["198.51.100.7, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client_ip("10.0.0.1", &["", ","]), "10.0.0.1");
    }

    #[test]
    fn behind_proxies_only_the_first_of_them_is_the_client() {
        assert_eq!(client_ip("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }
}
