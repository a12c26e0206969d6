use std::net::{IpAddr, Ipv4Addr};

use openssl::nid::Nid;
use openssl::ssl::{SslVersion, StatusType};

use super::super::material::Staple;
use super::super::testing::{self, Kind, Validity};
use super::*;
use crate::model::tls::{TlsOption, VerifyClient};
use crate::model::{address::ServerSpec, tls::ServerTls};

fn error(ends: Ends) -> String {
    ends.0.expect_err("the client should not be content")
}

#[test]
fn the_newest_version_and_the_cheapest_good_suite_are_agreed_on() {
    let (_, material) = simple();
    for (tls, description) in [
        (TlsSettings::default(), "TLSv1.3 TLS_AES_128_GCM_SHA256"),
        (only(TlsVersion::Tls13), "TLSv1.3 TLS_AES_128_GCM_SHA256"),
        (only(TlsVersion::Tls12), "TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256"),
    ] {
        let contexts = build(tls, &material);
        let mut pair = Pair::new(&contexts, &contexts, &at("www.test"));
        assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
        assert_eq!(pair.server.describe(), description);
        assert_eq!(pair.client.describe(), description);
        assert!(!pair.server.resumed());
    }
}

#[test]
fn the_server_chooses_the_suite_whatever_the_client_prefers() {
    let (_, material) = simple();
    for (ours, theirs, chosen) in [
        (None, "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        (None, "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
        (
            Some("TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"),
            "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384",
            "TLS_AES_256_GCM_SHA384",
        ),
        // Who puts this one first cannot do AES in hardware.
        (
            None,
            "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256",
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
    ] {
        let ciphersuites = ours.map(str::to_owned);
        let contexts = build(TlsSettings { ciphersuites, ..TlsSettings::default() }, &material);
        let client = stranger(|builder| {
            super::super::library::set_ciphersuites(builder, theirs).unwrap();
        });
        let mut pair = Pair::from_stranger(client, &contexts);
        assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
        // AWS-LC's client has an order of its own: what counts is that the server's was followed.
        if !(cfg!(feature = "aws-lc") && theirs.starts_with("TLS_CHACHA20")) {
            assert_eq!(pair.server.describe(), format!("TLSv1.3 {chosen}"));
        }
    }
}

#[test]
fn versions_that_are_not_allowed_are_refused() {
    let (_, material) = simple();
    let options = vec![TlsOption::NoTlsv12];
    let contexts = build(TlsSettings { options, ..TlsSettings::default() }, &material);
    for (version, tls) in
        [(SslVersion::TLS1_2, &contexts), (SslVersion::TLS1_1, &build(TlsSettings::default(), &material))]
    {
        let client = stranger(|builder| {
            super::super::library::allow_sha1(builder);
            builder.set_min_proto_version(Some(SslVersion::TLS1)).unwrap();
            builder.set_max_proto_version(Some(version)).unwrap();
        });
        let mut pair = Pair::from_stranger(client, tls);
        let (client, server) = pair.shake();
        assert!(client.unwrap_err().contains("protocol version"));
        assert_eq!(server.unwrap_err(), "unsupported protocol");
    }
}

#[test]
fn old_versions_work_where_they_are_allowed() {
    let (_, material) = simple();
    let settings = TlsSettings { min_version: TlsVersion::Tls10, ..TlsSettings::default() };
    let contexts = build(settings, &material);
    for (version, name) in [(SslVersion::TLS1, "TLSv1 "), (SslVersion::TLS1_1, "TLSv1.1 ")] {
        let client = stranger(|builder| {
            super::super::library::allow_sha1(builder);
            builder.set_min_proto_version(Some(SslVersion::TLS1)).unwrap();
            builder.set_max_proto_version(Some(version)).unwrap();
            builder.set_cipher_list("ALL").unwrap();
        });
        let mut pair = Pair::from_stranger(client, &contexts);
        assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
        assert!(pair.server.describe().starts_with(name), "{}", pair.server.describe());
    }
}

#[test]
fn a_key_that_no_client_asks_for_is_refused_by_whoever_checks() {
    let authority = Authority::new("authority");
    let of = |key| testing::identity_with(&authority, &["www.test"], key);
    let good = || testing::identity(&authority, &["other.test"]);
    let build = |tls: &TlsSettings, default, named, scope| {
        Contexts::build(&with(tls.clone()), &material(&authority, default, named), &keys(), scope).err()
    };
    let usual = TlsSettings { sni_path: Some("/names".into()), ..TlsSettings::default() };
    for kind in [Kind::P256, Kind::Rsa2048, Kind::Curve(Nid::SECP384R1), Kind::Curve(Nid::SECP521R1)] {
        assert_eq!(build(&usual, of(kind), vec![of(kind)], Scope::Everything), None, "{kind:?}");
    }
    let odd = Kind::Curve(Nid::SECP256K1);
    let error = build(&usual, of(odd), Vec::new(), Scope::Everything).unwrap();
    assert_eq!(error.word, "www.test.crt");
    let begins = "cannot use the certificate in www.test.crt: ";
    let ends = " has no handshake for its kind of key (EC, secp256k1); take one on P-256, or RSA";
    assert!(error.reason.starts_with(begins) && error.reason.ends_with(ends), "{error}");
    let error = build(&usual, good(), vec![good(), of(odd)], Scope::Everything).unwrap();
    assert_eq!(error.word, "/names");
    assert!(error.reason.starts_with(begins), "{error}");
    // Workers get what has been checked.
    assert_eq!(build(&usual, of(odd), vec![of(odd)], Scope::AsNeeded), None);
}

/// Not with AWS-LC, which has none of these curves.
#[cfg(not(feature = "aws-lc"))]
#[test]
fn a_curve_that_must_be_asked_for_is_taken_if_it_is() {
    let authority = Authority::new("authority");
    let odd = testing::identity_with(&authority, &["www.test"], Kind::Curve(Nid::BRAINPOOL_P256R1));
    let groups = "brainpoolP256r1:P-256";
    let tls = TlsSettings { groups: Some(groups.to_owned()), ..TlsSettings::default() };
    let contexts = build(tls, &material(&authority, odd, Vec::new()));
    let client = stranger(|builder| {
        builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
        builder.set_groups_list(groups).unwrap();
    });
    assert_eq!(Pair::from_stranger(client, &contexts).shake(), BOTH_ARE_HAPPY);
}

#[test]
fn nothing_in_common_is_said_so() {
    let (_, material) = simple();
    let contexts = build(only(TlsVersion::Tls12), &material);
    let client = stranger(|builder| builder.set_cipher_list("ECDHE-RSA-AES128-GCM-SHA256").unwrap());
    let mut pair = Pair::from_stranger(client, &contexts);
    assert_eq!(pair.shake().1, Err("no shared cipher".to_owned()));
}

#[test]
fn each_name_gets_its_certificate() {
    let authority = Authority::new("authority");
    let with_file = |name: &str, names: &[&str]| {
        let mut identity = identity(&authority, names);
        identity.pattern = Some(name.parse().unwrap());
        identity
    };
    let named = vec![
        with_file("a.test", &["cert-a.test", "both.test"]),
        with_file("*.wild.test", &["cert-wild.test"]),
        with_file("both.test", &["cert-both.test", "other.test"]),
    ];
    let default = identity(&authority, &["default.test", "x.wild.test"]);
    let material = material(&authority, default, named);
    for scope in [Scope::Everything, Scope::AsNeeded] {
        let contexts = Contexts::build(&with(TlsSettings::default()), &material, &keys(), scope).unwrap();
        for (asked, given) in [
            (Some("a.test"), "cert-a.test"),
            (Some("A.Test"), "cert-a.test"),
            (Some("y.wild.test"), "cert-wild.test"),
            (Some("cert-a.test"), "cert-a.test"),
            (Some("other.test"), "cert-both.test"),
            // A file's name comes before a name in a certificate.
            (Some("both.test"), "cert-both.test"),
            // A whole name comes before a wildcard, in the default certificate too.
            (Some("x.wild.test"), "default.test"),
            (Some("default.test"), "default.test"),
            (Some("z.y.wild.test"), "default.test"),
            (Some("unknown.test"), "default.test"),
            (Some("../a.test"), "default.test"),
            (None, "default.test"),
        ] {
            let mut client = stranger(|_| {});
            if let Some(name) = asked {
                client.set_hostname(name).unwrap();
            }
            let mut pair = Pair::from_stranger(client, &contexts);
            assert_eq!(pair.shake(), BOTH_ARE_HAPPY, "{asked:?}");
            assert_eq!(pair.presented(), given, "{asked:?}");
        }
    }
}

#[test]
fn a_certificate_that_fails_when_it_is_needed_harms_nobody_else() {
    let authority = Authority::new("authority");
    let broken = Identity {
        pattern: Some("broken.test".parse().unwrap()),
        key: identity(&authority, &["another.test"]).key,
        ..identity(&authority, &["broken.test"])
    };
    let material = material(&authority, identity(&authority, &["www.test"]), vec![broken]);
    let settings = with(TlsSettings::default());
    let error = Contexts::build(&settings, &material, &keys(), Scope::Everything).unwrap_err();
    assert_eq!(error.word, "broken.test.crt");
    assert!(error.reason.starts_with("broken.test.crt: key"), "{error}");
    let contexts = Contexts::build(&settings, &material, &keys(), Scope::AsNeeded).unwrap();
    for _ in 0..2 {
        let (client, server) = Pair::new(&contexts, &contexts, &at("broken.test")).shake();
        assert!(client.unwrap_err().starts_with("the peer refused: "));
        assert!(server.is_err());
    }
    assert_eq!(Pair::new(&contexts, &contexts, &at("www.test")).shake(), BOTH_ARE_HAPPY);
}

#[test]
fn a_server_is_whom_it_should_be() {
    let authority = Authority::new("authority");
    let default = identity(&authority, &["www.test", "*.wild.test", "127.0.0.1"]);
    let mut material = material(&authority, default, Vec::new());
    let foreign = Authority::new("foreign").certificate.to_der().unwrap();
    let file = Trust::File("foreign.pem".into());
    material.trust.insert(file.clone(), vec![foreign]);
    let anybody = ServerTls { trust: Trust::Nobody, name: None };
    let spec = ServerSpec { tls: Some(anybody), ..ServerSpec::unset() };
    let settings = Settings { servers: vec![spec], ..Settings::default() };
    let contexts = Contexts::build(&settings, &material, &keys(), Scope::Everything).unwrap();
    let name = |name: &str| Subject::Name(name.to_owned());
    let address = |last| Subject::Address(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)));
    let failed = "certificate verify failed";
    for (trust, subject, wrong) in [
        (Trust::System, name("www.test"), None),
        (Trust::System, name("www.test."), None),
        (Trust::System, name("x.wild.test"), None),
        (Trust::System, address(1), None),
        (Trust::System, Subject::Nothing, None),
        (Trust::System, name("other.test"), Some("hostname mismatch")),
        (Trust::System, address(2), Some("IP address mismatch")),
        (file.clone(), name("www.test"), Some("unable to get local issuer certificate")),
        (file, Subject::Nothing, Some("unable to get local issuer certificate")),
        (Trust::Nobody, name("other.test"), None),
        (Trust::Nobody, address(2), None),
    ] {
        let to = ServerIdentity { trust, subject };
        let ends = Pair::new(&contexts, &contexts, &to).shake();
        match wrong {
            None => assert_eq!(ends, BOTH_ARE_HAPPY, "{to:?}"),
            Some(wrong) => {
                let (client, server) = ends;
                let client = client.unwrap_err().to_lowercase();
                assert_eq!(client, format!("{failed} ({})", wrong.to_lowercase()), "{to:?}");
                assert!(server.is_err() || cfg!(feature = "aws-lc"), "{to:?}");
            }
        }
    }
    let stranger = ServerIdentity { trust: Trust::File("new.pem".into()), subject: Subject::Nothing };
    let refused = contexts.connect(&stranger, sockets().0.into(), &Outbox::default()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_context_that_terminates_nothing_accepts_nobody() {
    let contexts = Contexts::default();
    assert!(!contexts.terminate());
    assert!(contexts.accept(sockets().1.into(), &Outbox::default()).is_err());
    assert!(build(TlsSettings::default(), &simple().1).terminate());
}

/// Who is a client?
enum Papers<'a> {
    None,
    From(&'a Authority, Validity),
}

#[test]
fn clients_are_checked_as_asked_for() {
    let (authority, foreign) = (Authority::new("authority"), Authority::new("foreign"));
    let mut default = identity(&authority, &["www.test"]);
    default.authorities = vec![authority.certificate.to_der().unwrap()];
    let material = material(&authority, default, Vec::new());
    let bad = |reason: &str| Err(format!("certificate verify failed ({reason})"));
    let missing = || Err("peer did not return a certificate".to_owned());
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        for (verify_client, papers, result) in [
            (VerifyClient::Off, Papers::None, Ok(())),
            (VerifyClient::Off, Papers::From(&foreign, Validity::Past), Ok(())),
            (VerifyClient::Request, Papers::None, Ok(())),
            (VerifyClient::Require, Papers::None, missing()),
            (VerifyClient::Request, Papers::From(&authority, Validity::Now), Ok(())),
            (VerifyClient::Require, Papers::From(&authority, Validity::Now), Ok(())),
            (VerifyClient::Request, Papers::From(&authority, Validity::Past), bad("certificate has expired")),
            (VerifyClient::Require, Papers::From(&authority, Validity::Past), bad("certificate has expired")),
            (
                VerifyClient::Require,
                Papers::From(&authority, Validity::Future),
                bad("certificate is not yet valid"),
            ),
            (
                VerifyClient::Require,
                Papers::From(&foreign, Validity::Now),
                bad("unable to get local issuer certificate"),
            ),
        ] {
            let contexts = build(TlsSettings { verify_client, ..only(version) }, &material);
            let client = stranger(|builder| {
                if let Papers::From(authority, validity) = papers {
                    let (certificate, key) =
                        authority.issue(IssueOptions { validity, ..IssueOptions::default() });
                    builder.set_certificate(&X509::from_pem(certificate.as_bytes()).unwrap()).unwrap();
                    builder.set_private_key(&PKey::private_key_from_pem(key.as_bytes()).unwrap()).unwrap();
                }
            });
            let (client, server) = Pair::from_stranger(client, &contexts).shake();
            assert_eq!(server, result);
            // The client is told so: what it hears is not just the end.
            match result {
                Ok(()) => assert_eq!(client, Ok(())),
                Err(_) => assert!(client.unwrap_err().starts_with("the peer refused: ")),
            }
        }
    }
}

#[test]
fn the_protocol_that_the_server_likes_best_is_agreed_on() {
    let (_, material) = simple();
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let alpn = vec!["h2".to_owned(), "http/1.1".to_owned()];
        let contexts = build(TlsSettings { alpn, ..only(version) }, &material);
        for (offered, chosen) in [
            (&b"\x08http/1.1\x02h2"[..], Ok(Some(&b"h2"[..]))),
            (b"\x03foo\x08http/1.1", Ok(Some(b"http/1.1"))),
            (b"\x03foo", Err(())),
            (b"", Ok(None)),
        ] {
            let client = stranger(|builder| {
                if !offered.is_empty() {
                    builder.set_alpn_protos(offered).unwrap();
                }
            });
            let mut pair = Pair::from_stranger(client, &contexts);
            let ends = pair.shake();
            match chosen {
                Ok(chosen) => {
                    assert_eq!(ends, BOTH_ARE_HAPPY);
                    assert_eq!(pair.client.ssl().selected_alpn_protocol(), chosen);
                }
                Err(()) => assert_eq!(error(ends), "the peer refused: no application protocol"),
            }
        }
    }
}

