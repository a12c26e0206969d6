//! OCSP responses: which are stapled, and when they are read.

use std::time::Duration;

use crate::support::backend::webs;
use crate::support::tls::{
    self, Authority, Client, Identity, Kind, Said, config, curl, now, pen_as, s_client, staple,
};
use crate::support::{Pen, Scratch, let_pass, only_ours, wait_for, wait_until};

const HOUR: i64 = 3600;

/// An authority that can answer, and a certificate of it.
fn authority() -> (Authority, Identity) {
    let authority = Authority::with_key("Answering", Kind::Rsa2048);
    let identity = authority.issue(&["localhost"]);
    (authority, identity)
}

/// What a client sees that asks for a response; with the name, if there is one.
#[track_caller]
fn asked(pen: &Pen, authority: &Authority, name: Option<&str>) -> Said {
    let arguments = name.map(|name| vec!["-servername", name]).unwrap_or_default();
    s_client(pen.address, authority, &[&["-status"], &arguments[..]].concat())
}

#[track_caller]
fn stapled(pen: &Pen, authority: &Authority, name: Option<&str>) -> bool {
    let said = asked(pen, authority, name);
    let yes =
        said.stdout.contains("OCSP Response Status: successful") && said.stdout.contains("Cert Status: good");
    let no = said.stdout.contains("OCSP response: no response sent");
    assert!(yes != no && said.stdout.contains("\r\n\r\nS0"), "{said:?}");
    yes
}

/// pen(1), ssl_ocsp_response: the response goes with the certificate to those who ask, and they believe it.
#[test]
fn a_response_is_stapled() {
    let (authority, identity) = authority();
    let (s, files) = (webs(1), Scratch::new());
    let response = files.write("good.ocsp", staple(&authority, &identity, now() - HOUR, now() + HOUR));
    let option = format!("ssl_ocsp_response {response}");
    let pen = pen_as(&identity, &files, &["-O", &option]).servers(&s).workers(2).start();
    for version in ["-tls1_2", "-tls1_3"] {
        let said = s_client(pen.address, &authority, &["-status", version]);
        assert!(said.stdout.contains("Cert Status: good"), "{said:?}");
    }
    // Who does not ask gets none.
    let said = s_client(pen.address, &authority, &[]);
    assert!(!said.stdout.contains("OCSP Response Status"), "{said:?}");
    drop(pen);
    let pen = pen_as(&identity, &files, &[]).servers(&s).start();
    assert!(!stapled(&pen, &authority, None));
    drop(pen);
    // curl looks for who has signed the response among what is sent.
    let whole = Identity { above: vec![authority.0.certificate.clone()], ..identity };
    let pen = pen_as(&whole, &files, &["-O", &option]).servers(&s).start();
    let said = curl(pen.address, &authority, &["--cert-status"]);
    assert_eq!((said.stdout.as_str(), said.code), ("S0", 0), "{said:?}");
}

/// pen(1), Stapling: what cannot be used is told, is not stapled, and does no other harm.
#[test]
fn a_response_that_cannot_be_used_is_told_and_left_out() {
    only_ours!("it staples anything");
    let (authority, identity) = authority();
    let (s, files) = (webs(1), Scratch::new());
    let expired = staple(&authority, &identity, now() - 2 * HOUR, now() - HOUR);
    let foreign = staple(&authority, &authority.issue(&["other.test"]), now() - HOUR, now() + HOUR);
    for (what, content, word) in [
        ("expired", expired, "expired"),
        ("for another certificate", foreign, ""),
        ("garbage", b"garbage".to_vec(), ""),
        ("empty", Vec::new(), ""),
    ] {
        let response = files.write("bad.ocsp", content);
        let option = format!("ssl_ocsp_response {response}");
        let pen = pen_as(&identity, &files, &["-O", &option]).servers(&s).start();
        let told = |line: &str| line.contains(&response) && line.contains(word);
        assert!(pen.stderr().lines().any(told), "{what}: {}", pen.stderr());
        assert!(!stapled(&pen, &authority, None), "{what}");
    }
}

/// pen(1), Stapling: a response that is not good yet (a clock is wrong) would be taken by nobody.
#[test]
fn a_response_of_the_future_is_left_out() {
    only_ours!("it staples anything");
    let (authority, identity) = authority();
    let (s, files) = (webs(1), Scratch::new());
    let early = staple(&authority, &identity, now() + HOUR, now() + 2 * HOUR);
    let response = files.write("early.ocsp", early);
    let option = format!("ssl_ocsp_response {response}");
    let pen = pen_as(&identity, &files, &["-O", &option]).servers(&s).start();
    assert!(!stapled(&pen, &authority, None));
    assert!(pen.stderr().contains(&response), "{}", pen.stderr());
}

