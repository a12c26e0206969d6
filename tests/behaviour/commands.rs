//! Commands of the control port: each is in effect in every worker when its reply has come, and no connection that
//! exists notices.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::backend::{greeters, webs};
use crate::support::{
    Backend, Ending, Held, Pen, SOON, became_true, client, free_port, only_ours, processes, wait_until,
};

fn server(number: u32, backend: &Backend) -> String {
    format!("server {number} address 127.0.0.1 port {}", backend.port())
}

/// The first words of all lines of a reply.
fn lines(reply: &str) -> Vec<&str> {
    reply.lines().collect()
}

/// What the next connection finds is what was asked for, whichever worker it comes to.
#[test]
fn a_command_is_in_effect_everywhere_when_it_is_answered() {
    only_ours!("it refuses control once list 1 is used for clients and servers alike"); // and -f with select
    let s = webs(2);
    let pen = Pen::with(&["-r"]).servers(&s).workers(4).controlled().start();
    pen.tell("acl 1 deny 127.0.0.9");
    for round in 0..20 {
        assert_eq!(pen.ask("client_acl 1"), "1\n");
        for _ in 0..8 {
            assert_eq!(pen.visit_from("127.0.0.9"), "closed", "round {round}");
        }
        assert_eq!(pen.ask("client_acl 0"), "0\n");
        for _ in 0..8 {
            assert_ne!(pen.visit_from("127.0.0.9"), "closed", "round {round}");
        }
        pen.tell("server 1 blacklist 100");
        assert_eq!(pen.visits(8), ["S0"; 8].join(" "), "round {round}");
        pen.tell("server 1 blacklist 0");
        assert!(pen.visits(4).contains("S1"), "round {round}");
    }
}

/// pen(1), server: servers are added, changed and, by port 0, taken out; their connections stay.
#[test]
fn servers_come_change_and_go() {
    let g = greeters(1);
    let s = webs(2);
    let pen = Pen::with(&["-r"]).servers(&g).controlled().start();
    let held = pen.hold();
    pen.tell(&server(5, &s[0]));
    assert!(pen.ask("servers").lines().count() == 6, "{}", pen.ask("servers"));
    pen.tell("server 0 port 0");
    assert_eq!(pen.visits(4), "S0 S0 S0 S0");
    assert!(held.echoes(), "the connection to the server that was taken out has ended");
    pen.tell(&format!("{} max 7", server(5, &s[1])));
    assert_eq!(pen.visits(3), "S1 S1 S1");
    let row = format!("5 addr 127.0.0.1 port {} conn 0 max 7 hard 0 weight 0 prio 0", s[1].port());
    wait_until("the connection is counted out", || pen.ask("servers").contains(&row));
}

/// pen(1), listen: the new address serves, the old one does not any more, connections stay.
#[test]
fn the_listener_moves() {
    let g = greeters(1);
    let pen = Pen::with(&["-r"]).servers(&g).workers(3).controlled().start();
    let held = pen.hold();
    let port = free_port();
    let spec = format!("127.0.0.1:{port}");
    assert_eq!(pen.ask(&format!("listen {spec}")), format!("{spec}\n"));
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    for _ in 0..8 {
        let new = Held::greeted(client::connect(Ipv4Addr::LOCALHOST.into(), to).unwrap());
        assert_eq!(new.name, "G0");
    }
    assert!(TcpStream::connect(pen.address).is_err(), "the old address is still open");
    assert!(held.echoes());
    assert_eq!(pen.ask("listen"), format!("{spec}\n"));
}

