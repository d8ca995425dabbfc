//! HTTP/1.1 requests on a connection that is kept alive.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::plan::Target;
use crate::tls::{Stream, secure};

const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Closed when it is dropped.
#[derive(Debug)]
pub struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
    driving: AbortHandle,
}

impl HttpConnection {
    pub async fn open(target: &Target) -> Result<Self, String> {
        let opened = async {
            let socket = TcpStream::connect(target.address).await?;
            socket.set_nodelay(true)?;
            secure(socket, target.tls.as_ref()).await
        };
        let stream = opened.await.map_err(|error| error.to_string())?;
        Self::on(stream).await.map_err(|error| describe(&error))
    }

    pub async fn on(stream: Stream) -> Result<Self, hyper::Error> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(async move {
            // Its end is told to whoever sends next.
            let _ = connection.await;
        });
        Ok(Self { sender, driving: driving.abort_handle() })
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// The answer, whose body may have no end.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Status and body of the answer, of at most 4 MiB.
    pub async fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
        let response = self.send(request).await.map_err(|error| describe(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| format!("unreadable answer: {error}"))?.to_bytes()))
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

fn describe(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        "the connection was lost".to_owned()
    } else {
        error.to_string()
    }
}
