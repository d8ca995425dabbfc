//! Sources of feeds of a test's own, of each kind, in the same words.

use std::collections::BTreeMap;

use crate::gateway::Description;
use crate::redis_server::RedisServer;

/// The feed's name in these tests.
pub const FEED: &str = "orders";

const STREAM: &str = "incoming";
const GROUP: &str = "readers";

/// Where records come from.
#[derive(Debug)]
pub enum Outside {
    Stream(RedisServer),
}

/// A record that was put aside: why, and what it said.
pub type DeadLetter = (String, BTreeMap<String, String>);

impl Outside {
    pub fn stream() -> Self {
        // What was said to be there is there when it comes back.
        Self::Stream(RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]))
    }

    /// Has a node read it.
    pub fn feeds(&self, node: Description) -> Description {
        self.feeds_as(FEED, node)
    }

    /// The same under another name.
    pub fn feeds_as(&self, feed: &str, node: Description) -> Description {
        match self {
            Self::Stream(redis) => node
                .with(&format!("feeds.{feed}.kind"), "redis_stream")
                .with(&format!("feeds.{feed}.redis_stream.url"), redis.url())
                .with(&format!("feeds.{feed}.redis_stream.stream"), STREAM)
                .with(&format!("feeds.{feed}.redis_stream.group"), format!("{GROUP}-{feed}")),
        }
    }

    /// Adds a record.
    pub async fn add(&self, fields: &[(&str, &str)]) {
        self.add_all(&[fields.to_vec()]).await;
    }

    /// Adds records, in their order.
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
        }
    }

    /// Has the source hand out all of it again.
    pub async fn repeat(&self) {
        match self {
            Self::Stream(redis) => {
                redis.ask::<String>(&["XGROUP", "SETID", STREAM, &format!("{GROUP}-{FEED}"), "0"]);
            }
        }
    }

    /// What was put aside, in its order.
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
        }
    }

    /// Kills the server.
    pub async fn kill(&mut self) {
        match self {
            Self::Stream(redis) => redis.kill(),
        }
    }

    /// Starts it again with what it had.
    pub async fn restart(&mut self) {
        match self {
            Self::Stream(redis) => redis.restart(),
        }
    }
}
