//! Workers that die, hang, or lose their master.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Shutdown};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::backend::{greeters, webs};
use crate::support::{Ending, Held, Pen, SOON, client, let_pass, only_ours, processes, wait_for, wait_until};

fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// pen(1), PROCESSES: one is started for each place.
#[test]
fn there_are_as_many_workers_as_asked_for() {
    only_ours!("it is one process");
    for count in [1, 2, 5] {
        let s = webs(1);
        let pen = Pen::with(&[]).servers(&s).workers(count).start();
        assert_eq!(pen.workers().len(), count as usize);
        assert_eq!(pen.family().len(), count as usize + 1);
    }
}

/// pen(1), PROCESSES: the death of one ends its own connections; nobody else notices, and a new one takes its place.
#[test]
fn a_killed_worker_takes_only_its_own_connections_along() {
    only_ours!("it has no workers");
    let g = greeters(2);
    let pen = Pen::with(&["-r"]).servers(&g).workers(3).start();
    let held = pen.hold_many(30);
    let owners = pen.owners_of(&held);
    let workers = pen.workers();
    let victim = owners[0];
    kill_hard(victim);
    for (held, owner) in held.iter().zip(&owners) {
        if *owner == victim {
            assert_ne!(held.ending(SOON), Ending::Open, "a connection without a worker");
        } else {
            assert!(held.echoes(), "a connection of another worker was disturbed");
        }
    }
    wait_until("there are three workers again", || pen.workers().len() == 3);
    let now = pen.workers();
    assert!(!now.contains(&victim));
    assert_eq!(now.iter().filter(|pid| workers.contains(pid)).count(), 2, "another worker was replaced, too");
    let lost = owners.iter().filter(|&&owner| owner == victim).count();
    wait_until("the servers' sides are closed", || g[0].open() + g[1].open() == 30 - lost);
}

/// pen(1), PROCESSES: clients that come while there is no worker wait, and are served by the next one.
#[test]
fn the_only_worker_is_replaced_at_once() {
    only_ours!("it has no workers");
    let s = webs(2);
    let pen = Pen::with(&["-r"]).servers(&s).workers(1).start();
    assert_eq!(pen.visits(2), "S1 S0");
    let victim = pen.workers()[0];
    kill_hard(victim);
    let start = Instant::now();
    let answer = pen.visit();
    let took = start.elapsed();
    assert!(answer.starts_with('S'), "{answer}");
    assert_ne!(pen.workers(), [victim]);
    // 100 ms on a machine of its own; here it shares that with all the other stories.
    assert!(took < Duration::from_secs(1), "a new worker accepted after {took:?}");
}

/// pen(1), PROCESSES: what a dead worker held of a server's limit is free again, whatever it was doing.
#[test]
fn a_dead_workers_places_are_free_again() {
    only_ours!("it has no workers");
    let g = greeters(1);
    let pen = Pen::with(&["-r", "-x", "6"]).servers([format!("{}:6", g[0])]).workers(2).start();
    for round in 0..5 {
        let held = pen.hold_many(6);
        assert!(held.iter().all(|held| held.name == "G0"), "round {round}: {held:?}");
        for worker in pen.workers() {
            kill_hard(worker);
        }
        for held in &held {
            assert_ne!(held.ending(SOON), Ending::Open);
        }
        wait_until("the server's sides are closed", || g[0].open() == 0);
        wait_until("there are two workers again", || pen.workers().len() == 2);
    }
}

