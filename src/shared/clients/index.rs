//! Finding slots: the hash index, the LRU list, the list of free slots. All of it can be rebuilt from the slots.
//!
//! Links are slot numbers + 1, 0 is none, so that memory nobody has touched is an empty table. Every link is checked
//! before it is followed and every walk is bounded: what does not hold together is [`Corrupt`], and is rebuilt.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::Inconsistent;
use super::slot::{ClientSlot, Key};
use crate::model::time::{Moment, Seconds};
use crate::policy::tracking;
use crate::shared::lock::Guard;
use crate::shared::region::{BUCKETS, CLIENTS, Region};
use crate::shared::servers::ServerKey;

/// The first link of a chain of the index.
#[repr(C)]
#[derive(Debug)]
pub(in crate::shared) struct Bucket(pub(super) AtomicU32);
const _: () = assert!(size_of::<Bucket>() == 4);

/// The client table's part of the header.
#[repr(C, align(64))]
#[derive(Debug)]
pub(in crate::shared) struct ClientTableHeader {
    pub(super) newest: AtomicU32,
    pub(super) oldest: AtomicU32,
    pub(super) free: AtomicU32,
    /// Slots from here on have never been used.
    pub(super) frontier: AtomicU32,
    pub(super) used: AtomicU32,
    _reserved: AtomicU32,
    /// The largest `last` there is.
    pub(super) last: AtomicU64,
    pub(super) evictions: AtomicU64,
}
const _: () = assert!(size_of::<ClientTableHeader>() == 64);

/// No clock gets that far: a slot that says so is nonsense.
const END_OF_TIME: u64 = 1 << 62;

/// A link leads nowhere, or in a circle.
#[derive(Debug)]
pub(super) struct Corrupt;

/// The table as the holder of the lock sees it.
pub(super) struct Index<'g> {
    region: &'g Region,
    header: &'g ClientTableHeader,
    capacity: u32,
    buckets: u32,
}

impl<'g> Index<'g> {
    pub(super) fn new(guard: &'g Guard<'_>) -> Self {
        Self::unguarded(guard.region())
    }

    /// For [`repair`], which runs with the lock but before there is a guard.
    fn unguarded(region: &'g Region) -> Self {
        let capacity = region.geometry().clients;
        Index { region, header: &region.header().client_table, capacity, buckets: buckets(capacity) }
    }

    /// Bounds every walk, whatever is written there.
    fn used(&self) -> u32 {
        self.header.used.load(Relaxed).min(self.capacity)
    }

