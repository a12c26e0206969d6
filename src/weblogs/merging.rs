//! mergelogs(1): lines of several files in the order of their times, each with its client.
//!
//! Who a line's client is, [`recent`] finds out from pen's log; how lines are made up, [`mod@line`] and [`stamp`] know. Here
//! they are put together. Not here: files, and whose line is next (`tools::mergelogs`).

pub mod line;
pub mod recent;
pub mod stamp;

use std::ops::Range;

use self::line::{PenLine, WebLine};
use self::recent::{PenLog, Recent, ServerId, Span};
use super::output;
use super::request::{self, BeyondAscii};
use crate::model::logline::TEXT_MAX;

/// Writes lines with their clients.
pub struct Merger {
    recent: Recent,
    /// By [`ServerId`]: what stands for the client when nobody knows it.
    names: Vec<(ServerId, Vec<u8>)>,
    /// The request as pen logs it.
    request: Vec<u8>,
    /// A text of pen's log as this pen would have logged it.
    tamed: Vec<u8>,
    time: i64,
    /// `time` as it is written.
    stamp: Vec<u8>,
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// With the client, whose entry in pen's log is so many seconds later than the line; less than 0: earlier.
    Client(i64),
    /// With the server's name in its place.
    Nobody,
}

/// A line that is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// As the web server wrote it, without its line end.
    pub text: &'a [u8],
    /// Where its parts are.
    pub parts: &'a WebLine,
    /// Seconds since 1970, as far as writing goes.
    pub time: i64,
    /// Who wrote it.
    pub server: ServerId,
}

impl Merger {
    /// Clients are looked for as far as `span` goes; `shift` seconds are taken from pen's times before they are compared.
    pub fn new(span: Span, shift: i64) -> Self {
        let mut stamp = Vec::new();
        stamp::write(0, &mut stamp);
        Merger {
            recent: Recent::new(span, shift),
            names: Vec::new(),
            request: Vec::new(),
            tamed: Vec::new(),
            time: 0,
            stamp,
        }
    }

    /// A server by its name in pen's log. All have to be named before the first line is written.
    pub fn server(&mut self, name: &[u8]) -> ServerId {
        let id = self.recent.server(name);
        if !self.names.iter().any(|(known, _)| *known == id) {
            let mut tamed = Vec::new();
            output::append(&mut tamed, name);
            self.names.push((id, tamed));
        }
        id
    }

    /// Appends a line to `out` as it is to be read: its client in front, its time in UTC. Reads on in pen's log as far as
    /// necessary.
    pub fn write(&mut self, line: Line<'_>, log: &mut impl PenLog, out: &mut Vec<u8>) -> Written {
        let Line { text, parts, time, server } = line;
        let mut request = part(text, &parts.request);
        if !request::is_plain(request) {
            self.request.clear();
            request::as_pen_logs(request, BeyondAscii::Dotted, &mut self.request);
            request = &self.request;
        }
        let cut = request.get(..TEXT_MAX).filter(|cut| cut.len() < request.len());
        let mut log = Tamed { log, text: &mut self.tamed };
        let written = match self.recent.find(server, request, cut, time, &mut log) {
            Some(found) => {
                output::append(out, found.client);
                Written::Client(found.later)
            }
            None => {
                let name = self.names.iter().find(|(known, _)| *known == server);
                out.extend_from_slice(name.map_or(&b"-"[..], |(_, name)| name));
                Written::Nobody
            }
        };
        if time != self.time {
            stamp::rewrite(self.time, time, &mut self.stamp);
            self.time = time;
        }
        // Hardly a line has control bytes: it is looked at once.
        let append = match output::has_controls(part(text, &(parts.middle.start..text.len()))) {
            true => output::append,
            false => Vec::extend_from_slice,
        };
        out.push(b' ');
        append(out, part(text, &parts.middle));
        out.push(b'[');
        out.extend_from_slice(&self.stamp);
        append(out, part(text, &(parts.time.end..text.len())));
        out.push(b'\n');
        written
    }
}

fn part<'a>(text: &'a [u8], range: &Range<usize>) -> &'a [u8] {
    text.get(range.clone()).unwrap_or_default()
}

/// pen's log as this pen writes it: what a pen 0.34.1 has logged may have control bytes.
struct Tamed<'a, L> {
    log: &'a mut L,
    text: &'a mut Vec<u8>,
}

impl<L: PenLog> PenLog for Tamed<'_, L> {
    fn next(&mut self) -> Option<PenLine<'_>> {
        let line = self.log.next()?;
        if request::is_tame(line.text) {
            return Some(line);
        }
        self.text.clear();
        request::tame(line.text, BeyondAscii::Dotted, self.text);
        Some(PenLine { text: self.text, ..line })
    }
}

#[cfg(test)]
mod tests;
