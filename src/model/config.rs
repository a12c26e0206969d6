//! Configuration files: commands, one a line, to new settings. All or nothing.
//!
//! A file changes what it names and leaves the rest as it is (pen(1), CONFIGURATION FILE). A file with a mistake
//! changes nothing, and every mistake in it is named, with file and line. Pure: the texts come from the caller, who
//! also acts on [`Reading::actions`].

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::io;
use std::path::Path;

use super::address::Drain;
use super::apply::Action;
use super::command::{Command, CommandError, ListenChange, Notice, Number, Parsed};
use super::ids::ServerId;
use super::listen::{Listen, MAX_LISTENERS};
use super::settings::{AclEntry, MAX_ENTRIES, Remark, Settings, SettingsProblem};

/// How deep files can include each other; deeper is taken for a circle under changing names.
const INCLUDE_DEPTH: usize = 16;

/// How many files can be included at all: a few that each include the next one several times would never end.
const INCLUDED_FILES: usize = 1000;

/// How many bytes the answers to the questions in a text can have: a short question about a long name, asked again and
/// again, would fill the memory.
const LONGEST_REPLIES: usize = 1024 * 1024;

/// Reads a file that is included; relative names are relative to wherever pen is.
pub type Loader<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// Something about a place in a file: `FILE:LINE: …`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct At<T> {
    /// The file, or whatever else the text came from.
    pub file: String,
    /// The line, from 1; none where the text has no lines or all of it is meant.
    pub line: Option<usize>,
    /// What there is about it.
    pub what: T,
}

impl<T: fmt::Display> fmt::Display for At<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

/// Why settings cannot be had from a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A line is no command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// An included file cannot be read.
    #[error("cannot include {file}: {reason}")]
    Unreadable {
        /// Which.
        file: String,
        /// The system's word for it.
        reason: String,
    },
    /// A file includes itself, directly or through others.
    #[error("{0} is being read already; a file cannot include itself")]
    Circle(String),
    /// Too many files inside each other.
    #[error("cannot include {0}: files are nested more than {INCLUDE_DEPTH} deep")]
    TooDeep(String),
    /// Too many files one after the other.
    #[error("cannot include {0}: {INCLUDED_FILES} files have been included already")]
    TooMany(String),
    /// Too many questions.
    #[error("the answers up to here have more than {LONGEST_REPLIES} bytes; ask less at a time")]
    LongReplies,
    /// `drain` and `undrain` are for what is there: a slip of the pen must not make a server.
    #[error("there is no server {0}")]
    NoServer(ServerId),
    /// Nobody listens there who could stop. In a file it is skipped.
    #[error("there is no listener {0}")]
    NoListener(Listen),
    /// Each has a socket for every worker.
    #[error("too many listeners; there can be {MAX_LISTENERS}")]
    TooManyListeners,
    /// The settings as a whole do not work.
    #[error(transparent)]
    Settings(#[from] SettingsProblem),
}

/// What the administrator must know of a text that is used all the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Warning {
    /// About the wording of a command.
    Notice(Notice),
    /// A line was skipped; `--check` counts it as wrong. Holds the message.
    Skipped(String),
    /// A line was skipped, and counts as wrong likewise: only a running pen can be asked for this, with this word.
    Misplaced(&'static str),
    /// About the settings as a whole.
    Remark(Remark),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Notice(notice) => notice.fmt(f),
            Warning::Skipped(message) => f.write_str(message),
            Warning::Misplaced(word) => {
                write!(f, "{word} is no setting: it must be sent to the control port of a running pen, alone")
            }
            Warning::Remark(remark) => remark.fmt(f),
        }
    }
}

/// What came of reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The new settings.
    pub settings: Settings,
    /// The answers to questions in the text, ready to be printed.
    pub replies: String,
    /// What should be told; the same thing is told once.
    pub warnings: Vec<At<Warning>>,
    /// What must be done besides, in this order. Holds no [`Action::Include`], which has been done, and no
    /// [`Action::Operate`], which has been skipped.
    pub actions: Vec<Action>,
    /// For what turns out to be wrong later.
    pub places: Places,
}

/// Where in files the words of commands are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// The lines with commands, where they have a place.
    lines: Vec<At<String>>,
    /// The words of the lines, each with the last line that has it. Made when somebody asks: a text can have thousands
    /// of names, and nobody know any of them.
    index: OnceCell<HashMap<String, usize>>,
}

impl Places {
    /// The last line with this word in it, as `FILE:LINE`. None if there is no such line, or no word.
    pub fn of(&self, word: &str) -> Option<String> {
        if word.is_empty() {
            return None;
        }
        let line = match self.index.get_or_init(|| self.words()).get(word) {
            Some(number) => self.lines.get(*number),
            None => self.lines.iter().rev().find(|line| line.what.contains(word)),
        }?;
        Some(format!("{}:{}", line.file, line.line?))
    }

    /// The last line that says to listen there, as `FILE:LINE`. None if there is no such line.
    pub fn of_listener(&self, listen: &Listen) -> Option<String> {
        let says_it = |line: &&At<String>| match command_of(&line.what) {
            Some(Command::Listen(ListenChange::Only(spec))) => spec.is(&listen.spec),
            Some(Command::Listen(ListenChange::Add(it))) => it.is(listen),
            _ => false,
        };
        let line = self.lines.iter().rev().filter(|line| line.what.contains("listen")).find(says_it)?;
        Some(format!("{}:{}", line.file, line.line?))
    }

