//! How long flows last, how many there can be, and who goes when there are too many.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::support::client::read_line;
use crate::support::network::Network;
use crate::support::udp::{UdpClient, echoes, unread};
use crate::support::{
    Backend, Held, Pen, SOON, Scratch, UdpServer, client, free_port, let_pass, needs_root, only_ours,
    processes, wait_for, wait_until,
};

const WORKERS: [u32; 2] = [1, 4];

/// The column of the page that counts flows which ended because another needed their place.
const EVICTED: &str = "evicted";

/// The column of the page that counts datagrams for whose flow there was no room.
const NO_ROOM: &str = "lost: no room";

/// By which of pen's ports the server has heard this last.
#[track_caller]
fn flow(server: &UdpServer, what: &str) -> SocketAddr {
    let heard = server.heard();
    let last = heard.iter().rev().find(|heard| heard.bytes == what.as_bytes());
    last.unwrap_or_else(|| panic!("the server has not heard {what}")).from
}

/// udp_timeout: a flow over which nothing passes for so long has ended; the client's next datagram begins another.
#[test]
fn quiet_flows_end() {
    only_ours!("it has no such end");
    for workers in WORKERS {
        let s = echoes(1);
        let pen = Pen::with(&["-O", "udp_timeout 1"]).servers(&s).workers(workers).controlled().udp().start();
        let client = pen.udp();
        let before = Instant::now();
        client.ask("one");
        assert_eq!(pen.flows(), 1);
        pen.wait_for_no_flow();
        assert!(before.elapsed() >= Duration::from_millis(900), "after {:?} only", before.elapsed());
        assert_eq!(client.ask("two"), "S0");
        assert_ne!(flow(&s[0], "one"), flow(&s[0], "two"), "the same flow");
        pen.wait_for_no_flow();
    }
}

/// udp_timeout: what passes either way keeps a flow.
#[test]
fn busy_flows_do_not_end() {
    only_ours!("it has no such end");
    let server = UdpServer::silent("S0");
    let pen = Pen::with(&["-O", "udp_timeout 2"]).servers([&server]).controlled().udp().start();
    let talker = pen.udp();
    let start = Instant::now();
    let mut said = 0;
    wait_for("the client has talked for twice the time", SOON, || {
        talker.send("hello");
        said += 1;
        server.wait_for(said);
        start.elapsed() > Duration::from_secs(4)
    });
    let start = Instant::now();
    wait_for("the server has talked for twice the time", SOON, || {
        server.push(b"hello");
        talker.hear();
        start.elapsed() > Duration::from_secs(4)
    });
    let flows: BTreeSet<_> = server.heard().iter().map(|heard| heard.from).collect();
    assert_eq!((flows.len(), pen.flows()), (1, 1));
    pen.wait_for_no_flow();
}

/// udp_timeout: it is told, and holds for flows that exist when it is changed.
#[test]
fn the_time_can_be_changed() {
    only_ours!("it has none");
    let s = echoes(1);
    let pen = Pen::with(&[]).servers(&s).controlled().udp().start();
    assert_eq!(pen.ask("udp_timeout"), "30\n");
    pen.udp().ask("hello");
    assert_eq!(pen.ask("udp_timeout 20 replies 3"), "20 replies 3\n");
    assert_eq!(pen.ask("udp_timeout 1"), "1\n");
    pen.wait_for_no_flow();
}

/// udp_timeout, replies: a flow ends as soon as each of its datagrams has had so many.
#[test]
fn flows_end_with_their_replies() {
    only_ours!("it has no such end");
    for workers in WORKERS {
        let server = UdpServer::answering("S", |question| {
            for _ in 0..2 {
                question.reply(question.bytes);
            }
        });
        let pen = Pen::with(&["-O", "udp_timeout 600 replies 2"]).servers([&server]).workers(workers);
        let pen = pen.controlled().udp().start();
        for _ in 0..10 {
            let client = pen.udp();
            client.send("hello");
            assert_eq!([client.hear(), client.hear()], ["hello", "hello"]);
        }
        pen.wait_for_no_flow();
        // Two questions have four answers, and one client may go on for as long as it likes.
        let client = pen.udp();
        for number in 0..20 {
            let (one, two) = (format!("{number} one"), format!("{number} two"));
            client.send(&one);
            client.send(&two);
            assert_eq!([client.hear(), client.hear()], [one.clone(), one]);
            assert_eq!([client.hear(), client.hear()], [two.clone(), two]);
        }
        pen.wait_for_no_flow();
    }
}

