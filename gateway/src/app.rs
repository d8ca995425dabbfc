//! The whole node: builds every part in order, owns it, and lets go of it in reverse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use gateway_core::session::Context;
use shared::id::NodeId;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::auth::Authenticator;
use crate::broker::{self, Broker, BrokerMetrics};
use crate::clock::Clock;
use crate::config::Config;
use crate::http::client_ip::TrustedProxies;
use crate::http::origin::OriginPolicy;
use crate::http::{Router, Workers};
use crate::listener::admission::Admission;
use crate::listener::tls::Tls;
use crate::listener::{Listener, descriptors, internal};
use crate::node::{FromBroker, Node, Parts};
use crate::telemetry::{Metrics, Readiness};
use crate::transport::encodings::Encodings;
use crate::worker::inbox::{Event, Inbox};
use crate::worker::{self, Seat, Worker};

/// How often a message is sent through the broker to this node itself.
const CANARY_INTERVAL: Duration = Duration::from_secs(2);
/// How old the last one that came back may be before clients are sent elsewhere.
const CANARY_AGE_MAX: Duration = Duration::from_secs(8);

/// A node that runs.
#[derive(Debug)]
pub struct App {
    config: Config,
    clock: Clock,
    client_address: SocketAddr,
    internal_address: SocketAddr,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    node: Arc<Node>,
    inboxes: Vec<Arc<Inbox>>,
    workers: Vec<thread::JoinHandle<()>>,
    stop: CancellationToken,
    runtime: Runtime,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("{0}")]
    Setup(Box<dyn std::error::Error + Send + Sync>),
}
