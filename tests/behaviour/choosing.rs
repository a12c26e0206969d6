//! Which server a client gets.

use std::sync::Barrier;
use std::time::Duration;

use crate::support::backend::{greeters, webs};
use crate::support::{Backend, Pen, Scratch, classic, client, free_port, let_pass, only_ours};

/// Round robin has one order, whoever does the choosing.
const WORKERS: [u32; 2] = [1, 4];

/// pen(1), -r: servers take turns, beginning with the second.
#[test]
fn round_robin_goes_round_in_one_order_over_all_workers() {
    for workers in WORKERS {
        let s = webs(3);
        let pen = Pen::with(&["-r"]).servers(&s).workers(workers).start();
        assert_eq!(pen.visits(7), "S1 S2 S0 S1 S2 S0 S1");
    }
}

/// pen(1), WHICH SERVER: a client goes to the server that it visited last; new clients are given the next one.
#[test]
fn a_client_stays_with_its_server_and_new_ones_take_turns() {
    for workers in WORKERS {
        let s = webs(3);
        let pen = Pen::with(&[]).servers(&s).workers(workers).start();
        assert_eq!(pen.visits(4), "S1 S1 S1 S1");
        assert_eq!(pen.visits_from(2..=8), "S2 S0 S1 S2 S0 S1 S2");
        assert_eq!(pen.visits_from(2..=8), "S2 S0 S1 S2 S0 S1 S2");
    }
}

/// pen(1), -h: the address decides for new clients: its bytes as a little-endian number, modulo the servers.
#[test]
fn hash_goes_by_the_address() {
    for workers in WORKERS {
        let s = webs(3);
        let pen = Pen::with(&["-h"]).servers(&s).workers(workers).start();
        assert_eq!(pen.visits_from(1..=7), "S2 S0 S1 S2 S0 S1 S2");
        assert_eq!(pen.visits_from([7, 1, 7]), "S2 S2 S2");
    }
}

/// pen(1), -h with -r: the port counts, too, its bytes swapped.
#[test]
fn hash_with_round_robin_goes_by_address_and_port() {
    let s = webs(5);
    let pen = Pen::with(&["-h", "-r"]).servers(&s).start();
    for _ in 0..25 {
        let stream = pen.connect();
        let port = stream.local_addr().unwrap().port();
        let number = u32::from_le_bytes([127, 0, 0, 1]) ^ u32::from(port.swap_bytes());
        assert_eq!(client::request(stream, "/"), format!("S{}", number % 5), "from port {port}");
    }
}

/// pen(1), -N: the hash decides, and where a client was last is neither stored nor used.
#[test]
fn with_n_a_client_returns_to_its_hash_as_soon_as_that_server_does() {
    only_ours!("it lists -N but takes it for bad usage");
    let mut s = webs(3);
    s[0].down();
    let pen = Pen::with(&["-N", "-b", "1"]).servers(&s).start();
    assert_eq!(pen.visits_from([2]), "S1");
    s[0].up();
    let_pass(Duration::from_millis(1100));
    assert_eq!(pen.visits_from([2, 3, 4]), "S0 S1 S2");
}

/// pen(1), -W: the server with the fewest connections for its weight.
#[test]
fn weight_counts_the_connections_that_are_open() {
    for (weights, expected) in [
        ([1, 2, 3], "G0 G1 G2 G2 G1 G2 G0 G1 G2 G2 G1 G2"),
        ([0, 2, 3], "G1 G2 G2 G1 G2 G1 G2 G2 G1 G2 G1 G2"),
        ([1, 1, 1], "G0 G1 G2 G0 G1 G2 G0 G1 G2 G0 G1 G2"),
    ] {
        for workers in WORKERS {
            let g = greeters(3);
            let servers = g.iter().zip(weights).map(|(server, weight)| format!("{server}:0:0:{weight}"));
            let pen = Pen::with(&["-W"]).servers(servers).workers(workers).start();
            let held: Vec<_> = (2..14).map(|n| pen.hold_from(&format!("127.0.0.{n}"))).collect();
            let names: Vec<_> = held.iter().map(|held| held.name.as_str()).collect();
            if weights[0] == 0 {
                assert!(!names.contains(&"G0"), "a server of weight 0 was chosen: {names:?}");
                assert_eq!(names.iter().filter(|&&name| name == "G1").count(), 5, "{names:?}");
            } else {
                assert_eq!(names.join(" "), expected);
            }
        }
    }
}

