//! Tests valid configurations, and the problems reported for others.

use super::*;
use crate::secret::{REDACTED, Secret};

fn load(toml: &str, environment: &[(&str, &str)]) -> Result<Config, Mistakes> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    std::fs::write(&file, toml).unwrap();
    let environment = environment.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
    Config::load(&Sources { file: Some(&file), environment, ..Sources::default() })
}

/// Returns the paths and problems of a configuration, one per line, without the file's directory.
fn mistakes(toml: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let mistakes = load(toml, environment).expect_err("there are mistakes").0;
    let line = |mistake: &Mistake| {
        let shown = mistake.to_string();
        match (shown.split_once(" (from /"), shown.rsplit_once('/')) {
            (Some((problem, _)), Some((_, file))) => format!("{problem} (from {file}"),
            _ => shown,
        }
    };
    mistakes.iter().map(line).collect()
}

#[test]
fn nothing_set_is_the_defaults_and_the_defaults_have_no_mistake() {
    assert_eq!(Config::load(&Sources::default()).unwrap(), Config::default());
}

#[test]
fn the_demo_has_no_mistake_and_shows_prices_to_anyone() {
    let demo = Config::demo();
    let prices = &demo.namespaces["prices"];
    assert!(prices.history_size > 0 && prices.presence && prices.allow_subscribe_anonymous);
}

