//! Subscribers that receive less than everything: the newest publication, those with certain tags, or deltas.

use std::sync::Arc;

use gateway_core::channel_rules::{ChannelOptions, DataFormat, DeltaType, RecoveryMode};
use gateway_core::effect::{Capability, Grant, Identity, Matching, Rights};
use gateway_core::history::HistoryPage;
use gateway_core::session::{Context, SessionSettings};
use shared::error::ErrorCode;
use shared::publication::Payload;

use crate::support::{Client, context, error, joined, page};

/// `cache` has a state in each publication, `auto` sends it unasked; `tags` lets subscribers filter, `delta` sends deltas.
fn with_more() -> Context {
    let mut context = context();
    let base = (**context.rules.namespaces.get("recover").unwrap()).clone();
    let cache = ChannelOptions { force_recovery_mode: RecoveryMode::Cache, ..base.clone() };
    for (name, options) in [
        ("auto", ChannelOptions { auto_cache_recover: true, ..cache.clone() }),
        ("cache", cache),
        ("tags", ChannelOptions { allow_tags_filter: true, ..base.clone() }),
        ("delta", ChannelOptions { allowed_delta_types: vec![DeltaType::Fossil], ..base.clone() }),
        ("object", ChannelOptions { publication_data_format: DataFormat::JsonObject, ..base }),
    ] {
        context.rules.namespaces.insert(name.into(), Arc::new(options));
    }
    context
}

fn client() -> Client {
    Client::connected(with_more(), Identity::default())
}

