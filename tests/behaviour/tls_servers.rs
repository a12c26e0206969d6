//! TLS towards servers: whom pen believes, what it does with the others, and how ends pass through.

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::Shutdown;

use crate::support::backend::webs;
use crate::support::client::{self, read_all, read_line, reset};
use crate::support::pen::Builder;
use crate::support::tls::{
    self, Authority, Client, Identity, Secured, Server, TlsEnding, acceptor, config, nothing_is_left, usual,
};
use crate::support::{Backend, Ending, Pen, Scratch, only_ours, wait_until};

/// A pen whose servers are these (as they display), each with these words behind its address.
fn balancing(files: &Scratch, options: &[&str], servers: &[(&dyn Display, &str)]) -> Builder {
    let line = |(number, (server, words)): (usize, &(&dyn Display, &str))| {
        let server = server.to_string();
        let (address, port) = server.rsplit_once(':').unwrap();
        format!("server {number} address {address} port {port} {words}\n")
    };
    let lines: String = servers.iter().enumerate().map(line).collect();
    let file = config(files, &[&lines]);
    Pen::with(&[&["-F", &file], options].concat())
}

/// An authority, the name of the file with it, and a certificate for 127.0.0.1.
fn trusted(files: &Scratch) -> (Authority, String, Identity) {
    let authority = Authority::new("Servers");
    let file = authority.file(files, "servers.pem");
    let identity = authority.issue(&["127.0.0.1"]);
    (authority, file, identity)
}

/// pen(1), server tls: plain clients reach a server that speaks TLS, beside one that does not.
#[test]
fn servers_may_speak_tls_or_not() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let (_, ca, identity) = trusted(&files);
    let (plain, secure) = (Backend::web("plain"), tls::web("secure", &identity));
    let verify = format!("tls verify {ca}");
    let pen = balancing(&files, &["-r"], &[(&plain, ""), (&secure, &verify)]).workers(2).controlled().start();
    assert_eq!(pen.visits(6), "secure plain secure plain secure plain");
    assert!(
        secure.notes().iter().any(|note| note == "name: none"),
        "an address is no name: {:?}",
        secure.notes()
    );
    // It can be turned off: then that server gets plain text, and does not understand it.
    pen.tell("server 1 tls off");
    assert_eq!(pen.visits(2), "closed plain");
    pen.tell(&format!("server 1 {verify}"));
    assert_eq!(pen.visits(2), "secure plain");
    nothing_is_left(&pen);
}

/// pen(1), server tls: a real server is spoken to as a server of the tests is.
#[test]
fn a_real_server_is_understood() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let root = Authority::new("Root");
    let ca = root.file(&files, "ca.pem");
    let identity = root.intermediate("Middle").issue(&["127.0.0.1", "real.test"]);
    let verify = format!("tls verify {ca} sni real.test");
    for (version, told) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let server = Server::start(&identity, &["-www", version]);
        let pen = balancing(&files, &[], &[(&server, &verify)]).start();
        let page = pen.visit();
        assert!(page.contains(told) && page.contains("s_server"), "{page}");
    }
    let server = Server::start(&identity, &["-rev"]);
    let pen = balancing(&files, &[], &[(&server, &verify)]).start();
    let client = pen.connect();
    for _ in 0..5 {
        (&client).write_all(b"olleh\n").unwrap();
        assert_eq!(read_line(&client).as_deref(), Some("hello"));
    }
}

