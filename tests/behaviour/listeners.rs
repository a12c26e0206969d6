//! Several listeners, of both protocols: what they share, how they come and go, and what cannot be.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::backend::{greeters, webs};
use crate::support::{Backend, Held, Pen, SOON, Scratch, client, free_port, only_ours, wait_until};

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// One request to this address; the answer's body, or `closed`.
#[track_caller]
fn visit(address: SocketAddr) -> String {
    client::request(client::connect(Ipv4Addr::LOCALHOST.into(), address).expect("pen accepts"), "/")
}

/// The same through a Unix socket.
#[track_caller]
fn visit_path(path: &str) -> String {
    let mut stream = UnixStream::connect(path).expect("pen accepts");
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").map_or(text.clone(), |(_, body)| body.to_owned())
}

fn refuses(port: u16) -> bool {
    TcpStream::connect(at(port)).is_err()
}

fn server(backend: &Backend) -> String {
    format!("server 0 address 127.0.0.1 port {}\n", backend.port())
}

/// pen(1), listen: several places, the same servers.
#[test]
fn clients_are_served_wherever_they_come_in() {
    only_ours!("it has one listener");
    let s = webs(1);
    let scratch = Scratch::new();
    let (first, second, path) = (free_port(), free_port(), scratch.file("sock"));
    let listen = format!("listen tcp 127.0.0.1:{first}\nlisten tcp 127.0.0.1:{second}\nlisten tcp {path}\n");
    let file = scratch.write("cfg", format!("{listen}{}", server(&s[0])));
    let mut pen = Pen::with(&["-F", &file]).listen(format!("127.0.0.1:{first}")).workers(2).start();
    let all = || {
        for _ in 0..20 {
            assert_eq!([visit(at(first)), visit(at(second)), visit_path(&path)], ["S0", "S0", "S0"]);
        }
    };
    all();
    for worker in pen.workers() {
        kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
        wait_until("another has its place", || {
            let workers = pen.workers();
            workers.len() == 2 && !workers.contains(&worker)
        });
        all();
    }
    assert_eq!(pen.end_with(Signal::SIGTERM), Some(0));
    assert!(!Path::new(&path).exists(), "its path goes with pen");
}

/// A reload that takes one away and adds another: what stays is not touched, and connections go on.
#[test]
fn listeners_come_and_go_with_the_settings() {
    only_ours!("it has one listener");
    let g = greeters(1);
    let scratch = Scratch::new();
    let (first, second, third, path) = (free_port(), free_port(), free_port(), scratch.file("sock"));
    let server = server(&g[0]);
    let listen = |ports: &[u16]| -> String {
        ports.iter().map(|port| format!("listen tcp 127.0.0.1:{port}\n")).collect()
    };
    let file = scratch.write(
        "cfg",
        format!("listen 127.0.0.1:{first}\nlisten tcp 127.0.0.1:{second}\nlisten tcp {path}\n{server}"),
    );
    let pen = Pen::with(&["-F", &file]).listen(format!("127.0.0.1:{first}")).workers(3).controlled().start();
    let hold = |port| Held::greeted(client::connect(Ipv4Addr::LOCALHOST.into(), at(port)).unwrap());
    let held: Vec<Held> = (0..6).flat_map(|_| [hold(first), hold(second)]).collect();
    let (workers, inode) = (pen.workers(), socket_of(first));
    scratch.write("cfg", listen(&[first, third]) + &server);
    assert_eq!(pen.ask("reload"), "ok\n");
    assert!(held.iter().all(Held::echoes));
    assert!(refuses(second) && !Path::new(&path).exists());
    assert_eq!((hold(first).name, hold(third).name), ("G0".into(), "G0".into()));
    assert_eq!((pen.workers(), socket_of(first)), (workers.clone(), inode.clone()));
    // In another order, and back again.
    scratch.write("cfg", format!("listen tcp {path}\n{}{server}", listen(&[second, third, first])));
    assert_eq!(pen.ask("reload"), "ok\n");
    assert!(held.iter().all(Held::echoes));
    assert_eq!([first, second, third].map(|port| hold(port).name), ["G0"; 3]);
    UnixStream::connect(&path).unwrap();
    // By commands, too.
    pen.ask(&format!("no listen tcp 127.0.0.1:{third}"));
    assert!(refuses(third));
    pen.ask(&format!("listen 127.0.0.1:{first}"));
    assert!(refuses(second) && !Path::new(&path).exists());
    assert_eq!((hold(first).name, socket_of(first)), ("G0".into(), inode));
    assert!(held.iter().all(Held::echoes));
    assert_eq!(pen.workers(), workers);
}

