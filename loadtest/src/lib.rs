//! Load generator for real-time gateways: ramps connections, publishes on a fixed schedule, checks every sequence.
//!
//! ```text
//! main ─► command_line, arguments ─► plan ─► scenario ─► outcome ─► report (json, html, text), thresholds
//!                                 │
//!            ┌────────────────────┼──────────────────┐
//!          lane (threads)      publish            record (collects, reads processes)
//!            └ receive           └ api, client
//!               └ subscriber ─► sequence, ledger, tally
//! around it: compare (the same on several servers, in turns), floor (the least that a server can do), plot
//! million, redis: on servers of their own (fleet)
//! both speak through: dialect (what is meant) ─► connect, wire (how it travels)
//! ```

pub mod arguments;
pub mod bind_address_no_port;
pub mod call;
pub mod clock;
pub mod command_line;
pub mod compare;
pub mod connect;
pub mod dialect;
pub mod fleet;
pub mod floor;
pub mod flow;
pub mod lane;
pub mod latencies;
pub mod ledger;
pub mod mark;
pub mod metrics;
pub mod million;
pub mod newest;
pub mod outcome;
pub mod plan;
pub mod plot;
pub mod process;
pub mod progress;
pub mod publish;
pub mod receive;
pub mod record;
pub mod redis;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod sequence;
pub mod stream;
pub mod subscriber;
pub mod tally;
pub mod threshold;
pub mod tls;
pub mod token;
pub mod wire;
