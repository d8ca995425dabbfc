//! Commands of `@socket.io/redis-emitter` and its like, in JSON: who is to come into rooms, to leave some, or to go.

use serde::Deserialize;

use super::read_packet::Names;
use super::said::{Of, Unread, What};

/// The kinds of commands that servers and emitters have.
mod kind {
    pub(super) const JOIN: u8 = 2;
    pub(super) const LEAVE: u8 = 3;
    pub(super) const DISCONNECT: u8 = 4;
    pub(super) const SERVER_SIDE_EMIT: u8 = 6;
    /// Emitters in Go write the digit's code in place of the number.
    pub(super) const DIGIT_0: u8 = b'0';
}

#[derive(Debug, Deserialize)]
struct Request {
    r#type: u8,
    #[serde(default)]
    opts: Option<Options>,
    #[serde(default)]
    rooms: Names,
    #[serde(default)]
    close: bool,
    /// Of one client, in place of options: as servers ask each other.
    #[serde(default)]
    sid: Option<String>,
    #[serde(default)]
    room: Option<Names>,
}

#[derive(Debug, Deserialize)]
struct Options {
    #[serde(default)]
    rooms: Names,
    #[serde(default)]
    except: Names,
}

pub(super) fn read(message: &[u8]) -> Result<What, Unread> {
    if message.first() != Some(&b'{') {
        return Err(Unread::Unsupported("a question of servers to each other"));
    }
    let request: Request =
        serde_json::from_slice(message).map_err(|error| Unread::Malformed(error.to_string()))?;
    let Request { r#type, opts, rooms, close, sid, room } = request;
    let kind = r#type.checked_sub(kind::DIGIT_0).unwrap_or(r#type);
    if kind == kind::SERVER_SIDE_EMIT {
        return Err(Unread::Unsupported("serverSideEmit"));
    }
    if !(kind::JOIN..=kind::DISCONNECT).contains(&kind) {
        return Err(Unread::Unsupported("a question of servers to each other"));
    }
    let of = match (opts, sid) {
        (Some(Options { rooms, except }), _) => Of { rooms: rooms.0, except: except.0 },
        (None, Some(sid)) => Of { rooms: vec![sid], except: Vec::new() },
        (None, None) => return Err(Unread::Malformed("it says of nobody whom it is about".to_owned())),
    };
    let rooms = room.unwrap_or(rooms).0;
    Ok(match kind {
        kind::JOIN => What::Join { of, rooms },
        kind::LEAVE => What::Leave { of, rooms },
        _ => What::Disconnect { of, close },
    })
}
