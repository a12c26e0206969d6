//! What there is to tell of each request when it is over: `log_format json`.
//!
//! A request begins when its head has gone, or was refused. It is over when its response has come to its end and all of
//! it has been sent, or with its connection. Requests are told in the order in which they came.
//!
//! Pure: whoever drives the [exchange](super::exchange) brings the time. Where nobody wants to know there is none of these.

use std::collections::VecDeque;

use crate::model::record::Ended;
use crate::model::time::Moment;

use super::exchange::Refusal;

/// With so many requests that are not over no more should come: each is remembered with its text …
const MOST: usize = 1000;
/// … nor with so many bytes of text, unless they are one request's: its body has to come for it to be over.
const MOST_TEXT: usize = 256 * 1024;

/// The requests of one connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Journal {
    now: Moment,
    /// Those that are not over, oldest first.
    open: VecDeque<Entry>,
    /// Those that are, and have not been told.
    over: Vec<Told>,
    /// Bytes of the text of those that are open.
    text: usize,
}

/// A request that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The first line of its head.
    pub text: Box<[u8]>,
    /// When its head was whole, or was refused.
    pub began: Moment,
    /// When it was over.
    pub ended_at: Moment,
    /// Why.
    pub ended: Ended,
    /// Of its final response.
    pub status: Option<u16>,
    /// Bytes that went to the server.
    pub up: u64,
    /// Bytes of the response, with those before the final one.
    pub down: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    text: Box<[u8]>,
    began: Moment,
    status: Option<u16>,
    up: u64,
    down: u64,
    /// More of it may come from the client. Of all of them only the last can be like this.
    sending: bool,
    refused: Option<Refusal>,
    /// Its response is over, since then.
    over: Option<(Moment, Ended)>,
}

impl Journal {
    /// It is this late.
    pub fn set_now(&mut self, now: Moment) {
        self.now = now;
    }

    /// So much is remembered that no more should come.
    pub fn is_full(&self) -> bool {
        self.open.len() >= MOST || self.open.len() > 1 && self.text >= MOST_TEXT
    }

    /// A head has gone to the server, as so many bytes.
    pub fn begin(&mut self, head: &[u8], sent: u64) {
        self.push(head, sent, true, None);
    }

    /// What should have been a head was refused.
    pub fn refuse(&mut self, head: &[u8], why: Refusal) {
        self.push(head, 0, false, Some(why));
    }

    /// The request whose body is under way was refused.
    pub fn refuse_last(&mut self, why: Refusal) {
        if let Some(last) = self.open.back_mut() {
            last.refused = Some(why);
        }
        self.sent_all();
    }

    /// More of the last request has gone to the server.
    pub fn sent(&mut self, bytes: u64) {
        if let Some(last) = self.open.back_mut().filter(|last| last.sending) {
            last.up += bytes;
        }
    }

    /// The last request has gone whole.
    pub fn sent_all(&mut self) {
        if let Some(last) = self.open.back_mut() {
            last.sending = false;
        }
        self.settle();
    }

    /// The first request's response, or what comes before it, has come so much further.
    pub fn received(&mut self, bytes: u64) {
        if let Some(first) = self.open.front_mut().filter(|first| first.over.is_none()) {
            first.down += bytes;
        }
    }

    /// The first request's final response has this status.
    pub fn status(&mut self, code: u16) {
        if let Some(first) = self.open.front_mut().filter(|first| first.over.is_none()) {
            first.status = Some(code);
        }
    }

    /// The first request's response is over.
    pub fn answered(&mut self) {
        self.conclude_first(Ended::Answered);
    }

    /// What the request asked for is granted: whatever comes from the client now belongs to it.
    pub fn granted(&mut self) {
        if let Some(last) = self.open.back_mut() {
            last.sending = true;
        }
    }

    /// The refused request, which is the last one, was answered here.
    pub fn answered_here(&mut self, code: u16, bytes: u64) {
        let now = self.now;
        if let Some(last) = self.open.back_mut()
            && let Some(why) = last.refused.filter(|_| last.over.is_none())
        {
            last.status = Some(code);
            last.down += bytes;
            last.over = Some((now, why.ended()));
        }
        self.settle();
    }

    /// Nothing can be said of any response any more.
    pub fn lose(&mut self) {
        for entry in &mut self.open {
            let ended = entry.refused.map_or(Ended::NotHttp, Refusal::ended);
            entry.over.get_or_insert((self.now, ended));
        }
        self.settle();
    }

    /// The connection is over: so is everything.
    pub fn end(&mut self, ended: Ended) {
        for entry in &mut self.open {
            let ended = entry.refused.map_or(ended, Refusal::ended);
            entry.over.get_or_insert((self.now, ended));
            entry.sending = false;
        }
        self.settle();
    }

    /// Those that are over and have not been taken before.
    pub fn take(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.over)
    }

    fn push(&mut self, head: &[u8], up: u64, sending: bool, refused: Option<Refusal>) {
        let text = first_line(head);
        self.text += text.len();
        let (text, began) = (text.into(), self.now);
        self.open.push_back(Entry { text, began, status: None, up, down: 0, sending, refused, over: None });
    }

    fn conclude_first(&mut self, ended: Ended) {
        let now = self.now;
        if let Some(first) = self.open.front_mut() {
            first.over.get_or_insert((now, ended));
        }
        self.settle();
    }

    /// Moves on those that are over and have been sent.
    fn settle(&mut self) {
        while let Some(Entry { over: Some((ended_at, ended)), sending: false, .. }) = self.open.front() {
            let (ended_at, ended) = (*ended_at, *ended);
            let Some(Entry { text, began, status, up, down, .. }) = self.open.pop_front() else {
                return;
            };
            self.text -= text.len();
            self.over.push(Told { text, began, ended_at, ended, status, up, down });
        }
    }
}

impl Refusal {
    /// How a request ends that is refused for this.
    pub fn ended(self) -> Ended {
        match self {
            Refusal::Bad(_) => Ended::BadRequest,
            Refusal::Slow => Ended::RequestTimeout,
        }
    }
}

fn first_line(head: &[u8]) -> &[u8] {
    let end = head.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    &head[..end.unwrap_or(head.len())]
}

#[cfg(test)]
mod tests;
