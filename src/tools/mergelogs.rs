//! The program mergelogs(1): the logs of several web servers as one, with the clients that pen has logged.
//!
//! Options and statuses are those of pen 0.34.1's mergelogs: no operands, or an option that there is not, shows the usage
//! on standard output with status 0.

mod input;
mod run;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction};

use self::run::{WebLog, Work};
use crate::model::number::{self, LARGEST, NumberError};
use crate::sys::clock;
use crate::tools::options::{UsageError, usage_error};
use crate::weblogs::merging::recent::Span;

/// How far apart the times of pen and of a web server may be, in seconds, unless `-j` says otherwise.
const JITTER: u32 = 600;

const HELP: &str = "\
usage: mergelogs -p penlog [options] server:logfile ...

Merges the logs of web servers behind pen in the order of their times, with the addresses of the clients.
penlog is what pen has logged (its option -l); server is the web server's address as it is there.
A log can be compressed with gzip; - is standard input.

{all-args}

mergelogs(1) explains them.

Example:
  mergelogs -p pen.log 10.0.0.1:access.log.1 10.0.0.2:access.log.2
";

/// Runs mergelogs with the arguments of this process.
pub fn main() -> ExitCode {
    let work = match parse(std::env::args_os().skip(1), clock::standard_zone) {
        Ok(Task::Show(text)) => return show(&text),
        Ok(Task::Merge(work)) => work,
        Err(error) => {
            complain(&error.to_string());
            // As the classic: it is no failure.
            return if matches!(error, Error::Usage(_)) { show(&usage()) } else { ExitCode::FAILURE };
        }
    };
    match run::run(work, &mut io::stdout().lock(), &mut |text| complain(&text)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(run::Error::Unread) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// If stderr is closed or full nobody can be told.
fn complain(text: &str) {
    let _ = io::stderr().write_all(format!("mergelogs: {text}\n").as_bytes());
}

fn show(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Show(String),
    Merge(Work),
}

/// What a command line lacks.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error("no log of pen given; name it with -p")]
    NoPenLog,
    #[error("{}: no server; give server:logfile, with the server's address as pen's log has it", .0.display())]
    NoServer(OsString),
    #[error("{}: no server before the colon; an IPv6 address needs brackets, as in [::1]:access.log", .0.display())]
    Colon(OsString),
    #[error("standard input can be only one of the logs")]
    TwoInputs,
    #[error(transparent)]
    Number(#[from] NumberError),
}

const PEN: &str = "pen";
const WHOLE: &str = "whole";
const DEBUG: &str = "debug";
const JITTER_OPTION: &str = "jitter";
const REJECTS: &str = "rejects";
const SHIFT: &str = "shift";
const HELP_OPTION: &str = "help";
const VERSION: &str = "version";
const OPERANDS: &str = "operands";

fn command_line() -> clap::Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).help(help).action(ArgAction::SetTrue);
    let value = |name: &'static str, letter: char, value: &'static str, help: &'static str| {
        Arg::new(name)
            .short(letter)
            .value_name(value)
            .allow_hyphen_values(true)
            .value_parser(ValueParser::os_string())
            .help(help)
    };
    let operands = Arg::new(OPERANDS).num_args(0..).value_parser(ValueParser::os_string()).hide(true);
    clap::Command::new("mergelogs")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .help_template(HELP)
        .arg(value(PEN, 'p', "PENLOG", "What pen has logged; needed"))
        .arg(flag(WHOLE, "Look for clients in all of pen's log, however far away in time").short('c'))
        .arg(
            Arg::new(DEBUG)
                .short('d')
                .action(ArgAction::Count)
                .help("Tell of bogus lines and how many lines there were; twice: of each line"),
        )
        .arg(value(JITTER_OPTION, 'j', "SECONDS", "How far from a line its client is looked for [600]"))
        .arg(value(REJECTS, 'r', "FILE", "Write bogus lines of web servers there"))
        .arg(value(SHIFT, 't', "SECONDS", "Take so many seconds from the times of pen's log"))
        .arg(flag(HELP_OPTION, "Show this, and exit").long(HELP_OPTION))
        .arg(flag(VERSION, "Show the version, and exit").long(VERSION))
        .arg(operands)
}

fn usage() -> String {
    command_line().render_help().to_string()
}

/// Takes the words after the program's name apart. `zone` says how far the local zone is ahead of UTC.
fn parse(given: impl IntoIterator<Item = OsString>, zone: impl Fn() -> i64) -> Result<Task, Error> {
    let given = std::iter::once(OsString::from("mergelogs")).chain(given);
    let mut matches = command_line().try_get_matches_from(given).map_err(|error| usage_error(&error))?;
    if matches.get_flag(HELP_OPTION) {
        return Ok(Task::Show(usage()));
    }
    if matches.get_flag(VERSION) {
        return Ok(Task::Show(concat!("mergelogs ", env!("CARGO_PKG_VERSION"), "\n").to_owned()));
    }
    let operands: Vec<OsString> = matches.remove_many(OPERANDS).into_iter().flatten().collect();
    if operands.is_empty() {
        return Ok(Task::Show(usage()));
    }
    let mut number = |option: &str| {
        matches.remove_one::<OsString>(option).map(|given| given.to_string_lossy().into_owned())
    };
    let jitter = match number(JITTER_OPTION) {
        Some(given) => number::unsigned("-j", &given, 0..=LARGEST)?,
        None => JITTER,
    };
    // The classic read the web servers' times in its own zone, so who gave the option gave the zone's offset with it.
    let shift = match number(SHIFT) {
        Some(given) => i64::from(number::signed("-t", &given)?) - zone(),
        None => 0,
    };
    let span = if matches.get_flag(WHOLE) { Span::Whole } else { Span::Jitter(jitter) };
    let pen: OsString = matches.remove_one(PEN).ok_or(Error::NoPenLog)?;
    let logs = operands.iter().map(|operand| web_log(operand)).collect::<Result<Vec<_>, _>>()?;
    let inputs = logs.iter().map(|log| &log.file).chain([&pen]).filter(|file| *file == "-").count();
    if inputs > 1 {
        return Err(Error::TwoInputs);
    }
    let rejects = matches.remove_one(REJECTS);
    Ok(Task::Merge(Work { pen, logs, span, shift, debug: matches.get_count(DEBUG), rejects }))
}