/// pen(1), server tls verify, sni: who cannot be believed is treated as a server that does not accept: the next one is
/// tried, it is blacklisted, and why is told.
#[test]
fn a_server_that_cannot_be_believed_is_passed_over() {
    only_ours!("it has no TLS to servers");
    let root = Authority::new("Servers");
    let other = Authority::new("Others");
    let good = root.issue(&["127.0.0.1"]);
    let named = root.issue(&["name.test"]);
    for (what, identity, words) in [
        ("another authority", &other.issue(&["127.0.0.1"]), ""),
        ("another address", &root.issue(&["127.0.0.2"]), ""),
        ("a name, not the address", &named, ""),
        ("another name", &named, "sni other.test"),
        ("the address, not the name", &good, "sni name.test"),
        ("expired", &root.issue_expired(&["127.0.0.1"]), ""),
        ("made by itself", &Authority::new("127.0.0.1").0, ""),
    ] {
        let files = Scratch::new();
        let verify = format!("tls verify {} {words}", root.file(&files, "ca.pem"));
        let (bad, next) = (tls::web("bad", identity), Backend::web("next"));
        let servers: [(&dyn Display, &str); 2] = [(&next, ""), (&bad, &verify)];
        let pen = balancing(&files, &["-r"], &servers).workers(2).controlled().start();
        assert_eq!(pen.visits(4), "next next next next", "{what}");
        assert_eq!(bad.accepted(), 1, "{what}: it is blacklisted");
        assert!(bad.notes().iter().all(|note| !note.starts_with("GET")), "{what}: {:?}", bad.notes());
        let told = |line: &str| line.contains(&bad.to_string());
        wait_until("it is told", || pen.stderr().lines().any(told));
        nothing_is_left(&pen);
    }
}

/// pen(1), server tls: a server that speaks plain text, or nothing, where TLS is expected.
#[test]
fn a_server_that_speaks_something_else_is_passed_over() {
    only_ours!("it has no TLS to servers");
    let greeter = Backend::greeter("G");
    let silent = Backend::serving("silent", |visit| {
        let _ = read_all(&visit.stream);
    });
    let closing = Backend::serving("closing", drop);
    let resetting = Backend::serving("resetting", |visit| reset(visit.stream.try_clone().unwrap()));
    for (what, server) in
        [("plain", &greeter), ("silent", &silent), ("closing", &closing), ("resetting", &resetting)]
    {
        let (next, files) = (Backend::web("next"), Scratch::new());
        let servers: [(&dyn Display, &str); 2] = [(&next, ""), (server, "tls verify none")];
        let pen = balancing(&files, &["-r", "-t", "1"], &servers).workers(1).controlled().start();
        assert_eq!(pen.visits(3), "next next next", "{what}");
        assert_eq!(server.accepted(), 1, "{what}: it is blacklisted");
        nothing_is_left(&pen);
    }
}

/// pen(1), server tls verify none: anybody is believed. sni: the name is asked for.
#[test]
fn names_are_asked_for_and_checking_can_be_left_out() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let root = Authority::new("Servers");
    let ca = root.file(&files, "ca.pem");
    let named = tls::web("named", &root.issue(&["name.test"]));
    let strange = tls::web("strange", &Authority::new("Strange").issue_expired(&["x.test"]));
    let verify = format!("tls verify {ca} sni name.test");
    let servers: [(&dyn Display, &str); 2] = [(&strange, "tls verify none sni any.test"), (&named, &verify)];
    let pen = balancing(&files, &["-r"], &servers).start();
    assert_eq!(pen.visits(4), "named strange named strange");
    assert!(named.notes().contains(&"name: name.test".to_owned()), "{:?}", named.notes());
    assert!(strange.notes().contains(&"name: any.test".to_owned()), "{:?}", strange.notes());
}

/// pen(1), server tls verify system: so is who is known to the authorities that the system trusts, or those that the
/// environment names instead; without verify, too. Nobody else.
#[test]
fn the_authorities_of_the_system_are_believed() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let (known, also, unknown) = (Authority::new("Known"), Authority::new("Also"), Authority::new("Unknown"));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let file = files.write("bundle.crt", [garbage.as_bytes(), &known.pem()].concat());
    let directory = Scratch::new();
    also.file(&directory, "also.pem");
    let [of_file, of_directory] =
        [format!("SSL_CERT_FILE={file}"), format!("SSL_CERT_DIR={}", directory.path().display())];
    let [first, second, third] = [("known", &known), ("also", &also), ("unknown", &unknown)]
        .map(|(name, by)| tls::web(name, &by.issue(&["127.0.0.1"])));
    for (environment, answers) in [
        (vec![of_file.as_str()], "known closed closed"),
        (vec![&of_directory], "closed also closed"),
        (vec![&of_file, &of_directory], "known also closed"),
        (vec![], "closed closed closed"),
    ] {
        for words in ["tls verify system", "tls"] {
            let servers: [(&dyn Display, &str); 3] = [(&first, words), (&second, words), (&third, words)];
            let answers: Vec<&str> = answers.split(' ').collect();
            for (number, answer) in answers.iter().enumerate() {
                let launcher =
                    [&["env", "-u", "SSL_CERT_FILE", "-u", "SSL_CERT_DIR"], &environment[..]].concat();
                let pen = balancing(&files, &[], &servers[number..=number]).through(&launcher).workers(1);
                assert_eq!(pen.start().visit(), *answer, "{words}, {environment:?}, server {number}");
            }
        }
    }
}

