//! Bytes from one side of a connection to the other.
//!
//! A direction reads into the worker's scratch buffer and writes at once. Only what the other side did not take is
//! kept, and while anything is kept nothing more is read: that is all the back-pressure there is. A direction
//! that fills the scratch buffer twice in a row moves through a pipe instead, with splice(2), until its chunks
//! get small again; below some 16 KiB splicing costs more than copying.
//!
//! Readiness is edge-triggered: a side is believed to be readable or writable until a call says otherwise.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::poller::Readiness;
use crate::sys::socket::{self, Pipe};

use super::buffers::{Means, PIPE};

/// Reads in one go before the other connections get their turn.
const ROUNDS: u32 = 16;

/// Reads in a row that filled the scratch buffer before splicing begins.
const FULL: u8 = 2;

/// Chunks smaller than this, in bytes, are better copied.
const SMALL: usize = 16 * 1024;

/// Small chunks in a row before splicing ends.
const FEW: u8 = 4;

/// One side of a connection: a socket, and what is believed of it.
#[derive(Debug)]
pub struct Side {
    socket: OwnedFd,
    readable: bool,
    /// It took less than it was given: wait until the poller says that there is room.
    blocked: bool,
    /// The peer has ended its direction or is gone: read on until the stream ends.
    ending: bool,
    nodelay: bool,
    sent: bool,
}

impl Side {
    /// The side towards the client. TCP_NODELAY came with the listener.
    pub fn client(socket: OwnedFd) -> Self {
        Side { socket, readable: false, blocked: false, ending: false, nodelay: true, sent: false }
    }

    /// The side towards the server, just connected.
    pub fn server(socket: OwnedFd) -> Self {
        Side { socket, readable: false, blocked: false, ending: false, nodelay: false, sent: false }
    }

    /// The poller says so.
    pub fn note(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable();
        self.blocked &= !readiness.writable();
        self.ending |= readiness.ending();
    }

    /// Its socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// There may be something to read.
    pub fn readable(&self) -> bool {
        self.readable
    }

    /// It takes nothing more. What it said last may not have been read yet: an answer to an upload that it did not
    /// want, say, and the news of it comes only with a later event.
    pub fn read_the_rest(&mut self) {
        self.readable = true;
    }

