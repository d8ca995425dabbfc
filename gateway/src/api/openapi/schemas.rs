//! Parameters and results of each method, as JSON Schema.

use serde_json::{Map, Value, json};

use super::{inspect_schemas, object, reference, socketio_schemas};
use crate::api::api_request::Method;

pub(super) fn summary(method: Method) -> &'static str {
    match method {
        Method::Publish => "Publishes to a channel.",
        Method::Broadcast => "Publishes the same data to several channels.",
        Method::History => "Reads the history of a channel.",
        Method::HistoryRemove => "Removes the history of a channel. Offsets continue.",
        Method::Presence => "Lists the clients that are subscribed to a channel.",
        Method::PresenceStats => "Counts the clients and users that are subscribed to a channel.",
        Method::Channels => "Lists the channels that have subscribers, by name.",
        Method::Connections => "Lists the clients that are connected.",
        Method::Inspect => "Reports all details of a connected client.",
        Method::Closes => "Lists recently closed clients and the reasons.",
        Method::Explain => "Explains why a client did or did not receive a publication.",
        Method::Info => "Lists all nodes.",
        Method::Shed => {
            "Makes nodes close their clients above the mean, which then reconnect to other nodes."
        }
        Method::Disconnect => "Closes the connections of a user or a client.",
        Method::Unsubscribe => "Ends the subscriptions of a user or a client to a channel.",
        Method::Subscribe => "Subscribes the clients of a user, or one client, to a channel.",
        Method::Refresh => "Changes when the connections of a user or a client expire.",
        Method::MapPublish => "Sets a key of a channel that keeps state by key.",
        Method::MapRemove => "Removes a key of a channel that keeps state by key.",
        Method::MapReadState => "Reads the keys of a channel, page by page.",
        Method::MapReadStream => "Reads the stored changes of a channel that keeps state by key.",
        Method::MapStats => "Counts the keys of a channel.",
        Method::MapClear => "Removes all keys and changes of a channel.",
        Method::SharedPollPublish => "Publishes newer content of a key of a polled channel.",
        Method::SocketioEmit => "Sends an event to clients of Socket.IO.",
        Method::SocketioAsk => "Sends an event to clients of Socket.IO and returns their acknowledgements.",
        Method::SocketioJoin => "Makes clients of Socket.IO join rooms.",
        Method::SocketioLeave => "Makes clients of Socket.IO leave rooms.",
        Method::SocketioDisconnect => "Disconnects clients of Socket.IO.",
        Method::SocketioSockets => "Lists clients of Socket.IO, and the rooms they are in.",
        Method::Rpc => {
            "Calls a method of the application's own server, as clients do. Without a hook for calls: error 104."
        }
    }
}

