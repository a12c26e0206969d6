//! The mapping, its header, and access to the tables in it.
//!
//! One sparse memfd, laid out once for the largest tables there can be: what nobody has touched costs nothing, and
//! tables grow without being moved. All tables are rows of atomic integers, and this file is the only place where an
//! offset becomes a reference. Every index is checked on the way: other processes write here too, and what a worker
//! that went mad has written must not take the master with it.
//!
//! | part | rows | written by |
//! |---|---|---|
//! | header | 1 | see its fields |
//! | list | one a target | the master |
//! | servers | two a target | the master; failures by workers |
//! | workers | one a worker | that worker |
//! | ledger | one a worker, and one for the dead | that worker |
//! | clients, buckets | `-c` | whoever has the lock |
//! | connection slots | `-x` | the owner of the slot |
#![allow(unsafe_code)]

use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use siphasher::sip::SipHasher13;

use crate::model::ids::{self, MAX_WORKERS, Target, WorkerId};
use crate::model::time::{Moment, WallTime};
use crate::shared::clients::{self, Bucket, ClientSlot, Clients};
use crate::shared::ledger::{self, Ledger, LedgerRow};
use crate::shared::lock::{Busy, Lock};
use crate::shared::servers::{self, Cursor, ListEntry, ServerListHeader, ServerRow, Servers};
use crate::shared::slots::{ConnSlot, SlotTableHeader, Slots};
use crate::shared::workers::{WorkerRow, WorkerTableHeader, Workers};
use crate::sys::clock;
use crate::sys::memory::SharedMemory;

/// Sizes that the tables start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Slots of the client table; at least 1.
    pub clients: u32,
    /// Slots of the connection table; at least 1.
    pub connections: u32,
}

/// What the whole pen is doing; every worker looks at it when woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Accepting and relaying.
    Serving,
    /// QUIT: no new connections, the others run to their end.
    Draining,
    /// TERM: everything ends now.
    Stopping,
}

/// The shared region: created by the master before the first fork, inherited by every child.
#[derive(Debug)]
pub struct Region {
    memory: SharedMemory,
    /// With a key that clients cannot know, so that they cannot make one chain of the index long.
    hasher: SipHasher13,
}

