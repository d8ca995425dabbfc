//! What a node tells of itself: metrics, logs, traces, and whether it is ready.

mod answer;
pub mod backend;
mod cluster;
pub mod emitters;
pub mod feeds;
pub mod labels;
pub mod logs;
pub mod metrics;
pub mod names;
mod node_label;
mod process;
mod readiness;
mod register;
mod reminder;
mod shards;
mod socketio;
mod sparingly;
mod telemetry_config;
pub mod traces;
mod workers;

pub use answer::answer;
pub use metrics::Metrics;
pub use readiness::{Readiness, Verdict};
pub(crate) use reminder::Reminder;
pub use shards::Neighbors;
pub use sparingly::Sparingly;
pub use telemetry_config::{LogFormat, TelemetryConfig};
pub use workers::WorkerMetrics;
