//! Decides who may connect: how many at once, how many from one address, how fast.
//!
//! There are two limiters. [`Admission::admit_handshake`] counts every accepted connection for the node, before
//! anything is read from it. [`Admission::admit_client`] counts a client for its address, once the address is known,
//! which may be only after a PROXY header or `X-Forwarded-For`. Dropping a permit gives back its counts.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::telemetry::Metrics;
use crate::telemetry::labels::Handshake;
use client_ip::TrustedProxies;
use connection_limiter::{AddressKey, ConnectionLimiter, PlaceKind};

pub use admission_config::AdmissionConfig;

pub mod client_ip;

mod admission_config;
mod bucket;
mod connection_limiter;

/// The limits of one node and what counts against them.
#[derive(Debug)]
pub struct Admission {
    limiter: Mutex<ConnectionLimiter>,
    /// Notified when a handshake ends.
    room: Notify,
    clock: Clock,
    /// Proxies make handshakes for many clients, so limits per address do not hold for them.
    proxies: TrustedProxies,
    metrics: Arc<Metrics>,
}

/// Why a connection or a client is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdmissionRefusal {
    #[error("this node has reached its limit of connections")]
    NodeFull,
    #[error("too many connections are being opened at this node")]
    HandshakesFull,
    #[error("too many connections from this address")]
    AddressFull,
    #[error("new connections from this address arrive too fast")]
    AddressRate { wait: Duration },
}

impl AdmissionRefusal {
    pub fn handshake(self) -> Handshake {
        match self {
            Self::NodeFull => Handshake::NodeFull,
            Self::HandshakesFull => Handshake::HandshakesFull,
            Self::AddressFull => Handshake::AddressFull,
            Self::AddressRate { .. } => Handshake::AddressRate,
        }
    }

    /// Returns the value of `Retry-After`: the seconds until another attempt makes sense.
    pub fn retry_after_seconds(self) -> u64 {
        match self {
            Self::AddressRate { wait } => wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
            Self::NodeFull | Self::HandshakesFull => 5,
            Self::AddressFull => 30,
        }
    }
}

impl Admission {
    /// Creates the admission of a node that takes `connections_max` connections, whatever `config` says of that, and
    /// `spare_max` more for the server API alone.
    pub fn new(
        config: &AdmissionConfig,
        connections_max: u32,
        spare_max: u32,
        proxies: TrustedProxies,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let limiter = ConnectionLimiter::new(config.clone(), connections_max, spare_max, clock.now());
        Arc::new(Self { limiter: Mutex::new(limiter), room: Notify::new(), clock, proxies, metrics })
    }

    /// Replaces the limits for connections that come from now on.
    pub fn set_limits(&self, config: &AdmissionConfig, connections_max: u32) {
        self.limiter.lock().set_limits(config.clone(), connections_max);
        // More handshakes may be in flight than before.
        self.room.notify_waiters();
    }

