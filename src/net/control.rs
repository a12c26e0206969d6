//! The control port: its sessions, from the connection to the last byte of the answer.
//!
//! One request and one answer a session. Nothing here waits: the owner does, for [`ControlPort::descriptors`] and until
//! [`ControlPort::next_deadline`], and calls [`ControlPort::advance`], whose work is bounded however many clients there
//! are and whatever they send.
//!
//! | phase | bytes come | the client has ended | room to write | its time is over |
//! |---|---|---|---|---|
//! | reading | they are read; a whole request: waiting | it is whole: waiting | – | 2 s after the last byte: a command is whole; 10 s after it, and 60 s in all: the end, for a batch with a reply |
//! | waiting for its answer | left unread | not noticed | – | never |
//! | writing | left unread | – | more of the answer is sent; all: lingering | 10 s after the last byte that was taken, and 60 s in all: the end |
//! | lingering | dropped; too many: the end | the end | – | after 1 s: the end |
//!
//! Closing a socket with unread bytes would reset the connection and take the answer away from a client that has not
//! read it yet: hence the lingering.
//! Not here: what a request means, who may ask ([`crate::policy::acl`]), opening the socket.

pub mod request;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::model::address::{ClientAddress, SocketAddress};
use crate::model::time::{Moment, Seconds};
use crate::sys::socket;
use crate::sys::wait::Interest;

pub use request::{Refusal, Request, RequestReader};

/// Most sessions at a time.
pub const MOST_SESSIONS: usize = 32;

/// Most clients taken from the listener's queue at a time.
const MOST_ACCEPTED: usize = 32;

/// A command whose line does not end is whole if nothing follows for so long.
const SETTLE_TIME: Seconds = Seconds(2);

/// How long a client may send nothing, or take nothing.
const STALL_TIME: Seconds = Seconds(10);

/// How long reading may take in all, and writing.
const PHASE_TIME: Seconds = Seconds(60);

/// How long a client may take to close after its answer.
const LINGER_TIME: Seconds = Seconds(1);

/// Most bytes read from a session at a time.
const READ_SIZE: usize = 16 * 1024;

/// Most bytes written to a session at a time.
const WRITE_SIZE: usize = 64 * 1024;

/// Most bytes dropped after the answer.
const MOST_DROPPED: usize = 4 * 1024 * 1024;

/// What one more is told when all sessions wait for answers.
const FULL: &str = "error: the control port is busy with others; try again\n";

/// What those are told who still wait for an answer at the end.
const ENDED: &str = "error: pen has ended, and nobody knows what came of it\n";

/// What those are told who had not sent all of their request.
const NOT_HEARD: &str = "error: pen has ended; nothing is changed\n";

/// How long accepting pauses when the system has no room, in microseconds.
const PAUSE: u64 = 200_000;

/// Names a session, and never another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

/// Who is at the other end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: ClientAddress,
    /// It has connected to a loopback address.
    pub to_loopback: bool,
}

impl Peer {
    fn of(socket: &OwnedFd, address: ClientAddress) -> Peer {
        let here = socket::local_address(socket.as_fd());
        let to_loopback =
            matches!(here, Ok(SocketAddress::Inet(here)) if here.ip().to_canonical().is_loopback());
        Peer { address, to_loopback }
    }

    /// Does it run on this machine, with a right to name its files: did it come over a Unix socket or from a loopback
    /// address? To one, too: what users of other machines make pen connect to (`server`, `source`) cannot be one, as
    /// no server is the control port.
    pub fn is_local(&self) -> bool {
        match self.address {
            ClientAddress::Unix => true,
            ClientAddress::Inet(ip, _) => self.to_loopback && ip.to_canonical().is_loopback(),
        }
    }
}

/// A request that waits for [`ControlPort::reply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Where the answer goes.
    pub session: SessionId,
    /// Who asks.
    pub peer: Peer,
    /// For what.
    pub request: Request,
}

/// The listening socket and its sessions. `L` is whatever owns the socket.
#[derive(Debug)]
pub struct ControlPort<L = OwnedFd> {
    listener: L,
    sessions: BTreeMap<SessionId, Session>,
    /// How many sessions there have been.
    count: u64,
    /// Accepting pauses.
    pause: Option<Pause>,
}

#[derive(Debug)]
struct Pause {
    until: Moment,
    /// Until it has been told.
    reason: Option<io::Error>,
}

#[derive(Debug)]
struct Session {
    socket: OwnedFd,
    peer: Peer,
    phase: Phase,
    /// When this phase began.
    since: Moment,
    /// When the last byte was read or written in it, or it began.
    moved: Moment,
    /// The client has ended its direction: there is nothing left to read.
    ended: bool,
}

#[derive(Debug)]
enum Phase {
    Reading(RequestReader),
    Waiting,
    Writing { text: Vec<u8>, sent: usize },
    Lingering { dropped: usize },
}

/// What came of a step.
enum Step {
    Stay,
    Ask(Request),
    End,
}