/// pen(1), server tls verify system: where the environment names authorities, they must be there.
#[test]
fn authorities_of_the_system_that_are_not_there_are_named() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let missing = files.file("missing.crt");
    let servers: [(&dyn Display, &str); 1] = [(&"127.0.0.1:9", "tls")];
    let launcher = ["env", "-u", "SSL_CERT_DIR", &format!("SSL_CERT_FILE={missing}")];
    let ended = balancing(&files, &[], &servers).through(&launcher).run();
    assert!(ended.code() == 1 && ended.stderr.contains(&missing), "{ended:?}");
}

/// pen(1), server tls verify: a file that cannot be used is named, at the start and at a change.
#[test]
fn authorities_that_cannot_be_read_are_named() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let (_, ca, identity) = trusted(&files);
    let server = tls::web("S", &identity);
    let garbage = files.write("garbage.pem", "garbage");
    let missing = files.file("missing.pem");
    for file in [&garbage, &missing] {
        let ended = balancing(&files, &[], &[(&server, &format!("tls verify {file}"))]).run();
        assert!(ended.code() == 1 && ended.stderr.contains(file.as_str()), "{ended:?}");
    }
    let pen = balancing(&files, &[], &[(&server, &format!("tls verify {ca}"))]).controlled().start();
    for file in [&garbage, &missing] {
        let reply = pen.ask(&format!("server 0 tls verify {file}"));
        assert!(reply.starts_with("error: ") && reply.contains(file.as_str()), "{reply}");
        assert_eq!(pen.visit(), "S");
    }
}

/// A server that reads to the declared end, notes what came and how it ended, and answers.
fn collector(identity: &Identity, answer: &'static str) -> Backend {
    tls::serving("C", acceptor(identity, |_| ()), move |visit, mut secured| {
        let (bytes, ending) = secured.read_all();
        visit.note(format!("{} {ending:?}", String::from_utf8_lossy(&bytes)));
        if ending == TlsEnding::Declared {
            secured.send(answer);
            secured.finish();
        }
    })
}

fn notes(server: &Backend) -> Vec<String> {
    server.notes().into_iter().filter(|note| !note.starts_with("name: ")).collect()
}

/// pen(1), TLS: the end of a client's stream is declared to the server, whose answer still comes; and the other way
/// round.
#[test]
fn ends_pass_through_by_themselves() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let (_, ca, identity) = trusted(&files);
    let verify = format!("tls verify {ca}");
    let server = collector(&identity, "the answer");
    let pen = balancing(&files, &[], &[(&server, &verify)]).controlled().start();
    let client = pen.connect();
    (&client).write_all(b"the question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), (b"the answer".to_vec(), Ending::EndOfStream));
    assert_eq!(notes(&server), ["the question Declared"]);
    nothing_is_left(&pen);
    drop(pen);
    let server = tls::serving("S", acceptor(&identity, |_| ()), |visit, mut secured| {
        secured.send("enough");
        secured.finish();
        let (bytes, ending) = secured.read_all();
        visit.note(format!("{} bytes {ending:?}", bytes.len()));
    });
    let pen = balancing(&files, &[], &[(&server, &verify)]).controlled().start();
    let client = pen.connect();
    assert_eq!(read_all(&client), (b"enough".to_vec(), Ending::EndOfStream));
    (&client).write_all(&[b'u'; 300_000]).unwrap();
    drop(client);
    wait_until("the server has the upload", || !notes(&server).is_empty());
    assert_eq!(notes(&server), ["300000 bytes Declared"]);
    nothing_is_left(&pen);
}