/// udp_timeout, replies: a flow that gets fewer lasts as long as others.
#[test]
fn flows_wait_for_replies_that_are_missing() {
    only_ours!("it has no such end");
    let s = echoes(1);
    let pen = Pen::with(&["-O", "udp_timeout 2 replies 2"]).servers(&s).controlled().udp().start();
    let client = pen.udp();
    client.ask("hello");
    assert_eq!(pen.flows(), 1);
    s[0].push(b"the second");
    assert_eq!(client.hear(), "the second");
    pen.wait_for_no_flow();
}

/// idle_timeout: if it is shorter it holds for flows, too.
#[test]
fn idle_timeout_shortens_flows() {
    only_ours!("it goes by another clock");
    for (options, expected) in [
        (["-O", "idle_timeout 1", "-O", "udp_timeout 600"], 1),
        (["-O", "idle_timeout 600", "-O", "udp_timeout 1"], 1),
    ] {
        let s = echoes(1);
        let pen = Pen::with(&options).servers(&s).controlled().udp().start();
        pen.udp().ask("hello");
        assert_eq!(pen.flows(), expected);
        pen.wait_for_no_flow();
    }
}

/// -x: so many flows; who comes when there are as many takes the place of another, which is counted.
#[test]
fn everybody_is_served_when_all_slots_are_taken() {
    for workers in [1, 2, 4] {
        let s = echoes(2);
        let pen = Pen::with(&["-r", "-x", "3"]).servers(&s).workers(workers).udp().start();
        let clients: Vec<_> = (0..8).map(|_| pen.udp()).collect();
        for _ in 0..2 {
            for (number, client) in clients.iter().enumerate() {
                assert!(client.ask(&format!("of {number}")).starts_with('S'));
            }
        }
    }
}

/// The same, with the numbers.
#[test]
fn evictions_are_counted() {
    only_ours!("it does not count them");
    let s = echoes(2);
    let pen = Pen::with(&["-r", "-x", "3"]).servers(&s).workers(1).controlled().udp().start();
    let clients: Vec<_> = (0..8).map(|_| pen.udp()).collect();
    for (number, client) in clients.iter().enumerate() {
        client.ask(&format!("of {number}"));
    }
    assert_eq!(pen.flows(), 3);
    pen.wait_for_total(EVICTED, 5);
    assert_eq!(pen.total("flows"), 8);
}

/// -x: the flow that is used least goes, but before those of clients that have answered a reply those go that may be
/// nobody's: of whoever has only sent, perhaps under another's address.
#[test]
fn the_least_recently_used_flow_goes_and_unproven_ones_before() {
    only_ours!("it goes round");
    let s = echoes(1);
    let pen = Pen::with(&["-x", "4"]).servers(&s).workers(1).controlled().udp().start();
    let clients: HashMap<&str, UdpClient> =
        ["a", "b", "c", "d", "e", "f", "g"].map(|name| (name, pen.udp())).into();
    let say = |name: &str| {
        clients[name].ask(name);
        flow(&s[0], name)
    };
    // Four clients, of whom a and b have proved that they hear the replies.
    let (a, b, c, d) = (say("a"), say("b"), say("c"), say("d"));
    assert_eq!((say("b"), say("a")), (b, a));
    // Of c and d, c is the older; then d; then e itself, although it is newer than a and b.
    for (number, name) in ["e", "f", "g"].into_iter().enumerate() {
        say(name);
        pen.wait_for_total(EVICTED, number as u64 + 1);
    }
    assert_eq!((say("b"), say("a")), (b, a), "flows of clients that answer went first");
    pen.wait_for_total(EVICTED, 3);
    assert_ne!(say("c"), c);
    assert_ne!(say("d"), d);
    // Now f and g have gone, too, and all four are proven: the one that has been quiet longest goes.
    let (c, d) = (say("c"), say("d"));
    // Who is used again so soon is not put in order for it.
    let_pass(Duration::from_millis(500));
    assert_eq!((say("b"), say("d"), say("a")), (b, d, a));
    pen.wait_for_total(EVICTED, 5);
    say("e");
    pen.wait_for_total(EVICTED, 6);
    assert_eq!((say("b"), say("d"), say("a")), (b, d, a));
    pen.wait_for_total(EVICTED, 6);
    assert_ne!(say("c"), c, "the flow that was quiet longest is still there");
}

