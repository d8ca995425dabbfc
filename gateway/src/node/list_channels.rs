//! Lists the channels that have subscribers on any node, a page at a time.

use std::collections::BTreeMap;
use std::time::Instant;

use shared::channel::Channel;

use crate::broker::BrokerError;
use crate::node::Node;
use crate::node::ask::ASK_TIMEOUT;
use crate::node::node_message::{ChannelsWanted, NodeRequest, NodeResponse, PAGE_MAX};

/// A page of channels with their numbers of subscribers over all nodes.
#[derive(Debug, Default)]
pub(crate) struct ChannelsEverywhere {
    pub(crate) channels: BTreeMap<Box<str>, u64>,
    /// Where the next page begins, if there is one.
    pub(crate) cursor: Option<String>,
    /// Names of the nodes that have not answered.
    pub(crate) missing_nodes: Vec<Box<str>>,
}

impl Node {
    /// Returns the number of subscribers over all nodes for at most [`PAGE_MAX`] channels. The subscribers of a node that
    /// does not answer are not counted.
    pub(crate) async fn count_everywhere(
        &self,
        channels: &[Channel],
    ) -> Result<BTreeMap<Box<str>, u64>, BrokerError> {
        let names: Vec<Box<str>> = channels.iter().map(|channel| channel.as_str().into()).collect();
        let wanted = ChannelsWanted { limit: PAGE_MAX, names, ..ChannelsWanted::default() };
        let mut counted: BTreeMap<Box<str>, u64> = BTreeMap::new();
        for (_, answer) in self.ask_all(NodeRequest::Channels(wanted)).await? {
            let Ok(NodeResponse::Channels(page)) = answer else { continue };
            for (name, count) in page.channels {
                *counted.entry(name).or_default() += u64::from(count);
            }
        }
        Ok(counted)
    }

    /// Returns channels ordered by name, after `after`. Nodes are asked for the same range until it holds `limit` channels,
    /// but not after `deadline`.
    pub(crate) async fn channels_everywhere(
        &self,
        pattern: &str,
        after: &str,
        limit: usize,
        deadline: Instant,
    ) -> Result<ChannelsEverywhere, BrokerError> {
        let mut list = ChannelsEverywhere::default();
        let mut after: Box<str> = after.into();
        loop {
            if Instant::now() >= deadline {
                return Err(BrokerError::Timeout(ASK_TIMEOUT));
            }
            let left = u32::try_from(limit - list.channels.len()).unwrap_or(PAGE_MAX).min(PAGE_MAX);
            let wanted =
                ChannelsWanted { pattern: pattern.into(), after, limit: left, ..ChannelsWanted::default() };
            let mut pages = Vec::new();
            for (node, answer) in self.ask_all(NodeRequest::Channels(wanted)).await? {
                match answer {
                    Ok(NodeResponse::Channels(page)) => pages.push(page),
                    _ if !list.missing_nodes.contains(&node.name) => list.missing_nodes.push(node.name),
                    _ => {}
                }
            }
            // Beyond the end of the shortest page, not every node's channels are known yet.
            let known = pages.iter().filter_map(|page| page.until.clone()).min();
            let is_known = |name: &str| known.as_deref().is_none_or(|known| name <= known);
            for (name, count) in pages.into_iter().flat_map(|page| page.channels) {
                if is_known(&name) {
                    *list.channels.entry(name).or_default() += u64::from(count);
                }
            }
            while list.channels.len() > limit {
                list.channels.pop_last();
                let last = list.channels.last_key_value();
                list.cursor = last.map(|(name, _)| name.to_string());
            }
            let Some(known) = known else { return Ok(list) };
            if list.channels.len() >= limit {
                list.cursor.get_or_insert_with(|| known.to_string());
                return Ok(list);
            }
            after = known;
        }
    }
}
