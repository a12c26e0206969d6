//! Lines that came before the record of their request, and the lines that wait behind them.
//!
//! Lines leave in the order in which they came: one that waits holds all behind it. A record that comes is that of the
//! oldest line that still waits for one such, and of no other. Where a server may or may not write escapes a line waits
//! for two requests, and gets the first that comes.

use std::collections::VecDeque;

use super::output;
use super::prefixes::{NodeId, Payload, Prefixes, Texts};
use super::visits::{Key, Visit};
use crate::model::time::Moment;

/// What a line takes beside its bytes, roughly.
const OVERHEAD: usize = 128;

/// How many nodes below a text that was cut are looked at. Whoever waits there has asked for more than a datagram holds.
const MOST_BEYOND: usize = 256;

/// The lines, oldest first.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The number of the oldest line.
    first: u64,
    lines: VecDeque<Line>,
    /// Bytes of all of them, with all that belongs to them.
    bytes: usize,
    keys: Keys,
    tree: Prefixes<Queue>,
    /// So many lines have not got their client yet.
    without: usize,
}

#[derive(Debug)]
struct Line {
    bytes: Box<[u8]>,
    client: Client,
    /// How many requests it waits for.
    keys: u8,
    size: usize,
}

#[derive(Debug)]
enum Client {
    /// It can be awaited until then.
    AwaitedUntil(Moment),
    Known(Box<[u8]>),
}

/// Requests that are waited for, oldest first.
#[derive(Debug, Default)]
struct Keys {
    /// The number of the oldest.
    first: u64,
    queue: VecDeque<Request>,
}

#[derive(Debug)]
struct Request {
    key: Box<[u8]>,
    line: u64,
    /// The next with the same key.
    next: Option<u64>,
}

/// The requests that have the same key.
#[derive(Debug, Default)]
struct Queue(Option<Ends>);

