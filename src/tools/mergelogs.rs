//! The program mergelogs(1): the logs of several web servers as one, with the clients that pen has logged.
//!
//! Options and statuses are those of pen 0.34.1's mergelogs: no operands, or an option that there is not, shows the usage
//! on standard output with status 0.

mod input;
mod run;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches};

use self::run::{WebLog, Work};
use crate::model::number::{self, LARGEST, NumberError};
use crate::process::complain_as;
use crate::sys::clock;
use crate::tools::cli::{self, Task, UsageError};
use crate::weblogs::merging::recent::Span;

/// The name by which it complains.
const PROGRAM: &str = "mergelogs";

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
        Ok(Task::Work(work)) => work,
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

fn complain(line: &str) {
    complain_as(PROGRAM, line);
}

/// As with all that it writes, a reader that is gone is a failure.
fn show(text: &str) -> ExitCode {
    match cli::show(text) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
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

fn command_line() -> clap::Command {
    // But for help and version there are letters alone, as in the classic.
    let lettered = |letter: char, option: Arg| option.short(letter).long(None::<&str>);
    let debug = cli::flag(DEBUG, "Tell of bogus lines and how many lines there were; twice: of each line");
    let options = [
        lettered('p', cli::with(PEN, "PENLOG", "What pen has logged; needed")),
        lettered('c', cli::flag(WHOLE, "Look for clients in all of pen's log, however far away in time")),
        lettered('d', debug.action(ArgAction::Count)),
        lettered(
            'j',
            cli::with(JITTER_OPTION, "SECONDS", "How far from a line its client is looked for [600]"),
        ),
        lettered('r', cli::with(REJECTS, "FILE", "Write bogus lines of web servers there")),
        lettered('t', cli::with(SHIFT, "SECONDS", "Take so many seconds from the times of pen's log")),
    ];
    cli::command(PROGRAM, HELP, options)
}

fn usage() -> String {
    cli::help(command_line())
}

/// Takes the words after the program's name apart. `zone` says how far the local zone is ahead of UTC.
fn parse(given: impl IntoIterator<Item = OsString>, zone: impl Fn() -> i64) -> Result<Task<Work>, Error> {
    cli::parse(command_line(), given, |matches| read(matches, zone))
}

fn read(mut matches: ArgMatches, zone: impl Fn() -> i64) -> Result<Task<Work>, Error> {
    let operands = cli::operands(&mut matches);
    if operands.len() == 0 {
        return Ok(Task::Show(usage()));
    }
    let jitter = match cli::value(&mut matches, JITTER_OPTION) {
        Some(given) => number::unsigned("-j", &given, 0..=LARGEST)?,
        None => JITTER,
    };
    // The classic read the web servers' times in its own zone, so who gave the option gave the zone's offset with it.
    let shift = match cli::value(&mut matches, SHIFT) {
        Some(given) => i64::from(number::signed("-t", &given)?) - zone(),
        None => 0,
    };
    let span = if matches.get_flag(WHOLE) { Span::Whole } else { Span::Jitter(jitter) };
    let pen: OsString = matches.remove_one(PEN).ok_or(Error::NoPenLog)?;
    let logs = operands.map(|operand| web_log(&operand)).collect::<Result<Vec<_>, _>>()?;
    let inputs = logs.iter().map(|log| &log.file).chain([&pen]).filter(|file| *file == "-").count();
    if inputs > 1 {
        return Err(Error::TwoInputs);
    }
    let rejects = matches.remove_one(REJECTS);
    Ok(Task::Work(Work { pen, logs, span, shift, debug: matches.get_count(DEBUG), rejects }))
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

    fn parsed(words: &[&str]) -> Result<Task<Work>, Error> {
        parse(words.iter().map(OsString::from), || 3600)
    }

    fn work(words: &[&str]) -> Work {
        match parsed(words) {
            Ok(Task::Work(work)) => work,
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
        assert_eq!(work(&["-p=x", "a:b"]).pen, "=x");
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
