//! The program penctl(1): one command, or one batch of them, to the control port of a running pen, and the answer to
//! standard output.
//!
//! What is sent is what pen 0.34.1's penctl sent: the arguments with single spaces between them and a newline, nothing
//! quoted unless `--words` asks for it. It does not know what commands mean; it knows only which answers mean that one
//! failed ([`reply::is_failure`]).

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::ArgMatches;

use crate::model::address::{AddressError, Port};
use crate::model::command::quoted;
use crate::model::listen::Protocol;
use crate::model::number::{self, LARGEST, NumberError};
use crate::model::reply;
use crate::net::control::request::{LARGEST_BATCH, LONGEST_LINE};
use crate::process::complain_as;
use crate::sys::reason::words;
use crate::sys::resolve;
use crate::tools::cli::{self, Task, UsageError};

/// The name by which it complains.
const PROGRAM: &str = "penctl";

/// How long looking the name up and connecting to its addresses may take, all together.
const CONNECTING: Duration = Duration::from_secs(10);

/// How long nothing may come, in seconds, unless `--timeout` says otherwise.
const SILENCE: u32 = 60;

const USAGE: &str = "usage: penctl [options] host:port|/path command [argument ...]\n\
                     penctl --help lists the options, penctl(1) explains them";

const HELP: &str = "\
usage: penctl [options] host:port|/path command [argument ...]
       penctl [options] host:port|/path - <file

Sends a command to the control port of a running pen (its option -C) and shows the answer.
A - for the command reads commands from standard input, one a line, that are carried out together or not at all.

{all-args}

The status is 0 if the command was carried out, else 1.

Example: no more new clients for server 0
  penctl 127.0.0.1:7001 drain 0
";

/// Runs penctl with the arguments of this process.
pub fn main() -> ExitCode {
    let outcome = match parse(std::env::args_os().skip(1)) {
        Ok(Task::Show(text)) => cli::show(&text).map(|_| ExitCode::SUCCESS).map_err(Error::Output),
        Ok(Task::Work(request)) => send(request),
        Err(error) => Err(error),
    };
    outcome.unwrap_or_else(|error| {
        match error.is_misuse() {
            true => complain_as(PROGRAM, cli::with_usage(error, USAGE)),
            false => complain_as(PROGRAM, error),
        }
        ExitCode::FAILURE
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    target: Target,
    what: What,
    /// How long nothing may come; none is for ever.
    silence: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// This line, with its line end.
    Command(Vec<u8>),
    /// The lines of standard input.
    Batch,
}

/// Why nothing was sent, or why nobody knows what came of it.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error("no host:port or /path given, where pen's control port is")]
    NoTarget,
    #[error("no command given after {0:?}")]
    NoCommand(OsString),
    #[error("nothing can follow the -, which reads commands from standard input")]
    AfterDash,
    #[error("--words changes nothing about lines from standard input; put quotes into them instead")]
    WordsOfBatch,
    #[error(transparent)]
    Number(#[from] NumberError),
    #[error("{0}: no port given; give host:port or the /path of a Unix socket")]
    NoPort(String),
    #[error("{0}: no host before the colon; give host:port or the /path of a Unix socket")]
    NoHost(String),
    #[error("{0}: {1}")]
    Port(String, AddressError),
    #[error("{0:?} is not UTF-8")]
    Encoding(OsString),
    #[error("a line end within the command would cut it short; send several commands as a batch, with -")]
    LineEnd,
    #[error("overlong argument list: {0} bytes; a command can have {LONGEST_LINE}")]
    Overlong(usize),
    #[error("standard input:{line}: {why}; nothing was sent")]
    Line { line: usize, why: LineError },
    #[error("standard input: more than {LARGEST_BATCH} bytes; send it in parts, or include a file")]
    LargeBatch,
    #[error("standard input: {}", words(.0))]
    Input(io::Error),
    #[error("standard output: {}", words(.0))]
    Output(io::Error),
    #[error("{0}: {1}")]
    Name(Target, String),
    #[error("{0}: there is no TCP service of that name; give the port as a number")]
    Service(Target),
    #[error("{target}: {}; {}", words(why), way_out(why))]
    Connect { target: Target, why: io::Error },
    #[error("{0}: no connection within {limit} seconds", limit = CONNECTING.as_secs())]
    Unreachable(Target),
    #[error("{0}: closed before it read the command; control_acl may refuse you")]
    Unread(Target),
    #[error("{target}: {}", words(why))]
    Lost { target: Target, why: io::Error },
    #[error("{target}: {}; the answer is not whole", words(why))]
    Cut { target: Target, why: io::Error },
    #[error("{0}: silent for {1} s, and the command may still be carried out; -t sets how long to wait")]
    Silent(Target, u64),
}

/// What is wrong with a line of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum LineError {
    #[error("begin and end are sent around the lines and cannot be among them")]
    Bracket,
    #[error("a carriage return or NUL in it would end the command")]
    Ends,
    #[error("longer than {LONGEST_LINE} bytes")]
    Overlong,
}

impl Error {
    /// Would seeing the usage help?
    fn is_misuse(&self) -> bool {
        matches!(
            self,
            Error::Usage(_) | Error::NoTarget | Error::NoCommand(_) | Error::AfterDash | Error::WordsOfBatch
        )
    }
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "only root and the user that pen runs as may use it",
        _ => "does a pen with -C listen there?",
    }
}

