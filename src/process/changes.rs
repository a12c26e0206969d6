//! Changes of the settings while pen runs: the configuration file read again, a command, a batch of commands.
//!
//! All or nothing: with any mistake, a listener that cannot be opened, a table that cannot grow, the old settings stay
//! as they are, every one. Names take time, so a change has two halves: its text is read at once, the new settings come
//! into force when the resolver has answered. The master serves in between; changes that are asked for meanwhile wait
//! for their turn, because each builds on the one before. Whoever asked is answered when every worker uses the new
//! settings.
//!
//! `check` and `diff` go the same way and stop before anything is changed.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::model::address::{Host, SocketAddress};
use crate::model::apply::Action;
use crate::model::command::{Command, CommandError};
use crate::model::config::{self, At, Fault, Reading, Rejected, Warning};
use crate::model::ids::{Target, WorkerId};
use crate::model::render::{self, Difference, Subject};
use crate::model::reply;
use crate::model::settings::{LogDestination, Settings};
use crate::model::time::Moment;
use crate::net::channel::Change as Replacement;
use crate::net::control::SessionId;
use crate::policy::acl::AccessLists;
use crate::process::listening::{ListenError, Listener};
use crate::process::lookups::{NAMES_TIME, unresolved_line};
use crate::process::master::{Master, MasterState};
use crate::process::names::{NameError, Question, ResolvedServers, questions};
use crate::process::owned_path::OwnedPath;
use crate::process::startup::{unwritable_page, worker_count};
use crate::process::supervisor::{Complete, Dispatch};
use crate::report::log::{self, LogError, Sink};
use crate::shared::region::{Geometry, RegionError};
use crate::sys::geoip::Database;
use crate::sys::reason::words;
use crate::sys::{clock, privileges, textfile};

/// What the text of the control port is called in messages.
const CONTROL: &str = "control";

/// So many mistakes or warnings are told: a batch can have one in each of half a million lines.
const MOST_TOLD: usize = 100;

/// How long the master goes on with one change after the other before it looks after everything else, in microseconds.
const TURN: u64 = 20_000;

/// When a change is tried again that could not be made because a worker held the lock, in microseconds.
const RETRY: u64 = 10_000;

/// Why somebody may not name a file.
pub(super) const ONLY_LOCAL: &str =
    "files can be named only over a Unix socket or from this machine's loopback addresses";

/// The changes that are asked for and not made yet.
#[derive(Debug, Default)]
pub(super) struct Changes {
    waiting: VecDeque<Wish>,
    /// Read, and waiting for names.
    current: Option<Change>,
    /// The current one has to be tried again.
    again: bool,
}

/// Something that somebody wants to be changed, or to know about a change.
#[derive(Debug)]
pub(super) struct Wish {
    /// Who is told what came of it.
    pub(super) asker: Asker,
    pub(super) text: Text,
    pub(super) purpose: Purpose,
}

/// Who wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Whoever sent HUP: reads the messages.
    Signal,
    /// Somebody at the control port. `local`: on this machine, so that he may name files.
    Session { id: SessionId, local: bool },
}

/// Where the commands are.
#[derive(Debug, Clone)]
pub(super) enum Text {
    /// In this file.
    File(PathBuf),
    /// It is this one.
    Command(String),
    /// They are these lines.
    Batch(String),
}

/// How far it is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The settings are changed.
    Change,
    /// It is said whether they could be.
    Check,
    /// It is said what would be different.
    Diff,
}

/// New settings that wait for names.
#[derive(Debug)]
struct Change {
    wish: Wish,
    reading: Reading,
    names: BTreeSet<Question>,
    until: Moment,
    /// Opened by a try that failed for the moment: who came to the new listener since is not sent away.
    resources: Option<NewResources>,
}

/// What came of it, in the words for a session.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    reply: String,
    /// The workers have been told in this order.
    order: Option<u64>,
}

impl Answer {
    fn now(reply: String) -> Self {
        Answer { reply, order: None }
    }
}

/// Why new settings do not come into force.
enum Refusal {
    /// A worker holds the lock of the shared tables: tried again until it is killed.
    Later,
    Never(Vec<Obstacle>),
}

/// Something that is wrong although each command is right.
struct Obstacle {
    /// The word of the settings that it is about; empty if there is none.
    word: String,
    reason: String,
}

impl From<RegionError> for Refusal {
    fn from(error: RegionError) -> Self {
        match error {
            RegionError::Busy(_) => Refusal::Later,
            other => Refusal::of("", other),
        }
    }
}

impl Refusal {
    fn of(word: impl ToString, reason: impl ToString) -> Self {
        Refusal::Never(vec![Obstacle { word: word.to_string(), reason: reason.to_string() }])
    }
}

