//! Who has to be done by when, without looking at everybody.
//!
//! All members of a queue have the same length of time, so the order in which they joined is the order of their
//! deadlines, and only the first needs to be looked at. The length is asked for at each look: a change of a
//! timeout takes effect at once, for those that wait already too.

use slotmap::SlotMap;

use crate::model::time::{Moment, Seconds};

use super::connection::{Connection, Key};

/// Something that waits in queues, in one at a time.
pub trait Waiting {
    /// What names it in its table.
    type Key: slotmap::Key;

    /// Its place in the queue that it is in.
    fn link(&self) -> &Link<Self::Key>;

    /// The same, for the queue alone to change.
    fn link_mut(&mut self) -> &mut Link<Self::Key>;
}

impl Waiting for Connection {
    type Key = Key;

    fn link(&self) -> &Link {
        &self.link
    }

    fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

/// A place in a queue.
#[derive(Debug, Clone, Copy)]
pub struct Link<K = Key> {
    before: Option<K>,
    after: Option<K>,
    /// When it joined, or was last touched.
    since: Moment,
}

impl<K> Default for Link<K> {
    fn default() -> Self {
        Link { before: None, after: None, since: Moment::default() }
    }
}

/// Entries of a table in the order of their deadlines.
#[derive(Debug)]
pub struct Queue<K = Key> {
    first: Option<K>,
    last: Option<K>,
    /// Microseconds that members get beyond their time: a touch that comes sooner after the last is not noted.
    slack: u64,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Queue { first: None, last: None, slack: 0 }
    }
}

impl<K: slotmap::Key> Queue<K> {
    /// For members that are touched often: no more than four times a second is it noted, and nobody's time is up
    /// before it is.
    pub fn with_slack() -> Self {
        Queue { slack: 250_000, ..Queue::default() }
    }

    /// Joins at the end. The entry is in no other queue.
    pub fn join<E: Waiting<Key = K>>(&mut self, table: &mut SlotMap<K, E>, key: K, now: Moment) {
        if let Some(entry) = table.get_mut(key) {
            *entry.link_mut() = Link { before: self.last, after: None, since: now };
        }
        match self.last.and_then(|last| table.get_mut(last)) {
            Some(last) => last.link_mut().after = Some(key),
            None => self.first = Some(key),
        }
        self.last = Some(key);
    }

    /// Leaves. The entry is in this queue.
    pub fn leave<E: Waiting<Key = K>>(&mut self, table: &mut SlotMap<K, E>, key: K) {
        let Some(entry) = table.get_mut(key) else {
            return;
        };
        let Link { before, after, .. } = std::mem::take(entry.link_mut());
        match before.and_then(|before| table.get_mut(before)) {
            Some(neighbour) => neighbour.link_mut().after = after,
            None => self.first = after,
        }
        match after.and_then(|after| table.get_mut(after)) {
            Some(neighbour) => neighbour.link_mut().before = before,
            None => self.last = before,
        }
    }

    /// Would a touch now be noted?
    pub fn is_to_note(&self, link: &Link<K>, now: Moment) -> bool {
        now.micros_since(link.since) >= self.slack
    }

    /// Starts the member's time anew.
    pub fn touch<E: Waiting<Key = K>>(&mut self, table: &mut SlotMap<K, E>, key: K, now: Moment) {
        if table.get(key).is_some_and(|entry| self.is_to_note(entry.link(), now)) {
            self.leave(table, key);
            self.join(table, key, now);
        }
    }

    /// The first member, and when it joined or was last touched, as far as that was noted.
    pub fn first<E: Waiting<Key = K>>(&self, table: &SlotMap<K, E>) -> Option<(K, Moment)> {
        let first = self.first?;
        Some((first, table.get(first)?.link().since))
    }

    /// The first member, if its time of `length` is up; None: members have for ever.
    pub fn overdue<E: Waiting<Key = K>>(
        &self,
        table: &SlotMap<K, E>,
        length: Option<Seconds>,
        now: Moment,
    ) -> Option<K> {
        self.first.filter(|_| self.next_deadline(table, length).is_some_and(|deadline| deadline <= now))
    }

