//! Sessions driven by hand: real bytes of the wire go in, effects come out, and time moves only when a test moves it.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing where something must be has failed")]

mod support;

mod announcing;
mod anything;
mod arriving;
mod asking;
mod batches;
mod connecting;
mod errors;
mod following;
mod following_topics;
mod graphql;
mod heartbeat;
mod limits;
mod loading;
mod newest;
mod order;
mod partial_delivery;
mod publishing;
mod pusher;
mod querying;
mod raw;
mod reading_on;
mod recovering;
mod refreshing;
mod renewing;
mod socketio;
mod subscribing;
mod tracking;
mod unidirectional;
mod unsubscribing;
