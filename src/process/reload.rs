//! HUP: the configuration file is read again, and names that mean nothing yet are asked for now and then.
//!
//! All or nothing: a file with any mistake, a listener that cannot be opened, a table that cannot grow, and the old
//! settings stay as they are, every one. Names take time, so a reload has two halves: the file is read and checked
//! at once, the new settings come into force when the resolver has answered. The master serves in between.

use std::collections::BTreeSet;
use std::path::Path;

use crate::model::apply::Action;
use crate::model::config::{self, Rejected};
use crate::model::ids::Target;
use crate::model::settings::Settings;
use crate::model::time::{Moment, Seconds};
use crate::process::listening::Listener;
use crate::process::master::{Master, MasterState};
use crate::process::names::{Question, ResolvedServers, questions};
use crate::report::log::{self, Sink};
use crate::shared::region::{Geometry, RegionError};
use crate::sys::reason::words;
use crate::sys::{privileges, textfile};

/// Names that have no answer after this do without; they are asked for again later.
pub(super) const NAMES_TIME: Seconds = Seconds(30);

/// The first wait before an unknown name is asked for again; the waits double from here.
const SHORTEST_WAIT: Seconds = Seconds(10);

/// No wait is longer.
const LONGEST_WAIT: Seconds = Seconds(60);

/// New settings that wait for names.
#[derive(Debug)]
pub struct Reload {
    file: String,
    settings: Settings,
    actions: Vec<Action>,
    warnings: Vec<String>,
    names: BTreeSet<Question>,
    until: Moment,
}

/// What is to be asked, and when again.
#[derive(Debug)]
pub struct Lookups {
    /// To be asked now.
    wanted: BTreeSet<Question>,
    /// Names of the settings in force that mean nothing yet.
    unknown: BTreeSet<Question>,
    /// Some of those mean something now: the servers are to be published.
    found: bool,
    due: Moment,
    wait: Seconds,
}

impl Lookups {
    /// For a pen that has just started.
    pub fn new(state: &MasterState<'_>, now: Moment) -> Self {
        let unknown =
            questions(&state.settings).into_iter().filter(|name| !state.names.knows(name)).collect();
        Lookups {
            wanted: BTreeSet::new(),
            unknown,
            found: false,
            due: now.plus(SHORTEST_WAIT),
            wait: SHORTEST_WAIT,
        }
    }

    /// Is there anything to ask?
    pub fn is_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// What is to be asked. It is, from now on.
    pub fn take(&mut self) -> BTreeSet<Question> {
        std::mem::take(&mut self.wanted)
    }

    /// Nobody can be asked now.
    pub fn give_up(&mut self) {
        self.wanted.clear();
    }

    /// There is an answer where there was none.
    pub fn found(&mut self, question: Question) {
        self.found |= self.unknown.remove(&question);
    }

    fn renew(&mut self, unknown: BTreeSet<Question>, now: Moment) {
        self.unknown = unknown;
        self.found = false;
        self.wait = SHORTEST_WAIT;
        self.due = now.plus(self.wait);
    }

    fn advance(&mut self, now: Moment) {
        if !self.unknown.is_empty() && self.due <= now {
            self.wanted.extend(self.unknown.iter().cloned());
            self.wait = Seconds((self.wait.0 * 2).min(LONGEST_WAIT.0));
            self.due = now.plus(self.wait);
        }
    }
}

/// Why new settings do not come into force.
enum Refusal {
    /// A worker holds the lock of the shared tables: tried again until it is killed.
    Later,
    Never(Vec<String>),
}

impl From<RegionError> for Refusal {
    fn from(error: RegionError) -> Self {
        match error {
            RegionError::Busy(_) => Refusal::Later,
            other => Refusal::one(other),
        }
    }
}

impl Refusal {
    fn one(reason: impl ToString) -> Self {
        Refusal::Never(vec![reason.to_string()])
    }
}

/// What new settings need beside themselves, opened before anything is changed.
struct NewResources {
    servers: ResolvedServers,
    listener: Option<Listener>,
    log: Option<Option<Sink>>,
    workers: u32,
}

