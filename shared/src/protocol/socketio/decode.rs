//! Decodes client messages.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::arguments::{listed, shared};
use super::cursor::{OFFSET_BYTES_MAX, PID_BYTES_MAX, Resume};
use super::packet::{Packet, PacketKind};
use super::routes::{Destination, ForwardRule, RoomName, RoomRule, Route};
use super::sid::{parse_sid, sid};
use super::state::{ConnectionState, PartialPacket, ReplyPurpose, bit};
use super::{Namespace, SocketIoShared, id};
use crate::command::{self, Command, Connect, EnterNamespace, Request, Subscribe};
use crate::error::ErrorCode;
use crate::protocol::{DecodeError, json};
use crate::publication::{Payload, Selection, Tagged, is_too_deep};

/// The most arguments of one event.
pub const ARGUMENTS_MAX: usize = 256;
/// Longest name of an event, in bytes.
pub const EVENT_BYTES_MAX: usize = 200;
/// Longest name of an unknown namespace that is answered with an error, in bytes.
const NAMESPACE_BYTES_MAX: usize = 255;
/// Events that libraries emit locally, which clients may not send.
pub const RESERVED: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// The keys with which a client resumes a session.
const RESUME_KEYS: [&str; 2] = ["pid", "offset"];

/// The object that a client sends as it connects.
#[derive(Deserialize)]
struct Auth<'a>(#[serde(borrow)] BTreeMap<Cow<'a, str>, &'a RawValue>);

type Decoded = Result<(), DecodeError>;

/// Decodes a text message: a packet, whose attachments may still follow.
pub(super) fn text(
    common: &SocketIoShared,
    state: &mut ConnectionState,
    text: &[u8],
    commands: &mut Vec<Command>,
) -> Decoded {
    if text.is_empty() {
        return Err(DecodeError::Empty);
    }
    let text = std::str::from_utf8(text).map_err(|_| DecodeError::Malformed)?;
    if state.arriving().is_some() {
        return Err(DecodeError::Malformed);
    }
    let packet = Packet::parse(text).ok_or(DecodeError::Malformed)?;
    if is_too_deep(packet.data.as_bytes()) {
        return Err(DecodeError::Malformed);
    }
    match packet.kind {
        PacketKind::Connect => connect(common, state, &packet, commands),
        PacketKind::Disconnect => disconnect(common, state, &packet, commands),
        PacketKind::Event | PacketKind::Ack => whole(common, state, &packet, &[], commands),
        PacketKind::BinaryEvent | PacketKind::BinaryAck if packet.attachments == 0 => {
            whole(common, state, &packet, &[], commands)
        }
        PacketKind::BinaryEvent | PacketKind::BinaryAck => {
            if packet.attachments > common.attachments_max || text.len() > common.packet_bytes_max {
                return Err(DecodeError::TooLarge);
            }
            let missing = packet.attachments;
            state.begin(PartialPacket { text: text.into(), attachments: Vec::new(), missing });
            Ok(())
        }
        // Only servers send this packet.
        PacketKind::ConnectError => Err(DecodeError::Malformed),
    }
}

/// Adds an attachment to the incomplete packet, and handles the packet once it is complete.
pub(super) fn attachment(
    common: &SocketIoShared,
    state: &mut ConnectionState,
    bytes: &[u8],
    commands: &mut Vec<Command>,
) -> Decoded {
    let arriving = state.arriving().ok_or(DecodeError::Malformed)?;
    if arriving.bytes() + bytes.len() > common.packet_bytes_max {
        return Err(DecodeError::TooLarge);
    }
    arriving.attachments.push(Bytes::copy_from_slice(bytes));
    arriving.missing -= 1;
    if arriving.missing > 0 {
        return Ok(());
    }
    let Some(PartialPacket { text, attachments, .. }) = state.take_arriving() else { return Ok(()) };
    let packet = Packet::parse(&text).ok_or(DecodeError::Malformed)?;
    whole(common, state, &packet, &attachments, commands)
}

