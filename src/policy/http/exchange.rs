//! One connection's requests and responses.

use super::body::Body;
use super::head::{self, HeadRules, Kind, Malformed, Opening, Request};
use super::journal::{Journal, Told};
use super::outgoing::Outgoing;
use super::responses::{Responses, Verdict};
use crate::model::record::Ended;
use crate::model::time::Moment;

/// Why a client gets an error instead of a server's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 400, and what is wrong.
    Bad(&'static str),
    /// 408: its head took too long.
    Slow,
}

/// What is to be done about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing was refused, or responses to earlier requests come first.
    NotYet,
    /// The client is told now, and no more after that.
    Answer(Refusal),
    /// Where a response would begin and end cannot be told: the connection just ends.
    Close,
}

/// What the next bytes of the client are.
#[derive(Debug)]
enum Stage {
    /// The first of all.
    Opening,
    /// A head.
    Head,
    /// What belongs to the request that went last.
    Body(Body),
    /// Kept until it is known what became of an upgrade or a tunnel.
    Verdict,
    /// Another protocol's.
    Opaque,
    /// Nobody's: the client is not read any more. `within`: it was in the body of a request whose head had gone.
    Refused { why: Refusal, within: bool },
}

/// The client's bytes: those that have just been read, or those that were held.
#[derive(Clone, Copy)]
enum Source<'a> {
    Chunk(&'a [u8]),
    Held(&'a [u8]),
}

impl<'a> Source<'a> {
    fn bytes(self) -> &'a [u8] {
        let (Source::Chunk(bytes) | Source::Held(bytes)) = self;
        bytes
    }

    /// This part of them goes out.
    fn pass(self, part: std::ops::Range<usize>, out: &mut Outgoing) {
        match self {
            Source::Chunk(chunk) => out.pass(chunk, part),
            Source::Held(bytes) => {
                out.stage(|staged| staged.extend_from_slice(bytes.get(part).unwrap_or_default()));
            }
        }
    }
}

/// Both directions of a connection with HTTP on it.
#[derive(Debug)]
pub struct Exchange {
    rules: HeadRules,
    /// The most bytes of a head.
    head_max: usize,
    stage: Stage,
    /// The request whose body is under way asks for an upgrade or a tunnel.
    verdict_due: bool,
    /// The connection never was HTTP/1.
    foreign: bool,
    /// The beginning of a head, or what has to wait for a verdict.
    held: Vec<u8>,
    /// How much of that has been searched for the end of the head.
    searched: usize,
    /// Empty lines before the first bytes: dropped if those are a request, passed on if they are not.
    skipped: Vec<u8>,
    /// A head has gone since [`Exchange::head_has_gone`] was asked.
    gone: bool,
    responses: Responses,
}

impl Exchange {
    /// Nothing has been sent yet.
    pub fn new(rules: HeadRules, head_max: u32) -> Self {
        Exchange {
            rules,
            head_max: head_max as usize,
            stage: Stage::Opening,
            verdict_due: false,
            foreign: false,
            held: Vec::new(),
            searched: 0,
            skipped: Vec::new(),
            gone: false,
            responses: Responses::default(),
        }
    }

    /// More may be read from the client now.
    pub fn is_open(&self) -> bool {
        match self.stage {
            // A client that waits as well may still go away.
            Stage::Verdict => self.held.is_empty(),
            Stage::Refused { .. } => false,
            Stage::Opaque => true,
            Stage::Opening | Stage::Head | Stage::Body(_) => !self.responses.is_full(),
        }
    }

    /// Does somebody want to know what becomes of each request? And it is this late.
    pub fn keep_journal_if(&mut self, wanted: bool, now: Moment) {
        match wanted {
            true => self.keep_journal(now),
            false => self.responses.drop_journal(),
        }
    }

    /// Somebody wants to know. A connection that is in the middle of something begins with the request after that.
    pub fn keep_journal(&mut self, now: Moment) {
        if matches!(self.stage, Stage::Opening | Stage::Head)
            && self.responses.is_between()
            && self.responses.outstanding() == 0
        {
            self.responses.keep_journal();
        }
        if let Some(journal) = self.responses.journal() {
            journal.set_now(now);
        }
    }

