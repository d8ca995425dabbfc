//! Whom a command is about, as one node tells another.

use serde::{Deserialize, Serialize};
use shared::id::ClientId;

use super::control::{EXCEPT_MAX, Target};
use super::session_ids::SessionId;

#[derive(Serialize, Deserialize)]
pub(super) struct WireTarget {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    except: Vec<Box<str>>,
}

impl From<Target> for WireTarget {
    fn from(target: Target) -> Self {
        let text = |id: ClientId| id.to_string().into();
        Self {
            user: target.user,
            client: target.client.map(text),
            session: target.session.map(|session| session.reveal().into()),
            except: target.except.into_iter().map(text).collect(),
        }
    }
}

impl WireTarget {
    /// `None` for what no node of any release says.
    pub(super) fn read(self) -> Option<Target> {
        if self.except.len() > EXCEPT_MAX {
            return None;
        }
        let client = |text: Box<str>| ClientId::parse(&text);
        let (one, session) = (self.client.map(client), self.session.map(|name| SessionId::parse(&name)));
        Some(Target {
            user: self.user,
            client: if let Some(one) = one { Some(one?) } else { None },
            session: if let Some(session) = session { Some(session?) } else { None },
            except: self.except.into_iter().map(client).collect::<Option<_>>()?,
        })
    }
}
