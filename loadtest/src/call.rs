//! One HTTP request on a connection of its own, for what is asked seldom.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The body of the answer, if it is one of success.
pub async fn call(address: SocketAddr, method: Method, path: &str, body: Bytes) -> Result<Bytes, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let socket = TcpStream::connect(address).await.map_err(|error| words(&error))?;
    let (mut sender, connection) = handshake(TokioIo::new(socket)).await.map_err(|error| words(&error))?;
    let driven = tokio::spawn(async move {
        // Its end shows in the answer.
        let _ = connection.await;
    });
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| words(&error))?;
    let response = sender.send_request(request).await.map_err(|error| words(&error))?;
    if response.status() != StatusCode::OK {
        return Err(format!("HTTP {}", response.status().as_u16()));
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let bytes = body.collect().await.map_err(|error| words(&error))?.to_bytes();
    driven.abort();
    Ok(bytes)
}
