//! RFC 6455 and RFC 7692 without IO: bytes are decoded into events, and messages are encoded into bytes.
//!
//! The life of one connection, as a server sees it:
//!
//! 1. [`handshake::read_upgrade`] checks the request. [`Upgrade::negotiate_deflate`] answers its compression offers.
//! 2. The connection owns an [`Assembler`] (16 bytes while nothing is incomplete). The worker owns one read buffer,
//!    one [`Inflater`] and one [`Limits`] for all its connections, and after each read pulls the events out:
//!
//! ```
//! use shared::framing::websocket::{Assembler, FrameEvent, Inflater, Limits, Role};
//!
//! let (limits, mut inflater) = (Limits::default(), Inflater::new());
//! let mut assembler = Assembler::new(Role::Server, false);
//! let mut buffer = [0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2]; // what a read filled
//! let mut unread = &mut buffer[..];
//! let mut texts = Vec::new();
//! // After an error the connection is closed with `error.disconnect()`.
//! while let Some(event) = assembler.next(&mut unread, &limits, &mut inflater)? {
//!     match event {
//!         FrameEvent::Message(message) => texts.push(message.data.to_vec()),
//!         FrameEvent::Ping(_data) => { /* encode_pong with the same data */ }
//!         FrameEvent::Pong(_data) => {}
//!         FrameEvent::Close(_close) => { /* encode_close with the same code, then close the socket */ }
//!     }
//! }
//! assert_eq!(texts, [b"hi"]);
//! # Ok::<(), shared::framing::websocket::FrameError>(())
//! ```
//!
//! 3. Outgoing messages are whole frames, appended to a buffer by [`encode_message`] and [`encode_message_with`]. A
//!    [`Deflater`] makes the compressed variant.
//!
//! Compression never keeps a context on either side. A message deflated with a fresh context refers to nothing before
//! itself, so that any peer whose window it fits can read it: see [`DeflateParams::admits`].

pub mod assemble;
pub mod deflate;
pub mod encode;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod offer;

pub use assemble::{Assembler, CloseFrame, FrameEvent, Limits};
pub use deflate::{Deflater, Inflater};
pub use encode::{
    encode_close, encode_disconnect, encode_masked, encode_message, encode_message_with, encode_ping,
    encode_pong,
};
pub use frame::{FrameError, FrameHeader, Opcode, Role};
pub use handshake::{HandshakeError, Upgrade, accept_key, read_connect, read_upgrade};
pub use offer::{DeflateParams, DeflatePolicy};

/// Returns a configuration that generates the same values in every test run.
#[cfg(test)]
fn same_every_run() -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, RngSeed};
    Config { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() }
}
