//! Pusher's HTTP API: what the servers of an app ask of the gateway, signed with the app's secret.
//!
//! [`serve_pusher_api`](PusherApi::serve) is the way in: `signature` says who may, `request` reads, and the others do: `trigger`
//! publishes, `channels` tells who is where, `users` ends connections.

mod channel_users;
mod channels;
mod pusher_api_error;
mod pusher_request;
mod request_signature;
mod serve_pusher_api;
mod trigger;

pub(crate) use serve_pusher_api::{PusherApi, PusherApiLimits};
