//! Flows outlive what happens to pen's processes: pen(1), PROCESSES and SIGNALS, with datagrams.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::udp_choosing::NO_SERVER;
use crate::support::backend::greeters;
use crate::support::page::column;
use crate::support::udp::{UdpClient, bound, echoes, group, unread};
use crate::support::{
    Held, Pen, Scratch, UdpServer, became_true, client, free_port, let_pass, needs_root, only_ours,
    processes, wait_until,
};

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Stops these processes, and waits until they stand still.
fn stop(pids: &[i32]) {
    for &pid in pids {
        signal(pid, Signal::SIGSTOP);
        wait_until("it is stopped", || processes::stat(pid).is_some_and(|stat| stat.state == 'T'));
    }
}

/// So many clients, each of another address.
fn clients(pen: &Pen, count: usize) -> Vec<UdpClient> {
    (0..count).map(|n| pen.udp_from(&format!("127.0.{}.{}", 1 + n / 200, 1 + n % 200))).collect()
}

/// Workers share the clients, and each of them keeps what it has.
#[test]
fn all_workers_serve() {
    only_ours!("it has no workers");
    let s = echoes(2);
    let pen = Pen::with(&["-r"]).servers(&s).workers(4).controlled().udp().start();
    let clients = clients(&pen, 200);
    for round in 0..3 {
        for client in &clients {
            client.ask(&format!("round {round}"));
        }
    }
    let page = pen.ask("status");
    let flows = column(&page, "worker", "flows");
    let flows: Vec<usize> = flows.iter().map(|cell| cell.parse().unwrap()).collect();
    assert_eq!(flows.iter().sum::<usize>(), 200, "a client has more than one flow: {flows:?}");
    assert!(flows.iter().all(|&flows| flows > 10), "shares of {flows:?}");
}

/// A worker that dies is no client's loss: the next request of everybody is answered, by the server that he had, and all
/// is counted out.
#[test]
fn after_a_death_everybody_is_answered_by_his_server() {
    only_ours!("it has no workers");
    let s = echoes(3);
    let pen = Pen::with(&["-O", "udp_timeout 2"]).servers(&s).workers(4).controlled().udp().start();
    let clients = clients(&pen, 60);
    let names: Vec<_> = clients.iter().map(|client| client.ask("who are you?")).collect();
    for round in 0..6 {
        let workers = pen.workers();
        // One, another, ..., and then all.
        let victims = if round < 4 { &workers[round % workers.len()..][..1] } else { &workers[..] };
        victims.iter().for_each(|&pid| signal(pid, Signal::SIGKILL));
        for (client, name) in clients.iter().zip(&names) {
            assert_eq!(client.ask(&format!("round {round}")), *name);
        }
        wait_until("there are four workers again", || pen.workers().len() == 4);
    }
    assert_eq!(pen.flows(), 60, "the dead are counted, too");
    pen.wait_for_no_flow();
}

/// What waits in the socket of a worker that dies is answered by its successor.
#[test]
fn datagrams_that_wait_outlive_their_worker() {
    only_ours!("it has no workers");
    for workers in [1, 3] {
        let s = echoes(2);
        let pen = Pen::with(&["-r"]).servers(&s).workers(workers).controlled().udp().start();
        let old = clients(&pen, 20);
        old.iter().for_each(|client| assert!(client.ask("hello").starts_with('S')));
        let new = clients(&pen, 20);
        let victims = pen.workers();
        stop(&victims);
        for client in old.iter().chain(&new) {
            for number in 0..3 {
                client.send(format!("number {number}"));
            }
        }
        assert!(unread(pen.address.port()) > 0);
        victims.iter().for_each(|&pid| signal(pid, Signal::SIGKILL));
        for client in old.iter().chain(&new) {
            for number in 0..3 {
                client.answer_to(&format!("number {number}"));
            }
        }
        wait_until("there are new workers", || pen.workers().len() == workers as usize);
        assert!(pen.workers().iter().all(|pid| !victims.contains(pid)));
        assert_eq!(pen.flows(), 40);
    }
}