/// diff: one that only comes is no matter of those who are connected; one that goes is.
#[test]
fn only_a_listener_that_goes_touches_connections() {
    only_ours!("it has one listener");
    let g = greeters(1);
    let scratch = Scratch::new();
    let (first, second) = (free_port(), free_port());
    let both = format!("listen tcp 127.0.0.1:{first}\nlisten tcp 127.0.0.1:{second}\n");
    let file = scratch.write("cfg", format!("listen 127.0.0.1:{first}\n{}", server(&g[0])));
    let pen = Pen::with(&["-F", &file]).listen(format!("127.0.0.1:{first}")).controlled().start();
    let held = Held::greeted(client::connect(Ipv4Addr::LOCALHOST.into(), at(first)).unwrap());
    scratch.write("cfg", both + &server(&g[0]));
    assert_eq!(pen.ask("diff"), format!("+ listen tcp 127.0.0.1:{second}\n"));
    assert_eq!(pen.ask("reload"), "ok\n");
    scratch.write("cfg", format!("listen 127.0.0.1:{second}\n{}", server(&g[0])));
    assert_eq!(pen.ask("diff"), format!("- listen tcp 127.0.0.1:{first} # 1 connection stay\n"));
    assert!(held.echoes());
}

/// The kernel's number for the socket that listens on this port.
fn socket_of(port: u16) -> String {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut listening = lines.filter(|words| words[1].ends_with(&local) && words[3] == "0A");
    listening.next().expect("somebody listens").get(9).unwrap().to_string()
}

/// With no room left, clients of one listener do not take each place that becomes free from those of the other.
#[test]
fn listeners_take_turns_when_there_is_no_room() {
    only_ours!("it has one listener");
    let g = greeters(1);
    let scratch = Scratch::new();
    let (first, second) = (free_port(), free_port());
    let listen = format!("listen tcp 127.0.0.1:{first}\nlisten tcp 127.0.0.1:{second}\n");
    let file = scratch.write("cfg", format!("{listen}{}", server(&g[0])));
    let pen = Pen::with(&["-x", "1", "-F", &file])
        .listen(format!("127.0.0.1:{first}"))
        .workers(1)
        .controlled()
        .start();
    let come = |port| client::connect(Ipv4Addr::LOCALHOST.into(), at(port)).unwrap();
    for (busy, quiet) in [(first, second), (second, first)] {
        let mut served = come(busy);
        assert_eq!(client::read_line(&served).as_deref(), Some("G0"));
        let mut waiting: Vec<TcpStream> = (0..6).map(|_| come(busy)).collect();
        waiting.push(come(quiet));
        let mut order = Vec::new();
        while !waiting.is_empty() {
            drop(served);
            let greeted = |it: &TcpStream| {
                it.set_nonblocking(true).unwrap();
                let greeted = it.peek(&mut [0]).is_ok_and(|length| length > 0);
                it.set_nonblocking(false).unwrap();
                greeted
            };
            wait_until("the next one is served", || waiting.iter().any(greeted));
            let next = waiting.iter().position(greeted).unwrap();
            served = waiting.remove(next);
            order.push(served.peer_addr().unwrap().port());
        }
        let turn = order.iter().position(|port| *port == quiet).unwrap();
        assert!(turn < 2, "{quiet} has waited for {order:?}");
        drop(served);
        wait_until("the last one is gone", || pen.ask("servers").contains(" conn 0 "));
    }
}

