//! The control messages that nodes exchange beside publications: commands to all nodes, and each node's description of
//! itself.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shared::channel::{CHANNEL_BYTES_MAX, Channel, InvalidChannel};
use shared::disconnect::Disconnect;
use shared::id::ClientId;
use shared::publication::Selection;

use super::session_ids::SessionId;
use crate::sessions::Holder;

/// The longest control message that is written or read, in bytes.
pub const CONTROL_BYTES_MAX: usize = 128 * 1024;

/// The most clients that one command can except.
pub const EXCEPT_MAX: usize = 1_000;

/// Raised whenever an older node would misread a message. Nodes ignore versions they do not know.
const VERSION: u32 = 1;

/// A command that every node applies to the selected clients connected to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlCommand {
    /// Close their connections.
    Disconnect { target: ControlTarget, disconnect: Disconnect },
    /// End their subscription to a channel.
    Unsubscribe { target: ControlTarget, channel: Channel },
    /// Close the user's connections except this client's, and except those of clients that have sent the same command for
    /// themselves and whose command comes later in the broker's order.
    CloseOthers { user: Box<str>, client: ClientId },
    /// Compare the channel's position at the broker with what was handed out on this node: the channel was cleared.
    Compare { channel: Channel },
    /// Note that a node leaves in an orderly way. `node` is the id of its run.
    Retired { node: Box<str> },
}

/// Selects the clients a command applies to. A client has to match every field that is given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ControlTarget {
    /// Clients of this user. An empty name selects anonymous users.
    pub user: Option<Box<str>>,
    /// This client only.
    pub client: Option<ClientId>,
    /// Only the client with this session id. Control messages cannot carry it.
    pub session: Option<SessionId>,
    /// Only the connection that holds sessions under this number. Control messages cannot carry it.
    pub holder: Option<Holder>,
    /// Not these clients.
    pub except: Vec<ClientId>,
    /// Only the subscribers of a channel. Control messages cannot carry it.
    pub among: Option<Box<Among>>,
}

/// The selected subscribers of a channel, whether or not they receive its publications.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Among {
    pub channel: Channel,
    pub only: Selection,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("a control message has {0} bytes; the longest allowed has {CONTROL_BYTES_MAX}")]
    TooLong(usize),
    #[error(
        "a control message has version {0}, and this node supports {VERSION}: nodes of different releases run together"
    )]
    UnknownVersion(u32),
    #[error("a control message cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("a control message names an invalid channel: {0}")]
    Channel(#[from] InvalidChannel),
    #[error("a control message names a client by an invalid id: {0:?}")]
    Client(Box<str>),
    #[error("a control message closes with code {0}, which no application may use")]
    Code(u16),
    #[error("a control message excepts more than {EXCEPT_MAX} clients")]
    TooManyExcepted,
    #[error("a control message to keep one connection of a user names no user or no connection")]
    KeepsNobody,
}

impl ControlCommand {
    /// Encodes the message to all nodes.
    pub fn encode(&self) -> Result<Bytes, ControlError> {
        let close = |disconnect: &Disconnect, keeps_only| WireAction::Disconnect {
            code: disconnect.code,
            reason: disconnect.reason.as_ref().into(),
            keeps_only,
        };
        let target;
        let everyone = ControlTarget::default();
        let (target, action) = match self {
            Self::Disconnect { target, disconnect } => (target, close(disconnect, false)),
            Self::Unsubscribe { target, channel } => {
                (target, WireAction::Unsubscribe { channel: channel.as_str().into() })
            }
            Self::CloseOthers { user, client } => {
                target = ControlTarget {
                    user: Some(user.clone()),
                    except: vec![*client],
                    ..ControlTarget::default()
                };
                (&target, close(&Disconnect::CONNECTION_LIMIT, true))
            }
            Self::Compare { channel } => {
                (&everyone, WireAction::Compare { channel: channel.as_str().into() })
            }
            Self::Retired { node } => (&everyone, WireAction::Retired { node: node.clone() }),
        };
        if target.except.len() > EXCEPT_MAX {
            return Err(ControlError::TooManyExcepted);
        }
        let wire = WireCommand {
            user: target.user.clone(),
            client: target.client.map(|client| client.to_string().into()),
            except: target.except.iter().map(|client| client.to_string().into()).collect(),
            action,
        };
        let message = serde_json::to_vec(&(VERSION, wire))?;
        if message.len() > CONTROL_BYTES_MAX {
            return Err(ControlError::TooLong(message.len()));
        }
        Ok(message.into())
    }

