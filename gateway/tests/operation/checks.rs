//! Tests `tidegate check`, and how `serve` reacts to the same mistakes.

use crate::program::program;

const MISTAKEN: &str = r#"
[server]
listn = "127.0.0.1:1"

[api]
listen = ":8002"

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
        let program =
            program().env("TIDEGATE_WORKERS__COUNT", "many").env("TIDEGATE_API_LISTEN", "127.0.0.1:2");
        let ended = program.run(&[verb, "--config", file.to_str().unwrap()]).await;
        assert_eq!(ended.status.code(), Some(64));
        assert!(ended.stdout.is_empty());
        let told = String::from_utf8(ended.stderr).unwrap();
        for mistake in [
            "5 mistakes in the configuration:",
            "api.listen: is \":8002\", which has no address: use 127.0.0.1:8002 to accept connections from this machine only",
            "note: TIDEGATE_API_LISTEN sets nothing: did you mean TIDEGATE_API__LISTEN?",
            "server.listn: unknown key: did you mean `listen`? (from ",
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
async fn a_check_ends_with_a_line_that_all_is_well_and_can_show_only_what_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    // A file with a byte order mark and CRLF line ends.
    std::fs::write(
        &file,
        "\u{feff}[server]\r\nbacklog = \" 7 \"\r\n[websocket]\r\ncompression = \"False\"\r\n",
    )
    .unwrap();
    let ended = program()
        .env("TIDEGATE_PROXY_PROTOCOL__ENABLED", " True\n")
        .env("TIDEGATE_PROXY_PROTOCOL__TRUSTED", "\n10.0.0.0/8 ,\r\n")
        .env("TIDEGATE_SERVER_LISTEN", "127.0.0.1:1")
        .env("TIDEGATE_PORT", "tcp://10.0.0.1:8000")
        .run(&["check", "--changed", "--demo", "--listen", "0.0.0.0:9", "--config", file.to_str().unwrap()])
        .await;
    let printed = String::from_utf8(ended.stdout).unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let last = printed.lines().last().unwrap();
    assert!(
        last.starts_with("# the configuration is valid; ") && last.contains(" keys differ from the defaults"),
        "{printed}"
    );
    for note in [
        "# note: TIDEGATE_SERVER_LISTEN sets nothing: did you mean TIDEGATE_SERVER__LISTEN?",
        "# note: TIDEGATE_PORT set nothing: ",
        "# note: --demo on 0.0.0.0:9: ",
    ] {
        assert!(printed.contains(note), "{note} is not in:\n{printed}");
    }
    let printed: toml::Table = printed.parse().unwrap();
    assert_eq!(printed["server"].as_table().unwrap().len(), 2);
    assert_eq!(printed["server"]["backlog"].as_integer(), Some(7));
    assert_eq!(printed["websocket"]["compression"].as_bool(), Some(false));
    assert_eq!(printed["proxy_protocol"]["enabled"].as_bool(), Some(true));
    assert_eq!(printed["proxy_protocol"]["trusted"].as_array().unwrap().len(), 1);
    assert!(!printed.contains_key("workers"));
}

#[tokio::test]
async fn an_address_as_people_write_it_is_taken_or_shown_right() {
    let listening = program().run(&["check", "--changed", "--listen", "localhost:9"]).await;
    assert!(String::from_utf8(listening.stdout).unwrap().contains("listen = \"127.0.0.1:9\""));
    let flag = program().run(&["check", "--listen", ":8000"]).await;
    let variable = program().env("TIDEGATE_INTERNAL__LISTEN", ":8001").run(&["check"]).await;
    for (ended, port, origin) in [(flag, 8000, "--listen"), (variable, 8001, "TIDEGATE_INTERNAL__LISTEN")] {
        let told = String::from_utf8(ended.stderr).unwrap();
        assert!(!ended.status.success());
        assert!(told.contains(&format!("127.0.0.1:{port}")) && told.contains(origin), "{told}");
    }
    let taken =
        program().run(&["check", "--listen", "127.0.0.1:9", "--internal-listen", "127.0.0.1:9"]).await;
    let told = String::from_utf8(taken.stderr).unwrap();
    assert!(told.contains("internal.listen") && told.contains("(from the flag --internal-listen)"), "{told}");
}

#[tokio::test]
async fn a_secret_that_can_be_guessed_is_refused_wherever_it_comes_from() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, "\u{feff}too short\r\n").unwrap();
    let name = "TIDEGATE_AUTH__HMAC_SECRET";
    for (name, value) in [(name.to_owned(), "too short"), (format!("{name}_FILE"), file.to_str().unwrap())] {
        let ended = program().env(&name, value).run(&["check"]).await;
        let told = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(64));
        assert!(told.contains("is 9 bytes long") && told.contains(&format!("(from {name})")), "{told}");
        let allowed = program().env(&name, value).env("TIDEGATE_AUTH__ALLOW_SHORT_SECRETS", "1");
        assert!(allowed.run(&["check"]).await.status.success());
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_and_the_program_ends() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (is_free, is_taken, setting) in [
        ("--internal-listen", "--listen", "server.listen, or --listen"),
        ("--listen", "--internal-listen", "internal.listen, or --internal-listen"),
    ] {
        let ended = program().run(&["serve", is_taken, &address, is_free, "127.0.0.1:0"]).await;
        assert_eq!(ended.status.code(), Some(1));
        let told = String::from_utf8(ended.stderr).unwrap();
        assert!(told.contains(&format!("cannot listen on {address} ({setting}): ")), "{told}");
    }
}
