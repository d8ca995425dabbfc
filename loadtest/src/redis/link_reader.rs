//! Those who read a channel to the end: a bare connection to Redis, and a client of the node. Each is a thread that does
//! nothing but read, find and count.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::pump::{command, redis_channel};
use crate::clock::now_ns;
use crate::latencies::Latencies;
use crate::mark::{MARK_BYTES, Mark};

const BUFFER_BYTES: usize = 1 << 20;
/// How long the answer to a subscription may take.
const ANSWER: Duration = Duration::from_secs(10);

/// Reads until it is dropped or finished.
#[derive(Debug)]
pub struct LinkReader {
    socket: TcpStream,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<Latencies>>,
}

impl LinkReader {
    /// A bare connection to Redis.
    pub fn bare(address: SocketAddr, channel: &str) -> io::Result<Self> {
        let mut socket = connect(address)?;
        socket.write_all(&command(&[b"SUBSCRIBE", redis_channel(channel).as_bytes()]))?;
        expect(&mut socket, b"subscribe")?;
        Self::start(socket)
    }

    /// A client of a node.
    pub fn client(address: SocketAddr, channel: &str) -> io::Result<Self> {
        let mut socket = connect(address)?;
        let upgrade = format!(
            "GET /connection/websocket HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGlkZWdhdGUgbG9hZHRlcw==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        socket.write_all(upgrade.as_bytes())?;
        expect(&mut socket, b" 101 ")?;
        for message in [
            "{\"id\":1,\"connect\":{}}".to_owned(),
            format!("{{\"id\":2,\"subscribe\":{{\"channel\":\"{channel}\"}}}}"),
        ] {
            socket.write_all(&masked(message.as_bytes()))?;
            expect(&mut socket, b"\"id\"")?;
        }
        Self::start(socket)
    }

    fn start(socket: TcpStream) -> io::Result<Self> {
        socket.set_read_timeout(None)?;
        let count = Arc::new(AtomicU64::new(0));
        let (from, counted) = (socket.try_clone()?, count.clone());
        let thread = thread::Builder::new().name("reader".into()).spawn(move || read(from, &counted))?;
        Ok(Self { socket, count, thread: Some(thread) })
    }

    /// How many publications it has.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Ends it, and gives how late each was.
    pub fn finish(mut self) -> Latencies {
        self.end().unwrap_or_default()
    }

    fn end(&mut self) -> Option<Latencies> {
        // An error means that the other end has closed it: then it has ended.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.thread.take()?.join().ok()
    }
}

impl Drop for LinkReader {
    fn drop(&mut self) {
        self.end();
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(ANSWER))?;
    Ok(socket)
}

/// Reads one answer, which must have this in it.
fn expect(socket: &mut TcpStream, mark: &[u8]) -> io::Result<()> {
    let mut answer = [0; 4096];
    let length = socket.read(&mut answer)?;
    let answer = &answer[..length];
    let refused = memchr::memmem::find(answer, b"\"error\"").is_some();
    if refused || memchr::memmem::find(answer, mark).is_none() {
        return Err(io::Error::other(format!("unexpected answer: {}", String::from_utf8_lossy(answer))));
    }
    Ok(())
}

/// A short text message as clients send them, with a mask that changes nothing.
fn masked(message: &[u8]) -> Vec<u8> {
    assert!(message.len() < 126, "the length of a short frame is one byte");
    let mut frame = vec![0x81, 0x80 | message.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(message);
    frame
}

fn read(mut socket: TcpStream, count: &AtomicU64) -> Latencies {
    let mut latencies = Latencies::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    // The end of the connection is the end of the thread, whichever way it comes.
    while let Ok(length @ 1..) = socket.read(&mut buffer[filled..]) {
        filled += length;
        let now = now_ns();
        let (mut rest, mut found) = (&buffer[..filled], 0);
        while let Some((mark, behind)) = Mark::find(rest) {
            latencies.record(now.saturating_sub(mark.intended_ns));
            (rest, found) = (behind, found + 1);
        }
        count.fetch_add(found, Ordering::Relaxed);
        // A mark may be cut in two, but must not be counted twice.
        let kept = rest.len().min(MARK_BYTES - 1);
        buffer.copy_within(filled - kept..filled, 0);
        filled = kept;
    }
    latencies
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::mark::PayloadMaker;

    #[test]
    fn marks_are_counted_once_however_they_are_cut() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut reader =
            LinkReader::start(TcpStream::connect(listener.local_addr().unwrap()).unwrap()).unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_nodelay(true).unwrap();
        let maker = PayloadMaker::new(7, 80);
        let text: String = (1..=50).map(|sequence| maker.make(0, sequence, now_ns())).collect();
        for piece in text.as_bytes().chunks(7) {
            socket.write_all(piece).unwrap();
        }
        drop(socket);
        let read = reader.thread.take().unwrap().join().unwrap();
        assert_eq!((reader.count(), read.histogram().unwrap().len()), (50, 50));
    }
}
