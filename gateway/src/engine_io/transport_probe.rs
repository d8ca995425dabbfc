//! Lets a polling client probe a WebSocket, and change over to it if it works.
//!
//! The client sends `2probe`, is answered `3probe`, waits until none of its requests is in flight, and sends `5`. The
//! worker reads everything after that. Until then the client is reached by polling, whatever happens to the WebSocket.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use shared::framing::MessageKind;
use shared::framing::engine_io::{EnginePacket, PONG, PROBE};
use shared::framing::websocket::{
    Assembler, FrameEvent, Inflater, Limits, Role, encode_message, encode_pong,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::polling_session::PollingSession;

/// The longest time from the first byte to the change.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout for closing the stream.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// The size of a read. A probe has six bytes.
const READ_BYTES: usize = 1 << 10;
/// The most frames before the change: it ends probes of clients that only send pings.
const FRAMES_MAX: usize = 16;

const LIMITS: Limits = Limits { message_bytes_max: 128, frame_bytes_max: 128, fragments_max: 4 };

/// Why a client stays with polling.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("the session was upgraded already, tries another WebSocket, or is gone")]
    NotPolling,
    #[error("the client sent something other than a probe")]
    Unexpected,
    #[error("the client did not complete the upgrade in time")]
    Late,
    #[error(transparent)]
    Lost(#[from] io::Error),
}

impl ProbeError {
    /// Returns the label for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NotPolling => "not_polling",
            Self::Unexpected => "unexpected",
            Self::Late => "late",
            Self::Lost(_) => "lost",
        }
    }
}

/// Waits until the client changes over, for at most `within`, and returns the bytes behind that. `None`: there is no
/// such session.
pub(crate) async fn probe(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    unread: Bytes,
    deflates: bool,
    session: Option<&PollingSession>,
    within: Duration,
) -> Result<Bytes, ProbeError> {
    let probed = match session {
        None => Err(ProbeError::NotPolling),
        Some(session) => {
            let mut prober = Prober::new(unread, deflates);
            let probing = tokio::time::timeout(within, prober.probe(stream, session)).await;
            probing.unwrap_or(Err(ProbeError::Late)).map(|()| prober.buffer.freeze())
        }
    };
    if probed.is_err() {
        end_websocket(stream).await;
    }
    probed
}

/// Ends a failed WebSocket by ending its stream, which every library notices.
pub(crate) async fn end_websocket(stream: &mut (impl AsyncWrite + Unpin)) {
    // Best effort: nothing depends on the result.
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, stream.shutdown()).await;
}

struct Prober {
    assembler: Assembler,
    inflater: Inflater,
    buffer: BytesMut,
}

#[derive(Debug, PartialEq, Eq)]
enum ProbePacket {
    Probe,
    Upgrade,
    /// A ping, to be answered with these bytes.
    Ping(Bytes),
    Nothing,
}

impl Prober {
    fn new(unread: Bytes, deflates: bool) -> Self {
        let assembler = Assembler::new(Role::Server, deflates);
        Self { assembler, inflater: Inflater::new(), buffer: BytesMut::from(unread) }
    }

    async fn probe(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        session: &PollingSession,
    ) -> Result<(), ProbeError> {
        let mut probing = None;
        let mut answer = BytesMut::new();
        for _ in 0..FRAMES_MAX {
            match self.next(stream).await? {
                ProbePacket::Probe if probing.is_none() => {
                    probing = Some(TransportProbe::begin(session).ok_or(ProbeError::NotPolling)?);
                    let packet = [&[PONG], PROBE].concat();
                    encode_message(MessageKind::Text, &packet, false, &mut answer);
                }
                ProbePacket::Upgrade => {
                    if let Some(probing) = probing.take() {
                        probing.succeeded();
                        return Ok(());
                    }
                    return Err(ProbeError::Unexpected);
                }
                ProbePacket::Probe => return Err(ProbeError::Unexpected),
                ProbePacket::Ping(data) => encode_pong(&data, &mut answer),
                ProbePacket::Nothing => {}
            }
            stream.write_all(&answer.split()).await?;
            stream.flush().await?;
        }
        Err(ProbeError::Unexpected)
    }

