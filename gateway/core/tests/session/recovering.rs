//! Recovery of a channel: everything that was missed, or a plain answer that it is not there.

use gateway_core::effect::OutcomeResult;
use gateway_core::history::HistoryPage;
use gateway_core::session::SessionSettings;
use shared::error::ErrorCode;

use crate::support::{Client, error, joined, page, with_settings};

/// Recovers `log:a` from a position, with this answer of the broker.
fn recover(offset: u64, epoch: &str, answer: Option<HistoryPage>) -> Vec<String> {
    let mut client = Client::anonymous();
    let since = format!(r#""recover":true,"epoch":"{epoch}","offset":{offset}"#);
    client.says(&format!(r#"{{"id":2,"subscribe":{{"channel":"log:a",{since}}}}}"#));
    assert_eq!(client.did(), [format!("join log:a since {offset} limit 300 positioned present")]);
    client.answer(joined(answer));
    client.did()
}

#[test]
fn what_was_missed_is_in_the_reply_and_live_goes_on_from_the_top() {
    let reply = concat!(
        r#"< {"id":2,"subscribe":{"recoverable":true,"epoch":"life","offset":5,"#,
        r#""publications":[{"data":6,"offset":6},{"data":7,"offset":7}],"#,
        r#""recovered":true,"positioned":true,"was_recovering":true}}"#
    );
    assert_eq!(recover(5, "life", Some(page(&[6, 7], 7))), [reply, "live log:a @7"]);
}

#[test]
fn nothing_missed_is_recovered_too() {
    let reply = concat!(
        r#"< {"id":2,"subscribe":{"recoverable":true,"epoch":"life","offset":7,"#,
        r#""recovered":true,"positioned":true,"was_recovering":true}}"#
    );
    assert_eq!(recover(7, "life", Some(page(&[], 7))), [reply, "live log:a @7"]);
}

#[test]
fn an_empty_epoch_recovers_from_the_beginning() {
    assert!(recover(0, "", Some(page(&[1, 2], 2)))[0].contains(r#""recovered":true"#));
}

#[test]
fn what_is_gone_is_said_to_be_gone() {
    let reply = concat!(
        r#"< {"id":2,"subscribe":{"recoverable":true,"epoch":"life","offset":9,"#,
        r#""positioned":true,"was_recovering":true}}"#
    );
    assert_eq!(recover(5, "life", Some(page(&[7, 8, 9], 9))), [reply, "live log:a @9"], "too old");
    assert_eq!(recover(5, "life", Some(page(&[6, 7], 9))), [reply, "live log:a @9"], "too many");
    assert_eq!(recover(9, "_", Some(page(&[], 9))), [reply, "live log:a @9"], "another epoch");
    assert_eq!(recover(10, "life", Some(page(&[], 9))), [reply, "live log:a @9"], "from the future");
    assert_eq!(recover(u64::MAX, "life", Some(page(&[9], 9))), [reply, "live log:a @9"]);
}

#[test]
fn the_number_of_recovered_publications_is_a_setting() {
    let context = with_settings(SessionSettings { recovery_limit_max: 5, ..SessionSettings::default() });
    let mut client = Client::connected(context, Default::default());
    client.says(r#"{"id":2,"subscribe":{"channel":"recover:a","recover":true}}"#);
    assert_eq!(client.did(), ["join recover:a since 0 limit 5 positioned"]);
}

#[test]
fn nobody_is_given_a_history_that_they_may_not_read() {
    let mut client = Client::anonymous();
    let recover = r#""recover":true,"recoverable":true,"positioned":true,"epoch":"life","offset":2"#;
    client.says(&format!(r#"{{"id":2,"subscribe":{{"channel":"secret:a",{recover}}}}}"#));
    assert_eq!(client.did(), ["join secret:a limit 0 positioned"]);
    client.answer(joined(Some(page(&[3, 4], 4))));
    let reply =
        r#"< {"id":2,"subscribe":{"epoch":"life","offset":4,"positioned":true,"was_recovering":true}}"#;
    assert_eq!(client.did(), [reply, "live secret:a @4"]);
}

#[test]
fn a_channel_without_history_recovers_nothing() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"a","recover":true,"epoch":"life","offset":3}}"#);
    assert_eq!(client.did(), ["join a"]);
    client.answer(joined(None));
    assert_eq!(client.did(), [r#"< {"id":2,"subscribe":{"was_recovering":true}}"#, "live a"]);
}

#[test]
fn a_client_that_would_rather_know_gets_an_error() {
    let ask = r#"{"id":2,"subscribe":{"channel":"log:a","recover":true,"epoch":"life","offset":5,"flag":2}}"#;
    let mut client = Client::anonymous();
    client.says(ask);
    client.did();
    client.answer(joined(Some(page(&[8, 9], 9))));
    assert_eq!(client.did(), ["leave log:a".to_owned(), error(2, ErrorCode::UnrecoverablePosition)]);
    client.says(ask);
    assert_eq!(client.did(), ["join log:a since 5 limit 300 positioned present"]);
    client.answer(joined(Some(page(&[6], 6))));
    assert!(client.did()[0].contains(r#""recovered":true"#));
}

#[test]
fn a_broker_that_fails_is_told_as_something_to_try_again() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"subscribe":{"channel":"log:a","recover":true}}"#);
    client.did();
    client.answer(OutcomeResult::Joined(Err(ErrorCode::Internal)));
    assert_eq!(client.did(), ["leave log:a".to_owned(), error(2, ErrorCode::Internal)]);
}
