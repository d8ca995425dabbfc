//! Generates `docs/configuration.md` and `docs/metrics.md` from the code, and checks that they are up to date.
//!
//! After a change to a setting or a metric: `WRITE_DOCS=1 cargo test -p tidegate --test generated_docs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use tidegate::config::Config;
use tidegate::feeds::feed_config::FeedConfig;
use tidegate::graphql::graphql_config::Subscription;
use tidegate::http::raw_paths::RawPath;
use tidegate::pusher::pusher_config::PusherAppConfig;
use tidegate::pusher::webhook::Webhook;
use tidegate::socketio::namespaces::{EventRule, Namespace};
use tidegate::telemetry::names::{self, MetricKind};

/// Where the settings of each section are defined: section, file under `gateway`, type.
const SECTIONS: &[(&str, &str, &str)] = &[
    ("node", "src/node/node_config.rs", "NodeConfig"),
    ("server", "src/listener/listener_config.rs", "ServerConfig"),
    ("internal", "src/listener/listener_config.rs", "InternalConfig"),
    ("console", "src/console/console_config.rs", "ConsoleConfig"),
    ("cluster", "src/listener/listener_config.rs", "ClusterConfig"),
    ("tls", "src/listener/tls/tls_config.rs", "TlsConfig"),
    ("proxy_protocol", "src/listener/proxy_protocol/proxy_protocol_config.rs", "ProxyProtocolConfig"),
    ("limits", "src/admission/admission_config.rs", "AdmissionConfig"),
    ("http", "src/http/http_config.rs", "HttpConfig"),
    ("raw", "src/http/raw_paths.rs", "RawPathsConfig"),
    (RAW_PATH, "src/http/raw_paths.rs", "RawPath"),
    ("sse", "src/http/event_stream.rs", "EventStreamConfig"),
    ("mercure", "src/api/update.rs", "MercureConfig"),
    ("graphql", "src/graphql/graphql_config.rs", "GraphqlConfig"),
    (GRAPHQL_FIELD, "src/graphql/graphql_config.rs", "Subscription"),
    ("websocket", "src/client/client_config.rs", "WebSocketConfig"),
    ("session", "core/src/session/settings.rs", "SessionSettings"),
    ("auth", "src/auth/auth_config.rs", "AuthConfig"),
    ("api", "src/api/api_config.rs", "ApiConfig"),
    ("workers", "src/worker/worker_config.rs", "WorkerConfig"),
    ("channel_names", "core/src/channel_names.rs", "ChannelNames"),
    ("channels", "core/src/channel_rules.rs", "ChannelOptions"),
    ("channels.shared_poll", "core/src/poll/poll_options.rs", "PollOptions"),
    ("pusher", "src/pusher/pusher_config.rs", "PusherConfig"),
    (PUSHER_APP, "src/pusher/pusher_config.rs", "PusherAppConfig"),
    (PUSHER_WEBHOOK, "src/pusher/webhook.rs", "Webhook"),
    ("pusher.webhooks", "src/pusher/webhook.rs", "WebhooksConfig"),
    ("socketio", "src/socketio/socketio_config.rs", "SocketioConfig"),
    ("socketio.emitters", "src/socketio/emitters_config.rs", "EmittersConfig"),
    (NAMESPACE, "src/socketio/namespaces.rs", "Namespace"),
    (EVENT, "src/socketio/namespaces.rs", "EventRule"),
    ("backend", "src/backend/backend_config.rs", "BackendConfig"),
    ("backend.connect", "src/backend/backend_config.rs", "HookConfig"),
    ("backend.events", "src/backend/backend_config.rs", "EventsConfig"),
    ("channels.map", "core/src/map/map_options.rs", "MapOptions"),
    ("channels.newest", "core/src/newest/newest_options.rs", "NewestOptions"),
    ("shared_poll", "src/poll/poll_config.rs", "PollConfig"),
    ("broker", "src/broker/broker_config.rs", "BrokerConfig"),
    ("broker.memory", "src/broker/memory/memory_broker_config.rs", "MemoryBrokerConfig"),
    ("redis", "src/broker/redis/redis_config.rs", "RedisConfig"),
    ("nats", "src/broker/nats/nats_config.rs", "NatsConfig"),
    (FEED, "src/feeds/feed_config.rs", "FeedConfig"),
    (FEED_FIELDS, "src/feeds/feed_config.rs", "FieldNames"),
    (FEED_REDIS_STREAM, "src/feeds/redis_stream/redis_stream_config.rs", "RedisStreamConfig"),
    (FEED_NATS, "src/feeds/nats/nats_feed_config.rs", "NatsFeedConfig"),
    (FEED_POSTGRES, "src/feeds/postgres/postgres_config.rs", "PostgresConfig"),
    (FEED_KAFKA, "src/feeds/kafka/kafka_config.rs", "KafkaConfig"),
    ("demo", "src/demo/demo_config.rs", "DemoConfig"),
    ("balance", "core/src/balance.rs", "BalanceConfig"),
    ("drain", "core/src/drain.rs", "DrainSettings"),
    ("telemetry", "src/telemetry/telemetry_config.rs", "TelemetryConfig"),
];

