//! What pen has logged around a time: who asked a server for something, and when.
//!
//! The rule is the classic's. Entries are read as they are needed: for a line of time T, until one is later than T plus the
//! jitter; that one counts, too. Before that the oldest are forgotten as long as they are earlier than T less the
//! jitter. Of those that are there, the nearest in time is the client; of two that are equally near, the one that was
//! logged first. So an entry beyond the jitter is found, too, where the log has a gap.
//!
//! Where the log has been skipped, what is too old already is kept up to a limit only; it is looked at as it passes. What
//! is kept otherwise is what lies within the jitter: entries of the same second and request are one.
//!
//! Nearly all the time is spent waiting for memory, so little of it is touched: what is forgotten stays where it is until
//! its request is asked for again, or until there is half as much of it as of the rest, and is swept out.

use std::collections::hash_map::{Entry as Slot, RandomState};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::net::IpAddr;
use std::ops::Range;

use siphasher::sip128::SipHasher13;

use super::line::PenLine;

/// So many entries are kept even if they are too old: a line that is a little late may still ask for them.
const KEPT: usize = 65_536;

/// After so many entries, at least, requests are swept out that have none left: few enough for the processor's caches.
const SWEEP: usize = 4096;

/// So many servers are looked through one by one: most names differ in length or in their first bytes.
const FEW: usize = 4;

/// Pen's log, one entry after the other.
pub trait PenLog {
    /// The next one; none at the end.
    fn next(&mut self) -> Option<PenLine<'_>>;
}

/// How far from a line its client is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// So many seconds to both sides.
    Jitter(u32),
    /// In the whole log.
    Whole,
}

impl Span {
    /// The first and the last second around `time`.
    fn around(self, time: i64) -> (i64, i64) {
        match self {
            Span::Jitter(jitter) => (time.saturating_sub(jitter.into()), time.saturating_add(jitter.into())),
            Span::Whole => (i64::MIN, i64::MAX),
        }
    }
}

/// A server whose lines are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerId(u32);

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// As pen logged it.
    pub client: &'a [u8],
    /// How many seconds pen's entry is later than the line; less than 0: earlier.
    pub later: i64,
}

/// The entries that are there now.
pub struct Recent {
    span: Span,
    /// Seconds that are taken from pen's times.
    shift: i64,
    kept: usize,
    /// By [`ServerId`]: a text makes a [`Request`] with this.
    hashers: Vec<SipHasher13>,
    /// Sorted by name.
    servers: Vec<(Vec<u8>, ServerId)>,
    /// In the order of the log. Empty if nothing is ever forgotten.
    entries: VecDeque<Item>,
    clients: Tape,
    requests: Requests,
    /// The time of the entry that was read last.
    last: Option<i64>,
    /// Clients from this one on were read in a row, with that time.
    row: Client,
    ended: bool,
    /// What was looked at while it passed: for each of the requests that are asked for.
    passed: [Passed; 2],
}

/// A server and what it was asked for: 128 bits that are different for different ones. Their secret is drawn anew each
/// time: clients choose the requests, and could find two that are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request([u64; 2]);

impl Hash for Request {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    time: i64,
    client: Client,
}

#[derive(Debug, Default)]
struct Passed {
    item: Option<Item>,
    client: Vec<u8>,
}

impl Recent {
    /// Nothing yet. `shift` seconds are taken from the times of pen's log.
    pub fn new(span: Span, shift: i64) -> Self {
        Self::keeping(KEPT, span, shift)
    }

    fn keeping(kept: usize, span: Span, shift: i64) -> Self {
        Recent {
            span,
            shift,
            kept,
            hashers: Vec::new(),
            servers: Vec::new(),
            entries: VecDeque::new(),
            clients: Tape::default(),
            requests: Requests::default(),
            last: None,
            row: Client(0),
            ended: false,
            passed: Default::default(),
        }
    }

