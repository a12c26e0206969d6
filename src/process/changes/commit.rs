//! The change itself: once the shared tables have taken it, nothing fails any more.

use std::io;
use std::os::fd::AsFd;

use super::prepare::{NewLog, NewResources, host};
use super::{Change, Refusal, Text, first};
use crate::model::address::SocketAddress;
use crate::model::apply::Action;
use crate::model::ids::Target;
use crate::model::settings::Settings;
use crate::model::time::Moment;
use crate::net::channel::Change as Replacement;
use crate::policy::acl::AccessLists;
use crate::process::listeners::{Listeners, Place};
use crate::process::lookups::unresolved_line;
use crate::process::master::{Master, MasterState};
use crate::process::names::{ResolvedServers, questions};
use crate::process::startup::{make_room_for_listeners, unwritable_page};
use crate::process::supervisor::{Complete, Dispatch};
use crate::shared::region::Geometry;
use crate::sys::privileges;
use crate::sys::reason::words;

/// What was opened anew with the settings.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::process) struct News {
    pub(in crate::process) lists: bool,
    pub(in crate::process) log: bool,
    pub(in crate::process) countries: bool,
    pub(in crate::process) tls: bool,
    pub(in crate::process) listeners: bool,
}

impl Master<'_> {
    /// Changes the shared tables: the last that can fail.
    pub(super) fn publish(&self, settings: &Settings, servers: &ResolvedServers) -> Result<(), Refusal> {
        let region = self.state.region;
        region.grow(Geometry { clients: settings.clients_max, connections: settings.conn_max })?;
        let ResolvedServers { servers, emergency, abuse, .. } = servers;
        let published =
            region.servers().publish_for(self.next_generation(), servers, emergency.as_ref(), abuse.as_ref());
        published.map_err(|_| Refusal::Later)
    }

    /// Of the settings to come.
    fn next_generation(&self) -> u64 {
        self.state.settings.generation + 1
    }

    /// Changes everything else. The number of the order to the workers.
    pub(super) fn commit(&mut self, change: &Change, resources: NewResources, now: Moment) -> u64 {
        let NewResources { servers, listeners, log, countries, tls, workers } = resources;
        let reading = &change.reading;
        // A command is told as it came, and a file is still there.
        let told =
            if matches!(change.wish.text, Text::Batch(_)) { self.differences(change) } else { String::new() };
        let generation = self.next_generation();
        let state = &mut self.state;
        let old_queue = state.settings.listen_queue;
        let old_conn_max = state.settings.conn_max;
        let page_is_new = state.settings.web_stats != reading.settings.web_stats;
        let lists = state.settings.acls != reading.settings.acls;
        state.settings = Settings { generation, ..reading.settings.clone() };
        state.messages.set_debug(state.settings.debug);
        if lists {
            state.lists = AccessLists::compile(&state.settings.acls);
        }
        let news = News {
            lists,
            log: log.is_some(),
            countries: countries.is_some(),
            tls: tls.loaded.is_some(),
            // When there are more workers, or fewer, others read what they did.
            listeners: listeners.is_some()
                || workers != state.workers && state.listeners.as_ref().is_some_and(Listeners::has_groups),
        };
        if let Some(log) = log {
            state.log = log.map(NewLog::keep);
        }
        if let Some(countries) = countries {
            state.countries = countries;
        }
        let warnings = state.tls.adopt(tls, now);
        if let Some(present) = &mut state.listeners {
            if let Some(planned) = listeners {
                present.replace(planned);
            }
            if old_queue != state.settings.listen_queue {
                for (place, error) in present.set_backlog(state.settings.listen_queue) {
                    let reason = words(&error);
                    state.messages.error(format_args!("cannot change the queue of {place}: {reason}"));
                }
            }
            // New ones have what they need; and what failed once is not tried, and told, with every change.
            let grown = match workers == state.workers {
                true => Vec::new(),
                false => present.grow(workers, make_room_for_listeners(&state.settings, present.sockets())),
            };
            for (Place { address, .. }, readers, error) in grown {
                state.messages.error(format_args!("{}", no_more_readers(&address, readers, &error)));
            }
            state.descriptors.listen(present.sockets());
        }
        for action in &reading.actions {
            match action {
                Action::Shun(server, length) => {
                    let blacklist = state.settings.blacklist;
                    state.region.servers().shun_for(Target::Server(*server), *length, blacklist, now);
                }
                // Whoever read the commands has read the file, and passed operations on.
                Action::Include(_) | Action::Operate(_) => {}
                // Done when what TLS needs was prepared.
                Action::Restaple => {}
            }
        }
        state.workers = workers;
        // Before the settings are sent: who has them has been told to retire as well.
        self.supervisor.resize(workers, now);
        self.state.region.workers().set_count(self.supervisor.places());
        self.raise_limits(old_conn_max);
        let name = change.wish.text.name();
        for warning in first(&reading.warnings).chain(warnings) {
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
            && (page_is_new || change.wish.text.reads_again())
        {
            self.state.messages.error(format_args!("{line}"));
        }
        for line in told.lines() {
            self.state.messages.note(format_args!("{name}: {line}"));
        }
        let what = match &change.wish.text {
            Text::Command(line) => format!("{name}: {}", line.trim()),
            Text::File(_) | Text::Batch(_) | Text::Again => name,
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

    /// Gives the workers the settings in force, and what belongs to them. The number of the order.
    pub(in crate::process) fn send_settings(&mut self, news: News) -> u64 {
        let complete = complete(&self.state);
        let change = |new: bool, log| if new { Replacement::Replace(log) } else { Replacement::Keep };
        let replace = |new: bool, what| if new { Replacement::Replace(what) } else { Replacement::Keep };
        self.settings_order = self.supervisor.send_settings(&Dispatch {
            settings: &self.state.settings,
            lists: news.lists,
            log: change(news.log, complete.log),
            countries: replace(news.countries, complete.countries),
            tls: replace(news.tls, complete.tls),
            listeners: news.listeners,
            complete,
        });
        self.settings_order
    }
}

/// All that goes with the settings in force.
pub(in crate::process) fn complete<'a>(state: &'a MasterState<'_>) -> Complete<'a> {
    Complete {
        log: state.log.as_ref(),
        countries: state.countries.as_ref().map(AsFd::as_fd),
        tls: state.tls.loaded.packed.as_ref().map(AsFd::as_fd),
        listeners: state.listeners.as_ref(),
    }
}

/// The line that tells that not all workers can have a share of what comes to a UDP address.
fn no_more_readers(address: &SocketAddress, readers: usize, error: &io::Error) -> String {
    let workers = if readers == 1 { "1 worker" } else { &format!("{readers} workers") };
    format!(
        "UDP on {address} stays with {workers}: {}; start pen again to have more of them read there",
        words(error)
    )
}
