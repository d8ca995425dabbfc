//! Newcomers: members that joined while a window was open. Of the values that wait in it, they want only those that came
//! after them.

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};

use super::waiting::{DueValue, NewestValue};

/// The most groups of one window that are told apart. Each is sent values of its own, which are encoded for it alone. Later
/// newcomers join the last group, and can be sent values again that came before they joined.
pub const NEWCOMER_GROUPS_MAX: usize = 32;

/// The newcomers of one window, in groups. No value came between the members of one group.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    /// The group of each newcomer.
    groups: FxHashMap<u32, u8>,
    /// The number of newcomers in each group.
    counts: SmallVec<[u32; 4]>,
    /// Whether anything has come since the last group began.
    has_come: bool,
    /// By key, for each value that was the first one of its key since a group began: that group, and how many values of the
    /// key had come before.
    marks: FxHashMap<Box<str>, SmallVec<[NewcomerMark; 1]>>,
}

#[derive(Clone, Copy, Debug)]
struct NewcomerMark {
    group: u8,
    before: u32,
}

impl Newcomers {
    pub(super) fn add(&mut self, member: u32) {
        self.remove(member);
        if self.counts.is_empty() || self.has_come && self.counts.len() < NEWCOMER_GROUPS_MAX {
            self.counts.push(0);
            self.has_come = false;
        }
        let group = self.counts.len() - 1;
        self.counts[group] += 1;
        self.groups.insert(member, group as u8);
    }

    pub(super) fn remove(&mut self, member: u32) {
        if let Some(group) = self.groups.remove(&member)
            && let Some(count) = self.counts.get_mut(usize::from(group))
        {
            *count -= 1;
        }
    }

    /// Notes a value of a key of which `before` values came before. Returns how many of the newcomers know none of those.
    pub(super) fn note(&mut self, key: &str, before: u32) -> usize {
        self.has_come = true;
        let last = self.counts.len().saturating_sub(1) as u8;
        let mark = NewcomerMark { group: last, before };
        let since = match self.marks.get_mut(key) {
            Some(marks) => {
                let since = marks.last().map_or(0, |mark| usize::from(mark.group) + 1);
                if since <= usize::from(last) {
                    marks.push(mark);
                }
                since
            }
            None => {
                self.marks.insert(key.into(), smallvec![mark]);
                0
            }
        };
        self.counts.iter().skip(since).map(|&count| count as usize).sum()
    }

    /// Returns the waiting values that are for one group.
    fn share_of<T: NewestValue + Clone>(&self, group: u8, waiting: &[DueValue<T>]) -> Vec<DueValue<T>> {
        let share = |taken: &DueValue<T>| {
            let marks = self.marks.get(taken.value.key())?;
            let mark = marks.iter().find(|mark| mark.group >= group)?;
            let superseded = taken.superseded.saturating_sub(mark.before);
            Some(DueValue { value: taken.value.clone(), superseded })
        };
        waiting.iter().filter_map(share).collect()
    }

    /// Returns the waiting values that are for one member. `None` if it is no newcomer.
    pub(super) fn share_for<T: NewestValue + Clone>(
        &self,
        member: u32,
        waiting: &[DueValue<T>],
    ) -> Option<Vec<DueValue<T>>> {
        Some(self.share_of(*self.groups.get(&member)?, waiting))
    }

    /// Returns the members of each group, and the values for them.
    pub(super) fn shares<T: NewestValue + Clone>(
        &self,
        waiting: &[DueValue<T>],
    ) -> Vec<(Vec<u32>, Vec<DueValue<T>>)> {
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); self.counts.len()];
        for (&member, &group) in &self.groups {
            members[usize::from(group)].push(member);
        }
        let groups = members.into_iter().enumerate().filter(|(_, members)| !members.is_empty());
        groups.map(|(group, members)| (members, self.share_of(group as u8, waiting))).collect()
    }
}
