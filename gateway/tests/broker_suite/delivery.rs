//! Tests which nodes receive a publication, and in which order.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use shared::id::{ClientId, UserId};
use shared::publication::{ClientInfo, Payload, Publication};
use shared::push::OwnedEvent;
use tidegate::broker::PublishRequest;

use crate::harness::{ALL, Backend, KEPT, NOT_KEPT, channel, eventually, request};

pub async fn subscribers_hear_publications_in_order_with_their_positions<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("prices:AAPL");
    node.subscribe(&a).await;
    let mut positions = Vec::new();
    for number in 0..100 {
        positions.push(node.publish(&a, number).await.position);
    }
    eventually("all are heard", async || node.heard.in_channel(&a).len() == 100).await;
    let heard = node.heard.in_channel(&a);
    assert_eq!(heard.iter().map(|publication| publication.position).collect::<Vec<_>>(), positions);
    assert_eq!(node.heard.texts(&a), (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
}

pub async fn without_history_there_is_no_position<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    node.subscribe(&a).await;
    let request = PublishRequest { retention: NOT_KEPT, ..request(&a, "x") };
    assert_eq!(node.broker.publish(request).await.expect("published").position, None);
    eventually("it is heard", async || node.heard.texts(&a) == ["x"]).await;
    assert_eq!(node.heard.in_channel(&a)[0].position, None);
    assert_eq!(node.history(&a, ALL).await, Vec::<String>::new());
}

pub async fn joins_and_leaves_are_heard_where_publications_are_and_are_kept_nowhere<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let (a, b) = (channel("a"), channel("b"));
    node.subscribe(&a).await;
    let (client, user) = (ClientId::from_random(7), UserId::new("ann"));
    let ann = ClientInfo { client, user, conn_info: Some("{}".into()), chan_info: None };
    for channel in [&a, &b] {
        node.publish(channel, "before").await;
        let joined = OwnedEvent::Joined(ann.clone());
        node.broker.publish_event(channel.clone(), joined).await.expect("sent");
        node.broker.publish_event(channel.clone(), OwnedEvent::Left(ann.clone())).await.expect("sent");
    }
    eventually("both are heard", async || node.heard.events().len() == 2).await;
    let expected = [OwnedEvent::Joined(ann.clone()), OwnedEvent::Left(ann)];
    assert_eq!(node.heard.events(), expected.map(|event| ("a".to_owned(), event)));
    assert_eq!(node.history(&a, ALL).await, ["before"]);
    let next = node.publish(&a, "after").await.position.expect("a stream");
    assert_eq!(next.offset, 2, "they have no place in the stream");
}

pub async fn only_subscribed_channels_are_heard<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let (a, b, c) = (channel("a"), channel("b"), channel("c"));
    node.broker.subscribe(vec![a.clone(), b.clone()]).await.expect("subscribed");
    for channel in [&a, &b, &c] {
        node.publish(channel, "one").await;
    }
    node.broker.unsubscribe(vec![a.clone()]).await.expect("unsubscribed");
    for channel in [&a, &b, &c] {
        node.publish(channel, "two").await;
    }
    eventually("both are heard", async || node.heard.texts(&b) == ["one", "two"]).await;
    assert_eq!(node.heard.texts(&a), ["one"]);
    assert_eq!(node.heard.texts(&c), Vec::<String>::new());
    assert_eq!(node.counted().subscribed_channels.get(), 1);

    node.subscribe(&a).await;
    node.publish(&a, "three").await;
    eventually("it is heard again", async || node.heard.texts(&a) == ["one", "three"]).await;
}

pub async fn every_kind_of_publication_arrives_as_it_was_sent<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("}odd{name}");
    node.subscribe(&a).await;
    let info = ClientInfo {
        client: ClientId::from_random(42),
        user: UserId::new("ann"),
        conn_info: Some(Bytes::from_static(b"{\"a\":1}")),
        chan_info: None,
    };
    let tags = BTreeMap::from([("kind".into(), "trade".into()), ("side".into(), "bid".into())]);
    let all_bytes: Vec<u8> = (0..=255).collect();
    let sent = [
        Publication::new(Payload::json("{\"price\": 1.0}")),
        Publication::new(Payload::text("1:abc:\r\n")),
        Publication::new(Payload::binary(all_bytes)),
        Publication::new(Payload::text("")),
        Publication { info: Some(info), tags, ..Publication::new(Payload::json("null")) },
        Publication::new(Payload::binary(vec![7; 300_000])),
    ];
    for retention in [KEPT, NOT_KEPT] {
        for publication in &sent {
            let publication = publication.clone();
            let request = PublishRequest { publication, retention, ..request(&a, "") };
            node.broker.publish(request).await.expect("published");
        }
    }
    eventually("all are heard", async || node.heard.in_channel(&a).len() == 2 * sent.len()).await;
    let without_position = |publication: &Publication| Publication { position: None, ..publication.clone() };
    let heard: Vec<_> = node.heard.in_channel(&a).iter().map(without_position).collect();
    assert!(heard == [&sent[..], &sent[..]].concat());
    let page = node.broker.history(a, ALL, KEPT).await.expect("history");
    assert!(page.publications.iter().map(without_position).collect::<Vec<_>>() == sent);
}