impl Master<'_> {
    /// Reads the configuration file, if there is one. Its settings come into force when their names are known.
    pub(super) fn begin_reload(&mut self, now: Moment) {
        let Some(path) = &self.state.launch.config else {
            return;
        };
        let messages = &self.state.messages;
        let name = path.display().to_string();
        let load = |path: &Path| textfile::read_regular(path).and_then(config::decode);
        let text = match load(path) {
            Ok(text) => text,
            Err(error) => {
                let place = if self.state.launch.jail.is_some() { " in the jail" } else { "" };
                messages
                    .error(format_args!("cannot read {name}{place}: {}; nothing is changed", words(&error)));
                return;
            }
        };
        match config::read(&self.state.settings, &name, &text, load) {
            Ok(reading) => {
                let names = questions(&reading.settings);
                let warnings = reading.warnings.iter().map(ToString::to_string).collect();
                self.lookups.wanted.extend(names.iter().cloned());
                let until = now.plus(NAMES_TIME);
                self.reload = Some(Reload {
                    file: name,
                    settings: reading.settings,
                    actions: reading.actions,
                    warnings,
                    names,
                    until,
                });
            }
            Err(Rejected { faults, warnings }) => {
                for warning in warnings {
                    messages.note(format_args!("{warning}"));
                }
                for fault in faults {
                    messages.error(format_args!("{fault}"));
                }
                messages.error(format_args!("{name}: nothing is changed"));
            }
        }
    }

    /// Puts new settings into force as soon as their names are known.
    pub(super) fn advance_reload(&mut self, now: Moment) {
        let Some(reload) = &self.reload else { return };
        let owed = |name| {
            self.lookups.wanted.contains(name)
                || self.state.resolver.as_ref().is_some_and(|resolver| resolver.is_pending(name))
        };
        if reload.until > now && reload.names.iter().any(owed) {
            return;
        }
        let Some(reload) = self.reload.take() else {
            return;
        };
        let resources =
            self.prepare(&reload.settings).and_then(|resources| self.commit(&reload, resources, now));
        match resources {
            Ok(()) => {}
            Err(Refusal::Later) => self.reload = Some(reload),
            Err(Refusal::Never(problems)) => {
                let messages = &self.state.messages;
                for problem in problems {
                    messages.error(format_args!("{}: {problem}", reload.file));
                }
                messages.error(format_args!("{}: nothing is changed", reload.file));
            }
        }
    }

    /// Opens what the new settings need; changes nothing.
    fn prepare(&self, settings: &Settings) -> Result<NewResources, Refusal> {
        let MasterState { names, listener, .. } = &self.state;
        let Some(listener) = listener else {
            return Err(Refusal::one("pen does not listen any more"));
        };
        let address = match &settings.listen {
            Some(spec) => names.listen_address(spec).map_err(Refusal::one)?,
            None => listener.address().clone(),
        };
        let mut problems = Vec::new();
        let workers = settings.workers.unwrap_or(self.state.workers);
        if workers < self.state.workers {
            problems.push(format!(
                "there are {} workers and cannot be fewer while pen runs; restart it to have {workers}",
                self.state.workers
            ));
        }
        let servers = names.resolve_servers(settings, &address).unwrap_or_else(|errors| {
            problems.extend(errors.iter().map(ToString::to_string));
            ResolvedServers::default()
        });
        if problems.is_empty() && !servers.is_usable() && !settings.dummy {
            problems.push(servers.why_unusable());
        }
        if !problems.is_empty() {
            return Err(Refusal::Never(problems));
        }
        let log = match &settings.log {
            same if *same == self.state.settings.log => None,
            None => Some(None),
            Some(new) => Some(Some(log::open(&names.log_destination(new)).map_err(Refusal::one)?)),
        };
        let listener = match address == *listener.address() {
            true => None,
            false => Some(Listener::open(address, settings.listen_queue).map_err(Refusal::one)?),
        };
        Ok(NewResources { servers, listener, log, workers })
    }

    /// Changes everything.
    fn commit(&mut self, reload: &Reload, resources: NewResources, now: Moment) -> Result<(), Refusal> {
        let NewResources { servers, listener, log, workers } = resources;
        let state = &mut self.state;
        let geometry =
            Geometry { clients: reload.settings.clients_max, connections: reload.settings.conn_max };
        state.region.grow(geometry)?;
        let published = state.region.servers().publish(
            &servers.servers,
            servers.emergency.as_ref(),
            servers.abuse.as_ref(),
        );
        published.map_err(|_| Refusal::Later)?;
        // From here on nothing fails.
        let generation = state.settings.generation + 1;
        let old_queue = state.settings.listen_queue;
        let old_conn_max = state.settings.conn_max;
        state.settings = Settings { generation, ..reload.settings.clone() };
        state.messages.set_debug(state.settings.debug);
        let (new_log, new_listener) = (log.is_some(), listener.is_some());
        if let Some(log) = log {
            state.log = log;
        }
        if listener.is_some() {
            state.listener = listener;
        } else if let Some(listener) = &state.listener
            && old_queue != state.settings.listen_queue
            && let Err(error) = listener.set_backlog(state.settings.listen_queue)
        {
            state.messages.error(format_args!("cannot change the queue of the listener: {}", words(&error)));
        }
        for action in &reload.actions {
            match action {
                Action::Shun(server, length) => {
                    let blacklist = state.settings.blacklist;
                    state.region.servers().shun_for(Target::Server(*server), *length, blacklist, now);
                }
                // Whoever read the commands has read the file.
                Action::Include(_) | Action::Operate(_) => {}
            }
        }
        state.workers = workers;
        state.region.workers().set_count(workers);
        self.supervisor.grow(workers, now);
        self.raise_limits(old_conn_max);
        for warning in &reload.warnings {
            self.state.messages.note(format_args!("{warning}"));
        }
        self.report_unresolved(&servers);
        self.state.names.keep_only(&reload.names);
        let names = &self.state.names;
        let unknown = reload.names.iter().filter(|name| !names.knows(name)).cloned().collect();
        self.lookups.renew(unknown, now);
        self.send_settings(new_log, new_listener);
        self.state.messages.note(format_args!("{}: in force now (generation {generation})", reload.file));
        Ok(())
    }

    fn report_unresolved(&self, servers: &ResolvedServers) {
        for (name, reason) in &servers.unresolved {
            self.state.messages.error(format_args!("{}", unresolved_line(name, reason)));
        }
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

    /// Asks for unknown names when it is time to, and uses those that are known now.
    pub(super) fn advance_lookups(&mut self, now: Moment) {
        self.lookups.advance(now);
        let MasterState { region, settings, names, listener, messages, .. } = &self.state;
        if !self.lookups.found {
            return;
        }
        let Some(listener) = listener else { return };
        let Ok(servers) = names.resolve_servers(settings, listener.address()) else {
            return;
        };
        // Tried again at the next turn if a worker has the lock.
        if region
            .servers()
            .publish(&servers.servers, servers.emergency.as_ref(), servers.abuse.as_ref())
            .is_ok()
        {
            self.lookups.found = false;
            messages.note(format_args!("{}", resolved_line(servers.unresolved.len())));
        }
    }
}

