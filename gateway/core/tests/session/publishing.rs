//! The publish command.

use bytes::Bytes;
use gateway_core::effect::{Effect, Grant, Identity, OutcomeResult};
use gateway_core::session::Context;
use shared::error::ErrorCode;
use shared::id::UserId;

use crate::support::{CLIENT, Client, authenticated, context, error, joined, page};

fn publish(client: &mut Client, channel: &str) -> Vec<String> {
    client.says(&format!(r#"{{"id":3,"publish":{{"channel":"{channel}","data":{{"a":1}}}}}}"#));
    client.did()
}

#[test]
fn a_publication_is_answered_when_the_broker_has_it() {
    let mut client = Client::anonymous();
    assert_eq!(publish(&mut client, "news"), [r#"publish news {"a":1}"#]);
    client.answer(OutcomeResult::Published(Ok(())));
    assert_eq!(client.did(), [r#"< {"id":3,"publish":{}}"#]);
    assert_eq!(publish(&mut client, "log:a"), [r#"publish log:a {"a":1} kept"#]);
    client.answer(OutcomeResult::Published(Err(ErrorCode::Internal.into())));
    assert_eq!(client.did(), [error(3, ErrorCode::Internal)]);
}

#[test]
fn others_see_who_published() {
    let info = Some(Bytes::from_static(b"\"Ann\""));
    let identity = Identity { user: UserId::new("ann"), info: info.clone(), ..Identity::default() };
    let mut client = Client::connected(context(), identity);
    let chan_info = Some(Bytes::from_static(b"\"editor\""));
    let grant = Grant { user: UserId::new("ann"), info: chan_info.clone(), ..Grant::default() };
    client.subscribe_with_token("news", grant);
    client.says(r#"{"id":3,"publish":{"channel":"news","data":1}}"#);
    let Some(Effect::Publish { publication, .. }) = client.session.poll_effect() else {
        panic!("nothing published")
    };
    let seen = publication.info.unwrap();
    assert_eq!((seen.user.as_str(), seen.client.to_string().as_str()), ("ann", CLIENT));
    assert_eq!((seen.conn_info, seen.chan_info), (info, chan_info));
    assert_eq!(publication.position, None);
}

#[test]
fn what_no_rule_allows_is_denied() {
    let mut client = Client::user("ann");
    assert_eq!(publish(&mut client, "shut:a"), [error(3, ErrorCode::PermissionDenied)]);
    assert_eq!(publish(&mut client, "nowhere:a"), [error(3, ErrorCode::UnknownChannel)]);
    assert_eq!(publish(&mut client, "a b"), [error(3, ErrorCode::BadRequest)]);
}

#[test]
fn only_subscribers_publish_where_not_everyone_may_listen() {
    let mut client = Client::user("ann");
    for channel in ["$a", "named:a#bob", "named:a#ann"] {
        assert_eq!(publish(&mut client, channel), [error(3, ErrorCode::PermissionDenied)], "{channel}");
    }
    client.subscribe("named:a#ann");
    assert_eq!(publish(&mut client, "named:a#ann"), [r#"publish named:a#ann {"a":1}"#]);
}

#[test]
fn whoever_may_not_be_in_the_channel_does_not_publish_into_it() {
    for mut client in [Client::anonymous(), Client::user("ann")] {
        assert_eq!(publish(&mut client, "members:a"), [error(3, ErrorCode::PermissionDenied)]);
        client.says(r#"{"id":2,"subscribe":{"channel":"members:a"}}"#);
        client.did();
        client.answer(joined(Some(page(&[], 0))));
        client.did();
        assert_eq!(publish(&mut client, "members:a"), [r#"publish members:a {"a":1} kept"#]);
    }
}

#[test]
fn in_development_everything_is_allowed() {
    let mut client = Client::connected(Context { insecure: true, ..context() }, Identity::default());
    assert_eq!(publish(&mut client, "shut:a"), [r#"publish shut:a {"a":1} kept"#]);
}

#[test]
fn a_publication_needs_a_channel_and_data() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":3,"publish":{"channel":"news"}}"#);
    assert_eq!(client.did(), [error(3, ErrorCode::BadRequest)]);
    client.says(r#"{"id":3,"publish":{"data":1}}"#);
    assert_eq!(client.did(), ["close 3501"]);
}

#[test]
fn the_answer_to_another_question_is_an_error() {
    let mut client = Client::anonymous();
    publish(&mut client, "news");
    client.answer(authenticated("ann"));
    assert_eq!(client.did(), [error(3, ErrorCode::Internal)]);
}
