//! Certificates and OCSP responses, made on the spot: what the stories told here and the tests inside of pen
//! (`src/sys/tls/testing.rs`, which has this file, too) make theirs from.
#![allow(unreachable_pub)] // each has it as a module of its own

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name, X509Ref};

pub const DAY: i64 = 24 * 3600;

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// A kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    P256,
    Rsa2048,
    /// On this curve.
    Curve(Nid),
}

impl Kind {
    pub fn generate(self) -> PKey<Private> {
        let curve = match self {
            Kind::Rsa2048 => return PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
            Kind::P256 => Nid::X9_62_PRIME256V1,
            Kind::Curve(curve) => curve,
        };
        let group = EcGroup::from_curve_name(curve).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    }
}

/// What a certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To sign others.
    Authority,
    /// To be a server, or a client.
    Peer,
    /// The same, and to sign OCSP responses for its issuer.
    Responder,
}

/// What is in a certificate.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    pub common_name: &'a str,
    /// DNS names, or IP addresses.
    pub names: &'a [&'a str],
    /// From when till when it is good, in seconds since 1970.
    pub time: (i64, i64),
    pub purpose: Purpose,
}

/// A certificate for this key, by somebody else or by itself.
pub fn certify(by: Option<(&X509Ref, &PKeyRef<Private>)>, key: &PKeyRef<Private>, content: Content) -> X509 {
    let mut subject = X509Name::builder().unwrap();
    subject.append_entry_by_nid(Nid::COMMONNAME, content.common_name).unwrap();
    let subject = subject.build();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::ONE, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(by.map_or(&*subject, |(issuer, _)| issuer.subject_name())).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(content.time.0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(content.time.1).unwrap()).unwrap();
    extend(&mut builder, by.map(|(issuer, _)| issuer), content);
    builder.sign(by.map_or(key, |(_, key)| key), MessageDigest::sha256()).unwrap();
    builder.build()
}

fn extend(builder: &mut X509Builder, issuer: Option<&X509Ref>, content: Content) {
    let (mut constraints, mut usage) = (BasicConstraints::new(), KeyUsage::new());
    constraints.critical();
    usage.critical().digital_signature();
    let mut extensions = Vec::new();
    if content.purpose == Purpose::Authority {
        constraints.ca();
        usage.key_cert_sign().crl_sign();
    } else {
        usage.key_encipherment();
        let mut purposes = ExtendedKeyUsage::new();
        purposes.server_auth().client_auth();
        if content.purpose == Purpose::Responder {
            purposes.other("OCSPSigning");
        }
        extensions.push(purposes.build().unwrap());
    }
    extensions.extend([constraints.build().unwrap(), usage.build().unwrap()]);
    extensions.into_iter().for_each(|extension| builder.append_extension(extension).unwrap());
    let own = SubjectKeyIdentifier::new().build(&builder.x509v3_context(issuer, None)).unwrap();
    builder.append_extension(own).unwrap();
    if issuer.is_some() {
        let theirs = AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(issuer, None));
        builder.append_extension(theirs.unwrap()).unwrap();
    }
    if !content.names.is_empty() {
        let mut alternatives = SubjectAlternativeName::new();
        for name in content.names {
            match name.parse::<IpAddr>() {
                Ok(_) => alternatives.ip(name),
                Err(_) => alternatives.dns(name),
            };
        }
        let alternatives = alternatives.build(&builder.x509v3_context(issuer, None)).unwrap();
        builder.append_extension(alternatives).unwrap();
    }
}

/// An OCSP response, in DER, as it is made in this directory.
pub struct OcspResponse<'a> {
    /// Who issued the certificate.
    pub issuer: &'a X509Ref,
    /// Who signs the response: the issuer, or somebody whom it has given a certificate for that.
    pub signer: (&'a X509Ref, &'a PKeyRef<Private>),
    pub certificate: &'a X509Ref,
    pub revoked: bool,
    /// Good for a day from now on, or for ever.
    pub ends: bool,
}

impl OcspResponse<'_> {
    pub fn make(&self, directory: &Path) -> Vec<u8> {
        let write = |name, content: Vec<u8>| fs::write(directory.join(name), content).unwrap();
        let serial = self.certificate.serial_number().to_bn().unwrap().to_hex_str().unwrap();
        let state = if self.revoked { "R\t491231235959Z\t200101000000Z" } else { "V\t491231235959Z\t" };
        write("index", format!("{state}\t{serial}\tunknown\t/CN=x\n").into_bytes());
        write("issuer", self.issuer.to_pem().unwrap());
        write("signer", self.signer.0.to_pem().unwrap());
        write("key", self.signer.1.private_key_to_pem_pkcs8().unwrap());
        write("certificate", self.certificate.to_pem().unwrap());
        let mut openssl = Command::new("openssl");
        openssl.current_dir(directory);
        openssl.args(["ocsp", "-index", "index", "-CA", "issuer", "-rsigner", "signer", "-rkey", "key"]);
        openssl.args(["-issuer", "issuer", "-cert", "certificate", "-respout", "response", "-noverify"]);
        if self.ends {
            openssl.args(["-ndays", "1"]);
        }
        let output = openssl.output().unwrap();
        fs::read(directory.join("response"))
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    }
}
