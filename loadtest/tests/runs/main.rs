//! The command and the scripts around it, as programs: against a server whose every mistake is planned, and with small
//! loads against the gateway itself.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that something is wrong")]

mod compares_servers;
mod counts_exactly;
mod faulty_server;
mod gateway;
mod plain;
mod run;
mod scenarios;
mod scripts;
