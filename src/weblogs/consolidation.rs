//! Web servers' lines on their way through penlogd(1): matched, kept waiting, written in order.
//!
//! A line's client is that of the newest record of pen whose server is where the line came from and whose text begins
//! with the line's request ([`super::visits`]). A line that comes before its record waits for it, and holds the lines
//! behind it, so that they leave in the order in which they came.
//!
//! Pure: who calls brings the datagrams and the time, and writes what comes out. Memory is bounded by [`Limits`].

use std::net::{IpAddr, SocketAddr};

use super::datagram::{self, Datagram, Malformed, Mark, PIECE, Record, UNKNOWN, without_line_end};
use super::gaps::Gaps;
pub use super::gaps::Loss;
use super::output;
use super::pieces::{Assembled, Fit, Pieces};
use super::request;
use super::visits::{Key, Visit, Visits};
use super::waiting::Waiting;
use crate::model::time::Moment;

/// Pieces and late datagrams are waited for, in microseconds, even if lines are not.
const LEAST_PATIENCE: u64 = 1_000_000;

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Records of pen that are remembered: penlogd(1) `-n`. Each takes about a kilobyte at most.
    pub entries: usize,
    /// Microseconds that a line waits for its record; 0: not at all.
    pub wait: u64,
    /// Most lines that wait, with those that they hold.
    pub lines: usize,
    /// Most bytes of lines that wait, with those that they hold.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { entries: 1000, wait: 1_000_000, lines: 65_536, bytes: 16 << 20 }
    }
}

/// What has happened so far. Nothing here ever decreases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Records of pen that were taken.
    pub entries: u64,
    /// Records of pen that were forgotten because others came.
    pub evicted: u64,
    /// Lines that were written with their client.
    pub matched: u64,
    /// Lines that were written as they came.
    pub unmatched: u64,
    /// Lines that had to wait for their record; they are matched or unmatched in the end.
    pub waited: u64,
    /// Lines, of those unmatched, that were written before their time because too many waited.
    pub hurried: u64,
    /// Lines that were cut when they were put together, because they were longer than 64 KiB.
    pub cut: u64,
    /// Lines that were dropped because pieces of them were missing.
    pub broken: u64,
    /// Records that came twice; the second was dropped.
    pub duplicates: u64,
    /// Datagrams of pens that were lost on their way.
    pub lost_entries: u64,
    /// Datagrams of penlogs that were lost on their way.
    pub lost_lines: u64,
    /// Datagrams that were dropped, by what was wrong with them.
    malformed: [u64; Malformed::ALL.len()],
}

impl Counts {
    /// Datagrams that were dropped because of this.
    pub fn malformed(&self, kind: Malformed) -> u64 {
        self.malformed[kind as usize]
    }
}

/// Puts the lines of several web servers, and what pen knows of their clients, into one log.
#[derive(Debug)]
pub struct Consolidator {
    limits: Limits,
    counts: Counts,
    visits: Visits,
    waiting: Waiting,
    pieces: Pieces,
    gaps: Gaps,
    /// The request at hand; and the same as a server would write it that knows of no escapes.
    key: Key,
    plain_key: Key,
}

impl Consolidator {
    /// Nothing is known yet, nothing waits.
    pub fn new(limits: Limits) -> Self {
        let patience = limits.wait.max(LEAST_PATIENCE);
        Consolidator {
            limits,
            counts: Counts::default(),
            visits: Visits::new(limits.entries),
            waiting: Waiting::new(),
            pieces: Pieces::new(patience),
            gaps: Gaps::new(patience),
            key: Key::default(),
            plain_key: Key::default(),
        }
    }

