//! Large answers, and clients that take them slowly.

use bytes::Bytes;
use gateway_core::effect::{DeliveryTerms, Effect, GoLive, Identity, OutcomeResult};
use gateway_core::history::HistoryPage;
use gateway_core::session::{READS_FAILED_MAX, SessionSettings};
use shared::error::ErrorCode;
use shared::publication::{ClientInfo, Payload, Publication};
use shared::push::UnsubscribeCode;

use crate::support::{Client, channel, error, joined, page, position, with_settings};

/// One publication of this size fills a piece.
const LARGE: usize = 900;

fn client() -> Client {
    let settings =
        SessionSettings { reply_bytes_max: 1_100, recovery_limit_max: 10, ..SessionSettings::default() };
    Client::connected(with_settings(settings), Identity::default())
}

/// A stream that ends at `top`, with these large publications read from it.
fn large(offsets: std::ops::RangeInclusive<u64>, top: u64) -> HistoryPage {
    let publications = offsets.map(|offset| {
        let data = Payload::json(format!("{offset:0>LARGE$}"));
        Publication { position: Some(position(offset)), ..Publication::new(data) }
    });
    HistoryPage { publications: publications.collect(), top: position(top) }
}

const FROM_TWO: &str =
    r#"{"id":2,"subscribe":{"channel":"recover:a","recover":true,"epoch":"life","offset":2}}"#;

