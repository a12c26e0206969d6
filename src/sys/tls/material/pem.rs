//! Files in PEM.
//!
//! They are taken apart here and not by the library: that would ask for a passphrase at the terminal, says less about
//! what is wrong, and its builds differ.

use std::fmt::Display;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use openssl::base64;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use zeroize::Zeroizing;

use super::{Der, TlsError};
use crate::sys::reason::words;
use crate::sys::textfile;
use crate::sys::tls::library;

/// No longer file is read, in bytes: all authorities of the world take a quarter of that.
const MOST: u64 = 1 << 20;

/// How much may still be read of the files of a directory, in bytes.
#[derive(Debug)]
pub(super) struct Allowance(u64);

impl Allowance {
    /// 64 MiB.
    pub(super) fn new() -> Self {
        Allowance(64 << 20)
    }
}

/// A file in PEM.
pub(super) struct Pem {
    path: PathBuf,
    sections: Vec<Section>,
    /// There is no section, but it begins as DER does.
    looks_like_der: bool,
}

/// What is between BEGIN and END.
struct Section {
    /// `CERTIFICATE`
    label: String,
    /// The number of the line that begins it.
    line: usize,
    /// Encrypted the old way: a header says so.
    encrypted: bool,
    /// None if it is damaged.
    der: Option<Zeroizing<Vec<u8>>>,
}

/// A file of bounded length. What was read is wiped when it is dropped: there may be keys in it.
///
/// # Errors
/// It is no regular file, cannot be read, or is longer.
pub(super) fn read_at_most(path: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let (file, length) = textfile::open_regular(path)?;
    // All room at once: what grows leaves copies behind. It may have grown since.
    let room = length.min(most) + 2;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(room).unwrap_or(0)));
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(match most {
            MOST => "it has more than 1 MiB".to_string(),
            _ => format!("it has more than {most} bytes"),
        }));
    }
    Ok(bytes)
}

impl Pem {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is too long; about the file itself.
    pub(super) fn read(path: &Path, allowance: &mut Allowance) -> Result<Self, TlsError> {
        let bytes = read_at_most(path, MOST).map_err(|error| TlsError::unreadable(path, &error))?;
        allowance.0 = allowance.0.checked_sub(bytes.len() as u64).ok_or_else(|| {
            let reason = "it and the files before it have more than 64 MiB together";
            TlsError::about(path, format!("cannot read {}: {reason}", path.display()))
        })?;
        let sections = sections(&bytes);
        let looks_like_der = sections.is_empty() && bytes.first() == Some(&0x30);
        Ok(Pem { path: path.to_owned(), sections, looks_like_der })
    }

    /// The certificates in it, in their order.
    ///
    /// # Errors
    /// One is damaged; there is none.
    pub(super) fn certificates(&self) -> Result<Vec<X509>, TlsError> {
        let certificates = self.certificate_sections().map(|section| {
            let der = section.der.as_ref().ok_or_else(|| self.unusable(section, "it is damaged"))?;
            X509::from_der(der).map_err(|error| self.unusable(section, reason(&error)))
        });
        let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
        match certificates.is_empty() {
            true => Err(self.nothing("certificate", "openssl x509 -inform der", "")),
            false => Ok(certificates),
        }
    }

    /// Is there any?
    pub(super) fn has_certificates(&self) -> bool {
        self.certificate_sections().next().is_some()
    }

    /// The certificates in it that are good; there may be none.
    pub(super) fn good_certificates(&self) -> impl Iterator<Item = X509> {
        self.certificate_sections().filter_map(|section| X509::from_der(section.der.as_ref()?).ok())
    }

