//! TLS towards clients: what they are served with, how connections end, and what hostile ones cost.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openssl::sha::Sha256;
use openssl::ssl::{ErrorCode, SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};

use crate::support::backend::{Visit, greeters, webs};
use crate::support::client::{read_all, reset};
use crate::support::tls::{
    Authority, Client, Secured, TlsEnding, acceptor, config, connections, curl, nothing_is_left, pen_as,
    s_client, s_client_says, usual, usual_rsa,
};
use crate::support::{
    Backend, Ending, Pen, SOON, Scratch, let_pass, needs_root, only_ours, processes, tls, wait_until,
};

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// A server that reads to the end of the stream, notes what came and how it ended, and answers with `answer`.
fn collector(answer: &'static [u8]) -> Backend {
    Backend::serving("C", move |visit| {
        let (bytes, ending) = read_all(&visit.stream);
        visit.note(String::from_utf8_lossy(&bytes));
        visit.note(format!("{ending:?}"));
        let _ = (&visit.stream).write_all(answer);
    })
}

/// pen(1), -E: TLS 1.2 and 1.3, with keys of either kind, for the clients that people use.
#[test]
fn real_clients_are_served_over_both_versions() {
    for (authority, identity) in [usual(), usual_rsa()] {
        let (s, files) = (webs(1), Scratch::new());
        let pen = pen_as(identity, &files, &[]).servers(&s).start();
        for (version, of_curl, of_openssl) in [
            ("TLSv1.2", ["--tlsv1.2", "--tls-max", "1.2"], "-tls1_2"),
            ("TLSv1.3", ["--tlsv1.3", "--tls-max", "1.3"], "-tls1_3"),
        ] {
            let said = curl(pen.address, authority, &of_curl);
            assert_eq!((said.stdout.as_str(), said.code), ("S0", 0), "{said:?}");
            let said = s_client(pen.address, authority, &[of_openssl]);
            assert!(said.stdout.contains(&format!("New, {version}, Cipher is")), "{said:?}");
            assert!(said.stdout.contains("Verify return code: 0 (ok)"), "{said:?}");
            assert!(said.stdout.contains("\r\n\r\nS0"), "{said:?}");
        }
    }
}

/// pen(1), ssl_min_version: TLS 1.2 or newer, unless something older is asked for, which is warned of.
#[test]
fn old_versions_are_served_only_if_they_are_asked_for() {
    only_ours!("it has no ssl_min_version");
    let old = [SslVersion::TLS1, SslVersion::TLS1_1];
    let (s, files) = (webs(1), Scratch::new());
    let pen = tls::pen(&files, &[]).servers(&s).start();
    for version in old {
        let refused = Client::careless().version(version).connect(pen.connect());
        assert!(refused.is_err(), "{:?}", refused.map(|secured| secured.version()));
    }
    assert_eq!(Client::usual().build().visit(&pen), "S0");
    drop(pen);
    for (asked, served) in [("TLSv1", [true, true]), ("TLSv1.1", [false, true])] {
        let options = ["-O", &format!("ssl_min_version {asked}")];
        let pen = tls::pen(&files, &options).servers(&s).start();
        assert!(pen.stderr().contains(asked), "nothing is said of {asked}: {}", pen.stderr());
        for (version, served) in old.into_iter().zip(served) {
            match Client::careless().version(version).connect(pen.connect()) {
                Ok(mut secured) => {
                    assert!(served, "{} with {asked}", secured.version());
                    assert_eq!(secured.request("/"), ("S0".to_owned(), TlsEnding::Declared));
                }
                Err(error) => assert!(!served, "{version:?} with {asked}: {error}"),
            }
        }
        assert_eq!(Client::usual().open(&pen).version(), "TLSv1.3");
    }
}

/// pen(1), ssl_max_version.
#[test]
fn the_newest_version_can_be_bounded() {
    only_ours!("it has no ssl_max_version");
    let (s, files) = (webs(1), Scratch::new());
    let pen = tls::pen(&files, &["-O", "ssl_max_version TLSv1.2"]).servers(&s).start();
    assert_eq!(Client::usual().open(&pen).version(), "TLSv1.2");
    assert!(Client::usual().version(SslVersion::TLS1_3).connect(pen.connect()).is_err());
    drop(pen);
    let pen = tls::pen(&files, &["-O", "ssl_min_version TLSv1.3"]).servers(&s).start();
    assert_eq!(Client::usual().open(&pen).version(), "TLSv1.3");
    assert!(Client::usual().version(SslVersion::TLS1_2).connect(pen.connect()).is_err());
}

/// pen(1), -E: all certificates of the file are sent, so that a client that trusts the root alone can follow.
#[test]
fn the_whole_chain_is_sent() {
    only_ours!("it sends the first one only");
    let root = Authority::new("Root");
    let identity = root.intermediate("First").intermediate("Second").issue(&["localhost"]);
    assert_eq!(identity.above.len(), 2);
    let (s, files) = (webs(1), Scratch::new());
    let pen = pen_as(&identity, &files, &[]).servers(&s).start();
    for version in VERSIONS {
        let mut secured = Client::trusting(&root).version(version).checked_name("localhost").open(&pen);
        assert_eq!(secured.ssl().peer_cert_chain().unwrap().len(), 3);
        assert_eq!(secured.request("/").0, "S0");
    }
    let said = curl(pen.address, &root, &[]);
    assert_eq!(said.stdout, "S0", "{said:?}");
}

/// pen(1), -E, -K: the key is in the file of the certificate, anywhere in it, or in one of its own.
#[test]
fn the_key_is_in_the_same_file_or_in_another() {
    let (root, identity) = usual();
    let (s, files) = (webs(1), Scratch::new());
    let certificate = files.write("only.crt", identity.chain_pem());
    let key = files.write("only.key", identity.key_pem());
    let first = files.write("first.pem", [identity.key_pem(), identity.chain_pem()].concat());
    let sec1 = identity.key.ec_key().unwrap().private_key_to_pem().unwrap();
    let sec1 = files.write("sec1.pem", [identity.chain_pem(), sec1].concat());
    for options in [&["-E", &certificate, "-K", &key][..], &["-E", &first], &["-E", &sec1]] {
        let pen = Pen::with(options).servers(&s).start();
        assert_eq!(Client::trusting(root).build().visit(&pen), "S0", "{options:?}");
    }
}

