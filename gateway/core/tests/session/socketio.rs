//! Socket.IO uses the same session: namespaces that a client enters and leaves, with rooms that depend on them.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::channel_rules::{ChannelOptions, ChannelRules};
use gateway_core::effect::{
    Denial, Emitted, EventActions, Grant, Identity, OutcomeResult, Resumed, ServerSubscription,
};
use gateway_core::session::{Application, Context};
use shared::command::Since;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::{ClientId, UserId};
use shared::protocol::socketio::{
    Destination, ForwardRule, NamespaceAccess, Namespaces, RoomName, RoomRule, Route, Routes, SocketIo,
    SocketIoShared, sid,
};
use shared::publication::{Payload, Publication, Tagged, Tags};
use shared::push::UnsubscribeCode;

use crate::support::{Client, authenticated, channel, context, joined, page};

fn namespaced() -> Context {
    let kept = ChannelOptions { history_size: 10, history_ttl_s: 60, ..ChannelOptions::default() };
    let whole = ChannelOptions { keeps_sessions: true, ..kept.clone() };
    let plain = ChannelOptions::default();
    let namespaces = [("io".into(), plain), ("admin".into(), kept), ("whole".into(), whole)];
    let rules = ChannelRules::new(ChannelOptions::default(), namespaces, Default::default(), false);
    Context { rules, application: Application { events: true, ..Application::default() }, ..context() }
}

fn opened() -> Client {
    let mut routes = Routes::default();
    let publish = |to, to_sender| Route::Publish(ForwardRule { to, event: None, to_sender });
    routes.add("say", publish(Destination::Namespace, true));
    routes.add("whisper", publish(Destination::Room(RoomName::Argument(0)), false));
    let entry = |tell: Option<&str>| RoomRule {
        room: RoomName::Argument(0),
        rooms: Vec::new(),
        tell: tell.map(Into::into),
    };
    routes.add("join", Route::Join(entry(Some("joined"))));
    routes.add("leave", Route::Leave(entry(Some("left"))));
    routes.add("ask", Route::Backend);
    let mut namespaces = Namespaces::new(":");
    namespaces.add("/", "io", NamespaceAccess::default(), routes.clone());
    namespaces.add("/admin", "admin", NamespaceAccess::default(), routes.clone());
    namespaces.add("/whole", "whole", NamespaceAccess::default(), routes);
    let common = SocketIoShared {
        namespaces,
        token_key: "token".into(),
        attachments_max: 10,
        packet_bytes_max: 10_000,
    };
    let mut client = Client::speaking(Arc::new(SocketIo::new(Arc::new(common))), namespaced());
    client.session = client.session.with_rooms();
    client
}

fn own_sid(namespace: &str) -> String {
    sid(ClientId::from_random(7), namespace)
}

fn grant() -> OutcomeResult {
    OutcomeResult::Authorized(Ok(Grant::default()))
}

/// A client in the main namespace, without a user.
fn entered() -> Client {
    let mut client = opened();
    client.says("0");
    assert_eq!(client.did(), ["authenticate "]);
    client.answer(authenticated(""));
    assert_eq!(client.did(), ["authorize io:* "]);
    client.answer(grant());
    assert_eq!(client.did(), ["join io:*"]);
    client.answer(joined(None));
    assert_eq!(client.did(), [format!("< 0{{\"sid\":\"{}\"}}", own_sid("/")), "live io:*".to_owned()]);
    client
}

fn in_room(client: &mut Client, room: &str) {
    client.says(&format!("2[\"join\",\"{room}\"]"));
    assert_eq!(client.did(), [format!("authorize io:{room} ")]);
    client.answer(grant());
    client.did();
    client.answer(joined(None));
    assert_eq!(client.did(), [format!("live io:{room}"), format!("publish io:{room} \"{}\"", own_sid("/"))]);
    client.answer(OutcomeResult::Published(Ok(())));
}

fn handled(handled: EventActions) -> OutcomeResult {
    OutcomeResult::Handled(Ok(Box::new(handled)))
}

fn acknowledgement(data: &str, count: usize) -> Box<Tagged> {
    let tags = Tags::from([("args".into(), count.to_string().into())]);
    Box::new(Tagged { data: Payload::json(data.to_owned()), tags })
}

