//! Commands that wait for earlier ones.

use std::collections::VecDeque;
use std::mem::size_of;

use shared::command::{Command, Connect, Event, Forward, Request};
use shared::publication::{Payload, Tagged};

use super::settings::Settings;

/// Bounded in commands and in bytes. A session has one only while something waits.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    commands: VecDeque<Command>,
    bytes: usize,
}

/// There are more commands than a client may have waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Overflow;

impl Backlog {
    pub(super) fn push(&mut self, command: Command, settings: &Settings) -> Result<(), Overflow> {
        let bytes = self.bytes + weight(&command);
        if self.commands.len() >= settings.queued_commands_max as usize
            || bytes > settings.queued_bytes_max as usize
        {
            return Err(Overflow);
        }
        self.bytes = bytes;
        self.commands.push_back(command);
        Ok(())
    }

    /// What is a part of the command that is under way comes before all others.
    pub(super) fn push_first(&mut self, command: Command) {
        self.bytes += weight(&command);
        self.commands.push_front(command);
    }

    pub(super) fn first(&self) -> Option<&Command> {
        self.commands.front()
    }

    pub(super) fn pop(&mut self) -> Option<Command> {
        let command = self.commands.pop_front()?;
        self.bytes -= weight(&command);
        Some(command)
    }

    /// How many commands wait, and how many bytes they hold.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.commands.len(), self.bytes)
    }

    /// Whether half of what is allowed waits: time to let the client wait too.
    pub(super) fn is_half_full(&self, settings: &Settings) -> bool {
        self.commands.len() >= (settings.queued_commands_max as usize).div_ceil(2)
            || self.bytes >= (settings.queued_bytes_max as usize).div_ceil(2)
    }
}

/// The bytes a command holds.
fn weight(command: &Command) -> usize {
    let held = match &command.request {
        Request::Connect(connect) => of_connect(connect),
        Request::Enter(enter) => of_connect(&enter.connect) + enter.channel.len(),
        Request::Forward(forward) => {
            forward.channel.len() + forward.event.len() + of_said(&forward.said) + size_of::<Forward>()
        }
        Request::Event(event) => {
            event.channel.len() + event.event.len() + of_said(&event.said) + size_of::<Event>()
        }
        Request::Subscribe(subscribe) => {
            let filter = subscribe.filter.as_ref().map_or(0, |filter| filter.weight());
            let page = subscribe.page.as_ref().map_or(0, |page| page.cursor.len());
            let texts = subscribe.channel.len() + subscribe.token.len() + subscribe.epoch.len();
            let data = payload(subscribe.data.as_deref()) + payload(subscribe.ask.as_deref());
            texts + subscribe.delta.len() + data + filter + page
        }
        Request::Publish { channel, data } => channel.len() + data.bytes.len(),
        Request::PublishKey { channel, key, data, .. } => channel.len() + key.len() + data.bytes.len(),
        Request::Track { channel, batches, untrack } => {
            let items = batches.iter().flat_map(|batch| &batch.items);
            let keys: usize = items.map(|item| item.0.len() + size_of_val(item)).sum();
            let untrack: usize = untrack.iter().map(|key| key.len() + size_of_val(key)).sum();
            channel.len() + keys + untrack + batches.iter().map(|batch| batch.signature.len()).sum::<usize>()
        }
        Request::Untrack { channel, keys } => {
            channel.len() + keys.iter().map(|key| key.len() + size_of_val(key)).sum::<usize>()
        }
        Request::History(history) => {
            history.channel.len() + history.since.as_ref().map_or(0, |since| since.epoch.len())
        }
        Request::Unsubscribe { channel }
        | Request::Presence { channel }
        | Request::PresenceStats { channel } => channel.len(),
        Request::Refresh { token } => token.len(),
        Request::SubRefresh { channel, token } => channel.len() + token.len(),
        Request::Send { data } => data.bytes.len(),
        Request::Ask { channel, data } => channel.len() + data.bytes.len(),
        Request::Rpc { method, data } => method.len() + data.bytes.len(),
        Request::Emit { channel, event, data } => channel.len() + event.len() + data.bytes.len(),
        Request::SignIn { token, data } => token.len() + data.bytes.len(),
        Request::Ping | Request::Pong | Request::Refused(_) | Request::Unknown => 0,
    };
    held + size_of::<Command>()
}

fn of_connect(connect: &Connect) -> usize {
    let subs: usize = connect.subs.keys().map(|channel| channel.len() + size_of::<Command>()).sum();
    let headers: usize = connect.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    connect.token.len() + payload(connect.data.as_ref()) + subs + headers
}

fn of_said(said: &Tagged) -> usize {
    said.data.bytes.len() + said.tags.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
}

fn payload(data: Option<&Payload>) -> usize {
    data.map_or(0, |data| data.bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsubscribe(channel: &str) -> Command {
        Command { id: 1, request: Request::Unsubscribe { channel: channel.into() } }
    }

    #[test]
    fn the_number_of_commands_is_bounded() {
        let settings = Settings { queued_commands_max: 3, ..Settings::default() };
        let mut backlog = Backlog::default();
        assert_eq!(backlog.push(unsubscribe("a"), &settings), Ok(()));
        assert!(!backlog.is_half_full(&settings));
        assert_eq!(backlog.push(unsubscribe("b"), &settings), Ok(()));
        assert!(backlog.is_half_full(&settings));
        assert_eq!(backlog.push(unsubscribe("c"), &settings), Ok(()));
        assert_eq!(backlog.push(unsubscribe("d"), &settings), Err(Overflow));
    }

    #[test]
    fn their_bytes_are_bounded_and_given_back() {
        let settings = Settings { queued_bytes_max: 2_000, ..Settings::default() };
        let mut backlog = Backlog::default();
        let long = "x".repeat(1_200);
        assert_eq!(backlog.push(unsubscribe(&long), &settings), Ok(()));
        assert!(backlog.is_half_full(&settings));
        assert_eq!(backlog.push(unsubscribe(&long), &settings), Err(Overflow));
        assert_eq!(backlog.pop(), Some(unsubscribe(&long)));
        assert_eq!(backlog.bytes, 0);
        assert_eq!(backlog.push(unsubscribe(&long), &settings), Ok(()));
    }
}
