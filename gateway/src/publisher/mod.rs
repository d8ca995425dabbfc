//! `tidegate publish`: feeds a running gateway over its server API, with real prices or with one's own data.
//!
//! `read_lines` reads publications from a file or standard input, `pace` says when each is due, `publish_client` sends
//! them over HTTP, and `run_publisher` connects these parts.

mod pace;
mod publish_cli;
mod publish_client;
mod read_lines;
mod run_publisher;

pub use pace::PublishRate;
pub use publish_cli::command;
pub use run_publisher::{PublishArgs, PublishError, Report, publish};
