//! Tests the program as operators use it: a process of its own, controlled by arguments, environment variables and
//! signals.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod checks;
mod lists;
mod program;
mod refuses;
mod reloads;
mod serves_tls;
mod tokens;
mod traces;