/// pen(1), Stapling: one that says that the certificate has been revoked is not stapled, nor is the one before it any
/// more. Clients are served all the same: whether the key is still good enough is the administrator's to say.
#[test]
fn a_revocation_is_told_and_nothing_is_stapled() {
    only_ours!("it staples anything");
    let (authority, identity) = authority();
    let (s, files) = (webs(1), Scratch::new());
    let revoked = tls::revocation(&authority, &identity);
    let good = staple(&authority, &identity, now() - HOUR, now() + HOUR);
    let response = files.write("changing.ocsp", &revoked);
    let option = format!("ssl_ocsp_response {response}");
    let pen = pen_as(&identity, &files, &["-O", &option]).servers(&s).workers(2).controlled().start();
    let told = || pen.stderr().lines().filter(|line| line.ends_with("has been revoked")).count();
    let all = |wanted: bool, what: &str| {
        for _ in 0..4 {
            assert_eq!(stapled(&pen, &authority, None), wanted, "{what}");
        }
    };
    all(false, "revoked from the start");
    assert_eq!(told(), 1);
    for (number, again) in [option.as_str(), "reload"].into_iter().enumerate() {
        files.write("changing.ocsp", &good);
        pen.ask(again);
        all(true, "good");
        files.write("changing.ocsp", &revoked);
        pen.ask(again);
        all(false, "revoked");
        assert_eq!(told(), 2 + number, "{}", pen.stderr());
    }
    let said = curl(pen.address, &authority, &[]);
    assert_eq!((said.stdout.as_str(), said.code), ("S0", 0), "{said:?}");
    let ended = pen_as(&identity, &files, &["--check", "-O", &option]).servers(&s).run();
    assert!(ended.code() == 1 && ended.stderr.contains("has been revoked"), "{ended:?}");
}

/// pen(1), Stapling: a response is stapled until it expires.
#[test]
fn a_response_that_expires_is_not_stapled_any_more() {
    only_ours!("it staples anything");
    let (authority, identity) = authority();
    let (s, files) = (webs(1), Scratch::new());
    let until = now() + 6;
    let response = files.write("short.ocsp", staple(&authority, &identity, now() - HOUR, until));
    let option = format!("ssl_ocsp_response {response}");
    let pen = pen_as(&identity, &files, &["-O", &option]).servers(&s).workers(2).start();
    let at_first = stapled(&pen, &authority, None);
    assert!(at_first || now() >= until, "not stapled although it was good");
    while now() <= until {
        let_pass(Duration::from_millis(100));
    }
    for _ in 0..4 {
        assert!(!stapled(&pen, &authority, None));
    }
}

/// pen(1), ssl_ocsp_response: given again, it reads the file again; `no` ends it. A file that is gone is told.
#[test]
fn the_command_reads_the_file_again() {
    only_ours!("it staples anything");
    let (authority, identity) = authority();
    let (s, files) = (webs(1), Scratch::new());
    let response = files.file("changing.ocsp");
    let command = format!("ssl_ocsp_response {response}");
    let good = staple(&authority, &identity, now() - HOUR, now() + HOUR);
    let expired = staple(&authority, &identity, now() - 2 * HOUR, now() - HOUR);
    files.write("changing.ocsp", &expired);
    let pen = pen_as(&identity, &files, &["-O", &command]).servers(&s).workers(2).controlled().start();
    let all = |wanted: bool, what: &str| {
        for _ in 0..4 {
            assert_eq!(stapled(&pen, &authority, None), wanted, "{what}");
        }
    };
    all(false, "expired");
    files.write("changing.ocsp", &good);
    pen.ask(&command);
    all(true, "good after the command");
    files.write("changing.ocsp", &expired);
    pen.ask(&command);
    all(false, "expired after the command");
    files.write("changing.ocsp", &good);
    pen.ask(&command);
    all(true, "good again");
    pen.tell("no ssl_ocsp_response");
    all(false, "turned off");
}