    pub(super) fn slot(&self, link: u32) -> Result<&'g ClientSlot, Corrupt> {
        if link == 0 || link > self.capacity {
            return Err(Corrupt);
        }
        self.region.row(&CLIENTS, link as usize - 1).ok_or(Corrupt)
    }

    fn bucket_at(&self, bucket: u32) -> Result<&'g AtomicU32, Corrupt> {
        self.region.row(&BUCKETS, bucket as usize).map(|bucket| &bucket.0).ok_or(Corrupt)
    }

    fn bucket(&self, key: Key) -> Result<&'g AtomicU32, Corrupt> {
        // Not its kind: all that it tells apart are :: and the one client that those of Unix sockets are.
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&key.halves[0].to_le_bytes());
        bytes[8..].copy_from_slice(&key.halves[1].to_le_bytes());
        self.bucket_at(self.region.hasher().hash(&bytes) as u32 & (self.buckets - 1))
    }

    /// See [`super::Clients::visit`]: its slot, with the link that leads there.
    pub(super) fn visit(
        &self,
        key: Key,
        tracking: Seconds,
        now: Moment,
    ) -> Result<(u32, &'g ClientSlot), Corrupt> {
        // Two a visit: however many run out, the table does not fall behind, and a visit's cost stays bounded.
        for _ in 0..2 {
            self.drop_expired(tracking, now)?;
        }
        let last = self.header.last.load(Relaxed).saturating_add(1).max(now.0);
        if last >= END_OF_TIME {
            return Err(Corrupt);
        }
        self.header.last.store(last, Relaxed);
        let (link, slot) = match self.find(key)? {
            Some((link, slot)) => {
                if !tracking::remembered(Moment(slot.last.load(Relaxed)), tracking, now) {
                    slot.vacate();
                    slot.fill(key, last);
                }
                // One that comes again before anybody else does is the newest already.
                if self.header.newest.load(Relaxed) != link {
                    self.unlink_lru(link)?;
                    self.link_newest(link)?;
                }
                (link, slot)
            }
            None => {
                let link = self.find_room()?;
                let slot = self.slot(link)?;
                slot.fill(key, last);
                self.link_index(link, key)?;
                self.header.used.store(self.used() + 1, Relaxed);
                self.link_newest(link)?;
                (link, slot)
            }
        };
        slot.last.store(last, Relaxed);
        slot.connects.store(slot.connects.load(Relaxed).saturating_add(1), Relaxed);
        Ok((link, slot))
    }

    /// The slot of a client that is in the index, with the link that leads there.
    pub(super) fn find(&self, key: Key) -> Result<Option<(u32, &'g ClientSlot)>, Corrupt> {
        let mut link = self.bucket(key)?.load(Relaxed);
        for _ in 0..=self.used() {
            if link == 0 {
                return Ok(None);
            }
            let slot = self.slot(link)?;
            if slot.is(key) {
                return Ok(Some((link, slot)));
            }
            link = slot.chain.load(Relaxed);
        }
        Err(Corrupt)
    }

    /// A vacated slot that is on no list.
    fn find_room(&self) -> Result<u32, Corrupt> {
        let free = self.header.free.load(Relaxed);
        if free != 0 {
            let slot = self.slot(free)?;
            if !slot.is_free() {
                return Err(Corrupt);
            }
            self.header.free.store(slot.chain.load(Relaxed), Relaxed);
            return Ok(free);
        }
        let frontier = self.header.frontier.load(Relaxed);
        if frontier < self.capacity {
            let slot = self.slot(frontier + 1)?;
            if !slot.is_free() {
                return Err(Corrupt);
            }
            slot.vacate();
            self.header.frontier.store(frontier + 1, Relaxed);
            return Ok(frontier + 1);
        }
        let oldest = self.header.oldest.load(Relaxed);
        self.remove(oldest)?;
        self.header.evictions.store(self.header.evictions.load(Relaxed).saturating_add(1), Relaxed);
        Ok(oldest)
    }

    /// Frees the least recently used slot if its client's tracking time is up.
    fn drop_expired(&self, tracking: Seconds, now: Moment) -> Result<(), Corrupt> {
        let oldest = self.header.oldest.load(Relaxed);
        if tracking == Seconds(0) || oldest == 0 {
            return Ok(());
        }
        if !tracking::remembered(Moment(self.slot(oldest)?.last.load(Relaxed)), tracking, now) {
            self.remove(oldest)?;
            self.push_free(oldest)?;
        }
        Ok(())
    }

    /// Takes a slot in use from all lists and vacates it.
    fn remove(&self, link: u32) -> Result<(), Corrupt> {
        let slot = self.slot(link)?;
        let key = slot.key(slot.tag.load(Relaxed)).ok_or(Corrupt)?;
        self.unlink_lru(link)?;
        self.unlink_index(link, key)?;
        slot.vacate();
        self.header.used.store(self.used().saturating_sub(1), Relaxed);
        Ok(())
    }

    fn push_free(&self, link: u32) -> Result<(), Corrupt> {
        self.slot(link)?.chain.store(self.header.free.load(Relaxed), Relaxed);
        self.header.free.store(link, Relaxed);
        Ok(())
    }

    fn link_index(&self, link: u32, key: Key) -> Result<(), Corrupt> {
        let head = self.bucket(key)?;
        self.slot(link)?.chain.store(head.load(Relaxed), Relaxed);
        head.store(link, Relaxed);
        Ok(())
    }

    fn unlink_index(&self, link: u32, key: Key) -> Result<(), Corrupt> {
        let mut from = self.bucket(key)?;
        for _ in 0..=self.used() {
            let next = from.load(Relaxed);
            let slot = self.slot(next)?;
            if next == link {
                from.store(slot.chain.load(Relaxed), Relaxed);
                return Ok(());
            }
            from = &slot.chain;
        }
        Err(Corrupt)
    }

    fn link_newest(&self, link: u32) -> Result<(), Corrupt> {
        let second = self.header.newest.load(Relaxed);
        let slot = self.slot(link)?;
        slot.newer.store(0, Relaxed);
        slot.older.store(second, Relaxed);
        match second {
            0 => &self.header.oldest,
            second => &self.slot(second)?.newer,
        }
        .store(link, Relaxed);
        self.header.newest.store(link, Relaxed);
        Ok(())
    }

    fn unlink_lru(&self, link: u32) -> Result<(), Corrupt> {
        let slot = self.slot(link)?;
        let (newer, older) = (slot.newer.load(Relaxed), slot.older.load(Relaxed));
        let to_older = match newer {
            0 => &self.header.newest,
            newer => &self.slot(newer)?.older,
        };
        let to_newer = match older {
            0 => &self.header.oldest,
            older => &self.slot(older)?.newer,
        };
        if to_older.load(Relaxed) != link || to_newer.load(Relaxed) != link {
            return Err(Corrupt);
        }
        to_older.store(older, Relaxed);
        to_newer.store(newer, Relaxed);
        Ok(())
    }

    fn clear_buckets(&self) {
        for bucket in 0..self.buckets {
            if let Ok(first) = self.bucket_at(bucket) {
                first.store(0, Relaxed);
            }
        }
    }

    /// See [`super::Clients::audit`].
    pub(super) fn audit(&self) -> Result<(), Inconsistent> {
        let broken = |Corrupt| Inconsistent("a link leads nowhere");
        let header = self.header;
        let used = header.used.load(Relaxed);
        let (mut link, mut newer, mut last) = (header.newest.load(Relaxed), 0, u64::MAX);
        for _ in 0..used {
            let slot = self.slot(link).map_err(broken)?;
            let key =
                slot.key(slot.tag.load(Relaxed)).ok_or(Inconsistent("a free slot is in the LRU list"))?;
            if slot.newer.load(Relaxed) != newer {
                return Err(Inconsistent("the LRU list is not the same both ways"));
            }
            if slot.last.load(Relaxed) >= last {
                return Err(Inconsistent("the LRU list is out of order"));
            }
            if self.find(key).map_err(broken)?.map(|(found, _)| found) != Some(link) {
                return Err(Inconsistent("a slot is not in the index"));
            }
            (newer, last, link) = (link, slot.last.load(Relaxed), slot.older.load(Relaxed));
        }
        if link != 0 || header.oldest.load(Relaxed) != newer {
            return Err(Inconsistent("the LRU list does not end with its oldest"));
        }
        let frontier = header.frontier.load(Relaxed).min(self.capacity);
        let slots = (1..=frontier).filter_map(|link| self.slot(link).ok());
        if slots.filter(|slot| !slot.is_free()).count() != used as usize {
            return Err(Inconsistent("a slot in use is not in the LRU list"));
        }
        let mut indexed = 0;
        for bucket in 0..self.buckets {
            let mut link = self.bucket_at(bucket).map_err(broken)?.load(Relaxed);
            while link != 0 && indexed <= used {
                indexed += 1;
                link = self.slot(link).map_err(broken)?.chain.load(Relaxed);
            }
        }
        if indexed != used {
            return Err(Inconsistent("the index has more than the slots in use"));
        }
        let mut link = header.free.load(Relaxed);
        for _ in used..frontier {
            let slot = self.slot(link).map_err(broken)?;
            if !slot.is_free() {
                return Err(Inconsistent("a slot in use is among the free ones"));
            }
            link = slot.chain.load(Relaxed);
        }
        if link != 0 { Err(Inconsistent("a free slot is listed twice")) } else { Ok(()) }
    }
}