/// All or nothing: with one that cannot be opened no listener changes, and it is said which it is.
#[test]
fn one_that_cannot_be_opened_leaves_all_as_they_were() {
    only_ours!("it has one listener");
    let s = webs(1);
    let scratch = Scratch::new();
    let (first, second, new) = (free_port(), free_port(), free_port());
    let server = server(&s[0]);
    let listen = format!("listen 127.0.0.1:{first}\nlisten tcp 127.0.0.1:{second}\n");
    let file = scratch.write("cfg", format!("{listen}{server}"));
    let pen = Pen::with(&["-F", &file]).listen(format!("127.0.0.1:{first}")).controlled().start();
    let taken = TcpListener::bind(at(0)).unwrap();
    let address = taken.local_addr().unwrap();
    let path = scratch.file("sock");
    scratch.write(
        "cfg",
        format!("listen tcp {path}\nlisten tcp 127.0.0.1:{new}\nlisten tcp {address}\nblacklist 7\n{server}"),
    );
    let refusal = format!("error: {file}:3: cannot listen on {address}: ");
    for command in ["check", "diff", "reload"] {
        let reply = pen.ask(command);
        assert!(reply.starts_with(&refusal) && reply.lines().count() == 1, "{command}: {reply}");
    }
    assert_eq!((visit(at(first)), visit(at(second))), ("S0".into(), "S0".into()));
    assert!(refuses(new) && !Path::new(&path).exists());
    assert_eq!(pen.ask("blacklist"), "30\n");
    let before = pen.ask("listen");
    assert_eq!(before, format!("tcp 127.0.0.1:{first}\ntcp 127.0.0.1:{second}\n"));
    let beside = pen.ask(&format!("listen tcp {first}"));
    let words = format!("cannot listen on 0.0.0.0:{first} beside 127.0.0.1:{first}");
    assert!(beside.contains(&words), "{beside}");
    assert_eq!(pen.ask("listen"), before);
    drop(taken);
    assert_eq!(pen.ask("reload"), "ok\n");
    assert_eq!((visit(address), visit(at(new)), visit_path(&path)), ("S0".into(), "S0".into(), "S0".into()));
}

/// A start that fails with the last listener leaves nothing of the first ones.
#[test]
fn a_start_opens_all_or_leaves_nothing() {
    only_ours!("it has one listener");
    let s = webs(1);
    let scratch = Scratch::new();
    let taken = TcpListener::bind(at(0)).unwrap();
    let (address, path, port) = (taken.local_addr().unwrap(), scratch.file("sock"), free_port());
    let file = scratch.write(
        "cfg",
        format!("listen tcp {path}\nlisten tcp 127.0.0.1:{port}\nlisten tcp {address}\n{}", server(&s[0])),
    );
    let ended = Pen::with(&["-F", &file]).run();
    assert_eq!(ended.code(), 1);
    let words = format!("cannot listen on {address}: Address already in use; another program listens there");
    assert!(ended.stderr.to_lowercase().contains(&words.to_lowercase()), "{}", ended.stderr);
    assert!(!Path::new(&path).exists() && refuses(port));
}

/// pen(1), listen: what can never be is said by `--check` as by a start.
#[test]
fn listeners_that_are_in_each_others_way_are_refused() {
    only_ours!("it has one listener");
    let s = webs(1);
    let scratch = Scratch::new();
    let port = free_port();
    let serving = server(&s[0]);
    let clashes = [
        (
            format!("listen tcp 127.0.0.1:{port}\nlisten tcp {port}\n{serving}"),
            format!("cannot listen on 0.0.0.0:{port} beside 127.0.0.1:{port}"),
        ),
        (
            format!("listen udp [::1]:{port}\nlisten udp [::]:{port}\n{serving}"),
            format!("cannot listen on udp [::]:{port} beside udp [::1]:{port}"),
        ),
        (
            format!("listen tcp 127.0.0.1:{port}\nlisten udp {port}\nserver 0 address 127.0.0.1\n"),
            format!("server 0: udp 0.0.0.0:{port} is where pen itself listens"),
        ),
        (
            format!("listen udp {port}\nserver 0 address 127.0.0.2 port {port}\n"),
            format!("server 0: udp 0.0.0.0:{port} is where pen itself listens"),
        ),
        (
            format!(
                "listen udp localhost:{port}\nlisten udp 127.0.0.1:{port}\nlisten udp [::1]:{port}\n{serving}"
            ),
            format!(":{port}: it is the same address as udp localhost:{port}, "),
        ),
    ];
    for (text, words) in clashes {
        let file = scratch.write("cfg", text);
        for check in [&["--check"][..], &[]] {
            let ended = Pen::with(&[check, &["-F", &file]].concat()).run();
            assert!(ended.code() != 0 && ended.stderr.contains(&words), "{check:?} {ended:?}");
        }
    }
    let file = scratch.write("cfg", format!("listen tcp 127.0.0.1:{port}\n{serving}"));
    let control = format!("127.0.0.1:{port}");
    let user = if nix::unistd::geteuid().is_root() { &["-u", "root"][..] } else { &[] };
    for check in [&["--check"][..], &[]] {
        let ended = Pen::with(&[check, user, &["-F", &file, "-C", &control]].concat()).run();
        let words = format!("control port: cannot listen on 127.0.0.1:{port} twice");
        assert!(ended.code() != 0 && ended.stderr.contains(&words), "{check:?} {ended:?}");
    }
}

