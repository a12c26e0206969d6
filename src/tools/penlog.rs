//! The program penlog(1): a web server's log from standard input to penlogd(1), a datagram a line.
//!
//! What is sent is what pen 0.34.1's penlog sent, and *marks* between it, from which penlogd sees what was lost.
//! Whoever writes the log must never wait for the network: see `sender`. How lines become datagrams: `lines`.

mod lines;
mod sender;

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::ArgMatches;

use self::lines::{Lines, Part};
use self::sender::{Outgoing, Sender};
use crate::model::address::{AddressError, Port};
use crate::model::listen::Protocol;
use crate::model::time::{Moment, Seconds};
use crate::process::complain_as;
use crate::sys::clock;
use crate::sys::datagram::BATCH;
use crate::sys::input::Input;
use crate::sys::random;
use crate::sys::reason::words;
use crate::sys::resolve;
use crate::sys::signal::{self, Signal, Signals};
use crate::sys::socket::Source;
use crate::sys::wait::{self, Interest};
use crate::tools::cli::{self, Task, UsageError};
use crate::weblogs::datagram::{Mark, Stream, write_mark};

/// The name by which it complains.
const PROGRAM: &str = "penlog";

/// There is a mark after so many datagrams, at the latest,
const MARKED: u64 = 1000;

/// and when nothing has come for so long.
const QUIET: Seconds = Seconds(1);

/// How long reading goes on after a signal to end, at most, if others can read what comes later.
const ENDING: Seconds = Seconds(10);

/// And if nobody else can: as long as a download from an old process of a web server may well take.
const LAST_WRITERS: Seconds = Seconds(3600);

const USAGE: &str = "usage: penlog [options] server port [my_ip]\n\
                     penlog --help lists the options, penlog(1) explains them";

const HELP: &str = "\
usage: penlog [options] server port [my_ip]

Sends standard input, the log of a web server, to the penlogd at that server and port, line by line.
With my_ip it is sent from this address: the one by which pen knows the web server.

{all-args}

The status is 0 at the end of the log, also if lines were lost on their way.

Example, for Apache's configuration:
  CustomLog \"|penlog loghost 10000\" combined
";

/// Runs penlog with the arguments of this process.
pub fn main() -> ExitCode {
    let outcome = match parse(std::env::args_os().skip(1)) {
        Ok(Task::Show(text)) => cli::show(&text).map(drop).map_err(Error::Output),
        Ok(Task::Work(request)) => send(&request),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.is_misuse() {
                true => complain(&cli::with_usage(error, USAGE)),
                false => complain(&error.to_string()),
            }
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    server: String,
    port: Port,
    my_ip: Option<String>,
    marks: bool,
}

/// Why nothing was sent, or not all.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error("no server and port given, where the log is to go")]
    NoServer,
    #[error("no port given after {0:?}")]
    NoPort(OsString),
    #[error("nothing can follow the address to send from: {0:?}")]
    TooMuch(OsString),
    #[error("{0:?} is not UTF-8")]
    Encoding(OsString),
    #[error("{0}")]
    Port(AddressError),
    #[error("{0}: there is no UDP service of that name; give the port as a number")]
    Service(String),
    #[error("{name}: {why}")]
    Name { name: String, why: String },
    #[error("{server} cannot be reached from {my_ip}: one is IPv4 and the other IPv6")]
    Family { server: String, my_ip: String },
    #[error("cannot send from {my_ip}: {}", words(why))]
    Source { my_ip: String, why: io::Error },
    #[error("cannot send: {}", words(.0))]
    Socket(io::Error),
    #[error("standard input: {}", words(.0))]
    Input(io::Error),
    #[error("standard output: {}", words(.0))]
    Output(io::Error),
    #[error("{}", words(.0))]
    System(io::Error),
}

impl Error {
    /// Would seeing the usage help?
    fn is_misuse(&self) -> bool {
        matches!(self, Error::Usage(_) | Error::NoServer | Error::NoPort(_) | Error::TooMuch(_))
    }
}

/// If stderr is closed nobody can be told. If nobody reads it (a web server's error log that goes into a pipe may have
/// stopped, too), waiting for that would stop the log.
fn complain(text: &str) {
    let stderr = io::stderr();
    let ready = wait::until_ready(&[(stderr.as_fd(), Interest::WRITE)], Duration::ZERO);
    if ready.is_ok_and(|ready| ready == [true]) {
        complain_as(PROGRAM, text);
    }
}

const NO_MARKS: &str = "no-marks";