/// `server:logfile`, or `[server]:logfile`.
fn web_log(operand: &OsStr) -> Result<WebLog, Error> {
    let text = operand.as_bytes();
    let bracketed = text.strip_prefix(b"[").and_then(|inside| {
        let end = inside.windows(2).position(|two| two == b"]:")?;
        Some((&inside[..end], &inside[end + 2..]))
    });
    let plain = || {
        let colon = text.iter().position(|&byte| byte == b':')?;
        Some((&text[..colon], &text[colon + 1..]))
    };
    match bracketed.or_else(plain) {
        None => Err(Error::NoServer(operand.to_owned())),
        Some(([], _)) => Err(Error::Colon(operand.to_owned())),
        Some((server, file)) => {
            Ok(WebLog { server: server.to_vec(), file: OsString::from_vec(file.to_vec()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Task, Error> {
        parse(words.iter().map(OsString::from), || 3600)
    }

    fn work(words: &[&str]) -> Work {
        match parsed(words) {
            Ok(Task::Merge(work)) => work,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    fn refused(words: &[&str]) -> String {
        parsed(words).unwrap_err().to_string()
    }

    fn operand(text: &str) -> (String, String) {
        let WebLog { server, file } = web_log(OsStr::new(text)).unwrap();
        (String::from_utf8(server).unwrap(), file.into_string().unwrap())
    }

    #[test]
    fn options_may_stand_behind_operands() {
        let expected = Work {
            pen: "pen.log".into(),
            logs: vec![WebLog { server: b"a".to_vec(), file: "b".into() }],
            span: Span::Jitter(5),
            shift: 0,
            debug: 2,
            rejects: Some("bad".into()),
        };
        assert_eq!(work(&["-p", "pen.log", "-dd", "-j5", "-r", "bad", "a:b"]), expected);
        assert_eq!(work(&["a:b", "-j", "5", "-p", "x", "-ppen.log", "-rbad", "-d", "-d"]), expected);
    }

    #[test]
    fn without_options_the_jitter_is_ten_minutes() {
        let Work { span, shift, debug, rejects, .. } = work(&["-p", "x", "a:b"]);
        assert_eq!((span, shift, debug, rejects), (Span::Jitter(600), 0, 0, None));
        assert_eq!(work(&["-p", "x", "-c", "-j", "5", "a:b"]).span, Span::Whole);
    }

    #[test]
    fn the_shift_includes_the_offset_of_the_zone() {
        assert_eq!(work(&["-p", "x", "-t", "3600", "a:b"]).shift, 0);
        assert_eq!(work(&["-p", "x", "-t", "-5", "a:b"]).shift, -3605);
    }

    #[test]
    fn a_server_ends_at_the_first_colon_or_at_its_bracket() {
        let pair = |server: &str, file: &str| (server.to_owned(), file.to_owned());
        assert_eq!(operand("10.0.0.1:/var/log/a:b"), pair("10.0.0.1", "/var/log/a:b"));
        assert_eq!(operand("[::1]:a"), pair("::1", "a"));
        assert_eq!(operand("[::1:a"), pair("[", ":1:a"));
        assert_eq!(operand("www:"), pair("www", ""));
        assert_eq!(
            refused(&["-p", "x", "a"]),
            "a: no server; give server:logfile, with the server's address as pen's log has it"
        );
        assert!(refused(&["-p", "x", "::1:a"]).starts_with("::1:a: no server before the colon"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(refused(&["a:b"]), "no log of pen given; name it with -p");
        assert_eq!(refused(&["-p", "-", "a:-"]), "standard input can be only one of the logs");
        assert!(refused(&["-p", "x", "-j", "soon", "a:b"]).starts_with("-j must be a number"));
        assert!(refused(&["-p", "x", "-j", "-1", "a:b"]).starts_with("-j must be a number"));
        assert!(refused(&["-p", "x", "-t", "x", "a:b"]).starts_with("-t must be a number"));
        assert!(matches!(parsed(&["-z", "a:b"]), Err(Error::Usage(_))));
        assert!(matches!(parsed(&["-p"]), Err(Error::Usage(_))));
    }

    #[test]
    fn without_operands_the_usage_is_shown() {
        for words in [&[][..], &["-p", "x"], &["-c"]] {
            assert!(matches!(parsed(words), Ok(Task::Show(text)) if text.starts_with("usage: mergelogs -p")));
        }
    }
}
