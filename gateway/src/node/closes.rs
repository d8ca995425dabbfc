//! Records which clients of this node were closed recently, and why.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The most closes that are kept. The oldest is evicted first.
const CLOSES_MAX: usize = 1_024;

/// Longest reason that is kept, in bytes: as much as a close frame has room for.
const REASON_BYTES_MAX: usize = 123;

/// A client that was closed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CloseRecord {
    pub client: Box<str>,
    pub user: Box<str>,
    pub protocol: Box<str>,
    /// The code that the client was sent, or would have been. 3000 if the client left by itself or the connection was
    /// lost.
    pub code: u16,
    pub reason: Box<str>,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// How long the client was connected, in seconds.
    pub lived: u64,
}

/// Selects closes, the latest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClosesWanted {
    /// Only those of this user. An empty name selects anonymous users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Box<str>>,
    /// Only those of this client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Box<str>>,
    pub limit: u32,
}

#[derive(Debug, Default)]
pub(crate) struct RecentCloses(Mutex<VecDeque<CloseRecord>>);

impl RecentCloses {
    pub(crate) fn note(&self, close: CloseRecord) {
        let reason = match close.reason.char_indices().find(|(at, _)| *at >= REASON_BYTES_MAX) {
            Some((at, _)) => close.reason[..at].into(),
            None => close.reason,
        };
        let mut closes = self.0.lock();
        if closes.len() >= CLOSES_MAX {
            closes.pop_front();
        }
        closes.push_back(CloseRecord { reason, ..close });
    }

    pub(super) fn list(&self, wanted: &ClosesWanted) -> Vec<CloseRecord> {
        let is_wanted = |close: &&CloseRecord| {
            wanted.user.as_ref().is_none_or(|user| *user == close.user)
                && wanted.client.as_ref().is_none_or(|client| *client == close.client)
        };
        let closes = self.0.lock();
        closes.iter().rev().filter(is_wanted).take(wanted.limit as usize).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(client: usize, user: &str) -> CloseRecord {
        CloseRecord { client: client.to_string().into(), user: user.into(), ..CloseRecord::default() }
    }

    fn clients(closes: &RecentCloses, wanted: &ClosesWanted) -> Vec<usize> {
        closes.list(wanted).iter().map(|close| close.client.parse().unwrap()).collect()
    }

    #[test]
    fn the_latest_come_first_and_the_oldest_make_room() {
        let closes = RecentCloses::default();
        (0..CLOSES_MAX + 10)
            .for_each(|client| closes.note(close(client, if client % 2 == 0 { "ann" } else { "" })));
        let all = clients(&closes, &ClosesWanted { limit: u32::MAX, ..ClosesWanted::default() });
        assert_eq!((all.len(), all[0], all[CLOSES_MAX - 1]), (CLOSES_MAX, CLOSES_MAX + 9, 10));
        let of_ann = ClosesWanted { user: Some("ann".into()), limit: 2, ..ClosesWanted::default() };
        assert_eq!(clients(&closes, &of_ann), [CLOSES_MAX + 8, CLOSES_MAX + 6]);
        let one = ClosesWanted { client: Some("11".into()), limit: 2, ..ClosesWanted::default() };
        assert_eq!(clients(&closes, &one), [11]);
        let anonymous = ClosesWanted { user: Some("".into()), limit: 1, ..ClosesWanted::default() };
        assert_eq!(clients(&closes, &anonymous), [CLOSES_MAX + 9]);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let closes = RecentCloses::default();
        closes.note(CloseRecord { reason: "é".repeat(200).into(), ..close(1, "") });
        let kept = &closes.list(&ClosesWanted { limit: 1, ..ClosesWanted::default() })[0];
        assert!(
            (REASON_BYTES_MAX..REASON_BYTES_MAX + 4).contains(&kept.reason.len()),
            "{}",
            kept.reason.len()
        );
    }
}
