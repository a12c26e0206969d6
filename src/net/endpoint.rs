//! One side of a connection: a socket, with TLS or without, and what is known of it.
//!
//! Readiness is edge-triggered: a side is believed to be readable or writable until a call says otherwise.
//!
//! With TLS a side takes everything that it is given, encrypted, and holds itself what its socket did not take: while it
//! does, nothing more is read for it. Bytes may wait in the library, of which no event tells, so such a side is readable
//! until reading says that there is nothing.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::poller::{Poller, Readiness};
use crate::sys::socket;
use crate::sys::tls::Secured;

/// What bytes go through.
#[derive(Debug)]
pub enum Transport {
    /// A socket.
    Plain(OwnedFd),
    /// A socket with TLS on it.
    Tls(Box<Secured>),
}

impl From<OwnedFd> for Transport {
    fn from(socket: OwnedFd) -> Self {
        Transport::Plain(socket)
    }
}

impl From<Secured> for Transport {
    fn from(secured: Secured) -> Self {
        Transport::Tls(Box::new(secured))
    }
}

/// One side of a connection: a socket, and what is believed of it.
#[derive(Debug)]
pub struct Endpoint {
    transport: Transport,
    pub(super) known: Known,
    nodelay: bool,
    sent: bool,
}

bitflags::bitflags! {
    /// What is known of a side that has something to do, or that something has happened to. Of most sides, most of the
    /// time, nothing is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Known: u16 {
        /// There may be something to read.
        const READABLE = 1;
        /// It took less than it was given: wait until the poller says that there is room.
        const BLOCKED = 1 << 1;
        /// A short read does not mean that nothing is left: the end of the stream may have been reported already, or
        /// reads stop early, at urgent data and where a Unix socket passes descriptors.
        const THOROUGH = 1 << 2;
        /// There was urgent data, which splice(2) does not get past.
        const URGENT = 1 << 3;
        /// It was reset, or failed otherwise. Reading says how, once everything before is read.
        const FAILED = 1 << 4;
        /// What was sent waits for more to go with it.
        const CORKED = 1 << 5;
        /// The socket's direction ends as soon as nothing is held any more.
        const ENDING = 1 << 6;
        /// The poller does not say that there is something to read.
        const HUSHED = 1 << 7;
        /// Its end has come, in order: a read that stops short has read all there is, and need not find the end.
        const WHOLE = 1 << 8;
        /// What is known of a side whose stream has ended in order, beside what is left to read.
        const AT_THE_END = Known::THOROUGH.bits() | Known::WHOLE.bits();
    }
}

impl Endpoint {
    /// The side towards the client. TCP_NODELAY came with the listener. `unix`: it is a Unix socket.
    pub fn client(transport: impl Into<Transport>, unix: bool) -> Self {
        Endpoint { nodelay: true, ..Endpoint::server(transport, unix) }
    }

    /// The side towards the server. `unix`: it is a Unix socket.
    pub fn server(transport: impl Into<Transport>, unix: bool) -> Self {
        let transport = transport.into();
        Endpoint {
            known: if unix { Known::THOROUGH } else { Known::empty() },
            nodelay: false,
            // The last flight of a handshake would hold back what follows it.
            sent: matches!(transport, Transport::Tls(_)),
            transport,
        }
    }

    /// The poller says so.
    pub fn note(&mut self, readiness: Readiness) {
        if readiness.writable() {
            self.known.remove(Known::BLOCKED);
        }
        let mut news = Known::empty();
        let simple = !self.known.contains(Known::THOROUGH) && !self.is_secured();
        news.set(Known::WHOLE, simple && readiness.ended());
        news.set(Known::READABLE, readiness.readable());
        news.set(Known::URGENT, readiness.urgent());
        news.set(Known::THOROUGH, readiness.ending() || readiness.urgent());
        news.set(Known::FAILED, readiness.failed());
        self.known |= news;
        if readiness.failed() {
            self.known.remove(Known::WHOLE);
        }
        if let Transport::Tls(secured) = &mut self.transport
            && readiness.readable()
        {
            secured.readable(self.known.contains(Known::THOROUGH));
        }
    }

