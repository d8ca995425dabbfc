//! The placement of names on several servers. It depends on the names alone, so all nodes come to the same one without
//! asking each other.
//!
//! This is rendezvous hashing: each server has a score for each name, and the server with the best score has the name. The
//! order in which servers are listed means nothing. A server that is added takes its share from all the others, and what
//! was on a server that is removed is spread over the rest.

/// A set of servers, and the server of each name.
#[derive(Debug)]
pub struct Placement {
    seeds: Box<[u64]>,
    layout: Box<str>,
}

impl Placement {
    /// Takes the names of the servers, which have to differ. Servers are numbered from 0 in this order.
    pub fn new<'a>(servers: impl IntoIterator<Item = &'a str>) -> Self {
        let mut seeds: Vec<u64> = servers.into_iter().map(|server| mix(fnv(server))).collect();
        let servers = seeds.clone().into_boxed_slice();
        seeds.sort_unstable();
        let all = seeds.iter().fold(seeds.len() as u64, |all, seed| mix(all ^ seed));
        Self { seeds: servers, layout: format!("rendezvous-1:{}:{all:016x}", seeds.len()).into() }
    }

    /// Returns the number of the server that has this name.
    pub fn of(&self, name: &str) -> usize {
        let hash = fnv(name);
        let mut best = (0, 0);
        for (server, seed) in self.seeds.iter().enumerate() {
            let score = mix(hash ^ seed);
            if server == 0 || score > best.0 {
                best = (score, server);
            }
        }
        best.1
    }

    /// Returns all servers: first the one that has this name, and behind each the one that would have it without those
    /// before it.
    pub fn ranked(&self, name: &str) -> Vec<usize> {
        let hash = fnv(name);
        let mut ranked: Vec<usize> = (0..self.seeds.len()).collect();
        ranked.sort_by_key(|server| std::cmp::Reverse(mix(hash ^ self.seeds[*server])));
        ranked
    }

    /// Returns an identifier of this placement, which is equal wherever all names are placed alike.
    pub fn layout(&self) -> &str {
        &self.layout
    }
}

/// FNV-1a of 64 bits.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finalizer of 64-bit MurmurHash3: each bit of the argument affects about half of the bits of the result.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: [&str; 4] = ["10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.3:6379", "10.0.0.4:6379"];

    fn names() -> impl Iterator<Item = String> {
        (0..10_000).map(|number| format!("prices:{number}"))
    }

    #[test]
    fn the_functions_are_those_that_the_documentation_names() {
        assert_eq!(fnv("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv("foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(mix(0), 0);
        assert_eq!(mix(1), 0xb456_bcfc_34c2_cb2c);
    }

    #[test]
    fn where_a_name_is_stays_so_from_release_to_release() {
        let placement = Placement::new(SERVERS);
        let at: Vec<usize> =
            ["AAPL", "prices:MSFT", "", "chat:ünï", "a", "b"].map(|name| placement.of(name)).into();
        assert_eq!(at, [3, 2, 2, 2, 2, 1]);
    }

    #[test]
    fn names_are_spread_evenly_whatever_they_begin_or_end_with() {
        for number in 1..=SERVERS.len() {
            let placement = Placement::new(SERVERS[..number].iter().copied());
            for pattern in ["prices:*", "*:prices", "#*", "a*b"] {
                let mut counts = vec![0_usize; number];
                for name in (0..10_000).map(|count| pattern.replace('*', &count.to_string())) {
                    counts[placement.of(&name)] += 1;
                }
                let fair = 10_000 / number;
                let is_fair = |count: &usize| count.abs_diff(fair) <= fair / 20;
                assert!(counts.iter().all(is_fair), "{pattern}: {counts:?}");
            }
        }
    }

    #[test]
    fn one_server_more_takes_its_share_from_each_and_moves_nothing_else() {
        let (three, four) = (Placement::new(SERVERS[..3].iter().copied()), Placement::new(SERVERS));
        let mut taken = [0_usize; 3];
        for name in names() {
            let (before, after) = (three.of(&name), four.of(&name));
            if before != after {
                assert_eq!(after, 3, "{name} goes to the new one");
                taken[before] += 1;
            }
        }
        assert!(taken.iter().all(|taken| (750..=920).contains(taken)), "{taken:?}");
    }

    #[test]
    fn the_order_of_servers_means_nothing_and_another_set_is_another_layout() {
        let placement = Placement::new(SERVERS);
        let reversed = Placement::new(SERVERS.iter().rev().copied());
        for name in names() {
            assert_eq!(placement.of(&name), SERVERS.len() - 1 - reversed.of(&name), "{name}");
        }
        assert_eq!(placement.layout(), reversed.layout());
        let fewer = Placement::new(SERVERS[..3].iter().copied());
        let other = Placement::new(["10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.5:6379"]);
        assert_ne!(fewer.layout(), placement.layout());
        assert_ne!(fewer.layout(), other.layout());
    }

    #[test]
    fn behind_each_server_comes_the_one_that_would_have_it() {
        let placement = Placement::new(SERVERS);
        for name in names().take(100) {
            let ranked = placement.ranked(&name);
            assert_eq!(ranked[0], placement.of(&name));
            let left: Vec<&str> =
                (0..SERVERS.len()).filter(|at| *at != ranked[0]).map(|at| SERVERS[at]).collect();
            let without = Placement::new(left.iter().copied());
            assert_eq!(left[without.of(&name)], SERVERS[ranked[1]], "{name}");
        }
    }
}
