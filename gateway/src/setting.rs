//! What a part says about its own settings: which values cannot work, and why.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// What is wrong with the settings of one section. A part adds to it and need not know where its section stands.
#[derive(Debug, Default)]
pub struct Faults(Vec<(String, String)>);

impl Faults {
    /// `key` cannot be what it is. The problem reads on after `section.key: `.
    pub fn add(&mut self, key: impl Into<String>, problem: impl Into<String>) {
        self.0.push((key.into(), problem.into()));
    }

    /// `key` must lie within `range`.
    pub fn outside<T: PartialOrd + Display>(&mut self, key: &str, value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            self.add(key, format!("is {value}, must be from {} to {}", range.start(), range.end()));
        }
    }

    /// Every fault as (key, problem).
    pub fn into_inner(self) -> Vec<(String, String)> {
        self.0
    }
}
