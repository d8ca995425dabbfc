//! Nodes ask each other, and say so where there is no answer.

use bytes::Bytes;
use serde_json::json;
use tidegate::node::AskError;
use tidegate::node::control::{NodeInfo, Target};
use tidegate::node::question::{
    Act, Answer, ChannelsWanted, ConnectionsWanted, PAGE_MAX, Question, TOLD_BYTES_MAX,
};

use crate::gateway::{eventually, gateway};
use crate::redis_server::RedisServer;
use crate::spans_nodes::nodes;

/// Announces a node that is not there.
fn announce(redis: &RedisServer, uid: &str, questions: u32) {
    let info = NodeInfo { uid: uid.into(), name: uid.into(), questions, ..NodeInfo::default() };
    let description = String::from_utf8(info.encode().expect("JSON").to_vec()).expect("text");
    let far = u64::MAX / 4096;
    redis.ask::<i64>(&["ZADD", "tidegate:{nodes}:leases", &far.to_string(), uid]);
    redis.ask::<i64>(&["HSET", "tidegate:{nodes}:descriptions", uid, &description]);
}

fn message(session: &str, data: impl Into<Bytes>) -> Question {
    Question::Message { session: session.into(), data: data.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_asked_by_its_name_and_who_is_not_there_is_told_apart() {
    let redis = RedisServer::start();
    let [asking, there] = nodes::<2>(&redis).await;
    let (here, other) = (asking.node(), there.node());
    let uid =
        other.nodes().await.expect("nodes").iter().find(|node| &*node.name == "node-1").unwrap().uid.clone();
    let nobodys = message("nobody's", "{}");
    eventually("it listens", async || there.is_ready().await).await;
    assert_eq!(here.ask(&uid, nobodys.clone()).await.unwrap(), Answer::NoSuchSession);
    let own = here.nodes().await.unwrap().iter().find(|node| &*node.name == "node-0").unwrap().uid.clone();
    assert_eq!(here.ask(&own, nobodys.clone()).await.unwrap(), Answer::NoSuchSession);
    for unknown in ["", "another", &"x".repeat(1_000)] {
        let error = here.ask(unknown, nobodys.clone()).await.unwrap_err();
        assert!(matches!(error, AskError::UnknownNode), "{error}");
    }
    announce(&redis, "deaf", 1);
    let error = here.ask("deaf", nobodys).await.unwrap_err();
    assert!(matches!(error, AskError::Deaf), "{error}");
    let error = here.ask(&uid, message("s", vec![b' '; TOLD_BYTES_MAX])).await.unwrap_err();
    assert!(matches!(error, AskError::Unsendable(_)), "{error}");
    assert_eq!(asking.metric("tidegate_node_questions_total{result=\"answered\"}").await, 2.0);
    assert_eq!(asking.metric("tidegate_node_questions_total{result=\"unknown_node\"}").await, 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_are_asked_and_those_who_do_not_answer_hold_nobody_up() {
    let redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    let (mut one, mut two) = (here.connect_as("ann").await, there.connect_as("ann").await);
    one.subscribe("chat").await;
    two.subscribe("chat").await;
    eventually("both listen", async || here.is_ready().await && there.is_ready().await).await;
    announce(&redis, "deaf", 1);
    announce(&redis, "of an earlier release", 0);
    let node = here.node();
    eventually("both are announced", async || node.nodes().await.is_ok_and(|nodes| nodes.len() == 4)).await;

    let wanted = ChannelsWanted { pattern: "c*".into(), after: "".into(), limit: PAGE_MAX };
    let answers = node.ask_all(Question::Channels(wanted)).await.expect("nodes");
    let by_name = |name: &str| &answers.iter().find(|(node, _)| &*node.name == name).unwrap().1;
    assert!(matches!(by_name("deaf"), Err(AskError::Deaf)));
    assert!(matches!(by_name("of an earlier release"), Err(AskError::NotUnderstood)));
    for name in ["node-0", "node-1"] {
        let Ok(Answer::Channels(page)) = by_name(name) else { panic!("{:?}", by_name(name)) };
        assert_eq!((&page.channels[..], page.until.as_deref()), (&[("chat".into(), 1)][..], None));
    }

    let target = Target { user: Some("ann".into()), ..Target::default() };
    let channel = shared::channel::Channel::parse("chat", 255).unwrap();
    let answers = node.ask_all(Question::Act(target, Act::Unsubscribe(channel))).await.expect("nodes");
    let done = answers.iter().filter(|(_, answer)| matches!(answer, Ok(Answer::Done { clients: 1 })));
    assert_eq!(done.count(), 2);
    for client in [&mut one, &mut two] {
        assert_eq!(client.unsubscribed().await, ("chat".to_owned(), 2000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_listed_page_by_page_and_each_once() {
    let gateway = gateway().with("workers.count", 2).start().await;
    let mut clients = Vec::new();
    for number in 0..7 {
        let mut client = gateway.connect_as(["ann", "bob"][number % 2]).await;
        if number % 3 == 0 {
            client.subscribe("chat").await;
        }
        clients.push(client);
    }
    let node = gateway.node();
    let uid = node.nodes().await.expect("nodes")[0].uid.clone();
    let list = async |wanted: ConnectionsWanted| {
        let (mut wanted, mut all) = (wanted, Vec::new());
        loop {
            let answer = node.ask(&uid, Question::Connections(wanted.clone())).await.expect("an answer");
            let Answer::Connections(page) = answer else { panic!("{answer:?}") };
            assert!(page.connections.len() <= wanted.limit as usize);
            all.extend(page.connections);
            match page.next {
                Some(next) => wanted.from = next,
                None => return all,
            }
        }
    };
    let all = list(ConnectionsWanted { limit: 2, ..Default::default() }).await;
    let mut ids: Vec<_> = all.iter().map(|one| one.client.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), all.len()), (7, 7));
    let ann = ConnectionsWanted { user: Some("ann".into()), limit: 3, ..Default::default() };
    assert_eq!(list(ann).await.len(), 4);
    let channel = shared::channel::Channel::parse("chat", 255).ok();
    let chatting = list(ConnectionsWanted { channel, limit: 100, ..Default::default() }).await;
    assert_eq!(chatting.len(), 3);
    assert!(chatting.iter().all(|one| &*one.channels[0] == "chat" && one.num_channels == 1));
    let client = shared::id::ClientId::parse(&ids[0]);
    let found = list(ConnectionsWanted { client, limit: 1, ..Default::default() }).await;
    assert_eq!((found.len(), &found[0].client), (1, &ids[0]));
    assert_eq!(json!(found[0].transport), "websocket");
}
