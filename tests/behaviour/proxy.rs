//! pen(1), The PROXY protocol: `proxy_accept`, `proxy_send`, `server N proxy`.

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::Pid;
use openssl::ssl::SslVersion;
use ppp::v2::{Addresses, Builder, Command, Header, Protocol, Type, Version};

use crate::support::backend::{greeters, webs};
use crate::support::client::{connect, read_all, read_line};
use crate::support::page::column;
use crate::support::tls::{
    self, Authority, Client, Identity, acceptor, client_hello, connections, nothing_is_left,
};
use crate::support::{Backend, Ending, Held, Pen, SOON, Scratch, only_ours, processes, wait_until};

/// Who sends headers, and is believed.
const TRUSTED: &[&str] = &["-O", "acl 1 permit 127.0.0.1", "-O", "proxy_accept 1"];

/// Two addresses of documentation, and one of the same length in IPv6.
const CLIENT: &str = "198.51.100.7:4711";
const SITE: &str = "192.0.2.80:443";
const CLIENT6: &str = "[2001:db8::7]:4711";
const SITE6: &str = "[2001:db8::80]:443";

fn parsed(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn line(source: &str, destination: &str) -> Vec<u8> {
    let (source, destination) = (parsed(source), parsed(destination));
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// Version 2, made by somebody else's library.
fn binary(source: &str, destination: &str, extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let addresses: Addresses = (parsed(source), parsed(destination)).into();
    let mut builder = Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses);
    for (kind, value) in extensions {
        builder = builder.write_tlv(*kind, value).unwrap();
    }
    builder.build().unwrap()
}

/// The same with a checksum behind everything else.
fn summed(source: &str, destination: &str, extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let mut header = binary(source, destination, &[extensions, &[(Type::CRC32C.into(), &[0; 4])]].concat());
    // RFC 4960, appendix B, bit by bit.
    let shift = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    let sum = !header.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| shift(sum)));
    let end = header.len();
    header[end - 4..].copy_from_slice(&sum.to_be_bytes());
    header
}

/// LOCAL, as health checks send it.
fn local() -> Vec<u8> {
    Builder::new(Version::Two | Command::Local, 0).build().unwrap()
}

/// Headers of all kinds, with the client that each names.
fn headers() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (line(CLIENT, SITE), "198.51.100.7"),
        (line(CLIENT6, SITE6), "2001:db8::7"),
        (line("[::ffff:198.51.100.7]:1", SITE6), "198.51.100.7"),
        (binary(CLIENT, SITE, &[]), "198.51.100.7"),
        (binary(CLIENT6, SITE6, &[]), "2001:db8::7"),
        (summed(CLIENT, SITE, &[(Type::Authority.into(), b"www.example.com")]), "198.51.100.7"),
        (summed(CLIENT6, SITE6, &[(0xe0, &[0xff; 300])]), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN 198.51.100.7 whatever\r\n".to_vec(), "127.0.0.1"),
        (local(), "127.0.0.1"),
        // LOCAL with addresses, and nothing specified.
        ([&b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x0c"[..], &[1; 12]].concat(), "127.0.0.1"),
        ([&b"\r\n\r\n\0\r\nQUIT\n\x21\x00\0\x0c"[..], &[1; 12]].concat(), "127.0.0.1"),
        ([&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[b'/'; 216]].concat(), "unix"),
    ]
}

/// A server that hears everything to the end, and only then says its name.
struct Ear {
    name: String,
    server: Backend,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Ear {
    fn new(name: &str) -> Self {
        let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let notes = Arc::clone(&heard);
        let server = Backend::serving(name, move |visit| {
            let (bytes, _) = read_all(&visit.stream);
            notes.lock().unwrap().push(bytes);
            let _ = (&visit.stream).write_all(visit.name.as_bytes());
        });
        Ear { name: name.to_owned(), server, heard }
    }

    /// What the last one said.
    #[track_caller]
    fn last(&self) -> Vec<u8> {
        self.heard.lock().unwrap().last().cloned().expect("somebody was here")
    }
}

impl Display for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.server.fmt(f)
    }
}

