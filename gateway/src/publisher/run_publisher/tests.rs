//! Tests publishing to a small server whose answers the test chooses.

use std::sync::Arc;

use bytes::Bytes;
use clap::Parser;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

#[derive(Parser)]
#[command(args_override_self = true)]
struct Line {
    #[command(flatten)]
    args: PublishArgs,
}

/// The reaction of the server to a request.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Answer {
    Publish,
    Status(u16),
    /// Accept the request and close the connection.
    Hang,
    Nonsense,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Value>,
    keys: Vec<String>,
    /// Answers for the first requests; later requests are published.
    script: Vec<Answer>,
}

impl Seen {
    fn publications(&self) -> Vec<&Value> {
        let commands = self.requests.iter().flat_map(|request| request["commands"].as_array().unwrap());
        commands.map(|command| &command["publish"]).collect()
    }
}

async fn server(script: &[Answer]) -> (String, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen { script: script.to_vec(), ..Seen::default() }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api/", listener.local_addr().unwrap());
    let shared = seen.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let seen = shared.clone();
            let service = service_fn(move |request| answer(request, seen.clone()));
            // A connection that hangs ends in an error, as intended.
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
            );
        }
    });
    (url, seen)
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Seen>>,
) -> Result<Response<Full<Bytes>>, &'static str> {
    assert_eq!(request.uri().path(), "/api/batch");
    let key = request.headers()["X-API-Key"].to_str().unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let mut seen = seen.lock();
    let reply = |command: &Value| match command["publish"]["channel"].as_str() {
        Some("refused") => json!({"error": {"code": 102, "message": "unknown channel"}}),
        _ => json!({"publish": {}}),
    };
    let replies: Vec<Value> = body["commands"].as_array().unwrap().iter().map(reply).collect();
    seen.requests.push(body);
    seen.keys.push(key);
    let next = if seen.script.is_empty() { Answer::Publish } else { seen.script.remove(0) };
    let respond = |status, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        Ok(response)
    };
    match next {
        Answer::Publish => respond(StatusCode::OK, json!({"replies": replies}).to_string()),
        Answer::Status(status) => {
            let body = json!({"error": {"code": 101, "message": "unauthorized: the key is wrong"}});
            respond(StatusCode::from_u16(status).unwrap(), body.to_string())
        }
        Answer::Hang => Err("told to hang up"),
        Answer::Nonsense => respond(StatusCode::OK, "{\"replies\":[]}".to_owned()),
    }
}

struct File(PathBuf);

