//! The version of what is published, as its source counts.

/// Of the content, as its source counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// At least 1.
    pub number: u64,
    /// In which the source counts: numbers of another one say nothing. Empty: that of whatever came before.
    pub epoch: Box<str>,
}

impl Version {
    /// Whether there is nothing new in it after this one.
    pub fn is_stale(&self, last: &Self) -> bool {
        (self.epoch.is_empty() || self.epoch == last.epoch) && self.number <= last.number
    }
}
