//! What polled channels need beside their namespaces' options: who signs what clients may follow, and how much is asked
//! at once.

mod poll_config;
mod poll_signature;

pub use poll_config::PollConfig;
pub(crate) use poll_signature::{Problem, Signatures};
