//! Handles packets of Engine.IO for a client's session and connection.

use bytes::Bytes;
use gateway_core::session::Session;
use shared::disconnect::Disconnect;
use shared::framing::engine_io::{EnginePacket, PacketError};
use shared::moment::Moment;

use crate::client::{Client, Incoming};
use crate::worker::WorkerLocal;

/// A server's text frame that holds the packet's one digit.
pub(super) const PING_IN_WEBSOCKET: Bytes = Bytes::from_static(b"\x81\x012");

/// What is left to do about a packet after its session has handled it.
pub(super) enum PacketAction {
    Perform,
    /// The client closes.
    Close,
    /// The packets that follow can no longer be parsed.
    Broken(Disconnect),
}

/// Has the session handle a packet of its client.
pub(super) fn handle_packet(
    session: &mut Session,
    now: Moment,
    packet: Result<EnginePacket<'_>, PacketError>,
) -> PacketAction {
    match packet {
        Ok(EnginePacket::Message(message)) => session.handle_message(now, message),
        Ok(EnginePacket::Pong(data)) => {
            session.handle_control_frame(now, data.len());
            session.handle_transport_pong(now);
        }
        // Left over from a change of transports, without a meaning here.
        Ok(EnginePacket::Upgrade | EnginePacket::Noop) => session.handle_control_frame(now, 0),
        Ok(EnginePacket::Close) => return PacketAction::Close,
        Ok(EnginePacket::Ping(_)) => return broken("a ping, which only servers send"),
        Ok(EnginePacket::Open(_)) => return broken("an open packet, which only servers send"),
        Err(error) => return broken(&error.to_string()),
    }
    PacketAction::Perform
}

fn broken(why: &str) -> PacketAction {
    PacketAction::Broken(Disconnect::BAD_REQUEST.because(why))
}

impl Client {
    /// Does what is left to do about a packet.
    pub(super) fn perform_packet_action(&mut self, local: &mut WorkerLocal, action: PacketAction) {
        match action {
            PacketAction::Perform => self.perform(local),
            PacketAction::Close => self.handle_peer_close(local, None),
            PacketAction::Broken(disconnect) => {
                self.incoming = Incoming::Discarded;
                self.session.handle_disconnect(disconnect);
                self.perform(local);
            }
        }
    }
}
