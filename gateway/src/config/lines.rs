//! Finds the line of each key in a file.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The lines of keys, by path. Empty if the text is not TOML.
#[derive(Debug, Default)]
pub(super) struct Lines(BTreeMap<Vec<String>, usize>);

impl Lines {
    /// `above` is the number of lines in the file before the text.
    pub(super) fn of(text: &str, above: usize) -> Self {
        let mut lines = Self::default();
        if let Ok(table) = DeTable::parse(text) {
            let starts: Vec<usize> =
                text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
            let line = |span: Range<usize>| 1 + above + starts.partition_point(|end| *end < span.start);
            lines.table(&mut Vec::new(), table.get_ref(), &line);
        }
        lines
    }

    pub(super) fn line(&self, path: &[String]) -> Option<usize> {
        self.0.get(path).copied()
    }

    /// Returns the key that begins on each line, or the outermost if there are several.
    pub(super) fn paths(self) -> BTreeMap<usize, Vec<String>> {
        let mut paths = BTreeMap::new();
        for (path, line) in self.0 {
            paths.entry(line).or_insert(path);
        }
        paths
    }

    fn table(&mut self, path: &mut Vec<String>, table: &DeTable<'_>, line: &impl Fn(Range<usize>) -> usize) {
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            self.value(path, line(key.span()), value, line);
            path.pop();
        }
    }

    fn value(
        &mut self,
        path: &mut Vec<String>,
        at: usize,
        value: &Spanned<DeValue<'_>>,
        line: &impl Fn(Range<usize>) -> usize,
    ) {
        self.0.insert(path.clone(), at);
        match value.get_ref() {
            DeValue::Table(table) => self.table(path, table, line),
            DeValue::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    path.push(index.to_string());
                    self.value(path, line(element.span()), element, line);
                    path.pop();
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_tables_of_every_kind_and_in_lists() {
        let text = "a = 1\n[b]\n\"c d\" = 2\ne.f = 3\ng = { h = 4 }\n[b.i]\nj = [\n  5,\n  6,\n]\n";
        let lines = Lines::of(text, 10);
        let line =
            |path: &[&str]| lines.line(&path.iter().map(|step| (*step).to_owned()).collect::<Vec<_>>());
        assert_eq!(line(&["a"]), Some(11));
        assert_eq!(line(&["b", "c d"]), Some(13));
        assert_eq!(line(&["b", "e", "f"]), Some(14));
        assert_eq!(line(&["b", "g", "h"]), Some(15));
        assert_eq!(line(&["b", "i"]), Some(16));
        assert_eq!(line(&["b", "i", "j", "1"]), Some(19));
        assert_eq!(line(&["x"]), None);
        assert!(Lines::of("[", 0).0.is_empty());
    }
}
