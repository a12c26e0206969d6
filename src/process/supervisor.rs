//! Which workers there are, and when one that has ended is started again.
//!
//! | a slot is | and becomes |
//! |---|---|
//! | due at a moment | running, when the master forks a worker for it |
//! | running | due, when the worker ends: at once, or later if workers keep ending early |
//! | running | disabled, when the worker says that it cannot start |
//! | running | retiring, when there are to be fewer workers |
//! | retiring | vacant, when its last connection is over |
//! | vacant | due, when there are to be more workers |
//!
//! A worker whose heartbeat stops gets SIGABRT (a core file shows where it hangs), then SIGKILL. Decisions and
//! bookkeeping only: the master forks, reaps and reports.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::model::ids::{ConnId, MAX_WORKERS, WorkerId};
use crate::model::settings::Settings;
use crate::model::time::Moment;
use crate::net::channel::{Attachments, Change, MasterEnd, PackedSettings, Report};
use crate::policy::restart::{self, History};
use crate::process::CANNOT_START;
use crate::process::listeners::{Listeners, Share};
use crate::report::log::Sink;
use crate::sys::fork::ExitStatus;
use crate::sys::signal::{self, Signal};

/// A worker whose last heartbeat is older is stuck.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a worker has for writing its core file before it gets SIGKILL.
const CORE_DUMP_TIME: Duration = Duration::from_secs(1);

/// Orders that a worker has been given and has not carried out. A stopped one would collect the settings of every
/// change, each in memory of its own; it gets the last ones alone, when it moves again.
const MOST_UNDONE: usize = 8;

/// When to try again after fork(2) has failed.
const FORK_RETRY: Duration = Duration::from_secs(1);

/// All worker slots, by [`WorkerId`].
#[derive(Debug, Default)]
pub struct Supervisor {
    slots: Vec<WorkerSlot>,
    /// How many there are to be.
    wanted: u32,
    /// The number of the latest order.
    orders: u64,
}

#[derive(Debug)]
struct WorkerSlot {
    state: State,
    history: History,
}

#[derive(Debug)]
enum State {
    /// A worker is to be started at this moment.
    Due(Moment),
    Running(Box<WorkerProcess>),
    /// No worker is started here any more, because it cannot.
    Disabled,
    /// There is to be none.
    Vacant,
}

/// One worker, as its master knows it.
#[derive(Debug)]
struct WorkerProcess {
    pid: i32,
    channel: MasterEnd,
    /// Nothing can be read from the channel any more.
    channel_closed: bool,
    started: Moment,
    ready: bool,
    failure: Option<String>,
    /// The heartbeat's age counts from here at the earliest.
    silent_from: Moment,
    /// It got SIGABRT, and gets SIGKILL at this moment.
    kill_at: Option<Moment>,
    /// It does not have the latest settings: sending them failed, or it has too much to do.
    unsent: bool,
    /// It is to end with its last connection, and nobody takes its place.
    retiring: Retiring,
    /// The latest order that it has carried out, or that was given before it was made.
    done: u64,
    /// The order by which it was given what it had missed of earlier ones.
    resent: u64,
    /// The orders that it was given since, and has not carried out.
    undone: VecDeque<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retiring {
    No,
    /// Sending it the order failed.
    Unsent,
    Yes,
}

/// Settings to be sent, and what belongs to them.
#[derive(Debug)]
pub struct Dispatch<'a> {
    /// The settings.
    pub settings: &'a Settings,
    /// Their access lists have changed.
    pub lists: bool,
    /// What has changed of the log.
    pub log: Change<&'a Sink>,
    /// What has changed of the database of countries.
    pub countries: Change<BorrowedFd<'a>>,
    /// What has changed of TLS.
    pub tls: Change<BorrowedFd<'a>>,
    /// What workers listen on has changed, or who of them reads which sockets.
    pub listeners: bool,
    /// All of them as they are now, for a worker that missed earlier ones.
    pub complete: Complete<'a>,
}

/// All that goes with the settings in force.
#[derive(Debug, Clone, Copy)]
pub struct Complete<'a> {
    /// The log.
    pub log: Option<&'a Sink>,
    /// The database of countries.
    pub countries: Option<BorrowedFd<'a>>,
    /// What was read for TLS.
    pub tls: Option<BorrowedFd<'a>>,
    /// What all of them listen on; none while draining.
    pub listeners: Option<&'a Listeners>,
}

impl<'a> Complete<'a> {
    /// For a worker that reads this share of the datagrams.
    fn attachments(self, share: Option<Share>) -> Attachments<'a> {
        Attachments {
            lists: true,
            log: Change::Replace(self.log),
            countries: Change::Replace(self.countries),
            tls: Change::Replace(self.tls),
            listeners: self.listeners.map(|listeners| listeners.shared(share)),
        }
    }
}

