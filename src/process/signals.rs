//! What signals ask of the master: see pen(1), SIGNALS.

use std::os::fd::AsFd;

use crate::model::settings::LogDestination;
use crate::model::time::{Moment, Seconds};
use crate::net::channel::LogChange;
use crate::process::master::{Master, MasterState, Stage};
use crate::report::{log, status};
use crate::shared::region::Phase;
use crate::sys::reason::words;
use crate::sys::signal::Signal;
use crate::sys::{clock, fork};

/// Workers that have not ended this long after TERM are killed.
pub(super) const STOP_TIME: Seconds = Seconds(2);

impl Master<'_> {
    pub(super) fn on_signal(&mut self, signal: Signal, count: u32, now: Moment) {
        match signal {
            Signal::SIGCHLD => self.reap(now),
            Signal::SIGHUP if matches!(self.stage, Stage::Starting { .. }) => self.hangup_pending = true,
            Signal::SIGHUP => self.on_hangup(now),
            Signal::SIGUSR1 => self.report_statistics(now),
            Signal::SIGTERM | Signal::SIGINT => self.stop(now),
            Signal::SIGQUIT if self.stage == Stage::Serving && count == 1 => self.drain(),
            Signal::SIGQUIT => self.stop(now),
            Signal::SIGUSR2 => self.abort(),
            _ => {}
        }
    }

    /// TERM, INT: everything ends now.
    fn stop(&mut self, now: Moment) {
        if !matches!(self.stage, Stage::Stopping { .. }) {
            self.stage = Stage::Stopping { until: now.plus(STOP_TIME) };
            self.state.region.set_phase(Phase::Stopping);
            self.supervisor.signal_all(Signal::SIGTERM);
        }
    }

    /// QUIT: nobody new, the others run to their end.
    fn drain(&mut self) {
        self.stage = Stage::Draining;
        self.reload = None;
        self.state.region.set_phase(Phase::Draining);
        // As long as one process has the listener, clients are queued on it.
        self.state.listener = None;
        self.supervisor.signal_all(Signal::SIGQUIT);
        self.state.messages.note(format_args!("no new connections; pen ends with the last one that is open"));
    }

    /// USR2: a core file for whoever looks for a fault. The workers end with their master.
    fn abort(&mut self) -> ! {
        self.state.messages.error(format_args!("aborting, as USR2 asks for"));
        self.state.pidfile = None;
        self.state.listener = None;
        fork::abort_with_core();
    }

    /// HUP: log files are opened anew, the configuration file is read again.
    pub(super) fn on_hangup(&mut self, now: Moment) {
        if matches!(self.stage, Stage::Stopping { .. }) {
            return;
        }
        self.reopen_log();
        if self.stage == Stage::Serving {
            self.begin_reload(now);
        }
    }

    fn reopen_log(&mut self) {
        let Some(destination @ LogDestination::File(_)) = &self.state.settings.log else {
            return;
        };
        match log::open(destination) {
            Ok(sink) => {
                self.state.log = Some(sink);
                self.send_settings(true, false);
            }
            Err(error) => self.state.messages.error(format_args!("{error}; the old one is kept")),
        }
    }

    /// Gives the workers the settings in force, and what belongs to them.
    pub(super) fn send_settings(&mut self, new_log: bool, new_listener: bool) {
        let log = self.state.log.as_ref();
        let listener = self.state.listener.as_ref().map(AsFd::as_fd);
        let change = if new_log { LogChange::Replace(log) } else { LogChange::Keep };
        let new_listener = listener.filter(|_| new_listener);
        self.supervisor.send_settings(&self.state.settings, change, new_listener, (log, listener));
    }

    fn report_statistics(&mut self, now: Moment) {
        let MasterState { region, settings, messages, .. } = &self.state;
        match &settings.web_stats {
            Some(path) => {
                let page = status::html(region, settings, now, clock::wall());
                if let Err(error) = status::write_page(path, &page) {
                    messages.error(format_args!(
                        "cannot write the status page {}: {}",
                        path.display(),
                        words(&error)
                    ));
                }
            }
            None => {
                for block in status::text(region, settings, now, clock::wall()) {
                    messages.block(&block);
                }
            }
        }
        self.supervisor.signal_all(Signal::SIGUSR1);
    }
}
