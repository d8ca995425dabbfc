//! The PROXY protocol: a load balancer sends a client's real address ahead of the client's first byte.
//!
//! The header is read to its last byte and not one further: the bytes behind it belong to TLS or HTTP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

pub use proxy_protocol_config::ProxyProtocolConfig;

mod proxy_protocol_config;

/// Longest header of version 1, in bytes, including its line end.
const V1_BYTES_MAX: usize = 107;

/// The shortest header of either version, in bytes: `PROXY UNKNOWN` and a line end. This many can always be read.
const SHORTEST: usize = 15;

/// The fixed part of every header of version 2, in bytes, which includes the length of the rest.
const V2_FIXED_BYTES: usize = 16;

/// Longest header of version 2 that is read, in bytes. Addresses take 36; extensions follow.
const V2_BYTES_MAX: usize = 4096;

/// Why a connection's header could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("the PROXY header is longer than {V2_BYTES_MAX} bytes")]
    TooLong,
    #[error("the PROXY header is invalid: {0}")]
    Malformed(String),
    #[error("the PROXY header did not arrive within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("the connection ended within its PROXY header: {0}")]
    Lost(#[from] std::io::Error),
}

/// Returns the address of the client behind a connection from `peer`. Reads a header only if one must come.
pub async fn client_address(
    config: &ProxyProtocolConfig,
    stream: &mut TcpStream,
    peer: SocketAddr,
) -> Result<SocketAddr, ProxyHeaderError> {
    if !is_expected(config, peer.ip()) {
        return Ok(peer);
    }
    match tokio::time::timeout(config.timeout(), read_header(stream)).await {
        // The proxy speaks for itself (a health check), or for a peer without an address.
        Ok(Ok(None)) => Ok(peer),
        Ok(Ok(Some(client))) => Ok(client),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ProxyHeaderError::Late(config.timeout())),
    }
}

/// Whether connections of this peer begin with a header.
pub fn is_expected(config: &ProxyProtocolConfig, peer: IpAddr) -> bool {
    config.enabled && is_trusted(config, peer)
}

fn is_trusted(config: &ProxyProtocolConfig, peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    config.trusted.iter().any(|network| network.contains(&peer))
}

/// A stream whose next bytes can be inspected without consuming them.
pub(crate) trait Peek: AsyncRead + Unpin {
    fn peek(&mut self, into: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;
}

impl Peek for TcpStream {
    async fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Self::peek(self, into).await
    }
}

/// Reads the header. Returns the client's address, if the header has one.
pub(crate) async fn read_header(stream: &mut impl Peek) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut header = vec![0; SHORTEST];
    // Even fewer bytes than the shortest header show that it is missing. Only available bytes are checked, so a client that
    // sends `GET /` is refused at once.
    let mut read = 0;
    while read < SHORTEST {
        let more = stream.read(&mut header[read..]).await?;
        if more == 0 {
            return Err(ProxyHeaderError::Lost(std::io::ErrorKind::UnexpectedEof.into()));
        }
        read += more;
        let begins = |prefix: &[u8]| prefix.iter().zip(&header[..read]).all(|(a, b)| a == b);
        if !begins(v1::PROTOCOL_PREFIX.as_bytes()) && !begins(v2::PROTOCOL_PREFIX) {
            return Err(ProxyHeaderError::Missing);
        }
    }
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        read_v2(stream, header).await
    } else {
        read_v1(stream, header).await
    }
}

