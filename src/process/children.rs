//! The master's children: forked, waited for, mourned.
//!
//! A child leaves the master's loop at once, as a [`Role`] of its own: what it must not keep is closed by dropping
//! the [`Master`] that it inherited. All are forked with signals held back, for until they have handlers of their
//! own they have the master's, which write where the master reads.

use std::os::fd::AsFd;

use crate::model::ids::WorkerId;
use crate::model::time::Moment;
use crate::net::channel::{self, WorkerEnd};
use crate::net::event_loop::Inheritance;
use crate::process::master::{Estate, Master, Role, Stage};
use crate::process::resolver::{self, Clerk, Spawned};
use crate::process::supervisor::{Death, obituary};
use crate::sys::fork::{self, Ending, Forked};
use crate::sys::reason::words;
use crate::sys::signal::{self, Signal};
use crate::sys::{clock, wait};

/// A worker that has just been forked.
pub(super) struct Birth {
    place: WorkerId,
    channel: WorkerEnd,
    parent: i32,
}

impl<'a> Master<'a> {
    /// Starts a worker for every place that is due. In a worker: what it was born with.
    pub(super) fn fill_places(&mut self, now: Moment) -> Option<Birth> {
        while self.is_filling()
            && let Some(place) = self.crew.due(now)
        {
            match self.spawn(place, now) {
                Ok(None) => {}
                Ok(Some(birth)) => return Some(birth),
                Err(error) => {
                    let reason = format!("cannot start worker {place}: {}", words(&error));
                    self.estate.messages.error(format_args!("{reason}; trying again in a second"));
                    self.crew.postpone(place, now);
                    if matches!(self.stage, Stage::Starting { .. }) {
                        self.outcome = Some(Err(reason));
                        return None;
                    }
                }
            }
        }
        None
    }

    fn spawn(&mut self, place: WorkerId, now: Moment) -> std::io::Result<Option<Birth>> {
        let (ours, theirs) = channel::pair()?;
        let parent = fork::own_pid();
        // Until the worker has handlers of its own it has the master's, which write where the master reads.
        signal::block_all()?;
        let forked = fork::fork();
        if let Ok(Forked::Child) = forked {
            return Ok(Some(Birth { place, channel: theirs, parent }));
        }
        signal::unblock_all()?;
        if let Forked::Parent(pid) = forked? {
            self.crew.fill(place, pid, ours, now);
        }
        Ok(None)
    }

    /// In the child: keeps what a worker needs and drops the rest, which closes it.
    pub(super) fn into_worker(self, birth: Birth) -> Role<'a> {
        let Master { estate, signals, crew, .. } = self;
        let Estate { region, settings, listener, log, messages, room, .. } = estate;
        drop((signals, crew));
        let (Ok(()), Some(listener)) = (fork::end_with_parent(birth.parent), listener) else {
            fork::exit_now(0);
        };
        // Here and not in the master: a quick worker would be ready before the master has come to it.
        region.workers().register(birth.place, fork::own_pid(), clock::now());
        let (listener, listen_address) = listener.into_parts();
        Role::Worker(Box::new(Inheritance {
            id: birth.place,
            region,
            settings,
            listener,
            listen_address,
            channel: birth.channel,
            room,
            log,
            messages,
        }))
    }

    /// Starts the process that looks up names if there is none and names are to be looked up.
    pub(super) fn hire_clerk(&mut self) -> Option<Clerk> {
        if self.estate.resolver.is_none() && self.lookups.is_wanted() && self.is_filling() {
            let spawned = signal::block_all().and_then(|()| resolver::spawn());
            if let Ok(Spawned::Child(clerk)) = spawned {
                return Some(clerk);
            }
            let unblocked = signal::unblock_all();
            match spawned.and_then(|spawned| unblocked.map(|()| spawned)) {
                Ok(Spawned::Parent(resolver)) => self.estate.resolver = Some(resolver),
                Ok(Spawned::Child(_)) => {}
                Err(error) => {
                    self.estate.messages.error(format_args!("cannot look up names: {}", words(&error)));
                    self.lookups.give_up();
                }
            }
        }
        if let Some(resolver) = &mut self.estate.resolver
            && resolver.ask(self.lookups.take()).is_err()
        {
            self.lose_resolver();
        }
        None
    }

    pub(super) fn lose_resolver(&mut self) {
        if let Some(resolver) = self.estate.resolver.take() {
            // It may have closed its line without ending.
            let _ = signal::send(resolver.pid(), Signal::SIGKILL);
            self.estate.messages.error(format_args!(
                "the process that looks up names (pid {}) has ended; another is started when there is a need",
                resolver.pid()
            ));
        }
    }

    pub(super) fn reap(&mut self, now: Moment) {
        while let Some((pid, ending)) = fork::reap() {
            if let Some(death) = self.crew.bury(pid, ending, now) {
                let lost = self.estate.region.reclaim(death.place);
                // Whoever waits for a place may find one now, and clients whom the dead one was to accept wait.
                wait::ring(self.estate.room.as_fd());
                self.mourn(&death, lost);
            } else if self.estate.resolver.as_ref().is_some_and(|resolver| resolver.pid() == pid) {
                self.lose_resolver();
            } else {
                // The resolver of before, or a process that was left to this one, as to any process number 1.
                self.estate.messages.debug(1, format_args!("process {pid}, which is no worker, {ending}"));
            }
        }
    }

    fn mourn(&mut self, death: &Death, lost: u32) {
        let messages = &self.estate.messages;
        match self.stage {
            Stage::Starting { .. } => {
                let reason = match &death.failure {
                    Some(reason) => format!("worker {} cannot start: {reason}", death.place),
                    None => format!("worker {} {} while it started", death.place, death.ending),
                };
                self.outcome.get_or_insert(Err(reason));
            }
            Stage::Serving => messages.error(format_args!("{}", obituary(death, lost))),
            Stage::Draining | Stage::Stopping { .. } if death.ending == Ending::Exited(0) => {}
            Stage::Draining | Stage::Stopping { .. } => {
                let Death { place, pid, ending, .. } = death;
                messages.error(format_args!("worker {place} (pid {pid}) {ending} with {lost} connections"));
            }
        }
    }
}
