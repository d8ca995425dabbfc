//! Commands that read channels and nodes.

use std::collections::BTreeMap;

use gateway_core::effect::PresenceStats;
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use gateway_core::reply_bytes::fitting;
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::id::ClientId;
use shared::publication::ClientInfo;

use super::api_error::ApiError;
use super::api_request;
use super::run_command::ApiCall;
use crate::node::control::NodeInfo;

impl ApiCall<'_> {
    pub(super) async fn history(&self, request: &api_request::History<'_>) -> Result<HistoryPage, ApiError> {
        let (channel, options) = self.channel(&request.channel)?;
        if !options.retention().keeps_history() || options.keeps_keys() {
            return Err(ErrorCode::NotAvailable.into());
        }
        self.in_time()?;
        let max = self.config.history_limit_max;
        let filter = HistoryFilter {
            since: request.since.as_ref().map(|since| since.offset),
            limit: u32::try_from(request.limit).map_or(max, |limit| limit.min(max)),
            reverse: request.reverse,
            enough_bytes: None,
        };
        let page = self.read_history(channel, filter, options.retention()).await?;
        match &request.since {
            Some(since) if !since.epoch.is_empty() && *since.epoch != *page.top.epoch.as_str() => {
                Err(ErrorCode::UnrecoverablePosition.into())
            }
            _ => Ok(page),
        }
    }

    /// Reads as much of the history as the response has room for.
    pub(super) async fn read_history(
        &self,
        channel: Channel,
        filter: HistoryFilter,
        retention: Retention,
    ) -> Result<HistoryPage, ApiError> {
        let share = self.share();
        let filter = HistoryFilter { enough_bytes: Some(share), ..filter };
        let mut page = self.node.history(channel, filter, retention).await.map_err(ApiError::not_read)?;
        let (count, _) = fitting(&page.publications, share as usize);
        page.publications.truncate(count);
        Ok(page)
    }

    pub(super) async fn history_remove(
        &self,
        request: &api_request::ChannelRequest<'_>,
    ) -> Result<(), ApiError> {
        let (channel, options) = self.channel(&request.channel)?;
        if !options.retention().keeps_history() || options.keeps_keys() {
            return Err(ErrorCode::NotAvailable.into());
        }
        self.in_time()?;
        Ok(self.node.remove_history(channel).await?)
    }

    pub(super) async fn presence(
        &self,
        request: &api_request::ChannelRequest<'_>,
    ) -> Result<BTreeMap<ClientId, ClientInfo>, ApiError> {
        let (channel, options) = self.channel(&request.channel)?;
        if !options.presence {
            return Err(ErrorCode::NotAvailable.into());
        }
        self.in_time()?;
        self.node.presence(channel).await.map_err(ApiError::not_read)
    }

    pub(super) async fn presence_stats(
        &self,
        request: &api_request::ChannelRequest<'_>,
    ) -> Result<PresenceStats, ApiError> {
        let (channel, options) = self.channel(&request.channel)?;
        if !options.presence {
            return Err(ErrorCode::NotAvailable.into());
        }
        self.in_time()?;
        self.node.presence_stats(channel).await.map_err(ApiError::not_read)
    }

    pub(super) async fn info(&self) -> Result<Vec<NodeInfo>, ApiError> {
        self.in_time()?;
        self.node.nodes().await.map_err(ApiError::not_read)
    }
}
