use std::sync::{Arc, Mutex};

use foreign_types::ForeignType;
use openssl::ssl::{SslContextBuilder, SslSession, SslSessionCacheMode};

use super::*;
use crate::model::time::Seconds;
use crate::model::tls::VerifyClient;
use crate::sys::tls::Peer;
use crate::sys::tls::testing::Validity;

const VERSIONS: [TlsVersion; 2] = [TlsVersion::Tls12, TlsVersion::Tls13];

fn made_with(keys: &Rc<TicketKeys>, tls: TlsSettings, material: &Material) -> Contexts {
    Contexts::build(&with(tls), material, keys, Scope::AsNeeded).unwrap()
}

/// A connection to this server: was an earlier session resumed?
fn resumes(clients: &Contexts, servers: &Contexts, name: &str) -> bool {
    let mut pair = Pair::new(clients, servers, &at(name));
    assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
    assert_eq!(pair.client.resumed(), pair.server.resumed());
    // Whoever leaves without a word has his session forgotten.
    pair.client.finish().unwrap();
    pair.server.resumed()
}

#[test]
fn what_one_worker_began_any_other_resumes() {
    for version in VERSIONS {
        let (_, material) = simple();
        let keys = keys();
        let clients = made_with(&keys, only(version), &material);
        let workers = [(); 3].map(|()| made_with(&keys, only(version), &material));
        assert!(!resumes(&clients, &workers[0], "www.test"));
        for worker in workers.iter().cycle().take(6) {
            assert!(resumes(&clients, worker, "www.test"), "{version:?}");
        }
        let strangers = made_with(&super::keys(), only(version), &material);
        assert!(!resumes(&clients, &strangers, "www.test"), "these have other keys");
    }
}

#[test]
fn tickets_outlive_two_rotations_and_no_third() {
    for version in VERSIONS {
        let (_, material) = simple();
        for (rotations, alive) in [(1, true), (2, true), (3, false), (4, false)] {
            let keys = keys();
            let contexts = made_with(&keys, only(version), &material);
            assert!(!resumes(&contexts, &contexts, "www.test"));
            for _ in 0..rotations {
                keys.rotate().unwrap();
            }
            assert_eq!(resumes(&contexts, &contexts, "www.test"), alive, "{version:?}, {rotations}");
        }
    }
}

/// For clients that remember the session that they were given last.
fn remembering() -> (SslContextBuilder, Arc<Mutex<Option<SslSession>>>) {
    let newest = Arc::new(Mutex::new(None));
    let told = Arc::clone(&newest);
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder.set_session_cache_mode(SslSessionCacheMode::CLIENT);
    builder.set_new_session_callback(move |_, session| *told.lock().unwrap() = Some(session));
    (builder, newest)
}

#[test]
#[allow(unsafe_code)]
fn no_ticket_outlives_the_certificate_of_its_client() {
    for (version, validity) in
        VERSIONS.into_iter().flat_map(|it| [(it, Validity::Now), (it, Validity::Ending)])
    {
        let authority = Authority::new("authority");
        let mut default = identity(&authority, &["www.test"]);
        default.authorities = vec![authority.certificate.to_der().unwrap()];
        let tls = TlsSettings { verify_client: VerifyClient::Require, ..only(version) };
        let contexts = build(tls, &material(&authority, default, Vec::new()));
        let (certificate, key) = authority.issue(IssueOptions { validity, ..IssueOptions::default() });
        let (mut builder, newest) = remembering();
        builder.set_certificate(&X509::from_pem(certificate.as_bytes()).unwrap()).unwrap();
        builder.set_private_key(&PKey::private_key_from_pem(key.as_bytes()).unwrap()).unwrap();
        let client = builder.build();
        for round in 0..2 {
            let mut ssl = Ssl::new(&client).unwrap();
            ssl.set_connect_state();
            if let Some(session) = newest.lock().unwrap().take() {
                // SAFETY: all sessions are of the same context.
                unsafe { ssl.set_session(&session) }.unwrap();
            }
            let mut pair = Pair::from_stranger(ssl, &contexts);
            assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
            assert_eq!(pair.server.resumed(), round > 0 && validity == Validity::Now, "{version:?}, {round}");
            pair.client.finish().unwrap();
        }
    }
}

