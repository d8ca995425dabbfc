//! Tests the hooks: the application's backend decides what clients may do, and is informed of what they did.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::application::Application;
use crate::client::Client;
use crate::gateway::gateway;
use crate::http;
use crate::response::{ask, emulate};

fn ok(result: serde_json::Value) -> Option<(u16, String)> {
    Some((200, json!({ "result": result }).to_string()))
}

#[tokio::test]
async fn a_publication_is_published_as_its_hook_says_or_not_at_all() {
    let application = Application::start(|received| match &received.json()["data"] {
        data if data == "bad" => {
            Some((200, r#"{"error":{"code":1001,"message":"mind your words"}}"#.to_owned()))
        }
        data if data == "worst" => Some((200, r#"{"disconnect":{"code":4501,"reason":"out"}}"#.to_owned())),
        data if data == "loud" => ok(json!({ "data": "quiet" })),
        _ => ok(json!({})),
    })
    .await;
    let gateway = gateway()
        .with("backend.publish.url", format!("{}/publish", application.url))
        .with("backend.http_headers", "cookie")
        .with("channels.publish_hook", true)
        .with("channels.allow_publish", false)
        .start()
        .await;
    let cookie = [("cookie", "session=1"), ("x-else", "2")];
    let mut ann = Client::new(gateway.open("/connection/websocket", &cookie).await);
    let reply = ann.command("connect", json!({ "token": gateway.token("ann") })).await;
    ann.subscribe("news").await;
    ann.publish("news", json!("loud")).await;
    assert_eq!(ann.publication().await.data, "quiet");
    assert_eq!(ann.refused("publish", json!({ "channel": "news", "data": "bad" })).await, 1001);
    ann.publish("news", json!("fine")).await;
    assert_eq!(ann.publication().await.data, "fine");
    ann.ask("publish", json!({ "channel": "news", "data": "worst" })).await;
    assert_eq!(ann.closed().await, (4501, "out".to_owned()));
    let mut bare = gateway.raw("news").await;
    bare.send(json!("bad").to_string()).await;
    assert_eq!(bare.closed().await, (3510, "mind your words".to_owned()));

    let received = &application.requests("/publish")[0];
    assert_eq!(
        (&received.headers["cookie"], received.headers.get("x-else")),
        (&"session=1".parse().unwrap(), None)
    );
    let received = received.json();
    for (key, value) in [
        ("user", "ann"),
        ("channel", "news"),
        ("client", reply["client"].as_str().unwrap()),
        ("transport", "websocket"),
        ("protocol", "json"),
    ] {
        assert_eq!(received[key], value, "{key}");
    }
}

#[tokio::test]
async fn what_has_happened_is_told_in_order_and_the_last_of_it_before_the_node_ends() {
    let application = Application::start(|_| Some((204, String::new()))).await;
    let gateway = gateway().with("backend.events.url", format!("{}/events", application.url)).start().await;
    let mut ann = gateway.connect_as("ann").await;
    let mut bob = gateway.connect_as("bob").await;
    ann.subscribe("news").await;
    bob.subscribe("news").await;
    let (ann_id, bob_id) = (ann.id.clone(), bob.id.clone());
    ann.socket.close().await;
    let events = application.events(3).await;
    assert_eq!((&events[0]["type"], &events[0]["channel"]), (&json!("occupied"), &json!("news")));
    assert_eq!((&events[1]["type"], &events[1]["client"]), (&json!("unsubscribe"), &json!(ann_id)));
    let left = &events[2];
    assert_eq!(
        (&left["type"], &left["client"], &left["user"]),
        (&json!("disconnect"), &json!(ann_id), &json!("ann"))
    );
    assert_eq!((&left["code"], &left["reason"]), (&json!(3000), &json!("connection closed")));

    gateway.drain().await;
    let events = application.events(6).await;
    let told: Vec<_> = events[3..].iter().map(|event| (&event["type"], &event["client"])).collect();
    let (unsubscribe, disconnect, vacated) = (json!("unsubscribe"), json!("disconnect"), json!("vacated"));
    assert_eq!(
        told,
        [(&unsubscribe, &json!(bob_id)), (&disconnect, &json!(bob_id)), (&vacated, &json!(null))]
    );
    assert_eq!((&events[4]["code"], &events[4]["reason"]), (&json!(3001), &json!("shutdown")));
}

#[tokio::test]
async fn a_backend_says_who_a_client_is_and_a_token_needs_no_asking() {
    let application = Application::start(|received| {
        let received = received.json();
        match received["data"]["who"].as_str() {
            Some("ann") => ok(json!({ "user": "ann", "data": { "welcome": true }, "subs": { "news": {} } })),
            Some("old") => ok(json!({ "user": "old", "expire_at": 1 })),
            Some("bad") => Some((200, r#"{"disconnect":{"code":4500,"reason":"no"}}"#.to_owned())),
            _ => Some((200, "{}".to_owned())),
        }
    })
    .await;
    let gateway = gateway()
        .with("backend.connect.url", format!("{}/connect", application.url))
        .with("auth.allow_anonymous", false)
        .start()
        .await;
    let mut ann = gateway.stranger().await;
    let reply =
        ann.command("connect", json!({ "data": { "who": "ann" }, "name": "test", "version": "1" })).await;
    assert_eq!((&reply["data"], reply["subs"]["news"].is_object()), (&json!({ "welcome": true }), true));
    gateway.publish("news", json!("to her")).await;
    assert_eq!(ann.publication().await.data, "to her");
    let received = application.requests("/connect")[0].json();
    assert_eq!((&received["name"], &received["client"]), (&json!("test"), &reply["client"]));

    let mut old = gateway.stranger().await;
    assert_eq!(old.refused("connect", json!({ "data": { "who": "old" } })).await, 110);
    let mut bad = gateway.stranger().await;
    bad.ask("connect", json!({ "data": { "who": "bad" } })).await;
    assert_eq!(bad.closed().await, (4500, "no".to_owned()));
    // A client that the backend does not know is anonymous, and this gateway admits no anonymous clients.
    let mut nobody = gateway.stranger().await;
    nobody.ask("connect", json!({})).await;
    assert_eq!(nobody.closed().await.0, 3501);
    let received = application.requests("/connect").len();
    gateway.connect_as("bob").await;
    assert_eq!(application.requests("/connect").len(), received, "a token says who he is");
}

#[tokio::test]
async fn a_backend_says_who_may_subscribe_answers_calls_and_takes_messages() {
    let application = Application::start(|received| match received.path.as_str() {
        "/subscribe" if received.json()["user"] == "ann" => {
            ok(json!({ "info": { "role": "owner" }, "allow": ["pub"] }))
        }
        "/subscribe" => Some((200, r#"{"error":{"code":403,"message":"members only"}}"#.to_owned())),
        "/rpc" => ok(json!({ "data": { "sum": received.json()["data"] } })),
        _ => Some((200, r#"{"echo":true}"#.to_owned())),
    })
    .await;
    let gateway = gateway()
        .with("backend.subscribe.url", format!("{}/subscribe", application.url))
        .with("backend.rpc.url", format!("{}/rpc", application.url))
        .with("backend.message.url", format!("{}/message", application.url))
        .with("channels.subscribe_hook", true)
        .with("channels.allow_publish", false)
        .with("channels.allow_publish_for_client", false)
        .start()
        .await;
    let mut ann = gateway.connect_as("ann").await;
    let mut bob = gateway.connect_as("bob").await;
    ann.command("subscribe", json!({ "channel": "room", "data": { "why": 1 } })).await;
    assert_eq!(application.requests("/subscribe")[0].json()["data"], json!({ "why": 1 }));
    assert_eq!(bob.refused("subscribe", json!({ "channel": "room" })).await, 403);
    ann.publish("room", json!(1)).await;
    assert_eq!(ann.publication().await.data, 1);
    // A private channel takes a token, so the backend is not asked.
    assert_eq!(ann.refused("subscribe", json!({ "channel": "$room" })).await, 103);
    assert_eq!(application.requests("/subscribe").len(), 2);

    let answer = ann.command("rpc", json!({ "method": "add", "data": [1, 2] })).await;
    assert_eq!(answer["data"], json!({ "sum": [1, 2] }));
    assert_eq!(ann.refused("rpc", json!({ "method": "other:add", "data": 1 })).await, 104);
    ann.socket.send(json!({ "send": { "data": { "hi": 1 } } }).to_string()).await;
    assert_eq!(ann.push().await["push"]["message"]["data"], json!({ "echo": true }));
    assert_eq!(application.requests("/message")[0].json(), json!({ "hi": 1 }));
}

#[tokio::test]
async fn a_connection_that_expires_is_asked_about_and_its_client_is_not() {
    let soon = || tidegate::clock::Clock::start().unix_seconds() + 1;
    let application = Application::start(move |received| match received.path.as_str() {
        "/connect" => ok(json!({ "user": "ann", "expire_at": soon(), "meta": { "plan": 7 } })),
        _ => ok(json!({ "expired": true })),
    })
    .await;
    let gateway = gateway()
        .with("backend.connect.url", format!("{}/connect", application.url))
        .with("backend.refresh.url", format!("{}/refresh", application.url))
        .with("backend.include_meta", true)
        .start()
        .await;
    let mut ann = gateway.stranger().await;
    let reply = ann.command("connect", json!({})).await;
    assert!(reply["ttl"].is_null() && reply["expires"].is_null(), "there is nothing for it to do: {reply}");
    assert_eq!(ann.closed().await.0, 3005);
    let received = application.requests("/refresh")[0].json();
    assert_eq!((&received["user"], &received["meta"]), (&json!("ann"), &json!({ "plan": 7 })));
}

#[tokio::test]
async fn the_end_of_each_subscription_is_told_once_with_its_reason_and_before_the_clients() {
    let application = Application::start(|_| Some((204, String::new()))).await;
    let gateway = gateway().with("backend.events.url", format!("{}/events", application.url)).start().await;
    let mut ann = gateway.connect_as("ann").await;
    for channel in ["a", "b", "c"] {
        ann.subscribe(channel).await;
    }
    assert_eq!(ann.refused("subscribe", json!({ "channel": "nowhere:a" })).await, 102);
    ann.command("unsubscribe", json!({ "channel": "a" })).await;
    gateway.api("unsubscribe", json!({ "user": "ann", "channel": "b" })).await;
    ann.push().await;
    gateway.api("disconnect", json!({ "user": "ann" })).await;
    let events = application.events(10).await;
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            let text = |key: &str| event[key].as_str().unwrap_or_default();
            format!("{} {} {} {}", text("type"), text("channel"), text("user"), event["code"])
        })
        .collect();
    assert_eq!(
        told,
        [
            "occupied a  null",
            "occupied b  null",
            "occupied c  null",
            "unsubscribe a ann 0",
            "vacated a  null",
            "unsubscribe b ann 2000",
            "vacated b  null",
            "unsubscribe c ann 1",
            "disconnect  ann 3503",
            "vacated c  null",
        ]
    );
    assert_eq!(events[5]["reason"], "server unsubscribe");
    assert!(events[3..8].iter().step_by(2).all(|event| event["client"] == ann.id));
}

#[tokio::test]
async fn a_subscription_that_expires_is_asked_about_until_it_is_over() {
    let in_s = |seconds| tidegate::clock::Clock::start().unix_seconds() + seconds;
    let is_renewed = AtomicBool::new(false);
    let application = Application::start(move |received| match received.path.as_str() {
        "/subscribe" => ok(json!({ "expire_at": in_s(1) })),
        _ if !is_renewed.swap(true, Ordering::Relaxed) => ok(json!({ "expire_at": in_s(1) })),
        _ => ok(json!({ "expired": true })),
    })
    .await;
    let gateway = gateway()
        .with("backend.subscribe.url", format!("{}/subscribe", application.url))
        .with("backend.sub_refresh.url", format!("{}/sub_refresh", application.url))
        .with("channels.subscribe_hook", true)
        .with("channels.sub_refresh_hook", true)
        .start()
        .await;
    let mut ann = gateway.connect_as("ann").await;
    let reply = ann.command("subscribe", json!({ "channel": "room" })).await;
    assert!(reply["ttl"].is_null(), "there is nothing for her to do: {reply}");
    let push = ann.push().await;
    assert_eq!(
        (&push["push"]["channel"], &push["push"]["unsubscribe"]["code"]),
        (&json!("room"), &json!(2501))
    );
    let received = application.requests("/sub_refresh");
    assert_eq!(received.len(), 2, "once it could stay");
    let received = received[1].json();
    assert_eq!(
        (&received["user"], &received["channel"], &received["client"]),
        (&json!("ann"), &json!("room"), &json!(ann.id))
    );
    ann.publish("room", json!(1)).await;
}

#[tokio::test]
async fn a_refresh_that_is_refused_ends_the_connection() {
    let soon = || tidegate::clock::Clock::start().unix_seconds() + 1;
    let application =
        Application::start(move |received| match (received.path.as_str(), &received.json()["user"]) {
            ("/connect", _) => ok(json!({ "user": received.json()["data"], "expire_at": soon() })),
            (_, user) if user == "ann" => Some((200, "{}".to_owned())),
            (_, user) if user == "bob" => {
                Some((200, r#"{"error":{"code":1001,"message":"not any more"}}"#.to_owned()))
            }
            _ => Some((200, r#"{"disconnect":{"code":4501,"reason":"banned"}}"#.to_owned())),
        })
        .await;
    let gateway = gateway()
        .with("backend.connect.url", format!("{}/connect", application.url))
        .with("backend.refresh.url", format!("{}/refresh", application.url))
        .with("session.expired_close_delay_ms", 500)
        .start()
        .await;
    for (user, code) in [("ann", 3005), ("bob", 3005), ("eve", 4501)] {
        let mut client = gateway.stranger().await;
        client.command("connect", json!({ "data": user })).await;
        assert_eq!(client.closed().await.0, code, "{user}");
    }
}

#[tokio::test]
async fn all_clients_are_asked_about_where_that_is_set_and_wrong_tokens_are_not() {
    let application = Application::start(|received| match received.json()["user"].as_str() {
        Some("ann") => ok(json!({ "user": "queen", "data": { "plan": 7 } })),
        _ => Some((200, "{}".to_owned())),
    })
    .await;
    let gateway = gateway()
        .with("backend.connect.url", format!("{}/connect", application.url))
        .with("backend.connect_always", true)
        .with("namespaces.stream.presence", true)
        .start()
        .await;
    let mut ann = gateway.stranger().await;
    let reply = ann.command("connect", json!({ "token": gateway.token("ann") })).await;
    assert_eq!(reply["data"], json!({ "plan": 7 }));
    let mut bob = gateway.connect_as("bob").await;
    for client in [&mut ann, &mut bob] {
        client.subscribe("stream:a").await;
    }
    let present = gateway.api("presence", json!({ "channel": "stream:a" })).await;
    let clients = present["presence"].as_object().expect("clients").values();
    let mut users: Vec<_> = clients.map(|info| info["user"].as_str().unwrap_or_default()).collect();
    users.sort_unstable();
    assert_eq!(users, ["bob", "queen"], "whom the backend does not know is whoever the token says");
    let received = application.requests("/connect").len();
    let mut eve = gateway.stranger().await;
    eve.ask("connect", json!({ "token": "nonsense" })).await;
    assert_eq!(eve.closed().await.0, 3500);
    assert_eq!((received, application.requests("/connect").len()), (2, 2));
}

#[tokio::test]
async fn only_who_is_unknown_to_the_backend_too_counts_as_refused_without_a_token() {
    let application = Application::start(|received| match received.json()["data"].as_str() {
        Some(user) => ok(json!({ "user": user })),
        None => Some((200, "{}".to_owned())),
    })
    .await;
    let gateway = gateway()
        .with("auth.allow_anonymous", false)
        .with("backend.connect.url", format!("{}/connect", application.url))
        .start()
        .await;
    let refused = "tidegate_tokens_total{kind=\"connection\",result=\"missing\"}";
    let mut ann = gateway.stranger().await;
    ann.command("connect", json!({ "data": "ann" })).await;
    let mut nobody = gateway.stranger().await;
    nobody.ask("connect", json!({})).await;
    assert_eq!(nobody.closed().await.0, 3501);
    assert_eq!(gateway.metric(refused).await, 1.0);
}

#[tokio::test]
async fn headers_come_from_the_handshake_or_from_the_connect_command_as_set() {
    let application = Application::start(|received| match received.path.as_str() {
        "/connect" => ok(json!({ "user": "ann" })),
        _ => ok(json!({ "data": 1 })),
    })
    .await;
    let gateway = gateway()
        .with("backend.connect.url", format!("{}/connect", application.url))
        .with("backend.rpc.url", format!("{}/rpc", application.url))
        .with("backend.http_headers", "cookie")
        .with("backend.emulated_headers", "x-session")
        .start()
        .await;
    let headers = json!({ "x-session": "7", "cookie": "forged=1", "x-else": "2" });
    let handshake = [("cookie", "session=1"), ("x-session", "of the handshake")];
    let mut ann = Client::new(gateway.open("/connection/websocket", &handshake).await);
    ann.command("connect", json!({ "headers": headers })).await;
    ann.command("rpc", json!({ "method": "m" })).await;
    for path in ["/connect", "/rpc"] {
        let received = &application.requests(path)[0].headers;
        let value = |name: &str| received.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        let (cookies, sessions, others): (Vec<_>, Vec<_>, Vec<_>) =
            (value("cookie"), value("x-session"), value("x-else"));
        assert_eq!((&cookies[..], &sessions[..], &others[..]), (&["session=1"][..], &["7"][..], &[][..]));
    }
}

#[tokio::test]
async fn backends_are_asked_about_clients_without_a_websocket_too() {
    let application = Application::start(|received| match received.path.as_str() {
        "/connect" => ok(json!({ "user": "ann" })),
        _ => ok(json!({ "data": received.json()["data"] })),
    })
    .await;
    let gateway = gateway()
        .with("backend.connect.url", format!("{}/connect", application.url))
        .with("backend.rpc.url", format!("{}/rpc", application.url))
        .with("backend.http_headers", "cookie")
        .start()
        .await;
    let rpc = json!({ "id": 2, "rpc": { "method": "m", "data": { "n": 1 } } });
    for transport in ["sse", "http_stream"] {
        let path = format!("/connection/{transport}");
        let connect = r#"{"id":1,"connect":{}}"#;
        let mut stream = ask(&gateway, "POST", &path, "Cookie: session=1\r\n", connect).await;
        let connected = match transport {
            "sse" => stream.event().await,
            _ => stream.line().await,
        };
        emulate(&gateway, &connected.expect("an answer"), std::slice::from_ref(&rpc)).await;
        let reply = match transport {
            "sse" => stream.event().await,
            _ => stream.line().await,
        };
        assert_eq!(reply.expect("a reply")["rpc"]["data"], json!({ "n": 1 }));
        for path in ["/connect", "/rpc"] {
            let received = application.requests(path).pop().expect("it was asked");
            // Commands sent outside the stream carry the cookie of the request that opened the stream.
            assert_eq!(received.headers["cookie"], "session=1", "{path} by {transport}");
            let received = received.json();
            assert_eq!((&received["transport"], &received["protocol"]), (&json!(transport), &json!("json")));
        }
    }
}

#[tokio::test]
async fn who_publishes_by_a_request_alone_meets_the_same_hook() {
    let application = Application::start(|received| match &received.json()["data"] {
        data if data == "bad" => {
            Some((200, r#"{"error":{"code":1001,"message":"mind your words"}}"#.to_owned()))
        }
        data if data == "worst" => Some((200, r#"{"disconnect":{"code":4501,"reason":"out"}}"#.to_owned())),
        data if data == "late" => Some((500, String::new())),
        _ => ok(json!({ "data": { "quiet": true } })),
    })
    .await;
    let gateway = gateway()
        .with("backend.publish.url", format!("{}/publish", application.url))
        .with("backend.http_headers", "cookie")
        .with("namespaces.asked.publish_hook", true)
        .with("namespaces.asked.allow_subscribe", true)
        .with("namespaces.objects.allow_publish_for_client", true)
        .with("namespaces.objects.publication_data_format", "json_object")
        .start()
        .await;
    let mut bob = gateway.connect_as("bob").await;
    bob.subscribe("asked:news").await;
    let headers = format!("Authorization: Bearer {}\r\nCookie: session=1\r\n", gateway.token("ann"));
    let send = async |channel: &str, data: &str| {
        let body = json!({ "channel": channel, "data": data }).to_string();
        let answer = http::request(gateway.address, "POST", "/connection/publish", &headers, &body).await;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        (answer.status, body["error"]["code"].as_u64().unwrap_or(0))
    };
    assert_eq!(send("asked:news", "loud").await, (200, 0));
    let push = bob.push().await["push"]["pub"].clone();
    assert_eq!((&push["data"], &push["info"]["user"]), (&json!({ "quiet": true }), &json!("ann")));
    assert_eq!(send("asked:news", "bad").await, (403, 1001));
    assert_eq!(send("asked:news", "worst").await, (403, 4501));
    assert_eq!(send("asked:news", "late").await, (500, 100));
    assert_eq!(send("objects:a", "a string").await, (400, 107));

    let received = &application.requests("/publish")[0];
    assert_eq!(received.headers["cookie"], "session=1");
    let received = received.json();
    for (key, value) in [
        ("user", json!("ann")),
        ("channel", json!("asked:news")),
        ("client", push["info"]["client"].clone()),
        ("transport", json!("http")),
        ("protocol", json!("json")),
    ] {
        assert_eq!(received[key], value, "{key}");
    }
}

#[tokio::test]
async fn the_application_calls_methods_as_its_clients_do() {
    let application = Application::start(|received| match received.json()["method"].as_str() {
        Some("sum") => ok(json!({ "data": { "sum": received.json()["data"] } })),
        Some("quiet") => ok(json!({})),
        Some("out") => Some((200, r#"{"disconnect":{"code":4501,"reason":"out"}}"#.to_owned())),
        _ => Some((200, r#"{"error":{"code":1002,"message":"no such sum"}}"#.to_owned())),
    })
    .await;
    let gateway = gateway().with("backend.rpc.url", format!("{}/rpc", application.url)).start().await;
    let call = json!({ "method": "sum", "params": [1, 2] });
    assert_eq!(gateway.api("rpc", call.clone()).await, json!({ "data": { "sum": [1, 2] } }));
    assert_eq!(gateway.api("rpc", json!({ "method": "quiet" })).await, json!({}));
    let replies = json!({ "commands": [{ "rpc": call }, { "rpc": { "method": "else" } }, { "rpc": { "method": "out" } }] });
    let replies = gateway.try_api("batch", &replies).await;
    let replies: serde_json::Value = serde_json::from_slice(&replies.body).expect("JSON");
    let expected = json!({ "replies": [
        { "rpc": { "data": { "sum": [1, 2] } } },
        { "error": { "code": 1002, "message": "no such sum" } },
        { "error": { "code": 4501, "message": "out" } },
    ] });
    assert_eq!(replies, expected);
    let received = application.requests("/rpc")[0].json();
    assert_eq!((&received["user"], &received["transport"]), (&json!(""), &json!("server_api")));
}

#[tokio::test]
async fn a_key_is_set_and_removed_as_its_hooks_say_or_not_at_all() {
    let application = Application::start(|received| {
        let body = received.json();
        match body["key"].as_str() {
            Some("shut") => Some((200, r#"{"error":{"code":1001,"message":"hands off"}}"#.to_owned())),
            Some("worst") => Some((200, r#"{"disconnect":{"code":4501,"reason":"out"}}"#.to_owned())),
            Some("long") => ok(json!({ "key": "k".repeat(256) })),
            Some("renamed") if body.get("data").is_some() => {
                ok(json!({ "key": "name", "data": { "checked": body["data"] }, "tags": { "by": "hook" } }))
            }
            Some("renamed") => ok(json!({ "key": "name" })),
            _ => ok(json!({ "key_mode": "if_new" })),
        }
    })
    .await;
    let gateway = gateway()
        .with("backend.map_publish.url", format!("{}/set", application.url))
        .with("backend.map_remove.url", format!("{}/remove", application.url))
        .and(
            "[namespaces.board]\nsubscription_type = \"map\"\nallow_subscribe = true\n\
             map = { mode = \"persistent\", publish_hook = true, remove_hook = true }\n",
        )
        .start()
        .await;
    let mut ann = gateway.connect_as("ann").await;
    ann.command("subscribe", json!({ "channel": "board:a", "type": 1, "phase": 2 })).await;
    let set = |key: &str, data: u64| json!({ "channel": "board:a", "type": 1, "key": key, "data": data });
    let remove = |key: &str| json!({ "channel": "board:a", "type": 1, "key": key, "removed": true });

    ann.command("publish", set("renamed", 1)).await;
    let told = ann.push().await["push"]["pub"].take();
    assert_eq!((&told["key"], &told["data"]), (&json!("name"), &json!({ "checked": 1 })));
    assert_eq!((&told["tags"]["by"], &told["info"]["user"]), (&json!("hook"), &json!("ann")));
    ann.command("publish", set("once", 2)).await;
    ann.command("publish", set("once", 3)).await;
    assert_eq!(ann.push().await["push"]["pub"]["data"], 2, "it was there the second time");
    for change in [set("shut", 4), remove("shut")] {
        assert_eq!(ann.refused("publish", change).await, 1001);
    }
    assert_eq!(ann.refused("publish", set("long", 5)).await, 100, "no key is so long");
    ann.command("publish", remove("renamed")).await;
    let told = ann.push().await["push"]["pub"].take();
    assert_eq!((&told["key"], &told["removed"]), (&json!("name"), &json!(true)));
    ann.ask("publish", set("worst", 6)).await;
    assert_eq!(ann.closed().await, (4501, "out".to_owned()));

    let (set, removed) = (application.requests("/set")[0].json(), application.requests("/remove")[0].json());
    for received in [&set, &removed] {
        assert_eq!((&received["user"], &received["channel"]), (&json!("ann"), &json!("board:a")));
    }
    assert_eq!((&set["key"], &set["data"]), (&json!("renamed"), &json!(1)));
    assert_eq!((&removed["key"], removed.get("data")), (&json!("shut"), None));
}
