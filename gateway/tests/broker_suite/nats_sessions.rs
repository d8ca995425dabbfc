//! Tests sessions in NATS when the server is away, loses them, or is of another release.

use std::time::Duration;

use tidegate::broker::BrokerError;
use tidegate::broker::nats::{NatsConfig, NatsUrl};
use tidegate::sessions::{Holder, RenewOutcome, SessionKey};

use crate::harness::{Backend, Nats, Node, eventually};
use crate::nats_server::NatsServer;
use crate::sessions::{LONG, SHORT, stored, take_at_once};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_a_nats_that_is_killed_and_are_refused_while_it_is_away() {
    let mut nats = Nats::new();
    let node = nats.node();
    let key = SessionKey::of("a");
    node.begin_session(&key, stored(1, 0, "x")).await;
    nats.server.kill();
    let refused = async |outcome: Result<bool, BrokerError>| outcome.is_err();
    assert!(refused(node.sessions.write(&key, stored(1, 1, "y"), LONG).await).await);
    assert!(refused(node.sessions.take(&key, Holder(1), stored(2, 0, "z"), LONG).await).await);
    assert!(node.sessions.prolong(&[(key.clone(), Holder(1), LONG)]).await.is_err());
    assert!(node.sessions.read(&key).await.is_err() && node.sessions.remove(&key, Holder(1)).await.is_err());
    nats.server.restart();
    eventually("it can be read again", async || node.sessions.read(&key).await.is_ok()).await;
    let there = node.session(&key).await.expect("it was in a file");
    // Calls without an answer may have taken effect.
    assert!([stored(1, 0, "x"), stored(1, 1, "y"), stored(2, 0, "z")].contains(&there), "{there:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_a_stream_that_is_lost_are_lost_and_can_be_written_again() {
    let nats = Nats::new();
    let node = nats.node();
    let key = SessionKey::of("a");
    node.begin_session(&key, stored(1, 4, "x")).await;
    nats.server.ask("$JS.API.STREAM.DELETE.tidegate_sessions", "");
    eventually("it is known to be lost", async || {
        matches!(
            node.sessions.prolong(&[(key.clone(), Holder(1), LONG)]).await.as_deref(),
            Ok([RenewOutcome::Lost])
        )
    })
    .await;
    assert!(node.sessions.write(&key, stored(1, 4, "x"), LONG).await.expect("an answer"));
    assert_eq!(node.session(&key).await, Some(stored(1, 4, "x")));
}

/// Returns the number of messages in the stream of sessions.
fn messages(server: &NatsServer) -> u64 {
    let info = server.ask("$JS.API.STREAM.INFO.tidegate_sessions", "");
    let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
    info["state"]["messages"].as_u64().unwrap_or_else(|| panic!("{info}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_cluster_sessions_are_one_holders_and_the_servers_forget_them_by_themselves() {
    let servers = NatsServer::start_cluster(3);
    let url = servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",");
    let config =
        NatsConfig { url: NatsUrl::new(url), replicas: 3, timeout_ms: 5_000, ..NatsConfig::default() };
    // The stream as it was created under a release of NATS that could not expire single messages.
    let made = servers[0].ask(
        "$JS.API.STREAM.CREATE.tidegate_sessions",
        "{\"name\":\"tidegate_sessions\",\"subjects\":[\"tidegate.session.*\"],\"storage\":\"file\",\"num_replicas\":3}",
    );
    assert!(!made.contains("error"), "{made}");
    let nats = Nats::of(NatsServer::start(), config);
    let nodes: [Node; 2] = [nats.node(), nats.node()];
    take_at_once(&nodes).await;
    let key = SessionKey::of("quick");
    nodes[0].begin_session(&key, stored(1, 0, "x")).await;
    let before = messages(&servers[0]);
    assert_eq!(nodes[0].prolong_for(&key, 1, SHORT).await, RenewOutcome::Prolonged);
    eventually("nobody has it", async || nodes[1].session(&key).await.is_none()).await;
    eventually("it is forgotten", async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        messages(&servers[0]) == before - 1
    })
    .await;
}
