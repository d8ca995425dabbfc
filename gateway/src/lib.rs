//! The shell of a gateway node: sockets, clocks, Redis. Decisions are made in `gateway_core`.
//!
//! [`app`] builds every part in order and owns it. A client comes in through [`listener`] and [`http`], and lives on a
//! [`worker`] as a [`client`] over a [`transport`]. Its commands go to the [`node`], which speaks to the [`broker`] and
//! [`presence`]. Applications come in through the [`api`].

pub mod app;
pub mod cli;
pub mod config;

pub mod admission;
mod authorities;
mod bodies;
mod exchange;
#[cfg(debug_assertions)]
pub mod faults;
mod fetch;
pub mod ledger;
pub mod listener;
mod memory_budget;

pub mod api;
pub mod auth;
pub mod backend;
pub mod console;
pub mod http;

pub mod client;
mod client_key;
mod emitters;
mod engine_io;
mod transport;
pub mod worker;

pub mod broker;
pub mod demo;
pub mod feeds;
pub mod graphql;
pub mod health;
pub mod inspect;
pub mod node;
pub mod poll;
pub mod presence;
pub mod prices;
pub mod publisher;
pub mod pusher;
mod pusher_api;

pub mod clock;
#[doc(hidden)]
pub mod readers;
pub mod secret;
pub mod sessions;
pub mod setting;
pub mod socketio;
pub mod telemetry;
pub mod top;
mod webhooks;

/// The version of this gateway, as clients and other nodes see it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
