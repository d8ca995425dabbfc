//! Tests that a failing backend costs its clients an error, and nobody else anything.

use super::*;

/// An application that fails this many times before it answers.
async fn failing(times: usize, code: u16) -> Application {
    let left = AtomicUsize::new(times);
    Application::start(move |_| {
        let fails =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if fails { status(code) } else { json(r#"{"result":{}}"#) }
    })
    .await
}

#[tokio::test]
async fn a_question_is_asked_again_and_what_is_more_than_one_is_not() {
    for code in [502, 503, 504] {
        let application = failing(2, code).await;
        let (backend, metrics) = backend(&BackendConfig { connect: at(application.url("/")), ..patient() });
        assert_eq!(connect(&backend).await, Ok(Some(Identity::default())), "{code}");
        assert_eq!(application.requests().len(), 3);
        assert_eq!(shown(&metrics, "tidegate_backend_retries_total{hook=\"connect\"}").as_deref(), Some("2"));
        assert_eq!(results(&metrics, "connect", "answered"), "1");
    }
    let application = failing(1, 503).await;
    let (backend, metrics) = backend(&BackendConfig { publish: at(application.url("/")), ..patient() });
    assert_eq!(publish(&backend).await, refused(ErrorCode::Internal));
    assert_eq!(application.requests().len(), 1, "it may have been published");
    assert_eq!(results(&metrics, "publish", "status"), "1");
}

#[tokio::test]
async fn a_backend_that_keeps_failing_is_asked_no_more_often_than_allowed() {
    for (code, received) in [(503, 3), (500, 1), (404, 1)] {
        let application = failing(100, code).await;
        let (backend, _) = backend(&BackendConfig { connect: at(application.url("/")), ..patient() });
        assert_eq!(connect(&backend).await, refused(ErrorCode::Internal));
        assert_eq!(application.requests().len(), received, "{code}");
    }
}

#[tokio::test]
async fn what_was_never_sent_is_sent_again_whatever_it_is() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (backend, metrics) =
        backend(&BackendConfig { publish: at(format!("http://{nobody}/")), ..patient() });
    assert_eq!(publish(&backend).await, refused(ErrorCode::Internal));
    assert_eq!(results(&metrics, "publish", "unreachable"), "1");
    assert_eq!(shown(&metrics, "tidegate_backend_retries_total{hook=\"publish\"}").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_backend_that_does_not_answer_costs_its_deadline_and_the_error_that_is_configured() {
    let application = Application::start(|_| None).await;
    let hook = HookConfig {
        timeout_ms: Some(20),
        failure_code: Some(1500),
        failure_message: Some("come back".into()),
        failure_temporary: Some(false),
        ..at(application.url("/"))
    };
    let (backend, metrics) = backend(&BackendConfig { connect: hook.clone(), refresh: hook, ..patient() });
    let own = Refusal::custom(1500, "come back", false).unwrap();
    assert_eq!(connect(&backend).await, Err(Denial::Error(own)));
    assert_eq!(results(&metrics, "connect", "timeout"), "1");
    let ann = UserId::new("ann");
    assert_eq!(
        backend.refresh(&ClientOrigin::default(), &asker(&ann)).await,
        Ok(Renewal::Unanswered { grace: Duration::from_secs(60) })
    );
    assert_eq!(shown(&metrics, "tidegate_backend_in_flight{hook=\"connect\"}").as_deref(), Some("0"));
}

#[tokio::test]
async fn an_answer_that_is_too_long_or_makes_no_sense_is_an_internal_error() {
    let application = Application::start(|received| match received.path.as_str() {
        "/long" => json(&format!(r#"{{"result":{{"data":"{}"}}}}"#, "x".repeat(1_024))),
        "/code" => json(r#"{"error":{"code":7,"message":"no"}}"#),
        "/info" => json(r#"{"result":{"b64info":"AAE="}}"#),
        _ => json("<html>"),
    })
    .await;
    for (path, label) in
        [("/long", "too_long"), ("/code", "malformed"), ("/info", "malformed"), ("/html", "malformed")]
    {
        let hook = HookConfig {
            answer_bytes_max: Some(1_024),
            failure_code: Some(1500),
            ..at(application.url(path))
        };
        let (backend, metrics) = backend(&BackendConfig { connect: hook, breaker_failures: 1, ..patient() });
        for count in ["1", "2"] {
            assert_eq!(connect(&backend).await, refused(ErrorCode::Internal), "{path}");
            // A failure that a client may have caused does not open the breaker.
            assert_eq!(results(&metrics, "connect", label), count, "{path}");
            assert_eq!(results(&metrics, "connect", "answered"), "0", "{path}");
        }
    }
}

#[tokio::test]
async fn more_at_once_than_allowed_are_told_to_come_back() {
    let application = Application::start(|_| None).await;
    let hook = HookConfig { concurrency_max: Some(1), ..at(application.url("/")) };
    let (backend, metrics) = backend(&BackendConfig { connect: hook, ..patient() });
    let waiting = connect(&backend);
    tokio::pin!(waiting);
    tokio::select! {
        answer = &mut waiting => panic!("{answer:?}"),
        () = until("the first is asked", || application.requests().len() == 1) => {}
    }
    assert_eq!(connect(&backend).await, refused(ErrorCode::TooManyRequests));
    assert_eq!(results(&metrics, "connect", "too_many"), "1");
    assert_eq!(shown(&metrics, "tidegate_backend_in_flight{hook=\"connect\"}").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_hook_that_fails_too_often_is_left_alone_and_one_request_finds_out_when_it_is_well() {
    let is_well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let well = is_well.clone();
    let application = Application::start(move |_| match well.load(Ordering::Relaxed) {
        true => json(r#"{"result":{}}"#),
        false => status(503),
    })
    .await;
    let config = BackendConfig {
        retries: 0,
        breaker_failures: 2,
        breaker_window_ms: 3_600_000,
        breaker_open_ms: 3_600_000,
        connect: at(application.url("/")),
        ..patient()
    };
    let open =
        |metrics: &Metrics| shown(metrics, "tidegate_backend_breakers_open{hook=\"connect\"}").unwrap();
    let (left_alone, metrics) = backend(&config);
    for _ in 0..5 {
        assert_eq!(connect(&left_alone).await, refused(ErrorCode::Internal));
    }
    assert_eq!(application.requests().len(), 2);
    assert_eq!((results(&metrics, "connect", "open").as_str(), open(&metrics).as_str()), ("3", "1"));

    let (recovers, metrics) = backend(&BackendConfig { breaker_open_ms: 1, ..config });
    for _ in 0..2 {
        assert_eq!(connect(&recovers).await, refused(ErrorCode::Internal));
    }
    is_well.store(true, Ordering::Relaxed);
    let answered = async {
        while connect(&recovers).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), answered).await.unwrap();
    assert_eq!(open(&metrics), "0");
}

#[tokio::test]
async fn a_client_that_leaves_meanwhile_is_no_failure() {
    let application = Application::start(|_| None).await;
    let (backend, metrics) =
        backend(&BackendConfig { connect: at(application.url("/")), breaker_failures: 1, ..patient() });
    for received in 1..4 {
        let waiting = connect(&backend);
        tokio::select! {
            answer = waiting => panic!("{answer:?}"),
            () = until("it is asked", || application.requests().len() == received) => {}
        }
    }
    assert_eq!(shown(&metrics, "tidegate_backend_in_flight{hook=\"connect\"}").as_deref(), Some("0"));
    assert_eq!(shown(&metrics, "tidegate_backend_breakers_open{hook=\"connect\"}").as_deref(), Some("0"));
}