    /// The requests that are over and have not been taken before, in their order.
    pub fn take_over(&mut self) -> Vec<Told> {
        self.responses.journal().map(Journal::take).unwrap_or_default()
    }

    /// The connection is over, for this reason: so are all requests.
    pub fn end(&mut self, ended: Ended) {
        if let Some(journal) = self.responses.journal() {
            journal.end(ended);
        }
    }

    /// It is open, or will be when it [resumes](Exchange::resume).
    pub fn may_go_on(&self) -> bool {
        self.is_open() || matches!(self.stage, Stage::Verdict) && self.responses.verdict().is_some()
    }

    /// The client has sent these bytes: what goes to the server for them is put into `out`. `see` is shown every head
    /// that goes, as the client sent it, and the first bytes of what is not HTTP.
    pub fn request_bytes(&mut self, chunk: &[u8], out: &mut Outgoing, see: &mut impl FnMut(&[u8])) {
        self.go_on(Source::Chunk(chunk), out, see);
    }

    /// What was held until a verdict goes its way, if that has come: true if there was something to do.
    pub fn resume(&mut self, out: &mut Outgoing, see: &mut impl FnMut(&[u8])) -> bool {
        if !matches!(self.stage, Stage::Verdict) {
            return false;
        }
        self.stage = match self.responses.verdict() {
            None => return false,
            Some(Verdict::Granted) => Stage::Opaque,
            Some(Verdict::Denied) => Stage::Head,
        };
        let held = std::mem::take(&mut self.held);
        self.go_on(Source::Held(&held), out, see);
        true
    }

    /// The client's stream has ended: what is still held goes to the server only if nobody could take it for a request.
    pub fn end_of_requests(&mut self, out: &mut Outgoing, see: &mut impl FnMut(&[u8])) {
        let mut held = std::mem::take(&mut self.held);
        let skipped = std::mem::take(&mut self.skipped);
        if !matches!(self.stage, Stage::Opening) {
            return;
        }
        held.push(b'\n');
        let nobody = held.len() == 1 || head::opening(&held) == Opening::Other;
        held.pop();
        if nobody && held.len() + skipped.len() > 0 {
            self.foreign = true;
            self.stage = Stage::Opaque;
            see(&held);
            Source::Held(&skipped).pass(0..skipped.len(), out);
            Source::Held(&held).pass(0..held.len(), out);
        }
    }

    /// The server has sent these bytes, which go to the client as they are.
    pub fn response_bytes(&mut self, chunk: &[u8]) {
        if !self.foreign {
            self.responses.see(chunk);
        }
    }

    /// The server's stream has come to its end.
    pub fn end_of_responses(&mut self) {
        self.responses.end();
    }

    /// How many of the client's next bytes go to the server whatever they are.
    pub fn requests_unseen(&self) -> u64 {
        match &self.stage {
            Stage::Opaque => u64::MAX,
            Stage::Body(body) => body.unseen(),
            Stage::Opening | Stage::Head | Stage::Verdict | Stage::Refused { .. } => 0,
        }
    }

    /// So many of them, at most [`Exchange::requests_unseen`], have gone by.
    pub fn skip_requests(&mut self, bytes: u64) {
        self.note_sent(bytes);
        if let Stage::Body(body) = &mut self.stage {
            body.skip(bytes);
            if body.is_over() {
                self.end_of_request();
            }
        }
    }

    /// How many of the server's next bytes need not be looked at.
    pub fn responses_unseen(&self) -> u64 {
        match self.foreign {
            true => u64::MAX,
            false => self.responses.unseen(),
        }
    }

    /// So many of them, at most [`Exchange::responses_unseen`], have gone by.
    pub fn skip_responses(&mut self, bytes: u64) {
        if !self.foreign {
            self.responses.skip(bytes);
        }
    }

    /// The connection never was HTTP/1.
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// A head has begun and not ended.
    pub fn has_head_pending(&self) -> bool {
        matches!(self.stage, Stage::Opening | Stage::Head) && !self.held.is_empty()
    }

    /// A head has gone since this was asked last: one that is pending is another than the one that was.
    pub fn head_has_gone(&mut self) -> bool {
        std::mem::take(&mut self.gone)
    }

    /// The client is not read any more.
    pub fn refuse(&mut self, why: Refusal) {
        let held = std::mem::take(&mut self.held);
        self.refuse_head(why, &held);
    }