/// pen(1), -W: a known client stays with its server.
#[test]
fn weight_leaves_known_clients_where_they_are() {
    let g = greeters(3);
    let pen = Pen::with(&["-W"]).servers(g.iter().map(|server| format!("{server}:0:0:1"))).start();
    let held = pen.hold_many(4);
    assert!(held.iter().all(|held| held.name == "G0"), "{held:?}");
}

/// pen(1), -W: weights that are all 0 count as equal.
#[test]
fn weights_that_are_all_0_are_equal() {
    only_ours!("it then serves nobody");
    let g = greeters(3);
    let pen = Pen::with(&["-W", "-r"]).servers(&g).start();
    let held = pen.hold_many(6);
    let names: Vec<_> = held.iter().map(|held| held.name.as_str()).collect();
    assert_eq!(names.join(" "), "G0 G1 G2 G0 G1 G2");
}

/// pen(1), -W: a connection counts from the moment of choice, so a burst is spread, too.
#[test]
fn weight_spreads_a_burst() {
    only_ours!("it does not count connects that are under way");
    for workers in WORKERS {
        let g = greeters(3);
        let pen = Pen::with(&["-W", "-r"])
            .servers(g.iter().map(|server| format!("{server}:0:0:1")))
            .workers(workers)
            .start();
        let held = burst(&pen, 12);
        for server in &g {
            assert_eq!(server.open(), 4, "{held:?}");
        }
    }
}

