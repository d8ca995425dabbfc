//! Tests every method over a memory broker, with HTTP requests that use no socket.

use std::collections::BTreeMap;

use gateway_core::channel_rules::{ChannelOptions, ChannelRules, SubscriptionType};
use gateway_core::map::{MapMode, MapOptions};
use gateway_core::poll::{PollMode, PollOptions};
use serde_json::{Value, json};
use shared::channel::Channel;
use shared::id::{ClientId, UserId};
use shared::protocol::socketio::Namespaces;
use shared::publication::ClientInfo;

use self::support::{Received, Told, enter, node};
use http_body_util::BodyExt;

use super::*;
use crate::node::SessionId;
use crate::node::control::ControlTarget;
use crate::node::node_message::ClientCommand;
use crate::secret::Secret;

mod http;
mod keeps_to_its_description;
mod support;

const KEY: &str = "key of the tests";

fn rules() -> ChannelRules {
    let kept =
        ChannelOptions { history_size: 10, history_ttl_s: 60, presence: true, ..ChannelOptions::default() };
    let polled = ChannelOptions {
        subscription_type: SubscriptionType::SharedPoll,
        shared_poll: PollOptions {
            mode: PollMode::Versioned,
            publish_enabled: true,
            ..PollOptions::default()
        },
        ..ChannelOptions::default()
    };
    let keyed = ChannelOptions {
        subscription_type: SubscriptionType::Map,
        map: MapOptions { mode: MapMode::Persistent, ..MapOptions::default() },
        ..ChannelOptions::default()
    };
    let namespaces = [("kept", kept), ("map", keyed), ("poll", polled)]
        .map(|(name, options)| (name.into(), Arc::new(options)));
    let namespaces = BTreeMap::from(namespaces);
    ChannelRules { namespaces, ..ChannelRules::default() }
}

struct Fixture {
    api: Arc<Api>,
    node: Arc<Node>,
    received: Arc<Received>,
    told: Told,
}

async fn fixture() -> Fixture {
    with(|_| {}).await
}

async fn with(change: impl FnOnce(&mut ApiConfig)) -> Fixture {
    let mut config = ApiConfig { keys: vec![Secret::new(KEY)], ..ApiConfig::default() };
    change(&mut config);
    let (node, received, told) = node(rules()).await;
    let api = Arc::new(Api::new(&config, node.clone()).unwrap());
    let mut namespaces = Namespaces::new(":");
    for (name, channels) in [("/", "kept"), ("/admin", "map")] {
        assert!(namespaces.add(name, channels, Default::default(), Default::default()));
    }
    api.set_socketio(Arc::new(SocketIoShared { namespaces, ..SocketIoShared::default() }));
    Fixture { api, node, received, told }
}