pub(super) fn request(method: Method) -> Value {
    match method {
        Method::Publish => content(("channel", channel()), "channel"),
        Method::Broadcast => {
            let channels = json!({ "type": "array", "items": channel(), "description": "At least one." });
            content(("channels", channels), "channels")
        }
        Method::History => fields(
            &["channel"],
            [
                ("channel", channel()),
                (
                    "limit",
                    json!({
                        "type": ["integer", "null"], "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX,
                        "description": "0: the position only. Negative: as many as allowed.", "examples": [-1, 0, 2],
                    }),
                ),
                ("since", json!({ "oneOf": [reference("Since"), { "type": "null" }] })),
                ("reverse", flag("The newest first.")),
            ],
        ),
        Method::MapPublish => fields(
            &["channel", "key"],
            [
                ("channel", channel()),
                ("key", key()),
                ("data", json!({ "description": "Any JSON. Without it, the key has no data." })),
                ("b64data", text("In place of `data`: bytes in base64.", &["", "AP8=", "e30=", "?"])),
                ("tags", json!({ "type": ["object", "null"], "additionalProperties": { "type": "string" } })),
                (
                    "idempotency_key",
                    text("For some time, a second change with this key is not made.", &["", "k"]),
                ),
                ("delta", flag("Whether subscribers that negotiated deltas may get a delta.")),
                (
                    "version",
                    count64(
                        "The change is made only if this is higher than the key's version. 0: no version. Needs a stream.",
                    ),
                ),
                ("version_epoch", text("The epoch of the version. Empty: the current one.", &["", "e"])),
                (
                    "score",
                    json!({
                        "type": ["integer", "null"], "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX,
                        "description": "The score of the key, for channels whose keys are ordered by score.", "examples": [-1, 0, 2],
                    }),
                ),
                ("key_mode", text("`if_new` or `if_exists`.", &["", "if_new", "if_exists"])),
                ("expected", expected()),
            ],
        ),
        Method::MapRemove => fields(
            &["channel", "key"],
            [
                ("channel", channel()),
                ("key", key()),
                (
                    "idempotency_key",
                    text("For some time, a second change with this key is not made.", &["", "k"]),
                ),
                ("expected", expected()),
            ],
        ),
        Method::MapReadState => fields(
            &["channel"],
            [
                ("channel", channel()),
                ("cursor", text("The cursor of an earlier answer, to continue after it.", &["", "k"])),
                ("limit", limit()),
                ("key", text("Only this key.", &["", "k"])),
                ("asc", flag("Lowest score first, for channels whose keys are ordered by score.")),
                (
                    "revision_epoch",
                    text(
                        "The epoch of an earlier answer. Error 112 if the channel has another epoch now.",
                        &["", "x"],
                    ),
                ),
            ],
        ),
        Method::MapReadStream => fields(
            &["channel"],
            [
                ("channel", channel()),
                ("since_offset", count64("Offset of the last known change.")),
                ("since_epoch", text("Epoch of the offset. Empty: any.", &["", "x"])),
                ("limit", limit()),
                ("reverse", flag("The newest first.")),
            ],
        ),
        Method::HistoryRemove
        | Method::Presence
        | Method::PresenceStats
        | Method::MapStats
        | Method::MapClear => fields(&["channel"], [("channel", channel())]),
        Method::Channels => fields(
            &[],
            [
                (
                    "pattern",
                    text(
                        "`*` any text, `?` any character, `[a-z]`, `{a,b}`. Empty: all.",
                        &["", "k*", "[", "{a,kept:*}"],
                    ),
                ),
                ("limit", count("The maximum number of channels. 0: as many as allowed.")),
                ("cursor", text("The cursor of an earlier answer, to continue after it.", &["", "kept:a"])),
            ],
        ),
        Method::Connections => fields(
            &[],
            [
                ("user", text("Only clients of this user.", USERS)),
                ("client", text("Only this client.", CLIENTS)),
                (
                    "channel",
                    text("Only clients that are subscribed to this channel.", &["", "kept:a", "unknown:a"]),
                ),
                ("limit", count("The maximum number of connections. 0: as many as allowed.")),
                (
                    "cursor",
                    text("The cursor of an earlier answer, to continue after it.", &["", "x", "test.0.1"]),
                ),
            ],
        ),
        Method::Inspect | Method::Closes | Method::Explain => inspect_schemas::request(method),
        Method::Info => fields(&[], []),
        Method::Shed => inspect_schemas::request(method),
        Method::Disconnect => fields(
            &[],
            [
                ("user", text("The clients of this user. With `client`: this client of this user.", USERS)),
                ("client", text("This client.", CLIENTS)),
                ("session", text("The client of this session.", SESSIONS)),
                (
                    "whitelist",
                    json!({
                        "type": ["array", "null"], "items": text_of("The id of a client.", &["x"]), "description": "Clients that stay connected.",
                    }),
                ),
                ("disconnect", json!({ "oneOf": [reference("Disconnect"), { "type": "null" }] })),
            ],
        ),
        Method::Unsubscribe => fields(
            &["channel"],
            [
                ("channel", channel()),
                ("user", text("The clients of this user.", USERS)),
                ("client", text("This client.", CLIENTS)),
                ("session", text("The client of this session.", SESSIONS)),
            ],
        ),
        Method::Subscribe => fields(
            &["channel"],
            [
                ("channel", channel()),
                ("user", text("The clients of this user.", USERS)),
                ("client", text("This client.", CLIENTS)),
                ("session", text("The client of this session.", SESSIONS)),
                ("expire_at", time("When the subscription expires. 0: it lasts as long as the connection.")),
                ("info", json!({ "description": "Any JSON. Other subscribers of the channel see it." })),
                ("b64info", text("In place of `info`: JSON in base64.", &["", "e30=", "?"])),
                ("data", json!({ "description": "Any JSON. The client receives it." })),
                ("b64data", text("In place of `data`: JSON in base64.", &["", "e30=", "/w=="])),
                ("recover_since", json!({ "oneOf": [reference("Since"), { "type": "null" }] })),
                ("override", json!({ "oneOf": [reference("Override"), { "type": "null" }] })),
            ],
        ),
        Method::Refresh => fields(
            &[],
            [
                ("user", text("The clients of this user.", USERS)),
                ("client", text("This client.", CLIENTS)),
                ("session", text("The client of this session.", SESSIONS)),
                ("expired", flag("Whether the connections expire now, with code 3005.")),
                ("expire_at", time("When the connections expire unless they are refreshed. 0: never.")),
                ("info", json!({ "description": "Any JSON. Others see it from now on." })),
            ],
        ),
        Method::SharedPollPublish => fields(
            &["channel", "key", "version"],
            [
                ("channel", text_of("A channel of the type `shared_poll`.", &["poll:a", "poll:b", "a", ""])),
                ("key", text_of("1 to 1024 bytes.", &["k", "", "another key"])),
                ("data", json!({ "description": "The content: any JSON except null." })),
                ("b64data", text("In place of `data`: bytes in base64.", &["", "AP8=", "e30=", "?"])),
                (
                    "version",
                    json!({
                        "type": "integer", "minimum": 0, "maximum": u64::MAX,
                        "description": "At least 1. Subscribers get the content only if this is higher than the last version.",
                    }),
                ),
                (
                    "epoch",
                    text(
                        "The epoch of the version, as the backend reports it. At most 15 bytes.",
                        &["", "e"],
                    ),
                ),
            ],
        ),
        Method::SocketioEmit
        | Method::SocketioAsk
        | Method::SocketioJoin
        | Method::SocketioLeave
        | Method::SocketioDisconnect
        | Method::SocketioSockets => socketio_schemas::request(method),
        Method::Rpc => fields(
            &["method"],
            [
                ("method", text_of("The name of the method.", &["", "sum"])),
                ("params", json!({ "description": "Any JSON." })),
            ],
        ),
    }
}

