//! Opens one connection: a socket from a chosen source address, and the WebSocket handshake on it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hyper::Request;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::bind_address_no_port::bind_address_no_port;
use crate::plan::{Plan, Target};
use crate::stream::Stream;
use crate::wire::{DeflatingWire, PlainWire, Wire};

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
    #[error("the address cannot be asked for: {0}")]
    Request(String),
}

/// What a connection shows to be let in.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Path and query.
    pub path: &'a str,
    /// For the Authorization header.
    pub bearer: Option<&'a str>,
}

/// Connects and upgrades. `number` chooses the source address.
pub async fn connect(
    plan: &Plan,
    target: &Target,
    number: u32,
    entry: Entry<'_>,
) -> Result<Wire, ConnectError> {
    let socket = open_socket(target.address, number, plan).await.map_err(ConnectError::Io)?;
    let stream = Stream::new(socket, target).await.map_err(ConnectError::Io)?;
    let request = upgrade_request(target, entry)?;
    let read_buffer = plan.arguments.connections.read_buffer;
    if plan.arguments.connections.compression {
        return DeflatingWire::open(request, stream).await;
    }
    Ok(Wire::Plain(PlainWire::open(request, stream, read_buffer).await?))
}

async fn open_socket(target: SocketAddr, number: u32, plan: &Plan) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if plan.is_slow(number) {
        // Little room at this end, so that the server feels it soon.
        socket.set_recv_buffer_size(SLOW_RECEIVE_BYTES)?;
    }
    let sources = plan.sources;
    if sources > 1 && target.is_ipv4() && target.ip().is_loopback() {
        // Without this the kernel picks a port at bind, before it knows the target, and each source address has only
        // one set of ports for all targets.
        bind_address_no_port(&socket)?;
        let last = 1 + (number % u32::from(sources)) as u8;
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    TcpSocket::from_std_stream(socket.into()).connect(target).await
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
    request.body(()).map_err(|error| ConnectError::Request(error.to_string()))
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
