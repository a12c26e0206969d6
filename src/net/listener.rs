//! The shared listener: when to accept, and when to leave it to others or let clients wait.
//!
//! All workers wait for the same listening socket, and the kernel wakes as few as it can (EPOLLEXCLUSIVE). Left
//! alone it would wake the same one again and again: a worker therefore leaves the queue and joins it anew after
//! every [`TURNS`] clients, which shares them out evenly, and one with clearly more connections than the others
//! steps back for a while. A pause never drops anybody: clients wait in the backlog.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::model::ids::{ConnId, WorkerId};
use crate::model::time::Moment;
use crate::shared::slots::Shortage;
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

/// A worker's view of the listener.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: Option<OwnedFd>,
    /// Not registered with the poller, and why.
    pause: Option<(Pause, Moment)>,
    accepted: u32,
    /// Everybody who waits is accepted, because the listener is about to be closed.
    emptying: bool,
    /// The others have been told of the lack that this worker pauses for.
    told_others: bool,
    /// How many to accept at most when next woken, and the loop turn of the last time.
    batch: u32,
    last_turn: u64,
    /// When a lack of descriptors was told last.
    told: Option<Moment>,
    /// The loop turn in which a client was accepted last.
    admitted: u64,
}

impl Acceptor {
    /// Not yet open: see [`Worker::watch_listener`].
    pub(super) fn new(listener: OwnedFd) -> Self {
        Acceptor {
            listener: Some(listener),
            pause: None,
            accepted: 0,
            emptying: false,
            told_others: false,
            batch: 1,
            last_turn: 0,
            told: None,
            admitted: 0,
        }
    }

    /// How long the loop may sleep because of a pause that nobody rings the bell for.
    pub(super) fn patience(&self) -> Option<Duration> {
        match self.pause? {
            (Pause::SteppedBack | Pause::Descriptors, _) => Some(SHORT),
            (Pause::Slots | Pause::Pending, _) => None,
        }
    }
}

impl Worker<'_> {
    /// Registers the listener. Clients that wait already are reported at once.
    pub(super) fn watch_listener(&mut self) -> std::io::Result<()> {
        match &self.acceptor.listener {
            Some(listener) => self.poller.add_listener(listener.as_fd(), token::LISTENER),
            None => Ok(()),
        }
    }

    /// Goes over to another listening socket.
    pub(super) fn replace_listener(&mut self, listener: OwnedFd) {
        self.accept_queued();
        self.acceptor.listener = Some(listener);
        if self.acceptor.pause.is_none() && self.watch_listener().is_err() {
            self.pause(Pause::Descriptors);
        }
    }

    /// Accepts who waits already, then never again.
    pub(super) fn stop_accepting(&mut self) {
        self.accept_queued();
        self.clear_pause();
    }

    /// Never accepts again. Who waits already is the other workers'.
    pub(super) fn leave_listener(&mut self) {
        self.clear_pause();
        if let Some(listener) = self.acceptor.listener.take() {
            self.poller.remove(listener.as_fd());
        }
        // One that was woken for a client does not accept it now: somebody else must look.
        wait::ring(self.room.as_fd());
    }

    /// Those in the backlog have been promised a connection: closing the socket would reset them. Only a lack of
    /// slots or descriptors ends this early.
    fn accept_queued(&mut self) {
        if matches!(self.acceptor.pause, None | Some((Pause::SteppedBack | Pause::Pending, _))) {
            self.clear_pause();
            self.acceptor.emptying = true;
            self.accept_up_to(self.settings.listen_queue);
            self.acceptor.emptying = false;
        }
        if let Some(listener) = self.acceptor.listener.take() {
            self.poller.remove(listener.as_fd());
        }
    }

    /// The poller says that clients wait.
    pub(super) fn listener_ready(&mut self) {
        if self.acceptor.pause.is_some() {
            return;
        }
        // Woken again in the very next turn: there are more than one at a time. Accepting on until nobody is left
        // costs a call that fails, accepting one only costs a wait each: go over to the first as the need grows.
        let consecutive = self.acceptor.last_turn + 1 == self.turn;
        self.acceptor.last_turn = self.turn;
        self.acceptor.batch =
            if consecutive { (self.acceptor.batch * 2).min(self.settings.multi_accept) } else { 1 };
        self.accept_up_to(self.acceptor.batch);
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

    fn resume(&mut self) {
        let descriptors = matches!(self.acceptor.pause, Some((Pause::Descriptors, _)));
        self.clear_pause();
        // Registered before looking, so that a client who comes between is reported.
        if self.watch_listener().is_err() {
            return self.pause(Pause::Descriptors);
        }
        self.acceptor.told_others = descriptors;
        self.accept_up_to(self.settings.multi_accept);
        self.acceptor.told_others = false;
    }

    fn clear_pause(&mut self) {
        if matches!(self.acceptor.pause, Some((Pause::Slots | Pause::Pending, _))) {
            self.region.slots().wait(self.id, false);
        }
        self.acceptor.pause = None;
    }

    fn pause(&mut self, reason: Pause) {
        if let Some(listener) = &self.acceptor.listener {
            self.poller.remove(listener.as_fd());
        }
        self.acceptor.pause = Some((reason, self.now));
        // Whoever waits now was reported to this worker only, and another may have what this one lacks. Not at
        // every try, though: workers that all lack it would wake each other for ever.
        if matches!(reason, Pause::Descriptors | Pause::SteppedBack) && !self.acceptor.told_others {
            wait::ring(self.room.as_fd());
        }
    }

    /// Registers the listener anew: the poller then reports clients that wait, whoever it told of them before.
    fn report_again(&mut self) {
        let Some(listener) = &self.acceptor.listener else {
            return;
        };
        self.poller.remove(listener.as_fd());
        if self.watch_listener().is_err() {
            self.pause(Pause::Descriptors);
        }
    }

    fn accept_up_to(&mut self, most: u32) {
        for _ in 0..most {
            if !self.descriptors_left() {
                return self.lack_descriptors();
            }
            let emptying = self.acceptor.emptying;
            if !emptying && self.too_many_pending() {
                // Connects that were begun in this very turn have had no chance to be done: the next one will tell.
                if self.acceptor.admitted == self.turn || self.waits(Self::too_many_pending, Pause::Pending) {
                    return;
                }
            }
            let Some(conn) = self.claim() else { return };
            let Some(listener) = &self.acceptor.listener else {
                return self.region.slots().release(&mut self.finder, conn);
            };
            match socket::accept(listener.as_fd()) {
                Ok((client, address)) => {
                    self.acceptor.admitted = self.turn;
                    self.admit(client, address, conn);
                    if self.acceptor.pause.is_some() {
                        return;
                    }
                    self.acceptor.accepted += 1;
                    if self.acceptor.accepted >= TURNS && !emptying && !self.rotate() {
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
        self.region.slots().wait(self.id, true);
        if !lacking(self) {
            self.region.slots().wait(self.id, false);
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

    /// Lets the other workers have the next clients; false if this one stepped back.
    fn rotate(&mut self) -> bool {
        self.acceptor.accepted = 0;
        if self.region.workers().count() < 2 {
            return true;
        }
        if self.has_too_many() {
            self.pause(Pause::SteppedBack);
            return false;
        }
        self.report_again();
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
