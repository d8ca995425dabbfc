//! The state of admission and its decisions. The time is an argument; sockets are not known here.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use shared::moment::Moment;

use super::bucket::{Bucket, BucketRate};
use super::{AdmissionConfig, AdmissionRefusal};

/// An address as the limits tell addresses apart: a whole IPv4 address, or the /64 of an IPv6 one (its owner can take
/// any address in it).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct AddressKey(IpAddr);

impl AddressKey {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Self(IpAddr::V6(Ipv6Addr::from(network)))
            }
            address => Self(address),
        }
    }
}

#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    config: AdmissionConfig,
    connections_max: u32,
    connections: u32,
    /// Places for the server API beyond `connections_max`. No client gets one of them.
    spare_max: u32,
    spare: u32,
    handshakes: u32,
    accepts: Bucket,
    handshakes_by_address: HashMap<AddressKey, u32>,
    addresses: HashMap<AddressKey, AddressUsage>,
    /// Addresses without a connection, the longest unseen first.
    idle: BTreeSet<(Moment, AddressKey)>,
}

#[derive(Clone, Copy, Debug)]
struct AddressUsage {
    open: u32,
    connects: Bucket,
    seen: Moment,
}

/// Which kind of place on the node a connection has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PlaceKind {
    Client,
    /// A place for the server API, taken while all others are in use.
    Spare,
}

impl ConnectionLimiter {
    pub(super) fn new(config: AdmissionConfig, connections_max: u32, spare_max: u32, now: Moment) -> Self {
        let accepts = Bucket::full(accept_rate(&config), now);
        Self {
            config,
            connections_max,
            connections: 0,
            spare_max,
            spare: 0,
            handshakes: 0,
            accepts,
            handshakes_by_address: HashMap::new(),
            addresses: HashMap::new(),
            idle: BTreeSet::new(),
        }
    }

    /// Replaces the limits. Open connections stay open, and count.
    pub(super) fn set_limits(&mut self, config: AdmissionConfig, connections_max: u32) {
        self.config = config;
        self.connections_max = connections_max;
    }

    /// Takes the turn to accept one connection, or returns how long to wait for it.
    pub(super) fn take_turn(&mut self, now: Moment) -> Result<(), Duration> {
        match self.config.accepts_per_s {
            0 => Ok(()),
            _ => self.accepts.take(accept_rate(&self.config), now),
        }
    }

    /// Whether another handshake may begin.
    pub(super) fn has_room_for_a_handshake(&self) -> bool {
        self.handshakes < self.config.handshakes_max
    }

    /// Counts an accepted connection that begins its handshake, until [`ConnectionLimiter::end_handshake`] and, for the
    /// node, [`ConnectionLimiter::leave`].
    pub(super) fn enter(&mut self, address: Option<AddressKey>) -> Result<PlaceKind, AdmissionRefusal> {
        let kind = if self.connections < self.connections_max { PlaceKind::Client } else { PlaceKind::Spare };
        if kind == PlaceKind::Spare && self.spare >= self.spare_max {
            return Err(AdmissionRefusal::NodeFull);
        }
        if !self.has_room_for_a_handshake() {
            return Err(AdmissionRefusal::HandshakesFull);
        }
        if let Some(address) = address {
            let limit = self.config.handshakes_per_address_max;
            let begun = self.handshakes_by_address.entry(address).or_insert(0);
            if limit > 0 && *begun >= limit {
                return Err(AdmissionRefusal::HandshakesFull);
            }
            *begun += 1;
        }
        *self.taken(kind) += 1;
        self.handshakes += 1;
        Ok(kind)
    }

    /// Makes sure that a client has one of the places for clients.
    pub(super) fn take_place(&mut self, kind: PlaceKind) -> Result<(), AdmissionRefusal> {
        if kind == PlaceKind::Spare {
            if self.connections >= self.connections_max {
                return Err(AdmissionRefusal::NodeFull);
            }
            self.spare -= 1;
            self.connections += 1;
        }
        Ok(())
    }

    /// Takes a further place, for a client that shares its connection or outlives it. Counted until
    /// [`ConnectionLimiter::leave`].
    pub(super) fn take_place_beside(&mut self) -> Result<(), AdmissionRefusal> {
        if self.connections >= self.connections_max {
            return Err(AdmissionRefusal::NodeFull);
        }
        self.connections += 1;
        Ok(())
    }

    fn taken(&mut self, kind: PlaceKind) -> &mut u32 {
        match kind {
            PlaceKind::Client => &mut self.connections,
            PlaceKind::Spare => &mut self.spare,
        }
    }