/// What was stapled for a client.
#[cfg(not(feature = "aws-lc"))]
fn stapled(pair: &Pair) -> Option<Vec<u8>> {
    pair.client.ssl().ocsp_status().map(<[u8]>::to_vec)
}

#[cfg(feature = "aws-lc")]
#[allow(unsafe_code)]
fn stapled(pair: &Pair) -> Option<Vec<u8>> {
    use foreign_types::ForeignTypeRef;
    let (mut start, mut length) = (std::ptr::null(), 0);
    // SAFETY: an established connection, which both are of.
    unsafe { openssl_sys::SSL_get0_ocsp_response(pair.client.ssl().as_ptr(), &mut start, &mut length) };
    // SAFETY: as long as said, and as long as the connection lives.
    (length > 0).then(|| unsafe { std::slice::from_raw_parts(start, length) }.to_vec())
}

#[test]
fn a_staple_is_sent_until_it_expires() {
    let authority = Authority::new("authority");
    let staple = |expires| Some(Staple { response: b"a response".to_vec(), expires });
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        for (staple, sent) in [
            (None, false),
            (staple(None), true),
            (staple(Some(testing::now() + 1000)), true),
            (staple(Some(testing::now() - 1)), false),
        ] {
            // The name's own, not that of the default certificate.
            let named = Identity {
                pattern: Some("www.test".parse().unwrap()),
                staple,
                ..identity(&authority, &["www.test"])
            };
            let other = Staple { response: b"another".to_vec(), expires: None };
            let default = Identity { staple: Some(other), ..identity(&authority, &["default.test"]) };
            let contexts = build(only(version), &material(&authority, default, vec![named]));
            for (name, response) in
                [("www.test", sent.then_some(&b"a response"[..])), ("default.test", Some(b"another"))]
            {
                let mut client = stranger(|_| {});
                client.set_hostname(name).unwrap();
                client.set_status_type(StatusType::OCSP).unwrap();
                let mut pair = Pair::from_stranger(client, &contexts);
                assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
                assert_eq!(stapled(&pair).as_deref(), response);
            }
            let mut pair = Pair::from_stranger(stranger(|_| {}), &contexts);
            assert_eq!(pair.shake(), BOTH_ARE_HAPPY);
            assert_eq!(stapled(&pair), None, "nobody asked");
        }
    }
}

