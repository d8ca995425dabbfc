//! The hook of Socket.IO: clients' events and joins of namespaces. The answer lists actions for the gateway.

use gateway_core::effect::{Denial, Emitted, EventActions, ServerSubscription};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::id::ClientId;
use shared::protocol::socketio::{
    ARGUMENTS_MAX, BINARY_TAG, Namespace, arguments_of_server, binary_fault, listed_by_server, sid,
};
use shared::publication::{Payload, Publication, Tagged};

use super::hook::{ClientOrigin, Hook};
use super::hook_request::{HookRequest, HookSubject, RequestStyle};
use super::hook_response::InvalidResult;
use crate::socketio::addressed::{self, AddressedEvent, PARTS_MAX};

/// A client's action.
#[derive(Clone, Copy, Debug)]
pub enum SocketIoEvent<'a> {
    /// The client wants to join the namespace, with this `auth`. `recovered`: it comes back to a session that it had.
    Connect { auth: Option<&'a Payload>, recovered: bool },
    /// The client has sent an event, with a JSON array of arguments, and is in these rooms.
    Event { event: &'a str, arguments: &'a Tagged, rooms: &'a [String] },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EventResult {
    ack: Option<Vec<Box<RawValue>>>,
    ack_binary: Option<Vec<String>>,
    join: Option<Vec<String>>,
    leave: Option<Vec<String>>,
    emit: Option<Vec<WireEmit>>,
    disconnect: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireEmit {
    event: String,
    args: Option<Vec<Box<RawValue>>>,
    binary: Option<Vec<String>>,
    to: Option<String>,
    rooms: Option<Vec<String>>,
    except: Option<Vec<String>>,
    volatile: bool,
}

/// Asks what to do about an event.
pub(super) async fn ask(
    hook: &Hook,
    origin: &ClientOrigin,
    asker: &HookSubject<'_>,
    style: RequestStyle,
    namespace: &Namespace,
    happened: SocketIoEvent<'_>,
) -> Result<EventActions, Denial> {
    let own = sid(asker.client, namespace.name());
    let mut request =
        HookRequest { namespace: namespace.name(), sid: &own, ..HookRequest::new(asker, None, style) };
    match happened {
        SocketIoEvent::Connect { auth, recovered } => {
            request.kind = "connect";
            request.recovered = recovered;
            request.data = auth.and_then(|auth| serde_json::from_slice(&auth.bytes).ok());
        }
        SocketIoEvent::Event { event, arguments, rooms } => {
            request.kind = "event";
            request.event = event;
            request.args = serde_json::from_slice(&arguments.data.bytes).ok();
            request.binary = arguments.tags.get(BINARY_TAG).and_then(|list| serde_json::from_str(list).ok());
            request.rooms = rooms.iter().map(|room| &**room).collect();
        }
    }
    let mean = |result: Option<EventResult>| result.unwrap_or_default().into_handled(namespace, asker.client);
    hook.ask(origin, &request, mean).await
}

impl EventResult {
    pub(super) fn into_handled(
        self,
        namespace: &Namespace,
        client: ClientId,
    ) -> Result<EventActions, InvalidResult> {
        let ack = match self.ack {
            None => None,
            Some(args) => {
                check_args(&args)?;
                let (args, binary) = (refs(&args), self.ack_binary.unwrap_or_default());
                if let Some(fault) = binary_fault(&args, &binary) {
                    return Err(format!("ack: {fault}"));
                }
                let arguments = listed_by_server(&args, &binary);
                Some(Box::new(arguments))
            }
        };
        let rooms = |names: Option<Vec<String>>| addressed::rooms(namespace, &names.unwrap_or_default());
        let join = rooms(self.join)?.into_iter().map(|channel| ServerSubscription {
            channel: channel.as_str().into(),
            ..ServerSubscription::default()
        });
        let emit = self.emit.unwrap_or_default();
        if emit.len() > PARTS_MAX {
            return Err(format!("emit: there are more than {PARTS_MAX} events"));
        }
        let emit = emit.into_iter().map(|emit| emit.into_emitted(namespace, client));
        Ok(EventActions {
            leave: rooms(self.leave)?,
            join: join.collect(),
            emit: emit.collect::<Result<_, _>>()?,
            acknowledge: ack,
            end: self.disconnect,
        })
    }
}

impl WireEmit {
    fn into_emitted(self, namespace: &Namespace, client: ClientId) -> Result<Emitted, InvalidResult> {
        let Self { event, args, binary, to, rooms, except, volatile } = self;
        let args = args.unwrap_or_default();
        check_args(&args)?;
        let (args, binary) = (refs(&args), binary.unwrap_or_default());
        if let Some(fault) = binary_fault(&args, &binary) {
            return Err(format!("emit: {fault}"));
        }
        let arguments = arguments_of_server(&args, &binary);
        let (rooms, except) = (rooms.unwrap_or_default(), except.unwrap_or_default());
        let addressed = AddressedEvent { event: &event, arguments, rooms: &rooms, except: &except, volatile };
        let malformed = |fault| format!("emit: {fault}");
        let to_sender = match to.as_deref() {
            None | Some("all") => true,
            Some("others") => false,
            Some("sender") => {
                if !rooms.is_empty() || !except.is_empty() {
                    return Err("emit: an event to the sender must not have rooms or except".to_owned());
                }
                let addressed = AddressedEvent { volatile: false, ..addressed };
                let (channel, publication) = addressed.publication(namespace).map_err(malformed)?;
                return Ok(Emitted::Own { channel, publication: Box::new(publication) });
            }
            Some(other) => return Err(format!("emit: to is \"{other}\", must be all, others or sender")),
        };
        let (channel, publication) = addressed.publication(namespace).map_err(malformed)?;
        let excluded = (!to_sender).then(|| Box::new(client));
        let publication = Publication { except: excluded, ..publication };
        Ok(Emitted::Published { channel, publication: Box::new(publication) })
    }
}

fn check_args(args: &[Box<RawValue>]) -> Result<(), InvalidResult> {
    match args.len() > ARGUMENTS_MAX {
        true => Err(format!("there are more than {ARGUMENTS_MAX} arguments")),
        false => Ok(()),
    }
}

fn refs(args: &[Box<RawValue>]) -> Vec<&RawValue> {
    args.iter().map(|arg| &**arg).collect()
}

/// Describes an answer, or what is wrong with it: for [`crate::readers`].
pub(super) fn describe(result: EventResult) -> Result<EventActions, InvalidResult> {
    let mut namespaces = shared::protocol::socketio::Namespaces::new(":");
    namespaces.add("/", "socketio", Default::default(), Default::default());
    let namespace = namespaces.named("/").ok_or("there is none")?;
    result.into_handled(namespace, ClientId::from_random(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<EventActions, InvalidResult> {
        describe(serde_json::from_str(json).unwrap())
    }

    fn emitted(json: &str) -> (String, Publication) {
        match read(&format!("{{\"emit\":[{json}]}}")).unwrap().emit.remove(0) {
            Emitted::Own { channel, publication } => (format!("own {channel}"), *publication),
            Emitted::Published { channel, publication } => (channel.to_string(), *publication),
        }
    }

    #[test]
    fn an_answer_without_anything_does_nothing() {
        assert_eq!(read("{}"), Ok(EventActions::default()));
        assert_eq!(read(r#"{"ack":null,"emit":null,"unknown":1}"#), Ok(EventActions::default()));
    }

    #[test]
    fn an_answer_says_what_is_to_be_done() {
        let handled =
            read(r#"{"ack":[1,"AQI="],"ack_binary":["/1"],"join":["a b"],"leave":["c"],"disconnect":true}"#);
        let handled = handled.unwrap();
        let ack = handled.acknowledge.unwrap();
        assert_eq!(ack.data, Payload::json(r#"[1,"AQI="]"#));
        assert_eq!((&*ack.tags["args"], &*ack.tags["binary"]), ("2", r#"["/1"]"#));
        assert_eq!(&*handled.join[0].channel, "socketio:a%20b");
        assert_eq!((handled.leave[0].as_str(), handled.end), ("socketio:c", true));
    }

    #[test]
    fn an_event_goes_to_all_to_a_room_to_several_or_to_its_sender() {
        let own = ClientId::from_random(1);
        let (channel, publication) = emitted(r#"{"event":"e","args":[{"a":1}]}"#);
        assert_eq!((&*channel, publication.event(), &publication.only), ("socketio:*", Some("e"), &None));
        assert_eq!((publication.data, publication.except), (Payload::json(r#"{"a":1}"#), None));
        assert_eq!(emitted(r#"{"event":"e","to":"sender"}"#).0, "own socketio:*");
        let (channel, publication) = emitted(r#"{"event":"e","rooms":["a"],"to":"others"}"#);
        assert_eq!((&*channel, publication.only), ("socketio:a", None));
        assert_eq!(publication.except.as_deref(), Some(&own));
        let (channel, publication) = emitted(r#"{"event":"e","rooms":["a","b"],"except":["c"]}"#);
        let only = publication.only.unwrap();
        assert_eq!((&*channel, only.channels.len(), only.except_channels.len()), ("socketio:*", 2, 1));
        let (channel, publication) = emitted(&format!(r#"{{"event":"e","rooms":["{}"]}}"#, sid(own, "/")));
        assert_eq!((&*channel, publication.only.unwrap().clients), ("socketio:*", vec![own]));
        let (_, publication) = emitted(r#"{"event":"e","args":["AQI="],"binary":["/0"],"volatile":true}"#);
        assert_eq!(publication.data, Payload::binary(&[1, 2][..]));
        assert!(publication.only.unwrap().volatile);
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for wrong in [
            r#"{"emit":[{}]}"#,
            r#"{"emit":[{"event":"connect"}]}"#,
            r#"{"emit":[{"event":"e","to":"nobody"}]}"#,
            r#"{"emit":[{"event":"e","to":"sender","rooms":["a"]}]}"#,
            r#"{"join":[""]}"#,
            r#"{"ack":["no base64!"],"ack_binary":["/0"]}"#,
            r#"{"emit":[{"event":"e","args":["AQI="],"binary":["/1"]}]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read(&format!(r#"{{"join":["{}"]}}"#, "x".repeat(300))).is_err());
    }
}
