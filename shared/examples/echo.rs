//! A WebSocket server that echoes messages: the framing alone, on blocking sockets.
//!
//! `cargo run --release -p shared --example echo -- 127.0.0.1:9001`, then `tests/autobahn/run ws://127.0.0.1:9001`.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use bytes::BytesMut;
use shared::framing::websocket::{
    Assembler, DeflateParams, DeflatePolicy, Deflater, FrameEvent, Inflater, Limits, Role, encode_close,
    encode_disconnect, encode_message, encode_pong, read_upgrade,
};

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address)?;
    writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                let _ = writeln!(io::stderr(), "a connection ended: {error}");
            }
        });
    }
    Ok(())
}

/// The largest messages of the Autobahn cases have 16 MiB, in up to 65,536 frames.
const LIMITS: Limits =
    Limits { message_bytes_max: 16 << 20, frame_bytes_max: 16 << 20, fragments_max: 1 << 20 };
const HEAD_BYTES_MAX: usize = 8192;
const READ_BYTES: usize = 64 * 1024;

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; READ_BYTES];
    let (head_bytes, mut filled) = read_head(&mut stream, &mut buffer)?;
    let Some((response, params)) = answer(&buffer[..head_bytes]) else {
        return stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    };
    stream.write_all(response.as_bytes())?;
    buffer.copy_within(head_bytes..filled, 0);
    filled -= head_bytes;

    let (mut inflater, mut deflater) = (Inflater::new(), Deflater::new(1));
    let mut assembler = Assembler::new(Role::Server, params.is_some());
    let (mut out, mut compressed) = (BytesMut::new(), BytesMut::new());
    loop {
        let mut unread = &mut buffer[..filled];
        let open = loop {
            match assembler.next(&mut unread, &LIMITS, &mut inflater) {
                Ok(None) => break true,
                Ok(Some(FrameEvent::Message(message))) => {
                    compressed.clear();
                    // Every message is compressed, even if that gains nothing, because the cases of groups 12 and 13
                    // expect it.
                    let deflated = params.is_some_and(|params| {
                        deflater.deflate_for_window(
                            message.data,
                            params.server_max_window_bits,
                            &mut compressed,
                        )
                    });
                    let payload = if deflated { &compressed[..] } else { message.data };
                    encode_message(message.kind, payload, deflated, &mut out);
                }
                Ok(Some(FrameEvent::Ping(data))) => encode_pong(data, &mut out),
                Ok(Some(FrameEvent::Pong(_))) => {}
                Ok(Some(FrameEvent::Close(close))) => {
                    encode_close(close.code.map(|code| (code, close.reason)), &mut out);
                    break false;
                }
                Err(error) => {
                    encode_disconnect(&error.disconnect(), &mut out);
                    break false;
                }
            }
        };
        stream.write_all(&out)?;
        out.clear();
        if !open {
            return close(stream);
        }
        filled = stream.read(&mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
    }
}

/// Reads up to the end of the request's head. Returns the length of the head and the number of bytes read in all.
fn read_head(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
    let mut filled = 0;
    while filled < HEAD_BYTES_MAX {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            break;
        }
        filled += read;
        if let Some(at) = buffer[..filled].windows(4).position(|end| end == b"\r\n\r\n") {
            return Ok((at + 4, filled));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "not an HTTP request"))
}

/// Returns the response to a request, and the negotiated compression.
fn answer(head: &[u8]) -> Option<(String, Option<DeflateParams>)> {
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let method = lines.next()?.split(' ').next()?;
    let headers = lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.as_bytes()));
    let upgrade = read_upgrade(method, headers).ok()?;
    let params = upgrade.negotiate_deflate(DeflatePolicy::default());
    let mut response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n",
        upgrade.accept
    );
    if let Some(params) = params {
        response.push_str(&format!("Sec-WebSocket-Extensions: {}\r\n", params.response()));
    }
    response.push_str("\r\n");
    Some((response, params))
}

/// Shuts down the sending side and discards further input, so that a reset does not destroy the close frame.
fn close(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let mut discarded = [0; 4096];
    while stream.read(&mut discarded)? > 0 {}
    Ok(())
}
