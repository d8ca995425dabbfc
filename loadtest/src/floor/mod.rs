//! The least that a server can do: a bare loop of `send()` over all sockets, to hold other servers against.
//!
//! The floor speaks just enough of the Centrifuge protocol and of the server API for the load tester. Every subscriber is in
//! the list of one channel, and every publication goes to all of its list, on one thread, with one non-blocking `send()`
//! for each. Publications that have come in for a channel by the time of a sweep leave together, as one buffer. The floor is
//! no product: it checks no token, keeps no history, sends no ping, and closes and counts every listener that cannot take
//! all of a buffer at once.

mod listeners;
mod requests;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use clap::Args;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::arguments::Seconds;
use listeners::{Listeners, Slot};
use requests::{PeerReader, Speaks, Step};

const LISTENER: Token = Token(usize::MAX);
const EVENTS_MAX: usize = 1_024;
/// The backlog is swept when it is longer than this. It can exceed this by one request.
const BACKLOG_BYTES_MAX: usize = 64 << 10;

#[derive(Args, Clone, Debug)]
pub struct FloorArguments {
    /// Where to listen; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// How long until it ends by itself.
    #[arg(long, value_name = "SECONDS", default_value = "900")]
    pub time_limit: Seconds,
}

/// Serves until the time is up. An error means that it could not begin or that its poll broke.
pub fn run(arguments: &FloorArguments) -> io::Result<()> {
    let mut floor = Floor::open(arguments.listen)?;
    // Standard output may be closed.
    let _ = writeln!(io::stdout(), "listening on {} pid {}", floor.address()?, std::process::id());
    let end = Instant::now() + arguments.time_limit.duration();
    let mut events = Events::with_capacity(EVENTS_MAX);
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        floor.turn(&mut events, left)?;
    }
    Ok(())
}

/// One connection: it begins with HTTP, and then is a listener or a publisher.
#[derive(Debug)]
struct Peer {
    socket: PeerSocket,
    speaks: Speaks,
}

#[derive(Debug)]
enum PeerSocket {
    Own(OwnedFd),
    /// The peer has subscribed, and its socket is in the list of its channel.
    Listed(Slot),
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    peers: Slab<Peer>,
    listeners: Listeners,
    reader: PeerReader,
}

