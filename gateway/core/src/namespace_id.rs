//! The number under which metrics count what happens in a namespace's channels.

/// The number of a namespace, which stays the same for as long as a node runs. Where no numbers have been assigned, all
/// channels have the number of the default namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NamespaceId(pub u8);

impl NamespaceId {
    /// The number of channels without a namespace.
    pub const DEFAULT: Self = Self(0);
    /// The number of channels whose namespace does not exist.
    pub const UNKNOWN: Self = Self(1);
}