/// pen(1), Stapling: a reload reads the files again, and a name has its own response.
#[test]
fn names_have_their_own_responses_and_a_reload_reads_them() {
    only_ours!("it reads at most once an hour");
    let (authority, identity) = authority();
    let (s, files, directory) = (webs(1), Scratch::new(), Scratch::new());
    let (with, without) = (authority.issue(&["with.test"]), authority.issue(&["without.test"]));
    with.pair(&directory, "with.test");
    without.pair(&directory, "without.test");
    directory.write("with.test.ocsp", staple(&authority, &with, now() - HOUR, now() + HOUR));
    let certificate = identity.file(&files, "cert.pem");
    let path = format!("ssl_sni_path {}", directory.path().to_str().unwrap());
    let file = config(&files, &[&format!("ssl_certificate {certificate}"), &path]);
    let pen = Pen::with(&["-F", &file]).servers(&s).workers(2).controlled().start();
    let seen =
        || ["with.test", "without.test", "other.test"].map(|name| stapled(&pen, &authority, Some(name)));
    assert_eq!(seen(), [true, false, false]);
    directory.write("without.test.ocsp", staple(&authority, &without, now() - HOUR, now() + HOUR));
    directory.write("with.test.ocsp", staple(&authority, &with, now() - 2 * HOUR, now() - HOUR));
    assert!(pen.ask("reload").starts_with("ok\n"));
    for _ in 0..3 {
        assert_eq!(seen(), [false, true, false]);
    }
    std::fs::remove_file(directory.file("without.test.ocsp")).unwrap();
    assert!(pen.ask("reload").starts_with("ok\n"));
    assert_eq!(seen(), [false, false, false]);
}

/// pen(1), Stapling: pen looks once a minute by itself, and goes on without a file that is not there any more.
#[test]
fn a_response_that_was_renewed_is_found() {
    only_ours!("it reads it once");
    let (authority, identity) = authority();
    let (s, files) = (webs(1), Scratch::new());
    let good = staple(&authority, &identity, now() - HOUR, now() + HOUR);
    let response = files.write("late.ocsp", staple(&authority, &identity, now() - 2 * HOUR, now() - HOUR));
    let option = format!("ssl_ocsp_response {response}");
    let pen = pen_as(&identity, &files, &["-O", &option]).servers(&s).controlled().start();
    assert!(!stapled(&pen, &authority, None));
    files.write("late.ocsp", good);
    // A command that has nothing to do with it does not keep it from being found.
    pen.ask("blacklist 7");
    wait_for("the file to be looked at", Duration::from_secs(40), || {
        let_pass(Duration::from_millis(500));
        stapled(&pen, &authority, None)
    });
    std::fs::remove_file(&response).unwrap();
    pen.ask(&option);
    wait_until("it is told that it is gone", || pen.stderr().contains("No such file"));
    assert_eq!(Client::trusting(&authority).build().visit(&pen), "S0");
    tls::nothing_is_left(&pen);
}

/// pen(1), Stapling: a file that is not there is told, and can come later; to --check it is a mistake.
#[test]
fn a_response_that_is_not_there_is_told() {
    only_ours!("it says nothing");
    let (authority, identity) = authority();
    let (s, files) = (webs(1), Scratch::new());
    let response = files.file("missing.ocsp");
    let option = format!("ssl_ocsp_response {response}");
    let pen = pen_as(&identity, &files, &["-O", &option]).servers(&s).start();
    assert!(!stapled(&pen, &authority, None));
    assert!(pen.stderr().contains(&response), "{}", pen.stderr());
    drop(pen);
    let ended = pen_as(&identity, &files, &["--check", "-O", &option]).servers(["127.0.0.1:9"]).run();
    assert!(ended.code() == 1 && ended.stderr.contains(&response), "{ended:?}");
}

/// pen(1), Stapling: the message comes once, whatever else is changed of TLS, and again with a reload.
#[test]
fn a_response_that_is_not_there_is_told_once() {
    only_ours!("it says nothing");
    let (authority, identity) = authority();
    let (s, files) = (webs(1), Scratch::new());
    let response = files.file("missing.ocsp");
    let option = format!("ssl_ocsp_response {response}");
    let ca = authority.file(&files, "ca.pem");
    let pen = pen_as(&identity, &files, &["-O", &option]).servers(&s).workers(1).controlled().start();
    let told = || pen.stderr().lines().filter(|line| line.contains(&response)).count();
    assert_eq!(told(), 1, "{}", pen.stderr());
    let changes = || pen.stderr().matches("in force now").count();
    let commands = [
        "ssl_handshake_timeout 5",
        "ssl_min_version TLSv1.3",
        "ssl_alpn http/1.1",
        &format!("ssl_ca_file {ca}"),
        "server 1 address 127.0.0.1 port 9 tls verify none",
    ];
    for command in commands {
        pen.ask(command);
    }
    assert_eq!(changes(), commands.len(), "{}", pen.stderr());
    assert_eq!(told(), 1, "{}", pen.stderr());
    let reply = pen.ask("reload");
    assert!(reply.starts_with("ok\nwarning: ") && reply.contains(&response), "{reply}");
    assert_eq!(told(), 2, "{}", pen.stderr());
}
