//! Responses, looked at on their way: which request each belongs to, and where it ends (RFC 9112, 6.3).
//!
//! ```text
//! Between ──▶ Head ──▶ Body ──▶ Between …
//!              ├─ 1xx: Between, and the request still waits
//!              ├─ 101 to an upgrade, 2xx without a length to CONNECT: Opaque
//!              └─ anything that is no response, or that nobody asked for: Lost
//! ```
//!
//! Servers are not our adversaries, and nothing here changes what they send: so this is as lenient as clients are. Heads
//! are read line by line, as they come; only a line that has not come to its end is kept. Of its lines only the first,
//! those that tell of the body, and the blank one say anything here: what is wrong with others is the client's to judge.

use std::collections::VecDeque;

use memchr::memchr;

use super::body::{Body, Chunked};
use super::head::Kind;
use super::journal::Journal;

/// The most bytes of a head.
const LONGEST_HEAD: usize = 64 * 1024;
/// With so many runs of requests of the same kind no more should come …
const MOST_RUNS: usize = 1024;
/// … nor with so many requests.
const MOST_REQUESTS: usize = 100_000;
/// Space for so many runs stays when they are gone.
const KEPT_RUNS: usize = 4;

/// The responses of one connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Responses {
    asked: Asked,
    stage: Stage,
    /// Of those that are asked, so many wait for a verdict.
    verdicts_due: usize,
    /// The last one.
    verdict: Option<Verdict>,
    /// Where somebody wants to know what became of each request.
    journal: Option<Box<Journal>>,
}

/// What became of the request for an upgrade or a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// From here on the bytes are another protocol's, both ways.
    Granted,
    /// HTTP goes on.
    Denied,
}

/// What the next bytes of the server are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Stage {
    /// The first of a response.
    #[default]
    Between,
    /// A head.
    Head(Head),
    /// What belongs to the head that came last.
    Body(Body),
    /// Another protocol's.
    Opaque,
    /// Nobody knows.
    Lost,
}

/// What follows from a head.
enum Outcome {
    /// The response proper is yet to come.
    Interim,
    /// It is answered, with this.
    Final(Body),
    /// The upgrade or the tunnel is granted.
    Granted,
}

/// This is no response.
#[derive(Debug, PartialEq, Eq)]
struct Foreign;

impl Responses {
    /// A request has gone to the server.
    pub fn expect(&mut self, kind: Kind) {
        match (&self.stage, asks_for_verdict(kind)) {
            (Stage::Opaque, _) | (Stage::Lost, false) => return,
            (Stage::Lost, true) => {
                self.verdict = Some(Verdict::Denied);
                return;
            }
            (Stage::Between | Stage::Head(_) | Stage::Body(_), false) => {}
            (Stage::Between | Stage::Head(_) | Stage::Body(_), true) => {
                self.verdicts_due += 1;
                self.verdict = None;
            }
        }
        self.asked.push(kind);
    }

    /// So many requests wait for their responses that no more should be sent now. Never when [lost](Self::is_lost).
    pub fn is_full(&self) -> bool {
        self.asked.total >= MOST_REQUESTS
            || self.asked.runs() >= MOST_RUNS
            || self.journal.as_ref().is_some_and(|journal| journal.is_full())
    }

    /// Keeps a journal from here on. There should be no request that it would miss the beginning of.
    pub fn keep_journal(&mut self) {
        self.journal.get_or_insert_default();
    }

    /// Keeps none any more.
    pub fn drop_journal(&mut self) {
        self.journal = None;
    }

    /// What is noted of each request, if that is.
    pub fn journal(&mut self) -> Option<&mut Journal> {
        self.journal.as_deref_mut()
    }

    /// How many requests have not had their (whole) response. None when it is [lost](Self::is_lost) which have.
    pub fn outstanding(&self) -> usize {
        self.asked.total
    }

    /// No response is under way: one has ended with the last byte, or none has begun.
    pub fn is_between(&self) -> bool {
        self.stage == Stage::Between
    }

    /// The server has sent something that is no response, or one that nobody asked for: nothing can be said of what
    /// follows.
    pub fn is_lost(&self) -> bool {
        self.stage == Stage::Lost
    }