/// Why there is no region, or not the one asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// No memory.
    #[error("cannot make the shared memory: {0}")]
    Io(#[from] std::io::Error),
    /// More than the tables can hold.
    #[error("{what}: {asked} is out of range, it must be from 1 to {most}")]
    Size {
        /// The option.
        what: &'static str,
        /// What was asked for.
        asked: u32,
        /// The largest number that is possible.
        most: u32,
    },
    /// Somebody has written over the header.
    #[error("the header of the shared memory is damaged ({0}); restart pen")]
    Damaged(&'static str),
    /// A worker holds the lock and does not let go.
    #[error(transparent)]
    Busy(#[from] Busy),
}

/// A row of a table in the region.
///
/// # Safety
/// `repr(C)`, integer atomics only, no pointer and no descriptor, any bit pattern valid: a worker killed half-way
/// leaves a stale row, never a broken one.
pub(super) unsafe trait Row: Sync {}

// SAFETY: repr(C), one integer atomic.
unsafe impl Row for ListEntry {}
// SAFETY: repr(C), integer atomics only.
unsafe impl Row for ServerRow {}
// SAFETY: repr(C), one integer atomic.
unsafe impl Row for Cursor {}
// SAFETY: repr(C), integer atomics only.
unsafe impl Row for WorkerRow {}
// SAFETY: repr(C), an array of cells that are repr(C), integer atomics only.
unsafe impl Row for LedgerRow {}
// SAFETY: repr(C), one integer atomic.
unsafe impl Row for Bucket {}
// SAFETY: repr(C), integer atomics only.
unsafe impl Row for ClientSlot {}
// SAFETY: repr(C), integer atomics only.
unsafe impl Row for ConnSlot {}
// SAFETY: repr(C), integer atomics and one mutex, which is the C library's to make sense of: a holder that dies is
// the very thing it is for.
unsafe impl Row for Header {}

/// Where a table lies: fixed for this version of the layout.
pub(super) struct Table<T> {
    start: usize,
    rows: usize,
    row: PhantomData<fn() -> T>,
}

impl<T> Table<T> {
    const PAGE: usize = 4096;

    /// On the first page after `end`. Rows are as aligned as a page at most, so all of them are aligned.
    const fn after(end: usize, rows: usize) -> Self {
        assert!(align_of::<T>() <= Self::PAGE);
        Table { start: end.next_multiple_of(Self::PAGE), rows, row: PhantomData }
    }

    /// What that many rows take, in whole pages.
    fn bytes(&self, rows: usize) -> usize {
        (rows.min(self.rows) * size_of::<T>()).next_multiple_of(Self::PAGE)
    }

    const fn end(&self) -> usize {
        self.start + self.rows * size_of::<T>()
    }
}

const HEADER: Table<Header> = Table::after(0, 1);
pub(super) const SERVER_LIST: Table<ListEntry> = Table::after(HEADER.end(), Target::ROWS);
pub(super) const SERVERS: Table<ServerRow> = Table::after(SERVER_LIST.end(), servers::ROWS);
pub(super) const CURSORS: Table<Cursor> = Table::after(SERVERS.end(), servers::CURSOR_ROWS);
pub(super) const WORKERS: Table<WorkerRow> = Table::after(CURSORS.end(), MAX_WORKERS as usize);
pub(super) const LEDGER: Table<LedgerRow> = Table::after(WORKERS.end(), ledger::ROWS);
pub(super) const CONNECTIONS: Table<ConnSlot> = Table::after(LEDGER.end(), Region::MAX_CONNECTIONS as usize);
pub(super) const BUCKETS: Table<Bucket> = Table::after(CONNECTIONS.end(), Region::MAX_CLIENTS as usize);
pub(super) const CLIENTS: Table<ClientSlot> = Table::after(BUCKETS.end(), Region::MAX_CLIENTS as usize);
const LENGTH: usize = CLIENTS.end().next_multiple_of(4096);

/// `penshare`, read as a little-endian number.
const MAGIC: u64 = u64::from_le_bytes(*b"penshare");
/// Goes up with every change of a row or of the order of the tables.
const LAYOUT: u32 = 7;

/// The header. Each part that is written often has cache lines of its own.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Header {
    magic: AtomicU64,
    layout: AtomicU32,
    clients: AtomicU32,
    connections: AtomicU32,
    /// Over the four above.
    crc: AtomicU32,
    started: AtomicU64,
    started_wall: AtomicU64,
    phase: AtomicU32,
    pub(super) worker_table: WorkerTableHeader,
    pub(super) server_list: ServerListHeader,
    pub(super) lock: Lock,
    pub(super) client_table: clients::ClientTableHeader,
    pub(super) slot_table: SlotTableHeader,
}
const _: () = assert!(size_of::<Header>() == 384);

impl Region {
    /// Largest client table.
    pub const MAX_CLIENTS: u32 = ids::MAX_CLIENTS;
    /// Largest connection table.
    pub const MAX_CONNECTIONS: u32 = ids::MAX_CONNECTIONS;

    /// Makes the memfd, sizes it sparsely for the largest tables, maps it shared, writes the header.
    ///
    /// # Errors
    /// A geometry that is out of range; what the system says (no address space, `ulimit -f` too small).
    pub fn create(geometry: Geometry) -> Result<Self, RegionError> {
        check(geometry)?;
        let keys = RandomState::new();
        let region = Region {
            memory: SharedMemory::create("pen", LENGTH)?,
            hasher: SipHasher13::new_with_keys(keys.hash_one(0), keys.hash_one(1)),
        };
        let header = region.header();
        // SAFETY: nobody else knows the region yet, and the mutex stays where it is until the mapping ends.
        unsafe { header.lock.mutex.init() }?;
        header.magic.store(MAGIC, Relaxed);
        header.layout.store(LAYOUT, Relaxed);
        header.started.store(clock::now().0, Relaxed);
        header.started_wall.store(clock::wall().0, Relaxed);
        region.set_geometry(geometry);
        Ok(region)
    }

    /// Checks magic, layout version, geometry and CRC-32 of the header. Only the master asks: it alone changes them.
    ///
    /// # Errors
    /// [`RegionError::Damaged`] says what is wrong.
    pub fn verify(&self) -> Result<(), RegionError> {
        let header = self.header();
        if header.magic.load(Relaxed) != MAGIC {
            return Err(RegionError::Damaged("magic number"));
        }
        if header.layout.load(Relaxed) != LAYOUT {
            return Err(RegionError::Damaged("layout version"));
        }
        if header.crc.load(Relaxed) != header.checksum() {
            return Err(RegionError::Damaged("checksum"));
        }
        check(Geometry {
            clients: header.clients.load(Relaxed),
            connections: header.connections.load(Relaxed),
        })
        .map_err(|_| RegionError::Damaged("geometry"))
    }

    /// Current sizes; never beyond the maxima, whatever is in the header.
    #[inline]
    pub fn geometry(&self) -> Geometry {
        let header = self.header();
        Geometry {
            clients: header.clients.load(Relaxed).clamp(1, Self::MAX_CLIENTS),
            connections: header.connections.load(Relaxed).clamp(1, Self::MAX_CONNECTIONS),
        }
    }

    /// Grows tables (never shrinks). Established entries stay. Takes the lock, and keeps it while it rebuilds the
    /// index: some 10 ns for every client that is remembered.
    ///
    /// # Errors
    /// A geometry that is out of range; [`RegionError::Busy`]. Nothing has changed then.
    pub fn grow(&self, geometry: Geometry) -> Result<(), RegionError> {
        check(geometry)?;
        let guard = self.lock_within(Self::LOCK_TIMEOUT)?;
        let old = self.geometry();
        clients::grow(&guard, old.clients.max(geometry.clients), |clients| {
            self.set_geometry(Geometry { clients, connections: old.connections.max(geometry.connections) });
        });
        Ok(())
    }

    /// The server table.
    pub fn servers(&self) -> Servers<'_> {
        Servers::new(self)
    }

    /// The ledger.
    pub fn ledger(&self) -> Ledger<'_> {
        Ledger::new(self)
    }

    /// The client table.
    pub fn clients(&self) -> Clients<'_> {
        Clients::new(self)
    }

    /// The connection slots.
    pub fn slots(&self) -> Slots<'_> {
        Slots::new(self)
    }

    /// The worker table.
    pub fn workers(&self) -> Workers<'_> {
        Workers::new(self)
    }

    /// What pen is doing.
    pub fn phase(&self) -> Phase {
        match self.header().phase.load(Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Stopping,
        }
    }

    /// Sets what pen is doing.
    pub fn set_phase(&self, phase: Phase) {
        self.header().phase.store(phase as u32, Release);
    }

    /// When the region was made, by both clocks.
    pub fn started(&self) -> (Moment, WallTime) {
        let header = self.header();
        (Moment(header.started.load(Relaxed)), WallTime(header.started_wall.load(Relaxed)))
    }

    /// How many bytes of real memory the region takes by now.
    ///
    /// # Errors
    /// What fstat(2) says.
    pub fn footprint(&self) -> std::io::Result<u64> {
        self.memory.footprint()
    }

    /// How many bytes of real memory the region takes at most, with tables of the present sizes that are all full.
    pub fn largest_footprint(&self) -> u64 {
        let Geometry { clients, connections } = self.geometry();
        let ledger = self.workers().rows() as usize + 1;
        let bytes = HEADER.bytes(1)
            + SERVER_LIST.bytes(Target::ROWS)
            + SERVERS.bytes(servers::ROWS)
            + WORKERS.bytes(MAX_WORKERS as usize)
            + LEDGER.bytes(ledger)
            + CONNECTIONS.bytes(connections as usize)
            + BUCKETS.bytes(clients.next_power_of_two() as usize)
            + CLIENTS.bytes(clients as usize);
        bytes as u64
    }

    /// How many bytes of address space are set aside for tables of the largest sizes.
    pub fn reserve(&self) -> u64 {
        LENGTH as u64
    }

    /// A worker has died: its ledger row is folded into the totals and zeroed, its slots and its row are freed,
    /// its probes end.
    /// Idempotent. Only the master calls it, and only when the process is gone for certain (waited for).
    /// Returns how many connections it had.
    pub fn reclaim(&self, worker: WorkerId) -> u32 {
        if worker.0 >= MAX_WORKERS {
            return 0;
        }
        self.ledger().retire(worker);
        self.servers().end_probes(worker);
        let freed = self.slots().sweep(worker);
        self.workers().clear(worker);
        self.forget_holder(worker);
        freed
    }

    fn set_geometry(&self, geometry: Geometry) {
        let header = self.header();
        header.clients.store(geometry.clients, Relaxed);
        header.connections.store(geometry.connections, Relaxed);
        header.crc.store(header.checksum(), Relaxed);
    }

    pub(super) fn hasher(&self) -> &SipHasher13 {
        &self.hasher
    }

    #[inline]
    pub(super) fn header(&self) -> &Header {
        self.row(&HEADER, 0).expect("the header's table has a row 0")
    }

    /// A row of a table; none for an index that the table does not have.
    #[inline]
    pub(super) fn row<T: Row>(&self, table: &Table<T>, index: usize) -> Option<&T> {
        const { assert!(CLIENTS.end() <= LENGTH) };
        if index >= table.rows {
            return None;
        }
        let offset = table.start + index * size_of::<T>();
        // SAFETY: the tables lie one after the other and the last ends before LENGTH, which is the mapping's length.
        let row = unsafe { self.memory.start().add(offset) }.cast::<T>();
        // SAFETY: inside the mapping, which lives as long as `self`; aligned, as the mapping starts on a page, tables
        // start on pages and a type's size is a multiple of its alignment. `Row` promises that any bits are valid
        // and that everything in it may change under a shared reference.
        Some(unsafe { row.as_ref() })
    }
}

