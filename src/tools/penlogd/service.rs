//! The loop: datagrams in, lines out, signals. See penlogd(1), SIGNALS.
//!
//! One wait, no call in it that a sender, a reader or a full disk could make long. Signals are looked at before datagrams,
//! however many of those come.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::Launch;
use super::output::{self, Output};
use super::report::{self, Report, Tally};
use crate::model::time::{Moment, Seconds};
use crate::report::messages::Messages;
use crate::sys::clock;
use crate::sys::datagram::{self, BATCH, Inbox};
use crate::sys::reason::words;
use crate::sys::signal::{Signal, Signals};
use crate::sys::wait::{self, Interest};
use crate::weblogs::consolidation::{Consolidator, Limits};

/// What penlogd hears.
pub(super) const SIGNALS: [Signal; 5] =
    [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// Most datagrams of a turn, after which signals are looked at.
const TURN: usize = 16 * BATCH;

/// So many bytes of lines are enough for a write.
const CHUNK: usize = 64 * 1024;

/// The kernel charges a socket with more than this for the smallest datagram that waits in it.
const SMALLEST_CHARGE: u32 = 256;

/// How often the system is asked how many datagrams it has dropped.
const LOOK: Seconds = Seconds(1);

/// How long the socket is left alone that cannot be read.
const PAUSE: Seconds = Seconds(1);

/// Most that a wait lasts.
const IDLE: Duration = Duration::from_secs(3600);

/// penlogd, at work.
#[derive(Debug)]
pub(super) struct Service<'a> {
    launch: &'a Launch,
    socket: OwnedFd,
    inbox: Inbox,
    consolidator: Consolidator,
    /// Lines between the consolidator and the log.
    lines: Vec<u8>,
    output: Output,
    signals: Signals,
    messages: &'a Messages,
    report: Report,
    tally: Tally,
    /// As many datagrams as the system said that it has dropped.
    dropped: u32,
    /// When to ask it again; nothing has come since it was asked, if there is none.
    look: Option<Moment>,
    /// The socket could not be read; until when it is left alone.
    pause: Option<Moment>,
}

/// What there is to do.
struct Ready {
    signals: bool,
    socket: bool,
}

impl<'a> Service<'a> {
    pub(super) fn new(
        launch: &'a Launch,
        socket: OwnedFd,
        output: Output,
        signals: Signals,
        messages: &'a Messages,
    ) -> Self {
        let entries = usize::try_from(launch.entries).unwrap_or(usize::MAX);
        let limits = Limits { entries, wait: launch.wait, ..Limits::default() };
        // Whoever wants to know more wants to know it soon.
        let interval = if launch.debug > 0 { Seconds(1) } else { Seconds(60) };
        Service {
            launch,
            socket,
            inbox: Inbox::new(),
            consolidator: Consolidator::new(limits),
            lines: Vec::new(),
            output,
            signals,
            messages,
            report: Report::new(interval),
            tally: Tally::default(),
            dropped: 0,
            look: None,
            pause: None,
        }
    }

    /// Serves until a signal ends that.
    ///
    /// # Errors
    /// poll(2)'s: no memory.
    pub(super) fn run(mut self) -> io::Result<()> {
        let room = datagram::queue(self.socket.as_fd()).map_or(0, |queue| queue.limit);
        self.messages.debug(
            1,
            format_args!(
                "penlogd {} listens on UDP port {}; {room} bytes may wait there, {} entries are remembered",
                env!("CARGO_PKG_VERSION"),
                self.launch.port,
                self.launch.entries
            ),
        );
        loop {
            let ready = self.wait()?;
            if ready.signals {
                for (signal, _) in self.signals.take() {
                    match signal {
                        Signal::SIGHUP => self.reopen(),
                        Signal::SIGUSR1 => self.tell_all(),
                        _ => {
                            self.end();
                            return Ok(());
                        }
                    }
                }
            }
            let now = clock::now();
            if ready.socket {
                self.receive(TURN, now);
            }
            self.consolidator.tick(now, &mut self.lines);
            self.write();
            self.look(now);
            self.tell(now);
        }
    }

    /// Waits until there is something to do.
    fn wait(&mut self) -> io::Result<Ready> {
        let now = clock::now();
        self.pause = self.pause.filter(|&until| until > now);
        let deadlines =
            [self.consolidator.deadline(), self.report.deadline(&self.tally), self.look, self.pause];
        let first = deadlines.into_iter().flatten().min();
        let longest = first.map_or(IDLE, |first| Duration::from_micros(first.micros_since(now)).min(IDLE));
        let mut watched = vec![(self.signals.as_fd(), Interest::READ)];
        if self.output.waits() {
            watched.push((self.output.as_fd(), Interest::WRITE));
        }
        let is_watched = self.pause.is_none();
        if is_watched {
            watched.push((self.socket.as_fd(), Interest::READ));
        }
        let ready = wait::until_ready(&watched, longest)?;
        let last = ready.last().copied().unwrap_or(false);
        Ok(Ready { signals: ready[0], socket: is_watched && last })
    }

