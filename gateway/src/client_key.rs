//! Identifies a client of a worker for messages that come later.

/// The identity of a client of one worker, unique for ever: its slot in the worker's table, and the generation of the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ClientKey {
    pub(crate) worker: u16,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}
