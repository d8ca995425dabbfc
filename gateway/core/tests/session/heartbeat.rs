//! Pings, pongs, and clients that are gone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_core::effect::{Effect, Identity, Outcome, OutcomeResult};
use gateway_core::namespace_id::NamespaceId;
use gateway_core::session::{ConnectionKind, Context, Opening, Session, SessionObserver, SessionSettings};
use shared::disconnect::Disconnect;
use shared::framing::{Message, MessageKind};
use shared::id::ClientId;
use shared::moment::Moment;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::refusal::Refusal;

use crate::support::{Client, context, with_settings};

#[test]
fn a_ping_comes_every_interval_and_is_answered() {
    let mut client = Client::anonymous();
    client.waits_ms(12_499);
    assert_eq!(client.did(), [""; 0]);
    client.waits_ms(1);
    assert_eq!(client.did(), ["< {}"], "the seed of zero is the earliest: half an interval");
    for delay in [0, 7_999, 100] {
        client.waits_ms(delay);
        client.says("{}");
        client.waits_ms(24_999 - delay);
        assert_eq!(client.did(), [""; 0]);
        client.waits_ms(1);
        assert_eq!(client.did(), ["< {}"]);
    }
}

#[test]
fn pings_come_every_interval_also_where_an_answer_may_take_longer() {
    let settings =
        SessionSettings { ping_interval_ms: 1_000, pong_timeout_ms: 5_000, ..SessionSettings::default() };
    let mut client = Client::connected(with_settings(settings), Identity::default());
    client.waits_ms(500);
    for delay in [0, 300, 1_000, 3_000] {
        assert_eq!(client.did(), ["< {}"]);
        client.waits_ms(delay);
        client.says("{}");
        client.waits_ms(1_000_u64.saturating_sub(delay));
    }
    assert_eq!(client.did(), ["< {}"]);
    client.waits_ms(4_999);
    assert_eq!(client.did(), [""; 0]);
    client.waits_ms(1);
    assert_eq!(client.did(), ["close 3012"]);
}

#[test]
fn a_client_that_does_not_answer_is_gone() {
    let mut client = Client::anonymous();
    client.waits_ms(12_500);
    assert_eq!(client.did(), ["< {}"]);
    client.waits_ms(7_999);
    assert_eq!(client.did(), [""; 0]);
    client.waits_ms(1);
    assert_eq!(client.did(), ["close 3012"]);
}

#[test]
fn whatever_comes_from_a_client_shows_that_it_is_there() {
    let mut client = Client::anonymous();
    client.waits_ms(12_500);
    for _ in 0..300 {
        assert_eq!(client.did(), ["< {}"]);
        // The client writes all the time and never answers.
        client.says(r#"{"id":2,"unsubscribe":{"channel":"a"}}"#);
        client.did();
        client.waits_ms(24_999);
        assert_eq!(client.did(), [""; 0]);
        client.waits_ms(1);
    }
    client.did();
    client.session.handle_sign_of_life();
    client.waits_ms(8_000);
    assert!(!client.session.is_closed(), "a part of a message is a sign too");
    client.waits_ms(17_000);
    assert_eq!(client.did(), ["< {}"]);
    client.waits_ms(8_000);
    assert_eq!(client.did(), ["close 3012"], "silent since the last ping");
}

#[test]
fn what_came_before_a_ping_is_no_answer_to_it() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"unsubscribe":{"channel":"a"}}"#);
    client.did();
    client.waits_ms(20_500);
    assert_eq!(client.did(), ["< {}", "close 3012"]);
}

