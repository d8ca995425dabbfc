//! The plan of a run: the command line, checked and completed before anything is opened.

use std::net::{SocketAddr, ToSocketAddrs};

use hyper::Uri;
use rand::RngExt;

use crate::arguments::{AccessArguments, Arguments, Entrance, ProtocolName, PublicationArguments, Transport};
use crate::dialect::{Dialect, Template, TemplateError};
use crate::metrics::Metrics;
use crate::process::{ProcessError, Usage};
use crate::tls::{Tls, TlsError};

/// Connections from one source address to one target address. The kernel has 28,000 ports for them, but takes ever longer
/// to find a free port when half of them are taken.
pub const CONNECTIONS_PER_SOURCE: u32 = 12_000;
/// Descriptors for everything other than client connections.
pub const SPARE_DESCRIPTORS: u64 = 64;
/// Publications that one run can hold in its schedule.
const PUBLICATIONS_MAX: f64 = 1e9;
/// Subscriptions of one run, since each has an account of its own.
const SUBSCRIPTIONS_MAX: u64 = 20_000_000;

/// A checked run. Numbers that the arguments leave open, such as that of threads, are filled in.
#[derive(Clone, Debug)]
pub struct Plan {
    pub arguments: Arguments,
    pub dialect: Dialect,
    pub targets: Vec<Target>,
    pub apis: Vec<Target>,
    pub internals: Vec<Target>,
    /// Stands in each payload, so that publications of another run are told apart.
    pub run: u32,
    pub publications: u64,
}

/// One address that connections are made to.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    /// For the Host header.
    pub authority: String,
    /// Empty if the user gave none. `{channel}` stands for the channel.
    pub path: String,
    pub tls: Option<Tls>,
}

impl Target {
    fn api_beside(&self) -> String {
        format!("http{}://{}/api", if self.tls.is_some() { "s" } else { "" }, self.authority)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{url}: {problem}")]
    Url { url: String, problem: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{url} is not on this machine ({address}): loading others needs --allow-remote")]
    Remote { url: String, address: SocketAddr },
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{0}")]
    Argument(&'static str),
    #[error(
        "{needed} connections need more file descriptors than this process may open ({limit}): raise the hard limit (ulimit -Hn) or start several load testers"
    )]
    Descriptors { needed: u64, limit: u64 },
}

impl Plan {
    /// `run` is any number that differs between runs; `descriptors` is how many this process may open.
    pub fn new(mut arguments: Arguments, run: u32, descriptors: u64) -> Result<Self, PlanError> {
        let Arguments { access, connections, publications, measuring, .. } = &mut arguments;
        let dialect = match (&access.template, access.protocol) {
            (Some(path), _) => Dialect::Template(Template::read(path)?.into()),
            (None, ProtocolName::Centrifuge) => Dialect::Centrifuge,
            (None, ProtocolName::Raw) => Dialect::Template(Template::bare().into()),
        };
        for &pid in &measuring.pids {
            Usage::of(pid)?;
        }
        let targets = resolve(&access.urls, &["ws", "wss"], access)?;
        let api_urls = match publications.api_urls.as_slice() {
            [] => targets.iter().map(Target::api_beside).collect(),
            given => given.to_vec(),
        };
        let apis = resolve(&api_urls, &["http", "https"], access)?;
        let internals = resolve(&measuring.metrics_urls, &["http"], access)?;

        let needed =
            u64::from(connections.connections) + u64::from(publications.publishers) + SPARE_DESCRIPTORS;
        if needed > descriptors {
            return Err(PlanError::Descriptors { needed, limit: descriptors });
        }
        if access.sources == 0 {
            let per_target = connections.connections.div_ceil(targets.len() as u32);
            access.sources = per_target.div_ceil(CONNECTIONS_PER_SOURCE).clamp(1, 250) as u8;
        }
        if connections.threads == 0 {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            connections.threads = cores.div_ceil(2) as u16;
        }
        if publications.in_flight.is_some() {
            // The rate of a closed loop is a result.
            publications.rate = 0.0;
        }
        let total = publications.rate * publications.duration.0;
        check_combination(&arguments, &dialect, total)?;
        arguments.access.transport = dialect.transport(arguments.access.transport);
        // A closed loop publishes as much as its time allows.
        let closed = arguments.publications.in_flight.is_some();
        let publications = if closed { PUBLICATIONS_MAX } else { total.round() } as u64;
        Ok(Self { dialect, targets, apis, internals, run, publications, arguments })
    }