fn connect(
    common: &SocketIoShared,
    state: &mut ConnectionState,
    packet: &Packet<'_>,
    commands: &mut Vec<Command>,
) -> Decoded {
    let auth = packet.data.trim();
    let object: Option<Auth<'_>> = match auth {
        "" => None,
        object if object.starts_with('{') => {
            Some(serde_json::from_str(object).map_err(|_| DecodeError::Malformed)?)
        }
        _ => return Err(DecodeError::Malformed),
    };
    let Some(index) = common.namespaces.find(packet.namespace) else {
        let is_name = packet.namespace.len() <= NAMESPACE_BYTES_MAX
            && !packet.namespace.chars().any(|letter| letter.is_control());
        if !is_name {
            return Err(DecodeError::Malformed);
        }
        let id = state.awaits(ReplyPurpose::Unknown(packet.namespace.into()));
        commands.push(Command { id, request: Request::Refused(ErrorCode::UnknownChannel) });
        return Ok(());
    };
    let Some(namespace) = common.namespaces.get(index).filter(|_| !state.is_in(index)) else {
        return Err(DecodeError::Malformed);
    };
    let token = object.as_ref().and_then(|auth| text_of(auth.0.get(&*common.token_key)?, false));
    let mut data = Cow::Borrowed(auth);
    if let Some(object) = object.as_ref().filter(|_| namespace.keeps_sessions()) {
        if let Some(resume) = resume(object) {
            state.set_resume(index, resume);
        }
        if RESUME_KEYS.iter().any(|key| object.0.contains_key(*key)) {
            // They are secrets between the client and the gateway, and not for the application.
            data = without_resume(object).into();
        }
    }
    state.entering |= bit(index);
    let connect = Connect {
        token: token.unwrap_or_default().into(),
        data: (!data.is_empty()).then(|| Payload::json(Bytes::copy_from_slice(data.as_bytes()))),
        name: "socketio".into(),
        ..Connect::default()
    };
    let enter = EnterNamespace { connect, channel: namespace.channel().into() };
    commands.push(Command { id: id::ENTER | index as u32, request: Request::Enter(Box::new(enter)) });
    Ok(())
}

/// Reads the session that a client resumes. `None` if there is none or it is invalid.
fn resume(object: &Auth<'_>) -> Option<Resume> {
    let [pid, offset] = RESUME_KEYS.map(|key| object.0.get(key).and_then(|value| text_of(value, false)));
    let pid = pid.filter(|pid| pid.len() <= PID_BYTES_MAX)?;
    let offset = match offset {
        // The gateway makes no offset that long, so it counts as a malformed one.
        Some(offset) if offset.len() > OFFSET_BYTES_MAX => Some(Cow::Borrowed("")),
        offset => offset,
    };
    Some(Resume { pid: pid.into(), offset: offset.map(Into::into) })
}

/// Returns the client's object without these keys, or an empty string if nothing is left.
fn without_resume(object: &Auth<'_>) -> String {
    let rest = object.0.iter().filter(|(key, _)| !RESUME_KEYS.contains(&&***key));
    let rest: BTreeMap<&str, &&RawValue> = rest.map(|(key, value)| (&**key, value)).collect();
    if rest.is_empty() { String::new() } else { serde_json::to_string(&rest).unwrap_or_default() }
}

fn disconnect(
    common: &SocketIoShared,
    state: &mut ConnectionState,
    packet: &Packet<'_>,
    commands: &mut Vec<Command>,
) -> Decoded {
    let index = common.namespaces.find(packet.namespace).ok_or(DecodeError::Malformed)?;
    let namespace = common.namespaces.get(index).filter(|_| state.is_in(index));
    state.joined &= !bit(index);
    state.entering &= !bit(index);
    // The server may have ended it at the same time.
    if let Some(namespace) = namespace {
        let channel = namespace.channel().into();
        commands.push(Command { id: id::LEAVE | index as u32, request: Request::Unsubscribe { channel } });
    }
    Ok(())
}

