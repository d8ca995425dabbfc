//! What is asked about clients of Socket.IO.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{RequestText, or_default};

macro_rules! about_sockets {
    ($(#[$doc:meta])* $name:ident { $($(#[$of_field:meta])* $field:ident: $type:ty),* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        pub(in crate::api) struct $name<'a> {
            /// Empty: `/`.
            #[serde(borrow)]
            pub(in crate::api) namespace: RequestText<'a>,
            /// Those in these rooms, or with these ids. None: all in the namespace.
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
    /// Pointers into `args` to texts that hold bytes in base64.
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
    /// Pointers into `args` to texts that hold bytes in base64.
    #[serde(deserialize_with = "or_default")]
    binary: Vec<String>,
    /// How long answers are waited for. 0: as long as usual.
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
    /// The connection, and not the namespace alone.
    #[serde(deserialize_with = "or_default")]
    close: bool
});

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::api) struct SocketioSockets<'a> {
    #[serde(borrow)]
    pub(in crate::api) namespace: RequestText<'a>,
    /// Or the id of a client. Empty: all in the namespace.
    #[serde(borrow)]
    pub(in crate::api) room: RequestText<'a>,
    /// 0: as many as allowed.
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) limit: u32,
    #[serde(borrow)]
    pub(in crate::api) cursor: RequestText<'a>,
}