    /// What the last request of kind [`Kind::Upgrade`] or [`Kind::Connect`] came to, once that is known. When it is lost:
    /// denied.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// The next bytes of the server.
    pub fn see(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.advance(rest) {
                Ok(seen) => rest = rest.get(seen..).unwrap_or_default(),
                Err(Foreign) => return self.lose(),
            }
        }
    }

    /// How many of the next bytes need not be looked at.
    pub fn unseen(&self) -> u64 {
        match &self.stage {
            Stage::Between | Stage::Head(_) => 0,
            Stage::Body(body) => body.unseen(),
            Stage::Opaque | Stage::Lost => u64::MAX,
        }
    }

    /// So many bytes, at most [`Responses::unseen`], have gone by.
    pub fn skip(&mut self, bytes: u64) {
        match &mut self.stage {
            Stage::Between | Stage::Head(_) | Stage::Lost => {}
            Stage::Opaque => self.note(bytes),
            Stage::Body(body) => {
                body.skip(bytes);
                self.note(bytes);
                self.leave_body();
            }
        }
    }

    /// The server's stream has come to its end, and with it a response that has no other.
    pub fn end(&mut self) {
        if let (Stage::Body(Body::Rest), Some(journal)) = (&self.stage, &mut self.journal) {
            journal.answered();
        }
    }

    /// Goes on to the next stage, or through all of these bytes. How many of them were looked at?
    fn advance(&mut self, bytes: &[u8]) -> Result<usize, Foreign> {
        match &mut self.stage {
            // Servers have been seen to send an empty line too many.
            Stage::Between => match bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count() {
                0 => self.read_head(Head::default(), bytes),
                empty => Ok(empty),
            },
            Stage::Head(head) => {
                let head = std::mem::take(head);
                self.read_head(head, bytes)
            }
            Stage::Body(body) => {
                let seen = body.pass(bytes).map_err(|_| Foreign)?;
                self.note(seen as u64);
                self.leave_body();
                Ok(seen)
            }
            Stage::Opaque => {
                self.note(bytes.len() as u64);
                Ok(bytes.len())
            }
            Stage::Lost => Ok(bytes.len()),
        }
    }

    /// Goes on with a head. How many of the bytes belong to it?
    fn read_head(&mut self, mut head: Head, bytes: &[u8]) -> Result<usize, Foreign> {
        let kind = self.asked.first().ok_or(Foreign)?;
        let Some(seen) = head.see(bytes)? else {
            self.note(bytes.len() as u64);
            self.stage = Stage::Head(head);
            return Ok(bytes.len());
        };
        let outcome = head.outcome(kind)?;
        self.note(seen as u64);
        if let (Some(journal), Some(status)) = (&mut self.journal, head.status)
            && !matches!(outcome, Outcome::Interim)
        {
            journal.status(status.code);
        }
        self.conclude(kind, outcome);
        Ok(seen)
    }

    /// So many bytes belong to the response.
    fn note(&mut self, bytes: u64) {
        if let Some(journal) = &mut self.journal {
            journal.received(bytes);
        }
    }

    /// The head is whole.
    fn conclude(&mut self, kind: Kind, outcome: Outcome) {
        match outcome {
            Outcome::Interim => self.stage = Stage::Between,
            Outcome::Granted => {
                self.stop(Stage::Opaque);
                self.verdict = Some(Verdict::Granted);
                if let Some(journal) = &mut self.journal {
                    journal.granted();
                }
            }
            Outcome::Final(body) => {
                if asks_for_verdict(kind) {
                    self.verdicts_due = self.verdicts_due.saturating_sub(1);
                    if self.verdicts_due == 0 {
                        self.verdict = Some(Verdict::Denied);
                    }
                }
                self.stage = Stage::Body(body);
                self.leave_body();
            }
        }
    }

    fn leave_body(&mut self) {
        if matches!(&self.stage, Stage::Body(body) if body.is_over()) {
            self.stage = Stage::Between;
            self.asked.pop();
            if let Some(journal) = &mut self.journal {
                journal.answered();
            }
        }
    }

    fn lose(&mut self) {
        if self.verdicts_due > 0 {
            self.verdict = Some(Verdict::Denied);
        }
        self.stop(Stage::Lost);
        if let Some(journal) = &mut self.journal {
            journal.lose();
        }
    }

    /// Nothing is looked at any more.
    fn stop(&mut self, stage: Stage) {
        self.stage = stage;
        self.asked = Asked::default();
        self.verdicts_due = 0;
    }
}

fn asks_for_verdict(kind: Kind) -> bool {
    match kind {
        Kind::Plain | Kind::Head => false,
        Kind::Upgrade | Kind::Connect => true,
    }
}

