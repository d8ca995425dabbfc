//! Adapts how many rows are requested at once: halved after a request that was too much for its timeout, and slowly
//! increased again.

/// The number of successful reads before more rows are requested.
const IN_TIME_FOR_MORE: u32 = 4;

/// The number of rows to request, at first the configured maximum.
#[derive(Debug)]
pub(super) struct BatchSize {
    max: usize,
    rows: usize,
    in_time: u32,
    one_is_too_much: bool,
}

impl BatchSize {
    pub(super) fn new(max: usize) -> Self {
        Self { max, rows: max, in_time: 0, one_is_too_much: false }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether a single row was too much, and none has been read since.
    pub(super) fn one_is_too_much(&self) -> bool {
        self.one_is_too_much
    }

    pub(super) fn was_too_much(&mut self) {
        self.one_is_too_much = self.rows == 1;
        self.rows = (self.rows / 2).max(1);
        self.in_time = 0;
    }

    pub(super) fn was_in_time(&mut self) {
        self.one_is_too_much = false;
        self.in_time += 1;
        if self.rows < self.max && self.in_time >= IN_TIME_FOR_MORE {
            self.rows = (self.rows * 2).min(self.max);
            self.in_time = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_halved_down_to_one_and_grows_slowly_to_what_it_was() {
        let mut batch_size = BatchSize::new(100);
        let halved: Vec<usize> = (0..8)
            .map(|_| {
                batch_size.was_too_much();
                batch_size.rows()
            })
            .collect();
        assert_eq!(halved, [50, 25, 12, 6, 3, 1, 1, 1]);
        assert!(batch_size.one_is_too_much());
        let mut grown = Vec::new();
        for _ in 0..8 * IN_TIME_FOR_MORE {
            batch_size.was_in_time();
            grown.push(batch_size.rows());
        }
        assert!(!batch_size.one_is_too_much());
        assert!(grown[..3] == [1, 1, 1] && grown[3] == 2, "{grown:?}");
        assert!(grown.is_sorted() && grown.last() == Some(&100), "{grown:?}");
    }
}