/// A worker that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Which.
    pub worker: WorkerId,
    /// Its process.
    pub pid: i32,
    /// How it ended.
    pub status: ExitStatus,
    /// It had said that it accepts connections.
    pub was_ready: bool,
    /// Why it could not start, in its own words.
    pub failure: Option<String>,
    /// No worker will be started in its slot any more.
    pub closed: bool,
    /// It was to end, and nobody takes its place.
    pub retired: bool,
    /// How long until another is started.
    pub wait: Duration,
}

/// What the worker table says about a worker's heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Which worker.
    pub worker: WorkerId,
    /// The last one.
    pub at: Moment,
}

fn later(moment: Moment, length: Duration) -> Moment {
    Moment(moment.0.saturating_add(u64::try_from(length.as_micros()).unwrap_or(u64::MAX)))
}

impl Supervisor {
    /// There are to be that many workers, at least one. New ones are due at once; of those that are too many (the
    /// last) the ones that do not run are not started any more, and others are told to end with their last connections.
    pub fn resize(&mut self, workers: u32, now: Moment) {
        self.wanted = workers.clamp(1, MAX_WORKERS);
        self.fill(now);
        let there_are = self.slots.iter().filter(|slot| slot.counts()).count() as u32;
        let mut surplus = there_are.saturating_sub(self.wanted);
        // One that cannot start must not stay in the place of one that serves.
        for running in [false, true] {
            for slot in self.slots.iter_mut().rev().filter(|slot| slot.counts()) {
                match &mut slot.state {
                    _ if surplus == 0 => break,
                    State::Running(worker) if running => {
                        self.orders += 1;
                        worker.retire(self.orders);
                    }
                    State::Due(_) | State::Disabled if !running => slot.state = State::Vacant,
                    State::Running(_) | State::Due(_) | State::Disabled | State::Vacant => continue,
                }
                surplus -= 1;
            }
        }
        self.forget_vacant();
    }

    /// Makes slots due until there are as many workers as there are to be, or no more slots because the others are
    /// still held by workers that are to end.
    fn fill(&mut self, now: Moment) {
        let missing =
            (self.wanted as usize).saturating_sub(self.slots.iter().filter(|slot| slot.counts()).count());
        let room = (MAX_WORKERS as usize).saturating_sub(self.slots.len());
        let due = || WorkerSlot { state: State::Due(now), history: History::default() };
        let vacant = self.slots.iter_mut().filter(|slot| matches!(slot.state, State::Vacant)).take(missing);
        let refilled = vacant.map(|slot| *slot = due()).count();
        let new = (missing - refilled).min(room);
        self.slots.extend(std::iter::repeat_with(due).take(new));
    }

    fn forget_vacant(&mut self) {
        while matches!(self.slots.last(), Some(WorkerSlot { state: State::Vacant, .. })) {
            self.slots.pop();
        }
    }

    /// How many rows of the worker table are in use, or may be.
    pub fn places(&self) -> u32 {
        self.slots.len() as u32
    }

    /// A worker that is to be started now.
    pub fn next_due(&self, now: Moment) -> Option<WorkerId> {
        let due = |slot: &WorkerSlot| matches!(slot.state, State::Due(due) if due <= now);
        self.slots.iter().position(due).map(worker_id)
    }