fn subscribe(rest: &str, answer: HistoryPage) -> (String, Vec<String>) {
    let mut client = client();
    client.says(&format!(r#"{{"id":2,"subscribe":{{{rest}}}}}"#));
    let effect = client.did().remove(0);
    client.answer(joined(Some(answer)));
    (effect, client.did())
}

#[test]
fn the_newest_publication_is_all_that_a_cache_gives() {
    let (effect, did) = subscribe(r#""channel":"cache:a","recover":true"#, page(&[7], 7));
    assert_eq!(effect, "join cache:a newest limit 1 positioned");
    assert!(
        did[0].contains(r#""offset":6,"publications":[{"data":7,"offset":7}],"recovered":true"#),
        "{did:?}"
    );
    assert_eq!(did[1], "live cache:a @7");
    let stood = r#""channel":"cache:a","recover":true,"epoch":"life","offset":7"#;
    let (_, did) = subscribe(stood, page(&[7], 7));
    assert!(did[0].contains(r#""offset":7,"recovered":true"#) && !did[0].contains("publications"), "{did:?}");
    let (_, did) = subscribe(stood, page(&[], 7));
    assert!(did[0].contains(r#""recovered":true"#), "what is gone is what it has");
    let (_, did) = subscribe(r#""channel":"cache:a","recover":true,"epoch":"old","offset":7"#, page(&[7], 7));
    assert!(did[0].contains(r#""publications":[{"data":7"#), "of an older stream it has something else");
}

#[test]
fn an_empty_cache_is_told_as_such() {
    let (_, did) = subscribe(r#""channel":"cache:a","recover":true"#, page(&[], 7));
    assert!(!did[0].contains(r#""recovered""#) && did[0].contains(r#""was_recovering":true"#));
    let (_, did) = subscribe(r#""channel":"cache:a","recover":true,"flag":2"#, page(&[], 7));
    assert_eq!(did, ["leave cache:a".to_owned(), error(2, ErrorCode::UnrecoverablePosition)]);
}

#[test]
fn whoever_comes_first_is_given_it_unasked_where_that_is_set() {
    let (effect, _) = subscribe(r#""channel":"cache:a""#, page(&[], 7));
    assert_eq!(effect, "join cache:a limit 0 positioned");
    let (effect, did) = subscribe(r#""channel":"auto:a""#, page(&[7], 7));
    assert_eq!(effect, "join auto:a newest limit 1 positioned");
    assert!(did[0].contains(r#""recovered":true"#) && did[0].contains(r#""was_recovering":true"#));
}

#[test]
fn a_filter_must_be_allowed_and_make_sense() {
    for (channel, filter) in [
        ("recover:a", r#"{"key":"a","cmp":"eq","val":"1"}"#),
        ("tags:a", r#"{"key":"a","cmp":"nonsense","val":"1"}"#),
    ] {
        let mut client = client();
        client.says(&format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}","tf":{filter}}}}}"#));
        assert_eq!(client.did(), [error(2, ErrorCode::BadRequest)]);
    }
}

#[test]
fn what_a_filter_leaves_out_is_left_out_of_what_was_missed_too() {
    let mut missed = page(&[3, 4, 5], 5);
    missed.publications[1].tags.insert("a".into(), "1".into());
    let filter = r#""tf":{"key":"a","cmp":"eq","val":"1"}"#;
    let recover = format!(r#""channel":"tags:a","recover":true,"epoch":"life","offset":2,{filter}"#);
    let (effect, did) = subscribe(&recover, missed);
    assert_eq!(effect, "join tags:a since 2 limit 300 positioned filtered");
    assert!(did[0].contains(r#""offset":2,"publications":[{"data":4,"offset":4"#), "{did:?}");
    assert!(did[0].contains(r#""recovered":true"#) && did[0].matches(r#""data":"#).count() == 1);
    assert_eq!(did[1], "live tags:a @5", "and nothing is lost by it");
}

#[test]
fn what_was_missed_comes_whole_at_first_and_then_as_what_has_changed() {
    let mut missed = page(&[3, 4, 5], 5);
    for publication in &mut missed.publications {
        let offset = publication.offset();
        let data = format!(r#"{{"symbol":"AAPL","price":{offset},"currency":"USD","exchange":"NASDAQ"}}"#);
        publication.data = Payload::json(data);
        publication.delta = true;
    }
    let recover = r#""channel":"delta:a","delta":"fossil","recover":true,"epoch":"life","offset":2"#;
    let (effect, did) = subscribe(recover, missed.clone());
    assert_eq!(effect, "join delta:a since 2 limit 300 positioned delta");
    assert!(did[0].contains(r#"{"data":"{\"symbol\":\"AAPL\",\"price\":3"#), "{did:?}");
    assert_eq!(did[0].matches(r#""delta":true"#).count(), 3, "two patches and the agreement: {did:?}");
    assert_eq!(did[0].matches("AAPL").count(), 1);
    assert_eq!(did[1], "live delta:a @5 patched");
    let (_, did) = subscribe(r#""channel":"delta:a","delta":"fossil""#, page(&[], 5));
    assert_eq!(did[1], "live delta:a @5", "who has nothing can be sent no change of it");
}

#[test]
fn pieces_of_a_long_recovery_are_chains_of_their_own() {
    let settings = SessionSettings { reply_bytes_max: 1, ..SessionSettings::default() };
    let mut client = Client::connected(Context { settings, ..with_more() }, Identity::default());
    client.says(r#"{"id":2,"subscribe":{"channel":"delta:a","delta":"fossil","recover":true,"epoch":"life","offset":2}}"#);
    client.did();
    client.answer(joined(Some(page(&[3, 4], 4))));
    client.did();
    client.answer(gateway_core::effect::OutcomeResult::Room);
    client.did();
    client.answer(joined(Some(page(&[4], 4))));
    let did = client.did();
    assert!(did[0].contains(r#""pub":{"data":"4","offset":4}"#), "a string from now on: {did:?}");
    assert_eq!(did[1], "live delta:a @4 patched");
}

#[test]
fn nobody_gets_changes_who_may_miss_what_they_are_changes_of() {
    let reply = |rest: &str| subscribe(rest, page(&[], 5)).1.remove(0);
    assert!(reply(r#""channel":"delta:a","delta":"fossil""#).contains(r#""delta":true"#));
    assert!(!reply(r#""channel":"recover:a","delta":"fossil""#).contains("delta"));
}

#[test]
fn a_payload_of_another_format_is_refused() {
    let mut client = client();
    for (data, published) in [("{\\\"a\\\":1}", false), ("{\"a\":1}", true), ("[1]", false), (" 7", false)] {
        let data = if data.contains('\\') { format!("\"{data}\"") } else { data.to_owned() };
        client.says(&format!(r#"{{"id":3,"publish":{{"channel":"object:a","data":{data}}}}}"#));
        let did = client.did();
        match published {
            true => {
                assert!(did[0].starts_with("publish object:a"), "{data} {did:?}");
                client.answer(gateway_core::effect::OutcomeResult::Published(Ok(())));
                client.did();
            }
            false => assert_eq!(did, [error(3, ErrorCode::BadRequest)], "{data}"),
        }
    }
}

#[test]
fn capabilities_and_grants_allow_what_options_do_not() {
    let all = Rights { subscribe: true, publish: true, presence: true, history: true };
    let caps = vec![Capability { channels: ["shut:a".into()].into(), matching: Matching::Exact, allow: all }];
    let identity = Identity { caps: caps.into(), ..Identity::default() };
    let mut client = Client::connected(context(), identity);
    let asks = |client: &mut Client, command: &str, name: &str| {
        client.says(&format!(r#"{{"id":3,"{command}":{{"channel":"{name}","data":1,"limit":1}}}}"#));
        client.did().remove(0)
    };
    for command in ["publish", "history", "presence", "subscribe"] {
        assert!(asks(&mut client, command, "shut:b").contains("permission denied"), "{command}");
        let did = asks(&mut client, command, "shut:a");
        assert!(!did.contains("error"), "{command} {did}");
        let result = match command {
            "publish" => gateway_core::effect::OutcomeResult::Published(Ok(())),
            "history" => gateway_core::effect::OutcomeResult::History(Ok(page(&[], 0))),
            "presence" => gateway_core::effect::OutcomeResult::Presence(Ok(Vec::new())),
            _ => joined(Some(page(&[], 0))),
        };
        client.answer(result);
        client.did();
    }

    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"shut:c","token":"t"}}"#);
    client.did();
    let allow = Rights { publish: true, ..Rights::default() };
    client.answer(gateway_core::effect::OutcomeResult::Authorized(Ok(Grant { allow, ..Grant::default() })));
    client.did();
    client.answer(joined(Some(page(&[], 0))));
    client.did();
    assert_eq!(asks(&mut client, "publish", "shut:c"), "publish shut:c 1 kept");
    client.answer(gateway_core::effect::OutcomeResult::Published(Ok(())));
    client.did();
    assert!(asks(&mut client, "history", "shut:c").contains("permission denied"));
}
