//! The connection table: one slot a connection. Claimed and released without a lock.
//!
//! A slot's owner word alone says whether it is in use and by whom: it goes from 0 to a worker by compare-and-swap,
//! and back by that worker, or by the master once the worker is dead. So a worker may die anywhere in here.
#![forbid(unsafe_code)]

use std::sync::atomic::{
    AtomicI32, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};

use crate::model::ids::{ClientId, ConnId, MAX_WORKERS, Target, WorkerId};
use crate::model::listen::Protocol;
use crate::model::record::Chosen;
use crate::model::time::Moment;
use crate::shared::clients::SHORT_TAG;
use crate::shared::region::{CONNECTIONS, Region};
use crate::shared::servers::ServerKey;

/// What the owner writes into its slot, and reports read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionView {
    /// The client's slot in the client table; another client may have that by now.
    pub client: Option<ClientId>,
    /// Where it is connected to, if that server is still listed.
    pub server: Option<Target>,
    /// The classic's bit set: 1 connecting, 2 connected, +4 end of stream from the server, +8 from the client.
    pub state: u32,
    /// The client's descriptor in the owner; -1 for none.
    pub down_fd: i32,
    /// The server's descriptor in the owner; -1 for none.
    pub up_fd: i32,
    /// Bytes from the client to the server so far.
    pub up: u64,
    /// Bytes from the server to the client so far.
    pub down: u64,
    /// Bytes waiting to go to the server.
    pub pending_up: u32,
    /// Bytes waiting to go to the client.
    pub pending_down: u32,
    /// When the slot was claimed.
    pub started: Moment,
}

impl ConnectionView {
    /// What a free slot holds.
    pub const UNUSED: ConnectionView = ConnectionView {
        client: None,
        server: None,
        state: 0,
        down_fd: -1,
        up_fd: -1,
        up: 0,
        down: 0,
        pending_up: 0,
        pending_down: 0,
        started: Moment(0),
    };
}

/// One connection, one cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct ConnSlot {
    /// 0 free, else the worker's number + 1.
    owner: AtomicU32,
    /// How often it was claimed.
    uses: AtomicU32,
    /// Number + 1; 0 = none.
    client: AtomicU32,
    /// A [`ServerKey`].
    server: AtomicU32,
    state: AtomicU32,
    /// Number + 1; 0 = none.
    down_fd: AtomicI32,
    up_fd: AtomicI32,
    pending_up: AtomicU32,
    pending_down: AtomicU32,
    /// An [`About`].
    about: AtomicU32,
    up: AtomicU64,
    down: AtomicU64,
    started: AtomicU64,
}
const _: () = assert!(size_of::<ConnSlot>() == 64);

/// What the log would say of a connection, for the case that its owner cannot do so any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// A connection or a flow.
    pub protocol: Protocol,
    /// What has led to its server, if it has one.
    pub chosen: Option<Chosen>,
    /// How many servers were tried.
    pub attempts: u16,
    /// Its client's [`short_tag`](crate::shared::clients::ClientRef::short_tag); 0: it has no record.
    pub client_tag: u16,
}

impl About {
    /// The log has said it.
    const LOGGED: u32 = 1 << 31;
    const UDP: u32 = 1 << 30;
    /// Where `client_tag` begins, of ten bits, above `chosen`, which is above `attempts`.
    const TAG: u32 = 20;

    fn pack(self) -> u32 {
        let position = self.chosen.and_then(|chosen| Chosen::ALL.iter().position(|one| *one == chosen));
        let chosen = position.map_or(0, |position| position as u32 + 1) << 16;
        let protocol = if self.protocol == Protocol::Udp { About::UDP } else { 0 };
        let tag = u32::from(self.client_tag & SHORT_TAG) << About::TAG;
        protocol | tag | chosen | u32::from(self.attempts)
    }

    fn unpack(word: u32) -> Self {
        let position = (word >> 16 & 0xf).checked_sub(1);
        About {
            protocol: if word & About::UDP == 0 { Protocol::Tcp } else { Protocol::Udp },
            chosen: position.and_then(|position| Chosen::ALL.get(position as usize).copied()),
            attempts: word as u16,
            client_tag: (word >> About::TAG) as u16 & SHORT_TAG,
        }
    }
}

