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
                ("volatile", flag("Clients that have not taken what they were sent before are passed over.")),
                (
                    "idempotency_key",
                    text(
                        "A second event with it in this channel is not published for some time.",
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
                ("timeout_ms", count("Milliseconds that answers are waited for, at most 60000. 0: 5000.")),
            ],
        ),
        Method::SocketioJoin => {
            fields(&["join"], [namespace(), rooms(), except(), ("join", names("Rooms to come into."))])
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
                    flag("Their connections are closed. Without it they are put out of the namespace."),
                ),
            ],
        ),
        _ => fields(
            &[],
            [
                namespace(),
                ("room", text("Those in this room, or the client with this id. Empty: all.", ROOMS)),
                ("limit", count("The most clients that are looked at. 0: as many as allowed.")),
                ("cursor", text("The cursor of an answer, to go on behind it.", &["", "x", "test.0.1"])),
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
            ("cursor", described(plain(), "There may be more: ask with this.")),
            (
                "missing_nodes",
                json!({
                    "type": "array", "items": plain(), "description": "Names of nodes that have not told theirs.",
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
                    "description": "What came of asking it.",
                }),
            ),
            ("args", json!({ "type": "array", "items": {}, "description": "What it says." })),
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
                    "description": "Names of nodes that have not told what their clients said.",
                }),
            ),
        ],
    )
}

fn event() -> (&'static str, Value) {
    ("event", text_of("1 to 200 bytes, none of the library's own.", &["news", "e", "connect", ""]))
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
    let what =
        "Those in one of these rooms, or with one of these ids; each once. None: all in the namespace.";
    ("rooms", names(what))
}

fn except() -> (&'static str, Value) {
    ("except", names("But none who is in one of these rooms or has one of these ids."))
}

fn names(description: &str) -> Value {
    json!({
        "type": ["array", "null"], "items": text_of("A room, or the id of a client.", ROOMS),
        "description": description,
    })
}