/// What new settings need beside themselves, opened before anything is changed. Dropped, it leaves nothing behind.
#[derive(Debug)]
struct NewResources {
    servers: ResolvedServers,
    listener: Option<Listener>,
    log: Option<Option<NewLog>>,
    countries: Option<Option<Database>>,
    workers: u32,
}

/// A log that is not in use yet. If its file was made for it, that goes with it.
#[derive(Debug)]
struct NewLog {
    sink: Sink,
    made: Option<OwnedPath>,
}

impl NewLog {
    fn open(destination: &LogDestination) -> Result<Self, LogError> {
        let missing = match destination {
            LogDestination::File(path) if !path.exists() => Some(path),
            LogDestination::File(_) | LogDestination::Network(..) => None,
        };
        let sink = log::open(destination)?;
        // A link to it was there before.
        let made = missing.and_then(|path| fs::canonicalize(path).and_then(|path| OwnedPath::of(&path)).ok());
        Ok(NewLog { sink, made })
    }

    /// It is in use.
    fn keep(mut self) -> Sink {
        self.made.iter_mut().for_each(OwnedPath::disown);
        self.sink
    }
}

impl Text {
    /// As messages call it.
    fn name(&self) -> String {
        match self {
            Text::File(path) => path.display().to_string(),
            Text::Command(_) | Text::Batch(_) => CONTROL.to_string(),
        }
    }
}

impl Change {
    /// The line about something that is wrong: with its place, if the text has lines.
    fn name(&self, obstacle: &Obstacle) -> String {
        let Obstacle { word, reason } = obstacle;
        let place = Some(word).filter(|word| !word.is_empty()).and_then(|word| self.reading.place_of(word));
        match (place, &self.wish.text) {
            (Some(place), _) => format!("{place}: {reason}"),
            (None, Text::Command(_)) => reason.clone(),
            (None, text) => format!("{}: {reason}", text.name()),
        }
    }
}

impl Changes {
    /// When there is something to do about them at the latest, beside names that come to be known.
    pub(super) fn next_try(&self, now: Moment) -> Option<Moment> {
        match &self.current {
            Some(_) => self.again.then(|| now.plus_micros(RETRY)),
            None => (!self.waiting.is_empty()).then_some(now),
        }
    }

    /// Does one wait for names?
    pub(super) fn wait_for_names(&self) -> bool {
        self.current.as_ref().is_some_and(|change| !change.names.is_empty())
    }

    /// Nothing is changed any more. Those who wait for an answer.
    pub(super) fn abandon(&mut self) -> Vec<SessionId> {
        self.again = false;
        let wishes = self.current.take().map(|change| change.wish).into_iter().chain(self.waiting.drain(..));
        let sessions = wishes.filter_map(|wish| match wish.asker {
            Asker::Session { id, .. } => Some(id),
            Asker::Signal => None,
        });
        sessions.collect()
    }
}