#[test]
fn the_environment_goes_over_the_file_and_flags_over_both() {
    let environment = BTreeMap::from([
        ("TIDEGATE_SERVER__LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
        ("TIDEGATE_NAMESPACES__PRICES__HISTORY_SIZE".to_owned(), "7".to_owned()),
        ("TIDEGATE_NAMESPACES__PRICES__HISTORY_TTL_S".to_owned(), "60".to_owned()),
        ("TIDEGATE_HTTP__ALLOWED_ORIGINS".to_owned(), "https://a.example, , https://b.example".to_owned()),
        ("TIDEGATE_TELEMETRY__OTLP_ENDPOINT".to_owned(), String::new()),
        ("TIDEGATE_TELEMETRY__TRACE_RATIO".to_owned(), "0.5".to_owned()),
        ("TIDEGATE_WEBSOCKET__COMPRESSION".to_owned(), "off".to_owned()),
        ("TIDEGATE_PORT".to_owned(), "tcp://10.0.0.1:80".to_owned()),
    ]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    std::fs::write(&file, "[server]\nlisten = \"127.0.0.1:1\"\nbacklog = 9\n").unwrap();
    let flags = vec![("server.listen", "127.0.0.1:3".to_owned())];
    let config = Config::load(&Sources { file: Some(&file), environment, flags, demo: false }).unwrap();
    assert_eq!(config.server.listen.port(), 3);
    assert_eq!(config.server.backlog, 9);
    assert_eq!(config.namespaces["prices"].history_size, 7);
    assert_eq!(config.http.allowed_origins, ["https://a.example", "https://b.example"]);
    assert_eq!(config.telemetry.otlp_endpoint, None);
    assert!(!config.websocket.compression);
}

#[test]
fn every_mistake_is_told_at_once_with_its_path_and_source() {
    let toml = r#"
        colour = "blue"
        [server]
        listn = "127.0.0.1:1"
        backlog = "many"
        [websocket]
        compression_level = 12
        fragments_max = -1
        [telemetry]
        log_format = "jsno"
        [proxy_protocol]
        enabled = true
        trusted = ["10.0.0.0/8", "nowhere"]
        [namespaces.prices]
        history_size = 10
        force_recovry = true
        [tls]
        key_file = "key.pem"
    "#;
    let environment = [("TIDEGATE_WORKERS__COUNT", "two"), ("TIDEGATE_LIMTS__ADDRESSES_MAX", "3")];
    assert_eq!(
        mistakes(toml, &environment),
        [
            "colour: unknown key: must be one of node, server, internal, console, cluster, tls, proxy_protocol, limits, http, raw, sse, mercure, graphql, websocket, \
             session, auth, api, workers, channel_names, channels, namespaces, pusher, socketio, backend, shared_poll, broker, redis, nats, feeds, demo, balance, drain, telemetry (from gateway.toml:2)",
            "limts: unknown key: did you mean `limits`? (from TIDEGATE_LIMTS__ADDRESSES_MAX)",
            "namespaces.prices.force_recovry: unknown key: did you mean `force_recovery`? (from gateway.toml:16)",
            "namespaces.prices.history_ttl_s: must be set when history_size is",
            "proxy_protocol.trusted.1: invalid IP address syntax (from gateway.toml:13)",
            "server.backlog: is the text \"many\", must be a whole number from 0 to 4294967295 (from gateway.toml:5)",
            "server.listn: unknown key: did you mean `listen`? (from gateway.toml:4)",
            "telemetry.log_format: unknown value \"jsno\": did you mean `json`? (from gateway.toml:10)",
            "tls.certificate_file: must be set when key_file is",
            "websocket.compression_level: is 12, must be from 1 to 9 (from gateway.toml:7)",
            "websocket.fragments_max: is -1, must be a whole number of at least 0 (from gateway.toml:8)",
            "workers.count: is the text \"two\", must be a whole number of at least 0 (from TIDEGATE_WORKERS__COUNT)",
        ]
    );
}

#[test]
fn a_message_limit_that_other_limits_cannot_hold_is_a_mistake() {
    assert_eq!(
        mistakes("[websocket]\nmessage_bytes_max = 20_000_000", &[]),
        [
            "session.bytes_burst: must be at least websocket.message_bytes_max: longer messages could never be sent",
            "session.queued_bytes_max: must be at least twice websocket.message_bytes_max, so that the \
             longest message can be queued",
        ]
    );
    let room = "[websocket]\nmessage_bytes_max = 20_000_000\n\
                [session]\nqueued_bytes_max = 40_000_000\nbytes_per_second = 0";
    assert!(load(room, &[]).is_ok());
}

#[test]
fn sections_that_cannot_work_together_are_mistakes_of_the_one_that_asks_for_it() {
    let toml = r#"
        [server]
        listen = "127.0.0.1:8000"
        [api]
        listen = "127.0.0.1:8000"
        [limits]
        connections_per_user_max = 1
        [session]
        single_connection = true
        personal_channel = true
        personal_channel_namespace = "users"
        [namespaces.users]
        pattern = "/users/:id"
        [namespaces.state]
        subscription_type = "map"
        [raw.paths."/state"]
        channel = "state:all"
    "#;
    let told = mistakes(toml, &[]);
    let keys = [
        "api.listen: must not be the address of server.listen (from gateway.toml:5)",
        "raw.paths./state.channel: must name a channel with subscription_type = \"stream\" (from gateway.toml:17)",
        "session.personal_channel_namespace: must not name a namespace with a pattern",
        "session.single_connection: needs limits.connections_per_user_max of at least 2, or 0",
    ];
    assert_eq!(told.len(), keys.len(), "{told:#?}");
    assert!(told.iter().zip(keys).all(|(told, key)| told.starts_with(key)), "{told:#?}");
    let hook = "[backend.publish]\ntimeout_ms = 50\nretries = 1\n[namespaces.nn.map]\nordered = true";
    assert_eq!(
        mistakes(hook, &[("TIDEGATE_BACKEND__EVENTS__DEADLINE_S", "9")]),
        [
            "backend.events: needs a url: without one it has no effect \
             (from TIDEGATE_BACKEND__EVENTS__DEADLINE_S)",
            "backend.publish: needs a url: without one it has no effect (from gateway.toml:3)",
            "namespaces.nn.map: is only for subscription_type = \"map\", \"map_clients\" or \"map_users\" (from gateway.toml:5)",
        ]
    );
    let feeds = "[broker]\nkind = \"redis\"\n[redis]\nmode = \"shards\"\naddresses = [\"a:1\", \"b:1\"]\n\
                 [feeds.one]\nkind = \"redis_stream\"\n[feeds.one.redis_stream]\nstream = \"s\"\n\
                 [feeds.two]\nkind = \"postgres\"\n[feeds.two.postgres]\nurl = \"postgres://u@db/d?sslmode=disable\"\ntable = \"outbox\"";
    assert_eq!(
        mistakes(feeds, &[]),
        [
            "feeds.one.redis_stream.url: must be set with redis.mode = \"shards\": a stream is in a single Redis server"
        ]
    );
    let cluster = "[broker]\nkind = \"redis\"\n[redis]\nmode = \"cluster\"\naddresses = [\"a:1\"]\ndatabase = 2\n\
                   [socketio]\nenabled = true\n[socketio.namespaces.\"/\"]\n[socketio.emitters]\nenabled = true\n\
                   [feeds.one]\nkind = \"redis_stream\"\n[feeds.one.redis_stream]\nstream = \"s\"";
    assert_eq!(
        mistakes(cluster, &[]),
        [
            "feeds.one.redis_stream.url: must be set with redis.mode = \"cluster\": a stream is in a single Redis server",
            "redis.database: must be 0: a cluster has no other databases (from gateway.toml:6)",
            "socketio.emitters.url: must be set with redis.mode = \"cluster\": emitters publish in a single Redis server",
        ]
    );
    let state = "[session]\npersonal_channel = true\n[channels]\nsubscription_type = \"map\"";
    let told = mistakes(state, &[]);
    assert!(told[0].starts_with("session.personal_channel: needs channels with"), "{told:#?}");
}

#[test]
fn names_and_shapes_of_channels_that_cannot_be_told_apart_are_mistakes() {
    let toml = r##"
        [channel_names]
        user_boundary = "::"
        client_boundary = ""
        [channels]
        pattern = "/x"
        allow_client_channels = true
        [namespaces.a]
        [namespaces."two words"]
        [namespaces.users]
        pattern = "/users/:id"
        channel_regex = "[a-"
        [namespaces.people]
        pattern = "/users/:name"
        [namespaces.odd]
        pattern = "users/*"
    "##;
    let told = mistakes(toml, &[]);
    let keys: Vec<&str> = told.iter().filter_map(|told| Some(told.split_once(": ")?.0)).collect();
    assert_eq!(
        keys,
        [
            "channel_names.user_boundary",
            "channels.allow_client_channels",
            "channels.pattern",
            "namespaces.a",
            "namespaces.odd.pattern",
            "namespaces.two words",
            "namespaces.users.channel_regex",
            "namespaces.users.pattern",
        ],
        "{told:#?}"
    );
    assert!(told[4].contains("must begin with /"), "{told:#?}");
    assert!(told[6].contains("is not a regular expression"), "{told:#?}");
}

#[test]
fn a_mistake_of_a_whole_section_names_who_said_its_first_value_if_anybody_did() {
    let toml =
        "[namespaces.a]\npresence = true\n[namespaces.chat.map]\nmode = \"persistent\"\n[raw.paths.ws]\n";
    assert_eq!(
        mistakes(toml, &[("TIDEGATE_NAMESPACES__B__PRESENCE", "true")]),
        [
            "namespaces.a: is not a valid name of a namespace: use at least 2 and less than 255 letters, digits, - and _ \
             (from gateway.toml:2)",
            "namespaces.b: is not a valid name of a namespace: use at least 2 and less than 255 letters, digits, - and _ \
             (from TIDEGATE_NAMESPACES__B__PRESENCE)",
            "namespaces.chat.map: is only for subscription_type = \"map\", \"map_clients\" or \"map_users\" \
             (from gateway.toml:4)",
            "raw.paths.ws: must begin with /",
            "raw.paths.ws.channel: must be set, unless messages = \"hook\": there is no channel to publish to",
        ]
    );
}

#[test]
fn paths_of_bare_endpoints_are_keys_and_what_is_wrong_with_one_is_told_by_its_name() {
    let toml = r#"
        [raw.paths."/"]
        channel = "chat"
        [raw.paths."/ws"]
        channel = "nowhere:chat"
        [raw.paths."/v1.2/ws"]
        chanel = "chat"
        messages = "none"
        [raw.paths.ws]
        messages = "hook"
        [demo]
        page = true
    "#;
    let told = mistakes(toml, &[("TIDEGATE_RAW__PATHS__X__CHANNEL", "chat")]);
    let starts = [
        "raw.paths./: is a page of the demo",
        "raw.paths./v1.2/ws.chanel: unknown key: did you mean `channel`? (from gateway.toml:7)",
        "raw.paths./v1.2/ws.channel: must be set if messages = \"none\"",
        "raw.paths./ws.channel: names a channel of an unknown namespace: add the section to namespaces (from gateway.toml:5)",
        "raw.paths.ws: must begin with /",
        "raw.paths.ws.messages: needs backend.message.url (from gateway.toml:10)",
        "raw.paths.x: must begin with /",
    ];
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    for (told, start) in told.iter().zip(starts) {
        assert!(told.starts_with(start), "{told}");
    }
    let config = load("[raw.paths.\"/a.b/c\"]\nchannel = \"chat\"\n", &[]).unwrap();
    assert_eq!(config.raw.paths["/a.b/c"].channel, "chat");
    assert_eq!(load(&config.to_toml(), &[]).unwrap(), config);
}

#[test]
fn a_file_that_is_no_toml_or_is_not_there_is_told_beside_the_others() {
    let told = mistakes("[server\n", &[("TIDEGATE_WORKERS__COUNT", "-1")]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("is not TOML: "), "{told:?}");
    assert!(told[1].starts_with("workers.count: "), "{told:?}");

    let missing = Sources { file: Some(Path::new("/nowhere/gateway.toml")), ..Sources::default() };
    let told = Config::load(&missing).unwrap_err().to_string();
    assert!(told.contains("cannot be read") && told.contains("/nowhere/gateway.toml"), "{told}");
}

#[test]
fn every_value_is_shown_with_who_said_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    let toml = "\n[server]\nbacklog = 9\n[namespaces.chat]\npresence = true\n[api]\nkeys = [\n  \"a\",\n]\n";
    std::fs::write(&file, toml).unwrap();
    let environment = BTreeMap::from([("TIDEGATE_WORKERS__COUNT".to_owned(), "2".to_owned())]);
    let flags = vec![("server.listen", "127.0.0.1:3".to_owned())];
    let sources = Sources { file: Some(&file), environment, flags, demo: true };
    let loaded = Config::load_with_origins(&sources).unwrap();
    let sets = loaded.sets();
    let file = file.display();
    for (key, value, origin, is_default) in [
        ("server.backlog", "9", format!("{file}:3"), false),
        ("namespaces.chat.presence", "true", format!("{file}:5"), false),
        ("namespaces.chat.allow_publish", "true", "the flag --demo".to_owned(), false),
        ("namespaces.chat.allow_user_limited", "false", "default".to_owned(), true),
        ("namespaces.chat.map.page_size", "100", "default".to_owned(), true),
        ("api.keys", "[\"[redacted]\"]", format!("{file}:7"), false),
        ("workers.count", "2", "TIDEGATE_WORKERS__COUNT".to_owned(), false),
        ("server.listen", "\"127.0.0.1:3\"", "the flag --listen".to_owned(), false),
        ("drain.grace_ms", "20000", "default".to_owned(), true),
    ] {
        let set = sets.iter().find(|set| set.key == key).unwrap();
        let found = (set.value.to_string(), set.origin.clone(), set.is_default);
        assert_eq!(found, (value.to_owned(), origin.clone(), is_default), "{key}");
        let shown = loaded.to_toml(false);
        assert!(shown.contains(&format!("  # {origin}\n")), "{shown}");
        assert_eq!(shown.parse::<toml::Table>().unwrap(), loaded.config.to_toml().parse().unwrap());
    }
    assert!(!loaded.to_toml(true).contains("# default"));
}

#[test]
fn values_where_sections_belong_and_sections_where_values_belong_are_mistakes() {
    let told = mistakes("server = 3\n[workers.count]\na = 1\n", &[("TIDEGATE_A____B", "1")]);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[1].starts_with("server: is 3, must be a section with keys"), "{told:?}");
    assert!(told[2].starts_with("workers.count: is a section, must be a whole number"), "{told:?}");

    let told = mistakes("auth = []\nchannels = [true]\nnamespaces = []\n", &[]);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(|told| told.contains("is a list, must be a section with keys")), "{told:?}");
}

