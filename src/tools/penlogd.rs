//! The program penlogd(1): its command line. What it does then is in `startup` and `service`.
//!
//! The letters are those of pen 0.34.1's penlogd, and so is what a mistake in them comes to: the usage on standard output
//! and status 0, though not in silence. A value that makes no sense was taken for 0 there; here it ends the start.

mod output;
mod report;
mod service;
mod startup;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, ArgMatches};

use crate::model::number::{self, NumberError};
use crate::process::complain_as;
use crate::tools::cli::{self, Task, UsageError};

/// The name by which it is known to syslog and in pid files.
const PROGRAM: &str = "penlogd";

/// Entries that pen told of, unless `-n` says otherwise.
const ENTRIES: u32 = 1000;

/// Each takes up to a KiB.
const MOST_ENTRIES: u32 = 10_000_000;

/// How long a line waits for its entry, in microseconds, unless `--wait` says otherwise.
const WAIT: u64 = 1_000_000;

/// Longer waits help nobody who reads the log.
const MOST_SECONDS: u64 = 3600;

const USAGE: &str = "\
usage: penlogd [options] port

Writes one log for several web servers behind pen(1), with the addresses of the true clients.
Web servers' lines come from penlog(1) or from nginx, what pen knows comes from its option -l HOST:PORT.

{all-args}

Example: one log of all
  penlogd -l /var/log/penlogd.log -p /run/penlogd.pid 9800
";

