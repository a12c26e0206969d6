//! What the files of TLS settings hold: read, checked and taken apart by the master.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::{io, iter};

use openssl::error::ErrorStack;
use openssl::x509::X509;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::model::server_name::NamePattern;
use crate::model::settings::Settings;
use crate::model::tls::{TlsSettings, Trust, VerifyClient};
use crate::sys::clock;
use crate::sys::sealed::{self, Mapping};
use pem::{Allowance, Pem};
use staple::Flaw;

mod authorities;
mod chain;
mod directory;
mod pem;
mod staple;

/// So many certificates by name at most.
const MOST_NAMED: usize = 10_000;

/// A certificate, a key or a response, in DER.
pub(super) type Der = Vec<u8>;

/// All that [`super::Contexts`] are built from beside settings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Material {
    /// Towards clients; none: TLS is not terminated.
    pub(super) front: Option<Front>,
    /// The authorities that servers are checked with; not those of [`Trust::Nobody`].
    pub(super) trust: BTreeMap<Trust, Vec<Der>>,
}

/// Towards clients.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Front {
    /// `-E`: for clients that ask for no name, or for one that nobody has.
    pub(super) default: Identity,
    /// Those of `ssl_sni_path`, in the order of their file names.
    pub(super) named: Vec<Identity>,
}

/// A certificate with all that belongs to it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The file it came from, for messages.
    pub(super) file: String,
    /// The name that its file is named after; none for that of `-E`.
    pub(super) pattern: Option<NamePattern>,
    /// The names in the certificate.
    pub(super) names: Vec<NamePattern>,
    /// The certificate, then the others that go with it to clients.
    pub(super) chain: Vec<Der>,
    /// As it is in its file.
    pub(super) key: Zeroizing<Der>,
    /// Whose client certificates are good: those of `-G` and `-A`, or of the name's own `.ca`.
    pub(super) authorities: Vec<Der>,
    /// What is stapled.
    pub(super) staple: Option<Staple>,
}

/// An OCSP response.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Staple {
    pub(super) response: Der,
    /// Seconds since 1970 from when on it is not stapled any more.
    pub(super) expires: Option<i64>,
}

/// What somebody should know although it is no reason not to go on, a line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Certificates that have expired, files that are not used.
    pub certificates: Vec<String>,
    /// OCSP responses that are not stapled.
    pub responses: Vec<String>,
}

impl Notes {
    /// All.
    pub fn lines(self) -> Vec<String> {
        [self.certificates, self.responses].concat()
    }

    /// Those that are not among these.
    pub fn beside(mut self, told: &Notes) -> Self {
        self.certificates.retain(|line| !told.certificates.contains(line));
        self.responses.retain(|line| !told.responses.contains(line));
        self
    }
}

/// Why TLS cannot be as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TlsError {
    /// The word of the settings that it is about (a file's name, a list of ciphers); empty if there is none.
    pub word: String,
    /// One line: which file or list, why, and what to do about it.
    pub reason: String,
    /// `NotFound` or `PermissionDenied`, if that is why a file was not read. From somewhere else, or as somebody else, it
    /// may have been read before.
    pub unreachable: Option<io::ErrorKind>,
}

impl Material {
    /// Do these settings need any?
    pub fn is_needed(settings: &Settings) -> bool {
        terminating(settings).is_some() || settings.servers.iter().any(|server| server.tls.is_some())
    }