/// Sends everything and ends; what came back.
fn say(stream: &TcpStream, bytes: &[u8]) -> String {
    let _ = (&*stream).write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    match read_all(stream) {
        (bytes, Ending::Open) => format!("nothing more after {} bytes", bytes.len()),
        (bytes, _) if bytes.is_empty() => "closed".to_owned(),
        (bytes, _) => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// A request after this header, from 127.0.0.1.
#[track_caller]
fn visit(pen: &Pen, header: &[u8]) -> String {
    visit_from(pen, "127.0.0.1", header)
}

#[track_caller]
fn visit_from(pen: &Pen, source: &str, header: &[u8]) -> String {
    let stream = pen.connect_from(source);
    let _ = (&stream).write_all(&[header, b"GET / HTTP/1.0\r\n\r\n"].concat());
    let (bytes, ending) = read_all(&stream);
    assert_ne!(ending, Ending::Open, "{}", header.escape_ascii());
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match text.split_once("\r\n\r\n") {
        Some((_, body)) => body.to_owned(),
        None if text.is_empty() => "closed".to_owned(),
        None => text,
    }
}

/// How many clients were turned away for their headers, over all workers.
fn refused(pen: &Pen) -> u64 {
    let page = pen.ask("status");
    column(&page, "worker", "PROXY refused").iter().map(|count| count.parse::<u64>().unwrap()).sum()
}

/// Sends this, and waits until all workers have looked at it and sleep again.
fn send_and_wait(client: &TcpStream, bytes: &[u8], workers: &[i32]) {
    let mut client = client;
    client.write_all(bytes).unwrap();
    wait_until("all workers sleep", || {
        workers.iter().all(|worker| processes::stat(*worker).is_some_and(|stat| stat.state == 'S'))
    });
}

/// The PROXY protocol: the address in the header is the client's, in the log and for its server, whatever kind of header.
#[test]
fn the_client_is_who_the_header_says() {
    only_ours!("it does not know the PROXY protocol");
    let (s, files) = (webs(1), Scratch::new());
    let pen = Pen::with(&[TRUSTED, &["-l", &files.file("log")]].concat()).servers(&s).controlled().start();
    let headers = headers();
    for (header, _) in &headers {
        assert_eq!(visit(&pen, header), "S0", "{}", header.escape_ascii());
    }
    wait_until("all requests are logged", || files.read("log").lines().count() >= headers.len());
    let log = files.read("log");
    let mut logged: Vec<&str> = log.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let mut named: Vec<&str> = headers.iter().map(|(_, client)| *client).collect();
    logged.sort_unstable();
    named.sort_unstable();
    assert_eq!(logged, named);
    assert!(s[0].notes().iter().all(|note| note == "GET / HTTP/1.0\r\n\r\n"), "headers get through");
    assert_eq!(refused(&pen), 0);
    nothing_is_left(&pen);
}

/// The PROXY protocol: a header may come in any pieces.
#[test]
fn a_header_may_be_cut_anywhere() {
    only_ours!("it does not know the PROXY protocol");
    let ear = Ear::new("E");
    let pen = Pen::with(&[TRUSTED, &["-O", "proxy_send 1"]].concat());
    let pen = pen.servers([&ear]).workers(1).controlled().start();
    let workers = pen.workers();
    for (header, _) in headers() {
        let stream = [&header[..], b"and more"].concat();
        assert_eq!(say(&pen.connect(), &stream), "E");
        let addresses = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            let (line, rest) = text.split_once("\r\n").unwrap();
            assert_eq!(rest, "and more");
            // The port of a client that names nobody is another one each time.
            line.split(' ').take(4).collect::<Vec<_>>().join(" ")
        };
        let uncut = addresses(ear.last());
        let cuts = (1..stream.len()).filter(|cut| header.len() < 130 || cut % 29 == 0);
        for cut in cuts {
            let client = pen.connect();
            send_and_wait(&client, &stream[..cut], &workers);
            assert_eq!(say(&client, &stream[cut..]), "E", "{cut} of {}", stream.escape_ascii());
            assert_eq!(addresses(ear.last()), uncut, "{cut} of {}", stream.escape_ascii());
        }
        // Each byte alone.
        let client = pen.connect();
        for byte in stream.chunks(1) {
            send_and_wait(&client, byte, &workers);
        }
        assert_eq!(say(&client, b""), "E");
        assert_eq!(addresses(ear.last()), uncut);
    }
    assert_eq!(refused(&pen), 0);
    nothing_is_left(&pen);
}

/// What is no header, or a broken one.
fn broken() -> Vec<(Vec<u8>, &'static str)> {
    let changed = |mut header: Vec<u8>, place: usize, byte: u8| {
        header[place] = byte;
        header
    };
    let good_sum = summed(CLIENT, SITE, &[]);
    vec![
        (b"GET / HTTP/1.0\r\n\r\n".to_vec(), "it begins without a header"),
        (client_hello("www.example.com"), "it begins without a header"),
        (b"PROXY TCP4 198.51.100.7 192.0.2.80 4711\r\n".to_vec(), "the line of its header is not"),
        (b"PROXY TCP4 198.51.100.7 192.0.2.80 4711 443\n".to_vec(), "does not end with CRLF"),
        ([b"PROXY UNKNOWN ", &[b'x'; 200][..], b"\r\n"].concat(), "longer than 107 bytes"),
        (changed(binary(CLIENT, SITE, &[]), 12, 0x31), "of version 3"),
        (changed(binary(CLIENT, SITE, &[]), 12, 0x22), "the command 2"),
        (changed(binary(CLIENT, SITE, &[]), 13, 0x51), "the family 5"),
        (changed(binary(CLIENT, SITE, &[]), 13, 0x14), "the transport 4"),
        (changed(binary(CLIENT, SITE, &[]), 13, 0x12), "is about datagrams"),
        (changed(binary(CLIENT, SITE, &[]), 13, 0x21), "too short for its addresses"),
        (binary(CLIENT, SITE, &[(4, &[0; 17_000])]), "longer than 16384 bytes"),
        (changed(binary(CLIENT, SITE, &[(4, &[0; 8])]), 30, 9), "the extensions of its header"),
        (changed(good_sum.clone(), 17, 0), "does not have its checksum"),
        (changed(good_sum.clone(), 34, good_sum[34] ^ 1), "does not have its checksum"),
    ]
}

/// The PROXY protocol: everybody else is closed at once, counted, and a message says why.
#[test]
fn whoever_sends_no_good_header_is_closed_and_counted() {
    only_ours!("it does not know the PROXY protocol");
    let s = webs(1);
    let pen = Pen::with(&[TRUSTED, &["-d"]].concat()).servers(&s).controlled().start();
    let mut count = 0;
    let mut told = |reason: &str| {
        count += 1;
        wait_until("it is counted", || refused(&pen) == count);
        let stderr = pen.stderr();
        let last = stderr.lines().rfind(|line| line.contains("PROXY protocol: ")).unwrap_or_default();
        assert!(last.contains(reason), "{reason}: {last}");
        last.to_owned()
    };
    for (header, reason) in broken() {
        assert_eq!(visit(&pen, &header), "closed", "{reason}");
        let told = told(reason);
        assert!(told.contains("client 127.0.0.1: PROXY protocol: "), "{told}");
    }
    // Not even a good one is taken from anybody.
    assert_eq!(visit_from(&pen, "127.0.0.2", &line(CLIENT, SITE)), "closed");
    assert!(told("no header is accepted from it").contains("client 127.0.0.2: "));
    // It ends before its header does, or before it begins.
    for header in [&b""[..], b"PROXY TCP4 198.", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6"] {
        let client = pen.connect();
        (&client).write_all(header).unwrap();
        assert_eq!(say(&client, b""), "closed");
        told("it has ended without a whole header");
    }
    assert_eq!(s[0].accepted(), 0, "the server has heard of them");
    nothing_is_left(&pen);
    assert_eq!(visit(&pen, &line(CLIENT, SITE)), "S0");
}

/// The PROXY protocol, ssl_handshake_timeout: who is slow is closed, however much it says meanwhile.
#[test]
fn a_header_that_takes_too_long_is_none() {
    only_ours!("it does not know the PROXY protocol");
    let s = webs(1);
    let options = [TRUSTED, &["-d", "-O", "ssl_handshake_timeout 1"]].concat();
    let pen = Pen::with(&options).servers(&s).controlled().start();
    let silent = pen.connect();
    let half = pen.connect();
    (&half).write_all(b"PROXY TCP4 198.51.100.7").unwrap();
    let dripping = pen.connect();
    dripping.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let header = binary(CLIENT, SITE, &[(4, &[0; 10_000])]);
    let mut bytes = header.chunks(1);
    wait_until("the one that drips is closed", || {
        let _ = (&dripping).write_all(bytes.next().expect("less than 10,000 bytes"));
        !matches!(read_all(&dripping), (_, Ending::Open))
    });
    for client in [silent, half] {
        // Another worker may close these later. Whoever ended their streams before would be refused for that instead.
        let (bytes, ending) = read_all(&client);
        assert!(bytes.is_empty() && ending != Ending::Open, "{ending:?} after {} bytes", bytes.len());
    }
    wait_until("they are counted", || refused(&pen) == 3);
    assert_eq!(pen.stderr().matches("PROXY protocol: no whole header within 1 s").count(), 3);
    nothing_is_left(&pen);
    assert_eq!((visit(&pen, &header), s[0].accepted()), ("S0".to_owned(), 1));
}

/// The PROXY protocol: client_acl and the lists of servers are asked about the address in the header, and proxy_accept's
/// about the one that the connection comes from.
#[test]
fn lists_are_asked_about_the_right_address() {
    only_ours!("it does not know the PROXY protocol");
    let s = webs(2);
    let options = [TRUSTED, &["-r", "-O", "acl 2 permit 198.51.100.0/24", "-O", "client_acl 2"]].concat();
    let pen = Pen::with(&options).servers(&s).controlled().start();
    let from = |client: &str| visit(&pen, &line(&format!("{client}:1"), SITE));
    // 127.0.0.1 itself does not pass list 2.
    assert_eq!([from("198.51.100.7"), from("198.51.100.8")].concat(), "S1S0");
    assert_eq!(from("203.0.113.1"), "closed");
    assert_eq!(visit(&pen, &local()), "closed", "it names nobody");
    pen.tell("acl 3 permit 198.51.100.7");
    pen.tell("server 1 acl 3");
    assert_eq!([from("198.51.100.8"), from("198.51.100.8"), from("198.51.100.8")].concat(), "S0S0S0");
    assert!([from("198.51.100.7"), from("198.51.100.7")].contains(&"S1".to_owned()));
    assert_eq!(refused(&pen), 0, "their headers were good");
}

/// The PROXY protocol: each address in a header is a client of its own, with its own server.
#[test]
fn clients_behind_one_balancer_are_told_apart() {
    only_ours!("it does not know the PROXY protocol");
    let s = webs(3);
    let pen = Pen::with(TRUSTED).servers(&s).controlled().start();
    let from = |number: u8| visit(&pen, &binary(&format!("198.51.100.{number}:1"), SITE, &[]));
    let first: Vec<String> = (1..=6).map(from).collect();
    assert_eq!(first.iter().filter(|name| *name == "S1").count(), 2, "{first:?}");
    for _ in 0..2 {
        assert_eq!((1..=6).map(from).collect::<Vec<_>>(), first);
    }
    let mut clients = column(&pen.ask("status"), "client", "address");
    clients.sort();
    assert_eq!(clients, (1..=6).map(|number| format!("198.51.100.{number}")).collect::<Vec<_>>());
}

/// proxy_accept: at any time, for connections from then on.
#[test]
fn headers_can_be_asked_for_at_any_time() {
    only_ours!("it does not know the PROXY protocol");
    let s = webs(1);
    let pen = Pen::with(&["-O", "acl 1 permit 127.0.0.1"]).servers(&s).workers(3).controlled().start();
    let header = line(CLIENT, SITE);
    assert_eq!(pen.visit(), "S0");
    pen.tell("proxy_accept 1");
    for _ in 0..4 {
        assert_eq!((pen.visit(), visit(&pen, &header)), ("closed".to_owned(), "S0".to_owned()));
    }
    pen.tell("no proxy_accept");
    for _ in 0..4 {
        assert_eq!(pen.visit(), "S0");
    }
    assert_eq!(refused(&pen), 4);
}

/// proxy_accept: whoever is not believed any more when its header is whole is not believed.
#[test]
fn nobody_is_believed_whose_trust_has_ended_meanwhile() {
    only_ours!("it does not know the PROXY protocol");
    let s = webs(1);
    let pen = Pen::with(&[TRUSTED, &["-d"]].concat()).servers(&s).workers(1).controlled().start();
    let workers = pen.workers();
    let header = line(CLIENT, SITE);
    let (kept, lost) = (pen.connect(), pen.connect_from("127.0.0.2"));
    pen.tell("acl 1 permit 127.0.0.3");
    let waiting = pen.connect_from("127.0.0.3");
    for client in [&kept, &waiting] {
        send_and_wait(client, &header[..20], &workers);
    }
    assert_eq!(say(&lost, &header), "closed", "it has never been");
    assert_eq!(pen.batch(&["no acl 1", "acl 1 permit 127.0.0.1"]), "");
    let request = [&header[20..], b"GET / HTTP/1.0\r\n\r\n"].concat();
    assert_eq!(say(&waiting, &request), "closed");
    assert!(say(&kept, &request).ends_with("S0"));
    assert_eq!((refused(&pen), s[0].accepted()), (2, 1));
    assert_eq!(pen.stderr().matches("PROXY protocol: no header is accepted from it").count(), 2);
    nothing_is_left(&pen);
}

/// The PROXY protocol: whoever comes over a Unix socket passes every list, and its header is asked for all the same.
#[test]
fn headers_come_over_unix_sockets_too() {
    only_ours!("it does not know the PROXY protocol");
    let (files, ear) = (Scratch::new(), Ear::new("E"));
    let path = files.file("sock");
    let options =
        ["-u", "root", "-O", "acl 1 permit 203.0.113.0/24", "-O", "proxy_accept 1", "-O", "proxy_send 1"];
    let options = if nix::unistd::geteuid().is_root() { &options[..] } else { &options[2..] };
    let pen = Pen::with(options).servers([&ear]).listen(&path).controlled().start();
    let say = |pieces: &[&[u8]]| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        for piece in pieces {
            let _ = stream.write_all(piece);
        }
        let _ = stream.shutdown(Shutdown::Write);
        let mut all = String::new();
        // Closing on unread bytes is a reset.
        let _ = stream.read_to_string(&mut all);
        all
    };
    let expected = [&line(CLIENT, SITE)[..], b"hello"].concat();
    assert_eq!(say(&[&binary(CLIENT, SITE, &[]), b"hello"]), "E");
    assert_eq!(ear.last(), expected);
    assert_eq!(say(&[b"PROXY TCP4 198.51.", b"100.7 192.0.2.80 4711 443\r", b"\nhel", b"lo"]), "E");
    assert_eq!(ear.last(), expected);
    assert_eq!(say(&[b"PROXY UNKNOWN\r\nhello"]), "E");
    assert_eq!(ear.last(), b"PROXY UNKNOWN\r\nhello");
    assert_eq!(say(&[b"hello"]), "");
    assert_eq!(refused(&pen), 1);
    pen.tell("no proxy_accept");
    assert_eq!(say(&[b"hello"]), "E");
    assert_eq!(ear.last(), b"PROXY UNKNOWN\r\nhello");
}

