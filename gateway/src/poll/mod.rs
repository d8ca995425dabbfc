//! What polled channels need beside their namespaces' options: who signs what clients may follow, and how much is asked
//! at once.

mod poll_config;
mod signature;

pub use poll_config::PollConfig;
pub(crate) use signature::{Problem, Signatures};
