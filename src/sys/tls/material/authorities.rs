//! Whom to believe: the authorities of clients (`-G`, `-A`) and of servers (`verify`).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::{env, io};

use openssl::x509::X509;

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
        Trust::System => of_system(&Places::find()).map(Some),
    }
}

/// Where the authorities of the system are.
#[derive(Debug, Default)]
struct Places {
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

impl Places {
    /// Where SSL_CERT_FILE and SSL_CERT_DIR say, as OpenSSL has it; else where systems have them.
    fn find() -> Self {
        let named = |variable| -> Vec<PathBuf> {
            let value = env::var_os(variable).unwrap_or_default();
            env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()).collect()
        };
        let named = Places { files: named("SSL_CERT_FILE"), directories: named("SSL_CERT_DIR") };
        if !named.files.is_empty() || !named.directories.is_empty() {
            return named;
        }
        let usual = openssl_probe::probe();
        match usual.cert_file {
            // All of them; the directory has them again, one by one.
            Some(file) => Places { files: vec![file], directories: Vec::new() },
            None => Places { files: Vec::new(), directories: usual.cert_dir },
        }
    }
}

/// Those that came with the system. Nobody here has chosen them: what the library does not understand is left out.
fn of_system(places: &Places) -> Result<Vec<X509>, TlsError> {
    let mut files = places.files.clone();
    let mut unread = None;
    for directory in &places.directories {
        match regular_files(directory) {
            Ok(more) => files.extend(more),
            Err(error) => unread = Some(TlsError::unreadable(directory, &error)),
        }
    }
    let mut allowance = Allowance::new();
    let mut found = Vec::new();
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
        // In a jail there may be none although there were some outside.
        None => (String::new(), Some(io::ErrorKind::NotFound)),
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
        let mut places = Places::default();
        let error = of_system(&places).err().unwrap();
        assert_eq!((error.word.as_str(), error.unreachable), ("", Some(io::ErrorKind::NotFound)));
        assert!(error.reason.ends_with("install ca-certificates, or name a file with verify"), "{error}");
        let pem = Authority::new("root").pem();
        scratch.write(
            "certs/1.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_string() + &pem,
        );
        scratch.write("certs/2.pem", pem);
        places.directories = vec![scratch.path().join("certs")];
        assert_eq!(of_system(&places).unwrap().len(), 1);
        places.files = vec![scratch.write("more.pem", Authority::new("more").pem())];
        assert_eq!(of_system(&places).unwrap().len(), 2);
        places = Places { files: vec![scratch.path().join("missing")], ..Places::default() };
        let error = of_system(&places).err().unwrap();
        assert!(error.reason.contains("missing: No such file") && error.unreachable.is_some(), "{error}");
    }
}
