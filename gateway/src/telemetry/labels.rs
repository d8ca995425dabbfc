//! The values of labels that stand for no type of another part.

/// A part of a publication's way from its publisher to a subscriber, and the last one back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// From the publisher's request to the broker.
    Ingress,
    /// Through the broker, to a node with subscribers.
    Broker,
    /// From there to the workers.
    Node,
    /// In a worker's inbox.
    Queue,
    /// From the first socket of a worker's subscribers to the last.
    Socket,
    /// From a ping behind what a client was sent to its answer.
    Acknowledgement,
}

impl Stage {
    pub const ALL: [Self; 6] =
        [Self::Ingress, Self::Broker, Self::Node, Self::Queue, Self::Socket, Self::Acknowledgement];

    pub fn label(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Broker => "broker",
            Self::Node => "node",
            Self::Queue => "queue",
            Self::Socket => "socket",
            Self::Acknowledgement => "acknowledgement",
        }
    }
}

/// What came of an attempt to connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handshake {
    Accepted,
    /// The node has as many connections as it takes.
    NodeFull,
    /// The node, or the address, is in as many handshakes as it may.
    HandshakesFull,
    /// The address has as many connections as it may.
    AddressFull,
    /// The address connects too often.
    AddressRate,
    /// The user has as many connections as they may.
    UserFull,
    /// The node is being stopped.
    Draining,
    /// The PROXY header is missing, wrong or late.
    ProxyHeader,
    /// The TLS handshake failed or was late.
    Tls,
    /// The request's head was not HTTP, too long or late.
    Request,
    /// The page may not connect.
    Origin,
    /// The path is no endpoint, or not for clients.
    Path,
    /// The request was no correct upgrade to WebSocket.
    Upgrade,
}

impl Handshake {
    pub const ALL: [Self; 13] = [
        Self::Accepted,
        Self::NodeFull,
        Self::HandshakesFull,
        Self::AddressFull,
        Self::AddressRate,
        Self::UserFull,
        Self::Draining,
        Self::ProxyHeader,
        Self::Tls,
        Self::Request,
        Self::Origin,
        Self::Path,
        Self::Upgrade,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::NodeFull => "node_full",
            Self::HandshakesFull => "handshakes_full",
            Self::AddressFull => "address_full",
            Self::AddressRate => "address_rate",
            Self::UserFull => "user_full",
            Self::Draining => "draining",
            Self::ProxyHeader => "proxy_header",
            Self::Tls => "tls",
            Self::Request => "request",
            Self::Origin => "origin",
            Self::Path => "path",
            Self::Upgrade => "upgrade",
        }
    }
}

/// Where a publication came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PublicationSource {
    Api,
    Client,
    /// Through the broker, from any node.
    Node,
    Feed,
    /// The demo's ticker.
    Demo,
}

impl PublicationSource {
    pub const ALL: [Self; 5] = [Self::Api, Self::Client, Self::Node, Self::Feed, Self::Demo];

    pub fn label(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Client => "client",
            Self::Node => "node",
            Self::Feed => "feed",
            Self::Demo => "demo",
        }
    }
}

/// Why something did not reach someone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drop {
    /// A worker's inbox was full.
    InboxFull,
    /// A connection's outbox was full; the connection is closed.
    OutboxFull,
    /// Too many came while a subscriber was joining; it is told.
    HeldBackFull,
    /// Too many joins and leaves waited for the broker.
    AnnouncementsFull,
    /// Too many changes of who subscribes waited for the broker, to be shown as keys of another channel.
    ShownFull,
    /// Encoding it panicked. Who follows the stream is told.
    Quarantined,
    /// A newest value had waited for longer than it is true. The next one tells of it.
    Stale,
}

/// Who has said something of a key that is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PollSource {
    /// A backend that was asked.
    Round,
    /// The server API.
    Published,
}

impl PollSource {
    pub fn label(self) -> &'static str {
        match self {
            Self::Round => "round",
            Self::Published => "published",
        }
    }
}

/// What panicked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PanicSite {
    /// Serving one client, which is closed.
    Client,
    /// A request to the API, or a command that is carried out beside the workers; it is refused.
    Request,
    /// Taking in what the broker delivers, or a task that sees to that; what is missing is read from history or told.
    Delivery,
    /// A worker itself: all of its clients are closed.
    Worker,
    /// The task of a feed, which begins anew with what it was not done with.
    Feed,
}

impl PanicSite {
    pub const ALL: [Self; 5] = [Self::Client, Self::Request, Self::Delivery, Self::Worker, Self::Feed];

    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Request => "request",
            Self::Delivery => "delivery",
            Self::Worker => "worker",
            Self::Feed => "feed",
        }
    }
}

impl Drop {
    pub const ALL: [Self; 7] = [
        Self::InboxFull,
        Self::OutboxFull,
        Self::HeldBackFull,
        Self::AnnouncementsFull,
        Self::ShownFull,
        Self::Quarantined,
        Self::Stale,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::InboxFull => "inbox_full",
            Self::OutboxFull => "outbox_full",
            Self::HeldBackFull => "held_back_full",
            Self::AnnouncementsFull => "announcements_full",
            Self::ShownFull => "shown_full",
            Self::Quarantined => "quarantined",
            Self::Stale => "stale",
        }
    }
}

/// Where what a subscriber is told of a channel's retained history comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HistorySource {
    /// History was read for it.
    Read,
    /// Somebody else's read told it too.
    EarlierRead,
}

impl HistorySource {
    pub const ALL: [Self; 2] = [Self::Read, Self::EarlierRead];

    pub fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::EarlierRead => "earlier_read",
        }
    }
}

/// What came of reading the configuration again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReloadOutcome {
    Applied,
    /// Nothing in it is another one.
    Unchanged,
    /// It holds a mistake, so nothing of it was applied.
    Refused,
}

impl ReloadOutcome {
    pub const ALL: [Self; 3] = [Self::Applied, Self::Unchanged, Self::Refused];

    pub fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        }
    }
}
