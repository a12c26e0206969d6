//! The worker table: one row a worker, on cache lines of its own, written by the worker; the master writes it when
//! a process takes the place and when it is gone.
#![forbid(unsafe_code)]

use std::ops::Add;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};

use crate::model::ids::{MAX_WORKERS, WorkerId};
use crate::model::time::Moment;
use crate::shared::ledger::add;
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
    /// Datagrams since pen started, by all that had this place.
    pub traffic: Traffic,
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

/// What went by in datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Flows that began.
    pub flows: u64,
    /// Flows that ended because another needed their place.
    pub evicted: u64,
    /// Datagrams from clients that were sent on.
    pub up: u64,
    /// Datagrams from servers that were sent on.
    pub down: u64,
    /// Datagrams that were not: as many as [`Lost`] has reasons, in its order.
    pub lost: [u64; Lost::KINDS],
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Traffic {
            flows: self.flows.wrapping_add(other.flows),
            evicted: self.evicted.wrapping_add(other.evicted),
            up: self.up.wrapping_add(other.up),
            down: self.down.wrapping_add(other.down),
            lost: std::array::from_fn(|why| self.lost[why].wrapping_add(other.lost[why])),
        }
    }
}

/// Why a datagram was not sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// No server would take it: none is available, or its client is refused.
    NoServer,
    /// There was no room: no slot, descriptor or port for its flow, or none in the kernel's buffers.
    NoRoom,
    /// It is longer than what can be sent.
    TooLong,
    /// The server is known to be gone only now, or the client is.
    Unreachable,
    /// It began with no header of the PROXY protocol, or a broken one.
    Proxy,
}

impl Lost {
    /// How many there are.
    pub const KINDS: usize = 5;

    /// All of them, in the order in which [`Traffic`] has them.
    pub const ALL: [Lost; Lost::KINDS] =
        [Lost::NoServer, Lost::NoRoom, Lost::TooLong, Lost::Unreachable, Lost::Proxy];
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
    /// [`Traffic`].
    flows: AtomicU64,
    evicted: AtomicU64,
    datagrams_up: AtomicU64,
    datagrams_down: AtomicU64,
    lost: [AtomicU64; Lost::KINDS],
    connections: AtomicU32,
    pending: AtomicU32,
    /// Connection slots that it has.
    slots: AtomicU32,
    ready: AtomicU32,
    /// The place was filled at least once.
    filled: AtomicU32,
    _reserved: AtomicU32,
}
const _: () = assert!(size_of::<WorkerRow>() == 256);

impl WorkerRow {
    fn traffic(&self) -> Traffic {
        Traffic {
            flows: self.flows.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            up: self.datagrams_up.load(Relaxed),
            down: self.datagrams_down.load(Relaxed),
            lost: self.lost.each_ref().map(|lost| lost.load(Relaxed)),
        }
    }
}

/// The worker table's part of the header.
#[repr(C)]
#[derive(Debug)]
pub(super) struct WorkerTableHeader {
    count: AtomicU32,
    /// Rows from here on have never been used, or not since they were reclaimed.
    high: AtomicU32,
    /// Rows from here on have never been used.
    ever: AtomicU32,
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
            self.header().ever.fetch_max(worker.0 + 1, Relaxed);
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
        header.ever.fetch_max(self.count(), Relaxed);
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
            traffic: row.map(WorkerRow::traffic).unwrap_or_default(),
            settings: large(|row| &row.settings),
            ready: small(|row| &row.ready) == READY,
            draining: small(|row| &row.ready) == DRAINING,
        }
    }

    /// Datagrams since pen started, by all workers, also those of places that are gone.
    pub fn traffic(&self) -> Traffic {
        // Looking at others would cost memory.
        let ever = self.header().ever.load(Relaxed).min(MAX_WORKERS);
        let rows = (0..ever).filter_map(|worker| self.row(WorkerId(worker)));
        rows.map(WorkerRow::traffic).fold(Traffic::default(), Traffic::add)
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

    /// The worker itself: a flow began.
    pub fn flow_began(&self, worker: WorkerId) {
        if let Some(row) = self.row(worker) {
            add(&row.flows, 1);
        }
    }

    /// The worker itself: a flow ends because something else needs its place.
    pub fn flow_evicted(&self, worker: WorkerId) {
        if let Some(row) = self.row(worker) {
            add(&row.evicted, 1);
        }
    }

    /// The worker itself: so many datagrams were sent on, to servers and to clients.
    pub fn sent_on(&self, worker: WorkerId, up: u64, down: u64) {
        if let Some(row) = self.row(worker) {
            add(&row.datagrams_up, up);
            add(&row.datagrams_down, down);
        }
    }

    /// The worker itself: so many datagrams were not sent on.
    pub fn lost(&self, worker: WorkerId, why: Lost, datagrams: u64) {
        if let Some(counter) = self.row(worker).and_then(|row| row.lost.get(why as usize)) {
            add(counter, datagrams);
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
            traffic: Traffic::default(),
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
    fn what_went_by_in_datagrams_outlives_the_worker_and_its_place() {
        let region = Region::create(Geometry { clients: 1, connections: 1 }).unwrap();
        let workers = region.workers();
        workers.set_count(3);
        assert_eq!(workers.traffic(), Traffic::default());
        let worker = WorkerId(2);
        workers.register(worker, 100, Moment(5));
        workers.flow_began(worker);
        workers.flow_began(worker);
        workers.flow_evicted(worker);
        workers.sent_on(worker, 30, 4);
        workers.sent_on(worker, 1, 0);
        for (why, datagrams) in Lost::ALL.into_iter().zip(1..) {
            workers.lost(worker, why, datagrams);
            workers.lost(worker, why, 10);
        }
        let first = Traffic { flows: 2, evicted: 1, up: 31, down: 4, lost: [11, 12, 13, 14, 15] };
        assert_eq!(workers.view(worker).traffic, first);

        region.reclaim(worker);
        workers.register(worker, 101, Moment(8));
        assert_eq!(workers.view(worker).traffic, first, "counted for the place, not for the process");
        workers.sent_on(WorkerId(0), 1, 1);
        assert_eq!(workers.view(worker).traffic, first);
        let both = Traffic { up: 32, down: 5, ..first };
        assert_eq!(workers.traffic(), both);

        workers.set_count(1);
        region.reclaim(worker);
        assert_eq!(workers.traffic(), both);
    }

    #[test]
    fn datagrams_of_workers_that_cannot_be_are_not_counted() {
        let region = Region::create(Geometry { clients: 1, connections: 1 }).unwrap();
        let workers = region.workers();
        for worker in [MAX_WORKERS, u32::MAX].map(WorkerId) {
            workers.flow_began(worker);
            workers.flow_evicted(worker);
            workers.sent_on(worker, 1, 1);
            workers.lost(worker, Lost::NoRoom, 1);
            assert_eq!(workers.view(worker).traffic, Traffic::default());
        }
        assert_eq!(workers.traffic(), Traffic::default());
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
