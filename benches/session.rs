//! A session's share of a client's commands: decoding, deciding, answering.

use std::hint::black_box;
use std::sync::Arc;

use benches::counted;
use benches::samples::{info, json, position, text};
use gateway_core::channel_rules::{ChannelOptions, ChannelRules};
use gateway_core::effect::{Effect, Identity, Outcome, OutcomeResult};
use gateway_core::history::HistoryPage;
use gateway_core::session::{
    Application, ConnectionKind, Context, NoObserver, Opening, Session, SessionSettings,
};
use gungraun::{library_benchmark, library_benchmark_group};
use shared::moment::Moment;
use shared::protocol::centrifuge::json::CentrifugeJson;

const CONNECT: &str = r#"{"id":1,"connect":{"token":"","name":"js"}}"#;
const SUBSCRIBE: &str = r#"{"id":2,"subscribe":{"channel":"prices:AAPL"}}"#;

fn context() -> Arc<Context> {
    let options = ChannelOptions {
        history_size: 100,
        history_ttl_s: 300,
        force_recovery: true,
        allow_subscribe_anonymous: true,
        allow_publish_anonymous: true,
        ..ChannelOptions::default()
    };
    let namespaces = [("prices".into(), Arc::new(options))].into();
    Arc::new(Context {
        settings: SessionSettings::default(),
        rules: ChannelRules { namespaces, ..ChannelRules::default() },
        insecure: false,
        application: Application::default(),
        node: "node-1".into(),
        version: "0.1.0",
        observer: Arc::new(NoObserver),
    })
}

/// Passes a message to the session, and answers every effect as a worker would. Returns the number of effects.
fn hear(session: &mut Session, now: Moment, message: &str) -> u32 {
    session.handle_message(now, text(message));
    let mut effects = 0;
    while let Some(effect) = session.poll_effect() {
        effects += 1;
        let (ticket, result) = match effect {
            Effect::Authenticate { ticket, .. } => {
                (ticket, OutcomeResult::Authenticated(Ok(Identity::default())))
            }
            Effect::Join(join) => {
                let page = HistoryPage { publications: Vec::new(), top: position(7) };
                (join.ticket, OutcomeResult::Joined(Ok(Some(page))))
            }
            Effect::Publish { ticket, publication, .. } => {
                black_box(publication);
                (ticket, OutcomeResult::Published(Ok(())))
            }
            other => {
                black_box(other);
                continue;
            }
        };
        session.handle_outcome(now, Outcome { ticket, result });
    }
    effects
}

#[library_benchmark]
#[bench::connect_and_subscribe(args = (), setup = context, config = counted(20_898))]
fn opened(context: Arc<Context>) -> (Session, u32) {
    let protocol = Arc::new(CentrifugeJson::default());
    let opening = Opening {
        client: info().client,
        protocol,
        context,
        connection_kind: ConnectionKind::Bidirectional,
        connect: None,
        seed: 7,
    };
    let mut session = Session::open(Moment(1), opening);
    let effects = hear(&mut session, Moment(2), black_box(CONNECT));
    let effects = effects + hear(&mut session, Moment(3), black_box(SUBSCRIBE));
    assert!(session.is_connected() && session.subscriptions().count() == 1);
    (session, effects)
}

fn publishing(bytes: usize) -> (Session, String) {
    let (session, _) = an_open_one();
    (session, format!(r#"{{"id":3,"publish":{{"channel":"prices:AAPL","data":{}}}}}"#, json(bytes)))
}

fn subscribed() -> (Session, String) {
    (an_open_one().0, r#"{"id":4,"unsubscribe":{"channel":"prices:AAPL"}}"#.to_owned())
}

/// A session that has pinged its client, and the client's pong.
fn pinged() -> (Session, String) {
    let (mut session, _) = an_open_one();
    session.handle_timeout(Moment(26_000));
    while let Some(effect) = session.poll_effect() {
        black_box(effect);
    }
    (session, "{}".to_owned())
}

/// A session that is connected and subscribed.
fn an_open_one() -> (Session, u32) {
    let opening = Opening {
        client: info().client,
        protocol: Arc::new(CentrifugeJson::default()),
        context: context(),
        connection_kind: ConnectionKind::Bidirectional,
        connect: None,
        seed: 7,
    };
    let mut session = Session::open(Moment(1), opening);
    let effects = hear(&mut session, Moment(2), CONNECT) + hear(&mut session, Moment(3), SUBSCRIBE);
    (session, effects)
}

#[library_benchmark]
#[bench::publish_128(args = (128), setup = publishing, config = counted(9_596))]
#[bench::unsubscribe(args = (), setup = subscribed, config = counted(5_220))]
#[bench::pong(args = (), setup = pinged, config = counted(1_316))]
fn command((mut session, message): (Session, String)) -> (Session, String) {
    hear(&mut session, Moment(26_001), black_box(&message));
    assert!(!session.is_closed());
    (session, message)
}

library_benchmark_group!(name = sessions, benchmarks = [opened, command]);
