//! A stand-in for an application's server: it records the requests, and answers as a test says.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::gateway::PATIENCE;

/// A request: its path, the headers that a test looks at, and its body.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    pub path: String,
    pub headers: hyper::HeaderMap,
    pub body: Bytes,
}

impl RecordedRequest {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

type Answers = dyn Fn(&RecordedRequest) -> Option<(u16, String)> + Send + Sync;

#[derive(Clone)]
pub struct Application {
    pub url: String,
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
    answers: Arc<Answers>,
}

impl Application {
    /// Answers each request with a status and a body, or never.
    pub async fn start(
        answers: impl Fn(&RecordedRequest) -> Option<(u16, String)> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let application = Self { url, requests: Arc::default(), answers: Arc::new(answers) };
        let serving = application.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                let service = service_fn(move |request| serving.clone().answer(request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        application
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let request = RecordedRequest { path: head.uri.path().to_owned(), headers: head.headers, body };
        self.requests.lock().push(request.clone());
        let Some((status, body)) = (self.answers)(&request) else { std::future::pending().await };
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = status.try_into().expect("a status");
        Ok(response)
    }

    /// Returns the requests to this path.
    pub fn requests(&self, path: &str) -> Vec<RecordedRequest> {
        self.requests.lock().iter().filter(|request| request.path == path).cloned().collect()
    }

    /// Returns all events that were sent, once there are this many.
    pub async fn events(&self, count: usize) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let batches = self.requests("/events").into_iter().map(|request| request.json());
            let events: Vec<Value> =
                batches.flat_map(|batch| batch["events"].as_array().cloned().unwrap_or_default()).collect();
            if events.len() >= count {
                return events;
            }
            assert!(began.elapsed() < PATIENCE, "only {events:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