/// Runs penlogd with the arguments of this process.
pub fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)) {
        Ok(Task::Show(text)) => cli::answer(&text),
        Ok(Task::Work(launch)) => {
            if launch.unbuffered {
                complain("-b has no effect: lines are never kept back");
            }
            startup::run(launch)
        }
        Err(error) if error.is_misuse() => {
            if !matches!(error, Error::NoPort) {
                complain(&error);
            }
            cli::answer(&cli::help(command_line()))
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn complain(line: impl std::fmt::Display) {
    complain_as(PROGRAM, line);
}

/// How to serve.
#[derive(Debug, PartialEq, Eq)]
struct Launch {
    port: u16,
    /// `-b`, which is said to change nothing.
    unbuffered: bool,
    /// `-d`, counted.
    debug: u8,
    /// `-f`.
    foreground: bool,
    /// `-j`.
    jail: Option<PathBuf>,
    /// `-l`; none: standard output.
    log: Option<PathBuf>,
    /// `-n`.
    entries: u32,
    /// `-p`.
    pidfile: Option<PathBuf>,
    /// `-u`.
    user: Option<String>,
    /// `--wait`, in microseconds.
    wait: u64,
}

/// What is wrong with a command line.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no port given")]
    NoPort,
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Number(#[from] NumberError),
    #[error("--wait must be a number of seconds from 0 to {MOST_SECONDS}, not {0:?}")]
    Wait(String),
    #[error("one port is enough; {0:?} is too much")]
    Operand(OsString),
    #[error("{0} needs a name that is not empty")]
    Empty(&'static str),
    #[error("{0:?} is not UTF-8")]
    Encoding(OsString),
}

impl Error {
    /// Is the usage the answer?
    fn is_misuse(&self) -> bool {
        matches!(self, Error::NoPort | Error::Usage(_))
    }
}

const UNBUFFERED: &str = "unbuffered";
const DEBUG: &str = "debug";
const FOREGROUND: &str = "foreground";
const JAIL: &str = "jail";
const LOG: &str = "log";
const CACHE: &str = "cache";
const PIDFILE: &str = "pidfile";
const USER: &str = "user";
const WAITING: &str = "wait";

fn command_line() -> clap::Command {
    let options = [
        cli::flag(UNBUFFERED, "Accepted for old scripts: lines are never kept back").short('b'),
        cli::flag(DEBUG, "Tell more").short('d').action(ArgAction::Count),
        cli::flag(FOREGROUND, "Stay in the foreground").short('f'),
        cli::with(JAIL, "DIRECTORY", "Change the root directory").short('j'),
        cli::with(LOG, "FILE", "Write the log to FILE [standard output]").short('l'),
        cli::with(CACHE, "ENTRIES", "Remember so many requests that pen told of [1000]").short('n'),
        cli::with(PIDFILE, "FILE", "Write the process id to FILE").short('p'),
        cli::with(USER, "USER", "Run as USER").short('u'),
        cli::with(WAITING, "SECONDS", "Let a line wait for pen's word this long; 0 is not at all [1]"),
    ];
    cli::command(PROGRAM, USAGE, options)
}

/// Takes the words after the program's name apart.
fn parse(given: impl IntoIterator<Item = OsString>) -> Result<Task<Launch>, Error> {
    cli::parse(command_line(), given, read)
}

fn read(mut matches: ArgMatches) -> Result<Task<Launch>, Error> {
    let mut operands = cli::operands(&mut matches);
    let port = operands.next().ok_or(Error::NoPort)?;
    if let Some(more) = operands.next() {
        return Err(Error::Operand(more));
    }
    let port = number::unsigned("the port", &text(port)?, 0..=u16::MAX.into())?;
    let port = u16::try_from(port).ok().filter(|&port| port > 0).ok_or(Error::NoPort)?;
    let entries = match cli::value(&mut matches, CACHE) {
        Some(count) => number::unsigned("-n", &count, 1..=MOST_ENTRIES)?,
        None => ENTRIES,
    };
    let wait = match cli::value(&mut matches, WAITING) {
        Some(given) => micros(&given).ok_or(Error::Wait(given))?,
        None => WAIT,
    };
    let user = name(&mut matches, USER, "-u")?.map(text).transpose()?;
    Ok(Task::Work(Launch {
        port,
        unbuffered: matches.get_flag(UNBUFFERED),
        debug: matches.get_count(DEBUG),
        foreground: matches.get_flag(FOREGROUND),
        jail: name(&mut matches, JAIL, "-j")?.map(PathBuf::from),
        log: name(&mut matches, LOG, "-l")?.map(PathBuf::from),
        entries,
        pidfile: name(&mut matches, PIDFILE, "-p")?.map(PathBuf::from),
        user,
        wait,
    }))
}

/// The value of an option that names something.
fn name(matches: &mut ArgMatches, option: &str, letter: &'static str) -> Result<Option<OsString>, Error> {
    match matches.remove_one::<OsString>(option) {
        Some(empty) if empty.is_empty() => Err(Error::Empty(letter)),
        name => Ok(name),
    }
}

fn text(word: OsString) -> Result<String, Error> {
    word.into_string().map_err(Error::Encoding)
}

/// A length of time in seconds, with or without a fraction, in microseconds.
fn micros(given: &str) -> Option<u64> {
    const DIGITS: usize = 6;
    let (whole, fraction) = given.split_once('.').unwrap_or((given, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let seconds: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // What is less than a microsecond is nothing.
    let fraction = &fraction[..fraction.len().min(DIGITS)];
    let part: u64 = format!("{fraction:0<DIGITS$}").parse().ok()?;
    let micros = seconds.checked_mul(1_000_000)?.checked_add(part)?;
    (micros <= MOST_SECONDS * 1_000_000).then_some(micros)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(words: &[&str]) -> Task<Launch> {
        parse(words.iter().map(OsString::from)).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn launch(words: &[&str]) -> Launch {
        match parsed(words) {
            Task::Work(launch) => launch,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    fn refused(words: &[&str]) -> (String, bool) {
        let error = parse(words.iter().map(OsString::from)).unwrap_err();
        (error.to_string(), error.is_misuse())
    }

    fn usual() -> Launch {
        Launch {
            port: 9800,
            unbuffered: false,
            debug: 0,
            foreground: false,
            jail: None,
            log: None,
            entries: 1000,
            pidfile: None,
            user: None,
            wait: 1_000_000,
        }
    }

    #[test]
    fn the_table_is_what_clap_accepts() {
        command_line().debug_assert();
    }

    #[test]
    fn a_port_is_enough() {
        assert_eq!(launch(&["9800"]), usual());
    }

    #[test]
    fn all_options_stand_in_every_form_before_and_behind_the_port() {
        let all = Launch {
            unbuffered: true,
            debug: 2,
            foreground: true,
            jail: Some("/jail".into()),
            log: Some("/log".into()),
            entries: 5,
            pidfile: Some("/pid".into()),
            user: Some("nobody".into()),
            wait: 250_000,
            ..usual()
        };
        let words = "-bddf -j /jail -l/log -n5 -p /pid -unobody --wait=0.25 9800";
        assert_eq!(launch(&words.split(' ').collect::<Vec<_>>()), all);
        let words = "9800 --unbuffered --debug --debug --foreground --jail=/jail --log /log --cache 5 \
                     --pidfile /pid --user nobody --wait .25";
        assert_eq!(launch(&words.split(' ').collect::<Vec<_>>()), all);
        assert_eq!(parsed(&["--help"]), Task::Show(cli::help(command_line())));
        let version = concat!("penlogd ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(parsed(&["-f", "--version", "x", "y"]), Task::Show(version.to_owned()));
    }

    #[test]
    fn a_file_s_name_may_begin_with_an_equals_sign() {
        assert_eq!(launch(&["-fl=log", "-p=pid", "9800"]).pidfile, Some("=pid".into()));
        assert_eq!(launch(&["-fl=log", "9800"]).log, Some("=log".into()));
        assert_eq!(launch(&["--log=log", "9800"]).log, Some("log".into()));
    }

    #[test]
    fn without_a_port_or_with_an_option_that_is_none_the_usage_is_the_answer() {
        for words in [&[][..], &["0"], &["-f"], &["-n", "9800"]] {
            assert_eq!(refused(words), ("no port given".to_owned(), true), "{words:?}");
        }
        assert_eq!(refused(&["-Z", "9800"]), ("unknown option -Z".to_owned(), true));
        assert_eq!(refused(&["9800", "-l"]), ("--log needs an argument".to_owned(), true));
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        for (words, reason) in [
            (&["http"][..], r#"the port must be a number from 0 to 65535, not "http""#),
            (&["65536"], r#"the port must be a number from 0 to 65535, not "65536""#),
            (&["9800", "9801"], r#"one port is enough; "9801" is too much"#),
            (&["-n", "0", "9800"], r#"-n must be a number from 1 to 10000000, not "0""#),
            (&["-n", "x", "9800"], r#"-n must be a number from 1 to 10000000, not "x""#),
            (&["-u", "", "9800"], "-u needs a name that is not empty"),
            (&["--wait", "-1", "9800"], r#"--wait must be a number of seconds from 0 to 3600, not "-1""#),
        ] {
            assert_eq!(refused(words), (reason.to_owned(), false), "{words:?}");
        }
    }

    #[test]
    fn lengths_of_time_may_have_fractions() {
        for (given, wanted) in [
            ("0", Some(0)),
            ("1", Some(1_000_000)),
            ("1.5", Some(1_500_000)),
            (".000001", Some(1)),
            ("0.0000019", Some(1)),
            ("2.", Some(2_000_000)),
            ("3600", Some(3_600_000_000)),
            ("3600.000001", None),
            ("99999999999999999999", None),
            ("18446744073710", None),
            ("", None),
            (".", None),
            ("1s", None),
            ("+1", None),
            ("1.2.3", None),
            ("1e3", None),
        ] {
            assert_eq!(micros(given), wanted, "{given}");
        }
    }

    proptest! {
        #[test]
        fn no_command_line_makes_penlogd_panic(
            words in prop::collection::vec(r"-{0,2}[a-z0-9:/\[\]=.]{0,8}|\PC{0,4}", 0..5)
        ) {
            let _ = parse(words.into_iter().map(OsString::from));
        }
    }
}
