//! The parameters of methods on clients of Socket.IO.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{RequestText, or_default};

macro_rules! about_sockets {
    ($(#[$doc:meta])* $name:ident { $($(#[$of_field:meta])* $field:ident: $type:ty),* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        pub(in crate::api) struct $name<'a> {
            /// Empty for `/`.
            #[serde(borrow)]
            pub(in crate::api) namespace: RequestText<'a>,
            /// Only clients in these rooms, or with these ids. None for all clients of the namespace.
            #[serde(borrow, deserialize_with = "or_default")]
            pub(in crate::api) rooms: Vec<RequestText<'a>>,
            #[serde(borrow, deserialize_with = "or_default")]
            pub(in crate::api) except: Vec<RequestText<'a>>,
            $($(#[$of_field])* pub(in crate::api) $field: $type,)*
        }
    };
}

about_sockets!(SocketioEmit {
    #[serde(borrow)]
    event: RequestText<'a>,
    #[serde(borrow, deserialize_with = "or_default")]
    args: Vec<&'a RawValue>,
    /// Pointers into `args` to strings that hold bytes in base64.
    #[serde(deserialize_with = "or_default")]
    binary: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    volatile: bool,
    #[serde(borrow)]
    idempotency_key: RequestText<'a>
});

about_sockets!(SocketioAsk {
    #[serde(borrow)]
    event: RequestText<'a>,
    #[serde(borrow, deserialize_with = "or_default")]
    args: Vec<&'a RawValue>,
    /// Pointers into `args` to strings that hold bytes in base64.
    #[serde(deserialize_with = "or_default")]
    binary: Vec<String>,
    /// How long to wait for answers. 0 for the default.
    #[serde(deserialize_with = "or_default")]
    timeout_ms: u64
});

about_sockets!(SocketioJoin {
    #[serde(borrow, deserialize_with = "or_default")]
    join: Vec<RequestText<'a>>
});

about_sockets!(SocketioLeave {
    #[serde(borrow, deserialize_with = "or_default")]
    leave: Vec<RequestText<'a>>
});

about_sockets!(SocketioDisconnect {
    /// Whether to close the connection rather than only leave the namespace.
    #[serde(deserialize_with = "or_default")]
    close: bool
});

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::api) struct SocketioSockets<'a> {
    #[serde(borrow)]
    pub(in crate::api) namespace: RequestText<'a>,
    /// A room or the id of a client. Empty for all clients of the namespace.
    #[serde(borrow)]
    pub(in crate::api) room: RequestText<'a>,
    /// 0 for as many as allowed.
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) limit: u32,
    #[serde(borrow)]
    pub(in crate::api) cursor: RequestText<'a>,
}
