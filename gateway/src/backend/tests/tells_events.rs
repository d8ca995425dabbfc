//! Tests that events reach the backend in order and at least once, or are counted.

use std::time::Instant;

use super::*;

fn telling(application: &Application, change: impl FnOnce(&mut EventsConfig)) -> BackendConfig {
    let mut events =
        EventsConfig { url: application.url("/events"), batch_wait_ms: 0, ..EventsConfig::default() };
    change(&mut events);
    BackendConfig { events, ..patient() }
}

fn occupy(backend: &Backend, channels: impl IntoIterator<Item = usize>) {
    for channel in channels {
        backend.send_event(&BackendEvent::Occupied { channel: &format!("c{channel}") });
    }
}

/// The channels of all accepted batches, in order.
fn channels(application: &Application) -> Vec<String> {
    let batches = application.requests().into_iter().map(|received| received.json());
    let events = batches.flat_map(|batch| batch["events"].as_array().unwrap().clone());
    events.map(|event| event["channel"].as_str().unwrap().to_owned()).collect()
}

fn counted(metrics: &Metrics, result: &str) -> String {
    shown(metrics, &format!("tidegate_backend_events_total{{result=\"{result}\"}}")).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

#[tokio::test]
async fn events_come_in_order_in_batches_that_are_numbered() {
    let application = Application::start(|_| status(200)).await;
    let (backend, metrics) = backend(&telling(&application, |events| events.batch_events_max = 10));
    occupy(&backend, 0..95);
    backend.shut_down(soon()).await;
    assert_eq!(channels(&application), (0..95).map(|number| format!("c{number}")).collect::<Vec<_>>());
    for (index, batch) in application.requests().iter().enumerate() {
        let (number, json) = (index + 1, batch.json());
        assert!(json["events"].as_array().unwrap().len() <= 10);
        assert_eq!(
            (&json["batch"], &json["node"], &json["lost"]),
            (&number.into(), &"node-1".into(), &0.into())
        );
        assert_eq!(batch.header("tidegate-batch"), Some(format!("node-1/{number}").as_str()));
    }
    assert_eq!(counted(&metrics, "sent"), "95");
    assert_eq!(shown(&metrics, "tidegate_backend_events_queued").as_deref(), Some("0"));
    assert_eq!(shown(&metrics, "tidegate_backend_events_queued_bytes").as_deref(), Some("0"));
}

#[tokio::test]
async fn a_batch_is_sent_again_under_its_number_until_it_is_taken() {
    let failures = AtomicUsize::new(2);
    let application = Application::start(move |_| {
        let fails =
            failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        status(if fails { 500 } else { 204 })
    })
    .await;
    let (backend, metrics) = backend(&telling(&application, |events| events.batch_events_max = 1));
    occupy(&backend, 0..2);
    until("all are taken", || counted(&metrics, "sent") == "2").await;
    let batches: Vec<_> = application
        .requests()
        .iter()
        .map(|received| received.header("tidegate-batch").unwrap().to_owned())
        .collect();
    assert_eq!(batches, ["node-1/1", "node-1/1", "node-1/1", "node-1/2"]);
    assert!(application.requests()[..3].windows(2).all(|pair| pair[0].body == pair[1].body));
    let failed = shown(&metrics, "tidegate_backend_event_failures_total{reason=\"status\"}");
    assert_eq!(failed.as_deref(), Some("2"));
}

#[tokio::test]
async fn events_that_find_no_room_are_counted_and_told_with_a_later_batch() {
    let is_open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let open = is_open.clone();
    let application =
        Application::start(move |_| status(if open.load(Ordering::Relaxed) { 200 } else { 503 })).await;
    let (backend, metrics) = backend(&telling(&application, |events| {
        (events.queue_events_max, events.batch_events_max) = (3, 1);
    }));
    occupy(&backend, [0]);
    until("the first batch is on its way", || !application.requests().is_empty()).await;
    occupy(&backend, 1..6);
    assert_eq!(counted(&metrics, "full"), "2");
    is_open.store(true, Ordering::Relaxed);
    backend.shut_down(soon()).await;
    let told: u64 = application.requests().iter().map(|batch| batch.json()["lost"].as_u64().unwrap()).sum();
    assert_eq!((told, counted(&metrics, "sent").as_str()), (2, "4"));
}

#[tokio::test]
async fn bytes_are_bounded_as_well_as_events() {
    let application = Application::start(|_| None).await;
    let (backend, metrics) = backend(&telling(&application, |events| events.queue_bytes_max = 65_536));
    let channel = "x".repeat(1_000);
    for _ in 0..200 {
        backend.send_event(&BackendEvent::Vacated { channel: &channel });
    }
    let queued: i64 = shown(&metrics, "tidegate_backend_events_queued_bytes").unwrap().parse().unwrap();
    assert!((50_000..=65_536).contains(&queued), "{queued}");
    assert!(counted(&metrics, "full").parse::<u64>().unwrap() > 100);
}

#[tokio::test]
async fn a_batch_that_will_never_be_taken_is_given_up_and_the_next_ones_are_sent() {
    let application =
        Application::start(|received| status(if received.json()["batch"] == 1 { 422 } else { 200 })).await;
    let (backend, metrics) = backend(&telling(&application, |events| events.batch_events_max = 1));
    occupy(&backend, 0..3);
    backend.shut_down(soon()).await;
    assert_eq!((counted(&metrics, "refused").as_str(), counted(&metrics, "sent").as_str()), ("1", "2"));
    assert_eq!(application.requests()[1].json()["lost"], 1);
}

#[tokio::test]
async fn what_a_node_that_stops_cannot_tell_in_time_is_counted() {
    let application = Application::start(|_| status(503)).await;
    let (backend, metrics) = backend(&telling(&application, |events| events.batch_events_max = 1));
    occupy(&backend, 0..3);
    until("it is tried", || !application.requests().is_empty()).await;
    backend.shut_down(Instant::now() + Duration::from_millis(20)).await;
    assert_eq!(counted(&metrics, "stopping"), "3");
    occupy(&backend, [3]);
    assert_eq!(counted(&metrics, "stopping"), "4", "nothing is told after the end");
}

#[tokio::test]
async fn only_what_is_asked_for_is_told() {
    let application = Application::start(|_| status(200)).await;
    let config = telling(&application, |events| events.types = vec![EventType::Vacated]);
    let (backend, _) = backend(&config);
    assert!(backend.sends_events_of(EventType::Vacated) && !backend.sends_events_of(EventType::Occupied));
    occupy(&backend, 0..3);
    backend.send_event(&BackendEvent::Vacated { channel: "v" });
    backend.shut_down(soon()).await;
    assert_eq!(channels(&application), ["v"]);
}
