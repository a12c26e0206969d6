//! The options of pen(1), one table: the parser, the text of `--help` and the tests are made from it.
//!
//! clap does the parsing, with the manners of getopt(3): letters are bundled (`-dfr`), an argument follows its letter at
//! once or as the next word (`-b30`, `-b 30`) whatever it looks like (`-x -5`, `-p=x` for a file `=x`), options stand before, between and after
//! operands, and `--` ends them. Not here: what the options do ([`super::pen`]).

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use crate::model::command::Switch;
use crate::tools::cli::{self, UsageError};

/// An option.
#[derive(Debug, PartialEq, Eq)]
pub struct PenOption {
    /// Its letter, if it has one.
    pub letter: Option<char>,
    /// Another letter for the same.
    pub also: Option<char>,
    /// Its long name, without dashes.
    pub long: &'static str,
    /// What its argument is called, if it takes one.
    pub value: Option<&'static str>,
    /// What it does, in a line; nothing where `kind` says all.
    pub help: &'static str,
    /// What comes of it.
    pub kind: Kind,
}

/// What comes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It does this.
    Works(Effect),
    /// It is accepted, and why that changes nothing is said.
    Obsolete(&'static str),
    /// It ends the start, and always will. Holds the reason.
    Refused(&'static str),
}

/// What an option does. The names are those of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the table below says it
pub enum Effect {
    TurnOn(Switch),
    AbuseServer,
    Blacklist,
    CaDirectory,
    CaFile,
    Certificate,
    Check,
    ClientsMax,
    Command,
    Config,
    ConnMax,
    Control,
    Debug,
    EmergencyServer,
    ExitCommand,
    Foreground,
    Forgetful,
    Help,
    Http,
    Jail,
    Key,
    ListenQueue,
    Log,
    MultiAccept,
    Pidfile,
    Protocol,
    RequireCertificate,
    Timeout,
    Tracking,
    Udp,
    User,
    Version,
    WebStats,
    Workers,
}

const fn flag(letter: char, long: &'static str, help: &'static str, kind: Kind) -> PenOption {
    PenOption { letter: Some(letter), also: None, long, value: None, help, kind }
}

const fn with(
    letter: char,
    long: &'static str,
    value: &'static str,
    help: &'static str,
    kind: Kind,
) -> PenOption {
    PenOption { value: Some(value), ..flag(letter, long, help, kind) }
}

const fn long_only(
    long: &'static str,
    value: Option<&'static str>,
    help: &'static str,
    effect: Effect,
) -> PenOption {
    PenOption { letter: None, also: None, long, value, help, kind: Kind::Works(effect) }
}

const EVENTS: Kind = Kind::Obsolete("events come from epoll");

/// All options, in the order of `--help`.
pub static OPTIONS: &[PenOption] = {
    use Effect::*;
    use Kind::*;
    &[
        with('A', "ca-directory", "DIRECTORY", "Like -G, with a file for each of them", Works(CaDirectory)),
        flag('a', "ascii", "Dump data as text (with -ddd)", Works(TurnOn(Switch::Ascii))),
        with('B', "abuse-server", "SERVER", "Where clients go that client_acl refuses", Works(AbuseServer)),
        with('b', "blacklist", "SECONDS", "Leave a failed server out for this long [30]", Works(Blacklist)),
        with('C', "control", "ADDRESS", "Listen for penctl(1) there", Works(Control)),
        with('c', "clients", "CLIENTS", "How many clients to remember [2048]", Works(ClientsMax)),
        flag('d', "debug", "Tell more; up to three times", Works(Debug)),
        with(
            'E',
            "certificate",
            "FILE",
            "Speak TLS with clients; FILE has the certificates",
            Works(Certificate),
        ),
        with(
            'e',
            "emergency-server",
            "SERVER",
            "Where clients go if no other server",
            Works(EmergencyServer),
        ),
        with('F', "config", "FILE", "Read commands from FILE, now and on SIGHUP", Works(Config)),
        flag('f', "foreground", "Stay in the foreground", Works(Foreground)),
        with('G', "ca-file", "FILE", "The authorities for the certificates of clients", Works(CaFile)),
        flag('H', "http", "Tell HTTP servers each client's address (X-Forwarded-For)", Works(Http)),
        flag('h', "hash", "Let the client's address decide", Works(TurnOn(Switch::Hash))),
        with('j', "jail", "DIRECTORY", "Change the root directory", Works(Jail)),
        with('K', "key", "FILE", "The key, if it is not in the file of -E", Works(Key)),
        with('l', "log", "LOG", "Log requests to a file or to HOST:PORT", Works(Log)),
        with('m', "multi-accept", "ACCEPTS", "Accept at most so many at once [100]", Works(MultiAccept)),
        flag('N', "no-tracking", "Like -h, and remember no client's server", Works(Forgetful)),
        PenOption {
            also: Some('o'),
            ..with('O', "command", "COMMAND", "Carry out a command of the configuration", Works(Command))
        },
        with('p', "pidfile", "FILE", "Write the process id to FILE", Works(Pidfile)),
        with('q', "listen-queue", "BACKLOG", "So many may wait to be accepted [500]", Works(ListenQueue)),
        flag(
            'R',
            "require-certificate",
            "Clients must have a certificate (see -G)",
            Works(RequireCertificate),
        ),
        flag('r', "roundrobin", "Treat every client as new", Works(TurnOn(Switch::Roundrobin))),
        flag('s', "stubborn", "No fail-over", Works(TurnOn(Switch::Stubborn))),
        with('T', "tracking", "SECONDS", "Remember clients for this long [0: for ever]", Works(Tracking)),
        with('t', "timeout", "SECONDS", "Give servers this long to accept [5]", Works(Timeout)),
        flag('U', "udp", "UDP instead of TCP", Works(Udp)),
        with('u', "user", "USER", "Run as USER", Works(User)),
        flag('W', "weight", "Fewest connections for its weight", Works(TurnOn(Switch::Weight))),
        with('w', "web-stats", "FILE", "Write statistics as HTML on SIGUSR1", Works(WebStats)),
        flag('X', "exit", "Let the control command exit end pen", Works(ExitCommand)),
        with('x', "connections", "CONNECTIONS", "So many connections at a time [500]", Works(ConnMax)),
        long_only("check", None, "Tell what is wrong with all this, and exit", Check),
        long_only("help", None, "Show this, and exit", Help),
        long_only("version", None, "Show the version, and exit", Version),
        long_only("workers", Some("NUMBER"), "How many worker processes [one for each CPU]", Workers),
        flag('D', "devpoll", "", EVENTS),
        flag('n', "nonblocking", "", Obsolete("sockets never block")),
        flag('P', "poll", "", EVENTS),
        flag('Q', "kqueue", "", EVENTS),
        with('S', "servers", "NUMBER", "", Obsolete("the number of servers needs no announcement")),
        with('L', "protocol", "PROTOCOL", "ssl_min_version says which TLS is spoken", Works(Protocol)),
        flag('Z', "ssl-compatibility", "", Obsolete("TLS works around the mistakes of clients by itself")),
        with('i', "install", "NAME", "", Refused("Windows only")),
    ]
};

impl PenOption {
    /// As the administrator knows it: `-b`, `--check`.
    pub fn name(&self) -> String {
        self.letter.map_or_else(|| format!("--{}", self.long), |letter| format!("-{letter}"))
    }

    /// Where `--help` lists it.
    fn heading(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Refused(_) => Some("Not in this version"),
            Kind::Obsolete(_) | Kind::Works(Effect::Protocol) => {
                Some("Accepted for old scripts, without effect")
            }
            Kind::Works(_) => None,
        }
    }

    /// Does it matter how often it is given?
    fn is_counted(&self) -> bool {
        self.kind == Kind::Works(Effect::Debug)
    }

    fn arg(&'static self) -> Arg {
        let help = match self.kind {
            Kind::Obsolete(reason) | Kind::Refused(reason) => reason,
            Kind::Works(_) => self.help,
        };
        let arg = match self.value {
            Some(value) => cli::with(self.long, value, help).action(ArgAction::Append),
            None if self.is_counted() => cli::flag(self.long, help).action(ArgAction::Count),
            None => cli::flag(self.long, help),
        };
        let arg = self.letter.into_iter().fold(arg, Arg::short);
        self.also.into_iter().fold(arg, Arg::visible_short_alias).help_heading(self.heading())
    }
}

