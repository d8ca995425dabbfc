//! A TCP connection, with TLS around it where the address asks for it.

use std::io;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::plan::Target;

/// The rule is the small one, and the box of the other is nothing beside the rest of a TLS connection.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Shakes hands where the target wants TLS.
pub async fn secure(socket: TcpStream, target: &Target) -> io::Result<Stream> {
    match &target.tls {
        None => Ok(Stream::Left(socket)),
        Some(tls) => Ok(Stream::Right(Box::new(tls.connector.connect(tls.name.clone(), socket).await?))),
    }
}
