//! Tests `socketio_ask`: servers ask Socket.IO clients on any node for acknowledgements, and receive the outcome of each.

use serde_json::{Value, json};

use crate::gateway::{Description, Gateway, eventually, gateway};
use crate::redis_server::RedisServer;
use crate::socketio::SocketIo;

fn served() -> Description {
    gateway().with("socketio.enabled", true).and(
        "[socketio.namespaces.\"/\".events.join]\naction = \"join\"\nroom_argument = 0\n[socketio.namespaces.\"/admin\"]\n",
    )
}

/// Asks clients and returns the outcome of each, sorted by id.
async fn ask(gateway: &Gateway, request: Value) -> Vec<Value> {
    let result = gateway.api("socketio_ask", request).await;
    assert!(result.get("missing_nodes").is_none(), "{result}");
    let mut answers = result["answers"].as_array().expect("answers").clone();
    answers.sort_by_key(|answer| answer["id"].to_string());
    answers
}

/// Returns the packet's acknowledgement number and its arguments.
async fn next_question(client: &mut SocketIo) -> (String, String) {
    let told = client.next_packet().await;
    let at = told.find('[').expect("arguments");
    let number = told[..at].strip_prefix('2').expect("an event without attachments").to_owned();
    assert!(!number.is_empty(), "it asks for an acknowledgement: {told}");
    (number, told[at..].to_owned())
}

