//! Certificates that change while pen runs: all or nothing, and nobody who is connected notices.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use openssl::nid::Nid;

use crate::support::backend::{greeters, webs};
use crate::support::tls::{
    self, Authority, Client, Kind, TlsEnding, config, nothing_is_left, s_client, s_client_says, usual,
};
use crate::support::{Pen, Scratch, only_ours, wait_until};

/// Visits all the time while `change` happens. Whatever does not go well is returned, and how many went well.
fn under_load(pen: &Pen, client: impl Fn() -> Client + Sync, change: impl FnOnce()) -> (Vec<String>, usize) {
    let (done, served, failures) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let client = client().build();
                while !done.load(Ordering::SeqCst) {
                    let outcome = client.connect(pen.connect()).map(|mut secured| secured.request("/"));
                    match outcome {
                        Ok((body, TlsEnding::Declared)) if body == "S0" => {
                            served.fetch_add(1, Ordering::SeqCst);
                        }
                        other => failures.lock().unwrap().push(format!("{other:?}")),
                    }
                }
            });
        }
        // Also when a check in it fails: nobody must be waited for in vain.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
        done.store(true, Ordering::SeqCst);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    (failures.into_inner().unwrap(), served.into_inner())
}

/// Waits until so many more have been served.
fn more(server: &crate::support::Backend, count: usize) {
    let before = server.accepted();
    wait_until("visits go on", || server.accepted() >= before + count);
}

/// pen(1), Certificates: with a mistake nothing changes, and no connection notices.
#[test]
fn a_broken_pair_under_load_is_not_noticed() {
    only_ours!("it reads once");
    let (root, identity) = usual();
    let (s, files) = (webs(1), Scratch::new());
    let (certificate, key) =
        (files.write("pen.crt", identity.chain_pem()), files.write("pen.key", identity.key_pem()));
    let lines = [format!("ssl_certificate {certificate}"), format!("ssl_key {key}")];
    let file = config(&files, &[&lines[0], &lines[1]]);
    let pen = Pen::with(&["-F", &file]).servers(&s).workers(3).controlled().start();
    let other = root.issue(&["other.test"]);
    let workers = pen.workers();
    let (failures, served) = under_load(&pen, Client::usual, || {
        more(&s[0], 10);
        for broken in [other.key_pem(), b"garbage".to_vec(), identity.encrypted_key_pem(), Vec::new()] {
            files.write("pen.key", broken);
            let reply = pen.ask("reload");
            assert!(reply.starts_with("error: ") && reply.contains(&key), "{reply}");
            let before = pen.stderr().len();
            pen.signal(Signal::SIGHUP);
            wait_until("it is told", || pen.stderr()[before..].contains("nothing is changed"));
            assert!(pen.stderr()[before..].contains(&key), "{}", pen.stderr());
            more(&s[0], 10);
        }
        std::fs::remove_file(&key).unwrap();
        let reply = pen.ask("reload");
        assert!(reply.starts_with(&format!("error: {file}:2: cannot read {key}")), "{reply}");
        more(&s[0], 10);
    });
    assert_eq!(failures, [""; 0]);
    assert!(served >= 60);
    assert_eq!(pen.workers(), workers);
    assert_eq!(Client::careless().open(&pen).peer_serial(), identity.serial());
    nothing_is_left(&pen);
}

/// pen(1), Certificates: renewal. New connections get the new certificate, those that exist keep theirs.
#[test]
fn a_renewal_under_load_is_not_noticed() {
    only_ours!("it reads once");
    let (first, second) = (Authority::new("First"), Authority::new("Second"));
    let (s, g, files) = (webs(1), greeters(1), Scratch::new());
    let mut serials = vec![first.issue(&["pen.test"])];
    let certificate = serials[0].file(&files, "pen.pem");
    let file = config(&files, &[&format!("ssl_certificate {certificate}")]);
    let pen = Pen::with(&["-F", &file]).servers(&s).workers(3).controlled().start();
    // Connections that exist all the time, to another pen with the same file.
    let other = Pen::with(&["-F", &file]).servers(&g).workers(2).controlled().start();
    let mut held: Vec<_> = (0..6).map(|_| Client::trusting(&first).open(&other)).collect();
    for secured in &mut held {
        assert_eq!(secured.read_line().as_deref(), Some("G0"));
    }
    let both = || Client::trusting_all(&[&first, &second]);
    let (failures, served) = under_load(&pen, both, || {
        for round in 0..6 {
            let identity =
                if round % 2 == 0 { second.issue(&["pen.test"]) } else { first.issue(&["pen.test"]) };
            identity.file(&files, "pen.pem");
            assert_eq!(pen.ask("reload"), "ok\n");
            for _ in 0..6 {
                assert_eq!(both().open(&pen).peer_serial(), identity.serial(), "round {round}");
            }
            serials.push(identity);
            more(&s[0], 5);
        }
    });
    assert_eq!(failures, [""; 0]);
    assert!(served >= 30);
    assert_eq!(other.ask("reload"), "ok\n");
    for secured in &mut held {
        assert!(secured.echoes(), "a connection was disturbed");
        assert_eq!(secured.peer_serial(), serials[0].serial());
    }
    assert_eq!(both().open(&other).peer_serial(), serials.last().unwrap().serial());
}