/// pen(1), -E: what cannot be used is named before pen becomes a daemon, and ends the start.
#[test]
fn a_certificate_or_key_that_cannot_be_used_ends_the_start() {
    only_ours!("its messages name no file");
    let (root, identity) = usual();
    let files = Scratch::new();
    let good = identity.file(&files, "good.pem");
    let certificate = files.write("leaf.crt", identity.chain_pem());
    let other = root.issue(&["other.test"]);
    let mismatched = files.write("other.key", other.key_pem());
    let encrypted = files.write("encrypted.key", identity.encrypted_key_pem());
    let both = files.write("encrypted.pem", [identity.chain_pem(), identity.encrypted_key_pem()].concat());
    let garbage = files.write("garbage.pem", "this is no certificate\n");
    let broken = String::from_utf8(identity.chain_pem()).unwrap();
    let broken = files.write("broken.pem", broken.replacen("MII", "AAA", 1));
    let missing = files.file("missing.pem");
    let directory = files.path().to_str().unwrap().to_owned();
    let cases: &[(&[&str], &str)] = &[
        (&["-E", &missing], &missing),
        (&["-E", &directory], &directory),
        (&["-E", &garbage], &garbage),
        (&["-E", &broken], &broken),
        (&["-E", &certificate], &certificate), // no key in it
        (&["-E", &both], &both),
        (&["-E", &certificate, "-K", &encrypted], &encrypted),
        (&["-E", &certificate, "-K", &mismatched], &mismatched),
        (&["-E", &certificate, "-K", &missing], &missing),
        (&["-E", &certificate, "-K", &garbage], &garbage),
        (&["-E", &good, "-R", "-G", &missing], &missing),
        (&["-E", &good, "-R", "-G", &garbage], &garbage),
        (&["-E", &good, "-R", "-A", &missing], &missing),
        (&["-E", &good, "-O", &format!("ssl_sni_path {missing}")], &missing),
    ];
    for (options, file) in cases {
        let names_it = |stderr: &str| {
            let line = stderr.lines().find(|line| line.starts_with("pen: ") && line.contains(file));
            line.is_some_and(|line| !line.to_ascii_lowercase().contains("error:")) // not the library's own words
        };
        for background in [false, true] {
            let pen = Pen::with(options).servers(["127.0.0.1:9"]);
            let ended = if background { pen.background() } else { pen }.run();
            assert_eq!(ended.code(), 1, "{options:?}: {ended:?}");
            assert!(names_it(&ended.stderr), "{options:?}: {ended:?}");
        }
        let check = [&["--check", "-u", "nosuchuser"], *options].concat();
        let ended = Pen::with(&check).servers(["127.0.0.1:9"]).run();
        assert_eq!(ended.code(), 1, "{check:?}: {ended:?}");
        assert!(names_it(&ended.stderr) && ended.stderr.contains("nosuchuser"), "{check:?}: {ended:?}");
    }
    let ended = Pen::with(&["--check", "-E", &good]).servers(["127.0.0.1:9"]).run();
    assert_eq!(ended.code(), 0, "{ended:?}");
    let ended = Pen::with(&["-E", &good, "-R"]).servers(["127.0.0.1:9"]).run();
    assert!(ended.code() == 1 && ended.stderr.contains("-G"), "nobody to trust: {ended:?}");
}

/// pen(1), Certificates: one that has expired is used, with a warning; to --check it is an error.
#[test]
fn an_expired_certificate_is_told() {
    only_ours!("it says nothing");
    let root = Authority::new("Root");
    let (s, files) = (webs(1), Scratch::new());
    let pen = pen_as(&root.issue_expired(&["localhost"]), &files, &[]).servers(&s).start();
    let told = |line: &str| line.contains(&files.file("cert.pem")) && line.contains("expired");
    assert!(pen.stderr().lines().any(told), "{}", pen.stderr());
    assert!(Client::trusting(&root).connect(pen.connect()).is_err_and(|error| error.contains("expired")));
    assert_eq!(Client::careless().build().visit(&pen), "S0");
    let ended = Pen::with(&["--check", "-E", &files.file("cert.pem")]).servers(&s).run();
    assert!(ended.code() == 1 && ended.stderr.lines().any(told), "{ended:?}");
}

/// pen(1), -L: four words that mean the same; those that sound like old versions are warned of.
#[test]
fn the_words_of_protocols_mean_the_best_there_is() {
    only_ours!("it warns of nothing");
    let (s, files) = (webs(1), Scratch::new());
    for (word, warned) in [("ssl23", false), ("ssl2", true), ("ssl3", true), ("tls1", true)] {
        let pen = tls::pen(&files, &["-L", word]).servers(&s).start();
        assert_eq!(pen.stderr().contains(word), warned, "{word}: {}", pen.stderr());
        assert_eq!(Client::usual().open(&pen).version(), "TLSv1.3", "{word}");
        assert!(Client::careless().version(SslVersion::TLS1_1).connect(pen.connect()).is_err(), "{word}");
    }
}

/// pen(1), -Z, ssl_client_renegotiation_interval: taken, without effect, and told once.
#[test]
fn what_has_no_effect_is_told_once() {
    only_ours!("it says nothing");
    let (s, files) = (webs(1), Scratch::new());
    let interval = "ssl_client_renegotiation_interval";
    let option = format!("{interval} 60");
    let pen = tls::pen(&files, &["-Z", "-Z", "-O", &option, "-O", &option]).servers(&s).workers(3).start();
    assert_eq!(Client::usual().build().visit(&pen), "S0");
    for word in ["-Z", interval] {
        assert_eq!(pen.stderr().matches(word).count(), 1, "{word}: {}", pen.stderr());
    }
}

