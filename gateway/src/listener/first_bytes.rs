//! The first bytes of a connection: read once, and answered at once if possible.

use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::http::{GrantedUpgrade, HttpRouter};
use crate::transport::IncomingSocket;

/// The most bytes of the first read. Requests of browsers take 500 to 2,000.
const FIRST_BYTES_MAX: usize = 4096;

/// The result of the first read.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one is made for a connection, and looked at where it is made")]
pub(super) enum FirstBytes {
    /// Nothing is there yet.
    None,
    /// The peer is gone.
    Ended,
    /// A client is admitted. The bytes behind its request are still to be read.
    Granted(Bytes, GrantedUpgrade),
    /// Another request, or an incomplete one: to be handled by the HTTP server.
    Other(Bytes),
}

/// Reads the available bytes, without waiting. `grant` decides whether they are a request that can be answered at once.
pub(super) fn read_first_bytes(
    socket: &impl AsFd,
    grant: impl FnOnce(&[u8]) -> Option<GrantedUpgrade>,
) -> FirstBytes {
    let mut buffer = [0; FIRST_BYTES_MAX];
    let read = loop {
        match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return FirstBytes::Ended,
            Ok((read, _)) => break &buffer[..read],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return FirstBytes::None,
            Err(_) => return FirstBytes::Ended,
        }
    };
    match grant(read) {
        Some(granted) => FirstBytes::Granted(Bytes::copy_from_slice(&read[granted.head_bytes..]), granted),
        None => FirstBytes::Other(Bytes::copy_from_slice(read)),
    }
}

impl HttpRouter {
    /// Sends an admitted client its response, and hands its socket to a worker.
    pub(super) fn answer(&self, socket: std::net::TcpStream, unread: &Bytes, granted: GrantedUpgrade) {
        let mut response = Vec::with_capacity(RESPONSE_BYTES);
        granted.opening.write_response(&mut response);
        // The socket's send buffer is empty, and always larger than this response.
        match send(&socket, &response, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) if sent == response.len() => {
                let GrantedUpgrade { opening, admitted, .. } = granted;
                self.hand_over(IncomingSocket::Plain(socket), unread.clone(), opening, admitted);
            }
            Ok(_) => self.lost(&std::io::ErrorKind::WriteZero.into()),
            Err(error) => self.lost(&error.into()),
        }
    }
}

/// The capacity for the usual response.
const RESPONSE_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server)
    }

    /// Returns the result of the first read, once bytes have arrived.
    fn found(server: &TcpStream) -> FirstBytes {
        loop {
            match read_first_bytes(server, |_| None) {
                FirstBytes::None => std::thread::yield_now(),
                found => return found,
            }
        }
    }

    #[test]
    fn what_came_is_kept_for_whoever_reads_on() {
        let (mut client, server) = pair();
        assert!(matches!(read_first_bytes(&server, |_| None), FirstBytes::None));
        client.write_all(b"GET /").unwrap();
        let FirstBytes::Other(read) = found(&server) else { panic!("it came") };
        assert_eq!(read, &b"GET /"[..]);
        drop(client);
        assert!(matches!(found(&server), FirstBytes::Ended));
    }

    #[test]
    fn one_read_takes_so_much_and_no_more() {
        let (mut client, server) = pair();
        client.write_all(&[b'x'; 3 * FIRST_BYTES_MAX]).unwrap();
        let FirstBytes::Other(read) = found(&server) else { panic!("it came") };
        assert!(read.len() <= FIRST_BYTES_MAX);
    }
}