/// A listener or a log that cannot be opened leaves everything as it was.
#[test]
fn what_cannot_be_opened_changes_nothing() {
    only_ours!("it ends");
    let s = webs(1);
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let pen = Pen::with(&["-l", "SCRATCH/log"]).servers(&s).controlled().start();
    let listen = pen.ask("listen");
    for command in [
        "listen 192.0.2.1:80".to_owned(),
        format!("listen 127.0.0.1:{}", taken.local_addr().unwrap().port()),
        "listen 127.0.0.1:70000".to_owned(),
        "log /no/such/directory/log".to_owned(),
        "geoip /no/such/database".to_owned(),
        "server 0 address no..name".to_owned(),
        "server 0 port 70000".to_owned(),
        "timeout 0".to_owned(),
        "no acl".to_owned(),
        "source".to_owned(),
        "idlers 3".to_owned(),
        "ssl_min_version 1".to_owned(),
        "drain 7".to_owned(),
        "acl 1 permit country SE".to_owned(),
        "include /no/such/file".to_owned(),
        "workers 0".to_owned(),
    ] {
        let reply = pen.ask(&command);
        assert!(reply.starts_with("error: ") && reply.ends_with('\n'), "{command}: {reply:?}");
    }
    // What was opened already goes with the change: the log that was made for it, the socket.
    let (log, socket) = (pen.scratch.file("new"), pen.scratch.file("socket"));
    std::os::unix::fs::symlink(pen.scratch.file("behind"), pen.scratch.file("link")).unwrap();
    let link = pen.scratch.file("link");
    let clash = format!("listen {}", taken.local_addr().unwrap());
    for batch in [
        [format!("log {log}"), clash.clone()],
        [format!("log {link}"), clash],
        ["log /no/such/directory/log".to_owned(), format!("listen {socket}")],
    ] {
        assert!(pen.batch(&[&batch[0], &batch[1]]).starts_with("error: "), "{batch:?}");
    }
    let left = |path: &str| std::fs::symlink_metadata(path).is_ok();
    assert!(!left(&log) && !left(&socket) && !left(&pen.scratch.file("behind")) && left(&link));
    let everywhere = format!("0.0.0.0:{}", pen.address.port());
    let reply = pen.ask(&format!("listen {everywhere}"));
    assert!(reply.starts_with(&format!("error: cannot listen on {everywhere} beside 127.0.0.1:")), "{reply}");
    assert_eq!(pen.ask("listen"), listen);
    assert_eq!(pen.ask("log"), format!("{}\n", pen.scratch.file("log")));
    assert_eq!(pen.visits(2), "S0 S0");
    wait_until("the log is written", || pen.scratch.read("log").lines().count() == 2);
}

/// pen(1), CONTROL PORT: each change goes to the messages. What is so already is none, and costs the workers nothing.
#[test]
fn what_is_so_already_is_no_change() {
    only_ours!("it says nothing of changes");
    let pen = Pen::with(&[]).servers(webs(1)).controlled().start();
    for command in ["hash", "hash", "no http", "blacklist 30", "server 0", "blacklist 31", "conn_max 9"] {
        pen.ask(command);
    }
    let told = pen.stderr();
    let changes: Vec<&str> =
        told.lines().filter_map(|line| line.split_once("control: ")).map(|it| it.1).collect();
    let expected = ["hash: in force now (generation 2)", "blacklist 31: in force now (generation 3)"];
    assert_eq!(changes, expected);
}

/// pen(1), CONTROL PORT: an unknown command is said to be one, in one line; one behind `no` is in the messages alone.
#[test]
fn what_is_no_command_is_answered_in_the_classics_words() {
    only_ours!("it escapes nothing, and has other messages");
    let pen = Pen::with(&[]).servers(webs(1)).controlled().start();
    for (line, word) in [("foo bar", "foo"), ("\u{1b}[2J", r"\u{1b}[2J")] {
        assert_eq!(pen.ask(line), format!("do_cmd: ignoring command starting with '{word}'\n"));
    }
    pen.tell("no stuborn");
    assert!(pen.stderr().contains("ignoring command starting with 'no stuborn'"), "{}", pen.stderr());
}

/// pen(1), log: requests go to the new log from the reply on; `no log` ends it.
#[test]
fn the_log_moves() {
    let s = webs(1);
    let pen = Pen::with(&["-l", "SCRATCH/a"]).servers(&s).workers(2).controlled().start();
    pen.visit();
    let b = pen.scratch.file("b");
    assert_eq!(pen.ask(&format!("log {b}")), format!("{b}\n"));
    pen.visits(3);
    pen.tell("no log");
    pen.visits(2);
    assert_eq!(pen.ask("log"), "");
    wait_until("all lines are written", || pen.scratch.read("b").lines().count() == 3);
    assert_eq!(pen.scratch.read("a").lines().count(), 1);
}