    /// Reads into `room`: the number of bytes, 0 at the end of the stream, `None` when there is nothing now.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn receive(&mut self, room: &mut [u8]) -> io::Result<Option<usize>> {
        match socket::receive(self.socket.as_fd(), room) {
            Ok(count) => {
                // A short read has emptied the socket, and whatever comes later is reported. The end of the
                // stream, though, may have been reported already.
                self.readable = count == room.len() || (self.ending && count > 0);
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes what the socket takes: the number of bytes.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.expect_more();
        match socket::send(self.socket.as_fd(), bytes) {
            Ok(count) => {
                self.blocked = count < bytes.len();
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// Nagle's algorithm can only hold back what follows an earlier small segment, so the call that turns it off is
    /// left out for connections that never send a second time.
    fn expect_more(&mut self) {
        if self.sent && !self.nodelay {
            socket::set_nodelay(self.socket.as_fd());
            self.nodelay = true;
        }
        self.sent = true;
    }
}

/// What one direction has taken and not yet handed on.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// Bytes from this position on.
    Bytes(Vec<u8>, usize),
    /// So many bytes in a pipe.
    Piped(Pipe, usize),
}

/// How far one direction is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Course {
    /// More may come.
    #[default]
    Flowing,
    /// The end of the stream was read; something is still held.
    Draining,
    /// The end of the stream was read and all bytes before it were handed on.
    Ended,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Flow {
    held: Held,
    course: Course,
    full: u8,
    small: u8,
    never_splice: bool,
    bytes: u64,
}

/// What a turn of a direction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Bytes read.
    pub bytes: u64,
    /// The direction came to its end in this turn.
    pub ended: bool,
    /// Bytes were read or handed on.
    pub active: bool,
    /// There is more to do without waiting for the poller.
    pub again: bool,
}

/// Which side broke a direction.
#[derive(Debug)]
pub enum Broken {
    /// The one that it reads from.
    Source(io::Error),
    /// The one that it writes to.
    Sink(io::Error),
}

impl Flow {
    /// How far it is from its end.
    pub fn course(&self) -> Course {
        self.course
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes taken and not yet handed on; at most the size of a pipe.
    pub fn held(&self) -> usize {
        match &self.held {
            Held::Nothing => 0,
            Held::Bytes(buffer, start) => buffer.len() - start,
            Held::Piped(_, count) => *count,
        }
    }

    /// The connection is over: what is held is lost, its memory is not.
    pub fn drop_held(&mut self, means: &mut Means) {
        match std::mem::take(&mut self.held) {
            Held::Nothing => {}
            Held::Bytes(buffer, _) => means.buffers.give_back(buffer),
            Held::Piped(pipe, _) => means.pipes.lose(pipe),
        }
    }

    /// Moves what can be moved now. `see` is shown every chunk that is copied; it sees all of them only without
    /// `splice`.
    ///
    /// # Errors
    /// One of the sides is broken.
    pub fn pump(
        &mut self,
        from: &mut Side,
        to: &mut Side,
        means: &mut Means,
        splice: bool,
        mut see: impl FnMut(&[u8]),
    ) -> Result<Turn, Broken> {
        let mut turn = Turn::default();
        if !matches!(self.held, Held::Nothing) {
            let before = self.held();
            let all = self.hand_on(to, means).map_err(Broken::Sink)?;
            turn.active = self.held() < before;
            if !all {
                return Ok(turn);
            }
        }
        let mut rounds = 0;
        while self.course == Course::Flowing && from.readable && matches!(self.held, Held::Nothing) {
            if rounds == ROUNDS {
                turn.again = true;
                break;
            }
            rounds += 1;
            let moved = if splice && self.full >= FULL && !self.never_splice {
                self.splice_once(from, to, means)?
            } else {
                self.copy_once(from, to, means, &mut see)?
            };
            self.bytes += moved;
            turn.bytes += moved;
            turn.active |= moved > 0;
        }
        if self.course == Course::Draining && matches!(self.held, Held::Nothing) {
            self.course = Course::Ended;
            turn.ended = true;
        }
        Ok(turn)
    }

    fn copy_once(
        &mut self,
        from: &mut Side,
        to: &mut Side,
        means: &mut Means,
        see: &mut impl FnMut(&[u8]),
    ) -> Result<u64, Broken> {
        let Some(count) = from.receive(&mut means.scratch).map_err(Broken::Source)? else {
            return Ok(0);
        };
        if count == 0 {
            self.course = Course::Draining;
            return Ok(0);
        }
        self.full = if count == means.scratch.len() { self.full.saturating_add(1) } else { 0 };
        let chunk = &means.scratch[..count];
        see(chunk);
        let taken = to.send(chunk).map_err(Broken::Sink)?;
        if taken < count {
            self.held = Held::Bytes(means.buffers.keep(&chunk[taken..]), 0);
        }
        Ok(count as u64)
    }

    fn splice_once(&mut self, from: &mut Side, to: &mut Side, means: &mut Means) -> Result<u64, Broken> {
        let Some(pipe) = means.pipes.take() else {
            self.full = 0;
            return Ok(0);
        };
        match pipe.fill(from.socket.as_fd(), PIPE) {
            Ok(0) => {
                means.pipes.give_back(pipe);
                self.course = Course::Draining;
                Ok(0)
            }
            Ok(count) => {
                self.small = if count < SMALL { self.small + 1 } else { 0 };
                if self.small >= FEW {
                    self.small = 0;
                    self.full = 0;
                }
                self.held = Held::Piped(pipe, count);
                self.hand_on(to, means).map_err(Broken::Sink)?;
                Ok(count as u64)
            }
            Err(error) => {
                means.pipes.give_back(pipe);
                match error.kind() {
                    io::ErrorKind::WouldBlock => from.readable = false,
                    io::ErrorKind::Interrupted => {}
                    // A kind of socket that cannot be spliced.
                    io::ErrorKind::InvalidInput => self.never_splice = true,
                    _ => return Err(Broken::Source(error)),
                }
                Ok(0)
            }
        }
    }

    /// Hands on what is held; true when all of it is gone.
    fn hand_on(&mut self, to: &mut Side, means: &mut Means) -> io::Result<bool> {
        if to.blocked {
            return Ok(matches!(self.held, Held::Nothing));
        }
        match std::mem::take(&mut self.held) {
            Held::Nothing => Ok(true),
            Held::Bytes(buffer, start) => {
                let result = to.send(&buffer[start..]);
                match result {
                    Ok(taken) if start + taken == buffer.len() => {
                        means.buffers.give_back(buffer);
                        Ok(true)
                    }
                    Ok(taken) => {
                        self.held = Held::Bytes(buffer, start + taken);
                        Ok(false)
                    }
                    Err(error) => {
                        means.buffers.give_back(buffer);
                        Err(error)
                    }
                }
            }
            Held::Piped(pipe, mut count) => {
                to.expect_more();
                while count > 0 {
                    match pipe.drain(to.socket.as_fd(), count) {
                        Ok(taken) if taken > 0 => count -= taken,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                            means.pipes.lose(pipe);
                            return Err(error);
                        }
                        Ok(_) | Err(_) => {
                            to.blocked = true;
                            break;
                        }
                    }
                }
                if count == 0 {
                    means.pipes.give_back(pipe);
                    return Ok(true);
                }
                self.held = Held::Piped(pipe, count);
                Ok(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poller::{Events, Poller};
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    /// A flow between two real connections, driven by a real poller.
    struct Rig {
        writer: TcpStream,
        reader: TcpStream,
        from: Side,
        to: Side,
        flow: Flow,
        means: Means,
        poller: Poller,
        splice: bool,
        seen: usize,
    }

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (two, _) = listener.accept().unwrap();
        one.set_nonblocking(true).unwrap();
        two.set_nonblocking(true).unwrap();
        (one, two)
    }

    impl Rig {
        fn new(splice: bool, pipes: usize) -> Rig {
            let ((writer, from), (to, reader)) = (connected(), connected());
            let (from, to) = (Side::client(from.into()), Side::server(to.into()));
            let poller = Poller::new().unwrap();
            poller.add_stream(from.socket.as_fd(), 1).unwrap();
            poller.add_stream(to.socket.as_fd(), 2).unwrap();
            let (flow, means) = (Flow::default(), Means::new(pipes));
            Rig { writer, reader, from, to, flow, means, poller, splice, seen: 0 }
        }

        /// One turn of a worker's loop.
        fn turn(&mut self) -> Result<Turn, Broken> {
            let mut events = Events::with_capacity(8);
            self.poller.wait(&mut events, Duration::ZERO).unwrap();
            for index in 0..events.len() {
                match events.get(index) {
                    (1, readiness) => self.from.note(readiness),
                    (_, readiness) => self.to.note(readiness),
                }
            }
            let Rig { from, to, flow, means, seen, .. } = self;
            flow.pump(from, to, means, self.splice, |chunk| *seen += chunk.len())
        }
    }

    /// Sends `total` bytes in writes of `write` bytes, reads them in reads of `read` bytes, and compares.
    fn transfer(mut rig: Rig, total: usize, write: usize, read: usize) -> Rig {
        let pattern: Vec<u8> = (0..total).map(|at| (at.wrapping_mul(31) >> 3) as u8 ^ at as u8).collect();
        let (mut sent, mut got) = (0, Vec::with_capacity(total));
        let mut room = vec![0; read];
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut ended = false;
        loop {
            assert!(Instant::now() < deadline, "{sent} sent, {} received of {total}", got.len());
            if sent < total {
                let end = total.min(sent + write);
                if let Ok(count) = rig.writer.write(&pattern[sent..end]) {
                    sent += count;
                }
                if sent == total {
                    rig.writer.shutdown(Shutdown::Write).unwrap();
                }
            }
            let turn = rig.turn().unwrap();
            if turn.ended {
                assert!(!std::mem::replace(&mut ended, true), "it ended twice");
                socket::shutdown_write(rig.to.socket.as_fd());
            }
            match rig.reader.read(&mut room) {
                Ok(0) => break,
                Ok(count) => got.extend_from_slice(&room[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(ended);
        assert_eq!(rig.flow.course(), Course::Ended);
        assert_eq!(rig.flow.bytes(), total as u64);
        assert_eq!(rig.flow.held(), 0);
        assert!(got == pattern, "the bytes changed on the way");
        rig
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_byte_arrives_once_and_in_order(
            total in 0usize..3_000_000,
            write in prop_oneof![1usize..2000, 60_000usize..70_000, 500_000usize..1_000_000],
            read in prop_oneof![1000usize..5000, 60_000usize..70_000, 500_000usize..1_000_000],
            splice: bool,
            pipes in 0usize..3,
        ) {
            // Small steps over large totals would only take long.
            let total = total.min(write.min(read) * 2000);
            let rig = transfer(Rig::new(splice, pipes), total, write, read);
            prop_assert!(splice || rig.seen == total);
        }
    }

    #[test]
    fn large_flows_are_spliced_and_the_pipe_comes_back() {
        let rig = transfer(Rig::new(true, 4), 8 << 20, 1 << 20, 1 << 20);
        assert!(rig.seen < 8 << 20, "everything was copied");
        assert_eq!(rig.means.pipes.open(), 1);
    }

    #[test]
    fn without_pipes_large_flows_are_copied() {
        let rig = transfer(Rig::new(true, 0), 8 << 20, 1 << 20, 1 << 20);
        assert_eq!(rig.seen, 8 << 20);
    }

    #[test]
    fn a_reader_that_stalls_stops_the_reading() {
        for splice in [false, true] {
            let mut rig = Rig::new(splice, 1);
            let chunk = vec![7; 1 << 20];
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut quiet = 0;
            // Until neither the writer gets anything off nor the flow moves anything, many turns in a row.
            while quiet < 200 {
                assert!(Instant::now() < deadline);
                let wrote = rig.writer.write(&chunk).is_ok();
                let turn = rig.turn().unwrap();
                quiet = if wrote || turn.active { 0 } else { quiet + 1 };
            }
            assert!(rig.flow.held() > 0 && rig.flow.held() <= PIPE, "{}", rig.flow.held());
            let before = rig.flow.bytes();
            assert!(rig.writer.write(&chunk).is_err());
            assert_eq!(rig.turn().unwrap(), Turn::default());
            assert_eq!(rig.flow.bytes(), before);
            rig.flow.drop_held(&mut rig.means);
            assert_eq!(rig.means.pipes.open(), 0);
        }
    }

    #[test]
    fn a_side_that_is_gone_is_named() {
        let mut rig = Rig::new(true, 1);
        socket::reset_on_close(rig.writer.as_fd());
        rig.writer.write_all(b"before the end").unwrap();
        let gone = std::mem::replace(&mut rig.writer, connected().0);
        drop(gone);
        let deadline = Instant::now() + Duration::from_secs(10);
        let broken = loop {
            assert!(Instant::now() < deadline);
            match rig.turn() {
                Ok(_) => {}
                Err(broken) => break broken,
            }
        };
        assert!(matches!(broken, Broken::Source(_)), "{broken:?}");
    }

    #[test]
    fn unix_sockets_work_both_ways_too() {
        let (mut writer, from) = UnixStream::pair().unwrap();
        let (to, mut reader) = UnixStream::pair().unwrap();
        for stream in [&from, &to] {
            stream.set_nonblocking(true).unwrap();
        }
        let (mut from, mut to) = (Side::client(from.into()), Side::server(to.into()));
        let poller = Poller::new().unwrap();
        poller.add_stream(from.socket.as_fd(), 1).unwrap();
        poller.add_stream(to.socket.as_fd(), 2).unwrap();
        let (mut flow, mut means) = (Flow::default(), Means::new(2));
        let total = 4 << 20;
        let sender = std::thread::spawn(move || writer.write_all(&vec![9; total]));
        let receiver = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        let mut events = Events::with_capacity(8);
        let mut over = false;
        while !over {
            poller.wait(&mut events, Duration::from_secs(5)).unwrap();
            assert!(!events.is_empty(), "stalled");
            for index in 0..events.len() {
                match events.get(index) {
                    (1, readiness) => from.note(readiness),
                    (_, readiness) => to.note(readiness),
                }
            }
            loop {
                let turn = flow.pump(&mut from, &mut to, &mut means, true, |_| ()).unwrap();
                over |= turn.ended;
                if !turn.again {
                    break;
                }
            }
        }
        drop(to);
        sender.join().unwrap().unwrap();
        assert_eq!(receiver.join().unwrap().unwrap(), vec![9; total]);
    }
}
