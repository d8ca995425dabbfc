//! A cache of results, so that a worker makes each once for all clients with the same selection.

use std::sync::Arc;

use bytes::Bytes;

use super::{FieldSelection, PayloadRecord};

/// The most results that are kept.
const RESULTS_MAX: usize = 64;

/// The most recent results.
#[derive(Debug, Default)]
pub struct Selected {
    results: Vec<SelectedResult>,
    /// Index of the result to replace next.
    oldest: usize,
}

#[derive(Debug)]
struct SelectedResult {
    /// Held so that no other record can have the same address.
    record: Bytes,
    selection: Arc<FieldSelection>,
    result: Bytes,
}

impl Selected {
    /// Returns the result for a record and a selection. `bytes` are the record's bytes.
    pub fn get(&mut self, bytes: &Bytes, record: &PayloadRecord, selection: &Arc<FieldSelection>) -> Bytes {
        let is_it = |known: &&SelectedResult| {
            known.record.as_ptr() == bytes.as_ptr()
                && known.record.len() == bytes.len()
                && Arc::ptr_eq(&known.selection, selection)
        };
        if let Some(known) = self.results.iter().find(is_it) {
            return known.result.clone();
        }
        let result = selection.apply(&record.json);
        let selected =
            SelectedResult { record: bytes.clone(), selection: selection.clone(), result: result.clone() };
        match self.results.get_mut(self.oldest) {
            Some(place) => *place = selected,
            None => self.results.push(selected),
        }
        self.oldest = (self.oldest + 1) % RESULTS_MAX;
        result
    }

    /// Drops all results.
    pub fn clear(&mut self) {
        if !self.results.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::selection::tests::any;
    use super::*;

    fn record(json: &'static str) -> PayloadRecord {
        PayloadRecord { channel: "news".into(), position: None, json: json.into() }
    }

    #[test]
    fn a_result_is_made_once_for_all_who_select_the_same() {
        let (bytes, selection) = (Bytes::from_static(b"one"), Arc::new(any("a")));
        let mut selected = Selected::default();
        let first = selected.get(&bytes, &record("1"), &selection);
        // A result that was made again would differ.
        assert_eq!(selected.get(&bytes, &record("2"), &selection), first);
        assert_eq!(selected.get(&bytes, &record("2"), &Arc::new(any("b"))), r#""data":{"b":2}"#);
        assert_eq!(selected.get(&Bytes::from_static(b"two"), &record("2"), &selection), r#""data":{"a":2}"#);
        selected.clear();
        assert_eq!(selected.get(&bytes, &record("2"), &selection), r#""data":{"a":2}"#);
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let (bytes, mut selected) = (Bytes::from_static(b"one"), Selected::default());
        for _ in 0..3 * RESULTS_MAX {
            selected.get(&bytes, &record("1"), &Arc::new(any("a")));
        }
        assert_eq!(selected.results.len(), RESULTS_MAX);
    }
}
