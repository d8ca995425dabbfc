//! The program as whoever operates it meets it: started as a process of its own, told things by its environment and
//! by signals.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod checks;
mod lists;
mod program;
mod refuses;
mod reloads;
mod serves_tls;
mod tokens;
mod traces;
