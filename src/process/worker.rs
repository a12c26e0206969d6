//! One worker process: sets itself up and runs the event loop until told to end.

use crate::net::channel::Report;
use crate::net::event_loop::Worker;
use crate::sys::privileges;
use crate::sys::reason::words;
use crate::sys::signal::{self, Signal, Signals};

pub use crate::net::event_loop::Inheritance;

use super::CANNOT_START;

/// Signals that the master passes on. All of them mean "look at the phase": one that somebody sends to a worker alone
/// finds it unchanged, and does no harm.
const HANDLED: [Signal; 5] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1];

/// Signals that mean something to the master only.
const IGNORED: [Signal; 4] = [Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGCHLD, Signal::SIGPIPE];

/// Runs until the phase says otherwise or the master is gone. All signals are blocked when it begins, and none of
/// the master's handlers is installed any more. Returns the exit status of the process.
pub fn run(inheritance: Inheritance<'_>) -> i32 {
    let (id, region) = (inheritance.id, inheritance.region);
    let signals = match install_signals() {
        Ok(signals) => signals,
        Err(error) => {
            let _ = inheritance.channel.report(&Report::Failed(words(&error)));
            return CANNOT_START;
        }
    };
    // Raises nothing: asks what startup was granted.
    let limit = privileges::raise_descriptor_limit(None, 0).unwrap_or(0);
    let mut worker = match Worker::new(inheritance, signals, limit) {
        Ok(worker) => worker,
        Err((channel, error)) => {
            let _ = channel.report(&Report::Failed(words(&error)));
            return CANNOT_START;
        }
    };
    region.workers().set_ready(id);
    if worker.channel().report(&Report::Ready).is_err() {
        return 0;
    }
    match worker.run() {
        Ok(_) => 0,
        Err(error) => {
            worker.messages().error(format_args!("worker {id}: {}", words(&error)));
            1
        }
    }
}

fn install_signals() -> std::io::Result<Signals> {
    signal::ignore(&IGNORED)?;
    let signals = Signals::install(&HANDLED)?;
    signal::unblock_all()?;
    Ok(signals)
}
