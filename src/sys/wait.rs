//! Waiting for a few descriptors at a time, with poll(2): for processes that have little to do.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Waits until something can be read from one of the descriptors (end of file counts), at most that long. Says for
/// each whether it is so; none is when the time is over or a signal came.
///
/// # Errors
///
/// Out of memory.
pub fn until_readable(descriptors: &[BorrowedFd<'_>], at_most: Duration) -> io::Result<Vec<bool>> {
    let mut watched: Vec<_> = descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    // Rounded up: a wait that ends a little early would end in a busy loop until the deadline.
    let millis = at_most.as_micros().div_ceil(1000);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut watched, timeout) {
        Ok(_) => Ok(watched.iter().map(|fd| fd.any().unwrap_or(true)).collect()),
        Err(Errno::EINTR) => Ok(vec![false; descriptors.len()]),
        Err(errno) => Err(errno.into()),
    }
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
}