/// Stands for every section that is a field of the subscription type.
const GRAPHQL_FIELD: &str = "graphql.subscriptions.NAME";
/// Stands for every section that is an app.
const PUSHER_APP: &str = "pusher.apps.NAME";
/// Stands for every section that is a webhook of an app.
const PUSHER_WEBHOOK: &str = "pusher.apps.NAME.webhooks.NAME";
/// Stands for every section that is a namespace of Socket.IO, and for one of its events.
const NAMESPACE: &str = "socketio.namespaces.\"/NAME\"";
const EVENT: &str = "socketio.namespaces.\"/NAME\".events.EVENT";
/// Stands for every section that is a feed, and for the sections within it.
const FEED: &str = "feeds.NAME";
const FEED_FIELDS: &str = "feeds.NAME.fields";
const FEED_REDIS_STREAM: &str = "feeds.NAME.redis_stream";
const FEED_NATS: &str = "feeds.NAME.nats";
const FEED_POSTGRES: &str = "feeds.NAME.postgres";
const FEED_KAFKA: &str = "feeds.NAME.kafka";
/// Stands for every section that is a bare endpoint's path.
const RAW_PATH: &str = "raw.paths.\"/PATH\"";

#[test]
fn the_page_on_configuration_is_fresh() {
    compare("configuration.md", &configuration());
}

#[test]
fn the_page_on_metrics_is_fresh() {
    compare("metrics.md", &metrics());
}