/// pen(1), close: one connection ends, the others do not; its place is free again.
#[test]
fn one_connection_is_closed() {
    let g = greeters(1);
    let pen = Pen::with(&["-r"]).servers(&g).workers(3).controlled().start();
    let held = pen.hold_many(5);
    // Which numbers they have depends on which worker took which.
    let shown = (0..20).map(|number| (number, pen.ask(&format!("connection {number}"))));
    let open: Vec<_> = shown.filter(|(_, reply)| reply.contains("state = 2\n")).collect();
    assert_eq!(open.len(), 5, "{open:?}");
    let (number, reply) = &open[2];
    assert_eq!(lines(reply)[0], format!("Connection {number}:"));
    assert!(reply.contains("server = 0\n"), "{reply}");
    assert_eq!(pen.ask(&format!("close {number}")), format!("Forcibly closing connection {number}\n"));
    let ended = || held.iter().filter(|it| it.ending(Duration::from_millis(1)) != Ending::Open).count();
    wait_until("one connection has ended", || ended() >= 1);
    assert!(became_true(Duration::from_millis(300), || ended() > 1).is_none(), "more than one was closed");
    wait_until("it is counted out", || pen.ask("servers").contains("conn 4"));
    for beyond in [500, 999] {
        assert_eq!(pen.ask(&format!("close {beyond}")), format!("Connection {beyond} out of range\n"));
    }
    assert_eq!(pen.ask("connection 500"), "Connection 500 out of range\n");
}

/// Closing what is no connection harms no count.
#[test]
fn closing_an_unused_slot_does_nothing() {
    only_ours!("it counts wrongly afterwards");
    let g = greeters(1);
    let pen = Pen::with(&[]).servers(&g).controlled().start();
    let held = pen.hold();
    assert_eq!(pen.ask("close 400"), "Forcibly closing connection 400\n");
    assert!(pen.ask("servers").contains("conn 1") && held.echoes());
}

/// pen(1), socket: to which connection a descriptor belongs.
#[test]
fn a_descriptor_leads_to_its_connection() {
    let g = greeters(1);
    let pen = Pen::with(&[]).servers(&g).workers(1).controlled().start();
    let _held = pen.hold();
    let reply = pen.ask("connection 0");
    let fds = reply.lines().find(|line| line.starts_with("downfd")).unwrap();
    let down: i32 = fds.split([' ', ',']).nth(2).unwrap().parse().unwrap();
    assert_eq!(pen.ask(&format!("socket {down}")), format!("Socket {down} belongs to connection 0\n"));
    assert_eq!(pen.ask("socket 200"), "Socket 200 belongs to connection -1\n");
}

/// pen(1), exit: only with -X.
#[test]
fn exit_must_be_enabled() {
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    assert_eq!(pen.ask("exit"), "Exit is not enabled; restart with -X flag\n");
    assert_eq!(pen.visit(), "S0");
    let mut pen = Pen::with(&["-X"]).servers(&s).controlled().start();
    assert_eq!(pen.ask("exit"), "");
    assert_eq!(pen.wait_for_end().unwrap().code(), Some(0));
}

/// pen(1), workers: more at once; fewer by letting the last ones finish.
#[test]
fn workers_come_and_go() {
    only_ours!("it has no workers");
    let g = greeters(1);
    let pen = Pen::with(&["-r"]).servers(&g).workers(2).controlled().start();
    assert_eq!(pen.ask("workers 5"), "5\n");
    wait_until("there are five", || pen.workers().len() == 5);
    // Each of them has connections.
    let mut held = Vec::new();
    wait_until("all workers have connections", || {
        held.extend(pen.hold_many(10));
        let owners = pen.owners_of(&held);
        pen.workers().iter().all(|worker| owners.contains(worker))
    });
    let before = pen.workers();
    assert_eq!(pen.ask("workers 2"), "2\n");
    assert!(held.iter().all(Held::echoes), "a connection has ended");
    let staying = &before[..2];
    let newcomers = pen.hold_many(20);
    assert!(
        pen.owners_of(&newcomers).iter().all(|owner| staying.contains(owner)),
        "a retiring worker accepts"
    );
    assert_eq!(pen.workers().len(), 5, "those with connections are there until these end");
    drop(held);
    wait_until("the retired ones are gone", || pen.workers() == staying);
    assert!(newcomers.iter().all(Held::echoes));
    assert_eq!(pen.ask("workers 3"), "3\n");
    wait_until("there are three", || pen.workers().len() == 3);
    assert!(pen.ask("servers").contains(&format!("conn {}", newcomers.len())), "{}", pen.ask("servers"));
}

