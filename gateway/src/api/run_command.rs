//! Executes a command, or a batch of them.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use gateway_core::channel_rules::ChannelOptions;
use rustc_hash::FxHashMap;
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::protocol::socketio::Namespaces;

use super::api_config::ApiConfig;
use super::api_error::ApiError;
use super::api_request::{BatchRequest, Command};
use super::api_response::ApiResponse;
use super::published_message;
use super::response_budget::ResponseBudget;
use crate::node::Node;

/// The most commands of one request in flight at once.
pub(super) const CONCURRENT: usize = 256;

/// A request being served.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApiCall<'a> {
    pub(super) config: &'a ApiConfig,
    pub(super) node: &'a Node,
    pub(super) body: &'a Bytes,
    /// No command is begun after this.
    pub(super) deadline: Instant,
    pub(super) room: &'a ResponseBudget,
    /// The namespaces of Socket.IO, if it is enabled.
    pub(super) namespaces: Option<&'a Namespaces>,
    /// The number of commands that may be in flight together, and so share the response budget.
    pub(super) side_by_side: usize,
}

impl<'a> ApiCall<'a> {
    pub(super) async fn run(&self, command: &Command<'_>) -> Result<ApiResponse, ApiError> {
        if command.allows_long_answers() && self.room.left() == 0 {
            let max = self.config.answer_bytes_max;
            let detail = format!(
                "the answers of this request have reached {max} bytes: send this command in another request"
            );
            return Err(ApiError::with_detail(ErrorCode::LimitExceeded, detail));
        }
        let answer = self.answer(command).await?;
        self.room.take(answer.bytes());
        Ok(answer)
    }

    /// Returns the most bytes of history for one command.
    pub(super) fn share(&self) -> u32 {
        let side_by_side = u32::try_from(self.side_by_side).unwrap_or(u32::MAX).max(1);
        self.room.left().min(self.config.answer_bytes_max / side_by_side)
    }

    /// Returns when the request was admitted.
    pub(super) fn came(&self) -> Instant {
        self.deadline.checked_sub(self.config.deadline()).unwrap_or_else(Instant::now)
    }

    async fn answer(&self, command: &Command<'_>) -> Result<ApiResponse, ApiError> {
        Ok(match command {
            Command::Publish(request) => ApiResponse::Published(self.publish(request).await?),
            Command::Broadcast(request) => ApiResponse::Broadcast(self.broadcast(request).await?),
            Command::History(request) => ApiResponse::History(self.history(request).await?),
            Command::HistoryRemove(request) => {
                self.history_remove(request).await.map(|()| ApiResponse::Done)?
            }
            Command::Presence(request) => ApiResponse::Presence(self.presence(request).await?),
            Command::PresenceStats(request) => {
                ApiResponse::PresenceStats(self.presence_stats(request).await?)
            }
            Command::Channels(request) => ApiResponse::Channels(self.channels(request).await?),
            Command::Connections(request) => ApiResponse::Connections(self.connections(request).await?),
            Command::Inspect(request) => ApiResponse::Found(self.inspect(request).await?),
            Command::Closes(request) => ApiResponse::Found(self.closes(request).await?),
            Command::Explain(request) => ApiResponse::Found(self.explain(request).await?),
            Command::Info(_) => ApiResponse::Info(self.info().await?),
            Command::Shed(request) => ApiResponse::Found(self.shed(request).await?),
            Command::Disconnect(request) => self.disconnect(request).await.map(|()| ApiResponse::Done)?,
            Command::Unsubscribe(request) => self.unsubscribe(request).await.map(|()| ApiResponse::Done)?,
            Command::Subscribe(request) => self.subscribe(request).await.map(|()| ApiResponse::Done)?,
            Command::Refresh(request) => self.refresh(request).await.map(|()| ApiResponse::Done)?,
            Command::MapPublish(request) => ApiResponse::Changed(self.map_publish(request).await?),
            Command::MapRemove(request) => ApiResponse::Changed(self.map_remove(request).await?),
            Command::MapReadState(request) => ApiResponse::State(self.map_read_state(request).await?),
            Command::MapReadStream(request) => ApiResponse::Stream(self.map_read_stream(request).await?),
            Command::MapStats(request) => ApiResponse::MapStats(self.map_stats(request).await?),
            Command::MapClear(request) => self.map_clear(request).await.map(|()| ApiResponse::Done)?,
            Command::SharedPollPublish(request) => {
                self.shared_poll_publish(request).await.map(|()| ApiResponse::Done)?
            }
            Command::Rpc(request) => ApiResponse::Called(self.rpc(request).await?),
            Command::SocketioEmit(request) => ApiResponse::Published(self.socketio_emit(request).await?),
            Command::SocketioAsk(request) => ApiResponse::Asked(self.socketio_ask(request).await?),
            Command::SocketioJoin(request) => {
                self.socketio_join(request).await.map(|()| ApiResponse::Done)?
            }
            Command::SocketioLeave(request) => {
                self.socketio_leave(request).await.map(|()| ApiResponse::Done)?
            }
            Command::SocketioDisconnect(request) => {
                self.socketio_disconnect(request).await.map(|()| ApiResponse::Done)?
            }
            Command::SocketioSockets(request) => ApiResponse::Sockets(self.socketio_sockets(request).await?),
            Command::Unknown => return Err(ErrorCode::MethodNotFound.into()),
        })
    }

