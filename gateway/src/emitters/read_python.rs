//! Parses the messages of python-socketio's managers, which are JSON since version 5.14. Pickles are never read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::protocol::socketio::{ARGUMENTS_MAX, arguments_of_server, arguments_with_attachments};
use shared::publication::{Tagged, is_too_deep};

use super::emitter_message::{EmitterCommand, EmitterMessage, EmitterMessageError, EmitterTarget};
use super::read_packet::RoomNames;

/// The first byte of every pickle since Python 2.3.
const PICKLE: u8 = 0x80;

#[derive(Debug, Deserialize)]
struct PythonMessage<'a> {
    method: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    event: Option<String>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    /// Since 5.16: whether attachments follow the arguments, which are always a list then.
    #[serde(default)]
    binary: Option<bool>,
    #[serde(default)]
    room: Option<RoomNames>,
    #[serde(default)]
    skip_sid: Option<RoomNames>,
    #[serde(default)]
    sid: Option<String>,
}

pub(super) fn read(message: &[u8]) -> Result<EmitterMessage, EmitterMessageError> {
    if message.first() == Some(&PICKLE) {
        return Err(EmitterMessageError::Pickle);
    }
    let malformed = |what: &str| EmitterMessageError::Malformed(what.to_owned());
    let unreadable = |error: serde_json::Error| EmitterMessageError::Malformed(error.to_string());
    let message: PythonMessage<'_> = serde_json::from_slice(message).map_err(unreadable)?;
    let PythonMessage { method, namespace, event, data, binary, room, skip_sid, sid } = message;
    let rooms = room.unwrap_or_default().0;
    let one = || -> Result<EmitterTarget, EmitterMessageError> {
        let sid = sid.clone().ok_or_else(|| malformed("there is no sid"))?;
        Ok(EmitterTarget { rooms: vec![sid], except: Vec::new() })
    };
    let what = match &*method {
        "emit" => {
            let event_arguments = event_arguments(data, binary)?;
            if is_too_deep(&event_arguments.data.bytes) {
                return Err(malformed("its data is nested too deep"));
            }
            let event = event.ok_or_else(|| malformed("there is no event"))?;
            let except = skip_sid.unwrap_or_default().0;
            EmitterCommand::Emit {
                event,
                arguments: event_arguments,
                of: EmitterTarget { rooms, except },
                volatile: false,
            }
        }
        "enter_room" => EmitterCommand::Join { of: one()?, rooms },
        "leave_room" => EmitterCommand::Leave { of: one()?, rooms },
        "close_room" if rooms.is_empty() => return Err(malformed("there is no room")),
        "close_room" => {
            EmitterCommand::Leave { of: EmitterTarget { rooms: rooms.clone(), except: Vec::new() }, rooms }
        }
        "disconnect" => EmitterCommand::Disconnect { of: one()?, close: false },
        "callback" => return Err(EmitterMessageError::Unsupported("an answer to another server")),
        _ => return Err(EmitterMessageError::Unsupported("a method of a later release")),
    };
    Ok(EmitterMessage { namespace: namespace.unwrap_or_else(|| "/".to_owned()), what })
}

/// Returns the arguments of an event. A single null stands for no arguments.
fn event_arguments(data: Option<&RawValue>, binary: Option<bool>) -> Result<Tagged, EmitterMessageError> {
    let unreadable = |error: serde_json::Error| EmitterMessageError::Malformed(error.to_string());
    let data = data.map_or("null", RawValue::get);
    let list = |json| serde_json::from_str::<Vec<&RawValue>>(json).map_err(unreadable);
    let is_null = |value: &&RawValue| value.get() == "null";
    match binary {
        None if data == "null" => Ok(arguments_of_server(&[], &[])),
        None => {
            let value: &RawValue = serde_json::from_str(data).map_err(unreadable)?;
            Ok(arguments_of_server(&[value], &[]))
        }
        Some(false) => {
            let values = list(data)?;
            check(&values)?;
            let is_none = values.len() == 1 && values.iter().all(is_null);
            Ok(arguments_of_server(if is_none { &[] } else { &values }, &[]))
        }
        Some(true) => {
            let parts = list(data)?;
            let (values, attachments) = parts
                .split_first()
                .ok_or_else(|| EmitterMessageError::Malformed("its data is empty".to_owned()))?;
            let values = list(values.get())?;
            check(&values)?;
            check(attachments)?;
            let decoded = attachments.iter().map(|part| {
                let text: String = serde_json::from_str(part.get()).map_err(unreadable)?;
                let bytes = STANDARD
                    .decode(text)
                    .map_err(|error| EmitterMessageError::Malformed(error.to_string()))?;
                Ok(Bytes::from(bytes))
            });
            let attachments = decoded.collect::<Result<Vec<Bytes>, EmitterMessageError>>()?;
            let event_arguments = arguments_with_attachments(&values, &attachments);
            event_arguments.ok_or_else(|| {
                EmitterMessageError::Malformed(
                    "its arguments name attachments that it does not contain".to_owned(),
                )
            })
        }
    }
}

fn check(values: &[&RawValue]) -> Result<(), EmitterMessageError> {
    match values.len() > ARGUMENTS_MAX {
        true => Err(EmitterMessageError::Malformed(format!("more than {ARGUMENTS_MAX} arguments"))),
        false => Ok(()),
    }
}