/// pen(1), TLS: the end of a stream is declared, as curl and everybody strict want it.
#[test]
fn the_servers_end_is_declared_to_the_client() {
    only_ours!("it does not");
    let server = Backend::serving("S", |visit| {
        // No length: only a declared end tells that this is all.
        if visit.read_head() {
            let _ = (&visit.stream).write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it");
        }
    });
    let files = Scratch::new();
    let pen = tls::pen(&files, &[]).servers([&server]).start();
    for version in VERSIONS {
        let answer = Client::usual().version(version).open(&pen).request("/");
        assert_eq!(answer, ("all of it".to_owned(), TlsEnding::Declared), "{version:?}");
    }
    let said = curl(pen.address, &usual().0, &[]);
    assert_eq!((said.stdout.as_str(), said.code), ("all of it", 0), "{said:?}");
}

/// pen(1), TLS: half-close. A client that has declared its end still gets the answer.
#[test]
fn a_client_may_declare_its_end_and_still_receive() {
    only_ours!("it ends the connection");
    let (server, files) = (collector(b"the answer"), Scratch::new());
    let pen = tls::pen(&files, &[]).servers([&server]).controlled().start();
    for version in VERSIONS {
        let mut client = Client::usual().version(version).open(&pen);
        assert!(client.send("the question"));
        client.finish();
        assert_eq!(client.read_all(), (b"the answer".to_vec(), TlsEnding::Declared), "{version:?}");
    }
    assert_eq!(server.notes(), ["the question", "EndOfStream", "the question", "EndOfStream"]);
    nothing_is_left(&pen);
}

/// pen(1), TLS: half-close the other way round. A server that has ended its stream still gets the rest of an upload.
#[test]
fn a_server_may_end_its_stream_and_still_receive() {
    only_ours!("it ends the connection");
    let server = Backend::serving("S", |visit| {
        let _ = (&visit.stream).write_all(b"enough");
        visit.stream.shutdown(Shutdown::Write).unwrap();
        let (bytes, ending) = read_all(&visit.stream);
        visit.note(format!("{} bytes {ending:?}", bytes.len()));
    });
    let files = Scratch::new();
    let pen = tls::pen(&files, &[]).servers([&server]).controlled().start();
    for version in VERSIONS {
        let mut client = Client::usual().version(version).open(&pen);
        assert_eq!(client.read_all(), (b"enough".to_vec(), TlsEnding::Declared), "{version:?}");
        for _ in 0..30 {
            assert!(client.send([b'u'; 10_000]));
        }
        client.finish();
        drop(client);
    }
    wait_until("the server has both uploads", || server.notes().len() == 2);
    assert_eq!(server.notes(), ["300000 bytes EndOfStream", "300000 bytes EndOfStream"]);
    nothing_is_left(&pen);
}

/// pen(1), TLS: a stream that ends without being declared to may be cut short by anybody; the server sees a reset.
#[test]
fn a_client_that_is_cut_off_is_a_reset_for_the_server() {
    only_ours!("it is an end");
    for version in VERSIONS {
        let (server, files) = (collector(b""), Scratch::new());
        let pen = tls::pen(&files, &[]).servers([&server]).controlled().start();
        let mut client = Client::usual().version(version).open(&pen);
        assert!(client.send("pay 10"));
        wait_until("the server has it", || server.open() == 1);
        client.truncate();
        wait_until("the server knows", || server.notes().len() == 2);
        assert_eq!(server.notes()[1], "Reset", "{version:?}");
        nothing_is_left(&pen);
        let client = Client::usual().version(version).open(&pen);
        wait_until("there is another", || server.open() == 1);
        client.reset();
        wait_until("the server knows", || server.notes().len() == 4);
        assert_eq!(server.notes()[2..], ["", "Reset"], "{version:?}");
        nothing_is_left(&pen);
    }
}

/// pen(1), TLS: a server's reset is no declared end for the client.
#[test]
fn a_servers_reset_is_no_end_for_the_client() {
    let server = Backend::serving("S", |visit| {
        let _ = (&visit.stream).write_all(b"half of it\n");
        let _ = (&visit.stream).read(&mut [0]);
        reset(visit.stream.try_clone().unwrap());
    });
    let files = Scratch::new();
    let pen = tls::pen(&files, &[]).servers([&server]).start();
    for version in VERSIONS {
        let mut client = Client::usual().version(version).open(&pen);
        assert_eq!(client.read_line().as_deref(), Some("half of it"));
        assert!(client.send("x"));
        let (_, ending) = client.read_all();
        assert!(matches!(ending, TlsEnding::Reset | TlsEnding::Truncated), "{version:?}: {ending:?}");
    }
}

/// A byte of what is sent in bulk. The period has no common factor with any buffer's length.
fn block() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..100_003).map(|_| next()).collect()
}

/// The digest of so many blocks.
fn digest(blocks: usize) -> String {
    let (block, mut hash) = (block(), Sha256::new());
    (0..blocks).for_each(|_| hash.update(&block));
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    hash.finish().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends so many blocks while it notes the digest of what it reads until the end.
fn exchanger(blocks: usize) -> Backend {
    Backend::serving("S", move |visit: Visit| {
        let writer = visit.stream.try_clone().unwrap();
        let name = visit.name.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let block = block();
                for _ in 0..blocks {
                    if (&writer).write_all(&block).is_err() {
                        return;
                    }
                    visit.tally().moved.fetch_add(block.len() as u64, Ordering::SeqCst);
                }
                let _ = writer.shutdown(Shutdown::Write);
            });
            let (mut hash, mut room) = (Sha256::new(), vec![0; 64 * 1024]);
            while let Ok(count) = (&visit.stream).read(&mut room) {
                if count == 0 {
                    visit.note(hex(hash));
                    return;
                }
                hash.update(&room[..count]);
            }
            visit.note(format!("{name}: broken"));
        });
    })
}

