//! Tests `tidegate token`, and `tidegate token verify` with the tokens it printed.

use std::process::Output;
use std::time::Duration;

use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::program::{PATIENCE, Program, program};

const SECRET: &str = "a secret of the tests, thirty-two bytes or more";

fn gateway() -> Program {
    program().env("TIDEGATE_AUTH__HMAC_SECRET", SECRET)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn token(arguments: &[&str]) -> String {
    let ended = gateway().run(&[&["token"], arguments].concat()).await;
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    text(&ended.stdout).trim().to_owned()
}

async fn verified(program: Program, arguments: &[&str]) -> Output {
    program.run(&[&["token", "verify"], arguments].concat()).await
}

#[tokio::test]
async fn a_token_that_is_in_order_is_described() {
    let arguments = [
        "--user",
        "alice",
        "--ttl",
        "12h",
        "--info",
        r#"{"name":"Alice"}"#,
        "--channels",
        "news,chat:1",
        "--meta",
        r#"{"role":"editor"}"#,
        "--caps",
        r#"[{"channels":["chat:*"],"match":"wildcard","allow":["sub","pub"]}]"#,
    ];
    let ended = verified(gateway(), &[&token(&arguments).await]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    let output = text(&ended.stdout);
    for line in [
        "accepted: a connection token",
        "user       alice",
        "key        auth.hmac_secret (HS256)",
        "in 11h 59m",
        r#"info       {"name":"Alice"}"#,
        "subscribes chat:1",
        "subscribes news",
        r#"meta       {"role":"editor"}"#,
        "may        subscribe, publish in chat:* (wildcard)",
    ] {
        assert!(
            output.contains(line) || line.starts_with("in ") && output.contains("in 12h 0m"),
            "{line} is not in:\n{output}"
        );
    }
    let opens =
        token(&["--user", "alice", "--channel", "$news", "--ttl", "forever", "--allow", "pub,hst"]).await;
    let ended = verified(gateway(), &[&opens, "--channel", "$news"]).await;
    let output = text(&ended.stdout);
    assert!(output.starts_with("accepted: a subscription token\n"), "{output}");
    assert!(
        output.contains("ends       never") && output.contains("may        publish, read history"),
        "{output}"
    );
}

#[tokio::test]
async fn a_token_that_is_not_in_order_is_refused_with_the_reason() {
    let (good, channel) = (token(&["--user", "alice"]).await, token(&["--channel", "$news"]).await);
    let expired = token(&["--ttl", "0s"]).await;
    let ended_already = token(&["--expire-at", "1000000000"]).await;
    let strict = || gateway().env("TIDEGATE_AUTH__AUDIENCE", "somebody else");
    let other = || program().env("TIDEGATE_AUTH__HMAC_SECRET", "another secret, thirty-two bytes or more");
    for (program, arguments, reason) in [
        (gateway(), vec!["x"], "it is not a JWT"),
        (gateway(), vec![&expired], "it has expired (exp): at 2"),
        (
            gateway(),
            vec![&ended_already],
            "the connection or subscription that it grants has ended (expire_at): at 2001-09-09T01:46:40Z",
        ),
        (gateway(), vec![&channel], "it is a subscription token"),
        (gateway(), vec![&good, "--channel", "$news"], "it names no channel"),
        (gateway(), vec![&channel, "--channel", "$other"], "it is for channel \"$news\", not $other"),
        (strict(), vec![&good], "its audience does not match"),
        (other(), vec![&good], "its signature was made with another key"),
        (program(), vec![&good], "no key is configured"),
    ] {
        let ended = verified(program, &arguments).await;
        let output = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {output}");
        assert!(output.starts_with("refused: ") && output.contains(reason), "{reason} is not in: {output}");
        assert!(ended.stdout.is_empty());
    }
    let mistaken = gateway().env("TIDEGATE_AUTH__RSA_PUBLIC_KEY_FILE", "/nowhere");
    let ended = verified(mistaken, &[&good]).await;
    assert!(!ended.status.success() && ended.status.code() != Some(1), "{}", text(&ended.stderr));
}

#[tokio::test]
async fn who_makes_a_token_that_is_refused_is_told_why() {
    let strict = || gateway().env("TIDEGATE_AUTH__AUDIENCE_PATTERN", "app-*");
    for (program, arguments, reason) in [
        (gateway(), &["--ttl", "0s"][..], Some("it has expired (exp)")),
        (gateway(), &["--channel", "$news", "--allow", "pub,dance"], Some("it allows \"dance\"")),
        (gateway(), &["--channel", "no news"], None),
        (strict(), &["--user", "alice"], Some("its audience does not match")),
        (strict(), &["--user", "alice", "--audience", "app-1"], None),
    ] {
        let ended = program.run(&[&["token"], arguments].concat()).await;
        let output = text(&ended.stderr);
        assert!(ended.status.success() && !ended.stdout.is_empty(), "{arguments:?}: {output}");
        match reason {
            Some(reason) => {
                assert!(output.contains("refuses this token: ") && output.contains(reason), "{output}")
            }
            None => assert_eq!(output, "", "{arguments:?}"),
        }
    }
}

#[tokio::test]
async fn a_token_may_be_signed_with_a_private_key() {
    let directory = tempfile::tempdir().unwrap();
    let (private, public) = (directory.path().join("private.pem"), directory.path().join("public.pem"));
    let (private, public) = (private.to_str().unwrap(), public.to_str().unwrap());
    for (kind, setting, key) in [
        (&PKCS_ED25519, "ED25519_PUBLIC_KEY_FILE", "auth.ed25519_public_key (EdDSA)"),
        (&PKCS_ECDSA_P384_SHA384, "ECDSA_PUBLIC_KEY_FILE", "auth.ecdsa_public_key (ES384)"),
    ] {
        let pair = KeyPair::generate_for(kind).unwrap();
        std::fs::write(private, pair.serialize_pem()).unwrap();
        std::fs::write(public, pair.public_key_pem()).unwrap();
        let made = token(&["--user", "alice", "--private-key", private]).await;
        let keeper = || program().env(&format!("TIDEGATE_AUTH__{setting}"), public);
        let ended = verified(keeper(), &[&made]).await;
        assert!(text(&ended.stdout).contains(key), "{}{}", text(&ended.stdout), text(&ended.stderr));
        let ended = verified(gateway(), &[&made]).await;
        assert!(text(&ended.stderr).contains("for which auth has no key"), "{}", text(&ended.stderr));
        let misfit = gateway().run(&["token", "--private-key", private, "--algorithm", "RS256"]).await;
        assert!(text(&misfit.stderr).contains("RS256 does not fit this key"), "{}", text(&misfit.stderr));
    }
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_leave_the_question_open() {
    let directory = tempfile::tempdir().unwrap();
    let private = directory.path().join("private.pem");
    std::fs::write(&private, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let made = token(&["--private-key", private.to_str().unwrap(), "--kid", "a"]).await;
    // Nothing listens at this port: it was bound and released at once.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = program()
        .env("TIDEGATE_AUTH__JWKS_URL", format!("http://{free}/keys"))
        .env("TIDEGATE_AUTH__JWKS_ALLOW_HTTP", "true");
    let ended = verified(away, &[&made]).await;
    assert_eq!(ended.status.code(), Some(2), "{}", text(&ended.stderr));
    assert!(text(&ended.stderr).starts_with("cannot be verified: its key cannot be looked up"));
}

#[tokio::test]
async fn a_node_that_has_had_no_key_for_any_token_is_not_ready() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = program()
        .env("TIDEGATE_AUTH__ALLOW_ANONYMOUS", "false")
        .env("TIDEGATE_AUTH__JWKS_URL", format!("http://{free}/keys"))
        .env("TIDEGATE_AUTH__JWKS_ALLOW_HTTP", "true")
        .serve()
        .await;
    gateway.logs("token keys cannot be fetched; the keys fetched before stay in use").await;
    let is_told = async {
        loop {
            let mut stream = TcpStream::connect(&gateway.internal).await.unwrap();
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            if answer.starts_with("HTTP/1.1 503") && answer.contains("token keys are missing: auth.jwks_url")
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_told).await.unwrap();
    gateway.terminate().await;
}
