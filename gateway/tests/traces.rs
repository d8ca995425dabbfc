//! A publication's way through a running gateway, as a collector of traces sees it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::convert::Infallible;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// Nothing that is waited for takes this long, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

type Spans = Arc<Mutex<Vec<Span>>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_is_one_trace_from_the_api_over_the_broker_to_its_delivery() {
    let (endpoint, spans) = collector().await;
    let (mut gateway, address) = gateway(&endpoint).await;
    let (mut subscriber, _) =
        tokio_tungstenite::connect_async(format!("ws://{address}/raw/chat:hello")).await.unwrap();

    // A subscriber hears what comes after its subscription, which nothing announces on this endpoint: publish until
    // it hears something.
    let heard = async {
        loop {
            publish(&address).await;
            if let Ok(Some(message)) =
                tokio::time::timeout(Duration::from_millis(100), subscriber.next()).await
            {
                return message.unwrap();
            }
        }
    };
    let heard = tokio::time::timeout(PATIENCE, heard).await.unwrap();
    assert_eq!(heard.to_text().unwrap(), "{\"price\":1}");

    // The last spans are sent before the program ends.
    kill_process(Pid::from_raw(gateway.id().unwrap() as i32).unwrap(), Signal::TERM).unwrap();
    let ended = tokio::time::timeout(PATIENCE, gateway.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");

    let spans = spans.lock();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let traced: Vec<&Span> = spans.iter().filter(|span| hex(&span.trace_id) == TRACE).collect();
    let delivered = traced.iter().rfind(|span| span.name == "deliver").expect("a delivery was traced");
    let parent = |child: &Span| traced.iter().find(|span| span.span_id == child.parent_span_id).copied();
    let brokered = parent(delivered).expect("the delivery has a parent");
    assert_eq!(brokered.name, "publish");
    let asked = parent(brokered).expect("the broker was asked by someone");
    assert_eq!(asked.name, "api");
    assert_eq!(hex(&asked.parent_span_id), "b7ad6b7169203331", "the caller's own span");
}

/// The program, with the demo's channels and every trace sent to `endpoint`, and where it serves clients.
async fn gateway(endpoint: &str) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0"])
        .env("TIDEGATE_DEMO__FEED", "false")
        .env("TIDEGATE_TELEMETRY__LOG_FORMAT", "json")
        .env("TIDEGATE_TELEMETRY__OTLP_ENDPOINT", endpoint)
        .env("TIDEGATE_TELEMETRY__TRACE_RATIO", "0")
        .env("TIDEGATE_DRAIN__NOTICE_MS", "0")
        .env("TIDEGATE_DRAIN__GRACE_MS", "10")
        .env("TIDEGATE_DRAIN__LINGER_MS", "100")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let serving = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "serving" {
                return line["client_address"].as_str().unwrap().to_owned();
            }
        }
        panic!("the gateway ended before it served");
    };
    let address = tokio::time::timeout(PATIENCE, serving).await.unwrap();
    // Whoever logs must not be held up by a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, address)
}

async fn publish(address: &str) {
    let body = r#"{"channel":"chat:hello","data":{"price":1}}"#;
    let request = format!(
        "POST /api/publish HTTP/1.1\r\nhost: {address}\r\nx-api-key: demo\r\nconnection: close\r\n\
         traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Takes traces at the address it answers.
async fn collector() -> (String, Spans) {
    let spans = Spans::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let kept = spans.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = kept.clone();
            let service = service_fn(move |request| take(kept.clone(), request));
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    (endpoint, spans)
}

async fn take(kept: Spans, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let sent = ExportTraceServiceRequest::decode(body).unwrap();
    let scopes = sent.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    kept.lock().extend(scopes.flat_map(|scope| scope.spans));
    Ok(Response::new(Full::default()))
}