/// The PROXY protocol: the header comes before TLS, in one segment with it if need be.
#[test]
fn tls_follows_a_header() {
    only_ours!("it does not know the PROXY protocol");
    let (s, files) = (webs(1), Scratch::new());
    let log = files.file("log");
    let options = [TRUSTED, &["-l", &log]].concat();
    let pen = tls::pen(&files, &options).servers(&s).controlled().start();
    let workers = pen.workers();
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for header in [line(CLIENT, SITE), summed(CLIENT, SITE, &[])] {
            let together = pen.connect();
            let more = MsgFlags::from_bits_retain(nix::libc::MSG_MORE);
            assert_eq!(send(together.as_raw_fd(), &header, more).unwrap(), header.len());
            let apart = pen.connect();
            for byte in header.chunks(7) {
                send_and_wait(&apart, byte, &workers);
            }
            for stream in [together, apart] {
                let mut secured = Client::usual().version(version).connect(stream).unwrap();
                assert_eq!(secured.request("/").0, "S0");
            }
        }
        // TLS without a header, and a header within it.
        assert!(Client::usual().version(version).connect(pen.connect()).is_err());
    }
    assert_eq!(refused(&pen), 2);
    wait_until("all is logged", || files.read("log").lines().count() == 8);
    assert!(files.read("log").lines().all(|line| line.starts_with("198.51.100.7 ")));
    nothing_is_left(&pen);
}

