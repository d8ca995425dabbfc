//! The responses of the API, in JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use gateway_core::effect::PresenceStats;
use gateway_core::history::HistoryPage;
use gateway_core::map::{ChangedKey, StatePage};
use gateway_core::reply_bytes::{client_bytes, publications_bytes};
use serde_json::Value;
use shared::id::ClientId;
use shared::position::StreamPosition;
use shared::protocol::centrifuge::json::{
    write_client_info, write_payload, write_publications, write_string,
};
use shared::publication::{ClientInfo, Payload, Publication};

use super::api_error::ApiError;
use super::api_request::Command;
use super::ask_sockets::AskedSockets;
use super::list_command::{ChannelList, ConnectionList, ListRemainder};
use super::socket_commands::{SocketDescription, SocketList};
use crate::broker::Published;
use crate::node::control::NodeInfo;
use crate::node::node_message::ConnectionInfo;

/// The approximate bytes of a channel in a list, beside its name.
const CHANNEL_BYTES: usize = 24;
/// The approximate bytes of a connection in a list, beside its user and channels.
const CONNECTION_BYTES: usize = 256;

#[derive(Debug)]
pub(super) enum ApiResponse {
    Published(Published),
    Broadcast(Vec<Result<Published, ApiError>>),
    History(HistoryPage),
    Presence(BTreeMap<ClientId, ClientInfo>),
    PresenceStats(PresenceStats),
    Info(Vec<NodeInfo>),
    Channels(ChannelList),
    Connections(ConnectionList),
    /// The result of a called method.
    Called(Option<Payload>),
    Changed(ChangedKey),
    State(StatePage),
    /// The stream of a channel that keeps state by key.
    Stream(HistoryPage),
    /// The number of keys.
    MapStats(u64),
    Sockets(SocketList),
    Asked(AskedSockets),
    /// Findings in JSON.
    Found(Value),
    /// Success without a result.
    Done,
}

/// Writes `{"result":{…}}` or `{"error":{…}}`.
pub(super) fn write(answer: &Result<ApiResponse, ApiError>, out: &mut BytesMut) {
    wrapped(answer, "result", ApiResponse::encode, out);
}