/// pen(1), SIGHUP: certificates are read again without a configuration file, too.
#[test]
fn a_signal_reads_the_files_of_the_command_line_again() {
    only_ours!("it reads once");
    let (g, files) = (greeters(1), Scratch::new());
    let (authority, first) = usual();
    let (certificate, key) =
        (files.write("pen.crt", first.chain_pem()), files.write("pen.key", first.key_pem()));
    let mut pen = Pen::with(&["-E", &certificate, "-K", &key]).servers(&g).workers(2).start();
    let serves = |serial: &str| (0..6).all(|_| Client::usual().open(&pen).peer_serial() == serial);
    let mut held: Vec<_> = (0..4).map(|_| Client::usual().open(&pen)).collect();
    assert!(held.iter_mut().all(|secured| secured.read_line().as_deref() == Some("G0")));
    let mut serial = first.serial();
    for round in 0..3 {
        let renewed = authority.issue(&["pen.test"]);
        // Half of it is there, and the other half is not yet.
        files.write("pen.crt", renewed.chain_pem());
        let before = pen.stderr().len();
        pen.signal(Signal::SIGHUP);
        wait_until("it is told", || pen.stderr()[before..].contains("nothing is changed\n"));
        let told = pen.stderr()[before..].to_owned();
        assert!(told.contains(&key) && told.contains("does not belong"), "{told}");
        assert_eq!(told.lines().count(), 2, "what is wrong, and what follows: {told}");
        assert!(serves(&serial), "round {round}");
        files.write("pen.key", renewed.key_pem());
        pen.signal(Signal::SIGHUP);
        serial = renewed.serial();
        wait_until("the new certificate is in use", || serves(&serial));
        let said = s_client_says(pen.address, authority, &["-no_ign_eof"], b"Q\n");
        assert!(said.stdout.contains("Verify return code: 0 (ok)"), "{said:?}");
        for secured in &mut held {
            assert!(secured.echoes(), "a connection was disturbed in round {round}");
            assert_eq!(secured.peer_serial(), first.serial());
        }
    }
    assert_eq!(pen.end_with(Signal::SIGTERM), Some(0));
}

/// pen(1), Certificates: a key that no client could connect with is refused, at the start and later.
#[test]
fn a_key_that_nobody_could_connect_with_is_refused() {
    only_ours!("it takes anything");
    let (authority, identity) = usual();
    let (s, files, names) = (webs(1), Scratch::new(), Scratch::new());
    // AWS-LC has no others that TLS does not have.
    let mut curves = vec![(Nid::SECP256K1, "secp256k1")];
    if !cfg!(feature = "aws-lc") {
        curves.push((Nid::BRAINPOOL_P256R1, "brainpoolP256r1"));
    }
    for (curve, word) in curves {
        let odd = authority.issue_with(&["pen.test"], Kind::Curve(curve));
        let certificate = odd.file(&files, "pen.pem");
        let refused = |text: &str| {
            let line = |line: &&str| line.contains(&certificate) && line.contains(word);
            text.lines().filter(line).count() == 1
        };
        for options in [&["-E", &certificate][..], &["--check", "-E", &certificate]] {
            let ended = Pen::with(options).servers(&s).run();
            assert!(ended.code() == 1 && refused(&ended.stderr), "{options:?}: {ended:?}");
        }
        identity.file(&files, "pen.pem");
        let file = config(&files, &["blacklist 9", &format!("ssl_certificate {certificate}")]);
        let pen = Pen::with(&["-F", &file]).servers(&s).controlled().start();
        odd.file(&files, "pen.pem");
        let reply = pen.ask("reload");
        assert!(reply.starts_with(&format!("error: {file}:2: ")) && refused(&reply), "{reply}");
        assert_eq!(Client::usual().build().visit(&pen), "S0");
        // As a name's, too.
        identity.file(&files, "pen.pem");
        odd.pair(&names, "pen.test");
        let reply = pen.ask(&format!("ssl_sni_path {}", names.path().display()));
        assert!(
            reply.starts_with("error: ") && reply.contains("pen.test.crt") && reply.contains(word),
            "{reply}"
        );
        assert_eq!(Client::usual().name("pen.test").build().visit(&pen), "S0");
    }
}

