//! Parameters and results of the methods on clients of Socket.IO, as JSON Schema.

use serde_json::{Value, json};

use super::schemas::{count, described, fields, flag, plain, text, text_of};
use crate::api::api_request::Method;

const ROOMS: &[&str] = &["room", "another", "AAAAAAAAAAAAQAiAAAAAAAAAAAAAAQEB", ""];

pub(super) fn request(method: Method) -> Value {
    match method {
        Method::SocketioEmit => fields(
            &["event"],
            [
                namespace(),
                rooms(),
                except(),
                event(),
                args(),
                binary(),
                ("volatile", flag("Clients with unsent data are skipped.")),
                (
                    "idempotency_key",
                    text(
                        "For some time, a second event with this key is not published in the channel.",
                        &["", "k"],
                    ),
                ),
            ],
        ),
        Method::SocketioAsk => fields(
            &["event"],
            [
                namespace(),
                rooms(),
                except(),
                event(),
                args(),
                binary(),
                (
                    "timeout_ms",
                    count("How long to wait for acknowledgements, in milliseconds, at most 60000. 0: 5000."),
                ),
            ],
        ),
        Method::SocketioJoin => {
            fields(&["join"], [namespace(), rooms(), except(), ("join", names("Rooms to join."))])
        }
        Method::SocketioLeave => {
            fields(&["leave"], [namespace(), rooms(), except(), ("leave", names("Rooms to leave."))])
        }
        Method::SocketioDisconnect => fields(
            &[],
            [
                namespace(),
                rooms(),
                except(),
                (
                    "close",
                    flag(
                        "Whether to close their connections. Otherwise they are only disconnected from the namespace.",
                    ),
                ),
            ],
        ),
        _ => fields(
            &[],
            [
                namespace(),
                ("room", text("Only clients in this room, or the client with this id. Empty: all.", ROOMS)),
                ("limit", count("The maximum number of clients to examine. 0: as many as allowed.")),
                (
                    "cursor",
                    text("The cursor of an earlier answer, to continue after it.", &["", "x", "test.0.1"]),
                ),
            ],
        ),
    }
}

/// Returns the schema of a list of clients.
pub(super) fn sockets() -> Value {
    let socket = fields(
        &["id", "client", "user", "node", "rooms"],
        [
            ("id", described(plain(), "The client's id in the namespace.")),
            ("client", described(plain(), "The id of its connection.")),
            ("user", plain()),
            ("node", described(plain(), "The uid of its node.")),
            ("rooms", json!({ "type": "array", "items": plain() })),
        ],
    );
    fields(
        &["sockets"],
        [
            ("sockets", json!({ "type": "array", "items": socket })),
            ("cursor", described(plain(), "Present if there may be more: continue with this cursor.")),
            (
                "missing_nodes",
                json!({
                    "type": "array", "items": plain(), "description": "Names of nodes that did not answer.",
                }),
            ),
        ],
    )
}

/// Returns the schema of the clients' answers.
pub(super) fn ask_answers() -> Value {
    let answer = fields(
        &["id", "status"],
        [
            ("id", described(plain(), "The client's id in the namespace.")),
            (
                "status",
                json!({
                    "type": "string", "enum": ["answered", "timeout", "gone", "too_many", "too_long"],
                    "description": "Whether the client has acknowledged the event.",
                }),
            ),
            (
                "args",
                json!({ "type": "array", "items": {}, "description": "The arguments of the acknowledgement." }),
            ),
            (
                "binary",
                json!({
                    "type": "array", "items": plain(),
                    "description": "Pointers (RFC 6901) into `args` to texts that hold bytes in base64.",
                }),
            ),
        ],
    );
    fields(
        &["answers"],
        [
            ("answers", json!({ "type": "array", "items": answer })),
            (
                "missing_nodes",
                json!({
                    "type": "array", "items": plain(),
                    "description": "Names of nodes that did not answer.",
                }),
            ),
        ],
    )
}

fn event() -> (&'static str, Value) {
    ("event", text_of("1 to 200 bytes, not a name that Socket.IO reserves.", &["news", "e", "connect", ""]))
}

fn args() -> (&'static str, Value) {
    let args = json!({
        "type": ["array", "null"], "items": { "description": "Any JSON." },
        "description": "At most 256 arguments.",
    });
    ("args", args)
}

fn binary() -> (&'static str, Value) {
    let pointers = json!({
        "type": ["array", "null"], "items": text_of("A JSON pointer.", &["/0", "/1/a", "x"]),
        "description": "Pointers (RFC 6901) into `args` to texts that hold bytes in base64.",
    });
    ("binary", pointers)
}

fn namespace() -> (&'static str, Value) {
    ("namespace", text("The namespace of Socket.IO. Empty: `/`.", &["", "/", "/admin", "/unknown"]))
}

fn rooms() -> (&'static str, Value) {
    let what = "Clients in one of these rooms or with one of these ids, each once. None: all clients in the namespace.";
    ("rooms", names(what))
}

fn except() -> (&'static str, Value) {
    ("except", names("Clients to leave out: those in one of these rooms or with one of these ids."))
}

fn names(description: &str) -> Value {
    json!({
        "type": ["array", "null"], "items": text_of("A room, or the id of a client.", ROOMS),
        "description": description,
    })
}