    fn words(&self) -> HashMap<String, usize> {
        let words = |(number, line)| {
            let At { what, .. }: &At<String> = line;
            what.split_whitespace().map(move |word| (word.trim_matches('"').to_owned(), number))
        };
        self.lines.iter().enumerate().flat_map(words).collect()
    }
}

fn command_of(line: &str) -> Option<Command> {
    Some(Command::parse(line).ok()??.command)
}

impl Reading {
    /// Adds the remarks about the settings that have not been made before.
    fn remark(&mut self, origin: &str, before: &[Remark]) {
        let remarks = self.settings.remarks().into_iter().filter(|remark| !before.contains(remark));
        let told =
            remarks.map(|remark| At { file: origin.to_owned(), line: None, what: Warning::Remark(remark) });
        self.warnings.extend(told);
    }
}

/// A file's text. Comments may be in any encoding, as they always could; everything else must be UTF-8.
///
/// # Errors
/// The first line that is not.
pub fn decode(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).or_else(|error| {
        let bytes = error.into_bytes();
        for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
            let comment = line.iter().position(|&byte| byte == b'#').unwrap_or(line.len());
            if str::from_utf8(&line[..comment]).is_err() {
                let what = format!("line {number} is not UTF-8");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    })
}

/// Why a text is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// All that is wrong; at least one.
    pub faults: Vec<At<Fault>>,
    /// What would have been told otherwise: a skipped line may be the reason of a fault further down.
    pub warnings: Vec<At<Warning>>,
}

/// Reads a file on top of `base`: what a reload does. The new settings have the next generation.
///
/// Nothing is reset, lists grow, servers are never removed; but a list that ends with all that the file would append
/// stays as it is, so that reading the same file again and again changes nothing. The tables of clients and connections
/// only grow.
///
/// # Errors
/// If anything is wrong: all of it, and what was skipped; `base` is to be kept then.
pub fn read(
    base: &Settings,
    file: &str,
    text: &str,
    loader: impl Fn(&Path) -> io::Result<String>,
) -> Result<Reading, Rejected> {
    read_with(base, file, &loader, |reader| reader.file(file, text))
}

/// Reads commands as [`read`] does, that belong together but are no file: a listener is one more. `origin` says whose.
///
/// # Errors
/// As there.
pub fn read_batch(
    base: &Settings,
    origin: &str,
    text: &str,
    loader: impl Fn(&Path) -> io::Result<String>,
) -> Result<Reading, Rejected> {
    read_with(base, origin, &loader, |reader| reader.growing_lists(|reader| reader.lines(origin, text)))
}

fn read_with(
    base: &Settings,
    origin: &str,
    loader: Loader<'_>,
    read: impl FnOnce(&mut Reader<'_>),
) -> Result<Reading, Rejected> {
    let mut reader = Reader::running(base.clone(), loader);
    read(&mut reader);
    let mut reading = reader.conclude(origin)?;
    reading.remark(origin, &[]);
    Ok(reading)
}

/// Reads one command on top of `base`, for somebody who waits for the answer; `origin` says who. The new settings have
/// the next generation, also after a question. Lists and tables grow as in [`read`]: an entry that its list ends with
/// already is not appended again.
///
/// What a file would skip is a fault here, to be answered as it deserves: [`CommandError::Unknown`],
/// [`CommandError::FastCloseAlone`], [`Fault::NoListener`]. (Files that the command includes are read as ever.)
/// A command for a running pen is the caller's to carry out; it is skipped with a warning here.
///
/// # Errors
/// If anything is wrong; `base` is to be kept then. A running pen's settings have no [`Settings::problems`], since
/// neither a start nor [`read`] nor this lets any in: the command made whatever problem there is now.
pub fn read_command(
    base: &Settings,
    origin: &str,
    line: &str,
    loader: impl Fn(&Path) -> io::Result<String>,
) -> Result<Reading, Rejected> {
    let mut reader = Reader::running(base.clone(), &loader);
    reader.growing_lists(|reader| match Command::parse(line) {
        Ok(Some(parsed)) => match reader.absent(&parsed.command) {
            Some(fault) => reader.fault(origin, None, fault),
            None => reader.carry_out(origin, None, parsed),
        },
        Ok(None) => {}
        Err(error) => reader.fault(origin, None, error),
    });
    let mut reading = reader.conclude(origin)?;
    // Who has been told need not be told again with every command that follows.
    reading.remark(origin, &base.remarks());
    Ok(reading)
}

/// Reads texts on top of each other and collects all that is wrong instead of ending at the first mistake: for the
/// command line, where options, `-O` commands and a file follow each other. Tables have the size that was named last.
pub struct Reader<'a> {
    /// What was read so far; worth something only without faults.
    pub reading: Reading,
    /// What was wrong so far.
    pub faults: Vec<At<Fault>>,
    loader: Loader<'a>,
    /// Pen runs with what this began with: its tables cannot get smaller.
    tables_only_grow: bool,
    /// The files that are being read, each included by the one before it.
    open: Vec<String>,
    /// How many files have been included.
    included: usize,
    /// How many bytes have been answered, those beyond [`LONGEST_REPLIES`] counted too.
    answered: usize,
    told: HashSet<Warning>,
    /// The next listener is the first of a file.
    replaces_listeners: bool,
    /// Put off until all servers are there: those of the command line come after the file that drains them.
    drains: Vec<At<(ServerId, Drain)>>,
}

impl<'a> Reader<'a> {
    /// Starts from these settings, with which no pen runs.
    pub fn new(base: Settings, loader: Loader<'a>) -> Self {
        let reading = Reading {
            settings: base,
            replies: String::new(),
            warnings: vec![],
            actions: vec![],
            places: Places::default(),
        };
        Reader {
            reading,
            faults: vec![],
            loader,
            tables_only_grow: false,
            open: vec![],
            included: 0,
            answered: 0,
            told: HashSet::new(),
            replaces_listeners: false,
            drains: vec![],
        }
    }