#[test]
fn files_that_are_of_no_use_are_told_to_a_node_that_is_to_serve() {
    let set = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let environment = BTreeMap::from([
        set("TIDEGATE_TLS__CERTIFICATE_FILE", "/nowhere/certificate.pem"),
        set("TIDEGATE_TLS__KEY_FILE", "/nowhere/key.pem"),
        set("TIDEGATE_API__KEYS_FILE", "/dev/null"),
        set("TIDEGATE_WORKERS__COUNT", "9999"),
        set("TIDEGATE_BROKER__KIND", "redis"),
        set("TIDEGATE_REDIS__MODE", "sentinel"),
        set("TIDEGATE_REDIS__ADDRESSES", "localhost:26379, localhost:26380"),
        set("TIDEGATE_REDIS__SENTINEL_MASTER", "main"),
        set("TIDEGATE_REDIS__PASSWORD_FILE", "/nowhere/password"),
        set("TIDEGATE_REDIS__SENTINEL_PASSWORD_FILE", "/dev/null"),
    ]);
    let sources = Sources { environment, ..Sources::default() };
    let Mistakes(told) = Config::load_to_serve(&sources).unwrap_err();
    let paths: Vec<&str> = told.iter().map(|mistake| mistake.path.as_str()).collect();
    let expected = [
        "api.keys_file",
        "redis.password_file",
        "redis.sentinel_password_file",
        "tls.certificate_file",
        "workers.count",
    ];
    assert_eq!(paths, expected);
    assert_eq!(told[3].source.as_deref(), Some("TIDEGATE_TLS__CERTIFICATE_FILE"));
    assert_eq!(Config::load(&sources).unwrap_err().0.len(), 1);
}

