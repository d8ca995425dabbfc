//! What names a client of a worker to whoever wants to tell it something later.

/// Names a client of one worker for ever: the place in its table, and which tenant of that place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ClientKey {
    pub(crate) worker: u16,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}
