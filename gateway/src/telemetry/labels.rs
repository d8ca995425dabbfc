//! Label values that no other part has a type for.

/// A stage on the way of a publication from its publisher to a subscriber. The last one is the way back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// From the publisher's request to the broker.
    Ingress,
    /// Through the broker, to a node with subscribers.
    Broker,
    /// From the node's receipt to the workers.
    Node,
    /// In a worker's inbox.
    Queue,
    /// From the first socket of a worker's subscribers to the last.
    Socket,
    /// From a ping, sent behind the messages for a client, to its pong.
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

/// The result of an attempt to connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handshake {
    Accepted,
    /// The node has reached its limit of connections.
    NodeFull,
    /// The node, or the address, has reached its limit of concurrent handshakes.
    HandshakesFull,
    /// The address has reached its limit of connections.
    AddressFull,
    /// The address connects too often.
    AddressRate,
    /// The user has reached the limit of connections.
    UserFull,
    /// The node is being stopped.
    Draining,
    /// The PROXY header is missing, wrong or late.
    ProxyHeader,
    /// The TLS handshake failed or was late.
    Tls,
    /// The request's head was not HTTP, too long or late.
    Request,
    /// The page's origin may not connect.
    Origin,
    /// The path is no endpoint, or not one for clients.
    Path,
    /// The request was no valid upgrade to WebSocket.
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

/// The source of a publication.
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

/// Why a message was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drop {
    /// A worker's inbox was full.
    InboxFull,
    /// A connection's outbox was full; the connection is closed.
    OutboxFull,
    /// Too many publications came while a subscriber was joining; the subscriber is told.
    HeldBackFull,
    /// Too many joins and leaves waited for the broker.
    AnnouncementsFull,
    /// Too many changes of subscribers waited for the broker, to be published as keys of another channel.
    ShownFull,
    /// Encoding it panicked. Subscribers with a stream position are told.
    Quarantined,
    /// A newest value had waited for longer than it is valid. The next one makes up for it.
    Stale,
}

/// The source of a value of a followed key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PollSource {
    /// A backend that was polled.
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

/// The part that panicked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PanicSite {
    /// The processing of one client, which is closed.
    Client,
    /// A request to the API, or a command that runs outside the workers; it is refused.
    Request,
    /// Handling a delivery of the broker, or a task for that; missing publications are read from history, or the gap is told.
    Delivery,
    /// A worker: all its clients are closed.
    Worker,
    /// The task of a feed, which restarts with its unfinished records.
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

/// The source of a channel's history for a subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HistorySource {
    /// A read for this subscriber.
    Read,
    /// A read for an earlier subscriber.
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

/// The result of reading the configuration again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReloadOutcome {
    Applied,
    /// Nothing has changed.
    Unchanged,
    /// The configuration has a mistake, so nothing was applied.
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