impl Master<'_> {
    /// HUP: the configuration file is read again, if there is one.
    pub(super) fn wish_reload(&mut self) {
        let Some(path) = &self.state.launch.config else { return };
        // One that has not begun yet will see the file as it is now.
        let waits = |wish: &Wish| wish.asker == Asker::Signal;
        if !self.changes.waiting.iter().any(waits) {
            let text = Text::File(path.clone());
            self.wish(Wish { asker: Asker::Signal, text, purpose: Purpose::Change });
        }
    }

    /// It will be its turn.
    pub(super) fn wish(&mut self, wish: Wish) {
        self.changes.waiting.push_back(wish);
    }

    /// The answer to a command that only asks. It need not wait for changes.
    pub(super) fn answer_question(&self, command: Command) -> String {
        self.state.settings.clone().apply(command).reply
    }

    /// Goes on with the changes as far as names are known, but not for long: there are workers to be looked after.
    pub(super) fn advance_changes(&mut self, now: Moment) {
        while self.advance_change(now) && clock::now().micros_since(now) < TURN {}
    }

    /// Goes on with the first one. False if it is not done yet, or there is none.
    fn advance_change(&mut self, now: Moment) -> bool {
        if self.changes.current.is_none() {
            let Some(wish) = self.changes.waiting.pop_front() else { return false };
            match self.begin(wish, now) {
                Ok(change) => self.changes.current = Some(change),
                Err(asker_and_answer) => {
                    let (asker, answer) = *asker_and_answer;
                    self.answer(asker, answer, now);
                    return true;
                }
            }
        }
        let Some(mut change) = self.changes.current.take_if(|change| {
            let owed = |name| {
                self.lookups.is_owed(name)
                    || self.state.resolver.as_ref().is_some_and(|resolver| resolver.is_pending(name))
            };
            change.until <= now || !change.names.iter().any(owed)
        }) else {
            return false;
        };
        let asker = change.wish.asker;
        self.changes.again = false;
        let answer = match self.conclude(&mut change, now) {
            Ok(answer) => answer,
            Err(Refusal::Later) => {
                self.changes.current = Some(change);
                self.changes.again = true;
                return false;
            }
            Err(Refusal::Never(obstacles)) => {
                let problems: Vec<String> = obstacles.iter().map(|it| change.name(it)).collect();
                self.refuse(&change.wish, &problems, &change.reading.warnings)
            }
        };
        self.answer(asker, answer, now);
        self.forget_names();
        true
    }

    /// Asks for these. Names that are asked for now and then anyway make way: each may take half a minute.
    fn ask_first(&mut self, names: &BTreeSet<Question>) {
        if names.is_empty() {
            return;
        }
        if let Some(resolver) = &mut self.state.resolver {
            resolver.keep_only(names);
        }
        self.lookups.keep_only(names);
        self.lookups.want(names.iter().cloned());
    }

    /// What only the last change wanted to know is not waited for any more, by the changes behind it least of all.
    fn forget_names(&mut self) {
        let needed = questions(&self.state.settings);
        self.state.names.keep_only(&needed);
        self.lookups.keep_only(&needed);
        if let Some(resolver) = &mut self.state.resolver {
            resolver.keep_only(&needed);
        }
    }

    fn answer(&mut self, asker: Asker, answer: Answer, now: Moment) {
        match (asker, answer.order) {
            (Asker::Signal, _) => {}
            (Asker::Session { id, .. }, None) => self.reply(id, answer.reply, now),
            (Asker::Session { id, .. }, Some(order)) => self.reply_after(id, answer.reply, None, order),
        }
    }

    /// Reads the text, and asks for the names in it.
    fn begin(&mut self, wish: Wish, now: Moment) -> Result<Change, Box<(Asker, Answer)>> {
        let local = match wish.asker {
            Asker::Session { local, .. } => local,
            Asker::Signal => true,
        };
        match self.read_text(&wish.text, local) {
            Ok(reading) => {
                let mut names = questions(&reading.settings);
                // What is in the settings already is asked for again only when the file is read, for that, too.
                if matches!(wish.text, Text::Command(_) | Text::Batch(_)) {
                    names = &names - &questions(&self.state.settings);
                }
                self.ask_first(&names);
                Ok(Change { wish, reading, names, until: now.plus(NAMES_TIME), resources: None })
            }
            Err(failure) => {
                let answer = match failure {
                    Unread::Line(reply) => Answer::now(reply),
                    Unread::Text(problems, warnings) => self.refuse(&wish, &problems, &warnings),
                };
                Err(Box::new((wish.asker, answer)))
            }
        }
    }

    /// New settings on top of those in force.
    fn read_text(&self, text: &Text, local: bool) -> Result<Reading, Unread> {
        let settings = &self.state.settings;
        // Who has the usual file read again names none: what it includes goes with it.
        let load = |path: &Path| match local || matches!(text, Text::File(_)) {
            true => textfile::read_regular(path).and_then(config::decode),
            false => Err(io::Error::new(io::ErrorKind::PermissionDenied, ONLY_LOCAL)),
        };
        let reading = match text {
            Text::File(path) => {
                let text = textfile::read_regular(path).and_then(config::decode).map_err(|error| {
                    let place = if self.state.launch.jail.is_some() { " in the jail" } else { "" };
                    let problem = format!("cannot read {}{place}: {}", path.display(), words(&error));
                    Unread::Text(vec![problem], Vec::new())
                })?;
                config::read(settings, &path.display().to_string(), &text, load).map_err(Unread::from)?
            }
            Text::Batch(text) => match config::read(settings, CONTROL, text, load) {
                Ok(reading) => match mistakes_in_batch(&reading.warnings) {
                    (mistakes, _) if mistakes.is_empty() => reading,
                    (mistakes, others) => return Err(Unread::Text(mistakes, others)),
                },
                Err(Rejected { faults, warnings }) => {
                    let (mistakes, others) = mistakes_in_batch(&warnings);
                    let faults = faults.iter().map(ToString::to_string);
                    return Err(Unread::Text(faults.chain(mistakes).collect(), others));
                }
            },
            Text::Command(line) => {
                config::read_command(settings, CONTROL, line, load).map_err(|rejected| {
                    // Its answer is empty.
                    for fault in rejected.faults.iter().filter(|fault| is_unknown_no(&fault.what)) {
                        self.state.messages.note(format_args!("{CONTROL}: {}", fault.what));
                    }
                    Unread::of_line(rejected)
                })?
            }
        };
        if !local
            && !matches!(text, Text::File(_))
            && let Some(what) = names_a_file(settings, &reading.settings)
        {
            return Err(Unread::Line(reply::error(format_args!("{what}: {ONLY_LOCAL}"))));
        }
        Ok(reading)
    }

    /// The answer to a wish that cannot be fulfilled. What is wrong with a file is also told in the messages.
    fn refuse(&self, wish: &Wish, problems: &[String], warnings: &[At<Warning>]) -> Answer {
        let messages = &self.state.messages;
        let name = wish.text.name();
        if wish.purpose == Purpose::Change && !matches!(wish.text, Text::Command(_)) {
            first(warnings).for_each(|warning| messages.note(format_args!("{warning}")));
            first(problems).for_each(|problem| messages.error(format_args!("{problem}")));
            messages.error(format_args!("{name}: nothing is changed"));
        }
        let errors = first(problems).map(reply::error);
        Answer::now(errors.chain(first(warnings).map(warning_line)).collect())
    }

    /// All names are known, or will not be: the wish is fulfilled.
    fn conclude(&mut self, change: &mut Change, now: Moment) -> Result<Answer, Refusal> {
        let warnings = |change: &Change| -> Vec<String> {
            let page = unwritable_page(&change.reading.settings).map(|line| format!("warning: {line}\n"));
            first(&change.reading.warnings).map(warning_line).chain(page).collect()
        };
        match change.wish.purpose {
            Purpose::Check => {
                self.examine(change)?;
                Ok(Answer::now(["ok\n".to_string()].into_iter().chain(warnings(change)).collect()))
            }
            Purpose::Diff => {
                self.examine(change)?;
                Ok(Answer::now(self.differences(change)))
            }
            Purpose::Change if self.is_what_is_in_force(change) => {
                for warning in first(&change.reading.warnings) {
                    self.state.messages.note(format_args!("{warning}"));
                }
                // Workers may still be about to take over what is in force.
                Ok(Answer { reply: change.reading.replies.clone(), order: Some(self.settings_order) })
            }
            Purpose::Change => {
                let resources = match change.resources.take() {
                    Some(kept) => kept,
                    // It stops at the first obstacle; all of them are to be named.
                    None => {
                        self.prepare(change).map_err(|first| self.examine(change).err().unwrap_or(first))?
                    }
                };
                if let Err(refusal) = self.publish(&change.reading.settings, &resources.servers) {
                    change.resources = Some(resources);
                    return Err(refusal);
                }
                let order = self.commit(change, resources, now);
                let reply = match &change.wish.text {
                    Text::File(_) => ["ok\n".to_string()].into_iter().chain(warnings(change)).collect(),
                    Text::Command(_) | Text::Batch(_) => change.reading.replies.clone(),
                };
                Ok(Answer { reply, order: Some(order) })
            }
        }
    }

    /// Is there nothing to do? A file is read again for what is behind the names in it, too.
    fn is_what_is_in_force(&self, change: &Change) -> bool {
        let settings = &change.reading.settings;
        let same = Settings { generation: settings.generation, ..self.state.settings.clone() };
        *settings == same && change.reading.actions.is_empty() && !matches!(change.wish.text, Text::File(_))
    }

    /// The servers with their addresses, and where to listen.
    fn resolve(&self, change: &Change) -> Result<(ResolvedServers, SocketAddress), Refusal> {
        let settings = &change.reading.settings;
        let MasterState { names, listener, .. } = &self.state;
        let Some(listener) = listener else {
            return Err(Refusal::of("", "pen does not listen any more"));
        };
        let address = match &settings.listen {
            Some(spec) => names.listen_address(spec).map_err(|error| Refusal::of(error.word(), error))?,
            None => listener.address().clone(),
        };
        let obstacle = |error: &NameError| Obstacle { word: error.word(), reason: error.to_string() };
        let servers = names
            .resolve_servers(settings, &address, self.control_address())
            .map_err(|errors| Refusal::Never(errors.iter().map(obstacle).collect()))?;
        // A name that is new and means nothing is a mistake; one that was there before comes and goes with its
        // name server.
        let before = questions(&self.state.settings);
        let new = servers.unresolved.iter().filter(|(name, _)| !before.contains(&host(name)));
        let unknown: Vec<Obstacle> = new
            .map(|(name, reason)| Obstacle {
                word: name.clone(),
                reason: format!("unknown or invalid address [{name}]: {reason}"),
            })
            .collect();
        if !unknown.is_empty() {
            return Err(Refusal::Never(unknown));
        }
        // To take the last server out of use is a command like any other.
        if matches!(change.wish.text, Text::File(_)) && !servers.is_usable() && !settings.dummy {
            return Err(Refusal::of("", servers.why_unusable()));
        }
        Ok((servers, address))
    }

    /// Why the new address cannot be listened at. What is in the way may be the old one.
    fn not_listening(&self, settings: &Settings, error: &ListenError) -> Refusal {
        let reason = match (error, self.state.listener.as_ref().map(Listener::address)) {
            (
                ListenError::Refused { address: SocketAddress::Inet(new), reason },
                Some(SocketAddress::Inet(old)),
            ) if reason.kind() == io::ErrorKind::AddrInUse
                && new.port() == old.port()
                && (new.ip().is_unspecified() || old.ip().is_unspecified()) =>
            {
                format!(
                    "cannot listen on {new} beside {old}; listen on another port first, or start pen again"
                )
            }
            _ => error.to_string(),
        };
        Refusal::of(listen_word(settings), reason)
    }

    /// Where the log is to go, if it is to be opened: elsewhere, or again, because a reload does that.
    fn new_log(&self, change: &Change) -> Result<Option<Option<LogDestination>>, Refusal> {
        let Some(new) = &change.reading.settings.log else {
            return Ok(self.state.settings.log.is_some().then_some(None));
        };
        // Whoever sent HUP has been told already if that failed.
        let again = matches!(new, LogDestination::File(_))
            && matches!(change.wish.text, Text::File(_))
            && change.wish.asker != Asker::Signal;
        if Some(new) == self.state.settings.log.as_ref() && !again {
            return Ok(None);
        }
        // Opening it must ask nobody: that could take long.
        let destination = self.state.names.log_destination(new);
        match &destination {
            LogDestination::Network(host, _) if host.parse::<IpAddr>().is_err() => Err(Refusal::of(
                new,
                format!("cannot open the log {new}: the address of {host} is not known"),
            )),
            LogDestination::Network(..) | LogDestination::File(_) => Ok(Some(Some(destination))),
        }
    }

    /// The database of countries, if it is to be another, or its file is to be read again.
    fn new_countries(&self, change: &Change) -> Result<Option<Option<Database>>, Refusal> {
        let settings = &change.reading.settings;
        match &settings.geoip {
            None => Ok(self.state.countries.is_some().then_some(None)),
            same if *same == self.state.settings.geoip && !matches!(change.wish.text, Text::File(_)) => {
                Ok(None)
            }
            Some(path) => {
                let database = Database::load(path);
                Ok(Some(Some(database.map_err(|error| Refusal::of(path.display(), error))?)))
            }
        }
    }

    /// Opens what the new settings need; changes nothing.
    fn prepare(&self, change: &Change) -> Result<NewResources, Refusal> {
        let settings = &change.reading.settings;
        let (servers, address) = self.resolve(change)?;
        let countries = self.new_countries(change)?;
        let log = match self.new_log(change)? {
            Some(Some(destination)) => {
                let log = NewLog::open(&destination);
                let word = settings.log.as_ref().map(ToString::to_string).unwrap_or_default();
                Some(Some(log.map_err(|error| Refusal::of(word, error))?))
            }
            Some(None) => Some(None),
            None => None,
        };
        let listener = match self.state.listener.as_ref().is_some_and(|it| *it.address() == address) {
            true => None,
            false => {
                let listener = Listener::open(address, settings.listen_queue);
                Some(listener.map_err(|error| self.not_listening(settings, &error))?)
            }
        };
        let workers = match settings.workers == self.state.settings.workers {
            true => self.state.workers,
            false => worker_count(settings),
        };
        Ok(NewResources { servers, listener, log, countries, workers })
    }

    /// What [`Master::prepare`] would complain of, without opening anything that somebody could notice.
    fn examine(&self, change: &Change) -> Result<(), Refusal> {
        let settings = &change.reading.settings;
        let mut problems = Vec::new();
        let mut note = |result: Result<(), Refusal>| match result {
            Err(Refusal::Never(more)) => problems.extend(more),
            Ok(()) | Err(Refusal::Later) => {}
        };
        match self.resolve(change) {
            Ok((_, address)) if self.state.listener.as_ref().is_some_and(|it| *it.address() == address) => {}
            Ok((_, address)) => {
                note(Listener::check_free(address).map_err(|error| self.not_listening(settings, &error)));
            }
            Err(refusal) => note(Err(refusal)),
        }
        note(self.new_countries(change).map(drop));
        note(self.new_log(change).and_then(|log| match log {
            Some(Some(LogDestination::File(path))) => {
                log::check(&path).map_err(|error| Refusal::of(path.display(), error))
            }
            Some(Some(LogDestination::Network(..)) | None) | None => Ok(()),
        }));
        if problems.is_empty() { Ok(()) } else { Err(Refusal::Never(problems)) }
    }

    /// Changes the shared tables: the last that can fail.
    fn publish(&self, settings: &Settings, servers: &ResolvedServers) -> Result<(), Refusal> {
        let region = self.state.region;
        region.grow(Geometry { clients: settings.clients_max, connections: settings.conn_max })?;
        let ResolvedServers { servers, emergency, abuse, .. } = servers;
        let published = region.servers().publish(servers, emergency.as_ref(), abuse.as_ref());
        published.map_err(|_| Refusal::Later)
    }

    /// Changes everything else. The number of the order to the workers.
    fn commit(&mut self, change: &Change, resources: NewResources, now: Moment) -> u64 {
        let NewResources { servers, listener, log, countries, workers } = resources;
        let reading = &change.reading;
        // A command is told as it came, and a file is still there.
        let told =
            if matches!(change.wish.text, Text::Batch(_)) { self.differences(change) } else { String::new() };
        let state = &mut self.state;
        let generation = state.settings.generation + 1;
        let old_queue = state.settings.listen_queue;
        let old_conn_max = state.settings.conn_max;
        let page_is_new = state.settings.web_stats != reading.settings.web_stats;
        let lists = state.settings.acls != reading.settings.acls;
        state.settings = Settings { generation, ..reading.settings.clone() };
        state.messages.set_debug(state.settings.debug);
        if lists {
            state.lists = AccessLists::compile(&state.settings.acls);
        }
        let news =
            News { lists, log: log.is_some(), countries: countries.is_some(), listener: listener.is_some() };
        if let Some(log) = log {
            state.log = log.map(NewLog::keep);
        }
        if let Some(countries) = countries {
            state.countries = countries;
        }
        if listener.is_some() {
            state.listener = listener;
        } else if let Some(listener) = &state.listener
            && old_queue != state.settings.listen_queue
            && let Err(error) = listener.set_backlog(state.settings.listen_queue)
        {
            state.messages.error(format_args!("cannot change the queue of the listener: {}", words(&error)));
        }
        for action in &reading.actions {
            match action {
                Action::Shun(server, length) => {
                    let blacklist = state.settings.blacklist;
                    state.region.servers().shun_for(Target::Server(*server), *length, blacklist, now);
                }
                // Whoever read the commands has read the file, and passed operations on.
                Action::Include(_) | Action::Operate(_) => {}
            }
        }
        state.workers = workers;
        // Before the settings are sent: who has them has been told to retire as well.
        self.supervisor.resize(workers, now);
        self.state.region.workers().set_count(self.supervisor.places());
        self.raise_limits(old_conn_max);
        let name = change.wish.text.name();
        for warning in first(&reading.warnings) {
            self.state.messages.note(format_args!("{warning}"));
        }
        let all_names = questions(&self.state.settings);
        for (name, reason) in servers.unresolved.iter().filter(|(name, _)| change.names.contains(&host(name)))
        {
            self.state.messages.error(format_args!("{}", unresolved_line(name, reason)));
        }
        let names = &self.state.names;
        let unknown = all_names.into_iter().filter(|name| !names.knows(name)).collect();
        self.lookups.renew(unknown, now);
        let order = self.send_settings(news);
        // As at a start, it may be so when the page is written.
        if let Some(line) = unwritable_page(&reading.settings)
            && (page_is_new || matches!(change.wish.text, Text::File(_)))
        {
            self.state.messages.error(format_args!("{line}"));
        }
        for line in told.lines() {
            self.state.messages.note(format_args!("{name}: {line}"));
        }
        let what = match &change.wish.text {
            Text::Command(line) => format!("{name}: {}", line.trim()),
            Text::File(_) | Text::Batch(_) => name,
        };
        self.state.messages.note(format_args!("{what}: in force now (generation {generation})"));
        order
    }

    /// More connections may need more descriptors, in every process.
    fn raise_limits(&mut self, old_conn_max: u32) {
        let conn_max = self.state.settings.conn_max;
        match self.state.descriptors.raise(conn_max) {
            Ok(false) => {}
            Ok(true) => {
                let granted = self.state.descriptors.limit();
                for pid in self.supervisor.pids() {
                    // One that has ended needs none.
                    let _ = privileges::raise_descriptor_limit(Some(pid), granted);
                }
            }
            Err(error) => self
                .state
                .messages
                .error(format_args!("cannot learn the limit of descriptors: {}", words(&error))),
        }
        if conn_max > old_conn_max
            && let Some(line) = self.state.descriptors.shortage(conn_max)
        {
            self.state.messages.error(format_args!("{line}"));
        }
    }

    /// What would be different, a command a line: with `-` those in force, with `+` those to come, and behind `#` the
    /// connections that it is about.
    fn differences(&self, change: &Change) -> String {
        let (before, after) = (&self.state.settings, &change.reading.settings);
        let mut text = String::new();
        for difference in render::differences(before, after) {
            let touched = self.touched(&difference, before, after);
            let lines = difference.before.iter().map(|line| ('-', line));
            let lines: Vec<_> = lines.chain(difference.after.iter().map(|line| ('+', line))).collect();
            let last = lines.len() - 1;
            for (number, (sign, line)) in lines.into_iter().enumerate() {
                let remark = if number == last { touched.as_str() } else { "" };
                text += &format!("{sign} {line}{remark}\n");
            }
        }
        for action in &change.reading.actions {
            if let Action::Shun(server, length) = action {
                let live = self.state.region.ledger().load(Target::Server(*server));
                text += &format!("+ server {server} blacklist {length}{}\n", remark(live, " stay"));
            }
        }
        text
    }

    /// The remark about connections, if a difference touches some.
    fn touched(&self, difference: &Difference, before: &Settings, after: &Settings) -> String {
        let region = self.state.region;
        let open = region.workers().connections();
        let (touched, how) = match difference.what {
            Subject::Server(target) => {
                let place = |settings: &Settings| {
                    let spec = settings.targets().find(|(it, _)| *it == target);
                    spec.map(|(_, spec)| (spec.host.clone(), spec.port.clone()))
                };
                let moves = place(before) != place(after);
                (region.ledger().load(target), if moves { " stay where they are until they end" } else { "" })
            }
            Subject::Listener => (open, " stay"),
            Subject::IdleTimeout => (open, ", measured by it at once"),
            Subject::Workers => {
                let (now, then) = (self.state.workers, worker_count(after));
                let views = (then..now.max(then)).map(|worker| region.workers().view(WorkerId(worker)));
                (views.map(|view| view.connections).sum(), " of workers that go stay until they end")
            }
            Subject::List(_) | Subject::Other(_) => (0, ""),
        };
        remark(touched, how)
    }
}

