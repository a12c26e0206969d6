//! OCSP responses: which one is worth stapling.
//!
//! A client can do without, but not with one that is wrong. What is checked is what somebody who confuses files or
//! forgets to fetch a new one gets wrong; the signature, too, where the issuer's certificate is at hand.

use std::io;
use std::path::Path;

use der::{Decode, Encode, Header, Reader, SliceReader};
use openssl::asn1::Asn1Object;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Public};
use openssl::sign::Verifier;
use openssl::x509::{X509, X509ExtendedKeyUsage};
use x509_ocsp::{BasicOcspResponse, CertStatus, OcspResponse, OcspResponseStatus};

use super::chain::has_issued;
use super::{Der, Staple, pem};
use crate::sys::clock;
use crate::sys::reason::words;

/// No longer response is read, in bytes. They have less than 3000 as a rule.
const MOST: u64 = 64 << 10;

/// By how much the clock of a responder may be ahead, in seconds.
const SKEW: u64 = 300;

/// Why a response is not stapled.
#[derive(Debug, thiserror::Error)]
pub(super) enum Flaw {
    #[error("cannot read it: {}", words(.0))]
    Unreadable(#[from] io::Error),
    #[error("it is not an OCSP response in DER")]
    NoResponse(#[from] der::Error),
    #[error("it says that the responder had no answer ({0:?})")]
    NoAnswer(OcspResponseStatus),
    #[error("it is for another certificate")]
    OtherCertificate,
    #[error("it says that the certificate has been revoked")]
    Revoked,
    #[error("it says that the responder does not know the certificate")]
    Unknown,
    #[error("it is good from {0} on only")]
    Early(der::DateTime),
    #[error("it expired at {0}")]
    Expired(der::DateTime),
    #[error("its signature is not by the issuer of the certificate")]
    Signature,
    #[error("the library says: {0}")]
    Library(#[from] ErrorStack),
}

/// Reads the response for the first certificate of `chain`, whose issuer may be among the others, or the authorities.
pub(super) fn read(path: &Path, chain: &[Der], authorities: &[Der]) -> Result<Staple, Flaw> {
    let response = pem::read_at_most(path, MOST)?.to_vec();
    let expires = check(&response, chain, authorities)?;
    Ok(Staple { response, expires })
}

/// Until when it is good.
fn check(response: &[u8], chain: &[Der], authorities: &[Der]) -> Result<Option<i64>, Flaw> {
    let (own, others) = chain.split_first().ok_or(Flaw::OtherCertificate)?;
    let own = X509::from_der(own)?;
    let envelope = OcspResponse::from_der(response)?;
    let bytes = match (envelope.response_status, &envelope.response_bytes) {
        (OcspResponseStatus::Successful, Some(bytes)) => bytes.response.as_bytes(),
        (status, _) => return Err(Flaw::NoAnswer(status)),
    };
    let basic = BasicOcspResponse::from_der(bytes)?;
    let serial = own.serial_number().to_bn()?.to_vec();
    let mut answers = basic.tbs_response_data.responses.iter();
    let answer = answers
        .find(|answer| without_zeros(answer.cert_id.serial_number.as_bytes()) == without_zeros(&serial))
        .ok_or(Flaw::OtherCertificate)?;
    match answer.cert_status {
        CertStatus::Good(_) => {}
        CertStatus::Revoked(_) => return Err(Flaw::Revoked),
        CertStatus::Unknown(_) => return Err(Flaw::Unknown),
    }
    let now = clock::wall().0;
    let this = answer.this_update.0.to_date_time();
    if this.unix_duration().as_secs() > now.saturating_add(SKEW) {
        return Err(Flaw::Early(this));
    }
    let next = answer.next_update.map(|time| time.0.to_date_time());
    if let Some(next) = next.filter(|next| next.unix_duration().as_secs() <= now) {
        return Err(Flaw::Expired(next));
    }
    let mut issuers = others.iter().chain(authorities).filter_map(|der| X509::from_der(der).ok());
    if let Some(issuer) = issuers.find(|issuer| has_issued(issuer, &own))
        && !is_signed(bytes, &basic, &issuer)?
    {
        return Err(Flaw::Signature);
    }
    Ok(next.and_then(|next| i64::try_from(next.unix_duration().as_secs()).ok()))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    &number[zeros..]
}

/// Has the issuer signed it, or somebody whom it has given a certificate for that? Also true if the kind of signature
/// is one that cannot be checked here.
fn is_signed(bytes: &[u8], basic: &BasicOcspResponse, issuer: &X509) -> Result<bool, Flaw> {
    let Some(digest) = digest(&basic.signature_algorithm.oid.to_string()) else {
        return Ok(true);
    };
    let signed = signed_part(bytes)?;
    let signature = basic.signature.raw_bytes();
    let by = |key: PKey<Public>| -> Result<bool, ErrorStack> {
        let mut verifier = Verifier::new(digest, &key)?;
        verifier.update(signed)?;
        // An error, too, if the key is of another kind than the signature.
        Ok(verifier.verify(signature).unwrap_or(false))
    };
    if by(issuer.public_key()?)? {
        return Ok(true);
    }
    for certificate in basic.certs.iter().flatten() {
        let delegate = X509::from_der(&certificate.to_der()?)?;
        let usage = delegate.extended_key_usage().unwrap_or(X509ExtendedKeyUsage::empty());
        let may = usage.contains(X509ExtendedKeyUsage::OCSP_SIGN) && has_issued(issuer, &delegate);
        if may && by(delegate.public_key()?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The digest in a signature of this kind, if it is one with a digest and nothing more to know.
fn digest(algorithm: &str) -> Option<MessageDigest> {
    let kind = Asn1Object::from_str(algorithm).ok()?.nid().signature_algorithms()?;
    MessageDigest::from_nid(kind.digest)
}

/// What the signature is for, as it stands there: the first part.
fn signed_part(basic: &[u8]) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(basic)?;
    Header::decode(&mut reader)?;
    reader.tlv_bytes()
}
