//! TLS over a non-blocking socket: rustls holds the records, and the worker's poll says when to continue.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;
use rustls::ServerConnection;

/// The most plaintext bytes that rustls holds for a client that does not read, in records not yet written.
const UNWRITTEN_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct TlsStream {
    socket: TcpStream,
    tls: ServerConnection,
    /// Bytes of records that the kernel has taken since [`TlsStream::take_sent`] was called.
    sent: usize,
}

impl TlsStream {
    /// Takes over a connection after its handshake.
    pub(crate) fn new(socket: TcpStream, mut tls: ServerConnection) -> Self {
        tls.set_buffer_limit(Some(UNWRITTEN_BYTES_MAX));
        Self { socket, tls, sent: 0 }
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub(super) fn socket_ref(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                // rustls returns "would block" when it has no plaintext, and `Ok(0)` after a proper close.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.tls.read_tls(&mut self.socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = self.tls.process_new_packets() {
                // Sends the alert that tells the peer what was wrong.
                let _ = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            if self.tls.wants_write() {
                // A socket that takes no more may still hold bytes from the peer. The next write returns the error.
                let _ = self.flush();
            }
        }
    }

    pub(super) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut taken = self.tls.writer().write_vectored(slices)?;
        let emptied = self.flush()?;
        // rustls takes nothing while its buffer is full. If the socket has just taken all of that, there is room now, and no
        // edge will report it later.
        if taken == 0 && emptied {
            taken = self.tls.writer().write_vectored(slices)?;
        }
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    pub(super) fn take_sent(&mut self) -> usize {
        std::mem::take(&mut self.sent)
    }

    pub(super) fn shut_down_writing(&mut self) -> io::Result<()> {
        self.tls.send_close_notify();
        self.flush()?;
        self.socket.shutdown(std::net::Shutdown::Write)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream as StdStream};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

    use super::*;

    /// Returns the two ends of a connection after the handshake.
    fn connected() -> (TlsStream, StdStream, ClientConnection) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let provider = Arc::new(default_provider());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut near = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let shaking = std::thread::spawn(move || {
            server.complete_io(&mut far).unwrap();
            (server, far)
        });
        client.complete_io(&mut near).unwrap();
        let (server, far) = shaking.join().unwrap();
        far.set_nonblocking(true).unwrap();
        (TlsStream::new(TcpStream::from_std(far), server), near, client)
    }

    #[test]
    fn what_was_sent_before_a_reset_is_read_although_nothing_can_be_written() {
        let (mut stream, mut socket, mut client) = connected();
        let answer = [0; 16 << 10];
        while stream.write_vectored(&[IoSlice::new(&answer)]).is_ok() {}

        const SENT: usize = 48 << 10;
        client.writer().write_all(&[7; SENT]).unwrap();
        while client.wants_write() {
            client.write_tls(&mut socket).unwrap();
        }
        // With unread bytes and no linger time, the close is a reset.
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
        drop(socket);

        let (mut read, mut buffer) = (0, [0; 4 << 10]);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match stream.read(&mut buffer) {
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                Err(_) => break,
            }
        }
        assert_eq!(read, SENT);
    }
}
