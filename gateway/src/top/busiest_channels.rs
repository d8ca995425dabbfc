//! Asks the server API for the busiest channels, and for nodes whose metrics are not read.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::inspect::{ApiClient, CallError};
use crate::secret::{Secret, SecretFileError};

/// The channels considered: those with the most subscribers among the first of this many, by name.
const LISTED_MAX: u32 = 1_000;
/// The most channels whose offset is requested.
const FOLLOWED_MAX: usize = 50;
/// The shortest interval between requests, because every node has to answer.
const INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Channel {
    pub(super) name: String,
    pub(super) clients: u64,
    /// Publications a second. `None` without history, and at the first request.
    pub(super) rate: Option<f64>,
}

pub(super) struct Channels {
    /// The client, or why there is none.
    caller: Result<ApiClient, String>,
    pub(super) max: usize,
    requested_at: Option<Instant>,
    /// The number of requests so far: there are rates from the second one on.
    looks: u32,
    /// The offsets of channels at the last request.
    offsets: HashMap<String, (u64, Instant)>,
    pub(super) busiest: Vec<Channel>,
    /// The names of all nodes, with the number of their clients.
    pub(super) cluster: Vec<(String, u64)>,
    /// Why there are no new figures.
    pub(super) problem: Option<String>,
}

impl Channels {
    /// Creates the reader. A mistake in the URL or the key is shown as the problem: nodes can be watched nonetheless.
    pub(super) fn new(url: &str, key: Result<Option<Secret>, SecretFileError>, max: usize) -> Self {
        let caller = key
            .map_err(|error| format!("the key cannot be read: {error}"))
            .and_then(|key| ApiClient::new(url, key.as_ref()).map_err(|error| error.to_string()));
        Self {
            caller,
            max,
            requested_at: None,
            looks: 0,
            offsets: HashMap::new(),
            busiest: Vec::new(),
            cluster: Vec::new(),
            problem: None,
        }
    }

    /// Requests new figures, unless the last request was a moment ago.
    pub(super) async fn read(&mut self) {
        if self.requested_at.is_some_and(|at| at.elapsed() < INTERVAL) && self.looks > 1 {
            return;
        }
        self.requested_at = Some(Instant::now());
        self.looks += 1;
        let caller = match &self.caller {
            Ok(caller) => caller,
            Err(problem) => {
                self.problem = Some(problem.clone());
                return;
            }
        };
        let read = async {
            let nodes = caller.call("info", &json!({})).await?;
            let listed = caller.call("channels", &json!({ "limit": LISTED_MAX })).await?;
            let channels = most_subscribed(&listed);
            let of = |(name, _): &(String, u64)| json!({ "history": { "channel": name, "limit": 0 } });
            let commands: Vec<Value> = channels.iter().map(of).collect();
            let stand = match commands.is_empty() {
                true => json!({ "replies": [] }),
                false => {
                    caller.call_whole("batch", &json!({ "commands": commands, "parallel": true })).await?
                }
            };
            Ok::<_, CallError>((nodes, channels, stand))
        };
        match tokio::time::timeout(INTERVAL, read).await {
            Ok(Ok((nodes, channels, stand))) => {
                self.problem = None;
                self.cluster = cluster(&nodes);
                self.take(channels, &stand, Instant::now());
            }
            Ok(Err(error)) => self.problem = Some(error.to_string()),
            Err(_) => self.problem = Some(format!("no answer within {} s", INTERVAL.as_secs())),
        }
    }

    fn take(&mut self, channels: Vec<(String, u64)>, stand: &Value, now: Instant) {
        let before = std::mem::take(&mut self.offsets);
        let replies = stand["replies"].as_array().map_or(&[][..], Vec::as_slice);
        let mut found: Vec<Channel> = Vec::with_capacity(channels.len());
        for (at, (name, clients)) in channels.into_iter().enumerate() {
            let result = replies.get(at).map(|reply| &reply["history"]);
            let offset = result.and_then(|history| history["offset"].as_u64());
            let rate = offset.zip(before.get(&name)).map(|(offset, (then, at))| {
                offset.saturating_sub(*then) as f64 / now.duration_since(*at).as_secs_f64().max(0.001)
            });
            if let Some(offset) = offset {
                self.offsets.insert(name.clone(), (offset, now));
            }
            found.push(Channel { name, clients, rate });
        }
        let busy = |channel: &Channel| channel.rate.unwrap_or(0.0) * channel.clients as f64;
        found.sort_by(|a, b| busy(b).total_cmp(&busy(a)).then(b.clients.cmp(&a.clients)));
        found.truncate(self.max);
        self.busiest = found;
    }
}

fn most_subscribed(listed: &Value) -> Vec<(String, u64)> {
    let entries = listed["channels"].as_object().into_iter().flatten();
    let mut channels: Vec<(String, u64)> =
        entries.map(|(name, entry)| (name.clone(), entry["num_clients"].as_u64().unwrap_or(0))).collect();
    channels.sort_by_key(|(_, clients)| std::cmp::Reverse(*clients));
    channels.truncate(FOLLOWED_MAX);
    channels
}

fn cluster(nodes: &Value) -> Vec<(String, u64)> {
    let nodes = nodes["nodes"].as_array().into_iter().flatten();
    nodes
        .map(|node| {
            let name = node["name"].as_str().unwrap_or_default().to_owned();
            (name, node["num_clients"].as_u64().unwrap_or(0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_wrong_with_the_api_is_a_problem_of_the_channels_alone() {
        let mut channels = Channels::new("nowhere", Ok(None), 2);
        channels.read().await;
        assert!(channels.problem.is_some_and(|problem| problem.contains("nowhere")));
    }

    #[test]
    fn a_channel_is_as_busy_as_what_goes_out_for_it() {
        let mut channels = Channels::new("http://127.0.0.1:8000", Ok(None), 2);
        let listed = json!({ "channels": {
            "a": { "num_clients": 1 }, "b": { "num_clients": 100 }, "c": { "num_clients": 20 }, "d": { "num_clients": 3 },
        } });
        let stand = |offsets: [Option<u64>; 4]| {
            let reply = |offset: Option<u64>| match offset {
                Some(offset) => json!({ "history": { "offset": offset } }),
                None => json!({ "error": { "code": 108 } }),
            };
            json!({ "replies": offsets.map(reply) })
        };
        let now = Instant::now();
        let order = most_subscribed(&listed);
        assert_eq!(order.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["b", "c", "d", "a"]);
        channels.take(order.clone(), &stand([None, Some(5), Some(7), Some(9)]), now);
        assert_eq!(channels.busiest.iter().map(|channel| channel.rate).collect::<Vec<_>>(), [None, None]);
        channels.take(order, &stand([None, Some(5), Some(17), Some(9)]), now + Duration::from_secs(2));
        let found: Vec<_> =
            channels.busiest.iter().map(|channel| (&*channel.name, channel.clients, channel.rate)).collect();
        assert_eq!(found, [("d", 3, Some(5.0)), ("b", 100, None)]);
    }
}