#[test]
fn a_pong_may_come_late_from_a_client_that_writes() {
    let mut client = Client::anonymous();
    client.waits_ms(12_500);
    client.says(r#"{"id":2,"unsubscribe":{"channel":"a"}}"#);
    client.waits_ms(10_000);
    client.says("{}");
    client.waits_ms(15_000);
    client.says("{}");
    client.did();
    assert!(!client.session.is_closed());
    client.says("{}");
    assert_eq!(client.did(), ["close 3501"], "nobody asked for a third");
}

#[test]
fn a_pong_that_nobody_asked_for_closes() {
    let mut early = Client::anonymous();
    early.says("{}");
    assert_eq!(early.did(), ["close 3501"]);

    let mut twice = Client::anonymous();
    twice.waits_ms(12_500);
    twice.says("{}\n{}");
    assert_eq!(twice.did(), ["< {}", "close 3501"]);
}

#[test]
fn a_pong_does_not_wait_behind_a_slow_command() {
    let mut client = Client::anonymous();
    client
        .says("{\"id\":2,\"publish\":{\"channel\":\"a\",\"data\":1}}\n{\"id\":3,\"rpc\":{\"method\":\"m\"}}");
    client.waits_ms(12_500);
    assert_eq!(client.did(), ["publish a 1", "< {}"]);
    client.says("{}");
    client.waits_ms(20_000);
    assert_eq!(client.did(), [""; 0]);
}

#[test]
fn a_client_that_is_not_read_from_has_time_for_its_pong_afterwards() {
    let settings = SessionSettings { queued_commands_max: 4, ..SessionSettings::default() };
    let mut client = Client::connected(with_settings(settings), Identity::default());
    client.says(&[r#"{"id":2,"publish":{"channel":"a","data":1}}"#; 3].join("\n"));
    assert!(client.session.is_congested());
    client.waits_ms(12_500);
    assert_eq!(client.did(), ["publish a 1", "< {}"]);
    client.waits_ms(30_000);
    assert_eq!(client.did(), [""; 0], "its pong may lie unread");
    client.answer(OutcomeResult::Published(Ok(())));
    assert!(!client.session.is_congested());
    client.did();
    client.waits_ms(7_999);
    assert_eq!(client.did(), [""; 0]);
    client.waits_ms(1);
    assert_eq!(client.did(), ["close 3012"]);
}

#[test]
fn the_transports_own_pong_is_no_pong_of_the_protocol() {
    let mut client = Client::anonymous();
    client.waits_ms(12_500);
    client.did();
    client.session.handle_transport_pong(client.now);
    client.waits_ms(8_000);
    assert_eq!(client.did(), ["close 3012"]);
}

#[test]
fn first_pings_are_spread_over_half_an_interval() {
    let context = Arc::new(context());
    let first_ping = |seed: u64| {
        let opening = Opening {
            client: ClientId::from_random(7),
            protocol: Arc::new(CentrifugeJson::default()),
            context: context.clone(),
            connection_kind: ConnectionKind::Bidirectional,
            connect: None,
            seed,
        };
        let mut session = Session::open(Moment::ZERO, opening);
        let message = Message { kind: MessageKind::Text, data: br#"{"id":1,"connect":{}}"# };
        session.handle_message(Moment::ZERO, message);
        let Some(gateway_core::effect::Effect::Authenticate { ticket, .. }) = session.poll_effect() else {
            panic!("not authenticated")
        };
        let result = gateway_core::effect::OutcomeResult::Authenticated(Ok(Default::default()));
        session.handle_outcome(Moment::ZERO, gateway_core::effect::Outcome { ticket, result });
        session.poll_timeout().unwrap()
    };
    // Multiples of a large odd number are as good as random here.
    let moments: Vec<Moment> =
        (0..1_000).map(|n: u64| first_ping(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let (first, last) = (moments.iter().min().unwrap(), moments.iter().max().unwrap());
    assert!(*first >= Moment(12_500) && *last <= Moment(25_000));
    assert!(last.since(*first) > Duration::from_secs(12), "{first:?} to {last:?}");
}

/// A session on a wire that requires a sign of life before the client says anything.
fn connecting_at_once() -> Session {
    connecting_at_once_by(0)
}

fn connecting_at_once_by(seed: u64) -> Session {
    let settings = SessionSettings { connect_timeout_ms: 45_000, ..SessionSettings::default() };
    let opening = Opening {
        client: ClientId::from_random(7),
        protocol: Arc::new(CentrifugeJson { transport_pings: true, ..CentrifugeJson::default() }),
        context: Arc::new(with_settings(settings)),
        connection_kind: ConnectionKind::Bidirectional,
        connect: None,
        seed,
    };
    Session::open(Moment::ZERO, opening).pinging_at_once(Moment::ZERO)
}

#[test]
fn a_client_that_is_asked_from_the_beginning_is_asked_in_time() {
    let latest = connecting_at_once_by(12_500);
    assert_eq!(latest.poll_timeout(), Some(Moment(21_875)), "seven eighths of 25 seconds");
}

#[test]
fn a_client_that_is_asked_from_the_beginning_has_its_time_to_connect_nonetheless() {
    let mut session = connecting_at_once();
    for at in [12_500, 37_500] {
        assert_eq!(session.poll_timeout(), Some(Moment(at)));
        session.handle_timeout(Moment(at));
        assert_eq!(session.poll_effect(), Some(Effect::Ping));
        session.handle_transport_pong(Moment(at));
    }
    assert_eq!(session.poll_timeout(), Some(Moment(45_000)));
    session.handle_timeout(Moment(45_000));
    assert_eq!(session.poll_effect(), Some(Effect::Close(Disconnect::STALE)));
}

#[test]
fn a_client_that_is_asked_from_the_beginning_is_gone_without_an_answer() {
    let mut session = connecting_at_once();
    session.handle_timeout(Moment(12_500));
    session.handle_timeout(Moment(20_500));
    assert_eq!(session.poll_effect(), Some(Effect::Ping));
    assert_eq!(session.poll_effect(), Some(Effect::Close(Disconnect::NO_PONG)));
}

#[test]
fn pings_go_on_as_they_were_when_the_client_connects() {
    let mut session = connecting_at_once();
    let message = Message { kind: MessageKind::Text, data: br#"{"id":1,"connect":{}}"# };
    session.handle_message(Moment(5_000), message);
    let Some(Effect::Authenticate { ticket, .. }) = session.poll_effect() else {
        panic!("not authenticated")
    };
    let result = OutcomeResult::Authenticated(Ok(Identity::default()));
    session.handle_outcome(Moment(6_000), Outcome { ticket, result });
    assert!(session.is_connected());
    assert_eq!(session.poll_timeout(), Some(Moment(12_500)), "and it need not connect any more");
}

/// Remembers how long clients took to answer their pings, in milliseconds.
#[derive(Debug, Default)]
struct Acknowledgements(Mutex<Vec<u128>>);

impl SessionObserver for Acknowledgements {
    fn command(&self, _name: &'static str) {}
    fn refused(&self, _namespace: Option<NamespaceId>, _refusal: &Refusal) {}
    fn recovery(&self, _namespace: NamespaceId, _recovered: bool) {}
    fn acknowledged(&self, took: Duration) {
        self.0.lock().unwrap().push(took.as_millis());
    }
}

#[test]
fn how_long_a_client_takes_to_answer_a_ping_is_told_and_a_late_pong_to_an_earlier_ping_is_not() {
    let acknowledgements = Arc::new(Acknowledgements::default());
    let observed = Context { observer: acknowledgements.clone(), ..context() };
    let mut client = Client::connected(observed, Identity::default());
    client.waits_ms(12_500);
    client.waits_ms(70);
    client.says("{}");
    client.waits_ms(24_930);
    // This ping goes unanswered for now: the client is busy writing.
    client.says(r#"{"id":2,"unsubscribe":{"channel":"a"}}"#);
    client.waits_ms(25_000);
    client.says("{}");
    client.waits_ms(30);
    client.says("{}");
    assert_eq!(*acknowledgements.0.lock().unwrap(), [70, 30]);
}