    /// Worker `id` runs now, as process `pid`.
    pub fn started(&mut self, id: WorkerId, pid: i32, channel: MasterEnd, now: Moment) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            slot.state = State::Running(Box::new(WorkerProcess {
                pid,
                channel,
                channel_closed: false,
                started: now,
                ready: false,
                failure: None,
                silent_from: now,
                kill_at: None,
                unsent: false,
                retiring: Retiring::No,
                done: self.orders,
                resent: 0,
                undone: VecDeque::new(),
            }));
        }
    }

    /// fork(2) failed for this worker: it is due again a little later.
    pub fn retry_later(&mut self, id: WorkerId, now: Moment) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            slot.state = State::Due(later(now, FORK_RETRY));
        }
    }

    /// The processes of all workers.
    pub fn pids(&self) -> Vec<i32> {
        self.running().map(|(_, worker)| worker.pid).collect()
    }

    /// Is there no worker, at this moment?
    pub fn is_empty(&self) -> bool {
        self.running().next().is_none()
    }

    /// Do all workers that there should be accept connections?
    pub fn all_ready(&self) -> bool {
        let ready = |slot: &WorkerSlot| matches!(&slot.state, State::Running(worker) if worker.ready);
        self.slots.iter().filter(|slot| slot.counts()).all(ready)
    }

    /// Will no worker ever be started again?
    pub fn all_disabled(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot.state, State::Disabled | State::Vacant))
    }

    /// Has every worker carried out that order, and all before it that were meant for it? One that was made later, or
    /// has ended, has.
    pub fn all_did(&self, order: u64) -> bool {
        let did = |worker: &WorkerProcess| worker.done >= order.max(worker.resent) && !worker.misses_orders();
        self.running().all(|(_, worker)| did(worker))
    }

    /// The channels on which something may come, for waiting.
    pub fn channels(&self) -> Vec<(WorkerId, BorrowedFd<'_>)> {
        let open = self.running().filter(|(_, worker)| !worker.channel_closed);
        open.map(|(id, worker)| (id, worker.channel.as_fd())).collect()
    }

    /// Reads the reports of this worker.
    pub fn read_reports(&mut self, id: WorkerId) {
        if let Some(worker) = self.worker(id) {
            worker.read_reports();
        }
    }

    /// The first worker that said that it cannot start, and why.
    pub fn failure(&self) -> Option<(WorkerId, &str)> {
        self.running().find_map(|(id, worker)| Some((id, worker.failure.as_deref()?)))
    }

    /// The process `pid` has been reaped. None: it was no worker.
    pub fn reaped(&mut self, pid: i32, status: ExitStatus, now: Moment) -> Option<Death> {
        let mut running = self.slots.iter_mut().enumerate();
        let (number, slot, mut worker) = running.find_map(|(number, slot)| match &mut slot.state {
            State::Running(worker) if worker.pid == pid => {
                // What it said last may not have been read yet.
                worker.read_reports();
                let worker = std::mem::replace(&mut slot.state, State::Disabled);
                let State::Running(worker) = worker else {
                    return None;
                };
                Some((number, slot, worker))
            }
            _ => None,
        })?;
        let retired = worker.retiring != Retiring::No;
        let closed = status == ExitStatus::Exited(CANNOT_START) && !retired;
        let lifetime = Duration::from_micros(now.micros_since(worker.started));
        let (wait, history) = restart::after_death(slot.history, lifetime);
        slot.history = history;
        if retired {
            slot.state = State::Vacant;
            self.fill(now);
            self.forget_vacant();
        } else if !closed {
            slot.state = State::Due(later(now, wait));
        }
        let (was_ready, failure) = (worker.ready, worker.failure.take());
        Some(Death { worker: worker_id(number), pid, status, was_ready, failure, closed, retired, wait })
    }

    /// The earliest moment at which something is to be done: a worker started (if any are), a worker killed.
    pub fn next_deadline(&self, starting: bool) -> Option<Moment> {
        let moments = self.slots.iter().filter_map(|slot| match &slot.state {
            State::Due(due) => starting.then_some(*due),
            State::Running(worker) => worker.kill_at,
            State::Disabled | State::Vacant => None,
        });
        moments.min()
    }

    /// Sends every worker a signal. One that cannot be sent is for a worker that is dead already.
    pub fn signal_all(&self, which: Signal) {
        for (_, worker) in self.running() {
            let _ = signal::send(worker.pid, which);
        }
    }

    /// Sends every worker the settings and what changes with them. The number of the order.
    pub fn send_settings(&mut self, dispatch: &Dispatch<'_>) -> u64 {
        self.orders += 1;
        let number = self.orders;
        let all = OnceCell::new();
        let all = || all.get_or_init(|| PackedSettings::new(dispatch.settings)).as_ref().ok();
        let short = (!dispatch.lists).then(|| PackedSettings::without_lists(dispatch.settings));
        let readers = self.readers();
        let changes = |share| Attachments {
            lists: dispatch.lists,
            log: match &dispatch.log {
                Change::Keep => Change::Keep,
                Change::Replace(log) => Change::Replace(*log),
            },
            countries: match &dispatch.countries {
                Change::Keep => Change::Keep,
                Change::Replace(countries) => Change::Replace(*countries),
            },
            tls: match &dispatch.tls {
                Change::Keep => Change::Keep,
                Change::Replace(tls) => Change::Replace(*tls),
            },
            listeners: match dispatch.listeners {
                true => dispatch.complete.listeners.map(|listeners| listeners.shared(share)),
                false => None,
            },
        };
        for (id, worker) in self.running_mut() {
            let share = share(&readers, id);
            let attached = if worker.unsent { dispatch.complete.attachments(share) } else { changes(share) };
            let packed = match &short {
                Some(short) if !worker.unsent => short.as_ref().ok(),
                _ => all(),
            };
            worker.use_settings(number, packed, &attached);
        }
        number
    }

    /// Has the worker end this connection, if it still is the slot's `uses`-th. The number of the order; none if it
    /// could not be given.
    pub fn send_close(&mut self, worker: WorkerId, conn: ConnId, uses: u32) -> Option<u64> {
        let number = self.orders + 1;
        self.worker(worker)?.order(number, |channel| channel.send_close(number, conn, uses)).ok()?;
        self.orders = number;
        Some(number)
    }

    /// Has this worker carried out that order? If there is none any more, it need not.
    pub fn did(&self, worker: WorkerId, order: u64) -> bool {
        self.running().all(|(id, process)| id != worker || process.done >= order)
    }

    /// Is there a worker without the latest orders that could be given them now?
    pub fn has_unsent_orders(&self) -> bool {
        self.running().any(|(_, worker)| worker.misses_orders() && worker.undone.len() < MOST_UNDONE)
    }

    /// Sends those workers everything as it is now.
    pub fn resend_orders(&mut self, settings: &Settings, complete: Complete<'_>) {
        let readers = self.readers();
        let packed = PackedSettings::new(settings);
        let mut orders = self.orders;
        for (id, worker) in self.running_mut() {
            if worker.retiring == Retiring::Unsent {
                orders += 1;
                worker.resent = orders;
                worker.retire(orders);
            }
            if worker.unsent {
                orders += 1;
                worker.resent = orders;
                let complete = complete.attachments(share(&readers, id));
                worker.use_settings(orders, packed.as_ref().ok(), &complete);
            }
        }
        self.orders = orders;
    }

    /// The workers that read datagrams, or will as soon as they are started, in their order.
    pub fn readers(&self) -> Vec<WorkerId> {
        let reads = |slot: &WorkerSlot| slot.counts() && !matches!(slot.state, State::Disabled);
        let slots = self.slots.iter().enumerate().filter(|(_, slot)| reads(slot));
        slots.map(|(number, _)| worker_id(number)).collect()
    }

    /// Heartbeats that are missing until now do not count: the master itself slept, say.
    pub fn restart_silence(&mut self, now: Moment) {
        for worker in self.slots.iter_mut().filter_map(WorkerSlot::worker) {
            worker.silent_from = now;
        }
    }

    /// Which workers are stuck, at this moment? They get SIGABRT, and SIGKILL later. If one of them holds the lock
    /// the others may be waiting for it: then it alone is stuck, and they get more time.
    pub fn find_stuck(
        &mut self,
        heartbeats: &[Heartbeat],
        lock_holder: Option<WorkerId>,
        now: Moment,
    ) -> Vec<WorkerId> {
        let silent = |worker: &WorkerProcess, heartbeat: &Heartbeat| {
            let since = heartbeat.at.max(worker.silent_from);
            worker.kill_at.is_none() && now.micros_since(since) > HEARTBEAT_TIMEOUT.as_micros() as u64
        };
        let mut stuck: Vec<WorkerId> = heartbeats
            .iter()
            .filter(|heartbeat| self.worker(heartbeat.worker).is_some_and(|worker| silent(worker, heartbeat)))
            .map(|heartbeat| heartbeat.worker)
            .collect();
        if let Some(holder) = lock_holder.filter(|holder| stuck.contains(holder)) {
            stuck = vec![holder];
            self.restart_silence(now);
        }
        for id in &stuck {
            if let Some(worker) = self.worker(*id) {
                worker.kill_at = Some(later(now, CORE_DUMP_TIME));
                let _ = signal::send(worker.pid, Signal::SIGABRT);
            }
        }
        stuck
    }

    /// Sends SIGKILL to stuck workers that have had their time.
    pub fn kill_overdue(&mut self, now: Moment) {
        for worker in self.slots.iter_mut().filter_map(WorkerSlot::worker) {
            if worker.kill_at.is_some_and(|when| when <= now) {
                // SIGKILL ends a stopped process too. Once is enough.
                worker.kill_at = None;
                worker.silent_from = now;
                let _ = signal::send(worker.pid, Signal::SIGKILL);
            }
        }
    }

    fn running(&self) -> impl Iterator<Item = (WorkerId, &WorkerProcess)> {
        self.slots.iter().enumerate().filter_map(|(number, slot)| match &slot.state {
            State::Running(worker) => Some((worker_id(number), &**worker)),
            State::Due(_) | State::Disabled | State::Vacant => None,
        })
    }

    fn running_mut(&mut self) -> impl Iterator<Item = (WorkerId, &mut WorkerProcess)> {
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(number, slot)| Some((worker_id(number), slot.worker()?)))
    }

    fn worker(&mut self, id: WorkerId) -> Option<&mut WorkerProcess> {
        self.slots.get_mut(id.0 as usize)?.worker()
    }
}