    pub(super) fn end_handshake(&mut self, address: Option<AddressKey>) {
        self.handshakes -= 1;
        let Some(address) = address else { return };
        if let Some(begun) = self.handshakes_by_address.get_mut(&address) {
            *begun -= 1;
            if *begun == 0 {
                self.handshakes_by_address.remove(&address);
            }
        }
    }

    pub(super) fn leave(&mut self, kind: PlaceKind) {
        *self.taken(kind) -= 1;
    }

    /// Admits a client of this address. Counted until [`ConnectionLimiter::leave_address`].
    pub(super) fn admit(&mut self, address: AddressKey, now: Moment) -> Result<(), AdmissionRefusal> {
        if !self.tracks_addresses() {
            return Ok(());
        }
        let rate = connect_rate(&self.config);
        let mut known = match self.addresses.get(&address) {
            Some(known) => *known,
            None => AddressUsage { open: 0, connects: Bucket::full(rate, now), seen: now },
        };
        self.idle.remove(&(known.seen, address));
        known.seen = now;
        let verdict = self.judge(&mut known, rate, now);
        if verdict.is_ok() {
            known.open += 1;
        }
        self.remember(address, known);
        verdict
    }

    pub(super) fn leave_address(&mut self, address: AddressKey, now: Moment) {
        let Some(mut known) = self.addresses.get(&address).copied() else { return };
        known.open = known.open.saturating_sub(1);
        self.idle.remove(&(known.seen, address));
        known.seen = known.seen.max(now);
        self.remember(address, known);
    }

    fn judge(&self, known: &mut AddressUsage, rate: BucketRate, now: Moment) -> Result<(), AdmissionRefusal> {
        let open_max = self.config.connections_per_address_max;
        if open_max > 0 && known.open >= open_max {
            return Err(AdmissionRefusal::AddressFull);
        }
        if rate.per_s > 0 {
            known.connects.take(rate, now).map_err(|wait| AdmissionRefusal::AddressRate { wait })?;
        }
        Ok(())
    }

    /// Stores the usage of an address. Addresses with a connection are always kept; of the others, `addresses_max`.
    fn remember(&mut self, address: AddressKey, known: AddressUsage) {
        self.addresses.insert(address, known);
        if known.open == 0 {
            self.idle.insert((known.seen, address));
        }
        while self.idle.len() > self.config.addresses_max as usize {
            if let Some((_, forgotten)) = self.idle.pop_first() {
                self.addresses.remove(&forgotten);
            }
        }
    }

    fn tracks_addresses(&self) -> bool {
        self.config.connections_per_address_max > 0 || self.config.connects_per_address_per_s > 0
    }
}

fn accept_rate(config: &AdmissionConfig) -> BucketRate {
    BucketRate { per_s: config.accepts_per_s, burst: config.accepts_burst }
}

