//! Tests what hooks send, and how their answers are interpreted.

use super::*;
use crate::secret::Secret;

#[tokio::test]
async fn a_client_that_connects_is_asked_about_with_the_headers_that_may_be_passed_on() {
    let application = Application::start(|_| json(r#"{"result":{"user":"ann","data":{"a":1}}}"#)).await;
    let config = BackendConfig {
        http_headers: vec!["Cookie".into(), "Authorization".into()],
        emulated_headers: vec!["Authorization".into(), "X-Plan".into()],
        static_headers: vec![Secret::new("X-Key: k"), Secret::new("X-Plan: ours")],
        client_ip_header: "X-Client-Address".into(),
        connect: at(application.url("/connect")),
        ..patient()
    };
    let (backend, metrics) = backend(&config);
    let given = [("Cookie", &b"a=1"[..]), ("User-Agent", b"x"), ("authorization", b"Bearer real")];
    let origin = backend.origin("203.0.113.9".parse().unwrap(), given.into_iter());
    let emulated =
        backend.emulated([("Authorization", "Bearer said"), ("x-plan", "all"), ("Host", "h"), ("b d", "")]);
    let origin = ClientOrigin { emulated, ..origin };
    assert!(!origin.headers.contains_key("user-agent") && !origin.emulated.contains_key("host"));
    let question =
        ConnectQuestion { data: Some(b"{\"t\":1}"), name: "js", version: "5", channels: vec!["news"] };
    for _ in 0..2 {
        let identity = backend.connect(&origin, &asker(&UserId::ANONYMOUS), question.clone()).await;
        let identity = identity.unwrap().expect("the backend knows it");
        assert_eq!(identity.user.as_str(), "ann");
        assert_eq!(identity.data.as_deref(), Some(&b"{\"a\":1}"[..]));
    }
    let received = &application.requests()[0];
    assert_eq!(
        received.json(),
        serde_json::json!({
            "client": ClientId::from_random(7).to_string(), "transport": "websocket", "protocol": "json",
            "encoding": "json", "data": {"t": 1}, "name": "js", "version": "5", "channels": ["news"],
        })
    );
    for (name, value) in [
        ("content-type", Some("application/json")),
        ("tidegate-hook", Some("connect")),
        ("cookie", Some("a=1")),
        ("authorization", Some("Bearer real")),
        ("x-key", Some("k")),
        ("x-plan", Some("ours")),
        ("x-client-address", Some("203.0.113.9")),
        ("user-agent", None),
    ] {
        assert_eq!(received.header(name), value, "{name}");
    }
    assert_eq!(application.connections(), 1, "it is kept open");
    assert_eq!(results(&metrics, "connect", "answered"), "2");
    assert_eq!(shown(&metrics, "tidegate_backend_seconds_count{hook=\"connect\"}").as_deref(), Some("2"));
}

#[tokio::test]
async fn each_question_goes_to_its_own_hook_and_what_has_none_is_not_available() {
    let application = Application::start(|received| match received.path.as_str() {
        "/subscribe" => json(r#"{"result":{"info":{"i":1},"data":2,"allow":["pub"]}}"#),
        "/publish" => json(r#"{"result":{"data":"clean","skip_history":true,"tags":{"a":"b"}}}"#),
        "/rpc" => json(r#"{"result":{"data":[1]}}"#),
        "/shop" => json(r#"{"result":{"b64data":"/w=="}}"#),
        "/refresh" => json(r#"{"result":{"expire_at":99999999999,"meta":{"m":1}}}"#),
        _ => json("{}"),
    })
    .await;
    let config = BackendConfig {
        subscribe: at(application.url("/subscribe")),
        publish: at(application.url("/publish")),
        rpc: at(application.url("/rpc")),
        rpc_namespaces: [("shop".to_owned(), at(application.url("/shop")))].into(),
        refresh: at(application.url("/refresh")),
        sub_refresh: at(application.url("/sub_refresh")),
        ..patient()
    };
    let (backend, _) = backend(&config);
    let (origin, ann) = (ClientOrigin::default(), UserId::new("ann"));

    let grant = backend.subscribe(&origin, &asker(&ann), "news", "tok", Some(b"{}")).await.unwrap();
    assert_eq!((grant.user.as_str(), grant.allow.publish), ("ann", true));
    assert_eq!(grant.info.as_deref(), Some(&b"{\"i\":1}"[..]));
    let received = application.requests().pop().unwrap().json();
    assert_eq!(
        (&received["channel"], &received["token"], &received["user"]),
        (&"news".into(), &"tok".into(), &"ann".into())
    );

    let answer = publish(&backend).await.unwrap();
    assert_eq!(answer.data, Some(Payload::json("\"clean\"")));
    assert!(answer.skip_history && &*answer.tags["a"] == "b");

    let ann_asks = asker(&ann);
    let rpc = |method: &'static str| backend.rpc(&origin, &ann_asks, method, Some(b"{}"));
    assert_eq!(rpc("price").await.unwrap(), Some(Payload::json("[1]")));
    assert_eq!(rpc("shop:buy").await.unwrap(), Some(Payload::binary(&b"\xff"[..])));
    assert_eq!(application.requests().pop().unwrap().json()["method"], "shop:buy");
    assert_eq!(rpc("other:buy").await, refused(ErrorCode::MethodNotFound));

    let stays = backend.refresh(&origin, &asker(&ann)).await.unwrap();
    assert!(matches!(&stays, Renewal::Stays { expires: Some(_), meta: Some(_), .. }), "{stays:?}");
    assert_eq!(backend.sub_refresh(&origin, &asker(&ann), "news").await, Ok(Renewal::Expired));

    assert_eq!(connect(&backend).await, refused(ErrorCode::NotAvailable));
    assert!(backend.has(HookKind::Rpc) && !backend.has(HookKind::Connect) && !backend.has(HookKind::Events));
}

#[tokio::test]
async fn what_a_backend_refuses_reaches_the_client_in_its_words() {
    let application = Application::start(|received| match received.path.as_str() {
        "/publish" => json(r#"{"error":{"code":1001,"message":"out of stock","temporary":true}}"#),
        _ => json(r#"{"disconnect":{"code":4501,"reason":"banned"}}"#),
    })
    .await;
    let config = BackendConfig {
        publish: at(application.url("/publish")),
        connect: at(application.url("/connect")),
        ..patient()
    };
    let (backend, metrics) = backend(&config);
    let own = Refusal::custom(1001, "out of stock", true).unwrap();
    assert_eq!(publish(&backend).await, Err(Denial::Error(own)));
    let banned = Disconnect::custom(4501, "banned").unwrap();
    assert_eq!(connect(&backend).await, Err(Denial::Disconnect(banned)));
    assert_eq!(results(&metrics, "publish", "denied"), "1");
}

#[tokio::test]
async fn requests_are_signed_over_their_time_their_hook_and_their_body() {
    let application = Application::start(|received| match received.path.as_str() {
        "/message" => status(204),
        _ => json(r#"{"result":{}}"#),
    })
    .await;
    let secret = "0123456789abcdef0123456789abcdef";
    let config = BackendConfig {
        signing_secret: Secret::new(secret),
        publish: at(application.url("/publish")),
        message: at(application.url("/message")),
        ..patient()
    };
    let (backend, _) = backend(&config);
    publish(&backend).await.unwrap();
    let user = UserId::new("ann b");
    let client = ClientId::from_random(7);
    let data = Payload::text("hi");
    let sent = BareMessage { client, user: &user, channel: "chat:\u{e4}", data };
    assert_eq!(backend.message(&ClientOrigin::default(), sent).await, Ok(None));

    let [published, sent] = &application.requests()[..] else { panic!("two were asked") };
    assert_eq!(sent.header("tidegate-user"), Some("ann%20b"));
    assert_eq!(sent.header("tidegate-channel"), Some("chat:%C3%A4"));
    assert_eq!(sent.header("content-type"), Some("text/plain; charset=utf-8"));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    for (received, lines) in
        [(published, "publish\n".to_owned()), (sent, format!("message\n{client}\nann%20b\nchat:%C3%A4\n"))]
    {
        let mut signed = format!("{}\n{lines}", received.header("tidegate-timestamp").unwrap()).into_bytes();
        signed.extend_from_slice(&received.body);
        let tag = ring::hmac::sign(&key, &signed);
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(received.header("tidegate-signature"), Some(format!("v1={hex}").as_str()));
    }
}

#[tokio::test]
async fn an_answer_to_a_bare_message_goes_back_as_what_it_is() {
    let application = Application::start(|received| {
        let kind = received.headers["content-type"].clone();
        Some(Response::builder().header("content-type", kind).body(Full::new(received.body.clone())).unwrap())
    })
    .await;
    let config = BackendConfig { message: at(application.url("/")), ..patient() };
    let (backend, _) = backend(&config);
    let user = UserId::ANONYMOUS;
    for (data, content_type) in [
        (Payload::json("{\"a\":1}"), "application/json"),
        (Payload::text("hi"), "text/plain; charset=utf-8"),
        (Payload::binary(&b"\x00\xff"[..]), "application/octet-stream"),
        (Payload::binary("also text"), "application/octet-stream"),
    ] {
        let sent = BareMessage {
            client: ClientId::from_random(1),
            user: &user,
            channel: "echo",
            data: data.clone(),
        };
        assert_eq!(backend.message(&ClientOrigin::default(), sent).await, Ok(Some(data)));
        assert_eq!(application.requests().pop().unwrap().header("content-type"), Some(content_type));
    }
}
