//! pen(1), `ssl_passthrough sni`: TLS is left to the servers, and the name that a client asks for chooses among them.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use openssl::ssl::{Ssl, SslConnector, SslMethod, SslVerifyMode, SslVersion};

use crate::support::client::{read_all, read_line};
use crate::support::processes::connects_under_way;
use crate::support::tls::{
    self, Authority, Client, Server, TlsEnding, config, connections, curl, nothing_is_left, s_client,
};
use crate::support::{Backend, Ending, Held, Pen, Scratch, only_ours, wait_until};

/// A pen with these servers, each with its commands after `server N`, and these lines of configuration.
fn passing<S: Display>(servers: &[(S, &str)], options: &[&str], lines: &[&str]) -> Pen {
    let files = Scratch::new();
    let commands = servers.iter().enumerate().filter(|(_, (_, command))| !command.is_empty());
    let commands: Vec<String> =
        commands.map(|(number, (_, command))| format!("server {number} {command}")).collect();
    let lines: Vec<&str> = commands.iter().map(String::as_str).chain(lines.iter().copied()).collect();
    let file = config(&files, &[&["ssl_passthrough sni"], &lines[..]].concat());
    let servers = servers.iter().map(|(server, _)| server.to_string());
    Pen::with(&[&["-F", &file], options].concat()).servers(servers).controlled().start()
}

/// Web servers with TLS, and who trusts them.
fn secure(names: &[&str]) -> (Authority, Vec<Backend>) {
    let root = Authority::new("Root");
    let names = names.iter().zip(0..);
    let servers = names.map(|(name, number)| tls::web(&format!("S{number}"), &root.issue(&[name])));
    let servers = servers.collect();
    (root, servers)
}

/// Which server answers a client that asks for this name.
#[track_caller]
fn asks_for(pen: &Pen, name: &str) -> String {
    Client::careless().name(name).build().visit(pen)
}

/// ssl_passthrough: the server has the certificate, and the client sees it.
#[test]
fn real_clients_reach_the_server_of_their_name() {
    only_ours!("it has no ssl_passthrough");
    let root = Authority::new("Root");
    let names = ["a.test", "b.test", "localhost"];
    let identities = names.map(|name| root.issue(&[name]));
    let servers: Vec<Server> = identities.iter().map(|it| Server::start(it, &["-www"])).collect();
    let commands = names.map(|name| format!("sni {name}"));
    let servers: Vec<_> = servers.iter().zip(commands.iter().map(String::as_str)).collect();
    let pen = passing(&servers, &[], &[]);
    for version in ["-tls1_2", "-tls1_3"] {
        for name in ["a.test", "b.test"] {
            let said =
                s_client(pen.address, &root, &[version, "-servername", name, "-verify_hostname", name]);
            assert!(said.code == 0 && said.stdout.contains("Verify return code: 0 (ok)"), "{name}: {said:?}");
        }
    }
    let said = curl(pen.address, &root, &[]);
    assert!(said.code == 0 && said.stdout.contains("s_server"), "{said:?}");
}

/// ssl_passthrough: the exact name comes before the wildcard; unknown names, and none, go to the servers without.
#[test]
fn the_name_chooses_the_server() {
    only_ours!("it has no ssl_passthrough");
    let (_, s) = secure(&["a.test", "a.test", "a.test", "a.test"]);
    let servers: Vec<_> =
        s.iter().zip(["sni a.test", "sni b.test sni *.a.test", "sni *.b.test", ""]).collect();
    let pen = passing(&servers, &["-r"], &[]);
    for (name, server) in [
        ("a.test", "S0"),
        ("A.Test", "S0"),
        ("b.test", "S1"),
        ("x.a.test", "S1"),
        ("x.b.test", "S2"),
        ("x.y.b.test", "S3"),
        ("c.test", "S3"),
    ] {
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            let client = Client::careless().name(name).version(version).build();
            assert_eq!(client.visit(&pen), server, "{name} with {version:?}");
        }
    }
    assert_eq!(Client::careless().build().visit(&pen), "S3", "no name");
    nothing_is_left(&pen);
}

/// ssl_passthrough: where all servers have names, whoever asks for none of them can be for any.
#[test]
fn where_every_server_has_a_name_the_others_go_anywhere() {
    only_ours!("it has no ssl_passthrough");
    let (_, s) = secure(&["a.test", "b.test"]);
    let servers: Vec<_> = s.iter().zip(["sni a.test", "sni b.test"]).collect();
    let pen = passing(&servers, &["-r"], &[]);
    let nobody = Client::careless().build();
    let mut visits: Vec<String> = (0..4).map(|_| nobody.visit(&pen)).collect();
    visits.sort();
    assert_eq!(visits, ["S0", "S0", "S1", "S1"]);
}

