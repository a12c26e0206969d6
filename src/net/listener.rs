//! The shared listeners: when to accept, and when to leave it to others or let clients wait.
//!
//! All workers wait for the same listening sockets, and the kernel wakes as few as it can (EPOLLEXCLUSIVE). Left
//! alone it would wake the same one again and again: a worker therefore leaves a socket's queue and joins it anew after
//! every [`TURNS`] clients, which shares them out evenly, and one with clearly more connections than the others
//! steps back for a while. A pause is one of all listeners, and never drops anybody: clients wait in the backlogs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::model::ids::{ConnId, WorkerId};
use crate::model::listen::Protocol;
use crate::model::time::Moment;
use crate::shared::slots::{Need, Shortage};
use crate::sys::reason::words;
use crate::sys::{socket, wait};

use super::event_loop::{TOLD_AGAIN, Worker, token};

/// Clients accepted between leaving the kernel's queue of waiters and joining it anew.
const TURNS: u32 = 16;

/// Connections more than the mean, beside a quarter of it, from which a worker steps back.
const LEEWAY: u32 = 16;

/// How long a worker steps back, or waits for descriptors that others may free.
const SHORT: Duration = Duration::from_millis(50);

/// A worker whose heart has not beaten for longer, in seconds, does not accept either.
const SILENT: u64 = 2;

/// Why a worker does not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// `-x` connections exist.
    Slots,
    /// `pending_max` connects are under way.
    Pending,
    /// No more descriptors.
    Descriptors,
    /// Others have fewer connections.
    SteppedBack,
}

/// A listening socket, as a worker sees it. Its token is that of its position.
#[derive(Debug)]
struct Door {
    socket: OwnedFd,
    /// How many were accepted since the others were last let to the front of its queue.
    accepted: u32,
    /// How many to accept at most when next woken, and the loop turn of the last time.
    batch: u32,
    last_turn: u64,
}

/// A worker's view of the listeners for connections. There may be none.
#[derive(Debug)]
pub(super) struct Acceptor {
    doors: Vec<Door>,
    /// Those that clients wait at, as the poller has said in this turn.
    ready: Vec<usize>,
    /// None is registered with the poller, and why.
    pause: Option<(Pause, Moment)>,
    /// Everybody who waits is accepted, because the listeners are about to be closed.
    emptying: bool,
    /// The lack that the others have been told of, while it is looked whether it is over: it is not told twice.
    told_others: Option<Pause>,
    /// The one that is looked at first after the next pause, the one behind that of the last client: when room is scarce,
    /// each has its turn.
    first: usize,
    /// When a lack of descriptors was told last.
    told: Option<Moment>,
    /// The loop turn in which a client was accepted last.
    admitted: u64,
}

impl Acceptor {
    /// With these, which are registered already, by their positions.
    pub(super) fn new(sockets: Vec<OwnedFd>) -> Self {
        Acceptor {
            doors: doors(sockets),
            ready: Vec::new(),
            pause: None,
            emptying: false,
            told_others: None,
            first: 0,
            told: None,
            admitted: 0,
        }
    }

    /// The first of them, unless there is none.
    pub(super) fn first(&self) -> Option<BorrowedFd<'_>> {
        self.doors.first().map(|door| door.socket.as_fd())
    }

    /// The poller says that clients wait at one of them.
    pub(super) fn note_ready(&mut self, number: usize) {
        self.ready.push(number);
    }

    /// How long the loop may sleep because of a pause that nobody rings the bell for.
    pub(super) fn patience(&self) -> Option<Duration> {
        match self.pause? {
            (Pause::SteppedBack | Pause::Descriptors, _) => Some(SHORT),
            (Pause::Slots | Pause::Pending, _) => None,
        }
    }
}

fn doors(sockets: Vec<OwnedFd>) -> Vec<Door> {
    sockets.into_iter().map(|socket| Door { socket, accepted: 0, batch: 1, last_turn: 0 }).collect()
}