/// So many connections at the same moment.
fn burst(pen: &Pen, count: usize) -> Vec<client::Held> {
    let start = Barrier::new(count);
    std::thread::scope(|scope| {
        let connect = || {
            start.wait();
            pen.hold()
        };
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(connect)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// pen(1), prio: the lowest number among the servers that are available.
#[test]
fn prio_takes_the_best_and_then_the_next_best() {
    let mut s = webs(3);
    let servers = |s: &[Backend]| -> Vec<String> {
        s.iter().zip([2, 1, 3]).map(|(server, prio)| format!("{server}:0:0:0:{prio}")).collect()
    };
    let pen = Pen::with(&["-O", "prio"]).servers(servers(&s)).start();
    assert_eq!(pen.visits_from([2, 3, 4]), "S1 S1 S1");
    s[1].down();
    // Who finds out that a server fails goes on in the order of the list; everybody after that, by prio.
    assert_eq!(pen.visits_from([5, 6, 7]), "S2 S0 S0");
}

/// pen(1), prio with -r and soft limits: full servers are passed over, in the order of the list.
#[test]
fn prio_fills_one_server_after_the_other() {
    let g = greeters(3);
    let servers = g.iter().zip([2, 1, 3]).map(|(server, prio)| format!("{server}:2:0:0:{prio}"));
    let pen = Pen::with(&["-r", "-O", "prio"]).servers(servers).workers(4).start();
    let held = pen.hold_many(7);
    let names: Vec<_> = held.iter().map(|held| held.name.as_str()).collect();
    assert_eq!(names.join(" "), "G1 G1 G2 G2 G0 G0 closed");
}

/// pen(1), WHICH SERVER: prio before weight before hash before round robin.
#[test]
fn prio_and_weight_come_before_hash() {
    let s = webs(3);
    let prio = s.iter().zip([2, 1, 3]).map(|(server, prio)| format!("{server}:0:0:5:{prio}"));
    let pen = Pen::with(&["-h", "-W", "-O", "prio"]).servers(prio).start();
    assert_eq!(pen.visits_from([1, 2, 3, 4]), "S1 S1 S1 S1");
    drop(pen);
    let g = greeters(3);
    let weight = g.iter().map(|server| format!("{server}:0:0:1"));
    let pen = Pen::with(&["-h", "-W"]).servers(weight).start();
    let held: Vec<_> = (11..=16).map(|n| pen.hold_from(&format!("127.0.0.{n}"))).collect();
    let mut names: Vec<_> = held.iter().map(|held| held.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names.join(" "), "G0 G0 G1 G1 G2 G2");
}

/// pen(1), -b: a server that refused is left alone for so long, and then tried again.
#[test]
fn a_server_that_refuses_is_skipped_until_its_time_is_up() {
    let mut s = webs(3);
    s[1].down();
    let pen = Pen::with(&["-r", "-b", "3"]).servers(&s).workers(4).start();
    assert_eq!(pen.visits(2), "S2 S2");
    s[1].up();
    assert_eq!(pen.visits(4), "S0 S2 S0 S2");
    assert_eq!(s[1].accepted(), 0, "S1 was tried although its time was not up");
    let_pass(Duration::from_millis(4100));
    let later = pen.visits(6);
    assert_eq!(later.matches("S1").count(), 2, "{later}");
}

/// pen(1), Blacklist: one worker's failed connect spares all the others.
#[test]
fn the_blacklist_is_shared_by_all_workers() {
    let mut s = webs(2);
    s[1].down();
    let pen = Pen::with(&["-r"]).servers(&s).workers(4).start();
    assert_eq!(pen.visit(), "S0");
    s[1].up();
    for _ in 0..40 {
        assert_eq!(pen.visit(), "S0");
    }
    assert_eq!(s[1].accepted(), 0);
}

/// pen(1), -e: the emergency server serves when no regular one can; they are used again when they can.
#[test]
fn the_emergency_server_steps_in_and_out() {
    let (mut s, e) = (webs(2), Backend::web("E"));
    s.iter_mut().for_each(Backend::down);
    let pen = Pen::with(&["-r", "-b", "2", "-e", &e.to_string()]).servers(&s).start();
    assert_eq!(pen.visits(3), "E E E");
    s.iter_mut().for_each(Backend::up);
    let_pass(Duration::from_millis(3100));
    let later = pen.visits(6);
    assert!(!later.ends_with('E') && later.contains("S0") && later.contains("S1"), "{later}");
}

/// pen(1), Fail-over: without an emergency server a client that nobody can serve is closed.
#[test]
fn nobody_to_serve_means_closed() {
    only_ours!("with select it may end itself after a refused connect");
    let mut s = webs(2);
    s.iter_mut().for_each(Backend::down);
    let pen = Pen::with(&[]).servers(&s).start();
    assert_eq!(pen.visits(3), "closed closed closed");
}

/// pen(1), -s: the first choice or nothing, not even the emergency server.
#[test]
fn a_stubborn_pen_does_not_look_elsewhere() {
    let (mut s, e) = (webs(2), Backend::web("E"));
    s.iter_mut().for_each(Backend::down);
    let pen = Pen::with(&["-s", "-e", &e.to_string()]).servers(&s).start();
    assert_eq!(pen.visits(3), "closed closed closed");
    assert_eq!(e.accepted(), 0);
}

/// pen(1), Fail-over: a client that was moved stays where it was moved to.
#[test]
fn a_moved_client_does_not_move_back() {
    only_ours!("with select it may end itself after a refused connect");
    let mut s = webs(3);
    let pen = Pen::with(&["-b", "1"]).servers(&s).start();
    assert_eq!(pen.visit(), "S1");
    s[1].down();
    assert_eq!(pen.visits(2), "S2 S2");
    s[1].up();
    let_pass(Duration::from_millis(2100));
    assert_eq!(pen.visits(2), "S2 S2");
}

/// pen(1), -s: a known client whose server is away is closed, and comes back to that server.
#[test]
fn a_stubborn_pen_waits_for_the_clients_own_server() {
    let mut s = webs(3);
    let pen = Pen::with(&["-s", "-b", "2"]).servers(&s).start();
    assert_eq!(pen.visit(), "S1");
    s[1].down();
    assert_eq!(pen.visits(2), "closed closed");
    s[1].up();
    let_pass(Duration::from_millis(3100));
    assert_eq!(pen.visits(2), "S1 S1");
}

/// pen(1), -h with -s: clients of the server that is away are closed, all the others served.
#[test]
fn a_stubborn_hash_loses_the_clients_of_a_dead_server_only() {
    let mut s = webs(3);
    s[0].down();
    let pen = Pen::with(&["-h", "-s"]).servers(&s).start();
    assert_eq!(pen.visits_from(1..=7), "S2 closed S1 S2 closed S1 S2");
}

/// pen(1), -b: 0 means no blacklist; still, one client tries each server once.
#[test]
fn without_a_blacklist_dead_servers_are_tried_once_for_a_client() {
    only_ours!("it then tries for ever");
    let mut s = webs(2);
    s.iter_mut().for_each(Backend::down);
    let pen = Pen::with(&["-b", "0", "-r"]).servers(&s).start();
    let start = std::time::Instant::now();
    assert_eq!(pen.visits(4), "closed closed closed closed");
    assert!(start.elapsed() < Duration::from_secs(5));
    s[1].up();
    assert_eq!(pen.visits(2), "S1 S1");
}

/// pen(1), -t: a server that does not answer costs its first client that long, and nobody after that.
#[test]
fn a_server_that_hangs_delays_one_client_once() {
    let s = [Backend::web("S0"), Backend::hanging("S1"), Backend::web("S2")];
    let pen = Pen::with(&["-t", "1", "-r"]).servers(&s).start();
    let start = std::time::Instant::now();
    assert_eq!(pen.visit(), "S2");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(4), "took {took:?}");
    let start = std::time::Instant::now();
    let more = pen.visits(4);
    assert!(
        !more.contains("closed") && start.elapsed() < Duration::from_millis(900),
        "{more} {:?}",
        start.elapsed()
    );
}

/// pen(1), ACCESS LISTS, acl and client_acl: the first entry that matches decides; none: the opposite of the last entry.
#[test]
fn the_client_list_lets_in_and_keeps_out() {
    for (entries, sources, expected) in [
        (&["acl 1 permit 127.0.0.2"][..], &["127.0.0.2", "127.0.0.3"][..], "S0 closed"),
        (&["acl 1 deny 127.0.0.2"], &["127.0.0.2", "127.0.0.3"], "closed S0"),
        (
            &["acl 1 permit 127.0.0.2", "acl 1 deny 127.0.0.3"],
            &["127.0.0.2", "127.0.0.4", "127.0.0.3"],
            "S0 S0 closed",
        ),
        (
            &["acl 1 deny 127.0.0.3", "acl 1 permit 127.0.0.0 255.255.255.0"],
            &["127.0.0.3", "127.0.0.2", "127.0.1.1"],
            "closed S0 closed",
        ),
    ] {
        let s = webs(1);
        let mut options = vec!["-O", "client_acl 1"];
        entries.iter().for_each(|entry| options.extend(["-O", entry]));
        let pen = Pen::with(&options).servers(&s).start();
        let seen: Vec<_> = sources.iter().map(|source| pen.visit_from(source)).collect();
        assert_eq!(seen.join(" "), expected, "{entries:?}");
    }
}

/// pen(1), ACCESS LISTS, acl: entries with a colon are IPv6.
#[test]
fn lists_know_ipv6() {
    for (entry, expected) in [
        ("acl 1 permit ::1/128", "S0"),
        ("acl 1 deny ::/64", "closed"),
        ("acl 1 permit 2001:db8::/32", "closed"),
    ] {
        let s = webs(1);
        let mut pen = Pen::with(&["-O", "client_acl 1", "-O", entry]).listen("::1:PORT").servers(&s).start();
        pen.address.set_ip("::1".parse().unwrap());
        assert_eq!(pen.visit_from("::1"), expected, "{entry}");
    }
}

/// pen(1), ACCESS LISTS, acl: an IPv4 client of a listener for both families is an IPv4 client, in lists and in the hash.
#[test]
fn ipv4_clients_of_a_dual_stack_listener_count_as_ipv4() {
    only_ours!("it does not see that ::ffff:127.0.0.2 is 127.0.0.2");
    let s = webs(3);
    let pen = Pen::with(&["-h", "-O", "client_acl 1", "-O", "acl 1 deny 127.0.0.3"]).listen(":::PORT");
    let pen = pen.servers(&s).start();
    assert_eq!(pen.visits_from(1..=5), "S2 S0 closed S2 S0");
}

/// pen(1), -B: clients that the list keeps out are sent to the abuse server; list 0 is no exception.
#[test]
fn the_abuse_server_takes_whom_the_list_keeps_out() {
    for list in ["1", "0"] {
        if list == "0" && classic() {
            continue; // its abuse server is closed to whom list 0 denies
        }
        let (s, x) = (webs(1), Backend::web("X"));
        let (entry, acl) = (format!("acl {list} deny 127.0.0.3"), format!("client_acl {list}"));
        let pen = Pen::with(&["-B", &x.to_string(), "-O", &entry, "-O", &acl]).servers(&s).start();
        assert_eq!(pen.visits_from([2, 3, 3, 4]), "S0 X X S0", "list {list}");
    }
}

/// pen(1), -e: the emergency server is not for clients that the list keeps out.
#[test]
fn the_emergency_server_is_no_way_round_the_list() {
    only_ours!("there it is");
    let (s, e) = (webs(1), Backend::web("E"));
    let options = ["-e", &e.to_string(), "-O", "acl 1 deny 127.0.0.3", "-O", "client_acl 1"];
    let pen = Pen::with(&options).servers(&s).start();
    assert_eq!(pen.visits_from([3, 2, 3]), "closed S0 closed");
    assert_eq!(e.accepted(), 0);
}

/// pen(1), server acl: a server may have a list of its own; clients that it keeps out go to the next server.
#[test]
fn a_server_with_a_list_of_its_own_is_passed_over() {
    let (s, files, port) = (webs(3), Scratch::new(), free_port());
    let server = |n: usize| format!("server {n} address 127.0.0.1 port {}", s[n].port());
    let lines = [
        format!("listen 127.0.0.1:{port}"),
        "acl 1 permit 127.0.0.7".into(),
        server(0),
        server(1) + " acl 1",
        server(2),
    ];
    let config = files.write("pen.cfg", lines.join("\n"));
    let pen = Pen::with(&["-r", "-F", &config]).listen(format!("127.0.0.1:{port}")).start();
    assert_eq!(pen.visits_from([8; 6]), "S2 S2 S0 S2 S2 S0");
    assert_eq!(pen.visits_from([7; 3]), "S1 S2 S0");
}

/// pen(1), Limits: a server with so many connections gets no more; who finds no place is closed.
#[test]
fn a_full_server_turns_clients_away() {
    only_ours!("it counts clients that it closed as connections that ended");
    let g = greeters(1);
    let pen = Pen::with(&[]).servers([format!("{}:1", g[0])]).workers(4).start();
    let first = pen.hold_from("127.0.0.2");
    assert_eq!(first.name, "G0");
    for n in 3..8 {
        assert_eq!(pen.hold_from(&format!("127.0.0.{n}")).name, "closed");
    }
    assert!(first.echoes());
    drop(first);
    crate::support::wait_until("the place is free again", || pen.hold_from("127.0.0.9").name == "G0");
}

/// pen(1), Limits: a client that comes back may have a place above the soft limit.
#[test]
fn the_hard_limit_is_for_clients_that_return() {
    only_ours!("it counts clients that it closed as connections that ended");
    let g = greeters(2);
    let pen = Pen::with(&[]).servers(g.iter().map(|server| format!("{server}:1:3"))).workers(4).start();
    let held = pen.hold_many(8);
    let names: Vec<_> = held.iter().map(|held| held.name.as_str()).collect();
    assert_eq!(names.join(" "), "G1 G1 G1 G0 G0 G0 closed closed");
    assert_eq!(pen.hold_from("127.0.0.9").name, "closed", "a new client has the soft limit only");
}

/// pen(1), Limits: places are reserved before connecting, so a burst does not slip through.
#[test]
fn a_burst_does_not_exceed_the_limit() {
    only_ours!("it does not count connects that are under way");
    for workers in WORKERS {
        let g = greeters(1);
        let pen = Pen::with(&["-r"]).servers([format!("{}:2", g[0])]).workers(workers).start();
        let held = burst(&pen, 10);
        assert_eq!(held.iter().filter(|held| held.name == "G0").count(), 2, "{held:?}");
        assert_eq!(g[0].most(), 2);
    }
}

/// pen(1), -c: the table of clients holds so many; the one that was away longest makes room.
#[test]
fn the_client_away_for_longest_is_forgotten_first() {
    for workers in WORKERS {
        let s = webs(3);
        let pen = Pen::with(&["-c", "2"]).servers(&s).workers(workers).start();
        let visit = |n| {
            if classic() {
                let_pass(Duration::from_millis(1100)); // it knows whole seconds only
            }
            pen.visits_from([n])
        };
        let seen: Vec<_> = [2, 3, 2, 4, 2, 3].into_iter().map(visit).collect();
        assert_eq!(seen.join(" "), "S1 S2 S1 S0 S1 S1");
    }
}

/// pen(1), -T: a client that was away for longer is new again.
#[test]
fn a_client_is_forgotten_after_the_tracking_time() {
    only_ours!("a client that finds its old entry keeps its server, however late it is");
    let s = webs(3);
    let pen = Pen::with(&["-T", "2"]).servers(&s).start();
    assert_eq!(pen.visits(3), "S1 S1 S1");
    let_pass(Duration::from_millis(1200));
    assert_eq!(pen.visit(), "S1");
    let_pass(Duration::from_millis(1200));
    assert_eq!(pen.visit(), "S1", "every visit begins the time anew");
    let_pass(Duration::from_millis(3300));
    assert_eq!(pen.visit(), "S2");
}

/// pen(1), Addresses: servers can be IPv6, in brackets, and clients, too; a client of either family has its own entry.
#[test]
fn ipv6_clients_and_servers_are_served() {
    let port = free_port();
    let s = [Backend::web("S0"), Backend::web_at("S1", "::1".parse().unwrap(), port)];
    let mut pen = Pen::with(&[]).listen("[::1]:PORT");
    if classic() {
        pen = pen.listen("::1:PORT"); // it knows no brackets there
    }
    let mut pen = pen.servers(&s).start();
    pen.address.set_ip("::1".parse().unwrap());
    assert_eq!(pen.visit_from("::1"), "S1");
    assert_eq!(pen.visit_from("::1"), "S1");
}

/// pen(1), Blacklist: when the time is up one connection is the probe, and all others go elsewhere meanwhile.
#[test]
fn only_one_connection_probes_a_server() {
    only_ours!("all try it");
    let s = [Backend::web("S0"), Backend::hanging("S1")];
    let pen = Pen::with(&["-r", "-t", "1", "-b", "2"]).servers(&s).workers(4).start();
    assert_eq!(pen.visit(), "S0");
    let_pass(Duration::from_millis(2500));
    let slow = std::thread::scope(|scope| {
        let visit = || {
            let start = std::time::Instant::now();
            assert_eq!(pen.visit(), "S0");
            start.elapsed() > Duration::from_millis(900)
        };
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(visit)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap().then_some(())).count()
    });
    assert_eq!(slow, 1, "{slow} of 12 clients waited for the server that hangs");
}

/// pen(1), CONFIGURATION, server: `blacklist` puts a server on the blacklist without anything having failed.
#[test]
fn a_server_can_be_put_on_the_blacklist() {
    let (s, files, port) = (webs(3), Scratch::new(), free_port());
    let mut lines = vec![format!("listen 127.0.0.1:{port}")];
    lines
        .extend(s.iter().enumerate().map(|(n, s)| format!("server {n} address 127.0.0.1 port {}", s.port())));
    lines.push("server 1 blacklist 100".into());
    let config = files.write("pen.cfg", lines.join("\n"));
    let pen = Pen::with(&["-r", "-F", &config]).listen(format!("127.0.0.1:{port}")).workers(4).start();
    assert_eq!(pen.visits(4), "S2 S0 S2 S0");
}

/// pen(1), CONFIGURATION, dummy: every client gets a small page, whatever the servers do.
#[test]
fn dummy_answers_by_itself() {
    let mut s = webs(1);
    s[0].down();
    let pen = Pen::with(&["-O", "dummy"]).servers(&s).start();
    for _ in 0..5 {
        let stream = pen.connect();
        std::io::Write::write_all(&mut &stream, b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let (answer, _) = client::read_all(&stream);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.") && head.contains(" 200 "), "{head}");
        let length = head
            .to_lowercase()
            .split("content-length: ")
            .nth(1)
            .unwrap()
            .split("\r\n")
            .next()
            .unwrap()
            .to_owned();
        assert_eq!(length, body.len().to_string());
    }
}

/// pen(1), CONFIGURATION, source: the address that servers see.
#[test]
fn servers_see_the_source_address() {
    let server = Backend::serving("S", |visit| {
        let source = visit.stream.peer_addr().unwrap().ip().to_string();
        if visit.read_head() {
            visit.answer(&source);
        }
    });
    let pen = Pen::with(&["-O", "source 127.0.0.55"]).servers([&server]).start();
    assert_eq!(pen.visit_from("127.0.0.7"), "127.0.0.55");
}
