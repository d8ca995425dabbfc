//! Parses the messages of `@socket.io/redis-emitter` and similar libraries, and of servers with the Redis adapter:
//! `[uid, packet, options]` in MessagePack, or in JSON.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use shared::publication::JSON_DEPTH_MAX;

use super::emitter_message::{EmitterCommand, EmitterMessageError, EmitterTarget};
use super::event_arguments::{EventArguments, ListOfArguments, ObjectKey};
use crate::socketio::addressed::PARTS_MAX;

/// The types of an event, and of an event with binary data by libraries before version 5 of the protocol.
const EVENTS: [u64; 2] = [2, 5];

/// Parses a message that was published for this namespace.
pub(super) fn read(message: &[u8], namespace: &str) -> Result<EmitterCommand, EmitterMessageError> {
    let malformed = |error: String| EmitterMessageError::Malformed(error);
    let packet = match message.first() {
        Some(b'[') => {
            let mut json = serde_json::Deserializer::from_slice(message);
            let packet = (&mut json).deserialize_any(Triple).map_err(|error| malformed(error.to_string()))?;
            json.end().map_err(|error| malformed(error.to_string()))?;
            packet
        }
        _ => {
            let mut packed = rmp_serde::Deserializer::from_read_ref(message);
            // The list, the packet and its data enclose the arguments.
            packed.set_max_depth(JSON_DEPTH_MAX + 8);
            packed.deserialize_any(Triple).map_err(|error| malformed(error.to_string()))?
        }
    };
    let Packet { kind, namespace: own, data, options } = packet;
    if kind.is_none_or(|kind| !EVENTS.contains(&kind)) {
        return Err(EmitterMessageError::Unsupported("a packet that is not an event"));
    }
    if own.as_deref().unwrap_or("/") != namespace {
        return Err(malformed("it is for another namespace than its channel".to_owned()));
    }
    let arguments = data.ok_or_else(|| malformed("it contains no event".to_owned()))?;
    let (event, arguments) = arguments.into_arguments().map_err(malformed)?;
    let BroadcastOptions { rooms, except, volatile } = options;
    Ok(EmitterCommand::Emit { event, arguments, of: EmitterTarget { rooms, except }, volatile })
}

#[derive(Debug, Default)]
struct Packet {
    kind: Option<u64>,
    namespace: Option<String>,
    data: Option<EventArguments>,
    options: BroadcastOptions,
}

#[derive(Debug, Default)]
struct BroadcastOptions {
    rooms: Vec<String>,
    except: Vec<String>,
    volatile: bool,
}

/// Reads the three parts of a message.
struct Triple;

impl<'de> Visitor<'de> for Triple {
    type Value = Packet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of a name, a packet and options")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Packet, A::Error> {
        let broken = || A::Error::custom("a part is missing");
        parts.next_element::<IgnoredAny>()?.ok_or_else(broken)?;
        let mut packet = parts.next_element_seed(ByNameSeed(PhantomData::<Packet>))?.ok_or_else(broken)?;
        if let Some(options) = parts.next_element_seed(ByNameSeed(PhantomData::<BroadcastOptions>))? {
            packet.options = options;
        }
        while parts.next_element::<IgnoredAny>()?.is_some() {}
        Ok(packet)
    }
}

/// A struct that is read field by field, in the order of the names in the input.
trait ByName: Default {
    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;
}

struct ByNameSeed<T>(PhantomData<T>);

impl<'de, T: ByName> DeserializeSeed<'de> for ByNameSeed<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: ByName> Visitor<'de> for ByNameSeed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut read = T::default();
        while let Some(name) = map.next_key_seed(ObjectKey)? {
            read.take(&name, &mut map)?;
        }
        Ok(read)
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    /// Some emitters send an empty text in place of an empty object.
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        if text.is_empty() { Ok(T::default()) } else { Err(E::custom("a text in place of an object")) }
    }
}

impl ByName for Packet {
    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "type" => self.kind = Some(map.next_value()?),
            "nsp" => self.namespace = map.next_value()?,
            "data" => self.data = Some(map.next_value_seed(ListOfArguments)?),
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl ByName for BroadcastOptions {
    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "rooms" => self.rooms = map.next_value::<RoomNames>()?.or_none(),
            "except" => self.except = map.next_value::<RoomNames>()?.or_none(),
            "flags" => self.volatile = map.next_value_seed(ByNameSeed(PhantomData::<PacketFlags>))?.0,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

#[derive(Default)]
struct PacketFlags(bool);

impl ByName for PacketFlags {
    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "volatile" => self.0 = map.next_value::<Option<bool>>()?.unwrap_or_default(),
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

/// Names of rooms: a list, a single name, or nothing. Numbers are names, too.
#[derive(Debug, Default)]
pub(super) struct RoomNames(pub(super) Vec<String>);

impl RoomNames {
    /// Returns no names where the only one is an empty text.
    fn or_none(self) -> Vec<String> {
        if self.0 == [""] { Vec::new() } else { self.0 }
    }
}

impl<'de> Deserialize<'de> for RoomNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = RoomNames;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names of rooms")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RoomNames, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = list.next_element_seed(ObjectKey)? {
            names.push(name);
            if names.len() > PARTS_MAX {
                return Err(A::Error::custom(format!("more than {PARTS_MAX} rooms")));
            }
        }
        Ok(RoomNames(names))
    }

    fn visit_unit<E>(self) -> Result<RoomNames, E> {
        Ok(RoomNames::default())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RoomNames, E> {
        ObjectKey.visit_str(text).map(|name| RoomNames(vec![name]))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<RoomNames, E> {
        ObjectKey.visit_u64(value).map(|name| RoomNames(vec![name]))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<RoomNames, E> {
        ObjectKey.visit_i64(value).map(|name| RoomNames(vec![name]))
    }
}
