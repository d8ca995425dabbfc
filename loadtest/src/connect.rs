//! Opens one connection: a socket from a chosen source address, and what the transport does on it first.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hyper::Request;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::http::request::Builder;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;

use crate::arguments::{AccessArguments, Transport};
use crate::bind_address_no_port::bind_address_no_port;
use crate::failure::Failure;
use crate::http::HttpConnection;
use crate::plan::{Plan, Target};
use crate::tls::{Stream, secure};
use crate::wire::{StreamingWire, WebSocketWire, Wire};

/// The receive buffer of a slow reader. The kernel doubles it, for its own book-keeping.
const SLOW_RECEIVE_BYTES: usize = 4_096;

/// What a client asks for when it connects, and the token that it shows.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Path and query.
    pub path: &'a str,
    /// For the Authorization header.
    pub bearer: Option<&'a str>,
}

/// Opens the connections of one client.
#[derive(Clone, Debug)]
pub struct Dialer {
    target: Target,
    source: Option<Ipv4Addr>,
    /// Size of the receive buffer, where it is to be small.
    receive_bytes: Option<usize>,
}

/// Connects as the plan's transport says. `number` chooses the source address.
pub async fn connect(plan: &Plan, target: &Target, number: u32, entry: Entry<'_>) -> Result<Wire, Failure> {
    let dialer = Dialer::of_connection(plan, target, number);
    let AccessArguments { compression, transport, .. } = plan.arguments.access;
    Ok(match transport {
        Transport::Websocket => Wire::WebSocket(WebSocketWire::open(&dialer, entry, compression).await?),
        _ => Wire::Streaming(Box::new(StreamingWire::open(dialer, transport, entry).await?)),
    })
}

impl Dialer {
    /// Connects from an address that the kernel chooses.
    pub fn to(target: &Target) -> Self {
        Self { target: target.clone(), source: None, receive_bytes: None }
    }

    fn of_connection(plan: &Plan, target: &Target, number: u32) -> Self {
        let (address, sources) = (target.address, plan.arguments.access.sources);
        let last = 1 + (number % u32::from(sources)) as u8;
        Self {
            source: (sources > 1 && address.is_ipv4() && address.ip().is_loopback())
                .then(|| Ipv4Addr::new(127, 0, 0, last)),
            // A small buffer, so that the server notices soon.
            receive_bytes: plan.is_slow(number).then_some(SLOW_RECEIVE_BYTES),
            ..Self::to(target)
        }
    }

    /// Opens a connection for requests.
    pub async fn open(&self) -> Result<HttpConnection, Failure> {
        HttpConnection::on(self.dial().await?).await
    }

    /// Returns the path that the user gave, or an empty one.
    pub fn path(&self) -> &str {
        &self.target.path
    }

    /// Begins a request on such a connection.
    pub fn request(&self, method: &str, path: &str) -> Builder {
        Request::builder().method(method).uri(path).header(HOST, &self.target.authority)
    }

    /// Begins a request with the client's token.
    pub fn client_request(&self, method: &str, entry: Entry<'_>) -> Builder {
        let request = self.request(method, entry.path);
        match entry.bearer {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// Connects, with TLS where the target has it.
    async fn dial(&self) -> io::Result<Stream> {
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
