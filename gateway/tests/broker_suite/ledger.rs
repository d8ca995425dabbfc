//! Tests the ledger: who holds what, and the events that follow from changes.

use std::time::Duration;

use gateway_core::ledger::{
    Ledger as Table, LedgerCapacity, LedgerChange, LedgerEvent, LedgerPage, ReaderProgress,
};
use tidegate::ledger::{HoldOutcome, LedgerQuery};

use crate::harness::{Backend, Node, eventually};

pub const ROOM: LedgerCapacity = LedgerCapacity { news_max: 1_000, bytes_max: 1 << 20 };
pub const LEASE: Duration = Duration::from_secs(60);

pub fn hold(subject: &str) -> LedgerChange {
    LedgerChange::Hold(subject.into())
}

pub fn release(subject: &str) -> LedgerChange {
    LedgerChange::Release(subject.into())
}

pub fn reading<'a>(reader: &'a str, done: Option<ReaderProgress>, limit: usize) -> LedgerQuery<'a> {
    const READERS: &[&str] = &["main", "other"];
    LedgerQuery { ledger: "shop", reader, readers: READERS, by: "n", lease: LEASE, done, limit }
}

impl Node {
    pub async fn begin(&self, holder: &str) {
        eventually("the ledger can be used", async || {
            matches!(self.ledger.prolong("shop", holder, LEASE, ROOM).await, Ok(HoldOutcome::Done))
        })
        .await;
    }

    pub async fn change(&self, holder: &str, changes: &[LedgerChange]) {
        let changed = self.ledger.change("shop", holder, changes, ROOM).await.expect("changed");
        assert_eq!(changed, HoldOutcome::Done);
    }

    pub async fn page(&self, reader: &str, done: Option<u64>, limit: usize) -> LedgerPage {
        let read = async |done, limit| {
            self.ledger.read(reading(reader, done, limit)).await.expect("read").expect("nobody else reads")
        };
        let from = if done.is_some() { read(None, 0).await.from } else { 0 };
        read(done.map(|until| ReaderProgress { from, until }), limit).await
    }

    /// Returns the events after the position `done`, or all.
    pub async fn news(&self, done: Option<u64>) -> Vec<LedgerEvent> {
        self.page("main", done, 10_000).await.news.into_iter().map(|(_, news)| news).collect()
    }
}

pub async fn the_first_who_holds_and_the_last_who_lets_go_are_news<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    node.begin("one").await;
    node.begin("two").await;
    node.change("one", &[hold("a"), hold("a"), hold("b\né")]).await;
    node.change("two", &[hold("a"), release("b\né"), release("c")]).await;
    node.change("one", &[release("a"), release("a")]).await;
    node.change("two", &[release("a")]).await;
    node.change("one", &[LedgerChange::Report("{\"x\": 1}".into()), hold("a")]).await;
    let taken = |subject: &str| LedgerEvent::Taken(subject.into());
    let expected = [
        taken("a"),
        taken("b\né"),
        LedgerEvent::Free("a".into()),
        LedgerEvent::Reported("{\"x\": 1}".into()),
        taken("a"),
    ];
    assert_eq!(node.news(None).await, expected);
}

pub async fn a_holder_that_ends_lets_go_of_what_nobody_else_holds<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    node.begin("one").await;
    node.begin("two").await;
    let many: Vec<LedgerChange> = (0..1_200).map(|number| hold(&number.to_string())).collect();
    node.change("one", &many).await;
    node.change("two", &[hold("7")]).await;
    node.change("one", &[LedgerChange::Count("7".into(), 2), LedgerChange::Count("8".into(), 1)]).await;
    node.ledger
        .retire("shop", "one", Duration::ZERO, LedgerCapacity { news_max: 9_999, ..ROOM })
        .await
        .expect("ended");
    let room = LedgerCapacity { news_max: 9_999, ..ROOM };
    eventually("all is free", async || {
        // Each renewal by the remaining holder frees a part of the dead one's.
        let held = node.ledger.prolong("shop", "two", LEASE, room).await.expect("prolonged");
        assert_ne!(held, HoldOutcome::Over);
        node.news(Some(1_202)).await.len() == 1_200
    })
    .await;
    let news = node.news(None).await;
    assert!(!news.contains(&LedgerEvent::Free("7".into())), "another holds it");
    let at = |wanted: &LedgerEvent| news.iter().position(|news| news == wanted).expect("it is told");
    assert_eq!(at(&LedgerEvent::Counted("8".into(), 0)) + 1, at(&LedgerEvent::Free("8".into())));
    assert!(!news.contains(&LedgerEvent::Counted("7".into(), 0)));
}