    /// Reads the next packet of the client.
    async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<ProbePacket, ProbeError> {
        loop {
            if let Some(packet) = self.read_packet()? {
                return Ok(packet);
            }
            self.buffer.reserve(READ_BYTES);
            if stream.read_buf(&mut (&mut self.buffer).limit(READ_BYTES)).await? == 0 {
                return Err(ProbeError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn read_packet(&mut self) -> Result<Option<ProbePacket>, ProbeError> {
        let length = self.buffer.len();
        let mut unread = &mut self.buffer[..];
        let event = self.assembler.next(&mut unread, &LIMITS, &mut self.inflater);
        let packet = match event.map_err(|_| ProbeError::Unexpected)? {
            None => None,
            Some(FrameEvent::Ping(data)) => Some(ProbePacket::Ping(Bytes::copy_from_slice(data))),
            Some(FrameEvent::Pong(_)) => Some(ProbePacket::Nothing),
            Some(FrameEvent::Close(_)) => return Err(ProbeError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Some(FrameEvent::Message(message)) => match EnginePacket::read(message) {
                Ok(EnginePacket::Ping(data)) if data == PROBE => Some(ProbePacket::Probe),
                Ok(EnginePacket::Upgrade) => Some(ProbePacket::Upgrade),
                _ => return Err(ProbeError::Unexpected),
            },
        };
        let used = length - unread.len();
        self.buffer.advance(used);
        Ok(packet)
    }
}

/// A probe by a session's client. If it is dropped before it has succeeded, the client stays with polling.
struct TransportProbe<'s>(Option<&'s PollingSession>);

impl<'s> TransportProbe<'s> {
    fn begin(session: &'s PollingSession) -> Option<Self> {
        // Created only if the probe may begin: dropping one ends the session's probe.
        session.begin_probing().then(|| Self(Some(session)))
    }

    fn succeeded(mut self) {
        self.0 = None;
    }
}

impl Drop for TransportProbe<'_> {
    fn drop(&mut self) {
        self.0.into_iter().for_each(PollingSession::stop_probing);
    }
}

#[cfg(test)]
mod tests {
    use shared::framing::websocket::{FrameHeader, Opcode, encode_masked};
    use tokio::io::duplex;

    use super::*;
    use crate::transport::task_pipe::handed_in_slices;

    fn session() -> (crate::transport::PipeStream, PollingSession) {
        let (near, far) = handed_in_slices(|| {});
        (near, PollingSession::new(far))
    }

    fn frames(packets: &[&str]) -> Vec<u8> {
        let mut frames = BytesMut::new();
        for packet in packets {
            let header = FrameHeader { fin: true, rsv1: false, opcode: Opcode::Text, mask: None, length: 0 };
            encode_masked(header, packet.as_bytes(), [1, 2, 3, 4], &mut frames);
        }
        frames.to_vec()
    }

    /// The result for a client that sends these bytes, and the answer that it receives.
    async fn probed(session: Option<&PollingSession>, said: &[u8]) -> (Result<Bytes, ProbeError>, Vec<u8>) {
        let (mut near, mut far) = duplex(1 << 10);
        let (come, rest) = said.split_at(said.len().min(3));
        far.write_all(rest).await.unwrap();
        far.shutdown().await.unwrap();
        let probed = probe(&mut near, Bytes::copy_from_slice(come), false, session, PROBE_TIMEOUT).await;
        drop(near);
        let mut told = Vec::new();
        far.read_to_end(&mut told).await.unwrap();
        (probed, told)
    }

    #[tokio::test]
    async fn a_client_that_probes_and_changes_over_is_heard_from_there() {
        let (_worker, session) = session();
        let mut said = frames(&["2probe", "5"]);
        said.extend_from_slice(b"what follows");
        let (probed, told) = probed(Some(&session), &said).await;
        assert_eq!(probed.unwrap(), "what follows");
        assert_eq!(told, b"\x81\x063probe");
        assert!(!session.begin_probing(), "it is about to be reached by that");
    }

    #[tokio::test]
    async fn a_client_that_does_not_is_told_so_and_can_try_again() {
        let (_worker, session) = session();
        for said in
            [&["2probe"][..], &["2probe", "2probe"], &["5"], &["4hello"], &["2"], &["abc"], &["2probe", "3"]]
        {
            let (probed, told) = probed(Some(&session), &frames(said)).await;
            assert!(probed.is_err(), "{said:?}");
            let is_probe = said[0] == "2probe";
            assert_eq!(told, if is_probe { &b"\x81\x063probe"[..] } else { b"" }, "{said:?}");
        }
        assert!(session.begin_probing());
        let (probed, told) = probed(Some(&session), &frames(&["2probe"])).await;
        assert!(matches!(probed, Err(ProbeError::NotPolling)));
        assert_eq!(told, b"");
        assert!(!session.begin_probing(), "the one that tries already goes on with it");
        assert!(matches!(self::probed(None, b"").await.0, Err(ProbeError::NotPolling)));
    }

    #[tokio::test]
    async fn nobody_probes_for_ever() {
        let (_worker, session) = session();
        let (mut near, mut far) = duplex(1 << 10);
        far.write_all(&frames(&["2probe"])).await.unwrap();
        let within = Duration::from_millis(20);
        let probed = probe(&mut near, Bytes::new(), false, Some(&session), within).await;
        assert!(matches!(probed, Err(ProbeError::Late)));
        assert!(session.begin_probing());
    }
}