/// Handles an event or an acknowledgement with all of its attachments.
fn whole(
    common: &SocketIoShared,
    state: &mut ConnectionState,
    packet: &Packet<'_>,
    attachments: &[Bytes],
    commands: &mut Vec<Command>,
) -> Decoded {
    let index = common.namespaces.find(packet.namespace).ok_or(DecodeError::Malformed)?;
    let namespace = common.namespaces.get(index).ok_or(DecodeError::Malformed)?;
    if !state.is_in(index) && state.left & bit(index) == 0 {
        return Err(DecodeError::Malformed);
    }
    let values: Vec<&RawValue> = serde_json::from_str(packet.data).map_err(|_| DecodeError::Malformed)?;
    if values.len() > ARGUMENTS_MAX + 1 {
        return Err(DecodeError::TooLarge);
    }
    if matches!(packet.kind, PacketKind::Ack | PacketKind::BinaryAck) {
        let number = packet.ack.ok_or(DecodeError::Malformed)?;
        let arguments = match state.awaits_answer(index, number) {
            true => Some(listed(&values, attachments).map_err(|_| DecodeError::Malformed)?),
            // The acknowledgement is late, or was never requested.
            false => None,
        };
        state.answer(u32::try_from(number).unwrap_or_default(), arguments);
        return Ok(());
    }
    state.events = state.events.saturating_add(1);
    let [name, values @ ..] = &values[..] else { return Err(DecodeError::Malformed) };
    let name = text_of(name, true).ok_or(DecodeError::Malformed)?;
    if RESERVED.contains(&&*name) {
        return Err(DecodeError::Malformed);
    }
    let id = match packet.ack {
        Some(ack) => state.awaits(ReplyPurpose::Ack { namespace: index, ack }),
        None => id::EVENT | index as u32,
    };
    let event = NamespaceEvent { namespace, index, state, name: &name, values, attachments, id };
    let refused = |error| Command { id, request: Request::Refused(error) };
    let before = commands.len();
    match event.requests(commands) {
        Ok(()) => Ok(()),
        Err(EventError::Malformed) => Err(DecodeError::Malformed),
        Err(EventError::Refused(error)) => {
            commands.truncate(before);
            commands.push(refused(error));
            Ok(())
        }
    }
}

/// Why an event is not carried out.
enum EventError {
    Malformed,
    Refused(ErrorCode),
}

/// An event that a client has sent in a namespace.
struct NamespaceEvent<'a> {
    namespace: &'a Namespace,
    index: usize,
    state: &'a ConnectionState,
    name: &'a str,
    values: &'a [&'a RawValue],
    attachments: &'a [Bytes],
    /// The id of the command whose reply acknowledges the event.
    id: u32,
}

