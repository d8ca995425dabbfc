//! The state of one connection: its namespaces, pending acknowledgements, and an incomplete packet.

use bytes::Bytes;

use super::cursor::{Cursor, Resume};
use crate::id::ClientId;
use crate::publication::Tagged;

/// The state of one connection. Most of it is empty for nearly all of the connection's life.
#[derive(Debug, Default)]
pub(super) struct ConnectionState {
    /// The client's id, known once it has entered its first namespace.
    pub(super) client: Option<ClientId>,
    /// A bit for each namespace that the client is in.
    pub(super) joined: u64,
    /// A bit for each namespace that the client has asked to enter.
    pub(super) entering: u64,
    /// A bit for each namespace that the server has removed the client from: events that were in flight are no violation.
    pub(super) left: u64,
    next: u32,
    /// The number of the last acknowledgement that was requested of the client.
    last_ack: u32,
    /// Events that the client has sent, and those of them that were refused, since they were last counted.
    pub(super) events: u32,
    pub(super) refused: u32,
    rare: Option<Box<RareConnectionState>>,
}

#[derive(Debug, Default)]
struct RareConnectionState {
    awaited: Vec<(u32, ReplyPurpose)>,
    arriving: Option<PartialPacket>,
    /// The client's positions by namespace, where it may resume its session.
    cursors: Vec<(usize, Cursor)>,
    /// The sessions that the client wants to resume, by namespace.
    resumes: Vec<(usize, Resume)>,
    asks: PendingAcks,
}

/// Acknowledgements that were requested of the client.
#[derive(Debug, Default)]
struct PendingAcks {
    /// Numbers and namespaces of those that have not arrived.
    open: Vec<(u32, usize)>,
    answered: Vec<AckReceived>,
    answered_bytes: usize,
}

/// An acknowledgement that the client has sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AckReceived {
    pub number: u32,
    /// The arguments. `None` if no caller waits for the acknowledgement.
    pub arguments: Option<Tagged>,
}

/// The purpose of a command's reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ReplyPurpose {
    /// Acknowledges an event.
    Ack { namespace: usize, ack: u64 },
    /// Refuses a namespace that does not exist.
    Unknown(Box<str>),
}

/// A packet whose attachments have not all arrived.
#[derive(Debug)]
pub(super) struct PartialPacket {
    pub(super) text: Box<str>,
    pub(super) attachments: Vec<Bytes>,
    pub(super) missing: u32,
}

impl ConnectionState {
    pub(super) fn is_in(&self, namespace: usize) -> bool {
        (self.joined | self.entering) & bit(namespace) != 0
    }

    /// Returns a number for a command whose reply is awaited.
    pub(super) fn awaits(&mut self, awaited: ReplyPurpose) -> u32 {
        // 0 is not used as a number, and the highest bits hold the kinds of other commands.
        self.next = self.next % super::id::NUMBER_MAX + 1;
        self.rare.get_or_insert_default().awaited.push((self.next, awaited));
        self.next
    }

    pub(super) fn take_awaited(&mut self, number: u32) -> Option<ReplyPurpose> {
        let rare = self.rare.as_mut()?;
        let at = rare.awaited.iter().position(|(of, _)| *of == number)?;
        let (_, awaited) = rare.awaited.swap_remove(at);
        self.drop_unused();
        Some(awaited)
    }

    pub(super) fn begin(&mut self, arriving: PartialPacket) {
        self.rare.get_or_insert_default().arriving = Some(arriving);
    }

    pub(super) fn arriving(&mut self) -> Option<&mut PartialPacket> {
        self.rare.as_mut()?.arriving.as_mut()
    }

    pub(super) fn take_arriving(&mut self) -> Option<PartialPacket> {
        let arriving = self.rare.as_mut()?.arriving.take();
        self.drop_unused();
        arriving
    }

    pub(super) fn cursor(&self, namespace: usize) -> Option<&Cursor> {
        let cursors = &self.rare.as_ref()?.cursors;
        cursors.iter().find(|(of, _)| *of == namespace).map(|(_, cursor)| cursor)
    }

    pub(super) fn cursor_mut(&mut self, namespace: usize) -> Option<&mut Cursor> {
        let cursors = &mut self.rare.as_mut()?.cursors;
        cursors.iter_mut().find(|(of, _)| *of == namespace).map(|(_, cursor)| cursor)
    }

