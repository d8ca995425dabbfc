//! Pusher's HTTP API: what the servers of an app ask of the gateway, signed with the app's secret.
//!
//! [`serve`](PusherApi::serve) is the way in: `signature` says who may, `request` reads, and the others do: `trigger`
//! publishes, `channels` tells who is where, `users` ends connections.

mod channels;
mod refused;
mod request;
mod serve;
mod signature;
mod trigger;
mod users;

pub(crate) use serve::{Limits, PusherApi};
