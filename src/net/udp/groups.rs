//! The messages of a batch, flow by flow.

use std::ops::Range;

use crate::sys::datagram::BATCH;

/// Which messages of a batch belong together: each group's in the order in which they came.
#[derive(Debug)]
pub(super) struct Groups<K> {
    groups: Vec<Group<K>>,
    /// For each message, the next of its group.
    next: [u8; BATCH],
}

#[derive(Debug)]
struct Group<K> {
    key: K,
    first: u8,
    last: u8,
    count: u8,
}

/// No message.
const NONE: u8 = u8::MAX;

impl<K> Default for Groups<K> {
    fn default() -> Self {
        Groups { groups: Vec::new(), next: [NONE; BATCH] }
    }
}

impl<K: Copy + Eq> Groups<K> {
    /// The message belongs to this group, after those that came before it.
    pub(super) fn add(&mut self, key: K, message: u8) {
        let Some(next) = self.next.get_mut(usize::from(message)) else {
            return;
        };
        *next = NONE;
        // Whoever sends several mostly does so in a row. A search through 64 keys takes less time than a hash.
        match self.groups.iter_mut().rev().find(|group| group.key == key) {
            None => self.groups.push(Group { key, first: message, last: message, count: 1 }),
            Some(group) => {
                group.count += 1;
                let last = std::mem::replace(&mut group.last, message);
                if let Some(next) = self.next.get_mut(usize::from(last)) {
                    *next = message;
                }
            }
        }
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// The key and the first message of a group.
    pub(super) fn get(&self, group: usize) -> Option<(K, u8)> {
        self.groups.get(group).map(|group| (group.key, group.first))
    }

    /// Where a group's messages are, if no others are among them.
    pub(super) fn run(&self, group: usize) -> Option<Range<usize>> {
        let group = self.groups.get(group)?;
        let run = group.first.into()..usize::from(group.last) + 1;
        (run.len() == usize::from(group.count)).then_some(run)
    }

    /// The message after this one in its group.
    pub(super) fn after(&self, message: u8) -> Option<u8> {
        self.next.get(usize::from(message)).copied().filter(|&next| next != NONE)
    }

    /// For the next batch.
    pub(super) fn clear(&mut self) {
        self.groups.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grouped(keys: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut groups = Groups::default();
        groups.add(b'x', 0);
        groups.clear();
        for (message, key) in (0..).zip(keys) {
            groups.add(*key, message);
        }
        let members = |first| std::iter::successors(Some(first), |&message| groups.after(message)).collect();
        let all = (0..groups.len()).filter_map(|at| Some((at, groups.get(at)?)));
        let all = all.map(|(at, (key, first))| {
            let members: Vec<u8> = members(first);
            let in_a_row = members.windows(2).all(|pair| pair[0] + 1 == pair[1]);
            let run = groups.run(at).map(|run| run.map(|message| message as u8).collect());
            assert_eq!(run, in_a_row.then(|| members.clone()));
            (key, members)
        });
        all.collect()
    }

    #[test]
    fn groups_come_in_the_order_of_their_first_messages() {
        assert_eq!(grouped(b""), []);
        assert_eq!(grouped(b"aba"), [(b'a', vec![0, 2]), (b'b', vec![1])]);
    }

    proptest! {
        #[test]
        fn every_message_is_in_the_group_of_its_key_in_order(keys in prop::collection::vec(0u8..9, 0..=BATCH)) {
            let groups = grouped(&keys);
            prop_assert_eq!(groups.iter().map(|(_, members)| members.len()).sum::<usize>(), keys.len());
            for (key, members) in groups {
                prop_assert!(members.is_sorted());
                prop_assert!(members.iter().all(|&message| keys[usize::from(message)] == key));
            }
        }
    }
}