    /// Starts from the settings of a running pen.
    fn running(base: Settings, loader: Loader<'a>) -> Self {
        Reader { tables_only_grow: true, ..Reader::new(base, loader) }
    }

    /// Reads all lines of a file. The first that says where to listen takes the place of all listeners that were there
    /// before: where a file that is read again has another port, the old one is given up.
    pub fn file(&mut self, name: &str, text: &str) {
        self.replaces_listeners = true;
        self.growing_lists(|reader| reader.lines(name, text));
        self.replaces_listeners = false;
    }

    /// Reads one command that has no place in a file; `origin` says where it is from.
    pub fn command(&mut self, origin: &str, text: &str) {
        self.line(origin, None, text);
    }

    /// To be called when all servers are there: carries out what was said about those that may come later.
    pub fn settle(&mut self) {
        for At { file, line, what: (server, whom) } in std::mem::take(&mut self.drains) {
            let servers = &self.reading.settings.servers;
            match servers.get(server.0 as usize).is_some_and(|slot| slot.host.is_some()) {
                true => {
                    self.reading.settings.apply(Command::Drain(server, whom));
                }
                false => self.fault(&file, line, Fault::NoServer(server)),
            }
        }
    }

    /// The end: is it good as a whole?
    fn conclude(mut self, origin: &str) -> Result<Reading, Rejected> {
        self.settle();
        for problem in self.reading.settings.problems() {
            self.fault(origin, None, problem);
        }
        let Reader { mut reading, faults, .. } = self;
        if !faults.is_empty() {
            return Err(Rejected { faults, warnings: reading.warnings });
        }
        reading.settings.generation += 1;
        Ok(reading)
    }

    /// Lists grow by what `read` appends, unless they end with that already.
    fn growing_lists(&mut self, read: impl FnOnce(&mut Self)) {
        let before = self.reading.settings.acls.clone();
        read(self);
        for (list, before) in self.reading.settings.acls.iter_mut().zip(&before) {
            drop_repetition(list, before);
        }
    }

    fn lines(&mut self, name: &str, text: &str) {
        self.open.push(name.to_owned());
        for (line, text) in (1..).zip(text.lines()) {
            self.line(name, Some(line), text);
        }
        self.open.pop();
    }

    fn line(&mut self, file: &str, line: Option<usize>, text: &str) {
        match Command::parse(text) {
            Ok(Some(parsed)) => {
                self.reading.places.lines.push(At { file: file.to_owned(), line, what: text.to_owned() });
                match self.absent(&parsed.command) {
                    // The file that took it away is read again by every reload.
                    Some(fault) => self.warn(file, line, Warning::Skipped(fault.to_string())),
                    None => self.carry_out(file, line, parsed),
                }
            }
            Ok(None) => {}
            Err(error) if error.is_ignorable() => self.warn(file, line, Warning::Skipped(error.to_string())),
            Err(error) => self.fault(file, line, error),
        }
    }

    fn carry_out(&mut self, file: &str, line: Option<usize>, parsed: Parsed) {
        for notice in parsed.notices {
            self.warn(file, line, Warning::Notice(notice));
        }
        if let Command::Drain(server, whom) = parsed.command {
            return self.drains.push(At { file: file.to_owned(), line, what: (server, whom) });
        }
        // It is too long however it goes on: what it ended with before can be no longer than a list may be.
        if let Command::AclAdd(list, _) = parsed.command
            && self.reading.settings.acls[list.index()].len() > 2 * MAX_ENTRIES
        {
            return;
        }
        if let Command::Listen(ListenChange::Add(_) | ListenChange::Only(_)) = &parsed.command
            && std::mem::take(&mut self.replaces_listeners)
        {
            self.reading.settings.listen.clear();
        }
        let settings = &self.reading.settings;
        if let Command::Listen(ListenChange::Add(listen)) = &parsed.command
            && settings.listen.len() >= MAX_LISTENERS
            && !settings.listens_at(listen)
        {
            return self.fault(file, line, Fault::TooManyListeners);
        }
        let outcome = self.reading.settings.apply(self.possible(parsed.command));
        self.reply(file, line, &outcome.reply);
        for action in outcome.actions {
            match action {
                Action::Include(name) => match self.load(&name) {
                    Ok(text) => self.lines(&name, &text),
                    Err(fault) => self.fault(file, line, fault),
                },
                Action::Operate(operation) => {
                    self.warn(file, line, Warning::Misplaced(operation.word()));
                }
                action @ (Action::Shun(..) | Action::Restaple) => self.reading.actions.push(action),
            }
        }
    }

    /// What is to be taken away, and is not there.
    fn absent(&self, command: &Command) -> Option<Fault> {
        match command {
            Command::Listen(ListenChange::Remove(listen)) if !self.reading.settings.listens_at(listen) => {
                Some(Fault::NoListener(listen.clone()))
            }
            _ => None,
        }
    }

    fn reply(&mut self, file: &str, line: Option<usize>, reply: &str) {
        let before = self.answered;
        self.answered = before.saturating_add(reply.len());
        if self.answered <= LONGEST_REPLIES {
            self.reading.replies += reply;
        } else if before <= LONGEST_REPLIES {
            self.fault(file, line, Fault::LongReplies);
        }
    }

