//! Which server a flow gets: pen(1), WHICH SERVER and Limits, of datagrams.

use std::time::Duration;

use crate::support::udp::{UdpClient, echoes};
use crate::support::{Pen, UdpServer, let_pass, only_ours, wait_until};

const WORKERS: [u32; 2] = [1, 4];

/// New clients that keep their flows: each with the name of its server.
fn hold(pen: &Pen, last_bytes: impl IntoIterator<Item = u8>) -> Vec<(UdpClient, String)> {
    let hold = |n| {
        let client = pen.udp_from(&format!("127.0.0.{n}"));
        let name = client.ask(&format!("from {n}"));
        (client, name)
    };
    last_bytes.into_iter().map(hold).collect()
}

fn names(held: &[(UdpClient, String)]) -> String {
    held.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(" ")
}

/// -h: the address decides for new clients.
#[test]
fn hash_goes_by_the_address() {
    for workers in WORKERS {
        let s = echoes(3);
        let pen = Pen::with(&["-h"]).servers(&s).workers(workers).udp().start();
        assert_eq!(pen.udp_asks(1..=7), "S2 S0 S1 S2 S0 S1 S2");
        assert_eq!(pen.udp_asks([7, 1, 7]), "S2 S2 S2");
    }
}

/// -h with -r: the port counts, too.
#[test]
fn hash_with_round_robin_goes_by_address_and_port() {
    let s = echoes(5);
    let pen = Pen::with(&["-h", "-r"]).servers(&s).udp().start();
    for _ in 0..25 {
        let client = pen.udp();
        let number = u32::from_le_bytes([127, 0, 0, 1]) ^ u32::from(client.port().swap_bytes());
        assert_eq!(client.ask("hello"), format!("S{}", number % 5), "from port {}", client.port());
    }
}

/// -W: the server with the fewest flows for its weight.
#[test]
fn weight_counts_the_flows_that_there_are() {
    for (weights, expected) in [
        ([1, 2, 3], "S0 S1 S2 S2 S1 S2 S0 S1 S2 S2 S1 S2"),
        ([1, 1, 1], "S0 S1 S2 S0 S1 S2 S0 S1 S2 S0 S1 S2"),
    ] {
        for workers in WORKERS {
            let s = echoes(3);
            let servers = s.iter().zip(weights).map(|(server, weight)| format!("{server}:0:0:{weight}"));
            let pen = Pen::with(&["-W"]).servers(servers).workers(workers).udp().start();
            assert_eq!(names(&hold(&pen, 2..14)), expected);
        }
    }
}

/// prio: the best server that is not on the blacklist.
#[test]
fn prio_takes_the_best_that_there_is() {
    only_ours!("a control port for datagrams cannot be had in its build");
    let s = echoes(3);
    let servers = s.iter().zip([2, 1, 3]).map(|(server, prio)| format!("{server}:0:0:0:{prio}"));
    let pen = Pen::with(&["-O", "prio"]).servers(servers).controlled().udp().start();
    assert_eq!(pen.udp_asks(2..=4), "S1 S1 S1");
    pen.tell("server 1 blacklist 100");
    assert_eq!(pen.udp_asks(5..=7), "S0 S0 S0");
    pen.tell("server 1 blacklist 0");
    assert_eq!(pen.udp_asks(8..=9), "S1 S1");
}

/// client_acl: whom it refuses gets no answer, and takes no place; what he sent is counted.
#[test]
fn refused_clients_are_not_served() {
    only_ours!("it does not count them");
    let s = echoes(2);
    let options = ["-O", "acl 1 permit 127.0.0.2", "-O", "client_acl 1"];
    let pen = Pen::with(&options).servers(&s).controlled().udp().start();
    let refused = pen.udp_from("127.0.0.3");
    refused.send("let me in");
    refused.send("please");
    pen.wait_for_total(NO_SERVER, 2);
    assert_eq!(pen.udp_asks([2, 2]), "S1 S1");
    assert_eq!((s[0].count(), s[1].count(), pen.flows()), (0, 2, 2));
    pen.tell("no acl 1");
    assert!(refused.ask("now?").starts_with('S'), "a refused client is refused for ever");
}

/// The column of the page that counts datagrams for which there was no server.
pub const NO_SERVER: &str = "lost: no server";