impl File {
    fn of(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-publish-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A file that is left in the temporary folder does no harm.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn arguments(url: &str, more: &[&str]) -> PublishArgs {
    let line = ["publish", "--url", url, "--key", "k", "--rate", "max", "--retry-s", "5"]
        .into_iter()
        .chain(more.iter().copied());
    Line::parse_from(line).args
}

async fn run(args: &PublishArgs) -> (Report, Result<(), PublishError>, Vec<String>) {
    let mut complaints = Vec::new();
    let (report, result) =
        publish(args, std::future::pending(), |complaint| complaints.push(complaint.to_owned())).await;
    (report, result, complaints)
}

#[tokio::test]
async fn the_shipped_prices_arrive_whole_and_in_order() {
    let (url, seen) = server(&[]).await;
    let (report, result, complaints) = run(&arguments(&url, &[])).await;
    result.unwrap();
    assert!(report.is_clean(), "{report} {complaints:?}");
    assert_eq!((report.published, report.retries), (4_196, 0));
    let seen = seen.lock();
    assert!(seen.keys.iter().all(|key| key == "k"));
    assert!(seen.requests.len() < 4_196, "several travel in one request");
    let publications = seen.publications();
    assert_eq!(publications.len(), 4_196);
    for (sent, price) in publications.iter().zip(crate::prices::parse(crate::prices::SHIPPED).unwrap()) {
        assert_eq!(sent["channel"], price.channel());
        assert_eq!(sent["data"]["date"], price.date);
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_keys() {
    for trouble in [Answer::Hang, Answer::Status(503), Answer::Status(429)] {
        let (url, seen) = server(&[trouble]).await;
        let file = File::of(&format!("{trouble:?}"), "a\t1\na\t2\n");
        let args = arguments(&url, &["--file", file.0.to_str().unwrap(), "--rate", "1000"]);
        let (report, result, _) = run(&args).await;
        result.unwrap();
        assert_eq!((report.published, report.retries), (2, 1), "{trouble:?}");
        let seen = seen.lock();
        assert_eq!(seen.requests[0], seen.requests[1]);
        let keys: Vec<_> = seen.publications().iter().map(|one| one["idempotency_key"].to_string()).collect();
        assert_ne!(keys.first(), keys.last());
        assert!(keys.iter().all(|key| key.len() > 30), "{keys:?}");
    }
}

#[tokio::test]
async fn publishing_to_nothing_says_so_at_once() {
    // A port that was free a moment ago, and one on which nothing answers.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_address = silent.local_addr().unwrap();
    for (address, expected) in [(closed, "refused"), (silent_address, "no answer has arrived")] {
        let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
        let told_once = async move { told.recv().await };
        let args = arguments(&format!("http://{address}/api"), &["--retry-s", "600"]);
        let stop = async {
            told_once.await;
        };
        let mut complaints = Vec::new();
        let complain = |complaint: &str| {
            complaints.push(complaint.to_owned());
            sender.send(()).unwrap();
        };
        let published = tokio::time::timeout(Duration::from_secs(20), publish(&args, stop, complain)).await;
        let (report, result) = published.expect("it says so, and stops");
        result.unwrap();
        assert_eq!((report.published, complaints.len()), (0, 1), "{complaints:?}");
        assert!(complaints[0].contains(&address.to_string()), "{complaints:?}");
        assert!(complaints[0].to_lowercase().contains(expected), "{complaints:?}");
        assert!(complaints[0].contains("600 s (--retry-s)"), "{complaints:?}");
    }
}

#[tokio::test]
async fn keys_are_left_out_where_that_is_asked_for() {
    let (url, seen) = server(&[]).await;
    let file = File::of("keyless", "a\t1\n");
    run(&arguments(&url, &["--file", file.0.to_str().unwrap(), "--without-idempotency"])).await.1.unwrap();
    assert_eq!(seen.lock().publications(), [&json!({"channel": "a", "data": 1})]);
}

#[tokio::test]
async fn what_the_gateway_refuses_and_bad_lines_are_counted_and_told() {
    let (url, _) = server(&[]).await;
    let file = File::of("refused", "a\t1\nrefused\t2\nno tab\nb\t3\n");
    let (report, result, complaints) = run(&arguments(&url, &["--file", file.0.to_str().unwrap()])).await;
    result.unwrap();
    assert!(!report.is_clean());
    assert_eq!((report.published, report.refused, report.bad_lines), (2, 1, 1));
    let expected = ["line 3: there is no tab between channel and JSON", "refused: unknown channel (102)"];
    let mut complaints = complaints;
    complaints.sort();
    assert_eq!(complaints, expected);
}

#[tokio::test]
async fn what_no_retry_can_mend_ends_at_once() {
    let (url, seen) = server(&[Answer::Status(401)]).await;
    let (report, result, _) = run(&arguments(&url, &[])).await;
    let told = result.unwrap_err().to_string();
    assert!(told.contains("401") && told.contains("the key is wrong"), "{told}");
    assert!(report.unsent > 0 && report.published == 0);
    assert_eq!(seen.lock().requests.len(), 1);

    let (url, _) = server(&[Answer::Nonsense]).await;
    assert!(matches!(run(&arguments(&url, &[])).await.1, Err(PublishError::Send(SendError::Answer(_)))));
    for url in ["not a url", "127.0.0.1:1/api"] {
        assert!(
            matches!(run(&arguments(url, &[])).await.1, Err(PublishError::Send(SendError::Url(_)))),
            "{url}"
        );
    }
    let (_, result, _) = run(&arguments("https://localhost/api", &[])).await;
    assert!(matches!(result, Err(PublishError::Send(SendError::Scheme(_)))));
}

#[tokio::test]
async fn a_gateway_that_stays_away_is_given_up_in_time() {
    // Bound and dropped, so that nothing listens there.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let args = arguments(&format!("http://127.0.0.1:{port}/api"), &["--retry-s", "1"]);
    let (report, result, _) = run(&args).await;
    let Err(PublishError::Send(SendError::Unreachable { after, .. })) = result else { panic!("{result:?}") };
    assert!(
        after >= Duration::from_secs(1),
        "it tries until the end of the time, and stopped after {after:?}"
    );
    assert!(report.retries > 0 && report.unsent > 0);
}

#[tokio::test]
async fn a_file_that_is_not_there_and_input_that_cannot_be_reread_are_told() {
    let (url, _) = server(&[]).await;
    let (_, result, _) = run(&arguments(&url, &["--file", "/nowhere/prices.csv"])).await;
    assert!(result.unwrap_err().to_string().contains("/nowhere/prices.csv"));
    let (_, result, _) = run(&arguments(&url, &["--file", "-", "--loop"])).await;
    assert!(matches!(result, Err(PublishError::LoopOverInput)));
}

#[tokio::test]
async fn publishing_stops_when_told_to() {
    let (url, seen) = server(&[]).await;
    let args = arguments(&url, &["--loop", "--rate", "1000/s"]);
    let stop = async {
        while seen.lock().requests.len() < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (report, result) = publish(&args, stop, |complaint| panic!("{complaint}")).await;
    result.unwrap();
    assert!(report.published >= 5 && report.is_clean(), "{report}");
    assert_eq!(report.published, seen.lock().publications().len() as u64);
}