async fn read_v1(
    stream: &mut impl Peek,
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    // No complete header is shorter than the bytes read, so a line end among them ends the header.
    if header.iter().filter(|byte| **byte == b'\n').count() > usize::from(header.ends_with(b"\r\n")) {
        return Err(ProxyHeaderError::Malformed("its line ends without a carriage return".to_owned()));
    }
    while !header.ends_with(b"\r\n") {
        let had = header.len();
        if had >= V1_BYTES_MAX {
            return Err(ProxyHeaderError::Malformed("it has no line end".to_owned()));
        }
        // Peeks, and consumes no more than the line: the client's first bytes may follow it.
        let mut peeked = [0; V1_BYTES_MAX];
        let seen = stream.peek(&mut peeked[..V1_BYTES_MAX - had]).await?;
        if seen == 0 {
            return Err(ProxyHeaderError::Lost(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let taken = peeked[..seen].iter().position(|byte| *byte == b'\n').map_or(seen, |end| end + 1);
        header.resize(had + taken, 0);
        stream.read_exact(&mut header[had..]).await?;
        if header.ends_with(b"\n") && !header.ends_with(b"\r\n") {
            return Err(ProxyHeaderError::Malformed("its line ends without a carriage return".to_owned()));
        }
    }
    let parsed = v1::Header::try_from(header.as_slice());
    let parsed = parsed.map_err(|error| ProxyHeaderError::Malformed(error.to_string()))?;
    Ok(match parsed.addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

async fn read_v2(
    stream: &mut impl Peek,
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    header.push(stream.read_u8().await?);
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if V2_FIXED_BYTES + length > V2_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    header.resize(V2_FIXED_BYTES + length, 0);
    stream.read_exact(&mut header[V2_FIXED_BYTES..]).await?;
    let parsed = v2::Header::try_from(header.as_slice());
    let parsed = parsed.map_err(|error| ProxyHeaderError::Malformed(error.to_string()))?;
    Ok(match (parsed.command, parsed.protocol, parsed.addresses) {
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(ip)) => {
            Some((ip.source_address, ip.source_port).into())
        }
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(ip)) => {
            Some((ip.source_address, ip.source_port).into())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    const CLIENT: &str = "198.51.100.7:4711";

    fn config(trusted: &str) -> ProxyProtocolConfig {
        ProxyProtocolConfig { enabled: true, trusted: vec![trusted.parse().unwrap()], timeout_ms: 5000 }
    }

    fn v2_header() -> Vec<u8> {
        let addresses = ([198, 51, 100, 7], [192, 0, 2, 1], 4711_u16, 443_u16);
        let addresses = v2::IPv4::new(addresses.0, addresses.1, addresses.2, addresses.3);
        v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, v2::Protocol::Stream, addresses)
            .write_tlv(v2::Type::NoOp, &[0; 100])
            .unwrap()
            .build()
            .unwrap()
    }

    /// Sends the pieces one after the other, and returns the result and the remaining bytes.
    async fn receive(
        config: &ProxyProtocolConfig,
        pieces: &[&[u8]],
    ) -> Result<(SocketAddr, Vec<u8>), ProxyHeaderError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut server, peer) = listener.accept().await.unwrap();
        let send = async {
            for piece in pieces {
                // The server may have refused the connection before everything was sent.
                let _ = client.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            let _ = client.shutdown().await;
        };
        let receive = async {
            let address = client_address(config, &mut server, peer).await?;
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).await?;
            Ok(if address == peer { ("0.0.0.0:0".parse().unwrap(), rest) } else { (address, rest) })
        };
        tokio::join!(send, receive).1
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_leave_its_bytes_alone() {
        let v1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n".to_vec();
        for header in [v1, v2_header()] {
            let all = [header.as_slice(), b"GET / HTTP/1.1\r\n\r\n"].concat();
            let received = receive(&config("127.0.0.0/8"), &[&all]).await.unwrap();
            assert_eq!(received, (address(CLIENT), b"GET / HTTP/1.1\r\n\r\n".to_vec()));
        }
    }

    #[tokio::test]
    async fn a_header_may_come_in_pieces() {
        let v1 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec();
        for (header, client) in [(v1, "[2001:db8::7]:4711"), (v2_header(), CLIENT)] {
            let all = [header.as_slice(), b"rest"].concat();
            let pieces: Vec<&[u8]> = all.chunks(1).collect();
            let received = receive(&config("127.0.0.0/8"), &pieces).await.unwrap();
            assert_eq!(received, (address(client), b"rest".to_vec()));
        }
    }

    #[tokio::test]
    async fn strangers_are_direct_and_their_header_is_not_read() {
        let header = v2_header();
        let received = receive(&config("10.0.0.0/8"), &[&header]).await.unwrap();
        assert_eq!(received, (address("0.0.0.0:0"), header));
    }

    #[tokio::test]
    async fn a_proxy_may_speak_for_itself() {
        let local = v2::Builder::new(v2::Version::Two | v2::Command::Local, 0).build().unwrap();
        for header in [b"PROXY UNKNOWN\r\n".to_vec(), local] {
            let all = [header.as_slice(), b"rest"].concat();
            let received = receive(&config("127.0.0.0/8"), &[&all]).await.unwrap();
            assert_eq!(received, (address("0.0.0.0:0"), b"rest".to_vec()));
        }
    }

    #[tokio::test]
    async fn a_trusted_proxy_without_a_header_is_refused_at_its_first_byte() {
        let refused = receive(&config("127.0.0.0/8"), &[b"GET / HTTP/1.1\r\n\r\n"]).await;
        assert!(matches!(refused, Err(ProxyHeaderError::Missing)), "{refused:?}");
        let refused = receive(&config("127.0.0.0/8"), &[b"P"]).await;
        assert!(matches!(refused, Err(ProxyHeaderError::Lost(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn headers_that_make_no_sense_are_refused() {
        let mut long = v2::PROTOCOL_PREFIX.to_vec();
        long.extend([0x21, 0x11, 0xff, 0xff]);
        let refused = receive(&config("127.0.0.0/8"), &[&long]).await;
        assert!(matches!(refused, Err(ProxyHeaderError::TooLong)), "{refused:?}");

        let mut wrong = v2_header();
        wrong[12] = 0x31;
        let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        for header in [
            &wrong[..],
            &endless,
            b"PROXY TCP4 1.2.3.4 nonsense\r\n",
            b"PROXY TCP4 1.2.3.4\n...",
            b"PROXY UNKNOWN \nGET / HTTP/1.1\r\n",
            b"PROXY \nUNKNOW\r\n",
        ] {
            let refused = receive(&config("127.0.0.0/8"), &[header]).await;
            assert!(matches!(refused, Err(ProxyHeaderError::Malformed(_))), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn a_header_that_does_not_come_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, peer) = listener.accept().await.unwrap();
        let config = ProxyProtocolConfig { timeout_ms: 20, ..config("127.0.0.0/8") };
        let late = client_address(&config, &mut server, peer).await;
        assert!(matches!(late, Err(ProxyHeaderError::Late(_))), "{late:?}");
    }
}
