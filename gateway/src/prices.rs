//! Daily share prices in the format of `gateway/demo/prices.csv`: read for the demo's feed and for `tidegate publish`.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

/// The columns, in order, as in the first line of a file.
pub const HEADER: &str = "date,symbol,open,high,low,close,volume";

/// The prices that come with the gateway; `gateway/demo/README.md` tells their source.
pub const SHIPPED: &str = include_str!("../demo/prices.csv");

/// One share on one trading day. Numbers stay as they were written: nothing is rounded on the way.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Price<'a> {
    pub symbol: &'a str,
    pub date: &'a str,
    pub open: &'a RawValue,
    pub high: &'a RawValue,
    pub low: &'a RawValue,
    pub close: &'a RawValue,
    pub volume: &'a RawValue,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    #[error("the first line must be {HEADER:?}")]
    Header,
    #[error("line {line}: there must be seven columns, {HEADER}")]
    Columns { line: usize },
    #[error("line {line}: the {column} is {text:?}, which is not a number")]
    Number { line: usize, column: &'static str, text: String },
    #[error(
        "line {line}: the {column} is empty, or has characters other than letters, digits, dots and dashes"
    )]
    Word { line: usize, column: &'static str },
}

impl<'a> Price<'a> {
    /// Returns the channel that carries this share: `prices:AAPL`.
    pub fn channel(&self) -> String {
        format!("prices:{}", self.symbol)
    }

    /// Returns the published data: a JSON object with the file's columns as keys.
    pub fn to_json(&self) -> Bytes {
        serde_json::to_vec(self).expect("texts and numbers are always JSON").into()
    }

    /// Parses one line after the header. `line` counts from 1 and is for the error only.
    pub fn parse(line: usize, row: &'a str) -> Result<Self, PriceError> {
        let mut columns = row.split(',');
        let mut next = || columns.next().ok_or(PriceError::Columns { line });
        let price = Self {
            date: word(line, "date", next()?)?,
            symbol: word(line, "symbol", next()?)?,
            open: number(line, "open", next()?)?,
            high: number(line, "high", next()?)?,
            low: number(line, "low", next()?)?,
            close: number(line, "close", next()?)?,
            volume: number(line, "volume", next()?)?,
        };
        if columns.next().is_some() {
            return Err(PriceError::Columns { line });
        }
        Ok(price)
    }
}

/// Parses a whole file: the header, then one price a line.
pub fn parse(csv: &str) -> Result<Vec<Price<'_>>, PriceError> {
    let mut lines = csv.lines().zip(1..);
    if lines.next().is_none_or(|(header, _)| header.trim_end() != HEADER) {
        return Err(PriceError::Header);
    }
    let rows = lines.filter(|(row, _)| !row.trim().is_empty());
    rows.map(|(row, line)| Price::parse(line, row.trim_end())).collect()
}

/// Checks that a text fits into a channel's name, and into JSON without escapes.
fn word<'a>(line: usize, column: &'static str, text: &'a str) -> Result<&'a str, PriceError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    if text.is_empty() || !text.bytes().all(fits) {
        return Err(PriceError::Word { line, column });
    }
    Ok(text)
}

fn number<'a>(line: usize, column: &'static str, text: &'a str) -> Result<&'a RawValue, PriceError> {
    let starts_as_a_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) if starts_as_a_number => Ok(value),
        _ => Err(PriceError::Number { line, column, text: text.chars().take(40).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(row: &str) -> Result<String, PriceError> {
        let csv = format!("{HEADER}\n{row}\n");
        let prices = parse(&csv)?;
        Ok(String::from_utf8(prices[0].to_json().to_vec()).unwrap())
    }

    #[test]
    fn a_price_is_published_as_it_was_written() {
        assert_eq!(
            row("2009-03-12,AAPL,92.9703,96.58,92.0,96.35,27444900").unwrap(),
            r#"{"symbol":"AAPL","date":"2009-03-12","open":92.9703,"high":96.58,"low":92.0,"close":96.35,"volume":27444900}"#
        );
    }

    #[test]
    fn the_shipped_prices_are_of_five_shares_in_order_of_time() {
        let prices = parse(SHIPPED).unwrap();
        assert_eq!(prices.len(), 4_196);
        let mut symbols: Vec<_> = prices.iter().map(|price| price.symbol).collect();
        symbols.sort_unstable();
        symbols.dedup();
        assert_eq!(symbols, ["AAPL", "FB", "GOOG", "IBM", "MSFT"]);
        assert!(prices.is_sorted_by_key(|price| (price.date, price.symbol)));
    }

    #[test]
    fn lines_may_end_as_on_windows_and_empty_ones_are_passed_over() {
        let csv = format!("{HEADER}\r\n\r\n2009-03-12,BRK.A,1,2,3,4,5\r\n\n");
        let prices = parse(&csv).unwrap();
        assert_eq!(prices.len(), 1);
        assert_eq!(prices[0].channel(), "prices:BRK.A");
        assert_eq!(prices[0].volume.get(), "5");
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        let number = |column, text: &str| PriceError::Number { line: 2, column, text: text.to_owned() };
        assert_eq!(parse("").unwrap_err(), PriceError::Header);
        assert_eq!(parse("date,symbol\n").unwrap_err(), PriceError::Header);
        assert_eq!(row("2009-03-12,AAPL,1,2,3,4").unwrap_err(), PriceError::Columns { line: 2 });
        assert_eq!(row("2009-03-12,AAPL,1,2,3,4,5,6").unwrap_err(), PriceError::Columns { line: 2 });
        assert_eq!(row("2009-03-12,AAPL,one,2,3,4,5").unwrap_err(), number("open", "one"));
        assert_eq!(row("2009-03-12,AAPL,1,2,3,[],5").unwrap_err(), number("close", "[]"));
        assert_eq!(row("2009-03-12,AAPL,1,2,3,4,NaN").unwrap_err(), number("volume", "NaN"));
        assert_eq!(
            row("2009-03-12,A PL,1,2,3,4,5").unwrap_err(),
            PriceError::Word { line: 2, column: "symbol" }
        );
        assert_eq!(row(",AAPL,1,2,3,4,5").unwrap_err(), PriceError::Word { line: 2, column: "date" });
    }
}