/// The PROXY protocol, ssl_passthrough: the name is looked for behind the header.
#[test]
fn a_name_is_found_behind_a_header() {
    only_ours!("it does not know the PROXY protocol");
    let ears = [Ear::new("A"), Ear::new("B")];
    let names = ["-O", "server 0 sni a.test", "-O", "server 1 sni b.test", "-O", "ssl_passthrough sni"];
    let pen = Pen::with(&[TRUSTED, &names].concat()).servers(&ears).controlled().start();
    let workers = pen.workers();
    for (name, ear) in ["a.test", "b.test"].iter().zip(&ears) {
        let hello = client_hello(name);
        let client = pen.connect();
        assert_eq!(say(&client, &[&line(CLIENT, SITE)[..], &hello].concat()), ear.name);
        assert_eq!(ear.last(), hello);
        let client = pen.connect();
        send_and_wait(&client, &line(CLIENT, SITE), &workers);
        send_and_wait(&client, &hello[..100], &workers);
        assert_eq!(say(&client, &hello[100..]), ear.name);
        assert_eq!(ear.last(), hello);
    }
    nothing_is_left(&pen);
}

/// The addresses of a connection to pen, all of which are to the address that they come from.
fn ends(client: &TcpStream, pen: &Pen) -> (String, String) {
    let own = client.local_addr().unwrap();
    (own.to_string(), SocketAddr::new(own.ip(), pen.address.port()).to_string())
}