/// pen(1), TLS: a server that is cut off, or resets, is a reset for the client; and the other way round.
#[test]
fn what_is_cut_off_is_a_reset_on_the_other_side() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let (_, ca, identity) = trusted(&files);
    let verify = format!("tls verify {ca}");
    for resets in [false, true] {
        let server = tls::serving("S", acceptor(&identity, |_| ()), move |_, mut secured| {
            secured.send("half of it\n");
            let _ = secured.receive(&mut [0]);
            if resets {
                secured.reset();
            } // else dropped: an end of TCP, and none of TLS
        });
        let pen = balancing(&files, &[], &[(&server, &verify)]).controlled().start();
        let client = pen.connect();
        assert_eq!(read_line(&client).as_deref(), Some("half of it"));
        (&client).write_all(b"x").unwrap();
        assert_eq!(read_all(&client).1, Ending::Reset, "resets: {resets}");
        nothing_is_left(&pen);
    }
    let server = collector(&identity, "");
    let pen = balancing(&files, &[], &[(&server, &verify)]).controlled().start();
    let client = pen.connect();
    (&client).write_all(b"pay 10").unwrap();
    wait_until("it is connected", || server.open() == 1);
    reset(client);
    wait_until("the server knows", || !notes(&server).is_empty());
    let noted = notes(&server);
    assert!(!noted[0].contains("Declared") && !noted[0].contains("Open"), "{noted:?}");
    nothing_is_left(&pen);
}

/// Sends `count` bytes up, which must come back.
fn echoed(mut client: Secured, count: usize) {
    let block: Vec<u8> = (0..65_521_u32).map(|number| (number % 251) as u8).collect();
    let (mut sent, mut room) = (0, vec![0; block.len()]);
    while sent < count {
        assert!(client.send(&block));
        let mut got = 0;
        while got < block.len() {
            got += client.receive(&mut room[got..]).expect("the echo comes");
        }
        assert!(room == block, "other bytes after {sent}");
        sent += block.len();
    }
    client.finish();
    assert_eq!(client.read_all(), (Vec::new(), TlsEnding::Declared));
}

/// pen(1), TLS to the servers: with TLS towards the clients at the same time, the bytes are the same, and so are ends.
#[test]
fn tls_on_both_sides_at_once() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let (_, ca, identity) = trusted(&files);
    let verify = format!("tls verify {ca}");
    let certificate = usual().1.file(&files, "cert.pem");
    let greeter = tls::greeter("G", &identity);
    let pen =
        balancing(&files, &["-E", &certificate], &[(&greeter, &verify)]).workers(2).controlled().start();
    for version in [openssl::ssl::SslVersion::TLS1_2, openssl::ssl::SslVersion::TLS1_3] {
        let mut client = Client::usual().version(version).open(&pen);
        assert_eq!(client.read_line().as_deref(), Some("G"));
        echoed(client, 5_000_000);
    }
    nothing_is_left(&pen);
    // A client that is cut off cuts off the server.
    let collector = collector(&identity, "the answer");
    let pen = balancing(&files, &["-E", &certificate], &[(&collector, &verify)]).controlled().start();
    let mut client = Client::usual().open(&pen);
    client.send("all");
    client.finish();
    assert_eq!(client.read_all(), (b"the answer".to_vec(), TlsEnding::Declared));
    let mut client = Client::usual().open(&pen);
    client.send("part");
    client.truncate();
    wait_until("the server knows", || notes(&collector).len() == 2);
    let noted = notes(&collector);
    assert_eq!(noted[0], "all Declared");
    assert!(!noted[1].contains("Declared") && !noted[1].contains("Open"), "{noted:?}");
    nothing_is_left(&pen);
}

