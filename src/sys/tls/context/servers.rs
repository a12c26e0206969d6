//! Towards servers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Ssl, SslContext, SslMethod, SslRef, SslSession, SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use openssl::x509::verify::X509CheckFlags;

use super::{failed, prepare, set_default_groups, store};
use crate::model::ids::MAX_SERVERS;
use crate::model::tls::{ServerIdentity, Subject};
use crate::sys::tls::library;
use crate::sys::tls::material::{Der, TlsError};

/// The newest session with each server, by [`ServerIdentity::fingerprint`]. Servers come and go while a context stays, so
/// that there may be some of servers that were.
type Sessions = Arc<Mutex<HashMap<u64, Known>>>;

/// A session, and the certificate that it began with.
struct Known {
    session: SslSession,
    certificate: Option<X509>,
}

/// With as many as there can be servers all go: the next connection to each begins a new one.
fn make_room<T>(sessions: &mut HashMap<u64, T>, server: u64) {
    if sessions.len() >= MAX_SERVERS as usize && !sessions.contains_key(&server) {
        sessions.clear();
    }
}

/// Is it over with this certificate? Who resumes a session does not show it again.
fn has_expired(certificate: &X509) -> Result<bool, ErrorStack> {
    Ok(*certificate.not_after() < *Asn1Time::days_from_now(0)?)
}

/// Servers that are checked with the same authorities.
pub(super) struct Towards {
    context: SslContext,
    sessions: Sessions,
    verifies: bool,
}

impl Towards {
    /// None: whoever it is.
    pub(super) fn build(authorities: Option<&Vec<Der>>) -> Result<Self, TlsError> {
        Self::try_build(authorities.map(Vec::as_slice)).map_err(failed)
    }

    fn try_build(authorities: Option<&[Der]>) -> Result<Self, ErrorStack> {
        let mut builder = SslContext::builder(SslMethod::tls_client())?;
        prepare(&mut builder);
        builder.set_options(library::options());
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
        library::set_ciphersuites(&mut builder, library::CIPHERSUITES)?;
        set_default_groups(&mut builder)?;
        match authorities {
            Some(authorities) => {
                builder.set_cert_store(store(authorities)?);
                builder.set_verify(SslVerifyMode::PEER);
            }
            None => builder.set_verify(SslVerifyMode::NONE),
        }
        builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        let sessions = Sessions::default();
        let newest = Arc::clone(&sessions);
        let index = fingerprint_index()?;
        builder.set_new_session_callback(move |ssl: &mut SslRef, session| {
            if let Some(server) = ssl.ex_data(index) {
                let known = Known { session, certificate: ssl.peer_certificate() };
                let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
                make_room(&mut newest, *server);
                newest.insert(*server, known);
            }
        });
        Ok(Towards { context: builder.build(), sessions, verifies: authorities.is_some() })
    }

    /// A connection that has not said anything yet.
    pub(super) fn connect(&self, server: &ServerIdentity) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.context)?;
        match &server.subject {
            Subject::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                ssl.set_hostname(name)?;
                if self.verifies {
                    let param = ssl.param_mut();
                    param.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
                    param.set_host(name)?;
                }
            }
            Subject::Address(address) if self.verifies => ssl.param_mut().set_ip(*address)?,
            Subject::Address(_) | Subject::Nothing => {}
        }
        let server = server.fingerprint();
        ssl.set_ex_data(fingerprint_index()?, server);
        if let Some(known) = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(&server)
            && !(self.verifies && known.certificate.as_ref().map_or(Ok(false), has_expired)?)
        {
            resume(&mut ssl, &known.session)?;
        }
        ssl.set_connect_state();
        Ok(ssl)
    }
}

/// Offers a session of the same [`Towards`].
#[allow(unsafe_code)]
fn resume(ssl: &mut Ssl, session: &SslSession) -> Result<(), ErrorStack> {
    // SAFETY: the session must have been made under the same context. It has: `Towards::sessions` is filled by the
    // callback of `Towards::context` alone, which all connections of that `Towards` are made from.
    unsafe { ssl.set_session(session) }
}

/// Where a connection carries the fingerprint of its server.
fn fingerprint_index() -> Result<Index<Ssl, u64>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, u64>> = OnceLock::new();
    library::place(&INDEX, Ssl::new_ex_index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tls::testing::{Authority, IssueOptions, Validity};

    #[test]
    fn there_are_no_more_sessions_than_there_can_be_servers() {
        let mut sessions = HashMap::new();
        for server in 0..3 * u64::from(MAX_SERVERS) {
            for _ in 0..2 {
                make_room(&mut sessions, server);
                sessions.insert(server, ());
            }
            assert!(sessions.len() <= MAX_SERVERS as usize && sessions.contains_key(&server));
        }
        make_room(&mut sessions, 3 * u64::from(MAX_SERVERS) - 1);
        assert_eq!(sessions.len(), MAX_SERVERS as usize);
    }

    #[test]
    fn a_session_ends_with_the_certificate_of_its_server() {
        let authority = Authority::new("authority");
        for (validity, over) in [(Validity::Past, true), (Validity::Ending, false)] {
            let (certificate, _) = authority.issue(IssueOptions { validity, ..IssueOptions::default() });
            assert_eq!(has_expired(&X509::from_pem(certificate.as_bytes()).unwrap()).unwrap(), over);
        }
    }
}
