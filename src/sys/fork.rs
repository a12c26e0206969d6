//! Processes: making them, and learning how they ended.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

/// Which of the two this is, after [`fork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The process that called; the child has this number.
    Parent(i32),
    /// The new one.
    Child,
}

/// Makes a copy of this process. Everything that it owns exists twice after this: the child drops what it must not
/// keep.
///
/// # Errors
///
/// No memory, or no more processes allowed.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: a child of a process with several threads could find a lock (the allocator's, say) held by a thread
    // that it does not have. No program of this crate starts a thread.
    let forked = unsafe { nix::unistd::fork() }?;
    Ok(match forked {
        ForkResult::Parent { child } => Forked::Parent(child.as_raw()),
        ForkResult::Child => Forked::Child,
    })
}

/// Ends this process, a child, when its parent ends for whatever reason: at once, by SIGKILL.
///
/// `parent` is the number that the parent had before it forked.
///
/// # Errors
///
/// The parent is gone already.
pub fn end_with_parent(parent: i32) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Some(Signal::SIGKILL))?;
    if nix::unistd::getppid().as_raw() != parent {
        return Err(io::Error::other("the parent process is gone"));
    }
    Ok(())
}

/// This process's number.
pub fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// Ends this process without running anything that its parent registered to run at exit, and without dropping what
/// it inherited.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) does not return and touches no memory of this process.
    unsafe { libc::_exit(status) }
}

/// Ends this process by SIGABRT, with a core file even if that was only not asked for (`ulimit -S -c 0`).
pub fn abort_with_core() -> ! {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // Should it not work there is no core file, and nothing else to be done about it.
    let _ =
        getrlimit(Resource::RLIMIT_CORE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_CORE, most, most));
    std::process::abort();
}

/// Makes this process the leader of a session without a terminal, with /dev/null for its standard streams.
///
/// # Errors
///
/// /dev/null cannot be opened.
pub fn leave_terminal() -> io::Result<()> {
    nix::unistd::setsid()?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(null.as_fd())?;
    nix::unistd::dup2_stdout(null.as_fd())?;
    nix::unistd::dup2_stderr(null.as_fd())?;
    Ok(())
}

/// Closes every descriptor but the standard streams: those that whoever started this program had open. To be called
/// before this program opens anything. A kernel older than 5.9 leaves them open, which is what most daemons do.
pub fn close_inherited() {
    // SAFETY: nothing of this process owns a descriptor yet, see above.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal.
    Killed(Signal),
    /// By a signal, leaving a core file.
    Dumped(Signal),
}

/// What it did, as in "worker 1 ...": `exited with status 3`, `was killed by SIGSEGV (core dumped)`.
impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Exited(status) => write!(f, "exited with status {status}"),
            ExitStatus::Killed(signal) => write!(f, "was killed by {signal}"),
            ExitStatus::Dumped(signal) => write!(f, "was killed by {signal} (core dumped)"),
        }
    }
}

/// The next child that has ended and was not waited for yet, if there is one. Does not wait.
pub fn reap() -> Option<(i32, ExitStatus)> {
    wait_for(None, Some(WaitPidFlag::WNOHANG))
}

/// Waits until this child ends. None: there is no such child.
pub fn wait(child: i32) -> Option<ExitStatus> {
    wait_for(Some(Pid::from_raw(child)), None).map(|(_, status)| status)
}

fn wait_for(child: Option<Pid>, flags: Option<WaitPidFlag>) -> Option<(i32, ExitStatus)> {
    loop {
        return match waitpid(child, flags) {
            Ok(WaitStatus::Exited(pid, status)) => Some((pid.as_raw(), ExitStatus::Exited(status))),
            Ok(WaitStatus::Signaled(pid, signal, false)) => Some((pid.as_raw(), ExitStatus::Killed(signal))),
            Ok(WaitStatus::Signaled(pid, signal, true)) => Some((pid.as_raw(), ExitStatus::Dumped(signal))),
            Ok(WaitStatus::StillAlive) => None,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Real forks are tested with the real binary: this test program has threads.

    #[test]
    fn endings_read_as_sentences() {
        assert_eq!(ExitStatus::Exited(71).to_string(), "exited with status 71");
        assert_eq!(ExitStatus::Killed(Signal::SIGKILL).to_string(), "was killed by SIGKILL");
        assert_eq!(ExitStatus::Dumped(Signal::SIGSEGV).to_string(), "was killed by SIGSEGV (core dumped)");
    }

    #[test]
    fn a_child_is_waited_for_by_number() {
        #[expect(clippy::zombie_processes, reason = "waiting is what is tested")]
        let child = std::process::Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert_eq!(wait(pid), Some(ExitStatus::Exited(3)));
        assert_eq!(wait(pid), None);
    }

    #[test]
    fn a_process_whose_parent_is_not_the_expected_one_is_told() {
        // Not in this process: the parent-death signal would stay set. 1 is nobody's real parent here.
        let before = nix::sys::prctl::get_pdeathsig().unwrap();
        assert!(end_with_parent(i32::MAX).is_err());
        nix::sys::prctl::set_pdeathsig(before).unwrap();
    }
}