impl Header {
    fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.magic.load(Relaxed).to_le_bytes());
        for field in [&self.layout, &self.clients, &self.connections] {
            hasher.update(&field.load(Relaxed).to_le_bytes());
        }
        hasher.finalize()
    }
}

fn check(geometry: Geometry) -> Result<(), RegionError> {
    let in_range = |what, asked, most| match asked {
        0 => Err(RegionError::Size { what, asked, most }),
        _ if asked > most => Err(RegionError::Size { what, asked, most }),
        _ => Ok(()),
    };
    in_range("-c", geometry.clients, Region::MAX_CLIENTS)?;
    in_range("-x", geometry.connections, Region::MAX_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::ClientAddress;
    use crate::model::time::Seconds;
    use crate::shared::servers::Definition;
    use crate::shared::slots::SlotFinder;

    const USUAL: Geometry = Geometry { clients: 2048, connections: 500 };

    #[test]
    fn a_fresh_region_costs_little_and_verifies() {
        let region = Region::create(USUAL).unwrap();
        region.verify().unwrap();
        const { assert!(LENGTH > 1 << 30, "address space for the largest tables") };
        assert!(region.footprint().unwrap() < 64 << 10, "{} bytes", region.footprint().unwrap());
        assert_eq!(region.geometry(), USUAL);
        assert_eq!(region.phase(), Phase::Serving);
    }

    #[test]
    fn verify_detects_any_flipped_bit_of_what_the_tables_rest_on() {
        let region = Region::create(USUAL).unwrap();
        let header = region.header();
        for bit in 0..64 {
            header.magic.fetch_xor(1 << bit, Relaxed);
            assert!(matches!(region.verify(), Err(RegionError::Damaged(_))));
            header.magic.fetch_xor(1 << bit, Relaxed);
        }
        for field in [&header.layout, &header.clients, &header.connections, &header.crc] {
            for bit in 0..32 {
                field.fetch_xor(1 << bit, Relaxed);
                assert!(matches!(region.verify(), Err(RegionError::Damaged(_))));
                field.fetch_xor(1 << bit, Relaxed);
            }
        }
        region.verify().unwrap();
    }

    #[test]
    fn a_mad_geometry_does_not_lead_out_of_the_tables() {
        let region = Region::create(USUAL).unwrap();
        region.header().clients.store(u32::MAX, Relaxed);
        region.header().connections.store(0, Relaxed);
        assert_eq!(region.geometry(), Geometry { clients: Region::MAX_CLIENTS, connections: 1 });
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for (clients, connections) in
            [(0, 1), (1, 0), (Region::MAX_CLIENTS + 1, 1), (1, Region::MAX_CONNECTIONS + 1)]
        {
            let error = Region::create(Geometry { clients, connections }).unwrap_err();
            assert!(matches!(error, RegionError::Size { .. }), "{error}");
        }
    }

    #[test]
    fn growing_never_shrinks_and_keeps_the_header_whole() {
        let region = Region::create(USUAL).unwrap();
        region.grow(Geometry { clients: 10_000, connections: 1 }).unwrap();
        assert_eq!(region.geometry(), Geometry { clients: 10_000, connections: 500 });
        region.verify().unwrap();
    }

    #[test]
    fn a_stuck_holder_is_named_and_does_not_hang_the_master() {
        let region = Region::create(USUAL).unwrap();
        std::thread::scope(|scope| {
            let (locked, wait) = std::sync::mpsc::channel();
            let (done, end) = std::sync::mpsc::channel::<()>();
            let region = &region;
            scope.spawn(move || {
                let guard = region.lock(WorkerId(3));
                locked.send(()).unwrap();
                let _ = end.recv();
                drop(guard);
            });
            wait.recv().unwrap();
            let busy = region.grow(USUAL).unwrap_err();
            assert!(matches!(busy, RegionError::Busy(Busy { holder: Some(WorkerId(3)) })), "{busy}");
            assert_eq!(region.workers().lock_holder(), Some(WorkerId(3)));
            drop(done);
        });
        assert_eq!(region.workers().lock_holder(), None);
        assert_eq!(region.repairs(), 0);
    }

    #[test]
    fn full_tables_take_what_was_foretold() {
        let region = Region::create(Geometry { clients: 30_000, connections: 7_000 }).unwrap();
        let workers = [WorkerId(0), WorkerId(1)];
        region.workers().set_count(2);
        for number in 0..30_000 {
            let client = ClientAddress::Inet(std::net::Ipv4Addr::from_bits(number).into(), 0);
            region.clients().visit(&region.lock(workers[0]), client, Seconds(0), Moment(1));
        }
        let mut finder = SlotFinder::default();
        while region.slots().claim(&mut finder, workers[0], Moment(1)).is_some() {}
        let servers: Vec<Definition> = (1..=2 * ids::MAX_SERVERS as u16).map(Definition::local).collect();
        for list in servers.chunks(ids::MAX_SERVERS as usize) {
            region.servers().publish(list, None, None).unwrap();
        }
        for worker in workers {
            region.reclaim(worker);
        }
        let (most, now) = (region.largest_footprint(), region.footprint().unwrap());
        assert!(now <= most && most < now + (128 << 10), "{now} bytes of {most}");
        assert!(most < region.reserve());
    }

    #[test]
    fn phases_are_seen() {
        let region = Region::create(USUAL).unwrap();
        for phase in [Phase::Draining, Phase::Stopping, Phase::Serving] {
            region.set_phase(phase);
            assert_eq!(region.phase(), phase);
        }
    }
}