/// One option on the command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    /// Which.
    pub option: &'static PenOption,
    /// Its argument; empty if it takes none.
    pub value: OsString,
    /// How often it was given in all, if that matters; else 1.
    pub times: u8,
}

/// A command line, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The options in their order. A flag that was repeated stands where it was given last.
    pub options: Vec<Given>,
    /// Everything else, in its order.
    pub operands: Vec<OsString>,
    /// All words as they were given, for people to read.
    pub words: Vec<String>,
}

impl Arguments {
    /// Is there an option that does this?
    pub fn has(&self, effect: Effect) -> bool {
        self.options.iter().any(|given| given.option.kind == Kind::Works(effect))
    }
}

/// The lines that are shown with every usage error.
pub const USAGE: &str = "usage: pen [options] [host:]port server[:port[:soft[:hard[:weight[:prio]]]]] ...\n\
                         pen --help lists the options, pen(1) explains them";

const HELP: &str = "\
usage: pen [options] [host:]port server[:port[:soft[:hard[:weight[:prio]]]]] ...

Balances TCP connections and UDP datagrams over servers that together appear as one.

{all-args}

Example: a client stays with one of two web servers, at most 100 clients on the first
  pen -p /run/pen.pid 80 192.0.2.1:8080:100 192.0.2.2:8080
