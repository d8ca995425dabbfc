//! The queue of commands that wait for earlier ones.

use std::collections::VecDeque;

use shared::command::Command;

use super::settings::SessionSettings;

/// Commands that wait, bounded in number and in bytes. A session has a backlog only while commands wait.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    commands: VecDeque<Command>,
    bytes: usize,
}

/// The error when a client has more commands waiting than it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BacklogFull;

impl Backlog {
    pub(super) fn push(&mut self, command: Command, settings: &SessionSettings) -> Result<(), BacklogFull> {
        let bytes = self.bytes + command.bytes();
        if self.commands.len() >= settings.queued_commands_max as usize
            || bytes > settings.queued_bytes_max as usize
        {
            return Err(BacklogFull);
        }
        self.bytes = bytes;
        self.commands.push_back(command);
        Ok(())
    }

    /// Puts a command that belongs to the command in flight before all others.
    pub(super) fn push_first(&mut self, command: Command) {
        self.bytes += command.bytes();
        self.commands.push_front(command);
    }

    pub(super) fn first(&self) -> Option<&Command> {
        self.commands.front()
    }

    pub(super) fn pop(&mut self) -> Option<Command> {
        let command = self.commands.pop_front()?;
        self.bytes -= command.bytes();
        Some(command)
    }

    /// Returns how many commands wait, and how many bytes they hold.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.commands.len(), self.bytes)
    }

    /// Returns whether the backlog is half full, so that the client's socket should not be read for now.
    pub(super) fn is_half_full(&self, settings: &SessionSettings) -> bool {
        self.commands.len() >= (settings.queued_commands_max as usize).div_ceil(2)
            || self.bytes >= (settings.queued_bytes_max as usize).div_ceil(2)
    }
}

#[cfg(test)]
mod tests {
    use shared::command::Request;

    use super::*;

    fn unsubscribe(channel: &str) -> Command {
        Command { id: 1, request: Request::Unsubscribe { channel: channel.into() } }
    }

    #[test]
    fn the_number_of_commands_is_bounded() {
        let settings = SessionSettings { queued_commands_max: 3, ..SessionSettings::default() };
        let mut backlog = Backlog::default();
        assert_eq!(backlog.push(unsubscribe("a"), &settings), Ok(()));
        assert!(!backlog.is_half_full(&settings));
        assert_eq!(backlog.push(unsubscribe("b"), &settings), Ok(()));
        assert!(backlog.is_half_full(&settings));
        assert_eq!(backlog.push(unsubscribe("c"), &settings), Ok(()));
        assert_eq!(backlog.push(unsubscribe("d"), &settings), Err(BacklogFull));
    }

    #[test]
    fn their_bytes_are_bounded_and_given_back() {
        let settings = SessionSettings { queued_bytes_max: 2_000, ..SessionSettings::default() };
        let mut backlog = Backlog::default();
        let long = "x".repeat(1_200);
        assert_eq!(backlog.push(unsubscribe(&long), &settings), Ok(()));
        assert!(backlog.is_half_full(&settings));
        assert_eq!(backlog.push(unsubscribe(&long), &settings), Err(BacklogFull));
        assert_eq!(backlog.pop(), Some(unsubscribe(&long)));
        assert_eq!(backlog.bytes, 0);
        assert_eq!(backlog.push(unsubscribe(&long), &settings), Ok(()));
    }
}
