//! The operations of one client: which there are, which channel each reads, and how far.

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
    /// The client has said who it is.
    pub(super) initialised: bool,
    /// It has been let in.
    pub(super) acknowledged: bool,
    pub(super) operations: Vec<Operation>,
    /// Of the last operation.
    last_number: u32,
    /// Channels that have lost a reader, and may have none left.
    left: Vec<Box<str>>,
    /// The connection is to end.
    pub(super) close: Option<Disconnect>,
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) id: Box<str>,
    /// Of its command.
    pub(super) number: u32,
    /// Empty as long as only the application knows it.
    pub(super) channel: Box<str>,
    pub(super) stage: OperationStage,
    /// Its client keeps count of where it is.
    pub(super) tells_positions: bool,
    /// Its client has asked for what it missed after this offset.
    pub(super) since: Option<u64>,
    /// What it has been given up to.
    pub(super) position: Option<StreamPosition>,
}

#[derive(Clone, Debug)]
pub(super) enum OperationStage {
    /// It has not been answered yet.
    Asked(Arc<FieldSelection>),
    Live(Arc<FieldSelection>),
    /// This is its result, and all of it.
    Result(Bytes),
    /// These errors are, as a JSON list.
    Errors(Bytes),
}

impl OperationState {
    pub(super) fn find(&self, id: &str) -> Option<usize> {
        self.operations.iter().position(|one| *one.id == *id)
    }

    pub(super) fn has_live(&self) -> bool {
        self.operations.iter().any(|one| matches!(one.stage, OperationStage::Live(_)))
    }

    /// Under which number the next operation is asked for.
    pub(super) fn next_number(&mut self) -> u32 {
        // Nobody has so many that one from before the turn is still there.
        self.last_number = self.last_number.wrapping_add(1).max(number::OPERATIONS);
        self.last_number
    }

    /// Ends an operation. What comes for it from now on reaches nobody, whoever has its id then.
    pub(super) fn remove(&mut self, at: usize) -> Operation {
        let gone = self.operations.remove(at);
        if matches!(gone.stage, OperationStage::Asked(_) | OperationStage::Live(_))
            && !gone.channel.is_empty()
        {
            self.leave(gone.channel.clone());
        }
        gone
    }

    /// A channel has lost a reader.
    pub(super) fn leave(&mut self, channel: Box<str>) {
        if !self.left.contains(&channel) {
            self.left.push(channel);
        }
    }

    /// The channels that nobody reads any more. As long as the channel of some operation is not known, it may be any.
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

    /// Writes what a publication is to each operation that reads its channel. `result` makes it of a selection.
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
            let position = record.position.filter(|_| one.tells_positions);
            let start = out.len();
            encode::next(dialect, &one.id, &result(&selection), position, out);
            lengths.push(out.len() - start);
        }
        lengths
    }

    /// The server has ended the subscription that these operations read.
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
            // The session has left it already.
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

    /// Tells that an operation is over. Where it has a stream of its own, that ends, and says so as it does.
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

    /// Tells that an operation is over, and that this is why. `errors`: a JSON list.
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
    /// Whether its client has been given this one before: it came to the channel later than others, or was brought up to
    /// date by itself.
    fn has(&self, position: Option<StreamPosition>) -> bool {
        match (self.position, position) {
            (Some(own), Some(one)) => own.epoch == one.epoch && one.offset <= own.offset,
            _ => false,
        }
    }
}
