//! Pusher's HTTP API: the requests of an app's servers, signed with the app's secret.
//!
//! [`serve_pusher_api`](PusherApi::serve) is the entry: `request_signature` verifies, `pusher_request` parses,
//! `trigger` publishes, `channels` answers about channels, and `channel_users` closes connections.

mod channel_users;
mod channels;
mod pusher_api_error;
mod pusher_request;
mod request_signature;
mod serve_pusher_api;
mod trigger;

pub(crate) use serve_pusher_api::{PusherApi, PusherApiLimits};
