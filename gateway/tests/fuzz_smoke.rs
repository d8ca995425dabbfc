//! Runs the checks of the gateway's fuzz targets briefly: on the targets' seeds, on corrupted seeds, and on random
//! bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;

use proptest::prelude::*;

#[path = "../../fuzz/src/gateway_checks.rs"]
#[expect(unreachable_pub, reason = "the file is also a module of the fuzz crate, which exports it")]
mod checks;
#[path = "../../shared/tests/support/spoiled.rs"]
mod spoil;

use spoil::{config, spoiled};

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn good(target: &str) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(seeds(target)),
        1 => prop::collection::vec(any::<u8>(), 0..400),
    ]
}

macro_rules! smoke {
    ($($test:ident: $target:ident;)*) => {
        $(
            #[test]
            fn $test() {
                for seed in seeds(stringify!($target)) {
                    checks::$target(&seed);
                }
                proptest!(config(), |(bytes in spoiled(good(stringify!($target))))| {
                    checks::$target(&bytes);
                });
            }
        )*
    };
}

smoke! {
    any_bytes_can_come_from_redis: redis;
    any_bytes_can_be_in_a_stream_of_nats: nats_block;
    any_bytes_can_be_in_the_log_of_a_ledger: nats_ledger;
    any_bytes_can_be_in_the_log_of_a_map: nats_map;
    any_bytes_can_come_from_a_balancer: proxy_header;
    any_bytes_can_come_as_a_request: http_head;
    any_bytes_can_come_to_the_server_api: api_body;
    any_bytes_can_come_apart_from_a_stream: emulation;
    any_bytes_can_come_from_another_node: control;
    any_bytes_can_come_from_a_node_to_this_one: node_message;
    any_bytes_can_come_from_a_node_with_a_websocket: opening;
    any_bytes_can_come_as_a_token: token;
    any_bytes_can_come_as_the_keys_of_an_issuer: key_set;
    any_bytes_can_come_from_an_applications_server: backend_answer;
    any_bytes_can_come_from_an_emitter: emitted;
    any_text_can_come_as_a_document_of_graphql: graphql_document;
}

#[test]
fn seeds_are_read_without_complaint() {
    for seed in seeds("emitted") {
        let read = tidegate::readers::emitted(&seed);
        assert!(read.iter().any(Result::is_ok), "{read:?}");
    }
    for seed in seeds("nats_ledger") {
        let (said, _, table) = tidegate::readers::nats_ledger(seed.into()).unwrap();
        assert_eq!(said.starts_with("Base("), table.is_some(), "{said}");
    }
    for seed in seeds("nats_map") {
        let (said, _, holds) = tidegate::readers::nats_map(seed.into()).unwrap();
        assert!(!holds[0].is_empty(), "{said}");
    }
    for seed in seeds("http_head") {
        assert!(tidegate::readers::http_head(&seed[1..]).is_some(), "{}", seed.escape_ascii());
    }
    for seed in seeds("proxy_header") {
        // A bare line feed was once accepted as a part of the header.
        let is_broken = seed.starts_with(b"\0PROXY UNKNOWN \n");
        let (read, _) = tidegate::readers::proxy_header(&[&seed[1..]]);
        assert_eq!(read.is_err(), is_broken, "{}: {read:?}", seed.escape_ascii());
    }
}
