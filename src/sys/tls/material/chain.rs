//! Certificates and what is in them: who issued which, for which names, and from when till when.

use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::x509::{X509, X509Ref, X509VerifyResult};

use crate::model::server_name::NamePattern;

/// So many certificates are added to a server's own at most: enough for every authority that there is.
const LONGEST: usize = 10;

/// Is this certificate by that authority?
pub(super) fn has_issued(issuer: &X509Ref, certificate: &X509Ref) -> bool {
    let signed = || certificate.verify(&*issuer.public_key()?);
    issuer.issued(certificate) == X509VerifyResult::OK && signed().unwrap_or(false)
}

/// Adds those whom the last certificate was issued by, up to a root, which clients must have anyway.
pub(super) fn complete(chain: &mut Vec<X509>, authorities: &[X509]) {
    for _ in 0..LONGEST {
        let Some(last) = chain.last() else { return };
        let next = authorities
            .iter()
            .find(|authority| has_issued(authority, last) && !has_issued(authority, authority));
        let Some(next) = next.filter(|next| !is_among(next, chain)).cloned() else { return };
        chain.push(next);
    }
}

fn is_among(certificate: &X509Ref, others: &[X509]) -> bool {
    others.iter().any(|other| other.to_der().ok() == certificate.to_der().ok())
}

/// The host names that it is for. Only one without any in its extensions has one in its common name.
pub(super) fn names(certificate: &X509Ref) -> Vec<NamePattern> {
    let mut names: Vec<NamePattern> = Vec::new();
    for name in all_names(certificate).iter().filter_map(|name| name.parse().ok()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn all_names(certificate: &X509Ref) -> Vec<String> {
    let alternatives = certificate.subject_alt_names();
    let names: Vec<String> =
        alternatives.iter().flatten().filter_map(|name| name.dnsname().map(str::to_string)).collect();
    if !names.is_empty() {
        return names;
    }
    let common = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
    common.filter_map(|name| name.data().to_string().ok()).collect()
}

/// What somebody should know about the time that it is good for: `the certificate for NAME expired …`.
pub(super) fn untimely(certificate: &X509Ref) -> Result<Option<String>, ErrorStack> {
    let now = Asn1Time::days_from_now(0)?;
    let for_whom = all_names(certificate).into_iter().next().unwrap_or_else(|| "nobody".to_string());
    Ok(if certificate.not_after().compare(&now)?.is_lt() {
        Some(format!("the certificate for {for_whom} expired on {}", certificate.not_after()))
    } else if certificate.not_before().compare(&now)?.is_gt() {
        Some(format!("the certificate for {for_whom} is not valid before {}", certificate.not_before()))
    } else {
        None
    })
}
