//! Channels that keep state by key: the state page by page, the stream, live.

use gateway_core::effect::{OutcomeResult, ServerSubscription};
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::push::UnsubscribeCode;

use crate::support::{Client, channel, joined, keys, page};

fn asks(client: &mut Client, id: u32, channel: &str, rest: &str) -> Vec<String> {
    client.says(&format!(r#"{{"id":{id},"subscribe":{{"channel":"{channel}","type":1{rest}}}}}"#));
    client.did()
}

/// The same state after the channel was cleared.
fn in_another_life(result: OutcomeResult) -> OutcomeResult {
    let OutcomeResult::State(Ok(mut page)) = result else { panic!("{result:?} is no state") };
    page.top = page.top.map(|top| StreamPosition { epoch: Epoch::from_random(2), ..top });
    OutcomeResult::State(Ok(page))
}

#[test]
fn a_state_of_one_page_is_read_and_what_came_since_is_in_the_same_reply() {
    let mut client = Client::anonymous();
    assert_eq!(asks(&mut client, 2, "state:a", r#","phase":2"#), ["state state:a limit 100"]);
    client.answer(keys(&[("k", 3)], Some(4), ""));
    assert_eq!(client.did(), ["join state:a since 4 limit 300 positioned"]);
    client.answer(joined(Some(page(&[5], 5))));
    let reply = concat!(
        r#"< {"id":2,"subscribe":{"recoverable":true,"epoch":"life","offset":5,"#,
        r#""publications":[{"data":5,"offset":5}],"#,
        r#""type":1,"state":[{"data":1,"offset":3,"key":"k"}]}}"#
    );
    assert_eq!(client.did(), [reply, "live state:a @5", "show seen:state:a"]);
    client.says(r#"{"id":3,"unsubscribe":{"channel":"state:a"}}"#);
    let did = client.did();
    assert_eq!(did[..2], ["leave state:a", "hide seen:state:a"]);
}

#[test]
fn later_pages_leave_out_what_comes_by_the_stream() {
    let mut client = Client::anonymous();
    asks(&mut client, 2, "state:a", r#","phase":2,"limit":2"#);
    client.answer(keys(&[("a", 1), ("b", 2)], Some(2), "b"));
    let reply = concat!(
        r#"< {"id":2,"subscribe":{"epoch":"life","offset":2,"type":1,"phase":2,"cursor":"b","#,
        r#""state":[{"data":1,"offset":1,"key":"a"},{"data":1,"offset":2,"key":"b"}]}}"#
    );
    assert_eq!(client.did(), [reply]);
    // Other commands do not wait until the client asks for the next page.
    client.says(r#"{"id":3,"presence":{"channel":"shut:a"}}"#);
    assert_eq!(client.did().len(), 1);
    let rest = r#","phase":2,"limit":2,"cursor":"b","offset":2,"epoch":"life""#;
    assert_eq!(asks(&mut client, 4, "state:a", rest), ["state state:a from b limit 2"]);
    client.answer(keys(&[("c", 3)], Some(3), ""));
    assert_eq!(client.did(), ["join state:a since 2 limit 300 positioned"]);
    client.answer(joined(Some(page(&[3], 3))));
    assert!(client.did()[0].contains(r#""publications":[{"data":3,"offset":3}],"type":1}"#));
}

#[test]
fn without_a_stream_publications_are_held_back_from_before_the_first_page_and_nobody_sees_numbers() {
    let mut client = Client::anonymous();
    let begins = ["join brief:a positioned"];
    assert_eq!(asks(&mut client, 2, "brief:a", r#","phase":2,"limit":1"#), begins);
    client.answer(joined(None));
    assert_eq!(client.did(), ["state brief:a limit 1"]);
    client.answer(keys(&[("a", 3)], Some(4), "a"));
    let reply = concat!(
        r#"< {"id":2,"subscribe":{"epoch":"life","type":1,"phase":2,"cursor":"a","#,
        r#""state":[{"data":1,"key":"a"}]}}"#
    );
    assert_eq!(client.did(), [reply]);
    asks(&mut client, 3, "brief:a", r#","phase":2,"limit":2,"cursor":"a""#);
    // Keys set since the first page are among what is held back.
    client.answer(keys(&[("b", 2), ("c", 5)], Some(900), ""));
    let reply = r#"< {"id":3,"subscribe":{"epoch":"life","type":1,"state":[{"data":1,"key":"b"}]}}"#;
    assert_eq!(client.did(), [reply, "live brief:a @4", "show seen:brief:a"]);
}

#[test]
fn whoever_wants_no_state_is_told_of_all_that_comes_after_where_the_channel_stands() {
    let mut client = Client::anonymous();
    assert_eq!(asks(&mut client, 2, "brief:a", r#","phase":0"#), ["join brief:a positioned"]);
    client.answer(joined(None));
    assert_eq!(client.did(), ["state brief:a limit 0"]);
    client.answer(keys(&[], Some(7), ""));
    let reply = r#"< {"id":2,"subscribe":{"epoch":"life","type":1}}"#;
    assert_eq!(client.did(), [reply, "live brief:a @7", "show seen:brief:a"]);
}

#[test]
fn a_channel_that_was_cleared_between_two_pages_is_read_from_the_beginning() {
    let mut client = Client::anonymous();
    asks(&mut client, 2, "brief:a", r#","phase":2,"limit":1"#);
    client.answer(joined(None));
    client.did();
    client.answer(keys(&[("a", 3)], Some(4), "a"));
    client.did();
    asks(&mut client, 3, "brief:a", r#","phase":2,"limit":1,"cursor":"a""#);
    client.answer(in_another_life(keys(&[], Some(0), "")));
    let did = client.did();
    assert!(did.iter().any(|line| line.contains(r#""code":112"#)), "{did:?}");
    assert!(did.contains(&"leave brief:a".to_owned()), "{did:?}");
}

#[test]
fn a_second_request_while_a_page_is_read_is_refused() {
    let mut client = Client::anonymous();
    asks(&mut client, 2, "state:a", r#","phase":2"#);
    let refused = asks(&mut client, 3, "state:a", r#","phase":2"#);
    assert!(refused[0].contains(r#""code":113"#), "{refused:?}");
    client.answer(keys(&[], Some(0), ""));
    assert_eq!(client.did(), ["join state:a since 0 limit 300 positioned"]);
}

#[test]
fn what_makes_no_sense_is_refused_as_the_reference_does() {
    for (channel, kind, rest, code) in [
        ("state:a", 0, "", 103),
        ("state:a", 2, r#","phase":2"#, 103),
        ("log:a", 1, r#","phase":2"#, 103),
        ("state:a", 1, r#","phase":2,"cursor":"x""#, 103),
        ("state:a", 1, r#","phase":1"#, 103),
        ("brief:a", 1, r#","phase":1,"recover":true"#, 107),
        ("brief:a", 1, r#","phase":0,"recover":true"#, 112),
        ("state:a", 1, r#","phase":7"#, 107),
    ] {
        let mut client = Client::anonymous();
        client.says(&format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}","type":{kind}{rest}}}}}"#));
        let did = client.did();
        assert!(
            did.len() == 1 && did[0].contains(&format!(r#""code":{code},"#)),
            "{channel} {rest}: {did:?}"
        );
    }
}

#[test]
fn who_comes_back_is_given_what_it_missed_or_told_that_this_is_not_there() {
    let recover = r#","phase":1,"recover":true,"offset":5,"epoch":"life""#;
    let mut client = Client::anonymous();
    assert_eq!(asks(&mut client, 2, "state:a", recover), ["join state:a since 5 limit 300 positioned"]);
    client.answer(joined(Some(page(&[6, 7], 7))));
    let reply = client.did().remove(0);
    assert!(reply.contains(r#""recovered":true"#) && reply.contains(r#""was_recovering":true"#), "{reply}");
    assert!(reply.contains(r#""offset":7,"publications""#), "{reply}");

    let mut client = Client::anonymous();
    asks(&mut client, 2, "state:a", r#","phase":1,"recover":true,"offset":5,"epoch":"other""#);
    client.answer(joined(Some(page(&[6, 7], 7))));
    assert!(client.did().iter().any(|line| line.contains(r#""code":112"#)));
}

#[test]
fn who_is_far_behind_reads_the_stream_page_by_page() {
    let mut client = Client::anonymous();
    let recover = r#","phase":1,"recover":true,"limit":2,"offset":5,"epoch":"life""#;
    asks(&mut client, 2, "state:a", recover);
    // More was missed than one read returns.
    client.answer(joined(Some(page(&[], 900))));
    assert_eq!(client.did(), ["leave state:a", "history state:a since 5 limit 2"]);
    client.answer(OutcomeResult::History(Ok(page(&[6, 7], 900))));
    let reply = concat!(
        r#"< {"id":2,"subscribe":{"epoch":"life","offset":7,"#,
        r#""publications":[{"data":6,"offset":6},{"data":7,"offset":7}],"type":1,"phase":1}}"#
    );
    assert_eq!(client.did(), [reply]);
    let next = r#","phase":1,"limit":2,"offset":7,"epoch":"life""#;
    assert_eq!(asks(&mut client, 3, "state:a", next), ["join state:a since 7 limit 300 positioned"]);
    client.answer(joined(Some(page(&[], 900))));
    client.did();
    client.answer(OutcomeResult::History(Ok(page(&[899, 900], 900))));
    assert!(client.did()[0].contains(r#""code":112"#), "the part between is gone");
}

#[test]
fn who_takes_too_long_holds_nothing_back_and_is_closed_when_it_goes_on() {
    let mut client = Client::anonymous();
    asks(&mut client, 2, "brief:a", r#","phase":2,"limit":1"#);
    client.answer(joined(None));
    client.did();
    client.answer(keys(&[("a", 1)], Some(1), "a"));
    client.did();
    client.waits_ms(4_999);
    assert!(!client.did().contains(&"leave brief:a".to_owned()));
    client.waits_ms(2);
    assert!(client.did().contains(&"leave brief:a".to_owned()));
    let did = asks(&mut client, 3, "brief:a", r#","phase":2,"limit":1,"cursor":"a""#);
    assert_eq!(did, ["close 3008"]);
}

#[test]
fn the_server_can_end_what_is_on_its_way() {
    let ended: Channel = channel("brief:a");
    let mut client = Client::anonymous();
    asks(&mut client, 2, "brief:a", r#","phase":2,"limit":1"#);
    client.answer(joined(None));
    client.did();
    client.answer(keys(&[("a", 1)], Some(1), "a"));
    client.did();
    client.session.handle_unsubscribe(&ended, UnsubscribeCode::Server);
    let did = client.did();
    assert!(did[0] == "leave brief:a" && did[1].contains(r#""unsubscribe":{"code":2000"#), "{did:?}");
}

#[test]
fn keys_are_published_by_those_who_may_and_nothing_else_is_published_there() {
    let mut client = Client::anonymous();
    let publish = |client: &mut Client, rest: &str| {
        client.says(&format!(r#"{{"id":5,"publish":{{"channel":"state:a",{rest}}}}}"#));
        client.did().remove(0)
    };
    let key = r#""type":1,"key":"k","data":1"#;
    assert!(publish(&mut client, key).contains(r#""code":103"#), "it is no subscriber");
    asks(&mut client, 2, "state:a", r#","phase":2"#);
    client.answer(keys(&[], Some(0), ""));
    client.did();
    client.answer(joined(Some(page(&[], 0))));
    client.did();
    assert_eq!(publish(&mut client, key), "key state:a k 1");
    client.answer(OutcomeResult::Published(Ok(())));
    client.did();
    assert!(publish(&mut client, r#""type":1,"key":"","data":1"#).contains(r#""code":107"#));
    assert!(publish(&mut client, r#""type":1,"key":"k","removed":true"#).contains(r#""code":103"#));
    assert!(publish(&mut client, r#""data":1"#).contains(r#""code":103"#));
}

#[test]
fn one_that_the_server_subscribes_is_told_of_changes_and_nothing_else() {
    let mut client = Client::anonymous();
    for (name, given) in [("state:a", Some(page(&[], 4))), ("brief:a", None)] {
        let wanted = ServerSubscription { channel: name.into(), ..ServerSubscription::default() };
        assert_eq!(client.session.handle_subscribe(client.now, wanted, None), Ok(()));
        let position = if given.is_some() { " limit 0" } else { "" };
        assert_eq!(client.did(), [format!("join {name}{position}")]);
        client.answer(joined(given));
        let push = format!(r#"< {{"push":{{"channel":"{name}","subscribe":{{}}}}}}"#);
        let did = client.did();
        assert_eq!(did[0], push);
        assert!(did[1].starts_with("live ") && did[2].starts_with("show "), "{did:?}");
    }
}