const TIMEOUT: &str = "timeout";
const WORDS: &str = "words";

fn command_line() -> clap::Command {
    let timeout = cli::with(TIMEOUT, "SECONDS", "Give up when nothing comes for this long; 0 is never [60]");
    let words = cli::flag(WORDS, "Send each argument as one word, in quotes if it needs them");
    cli::options_first(cli::command(PROGRAM, HELP, [timeout.short('t'), words.short('w')]))
}

/// Takes the words after the program's name apart.
fn parse(given: impl IntoIterator<Item = OsString>) -> Result<Task<Request>, Error> {
    cli::parse(command_line(), given, read)
}

fn read(mut matches: ArgMatches) -> Result<Task<Request>, Error> {
    let silence = match cli::value(&mut matches, TIMEOUT) {
        Some(seconds) => number::unsigned("--timeout", &seconds, 0..=LARGEST)?,
        None => SILENCE,
    };
    let mut operands = cli::operands(&mut matches);
    let target = operands.next().ok_or(Error::NoTarget)?;
    let arguments: Vec<OsString> = operands.collect();
    let as_words = matches.get_flag(WORDS);
    let what = match arguments.as_slice() {
        [] => return Err(Error::NoCommand(target)),
        [dash, rest @ ..] if dash == "-" => match rest {
            [_, ..] => return Err(Error::AfterDash),
            [] if as_words => return Err(Error::WordsOfBatch),
            [] => What::Batch,
        },
        arguments => What::Command(line(arguments, as_words)?),
    };
    let silence = (silence > 0).then(|| Duration::from_secs(silence.into()));
    Ok(Task::Work(Request { target: Target::parse(target)?, what, silence }))
}

/// The line that a command's arguments make.
fn line(arguments: &[OsString], as_words: bool) -> Result<Vec<u8>, Error> {
    let mut line = Vec::new();
    for (position, argument) in arguments.iter().enumerate() {
        if position > 0 {
            line.push(b' ');
        }
        match as_words {
            true => {
                let word = argument.to_str().ok_or_else(|| Error::Encoding(argument.clone()))?;
                line.extend_from_slice(quoted(word).as_bytes());
            }
            false => line.extend_from_slice(argument.as_bytes()),
        }
    }
    // A text from a file of another system may have brought a carriage return: at the end it does no harm.
    let inner = line.strip_suffix(b"\r").unwrap_or(&line);
    if inner.iter().any(|byte| matches!(byte, b'\n' | b'\r' | b'\0')) {
        return Err(Error::LineEnd);
    }
    if line.len() > LONGEST_LINE {
        return Err(Error::Overlong(line.len()));
    }
    line.push(b'\n');
    Ok(line)
}

