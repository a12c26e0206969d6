//! From a command line to a log: one list, in order, once.
//!
//! 1. the socket is opened, the user is looked up, the jail is looked at: ports below 1024 need root, and whoever starts
//!    a daemon sees at once what is wrong
//! 2. to the background; from here on whoever started penlogd waits for the outcome
//! 3. into the jail, then away from root and its groups, for good
//! 4. the pid file and the log are opened: inside the jail, as the user
//! 5. serving
//!
//! A failure on the way leaves nothing behind.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use super::output::{self, Output};
use super::service::{SIGNALS, Service};
use super::{Launch, PROGRAM, complain};
use crate::process::background::{self, Detached, StartupNotifier};
use crate::process::pidfile::PidFile;
use crate::process::startup::{check_jail, find_user};
use crate::report::messages::Messages;
use crate::sys::privileges::{self, Kept, User};
use crate::sys::reason::words;
use crate::sys::signal::{self, Signal, Signals};
use crate::sys::{clock, datagram, fork};

/// What can be done in the place where penlogd was started, as whoever started it.
struct Prepared {
    socket: OwnedFd,
    user: Option<User>,
    /// Standard output, where there is no log file. A daemon's own leads nowhere.
    inherited: Option<File>,
}

/// Starts penlogd: returns in the process that was started when it is at work (or has failed), in the one that is at work
/// when it has ended.
pub(super) fn run(launch: Launch) -> ExitCode {
    start(launch).unwrap_or_else(|reason| {
        complain(reason);
        ExitCode::FAILURE
    })
}

fn start(launch: Launch) -> Result<ExitCode, String> {
    if !launch.foreground {
        // A daemon that kept what a script had open would keep its locks and its pipes, too.
        fork::close_inherited();
    }
    // A write beyond RLIMIT_FSIZE fails then, like one to a full disk, instead of killing the process.
    signal::ignore(&[Signal::SIGXFSZ])
        .map_err(|error| format!("cannot ignore SIGXFSZ: {}", words(&error)))?;
    let prepared = prepare(&launch).inspect_err(|reason| {
        if !launch.foreground {
            syslog(&launch).error(format_args!("{reason}"));
        }
    })?;
    // Signals that come before there are handlers wait for them.
    signal::block_all().map_err(|error| format!("cannot hold signals back: {}", words(&error)))?;
    if launch.foreground {
        // The zone's file may be out of reach in the jail.
        clock::local(clock::wall());
        let messages = Messages::stderr(launch.debug).of(PROGRAM);
        return Ok(become_daemon(&launch, prepared, StartupNotifier::Foreground, messages));
    }
    let detached = background::detach(PROGRAM);
    match detached.map_err(|error| format!("cannot go to the background: {}", words(&error)))? {
        Detached::WaitingParent(parent) => {
            drop(prepared);
            parent.wait().map(|()| ExitCode::SUCCESS)
        }
        Detached::Daemon(notifier) => Ok(become_daemon(&launch, prepared, notifier, syslog(&launch))),
    }
}

fn syslog(launch: &Launch) -> Messages {
    Messages::syslog(launch.debug).of(PROGRAM)
}

fn prepare(launch: &Launch) -> Result<Prepared, String> {
    let socket = datagram::open_collector(launch.port).map_err(|error| cannot_listen(launch.port, &error))?;
    let user = launch.user.as_deref().map(find_user).transpose()?;
    launch.jail.as_deref().map_or(Ok(()), check_jail)?;
    let inherited = match launch.log {
        Some(_) => None,
        None => Some(standard_output()?),
    };
    Ok(Prepared { socket, user, inherited })
}

fn cannot_listen(port: u16, error: &io::Error) -> String {
    let way_out = match error.kind() {
        io::ErrorKind::PermissionDenied => "; start penlogd as root, or choose a port above 1023",
        io::ErrorKind::AddrInUse => "; another program listens there",
        _ => "",
    };
    format!("cannot listen on UDP port {port}: {}{way_out}", words(error))
}

fn standard_output() -> Result<File, String> {
    let own = io::stdout().as_fd().try_clone_to_owned();
    own.map(File::from).map_err(|error| format!("cannot use standard output: {}", words(&error)))
}

/// In the process that does the work: everything up to the end of its life.
fn become_daemon(
    launch: &Launch,
    prepared: Prepared,
    notifier: StartupNotifier,
    messages: Messages,
) -> ExitCode {
    let Prepared { socket, user, inherited } = prepared;
    let steps = || -> Result<_, String> {
        if let Some(jail) = &launch.jail {
            privileges::enter_jail(jail).map_err(|error| error.to_string())?;
        }
        if let Some(user) = &user {
            user.assume(Kept::Nothing).map_err(|error| error.to_string())?;
        }
        privileges::renounce(Kept::Nothing).map_err(|error| error.to_string())?;
        // Before the log: that of a penlogd which does not start would stay.
        let pidfile = launch.pidfile.as_deref().map(|path| PidFile::claim(path, PROGRAM)).transpose();
        let pidfile = pidfile.map_err(|error| error.to_string())?;
        let file = match (&launch.log, inherited) {
            (Some(path), _) => output::open(path)?,
            (None, Some(inherited)) => inherited,
            (None, None) => standard_output()?,
        };
        let signals = Signals::install(&SIGNALS).and_then(|own| signal::unblock_all().map(|()| own));
        let signals = signals.map_err(|error| format!("cannot hear signals: {}", words(&error)))?;
        Ok((pidfile, Output::new(file), signals))
    };
    let (pidfile, output, signals) = match steps() {
        Ok(made) => made,
        Err(reason) => {
            notifier.failed(&reason, &messages);
            return ExitCode::FAILURE;
        }
    };
    if notifier.ready().is_err() {
        messages.error(format_args!("the start was given up"));
        return ExitCode::FAILURE;
    }
    let outcome = Service::new(launch, socket, output, signals, &messages).run();
    drop(pidfile);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            messages.error(format_args!("cannot go on: {}", words(&error)));
            ExitCode::FAILURE
        }
    }
}
