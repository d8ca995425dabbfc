//! Sources of feeds for tests, of each kind, behind one interface.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use krafka::{ConsumerRecord, Record};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::gateway::{Description, PATIENCE};
use crate::kafka::KafkaServer;
use crate::nats_server::NatsServer;
use crate::postgres::PostgresServer;
use crate::redis_server::RedisServer;

/// The feed's name in these tests.
pub const FEED: &str = "orders";

/// The key of a stream.
pub const STREAM: &str = "incoming";
const GROUP: &str = "readers";

/// The source of records.
#[derive(Debug)]
pub enum Outside {
    Stream(RedisServer),
    Table(PostgresServer),
    Topic(KafkaServer),
    Subjects(NatsServer),
}

/// The columns of a table and their types.
const COLUMNS: [(&str, &str); 12] = [
    ("channel", "text"),
    ("channels", "jsonb"),
    ("data", "jsonb"),
    ("b64data", "text"),
    ("tags", "jsonb"),
    ("kind", "text"),
    ("key", "text"),
    ("idempotency_key", "text"),
    ("version", "bigint"),
    ("version_epoch", "text"),
    ("skip_history", "boolean"),
    ("delta", "boolean"),
];

/// The trigger that notifies of new rows, as in the page on feeds.
const TRIGGER: &str = "
CREATE FUNCTION outbox_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NOTIFY outbox;
  RETURN NULL;
END $$;
CREATE TRIGGER outbox_notify AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION outbox_notify();
";

/// Fields that are JSON as they are written.
const JSON: [&str; 3] = ["data", "tags", "channels"];

/// Returns the value of a Kafka record.
fn object(fields: &[(&str, &str)]) -> String {
    let member = |(name, value): &(&str, &str)| {
        let value = if JSON.contains(name) { (*value).to_owned() } else { Value::from(*value).to_string() };
        format!("{}:{value}", Value::from(*name))
    };
    format!("{{{}}}", fields.iter().map(member).collect::<Vec<_>>().join(","))
}

/// A dead letter: the reason, and the fields of the record.
pub type DeadLetter = (String, BTreeMap<String, String>);