/// The connection table's part of the header.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct SlotTableHeader {
    /// Workers that wait, a bit each, for each [`Need`].
    waiting: [[AtomicU64; MAX_WORKERS as usize / 64]; 2],
    /// When each [`Shortage`] was told of last; 0 = never.
    told: [AtomicU64; 3],
    /// Slots from here on have never been used.
    frontier: AtomicU32,
}
const _: () = assert!(size_of::<SlotTableHeader>() == 128);

/// What a worker may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A connection slot.
    Slot,
    /// The end of a connect under way.
    Connect,
}

/// What new clients may have to wait for, or do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Connection slots: `-x`.
    Slots,
    /// Connects under way: `pending_max`.
    Connects,
    /// Local ports to connect from.
    Ports,
}

/// Hands out slots to one worker in O(1) as long as there is room: remembers those it gave back last. When those and
/// the never used ones have run out it searches, at most once around.
#[derive(Debug, Default)]
pub struct SlotFinder {
    recent: Vec<u32>,
    cursor: u32,
}

impl SlotFinder {
    /// How many slots it remembers.
    const MOST: usize = 1024;
}

/// Access to the connection table.
#[derive(Debug, Clone, Copy)]
pub struct Slots<'a> {
    region: &'a Region,
}

impl<'a> Slots<'a> {
    pub(super) fn new(region: &'a Region) -> Self {
        Slots { region }
    }

