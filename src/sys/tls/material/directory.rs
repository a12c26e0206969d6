//! Directories: certificates by name (`ssl_sni_path`), and authorities (`ssl_ca_path`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::server_name::NamePattern;

/// What is in a directory of certificates by name.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// In the order of the file names.
    pub(super) certificates: Vec<Entry>,
    /// Keys and others without a certificate.
    pub(super) strays: Vec<PathBuf>,
}

/// The files of one name.
#[derive(Debug)]
pub(super) struct Entry {
    /// What they are named after; none if that is no host name.
    pub(super) pattern: Option<NamePattern>,
    /// `NAME.crt`
    pub(super) certificate: PathBuf,
    /// `NAME.key`
    pub(super) key: Option<PathBuf>,
    /// `NAME.ca`
    pub(super) authorities: Option<PathBuf>,
}

/// What a file that goes with `NAME.crt` ends with.
const COMPANIONS: [&str; 3] = ["key", "ca", RESPONSE];

/// What an OCSP response ends with.
pub(super) const RESPONSE: &str = "ocsp";

/// Lists certificates by name.
///
/// # Errors
/// It cannot be read.
pub(super) fn list(directory: &Path) -> io::Result<Listing> {
    let names = file_names(directory)?;
    let find = |name: String| names.contains(&name).then(|| directory.join(name));
    let mut listing = Listing::default();
    for name in &names {
        match name.rsplit_once('.') {
            Some((stem, "crt")) => listing.certificates.push(Entry {
                pattern: pattern(stem),
                certificate: directory.join(name),
                key: find(format!("{stem}.key")),
                authorities: find(format!("{stem}.ca")),
            }),
            Some((stem, ending))
                if COMPANIONS.contains(&ending) && !names.contains(&format!("{stem}.crt")) =>
            {
                listing.strays.push(directory.join(name));
            }
            _ => {}
        }
    }
    Ok(listing)
}

/// All files in a directory, sorted, without hidden ones. (Those that are not UTF-8 are not named after a host, and no
/// authority's.)
///
/// # Errors
/// It cannot be read.
pub(super) fn file_names(directory: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        if let Ok(name) = entry?.file_name().into_string()
            && !name.starts_with('.')
        {
            names.insert(name);
        }
    }
    Ok(names)
}

/// `_.example.com` is another spelling of `*.example.com`, for those who do not like stars in the names of files.
fn pattern(stem: &str) -> Option<NamePattern> {
    match stem.strip_prefix("_.") {
        Some(rest) => format!("*.{rest}").parse().ok(),
        None => stem.parse().ok(),
    }
}