/// pen(1), PROCESSES: killing one at random, again and again, under load: no client is refused, no connection fails but
/// those whose worker was killed, and at the end the count of every server is exact.
#[test]
fn random_kills_under_load() {
    only_ours!("it has no workers");
    const CLIENTS: usize = 8;
    const KILLS: usize = 30;
    let g = greeters(3);
    let specs = g.iter().map(|server| format!("{server}:20"));
    let pen = Pen::with(&["-r"]).servers(specs).workers(4).start();
    let done = AtomicBool::new(false);
    let (made, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // When a connection that failed began and ended; when somebody was killed.
    let failures: Mutex<Vec<(Instant, Instant, String)>> = Mutex::default();
    let mut kills: Vec<(Instant, Instant)> = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let Ok(stream) = client::connect(Ipv4Addr::LOCALHOST.into(), pen.address) else {
                        refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    let held = Held::greeted(stream);
                    let echoes = held.name.starts_with('G') && (0..5).all(|_| held.echoes());
                    let ended = echoes && held.stream.shutdown(Shutdown::Write).is_ok();
                    if !ended || held.ending(SOON) != Ending::EndOfStream {
                        failures.lock().unwrap().push((start, Instant::now(), held.name));
                    }
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut random = 0x9e37_79b9_u32;
        for _ in 0..KILLS {
            let_pass(Duration::from_millis(200));
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let workers = pen.workers();
            if let Some(&victim) = workers.get((random >> 16) as usize % workers.len().max(1)) {
                let before = Instant::now();
                let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
                kills.push((before, Instant::now()));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(refused.into_inner(), 0, "clients were refused");
    assert!(kills.len() > KILLS * 9 / 10, "only {} workers were found to kill", kills.len());
    let made = made.into_inner();
    let failures = failures.into_inner().unwrap();
    println!(
        "{made} connections, {} kills, {} connections lost with their worker",
        kills.len(),
        failures.len()
    );
    assert!(made > 500, "there was no load: {made} connections");
    for (start, end, name) in &failures {
        let killed = kills.iter().any(|(before, after)| before <= end && after >= start);
        assert!(killed, "a connection to {name} failed although no worker was killed meanwhile");
    }
    assert!(failures.len() <= kills.len() * CLIENTS);
    // All is counted out again...
    wait_until("all connections are gone", || g.iter().all(|server| server.open() == 0));
    wait_until("there are four workers again", || pen.workers().len() == 4);
    wait_until("the statistics show no connection", || {
        let text = pen.statistics();
        text.matches("\n0 connections (20 soft").count() == 3 && !text.contains("Connection 0 status")
    });
    // ... and every place can be used: 60 connections, and not one more.
    let held = pen.hold_many(61);
    assert_eq!(held.iter().filter(|held| held.name.starts_with('G')).count(), 60);
    assert_eq!(held[60].name, "closed");
    assert!(pen.stderr().len() < 100_000, "messages without end");
}

/// pen(1), PROCESSES: one that has not moved for ten seconds is replaced; those that only have nothing to do are not.
#[test]
fn a_stuck_worker_is_replaced_and_an_idle_one_is_not() {
    only_ours!("it has no workers");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).workers(3).start();
    let mut idle = pen.workers();
    let stuck = idle.remove(0);
    kill(Pid::from_raw(stuck), Signal::SIGSTOP).unwrap();
    let before = processes::cpu_time(&pen.family());
    let took = wait_for("the stuck worker is replaced", Duration::from_secs(30), || {
        let_pass(Duration::from_millis(20));
        let workers = pen.workers();
        !workers.contains(&stuck) && workers.len() == 3
    });
    assert!(took > Duration::from_secs(5), "a worker that was stopped for {took:?} only was killed");
    let used = processes::cpu_time(&pen.family()).saturating_sub(before);
    assert!(used < Duration::from_millis(400), "used {used:?} of processor time for doing nothing");
    assert!(idle.iter().all(|worker| pen.workers().contains(worker)), "an idle worker was replaced");
    for _ in 0..20 {
        assert_eq!(pen.visit(), "S0");
    }
}

/// pen(1), PROCESSES: without their master they end, and let go of the port.
#[test]
fn without_their_master_the_workers_end() {
    only_ours!("it has no workers");
    for hold in [false, true] {
        let g = greeters(1);
        let mut pen = Pen::with(&[]).servers(&g).workers(4).start();
        let held = if hold { pen.hold_many(8) } else { Vec::new() };
        kill_hard(pen.pid);
        pen.wait_for_end_within(Duration::from_secs(5));
        for held in &held {
            assert_ne!(held.ending(SOON), Ending::Open);
        }
        assert!(!processes::listening(pen.address.port()), "somebody still listens");
    }
}

/// pen(1), PROCESSES: they share the work: connections that come one at a time are spread evenly.
#[test]
fn workers_share_the_work_fairly() {
    only_ours!("it has no workers");
    const WORKERS: usize = 4;
    const CONNECTIONS: usize = 2000;
    let s = webs(2);
    let pen = Pen::with(&["-r", "-w", "SCRATCH/status"]).servers(&s).workers(WORKERS as u32).start();
    wait_until("all workers accept", || {
        pen.worker_column("state").iter().filter(|state| !state.contains("start")).count() == WORKERS
    });
    for _ in 0..CONNECTIONS {
        assert!(pen.visit().starts_with('S'));
    }
    let accepted: Vec<usize> =
        pen.worker_column("accepted").iter().map(|cell| cell.parse().unwrap()).collect();
    assert_eq!(accepted.iter().sum::<usize>(), CONNECTIONS, "{accepted:?}");
    let even = CONNECTIONS / WORKERS;
    for share in &accepted {
        assert!(share.abs_diff(even) <= even / 4, "shares of {accepted:?}");
    }
}

/// pen(1), PROCESSES: one that dies again and again is started again and again, but not without pause.
#[test]
fn a_worker_that_keeps_dying_is_not_restarted_without_pause() {
    only_ours!("it has no workers");
    let s = webs(1);
    // In the background, so that the start is over: a worker that dies before ends it.
    let pen = Pen::with(&[]).servers(&s).workers(1).background().start();
    let mut deaths: BTreeMap<i32, Instant> = BTreeMap::new();
    let start = Instant::now();
    wait_until("two seconds have passed", || {
        for worker in pen.workers() {
            if deaths.insert(worker, Instant::now()).is_none() {
                let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
            }
        }
        start.elapsed() > Duration::from_secs(2)
    });
    assert!((2..100).contains(&deaths.len()), "{} workers in two seconds", deaths.len());
    wait_until("it is served again", || pen.visit() == "S0");
}
