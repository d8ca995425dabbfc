//! Reads publications from a file, standard input or the shipped prices, one a line.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::PathBuf;

use bytes::Bytes;
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use tokio::sync::mpsc;

use crate::prices::{HEADER, Price, SHIPPED};
use crate::setting::trimmed;

/// The longest line that is read, in bytes. By default the gateway accepts no longer payload.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// The most characters that are shown of an unexpected line.
const SHOWN_MAX: usize = 80;

/// The source of publications.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum InputSource {
    /// The prices that come with the gateway.
    Shipped,
    StandardInput,
    File(PathBuf),
}

/// A line of the input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum InputLine {
    Item(InputItem),
    /// The line cannot be published: its number, and what is wrong with it.
    Bad(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct InputItem {
    pub(super) channel: String,
    /// JSON.
    pub(super) data: Bytes,
}

/// How lines are read.
#[derive(Clone, Debug)]
pub(super) struct InputOptions {
    pub(super) source: InputSource,
    /// Whether to begin again at the end.
    pub(super) again: bool,
    /// A prefix of every channel. `None`: `prices:` before symbols, and nothing before channels.
    pub(super) prefix: Option<String>,
}

impl InputOptions {
    /// Reads on the current thread, which may block, until the input ends or the receiver is dropped.
    pub(super) fn run(&self, lines: &mpsc::Sender<InputLine>) -> std::io::Result<()> {
        loop {
            let (taken, items) = match &self.source {
                InputSource::Shipped => self.read(SHIPPED.as_bytes(), lines)?,
                InputSource::StandardInput => self.read(std::io::stdin().lock(), lines)?,
                InputSource::File(path) => self.read(BufReader::new(std::fs::File::open(path)?), lines)?,
            };
            if !taken || !self.again {
                return Ok(());
            }
            if items == 0 {
                return Err(std::io::Error::new(ErrorKind::InvalidData, "it has nothing to publish"));
            }
        }
    }

    /// Reads the input once. Returns whether all lines were received, and how many publications there were.
    fn read(&self, mut from: impl BufRead, lines: &mpsc::Sender<InputLine>) -> std::io::Result<(bool, u64)> {
        let mut bytes = Vec::new();
        let (mut number, mut items, mut is_prices) = (0_usize, 0_u64, false);
        loop {
            bytes.clear();
            let whole = read_line(&mut from, &mut bytes)?;
            if bytes.is_empty() {
                return Ok((true, items));
            }
            number += 1;
            let text = std::str::from_utf8(&bytes);
            let line = match text.map(|text| text.strip_prefix('\u{feff}').unwrap_or(text)) {
                _ if !whole => {
                    InputLine::Bad(format!("line {number}: it is longer than {LINE_BYTES_MAX} bytes"))
                }
                Err(_) => InputLine::Bad(format!("line {number}: it is not UTF-8")),
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) if number == 1 && is_header(text) => {
                    is_prices = true;
                    continue;
                }
                // A single error, in place of one for each line that is no channel, tab and JSON.
                Ok(text) if number == 1 && !text.contains('\t') && text.contains(',') => {
                    let found: String = trimmed(text).chars().take(SHOWN_MAX).collect();
                    return Err(std::io::Error::new(
                        ErrorKind::InvalidData,
                        format!(
                            "its first line is {found:?}, must be the columns {HEADER}, or a channel, a tab and JSON"
                        ),
                    ));
                }
                Ok(text) if is_prices => {
                    self.price(number, text).map_or_else(InputLine::Bad, InputLine::Item)
                }
                Ok(text) => match self.item(text) {
                    Ok(item) => InputLine::Item(item),
                    Err(problem) => InputLine::Bad(format!("line {number}: {problem}")),
                },
            };
            items += u64::from(matches!(line, InputLine::Item(_)));
            if lines.blocking_send(line).is_err() {
                return Ok((false, items));
            }
        }
    }

    fn price(&self, number: usize, line: &str) -> Result<InputItem, String> {
        let price = Price::parse(number, line.trim_end()).map_err(|problem| problem.to_string())?;
        let channel = match &self.prefix {
            Some(prefix) => {
                named(prefix, price.symbol).map_err(|problem| format!("line {number}: {problem}"))?
            }
            None => price.channel(),
        };
        Ok(InputItem { channel, data: price.to_json() })
    }

    fn item(&self, line: &str) -> Result<InputItem, String> {
        let (channel, data) = line.split_once('\t').ok_or("there is no tab between channel and JSON")?;
        let data = data.trim();
        if !shared::publication::is_json(data.as_bytes()) {
            return Err("the text after the tab is not JSON".to_owned());
        }
        Ok(InputItem {
            channel: named(self.prefix.as_deref().unwrap_or(""), channel)?,
            data: data.to_owned().into(),
        })
    }
}

/// Whether the line is the header of prices, also in the form that spreadsheets write.
fn is_header(line: &str) -> bool {
    let columns = line.split(',').map(|column| trimmed(column).trim_matches('"'));
    columns.map(str::to_ascii_lowercase).eq(HEADER.split(',').map(str::to_owned))
}