    fn header(&self) -> &'a SlotTableHeader {
        &self.region.header().slot_table
    }

    fn slot(&self, number: u32) -> Option<&'a ConnSlot> {
        self.region.row(&CONNECTIONS, number as usize)
    }

    /// Slots in all: `-x`.
    pub fn capacity(&self) -> u32 {
        self.region.geometry().connections
    }

    /// Slots in use: a sum over the workers.
    pub fn used(&self) -> u32 {
        self.region.workers().slots()
    }

    /// Are all slots in use?
    pub fn is_full(&self) -> bool {
        self.used() >= self.capacity()
    }

    /// Takes a free slot for `worker`. None: all are in use. The lowest that was never used, if any is left and the
    /// worker has not given one back lately.
    pub fn claim(&self, finder: &mut SlotFinder, worker: WorkerId, now: Moment) -> Option<ConnId> {
        if worker.0 >= MAX_WORKERS {
            return None;
        }
        let capacity = self.capacity();
        while let Some(number) = finder.recent.pop() {
            if number < capacity && self.try_claim(number, worker, now) {
                return Some(ConnId(number));
            }
        }
        let frontier = &self.header().frontier;
        let unused = |at: u32| (at < capacity).then(|| at + 1);
        while let Ok(number) = frontier.fetch_update(Relaxed, Relaxed, unused) {
            if self.try_claim(number, worker, now) {
                return Some(ConnId(number));
            }
        }
        // Without this a full table would be searched whole by every worker that looks for room.
        if self.is_full() {
            return None;
        }
        for _ in 0..capacity {
            let number = if finder.cursor < capacity { finder.cursor } else { 0 };
            finder.cursor = number + 1;
            if self.try_claim(number, worker, now) {
                return Some(ConnId(number));
            }
        }
        None
    }

    fn try_claim(&self, number: u32, worker: WorkerId, now: Moment) -> bool {
        let Some(slot) = self.slot(number) else {
            return false;
        };
        // A look first: most slots of a search are taken, and a failed swap takes the line from its owner.
        if slot.owner.load(Relaxed) != 0
            || slot.owner.compare_exchange(0, worker.0 + 1, Acquire, Relaxed).is_err()
        {
            return false;
        }
        slot.uses.store(slot.uses.load(Relaxed).wrapping_add(1), Relaxed);
        // A reader that sees anything of what follows sees the new use too, and looks again.
        fence(Release);
        slot.started.store(now.0, Relaxed);
        let workers = self.region.workers();
        workers.mark_used(worker);
        workers.slot_taken(worker, true);
        true
    }

    /// Gives it back. Only its owner does; ask [`Slots::awaited`] after it.
    pub fn release(&self, finder: &mut SlotFinder, conn: ConnId) {
        let Some(slot) = self.slot(conn.0) else {
            return;
        };
        let Some(owner) = slot.owner() else {
            return;
        };
        slot.blank();
        slot.owner.store(0, Release);
        self.region.workers().slot_taken(owner, false);
        if finder.recent.len() < SlotFinder::MOST {
            finder.recent.push(conn.0);
        }
        // Whoever waits says so before it looks once more: one of both sees the other.
        fence(SeqCst);
    }

    /// Owner only: who is connected to what, with which descriptors.
    pub fn describe(
        &self,
        conn: ConnId,
        client: Option<ClientId>,
        server: Option<Target>,
        state: u32,
        down_fd: i32,
        up_fd: i32,
    ) {
        if let Some(slot) = self.slot(conn.0) {
            slot.client.store(client.map_or(0, |client| client.0.saturating_add(1)), Relaxed);
            let key = server.map_or(ServerKey::NONE, |server| self.region.servers().key(server));
            slot.server.store(key.0, Relaxed);
            slot.state.store(state, Relaxed);
            slot.down_fd.store(down_fd.max(-1).saturating_add(1), Relaxed);
            slot.up_fd.store(up_fd.max(-1).saturating_add(1), Relaxed);
        }
    }

    /// Owner only: what the log would say.
    pub fn note(&self, conn: ConnId, about: About) {
        if let Some(slot) = self.slot(conn.0) {
            slot.about.store(about.pack(), Relaxed);
        }
    }

    /// Owner only: the log has said it, though the slot stays in use until the owner has ended.
    pub fn set_logged(&self, conn: ConnId) {
        if let Some(slot) = self.slot(conn.0) {
            slot.about.fetch_or(About::LOGGED, Relaxed);
        }
    }

    /// When the slot was claimed, for its owner.
    pub fn started(&self, conn: ConnId) -> Moment {
        self.slot(conn.0).map_or(Moment(0), |slot| Moment(slot.started.load(Relaxed)))
    }

    /// The connections of a dead worker that the log has not told of, before they are swept.
    pub fn untold(
        &self,
        worker: WorkerId,
    ) -> impl Iterator<Item = (ConnId, ConnectionView, About)> + use<'a> {
        let slots = *self;
        (0..self.frontier()).filter_map(move |number| {
            let slot = slots.slot(number).filter(|slot| slot.owner() == Some(worker))?;
            let about = slot.about.load(Relaxed);
            let is_told = about & About::LOGGED != 0;
            (!is_told).then(|| (ConnId(number), slots.read(slot), About::unpack(about)))
        })
    }

    /// Owner only: the state bits changed.
    pub fn set_state(&self, conn: ConnId, state: u32) {
        if let Some(slot) = self.slot(conn.0) {
            slot.state.store(state, Relaxed);
        }
    }

    /// Owner only: totals so far.
    pub fn progress(&self, conn: ConnId, up: u64, down: u64, pending_up: u32, pending_down: u32) {
        if let Some(slot) = self.slot(conn.0) {
            slot.up.store(up, Relaxed);
            slot.down.store(down, Relaxed);
            slot.pending_up.store(pending_up, Relaxed);
            slot.pending_down.store(pending_down, Relaxed);
        }
    }

    /// A slot in use, with its owner. All of it belongs to one connection, though not to one instant.
    pub fn entry(&self, conn: ConnId) -> Option<(WorkerId, ConnectionView)> {
        if conn.0 >= self.frontier() {
            return None;
        }
        let slot = self.slot(conn.0)?;
        for _ in 0..16 {
            let owner = slot.owner.load(Acquire);
            let uses = slot.uses.load(Acquire);
            let worker = slot.owner()?;
            let entry = self.read(slot);
            fence(Acquire);
            if slot.owner.load(Relaxed) == owner && slot.uses.load(Relaxed) == uses {
                return Some((worker, entry));
            }
        }
        None
    }

    /// Whose slot it is, and for which time it is in use.
    pub fn holder(&self, conn: ConnId) -> Option<(WorkerId, u32)> {
        let slot = self.slot(conn.0).filter(|_| conn.0 < self.frontier())?;
        let owner = slot.owner()?;
        Some((owner, slot.uses.load(Relaxed)))
    }

    fn read(&self, slot: &ConnSlot) -> ConnectionView {
        ConnectionView {
            client: slot.client.load(Relaxed).checked_sub(1).map(ClientId),
            server: self.region.servers().resolve(ServerKey(slot.server.load(Relaxed))),
            state: slot.state.load(Relaxed),
            down_fd: slot.down_fd.load(Relaxed).saturating_sub(1),
            up_fd: slot.up_fd.load(Relaxed).saturating_sub(1),
            up: slot.up.load(Relaxed),
            down: slot.down.load(Relaxed),
            pending_up: slot.pending_up.load(Relaxed),
            pending_down: slot.pending_down.load(Relaxed),
            started: Moment(slot.started.load(Relaxed)),
        }
    }

    /// A worker waits for that: said before looking once more. Or it waits no more.
    pub fn wait(&self, worker: WorkerId, need: Need, waiting: bool) {
        let Some(word) = self.header().waiting[need as usize].get(worker.0 as usize / 64) else {
            return;
        };
        let bit = 1 << (worker.0 % 64);
        if waiting {
            word.fetch_or(bit, Relaxed);
            fence(SeqCst);
        } else {
            word.fetch_and(!bit, Relaxed);
        }
    }

    /// Is it time to tell of a shortage? True for one worker at most, and for none in the minute after that.
    pub fn tell_now(&self, shortage: Shortage, now: Moment) -> bool {
        const AGAIN: u64 = 60;
        let told = &self.header().told[shortage as usize];
        let last = told.load(Relaxed);
        (last == 0 || now.seconds_since(Moment(last)) >= AGAIN)
            && told.compare_exchange(last, now.0.max(1), Relaxed, Relaxed).is_ok()
    }

    /// Does anybody wait? Loads from one cache line that seldom changes. True for every worker that said so before
    /// it looked in vain for what the caller has released since.
    pub fn awaited(&self) -> bool {
        self.header().waiting.iter().flatten().any(|word| word.load(Relaxed) != 0)
    }

    /// Does another worker than this one wait for a slot?
    pub fn wanted_elsewhere(&self, worker: WorkerId) -> bool {
        let own = |number| if number == worker.0 as usize / 64 { 1 << (worker.0 % 64) } else { 0 };
        let words = self.header().waiting[Need::Slot as usize].iter();
        words.enumerate().any(|(number, word)| word.load(Relaxed) & !own(number) != 0)
    }

    fn frontier(&self) -> u32 {
        self.header().frontier.load(Relaxed).min(self.capacity())
    }

    /// The worker is dead: frees its slots. Returns how many they were.
    pub(super) fn sweep(&self, worker: WorkerId) -> u32 {
        self.wait(worker, Need::Slot, false);
        self.wait(worker, Need::Connect, false);
        let mut freed = 0;
        for slot in (0..self.frontier()).filter_map(|number| self.slot(number)) {
            if slot.owner() == Some(worker) {
                slot.blank();
                slot.owner.store(0, Release);
                freed += 1;
            }
        }
        fence(SeqCst);
        freed
    }
}

