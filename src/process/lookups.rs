//! Names that mean nothing yet: they are asked for now and then, and their servers are used when they have an address.

use std::collections::BTreeSet;

use crate::model::time::{Moment, Seconds};
use crate::process::master::{Master, MasterState};
use crate::process::names::{Question, questions};

/// Names that have no answer after this do without; they are asked for again later.
pub(super) const NAMES_TIME: Seconds = Seconds(30);

/// The first wait before an unknown name is asked for again; the waits double from here.
const SHORTEST_WAIT: Seconds = Seconds(10);

/// No wait is longer.
const LONGEST_WAIT: Seconds = Seconds(60);

/// What is to be asked, and when again.
#[derive(Debug)]
pub(super) struct Lookups {
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
    pub(super) fn new(state: &MasterState<'_>, now: Moment) -> Self {
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
    pub(super) fn is_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// These are to be asked.
    pub(super) fn want(&mut self, questions: impl IntoIterator<Item = Question>) {
        self.wanted.extend(questions);
    }

    /// Is that to be asked, and has not been?
    pub(super) fn is_owed(&self, question: &Question) -> bool {
        self.wanted.contains(question)
    }

    /// What is to be asked. It is, from now on.
    pub(super) fn take(&mut self) -> BTreeSet<Question> {
        std::mem::take(&mut self.wanted)
    }

    /// Nothing else is to be asked.
    pub(super) fn keep_only(&mut self, questions: &BTreeSet<Question>) {
        self.wanted.retain(|question| questions.contains(question));
    }

    /// Nobody can be asked now.
    pub(super) fn give_up(&mut self) {
        self.wanted.clear();
    }

    /// There is an answer where there was none.
    pub(super) fn found(&mut self, question: Question) {
        self.found |= self.unknown.remove(&question);
    }

    /// These mean nothing yet, of all names in the settings.
    pub(super) fn renew(&mut self, unknown: BTreeSet<Question>, now: Moment) {
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

impl Master<'_> {
    /// Asks for unknown names when it is time to, and uses those that are known now.
    pub(super) fn advance_lookups(&mut self, now: Moment) {
        if !self.changes.wait_for_names() {
            self.lookups.advance(now);
        }
        let MasterState { region, settings, names, listeners, messages, .. } = &self.state;
        if !self.lookups.found {
            return;
        }
        let Some(listeners) = listeners else { return };
        let Ok(servers) = names.resolve_servers(settings, &listeners.places(), self.control_address()) else {
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
pub(super) fn unresolved_line(name: &str, reason: &str) -> String {
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
}
