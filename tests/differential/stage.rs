//! Where a scenario plays: it starts pens and servers here and notes what it sees, the transcript.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::path::PathBuf;

use crate::pen::Builder;
use crate::support::udp::{self, UdpServer};
use crate::support::{Backend, Scratch, backend, free_port};

/// A pen to play with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Does it take the classic's command line only?
    pub classic: bool,
}

impl Program {
    /// The other programs of the same package are beside it.
    pub fn sibling(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What it is; no two in a transcript have the same.
    pub label: String,
    /// What was seen, without what differs from run to run.
    pub text: String,
    /// Is it a log of many lines, which the summary counts?
    pub lines: bool,
}

/// What a scenario saw of one pen.
#[derive(Debug, Default)]
pub struct Transcript {
    /// In the order of the scenario.
    pub observations: Vec<Observation>,
    /// What must not happen with any pen of ours: processes left behind.
    pub faults: Vec<String>,
    /// The classic has died of [`SELECT_DIES`]: this is no transcript of anything.
    pub spoiled: bool,
}

/// What the classic says when it dies with `select`: now and then, after a connect that was refused, a descriptor that
/// it has closed is still in its set.
const SELECT_DIES: &str = "Error on select: Bad file descriptor";

/// The surroundings of one scenario with one pen.
pub struct Stage {
    pub program: Program,
    /// How many workers a pen of ours has.
    pub workers: u32,
    /// Where its files are.
    pub scratch: Scratch,
    transcript: RefCell<Transcript>,
    /// What is replaced in every text, and by what.
    names: RefCell<Vec<(String, String)>>,
    pens: Cell<u32>,
}

impl Stage {
    pub fn new(program: Program, workers: u32) -> Self {
        let scratch = Scratch::new();
        let names = vec![(scratch.path().to_str().unwrap().to_owned(), "<dir>".to_owned())];
        Stage {
            program,
            workers,
            scratch,
            transcript: RefCell::default(),
            names: RefCell::new(names),
            pens: Cell::new(0),
        }
    }

    /// Ends the scenario.
    pub fn into_transcript(self) -> Transcript {
        self.transcript.into_inner()
    }

    /// Notes what was seen. A label that comes again gets a number.
    pub fn note(&self, label: impl Display, text: impl Display) {
        self.add(label, self.normalised(&text.to_string()), false);
    }

    /// Notes lines as they are, every byte of them.
    pub fn note_lines(&self, label: impl Display, lines: String) {
        self.add(label, lines, true);
    }

    fn add(&self, label: impl Display, text: String, lines: bool) {
        let label = self.normalised(&label.to_string());
        let mut transcript = self.transcript.borrow_mut();
        let seen = &transcript.observations;
        let free = |label: &String| seen.iter().all(|seen| seen.label != *label);
        let numbered = (2..).map(|number| format!("{label} ({number})"));
        let label = std::iter::once(label.clone()).chain(numbered).find(free).unwrap();
        transcript.observations.push(Observation { label, text, lines });
    }

    /// Notes something that is wrong with a pen of ours whatever the classic does.
    pub fn fault(&self, text: String) {
        self.transcript.borrow_mut().faults.push(text);
    }

    /// Looks at the last words of a pen.
    pub fn look_at_end(&self, stderr: &str) {
        if self.program.classic && stderr.contains(SELECT_DIES) {
            self.transcript.borrow_mut().spoiled = true;
        }
    }

    /// Has this number or word replaced by a name from now on.
    pub fn name(&self, what: impl Display, name: &str) {
        self.names.borrow_mut().push((what.to_string(), format!("<{name}>")));
    }

    /// A free port, which shows as its name.
    pub fn port(&self, name: &str) -> u16 {
        let port = free_port();
        self.name(port, name);
        port
    }

    /// Web servers S0, S1, …, which answer with their name and close.
    pub fn webs(&self, count: usize) -> Vec<Backend> {
        self.named(backend::webs(count), "S")
    }

    /// Greeters G0, G1, …, which send their name, and echo.
    pub fn greeters(&self, count: usize) -> Vec<Backend> {
        self.named(backend::greeters(count), "G")
    }

    /// Servers S0, S1, … for datagrams, which answer with their name and what they got.
    pub fn echoes(&self, count: usize) -> Vec<UdpServer> {
        let servers = udp::echoes(count);
        for (number, server) in servers.iter().enumerate() {
            self.name(server.port(), &format!("S{number}"));
        }
        servers
    }

    fn named(&self, servers: Vec<Backend>, letter: &str) -> Vec<Backend> {
        for (number, server) in servers.iter().enumerate() {
            self.name(server.port(), &format!("{letter}{number}"));
        }
        servers
    }

    /// One server whose port shows as its name.
    pub fn server(&self, name: &str, server: Backend) -> Backend {
        self.name(server.port(), name);
        server
    }

    /// A pen with these options that is still to be started.
    pub fn pen(&self, options: &[&str]) -> Builder<'_> {
        Builder::new(self, options)
    }

    /// A number for each pen of this stage, from 1.
    pub fn next_pen(&self) -> u32 {
        self.pens.set(self.pens.get() + 1);
        self.pens.get()
    }

    /// Without times, and with names instead of what differs from run to run.
    pub fn normalised(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (what, name) in self.names.borrow().iter() {
            text = replace_word(&text, what, name);
        }
        without_times(&text)
    }
}

/// Replaces `what`, but not inside of a longer number.
fn replace_word(text: &str, what: &str, name: &str) -> String {
    let digits = what.bytes().all(|byte| byte.is_ascii_digit());
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(what) {
        let (before, after) = (&rest[..at], &rest[at + what.len()..]);
        let inside = digits
            && (before.ends_with(|c: char| c.is_ascii_digit())
                || after.starts_with(|c: char| c.is_ascii_digit()));
        out += before;
        out += if inside { what } else { name };
        rest = after;
    }
    out + rest
}

/// `YYYY-MM-DD HH:MM:SS` becomes `<time>`, a number of ten digits (seconds since 1970) `<epoch>`.
fn without_times(text: &str) -> String {
    const TIME: &str = "0000-00-00 00:00:00";
    let bytes = text.as_bytes();
    let like_time = |at: usize| {
        bytes.get(at..at + TIME.len()).is_some_and(|part| {
            part.iter().zip(TIME.bytes()).all(|(byte, like)| match like {
                b'0' => byte.is_ascii_digit(),
                _ => *byte == like,
            })
        })
    };
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let run = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if like_time(at) {
            out.extend_from_slice(b"<time>");
            at += TIME.len();
        } else if run == 10 && bytes[at] == b'1' {
            out.extend_from_slice(b"<epoch>");
            at += run;
        } else {
            out.extend_from_slice(&bytes[at..at + run.max(1)]);
            at += run.max(1);
        }
    }
    String::from_utf8(out).unwrap()
}