/// Both kinds of clients at one port: the file for it, and the port.
fn both(files: &Scratch) -> (String, u16) {
    let port = free_port();
    let lines = format!("listen tcp 127.0.0.1:{port}\nlisten udp 127.0.0.1:{port}\n");
    (files.write("pen.cfg", lines), port)
}

/// A server for both kinds of clients at one port.
fn of_both(name: &str) -> (UdpServer, Backend) {
    let udp = UdpServer::echo(name);
    let name = name.to_owned();
    let tcp = Backend::web_at(&name, udp.address().ip(), udp.port());
    (udp, tcp)
}

/// -x: flows do not keep connections out.
#[test]
fn connections_get_in_though_flows_have_all_slots() {
    only_ours!("it is for one of them");
    for workers in [1, 3] {
        let (files, (udp, tcp)) = (Scratch::new(), of_both("S0"));
        let (config, port) = both(&files);
        let pen = Pen::with(&["-x", "6", "-F", &config]).listen(format!("127.0.0.1:{port}")).servers([&tcp]);
        let pen = pen.workers(workers).controlled().start();
        let flows: Vec<_> = (0..20).map(|_| pen.udp()).collect();
        for (number, client) in flows.iter().enumerate() {
            client.ask(&format!("of {number}"));
        }
        for _ in 0..5 {
            assert_eq!(pen.visit(), "S0");
        }
        assert!(pen.total(EVICTED) > 0);
        assert_eq!(flows[0].ask("again"), "S0");
        assert!(udp.count() == 21);
    }
}

/// -x: connections do not end for flows: datagrams for which there is no room are lost and counted, until there is.
#[test]
fn connections_do_not_end_for_flows() {
    only_ours!("it is for one of them");
    let (files, udp) = (Scratch::new(), UdpServer::echo("S0"));
    let greeter = Backend::greeter("G0");
    let (config, port) = both(&files);
    let pen = Pen::with(&["-x", "4", "-F", &config]).listen(format!("127.0.0.1:{port}")).workers(2);
    let pen = pen.servers([udp.to_string(), greeter.to_string()]).controlled().start();
    pen.tell("acl 1 permit 127.0.0.1");
    // Connections to one, flows to the other.
    pen.tell("server 0 acl 2");
    pen.tell("acl 2 permit 127.0.0.2");
    pen.tell("server 1 acl 1");
    let mut held = pen.hold_many(4);
    assert!(held.iter().all(|held| held.name == "G0"), "{held:?}");
    let client = pen.udp_from("127.0.0.2");
    for count in 1..=3 {
        client.send("is there room?");
        pen.wait_for_total(NO_ROOM, count);
    }
    assert!(held.iter().all(Held::echoes), "a connection ended for a flow");
    assert_eq!(udp.count(), 0);
    held.pop();
    wait_until("the connection is counted out", || pen.flows() == 3);
    assert_eq!(client.ask("and now?"), "S0");
}

