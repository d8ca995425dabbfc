//! The options of a run and the range of each. [`crate::plan`] checks which of them make sense together, and the report
//! holds them as its settings.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, ValueEnum};
use serde::{Serialize, Serializer};

use crate::mark::{CHANNELS_MAX, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN};
use crate::report::masked_url;
use crate::thresholds::Thresholds;

const DAY_SECONDS: f64 = 86_400.0;

/// Opens many connections to a gateway, publishes on a fixed schedule, and checks and times what arrives.
///
/// Without a scenario's name it makes a plain run, as the options below say. A scenario has defaults of its own:
/// `tidegate-loadtest SCENARIO --help`.
///
/// Exit status: 0 when every threshold held, 1 when one did not, 2 when the run could not be made, 130 when it was
/// cut short by Ctrl-C or by its time limit (it still reports what it has).
#[derive(Parser, Serialize, Clone, Debug)]
#[command(
    name = "tidegate-loadtest",
    version,
    max_term_width = 110,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    subcommand_help_heading = "Scenarios",
    subcommand_value_name = "SCENARIO"
)]
pub struct Arguments {
    #[command(flatten)]
    #[serde(flatten)]
    pub access: AccessArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub connections: ConnectionArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub publications: PublicationArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub measuring: MeasuringArguments,
    #[command(flatten)]
    #[serde(flatten)]
    pub storm: StormArguments,
    #[command(flatten)]
    #[serde(skip)]
    pub thresholds: Thresholds,
    #[command(flatten)]
    #[serde(skip)]
    pub reporting: ReportingArguments,
}

/// How to get at a server, and what to speak with it.
#[derive(Args, Serialize, Clone, Debug)]
#[command(next_help_heading = "Connections")]
pub struct AccessArguments {
    /// A gateway, as ws://HOST:PORT or wss://HOST:PORT or with a path of its own. Repeat it to take several in turns.
    #[arg(long = "url", value_name = "URL", default_value = "ws://127.0.0.1:8000")]
    #[serde(serialize_with = "without_secrets")]
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
    /// Offer permessage-deflate.
    #[arg(long)]
    pub compression: bool,
    /// The token that every connection shows.
    #[arg(long, conflicts_with = "token_secret")]
    #[serde(skip)]
    pub token: Option<String>,
    /// Sign a token (HS256) for each connection with this secret; its user is `load-` and a number.
    #[arg(long, value_name = "SECRET", env = "TIDEGATE_LOADTEST_TOKEN_SECRET", hide_env_values = true)]
    #[serde(skip)]
    pub token_secret: Option<String>,
    /// Source addresses (127.0.0.1 and up) to connect from; 0 takes as many as the ports need.
    #[arg(long, value_name = "N", default_value = "0")]
    pub sources: u8,
    /// Trust the certificates in this file (PEM) behind wss:// and https://, which may be the server's own; without it,
    /// those of the system.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Allow addresses other than loopback.
    #[arg(long)]
    pub allow_remote: bool,
}

#[derive(Args, Serialize, Clone, Debug)]
#[command(next_help_heading = "Connections")]
pub struct ConnectionArguments {
    /// How many connections to hold.
    #[arg(short = 'n', long, default_value = "100", value_parser = at_least_one())]
    pub connections: u32,
    /// Connections opened a second.
    #[arg(long, value_name = "RATE", default_value = "500", value_parser = positive)]
    pub ramp: f64,
    /// Connections that may be opening at the same time. The wait for a place counts in the time to connect.
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least_one())]
    pub opening_max: u32,
    /// From the start of an attempt until the last subscription is confirmed.
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    pub connect_timeout: Seconds,
    /// How many channels there are. 1: everyone listens to the same.
    #[arg(long, default_value = "1", value_parser = between::<u32>(1..=(CHANNELS_MAX - 1).into()))]
    pub channels: u32,
    /// Channels that each connection subscribes to; they are dealt out in turns.
    #[arg(long, value_name = "K", default_value = "1", value_parser = at_least_one())]
    pub per_connection: u32,
    /// Channels are named by this and a number from 0.
    #[arg(long, value_name = "TEXT", default_value = "load-")]
    pub channel_prefix: String,
    /// Reconnect after a lost connection, and recover by position where the protocol can.
    #[arg(long)]
    pub reconnect: bool,
    /// Try again where a connection could not be made, also without --reconnect.
    #[arg(long)]
    pub retry: bool,
    /// Bounds of the random wait before a reconnect; it doubles with each failed try.
    #[arg(long, value_name = "MS", default_value = "500", value_parser = between::<u64>(1..=u64::MAX), requires = "reconnect")]
    pub reconnect_min_ms: u64,
    #[arg(long, value_name = "MS", default_value = "20000", requires = "reconnect")]
    pub reconnect_max_ms: u64,
    /// Close each connection as soon as it is ready, and open it again: handshakes and nothing else.
    #[arg(long)]
    pub churn: bool,
    /// Connections, of a hundred, that stop reading once they have subscribed. They count in neither latency nor loss.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = not_negative)]
    pub slow_percent: f64,
    /// Threads that hold the connections; 0 takes half of the cores.
    #[arg(long, value_name = "N", default_value = "0", value_parser = between::<u16>(0..=256))]
    pub threads: u16,
}