fn command_line() -> clap::Command {
    let help = "Send lines alone, for the penlogd of pen 0.34.1; losses are not seen then";
    cli::command(PROGRAM, HELP, [cli::flag(NO_MARKS, help)])
}

/// Takes the words after the program's name apart.
fn parse(given: impl IntoIterator<Item = OsString>) -> Result<Task<Request>, Error> {
    cli::parse(command_line(), given, read)
}

fn read(mut matches: ArgMatches) -> Result<Task<Request>, Error> {
    let marks = !matches.get_flag(NO_MARKS);
    let mut operands = cli::operands(&mut matches);
    let server = operands.next().ok_or(Error::NoServer)?;
    let port = operands.next().ok_or_else(|| Error::NoPort(server.clone()))?;
    let my_ip = operands.next();
    if let Some(more) = operands.next() {
        return Err(Error::TooMuch(more));
    }
    let text = |word: OsString| word.into_string().map_err(Error::Encoding);
    let port = Port::from_str(&text(port)?).map_err(Error::Port)?;
    // The classic took an empty address for none, which is what scripts with an unset variable give.
    let my_ip = my_ip.map(text).transpose()?.filter(|my_ip| !my_ip.is_empty());
    Ok(Task::Work(Request { server: text(server)?, port, my_ip, marks }))
}

/// Where to, and from where if that is not the system's to choose.
fn route(request: &Request) -> Result<(SocketAddr, Option<IpAddr>), Error> {
    let port = match &request.port {
        Port::Number(port) => *port,
        Port::Service(name) => {
            resolve::service_port(name, Some(Protocol::Udp)).ok_or_else(|| Error::Service(name.clone()))?
        }
        Port::Listeners => return Err(Error::NoPort(request.server.clone().into())),
    };
    let servers = addresses(&request.server, port)?;
    match &request.my_ip {
        None => Ok((servers[0], None)),
        Some(my_ip) => {
            let own = addresses(my_ip, 0)?;
            let pairs =
                servers.iter().flat_map(|to| own.iter().map(move |from| (*to, from.ip().to_canonical())));
            let mut fitting = pairs.filter(|(to, from)| to.ip().to_canonical().is_ipv4() == from.is_ipv4());
            let (to, from) = fitting
                .next()
                .ok_or_else(|| Error::Family { server: request.server.clone(), my_ip: my_ip.clone() })?;
            Ok((to, Some(from)))
        }
    }
}

/// The addresses of a name, at least one.
fn addresses(name: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    let unknown = |why: &str| Error::Name { name: name.to_owned(), why: why.to_owned() };
    // Not `resolve::addresses`: it has no place for the zone of fe80::1%eth0.
    let found: Vec<_> = match (name, port).to_socket_addrs() {
        Ok(found) => found.collect(),
        Err(error) => {
            let text = words(&error);
            let why = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
            return Err(unknown(why));
        }
    };
    if found.is_empty() { Err(unknown("the name has no address")) } else { Ok(found) }
}

fn send(request: &Request) -> Result<(), Error> {
    let (to, from) = route(request)?;
    let sender =
        Sender::open(to, from.map(Source::Own), clock::now()).map_err(|why| match &request.my_ip {
            Some(my_ip) => Error::Source { my_ip: my_ip.clone(), why },
            None => Error::Socket(why),
        })?;
    // What makes web servers open their logs anew concerns a logger only if it is sent to their whole group.
    signal::ignore(&[Signal::SIGHUP, Signal::SIGUSR1]).map_err(Error::System)?;
    let signals = Signals::install(&[Signal::SIGTERM, Signal::SIGINT]).map_err(Error::System)?;
    let input = Input::open().map_err(Error::Input)?;
    let outgoing = Outbox { sender, numbers: request.marks.then(Numbers::begin), marks: Vec::new() };
    let lines = Lines::new(request.marks);
    Relay { input, signals, lines, outgoing, heard: clock::now(), ending: None }.run()
}

/// All that goes on while penlog runs.
struct Relay {
    input: Input,
    signals: Signals,
    lines: Lines,
    outgoing: Outbox,
    /// When something was read last.
    heard: Moment,
    /// A signal has come: when to end, whatever still comes.
    ending: Option<Moment>,
}

