use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{fs, io};

use openssl::pkey::PKey;
use openssl::symm::Cipher;
use openssl::x509::X509;

use super::{Identity, Material, TlsError};
use crate::model::settings::Settings;
use crate::model::tls::{ServerTls, Trust, VerifyClient};
use crate::sys::sealed;
use crate::sys::tls::testing::{Answer, Authority, IssueOptions, Kind, Scratch, Validity, now};

fn terminating(certificate: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.tls.certificate = Some(certificate.to_owned());
    settings
}

/// With a server that is spoken to with TLS.
fn trusting(trust: Trust) -> Settings {
    let mut server: crate::model::address::ServerSpec = "10.0.0.1:443".parse().unwrap();
    server.tls = Some(ServerTls { trust, name: None });
    Settings { servers: vec![server], ..Settings::default() }
}

fn load(settings: &Settings) -> (Material, Vec<String>) {
    let (material, notes) = Material::load(settings).unwrap();
    (material, notes.lines())
}

/// The error, which must be about that word.
fn refused(settings: &Settings, word: &Path) -> TlsError {
    let error = Material::load(settings).err().unwrap();
    assert_eq!(error.word, word.display().to_string(), "{error}");
    assert!(!error.reason.contains('\n'), "{error}");
    error
}

fn default(material: &Material) -> &Identity {
    &material.front.as_ref().unwrap().default
}

fn named(material: &Material) -> &[Identity] {
    &material.front.as_ref().unwrap().named
}

fn names(identity: &Identity) -> Vec<String> {
    identity.names.iter().map(ToString::to_string).collect()
}

/// The common names of certificates.
fn subjects(certificates: &[Vec<u8>]) -> Vec<String> {
    let subject = |der: &Vec<u8>| {
        let certificate = X509::from_der(der).unwrap();
        let name = certificate.subject_name().entries().next().unwrap();
        name.data().to_string().unwrap()
    };
    certificates.iter().map(subject).collect()
}

#[test]
fn plain_text_and_passthrough_need_nothing() {
    assert!(!Material::is_needed(&Settings::default()));
    let mut settings = terminating(Path::new("/no/such/file"));
    assert!(Material::is_needed(&settings));
    settings.tls.passthrough = true;
    assert!(!Material::is_needed(&settings));
    let (material, notes) = load(&settings);
    assert!(material.front.is_none() && notes.is_empty());
    assert!(Material::is_needed(&trusting(Trust::Nobody)));
    assert!(load(&trusting(Trust::Nobody)).0.trust.is_empty());
}

#[test]
fn keys_are_taken_in_all_their_formats_from_their_own_file_or_the_certificates() {
    let scratch = Scratch::new();
    let authority = Authority::new("root");
    for kind in [Kind::Rsa2048, Kind::P256] {
        let (certificate, key) = authority.issue(IssueOptions { key: kind, ..IssueOptions::default() });
        let private = PKey::private_key_from_pem(key.as_bytes()).unwrap();
        let traditional = match kind {
            Kind::Rsa2048 => private.rsa().unwrap().private_key_to_pem().unwrap(),
            Kind::P256 | Kind::Curve(_) => private.ec_key().unwrap().private_key_to_pem().unwrap(),
        };
        let traditional = String::from_utf8(traditional).unwrap();
        assert_ne!(traditional, key);
        for key in [key, traditional] {
            let both = scratch.write("both.pem", format!("{key}\n{certificate}"));
            let base64: String = key.lines().filter(|line| !line.starts_with("-----")).collect();
            let expected = openssl::base64::decode_block(&base64).unwrap();
            assert!(PKey::private_key_from_der(&expected).unwrap().public_eq(&private));
            assert!(default(&load(&terminating(&both)).0).key[..] == expected);
            let mut settings = terminating(&scratch.write("c.pem", &certificate));
            settings.tls.key = Some(scratch.write("k.pem", key.replace('\n', "\r\n")));
            assert!(default(&load(&settings).0).key[..] == expected);
        }
    }
}

