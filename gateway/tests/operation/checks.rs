//! `tidegate check`, and what `serve` does with the same mistakes.

use crate::program::program;

const MISTAKEN: &str = r#"
[server]
listn = "127.0.0.1:1"

[namespaces.prices]
history_size = 10

[tls]
certificate_file = "/nowhere/certificate.pem"
key_file = "/nowhere/key.pem"
"#;

#[tokio::test]
async fn every_mistake_is_told_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    std::fs::write(&file, MISTAKEN).unwrap();
    for verb in ["check", "serve"] {
        let program = program().env("TIDEGATE_WORKERS__COUNT", "many");
        let ended = program.run(&[verb, "--config", file.to_str().unwrap()]).await;
        assert_eq!(ended.status.code(), Some(64));
        assert!(ended.stdout.is_empty());
        let told = String::from_utf8(ended.stderr).unwrap();
        for mistake in [
            "4 mistakes in the configuration:",
            "server.listn: unknown key, did you mean `listen`? (from ",
            "namespaces.prices.history_ttl_s: must be set when history_size is",
            "tls.certificate_file: /nowhere/certificate.pem cannot be read",
            "workers.count: is the text \"many\", must be a whole number of at least 0 (from TIDEGATE_WORKERS__COUNT)",
        ] {
            assert!(told.contains(mistake), "{mistake} is not in:\n{told}");
        }
    }
}

#[tokio::test]
async fn what_is_set_is_printed_without_secrets_and_can_be_read_again() {
    let ended = program()
        .env("TIDEGATE_AUTH__HMAC_SECRET", "hunter2-hunter2-hunter2-hunter2-hunter2")
        .env("TIDEGATE_REDIS__URL", "redis://:hunter2@127.0.0.1:6379")
        .env("TIDEGATE_API__KEYS", "hunter2,another-hunter2")
        .env("TIDEGATE_NAMESPACES__CHAT__ALLOW_PUBLISH", "true")
        .run(&["check", "--listen", "127.0.0.1:9"])
        .await;
    assert!(ended.status.success());
    let printed = String::from_utf8(ended.stdout).unwrap();
    assert!(!printed.contains("hunter2"), "{printed}");
    let printed: toml::Table = printed.parse().unwrap();
    assert_eq!(printed["server"]["listen"].as_str(), Some("127.0.0.1:9"));
    assert_eq!(printed["namespaces"]["chat"]["allow_publish"].as_bool(), Some(true));
    assert_eq!(printed["auth"]["hmac_secret"].as_str(), Some("[redacted]"));
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_and_the_program_ends() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = program().run(&["serve", "--listen", &address, "--internal-listen", "127.0.0.1:0"]).await;
    assert_eq!(ended.status.code(), Some(1));
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(told.contains(&format!("cannot listen on {address}")), "{told}");
}