    /// The server of this name, whose entries are kept from now on. All have to be named before anything is asked for.
    /// An address is known in pen's spelling of it, too.
    pub fn server(&mut self, name: &[u8]) -> ServerId {
        let address = std::str::from_utf8(name).ok().and_then(|name| name.parse::<IpAddr>().ok());
        let spelling = address.map(|address| address.to_canonical().to_string().into_bytes());
        let names = [Some(name), spelling.as_deref()];
        let known = names.iter().flatten().find_map(|name| self.known_server(name));
        let id = known.unwrap_or(ServerId(u32::try_from(self.servers.len()).unwrap_or(u32::MAX)));
        if known.is_none() {
            let random = RandomState::new();
            self.hashers.push(SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1)));
        }
        for name in names.into_iter().flatten() {
            if let Err(place) = self.servers.binary_search_by(|(other, _)| other.as_slice().cmp(name)) {
                self.servers.insert(place, (name.to_vec(), id));
            }
        }
        id
    }

    fn known_server(&self, name: &[u8]) -> Option<ServerId> {
        if self.servers.len() <= FEW {
            return self.servers.iter().find(|(other, _)| other == name).map(|(_, id)| *id);
        }
        let place = self.servers.binary_search_by(|(other, _)| other.as_slice().cmp(name)).ok()?;
        self.servers.get(place).map(|(_, id)| *id)
    }

    /// Who asked `server` for `request` at about `time`; `cut` is asked for if nobody asked for that. Reads on in `log` as
    /// far as necessary.
    pub fn find(
        &mut self,
        server: ServerId,
        request: &[u8],
        cut: Option<&[u8]>,
        time: i64,
        log: &mut impl PenLog,
    ) -> Option<Found<'_>> {
        let wanted = [Some(self.request(server, request)), cut.map(|cut| self.request(server, cut))];
        let (from, to) = self.span.around(time);
        while self.entries.front().is_some_and(|entry| entry.time < from) {
            self.forget_first();
        }
        for passed in &mut self.passed {
            passed.item = None;
        }
        while !self.ended && self.last.is_none_or(|last| last <= to) {
            match log.next() {
                Some(line) => self.add(line, &wanted, time),
                None => self.ended = true,
            }
            while self.entries.len() > self.kept
                && self.entries.front().is_some_and(|entry| entry.time < from)
            {
                self.forget_first();
            }
        }
        self.nearest(&wanted, time)
    }

    fn request(&self, server: ServerId, text: &[u8]) -> Request {
        let hash = self.hashers.get(server.0 as usize).map(|hasher| hasher.hash(text)).unwrap_or_default();
        Request([hash.h1, hash.h2])
    }

    /// Adds an entry that is read for a line of `time`.
    fn add(&mut self, line: PenLine<'_>, wanted: &[Option<Request>; 2], time: i64) {
        let logged = line.time.saturating_sub(self.shift);
        let client = self.clients.next(line.client);
        if self.last != Some(logged) {
            self.row = Client(client.place() << 16);
        }
        self.last = Some(logged);
        let item = Item { time: logged, client };
        if let Some(server) = self.known_server(line.server) {
            let request = self.request(server, line.text);
            let oldest = self.oldest();
            if !self.requests.add(request, item, self.row, oldest) {
                // The one of the same second is found instead, and forgotten together with this one.
                return;
            }
            self.clients.append(line.client);
            // What is forgotten before this line is answered has been read for it.
            let passed = self.passed.iter_mut().zip(wanted);
            for (passed, _) in passed.filter(|(_, wanted)| **wanted == Some(request)) {
                if passed.item.is_none_or(|known| nearer(item, known, time)) {
                    passed.item = Some(item);
                    passed.client.clear();
                    passed.client.extend_from_slice(line.client);
                }
            }
            if self.span != Span::Whole {
                self.entries.push_back(item);
                self.requests.sweep(self.entries.len(), oldest);
            }
        } else if self.span != Span::Whole && self.entries.back().is_none_or(|entry| entry.time < logged) {
            // It only matters where it keeps those behind it from being forgotten.
            self.entries.push_back(Item { time: logged, client: self.clients.next(b"") });
        }
    }

    /// Clients before this one are forgotten.
    fn oldest(&self) -> Client {
        match self.entries.front() {
            Some(entry) => Client(entry.client.place() << 16),
            None if self.span == Span::Whole => Client(0),
            None => self.clients.next(b""),
        }
    }

    fn forget_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.clients.forget(entry.client);
        }
    }

    fn nearest(&mut self, wanted: &[Option<Request>; 2], time: i64) -> Option<Found<'_>> {
        let oldest = self.oldest();
        for (passed, wanted) in self.passed.iter().zip(wanted) {
            let here = wanted.and_then(|wanted| self.requests.nearest(wanted, time, oldest));
            let found = match (passed.item, here) {
                (Some(item), here) if here.is_none_or(|here| !nearer(here, item, time)) => {
                    Some((item, &passed.client[..]))
                }
                (_, here) => here.map(|item| (item, self.clients.get(item.client))),
            };
            if let Some((item, client)) = found {
                return Some(Found { client, later: item.time.saturating_sub(time) });
            }
        }
        None
    }
}