impl ConnSlot {
    fn owner(&self) -> Option<WorkerId> {
        self.owner.load(Relaxed).checked_sub(1).map(WorkerId)
    }

    /// As a free slot is, so that a claimed one says nothing of its last owner's connection.
    fn blank(&self) {
        for field in
            [&self.client, &self.server, &self.state, &self.pending_up, &self.pending_down, &self.about]
        {
            field.store(0, Relaxed);
        }
        for field in [&self.down_fd, &self.up_fd] {
            field.store(0, Relaxed);
        }
        for field in [&self.up, &self.down, &self.started] {
            field.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ServerId;
    use crate::shared::region::Geometry;
    use crate::shared::servers::Definition;

    #[test]
    fn what_the_log_would_say_fits_into_a_word() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for chosen in Chosen::ALL.iter().copied().map(Some).chain([None]) {
                for (attempts, client_tag) in [(0, SHORT_TAG), (1, 0), (u16::MAX, SHORT_TAG)] {
                    let about = About { protocol, chosen, attempts, client_tag };
                    assert_eq!(About::unpack(about.pack()), about);
                    assert_eq!(about.pack() & About::LOGGED, 0);
                }
            }
        }
    }

    #[test]
    fn what_the_log_has_told_of_is_not_told_again() {
        let region = region(4);
        let (slots, mut finder) = (region.slots(), SlotFinder::default());
        let [one, two] = [(); 2].map(|()| slots.claim(&mut finder, ONE, Moment(7)).unwrap());
        let about = About { protocol: Protocol::Udp, chosen: Some(Chosen::Hash), attempts: 2, client_tag: 3 };
        slots.note(one, about);
        slots.set_logged(two);
        let untold: Vec<_> =
            slots.untold(ONE).map(|(conn, view, about)| (conn, view.started, about)).collect();
        assert_eq!(untold, [(one, Moment(7), about)]);
        assert_eq!(slots.untold(TWO).count(), 0);
        slots.release(&mut finder, two);
        let again = slots.claim(&mut finder, ONE, Moment(8)).unwrap();
        assert_eq!((again, slots.untold(ONE).count()), (two, 2));
    }

