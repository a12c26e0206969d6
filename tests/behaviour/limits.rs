//! Limits: connections of a server, of pen, of the kernel.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::backend::greeters;
use crate::support::client::read_line;
use crate::support::{
    Backend, Ending, Held, Pen, became_true, classic, client, let_pass, needs_root, only_ours,
};
use crate::support::{processes, wait_until};

/// Fails if these processes use more than a tenth of one processor: nothing that waits may spin.
#[track_caller]
fn idle(processes: &BTreeSet<i32>) {
    let before = processes::cpu_time(processes);
    let_pass(Duration::from_secs(1));
    let used = processes::cpu_time(processes) - before;
    assert!(used <= Duration::from_millis(100), "used {used:?} of processor time in a second of waiting");
}

/// pen(1), soft limit: never exceeded, whatever the number of workers and of clients that come at once. Counted where
/// it matters: at the servers.
#[test]
fn limits_hold_under_a_crowd() {
    only_ours!("it does not count connects that are under way");
    const LIMITS: [usize; 3] = [5, 7, 9];
    let servers: Vec<_> = (0..LIMITS.len())
        .map(|number| {
            Backend::serving(&format!("S{number}"), |visit| {
                if visit.read_head() {
                    std::thread::sleep(Duration::from_millis(3)); // the work of an answer
                    visit.answer(&visit.name);
                }
            })
        })
        .collect();
    let specs = servers.iter().zip(LIMITS).map(|(server, limit)| format!("{server}:{limit}"));
    let pen = Pen::with(&["-r"]).servers(specs).workers(4).start();
    let (served, turned_away) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let counter = if pen.visit() == "closed" { &turned_away } else { &served };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    for (server, limit) in servers.iter().zip(LIMITS) {
        assert!(server.most() <= limit, "{} connections at a time, the limit is {limit}", server.most());
        assert!(server.accepted() > 0);
    }
    assert!(served.into_inner() >= 21 && turned_away.into_inner() > 0, "there was no crowd");
    // Nothing was lost in counting either: every place can be taken again, and not one more.
    wait_until("all connections have ended", || servers.iter().all(|server| server.open() == 0));
    let mut held = Vec::new();
    wait_until("all places can be taken again", || {
        held.push(pen.connect());
        became_true(Duration::from_millis(200), || servers.iter().map(Backend::open).sum::<usize>() == 21)
            .is_some()
    });
    for (server, limit) in servers.iter().zip(LIMITS) {
        assert_eq!(server.open(), limit);
    }
    assert_eq!(pen.visit(), "closed");
}

/// pen(1), -x: beyond it, clients wait and are served as places become free; this is told once.
#[test]
fn the_client_beyond_x_waits_and_is_served() {
    for workers in [1, 3] {
        let g = greeters(1);
        let pen = Pen::with(&["-x", "2"]).servers(&g).workers(workers).start();
        let first = pen.hold();
        let second = pen.hold();
        let third = pen.connect();
        third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert_eq!(read_line(&third), None, "more connections than -x allows");
        assert!(first.echoes() && second.echoes());
        idle(&pen.family());
        drop(first);
        third.set_read_timeout(Some(crate::support::SOON)).unwrap();
        assert_eq!(read_line(&third).as_deref(), Some("G0"));
        assert_eq!(g[0].most(), 2);
        if !classic() {
            let told = pen.stderr().lines().filter(|line| line.contains("2 connections")).count();
            // Each worker says so that finds no place.
            assert!((1..=workers as usize).contains(&told), "{}", pen.stderr());
        }
    }
}

/// pen(1), -x: many who wait are all served, whichever worker has the free place.
#[test]
fn a_queue_beyond_x_is_served_to_the_last() {
    let g = greeters(1);
    let pen = Pen::with(&["-x", "3"]).servers(&g).workers(4).start();
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let held = pen.hold();
                    assert_eq!(held.name, "G0");
                    assert!(held.echoes());
                }
            });
        }
    });
    assert!(g[0].most() <= 3, "{} at a time", g[0].most());
    assert_eq!(g[0].accepted(), 150);
}

