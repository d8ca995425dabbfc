//! Opens one connection: a socket from a chosen source address, and what the transport does on it first.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hyper::Request;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::arguments::{AccessArguments, Transport};
use crate::bind_address_no_port::bind_address_no_port;
use crate::plan::{Plan, Target};
use crate::tls::{Stream, secure};
use crate::wire::{DeflatingWire, PlainWire, StreamingWire, Wire};

/// What the kernel keeps for a slow reader; it doubles it, for its own book-keeping.
const SLOW_RECEIVE_BYTES: usize = 4_096;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{}", describe(.0))]
    Io(io::Error),
    #[error("HTTP {0} in place of the upgrade")]
    Refused(u16),
    #[error("the handshake failed: {0}")]
    Handshake(String),
}

/// What a connection shows to be let in.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Path and query.
    pub path: &'a str,
    /// For the Authorization header.
    pub bearer: Option<&'a str>,
}

/// How a client gets its connections.
#[derive(Clone, Debug)]
pub struct Dialer {
    target: Target,
    source: Option<Ipv4Addr>,
    /// What its kernel keeps for what has come, where that is to be little.
    receive_bytes: Option<usize>,
}

/// Connects, and upgrades to a WebSocket if it is to be one. `number` chooses the source address.
pub async fn connect(
    plan: &Plan,
    target: &Target,
    number: u32,
    entry: Entry<'_>,
) -> Result<Wire, ConnectError> {
    let dialer = Dialer::new(plan, target, number);
    let stream = dialer.dial().await.map_err(ConnectError::Io)?;
    let AccessArguments { compression, transport, .. } = plan.arguments.access;
    if transport != Transport::Websocket {
        let wire = StreamingWire::open(dialer, stream, transport, entry).await;
        let wire = wire.map_err(|error| ConnectError::Handshake(error.to_string()))?;
        return Ok(Wire::Streaming(Box::new(wire)));
    }
    let request = upgrade_request(target, entry)?;
    if compression {
        return DeflatingWire::open(request, stream).await;
    }
    Ok(Wire::Plain(PlainWire::open(request, stream, plan.arguments.connections.read_buffer).await?))
}

impl Dialer {
    fn new(plan: &Plan, target: &Target, number: u32) -> Self {
        let (address, sources) = (target.address, plan.arguments.access.sources);
        let last = 1 + (number % u32::from(sources)) as u8;
        Self {
            source: (sources > 1 && address.is_ipv4() && address.ip().is_loopback())
                .then(|| Ipv4Addr::new(127, 0, 0, last)),
            // Little room at this end, so that the server feels it soon.
            receive_bytes: plan.is_slow(number).then_some(SLOW_RECEIVE_BYTES),
            target: target.clone(),
        }
    }

    /// For the Host header.
    pub fn authority(&self) -> &str {
        &self.target.authority
    }

    /// Opens one more connection, with TLS where the target wants it.
    pub async fn dial(&self) -> io::Result<Stream> {
        let address = self.target.address;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = self.receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = self.source {
            // Without this the kernel picks a port at bind, before it knows the target, and each source address has only
            // one set of ports for all targets.
            bind_address_no_port(&socket)?;
            socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
        }
        let socket = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
        secure(socket, self.target.tls.as_ref()).await
    }
}

fn upgrade_request(target: &Target, entry: Entry<'_>) -> Result<Request<()>, ConnectError> {
    let mut request = Request::get(format!("ws://{}{}", target.authority, entry.path))
        .header(HOST, &target.authority)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, generate_key());
    if let Some(token) = entry.bearer {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    request.body(()).map_err(|error| ConnectError::Handshake(error.to_string()))
}

/// The same words for the same cause, so that failures can be counted by reason.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            "the server dropped the connection in the handshake".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "no free port on the source address (more --sources)".to_owned(),
        _ => match error.raw_os_error() {
            Some(libc::EMFILE) => "out of file descriptors".to_owned(),
            _ => error.to_string(),
        },
    }
}