/// server N sni: names take effect from the next connection on, and running connections stay.
#[test]
fn names_can_be_changed_at_any_time() {
    only_ours!("it has no ssl_passthrough");
    let root = Authority::new("Root");
    let s: Vec<Backend> = (0..2).map(|n| tls::greeter(&format!("G{n}"), &root.issue(&["a.test"]))).collect();
    let pen = passing(&[(&s[0], "sni a.test"), (&s[1], "sni b.test")], &["-r"], &[]);
    let open = |name: &str| {
        let mut client = Client::careless().name(name).open(&pen);
        let greeting = client.read_line().unwrap_or_default();
        (greeting, client)
    };
    let (first, mut held) = open("a.test");
    assert_eq!(first, "G0");
    pen.tell("server 0 sni none");
    pen.tell("server 1 sni a.test");
    assert_eq!(open("a.test").0, "G1");
    assert_eq!(open("b.test").0, "G1");
    assert_eq!(open("c.test").0, "G0");
    assert!(held.echoes());
    pen.tell("ssl_passthrough off");
    let mut landed: Vec<String> = (0..4).map(|_| open("a.test").0).collect();
    landed.sort();
    assert_eq!(landed, ["G0", "G0", "G1", "G1"]);
    assert!(held.echoes());
}

/// DESCRIPTION: among the servers of one name all the usual rules hold, round robin for one.
#[test]
fn servers_of_one_name_share_its_clients_whatever_the_others_do() {
    only_ours!("it has no ssl_passthrough");
    let (_, s) = secure(&["x.test"; 5]);
    let names = ["sni a.test", "sni b.test", "sni a.test", "sni b.test", "sni a.test"];
    let servers: Vec<_> = s.iter().zip(names).collect();
    let pen = passing(&servers, &["-r", "-O", "workers 3"], &[]);
    for _ in 0..6 {
        asks_for(&pen, "a.test");
        asks_for(&pen, "b.test");
    }
    assert_eq!(s.iter().map(Backend::accepted).collect::<Vec<_>>(), [2, 3, 2, 3, 2]);
}

/// DESCRIPTION: a client comes back to its server, and when that is down goes to another of the same name, then to the
/// emergency server, and to nobody else.
#[test]
fn fail_over_stays_among_the_servers_of_the_name() {
    only_ours!("it has no ssl_passthrough");
    let (root, mut s) = secure(&["x.test"; 4]);
    let emergency = tls::web("E", &root.issue(&["e.test"]));
    let servers: Vec<_> = s.iter().zip(["sni a.test", "", "sni a.test", ""]).collect();
    let pen = passing(&servers, &["-b", "60", "-e", &emergency.to_string()], &[]);
    let first = asks_for(&pen, "a.test");
    let mine = if first == "S0" { 0 } else { 2 };
    assert_eq!(first, format!("S{mine}"));
    assert_eq!(asks_for(&pen, "a.test"), first);
    s[mine].down();
    let other = format!("S{}", 2 - mine);
    for _ in 0..3 {
        assert_eq!(asks_for(&pen, "a.test"), other);
    }
    s[2 - mine].down();
    for _ in 0..3 {
        assert_eq!(asks_for(&pen, "a.test"), "E");
    }
    assert_eq!((s[1].accepted(), s[3].accepted()), (0, 0));
    assert!(["S1", "S3"].contains(&asks_for(&pen, "b.test").as_str()));
}

/// How a client hello is sent.
type Shape<'a> = dyn Fn(&TcpStream, &[u8]) + 'a;

/// A socket whose first flight goes out in another form.
struct Reshaped<'a> {
    stream: TcpStream,
    shape: Option<&'a Shape<'a>>,
}

impl Read for Reshaped<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.stream.read(room)
    }
}