/// What version 1 says of this connection.
fn line_of(client: &TcpStream, pen: &Pen) -> Vec<u8> {
    let (from, to) = ends(client, pen);
    line(&from, &to)
}

/// What version 2 says of it, without extensions.
fn binary_of(client: &TcpStream, pen: &Pen) -> Vec<u8> {
    let (from, to) = ends(client, pen);
    binary(&from, &to, &[])
}

/// proxy_send, server N proxy: each server gets the header that it wants, or none; changes hold for new connections.
#[test]
fn each_server_gets_the_header_that_it_wants() {
    only_ours!("it does not know the PROXY protocol");
    let ears = [Ear::new("A"), Ear::new("B"), Ear::new("C"), Ear::new("D")];
    let settings = [
        "-O",
        "proxy_send 2",
        "-O",
        "server 0 proxy 1",
        "-O",
        "server 1 proxy 2",
        "-O",
        "server 2 proxy off",
    ];
    let pen = Pen::with(&[&["-r"], &settings[..]].concat()).servers(&ears).controlled().start();
    let heard = |ear: &Ear| {
        // Round robin: one of four visits is its own.
        let mut own = None;
        for _ in 0..4 {
            let client = pen.connect();
            if say(&client, b"hello") == ear.name {
                own = Some(client);
            }
        }
        (ear.last(), own.expect("round robin"))
    };
    let with_hello = |header: Vec<u8>| [&header[..], b"hello"].concat();
    let changes = ["proxy_send 1", "server 1 proxy default", "server 2 proxy 2", "server 0 proxy off"];
    for (versions, then) in [([1, 2, 0, 2], &changes[..]), ([0, 1, 2, 1], &[])] {
        for (ear, version) in ears.iter().zip(versions) {
            let (heard, client) = heard(ear);
            let expected = match version {
                1 => with_hello(line_of(&client, &pen)),
                2 => with_hello(binary_of(&client, &pen)),
                _ => b"hello".to_vec(),
            };
            assert_eq!(heard, expected, "{}", heard.escape_ascii());
        }
        for command in then {
            pen.tell(command);
        }
    }
}

