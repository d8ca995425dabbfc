//! Messages of an ordered pub/sub without numbers that all nodes receive and one node processes.
//!
//! As long as its connection holds, each node receives the same messages in the same order, among them marks that nodes
//! send there themselves. The place of a message is the last mark before it and the number of messages since, so all nodes
//! use the same place for a message. One node processes the messages, and tells how far it has got. The node that takes
//! over from it continues from there with the messages that it has received itself.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use shared::moment::Moment;

/// How many marks are remembered. Nodes can have connected this many times since the oldest place that is asked for.
const MARKS_MAX: usize = 256;

/// The place of a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MessagePlace {
    /// The last mark before the message.
    pub mark: u64,
    /// The number of the message since that mark, from 1. 0 is the mark itself.
    pub number: u64,
}

impl MessagePlace {
    pub fn parse(text: &str) -> Option<Self> {
        let (mark, number) = text.split_once('.')?;
        Some(Self { mark: u64::from_str_radix(mark, 16).ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for MessagePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.mark, self.number)
    }
}

/// A message that waits to be processed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitingMessage<T> {
    pub place: MessagePlace,
    pub since: Moment,
    pub message: T,
    /// Its number among all messages and marks that this node has received.
    at: u64,
    bytes: usize,
}

/// The result of receiving a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceiveOutcome {
    Waits,
    /// It waits, and this many of the oldest were dropped for want of room.
    InPlaceOf(usize),
    /// It came before any mark, so it has no place that other nodes would know.
    Unplaced,
}

/// The messages that one node has received, and that are not known to be processed.
#[derive(Debug)]
pub struct ReceivedMessages<T> {
    waiting: VecDeque<WaitingMessage<T>>,
    /// Each mark with the value of `received` at which it was received.
    marks: VecDeque<(u64, u64)>,
    /// How many messages and marks were received.
    received: u64,
    /// The last mark on this connection, with the value of `received` at which it was received.
    current: Option<(u64, u64)>,
    /// The value of `received` at the first mark on this connection. Nothing was missed from there on.
    unbroken: u64,
    /// Everything up to here is processed.
    done: Option<MessagePlace>,
    bytes: usize,
    bytes_max: usize,
}