/// What was opened anew with the settings.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct News {
    pub(super) lists: bool,
    pub(super) log: bool,
    pub(super) countries: bool,
    pub(super) listener: bool,
}

impl Master<'_> {
    /// Gives the workers the settings in force, and what belongs to them. The number of the order.
    pub(super) fn send_settings(&mut self, news: News) -> u64 {
        let complete = complete(&self.state);
        let change = |new: bool, log| if new { Replacement::Replace(log) } else { Replacement::Keep };
        let countries = match news.countries {
            true => Replacement::Replace(complete.countries),
            false => Replacement::Keep,
        };
        self.settings_order = self.supervisor.send_settings(&Dispatch {
            settings: &self.state.settings,
            lists: news.lists,
            log: change(news.log, complete.log),
            countries,
            listener: complete.listener.filter(|_| news.listener),
            complete,
        });
        self.settings_order
    }
}

/// All that goes with the settings in force.
pub(super) fn complete<'a>(state: &'a MasterState<'_>) -> Complete<'a> {
    Complete {
        log: state.log.as_ref(),
        countries: state.countries.as_ref().map(AsFd::as_fd),
        listener: state.listener.as_ref().map(AsFd::as_fd),
    }
}

/// Why a text does not become settings.
enum Unread {
    /// In words for the one who sent this one line.
    Line(String),
    /// All that is wrong, and what was skipped.
    Text(Vec<String>, Vec<At<Warning>>),
}