/// proxy_send: what was announced is announced on, with the destination that the client had.
#[test]
fn what_was_announced_is_announced_on() {
    only_ours!("it does not know the PROXY protocol");
    let ear = Ear::new("E");
    let pen = Pen::with(TRUSTED).servers([&ear]).controlled().start();
    let versions: [fn(&str, &str) -> Vec<u8>; 2] = [line, |from, to| binary(from, to, &[])];
    for (command, out) in ["proxy_send 1", "proxy_send 2"].iter().zip(versions) {
        pen.tell(command);
        for into in versions {
            for (from, to) in [(CLIENT, SITE), (CLIENT6, SITE6)] {
                assert_eq!(say(&pen.connect(), &[&into(from, to)[..], b"hello"].concat()), "E");
                assert_eq!(ear.last(), [&out(from, to)[..], b"hello"].concat());
            }
        }
        // Of both families: version 6 has a form for version 4. (The form without dots, which everybody reads.)
        assert_eq!(say(&pen.connect(), b"PROXY TCP6 ::ffff:198.51.100.7 2001:db8::80 4711 443\r\n"), "E");
        let mut expected = out("[::ffff:198.51.100.7]:4711", SITE6);
        if command.ends_with('1') {
            expected = b"PROXY TCP6 ::ffff:c633:6407 2001:db8::80 4711 443\r\n".to_vec();
        }
        assert_eq!(ear.last(), expected);
        // Nobody is named: the connection's own addresses.
        let client = pen.connect();
        assert_eq!(say(&client, &local()), "E");
        let (from, to) = ends(&client, &pen);
        assert_eq!(ear.last(), out(&from, &to));
    }
}

