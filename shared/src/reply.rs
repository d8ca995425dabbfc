//! What one client is answered.

use std::sync::Arc;

use crate::error::ErrorCode;
use crate::id::ClientId;
use crate::position::StreamPosition;
use crate::publication::{ClientInfo, Publication};

/// The answer to the command with the same `id`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub id: u32,
    pub outcome: Result<Answer, ErrorCode>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Connect(Connected),
    Subscribe(Subscribed),
    Unsubscribe,
    Publish,
    History { publications: Vec<Publication>, top: StreamPosition },
    Presence { clients: Vec<ClientInfo> },
    PresenceStats { clients: u32, users: u32 },
    Refresh { client: ClientId, version: &'static str, expires: Option<Expiry> },
    SubRefresh { expires: Option<Expiry> },
}

/// In how many seconds something expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expiry {
    pub seconds: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connected {
    pub client: ClientId,
    pub version: &'static str,
    pub expires: Option<Expiry>,
    /// Seconds between the server's pings; 0 if it sends none in this protocol.
    pub ping_seconds: u32,
    /// Whether each ping must be answered.
    pub pong: bool,
    /// The name of the node that answers, for people and for demos.
    pub node: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subscribed {
    pub expires: Option<Expiry>,
    pub recoverable: bool,
    pub positioned: bool,
    /// Where the client counts on from: what follows are `publications` and then the live ones. So with publications
    /// it lies before the first of them, and an application that stops midway gets the rest later. `None` in a
    /// channel without a stream.
    pub position: Option<StreamPosition>,
    /// What was missed, oldest first.
    pub publications: Vec<Publication>,
    pub recovered: bool,
    pub was_recovering: bool,
}
