//! What is wrong with a configuration, all of it at once.

use std::fmt;

/// One thing that is wrong: where, what, and who said it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// `section.key`; empty when the whole file is meant.
    pub path: String,
    pub problem: String,
    /// The file, the environment variable or the flag the value came from. `None` for a default or for a
    /// contradiction between several keys.
    pub source: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)?;
        match &self.source {
            Some(source) => write!(f, " (from {source})"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong, in the order of paths. Never empty.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} mistake{} in the configuration:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}
