//! The places of the workers: who fills them, since when, and when an empty one is filled again.
//!
//! | a place is | and becomes |
//! |---|---|
//! | empty, due at a moment | filled, when the master forks a worker for it |
//! | filled | empty and due, when the worker dies: at once, or later if workers keep dying young |
//! | filled | closed, when the worker says that no worker can start |
//!
//! A worker whose heartbeat stops gets SIGABRT (a core file shows where it hangs), then SIGKILL. Decisions and
//! bookkeeping only: the master forks, waits for the dead and tells about them.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::model::ids::WorkerId;
use crate::model::settings::Settings;
use crate::model::time::Moment;
use crate::net::channel::{LogChange, MasterEnd, Report};
use crate::policy::restart::{self, History};
use crate::process::CANNOT_START;
use crate::report::log::Sink;
use crate::sys::fork::Ending;
use crate::sys::signal::{self, Signal};

/// A heartbeat older than this is a stopped one.
pub const SILENCE: Duration = Duration::from_secs(10);

/// How long a worker has for writing its core file before it is killed for good.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A system that could not make a process is asked again after this.
const FORK_AGAIN: Duration = Duration::from_secs(1);

/// All places.
#[derive(Debug, Default)]
pub struct Crew {
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    state: State,
    history: History,
}

#[derive(Debug)]
enum State {
    /// To be filled at this moment.
    Empty(Moment),
    Filled(Box<Hand>),
    /// Not to be filled any more.
    Closed,
}

/// One worker, as its master knows it.
#[derive(Debug)]
struct Hand {
    pid: i32,
    channel: MasterEnd,
    /// Nothing can be read from the channel any more.
    deaf: bool,
    born: Moment,
    ready: bool,
    failure: Option<String>,
    /// Silence counts from here at the earliest.
    patience: Moment,
    /// It has been told to end, and is killed at this moment.
    doomed: Option<Moment>,
    /// The last order did not reach it.
    owed: bool,
}

/// A worker that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Its place.
    pub place: WorkerId,
    /// Its number.
    pub pid: i32,
    /// How it ended.
    pub ending: Ending,
    /// It had said that it accepts connections.
    pub was_ready: bool,
    /// Why it could not start, in its own words.
    pub failure: Option<String>,
    /// The place is closed: no worker will be started there.
    pub closed: bool,
    /// How long the place stays empty.
    pub wait: Duration,
}

/// What the worker table says about a place's heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// The place.
    pub place: WorkerId,
    /// The last one.
    pub heartbeat: Moment,
}

fn later(moment: Moment, length: Duration) -> Moment {
    Moment(moment.0.saturating_add(u64::try_from(length.as_micros()).unwrap_or(u64::MAX)))
}

impl Crew {
    /// Has at least that many places from now on. New ones are due at once.
    pub fn grow(&mut self, places: u32, now: Moment) {
        while self.places.len() < places as usize {
            self.places.push(Place { state: State::Empty(now), history: History::default() });
        }
    }

    /// A place that is to be filled now.
    pub fn due(&self, now: Moment) -> Option<WorkerId> {
        let due = |place: &Place| matches!(place.state, State::Empty(due) if due <= now);
        self.places.iter().position(due).map(worker_id)
    }

    /// The worker `pid` has this place now.
    pub fn fill(&mut self, place: WorkerId, pid: i32, channel: MasterEnd, now: Moment) {
        if let Some(place) = self.places.get_mut(place.0 as usize) {
            place.state = State::Filled(Box::new(Hand {
                pid,
                channel,
                deaf: false,
                born: now,
                ready: false,
                failure: None,
                patience: now,
                doomed: None,
                owed: false,
            }));
        }
    }

    /// No process could be made for this place: it is due again a little later.
    pub fn postpone(&mut self, place: WorkerId, now: Moment) {
        if let Some(place) = self.places.get_mut(place.0 as usize) {
            place.state = State::Empty(later(now, FORK_AGAIN));
        }
    }

    /// The numbers of all workers.
    pub fn pids(&self) -> Vec<i32> {
        self.hands().map(|(_, hand)| hand.pid).collect()
    }

    /// Is there no worker, at this moment?
    pub fn is_empty(&self) -> bool {
        self.hands().next().is_none()
    }

    /// Do all workers that there should be accept connections?
    pub fn all_ready(&self) -> bool {
        self.places.iter().all(|place| matches!(&place.state, State::Filled(hand) if hand.ready))
    }

    /// Will there never be a worker again?
    pub fn all_closed(&self) -> bool {
        self.places.iter().all(|place| matches!(place.state, State::Closed))
    }

