//! TLS and pen's processes: what the end leaves, and what goes on after the drop of privileges.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::support::backend::{greeters, webs};
use crate::support::tls::{
    self, Client, Identity, TlsEnding, config, curl, has_program, python, s_client, usual,
};
use crate::support::{Pen, SOON, Scratch, needs_root, only_ours, processes, wait_until};

/// What clients have got so far, and whether they are to stop.
#[derive(Default)]
struct Progress {
    handshakes: AtomicUsize,
    blocks: AtomicUsize,
    over: AtomicBool,
}

/// Comes again and again for the greeting, also when there is nobody any more.
fn shake_hands(pen: &Pen, progress: &Progress) {
    let client = Client::usual().build();
    while !progress.over.load(Ordering::SeqCst) {
        let Ok(stream) = TcpStream::connect(pen.address) else { continue };
        stream.set_read_timeout(Some(SOON)).unwrap();
        if client.connect(stream).is_ok_and(|mut secured| secured.read_line().is_some()) {
            progress.handshakes.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Has blocks echoed until the connection ends: how it does.
fn relay(pen: &Pen, progress: &Progress) -> TlsEnding {
    let mut secured = Client::usual().open(pen);
    assert_eq!(secured.read_line().as_deref(), Some("G0"));
    let (block, mut room) = (vec![7; 32 * 1024], vec![0; 32 * 1024]);
    while secured.send(&block) {
        let mut got = 0;
        while got < block.len() {
            match secured.receive(&mut room[got..]) {
                Ok(count) => got += count,
                Err(ending) => return ending,
            }
        }
        progress.blocks.fetch_add(1, Ordering::SeqCst);
    }
    TlsEnding::Reset
}

/// The same with Python: what it calls that. The file READY is there when the first block has come back.
const RELAY: &str = "
tls.recv(10)
tls.sendall(b'x')
tls.recv(1)
open('READY', 'w')
try:
    while True:
        tls.sendall(b'x' * 1000)
        if not tls.recv(1000): raise EOFError('a declared end')
except Exception as error:
    print(type(error).__name__)
";

/// pen(1), SIGNALS: TERM ends connections that shake hands or relay, with all that pen was: no process, no file and no
/// socket is left. Nobody who is cut off takes it for an end.
#[test]
fn term_under_load_leaves_nothing() {
    only_ours!("it leaves its pid file");
    let hello = tls::client_hello("pen.test");
    for background in [false, true] {
        let (g, files, signs) = (greeters(1), Scratch::new(), Scratch::new());
        let relay_of_python = RELAY.replace("READY", &signs.file("ready"));
        let certificate = usual().1.file(&files, "cert.pem");
        let pid_file = files.file("pid");
        let pen = Pen::with(&["-E", &certificate]).servers(&g).workers(3).controlled();
        let mut pen = match background {
            true => pen.background().pid_file(&pid_file, &pid_file).start(),
            false => pen.start(),
        };
        let progress = Progress::default();
        let endings = std::thread::scope(|scope| {
            let relays: Vec<_> = (0..3).map(|_| scope.spawn(|| relay(&pen, &progress))).collect();
            let snake = has_program("python3")
                .then(|| scope.spawn(|| python(pen.address, &usual().0, &relay_of_python)));
            (0..3).for_each(|_| drop(scope.spawn(|| shake_hands(&pen, &progress))));
            // These stop in the middle of a handshake.
            let stuck: Vec<_> = (0..6).map(|_| pen.connect()).collect();
            for (sixths, stream) in stuck.iter().enumerate() {
                { stream }.write_all(&hello[..hello.len() * sixths / 6]).unwrap();
            }
            wait_until("all are busy", || {
                let busy = snake.is_none() || !signs.names().is_empty();
                busy && progress.handshakes.load(Ordering::SeqCst) >= 20
                    && progress.blocks.load(Ordering::SeqCst) >= 20
            });
            pen.signal(Signal::SIGTERM);
            let endings: Vec<_> = relays.into_iter().map(|relay| relay.join().unwrap()).collect();
            progress.over.store(true, Ordering::SeqCst);
            if let Some(said) = snake.map(|snake| snake.join().unwrap()) {
                let known = ["SSLEOFError", "ConnectionResetError", "BrokenPipeError", "SSLError"];
                assert!(known.contains(&said.stdout.trim()), "{said:?}");
            }
            endings
        });
        assert!(
            endings.iter().all(|ending| matches!(ending, TlsEnding::Reset | TlsEnding::Truncated)),
            "{endings:?}"
        );
        let status = pen.wait_for_end();
        assert_eq!(status.map(|status| status.code()), (!background).then_some(Some(0)), "{}", pen.stderr());
        assert_eq!(files.names(), ["cert.pem"]);
        assert!(!pen.scratch.names().contains(&"ctl".to_owned()));
        assert!(!processes::listening(pen.address.port()));
        wait_until("the server's sides are closed", || g[0].open() == 0);
    }
}

/// The file as somebody finds it who looks for it from inside of the jail, who may read it.
fn inside(jail: &Scratch, path: &str) -> String {
    let place = jail.path().join(Path::new(path).strip_prefix("/").unwrap());
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    place.to_str().unwrap().to_owned()
}

/// Visits all the time while `change` happens. All must go well.
fn visited<T>(pen: &Pen, change: impl FnOnce() -> T) -> T {
    let (over, visits) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let client = Client::usual().build();
                    while !over.load(Ordering::SeqCst) {
                        assert_eq!(client.open(pen).request("/"), ("S0".to_owned(), TlsEnding::Declared));
                        visits.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let more = |count: usize| {
            let before = visits.load(Ordering::SeqCst);
            wait_until("visits go on", || {
                visits.load(Ordering::SeqCst) >= before + count || visitors.iter().any(|it| it.is_finished())
            });
        };
        more(10);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
        more(10);
        over.store(true, Ordering::SeqCst);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// pen(1), Certificates: whoever lets the user of -u read certificates in the jail has them renewed without a restart;
/// clients do not notice. Workers that are made later know them, too.
#[test]
fn certificates_are_renewed_in_the_jail() {
    needs_root!();
    only_ours!("it reads once");
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let (s, files, jail) = (webs(1), Scratch::new(), Scratch::new());
    let (authority, first) = usual();
    let outside = first.file(&files, "pen.pem");
    let place = inside(&jail, &outside);
    let options = ["-E", &outside, "-j", jail.path().to_str().unwrap(), "-u", "nobody"];
    let mut pen = Pen::with(&options).servers(&s).workers(3).start();
    let serves =
        |identity: &Identity| (0..6).all(|_| Client::usual().open(&pen).peer_serial() == identity.serial());
    assert!(serves(first));
    let second = authority.issue(&["pen.test", "localhost"]);
    visited(&pen, || {
        fs::write(&place, second.pem()).unwrap();
        chown(&place, Some(nobody.uid.as_raw()), None).unwrap();
        pen.signal(Signal::SIGHUP);
        wait_until("it is renewed", || serves(&second));
        // Half of the next one is not there yet.
        fs::write(&place, authority.issue(&["pen.test"]).chain_pem()).unwrap();
        let before = pen.stderr().len();
        pen.signal(Signal::SIGHUP);
        wait_until("it is told", || pen.stderr()[before..].contains("nothing is changed\n"));
        assert!(pen.stderr()[before..].contains(&outside), "{}", pen.stderr());
        assert!(serves(&second));
    });
    let old: BTreeSet<i32> = pen.workers().into_iter().collect();
    old.iter().for_each(|&worker| kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap());
    wait_until("there are others", || {
        pen.workers().len() == 3 && pen.workers().iter().all(|worker| !old.contains(worker))
    });
    visited(&pen, || assert!(serves(&second)));
    let said = s_client(pen.address, authority, &[]);
    assert!(said.stdout.contains("\r\n\r\nS0"), "{said:?}");
    let said = curl(pen.address, authority, &[]);
    assert_eq!((said.stdout.as_str(), said.code), ("S0", 0), "{said:?}");
    for pid in pen.family() {
        let ids = processes::status(pid, "Uid");
        assert!(ids.split(' ').all(|id| id == nobody.uid.to_string()), "{ids}");
        assert_eq!(fs::read_link(format!("/proc/{pid}/root")).unwrap(), jail.path());
    }
    assert_eq!(pen.end_with(Signal::SIGTERM), Some(0));
}

/// pen(1), Certificates: what was read at the start and is out of reach in the jail stays, the authorities of the system
/// as well: a reload goes on.
#[test]
fn authorities_of_the_system_are_kept_in_the_jail() {
    needs_root!();
    only_ours!("it has no TLS to servers");
    if !Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        eprintln!("not told: ca-certificates is not installed");
        return;
    }
    let (s, files, jail) = (webs(1), Scratch::new(), Scratch::new());
    let server = format!("server 0 address 127.0.0.1 port {}", s[0].port());
    let file = config(&files, &[&server, "server 1 address 127.0.0.1 port 9 tls verify system"]);
    let place = inside(&jail, &file);
    fs::write(&place, format!("{server}\nserver 1 address 127.0.0.1 port 9 tls\nblacklist 7\n")).unwrap();
    let jail_name = jail.path().to_str().unwrap();
    let pen = Pen::with(&["-F", &file, "-j", jail_name, "-u", "nobody"])
        .through(&["env", "-u", "SSL_CERT_FILE", "-u", "SSL_CERT_DIR"])
        .workers(1)
        .start();
    assert_eq!(pen.visit(), "S0");
    pen.signal(Signal::SIGHUP);
    wait_until("it is in force", || pen.stderr().contains("in force now"));
    assert!(pen.stderr().contains("; what was read before stays"), "{}", pen.stderr());
    assert_eq!(pen.visit(), "S0");
}
