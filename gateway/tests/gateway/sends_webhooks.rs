//! Tests webhooks of Pusher apps: the app's server receives each event once, whatever the number of nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::application::{Application, RecordedRequest};
use crate::gateway::{Description, eventually, gateway};
use crate::nats_server::NatsServer;
use crate::pusher::{APP, sign};
use crate::redis_server::RedisServer;

const HOLDING: &str = r#""channel_occupied", "channel_vacated", "member_added", "member_removed""#;

/// Describes a node whose app sends events of these types to this application.
fn telling(application: &Application, types: &str) -> Description {
    let url = &application.url;
    gateway().and(APP).and(&format!(
        "[pusher.apps.shop.webhooks.main]\nurl = \"{url}/events\"\ntypes = [{types}]\n\
         [pusher.webhooks]\nvacated_delay_ms = 50\n"
    ))
}

async fn taking() -> Application {
    Application::start(|_| Some((200, String::new()))).await
}

fn of_channel(name: &str, channel: &str) -> Value {
    json!({ "name": name, "channel": channel })
}

fn of_member(name: &str, channel: &str, user: &str) -> Value {
    json!({ "name": name, "channel": channel, "user_id": user })
}

fn unsubscribe(channel: &str) -> Value {
    json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } })
}

/// Checks the signature of a batch, and returns its events.
fn events(received: &RecordedRequest) -> Vec<Value> {
    let body = std::str::from_utf8(&received.body).expect("text");
    let header = |name: &str| received.headers[name].to_str().expect("text").to_owned();
    assert_eq!((header("x-pusher-key"), header("x-pusher-signature")), ("key".to_owned(), sign(body)));
    assert_eq!(header("content-type"), "application/json");
    let now = tidegate::clock::Clock::start().unix_millis();
    assert!(received.json()["time_ms"].as_u64().expect("a number").abs_diff(now) < 60_000);
    received.json()["events"].as_array().expect("events").clone()
}

/// Returns all events that the application received.
fn webhooks_of(application: &Application) -> Vec<Value> {
    application.requests("/events").iter().flat_map(events).collect()
}

async fn tells(application: &Application, expected: &[Value]) {
    eventually(&format!("{expected:?}"), async || webhooks_of(application).len() >= expected.len()).await;
    assert_eq!(webhooks_of(application), expected);
}

