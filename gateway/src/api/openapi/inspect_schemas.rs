//! Parameters and results of the methods that inspect connections, as JSON Schema.

use serde_json::{Value, json};

use super::schemas::{CLIENTS, USERS, channel, count, count64, described, fields, flag, number, plain, text};
use crate::api::api_request::Method;

pub(super) fn request(method: Method) -> Value {
    match method {
        Method::Closes => fields(
            &[],
            [
                ("user", text("Only those of this user.", USERS)),
                ("client", text("Only this one.", CLIENTS)),
                ("limit", count("The most of the answer. 0: as many as allowed.")),
            ],
        ),
        Method::Explain => fields(
            &["client", "channel"],
            [
                ("client", text("The client.", CLIENTS)),
                ("channel", channel()),
                ("offset", count64("Of the publication. 0: of any.")),
                ("epoch", text("Of the publication. Empty: that of the channel.", &["", "x"])),
            ],
        ),
        Method::Shed => fields(
            &[],
            [
                ("node", text("The uid or the name of one node. Empty: all of them.", &["", "nobody"])),
                ("over_s", count("Over how many seconds, at least. 0: as the node's `balance.over_s` says.")),
                (
                    "tolerance_percent",
                    count(
                        "Nothing is done unless a node has more than this above the mean. 0: `balance.tolerance_percent`.",
                    ),
                ),
                ("stop", flag("Close no more of them.")),
            ],
        ),
        _ => fields(&["client"], [("client", text("The client.", CLIENTS))]),
    }
}

pub(super) fn result(method: Method) -> Value {
    let missing = || {
        let names = json!({ "type": "array", "items": plain() });
        ("missing_nodes", described(names, "Nodes that have not answered."))
    };
    match method {
        Method::Closes => {
            let closes = json!({ "type": "array", "items": close() });
            fields(&["closes"], [("closes", described(closes, "The latest first.")), missing()])
        }
        Method::Explain => {
            let finding =
                fields(&["finding", "text"], [("finding", plain()), ("text", plain()), ("close", close())]);
            let verdict = json!({ "type": "string", "enum": ["sent", "waiting", "not_sent", "unknown"] });
            let findings = json!({ "type": "array", "items": finding });
            fields(&["verdict", "findings"], [("verdict", verdict), ("findings", findings), missing()])
        }
        Method::Shed => {
            let nodes = json!({ "type": "array", "items": shed() });
            fields(&["nodes"], [("nodes", nodes), missing()])
        }
        _ => {
            let connection = json!({ "oneOf": [connection(), { "type": "null" }] });
            let connection = described(connection, "null: no node that has answered has this client.");
            fields(&["connection"], [("connection", connection), missing()])
        }
    }
}

fn connection() -> Value {
    fields(
        &["client", "user", "node", "transport", "protocol", "uptime", "num_channels"],
        [
            ("client", plain()),
            ("user", plain()),
            ("node", plain()),
            ("transport", plain()),
            ("protocol", plain()),
            ("uptime", described(number(), "In seconds.")),
            ("num_channels", number()),
            ("outbox_bytes", described(number(), "What waits to be written to its socket.")),
            ("stalled_ms", described(number(), "For how long the socket has taken nothing of that.")),
            ("subscriptions", json!({ "type": "array", "items": subscription() })),
        ],
    )
}

fn shed() -> Value {
    let states = ["started", "balanced", "running", "stopped", "idle", "draining", "unknown"];
    fields(
        &["uid", "name", "state", "before", "mean", "to_close", "closed", "over_ms"],
        [
            ("uid", plain()),
            ("name", plain()),
            ("state", json!({ "type": "string", "enum": states })),
            ("before", described(number(), "The node's clients when it began.")),
            ("mean", described(number(), "Of all nodes, rounded up. 0: it was not asked for.")),
            ("to_close", number()),
            ("closed", described(number(), "Of these.")),
            ("over_ms", described(number(), "How long it takes, all in all.")),
        ],
    )
}

fn subscription() -> Value {
    let flag = |what: &str| json!({ "type": "boolean", "description": what });
    fields(
        &["channel", "stage", "positioned", "newest", "filtered"],
        [
            ("channel", plain()),
            ("stage", json!({ "type": "string", "enum": ["live", "joining", "ahead", "insufficient"] })),
            ("positioned", flag("It follows the stream, and is told of gaps.")),
            ("newest", flag("It is sent the newest value of each key.")),
            ("filtered", flag("It has a filter.")),
            ("offset", described(number(), "Up to where everything was handed to it.")),
            ("epoch", plain()),
        ],
    )
}

fn close() -> Value {
    fields(
        &["client", "user", "node", "protocol", "code", "reason", "time", "lived"],
        [
            ("client", plain()),
            ("user", plain()),
            ("node", plain()),
            ("protocol", plain()),
            ("code", described(number(), "3000: it has gone by itself, or was lost.")),
            ("reason", plain()),
            ("time", described(number(), "In milliseconds since 1970.")),
            ("lived", described(number(), "How long it was there, in seconds.")),
        ],
    )
}
