//! The worker table: one row a worker, on cache lines of its own, written by the worker; the master writes it when
//! a process takes the place and when it is gone.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};

use crate::model::ids::{MAX_WORKERS, WorkerId};
use crate::model::time::Moment;
use crate::shared::region::{Region, WORKERS};

/// A worker as reports and the supervisor see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerView {
    /// Which one.
    pub id: WorkerId,
    /// Its process; 0 when the place is empty.
    pub pid: i32,
    /// How often this place was filled anew.
    pub restarts: u32,
    /// When it last said that it lives.
    pub heartbeat: Moment,
    /// When its process was made.
    pub started: Moment,
    /// Connections accepted since pen started, by all that had this place.
    pub accepted: u64,
    /// Connections now.
    pub connections: u32,
    /// Connects under way now.
    pub pending: u32,
    /// Handshakes with clients since pen started, by all that had this place.
    pub handshakes: Handshakes,
    /// Clients turned away since pen started, by all that had this place.
    pub refusals: Refusals,
    /// The generation of the settings that it uses.
    pub settings: u64,
    /// It accepts connections.
    pub ready: bool,
    /// It accepts nobody any more and ends with its last connection.
    pub draining: bool,
}

/// How handshakes of TLS with clients ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handshakes {
    /// Well, with a new session.
    pub full: u64,
    /// Well, with an earlier session.
    pub resumed: u64,
    /// Otherwise.
    pub failed: u64,
}

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // as in [`Handshakes`]
pub enum Handshake {
    Full,
    Resumed,
    Failed,
}

/// How many clients were turned away for what they sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refusals {
    /// Their header of the PROXY protocol was missing or broken, or they are nobody from whom one is accepted.
    pub proxy: u64,
    /// A request of theirs was none, or ambiguous: 400.
    pub bad: u64,
    /// The head of a request took too long: 408.
    pub slow: u64,
}

/// Why a client was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // as in [`Refusals`]
pub enum Refusal {
    Proxy,
    Bad,
    Slow,
}

/// Values of a row's `ready`; 0 = it is starting, or there is none.
const READY: u32 = 1;
const DRAINING: u32 = 2;

#[repr(C, align(128))]
#[derive(Debug)]
pub(super) struct WorkerRow {
    pid: AtomicI32,
    restarts: AtomicU32,
    heartbeat: AtomicU64,
    started: AtomicU64,
    accepted: AtomicU64,
    settings: AtomicU64,
    /// [`Handshakes`].
    full: AtomicU64,
    resumed: AtomicU64,
    failed: AtomicU64,
    /// [`Refusals`].
    proxy: AtomicU64,
    bad: AtomicU64,
    slow: AtomicU64,
    connections: AtomicU32,
    pending: AtomicU32,
    /// Connection slots that it has.
    slots: AtomicU32,
    ready: AtomicU32,
    /// The place was filled at least once.
    filled: AtomicU32,
    _reserved: AtomicU32,
}
const _: () = assert!(size_of::<WorkerRow>() == 128);

/// The worker table's part of the header.
#[repr(C)]
#[derive(Debug)]
pub(super) struct WorkerTableHeader {
    count: AtomicU32,
    /// Rows from here on have never been used, or not since they were reclaimed.
    high: AtomicU32,
}

/// Access to the worker table.
#[derive(Debug, Clone, Copy)]
pub struct Workers<'a> {
    region: &'a Region,
}

impl<'a> Workers<'a> {
    pub(super) fn new(region: &'a Region) -> Self {
        Workers { region }
    }

