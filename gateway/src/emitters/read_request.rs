//! Parses commands of `@socket.io/redis-emitter` and similar libraries, in JSON: which clients join rooms, leave rooms
//! or are disconnected.

use serde::Deserialize;

use super::emitter_message::{EmitterCommand, EmitterMessageError, EmitterTarget};
use super::read_packet::RoomNames;

/// The types of commands that servers and emitters send.
mod kind {
    pub(super) const JOIN: u8 = 2;
    pub(super) const LEAVE: u8 = 3;
    pub(super) const DISCONNECT: u8 = 4;
    pub(super) const SERVER_SIDE_EMIT: u8 = 6;
    /// Emitters in Go send the character code of the digit in place of the number.
    pub(super) const DIGIT_0: u8 = b'0';
}

#[derive(Debug, Deserialize)]
struct EmitterRequest {
    r#type: u8,
    #[serde(default)]
    opts: Option<RequestOptions>,
    #[serde(default)]
    rooms: RoomNames,
    #[serde(default)]
    close: bool,
    /// For one client, in place of options: servers send requests in this form.
    #[serde(default)]
    sid: Option<String>,
    #[serde(default)]
    room: Option<RoomNames>,
}

#[derive(Debug, Deserialize)]
struct RequestOptions {
    #[serde(default)]
    rooms: RoomNames,
    #[serde(default)]
    except: RoomNames,
}

pub(super) fn read(message: &[u8]) -> Result<EmitterCommand, EmitterMessageError> {
    if message.first() != Some(&b'{') {
        return Err(EmitterMessageError::Unsupported("a request between Socket.IO servers"));
    }
    let request: EmitterRequest =
        serde_json::from_slice(message).map_err(|error| EmitterMessageError::Malformed(error.to_string()))?;
    let EmitterRequest { r#type, opts, rooms, close, sid, room } = request;
    let kind = r#type.checked_sub(kind::DIGIT_0).unwrap_or(r#type);
    if kind == kind::SERVER_SIDE_EMIT {
        return Err(EmitterMessageError::Unsupported("serverSideEmit"));
    }
    if !(kind::JOIN..=kind::DISCONNECT).contains(&kind) {
        return Err(EmitterMessageError::Unsupported("a request between Socket.IO servers"));
    }
    let of = match (opts, sid) {
        (Some(RequestOptions { rooms, except }), _) => EmitterTarget { rooms: rooms.0, except: except.0 },
        (None, Some(sid)) => EmitterTarget { rooms: vec![sid], except: Vec::new() },
        (None, None) => {
            return Err(EmitterMessageError::Malformed("it does not say which clients it is for".to_owned()));
        }
    };
    let rooms = room.unwrap_or(rooms).0;
    Ok(match kind {
        kind::JOIN => EmitterCommand::Join { of, rooms },
        kind::LEAVE => EmitterCommand::Leave { of, rooms },
        _ => EmitterCommand::Disconnect { of, close },
    })
}