impl Relay {
    /// To the end of the log, or until a signal ends it.
    fn run(mut self) -> Result<(), Error> {
        let outcome = loop {
            let wait = self.wake_up().map(|end| end.micros_since(clock::now()));
            let wait = wait.map_or(Duration::MAX, Duration::from_micros);
            let ready = wait::until_readable(&[self.input.as_fd(), self.signals.as_fd()], wait)
                .map_err(Error::System)?;
            let now = clock::now();
            if ready[1] && self.is_told_to_end(now) {
                break Ok(());
            }
            if ready[0] {
                match self.input.read(self.lines.room()) {
                    Ok(0) => break Ok(()),
                    Ok(count) => {
                        self.lines.filled(count);
                        self.outgoing.send_lines(&mut self.lines, now);
                        self.heard = clock::now();
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(error) => break Err(Error::Input(error)),
                }
            } else if now >= self.heard.plus(QUIET) {
                if self.ends_when_quiet() {
                    break Ok(());
                }
                self.outgoing.send_mark();
            }
            if let Some(news) = self.outgoing.sender.news(now) {
                complain(&news);
            }
            if self.ending.is_some_and(|end| now >= end) {
                break Ok(());
            }
        };
        self.lines.finish();
        self.outgoing.send_lines(&mut self.lines, clock::now());
        self.outgoing.send_mark();
        if let Some(news) = self.outgoing.sender.finish() {
            complain(&news);
        }
        outcome
    }

    /// When to do something though nothing has come.
    fn wake_up(&self) -> Option<Moment> {
        let quiet = self.heard.plus(QUIET);
        let pause = (self.ends_when_quiet() || self.outgoing.is_unmarked()).then_some(quiet);
        [pause, self.ending, self.outgoing.sender.next_news()].into_iter().flatten().min()
    }

    fn ends_when_quiet(&self) -> bool {
        self.ending.is_some() && !self.input.is_unnamed_pipe()
    }

    /// A signal to end: what is in the pipe is read before, and what those still write who have it open. A web server that
    /// is restarted gracefully ends its logger long before the last of its own processes: their lines would be lost. Where
    /// somebody else can take over (a FIFO has a name) it ends when nothing has come for a while. Does it end at once?
    fn is_told_to_end(&mut self, now: Moment) -> bool {
        let times: u32 = self.signals.take().iter().map(|(_, times)| times).sum();
        if times == 0 {
            return false;
        }
        if self.ending.is_none() {
            let most = if self.input.is_unnamed_pipe() { LAST_WRITERS } else { ENDING };
            self.ending = Some(now.plus(most));
            // It is from now on that nothing may come.
            self.heard = now;
            return times > 1;
        }
        true
    }
}

/// What is sent, with marks between the lines.
struct Outbox {
    sender: Sender,
    /// None: without marks.
    numbers: Option<Numbers>,
    /// The marks of a batch, one after the other.
    marks: Vec<u8>,
}

/// What marks say.
struct Numbers {
    stream: Stream,
    sent: u64,
    /// Datagrams since the last mark; none if there has not been any.
    since: Option<u64>,
}

impl Numbers {
    fn begin() -> Self {
        Numbers { stream: Stream(random::number()), sent: 0, since: None }
    }

    /// Writes a mark.
    fn mark(&mut self, out: &mut Vec<u8>, length: Option<usize>) {
        self.since = Some(0);
        write_mark(out, Mark { stream: self.stream, sent: self.sent, length });
    }

    /// Should there be a mark before the next line?
    fn is_due(&self) -> bool {
        self.since.is_none_or(|since| since >= MARKED)
    }

    /// One more datagram, also if it cannot be sent.
    fn count(&mut self) {
        self.sent += 1;
        self.since = Some(self.since.unwrap_or(0) + 1);
    }
}

/// A datagram of a batch.
enum Place {
    Line(Range<usize>),
    /// In the marks of this batch.
    Mark(Range<usize>),
}

impl Outbox {
    /// Sends all lines that have come.
    fn send_lines(&mut self, lines: &mut Lines, now: Moment) {
        let mut batch: Vec<Place> = Vec::with_capacity(BATCH);
        let mut next = lines.next();
        while next.is_some() {
            if self.sender.renew(now) {
                self.numbers = self.numbers.take().map(|_| Numbers::begin());
            }
            batch.clear();
            self.marks.clear();
            // A line may need a mark before it.
            while batch.len() + 1 < BATCH
                && let Some(part) = next.take()
            {
                match part {
                    Part::Announcement(length) => batch.extend(self.write_mark(Some(length))),
                    Part::Line(range) => {
                        if self.numbers.as_ref().is_some_and(Numbers::is_due) {
                            batch.extend(self.write_mark(None));
                        }
                        batch.push(self.line(range));
                    }
                    Part::Piece(range) => batch.push(self.line(range)),
                }
                next = lines.next();
            }
            self.send(lines, &batch);
        }
    }

