//! Signals as events of a loop.
//!
//! A handler counts and makes a descriptor readable, nothing else; whoever polls that descriptor does the work.
//! All of pen's processes are forked with every signal blocked and unblock them once their [`Signals`] are
//! installed, so that none is lost and none runs in the wrong process.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigHandler, SigSet};
use nix::unistd::Pid;
use signal_hook::SigId;
use signal_hook::low_level;

pub use nix::sys::signal::Signal;

/// The signals that a process wants to hear of. Dropping it stops the hearing: the signals then have no effect,
/// not their default one.
///
/// A child that was forked with its parent's `Signals` drops them before it unblocks signals and installs its own.
#[derive(Debug)]
pub struct Signals {
    wake: Arc<EventFd>,
    heard: Vec<Heard>,
}

#[derive(Debug)]
struct Heard {
    signal: Signal,
    count: Arc<AtomicU32>,
    registration: SigId,
}

impl Signals {
    /// Hears these signals from now on.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    ///
    /// # Panics
    ///
    /// For signals that nobody can hear, such as SIGKILL and SIGSEGV.
    pub fn install(which: &[Signal]) -> io::Result<Self> {
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let mut signals = Signals { wake: Arc::new(wake), heard: Vec::with_capacity(which.len()) };
        for &signal in which {
            let count = Arc::new(AtomicU32::new(0));
            let (counted, wake) = (Arc::clone(&count), Arc::clone(&signals.wake));
            let action = move || {
                counted.fetch_add(1, Ordering::Release);
                // It can fail only when it is readable already.
                let _ = wake.write(1);
            };
            // SAFETY: the action calls an atomic addition and write(2), which are async-signal-safe (errno is kept
            // by the registry); it neither allocates nor panics, and it owns what it uses.
            let registration = unsafe { low_level::register(signal as libc::c_int, action) }?;
            signals.heard.push(Heard { signal, count, registration });
        }
        Ok(signals)
    }

    /// Which signals came since the last time, in the order in which they were named to [`Signals::install`], and
    /// how often. Makes the descriptor unreadable.
    pub fn take(&self) -> Vec<(Signal, u32)> {
        // First the descriptor, then the counts: what comes in between is taken now and wakes once too often.
        let _ = self.wake.read();
        self.heard
            .iter()
            .map(|heard| (heard.signal, heard.count.swap(0, Ordering::Acquire)))
            .filter(|&(_, count)| count > 0)
            .collect()
    }
}

/// Readable when there is something to take.
impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for heard in &self.heard {
            low_level::unregister(heard.registration);
        }
    }
}

/// Holds all signals back until [`unblock_all`]. Children inherit that.
///
/// # Errors
///
/// None on Linux.
pub fn block_all() -> io::Result<()> {
    Ok(SigSet::all().thread_block()?)
}

/// Lets all signals through; those that were held back arrive now.
///
/// # Errors
///
/// None on Linux.
pub fn unblock_all() -> io::Result<()> {
    Ok(SigSet::all().thread_unblock()?)
}

/// Makes the system drop these signals. Not for signals that are, or will be, named to [`Signals::install`].
///
/// # Errors
///
/// For SIGKILL and SIGSTOP.
pub fn ignore(which: &[Signal]) -> io::Result<()> {
    for &signal in which {
        // SAFETY: SIG_IGN runs no code of ours; the handler that it replaces was the default one (see above).
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Sends a signal to one process.
///
/// # Errors
///
/// The process is gone, or belongs to somebody else.
pub fn send(pid: i32, signal: Signal) -> io::Result<()> {
    // 0 and negative numbers mean whole groups of processes.
    if pid <= 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(nix::sys::signal::kill(Pid::from_raw(pid), signal)?)
}

/// Is there a process with this number? Also true if it belongs to somebody else.
pub fn process_exists(pid: i32) -> bool {
    use nix::errno::Errno;
    pid > 0 && !matches!(nix::sys::signal::kill(Pid::from_raw(pid), None), Err(Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn readable(signals: &Signals) -> bool {
        poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    // Each test has a signal of its own: they run at the same time, in one process.

    #[test]
    fn signals_are_counted_and_taken_once() {
        let signals = Signals::install(&[Signal::SIGURG]).unwrap();
        assert!(!readable(&signals));
        for _ in 0..3 {
            nix::sys::signal::raise(Signal::SIGURG).unwrap();
        }
        assert!(readable(&signals));
        assert_eq!(signals.take(), [(Signal::SIGURG, 3)]);
        assert!(!readable(&signals));
        assert_eq!(signals.take(), []);
    }

    #[test]
    fn dropped_signals_have_no_effect_and_can_be_installed_anew() {
        let old = Signals::install(&[Signal::SIGWINCH]).unwrap();
        let wake = Arc::clone(&old.wake);
        drop(old);
        nix::sys::signal::raise(Signal::SIGWINCH).unwrap();
        let new = Signals::install(&[Signal::SIGWINCH]).unwrap();
        nix::sys::signal::raise(Signal::SIGWINCH).unwrap();
        assert_eq!(new.take(), [(Signal::SIGWINCH, 1)]);
        assert!(wake.read().is_err(), "the old descriptor was written to");
    }

    #[test]
    fn ignored_and_held_back_signals_do_no_harm() {
        ignore(&[Signal::SIGALRM]).unwrap();
        nix::sys::signal::raise(Signal::SIGALRM).unwrap();
        let signals = Signals::install(&[Signal::SIGVTALRM]).unwrap();
        block_all().unwrap();
        nix::sys::signal::raise(Signal::SIGVTALRM).unwrap();
        assert_eq!(signals.take(), []);
        unblock_all().unwrap();
        assert_eq!(signals.take(), [(Signal::SIGVTALRM, 1)]);
    }

    #[test]
    fn a_signal_is_never_sent_to_a_group() {
        assert!(send(0, Signal::SIGWINCH).is_err());
        assert!(send(-1, Signal::SIGWINCH).is_err());
        assert!(process_exists(std::process::id() as i32));
        assert!(!process_exists(0));
    }
}
