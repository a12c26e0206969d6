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

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use crate::model::ids::WorkerId;
use crate::model::settings::{Launch, Settings};
use crate::model::time::{Moment, Seconds};
use crate::net::control::ControlPort;
use crate::net::event_loop::Inheritance;
use crate::policy::acl::AccessLists;
use crate::process::background::StartupNotifier;
use crate::process::changes::{Changes, complete};
use crate::process::control::Confirmation;
use crate::process::descriptors::Descriptors;
use crate::process::listeners::Listeners;
use crate::process::listening::StreamListener;
use crate::process::lookups::Lookups;
use crate::process::names::{Answer, Question, ResolvedNames};
use crate::process::pidfile::PidFile;
use crate::process::resolver::{Resolver, ResolverProcess};
use crate::process::signals::STOP_TIME;
use crate::process::supervisor::{HEARTBEAT_TIMEOUT, Heartbeat, Supervisor};
use crate::process::tls::Tls;
use crate::report::log::Sink;
use crate::report::messages::Messages;
use crate::shared::region::Region;
use crate::sys::clock;
use crate::sys::fork;
use crate::sys::geoip::Database;
use crate::sys::reason::words;
use crate::sys::signal::{self, Signal, Signals};
use crate::sys::wait::{self, Interest};

/// The signals that a master handles.
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
const HEARTBEAT_CHECK: Seconds = Seconds(1);

/// A master that has not looked for this long was stopped itself.
const OWN_PAUSE: Seconds = Seconds(5);

/// What the start has prepared, and the reloads since have changed.
#[derive(Debug)]
pub struct MasterState<'a> {
    /// The shared region, with the servers in it.
    pub region: &'a Region,
    /// What never changes.
    pub launch: Launch,
    /// The settings in force.
    pub settings: Settings,
    /// What names mean.
    pub names: ResolvedNames,
    /// Their access lists, compiled.
    pub lists: AccessLists,
    /// Which country an address belongs to.
    pub countries: Option<Database>,
    /// What TLS needs.
    pub tls: Tls,
    /// What clients come to. None while draining.
    pub listeners: Option<Listeners>,
    /// `-C`; the master takes it.
    pub control: Option<StreamListener>,
    /// The request log.
    pub log: Option<Sink>,
    /// Where messages go.
    pub messages: Messages,
    /// The bell that all workers share: rung when a connection slot or a place on a server is free.
    pub room: OwnedFd,
    /// Looks up names, if there is a need.
    pub resolver: Option<Resolver>,
    /// Held for life.
    pub pidfile: Option<PidFile>,
    /// Tells whoever started pen how that went; none once it has been told.
    pub notifier: Option<StartupNotifier>,
    /// How many each process may have.
    pub descriptors: Descriptors,
    /// How many workers.
    pub workers: u32,
}

impl MasterState<'_> {
    /// The country of an address, if there is a database that knows.
    pub(super) fn country(&self, address: IpAddr) -> Option<[u8; 2]> {
        self.countries.as_ref()?.country(address)
    }
}

/// The master, at work.
#[derive(Debug)]
pub struct Master<'a> {
    pub(super) state: MasterState<'a>,
    pub(super) supervisor: Supervisor,
    pub(super) stage: Stage,
    pub(super) lookups: Lookups,
    pub(super) changes: Changes,
    pub(super) control: Option<ControlPort<StreamListener>>,
    /// The order by which the settings in force were given to the workers.
    pub(super) settings_order: u64,
    /// Answers that wait for the workers.
    pub(super) confirmations: Vec<Confirmation>,
    pub(super) signals: Signals,
    /// While draining: the sockets for datagrams, which nobody new is served at.
    pub(super) kept: Listeners,
    /// HUP came while pen was starting.
    pub(super) hangup_pending: bool,
    checked: Moment,
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
    /// The resolver process, at its beginning.
    ResolverProcess(ResolverProcess),
}

