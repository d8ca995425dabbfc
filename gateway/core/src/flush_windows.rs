//! Flush windows, an optional wait that trades latency for CPU: publications that come to a channel within one flush
//! interval leave together.
//!
//! The first publication after a pause leaves at once and opens a window. Publications that come while it is open leave
//! when it closes, and that opens the next one. So a channel with less than one publication per interval is never late, and
//! a busier one costs one write per subscriber and interval, however many publications that is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rustc_hash::FxHashMap;
use shared::channel::Channel;
use shared::moment::Moment;

/// The most payload bytes that wait in one channel. With more, they leave before the window closes.
pub const WAITING_BYTES_MAX: usize = 64 << 10;
/// The same in publications.
pub const WAITING_MAX: usize = 256;

/// The open windows, by channel. `T` is one publication.
#[derive(Debug)]
pub struct FlushWindows<T> {
    open: FxHashMap<Channel, FlushWindow<T>>,
    /// When each of them closes, soonest first.
    closing: BinaryHeap<Reverse<(Moment, Channel)>>,
}

#[derive(Debug)]
struct FlushWindow<T> {
    interval: Duration,
    waiting: Vec<T>,
    bytes: usize,
}

impl<T> Default for FlushWindows<T> {
    fn default() -> Self {
        Self { open: FxHashMap::default(), closing: BinaryHeap::new() }
    }
}

impl<T> FlushWindows<T> {
    /// Passes publications of a channel, which are `bytes` long together, through its window. Leaves in `publications`
    /// those to deliver now, behind all that waited before them, or nothing.
    pub fn pass(
        &mut self,
        now: Moment,
        channel: &Channel,
        interval: Duration,
        publications: &mut Vec<T>,
        bytes: usize,
    ) {
        let Some(window) = self.open.get_mut(channel.as_str()) else {
            let window = FlushWindow { interval, waiting: Vec::new(), bytes: 0 };
            self.open.insert(channel.clone(), window);
            self.closing.push(Reverse((now + interval, channel.clone())));
            return;
        };
        window.waiting.append(publications);
        window.bytes += bytes;
        if window.bytes > WAITING_BYTES_MAX || window.waiting.len() > WAITING_MAX {
            std::mem::swap(publications, &mut window.waiting);
            window.bytes = 0;
        }
    }

    /// Takes the publications that wait in a channel, for something that must not overtake them.
    pub fn take(&mut self, channel: &str) -> Vec<T> {
        let Some(window) = self.open.get_mut(channel) else { return Vec::new() };
        window.bytes = 0;
        std::mem::take(&mut window.waiting)
    }

    /// Takes the publications that wait in all channels.
    pub fn take_all(&mut self) -> Vec<(Channel, Vec<T>)> {
        let waiting = self.open.iter_mut().filter(|(_, window)| !window.waiting.is_empty());
        let take = |(channel, window): (&Channel, &mut FlushWindow<T>)| {
            window.bytes = 0;
            (channel.clone(), std::mem::take(&mut window.waiting))
        };
        waiting.map(take).collect()
    }

    /// Returns when the next window closes.
    pub fn next_close(&self) -> Option<Moment> {
        self.closing.peek().map(|Reverse((at, _))| *at)
    }