fn connect_rate(config: &AdmissionConfig) -> BucketRate {
    BucketRate { per_s: config.connects_per_address_per_s, burst: config.connects_per_address_burst }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> AddressKey {
        AddressKey::of(text.parse().unwrap())
    }

    fn limiter(config: AdmissionConfig) -> ConnectionLimiter {
        ConnectionLimiter::new(config, 1000, 0, Moment(0))
    }

    #[test]
    fn a_full_node_refuses_until_someone_leaves() {
        let mut limiter = ConnectionLimiter::new(AdmissionConfig::default(), 2, 0, Moment(0));
        assert_eq!(limiter.enter(None), Ok(PlaceKind::Client));
        assert_eq!(limiter.enter(None), Ok(PlaceKind::Client));
        assert_eq!(limiter.enter(None), Err(AdmissionRefusal::NodeFull));
        limiter.end_handshake(None);
        assert_eq!(limiter.enter(None), Err(AdmissionRefusal::NodeFull));
        limiter.leave(PlaceKind::Client);
        assert_eq!(limiter.enter(None), Ok(PlaceKind::Client));
    }

    #[test]
    fn one_address_cannot_hold_all_handshakes() {
        let config = AdmissionConfig {
            handshakes_max: 3,
            handshakes_per_address_max: 2,
            ..AdmissionConfig::default()
        };
        let mut limiter = limiter(config);
        let slow = Some(address("192.0.2.1"));
        assert_eq!(limiter.enter(slow), Ok(PlaceKind::Client));
        assert_eq!(limiter.enter(slow), Ok(PlaceKind::Client));
        assert_eq!(limiter.enter(slow), Err(AdmissionRefusal::HandshakesFull));
        assert_eq!(limiter.enter(Some(address("192.0.2.2"))), Ok(PlaceKind::Client));
        assert!(!limiter.has_room_for_a_handshake());
        limiter.end_handshake(slow);
        assert_eq!(limiter.enter(slow), Ok(PlaceKind::Client));
        for address in [slow, slow, Some(address("192.0.2.2"))] {
            limiter.end_handshake(address);
        }
        assert_eq!((limiter.handshakes, limiter.handshakes_by_address.len()), (0, 0));
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let mut limiter =
            limiter(AdmissionConfig { connections_per_address_max: 2, ..AdmissionConfig::default() });
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        assert_eq!(limiter.admit(one, Moment(0)), Ok(()));
        assert_eq!(limiter.admit(one, Moment(0)), Ok(()));
        assert_eq!(limiter.admit(one, Moment(0)), Err(AdmissionRefusal::AddressFull));
        assert_eq!(limiter.admit(other, Moment(0)), Ok(()));
        limiter.leave_address(one, Moment(1));
        assert_eq!(limiter.admit(one, Moment(1)), Ok(()));
    }

    #[test]
    fn an_address_connects_so_often_and_is_told_when_to_return() {
        let config = AdmissionConfig {
            connects_per_address_per_s: 2,
            connects_per_address_burst: 3,
            ..AdmissionConfig::default()
        };
        let mut limiter = limiter(config);
        let one = address("192.0.2.1");
        for _ in 0..3 {
            assert_eq!(limiter.admit(one, Moment(0)), Ok(()));
            limiter.leave_address(one, Moment(0));
        }
        let wait = Duration::from_millis(500);
        assert_eq!(limiter.admit(one, Moment(0)), Err(AdmissionRefusal::AddressRate { wait }));
        assert_eq!(limiter.admit(one, Moment(500)), Ok(()));
        assert!(limiter.admit(one, Moment(500)).is_err());
    }

    #[test]
    fn a_v6_network_is_one_address_and_a_mapped_v4_is_itself() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1:2:3"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    }

    #[test]
    fn remembered_addresses_are_bounded_and_those_with_a_connection_stay() {
        let config = AdmissionConfig {
            connections_per_address_max: 1,
            connects_per_address_per_s: 1,
            connects_per_address_burst: 1,
            addresses_max: 10,
            ..AdmissionConfig::default()
        };
        let mut limiter = limiter(config);
        let staying = address("192.0.2.1");
        // The client has reconnected, so its address has a connection.
        assert_eq!(limiter.admit(staying, Moment(0)), Ok(()));
        limiter.leave_address(staying, Moment(0));
        assert_eq!(limiter.admit(staying, Moment(1_000)), Ok(()));
        for second in 0..1000_u32 {
            let passing = AddressKey(IpAddr::from([10, 0, (second / 256) as u8, (second % 256) as u8]));
            let now = Moment(u64::from(second) * 1000);
            assert_eq!(limiter.admit(passing, now), Ok(()));
            limiter.leave_address(passing, now);
        }
        assert_eq!(limiter.addresses.len(), 11);
        assert_eq!(limiter.idle.len(), 10);
        assert_eq!(limiter.admit(staying, Moment(2_000_000)), Err(AdmissionRefusal::AddressFull));
    }

    #[test]
    fn spare_places_are_no_places_for_clients_until_one_of_theirs_is_free() {
        let mut limiter = ConnectionLimiter::new(AdmissionConfig::default(), 1, 1, Moment(0));
        assert_eq!(limiter.enter(None), Ok(PlaceKind::Client));
        assert_eq!(limiter.enter(None), Ok(PlaceKind::Spare));
        assert_eq!(limiter.enter(None), Err(AdmissionRefusal::NodeFull));
        assert_eq!(limiter.take_place(PlaceKind::Spare), Err(AdmissionRefusal::NodeFull));
        limiter.leave(PlaceKind::Client);
        assert_eq!(limiter.take_place(PlaceKind::Spare), Ok(()));
        assert_eq!(limiter.enter(None), Ok(PlaceKind::Spare), "it was given back");
    }

    #[test]
    fn without_limits_per_address_nothing_is_remembered() {
        let mut limiter = limiter(AdmissionConfig::default());
        assert_eq!(limiter.admit(address("192.0.2.1"), Moment(0)), Ok(()));
        assert!(limiter.addresses.is_empty());
    }

    #[test]
    fn accepts_keep_to_the_rate_of_the_node() {
        let mut limiter =
            limiter(AdmissionConfig { accepts_per_s: 100, accepts_burst: 2, ..AdmissionConfig::default() });
        assert_eq!(limiter.take_turn(Moment(0)), Ok(()));
        assert_eq!(limiter.take_turn(Moment(0)), Ok(()));
        assert_eq!(limiter.take_turn(Moment(0)), Err(Duration::from_millis(10)));
        assert_eq!(limiter.take_turn(Moment(10)), Ok(()));
    }
}
