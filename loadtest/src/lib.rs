//! Load generator for real-time gateways: ramps connections, publishes on a fixed schedule, checks every sequence.
//!
//! ```text
//! main ─► command_line, arguments ─► plan ─► scenario ─► outcome ─► report (JSON, page, text)
//!                                 │
//!            ┌────────────────────┼──────────────────┐
//!          lane (threads)      publish            record (collects, reads processes)
//!            └ receive           └ api, client
//!               └ subscriber ─► sequence, ledger, tally
//! floor: the least that a server can do
//! all speak through: dialect (what is meant) ─► connect, wire (how it travels)
//! ```

pub mod arguments;
pub mod bind_address_no_port;
pub mod clock;
pub mod command_line;
pub mod connect;
pub mod dialect;
pub mod floor;
pub mod flow;
pub mod greet;
pub mod http;
pub mod lane;
pub mod latencies;
pub mod ledger;
pub mod mark;
pub mod metrics;
pub mod outcome;
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
pub mod stream;
pub mod subscriber;
pub mod tally;
pub mod tls;
pub mod token;
pub mod wire;