    /// Whether a connection stops reading. Slow readers are spread evenly over all connections.
    pub fn is_slow(&self, connection: u32) -> bool {
        let before =
            |number: u32| (f64::from(number) * self.arguments.connections.slow_percent / 100.0).floor();
        before(connection + 1) > before(connection)
    }

    /// Fetches the metrics of the nodes, if their addresses are known. `None` if one does not answer.
    pub async fn metrics(&self) -> Option<Metrics> {
        if self.internals.is_empty() { None } else { Metrics::of(&self.internals).await.ok() }
    }

    /// Returns the channels of one connection, in the order of subscribing.
    pub fn channels_of(&self, connection: u32) -> impl Iterator<Item = u32> {
        let arguments = &self.arguments.connections;
        let first = u64::from(connection) * u64::from(arguments.per_connection);
        let channels = u64::from(arguments.channels);
        // A connection that is closed as soon as it is ready subscribes to nothing.
        let count = if arguments.churn { 0 } else { u64::from(arguments.per_connection) };
        (0..count).map(move |index| ((first + index) % channels) as u32)
    }

    /// Returns how many subscribers a channel has; the larger number where channels differ by one.
    pub fn audience(&self) -> u64 {
        let arguments = &self.arguments.connections;
        let subscriptions = u64::from(arguments.connections) * u64::from(arguments.per_connection);
        subscriptions.div_ceil(u64::from(arguments.channels))
    }

    pub fn channel_names(&self) -> impl Iterator<Item = String> {
        let arguments = &self.arguments.connections;
        (0..arguments.channels).map(|channel| format!("{}{channel}", arguments.channel_prefix))
    }

    /// Returns the target of a connection's first attempt. Connections take the targets in turns.
    pub fn first_target(&self, connection: u32) -> usize {
        connection as usize % self.targets.len()
    }