    /// The command as far as it can be done: to make a table smaller that only grows is to ask for its size.
    fn possible(&self, command: Command) -> Command {
        let present = match &command {
            _ if !self.tables_only_grow => return command,
            Command::Number(Number::ClientsMax, _) => self.reading.settings.clients_max,
            Command::Number(Number::ConnMax, _) => self.reading.settings.conn_max,
            _ => return command,
        };
        match command {
            Command::Number(table, Some(size)) if size < present => Command::Number(table, None),
            _ => command,
        }
    }

    fn load(&mut self, name: &str) -> Result<String, Fault> {
        if self.open.iter().any(|open| Path::new(open) == Path::new(name)) {
            return Err(Fault::Circle(name.to_owned()));
        }
        if self.open.len() > INCLUDE_DEPTH {
            return Err(Fault::TooDeep(name.to_owned()));
        }
        if self.included == INCLUDED_FILES {
            return Err(Fault::TooMany(name.to_owned()));
        }
        self.included += 1;
        (self.loader)(Path::new(name)).map_err(|error| {
            let reason = error.to_string();
            // People know the words, not the number that follows them.
            let words = reason.split_once(" (os error ").map_or(&*reason, |(words, _)| words);
            Fault::Unreadable { file: name.to_owned(), reason: words.to_owned() }
        })
    }

    fn fault(&mut self, file: &str, line: Option<usize>, what: impl Into<Fault>) {
        self.faults.push(At { file: file.to_owned(), line, what: what.into() });
    }

    fn warn(&mut self, file: &str, line: Option<usize>, what: Warning) {
        if self.told.insert(what.clone()) {
            self.reading.warnings.push(At { file: file.to_owned(), line, what });
        }
    }
}