    /// Decodes a message of any node, of this release or of another.
    pub fn decode(message: &[u8]) -> Result<Self, ControlError> {
        if message.len() > CONTROL_BYTES_MAX {
            return Err(ControlError::TooLong(message.len()));
        }
        // The version first: what follows it may have any shape.
        let (version, wire): (u32, &serde_json::value::RawValue) = serde_json::from_slice(message)?;
        if version != VERSION {
            return Err(ControlError::UnknownVersion(version));
        }
        let wire: WireCommand = serde_json::from_str(wire.get())?;
        if wire.except.len() > EXCEPT_MAX {
            return Err(ControlError::TooManyExcepted);
        }
        let client = |text: Box<str>| ClientId::parse(&text).ok_or(ControlError::Client(text));
        let target = ControlTarget {
            user: wire.user,
            client: wire.client.map(client).transpose()?,
            except: wire.except.into_iter().map(client).collect::<Result<_, _>>()?,
            session: None,
            holder: None,
            among: None,
        };
        Ok(match wire.action {
            WireAction::Disconnect { keeps_only: true, .. } => match (target.user, &target.except[..]) {
                (Some(user), [client]) => Self::CloseOthers { user, client: *client },
                _ => return Err(ControlError::KeepsNobody),
            },
            WireAction::Disconnect { code, reason, .. } => {
                let disconnect = Disconnect::custom(code, &reason).ok_or(ControlError::Code(code))?;
                Self::Disconnect { target, disconnect }
            }
            WireAction::Unsubscribe { channel } => {
                Self::Unsubscribe { target, channel: Channel::parse_unicode(&channel, CHANNEL_BYTES_MAX)? }
            }
            WireAction::Compare { channel } => {
                Self::Compare { channel: Channel::parse_unicode(&channel, CHANNEL_BYTES_MAX)? }
            }
            WireAction::Retired { node } => Self::Retired { node },
        })
    }
}

/// A node's description of itself, for other nodes and for the server API.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeInfo {
    /// Unique for each run of a node.
    pub uid: Box<str>,
    /// The configured name.
    pub name: Box<str>,
    pub version: Box<str>,
    pub num_clients: u32,
    /// Users with at least one connection on the node.
    pub num_users: u32,
    pub num_subs: u32,
    /// Channels with at least one subscriber on the node.
    pub num_channels: u32,
    /// Seconds since the node started.
    pub uptime: u64,
    /// The version of questions that the node answers: see [`super::node_message`]. 0 means none.
    pub questions: u32,
    /// The host and port at which the node accepts WebSockets that other nodes carry to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub takes_in_at: Option<Box<str>>,
    /// How the node places channels: see [`crate::broker::Broker::layout`].
    #[serde(skip_serializing_if = "str::is_empty")]
    pub layout: Box<str>,
    /// Names of the broker's parts that the node cannot use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<Box<str>>,
    /// Whether the node is being stopped and accepts no clients.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// How many more clients the node accepts. Absent in announcements of earlier releases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<u32>,
    /// How many connections the node accepts per second. 0 means any number.
    pub accepts_per_s: u32,
    /// Whether the node understands a [`shared::stamp`].
    pub stamps: bool,
}

impl NodeInfo {
    pub fn encode(&self) -> Result<Bytes, ControlError> {
        Ok(serde_json::to_vec(self)?.into())
    }

    /// Decodes a description. Fields of later releases are ignored.
    pub fn decode(description: &[u8]) -> Result<Self, ControlError> {
        if description.len() > CONTROL_BYTES_MAX {
            return Err(ControlError::TooLong(description.len()));
        }
        Ok(serde_json::from_slice(description)?)
    }
}