#[derive(Args, Serialize, Clone, Debug)]
#[command(next_help_heading = "Publications")]
pub struct PublicationArguments {
    /// Publications a second over all channels; 0 publishes nothing and only holds the connections.
    #[arg(short = 'r', long, default_value = "10", value_parser = not_negative)]
    pub rate: f64,
    /// How long to publish.
    #[arg(short = 'd', long, value_name = "SECONDS", default_value = "10")]
    pub duration: Seconds,
    /// The beginning of publishing that does not count in the latency.
    #[arg(long, value_name = "SECONDS", default_value = "0")]
    pub warmup: Seconds,
    /// Size of each payload (JSON; at least 58).
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = payload())]
    pub payload: usize,
    /// Publications due at the same moment; the rate stays.
    #[arg(long, value_name = "N", default_value = "1", value_parser = between::<u64>(1..=u64::MAX))]
    pub burst: u64,
    /// Where publications enter.
    #[arg(long, value_enum, default_value_t = Entrance::Api)]
    pub publish_via: Entrance,
    /// Connections that publish. Each channel belongs to one of them.
    #[arg(long, value_name = "N", default_value = "1", value_parser = between::<u32>(1..=1_000))]
    pub publishers: u32,
    /// Publications that may go together in one call of the API, if that many are due.
    #[arg(long, value_name = "N", default_value = "1", value_parser = between::<usize>(1..=10_000))]
    pub batch: usize,
    /// Closed loop: in place of a rate, publish whenever fewer than N publications are still on their way to someone.
    #[arg(long, value_name = "N", conflicts_with = "rate", value_parser = between::<u32>(1..=65_536))]
    pub in_flight: Option<u32>,
    /// The number of the run that is in every payload. Load testers that are given the same one count each other's.
    #[arg(long, value_name = "N")]
    pub run: Option<u32>,
    /// Publications that one publisher may have unanswered (through a client connection).
    #[arg(long, value_name = "N", default_value = "256", value_parser = between::<usize>(1..=65_536))]
    pub window: usize,
    /// Base address of the server API. Repeat it to take several in turns; without it, `/api` of each URL.
    #[arg(long = "api-url", value_name = "URL")]
    #[serde(serialize_with = "without_secrets")]
    pub api_urls: Vec<String>,
    /// The API key.
    #[arg(long, value_name = "KEY", env = "TIDEGATE_LOADTEST_API_KEY", hide_env_values = true)]
    #[serde(skip)]
    pub api_key: Option<String>,
}

#[derive(Args, Serialize, Clone, Debug)]
#[command(next_help_heading = "Measuring")]
pub struct MeasuringArguments {
    /// A process of the server, whose CPU and memory are measured. Repeat it for several.
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Where a node of the server tells its metrics (http://HOST:PORT, its internal address). Repeat it for several.
    #[arg(long = "metrics", value_name = "URL")]
    #[serde(serialize_with = "without_secrets")]
    pub metrics_urls: Vec<String>,
    /// Longest wait for what is still on its way when publishing ends.
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    pub drain: Seconds,
    /// Pause between the last connection and the first publication.
    #[arg(long, value_name = "SECONDS", default_value = "0.5")]
    pub settle: Seconds,
    /// Connections that are opened and closed before memory is measured first, since a process allocates some things
    /// once for all.
    #[arg(long, value_name = "N", default_value = "0")]
    pub wave: u32,
    /// Pause after the connections are closed and before memory is measured again (only with --pid).
    #[arg(long, value_name = "SECONDS", default_value = "2")]
    pub rest: Seconds,
}

/// Everybody gone at once, and back at once.
#[derive(Args, Serialize, Clone, Debug)]
#[command(next_help_heading = "Storm")]
pub struct StormArguments {
    /// Cut every connection at the same moment, so long after publishing has begun.
    #[arg(long, value_name = "SECONDS")]
    pub calm: Option<Seconds>,
    /// How long all that were cut stay away, while publications go on, until all come back at once.
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    pub away: Seconds,
    /// Longest time for all to come back.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub storm_timeout: Seconds,
}

/// How long a scenario may take, and how it tells what came of it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Reporting")]
pub struct ReportingArguments {
    /// Longest time for the whole run; it is then ended and reported like an interrupted one.
    #[arg(long, value_name = "SECONDS", default_value = "900")]
    pub time_limit: Seconds,
    /// A name for this run, in reports.
    #[arg(long, value_name = "TEXT", default_value = "load test")]
    pub title: String,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as a self-contained page.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// No progress bar and no report on the terminal; failed thresholds are still told.
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(ValueEnum, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolName {
    /// The native protocol on /connection/websocket.
    Centrifuge,
    /// The bare endpoint /raw/{channel}.
    Raw,
}

#[derive(ValueEnum, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
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

#[derive(ValueEnum, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Entrance {
    /// The server API, over HTTP connections that are kept alive.
    Api,
    /// Client connections of the same protocol.
    Client,
}

/// Seconds, with a fraction, of at most a day.
#[derive(Serialize, Clone, Copy, PartialEq, Debug)]
pub struct Seconds(pub f64);

impl Seconds {
    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        in_range(text, 0.0..=DAY_SECONDS, "0 to 86,400 seconds").map(Self)
    }
}

fn without_secrets<S: Serializer>(urls: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(urls.iter().map(|url| masked_url(url)))
}

fn positive(text: &str) -> Result<f64, String> {
    in_range(text, f64::MIN_POSITIVE..=f64::MAX, "more than 0")
}

pub(crate) fn not_negative(text: &str) -> Result<f64, String> {
    in_range(text, 0.0..=f64::MAX, "0 or more")
}

fn between<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(range)
}

fn at_least_one() -> RangedU64ValueParser<u32> {
    between(1..=u32::MAX.into())
}

/// Bytes of a payload that has a mark in it.
fn payload() -> RangedU64ValueParser<usize> {
    between(PAYLOAD_BYTES_MIN as u64..=PAYLOAD_BYTES_MAX)
}

fn in_range(text: &str, range: RangeInclusive<f64>, expected: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| range.contains(value));
    value.ok_or_else(|| format!("must be {expected}"))
}