/// pen(1), server tls: limits count, and connections are given back, however they end.
#[test]
fn places_of_a_server_are_free_again() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let (_, ca, identity) = trusted(&files);
    let greeter = tls::greeter("G", &identity);
    let verify = format!("max 3 tls verify {ca}");
    let pen = balancing(&files, &[], &[(&greeter, &verify)]).workers(2).controlled().start();
    for round in 0..4 {
        let held = pen.hold_many(3);
        assert!(held.iter().all(|held| held.name == "G" && held.echoes()), "round {round}: {held:?}");
        assert_eq!(pen.hold().name, "closed", "round {round}: there are three places");
        for (number, held) in held.into_iter().enumerate() {
            if (number + round) % 2 == 0 { reset(held.stream) } else { drop(held) }
        }
        nothing_is_left(&pen);
        wait_until("the server's sides are closed", || greeter.open() == 0);
    }
}

/// pen(1), server tls: 50 MB down from a server with TLS, to a client that is slow, are complete.
#[test]
fn a_large_answer_is_complete() {
    only_ours!("it has no TLS to servers");
    const BLOCKS: usize = 500;
    let files = Scratch::new();
    let (_, ca, identity) = trusted(&files);
    // The period has no common factor with any buffer's length.
    let block: Vec<u8> = (0..100_003_u32).map(|number| (number % 251) as u8).collect();
    let sent = block.clone();
    let server = tls::serving("S", acceptor(&identity, |_| ()), move |_, mut secured| {
        (0..BLOCKS).for_each(|_| assert!(secured.send(&sent)));
        secured.finish();
        secured.read_all();
    });
    let pen = balancing(&files, &[], &[(&server, &format!("tls verify {ca}"))]).start();
    let client = pen.connect();
    let mut room = vec![0; block.len()];
    for number in 0..BLOCKS {
        (&client).read_exact(&mut room).unwrap();
        assert!(room == block, "other bytes in block {number}");
    }
    assert_eq!(read_all(&client), (Vec::new(), Ending::EndOfStream));
}

/// pen(1), server tls: what a reload says of it holds for connections from then on.
#[test]
fn a_reload_turns_it_on_and_off() {
    only_ours!("it cannot");
    let files = Scratch::new();
    let (_, ca, identity) = trusted(&files);
    let (secure, s) = (tls::web("secure", &identity), webs(1));
    let line = |server: &Backend, words: &str| {
        config(&files, &[&format!("server 0 address 127.0.0.1 port {} {words}", server.port())]);
    };
    let verify = format!("tls verify {ca}");
    let pen = balancing(&files, &[], &[(&secure, &verify)]).workers(2).controlled().start();
    for _ in 0..3 {
        assert_eq!(pen.visits(3), "secure secure secure");
        line(&s[0], "tls off");
        assert_eq!(pen.ask("reload"), "ok\n");
        assert_eq!(pen.visits(3), "S0 S0 S0");
        line(&secure, &verify);
        assert_eq!(pen.ask("reload"), "ok\n");
    }
    // The authorities are read again, too.
    Authority::new("Servers").file(&files, "servers.pem");
    assert_eq!(pen.ask("reload"), "ok\n");
    assert_eq!(pen.visit(), "closed");
}

/// pen(1), server tls: who comes while a change is under way is served as it says, not closed.
#[test]
fn a_worker_that_does_not_know_yet_how_to_speak_to_a_server_lets_the_client_wait() {
    only_ours!("it has no TLS to servers");
    let files = Scratch::new();
    let (_, ca, identity) = trusted(&files);
    let (secure, plain) = (tls::web("secure", &identity), Backend::web("plain"));
    let pen = Pen::with(&["-t", "5"]).servers([&plain]).workers(1).controlled().start();
    let (address, verify) = ("server 0 address 127.0.0.1 port", format!("tls verify {ca}"));
    for (server, words, name) in [(&secure, verify.as_str(), "secure"), (&plain, "tls off", "plain")] {
        let change = format!("{address} {} {words}", server.port());
        let client = pen.change_unseen(&[&change], || pen.connect());
        assert_eq!(client::request(client, "/"), name);
    }
    nothing_is_left(&pen);
}