/// The wire's own types, so that a rename above cannot change what other releases read.
#[derive(Serialize, Deserialize)]
struct WireCommand {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    except: Vec<Box<str>>,
    action: WireAction,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireAction {
    Disconnect {
        code: u16,
        reason: Box<str>,
        /// Nodes of an earlier release ignore this field, and also close clients whose command comes later.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keeps_only: bool,
    },
    Unsubscribe {
        channel: Box<str>,
    },
    Compare {
        channel: Box<str>,
    },
    Retired {
        node: Box<str>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(bits: u128) -> ClientId {
        ClientId::from_random(bits)
    }

    #[test]
    fn every_command_reads_back_as_it_was_sent() {
        let target = ControlTarget {
            user: Some("alice".into()),
            client: Some(client(1)),
            session: None,
            holder: None,
            except: vec![client(2), client(3)],
            among: None,
        };
        let channel = Channel::parse("prices:AAPL", 255).unwrap();
        for command in [
            ControlCommand::Disconnect { target: target.clone(), disconnect: Disconnect::FORCE_DISCONNECT },
            ControlCommand::Disconnect {
                target: ControlTarget { user: Some("".into()), ..ControlTarget::default() },
                disconnect: Disconnect::custom(4500, "banned \"for good\"").unwrap(),
            },
            ControlCommand::Unsubscribe { target, channel: channel.clone() },
            ControlCommand::CloseOthers { user: "alice".into(), client: client(1) },
            ControlCommand::Compare { channel },
            ControlCommand::Retired { node: "0b1c".into() },
        ] {
            assert_eq!(ControlCommand::decode(&command.encode().unwrap()).unwrap(), command);
        }
    }

    #[test]
    fn the_wire_stays_what_other_nodes_of_this_version_read() {
        let command = ControlCommand::Unsubscribe {
            target: ControlTarget { user: Some("bob".into()), ..ControlTarget::default() },
            channel: Channel::parse("news", 255).unwrap(),
        };
        let wire = br#"[1,{"user":"bob","action":{"unsubscribe":{"channel":"news"}}}]"#;
        assert_eq!(&command.encode().unwrap()[..], wire);
        let command = ControlCommand::CloseOthers { user: "bob".into(), client: client(1) };
        let wire = format!(
            r#"[1,{{"user":"bob","except":["{}"],"action":{{"disconnect":{{"code":3504,{},"keeps_only":true}}}}}}]"#,
            client(1),
            r#""reason":"connection limit""#
        );
        assert_eq!(command.encode().unwrap(), wire);
    }

    #[test]
    fn a_message_of_a_later_version_is_told_apart_from_a_broken_one() {
        let later = ControlCommand::decode(br#"[2,["anything"]]"#);
        assert!(matches!(later, Err(ControlError::UnknownVersion(2))), "{later:?}");
        for broken in ["", "{}", "[1]", "[1,{}]", "[1,{\"action\":{\"explode\":{}}}]", "\u{0}"] {
            let error = ControlCommand::decode(broken.as_bytes());
            assert!(matches!(error, Err(ControlError::Malformed(_))), "{broken:?}: {error:?}");
        }
    }

    #[test]
    fn values_that_no_node_would_send_are_refused() {
        let cases = [
            r#"[1,{"client":"x","action":{"disconnect":{"code":3503,"reason":""}}}]"#,
            r#"[1,{"user":"x","action":{"disconnect":{"code":1000,"reason":""}}}]"#,
            r#"[1,{"user":"x","action":{"unsubscribe":{"channel":"a\nb"}}}]"#,
            r#"[1,{"user":"x","action":{"disconnect":{"code":3504,"reason":"","keeps_only":true}}}]"#,
        ];
        for case in cases {
            assert!(ControlCommand::decode(case.as_bytes()).is_err(), "{case}");
        }
    }

    #[test]
    fn no_command_grows_past_its_bound() {
        let target = ControlTarget {
            except: (0..=EXCEPT_MAX as u128).map(client).collect(),
            ..ControlTarget::default()
        };
        let command = ControlCommand::Disconnect { target, disconnect: Disconnect::FORCE_DISCONNECT };
        assert!(matches!(command.encode(), Err(ControlError::TooManyExcepted)));

        let target =
            ControlTarget { user: Some("u".repeat(CONTROL_BYTES_MAX).into()), ..ControlTarget::default() };
        let command = ControlCommand::Disconnect { target, disconnect: Disconnect::FORCE_DISCONNECT };
        assert!(matches!(command.encode(), Err(ControlError::TooLong(_))));
        assert!(matches!(
            ControlCommand::decode(&vec![b' '; CONTROL_BYTES_MAX + 1]),
            Err(ControlError::TooLong(_))
        ));
    }

    #[test]
    fn a_description_of_a_later_release_can_be_read() {
        let info = NodeInfo { uid: "a".into(), num_clients: 7, ..NodeInfo::default() };
        assert_eq!(NodeInfo::decode(&info.encode().unwrap()).unwrap(), info);
        let later = NodeInfo::decode(br#"{"uid":"a","num_clients":7,"colour":"red"}"#).unwrap();
        assert_eq!(later, info);
    }

    #[test]
    fn a_node_of_an_earlier_release_knows_no_stamps() {
        assert!(!NodeInfo::decode(br#"{"uid":"a","num_clients":7,"questions":3}"#).unwrap().stamps);
    }
}