/// Is `one` rather the entry of a line of `time` than `other`?
fn nearer(one: Item, other: Item, time: i64) -> bool {
    (one.time.abs_diff(time), one.client) < (other.time.abs_diff(time), other.client)
}

/// Where a client stands on the tape, and in the last 16 bits its length. So the one that was logged first is the
/// smallest. There is room for 256 terabytes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Client(u64);

impl Client {
    fn place(self) -> u64 {
        self.0 >> 16
    }

    fn length(self) -> u64 {
        self.0 & 0xffff
    }
}

/// Clients, one behind the other: appended at one end, forgotten at the other.
#[derive(Debug, Default)]
struct Tape {
    bytes: Vec<u8>,
    /// So many of `bytes` are forgotten.
    gone: usize,
    /// The place of the first of `bytes` on the tape.
    start: u64,
}

impl Tape {
    /// What a client will be called once it has been appended.
    fn next(&self, client: &[u8]) -> Client {
        Client((self.start + self.bytes.len() as u64) << 16 | client.len().min(0xffff) as u64)
    }

    fn append(&mut self, client: &[u8]) {
        // What is left is moved to the front when it is the smaller part: a byte is moved once on the average.
        if self.gone > 4096 && self.gone > self.bytes.len() / 2 {
            self.bytes.drain(..self.gone);
            self.start += self.gone as u64;
            self.gone = 0;
        }
        self.bytes.extend_from_slice(&client[..client.len().min(0xffff)]);
    }

    /// All up to this one.
    fn forget(&mut self, client: Client) {
        self.gone = self.range(client).end;
    }

    fn get(&self, client: Client) -> &[u8] {
        self.bytes.get(self.range(client)).unwrap_or_default()
    }

    fn range(&self, client: Client) -> Range<usize> {
        let from = client.place().saturating_sub(self.start);
        let place = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(self.bytes.len());
        place(from)..place(from + client.length())
    }
}

/// When things were asked for, and by whom.
#[derive(Debug, Default)]
struct Requests {
    times: HashMap<Request, Times, BuildHasherDefault<Hashed>>,
    /// So many entries were added since the last sweep.
    added: usize,
}

/// The entries of a request; some of them are forgotten.
#[derive(Debug)]
enum Times {
    One(Item),
    Many(Many),
}

#[derive(Debug)]
struct Many {
    /// Sorted.
    all: VecDeque<Item>,
    /// The last of them. To look at it there would be to wait for it.
    latest: Item,
    /// About where the last one was found: the next one will not be far from it.
    hint: u32,
}

