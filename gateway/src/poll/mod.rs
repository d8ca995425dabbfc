//! The settings of polled channels beside their namespaces' options: the secrets that sign what clients may follow, and
//! the limit of concurrent requests.

mod poll_config;
mod poll_signature;

pub use poll_config::PollConfig;
pub(crate) use poll_signature::{Problem, Signatures};