    /// Replaces the namespace's cursor.
    pub(super) fn set_cursor(&mut self, namespace: usize, cursor: Option<Cursor>) {
        let cursors = &mut self.rare.get_or_insert_default().cursors;
        cursors.retain(|(of, _)| *of != namespace);
        cursors.extend(cursor.map(|cursor| (namespace, cursor)));
        self.drop_unused();
    }

    pub(super) fn set_resume(&mut self, namespace: usize, resume: Resume) {
        let resumes = &mut self.rare.get_or_insert_default().resumes;
        resumes.retain(|(of, _)| *of != namespace);
        resumes.push((namespace, resume));
    }

    pub(super) fn take_resume(&mut self, namespace: usize) -> Option<Resume> {
        let resumes = &mut self.rare.as_mut()?.resumes;
        let at = resumes.iter().position(|(of, _)| *of == namespace)?;
        let (_, resume) = resumes.swap_remove(at);
        self.drop_unused();
        Some(resume)
    }

    /// Returns a number for an event that requests an acknowledgement.
    pub(super) fn ask(&mut self, namespace: usize) -> u32 {
        self.last_ack = self.last_ack.wrapping_add(1);
        self.rare.get_or_insert_default().asks.open.push((self.last_ack, namespace));
        self.last_ack
    }

    /// Forgets an acknowledgement that no caller waits for any more.
    pub(super) fn give_up_ask(&mut self, number: u32) {
        if let Some(rare) = &mut self.rare {
            rare.asks.open.retain(|(open, _)| *open != number);
            self.drop_unused();
        }
    }

    /// Whether this acknowledgement was requested and is still awaited.
    pub(super) fn awaits_answer(&self, namespace: usize, number: u64) -> bool {
        let open = self.rare.as_ref().map_or(&[][..], |rare| &rare.asks.open);
        open.iter().any(|&(open, of)| u64::from(open) == number && of == namespace)
    }

    /// Records an acknowledgement: with `arguments` if it is awaited, without them if it is not.
    pub(super) fn answer(&mut self, number: u32, arguments: Option<Tagged>) {
        let asks = &mut self.rare.get_or_insert_default().asks;
        asks.open.retain(|(open, _)| *open != number || arguments.is_none());
        asks.answered_bytes += arguments.as_ref().map_or(0, |arguments| arguments.data.bytes.len());
        asks.answered.push(AckReceived { number, arguments });
    }

    pub(super) fn take_answered(&mut self) -> Vec<AckReceived> {
        let Some(rare) = &mut self.rare else { return Vec::new() };
        rare.asks.answered_bytes = 0;
        let answered = std::mem::take(&mut rare.asks.answered);
        self.drop_unused();
        answered
    }

    /// Returns the bytes held for an incomplete packet, awaited replies and received acknowledgements.
    pub(super) fn held_bytes(&self) -> usize {
        let Some(rare) = &self.rare else { return 0 };
        let arriving = rare.arriving.as_ref().map_or(0, PartialPacket::bytes);
        arriving + rare.awaited.len() * size_of::<(u32, ReplyPurpose)>() + rare.asks.answered_bytes
    }

    fn drop_unused(&mut self) {
        let is_unused = |rare: &RareConnectionState| {
            let is_idle = rare.arriving.is_none() && rare.awaited.is_empty();
            let asks_nothing = rare.asks.open.is_empty() && rare.asks.answered.is_empty();
            is_idle && asks_nothing && rare.cursors.is_empty() && rare.resumes.is_empty()
        };
        if self.rare.as_deref().is_some_and(is_unused) {
            self.rare = None;
        }
    }
}

impl PartialPacket {
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }
}

pub(super) fn bit(namespace: usize) -> u64 {
    1 << (namespace as u64 & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_small_and_gives_back_what_it_took() {
        assert!(size_of::<ConnectionState>() <= 80, "{} bytes", size_of::<ConnectionState>());
        let mut state = ConnectionState::default();
        let first = state.awaits(ReplyPurpose::Ack { namespace: 0, ack: 7 });
        let second = state.awaits(ReplyPurpose::Unknown("/x".into()));
        state.begin(PartialPacket {
            text: "5".into(),
            attachments: vec![Bytes::from_static(b"abc")],
            missing: 1,
        });
        assert!(state.held_bytes() > 4);
        assert_eq!(state.take_awaited(first), Some(ReplyPurpose::Ack { namespace: 0, ack: 7 }));
        assert_eq!(state.take_awaited(first), None);
        assert!(state.take_arriving().is_some());
        assert_eq!(state.take_awaited(second), Some(ReplyPurpose::Unknown("/x".into())));
        assert!(state.rare.is_none() && state.held_bytes() == 0);
    }
}