pub async fn what_is_published_at_once_is_delivered_in_the_order_of_its_offsets<B: Backend>() {
    const PUBLISHERS: u64 = 8;
    const EACH: u64 = 100;
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    node.subscribe(&a).await;
    let mut publishers = tokio::task::JoinSet::new();
    for _ in 0..PUBLISHERS {
        let (broker, a) = (node.broker.clone(), a.clone());
        publishers.spawn(async move {
            let mut offsets = Vec::new();
            for number in 0..EACH {
                let published = broker.publish(request(&a, number)).await.expect("published");
                offsets.push(published.position.expect("a position").offset);
            }
            assert!(offsets.is_sorted());
            offsets
        });
    }
    let mut offsets: Vec<u64> = publishers.join_all().await.concat();
    offsets.sort_unstable();
    let all: Vec<u64> = (1..=PUBLISHERS * EACH).collect();
    assert_eq!(offsets, all);
    eventually("all are heard", async || node.heard.in_channel(&a).len() == all.len()).await;
    assert_eq!(node.heard.in_channel(&a).iter().map(Publication::offset).collect::<Vec<_>>(), all);
}

pub async fn what_is_published_without_waiting_keeps_the_order_of_the_calls<B: Backend>() {
    const EACH: usize = 2_000;
    let backend = B::new();
    let node = backend.node();
    let (kept, passing) = (channel("kept"), channel("passing"));
    node.broker.subscribe(vec![kept.clone(), passing.clone()]).await.expect("subscribed");
    let mut answers = Vec::new();
    for number in 0..EACH {
        answers.push(node.broker.publish(request(&kept, number)));
        let passing = PublishRequest { retention: NOT_KEPT, ..request(&passing, number) };
        answers.push(node.broker.publish(passing));
    }
    // Awaits the last call first: the order is that of the calls, not that in which they are awaited.
    let mut offsets = Vec::new();
    while let Some(answer) = answers.pop() {
        offsets.extend(answer.await.expect("published").position.map(|position| position.offset));
    }
    offsets.reverse();
    assert_eq!(offsets, (1..=EACH as u64).collect::<Vec<_>>());
    let all: Vec<String> = (0..EACH).map(|number| number.to_string()).collect();
    for channel in [&kept, &passing] {
        eventually("all are heard", async || node.heard.in_channel(channel).len() == EACH).await;
        assert_eq!(node.heard.texts(channel), all);
    }
}

pub async fn many_channels_are_subscribed_at_once<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let channels: Vec<_> = (0..10_000).map(|number| channel(&format!("many:{number}"))).collect();
    let (batch, single) = channels.split_at(9_000);
    let singles = single.iter().map(|channel| node.broker.subscribe(vec![channel.clone()]));
    let (batch, singles) =
        tokio::join!(node.broker.subscribe(batch.to_vec()), futures_util::future::join_all(singles));
    assert!(batch.is_ok() && singles.iter().all(Result::is_ok));
    assert_eq!(node.counted().subscribed_channels.get(), 10_000);
    for channel in [&channels[0], &channels[8_999], &channels[9_999]] {
        node.publish(channel, "x").await;
        eventually("it is heard", async || node.heard.texts(channel) == ["x"]).await;
    }
    node.broker.unsubscribe(channels.clone()).await.expect("unsubscribed");
    assert_eq!(node.counted().subscribed_channels.get(), 0);
}

pub async fn control_messages_come_back<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    node.listens().await;
    assert_eq!(node.broker.send_control(Bytes::from_static(b"\x00hello")).await.expect("sent"), 1);
    eventually("it is heard", async || node.heard.control() == [&b"\x00hello"[..]]).await;
}

pub async fn a_node_is_told_by_its_name_and_nobody_by_a_name_that_nobody_has<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    node.listens().await;
    node.broker.announce("node-0", Bytes::new(), Duration::from_secs(60)).await.expect("announced");
    let message = Bytes::from_static(b"\0 any bytes \xff");
    assert_eq!(node.broker.tell_node("node-0", message.clone()).await.expect("told"), 1);
    assert_eq!(node.broker.tell_node("node-9", message.clone()).await.expect("told"), 0);
    eventually("it is heard", async || node.heard.node_messages() == [&message]).await;
    assert!(node.heard.control().is_empty());
}

pub async fn a_canary_comes_back<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    node.listens().await;
    let mut took = Duration::ZERO;
    // A canary may follow another immediately.
    for _ in 0..10 {
        took = node.broker.canary().await.expect("a canary");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    assert_eq!(node.counted().canary_micros.get(), took.as_micros() as u64);
}

pub async fn announcements_hold_for_their_lease<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let nodes = async || {
        let mut nodes = node.broker.nodes().await.expect("nodes");
        nodes.sort();
        nodes
    };
    let announce = async |name, text: &'static str, lease| {
        node.broker.announce(name, Bytes::from(text), lease).await.expect("announced");
    };
    let long = Duration::from_secs(60);
    assert_eq!(nodes().await, Vec::<Bytes>::new());
    announce("one", "a", long).await;
    announce("two", "b", long).await;
    announce("three", "c", Duration::from_millis(200)).await;
    announce("one", "d", long).await;
    assert_eq!(nodes().await, ["b", "c", "d"]);
    eventually("the lease runs out", async || nodes().await == ["b", "d"]).await;
    node.broker.retire("two").await.expect("retired");
    assert_eq!(nodes().await, ["d"]);
}
