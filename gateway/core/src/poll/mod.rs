//! Polled channels: values by key that the application is asked for, once for all subscribers that follow them.
//!
//! A [`Poller`] handles one channel on one node: which keys are followed there, what is known of each, and when to ask for
//! which. [`Trackers`] knows who follows which keys on one worker. Neither sends requests itself: both are given the time
//! and the answers.

mod poll_options;
mod poller;
mod trackers;

pub use poll_options::{KEY_BYTES_MAX, PollMode, PollOptions};
pub use poller::{
    BACKOFF_MAX, COALESCE, EPOCH_LINGER, KeyUpdate, PolledItem, PolledKey, Poller, PollerSettings,
    PollerStep, PollerUpdate,
};
pub use trackers::Trackers;