/// Killing one after the other, under load: nothing is lost but what the dead had in their hands, nobody has to ask for
/// long, and at the end all is counted out.
#[test]
fn random_kills_under_load() {
    only_ours!("it has no workers");
    const CLIENTS: usize = 8;
    const KILLS: usize = 20;
    let s = echoes(3);
    let pen = Pen::with(&["-O", "udp_timeout 2"]).servers(&s).workers(4).controlled().udp().start();
    let done = AtomicBool::new(false);
    let (asked, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut kills = 0;
    std::thread::scope(|scope| {
        for client in clients(&pen, CLIENTS) {
            let (done, asked, lost) = (&done, &asked, &lost);
            scope.spawn(move || {
                let (name, _) = client.insist("who are you?");
                while !done.load(Ordering::Relaxed) {
                    let number = asked.fetch_add(1, Ordering::Relaxed);
                    let (by, tries) = client.insist(&format!("number {number}"));
                    assert_eq!(by, name, "a client has lost his server");
                    lost.fetch_add(tries - 1, Ordering::Relaxed);
                }
            });
        }
        let mut random = 0x9e37_79b9_u32;
        for _ in 0..KILLS {
            let_pass(Duration::from_millis(100));
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let workers = pen.workers();
            if let Some(&victim) = workers.get((random >> 16) as usize % workers.len().max(1)) {
                kills += usize::from(kill(Pid::from_raw(victim), Signal::SIGKILL).is_ok());
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let (asked, lost) = (asked.into_inner(), lost.into_inner());
    eprintln!("{asked} requests, {kills} kills, {lost} requests sent again");
    assert!(asked > 500 && kills > KILLS / 2, "there was no load: {asked} requests, {kills} kills");
    // At most what everybody had under way at each of them.
    assert!(lost <= kills * CLIENTS, "{lost} requests were lost by {kills} kills");
    wait_until("there are four workers again", || pen.workers().len() == 4);
    pen.wait_for_no_flow();
    let clients = clients(&pen, 50);
    clients.iter().for_each(|client| assert!(client.ask("all well?").starts_with('S')));
    assert_eq!(pen.flows(), 50);
}

/// workers: the number may change at any time; afterwards everybody is answered, by the server that he had.
#[test]
fn the_number_of_workers_may_change_under_load() {
    only_ours!("it has no workers");
    let s = echoes(3);
    let pen = Pen::with(&["-O", "udp_timeout 2"]).servers(&s).workers(1).controlled().udp().start();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in clients(&pen, 6) {
            let done = &done;
            scope.spawn(move || {
                let (name, _) = client.insist("who are you?");
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(client.insist("and now?").0, name);
                }
            });
        }
        for count in [4, 2, 3, 1, 4, 2] {
            assert_eq!(pen.ask(&format!("workers {count}")), format!("{count}\n"));
            wait_until("there are so many", || pen.workers().len() == count);
            // None of all sockets of the group may be without a reader.
            let new = (0..64).map(|n| pen.udp_from(&format!("127.0.9.{}", n + 1)));
            new.for_each(|client| assert!(client.ask("hello").starts_with('S'), "with {count} workers"));
        }
        done.store(true, Ordering::Relaxed);
    });
    pen.wait_for_no_flow();
}

/// workers, -u: the user that pen has become adds sockets to those that root opened, as far as he may have the port.
#[test]
fn more_workers_read_although_root_is_given_up() {
    needs_root!();
    only_ours!("it has no workers");
    let s = echoes(1);
    for host in ["127.0.0.1", "[::1]"] {
        let pen =
            Pen::with(&["-u", "nobody"]).listen(format!("{host}:{}", free_port())).servers(&s).workers(1);
        let pen = pen.controlled().udp().start();
        assert_eq!(group(pen.address.port()), 1);
        assert_eq!(pen.ask("workers 4"), "4\n");
        wait_until("there are so many", || pen.workers().len() == 4);
        assert_eq!(group(pen.address.port()), 4, "{}", pen.stderr());
        let port = pen.address.port();
        let address: SocketAddr = format!("{host}:{port}").parse().unwrap();
        (0..40).for_each(|_| assert_eq!(UdpClient::new(address.ip(), address).ask("hello"), "S0"));
        let page = pen.ask("status");
        let flows: Vec<usize> =
            column(&page, "worker", "flows").iter().map(|cell| cell.parse().unwrap()).collect();
        assert!(flows.iter().all(|&flows| flows > 0), "shares of {flows:?}");
    }
}

/// workers: while the number changes nothing is lost of flows that are quiet, and no reply that is still to come.
#[test]
fn a_worker_that_retires_passes_replies_on() {
    only_ours!("it has no workers");
    // It answers only when it is told to.
    let server = UdpServer::silent("S");
    let pen =
        Pen::with(&["-r", "-O", "udp_timeout 60"]).servers([&server]).workers(4).controlled().udp().start();
    let clients = clients(&pen, 30);
    let mut flows = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        client.send(format!("number {number}"));
        flows.push(server.wait_for(number + 1)[number].from);
    }
    assert_eq!(pen.ask("workers 1"), "1\n");
    let voice = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    voice.send_to(b"from a stranger", flows[0]).unwrap(); // which is nobody's answer
    for (number, client) in clients.iter().enumerate() {
        server.push_to(flows[number], format!("answer {number}").as_bytes());
        assert_eq!(client.hear(), format!("answer {number}"));
    }
}

/// SIGNALS, HUP: under load nothing is lost, whatever number of times.
#[test]
fn hup_under_load_loses_nothing() {
    only_ours!("it reads no file of such lines");
    let (s, files) = (echoes(3), Scratch::new());
    let lines = |timeout| {
        let servers: Vec<_> =
            s.iter().map(|server| format!("address 127.0.0.1 port {}", server.port())).collect();
        let line = |(number, server): (usize, &String)| format!("server {number} {server}\n");
        servers.iter().enumerate().map(line).collect::<String>() + &format!("udp_timeout {timeout}\n")
    };
    let config = files.write("pen.cfg", lines(30));
    let pen = Pen::with(&["-F", &config]).workers(3).controlled().udp().start();
    let done = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in clients(&pen, 6) {
            let (done, asked) = (&done, &asked);
            scope.spawn(move || {
                let name = client.ask("who are you?");
                while !done.load(Ordering::Relaxed) {
                    // None is sent again.
                    assert_eq!(client.ask("and now?"), name);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..20 {
            let before = asked.load(Ordering::Relaxed);
            files.write("pen.cfg", lines(30 + round));
            if round % 2 == 0 {
                pen.signal(Signal::SIGHUP);
            } else {
                assert_eq!(pen.ask("reload"), "ok\n");
            }
            wait_until("they go on", || asked.load(Ordering::Relaxed) > before + 20);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(pen.flows(), 6, "flows were made anew");
}

/// listen: with a new address in the file HUP moves the listener; what stays in it is not touched.
#[test]
fn hup_moves_listeners() {
    only_ours!("it has one");
    let (s, files) = (echoes(1), Scratch::new());
    let ports = [free_port(), free_port(), free_port()];
    // The first is said to be alone, and the others besides.
    let lines = |ports: &[u16]| {
        let line = |(number, port): (usize, &u16)| match number {
            0 => format!("listen 127.0.0.1:{port}\n"),
            _ => format!("listen udp 127.0.0.1:{port}\n"),
        };
        ports.iter().enumerate().map(line).collect::<String>()
    };
    let config = files.write("pen.cfg", lines(&ports[..2]));
    let pen = Pen::with(&["-F", &config, "-U"]).listen(format!("127.0.0.1:{}", ports[0])).servers(&s);
    let pen = pen.workers(3).controlled().start();
    let at = |port: u16| UdpClient::new("127.0.0.1".parse().unwrap(), ([127, 0, 0, 1], port).into());
    let (moves, stays) = (at(ports[0]), at(ports[1]));
    moves.ask("hello");
    stays.ask("hello");
    let flow = s[0].heard()[1].from;
    files.write("pen.cfg", lines(&ports[1..]));
    assert_eq!(pen.ask("reload"), "ok\n");
    assert!(bound(ports[1]) && bound(ports[2]));
    wait_until("the old one is closed", || !bound(ports[0]));
    assert_eq!(stays.ask("still there?"), "S0");
    assert_eq!(s[0].heard().last().unwrap().from, flow, "it is another flow now");
    // Nobody is there any more, and the system says so.
    moves.send("still there?");
    assert_eq!(moves.socket.recv(&mut [0; 100]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    (0..30).for_each(|_| assert_eq!(at(ports[2]).ask("hello"), "S0"));
    // One that cannot be had leaves all as it is.
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    files.write("pen.cfg", lines(&[ports[0], holder.local_addr().unwrap().port()]));
    assert!(pen.ask("reload").starts_with("error: "));
    assert!(!bound(ports[0]) && bound(ports[1]) && bound(ports[2]));
    assert_eq!(stays.ask("still there?"), "S0");
    // One command for one more, and one less.
    assert!(!pen.ask(&format!("listen udp 127.0.0.1:{}", ports[0])).starts_with("error"));
    assert_eq!(moves.ask("and now?"), "S0");
    assert!(!pen.ask(&format!("no listen udp 127.0.0.1:{}", ports[2])).starts_with("error"));
    wait_until("it is closed", || !bound(ports[2]));
    assert_eq!(stays.ask("still there?"), "S0");
    assert_eq!(pen.ask("listen"), format!("udp 127.0.0.1:{}\nudp 127.0.0.1:{}\n", ports[1], ports[0]));
}

/// listen: with `listen udp` lines alone the first takes the place of those before, and the others come to it.
#[test]
fn hup_moves_listeners_that_all_name_their_protocol() {
    only_ours!("it has one");
    let (s, files) = (echoes(1), Scratch::new());
    let ports = [free_port(), free_port(), free_port()];
    let lines =
        |ports: &[u16]| ports.iter().map(|port| format!("listen udp 127.0.0.1:{port}\n")).collect::<String>();
    let config = files.write("pen.cfg", lines(&ports[..2]));
    let pen = Pen::with(&["-F", &config]).listen(format!("127.0.0.1:{}", ports[0])).servers(&s).udp();
    let pen = pen.workers(2).controlled().start();
    let at = |port: u16| UdpClient::new("127.0.0.1".parse().unwrap(), ([127, 0, 0, 1], port).into());
    let stays = at(ports[1]);
    assert_eq!((at(ports[0]).ask("hello"), stays.ask("hello")), ("S0".into(), "S0".into()));
    let flow = s[0].heard().last().unwrap().from;
    for kept in [&ports[1..], &ports[1..2], &ports[..2]] {
        files.write("pen.cfg", lines(kept));
        assert_eq!(pen.ask("reload"), "ok\n");
        for port in ports {
            wait_until("those of the file are open, alone", || bound(port) == kept.contains(&port));
        }
        kept.iter().for_each(|port| assert_eq!(at(*port).ask("hello"), "S0"));
        assert_eq!(stays.ask("still there?"), "S0");
        assert_eq!(s[0].heard().last().unwrap().from, flow, "it is another flow now");
    }
}

/// SIGNALS, QUIT: known flows are served on, new clients are not, and pen ends when the flows have ended.
#[test]
fn quit_lets_flows_finish() {
    only_ours!("it knows no QUIT");
    let server = UdpServer::echo("S0");
    let pen = Pen::with(&["-w", "SCRATCH/status", "-O", "udp_timeout 5"]).servers([&server]).workers(3);
    let mut pen = pen.controlled().udp().start();
    // So many that each worker has some, and does not end at once.
    let known = clients(&pen, 60);
    known.iter().for_each(|client| assert_eq!(client.ask("hello"), "S0"));
    pen.signal(Signal::SIGQUIT);
    known.iter().for_each(|client| assert_eq!(client.ask("still there?"), "S0"));
    wait_until("it is said what they do", || {
        let states = column(&pen.page(), "worker", "state");
        states.len() == 3 && states.iter().all(|state| state == "draining")
    });
    let counted = || {
        let page = pen.page();
        let sum =
            |what| column(&page, "worker", what).iter().map(|cell| cell.parse::<usize>().unwrap()).sum();
        [sum("flows"), sum(NO_SERVER)]
    };
    let mut unknown = Vec::new();
    wait_until("nobody new is served any more", || {
        let before = counted();
        unknown = (0..20).map(|_| pen.udp_from("127.0.7.7")).collect();
        unknown.iter().for_each(|client| client.send("me too"));
        let mut after = before;
        wait_until("all of them are counted", || {
            after = counted();
            after.iter().sum::<usize>() == before.iter().sum::<usize>() + 20
        });
        after[1] == before[1] + 20
    });
    known.iter().for_each(|client| assert_eq!(client.ask("and now?"), "S0"));
    for client in unknown {
        assert_eq!(client.hear_within(Duration::from_millis(1)), None);
    }
    assert_eq!(pen.wait_for_end().and_then(|status| status.code()), Some(0));
}

/// SIGNALS, QUIT: workers that have nothing to do any more end, and the clients of the others do not notice.
#[test]
fn quit_keeps_every_client_with_its_worker() {
    only_ours!("it knows no QUIT");
    let server = UdpServer::echo("S0");
    let pen = Pen::with(&["-O", "udp_timeout 2"]).servers([&server]).workers(8).controlled().udp().start();
    let clients = clients(&pen, 40);
    clients.iter().for_each(|client| assert_eq!(client.ask("hello"), "S0"));
    pen.signal(Signal::SIGQUIT);
    let lasting = &clients[..4];
    let all = |what| lasting.iter().for_each(|client| assert_eq!(client.ask(what), "S0"));
    wait_until("the others have ended", || {
        all("still there?");
        pen.workers().len() <= 4
    });
    (0..20).for_each(|_| all("and now?"));
}

/// workers: one that is to end has the address no longer than flows need it, however long its connections last.
#[test]
fn a_worker_that_retires_with_connections_lets_go_of_addresses() {
    only_ours!("it has no workers");
    let (s, g) = (echoes(1), greeters(1));
    let (tcp, udp) = (free_port(), free_port());
    let pen = Pen::with(&["-O", "udp_timeout 1"]).listen(format!("127.0.0.1:{tcp}")).servers(&g).workers(4);
    let pen = pen.controlled().start();
    let connect =
        || Held::greeted(client::connect([127, 0, 0, 1].into(), ([127, 0, 0, 1], tcp).into()).unwrap());
    let held: Vec<Held> = (0..80).map(|_| connect()).collect();
    let command = format!("listen udp 127.0.0.1:{udp}");
    assert!(!pen.ask(&command).starts_with("error"));
    assert!(!pen.ask(&format!("server 0 port {}", s[0].port())).starts_with("error"));
    let at = || UdpClient::new([127, 0, 0, 1].into(), ([127, 0, 0, 1], udp).into());
    (0..20).for_each(|_| assert_eq!(at().ask("hello"), "S0"));
    assert_eq!(pen.ask("workers 1"), "1\n");
    assert!(!pen.ask(&format!("no {command}")).starts_with("error"));
    wait_until("nobody has the address any more", || !bound(udp));
    assert!(pen.workers().len() > 1, "they have connections");
    // Somebody else's socket may have the port for a moment.
    wait_until("pen has the address again", || !pen.ask(&command).starts_with("error"));
    assert_eq!(at().ask("hello"), "S0");
    assert!(held.iter().all(Held::echoes));
}

/// SIGNALS, QUIT: without flows it is the end.
#[test]
fn quit_without_flows_is_the_end() {
    only_ours!("it knows no QUIT");
    let s = echoes(1);
    let mut pen = Pen::with(&[]).servers(&s).workers(3).udp().start();
    assert_eq!(pen.end_with(Signal::SIGQUIT), Some(0));
    assert!(!bound(pen.address.port()));
}

/// SIGNALS, TERM: the end, at once, whatever flows there are.
#[test]
fn term_ends_at_once() {
    let s = echoes(1);
    let mut pen = Pen::with(&[]).servers(&s).workers(3).udp().start();
    let clients: Vec<_> = (0..10).map(|_| pen.udp()).collect();
    clients.iter().for_each(|client| assert_eq!(client.ask("hello"), "S0"));
    assert_eq!(pen.end_with(Signal::SIGTERM), Some(0));
    assert!(!bound(pen.address.port()));
}

/// EXIT STATUS: a second pen at the address is refused, with a line that says why, and the first goes on.
#[test]
fn two_pens_cannot_share_an_address() {
    only_ours!("both get some of the clients");
    let s = echoes(1);
    for workers in [1, 2] {
        let pen = Pen::with(&[]).servers(&s).workers(workers).controlled().udp().start();
        for workers in [1, 4] {
            let second = Pen::with(&["-U"]).listen(pen.address).servers(&s).workers(workers).run();
            assert_eq!(second.code(), 1, "{second:?}");
            let told = second.stderr.contains(&pen.address.to_string()) && second.stderr.contains("in use");
            assert!(told, "{second:?}");
        }
        (0..20).for_each(|_| assert_eq!(pen.udp().ask("hello"), "S0"));
    }
    // Nor with somebody else who has it, also on all addresses.
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    for listen in [format!("127.0.0.1:{port}"), port.to_string()] {
        let ended = Pen::with(&["-U"]).listen(listen).servers(&s).run();
        assert!(ended.code() == 1 && ended.stderr.contains("in use"), "{ended:?}");
    }
}

/// PROCESSES: one that has not moved for ten seconds is replaced; those who waited for it are answered then.
#[test]
fn who_waits_for_a_stuck_worker_is_answered_by_the_next() {
    only_ours!("it has no workers");
    let s = echoes(2);
    let pen = Pen::with(&[]).servers(&s).workers(2).udp().start();
    let clients = clients(&pen, 20);
    let mut answered = BTreeMap::new();
    for (number, client) in clients.iter().enumerate() {
        answered.insert(number, client.ask("hello"));
    }
    let stuck = pen.workers()[0];
    stop(&[stuck]);
    clients.iter().for_each(|client| client.send("are you there?"));
    let replaced = became_true(Duration::from_secs(40), || !pen.workers().contains(&stuck));
    assert!(replaced.is_some(), "a worker that does not move is not replaced");
    for (number, client) in clients.iter().enumerate() {
        assert_eq!(client.answer_to("are you there?"), answered[&number]);
    }
}

/// PROCESSES: without their master the workers end, and let go of the port.
#[test]
fn without_their_master_the_workers_end() {
    only_ours!("it has no workers");
    let s = echoes(1);
    let mut pen = Pen::with(&[]).servers(&s).workers(4).udp().start();
    assert_eq!(pen.udp().ask("hello"), "S0");
    signal(pen.pid, Signal::SIGKILL);
    pen.wait_for_end_within(Duration::from_secs(5));
    assert!(!bound(pen.address.port()));
}

/// In the background it returns when datagrams are taken.
#[test]
fn in_the_background_it_returns_when_it_serves() {
    only_ours!("it returns before it has even tried");
    let s = echoes(1);
    let pen = Pen::with(&[]).servers(&s).background().udp().start();
    assert_eq!(pen.udp().ask("hello"), "S0");
}
