//! What subscribers are told without asking.
//!
//! A push never carries anything about one connection. That is why its bytes can be shared by all of them.

use crate::channel::Channel;
use crate::publication::Publication;

#[derive(Clone, Copy, Debug)]
pub struct Push<'a> {
    pub channel: &'a Channel,
    pub event: Event<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    Publication(&'a Publication),
    /// The subscription has ended.
    Unsubscribed(UnsubscribeCode),
}

/// Why the server ended a subscription. From 2500 on, clients subscribe again by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum UnsubscribeCode {
    Server = 2000,
    InsufficientState = 2500,
    Expired = 2501,
}

impl UnsubscribeCode {
    pub fn code(self) -> u32 {
        self as u32
    }

    pub fn reason(self) -> &'static str {
        match self {
            Self::Server => "server unsubscribe",
            Self::InsufficientState => "insufficient state",
            Self::Expired => "subscription expired",
        }
    }
}