/// A server for datagrams that sends back what comes, until the test ends.
fn echo() -> SocketAddr {
    let socket = UdpSocket::bind(at(0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut room) {
            let _ = socket.send_to(&room[..length], from);
        }
    });
    address
}

/// A client with a port of its own sends until it hears an answer, as clients do.
#[track_caller]
fn is_answered(address: SocketAddr) {
    let socket = UdpSocket::bind(at(0)).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut room = [0; 64];
    wait_until("an answer comes", || {
        let _ = socket.send(b"hello");
        socket.recv(&mut room).is_ok_and(|length| room[..length] == *b"hello")
    });
}

/// However many workers there are, each socket of the group is read: clients of all ports are answered.
#[test]
fn datagrams_are_read_whoever_is_there_to_read_them() {
    only_ours!("it has one process");
    let (tcp, udp) = (free_port(), free_port());
    let scratch = Scratch::new();
    let file = scratch.write(
        "cfg",
        format!(
            "listen tcp 127.0.0.1:{tcp}\nlisten udp 127.0.0.1:{udp}\nudp_timeout 1\nserver 0 address 127.0.0.1 port {}\n",
            echo().port()
        ),
    );
    let pen = Pen::with(&["-F", &file]).listen(format!("127.0.0.1:{tcp}")).workers(3).controlled().start();
    let all = || (0..24).for_each(|_| is_answered(at(udp)));
    all();
    for workers in [1, 2, 5, 4] {
        pen.ask(&format!("workers {workers}"));
        all();
        let victim = pen.workers()[0];
        kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
        all();
    }
    // One that comes later, and one that goes.
    let other = free_port();
    pen.ask(&format!("listen udp 127.0.0.1:{other}"));
    is_answered(at(other));
    all();
    pen.ask(&format!("no listen udp 127.0.0.1:{udp}"));
    (0..8).for_each(|_| is_answered(at(other)));
    // Those that retire may still have flows there.
    wait_until("nobody has its address any more", || UdpSocket::bind(at(udp)).is_ok());
}

/// A second pen must not take datagrams from the first, whoever starts it; with TCP it is no different.
#[test]
fn two_pens_cannot_have_one_address() {
    only_ours!("it would not notice");
    let port = free_port();
    let server = echo();
    let file_of = |listen: &str| {
        let scratch = Scratch::new();
        let file =
            scratch.write("cfg", format!("{listen}server 0 address 127.0.0.1 port {}\n", server.port()));
        (scratch, file)
    };
    let tcp = free_port();
    let (_scratch, both) = file_of(&format!("listen tcp 127.0.0.1:{tcp}\nlisten udp 127.0.0.1:{port}\n"));
    let pen = Pen::with(&["-F", &both]).listen(format!("127.0.0.1:{tcp}")).controlled().start();
    for address in [format!("127.0.0.1:{port}"), format!("{port}")] {
        let ended = Pen::with(&["-U"]).listen(&address).servers([server]).run();
        assert!(ended.code() != 0 && ended.stderr.contains("another program listens there"), "{ended:?}");
    }
    is_answered(at(port));
    // With TCP the port is free, for another pen as for this one.
    let (_scratch, other) = file_of(&format!("listen tcp 127.0.0.1:{port}\n"));
    let second = Pen::with(&["-F", &other]).listen(format!("127.0.0.1:{port}")).start();
    drop(second);
    assert!(!pen.ask(&format!("listen tcp 127.0.0.1:{port}")).starts_with("error"));
    is_answered(at(port));
    assert!(!refuses(port));
}
