//! What new settings need beside themselves: opened before anything is changed, or found wanting.

use std::fs;
use std::io;
use std::net::IpAddr;

use super::{Asker, Change, Obstacle, Refusal, Text};
use crate::model::apply::Action;
use crate::model::listen::Protocol;
use crate::model::settings::{LogDestination, Settings};
use crate::process::listeners::{Listener, Listeners, Place, Planned, check_clashes};
use crate::process::listening::ListenError;
use crate::process::master::{Master, MasterState};
use crate::process::names::{NameError, Question, ResolvedServers, questions};
use crate::process::owned_path::OwnedPath;
use crate::process::startup::{make_room_for_listeners, worker_count};
use crate::process::tls::Renewal;
use crate::report::log::{self, LogError, Sink};
use crate::sys::geoip::Database;
use crate::sys::reason::words;
use crate::sys::socket;

/// What new settings need beside themselves, opened before anything is changed. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub(super) struct NewResources {
    pub(super) servers: ResolvedServers,
    /// None: they stay as they are.
    pub(super) listeners: Option<Vec<Planned>>,
    pub(super) log: Option<Option<NewLog>>,
    pub(super) countries: Option<Option<Database>>,
    pub(super) tls: Renewal,
    pub(super) workers: u32,
}

/// A log that is not in use yet. If its file was made for it, that goes with it.
#[derive(Debug)]
pub(super) struct NewLog {
    sink: Sink,
    made: Option<OwnedPath>,
}

impl NewLog {
    pub(super) fn open(destination: &LogDestination) -> Result<Self, LogError> {
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
    pub(super) fn keep(mut self) -> Sink {
        self.made.iter_mut().for_each(OwnedPath::disown);
        self.sink
    }
}

impl Master<'_> {
    /// The servers with their addresses, and where to listen.
    fn resolve(&self, change: &Change) -> Result<(ResolvedServers, Vec<Place>), Refusal> {
        let settings = &change.reading.settings;
        let MasterState { names, listeners, .. } = &self.state;
        let Some(listeners) = listeners else {
            return Err(Refusal::of("", "pen does not listen any more"));
        };
        let obstacle = |error: &NameError| Obstacle { word: error.word(), reason: error.to_string() };
        let obstacles = |errors: Vec<NameError>| Refusal::Never(errors.iter().map(obstacle).collect());
        let places = match settings.listen.is_empty() {
            true => listeners.places(),
            false => names.places(settings).map_err(obstacles)?,
        };
        let servers = names.resolve_servers(settings, &places, self.control_address()).map_err(obstacles)?;
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
        Ok((servers, places))
    }

    /// Why there cannot be the new listener that is this one in the list. What is in the way may be an old one.
    fn not_listening(&self, settings: &Settings, number: usize, error: &ListenError) -> Refusal {
        let old = self.state.listeners.as_ref().map(Listeners::places).unwrap_or_default();
        let reason = match error {
            ListenError::Refused { place, reason } if reason.kind() == io::ErrorKind::AddrInUse => {
                old.iter().find(|old| old.meets(place)).map(|old| {
                    format!(
                        "cannot listen on {place} beside {old}; listen on another port first, or start pen again"
                    )
                })
            }
            _ => None,
        };
        let word = word(settings.listen.get(number).map(|listen| &listen.spec));
        Refusal::of(word, reason.unwrap_or_else(|| error.to_string()))
    }

    /// Does pen listen there?
    fn listens_on(&self, place: &Place) -> bool {
        self.state.listeners.as_ref().is_some_and(|listeners| listeners.has(place))
    }

    /// None of the new listeners may be in the way of another, or of the control port.
    fn check_clashes(&self, settings: &Settings, places: &[Place]) -> Result<(), Refusal> {
        let control = self.control_address();
        let control = control.map(|address| Place { protocol: Protocol::Tcp, address: address.clone() });
        check_clashes(places, control.as_slice())
            .map_err(|(number, error)| self.not_listening(settings, number, &error))
    }

    /// The new listeners, if they are not what there is.
    fn new_listeners(
        &self,
        settings: &Settings,
        places: Vec<Place>,
        workers: u32,
    ) -> Result<Option<Vec<Planned>>, Refusal> {
        if self.state.listeners.as_ref().is_some_and(|listeners| listeners.places() == places) {
            return Ok(None);
        }
        self.check_clashes(settings, &places)?;
        let present = self.state.listeners.as_ref().map_or(0, Listeners::sockets);
        let mut room = make_room_for_listeners(settings, present);
        let mut planned = Vec::new();
        for (number, place) in places.into_iter().enumerate() {
            planned.push(match self.listens_on(&place) {
                true => Planned::Stays(place),
                false => {
                    let opened = Listener::open(place, settings.listen_queue, workers, &mut room);
                    Planned::Opened(opened.map_err(|error| self.not_listening(settings, number, &error))?)
                }
            });
        }
        Ok(Some(planned))
    }

