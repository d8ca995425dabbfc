//! What one connection remembers: which namespaces it is in, whose answers it waits for, and the packet that is arriving.

use bytes::Bytes;

use crate::id::ClientId;

/// One connection's memory. Most of it is empty for nearly all of a connection's life.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Known once the first namespace was entered.
    pub(super) client: Option<ClientId>,
    /// A bit for each namespace that it is in.
    pub(super) joined: u64,
    /// A bit for each that it has asked to enter.
    pub(super) entering: u64,
    /// A bit for each that the server has put it out of: what was on its way then is no breach.
    pub(super) left: u64,
    next: u32,
    rare: Option<Box<Rare>>,
}

#[derive(Debug, Default)]
struct Rare {
    awaited: Vec<(u32, Awaited)>,
    arriving: Option<Arriving>,
}

/// What the answer to a command is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Awaited {
    /// An event that asks for an acknowledgement.
    Ack { namespace: usize, ack: u64 },
    /// A namespace that is none.
    Unknown(Box<str>),
}

/// A packet whose attachments have not all come.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) text: Box<str>,
    pub(super) attachments: Vec<Bytes>,
    pub(super) missing: u32,
}

impl State {
    pub(super) fn is_in(&self, namespace: usize) -> bool {
        (self.joined | self.entering) & bit(namespace) != 0
    }

    /// A number for the command whose answer is awaited.
    pub(super) fn awaits(&mut self, awaited: Awaited) -> u32 {
        // 0 is no number, and the highest bits say of what kind others are.
        self.next = self.next % super::id::NUMBER_MAX + 1;
        self.rare.get_or_insert_default().awaited.push((self.next, awaited));
        self.next
    }

    pub(super) fn take_awaited(&mut self, number: u32) -> Option<Awaited> {
        let rare = self.rare.as_mut()?;
        let at = rare.awaited.iter().position(|(of, _)| *of == number)?;
        let (_, awaited) = rare.awaited.swap_remove(at);
        self.drop_unused();
        Some(awaited)
    }

    pub(super) fn begin(&mut self, arriving: Arriving) {
        self.rare.get_or_insert_default().arriving = Some(arriving);
    }

    pub(super) fn arriving(&mut self) -> Option<&mut Arriving> {
        self.rare.as_mut()?.arriving.as_mut()
    }

    pub(super) fn take_arriving(&mut self) -> Option<Arriving> {
        let arriving = self.rare.as_mut()?.arriving.take();
        self.drop_unused();
        arriving
    }

    /// Bytes that are kept of what is arriving and of what is awaited.
    pub(super) fn held_bytes(&self) -> usize {
        let Some(rare) = &self.rare else { return 0 };
        let arriving = rare.arriving.as_ref().map_or(0, Arriving::bytes);
        arriving + rare.awaited.len() * size_of::<(u32, Awaited)>()
    }

    fn drop_unused(&mut self) {
        if self.rare.as_ref().is_some_and(|rare| rare.arriving.is_none() && rare.awaited.is_empty()) {
            self.rare = None;
        }
    }
}

impl Arriving {
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
        assert!(size_of::<State>() <= 80, "{} bytes", size_of::<State>());
        let mut state = State::default();
        let first = state.awaits(Awaited::Ack { namespace: 0, ack: 7 });
        let second = state.awaits(Awaited::Unknown("/x".into()));
        state.begin(Arriving { text: "5".into(), attachments: vec![Bytes::from_static(b"abc")], missing: 1 });
        assert!(state.held_bytes() > 4);
        assert_eq!(state.take_awaited(first), Some(Awaited::Ack { namespace: 0, ack: 7 }));
        assert_eq!(state.take_awaited(first), None);
        assert!(state.take_arriving().is_some());
        assert_eq!(state.take_awaited(second), Some(Awaited::Unknown("/x".into())));
        assert!(state.rare.is_none() && state.held_bytes() == 0);
    }
}
