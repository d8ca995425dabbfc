//! A stand-in for an application's server: records the requests, and answers as the test says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct RecordedRequest {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl RecordedRequest {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Returns the response to a request. `None`: it never answers.
pub(super) type Answers = dyn Fn(&RecordedRequest) -> Option<Response<Full<Bytes>>> + Send + Sync;

#[derive(Clone)]
pub(super) struct Application {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
    connections: Arc<AtomicUsize>,
    answers: Arc<Answers>,
}

impl Application {
    pub(super) async fn start(
        answers: impl Fn(&RecordedRequest) -> Option<Response<Full<Bytes>>> + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(answers, None).await
    }

    pub(super) async fn start_with(
        answers: impl Fn(&RecordedRequest) -> Option<Response<Full<Bytes>>> + Send + Sync + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            connections: Arc::default(),
            answers: Arc::new(answers),
        };
        let accepting = application.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.connections.fetch_add(1, Ordering::Relaxed);
                let (serving, tls) = (accepting.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serving.serve(stream).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serving.serve(stream).await,
                            Err(error) => tracing::debug!(%error, "no TLS"),
                        },
                    }
                });
            }
        });
        application
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) {
        let service = service_fn(|request: Request<Incoming>| self.answer(request));
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let recorded = RecordedRequest {
            path: head.uri.path().to_owned(),
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        };
        self.requests.lock().push(recorded.clone());
        match (self.answers)(&recorded) {
            Some(answer) => Ok(answer),
            None => std::future::pending().await,
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.lock().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

pub(super) fn json(body: &str) -> Option<Response<Full<Bytes>>> {
    Some(Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes()))))
}

pub(super) fn status(status: u16) -> Option<Response<Full<Bytes>>> {
    Some(Response::builder().status(status).body(Full::default()).unwrap())
}