/// Writes `{"replies":[{"publish":{…}},{"error":{…}}]}`, in the order of the commands.
pub(super) fn write_batch(
    commands: &[Command<'_>],
    answers: &[Result<ApiResponse, ApiError>],
    out: &mut BytesMut,
) {
    out.put_slice(b"{\"replies\":");
    list(commands.iter().zip(answers), out, |(command, answer), out| {
        let name = command.method().map_or("error", |method| method.name());
        wrapped(answer, name, ApiResponse::encode, out);
    });
    out.put_u8(b'}');
}

/// Writes a line `{"id":7,"result":{…}}`, with the id if there is one.
pub(super) fn write_older(id: u32, answer: &Result<ApiResponse, ApiError>, out: &mut BytesMut) {
    if id == 0 {
        return write(answer, out);
    }
    // Writing to a growing buffer cannot fail.
    let _ = write!(out, "{{\"id\":{id},");
    let from = out.len();
    write(answer, out);
    // Without the opening brace, which is written already.
    let rest = out.split_off(from);
    out.put_slice(&rest[1..]);
}

/// Returns `{"error":{…}}`, for a request that fails as a whole.
pub(super) fn error(refused: &ApiError) -> Bytes {
    let mut out = BytesMut::with_capacity(128);
    write(&Err(refused.clone()), &mut out);
    out.freeze()
}

impl ApiResponse {
    /// Returns the approximate size, for responses that can be large.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::History(page) | Self::Stream(page) => publications_bytes(&page.publications),
            Self::State(page) => publications_bytes(&page.entries),
            Self::Presence(clients) => clients.values().map(client_bytes).sum(),
            Self::Channels(list) => list.channels.keys().map(|name| name.len() + CHANNEL_BYTES).sum(),
            Self::Connections(list) => list.connections.iter().map(|(_, one)| connection_bytes(one)).sum(),
            Self::Sockets(list) => list.sockets.iter().map(socket_bytes).sum(),
            Self::Asked(answers) => answers.bytes(),
            Self::Called(data) => data.as_ref().map_or(0, |data| data.bytes.len()),
            Self::Published(_)
            | Self::Broadcast(_)
            | Self::PresenceStats(_)
            | Self::Info(_)
            | Self::Changed(_)
            | Self::MapStats(_)
            | Self::Found(_)
            | Self::Done => 0,
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Published(published) => write_published(published, out),
            Self::Broadcast(responses) => {
                out.put_slice(b"{\"responses\":");
                list(responses, out, |response, out| wrapped(response, "result", write_published, out));
                out.put_u8(b'}');
            }
            Self::History(page) => {
                out.put_slice(b"{\"publications\":");
                write_publications(&page.publications, out);
                out.put_u8(b',');
                write_position(page.top, out);
                out.put_u8(b'}');
            }
            Self::Presence(clients) => {
                out.put_slice(b"{\"presence\":{");
                for (index, (client, info)) in clients.iter().enumerate() {
                    if index > 0 {
                        out.put_u8(b',');
                    }
                    write_string(&client.to_string(), out);
                    out.put_u8(b':');
                    write_client_info(info, out);
                }
                out.put_slice(b"}}");
            }
            Self::PresenceStats(stats) => {
                let text = format!("{{\"num_clients\":{},\"num_users\":{}}}", stats.clients, stats.users);
                out.put_slice(text.as_bytes());
            }
            Self::Info(nodes) => {
                out.put_slice(b"{\"nodes\":");
                list(nodes, out, write_node);
                out.put_u8(b'}');
            }
            Self::Channels(list) => {
                out.put_slice(b"{\"channels\":{");
                for (index, (name, clients)) in list.channels.iter().enumerate() {
                    if index > 0 {
                        out.put_u8(b',');
                    }
                    write_string(name, out);
                    // Writing to a growing buffer cannot fail.
                    let _ = write!(out, ":{{\"num_clients\":{clients}}}");
                }
                out.put_u8(b'}');
                write_rest(&list.rest, out);
            }
            Self::Connections(list) => {
                out.put_slice(b"{\"connections\":{");
                for (index, (node, connection)) in list.connections.iter().enumerate() {
                    if index > 0 {
                        out.put_u8(b',');
                    }
                    write_connection(node, connection, out);
                }
                out.put_u8(b'}');
                write_rest(&list.rest, out);
            }
            Self::Sockets(sockets) => {
                out.put_slice(b"{\"sockets\":");
                list(&sockets.sockets, out, write_socket);
                write_rest(&sockets.rest, out);
            }
            Self::Asked(answers) => answers.write(out),
            Self::Found(found) => out.put_slice(found.to_string().as_bytes()),
            Self::Changed(changed) => write_changed(changed, out),
            Self::State(page) => write_entries(&page.entries, page.top, &page.cursor, out),
            Self::Stream(page) => write_entries(&page.publications, Some(page.top), "", out),
            Self::MapStats(keys) => out.put_slice(format!("{{\"num_keys\":{keys}}}").as_bytes()),
            Self::Called(Some(data)) if !data.bytes.is_empty() => {
                out.put_slice(b"{\"data\":");
                write_payload(data, out);
                out.put_u8(b'}');
            }
            Self::Called(_) | Self::Done => out.put_slice(b"{}"),
        }
    }
}

fn write_changed(changed: &ChangedKey, out: &mut BytesMut) {
    out.put_u8(b'{');
    if let Some(position) = changed.position {
        write_place(position, out);
    }
    if let Some(why) = changed.suppressed {
        let comma = if changed.position.is_some() { "," } else { "" };
        // Writing to a growing buffer cannot fail.
        let _ = write!(out, "{comma}\"suppressed\":true,\"suppress_reason\":\"{}\"", why.as_str());
    }
    out.put_u8(b'}');
}

fn write_entries(entries: &[Publication], top: Option<StreamPosition>, cursor: &str, out: &mut BytesMut) {
    out.put_slice(b"{\"entries\":");
    write_publications(entries, out);
    if let Some(top) = top {
        out.put_u8(b',');
        write_place(top, out);
    }
    if !cursor.is_empty() {
        out.put_slice(b",\"cursor\":");
        write_string(cursor, out);
    }
    out.put_u8(b'}');
}

/// Writes the end of an object that holds a list.
fn write_rest(rest: &ListRemainder, out: &mut BytesMut) {
    if let Some(cursor) = &rest.cursor {
        out.put_slice(b",\"cursor\":");
        write_string(cursor, out);
    }
    if !rest.missing_nodes.is_empty() {
        out.put_slice(b",\"missing_nodes\":");
        list(&rest.missing_nodes, out, |name, out| write_string(name, out));
    }
    out.put_u8(b'}');
}