    /// Where the log is to go, if it is to be opened: elsewhere, or again, because a reload does that.
    fn new_log(&self, change: &Change) -> Result<Option<Option<LogDestination>>, Refusal> {
        let Some(new) = &change.reading.settings.log else {
            return Ok(self.state.settings.log.is_some().then_some(None));
        };
        // Whoever sent HUP has been told already if that failed.
        let again = matches!(new, LogDestination::File(_))
            && change.wish.text.reads_again()
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
            same if *same == self.state.settings.geoip && !change.wish.text.reads_again() => Ok(None),
            Some(path) => {
                let database = Database::load(path);
                Ok(Some(Some(database.map_err(|error| Refusal::of(path.display(), error))?)))
            }
        }
    }

    /// What TLS needs, if it is to be something else, or its files are to be read again.
    fn new_tls(&self, change: &Change) -> Result<Renewal, Refusal> {
        let MasterState { tls, settings, launch, .. } = &self.state;
        let restaple = change.reading.actions.contains(&Action::Restaple);
        let reread = change.wish.text.reads_again();
        let renewed = tls.renew(settings, &change.reading.settings, reread, restaple, launch);
        renewed.map_err(|error| Refusal::of(&error.word, &error))
    }

    /// May connections come from the clients' addresses, if they are to from now on?
    fn check_transparent(&self, change: &Change) -> Result<(), Refusal> {
        let is_new = change.reading.settings.transparent && !self.state.settings.transparent;
        if is_new && let Err(error) = socket::check_foreign() {
            let reason = format!(
                "transparent needs the capability CAP_NET_ADMIN, which pen keeps only if it starts with transparent \
                 on: {}; turn it on in the configuration file and start pen again",
                words(&error)
            );
            return Err(Refusal::of("transparent", reason));
        }
        Ok(())
    }

    /// Opens what the new settings need; changes nothing.
    pub(super) fn prepare(&self, change: &Change) -> Result<NewResources, Refusal> {
        let settings = &change.reading.settings;
        self.check_transparent(change)?;
        let (servers, places) = self.resolve(change)?;
        let countries = self.new_countries(change)?;
        let tls = self.new_tls(change)?;
        let log = match self.new_log(change)? {
            Some(Some(destination)) => {
                let log = NewLog::open(&destination);
                Some(Some(log.map_err(|error| Refusal::of(word(settings.log.as_ref()), error))?))
            }
            Some(None) => Some(None),
            None => None,
        };
        let workers = match settings.workers == self.state.settings.workers {
            true => self.state.workers,
            false => worker_count(settings),
        };
        let listeners = self.new_listeners(settings, places, workers)?;
        Ok(NewResources { servers, listeners, log, countries, tls, workers })
    }

    /// What [`Master::prepare`] would complain of, or say somebody should know, without opening anything that somebody
    /// could notice.
    pub(super) fn examine(&self, change: &Change) -> Result<Vec<String>, Refusal> {
        let settings = &change.reading.settings;
        let mut problems = Vec::new();
        let mut note = |result: Result<(), Refusal>| match result {
            Err(Refusal::Never(more)) => problems.extend(more),
            Ok(()) | Err(Refusal::Later) => {}
        };
        match self.resolve(change) {
            Ok((_, places)) => {
                note(self.check_clashes(settings, &places));
                for (number, place) in places.into_iter().enumerate() {
                    if !self.listens_on(&place) {
                        let free = Listener::check_free(place);
                        note(free.map_err(|error| self.not_listening(settings, number, &error)));
                    }
                }
            }
            Err(refusal) => note(Err(refusal)),
        }
        note(self.check_transparent(change));
        note(self.new_countries(change).map(drop));
        let mut warnings = Vec::new();
        note(self.new_tls(change).map(|renewal| warnings = renewal.warnings));
        note(self.new_log(change).and_then(|log| match log {
            Some(Some(LogDestination::File(path))) => {
                log::check(&path).map_err(|error| Refusal::of(path.display(), error))
            }
            Some(Some(LogDestination::Network(..)) | None) | None => Ok(()),
        }));
        if problems.is_empty() { Ok(warnings) } else { Err(Refusal::Never(problems)) }
    }
}

/// As it stands in the settings.
fn word(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

pub(super) fn host(name: &str) -> Question {
    Question::Host(name.to_string())
}