    /// Answers every command, in the order of the batch. Publications to one channel are made in that order; those to
    /// different channels are in flight together. Any other command waits for all before it, and those after wait for it,
    /// unless the batch is parallel.
    pub(super) async fn run_batch(
        &self,
        batch: &BatchRequest<'_>,
    ) -> Result<Vec<Result<ApiResponse, ApiError>>, ApiError> {
        let max = self.config.batch_commands_max;
        if batch.commands.len() > max {
            return Err(ApiError::bad_request(format!("the batch holds more than {max} commands")));
        }
        let side_by_side = if batch.parallel { batch.commands.len().clamp(1, CONCURRENT) } else { 1 };
        let call = Self { side_by_side, ..*self };
        let mut answers: Vec<Option<Result<ApiResponse, ApiError>>> =
            batch.commands.iter().map(|_| None).collect();
        for stage in stages(batch) {
            let chains = stage.into_iter().map(|chain| call.run_chain(batch, chain));
            let mut running = futures_util::stream::iter(chains).buffer_unordered(CONCURRENT);
            while let Some(done) = running.next().await {
                for (at, answer) in done {
                    answers[at] = Some(answer);
                }
            }
        }
        Ok(answers.into_iter().map(|answer| answer.unwrap_or(Err(ErrorCode::Internal.into()))).collect())
    }

    /// Runs the commands of one chain: the publications of a channel, or a single command of any kind.
    async fn run_chain(
        &self,
        batch: &BatchRequest<'_>,
        chain: Vec<usize>,
    ) -> Vec<(usize, Result<ApiResponse, ApiError>)> {
        if let [at] = chain[..] {
            return vec![(at, self.run(&batch.commands[at]).await)];
        }
        let publish = |at: &usize| match &batch.commands[*at] {
            Command::Publish(publish) => Some(publish),
            _ => None,
        };
        let row: Vec<_> = chain.iter().filter_map(publish).collect();
        let made = self.publish_row(&row).await.into_iter();
        chain.into_iter().zip(made.map(|made| made.map(ApiResponse::Published))).collect()
    }

    /// Returns the channel of this name and its options.
    pub(super) fn channel(&self, name: &str) -> Result<(Channel, Arc<ChannelOptions>), ApiError> {
        published_message::channel(&self.node.rules(), name)
    }

    pub(super) fn in_time(&self) -> Result<(), ApiError> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(ErrorCode::Internal.into()) }
    }
}

/// Returns the commands of a batch by index: stages that run one after the other, each with chains that run in parallel,
/// each with commands that run one after the other.
fn stages(batch: &BatchRequest<'_>) -> Vec<Vec<Vec<usize>>> {
    let mut stages = Vec::new();
    let mut stage: Vec<Vec<usize>> = Vec::new();
    let mut chains: FxHashMap<&str, usize> = FxHashMap::default();
    for (at, command) in batch.commands.iter().enumerate() {
        match command {
            Command::Publish(publish) => {
                let chain = *chains.entry(&publish.channel).or_insert_with(|| {
                    stage.push(Vec::new());
                    stage.len() - 1
                });
                stage[chain].push(at);
            }
            _ if batch.parallel => stage.push(vec![at]),
            _ => {
                chains.clear();
                stages.push(std::mem::take(&mut stage));
                stages.push(vec![vec![at]]);
            }
        }
    }
    stages.push(stage);
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(parallel: bool) -> Vec<Vec<Vec<usize>>> {
        let body = format!(
            r#"{{"parallel":{parallel},"commands":[
                {{"publish":{{"channel":"a"}}}}, {{"publish":{{"channel":"b"}}}}, {{"publish":{{"channel":"a"}}}},
                {{"info":{{}}}},
                {{"publish":{{"channel":"a"}}}}
            ]}}"#
        );
        stages(&serde_json::from_str(&body).unwrap())
    }

    #[test]
    fn publications_to_one_channel_stay_in_order_and_other_commands_wait_for_them() {
        assert_eq!(staged(false), [vec![vec![0, 2], vec![1]], vec![vec![3]], vec![vec![4]]]);
    }

    #[test]
    fn in_a_parallel_batch_only_the_order_of_each_channel_is_kept() {
        assert_eq!(staged(true), [vec![vec![0, 2, 4], vec![1], vec![3]]]);
    }
}
