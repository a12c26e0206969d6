//! Waiting for a few descriptors at a time, with poll(2): for processes that have little to do.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// What to wait for on a descriptor. An error or a hang-up is reported whatever is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Until something can be read; the end of the stream counts, and so does a client to accept.
    pub read: bool,
    /// Until something can be written.
    pub write: bool,
}

impl Interest {
    /// Reading alone.
    pub const READ: Interest = Interest { read: true, write: false };

    /// Writing alone.
    pub const WRITE: Interest = Interest { read: false, write: true };

    fn flags(self) -> PollFlags {
        let flag = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        flag(self.read, PollFlags::POLLIN) | flag(self.write, PollFlags::POLLOUT)
    }
}

/// Waits until one of the descriptors is ready, at most that long. Says for each whether it is; none is when the time
/// is over or a signal came.
///
/// # Errors
///
/// Out of memory.
pub fn until_ready(descriptors: &[(BorrowedFd<'_>, Interest)], at_most: Duration) -> io::Result<Vec<bool>> {
    let watched = descriptors.iter().map(|(fd, interest)| PollFd::new(*fd, interest.flags()));
    let mut watched: Vec<_> = watched.collect();
    // Rounded up: a wait that ends a little early would end in a busy loop until the deadline.
    let millis = at_most.as_micros().div_ceil(1000);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut watched, timeout) {
        Ok(_) => Ok(watched.iter().map(|fd| fd.any().unwrap_or(true)).collect()),
        Err(Errno::EINTR) => Ok(vec![false; descriptors.len()]),
        Err(errno) => Err(errno.into()),
    }
}

/// [`until_ready`] for descriptors that are all to be read.
///
/// # Errors
///
/// Out of memory.
pub fn until_readable(descriptors: &[BorrowedFd<'_>], at_most: Duration) -> io::Result<Vec<bool>> {
    let descriptors: Vec<_> = descriptors.iter().map(|fd| (*fd, Interest::READ)).collect();
    until_ready(&descriptors, at_most)
}

/// A bell that several processes hear: readable after [`ring`], until read. Non-blocking.
///
/// # Errors
///
/// Out of descriptors.
pub fn bell() -> io::Result<OwnedFd> {
    Ok(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?.into())
}

/// Rings it. That it rings already is no error.
pub fn ring(bell: BorrowedFd<'_>) {
    let _ = nix::unistd::write(bell, &1_u64.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn only_what_is_readable_is_reported() {
        let (quiet, rung) = (bell().unwrap(), bell().unwrap());
        let both = [quiet.as_fd(), rung.as_fd()];
        assert_eq!(until_readable(&both, Duration::from_micros(10)).unwrap(), [false, false]);
        ring(rung.as_fd());
        ring(rung.as_fd());
        assert_eq!(until_readable(&both, Duration::from_secs(60)).unwrap(), [false, true]);
    }

    #[test]
    fn the_end_of_a_stream_is_readable() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(until_readable(&[ours.as_fd()], Duration::from_secs(60)).unwrap(), [true]);
    }

    #[test]
    fn room_to_write_is_waited_for_only_where_it_is_wanted() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let both = Interest { read: true, write: true };
        for (interest, ready) in [(Interest::READ, false), (Interest::WRITE, true), (both, true)] {
            let found = until_ready(&[(ours.as_fd(), interest)], Duration::from_micros(10)).unwrap();
            assert_eq!(found, [ready], "{interest:?}");
        }
        ours.set_nonblocking(true).unwrap();
        while std::io::Write::write(&mut &ours, &[0; 4096]).is_ok() {}
        assert_eq!(until_ready(&[(ours.as_fd(), both)], Duration::from_micros(10)).unwrap(), [false]);
        theirs.set_nonblocking(true).unwrap();
        while std::io::Read::read(&mut &theirs, &mut [0; 4096]).is_ok() {}
        let found = until_ready(&[(ours.as_fd(), Interest::WRITE)], Duration::from_secs(60)).unwrap();
        assert_eq!(found, [true]);
    }
}
