//! Divides the publications of a pipeline among script calls, and the answer of a call among its publications.

use std::ops::Range;

use redis::{Cmd, Value};

use super::publish_script::{OutgoingPublication, unexpected};
use super::redis_link::OpenLink;
use crate::broker::BrokerError;

/// The most publications of one call. Redis does nothing else during a call, which takes a seventh of a millisecond.
const CALL_MAX: usize = 16;
/// The most bytes of the publications of one call, unless a single one has more.
const CALL_BYTES_MAX: usize = 64 << 10;

/// Returns the range of publications that each command makes. The order is kept: only neighbors share a call, and in a
/// cluster only those of one slot. The flag `alone` marks a publication that shares its call with no other.
pub(super) fn divide<'a>(
    all: impl IntoIterator<Item = (&'a OutgoingPublication, bool)>,
) -> Vec<Range<usize>> {
    let mut calls: Vec<Range<usize>> = Vec::new();
    let (mut bytes, mut open) = (0, None);
    for (index, (outgoing, alone)) in all.into_iter().enumerate() {
        let joins = (outgoing.shares_a_call() && !alone).then(|| outgoing.slot());
        bytes += outgoing.bytes();
        match calls.last_mut() {
            Some(call)
                if joins.is_some() && joins == open && call.len() < CALL_MAX && bytes <= CALL_BYTES_MAX =>
            {
                call.end += 1;
            }
            _ => {
                calls.push(index..index + 1);
                bytes = outgoing.bytes();
            }
        }
        open = joins;
    }
    calls
}

/// Returns the command that makes these publications.
pub(super) fn command<'a>(
    call: impl ExactSizeIterator<Item = &'a OutgoingPublication> + Clone,
    up: &OpenLink,
) -> Option<Cmd> {
    match call.len() {
        1 => call.clone().next().map(|outgoing| outgoing.command(up)),
        _ => super::publish_script::command_of_several(call.filter_map(OutgoingPublication::script_args), up),
    }
}

/// Returns the result of each of the `count` publications of one call.
pub(super) fn split(answer: Option<Value>, count: usize) -> Vec<Result<Value, BrokerError>> {
    let missing = || BrokerError::Unexpected("an answer is missing".into());
    match answer {
        None => (0..count).map(|_| Err(missing())).collect(),
        Some(answer) if count == 1 => vec![Ok(answer)],
        Some(Value::Array(answers)) if answers.len() == count => answers.into_iter().map(Ok).collect(),
        // Redis refused the whole call.
        Some(error @ Value::ServerError(_)) => vec![Ok(error); count],
        Some(_) => (0..count).map(|_| Err(unexpected("publish"))).collect(),
    }
}
