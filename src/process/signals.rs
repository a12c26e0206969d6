//! What signals ask of the master: see pen(1), SIGNALS.

use crate::model::reply;
use crate::model::settings::LogDestination;
use crate::model::time::{Moment, Seconds};
use crate::process::changes::News;
use crate::process::master::{Master, MasterState, Stage};
use crate::report::log::{self, LogError};
use crate::report::status;
use crate::shared::region::Phase;
use crate::sys::signal::Signal;
use crate::sys::{clock, fork};

/// Workers that have not ended this long after TERM are killed.
pub(super) const STOP_TIME: Seconds = Seconds(2);

impl Master<'_> {
    pub(super) fn on_signal(&mut self, signal: Signal, count: u32, now: Moment) {
        match signal {
            Signal::SIGCHLD => self.reap(now),
            Signal::SIGHUP if matches!(self.stage, Stage::Starting { .. }) => self.hangup_pending = true,
            Signal::SIGHUP => self.on_hangup(),
            Signal::SIGUSR1 => self.report_statistics(now),
            Signal::SIGTERM | Signal::SIGINT => self.stop(now),
            Signal::SIGQUIT if self.stage == Stage::Serving && count == 1 => self.drain(now),
            Signal::SIGQUIT => self.stop(now),
            Signal::SIGUSR2 => self.abort(),
            _ => {}
        }
    }

    /// TERM, INT, the command `exit`: everything ends now.
    pub(super) fn stop(&mut self, now: Moment) {
        if !matches!(self.stage, Stage::Stopping { .. }) {
            self.stage = Stage::Stopping { until: now.plus(STOP_TIME) };
            self.abandon_changes(now);
            self.state.region.set_phase(Phase::Stopping);
            self.supervisor.signal_all(Signal::SIGTERM);
        }
    }

    /// QUIT: nobody new, the others run to their end.
    fn drain(&mut self, now: Moment) {
        self.stage = Stage::Draining;
        self.abandon_changes(now);
        self.state.region.set_phase(Phase::Draining);
        // As long as one process has a listener, clients are queued on it. A group must stay as large as it is until the
        // end: which of its sockets a client's datagrams come to depends on how many there are.
        if let Some(mut listeners) = self.state.listeners.take() {
            listeners.close_streams();
            self.kept = listeners;
        }
        self.supervisor.signal_all(Signal::SIGQUIT);
        self.state.messages.note(format_args!("no new connections; pen ends with the last one that is open"));
    }

    fn abandon_changes(&mut self, now: Moment) {
        for session in self.changes.abandon() {
            self.reply(session, reply::error("pen is about to end; nothing is changed"), now);
        }
    }

    /// USR2: a core file for whoever looks for a fault. The workers end with their master.
    fn abort(&mut self) -> ! {
        self.state.messages.error(format_args!("aborting, as USR2 asks for"));
        self.state.pidfile = None;
        self.state.listeners = None;
        self.control = None;
        fork::abort_with_core();
    }

    /// HUP: log files are opened anew, the configuration file is read again.
    pub(super) fn on_hangup(&mut self) {
        if matches!(self.stage, Stage::Stopping { .. }) {
            return;
        }
        if let Err(error) = self.reopen_log() {
            self.state.messages.error(format_args!("{error}; the old one is kept"));
        }
        if self.stage == Stage::Serving {
            self.wish_reload();
        }
    }

    /// Opens the log file anew; if that fails the old one stays.
    pub(super) fn reopen_log(&mut self) -> Result<(), LogError> {
        let Some(destination @ LogDestination::File(_)) = &self.state.settings.log else {
            return Ok(());
        };
        self.state.log = Some(log::open(destination)?);
        self.send_settings(News { log: true, ..News::default() });
        Ok(())
    }

    fn report_statistics(&mut self, now: Moment) {
        let MasterState { region, settings, messages, .. } = &self.state;
        match &settings.web_stats {
            Some(path) => {
                self.write_page(path, &status::html(region, settings, now, clock::wall()));
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
