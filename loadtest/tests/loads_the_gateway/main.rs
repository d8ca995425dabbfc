//! The command against the gateway itself, with small loads: nothing may be lost, and every scenario comes to its end.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something is wrong")]

mod gateway;
mod plain;
mod scenarios;