#[test]
#[allow(unsafe_code)]
fn a_client_is_known_as_well_when_it_resumes() {
    for (version, asked) in
        VERSIONS.into_iter().flat_map(|it| ["www.test", "api.test", "x"].map(|name| (it, name)))
    {
        let authority = Authority::new("authority");
        let with_authorities = |identity: Identity| Identity {
            authorities: vec![authority.certificate.to_der().unwrap()],
            ..identity
        };
        let default = with_authorities(identity(&authority, &["www.test"]));
        let named = with_authorities(Identity {
            pattern: Some("api.test".parse().unwrap()),
            ..identity(&authority, &["api.test"])
        });
        let alpn = vec!["h2".to_owned()];
        let tls = TlsSettings { verify_client: VerifyClient::Request, alpn, ..only(version) };
        let contexts = build(tls, &material(&authority, default, vec![named]));
        let common_name = "Cl\u{ed}ent";
        let (certificate, key) = authority.issue(IssueOptions { common_name, ..IssueOptions::default() });
        let (mut builder, newest) = remembering();
        builder.set_certificate(&X509::from_pem(certificate.as_bytes()).unwrap()).unwrap();
        builder.set_private_key(&PKey::private_key_from_pem(key.as_bytes()).unwrap()).unwrap();
        builder.set_alpn_protos(b"\x02h2").unwrap();
        let client = builder.build();
        for round in 0..2 {
            let mut ssl = Ssl::new(&client).unwrap();
            ssl.set_connect_state();
            ssl.set_hostname(asked).unwrap();
            if let Some(session) = newest.lock().unwrap().take() {
                // SAFETY: all sessions are of the same context.
                unsafe { ssl.set_session(&session) }.unwrap();
            }
            let mut pair = Pair::from_stranger(ssl, &contexts);
            assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
            let known = &pair.server;
            assert_eq!(known.resumed(), round > 0, "{version:?}");
            assert_eq!(known.server_name(), Some(asked), "{version:?}, {round}");
            assert_eq!(known.protocol(), Some(&b"h2"[..]));
            assert_eq!(known.version(), if version == TlsVersion::Tls13 { "TLSv1.3" } else { "TLSv1.2" });
            assert!(known.cipher().contains("AES"), "{}", known.cipher());
            assert_eq!(known.peer(), Some(Peer { name: Some(common_name.to_owned()), result: 0 }));
            pair.client.finish().unwrap();
        }
    }
}

#[test]
#[allow(unsafe_code)]
fn who_resumes_with_an_old_ticket_gets_a_new_one() {
    for version in VERSIONS {
        let (_, material) = simple();
        let keys = keys();
        let contexts = made_with(&keys, only(version), &material);
        let (builder, newest) = remembering();
        let client = builder.build();
        let mut session: Option<SslSession> = None;
        for round in 0..10 {
            let mut ssl = Ssl::new(&client).unwrap();
            ssl.set_connect_state();
            if let Some(session) = &session {
                // SAFETY: all sessions are of the same context.
                unsafe { ssl.set_session(session) }.unwrap();
            }
            let mut pair = Pair::from_stranger(ssl, &contexts);
            assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
            assert_eq!(pair.server.resumed(), round > 0, "{version:?}, {round}");
            pair.client.finish().unwrap();
            // OpenSSL does not tell of what has been renewed with TLS 1.2.
            let present = || pair.client.ssl().session().map(ToOwned::to_owned);
            session = newest.lock().unwrap().take().or_else(present);
            keys.rotate().unwrap();
        }
    }
}

#[test]
fn without_keys_nothing_is_resumed_and_everybody_served() {
    for version in VERSIONS {
        let (_, material) = simple();
        let keys = keys();
        let contexts = made_with(&keys, only(version), &material);
        assert!(!resumes(&contexts, &contexts, "www.test"));
        keys.wipe();
        for _ in 0..3 {
            assert!(!resumes(&contexts, &contexts, "www.test"), "{version:?}");
        }
    }
}

