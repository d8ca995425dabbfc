//! Decides which price comes next: all prices in the order of the file, again and again.

use crate::prices::Price;

/// The number of trading days that are already past when the demo starts.
const DAYS_BEFORE: usize = 120;

/// The prices in turn, without an end, from the first day on which every share is traded.
#[derive(Debug)]
pub(super) struct Replay<'a> {
    prices: Vec<Price<'a>>,
    next: usize,
}

impl<'a> Replay<'a> {
    /// Creates the replay. The prices must be sorted by day, and there must be at least one.
    pub(super) fn new(prices: Vec<Price<'a>>) -> Self {
        let next = full_day(&prices);
        Self { prices, next }
    }

    /// Returns the prices of the days before the first: they give the first visitor a line to look at.
    pub(super) fn earlier(&self) -> &[Price<'a>] {
        let mut day = None;
        let mut days = 0;
        let mut begin = self.next;
        while begin > 0 {
            let date = self.prices[begin - 1].date;
            if day != Some(date) {
                if days == DAYS_BEFORE {
                    break;
                }
                days += 1;
                day = Some(date);
            }
            begin -= 1;
        }
        &self.prices[begin..self.next]
    }

    /// Returns the price that is due. [`Replay::advance`] moves on.
    pub(super) fn current(&self) -> &Price<'a> {
        &self.prices[self.next]
    }

    pub(super) fn advance(&mut self) {
        self.next = (self.next + 1) % self.prices.len();
    }
}

/// Returns the index at which the first of the days with the most shares begins.
fn full_day(prices: &[Price<'_>]) -> usize {
    let mut fullest = (0, 0);
    let mut begin = 0;
    for day in prices.chunk_by(|a, b| a.date == b.date) {
        if day.len() > fullest.0 {
            fullest = (day.len(), begin);
        }
        begin += day.len();
    }
    fullest.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prices::{HEADER, SHIPPED, parse};

    fn names(prices: &[Price<'_>]) -> Vec<String> {
        prices.iter().map(|price| format!("{} {}", price.date, price.symbol)).collect()
    }

    #[test]
    fn the_demo_starts_on_the_day_its_last_share_went_public() {
        let replay = Replay::new(parse(SHIPPED).unwrap());
        assert_eq!(replay.current().date, "2012-05-18");
        assert_eq!(replay.current().symbol, "AAPL");
        let earlier = replay.earlier();
        assert_eq!(earlier.len(), DAYS_BEFORE * 4);
        assert_eq!(earlier.last().unwrap().date, "2012-05-17");
    }

    #[test]
    fn it_goes_through_all_prices_in_order_and_starts_over() {
        let csv = format!("{HEADER}\n1,A,1,1,1,1,1\n2,A,2,2,2,2,2\n2,B,3,3,3,3,3\n3,A,4,4,4,4,4\n");
        let mut replay = Replay::new(parse(&csv).unwrap());
        assert_eq!(names(replay.earlier()), ["1 A"]);
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(*replay.current());
            replay.advance();
        }
        assert_eq!(names(&seen), ["2 A", "2 B", "3 A", "1 A", "2 A", "2 B"]);
    }

    #[test]
    fn two_replays_of_the_same_prices_are_the_same() {
        let run = || {
            let mut replay = Replay::new(parse(SHIPPED).unwrap());
            let mut seen = Vec::new();
            for _ in 0..5_000 {
                seen.push(replay.current().to_json());
                replay.advance();
            }
            seen
        };
        assert_eq!(run(), run());
    }
}
