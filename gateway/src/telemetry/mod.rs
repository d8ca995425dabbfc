//! What a node tells of itself: metrics, logs, traces, and whether it is ready.

mod api_metrics;
pub mod backend_metrics;
mod broker_metrics;
mod cluster_metrics;
pub mod connection_metrics;
pub mod emitters_metrics;
pub mod exposition;
pub mod feeds_metrics;
pub mod labels;
pub(crate) mod latency;
pub mod logs;
pub mod metrics;
mod move_metrics;
pub mod names;
pub(crate) mod namespace_metrics;
mod node_label;
mod process;
mod readiness;
mod register;
mod reminder;
mod serve_metrics;
mod shards_metrics;
mod socketio_metrics;
mod sparingly;
pub(crate) mod stages;
mod telemetry_config;
pub mod traces;
mod workers_metrics;

pub use metrics::Metrics;
pub use readiness::{Readiness, ReadinessReport};
pub(crate) use reminder::Reminder;
pub use serve_metrics::answer;
pub use shards_metrics::Neighbors;
pub use sparingly::Sparingly;
pub use telemetry_config::{LogFormat, TelemetryConfig};
pub use workers_metrics::WorkerMetrics;