    fn region(connections: u32) -> Region {
        let region = Region::create(Geometry { clients: 16, connections }).unwrap();
        publish(&region, &[1, 2], Some(3));
        region
    }

    fn publish(region: &Region, ports: &[u16], abuse: Option<u16>) {
        let servers: Vec<Definition> = ports.iter().copied().map(Definition::local).collect();
        region.servers().publish(&servers, None, abuse.map(Definition::local).as_ref()).unwrap();
    }

    const ONE: WorkerId = WorkerId(1);
    const TWO: WorkerId = WorkerId(2);

    #[test]
    fn slots_are_given_out_from_0_and_no_more_than_there_are() {
        let region = region(3);
        let slots = region.slots();
        let (mut one, mut two) = (SlotFinder::default(), SlotFinder::default());
        assert_eq!(slots.claim(&mut one, ONE, Moment(1)), Some(ConnId(0)));
        assert_eq!(slots.claim(&mut two, TWO, Moment(1)), Some(ConnId(1)));
        assert_eq!(slots.claim(&mut one, ONE, Moment(1)), Some(ConnId(2)));
        assert_eq!(slots.claim(&mut one, ONE, Moment(1)), None);
        assert_eq!(slots.claim(&mut two, TWO, Moment(1)), None);
        assert_eq!(slots.used(), 3);
        slots.release(&mut one, ConnId(0));
        slots.release(&mut one, ConnId(0));
        assert_eq!(slots.used(), 2, "a second release of a free slot is nothing");
        assert_eq!(slots.claim(&mut two, TWO, Moment(1)), Some(ConnId(0)), "found by the other's search");
        assert_eq!(slots.claim(&mut one, ONE, Moment(1)), None, "though it remembers that one");
    }

    #[test]
    fn growth_makes_room_at_once() {
        let region = region(1);
        let mut finder = SlotFinder::default();
        assert!(region.slots().claim(&mut finder, ONE, Moment(1)).is_some());
        assert_eq!(region.slots().claim(&mut finder, ONE, Moment(1)), None);
        region.grow(Geometry { clients: 1, connections: 2 }).unwrap();
        assert_eq!(region.slots().claim(&mut finder, ONE, Moment(1)), Some(ConnId(1)));
    }