impl<T> ReceivedMessages<T> {
    /// `bytes_max`: the most bytes of messages that may wait.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            marks: VecDeque::new(),
            received: 0,
            current: None,
            unbroken: 0,
            done: None,
            bytes: 0,
            bytes_max,
        }
    }

    pub fn mark(&mut self, mark: u64) {
        self.received += 1;
        if self.current.is_none() {
            self.unbroken = self.received;
        }
        self.current = Some((mark, self.received));
        self.marks.push_back((mark, self.received));
        if self.marks.len() > MARKS_MAX {
            self.marks.pop_front();
        }
    }

    /// Handles a lost connection: the next message does not follow the last one.
    pub fn lose(&mut self) {
        if self.waiting.is_empty() {
            self.done = self.done();
        }
        self.current = None;
    }

    /// Whether the next message has a place.
    pub fn is_placed(&self) -> bool {
        self.current.is_some()
    }

    /// Whether this node has received everything after this place, and can continue from there. `None`: nothing was ever
    /// processed.
    pub fn covers(&self, place: Option<MessagePlace>) -> bool {
        let is_of_this_connection = |place: MessagePlace| {
            self.marks.iter().any(|(mark, marked)| *mark == place.mark && *marked >= self.unbroken)
        };
        self.is_placed() && place.is_none_or(is_of_this_connection)
    }

    /// Whether this node knows this place, so that it can tell what was processed before it.
    pub fn knows(&self, place: MessagePlace) -> bool {
        self.marks.iter().any(|(mark, _)| *mark == place.mark)
    }

    /// Receives a message, which takes `bytes` bytes.
    pub fn receive(&mut self, now: Moment, bytes: usize, message: T) -> ReceiveOutcome {
        let Some((mark, marked)) = self.current else { return ReceiveOutcome::Unplaced };
        self.received += 1;
        let place = MessagePlace { mark, number: self.received - marked };
        self.bytes += bytes;
        self.waiting.push_back(WaitingMessage { place, since: now, message, at: self.received, bytes });
        let mut dropped = 0;
        while self.bytes > self.bytes_max && self.waiting.len() > 1 {
            self.pop();
            dropped += 1;
        }
        if dropped == 0 { ReceiveOutcome::Waits } else { ReceiveOutcome::InPlaceOf(dropped) }
    }

    /// Iterates over the waiting messages, in order.
    pub fn first(&self) -> impl Iterator<Item = &WaitingMessage<T>> {
        self.waiting.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Marks the first `count` waiting messages as processed.
    pub fn finish(&mut self, count: usize) {
        for _ in 0..count {
            self.pop();
        }
    }

    /// Marks everything up to this place as processed, by whichever node. Does nothing if this node does not know the
    /// place.
    pub fn done_until(&mut self, place: MessagePlace) {
        let Some((_, marked)) = self.marks.iter().rev().find(|(mark, _)| *mark == place.mark) else { return };
        let until = marked.saturating_add(place.number);
        while self.waiting.front().is_some_and(|first| first.at <= until) {
            self.pop();
        }
    }

    /// Drops messages that have waited longer than `longest`, and returns how many there were.
    pub fn forget(&mut self, now: Moment, longest: Duration) -> usize {
        let mut forgotten = 0;
        while self.waiting.front().is_some_and(|first| now.since(first.since) > longest) {
            self.pop();
            forgotten += 1;
        }
        forgotten
    }

    /// Returns the place up to which everything that this node has received is processed. `None`: it knows no place yet.
    pub fn done(&self) -> Option<MessagePlace> {
        match (self.waiting.front(), self.current) {
            (Some(WaitingMessage { place, .. }), _) => {
                Some(MessagePlace { number: place.number - 1, ..*place })
            }
            (None, Some((mark, marked))) => Some(MessagePlace { mark, number: self.received - marked }),
            (None, None) => self.done,
        }
    }

    fn pop(&mut self) {
        if let Some(first) = self.waiting.pop_front() {
            self.bytes -= first.bytes;
            self.done = Some(first.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn received() -> ReceivedMessages<u32> {
        ReceivedMessages::new(1_000)
    }

    fn places(received: &ReceivedMessages<u32>) -> Vec<(u64, u64, u32)> {
        received.first().map(|one| (one.place.mark, one.place.number, one.message)).collect()
    }

    #[test]
    fn a_place_reads_back_as_it_is_written() {
        for place in [MessagePlace { mark: 0, number: 0 }, MessagePlace { mark: u64::MAX, number: u64::MAX }]
        {
            assert_eq!(MessagePlace::parse(&place.to_string()), Some(place));
        }
        for none in ["", "1", "x.1", "1.x", "1.-1"] {
            assert_eq!(MessagePlace::parse(none), None, "{none}");
        }
    }

    #[test]
    fn nodes_that_have_heard_a_mark_call_what_follows_the_same() {
        let (mut early, mut late) = (received(), received());
        early.mark(7);
        early.receive(Moment::ZERO, 1, 1);
        assert_eq!(late.receive(Moment::ZERO, 1, 1), ReceiveOutcome::Unplaced, "it came before any mark");
        for one in [&mut early, &mut late] {
            one.mark(8);
            one.receive(Moment::ZERO, 1, 2);
            one.receive(Moment::ZERO, 1, 3);
        }
        assert_eq!(places(&early), [(7, 1, 1), (8, 1, 2), (8, 2, 3)]);
        assert_eq!(places(&late), [(8, 1, 2), (8, 2, 3)]);
        assert_eq!(late.done(), Some(MessagePlace { mark: 8, number: 0 }));
        early.finish(2);
        assert_eq!(early.done(), Some(MessagePlace { mark: 8, number: 1 }));
        late.done_until(early.done().unwrap());
        assert_eq!(places(&late), [(8, 2, 3)]);
        late.done_until(MessagePlace { mark: 9, number: 9 });
        assert_eq!(places(&late), [(8, 2, 3)], "a place that it has not heard of");
        early.finish(1);
        early.mark(9);
        assert_eq!(early.done(), Some(MessagePlace { mark: 9, number: 0 }));
        late.mark(9);
        late.done_until(early.done().unwrap());
        assert!(late.is_empty());
    }

    #[test]
    fn what_follows_a_loss_has_no_place_before_the_next_mark() {
        let mut received = received();
        received.mark(1);
        received.receive(Moment::ZERO, 1, 1);
        received.lose();
        assert!(!received.is_placed());
        assert_eq!(received.receive(Moment::ZERO, 1, 2), ReceiveOutcome::Unplaced);
        received.finish(1);
        assert_eq!(received.done(), Some(MessagePlace { mark: 1, number: 1 }));
        received.mark(2);
        received.receive(Moment::ZERO, 1, 3);
        assert_eq!(places(&received), [(2, 1, 3)]);
    }

    #[test]
    fn a_node_goes_on_only_from_where_it_has_missed_nothing_since() {
        let place = |mark, number| Some(MessagePlace { mark, number });
        let mut received = received();
        assert!(!received.covers(None), "it has no place itself");
        received.mark(1);
        received.mark(2);
        assert!(received.covers(None) && received.covers(place(1, 0)) && received.covers(place(2, 9)));
        assert!(!received.covers(place(3, 0)));
        received.lose();
        assert!(!received.covers(place(2, 0)) && received.knows(place(2, 0).unwrap()));
        assert!(!received.knows(place(3, 0).unwrap()));
        received.mark(3);
        assert!(received.covers(place(3, 0)) && !received.covers(place(2, 0)));
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_in_time() {
        let mut received = received();
        received.mark(1);
        assert_eq!(received.receive(Moment::ZERO, 600, 1), ReceiveOutcome::Waits);
        assert_eq!(received.receive(Moment(1), 600, 2), ReceiveOutcome::InPlaceOf(1));
        assert_eq!(
            received.receive(Moment(2), 5_000, 3),
            ReceiveOutcome::InPlaceOf(1),
            "the newest is kept, however long"
        );
        assert_eq!((received.bytes(), places(&received)), (5_000, vec![(1, 3, 3)]));
        assert_eq!(received.forget(Moment(2), Duration::from_millis(0)), 0);
        assert_eq!(received.forget(Moment(4), Duration::from_millis(1)), 1);
        assert_eq!((received.bytes(), received.is_empty()), (0, true));
        for mark in 2..=300 {
            received.mark(mark);
        }
        assert_eq!(received.marks.len(), MARKS_MAX);
    }

    /// An event in a cluster of three nodes.
    #[derive(Clone, Debug)]
    enum Step {
        Emit,
        /// A node connects anew, and sends a mark.
        Connect(usize),
        /// A node loses its connection.
        Lose(usize),
        /// A node has its turn, processes this many of the waiting messages, and stores how far it got, or dies before
        /// that.
        Turn(usize, usize, bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Emit),
            1 => (0..3_usize).prop_map(Step::Connect),
            1 => (0..3_usize).prop_map(Step::Lose),
            3 => (0..3_usize, 0..4_usize, any::<bool>()).prop_map(|(node, count, tells)| Step::Turn(node, count, tells)),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        /// Node 0 never loses its connection. So whatever the others do, each message is processed once under its place,
        /// and for the first time in its order.
        #[test]
        fn each_message_is_done_once_for_as_long_as_one_node_hears_all(steps in steps()) {
            let mut nodes: Vec<ReceivedMessages<u32>> = (0..3).map(|_| ReceivedMessages::new(1 << 20)).collect();
            let (mut sent, mut marks) = (0, 0);
            // The first node has begun.
            let mut written = Some(MessagePlace { mark: 0, number: 0 });
            let mut done = Vec::new();
            let mut once = BTreeSet::new();
            let mut connected = [true, false, false];
            let mut turn = |nodes: &mut Vec<ReceivedMessages<u32>>, node: usize, count: usize, tells: bool, written: &mut Option<MessagePlace>| {
                if !nodes[node].covers(*written) {
                    return done.clone();
                }
                if let Some(place) = *written {
                    nodes[node].done_until(place);
                }
                let first: Vec<(MessagePlace, u32)> =
                    nodes[node].first().take(count).map(|one| (one.place, one.message)).collect();
                for (place, message) in &first {
                    // The broker does not publish a message again whose key it knows.
                    if once.insert((place.mark, place.number)) {
                        done.push(*message);
                    }
                }
                nodes[node].finish(first.len());
                if tells {
                    *written = nodes[node].done();
                }
                done.clone()
            };
            nodes[0].mark(0);
            for step in steps {
                match step {
                    Step::Emit => {
                        sent += 1;
                        for (node, is_connected) in nodes.iter_mut().zip(connected) {
                            if is_connected {
                                node.receive(Moment::ZERO, 1, sent);
                            }
                        }
                    }
                    Step::Connect(node) if node > 0 => {
                        nodes[node].lose();
                        connected[node] = true;
                        marks += 1;
                        for (node, is_connected) in nodes.iter_mut().zip(connected) {
                            if is_connected {
                                node.mark(marks);
                            }
                        }
                    }
                    Step::Lose(node) if node > 0 => {
                        nodes[node].lose();
                        connected[node] = false;
                    }
                    Step::Connect(_) | Step::Lose(_) => {}
                    Step::Turn(node, count, tells) => {
                        turn(&mut nodes, node, count, tells, &mut written);
                    }
                }
            }
            let done = turn(&mut nodes, 0, usize::MAX, true, &mut written);
            let all: BTreeSet<u32> = done.iter().copied().collect();
            prop_assert_eq!(all.len(), done.len(), "none twice");
            prop_assert_eq!(all.len() as u32, sent, "none missing");
        }
    }
}