fn event(name: &str, data: &str) -> Box<Publication> {
    let tags = Tags::from([("event".into(), name.into())]);
    Box::new(Publication { tags, ..Publication::new(Payload::json(data.to_owned())) })
}

#[test]
fn a_client_comes_into_one_namespace_after_the_other_with_what_it_shows() {
    let mut client = entered();
    client.says(r#"0/admin,{"token":"t"}"#);
    assert_eq!(client.did(), ["authorize admin:* t"]);
    client.answer(grant());
    client.did();
    client.answer(joined(None));
    let welcome = format!("< 0/admin,{{\"sid\":\"{}\"}}", own_sid("/admin"));
    assert_eq!(client.did(), [welcome, "live admin:*".to_owned()]);
}

#[test]
fn who_has_as_many_channels_as_it_may_comes_into_no_more_rooms_and_stays() {
    let mut client = entered();
    let max = namespaced().settings.channels_max;
    let join = |client: &mut Client, number: u32| {
        let channel = format!("io:{number}").into();
        let room = ServerSubscription { channel, ..ServerSubscription::default() };
        client.session.handle_subscribe(client.now, room, None)
    };
    for number in 1..max {
        assert_eq!(join(&mut client, number), Ok(()));
    }
    client.did();
    assert_eq!(join(&mut client, max), Err(ErrorCode::LimitExceeded));
    assert_eq!(client.did(), [""; 0]);
}

#[test]
fn what_came_in_the_moment_of_coming_back_stands_behind_what_was_missed_before_it() {
    let mut client = opened();
    client.says("0/whole,");
    client.did();
    client.answer(authenticated(""));
    client.did();
    let missed = vec![(channel("whole:room"), *event("e", "4")), (channel("whole:*"), *event("e", "5"))];
    let since = Since { offset: 5, epoch: "life".into() };
    let resumed = Resumed { client: ClientId::from_random(8), since, rooms: Vec::new(), missed };
    let resumed = Some(Box::new(resumed));
    client.answer(OutcomeResult::Authorized(Ok(Grant { resumed, ..Grant::default() })));
    client.did();
    let mut page = page(&[6], 6);
    page.publications[0].tags = event("e", "6").tags;
    client.answer(joined(Some(page)));
    let did = client.did();
    let at = |what: &str| {
        did.iter().position(|one| one.contains(what)).unwrap_or_else(|| panic!("{what}: {did:?}"))
    };
    let places = [at("\"sid\""), at(r#"["e",4]"#), at(r#"["e",5]"#), at(r#"["e",6]"#), at("live whole:*")];
    assert!(places.is_sorted(), "{did:?}");
}

#[test]
fn who_is_refused_may_try_again_and_what_else_it_asked_for_is_done() {
    let mut client = opened();
    client.says("0/random,");
    assert_eq!(client.did(), [r#"< 4/random,{"message":"Invalid namespace"}"#]);
    client.says(r#"0{"token":"bad"}"#);
    client.says(r#"0/admin,{"token":"good"}"#);
    assert_eq!(client.did(), ["authenticate bad"]);
    client.answer(OutcomeResult::Authenticated(Err(Denial::Disconnect(Disconnect::INVALID_TOKEN))));
    let refused = r#"< 4{"message":"invalid token","data":{"code":101}}"#;
    assert_eq!(client.did(), ["authenticate good", refused]);
    client.answer(authenticated("ann"));
    assert_eq!(client.did(), ["authorize admin:* "]);
    client.says("0");
    assert_eq!(client.did(), [""; 0], "one after the other");
}

#[test]
fn whoever_comes_into_no_namespace_in_time_is_closed() {
    let mut client = opened();
    client.says("0/random,");
    client.did();
    client.waits(Duration::from_secs(100));
    assert_eq!(client.did(), ["close 3502"]);
}

#[test]
fn an_event_before_any_namespace_closes() {
    let mut client = opened();
    client.says(r#"2["say",1]"#);
    assert_eq!(client.did(), ["close 3501"]);
}

#[test]
fn a_client_becomes_who_a_later_namespace_was_shown_that_it_is_unless_it_is_somebody() {
    let as_user = |user: &str| {
        let user = UserId::new(user);
        let identity = Some(Box::new(Identity { user: user.clone(), ..Identity::default() }));
        OutcomeResult::Authorized(Ok(Grant { user, identity, ..Grant::default() }))
    };
    let mut client = entered();
    client.says(r#"0/admin,{"token":"t"}"#);
    client.did();
    client.answer(as_user("ann"));
    assert_eq!(client.did(), ["join admin:* limit 0"]);
    assert_eq!(client.session.user().as_str(), "ann");
    client.answer(joined(Some(crate::support::page(&[], 0))));
    client.did();
    client.says("1/admin,");
    client.says(r#"0/admin,{"token":"t"}"#);
    client.did();
    client.answer(as_user("bob"));
    assert_eq!(client.did()[0], "< 1", "it is told to leave the others");
    assert!(client.session.is_closed());
}

#[test]
fn events_that_follow_a_connect_packet_wait_for_its_answer() {
    let mut client = opened();
    client.says("0");
    client.says(r#"27["say",1]"#);
    client.did();
    client.answer(authenticated(""));
    client.did();
    client.answer(grant());
    client.did();
    client.answer(joined(None));
    let welcome = format!("< 0{{\"sid\":\"{}\"}}", own_sid("/"));
    assert_eq!(client.did(), ["publish io:* 1".to_owned(), welcome, "live io:*".to_owned()]);
    client.answer(OutcomeResult::Published(Ok(())));
    assert_eq!(client.did(), [r#"< 37[{"status":"ok"}]"#]);
}

#[test]
fn a_room_takes_and_gives_events_only_while_the_client_is_in_it() {
    let mut client = entered();
    client.says(r#"2["whisper","a",1]"#);
    let refused = r#"< 2["error",{"code":103,"message":"permission denied"}]"#;
    assert_eq!(client.did(), [refused]);
    in_room(&mut client, "a");
    client.says(r#"2["whisper","a",1]"#);
    assert_eq!(client.did(), ["publish io:a 1"]);
    client.answer(OutcomeResult::Published(Ok(())));
    client.says(r#"21["join","a"]"#);
    assert_eq!(client.did()[1], r#"< 31[{"status":"ok"}]"#, "coming twice is no mistake");
    client.answer(OutcomeResult::Published(Ok(())));
    client.says(r#"22["leave","a"]"#);
    assert_eq!(client.did(), [format!("publish io:a \"{}\"", own_sid("/"))]);
    client.answer(OutcomeResult::Published(Ok(())));
    assert_eq!(client.did(), ["leave io:a", r#"< 32[{"status":"ok"}]"#]);
    client.says(r#"23["whisper","a",1]"#);
    assert_eq!(client.did(), [r#"< 33[{"status":"error","code":103,"message":"permission denied"}]"#]);
}

#[test]
fn what_clients_publish_is_kept_where_the_namespace_keeps_anything() {
    let mut client = entered();
    client.says("0/admin,");
    client.did();
    client.answer(grant());
    client.did();
    client.answer(joined(Some(crate::support::page(&[], 0))));
    client.did();
    client.says(r#"2/admin,["say",{"a":1}]"#);
    assert_eq!(client.did(), [r#"publish admin:* {"a":1} kept"#]);
}

#[test]
fn who_leaves_a_namespace_leaves_its_rooms_and_no_others() {
    let mut client = entered();
    in_room(&mut client, "a");
    in_room(&mut client, "b");
    client.says("1");
    assert_eq!(client.did(), ["leave io:*", "leave io:a", "leave io:b"]);
    client.says("0");
    assert_eq!(client.did(), ["authorize io:* "], "it can come back");
}

#[test]
fn the_server_puts_a_client_out_of_a_namespace_with_its_rooms() {
    let mut client = entered();
    in_room(&mut client, "a");
    client.session.handle_unsubscribe(&channel("io:*"), UnsubscribeCode::Server);
    assert_eq!(client.did(), ["leave io:*", "< 1", "leave io:a"]);
    client.says(r#"2["say",1]"#);
    assert_eq!(client.did(), [""; 0], "it was on its way");
}

#[test]
fn the_application_hears_of_an_event_and_where_the_client_is() {
    let mut client = entered();
    in_room(&mut client, "a");
    client.says(r#"24["ask",1,{"b":2}]"#);
    assert_eq!(client.did(), [r#"event io:* ask [1,{"b":2}] in io:a"#]);
    client.answer(handled(EventActions {
        acknowledge: Some(acknowledgement("[1,2]", 2)),
        ..EventActions::default()
    }));
    assert_eq!(client.did(), ["< 34[1,2]"]);
    client.says(r#"25["ask"]"#);
    client.did();
    client.answer(handled(EventActions::default()));
    assert_eq!(client.did(), ["< 35[]"]);
    client.says(r#"26["ask"]"#);
    client.did();
    client.answer(OutcomeResult::Handled(Err(Denial::of(ErrorCode::TooManyRequests))));
    assert_eq!(client.did(), [r#"< 36[{"status":"error","code":111,"message":"too many requests"}]"#]);
}

#[test]
fn what_the_application_wants_done_is_done_in_order_and_then_acknowledged() {
    let mut client = entered();
    in_room(&mut client, "a");
    client.says(r#"27["ask","b"]"#);
    client.says(r#"2["say","later"]"#);
    client.did();
    let room = |room: &str| ServerSubscription { channel: room.into(), ..ServerSubscription::default() };
    let published =
        |room: &str, data: &str| Emitted::Published { channel: channel(room), publication: event("e", data) };
    client.answer(handled(EventActions {
        leave: vec![channel("io:a")],
        join: vec![room("io:b")],
        emit: vec![
            published("io:b", "1"),
            Emitted::Own { channel: channel("io:*"), publication: event("own", "2") },
            published("io:*", "3"),
        ],
        acknowledge: Some(acknowledgement("[\"done\"]", 1)),
        end: false,
    }));
    assert_eq!(client.did(), ["leave io:a", "join io:b"], "who is told of it is to be there");
    client.answer(joined(None));
    assert_eq!(client.did(), ["live io:b", "publish io:b 1"]);
    client.answer(OutcomeResult::Published(Ok(())));
    assert_eq!(client.did(), ["publish io:* 3", r#"< 2["own",2]"#]);
    client.answer(OutcomeResult::Published(Ok(())));
    assert_eq!(client.did(), ["publish io:* \"later\"", r#"< 37["done"]"#]);
}

#[test]
fn what_goes_wrong_of_it_is_what_the_client_is_told() {
    let mut client = entered();
    client.says(r#"27["ask"]"#);
    client.did();
    let emit = vec![Emitted::Published { channel: channel("io:*"), publication: event("e", "1") }];
    client.answer(handled(EventActions { emit, ..EventActions::default() }));
    client.did();
    client.answer(OutcomeResult::Published(Err(Denial::of(ErrorCode::Internal))));
    assert_eq!(client.did(), [r#"< 37[{"status":"error","code":100,"message":"internal server error"}]"#]);
}

#[test]
fn the_application_may_end_a_clients_stay_in_a_namespace() {
    let mut client = entered();
    client.says(r#"27["ask"]"#);
    client.did();
    client.answer(handled(EventActions { end: true, ..EventActions::default() }));
    assert_eq!(client.did(), ["< 37[]", "leave io:*", "< 1"]);
    assert!(client.session.is_connected());
}

#[test]
fn what_follows_a_welcome_comes_behind_it() {
    let mut client = opened();
    client.says(r#"0{"a":1}"#);
    client.did();
    client.answer(authenticated(""));
    client.did();
    let emit = vec![Emitted::Own { channel: channel("io:*"), publication: event("auth", "{\"a\":1}") }];
    let room = ServerSubscription { channel: "io:lobby".into(), ..ServerSubscription::default() };
    let then = Some(Box::new(EventActions { emit, join: vec![room], ..EventActions::default() }));
    client.answer(OutcomeResult::Authorized(Ok(Grant { then, ..Grant::default() })));
    client.did();
    client.answer(joined(None));
    let welcome = format!("< 0{{\"sid\":\"{}\"}}", own_sid("/"));
    assert_eq!(client.did(), ["join io:lobby".to_owned(), welcome, "live io:*".to_owned()]);
    client.answer(joined(None));
    assert_eq!(client.did(), ["live io:lobby", r#"< 2["auth",{"a":1}]"#]);
}

#[test]
fn who_is_not_to_come_back_is_told_so_before_the_close() {
    let mut client = entered();
    client.session.handle_disconnect(Disconnect::FORCE_DISCONNECT);
    assert_eq!(client.did(), ["< 1", "close 3503"]);
    let mut client = entered();
    client.session.handle_disconnect(Disconnect::SHUTDOWN);
    assert_eq!(client.did(), ["close 3001"]);
}