/// Sends so many blocks and receives at the same time, to the end. The digest of what came.
fn exchange(mut client: Secured, blocks: usize) -> (String, TlsEnding) {
    client.socket().set_nonblocking(true).unwrap();
    let (block, mut hash, mut room) = (block(), Sha256::new(), vec![0; 64 * 1024]);
    let (mut sent, mut ending, mut finished) = (0, None, false);
    while ending.is_none() || sent < blocks * block.len() {
        let mut moved = false;
        if sent < blocks * block.len() {
            match client.0.ssl_write(&block[sent % block.len()..]) {
                Ok(count) => (sent, moved) = (sent + count, true),
                Err(error) => {
                    assert!(matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE), "{error:?}")
                }
            }
        } else if !finished {
            finish(&mut client);
            finished = true;
        }
        if ending.is_none() {
            match client.receive(&mut room) {
                Ok(count) => {
                    hash.update(&room[..count]);
                    moved = true;
                }
                Err(TlsEnding::Open) => {}
                Err(other) => ending = Some(other),
            }
        }
        if !moved {
            let events = if finished { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
            let mut fds = [PollFd::new(client.socket().as_fd(), events)];
            let ready = poll(&mut fds, PollTimeout::try_from(SOON).unwrap()).unwrap();
            assert!(ready > 0, "nothing moves any more after {sent} bytes");
        }
    }
    if !finished {
        finish(&mut client);
    }
    (hex(hash), ending.unwrap())
}

/// Declares the end on a socket that does not block otherwise.
fn finish(client: &mut Secured) {
    client.socket().set_nonblocking(false).unwrap();
    client.finish();
    client.socket().set_nonblocking(true).unwrap();
}

/// DESCRIPTION: bytes are passed on in order and unchanged, also through TLS, both ways at once.
#[test]
fn a_hundred_megabytes_both_ways() {
    const BLOCKS: usize = 1000;
    let (server, files) = (exchanger(BLOCKS), Scratch::new());
    let pen = tls::pen(&files, &[]).servers([&server]).start();
    let expected = digest(BLOCKS);
    for version in VERSIONS {
        let (came, ending) = exchange(Client::usual().version(version).open(&pen), BLOCKS);
        assert!(came == expected, "{version:?}: other bytes came down");
        assert_eq!(ending, TlsEnding::Declared);
    }
    wait_until("the server has all", || server.notes().len() == 2);
    assert_eq!(server.notes(), [expected.clone(), expected], "other bytes went up");
}

/// DESCRIPTION: a client that does not read holds up its own server only, costs no more memory than any other, and
/// gets everything in the end.
#[test]
fn a_slow_reader_gets_everything_in_the_end() {
    const BLOCKS: usize = 600;
    let (server, files) = (exchanger(BLOCKS), Scratch::new());
    let pen = tls::pen(&files, &[]).servers([&server]).workers(1).start();
    for version in VERSIONS {
        server.tally.moved.store(0, Ordering::SeqCst);
        let client = Client::usual().version(version).open(&pen);
        let moved = || server.tally.moved.load(Ordering::SeqCst);
        let (mut before, mut steady) = (0, 0);
        let worker = pen.workers()[0];
        wait_until("the server is held up", || {
            // Pen sleeps although there is something to read for it. It may just be about to wake up.
            let asleep = processes::stat(worker).is_some_and(|stat| stat.state == 'S');
            let now = moved();
            let held_up = asleep && processes::is_unread(server.port()) && now == before;
            steady = if held_up { steady + 1 } else { 0 };
            before = now;
            steady > 10
        });
        assert!(before < 30_000_000, "pen has taken {before} bytes for a client that does not read");
        assert!(
            processes::memory_kib(&pen.family()) < 40_000,
            "{} KiB",
            processes::memory_kib(&pen.family())
        );
        let (came, ending) = exchange(client, 1);
        assert!(came == digest(BLOCKS), "{version:?}: other bytes came");
        assert_eq!(ending, TlsEnding::Declared);
    }
}

/// pen(1), TLS: what is no TLS ends the connection, and nothing else.
#[test]
fn plain_text_ends_the_connection() {
    let (s, files) = (webs(1), Scratch::new());
    let pen = tls::pen(&files, &[]).servers(&s).controlled().start();
    let workers = pen.workers();
    for _ in 0..20 {
        let stream = pen.connect();
        let _ = (&stream).write_all(b"GET / HTTP/1.0\r\n\r\n");
        let (_, ending) = read_all(&stream);
        assert_ne!(ending, Ending::Open);
    }
    assert_eq!(s[0].accepted(), 0, "the server has heard of it");
    assert_eq!(Client::usual().build().visit(&pen), "S0");
    nothing_is_left(&pen);
    assert_eq!(pen.workers(), workers);
}

/// pen(1), ssl_handshake_timeout: how long a handshake may take. Servers hear of a client only after it.
#[test]
fn a_silent_client_ends_and_the_server_never_hears_of_it() {
    only_ours!("it connects first, and has no timeout");
    let (s, files) = (webs(1), Scratch::new());
    let pen = tls::pen(&files, &["-O", "ssl_handshake_timeout 1"]).servers(&s).controlled().start();
    let silent = pen.connect();
    let stuck = pen.connect();
    let hello = tls::client_hello("pen.test");
    (&stuck).write_all(&hello[..hello.len() / 2]).unwrap();
    // This one gets an answer to its hello, and then says no more.
    let halfway = pen.connect();
    (&halfway).write_all(&hello).unwrap();
    // This one says something all the time.
    let slow = pen.connect();
    let mut at = 0;
    for (who, stream) in [("silent", &silent), ("stuck", &stuck), ("halfway", &halfway)] {
        let (_, ending) = read_all(stream);
        assert_ne!(ending, Ending::Open, "{who}");
    }
    wait_until("the slow one is ended, too", || {
        let _ = (&slow).write_all(&hello[at..=at]);
        at = (at + 1).min(hello.len() / 2);
        connections(&pen) == 0
    });
    assert_eq!(s[0].accepted(), 0);
    assert_eq!(Client::usual().build().visit(&pen), "S0");
    assert_eq!(s[0].accepted(), 1);
}

