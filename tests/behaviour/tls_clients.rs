//! Client certificates: who is asked, who is served, and who is trusted.

use openssl::ssl::SslVersion;

use crate::support::backend::webs;
use crate::support::tls::{Authority, Client, Identity, TlsEnding, nothing_is_left, pen, s_client, usual};
use crate::support::{Pen, Scratch, only_ours, wait_until};

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

/// Is a client with this certificate served? With TLS 1.3 it hears only afterwards that it is not.
fn served(pen: &Pen, version: SslVersion, identity: Option<&Identity>) -> bool {
    let client = Client::usual().version(version);
    let client = if let Some(identity) = identity { client.certificate(identity) } else { client };
    match client.connect(pen.connect()) {
        Err(_) => false,
        Ok(mut secured) => match secured.request("/") {
            (body, TlsEnding::Declared) if body == "S0" => true,
            (body, ending) => {
                assert!(body.is_empty() && ending != TlsEnding::Open, "{body} {ending:?}");
                false
            }
        },
    }
}

/// pen(1), -R, ssl_verify_client: good, expired, foreign, self-made and missing certificates.
#[test]
fn who_is_served_depends_on_the_certificate() {
    only_ours!("it has no ssl_verify_client");
    let (ours, other) = (Authority::new("Ours"), Authority::new("Other"));
    let files = Scratch::new();
    let ca = ours.file(&files, "ca.pem");
    let good = ours.issue(&["client"]);
    let below = ours.intermediate("Below").issue(&["client"]);
    let expired = ours.issue_expired(&["client"]);
    // Of an authority of the same name, which is another one all the same.
    let pretender = Authority::new("Ours").issue(&["client"]);
    let (foreign, root) = (other.issue(&["client"]), other.0.clone());
    for (options, needed) in [
        (&["-R", "-G", &ca][..], true),
        (&["-G", &ca, "-O", "ssl_verify_client require"], true),
        (&["-G", &ca, "-O", "ssl_verify_client request"], false),
    ] {
        let s = webs(1);
        let pen = pen(&files, options).servers(&s).controlled().start();
        for version in VERSIONS {
            assert!(served(&pen, version, Some(&good)), "good, {options:?}");
            assert!(served(&pen, version, Some(&below)), "with an authority in between, {options:?}");
            let before = s[0].accepted();
            for (what, identity) in
                [("expired", &expired), ("foreign", &foreign), ("pretender", &pretender), ("a root", &root)]
            {
                assert!(!served(&pen, version, Some(identity)), "{what}, {options:?}");
            }
            assert_eq!(s[0].accepted(), before, "the server has heard of them");
            assert_eq!(served(&pen, version, None), !needed, "none, {options:?}");
        }
        nothing_is_left(&pen);
    }
}

/// pen(1), -G: alone it asks nobody.
#[test]
fn nobody_is_asked_unless_that_is_wanted() {
    let (ours, files) = (Authority::new("Ours"), Scratch::new());
    let ca = ours.file(&files, "ca.pem");
    let s = webs(1);
    let pen = pen(&files, &["-G", &ca]).servers(&s).start();
    for version in VERSIONS {
        assert!(served(&pen, version, None));
        assert!(served(&pen, version, Some(&Authority::new("Other").issue(&["client"]))));
    }
    let said = s_client(pen.address, &usual().0, &[]);
    assert!(said.stdout.contains("No client certificate CA names sent"), "{said:?}");
}

/// pen(1), Client certificates: clients are told the names of the authorities, so that they can choose.
#[test]
fn the_names_of_authorities_are_sent() {
    only_ours!("it sends none");
    let (first, second) = (Authority::new("First Authority"), Authority::new("Second Authority"));
    let (s, files) = (webs(1), Scratch::new());
    let ca = files.write("ca.pem", [first.pem(), second.pem()].concat());
    let pen = pen(&files, &["-R", "-G", &ca]).servers(&s).start();
    let identity = second.issue(&["client"]).file(&files, "client.pem");
    for version in ["-tls1_2", "-tls1_3"] {
        let said = s_client(pen.address, &usual().0, &[version, "-cert", &identity, "-key", &identity]);
        let (_, names) = said.stdout.split_once("Acceptable client certificate CA names").expect("names");
        assert!(names.contains("First Authority") && names.contains("Second Authority"), "{said:?}");
        assert!(said.stdout.contains("\r\n\r\nS0"), "{said:?}");
    }
}

