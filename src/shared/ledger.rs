//! Who has how many connections where.
//!
//! One row a worker, written by that worker alone with plain loads and stores; readers add up. So counting needs no
//! lock and no locked instruction, and when a worker dies the master clears its row: whatever instruction it died
//! at, the sums are exact again. What a dead worker had counted is kept in one more row, the retired one.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::model::ids::{MAX_WORKERS, Target, WorkerId};
use crate::shared::region::{LEDGER, Region};
use crate::shared::servers::{self, RowId};

/// Sums over all workers, dead ones included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Connections open or being made right now.
    pub live: u32,
    /// Connections that reached the server since the start.
    pub connections: u64,
    /// Bytes from clients to the server.
    pub up: u64,
    /// Bytes from the server to clients.
    pub down: u64,
    /// Datagrams among them, from clients to the server.
    pub datagrams_up: u64,
    /// Datagrams from the server to clients.
    pub datagrams_down: u64,
}

/// What one worker has with one server.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Cell {
    live: AtomicU32,
    _reserved: AtomicU32,
    connections: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    datagrams_up: AtomicU64,
    datagrams_down: AtomicU64,
}
const _: () = assert!(size_of::<Cell>() == 48);

/// One worker's row, on pages of its own.
#[repr(C, align(4096))]
#[derive(Debug)]
pub(super) struct LedgerRow {
    cells: [Cell; servers::ROWS],
}
const _: () = assert!(size_of::<LedgerRow>() == 97 * 4096);

/// How many rows there are: the last is the retired one, which has no live connections and whose totals may be
/// "negative" (wrapped), when a row's totals were started anew.
pub(super) const ROWS: usize = MAX_WORKERS as usize + 1;
const RETIRED: usize = MAX_WORKERS as usize;

/// Access to the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Ledger<'a> {
    region: &'a Region,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(region: &'a Region) -> Self {
        Ledger { region }
    }

    fn cell(&self, row: usize, server: RowId) -> Option<&'a Cell> {
        self.region.row(&LEDGER, row)?.cells.get(server.0 as usize)
    }

    fn own(&self, worker: WorkerId, server: RowId) -> Option<&'a Cell> {
        if worker.0 >= MAX_WORKERS {
            return None;
        }
        self.cell(worker.0 as usize, server)
    }

    /// The cells of all workers that may have something in them.
    fn column(&self, server: RowId) -> impl Iterator<Item = &'a Cell> + use<'a> {
        let ledger = *self;
        (0..self.region.workers().rows()).filter_map(move |row| ledger.cell(row as usize, server))
    }

    /// Connections, open or being made, to the server that is at this position in the list, over all workers. May count
    /// a connection that ends this moment still, never one too few.
    #[inline]
    pub fn load(&self, target: Target) -> u32 {
        self.region.servers().at(target).map_or(0, |server| self.row_load(server))
    }

    /// The same of a row.
    #[inline]
    pub(super) fn row_load(&self, server: RowId) -> u32 {
        self.column(server).fold(0, |sum, cell| sum.saturating_add(cell.live.load(Relaxed)))
    }

    /// Everything about the server that is at this position in the list.
    pub fn totals(&self, target: Target) -> Totals {
        self.region.servers().at(target).map_or(Totals::default(), |server| self.row_totals(server))
    }

    fn row_totals(&self, server: RowId) -> Totals {
        let mut totals = Totals::default();
        for cell in self.column(server).chain(self.cell(RETIRED, server)) {
            totals.live = totals.live.saturating_add(cell.live.load(Relaxed));
            totals.connections = totals.connections.wrapping_add(cell.connections.load(Relaxed));
            totals.up = totals.up.wrapping_add(cell.up.load(Relaxed));
            totals.down = totals.down.wrapping_add(cell.down.load(Relaxed));
            totals.datagrams_up = totals.datagrams_up.wrapping_add(cell.datagrams_up.load(Relaxed));
            totals.datagrams_down = totals.datagrams_down.wrapping_add(cell.datagrams_down.load(Relaxed));
        }
        totals
    }

    /// A worker's own connections to the server that is at this position in the list.
    pub fn held(&self, worker: WorkerId, target: Target) -> u32 {
        let cell = self.region.servers().at(target).and_then(|server| self.own(worker, server));
        cell.map_or(0, |cell| cell.live.load(Relaxed))
    }

    /// The worker adds datagrams.
    pub(super) fn count_datagrams(&self, worker: WorkerId, server: RowId, up: u64, down: u64) {
        if let Some(cell) = self.own(worker, server) {
            add(&cell.datagrams_up, up);
            add(&cell.datagrams_down, down);
        }
    }

    /// The worker adds bytes.
    #[inline]
    pub(super) fn count(&self, worker: WorkerId, server: RowId, up: u64, down: u64) {
        if let Some(cell) = self.own(worker, server) {
            add(&cell.up, up);
            add(&cell.down, down);
        }
    }

    /// The worker takes a place on a server. False: there is no such worker or row.
    pub(super) fn take(&self, worker: WorkerId, server: RowId) -> bool {
        let Some(cell) = self.own(worker, server) else {
            return false;
        };
        cell.live.store(cell.live.load(Relaxed).saturating_add(1), Relaxed);
        true
    }

    /// The worker gives a place back.
    pub(super) fn give(&self, worker: WorkerId, server: RowId) {
        if let Some(cell) = self.own(worker, server) {
            cell.live.store(cell.live.load(Relaxed).saturating_sub(1), Relaxed);
        }
    }

    /// The worker has reached the server.
    pub(super) fn reached(&self, worker: WorkerId, server: RowId) {
        if let Some(cell) = self.own(worker, server) {
            add(&cell.connections, 1);
        }
    }

    /// The worker is dead: it has no connections any more, and its totals move to the retired row.
    pub(super) fn retire(&self, worker: WorkerId) {
        for server in self.region.servers().rows_ever() {
            let (Some(cell), Some(retired)) = (self.own(worker, server), self.cell(RETIRED, server)) else {
                continue;
            };
            cell.live.store(0, Relaxed);
            for (from, to) in [
                (&cell.connections, &retired.connections),
                (&cell.up, &retired.up),
                (&cell.down, &retired.down),
                (&cell.datagrams_up, &retired.datagrams_up),
                (&cell.datagrams_down, &retired.datagrams_down),
            ] {
                add(to, from.swap(0, Relaxed));
            }
        }
    }

    /// Another server is in that row from now on: its totals start at 0. Live connections stay counted.
    pub(super) fn reset_totals(&self, server: RowId) {
        let totals = self.row_totals(server);
        if let Some(retired) = self.cell(RETIRED, server) {
            add(&retired.connections, totals.connections.wrapping_neg());
            add(&retired.up, totals.up.wrapping_neg());
            add(&retired.down, totals.down.wrapping_neg());
            add(&retired.datagrams_up, totals.datagrams_up.wrapping_neg());
            add(&retired.datagrams_down, totals.datagrams_down.wrapping_neg());
        }
    }
}