pub(super) fn result(method: Method) -> Value {
    match method {
        Method::Publish | Method::SocketioEmit => reference("Published"),
        Method::Broadcast => object(
            "responses",
            json!({ "type": "array", "items": {
            "oneOf": [object("result", reference("Published")), reference("ErrorAnswer")],
        } }),
        ),
        Method::History => reference("History"),
        Method::Presence => object("presence", map_of(&reference("ClientInfo"))),
        Method::PresenceStats => {
            fields(&["num_clients", "num_users"], [("num_clients", number()), ("num_users", number())])
        }
        Method::Channels => list("channels", fields(&["num_clients"], [("num_clients", number())])),
        Method::Connections => list("connections", reference("Connection")),
        Method::Inspect | Method::Closes | Method::Explain => inspect_schemas::result(method),
        Method::Info => object("nodes", json!({ "type": "array", "items": reference("Node") })),
        Method::Shed => inspect_schemas::result(method),
        Method::MapPublish | Method::MapRemove => fields(
            &[],
            [
                ("offset", number()),
                ("epoch", plain()),
                ("suppressed", described(json!({ "type": "boolean" }), "Whether the change was not made.")),
                ("suppress_reason", json!({ "type": "string", "enum": SUPPRESSED })),
            ],
        ),
        Method::MapReadState | Method::MapReadStream => fields(
            &["entries"],
            [
                ("entries", json!({ "type": "array", "items": reference("MapEntry") })),
                ("offset", number()),
                ("epoch", plain()),
                ("cursor", described(plain(), "Present if there is more: continue with this cursor.")),
            ],
        ),
        Method::MapStats => fields(&["num_keys"], [("num_keys", number())]),
        Method::HistoryRemove
        | Method::Disconnect
        | Method::Unsubscribe
        | Method::Subscribe
        | Method::Refresh
        | Method::MapClear
        | Method::SharedPollPublish
        | Method::SocketioJoin
        | Method::SocketioLeave
        | Method::SocketioDisconnect => fields(&[], []),
        Method::SocketioSockets => socketio_schemas::sockets(),
        Method::SocketioAsk => socketio_schemas::ask_answers(),
        Method::Rpc => fields(&[], [("data", json!({ "description": "Any JSON." }))]),
    }
}