/// Takes back what was appended to a list if the list ended with it already. That changes no verdict: the first entry
/// that matches is the same, and so is the last entry, which rules everybody else.
fn drop_repetition(list: &mut Vec<AclEntry>, before: &[AclEntry]) {
    if list.strip_prefix(before).is_some_and(|appended| before.ends_with(appended)) {
        list.truncate(before.len());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::super::ids::ServerId;
    use super::super::settings::Network;
    use super::super::time::Seconds;
    use super::super::tls::TlsOption;
    use super::*;

    fn base() -> Settings {
        Settings {
            generation: 7,
            listen: crate::model::listen::Listen::tcp("8001"),
            servers: vec!["a:1".parse().unwrap()],
            ..Settings::default()
        }
    }

    fn no_files(path: &Path) -> io::Result<String> {
        panic!("nothing includes {}", path.display())
    }

    fn read_text(text: &str) -> Result<Reading, Vec<String>> {
        read(&base(), "pen.cfg", text, no_files)
            .map_err(|rejected| rejected.faults.iter().map(At::to_string).collect())
    }

    fn warnings(reading: &Reading) -> Vec<String> {
        reading.warnings.iter().map(At::to_string).collect()
    }

    #[test]
    fn a_file_changes_what_it_names_and_nothing_else() {
        let text = "# a comment\r\n\r\n\tblacklist 7\r\nserver 1 address b port 2\r\nno hash # off\nstubborn";
        let reading = read_text(text).unwrap();
        let mut expected = Settings { generation: 8, stubborn: true, blacklist: Seconds(7), ..base() };
        expected.servers.push("b:2".parse().unwrap());
        assert_eq!(reading.settings, expected);
        assert_eq!(reading.replies, "7\n");
        assert_eq!((reading.warnings, reading.actions), (vec![], vec![]));
    }

    #[test]
    fn comments_may_be_in_any_encoding_and_commands_may_not() {
        let latin = |text: &str| text.chars().map(|c| c as u8).collect();
        let text = decode(latin("# \u{e5}\nblacklist 7 # \u{e9}\n")).unwrap();
        assert_eq!(read_text(&text).unwrap().settings.blacklist, Seconds(7));
        assert_eq!(decode("# \u{e5}\n".into()).unwrap(), "# \u{e5}\n");
        let error = decode(latin("hash\nlog /\u{e5}\n")).unwrap_err();
        assert_eq!(error.to_string(), "line 2 is not UTF-8");
    }

    #[test]
    fn an_empty_file_is_fine() {
        assert_eq!(read_text("").unwrap().settings, Settings { generation: 8, ..base() });
    }

    #[test]
    fn every_mistake_is_named_with_file_and_line() {
        let faults =
            read_text("hash\nserver 0 weight x\n\nno acl\nstubborn\ndsr_if lo\nconnection x").unwrap_err();
        let expected = [
            r#"pen.cfg:2: weight must be a number from 0 to 2147483647, not "x""#,
            "pen.cfg:4: no acl needs the number of a list",
            "pen.cfg:6: dsr_if is not available in this version",
            "pen.cfg:7: connection must be a number from 0 to 4294967295, not \"x\"",
        ];
        assert_eq!(faults, expected);
    }

    #[test]
    fn unknown_commands_are_skipped_with_a_warning() {
        let reading = read_text("foo bar\nhash\ntcp_fastclose\n").unwrap();
        assert!(reading.settings.hash);
        assert!(reading.warnings.iter().all(|warning| matches!(warning.what, Warning::Skipped(_))));
        let expected = [
            "pen.cfg:1: do_cmd: ignoring command starting with 'foo'",
            "pen.cfg:3: do_cmd: ignoring tcp_fastclose without argument",
        ];
        assert_eq!(warnings(&reading), expected);
    }

    #[test]
    fn options_of_tls_that_do_not_exist_are_skipped_with_a_warning() {
        let reading =
            read_text("ssl_option no_tlsv1\nssl_option single_dh_use\nssl_option no_sslv3\n").unwrap();
        assert_eq!(reading.settings.tls.options, [TlsOption::NoTlsv1]);
        let [skipped, always] = warnings(&reading).try_into().unwrap();
        assert!(skipped.starts_with(r#"pen.cfg:2: do_cmd: ignoring ssl_option "single_dh_use": it can be "#));
        assert_eq!(always, "pen.cfg:3: no_sslv3 is always on");
        assert!(command(&base(), "ssl_option single_dh_use").is_err());
    }

    #[test]
    fn settings_of_tls_are_judged_at_the_end_of_a_text() {
        let faults = read_text("ssl_certificate c\nssl_verify_client require").unwrap_err();
        assert!(
            faults.len() == 1 && faults[0].starts_with("pen.cfg: ssl_verify_client require needs"),
            "{faults:?}"
        );
        assert!(read_text("ssl_certificate c\nssl_verify_client require\nssl_ca_file ca").is_ok());
        let once = read_text("ssl_key k").unwrap();
        assert_eq!(warnings(&once), ["pen.cfg: ssl_key has no effect without ssl_certificate (-E)"]);
        assert_eq!(warnings(&command(&once.settings, "ssl_key l").unwrap()), [""; 0], "it has been told");
        assert_eq!(warnings(&command(&once.settings, "ssl_certificate c").unwrap()), [""; 0]);
    }

    #[test]
    fn what_needs_a_running_pen_is_skipped_with_a_warning() {
        let reading = read_text("servers\nclose 3\nservers\nexit\nhash").unwrap();
        assert!(reading.settings.hash);
        assert!(reading.warnings.iter().all(|warning| matches!(warning.what, Warning::Misplaced(_))));
        let expected = [
            "pen.cfg:1: servers is no setting: it must be sent to the control port of a running pen, alone",
            "pen.cfg:2: close is no setting: it must be sent to the control port of a running pen, alone",
            "pen.cfg:4: exit is no setting: it must be sent to the control port of a running pen, alone",
        ];
        assert_eq!(warnings(&reading), expected);
        assert_eq!((reading.replies, reading.actions), (String::new(), vec![]));
    }

    #[test]
    fn skipped_lines_are_told_beside_faults() {
        let rejected = read(&base(), "pen.cfg", "foo\nblacklist x", no_files).unwrap_err();
        assert_eq!((rejected.faults.len(), rejected.warnings.len()), (1, 1));
        assert_eq!(
            rejected.warnings[0].to_string(),
            "pen.cfg:1: do_cmd: ignoring command starting with 'foo'"
        );
    }

    #[test]
    fn the_same_notice_is_given_once() {
        let reading = read_text("epoll\nepoll\npoll\n").unwrap();
        let expected =
            ["pen.cfg:1: epoll has no effect: epoll is used", "pen.cfg:3: poll has no effect: epoll is used"];
        assert_eq!(warnings(&reading), expected);
    }

    #[test]
    fn questions_are_answered_in_order() {
        let reading = read_text("timeout\nmode\nidle_timeout 9\nlog\nlisten").unwrap();
        let mode = "no hash no roundrobin no stubborn no weight no prio\n";
        assert_eq!(reading.replies, format!("5\n{mode}Idle timeout: 9 seconds\n8001\n"));
    }

    #[test]
    fn the_place_of_a_listener_is_the_last_line_that_says_to_listen_there() {
        let text = "listen 54\nlisten 53\nlisten udp 0.0.0.0:53\nlisten tcp 55\nserver 0 port 53 # listen udp 53\n\
                    listen udp 56\nno listen udp 56\n";
        let reading = read_text(text).unwrap();
        let place = |listen: &str| {
            let Some(Command::Listen(ListenChange::Add(listen))) = command_of(listen) else {
                panic!("{listen}")
            };
            reading.places.of_listener(&listen)
        };
        assert_eq!(place("listen udp 53").as_deref(), Some("pen.cfg:3"));
        assert_eq!(place("listen tcp 53").as_deref(), Some("pen.cfg:2"));
        assert_eq!(place("listen tcp 55").as_deref(), Some("pen.cfg:4"));
        assert_eq!(place("listen udp 56").as_deref(), Some("pen.cfg:6"));
        assert_eq!(place("listen udp 57"), None);
    }

    #[test]
    fn a_listener_that_is_not_there_is_a_fault_of_a_command_and_skipped_in_a_file() {
        let faults = command(&base(), "no listen udp 53").unwrap_err();
        assert_eq!(
            faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["there is no listener udp 53"]
        );
        let reading =
            read_text("listen 8001\nlisten udp 53\nno listen udp 53\nno listen udp 53\nhash").unwrap();
        assert_eq!(warnings(&reading), ["pen.cfg:4: there is no listener udp 53"]);
        assert!(matches!(reading.warnings[0].what, Warning::Skipped(_)));
        assert!(reading.settings.hash && reading.settings.listen == base().listen);
        let last = command(&base(), "no listen tcp 8001").unwrap_err();
        assert_eq!(last, [Fault::Settings(SettingsProblem::NowhereToListen)]);
    }

    #[test]
    fn there_are_so_many_listeners_and_no_more() {
        let lines: String = (1..MAX_LISTENERS).map(|port| format!("listen udp {port}\n")).collect();
        let all = read_text(&format!("{lines}listen udp 3\nlisten tcp 98")).unwrap().settings;
        assert_eq!(all.listen.len(), MAX_LISTENERS);
        assert_eq!(command(&all, "listen udp 99").unwrap_err(), [Fault::TooManyListeners]);
        let faults =
            read_text(&format!("{lines}listen tcp 98\nlisten udp 98\nhash\nlisten udp 99\n")).unwrap_err();
        let reason = "too many listeners; there can be 16";
        assert_eq!(faults, [format!("pen.cfg:17: {reason}"), format!("pen.cfg:19: {reason}")]);
        assert!(command(&all, "listen udp 3").is_ok());
        let one = command(&all, "listen 53").unwrap().settings;
        assert_eq!(one.listen, crate::model::listen::Listen::tcp("53"));
        assert!(read_batch(&all, "f", "no listen udp 3\nlisten udp 99", no_files).is_ok());
    }

    #[test]
    fn the_first_listener_of_a_file_takes_the_place_of_those_before_and_of_a_batch_does_not() {
        let text = "hash\nlisten udp 53\nlisten tcp 53\n";
        let of_file = read_text(text).unwrap().settings;
        assert_eq!(of_file.listen.iter().map(ToString::to_string).collect::<Vec<_>>(), ["udp 53", "tcp 53"]);
        let moved = read(&of_file, "f", "listen udp 5353\nlisten tcp 53\n", no_files).unwrap().settings;
        assert_eq!(moved.listen.iter().map(ToString::to_string).collect::<Vec<_>>(), ["udp 5353", "tcp 53"]);
        assert_eq!(read(&moved, "f", "hash\n", no_files).unwrap().settings.listen, moved.listen);
        let batch = read_batch(&base(), "batch", text, no_files).unwrap().settings;
        assert_eq!(batch.listen.len(), 3);
        assert_eq!(batch.listen[0], base().listen[0]);
    }

    #[test]
    fn the_place_of_a_word_is_the_last_line_with_it() {
        let text =
            "server 0 address www\n# www\nlog \"/a b\"\nserver 1 address \"www\"\nabuse www2:80\nhash\n";
        let reading = read_text(text).unwrap();
        let place = |word| reading.places.of(word);
        assert_eq!(place("www").as_deref(), Some("pen.cfg:4"));
        assert_eq!(place("/a b").as_deref(), Some("pen.cfg:3"));
        assert_eq!(place("www2").as_deref(), Some("pen.cfg:5"));
        assert_eq!(place("www3"), None);
        assert_eq!(command(&base(), "server 0 address www").unwrap().places.of("www"), None);
    }

    #[test]
    fn the_places_of_thousands_of_words_are_found_in_a_long_text_in_no_time() {
        let servers: String =
            (0..4096).map(|number| format!("server {number} address s{number}\n")).collect();
        let reading = read_text(&(servers + &"mode\n".repeat(10_000))).unwrap();
        let start = std::time::Instant::now();
        for number in 0..4096 {
            assert_eq!(reading.places.of(&format!("s{number}")), Some(format!("pen.cfg:{}", number + 1)));
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(3), "{:?}", start.elapsed());
    }

    #[test]
    fn a_text_of_questions_does_not_fill_the_memory_with_answers() {
        let log = format!("log /{}\n", "x".repeat(1022));
        let reading = read_text(&log.repeat(1024)).unwrap();
        assert_eq!(reading.replies.len(), LONGEST_REPLIES);
        let faults = read_text(&(log.repeat(1024) + &"log\n".repeat(100_000))).unwrap_err();
        assert_eq!(
            faults,
            ["pen.cfg:1025: the answers up to here have more than 1048576 bytes; ask less at a time"]
        );
    }

    #[test]
    fn blacklisting_is_left_to_the_caller() {
        let reading = read_text("server 0 blacklist 100\nserver 0 blacklist 0").unwrap();
        let shun = |seconds| Action::Shun(ServerId(0), Seconds(seconds));
        assert_eq!(reading.actions, [shun(100), shun(0)]);
    }

    #[test]
    fn only_servers_that_exist_are_drained() {
        let drains = |text: &str| {
            let servers = read_text(text).unwrap().settings.servers;
            servers.iter().map(|server| server.drain).collect::<Vec<_>>()
        };
        assert_eq!(drains("drain 0"), [Drain::New]);
        assert_eq!(drains("drain 0\nundrain 0"), [Drain::No]);
        assert_eq!(drains("drain 1 all\nserver 1 address b"), [Drain::No, Drain::All]);
        let faults = read_text("undrain 7\nserver 2 max 1\ndrain 2").unwrap_err();
        assert_eq!(faults, ["pen.cfg:1: there is no server 7", "pen.cfg:3: there is no server 2"]);
    }

    #[test]
    fn a_running_pens_tables_only_grow() {
        let text =
            "clients_max 10\nclients_max 3000\nclients_max 2999\nconn_max 10\nconn_max 501\nconn_max 500";
        let reading = read_text(text).unwrap();
        assert_eq!(reading.replies, "2048\n3000\n3000\n500\n501\n501\n");
        assert_eq!((reading.settings.clients_max, reading.settings.conn_max), (3000, 501));
        let reading = command(&base(), "conn_max 499").unwrap();
        assert_eq!((&*reading.replies, reading.settings.conn_max), ("500\n", 500));
    }

    #[test]
    fn at_the_start_tables_have_the_size_that_was_named_last() {
        let mut reader = Reader::new(base(), &no_files);
        reader.command("-O", "conn_max 600");
        reader.file("pen.cfg", "clients_max 10\nconn_max 7\nconn_max");
        assert_eq!(reader.reading.replies, "600\n10\n7\n7\n");
        assert_eq!((reader.reading.settings.clients_max, reader.reading.settings.conn_max), (10, 7));
    }

    #[test]
    fn settings_that_do_not_work_as_a_whole_are_refused() {
        let faults = read_text("listen /run/pen.sock\nserver 3 address b").unwrap_err();
        let expected = "pen.cfg: server 3 (b) needs a port of its own, because pen listens on the Unix socket \
                        /run/pen.sock";
        assert_eq!(faults, [expected]);
    }

    #[test]
    fn weights_that_are_all_zero_are_told_of() {
        let reading = read_text("weight").unwrap();
        assert_eq!(warnings(&reading), ["pen.cfg: all servers have weight 0: they count as equal"]);
        assert_eq!(warnings(&read_text("weight\nserver 0 weight 1").unwrap()), [""; 0]);
    }

    #[test]
    fn reading_the_same_lists_again_changes_nothing() {
        for text in [
            "acl 1 permit 127.0.0.2",
            "acl 1 permit 127.0.0.2\nacl 1 deny 127.0.0.3\nacl 2 deny ::1",
            "acl 1 permit 127.0.0.2\nacl 1 deny 127.0.0.3\nacl 1 permit 127.0.0.2",
            "acl 1 permit 127.0.0.2\nacl 1 permit 127.0.0.2",
            "no acl 1\nacl 1 permit 127.0.0.2\nacl 1 deny 127.0.0.3",
        ] {
            let once = read_text(text).unwrap().settings;
            let twice = read(&once, "pen.cfg", text, no_files).unwrap().settings;
            let thrice = read(&twice, "pen.cfg", text, no_files).unwrap().settings;
            assert_eq!(once.acls, twice.acls, "{text}");
            assert_eq!(once.acls, thrice.acls, "{text}");
        }
    }

    #[test]
    fn a_full_list_can_be_read_again_and_one_that_is_too_long_is_a_mistake() {
        let lines = |count: usize| -> String {
            let line =
                |number: usize| format!("acl 3 deny {}\n", std::net::Ipv4Addr::from_bits(number as u32));
            (0..count).map(line).collect()
        };
        let full = lines(MAX_ENTRIES);
        let once = read_text(&full).unwrap().settings;
        let twice = read(&once, "pen.cfg", &full, no_files).unwrap().settings;
        assert_eq!((twice.acls[3].len(), &twice.acls), (MAX_ENTRIES, &once.acls));
        // Of the last one only so much is kept as says that it is too long.
        for (base, count) in [(&once, 1), (&once, MAX_ENTRIES + 1), (&once, 5 * MAX_ENTRIES)] {
            let more = lines(count) + "acl 3 permit ::1\n";
            let rejected = read(base, "pen.cfg", &more, no_files).unwrap_err();
            let faults: Vec<String> = rejected.faults.iter().map(ToString::to_string).collect();
            assert_eq!(faults.len(), 1);
            assert!(
                faults[0].starts_with("pen.cfg: access list 3 has more than 65536 entries"),
                "{faults:?}"
            );
        }
        assert!(read_command(&once, "control", "acl 3 permit ::1", no_files).is_err());
        assert!(read_command(&once, "control", "acl 4 permit ::1", no_files).is_ok());
    }

    #[test]
    fn new_entries_are_appended_and_no_acl_starts_anew() {
        let addresses = |settings: &Settings| -> Vec<String> {
            settings.acls[1].iter().map(|entry| entry.network.to_string()).collect()
        };
        let first = read_text("acl 1 permit ::1\nacl 1 permit ::2").unwrap().settings;
        let more = read(&first, "f", "acl 1 permit ::1\nacl 1 permit ::3", no_files).unwrap().settings;
        assert_eq!(addresses(&more), ["::1/128", "::2/128", "::1/128", "::3/128"]);
        let anew = read(&more, "f", "no acl 1\nacl 1 permit ::3", no_files).unwrap().settings;
        assert_eq!(addresses(&anew), ["::3/128"]);
    }

    #[test]
    fn files_include_files() {
        let loader = |path: &Path| match path.to_str().unwrap() {
            "one" => Ok("hash\ninclude two\nblacklist x".to_owned()),
            "two" => Ok("stubborn\nfoo".to_owned()),
            _ => Err(io::Error::from_raw_os_error(2)),
        };
        let mut reader = Reader::new(base(), &loader);
        reader.file("pen.cfg", "include one\ninclude three\ninclude two\nprio");
        let settings = &reader.reading.settings;
        assert!(settings.hash && settings.stubborn && settings.prio);
        let faults: Vec<_> = reader.faults.iter().map(At::to_string).collect();
        let expected = [
            r#"one:3: blacklist must be a number from 0 to 2147483647, not "x""#,
            "pen.cfg:2: cannot include three: No such file or directory",
        ];
        assert_eq!(faults, expected);
        assert_eq!(warnings(&reader.reading), ["two:2: do_cmd: ignoring command starting with 'foo'"]);
    }

    #[test]
    fn a_file_that_includes_itself_is_refused() {
        for (text, place) in [("include a", "a:1"), ("\ninclude ./b", "./b:1"), ("include b", "b:1")] {
            let loader = |path: &Path| match path.ends_with("b") {
                true => Ok("include a".to_owned()),
                false => panic!("{} is not to be read", path.display()),
            };
            let faults = read(&base(), "a", text, loader).unwrap_err().faults;
            let message = format!("{place}: a is being read already; a file cannot include itself");
            assert_eq!(faults.iter().map(At::to_string).collect::<Vec<_>>(), [message]);
        }
    }

    #[test]
    fn files_under_ever_new_names_come_to_an_end() {
        let loaded = Cell::new(0);
        let loader = |_: &Path| {
            loaded.set(loaded.get() + 1);
            Ok(format!("include file{}", loaded.get()))
        };
        let faults = read(&base(), "pen.cfg", "include file0", loader).unwrap_err().faults;
        assert!(matches!(faults.as_slice(), [At { what: Fault::TooDeep(_), .. }]));
        assert_eq!(loaded.get(), INCLUDE_DEPTH);
    }

    #[test]
    fn files_that_multiply_come_to_an_end() {
        let loaded = Cell::new(0);
        let loader = |path: &Path| {
            loaded.set(loaded.get() + 1);
            let next = path.to_str().unwrap().parse::<u32>().unwrap() + 1;
            Ok(format!("include {next}\n").repeat(9))
        };
        let faults = read(&base(), "0", "include 1", loader).unwrap_err().faults;
        assert!(faults.iter().any(|fault| matches!(fault.what, Fault::TooMany(_))));
        assert_eq!(loaded.get(), INCLUDED_FILES);
    }

    fn command(base: &Settings, line: &str) -> Result<Reading, Vec<Fault>> {
        let rejected = |rejected: Rejected| rejected.faults.into_iter().map(|fault| fault.what).collect();
        read_command(base, "control", line, no_files).map_err(rejected)
    }

    #[test]
    fn a_command_changes_the_settings_and_is_answered() {
        let reading = command(&base(), "blacklist 7").unwrap();
        assert_eq!(reading.settings, Settings { generation: 8, blacklist: Seconds(7), ..base() });
        assert_eq!((&*reading.replies, reading.warnings), ("7\n", vec![]));
        let reading = command(&base(), "server 0 blacklist 9 max 3").unwrap();
        assert_eq!(reading.settings.servers[0].soft, 3);
        assert_eq!(reading.actions, [Action::Shun(ServerId(0), Seconds(9))]);
        for nothing in ["", "# hash", "timeout", "mode"] {
            assert_eq!(command(&base(), nothing).unwrap().settings, Settings { generation: 8, ..base() });
        }
    }

    #[test]
    fn a_faulty_command_is_told_without_a_place() {
        let reason = |line: &str| {
            let faults = command(&base(), line).unwrap_err();
            faults.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(reason("drain 3"), ["there is no server 3"]);
        assert_eq!(reason("no acl"), ["no acl needs the number of a list"]);
        assert_eq!(reason("server 0 port x y"), ["server 0 y needs a value"]);
        assert!(reason("acl 1 permit country SE")[0].starts_with("access list 1 has a country in it"));
    }

    #[test]
    fn what_a_file_would_skip_is_a_fault_of_a_command() {
        let fault = |line: &str| match command(&base(), line).unwrap_err().as_slice() {
            [Fault::Command(error)] => error.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(fault("foo bar"), CommandError::Unknown("foo".into()));
        assert_eq!(fault("no foo"), CommandError::Unknown("no foo".into()));
        assert_eq!(fault("tcp_fastclose"), CommandError::FastCloseAlone);
        let loader = |_: &Path| Ok("foo\nno foo\nhash".to_owned());
        let reading = read_command(&base(), "control", "include x", loader).unwrap();
        assert_eq!((reading.settings.hash, reading.warnings.len()), (true, 2));
    }

    #[test]
    fn files_that_a_command_includes_do_not_double_lists() {
        let loader = |_: &Path| Ok("acl 1 permit ::1\nacl 1 deny ::2".to_owned());
        let include = |base: &Settings| read_command(base, "control", "include x", loader).unwrap().settings;
        let once = include(&base());
        assert_eq!(once.acls[1].len(), 2);
        assert_eq!(include(&once).acls, once.acls);
        assert_eq!(command(&once, "acl 1 deny ::2").unwrap().settings.acls, once.acls);
        assert_eq!(command(&once, "acl 1 permit ::1").unwrap().settings.acls[1].len(), 3);
    }

    #[test]
    fn missing_weights_are_told_of_once() {
        let reading = command(&base(), "weight").unwrap();
        assert_eq!(warnings(&reading), ["control: all servers have weight 0: they count as equal"]);
        assert_eq!(warnings(&command(&reading.settings, "hash").unwrap()), [""; 0]);
    }

    #[test]
    fn a_command_has_no_line() {
        let mut reader = Reader::new(base(), &no_files);
        reader.command("-O", "blacklist x");
        reader.command("-O", "blacklist 3");
        assert_eq!(
            reader.faults[0].to_string(),
            r#"-O: blacklist must be a number from 0 to 2147483647, not "x""#
        );
        assert_eq!(reader.reading.replies, "3\n");
    }

    /// What a list says of a client: the first entry that matches, or the opposite of the last.
    fn verdict(list: &[AclEntry], client: u8) -> bool {
        let matches = |entry: &&AclEntry| match &entry.network {
            Network::V4(address, _) => address.octets()[3] == client,
            Network::V6(..) | Network::Country(_) => false,
        };
        let otherwise = list.last().is_none_or(|last| !last.permit);
        list.iter().find(matches).map_or(otherwise, |entry| entry.permit)
    }

    proptest! {
        #[test]
        fn leaving_repetitions_out_changes_no_verdict(
            before in prop::collection::vec((any::<bool>(), 0..3_u8), 0..6),
            appended in prop::collection::vec((any::<bool>(), 0..3_u8), 0..4),
        ) {
            let entry = |&(permit, last): &(bool, u8)| AclEntry {
                permit,
                network: Network::V4([10, 0, 0, last].into(), [255; 4].into()),
            };
            let before: Vec<_> = before.iter().map(entry).collect();
            let mut all = before.clone();
            all.extend(appended.iter().map(entry));
            let mut list = all.clone();
            drop_repetition(&mut list, &before);
            for client in 0..4 {
                prop_assert_eq!(verdict(&list, client), verdict(&all, client));
            }
        }
    }
}