impl<L: AsFd> ControlPort<L> {
    /// A port without sessions. The listener is non-blocking.
    pub fn new(listener: L) -> Self {
        ControlPort { listener, sessions: BTreeMap::new(), count: 0, pause: None }
    }

    /// What owns the listening socket.
    pub fn listener(&self) -> &L {
        &self.listener
    }

    /// What to wait for. Sessions that wait for their answer are not among them: nothing that their clients do matters.
    pub fn descriptors(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        let listener = self.pause.is_none().then(|| (self.listener.as_fd(), Interest::READ));
        let sessions = self.sessions.values().filter_map(|session| {
            let interest = match session.phase {
                Phase::Reading(_) | Phase::Lingering { .. } => Interest::READ,
                Phase::Writing { .. } => Interest::WRITE,
                Phase::Waiting => return None,
            };
            Some((session.socket.as_fd(), interest))
        });
        listener.into_iter().chain(sessions).collect()
    }

    /// When to call [`ControlPort::advance`] at the latest.
    pub fn next_deadline(&self) -> Option<Moment> {
        let deadlines = self.sessions.values().filter_map(Session::deadline);
        deadlines.chain(self.pause.as_ref().map(|pause| pause.until)).min()
    }

    /// Does what can be done now: reads, writes, ends what is overdue, accepts those whom `admits` lets in and closes
    /// the others unread. Returns what is to be answered.
    pub fn advance(&mut self, now: Moment, admits: impl Fn(&Peer) -> bool) -> Vec<Asked> {
        let mut asked = Vec::new();
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        for session in sessions {
            asked.extend(self.step(session, now));
        }
        if self.pause.as_ref().is_none_or(|pause| pause.until <= now) {
            self.accept(now, admits, &mut asked);
        }
        asked
    }

    /// Answers a session that waits for it. An empty text closes it without a byte.
    pub fn reply(&mut self, session: SessionId, text: String, now: Moment) {
        let Some(waiting) = self.sessions.get_mut(&session) else { return };
        if matches!(waiting.phase, Phase::Waiting) {
            waiting.answer(text, now);
            // Most answers fit the socket's buffer. What is being written asks for nothing.
            let _ = self.step(session, now);
        }
    }

