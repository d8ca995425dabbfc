//! HTTP/1.1 requests on a connection that is kept alive.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::http::request::Builder;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use crate::failure::Failure;
use crate::tls::Stream;

/// Why a request has no answer.
#[derive(Debug)]
pub struct RequestFailure {
    pub failure: Failure,
    /// Whether no byte of the request was sent, so that another connection may send it.
    pub unsent: bool,
}

impl From<Failure> for RequestFailure {
    fn from(failure: Failure) -> Self {
        Self { failure, unsent: false }
    }
}

impl From<RequestFailure> for Failure {
    fn from(request: RequestFailure) -> Self {
        request.failure
    }
}

const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A connection that is closed when it is dropped.
#[derive(Debug)]
pub struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
    _driving: AbortOnDropHandle<hyper::Result<()>>,
}

impl HttpConnection {
    pub async fn on(stream: Stream) -> Result<Self, Failure> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // If it ends, the next request fails.
        let driving = tokio::spawn(connection.with_upgrades());
        Ok(Self { sender, _driving: AbortOnDropHandle::new(driving) })
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Returns the answer, whose body may have no end.
    pub async fn send(
        &mut self,
        request: Builder,
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, RequestFailure> {
        let request = request.body(Full::new(body.into())).map_err(Failure::from)?;
        if let Err(error) = self.sender.ready().await {
            return Err(RequestFailure { failure: error.into(), unsent: true });
        }
        self.sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message().is_some();
            RequestFailure { failure: error.into_error().into(), unsent }
        })
    }

    /// Returns the status and the body of the answer, of at most 4 MiB.
    pub async fn ask(
        &mut self,
        request: Builder,
        body: impl Into<Bytes>,
    ) -> Result<(StatusCode, Bytes), RequestFailure> {
        let response = self.send(request, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Failure(format!("unreadable answer: {error}")))?;
        Ok((status, body.to_bytes()))
    }
}
