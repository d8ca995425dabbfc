//! Load generator for real-time gateways: ramps connections, publishes on a fixed schedule, checks every sequence.
//!
//! ```text
//! main ─► command_line, arguments ─► plan ─► scenario ─► findings ─► thresholds, report (JSON, page, text)
//!                                 │
//!            ┌────────────────────┼──────────────────┐
//!         threads              publish            record (collects, reads processes)
//!            └ receive           └ api, client
//!               └ subscriber ─► sequence, ledger
//! all share: common. All count in: counts, latencies, which the findings have as they are
//! all speak through: dialect (what is meant) ─► connect, wire (how it travels)
//! floor: the least that a server can do
//! ```

pub mod arguments;
pub mod bind_address_no_port;
pub mod clock;
pub mod command_line;
pub mod common;
pub mod connect;
pub mod counts;
pub mod dialect;
pub mod failure;
pub mod findings;
pub mod floor;
pub mod flow;
pub mod http;
pub mod latencies;
pub mod ledger;
pub mod mark;
pub mod metrics;
pub mod plan;
pub mod process;
pub mod progress;
pub mod publish;
pub mod receive;
pub mod record;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod sequence;
pub mod subscriber;
pub mod threads;
pub mod thresholds;
pub mod tls;
pub mod token;
pub mod wire;
