//! Certificates that change while pen runs: all or nothing, and nobody who is connected notices.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;

use crate::support::backend::{greeters, webs};
use crate::support::tls::{self, Authority, Client, TlsEnding, config, nothing_is_left, usual};
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
    let (s, files) = (webs(1), Scratch::new());
    let pen = tls::pen(&files, &[]).servers(&s).workers(2).start();
    let renewed = usual().0.issue(&["pen.test"]);
    renewed.file(&files, "cert.pem");
    pen.signal(Signal::SIGHUP);
    wait_until("the new certificate is in use", || {
        (0..6).all(|_| Client::usual().open(&pen).peer_serial() == renewed.serial())
    });
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
