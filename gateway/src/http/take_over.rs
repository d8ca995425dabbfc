//! Takes a connection away from hyper in the middle of a request, so that a worker writes the response.
//!
//! The handler of a request can ask for its connection. The task that drives the connection notices when nothing else can
//! proceed, takes the connection apart, and hands it over; the handler is dropped with it. If earlier responses are still
//! unwritten, they would be lost: then the request has to be answered as usual.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::http::HttpStream;
use crate::transport::IncomingSocket;

/// Receives a connection that was taken, and the bytes read from it behind the request.
type TakeOverFn = Box<dyn FnOnce(io::Result<(IncomingSocket, Bytes)>) + Send>;

/// Connects the handlers of a connection's requests with the task that drives it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TakeOver(Arc<TakeOverState>);

#[derive(Debug, Default)]
struct TakeOverState {
    request: Mutex<Option<TakeOverRequest>>,
    requested: Notify,
    /// Whether the socket has refused bytes that hyper still holds.
    unwritten: AtomicBool,
}

struct TakeOverRequest {
    receive: TakeOverFn,
    refused: oneshot::Sender<()>,
}

impl fmt::Debug for TakeOverRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TakeOverRequest")
    }
}

impl TakeOver {
    /// Asks for the connection. Returns only if it cannot be taken; otherwise `receive` gets it.
    pub(crate) async fn ask(
        &self,
        receive: impl FnOnce(io::Result<(IncomingSocket, Bytes)>) + Send + 'static,
    ) {
        let (refused, refusal) = oneshot::channel();
        *self.0.request.lock() = Some(TakeOverRequest { receive: Box::new(receive), refused });
        self.0.requested.notify_one();
        if refusal.await.is_err() {
            // The connection was taken, and this future is about to be dropped with the rest of it.
            std::future::pending::<()>().await;
        }
    }

    /// For the driver: waits until the connection has been asked for and can be taken. It must then be handed over, and
    /// driven no further.
    pub(crate) async fn granted(&self) {
        loop {
            self.0.requested.notified().await;
            if !self.0.unwritten.load(Ordering::Relaxed) {
                return;
            }
            if let Some(request) = self.0.request.lock().take() {
                // The handler may be gone.
                let _ = request.refused.send(());
            }
        }
    }

    /// For the driver: hands the connection over.
    pub(crate) fn hand_over(&self, stream: HttpStream, unread: Bytes) {
        if let Some(request) = self.0.request.lock().take() {
            (request.receive)(stream.into_socket().map(|socket| (socket, unread)));
        }
    }

    /// For the stream: records whether the socket has taken the last bytes.
    pub(super) fn note_written(&self, all: bool) {
        self.0.unwritten.store(!all, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Returns both ends of a connection.
    async fn connection() -> (HttpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (HttpStream::plain(listener.accept().await.unwrap().0, Bytes::new()), far)
    }

    /// Asks for the connection, and returns where the received bytes are stored.
    fn ask(take_over: &TakeOver) -> (impl Future<Output = ()>, Arc<Mutex<Option<Bytes>>>) {
        let received = Arc::new(Mutex::new(None));
        let (into, take_over) = (received.clone(), take_over.clone());
        let asking = async move {
            take_over.ask(move |connection| *into.lock() = connection.ok().map(|(_, unread)| unread)).await;
        };
        (asking, received)
    }

    #[tokio::test]
    async fn whoever_asks_gets_the_connection_and_what_was_read_behind_the_request() {
        let (stream, _far) = connection().await;
        let take_over = stream.take_over();
        assert!(take_over.granted().now_or_never().is_none(), "nobody has asked");
        let (asking, received) = ask(&take_over);
        tokio::pin!(asking);
        assert!(asking.as_mut().now_or_never().is_none());
        assert!(take_over.granted().now_or_never().is_some());
        take_over.hand_over(stream, Bytes::from_static(b"behind"));
        assert_eq!(received.lock().as_deref(), Some(&b"behind"[..]));
        assert!(asking.now_or_never().is_none(), "nothing goes on behind it");
    }

    #[tokio::test]
    async fn a_connection_with_unwritten_answers_is_not_given_away_until_they_are_written() {
        let (stream, _far) = connection().await;
        let take_over = stream.take_over();
        take_over.note_written(false);
        let (asking, received) = ask(&take_over);
        tokio::pin!(asking);
        assert!(asking.as_mut().now_or_never().is_none());
        assert!(take_over.granted().now_or_never().is_none());
        assert!(asking.now_or_never().is_some(), "it is told to answer as usual");
        assert!(received.lock().is_none());
        take_over.note_written(true);
        let (asking, received) = ask(&take_over);
        tokio::pin!(asking);
        assert!(asking.as_mut().now_or_never().is_none());
        assert!(take_over.granted().now_or_never().is_some());
        take_over.hand_over(stream, Bytes::new());
        assert!(received.lock().is_some());
    }
}
