//! Shared parts of the benchmarks: ceilings and samples.

mod ceiling;
pub mod samples;

pub use ceiling::counted;