/// pen(1), -A: the authorities are in the files of a directory; -G counts as well.
#[test]
fn authorities_may_be_in_a_directory() {
    only_ours!("it wants links with hashes for names");
    let authorities: Vec<_> = (0..4).map(|number| Authority::new(&format!("Authority {number}"))).collect();
    let (s, files, directory) = (webs(1), Scratch::new(), Scratch::new());
    authorities[0].file(&directory, "zero.pem");
    directory.write("both.crt", [authorities[1].pem(), authorities[2].pem()].concat());
    let ca = authorities[3].file(&files, "ca.pem");
    let path = directory.path().to_str().unwrap();
    for (options, good) in [(&["-A", path][..], 3), (&["-A", path, "-G", &ca], 4)] {
        let pen = pen(&files, &[&["-R"], options].concat()).servers(&s).start();
        for (number, authority) in authorities.iter().enumerate() {
            let identity = authority.issue(&["client"]);
            assert_eq!(served(&pen, SslVersion::TLS1_3, Some(&identity)), number < good, "{number}");
        }
    }
}

/// pen(1), ssl_verify_client, ssl_ca_file: at run time, for connections from then on.
#[test]
fn who_is_asked_can_be_changed() {
    only_ours!("it has no ssl_verify_client");
    let (ours, other) = (Authority::new("Ours"), Authority::new("Other"));
    let (s, files) = (webs(1), Scratch::new());
    let (ca, of_other) = (ours.file(&files, "ca.pem"), other.file(&files, "other.pem"));
    let (good, foreign) = (ours.issue(&["client"]), other.issue(&["client"]));
    let pen = pen(&files, &[]).servers(&s).workers(2).controlled().start();
    let seen = || {
        let one = |identity| served(&pen, SslVersion::TLS1_3, identity);
        // Whichever worker it is.
        let all: Vec<_> = (0..4).map(|_| [one(None), one(Some(&good)), one(Some(&foreign))]).collect();
        assert!(all.iter().all(|each| *each == all[0]), "{all:?}");
        all[0]
    };
    assert_eq!(seen(), [true, true, true]);
    let reply = pen.ask("ssl_verify_client require");
    assert!(reply.starts_with("error: ") && reply.contains("ssl_ca_file"), "nobody to trust: {reply}");
    assert_eq!(seen(), [true, true, true]);
    assert_eq!(pen.batch(&[&format!("ssl_ca_file {ca}"), "ssl_verify_client require"]), "");
    assert_eq!(seen(), [false, true, false]);
    pen.tell("ssl_verify_client request");
    assert_eq!(seen(), [true, true, false]);
    pen.tell(&format!("ssl_ca_file {of_other}"));
    assert_eq!(seen(), [true, false, true]);
    pen.tell("ssl_verify_client off");
    assert_eq!(seen(), [true, true, true]);
}

/// pen(1), -d: why a client was refused is told to whoever wants to know.
#[test]
fn why_a_client_was_refused_can_be_told() {
    only_ours!("its words are others");
    let (ours, files, s) = (Authority::new("Ours"), Scratch::new(), webs(1));
    let ca = ours.file(&files, "ca.pem");
    let pen = pen(&files, &["-R", "-G", &ca, "-d"]).servers(&s).start();
    assert!(!served(&pen, SslVersion::TLS1_2, Some(&ours.issue_expired(&["client"]))));
    wait_until("the reason is told", || pen.stderr().contains("expired"));
    assert!(pen.stderr().contains("TLS is done by "), "and which library it was");
}
