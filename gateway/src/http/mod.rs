//! Requests of clients and publishers: what they may look like and where they come from.

pub mod client_ip;
pub mod config;
pub mod origin;
pub mod pages;
