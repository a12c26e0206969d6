//! Datagrams that wait for a slot.
//!
//! All slots may be other workers', with flows of theirs that can be spared. A worker that has no flow to end for a new
//! one says that it wants a slot, and rings the bell that all share: whoever hears it ends one ([`super::room`]). The
//! datagrams are kept until then, but not for long: whoever sent them has no use for answers that come late, and slots
//! that connections have may not become free for hours.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use crate::model::time::Moment;
use crate::shared::workers::Lost;
use crate::sys::datagram::BATCH;
use crate::sys::wait;

use super::super::event_loop::Worker;
use super::flow::{FlowKey, KEPT, Origin};
use super::trains::Message;

/// Most datagrams that wait: as many as a message can have.
const MOST: usize = BATCH;

/// How long a datagram waits, in microseconds.
const PATIENCE: u64 = 200_000;

/// For how long the others are not asked again while somebody waits, in microseconds.
const ASKED_AGAIN: u64 = 50_000;

/// The same for connections that wait, who wait for longer.
const ASKED_LONG_AGO: u64 = 1_000_000;

/// Why there is no flow for a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// All slots are in use, and no flow of this worker can be spared for it. Another's may.
    Slots,
    /// For good.
    Lost(Lost),
}

impl From<Lost> for Refusal {
    fn from(lost: Lost) -> Self {
        Refusal::Lost(lost)
    }
}

/// Those that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    held: VecDeque<Held>,
    /// How many datagrams that are.
    datagrams: usize,
    /// When the others were asked for a slot last.
    asked: Moment,
}

#[derive(Debug)]
struct Held {
    origin: Origin,
    /// What the client has sent to, if a header has named that.
    destination: Option<SocketAddr>,
    bytes: Box<[u8]>,
    segment: usize,
    since: Moment,
}

impl Held {
    fn message(&self) -> Message<'_> {
        Message { bytes: &self.bytes, segment: self.segment }
    }
}

impl WaitingRoom {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Does anything from there wait?
    pub(super) fn has(&self, origin: &Origin) -> bool {
        self.held.iter().any(|held| held.origin == *origin)
    }

    /// The client that a peer has named last, of those whose datagrams wait.
    pub(super) fn last_of_peer(&self, unnamed: &Origin) -> Option<Origin> {
        let mut origins = self.held.iter().rev().map(|held| held.origin);
        origins.find(|&origin| Origin { named: None, ..origin } == *unnamed)
    }

    /// When the first has waited for long enough.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.held.front().map(|first| first.since.plus_micros(PATIENCE))
    }

    /// Takes those out that are meant.
    fn take(&mut self, meant: impl Fn(&Held) -> bool) -> Vec<Held> {
        let (taken, left): (Vec<Held>, Vec<Held>) = self.held.drain(..).partition(meant);
        self.held = left.into();
        self.datagrams = self.held.iter().map(|held| held.message().count()).sum();
        taken
    }
}

impl Worker<'_> {
    /// There is no flow for these: they wait, or are lost.
    pub(super) fn refuse(
        &mut self,
        refusal: Refusal,
        origin: Origin,
        destination: Option<SocketAddr>,
        messages: &[Message<'_>],
    ) {
        for message in messages {
            let lost = match refusal {
                Refusal::Slots if self.hold(origin, destination, *message) => continue,
                Refusal::Slots => Lost::NoRoom,
                Refusal::Lost(lost) => lost,
            };
            self.region.workers().lost(self.id, lost, message.count() as u64);
        }
    }

    /// Keeps a message until there is a slot for it; false: there are too many.
    fn hold(&mut self, origin: Origin, destination: Option<SocketAddr>, message: Message<'_>) -> bool {
        let room = &mut self.udp.waiting;
        let (datagrams, kept) =
            (room.datagrams + message.count(), self.udp.kept.saturating_add(message.bytes.len()));
        if datagrams > MOST || kept > KEPT {
            return false;
        }
        let Message { bytes, segment } = message;
        let is_first = room.is_empty();
        room.datagrams = datagrams;
        self.udp.kept = kept;
        room.held.push_back(Held { origin, destination, bytes: bytes.into(), segment, since: self.now });
        if is_first {
            self.say_what_is_awaited();
        }
        if is_first || self.udp.waiting.asked.plus_micros(ASKED_AGAIN) <= self.now {
            self.ask_for_a_slot();
        }
        true
    }

    /// All workers, this one too, look whether there is a slot, or one to be spared.
    pub(in crate::net) fn ask_for_a_slot(&mut self) {
        self.udp.waiting.asked = self.now;
        wait::ring(self.room.as_fd());
    }

    pub(in crate::net) fn asked_for_a_slot_long_ago(&self) -> bool {
        self.udp.waiting.asked.plus_micros(ASKED_LONG_AGO) <= self.now
    }

    /// There may be a slot: as far as there is, datagrams that wait have their flows.
    pub(in crate::net) fn retry_datagrams(&mut self) {
        while let Some(first) = self.udp.waiting.held.front() {
            let (origin, destination) = (first.origin, first.destination);
            let begun = match self.udp.flow_of(&origin) {
                Some(key) => Ok(key),
                None => self.begin_flow(origin, destination),
            };
            match begun {
                Ok(key) => self.forward_held(key, origin),
                Err(Refusal::Slots) => break,
                Err(Refusal::Lost(lost)) => self.lose_held(lost, |held| held.origin == origin),
            }
        }
        self.count_sent_up();
    }

    fn forward_held(&mut self, key: FlowKey, origin: Origin) {
        let held = self.take_held(|held| held.origin == origin);
        let messages: Vec<Message<'_>> = held.iter().map(Held::message).collect();
        self.forward(key, &messages);
    }

    /// What has waited for long enough waits no more.
    pub(in crate::net) fn lose_overdue_datagrams(&mut self) {
        let now = self.now;
        if self.udp.waiting.deadline().is_some_and(|deadline| deadline <= now) {
            self.lose_held(Lost::NoRoom, |held| held.since.plus_micros(PATIENCE) <= now);
        }
    }

    /// Nobody new is served.
    pub(in crate::net) fn lose_waiting_datagrams(&mut self) {
        self.lose_held(Lost::NoServer, |_| true);
    }

    /// These have no socket any more to be answered from.
    pub(super) fn lose_datagrams_of(&mut self, gone: impl Fn(&Origin) -> bool) {
        self.lose_held(Lost::NoServer, |held| gone(&held.origin));
    }

    fn lose_held(&mut self, why: Lost, meant: impl Fn(&Held) -> bool) {
        let datagrams: usize = self.take_held(meant).iter().map(|held| held.message().count()).sum();
        self.region.workers().lost(self.id, why, datagrams as u64);
    }

    /// Takes them out of the waiting room. With the last of them this worker wants no slot any more.
    fn take_held(&mut self, meant: impl Fn(&Held) -> bool) -> Vec<Held> {
        let taken = self.udp.waiting.take(meant);
        self.udp.kept -= taken.iter().map(|held| held.bytes.len()).sum::<usize>();
        if !taken.is_empty() && self.udp.waiting.is_empty() {
            self.say_what_is_awaited();
        }
        taken
    }
}
