//! One value for each part of the broker, so that a part that fails does not hold up the others.

/// One value for each part.
#[derive(Debug)]
pub(super) struct PerPart<T>(Box<[T]>);

impl<T: Default> PerPart<T> {
    pub(super) fn new(parts: usize) -> Self {
        Self((0..parts.max(1)).map(|_| T::default()).collect())
    }
}

impl<T> PerPart<T> {
    /// Returns the value of a part. A part that does not exist is mapped to the last one.
    pub(super) fn of(&self, part: usize) -> &T {
        &self.0[part.min(self.0.len() - 1)]
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

/// Groups values by their part, each group in order.
pub(super) fn by_part<T>(things: Vec<T>, parts: usize, part_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    if parts <= 1 {
        return vec![things];
    }
    let mut divided: Vec<Vec<T>> = (0..parts).map(|_| Vec::new()).collect();
    for thing in things {
        let part = part_of(&thing).min(parts - 1);
        divided[part].push(thing);
    }
    divided.retain(|part| !part.is_empty());
    divided
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_divided_and_keep_their_order() {
        let by_rest = |parts: usize| by_part(vec![4, 1, 7, 3, 9], parts, |number| number % 3);
        assert_eq!(by_rest(3), [vec![3, 9], vec![4, 1, 7]]);
        assert_eq!(by_rest(1), [[4, 1, 7, 3, 9]]);
    }
}