#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u64,
    last: u64,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Waiting {
            first: 0,
            lines: VecDeque::new(),
            bytes: 0,
            keys: Keys::default(),
            tree: Prefixes::new(),
            without: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many lines there are, and how many bytes they take.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.lines.len(), self.bytes)
    }

    /// Until when the oldest line waits; all others wait longer.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.lines.front()?.client {
            Client::AwaitedUntil(deadline) => Some(deadline),
            Client::Known(_) => None,
        }
    }

    /// A line that only waits for those before it.
    pub(super) fn push_known(&mut self, line: &[u8], client: &[u8]) {
        self.push(line, Client::Known(client.into()), &[]);
    }

    /// A line that waits for one of these requests.
    pub(super) fn push_awaiting(&mut self, line: &[u8], deadline: Moment, asked: &[&Key]) {
        self.without += 1;
        self.push(line, Client::AwaitedUntil(deadline), asked);
    }

    /// A record has come: the oldest line that waits for one such gets its client.
    pub(super) fn resolve(&mut self, visit: Visit<'_>) {
        if self.without == 0 {
            return;
        }
        let key = visit.key.bytes();
        let descent = self.tree.descend(&self.keys, key);
        let mut nodes: Vec<NodeId> = self.tree.passed().map(|(node, _)| node).collect();
        if visit.cut {
            nodes.extend(self.tree.beyond(descent, key.len(), MOST_BEYOND));
        }
        let oldest = nodes.into_iter().filter_map(|node| self.oldest_at(node)).min();
        let Some(line) = oldest.and_then(|number| self.lines.get_mut((number - self.first) as usize)) else {
            return;
        };
        line.client = Client::Known(visit.client.into());
        line.size += visit.client.len();
        self.bytes += visit.client.len();
        self.without -= 1;
    }

    /// Does the oldest line wait for nothing any more?
    pub(super) fn is_ready(&self) -> bool {
        self.lines.front().is_some_and(|line| matches!(line.client, Client::Known(_)))
    }

    /// Writes the oldest line. If it still waits, its client is that of the first of its requests that `newest` knows one
    /// of: a record that came for the request of an earlier line is the newest for those after it. Was there none?
    pub(super) fn write_oldest(
        &mut self,
        mut newest: impl FnMut(&[u8]) -> Option<Box<[u8]>>,
        out: &mut Vec<u8>,
    ) -> Option<bool> {
        let oldest = self.lines.front()?;
        let keys = usize::from(oldest.keys);
        let late = match oldest.client {
            Client::Known(_) => None,
            Client::AwaitedUntil(_) => {
                self.keys.queue.iter().take(keys).find_map(|request| newest(&request.key))
            }
        };
        for _ in 0..keys {
            self.forget_key();
        }
        let line = self.lines.pop_front()?;
        self.first += 1;
        self.bytes -= line.size;
        match line.client {
            Client::Known(client) => {
                output::write(out, Some(&client), &line.bytes);
                Some(false)
            }
            Client::AwaitedUntil(_) => {
                self.without -= 1;
                output::write(out, late.as_deref(), &line.bytes);
                Some(late.is_none())
            }
        }
    }

    fn push(&mut self, line: &[u8], client: Client, asked: &[&Key]) {
        let number = self.first + self.lines.len() as u64;
        for key in asked {
            self.wait_for(number, key.bytes());
        }
        let keys: usize = asked.iter().map(|key| key.bytes().len() + OVERHEAD).sum();
        let known = if let Client::Known(client) = &client { client.len() } else { 0 };
        let size = line.len() + keys + known + OVERHEAD;
        self.bytes += size;
        self.lines.push_back(Line { bytes: line.into(), client, keys: asked.len() as u8, size });
    }

    fn wait_for(&mut self, line: u64, key: &[u8]) {
        let number = self.keys.first + self.keys.queue.len() as u64;
        let end = self.tree.insert(&self.keys, number, key);
        self.keys.queue.push_back(Request { key: key.into(), line, next: None });
        let queue = &mut self.tree.payload_mut(end).0;
        let first = match queue {
            Some(Ends { first, last }) => {
                if let Some(before) = self.keys.get_mut(*last) {
                    before.next = Some(number);
                }
                *first
            }
            None => number,
        };
        *queue = Some(Ends { first, last: number });
    }

    /// The oldest line that waits for the request that ends at this node.
    fn oldest_at(&mut self, node: NodeId) -> Option<u64> {
        loop {
            let first = self.tree.payload(node).0?.first;
            let line = self.keys.get(first)?.line;
            let waits = self.lines.get((line - self.first) as usize);
            if waits.is_some_and(|line| matches!(line.client, Client::AwaitedUntil(_))) {
                return Some(line);
            }
            self.take_first(node);
        }
    }

    /// Forgets the oldest request that is waited for.
    fn forget_key(&mut self) {
        let number = self.keys.first;
        let Some(oldest) = self.keys.queue.front() else {
            return;
        };
        if let Some(end) = self.tree.end_of(&oldest.key)
            && self.tree.payload(end).0.is_some_and(|ends| ends.first == number)
        {
            self.take_first(end);
        }
        if let Some(oldest) = self.keys.queue.pop_front() {
            self.keys.first += 1;
            self.tree.forget(number, &oldest.key);
        }
    }

    /// Takes the first request off the queue of a node.
    fn take_first(&mut self, node: NodeId) {
        let queue = &mut self.tree.payload_mut(node).0;
        if let Some(Ends { first, last }) = *queue {
            let next = self.keys.get(first).and_then(|request| request.next);
            *queue = next.map(|first| Ends { first, last });
        }
    }
}

impl Keys {
    fn get(&self, number: u64) -> Option<&Request> {
        self.queue.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Request> {
        self.queue.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

impl Texts for Keys {
    fn text(&self, number: u64) -> &[u8] {
        self.get(number).map_or(&[], |request| &request.key)
    }
}

impl Payload for Queue {
    fn is_idle(&self) -> bool {
        self.0.is_none()
    }
}