    /// The same, because of this head, or where a body is under way because of that.
    fn refuse_head(&mut self, why: Refusal, head: &[u8]) {
        let within = matches!(self.stage, Stage::Body(_));
        self.stage = Stage::Refused { why, within };
        self.held = Vec::new();
        self.skipped = Vec::new();
        match self.responses.journal() {
            Some(journal) if within => journal.refuse_last(why),
            Some(journal) => journal.refuse(head, why),
            None => {}
        }
    }

    /// The client has been told of the refusal, with this status and so many bytes.
    pub fn answered_here(&mut self, code: u16, bytes: u64) {
        if let Some(journal) = self.responses.journal() {
            journal.answered_here(code, bytes);
        }
    }

    /// Why the client is not read any more.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.stage {
            Stage::Refused { why, .. } => Some(why),
            _ => None,
        }
    }

    /// What is to be done about a refusal now.
    pub fn turn(&self) -> Turn {
        match self.stage {
            Stage::Refused { .. } if self.responses.is_lost() => Turn::Close,
            Stage::Refused { why, within }
                if self.responses.is_between() && self.responses.outstanding() <= usize::from(within) =>
            {
                Turn::Answer(why)
            }
            _ => Turn::NotYet,
        }
    }

    fn go_on(&mut self, source: Source<'_>, out: &mut Outgoing, see: &mut impl FnMut(&[u8])) {
        let bytes = source.bytes();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match &mut self.stage {
                Stage::Opening => self.open(rest, out, see),
                Stage::Head => self.head(rest, out, see),
                Stage::Body(body) => match body.pass(rest) {
                    Ok(own) => {
                        source.pass(at..at + own, out);
                        let over = body.is_over();
                        self.note_sent(own as u64);
                        if over {
                            self.end_of_request();
                        }
                        own
                    }
                    Err(Malformed(reason)) => {
                        self.refuse(Refusal::Bad(reason));
                        rest.len()
                    }
                },
                Stage::Opaque => {
                    source.pass(at..bytes.len(), out);
                    self.note_sent(rest.len() as u64);
                    rest.len()
                }
                Stage::Verdict => {
                    self.held.extend_from_slice(rest);
                    rest.len()
                }
                Stage::Refused { .. } => rest.len(),
            };
        }
    }

    /// The first bytes of the connection. Returns how many of them are done with.
    fn open(&mut self, rest: &[u8], out: &mut Outgoing, see: &mut impl FnMut(&[u8])) -> usize {
        if self.held.is_empty() {
            let empty = head::empty_lines(rest);
            if empty > 0 {
                self.skip(&rest[..empty]);
                return empty;
            }
        }
        let fresh = self.held.is_empty();
        if !fresh {
            self.held.extend_from_slice(rest);
            // An empty line that was not whole when it was held begins no head.
            let empty = head::empty_lines(&self.held);
            self.skipped.extend(self.held.drain(..empty));
        }
        let bytes = if fresh { rest } else { &self.held };
        match head::opening(bytes) {
            Opening::Incomplete if bytes.len() > self.head_max => {
                let why = Refusal::Bad("the head is too long");
                match fresh {
                    true => self.refuse_head(why, rest),
                    false => self.refuse(why),
                }
            }
            Opening::Incomplete if fresh => self.held.extend_from_slice(rest),
            Opening::Incomplete => {}
            kind => {
                self.foreign = kind == Opening::Other;
                self.stage = if self.foreign { Stage::Opaque } else { Stage::Head };
                let skipped = std::mem::take(&mut self.skipped);
                if self.foreign {
                    see(bytes);
                    Source::Held(&skipped).pass(0..skipped.len(), out);
                }
                if fresh {
                    return 0;
                }
                let held = std::mem::take(&mut self.held);
                self.go_on(Source::Held(&held), out, see);
            }
        }
        rest.len()
    }

    /// Empty lines have come where a connection begins.
    fn skip(&mut self, empty: &[u8]) {
        self.skipped.extend_from_slice(empty);
        if self.skipped.len() > self.head_max {
            self.refuse(Refusal::Bad("nothing but empty lines"));
        }
    }

    /// A head, or a part of one. Returns how many of the bytes are done with.
    fn head(&mut self, rest: &[u8], out: &mut Outgoing, see: &mut impl FnMut(&[u8])) -> usize {
        if self.held.is_empty() {
            let empty = head::empty_lines(rest);
            if empty > 0 {
                return empty;
            }
            // Nearly every head is there at once. What is none is looked at again when it is known where it ends.
            let within = rest.get(..self.head_max).unwrap_or(rest);
            let (rewritten, length) =
                self.rewrite(out, |rules, staged| head::rewrite_first(within, rules, staged));
            if let Ok((request, end)) = rewritten {
                self.begin(request, &rest[..end], length, see);
                return end;
            }
            return match head::find_end(rest, 0) {
                Some(end) => {
                    self.forward(&rest[..end], out, see);
                    end
                }
                None => {
                    self.hold(rest);
                    rest.len()
                }
            };
        }
        let before = self.held.len();
        self.held.extend_from_slice(rest);
        let empty = head::empty_lines(&self.held);
        if empty > 0 {
            // Lines that were not whole when they were held: what is left of them has come now.
            self.held.clear();
            self.searched = 0;
            return empty.saturating_sub(before);
        }
        match head::find_end(&self.held, self.searched) {
            Some(end) => {
                let mut held = std::mem::take(&mut self.held);
                held.truncate(end);
                self.searched = 0;
                self.forward(&held, out, see);
                end.saturating_sub(before)
            }
            None => {
                self.searched = self.held.len();
                self.limit_held();
                rest.len()
            }
        }
    }

    fn hold(&mut self, beginning: &[u8]) {
        self.held.extend_from_slice(beginning);
        self.searched = beginning.len();
        self.limit_held();
    }

    fn limit_held(&mut self) {
        if self.held.len() > self.head_max {
            self.refuse(Refusal::Bad("the head is too long"));
        }
    }

    /// A whole head goes to the server.
    fn forward(&mut self, head: &[u8], out: &mut Outgoing, see: &mut impl FnMut(&[u8])) {
        if head.len() > self.head_max {
            return self.refuse_head(Refusal::Bad("the head is too long"), head);
        }
        match self.rewrite(out, |rules, staged| head::rewrite(head, rules, staged)) {
            (Ok(request), length) => self.begin(request, head, length, see),
            (Err(Malformed(reason)), _) => self.refuse_head(Refusal::Bad(reason), head),
        }
    }

    /// What the server gets instead of a head goes out. How many bytes is it?
    fn rewrite<R>(
        &self,
        out: &mut Outgoing,
        write: impl FnOnce(&HeadRules, &mut Vec<u8>) -> R,
    ) -> (R, usize) {
        out.stage(|staged| {
            let before = staged.len();
            (write(&self.rules, staged), staged.len() - before)
        })
    }

    /// A request has begun: this head has gone to the server, as so many bytes.
    fn begin(&mut self, request: Request, head: &[u8], length: usize, see: &mut impl FnMut(&[u8])) {
        let Request { kind, body } = request;
        see(head);
        if let Some(journal) = self.responses.journal() {
            journal.begin(head, length as u64);
        }
        self.gone = true;
        self.responses.expect(kind);
        self.verdict_due = matches!(kind, Kind::Upgrade | Kind::Connect);
        let over = body.is_over();
        self.stage = Stage::Body(body);
        if over {
            self.end_of_request();
        }
    }

    /// So many bytes of the last request have gone.
    fn note_sent(&mut self, bytes: u64) {
        if let Some(journal) = self.responses.journal() {
            journal.sent(bytes);
        }
    }

    /// A request has gone whole.
    fn end_of_request(&mut self) {
        let (lost, tunnel) = (self.responses.is_lost(), self.is_granted());
        if let Some(journal) = self.responses.journal().filter(|_| !tunnel) {
            journal.sent_all();
            if lost {
                journal.lose();
            }
        }
        self.stage = match self.responses.verdict() {
            _ if !self.verdict_due => Stage::Head,
            None => Stage::Verdict,
            Some(Verdict::Granted) => Stage::Opaque,
            Some(Verdict::Denied) => Stage::Head,
        };
        self.verdict_due = false;
    }

    /// The request that has just gone whole has been granted already what it asks for.
    fn is_granted(&self) -> bool {
        self.verdict_due && self.responses.verdict() == Some(Verdict::Granted)
    }
}

#[cfg(test)]
mod tests;