    /// The channels on which something may come, for waiting.
    pub fn channels(&self) -> Vec<(WorkerId, BorrowedFd<'_>)> {
        let open = self.hands().filter(|(_, hand)| !hand.deaf);
        open.map(|(place, hand)| (place, hand.channel.as_fd())).collect()
    }

    /// Reads what the worker of this place has to say.
    pub fn hear(&mut self, place: WorkerId) {
        if let Some(hand) = self.hand(place) {
            hand.hear();
        }
    }

    /// The first worker that said that it cannot start, and why.
    pub fn failure(&self) -> Option<(WorkerId, &str)> {
        self.hands().find_map(|(place, hand)| Some((place, hand.failure.as_deref()?)))
    }

    /// The process `pid` is gone. None: it was no worker.
    pub fn bury(&mut self, pid: i32, ending: Ending, now: Moment) -> Option<Death> {
        let mut hands = self.places.iter_mut().enumerate();
        let (number, place, mut hand) = hands.find_map(|(number, place)| match &mut place.state {
            State::Filled(hand) if hand.pid == pid => {
                // What it said last may not have been read yet.
                hand.hear();
                let hand = std::mem::replace(&mut place.state, State::Closed);
                let State::Filled(hand) = hand else {
                    return None;
                };
                Some((number, place, hand))
            }
            _ => None,
        })?;
        let closed = ending == Ending::Exited(CANNOT_START);
        let lifetime = Duration::from_micros(now.micros_since(hand.born));
        let (wait, history) = restart::after_death(place.history, lifetime);
        place.history = history;
        if !closed {
            place.state = State::Empty(later(now, wait));
        }
        let (was_ready, failure) = (hand.ready, hand.failure.take());
        Some(Death { place: worker_id(number), pid, ending, was_ready, failure, closed, wait })
    }

    /// The earliest moment at which something is to be done: a place filled (if places are), a worker killed.
    pub fn next_moment(&self, filling: bool) -> Option<Moment> {
        let moments = self.places.iter().filter_map(|place| match &place.state {
            State::Empty(due) => filling.then_some(*due),
            State::Filled(hand) => hand.doomed,
            State::Closed => None,
        });
        moments.min()
    }

    /// Sends every worker a signal. One that cannot be sent is for a worker that is dead already.
    pub fn signal_all(&self, which: Signal) {
        for (_, hand) in self.hands() {
            let _ = signal::send(hand.pid, which);
        }
    }

