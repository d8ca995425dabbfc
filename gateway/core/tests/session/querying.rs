//! The commands that only read: history, presence, presence_stats.

use std::sync::Arc;

use gateway_core::channel_rules::ChannelOptions;
use gateway_core::effect::{Identity, OutcomeResult, PresenceStats};
use gateway_core::session::{Context, SessionSettings};
use shared::error::ErrorCode;
use shared::id::{ClientId, UserId};
use shared::publication::ClientInfo;

use crate::support::{CLIENT, Client, context, error, joined, page, with_settings};

fn subscribed() -> Client {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"log:a"}}"#);
    client.did();
    client.answer(joined(Some(page(&[], 0))));
    client.did();
    client
}

fn history(client: &mut Client, rest: &str) -> Vec<String> {
    client.says(&format!(r#"{{"id":3,"history":{{"channel":"log:a"{rest}}}}}"#));
    client.did()
}

#[test]
fn history_is_read_and_told() {
    let mut client = subscribed();
    assert_eq!(history(&mut client, r#","limit":2"#), ["history log:a limit 2"]);
    client.answer(OutcomeResult::History(Ok(page(&[1, 2], 9))));
    let publications = r#"[{"data":1,"offset":1},{"data":2,"offset":2}]"#;
    let reply =
        format!(r#"< {{"id":3,"history":{{"publications":{publications},"epoch":"life","offset":9}}}}"#);
    assert_eq!(client.did(), [reply]);
}

#[test]
fn a_limit_of_zero_asks_for_the_position_and_a_negative_one_for_all_that_is_allowed() {
    let context = with_settings(SessionSettings { history_limit_max: 50, ..SessionSettings::default() });
    let mut client = Client::connected(Context { insecure: true, ..context }, Identity::default());
    for (rest, limit) in [("", 0), (r#","limit":-1"#, 50), (r#","limit":51"#, 50), (r#","limit":49"#, 49)] {
        assert_eq!(history(&mut client, rest), [format!("history log:a limit {limit}")]);
        client.answer(OutcomeResult::History(Ok(page(&[], 0))));
        client.did();
    }
}

#[test]
fn history_can_be_read_from_a_position_in_both_directions() {
    let mut client = subscribed();
    let since = r#","limit":5,"since":{"offset":4,"epoch":"life"}"#;
    assert_eq!(history(&mut client, since), ["history log:a since 4 limit 5"]);
    client.answer(OutcomeResult::History(Ok(page(&[5], 5))));
    client.did();
    let reverse = format!("{since},\"reverse\":true");
    assert_eq!(history(&mut client, &reverse), ["history log:a since 4 limit 5 reverse"]);
    client.answer(OutcomeResult::History(Ok(page(&[3, 2, 1], 5))));
    assert!(client.did()[0].contains(r#"[{"data":3,"offset":3},{"data":2,"offset":2},"#));
    let before_the_first = r#","limit":5,"since":{"epoch":"life"},"reverse":true"#;
    assert_eq!(history(&mut client, before_the_first), [error(3, ErrorCode::BadRequest)]);
}

#[test]
fn a_position_of_another_epoch_is_no_position() {
    let mut client = subscribed();
    for (epoch, known) in
        [("life", true), ("", true), ("death", false), ("far too long for an epoch of ours", false)]
    {
        history(&mut client, &format!(r#","limit":5,"since":{{"offset":4,"epoch":"{epoch}"}}"#));
        client.answer(OutcomeResult::History(Ok(page(&[], 4))));
        let did = client.did();
        assert_eq!(did[0] == error(3, ErrorCode::UnrecoverablePosition), !known, "{epoch}");
    }
}

#[test]
fn history_and_presence_without_a_subscription_take_options_of_their_own() {
    let mut context = context();
    let open = ChannelOptions {
        allow_history_for_client: true,
        allow_presence_for_anonymous: true,
        ..(**context.rules.namespaces.get("log").unwrap()).clone()
    };
    context.rules.namespaces.insert("open".into(), Arc::new(open));
    let denied = [error(3, ErrorCode::PermissionDenied)];
    for (user, reads_history) in [("ann", true), ("", false)] {
        let identity = Identity { user: UserId::new(user), ..Identity::default() };
        let mut client = Client::connected(context.clone(), identity);
        client.says(r#"{"id":3,"history":{"channel":"open:a","limit":2}}"#);
        let expected = if reads_history { ["history open:a limit 2".to_owned()] } else { denied.clone() };
        assert_eq!(client.did(), expected);
        if reads_history {
            client.answer(OutcomeResult::History(Ok(page(&[], 0))));
            client.did();
        }
        client.says(r#"{"id":3,"presence_stats":{"channel":"open:a"}}"#);
        let expected = if user.is_empty() { ["presence_stats open:a".to_owned()] } else { denied.clone() };
        assert_eq!(client.did(), expected);
    }
}

#[test]
fn a_failed_read_is_told() {
    let mut client = subscribed();
    history(&mut client, "");
    client.answer(OutcomeResult::History(Err(ErrorCode::Internal)));
    assert_eq!(client.did(), [error(3, ErrorCode::Internal)]);
}

#[test]
fn presence_is_read_and_told() {
    let mut client = subscribed();
    client.says(r#"{"id":3,"presence":{"channel":"log:a"}}"#);
    assert_eq!(client.did(), ["presence log:a"]);
    let client_id = ClientId::from_random(7);
    let info = ClientInfo { client: client_id, user: UserId::new("ann"), conn_info: None, chan_info: None };
    client.answer(OutcomeResult::Presence(Ok(vec![info])));
    let presence = format!(r#"{{"{CLIENT}":{{"user":"ann","client":"{CLIENT}"}}}}"#);
    assert_eq!(client.did(), [format!(r#"< {{"id":3,"presence":{{"presence":{presence}}}}}"#)]);

    client.says(r#"{"id":4,"presence_stats":{"channel":"log:a"}}"#);
    assert_eq!(client.did(), ["presence_stats log:a"]);
    client.answer(OutcomeResult::PresenceStats(Ok(PresenceStats { clients: 3, users: 2 })));
    assert_eq!(client.did(), [r#"< {"id":4,"presence_stats":{"num_clients":3,"num_users":2}}"#]);

    client.says(r#"{"id":5,"presence":{"channel":"log:a"}}"#);
    client.did();
    client.answer(OutcomeResult::Presence(Err(ErrorCode::Internal)));
    assert_eq!(client.did(), [error(5, ErrorCode::Internal)]);
}

#[test]
fn each_query_is_refused_for_the_right_reason() {
    let mut client = Client::anonymous();
    for query in ["history", "presence", "presence_stats"] {
        for (channel, reason) in [
            ("nowhere:a", ErrorCode::UnknownChannel),
            ("news", ErrorCode::NotAvailable),
            ("shut:a", ErrorCode::PermissionDenied),
            ("log:a", ErrorCode::PermissionDenied),
            ("a b", ErrorCode::BadRequest),
        ] {
            client.says(&format!(r#"{{"id":3,"{query}":{{"channel":"{channel}"}}}}"#));
            assert_eq!(client.did(), [error(3, reason)], "{query} of {channel}");
        }
        let mut client = Client::anonymous();
        client.says(&format!(r#"{{"id":3,"{query}":{{}}}}"#));
        assert_eq!(client.did(), ["close 3501"], "{query}");
    }
}

#[test]
fn in_development_nobody_needs_to_subscribe_first() {
    let mut client = Client::connected(Context { insecure: true, ..context() }, Identity::default());
    for (query, did) in [
        ("history", "history shut:a limit 0"),
        ("presence", "presence shut:a"),
        ("presence_stats", "presence_stats shut:a"),
    ] {
        client.says(&format!(r#"{{"id":3,"{query}":{{"channel":"shut:a"}}}}"#));
        assert_eq!(client.did(), [did]);
        client.answer(OutcomeResult::Published(Ok(())));
        assert_eq!(client.did(), [error(3, ErrorCode::Internal)]);
    }
}