#[test]
fn whole_chains_are_sent() {
    let root = Authority::new("root");
    let intermediate = root.intermediate("intermediate");
    let mut default = identity(&intermediate, &["www.test"]);
    default.chain.push(intermediate.certificate.to_der().unwrap());
    let contexts = build(TlsSettings::default(), &material(&root, default, Vec::new()));
    assert_eq!(Pair::new(&contexts, &contexts, &at("www.test")).shake(), BOTH_ARE_HAPPY);
}

#[test]
fn lists_that_the_library_does_not_take_are_refused_by_name() {
    let (_, material) = simple();
    let build = |tls| Contexts::build(&with(tls), &material, &keys(), Scope::AsNeeded);
    let ciphers = |list: &str| TlsSettings { ciphers: Some(list.to_owned()), ..TlsSettings::default() };
    let suites = |list: &str| TlsSettings { ciphersuites: Some(list.to_owned()), ..TlsSettings::default() };
    let groups = |list: &str| TlsSettings { groups: Some(list.to_owned()), ..TlsSettings::default() };
    for (tls, list, command) in [
        (ciphers("NONSENSE"), "NONSENSE", "ssl_ciphers"),
        (ciphers("HIGH:NONSENSE:!RC4"), "HIGH:NONSENSE:!RC4", "ssl_ciphers"),
        (suites("NONSENSE"), "NONSENSE", "ssl_ciphersuites"),
        (suites("TLS_AES_128_GCM_SHA256:NONSENSE"), "TLS_AES_128_GCM_SHA256:NONSENSE", "ssl_ciphersuites"),
        (groups("NONSENSE"), "NONSENSE", "ssl_groups"),
        (groups("X25519:NONSENSE"), "X25519:NONSENSE", "ssl_groups"),
    ] {
        let error = build(tls).unwrap_err();
        assert_eq!(error.word, list);
        let library = super::super::library_name();
        assert!(error.reason.starts_with(&format!("{command}: {library} has no NONSENSE ")), "{error}");
        assert!(error.unreachable.is_none());
    }
    // Every word is known, and still there is nothing left.
    let error = build(ciphers("HIGH:!ALL")).unwrap_err();
    assert!(error.reason.starts_with("ssl_ciphers HIGH:!ALL: "), "{error}");
    for tls in [
        ciphers("HIGH:!aNULL:!NO-SUCH-CIPHER:@STRENGTH"),
        ciphers("ECDHE-ECDSA-AES128-GCM-SHA256,ECDHE-RSA-AES128-GCM-SHA256"),
        suites("TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"),
        groups("P-256:X25519"),
    ] {
        build(tls).unwrap();
    }
}