    /// Sends a mark if something was sent since the last one.
    fn send_mark(&mut self) {
        if self.is_unmarked() {
            self.marks.clear();
            self.write_mark(None);
            self.sender.send(&[Outgoing { bytes: &self.marks, line: false }]);
        }
    }

    fn is_unmarked(&self) -> bool {
        self.numbers.as_ref().is_some_and(|numbers| numbers.since.is_some_and(|since| since > 0))
    }

    fn line(&mut self, range: Range<usize>) -> Place {
        if let Some(numbers) = &mut self.numbers {
            numbers.count();
        }
        Place::Line(range)
    }

    fn write_mark(&mut self, length: Option<usize>) -> Option<Place> {
        let start = self.marks.len();
        self.numbers.as_mut()?.mark(&mut self.marks, length);
        Some(Place::Mark(start..self.marks.len()))
    }

    fn send(&mut self, lines: &Lines, batch: &[Place]) {
        let outgoing: Vec<Outgoing<'_>> = batch
            .iter()
            .map(|place| match place {
                Place::Line(range) => Outgoing { bytes: lines.bytes(range), line: true },
                Place::Mark(range) => Outgoing { bytes: &self.marks[range.clone()], line: false },
            })
            .collect();
        self.sender.send(&outgoing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Task<Request>, String> {
        parse(words.iter().map(OsString::from)).map_err(|error| error.to_string())
    }

    fn request(server: &str, port: Port, my_ip: Option<&str>, marks: bool) -> Task<Request> {
        Task::Work(Request { server: server.into(), port, my_ip: my_ip.map(str::to_owned), marks })
    }

    #[test]
    fn a_server_and_a_port_are_needed_and_an_own_address_may_follow() {
        assert_eq!(parsed(&["h", "514"]).unwrap(), request("h", Port::Number(514), None, true));
        let service = Port::Service("syslog".into());
        assert_eq!(parsed(&["::1", "syslog", "::2"]).unwrap(), request("::1", service, Some("::2"), true));
        assert_eq!(parsed(&["h", "1", ""]).unwrap(), request("h", Port::Number(1), None, true));
        for words in [["--no-marks", "h", "1"], ["h", "1", "--no-marks"]] {
            assert_eq!(parsed(&words).unwrap(), request("h", Port::Number(1), None, false));
        }
        assert_eq!(parsed(&["--help"]).unwrap(), Task::Show(cli::help(command_line())));
        let version = concat!("penlog ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(parsed(&["h", "--version"]).unwrap(), Task::Show(version.to_owned()));
    }

    #[test]
    fn everything_else_is_refused() {
        for (words, complaint) in [
            (&[][..], "no server and port given"),
            (&["h"], "no port given after \"h\""),
            (&["h", "1", "127.0.0.1", "x"], "nothing can follow the address to send from: \"x\""),
            (&["h", "0"], "port must be a number from 1 to 65535 or a service name, not \"0\""),
            (&["h", ""], "port must be"),
            (&["h", "65536"], "port must be"),
            (&["-x", "h", "1"], "unknown option -x"),
            (&["--no-marks=1", "h", "1"], "--no-marks takes no argument"),
        ] {
            let told = parsed(words).unwrap_err();
            assert!(told.contains(complaint), "{words:?}: {told}");
        }
    }

    #[test]
    fn the_way_is_found_once_and_both_ends_are_of_one_family() {
        let way = |server: &str, my_ip: Option<&str>| {
            let my_ip = my_ip.map(str::to_owned);
            let request = Request { server: server.into(), port: Port::Number(9), my_ip, marks: true };
            route(&request).map_err(|error| error.to_string())
        };
        assert_eq!(way("192.0.2.7", None), Ok(("192.0.2.7:9".parse().unwrap(), None)));
        let own = "127.0.0.9".parse().unwrap();
        assert_eq!(way("127.0.0.1", Some("127.0.0.9")), Ok(("127.0.0.1:9".parse().unwrap(), Some(own))));
        let told = way("127.0.0.1", Some("::1")).unwrap_err();
        assert_eq!(told, "127.0.0.1 cannot be reached from ::1: one is IPv4 and the other IPv6");
        assert!(way("no..such", None).unwrap_err().starts_with("no..such: "));
        assert!(!way("no..such", None).unwrap_err().contains("lookup"));
    }
}