    /// Gives every worker new orders. `whole`: everything as it is now, for one that missed the last.
    pub fn order(
        &mut self,
        settings: &Settings,
        log: LogChange<&Sink>,
        listener: Option<BorrowedFd<'_>>,
        whole: (Option<&Sink>, Option<BorrowedFd<'_>>),
    ) {
        for hand in self.places.iter_mut().filter_map(Place::hand) {
            let log = match &log {
                _ if hand.owed => LogChange::Replace(whole.0),
                LogChange::Keep => LogChange::Keep,
                LogChange::Replace(sink) => LogChange::Replace(*sink),
            };
            let listener = if hand.owed { whole.1 } else { listener };
            // A worker that is stuck has not read the earlier ones, one that is dead never will.
            hand.owed = hand.channel.send(settings, log, listener).is_err();
        }
    }

    /// Is there a worker that the last order did not reach?
    pub fn owes_orders(&self) -> bool {
        self.hands().any(|(_, hand)| hand.owed)
    }

    /// Gives those workers everything as it is now.
    pub fn pay(&mut self, settings: &Settings, log: Option<&Sink>, listener: BorrowedFd<'_>) {
        for hand in self.places.iter_mut().filter_map(Place::hand).filter(|hand| hand.owed) {
            hand.owed = hand.channel.send(settings, LogChange::Replace(log), Some(listener)).is_err();
        }
    }

    /// Whoever was silent until now was so for a reason of its own: the master itself slept, say.
    pub fn be_patient(&mut self, now: Moment) {
        for hand in self.places.iter_mut().filter_map(Place::hand) {
            hand.patience = now;
        }
    }

    /// Which workers are stuck, at this moment? They are told to end by SIGABRT, and killed later. A silent worker
    /// that holds the lock explains the silence of the others: then it alone is meant, and they get more time.
    pub fn judge(&mut self, pulses: &[Pulse], lock_holder: Option<WorkerId>, now: Moment) -> Vec<WorkerId> {
        let silent = |hand: &Hand, pulse: &Pulse| {
            let since = pulse.heartbeat.max(hand.patience);
            hand.doomed.is_none() && now.micros_since(since) > SILENCE.as_micros() as u64
        };
        let mut stuck: Vec<WorkerId> = pulses
            .iter()
            .filter(|pulse| self.hand(pulse.place).is_some_and(|hand| silent(hand, pulse)))
            .map(|pulse| pulse.place)
            .collect();
        if let Some(holder) = lock_holder.filter(|holder| stuck.contains(holder)) {
            stuck = vec![holder];
            self.be_patient(now);
        }
        for place in &stuck {
            if let Some(hand) = self.hand(*place) {
                hand.doomed = Some(later(now, LAST_WORDS));
                let _ = signal::send(hand.pid, Signal::SIGABRT);
            }
        }
        stuck
    }

    /// Kills those whose time has come.
    pub fn execute(&mut self, now: Moment) {
        for hand in self.places.iter_mut().filter_map(Place::hand) {
            if hand.doomed.is_some_and(|when| when <= now) {
                // SIGKILL ends a stopped process too. Once is enough.
                hand.doomed = None;
                hand.patience = now;
                let _ = signal::send(hand.pid, Signal::SIGKILL);
            }
        }
    }

    fn hands(&self) -> impl Iterator<Item = (WorkerId, &Hand)> {
        self.places.iter().enumerate().filter_map(|(number, place)| match &place.state {
            State::Filled(hand) => Some((worker_id(number), &**hand)),
            State::Empty(_) | State::Closed => None,
        })
    }

    fn hand(&mut self, place: WorkerId) -> Option<&mut Hand> {
        self.places.get_mut(place.0 as usize)?.hand()
    }
}

impl Place {
    fn hand(&mut self) -> Option<&mut Hand> {
        match &mut self.state {
            State::Filled(hand) => Some(hand),
            State::Empty(_) | State::Closed => None,
        }
    }
}

impl Hand {
    fn hear(&mut self) {
        while !self.deaf {
            match self.channel.receive() {
                Ok(Some(Report::Ready)) => self.ready = true,
                Ok(Some(Report::Failed(reason))) => self.failure = Some(reason),
                Ok(None) => return,
                // It is gone, or sends nonsense: in both cases there is nothing more to learn here.
                Err(_) => self.deaf = true,
            }
        }
    }
}

fn worker_id(number: usize) -> WorkerId {
    WorkerId(u32::try_from(number).unwrap_or(u32::MAX))
}

/// The line that tells of a death.
pub fn obituary(death: &Death, connections: u32) -> String {
    let Death { place, pid, ending, closed, wait, failure, .. } = death;
    let reason = failure.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let ended = match connections {
        0 => String::new(),
        1 => "; its connection has ended".to_string(),
        many => format!("; its {many} connections have ended"),
    };
    let next = match wait.as_millis() {
        _ if *closed => "it is not started again".to_string(),
        0 => "another is started".to_string(),
        millis => format!("another is started in {millis} ms"),
    };
    format!("worker {place} (pid {pid}) {ending}{reason}{ended}; {next}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::channel::{self, WorkerEnd};

    const SECOND: u64 = 1_000_000;
    /// A number that no process has: signals sent to it go nowhere.
    const NOBODY: i32 = 0;

    fn crew(places: u32) -> (Crew, Vec<WorkerEnd>) {
        let mut crew = Crew::default();
        crew.grow(places, Moment(0));
        let mut ends = Vec::new();
        for place in 0..places {
            assert_eq!(crew.due(Moment(0)), Some(WorkerId(place)));
            let (ours, theirs) = channel::pair().unwrap();
            crew.fill(WorkerId(place), NOBODY - place as i32, ours, Moment(0));
            ends.push(theirs);
        }
        assert_eq!(crew.due(Moment(u64::MAX)), None);
        (crew, ends)
    }

    fn pulses(heartbeats: &[u64]) -> Vec<Pulse> {
        let pulse = |(number, beat): (usize, &u64)| Pulse {
            place: worker_id(number),
            heartbeat: Moment(beat * SECOND),
        };
        heartbeats.iter().enumerate().map(pulse).collect()
    }

    #[test]
    fn a_killed_workers_place_is_due_at_once() {
        let (mut crew, _ends) = crew(2);
        let ending = Ending::Killed(Signal::SIGKILL);
        let now = Moment(60 * SECOND);
        assert_eq!(crew.bury(4711, ending, now), None);
        let death = crew.bury(NOBODY - 1, ending, now).unwrap();
        assert_eq!((death.place, death.wait, death.closed), (WorkerId(1), Duration::ZERO, false));
        assert_eq!(crew.due(now), Some(WorkerId(1)));
        assert_eq!(crew.next_moment(true), Some(now));
        assert!(!crew.is_empty() && !crew.all_closed());
    }

    #[test]
    fn workers_that_keep_dying_young_are_held_back() {
        let (mut crew, _ends) = crew(1);
        let mut waits = Vec::new();
        let mut now = Moment(0);
        for _ in 0..4 {
            let death = crew.bury(NOBODY, Ending::Exited(1), now).unwrap();
            waits.push(death.wait);
            let next = later(now, death.wait);
            assert!(death.wait.is_zero() || crew.due(now).is_none());
            assert_eq!(crew.due(next), Some(WorkerId(0)));
            now = next;
            crew.fill(WorkerId(0), NOBODY, channel::pair().unwrap().0, now);
        }
        assert!(waits[0].is_zero() && waits[3] > waits[1], "{waits:?}");
    }

    #[test]
    fn a_worker_that_cannot_start_is_not_tried_again() {
        let (mut crew, ends) = crew(1);
        ends[0].report(&Report::Failed("out of descriptors".to_string())).unwrap();
        let death = crew.bury(NOBODY, Ending::Exited(CANNOT_START), Moment(SECOND)).unwrap();
        assert!(death.closed && crew.all_closed());
        assert_eq!(crew.due(Moment(u64::MAX)), None);
        let line = obituary(&death, 0);
        assert!(line.ends_with("status 71: out of descriptors; it is not started again"), "{line}");
    }

    #[test]
    fn readiness_and_failures_are_heard() {
        let (mut crew, ends) = crew(2);
        assert!(!crew.all_ready());
        for (place, end) in (0..).zip(&ends) {
            end.report(&Report::Ready).unwrap();
            crew.hear(WorkerId(place));
        }
        assert!(crew.all_ready());
        assert_eq!(crew.failure(), None);
        ends[1].report(&Report::Failed("why".to_string())).unwrap();
        crew.hear(WorkerId(1));
        assert_eq!(crew.failure(), Some((WorkerId(1), "why")));
        drop(ends);
        crew.hear(WorkerId(0));
        assert_eq!(crew.channels().len(), 1, "a closed channel would wake the master for ever");
    }

    #[test]
    fn a_silent_worker_is_doomed_once() {
        let (mut crew, _ends) = crew(2);
        let at = |seconds| Moment(seconds * SECOND);
        assert_eq!(crew.judge(&pulses(&[0, 0]), None, at(10)), []);
        assert_eq!(crew.judge(&pulses(&[0, 9]), None, at(11)), [WorkerId(0)]);
        assert_eq!(crew.judge(&pulses(&[0, 9]), None, at(11)), []);
        assert_eq!(crew.next_moment(true), Some(at(12)));
        crew.execute(at(12));
        assert_eq!(crew.next_moment(true), None);
    }

    #[test]
    fn a_silent_lock_holder_explains_the_silence_of_the_others() {
        let (mut crew, _ends) = crew(3);
        let at = |seconds| Moment(seconds * SECOND);
        assert_eq!(crew.judge(&pulses(&[0, 0, 0]), Some(WorkerId(2)), at(11)), [WorkerId(2)]);
        assert_eq!(crew.judge(&pulses(&[0, 0, 0]), None, at(20)), []);
        assert_eq!(crew.judge(&pulses(&[0, 12, 0]), None, at(22)), [WorkerId(0)]);
        // One that holds the lock and lives explains nothing.
        let (mut crew, _ends) = self::crew(2);
        assert_eq!(crew.judge(&pulses(&[0, 11]), Some(WorkerId(1)), at(11)), [WorkerId(0)]);
    }

    #[test]
    fn the_masters_own_sleep_is_nobodys_fault() {
        let (mut crew, _ends) = crew(1);
        crew.be_patient(Moment(100 * SECOND));
        assert_eq!(crew.judge(&pulses(&[0]), None, Moment(101 * SECOND)), []);
        assert_eq!(crew.judge(&pulses(&[0]), None, Moment(111 * SECOND)), [WorkerId(0)]);
    }

    #[test]
    fn an_order_that_did_not_arrive_is_given_again_as_a_whole() {
        let (mut crew, ends) = crew(1);
        let (listener, _other) = crate::sys::message::pair().unwrap();
        let mut settings = Settings::default();
        while !crew.owes_orders() {
            settings.generation += 1;
            crew.order(&settings, LogChange::Keep, None, (None, Some(listener.as_fd())));
        }
        while ends[0].receive().unwrap().is_some() {}
        settings.generation += 1;
        crew.pay(&settings, None, listener.as_fd());
        assert!(!crew.owes_orders());
        let order = ends[0].receive().unwrap().unwrap();
        assert_eq!(order.settings.generation, settings.generation);
        assert!(order.listener.is_some() && matches!(order.log, LogChange::Replace(None)));
    }
}
