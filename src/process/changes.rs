//! Changes of the settings while pen runs: the configuration file read again, a command, a batch of commands.
//!
//! All or nothing: with any mistake, a listener that cannot be opened, a table that cannot grow, the old settings stay
//! as they are, every one. Names take time, so a change has two halves: its text is read at once, the new settings come
//! into force when the resolver has answered. The master serves in between; changes that are asked for meanwhile wait
//! for their turn, because each builds on the one before. Whoever asked is answered when every worker uses the new
//! settings.
//!
//! `check` and `diff` go the same way and stop before anything is changed.

mod commit;
mod differences;
mod prepare;
mod reading;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;

pub(super) use commit::{News, complete};
use prepare::NewResources;
use reading::Unread;

use crate::model::command::Command;
use crate::model::config::{At, Reading, Warning};
use crate::model::reply;
use crate::model::settings::Settings;
use crate::model::time::Moment;
use crate::net::control::SessionId;
use crate::process::lookups::NAMES_TIME;
use crate::process::master::{Master, MasterState};
use crate::process::names::{Question, questions};
use crate::process::startup::unwritable_page;
use crate::shared::region::RegionError;
use crate::sys::clock;
use crate::sys::tls::Material;

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
    /// There are none: what the settings name is read again.
    Again,
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

impl Text {
    /// As messages call it.
    fn name(&self) -> String {
        match self {
            Text::File(path) => path.display().to_string(),
            Text::Command(_) | Text::Batch(_) => CONTROL.to_string(),
            Text::Again => "reload".to_string(),
        }
    }

    /// Are the files that the settings name read again, although they name the same?
    fn reads_again(&self) -> bool {
        matches!(self, Text::File(_) | Text::Again)
    }
}

impl Change {
    /// The line about something that is wrong: with its place, if the text has lines.
    fn name(&self, obstacle: &Obstacle) -> String {
        let Obstacle { word, reason } = obstacle;
        let place = self.reading.places.of(word);
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
    /// HUP: the configuration file is read again, or if there is none what else there is to be read.
    pub(super) fn wish_reload(&mut self) {
        let Some(text) = self.what_to_reload() else { return };
        // One that has not begun yet will see the file as it is now.
        let waits = |wish: &Wish| wish.asker == Asker::Signal;
        if !self.changes.waiting.iter().any(waits) {
            self.wish(Wish { asker: Asker::Signal, text, purpose: Purpose::Change });
        }
    }

    /// What a reload reads; nothing if there are no files but logs.
    pub(super) fn what_to_reload(&self) -> Option<Text> {
        let MasterState { launch, settings, .. } = &self.state;
        let others = settings.geoip.is_some() || Material::is_needed(settings);
        launch.config.clone().map(Text::File).or_else(|| others.then_some(Text::Again))
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
                let more = self.examine(change)?.into_iter().map(warning_line);
                Ok(Answer::now(
                    ["ok\n".to_string()].into_iter().chain(warnings(change)).chain(more).collect(),
                ))
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
                let more: Vec<_> = resources.tls.warnings.iter().cloned().map(warning_line).collect();
                let order = self.commit(change, resources, now);
                let reply = match &change.wish.text {
                    Text::File(_) | Text::Again => {
                        ["ok\n".to_string()].into_iter().chain(warnings(change)).chain(more).collect()
                    }
                    Text::Command(_) | Text::Batch(_) => {
                        [change.reading.replies.clone()].into_iter().chain(more).collect()
                    }
                };
                Ok(Answer { reply, order: Some(order) })
            }
        }
    }

    /// Is there nothing to do? A file is read again for what is behind the names in it, too.
    fn is_what_is_in_force(&self, change: &Change) -> bool {
        let settings = &change.reading.settings;
        let same = Settings { generation: settings.generation, ..self.state.settings.clone() };
        *settings == same && change.reading.actions.is_empty() && !change.wish.text.reads_again()
    }
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
