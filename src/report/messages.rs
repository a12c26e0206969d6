//! Messages for people: timestamped on stderr in the foreground, syslog (facility user) else.
//!
//! Nothing here waits: a balancer must not stop because syslogd did. The syslog socket is non-blocking, and what it
//! does not take is dropped. Nothing here trusts either: text may quote what came over the network, so everything
//! that could move a terminal's cursor or start a line of its own is shown as an escape.
//!
//! All methods take `&self`, without a lock: the value is inherited over fork(2) and used by every process as it is.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use syslog::{Facility, Formatter3164, LogFormat, Severity};

use crate::model::reply::push_printable;
use crate::model::time::{Moment, Seconds};
use crate::sys::clock;

/// Whose messages they are if nothing else is said.
const PROGRAM: &str = "pen";

/// Where syslog daemons listen.
const SYSLOG: &str = "/dev/log";

/// A syslog daemon that has gone is looked for again at most this often.
const RECONNECT: Seconds = Seconds(1);

/// Where messages go, and how many of them. Inherited by workers over fork.
#[derive(Debug)]
pub struct Messages {
    level: AtomicU8,
    /// Who tells, for syslog.
    program: &'static str,
    channel: Channel,
}

#[derive(Debug)]
enum Channel {
    Stderr,
    Syslog(Option<Syslog>),
}

impl Messages {
    /// Foreground: one write(2) a line to stderr, `YYYY-MM-DD HH:MM:SS: text`.
    pub fn stderr(debug: u8) -> Self {
        Messages { level: AtomicU8::new(debug), program: PROGRAM, channel: Channel::Stderr }
    }

    /// Background: syslog through the syslog crate, over a non-blocking socket opened now (before chroot). If there
    /// is no syslog daemon messages are dropped until one can be reached. `<15>` for notes and debug, `<11>` errors.
    pub fn syslog(debug: u8) -> Self {
        Messages {
            level: AtomicU8::new(debug),
            program: PROGRAM,
            channel: Channel::Syslog(Syslog::open(Path::new(SYSLOG)).ok()),
        }
    }

    /// The same, told by another program than pen.
    pub fn of(self, program: &'static str) -> Self {
        Messages { program, ..self }
    }

    /// Who tells.
    pub fn program(&self) -> &'static str {
        self.program
    }

    /// Changes the level.
    pub fn set_debug(&self, level: u8) {
        self.level.store(level, Relaxed);
    }

    /// The level, 0 to 3.
    pub fn debug_level(&self) -> u8 {
        self.level.load(Relaxed)
    }

    /// Something failed that the administrator must know.
    pub fn error(&self, text: fmt::Arguments<'_>) {
        self.say(Severity::LOG_ERR, text);
    }

    /// Worth knowing at any level.
    pub fn note(&self, text: fmt::Arguments<'_>) {
        self.say(Severity::LOG_DEBUG, text);
    }

    /// Told at this debug level and above.
    pub fn debug(&self, level: u8, text: fmt::Arguments<'_>) {
        if self.debug_level() >= level {
            self.say(Severity::LOG_DEBUG, text);
        }
    }

    /// A note of several lines, such as a block of statistics: one message on stderr, one a line to syslog, which
    /// knows no line breaks. Everything else that is not printable is escaped as in the other messages.
    pub fn block(&self, text: &str) {
        match &self.channel {
            Channel::Stderr => {
                let mut out = stamp();
                for (number, line) in text.split('\n').enumerate() {
                    if number > 0 {
                        out.push('\n');
                    }
                    escape_into(&mut out, format_args!("{line}"));
                }
                out.push('\n');
                self.raw(out.as_bytes());
            }
            Channel::Syslog(_) => {
                for line in text.split('\n').filter(|line| !line.is_empty()) {
                    self.say(Severity::LOG_DEBUG, format_args!("{line}"));
                }
            }
        }
    }

    /// Raw text to stderr as it is (dumps of -ddd).
    pub fn raw(&self, text: &[u8]) {
        // Nobody is left to tell if stderr is gone.
        let _ = io::stderr().write_all(text);
    }

    fn say(&self, severity: Severity, text: fmt::Arguments<'_>) {
        match &self.channel {
            Channel::Stderr => {
                let mut out = stamp();
                escape_into(&mut out, text);
                out.push('\n');
                self.raw(out.as_bytes());
            }
            Channel::Syslog(None) => {}
            Channel::Syslog(Some(syslog)) => {
                let mut out = String::new();
                escape_into(&mut out, text);
                syslog.send(self.program, severity, &out, clock::now());
            }
        }
    }
}

/// The start of a line on stderr: the time and what separates it from the text.
fn stamp() -> String {
    let mut out = clock::local(clock::wall());
    out.push_str(": ");
    out
}

/// Appends `text`, with escapes for what is unprintable.
fn escape_into(out: &mut String, text: fmt::Arguments<'_>) {
    struct Escaping<'a>(&'a mut String);
    impl fmt::Write for Escaping<'_> {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            part.chars().for_each(|char| push_printable(self.0, char));
            Ok(())
        }
    }
    // A Display that fails has said what it could before; the message goes out as far as it came.
    let _ = Escaping(out).write_fmt(text);
}

/// A socket towards the local syslog daemon.
#[derive(Debug)]
struct Syslog {
    /// Non-blocking. Shared with every process forked since, so one that reconnects it does so for all.
    socket: UnixDatagram,
    path: PathBuf,
    /// When the daemon was last looked for, in [`Moment`]'s microseconds.
    sought: AtomicU64,
}