pub async fn a_holder_whose_lease_is_over_holds_nothing_any_more_and_hears_of_it<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    node.begin("slow").await;
    node.begin("other").await;
    node.change("slow", &[hold("a")]).await;
    let short = Duration::from_millis(50);
    assert_eq!(node.ledger.prolong("shop", "slow", short, ROOM).await.expect("prolonged"), HoldOutcome::Done);
    eventually("a is free", async || {
        assert_eq!(
            node.ledger.prolong("shop", "other", LEASE, ROOM).await.expect("prolonged"),
            HoldOutcome::Done
        );
        node.news(None).await.len() == 2
    })
    .await;
    let prolonged = node.ledger.prolong("shop", "slow", LEASE, ROOM).await.expect("an answer");
    assert_eq!(prolonged, HoldOutcome::Over);
    let changed = node.ledger.change("shop", "slow", &[hold("b")], ROOM).await.expect("an answer");
    assert_eq!(changed, HoldOutcome::Over);
    node.begin("slow.2").await;
    node.change("slow.2", &[hold("a")]).await;
    let taken = LedgerEvent::Taken("a".into());
    assert_eq!(node.news(None).await, [taken.clone(), LedgerEvent::Free("a".into()), taken]);
}

pub async fn each_reader_goes_on_where_it_stood<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    node.begin("one").await;
    let said: Vec<LedgerChange> =
        (0..5).map(|number| LedgerChange::Report(number.to_string().into())).collect();
    node.change("one", &said).await;
    let numbers = |page: LedgerPage| page.news.into_iter().map(|(number, _)| number).collect::<Vec<_>>();
    assert_eq!(numbers(node.page("main", None, 2).await), [1, 2]);
    assert_eq!(numbers(node.page("main", None, 2).await), [1, 2], "nothing was done with them");
    assert_eq!(numbers(node.page("main", Some(2), 9).await), [3, 4, 5]);
    assert_eq!(numbers(node.page("main", Some(5), 9).await), [0; 0]);
    assert_eq!(numbers(node.page("other", None, 9).await), [1, 2, 3, 4, 5]);
    assert_eq!(numbers(node.page("other", Some(4), 9).await), [5]);
    assert_eq!(numbers(node.page("main", None, 9).await), [0; 0]);
}

pub async fn a_reader_that_is_far_behind_is_told_how_much_it_missed<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    node.begin("one").await;
    node.page("main", None, 9).await;
    let say = async |text: &str, room: LedgerCapacity| {
        let change = [LedgerChange::Report(text.into())];
        assert_eq!(
            node.ledger.change("shop", "one", &change, room).await.expect("changed"),
            HoldOutcome::Done
        );
    };
    for _ in 0..5 {
        say("x", LedgerCapacity { news_max: 3, ..ROOM }).await;
    }
    let page = node.page("main", None, 9).await;
    assert_eq!((page.news.len(), page.dropped), (3, 2));
    say("123456789", LedgerCapacity { bytes_max: 11, ..ROOM }).await;
    let page = node.page("main", None, 9).await;
    assert_eq!((page.news.len(), page.dropped), (1, 5));
    assert_eq!(node.page("main", Some(6), 9).await, LedgerPage { from: 6, ..LedgerPage::default() });
}

pub async fn it_is_what_the_table_says_whatever_happens<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let mut model = Table::default();
    for holder in ["0", "1", "2"] {
        node.begin(holder).await;
    }
    // Any pseudorandom sequence will do, as long as it is the same in each run.
    let mut seed = 7_u64;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..60 {
        let holder = draw(3).to_string();
        let changes: Vec<LedgerChange> = (0..draw(8))
            .map(|_| {
                let subject = draw(5).to_string();
                match draw(4) {
                    0 => hold(&subject),
                    1 => release(&subject),
                    2 => LedgerChange::Count(subject.into(), draw(3) as u32),
                    _ => LedgerChange::Report(subject.into()),
                }
            })
            .collect();
        changes.iter().for_each(|change| model.change(&holder, change.clone(), ROOM));
        node.change(&holder, &changes).await;
    }
    let expected = model.read("main", None, 10_000, &["main"]);
    assert!(expected.news.len() > 50);
    assert_eq!(node.page("main", None, 10_000).await, expected);
}
