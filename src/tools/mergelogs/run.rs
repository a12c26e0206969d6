//! The merging of mergelogs(1): whose line is next, and what is told of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::input::{FileId, LONGEST_LINE, Lines};
use crate::sys::reason::words;
use crate::weblogs::merging::line::{Bogus, PenLine, PenParts, Stamps, WebLine};
use crate::weblogs::merging::recent::{PenLog, ServerId, Span};
use crate::weblogs::merging::{Line, Merger, Written};
use crate::weblogs::output;

/// So much is written at once, in bytes.
const PIECE: usize = 1 << 17;

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// pen's log.
    pub(super) pen: OsString,
    /// What to merge.
    pub(super) logs: Vec<WebLog>,
    /// How far from a line its client is looked for.
    pub(super) span: Span,
    /// Seconds that are taken from pen's times.
    pub(super) shift: i64,
    /// What is told: 0 nothing but failures, 1 of bogus lines and how many of what there were, 2 of all lines.
    pub(super) debug: u8,
    /// Where bogus lines of web servers go.
    pub(super) rejects: Option<OsString>,
}

/// A web server's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WebLog {
    /// As pen's log has it.
    pub(super) server: Vec<u8>,
    pub(super) file: OsString,
}

/// Why nothing was merged, or not all.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot open {}: {}", .0.display(), words(.1))]
    Open(OsString, io::Error),
    #[error("cannot open {}: {}; an IPv6 address needs brackets, as in [::1]:access.log", .0.display(), words(.1))]
    Colons(OsString, io::Error),
    #[error("{}: {}; the rest of it is missing", .0.display(), words(.1))]
    Read(OsString, io::Error),
    #[error("{}: {}", .0.display(), words(.1))]
    Rejects(OsString, io::Error),
    #[error("cannot write to {}: it is one of the logs", .0.display())]
    Overwrites(OsString),
    #[error("standard output: {}", words(.0))]
    Output(io::Error),
    /// Nobody reads any more, and nobody has to be told.
    #[error("standard output: nobody reads it")]
    Unread,
}

/// Merges it all, and says whether everything was read. Lines go to `out`, messages to `tell`.
pub(super) fn run(
    work: Work,
    out: &mut (impl Write + AsFd),
    tell: &mut dyn FnMut(String),
) -> Result<bool, Error> {
    let Work { pen, logs, span, shift, debug, rejects } = work;
    let mut merger = Merger::new(span, shift);
    let mut pen = Pen::open(pen, debug)?;
    let mut logs = logs.into_iter().map(|log| Web::open(log, &mut merger)).collect::<Result<Vec<_>, _>>()?;
    let is_log = |file: Option<FileId>| {
        file.is_some()
            && logs.iter().map(|log| &log.lines).chain([&pen.lines]).any(|lines| lines.file == file)
    };
    // It would read what it writes, for ever.
    if is_log(FileId::of(&*out)) {
        return Err(Error::Overwrites("standard output".into()));
    }
    let mut rejected = Rejected::create(rejects, debug, is_log)?;
    let mut counts = Counts::default();
    // The earliest line is first; of those of the same second, the one whose file was named first.
    let mut next = BinaryHeap::with_capacity(logs.len());
    for (place, log) in logs.iter_mut().enumerate() {
        if log.advance(&mut rejected, tell)? {
            next.push(Reverse((log.time, place)));
        }
    }
    let mut merged = Vec::with_capacity(2 * PIECE);
    while let Some(mut first) = next.peek_mut() {
        let Reverse((time, place)) = *first;
        let Some(log) = logs.get_mut(place) else {
            break;
        };
        let line = Line { text: log.lines.line(), parts: &log.parts, time, server: log.server };
        let written = merger.write(line, &mut Telling { pen: &mut pen, tell }, &mut merged);
        counts.add(written);
        if debug > 1 {
            tell(format!("{}:{}: {}", log.file.display(), log.lines.number, outcome(written)));
        }
        if merged.len() >= PIECE {
            flush(&mut merged, out)?;
        }
        if log.advance(&mut rejected, tell)? {
            *first = Reverse((log.time, place));
        } else {
            PeekMut::pop(first);
        }
    }
    flush(&mut merged, out)?;
    rejected.close()?;
    let cut = logs.iter().map(|log| log.lines.cut).sum::<u64>() + pen.lines.cut;
    if cut > 0 {
        tell(format!("{cut} lines were longer than {LONGEST_LINE} bytes and have been cut"));
    }
    if debug > 0 {
        let Counts { clients, nobodies } = counts;
        let (bogus, of_pen) = (rejected.count, pen.bogus);
        tell(format!("{} lines written, {clients} of them with their client", clients + nobodies));
        tell(format!("{bogus} bogus lines of web servers left out, {of_pen} of pen's"));
    }
    Ok(logs.iter().all(|log| log.whole) && pen.whole)
}

fn flush(merged: &mut Vec<u8>, out: &mut impl Write) -> Result<(), Error> {
    let written = out.write_all(merged).and_then(|()| out.flush());
    merged.clear();
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::Unread,
        _ => Error::Output(error),
    })
}

fn outcome(written: Written) -> String {
    match written {
        Written::Client(0) => "the client asked at the same second".to_owned(),
        Written::Client(later) if later > 0 => format!("the client asked {later} s later"),
        Written::Client(later) => format!("the client asked {} s earlier", later.unsigned_abs()),
        Written::Nobody => "pen knows no client".to_owned(),
    }
}