/// Requests without their response, oldest first. Those alike are counted, and the first of them take no memory of their
/// own: most connections have no others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Asked {
    total: usize,
    first: Run,
    later: VecDeque<Run>,
}

/// Requests of one kind. Only that of [`Asked::first`] may be empty, and then there are no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Run {
    kind: Kind,
    count: u32,
}

impl Asked {
    fn first(&self) -> Option<Kind> {
        (self.first.count > 0).then_some(self.first.kind)
    }

    fn push(&mut self, kind: Kind) {
        self.total += 1;
        let run = Run { kind, count: 1 };
        if self.first.count == 0 {
            self.first = run;
            return;
        }
        let last = self.later.back_mut().unwrap_or(&mut self.first);
        match last.count.checked_add(1) {
            Some(count) if last.kind == kind => last.count = count,
            _ => self.later.push_back(run),
        }
    }

    fn pop(&mut self) {
        self.total = self.total.saturating_sub(1);
        self.first.count = self.first.count.saturating_sub(1);
        if self.first.count > 0 {
            return;
        }
        if let Some(next) = self.later.pop_front() {
            self.first = next;
            if self.later.is_empty() {
                self.later.shrink_to(KEPT_RUNS);
            }
        }
    }

    fn runs(&self) -> usize {
        usize::from(self.first.count > 0) + self.later.len()
    }
}

/// The head of a response, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Head {
    /// Bytes of it.
    size: usize,
    /// The beginning of a line that has not come to its end.
    line: Vec<u8>,
    status: Option<Status>,
    length: Length,
    coding: Coding,
    /// What a folded line goes on with.
    field: Field,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    /// 100 to 999.
    code: u16,
    /// HTTP/1.0.
    old: bool,
}

/// Content-Length, over all its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Length {
    #[default]
    Unknown,
    Bytes(u64),
    /// More than one, or no number.
    Bad,
}

/// The last transfer coding of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Coding {
    #[default]
    None,
    Chunked,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Field {
    #[default]
    Other,
    Length,
    Coding,
}

