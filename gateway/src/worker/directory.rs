//! Finds a worker's connections of each user without a scan of the others.

use rustc_hash::FxHashMap;
use shared::id::UserId;

/// Stands for no place in the table.
const NONE: u32 = u32::MAX;

/// The connections by user. Anonymous clients are not listed.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// The latest client of each user.
    last: FxHashMap<UserId, u32>,
    /// For each place in the table of connections, the previous and the next client of the same user.
    links: Vec<ClientKeyLinks>,
}

#[derive(Clone, Copy, Debug)]
struct ClientKeyLinks {
    before: u32,
    after: u32,
}

const ALONE: ClientKeyLinks = ClientKeyLinks { before: NONE, after: NONE };

impl Directory {
    pub(crate) fn enter(&mut self, user: &UserId, index: u32) {
        if user.is_anonymous() {
            return;
        }
        let at = index as usize;
        if self.links.len() <= at {
            self.links.resize(at + 1, ALONE);
        }
        let before = self.last.insert(user.clone(), index).unwrap_or(NONE);
        self.links[at] = ClientKeyLinks { before, after: NONE };
        if let Some(link) = self.links.get_mut(before as usize) {
            link.after = index;
        }
    }

    /// Removes a client that was entered.
    pub(crate) fn leave(&mut self, user: &UserId, index: u32) {
        if user.is_anonymous() {
            return;
        }
        let Some(link) = self.links.get_mut(index as usize) else { return };
        let ClientKeyLinks { before, after } = std::mem::replace(link, ALONE);
        if let Some(link) = self.links.get_mut(before as usize) {
            link.after = after;
        }
        match self.links.get_mut(after as usize) {
            Some(link) => link.before = before,
            None if before == NONE => drop(self.last.remove(user)),
            None => drop(self.last.insert(user.clone(), before)),
        }
    }

    /// Returns the connections of a user.
    pub(crate) fn of(&self, user: &str) -> impl Iterator<Item = u32> + '_ {
        let last = self.last.get(&UserId::new(user)).copied();
        std::iter::successors(last, |&at| {
            let before = self.links.get(at as usize)?.before;
            (before != NONE).then_some(before)
        })
    }

    /// Frees the memory of places from `places` on.
    pub(crate) fn shrink(&mut self, places: usize) {
        self.links.truncate(places);
        self.links.shrink_to_fit();
        if self.last.len() <= self.last.capacity() / 4 {
            self.last.shrink_to(self.last.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_directory_finds_whom_a_plain_list_finds() {
        let (mut directory, mut list) = (Directory::default(), BTreeMap::new());
        let mut random = 7_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (index, user) =
                ((random >> 33) as u32 % 64, UserId::new(&format!("u{}", (random >> 50) % 6)));
            match list.remove(&index) {
                Some(of) => directory.leave(&of, index),
                None => {
                    directory.enter(&user, index);
                    list.insert(index, user);
                }
            }
            for user in 0..6 {
                let user = format!("u{user}");
                let mut found: Vec<u32> = directory.of(&user).collect();
                found.sort_unstable();
                let listed = list.iter().filter(|(_, of)| of.as_str() == user);
                assert_eq!(found, listed.map(|(index, _)| *index).collect::<Vec<_>>());
            }
        }
        for (index, user) in list {
            directory.leave(&user, index);
        }
        assert!(directory.last.is_empty());
    }

    #[test]
    fn nobody_is_listed_for_anonymous_clients() {
        let mut directory = Directory::default();
        directory.enter(&UserId::ANONYMOUS, 3);
        assert_eq!((directory.of("").count(), directory.links.len()), (0, 0));
        directory.leave(&UserId::ANONYMOUS, 3);
    }
}