/// -B: refused clients go to the abuse server.
#[test]
fn refused_clients_go_to_the_abuse_server() {
    let (s, abuse) = (echoes(2), UdpServer::echo("B"));
    let options = ["-r", "-B", &abuse.to_string(), "-O", "acl 1 permit 127.0.0.2", "-O", "client_acl 1"];
    let pen = Pen::with(&options).servers(&s).udp().start();
    assert_eq!(pen.udp_asks([3, 2, 3, 2, 4]), "B S1 B S0 B");
}

/// server N acl: who is not let in by his server goes to the next.
#[test]
fn a_servers_own_list_counts() {
    only_ours!("it shows the lists of another version");
    let s = echoes(3);
    let options = ["-r", "-O", "acl 1 permit 127.0.0.7", "-O", "server 1 acl 1"];
    let pen = Pen::with(&options).servers(&s).udp().start();
    assert_eq!(pen.udp_asks([8; 6]), "S2 S2 S0 S2 S2 S0");
    assert_eq!(pen.udp_asks([7; 3]), "S1 S2 S0");
}

/// Limits: a server with so many flows gets no more; who finds no place gets no answer, until there is one.
#[test]
fn a_full_server_takes_no_more_flows() {
    only_ours!("it does not count connects that are under way");
    for workers in WORKERS {
        let s = echoes(1);
        let pen = Pen::with(&["-r", "-O", "udp_timeout 2"]).servers([format!("{}:2", s[0])]);
        let pen = pen.workers(workers).controlled().udp().start();
        let held = hold(&pen, [2, 3]);
        let third = pen.udp_from("127.0.0.4");
        third.send("is there room?");
        pen.wait_for_total(NO_SERVER, 1);
        for (client, name) in &held {
            assert_eq!(client.ask("still there?"), *name);
        }
        assert_eq!(s[0].count(), 4, "more flows than allowed");
        pen.wait_for_no_flow();
        assert_eq!(third.ask("and now?"), "S0");
    }
}

/// Limits: a client that comes back may have a place above the soft limit.
#[test]
fn the_hard_limit_is_for_clients_that_return() {
    only_ours!("it does not count connects that are under way");
    for workers in WORKERS {
        let s = echoes(2);
        let servers = s.iter().map(|server| format!("{server}:1:3"));
        let pen = Pen::with(&[]).servers(servers).workers(workers).controlled().udp().start();
        let held = hold(&pen, [1; 6]);
        assert_eq!(names(&held), "S1 S1 S1 S0 S0 S0");
        pen.udp().send("a seventh");
        pen.wait_for_total(NO_SERVER, 1);
        pen.udp_from("127.0.0.9").send("another client");
        pen.wait_for_total(NO_SERVER, 2);
        assert_eq!(pen.flows_of(), [3, 3]);
    }
}

/// Limits: a burst of new clients does not slip through.
#[test]
fn a_burst_does_not_exceed_the_limit() {
    only_ours!("it does not count connects that are under way");
    for workers in WORKERS {
        let s = echoes(2);
        let servers = s.iter().map(|server| format!("{server}:5"));
        let pen = Pen::with(&["-r"]).servers(servers).workers(workers).controlled().udp().start();
        let clients: Vec<_> = (0..100).map(|_| pen.udp()).collect();
        for client in &clients {
            client.send("hello");
        }
        pen.wait_for_total(NO_SERVER, 90);
        assert_eq!((pen.flows_of(), s[0].wait_for(5).len(), s[1].wait_for(5).len()), (vec![5, 5], 5, 5));
    }
}

/// -T: a client that was away for longer is new again.
#[test]
fn a_client_is_forgotten_after_the_tracking_time() {
    only_ours!("a client that finds its old entry keeps its server, however late it is");
    let s = echoes(3);
    let pen = Pen::with(&["-T", "2"]).servers(&s).udp().start();
    assert_eq!(pen.udp_asks([1, 1]), "S1 S1");
    let_pass(Duration::from_millis(3300));
    assert_eq!(pen.udp_asks([1]), "S2");
}

/// drain: a server that is drained gets no new clients; flows stay.
#[test]
fn a_drained_server_keeps_its_flows() {
    only_ours!("it cannot");
    let s = echoes(2);
    let pen = Pen::with(&["-r"]).servers(&s).controlled().udp().start();
    let client = pen.udp();
    assert_eq!(client.ask("hello"), "S1");
    pen.tell("drain 1");
    assert_eq!(pen.udp_asks([1; 3]), "S0 S0 S0");
    assert_eq!(client.ask("still there?"), "S1");
    pen.tell("undrain 1");
    wait_until("it is used again", || pen.udp_asks([1]) == "S1");
}
