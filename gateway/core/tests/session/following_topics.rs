//! Clients of a Mercure hub: which updates they get, and from which they continue.

use std::sync::Arc;

use gateway_core::channel_rules::ChannelOptions;
use gateway_core::effect::{Effect, Grant, Identity, OutcomeResult, Updates};
use gateway_core::session::{ConnectionKind, Context};
use shared::id::UserId;
use shared::protocol::mercure::{Mercure, MercureRequest, Update};
use shared::publication::Publication;
use shared::topic_selector::Selector;

use crate::support::{Client, authenticated, context, joined, page};

/// The hub's namespace, open to all clients or closed.
fn with_hub(open: bool) -> Context {
    let mut context = context();
    let options = ChannelOptions {
        has_private_publications: true,
        allow_subscribe: open,
        allow_subscribe_anonymous: open,
        ..(**context.rules.namespaces.get("recover").unwrap()).clone()
    };
    context.rules.namespaces.insert("m".into(), Arc::new(options));
    context
}

fn asking(context: Context, query: &str) -> Client {
    let connect = MercureRequest::read(query, None).unwrap();
    let connect = connect.connect("t", |topic| format!("m:{}", topic.unwrap_or("*")));
    let connection_kind = ConnectionKind::Unidirectional { session: "s".into() };
    let mut client = Client::that_asks(connection_kind, Arc::new(Mercure), context, Some(Box::new(connect)));
    assert_eq!(client.did(), ["authenticate t"]);
    client
}

fn reading(subscribe: &[&str]) -> OutcomeResult {
    let subscribe = subscribe.iter().map(|text| Selector::new(text)).collect();
    let updates = Updates { subscribe, ..Updates::default() };
    let identity =
        Identity { user: UserId::new("ann"), updates: Some(Box::new(updates)), ..Identity::default() };
    OutcomeResult::Authenticated(Ok(identity))
}

/// Whether the hub would send a client such an update, according to the filter with which the client joins.
fn is_for(mut client: Client, who: OutcomeResult, form: &str) -> bool {
    client.answer(who);
    let join = std::iter::from_fn(|| client.session.poll_effect()).find_map(|effect| match effect {
        Effect::Join(join) => Some(join),
        _ => None,
    });
    let update = Update::read(form.as_bytes()).unwrap().publication("id");
    join.expect("it joins").terms.lets_through(&update)
}

#[test]
fn what_is_private_is_let_through_for_those_whose_token_names_a_topic_of_it() {
    let private = "topic=a&topic=/ann/1&private=on";
    for query in ["topic=a", "topic=*", "topic=a&topic=b"] {
        assert!(is_for(asking(with_hub(true), query), reading(&["/ann/{id}"]), private), "{query}");
        assert!(is_for(asking(with_hub(true), query), reading(&["*"]), private), "{query}");
        assert!(!is_for(asking(with_hub(true), query), reading(&["/bob/{id}"]), private), "{query}");
        assert!(!is_for(asking(with_hub(true), query), authenticated("ann"), private), "{query}");
        assert!(is_for(asking(with_hub(true), query), authenticated("ann"), "topic=a"), "{query}");
    }
}

#[test]
fn who_may_have_everything_in_a_channel_is_not_apart_from_the_others_there() {
    let mut client = asking(with_hub(true), "topic=a");
    client.answer(reading(&["*"]));
    assert_eq!(client.did(), ["join m:a limit 0 positioned"]);
    let mut client = asking(with_hub(true), "topic=a");
    client.answer(reading(&["a"]));
    assert_eq!(client.did(), ["join m:a limit 0 positioned filtered"]);
}

#[test]
fn a_closed_hub_is_for_those_who_show_a_right() {
    for (query, who, joins) in [
        ("topic=a", authenticated("ann"), false),
        ("topic=*", authenticated("ann"), false),
        ("topic=a", reading(&["b"]), false),
        ("topic=a", reading(&["a"]), true),
        ("topic=*", reading(&["b"]), true),
    ] {
        let mut client = asking(with_hub(false), query);
        client.answer(who);
        let did = client.did();
        assert_eq!(did[0].starts_with("join"), joins, "{query} {did:?}");
        assert!(joins || did == ["close 3507"], "{query} {did:?}");
    }
    assert!(!is_for(asking(with_hub(false), "topic=*"), reading(&["b"]), "topic=a"));
    assert!(is_for(asking(with_hub(false), "topic=*"), reading(&["b"]), "topic=b"));
}

#[test]
fn an_update_that_is_found_is_gone_on_from_and_another_is_not() {
    let past = || {
        // In the order in which history is read backwards.
        let mut past = page(&[5, 6, 7], 7);
        for publication in &mut past.publications {
            let update = Update::read(format!("topic=a&id=id-{}", publication.offset()).as_bytes()).unwrap();
            *publication = Publication { position: publication.position, ..update.publication("") };
        }
        past.publications.reverse();
        past
    };
    for (wanted, header, told) in [
        ("id-5", "begin with last-event-id: id-5", &["id-6", "id-7"][..]),
        ("id-7", "begin with last-event-id: id-7", &[]),
        ("earliest", "begin with last-event-id: earliest", &["id-5", "id-6", "id-7"]),
        ("gone", "begin with last-event-id: earliest", &[]),
    ] {
        let mut client = asking(with_hub(true), &format!("topic=a&lastEventID={wanted}"));
        client.answer(reading(&["*"]));
        assert_eq!(client.did(), ["join m:a newest limit 300 positioned"]);
        client.answer(joined(Some(past())));
        let did = client.did();
        let ids: Vec<&str> = did[1].lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        assert_eq!((&*did[0], &ids[..]), (header, told), "{wanted}");
        assert_eq!(did[2..], ["live m:a @7"]);
    }
}

#[test]
fn a_subscription_token_lets_in_to_what_is_public() {
    let mut client = Client::connected(with_hub(false), Identity::default());
    client.says(r#"{"id":2,"subscribe":{"channel":"m:a","token":"t"}}"#);
    client.did();
    client.answer(OutcomeResult::Authorized(Ok(Grant::default())));
    let join = std::iter::from_fn(|| client.session.poll_effect()).find_map(|effect| match effect {
        Effect::Join(join) => Some(join),
        _ => None,
    });
    let terms = join.expect("it joins").terms;
    let lets_through =
        |form: &str| terms.lets_through(&Update::read(form.as_bytes()).unwrap().publication("id"));
    assert!(lets_through("topic=a") && !lets_through("topic=a&private=on"));
}

#[test]
fn clients_of_other_protocols_are_under_the_same_condition() {
    let mut client = Client::connected(with_hub(true), Identity::default());
    client.says(r#"{"id":2,"subscribe":{"channel":"m:a"}}"#);
    assert_eq!(client.did(), ["join m:a limit 0 positioned filtered"]);
    client.answer(joined(Some(page(&[], 7))));
    client.did();
    client.says(r#"{"id":3,"history":{"channel":"m:a","limit":10}}"#);
    assert!(client.did()[0].contains("\"code\":103"));
}
