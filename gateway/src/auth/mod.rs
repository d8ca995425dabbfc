//! Who a client is and what it may subscribe to, as signed tokens (JWT, RFC 7519) say.

mod claims;
mod command;
mod config;
mod issue;
mod keys;
mod verify;

pub use command::{TokenArgs, command};
pub use config::{Algorithm, Config};
pub use issue::{IssueError, TokenRequest, issue};
pub use verify::Authenticator;