#[test]
fn every_section_and_key_is_on_the_page() {
    let defaults = toml::Value::try_from(Config::default()).unwrap();
    let mut missing = Vec::new();
    for (section, keys) in defaults.as_table().unwrap() {
        if section == "namespaces" || section == "feeds" {
            continue;
        }
        let Some((_, file, name)) = SECTIONS.iter().find(|(listed, _, _)| listed == section) else {
            missing.push(section.clone());
            continue;
        };
        let fields = fields(file, name);
        for key in keys.as_table().unwrap().keys() {
            if !fields.iter().any(|field| field.name == *key) {
                missing.push(format!("{section}.{key}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

fn compare(name: &str, written: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(&file, written).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == written,
        "docs/{name} is stale: run WRITE_DOCS=1 cargo test -p tidegate --test generated_docs"
    );
}

fn configuration() -> String {
    let mut page = String::from(CONFIGURATION_INTRODUCTION);
    let defaults = toml::Value::try_from(Config::default()).unwrap();
    for (section, file, name) in SECTIONS {
        write!(page, "\n## `[{section}]`\n\n").unwrap();
        if *section == "channels" {
            page.push_str(CHANNELS_INTRODUCTION);
        } else {
            let about = about(file, name);
            if !about.is_empty() && !about.starts_with('`') {
                write!(page, "{about}\n\n").unwrap();
            }
        }
        let of_raw_path = toml::Value::try_from(RawPath::default()).unwrap();
        let of_app = toml::Value::try_from(PusherAppConfig::default()).unwrap();
        let of_webhook = toml::Value::try_from(Webhook::default()).unwrap();
        let of_namespace = toml::Value::try_from(Namespace::default()).unwrap();
        let of_feed = toml::Value::try_from(FeedConfig::default()).unwrap();
        let of_event = toml::Value::try_from(EventRule::default()).unwrap();
        let of_field = toml::Value::try_from(Subscription::default()).unwrap();
        let set = match *section {
            RAW_PATH => Some(&of_raw_path),
            PUSHER_APP => Some(&of_app),
            PUSHER_WEBHOOK => Some(&of_webhook),
            NAMESPACE => Some(&of_namespace),
            EVENT => Some(&of_event),
            GRAPHQL_FIELD => Some(&of_field),
            FEED => Some(&of_feed),
            FEED_FIELDS => of_feed.get("fields"),
            FEED_REDIS_STREAM => of_feed.get("redis_stream"),
            FEED_NATS => of_feed.get("nats"),
            FEED_POSTGRES => of_feed.get("postgres"),
            FEED_KAFKA => of_feed.get("kafka"),
            section => section.split('.').try_fold(&defaults, |value, step| value.get(step)),
        };
        let mut head = "| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
        for field in fields(file, name) {
            let default = set.and_then(|keys| keys.get(&field.name));
            if default.is_some_and(toml::Value::is_table) {
                continue;
            }
            let default = default.map_or_else(|| "not set".to_owned(), |value| format!("`{value}`"));
            let meaning = field.meaning.replace('|', "\\|");
            page.push_str(std::mem::take(&mut head));
            writeln!(page, "| `{}` | {} | {default} | {meaning} |", field.name, field.kind).unwrap();
        }
        if !head.is_empty() {
            // The section contains only other sections.
            page.pop();
        }
    }
    page
}

fn metrics() -> String {
    let mut page = String::from(METRICS_INTRODUCTION);
    for (section, metrics) in names::ALL {
        write!(page, "\n## {section}\n\n").unwrap();
        page.push_str("| name | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
        for metric in *metrics {
            let kind = match metric.kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
                MetricKind::Histogram => "histogram",
            };
            let labels = metric.labels.iter().map(|(label, values)| format!("`{label}`: {values}"));
            let labels = labels.collect::<Vec<_>>().join("; ");
            writeln!(page, "| `{}` | {kind} | {labels} | {} |", metric.name, metric.help).unwrap();
        }
    }
    page
}

/// One key, as the source of its type defines it.
struct Field {
    name: String,
    kind: &'static str,
    meaning: String,
}

fn source(file: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the doc comment of a type.
fn about(file: &str, name: &str) -> String {
    let source = source(file);
    let lines: Vec<&str> = source.lines().collect();
    let at = declaration(&lines, file, name);
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
    let mut about: Vec<&str> = above.filter_map(|line| line.strip_prefix("///")).map(str::trim).collect();
    about.reverse();
    about.join(" ")
}

/// Returns the public fields of a type with their doc comments.
fn fields(file: &str, name: &str) -> Vec<Field> {
    let source = source(file);
    let lines: Vec<&str> = source.lines().collect();
    let at = declaration(&lines, file, name);
    let (mut fields, mut comment) = (Vec::new(), Vec::new());
    let mut is_set_elsewhere = false;
    for line in lines[at + 1..].iter().map(|line| line.trim()).take_while(|line| *line != "}") {
        if let Some(text) = line.strip_prefix("///") {
            comment.push(text.trim());
        } else if line == "#[serde(skip)]" {
            is_set_elsewhere = true;
        } else if std::mem::take(&mut is_set_elsewhere) {
            comment.clear();
        } else if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|line| line.split_once(": ")) {
            let meaning = comment.join(" ");
            assert!(!meaning.is_empty(), "{file}: {name} does not say what it means");
            let kind = kind_in_words(kind.trim_end_matches(','));
            fields.push(Field { name: name.to_owned(), kind, meaning });
            comment.clear();
        }
    }
    fields
}

fn declaration(lines: &[&str], file: &str, name: &str) -> usize {
    let declaration = format!("pub struct {name} {{");
    let at = lines.iter().position(|line| *line == declaration);
    at.unwrap_or_else(|| panic!("{file} has no struct {name}"))
}

fn kind_in_words(kind: &str) -> &'static str {
    // An optional setting has the same kind of value.
    match kind.strip_prefix("Option<").and_then(|kind| kind.strip_suffix('>')).unwrap_or(kind) {
        "bool" => "true, false",
        "u16" | "u32" | "u64" | "usize" | "i64" => "number",
        "f64" => "fraction",
        "SocketAddr" => "address:port",
        "PathBuf" => "file",
        kind if kind.starts_with("Vec<") => "list",
        _ => "text",
    }
}

const CONFIGURATION_INTRODUCTION: &str = "\
# Configuration

<!-- Written from the source by gateway/tests/generated_docs.rs. Change it there. -->

A node reads its settings from three sources: a TOML file (`--config FILE`, or the variable `TIDEGATE_CONFIG`), environment
variables, which override the file, and flags, which override both. Every setting has a default or can be left out.

- **Variables.** Every key can be set by a variable: `TIDEGATE_`, then the section, two underscores and the key. `listen` in
  `[server]` is `TIDEGATE_SERVER__LISTEN`, and `history_size` in `[namespaces.prices]` is
  `TIDEGATE_NAMESPACES__PRICES__HISTORY_SIZE`. The elements of a list are separated by commas. Namespaces that are named by a
  variable are in lower case. An empty variable unsets a key that has no default. Sections of paths (`[raw.paths.\"/ws\"]`) can
  only be set in the file, because no variable's name can hold a `/`.
- **Values.** All sources are parsed alike: white space, line breaks and a byte order mark around a value are ignored, and
  numbers and booleans (`true`, `yes`, `on`, `1` in any case) may be strings.
- **Unknown variables.** A variable that begins with `TIDEGATE_` and has no two underscores after that sets nothing; the log
  and `tidegate check` report it. A variable with two underscores that names no key is a mistake.
- **Units** are part of the names: `_ms` milliseconds, `_s` seconds, `_bytes` bytes, `_max` an upper limit. A limit of 0 means
  no limit where the key says so.
- **Checking.** `tidegate check` (or `tidegate config`) reports every mistake with the line, variable or flag that it comes
  from, and exits with status 64. Without a mistake it prints the whole configuration without secrets, the source of each value
  (`# gateway.toml:7`, `# TIDEGATE_WORKERS__COUNT`, `# default`), and a line that says the configuration is valid. `--changed` limits the output to
  values that differ from the defaults; `--json` prints a list for programs. `tidegate serve` makes the same checks and does
  not start if there is a mistake.
- **Demo.** `--demo` applies the settings of `gateway/src/config/demo.toml`, which the file, variables and flags override.
";

const CHANNELS_INTRODUCTION: &str = "\
The options of channels without a namespace. `[namespaces.NAME]` has the same keys for the channels `NAME:…`. A channel with a
namespace exists only if the namespace has a section, which may be empty; that section inherits nothing from `[channels]`. A
channel whose name begins with `$` is private: whatever the options say, clients need a subscription token to subscribe to it.

";

const METRICS_INTRODUCTION: &str = "\
# Metrics

<!-- Written from gateway/src/telemetry/names.rs by gateway/tests/generated_docs.rs. Change it there. -->

Every node serves its metrics at `/metrics` on the internal listener (by default `127.0.0.1:8001`), in Prometheus' text format,
as OpenMetrics 1.0 or as Prometheus' protobuf messages, depending on the request's `Accept` header.

- The values of every label are bounded: channels, users and addresses are never labels.
- Every counter starts at 0 when the node starts.
- Histograms are exported as `_bucket`, `_sum` and `_count`. In protobuf, `tidegate_stage_seconds` and
  `tidegate_delivery_seconds` are also native histograms ([where the time goes](operations.md#where-the-time-goes)).
";