impl<'a> Master<'a> {
    /// Takes over. `signals` must handle [`SIGNALS`].
    pub fn new(mut state: MasterState<'a>, signals: Signals) -> Self {
        let now = clock::now();
        let mut supervisor = Supervisor::default();
        supervisor.resize(state.workers, now);
        let lookups = Lookups::new(&state, now);
        let control = state.control.take().map(ControlPort::new);
        let stage = Stage::Starting { until: now.plus(START_TIME) };
        Master {
            state,
            supervisor,
            stage,
            lookups,
            changes: Changes::default(),
            control,
            settings_order: 0,
            confirmations: Vec::new(),
            signals,
            kept: Listeners::default(),
            hangup_pending: false,
            checked: now,
            outcome: None,
        }
    }

    /// Runs until the end; or, in a child, until its beginning.
    pub fn run(mut self) -> Role<'a> {
        loop {
            let now = clock::now();
            if let Some(forked) = self.start_due_workers(now) {
                return self.into_worker(forked);
            }
            self.advance(now);
            if let Some(result) = self.verdict() {
                return Role::Ended(self.finish(result));
            }
            // After that: it asks for the names that have just been found to be needed.
            if let Some(process) = self.start_resolver() {
                return Role::ResolverProcess(process);
            }
            self.wait(now);
        }
    }

    pub(super) fn keeps_workers(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. } | Stage::Serving)
    }

    /// Does what is due.
    fn advance(&mut self, now: Moment) {
        self.supervisor.kill_overdue(now);
        match self.stage {
            Stage::Starting { until } => self.advance_start(until, now),
            Stage::Stopping { until } if until <= now => {
                self.supervisor.signal_all(Signal::SIGKILL);
                self.stage = Stage::Stopping { until: now.plus(STOP_TIME) };
            }
            Stage::Serving if self.hangup_pending => {
                self.hangup_pending = false;
                self.on_hangup();
            }
            Stage::Serving | Stage::Draining | Stage::Stopping { .. } => {}
        }
        if now.micros_since(self.checked) >= HEARTBEAT_CHECK.micros() {
            self.check_heartbeats(now);
        }
        if self.stage == Stage::Serving {
            self.advance_lookups(now);
            self.advance_tls(now);
            self.advance_changes(now);
        }
        // Last: what was asked for just now may be so already.
        self.confirm(now);
    }

    fn advance_start(&mut self, until: Moment, now: Moment) {
        if let Some((worker, reason)) = self.supervisor.failure() {
            let reason = format!("worker {worker} cannot start: {reason}");
            self.outcome.get_or_insert(Err(reason));
        } else if self.supervisor.all_ready() {
            self.stage = Stage::Serving;
            let ready = self.state.notifier.take().map_or(Ok(()), StartupNotifier::ready);
            if ready.is_err() {
                // Whoever started pen has been interrupted: a pen that nobody knows of must not stay.
                self.outcome = Some(Err("the start was given up".to_string()));
            }
        } else if until <= now {
            let reason = format!("the workers do not accept connections {START_TIME} s after their start");
            self.outcome.get_or_insert(Err(reason));
        }
    }

    /// Looks at the heartbeats.
    fn check_heartbeats(&mut self, now: Moment) {
        if now.micros_since(self.checked) > OWN_PAUSE.micros() {
            self.supervisor.restart_silence(now);
        }
        self.checked = now;
        let table = self.state.region.workers();
        let heartbeats: Vec<_> = (0..table.count())
            .map(|number| table.view(WorkerId(number)))
            .map(|view| Heartbeat { worker: view.id, at: view.heartbeat })
            .collect();
        for worker in self.supervisor.find_stuck(&heartbeats, table.lock_holder(), now) {
            self.state.messages.error(format_args!(
                "worker {worker} has not moved for {} s; it is killed",
                HEARTBEAT_TIMEOUT.as_secs()
            ));
        }
        self.resend_orders();
    }

    fn resend_orders(&mut self) {
        if self.supervisor.has_unsent_orders() {
            // While draining there are no listeners, but the log may have been opened anew.
            self.supervisor.resend_orders(&self.state.settings, complete(&self.state));
        }
    }

    /// Waits for a signal, a message from a child, or the next moment at which something is due.
    fn wait(&mut self, now: Moment) {
        let mut until = self.checked.plus(HEARTBEAT_CHECK);
        until = until.min(self.supervisor.next_deadline(self.keeps_workers()).unwrap_or(until));
        if let Stage::Starting { until: end } | Stage::Stopping { until: end } = self.stage {
            until = until.min(end);
        }
        if let Some(moment) = self.changes.next_try(now).filter(|_| self.stage == Stage::Serving) {
            until = until.min(moment);
        }
        if let Some(deadline) = self.state.tls.next_deadline(&self.state.settings)
            && self.stage == Stage::Serving
        {
            until = until.min(deadline);
        }
        if let Some(deadline) = self.control.as_ref().and_then(ControlPort::next_deadline) {
            until = until.min(deadline);
        }
        let mut descriptors = vec![(self.signals.as_fd(), Interest::READ)];
        let mut workers = Vec::new();
        for (worker, channel) in self.supervisor.channels() {
            descriptors.push((channel, Interest::READ));
            workers.push(worker);
        }
        let resolver = self.state.resolver.as_ref().map(|resolver| (resolver.as_fd(), Interest::READ));
        let resolver_at = resolver.map(|resolver| {
            descriptors.push(resolver);
            descriptors.len() - 1
        });
        let control_from = descriptors.len();
        descriptors.extend(self.control_descriptors());
        let at_most = Duration::from_micros(until.micros_since(now));
        let ready = match wait::until_ready(&descriptors, at_most) {
            Ok(ready) => ready,
            Err(error) => {
                self.state.messages.error(format_args!("cannot wait: {}", words(&error)));
                std::thread::sleep(Duration::from_millis(100));
                return;
            }
        };
        let now = clock::now();
        for (worker, _) in workers.iter().zip(&ready[1..]).filter(|&(_, &ready)| ready) {
            self.supervisor.read_reports(*worker);
            self.resend_orders();
        }
        if resolver_at.is_some_and(|at| ready[at]) {
            self.read_answers();
        }
        let overdue = |control: &ControlPort<StreamListener>| {
            control.next_deadline().is_some_and(|deadline| deadline <= now)
        };
        if ready[control_from..].contains(&true) || self.control.as_ref().is_some_and(overdue) {
            self.serve_control(now);
        }
        if ready[0] {
            for (signal, count) in self.signals.take() {
                self.on_signal(signal, count, now);
            }
        }
    }

    fn read_answers(&mut self) {
        while let Some(resolver) = &mut self.state.resolver {
            match resolver.receive() {
                Ok(Some((question, answer))) => self.learn(question, answer),
                Ok(None) => return,
                Err(_) => self.resolver_lost(),
            }
        }
    }

    fn learn(&mut self, question: Question, answer: Answer) {
        let knew = self.state.names.knows(&question);
        self.state.names.learn(question.clone(), answer);
        if !knew && self.state.names.knows(&question) {
            self.lookups.found(question);
        }
    }

    fn verdict(&mut self) -> Option<Result<(), String>> {
        if let Some(outcome) = self.outcome.take() {
            return Some(outcome);
        }
        match self.stage {
            Stage::Draining | Stage::Stopping { .. } => self.supervisor.is_empty().then_some(Ok(())),
            Stage::Serving if self.supervisor.all_disabled() => {
                Some(Err("no worker can start; pen ends".to_string()))
            }
            Stage::Serving | Stage::Starting { .. } => None,
        }
    }

    /// Leaves nothing behind, and tells whoever still waits.
    fn finish(self, result: Result<(), String>) -> ExitCode {
        let Master { state, supervisor, control, .. } = self;
        let MasterState { listeners, pidfile, notifier, messages, resolver, settings, tls, .. } = state;
        tls.tickets.wipe();
        supervisor.signal_all(Signal::SIGKILL);
        let resolver = resolver.map(|resolver| resolver.pid());
        if let Some(pid) = resolver {
            let _ = signal::send(pid, Signal::SIGKILL);
        }
        for pid in supervisor.pids().into_iter().chain(resolver) {
            fork::wait(pid);
        }
        drop((listeners, control.map(ControlPort::end), pidfile));
        match (result, notifier) {
            (Ok(()), None) => ExitCode::SUCCESS,
            (Ok(()), Some(notifier)) => {
                notifier.failed("pen was told to end while it started", &messages);
                ExitCode::SUCCESS
            }
            (Err(reason), Some(notifier)) => {
                notifier.failed(&reason, &messages);
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