    /// The poller, where it has the name `token`, is to say that there is something to read, or not.
    ///
    /// # Errors
    /// The poller's; all is as before then.
    pub fn hush(&mut self, poller: &Poller, token: u64, hushed: bool) -> io::Result<()> {
        if self.is_hushed() != hushed {
            poller.change_stream(self.socket().as_fd(), token, !hushed)?;
            self.known.set(Known::HUSHED, hushed);
        }
        Ok(())
    }

    /// The poller does not say that there is something to read.
    pub fn is_hushed(&self) -> bool {
        self.known.contains(Known::HUSHED)
    }

    /// A write has found it broken, or there may be an end that was seen before: reading finds the last bytes, and
    /// how it ends.
    pub fn suspect(&mut self) {
        self.known |= Known::READABLE | Known::THOROUGH;
        if let Transport::Tls(secured) = &mut self.transport {
            secured.readable(true);
        }
    }

    /// The poller has said that it is broken.
    pub fn failed(&self) -> bool {
        self.known.contains(Known::FAILED)
    }

    /// Its socket.
    pub fn socket(&self) -> &OwnedFd {
        match &self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(secured) => secured.socket(),
        }
    }

    /// TLS is spoken there.
    pub fn is_secured(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }

    /// The TLS that is spoken there.
    pub fn secured(&self) -> Option<&Secured> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(secured) => Some(secured),
        }
    }

    /// Sends what comes before everything else, before TLS as well: all of it. `more`: what follows is likely to be there
    /// and may go with it. If it is not, [`Endpoint::release`] what waits for it.
    ///
    /// # Errors
    /// The connection is broken, or has not taken all.
    pub fn precede(&mut self, bytes: &[u8], more: bool) -> io::Result<()> {
        // With TLS the next is ours, and comes at once.
        let more = more || self.is_secured();
        let sent = match more {
            true => socket::send_with_more(self.socket().as_fd(), bytes)?,
            false => socket::send(self.socket().as_fd(), bytes)?,
        };
        if sent < bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.known.set(Known::CORKED, more);
        self.sent |= !more;
        Ok(())
    }

    /// Nothing has followed what went before: it goes alone.
    pub fn release(&mut self) {
        if self.known.contains(Known::CORKED) {
            self.known.remove(Known::CORKED);
            // That sends what waits, too, even if it was off already.
            self.turn_nagle_off();
        }
    }

    /// There may be something to read.
    pub fn readable(&self) -> bool {
        self.known.contains(Known::READABLE)
    }

    /// Goes on with the handshake of TLS: true when it is done, and then there may be something to read.
    ///
    /// # Errors
    /// It failed, and why.
    pub fn handshake(&mut self) -> io::Result<bool> {
        let flushed = self.flush()?;
        let Transport::Tls(secured) = &mut self.transport else {
            return Ok(true);
        };
        if !flushed {
            return Ok(false);
        }
        let done = secured.handshake()?;
        self.known.set(Known::BLOCKED, secured.held() > 0);
        if done {
            self.known.insert(Known::READABLE);
        }
        Ok(done)
    }

    /// The handshake of TLS resumed an earlier session.
    pub fn resumed(&self) -> bool {
        match &self.transport {
            Transport::Plain(_) => false,
            Transport::Tls(secured) => secured.resumed(),
        }
    }

    /// Reads into `room`: the number of bytes, 0 at the end of the stream, `None` when there is nothing now.
    ///
    /// # Errors
    /// The connection is broken. Without the word of TLS that says so, its end is none but `UnexpectedEof`.
    #[inline(always)]
    pub fn receive(&mut self, room: &mut [u8]) -> io::Result<Option<usize>> {
        let socket = match &self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(_) => return self.receive_secured(room),
        };
        match socket::receive(socket.as_fd(), room) {
            Ok(count) => {
                // A short read has emptied the socket, and whatever comes later is reported.
                let thorough = self.known.contains(Known::THOROUGH);
                self.known.set(Known::READABLE, count == room.len() || thorough && count > 0);
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.known.remove(Known::READABLE);
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Endpoint::receive`] with TLS.
    #[inline(never)]
    fn receive_secured(&mut self, room: &mut [u8]) -> io::Result<Option<usize>> {
        let Transport::Tls(secured) = &mut self.transport else {
            return Ok(None);
        };
        let held = secured.held();
        let received = secured.receive(room)?;
        self.known.set(Known::READABLE, received != Some(0) && !secured.is_drained());
        // The library may have answered.
        if held == 0 && secured.held() > 0 {
            self.known.insert(Known::BLOCKED);
        }
        Ok(received)
    }

    /// The last read stopped before there was nothing left, so that others get their turn.
    pub fn has_paused(&self) -> bool {
        match &self.transport {
            Transport::Plain(_) => false,
            Transport::Tls(secured) => secured.has_paused(),
        }
    }

    /// Writes what the socket takes, or with TLS everything: the number of bytes.
    ///
    /// # Errors
    /// The connection is broken.
    #[inline(always)]
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.expect_more();
        let socket = match &self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(_) => return self.send_secured(bytes, false),
        };
        let sent = socket::send(socket.as_fd(), bytes);
        self.note_sent(sent, bytes.len())
    }

    /// What came of sending so many bytes.
    #[inline(always)]
    fn note_sent(&mut self, sent: io::Result<usize>, bytes: usize) -> io::Result<usize> {
        match sent {
            Ok(count) => {
                self.known.set(Known::BLOCKED, count < bytes);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.known.insert(Known::BLOCKED);
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// As [`Endpoint::send`], where [`Endpoint::finish`] follows if all was taken: the end goes with these bytes, in one
    /// segment. If it does not follow, [`Endpoint::release`] them.
    pub(super) fn send_last(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent = true;
        let taken = match &mut self.transport {
            Transport::Plain(socket) => {
                let sent = socket::send_with_more(socket.as_fd(), bytes);
                self.note_sent(sent, bytes.len())?
            }
            Transport::Tls(_) => self.send_secured(bytes, true)?,
        };
        self.known.set(Known::CORKED, !self.known.contains(Known::BLOCKED));
        Ok(taken)
    }

    /// As [`Endpoint::send`] with TLS. `more`: as [`Endpoint::send_last`].
    #[inline(never)]
    fn send_secured(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        self.flush()?;
        let Transport::Tls(secured) = &mut self.transport else {
            return Ok(0);
        };
        if more {
            secured.send_with_more(bytes)?
        } else {
            secured.send(bytes)?
        }
        self.known.set(Known::BLOCKED, secured.held() > 0);
        Ok(bytes.len())
    }

    /// Writes several pieces, as [`Endpoint::send`] does one. With TLS there must not be more than one.
    pub(super) fn send_pieces(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match pieces {
            [] => return Ok(0),
            [piece] => return self.send(piece),
            _ => self.expect_more(),
        }
        let sent = socket::send_pieces(self.socket().as_fd(), pieces);
        self.note_sent(sent, pieces.iter().map(|piece| piece.len()).sum())
    }

    /// How many bytes it took that its socket did not: with TLS alone.
    pub fn held(&self) -> usize {
        match &self.transport {
            Transport::Plain(_) => 0,
            Transport::Tls(secured) => secured.held(),
        }
    }

    /// Sends what is held, if there is room: true when nothing is held any more.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<bool> {
        let Transport::Tls(secured) = &mut self.transport else {
            return Ok(true);
        };
        if secured.held() == 0 || self.known.contains(Known::BLOCKED) {
            return Ok(secured.held() == 0);
        }
        self.known.set(Known::BLOCKED, !secured.flush()?);
        if self.known & (Known::ENDING | Known::BLOCKED) == Known::ENDING {
            socket::shutdown_write(secured.socket().as_fd());
            self.known.remove(Known::ENDING);
        }
        Ok(!self.known.contains(Known::BLOCKED))
    }

    /// With TLS, tells the peer that this is the end of our direction. True when nothing is held any more. `more`: then
    /// [`Endpoint::finish`] follows, or closing where nothing is left to read, and the word goes with that.
    pub fn declare_end(&mut self, more: bool) -> bool {
        if let Transport::Tls(secured) = &mut self.transport {
            let held = secured.held();
            // An error means that the connection is gone, which reading shows better.
            let _ = if more { secured.finish_with_more() } else { secured.finish() };
            if held == 0 && secured.held() > 0 {
                self.known.insert(Known::BLOCKED);
            }
        }
        self.held() == 0
    }

    /// Ends our direction: the peer reads the end of the stream once it has everything, and can go on sending.
    pub fn finish(&mut self) {
        let declared = self.declare_end(true);
        self.known.set(Known::ENDING, !declared);
        if declared {
            self.known.remove(Known::CORKED);
            socket::shutdown_write(self.socket().as_fd());
        }
    }

    /// Closes it. With TLS the peer is told that this is the end, if there is room for that.
    pub fn part(mut self) {
        // Not with the end that closing makes: that is a reset if something was not read.
        self.declare_end(false);
    }

    /// Closes it with a reset, so that the peer does not take this for an end.
    pub fn cut(mut self) {
        self.release();
        socket::reset_on_close(self.socket().as_fd());
    }

    /// Nagle's algorithm can only hold back what follows an earlier small segment, so the call that turns it off is
    /// left out for connections that never send a second time.
    #[inline]
    pub(super) fn expect_more(&mut self) {
        if self.sent && !self.nodelay {
            self.turn_nagle_off();
        }
        self.sent = true;
        self.known.remove(Known::CORKED);
    }

    #[cold]
    fn turn_nagle_off(&mut self) {
        socket::set_nodelay(self.socket().as_fd());
        self.nodelay = true;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    /// Both ends of a connection.
    pub(in crate::net) fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (two, _) = listener.accept().unwrap();
        one.set_nonblocking(true).unwrap();
        two.set_nonblocking(true).unwrap();
        (one, two)
    }

    #[test]
    fn what_goes_before_everything_goes_with_what_follows_or_is_released() {
        for (more, follows) in [(true, true), (true, false), (false, true), (false, false)] {
            let (to, mut reader) = connected();
            let watched = to.try_clone().unwrap();
            let mut to = Endpoint::server(OwnedFd::from(to), false);
            to.precede(b"header", more).unwrap();
            assert!(!watched.nodelay().unwrap());
            if follows {
                assert_eq!(to.send(b"first").unwrap(), 5);
                // In one segment with what went before, or not to be held back for that.
                assert_eq!(watched.nodelay().unwrap(), !more);
            }
            to.release();
            assert_eq!(watched.nodelay().unwrap(), more != follows);
            assert_eq!(to.send(b"last").unwrap(), 4);
            assert!(watched.nodelay().unwrap());
            drop((watched, to));
            reader.set_nonblocking(false).unwrap();
            let mut all = String::new();
            reader.read_to_string(&mut all).unwrap();
            assert_eq!(all, if follows { "headerfirstlast" } else { "headerlast" });
        }
    }

    #[test]
    fn a_peer_that_does_not_take_all_of_it_takes_nothing() {
        let (to, reader) = UnixStream::pair().unwrap();
        to.set_nonblocking(true).unwrap();
        let mut to = Endpoint::server(OwnedFd::from(to), true);
        let most = vec![0; 16 << 20];
        assert_eq!(to.precede(&most, false).unwrap_err().kind(), io::ErrorKind::WriteZero);
        drop(reader);
        assert_eq!(to.precede(b"header", true).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn nothing_that_follows_the_first_write_is_held_back() {
        let (to, _reader) = connected();
        let watched = to.try_clone().unwrap();
        let mut to = Endpoint::server(OwnedFd::from(to), false);
        assert_eq!(to.send(b"one").unwrap(), 3);
        assert_eq!(to.send(b"two").unwrap(), 3);
        assert!(watched.nodelay().unwrap());
    }
}
