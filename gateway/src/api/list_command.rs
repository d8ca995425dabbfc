//! Lists channels and connections, gathered from all nodes a page at a time.

use std::collections::BTreeMap;

use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::id::ClientId;

use super::api_error::ApiError;
use super::api_request;
use super::run_command::ApiCall;
use crate::node::ChannelsEverywhere;
use crate::node::glob::Glob;
use crate::node::node_message::{
    ConnectionCursor, ConnectionInfo, ConnectionsWanted, DetailWanted, NodeRequest, NodeResponse, PAGE_MAX,
};

/// Channels with their numbers of subscribers over all nodes.
#[derive(Debug, Default)]
pub(super) struct ChannelList {
    pub(super) channels: BTreeMap<Box<str>, u64>,
    pub(super) rest: ListRemainder,
}

#[derive(Debug, Default)]
pub(super) struct ConnectionList {
    /// Each connection with its node.
    pub(super) connections: Vec<(Box<str>, ConnectionInfo)>,
    pub(super) rest: ListRemainder,
}

/// Selects the connections to list.
#[derive(Debug, Default)]
pub(super) struct ConnectionsQuery<'a> {
    /// Empty for all users.
    pub(super) user: &'a str,
    pub(super) client: Option<ClientId>,
    pub(super) channel: Option<Channel>,
    /// 0 for as many as allowed.
    pub(super) limit: u32,
    pub(super) cursor: &'a str,
    /// Further details to return for each connection.
    pub(super) detail: Option<DetailWanted>,
}

/// What a list does not include.
#[derive(Debug, Default)]
pub(super) struct ListRemainder {
    /// Where the next page begins, if there is one.
    pub(super) cursor: Option<String>,
    /// Names of the nodes that have not answered.
    pub(super) missing_nodes: Vec<Box<str>>,
}

impl ListRemainder {
    fn misses(&mut self, node: &str) {
        if !self.missing_nodes.iter().any(|missing| **missing == *node) {
            self.missing_nodes.push(node.into());
        }
    }
}

impl ApiCall<'_> {
    /// Returns channels ordered by name.
    pub(super) async fn channels(
        &self,
        request: &api_request::ChannelsRequest<'_>,
    ) -> Result<ChannelList, ApiError> {
        Glob::parse(&request.pattern)
            .map_err(|error| ApiError::bad_request(format!("the pattern: {error}")))?;
        if request.cursor.len() > CHANNEL_BYTES_MAX {
            return Err(ApiError::bad_request("the cursor is invalid: use the cursor of an earlier answer"));
        }
        let limit = self.limit(request.limit);
        let list = self.node.channels_everywhere(&request.pattern, &request.cursor, limit, self.deadline);
        let ChannelsEverywhere { channels, cursor, missing_nodes } = list.await?;
        Ok(ChannelList { channels, rest: ListRemainder { cursor, missing_nodes } })
    }

    pub(super) async fn connections(
        &self,
        request: &api_request::Connections<'_>,
    ) -> Result<ConnectionList, ApiError> {
        if !request.expression.is_empty() {
            return Err(ApiError::not_available("a filter by expression"));
        }
        let client = match &*request.client {
            "" => None,
            client => match ClientId::parse(client) {
                Some(client) => Some(client),
                // An invalid id belongs to no client.
                None => return Ok(ConnectionList::default()),
            },
        };
        let channel = match &*request.channel {
            "" => None,
            name => Some(self.channel(name)?.0),
        };
        let (user, limit) = (&*request.user, request.limit);
        self.list(ConnectionsQuery { user, client, channel, limit, cursor: &request.cursor, detail: None })
            .await
    }

    /// Returns connections, ordered by the id of their node, then by their place on it.
    pub(super) async fn list(&self, listing: ConnectionsQuery<'_>) -> Result<ConnectionList, ApiError> {
        let ConnectionsQuery { user, client, channel, limit, cursor, detail } = listing;
        let mut list = ConnectionList::default();
        let cursor = match cursor {
            "" => None,
            cursor => Some(read_cursor(cursor).ok_or(ApiError::bad_request(
                "the cursor is invalid: use the cursor of an earlier answer",
            ))?),
        };
        let limit = self.limit(limit);
        self.in_time()?;
        let mut nodes = self.node.nodes().await.map_err(ApiError::not_read)?;
        nodes.sort_by(|a, b| a.uid.cmp(&b.uid));
        for node in nodes {
            let mut from = match &cursor {
                Some((uid, _)) if *node.uid < **uid => continue,
                Some((uid, place)) if *node.uid == **uid => *place,
                _ => ConnectionCursor::default(),
            };
            loop {
                if list.connections.len() >= limit {
                    list.rest.cursor = Some(format!("{}.{}.{}", node.uid, from.worker, from.index));
                    return Ok(list);
                }
                self.in_time()?;
                let left = u32::try_from(limit - list.connections.len()).unwrap_or(PAGE_MAX).min(PAGE_MAX);
                let user = Some(user).filter(|user| !user.is_empty()).map(Into::into);
                let (channel, detail) = (channel.clone(), detail.clone());
                let wanted = ConnectionsWanted { user, client, channel, from, limit: left, detail };
                let Ok(NodeResponse::Connections(page)) =
                    self.node.ask(&node.uid, NodeRequest::Connections(wanted)).await
                else {
                    list.rest.misses(&node.name);
                    break;
                };
                list.connections.extend(page.connections.into_iter().map(|one| (node.uid.clone(), one)));
                match page.next {
                    // A node that makes no progress would be asked endlessly.
                    Some(next) if next > from => from = next,
                    _ => break,
                }
            }
        }
        Ok(list)
    }

    fn limit(&self, requested: u32) -> usize {
        let max = self.config.list_limit_max as usize;
        if requested == 0 { max } else { max.min(requested as usize) }
    }
}

fn read_cursor(cursor: &str) -> Option<(Box<str>, ConnectionCursor)> {
    let (rest, index) = cursor.rsplit_once('.')?;
    let (uid, worker) = rest.rsplit_once('.')?;
    Some((uid.into(), ConnectionCursor { worker: worker.parse().ok()?, index: index.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_anything_else_is_none() {
        let place = ConnectionCursor { worker: 3, index: 70_000 };
        assert_eq!(read_cursor("a.b.3.70000"), Some(("a.b".into(), place)));
        for none in ["", "a", "a.1", "a.x.1", "a.1.-1", "a.70000.1"] {
            assert_eq!(read_cursor(none), None, "{none}");
        }
    }
}