    /// Returns the target of the next attempt after this one: any other, so that the clients of a dead gateway spread over
    /// the others.
    pub fn next_target(&self, last: usize) -> usize {
        let count = self.targets.len();
        if count == 1 { last } else { (last + rand::rng().random_range(1..count)) % count }
    }
}

/// Checks which options make sense together. `total` is the number of publications.
fn check_combination(arguments: &Arguments, dialect: &Dialect, total: f64) -> Result<(), PlanError> {
    let Arguments { access, connections, publications, measuring, storm, .. } = arguments;
    let PublicationArguments { batch, in_flight, publishers, .. } = *publications;
    let subscriptions = u64::from(connections.connections) * u64::from(connections.per_connection);
    let is_stream = dialect.transport(access.transport) != Transport::Websocket;
    let is_api = publications.publish_via == Entrance::Api;
    let has_one_channel = connections.per_connection == 1;
    let least = connections.reconnect_min_ms;
    let must = |holds, otherwise| if holds { Ok(()) } else { Err(PlanError::Argument(otherwise)) };
    must(connections.per_connection <= connections.channels, "--per-connection must be at most --channels")?;
    must(
        has_one_channel || !dialect.has_one_channel(),
        "--per-connection must be 1 with the bare protocol, whose address names the one channel, and with a template",
    )?;
    must(
        subscriptions <= SUBSCRIPTIONS_MAX,
        "--per-connection must be such that there are at most 20,000,000 subscriptions",
    )?;
    must(
        access.transport == Transport::Websocket || *dialect == Dialect::Centrifuge,
        "--transport must be websocket with a bare protocol or a template",
    )?;
    must(
        !is_stream || !access.compression,
        "--compression must be left out where the transport is no WebSocket",
    )?;
    must(is_api || !is_stream, "--publish-via must be api where the transport is no WebSocket")?;
    must(is_api || dialect.publishes_by_client(), "--publish-via must be api with a template")?;
    must(least <= connections.reconnect_max_ms, "--reconnect-min-ms must be at most --reconnect-max-ms")?;
    must(
        total <= PUBLICATIONS_MAX,
        "--duration must be such that at most 1,000,000,000 publications are made",
    )?;
    must(publications.warmup.0 <= publications.duration.0, "--warmup must be no longer than --duration")?;
    must(measuring.wave <= connections.connections, "--wave must be at most the number of connections")?;
    must(
        is_api || *dialect == Dialect::Centrifuge || publishers == connections.channels,
        "--publishers must be the number of channels where publications enter through bare connections",
    )?;
    must(
        batch == 1 || (is_api && dialect.publishes_by_api()),
        "--batch must be 1 with a template that says how to publish, and where publications enter through clients",
    )?;
    must(
        in_flight.is_none() || (is_api && publishers == 1),
        "--in-flight must be used with --publish-via api and one publisher",
    )?;
    must(in_flight.is_none_or(|most| batch <= most as usize), "--batch must be at most --in-flight")?;
    must(
        storm.calm.is_none() || total > 0.0 || in_flight.is_some(),
        "--rate must be more than 0 with --calm, since a storm is for those who miss something",
    )?;
    must(
        storm.calm.is_none() || connections.reconnect,
        "--calm must be used with --reconnect: who is cut off comes back",
    )?;
    let churns = connections.churn && (total > 0.0 || in_flight.is_some());
    must(
        !churns,
        "--churn must be used with --rate 0 and without --in-flight: connections are closed before anything can come",
    )
}

fn resolve(urls: &[String], schemes: &[&str], arguments: &AccessArguments) -> Result<Vec<Target>, PlanError> {
    urls.iter()
        .map(|url| {
            let wrong = |problem: String| PlanError::Url { url: url.clone(), problem };
            let uri: Uri = url.parse().map_err(|error| wrong(format!("{error}")))?;
            let scheme = uri.scheme_str().unwrap_or("");
            if !schemes.contains(&scheme) {
                return Err(wrong(format!("the address must begin with {}://", schemes.join(":// or "))));
            }
            let authority = uri.authority().ok_or_else(|| wrong("it names no host".to_owned()))?;
            let host = authority.host().trim_matches(['[', ']']);
            let secure = matches!(scheme, "wss" | "https");
            let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
            let mut addresses: Vec<SocketAddr> =
                (host, port).to_socket_addrs().map_err(|error| wrong(error.to_string()))?.collect();
            addresses.sort_by_key(SocketAddr::is_ipv6);
            let address = *addresses.first().ok_or_else(|| wrong("the host has no address".to_owned()))?;
            if !arguments.allow_remote && !address.ip().is_loopback() {
                return Err(PlanError::Remote { url: url.clone(), address });
            }
            let path = uri.path_and_query().map_or("", |path| path.as_str());
            let path = if path == "/" { "" } else { path };
            let tls = if secure { Some(Tls::towards(host, arguments.ca.as_deref())?) } else { None };
            Ok(Target { address, authority: authority.as_str().to_owned(), path: path.to_owned(), tls })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn plan(line: &str) -> Result<Plan, PlanError> {
        let words = std::iter::once("tidegate-loadtest").chain(line.split_whitespace());
        Plan::new(Arguments::try_parse_from(words).unwrap(), 1, 20_000)
    }

    #[test]
    fn channels_are_dealt_out_in_turns() {
        let plan = plan("--channels 5 --per-connection 2").unwrap();
        let of = |connection| plan.channels_of(connection).collect::<Vec<_>>();
        assert_eq!([of(0), of(1), of(2), of(3)], [[0, 1], [2, 3], [4, 0], [1, 2]]);
        assert_eq!(plan.channel_names().nth(4).unwrap(), "load-4");
    }

    #[test]
    fn addresses_beyond_this_machine_must_be_asked_for() {
        assert!(matches!(plan("--url ws://192.0.2.1:80"), Err(PlanError::Remote { .. })));
        assert!(matches!(plan("--api-url http://192.0.2.1/api"), Err(PlanError::Remote { .. })));
        assert!(plan("--url ws://192.0.2.1:80 --allow-remote").is_ok());
        assert!(plan("--url ws://[::1]:80").is_ok());
    }

    #[test]
    fn the_api_stands_beside_each_gateway_unless_told_otherwise() {
        let beside = plan("--url ws://127.0.0.1:1 --url ws://127.0.0.1:2/own/{channel}").unwrap();
        assert_eq!(beside.targets[1].path, "/own/{channel}");
        let apis: Vec<String> =
            beside.apis.iter().map(|api| format!("{}{}", api.authority, api.path)).collect();
        assert_eq!(apis, ["127.0.0.1:1/api", "127.0.0.1:2/api"]);
        let secure = plan("--url wss://127.0.0.1:3").unwrap();
        assert!(secure.targets[0].tls.is_some() && secure.apis[0].tls.is_some());
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_the_name_of_the_argument() {
        for (line, name) in [
            ("--channels 2 --per-connection 3", "--per-connection"),
            ("--protocol raw --channels 2 --per-connection 2", "--per-connection"),
            ("--transport sse --protocol raw", "--transport"),
            ("--transport http_stream --compression", "--compression"),
            ("--transport sse --publish-via client", "--publish-via"),
            ("--rate 1e9 --duration 1000", "--duration"),
            ("--batch 3 --in-flight 2", "--batch"),
            ("--rate 0 --calm 1", "--rate"),
            ("--calm 1", "--calm"),
            ("--churn", "--churn"),
            ("--pid 4294967295", "process 4294967295"),
            ("--reconnect --reconnect-min-ms 9 --reconnect-max-ms 3", "--reconnect-min-ms"),
            ("--url http://127.0.0.1", "http://127.0.0.1"),
            ("--url wss://127.0.0.1 --ca /nowhere.pem", "/nowhere.pem"),
        ] {
            let error = plan(line).unwrap_err().to_string();
            assert!(error.starts_with(name), "{line}: {error}");
        }
        assert!(matches!(plan("--connections 20000"), Err(PlanError::Descriptors { .. })));
    }

    #[test]
    fn clients_of_a_gateway_that_is_gone_spread_over_the_others() {
        let plan = plan("--url ws://127.0.0.1:1 --url ws://127.0.0.1:2 --url ws://127.0.0.1:3").unwrap();
        assert_eq!([0, 1, 2, 3].map(|connection| plan.first_target(connection)), [0, 1, 2, 0]);
        let mut went = [0; 3];
        (0..200).for_each(|_| went[plan.next_target(1)] += 1);
        assert!(went[0] > 0 && went[1] == 0 && went[2] > 0, "{went:?}");
    }

    #[test]
    fn slow_readers_are_spread_evenly() {
        let of = |percent: f64, connections| {
            let plan = plan(&format!("--slow-percent {percent}")).unwrap();
            (0..connections).filter(|number| plan.is_slow(*number)).collect::<Vec<_>>()
        };
        assert_eq!(of(1.0, 300), [99, 199, 299]);
        assert_eq!((of(0.0, 300).len(), of(100.0, 300).len(), of(2.5, 1_000).len()), (0, 300, 25));
    }

    #[test]
    fn many_connections_come_from_several_addresses() {
        let of = |line| plan(line).unwrap().arguments.access.sources;
        assert_eq!((of("--connections 12000"), of("--connections 19000")), (1, 2));
        assert_eq!(of("--connections 19000 --url ws://127.0.0.1:1 --url ws://127.0.0.1:2"), 1);
    }
}