impl From<Rejected> for Unread {
    fn from(rejected: Rejected) -> Self {
        Unread::Text(rejected.faults.iter().map(ToString::to_string).collect(), rejected.warnings)
    }
}

impl Unread {
    /// A single line needs no place, and keeps the classic's words where those are known.
    fn of_line(rejected: Rejected) -> Self {
        let told = |fault: &At<Fault>| match &fault.what {
            // The classic has no word for it.
            what if is_unknown_no(what) => String::new(),
            Fault::Command(why) if fault.line.is_none() => reply::refused(why),
            what if fault.line.is_none() => reply::error(what),
            _ => reply::error(fault),
        };
        Unread::Line(rejected.faults.iter().map(told).collect())
    }
}

/// A file goes on without a line that means nothing, as ever; who sends a batch waits, and can mend it. What is wrong
/// with it, and the other warnings.
fn mistakes_in_batch(warnings: &[At<Warning>]) -> (Vec<String>, Vec<At<Warning>>) {
    let (mut mistakes, mut others) = (Vec::new(), Vec::new());
    for warning in warnings {
        match &warning.what {
            Warning::Skipped(_) => mistakes.push(warning.to_string()),
            Warning::Misplaced(word) => {
                let what = format!("{word} cannot be in a batch; send it by itself");
                mistakes.push(At { file: warning.file.clone(), line: warning.line, what }.to_string());
            }
            Warning::Notice(_) | Warning::Weightless => others.push(warning.clone()),
        }
    }
    (mistakes, others)
}

