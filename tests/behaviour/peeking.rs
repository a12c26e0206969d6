//! pen(1), `peek`: no server is chosen before the client has said something.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::client::{read_all, read_line, request};
use crate::support::tls::{self, Client, connections, nothing_is_left};
use crate::support::{Backend, Ending, Held, Pen, Scratch, only_ours, wait_until};

/// A pen that peeks, with these options and commands besides.
fn peeking(options: &[&str], commands: &[&str], servers: &[&Backend]) -> Pen {
    let commands = commands.iter().flat_map(|command| ["-O", command]);
    let options: Vec<&str> = options.iter().copied().chain(["-O", "peek"]).chain(commands).collect();
    Pen::with(&options).servers(servers).controlled().start()
}

/// Waits until pen has so many connections.
#[track_caller]
fn has_accepted(pen: &Pen, count: u64) {
    wait_until(&format!("there are {count} connections"), || connections(pen) == count);
}

/// Clients that have been accepted and say nothing, beside so many others.
#[track_caller]
fn silent(pen: &Pen, count: usize, others: u64) -> Vec<TcpStream> {
    has_accepted(pen, others);
    let clients = (0..count).map(|_| pen.connect()).collect();
    has_accepted(pen, others + count as u64);
    clients
}

/// Has it speak, and returns the greeting of whoever hears that.
fn speaks(mut client: &TcpStream) -> Option<String> {
    client.write_all(b"!").unwrap();
    read_line(client)
}

#[track_caller]
fn is_closed(client: &TcpStream) {
    let (bytes, ending) = read_all(client);
    assert!(bytes.is_empty() && ending == Ending::EndOfStream, "{bytes:?} {ending:?}");
}

/// peek: the first byte decides that there will be a server, and is passed on with the rest.
#[test]
fn no_server_hears_of_a_client_that_is_silent() {
    only_ours!("it never chooses a server");
    let server = Backend::greeter("G");
    let pen = peeking(&["-t", "3"], &[], &[&server]);
    let clients = silent(&pen, 3, 0);
    assert_eq!(server.accepted(), 0);
    assert_eq!(speaks(&clients[1]).as_deref(), Some("G"));
    assert_eq!(server.accepted(), 1, "for the one that spoke");
    let held = Held { stream: clients[1].try_clone().unwrap(), name: "G".to_owned() };
    (&held.stream).write_all(b"\n").unwrap();
    assert_eq!(read_line(&held.stream).as_deref(), Some("!"));
    assert!(held.echoes());
    drop((clients, held));
    nothing_is_left(&pen);
    assert_eq!(server.accepted(), 1);
}

/// peek, ssl_handshake_timeout: a silent client is closed; one that has spoken may be silent from then on.
#[test]
fn silence_is_bounded() {
    only_ours!("it never ends it");
    let server = Backend::greeter("G");
    let pen = peeking(&[], &["ssl_handshake_timeout 1"], &[&server]);
    let spoken = pen.connect();
    assert_eq!(speaks(&spoken).as_deref(), Some("G"));
    for _ in 0..2 {
        [(); 2].map(|()| pen.connect()).iter().for_each(is_closed);
    }
    (&spoken).write_all(b"\n").unwrap();
    assert_eq!(read_line(&spoken).as_deref(), Some("!"));
    drop(spoken);
    nothing_is_left(&pen);
    assert_eq!(server.accepted(), 1);
}

/// peek: whoever ends without a word is closed at once; whoever has said all that it will is answered.
#[test]
fn clients_that_end_their_stream() {
    only_ours!("it never chooses a server");
    let server = Backend::web("S");
    let pen = peeking(&[], &["ssl_handshake_timeout 60"], &[&server]);
    let ended = pen.connect();
    ended.shutdown(Shutdown::Write).unwrap();
    is_closed(&ended);
    let reset = silent(&pen, 1, 0).remove(0);
    crate::support::client::reset(reset);
    nothing_is_left(&pen);
    assert_eq!(server.accepted(), 0);
    let whole = pen.connect();
    (&whole).write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    whole.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&whole).0.ends_with(b"S"));
}

/// peek: what the client has said goes to the server that takes it, however many do not.
#[test]
fn what_was_said_reaches_the_next_server() {
    only_ours!("it never chooses a server");
    let mut refusing = Backend::web("R");
    refusing.down();
    let (hanging, server) = (Backend::hanging("H"), Backend::web("S"));
    let pen = peeking(&["-r", "-b", "0", "-t", "1"], &[], &[&refusing, &hanging, &server]);
    for _ in 0..3 {
        let client = silent(&pen, 1, 0).remove(0);
        assert_eq!(request(client, "/path"), "S");
    }
    assert!(server.notes().iter().all(|head| head.starts_with("GET /path ")), "{:?}", server.notes());
    nothing_is_left(&pen);
}