#[test]
fn a_session_is_good_only_where_clients_are_checked_the_same_way() {
    for version in VERSIONS {
        let authority = Authority::new("authority");
        let (one, another) = (Authority::new("one"), Authority::new("another"));
        let keys = keys();
        let believing = |whom: &Authority, verify_client| {
            let mut default = identity(&authority, &["www.test"]);
            default.authorities = vec![whom.certificate.to_der().unwrap()];
            let tls = TlsSettings { verify_client, ..only(version) };
            made_with(&keys, tls, &material(&authority, default, Vec::new()))
        };
        let first = believing(&one, VerifyClient::Request);
        assert!(!resumes(&first, &first, "www.test"));
        assert!(resumes(&first, &believing(&one, VerifyClient::Request), "www.test"));
        assert!(!resumes(&first, &believing(&another, VerifyClient::Request), "www.test"), "{version:?}");
        assert!(!resumes(&first, &believing(&one, VerifyClient::Off), "www.test"), "{version:?}");
    }
}

#[test]
fn names_have_their_own_authorities_and_sessions_of_their_own() {
    for version in VERSIONS {
        let authority = Authority::new("authority");
        let keys = keys();
        let named = |name: &str, whom: &Authority| Identity {
            pattern: Some(name.parse().unwrap()),
            authorities: vec![whom.certificate.to_der().unwrap()],
            ..identity(&authority, &["www.test"])
        };
        let (one, another) = (Authority::new("one"), Authority::new("another"));
        let default = || identity(&authority, &["default.test"]);
        let tls = TlsSettings { verify_client: VerifyClient::Request, ..only(version) };
        let believing = |whom| {
            let material = material(&authority, default(), vec![named("www.test", whom)]);
            made_with(&keys, tls.clone(), &material)
        };
        let first = believing(&one);
        assert!(!resumes(&first, &first, "www.test"));
        assert!(resumes(&first, &believing(&one), "www.test"), "{version:?}");
        assert!(!resumes(&first, &believing(&another), "www.test"), "{version:?}");
    }
}

#[test]
fn a_session_is_offered_only_to_the_server_that_it_is_with() {
    let authority = Authority::new("authority");
    let default = identity(&authority, &["www.test", "api.test"]);
    let contexts = build(TlsSettings::default(), &material(&authority, default, Vec::new()));
    assert!(!resumes(&contexts, &contexts, "www.test"));
    assert!(!resumes(&contexts, &contexts, "api.test"));
    assert!(resumes(&contexts, &contexts, "www.test"));
    assert!(resumes(&contexts, &contexts, "api.test"));
}

#[test]
fn a_client_gets_one_ticket_that_lives_as_long_as_its_key() {
    let (_, material) = simple();
    for (rotation, lifetime) in [(3600, 7200), (u32::MAX, 7 * 24 * 3600)] {
        let ticket_rotation = Seconds(rotation);
        for version in VERSIONS {
            let contexts = build(TlsSettings { ticket_rotation, ..only(version) }, &material);
            let sessions = Arc::new(Mutex::new(Vec::new()));
            let tickets = Arc::clone(&sessions);
            let client = stranger(|builder| {
                builder.set_session_cache_mode(SslSessionCacheMode::CLIENT);
                builder.set_new_session_callback(move |_, session| tickets.lock().unwrap().push(session));
            });
            assert_eq!(Pair::from_stranger(client, &contexts).shake(), BOTH_ARE_HAPPY);
            let sessions = sessions.lock().unwrap();
            assert_eq!(sessions.len(), 1, "{version:?}");
            // AWS-LC's clients do not show what they were told.
            if cfg!(not(feature = "aws-lc")) {
                assert_eq!(lifetime_of(&sessions[0]), lifetime, "{version:?}");
            }
        }
    }
}

/// How long a ticket lives, by what the server says.
#[allow(unsafe_code)]
fn lifetime_of(session: &SslSession) -> u64 {
    #[cfg(not(feature = "aws-lc"))]
    unsafe extern "C" {
        fn SSL_SESSION_get_ticket_lifetime_hint(
            session: *const openssl_sys::SSL_SESSION,
        ) -> std::os::raw::c_ulong;
    }
    #[cfg(feature = "aws-lc")]
    use openssl_sys::SSL_SESSION_get_ticket_lifetime_hint;
    // SAFETY: a session that lives as long as this call.
    let seconds = unsafe { SSL_SESSION_get_ticket_lifetime_hint(session.as_ptr()) };
    #[allow(clippy::useless_conversion, reason = "AWS-LC's have 32 bits")]
    seconds.into()
}