/// -x: workers whose clients find all slots taken by connections ask each other for one, and do not keep each other busy
/// with that.
#[test]
fn a_full_pen_is_quiet_while_datagrams_come() {
    only_ours!("it is for one of them");
    let (files, udp) = (Scratch::new(), UdpServer::echo("S0"));
    let greeter = Backend::greeter("G0");
    let (config, port) = both(&files);
    let pen = Pen::with(&["-x", "6", "-F", &config]).listen(format!("127.0.0.1:{port}")).workers(4);
    let pen = pen.servers([udp.to_string(), greeter.to_string()]).controlled().start();
    pen.tell("acl 1 permit 127.0.0.1");
    pen.tell("server 0 acl 2");
    pen.tell("acl 2 permit 127.0.0.2");
    pen.tell("server 1 acl 1");
    let mut held = pen.hold_many(6);
    // Who waits for a connection wants a slot, too.
    let waiting: Vec<_> =
        (0..4).map(|_| client::connect("127.0.0.1".parse().unwrap(), pen.address).unwrap()).collect();
    let clients: Vec<_> = (0..20).map(|_| pen.udp_from("127.0.0.2")).collect();
    let family = pen.family();
    let before = processes::cpu_time(&family);
    let mut sent = 0;
    let start = Instant::now();
    for client in clients.iter().cycle() {
        client.send("is there room?");
        sent += 1;
        let_pass(Duration::from_millis(20));
        if start.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
    let used = processes::cpu_time(&family) - before;
    assert!(used <= Duration::from_millis(200), "used {used:?} of processor time in two seconds of waiting");
    pen.wait_for_total(NO_ROOM, sent);
    assert!(held.iter().all(Held::echoes), "a connection ended for a flow");
    assert_eq!(udp.count(), 0);
    // All that wait get what they wait for.
    held.clear();
    for client in &waiting {
        assert_eq!(read_line(client).as_deref(), Some("G0"));
    }
    drop(waiting);
    for client in &clients {
        assert_eq!(client.insist("and now?").0, "S0");
    }
}

/// -x: a connection that waits gets its slot within a moment, though a flow may have been faster when one became free.
#[test]
fn connections_that_wait_are_not_passed_over() {
    only_ours!("it is for one of them");
    let (files, udp) = (Scratch::new(), UdpServer::echo("S0"));
    let greeter = Backend::greeter("G0");
    let (config, port) = both(&files);
    let pen = Pen::with(&["-x", "1", "-O", "udp_timeout 600", "-F", &config]);
    let pen = pen.listen(format!("127.0.0.1:{port}")).workers(4);
    let pen = pen.servers([udp.to_string(), greeter.to_string()]).controlled().start();
    pen.tell("acl 1 permit 127.0.0.1");
    pen.tell("server 0 acl 2");
    pen.tell("acl 2 permit 127.0.0.2");
    pen.tell("server 1 acl 1");
    for _ in 0..10 {
        let held = pen.hold();
        let waiting = client::connect("127.0.0.1".parse().unwrap(), pen.address).unwrap();
        let clients: Vec<_> = (0..8).map(|_| pen.udp_from("127.0.0.2")).collect();
        clients.iter().for_each(|client| client.send("is there room?"));
        drop(held);
        assert_eq!(read_line(&waiting).as_deref(), Some("G0"));
    }
}

/// -x: a client's datagrams that wait for a slot come in their order, and wait no longer than a moment.
#[test]
fn datagrams_that_waited_come_in_order() {
    only_ours!("it is for one of them");
    let (files, udp) = (Scratch::new(), UdpServer::echo("S0"));
    let greeter = Backend::greeter("G0");
    let (config, port) = both(&files);
    let pen = Pen::with(&["-x", "1", "-O", "udp_timeout 1", "-F", &config]);
    let pen = pen.listen(format!("127.0.0.1:{port}")).workers(2);
    let pen = pen.servers([udp.to_string(), greeter.to_string()]).controlled().start();
    pen.tell("acl 1 permit 127.0.0.1");
    pen.tell("server 0 acl 2");
    pen.tell("acl 2 permit 127.0.0.2");
    pen.tell("server 1 acl 1");
    let mut said = 0;
    wait_for("they have waited, and were served", SOON, || {
        let held = pen.hold();
        let client = pen.udp_from("127.0.0.2");
        let (before, lost) = (udp.count(), pen.total(NO_ROOM));
        for number in 0..10 {
            client.send(format!("{said} {number}"));
        }
        drop(held);
        wait_until("they are sent on or lost", || {
            (udp.count() - before) as u64 + pen.total(NO_ROOM) - lost == 10
        });
        let heard = udp.heard();
        let heard: Vec<&[u8]> = heard[before..].iter().map(|heard| &heard.bytes[..]).collect();
        let expected: Vec<String> = (0..10).map(|number| format!("{said} {number}")).collect();
        assert!(heard.is_empty() || heard == expected.iter().map(String::as_bytes).collect::<Vec<_>>());
        said += 1;
        pen.wait_for_no_flow();
        heard.len() == 10
    });
}

/// -x: a connection that waits has its turn as soon as a flow ends by itself, too.
#[test]
fn all_share_the_slots_in_a_crowd() {
    only_ours!("it is for one of them");
    let (files, (_udp, tcp)) = (Scratch::new(), of_both("S0"));
    let (config, port) = both(&files);
    let pen = Pen::with(&["-x", "8", "-F", &config]).listen(format!("127.0.0.1:{port}")).servers([&tcp]);
    let pen = pen.workers(3).controlled().start();
    std::thread::scope(|scope| {
        for n in 2..6 {
            let pen = &pen;
            scope.spawn(move || {
                (0..40).for_each(|_| assert_eq!(pen.visit_from(&format!("127.0.0.{n}")), "S0"))
            });
            scope.spawn(move || {
                for _ in 0..40 {
                    let client = pen.udp_from(&format!("127.0.0.{n}"));
                    client.insist("hello");
                }
            });
        }
    });
    assert_eq!(pen.ask("udp_timeout 1"), "1\n");
    pen.wait_for_no_flow();
}

/// -x: when descriptors run out before that, flows make room as well; pen keeps serving, and does not spin.
#[test]
fn without_descriptors_flows_make_room_for_each_other() {
    only_ours!("it ends or spins");
    needs_root!();
    let s = echoes(2);
    let limited = ["prlimit", "--nofile=24:24", "setpriv", "--bounding-set=-sys_resource"];
    let pen = Pen::with(&["-r"]).servers(&s).workers(1).through(&limited).udp().start();
    let clients: Vec<_> = (0..40).map(|_| pen.udp()).collect();
    for _ in 0..2 {
        for (number, client) in clients.iter().enumerate() {
            assert!(client.ask(&format!("of {number}")).starts_with('S'));
        }
    }
    let family = pen.family();
    let before = processes::cpu_time(&family);
    let_pass(Duration::from_secs(1));
    let used = processes::cpu_time(&family) - before;
    assert!(used <= Duration::from_millis(100), "used {used:?} of processor time in a second of waiting");
}

/// The same for connections: flows that have all the descriptors do not keep them out.
#[test]
fn connections_get_in_though_flows_have_all_descriptors() {
    only_ours!("it is for one of them");
    needs_root!();
    let (files, (udp, tcp)) = (Scratch::new(), of_both("S0"));
    let (config, port) = both(&files);
    let limited = ["prlimit", "--nofile=32:32", "setpriv", "--bounding-set=-sys_resource"];
    let pen = Pen::with(&["-F", &config]).listen(format!("127.0.0.1:{port}")).servers([&tcp]);
    let pen = pen.workers(1).through(&limited).controlled().start();
    let flows: Vec<_> = (0..40).map(|_| pen.udp()).collect();
    for (number, client) in flows.iter().enumerate() {
        client.ask(&format!("of {number}"));
    }
    assert!(pen.flows() < 20 && pen.total(EVICTED) > 20);
    for client in &flows[..5] {
        assert_eq!(pen.visit(), "S0");
        client.ask("again");
    }
    assert_eq!(udp.count(), 45);
}

/// When local ports run out, an eighth of the flows that may be made up make room at once: the kernel's search for the last
/// ports takes long. Those of clients that have proved that they are there stay.
#[test]
fn without_local_ports_an_eighth_of_the_unproven_flows_make_room() {
    needs_root!();
    only_ours!("it ends");
    let Some(network) = Network::alone() else { return };
    network.ip("link set lo up");
    network.inside(|| {
        let s = echoes(1);
        let pen = Pen::with(&["-r"]).servers(&s).workers(1).controlled().udp().start();
        let clients: Vec<_> = (0..50).map(|_| pen.udp()).collect();
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "2000 2039").unwrap();
        let proven = &clients[..2];
        for client in proven.iter().chain(proven).chain(&clients[2..40]) {
            client.ask("hello");
        }
        assert_eq!((pen.flows(), pen.total(EVICTED)), (40, 0));
        clients[40].ask("hello");
        assert_eq!((pen.flows(), pen.total(EVICTED)), (40 - 1 - 39 / 8 + 1, 1 + 39 / 8));
        for client in clients[41..].iter().chain(proven) {
            client.ask("hello");
        }
        assert_eq!(pen.total("flows"), 50, "the proven ones are the same");
        assert!(pen.stderr().contains("all local ports are in use"), "{}", pen.stderr());
    });
}

