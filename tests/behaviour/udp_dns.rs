//! pen(1), -U and `listen udp`, with name servers (NSD) and the programs that people ask them with: dig and dnsperf.

use std::collections::BTreeSet;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::dns::{NameServer, OUTSTANDING, dig, dnsperf, two_name_servers, who};
use crate::support::{Pen, Scratch, free_port, only_ours, wait_until};

/// How many questions a long run has.
const MANY: usize = 20_000;

/// A pen that serves name servers as one does: by UDP and TCP on one port.
fn both(servers: &[NameServer]) -> Pen {
    let files = Scratch::new();
    let here = format!("127.0.0.1:{}", free_port());
    let config = files.write("pen.cfg", format!("listen udp {here}\nlisten tcp {here}\n"));
    Pen::with(&["-F", &config]).servers(servers).listen(here).start()
}

/// A pen for datagrams, each question on its own, that writes down what it has passed on.
fn each_on_its_own(servers: &[NameServer], files: &Scratch) -> Pen {
    let options = ["-U", "-r", "-O", "udp_timeout 30 replies 1", "-l", &files.file("log")];
    Pen::with(&options).servers(servers).start()
}

/// How many datagrams pen has written down.
fn passed_on(files: &Scratch) -> usize {
    files.read("log").lines().count()
}

