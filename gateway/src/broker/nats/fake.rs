//! A server that answers as a test tells it to, for answers that a real server gives at moments that nobody can choose.

use std::net::Ipv4Addr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// An answer to a request.
pub(crate) enum FakeReply {
    /// A message under this subject, with the subject of its acknowledgement.
    Message(&'static str, String),
    /// An answer without a body: a status and its description.
    Status(&'static str),
    /// An answer of the API.
    Answer(String),
    /// A message that is read directly, past the API: its subject and sequence.
    Stored(&'static str, u64),
}

/// Starts a server. Returns its URL, and a handle that ends the server when it is dropped.
pub(super) async fn serve(
    says: impl Fn(&str) -> Vec<FakeReply> + Send + Sync + 'static,
) -> (String, AbortOnDropHandle<()>) {
    serve_as("2.11.0", says).await
}

/// Starts a server of this release.
pub(crate) async fn serve_as(
    version: &'static str,
    says: impl Fn(&str) -> Vec<FakeReply> + Send + Sync + 'static,
) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let url = format!("nats://{}", listener.local_addr().expect("its address"));
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        let info = format!(
            "INFO {{\"server_id\":\"f\",\"version\":\"{version}\",\"headers\":true,\"max_payload\":1048576}}\r\n"
        );
        write.write_all(info.as_bytes()).await.expect("it is sent");
        let mut subscribed: Vec<(String, String)> = Vec::new();
        let mut line = String::new();
        while read.read_line(&mut line).await.is_ok_and(|length| length > 0) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let mut answer = String::new();
            match words.as_slice() {
                ["PING"] => answer.push_str("PONG\r\n"),
                ["SUB", subject, .., sid] => {
                    subscribed.push((subject.trim_end_matches('*').to_owned(), (*sid).to_owned()));
                }
                ["PUB", subject, rest @ .., length] => {
                    let length: usize = length.parse().expect("a length");
                    let mut body = vec![0; length + 2];
                    read.read_exact(&mut body).await.expect("a body");
                    let inbox = rest.first().copied().unwrap_or_default();
                    let sid = subscribed.iter().find(|(subject, _)| inbox.starts_with(&**subject));
                    let sid = sid.map_or("0", |(_, sid)| sid);
                    for reply in says(subject) {
                        answer.push_str(&written(&reply, inbox, sid));
                    }
                }
                _ => {}
            }
            write.write_all(answer.as_bytes()).await.expect("it is sent");
            line.clear();
        }
    });
    (url, AbortOnDropHandle::new(serving))
}

fn written(reply: &FakeReply, inbox: &str, sid: &str) -> String {
    match reply {
        FakeReply::Message(subject, acknowledged_at) => {
            format!("MSG {subject} {sid} {acknowledged_at} 1\r\nx\r\n")
        }
        FakeReply::Status(status) => {
            let head = format!("NATS/1.0 {status}\r\n\r\n");
            format!("HMSG {inbox} {sid} {length} {length}\r\n{head}\r\n", length = head.len())
        }
        FakeReply::Stored(subject, sequence) => {
            let head = format!(
                "NATS/1.0\r\nNats-Subject: {subject}\r\nNats-Sequence: {sequence}\r\nNats-Time-Stamp: 2026-11-30T12:00:00Z\r\n\r\n"
            );
            format!("HMSG {inbox} {sid} {} {}\r\n{head}x\r\n", head.len(), head.len() + 1)
        }
        FakeReply::Answer(text) => format!("MSG {inbox} {sid} {}\r\n{text}\r\n", text.len()),
    }
}
