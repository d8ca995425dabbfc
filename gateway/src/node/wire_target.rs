//! The encoding of a command's target between nodes.

use serde::{Deserialize, Serialize};
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::id::ClientId;
use shared::publication::Selection;

use super::control::{Among, ControlTarget, EXCEPT_MAX};
use super::session_ids::SessionId;
use crate::sessions::Holder;

#[derive(Serialize, Deserialize)]
pub(super) struct WireTarget {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<Box<str>>,
    /// Nodes of an earlier release ignore this field, and apply the command to any connection of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    except: Vec<Box<str>>,
}

impl From<ControlTarget> for WireTarget {
    fn from(target: ControlTarget) -> Self {
        let text = |id: ClientId| id.to_string().into();
        Self {
            user: target.user,
            client: target.client.map(text),
            session: target.session.map(|session| session.reveal().into()),
            holder: target.holder.map(|holder| holder.0),
            except: target.except.into_iter().map(text).collect(),
        }
    }
}

impl WireTarget {
    /// Returns `None` for a target that no release sends.
    pub(super) fn read(self) -> Option<ControlTarget> {
        if self.except.len() > EXCEPT_MAX {
            return None;
        }
        let client = |text: Box<str>| ClientId::parse(&text);
        let (one, session) = (self.client.map(client), self.session.map(|name| SessionId::parse(&name)));
        Some(ControlTarget {
            user: self.user,
            client: if let Some(one) = one { Some(one?) } else { None },
            session: if let Some(session) = session { Some(session?) } else { None },
            holder: self.holder.map(Holder),
            except: self.except.into_iter().map(client).collect::<Option<_>>()?,
            among: None,
        })
    }
}

/// The selected subscribers of a channel. Encoded apart from the target, so that nodes of an earlier release do not apply
/// the command to all clients.
#[derive(Serialize, Deserialize)]
pub(super) struct WireAmong {
    channel: Box<str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    channels: Vec<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    clients: Vec<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    except_channels: Vec<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    except_clients: Vec<Box<str>>,
}

impl From<Among> for WireAmong {
    fn from(Among { channel, only }: Among) -> Self {
        let names = |channels: Vec<Channel>| channels.iter().map(|one| one.as_str().into()).collect();
        let ids = |clients: Vec<ClientId>| clients.iter().map(|one| one.to_string().into()).collect();
        Self {
            channel: channel.as_str().into(),
            channels: names(only.channels),
            clients: ids(only.clients),
            except_channels: names(only.except_channels),
            except_clients: ids(only.except_clients),
        }
    }
}

impl WireAmong {
    /// Returns `None` for a selection that no release sends.
    pub(super) fn read(self) -> Option<Among> {
        let Self { channel, channels, clients, except_channels, except_clients } = self;
        let parts = [&channels, &clients, &except_channels, &except_clients].map(Vec::len);
        if parts.iter().sum::<usize>() > EXCEPT_MAX {
            return None;
        }
        let named = |name: &str| Channel::parse_unicode(name, CHANNEL_BYTES_MAX).ok();
        let names = |list: Vec<Box<str>>| list.iter().map(|name| named(name)).collect::<Option<Vec<_>>>();
        let ids = |list: Vec<Box<str>>| list.iter().map(|id| ClientId::parse(id)).collect::<Option<Vec<_>>>();
        let only = Selection {
            channels: names(channels)?,
            clients: ids(clients)?,
            except_channels: names(except_channels)?,
            except_clients: ids(except_clients)?,
            volatile: false,
        };
        Some(Among { channel: named(&channel)?, only })
    }
}