/// Returns the schema of a batch's body.
pub(super) fn batch() -> Value {
    let commands: Vec<Value> =
        Method::ALL.iter().map(|&method| object(method.name(), request(method))).collect();
    fields(
        &["commands"],
        [
            ("commands", json!({ "type": "array", "items": { "oneOf": commands } })),
            (
                "parallel",
                flag(
                    "Whether commands are carried out concurrently. Publications to one channel keep their order.",
                ),
            ),
        ],
    )
}

/// Returns the schema of a batch's response.
pub(super) fn replies() -> Value {
    let mut replies: Vec<Value> =
        Method::ALL.iter().map(|&method| object(method.name(), result(method))).collect();
    replies.push(reference("ErrorAnswer"));
    object("replies", json!({ "type": "array", "items": { "oneOf": replies } }))
}

/// Returns the schema of the result of a reload.
pub(super) fn reloaded() -> Value {
    let change = json!({
        "type": "object",
        "required": ["key", "old", "new"],
        "properties": { "key": { "type": "string" }, "old": {}, "new": {} },
    });
    let changes = |description: &str| described(json!({ "type": "array", "items": change }), description);
    fields(
        &["changed", "needs_restart"],
        [
            ("changed", changes("Changed settings that are in effect now, without secrets.")),
            ("needs_restart", changes("Changed settings that take effect at the next start.")),
        ],
    )
}

/// Returns the schemas that others refer to.
pub(super) fn shared() -> Value {
    let json = || json!({ "description": "Any JSON." });
    json!({
        "Error": fields(&["code", "message"], [
            ("code", json!({ "type": "integer", "enum": [100, 101, 102, 104, 106, 107, 108, 111, 112] })),
            ("message", plain()),
        ]),
        "ErrorAnswer": object("error", reference("Error")),
        "Published": fields(&[], [
            ("offset", number()), ("epoch", plain()),
        ]),
        "Since": fields(&[], [
            ("offset", count64("Offset of the last known publication.")),
            ("epoch", text("Epoch of the offset. Empty: any.", &["", "x"])),
        ]),
        "Override": fields(&[], [
            ("presence", switch()), ("join_leave", switch()), ("force_recovery", switch()),
            ("force_positioning", switch()), ("force_push_join_leave", switch()),
        ]),
        "Disconnect": fields(&[], [
            ("code", count("From 3000 to 4999. 0: 3503.")),
            ("reason", text("At most 123 bytes.", &["", "banned"])),
        ]),
        "History": fields(&["publications", "offset", "epoch"], [
            ("publications", json!({ "type": "array", "items": reference("Publication") })),
            ("offset", number()), ("epoch", plain()),
        ]),
        "Publication": fields(&["data"], [
            ("data", json()), ("offset", number()), ("info", reference("ClientInfo")),
            ("tags", map_of(&plain())),
        ]),
        "MapEntry": fields(&["key"], [
            ("key", plain()), ("data", json()), ("offset", number()), ("info", reference("ClientInfo")),
            ("tags", map_of(&plain())), ("removed", json!({ "type": "boolean" })),
            ("score", json!({ "type": "integer" })), ("version", number()), ("time", number()),
        ]),
        "ClientInfo": fields(&["client", "user"], [
            ("client", plain()), ("user", plain()), ("conn_info", json()), ("chan_info", json()),
        ]),
        "Connection": fields(
            &["user", "node", "transport", "protocol", "uptime", "num_channels", "state"],
            [
                ("user", plain()),
                ("node", described(plain(), "The uid of its node.")),
                ("transport", plain()),
                ("protocol", plain()),
                ("uptime", described(number(), "Seconds since the connection was opened.")),
                ("num_channels", number()),
                ("state", object("channels", described(map_of(&fields(&[], [])), "The first 500 channels of the client."))),
            ],
        ),
        "Node": fields(
            &["uid", "name", "version", "num_clients", "num_users", "num_subs", "num_channels", "uptime"],
            [
                ("uid", plain()), ("name", plain()), ("version", plain()),
                ("num_clients", number()), ("num_users", number()), ("num_subs", number()), ("num_channels", number()),
                ("uptime", described(number(), "Seconds since the node started.")),
            ],
        ),
    })
}

