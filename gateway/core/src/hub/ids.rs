//! An index from channel names to the first list of each channel. The name itself is stored in the list only.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use super::lists::Lists;

#[derive(Debug, Default)]
pub(super) struct ListIds(HashTable<u32>);

fn hash(name: &str) -> u64 {
    FxBuildHasher.hash_one(name)
}

fn name(lists: &Lists, id: u32) -> &str {
    lists.get(id as usize).map_or("", |members| members.channel.as_str())
}

impl ListIds {
    #[inline]
    pub(super) fn find(&self, lists: &Lists, channel: &str) -> Option<u32> {
        self.0.find(hash(channel), |&id| name(lists, id) == channel).copied()
    }

    /// Adds a list whose channel has no entry yet.
    pub(super) fn insert(&mut self, lists: &Lists, id: u32) {
        self.0.insert_unique(hash(name(lists, id)), id, |&id| hash(name(lists, id)));
    }

    /// Removes a list, which may have been removed already.
    pub(super) fn remove(&mut self, channel: &str, id: u32) {
        if let Ok(entry) = self.0.find_entry(hash(channel), |&known| known == id) {
            entry.remove();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Frees memory that the present channels do not need, if it is much.
    pub(super) fn shrink(&mut self, lists: &Lists) {
        if self.0.len() <= self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() * 2, |&id| hash(name(lists, id)));
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}
