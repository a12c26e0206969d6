//! Servers of datagrams that are not there: pen(1), Fail-over and Blacklist. ICMP tells of them.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::udp_choosing::NO_SERVER;
use crate::support::network::{Machines, SERVERS};
use crate::support::udp::{UdpClient, echoes};
use crate::support::{Pen, UdpServer, let_pass, needs_root, only_ours, processes, wait_for, wait_until};

const WORKERS: [u32; 2] = [1, 4];

/// Fail-over: a flow's first datagram that is refused goes to the next server, and nobody else tries that one.
#[test]
fn a_refused_first_datagram_goes_to_the_next_server() {
    only_ours!("it closes such a flow");
    for workers in WORKERS {
        let mut s = echoes(3);
        s[1].down();
        let pen = Pen::with(&["-r"]).servers(&s).workers(workers).controlled().udp().start();
        // Answered, without being sent again by the client.
        assert_eq!(pen.udp_asks([2]), "S2");
        assert!(pen.blacklisted(1), "{}", pen.stderr());
        assert!(pen.stderr().contains("refused"), "{}", pen.stderr());
        assert_eq!(pen.udp_asks([3, 4, 5, 6]), "S2 S0 S2 S0");
        assert!(!pen.blacklisted(0) && !pen.blacklisted(2));
        // Whoever knocks there now is heard.
        s[1].up();
        assert_eq!(pen.udp_asks([3, 4, 5, 6]), "S2 S0 S2 S0");
        assert_eq!(s[1].count(), 0, "it is on the blacklist");
        assert_eq!(pen.total(NO_SERVER), 0);
    }
}

/// Fail-over: as long as a server has not answered, what was sent to it first and what was sent last go on to the next one
/// when it is gone.
#[test]
fn the_first_datagram_and_the_last_go_to_the_next_server() {
    only_ours!("it closes such a flow");
    for workers in WORKERS {
        let mut s = [UdpServer::echo("S0"), UdpServer::silent("S1"), UdpServer::echo("S2")];
        let pen = Pen::with(&["-r", "-t", "60"]).servers(&s).workers(workers).controlled().udp().start();
        let client = pen.udp();
        for (number, what) in ["one", "two", "three"].into_iter().enumerate() {
            client.send(what);
            s[1].wait_for(number + 1);
        }
        s[1].down();
        client.send("four");
        assert_eq!([client.hear(), client.hear()], ["S2 one", "S2 four"]);
        assert_eq!(client.ask("five"), "S2");
        assert_eq!(s[2].count(), 3);
        assert_eq!(pen.total(NO_SERVER), 0);
    }
}

/// Blacklist: however many clients wait for a server that turns out to be gone, that is told once.
#[test]
fn a_failure_is_told_once() {
    only_ours!("it has no blacklist for them");
    for workers in WORKERS {
        let mut s = [UdpServer::echo("S0"), UdpServer::silent("S1")];
        let pen = Pen::with(&["-t", "60"]).servers(&s).workers(workers).controlled().udp().start();
        let clients: Vec<_> = (0..30).map(|_| pen.udp()).collect();
        clients.iter().for_each(|client| client.send("hello"));
        s[1].wait_for(clients.len());
        s[1].down();
        clients.iter().for_each(|client| client.send("are you there?"));
        s[0].wait_for(2 * clients.len());
        assert_eq!(pen.stderr().matches("left alone for 30 s").count(), 1, "{}", pen.stderr());
    }
}

/// Fail-over: a datagram as long as there is one is sent again whole.
#[test]
fn the_longest_first_datagram_is_sent_again_whole() {
    only_ours!("it closes such a flow");
    let s = [UdpServer::mirror("S0"), UdpServer::absent("S1"), UdpServer::mirror("S2")];
    let pen = Pen::with(&["-r"]).servers(&s).udp().start();
    let client = pen.udp();
    let sent: Vec<u8> = (0..crate::support::udp::LARGEST).map(|at| (at % 251) as u8).collect();
    client.send(&sent);
    assert!(client.receive() == sent);
    let client = pen.udp();
    client.send("");
    assert_eq!(client.hear(), "");
}

/// Blacklist: when its time is up the server is tried again.
#[test]
fn a_server_that_came_back_is_used_again() {
    only_ours!("it has no blacklist for them");
    let mut s = echoes(2);
    s[1].down();
    let pen = Pen::with(&["-r", "-b", "1"]).servers(&s).udp().start();
    assert_eq!(pen.udp_asks([2, 3]), "S0 S0");
    s[1].up();
    wait_until("it is used again", || pen.udp_asks([4]) == "S1");
}