    /// One datagram that came from `from`. What waits for nothing any more is appended to `out`: whole lines. Nothing is
    /// given up here, however late it is: what it waits for may be in the next datagram.
    pub fn take(&mut self, from: SocketAddr, datagram: &[u8], now: Moment, out: &mut Vec<u8>) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        self.take_one(from, datagram, now, out);
        while self.waiting.is_ready() {
            self.write_oldest(out);
        }
        self.count_losses();
    }

    /// Lines whose time is up, and those that they held. Call it when what has come by then has been taken.
    pub fn tick(&mut self, now: Moment, out: &mut Vec<u8>) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.give_up_pieces(now, out);
            self.write_due(now, out);
            self.gaps.settle(now);
            self.count_losses();
        }
    }

    /// When [`Consolidator::tick`] must be called.
    pub fn deadline(&self) -> Option<Moment> {
        let all = [self.waiting.deadline(), self.pieces.deadline(), self.gaps.deadline()];
        all.into_iter().flatten().min()
    }

    /// All that waits, as it is.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        while let Some(mut assembled) = self.pieces.give_up_oldest() {
            // What is missing may still be on its way; there is no time to wait for it.
            assembled.broken = false;
            self.assembled(assembled, Moment::default(), out);
        }
        while self.write_oldest(out).is_some() {}
        self.gaps.settle_all();
        self.count_losses();
    }

    /// What has happened so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The losses that have been found since this was called last: one for each sender, no more than some hundred.
    pub fn take_losses(&mut self) -> Vec<Loss> {
        self.gaps.take_losses()
    }

    fn take_one(&mut self, from: SocketAddr, datagram: &[u8], now: Moment, out: &mut Vec<u8>) {
        let read = datagram::read(datagram);
        if let Ok(Datagram::Mark(mark)) = read {
            self.mark(from, mark, now, out);
            return;
        }
        // Whatever it looks like: penlog sends what a web server logs, which can begin as a record does.
        let marked = self.gaps.line(from);
        match self.pieces.take(from, datagram) {
            Fit::None => {}
            Fit::Broken => self.counts.broken += 1,
            Fit::End(assembled) => return self.assembled(assembled, now, out),
            Fit::BrokenEnd => {
                self.counts.broken += 1;
                return;
            }
            Fit::Piece => return self.give_up_pieces(now, out),
            Fit::Remains => return,
        }
        // All that such a penlog sends are lines, and it announces those that come in pieces: where a piece begins, what
        // it looks like is up to a client.
        if marked && datagram.len() == PIECE && !datagram.ends_with(b"\n") {
            self.counts.broken += 1;
            self.pieces.begin_remains(from, now);
            return self.give_up_pieces(now, out);
        }
        if marked && !matches!(read, Ok(Datagram::Line(_))) {
            return self.counts.reject(Malformed::Line);
        }
        match read {
            Ok(Datagram::Record(record)) => self.record(from, record, now),
            Ok(Datagram::Line(line)) if line.piece => {
                self.pieces.begin(from, datagram, None, now);
                self.give_up_pieces(now, out);
            }
            Ok(Datagram::Line(line)) => self.line(from.ip(), line.bytes, now, out),
            Ok(Datagram::Mark(_)) => {}
            Err(rejected) => {
                if let Some(number) = rejected.number {
                    self.gaps.record(from.ip(), number, now);
                }
                self.counts.reject(rejected.why);
            }
        }
    }

    fn record(&mut self, from: SocketAddr, record: Record<'_>, now: Moment) {
        if record.number.is_some_and(|number| !self.gaps.record(from.ip(), number, now)) {
            self.counts.duplicates += 1;
            return;
        }
        self.counts.entries += 1;
        let cut = self.key.set_record(record.server, record.text, record.cut);
        let visit = Visit { client: record.client, key: &self.key, cut };
        self.waiting.resolve(visit);
        if self.visits.remember(visit) {
            self.counts.evicted += 1;
        }
    }

    fn mark(&mut self, from: SocketAddr, mark: Mark, now: Moment, out: &mut Vec<u8>) {
        if let Some(unfinished) = self.pieces.interrupt(from) {
            self.assembled(unfinished, now, out);
        }
        self.gaps.mark(from, mark, now);
        if let Some(length) = mark.length {
            self.pieces.begin(from, b"", Some(length).filter(|&length| length != UNKNOWN), now);
            self.give_up_pieces(now, out);
        }
    }

    fn assembled(&mut self, assembled: Assembled, now: Moment, out: &mut Vec<u8>) {
        if assembled.broken {
            self.counts.broken += 1;
            return;
        }
        if assembled.cut {
            self.counts.cut += 1;
        }
        // Nothing at all: a line was announced, and no more has come.
        if !assembled.bytes.is_empty() {
            self.line(assembled.from.ip(), without_line_end(&assembled.bytes), now, out);
        }
    }

    fn give_up_pieces(&mut self, now: Moment, out: &mut Vec<u8>) {
        while let Some(assembled) = self.pieces.give_up(now) {
            self.assembled(assembled, now, out);
        }
    }

    /// A whole line, without its line end.
    fn line(&mut self, server: IpAddr, line: &[u8], now: Moment, out: &mut Vec<u8>) {
        let Some(quoted) = request::find(line).map(|range| &line[range]) else {
            self.counts.reject(Malformed::Line);
            return;
        };
        self.key.set_quoted(server, quoted, true);
        let mut visit = self.visits.newest(self.key.bytes());
        let mut asked = &[&self.key][..];
        let either;
        if request::has_escapes(quoted) {
            self.plain_key.set_quoted(server, quoted, false);
            either = [&self.key, &self.plain_key];
            asked = &either;
            visit = visit.or_else(|| self.visits.newest(self.plain_key.bytes()));
        }
        let client = visit.map(|visit| self.visits.client(visit));
        match client {
            Some(client) if self.waiting.is_empty() => {
                output::write(out, Some(client), line);
                self.counts.matched += 1;
            }
            Some(client) => self.waiting.push_known(line, client),
            None if self.limits.wait == 0 => {
                output::write(out, None, line);
                self.counts.unmatched += 1;
            }
            None => {
                self.waiting.push_awaiting(line, now.plus_micros(self.limits.wait), asked);
                self.counts.waited += 1;
            }
        }
        self.make_room(out);
    }

    fn count_losses(&mut self) {
        (self.counts.lost_entries, self.counts.lost_lines) = self.gaps.lost();
    }

    /// Writes lines that wait for nothing any more, or not longer than until `now`.
    fn write_due(&mut self, now: Moment, out: &mut Vec<u8>) {
        while self.waiting.is_ready() || self.waiting.deadline().is_some_and(|deadline| deadline <= now) {
            self.write_oldest(out);
        }
    }

    /// Writes the oldest line. Was it without a client?
    fn write_oldest(&mut self, out: &mut Vec<u8>) -> Option<bool> {
        let visits = &mut self.visits;
        let newest = |asked: &[u8]| visits.newest(asked).map(|visit| visits.client(visit).into());
        let without = self.waiting.write_oldest(newest, out)?;
        self.counts.wrote(without);
        Some(without)
    }

    /// Writes the oldest lines as they are while there are too many.
    fn make_room(&mut self, out: &mut Vec<u8>) {
        loop {
            let (lines, bytes) = self.waiting.size();
            if lines <= self.limits.lines && bytes <= self.limits.bytes {
                return;
            }
            let Some(without) = self.write_oldest(out) else {
                return;
            };
            self.counts.hurried += u64::from(without);
        }
    }
}

impl Counts {
    fn reject(&mut self, why: Malformed) {
        self.malformed[why as usize] += 1;
    }

    fn wrote(&mut self, without_client: bool) {
        if without_client {
            self.unmatched += 1;
        } else {
            self.matched += 1;
        }
    }
}

#[cfg(test)]
mod tests;