    /// When the first member's time of `length` is up; None: members have for ever.
    pub fn next_deadline<E: Waiting<Key = K>>(
        &self,
        table: &SlotMap<K, E>,
        length: Option<Seconds>,
    ) -> Option<Moment> {
        let Moment(nominal) = self.first(table)?.1.plus(length?);
        Some(Moment(nominal.saturating_add(self.slack)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::connection::Phase;
    use proptest::prelude::*;

    type Table = SlotMap<Key, Connection>;

    fn insert(table: &mut Table) -> Key {
        table.insert(Connection::for_tests(Phase::Between))
    }

    fn at(second: u64) -> Moment {
        Moment(second * 1_000_000)
    }

    fn members(queue: &Queue, table: &Table) -> Vec<Key> {
        let mut all = Vec::new();
        let mut next = queue.first;
        while let Some(key) = next {
            all.push(key);
            next = table[key].link.after;
        }
        all
    }

    #[test]
    fn the_first_to_join_is_the_first_to_be_overdue() {
        let (mut table, mut queue) = (Table::with_key(), Queue::default());
        let (early, late) = (insert(&mut table), insert(&mut table));
        queue.join(&mut table, early, at(1));
        queue.join(&mut table, late, at(2));
        assert_eq!(queue.next_deadline(&table, Some(Seconds(5))), Some(at(6)));
        assert_eq!(queue.overdue(&table, Some(Seconds(5)), at(5)), None);
        assert_eq!(queue.overdue(&table, Some(Seconds(5)), at(6)), Some(early));
        queue.leave(&mut table, early);
        assert_eq!(queue.overdue(&table, Some(Seconds(5)), at(6)), None);
        // The length is the one of now, not the one of when it joined.
        assert_eq!(queue.overdue(&table, Some(Seconds(4)), at(6)), Some(late));
    }

    #[test]
    fn whoever_is_touched_goes_to_the_end_and_is_never_overdue_early() {
        let (mut table, mut queue) = (Table::with_key(), Queue::with_slack());
        let (one, two) = (insert(&mut table), insert(&mut table));
        queue.join(&mut table, one, at(1));
        queue.join(&mut table, two, at(1));
        // Too soon to be noted, but it counts.
        let touched = Moment(at(1).0 + queue.slack - 1);
        queue.touch(&mut table, one, touched);
        assert_eq!(members(&queue, &table), [one, two]);
        assert_eq!(queue.overdue(&table, Some(Seconds(1)), touched.plus(Seconds(1))), None);
        queue.touch(&mut table, one, at(2));
        assert_eq!(members(&queue, &table), [two, one]);
        assert_eq!(queue.overdue(&table, Some(Seconds(1)), Moment(at(2).0 + queue.slack)), Some(two));
    }

    #[test]
    fn whoever_is_touched_more_often_than_its_time_is_never_overdue() {
        let (mut table, mut queue) = (Table::with_key(), Queue::with_slack());
        let one = insert(&mut table);
        let mut touched = at(1);
        queue.join(&mut table, one, touched);
        for step in 0..500 {
            let now = Moment(touched.0 + 10_000 + step % 99 * 10_000);
            assert_eq!(
                queue.overdue(&table, Some(Seconds(1)), now),
                None,
                "{} after a touch",
                now.0 - touched.0
            );
            touched = now;
            queue.touch(&mut table, one, now);
        }
    }

    proptest! {
        #[test]
        fn it_is_the_list_that_a_vector_would_be(steps in prop::collection::vec((0usize..3, 0usize..12), 0..200)) {
            let (mut table, mut queue, mut model) = (Table::with_key(), Queue::default(), Vec::new());
            let keys: Vec<Key> = (0..12).map(|_| insert(&mut table)).collect();
            for (now, (what, which)) in steps.into_iter().enumerate() {
                let (key, now) = (keys[which], at(now as u64 + 1));
                match (what, model.contains(&key)) {
                    (0, false) => {
                        queue.join(&mut table, key, now);
                        model.push(key);
                    }
                    (1, true) => {
                        queue.leave(&mut table, key);
                        model.retain(|&member| member != key);
                    }
                    (2, true) => {
                        queue.touch(&mut table, key, now);
                        model.retain(|&member| member != key);
                        model.push(key);
                    }
                    _ => {}
                }
                prop_assert_eq!(members(&queue, &table), model.clone());
                prop_assert_eq!(queue.last, model.last().copied());
            }
        }
    }
}