impl Head {
    /// The next bytes. How many of them belong to it, if it ends among them?
    fn see(&mut self, bytes: &[u8]) -> Result<Option<usize>, Foreign> {
        let mut rest = bytes;
        let mut last = false;
        while !last && let Some(end) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at_checked(end + 1).ok_or(Foreign)?;
            last = self.whole_line(line)?;
            rest = after;
        }
        let seen = if last { bytes.len() - rest.len() } else { bytes.len() };
        self.size += seen;
        if self.size > LONGEST_HEAD {
            return Err(Foreign);
        }
        if last {
            return Ok(Some(seen));
        }
        self.line.extend_from_slice(rest);
        match self.status {
            None if !may_begin_status(&self.line) => Err(Foreign),
            _ => Ok(None),
        }
    }

    /// A line, or the end of one. Was it the last?
    fn whole_line(&mut self, end: &[u8]) -> Result<bool, Foreign> {
        if self.line.is_empty() {
            return match self.status {
                Some(_) if !may_tell(end) => {
                    self.field = Field::Other;
                    Ok(false)
                }
                _ => self.read_line(end),
            };
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(end);
        let last = self.read_line(&line);
        // Its space is of use for the next.
        line.clear();
        self.line = line;
        last
    }

    fn read_line(&mut self, line: &[u8]) -> Result<bool, Foreign> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.status.is_none() {
            self.status = Some(read_status(line).ok_or(Foreign)?);
            return Ok(false);
        }
        if line.is_empty() {
            return Ok(true);
        }
        self.read_field(line);
        Ok(false)
    }

    fn read_field(&mut self, line: &[u8]) {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            match self.field {
                Field::Other => {}
                // Nobody folds a number.
                Field::Length => self.length = Length::Bad,
                Field::Coding => self.read_codings(line),
            }
        } else if let Some(value) = value_of(line, b"content-length") {
            self.field = Field::Length;
            self.read_lengths(value);
        } else if let Some(value) = value_of(line, b"transfer-encoding") {
            self.field = Field::Coding;
            self.read_codings(value);
        } else {
            self.field = Field::Other;
        }
    }

    /// Proxies join equal ones with a comma (RFC 9112, 6.3).
    fn read_lengths(&mut self, value: &[u8]) {
        for number in value.split(|&byte| byte == b',') {
            self.length = match (read_number(number.trim_ascii()), self.length) {
                (Some(bytes), Length::Unknown) => Length::Bytes(bytes),
                (Some(bytes), Length::Bytes(before)) if bytes == before => self.length,
                _ => Length::Bad,
            };
        }
    }

    fn read_codings(&mut self, value: &[u8]) {
        for coding in value.split(|&byte| byte == b',') {
            match coding.trim_ascii() {
                // `identity` is none: RFC 2616, 3.6.
                coding if coding.is_empty() || coding.eq_ignore_ascii_case(b"identity") => {}
                coding if coding.eq_ignore_ascii_case(b"chunked") => self.coding = Coding::Chunked,
                _ => self.coding = Coding::Other,
            }
        }
    }

    /// Nothing belongs to it, and it does not say so: what makes a tunnel is like that (RFC 9110, 9.3.6). Whoever sends a
    /// length, or 204, has answered as to any other method, and takes what comes next for a request.
    fn is_bare(&self) -> bool {
        let silent = self.length == Length::Unknown && self.coding == Coding::None;
        silent && self.status.is_some_and(|status| status.code != 204)
    }

    /// Of a whole head.
    fn outcome(&self, kind: Kind) -> Result<Outcome, Foreign> {
        let Status { code, old } = self.status.ok_or(Foreign)?;
        match (kind, code) {
            (Kind::Upgrade, 101) => Ok(Outcome::Granted),
            (_, 101) => Err(Foreign),
            (_, 100..=199) => Ok(Outcome::Interim),
            (Kind::Connect, 200..=299) if self.is_bare() => Ok(Outcome::Granted),
            (Kind::Head, _) | (_, 204 | 304) => Ok(Outcome::Final(Body::None)),
            (Kind::Plain | Kind::Upgrade | Kind::Connect, _) => match (self.coding, self.length) {
                // There were no codings in HTTP/1.0: RFC 9112, 6.1.
                (Coding::Chunked | Coding::Other, _) if old => Err(Foreign),
                (Coding::Chunked, _) => Ok(Outcome::Final(Body::Chunked(Chunked::default()))),
                (Coding::Other, _) | (Coding::None, Length::Unknown) => Ok(Outcome::Final(Body::Rest)),
                (Coding::None, Length::Bytes(bytes)) => Ok(Outcome::Final(Body::Length(bytes))),
                (Coding::None, Length::Bad) => Err(Foreign),
            },
        }
    }
}

/// Nearly every line is told from those that say anything here by its first byte and one of its name.
fn may_tell(line: &[u8]) -> bool {
    let has = |at, letter| line.get(at).is_some_and(|byte: &u8| byte.eq_ignore_ascii_case(&letter));
    match line.first() {
        Some(b'\r' | b'\n' | b' ' | b'\t') => true,
        Some(b'C' | b'c') => has(b"content-".len(), b'l'),
        Some(b'T' | b't') => has(b"transfer-".len(), b'e'),
        _ => false,
    }
}

/// Is this how a response begins, as far as it goes?
fn may_begin_status(bytes: &[u8]) -> bool {
    bytes.iter().zip(b"HTTP/1.").all(|(byte, expected)| byte == expected)
}

/// `HTTP/1.1 200 OK`. Whatever stands for the OK is the client's.
fn read_status(line: &[u8]) -> Option<Status> {
    let (minor, after) = line.strip_prefix(b"HTTP/1.")?.split_first()?;
    let code = after.trim_ascii_start();
    let &[hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9', ref reason @ ..] = code else {
        return None;
    };
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if !minor.is_ascii_digit() || !blank(after.first()) || !(reason.is_empty() || blank(reason.first())) {
        return None;
    }
    let code = [hundreds, tens, ones].iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    Some(Status { code, old: *minor == b'0' })
}

/// What follows the colon, if this is a field of that name, which is in small letters. The blanks that some servers write
/// before the colon count for nothing.
fn value_of<'a, const N: usize>(line: &'a [u8], name: &[u8; N]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_first_chunk()?;
    let value = rest.trim_ascii_start().strip_prefix(b":")?;
    (start.map(|byte| byte.to_ascii_lowercase()) == *name).then_some(value)
}

/// A decimal number that fits into 63 bits.
fn read_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits
        .iter()
        .try_fold(0_i64, |number, digit| {
            let digit = char::from(*digit).to_digit(10)?;
            number.checked_mul(10)?.checked_add(digit.into())
        })?
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests;