/// Why a change of a key was suppressed.
const SUPPRESSED: [&str; 5] = ["idempotency", "version", "key_exists", "key_not_found", "position_mismatch"];

pub(super) const USERS: &[&str] = &["", "ann"];
pub(super) const CLIENTS: &[&str] = &["", "x", "2f9a8f1e-64b5-4c8e-9d3a-6f3f3c1a7b11"];
const SESSIONS: &[&str] = &["", "s", "AAAAAAAAAAAAAAAAAAAAAA"];

fn content(to: (&str, Value), required: &str) -> Value {
    fields(
        &[required],
        [
            to,
            ("data", json!({ "description": "Any JSON except null. Subscribers get it byte for byte." })),
            ("b64data", text("In place of `data`: bytes in base64.", &["", "AP8=", "e30=", "?"])),
            ("tags", json!({ "type": ["object", "null"], "additionalProperties": { "type": "string" } })),
            ("skip_history", flag("Whether the publication is left out of history.")),
            (
                "idempotency_key",
                text(
                    "For some time, a second publication with this key is not made in the channel.",
                    &["", "k"],
                ),
            ),
            ("delta", flag("Whether subscribers that negotiated deltas may get a delta.")),
            (
                "version",
                count64(
                    "The publication is made only if this is higher than the last version. 0: no version.",
                ),
            ),
            ("version_epoch", text("The epoch of the version. Empty: the current one.", &["", "e"])),
            (
                "key",
                text(
                    "The key whose newest value this is, in channels with newest values. 1 to 255 bytes.",
                    &["k", ""],
                ),
            ),
        ],
    )
}

fn list(name: &'static str, item: Value) -> Value {
    fields(
        &[name],
        [
            (name, map_of(&item)),
            ("cursor", described(plain(), "Present if there is more: continue with this cursor.")),
            (
                "missing_nodes",
                json!({
                    "type": "array", "items": plain(), "description": "Names of nodes that did not answer.",
                }),
            ),
        ],
    )
}

pub(super) fn fields<const N: usize>(required: &[&str], fields: [(&str, Value); N]) -> Value {
    let properties: Map<String, Value> =
        fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

fn map_of(schema: &Value) -> Value {
    json!({ "type": "object", "additionalProperties": schema })
}

fn key() -> Value {
    text_of("1 to 255 bytes.", &["k", "other", ""])
}

fn expected() -> Value {
    json!({ "oneOf": [reference("Since"), { "type": "null" }] })
}

fn limit() -> Value {
    json!({
        "type": ["integer", "null"], "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX,
        "description": "0: the position only. Negative: as many as allowed.", "examples": [-1, 0, 2],
    })
}

pub(super) fn channel() -> Value {
    text_of("1 to 255 characters.", &["a", "kept:a", "map:a", "unknown:a", ""])
}

pub(super) fn text(description: &str, examples: &[&str]) -> Value {
    json!({ "type": ["string", "null"], "description": description, "examples": examples })
}

pub(super) fn text_of(description: &str, examples: &[&str]) -> Value {
    json!({ "type": "string", "description": description, "examples": examples })
}

pub(super) fn flag(description: &str) -> Value {
    json!({ "type": ["boolean", "null"], "description": description })
}

/// Returns the schema of an override for an option of the channel.
fn switch() -> Value {
    json!({ "oneOf": [fields(&[], [("value", flag("Whether the option is on. Missing: off."))]), { "type": "null" }] })
}

fn time(description: &str) -> Value {
    json!({
        "type": ["integer", "null"], "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX,
        "description": format!("In seconds since 1970. {description}"), "examples": [0, 1, 4_000_000_000_i64],
    })
}

pub(super) fn count(description: &str) -> Value {
    json!({
        "type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX, "description": description,
        "examples": [0, 1, 3503, 4000],
    })
}

pub(super) fn count64(description: &str) -> Value {
    json!({ "type": ["integer", "null"], "minimum": 0, "maximum": u64::MAX, "description": description })
}

pub(super) fn plain() -> Value {
    json!({ "type": "string" })
}

pub(super) fn number() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

pub(super) fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}