/// How many chains the index has: a power of two, so that a chain has one slot on the average when all are in use.
fn buckets(capacity: u32) -> u32 {
    capacity.next_power_of_two()
}

/// Rebuilds everything from the slots. The caller holds the lock. Slots that make no sense are freed; of two with one
/// key the newer stays. Allocates once, 16 bytes for every client.
pub(in crate::shared) fn repair(region: &Region) {
    // Nothing in here may panic: the process would end, and the next one would come here again.
    let index = Index::unguarded(region);
    let header = index.header;
    let frontier = header.frontier.load(Relaxed).min(index.capacity);
    header.frontier.store(frontier, Relaxed);
    for root in [&header.newest, &header.oldest, &header.free, &header.used] {
        root.store(0, Relaxed);
    }
    index.clear_buckets();

    let free = |link| {
        if let Ok(slot) = index.slot(link) {
            slot.vacate();
            let _ = index.push_free(link);
        }
    };
    let mut found = Vec::new();
    for link in (1..=frontier).rev() {
        let last = index.slot(link).map_or(0, |slot| slot.last.load(Relaxed));
        if last < END_OF_TIME { found.push((last, link)) } else { free(link) }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    header.last.store(found.first().map_or(0, |newest| newest.0), Relaxed);

    let (mut newer, mut limit) = (0, END_OF_TIME);
    for (last, link) in found {
        let Ok(slot) = index.slot(link) else { continue };
        // No two may have one time, and none 0, as this is where the order comes from the next time.
        let last = last.min(limit - 1);
        let key = slot.key(slot.tag.load(Relaxed)).filter(|_| last > 0);
        let Some(key) = key.filter(|key| matches!(index.find(*key), Ok(None))) else {
            free(link);
            continue;
        };
        let _ = index.link_index(link, key);
        header.used.store(index.used() + 1, Relaxed);
        slot.last.store(last, Relaxed);
        limit = last;
        slot.newer.store(newer, Relaxed);
        slot.older.store(0, Relaxed);
        match index.slot(newer) {
            Ok(before) => before.older.store(link, Relaxed),
            Err(Corrupt) => header.newest.store(link, Relaxed),
        }
        header.oldest.store(link, Relaxed);
        newer = link;
        if region.servers().row_of(ServerKey(slot.server.load(Relaxed))).is_none() {
            slot.server.store(ServerKey::NONE.0, Relaxed);
        }
    }
    region.repaired();
}

/// More slots: `write` notes the new capacity in between, then the index is rebuilt for it.
pub(in crate::shared) fn grow(guard: &Guard<'_>, capacity: u32, write: impl FnOnce(u32)) {
    let old = Index::new(guard);
    if buckets(capacity) == old.buckets {
        write(capacity);
        return;
    }
    old.clear_buckets();
    write(capacity);
    let index = Index::new(guard);
    for link in 1..=index.header.frontier.load(Relaxed).min(capacity) {
        if let Ok(slot) = index.slot(link)
            && let Some(key) = slot.key(slot.tag.load(Relaxed))
        {
            let _ = index.link_index(link, key);
        }
    }
}