/// The effects, with the numbers of publications in place of their data.
fn did(client: &mut Client) -> Vec<String> {
    let short = |line: String| {
        let zeros = "0".repeat(LARGE - 1);
        line.replace(&format!(r#""data":{zeros}"#), "")
    };
    client.did().into_iter().map(short).collect()
}

fn piece(offset: u64) -> String {
    format!(r#"< {{"push":{{"channel":"recover:a","pub":{{{offset},"offset":{offset}}}}}}}"#)
}

#[test]
fn a_recovery_of_many_bytes_begins_in_the_reply_and_goes_on_as_the_client_takes_it() {
    let mut client = client();
    client.says(FROM_TWO);
    assert_eq!(did(&mut client), ["join recover:a since 2 limit 10 positioned"]);
    client.answer(joined(Some(large(3..=5, 5))));
    let reply = concat!(
        r#"< {"id":2,"subscribe":{"recoverable":true,"epoch":"life","offset":2,"publications":[{3,"offset":3}],"#,
        r#""recovered":true,"positioned":true,"was_recovering":true}}"#
    );
    assert_eq!(did(&mut client), [reply, "await room"]);
    client.answer(OutcomeResult::Room);
    assert_eq!(did(&mut client), ["join recover:a since 3 limit 2 positioned"]);
    // Meanwhile more was published than a recovery may return.
    client.answer(joined(Some(large(4..=5, 90))));
    assert_eq!(did(&mut client), [piece(4), "await room".to_owned()]);
    client.answer(OutcomeResult::Room);
    did(&mut client);
    client.answer(joined(Some(large(5..=5, 5))));
    assert_eq!(did(&mut client), [piece(5), "live recover:a @5".to_owned(), "await room".to_owned()]);
    client.answer(OutcomeResult::Room);
    assert_eq!(did(&mut client), [""; 0]);
}

#[test]
fn what_history_does_not_hold_any_more_is_told() {
    for lost in [joined(Some(large(5..=6, 6))), joined(Some(page(&[], 9)))] {
        let mut client = client();
        client.says(FROM_TWO);
        did(&mut client);
        client.answer(joined(Some(large(3..=5, 5))));
        did(&mut client);
        client.answer(OutcomeResult::Room);
        did(&mut client);
        client.answer(lost);
        let told =
            r#"< {"push":{"channel":"recover:a","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#;
        assert_eq!(did(&mut client), ["leave recover:a", told, "await room"]);
        client.says(FROM_TWO);
        assert_eq!(did(&mut client), ["join recover:a since 2 limit 10 positioned"]);
    }
}

#[test]
fn a_piece_that_cannot_be_read_is_tried_again_a_few_times() {
    let mut client = client();
    client.says(FROM_TWO);
    did(&mut client);
    client.answer(joined(Some(large(3..=5, 5))));
    did(&mut client);
    for failed in 1..=READS_FAILED_MAX {
        client.answer(OutcomeResult::Room);
        assert_eq!(did(&mut client), ["join recover:a since 3 limit 2 positioned"]);
        client.answer(OutcomeResult::Joined(Err(ErrorCode::Internal)));
        let expected = if failed < READS_FAILED_MAX { "await room" } else { "leave recover:a" };
        assert_eq!(did(&mut client)[0], expected);
    }
}

#[test]
fn one_recovery_at_a_time_is_sent_and_the_others_begin_with_nothing() {
    let mut client = client();
    for (id, name) in [(2, "a"), (3, "b")] {
        let recover = r#""recover":true,"epoch":"life","offset":2"#;
        client.says(&format!(r#"{{"id":{id},"subscribe":{{"channel":"recover:{name}",{recover}}}}}"#));
    }
    did(&mut client);
    client.answer_for("recover:a", joined(Some(large(3..=4, 4))));
    client.answer_for("recover:b", joined(Some(large(3..=3, 3))));
    let both = did(&mut client);
    let (first, second) = both[0].split_once('\n').unwrap();
    assert!(first.contains(r#""publications":[{3,"offset":3}],"recovered":true"#), "{first}");
    assert!(second.contains(r#""offset":2,"recovered":true"#), "{second}");
    assert_eq!(both[1..], ["await room"]);
    client.answer(OutcomeResult::Room);
    assert_eq!(did(&mut client), ["join recover:a since 3 limit 2 positioned"]);
    client.answer(joined(Some(large(4..=4, 4))));
    assert_eq!(did(&mut client)[1..], ["live recover:a @4", "await room"]);
    client.answer(OutcomeResult::Room);
    assert_eq!(did(&mut client), ["join recover:b since 2 limit 2 positioned"]);
    client.answer(joined(Some(large(3..=3, 3))));
    assert_eq!(did(&mut client)[1..], ["live recover:b @3", "await room"]);
}

#[test]
fn whoever_leaves_midway_is_left_and_the_next_goes_on() {
    for (ended_by_server, while_reading) in [(false, false), (false, true), (true, true), (true, false)] {
        let mut client = client();
        for name in ["a", "b"] {
            let recover = r#""recover":true,"epoch":"life","offset":2"#;
            client.says(&format!(r#"{{"id":2,"subscribe":{{"channel":"recover:{name}",{recover}}}}}"#));
            did(&mut client);
            client.answer_for(&format!("recover:{name}"), joined(Some(large(3..=5, 5))));
            did(&mut client);
        }
        if while_reading {
            client.answer(OutcomeResult::Room);
            assert_eq!(did(&mut client), ["join recover:a since 3 limit 2 positioned"]);
        }
        if ended_by_server {
            client.session.handle_unsubscribe(&channel("recover:a"), UnsubscribeCode::Server);
        } else {
            client.says(r#"{"id":9,"unsubscribe":{"channel":"recover:a"}}"#);
        }
        assert_eq!(did(&mut client)[0], "leave recover:a");
        if while_reading {
            client.answer(joined(Some(large(4..=5, 5))));
            assert_eq!(did(&mut client), ["await room"], "nothing is said of a channel that was left");
        }
        client.answer(OutcomeResult::Room);
        assert_eq!(did(&mut client), ["join recover:b since 2 limit 2 positioned"]);
    }
}

#[test]
fn what_was_held_back_without_joining_on_is_read_from_history() {
    let mut client = client();
    client.says(r#"{"id":2,"subscribe":{"channel":"recover:a"}}"#);
    client.did();
    client.answer(joined(Some(page(&[], 7))));
    assert_eq!(client.did()[1], "live recover:a @7");
    let go_live = |position, may_read_on| GoLive {
        channel: channel("recover:a"),
        position,
        has_last: false,
        terms: DeliveryTerms { positioned: true, ..DeliveryTerms::default() },
        may_read_on,
    };
    assert!(!client.session.handle_gap(&go_live(Some(position(7)), false)));
    assert!(!client.session.handle_gap(&go_live(None, true)));
    assert!(client.session.handle_gap(&go_live(Some(position(7)), true)));
    assert_eq!(client.did(), ["await room"]);
    client.answer(OutcomeResult::Room);
    assert_eq!(client.did(), ["join recover:a since 7 limit 10 positioned"]);
    client.answer(joined(Some(page(&[8, 9], 9))));
    let did = client.did();
    assert!(did[0].contains(r#""offset":8"#) && did[0].contains(r#""offset":9"#), "{did:?}");
    assert_eq!(did[1..], ["live recover:a @9", "await room"]);
}

#[test]
fn a_piece_with_nothing_in_it_is_the_last() {
    let mut client = client();
    client.says(r#"{"id":2,"subscribe":{"channel":"recover:a"}}"#);
    client.did();
    client.answer(joined(Some(page(&[], 7))));
    client.did();
    let hole = |at| GoLive {
        channel: channel("recover:a"),
        position: Some(position(at)),
        has_last: false,
        terms: DeliveryTerms { positioned: true, ..DeliveryTerms::default() },
        may_read_on: true,
    };
    for (at, read, may_read_on) in [(7, page(&[8], 8), true), (8, page(&[], 8), false)] {
        assert!(client.session.handle_gap(&hole(at)));
        client.did();
        client.answer(OutcomeResult::Room);
        client.did();
        client.answer(joined(Some(read)));
        let mut effects = std::iter::from_fn(|| client.session.poll_effect());
        let goes_live = effects.find_map(|effect| match effect {
            Effect::GoLive(go_live) => Some(go_live.may_read_on),
            _ => None,
        });
        assert_eq!(goes_live, Some(may_read_on));
        client.did();
        client.answer(OutcomeResult::Room);
    }
}

#[test]
fn a_history_of_many_bytes_is_answered_with_a_part() {
    let mut client = client();
    client.says(r#"{"id":2,"subscribe":{"channel":"recover:a"}}"#);
    client.did();
    client.answer(joined(Some(page(&[], 7))));
    client.did();
    let history = r#"{"id":3,"history":{"channel":"recover:a","limit":5}}"#;
    client.says(&[history; 4].join("\n"));
    for round in 0..2 {
        assert!(did(&mut client).contains(&"history recover:a limit 5".to_owned()), "round {round}");
        client.answer_for("recover:a", OutcomeResult::History(Ok(large(1..=5, 5))));
    }
    let last = did(&mut client);
    let reply = r#"< {"id":3,"history":{"publications":[{1,"offset":1}],"epoch":"life","offset":5}}"#;
    assert!(last.contains(&reply.to_owned()), "{last:?}");
    assert!(
        !last.contains(&"history recover:a limit 5".to_owned()),
        "the client is to take the last two first"
    );
    client.answer_for("room", OutcomeResult::Room);
    assert_eq!(did(&mut client), ["history recover:a limit 5"]);
}

#[test]
fn one_publication_of_any_size_is_a_piece() {
    let context = with_settings(SessionSettings { reply_bytes_max: 10, ..SessionSettings::default() });
    let mut client = Client::connected(context, Identity::default());
    client.says(FROM_TWO);
    did(&mut client);
    client.answer(joined(Some(large(3..=4, 4))));
    let did = did(&mut client);
    assert!(did[0].contains(r#"[{3,"offset":3}]"#), "{did:?}");
}

#[test]
fn the_presence_of_more_than_a_reply_holds_is_refused() {
    let settings = SessionSettings { presence_bytes_max: 1_024, ..SessionSettings::default() };
    let mut client = Client::connected(with_settings(settings), Identity::default());
    client.says(r#"{"id":2,"subscribe":{"channel":"log:a"}}"#);
    client.did();
    client.answer(joined(Some(page(&[], 0))));
    client.did();
    for (bytes, refused) in [(700, false), (1_000, true)] {
        client.says(r#"{"id":3,"presence":{"channel":"log:a"}}"#);
        client.did();
        let conn_info = Some(Bytes::from(format!("\"{}\"", "x".repeat(bytes))));
        let info = ClientInfo {
            client: client.session.client(),
            user: client.session.user().clone(),
            conn_info,
            chan_info: None,
        };
        client.answer(OutcomeResult::Presence(Ok(vec![info])));
        assert_eq!(client.did()[0] == error(3, ErrorCode::LimitExceeded), refused);
    }
}
