//! The master's children: forking, reaping and reporting.
//!
//! A child leaves the master's loop at once, as a [`Role`] of its own: what it must not keep is closed by dropping
//! the [`Master`] that it inherited. All are forked with signals held back, for until they have handlers of their
//! own they have the master's, which write where the master reads.

use std::os::fd::AsFd;

use crate::model::ids::WorkerId;
use crate::model::time::Moment;
use crate::net::channel::{self, WorkerEnd};
use crate::net::event_loop::Inheritance;
use crate::process::changes::News;
use crate::process::listeners::Listeners;
use crate::process::master::{Master, MasterState, Role, Stage};
use crate::process::resolver::{self, ResolverProcess, Spawned};
use crate::process::supervisor::{Death, death_message, share};
use crate::sys::fork::{self, ExitStatus, Forked};
use crate::sys::reason::words;
use crate::sys::signal::{self, Signal};
use crate::sys::{clock, wait};

/// A worker that has just been forked.
pub(super) struct ForkedWorker {
    id: WorkerId,
    channel: WorkerEnd,
    parent: i32,
}

impl<'a> Master<'a> {
    /// Starts every worker that is due. In such a worker: what it is to become.
    pub(super) fn start_due_workers(&mut self, now: Moment) -> Option<ForkedWorker> {
        while self.keeps_workers()
            && let Some(id) = self.supervisor.next_due(now)
        {
            match self.fork_worker(id, now) {
                Ok(None) => {}
                Ok(Some(forked)) => return Some(forked),
                Err(error) => {
                    let reason = format!("cannot start worker {id}: {}", words(&error));
                    self.state.messages.error(format_args!("{reason}; trying again in a second"));
                    self.supervisor.retry_later(id, now);
                    if matches!(self.stage, Stage::Starting { .. }) {
                        self.outcome = Some(Err(reason));
                        return None;
                    }
                }
            }
        }
        None
    }

    fn fork_worker(&mut self, id: WorkerId, now: Moment) -> std::io::Result<Option<ForkedWorker>> {
        let (ours, theirs) = channel::pair()?;
        let parent = fork::own_pid();
        // Until the worker has handlers of its own it has the master's, which write where the master reads.
        signal::block_all()?;
        let forked = fork::fork();
        if let Ok(Forked::Child) = forked {
            return Ok(Some(ForkedWorker { id, channel: theirs, parent }));
        }
        signal::unblock_all()?;
        if let Forked::Parent(pid) = forked? {
            self.supervisor.started(id, pid, ours, now);
        }
        Ok(None)
    }

    /// In the child: keeps what a worker needs and drops the rest, which closes it.
    pub(super) fn into_worker(self, forked: ForkedWorker) -> Role<'a> {
        let Master { state, signals, supervisor, .. } = self;
        let MasterState { region, settings, listeners, log, messages, room, countries, tls, .. } = state;
        let share = share(&supervisor.readers(), forked.id);
        drop((signals, supervisor));
        let (Ok(()), Some(listeners)) = (fork::end_with_parent(forked.parent), listeners) else {
            fork::exit_now(0);
        };
        // Here and not in the master: a quick worker would be ready before the master has come to it.
        region.workers().register(forked.id, fork::own_pid(), clock::now());
        Role::Worker(Box::new(Inheritance {
            id: forked.id,
            region,
            settings,
            listeners: listeners.into_share(share),
            channel: forked.channel,
            room,
            log,
            messages,
            countries,
            tls: tls.loaded.contexts,
            tickets: tls.tickets,
        }))
    }

    /// Starts the resolver process if there is none and names are to be looked up; sends it the questions.
    pub(super) fn start_resolver(&mut self) -> Option<ResolverProcess> {
        if self.state.resolver.is_none() && self.lookups.is_wanted() && self.keeps_workers() {
            let spawned = signal::block_all().and_then(|()| resolver::spawn());
            if let Ok(Spawned::Child(process)) = spawned {
                return Some(process);
            }
            let unblocked = signal::unblock_all();
            match spawned.and_then(|spawned| unblocked.map(|()| spawned)) {
                Ok(Spawned::Parent(resolver)) => self.state.resolver = Some(resolver),
                Ok(Spawned::Child(_)) => {}
                Err(error) => {
                    self.state.messages.error(format_args!("cannot look up names: {}", words(&error)));
                    self.lookups.give_up();
                }
            }
        }
        if let Some(resolver) = &mut self.state.resolver
            && resolver.ask(self.lookups.take()).is_err()
        {
            self.resolver_lost();
        }
        None
    }

    pub(super) fn resolver_lost(&mut self) {
        if let Some(resolver) = self.state.resolver.take() {
            // It may have closed its channel without ending.
            let _ = signal::send(resolver.pid(), Signal::SIGKILL);
            self.state.messages.error(format_args!(
                "the process that looks up names (pid {}) has ended; another is started when there is a need",
                resolver.pid()
            ));
        }
    }

    pub(super) fn reap(&mut self, now: Moment) {
        let readers = self.supervisor.readers();
        while let Some((pid, status)) = fork::reap() {
            if let Some(death) = self.supervisor.reaped(pid, status, now) {
                self.log_left_behind(death.worker, now);
                let lost = self.state.region.reclaim(death.worker);
                self.state.region.workers().set_count(self.supervisor.places());
                // Slots and places on servers are free now, and clients that the dead one was to accept still wait.
                wait::ring(self.state.room.as_fd());
                self.report_death(&death, lost);
            } else if self.state.resolver.as_ref().is_some_and(|resolver| resolver.pid() == pid) {
                self.resolver_lost();
            } else {
                // The resolver of before, or a process that was left to this one, as to any process number 1.
                self.state.messages.debug(1, format_args!("process {pid}, which is no worker, {status}"));
            }
        }
        // One that is not replaced leaves sockets that somebody else is to read now; one that is takes them over.
        if self.supervisor.readers() != readers
            && self.state.listeners.as_ref().is_some_and(Listeners::has_groups)
            && self.keeps_workers()
        {
            self.send_settings(News { listeners: true, ..News::default() });
        }
    }

    fn report_death(&mut self, death: &Death, lost: u32) {
        let messages = &self.state.messages;
        match self.stage {
            Stage::Starting { .. } => {
                let reason = match &death.failure {
                    Some(reason) => format!("worker {} cannot start: {reason}", death.worker),
                    None => format!("worker {} {} while it started", death.worker, death.status),
                };
                self.outcome.get_or_insert(Err(reason));
            }
            Stage::Serving if death.retired && death.status == ExitStatus::Exited(0) => {
                messages.note(format_args!(
                    "worker {} (pid {}) has ended with its last connection",
                    death.worker, death.pid
                ))
            }
            Stage::Serving => messages.error(format_args!("{}", death_message(death, lost))),
            Stage::Draining | Stage::Stopping { .. } if death.status == ExitStatus::Exited(0) => {}
            Stage::Draining | Stage::Stopping { .. } => {
                let Death { worker, pid, status, .. } = death;
                messages.error(format_args!("worker {worker} (pid {pid}) {status} with {lost} connections"));
            }
        }
    }
}
