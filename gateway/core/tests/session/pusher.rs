//! Pusher uses the same session: the application's signatures decide who may subscribe, and members are users.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::channel_rules::{ChannelOptions, ChannelRules, RecoveryMode};
use gateway_core::effect::{
    ChannelMembers, Effect, Grant, Identity, OutcomeResult, Overrides, Rights, ServerSubscription,
};
use gateway_core::session::{Context, SessionSettings};
use shared::error::ErrorCode;
use shared::id::{ClientId, UserId};
use shared::protocol::pusher::{Pusher, PusherNames};
use shared::publication::ClientInfo;

use crate::support::{Client, authenticated, context, joined, page};

fn shop() -> Context {
    let plain = ChannelOptions::default();
    let cache = ChannelOptions {
        history_size: 1,
        history_ttl_s: 60,
        force_recovery: true,
        force_recovery_mode: RecoveryMode::Cache,
        auto_cache_recover: true,
        ..ChannelOptions::default()
    };
    let namespaces = [("shop".into(), plain), ("kept".into(), cache)];
    let rules = ChannelRules::new(ChannelOptions::default(), namespaces, Default::default(), false);
    Context {
        rules,
        settings: SessionSettings { client_events_per_second: 2, ..SessionSettings::default() },
        ..context()
    }
}

fn speaking(namespace: &str) -> Client {
    let names = PusherNames::new(namespace, ":", "#");
    let pusher = Pusher { names, activity_timeout_s: 120, event_data_bytes_max: 1_000 };
    let mut client = Client::speaking(Arc::new(pusher), shop());
    client.session = client.session.asking_of_all();
    assert_eq!(client.did(), ["authenticate "]);
    client.answer(authenticated(""));
    assert_eq!(
        client.did(),
        [
            r#"< {"event":"pusher:connection_established","data":"{\"socket_id\":\"16384.9223372036854775815\",\"activity_timeout\":120}"}"#
        ]
    );
    client
}

fn subscribe(client: &mut Client, channel: &str) {
    client.says(&format!(
        r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}","auth":"key:sig"}}}}"#
    ));
}

fn publishing() -> Grant {
    Grant { allow: Rights { publish: true, ..Rights::default() }, ..Grant::default() }
}

fn subscribed(client: &mut Client, channel: &str, grant: Grant) {
    subscribe(client, channel);
    assert_eq!(client.did(), [format!("authorize shop:{channel} key:sig")]);
    client.answer(OutcomeResult::Authorized(Ok(grant)));
    assert_eq!(client.did(), [format!("join shop:{channel}")]);
    client.answer(joined(None));
    let succeeded = format!(
        r#"< {{"event":"pusher_internal:subscription_succeeded","channel":"{channel}","data":"{{}}"}}"#
    );
    assert_eq!(client.did(), [succeeded, format!("live shop:{channel}")]);
}