impl Write for Reshaped<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.shape.take() {
            Some(shape) => shape(&self.stream, bytes),
            None => self.stream.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Who answers a client whose first flight has this shape.
#[track_caller]
fn answer_to(pen: &Pen, name: &str, larger_by: usize, shape: &dyn Fn(&TcpStream, &[u8])) -> String {
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.set_verify(SslVerifyMode::NONE);
    if larger_by > 0 {
        // Protocols that no server has heard of.
        let protocols: Vec<u8> = (0..larger_by.div_ceil(256)).flat_map(|_| [255_u8; 256]).collect();
        connector.set_alpn_protos(&protocols).unwrap();
    }
    let stream = pen.connect();
    stream.set_nodelay(true).unwrap();
    let mut ssl = Ssl::new(connector.build().context()).unwrap();
    ssl.set_hostname(name).unwrap();
    let Ok(mut stream) = ssl.connect(Reshaped { stream, shape: Some(shape) }) else {
        panic!("the handshake fails");
    };
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// The same messages in records of so many bytes.
fn in_records(mut flight: &[u8], size: usize) -> Vec<u8> {
    let mut records = Vec::new();
    while let [kind, major, minor, high, low, rest @ ..] = flight {
        let (content, rest) = rest.split_at(u16::from_be_bytes([*high, *low]).into());
        for fragment in content.chunks(size) {
            let [high, low] = u16::try_from(fragment.len()).unwrap().to_be_bytes();
            records.extend([*kind, *major, *minor, high, low]);
            records.extend(fragment);
        }
        flight = rest;
    }
    records
}

/// ssl_passthrough: the first message of a client may come in any number of segments and records.
#[test]
fn a_hello_may_come_in_pieces_of_any_kind() {
    only_ours!("it has no ssl_passthrough");
    let (_, s) = secure(&["a.test", "b.test"]);
    let pen = passing(&[(&s[0], ""), (&s[1], "sni b.test")], &[], &[]);
    let send = |mut to: &TcpStream, bytes: &[u8], size: usize| {
        bytes.chunks(size).for_each(|piece| to.write_all(piece).unwrap());
    };
    // OpenSSL's servers themselves refuse more than 32 records a message.
    let shapes: [(&str, usize, &Shape<'_>); 6] = [
        ("byte by byte", 0, &|to, flight| send(to, flight, 1)),
        ("in tiny records", 0, &|to, flight| send(to, &in_records(flight, 16), usize::MAX)),
        ("in tiny records, byte by byte", 0, &|to, flight| send(to, &in_records(flight, 40), 1)),
        ("larger than a segment", 1300, &|to, flight| send(to, flight, 1400)),
        ("large", 9000, &|to, flight| send(to, flight, 1400)),
        ("large, in records", 9000, &|to, flight| send(to, &in_records(flight, 700), 1400)),
    ];
    for (what, larger_by, shape) in shapes {
        assert_eq!(answer_to(&pen, "b.test", larger_by, shape), "S1", "{what}");
        assert_eq!(answer_to(&pen, "c.test", larger_by, shape), "S0", "{what}");
    }
}

/// ssl_handshake_timeout: how long a client may take to say which name it asks for. No server hears of it until then.
#[test]
fn whoever_does_not_say_its_name_in_time_is_ended() {
    only_ours!("it has no ssl_passthrough");
    let (_, s) = secure(&["a.test"]);
    let pen = passing(&[(&s[0], "sni a.test")], &[], &["ssl_handshake_timeout 1"]);
    let hello = tls::client_hello("a.test");
    let half = hello.len() / 2;
    let (silent, stuck, ending) = (pen.connect(), pen.connect(), pen.connect());
    (&stuck).write_all(&hello[..half]).unwrap();
    (&ending).write_all(&hello[..half]).unwrap();
    ending.shutdown(Shutdown::Write).unwrap();
    // This one says something all the time, and never enough.
    let slow = pen.connect();
    let mut at = 0;
    for stream in [&ending, &silent, &stuck] {
        let (bytes, how) = read_all(stream);
        assert!(bytes.is_empty() && how != Ending::Open, "{how:?}");
    }
    wait_until("the slow one is ended, too", || {
        let _ = (&slow).write_all(&hello[at..=at]);
        at = (at + 1).min(half);
        connections(&pen) == 0
    });
    assert_eq!(s[0].accepted(), 0);
    assert_eq!(asks_for(&pen, "a.test"), "S0");
}

/// ssl_handshake_timeout: whose name is known is bound by it no more.
#[test]
fn the_timeout_ends_with_the_hello() {
    only_ours!("it has no ssl_passthrough");
    let root = Authority::new("Root");
    let server = tls::greeter("G", &root.issue(&["a.test"]));
    let pen = passing(&[(&server, "sni a.test")], &[], &["ssl_handshake_timeout 1"]);
    let mut held = Client::careless().name("a.test").open(&pen);
    assert_eq!(held.read_line().as_deref(), Some("G"));
    let silent = pen.connect();
    let _late = read_all(&silent);
    let second = pen.connect();
    let _later = read_all(&second);
    assert!(held.echoes());
    held.finish();
    assert_eq!(held.read_all().1, TlsEnding::Declared);
}

/// ssl_passthrough: what is not TLS goes where clients without a name go, at once and as it is.
#[test]
fn plain_bytes_go_to_the_servers_without_names() {
    only_ours!("it has no ssl_passthrough");
    let (secured, plain) = (secure(&["a.test"]).1, Backend::web("P"));
    let echo = Backend::greeter("G");
    let pen = passing(&[(&secured[0], "sni a.test"), (&plain, "")], &[], &["ssl_handshake_timeout 60"]);
    assert_eq!(pen.visit(), "P");
    assert_eq!(asks_for(&pen, "a.test"), "S0");
    // A hello that becomes something else after some records.
    let pen = passing(&[(&secured[0], "sni a.test"), (&echo, "")], &[], &["ssl_handshake_timeout 60"]);
    let broken = [&in_records(&tls::client_hello("a.test"), 20)[..50], b"nonsense\n"].concat();
    let stream = pen.connect();
    (&stream).write_all(&broken).unwrap();
    let held = Held::greeted(stream);
    assert_eq!(held.name, "G");
    let mut back = vec![0; broken.len()];
    (&held.stream).read_exact(&mut back).unwrap();
    assert_eq!(back, broken);
    assert!(held.echoes());
}

/// client_acl: whom it refuses is closed at once, or is the abuse server's, whatever it asks for.
#[test]
fn refused_clients_are_not_waited_for() {
    only_ours!("it has no ssl_passthrough");
    let (_, s) = secure(&["a.test"]);
    let lines = ["acl 1 deny 127.0.0.0 255.0.0.0", "client_acl 1", "ssl_handshake_timeout 60"];
    let pen = passing(&[(&s[0], "sni a.test")], &[], &lines);
    let (bytes, ending) = read_all(&pen.connect());
    assert!(bytes.is_empty() && ending != Ending::Open, "{ending:?}");
    let abuse = Backend::greeter("B");
    let pen = passing(&[(&s[0], "sni a.test")], &["-B", &abuse.to_string()], &lines);
    assert_eq!(pen.hold().name, "B", "it need not say anything");
    assert_eq!(s[0].accepted(), 0);
}

/// ssl_passthrough: bytes are what they were, however many.
#[test]
fn large_amounts_go_through_as_they_are() {
    only_ours!("it has no ssl_passthrough");
    let root = Authority::new("Root");
    let server = tls::greeter("G", &root.issue(&["a.test"]));
    let pen = passing(&[(&server, "sni a.test")], &[], &[]);
    let mut client = Client::trusting(&root).checked_name("a.test").open(&pen);
    assert_eq!(client.read_line().as_deref(), Some("G"));
    let block: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    for chunk in block.chunks(64 * 1024).chain(block.chunks(1000).take(50)) {
        assert!(client.send(chunk));
        let (mut back, mut room) = (Vec::new(), vec![0; chunk.len()]);
        while back.len() < chunk.len() {
            let count = client.receive(&mut room).expect("everything comes back");
            back.extend_from_slice(&room[..count]);
        }
        assert!(back == chunk);
    }
    client.finish();
    assert_eq!(client.read_all(), (Vec::new(), TlsEnding::Declared));
    drop(client);
    nothing_is_left(&pen);
}

/// ssl_passthrough: a name leads to its server although that has just got another number, and before a worker has heard
/// of that; also when the server that a connect is under way to turns out to be none.
#[test]
fn a_name_leads_to_its_server_whatever_number_that_has_got() {
    only_ours!("it has no ssl_passthrough");
    let (a, b, hanging) = (Backend::greeter("a"), Backend::greeter("b"), Backend::hanging("none"));
    let hello = tls::client_hello("a.test");
    let options = ["-t", "3", "-b", "0", "-O", "ssl_passthrough sni"];
    let pen = Pen::with(&options).servers([&a, &b]).workers(1).controlled().start();
    pen.batch(&["server 0 sni a.test", "server 1 sni b.test"]);
    let is = |number, server: &Backend, name| {
        format!("server {number} address 127.0.0.1 port {} sni none sni {name}.test", server.port())
    };
    let peeked = || {
        let client = pen.connect();
        wait_until("it is accepted", || connections(&pen) == 1);
        client
    };
    for (first, second) in [((&b, "b"), (&a, "a")), ((&a, "a"), (&b, "b"))] {
        let client = peeked();
        let change = [is(0, first.0, first.1), is(1, second.0, second.1)];
        pen.change_unseen(&change, || (&client).write_all(&hello).unwrap());
        assert_eq!(read_line(&client).as_deref(), Some("a"));
        drop(client);
        nothing_is_left(&pen);
    }
    pen.batch(&[&is(0, &hanging, "a"), &is(1, &b, "b")].map(String::as_str));
    let client = peeked();
    (&client).write_all(&hello).unwrap();
    wait_until("a connect is under way", || connects_under_way(hanging.port()) == 1);
    pen.batch(&[is(0, &b, "b"), is(1, &a, "a")].each_ref().map(String::as_str));
    assert_eq!(read_line(&client).as_deref(), Some("a"));
    drop(client);
    nothing_is_left(&pen);
}