/// Blacklist: a server that goes on refusing goes on being passed over; clients do not notice.
#[test]
fn a_probe_that_is_refused_goes_on_to_another_server() {
    only_ours!("it has no blacklist for them");
    let s = [UdpServer::echo("S0"), UdpServer::absent("S1")];
    let pen = Pen::with(&["-r", "-b", "1"]).servers(&s).workers(4).controlled().udp().start();
    let told = || pen.stderr().matches("refused").count();
    let mut before = 0;
    for _ in 0..3 {
        wait_for("it is probed", Duration::from_secs(20), || {
            assert_eq!(pen.udp_asks([2, 3, 4]), "S0 S0 S0");
            told() > before
        });
        before = told();
    }
}

/// A client that is known goes elsewhere when its server is gone, and stays there.
#[test]
fn a_client_stays_with_the_server_that_took_it_over() {
    only_ours!("it closes such a flow");
    let mut s = echoes(3);
    let pen = Pen::with(&["-b", "1"]).servers(&s).udp().start();
    assert_eq!(pen.udp_asks([2]), "S1");
    s[1].down();
    assert_eq!(pen.udp_asks([2, 2]), "S2 S2");
    s[1].up();
    let_pass(Duration::from_millis(2500));
    assert_eq!(pen.udp_asks([2, 2]), "S2 S2");
}

/// -s: nothing goes elsewhere; the client is served again as soon as its server is.
#[test]
fn stubborn_clients_wait_for_their_server() {
    only_ours!("it has no blacklist for them");
    let mut s = echoes(3);
    let pen = Pen::with(&["-s", "-b", "1"]).servers(&s).controlled().udp().start();
    assert_eq!(pen.udp_asks([2]), "S1");
    s[1].down();
    pen.udp_from("127.0.0.2").send("is it there?");
    pen.wait_for_total(NO_SERVER, 1);
    assert_eq!((s[0].count(), s[2].count()), (0, 0));
    s[1].up();
    let client = pen.udp_from("127.0.0.2");
    let (name, _) = client.insist("and now?");
    assert_eq!(name, "S1");
}

/// -e: when there is no other server, the emergency server.
#[test]
fn the_emergency_server_is_the_last_resort() {
    only_ours!("it closes such a flow");
    for workers in WORKERS {
        let (mut s, emergency) = (echoes(2), UdpServer::echo("E"));
        s.iter_mut().for_each(UdpServer::down);
        let pen = Pen::with(&["-b", "1", "-e", &emergency.to_string()]).servers(&s).workers(workers);
        let pen = pen.udp().start();
        assert_eq!(pen.udp_asks([2, 3, 2]), "E E E");
        s[0].up();
        wait_until("the regular server is used again", || pen.udp_asks([2]) == "S0");
    }
}

/// With -s, not even that.
#[test]
fn stubborn_clients_get_no_emergency_server() {
    only_ours!("it does not count them");
    let (s, emergency) = (UdpServer::absent("S0"), UdpServer::echo("E"));
    let pen = Pen::with(&["-s", "-e", &emergency.to_string()]).servers([&s]).controlled().udp().start();
    pen.udp().send("is anybody there?");
    pen.wait_for_total(NO_SERVER, 1);
    assert_eq!(emergency.count(), 0);
}

/// If no server is there nothing is answered, and everything is when one comes back.
#[test]
fn without_any_server_datagrams_are_lost_and_counted() {
    only_ours!("it does not count them");
    let mut s = echoes(2);
    s.iter_mut().for_each(UdpServer::down);
    let pen = Pen::with(&["-b", "1"]).servers(&s).workers(1).controlled().udp().start();
    let client = pen.udp();
    for count in 1..=5 {
        client.send("is anybody there?");
        wait_until("it is lost", || pen.total(NO_SERVER) >= count);
    }
    assert_eq!((pen.total(NO_SERVER), pen.flows()), (5, 0));
    s.iter_mut().for_each(UdpServer::up);
    let (name, _) = client.insist("and now?");
    assert!(name.starts_with('S'));
}