    fn row(&self, worker: WorkerId) -> Option<&'a WorkerRow> {
        self.region.row(&WORKERS, worker.0 as usize)
    }

    fn header(&self) -> &'a WorkerTableHeader {
        &self.region.header().worker_table
    }

    /// How many rows sums must look at.
    #[inline]
    pub(super) fn rows(&self) -> u32 {
        let header = self.header();
        header.count.load(Relaxed).max(header.high.load(Relaxed)).min(MAX_WORKERS)
    }

    /// Sums must look at this worker's row from now on.
    #[inline]
    pub(super) fn mark_used(&self, worker: WorkerId) {
        if worker.0 >= self.rows() && worker.0 < MAX_WORKERS {
            self.header().high.fetch_max(worker.0 + 1, Relaxed);
        }
    }

    fn sum(&self, field: impl Fn(&WorkerRow) -> &AtomicU32) -> u32 {
        (0..self.rows())
            .filter_map(|worker| self.row(WorkerId(worker)))
            .fold(0, |sum, row| sum.saturating_add(field(row).load(Relaxed)))
    }

    /// How many places there are.
    pub fn count(&self) -> u32 {
        self.header().count.load(Relaxed).min(MAX_WORKERS)
    }

    /// Master only: how many places there are, at most MAX_WORKERS. Rows beyond that still hold connections until
    /// they are reclaimed, and count until then.
    pub fn set_count(&self, count: u32) {
        let header = self.header();
        header.high.fetch_max(self.rows(), Relaxed);
        header.count.store(count.min(MAX_WORKERS), Relaxed);
    }

    /// Master only: a new process takes a place. Clears `ready`, sets heartbeat and start to now; `restarts` goes up
    /// if the place was used before.
    pub fn register(&self, worker: WorkerId, pid: i32, now: Moment) {
        let Some(row) = self.row(worker) else {
            return;
        };
        self.mark_used(worker);
        if row.filled.swap(1, Relaxed) != 0 {
            row.restarts.store(row.restarts.load(Relaxed).saturating_add(1), Relaxed);
        }
        row.ready.store(0, Relaxed);
        row.heartbeat.store(now.0, Relaxed);
        row.started.store(now.0, Relaxed);
        row.pid.store(pid, Relaxed);
    }

    /// One row; all zero for a worker that cannot be.
    pub fn view(&self, worker: WorkerId) -> WorkerView {
        let row = self.row(worker);
        let small = |field: fn(&WorkerRow) -> &AtomicU32| row.map_or(0, |row| field(row).load(Relaxed));
        let large = |field: fn(&WorkerRow) -> &AtomicU64| row.map_or(0, |row| field(row).load(Relaxed));
        WorkerView {
            id: worker,
            pid: row.map_or(0, |row| row.pid.load(Relaxed)),
            restarts: small(|row| &row.restarts),
            heartbeat: Moment(large(|row| &row.heartbeat)),
            started: Moment(large(|row| &row.started)),
            accepted: large(|row| &row.accepted),
            connections: small(|row| &row.connections),
            pending: small(|row| &row.pending),
            handshakes: Handshakes {
                full: large(|row| &row.full),
                resumed: large(|row| &row.resumed),
                failed: large(|row| &row.failed),
            },
            refusals: Refusals {
                proxy: large(|row| &row.proxy),
                bad: large(|row| &row.bad),
                slow: large(|row| &row.slow),
            },
            settings: large(|row| &row.settings),
            ready: small(|row| &row.ready) == READY,
            draining: small(|row| &row.ready) == DRAINING,
        }
    }

    /// The worker itself: I live.
    pub fn beat(&self, worker: WorkerId, now: Moment) {
        if let Some(row) = self.row(worker) {
            row.heartbeat.store(now.0, Relaxed);
        }
    }

    /// The worker itself: I accept connections.
    pub fn set_ready(&self, worker: WorkerId) {
        if let Some(row) = self.row(worker) {
            row.ready.store(READY, Relaxed);
        }
    }

    /// The worker itself: I accept nobody any more.
    pub fn set_draining(&self, worker: WorkerId) {
        if let Some(row) = self.row(worker) {
            row.ready.store(DRAINING, Relaxed);
        }
    }

    /// The worker itself: I use these settings.
    pub fn set_settings(&self, worker: WorkerId, generation: u64) {
        if let Some(row) = self.row(worker) {
            row.settings.store(generation, Relaxed);
        }
    }

    /// The worker itself: one more connection accepted and open.
    pub fn opened(&self, worker: WorkerId) {
        if let Some(row) = self.row(worker) {
            self.mark_used(worker);
            row.accepted.store(row.accepted.load(Relaxed).wrapping_add(1), Relaxed);
            up(&row.connections);
        }
    }

    /// The worker itself: a handshake with a client has ended.
    pub fn shook_hands(&self, worker: WorkerId, how: Handshake) {
        if let Some(row) = self.row(worker) {
            let counter = match how {
                Handshake::Full => &row.full,
                Handshake::Resumed => &row.resumed,
                Handshake::Failed => &row.failed,
            };
            counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// The worker itself: a client was turned away for what it sent.
    pub fn refused(&self, worker: WorkerId, why: Refusal) {
        if let Some(row) = self.row(worker) {
            let counter = match why {
                Refusal::Proxy => &row.proxy,
                Refusal::Bad => &row.bad,
                Refusal::Slow => &row.slow,
            };
            counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// The worker itself: one connection fewer.
    pub fn closed(&self, worker: WorkerId) {
        if let Some(row) = self.row(worker) {
            down(&row.connections);
        }
    }

    /// The worker itself: a connect began, ended. Ask [`crate::shared::slots::Slots::awaited`] after an end.
    pub fn connecting(&self, worker: WorkerId, begun: bool) {
        let Some(row) = self.row(worker) else {
            return;
        };
        if begun {
            self.mark_used(worker);
            up(&row.pending);
        } else {
            down(&row.pending);
            // Whoever waits says so before it looks once more: one of both sees the other.
            fence(SeqCst);
        }
    }

    /// Connects under way, over all workers.
    pub fn pending(&self) -> u32 {
        self.sum(|row| &row.pending)
    }

    /// Connections over all workers.
    pub fn connections(&self) -> u32 {
        self.sum(|row| &row.connections)
    }

    /// Who holds the table lock, as far as it was noted: for finding a stuck holder. Only a hint.
    pub fn lock_holder(&self) -> Option<WorkerId> {
        self.region.lock_holder()
    }

    /// Connection slots that all workers have.
    pub(super) fn slots(&self) -> u32 {
        self.sum(|row| &row.slots)
    }

    /// The worker itself: I have one slot more, or less.
    pub(super) fn slot_taken(&self, worker: WorkerId, taken: bool) {
        if let Some(row) = self.row(worker) {
            if taken { up(&row.slots) } else { down(&row.slots) }
        }
    }

    /// The process is gone: the place is empty.
    pub(super) fn clear(&self, worker: WorkerId) {
        let Some(row) = self.row(worker) else {
            return;
        };
        for field in [&row.connections, &row.pending, &row.slots, &row.ready] {
            field.store(0, Relaxed);
        }
        row.pid.store(0, Relaxed);
        let _ = self.header().high.compare_exchange(worker.0 + 1, worker.0, Relaxed, Relaxed);
    }
}

fn up(counter: &AtomicU32) {
    counter.store(counter.load(Relaxed).saturating_add(1), Relaxed);
}

fn down(counter: &AtomicU32) {
    counter.store(counter.load(Relaxed).saturating_sub(1), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::region::Geometry;

    #[test]
    fn a_place_that_is_filled_anew_keeps_what_was_accepted() {
        let region = Region::create(Geometry { clients: 1, connections: 1 }).unwrap();
        let (workers, worker) = (region.workers(), WorkerId(2));
        workers.set_count(3);
        workers.register(worker, 100, Moment(5));
        workers.opened(worker);
        workers.opened(worker);
        workers.closed(worker);
        workers.connecting(worker, true);
        for how in [Handshake::Full, Handshake::Full, Handshake::Resumed, Handshake::Failed] {
            workers.shook_hands(worker, how);
        }
        workers.set_ready(worker);
        workers.set_settings(worker, 9);
        workers.beat(worker, Moment(6));
        let first = WorkerView {
            refusals: Refusals::default(),
            id: worker,
            pid: 100,
            restarts: 0,
            heartbeat: Moment(6),
            started: Moment(5),
            accepted: 2,
            connections: 1,
            pending: 1,
            handshakes: Handshakes { full: 2, resumed: 1, failed: 1 },
            settings: 9,
            ready: true,
            draining: false,
        };
        assert_eq!(workers.view(worker), first);
        assert_eq!((workers.pending(), workers.connections()), (1, 1));

        region.reclaim(worker);
        let gone = WorkerView { pid: 0, connections: 0, pending: 0, ready: false, ..first };
        assert_eq!(workers.view(worker), gone);
        assert_eq!((workers.pending(), workers.connections()), (0, 0));

        workers.register(worker, 101, Moment(8));
        let second = WorkerView { pid: 101, restarts: 1, heartbeat: Moment(8), started: Moment(8), ..gone };
        assert_eq!(workers.view(worker), second);
    }

    #[test]
    fn counts_stay_in_range() {
        let region = Region::create(Geometry { clients: 1, connections: 1 }).unwrap();
        let workers = region.workers();
        workers.set_count(u32::MAX);
        assert_eq!(workers.count(), MAX_WORKERS);
        workers.closed(WorkerId(0));
        workers.connecting(WorkerId(0), false);
        workers.register(WorkerId(u32::MAX), 1, Moment(1));
        assert_eq!((workers.connections(), workers.pending()), (0, 0));
        assert_eq!(workers.view(WorkerId(u32::MAX)).pid, 0);
    }
}