    /// Waits until the node may accept another connection: for its turn in the rate of accepts, and for room among the
    /// handshakes. Connections that come meanwhile wait in the kernel's backlog. One caller at a time.
    pub async fn turn(&self) {
        loop {
            let room = self.room.notified();
            if self.limiter.lock().has_room_for_a_handshake() {
                break;
            }
            room.await;
        }
        loop {
            let turn = self.limiter.lock().take_turn(self.clock.now());
            match turn {
                Ok(()) => return,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Takes a place on the node for a connection accepted from `peer`, until the permit is dropped.
    pub fn admit_handshake(self: &Arc<Self>, peer: IpAddr) -> Result<HandshakePermit, AdmissionRefusal> {
        let address = (!self.proxies.contains(peer)).then(|| AddressKey::of(peer));
        let kind = self.limiter.lock().enter(address)?;
        self.metrics.connection.handshakes_pending.inc();
        let place = Arc::new(ConnectionPermit {
            admission: self.clone(),
            spare: AtomicBool::new(kind == PlaceKind::Spare),
        });
        Ok(HandshakePermit { place, address })
    }

    /// Admits a client of this address. The client takes over the place of its handshake on the node.
    pub fn admit_client(
        self: &Arc<Self>,
        client: IpAddr,
        place: &HeldPlace,
    ) -> Result<Admitted, AdmissionRefusal> {
        let address = AddressKey::of(client);
        let mut limiter = self.limiter.lock();
        limiter.admit(address, self.clock.now())?;
        if let Err(refusal) = limiter.take_place(place.0.kind()) {
            limiter.leave_address(address, self.clock.now());
            return Err(refusal);
        }
        place.0.spare.store(false, Ordering::Relaxed);
        drop(limiter);
        Ok(Admitted { place: place.0.clone(), address, _shared: None })
    }

    /// Admits one of several clients that share a connection with this place: the client takes a place of its own.
    pub fn admit_beside(
        self: &Arc<Self>,
        client: IpAddr,
        shared: &HeldPlace,
    ) -> Result<Admitted, AdmissionRefusal> {
        let mut admitted = self.admit_apart(client)?;
        admitted._shared = Some(shared.clone());
        Ok(admitted)
    }

    /// Admits a client that outlives the connection that it came over.
    pub fn admit_apart(self: &Arc<Self>, client: IpAddr) -> Result<Admitted, AdmissionRefusal> {
        let address = AddressKey::of(client);
        let mut limiter = self.limiter.lock();
        limiter.admit(address, self.clock.now())?;
        if let Err(refusal) = limiter.take_place_beside() {
            limiter.leave_address(address, self.clock.now());
            return Err(refusal);
        }
        drop(limiter);
        let place = Arc::new(ConnectionPermit { admission: self.clone(), spare: AtomicBool::new(false) });
        Ok(Admitted { place, address, _shared: None })
    }
}

/// A connection's place on the node, taken until the last holder drops it.
#[derive(Debug)]
struct ConnectionPermit {
    admission: Arc<Admission>,
    /// Changed only while the limiter is locked.
    spare: AtomicBool,
}

impl ConnectionPermit {
    fn kind(&self) -> PlaceKind {
        if self.spare.load(Ordering::Relaxed) { PlaceKind::Spare } else { PlaceKind::Client }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.admission.limiter.lock().leave(self.kind());
    }
}

/// Held while a connection is in its handshake. Dropping it ends the handshake.
#[derive(Debug)]
pub struct HandshakePermit {
    place: Arc<ConnectionPermit>,
    address: Option<AddressKey>,
}

impl HandshakePermit {
    /// The connection's place on the node, to be held as long as its socket is open.
    pub fn place(&self) -> HeldPlace {
        HeldPlace(self.place.clone())
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let admission = &self.place.admission;
        admission.limiter.lock().end_handshake(self.address);
        admission.metrics.connection.handshakes_pending.dec();
        admission.room.notify_one();
    }
}

/// Holds a connection's place on the node.
#[derive(Clone, Debug)]
pub struct HeldPlace(Arc<ConnectionPermit>);

impl HeldPlace {
    /// Returns how many others hold this place.
    pub(crate) fn others(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    /// Whether the place is one for the server API, which no client gets.
    pub fn is_spare(&self) -> bool {
        self.0.kind() == PlaceKind::Spare
    }
}

/// The other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The address, from the socket or a PROXY header.
    pub(crate) address: IpAddr,
    pub(crate) place: HeldPlace,
    /// Whether several clients may share the connection: then each takes a place of its own.
    pub(crate) is_shared: bool,
}

/// Held for a client's life: its place on the node and its count among those of its address.
#[derive(Debug)]
pub struct Admitted {
    place: Arc<ConnectionPermit>,
    address: AddressKey,
    /// The place of the connection that the client shares with others.
    _shared: Option<HeldPlace>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let admission = &self.place.admission;
        admission.limiter.lock().leave_address(self.address, admission.clock.now());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn admission(config: &AdmissionConfig, connections_max: u32) -> Arc<Admission> {
        let metrics = Arc::new(Metrics::new());
        Admission::new(config, connections_max, 0, TrustedProxies::default(), Clock::start(), metrics)
    }

    #[test]
    fn a_place_is_held_for_the_life_of_the_connection_and_given_back_once() {
        let admission =
            admission(&AdmissionConfig { connections_per_address_max: 1, ..AdmissionConfig::default() }, 1);
        let handshake = admission.admit_handshake(PEER).unwrap();
        let place = handshake.place();
        let admitted = admission.admit_client(PEER, &place).unwrap();
        drop((handshake, place));
        assert_eq!(admission.metrics.connection.handshakes_pending.get(), 0);
        assert_eq!(admission.admit_handshake(PEER).unwrap_err(), AdmissionRefusal::NodeFull);
        drop(admitted);
        let handshake = admission.admit_handshake(PEER).unwrap();
        assert!(admission.admit_client(PEER, &handshake.place()).is_ok());
    }

    #[test]
    fn accepting_waits_for_room_among_the_handshakes() {
        let admission = admission(&AdmissionConfig { handshakes_max: 1, ..AdmissionConfig::default() }, 100);
        assert!(admission.turn().now_or_never().is_some());
        let handshake = admission.admit_handshake(PEER).unwrap();
        let turn = admission.turn();
        tokio::pin!(turn);
        assert!(turn.as_mut().now_or_never().is_none());
        drop(handshake);
        assert!(turn.now_or_never().is_some());
    }

    #[test]
    fn proxies_make_handshakes_for_many() {
        let config = AdmissionConfig { handshakes_per_address_max: 1, ..AdmissionConfig::default() };
        let proxies = TrustedProxies::new(&["192.0.2.0/24".parse().unwrap()]);
        let admission = Admission::new(&config, 10, 0, proxies, Clock::start(), Arc::new(Metrics::new()));
        let held = [admission.admit_handshake(PEER), admission.admit_handshake(PEER)];
        assert!(held.iter().all(Result::is_ok));
        let stranger = IpAddr::from([198, 51, 100, 1]);
        let _first = admission.admit_handshake(stranger).unwrap();
        assert_eq!(admission.admit_handshake(stranger).unwrap_err(), AdmissionRefusal::HandshakesFull);
    }
}
