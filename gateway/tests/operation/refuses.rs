//! Tests that a refusal tells the operator the reason: in the log, and with the demo also in the response to the client.

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::program::{PATIENCE, Serving, program};

type Client = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

async fn open(gateway: &Serving, header: &'static str, value: &str) -> Result<Client, Error> {
    let mut request = format!("ws://{}/raw/chat:hello", gateway.address).into_client_request().unwrap();
    request.headers_mut().insert(header, value.parse().unwrap());
    connect_async(request).await.map(|(client, _)| client)
}

/// Waits for the close frame, and returns its code and reason.
async fn closed(client: &mut Client) -> (u16, String) {
    let close = async {
        loop {
            match client.next().await.unwrap().unwrap() {
                Message::Close(Some(close)) => return (close.code.into(), close.reason.to_string()),
                Message::Close(None) => panic!("closed without a reason"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, close).await.unwrap()
}

#[tokio::test]
async fn a_page_that_may_not_connect_is_named_in_the_log_and_in_the_answer() {
    let gateway = program().serve().await;
    let refused = match open(&gateway, "origin", "https://app.example").await {
        Err(Error::Http(response)) => response,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refused.status(), 403);
    let said = String::from_utf8(refused.into_body().unwrap()).unwrap();
    let logged = gateway.logs("a request was refused").await;
    assert_eq!(logged["level"], "INFO");
    for told in [said.trim_end(), logged["why"].as_str().unwrap()] {
        assert!(told.contains("https://app.example") && told.contains("http.allowed_origins"), "{told}");
    }
    gateway.terminate().await;
}

#[tokio::test]
async fn pages_of_this_machine_connect_to_the_demo_whatever_their_port() {
    let gateway = program().serve().await;
    for page in ["http://localhost:3000", "http://127.0.0.1:5173", "http://[::1]:8080", "https://localhost"] {
        open(&gateway, "origin", page).await.unwrap();
    }
    gateway.terminate().await;
}

#[tokio::test]
async fn why_a_client_is_refused_is_logged_and_told_to_it_in_the_demo_alone() {
    for (explains, expected) in [("true", "invalid token: no key is configured"), ("false", "invalid token")]
    {
        let gateway = program().env("TIDEGATE_AUTH__EXPLAIN_REFUSALS", explains).serve().await;
        let mut client = open(&gateway, "authorization", "Bearer not.a.token").await.unwrap();
        let (code, reason) = closed(&mut client).await;
        assert_eq!(code, 3500);
        assert!(reason.starts_with(expected) && (explains == "true" || reason == expected), "{reason}");
        let logged = gateway.logs("a token was refused").await;
        assert_eq!(logged["level"], "INFO");
        assert!(logged["reason"].as_str().unwrap().contains("auth.hmac_secret"), "{logged}");
        gateway.terminate().await;
    }
    let gateway = program().serve().await;
    let unknown = format!("ws://{}/raw/nowhere:hello", gateway.address);
    let (code, reason) = closed(&mut connect_async(unknown).await.unwrap().0).await;
    assert_eq!((code, &*reason), (3501, "bad request: unknown channel"));
    let logged = gateway.logs("a client was refused").await;
    assert_eq!((logged["level"].as_str(), logged["reason"].as_str()), (Some("INFO"), Some(&*reason)));
    gateway.terminate().await;

    let closed_to_strangers = program().env("TIDEGATE_AUTH__ALLOW_ANONYMOUS", "false").serve().await;
    let mut client = open(&closed_to_strangers, "x-nothing", "-").await.unwrap();
    let (code, reason) = closed(&mut client).await;
    assert_eq!(code, 3501);
    assert!(reason.contains("auth.allow_anonymous"), "{reason}");
    closed_to_strangers.terminate().await;
}