    /// Is it there still? One that waits for its answer always is.
    #[cfg(test)]
    fn is_open(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Why accepting pauses, once each time that it begins to.
    pub fn take_trouble(&mut self) -> Option<io::Error> {
        self.pause.as_mut().and_then(|pause| pause.reason.take())
    }

    /// Ends all sessions. Nothing must look like a whole answer that is none, not even nothing.
    pub fn end(self) {
        for session in self.sessions.values() {
            match session.phase {
                Phase::Waiting => drop(socket::send(session.socket.as_fd(), ENDED.as_bytes())),
                Phase::Reading(_) => drop(socket::send(session.socket.as_fd(), NOT_HEARD.as_bytes())),
                Phase::Writing { .. } => session.cut_off(),
                Phase::Lingering { .. } => {}
            }
        }
    }

    fn step(&mut self, id: SessionId, now: Moment) -> Option<Asked> {
        let session = self.sessions.get_mut(&id)?;
        match session.step(now) {
            Step::Stay => None,
            Step::Ask(request) => Some(Asked { session: id, peer: session.peer, request }),
            Step::End => {
                self.sessions.remove(&id);
                None
            }
        }
    }

    fn accept(&mut self, now: Moment, admits: impl Fn(&Peer) -> bool, asked: &mut Vec<Asked>) {
        for _ in 0..MOST_ACCEPTED {
            match socket::accept(self.listener.as_fd()) {
                Ok((socket, address)) => {
                    self.pause = None;
                    let peer = Peer::of(&socket, address);
                    if !admits(&peer) {
                        continue;
                    }
                    if !self.make_room() {
                        // No answer at all would look like one to a command that has nothing to say. Neither must
                        // a reset take it away.
                        let _ = socket::receive(socket.as_fd(), &mut [0; READ_SIZE]);
                        let _ = socket::send(socket.as_fd(), FULL.as_bytes());
                    } else {
                        let id = SessionId(self.count);
                        self.count += 1;
                        self.sessions.insert(id, Session::new(socket, peer, now));
                        // At once: whoever has sent its command is not ended to make room for the next.
                        asked.extend(self.step(id, now));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.pause = None;
                    return;
                }
                Err(error) if socket::is_clients_fault(&error) => {}
                Err(error) => {
                    // The client stays in the queue, and the listener readable.
                    let reason = if self.pause.is_none() { Some(error) } else { None };
                    self.pause = Some(Pause { until: Moment(now.0.saturating_add(PAUSE)), reason });
                    return;
                }
            }
        }
    }

    /// Is there room for one more, now that the one that has got nowhere for longest is ended? Those that wait for
    /// their answer are not.
    fn make_room(&mut self) -> bool {
        if self.sessions.len() < MOST_SESSIONS {
            return true;
        }
        let idle = self.sessions.iter().filter(|(_, session)| !matches!(session.phase, Phase::Waiting));
        let longest = idle.min_by_key(|(_, session)| session.moved).map(|(id, _)| *id);
        let ended = longest.and_then(|id| self.sessions.remove(&id));
        ended.inspect(Session::cut_off).is_some()
    }
}

impl Session {
    fn new(socket: OwnedFd, peer: Peer, now: Moment) -> Self {
        let phase = Phase::Reading(RequestReader::default());
        Session { socket, peer, phase, since: now, moved: now, ended: false }
    }

    fn enter(&mut self, phase: Phase, now: Moment) {
        self.phase = phase;
        self.since = now;
        self.moved = now;
    }

    fn answer(&mut self, text: String, now: Moment) {
        self.enter(Phase::Writing { text: text.into_bytes(), sent: 0 }, now);
    }

    fn deadline(&self) -> Option<Moment> {
        let stalled = self.moved.plus(STALL_TIME).min(self.since.plus(PHASE_TIME));
        match &self.phase {
            Phase::Reading(reader) if reader.can_settle() => Some(stalled.min(self.moved.plus(SETTLE_TIME))),
            Phase::Reading(_) | Phase::Writing { .. } => Some(stalled),
            Phase::Lingering { .. } => Some(self.since.plus(LINGER_TIME)),
            Phase::Waiting => None,
        }
    }

    fn is_overdue(&self, now: Moment) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    fn step(&mut self, now: Moment) -> Step {
        match self.phase {
            Phase::Reading(_) => self.read(now),
            Phase::Waiting => Step::Stay,
            Phase::Writing { .. } => self.write(now),
            Phase::Lingering { .. } => self.linger(now),
        }
    }

    fn read(&mut self, now: Moment) -> Step {
        let Phase::Reading(reader) = &mut self.phase else { return Step::Stay };
        let mut buffer = [0; READ_SIZE];
        let verdict = match socket::receive(self.socket.as_fd(), &mut buffer) {
            Ok(0) => {
                self.ended = true;
                reader.end()
            }
            Ok(length) => {
                self.moved = now;
                reader.push(&buffer[..length])
            }
            Err(error) if is_passing(&error) => None,
            Err(_) => return Step::End,
        };
        let verdict = match verdict {
            None if self.is_overdue(now) => match self.give_up(now) {
                Some(verdict) => verdict,
                None => return Step::End,
            },
            None => return Step::Stay,
            Some(verdict) => verdict,
        };
        match verdict {
            Ok(Request::Command(line)) if line.trim().is_empty() => self.answer(String::new(), now),
            Ok(request) => {
                self.enter(Phase::Waiting, now);
                return Step::Ask(request);
            }
            Err(refusal) => self.answer(format!("error: {refusal}\n"), now),
        }
        self.write(now)
    }

    /// What to make of a client whose time is over: its command, if that can be whole; a batch is refused, because
    /// somebody relies on it. None: nothing.
    fn give_up(&mut self, now: Moment) -> Option<Result<Request, Refusal>> {
        let Phase::Reading(reader) = &mut self.phase else { return None };
        // Who still sends after a minute has not paused: nobody knows what the command would have become.
        match now.micros_since(self.moved) >= SETTLE_TIME.micros() && reader.can_settle() {
            true => reader.settle(),
            false => reader.end().filter(Result::is_err),
        }
    }

    fn write(&mut self, now: Moment) -> Step {
        let Phase::Writing { text, sent } = &mut self.phase else { return Step::Stay };
        let rest = &text[*sent..];
        if !rest.is_empty() {
            match socket::send(self.socket.as_fd(), &rest[..rest.len().min(WRITE_SIZE)]) {
                Ok(length) => {
                    *sent += length;
                    self.moved = now;
                }
                Err(error) if is_passing(&error) => {}
                Err(_) => return Step::End,
            }
        }
        if *sent < text.len() {
            return match self.is_overdue(now) {
                true => {
                    self.cut_off();
                    Step::End
                }
                false => Step::Stay,
            };
        }
        if self.ended {
            return Step::End;
        }
        socket::shutdown_write(self.socket.as_fd());
        self.enter(Phase::Lingering { dropped: 0 }, now);
        self.linger(now)
    }

    /// Half an answer must not look like a whole one.
    fn cut_off(&self) {
        if let Phase::Writing { text, sent } = &self.phase
            && *sent < text.len()
        {
            socket::reset_on_close(self.socket.as_fd());
        }
    }

    fn linger(&mut self, now: Moment) -> Step {
        let Phase::Lingering { dropped } = &mut self.phase else { return Step::Stay };
        match socket::receive(self.socket.as_fd(), &mut [0; READ_SIZE]) {
            Ok(0) => return Step::End,
            Ok(length) => *dropped += length,
            Err(error) if is_passing(&error) => {}
            Err(_) => return Step::End,
        }
        if *dropped > MOST_DROPPED || self.is_overdue(now) { Step::End } else { Step::Stay }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests;
