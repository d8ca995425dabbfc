//! The shell of a gateway node: sockets, clocks, Redis. Decisions are made in `gateway_core`.

pub mod auth;
pub mod broker;
pub mod clock;
pub mod presence;
pub mod secret;
pub mod setting;

pub mod node {
    //! The node.

    pub mod control;
}
