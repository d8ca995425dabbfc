//! Two regions and a link between them, in virtual time: what publishers and subscribers of a channel get where it has one
//! home, and where it has one in each region. Streams, feeds and histories are those of the gateway. The figures of the
//! page `docs/two-regions.md` come from here:
//!
//! ```sh
//! cargo test -p gateway-core --test regions -- --nocapture
//! ```

#![allow(
    unreachable_pub,
    reason = "a test program has no users; `pub` says what its modules offer each other"
)]

mod world;

use std::time::Duration;

use world::{Report, Setting, run};

/// How long publishers publish.
const TIME: Duration = Duration::from_secs(60);

const PAGE: &str = include_str!("../../../../docs/two-regions.md");

fn setting(homes: usize, cut_s: u64, history: u32) -> Setting {
    let one_way = Duration::from_millis(40);
    Setting { homes, one_way, cut: Duration::from_secs(cut_s), history, a_second: 20, time: TIME }
}

/// The rows of the page's table: homes, seconds for which the link is down, publications that history keeps.
const ROWS: [(usize, u64, u32); 8] = [
    (1, 0, 1_000),
    (1, 5, 1_000),
    (1, 20, 1_000),
    (1, 20, 100),
    (2, 0, 1_000),
    (2, 5, 1_000),
    (2, 20, 1_000),
    (2, 20, 100),
];

fn row(homes: usize, cut_s: u64, history: u32, report: &Report) -> String {
    let ms = |duration: Duration| format!("{} ms", duration.as_millis());
    format!(
        "| {homes} | {cut_s} s | {history} | {} | {}, {} | {}, {} | {} of {} | {} | {} | {} |",
        ms(report.accepted_within[1]),
        ms(report.here[0]),
        ms(report.here[1]),
        ms(report.there[0]),
        ms(report.there[1]),
        report.refused[1],
        report.requests[1],
        report.recovered,
        report.lost,
        report.other_order,
    )
}

#[test]
fn the_page_says_what_comes_of_it() {
    let rows: Vec<String> = ROWS
        .iter()
        .map(|&(homes, cut_s, history)| row(homes, cut_s, history, &run(setting(homes, cut_s, history))))
        .collect();
    let table = rows.join("\n");
    println!("\n{table}");
    assert!(PAGE.contains(&table), "docs/two-regions.md says something else");
}

#[test]
fn with_one_home_both_regions_see_one_order_and_nothing_is_missing_untold() {
    for cut_s in [0, 1, 5, 20] {
        for history in [50, 1_000] {
            let report = run(setting(1, cut_s, history));
            assert_eq!(report.other_order, 0, "there is one order");
            let accepted = report.requests[0] + report.requests[1] - report.refused[1];
            assert_eq!(report.refused[0], 0, "who is at home is not refused");
            assert_eq!(report.seen[0], accepted);
            assert_eq!(report.seen[1] + report.lost, accepted, "seen, or told to be missing");
            assert!(report.lost == 0 || history == 50, "history reaches back that far");
        }
    }
}

#[test]
fn with_a_home_in_each_region_nobody_is_refused_and_orders_differ() {
    for cut_s in [0, 5] {
        let report = run(setting(2, cut_s, 1_000));
        assert_eq!((report.refused, report.lost), ([0, 0], 0));
        assert_eq!(report.accepted_within, [Duration::ZERO; 2]);
        assert_eq!(report.seen, [report.requests[0] + report.requests[1]; 2]);
        assert!(report.other_order > 0, "what is published within the link's delay has no common order");
    }
}