    /// Closes the next window that is due, and returns the publications that waited in it. Call it until it returns `None`.
    pub fn close_next(&mut self, now: Moment) -> Option<(Channel, Vec<T>)> {
        while self.next_close().is_some_and(|at| at <= now) {
            let Reverse((_, channel)) = self.closing.pop()?;
            let Some(window) = self.open.get_mut(channel.as_str()) else { continue };
            if window.waiting.is_empty() {
                // The channel has paused, so nothing of it has to be remembered.
                self.open.remove(channel.as_str());
                continue;
            }
            window.bytes = 0;
            let waiting = std::mem::take(&mut window.waiting);
            self.closing.push(Reverse((now + window.interval, channel.clone())));
            return Some((channel, waiting));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(5);

    fn channel(name: &str) -> Channel {
        Channel::parse(name, 255).expect("a channel")
    }

    /// Returns what leaves at once when `number` comes.
    fn pass(windows: &mut FlushWindows<u32>, now: u64, name: &str, number: u32, bytes: usize) -> Vec<u32> {
        let mut publications = vec![number];
        windows.pass(Moment(now), &channel(name), INTERVAL, &mut publications, bytes);
        publications
    }

    fn close(windows: &mut FlushWindows<u32>, now: u64) -> Vec<(String, Vec<u32>)> {
        std::iter::from_fn(|| windows.close_next(Moment(now)))
            .map(|(channel, waiting)| (channel.as_str().to_owned(), waiting))
            .collect()
    }

    #[test]
    fn a_slow_channel_is_never_late_and_leaves_nothing_behind() {
        let mut windows = FlushWindows::default();
        for number in 0..10 {
            let now = u64::from(number) * 6;
            assert!(close(&mut windows, now).is_empty());
            assert_eq!(pass(&mut windows, now, "a", number, 10), [number]);
        }
        assert!(close(&mut windows, 1_000).is_empty());
        assert_eq!((windows.next_close(), windows.open.len()), (None, 0));
    }

    #[test]
    fn a_busy_channel_leaves_once_an_interval_in_order() {
        let mut windows = FlushWindows::default();
        let mut left = Vec::new();
        for now in 0..20 {
            for (_, waiting) in close(&mut windows, now) {
                left.push((now, waiting));
            }
            let at_once = pass(&mut windows, now, "a", now as u32, 10);
            if !at_once.is_empty() {
                left.push((now, at_once));
            }
        }
        let expected =
            [(0, vec![0]), (5, (1..5).collect()), (10, (5..10).collect()), (15, (10..15).collect())];
        assert_eq!(left, expected);
        assert_eq!(windows.next_close(), Some(Moment(20)));
    }

    #[test]
    fn channels_wait_for_themselves_alone() {
        let mut windows = FlushWindows::default();
        assert_eq!(pass(&mut windows, 0, "a", 1, 10), [1]);
        assert_eq!(pass(&mut windows, 3, "b", 2, 10), [2]);
        assert!(pass(&mut windows, 4, "a", 3, 10).is_empty());
        assert!(pass(&mut windows, 4, "b", 4, 10).is_empty());
        assert_eq!(close(&mut windows, 5), [("a".to_owned(), vec![3])]);
        assert_eq!(close(&mut windows, 8), [("b".to_owned(), vec![4])]);
    }

    #[test]
    fn more_than_may_wait_leaves_early_and_whole() {
        let mut windows = FlushWindows::default();
        assert_eq!(pass(&mut windows, 0, "a", 0, 10), [0]);
        assert!(pass(&mut windows, 1, "a", 1, WAITING_BYTES_MAX).is_empty());
        assert_eq!(pass(&mut windows, 1, "a", 2, 1), [1, 2]);
        for number in 0..WAITING_MAX as u32 {
            assert!(pass(&mut windows, 1, "a", number, 0).is_empty());
        }
        assert_eq!(pass(&mut windows, 1, "a", 7, 0).len(), WAITING_MAX + 1);
        assert!(close(&mut windows, 5).is_empty());
    }

    #[test]
    fn what_waits_can_be_taken_ahead_of_what_must_not_overtake_it() {
        let mut windows = FlushWindows::default();
        assert_eq!(windows.take("a"), Vec::<u32>::new());
        assert_eq!(pass(&mut windows, 0, "a", 1, 10), [1]);
        assert!(pass(&mut windows, 1, "a", 2, 10).is_empty());
        assert_eq!(windows.take("a"), [2]);
        assert!(pass(&mut windows, 2, "a", 3, 10).is_empty());
        assert_eq!(pass(&mut windows, 2, "b", 4, 10), [4]);
        assert_eq!(windows.take_all(), [(channel("a"), vec![3])]);
        assert!(pass(&mut windows, 3, "a", 5, 10).is_empty());
        assert_eq!(close(&mut windows, 5), [("a".to_owned(), vec![5])]);
    }
}