#[tokio::test]
async fn what_a_client_says_to_an_event_is_answered_bytes_included() {
    let gateway = served().start().await;
    let (mut client, sid) = gateway.in_main().await;
    let (mut other, _) = gateway.in_main().await;
    let request = json!({ "rooms": [sid], "event": "how", "args": ["are", "AQI="], "binary": ["/1"] });
    let asking = ask(&gateway, request);
    let answering = async {
        let told = client.next_packet().await;
        assert_eq!(told, r#"51-1["how","are",{"_placeholder":true,"num":0}]"#);
        assert_eq!(client.bytes().await, [1, 2]);
        client.send(r#"61-1["fine",{"b":{"_placeholder":true,"num":0}}]"#).await;
        client.send_bytes(&[255]).await;
    };
    let (answers, ()) = tokio::join!(asking, answering);
    let expected = json!({
        "id": sid, "status": "answered", "args": ["fine", { "b": "/w==" }], "binary": ["/1/b"],
    });
    assert_eq!(answers, [expected]);
    // No other client was asked.
    other.send(r#"21["unheard of"]"#).await;
    assert!(other.next_packet().await.starts_with("31"));
    assert_eq!(gateway.metric("tidegate_socketio_asks_total{result=\"answered\"}").await, 1.0);
    assert_eq!(gateway.metric("tidegate_socketio_asks_pending").await, 0.0);
}

#[tokio::test]
async fn those_who_do_not_answer_in_time_or_leave_are_told_apart_and_a_late_answer_is_counted() {
    let gateway = served().start().await;
    let (mut slow, slow_id) = gateway.in_main().await;
    let (mut leaving, leaving_id) = gateway.in_main().await;
    let (mut prompt, prompt_id) = gateway.in_main().await;
    let asking = ask(&gateway, json!({ "event": "there?", "timeout_ms": 400 }));
    let answering = async {
        let (number, arguments) = next_question(&mut prompt).await;
        assert_eq!(arguments, r#"["there?"]"#);
        prompt.send(&format!("3{number}[1]")).await;
        next_question(&mut leaving).await;
        drop(leaving);
    };
    let (answers, ()) = tokio::join!(asking, answering);
    let of = |id: &str| answers.iter().find(|answer| answer["id"] == id).expect("one").clone();
    assert_eq!(answers.len(), 3);
    assert_eq!(of(&slow_id)["status"], "timeout");
    assert_eq!(of(&leaving_id)["status"], "gone");
    assert_eq!((&of(&prompt_id)["status"], &of(&prompt_id)["args"]), (&json!("answered"), &json!([1])));
    let (number, _) = next_question(&mut slow).await;
    slow.send(&format!("3{number}[2]")).await;
    // This acknowledgement was never asked for.
    slow.send("3999[3]").await;
    let late = "tidegate_socketio_asks_total{result=\"late\"}";
    eventually("both are counted", async || gateway.metric(late).await == 2.0).await;
    assert_eq!(gateway.metric("tidegate_socketio_asks_pending").await, 0.0);
    // The client's connection is not affected.
    let asking = ask(&gateway, json!({ "event": "again?", "rooms": [slow_id] }));
    let answering = async {
        let (next, arguments) = next_question(&mut slow).await;
        assert_eq!(arguments, r#"["again?"]"#);
        assert_ne!(next, number);
        slow.send(&format!("3{next}[]")).await;
    };
    let (answers, ()) = tokio::join!(asking, answering);
    assert_eq!(answers, [json!({ "id": slow_id, "status": "answered", "args": [] })]);
}

#[tokio::test]
async fn who_never_answers_is_waited_for_no_longer_than_whoever_asks() {
    let gateway = served().start().await;
    let (_silent, silent_id) = gateway.in_main().await;
    let asking =
        (0..3).map(|_| ask(&gateway, json!({ "rooms": [silent_id], "event": "e", "timeout_ms": 50 })));
    let answers: Vec<_> = futures_util::future::join_all(asking).await.into_iter().flatten().collect();
    assert!(answers.iter().all(|answer| answer["status"] == "timeout"), "{answers:?}");
    assert_eq!(gateway.metric("tidegate_socketio_asks_pending").await, 0.0);
}

#[tokio::test]
async fn an_answer_in_another_namespace_is_none_and_the_right_one_is_heard_after_it() {
    let gateway = served().start().await;
    let (mut client, sid) = gateway.in_main().await;
    client.send("0/admin,").await;
    assert!(client.next_packet().await.starts_with("0/admin,"));
    let asking = ask(&gateway, json!({ "rooms": [sid], "event": "e" }));
    let answering = async {
        let (number, _) = next_question(&mut client).await;
        client.send(&format!("3/admin,{number}[\"wrong\"]")).await;
        client.send(&format!("3{number}[\"right\"]")).await;
    };
    let (answers, ()) = tokio::join!(asking, answering);
    assert_eq!(answers, [json!({ "id": sid, "status": "answered", "args": ["right"] })]);
    assert_eq!(gateway.metric("tidegate_socketio_asks_total{result=\"late\"}").await, 1.0);
}

#[tokio::test]
async fn clients_of_a_room_are_asked_at_all_nodes_and_who_is_nowhere_is_gone() {
    let redis = RedisServer::start();
    let nodes = [served().over(&redis.url()).start().await, served().over(&redis.url()).start().await];
    eventually("they know each other", async || {
        nodes[0].api("info", json!({})).await["nodes"].as_array().map(Vec::len) == Some(2)
    })
    .await;
    let (mut one, one_id) = nodes[0].in_main().await;
    let (mut other, other_id) = nodes[1].in_main().await;
    for client in [&mut one, &mut other] {
        client.send(r#"20["join","a"]"#).await;
        assert!(client.next_packet().await.starts_with("30"));
    }
    // The timeout is longer than that of other questions between nodes.
    let asking = ask(&nodes[0], json!({ "rooms": ["a"], "event": "vote", "timeout_ms": 30000 }));
    let answering = async {
        for (client, vote) in [(&mut one, "yes"), (&mut other, "no")] {
            let (number, _) = next_question(client).await;
            client.send(&format!("3{number}[\"{vote}\"]")).await;
        }
    };
    let (answers, ()) = tokio::join!(asking, answering);
    let votes: Vec<_> =
        answers.iter().map(|answer| (answer["id"].clone(), answer["args"][0].clone())).collect();
    let mut expected = vec![(json!(one_id), json!("yes")), (json!(other_id), json!("no"))];
    expected.sort_by_key(|(id, _)| id.to_string());
    assert_eq!(votes, expected);
    drop(one);
    eventually("it is gone", async || {
        let answers = ask(&nodes[1], json!({ "rooms": [one_id], "event": "vote", "timeout_ms": 100 })).await;
        answers == [json!({ "id": one_id, "status": "gone" })]
    })
    .await;
    assert_eq!(ask(&nodes[1], json!({ "rooms": ["nobody"], "event": "vote" })).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_client_is_asked_for_so_many_at_once_and_what_makes_no_sense_is_refused() {
    let gateway = served().start().await;
    let (mut client, sid) = gateway.in_main().await;
    let asked = (0..66).map(|_| ask(&gateway, json!({ "rooms": [sid], "event": "e", "timeout_ms": 700 })));
    let answers: Vec<_> = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
    let count = |status: &str| answers.iter().filter(|answer| answer["status"] == status).count();
    assert_eq!((count("timeout"), count("too_many")), (64, 2));
    // Questions that have timed out do not count towards the limit.
    let asking = ask(&gateway, json!({ "rooms": [sid], "event": "last" }));
    let answering = async {
        loop {
            let (number, arguments) = next_question(&mut client).await;
            if arguments == r#"["last"]"# {
                return client.send(&format!("3{number}[]")).await;
            }
        }
    };
    assert_eq!(tokio::join!(asking, answering).0[0]["status"], "answered");
    for request in [
        json!({ "event": "connect" }),
        json!({ "event": "e", "timeout_ms": 60001 }),
        json!({ "event": "e", "namespace": "/none" }),
        json!({ "event": "e", "rooms": [""] }),
    ] {
        let answer = gateway.try_api("socketio_ask", &request).await;
        assert!(String::from_utf8_lossy(&answer.body).contains("\"code\":107"), "{request}: {answer:?}");
    }
}