/// pen(1), Certificates: a curve that clients must be told to use is taken if it is in ssl_groups, and such clients are
/// served.
#[cfg(not(feature = "aws-lc"))] // which has none of these curves
#[test]
fn a_curve_that_is_asked_for_is_taken() {
    only_ours!("it has no ssl_groups");
    let (authority, _) = usual();
    let (s, files) = (webs(1), Scratch::new());
    let odd = authority.issue_with(&["pen.test"], Kind::Curve(Nid::BRAINPOOL_P256R1));
    let groups = "brainpoolP256r1:P-256";
    let pen = tls::pen_as(&odd, &files, &["-O", &format!("ssl_groups {groups}")]).servers(&s).start();
    let said = s_client(pen.address, authority, &["-tls1_2", "-groups", groups]);
    assert!(said.stdout.contains("\r\n\r\nS0"), "{said:?}");
}

/// pen(1), Certificates: a command that names no file reads none.
#[test]
fn a_command_that_names_no_file_minds_none() {
    only_ours!("it has no such commands");
    let (s, files) = (webs(1), Scratch::new());
    let pen = tls::pen(&files, &[]).servers(&s).workers(2).controlled().start();
    std::fs::remove_file(files.file("cert.pem")).unwrap();
    pen.tell("ssl_alpn http/1.1");
    let client = Client::usual().alpn(&["http/1.1"]).open(&pen);
    assert_eq!(client.ssl().selected_alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(client.peer_serial(), usual().1.serial());
}

/// pen(1), ssl_certificate, ssl_key: TLS can be turned on and off; who is connected stays as he is.
#[test]
fn tls_can_be_turned_on_and_off() {
    only_ours!("it has no such command");
    let (root, identity) = usual();
    let (g, files) = (greeters(1), Scratch::new());
    let certificate = identity.file(&files, "cert.pem");
    let (leaf, key) =
        (files.write("leaf.crt", identity.chain_pem()), files.write("leaf.key", identity.key_pem()));
    let pen = Pen::with(&[]).servers(&g).workers(3).controlled().start();
    let plain = pen.hold();
    assert_eq!(plain.name, "G0");
    let reply = pen.ask(&format!("ssl_certificate {leaf}"));
    assert!(reply.starts_with("error: ") && reply.contains(&leaf), "there is no key in it: {reply}");
    assert_eq!(pen.hold().name, "G0", "still plain");
    pen.tell(&format!("ssl_certificate {certificate}"));
    let mut secured: Vec<_> = (0..9).map(|_| Client::trusting(root).open(&pen)).collect();
    assert!(secured.iter_mut().all(|secured| secured.read_line().as_deref() == Some("G0")));
    assert!(plain.echoes());
    assert_eq!(pen.batch(&[&format!("ssl_certificate {leaf}"), &format!("ssl_key {key}")]), "");
    assert_eq!(Client::trusting(root).open(&pen).read_line().as_deref(), Some("G0"));
    assert!(pen.ask("ssl_certificate").contains(&leaf), "{}", pen.ask("ssl_certificate"));
    pen.tell("no ssl_certificate");
    assert!(pen.hold_many(9).iter().all(|held| held.name == "G0" && held.echoes()));
    assert!(plain.echoes() && secured.iter_mut().all(|secured| secured.echoes()));
    drop((plain, secured));
    nothing_is_left(&pen);
}

/// pen(1), write: what is written down brings the same TLS back.
#[test]
fn what_is_written_down_has_tls_in_it() {
    only_ours!("it writes nothing of it");
    let (s, files) = (webs(1), Scratch::new());
    let certificate = usual().1.file(&files, "cert.pem");
    let pen = Pen::with(&["-E", &certificate, "-O", "ssl_max_version TLSv1.2", "-O", "ssl_alpn http/1.1"])
        .servers(&s)
        .controlled()
        .start();
    let saved = files.file("saved.cfg");
    pen.tell(&format!("write {saved}"));
    drop(pen);
    let pen = Pen::with(&["-F", &saved]).servers(&s).start();
    let client = Client::usual().alpn(&["http/1.1"]).open(&pen);
    assert_eq!(client.version(), "TLSv1.2");
    assert_eq!(client.ssl().selected_alpn_protocol(), Some(&b"http/1.1"[..]));
}
