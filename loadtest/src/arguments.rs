//! The command line, as it is written. [`crate::plan`] says what of it makes sense.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};

/// Everything that makes up one run: the plain one, and each that a scenario makes.
#[derive(Parser, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Arguments {
    #[command(flatten)]
    pub connections: ConnectionArguments,
    #[command(flatten)]
    pub publications: PublicationArguments,
    #[command(flatten)]
    pub measuring: MeasuringArguments,
    #[command(flatten)]
    pub thresholds: ThresholdArguments,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connections")]
pub struct ConnectionArguments {
    /// A gateway, as ws://HOST:PORT or wss://HOST:PORT or with a path of its own. Repeat it to take several in turns.
    #[arg(long = "url", value_name = "URL", default_value = "ws://127.0.0.1:8000")]
    pub urls: Vec<String>,
    /// What to speak.
    #[arg(long, value_enum, default_value_t = ProtocolName::Centrifuge)]
    pub protocol: ProtocolName,
    /// How the native protocol travels.
    #[arg(long, value_enum, default_value_t = Transport::Websocket)]
    pub transport: Transport,
    /// In place of a protocol: a file that describes a server, with what to say to subscribe and how to publish.
    #[arg(long, value_name = "FILE", conflicts_with = "protocol")]
    pub template: Option<PathBuf>,
    /// How many connections to hold.
    #[arg(short = 'n', long, default_value_t = 100)]
    pub connections: u32,
    /// Connections opened a second.
    #[arg(long, value_name = "RATE", default_value_t = 500.0)]
    pub ramp: f64,
    /// Connections that may be opening at the same time. The wait for a place counts in the time to connect.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub opening_max: u32,
    /// Seconds from the start of an attempt until the last subscription is confirmed.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub connect_timeout: f64,
    /// How many channels there are. 1: everyone listens to the same.
    #[arg(long, default_value_t = 1)]
    pub channels: u32,
    /// Channels that each connection subscribes to; they are dealt out in turns.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub per_connection: u32,
    /// Channels are named by this and a number from 0.
    #[arg(long, value_name = "TEXT", default_value = "load-")]
    pub channel_prefix: String,
    /// Offer permessage-deflate.
    #[arg(long)]
    pub compression: bool,
    /// The token that every connection shows.
    #[arg(long, conflicts_with = "token_secret")]
    pub token: Option<String>,
    /// Sign a token (HS256) for each connection with this secret; its user is `load-` and a number.
    #[arg(long, value_name = "SECRET", env = "TIDEGATE_LOADTEST_TOKEN_SECRET", hide_env_values = true)]
    pub token_secret: Option<String>,
    /// Reconnect after a lost connection, and recover by position where the protocol can.
    #[arg(long)]
    pub reconnect: bool,
    /// Bounds of the random wait before a reconnect; it doubles with each failed try.
    #[arg(long, value_name = "MS", default_value_t = 500, requires = "reconnect")]
    pub reconnect_min_ms: u64,
    #[arg(long, value_name = "MS", default_value_t = 20_000, requires = "reconnect")]
    pub reconnect_max_ms: u64,
    /// Source addresses (127.0.0.1 and up) to connect from; 0 takes as many as the ports need.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sources: u8,
    /// Threads that hold the connections; 0 takes half of the cores.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: u16,
    /// Read buffer of each connection. Larger ones spare system calls when messages come in batches.
    #[arg(long, value_name = "BYTES", default_value_t = 4_096)]
    pub read_buffer: usize,
    /// Trust the certificates in this file (PEM) behind wss:// and https://; without it, those of the system.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Trust any certificate; on this machine only.
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Allow addresses other than loopback.
    #[arg(long)]
    pub allow_remote: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Publications")]
pub struct PublicationArguments {
    /// Publications a second over all channels; 0 publishes nothing and only holds the connections.
    #[arg(short = 'r', long, default_value_t = 10.0)]
    pub rate: f64,
    /// Seconds to publish.
    #[arg(short = 'd', long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
    /// The first seconds of publishing that do not count in the latency.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    pub warmup: f64,
    /// Size of each payload (JSON; at least 58).
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub payload: usize,
    /// Publications due at the same moment; the rate stays.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub burst: u64,
    /// Where publications enter.
    #[arg(long, value_enum, default_value_t = Entrance::Api)]
    pub publish_via: Entrance,
    /// Connections that publish. Each channel belongs to one of them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub publishers: u32,
    /// Publications that may go together in one call of the API, if that many are due.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub batch: usize,
    /// Closed loop: in place of a rate, publish whenever fewer than N publications are still on their way to someone.
    #[arg(long, value_name = "N", conflicts_with = "rate")]
    pub in_flight: Option<u32>,
    /// Publications that one publisher may have unanswered (through a client connection).
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub window: usize,
    /// Base address of the server API. Repeat it to take several in turns; without it, `/api` of each URL.
    #[arg(long = "api-url", value_name = "URL")]
    pub api_urls: Vec<String>,
    /// The API key.
    #[arg(long, value_name = "KEY", env = "TIDEGATE_LOADTEST_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Measuring and reporting")]
pub struct MeasuringArguments {
    /// A process of the server, whose CPU and memory are measured. Repeat it for several.
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Where a node of the server tells its metrics (http://HOST:PORT, its internal address). Repeat it for several.
    #[arg(long = "metrics", value_name = "URL")]
    pub metrics_urls: Vec<String>,
    /// Longest wait, in seconds, for what is still on its way when publishing ends.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub drain: f64,
    /// Pause, in seconds, between the last connection and the first publication.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    pub settle: f64,
    /// Connections that are opened and closed before memory is measured first, since a process allocates some things
    /// once for all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub wave: u32,
    /// Pause, in seconds, after the connections are closed and before memory is measured again (only with --pid).
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub rest: f64,
    /// Write the report as a self-contained page.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub telling: TellingArguments,
}

/// How long a scenario may take, and how it tells what came of it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Measuring and reporting")]
pub struct TellingArguments {
    /// Longest time, in seconds, for the whole run; it is then ended and reported like an interrupted one.
    #[arg(long, value_name = "SECONDS", default_value_t = 900.0)]
    pub time_limit: f64,
    /// A name for this run, in reports.
    #[arg(long, value_name = "TEXT", default_value = "load test")]
    pub title: String,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// No progress bar and no report on the terminal; failed thresholds are still told.
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Storm")]
pub struct StormArguments {
    /// Seconds of publishing before every connection is cut.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub calm: f64,
    /// Seconds for which all stay away, while publications go on.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub away: f64,
    /// Longest time, in seconds, for all to come back.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub storm_timeout: f64,
    /// Threshold: subscriptions that came back with a hole, and connections that did not come back.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_unrecovered: u64,
    /// Threshold: seconds until the last had come back and recovered.
    #[arg(long, value_name = "SECONDS")]
    pub max_storm_seconds: Option<f64>,
    /// Threshold: CPU microseconds of the server for each that came back.
    #[arg(long, value_name = "MICROS")]
    pub max_reconnect_micros: Option<f64>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Slow readers")]
pub struct SlowArguments {
    /// Subscribers, of a hundred, that stop reading once they have subscribed.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    pub slow_percent: f64,
    /// Times that the run is made without them and with them.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub turns: u32,
    /// Threshold: publications lost by those who read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_others_lost: u64,
    /// Threshold: disconnects of those who read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_others_disconnected: u64,
    /// Threshold: p99.9 of those who read, with slow ones against without.
    #[arg(long, value_name = "RATIO")]
    pub max_p999_ratio: Option<f64>,
}

#[derive(Args, Clone, Debug)]
pub struct HandshakeArguments {
    /// A gateway. Repeat it to take several in turns.
    #[arg(long = "url", value_name = "URL", default_value = "ws://127.0.0.1:8000")]
    pub urls: Vec<String>,
    /// Handshakes under way at the same time.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub in_flight: u32,
    /// Seconds to go on.
    #[arg(short = 'd', long, value_name = "SECONDS", default_value_t = 5.0)]
    pub duration: f64,
    /// Source addresses (127.0.0.1 and up) to connect from: closed connections keep their ports for a while.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub sources: u8,
    /// The token that every connection shows.
    #[arg(long)]
    pub token: Option<String>,
    /// Trust the certificates in this file (PEM) behind wss://; without it, those of the system.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Trust any certificate; on this machine only.
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Allow addresses other than loopback.
    #[arg(long)]
    pub allow_remote: bool,
    /// A process of the server, whose CPU is measured. Repeat it for several.
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    #[command(flatten)]
    pub telling: TellingArguments,
    /// Threshold: handshakes that failed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_failures: u64,
    /// Threshold: handshakes a second.
    #[arg(long, value_name = "RATE")]
    pub min_per_second: Option<f64>,
    /// Threshold: CPU microseconds of the server for each.
    #[arg(long, value_name = "MICROS")]
    pub max_micros: Option<f64>,
}

impl HandshakeArguments {
    /// The plain run that opens connections in the same way.
    pub fn as_run(&self) -> Arguments {
        let mut run = Arguments::parse_from(["plain"]);
        let connections = &mut run.connections;
        connections.urls.clone_from(&self.urls);
        connections.connections = self.in_flight;
        connections.sources = self.sources;
        connections.token.clone_from(&self.token);
        connections.ca.clone_from(&self.ca);
        connections.insecure = self.insecure;
        connections.allow_remote = self.allow_remote;
        run.publications.duration = self.duration;
        run.measuring.pids.clone_from(&self.pids);
        run
    }
}

#[derive(Args, Clone, Debug, Default)]
pub struct MillionArguments {
    /// How many connections to hold, each with one subscription to the one channel.
    #[arg(short = 'n', long, default_value_t = 1_000_000)]
    pub connections: u32,
    /// Most connections of one node, and of the process that holds them.
    #[arg(long, value_name = "N", default_value_t = 19_000)]
    pub per_node: u32,
    /// Connections opened a second, over all nodes.
    #[arg(long, value_name = "RATE", default_value_t = 5_000.0)]
    pub ramp: f64,
    /// Publications to everyone, one after the other.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub publications: u16,
    /// Size of each payload (JSON; at least 58).
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub payload: usize,
    /// Seconds between the pings of the nodes to each connection.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0)]
    pub ping_interval: f64,
    /// Longest time, in seconds, for all connections to be ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 900.0)]
    pub connect_timeout: f64,
    /// Longest time, in seconds, for a publication to reach everyone.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub reach_timeout: f64,
    /// The gateway's program; without it, the one beside this.
    #[arg(long, value_name = "FILE")]
    pub tidegate: Option<PathBuf>,
    /// The Redis between the nodes; without it, one is started (redis-server).
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Threshold: connections that a publication did not reach, over all publications.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_missing: u64,
    /// Threshold: connections that did not become ready.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_unready: u64,
    /// Threshold: memory of the whole machine for each connection.
    #[arg(long, value_name = "KIB")]
    pub max_kib_each: Option<f64>,
    /// Threshold: time until the last one had a publication.
    #[arg(long, value_name = "MS")]
    pub max_last_ms: Option<f64>,
}

#[derive(Args, Clone, Debug)]
pub struct RedisArguments {
    /// Seconds of each part.
    #[arg(short = 'd', long, value_name = "SECONDS", default_value_t = 4.0)]
    pub duration: f64,
    /// How often all parts are measured.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub turns: u16,
    /// Size of each payload (JSON; at least 58).
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub payload: usize,
    /// Publications in a batch of the API.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub batch: u16,
    /// Publications a second where latency is measured.
    #[arg(short, long, value_name = "RATE", default_value_t = 5_000.0)]
    pub rate: f64,
    /// The gateway's program; without it, the one beside this.
    #[arg(long, value_name = "FILE")]
    pub tidegate: Option<PathBuf>,
    /// Threshold: publications that came to the node, over those it needed.
    #[arg(long, value_name = "RATIO", default_value_t = 1.0)]
    pub max_received_ratio: f64,
    /// Threshold: publications that were refused or did not arrive.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_failed: u64,
    /// Threshold: what a node takes from a link, over what a bare connection takes.
    #[arg(long, value_name = "RATIO")]
    pub min_link_ratio: Option<f64>,
    /// Threshold: publications a second in batches of the API.
    #[arg(long, value_name = "RATE")]
    pub min_api_per_second: Option<f64>,
    /// Threshold: how much later the node has a publication at p99 than a bare connection.
    #[arg(long, value_name = "MS")]
    pub max_late_ms: Option<f64>,
}

/// One process's share of a large run.
#[derive(Args, Clone, Debug)]
pub struct HolderArguments {
    #[arg(long)]
    pub address: SocketAddr,
    #[arg(long)]
    pub connections: u32,
    #[arg(long)]
    pub ramp: f64,
    #[arg(long)]
    pub channel: String,
    #[arg(long)]
    pub run: u32,
    #[arg(long)]
    pub source: Ipv4Addr,
}

impl HolderArguments {
    /// As they are written on a command line.
    pub fn words(&self) -> Vec<String> {
        let Self { address, connections, ramp, channel, run, source } = self;
        vec![
            format!("--address={address}"),
            format!("--connections={connections}"),
            format!("--ramp={ramp}"),
            format!("--channel={channel}"),
            format!("--run={run}"),
            format!("--source={source}"),
        ]
    }
}

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Thresholds (exit status 1 when one is broken)")]
pub struct ThresholdArguments {
    #[arg(long, value_name = "MS")]
    pub max_p50_ms: Option<f64>,
    #[arg(long, value_name = "MS")]
    pub max_p99_ms: Option<f64>,
    #[arg(long, value_name = "MS")]
    pub max_p999_ms: Option<f64>,
    /// Publications lost, over all subscriptions.
    #[arg(long, value_name = "N")]
    pub max_lost: Option<u64>,
    #[arg(long, value_name = "N")]
    pub max_duplicated: Option<u64>,
    #[arg(long, value_name = "N")]
    pub max_reordered: Option<u64>,
    /// Connection attempts that failed.
    #[arg(long, value_name = "N")]
    pub max_failures: Option<u64>,
    /// Publications that got an error or no answer.
    #[arg(long, value_name = "N")]
    pub max_publish_failures: Option<u64>,
    /// Connections that the server closed or that broke.
    #[arg(long, value_name = "N")]
    pub max_disconnects: Option<u64>,
    #[arg(long, value_name = "RATE")]
    pub min_deliveries_per_second: Option<f64>,
    /// CPU seconds of the server (user and system) per million deliveries.
    #[arg(long, value_name = "SECONDS")]
    pub max_cpu_per_million: Option<f64>,
    /// Growth of the server's resident memory per connection.
    #[arg(long, value_name = "KIB")]
    pub max_kib_per_connection: Option<f64>,
    /// CPU of the server while connections were only held (with --rate 0), as a share of one core.
    #[arg(long, value_name = "PERCENT")]
    pub max_idle_cpu: Option<f64>,
    /// The server's resident memory after all connections were closed, against before the first.
    #[arg(long, value_name = "PERCENT")]
    pub max_memory_after: Option<f64>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtocolName {
    /// The native protocol on /connection/websocket.
    Centrifuge,
    /// The bare endpoint /raw/{channel}.
    Raw,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[value(rename_all = "snake_case")]
pub enum Transport {
    /// As WebSocket messages.
    Websocket,
    /// As server-sent events (/connection/sse); what a client says goes to /emulation.
    Sse,
    /// As lines of a response without an end (/connection/http_stream); what a client says goes to /emulation.
    HttpStream,
    /// As server-sent events in answer to a GET, after which a client says nothing: for a template that says so.
    #[value(skip)]
    Events,
}

impl Transport {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::Sse => "sse",
            Self::HttpStream => "http_stream",
            Self::Events => "events",
        }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entrance {
    /// The server API, over HTTP connections that are kept alive.
    Api,
    /// Client connections of the same protocol.
    Client,
}
