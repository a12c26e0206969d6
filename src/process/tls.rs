//! The master's part of TLS: it reads certificates, keys and OCSP responses, makes the keys for session tickets, and
//! looks now and then whether there are new OCSP responses.
//!
//! | files are read | by whom | if one is out of reach by then |
//! |---|---|---|
//! | at the start | whoever started pen, before the jail | there is no start |
//! | HUP, `reload` | the user of `-u`, in the jail | all that was read before stays, with a warning |
//! | a command that names others | the same | the command is refused |
//!
//! Other commands read nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;

use crate::model::settings::{Launch, Settings};
use crate::model::time::{Moment, Seconds};
use crate::model::tls::{TlsSettings, Trust, VerifyClient};
use crate::process::changes::News;
use crate::process::master::Master;
use crate::sys::clock;
use crate::sys::reason::words;
use crate::sys::tls::{Contexts, Material, Notes, Scope, TicketKeys, TlsError};

/// How often the files of OCSP responses are looked at.
const STAPLE_CHECK: Seconds = Seconds(10);

/// TLS under the settings in force.
#[derive(Debug)]
pub struct Tls {
    pub(super) loaded: Loaded,
    /// The keys for session tickets: the same whatever the settings are, so that sessions outlive a reload.
    pub(super) tickets: Rc<TicketKeys>,
    /// What was noted when the files were read last, and has been told.
    told: Notes,
    rotated: Moment,
    staples: BTreeSet<Stamp>,
    looked: Moment,
}

/// What was read, and made of it.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// None where nothing is needed, as in the others.
    material: Option<Material>,
    /// The same for workers that run.
    pub(super) packed: Option<OwnedFd>,
    /// Workers that are made later are born with these.
    pub(super) contexts: Contexts,
}

/// What takes the place of what is in force.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// None: that stays.
    pub(super) loaded: Option<Loaded>,
    /// None: nothing was read.
    read: Option<Read>,
    /// What is to be told.
    pub(super) warnings: Vec<String>,
}

/// What was found when files were read.
#[derive(Debug)]
struct Read {
    notes: Notes,
    /// From before: whatever is replaced meanwhile is new.
    staples: BTreeSet<Stamp>,
}

/// A file as it was at some time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    path: PathBuf,
    /// Device and number, length, and when it was written, to the nanosecond. None if it is not there.
    state: Option<(u64, u64, u64, i64, i64)>,
}