impl Syslog {
    /// Makes the socket, and connects it if a daemon is there. The path is looked up again after the daemon has
    /// been restarted, then in the jail if there is one.
    fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let syslog = Syslog { socket, path: path.to_path_buf(), sought: AtomicU64::new(0) };
        // No daemon yet: the first message looks again.
        let _ = syslog.socket.connect(path);
        Ok(syslog)
    }

    /// One datagram. A daemon that is not there any more is looked for, now and then; one that is busy loses it.
    fn send(&self, program: &str, severity: Severity, text: &str, now: Moment) {
        let Err(failure) = self.try_send(program, severity, text) else {
            return;
        };
        if failure.kind() == io::ErrorKind::WouldBlock || !self.may_seek(now) {
            return;
        }
        if self.socket.connect(&self.path).is_ok() {
            let _ = self.try_send(program, severity, text);
        }
    }

    fn may_seek(&self, now: Moment) -> bool {
        let sought = self.sought.load(Relaxed);
        if sought != 0 && now.micros_since(Moment(sought)) < RECONNECT.micros() {
            return false;
        }
        self.sought.store(now.0, Relaxed);
        true
    }

    fn try_send(&self, program: &str, severity: Severity, text: &str) -> io::Result<()> {
        let formatter = Formatter3164 {
            facility: Facility::LOG_USER,
            hostname: None,
            process: program.to_owned(),
            // Asked for anew: this may be a child of the process that opened the socket.
            pid: process::id(),
        };
        // Not a Logger of the crate's: that owns its socket, so this would need a descriptor for every message,
        // the one about having run out of descriptors included.
        let mut datagram = Vec::with_capacity(text.len() + 64);
        formatter.format(&mut datagram, severity, text).map_err(io::Error::other)?;
        self.socket.send(&datagram).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        escape_into(&mut out, format_args!("{text}"));
        out
    }

    /// A syslog daemon of our own, in a directory of its own.
    struct Daemon {
        socket: UnixDatagram,
        path: PathBuf,
    }

    impl Daemon {
        fn start(name: &str) -> Daemon {
            let path = std::env::temp_dir().join(format!("pen-messages-{}-{name}", process::id()));
            let _ = std::fs::remove_file(&path);
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            Daemon { socket, path }
        }

        fn hears(&self) -> String {
            let mut buffer = [0; 4096];
            let length = self.socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    #[test]
    fn what_could_fake_a_line_or_move_a_cursor_is_escaped() {
        assert_eq!(escaped("a\nb\r\t\x1b[2J\u{9b}\u{7f}"), "a\\nb\\r\\t\\u{1b}[2J\\u{9b}\\u{7f}");
        assert_eq!(escaped("\u{202e}\u{2028}\u{200b}"), "\\u{202e}\\u{2028}\\u{200b}");
        assert_eq!(escaped("cannot listen on [::1]:80: é\\"), "cannot listen on [::1]:80: é\\");
    }

    #[test]
    fn the_level_can_be_changed_through_a_shared_reference() {
        let messages = Messages::stderr(1);
        assert_eq!(messages.debug_level(), 1);
        messages.set_debug(3);
        assert_eq!(messages.debug_level(), 3);
    }

    #[test]
    fn syslog_gets_facility_user_the_name_and_this_process() {
        let daemon = Daemon::start("tag");
        let syslog = Syslog::open(&daemon.path).unwrap();
        syslog.send("pen", Severity::LOG_ERR, "cannot reopen the log", Moment(1));
        let heard = daemon.hears();
        assert!(heard.starts_with("<11>"), "{heard}");
        assert!(heard.ends_with(&format!(" pen[{}]: cannot reopen the log", process::id())), "{heard}");
        syslog.send("penlogd", Severity::LOG_DEBUG, "x", Moment(1));
        let heard = daemon.hears();
        assert!(heard.starts_with("<15>"), "{heard}");
        assert!(heard.ends_with(&format!(" penlogd[{}]: x", process::id())), "{heard}");
    }

    #[test]
    fn a_restarted_daemon_is_found_again_but_looked_for_only_once_a_second() {
        let daemon = Daemon::start("restart");
        let path = daemon.path.clone();
        let syslog = Syslog::open(&path).unwrap();
        drop(daemon);
        let second = RECONNECT.micros();
        syslog.send("pen", Severity::LOG_DEBUG, "lost", Moment(second));
        let daemon = Daemon::start("restart");
        syslog.send("pen", Severity::LOG_DEBUG, "too early", Moment(second + second / 2));
        syslog.send("pen", Severity::LOG_DEBUG, "found", Moment(second * 2));
        assert!(daemon.hears().ends_with(": found"));
    }

    #[test]
    fn a_daemon_that_does_not_read_never_blocks_pen() {
        let daemon = Daemon::start("stuck");
        let syslog = Syslog::open(&daemon.path).unwrap();
        // Far more than net.unix.max_dgram_qlen and a socket's buffer take. Without O_NONBLOCK this would hang.
        for _ in 0..20_000 {
            syslog.send("pen", Severity::LOG_DEBUG, "x", Moment(1));
        }
        assert!(daemon.hears().ends_with(": x"));
    }

    #[test]
    fn without_a_daemon_the_first_message_looks_for_one() {
        let path = std::env::temp_dir().join(format!("pen-messages-{}-late", process::id()));
        let syslog = Syslog::open(&path).unwrap();
        let daemon = Daemon::start("late");
        assert_eq!(daemon.path, path);
        syslog.send("pen", Severity::LOG_DEBUG, "hello", Moment(1));
        assert!(daemon.hears().ends_with(": hello"));
    }
}