/// Returns the names of the events of one channel, or of one of its members, in order.
fn of<'a>(events: &'a [Value], channel: &str, user: Option<&str>) -> Vec<&'a str> {
    let is_it = |event: &&Value| event["channel"] == channel && event["user_id"].as_str() == user;
    events.iter().filter(is_it).map(|event| event["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn who_comes_first_and_goes_last_is_told_in_order_and_signed() {
    let application = taking().await;
    let gateway = telling(&application, HOLDING).start().await;
    let (mut ann, mut again) = (gateway.pusher().await, gateway.pusher().await);
    ann.subscribe("news").await;
    again.subscribe("news").await;
    ann.enter("presence-room", "ann").await;
    again.enter("presence-room", "ann").await;
    let mut expected = vec![
        of_channel("channel_occupied", "news"),
        of_channel("channel_occupied", "presence-room"),
        of_member("member_added", "presence-room", "ann"),
    ];
    tells(&application, &expected).await;
    ann.socket.close().await;
    again.say(unsubscribe("news")).await;
    expected.push(of_channel("channel_vacated", "news"));
    tells(&application, &expected).await;
    again.say(unsubscribe("presence-room")).await;
    eventually("all is told", async || webhooks_of(&application).len() == 6).await;
    let all = webhooks_of(&application);
    assert_eq!(of(&all, "presence-room", None), ["channel_occupied", "channel_vacated"]);
    assert_eq!(of(&all, "presence-room", Some("ann")), ["member_added", "member_removed"]);
    gateway.metric_becomes("tidegate_webhook_changes_queued", 0.0).await;
    gateway.metric_becomes("tidegate_webhook_events_total{result=\"sent\"}", 6.0).await;
}

#[tokio::test]
async fn a_page_that_is_loaded_again_and_channels_that_nobody_asked_about_make_no_events() {
    let application = taking().await;
    let gateway = telling(&application, HOLDING)
        .and("[pusher.apps.shop.webhooks.more]\nurl = \"http://127.0.0.1:9/\"\ntypes = [\"client_event\"]\n")
        .with("pusher.webhooks.vacated_delay_ms", 30_000)
        .with("pusher.apps.shop.webhooks.main.channel_prefix", "presence-")
        .start()
        .await;
    let mut before = gateway.pusher().await;
    before.enter("presence-room", "ann").await;
    before.subscribe("news").await;
    before.socket.close().await;
    let mut after = gateway.pusher().await;
    eventually("the one before is gone", async || {
        let present = gateway.api("presence", json!({ "channel": "shop:presence-room" })).await;
        present["presence"].as_object().expect("clients").is_empty()
    })
    .await;
    after.enter("presence-room", "ann").await;
    after.enter("presence-later", "ann").await;
    let mut expected = vec![
        of_channel("channel_occupied", "presence-room"),
        of_member("member_added", "presence-room", "ann"),
        of_channel("channel_occupied", "presence-later"),
        of_member("member_added", "presence-later", "ann"),
    ];
    tells(&application, &expected).await;
    // The clients of a single node that stops cannot have gone to another node, so all events are sent.
    gateway.drain().await;
    expected.extend([
        of_channel("channel_vacated", "presence-later"),
        of_channel("channel_vacated", "presence-room"),
        of_member("member_removed", "presence-later", "ann"),
        of_member("member_removed", "presence-room", "ann"),
    ]);
    assert_eq!(webhooks_of(&application), expected);
}

#[tokio::test]
async fn clients_own_events_caches_without_anything_and_numbers_are_told() {
    let application = taking().await;
    let types = r#""client_event", "cache_miss", "subscription_count""#;
    let gateway =
        telling(&application, types).with("pusher.apps.shop.subscription_counts", true).start().await;
    let mut ann = gateway.pusher().await;
    ann.subscribe("cache-price").await;
    ann.hears("pusher:cache_miss", "cache-price").await;
    tells(&application, &[of_channel("cache_miss", "cache-price")]).await;
    eventually("the number is told", async || webhooks_of(&application).len() == 2).await;
    let count = json!({ "name": "subscription_count", "channel": "cache-price", "subscription_count": 1 });
    assert_eq!(webhooks_of(&application)[1], count);
    gateway.publish("shop:cache-price", json!(1)).await;
    let mut late = gateway.pusher().await;
    late.subscribe("cache-price").await;
    let mut bob = gateway.pusher().await;
    bob.enter("presence-room", "bob").await;
    bob.say(json!({ "event": "client-moved", "channel": "presence-room", "data": { "x": 1 } })).await;
    let moved = json!({
        "name": "client_event", "channel": "presence-room", "event": "client-moved", "data": "{\"x\":1}",
        "socket_id": bob.id, "user_id": "bob",
    });
    let count = json!({ "name": "subscription_count", "channel": "cache-price", "subscription_count": 2 });
    eventually("the event and the number are told", async || {
        let all = webhooks_of(&application);
        all.contains(&moved) && all.contains(&count)
    })
    .await;
    let misses = webhooks_of(&application).iter().filter(|event| event["name"] == "cache_miss").count();
    assert_eq!(misses, 1, "it has kept something by then");
}

#[tokio::test]
async fn what_is_not_taken_is_sent_again_in_order_and_what_never_will_be_is_given_up() {
    let failures = AtomicUsize::new(2);
    let application = Application::start(move |received| {
        let fails =
            failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let is_bad = String::from_utf8_lossy(&received.body).contains("bad");
        Some((
            if fails {
                503
            } else if is_bad {
                422
            } else {
                200
            },
            String::new(),
        ))
    })
    .await;
    let gateway = telling(&application, HOLDING).with("pusher.webhooks.batch_events_max", 1).start().await;
    let mut ann = gateway.pusher().await;
    for channel in ["one", "bad", "two"] {
        ann.subscribe(channel).await;
    }
    eventually("all are sent", async || webhooks_of(&application).len() == 5).await;
    let channels: Vec<Value> =
        webhooks_of(&application).into_iter().map(|mut event| event["channel"].take()).collect();
    assert_eq!(channels, ["one", "one", "one", "bad", "two"]);
    let counted = |result: &str| format!("tidegate_webhook_events_total{{result=\"{result}\"}}");
    gateway.metric_becomes(&counted("sent"), 2.0).await;
    assert_eq!(gateway.metric(&counted("refused")).await, 1.0);
    assert_eq!(gateway.metric("tidegate_webhook_failures_total{reason=\"status\"}").await, 3.0);
}

#[tokio::test]
async fn a_webhook_that_fails_holds_up_no_other_and_loses_the_oldest_past_the_room() {
    let is_open = Arc::new(AtomicBool::new(false));
    let open = is_open.clone();
    let application = Application::start(move |received| {
        let is_shut = received.path == "/shut" && !open.load(Ordering::Relaxed);
        Some((if is_shut { 503 } else { 200 }, String::new()))
    })
    .await;
    let url = &application.url;
    let shut =
        format!("[pusher.apps.shop.webhooks.shut]\nurl = \"{url}/shut\"\ntypes = [\"channel_occupied\"]\n");
    let gateway = telling(&application, HOLDING)
        .and(&shut)
        .with("pusher.webhooks.batch_events_max", 1)
        .with("pusher.webhooks.queue_events_max", 4)
        .start()
        .await;
    let mut ann = gateway.pusher().await;
    let channels: Vec<String> = (0..10).map(|number| format!("c{number}")).collect();
    for (number, channel) in channels.iter().enumerate() {
        ann.subscribe(channel).await;
        eventually("it is told", async || webhooks_of(&application).len() == number + 1).await;
        eventually("the first is on its way", async || !application.requests("/shut").is_empty()).await;
    }
    is_open.store(true, Ordering::Relaxed);
    let taken = || -> Vec<Value> {
        let last = application.requests("/shut").last().map(events).unwrap_or_default();
        last.into_iter().map(|mut event| event["channel"].take()).collect()
    };
    eventually("the last is told", async || taken() == ["c9"]).await;
    // One event was in flight, and four fitted into the queue.
    gateway.metric_becomes("tidegate_webhook_events_total{result=\"full\"}", 5.0).await;
    gateway.metric_becomes("tidegate_webhook_events_total{result=\"sent\"}", 15.0).await;
}

#[tokio::test]
async fn what_happens_while_redis_is_away_is_told_when_it_is_back() {
    let redis = RedisServer::start();
    let application = taking().await;
    let gateway = telling(&application, HOLDING)
        .with("redis.timeout_ms", 300)
        .with("redis.ping_ms", 200)
        .over(&redis.url())
        .start()
        .await;
    let mut ann = gateway.pusher().await;
    ann.subscribe("news").await;
    ann.subscribe("more").await;
    let mut expected = vec![of_channel("channel_occupied", "news"), of_channel("channel_occupied", "more")];
    tells(&application, &expected).await;
    redis.freeze();
    ann.say(unsubscribe("more")).await;
    gateway.metric_becomes("tidegate_broker_link_up{link=\"command\"}", 0.0).await;
    redis.thaw();
    expected.push(of_channel("channel_vacated", "more"));
    tells(&application, &expected).await;
}

#[tokio::test]
async fn what_a_killed_node_had_is_told_once_as_gone_and_what_others_have_is_not() {
    let redis = RedisServer::start();
    // Long enough for the living nodes to renew their leases on a busy machine.
    a_node_is_killed(|node| node.with("redis.presence_ttl_s", 4).over(&redis.url())).await;
}

#[tokio::test]
async fn over_nats_what_a_killed_node_had_is_told_once_as_gone_and_what_others_have_is_not() {
    let nats = NatsServer::start();
    a_node_is_killed(|node| node.with("nats.presence_ttl_s", 4).over_nats(&nats.url())).await;
}

#[tokio::test]
async fn what_is_longer_than_nats_takes_is_lost_alone_and_what_stands_before_it_is_told_once() {
    let nats = NatsServer::start_with("max_payload: 4096", "");
    let application = taking().await;
    let gateway = telling(&application, "\"client_event\"").over_nats(&nats.url()).start().await;
    let mut bob = gateway.pusher().await;
    bob.enter("presence-room", "bob").await;
    // The long event is published, but in the webhook each quotation mark takes one more backslash.
    for (event, data) in
        [("client-a", "x".to_owned()), ("client-long", "\"".repeat(800)), ("client-b", "y".to_owned())]
    {
        bob.say(json!({ "event": event, "channel": "presence-room", "data": { "x": data } })).await;
    }
    let names = || {
        webhooks_of(&application)
            .iter()
            .map(|event| event["event"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    eventually("what comes after it is told", async || names().len() >= 2).await;
    gateway.metric_becomes("tidegate_webhook_events_total{result=\"refused\"}", 1.0).await;
    gateway.metric_becomes("tidegate_webhook_events_total{result=\"sent\"}", 2.0).await;
    assert_eq!(names(), [Some("client-a".to_owned()), Some("client-b".to_owned())]);
}

async fn a_node_is_killed(over: impl Fn(Description) -> Description) {
    let application = taking().await;
    let node = || over(telling(&application, HOLDING));
    let doomed = node().run().await;
    let (mut cyd, mut ann_there) = (doomed.pusher().await, doomed.pusher().await);
    cyd.subscribe("news").await;
    cyd.subscribe("only-there").await;
    cyd.enter("presence-room", "cyd").await;
    ann_there.enter("presence-room", "ann").await;
    // This node is the first, and so sends the webhooks.
    eventually("it has told all", async || webhooks_of(&application).len() == 5).await;
    let (first, second) = (node().start().await, node().start().await);
    let (mut ann, mut bob) = (first.pusher().await, second.pusher().await);
    ann.subscribe("news").await;
    ann.enter("presence-room", "ann").await;
    bob.enter("presence-room", "bob").await;
    eventually("bob is told", async || webhooks_of(&application).len() == 6).await;
    // A batch is sent once the one before it is marked as sent. The one that is in flight when its sender dies may be
    // sent twice.
    let mut dan = doomed.pusher().await;
    dan.subscribe("behind").await;
    let is_behind = |event: &Value| event["channel"] == "behind";
    let others = || {
        let mut all = webhooks_of(&application);
        all.retain(|event| !is_behind(event));
        all
    };
    eventually("what comes behind it is told", async || webhooks_of(&application).iter().any(is_behind))
        .await;
    doomed.signal(Signal::KILL);
    let gone =
        [of_channel("channel_vacated", "only-there"), of_member("member_removed", "presence-room", "cyd")];
    eventually("what it had is told", async || {
        let all = others();
        gone.iter().all(|event| all.contains(event))
    })
    .await;

    for client in [&mut ann, &mut bob] {
        client.say(unsubscribe("presence-room")).await;
    }
    ann.say(unsubscribe("news")).await;
    eventually("all is told", async || others().len() >= 12).await;
    first.drain().await;
    second.drain().await;
    let all = others();
    for channel in ["news", "only-there", "presence-room"] {
        assert_eq!(of(&all, channel, None), ["channel_occupied", "channel_vacated"], "{channel}: {all:?}");
    }
    for user in ["ann", "bob", "cyd"] {
        let of_user = of(&all, "presence-room", Some(user));
        assert_eq!(of_user, ["member_added", "member_removed"], "{user}: {all:?}");
    }
    assert_eq!(all.len(), 12, "{all:?}");
}

#[tokio::test]
async fn who_moves_from_a_node_that_drains_to_another_has_not_been_away() {
    let redis = RedisServer::start();
    let application = taking().await;
    let node =
        || telling(&application, HOLDING).with("pusher.webhooks.vacated_delay_ms", 5_000).over(&redis.url());
    let (leaving, staying) = (node().start().await, node().start().await);
    let mut before = leaving.pusher().await;
    before.enter("presence-room", "ann").await;
    eventually("it is told", async || webhooks_of(&application).len() == 2).await;
    leaving.drain().await;
    let mut after = staying.pusher().await;
    after.enter("presence-room", "ann").await;
    after.subscribe("marker").await;
    let expected = [
        of_channel("channel_occupied", "presence-room"),
        of_member("member_added", "presence-room", "ann"),
        of_channel("channel_occupied", "marker"),
    ];
    tells(&application, &expected).await;
    // When the marker's event has arrived, events left behind by the other node would have arrived too.
    after.say(unsubscribe("marker")).await;
    eventually("the marker is told", async || webhooks_of(&application).len() > 3).await;
    assert_eq!(webhooks_of(&application)[3..], [of_channel("channel_vacated", "marker")]);
}

#[tokio::test]
async fn a_ledger_that_redis_has_lost_is_written_anew() {
    let redis = RedisServer::start();
    let application = taking().await;
    let gateway =
        telling(&application, HOLDING).with("redis.presence_ttl_s", 1).over(&redis.url()).start().await;
    let mut ann = gateway.pusher().await;
    ann.subscribe("news").await;
    let mut expected = vec![of_channel("channel_occupied", "news")];
    tells(&application, &expected).await;
    redis.ask::<()>(&["FLUSHALL"]);
    gateway.metric_becomes("tidegate_webhook_restarts_total", 1.0).await;
    // The ledger that recorded the event is lost, so it is sent again.
    expected.push(of_channel("channel_occupied", "news"));
    tells(&application, &expected).await;
    ann.say(unsubscribe("news")).await;
    expected.push(of_channel("channel_vacated", "news"));
    tells(&application, &expected).await;
}
