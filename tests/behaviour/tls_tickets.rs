//! Sessions that are resumed: by any worker, across reloads and deaths, and not by those who must not.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openssl::ssl::SslVersion;

use crate::support::backend::{greeters, webs};
use crate::support::tls::{self, Authority, Client, Ready, Secured, config, usual};
use crate::support::{Pen, Scratch, let_pass, only_ours, processes, wait_until};

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

/// A client that has been served, and offers from now on the session that it got.
#[track_caller]
fn known(client: Client, pen: &Pen) -> Ready {
    let client = client.build();
    let mut first = client.open(pen);
    assert!(!first.resumed());
    assert_eq!(first.read_line().as_deref(), Some("G0"));
    let session = client.session();
    client.resuming(session)
}

/// So many connections at a time: how many were resumed, and how many workers they were with.
#[track_caller]
fn resumed(client: &Ready, pen: &Pen, count: usize) -> (usize, usize) {
    let mut held: Vec<Secured> = (0..count).map(|_| client.open(pen)).collect();
    for secured in &mut held {
        assert_eq!(secured.read_line().as_deref(), Some("G0"), "a resumed connection is one like any other");
    }
    let owners = processes::owners(&pen.workers(), pen.address.port());
    let of = |secured: &Secured| owners[&secured.socket().local_addr().unwrap().port()];
    let workers: BTreeSet<i32> = held.iter().map(of).collect();
    (held.iter().filter(|secured| secured.resumed()).count(), workers.len())
}

/// Kills a worker and waits until another one is there.
fn replace(pen: &Pen, worker: i32) {
    let count = pen.workers().len();
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    wait_until("there is another worker", || {
        let now = pen.workers();
        now.len() == count && !now.contains(&worker)
    });
}

/// pen(1), Sessions: resumed by whatever worker a client meets, after a reload and after all workers were replaced.
#[test]
fn sessions_are_resumed_by_any_worker_at_any_time() {
    only_ours!("it is one process");
    for version in VERSIONS {
        let (g, files) = (greeters(1), Scratch::new());
        let certificate = usual().1.file(&files, "cert.pem");
        let file = config(&files, &[&format!("ssl_certificate {certificate}")]);
        let pen = Pen::with(&["-F", &file]).servers(&g).workers(4).controlled().start();
        let client = known(Client::usual().version(version), &pen);
        let all = |when: &str| {
            let (count, workers) = resumed(&client, &pen, 40);
            assert_eq!(count, 40, "{version:?}, {when}");
            assert!(workers >= 3, "{version:?}, {when}: of 4 workers {workers} took part");
        };
        all("at first");
        assert_eq!(pen.ask("reload"), "ok\n");
        all("after a reload");
        pen.signal(Signal::SIGHUP);
        wait_until("it is read again", || pen.stderr().matches("in force now").count() == 2);
        all("after a signal");
        for worker in pen.workers() {
            replace(&pen, worker);
        }
        all("after every worker was killed");
        // A renewed certificate does not make clients strangers.
        usual().0.issue(&["pen.test"]).file(&files, "cert.pem");
        assert_eq!(pen.ask("reload"), "ok\n");
        all("with a new certificate");
    }
}

/// pen(1), Sessions: what a resumed connection brings is a ticket for the next one. Browsers use each ticket once, as
/// RFC 8446 wants it: without a new one, every second visit of theirs would need a full handshake.
#[test]
fn a_resumed_connection_gets_a_ticket_too() {
    only_ours!("it is one process");
    let (g, files) = (greeters(1), Scratch::new());
    let pen = tls::pen(&files, &[]).servers(&g).workers(2).start();
    let mut client = known(Client::usual().version(SslVersion::TLS1_3), &pen);
    for round in 0..6 {
        let before = client.sessions();
        let mut secured = client.open(&pen);
        assert!(secured.resumed(), "round {round}");
        assert_eq!(secured.read_line().as_deref(), Some("G0"));
        assert!(client.sessions() > before, "round {round}: no new ticket");
        let session = client.session();
        client = client.resuming(session);
    }
}