    /// Reads all files that the settings name and checks what is in them.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(settings: &Settings) -> Result<(Self, Notes), TlsError> {
        let mut notes = Notes::default();
        let loaded = Self::load_noting(settings, &mut notes);
        // What the library has noted meanwhile must not be taken for what goes wrong later.
        let _ = ErrorStack::get();
        Ok((loaded?, notes))
    }

    fn load_noting(settings: &Settings, notes: &mut Notes) -> Result<Self, TlsError> {
        let front = match terminating(settings) {
            Some(certificate) => Some(Front::load(&settings.tls, certificate, notes)?),
            None => None,
        };
        let mut trust = BTreeMap::new();
        for tls in settings.servers.iter().filter_map(|server| server.tls.as_ref()) {
            if !trust.contains_key(&tls.trust)
                && let Some(authorities) = authorities::trusted(&tls.trust)?
            {
                trust.insert(tls.trust.clone(), in_der(&authorities)?);
            }
        }
        Ok(Material { front, trust })
    }

    /// Reads the OCSP responses alone again: true if something is different now, and [`Notes::responses`]. One that cannot be used, or read any more, leaves the one before it in its place until that expires, unless it says
    /// that the certificate has been revoked.
    pub fn restaple(&mut self, settings: &Settings) -> (bool, Vec<String>) {
        let mut notes = Vec::new();
        let mut changed = false;
        let Some(front) = &mut self.front else {
            return (false, notes);
        };
        let response = settings.tls.ocsp_response.clone();
        let named = front.named.iter_mut().map(|identity| (identity.response_beside(), identity));
        for (response, identity) in iter::once((response, &mut front.default)).chain(named) {
            let before = identity.staple.clone();
            identity.staple_from(response.as_deref(), &mut notes);
            changed |= identity.staple != before;
        }
        let _ = ErrorStack::get();
        (changed, notes)
    }

    /// The files that [`Material::restaple`] reads, as far as they are there.
    pub fn staple_files(settings: &Settings) -> Vec<PathBuf> {
        if terminating(settings).is_none() {
            return Vec::new();
        }
        let mut files: Vec<PathBuf> = settings.tls.ocsp_response.iter().cloned().collect();
        if let Some(path) = &settings.tls.sni_path {
            let names = directory::file_names(path).unwrap_or_default();
            let responses = names.iter().map(|name| path.join(name));
            files.extend(
                responses.filter(|path| path.extension().is_some_and(|end| end == directory::RESPONSE)),
            );
        }
        files
    }

    /// A copy in sealed memory, for other processes.
    ///
    /// # Errors
    /// No memory, no descriptors.
    pub fn pack(&self) -> io::Result<OwnedFd> {
        // All room at once: what grows leaves copies of keys behind.
        let size = postcard::experimental::serialized_size(self).map_err(io::Error::other)?;
        let bytes = postcard::to_extend(self, Vec::with_capacity(size)).map_err(io::Error::other)?;
        let bytes = Zeroizing::new(bytes);
        sealed::copy("pen-tls", bytes.as_slice(), bytes.len() as u64)
    }

    /// The other way.
    ///
    /// # Errors
    /// `InvalidData`; reading.
    pub fn unpack(memory: BorrowedFd<'_>) -> io::Result<Self> {
        let mapping = Mapping::of(memory)?;
        postcard::from_bytes(mapping.as_ref())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// The certificate, if TLS is terminated.
fn terminating(settings: &Settings) -> Option<&Path> {
    settings.tls.certificate.as_deref().filter(|_| !settings.tls.passthrough)
}

impl Front {
    fn load(tls: &TlsSettings, certificate: &Path, notes: &mut Notes) -> Result<Self, TlsError> {
        let known = Known {
            authorities: authorities::of_clients(tls)?,
            wanted: tls.verify_client != VerifyClient::Off,
        };
        let sources = Sources {
            pattern: None,
            certificate,
            key: tls.key.as_deref(),
            otherwise: "; name the file that has it with -K, or ssl_key",
        };
        let mut default = Identity::load(sources, &known, &mut Allowance::new(), notes)?;
        default.staple_from(tls.ocsp_response.as_deref(), &mut notes.responses);
        let named = match &tls.sni_path {
            Some(path) => Self::load_named(path, &known, notes).map_err(|error| error.in_directory(path))?,
            None => Vec::new(),
        };
        Ok(Front { default, named })
    }

    fn load_named(path: &Path, known: &Known, notes: &mut Notes) -> Result<Vec<Identity>, TlsError> {
        let listing = directory::list(path).map_err(|error| TlsError::unreadable(path, &error))?;
        if listing.certificates.len() > MOST_NAMED {
            let reason = format!("there are more than {MOST_NAMED} certificates in {}", path.display());
            return Err(TlsError::about(path, reason));
        }
        if listing.certificates.is_empty() {
            let note = format!("there is no certificate in {}: no file is named NAME.crt", path.display());
            notes.certificates.push(note);
        }
        for stray in &listing.strays {
            let certificate = stray.with_extension("crt");
            let note = format!("{} is not used, there is no {}", stray.display(), certificate.display());
            notes.certificates.push(note);
        }
        let mut allowance = Allowance::new();
        let mut named = Vec::with_capacity(listing.certificates.len());
        for entry in listing.certificates {
            let own = match &entry.authorities {
                Some(path) => {
                    let authorities = authorities::of_file(path, &mut allowance)?;
                    Some(Known { authorities, wanted: known.wanted })
                }
                None => None,
            };
            let sources = Sources {
                pattern: entry.pattern,
                certificate: &entry.certificate,
                key: entry.key.as_deref(),
                otherwise: ", and no file beside it with .key at its end",
            };
            let known = own.as_ref().unwrap_or(known);
            let mut identity = Identity::load(sources, known, &mut allowance, notes)?;
            if identity.pattern.is_none() && identity.names.is_empty() {
                let note = format!("{} is for no host name: no client will ask for it", identity.file);
                notes.certificates.push(note);
            }
            identity.staple_from(identity.response_beside().as_deref(), &mut notes.responses);
            named.push(identity);
        }
        Ok(named)
    }
}

/// Where a certificate comes from.
struct Sources<'a> {
    /// What the files are named after.
    pattern: Option<NamePattern>,
    certificate: &'a Path,
    /// None: it is in the file of the certificate.
    key: Option<&'a Path>,
    /// What to do if it is not.
    otherwise: &'a str,
}

