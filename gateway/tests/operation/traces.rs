//! Tests the trace of a publication through a running gateway, as a collector receives it.

use std::convert::Infallible;
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
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::program::{PATIENCE, program};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

type Spans = Arc<Mutex<Vec<Span>>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_is_one_trace_from_the_api_over_the_broker_to_its_delivery() {
    let (endpoint, spans) = collector().await;
    let gateway = program()
        .env("TIDEGATE_TELEMETRY__OTLP_ENDPOINT", &endpoint)
        .env("TIDEGATE_TELEMETRY__TRACE_RATIO", "0")
        .serve()
        .await;
    let address = gateway.address.clone();
    let (mut subscriber, _) =
        tokio_tungstenite::connect_async(format!("ws://{address}/raw/chat:hello")).await.unwrap();

    // This endpoint does not announce when the client is subscribed: publish until it receives something.
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
    assert!(gateway.terminate().await.success());

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

/// Starts a collector of traces, and returns its address and the spans that it receives.
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