/// pen(1), ssl_handshake_timeout: a connection that has begun is bound by it no more.
#[test]
fn the_timeout_is_for_the_handshake_alone() {
    only_ours!("it has none");
    let (g, files) = (greeters(1), Scratch::new());
    let pen = tls::pen(&files, &["-O", "ssl_handshake_timeout 1"]).servers(&g).start();
    let mut client = Client::usual().open(&pen);
    assert_eq!(client.read_line().as_deref(), Some("G0"));
    let_pass(Duration::from_millis(2500));
    assert!(client.echoes());
}

/// pen(1), TLS: no handshake, however broken, harms pen or holds a place for longer than it lasts.
#[test]
fn broken_handshakes_harm_nobody() {
    let (s, files) = (webs(1), Scratch::new());
    let options = ["-x", "20", "-O", "ssl_handshake_timeout 2"];
    let pen = tls::pen(&files, &options).servers(&s).workers(2).controlled().start();
    let workers = pen.workers();
    let hello = tls::client_hello("pen.test");
    // Every prefix of a good beginning.
    for length in 0..=hello.len() {
        let stream = pen.connect();
        let _ = (&stream).write_all(&hello[..length]);
        if length % 2 == 0 {
            reset(stream);
        }
    }
    let mut state = 0x9e37_79b9_u32;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    // Good beginnings with something wrong in them, and noise, with or without the look of a record.
    for round in 0..600 {
        let mut bytes = hello.clone();
        match round % 3 {
            0 => (0..1 + random() % 8).for_each(|_| {
                let at = random() as usize % bytes.len();
                bytes[at] = random() as u8;
            }),
            1 => bytes = (0..random() % 2000).map(|_| random() as u8).collect(),
            _ => {
                bytes = (0..1 + random() % 2000).map(|_| random() as u8).collect();
                let length = bytes.len() as u16;
                bytes.splice(0..0, [22, 3, 1].into_iter().chain(length.to_be_bytes()));
            }
        }
        let stream = pen.connect();
        let _ = (&stream).write_all(&bytes);
        match round % 4 {
            0 => reset(stream),
            1 => {
                let _ = stream.shutdown(Shutdown::Write);
                let (_, ending) = read_all(&stream);
                assert_ne!(ending, Ending::Open, "round {round}");
            }
            _ => {}
        }
    }
    nothing_is_left(&pen);
    assert_eq!(s[0].accepted(), 0, "the server has heard of it");
    assert_eq!(pen.workers(), workers, "a worker has died of it");
    let client = Client::usual().build();
    for _ in 0..40 {
        assert_eq!(client.visit(&pen), "S0");
    }
}

/// pen(1), TLS: clients cannot renegotiate.
#[test]
fn renegotiation_is_refused() {
    only_ours!("it leaves it to the library");
    let (s, files) = (webs(1), Scratch::new());
    let pen = tls::pen(&files, &[]).servers(&s).controlled().start();
    let workers = pen.workers();
    let said = s_client_says(pen.address, &usual().0, &["-tls1_2", "-no_ign_eof"], b"R\n");
    assert!(said.stderr.contains("RENEGOTIATING"), "{said:?}");
    assert!(said.stderr.contains("no renegotiation") && said.code != 0, "{said:?}");
    assert_eq!(pen.workers(), workers);
    nothing_is_left(&pen);
}