/// The authorities that there are.
struct Known {
    authorities: Vec<X509>,
    /// Clients are asked for certificates.
    wanted: bool,
}

impl Identity {
    fn load(
        sources: Sources<'_>,
        known: &Known,
        allowance: &mut Allowance,
        notes: &mut Notes,
    ) -> Result<Self, TlsError> {
        let path = sources.certificate;
        let pem = Pem::read(path, allowance)?;
        let mut chain = pem.certificates()?;
        let own = chain[0].clone();
        let (key, as_it_is) = match sources.key {
            Some(path) => Pem::read(path, allowance)?.key("")?,
            None => pem.key(sources.otherwise)?,
        };
        let unusable = |error: ErrorStack| {
            let reason = pem::reason(&error);
            TlsError::about(path, format!("cannot use the certificate in {}: {reason}", path.display()))
        };
        if !own.public_key().map_err(unusable)?.public_eq(&key) {
            let key = sources.key.unwrap_or(path);
            let reason = format!(
                "the key in {} does not belong to the first certificate in {}, which must be the server's own",
                key.display(),
                path.display()
            );
            return Err(TlsError::about(path, reason));
        }
        if chain.len() == 1 {
            chain::complete(&mut chain, &known.authorities);
        }
        for certificate in &chain {
            if let Some(note) = chain::untimely(certificate).map_err(unusable)? {
                notes.certificates.push(format!("{}: {note}", path.display()));
            }
        }
        Ok(Identity {
            file: path.display().to_string(),
            pattern: sources.pattern,
            names: chain::names(&own),
            chain: in_der(&chain)?,
            key: as_it_is,
            authorities: if known.wanted { in_der(&known.authorities)? } else { Vec::new() },
            staple: None,
        })
    }

    /// `NAME.ocsp` beside `NAME.crt`, if it is there, or was: it may be out of reach now.
    fn response_beside(&self) -> Option<PathBuf> {
        let path = Path::new(&self.file).with_extension(directory::RESPONSE);
        (self.staple.is_some() || path.exists()).then_some(path)
    }

    /// Staples this response, or none. If it cannot be used, the one before it stays, as long as it is good and the
    /// certificate has not been revoked.
    fn staple_from(&mut self, response: Option<&Path>, notes: &mut Vec<String>) {
        let before = self.staple.take();
        let Some(path) = response else { return };
        self.staple = match staple::read(path, &self.chain, &self.authorities) {
            Ok(staple) => Some(staple),
            Err(flaw) => {
                let revoked = matches!(flaw, Flaw::Revoked);
                let kept = before.filter(|staple| !revoked && !staple.has_expired());
                let instead = if kept.is_some() { "; the one before it still is" } else { "" };
                notes.push(format!("the OCSP response {} is not stapled: {flaw}{instead}", path.display()));
                kept
            }
        };
    }
}

impl Staple {
    fn has_expired(&self) -> bool {
        let now = i64::try_from(clock::wall().0).unwrap_or(i64::MAX);
        self.expires.is_some_and(|expires| expires <= now)
    }
}

fn in_der(certificates: &[X509]) -> Result<Vec<Der>, ErrorStack> {
    certificates.iter().map(|certificate| certificate.to_der()).collect()
}

/// The library says no where nothing is wrong with what it was given: there is no memory.
impl From<ErrorStack> for TlsError {
    fn from(error: ErrorStack) -> Self {
        TlsError { word: String::new(), reason: format!("the TLS library fails: {error}"), unreachable: None }
    }
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // There are keys in it.
        f.write_str("Material")
    }
}

#[cfg(test)]
mod tests;
