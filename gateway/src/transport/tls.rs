//! TLS over a non-blocking socket: rustls keeps the records, the worker's poll says when to go on.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;
use rustls::ServerConnection;

/// The most plain bytes that rustls holds for a client that is not reading, in records not yet written.
const UNWRITTEN_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct TlsStream {
    socket: TcpStream,
    tls: ServerConnection,
    /// Bytes of records that the kernel has taken since [`TlsStream::take_sent`].
    sent: usize,
}

impl TlsStream {
    /// Takes over a connection whose handshake is done.
    pub(crate) fn new(socket: TcpStream, mut tls: ServerConnection) -> Self {
        tls.set_buffer_limit(Some(UNWRITTEN_BYTES_MAX));
        Self { socket, tls, sent: 0 }
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                // rustls says "would block" where it has no plain bytes, `Ok(0)` after a proper goodbye.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.tls.read_tls(&mut self.socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = self.tls.process_new_packets() {
                // The alert that tells the peer what was wrong.
                let _ = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            if self.tls.wants_write() {
                self.flush()?;
            }
        }
    }

    pub(super) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut taken = self.tls.writer().write_vectored(slices)?;
        let emptied = self.flush()?;
        // rustls takes nothing while it holds the most it may. If the socket has just taken all of that, there is
        // room now, and no edge will tell of it later.
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