impl Floor {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let (poll, listener) = (Poll::new()?, TcpListener::bind(address)?);
        listener.set_nonblocking(true)?;
        poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), LISTENER, Interest::READABLE)?;
        let (peers, listeners) = (Slab::new(), Listeners::default());
        Ok(Self { poll, listener, peers, listeners, reader: PeerReader::default() })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Reads what has come, and then sends what was published.
    fn turn(&mut self, events: &mut Events, longest: Duration) -> io::Result<()> {
        match self.poll.poll(events, Some(longest)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &*events {
            match event.token() {
                LISTENER => self.accept(),
                Token(number) => self.read(number),
            }
            if self.reader.backlog.bytes >= BACKLOG_BYTES_MAX {
                self.sweep();
            }
        }
        self.sweep();
        Ok(())
    }

    fn accept(&mut self) {
        // This also ends when there is no descriptor left; the next connection tries again.
        while let Ok((stream, _)) = self.listener.accept() {
            let entry = self.peers.vacant_entry();
            let readied =
                stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).and_then(|()| {
                    let mut source = SourceFd(&stream.as_raw_fd());
                    self.poll.registry().register(&mut source, Token(entry.key()), Interest::READABLE)
                });
            if readied.is_ok() {
                entry.insert(Peer {
                    socket: PeerSocket::Own(stream.into()),
                    speaks: Speaks::Http(BytesMut::new()),
                });
            }
        }
    }

    fn read(&mut self, number: usize) {
        let Some(Peer { socket, speaks }) = self.peers.get_mut(number) else { return };
        let descriptor = match socket {
            PeerSocket::Own(socket) => &*socket,
            PeerSocket::Listed(slot) => self.listeners.socket(*slot),
        };
        match self.reader.read(descriptor, speaks) {
            Step::Stay => {}
            Step::Leave => self.leave(number),
            Step::Subscribe(channel) => {
                let slot = self.listeners.next_slot(channel);
                if matches!(socket, PeerSocket::Own(_))
                    && let PeerSocket::Own(own) = std::mem::replace(socket, PeerSocket::Listed(slot))
                {
                    self.listeners.add(own, number, channel);
                }
            }
        }
    }

    /// Closes a connection. Dropping the descriptor removes it from the poll as well.
    fn leave(&mut self, number: usize) {
        let Some(Peer { socket: PeerSocket::Listed(slot), .. }) = self.peers.try_remove(number) else {
            return;
        };
        if let Some(moved) = self.listeners.remove(slot)
            && let Some(moved) = self.peers.get_mut(moved)
        {
            moved.socket = PeerSocket::Listed(slot);
        }
    }

    fn sweep(&mut self) {
        let (listeners, mut slow) = (&mut self.listeners, Vec::new());
        self.reader.backlog.take(|channel, frames| listeners.sweep(channel, frames, &mut slow));
        if slow.is_empty() {
            return;
        }
        // Standard error may be closed.
        let _ = writeln!(
            io::stderr(),
            "closed {} that could not take a whole buffer, {} in all; {} are left",
            slow.len(),
            self.listeners.slow,
            self.listeners.count - slow.len()
        );
        slow.into_iter().for_each(|number| self.leave(number));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpStream;

    use super::*;

    const UPGRADE: &str = "GET /connection/websocket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                           Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    const GREETING: &[u8] = b"{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}";
    const PATIENCE: Duration = Duration::from_secs(10);

    fn masked(text: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(text);
        frame
    }

    fn turn_until(floor: &mut Floor, done: impl Fn(&Floor) -> bool) {
        let (mut events, begun) = (Events::with_capacity(64), Instant::now());
        while !done(floor) {
            assert!(begun.elapsed() < PATIENCE);
            floor.turn(&mut events, Duration::from_millis(10)).unwrap();
        }
    }

    fn subscriber(floor: &mut Floor) -> TcpStream {
        let mut stream = TcpStream::connect(floor.address().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(UPGRADE.as_bytes()).unwrap();
        stream.write_all(&masked(GREETING)).unwrap();
        let others = floor.listeners.count;
        turn_until(floor, |floor| floor.listeners.count > others);
        stream
    }

    fn read_to(stream: &mut TcpStream, end: &str) -> String {
        let (mut read, mut byte) = (Vec::new(), [0]);
        while !read.ends_with(end.as_bytes()) {
            stream.read_exact(&mut byte).unwrap();
            read.push(byte[0]);
        }
        String::from_utf8_lossy(&read).into_owned()
    }

    #[test]
    fn whoever_leaves_makes_room_for_the_last_and_who_stops_reading_is_closed_and_counted() {
        let mut floor = Floor::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let (first, _second, mut third) =
            (subscriber(&mut floor), subscriber(&mut floor), subscriber(&mut floor));
        drop(first);
        turn_until(&mut floor, |floor| floor.listeners.count == 2);
        let body = format!("{{\"channel\":\"a\",\"data\":\"{}\"}}", "x".repeat(1 << 16));
        let length = body.len();
        let mut api = TcpStream::connect(floor.address().unwrap()).unwrap();
        let mut rounds = 0;
        while floor.listeners.slow == 0 {
            write!(api, "POST /api/publish HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
            let mut waiting = api.try_clone().unwrap();
            waiting.set_nonblocking(true).unwrap();
            turn_until(&mut floor, |_| waiting.peek(&mut [0]).is_ok());
            waiting.set_nonblocking(false).unwrap();
            read_to(&mut waiting, "{\"result\":{}}");
            // The second never reads, the third always does.
            read_to(&mut third, "xx\"}}}");
            rounds += 1;
            assert!(rounds < 10_000, "no socket takes this much");
        }
        assert_eq!((floor.listeners.slow, floor.listeners.count), (1, 1));
    }

    #[test]
    fn what_is_no_request_of_its_kind_is_shown_out() {
        let mut floor = Floor::open("127.0.0.1:0".parse().unwrap()).unwrap();
        for request in ["GET / HTTP/1.1\r\n\r\n", "POST /api/publish HTTP/1.1\r\nContent-Length: 1\r\n\r\n{"]
        {
            let mut stream = TcpStream::connect(floor.address().unwrap()).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            turn_until(&mut floor, |floor| !floor.peers.is_empty());
            turn_until(&mut floor, |floor| floor.peers.is_empty());
            assert!(read_to(&mut stream, "\r\n").starts_with("HTTP/1.1 4"));
        }
    }
}
