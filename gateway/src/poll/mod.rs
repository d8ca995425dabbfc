//! What polled channels need beside their namespaces' options: who signs what clients may follow, and how much is asked
//! at once.

mod config;
mod signature;

pub use config::Config;
pub(crate) use signature::{Problem, Signatures};
