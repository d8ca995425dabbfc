//! Parameters and results of the methods that inspect connections, as JSON Schema.

use serde_json::{Value, json};

use super::schemas::{CLIENTS, USERS, channel, count, count64, described, fields, flag, number, plain, text};
use crate::api::api_request::Method;

pub(super) fn request(method: Method) -> Value {
    match method {
        Method::Closes => fields(
            &[],
            [
                ("user", text("Only clients of this user.", USERS)),
                ("client", text("Only this client.", CLIENTS)),
                ("limit", count("The maximum number of entries. 0: as many as allowed.")),
            ],
        ),
        Method::Explain => fields(
            &["client", "channel"],
            [
                ("client", text("The client.", CLIENTS)),
                ("channel", channel()),
                ("offset", count64("Offset of the publication. 0: any publication.")),
                ("epoch", text("Epoch of the publication. Empty: the channel's current epoch.", &["", "x"])),
            ],
        ),
        Method::Shed => fields(
            &[],
            [
                ("node", text("The uid or the name of one node. Empty: all of them.", &["", "nobody"])),
                ("over_s", count("The minimum duration in seconds. 0: the node's `balance.over_s`.")),
                (
                    "tolerance_percent",
                    count(
                        "A node closes clients only if it exceeds the mean by more than this. 0: `balance.tolerance_percent`.",
                    ),
                ),
                ("stop", flag("Stops closing clients.")),
            ],
        ),
        _ => fields(&["client"], [("client", text("The client.", CLIENTS))]),
    }
}

pub(super) fn result(method: Method) -> Value {
    let missing = || {
        let names = json!({ "type": "array", "items": plain() });
        ("missing_nodes", described(names, "Names of nodes that did not answer."))
    };
    match method {
        Method::Closes => {
            let closes = json!({ "type": "array", "items": close() });
            fields(&["closes"], [("closes", described(closes, "Latest first.")), missing()])
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
            let connection = described(connection, "null: no node that answered has this client.");
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
            ("outbox_bytes", described(number(), "Bytes that wait to be written to its socket.")),
            ("stalled_ms", described(number(), "Milliseconds since the socket last accepted any of them.")),
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
            ("before", described(number(), "The node's clients at the beginning.")),
            (
                "mean",
                described(number(), "Mean number of clients over all nodes, rounded up. 0: not determined."),
            ),
            ("to_close", number()),
            ("closed", described(number(), "The number of clients closed so far.")),
            ("over_ms", described(number(), "The total duration in milliseconds.")),
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
            ("positioned", flag("The subscription follows the stream and detects gaps.")),
            ("newest", flag("The client gets only the newest value of each key.")),
            ("filtered", flag("The subscription has a filter.")),
            (
                "offset",
                described(number(), "The offset up to which all publications were passed to the client."),
            ),
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
            ("code", described(number(), "3000: the client closed the connection, or it was lost.")),
            ("reason", plain()),
            ("time", described(number(), "In milliseconds since 1970.")),
            ("lived", described(number(), "How long the client was connected, in seconds.")),
        ],
    )
}
