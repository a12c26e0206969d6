//! Certificates for tests, made on the spot.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::x509::{X509, X509Ref};

use super::context::{Contexts, Scope};
use super::material::{Front, Identity, Material};
use super::tickets::TicketKeys;
use crate::model::settings::Settings;
use crate::model::tls::{ServerIdentity, Subject, Trust};

#[path = "../../../tests/behaviour/support/certificates.rs"]
mod certificates;

use certificates::{Content, DAY, OcspResponse, Purpose, certify};
pub(crate) use certificates::{Kind, now};

/// From PEM.
pub(super) fn chain(pem: &str) -> Vec<Vec<u8>> {
    X509::stack_from_pem(pem.as_bytes()).unwrap().iter().map(|x509| x509.to_der().unwrap()).collect()
}

/// A certificate for these names, of a file named after the first.
pub(super) fn identity(authority: &Authority, names: &[&str]) -> Identity {
    identity_with(authority, names, Kind::P256)
}

/// The same, with a key of this kind.
pub(super) fn identity_with(authority: &Authority, names: &[&str], key: Kind) -> Identity {
    let common_name = names.first().copied().unwrap_or("nobody");
    let (certificate, key) = authority.issue(IssueOptions { names, common_name, key, ..Default::default() });
    Identity {
        file: format!("{common_name}.crt"),
        pattern: None,
        names: names.iter().filter_map(|name| name.parse().ok()).collect(),
        chain: chain(&certificate),
        key: PKey::private_key_from_pem(key.as_bytes()).unwrap().private_key_to_pkcs8().unwrap().into(),
        authorities: Vec::new(),
        staple: None,
    }
}

/// Contexts that terminate TLS, and the server that they are themselves to those who connect with them.
pub(crate) fn contexts() -> (Contexts, ServerIdentity) {
    let authority = Authority::new("authority");
    let default = Identity { names: Vec::new(), ..identity(&authority, &["www.test"]) };
    let trust = BTreeMap::from([(Trust::System, vec![authority.certificate.to_der().unwrap()])]);
    let material = Material { front: Some(Front { default, named: Vec::new() }), trust };
    let tickets = Rc::new(TicketKeys::create().unwrap());
    let contexts = Contexts::build(&Settings::default(), &material, &tickets, Scope::Everything).unwrap();
    let subject = Subject::Name("www.test".to_owned());
    (contexts, ServerIdentity { trust: Trust::System, subject })
}

/// A directory that goes with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pen-tls-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, or writes over it, in a directory that need not exist.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Validity {
    Now,
    /// For an hour.
    Ending,
    Past,
    Future,
}

impl Validity {
    fn time(self) -> (i64, i64) {
        let (from, to) = match self {
            Validity::Now => (-DAY, 30 * DAY),
            Validity::Ending => (-DAY, 3600),
            Validity::Past => (-30 * DAY, -DAY),
            Validity::Future => (DAY, 30 * DAY),
        };
        (now() + from, now() + to)
    }
}

/// What is in a certificate; [`IssueOptions::default`] is good for nobody in particular.
#[derive(Clone, Copy)]
pub(crate) struct IssueOptions<'a> {
    /// SAN: DNS names, or IP addresses.
    pub(crate) names: &'a [&'a str],
    pub(crate) common_name: &'a str,
    pub(crate) validity: Validity,
    pub(crate) key: Kind,
    /// It may sign OCSP responses for its issuer.
    pub(crate) ocsp_signing: bool,
}

/// What an OCSP response says.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Answer {
    /// For one day.
    Good,
    /// For ever.
    GoodWithoutEnd,
    Revoked,
    /// Good, in 2020. (The signature is not.)
    Expired,
}

impl Default for IssueOptions<'_> {
    fn default() -> Self {
        IssueOptions {
            names: &[],
            common_name: "somebody",
            validity: Validity::Now,
            key: Kind::P256,
            ocsp_signing: false,
        }
    }
}

/// Who issues certificates, for servers and clients.
pub(crate) struct Authority {
    pub(crate) certificate: X509,
    pub(crate) key: PKey<Private>,
}

impl Authority {
    /// A root.
    pub(crate) fn new(name: &str) -> Self {
        Self::made(None, name)
    }

    /// One that this one vouches for.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        Self::made(Some((&self.certificate, &self.key)), name)
    }

    fn made(by: Option<(&X509Ref, &PKeyRef<Private>)>, common_name: &str) -> Self {
        let key = Kind::P256.generate();
        let purpose = Purpose::Authority;
        let content = Content { common_name, names: &[], time: Validity::Now.time(), purpose };
        Authority { certificate: certify(by, &key, content), key }
    }

    /// Its certificate, in PEM.
    pub(crate) fn pem(&self) -> String {
        String::from_utf8(self.certificate.to_pem().unwrap()).unwrap()
    }

    /// A certificate and its key (PKCS #8), in PEM.
    pub(crate) fn issue(&self, options: IssueOptions<'_>) -> (String, String) {
        let IssueOptions { names, common_name, validity, key, ocsp_signing } = options;
        let key = key.generate();
        let purpose = if ocsp_signing { Purpose::Responder } else { Purpose::Peer };
        let content = Content { common_name, names, time: validity.time(), purpose };
        let certificate = certify(Some((&self.certificate, &self.key)), &key, content);
        let pem = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (pem(certificate.to_pem().unwrap()), pem(key.private_key_to_pem_pkcs8().unwrap()))
    }

    /// An OCSP response about one of its certificates, in DER.
    pub(crate) fn ocsp_response(&self, certificate: &str, answer: Answer) -> Vec<u8> {
        let key = String::from_utf8(self.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        self.ocsp_response_by((&self.pem(), &key), certificate, answer)
    }

    /// The same, signed by somebody else.
    pub(crate) fn ocsp_response_by(
        &self,
        signer: (&str, &str),
        certificate: &str,
        answer: Answer,
    ) -> Vec<u8> {
        let signers_key = PKey::private_key_from_pem(signer.1.as_bytes()).unwrap();
        let read = |pem: &str| X509::from_pem(pem.as_bytes()).unwrap();
        let mut response = OcspResponse {
            issuer: &self.certificate,
            signer: (&read(signer.0), &signers_key),
            certificate: &read(certificate),
            revoked: answer == Answer::Revoked,
            ends: answer != Answer::GoodWithoutEnd,
        }
        .make(Scratch::new().path());
        if answer == Answer::Expired {
            // GeneralizedTime: when it was made, from when on and till when it is good.
            let mut times = (0..response.len() - 17).filter(|&at| response[at..].starts_with(b"\x18\x0f20"));
            let last = times.nth(2).unwrap();
            response[last + 2..last + 6].copy_from_slice(b"2020");
        }
        response
    }
}