impl Worker<'_> {
    /// Registers one of them. Clients that wait already are reported at once.
    fn watch_listener(&self, number: usize) -> std::io::Result<()> {
        match self.acceptor.doors.get(number) {
            Some(door) => self.poller.add_listener(door.socket.as_fd(), token::listener(number)),
            None => Ok(()),
        }
    }

    /// Registers all of them, or accepting pauses.
    fn watch_listeners(&mut self) {
        for number in 0..self.acceptor.doors.len() {
            if self.watch_listener(number).is_err() {
                return self.pause(Pause::Descriptors);
            }
        }
    }

    fn ignore_listeners(&self) {
        for door in &self.acceptor.doors {
            self.poller.remove(door.socket.as_fd());
        }
    }

    /// Goes over to these. Who waits at one that is not among them is accepted before it is closed.
    pub(super) fn replace_listeners(&mut self, sockets: Vec<OwnedFd>) {
        self.ignore_listeners();
        let stays =
            |door: &Door| sockets.iter().any(|socket| socket::is_same(socket.as_fd(), door.socket.as_fd()));
        self.acceptor.doors.retain(|door| !stays(door));
        if !self.acceptor.doors.is_empty() {
            self.accept_queued();
        }
        self.acceptor.doors = doors(sockets);
        self.acceptor.first = 0;
        if self.acceptor.pause.is_none() {
            self.watch_listeners();
        }
    }

    /// Accepts who waits already, then never again.
    pub(super) fn stop_accepting(&mut self) {
        self.accept_queued();
        self.clear_pause();
    }

    /// Never accepts again. Who waits already is the other workers'.
    pub(super) fn leave_listeners(&mut self) {
        self.clear_pause();
        self.ignore_listeners();
        self.acceptor.doors.clear();
        // One that was woken for a client does not accept it now: somebody else must look.
        wait::ring(self.room.as_fd());
    }

    /// Those in the backlogs have been promised a connection: closing the sockets would reset them. Only a lack of
    /// slots or descriptors ends this early.
    fn accept_queued(&mut self) {
        if matches!(self.acceptor.pause, None | Some((Pause::SteppedBack | Pause::Pending, _))) {
            self.clear_pause();
            self.acceptor.emptying = true;
            self.accept_everywhere(self.settings.listen_queue);
            self.acceptor.emptying = false;
        }
        self.ignore_listeners();
        self.acceptor.doors.clear();
    }

    /// Accepts where clients wait, after everybody else had its turn: who is here already is done the sooner, and who is
    /// done makes room. That keeps the longest waits short, and costs less than taking turns.
    pub(super) fn accept_ready(&mut self) {
        if self.acceptor.ready.is_empty() {
            return;
        }
        let mut ready = std::mem::take(&mut self.acceptor.ready);
        for number in ready.drain(..) {
            self.listener_ready(number);
        }
        self.acceptor.ready = ready;
    }

    fn listener_ready(&mut self, number: usize) {
        if self.acceptor.pause.is_some() {
            return;
        }
        let Some(door) = self.acceptor.doors.get_mut(number) else { return };
        // Woken again in the very next turn: there are more than one at a time. Accepting on until nobody is left
        // costs a call that fails, accepting one only costs a wait each: go over to the first as the need grows.
        let consecutive = door.last_turn + 1 == self.turn;
        door.last_turn = self.turn;
        door.batch = if consecutive { (door.batch * 2).min(self.settings.multi_accept) } else { 1 };
        let batch = door.batch;
        self.accept_up_to(number, batch);
    }

    /// The bell rang, or time has passed: if accepting was paused, look whether it can go on.
    pub(super) fn retry_accept(&mut self) {
        let freed = std::mem::take(&mut self.freed);
        match self.acceptor.pause {
            None => self.report_again(),
            Some((Pause::SteppedBack, since)) => {
                if self.now.micros_since(since) >= SHORT.as_micros() as u64 || !self.has_too_many() {
                    self.resume();
                }
            }
            Some((Pause::Descriptors, since)) => {
                // Not as soon as there seems to be one: the lack may be the whole system's.
                if freed || self.now.micros_since(since) >= SHORT.as_micros() as u64 {
                    self.resume();
                }
            }
            Some((Pause::Slots | Pause::Pending, _)) => self.resume(),
        }
    }

    /// Connections that wait for a slot go on asking for it, now and then: a flow may have had the one that became free.
    pub(super) fn ask_again(&mut self) {
        let waiting = matches!(self.acceptor.pause, Some((Pause::Slots, _)));
        if waiting && self.settings.listens_with(Protocol::Udp) && self.asked_for_a_slot_long_ago() {
            self.ask_for_a_slot();
        }
    }

    fn resume(&mut self) {
        let reason = self.acceptor.pause.map(|(reason, _)| reason);
        self.clear_pause();
        // Registered before looking, so that a client who comes between is reported.
        self.watch_listeners();
        if self.acceptor.pause.is_some() {
            return;
        }
        self.acceptor.told_others = reason.filter(|it| matches!(it, Pause::Descriptors | Pause::Slots));
        self.accept_everywhere(self.settings.multi_accept);
        self.acceptor.told_others = None;
    }

    /// Accepts up to so many at each, unless accepting pauses on the way.
    fn accept_everywhere(&mut self, most: u32) {
        let all = self.acceptor.doors.len();
        let first = self.acceptor.first % all.max(1);
        for number in (first..all).chain(0..first) {
            self.accept_up_to(number, most);
            if self.acceptor.pause.is_some() {
                return;
            }
        }
    }

    fn clear_pause(&mut self) {
        self.acceptor.pause = None;
        self.say_what_is_awaited();
    }

    /// Tells all workers what this one waits for, be it for connections or for datagrams.
    pub(super) fn say_what_is_awaited(&self) {
        let paused_for = |reason| self.acceptor.pause.is_some_and(|(pause, _)| pause == reason);
        let slots = self.region.slots();
        slots.wait(self.id, Need::Slot, paused_for(Pause::Slots) || self.udp.awaits_slot());
        slots.wait(self.id, Need::Connect, paused_for(Pause::Pending));
    }

    /// The bell that all workers share rang: room that somebody waits for may be there, or to be made.
    pub(super) fn bell_rang(&mut self) {
        self.make_room_for_others();
        self.retry_accept();
        self.retry_datagrams();
        if self.udp.awaits_slot() && self.acceptor.admitted == self.turn {
            // A connection has the slot that was there.
            self.ask_for_a_slot();
        }
    }

    fn pause(&mut self, reason: Pause) {
        self.ignore_listeners();
        self.acceptor.pause = Some((reason, self.now));
        // Whoever waits now was reported to this worker only, and another may have what this one lacks, or flows
        // that can be spared for it. Not at every try, though: workers that all lack it would wake each other for ever.
        if self.acceptor.told_others == Some(reason) {
            return;
        }
        match reason {
            Pause::Descriptors | Pause::SteppedBack => wait::ring(self.room.as_fd()),
            Pause::Slots if self.settings.listens_with(Protocol::Udp) => self.ask_for_a_slot(),
            Pause::Slots | Pause::Pending => {}
        }
    }

    /// Registers the listeners anew: the poller then reports clients that wait, whoever it told of them before.
    fn report_again(&mut self) {
        self.ignore_listeners();
        self.watch_listeners();
    }

    fn accept_up_to(&mut self, number: usize, most: u32) {
        for _ in 0..most {
            while !self.descriptors_left() {
                if !self.evict_for_connection() {
                    return self.lack_descriptors();
                }
            }
            let emptying = self.acceptor.emptying;
            if !emptying && self.too_many_pending() {
                // Connects that were begun in this very turn have had no chance to be done: the next one will tell.
                if self.acceptor.admitted == self.turn || self.waits(Self::too_many_pending, Pause::Pending) {
                    return;
                }
            }
            let Some(conn) = self.claim() else { return };
            let Some(door) = self.acceptor.doors.get(number) else {
                return self.region.slots().release(&mut self.finder, conn);
            };
            match socket::accept(door.socket.as_fd()) {
                Ok((client, address)) => {
                    self.acceptor.admitted = self.turn;
                    self.acceptor.first = number + 1;
                    if self.acceptor.told_others == Some(Pause::Slots) {
                        // There was one. That the next is lacking is something else.
                        self.acceptor.told_others = None;
                    }
                    self.admit(client, address, conn);
                    if self.acceptor.pause.is_some() {
                        return;
                    }
                    if !emptying && !self.rotate(number) {
                        return;
                    }
                }
                Err(error) => {
                    self.region.slots().release(&mut self.finder, conn);
                    if error.kind() == std::io::ErrorKind::WouldBlock {
                        // Another worker may have gone away from a client because this slot was taken.
                        if self.region.slots().awaited() {
                            self.report_again();
                        }
                        if self.region.slots().wanted_elsewhere(self.id)
                            && self.settings.listens_with(Protocol::Udp)
                        {
                            wait::ring(self.room.as_fd());
                        }
                        return;
                    }
                    if !socket::is_clients_fault(&error) {
                        self.messages.debug(1, format_args!("accept: {}", words(&error)));
                        return self.lack_descriptors();
                    }
                }
            }
        }
    }

    /// Accepting pauses for want of descriptors, this worker's or the system's.
    pub(super) fn lack_descriptors(&mut self) {
        self.tell(Pause::Descriptors);
        self.pause(Pause::Descriptors);
    }

    fn too_many_pending(&mut self) -> bool {
        self.region.workers().pending() >= self.settings.pending_max
    }

    /// A slot for the next client. None: all are in use, and accepting is paused.
    fn claim(&mut self) -> Option<ConnId> {
        let claim =
            |worker: &mut Self| worker.region.slots().claim(&mut worker.finder, worker.id, worker.now);
        let mut claimed = claim(self);
        if claimed.is_none() && self.evict_flow() {
            claimed = claim(self);
        }
        if claimed.is_none() {
            self.waits(
                |worker| {
                    claimed = claim(worker);
                    claimed.is_none()
                },
                Pause::Slots,
            );
        }
        claimed
    }

    /// Pauses because of a lack that any worker may end, if there still is one; true if so.
    ///
    /// Who ends a lack looks at the flag after that: looking once more after setting it leaves no gap.
    fn waits(&mut self, mut lacking: impl FnMut(&mut Self) -> bool, reason: Pause) -> bool {
        let need = if reason == Pause::Pending { Need::Connect } else { Need::Slot };
        self.region.slots().wait(self.id, need, true);
        if !lacking(self) {
            self.say_what_is_awaited();
            return false;
        }
        self.tell(reason);
        self.pause(reason);
        true
    }

    /// Tells why new clients wait, not more than once a minute.
    fn tell(&mut self, reason: Pause) {
        let slots = self.region.slots();
        match reason {
            Pause::Slots if slots.tell_now(Shortage::Slots, self.now) => self.messages.note(format_args!(
                "all {} connections are in use, new clients wait; raise the number with -x",
                slots.capacity()
            )),
            Pause::Pending if slots.tell_now(Shortage::Connects, self.now) => self.messages.note(format_args!(
                "{} connects to servers are under way, new clients wait; raise the number with pending_max",
                self.settings.pending_max
            )),
            // Descriptors are each worker's own.
            Pause::Descriptors
                if self.acceptor.told.is_none_or(|told| self.now.seconds_since(told) >= TOLD_AGAIN) =>
            {
                self.acceptor.told = Some(self.now);
                self.messages.note(format_args!(
                    "no descriptors left in worker {} ({} connections), new clients wait; raise the limit \
                     (ulimit -n)",
                    self.id,
                    self.connections.len()
                ));
            }
            Pause::Slots | Pause::Pending | Pause::Descriptors | Pause::SteppedBack => {}
        }
    }

    /// Counts a client of this one, and lets the other workers have the next ones when it is time to; false if this one
    /// stepped back.
    fn rotate(&mut self, number: usize) -> bool {
        let Some(door) = self.acceptor.doors.get_mut(number) else { return false };
        door.accepted += 1;
        if door.accepted < TURNS {
            return true;
        }
        door.accepted = 0;
        if self.region.workers().count() < 2 {
            return true;
        }
        if self.has_too_many() {
            self.pause(Pause::SteppedBack);
            return false;
        }
        if let Some(door) = self.acceptor.doors.get(number) {
            self.poller.remove(door.socket.as_fd());
        }
        if self.watch_listener(number).is_err() {
            self.pause(Pause::Descriptors);
        }
        self.acceptor.pause.is_none()
    }

    /// Does this worker have clearly more connections than the mean of those that are at work?
    fn has_too_many(&self) -> bool {
        let table = self.region.workers();
        let at_work = (0..table.count()).map(|number| table.view(WorkerId(number))).filter(|worker| {
            worker.id == self.id || worker.ready && self.now.seconds_since(worker.heartbeat) <= SILENT
        });
        let (workers, connections) =
            at_work.fold((0, 0), |(workers, sum), worker| (workers + 1, sum + worker.connections));
        let mean = connections / workers.max(1);
        workers > 1 && self.connections.len() as u32 > mean + mean / 4 + LEEWAY
    }

    /// Somebody waits for what this worker has just freed.
    pub(super) fn ring_if_awaited(&mut self) {
        if self.region.slots().awaited() {
            wait::ring(self.room.as_fd());
        }
        if matches!(self.acceptor.pause, Some((Pause::Descriptors, _))) {
            self.freed = true;
        }
    }
}
