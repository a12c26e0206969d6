//! Whom to believe: the authorities of clients (`-G`, `-A`) and of servers (`verify`).

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use openssl::x509::X509;
use openssl_probe::ProbeResult;

use super::pem::{Allowance, Pem};
use super::{Der, TlsError, directory};
use crate::model::tls::{TlsSettings, Trust};

/// Those of `-G` and `-A`, each once; none if neither is given.
pub(super) fn of_clients(tls: &TlsSettings) -> Result<Vec<X509>, TlsError> {
    let mut found = Vec::new();
    if let Some(path) = &tls.ca_file {
        found.extend(of_file(path, &mut Allowance::new())?);
    }
    if let Some(path) = &tls.ca_path {
        found.extend(of_directory(path).map_err(|error| error.in_directory(path))?);
    }
    distinct(found)
}

/// Those of one file; at least one.
pub(super) fn of_file(path: &Path, allowance: &mut Allowance) -> Result<Vec<X509>, TlsError> {
    distinct(Pem::read(path, allowance)?.certificates()?)
}

/// Those of a directory, which may have other files in it, and links that lead to the same one or to nothing; at least
/// one.
fn of_directory(path: &Path) -> Result<Vec<X509>, TlsError> {
    let mut allowance = Allowance::new();
    let mut found = Vec::new();
    for file in regular_files(path).map_err(|error| TlsError::unreadable(path, &error))? {
        let pem = Pem::read(&file, &mut allowance)?;
        if pem.has_certificates() {
            found.extend(pem.certificates()?);
        }
    }
    match found.is_empty() {
        true => Err(TlsError::about(path, format!("there are no certificates in PEM in {}", path.display()))),
        false => Ok(found),
    }
}

/// Those that servers are checked with; `None` for [`Trust::Nobody`].
pub(super) fn trusted(trust: &Trust) -> Result<Option<Vec<X509>>, TlsError> {
    match trust {
        Trust::Nobody => Ok(None),
        Trust::File(path) => of_file(path, &mut Allowance::new()).map(Some),
        Trust::System => of_system(&openssl_probe::probe()).map(Some),
    }
}

/// Those that came with the system. Nobody here has chosen them: what the library does not understand is left out.
fn of_system(places: &ProbeResult) -> Result<Vec<X509>, TlsError> {
    let files = match &places.cert_file {
        Some(file) => vec![file.clone()],
        None => places.cert_dir.iter().flat_map(|path| regular_files(path).unwrap_or_default()).collect(),
    };
    let mut allowance = Allowance::new();
    let mut found = Vec::new();
    let mut unread = None;
    for file in files {
        match Pem::read(&file, &mut allowance) {
            Ok(pem) => found.extend(pem.good_certificates()),
            Err(error) => unread = Some(error),
        }
    }
    if !found.is_empty() {
        return distinct(found);
    }
    let (why, unreachable) = match unread {
        Some(error) => (format!(": {}", error.reason), error.unreachable),
        None => (String::new(), None),
    };
    let reason = format!(
        "there are no authorities on this system that servers could be checked with{why}; install \
         ca-certificates, or name a file with verify"
    );
    Err(TlsError { word: String::new(), reason, unreachable })
}

fn regular_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = directory::file_names(path)?.into_iter().map(|name| path.join(name));
    Ok(paths.filter(|path| path.is_file()).collect())
}

/// Each once, in their order.
fn distinct(certificates: Vec<X509>) -> Result<Vec<X509>, TlsError> {
    let mut seen: HashSet<Der> = HashSet::new();
    let mut found = Vec::new();
    for certificate in certificates {
        if seen.insert(certificate.to_der()?) {
            found.push(certificate);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tls::testing::{Authority, Scratch};

    #[test]
    fn the_authorities_of_the_system_are_found_or_the_way_out_is_said() {
        let scratch = Scratch::new();
        let mut places = ProbeResult { cert_file: None, cert_dir: Vec::new() };
        let error = of_system(&places).err().unwrap();
        assert_eq!(error.word, "");
        assert!(error.reason.ends_with("install ca-certificates, or name a file with verify"), "{error}");
        let pem = Authority::new("root").pem();
        scratch.write(
            "certs/1.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_string() + &pem,
        );
        scratch.write("certs/2.pem", pem);
        places.cert_dir = vec![scratch.path().join("certs")];
        assert_eq!(of_system(&places).unwrap().len(), 1);
        places.cert_file = Some(scratch.path().join("certs/2.pem"));
        assert_eq!(of_system(&places).unwrap().len(), 1);
        places.cert_file = Some(scratch.path().join("missing"));
        assert!(of_system(&places).err().unwrap().unreachable.is_some());
    }
}
