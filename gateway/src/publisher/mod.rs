//! `tidegate publish`: feeds a running gateway over its server API, with real prices or with one's own data.
//!
//! `read` gets publications out of a file or standard input, `pace` says when, `send` carries them over HTTP, and
//! `run` holds these together.

mod command;
mod pace;
mod read;
mod run;
mod send;

pub use command::command;
pub use pace::Rate;
pub use run::{PublishArgs, PublishError, Report, publish};
