//! What is asked about clients of Socket.IO.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Text, or_default};

macro_rules! about_sockets {
    ($(#[$doc:meta])* $name:ident { $($(#[$of_field:meta])* $field:ident: $type:ty),* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        pub(in crate::api) struct $name<'a> {
            /// Empty: `/`.
            #[serde(borrow)]
            pub(in crate::api) namespace: Text<'a>,
            /// Those in these rooms, or with these ids. None: all in the namespace.
            #[serde(borrow, deserialize_with = "or_default")]
            pub(in crate::api) rooms: Vec<Text<'a>>,
            #[serde(borrow, deserialize_with = "or_default")]
            pub(in crate::api) except: Vec<Text<'a>>,
            $($(#[$of_field])* pub(in crate::api) $field: $type,)*
        }
    };
}

about_sockets!(SocketioEmit {
    #[serde(borrow)]
    event: Text<'a>,
    #[serde(borrow, deserialize_with = "or_default")]
    args: Vec<&'a RawValue>,
    /// Pointers into `args` to texts that hold bytes in base64.
    #[serde(deserialize_with = "or_default")]
    binary: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    volatile: bool,
    #[serde(borrow)]
    idempotency_key: Text<'a>
});

about_sockets!(SocketioAsk {
    #[serde(borrow)]
    event: Text<'a>,
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
    join: Vec<Text<'a>>
});

about_sockets!(SocketioLeave {
    #[serde(borrow, deserialize_with = "or_default")]
    leave: Vec<Text<'a>>
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
    pub(in crate::api) namespace: Text<'a>,
    /// Or the id of a client. Empty: all in the namespace.
    #[serde(borrow)]
    pub(in crate::api) room: Text<'a>,
    /// 0: as many as allowed.
    #[serde(deserialize_with = "or_default")]
    pub(in crate::api) limit: u32,
    #[serde(borrow)]
    pub(in crate::api) cursor: Text<'a>,
}
