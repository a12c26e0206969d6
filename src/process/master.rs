//! The master: reaps, restarts, reclaims, reloads, passes on signals; never touches a client's bytes.
//!
//! | stage | workers that die | ends, or becomes |
//! |---|---|---|
//! | starting | end the start | serving, when all workers accept |
//! | serving | are replaced | draining at QUIT, stopping at TERM and INT |
//! | draining | are not replaced | the end, with the last worker; stopping at a second QUIT, TERM, INT |
//! | stopping | are not replaced | the end, with the last worker; the rest is killed after 2 s |
//!
//! One loop, one wait, no system call in it that a worker, a client or a name server could make long. A child of a
//! fork leaves the loop at once: what it must not keep is closed by dropping the [`Master`] that it inherited.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use crate::model::ids::WorkerId;
use crate::model::settings::{Launch, Settings};
use crate::model::time::{Moment, Seconds};
use crate::net::event_loop::Inheritance;
use crate::process::background::Promise;
use crate::process::listening::Listener;
use crate::process::names::{Answer, Directory, Question};
use crate::process::orders::STOP_TIME;
use crate::process::pidfile::PidFile;
use crate::process::reload::{Lookups, Reload};
use crate::process::resolver::{Clerk, Resolver};
use crate::process::supervisor::{Crew, Pulse, SILENCE};
use crate::report::log::Sink;
use crate::report::messages::Messages;
use crate::shared::region::Region;
use crate::sys::fork;
use crate::sys::reason::words;
use crate::sys::signal::{self, Signal, Signals};
use crate::sys::{clock, wait};

/// The signals that a master hears.
pub const SIGNALS: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCHLD,
];

/// Workers that do not accept after this long never will.
const START_TIME: Seconds = Seconds(10);

/// How often the master looks at the heartbeats.
const WATCH: Seconds = Seconds(1);

/// A master that has not looked for this long was stopped itself.
const OWN_SLEEP: Seconds = Seconds(5);

/// All that the start has prepared.
#[derive(Debug)]
pub struct Estate<'a> {
    /// The shared region, with the servers in it.
    pub region: &'a Region,
    /// What never changes.
    pub launch: Launch,
    /// The settings in force.
    pub settings: Settings,
    /// What names mean.
    pub directory: Directory,
    /// None while draining.
    pub listener: Option<Listener>,
    /// The request log.
    pub log: Option<Sink>,
    /// Where messages go.
    pub messages: Messages,
    /// Rung when a place is free: all workers hear it.
    pub room: OwnedFd,
    /// Looks up names, if there is a need.
    pub resolver: Option<Resolver>,
    /// Held for life.
    pub pidfile: Option<PidFile>,
    /// Given to whoever started pen, until it is kept.
    pub promise: Option<Promise>,
    /// RLIMIT_NOFILE.
    pub descriptor_limit: u64,
    /// How many workers.
    pub workers: u32,
}

/// The master, at work.
#[derive(Debug)]
pub struct Master<'a> {
    pub(super) estate: Estate<'a>,
    pub(super) crew: Crew,
    pub(super) stage: Stage,
    pub(super) lookups: Lookups,
    pub(super) reload: Option<Reload>,
    pub(super) signals: Signals,
    /// HUP came while pen was starting.
    pub(super) hang_up: bool,
    watched: Moment,
    pub(super) outcome: Option<Result<(), String>>,
}

/// See the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Starting { until: Moment },
    Serving,
    Draining,
    Stopping { until: Moment },
}

/// What this process turned out to be.
#[derive(Debug)]
pub enum Role<'a> {
    /// The master, at its end. Whoever waited has been told.
    Ended(ExitCode),
    /// A worker, at its beginning.
    Worker(Box<Inheritance<'a>>),
    /// The process that looks up names, at its beginning.
    Clerk(Clerk),
}

impl<'a> Master<'a> {
    /// Takes over. `signals` must hear [`SIGNALS`].
    pub fn new(estate: Estate<'a>, signals: Signals) -> Self {
        let now = clock::now();
        let mut crew = Crew::default();
        crew.grow(estate.workers, now);
        let lookups = Lookups::new(&estate, now);
        let stage = Stage::Starting { until: now.plus(START_TIME) };
        Master {
            estate,
            crew,
            stage,
            lookups,
            reload: None,
            signals,
            hang_up: false,
            watched: now,
            outcome: None,
        }
    }