/// pen(1), -x: when descriptors run out before that, pen accepts no more, keeps what it has, and does not spin.
#[test]
fn without_descriptors_it_waits_and_goes_on() {
    only_ours!("it ends or spins");
    needs_root!();
    let g = greeters(1);
    // Even root cannot raise this limit again. Twelve connections would need 24.
    let limited = ["prlimit", "--nofile=20:20", "setpriv", "--bounding-set=-sys_resource"];
    let pen = Pen::with(&[]).servers(&g).workers(1).through(&limited).start();
    let clients: Vec<_> = (0..12).map(|_| pen.connect()).collect();
    let mut held = Vec::new();
    let mut waiting = Vec::new();
    for stream in clients {
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        match read_line(&stream) {
            Some(name) => held.push(Held { name, stream }),
            None => waiting.push(stream),
        }
    }
    assert!(!held.is_empty() && !waiting.is_empty(), "{} held, {} wait", held.len(), waiting.len());
    assert!(held.iter().all(|held| held.name == "G0"), "a client was closed: {held:?}");
    idle(&pen.family());
    assert!(held.iter().all(Held::echoes), "an established connection was dropped");
    let workers = pen.workers();
    while !waiting.is_empty() {
        // As the others leave, those who waited are served, each in its turn.
        held.clear();
        let mut still = Vec::new();
        wait_until("somebody is served now that descriptors are free", || {
            for stream in waiting.drain(..) {
                stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                match read_line(&stream) {
                    Some(name) => held.push(Held { name, stream }),
                    None => still.push(stream),
                }
            }
            waiting.append(&mut still);
            !held.is_empty()
        });
        assert!(held.iter().all(|held| held.name == "G0"), "{held:?}");
    }
    assert_eq!(pen.workers(), workers, "a worker was replaced");
}

/// pen(1), pending_max: so many connects at a time; others wait in the backlog, and pen does not spin.
#[test]
fn connects_under_way_are_limited() {
    only_ours!("it spins");
    for workers in [1, 3] {
        let hanging = Backend::hanging("H");
        let options = ["-t", "60", "-r", "-O", "pending_max 2"];
        let pen = Pen::with(&options).servers([&hanging]).workers(workers).start();
        let _clients: Vec<_> = (0..8).map(|_| pen.connect()).collect();
        wait_until("connects are under way", || processes::connects_under_way(hanging.port()) > 0);
        idle(&pen.family());
        let under_way = processes::connects_under_way(hanging.port());
        // Each worker may begin one before it sees that of another.
        let most = 2 + workers as usize - 1;
        assert!((1..=most).contains(&under_way), "{under_way} connects under way with {workers} workers");
    }
}

/// pen(1), pending_max: those who wait have their turn when a connect has ended.
#[test]
fn connects_that_time_out_make_room_for_others() {
    only_ours!("it spins");
    let hanging = Backend::hanging("H");
    let pen = Pen::with(&["-t", "1", "-b", "0", "-r", "-O", "pending_max 2"])
        .servers([&hanging])
        .workers(2)
        .start();
    let clients: Vec<_> = (0..6).map(|_| pen.connect()).collect();
    for stream in clients {
        assert_ne!(client::read_all(&stream).1, Ending::Open, "a client waits for ever");
    }
}

/// pen(1), -q: clients that come faster than they are accepted wait in the queue; none is refused.
#[test]
fn a_crowd_at_the_door_is_let_in() {
    let g = greeters(2);
    let pen = Pen::with(&["-r"]).servers(&g).workers(4).start();
    let held: Vec<_> =
        (0..150).map(|_| pen.connect()).collect::<Vec<_>>().into_iter().map(Held::greeted).collect();
    assert!(held.iter().all(|held| held.name.starts_with('G')), "{held:?}");
    assert!(held.iter().all(Held::echoes));
    assert_eq!((g[0].open(), g[1].open()), (75, 75));
}
