//! What the counts in this folder share: their ceilings, and what they are counted on.

mod ceiling;
pub mod samples;

pub use ceiling::counted;