/// A flood of datagrams from everywhere costs a bounded amount of memory, and is over when it is over: those who were
/// there before are served, and what it has taken is given back.
#[test]
fn a_flood_stays_within_memory() {
    only_ours!("it does not count them");
    const PORTS: usize = 100_000;
    let s = [UdpServer::silent("S0"), UdpServer::silent("S1"), UdpServer::echo("S2")];
    // Who is in list 1 has the server that answers to himself.
    let options = [
        "-r",
        "-x",
        "1000",
        "-O",
        "udp_timeout 2",
        "-O",
        "acl 1 deny 127.0.0.1",
        "-O",
        "acl 2 permit 127.0.0.1",
    ];
    let options =
        [&options[..], &["-O", "server 0 acl 1", "-O", "server 1 acl 1", "-O", "server 2 acl 2"]].concat();
    let pen = Pen::with(&options).servers(&s).workers(2).controlled().udp().start();
    let old: Vec<_> = (0..10).map(|_| pen.udp()).collect();
    for _ in 0..3 {
        for client in &old {
            assert_eq!(client.ask("hello"), "S2");
        }
    }
    let workers = pen.workers();
    let memory = || processes::memory_kib(&pen.family());
    let before = memory();
    let descriptors: Vec<_> = workers.iter().map(|pid| processes::descriptors(*pid)).collect();
    let mut most = before;
    let mut sent = 0;
    'all: for net in 1..=20u8 {
        let source: IpAddr = format!("127.1.0.{net}").parse().unwrap();
        for port in 2000..=65_000u16 {
            // Some ports are somebody's.
            let Ok(socket) = UdpSocket::bind((source, port)) else { continue };
            let _ = socket.send_to(&[net; 64], pen.address);
            sent += 1;
            if sent % 10_000 == 0 {
                most = most.max(memory());
            }
            if sent == PORTS {
                break 'all;
            }
        }
    }
    assert_eq!(sent, PORTS);
    most = most.max(memory());
    wait_until("the flood has been read", || unread(pen.address.port()) == 0);
    most = most.max(memory());
    eprintln!(
        "memory: {before} KiB before the flood, {most} KiB at most; {} flows began",
        pen.total("flows")
    );
    // Ten times as many flows as there can be: without a bound it would be ten times as much.
    assert!(most - before < 20 << 10, "memory went from {before} KiB to {most} KiB");
    // The servers are counted one after the other: a flow of the one may make room for one of the next meanwhile.
    wait_until("there are no more flows than there can be", || pen.flows() <= 1000);
    assert!(pen.total("flows") > PORTS as u64 / 20, "there was no flood");
    // A datagram waits a fifth of a second for a slot, which a busy machine may need: who gets no answer asks again.
    let answered = |client: &UdpClient, what: &str| {
        client.send(what);
        let answers = || client.hear_within(Duration::from_secs(1));
        std::iter::from_fn(answers).any(|answer| answer == format!("S2 {what}"))
    };
    for client in &old {
        wait_until("a client of before is answered", || answered(client, "still there?"));
    }
    pen.wait_for_no_flow();
    for client in &old {
        wait_until("it is again", || answered(client, "and now?"));
    }
    assert_eq!(pen.workers(), workers);
    pen.wait_for_no_flow();
    for (pid, before) in workers.iter().zip(descriptors) {
        wait_until("its descriptors are closed", || processes::descriptors(*pid) <= before);
    }
}