#[test]
fn the_whole_file_is_sent_and_comments_in_any_encoding_are_not() {
    let scratch = Scratch::new();
    let root = Authority::new("root");
    let intermediate = root.intermediate("intermediate");
    let (certificate, key) = intermediate.issue(IssueOptions::default());
    let mut text = b"\xef\xbb\xbfG\xfcltig f\xfcr: alle\n".to_vec();
    for part in [&certificate, &intermediate.pem(), &root.pem(), &key] {
        text.extend_from_slice(part.as_bytes());
        text.extend_from_slice(b"\xff\xfe -----\n");
    }
    let path = scratch.write("all.pem", text);
    let (material, notes) = load(&terminating(&path));
    assert_eq!(subjects(&default(&material).chain), ["somebody", "intermediate", "root"]);
    assert_eq!(default(&material).file, path.display().to_string());
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn a_certificate_alone_gets_the_rest_of_its_chain_from_the_authorities_without_the_root() {
    let scratch = Scratch::new();
    let root = Authority::new("root");
    let upper = root.intermediate("upper");
    let lower = upper.intermediate("lower");
    let (certificate, key) = lower.issue(IssueOptions::default());
    let mut settings = terminating(&scratch.write("c.pem", certificate.clone() + &key));
    assert_eq!(subjects(&default(&load(&settings).0).chain), ["somebody"]);
    let stranger = Authority::new("lower");
    let authorities = [stranger.pem(), root.pem(), upper.pem(), lower.pem()].concat();
    settings.tls.ca_file = Some(scratch.write("ca.pem", authorities));
    let (material, _) = load(&settings);
    assert_eq!(subjects(&default(&material).chain), ["somebody", "lower", "upper"]);
    assert!(default(&material).authorities.is_empty(), "nobody is asked for certificates");
    // What is given is taken as it is.
    scratch.write("c.pem", certificate + &lower.pem() + &key);
    assert_eq!(subjects(&default(&load(&settings).0).chain), ["somebody", "lower"]);
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let scratch = Scratch::new();
    let authority = Authority::new("root");
    let (certificate, key) = authority.issue(IssueOptions::default());
    let (_, other_key) = authority.issue(IssueOptions::default());
    let private = PKey::private_key_from_pem(key.as_bytes()).unwrap();
    let cipher = Cipher::aes_128_cbc();
    let encrypted = private.private_key_to_pem_pkcs8_passphrase(cipher, b"secret").unwrap();
    let old = private.ec_key().unwrap().private_key_to_pem_passphrase(cipher, b"secret").unwrap();
    let (encrypted, old) = (String::from_utf8(encrypted).unwrap(), String::from_utf8(old).unwrap());
    let der = X509::from_pem(certificate.as_bytes()).unwrap().to_der().unwrap();
    let cut = certificate.replace("-----END CERTIFICATE-----", "");
    let bent = certificate.replace("MII", "MIJ");
    let odd =
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----\n";
    let wrong_end = certificate.replace("END CERTIFICATE", "END X509 CRL");
    let bare_key = encrypted.replace("ENCRYPTED PRIVATE", "PRIVATE");

    let path = scratch.path().join("c.pem");
    let cases: [(Vec<u8>, &str); 15] = [
        (key.clone().into(), "there is no certificate in PEM in PATH"),
        (Vec::new(), "there is no certificate in PEM in PATH"),
        (vec![0; 5000], "there is no certificate in PEM in PATH"),
        (
            der,
            "there is no certificate in PEM in PATH; it seems to be in DER, convert it to PEM: openssl x509 -inform der -in PATH -out NEWFILE",
        ),
        (
            certificate.clone().into(),
            "there is no private key in PEM in PATH; name the file that has it with -K, or ssl_key",
        ),
        (
            (certificate.clone() + &other_key).into(),
            "the key in PATH does not belong to the first certificate in PATH, which must be the server's own",
        ),
        ((authority.pem() + &certificate + &key).into(), "the key in PATH does not belong to the first"),
        (
            (certificate.clone() + &encrypted).into(),
            "the key in PATH is encrypted, and there is nobody to ask for the passphrase; decrypt it: openssl pkey -in PATH -out NEWFILE",
        ),
        ((certificate.clone() + &old).into(), "the key in PATH is encrypted"),
        ((certificate.clone() + &bare_key).into(), "cannot use the PRIVATE KEY in line "),
        ((certificate.clone() + odd).into(), "cannot use the OPENSSH PRIVATE KEY in line "),
        ((key.clone() + &cut).into(), "cannot use the CERTIFICATE in line "),
        ((key.clone() + &bent).into(), "cannot use the CERTIFICATE in line "),
        ((key.clone() + &wrong_end).into(), "cannot use the CERTIFICATE in line "),
        (
            [certificate.as_bytes(), &vec![b'\n'; 1 << 20], key.as_bytes()].concat(),
            "cannot read PATH: it has more than 1 MiB",
        ),
    ];
    for (content, reason) in cases {
        fs::write(&path, content).unwrap();
        let error = refused(&terminating(&path), &path);
        let reason = reason.replace("PATH", &path.display().to_string());
        assert!(error.reason.starts_with(&reason), "{} is not {reason}", error.reason);
        assert!(error.unreachable.is_none());
    }
}

#[test]
fn a_key_of_somebody_else_is_named_together_with_the_certificate() {
    let scratch = Scratch::new();
    let authority = Authority::new("root");
    let (certificate, _) = authority.issue(IssueOptions::default());
    let (_, key) = authority.issue(IssueOptions { key: Kind::Rsa2048, ..IssueOptions::default() });
    let mut settings = terminating(&scratch.write("c.pem", certificate));
    settings.tls.key = Some(scratch.write("k.pem", key));
    let error = refused(&settings, &scratch.path().join("c.pem"));
    assert!(error.reason.contains("k.pem") && error.reason.contains("c.pem"), "{error}");
    settings.tls.key = Some(scratch.write("k.pem", "nothing\n"));
    refused(&settings, &scratch.path().join("k.pem"));
}

#[test]
fn what_is_not_there_or_not_permitted_is_out_of_reach_and_the_rest_is_not() {
    let scratch = Scratch::new();
    let missing = scratch.path().join("missing");
    let error = refused(&terminating(&missing), &missing);
    assert!(error.unreachable.is_some());
    assert_eq!(error.reason, format!("cannot read {}: No such file or directory", missing.display()));
    assert!(refused(&terminating(scratch.path()), scratch.path()).unreachable.is_none());
    let denied = TlsError::unreadable(&missing, &io::ErrorKind::PermissionDenied.into());
    assert!(denied.unreachable.is_some());

    let (certificate, key) = Authority::new("root").issue(IssueOptions::default());
    let good = terminating(&scratch.write("c.pem", certificate + &key));
    let set: [fn(&mut Settings, PathBuf); 4] = [
        |settings, path| settings.tls.key = Some(path),
        |settings, path| settings.tls.ca_file = Some(path),
        |settings, path| settings.tls.ca_path = Some(path),
        |settings, path| settings.tls.sni_path = Some(path),
    ];
    for set in set {
        let mut settings = good.clone();
        set(&mut settings, missing.clone());
        assert!(refused(&settings, &missing).unreachable.is_some());
    }
}

#[test]
fn a_certificate_out_of_its_time_is_used_and_said_to_be() {
    let scratch = Scratch::new();
    let authority = Authority::new("root");
    for (validity, words) in [(Validity::Past, "expired on "), (Validity::Future, "is not valid before ")] {
        let names = &["www.a.test", "a.test"];
        let (certificate, key) = authority.issue(IssueOptions { names, validity, ..IssueOptions::default() });
        let path = scratch.write("c.pem", certificate + &key);
        let (material, notes) = load(&terminating(&path));
        assert_eq!(names[..], super::tests::names(default(&material)));
        let note = format!("{}: the certificate for www.a.test {words}", path.display());
        assert!(notes.len() == 1 && notes[0].starts_with(&note), "{notes:?}");
        assert!(notes[0].ends_with("GMT"), "{notes:?}");
    }
}

#[test]
fn names_come_from_the_alternatives_and_only_without_them_from_the_subject() {
    let scratch = Scratch::new();
    let authority = Authority::new("root");
    for (alternatives, common_name, expected) in [
        (
            &["A.Test", "*.a.test", "a.test", "w*.a.test", "10.0.0.1"][..],
            "b.test",
            &["a.test", "*.a.test"][..],
        ),
        (&["10.0.0.1"], "b.test", &["b.test"]),
        (&[], "B.test", &["b.test"]),
        (&[], "The Server of B", &[]),
    ] {
        let options = IssueOptions { names: alternatives, common_name, ..IssueOptions::default() };
        let (certificate, key) = authority.issue(options);
        let (material, _) = load(&terminating(&scratch.write("c.pem", certificate + &key)));
        assert_eq!(names(default(&material)), expected);
    }
}

/// A directory of names, and settings with it.
fn by_name() -> (Scratch, Authority, Settings) {
    let scratch = Scratch::new();
    let authority = Authority::new("root");
    let (certificate, key) = authority.issue(IssueOptions::default());
    let mut settings = terminating(&scratch.write("default.pem", certificate + &key));
    fs::create_dir(scratch.path().join("names")).unwrap();
    settings.tls.sni_path = Some(scratch.path().join("names"));
    (scratch, authority, settings)
}

#[test]
fn certificates_by_name_come_in_the_order_of_their_files_with_what_belongs_to_them() {
    let (scratch, authority, mut settings) = by_name();
    settings.tls.verify_client = VerifyClient::Request;
    settings.tls.ca_file = Some(scratch.write("ca.pem", authority.pem()));
    let other = Authority::new("other").intermediate("of other");
    let issue = |authority: &Authority, names: &[&str]| {
        authority.issue(IssueOptions { names, ..IssueOptions::default() })
    };
    let (certificate, key) = issue(&authority, &["z.test"]);
    scratch.write("names/Z.test.crt", &certificate);
    scratch.write("names/Z.test.key", key);
    scratch.write("names/Z.test.ocsp", authority.ocsp_response(&certificate, Answer::Good));
    let (certificate, key) = issue(&other, &["in.c.test"]);
    scratch.write("names/*.c.test.crt", certificate + &key);
    scratch.write("names/*.c.test.ca", other.pem());
    let (certificate, key) = issue(&authority, &["in.d.test"]);
    scratch.write("elsewhere.pem", certificate + &key);
    symlink("../elsewhere.pem", scratch.path().join("names/_.d.test.crt")).unwrap();
    symlink("../elsewhere.pem", scratch.path().join("names/for all.crt")).unwrap();
    scratch.write("names/.hidden.crt", "not looked at");
    scratch.write("names/README", "not looked at");
    scratch.write("names/lost.key", "not looked at");

    let (material, notes) = load(&settings);
    let found = named(&material);
    let patterns: Vec<_> =
        found.iter().map(|identity| identity.pattern.as_ref().map(ToString::to_string)).collect();
    let expected = [Some("*.c.test"), Some("z.test"), Some("*.d.test"), None];
    assert_eq!(patterns, expected.map(|pattern| pattern.map(str::to_string)));
    let inside: Vec<_> = found.iter().flat_map(names).collect();
    assert_eq!(inside, ["in.c.test", "z.test", "in.d.test", "in.d.test"]);
    let authorities: Vec<_> = found.iter().flat_map(|identity| subjects(&identity.authorities)).collect();
    assert_eq!(authorities, ["of other", "root", "root", "root"]);
    assert_eq!(subjects(&found[0].chain), ["somebody", "of other"]);
    assert_eq!(
        found.iter().map(|identity| identity.staple.is_some()).collect::<Vec<_>>(),
        [false, true, false, false]
    );
    let directory = scratch.path().join("names").display().to_string();
    assert_eq!(notes, [format!("{directory}/lost.key is not used, there is no {directory}/lost.crt")]);
}

#[test]
fn one_faulty_pair_is_an_error_about_the_directory() {
    let (scratch, authority, settings) = by_name();
    let directory = scratch.path().join("names");
    let (_, notes) = load(&settings);
    assert!(notes.len() == 1 && notes[0].contains("no file is named NAME.crt"), "{notes:?}");
    let (certificate, key) = authority.issue(IssueOptions::default());
    scratch.write("names/a.test.crt", certificate.clone() + &key);
    assert_eq!(named(&load(&settings).0).len(), 1);
    scratch.write("names/b.test.crt", &certificate);
    let error = refused(&settings, &directory);
    assert!(
        error.reason.contains("names/b.test.crt") && error.reason.ends_with(".key at its end"),
        "{error}"
    );
    scratch.write("names/b.test.key", &key);
    scratch.write("names/b.test.ca", "nothing");
    assert!(refused(&settings, &directory).reason.contains("names/b.test.ca"));
    symlink("missing", directory.join("c.test.crt")).unwrap();
    scratch.write("names/b.test.ca", authority.pem());
    assert!(refused(&settings, &directory).unreachable.is_some());
}

#[test]
fn a_certificate_that_is_for_no_name_is_said_to_be() {
    let (scratch, authority, settings) = by_name();
    let (certificate, key) =
        authority.issue(IssueOptions { common_name: "No Name", ..IssueOptions::default() });
    let path = scratch.write("names/no name.crt", certificate + &key);
    let (material, notes) = load(&settings);
    assert_eq!(named(&material).len(), 1);
    assert_eq!(notes, [format!("{} is for no host name: no client will ask for it", path.display())]);
}

#[test]
fn no_more_than_ten_thousand_names_are_read() {
    let (scratch, _, settings) = by_name();
    for number in 0..=10_000 {
        scratch.write(&format!("names/n{number}.crt"), "");
    }
    let error = refused(&settings, &scratch.path().join("names"));
    assert!(error.reason.starts_with("there are more than 10000 certificates in "), "{error}");
}

#[test]
fn the_files_of_a_directory_are_bounded_together() {
    let (scratch, authority, settings) = by_name();
    let (certificate, key) = authority.issue(IssueOptions::default());
    let padded = certificate + &key + &" ".repeat(1_000_000);
    for number in 0..68 {
        scratch.write(&format!("names/n{number}.crt"), &padded);
    }
    let error = refused(&settings, &scratch.path().join("names"));
    assert!(error.reason.contains("more than 64 MiB"), "{error}");
}

#[test]
fn authorities_come_from_a_file_and_a_directory_each_once() {
    let scratch = Scratch::new();
    let authorities = ["one", "two", "three"].map(Authority::new);
    let [one, two, three] = &authorities;
    let (certificate, key) = one.issue(IssueOptions::default());
    let mut settings = terminating(&scratch.write("c.pem", certificate + &key));
    settings.tls.verify_client = VerifyClient::Require;
    settings.tls.ca_file = Some(scratch.write("ca.pem", [two.pem(), one.pem(), two.pem()].concat()));
    settings.tls.ca_path = Some(scratch.path().join("ca"));
    scratch.write("ca/1.pem", one.pem());
    scratch.write("ca/3.pem", three.pem());
    scratch.write("ca/notes.txt", "nothing");
    scratch.write("ca/deeper/4.pem", "nothing");
    scratch.write("ca/.hidden", "-----BEGIN CERTIFICATE-----");
    symlink("3.pem", scratch.path().join("ca/0123abcd.0")).unwrap();
    symlink("gone.pem", scratch.path().join("ca/0123abce.0")).unwrap();
    assert_eq!(subjects(&default(&load(&settings).0).authorities), ["two", "one", "three"]);

    scratch.write("ca/3.pem", "-----BEGIN CERTIFICATE-----");
    assert!(refused(&settings, &scratch.path().join("ca")).reason.contains("in line 1 of "));
    scratch.write("empty/notes.txt", "nothing");
    settings.tls.ca_path = Some(scratch.path().join("empty"));
    refused(&settings, &scratch.path().join("empty"));
    settings.tls.ca_path = None;
    settings.tls.ca_file = Some(scratch.write("ca.pem", "nothing"));
    refused(&settings, &scratch.path().join("ca.pem"));
}

#[test]
fn servers_are_checked_with_a_file_or_the_authorities_of_the_system() {
    let scratch = Scratch::new();
    let path = scratch.write("ca.pem", Authority::new("root").pem());
    let trust = Trust::File(path.clone());
    let (material, notes) = load(&trusting(trust.clone()));
    assert!(material.front.is_none() && notes.is_empty());
    assert_eq!(subjects(&material.trust[&trust]), ["root"]);
    fs::write(&path, "nothing").unwrap();
    refused(&trusting(trust), &path);
}

/// A certificate with its issuer in the chain, and the file of its response.
fn stapled() -> (Scratch, Authority, String, Settings, PathBuf) {
    let scratch = Scratch::new();
    let authority = Authority::new("root").intermediate("intermediate");
    let (certificate, key) = authority.issue(IssueOptions::default());
    let mut settings = terminating(&scratch.write("c.pem", certificate.clone() + &key + &authority.pem()));
    let response = scratch.write("ocsp.der", authority.ocsp_response(&certificate, Answer::Good));
    settings.tls.ocsp_response = Some(response.clone());
    (scratch, authority, certificate, settings, response)
}

#[test]
fn a_good_response_is_stapled_until_it_expires() {
    let (_scratch, authority, certificate, settings, path) = stapled();
    let (material, notes) = load(&settings);
    let staple = default(&material).staple.as_ref().unwrap();
    assert!(notes.is_empty() && staple.response == fs::read(&path).unwrap());
    let left = staple.expires.unwrap() - now();
    assert!((23 * 3600..=24 * 3600).contains(&left), "{left}");
    fs::write(&path, authority.ocsp_response(&certificate, Answer::GoodWithoutEnd)).unwrap();
    assert_eq!(default(&load(&settings).0).staple.as_ref().unwrap().expires, None);
}

#[test]
fn a_response_that_is_of_no_use_is_not_stapled_and_no_error() {
    let (_scratch, authority, certificate, settings, path) = stapled();
    let (another, _) = authority.issue(IssueOptions::default());
    let good = fs::read(&path).unwrap();
    let mut forged = good.clone();
    *forged.windows(4).position(|four| four == b"\x18\x0f20").map(|at| &mut forged[at + 5]).unwrap() ^= 1;
    let stranger = Authority::new("root").intermediate("intermediate");
    let (delegate, delegates_key) = authority.issue(IssueOptions::default());
    for (response, reason) in [
        (forged, "its signature is not by the issuer of the certificate"),
        (
            stranger.ocsp_response(&certificate, Answer::Good),
            "its signature is not by the issuer of the certificate",
        ),
        (
            authority.ocsp_response_by((&delegate, &delegates_key), &certificate, Answer::Good),
            "its signature is not by the issuer of the certificate",
        ),
        (authority.ocsp_response(&another, Answer::Good), "it is for another certificate"),
        (
            authority.ocsp_response(&certificate, Answer::Revoked),
            "it says that the certificate has been revoked",
        ),
        (authority.ocsp_response(&certificate, Answer::Expired), "it expired at 2020-"),
        (vec![0x30, 3, 0x0a, 1, 3], "it says that the responder had no answer (TryLater)"),
        (good[..good.len() - 1].to_vec(), "it is not an OCSP response in DER"),
        ([&good[..], b"\n"].concat(), "it is not an OCSP response in DER"),
        (Vec::new(), "it is not an OCSP response in DER"),
        (certificate.clone().into_bytes(), "it is not an OCSP response in DER"),
        (vec![0x30; 65_537], "cannot read it: it has more than 65536 bytes"),
    ] {
        fs::write(&path, response).unwrap();
        let (material, notes) = load(&settings);
        assert!(default(&material).staple.is_none(), "{reason}");
        let note = format!("the OCSP response {} is not stapled: {reason}", path.display());
        assert!(notes.len() == 1 && notes[0].starts_with(&note), "{notes:?} is not {note}");
    }
}

#[test]
fn somebody_whom_the_issuer_lets_may_sign_responses() {
    let (_scratch, authority, certificate, settings, path) = stapled();
    for key in [Kind::P256, Kind::Rsa2048] {
        let options = IssueOptions { ocsp_signing: true, key, ..IssueOptions::default() };
        let (delegate, key) = authority.issue(options);
        let response = authority.ocsp_response_by((&delegate, &key), &certificate, Answer::Good);
        fs::write(&path, response).unwrap();
        let (material, notes) = load(&settings);
        assert!(default(&material).staple.is_some(), "{notes:?}");
    }
}

#[test]
fn new_responses_take_the_place_of_old_ones_and_useless_ones_do_not() {
    let (_scratch, authority, certificate, settings, path) = stapled();
    let (mut material, _) = load(&settings);
    let (changed, notes) = material.restaple(&settings);
    assert!(!changed && notes.is_empty());

    fs::write(&path, authority.ocsp_response(&certificate, Answer::GoodWithoutEnd)).unwrap();
    assert!(material.restaple(&settings).0);
    let newer = default(&material).staple.clone().unwrap();
    assert_eq!(newer.expires, None);

    fs::remove_file(&path).unwrap();
    let (changed, notes) = material.restaple(&settings);
    assert!(!changed && default(&material).staple.as_ref() == Some(&newer));
    let reason = "cannot read it: No such file or directory; the one before it still is";
    assert_eq!(notes, [format!("the OCSP response {} is not stapled: {reason}", path.display())]);
    fs::write(&path, "half a resp").unwrap();
    assert!(!material.restaple(&settings).0);

    fs::write(&path, authority.ocsp_response(&certificate, Answer::Revoked)).unwrap();
    let (changed, notes) = material.restaple(&settings);
    assert!(changed && default(&material).staple.is_none());
    assert!(notes.len() == 1 && notes[0].ends_with("has been revoked"), "{notes:?}");

    // One that has expired meanwhile is of no use either.
    material.front.as_mut().unwrap().default.staple =
        Some(super::Staple { expires: Some(now() - 1), ..newer });
    fs::remove_file(&path).unwrap();
    assert!(material.restaple(&settings).0 && default(&material).staple.is_none());
}

#[test]
fn responses_by_name_may_come_later_and_are_those_to_be_watched() {
    let (scratch, authority, mut settings) = by_name();
    let (certificate, key) = authority.issue(IssueOptions::default());
    scratch.write("names/a.test.crt", certificate.clone() + &key);
    assert!(Material::staple_files(&settings).is_empty());
    let (mut material, _) = load(&settings);
    assert!(!material.restaple(&settings).0);
    let response = scratch.write("names/a.test.ocsp", authority.ocsp_response(&certificate, Answer::Good));
    assert_eq!(material.restaple(&settings), (true, Vec::new()));
    assert!(named(&material)[0].staple.is_some());
    settings.tls.ocsp_response = Some("global.der".into());
    assert_eq!(Material::staple_files(&settings), [PathBuf::from("global.der"), response.clone()]);
    settings.tls.ocsp_response = None;
    fs::remove_dir_all(scratch.path().join("names")).unwrap();
    let (changed, notes) = material.restaple(&settings);
    assert!(!changed && notes[0].ends_with("; the one before it still is"), "{notes:?}");
    assert_eq!(Material::staple_files(&settings), [] as [PathBuf; 0]);
    assert!(Material::staple_files(&Settings::default()).is_empty());
}

#[test]
fn packed_material_is_the_same_when_unpacked_and_nothing_else_is_taken_for_it() {
    let (_scratch, _authority, _certificate, mut settings, _path) = stapled();
    settings.tls.verify_client = VerifyClient::Request;
    let ca = settings.tls.certificate.clone().unwrap();
    settings.tls.ca_file = Some(ca.clone());
    settings.servers = trusting(Trust::File(ca)).servers;
    let (material, _) = load(&settings);
    let packed = material.pack().unwrap();
    let unpacked = Material::unpack(packed.as_fd()).unwrap();
    assert!(unpacked == material && unpacked.trust.len() == 1);
    assert_eq!(format!("{unpacked:?}"), "Material");
    for garbage in [&b""[..], &[1; 9], &[0xff; 100]] {
        let memory = sealed::copy("test", garbage, garbage.len() as u64).unwrap();
        assert_eq!(Material::unpack(memory.as_fd()).err().unwrap().kind(), io::ErrorKind::InvalidData);
    }
}