impl NamespaceEvent<'_> {
    fn requests(&self, commands: &mut Vec<Command>) -> Result<(), EventError> {
        // If not, the client sent the event before it learned that the server had removed it.
        let is_in = self.state.is_in(self.index);
        if self.name.len() > EVENT_BYTES_MAX {
            return Err(EventError::Refused(ErrorCode::BadRequest));
        }
        let routes = self.namespace.routes.get();
        let route = routes.find(self.name).filter(|_| is_in);
        match route.ok_or(EventError::Refused(ErrorCode::PermissionDenied))? {
            Route::Refuse => return Err(EventError::Refused(ErrorCode::PermissionDenied)),
            Route::Backend => {
                let arguments = listed(self.values, self.attachments).map_err(|_| EventError::Malformed)?;
                let (channel, event) = (self.namespace.channel().into(), self.name.into());
                self.push(
                    commands,
                    Request::Event(Box::new(command::EventCommand { channel, event, arguments })),
                );
            }
            Route::Publish(ForwardRule { to, event, to_sender }) => {
                let mut only = None;
                let (channel, values) = match to {
                    Destination::Namespace => (self.namespace.channel(), self.values.to_vec()),
                    Destination::Room(named) => {
                        let (room, values) = self.room(named)?;
                        (self.namespace.room(&room), values)
                    }
                    Destination::Client(at) => {
                        let (sid, values) = self.room(&RoomName::Argument(*at))?;
                        let client = parse_sid(&sid, self.namespace.name());
                        let clients = vec![client.ok_or(EventError::Refused(ErrorCode::BadRequest))?];
                        only = Some(Box::new(Selection { clients, ..Selection::default() }));
                        (self.namespace.channel(), values)
                    }
                };
                let event = event.as_deref().unwrap_or(self.name);
                let arguments = shared(&values, self.attachments).map_err(|_| EventError::Malformed)?;
                let (channel, event, to_sender) =
                    (channel.into(), event.into(), *to_sender || only.is_some());
                let forward = command::Forward { channel, event, arguments, to_sender, only };
                self.push(commands, Request::Forward(Box::new(forward)));
            }
            Route::Join(entry) => {
                let (channel, announcement) = self.enter(entry)?;
                let subscribe = Subscribe { channel: channel.into(), ..Subscribe::default() };
                self.push(commands, Request::Subscribe(subscribe));
                commands.extend(announcement.map(|request| self.unanswered(request)));
            }
            Route::Leave(entry) => {
                let (channel, announcement) = self.enter(entry)?;
                commands.extend(announcement.map(|request| self.unanswered(request)));
                self.push(commands, Request::Unsubscribe { channel: channel.into() });
            }
        }
        Ok(())
    }

    fn push(&self, commands: &mut Vec<Command>, request: Request) {
        commands.push(Command { id: self.id, request });
    }

    fn unanswered(&self, request: Request) -> Command {
        Command { id: id::EVENT | self.index as u32, request }
    }

    /// Returns the channel of the room to join or leave, and the event that tells the other members.
    fn enter(&self, entry: &RoomRule) -> Result<(String, Option<Request>), EventError> {
        let (room, values) = self.room(&entry.room)?;
        if !entry.admits(&room) {
            return Err(EventError::Refused(ErrorCode::PermissionDenied));
        }
        let channel = self.namespace.room(&room);
        let announcement = entry.tell.as_ref().map(|event| match &values[..] {
            // Without arguments, the event tells the client's id.
            [] => {
                let client = self.state.client.ok_or(EventError::Refused(ErrorCode::NotAvailable))?;
                let mut own = bytes::BytesMut::new();
                json::string(&sid(client, self.namespace.name()), &mut own);
                let arguments = Tagged { data: Payload::json(own.freeze()), tags: Default::default() };
                Ok(forward(channel.clone(), event, arguments))
            }
            values => {
                let arguments = shared(values, self.attachments).map_err(|_| EventError::Malformed)?;
                Ok(forward(channel.clone(), event, arguments))
            }
        });
        let announcement = announcement.transpose()?;
        Ok((channel, announcement))
    }

    /// Returns the room that the event names, and the remaining arguments.
    fn room(&self, named: &RoomName) -> Result<(String, Vec<&RawValue>), EventError> {
        let mut values = self.values.to_vec();
        match named {
            RoomName::Always(room) => Ok((room.to_string(), values)),
            RoomName::Argument(at) if *at < values.len() => {
                let room = text_of(values.remove(*at), true).filter(|room| !room.is_empty());
                Ok((room.ok_or(EventError::Refused(ErrorCode::BadRequest))?.into_owned(), values))
            }
            RoomName::Argument(_) => Err(EventError::Refused(ErrorCode::BadRequest)),
        }
    }
}

/// Makes the event that tells the other clients in a room.
fn forward(channel: String, event: &str, arguments: Tagged) -> Request {
    let (channel, event) = (channel.into(), event.into());
    Request::Forward(Box::new(command::Forward { channel, event, arguments, to_sender: false, only: None }))
}

/// Returns the content of a JSON string or, with `or_number`, a number as it is written.
fn text_of(value: &RawValue, or_number: bool) -> Option<Cow<'_, str>> {
    let json = value.get();
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(json).ok().map(Into::into),
        b'-' | b'0'..=b'9' if or_number => Some(json.into()),
        _ => None,
    }
}