    /// Runs until the end; or, in a child, until its beginning.
    pub fn run(mut self) -> Role<'a> {
        loop {
            let now = clock::now();
            if let Some(birth) = self.fill_places(now) {
                return self.into_worker(birth);
            }
            if let Some(clerk) = self.hire_clerk() {
                return Role::Clerk(clerk);
            }
            self.advance(now);
            if let Some(result) = self.verdict() {
                return Role::Ended(self.finish(result));
            }
            self.wait(now);
        }
    }

    pub(super) fn is_filling(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. } | Stage::Serving)
    }

    /// Does what is due.
    fn advance(&mut self, now: Moment) {
        self.crew.execute(now);
        match self.stage {
            Stage::Starting { until } => self.advance_start(until, now),
            Stage::Stopping { until } if until <= now => {
                self.crew.signal_all(Signal::SIGKILL);
                self.stage = Stage::Stopping { until: now.plus(STOP_TIME) };
            }
            Stage::Serving if self.hang_up => {
                self.hang_up = false;
                self.hung_up(now);
            }
            Stage::Serving | Stage::Draining | Stage::Stopping { .. } => {}
        }
        if now.micros_since(self.watched) >= WATCH.micros() {
            self.watch(now);
        }
        if self.stage == Stage::Serving {
            self.advance_lookups(now);
            self.advance_reload(now);
        }
    }

    fn advance_start(&mut self, until: Moment, now: Moment) {
        if let Some((place, reason)) = self.crew.failure() {
            let reason = format!("worker {place} cannot start: {reason}");
            self.outcome.get_or_insert(Err(reason));
        } else if self.crew.all_ready() {
            self.stage = Stage::Serving;
            let kept = self.estate.promise.take().map_or(Ok(()), Promise::kept);
            if kept.is_err() {
                // Whoever started pen has been interrupted: a pen that nobody knows of must not stay.
                self.outcome = Some(Err("the start was given up".to_string()));
            }
        } else if until <= now {
            let reason = format!("the workers do not accept connections {START_TIME} s after their start");
            self.outcome.get_or_insert(Err(reason));
        }
    }

    /// Looks at the heartbeats.
    fn watch(&mut self, now: Moment) {
        if now.micros_since(self.watched) > OWN_SLEEP.micros() {
            self.crew.be_patient(now);
        }
        self.watched = now;
        let table = self.estate.region.workers();
        let pulses: Vec<_> = (0..table.count())
            .map(|number| table.view(WorkerId(number)))
            .map(|view| Pulse { place: view.id, heartbeat: view.heartbeat })
            .collect();
        for place in self.crew.judge(&pulses, table.lock_holder(), now) {
            self.estate.messages.error(format_args!(
                "worker {place} has not moved for {} s; it is killed",
                SILENCE.as_secs()
            ));
        }
        if self.crew.owes_orders()
            && let Some(listener) = &self.estate.listener
        {
            self.crew.pay(&self.estate.settings, self.estate.log.as_ref(), listener.as_fd());
        }
    }

    /// Waits for a signal, a word from somebody, or the next moment at which something is due.
    fn wait(&mut self, now: Moment) {
        let mut until = self.watched.plus(WATCH);
        until = until.min(self.crew.next_moment(self.is_filling()).unwrap_or(until));
        if let Stage::Starting { until: end } | Stage::Stopping { until: end } = self.stage {
            until = until.min(end);
        }
        let mut descriptors = vec![self.signals.as_fd()];
        let mut places = Vec::new();
        for (place, channel) in self.crew.channels() {
            descriptors.push(channel);
            places.push(place);
        }
        descriptors.extend(self.estate.resolver.as_ref().map(AsFd::as_fd));
        let at_most = Duration::from_micros(until.micros_since(now));
        let readable = match wait::until_readable(&descriptors, at_most) {
            Ok(readable) => readable,
            Err(error) => {
                self.estate.messages.error(format_args!("cannot wait: {}", words(&error)));
                std::thread::sleep(Duration::from_millis(100));
                return;
            }
        };
        let now = clock::now();
        for (place, _) in places.iter().zip(&readable[1..]).filter(|&(_, &readable)| readable) {
            self.crew.hear(*place);
        }
        if readable.len() > places.len() + 1 && readable[places.len() + 1] {
            self.hear_resolver();
        }
        if readable[0] {
            for (signal, count) in self.signals.take() {
                self.obey(signal, count, now);
            }
        }
    }

    fn hear_resolver(&mut self) {
        while let Some(resolver) = &mut self.estate.resolver {
            match resolver.receive() {
                Ok(Some((question, answer))) => self.learn(question, answer),
                Ok(None) => return,
                Err(_) => self.lose_resolver(),
            }
        }
    }

    fn learn(&mut self, question: Question, answer: Answer) {
        let knew = self.estate.directory.knows(&question);
        self.estate.directory.learn(question.clone(), answer);
        if !knew && self.estate.directory.knows(&question) {
            self.lookups.found(question);
        }
    }

    fn verdict(&mut self) -> Option<Result<(), String>> {
        if let Some(outcome) = self.outcome.take() {
            return Some(outcome);
        }
        match self.stage {
            Stage::Draining | Stage::Stopping { .. } => self.crew.is_empty().then_some(Ok(())),
            Stage::Serving if self.crew.all_closed() => {
                Some(Err("no worker can start; pen ends".to_string()))
            }
            Stage::Serving | Stage::Starting { .. } => None,
        }
    }

    /// Leaves nothing behind, and tells whoever still waits.
    fn finish(self, result: Result<(), String>) -> ExitCode {
        let Master { estate, crew, .. } = self;
        let Estate { listener, pidfile, promise, messages, resolver, settings, .. } = estate;
        crew.signal_all(Signal::SIGKILL);
        let resolver = resolver.map(|resolver| resolver.pid());
        if let Some(pid) = resolver {
            let _ = signal::send(pid, Signal::SIGKILL);
        }
        for pid in crew.pids().into_iter().chain(resolver) {
            fork::wait(pid);
        }
        drop((listener, pidfile));
        match (result, promise) {
            (Ok(()), None) => ExitCode::SUCCESS,
            (Ok(()), Some(promise)) => {
                promise.failed("pen was told to end while it started", &messages);
                ExitCode::SUCCESS
            }
            (Err(reason), Some(promise)) => {
                promise.failed(&reason, &messages);
                if settings.abort_on_error {
                    std::process::abort();
                }
                ExitCode::FAILURE
            }
            (Err(reason), None) => {
                messages.error(format_args!("{reason}"));
                ExitCode::FAILURE
            }
        }
    }
}