/// The line that tells that names mean something now; `unknown`: how many still do not.
fn resolved_line(unknown: usize) -> String {
    let rest = match unknown {
        0 => String::new(),
        1 => "; 1 still is not".to_string(),
        more => format!("; {more} still are not"),
    };
    format!("names of servers that were unknown are known now{rest}")
}

/// The line that tells of a name.
pub fn unresolved_line(name: &str, reason: &str) -> String {
    format!("server {name} is not used until its name is known: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Question {
        Question::Host(name.to_string())
    }

    fn lookups(unknown: &[&str]) -> Lookups {
        Lookups {
            wanted: BTreeSet::new(),
            unknown: unknown.iter().map(|name| host(name)).collect(),
            found: false,
            due: Moment(0).plus(SHORTEST_WAIT),
            wait: SHORTEST_WAIT,
        }
    }

    #[test]
    fn names_that_are_still_unknown_are_counted_if_there_are_any() {
        let ends =
            [0, 1, 2].map(|unknown| resolved_line(unknown).split_off("names of servers that were ".len()));
        assert_eq!(
            ends,
            [
                "unknown are known now",
                "unknown are known now; 1 still is not",
                "unknown are known now; 2 still are not"
            ]
        );
    }

    #[test]
    fn unknown_names_are_asked_for_less_and_less_often() {
        let mut lookups = lookups(&["a"]);
        let mut asked = Vec::new();
        for second in 0..200 {
            lookups.advance(Moment(0).plus(Seconds(second)));
            if lookups.is_wanted() {
                assert_eq!(lookups.take(), BTreeSet::from([host("a")]));
                asked.push(second);
            }
        }
        assert_eq!(asked, [10, 30, 70, 130, 190]);
    }

    #[test]
    fn nothing_is_asked_when_all_names_are_known() {
        let mut lookups = lookups(&["a"]);
        lookups.found(host("not mine"));
        assert!(!lookups.found);
        lookups.found(host("a"));
        assert!(lookups.found);
        lookups.advance(Moment(u64::MAX));
        assert!(!lookups.is_wanted());
    }
}