/// The table of clients is as long as -c says, also in a flood; those who are known and come stay known.
#[test]
fn a_flood_of_addresses_does_not_grow_the_table_of_clients() {
    only_ours!("it does not hold so many");
    let s = [UdpServer::silent("S0"), UdpServer::silent("S1")];
    let pen = Pen::with(&["-c", "100", "-x", "50"]).servers(&s).controlled().udp().start();
    for number in 0..5_000u32 {
        let source = IpAddr::from([127, 2, (number >> 8) as u8, number as u8]);
        let socket = UdpSocket::bind((source, 0)).unwrap();
        let _ = socket.send_to(b"hello", pen.address);
    }
    wait_until("the flood has been read", || unread(pen.address.port()) == 0);
    let limits = pen.ask("limits");
    let clients = limits.lines().find(|line| line.starts_with("clients")).unwrap();
    let used: u32 = clients.split_whitespace().last().unwrap().parse().unwrap();
    assert!(used <= 100, "{limits}");
    assert!(pen.ask("recent").lines().count() <= 100);
}

/// Nothing that a client may send costs anybody else anything, whatever is turned on.
#[test]
fn garbage_costs_nothing() {
    only_ours!("it knows few of these options");
    let (s, files) = (echoes(3), Scratch::new());
    let log = files.file("log");
    let mut options = vec!["-ddd", "-a", "-l", &log, "-h", "-r", "-x", "100", "-c", "100", "-H"];
    for command in [
        "acl 2 permit 127.0.0.0 255.0.0.0",
        "proxy_accept 2",
        "proxy_send every",
        "udp_timeout 1 replies 1",
        "tracking_prefix 24 64",
        "idle_timeout 5",
        "peek",
    ] {
        options.extend(["-O", command]);
    }
    let pen = Pen::with(&options).servers(&s).workers(2).controlled().udp().start();
    let workers = pen.workers();
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let clients: Vec<_> = (1..=50).map(|n| pen.udp_from(&format!("127.0.3.{n}"))).collect();
    for number in 0..3_000 {
        let length = match number % 10 {
            0 => next() as usize % 9000,
            1 => 0,
            _ => next() as usize % 120,
        };
        let mut bytes: Vec<u8> = (0..length).map(|_| next() as u8).collect();
        if number % 3 == 0 {
            // A header, as far as it goes.
            let kinds = [0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0];
            let mut header = signature.to_vec();
            header.extend([0x20 | (next() as u8 & 1), kinds[next() as usize % 7], 0, next() as u8 % 60]);
            bytes.splice(..0, header);
        }
        let _ = clients[number % 50].socket.send(&bytes);
    }
    wait_until("all has been read", || unread(pen.address.port()) == 0);
    let client = pen.udp();
    let local = [&signature[..], &[0x20, 0, 0, 0], b"hello"].concat();
    client.send(local);
    let answer = client.receive();
    assert!(answer.starts_with(b"S") && answer.ends_with(b"hello"), "{}", answer.escape_ascii());
    assert_eq!(pen.workers(), workers, "a worker died");
    pen.wait_for_no_flow();
}