/// Only the row's owner writes, so this needs no locked instruction.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ServerId;
    use crate::shared::region::Geometry;
    use crate::shared::servers::Definition;

    const TARGET: Target = Target::Server(ServerId(0));
    const ROW: RowId = RowId(0);

    /// Server 0, the emergency and the abuse server, in rows 0, 1 and 2.
    fn region() -> Region {
        let region = Region::create(Geometry { clients: 1, connections: 1 }).unwrap();
        let [a, b, c] = [1, 2, 3].map(Definition::local);
        region.servers().publish(&[a], Some(&b), Some(&c)).unwrap();
        region
    }

    #[test]
    fn a_load_is_the_sum_over_the_workers() {
        let region = region();
        region.workers().set_count(3);
        let ledger = region.ledger();
        for worker in [0, 1, 1, 2].map(WorkerId) {
            assert!(ledger.take(worker, ROW));
        }
        ledger.reached(WorkerId(1), ROW);
        ledger.count(WorkerId(2), ROW, 10, 20);
        ledger.count_datagrams(WorkerId(2), ROW, 3, 0);
        ledger.count_datagrams(WorkerId(0), ROW, 1, 5);
        assert_eq!(ledger.load(TARGET), 4);
        assert_eq!(ledger.held(WorkerId(1), TARGET), 2);
        let totals = Totals { live: 4, connections: 1, up: 10, down: 20, datagrams_up: 4, datagrams_down: 5 };
        assert_eq!(ledger.totals(TARGET), totals);
        assert_eq!(ledger.load(Target::Emergency), 0);
        ledger.give(WorkerId(1), ROW);
        assert_eq!(ledger.load(TARGET), 3);
    }

    #[test]
    fn a_dead_workers_totals_stay_and_its_connections_do_not() {
        let region = region();
        let (ledger, worker) = (region.ledger(), WorkerId(7));
        for (row, target) in [(RowId(1), Target::Emergency), (RowId(2), Target::Abuse)] {
            region.workers().mark_used(worker);
            ledger.take(worker, row);
            ledger.reached(worker, row);
            ledger.count(worker, row, 1, 2);
            ledger.count_datagrams(worker, row, 3, 4);
            let totals =
                Totals { live: 0, connections: 1, up: 1, down: 2, datagrams_up: 3, datagrams_down: 4 };
            for _ in 0..2 {
                region.reclaim(worker);
                assert_eq!(ledger.totals(target), totals);
            }
        }
        assert_eq!(region.workers().rows(), 7, "its row need not be looked at any more");
    }

    #[test]
    fn a_row_with_another_server_starts_at_nothing() {
        let region = region();
        let (ledger, [here, gone]) = (region.ledger(), [0, 1].map(WorkerId));
        region.workers().set_count(2);
        for worker in [here, gone] {
            ledger.count(worker, ROW, 10, 20);
            ledger.count_datagrams(worker, ROW, 1, 2);
        }
        region.reclaim(gone);
        ledger.reset_totals(ROW);
        assert_eq!(ledger.totals(TARGET), Totals::default());
        ledger.count_datagrams(here, ROW, 5, 6);
        region.reclaim(here);
        let since = Totals { datagrams_up: 5, datagrams_down: 6, ..Totals::default() };
        assert_eq!(ledger.totals(TARGET), since);
    }

    #[test]
    fn rows_beyond_the_count_count_until_they_are_reclaimed() {
        let region = region();
        region.workers().set_count(4);
        region.ledger().take(WorkerId(3), RowId(2));
        region.workers().set_count(1);
        assert_eq!(region.ledger().load(Target::Abuse), 1);
        region.reclaim(WorkerId(3));
        assert_eq!(region.ledger().load(Target::Abuse), 0);
    }

    #[test]
    fn a_worker_that_cannot_be_counts_nothing() {
        let region = region();
        for worker in [MAX_WORKERS, u32::MAX].map(WorkerId) {
            assert!(!region.ledger().take(worker, ROW), "not even in the retired row");
            region.ledger().count(worker, ROW, 1, 1);
            region.ledger().count_datagrams(worker, ROW, 1, 1);
            region.reclaim(worker);
        }
        assert_eq!(region.ledger().totals(TARGET), Totals::default());
        assert!(!region.ledger().take(WorkerId(0), RowId(u32::MAX)));
    }
}