fn named(prefix: &str, rest: &str) -> Result<String, String> {
    let channel = format!("{prefix}{rest}");
    match Channel::parse_unicode(&channel, CHANNEL_BYTES_MAX) {
        Ok(_) => Ok(channel),
        Err(problem) => Err(problem.to_string()),
    }
}

/// Reads up to the next line break, or the end. Returns false if the line is too long; the rest of it is skipped.
fn read_line(from: &mut impl BufRead, bytes: &mut Vec<u8>) -> std::io::Result<bool> {
    from.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', bytes)?;
    if bytes.len() < LINE_BYTES_MAX || bytes.ends_with(b"\n") {
        return Ok(true);
    }
    from.skip_until(b'\n')?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(prefix: Option<&str>, text: &[u8]) -> Vec<InputLine> {
        let reading = InputOptions {
            source: InputSource::StandardInput,
            again: false,
            prefix: prefix.map(str::to_owned),
        };
        let (sender, mut receiver) = mpsc::channel(100);
        reading.read(text, &sender).unwrap();
        drop(sender);
        std::iter::from_fn(|| receiver.blocking_recv()).collect()
    }

    fn item(channel: &str, data: &str) -> InputLine {
        InputLine::Item(InputItem { channel: channel.to_owned(), data: data.to_owned().into() })
    }

    #[test]
    fn lines_are_a_channel_a_tab_and_json() {
        let text = b"\xef\xbb\xbfnews\t{\"a\":1}\n\r\nchat:x\t[1, \"a\\tb\"]\r\nlast\t7";
        let expected = [item("news", "{\"a\":1}"), item("chat:x", "[1, \"a\\tb\"]"), item("last", "7")];
        assert_eq!(lines(None, text), expected);
        assert_eq!(lines(Some("my:"), b"news\t1"), [item("my:news", "1")]);
    }

    #[test]
    fn bad_lines_are_told_by_number_and_the_rest_goes_on() {
        let mut text = b"news {}\n\nnews\t{\na\x01b\t{}\n\xff\t{}\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', LINE_BYTES_MAX + 5));
        text.extend(b"\nnews\t{}\n");
        let read = lines(None, &text);
        let bad: Vec<&str> = read
            .iter()
            .filter_map(|line| match line {
                InputLine::Bad(problem) => Some(&problem[..7]),
                InputLine::Item(_) => None,
            })
            .collect();
        assert_eq!(bad, ["line 1:", "line 3:", "line 4:", "line 5:", "line 6:"]);
        assert_eq!(read.last(), Some(&item("news", "{}")));
    }

    #[test]
    fn a_file_that_begins_with_the_columns_of_prices_is_one() {
        let text = b"date,symbol,open,high,low,close,volume\n2013-03-01,FB,1,2,3,4,5\nbad\n";
        let read = lines(None, text);
        let json = r#"{"symbol":"FB","date":"2013-03-01","open":1,"high":2,"low":3,"close":4,"volume":5}"#;
        assert_eq!(read[0], item("prices:FB", json));
        assert!(matches!(&read[1], InputLine::Bad(problem) if problem.starts_with("line 3:")), "{read:?}");
        assert_eq!(lines(Some("t:"), text)[0], item("t:FB", json));
    }

    #[test]
    fn columns_are_known_however_they_are_written() {
        for header in [
            "\u{feff}date,symbol,open,high,low,close,volume\r",
            "Date, Symbol, Open, High, Low, Close, Volume",
            "\"date\",\"symbol\",\"open\",\"high\",\"low\",\"close\",\"volume\"",
        ] {
            let text = format!("{header}\n2013-03-01,FB,1,2,3,4,5\n");
            assert!(matches!(&lines(None, text.as_bytes())[..], [InputLine::Item(_)]), "{header}");
        }
    }

    #[test]
    fn columns_that_are_not_expected_get_one_line_that_names_those_that_are() {
        let reading = InputOptions { source: InputSource::StandardInput, again: false, prefix: None };
        let (sender, mut receiver) = mpsc::channel(10);
        let error = reading.read(&b"time,ticker,price\n1,FB,2\n3,FB,4\n"[..], &sender).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(HEADER) && told.contains("time,ticker,price"), "{told}");
        assert!(receiver.try_recv().is_err());
    }

    #[test]
    fn reading_again_goes_on_until_nobody_takes_lines() {
        let reading = InputOptions { source: InputSource::Shipped, again: true, prefix: None };
        let (sender, mut receiver) = mpsc::channel(10);
        let reader = std::thread::spawn(move || reading.run(&sender));
        let taken: Vec<InputLine> = (0..5_000).map_while(|_| receiver.blocking_recv()).collect();
        assert_eq!(taken.len(), 5_000);
        assert_eq!(taken[0], taken[4_196]);
        drop(receiver);
        reader.join().unwrap().unwrap();
    }

    #[test]
    fn an_empty_file_is_not_read_again_and_again() {
        let path = std::env::temp_dir().join(format!("tidegate-publish-empty-{}", std::process::id()));
        std::fs::write(&path, "\n\n").unwrap();
        let reading = InputOptions { source: InputSource::File(path.clone()), again: true, prefix: None };
        let (sender, _receiver) = mpsc::channel(10);
        assert_eq!(reading.run(&sender).unwrap_err().kind(), ErrorKind::InvalidData);
        std::fs::remove_file(path).unwrap();
    }
}