impl Stamp {
    fn of(path: PathBuf) -> Self {
        let state = fs::metadata(&path)
            .ok()
            .map(|file| (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
        Stamp { path, state }
    }
}

impl Loaded {
    /// Reads what the settings name.
    ///
    /// # Errors
    /// A file or a list cannot be used.
    fn load(settings: &Settings, tickets: &Rc<TicketKeys>) -> Result<(Self, Notes), TlsError> {
        if !Material::is_needed(settings) {
            return Ok((Loaded::default(), Notes::default()));
        }
        let (material, notes) = Material::load(settings)?;
        Ok((Loaded::of(material, settings, tickets)?, notes))
    }

    /// The same for a start: whoever starts pen is told in words.
    pub(super) fn at_start(
        launch: &Launch,
        settings: &Settings,
        tickets: &Rc<TicketKeys>,
    ) -> Result<(Self, Notes), String> {
        Loaded::load(settings, tickets).map_err(|error| match launch.places.of(&error.word) {
            Some(place) => format!("{place}: {error}"),
            None => error.to_string(),
        })
    }

    fn of(material: Material, settings: &Settings, tickets: &Rc<TicketKeys>) -> Result<Self, TlsError> {
        let contexts = Contexts::build(settings, &material, tickets, Scope::Everything)?;
        let packed = material.pack().map_err(|error| TlsError {
            word: String::new(),
            reason: format!("no memory for the certificates: {}", words(&error)),
            unreachable: None,
        })?;
        Ok(Loaded { material: Some(material), packed: Some(packed), contexts })
    }
}

/// May the file have been read at the start, although it cannot be read now?
fn is_out_of_reach(error: &TlsError, launch: &Launch) -> bool {
    match error.unreachable {
        Some(io::ErrorKind::NotFound) => launch.jail.is_some(),
        Some(_) => launch.jail.is_some() || launch.user.is_some(),
        None => false,
    }
}

/// The files that new settings need to have been read, beside OCSP responses.
fn sources(settings: &Settings) -> (TlsSettings, BTreeSet<&Trust>) {
    let TlsSettings { certificate, key, ca_file, ca_path, verify_client, sni_path, passthrough, .. } =
        settings.tls.clone();
    let asked = if verify_client == VerifyClient::Off { VerifyClient::Off } else { VerifyClient::Require };
    let named = TlsSettings {
        certificate,
        key,
        ca_file,
        ca_path,
        verify_client: asked,
        sni_path,
        passthrough,
        ..TlsSettings::default()
    };
    (named, trusts(settings))
}

fn trusts(settings: &Settings) -> BTreeSet<&Trust> {
    settings.servers.iter().filter_map(|server| Some(&server.tls.as_ref()?.trust)).collect()
}

impl Tls {
    /// For a master that begins; what was noted has been told.
    pub(super) fn new(loaded: Loaded, told: Notes, tickets: Rc<TicketKeys>, settings: &Settings) -> Self {
        let now = clock::now();
        Tls { loaded, tickets, told, rotated: now, staples: stamps(settings), looked: now }
    }

    /// What takes the place of what is in force. `reread`: the files are read again although the settings name the
    /// same; `restaple`: those of OCSP responses are. Without either only what has not been told before is to be.
    /// `launch`: whether this process is where, and as whom, it was when they were read first.
    ///
    /// # Errors
    /// A file or a list cannot be used.
    pub(super) fn renew(
        &self,
        before: &Settings,
        after: &Settings,
        reread: bool,
        restaple: bool,
        launch: &Launch,
    ) -> Result<Renewal, TlsError> {
        let same = before.tls == after.tls && trusts(before) == trusts(after);
        if same && !reread && !restaple {
            return Ok(Renewal::default());
        }
        if !Material::is_needed(after) {
            let loaded = self.loaded.material.is_some().then(Loaded::default);
            let read = Read { notes: Notes::default(), staples: BTreeSet::new() };
            return Ok(Renewal { loaded, read: Some(read), warnings: Vec::new() });
        }
        let kept = self.loaded.material.as_ref().filter(|_| sources(before) == sources(after));
        if let Some(kept) = kept
            && !reread
            && !restaple
            && before.tls.ocsp_response == after.tls.ocsp_response
        {
            // Nothing new is named, and what is half replaced just now is nobody's business.
            let loaded = Loaded::of(kept.clone(), after, &self.tickets)?;
            return Ok(Renewal { loaded: Some(loaded), ..Renewal::default() });
        }
        let staples = stamps(after);
        let (material, notes, obstacle) = self.read(after, kept, launch)?;
        let asked = reread || restaple;
        let news = if asked { notes.clone() } else { notes.clone().beside(&self.told) };
        let obstacle = obstacle.filter(|_| reread);
        let obstacle = obstacle.map(|error| format!("{error}; what was read before stays"));
        let warnings = obstacle.into_iter().chain(news.lines()).collect();
        let loaded = match same && self.loaded.material.as_ref() == Some(&material) {
            true => None,
            false => Some(Loaded::of(material, after, &self.tickets)?),
        };
        Ok(Renewal { loaded, read: Some(Read { notes, staples }), warnings })
    }

    /// Reads what the settings name. Where that is out of reach, but `kept` has it, OCSP responses alone; with it why.
    fn read(
        &self,
        settings: &Settings,
        kept: Option<&Material>,
        launch: &Launch,
    ) -> Result<(Material, Notes, Option<TlsError>), TlsError> {
        match (Material::load(settings), kept) {
            (Ok((material, notes)), _) => Ok((material, notes, None)),
            (Err(error), Some(kept)) if is_out_of_reach(&error, launch) => {
                let mut material = kept.clone();
                let (_, responses) = material.restaple(settings);
                let notes = Notes { responses, certificates: self.told.certificates.clone() };
                Ok((material, notes, Some(error)))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// These are in force now, with what was read for them. What is to be told.
    pub(super) fn adopt(&mut self, renewal: Renewal, now: Moment) -> Vec<String> {
        let Renewal { loaded, read, warnings } = renewal;
        if let Some(loaded) = loaded {
            self.loaded = loaded;
        }
        if let Some(Read { notes, staples }) = read {
            self.told = notes;
            self.staples = staples;
            self.looked = now;
        }
        warnings
    }

    /// When there is something to do again.
    pub(super) fn next_deadline(&self, settings: &Settings) -> Option<Moment> {
        self.loaded.material.as_ref()?;
        let rotation = self.rotated.plus(settings.tls.ticket_rotation);
        let look = (!self.staples.is_empty()).then(|| self.looked.plus(STAPLE_CHECK));
        Some(look.map_or(rotation, |look| look.min(rotation)))
    }
}

fn stamps(settings: &Settings) -> BTreeSet<Stamp> {
    match Material::is_needed(settings) {
        true => Material::staple_files(settings).into_iter().map(Stamp::of).collect(),
        false => BTreeSet::new(),
    }
}

impl Master<'_> {
    /// Makes a new key for session tickets when it is time, and looks for new OCSP responses.
    pub(super) fn advance_tls(&mut self, now: Moment) {
        let settings = &self.state.settings;
        let tls = &mut self.state.tls;
        if tls.loaded.material.is_none() {
            return;
        }
        if tls.rotated.plus(settings.tls.ticket_rotation) <= now {
            tls.rotated = now;
            if let Err(error) = tls.tickets.rotate() {
                let messages = &self.state.messages;
                messages.error(format_args!("cannot make a new key for session tickets: {}", words(&error)));
            }
        }
        if tls.looked.plus(STAPLE_CHECK) <= now {
            tls.looked = now;
            let stamps = stamps(settings);
            if stamps != tls.staples {
                tls.staples = stamps;
                self.restaple();
            }
        }
    }

    /// The files of OCSP responses are not what they were.
    fn restaple(&mut self) {
        let state = &mut self.state;
        let Some(mut material) = state.tls.loaded.material.clone() else { return };
        let (changed, responses) = material.restaple(&state.settings);
        let told = &mut state.tls.told;
        let notes = Notes { responses, certificates: told.certificates.clone() };
        for warning in notes.clone().beside(told).lines() {
            state.messages.note(format_args!("{warning}"));
        }
        *told = notes;
        if !changed {
            return;
        }
        match Loaded::of(material, &state.settings, &state.tls.tickets) {
            Ok(loaded) => {
                state.tls.loaded = loaded;
                self.send_settings(News { tls: true, ..News::default() });
                self.state.messages.note(format_args!("new OCSP responses are stapled from now on"));
            }
            Err(error) => state.messages.error(format_args!("{error}; the old OCSP responses are kept")),
        }
    }
}
