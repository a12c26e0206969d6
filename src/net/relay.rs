//! Bytes from one side of a connection to the other.
//!
//! A direction reads into the worker's scratch buffer and writes at once. Only what the other side did not take is
//! kept, and while anything is kept nothing more is read: that is all the back-pressure there is. A direction
//! that fills the scratch buffer twice in a row moves through a pipe instead, with splice(2), until its chunks
//! get small again; below some 16 KiB splicing costs more than copying.
//!
//! What is written with TLS the side itself holds, if its socket does not take it ([`Endpoint`]): then, too, nothing more is
//! read. Such sides are never spliced.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use crate::policy::http::Outgoing;
use crate::sys::socket::Pipe;

use super::buffers::{BufferPool, PIPE, RelayBuffers};
use super::endpoint::{Endpoint, Known};

/// Reads in one go before the other connections get their turn: a mebibyte that is copied, or four of what is spliced, in
/// about the same time.
pub(super) const ROUNDS: u32 = 16;

/// Reads in a row that filled the scratch buffer before splicing begins.
const FULL: u8 = 2;

/// Chunks smaller than this, in bytes, are better copied.
const SMALL: usize = 16 * 1024;

/// Small chunks in a row before splicing ends.
const FEW: u8 = 4;

/// How many pieces are sent with one call.
const PIECES: usize = 32;

/// What is done with the bytes of a direction on their way.
pub trait Filter {
    /// Bytes may go out that have not come in, or come in and not go out.
    const CHANGES: bool = true;

    /// More may be read now.
    fn is_open(&self) -> bool;

    /// How many of the next bytes may go by without being read into memory.
    fn unseen(&self) -> u64;

    /// So many bytes, at most [`Filter::unseen`], have gone by.
    fn skip(&mut self, bytes: u64);

    /// A chunk was read. True: it goes on as it is; false: what was put into `out`.
    fn pass(&mut self, chunk: &[u8], out: &mut Outgoing) -> bool;

    /// What was held back goes on, put into `out`: false if there is nothing of that kind.
    fn resume(&mut self, out: &mut Outgoing) -> bool;

    /// The stream has ended: what was held back and goes on all the same is put into `out`.
    fn end(&mut self, out: &mut Outgoing);
}

/// All bytes go on as they are, and are shown to somebody.
#[derive(Debug)]
pub struct Shown<F> {
    /// They need not be shown: they may go by without being read.
    pub splice: bool,
    /// Is shown every chunk that is read; that is all of them only without `splice`.
    pub see: F,
}

impl<F: FnMut(&[u8])> Filter for Shown<F> {
    const CHANGES: bool = false;

    #[inline]
    fn is_open(&self) -> bool {
        true
    }

    fn unseen(&self) -> u64 {
        if self.splice { u64::MAX } else { 0 }
    }

    fn skip(&mut self, _: u64) {}

    fn pass(&mut self, chunk: &[u8], _: &mut Outgoing) -> bool {
        (self.see)(chunk);
        true
    }

    fn resume(&mut self, _: &mut Outgoing) -> bool {
        false
    }

    fn end(&mut self, _: &mut Outgoing) {}
}

/// What one direction has taken and not yet handed on.
#[derive(Debug, Default)]
enum Backlog {
    #[default]
    Nothing,
    /// Bytes from this position on.
    Bytes(Vec<u8>, usize),
    /// So many bytes in a pipe.
    Piped(Pipe, usize),
}

/// How far one direction is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DirectionState {
    /// More may come.
    #[default]
    Flowing,
    /// The end of the stream was read; something is still held.
    Draining,
    /// The end of the stream was read and all bytes before it were handed on.
    Ended,
    /// There is nobody any more to hand anything on to.
    Abandoned,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Direction {
    backlog: Backlog,
    state: DirectionState,
    full: u8,
    small: u8,
    never_splice: bool,
    /// The side that it writes to was reset, and had not ended its own stream before.
    reset: bool,
    bytes: u64,
    passed: u64,
}