    /// Takes datagrams that have come, at most so many.
    fn receive(&mut self, most: usize, now: Moment) {
        let mut left = most;
        while left > 0 {
            let taken = self.receive_batch(left.min(BATCH), now);
            left -= taken.min(left);
            if taken < BATCH {
                // There are none left, or so few that they are worth another wait.
                return;
            }
        }
    }

    /// Takes so many datagrams at once, if there are as many. Returns how many there were.
    fn receive_batch(&mut self, most: usize, now: Moment) -> usize {
        let count = match self.inbox.receive(self.socket.as_fd(), most) {
            Ok(count) => count,
            Err(error) => {
                if error.kind() != ErrorKind::WouldBlock {
                    self.messages.error(format_args!("cannot read what comes: {}", words(&error)));
                    self.pause = Some(now.plus(PAUSE));
                }
                return 0;
            }
        };
        for index in 0..count {
            let arrival = self.inbox.get(index);
            self.consolidator.take(arrival.from, arrival.bytes, now, &mut self.lines);
        }
        if self.lines.len() >= CHUNK {
            self.write();
        }
        self.look = self.look.or(Some(now.plus(LOOK)));
        count
    }

    /// Lines on to the log.
    fn write(&mut self) {
        match self.lines.is_empty() {
            true => self.output.write(),
            false => self.output.take(&mut self.lines),
        }
    }

    /// HUP: the log is opened anew; if that fails the old one stays.
    fn reopen(&mut self) {
        self.write();
        let Some(path) = &self.launch.log else {
            return;
        };
        match output::open(path) {
            Ok(file) => {
                self.output.replace(file);
                self.messages.debug(1, format_args!("the log {} is opened anew", path.display()));
            }
            Err(error) => self.messages.error(format_args!("{error}; the old one is kept")),
        }
    }

    /// TERM, INT, QUIT: what has come is written, and what waits.
    fn end(&mut self) {
        // Whatever came before the signal is among the first so many; senders who go on could keep this going.
        let most = datagram::queue(self.socket.as_fd())
            .map_or(TURN, |queue| (queue.limit / SMALLEST_CHARGE) as usize);
        let mut left = most.max(TURN);
        while left > 0 {
            match self.receive_batch(left.min(BATCH), clock::now()) {
                0 => break,
                taken => left -= taken.min(left),
            }
        }
        self.consolidator.flush(&mut self.lines);
        self.write();
        self.output.finish();
        self.ask_system();
        self.count();
        if let Some(news) = self.report.last_news(&self.tally, clock::now()) {
            self.messages.error(format_args!("{news}"));
        }
        if self.messages.debug_level() > 0 {
            self.messages.block(&report::all(&self.tally));
        }
    }

    /// USR1: everything that is counted.
    fn tell_all(&mut self) {
        self.ask_system();
        self.count();
        self.messages.block(&report::all(&self.tally));
    }

    /// What went wrong, if it is time to tell.
    fn tell(&mut self, now: Moment) {
        self.count();
        if let Some(news) = self.report.news(&self.tally, now) {
            self.messages.error(format_args!("{news}"));
        }
    }

    /// Asks how many datagrams the system has dropped, if it is time to.
    fn look(&mut self, now: Moment) {
        if self.look.is_some_and(|due| now >= due) {
            self.look = None;
            self.ask_system();
        }
    }

    fn ask_system(&mut self) {
        if let Ok(queue) = datagram::queue(self.socket.as_fd()) {
            self.tally.dropped += u64::from(queue.dropped.wrapping_sub(self.dropped));
            self.dropped = queue.dropped;
        }
    }

    fn count(&mut self) {
        let (before, counts) = (&self.tally.counts, self.consolidator.counts());
        if (before.lost_entries, before.lost_lines) != (counts.lost_entries, counts.lost_lines) {
            let losses = self.consolidator.take_losses();
            self.report.note(losses);
        }
        self.tally.counts = *self.consolidator.counts();
        if self.tally.unwritten != self.output.lost() {
            self.tally.unwritten = self.output.lost();
            self.output.reason().clone_into(&mut self.tally.reason);
        }
    }
}
