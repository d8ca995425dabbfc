//! The shell of a gateway node: sockets, clocks, Redis. Decisions are made in `gateway_core`.

pub mod api {
    //! The server API. The rest of this folder waits for the node.

    mod config;

    pub use config::Config;
}
pub mod auth;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod http;
pub mod listener;
pub mod presence;
pub mod prices;
pub mod publisher;
pub mod secret;
pub mod setting;
pub mod telemetry;

pub mod connection {
    //! One client's connection.

    pub mod config;
}

pub mod node {
    //! The node.

    pub mod control;
}

pub mod worker {
    //! One thread, its connections and its part of the subscribers.

    pub mod config;
}
