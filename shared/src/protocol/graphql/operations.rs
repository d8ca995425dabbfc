//! The operations of one client: their channels, stages and positions.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::encode;
use super::{Dialect, FieldSelection, PayloadRecord, number};
use crate::command::{Command, Request};
use crate::disconnect::Disconnect;
use crate::position::StreamPosition;
use crate::protocol::Encoded;
use crate::push::UnsubscribeCode;

#[derive(Debug, Default)]
pub(super) struct OperationState {
    /// Whether the client has sent `connection_init`.
    pub(super) initialised: bool,
    /// Whether the connection was accepted.
    pub(super) acknowledged: bool,
    pub(super) operations: Vec<Operation>,
    /// The number of the last operation.
    last_number: u32,
    /// Channels that have lost a reader and may have none left.
    left: Vec<Box<str>>,
    /// The close with which the connection must end, if any.
    pub(super) close: Option<Disconnect>,
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) id: Box<str>,
    /// The number of the operation's command.
    pub(super) number: u32,
    /// The channel; empty while only the application knows it.
    pub(super) channel: Box<str>,
    pub(super) stage: OperationStage,
    /// Whether results carry positions, as the client keeps track of them.
    pub(super) sends_positions: bool,
    /// The offset after which the client asked to recover.
    pub(super) since: Option<u64>,
    /// The position up to which the client has received publications.
    pub(super) position: Option<StreamPosition>,
}

#[derive(Clone, Debug)]
pub(super) enum OperationStage {
    /// The operation has not been answered yet.
    Asked(Arc<FieldSelection>),
    Live(Arc<FieldSelection>),
    /// The operation has this one result.
    Result(Bytes),
    /// The operation fails with these errors, a JSON list.
    Errors(Bytes),
}

impl OperationState {
    pub(super) fn find(&self, id: &str) -> Option<usize> {
        self.operations.iter().position(|one| *one.id == *id)
    }

    pub(super) fn has_live(&self) -> bool {
        self.operations.iter().any(|one| matches!(one.stage, OperationStage::Live(_)))
    }

    /// Returns the number for the next operation's command.
    pub(super) fn next_number(&mut self) -> u32 {
        // A client has far fewer operations than numbers, so that none is reused while its operation exists.
        self.last_number = self.last_number.wrapping_add(1).max(number::OPERATIONS);
        self.last_number
    }

    /// Ends an operation. Anything that still arrives for it is dropped, even if its id is in use again.
    pub(super) fn remove(&mut self, at: usize) -> Operation {
        let gone = self.operations.remove(at);
        if matches!(gone.stage, OperationStage::Asked(_) | OperationStage::Live(_))
            && !gone.channel.is_empty()
        {
            self.leave(gone.channel.clone());
        }
        gone
    }

    /// Notes that a channel has lost a reader.
    pub(super) fn leave(&mut self, channel: Box<str>) {
        if !self.left.contains(&channel) {
            self.left.push(channel);
        }
    }

    /// Returns commands to leave the channels that no operation reads any more. Returns none while the channel of some
    /// operation is unknown, as it may be one of them.
    pub(super) fn settle(&mut self) -> Vec<Command> {
        let is_open =
            |one: &Operation| matches!(one.stage, OperationStage::Asked(_)) && one.channel.is_empty();
        if self.left.is_empty() || self.operations.iter().any(is_open) {
            return Vec::new();
        }
        let left = std::mem::take(&mut self.left).into_iter();
        let unread = left.filter(|channel| !self.operations.iter().any(|one| one.channel == *channel));
        let unsubscribe =
            |channel| Command { id: number::UNSUBSCRIBE, request: Request::Unsubscribe { channel } };
        unread.map(unsubscribe).collect()
    }

    /// Writes a publication for each operation that reads its channel. `result` applies a selection to it.
    pub(super) fn deliver(
        &mut self,
        dialect: Dialect,
        record: &PayloadRecord,
        out: &mut BytesMut,
        mut result: impl FnMut(&Arc<FieldSelection>) -> Bytes,
    ) -> Vec<usize> {
        let mut lengths = Vec::new();
        for one in &mut self.operations {
            let OperationStage::Live(selection) = &one.stage else { continue };
            if one.channel.as_bytes() != &record.channel[..] || one.has(record.position) {
                continue;
            }
            let selection = selection.clone();
            one.position = record.position.or(one.position);
            let position = record.position.filter(|_| one.sends_positions);
            let start = out.len();
            encode::next(dialect, &one.id, &result(&selection), position, out);
            lengths.push(out.len() - start);
        }
        lengths
    }

    /// Ends the operations on a channel whose subscription the server has ended.
    pub(super) fn end_channel(
        &mut self,
        dialect: Dialect,
        channel: &str,
        code: UnsubscribeCode,
        out: &mut BytesMut,
    ) -> Encoded {
        let mut lengths = Vec::new();
        let mut at = 0;
        while let Some(one) = self.operations.get(at) {
            if *one.channel != *channel || !matches!(one.stage, OperationStage::Live(_)) {
                at += 1;
                continue;
            }
            // The session has left the channel already.
            let gone = self.operations.remove(at);
            match code {
                UnsubscribeCode::Server => self.complete(dialect, &gone.id, out, &mut lengths),
                UnsubscribeCode::InsufficientState
                | UnsubscribeCode::Expired
                | UnsubscribeCode::StateInvalidated => {
                    let errors = encode::ended(code);
                    self.fail(dialect, &gone.id, &errors, out, &mut lengths);
                }
            }
        }
        super::texts(lengths)
    }

    /// Completes an operation. If the operation has a stream of its own, the end of the stream tells the client.
    pub(super) fn complete(
        &mut self,
        dialect: Dialect,
        id: &str,
        out: &mut BytesMut,
        lengths: &mut Vec<usize>,
    ) {
        match dialect {
            Dialect::StreamEach => self.close = Some(Disconnect::NORMAL),
            _ => {
                let start = out.len();
                encode::complete(dialect, id, out);
                lengths.push(out.len() - start);
            }
        }
    }

    /// Ends an operation with these errors, a JSON list.
    pub(super) fn fail(
        &mut self,
        dialect: Dialect,
        id: &str,
        errors: &[u8],
        out: &mut BytesMut,
        lengths: &mut Vec<usize>,
    ) {
        let start = out.len();
        encode::error(dialect, id, errors, out);
        lengths.push(out.len() - start);
        if dialect.is_streamed() {
            self.complete(dialect, id, out, lengths);
        }
    }
}

impl Operation {
    /// Whether the client has received this publication before. This happens if the operation joined the channel later
    /// than others, or recovered by itself.
    fn has(&self, position: Option<StreamPosition>) -> bool {
        match (self.position, position) {
            (Some(own), Some(one)) => own.epoch == one.epoch && one.offset <= own.offset,
            _ => false,
        }
    }
}