/// client_acl: whom nobody takes is closed at once. The abuse server is a server, too.
#[test]
fn refused_clients_are_waited_for_where_there_is_an_abuse_server() {
    only_ours!("it never chooses a server");
    let (server, abuse) = (Backend::greeter("G"), Backend::greeter("B"));
    let commands =
        ["acl 1 deny 127.0.0.2", "acl 1 permit 0.0.0.0/0", "client_acl 1", "ssl_handshake_timeout 60"];
    let pen = peeking(&[], &commands, &[&server]);
    is_closed(&pen.connect_from("127.0.0.2"));
    let pen = peeking(&["-B", &abuse.to_string()], &commands, &[&server]);
    let bad = pen.connect_from("127.0.0.2");
    let good = silent(&pen, 1, 1).remove(0);
    assert_eq!((abuse.accepted(), server.accepted()), (0, 0));
    assert_eq!(speaks(&bad).as_deref(), Some("B"));
    assert_eq!(speaks(&good).as_deref(), Some("G"));
}

/// peek: with TLS the handshake is what a client says.
#[test]
fn a_handshake_is_enough() {
    only_ours!("it knows no such thing");
    let ((_, identity), server, files) = (tls::usual(), Backend::greeter("G"), Scratch::new());
    let options = ["-O", "peek", "-O", "ssl_handshake_timeout 60"];
    let pen = tls::pen_as(identity, &files, &options).servers([&server]).controlled().start();
    let shy = silent(&pen, 1, 0);
    assert_eq!(server.accepted(), 0);
    let mut client = Client::careless().open(&pen);
    assert_eq!(client.read_line().as_deref(), Some("G"));
    drop(shy);
}

/// peek: it is for new connections that it is turned on and off. Those that wait are looked after as things are when
/// they speak.
#[test]
fn settings_can_change_while_clients_are_silent() {
    only_ours!("it never chooses a server");
    let (a, b) = (Backend::greeter("A"), Backend::greeter("B"));
    let options = ["-O", "ssl_handshake_timeout 60", "-r"];
    let pen = Pen::with(&options).servers([&a]).workers(1).controlled().start();
    assert_eq!(pen.hold().name, "A", "it need not speak");
    pen.tell("peek");
    let clients = silent(&pen, 5, 0);
    pen.tell(&format!("server 0 address 127.0.0.1 port {}", b.port()));
    assert_eq!(speaks(&clients[0]).as_deref(), Some("B"));
    // Before the worker has heard of it.
    let back = format!("server 0 address 127.0.0.1 port {}", a.port());
    pen.change_unseen(&[back.as_str()], || (&clients[1]).write_all(b"!").unwrap());
    assert_eq!(read_line(&clients[1]).as_deref(), Some("A"));
    pen.tell("no peek");
    assert_eq!(pen.hold().name, "A");
    assert_eq!((a.accepted(), b.accepted()), (3, 1), "three are silent still");
    assert_eq!(speaks(&clients[2]).as_deref(), Some("A"));
    // What it says is a name now.
    let names = format!("server 1 address 127.0.0.1 port {} sni b.test", b.port());
    assert_eq!(pen.batch(&["ssl_passthrough sni", &names]), "");
    for mut client in &clients[3..] {
        client.write_all(&tls::client_hello("b.test")).unwrap();
        assert_eq!(read_line(client).as_deref(), Some("B"));
    }
    drop(clients);
    nothing_is_left(&pen);
}

/// DESCRIPTION: a worker that is killed takes its connections with it, and nothing else.
#[test]
fn the_slots_of_silent_clients_of_a_dead_worker_are_free() {
    only_ours!("it has no workers");
    let server = Backend::greeter("G");
    let pen = peeking(&["-x", "4"], &["ssl_handshake_timeout 60"], &[&server]);
    for _ in 0..3 {
        let clients = silent(&pen, 4, 0);
        pen.workers().into_iter().for_each(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap());
        for client in clients {
            let (bytes, ending) = read_all(&client);
            assert!(bytes.is_empty() && ending != Ending::Open, "{ending:?}");
        }
        nothing_is_left(&pen);
    }
    assert_eq!(speaks(&pen.connect()).as_deref(), Some("G"));
}

/// peek, -x: silent clients hold up others, but not for ever.
#[test]
fn silent_clients_make_room_in_time() {
    only_ours!("it never ends them");
    let server = Backend::greeter("G");
    let pen = peeking(&["-x", "4"], &["ssl_handshake_timeout 3"], &[&server]);
    let _crowd = silent(&pen, 4, 0);
    assert_eq!(speaks(&pen.connect()).as_deref(), Some("G"));
    nothing_is_left(&pen);
}
