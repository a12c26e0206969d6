//! What the command lines of all programs here have in common: how clap is told of options and operands, what comes of
//! `--help` and `--version`, how mistakes are worded, and how a text of our own gets to standard output.
//!
//! Not here: the options of pen(1) ([`super::options`]), and what complaints are written with
//! ([`crate::process::complain_as`]; penlog has its own, which never waits).

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ErrorKind as Mistake};
use clap::{Arg, ArgAction, ArgMatches, Command};

/// All that is no option.
const OPERANDS: &str = "operands";
const HELP: &str = "help";
const VERSION: &str = "version";

/// A program with these options and `--help` and `--version`. `help` is the text of `--help`, with `{all-args}` where the
/// options are listed.
pub(super) fn command(
    name: &'static str,
    help: &'static str,
    options: impl IntoIterator<Item = Arg>,
) -> Command {
    bare_command(name, help)
        .args(options)
        .arg(flag(HELP, "Show this, and exit"))
        .arg(flag(VERSION, "Show the version, and exit"))
}

/// The same without options: pen(1) has its own table.
pub(super) fn bare_command(name: &'static str, help: &'static str) -> Command {
    let operands = Arg::new(OPERANDS).num_args(0..).value_parser(ValueParser::os_string()).hide(true);
    Command::new(name)
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .help_template(help)
        .arg(operands)
}

/// What follows the first operand is never an option.
pub(super) fn options_first(command: Command) -> Command {
    command.mut_arg(OPERANDS, |operands| operands.trailing_var_arg(true))
}

/// An option without argument.
pub(super) fn flag(long: &'static str, help: &'static str) -> Arg {
    Arg::new(long).long(long).help(help).action(ArgAction::SetTrue)
}

/// An option with an argument, which may look like an option.
pub(super) fn with(long: &'static str, value: &'static str, help: &'static str) -> Arg {
    flag(long, help)
        .value_name(value)
        .action(ArgAction::Set)
        .allow_hyphen_values(true)
        .value_parser(ValueParser::os_string())
}

/// The text of `--help`.
pub(super) fn help(mut command: Command) -> String {
    command.render_help().to_string()
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task<T> {
    /// A text for standard output.
    Show(String),
    /// What the program is for.
    Work(T),
}

/// Takes the words after the program's name apart. `read` makes sense of them, unless help or the version is asked for.
pub(super) fn parse<T, E: From<UsageError>>(
    command: Command,
    words: impl IntoIterator<Item = OsString>,
    read: impl FnOnce(ArgMatches) -> Result<Task<T>, E>,
) -> Result<Task<T>, E> {
    let matches = matches(command.clone(), words)?;
    if matches.get_flag(HELP) {
        Ok(Task::Show(help(command)))
    } else if matches.get_flag(VERSION) {
        Ok(Task::Show(format!("{} {}\n", command.get_name(), env!("CARGO_PKG_VERSION"))))
    } else {
        read(matches)
    }
}

/// What clap makes of the words after the program's name.
pub(super) fn matches(
    command: Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<ArgMatches, UsageError> {
    let words = as_clap_reads(&command, words);
    command.try_get_matches_from(words).map_err(|error| usage_error(&error))
}

/// To clap, `-p=x` is `-p x`. To getopt(3), and to all who write scripts for it, the argument is `=x`: with one more `=`
/// it is that to clap, too.
fn as_clap_reads(command: &Command, words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let with_argument = || command.get_arguments().filter(|arg| arg.get_action().takes_values());
    let is_letter = |&byte: &u8| {
        with_argument()
            .any(|arg| arg.get_short_and_visible_aliases().is_some_and(|all| all.contains(&char::from(byte))))
    };
    let is_long =
        |name: &[u8]| with_argument().any(|arg| arg.get_long().is_some_and(|long| long.as_bytes() == name));
    let operands_end_options = command.get_positionals().any(Arg::is_trailing_var_arg_set);
    let (mut is_argument, mut is_over) = (false, false);
    let reread = |word: OsString| {
        // An argument of its own, and what stands behind the options, are as they are.
        if std::mem::take(&mut is_argument) || is_over {
            return word;
        }
        match word.as_bytes() {
            b"--" => is_over = true,
            [b'-', b'-', long @ ..] => is_argument = is_long(long),
            letters @ [b'-', _, ..] => {
                let end = letters.iter().position(is_letter).map_or(letters.len(), |letter| letter + 1);
                let (letters, argument) = letters.split_at(end);
                is_argument = argument.is_empty() && letters.last().is_some_and(is_letter);
                if argument.starts_with(b"=") {
                    return OsString::from_vec([letters, b"=", argument].concat());
                }
            }
            _ => is_over = operands_end_options,
        }
        word
    };
    words.into_iter().map(reread).collect()
}

/// The argument of an option, as text.
pub(super) fn value(matches: &mut ArgMatches, option: &str) -> Option<String> {
    matches.remove_one::<OsString>(option).map(|given| given.to_string_lossy().into_owned())
}

/// Everything that is no option, in its order.
pub(super) fn operands(matches: &mut ArgMatches) -> std::vec::IntoIter<OsString> {
    let operands: Vec<_> = matches.remove_many(OPERANDS).into_iter().flatten().collect();
    operands.into_iter()
}

/// The command line cannot be taken apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No such option.
    #[error("unknown option {0}")]
    Unknown(String),
    /// The last word is an option that needs one more.
    #[error("{0} needs an argument")]
    ArgumentMissing(String),
    /// A long option that takes no argument was given one.
    #[error("{0} takes no argument")]
    ArgumentTooMuch(String),
    /// In the words of the parser.
    #[error("{0}")]
    Other(String),
}

fn usage_error(error: &clap::Error) -> UsageError {
    let context = |kind| error.get(kind).map(ToString::to_string);
    // clap shows the whole synopsis of an option: "--blacklist <SECONDS>".
    let option =
        || context(ContextKind::InvalidArg).map(|arg| arg.split(" <").next().unwrap_or_default().to_owned());
    match (error.kind(), option()) {
        (Mistake::UnknownArgument, Some(option)) => UsageError::Unknown(option),
        (Mistake::InvalidValue, Some(option)) => UsageError::ArgumentMissing(option),
        (Mistake::TooManyValues, Some(option)) => UsageError::ArgumentTooMuch(option),
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            UsageError::Other(first.strip_prefix("error: ").unwrap_or(first).to_owned())
        }
    }
}

/// The complaint about a wrong command line, with the lines that say how to do it right.
pub(super) fn with_usage(error: impl Display, usage: &str) -> String {
    format!("{error}\n{usage}")
}

/// Prints what was asked for, at once. False: nobody reads it any more.
pub(super) fn print(output: &mut impl Write, bytes: &[u8]) -> io::Result<bool> {
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// The same to standard output.
pub(super) fn show(text: &str) -> io::Result<bool> {
    print(&mut io::stdout().lock(), text.as_bytes())
}

/// The same, where it is all there is to do. Whoever does not read it has seen enough.
pub(super) fn answer(text: &str) -> ExitCode {
    match show(text) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
