//! The version of published content, as its source counts it.

/// A version of some content, as its source counts it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// At least 1.
    pub number: u64,
    /// The epoch of the source's count; numbers of different epochs cannot be compared. Empty: the epoch of the version
    /// before.
    pub epoch: Box<str>,
}

impl Version {
    /// Whether this version is no newer than `last`.
    pub fn is_stale(&self, last: &Self) -> bool {
        (self.epoch.is_empty() || self.epoch == last.epoch) && self.number <= last.number
    }
}