/// proxy_send: over IPv6, and to a listener for both families.
#[test]
fn clients_of_both_families_are_told_as_what_they_are() {
    only_ours!("it does not know the PROXY protocol");
    let ear = Ear::new("E");
    let pen = Pen::with(&["-O", "proxy_send 1"]).servers([&ear]).listen("[::]:PORT").start();
    let six = connect("::1".parse().unwrap(), SocketAddr::new("::1".parse().unwrap(), pen.address.port()));
    let six = six.unwrap();
    assert_eq!(say(&six, b"hello"), "E");
    assert_eq!(ear.last(), [&line_of(&six, &pen)[..], b"hello"].concat());
    assert!(ear.last().starts_with(b"PROXY TCP6 ::1 ::1 "));
    let four = pen.connect();
    assert_eq!(say(&four, b"hello"), "E");
    assert_eq!(ear.last(), [&line_of(&four, &pen)[..], b"hello"].concat());
    assert!(ear.last().starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 "));
}

/// proxy_send: a server that speaks first has its header, although the client says nothing.
#[test]
fn a_server_that_speaks_first_is_told() {
    only_ours!("it does not know the PROXY protocol");
    let server = Backend::serving("G", |visit| {
        let header = read_line(&visit.stream).unwrap_or_default();
        let _ = (&visit.stream).write_all(format!("{header}\n").as_bytes());
        let _ = std::io::copy(&mut visit.stream.try_clone().unwrap(), &mut &visit.stream);
    });
    let files = Scratch::new();
    let pen = Pen::with(&["-O", "proxy_send 1"]).servers([&server]).start();
    let held = pen.hold();
    assert_eq!(format!("{}\n", held.name).as_bytes(), line_of(&held.stream, &pen));
    assert!(held.echoes());
    // With TLS pen cannot know whether the client has said something already.
    let pen = tls::pen(&files, &["-O", "proxy_send 1"]).servers([&server]).start();
    for _ in 0..3 {
        let mut secured = Client::usual().open(&pen);
        assert!(secured.read_line().unwrap().starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "));
        assert!(secured.echoes());
    }
}

/// proxy_send: a server that hangs up is no server that cannot be connected to, whether it waits for its header or not.
#[test]
fn a_server_that_hangs_up_at_once_has_not_failed() {
    only_ours!("it does not know the PROXY protocol");
    const OFTEN: usize = 100;
    let files = Scratch::new();
    let listener = UnixListener::bind(files.file("server")).unwrap();
    // It can be connected to by whoever may write there, and has hung up before the header comes, or just after.
    std::thread::spawn(move || listener.incoming().take(OFTEN).for_each(drop));
    let pen = Pen::with(&["-d", "-O", "proxy_send 1"]).servers([files.file("server")]).controlled().start();
    for _ in 0..OFTEN {
        assert_ne!(read_all(&pen.connect()).1, Ending::Open);
    }
    assert!(!pen.stderr().contains("server 0"), "{}", pen.stderr());
    nothing_is_left(&pen);
}

/// proxy_send: it holds for the emergency and the abuse server, and for the server that another's failure leads to.
#[test]
fn every_server_that_a_client_comes_to_is_told() {
    only_ours!("it does not know the PROXY protocol");
    let (mut down, ear) = (Backend::absent("down"), Ear::new("E"));
    let spec = ear.to_string();
    let pen = Pen::with(&["-O", "proxy_send 1"]).servers([&down.to_string(), &spec]).start();
    for _ in 0..3 {
        let client = pen.connect();
        assert_eq!(say(&client, b"hello"), "E");
        assert_eq!(ear.last(), [&line_of(&client, &pen)[..], b"hello"].concat());
    }
    let pen = Pen::with(&["-O", "proxy_send 2", "-e", &spec]).servers([&down]).start();
    let client = pen.connect();
    assert_eq!(say(&client, b"hello"), "E");
    assert_eq!(ear.last(), [&binary_of(&client, &pen)[..], b"hello"].concat());
    down.up();
    let abuse = ["-O", "proxy_send 1", "-O", &format!("abuse {spec}"), "-O", "acl 4 deny 127.0.0.0/8"];
    let pen = Pen::with(&[&abuse[..], &["-O", "client_acl 4"]].concat()).servers([&down]).start();
    let client = pen.connect();
    assert_eq!(say(&client, b"hello"), "E");
    assert_eq!(ear.last(), [&line_of(&client, &pen)[..], b"hello"].concat());
    assert_eq!(down.accepted(), 0);
}

/// The PROXY protocol: the header comes before TLS with the server.
#[test]
fn a_header_comes_before_tls_with_the_server() {
    only_ours!("it does not know the PROXY protocol");
    let (root, files) = (Authority::new("Servers"), Scratch::new());
    let ca = root.file(&files, "ca.pem");
    let acceptor = acceptor(&root.issue(&["127.0.0.1"]), |_| ());
    let server = Backend::serving("T", move |visit| {
        let header = read_line(&visit.stream).unwrap_or_default();
        visit.note(header);
        let mut secured = tls::Secured(acceptor.accept(visit.stream.try_clone().unwrap()).unwrap());
        if secured.read_line().is_some() {
            secured.send(format!("{}\n", visit.name));
        }
        secured.finish();
    });
    let options = ["-O", "proxy_send 1", "-O", &format!("server 0 tls verify {ca}")];
    let pen = Pen::with(&options).servers([&server]).controlled().start();
    for _ in 0..3 {
        let client = pen.connect();
        (&client).write_all(b"hello\n").unwrap();
        assert_eq!(read_line(&client).as_deref(), Some("T"));
        assert_eq!(format!("{}\n", server.notes().last().unwrap()).as_bytes(), line_of(&client, &pen));
    }
    nothing_is_left(&pen);
}

/// What version 2 said of a client's TLS.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    authority: Option<String>,
    protocol: Option<String>,
    /// The first byte of the extension for TLS, and whether somebody was verified.
    client: Option<(u8, bool)>,
    version: Option<String>,
    name: Option<String>,
    cipher: Option<String>,
}

fn told(heard: &[u8]) -> Told {
    let header = Header::try_from(heard).unwrap();
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    let find = |kind: Type| {
        header
            .tlvs()
            .map(|tlv| tlv.unwrap())
            .find(|tlv| tlv.kind == u8::from(kind))
            .map(|tlv| tlv.value.to_vec())
    };
    let ssl = find(Type::SSL);
    let within = |kind: Type| {
        let list: ppp::v2::TypeLengthValues<'_> = ssl.as_deref()?.get(5..)?.into();
        let found = list.map(|tlv| tlv.unwrap()).find(|tlv| tlv.kind == u8::from(kind))?;
        Some(text(&found.value))
    };
    Told {
        authority: find(Type::Authority).map(|value| text(&value)),
        protocol: find(Type::ALPN).map(|value| text(&value)),
        client: ssl.as_ref().map(|value| (value[0], value[1..5] == [0; 4])),
        version: within(Type::SSLVersion),
        name: within(Type::SSLCommonName),
        cipher: within(Type::SSLCipher),
    }
}

/// The PROXY protocol: version 2 says which name was asked for, what was agreed on, and who the client is.
#[test]
fn servers_are_told_of_the_tls_of_a_client() {
    only_ours!("it does not know the PROXY protocol");
    let (root, files) = (Authority::new("Clients"), Scratch::new());
    let ca = root.file(&files, "ca.pem");
    let identity: Identity = root.issue(&["Client \u{c4}"]);
    let settings = ["-O", "proxy_send 2", "-O", "ssl_alpn h2 http/1.1", "-G", &ca];
    let options = [&settings[..], &["-O", "ssl_verify_client request"]].concat();
    let ear = Ear::new("E");
    let pen = tls::pen(&files, &options).servers([&ear]).start();
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let name = if version == SslVersion::TLS1_3 { "TLSv1.3" } else { "TLSv1.2" };
        let heard = |client: &tls::Ready| {
            let mut secured = client.open(&pen);
            let cipher = Some(secured.cipher().to_owned());
            assert!(secured.send("hello"));
            secured.finish();
            assert_eq!(String::from_utf8(secured.read_all().0).unwrap(), "E");
            let last = ear.last();
            assert!(last.ends_with(b"hello"));
            let own = Header::try_from(&last[..]).unwrap();
            let peer = secured.socket().local_addr().unwrap();
            assert_eq!(own.addresses, (peer, pen.address).into());
            let told = told(&last);
            assert_eq!((told.version.as_deref(), &told.cipher), (Some(name), &cipher));
            told
        };
        let stranger = Client::usual().version(version).build();
        let expected = Told { authority: None, protocol: None, client: Some((1, false)), ..heard(&stranger) };
        assert_eq!(heard(&stranger), Told { name: None, ..expected });
        let known = Client::usual()
            .version(version)
            .certificate(&identity)
            .alpn(&["http/1.1"])
            .name("pen.test")
            .build();
        let first = heard(&known);
        assert_eq!(first.authority.as_deref(), Some("pen.test"));
        assert_eq!(first.protocol.as_deref(), Some("http/1.1"));
        assert_eq!(first.client, Some((7, true)));
        assert_eq!(first.name.as_deref(), Some("Client \u{c4}"));
        // The certificate was shown when the session began.
        let session = known.session();
        let again = heard(&known.resuming(session));
        assert_eq!(again, Told { client: Some((5, true)), ..first });
    }
}

