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
    ) -> Result<Response<Incoming>, Failure> {
        let request = request.body(Full::new(body.into()))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Returns the status and the body of the answer, of at most 4 MiB.
    pub async fn ask(
        &mut self,
        request: Builder,
        body: impl Into<Bytes>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let response = self.send(request, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Failure(format!("unreadable answer: {error}")))?;
        Ok((status, body.to_bytes()))
    }
}
