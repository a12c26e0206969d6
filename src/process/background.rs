//! Going to the background, so that whoever started a program learns whether it runs.
//!
//! The process that was started waits on a pipe until its child, which becomes the daemon (pen's master, for one), says
//! that it is at work, or why not, or ends without saying anything.

use std::io::{self, PipeReader, PipeWriter, Read, Write};

use crate::process::complain_as;
use crate::report::messages::Messages;
use crate::sys::reason::words;
use crate::sys::{fork, signal};

/// What the pipe carries when all is well; everything else is the reason of the failure.
const STARTED: &[u8] = b"\0started";

/// Which of the two this is, after [`detach`].
#[derive(Debug)]
pub enum Detached {
    /// The process that was started.
    WaitingParent(WaitingParent),
    /// The one in the background: in a session of its own, without a terminal, in the same directory.
    Daemon(StartupNotifier),
}

/// The process that was started: waits for the daemon.
#[derive(Debug)]
pub struct WaitingParent {
    pipe: PipeReader,
    daemon: i32,
    /// What both are called.
    program: &'static str,
}

/// Tells whoever started the program how that went.
#[derive(Debug)]
pub enum StartupNotifier {
    /// Sees standard error.
    Foreground,
    /// The waiting parent reads this pipe.
    Background(PipeWriter),
}

/// Makes the daemon of that program. Signals must be blocked: they stay so in the daemon, and are let through in the parent.
///
/// # Errors
///
/// Out of processes or descriptors.
pub fn detach(program: &'static str) -> io::Result<Detached> {
    // What is buffered would be written by both.
    io::stdout().flush()?;
    let (reader, writer) = io::pipe()?;
    match fork::fork()? {
        fork::Forked::Parent(daemon) => {
            signal::unblock_all()?;
            Ok(Detached::WaitingParent(WaitingParent { pipe: reader, daemon, program }))
        }
        fork::Forked::Child => {
            let notifier = StartupNotifier::Background(writer);
            match fork::leave_terminal() {
                Ok(()) => Ok(Detached::Daemon(notifier)),
                Err(error) => {
                    notifier.failed(
                        &format!("cannot go to the background: {}", words(&error)),
                        &Messages::syslog(0).of(program),
                    );
                    fork::exit_now(1);
                }
            }
        }
    }
}

impl WaitingParent {
    /// Waits until the daemon runs.
    ///
    /// # Errors
    ///
    /// It does not: why.
    pub fn wait(mut self) -> Result<(), String> {
        let mut outcome = Vec::new();
        let read = self.read_outcome(&mut outcome);
        match outcome.as_slice() {
            STARTED => Ok(()),
            [] => Err(match (read, fork::wait(self.daemon)) {
                (Err(error), _) => {
                    format!("cannot learn whether {} has started: {}", self.program, words(&error))
                }
                (Ok(()), Some(status)) => format!("{} {status} while it started", self.program),
                (Ok(()), None) => format!("{} ended while it started", self.program),
            }),
            reason => {
                // It cleans up before it ends; nothing of it is left when this returns.
                fork::wait(self.daemon);
                Err(String::from_utf8_lossy(reason).into_owned())
            }
        }
    }
}

impl WaitingParent {
    /// Reads until all is well, or the end.
    fn read_outcome(&mut self, outcome: &mut Vec<u8>) -> io::Result<()> {
        let mut room = [0; 1024];
        while outcome != STARTED {
            match self.pipe.read(&mut room) {
                Ok(0) => return Ok(()),
                Ok(length) => outcome.extend_from_slice(&room[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl StartupNotifier {
    /// It runs.
    ///
    /// # Errors
    ///
    /// Nobody waits any more: the start was given up.
    pub fn ready(self) -> io::Result<()> {
        match self {
            StartupNotifier::Foreground => Ok(()),
            StartupNotifier::Background(mut pipe) => pipe.write_all(STARTED),
        }
    }

    /// It does not run. The messages say by their name which program that is.
    pub fn failed(self, reason: &str, messages: &Messages) {
        match self {
            StartupNotifier::Foreground => complain_as(messages.program(), reason),
            StartupNotifier::Background(mut pipe) => {
                messages.error(format_args!("{reason}"));
                // If nobody waits nobody can be told.
                let _ = pipe.write_all(reason.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends, without a fork; the "daemon" is a child that exits with that status.
    fn ends(status: i32) -> (WaitingParent, StartupNotifier) {
        let (reader, writer) = io::pipe().unwrap();
        #[expect(clippy::zombie_processes, reason = "waiting is what is tested")]
        let child = std::process::Command::new("sh").args(["-c", &format!("exit {status}")]).spawn().unwrap();
        let daemon = i32::try_from(child.id()).unwrap();
        (WaitingParent { pipe: reader, daemon, program: "pen" }, StartupNotifier::Background(writer))
    }

    #[test]
    fn success_and_failure_reach_the_parent() {
        let (parent, notifier) = ends(0);
        notifier.ready().unwrap();
        assert_eq!(parent.wait(), Ok(()));
        let (parent, notifier) = ends(1);
        notifier.failed("cannot write the pid file", &Messages::stderr(0));
        assert_eq!(parent.wait(), Err("cannot write the pid file".to_string()));
    }

    #[test]
    fn a_daemon_that_dies_silently_is_noticed() {
        let (parent, notifier) = ends(3);
        drop(notifier);
        assert_eq!(parent.wait(), Err("pen exited with status 3 while it started".to_string()));
    }

    #[test]
    fn a_parent_that_is_gone_is_noticed() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        // Other tests start programs: until those execute they have copies of everything that is open here.
        while StartupNotifier::Background(writer.try_clone().unwrap()).ready().is_ok() {
            assert!(std::time::Instant::now() < deadline, "nobody noticed");
        }
    }
}