fn is_unknown_no(fault: &Fault) -> bool {
    matches!(fault, Fault::Command(CommandError::Unknown(words)) if words.starts_with("no "))
}

/// The command by which `after` names a file, or a Unix socket, that `before` does not.
fn names_a_file(before: &Settings, after: &Settings) -> Option<&'static str> {
    let new_log = matches!(&after.log, Some(LogDestination::File(_))) && before.log != after.log;
    let new_page = after.web_stats.is_some() && before.web_stats != after.web_stats;
    let new_countries = after.geoip.is_some() && before.geoip != after.geoip;
    let listens_on_path = after.listen.as_ref().is_some_and(|spec| spec.path().is_some());
    let new_listener = listens_on_path && before.listen != after.listen;
    let known = paths_of_servers(before);
    let new_server = paths_of_servers(after).difference(&known).next().is_some();
    [
        ("log", new_log),
        ("web_stats", new_page),
        ("geoip", new_countries),
        ("listen", new_listener),
        ("server", new_server),
    ]
    .into_iter()
    .find_map(|(command, named)| named.then_some(command))
}

/// The Unix sockets that connections are made to.
fn paths_of_servers(settings: &Settings) -> BTreeSet<&Path> {
    let hosts = settings.targets().filter_map(|(_, spec)| spec.host.as_ref());
    hosts
        .filter_map(|host| match host {
            Host::Path(path) => Some(path.as_path()),
            Host::Ip(_) | Host::Name(_) => None,
        })
        .collect()
}

