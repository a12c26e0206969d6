//! epoll(7): who is ready.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness(EpollFlags);

impl Readiness {
    /// There is something to read: bytes, the end of the stream, or an error.
    pub fn readable(self) -> bool {
        self.0.intersects(
            EpollFlags::EPOLLIN
                | EpollFlags::EPOLLPRI
                | EpollFlags::EPOLLRDHUP
                | EpollFlags::EPOLLERR
                | EpollFlags::EPOLLHUP,
        )
    }

    /// Writing would get somewhere, if only to an error.
    pub fn writable(self) -> bool {
        self.0.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP)
    }

    /// There are bytes to read, and nothing else has happened.
    pub fn only_readable(self) -> bool {
        self.0.difference(EpollFlags::EPOLLOUT) == EpollFlags::EPOLLIN
    }

    /// The peer has ended its direction, so the end of the stream comes after what is there to read.
    pub fn ending(self) -> bool {
        self.0.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP)
    }

    /// The end of the stream has come, behind what is there to read. Nothing is wrong, and nothing stops a read before it.
    pub fn ended(self) -> bool {
        let odd = EpollFlags::EPOLLERR | EpollFlags::EPOLLPRI;
        self.0.intersection(EpollFlags::EPOLLRDHUP | odd) == EpollFlags::EPOLLRDHUP
    }

    /// There is urgent data: reads stop short of it.
    pub fn urgent(self) -> bool {
        self.0.intersects(EpollFlags::EPOLLPRI)
    }

    /// It was reset, or failed otherwise.
    pub fn failed(self) -> bool {
        self.0.intersects(EpollFlags::EPOLLERR)
    }

    /// The connection is gone in both directions: refused, reset, or ended by both.
    pub fn broken(self) -> bool {
        self.0.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP)
    }
}

/// Room for what one wait reports.
#[derive(Debug)]
pub struct Events {
    room: Vec<EpollEvent>,
    filled: usize,
}

impl Events {
    /// Room for `most` events a wait.
    pub fn with_capacity(most: usize) -> Self {
        Events { room: vec![EpollEvent::empty(); most], filled: 0 }
    }

    /// Each of them: the token it was added with, and what it is ready for.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Readiness)> + '_ {
        let reported = self.room.get(..self.filled).unwrap_or_default();
        reported.iter().map(|event| (event.data(), Readiness(event.events())))
    }
}

fn stream_flags(reading: bool) -> EpollFlags {
    let flags = EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    if reading { flags | EpollFlags::EPOLLIN | EpollFlags::EPOLLPRI } else { flags }
}

/// A set of descriptors that are waited for together. A closed descriptor leaves it by itself.
#[derive(Debug)]
pub struct Poller(Epoll);

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// No descriptor, no memory.
    pub fn new() -> io::Result<Self> {
        Ok(Poller(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// A stream: every change of what it is ready for, in either direction, is reported once.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn add_stream(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(stream_flags(true), token))?)
    }

    /// The same of a stream that was added: from now on with or without what there is to read. Its end, errors and room
    /// are reported in any case, and what it is ready for now is.
    ///
    /// # Errors
    /// epoll_ctl(2)'s; nothing has changed then.
    pub fn change_stream(&self, fd: BorrowedFd<'_>, token: u64, reading: bool) -> io::Result<()> {
        Ok(self.0.modify(fd, &mut EpollEvent::new(stream_flags(reading), token))?)
    }

    /// A listening socket that several processes wait for: as few of them as possible are woken for a client.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn add_listener(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        Ok(self.0.add(fd, EpollEvent::new(flags, token))?)
    }

    /// Something to read from, reported as long as it has anything.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn add_source(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    /// Something that nobody reads, reported once for each time that it is written to.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn add_bell(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token))?)
    }

    /// Takes a descriptor out while it stays open. No error is possible that matters: it is out then.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = self.0.delete(fd);
    }

    /// Waits until something is ready, `longest` is over, or a signal came; the last two leave `events` empty.
    ///
    /// # Errors
    /// epoll_wait(2)'s, which would be a defect of ours.
    pub fn wait(&self, events: &mut Events, longest: Duration) -> io::Result<()> {
        // Rounded up: a wait that ends before the deadline it was for would only be repeated.
        let micros =
            longest.as_secs().saturating_mul(1_000_000).saturating_add(longest.subsec_micros().into());
        let millis = u16::try_from(micros.div_ceil(1000)).unwrap_or(u16::MAX);
        events.filled = match self.0.wait(&mut events.room, EpollTimeout::from(millis)) {
            Ok(filled) => filled,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn news(poller: &Poller) -> Option<Readiness> {
        let mut events = Events::with_capacity(2);
        poller.wait(&mut events, Duration::ZERO).unwrap();
        events.iter().next().map(|(_, readiness)| readiness)
    }

    #[test]
    fn a_stream_may_be_watched_without_what_there_is_to_read() {
        let (stream, mut peer) = UnixStream::pair().unwrap();
        let poller = Poller::new().unwrap();
        poller.add_stream(stream.as_fd(), 7).unwrap();
        assert!(news(&poller).is_some_and(Readiness::writable));
        poller.change_stream(stream.as_fd(), 7, false).unwrap();
        news(&poller);
        peer.write_all(b"!").unwrap();
        assert!(!news(&poller).is_some_and(Readiness::readable));
        poller.change_stream(stream.as_fd(), 7, true).unwrap();
        assert!(news(&poller).is_some_and(Readiness::only_readable), "what came meanwhile");
        poller.change_stream(stream.as_fd(), 7, false).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        assert!(news(&poller).is_some_and(Readiness::ending), "its end is told all the same");
    }
}