/// The same with traffic: nobody is refused or cut off while the number changes again and again.
#[test]
fn nobody_notices_how_many_workers_there_are() {
    only_ours!("it has no workers");
    let s = webs(2);
    let pen = Pen::with(&["-r"]).servers(&s).workers(1).controlled().start();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut served = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let name = pen.visit();
                        assert!(name == "S0" || name == "S1", "{name}");
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for count in [4, 1, 3, 2, 6, 1, 2].into_iter().cycle().take(28) {
            assert_eq!(pen.ask(&format!("workers {count}")), format!("{count}\n"));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
    wait_until("the last number is reached", || pen.workers().len() == 2);
    wait_until("all is counted out", || !pen.ask("servers").contains("conn 1"));
}

/// pen(1), drain: no new clients; known ones and connections stay. With `all`, no new connections.
#[test]
fn a_drained_server_takes_nobody_new() {
    only_ours!("it cannot");
    let g = greeters(2);
    let pen = Pen::with(&[]).servers(&g).workers(2).controlled().start();
    let known = pen.hold_from("127.0.0.2"); // round robin begins with 1
    assert_eq!(known.name, "G1");
    pen.tell("drain 1");
    assert!(known.echoes());
    for client in 10..16 {
        assert_eq!(pen.hold_from(&format!("127.0.0.{client}")).name, "G0");
    }
    assert_eq!(pen.hold_from("127.0.0.2").name, "G1", "a client that it knows");
    assert!(lines(&pen.ask("servers"))[1].ends_with(" drain new"), "{}", pen.ask("servers"));
    pen.tell("drain 1 all");
    assert_eq!(pen.hold_from("127.0.0.2").name, "G0");
    assert!(known.echoes());
    pen.tell("undrain 1");
    let back: Vec<_> = (20..24).map(|client| pen.hold_from(&format!("127.0.0.{client}")).name).collect();
    assert!(back.contains(&"G1".to_owned()), "{back:?}");
}

/// pen(1), explain: what it says is what then happens, and asking changes nothing.
#[test]
fn explain_says_what_will_happen() {
    only_ours!("it cannot");
    let s = webs(3);
    let pen = Pen::with(&[]).servers(&s).workers(2).controlled().start();
    for client in 2..9 {
        let address = format!("127.0.0.{client}");
        wait_until("the last visit is counted out", || !pen.ask("servers").contains("conn 1"));
        let reply = pen.ask(&format!("explain {address}"));
        assert_eq!(pen.ask(&format!("explain {address}")), reply, "asking has changed something");
        let name = pen.visit_from(&address);
        let port = s[name[1..].parse::<usize>().unwrap()].port();
        let verdict =
            reply.lines().find(|line| line.contains("goes to")).unwrap_or_else(|| panic!("{reply}"));
        assert!(verdict.contains(&port.to_string()), "{name}, but: {reply}");
    }
    assert_eq!(pen.ask("recent").lines().count(), 7, "whoever was asked for is no client");
    pen.tell("acl 1 deny 127.0.0.99");
    pen.ask("client_acl 1");
    let reply = pen.ask("explain 127.0.0.99");
    assert!(reply.contains("deny 127.0.0.99"), "{reply}");
    assert!(pen.ask("explain nobody").starts_with("error: "));
}

/// pen(1), limits: what is needed, granted and used.
#[test]
fn limits_are_shown() {
    only_ours!("it cannot");
    let g = greeters(1);
    let pen = Pen::with(&["-x", "50"]).servers(&g).controlled().start();
    let _held = pen.hold_many(3);
    let reply = pen.ask("limits");
    let connections =
        reply.lines().find(|line| line.starts_with("connections")).unwrap_or_else(|| panic!("{reply}"));
    assert!(connections.contains("50") && connections.contains('3'), "{reply}");
    for what in ["descriptors", "clients", "servers", "workers", "memory"] {
        assert!(reply.lines().any(|line| line.starts_with(what)), "{what}: {reply}");
    }
}

/// pen(1), status: the page, with and without a file for it.
#[test]
fn the_status_page_comes_over_the_control_port() {
    only_ours!("it needs -w");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    pen.visit();
    let page = pen.ask("status");
    assert!(page.contains("<title>Pen status page</title>") && page.contains("127.0.0.1"), "{page}");
    let file = pen.scratch.file("page");
    assert_eq!(pen.ask(&format!("web_stats {file}")), format!("{file}\n"));
    assert!(pen.ask("status").contains("Pen status page"));
    assert!(pen.scratch.read("page").contains("Pen status page"));
}

/// pen(1), clients_max, conn_max: tables grow while pen runs, and are used.
#[test]
fn tables_grow() {
    only_ours!("more connections than at the start break it");
    let g = greeters(1);
    let pen = Pen::with(&["-x", "2", "-c", "2"]).servers(&g).workers(2).controlled().start();
    let mut held = pen.hold_many(2);
    assert_eq!(pen.ask("conn_max 10"), "10\n");
    assert_eq!(pen.ask("clients_max 100"), "100\n");
    held.extend((2..10).map(|client| pen.hold_from(&format!("127.0.0.{client}"))));
    assert!(held.iter().all(Held::echoes));
    assert_eq!(pen.ask("recent").lines().count(), 9);
    assert_eq!(pen.ask("conn_max 5"), "10\n");
}

/// pen(1), idle_timeout: holds for connections that exist, at once.
#[test]
fn a_new_idle_timeout_ends_idle_connections() {
    let g = greeters(1);
    let pen = Pen::with(&["-r"]).servers(&g).controlled().start();
    let held = pen.hold();
    assert_eq!(pen.ask("idle_timeout 1"), "Idle timeout: 1 seconds\n");
    assert_ne!(held.ending(SOON), Ending::Open);
}

/// pen(1), write: a pen that is started with the file is like the one that wrote it.
#[test]
fn what_is_written_starts_the_same_pen() {
    let s = webs(3);
    let pen = Pen::with(&[]).servers(&s[..2]).controlled().start();
    for command in [
        "acl 1 permit 127.0.0.0 255.0.0.0",
        "acl 1 deny 10.0.0.0 255.0.0.0",
        "server 0 max 11 hard 12 weight 13 prio 14",
        "roundrobin",
        &server(2, &s[2]),
    ] {
        pen.tell(command);
    }
    assert_eq!(pen.ask("client_acl 1"), "1\n");
    assert_eq!(pen.ask("tracking 77"), "77\n");
    pen.tell(&format!("write {}", pen.scratch.file("cfg")));
    let (servers, written) = (pen.ask("servers"), pen.scratch.read("cfg"));
    assert!(written.starts_with("# Generated by pen "), "{written}");
    let other = Pen::with(&["-F", &pen.scratch.file("cfg")]).controlled().start();
    if crate::support::classic() {
        return; // weights and priorities are lost unless they are in use
    }
    assert_eq!(other.ask("servers"), servers, "{written}");
    assert_eq!(other.ask("mode"), "no hash roundrobin no stubborn no weight no prio\n");
    assert_eq!((other.ask("tracking"), other.ask("client_acl")), ("77\n".into(), "1\n".into()));
    other.tell(&format!("write {}", other.scratch.file("cfg")));
    let commands = |text: &str| {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(commands(&other.scratch.read("cfg")), commands(&written));
}

/// A link is followed, rights are kept, and what cannot be written is told.
#[test]
fn writing_replaces_what_a_link_leads_to() {
    only_ours!("it writes in place");
    use std::os::unix::fs::PermissionsExt;
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    let (file, link) = (pen.scratch.write("real.cfg", "blacklist 9\n"), pen.scratch.file("link.cfg"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    pen.tell(&format!("write {link}"));
    assert!(pen.scratch.read("real.cfg").contains("blacklist 30\n"));
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    for bad in ["/no/such/directory/cfg", "/dev/null", "/"] {
        assert!(pen.ask(&format!("write {bad}")).starts_with("error: "), "{bad}");
    }
    assert!(pen.ask("write").starts_with("error: "), "without -F there is no file");
}

/// pen(1), include: from the control port too; replies go to whoever asked.
#[test]
fn a_file_is_included() {
    only_ours!("replies go to its standard output, and a circle ends it");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    let file = pen.scratch.write("more", "blacklist 9\ntracking 5\nmode\n");
    assert_eq!(
        pen.ask(&format!("include {file}")),
        "9\n5\nno hash no roundrobin no stubborn no weight no prio\n"
    );
    let circle = pen.scratch.file("circle");
    pen.scratch.write("circle", format!("blacklist 3\ninclude {circle}\n"));
    let reply = pen.ask(&format!("include {circle}"));
    assert!(reply.starts_with("error: ") && reply.contains(&circle), "{reply}");
    assert_eq!(pen.ask("blacklist"), "9\n");
}

/// Messages about more are told from the reply on, in the master and in every worker.
#[test]
fn the_debug_level_changes() {
    only_ours!("its messages are others");
    let pen = Pen::with(&["-r"]).servers(["127.0.0.1:9"]).workers(2).controlled().start();
    assert_eq!(pen.ask("debug 1"), "1\n");
    pen.visit();
    wait_until("the refusal is told", || pen.stderr().contains("127.0.0.1:9"));
    assert!(processes::alive(pen.pid));
    pen.signal(Signal::SIGUSR1);
}
