//! Certificates for tests, made on the spot.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder, X509Ref};

use super::context::{Contexts, Scope};
use super::material::{Front, Identity, Material};
use super::tickets::TicketKeys;
use crate::model::settings::Settings;
use crate::model::tls::{ServerIdentity, Subject, Trust};

/// From PEM.
pub(super) fn chain(pem: &str) -> Vec<Vec<u8>> {
    X509::stack_from_pem(pem.as_bytes()).unwrap().iter().map(|x509| x509.to_der().unwrap()).collect()
}

/// A certificate for these names, of a file without a name.
pub(super) fn identity(authority: &Authority, names: &[&str]) -> Identity {
    let common_name = names.first().copied().unwrap_or("nobody");
    let (certificate, key) = authority.issue(IssueOptions { names, common_name, ..Default::default() });
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

const DAY: i64 = 24 * 3600;

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

#[derive(Clone, Copy)]
pub(crate) enum KeyKind {
    Rsa(u32),
    P256,
}

impl KeyKind {
    pub(crate) fn generate(self) -> PKey<Private> {
        match self {
            KeyKind::Rsa(bits) => PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap(),
            KeyKind::P256 => {
                let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
                PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
            }
        }
    }
}

/// What is in a certificate; [`IssueOptions::default`] is good for nobody in particular.
#[derive(Clone, Copy)]
pub(crate) struct IssueOptions<'a> {
    /// SAN: DNS names, or IP addresses.
    pub(crate) names: &'a [&'a str],
    pub(crate) common_name: &'a str,
    pub(crate) validity: Validity,
    pub(crate) key: KeyKind,
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
            key: KeyKind::P256,
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
        let key = KeyKind::P256.generate();
        let certificate = certify(None, name, &key, Validity::Now, |builder, issuer| {
            authority_extensions(builder, issuer);
        });
        Authority { certificate, key }
    }

    /// One that this one vouches for.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyKind::P256.generate();
        let certificate = certify(Some(self), name, &key, Validity::Now, |builder, issuer| {
            authority_extensions(builder, issuer);
        });
        Authority { certificate, key }
    }

    /// Its certificate, in PEM.
    pub(crate) fn pem(&self) -> String {
        String::from_utf8(self.certificate.to_pem().unwrap()).unwrap()
    }

    /// A certificate and its key (PKCS #8), in PEM.
    pub(crate) fn issue(&self, options: IssueOptions<'_>) -> (String, String) {
        let key = options.key.generate();
        let certificate =
            certify(Some(self), options.common_name, &key, options.validity, |builder, issuer| {
                let context = builder.x509v3_context(issuer, None);
                let mut usage = ExtendedKeyUsage::new();
                usage.server_auth().client_auth();
                if options.ocsp_signing {
                    usage.other("OCSPSigning");
                }
                let mut extensions = vec![
                    usage.build().unwrap(),
                    AuthorityKeyIdentifier::new().keyid(true).build(&context).unwrap(),
                ];
                if !options.names.is_empty() {
                    let mut names = SubjectAlternativeName::new();
                    for name in options.names {
                        if name.parse::<std::net::IpAddr>().is_ok() {
                            names.ip(name);
                        } else {
                            names.dns(name);
                        }
                    }
                    extensions.push(names.build(&context).unwrap());
                }
                for extension in extensions {
                    builder.append_extension(extension).unwrap();
                }
            });
        let pem = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (pem(certificate.to_pem().unwrap()), pem(key.private_key_to_pem_pkcs8().unwrap()))
    }
}

impl Authority {
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
        let scratch = Scratch::new();
        let serial = X509::from_pem(certificate.as_bytes()).unwrap().serial_number().to_bn().unwrap();
        let serial = serial.to_hex_str().unwrap();
        let state = match answer {
            Answer::Revoked => "R\t491231235959Z\t200101000000Z",
            _ => "V\t491231235959Z\t",
        };
        scratch.write("index", format!("{state}\t{serial}\tunknown\t/CN=x\n"));
        scratch.write("issuer", self.pem());
        scratch.write("signer", signer.0);
        scratch.write("key", signer.1);
        scratch.write("certificate", certificate);
        let mut openssl = Command::new("openssl");
        openssl.current_dir(scratch.path());
        openssl.args(["ocsp", "-index", "index", "-CA", "issuer", "-rsigner", "signer", "-rkey", "key"]);
        openssl.args(["-issuer", "issuer", "-cert", "certificate", "-respout", "response", "-noverify"]);
        if answer != Answer::GoodWithoutEnd {
            openssl.args(["-ndays", "1"]);
        }
        let output = openssl.output().unwrap();
        let mut response = fs::read(scratch.path().join("response"))
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        if answer == Answer::Expired {
            // GeneralizedTime: when it was made, from when on and till when it is good.
            let mut times = (0..response.len() - 17).filter(|&at| response[at..].starts_with(b"\x18\x0f20"));
            let last = times.nth(2).unwrap();
            response[last + 2..last + 6].copy_from_slice(b"2020");
        }
        response
    }
}

fn authority_extensions(builder: &mut X509Builder, issuer: Option<&X509Ref>) {
    builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    let usage = KeyUsage::new().critical().key_cert_sign().crl_sign().digital_signature().build();
    builder.append_extension(usage.unwrap()).unwrap();
    let own = SubjectKeyIdentifier::new().build(&builder.x509v3_context(issuer, None)).unwrap();
    builder.append_extension(own).unwrap();
    if issuer.is_some() {
        let theirs = AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(issuer, None));
        builder.append_extension(theirs.unwrap()).unwrap();
    }
}

/// A certificate by an authority, or by itself.
fn certify(
    by: Option<&Authority>,
    name: &str,
    key: &PKey<Private>,
    validity: Validity,
    extend: impl FnOnce(&mut X509Builder, Option<&X509Ref>),
) -> X509 {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::ONE, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    let subject = common_name(name);
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(by.map_or(&*subject, |authority| authority.certificate.subject_name())).unwrap();
    let (from, to) = match validity {
        Validity::Now => (-DAY, 30 * DAY),
        Validity::Ending => (-DAY, 3600),
        Validity::Past => (-30 * DAY, -DAY),
        Validity::Future => (DAY, 30 * DAY),
    };
    builder.set_not_before(&Asn1Time::from_unix(now() + from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(now() + to).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    extend(&mut builder, by.map(|authority| &*authority.certificate));
    builder.sign(by.map_or(key, |authority| &authority.key), MessageDigest::sha256()).unwrap();
    builder.build()
}

fn common_name(name: &str) -> X509Name {
    let mut builder = X509NameBuilder::new().unwrap();
    builder.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    builder.build()
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}