/// proxy_accept, -H: a client that came by TLS to whoever sends the header came by TLS.
#[test]
fn http_headers_tell_of_tls_that_ended_before() {
    only_ours!("it does not know the PROXY protocol");
    let s = webs(1);
    let pen = Pen::with(&[TRUSTED, &["-H"]].concat()).servers(&s).start();
    let tls = |client: u8| binary(CLIENT, SITE, &[(Type::SSL.into(), &[client, 0, 0, 0, 0])]);
    for (header, expected) in [
        (tls(1), "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\n"),
        (tls(6), "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: http\r\n"),
        (line(CLIENT6, SITE6), "X-Forwarded-For: 2001:db8::7\r\nX-Forwarded-Proto: http\r\n"),
        (local(), "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"),
    ] {
        assert_eq!(visit(&pen, &header), "S0");
        let last = s[0].notes().pop().unwrap();
        assert!(last.contains(expected), "{last}");
    }
}

/// -H, proxy_send: both at once; the head that is not whole yet holds no header back.
#[test]
fn a_header_of_each_kind_can_be_sent() {
    only_ours!("it does not know the PROXY protocol");
    let server = Backend::serving("S0", |visit| {
        visit.note(read_line(&visit.stream).unwrap_or_default());
        if visit.read_head() {
            visit.answer(&visit.name);
        }
    });
    let pen = Pen::with(&["-H", "-O", "proxy_send 1"]).servers([&server]).start();
    let client = pen.connect();
    (&client).write_all(b"GET / HTT").unwrap();
    wait_until("the header is there before the head", || !server.notes().is_empty());
    (&client).write_all(b"P/1.0\r\n\r\n").unwrap();
    assert_eq!(read_all(&client).1, Ending::EndOfStream);
    let notes = server.notes();
    assert_eq!(format!("{}\n", notes[0]).as_bytes(), line_of(&client, &pen));
    assert!(notes[1].contains("X-Forwarded-For: 127.0.0.1\r\n"), "{notes:?}");
}

/// PROCESSES: clients whose headers are awaited count as connections, and go with their worker.
#[test]
fn a_killed_worker_leaves_no_slot_of_those_that_were_awaited() {
    only_ours!("it does not know the PROXY protocol");
    let s = webs(1);
    let options = [TRUSTED, &["-x", "20", "-O", "ssl_handshake_timeout 600"]].concat();
    let pen = Pen::with(&options).servers(&s).workers(2).controlled().start();
    for _ in 0..2 {
        let waiting: Vec<TcpStream> = (0..20).map(|_| pen.connect()).collect();
        for stream in &waiting {
            let mut stream = stream;
            stream.write_all(b"PROXY TCP4 198.51").unwrap();
        }
        wait_until("all places are taken", || connections(&pen) == 20);
        let workers = pen.workers();
        for worker in &workers {
            kill(Pid::from_raw(*worker), Signal::SIGKILL).unwrap();
        }
        for stream in &waiting {
            assert_ne!(read_all(stream).1, Ending::Open);
        }
        nothing_is_left(&pen);
        wait_until("there are new workers", || {
            let now = pen.workers();
            now.len() == 2 && now.iter().all(|worker| !workers.contains(worker))
        });
        assert_eq!(visit(&pen, &line(CLIENT, SITE)), "S0");
    }
}

/// SIGNALS, close: a client whose header is awaited can be closed like any other, and does not keep pen from ending.
#[test]
fn whoever_is_awaited_can_be_closed() {
    only_ours!("it does not know the PROXY protocol");
    let g = greeters(1);
    let mut pen = Pen::with(TRUSTED).servers(&g).workers(1).controlled().start();
    let waiting = pen.connect();
    wait_until("it is there", || connections(&pen) == 1);
    assert_eq!(pen.ask("close 0"), "Forcibly closing connection 0\n");
    assert_ne!(read_all(&waiting).1, Ending::Open);
    nothing_is_left(&pen);
    let waiting = pen.connect();
    let served = pen.connect();
    (&served).write_all(&line(CLIENT, SITE)).unwrap();
    assert!(Held::greeted(served).echoes());
    assert_eq!(pen.end_with(Signal::SIGTERM), Some(0));
    assert_ne!(read_all(&waiting).1, Ending::Open);
}