    #[test]
    fn an_entry_shows_what_its_owner_wrote_and_nothing_of_the_one_before() {
        let region = region(4);
        let slots = region.slots();
        let mut finder = SlotFinder::default();
        let conn = slots.claim(&mut finder, TWO, Moment(77)).unwrap();
        let blank = ConnectionView { started: Moment(77), ..ConnectionView::UNUSED };
        assert_eq!(slots.entry(conn), Some((TWO, blank)));
        slots.describe(conn, Some(ClientId(0)), Some(Target::Abuse), 1, 5, -1);
        slots.set_state(conn, 2);
        slots.progress(conn, 1, 2, 3, 4);
        let entry = ConnectionView {
            client: Some(ClientId(0)),
            server: Some(Target::Abuse),
            state: 2,
            down_fd: 5,
            up: 1,
            down: 2,
            pending_up: 3,
            pending_down: 4,
            ..blank
        };
        assert_eq!(slots.entry(conn), Some((TWO, entry)));
        slots.describe(conn, None, Some(Target::Server(ServerId(0))), 2, 5, 0);
        assert_eq!(slots.entry(conn).unwrap().1.up_fd, 0);
        publish(&region, &[2, 1], None);
        assert_eq!(
            slots.entry(conn).unwrap().1.server,
            Some(Target::Server(ServerId(1))),
            "the list changed"
        );
        publish(&region, &[2], None);
        assert_eq!(slots.entry(conn).unwrap().1.server, None, "not listed any more");
        slots.release(&mut finder, conn);
        assert_eq!(slots.entry(conn), None);
        assert_eq!(slots.claim(&mut finder, TWO, Moment(77)), Some(conn));
        assert_eq!(slots.entry(conn), Some((TWO, blank)));
        assert_eq!(slots.entry(ConnId(u32::MAX)), None);
    }

    #[test]
    fn a_dead_workers_slots_are_freed_once() {
        let region = region(4);
        let slots = region.slots();
        let mut finder = SlotFinder::default();
        for worker in [ONE, TWO, ONE] {
            slots.claim(&mut finder, worker, Moment(1)).unwrap();
        }
        slots.wait(ONE, Need::Slot, true);
        slots.wait(ONE, Need::Connect, true);
        assert!(slots.awaited());
        assert_eq!(region.reclaim(ONE), 2);
        assert_eq!(region.reclaim(ONE), 0);
        assert!(!slots.awaited());
        assert_eq!(slots.used(), 1);
        assert_eq!(slots.entry(ConnId(1)).map(|(owner, _)| owner), Some(TWO));
        for _ in 0..3 {
            assert!(slots.claim(&mut finder, TWO, Moment(1)).is_some());
        }
        assert_eq!(slots.claim(&mut finder, TWO, Moment(1)), None);
    }

    #[test]
    fn everybody_who_waits_is_awaited() {
        let region = region(1);
        let slots = region.slots();
        for worker in [0, 63, 64, 255].map(WorkerId) {
            for need in [Need::Slot, Need::Connect] {
                assert!(!slots.awaited());
                slots.wait(worker, need, true);
                slots.wait(worker, need, true);
                assert!(slots.awaited(), "{worker}");
                assert!(!slots.wanted_elsewhere(worker), "{worker} is nobody else");
                for other in [1, 62, 65, 254, 1000].map(WorkerId) {
                    assert_eq!(slots.wanted_elsewhere(other), need == Need::Slot, "{other} of {worker}");
                }
                slots.wait(worker, need, false);
            }
        }
        assert!(!slots.awaited());
        slots.wait(ONE, Need::Slot, true);
        slots.wait(ONE, Need::Connect, true);
        slots.wait(ONE, Need::Slot, false);
        assert!(slots.awaited(), "one need is not the other");
        slots.wait(ONE, Need::Connect, false);
        slots.wait(WorkerId(u32::MAX), Need::Slot, true);
        assert!(!slots.awaited(), "no such worker");
    }

    #[test]
    fn threads_never_share_a_slot() {
        let region = region(50);
        let taken: Vec<AtomicU32> = (0..50).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for worker in (0..4).map(WorkerId) {
                let (region, taken) = (&region, &taken);
                scope.spawn(move || {
                    let mut finder = SlotFinder::default();
                    for round in 0..2000 {
                        let mine: Vec<ConnId> = (0..round % 20)
                            .map_while(|_| region.slots().claim(&mut finder, worker, Moment(1)))
                            .collect();
                        for conn in &mine {
                            assert_eq!(taken[conn.0 as usize].swap(1, Relaxed), 0, "{conn} was taken");
                        }
                        for conn in mine {
                            taken[conn.0 as usize].store(0, Relaxed);
                            region.slots().release(&mut finder, conn);
                        }
                    }
                });
            }
        });
        assert_eq!(region.slots().used(), 0);
    }
}