/// What a turn of a direction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes read.
    pub bytes: u64,
    /// The direction came to its end in this turn.
    pub ended: bool,
    /// Bytes were read or handed on.
    pub active: bool,
    /// There is more to do without waiting for the poller.
    pub again: bool,
}

impl Progress {
    /// What two turns came to, one after the other.
    pub fn and(self, next: Progress) -> Progress {
        Progress {
            bytes: self.bytes + next.bytes,
            ended: self.ended || next.ended,
            active: self.active || next.active,
            again: next.again,
        }
    }
}

/// Which side broke a direction.
#[derive(Debug)]
pub enum Broken {
    /// The one that it reads from.
    Source(io::Error),
    /// The one that it writes to.
    Sink(io::Error),
}

impl Direction {
    /// How far it is from its end.
    pub fn state(&self) -> DirectionState {
        self.state
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that went on, or are held until they can: with what the filter has put in and without what it has taken
    /// out.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Bytes taken and not yet handed on, beside what the other side holds; at most the size of a pipe.
    pub fn backlog(&self) -> usize {
        match &self.backlog {
            Backlog::Nothing => 0,
            Backlog::Bytes(buffer, start) => buffer.len() - start,
            Backlog::Piped(_, count) => *count,
        }
    }

    /// What was read waits for room on the other side, and nothing more is read until there is some: each segment that
    /// comes meanwhile would wake this process for nothing.
    pub fn is_stopped(&self, to: &Endpoint) -> bool {
        !matches!(self.backlog, Backlog::Nothing) || to.held() > 0
    }

    /// The connection is over: what is held is lost, its memory is not.
    pub fn discard(&mut self, buffers: &mut RelayBuffers) {
        match std::mem::take(&mut self.backlog) {
            Backlog::Nothing => {}
            Backlog::Bytes(buffer, _) => buffers.pool.give_back(buffer),
            Backlog::Piped(pipe, _) => buffers.pipes.lose(pipe),
        }
    }

    /// Nobody is left to take anything, as `error` says: what is held is lost, and nothing more is read.
    ///
    /// The error is not told a second time, reading there ends like any stream. But it tells the two apart: EPIPE
    /// is for a peer that had ended its stream before.
    pub fn abandon(&mut self, error: &io::Error, buffers: &mut RelayBuffers) {
        self.discard(buffers);
        self.state = DirectionState::Abandoned;
        self.reset = error.kind() != io::ErrorKind::BrokenPipe;
    }

    /// It was abandoned because of a reset.
    pub fn was_reset(&self) -> bool {
        self.reset
    }

    /// There is nothing to be done for it now, whatever the poller has said.
    pub fn is_at_rest(&self, from: &Endpoint, to: &Endpoint) -> bool {
        !from.readable() && self.state != DirectionState::Draining && self.has_delivered(to)
    }

    /// Nothing is held, more may come, and it is not spliced.
    pub fn is_clear(&self) -> bool {
        self.state == DirectionState::Flowing && matches!(self.backlog, Backlog::Nothing) && self.full < FULL
    }

    /// What most turns are, without looking at all that a turn may have to do: bytes have come that nobody wants to see,
    /// and all of them go on at once. `ENDED`: the end of the stream has come behind them, in order, as the poller has just
    /// said. The number of bytes; `None`: nothing was done, this needs [`Direction::pump`]. What is left to do after it does
    /// so, too.
    ///
    /// # Errors
    /// One of the sides is broken.
    #[inline(always)]
    pub fn pass_on<const ENDED: bool>(
        &mut self,
        from: &mut Endpoint,
        to: &mut Endpoint,
        buffers: &mut RelayBuffers,
    ) -> Result<Option<u64>, Broken> {
        // Then the other direction holds nothing and has nothing to do, either. How its stream ends does not matter here.
        let calm = ((from.known - Known::READABLE) | (to.known - Known::AT_THE_END)).is_empty();
        if !calm || from.is_secured() || to.is_secured() || !self.is_clear() {
            return Ok(None);
        }
        if ENDED {
            from.known |= Known::READABLE | Known::AT_THE_END;
        }
        let unseen = &mut Shown { splice: true, see: |_: &[u8]| {} };
        let moved = self.copy_once::<_, ENDED>(from, to, buffers, unseen)?;
        self.bytes += moved;
        if ENDED && self.state == DirectionState::Draining && self.has_delivered(to) {
            self.state = DirectionState::Ended;
        }
        Ok(Some(moved))
    }

    /// Moves what can be moved now, and that `filter` lets through.
    ///
    /// # Errors
    /// One of the sides is broken.
    pub fn pump<F: Filter>(
        &mut self,
        from: &mut Endpoint,
        to: &mut Endpoint,
        buffers: &mut RelayBuffers,
        filter: &mut F,
    ) -> Result<Progress, Broken> {
        let mut progress = Progress::default();
        let splice = !from.is_secured() && !to.is_secured();
        if to.held() > 0 && self.state != DirectionState::Abandoned {
            let before = to.held();
            let all = to.flush().map_err(Broken::Sink)?;
            progress.active = to.held() < before;
            if !all {
                return Ok(progress);
            }
        }
        if !matches!(self.backlog, Backlog::Nothing) {
            let before = self.backlog();
            let all = self.flush(to, buffers).map_err(Broken::Sink)?;
            progress.active = self.backlog() < before;
            if !all {
                return Ok(progress);
            }
        }
        let mut rounds = 0;
        while self.state == DirectionState::Flowing && self.has_delivered(to) {
            if F::CHANGES {
                buffers.outgoing.begin(to.is_secured());
                if filter.resume(&mut buffers.outgoing) {
                    progress.active = true;
                    self.hand_on(&[], to, &buffers.outgoing, &mut buffers.pool).map_err(Broken::Sink)?;
                    continue;
                }
            }
            if !from.readable() || !filter.is_open() {
                break;
            }
            if rounds == ROUNDS {
                progress.again = true;
                break;
            }
            rounds += 1;
            let unseen =
                if splice && self.full >= FULL && !self.never_splice && !from.known.contains(Known::URGENT) {
                    usize::try_from(filter.unseen()).unwrap_or(usize::MAX)
                } else {
                    0
                };
            let moved = if unseen >= SMALL {
                let moved = self.splice_once(from, to, buffers, unseen.min(PIPE))?;
                filter.skip(moved);
                self.passed += moved;
                moved
            } else {
                self.copy_once::<F, true>(from, to, buffers, filter)?
            };
            self.bytes += moved;
            progress.bytes += moved;
            progress.active |= moved > 0;
            if from.has_paused() {
                progress.again = self.state == DirectionState::Flowing;
                break;
            }
        }
        if self.state == DirectionState::Draining && self.has_delivered(to) {
            self.state = DirectionState::Ended;
            progress.ended = true;
        } else if F::CHANGES {
            // The end was not come to after all: it is not its turn yet.
            to.release();
        }
        Ok(progress)
    }

    /// Is everything that was read on its way?
    fn has_delivered(&self, to: &Endpoint) -> bool {
        matches!(self.backlog, Backlog::Nothing) && to.held() == 0
    }

    /// `ENDING`: the end may be known to have come behind the bytes.
    #[inline(always)]
    fn copy_once<F: Filter, const ENDING: bool>(
        &mut self,
        from: &mut Endpoint,
        to: &mut Endpoint,
        buffers: &mut RelayBuffers,
        filter: &mut F,
    ) -> Result<u64, Broken> {
        let Some(count) = from.receive(&mut buffers.scratch).map_err(Broken::Source)? else {
            return Ok(0);
        };
        let RelayBuffers { scratch, outgoing, pool, .. } = buffers;
        if count == 0 {
            self.state = DirectionState::Draining;
            if F::CHANGES {
                filter.end(outgoing);
                self.hand_on(&[], to, outgoing, pool).map_err(Broken::Sink)?;
            }
            return Ok(0);
        }
        self.full = if count == scratch.len() { self.full.saturating_add(1) } else { 0 };
        let chunk = &scratch[..count];
        if !filter.pass(chunk, outgoing) {
            self.hand_on(chunk, to, outgoing, pool).map_err(Broken::Sink)?;
            return Ok(count as u64);
        }
        let last = ENDING && count < scratch.len() && from.known.contains(Known::WHOLE);
        let sent = if last { to.send_last(chunk) } else { to.send(chunk) };
        let taken = sent.map_err(Broken::Sink)?;
        if last && !F::CHANGES {
            from.known.remove(Known::READABLE);
            self.state = DirectionState::Draining;
        }
        if taken < count {
            self.backlog = Backlog::Bytes(pool.keep(&chunk[taken..]), 0);
        }
        self.passed += count as u64;
        Ok(count as u64)
    }

    /// Sends what goes out for a chunk; what the other side does not take is kept.
    fn hand_on(
        &mut self,
        chunk: &[u8],
        to: &mut Endpoint,
        outgoing: &Outgoing,
        pool: &mut BufferPool,
    ) -> io::Result<()> {
        let mut pieces = outgoing.pieces(chunk).peekable();
        while pieces.peek().is_some() {
            let mut batch = [IoSlice::new(&[]); PIECES];
            let (mut count, mut bytes) = (0, 0);
            while let Some(piece) = pieces.next_if(|_| count < PIECES) {
                batch[count] = IoSlice::new(piece);
                count += 1;
                bytes += piece.len();
            }
            let taken = to.send_pieces(&batch[..count])?;
            self.passed += bytes as u64;
            if taken < bytes {
                let mut left = pool.empty();
                let mut before = taken;
                for piece in batch[..count].iter().map(|piece| &**piece).chain(pieces) {
                    let skipped = before.min(piece.len());
                    before -= skipped;
                    left.extend_from_slice(&piece[skipped..]);
                }
                self.passed += (left.len() - (bytes - taken)) as u64;
                self.backlog = Backlog::Bytes(left, 0);
                break;
            }
        }
        Ok(())
    }

    #[inline]
    fn splice_once(
        &mut self,
        from: &mut Endpoint,
        to: &mut Endpoint,
        buffers: &mut RelayBuffers,
        most: usize,
    ) -> Result<u64, Broken> {
        let Some(pipe) = buffers.pipes.take() else {
            self.full = 0;
            return Ok(0);
        };
        match pipe.fill(from.socket().as_fd(), most) {
            Ok(0) => {
                // The end, or urgent data just before it: only a read can tell.
                buffers.pipes.give_back(pipe);
                self.full = 0;
                Ok(0)
            }
            Ok(count) => {
                self.small = if count < SMALL { self.small + 1 } else { 0 };
                if self.small >= FEW {
                    self.small = 0;
                    self.full = 0;
                }
                self.drain(pipe, count, to, buffers).map_err(Broken::Sink)?;
                Ok(count as u64)
            }
            Err(error) => {
                buffers.pipes.give_back(pipe);
                match error.kind() {
                    io::ErrorKind::WouldBlock => from.known.remove(Known::READABLE),
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
    fn flush(&mut self, to: &mut Endpoint, buffers: &mut RelayBuffers) -> io::Result<bool> {
        if to.known.contains(Known::BLOCKED) {
            return Ok(matches!(self.backlog, Backlog::Nothing));
        }
        match std::mem::take(&mut self.backlog) {
            Backlog::Nothing => Ok(true),
            Backlog::Bytes(buffer, start) => {
                let result = to.send(&buffer[start..]);
                match result {
                    Ok(taken) if start + taken == buffer.len() => {
                        buffers.pool.give_back(buffer);
                        Ok(true)
                    }
                    Ok(taken) => {
                        self.backlog = Backlog::Bytes(buffer, start + taken);
                        Ok(false)
                    }
                    Err(error) => {
                        buffers.pool.give_back(buffer);
                        Err(error)
                    }
                }
            }
            Backlog::Piped(pipe, count) => {
                self.drain(pipe, count, to, buffers)?;
                Ok(matches!(self.backlog, Backlog::Nothing))
            }
        }
    }

    /// Hands on what is in a pipe; what the other side does not take is held, in the pipe.
    #[inline]
    fn drain(
        &mut self,
        pipe: Pipe,
        mut count: usize,
        to: &mut Endpoint,
        buffers: &mut RelayBuffers,
    ) -> io::Result<()> {
        to.expect_more();
        while count > 0 {
            match pipe.drain(to.socket().as_fd(), count) {
                Ok(taken) if taken > 0 => count -= taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    buffers.pipes.lose(pipe);
                    return Err(error);
                }
                Ok(_) | Err(_) => {
                    to.known.insert(Known::BLOCKED);
                    self.backlog = Backlog::Piped(pipe, count);
                    return Ok(());
                }
            }
        }
        buffers.pipes.give_back(pipe);
        Ok(())
    }
}

#[cfg(test)]
mod tls_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::endpoint::tests::connected;
    use crate::sys::poller::{Events, Poller};
    use crate::sys::socket;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    /// A flow between two real connections, driven by a real poller.
    struct Rig {
        writer: TcpStream,
        reader: TcpStream,
        from: Endpoint,
        to: Endpoint,
        flow: Direction,
        buffers: RelayBuffers,
        poller: Poller,
        splice: bool,
        seen: usize,
    }

    impl Rig {
        fn new(splice: bool, pipes: usize) -> Rig {
            let ((writer, from), (to, reader)) = (connected(), connected());
            let (from, to) =
                (Endpoint::client(OwnedFd::from(from), false), Endpoint::server(OwnedFd::from(to), false));
            let poller = Poller::new().unwrap();
            poller.add_stream(from.socket().as_fd(), 1).unwrap();
            poller.add_stream(to.socket().as_fd(), 2).unwrap();
            let (flow, buffers) = (Direction::default(), RelayBuffers::new(pipes));
            Rig { writer, reader, from, to, flow, buffers, poller, splice, seen: 0 }
        }

        /// One turn of a worker's loop.
        fn turn(&mut self) -> Result<Progress, Broken> {
            let mut events = Events::with_capacity(8);
            self.poller.wait(&mut events, Duration::ZERO).unwrap();
            for event in events.iter() {
                match event {
                    (1, readiness) => self.from.note(readiness),
                    (_, readiness) => self.to.note(readiness),
                }
            }
            let Rig { from, to, flow, buffers, seen, .. } = self;
            let mut shown = Shown { splice: self.splice, see: |chunk: &[u8]| *seen += chunk.len() };
            let progress = flow.pump(from, to, buffers, &mut shown)?;
            from.hush(&self.poller, 1, flow.is_stopped(to)).unwrap();
            Ok(progress)
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
                socket::shutdown_write(rig.to.socket().as_fd());
            }
            match rig.reader.read(&mut room) {
                Ok(0) => break,
                Ok(count) => got.extend_from_slice(&room[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(ended);
        assert_eq!(rig.flow.state(), DirectionState::Ended);
        assert_eq!(rig.flow.bytes(), total as u64);
        assert_eq!(rig.flow.backlog(), 0);
        assert!(got == pattern, "the bytes changed on the way");
        rig
    }

    impl Rig {
        /// Once the poller has news, or soon.
        fn pass_on(&mut self) -> Option<u64> {
            let mut events = Events::with_capacity(2);
            self.poller.wait(&mut events, Duration::from_millis(10)).unwrap();
            let ended = events.iter().any(|(token, readiness)| token == 1 && readiness.ended());
            let Rig { flow, from, to, buffers, .. } = self;
            match ended {
                true => flow.pass_on::<true>(from, to, buffers),
                false => flow.pass_on::<false>(from, to, buffers),
            }
            .unwrap()
        }
    }

    #[test]
    fn while_nothing_more_is_read_nobody_is_woken_for_what_comes() {
        for splice in [false, true] {
            let mut rig = Rig::new(splice, 1);
            let chunk = [7; 32 * 1024];
            while !rig.flow.is_stopped(&rig.to) {
                let _ = rig.writer.write(&chunk);
                rig.turn().unwrap();
            }
            let mut events = Events::with_capacity(8);
            rig.poller.wait(&mut events, Duration::ZERO).unwrap();
            assert!(rig.writer.write(&chunk).unwrap() > 0, "no room for what nobody is to be told of");
            rig.poller.wait(&mut events, Duration::from_millis(50)).unwrap();
            assert_eq!(events.iter().next(), None);
            // The end is told all the same, and all of it comes when there is room.
            rig.writer.shutdown(Shutdown::Write).unwrap();
            rig.poller.wait(&mut events, Duration::from_secs(10)).unwrap();
            assert!(events.iter().next().is_some_and(|(_, readiness)| readiness.ending()));
            let mut room = vec![0; 1 << 20];
            let deadline = Instant::now() + Duration::from_secs(10);
            while rig.flow.state() != DirectionState::Ended {
                assert!(Instant::now() < deadline, "{} bytes are held", rig.flow.backlog());
                let _ = rig.reader.read(&mut room);
                rig.turn().unwrap();
            }
        }
    }

    #[test]
    fn bytes_that_all_go_on_take_the_short_way_and_so_does_their_end() {
        let mut rig = Rig::new(true, 1);
        rig.writer.write_all(b"hello").unwrap();
        let passed = (0..1000).find_map(|_| rig.pass_on().filter(|&count| count > 0));
        assert_eq!((passed, rig.flow.bytes(), rig.flow.is_clear()), (Some(5), 5, true));
        let mut got = [0; 5];
        rig.reader.set_nonblocking(false).unwrap();
        rig.reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        rig.writer.shutdown(Shutdown::Write).unwrap();
        let ended = (0..1000).any(|_| rig.pass_on() == Some(0) && !rig.flow.is_clear());
        assert!(ended);
        assert_eq!((rig.flow.state(), rig.flow.bytes()), (DirectionState::Ended, 5));
        assert_eq!(rig.pass_on(), None, "there is nothing left to do");
    }

    #[test]
    fn on_the_short_way_the_last_bytes_wait_for_the_end_too() {
        let mut rig = Rig::new(true, 1);
        rig.writer.write_all(b"bye").unwrap();
        rig.writer.shutdown(Shutdown::Write).unwrap();
        let mut events = Events::with_capacity(8);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !events.iter().any(|(token, readiness)| token == 1 && readiness.ended()) {
            assert!(Instant::now() < deadline, "the end does not come");
            rig.poller.wait(&mut events, Duration::from_millis(10)).unwrap();
        }
        let Rig { from, to, flow, buffers, .. } = &mut rig;
        assert_eq!(flow.pass_on::<true>(from, to, buffers).unwrap(), Some(3));
        assert_eq!(flow.state(), DirectionState::Ended, "the end need not be read");
        let arrived = rig.reader.peek(&mut [0; 8]).map_err(|error| error.kind());
        assert_eq!(arrived, Err(io::ErrorKind::WouldBlock));
        rig.to.finish();
        rig.reader.set_nonblocking(false).unwrap();
        let mut got = Vec::new();
        rig.reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"bye");
    }

    #[test]
    fn how_the_other_side_ends_does_not_matter_to_what_goes_there() {
        let mut rig = Rig::new(true, 1);
        rig.to.known = Known::AT_THE_END;
        rig.writer.write_all(b"hello").unwrap();
        assert!((0..1000).any(|_| rig.pass_on() == Some(5)));
        rig.from.known = Known::AT_THE_END;
        rig.writer.write_all(b"hello").unwrap();
        assert_eq!(rig.pass_on(), None, "but it does where it is read");
    }

    /// A flow whose source has sent this and ended, as the poller has said.
    fn about_to_end_with(words: &[u8]) -> Rig {
        let mut rig = Rig::new(true, 1);
        rig.writer.write_all(words).unwrap();
        rig.writer.shutdown(Shutdown::Write).unwrap();
        rig.reader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut events = Events::with_capacity(8);
        while !rig.from.known.contains(Known::WHOLE) {
            assert!(Instant::now() < deadline, "the end does not come");
            rig.poller.wait(&mut events, Duration::from_millis(10)).unwrap();
            events.iter().filter(|event| event.0 == 1).for_each(|event| rig.from.note(event.1));
        }
        rig
    }

    /// The same, and it has been passed on as far as [`Direction::pump`] does.
    fn ended_with(words: &[u8]) -> Rig {
        let mut rig = about_to_end_with(words);
        assert!(rig.turn().unwrap().ended);
        rig
    }

    #[test]
    fn the_last_bytes_wait_for_the_end_to_go_with_them() {
        let mut rig = ended_with(b"bye");
        assert_eq!(
            rig.reader.peek(&mut [0; 8]).map_err(|error| error.kind()),
            Err(io::ErrorKind::WouldBlock)
        );
        rig.to.finish();
        rig.reader.set_nonblocking(false).unwrap();
        let mut got = Vec::new();
        rig.reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"bye");
    }

    /// Lets so many chunks go by, and nothing after them.
    struct Doorkeeper(usize);

    impl Filter for Doorkeeper {
        fn is_open(&self) -> bool {
            self.0 > 0
        }

        fn unseen(&self) -> u64 {
            0
        }

        fn skip(&mut self, _: u64) {}

        fn pass(&mut self, _: &[u8], _: &mut Outgoing) -> bool {
            self.0 -= 1;
            true
        }

        fn resume(&mut self, _: &mut Outgoing) -> bool {
            false
        }

        fn end(&mut self, _: &mut Outgoing) {}
    }

    #[test]
    fn the_last_bytes_wait_where_the_end_is_still_to_be_read_as_long_as_it_may_be() {
        for (open, waits) in [(2, true), (1, false)] {
            let mut rig = about_to_end_with(b"bye");
            let Rig { from, to, flow, buffers, .. } = &mut rig;
            let progress = flow.pump(from, to, buffers, &mut Doorkeeper(open)).unwrap();
            assert_eq!(progress.ended, waits);
            if waits {
                let arrived = rig.reader.peek(&mut [0; 8]).map_err(|error| error.kind());
                assert_eq!(arrived, Err(io::ErrorKind::WouldBlock));
                rig.to.finish();
            }
            rig.reader.set_nonblocking(false).unwrap();
            rig.reader.read_exact(&mut [0; 3]).unwrap();
        }
    }

    #[test]
    fn the_last_bytes_do_not_wait_for_an_end_that_does_not_come() {
        let mut rig = ended_with(b"bye");
        rig.to.release();
        rig.reader.set_nonblocking(false).unwrap();
        rig.reader.read_exact(&mut [0; 3]).unwrap();
        // Nor are they lost with what is cut.
        let Rig { to, mut reader, .. } = ended_with(b"bye");
        to.cut();
        reader.set_nonblocking(false).unwrap();
        reader.read_exact(&mut [0; 3]).unwrap();
        let after = reader.read(&mut [0; 8]).map_err(|error| error.kind());
        assert_eq!(after, Err(io::ErrorKind::ConnectionReset));
    }

    #[test]
    fn where_reads_may_stop_before_the_end_it_is_looked_for() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        let poller = Poller::new().unwrap();
        poller.add_stream(reader.as_fd(), 1).unwrap();
        let mut side = Endpoint::server(OwnedFd::from(reader), true);
        writer.write_all(b"bye").unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
        let mut events = Events::with_capacity(8);
        poller.wait(&mut events, Duration::from_secs(10)).unwrap();
        let readiness = events.iter().next().unwrap().1;
        assert!(readiness.ended());
        side.note(readiness);
        assert!(!side.known.contains(Known::WHOLE), "a Unix socket");
        let mut rig = Rig::new(true, 1);
        socket::send_urgent(rig.writer.as_fd(), b"!").unwrap();
        rig.writer.shutdown(Shutdown::Write).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut ended = false;
        while !ended {
            assert!(Instant::now() < deadline, "the end does not come");
            rig.poller.wait(&mut events, Duration::from_millis(10)).unwrap();
            for (_, readiness) in events.iter().filter(|event| event.0 == 1) {
                ended |= readiness.ending();
                rig.from.note(readiness);
            }
        }
        assert!(!rig.from.known.contains(Known::WHOLE), "urgent data");
        socket::reset_on_close(rig.writer.as_fd());
        let Rig { mut from, writer, poller, .. } = rig;
        from.known = Known::WHOLE;
        drop(writer);
        poller.wait(&mut events, Duration::from_secs(10)).unwrap();
        events.iter().filter(|event| event.0 == 1).for_each(|event| from.note(event.1));
        assert!(from.failed() && !from.known.contains(Known::WHOLE), "a reset");
    }

    #[test]
    fn where_anything_else_is_to_be_done_nothing_takes_the_short_way() {
        let odd: [fn(&mut Rig); 4] = [
            |rig| rig.from.suspect(),
            |rig| rig.to.suspect(),
            |rig| rig.to.known.insert(Known::BLOCKED),
            |rig| rig.flow.full = FULL,
        ];
        for make_odd in odd {
            let mut rig = Rig::new(true, 1);
            rig.writer.write_all(b"hello").unwrap();
            make_odd(&mut rig);
            assert_eq!((rig.pass_on(), rig.flow.bytes()), (None, 0));
        }
    }

    #[test]
    fn what_the_other_side_does_not_take_on_the_short_way_is_kept() {
        let mut rig = Rig::new(true, 1);
        let chunk = [7; 32 * 1024];
        let mut sent = 0;
        while rig.flow.is_clear() {
            sent += rig.writer.write(&chunk).unwrap_or(0) as u64;
            rig.pass_on();
            rig.flow.full = 0;
            rig.from.known.remove(Known::READABLE);
        }
        assert!(rig.flow.backlog() > 0 && rig.flow.bytes() <= sent);
        assert_eq!(rig.pass_on(), None);
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
        assert_eq!(rig.buffers.pipes.open(), 1);
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
            assert!(rig.flow.backlog() > 0 && rig.flow.backlog() <= PIPE, "{}", rig.flow.backlog());
            let before = rig.flow.bytes();
            assert!(rig.writer.write(&chunk).is_err());
            assert_eq!(rig.turn().unwrap(), Progress::default());
            assert_eq!(rig.flow.bytes(), before);
            rig.flow.discard(&mut rig.buffers);
            assert_eq!(rig.buffers.pipes.open(), 0);
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
        let (mut from, mut to) =
            (Endpoint::client(OwnedFd::from(from), true), Endpoint::server(OwnedFd::from(to), true));
        let poller = Poller::new().unwrap();
        poller.add_stream(from.socket().as_fd(), 1).unwrap();
        poller.add_stream(to.socket().as_fd(), 2).unwrap();
        let (mut flow, mut buffers) = (Direction::default(), RelayBuffers::new(2));
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
            assert!(events.iter().next().is_some(), "stalled");
            for event in events.iter() {
                match event {
                    (1, readiness) => from.note(readiness),
                    (_, readiness) => to.note(readiness),
                }
            }
            loop {
                let mut shown = Shown { splice: true, see: |_: &[u8]| () };
                let turn = flow.pump(&mut from, &mut to, &mut buffers, &mut shown).unwrap();
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

    #[test]
    fn urgent_data_loses_nothing_of_what_is_not_urgent() {
        for (splice, before) in [(false, 3), (true, 3), (true, 4 << 20)] {
            let mut rig = Rig::new(splice, 4);
            let mut sent = vec![b'a'; before];
            let (mut got, mut room) = (Vec::new(), vec![0; 1 << 20]);
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut to_send = sent.clone();
            while got.len() < before + 3 {
                assert!(Instant::now() < deadline, "{} of {}", got.len(), before + 3);
                if !to_send.is_empty() {
                    let count = rig.writer.write(&to_send).unwrap_or(0);
                    to_send.drain(..count);
                    if to_send.is_empty() {
                        socket::send_urgent(rig.writer.as_fd(), b"D").unwrap();
                        rig.writer.write_all(b"efg").unwrap();
                        rig.writer.shutdown(Shutdown::Write).unwrap();
                        sent.extend_from_slice(b"efg");
                    }
                }
                rig.turn().unwrap();
                match rig.reader.read(&mut room) {
                    Ok(count) => got.extend_from_slice(&room[..count]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert!(got == sent, "{} bytes instead of {}", got.len(), sent.len());
            while rig.flow.state() != DirectionState::Ended {
                assert!(Instant::now() < deadline, "the end was not found");
                rig.turn().unwrap();
            }
        }
    }
}