const BEGIN: &[u8] = b"begin\n";
const END: &[u8] = b"end\n";

/// The lines of `input` as one batch. All of it is looked at before anything is sent.
fn batch(input: impl Read) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    input.take(LARGEST_BATCH as u64 + 1).read_to_end(&mut text).map_err(Error::Input)?;
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    if text.len() > LARGEST_BATCH {
        return Err(Error::LargeBatch);
    }
    for (position, line) in text.split(|&byte| byte == b'\n').enumerate() {
        check_line(line).map_err(|why| Error::Line { line: position + 1, why })?;
    }
    Ok([BEGIN, &text, END].concat())
}

fn check_line(line: &[u8]) -> Result<(), LineError> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    if line.len() > LONGEST_LINE {
        Err(LineError::Overlong)
    } else if line.iter().any(|byte| matches!(byte, b'\r' | b'\0')) {
        Err(LineError::Ends)
    } else if matches!(words.next(), Some(b"begin" | b"end"))
        && words.next().is_none_or(|word| word.starts_with(b"#"))
    {
        Err(LineError::Bracket)
    } else {
        Ok(())
    }
}

/// Where a control port is. Displays as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Unix(PathBuf),
    Inet { text: String, host: String, port: Port },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Unix(path) => path.display().fmt(f),
            Target::Inet { text, .. } => text.fmt(f),
        }
    }
}

impl Target {
    fn parse(given: OsString) -> Result<Target, Error> {
        if given.as_bytes().contains(&b'/') {
            return Ok(Target::Unix(given.into()));
        }
        let text = given.into_string().map_err(Error::Encoding)?;
        let Some((host, port)) = text.rsplit_once(':').filter(|(_, port)| !port.is_empty()) else {
            return Err(Error::NoPort(text));
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(Error::NoHost(text));
        }
        match Port::from_str(port) {
            Ok(port) => Ok(Target::Inet { host: host.to_owned(), port, text }),
            Err(error) => Err(Error::Port(text, error)),
        }
    }

    fn refused(&self, why: io::Error) -> Error {
        Error::Connect { target: self.clone(), why }
    }

    /// A connection, blocking. May itself block for longer than `limit`: in the resolver, and on a Unix socket whose
    /// queue is full.
    fn connect(&self, limit: Duration) -> Result<TcpStream, Error> {
        let start = Instant::now();
        match self {
            // A TcpStream does nothing that a Unix stream socket would not take, so one type will do.
            Target::Unix(path) => UnixStream::connect(path)
                .map(|stream| TcpStream::from(OwnedFd::from(stream)))
                .map_err(|why| self.refused(why)),
            Target::Inet { host, port, .. } => {
                let port = match port {
                    Port::Number(port) => *port,
                    Port::Service(name) => resolve::service_port(name, Some(Protocol::Tcp))
                        .ok_or_else(|| Error::Service(self.clone()))?,
                    Port::Listeners => return Err(Error::NoPort(self.to_string())),
                };
                // Not `resolve::addresses`: it has no place for the zone of fe80::1%eth0.
                let addresses = (host.as_str(), port)
                    .to_socket_addrs()
                    .map_err(|error| Error::Name(self.clone(), resolver_words(&error)))?;
                connect_to_any(&addresses.collect::<Vec<_>>(), start + limit).map_err(|why| self.refused(why))
            }
        }
    }
}

/// What getaddrinfo(3) said, without what the standard library puts before it.
fn resolver_words(error: &io::Error) -> String {
    let text = words(error);
    text.strip_prefix("failed to lookup address information: ").map_or(text.clone(), str::to_owned)
}

