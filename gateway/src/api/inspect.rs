//! Reports details of one connection, and the connections closed recently.

use serde_json::{Map, Value, json};
use shared::id::ClientId;

use super::api_error::ApiError;
use super::api_request;
use super::list_command::ConnectionsQuery;
use super::run_command::ApiCall;
use crate::node::node_message::{
    ConnectionInfo, DetailWanted, NodeRequest, NodeResponse, SubscriptionDetail,
};
use crate::node::{CloseRecord, ClosesWanted};

/// The result of looking for a client.
#[derive(Debug, Default)]
pub(super) struct FoundClient {
    /// The client's node, and its connection there.
    pub(super) connection: Option<(Box<str>, ConnectionInfo)>,
    /// Names of the nodes that have not answered: the client may be on one of these.
    pub(super) missing_nodes: Vec<Box<str>>,
}

impl ApiCall<'_> {
    pub(super) async fn inspect(&self, request: &api_request::Inspect<'_>) -> Result<Value, ApiError> {
        let found = self.find_client(&request.client, DetailWanted::default()).await?;
        let connection = found.connection.map(|(node, info)| connection_in_words(&node, &info));
        Ok(with_missing(json!({ "connection": connection }), &found.missing_nodes))
    }

    /// Returns recent closes, the latest first.
    pub(super) async fn closes(&self, request: &api_request::ClosesRequest<'_>) -> Result<Value, ApiError> {
        let (user, client) = (&*request.user, &*request.client);
        let wanted = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Into::into);
        let limit = if request.limit == 0 { self.config.list_limit_max } else { request.limit };
        let limit = limit.min(self.config.list_limit_max);
        let wanted = ClosesWanted { user: wanted(user), client: wanted(client), limit };
        let (closes, missing) = self.closes_everywhere(wanted).await?;
        let closes: Vec<Value> = closes.iter().map(|(node, close)| close_in_words(node, close)).collect();
        Ok(with_missing(json!({ "closes": closes }), &missing))
    }

    /// Returns closes of all nodes, each with its node, and the names of nodes that have not answered.
    pub(super) async fn closes_everywhere(
        &self,
        wanted: ClosesWanted,
    ) -> Result<(Vec<(Box<str>, CloseRecord)>, Vec<Box<str>>), ApiError> {
        self.in_time()?;
        let limit = wanted.limit as usize;
        let answers = self.node.ask_all(NodeRequest::Closes(wanted)).await.map_err(ApiError::not_read)?;
        let (mut closes, mut missing) = (Vec::new(), Vec::new());
        for (node, answer) in answers {
            match answer {
                Ok(NodeResponse::Closes(some)) => {
                    closes.extend(some.into_iter().map(|close| (node.uid.clone(), close)));
                }
                _ => missing.push(node.name),
            }
        }
        closes.sort_by_key(|(_, close)| std::cmp::Reverse(close.time_ms));
        closes.truncate(limit);
        Ok((closes, missing))
    }

    pub(super) async fn find_client(
        &self,
        name: &str,
        detail: DetailWanted,
    ) -> Result<FoundClient, ApiError> {
        if name.is_empty() {
            return Err(ApiError::bad_request("no client is given"));
        }
        // An invalid id belongs to no client.
        let Some(client) = ClientId::parse(name) else { return Ok(FoundClient::default()) };
        let listing = ConnectionsQuery {
            client: Some(client),
            limit: 1,
            detail: Some(detail),
            ..ConnectionsQuery::default()
        };
        let list = self.list(listing).await?;
        Ok(FoundClient {
            connection: list.connections.into_iter().next(),
            missing_nodes: list.rest.missing_nodes,
        })
    }
}

fn connection_in_words(node: &str, info: &ConnectionInfo) -> Value {
    let ConnectionInfo { client, user, transport, protocol, uptime, num_channels, .. } = info;
    let mut words = json!({
        "client": client, "user": user, "node": node, "transport": transport, "protocol": protocol, "uptime": uptime,
        "num_channels": num_channels,
    });
    // A node of an earlier release reports no detail.
    if let Some(detail) = &info.detail {
        words["outbox_bytes"] = detail.outbox_bytes.into();
        words["stalled_ms"] = detail.stalled_ms.into();
        words["subscriptions"] = detail.subscriptions.iter().map(subscription_in_words).collect();
    }
    words
}

fn subscription_in_words(subscription: &SubscriptionDetail) -> Value {
    let SubscriptionDetail { channel, stage, positioned, newest, position, filtered, .. } = subscription;
    let mut words = Map::from_iter([
        ("channel".to_owned(), json!(channel)),
        ("stage".to_owned(), json!(stage)),
        ("positioned".to_owned(), json!(positioned)),
        ("newest".to_owned(), json!(newest)),
        ("filtered".to_owned(), json!(filtered)),
    ]);
    if let Some((offset, epoch)) = position {
        words.insert("offset".to_owned(), json!(offset));
        words.insert("epoch".to_owned(), json!(epoch));
    }
    words.into()
}

pub(super) fn close_in_words(node: &str, close: &CloseRecord) -> Value {
    let CloseRecord { client, user, protocol, code, reason, time_ms, lived } = close;
    json!({
        "client": client, "user": user, "node": node, "protocol": protocol, "code": code, "reason": reason,
        "time": time_ms, "lived": lived,
    })
}

pub(super) fn with_missing(mut words: Value, missing: &[Box<str>]) -> Value {
    if !missing.is_empty() {
        words["missing_nodes"] = json!(missing);
    }
    words
}