";

fn command() -> clap::Command {
    cli::bare_command("pen", HELP).args(OPTIONS.iter().map(PenOption::arg))
}

/// The text of `--help`.
pub fn help() -> String {
    cli::help(command())
}

/// Takes the words after the program's name apart.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, UsageError> {
    let words: Vec<OsString> = words.into_iter().collect();
    let readable = words.iter().map(|word| word.display().to_string()).collect();
    let mut matches = cli::matches(command(), words)?;
    let operands = cli::operands(&mut matches).collect();
    let mut options: Vec<_> = OPTIONS.iter().flat_map(|option| occurrences(option, &matches)).collect();
    options.sort_by_key(|(place, _)| *place);
    let options = options.into_iter().map(|(_, given)| given).collect();
    Ok(Arguments { options, operands, words: readable })
}

/// Each occurrence of an option, with its place among all words.
fn occurrences(option: &'static PenOption, matches: &ArgMatches) -> Vec<(usize, Given)> {
    // Flags have a value, with a place, also where they were not given.
    if matches.value_source(option.long) != Some(ValueSource::CommandLine) {
        return Vec::new();
    }
    let places = matches.indices_of(option.long).into_iter().flatten();
    match option.value {
        Some(_) => {
            let values = matches.get_many::<OsString>(option.long).into_iter().flatten().cloned();
            places.zip(values).map(|(place, value)| (place, Given { option, value, times: 1 })).collect()
        }
        None => {
            let times = if option.is_counted() { matches.get_count(option.long) } else { 1 };
            places.map(|place| (place, Given { option, value: OsString::new(), times })).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn parsed(words: &[&str]) -> Arguments {
        let words = words.iter().map(OsString::from);
        parse(words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The options as `-b 30`, in order, and the operands.
    fn told(words: &[&str]) -> (Vec<String>, Vec<String>) {
        let Arguments { options, operands, .. } = parsed(words);
        let options = options.iter().map(|given| match given.option.value {
            Some(_) => format!("{} {}", given.option.name(), given.value.display()),
            None => vec![given.option.name(); given.times.into()].join(" "),
        });
        (options.collect(), operands.iter().map(|operand| operand.display().to_string()).collect())
    }

    fn refused(words: &[&str]) -> String {
        parse(words.iter().map(OsString::from)).unwrap_err().to_string()
    }

    #[test]
    fn the_table_is_what_clap_accepts() {
        command().debug_assert();
    }

    #[test]
    fn every_letter_that_pen_ever_had_is_in_the_table_once() {
        let mut letters: Vec<char> =
            OPTIONS.iter().flat_map(|option| option.letter.into_iter().chain(option.also)).collect();
        letters.sort_unstable();
        let all: String = letters.into_iter().collect();
        assert_eq!(all, "ABCDEFGHKLNOPQRSTUWXZabcdefhijlmnopqrstuwx");
        let longs: HashSet<_> = OPTIONS.iter().map(|option| option.long).collect();
        assert_eq!(longs.len(), OPTIONS.len());
    }

    #[test]
    fn every_option_is_accepted_in_every_form() {
        for option in OPTIONS {
            let long = format!("--{}", option.long);
            let name = option.name();
            for letter in option.letter.into_iter().chain(option.also) {
                match option.value {
                    Some(_) => {
                        let expected = (vec![format!("{name} -5")], vec!["L".to_owned()]);
                        assert_eq!(told(&[&format!("-{letter}-5"), "L"]), expected);
                        assert_eq!(told(&[&format!("-{letter}"), "-5", "L"]), expected);
                        let bundled = (vec!["-f".into(), format!("{name} 5")], vec!["L".to_owned()]);
                        assert_eq!(told(&[&format!("-f{letter}5"), "L"]), bundled);
                        assert_eq!(told(&[&format!("-f{letter}"), "5", "L"]), bundled);
                        assert!(refused(&["L", &format!("-{letter}")]).ends_with(" needs an argument"));
                    }
                    None => {
                        let expected = (vec![name.clone(), "-b 5".into()], vec!["L".to_owned()]);
                        assert_eq!(told(&[&format!("-{letter}"), "L", "-b5"]), expected);
                        assert_eq!(told(&["L", &format!("-{letter}b5")]), expected);
                    }
                }
            }
            match option.value {
                Some(_) => {
                    assert_eq!(told(&[&long, "-5"]), (vec![format!("{name} -5")], vec![]));
                    assert_eq!(told(&[&format!("{long}=5")]), (vec![format!("{name} 5")], vec![]));
                }
                None => {
                    assert_eq!(told(&[&long]), (vec![name], vec![]));
                    assert!(refused(&[&format!("{long}=5")]).contains(&long));
                }
            }
        }
    }

    #[test]
    fn options_keep_their_order_and_stand_anywhere() {
        let words = ["-r", "L", "-O", "a", "-h", "S0", "-o", "b", "-Fc", "S1", "--", "-x"];
        let (options, operands) = told(&words);
        assert_eq!(options, ["-r", "-O a", "-h", "-O b", "-F c"]);
        assert_eq!(operands, ["L", "S0", "S1", "-x"]);
    }

    #[test]
    fn behind_a_letter_an_equals_sign_is_part_of_the_argument() {
        assert_eq!(told(&["-p=x", "-fp=x", "-p="]).0, ["-p =x", "-f", "-p =x", "-p ="]);
        assert_eq!(told(&["-o=x", "-O==x", "-px=y", "-pF=y"]).0, ["-O =x", "-O ==x", "-p x=y", "-p F=y"]);
        assert_eq!(told(&["--pidfile=x", "--pidfile==x"]).0, ["-p x", "-p =x"]);
        // Where no option is meant nothing changes.
        assert_eq!(told(&["-p", "-l=x", "--pidfile", "-l=x"]).0, ["-p -l=x", "-p -l=x"]);
        assert_eq!(told(&["-p", "--", "-l=x"]).0, ["-p --", "-l =x"]);
        assert_eq!(told(&["a=b", "-", "=", "--", "-l=x", "--"]).1, ["a=b", "-", "=", "-l=x", "--"]);
        assert_eq!(refused(&["-f=x"]), "unknown option -=");
        use std::os::unix::ffi::OsStringExt;
        let odd = |text: &[u8]| OsString::from_vec(text.to_vec());
        let arguments = parse([odd(b"-p=\xff"), odd(b"-p\xff")]).unwrap();
        let values: Vec<_> = arguments.options.into_iter().map(|given| given.value).collect();
        assert_eq!(
            (values, arguments.words),
            (vec![odd(b"=\xff"), odd(b"\xff")], vec!["-p=\u{fffd}".into(), "-p\u{fffd}".to_owned()])
        );
    }

    #[test]
    fn only_debugging_is_counted() {
        assert_eq!(told(&["-dd", "-fd", "--debug"]).0, ["-f", "-d -d -d -d"]);
        assert_eq!(told(&["-rr", "--roundrobin"]).0, ["-r"]);
    }

    #[test]
    fn a_dash_alone_is_an_operand() {
        assert_eq!(told(&["-f", "-", "x"]).1, ["-", "x"]);
    }

    #[test]
    fn h_is_hash_and_not_help() {
        assert_eq!(told(&["-h"]).0, ["-h"]);
        assert_eq!(parsed(&["-h"]).options[0].option.kind, Kind::Works(Effect::TurnOn(Switch::Hash)));
    }

    #[test]
    fn what_is_no_option_is_named() {
        assert_eq!(refused(&["-z", "L"]), "unknown option -z");
        assert_eq!(refused(&["-fz", "L"]), "unknown option -z");
        assert_eq!(refused(&["--frob"]), "unknown option --frob");
        assert_eq!(refused(&["--time"]), "unknown option --time");
        assert_eq!(refused(&["-V"]), "unknown option -V");
        assert_eq!(refused(&["-b"]), "--blacklist needs an argument");
        assert_eq!(refused(&["--check=x"]), "--check takes no argument");
    }

    #[test]
    fn words_need_not_be_utf_8() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(b"/\xff".to_vec());
        let arguments = parse([OsString::from("-p"), odd.clone(), odd.clone()]).unwrap();
        assert_eq!(arguments.options[0].value, odd);
        assert_eq!(arguments.operands, [odd]);
        assert!(parse([OsString::from_vec(b"--\xff".to_vec())]).is_err());
        assert!(parse([OsString::from_vec(b"-f\xff".to_vec())]).is_err());
    }

    #[test]
    fn the_help_lists_every_option() {
        let help = help();
        assert!(help.starts_with("usage: pen "));
        for option in OPTIONS {
            let letter = option.letter.map(|letter| format!("-{letter}, ")).unwrap_or_default();
            let line = format!("{letter}--{}", option.long);
            assert!(help.contains(&line), "{line}");
        }
    }
}