/// A server that dies in the middle of a flow: what was sent to it is lost, the next datagram goes elsewhere.
#[test]
fn a_server_that_dies_in_mid_flow_is_left_with_the_next_datagram() {
    only_ours!("it has no blacklist for them");
    for workers in WORKERS {
        let mut s = echoes(3);
        let pen = Pen::with(&[]).servers(&s).workers(workers).controlled().udp().start();
        let client = pen.udp();
        assert_eq!([client.ask("one"), client.ask("two")], ["S1", "S1"]);
        s[1].down();
        client.send("into the void");
        wait_until("that is heard of", || pen.blacklisted(1));
        wait_until("the flow has ended", || pen.flows() == 0);
        assert_eq!(client.ask("three"), "S2");
        assert_eq!(client.ask("four"), "S2");
        assert_eq!(pen.udp_asks([3, 4]), "S2 S0", "for everybody");
        assert!(!s[0].heard().iter().chain(&s[2].heard()).any(|heard| heard.bytes == b"into the void"));
    }
}

/// Many flows to one server that dies: all go elsewhere, and the count of flows is right.
#[test]
fn all_flows_leave_a_dead_server() {
    only_ours!("it has no blacklist for them");
    let mut s = echoes(2);
    let pen = Pen::with(&[]).servers(&s).workers(4).controlled().udp().start();
    let clients: Vec<_> = (2..42).map(|n| pen.udp_from(&format!("127.0.0.{n}"))).collect();
    for client in &clients {
        client.ask("hello");
    }
    assert_eq!(pen.flows_of(), [20, 20]);
    s[1].down();
    for client in &clients {
        client.send("are you there?");
    }
    wait_until("its flows have ended", || pen.flows_of() == [20, 0]);
    for client in &clients {
        // Half of them have had an answer already.
        assert_eq!(client.insist("and now?").0, "S0");
    }
    assert_eq!(pen.flows_of(), [40, 0]);
}

/// A host that does not answer ARP is as dead as one that refuses.
#[test]
fn a_host_that_cannot_be_reached_is_passed_over() {
    needs_root!();
    only_ours!("it does not hear of it");
    let Some(machines) = Machines::new() else { return };
    for (family, (absent, to)) in
        [("198.51.100.77", "192.0.2.254"), ("[2001:db8:2::77]", "2001:db8:1::fe")].into_iter().enumerate()
    {
        let server = machines.servers.inside(|| UdpServer::echo_at("S0", SERVERS[family].parse().unwrap()));
        let servers = [server.to_string(), format!("{absent}:{}", server.port())];
        let pen = machines.pen.inside(|| {
            Pen::with(&["-r", "-t", "60"]).listen("[::]:PORT").servers(&servers).controlled().udp().start()
        });
        let source = ["192.0.2.1", "2001:db8:1::1"][family];
        let ask = || {
            machines.clients.inside(|| {
                let to: std::net::IpAddr = to.parse().unwrap();
                UdpClient::new(source.parse().unwrap(), (to, pen.address.port()).into()).ask("hello")
            })
        };
        assert_eq!([ask(), ask()], ["S0", "S0"]);
        assert!(pen.blacklisted(1), "{}", pen.stderr());
    }
}

/// A refusal that comes to a worker which is stopped for a while does no harm: it learns of many things at once.
#[test]
fn refusals_that_come_late_are_understood() {
    only_ours!("it has no workers");
    let mut s = echoes(2);
    let pen = Pen::with(&[]).servers(&s).workers(1).controlled().udp().start();
    let clients: Vec<_> = (2..12).map(|n| pen.udp_from(&format!("127.0.0.{n}"))).collect();
    for client in &clients {
        client.ask("hello");
    }
    let worker = Pid::from_raw(pen.workers()[0]);
    for round in 0..3 {
        // They send, the server goes and comes back, all while nobody looks.
        kill(worker, Signal::SIGSTOP).unwrap();
        wait_until("it is stopped", || {
            processes::stat(worker.as_raw()).is_some_and(|stat| stat.state == 'T')
        });
        for client in &clients {
            client.send(format!("round {round}"));
            client.send(format!("round {round} again"));
        }
        // After the first time all are at the other one, and so on.
        let victim = 1 - round % 2;
        s[victim].down();
        kill(worker, Signal::SIGCONT).unwrap();
        wait_until("it is noticed", || pen.blacklisted(victim));
        s[victim].up();
        pen.tell(&format!("server {victim} blacklist 0"));
        for client in &clients {
            client.insist("and now?");
        }
    }
    assert_eq!(pen.workers(), [worker.as_raw()]);
}