impl WorkerSlot {
    fn worker(&mut self) -> Option<&mut WorkerProcess> {
        match &mut self.state {
            State::Running(worker) => Some(worker),
            State::Due(_) | State::Disabled | State::Vacant => None,
        }
    }

    /// Is it one of those that there are to be?
    fn counts(&self) -> bool {
        match &self.state {
            State::Running(worker) => worker.retiring == Retiring::No,
            State::Due(_) | State::Disabled => true,
            State::Vacant => false,
        }
    }
}

impl WorkerProcess {
    /// Does it not have all orders that were meant for it? What it has done says nothing then: it may have carried
    /// out a later one.
    fn misses_orders(&self) -> bool {
        self.unsent || self.retiring == Retiring::Unsent
    }

    /// Gives it an order. A worker that is stuck has not read the earlier ones, one that is dead never will.
    fn order(&mut self, number: u64, send: impl FnOnce(&MasterEnd) -> io::Result<()>) -> io::Result<()> {
        if self.undone.len() >= MOST_UNDONE {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        send(&self.channel)?;
        self.undone.push_back(number);
        Ok(())
    }

    fn use_settings(&mut self, order: u64, packed: Option<&PackedSettings>, attached: &Attachments<'_>) {
        let sent = packed.is_some_and(|packed| {
            self.order(order, |channel| channel.send_settings(order, packed, attached)).is_ok()
        });
        self.unsent = !sent;
    }

    fn retire(&mut self, order: u64) {
        let sent = self.order(order, |channel| channel.send_retire(order)).is_ok();
        self.retiring = if sent { Retiring::Yes } else { Retiring::Unsent };
    }

    fn read_reports(&mut self) {
        while !self.channel_closed {
            match self.channel.receive() {
                Ok(Some(Report::Ready)) => self.ready = true,
                Ok(Some(Report::Failed(reason))) => self.failure = Some(reason),
                Ok(Some(Report::Done(order))) => {
                    self.done = self.done.max(order);
                    while self.undone.front().is_some_and(|undone| *undone <= order) {
                        self.undone.pop_front();
                    }
                }
                Ok(None) => return,
                // It is gone, or sends nonsense: in both cases there is nothing more to learn here.
                Err(_) => self.channel_closed = true,
            }
        }
    }
}

/// What this one of the workers that read datagrams reads; nothing if it is none of them.
pub fn share(readers: &[WorkerId], worker: WorkerId) -> Option<Share> {
    let place = readers.iter().position(|reader| *reader == worker)?;
    Some(Share { place, of: readers.len() })
}

fn worker_id(number: usize) -> WorkerId {
    WorkerId(u32::try_from(number).unwrap_or(u32::MAX))
}

/// The message about a worker that has ended.
pub fn death_message(death: &Death, connections: u32) -> String {
    let Death { worker, pid, status, closed, retired, wait, failure, .. } = death;
    let reason = failure.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let ended = match connections {
        0 => String::new(),
        1 => "; its connection has ended".to_string(),
        many => format!("; its {many} connections have ended"),
    };
    let next = match wait.as_millis() {
        _ if *retired => "nobody takes its place".to_string(),
        _ if *closed => "it is not started again".to_string(),
        0 => "another is started".to_string(),
        millis => format!("another is started in {millis} ms"),
    };
    format!("worker {worker} (pid {pid}) {status}{reason}{ended}; {next}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::channel::{self, Errand, Order, WorkerEnd};
    use crate::process::listeners::{Group, Listener};

    const SECOND: u64 = 1_000_000;
    /// A number that no process has: signals sent to it go nowhere.
    const NOBODY: i32 = 0;

    fn supervisor(workers: u32) -> (Supervisor, Vec<WorkerEnd>) {
        let mut supervisor = Supervisor::default();
        supervisor.resize(workers, Moment(0));
        let mut ends = Vec::new();
        for id in 0..workers {
            assert_eq!(supervisor.next_due(Moment(0)), Some(WorkerId(id)));
            let (ours, theirs) = channel::pair().unwrap();
            supervisor.started(WorkerId(id), NOBODY - id as i32, ours, Moment(0));
            ends.push(theirs);
        }
        assert_eq!(supervisor.next_due(Moment(u64::MAX)), None);
        (supervisor, ends)
    }

    fn heartbeats(heartbeats: &[u64]) -> Vec<Heartbeat> {
        let heartbeat = |(number, beat): (usize, &u64)| Heartbeat {
            worker: worker_id(number),
            at: Moment(beat * SECOND),
        };
        heartbeats.iter().enumerate().map(heartbeat).collect()
    }

    #[test]
    fn a_killed_worker_is_due_at_once() {
        let (mut supervisor, _ends) = supervisor(2);
        let status = ExitStatus::Killed(Signal::SIGKILL);
        let now = Moment(60 * SECOND);
        assert_eq!(supervisor.reaped(4711, status, now), None);
        let death = supervisor.reaped(NOBODY - 1, status, now).unwrap();
        assert_eq!((death.worker, death.wait, death.closed), (WorkerId(1), Duration::ZERO, false));
        assert_eq!(supervisor.next_due(now), Some(WorkerId(1)));
        assert_eq!(supervisor.next_deadline(true), Some(now));
        assert!(!supervisor.is_empty() && !supervisor.all_disabled());
    }

    #[test]
    fn workers_that_keep_ending_early_are_held_back() {
        let (mut supervisor, _ends) = supervisor(1);
        let mut waits = Vec::new();
        let mut now = Moment(0);
        for _ in 0..4 {
            let death = supervisor.reaped(NOBODY, ExitStatus::Exited(1), now).unwrap();
            waits.push(death.wait);
            let next = later(now, death.wait);
            assert!(death.wait.is_zero() || supervisor.next_due(now).is_none());
            assert_eq!(supervisor.next_due(next), Some(WorkerId(0)));
            now = next;
            supervisor.started(WorkerId(0), NOBODY, channel::pair().unwrap().0, now);
        }
        assert!(waits[0].is_zero() && waits[3] > waits[1], "{waits:?}");
    }

    #[test]
    fn a_worker_that_cannot_start_is_not_tried_again() {
        let (mut supervisor, ends) = supervisor(1);
        ends[0].report(&Report::Failed("out of descriptors".to_string())).unwrap();
        let death = supervisor.reaped(NOBODY, ExitStatus::Exited(CANNOT_START), Moment(SECOND)).unwrap();
        assert!(death.closed && supervisor.all_disabled());
        assert_eq!(supervisor.next_due(Moment(u64::MAX)), None);
        let line = death_message(&death, 0);
        assert!(line.ends_with("status 71: out of descriptors; it is not started again"), "{line}");
    }

    #[test]
    fn readiness_and_failures_are_read() {
        let (mut supervisor, ends) = supervisor(2);
        assert!(!supervisor.all_ready());
        for (id, end) in (0..).zip(&ends) {
            end.report(&Report::Ready).unwrap();
            supervisor.read_reports(WorkerId(id));
        }
        assert!(supervisor.all_ready());
        assert_eq!(supervisor.failure(), None);
        ends[1].report(&Report::Failed("why".to_string())).unwrap();
        supervisor.read_reports(WorkerId(1));
        assert_eq!(supervisor.failure(), Some((WorkerId(1), "why")));
        drop(ends);
        supervisor.read_reports(WorkerId(0));
        assert_eq!(supervisor.channels().len(), 1, "a closed channel would wake the master for ever");
    }

    #[test]
    fn a_stuck_worker_is_killed_once() {
        let (mut supervisor, _ends) = supervisor(2);
        let at = |seconds| Moment(seconds * SECOND);
        assert_eq!(supervisor.find_stuck(&heartbeats(&[0, 0]), None, at(10)), []);
        assert_eq!(supervisor.find_stuck(&heartbeats(&[0, 9]), None, at(11)), [WorkerId(0)]);
        assert_eq!(supervisor.find_stuck(&heartbeats(&[0, 9]), None, at(11)), []);
        assert_eq!(supervisor.next_deadline(true), Some(at(12)));
        supervisor.kill_overdue(at(12));
        assert_eq!(supervisor.next_deadline(true), None);
    }

    #[test]
    fn a_stuck_lock_holder_explains_the_silence_of_the_others() {
        let (mut supervisor, _ends) = supervisor(3);
        let at = |seconds| Moment(seconds * SECOND);
        assert_eq!(supervisor.find_stuck(&heartbeats(&[0, 0, 0]), Some(WorkerId(2)), at(11)), [WorkerId(2)]);
        assert_eq!(supervisor.find_stuck(&heartbeats(&[0, 0, 0]), None, at(20)), []);
        assert_eq!(supervisor.find_stuck(&heartbeats(&[0, 12, 0]), None, at(22)), [WorkerId(0)]);
        // One that holds the lock and lives explains nothing.
        let (mut supervisor, _ends) = self::supervisor(2);
        assert_eq!(supervisor.find_stuck(&heartbeats(&[0, 11]), Some(WorkerId(1)), at(11)), [WorkerId(0)]);
    }

    #[test]
    fn the_masters_own_sleep_is_nobodys_fault() {
        let (mut supervisor, _ends) = supervisor(1);
        supervisor.restart_silence(Moment(100 * SECOND));
        assert_eq!(supervisor.find_stuck(&heartbeats(&[0]), None, Moment(101 * SECOND)), []);
        assert_eq!(supervisor.find_stuck(&heartbeats(&[0]), None, Moment(111 * SECOND)), [WorkerId(0)]);
    }

    const NOTHING: Complete<'_> = Complete { log: None, countries: None, tls: None, listeners: None };

    fn dispatch<'a>(settings: &'a Settings, complete: Complete<'a>) -> Dispatch<'a> {
        Dispatch {
            settings,
            lists: false,
            log: Change::Keep,
            countries: Change::Keep,
            tls: Change::Keep,
            listeners: false,
            complete,
        }
    }

    #[test]
    fn settings_that_did_not_arrive_are_sent_again_complete() {
        let (mut supervisor, ends) = supervisor(1);
        let group = Group::silent("192.0.2.1:53", 2);
        let listeners = Listeners::from(vec![Listener::Group(group)]);
        let complete = Complete { listeners: Some(&listeners), ..NOTHING };
        let mut settings = Settings::default();
        let mut order = 0;
        for _ in 0..MOST_UNDONE + 3 {
            settings.generation += 1;
            order = supervisor.send_settings(&dispatch(&settings, complete));
        }
        assert_eq!(supervisor.send_close(WorkerId(0), ConnId(1), 1), None, "it has enough to do");
        assert!(!supervisor.has_unsent_orders(), "there is no room for them");
        while let Some(Order { number, .. }) = ends[0].receive().unwrap() {
            ends[0].report(&Report::Done(number)).unwrap();
        }
        supervisor.read_reports(WorkerId(0));
        assert!(supervisor.has_unsent_orders());
        // That it has carried out a later one does not mean that it has those that it never got.
        let close = supervisor.send_close(WorkerId(0), ConnId(1), 1).unwrap();
        assert!(matches!(ends[0].receive().unwrap(), Some(Order { number, .. }) if number == close));
        ends[0].report(&Report::Done(close)).unwrap();
        supervisor.read_reports(WorkerId(0));
        assert!(supervisor.did(WorkerId(0), close) && !supervisor.all_did(order));
        settings.generation += 1;
        supervisor.resend_orders(&settings, complete);
        assert!(!supervisor.has_unsent_orders() && !supervisor.all_did(order));
        let Order { number, what: Errand::Use(new) } = ends[0].receive().unwrap().unwrap() else {
            panic!("no settings");
        };
        assert_eq!(new.settings.generation, settings.generation);
        assert!(new.lists && matches!(new.log, Change::Replace(None)));
        assert_eq!(new.listeners.map(|all| all.len()), Some(2));
        ends[0].report(&Report::Done(number)).unwrap();
        supervisor.read_reports(WorkerId(0));
        assert!(supervisor.all_did(order));
    }

    #[test]
    fn an_order_is_carried_out_when_every_worker_says_so_or_has_ended() {
        let (mut supervisor, ends) = supervisor(3);
        let settings = Settings::default();
        let order = supervisor.send_settings(&dispatch(&settings, NOTHING));
        let close = supervisor.send_close(WorkerId(1), ConnId(7), 1).unwrap();
        for id in [0, 1] {
            ends[id as usize].report(&Report::Done(order)).unwrap();
            supervisor.read_reports(WorkerId(id));
        }
        assert!(!supervisor.all_did(order) && !supervisor.did(WorkerId(1), close));
        supervisor.reaped(NOBODY - 2, ExitStatus::Exited(0), Moment(60 * SECOND));
        assert!(supervisor.all_did(order));
        // Its successor is born with the settings.
        assert_eq!(supervisor.next_due(Moment(60 * SECOND)), Some(WorkerId(2)));
        supervisor.started(WorkerId(2), 4711, channel::pair().unwrap().0, Moment(60 * SECOND));
        assert!(supervisor.all_did(order));
        ends[1].report(&Report::Done(close)).unwrap();
        supervisor.read_reports(WorkerId(1));
        assert!(supervisor.did(WorkerId(1), close));
    }

    /// How many sockets of a group of six each worker was given just now; None: it was told nothing of listeners.
    fn given(ends: &[WorkerEnd]) -> Vec<Option<usize>> {
        let given = |end: &WorkerEnd| {
            let mut given = None;
            while let Ok(Some(Order { what, .. })) = end.receive() {
                if let Errand::Use(new) = what {
                    given = new.listeners.map(|all| all.len());
                }
            }
            given
        };
        ends.iter().map(given).collect()
    }

    #[test]
    fn each_worker_is_given_its_share_of_the_sockets_for_datagrams() {
        let now = Moment(60 * SECOND);
        let (mut supervisor, ends) = supervisor(3);
        let listeners = Listeners::from(vec![Listener::Group(Group::silent("192.0.2.1:53", 6))]);
        let (settings, complete) = (Settings::default(), Complete { listeners: Some(&listeners), ..NOTHING });
        supervisor.send_settings(&dispatch(&settings, complete));
        assert_eq!(given(&ends), [None; 3]);
        let order = |supervisor: &mut Supervisor| {
            supervisor.send_settings(&Dispatch { listeners: true, ..dispatch(&settings, complete) });
            given(&ends)
        };
        assert_eq!(order(&mut supervisor), [Some(2), Some(2), Some(2)]);
        // One that is to be started again keeps its share.
        supervisor.reaped(NOBODY, ExitStatus::Killed(Signal::SIGKILL), now).unwrap();
        let readers = supervisor.readers();
        assert_eq!(readers, [WorkerId(0), WorkerId(1), WorkerId(2)]);
        assert_eq!(share(&readers, WorkerId(0)), Some(Share { place: 0, of: 3 }));
        assert_eq!(order(&mut supervisor), [None, Some(2), Some(2)]);
        // One that is not, leaves it to the others.
        supervisor.started(WorkerId(0), NOBODY, channel::pair().unwrap().0, now);
        supervisor.reaped(NOBODY, ExitStatus::Exited(CANNOT_START), now).unwrap();
        assert_eq!(supervisor.readers(), [WorkerId(1), WorkerId(2)]);
        assert_eq!(order(&mut supervisor), [None, Some(3), Some(3)]);
        // As does one that is to end.
        supervisor.resize(1, now);
        assert_eq!(supervisor.readers().len(), 1);
        assert_eq!(order(&mut supervisor), [None, Some(6), Some(0)]);
        assert_eq!(share(&supervisor.readers(), WorkerId(2)), None);
    }

    #[test]
    fn surplus_workers_retire_from_the_last_and_leave_no_place() {
        let now = Moment(60 * SECOND);
        let (mut supervisor, ends) = supervisor(4);
        supervisor.resize(2, now);
        let told =
            |end: &WorkerEnd| matches!(end.receive().unwrap(), Some(Order { what: Errand::Retire, .. }));
        assert_eq!(ends.iter().map(told).collect::<Vec<_>>(), [false, false, true, true]);
        assert_eq!((supervisor.places(), supervisor.next_due(now)), (4, None));
        let death = supervisor.reaped(NOBODY - 3, ExitStatus::Exited(0), now).unwrap();
        assert!(death.retired && !death.closed);
        assert_eq!((supervisor.places(), supervisor.next_due(now)), (3, None));
        // However it ends.
        assert!(supervisor.reaped(NOBODY - 2, ExitStatus::Killed(Signal::SIGKILL), now).unwrap().retired);
        assert_eq!(supervisor.places(), 2);
        assert!(supervisor.reaped(NOBODY, ExitStatus::Exited(1), now).is_some_and(|it| !it.retired));
        assert_eq!(supervisor.next_due(now), Some(WorkerId(0)));
    }

    #[test]
    fn new_workers_do_not_wait_for_the_places_of_those_that_retire() {
        let now = Moment(60 * SECOND);
        let (mut supervisor, _ends) = supervisor(3);
        supervisor.resize(1, now);
        supervisor.resize(2, now);
        assert_eq!((supervisor.next_due(now), supervisor.places()), (Some(WorkerId(3)), 4));
        supervisor.started(WorkerId(3), 4711, channel::pair().unwrap().0, now);
        supervisor.reaped(NOBODY - 1, ExitStatus::Exited(0), now);
        assert_eq!(supervisor.next_due(now), None, "there are two");
        supervisor.resize(3, now);
        assert_eq!(supervisor.next_due(now), Some(WorkerId(1)), "its place is free again");
    }

    #[test]
    fn when_all_places_are_taken_new_workers_wait_for_those_that_retire() {
        let now = Moment(60 * SECOND);
        let (mut supervisor, _ends) = supervisor(MAX_WORKERS);
        supervisor.resize(1, now);
        supervisor.resize(2, now);
        assert_eq!((supervisor.next_due(now), supervisor.places()), (None, MAX_WORKERS));
        supervisor.reaped(NOBODY - 9, ExitStatus::Exited(0), now);
        assert_eq!(supervisor.next_due(now), Some(WorkerId(9)));
    }

    #[test]
    fn those_that_cannot_start_go_before_those_that_serve() {
        let now = Moment(60 * SECOND);
        let (mut supervisor, _ends) = supervisor(2);
        supervisor.reaped(NOBODY, ExitStatus::Exited(CANNOT_START), now).unwrap();
        supervisor.resize(1, now);
        assert!(!supervisor.reaped(NOBODY - 1, ExitStatus::Killed(Signal::SIGKILL), now).unwrap().retired);
    }

    #[test]
    fn workers_that_are_not_started_yet_need_not_retire() {
        let mut supervisor = Supervisor::default();
        supervisor.resize(3, Moment(0));
        supervisor.resize(1, Moment(0));
        assert_eq!((supervisor.places(), supervisor.next_due(Moment(0))), (1, Some(WorkerId(0))));
    }
}
