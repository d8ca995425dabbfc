//! The table of all subscriber lists on one worker.

use std::ops::{Index, IndexMut};

use super::members::Members;

/// Lists by their ids, which are reused. Lists are boxed: there can be more of them than connections, and a table has
/// many free slots. A slot is one pointer, where a `Slab` of boxes takes two words, because the free slots are recorded
/// separately.
#[derive(Debug, Default)]
pub(super) struct Lists {
    places: Vec<Option<Box<Members>>>,
    free: Vec<u32>,
}

impl Lists {
    #[inline]
    pub(super) fn get(&self, number: usize) -> Option<&Members> {
        self.places.get(number)?.as_deref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Members> {
        self.places.get_mut(number)?.as_deref_mut()
    }

    /// Inserts a list and returns its id.
    pub(super) fn insert(&mut self, list: Box<Members>) -> usize {
        if let Some(number) = self.free.pop() {
            self.places[number as usize] = Some(list);
            return number as usize;
        }
        self.places.push(Some(list));
        self.places.len() - 1
    }

    /// Removes a list.
    ///
    /// # Panics
    ///
    /// Panics if there is no list with this id.
    pub(super) fn remove(&mut self, number: usize) -> Box<Members> {
        let list = self.places[number].take().expect("the list is there");
        self.free.push(number as u32);
        list
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.places.capacity()
    }

    /// Frees the slots after the last one in use.
    pub(super) fn shrink_to_fit(&mut self) {
        let used = self.places.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.places.truncate(used);
        self.places.shrink_to_fit();
        self.free.retain(|number| (*number as usize) < used);
        self.free.shrink_to_fit();
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Members)> {
        self.places.iter().enumerate().filter_map(|(number, list)| Some((number, list.as_deref()?)))
    }
}

impl Index<usize> for Lists {
    type Output = Members;

    #[inline]
    fn index(&self, number: usize) -> &Members {
        self.get(number).expect("the list is there")
    }
}

impl IndexMut<usize> for Lists {
    #[inline]
    fn index_mut(&mut self, number: usize) -> &mut Members {
        self.get_mut(number).expect("the list is there")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use shared::channel::Channel;

    use super::*;

    proptest! {
        /// A list keeps its id as long as it exists, and freed slots are reused.
        #[test]
        fn numbers_are_used_again_and_only_then(steps in prop::collection::vec((0_u8..4, any::<prop::sample::Index>()), 0..100)) {
            let (mut lists, mut model) = (Lists::default(), BTreeMap::new());
            for (count, (step, which)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        let channel = Channel::parse(&format!("c{count}"), 255).unwrap();
                        let number = lists.insert(Box::new(Members::new(channel.clone())));
                        prop_assert!(model.insert(number, channel).is_none());
                    }
                    2 if !model.is_empty() => {
                        let number = *which.get(&model.keys().copied().collect::<Vec<_>>());
                        prop_assert_eq!(Some(lists.remove(number).channel), model.remove(&number));
                    }
                    _ => lists.shrink_to_fit(),
                }
                prop_assert_eq!(lists.len(), model.len());
                let there: BTreeMap<usize, Channel> = lists.iter().map(|(number, list)| (number, list.channel.clone())).collect();
                prop_assert_eq!(&there, &model);
                prop_assert!(lists.get(100).is_none());
            }
            for number in model.into_keys() {
                lists.remove(number);
            }
            lists.shrink_to_fit();
            prop_assert_eq!((lists.len(), lists.capacity()), (0, 0));
        }
    }
}
