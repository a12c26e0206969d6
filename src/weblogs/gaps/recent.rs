//! A map that forgets what was not used for longest.

use std::collections::HashMap;
use std::hash::Hash;

/// At the end of the list.
const NONE: usize = usize::MAX;

#[derive(Debug)]
pub(super) struct Recent<K, V> {
    index: HashMap<K, usize>,
    slots: Vec<Slot<K, V>>,
    most: usize,
    newest: usize,
    oldest: usize,
}

#[derive(Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    newer: usize,
    older: usize,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    /// Room for `most`, at least one.
    pub(super) fn new(most: usize) -> Self {
        Recent { index: HashMap::new(), slots: Vec::new(), most: most.max(1), newest: NONE, oldest: NONE }
    }

    /// What belongs to `key`, which is now the most recent.
    pub(super) fn get(&mut self, key: K) -> Option<&mut V> {
        let at = *self.index.get(&key)?;
        if at != self.newest {
            self.unlink(at);
            self.link(at);
        }
        self.slots.get_mut(at).map(|slot| &mut slot.value)
    }

    /// Puts `value` there, now the most recent. Returns what had to go for it.
    pub(super) fn put(&mut self, key: K, value: V) -> Option<(K, V)> {
        if let Some(there) = self.get(key) {
            return Some((key, std::mem::replace(there, value)));
        }
        let slot = Slot { key, value, newer: NONE, older: NONE };
        let (at, gone) = if self.slots.len() < self.most {
            self.slots.push(slot);
            (self.slots.len() - 1, None)
        } else {
            let at = self.oldest;
            self.unlink(at);
            self.index.remove(&self.slots[at].key);
            let gone = std::mem::replace(&mut self.slots[at], slot);
            (at, Some((gone.key, gone.value)))
        };
        self.index.insert(key, at);
        self.link(at);
        gone
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.slots.iter_mut().map(|slot| (&slot.key, &mut slot.value))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    fn unlink(&mut self, at: usize) {
        let Slot { newer, older, .. } = self.slots[at];
        match self.slots.get_mut(newer) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
        match self.slots.get_mut(older) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link(&mut self, at: usize) {
        let before = self.newest;
        self.slots[at].newer = NONE;
        self.slots[at].older = before;
        match self.slots.get_mut(before) {
            Some(slot) => slot.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_least_recently_used_goes(
            steps in prop::collection::vec((any::<bool>(), 0_u8..8), 0..200),
            most in 1_usize..6,
        ) {
            let mut recent = Recent::new(most);
            let mut list: Vec<(u8, usize)> = Vec::new();
            for (step, (put, key)) in steps.into_iter().enumerate() {
                let known: Option<(u8, usize)> =
                    list.iter().position(|(of, _)| *of == key).map(|at| list.remove(at));
                if put {
                    list.push((key, step));
                    let gone = known.map(|before| (key, before.1));
                    let gone = gone.or_else(|| (list.len() > most).then(|| list.remove(0)));
                    prop_assert_eq!(recent.put(key, step), gone);
                } else {
                    prop_assert_eq!(recent.get(key).copied(), known.map(|(_, value)| value));
                    list.extend(known);
                }
                prop_assert_eq!(recent.len(), list.len());
            }
        }
    }
}