fn connection_bytes(connection: &ConnectionInfo) -> usize {
    let channels: usize = connection.channels.iter().map(|name| name.len() + CHANNEL_BYTES).sum();
    connection.user.len() + channels + CONNECTION_BYTES
}

fn write_connection(node: &str, connection: &ConnectionInfo, out: &mut BytesMut) {
    write_string(&connection.client, out);
    for (field, text) in [
        (":{\"user\":", &*connection.user),
        (",\"node\":", node),
        (",\"transport\":", &connection.transport),
        (",\"protocol\":", &connection.protocol),
    ] {
        out.put_slice(field.as_bytes());
        write_string(text, out);
    }
    let ConnectionInfo { uptime, num_channels, .. } = connection;
    let _ = write!(out, ",\"uptime\":{uptime},\"num_channels\":{num_channels},\"state\":{{\"channels\":{{");
    for (index, name) in connection.channels.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        write_string(name, out);
        out.put_slice(b":{}");
    }
    out.put_slice(b"}}}");
}

fn socket_bytes(socket: &SocketDescription) -> usize {
    let rooms: usize = socket.rooms.iter().map(|name| name.len() + CHANNEL_BYTES).sum();
    socket.user.len() + rooms + CONNECTION_BYTES
}

fn write_socket(socket: &SocketDescription, out: &mut BytesMut) {
    let SocketDescription { id, client, user, node, rooms } = socket;
    for (field, text) in
        [("{\"id\":", &**id), (",\"client\":", client), (",\"user\":", user), (",\"node\":", node)]
    {
        out.put_slice(field.as_bytes());
        write_string(text, out);
    }
    out.put_slice(b",\"rooms\":");
    list(rooms, out, |name, out| write_string(name, out));
    out.put_u8(b'}');
}

fn write_node(node: &NodeInfo, out: &mut BytesMut) {
    for (field, text) in
        [("{\"uid\":", &node.uid), (",\"name\":", &node.name), (",\"version\":", &node.version)]
    {
        out.put_slice(field.as_bytes());
        write_string(text, out);
    }
    let NodeInfo { num_clients, num_users, num_subs, num_channels, uptime, .. } = node;
    // Writing to a growing buffer cannot fail.
    let _ = write!(
        out,
        ",\"num_clients\":{num_clients},\"num_users\":{num_users},\"num_subs\":{num_subs},\
         \"num_channels\":{num_channels},\"uptime\":{uptime}}}"
    );
}

fn write_published(published: &Published, out: &mut BytesMut) {
    out.put_u8(b'{');
    if let Some(position) = published.position {
        write_position(position, out);
    }
    out.put_u8(b'}');
}

/// Writes the position of a channel that keeps state by key, of which only the epoch may be known.
fn write_place(position: StreamPosition, out: &mut BytesMut) {
    if position.offset > 0 {
        return write_position(position, out);
    }
    out.put_slice(b"\"epoch\":");
    write_string(position.epoch.as_str(), out);
}

fn write_position(position: StreamPosition, out: &mut BytesMut) {
    out.put_slice(b"\"offset\":");
    // Writing to a growing buffer cannot fail.
    let _ = write!(out, "{}", position.offset);
    out.put_slice(b",\"epoch\":");
    write_string(position.epoch.as_str(), out);
}

/// Writes an object with one field: the result under this name, or the error.
fn wrapped<T>(
    answer: &Result<T, ApiError>,
    name: &str,
    write: impl FnOnce(&T, &mut BytesMut),
    out: &mut BytesMut,
) {
    out.put_slice(b"{\"");
    out.put_slice(if answer.is_ok() { name } else { "error" }.as_bytes());
    out.put_slice(b"\":");
    match answer {
        Ok(answer) => write(answer, out),
        Err(refused) => refused.write(out),
    }
    out.put_u8(b'}');
}

pub(super) fn list<T>(
    items: impl IntoIterator<Item = T>,
    out: &mut BytesMut,
    mut write: impl FnMut(T, &mut BytesMut),
) {
    out.put_u8(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        write(item, out);
    }
    out.put_u8(b']');
}