/// A server that floods a client costs nobody else anything.
#[test]
fn a_server_that_answers_without_end_does_not_keep_others_waiting() {
    only_ours!("it has one process");
    let server = UdpServer::answering("S", |question| {
        let count = if question.bytes == b"flood" { 20_000 } else { 1 };
        for _ in 0..count {
            question.reply(question.bytes);
        }
    });
    let pen = Pen::with(&[]).servers([&server]).workers(1).controlled().udp().start();
    let (victim, other) = (pen.udp(), pen.udp_from("127.0.0.2"));
    victim.send("flood");
    for number in 0..100 {
        other.send(format!("{number}"));
        assert_eq!(other.hear(), number.to_string());
    }
    drop(victim);
    assert_eq!(pen.flows(), 2);
}

/// Reading slowly is what a TCP client may do while datagrams pass, in the same worker.
#[test]
fn flows_and_connections_do_not_hold_each_other_up() {
    only_ours!("it is for one of them");
    let files = Scratch::new();
    let udp = UdpServer::echo("S0");
    let tcp = Backend::greeter("S0");
    let (config, port) = both(&files);
    let pen = Pen::with(&["-F", &config, "-r"]).listen(format!("127.0.0.1:{port}")).workers(1);
    let pen = pen.servers([tcp.to_string(), udp.to_string()]).controlled().start();
    pen.tell("acl 1 permit 127.0.0.1");
    pen.tell("acl 2 permit 127.0.0.2");
    pen.batch(&["server 0 acl 1", "server 1 acl 2"]);
    let held = pen.hold_many(5);
    let stuck = client::connect("127.0.0.1".parse().unwrap(), pen.address).unwrap();
    assert_eq!(read_line(&stuck).as_deref(), Some("S0"));
    stuck.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &stuck, &[b'x'; 65536]).is_ok() {}
    let flow = pen.udp_from("127.0.0.2");
    for number in 0..200 {
        assert_eq!(flow.ask(&number.to_string()), "S0");
        assert!(held[number % 5].echoes());
    }
}