#[derive(Default)]
struct Counts {
    clients: u64,
    nobodies: u64,
}

impl Counts {
    fn add(&mut self, written: Written) {
        match written {
            Written::Client(_) => self.clients += 1,
            Written::Nobody => self.nobodies += 1,
        }
    }
}

/// A web server's log, at its current line.
struct Web {
    server: ServerId,
    file: OsString,
    lines: Lines,
    stamps: Stamps,
    parts: WebLine,
    time: i64,
    /// All of it could be read.
    whole: bool,
}

impl Web {
    fn open(log: WebLog, merger: &mut Merger) -> Result<Self, Error> {
        let WebLog { server, file } = log;
        let lines = Lines::open(&file).map_err(|error| match file.as_bytes().contains(&b':') {
            true => Error::Colons(file.clone(), error),
            false => Error::Open(file.clone(), error),
        })?;
        let parts = WebLine { middle: 0..0, time: 0..0, request: 0..0 };
        let server = merger.server(&server);
        Ok(Web { server, file, lines, stamps: Stamps::default(), parts, time: 0, whole: true })
    }

    /// Goes to the next line that is not bogus. False: there is none.
    fn advance(&mut self, rejected: &mut Rejected, tell: &mut dyn FnMut(String)) -> Result<bool, Error> {
        loop {
            match self.lines.advance() {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => {
                    self.whole = false;
                    tell(Error::Read(self.file.clone(), error).to_string());
                    return Ok(false);
                }
            }
            let line = self.lines.line();
            let read = WebLine::read(line).and_then(|parts| {
                let time = self.stamps.read(line.get(parts.time.clone()).unwrap_or_default())?;
                Ok((parts, time))
            });
            match read {
                Ok((parts, time)) => {
                    (self.parts, self.time) = (parts, time);
                    return Ok(true);
                }
                Err(why) => rejected.add(&self.file, self.lines.number, line, why, tell)?,
            }
        }
    }
}

/// Bogus lines of web servers.
struct Rejected {
    file: Option<(OsString, io::BufWriter<File>)>,
    line: Vec<u8>,
    debug: u8,
    count: u64,
}

impl Rejected {
    /// `is_log` says whether a file is read as well: that is left as it is.
    fn create(
        name: Option<OsString>,
        debug: u8,
        is_log: impl Fn(Option<FileId>) -> bool,
    ) -> Result<Self, Error> {
        let rejected = Rejected { file: None, line: Vec::new(), debug, count: 0 };
        let Some(name) = name else {
            return Ok(rejected);
        };
        let open = || {
            let file = File::options().write(true).create(true).truncate(false).open(&name)?;
            let id = FileId::of(&file);
            if is_log(id) {
                return Ok(None);
            }
            if id.is_some() {
                file.set_len(0)?;
            }
            Ok(Some(file))
        };
        match open() {
            Ok(Some(file)) => {
                let file = Some((name, io::BufWriter::with_capacity(PIECE, file)));
                Ok(Rejected { file, ..rejected })
            }
            Ok(None) => Err(Error::Overwrites(name)),
            Err(error) => Err(Error::Open(name, error)),
        }
    }

    fn add(
        &mut self,
        log: &OsStr,
        number: u64,
        line: &[u8],
        why: Bogus,
        tell: &mut dyn FnMut(String),
    ) -> Result<(), Error> {
        self.count += 1;
        if self.debug > 0 {
            tell(format!("{}:{number}: {why}", log.display()));
        }
        if let Some((name, file)) = &mut self.file {
            self.line.clear();
            output::append(&mut self.line, line);
            self.line.push(b'\n');
            file.write_all(&self.line).map_err(|error| Error::Rejects(name.clone(), error))?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        match &mut self.file {
            Some((name, file)) => file.flush().map_err(|error| Error::Rejects(name.clone(), error)),
            None => Ok(()),
        }
    }
}

/// pen's log.
struct Pen {
    file: OsString,
    lines: Lines,
    debug: u8,
    bogus: u64,
    whole: bool,
}

impl Pen {
    fn open(file: OsString, debug: u8) -> Result<Self, Error> {
        let lines = Lines::open(&file).map_err(|error| Error::Open(file.clone(), error))?;
        Ok(Pen { file, lines, debug, bogus: 0, whole: true })
    }
}

/// pen's log, with somebody who is told what is wrong with it.
struct Telling<'a> {
    pen: &'a mut Pen,
    tell: &'a mut dyn FnMut(String),
}

impl PenLog for Telling<'_> {
    fn next(&mut self) -> Option<PenLine<'_>> {
        let pen = &mut *self.pen;
        loop {
            match pen.lines.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    pen.whole = false;
                    (self.tell)(Error::Read(pen.file.clone(), error).to_string());
                    return None;
                }
            }
            if let Some(parts) = PenParts::read(pen.lines.line()) {
                return Some(parts.of(pen.lines.line()));
            }
            if !PenLine::has_no_text(pen.lines.line()) {
                pen.bogus += 1;
                if pen.debug > 0 {
                    (self.tell)(format!("{}:{}: not a line of pen's", pen.file.display(), pen.lines.number));
                }
            }
        }
    }
}