/// pen(1), ssl_ticket_rotation: a ticket outlives the next two keys, not more; then there is a full handshake.
#[test]
fn old_keys_are_kept_for_a_while() {
    only_ours!("it has no ssl_ticket_rotation");
    let (g, files) = (greeters(1), Scratch::new());
    let pen = tls::pen(&files, &["-O", "ssl_ticket_rotation 1"]).servers(&g).workers(2).start();
    let second = Duration::from_secs(1);
    // A ticket lives for two seconds, which a library counts by the clock on the wall. A machine that is busy may let
    // them pass.
    let clients = (0..10).find_map(|_| {
        let before = tls::now();
        let clients = VERSIONS.map(|version| known(Client::usual().version(version), &pen));
        let_pass(second + second / 20);
        let counts = clients.each_ref().map(|client| resumed(client, &pen, 3).0);
        (tls::now() - before < 2).then_some((clients, counts))
    });
    let (clients, counts) = clients.expect("a machine that is not that busy");
    assert_eq!(counts, [3, 3], "{VERSIONS:?}: not resumed after one change of keys");
    let_pass(4 * second);
    let counts = clients.each_ref().map(|client| resumed(client, &pen, 3).0);
    assert_eq!(counts, [0, 0], "{VERSIONS:?}: resumed with a key that should be gone");
}

/// pen(1), Client certificates: a session is no way around a change of authorities.
#[test]
fn a_session_ends_with_the_trust_it_was_made_in() {
    only_ours!("it does not read again");
    for version in VERSIONS {
        let (first, second) = (Authority::new("First"), Authority::new("Second"));
        let (g, files) = (greeters(1), Scratch::new());
        let certificate = usual().1.file(&files, "cert.pem");
        let ca = first.file(&files, "ca.pem");
        let lines = [format!("ssl_certificate {certificate}"), format!("ssl_ca_file {ca}")];
        let with =
            |verify: &str| config(&files, &[&lines[0], &lines[1], &format!("ssl_verify_client {verify}")]);
        let pen = Pen::with(&["-F", &with("require")]).servers(&g).workers(2).controlled().start();
        let identity = first.issue(&["client"]);
        let client = known(Client::usual().version(version).certificate(&identity), &pen);
        assert_eq!(resumed(&client, &pen, 4).0, 4, "{version:?}: the same authorities");
        second.file(&files, "ca.pem");
        assert_eq!(pen.ask("reload"), "ok\n");
        for _ in 0..4 {
            let served = client.connect(pen.connect()).map(|mut secured| secured.read_line());
            assert_ne!(served.ok().flatten().as_deref(), Some("G0"), "{version:?}: served without trust");
        }
        // Nor is one that was made without a certificate a way around being asked for one.
        with("off");
        assert_eq!(pen.ask("reload"), "ok\n");
        let stranger = known(Client::usual().version(version), &pen);
        with("require");
        assert_eq!(pen.ask("reload"), "ok\n");
        let served = stranger.connect(pen.connect()).map(|mut secured| secured.read_line());
        assert_ne!(served.ok().flatten().as_deref(), Some("G0"), "{version:?}: served without a certificate");
    }
}

/// pen(1), Sessions: of another pen, with the same certificate, a ticket is no good and does no harm.
#[test]
fn a_ticket_of_another_pen_does_no_harm() {
    let (g, files) = (greeters(1), Scratch::new());
    let one = tls::pen(&files, &[]).servers(&g).start();
    let other = tls::pen(&files, &[]).servers(&g).start();
    for version in VERSIONS {
        let client = known(Client::usual().version(version), &one);
        assert_eq!(resumed(&client, &other, 2).0, 0);
    }
}

/// A real client: what one s_client writes down another one resumes.
#[test]
fn a_real_client_resumes() {
    let (s, files) = (webs(1), Scratch::new());
    let pen = tls::pen(&files, &[]).servers(&s).workers(2).start();
    let kept = files.file("session.pem");
    for version in ["-tls1_2", "-tls1_3"] {
        let said = tls::s_client(pen.address, &usual().0, &[version, "-sess_out", &kept]);
        assert!(said.stdout.contains("New, "), "{said:?}");
        for _ in 0..6 {
            let said = tls::s_client(pen.address, &usual().0, &[version, "-sess_in", &kept]);
            assert!(said.stdout.contains("Reused, ") && said.stdout.contains("\r\n\r\nS0"), "{said:?}");
        }
    }
}