/// pen(1), ssl_ciphers, ssl_ciphersuites.
#[test]
fn ciphers_are_those_asked_for() {
    only_ours!("it has no ssl_ciphersuites");
    let (s, files) = (webs(1), Scratch::new());
    let ciphers = "ssl_ciphers ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305";
    let suites = "ssl_ciphersuites TLS_CHACHA20_POLY1305_SHA256";
    let pen = tls::pen(&files, &["-O", ciphers, "-O", suites]).servers(&s).start();
    let two = |list: &str| Client::usual().version(SslVersion::TLS1_2).ciphers(list);
    assert_eq!(two("ECDHE-ECDSA-CHACHA20-POLY1305").open(&pen).cipher(), "ECDHE-ECDSA-CHACHA20-POLY1305");
    assert!(two("ECDHE-ECDSA-AES128-GCM-SHA256").connect(pen.connect()).is_err());
    assert_eq!(Client::usual().open(&pen).cipher(), "TLS_CHACHA20_POLY1305_SHA256");
    let said = s_client(pen.address, &usual().0, &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"]);
    assert_ne!(said.code, 0, "{said:?}");
}

/// pen(1), ssl_option cipher_server_preference: always on.
#[test]
fn the_servers_order_of_ciphers_counts() {
    let (s, files) = (webs(1), Scratch::new());
    let order = "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384";
    let ciphers = format!("ssl_ciphers {order}");
    for options in [&["-O", &ciphers, "-O", "ssl_option cipher_server_preference"][..], &["-O", &ciphers]] {
        if options.len() == 2 {
            only_ours!("it is off by default");
        }
        let pen = tls::pen(&files, options).servers(&s).start();
        let turned = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305";
        let client = Client::usual().version(SslVersion::TLS1_2).ciphers(turned);
        assert_eq!(client.open(&pen).cipher(), "ECDHE-ECDSA-CHACHA20-POLY1305");
    }
}

/// pen(1), ssl_option: versions can be taken away.
#[test]
fn versions_can_be_taken_away_by_option() {
    let (s, files) = (webs(1), Scratch::new());
    let pen = tls::pen(&files, &["-O", "ssl_option no_tlsv1.2"]).servers(&s).start();
    assert_eq!(Client::usual().open(&pen).version(), "TLSv1.3");
    assert!(Client::usual().version(SslVersion::TLS1_2).connect(pen.connect()).is_err());
}

/// pen(1), ssl_groups.
#[test]
fn groups_are_those_asked_for() {
    only_ours!("it has no ssl_groups");
    let (s, files) = (webs(1), Scratch::new());
    let said_of = |options: &[&str]| {
        let pen = tls::pen(&files, options).servers(&s).start();
        s_client(pen.address, &usual().0, &["-groups", "P-384:P-256:X25519"]).stdout
    };
    let said = said_of(&["-O", "ssl_groups P-384"]);
    assert!(said.contains("secp384r1"), "{said}");
    // By default X25519 is there, and P-256 for those who have nothing else.
    let pen = tls::pen(&files, &[]).servers(&s).start();
    for group in ["X25519", "P-256"] {
        assert_eq!(Client::usual().groups(group).build().visit(&pen), "S0", "{group}");
    }
    drop(pen);
    let pen = tls::pen(&files, &["-O", "ssl_groups P-384"]).servers(&s).start();
    assert!(Client::usual().groups("X25519").connect(pen.connect()).is_err());
}

/// pen(1), ssl_alpn: the first of pen's protocols that the client has, too. A client that has none of them is turned
/// away. Without it none is negotiated.
#[test]
fn protocols_are_negotiated() {
    only_ours!("it has no ssl_alpn");
    let (s, files) = (webs(1), Scratch::new());
    let pen = tls::pen(&files, &["-O", "ssl_alpn http/1.1 http/1.0"]).servers(&s).controlled().start();
    let chosen = |offered: &[&str]| {
        let client = Client::usual().alpn(offered).open(&pen);
        client.ssl().selected_alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    };
    assert_eq!(chosen(&["h2", "http/1.0", "http/1.1"]).as_deref(), Some("http/1.1"));
    assert_eq!(chosen(&["http/1.0"]).as_deref(), Some("http/1.0"));
    assert_eq!(Client::usual().build().visit(&pen), "S0", "a client that offers nothing");
    assert!(Client::usual().alpn(&["h2"]).connect(pen.connect()).is_err());
    pen.tell("no ssl_alpn");
    assert_eq!(chosen(&["h2", "http/1.1"]), None);
}

/// What neither pen nor the library knows.
const FAULTS: [&str; 6] = [
    "ssl_min_version TLSv4",
    "ssl_verify_client sometimes",
    "ssl_handshake_timeout 0",
    "ssl_ciphers NO-SUCH-CIPHER",
    "ssl_ciphersuites TLS_NO_SUCH_SUITE",
    "ssl_groups no-such-group",
];

/// pen(1), ssl_ciphers and others: what the library does not know ends the start, with the line where it is.
#[test]
fn a_list_that_the_library_does_not_know_ends_the_start() {
    only_ours!("it takes anything");
    let files = Scratch::new();
    let certificate = format!("ssl_certificate {}", usual().1.file(&files, "cert.pem"));
    for fault in FAULTS {
        let word = fault.split(' ').nth(1).unwrap();
        let file = config(&files, &["# a comment", &certificate, fault]);
        for check in [&["-F", &file][..], &["--check", "-F", &file]] {
            let ended = Pen::with(check).servers(["127.0.0.1:9"]).run();
            let told = |line: &str| line.contains(&format!("{file}:3:")) && line.contains(word);
            assert!(ended.code() == 1 && ended.stderr.lines().any(told), "{fault}: {ended:?}");
        }
    }
}

/// pen(1), reload: with such a list nothing changes, and the line is told; as a command it is refused.
#[test]
fn a_list_that_the_library_does_not_know_changes_nothing() {
    only_ours!("it takes anything");
    let (s, files) = (webs(1), Scratch::new());
    let certificate = format!("ssl_certificate {}", usual().1.file(&files, "cert.pem"));
    let file = config(&files, &[&certificate]);
    let pen = Pen::with(&["-F", &file]).servers(&s).controlled().start();
    for fault in FAULTS {
        let word = fault.split(' ').nth(1).unwrap();
        config(&files, &["# a comment", &certificate, "blacklist 7", fault]);
        let reply = pen.ask("reload");
        assert!(reply.starts_with(&format!("error: {file}:4: ")) && reply.contains(word), "{fault}: {reply}");
        let reply = pen.ask(fault);
        assert!(reply.starts_with("error: ") && reply.contains(word), "{fault}: {reply}");
        assert_eq!(pen.ask("blacklist"), "30\n", "{fault}");
        assert_eq!(Client::usual().build().visit(&pen), "S0", "{fault}");
    }
}

/// pen(1), -x: TLS connections take a place each, and give it back, however they end.
#[test]
fn places_are_free_again() {
    let (g, files) = (greeters(1), Scratch::new());
    let pen = tls::pen(&files, &["-x", "4"]).servers(&g).workers(2).controlled().start();
    let client = Client::usual().build();
    for round in 0..6 {
        let mut held: Vec<_> = (0..4).map(|_| client.open(&pen)).collect();
        for (number, secured) in held.iter_mut().enumerate() {
            assert_eq!(secured.read_line().as_deref(), Some("G0"), "round {round}, connection {number}");
        }
        assert_eq!(connections(&pen), 4);
        for (number, mut secured) in held.into_iter().enumerate() {
            match (round + number) % 4 {
                0 => secured.finish(),
                1 => secured.truncate(),
                2 => secured.reset(),
                _ => drop(secured),
            }
        }
        nothing_is_left(&pen);
        wait_until("the server's sides are closed", || g[0].open() == 0);
    }
}

/// pen(1), PROCESSES: the death of a worker ends its own connections, and not cleanly; TLS goes on.
#[test]
fn a_killed_worker_takes_only_its_own_connections_along() {
    only_ours!("it has no workers");
    let (g, files) = (greeters(1), Scratch::new());
    let pen = tls::pen(&files, &[]).servers(&g).workers(3).controlled().start();
    let client = Client::usual().build();
    let mut held: Vec<_> = (0..15).map(|_| client.open(&pen)).collect();
    for secured in &mut held {
        assert_eq!(secured.read_line().as_deref(), Some("G0"));
    }
    let owners = processes::owners(&pen.workers(), pen.address.port());
    let owner = |secured: &Secured| owners[&secured.socket().local_addr().unwrap().port()];
    let victim = owner(&held[0]);
    kill_hard(victim);
    let mut lost = 0;
    for secured in &mut held {
        if owner(secured) == victim {
            lost += 1;
            let (_, ending) = secured.read_all();
            assert!(matches!(ending, TlsEnding::Reset | TlsEnding::Truncated), "{ending:?}");
        } else {
            assert!(secured.echoes(), "a connection of another worker was disturbed");
        }
    }
    wait_until("there are three workers again", || pen.workers().len() == 3);
    wait_until("its places are free", || connections(&pen) == 15 - lost);
    for _ in 0..12 {
        assert_eq!(client.open(&pen).read_line().as_deref(), Some("G0"));
    }
}

/// pen(1), idle_timeout: counts for TLS connections, too.
#[test]
fn an_idle_connection_ends() {
    let (g, files) = (greeters(1), Scratch::new());
    let pen = tls::pen(&files, &["-O", "idle_timeout 1"]).servers(&g).controlled().start();
    let mut client = Client::usual().open(&pen);
    assert_eq!(client.read_line().as_deref(), Some("G0"));
    let (_, ending) = client.read_all();
    assert_ne!(ending, TlsEnding::Open);
    nothing_is_left(&pen);
    wait_until("the server's side is closed", || g[0].open() == 0);
}

/// pen(1), dummy: the fixed page comes over TLS, too.
#[test]
fn the_fixed_page_comes_over_tls() {
    let files = Scratch::new();
    let pen = tls::pen(&files, &["-O", "dummy"]).start();
    let page = format!("pen dummy on {}\n", pen.listen);
    for version in VERSIONS {
        let answer = Client::usual().version(version).open(&pen).request("/");
        assert_eq!(answer, (page.clone(), TlsEnding::Declared), "{version:?}");
    }
    let said = curl(pen.address, &usual().0, &[]);
    assert_eq!((said.stdout.trim_end(), said.code), (page.trim_end(), 0), "{said:?}");
}

/// pen(1), REQUEST LOG: what the client said, not what went over the wire.
#[test]
fn the_log_has_the_decrypted_request() {
    only_ours!("it writes its log when it ends");
    let (s, files) = (webs(1), Scratch::new());
    let pen = tls::pen(&files, &["-l", &files.file("log")]).servers(&s).start();
    let client = Client::usual().build();
    assert_eq!(client.connect(pen.connect_from("127.0.0.7")).unwrap().request("/secret.html").0, "S0");
    wait_until("it is logged", || files.read("log").ends_with('\n'));
    let log = files.read("log");
    assert!(log.starts_with("127.0.0.7 ") && log.ends_with(" GET /secret.html HTTP/1.0\n"), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
}

/// DESCRIPTION: a client that comes again gets the server that it had, over TLS as well.
#[test]
fn clients_are_remembered() {
    let (s, files) = (webs(4), Scratch::new());
    let pen = tls::pen(&files, &[]).servers(&s).workers(3).start();
    let client = Client::usual().build();
    let visit = |last: u8| {
        let stream = pen.connect_from(&format!("127.0.0.{last}"));
        client.connect(stream).unwrap().request("/").0
    };
    let first: Vec<String> = (2..14).map(visit).collect();
    let second: Vec<String> = (2..14).map(visit).collect();
    assert_eq!(first, second);
    for name in ["S0", "S1", "S2", "S3"] {
        assert!(first.iter().any(|server| server == name), "{first:?}");
    }
}

/// pen(1), -x, -b: a server that refuses is passed over, after the handshake as without one.
#[test]
fn a_server_that_refuses_is_passed_over() {
    let (absent, s, files) = (Backend::absent("A"), webs(1), Scratch::new());
    let pen = tls::pen(&files, &["-r"]).servers([absent.to_string(), s[0].to_string()]).start();
    let client = Client::usual().build();
    for _ in 0..4 {
        assert_eq!(client.visit(&pen), "S0");
    }
    drop(s);
    let mut secured = client.open(&pen);
    let (bytes, ending) = secured.read_all();
    assert!(bytes.is_empty() && ending != TlsEnding::Open, "{ending:?}");
}

/// pen(1), FILES: keys are read before privileges are given up; a reload that may not read them any more goes on with
/// what was read, and says so once.
#[test]
fn a_key_that_only_root_may_read_is_read_before_the_jail() {
    needs_root!();
    only_ours!("it reads nothing again");
    use std::os::unix::fs::{PermissionsExt, chown};
    let (_, identity) = usual();
    let (s, files, jail) = (webs(1), Scratch::new(), Scratch::new());
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    chown(jail.path(), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
    let certificate = files.write("pen.crt", identity.chain_pem());
    let key = files.write("pen.key", identity.key_pem());
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    // The configuration file can be read from the jail, by the same name.
    let inside = jail.path().join(files.path().strip_prefix("/").unwrap());
    std::fs::create_dir_all(&inside).unwrap();
    let file = files.write("pen.cfg", "blacklist 7\n");
    std::fs::copy(&file, inside.join("pen.cfg")).unwrap();
    let jail_name = jail.path().to_str().unwrap().to_owned();
    for options in [&["-j", &jail_name, "-u", "nobody"][..], &["-u", "nobody"]] {
        let options = [&["-E", &certificate, "-K", &key, "-F", &file], options].concat();
        let pen = Pen::with(&options).servers(&s).workers(2).start();
        let client = Client::usual().build();
        assert_eq!(client.visit(&pen), "S0");
        assert!(!pen.stderr().contains("pen.key"), "{}", pen.stderr());
        let told = || pen.stderr().lines().filter(|line| line.contains("pen.")).count();
        let before = told();
        pen.signal(Signal::SIGHUP);
        wait_until("it is told", || told() > before);
        assert_eq!(client.visit(&pen), "S0");
        for worker in pen.workers() {
            kill_hard(worker);
        }
        assert_eq!(client.visit(&pen), "S0", "new workers have the key, too");
        assert_eq!(pen.stderr().matches("cannot read").count(), 1, "one warning: {}", pen.stderr());
    }
}

/// pen(1), -E: its presence turns TLS on; a key alone does not.
#[test]
fn without_a_certificate_nothing_is_tls() {
    let (g, files) = (greeters(1), Scratch::new());
    let key = files.write("only.key", usual().1.key_pem());
    let pen = Pen::with(&["-K", &key]).servers(&g).start();
    assert_eq!(pen.hold().name, "G0");
    let refused = Client::careless().connect(pen.connect());
    assert!(refused.is_err());
}

/// DESCRIPTION: many at once, over all workers, with every connection correct.
#[test]
fn many_clients_at_once() {
    let (g, files) = (greeters(3), Scratch::new());
    let pen = tls::pen(&files, &["-r"]).servers(&g).workers(3).controlled().start();
    std::thread::scope(|scope| {
        for number in 0..12 {
            let pen = &pen;
            scope.spawn(move || {
                let client = Client::usual().version(VERSIONS[number % 2]).build();
                for _ in 0..15 {
                    let mut secured = client.open(pen);
                    assert!(secured.read_line().is_some_and(|name| name.starts_with('G')));
                    assert!(secured.echoes());
                    secured.finish();
                    assert_eq!(secured.read_all(), (Vec::new(), TlsEnding::Declared));
                }
            });
        }
    });
    nothing_is_left(&pen);
}

/// Sizes around what a Unix socket takes at a time. One of them fills it to the brim: then there is no room for what
/// declares the end.
fn about_a_full_socket() -> impl Iterator<Item = usize> {
    (100_000..500_000).step_by(16_000)
}

/// Reads to the end: how much came, and whether the end was declared.
fn read_slowly(mut stream: SslStream<UnixStream>) -> (usize, bool) {
    let (mut all, mut room) = (0, vec![0; 64 * 1024]);
    loop {
        match stream.ssl_read(&mut room) {
            Ok(count) => all += count,
            Err(error) => return (all, error.code() == ErrorCode::ZERO_RETURN),
        }
    }
}

/// pen(1), TLS: a server that has taken nothing yet when the client is done still hears that this was the end.
#[test]
fn the_end_is_declared_to_a_server_that_has_no_room_for_that_yet() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let path = files.file("server");
    let listener = UnixListener::bind(&path).unwrap();
    let pen = Pen::with(&["-O", &format!("server 0 address {path} tls verify none")]).controlled().start();
    let acceptor = acceptor(&usual().1, |_| {});
    for total in about_a_full_socket() {
        std::thread::scope(|threads| {
            let server = threads.spawn(|| {
                let mut stream = acceptor.accept(listener.accept().unwrap().0).unwrap();
                stream.shutdown().unwrap();
                stream.get_ref().shutdown(Shutdown::Write).unwrap();
                stream
            });
            let mut client = pen.connect();
            client.write_all(&vec![7; total]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
            let stream = server.join().unwrap();
            let_pass(Duration::from_millis(50));
            assert_eq!(read_slowly(stream), (total, true));
        });
    }
    nothing_is_left(&pen);
}

/// pen(1), TLS: and so does a client, although it ended its stream meanwhile.
#[test]
fn the_end_is_declared_to_a_client_that_has_no_room_for_that_yet() {
    only_ours!("it cannot");
    let files = Scratch::new();
    let path = files.file("front");
    let (asked, ask) = std::sync::mpsc::channel();
    let asked = std::sync::Mutex::new(asked);
    let server = Backend::serving("S", move |visit| {
        let mut line = String::new();
        BufReader::new(&visit.stream).read_line(&mut line).unwrap();
        let mut rest = Vec::new();
        (&visit.stream).read_to_end(&mut rest).unwrap();
        (&visit.stream).write_all(&vec![7; line.trim().parse().unwrap()]).unwrap();
        visit.stream.shutdown(Shutdown::Write).unwrap();
        asked.lock().unwrap().send(()).unwrap();
    });
    let pen = tls::pen(&files, &[]).servers([&server]).controlled().start();
    assert_eq!(pen.ask(&format!("listen {path}")), format!("{path}\n"));
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.set_verify(SslVerifyMode::NONE);
    let connector = connector.build();
    for total in about_a_full_socket() {
        let mut client = connector.connect("pen.test", UnixStream::connect(&path).unwrap()).unwrap();
        client.write_all(format!("{total}\n").as_bytes()).unwrap();
        client.shutdown().unwrap();
        ask.recv_timeout(SOON).unwrap();
        let_pass(Duration::from_millis(50));
        client.get_ref().shutdown(Shutdown::Write).unwrap();
        let_pass(Duration::from_millis(50));
        assert_eq!(read_slowly(client), (total, true));
    }
    nothing_is_left(&pen);
}

/// pen(1), tcp_fastclose: a client that says, too late to matter, that it is done gets all that was sent to it.
#[test]
fn a_fast_close_loses_nothing_of_what_is_on_its_way() {
    only_ours!("it cannot");
    let files = Scratch::new();
    let total = 1 << 20;
    let server = Backend::serving("S", move |visit| {
        let _ = (&visit.stream).write_all(&vec![7; total]);
    });
    let pen = tls::pen(&files, &["-O", "tcp_fastclose both"]).servers([&server]).controlled().start();
    let mut client = Client::usual().open(&pen);
    wait_until("the server is done", || server.accepted() == 1 && server.open() == 0);
    let_pass(Duration::from_millis(50));
    client.finish();
    let (bytes, ending) = client.read_all();
    assert_eq!((bytes.len(), ending), (total, TlsEnding::Declared));
    drop(client);
    nothing_is_left(&pen);
}
