//! The mistakes in a configuration, all of them at once.

use std::fmt;

/// A mistake: the key, the problem, and the origin of the value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// `section.key`. Empty if the mistake is about the whole file.
    pub path: String,
    pub problem: String,
    /// The file, environment variable or flag that set the value. `None` for a default, or for a contradiction between
    /// several keys.
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

/// All mistakes, ordered by path. Never empty.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} mistake{} in the configuration:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}