/// Connects to the first address that takes it. Each gets an equal part of the time that is left.
fn connect_to_any(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What `work` returns; none if that takes longer than `limit`. Then its thread goes on for as long as the process
/// does: neither getaddrinfo(3) nor connect(2) to a Unix socket can be called off.
fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (sender, result) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        // Nobody may be waiting any more.
        let _ = sender.send(work());
    })?;
    Ok(result.recv_timeout(limit).ok())
}

fn send(request: Request) -> Result<ExitCode, Error> {
    let bytes = match request.what {
        What::Command(line) => line,
        What::Batch => batch(io::stdin().lock())?,
    };
    let target = request.target;
    let (at, limit) = (target.clone(), CONNECTING);
    let connected = within(limit, move || at.connect(limit));
    let stream = match connected.map_err(|why| target.refused(why))? {
        Some(result) => result?,
        None => return Err(Error::Unreachable(target)),
    };
    let mut exchange = Exchange { target, stream, silence: request.silence, beginning: Vec::new() };
    exchange.ask(&bytes, &mut io::stdout().lock())?;
    Ok(if exchange.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A connection to the control port, and what it has said so far.
struct Exchange {
    target: Target,
    stream: TcpStream,
    silence: Option<Duration>,
    /// As much of the answer as shows whether it tells of a failure.
    beginning: Vec<u8>,
}

impl Exchange {
    /// Sends the bytes and copies the answer to `output`, to its end.
    fn ask(&mut self, bytes: &[u8], output: &mut impl Write) -> Result<(), Error> {
        self.stream.set_read_timeout(self.silence).map_err(|error| self.failed(error))?;
        self.stream.set_write_timeout(self.silence).map_err(|error| self.failed(error))?;
        if self.is_closed() {
            return Err(Error::Unread(self.target.clone()));
        }
        match self.stream.write_all(bytes) {
            Ok(()) => self.copy(output),
            // It may have said why before it closed.
            Err(error) if is_closing(&error) => match self.copy(output) {
                Ok(()) if !self.has_failed() => Err(Error::Unread(self.target.clone())),
                other => other,
            },
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Does the answer say that the command failed?
    fn has_failed(&self) -> bool {
        reply::is_failure(&String::from_utf8_lossy(&self.beginning))
    }

    /// Has the other side ended the stream already? It cannot have read anything then.
    fn is_closed(&self) -> bool {
        let peek = |stream: &TcpStream| {
            stream.set_nonblocking(true)?;
            let seen = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            seen
        };
        matches!(peek(&self.stream), Ok(0))
    }

    fn copy(&mut self, output: &mut impl Write) -> Result<(), Error> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let part = match self.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => &buffer[..length],
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(error)),
            };
            let wanted = reply::DECISIVE - self.beginning.len();
            self.beginning.extend_from_slice(&part[..wanted.min(part.len())]);
            if !cli::print(output, part).map_err(Error::Output)? {
                return Ok(());
            }
        }
        // The end of the stream was there before the reset that tells of a command which nobody has read.
        match self.stream.take_error() {
            Ok(Some(_)) if self.beginning.is_empty() => Err(Error::Unread(self.target.clone())),
            _ => Ok(()),
        }
    }

    fn failed(&self, why: io::Error) -> Error {
        let target = self.target.clone();
        match why.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut if self.silence.is_some() => {
                Error::Silent(target, self.silence.unwrap_or_default().as_secs())
            }
            _ if !self.beginning.is_empty() => Error::Cut { target, why },
            _ if is_closing(&why) => Error::Unread(target),
            _ => Error::Lost { target, why },
        }
    }
}

