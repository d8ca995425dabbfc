//! The number that what happens in a namespace's channels is counted by.

/// A namespace by its number, which stays the same for as long as a node runs. Where nobody has given numbers, all channels
/// have that of the default.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NamespaceId(pub u8);

impl NamespaceId {
    /// Of channels without a namespace.
    pub const DEFAULT: Self = Self(0);
    /// Of channels that name a namespace which does not exist.
    pub const UNKNOWN: Self = Self(1);
}