impl Requests {
    /// Notes an entry. False: the latest one that is there is of the same second, and its client is `row` or one behind it.
    fn add(&mut self, request: Request, item: Item, row: Client, oldest: Client) -> bool {
        let times = match self.times.entry(request) {
            Slot::Vacant(slot) => {
                slot.insert(Times::One(item));
                self.added += 1;
                return true;
            }
            Slot::Occupied(slot) => slot.into_mut(),
        };
        let latest = match times {
            Times::One(latest) => *latest,
            Times::Many(many) => many.latest,
        };
        if latest.time == item.time && latest.client >= row.max(oldest) {
            return false;
        }
        self.added += 1;
        match times {
            Times::One(other) if other.client < oldest => *other = item,
            Times::One(other) => {
                let (first, latest) = (item.min(*other), item.max(*other));
                *times = Times::Many(Many { all: VecDeque::from([first, latest]), latest, hint: 0 });
            }
            Times::Many(many) => many.add(item, oldest),
        }
        true
    }

    fn nearest(&mut self, request: Request, time: i64, oldest: Client) -> Option<Item> {
        match self.times.get_mut(&request)? {
            Times::One(item) => Some(*item).filter(|item| item.client >= oldest),
            Times::Many(many) => many.nearest(time, oldest),
        }
    }

    /// Takes requests out that have no entries left, if enough was added for that to be worth while beside so many
    /// entries that are there.
    fn sweep(&mut self, entries: usize, oldest: Client) {
        if self.added > (entries / 2).max(SWEEP) {
            self.added = 0;
            self.times.retain(|_, times| match times {
                Times::One(item) => item.client >= oldest,
                Times::Many(many) => many.all.iter().rev().any(|item| item.client >= oldest),
            });
        }
    }
}

impl Many {
    fn add(&mut self, item: Item, oldest: Client) {
        if self.all.len() == self.all.capacity() {
            self.forget(oldest);
        }
        if self.all.is_empty() || self.latest < item {
            self.all.push_back(item);
            self.latest = item;
        } else {
            let at = self.all.partition_point(|other| *other < item);
            self.all.insert(at, item);
        }
    }

    /// Takes out, at the beginning, what is forgotten.
    fn forget(&mut self, oldest: Client) {
        while self.all.front().is_some_and(|item| item.client < oldest) {
            self.all.pop_front();
            self.hint = self.hint.saturating_sub(1);
        }
    }

    fn nearest(&mut self, time: i64, oldest: Client) -> Option<Item> {
        loop {
            let at = self.position(time, self.hint as usize);
            self.hint = u32::try_from(at).unwrap_or(0);
            let after = self.all.get(at).copied();
            // Of the last second before it, the entry that was logged first.
            let before = at.checked_sub(1).and_then(|at| self.all.get(at));
            let before = before.and_then(|last| self.all.get(self.position(last.time, at - 1)).copied());
            let found = match (before, after) {
                (Some(before), Some(after)) if nearer(after, before, time) => Some(after),
                (Some(before), _) => Some(before),
                (None, after) => after,
            };
            if [before, after].iter().flatten().all(|item| item.client >= oldest) {
                return found;
            }
            let there = self.all.len();
            self.forget(oldest);
            if self.all.len() == there {
                // It is behind one that is not forgotten: the log is not in order here.
                self.all.retain(|item| item.client >= oldest);
                self.latest = self.all.back().copied().unwrap_or(self.latest);
            }
        }
    }

    /// Where the first entry is that is not before `time`; looked for from `hint` on.
    fn position(&self, time: i64, hint: usize) -> usize {
        let before = |at: usize| self.all.get(at).is_some_and(|item| item.time < time);
        let length = self.all.len();
        let mut step = 1;
        let (mut from, mut to);
        if before(hint) {
            from = hint + 1;
            while before(from + step - 1) {
                from += step;
                step *= 2;
            }
            to = (from + step - 1).min(length);
        } else {
            to = hint.min(length);
            while to >= step && !before(to - step) {
                to -= step;
                step *= 2;
            }
            from = (to + 1).saturating_sub(step);
        }
        while from < to {
            let middle = from + (to - from) / 2;
            if before(middle) {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from
    }
}

/// A request is hashed already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 ^= hash;
    }
}

#[cfg(test)]
mod tests;