/// Does this error tell that the other side has closed the connection?
fn is_closing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;
    use crate::model::command::Command;

    fn parsed(words: &[&str]) -> Task<Request> {
        parse(words.iter().map(OsString::from)).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn request(words: &[&str]) -> Request {
        match parsed(words) {
            Task::Work(request) => request,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    /// What goes over the line.
    fn sent(words: &[&str]) -> String {
        match request(words).what {
            What::Command(line) => String::from_utf8(line).unwrap(),
            What::Batch => "a batch".to_owned(),
        }
    }

    fn refused(words: &[&str]) -> String {
        parse(words.iter().map(OsString::from)).unwrap_err().to_string()
    }

    #[test]
    fn the_table_is_what_clap_accepts() {
        command_line().debug_assert();
    }

    #[test]
    fn arguments_are_joined_as_they_are() {
        for (arguments, line) in [
            (&["mode"][..], "mode\n"),
            (&["server", "0", "max", "5"], "server 0 max 5\n"),
            (&["server 0 max 5"], "server 0 max 5\n"),
            (&["server 0", "max 5"], "server 0 max 5\n"),
            (&["log", "/a b"], "log /a b\n"),
            (&["log", "\"/a b\""], "log \"/a b\"\n"),
            (&["", "a", "", "b", ""], " a  b \n"),
            (&[""], "\n"),
            (&["mode\r"], "mode\r\n"),
            (&["-", "x"], ""),
        ] {
            let all: Vec<&str> = ["/s"].iter().chain(arguments).copied().collect();
            match line {
                "" => assert!(refused(&all).starts_with("nothing can follow the -"), "{arguments:?}"),
                _ => assert_eq!(sent(&all), line, "{arguments:?}"),
            }
        }
    }

    #[test]
    fn options_stand_before_the_target_only() {
        assert_eq!(request(&["/s", "mode"]).silence, Some(Duration::from_secs(60)));
        for words in
            [&["-t5"][..], &["-t", "5"], &["--timeout", "5"], &["--timeout=5"], &["-wt5"], &["-t9", "-t5"]]
        {
            let words: Vec<&str> = words.iter().chain(&["/s", "mode"]).copied().collect();
            assert_eq!(request(&words).silence, Some(Duration::from_secs(5)), "{words:?}");
        }
        assert_eq!(request(&["-t", "0", "/s", "mode"]).silence, None);
        for option in ["-t", "--timeout", "-w", "--words", "--help", "--version", "--", "-5", "-x", "--x=y"] {
            assert_eq!(sent(&["/s", "server", "0", "prio", option]), format!("server 0 prio {option}\n"));
            assert_eq!(sent(&["/s", option]), format!("{option}\n"));
        }
        assert_eq!(sent(&["--", "/s", "--", "-w"]), "-- -w\n");
        assert_eq!(sent(&["/s", "-t=5"]), "-t=5\n");
        assert_eq!(sent(&["-t", "1", "/s", "-t=5", "-t=6"]), "-t=5 -t=6\n");
        assert_eq!(parsed(&["--help"]), Task::Show(cli::help(command_line())));
        let version = concat!("penctl ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(parsed(&["--version", "/s", "mode"]), Task::Show(version.to_owned()));
    }

    #[test]
    fn usage_errors_name_the_mistake() {
        assert!(refused(&[]).starts_with("no host:port or /path given"));
        assert_eq!(refused(&["/s"]), r#"no command given after "/s""#);
        assert_eq!(refused(&["7001"]), r#"no command given after "7001""#);
        assert_eq!(refused(&["-x", "/s", "mode"]), "unknown option -x");
        assert_eq!(refused(&["--frob", "/s", "mode"]), "unknown option --frob");
        assert_eq!(refused(&["-t"]), "--timeout needs an argument");
        assert_eq!(refused(&["--words=1", "/s", "mode"]), "--words takes no argument");
        assert!(refused(&["-t=5", "/s", "mode"]).ends_with("not \"=5\""));
        for junk in ["x", "-1", "1s", "", "99999999999"] {
            let message = format!("--timeout must be a number from 0 to 2147483647, not {junk:?}");
            assert_eq!(refused(&["-t", junk, "/s", "mode"]), message);
        }
        assert!(refused(&["-w", "/s", "-"]).starts_with("--words changes nothing"));
    }

    #[test]
    fn targets_are_split_at_the_last_colon() {
        let inet = |text: &str, host: &str, port: Port| Target::Inet {
            text: text.to_owned(),
            host: host.to_owned(),
            port,
        };
        for (text, host) in [
            ("127.0.0.1:7001", "127.0.0.1"),
            ("www.example.com:7001", "www.example.com"),
            ("::1:7001", "::1"),
            ("[::1]:7001", "::1"),
            ("[127.0.0.1]:7001", "127.0.0.1"),
            ("fe80::1%eth0:7001", "fe80::1%eth0"),
        ] {
            assert_eq!(Target::parse(text.into()).unwrap(), inet(text, host, Port::Number(7001)));
        }
        let service = Target::parse("localhost:http".into()).unwrap();
        assert_eq!(service, inet("localhost:http", "localhost", Port::Service("http".into())));
        for path in ["/run/pen.sock", "./s", "dir/s:7001"] {
            assert_eq!(Target::parse(path.into()).unwrap(), Target::Unix(path.into()));
        }
        let refused = |text: &str| Target::parse(text.into()).unwrap_err().to_string();
        for portless in ["7001", "localhost", "localhost:", "[::1]:", ""] {
            let message = format!("{portless}: no port given; give host:port or the /path of a Unix socket");
            assert_eq!(refused(portless), message);
        }
        for hostless in [":7001", "[]:7001"] {
            assert!(refused(hostless).contains("no host before the colon"), "{hostless}");
        }
        for port in ["0", "65536", "-1", "7001x:"] {
            assert!(!refused(&format!("localhost:{port}")).is_empty());
        }
        assert!(refused("localhost:65536").ends_with(r#"or a service name, not "65536""#));
    }

    #[test]
    fn line_ends_cannot_smuggle_in_a_second_command() {
        for argument in ["a\nb", "a\n", "\n", "a\rb", "\r\r", "a\r\n"] {
            assert!(refused(&["/s", argument]).starts_with("a line end within the command"), "{argument:?}");
            assert!(refused(&["/s", argument, "b"]).starts_with("a line end within"), "{argument:?}");
            assert!(refused(&["-w", "/s", argument]).starts_with("a line end within"), "{argument:?}");
        }
        assert!(refused(&["/s", "a\r", "b"]).starts_with("a line end within the command"));
    }

    #[test]
    fn a_command_may_have_4095_bytes() {
        let (half, rest) = ("x".repeat(2000), "y".repeat(2094));
        assert_eq!(sent(&["/s", &half, &rest]).len(), 4096);
        let message = "overlong argument list: 4096 bytes; a command can have 4095";
        assert_eq!(refused(&["/s", &half, &format!("{rest}y")]), message);
    }

    #[test]
    fn with_words_every_argument_is_one_word() {
        let words = |arguments: &[&str]| {
            let all: Vec<&str> = ["-w", "/s"].iter().chain(arguments).copied().collect();
            sent(&all)
        };
        assert_eq!(words(&["server", "0", "max", "5"]), "server 0 max 5\n");
        assert_eq!(words(&["log", "/var/log/my pen.log"]), "log \"/var/log/my pen.log\"\n");
        assert_eq!(
            words(&["log", "", "#x", "a#b", "a\"b", "\"c"]),
            r##"log "" "#x" a#b a"b "\"c""##.to_owned() + "\n"
        );
        assert_eq!(words(&["server 0 max 5"]), "\"server 0 max 5\"\n");
    }

    fn batch_of(text: &[u8]) -> Result<String, String> {
        batch(text).map(|bytes| String::from_utf8(bytes).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_batch_is_lines_between_begin_and_end() {
        for (text, all) in [
            ("", "begin\nend\n"),
            ("mode\n", "begin\nmode\nend\n"),
            ("mode\nhash", "begin\nmode\nhash\nend\n"),
            ("# x\r\n\n  mode\r\n", "begin\n# x\r\n\n  mode\r\nend\n"),
            ("ending\nend x\n#end\nno end\n", "begin\nending\nend x\n#end\nno end\nend\n"),
        ] {
            assert_eq!(batch_of(text.as_bytes()).unwrap(), all);
        }
    }

    #[test]
    fn lines_that_would_end_a_batch_are_refused() {
        for line in ["end", "begin", "  end", "\tend\t", "end\r", "end # of it", "begin #"] {
            let error = batch_of(format!("mode\n{line}\nexit\n").as_bytes()).unwrap_err();
            assert!(error.starts_with("standard input:2: begin and end are sent"), "{line:?}: {error}");
            assert!(error.ends_with("; nothing was sent"));
        }
        for line in [&b"a\0b"[..], b"a\rb", b"a\r\r"] {
            assert!(batch_of(line).unwrap_err().starts_with("standard input:1: a carriage return or NUL"));
        }
    }

    #[test]
    fn batches_and_their_lines_have_a_largest_size() {
        let longest = "x".repeat(4095);
        assert!(batch_of(format!("\n{longest}\r\n").as_bytes()).is_ok());
        let error = batch_of(format!("\n{longest}x\n").as_bytes()).unwrap_err();
        assert_eq!(error, "standard input:2: longer than 4095 bytes; nothing was sent");
        let line = format!("#{}\n", "x".repeat(1022));
        let largest = line.repeat(LARGEST_BATCH / line.len());
        assert_eq!(largest.len(), LARGEST_BATCH);
        assert!(batch_of(largest.as_bytes()).is_ok());
        assert!(batch_of(largest.trim_end().as_bytes()).is_ok());
        let error = batch_of((largest.clone() + "x").as_bytes()).unwrap_err();
        assert!(error.starts_with("standard input: more than 1048576 bytes"), "{error}");
        // The newline that is added counts.
        assert!(batch_of((largest[..LARGEST_BATCH - 1].to_owned() + "x").as_bytes()).is_err());
        // Nobody reads on for ever.
        assert!(batch(io::repeat(b'#')).is_err());
    }

    #[test]
    fn the_first_address_that_answers_is_taken() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let answers = listening.local_addr().unwrap();
        // The port of a client: nobody listens there, and nobody else can get it.
        let client = TcpStream::connect(answers).unwrap();
        let deaf = client.local_addr().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let stream = connect_to_any(&[deaf, answers, deaf], deadline).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), answers);
        let error = connect_to_any(&[deaf, deaf], deadline).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(connect_to_any(&[], deadline).unwrap_err().to_string(), "the name has no address");
        // Also when the time is up before the first attempt.
        let _ = connect_to_any(&[answers], Instant::now());
    }

    #[test]
    fn work_that_takes_too_long_is_left_alone() {
        assert_eq!(within(Duration::from_secs(10), || 7).unwrap(), Some(7));
        let (go_on, wait) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(10), move || wait.recv()).unwrap(), None);
        drop(go_on);
    }

    #[test]
    fn resolvers_are_quoted_without_their_messenger() {
        let error = ("no..such", 1).to_socket_addrs().unwrap_err();
        let text = resolver_words(&error);
        assert!(!text.is_empty() && !text.contains("lookup"), "{text}");
    }

    proptest! {
        #[test]
        fn pen_reads_a_quoted_word_as_it_was(word in r#"[a/ \t"\\#é]{1,12}|\PC{1,12}"#) {
            let line = format!("include {}", quoted(&word));
            match Command::parse(&line).unwrap().unwrap() {
                parsed if parsed.notices.is_empty() => prop_assert_eq!(parsed.command, Command::Include(word)),
                parsed => prop_assert!(false, "{:?}", parsed),
            }
        }

        #[test]
        fn no_command_line_makes_penctl_panic(words in prop::collection::vec(r"-{0,2}[a-z0-9:/\[\]=]{0,8}|\PC{0,4}", 0..5)) {
            let _ = parse(words.into_iter().map(OsString::from));
        }
    }
}