/// `listen`: one service has UDP and TCP, and a client has one server by both.
#[test]
fn dig_is_answered_by_udp_and_tcp() {
    only_ours!("it has one listener");
    let Some(servers) = two_name_servers(&[]) else { return };
    let pen = both(&servers);
    let mut names = BTreeSet::new();
    for n in 2..8 {
        let client = format!("127.0.0.{n}");
        let first = who(&client, pen.address, &[]);
        for words in [&[][..], &["+tcp"], &["+noedns"], &["+tcp", "+keepopen"]] {
            assert_eq!(who(&client, pen.address, words), first, "{words:?}");
        }
        names.insert(first);
    }
    assert_eq!(names, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
}

/// -U: an answer of any size comes whole; a client whose room it exceeds gets it by TCP, from the same pen.
#[test]
fn large_answers_come_whole_and_truncated_ones_by_tcp() {
    only_ours!("it has one listener");
    let Some(servers) = two_name_servers(&[]) else { return };
    let pen = both(&servers);
    let here = format!("{}#{}", pen.address.ip(), pen.address.port());
    for (size, by, retried) in [("4096", "UDP", false), ("512", "TCP", true)] {
        let said = dig("127.0.0.7", pen.address, &["large.pen.test", "TXT", &format!("+bufsize={size}")]);
        assert_eq!(said.contains("Truncated, retrying in TCP mode"), retried, "{said}");
        assert!(said.contains(&format!("SERVER: {here}({}) ({by})", pen.address.ip())), "{said}");
        let texts = |n| said.contains(&format!("\"{n:060}\""));
        assert!((0..40).all(texts), "{said}");
    }
}

/// udp_timeout with `replies 1`: every question of every client is answered, by all servers.
#[test]
fn dnsperf_loses_nothing() {
    only_ours!("it forgets flows when it has many");
    let Some(servers) = two_name_servers(&["dnsperf"]) else { return };
    let files = Scratch::new();
    let pen = each_on_its_own(&servers, &files);
    let perf = dnsperf(pen.address, MANY, 20, 5);
    assert_eq!((perf.completed, perf.lost), (MANY, 0));
    let asked = servers.each_ref().map(NameServer::asked);
    assert_eq!(asked.iter().sum::<usize>(), MANY);
    assert!(asked.iter().all(|&asked| asked > MANY / 4), "{asked:?}");
    wait_until("everything is logged", || passed_on(&files) == MANY);
}

/// -U: so many clients at a time that each has a flow of its own for as long as it asks.
#[test]
fn hundreds_of_sockets_lose_nothing() {
    only_ours!("it forgets flows when it has many");
    let Some(servers) = two_name_servers(&["dnsperf"]) else { return };
    let pen = Pen::with(&["-U", "-r", "-x", "600"]).servers(&servers).start();
    let perf = dnsperf(pen.address, MANY, 500, 5);
    assert_eq!((perf.completed, perf.lost), (MANY, 0));
    let asked = servers.each_ref().map(NameServer::asked);
    assert_eq!(asked.iter().sum::<usize>(), MANY);
    assert!(asked.iter().all(|&asked| asked > MANY / 4), "{asked:?}");
}

/// Of two servers that both are asked the second dies in the middle of a run: what it had is lost, and those questions by
/// which the clients that wait for an answer of it find out. The other one answers all that come later.
fn the_second_is_killed_half_way(pen: &Pen, files: &Scratch, [one, two]: [NameServer; 2]) {
    let perf = thread::scope(|scope| {
        let run = scope.spawn(|| dnsperf(pen.address, MANY, 20, 1));
        wait_until("half of it is done", || passed_on(files) >= MANY / 2);
        assert!(two.asked() > 0);
        two.kill();
        run.join().unwrap()
    });
    assert!(perf.lost <= 2 * OUTSTANDING, "{perf:?}");
    let perf = dnsperf(pen.address, MANY / 10, 20, 5);
    assert_eq!((perf.completed, perf.lost), (MANY / 10, 0));
    assert!(one.asked() > MANY / 2);
}

/// -U: a server that dies costs the questions that it had, and no other: those that it refuses are asked elsewhere.
#[test]
fn a_server_that_is_killed_costs_what_it_had() {
    only_ours!("it loses what a dead server refuses");
    let Some(servers) = two_name_servers(&["dnsperf"]) else { return };
    let files = Scratch::new();
    let pen = each_on_its_own(&servers, &files);
    the_second_is_killed_half_way(&pen, &files, servers);
}

/// -U, -b 0: what a dead server refuses is asked elsewhere, every time.
#[test]
fn a_dead_server_that_is_tried_again_and_again_costs_nothing() {
    only_ours!("it loses what a dead server refuses");
    let Some(servers) = two_name_servers(&["dnsperf"]) else { return };
    let [one, two] = servers;
    let pen =
        Pen::with(&["-U", "-r", "-b", "0", "-O", "udp_timeout 30 replies 1"]).servers([&two, &one]).start();
    two.kill();
    let perf = dnsperf(pen.address, MANY / 10, 2 * OUTSTANDING, 5);
    assert_eq!((perf.completed, perf.lost), (MANY / 10, 0));
    assert_eq!(one.asked(), MANY / 10);
}

/// -U: where flows last, each of those to a server that has died loses the datagrams by which that is found out, too.
#[test]
fn lasting_flows_leave_a_server_that_is_killed() {
    only_ours!("it loses what a dead server refuses");
    let Some(servers) = two_name_servers(&["dnsperf"]) else { return };
    let files = Scratch::new();
    let pen = Pen::with(&["-U", "-r", "-l", &files.file("log")]).servers(&servers).start();
    the_second_is_killed_half_way(&pen, &files, servers);
}

/// -U: a worker that is killed costs the questions that it was at work on. Those that wait at its sockets are asked by its
/// successor, and the clients keep their server.
#[test]
fn a_worker_that_is_killed_costs_what_it_was_at_work_on() {
    only_ours!("it has no workers");
    let Some(servers) = two_name_servers(&["dnsperf"]) else { return };
    let files = Scratch::new();
    let pen = Pen::with(&["-U", "-l", &files.file("log")]).servers(&servers).start();
    // All sockets of dnsperf are one client's.
    let mine = usize::from(who("127.0.0.1", pen.address, &[]) == "two");
    let perf = thread::scope(|scope| {
        let run = scope.spawn(|| dnsperf(pen.address, MANY, 20, 1));
        for n in [1, 2] {
            wait_until("another quarter of it is done", || passed_on(&files) >= n * MANY / 4);
            let victim = pen.workers()[0];
            kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
            wait_until("it has a successor", || {
                let workers = pen.workers();
                workers.len() == 2 && !workers.contains(&victim)
            });
        }
        run.join().unwrap()
    });
    assert!(perf.lost <= 2 * OUTSTANDING, "{perf:?}");
    let perf = dnsperf(pen.address, MANY / 10, 20, 5);
    assert_eq!((perf.completed, perf.lost), (MANY / 10, 0));
    let other = &servers[1 - mine];
    assert_ne!(who("127.0.0.1", other.address(), &[]), "");
    assert_eq!(other.asked(), 1, "but for the one just now it should have had none");
}
