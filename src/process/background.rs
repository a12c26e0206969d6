//! Going to the background, so that whoever started pen learns whether it runs.
//!
//! The process that was started waits on a pipe until its child, which becomes the master, says that the workers
//! accept connections, or why not, or is gone without a word.

use std::io::{self, PipeReader, PipeWriter, Read, Write};

use crate::report::messages::Messages;
use crate::sys::reason::words;
use crate::sys::{fork, signal};

/// What the pipe carries when all is well; everything else is a reason.
const STARTED: &[u8] = b"\0started";

/// Which of the two this is, after [`detach`].
#[derive(Debug)]
pub enum Detached {
    /// The process that was started.
    Starter(Starter),
    /// The one in the background: in a session of its own, without a terminal, in the same directory.
    Daemon(Promise),
}

/// Waits for the daemon's word.
#[derive(Debug)]
pub struct Starter {
    word: PipeReader,
    daemon: i32,
}

/// What the administrator who starts pen is owed: to learn how that went.
#[derive(Debug)]
pub enum Promise {
    /// Sees standard error.
    Foreground,
    /// Waits for a word from the background.
    Background(PipeWriter),
}

/// Makes the daemon. Signals must be blocked: they stay so in the daemon, and are let through in the starter.
///
/// # Errors
///
/// Out of processes or descriptors.
pub fn detach() -> io::Result<Detached> {
    // What is buffered would be written by both.
    io::stdout().flush()?;
    let (reader, writer) = io::pipe()?;
    match fork::fork()? {
        fork::Forked::Parent(daemon) => {
            signal::unblock_all()?;
            Ok(Detached::Starter(Starter { word: reader, daemon }))
        }
        fork::Forked::Child => {
            let promise = Promise::Background(writer);
            match fork::leave_terminal() {
                Ok(()) => Ok(Detached::Daemon(promise)),
                Err(error) => {
                    promise.failed(
                        &format!("cannot go to the background: {}", words(&error)),
                        &Messages::syslog(0),
                    );
                    fork::exit_now(1);
                }
            }
        }
    }
}

impl Starter {
    /// Waits until the daemon runs.
    ///
    /// # Errors
    ///
    /// It does not: why.
    pub fn wait(mut self) -> Result<(), String> {
        let mut word = Vec::new();
        let heard = self.hear(&mut word);
        match word.as_slice() {
            STARTED => Ok(()),
            [] => Err(match (heard, fork::wait(self.daemon)) {
                (Err(error), _) => format!("cannot learn whether pen has started: {}", words(&error)),
                (Ok(()), Some(ending)) => format!("pen {ending} while it started"),
                (Ok(()), None) => "pen ended while it started".to_string(),
            }),
            reason => {
                // It cleans up before it ends; nothing of it is left when this returns.
                fork::wait(self.daemon);
                Err(String::from_utf8_lossy(reason).into_owned())
            }
        }
    }
}

impl Starter {
    /// Reads until all is well, or the end.
    fn hear(&mut self, word: &mut Vec<u8>) -> io::Result<()> {
        let mut room = [0; 1024];
        while word != STARTED {
            match self.word.read(&mut room) {
                Ok(0) => return Ok(()),
                Ok(length) => word.extend_from_slice(&room[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Promise {
    /// Pen runs.
    ///
    /// # Errors
    ///
    /// Nobody waits any more: the start was given up.
    pub fn kept(self) -> io::Result<()> {
        match self {
            Promise::Foreground => Ok(()),
            Promise::Background(mut word) => word.write_all(STARTED),
        }
    }

    /// Pen does not run.
    pub fn failed(self, reason: &str, messages: &Messages) {
        match self {
            Promise::Foreground => eprintln!("pen: {reason}"),
            Promise::Background(mut word) => {
                messages.error(format_args!("{reason}"));
                // If nobody waits nobody can be told.
                let _ = word.write_all(reason.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends, without a fork; the "daemon" is a child that exits with that status.
    fn ends(status: i32) -> (Starter, Promise) {
        let (reader, writer) = io::pipe().unwrap();
        #[expect(clippy::zombie_processes, reason = "waiting is what is tested")]
        let child = std::process::Command::new("sh").args(["-c", &format!("exit {status}")]).spawn().unwrap();
        let daemon = i32::try_from(child.id()).unwrap();
        (Starter { word: reader, daemon }, Promise::Background(writer))
    }

    #[test]
    fn success_and_failure_reach_the_starter() {
        let (starter, promise) = ends(0);
        promise.kept().unwrap();
        assert_eq!(starter.wait(), Ok(()));
        let (starter, promise) = ends(1);
        promise.failed("cannot write the pid file", &Messages::stderr(0));
        assert_eq!(starter.wait(), Err("cannot write the pid file".to_string()));
    }

    #[test]
    fn a_daemon_that_dies_without_a_word_is_noticed() {
        let (starter, promise) = ends(3);
        drop(promise);
        assert_eq!(starter.wait(), Err("pen exited with status 3 while it started".to_string()));
    }

    #[test]
    fn a_starter_that_is_gone_is_noticed() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        // Other tests start programs: until those execute they have copies of everything that is open here.
        while Promise::Background(writer.try_clone().unwrap()).kept().is_ok() {
            assert!(std::time::Instant::now() < deadline, "nobody noticed");
        }
    }
}
