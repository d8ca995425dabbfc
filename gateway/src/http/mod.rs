//! Requests of clients and publishers: what they may look like and where they come from.

pub mod config;