impl Fixture {
    async fn send(&self, request: Request<Full<Bytes>>) -> (StatusCode, Value) {
        let response = self.api.serve(request).await;
        let status = response.status();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}")))
    }

    async fn raw(&self, method: &str, body: impl Into<Bytes>) -> (StatusCode, Value) {
        self.send(post(method, body.into())).await
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        let (status, answer) = self.raw(method, params.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    async fn result(&self, method: &str, params: Value) -> Value {
        let mut answer = self.ask(method, params).await;
        assert!(answer["error"].is_null(), "{answer}");
        answer["result"].take()
    }

    async fn code(&self, method: &str, params: Value) -> u64 {
        let answer = self.ask(method, params).await;
        answer["error"]["code"].as_u64().unwrap_or_else(|| panic!("no error: {answer}"))
    }
}

fn post(method: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::post(format!("/api/{method}")).header("X-API-Key", KEY).body(Full::new(body)).unwrap()
}

#[tokio::test]
async fn a_publication_answers_its_position_and_reads_back_as_it_was_written() {
    let gateway = fixture().await;
    let body = br#"{"channel":"kept:a","data":{"price": 1.50, "n" : [1, 2]},"tags":{"k":"v"},"delta":true}"#;
    let (_, answer) = gateway.raw("publish", &body[..]).await;
    assert_eq!(answer["result"]["offset"], 1);
    let epoch = answer["result"]["epoch"].as_str().unwrap();
    assert_eq!(epoch.len(), 8);

    let response = gateway.api.serve(post("history", r#"{"channel":"kept:a","limit":-1}"#.into())).await;
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let expected = format!(
        r#"{{"result":{{"publications":[{{"data":{{"price": 1.50, "n" : [1, 2]}},"offset":1,"tags":{{"k":"v"}}}}],"offset":1,"epoch":"{epoch}"}}}}"#
    );
    assert_eq!(std::str::from_utf8(&text).unwrap(), expected);
}

#[tokio::test]
async fn newer_content_of_a_key_goes_out_as_a_publication_of_its_channel() {
    let gateway = fixture().await;
    let params = json!({"channel": "poll:a", "key": "k", "version": 7, "epoch": "e", "data": {"n": 1}});
    assert_eq!(gateway.result("shared_poll_publish", params.clone()).await, json!({}));
    let published = gateway.received.publications();
    assert_eq!(published, [("poll:a".to_owned(), Bytes::from_static(b"{\"n\":1}"))]);
    for (key, value, code) in [
        ("version", json!(0), 107),
        ("key", json!(""), 107),
        ("key", json!("k".repeat(1_025)), 107),
        ("epoch", json!("longer than fifteen"), 107),
        ("data", Value::Null, 107),
        ("channel", json!("a"), 107),
        ("channel", json!("unknown:a"), 102),
    ] {
        let mut params = params.clone();
        params[key] = value;
        assert_eq!(gateway.code("shared_poll_publish", params).await, code, "{key}");
    }
    assert_eq!(gateway.code("publish", json!({"channel": "poll:a", "data": 1})).await, 108);
}

#[tokio::test]
async fn a_channel_without_history_answers_no_position() {
    let gateway = fixture().await;
    assert_eq!(gateway.result("publish", json!({"channel": "a", "data": 1})).await, json!({}));
    let skipped = json!({"channel": "kept:a", "data": 1, "skip_history": true});
    assert_eq!(gateway.result("publish", skipped).await, json!({}));
    let skipped = json!({"channels": ["kept:a"], "data": 1, "skip_history": true});
    assert_eq!(gateway.result("broadcast", skipped).await, json!({"responses": [{"result": {}}]}));
    assert_eq!(gateway.result("history", json!({"channel": "kept:a"})).await["offset"], 0);
}

#[tokio::test]
async fn what_a_publication_lacks_is_told() {
    let gateway = with(|config| config.publication_bytes_max = 100).await;
    let deep = "[".repeat(129) + &"]".repeat(129);
    let deep: &serde_json::value::RawValue = serde_json::from_str(&deep).unwrap();
    for (params, code) in [
        (json!({"data": {}}), 107),
        (json!({"channel": "", "data": {}}), 107),
        (json!({"channel": "a b", "data": {}}), 107),
        (json!({"channel": "x".repeat(256), "data": {}}), 107),
        (json!({"channel": "a"}), 107),
        (json!({"channel": "a", "data": null}), 107),
        (json!({"channel": "a", "b64data": "?"}), 107),
        (json!({"channel": "a", "data": "x".repeat(99)}), 107),
        (json!({"channel": "a", "data": 1, "idempotency_key": "k".repeat(257)}), 107),
        (json!({"channel": "unknown:a", "data": {}}), 102),
        (json!({"channel": "a", "data": 1, "version_epoch": "e".repeat(65)}), 107),
    ] {
        assert_eq!(gateway.code("publish", params.clone()).await, code, "{params}");
    }
    let (_, answer) = gateway.raw("publish", format!(r#"{{"channel":"a","data":{deep}}}"#)).await;
    assert_eq!(answer["error"]["code"], 107, "{answer}");
    assert!(gateway.received.publications().is_empty());
}

#[tokio::test]
async fn data_in_base64_is_json_text_or_bytes_by_what_it_holds() {
    let gateway = fixture().await;
    for (bytes, read) in
        [(&b"{\"a\":1}"[..], json!({"a": 1})), (b"plain", json!("plain")), (b"\xff", json!("/w=="))]
    {
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        gateway.result("publish", json!({"channel": "kept:b", "b64data": encoded})).await;
        let page = gateway.result("history", json!({"channel": "kept:b", "limit": 1, "reverse": true})).await;
        assert_eq!(page["publications"][0]["data"], read);
    }
}

#[tokio::test]
async fn the_same_idempotency_key_publishes_once() {
    let gateway = fixture().await;
    let params = json!({"channel": "kept:a", "data": 1, "idempotency_key": "one"});
    let first = gateway.result("publish", params.clone()).await;
    assert_eq!(gateway.result("publish", params).await, first);
    let page = gateway.result("history", json!({"channel": "kept:a", "limit": -1})).await;
    assert_eq!(page["publications"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_version_that_is_not_newer_answers_where_the_stream_ends() {
    let gateway = fixture().await;
    let publish = async |version: Value| {
        let params = json!({"channel": "kept:a", "data": 1, "version": version, "version_epoch": "e"});
        gateway.result("publish", params).await["offset"].clone()
    };
    for (version, offset) in
        [(json!(5), 1), (json!(4), 1), (json!(u64::MAX), 2), (json!(0), 3), (json!(null), 4)]
    {
        assert_eq!(publish(version.clone()).await, offset, "{version}");
    }
    let params = json!({"channels": ["kept:a", "kept:b"], "data": 1, "version": 7, "version_epoch": "e"});
    let responses = gateway.result("broadcast", params).await["responses"].clone();
    assert_eq!(
        (&responses[0]["result"]["offset"], &responses[1]["result"]["offset"]),
        (&json!(4), &json!(1))
    );
}

#[tokio::test]
async fn a_call_of_an_extension_finds_none() {
    let gateway = fixture().await;
    assert_eq!(gateway.code("rpc", json!({"method": "sum", "params": [1, 2]})).await, 104);
    assert_eq!(gateway.code("rpc", json!({})).await, 107);
}

#[tokio::test]
async fn older_libraries_send_commands_that_name_their_methods() {
    let gateway = fixture().await;
    let send = async |body: &str| {
        let request =
            Request::post("/api").header("X-API-Key", KEY).body(Full::from(body.to_owned())).unwrap();
        let response = gateway.api.serve(request).await;
        let status = response.status().as_u16();
        (
            status,
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap(),
        )
    };
    let (status, answer) = send(
        r#"{"method":"publish","params":{"channel":"a","data":1}}
           {"id":7,"method":"presence_stats","params":{"channel":"kept:a"}}{"id":8,"method":"presence","params":{"channel":"a"}}"#,
    )
    .await;
    let expected = "{\"result\":{}}\n{\"id\":7,\"result\":{\"num_clients\":0,\"num_users\":0}}\n\
                    {\"id\":8,\"error\":{\"code\":108,\"message\":\"not available\"}}";
    assert_eq!((status, &*answer), (200, expected));
    assert_eq!(send(r#"{"method":"rpc","params":null}"#).await.0, 200);
    let received = gateway.received.publications().len();
    for bad in [
        "",
        "[]",
        "{",
        "{}",
        r#"{"method":"batch","params":{}}"#,
        r#"{"method":"publish","params":{"channel":"a","data":1}} {"method":"nothing"}"#,
        r#"{"method":"publish","params":{"channel":"a","data":1}} {"#,
        r#"{"method":"publish","params":{"channel":7}}"#,
    ] {
        assert_eq!(send(bad).await.0, 400, "{bad}");
    }
    assert_eq!(gateway.received.publications().len(), received, "nothing of what cannot be read is done");
}

#[tokio::test]
async fn lists_of_a_node_without_clients_are_empty() {
    let gateway = fixture().await;
    assert_eq!(gateway.result("channels", json!({"pattern": "*"})).await, json!({"channels": {}}));
    for params in [json!({}), json!({"client": "no id of ours"}), json!({"user": "ann", "channel": "a"})] {
        assert_eq!(gateway.result("connections", params).await, json!({"connections": {}}));
    }
    for (method, params, code) in [
        ("channels", json!({"pattern": "["}), 107),
        ("channels", json!({"cursor": "x".repeat(256)}), 107),
        ("connections", json!({"cursor": "x"}), 107),
        ("connections", json!({"channel": "unknown:a"}), 102),
        ("connections", json!({"expression": "true"}), 108),
    ] {
        assert_eq!(gateway.code(method, params.clone()).await, code, "{params}");
    }
}

#[tokio::test]
async fn a_broadcast_answers_for_each_channel_in_its_place() {
    let gateway = with(|config| config.broadcast_channels_max = 4).await;
    let channels = json!(["kept:a", "unknown:b", "kept:a", "c"]);
    let result = gateway.result("broadcast", json!({"channels": channels, "data": {"x": 1}})).await;
    let responses = result["responses"].as_array().unwrap();
    let offsets: Vec<_> = responses.iter().map(|response| response["result"]["offset"].as_u64()).collect();
    assert_eq!(offsets, [Some(1), None, Some(2), None]);
    assert_eq!(responses[1]["error"]["code"], 102);
    assert_eq!(responses[3], json!({"result": {}}));

    assert_eq!(gateway.code("broadcast", json!({"channels": [], "data": 1})).await, 107);
    assert_eq!(gateway.code("broadcast", json!({"channels": ["a"]})).await, 107);
    assert_eq!(
        gateway.code("broadcast", json!({"channels": ["a", "a", "a", "a", "a"], "data": 1})).await,
        107
    );
}

#[tokio::test]
async fn history_is_read_in_parts_and_from_both_ends() {
    let gateway = with(|config| config.history_limit_max = 4).await;
    for number in 1..=6 {
        gateway.result("publish", json!({"channel": "kept:a", "data": number})).await;
    }
    let read = async |params: Value| -> Vec<u64> {
        let page = gateway.result("history", params).await;
        assert_eq!(page["offset"], 6);
        page["publications"].as_array().unwrap().iter().map(|one| one["data"].as_u64().unwrap()).collect()
    };
    assert_eq!(read(json!({"channel": "kept:a"})).await, [0; 0]);
    assert_eq!(read(json!({"channel": "kept:a", "limit": 2})).await, [1, 2]);
    assert_eq!(read(json!({"channel": "kept:a", "limit": -1})).await, [1, 2, 3, 4]);
    assert_eq!(read(json!({"channel": "kept:a", "limit": 2, "reverse": true})).await, [6, 5]);
    assert_eq!(read(json!({"channel": "kept:a", "limit": 9, "since": {"offset": 4}})).await, [5, 6]);

    let top = gateway.result("history", json!({"channel": "kept:a"})).await;
    let since =
        |epoch: &Value| json!({"channel": "kept:a", "limit": 9, "since": {"offset": 5, "epoch": epoch}});
    assert_eq!(read(since(&top["epoch"])).await, [6]);
    assert_eq!(gateway.code("history", since(&json!("other"))).await, 112);
}

#[tokio::test]
async fn removed_history_is_gone_and_offsets_go_on() {
    let gateway = fixture().await;
    gateway.result("publish", json!({"channel": "kept:a", "data": 1})).await;
    assert_eq!(gateway.result("history_remove", json!({"channel": "kept:a"})).await, json!({}));
    let page = gateway.result("history", json!({"channel": "kept:a", "limit": -1})).await;
    assert_eq!((&page["publications"], &page["offset"]), (&json!([]), &json!(1)));
}

#[tokio::test]
async fn an_answer_holds_no_more_than_it_may() {
    let gateway = with(|config| config.answer_bytes_max = 2_100).await;
    let data = "x".repeat(900);
    for _ in 0..4 {
        gateway.result("publish", json!({"channel": "kept:a", "data": data})).await;
    }
    let history = json!({"history": {"channel": "kept:a", "limit": -1}});
    let told = gateway.result("history", history["history"].clone()).await;
    assert_eq!(told["publications"].as_array().map(Vec::len), Some(2), "as many as there is room for");
    assert_eq!(told["offset"], 4);

    let publish = json!({"publish": {"channel": "kept:a", "data": 5}});
    let commands = [&history, &publish, &history, &history, &publish];
    let replies = gateway.ask("batch", json!({ "commands": commands })).await;
    assert_eq!(replies["replies"][0]["history"]["publications"].as_array().map(Vec::len), Some(2));
    assert_eq!(replies["replies"][2]["history"]["publications"].as_array().map(Vec::len), Some(1));
    assert_eq!(replies["replies"][3]["error"]["code"], 106, "{replies}");
    assert_eq!(replies["replies"][4]["publish"]["offset"], 6, "what tells little is done all the same");

    let side_by_side = json!({ "commands": [&history, &history], "parallel": true });
    let replies = gateway.ask("batch", side_by_side).await;
    for reply in replies["replies"].as_array().expect("replies") {
        assert_eq!(reply["history"]["publications"].as_array().map(Vec::len), Some(1), "each has its share");
    }
}

#[tokio::test]
async fn what_a_channel_does_not_keep_is_not_available() {
    let gateway = fixture().await;
    for method in ["history", "history_remove", "presence", "presence_stats"] {
        assert_eq!(gateway.code(method, json!({"channel": "a"})).await, 108, "{method}");
        assert_eq!(gateway.code(method, json!({"channel": "unknown:a"})).await, 102, "{method}");
        assert_eq!(gateway.code(method, json!({})).await, 107, "{method}");
    }
}

#[tokio::test]
async fn presence_tells_who_is_there_and_how_many() {
    let gateway = fixture().await;
    let channel = Channel::parse("kept:room", 255).unwrap();
    assert_eq!(gateway.result("presence", json!({"channel": "kept:room"})).await, json!({"presence": {}}));
    let (one, two) = (ClientId::from_random(1), ClientId::from_random(2));
    for client in [one, two] {
        let conn_info = (client == one).then(|| Bytes::from_static(b"{\"n\":1}"));
        let info = ClientInfo { client, user: UserId::new("al\"ice"), conn_info, chan_info: None };
        enter(&gateway.node, channel.clone(), info).await;
    }
    let expected = json!({"presence": {
        one.to_string(): {"user": "al\"ice", "client": one.to_string(), "conn_info": {"n": 1}},
        two.to_string(): {"user": "al\"ice", "client": two.to_string()},
    }});
    assert_eq!(gateway.result("presence", json!({"channel": "kept:room"})).await, expected);
    let stats = gateway.result("presence_stats", json!({"channel": "kept:room"})).await;
    assert_eq!(stats, json!({"num_clients": 2, "num_users": 1}));
}

#[tokio::test]
async fn clients_are_disconnected_by_user_or_id_on_every_node() {
    let gateway = fixture().await;
    let _bob = gateway.node.admit_user(&UserId::new("bob"), 0).unwrap();
    let (one, two) = (gateway.node.client_ids.make(1, 0, 0), ClientId::from_random(2));
    let whitelist = json!([two.to_string(), "not an id"]);
    let params =
        json!({"user": "bob", "whitelist": whitelist, "disconnect": {"code": 4500, "reason": "banned"}});
    assert_eq!(gateway.result("disconnect", params).await, json!({}));
    assert_eq!(
        gateway.result("disconnect", json!({"user": "bob", "client": one.to_string()})).await,
        json!({})
    );
    assert_eq!(gateway.result("disconnect", json!({"user": "", "client": "no id of ours"})).await, json!({}));
    assert_eq!(
        gateway.result("disconnect", json!({"user": "bob", "session": "none of ours"})).await,
        json!({})
    );
    let session = &*gateway.node.session_ids.make(1, 0, 0).reveal();
    assert_eq!(gateway.result("disconnect", json!({"user": "bob", "session": session})).await, json!({}));
    let bob = ControlTarget { user: Some("bob".into()), ..ControlTarget::default() };
    let expected = [
        (
            ControlTarget { except: vec![two], ..bob.clone() },
            ClientCommand::Disconnect(shared::disconnect::Disconnect::custom(4500, "banned").unwrap()),
        ),
        (
            ControlTarget { client: Some(one), ..bob.clone() },
            ClientCommand::Disconnect(shared::disconnect::Disconnect::FORCE_DISCONNECT),
        ),
        (
            ControlTarget { session: SessionId::parse(session), ..bob },
            ClientCommand::Disconnect(shared::disconnect::Disconnect::FORCE_DISCONNECT),
        ),
    ];

    for params in [
        json!({}),
        json!({"user": "bob", "disconnect": {"code": 1000, "reason": "x"}}),
        json!({"user": "bob", "disconnect": {"code": 70_000, "reason": "x"}}),
        json!({"user": "bob", "disconnect": {"code": 4000, "reason": "x".repeat(124)}}),
        json!({"user": "bob", "whitelist": vec!["x"; 1_001]}),
        json!({"user": "u".repeat(200_000)}),
    ] {
        assert_eq!(gateway.code("disconnect", params).await, 107);
    }
    assert_eq!(gateway.told.acts(), expected);
}

#[tokio::test]
async fn clients_are_unsubscribed_from_a_channel() {
    let gateway = fixture().await;
    let _bob = gateway.node.admit_user(&UserId::new("bob"), 0).unwrap();
    let params = json!({"user": "bob", "channel": "kept:a"});
    assert_eq!(gateway.result("unsubscribe", params).await, json!({}));
    let target = ControlTarget { user: Some("bob".into()), ..ControlTarget::default() };
    let channel = Channel::parse("kept:a", 255).unwrap();
    assert_eq!(gateway.told.acts(), [(target, ClientCommand::Unsubscribe(channel))]);
    assert_eq!(gateway.code("unsubscribe", json!({"user": "bob"})).await, 107);
    assert_eq!(gateway.code("unsubscribe", json!({"channel": "a"})).await, 107);
    assert_eq!(gateway.code("unsubscribe", json!({"channel": "unknown:a", "user": "bob"})).await, 102);
}

#[tokio::test]
async fn what_a_subscription_by_the_server_lacks_is_told() {
    let gateway = fixture().await;
    for (params, code) in [
        (json!({"channel": "a"}), 107),
        (json!({"user": "bob"}), 107),
        (json!({"channel": "unknown:a", "user": "bob"}), 102),
        (json!({"channel": "a", "user": "bob", "b64info": "?"}), 107),
        (json!({"channel": "a", "user": "bob", "b64data": "/w=="}), 107),
        (json!({"channel": "a", "user": "bob", "data": "x".repeat(65_536)}), 107),
    ] {
        assert_eq!(gateway.code("subscribe", params.clone()).await, code, "{params}");
    }
    assert_eq!(gateway.code("refresh", json!({"expired": true})).await, 107);
    let nobody = json!({"channel": "a", "user": "nobody", "b64info": "e30="});
    assert_eq!(gateway.result("subscribe", nobody).await, json!({}));
    assert_eq!(gateway.result("refresh", json!({"user": "nobody", "info": {}})).await, json!({}));
}

#[tokio::test]
async fn a_batch_answers_each_command_in_its_place() {
    let gateway = fixture().await;
    let commands = json!([
        {"publish": {"channel": "kept:a", "data": 1}},
        {"publish": {"channel": "unknown:a", "data": 1}},
        {"publish": {"channel": "kept:b", "data": 1}},
        {"publish": {"channel": "kept:a", "data": 2}},
        {"history": {"channel": "kept:a", "limit": 5}},
        {"explode": {}},
        {"broadcast": {"channels": ["kept:a"], "data": 3}},
        {"presence_stats": {"channel": "kept:a"}}
    ]);
    for parallel in [false, true] {
        let answer = gateway.ask("batch", json!({"commands": commands, "parallel": parallel})).await;
        let replies = answer["replies"].as_array().unwrap();
        assert_eq!(replies.len(), 8);
        let before = if parallel { 3 } else { 0 };
        assert_eq!(replies[0]["publish"]["offset"], before + 1);
        assert_eq!(replies[1]["error"]["code"], 102);
        assert_eq!(replies[2]["publish"]["offset"], if parallel { 2 } else { 1 });
        assert_eq!(replies[3]["publish"]["offset"], before + 2);
        assert!(replies[4]["history"]["publications"].as_array().unwrap().len() >= 2);
        assert_eq!(replies[5]["error"]["code"], 104);
        assert_eq!(replies[6]["broadcast"]["responses"][0]["result"]["offset"], before + 3);
        assert_eq!(replies[7]["presence_stats"], json!({"num_clients": 0, "num_users": 0}));
    }
    assert_eq!(gateway.ask("batch", json!({"commands": []})).await, json!({"replies": []}));
}

#[tokio::test]
async fn nothing_is_begun_after_the_deadline() {
    let gateway = fixture().await;
    let body = Bytes::from_static(
        br#"{"commands":[
            {"publish":{"channel":"kept:a","data":1}}, {"broadcast":{"channels":["kept:a"],"data":1}},
            {"history":{"channel":"kept:a"}}, {"history_remove":{"channel":"kept:a"}},
            {"presence":{"channel":"kept:a"}}, {"presence_stats":{"channel":"kept:a"}}, {"info":{}},
            {"disconnect":{"user":"bob"}}, {"unsubscribe":{"user":"bob","channel":"kept:a"}},
            {"channels":{}}, {"connections":{}}
        ]}"#,
    );
    let batch: BatchRequest<'_> = serde_json::from_slice(&body).unwrap();
    let config = ApiConfig::default();
    let room = ResponseBudget::of(config.answer_bytes_max);
    let (node, deadline) = (&gateway.node, Instant::now());
    let call = ApiCall {
        config: &config,
        node,
        body: &body,
        deadline,
        room: &room,
        namespaces: None,
        side_by_side: 1,
    };
    for (command, answer) in batch.commands.iter().zip(call.run_batch(&batch).await.unwrap()) {
        let refused = match answer {
            Ok(api_response::ApiResponse::Broadcast(responses)) => responses[0].clone().unwrap_err(),
            answer => answer.map(drop).unwrap_err(),
        };
        assert_eq!(refused.error_code(), Some(ErrorCode::Internal), "{command:?}");
    }
    assert!(gateway.received.publications().is_empty() && gateway.told.acts().is_empty());
}

#[tokio::test]
async fn a_long_batch_keeps_the_order_of_every_channel() {
    let gateway = fixture().await;
    let commands: Vec<Value> = (0..2_000)
        .map(|number| json!({"publish": {"channel": format!("kept:{}", number % 6), "data": number}}))
        .collect();
    gateway.ask("batch", json!({"commands": commands, "parallel": true})).await;
    let mut last = BTreeMap::new();
    let received = gateway.received.publications();
    assert_eq!(received.len(), 2_000);
    for (channel, data) in received {
        let number: u32 = std::str::from_utf8(&data).unwrap().parse().unwrap();
        assert!(last.insert(channel, number).is_none_or(|before| before + 6 == number));
    }
}