    /// The first private key in it, and as it is there, in DER. (To have the library write it again would leave a copy
    /// in memory that is free: OpenSSL does not wipe what it writes on the way.)
    ///
    /// # Errors
    /// It is encrypted, damaged, or of a kind that is not known; there is none: then `way_out` is added.
    pub(super) fn key(&self, way_out: &str) -> Result<(PKey<Private>, Zeroizing<Der>), TlsError> {
        let Some(section) = self.sections.iter().find(|section| section.label.ends_with("PRIVATE KEY"))
        else {
            return Err(self.nothing("private key", "openssl pkey -inform der", way_out));
        };
        let path = self.path.display();
        if section.encrypted || section.label.starts_with("ENCRYPTED") {
            let reason = format!(
                "the key in {path} is encrypted, and there is nobody to ask for the passphrase; decrypt it: \
                 openssl pkey -in {path} -out NEWFILE"
            );
            return Err(TlsError::about(&self.path, reason));
        }
        let der = section.der.as_ref().ok_or_else(|| self.unusable(section, "it is damaged"))?;
        let key = PKey::private_key_from_der(der).map_err(|error| self.unusable(section, reason(&error)))?;
        Ok((key, der.clone()))
    }

    fn certificate_sections(&self) -> impl Iterator<Item = &Section> {
        let kinds = ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"];
        self.sections.iter().filter(move |section| kinds.contains(&section.label.as_str()))
    }

    fn unusable(&self, section: &Section, reason: impl Display) -> TlsError {
        let Section { label, line, .. } = section;
        let path = self.path.display();
        TlsError::about(&self.path, format!("cannot use the {label} in line {line} of {path}: {reason}"))
    }

    /// What is missing, and the command that makes PEM of DER.
    fn nothing(&self, what: &str, command: &str, way_out: &str) -> TlsError {
        let path = self.path.display();
        let way_out = match self.looks_like_der {
            true => format!("; it seems to be in DER, convert it to PEM: {command} -in {path} -out NEWFILE"),
            false => way_out.to_string(),
        };
        TlsError::about(&self.path, format!("there is no {what} in PEM in {path}{way_out}"))
    }
}

/// What the library says.
pub(super) fn reason(error: &ErrorStack) -> String {
    let reason = error.errors().iter().rev().find_map(|error| error.reason());
    reason.map_or_else(|| "it is damaged".to_string(), library::plain)
}

/// Takes a file apart. Whatever is between sections is a comment.
fn sections(text: &[u8]) -> Vec<Section> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut found: Vec<Section> = Vec::new();
    // Of the section that has begun, with room for all there can be: what grows leaves copies behind.
    let mut base64 = Zeroizing::new(String::with_capacity(2 * text.len()));
    let mut open = false;
    for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        let line = line.trim_ascii();
        if let Some(label) = marker(line, "-----BEGIN ") {
            found.push(Section { label, line: number, encrypted: false, der: None });
            base64.clear();
            open = true;
            continue;
        }
        let Some(section) = found.last_mut().filter(|_| open) else {
            continue;
        };
        if let Some(label) = marker(line, "-----END ") {
            if label == section.label && !base64.is_empty() {
                section.der = base64::decode_block(&base64).ok().map(Zeroizing::new);
            }
            open = false;
        } else if line.contains(&b':') {
            section.encrypted |= line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED");
        } else {
            // What is not ASCII becomes something that is no base64 either.
            base64
                .extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()).map(|&byte| char::from(byte)));
        }
    }
    found
}

fn marker(line: &[u8], before: &str) -> Option<String> {
    let label = line.strip_prefix(before.as_bytes())?.strip_suffix(b"-----")?;
    Some(String::from_utf8_lossy(label).into_owned())
}

impl TlsError {
    /// About a file that settings name.
    pub(super) fn about(path: &Path, reason: String) -> Self {
        TlsError { word: path.display().to_string(), reason, unreachable: None }
    }

    /// A file or directory that cannot be read.
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let kind = error.kind();
        let unreachable =
            matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied).then_some(kind);
        let reason = format!("cannot read {}: {}", path.display(), words(error));
        TlsError { unreachable, ..TlsError::about(path, reason) }
    }

    /// The same about a directory that settings name, when it is a file in it that is wrong.
    pub(in crate::sys::tls) fn in_directory(self, path: &Path) -> Self {
        TlsError { word: path.display().to_string(), ..self }
    }
}