impl Outside {
    pub fn stream() -> Self {
        // Acknowledged records must survive a restart.
        Self::Stream(RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]))
    }

    /// Creates a topic with one partition, so that all records have one order.
    pub async fn topic() -> Self {
        let server = KafkaServer::start().await;
        server.make_topic(STREAM, 1).await;
        server.make_topic(&format!("{STREAM}.dead"), 1).await;
        Self::Topic(server)
    }

    pub async fn table() -> Self {
        Self::table_of(PostgresServer::start().await).await
    }

    pub async fn table_of(server: PostgresServer) -> Self {
        let columns: String = COLUMNS.iter().map(|(name, kind)| format!("{name} {kind}, ")).collect();
        let tables = format!(
            "CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {columns} \
               created_at timestamptz NOT NULL DEFAULT now()); \
             CREATE TABLE outbox_dead (id text NOT NULL, reason text NOT NULL, record jsonb NOT NULL, \
               at timestamptz NOT NULL); \
             CREATE TABLE every_row (LIKE outbox);"
        );
        let session = server.session().await;
        session.batch_execute(&tables).await.expect("tables");
        session.batch_execute(TRIGGER).await.expect("a trigger");
        Self::Table(server)
    }

    /// Creates a JetStream stream.
    pub fn subjects() -> Self {
        let server = NatsServer::start();
        let stream = format!("{{\"name\":\"{STREAM}\",\"subjects\":[\"{STREAM}.>\"],\"storage\":\"file\"}}");
        let made = server.ask(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &stream);
        assert!(!made.contains("\"error\""), "{made}");
        Self::Subjects(server)
    }

    /// Has a node read the source.
    pub fn feeds(&self, node: Description) -> Description {
        self.feeds_as(FEED, node)
    }

    /// The same, as a feed of another name.
    pub fn feeds_as(&self, feed: &str, node: Description) -> Description {
        match self {
            Self::Stream(redis) => node
                .with(&format!("feeds.{feed}.kind"), "redis_stream")
                .with(&format!("feeds.{feed}.redis_stream.url"), redis.url())
                .with(&format!("feeds.{feed}.redis_stream.stream"), STREAM)
                .with(&format!("feeds.{feed}.redis_stream.group"), format!("{GROUP}-{feed}")),
            Self::Subjects(server) => node
                .with(&format!("feeds.{feed}.kind"), "nats")
                .with(&format!("feeds.{feed}.nats.url"), server.url())
                .with(&format!("feeds.{feed}.nats.stream"), STREAM)
                .with(&format!("feeds.{feed}.nats.consumer"), format!("{GROUP}-{feed}")),
            Self::Table(server) => node
                .with(&format!("feeds.{feed}.kind"), "postgres")
                .with(&format!("feeds.{feed}.postgres.url"), server.url()),
            Self::Topic(server) => node.and(&format!(
                "[feeds.{feed}]\nkind = \"kafka\"\n[feeds.{feed}.kafka]\nbrokers = [\"{}\"]\ntopic = \"{STREAM}\"\n\
                 group = \"{GROUP}-{feed}\"\n",
                server.address()
            )),
        }
    }

    /// Adds a record.
    pub async fn add(&self, fields: &[(&str, &str)]) {
        self.add_all(&[fields.to_vec()]).await;
    }

    /// Adds records, in order.
    pub async fn add_all(&self, records: &[Vec<(&str, &str)>]) {
        match self {
            Self::Stream(redis) => {
                let client = redis::Client::open(redis.url()).expect("an address");
                let mut connection = client.get_connection().expect("a connection");
                for some in records.chunks(500) {
                    let mut pipeline = redis::pipe();
                    for fields in some {
                        pipeline.xadd(STREAM, "*", fields).ignore();
                    }
                    pipeline.query::<()>(&mut connection).expect("they are added");
                }
            }
            Self::Subjects(server) => {
                // Everything but the data, lists and objects is text.
                let value = |name: &str, value: &str| match name {
                    "data" | "tags" | "channels" => value.to_owned(),
                    _ => Value::from(value).to_string(),
                };
                let messages: Vec<(String, Vec<u8>)> = (records.iter())
                    .map(|fields| {
                        let members: Vec<String> = (fields.iter())
                            .map(|(name, text)| format!("{}:{}", Value::from(*name), value(name, text)))
                            .collect();
                        (format!("{STREAM}.x"), format!("{{{}}}", members.join(",")).into_bytes())
                    })
                    .collect();
                server.add_all(&messages);
            }
            Self::Table(server) => Self::insert(server, records).await,
            Self::Topic(server) => {
                let record = |fields: &Vec<(&str, &str)>| Record::new(STREAM, object(fields));
                server.write(records.iter().map(record)).await;
            }
        }
    }

    async fn insert(server: &PostgresServer, records: &[Vec<(&str, &str)>]) {
        let mut session = server.session().await;
        let transaction = session.transaction().await.expect("a transaction");
        for fields in records {
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            let kind = |name: &str| COLUMNS.iter().find(|(known, _)| *known == name).expect("a column").1;
            let values: Vec<String> = (names.iter().enumerate())
                .map(|(at, name)| format!("${}::text::{}", at + 1, kind(name)))
                .collect();
            let insert = format!(
                "WITH added AS (INSERT INTO outbox ({}) VALUES ({}) RETURNING *) \
                 INSERT INTO every_row SELECT * FROM added",
                names.join(", "),
                values.join(", ")
            );
            let insert = transaction.prepare(&insert).await.expect("a row of this kind");
            let values: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
                fields.iter().map(|(_, value)| value as _).collect();
            transaction.execute(&insert, &values).await.expect("a row");
        }
        transaction.commit().await.expect("rows");
    }

    /// Has the source deliver all its records again.
    pub async fn repeat(&self) {
        match self {
            Self::Stream(redis) => {
                redis.ask::<String>(&["XGROUP", "SETID", STREAM, &format!("{GROUP}-{FEED}"), "0"]);
            }
            Self::Subjects(server) => {
                let consumer = format!("{GROUP}-{FEED}");
                server.ask(&format!("$JS.API.CONSUMER.DELETE.{STREAM}.{consumer}"), "");
                let config = format!(
                    "{{\"stream_name\":\"{STREAM}\",\"config\":{{\"durable_name\":\"{consumer}\",\
                     \"ack_policy\":\"explicit\",\"deliver_policy\":\"all\"}}}}"
                );
                let made =
                    server.ask(&format!("$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{consumer}"), &config);
                assert!(!made.contains("\"error\""), "{made}");
            }
            Self::Table(server) => {
                let again = "INSERT INTO outbox OVERRIDING SYSTEM VALUE SELECT * FROM every_row";
                server.session().await.batch_execute(again).await.expect("the same rows");
            }
            Self::Topic(_) => panic!("a topic is not read anew while somebody reads it"),
        }
    }

    /// Returns the dead letters, in order.
    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        match self {
            Self::Stream(redis) => {
                let found: Vec<(String, Vec<(String, String)>)> =
                    redis.ask(&["XRANGE", &format!("{STREAM}:dead"), "-", "+"]);
                let letter = |(_, fields): (String, Vec<(String, String)>)| {
                    let mut fields: BTreeMap<_, _> = fields.into_iter().collect();
                    (fields.remove("feed_reason").expect("a reason"), fields)
                };
                found.into_iter().map(letter).collect()
            }
            Self::Subjects(server) => {
                let letter = |(head, body): (String, Vec<u8>)| {
                    let reason = head.lines().find_map(|line| line.strip_prefix("Feed-Reason: "));
                    let fields: Map<String, Value> = serde_json::from_slice(&body).unwrap_or_default();
                    let fields = fields.into_iter().map(|(name, value)| match value {
                        Value::String(text) if name != "data" => (name, text),
                        value => (name, value.to_string()),
                    });
                    (reason.expect("a reason").to_owned(), fields.collect())
                };
                server.all_of(&format!("{STREAM}_dead")).into_iter().map(letter).collect()
            }
            Self::Table(server) => {
                let session = server.session().await;
                let rows =
                    session.query("SELECT reason, record::text FROM outbox_dead ORDER BY id::bigint", &[]);
                let letter = |row: &tokio_postgres::Row| {
                    let record: Map<String, Value> =
                        serde_json::from_str(&row.get::<_, String>(1)).expect("a row in JSON");
                    // As they were added: a JSON column as it is written, any other as its text.
                    let fields = record.into_iter().map(|(name, value)| match value {
                        Value::String(text) if !JSON.contains(&&*name) => (name, text),
                        value => (name, value.to_string()),
                    });
                    (row.get(0), fields.collect())
                };
                rows.await.expect("dead letters").iter().map(letter).collect()
            }
            Self::Topic(server) => {
                let found = server.read(&format!("{STREAM}.dead")).await;
                let letter = |record: &ConsumerRecord| {
                    let reason = record.header_str("feed_reason").expect("a reason").to_owned();
                    let value = record.value.as_deref().expect("a value");
                    let fields: BTreeMap<String, Box<RawValue>> =
                        serde_json::from_slice(value).expect("an object");
                    let text = |raw: &RawValue| {
                        serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
                    };
                    // JSON fields are returned as they are written.
                    let told = |(name, raw): (String, Box<RawValue>)| {
                        let is_json = JSON.contains(&&*name);
                        (name, if is_json { raw.get().to_owned() } else { text(&raw) })
                    };
                    (reason, fields.into_iter().map(told).collect())
                };
                found.iter().map(letter).collect()
            }
        }
    }

    /// Makes the source refuse dead letters, or accept them again.
    pub async fn refuse_dead_letters(&self, refuse: bool) {
        match (self, refuse) {
            (Self::Stream(redis), true) => redis.ask::<()>(&["SET", &format!("{STREAM}:dead"), "no stream"]),
            (Self::Stream(redis), false) => redis.ask::<()>(&["DEL", &format!("{STREAM}:dead")]),
            (Self::Table(server), refuse) => {
                let rule = if refuse { "ADD CONSTRAINT none CHECK (false)" } else { "DROP CONSTRAINT none" };
                let alter = format!("ALTER TABLE outbox_dead {rule}");
                server.session().await.batch_execute(&alter).await.expect("a constraint");
            }
            (Self::Subjects(server), refuse) => {
                let dead = format!("{STREAM}_dead");
                server.ask(&format!("$JS.API.STREAM.DELETE.{dead}"), "");
                if refuse {
                    // A stream of that name exists, with other subjects.
                    let other = format!("{{\"name\":\"{dead}\",\"subjects\":[\"elsewhere\"]}}");
                    let made = server.ask(&format!("$JS.API.STREAM.CREATE.{dead}"), &other);
                    assert!(!made.contains("\"error\""), "{made}");
                }
            }
            (Self::Topic(server), true) => server.delete_topic(&format!("{STREAM}.dead")).await,
            (Self::Topic(server), false) => server.make_topic(&format!("{STREAM}.dead"), 1).await,
        }
    }

    /// Returns how many records are unfinished.
    pub async fn left(&self) -> u64 {
        match self {
            Self::Stream(redis) => {
                let pending: Vec<redis::Value> = redis.ask(&["XPENDING", STREAM, &format!("{GROUP}-{FEED}")]);
                redis::from_redis_value(pending.into_iter().next().expect("a count")).expect("a number")
            }
            Self::Table(server) => {
                let count = server.session().await.query_one("SELECT count(*) FROM outbox", &[]).await;
                count.expect("a count").get::<_, i64>(0).unsigned_abs()
            }
            Self::Subjects(server) => {
                // There is no consumer while it is recreated.
                let started = Instant::now();
                let info = loop {
                    let info = server.ask(&format!("$JS.API.CONSUMER.INFO.{STREAM}.{GROUP}-{FEED}"), "");
                    let info: Value = serde_json::from_str(&info).expect("JSON");
                    if info["error"].is_null() {
                        break info;
                    }
                    assert!(started.elapsed() < PATIENCE, "{info}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                };
                let count = |name: &str| info[name].as_u64().expect("a number");
                count("num_pending") + count("num_ack_pending")
            }
            Self::Topic(server) => {
                let consumer = server.client().await.consumer(format!("{GROUP}-{FEED}")).build().await;
                let consumer = consumer.expect("a consumer");
                let (_, end) = consumer.fetch_watermarks(STREAM, 0).await.expect("where it ends");
                let committed = consumer.committed(&[(STREAM, 0)]).await.expect("where the group is");
                let stands = committed.values().next().map_or(0, |stands| stands.offset);
                (end - stands).unsigned_abs()
            }
        }
    }

    /// Kills the server.
    pub async fn kill(&mut self) {
        match self {
            Self::Stream(redis) => redis.kill(),
            Self::Subjects(server) => server.kill(),
            Self::Table(server) => server.kill(),
            Self::Topic(server) => server.kill(),
        }
    }

    /// Restarts the server with its data.
    pub async fn restart(&mut self) {
        match self {
            Self::Stream(redis) => redis.restart(),
            Self::Subjects(server) => server.restart(),
            Self::Table(server) => server.restart().await,
            Self::Topic(server) => server.restart().await,
        }
    }
}