#[test]
fn no_variable_however_strange_is_more_than_a_mistake() {
    let names = ["SERVER", "LISTEN", "ALLOWED_ORIGINS", "NAMESPACES", "PRICES", "0", "", "_"];
    let texts = ["", " ", "1", "-1", "1e400", "true", ",", "[1", "a=b", "\u{fffd}", "99999999999999999999"];
    // Tries every combination of up to three of these names, with the texts in turn.
    for tried in 0..names.len().pow(3) {
        let [first, second, third] = [0, 1, 2].map(|place| names[(tried >> (3 * place)) % names.len()]);
        let environment = BTreeMap::from([
            (format!("TIDEGATE_{first}__{second}__{third}"), texts[tried % texts.len()].to_owned()),
            (format!("TIDEGATE_{first}__{second}"), texts[(tried / 7) % texts.len()].to_owned()),
        ]);
        if let Err(mistakes) = Config::load(&Sources { environment, demo: true, ..Sources::default() }) {
            assert!(!mistakes.0.is_empty() && mistakes.0.len() < 10, "{mistakes}");
        }
    }
}

#[test]
fn the_effective_configuration_reads_back_as_itself_but_for_secrets() {
    let mut demo = Config::demo();
    demo.api.keys.clear();
    demo.console.password = Secret::new(REDACTED);
    for app in demo.pusher.apps.values_mut() {
        app.secret = Secret::new(REDACTED);
    }
    assert_eq!(load(&demo.to_toml(), &[]).unwrap(), demo);
}
