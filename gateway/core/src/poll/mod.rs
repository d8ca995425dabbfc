//! Values by key that the application is asked for, once for all who follow them.
//!
//! A [`Poller`] is one channel on one node: which keys are followed there, what is known of each, and when to ask for
//! which. [`Trackers`] is who follows what on one worker. Neither asks anybody: they are told the time and the answers.

mod options;
mod poller;
mod trackers;

pub use options::{KEY_BYTES_MAX, PollMode, PollOptions};
pub use poller::{Asked, BACKOFF_MAX, COALESCE, EPOCH_LINGER, Item, News, Poller, Settings, Step, Taken};
pub use trackers::Trackers;