fn listen_word(settings: &Settings) -> String {
    settings.listen.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// As many of them as somebody may want to read, each in a line, and how many more there are.
fn first<T: ToString>(all: &[T]) -> impl Iterator<Item = String> {
    let more = all.len().saturating_sub(MOST_TOLD);
    let rest = (more > 0).then(|| format!("and {more} more"));
    all.iter().take(MOST_TOLD).map(ToString::to_string).chain(rest)
}

fn warning_line(warning: String) -> String {
    format!("warning: {warning}\n")
}

/// What stands behind a line that so many connections are touched by; nothing if none is.
fn remark(connections: u32, how: &str) -> String {
    match connections {
        0 => String::new(),
        1 => format!(" # 1 connection{how}"),
        _ => format!(" # {connections} connections{how}"),
    }
}

fn host(name: &str) -> Question {
    Question::Host(name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_log_page_and_database() {
        let before = Settings::default();
        let named = |change: fn(&mut Settings)| {
            let mut after = before.clone();
            change(&mut after);
            names_a_file(&before, &after)
        };
        assert_eq!(named(|_| {}), None);
        assert_eq!(named(|it| it.log = Some("/l".parse().unwrap())), Some("log"));
        assert_eq!(named(|it| it.log = Some("host:9".parse().unwrap())), None);
        assert_eq!(named(|it| it.web_stats = Some("/w".into())), Some("web_stats"));
        assert_eq!(named(|it| it.geoip = Some("/g".into())), Some("geoip"));
        assert_eq!(named(|it| it.listen = Some("/l".parse().unwrap())), Some("listen"));
        assert_eq!(named(|it| it.listen = Some("127.0.0.1:80".parse().unwrap())), None);
        assert_eq!(named(|it| it.servers = vec!["/s".parse().unwrap()]), Some("server"));
        assert_eq!(named(|it| it.emergency = Some("/s".parse().unwrap())), Some("server"));
        assert_eq!(named(|it| it.abuse = Some("127.0.0.1:80".parse().unwrap())), None);
        let with = Settings { servers: vec!["/s".parse().unwrap()], ..Settings::default() };
        let moved = Settings { emergency: Some("/s".parse().unwrap()), ..with.clone() };
        assert_eq!(names_a_file(&with, &moved), None, "it was named by somebody who may");
        let with = Settings { web_stats: Some("/w".into()), ..Settings::default() };
        assert_eq!(names_a_file(&with, &Settings::default()), None, "to write none any more is harmless");
    }
}