fn member(client: u128, user: &str) -> ClientInfo {
    let client = ClientId::from_bits(client);
    ClientInfo { client, user: UserId::new(user), conn_info: None, chan_info: Some(r#"{"n":1}"#.into()) }
}

#[test]
fn every_subscription_is_asked_about_and_a_refusal_names_its_channel() {
    let mut client = speaking("shop");
    subscribed(&mut client, "news", Grant::default());
    subscribe(&mut client, "private-news");
    assert_eq!(client.did(), ["authorize shop:private-news key:sig"]);
    client.answer(OutcomeResult::Authorized(Err(ErrorCode::Unauthorized.into())));
    assert_eq!(
        client.did(),
        [
            r#"< {"event":"pusher:subscription_error","channel":"private-news","data":"{\"type\":\"AuthError\",\"error\":\"unauthorized\",\"status\":401}"}"#
        ]
    );
    subscribe(&mut client, "news");
    assert!(client.did()[0].contains(
        r#""channel":"news","data":"{\"type\":\"SubscriptionError\",\"error\":\"already subscribed"#
    ));
    subscribe(&mut client, "a b");
    assert_eq!(
        client.did(),
        [r#"< {"event":"pusher:error","data":{"code":null,"message":"invalid channel name"}}"#]
    );
}

#[test]
fn client_events_go_to_the_others_and_are_refused_by_their_rules_and_rate() {
    let mut client = speaking("shop");
    subscribed(&mut client, "private-map", publishing());
    let moved = r#"{"event":"client-moved","channel":"private-map","data":{"x":1}}"#;
    client.says(moved);
    let Some(Effect::Publish { channel, publication, retention, .. }) = client.session.poll_effect() else {
        panic!("it is published")
    };
    assert_eq!((channel.as_str(), publication.event()), ("shop:private-map", Some("client-moved")));
    assert_eq!(publication.except.as_deref(), Some(&client.session.client()));
    assert!(!retention.keeps_history());

    let mut client = speaking("shop");
    subscribed(&mut client, "private-map", publishing());
    for _ in 0..2 {
        client.says(moved);
        assert_eq!(client.did(), [r#"publish shop:private-map {"x":1}"#]);
        client.answer(OutcomeResult::Published(Ok(())));
        assert_eq!(client.did(), [""; 0]);
    }
    client.says(moved);
    let too_fast =
        r#"< {"event":"pusher:error","data":{"code":4301,"message":"client events come too fast"}}"#;
    assert_eq!(client.did(), [too_fast]);
    client.waits(Duration::from_secs(1));
    client.says(moved);
    assert_eq!(client.did(), [r#"publish shop:private-map {"x":1}"#]);
}

#[test]
fn client_events_are_not_for_those_outside_nor_where_the_app_has_none() {
    let refused = r#"< {"event":"pusher:error","data":{"code":null,"message":"client event rejected: permission denied"}}"#;
    let mut client = speaking("shop");
    client.says(r#"{"event":"client-moved","channel":"private-map","data":{}}"#);
    assert_eq!(client.did(), [refused]);
    subscribed(&mut client, "private-map", Grant::default());
    client.says(r#"{"event":"client-moved","channel":"private-map","data":{}}"#);
    assert_eq!(client.did(), [refused]);
    client.says(r#"{"event":"client-moved","channel":"news","data":{}}"#);
    assert_eq!(client.did(), [refused]);
}

#[test]
fn a_presence_channel_tells_who_is_there_and_the_newcomer_is_among_them() {
    let mut client = speaking("shop");
    client.says(
        r#"{"event":"pusher:subscribe","data":{"channel":"presence-room","auth":"key:sig","channel_data":"{}"}}"#,
    );
    assert_eq!(client.did(), ["authorize shop:presence-room key:sig"]);
    let overrides = Overrides {
        presence: Some(true),
        join_leave: Some(true),
        force_push_join_leave: Some(true),
        ..Overrides::default()
    };
    let grant = Grant {
        shown_as: Some(UserId::new("bob")),
        info: Some(r#"{"n":2}"#.into()),
        overrides,
        ..Grant::default()
    };
    client.answer(OutcomeResult::Authorized(Ok(grant)));
    assert_eq!(client.did(), ["join shop:presence-room joins present among"]);
    let members = ChannelMembers { clients: vec![member(1, "ann")], version: 3 };
    client.answer(OutcomeResult::JoinedAmong(Ok((None, members))));
    assert_eq!(
        client.did(),
        [
            r#"< {"event":"pusher_internal:subscription_succeeded","channel":"presence-room","data":"{\"presence\":{\"count\":2,\"ids\":[\"ann\",\"bob\"],\"hash\":{\"ann\":{\"n\":1},\"bob\":{\"n\":2}}}}"}"#,
            "live shop:presence-room",
            "announce shop:presence-room bob joined",
        ]
    );
    client.says(r#"{"event":"pusher:unsubscribe","data":{"channel":"presence-room"}}"#);
    assert_eq!(client.did(), ["leave shop:presence-room", "announce shop:presence-room bob left"]);
}

#[test]
fn a_cache_channel_gives_its_last_event_or_says_that_there_is_none() {
    let given = |offsets: &[u64]| {
        let mut client = speaking("kept");
        subscribe(&mut client, "cache-prices");
        client.did();
        client.answer(OutcomeResult::Authorized(Ok(Grant::default())));
        assert_eq!(client.did(), ["join kept:cache-prices newest limit 1 positioned"]);
        client.answer(joined(Some(page(offsets, 7))));
        client.did()
    };
    let succeeded =
        r#"< {"event":"pusher_internal:subscription_succeeded","channel":"cache-prices","data":"{}"}"#;
    let missed = r#"< {"event":"pusher:cache_miss","channel":"cache-prices","data":"{}"}"#;
    assert_eq!(given(&[]), [succeeded, missed, "live kept:cache-prices @7"]);
    let last = r#"< {"event":"message","channel":"cache-prices","data":"7"}"#;
    assert_eq!(given(&[7]), [succeeded, last, "live kept:cache-prices @7"]);
}

#[test]
fn who_signs_in_is_told_and_subscribed_to_what_comes_with_it() {
    let mut client = speaking("shop");
    client.says(r#"{"event":"pusher:signin","data":{"auth":"key:sig","user_data":"{\"id\":\"1\"}"}}"#);
    assert_eq!(client.did(), ["sign in key:sig"]);
    let overrides = Overrides { force_push_join_leave: Some(true), ..Overrides::default() };
    let watched = ServerSubscription {
        channel: "shop:online#2".into(),
        members: true,
        overrides,
        ..Default::default()
    };
    let identity =
        |user: &str| Identity { user: UserId::new(user), subs: vec![watched.clone()], ..Identity::default() };
    client.answer(OutcomeResult::SignedIn(Ok(identity("shop:1"))));
    let told = r#"< {"event":"pusher:signin_success","data":"{\"user_data\":\"{\\\"id\\\":\\\"1\\\"}\"}"}"#;
    assert_eq!(client.did(), ["join shop:online#2 joins among", told]);
    assert_eq!(client.session.user().as_str(), "shop:1");
    let members = ChannelMembers { clients: vec![member(9, "shop:2")], version: 1 };
    client.answer(OutcomeResult::JoinedAmong(Ok((None, members))));
    assert_eq!(
        client.did(),
        [
            r#"< {"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"online\",\"user_ids\":[\"2\"]}]}"}"#,
            "live shop:online#2",
        ]
    );
    let again = r#"{"event":"pusher:signin","data":{"auth":"key:sig","user_data":"{}"}}"#;
    client.says(again);
    client.did();
    client.answer(OutcomeResult::SignedIn(Ok(identity("shop:1"))));
    assert_eq!(client.did(), [r#"< {"event":"pusher:signin_success","data":"{\"user_data\":\"{}\"}"}"#]);
    client.says(again);
    client.did();
    client.answer(OutcomeResult::SignedIn(Ok(identity("shop:2"))));
    assert_eq!(client.did(), ["close 3500"], "nobody becomes somebody else");
}

#[test]
fn who_is_wrongly_signed_in_is_sent_away() {
    let mut client = speaking("shop");
    client.says(r#"{"event":"pusher:signin","data":{"auth":"x","user_data":"{}"}}"#);
    client.did();
    client.answer(OutcomeResult::SignedIn(Err(ErrorCode::Unauthorized.into())));
    assert_eq!(client.did(), ["close 3500"]);
}

#[test]
fn pings_go_both_ways_and_anything_that_is_said_counts_as_a_pong() {
    let mut client = speaking("shop");
    client.says(r#"{"event":"pusher:ping","data":{}}"#);
    assert_eq!(client.did(), [r#"< {"event":"pusher:pong","data":"{}"}"#]);
    client.says(r#"{"event":"pusher:pong","data":{}}"#);
    client.waits(Duration::from_millis(12_500));
    assert_eq!(client.did(), [r#"< {"event":"pusher:ping","data":"{}"}"#]);
    client.says(r#"{"event":"pusher:pong","data":{}}"#);
    client.waits(Duration::from_secs(25));
    assert_eq!(client.did(), [r#"< {"event":"pusher:ping","data":"{}"}"#], "it lives");
    client.waits(Duration::from_secs(25));
    assert_eq!(client.did(), ["close 3012"]);
}
