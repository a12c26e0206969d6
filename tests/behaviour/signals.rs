//! What pen does when it, or one of its workers, is sent a signal.

use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::backend::{greeters, webs};
use crate::support::client::read_line;
use crate::support::{
    Ending, Held, Pen, SOON, Scratch, classic, free_port, only_ours, processes, wait_until,
};

/// pen(1), SIGNALS: TERM and INT end everything at once: open connections are closed, the exit code is 0.
#[test]
fn term_and_int_end_everything_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        if signal == Signal::SIGINT && classic() {
            continue; // INT kills it
        }
        let g = greeters(2);
        let mut pen = Pen::with(&["-r"]).servers(&g).workers(3).start();
        let held = pen.hold_many(6);
        let start = Instant::now();
        assert_eq!(pen.end_with(signal), Some(0), "{signal}: {}", pen.stderr());
        assert!(start.elapsed() < Duration::from_secs(5), "{signal} took {:?}", start.elapsed());
        for held in &held {
            assert_ne!(held.ending(SOON), Ending::Open, "a connection outlived {signal}");
        }
        for server in &g {
            wait_until("the server's connections are closed", || server.open() == 0);
        }
    }
}

/// pen(1), SIGNALS: QUIT stops accepting, lets connections run to their end, and then ends pen.
#[test]
fn quit_lets_connections_finish() {
    only_ours!("QUIT kills it");
    let g = greeters(2);
    // The control port answers when the start is over; before that, QUIT ends it.
    let mut pen = Pen::with(&["-r"]).servers(&g).workers(3).controlled().start();
    let held = pen.hold_many(5);
    pen.signal(Signal::SIGQUIT);
    wait_until("nobody listens any more", || TcpStream::connect(pen.address).is_err());
    assert!(held.iter().all(|held| held.echoes()), "QUIT ended a connection");
    assert!(processes::alive(pen.pid));
    drop(held);
    assert_eq!(pen.wait_for_end().unwrap().code(), Some(0));
}

/// pen(1), SIGNALS: QUIT without connections ends pen at once.
#[test]
fn quit_without_connections_is_the_end() {
    only_ours!("QUIT kills it");
    let s = webs(1);
    let mut pen = Pen::with(&[]).servers(&s).start();
    assert_eq!(pen.visit(), "S0");
    assert_eq!(pen.end_with(Signal::SIGQUIT), Some(0));
}

/// pen(1), SIGNALS: a second QUIT, or TERM, does not wait for the connections.
#[test]
fn a_second_quit_or_term_does_not_wait() {
    only_ours!("QUIT kills it");
    for second in [Signal::SIGQUIT, Signal::SIGTERM] {
        let g = greeters(1);
        let mut pen = Pen::with(&[]).servers(&g).controlled().start();
        let held = pen.hold_many(2);
        pen.signal(Signal::SIGQUIT);
        wait_until("nobody listens any more", || TcpStream::connect(pen.address).is_err());
        assert!(held[0].echoes());
        assert_eq!(pen.end_with(second), Some(0));
        assert_ne!(held[1].ending(SOON), Ending::Open);
    }
}

/// pen(1), SIGNALS: neither HUP nor USR1 disturbs a connection.
#[test]
fn hup_and_usr1_leave_connections_alone() {
    let g = greeters(2);
    let pen = Pen::with(&["-r"]).servers(&g).workers(2).with_signals().start();
    let held = pen.hold_many(6);
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGHUP] {
        pen.signal(signal);
        assert!(held.iter().all(|held| held.echoes()), "after {signal}");
    }
    assert!(pen.hold().echoes());
}

/// pen(1), SIGNALS, -F: HUP reads the file again; what it says now holds for new connections.
#[test]
fn hup_reads_the_file_again() {
    let (s, files) = (webs(2), Scratch::new());
    let server = |n: usize| format!("server 0 address 127.0.0.1 port {}\n", s[n].port());
    let config = files.write("pen.cfg", server(0));
    let pen = Pen::with(&["-F", &config]).workers(4).with_signals().start();
    assert_eq!(pen.visits(3), "S0 S0 S0");
    files.write("pen.cfg", server(1));
    pen.signal(Signal::SIGHUP);
    wait_until("the new server is used", || pen.visit() == "S1");
    if !classic() {
        wait_until("by all workers", || pen.visits(20).matches("S1").count() == 20);
    }
}

/// pen(1), SIGNALS, -F: a file with an error changes nothing, and the error is told with file and line.
#[test]
fn a_faulty_file_changes_nothing() {
    only_ours!("it takes what it understands");
    let (s, files) = (webs(2), Scratch::new());
    let server = |n: usize| format!("server 0 address 127.0.0.1 port {}\n", s[n].port());
    let config = files.write("pen.cfg", server(0));
    let pen = Pen::with(&["-F", &config]).start();
    assert_eq!(pen.visit(), "S0");
    files.write("pen.cfg", &(server(1) + "blacklist forever\n"));
    pen.signal(Signal::SIGHUP);
    wait_until("the error is told", || pen.stderr().contains(&format!("{config}:2")));
    assert_eq!(pen.visits(10), ["S0"; 10].join(" "));
    files.write("pen.cfg", server(1));
    pen.signal(Signal::SIGHUP);
    wait_until("the corrected file is used", || pen.visit() == "S1");
}

/// pen(1), CONFIGURATION, listen: with a new address in the file, HUP moves the listener; connections live on.
#[test]
fn hup_moves_the_listener() {
    let (g, files) = (greeters(1), Scratch::new());
    let (old, new) = (free_port(), free_port());
    let content =
        |port: u16| format!("listen 127.0.0.1:{port}\nserver 0 address 127.0.0.1 port {}\n", g[0].port());
    let config = files.write("pen.cfg", content(old));
    let mut pen =
        Pen::with(&["-F", &config]).listen(format!("127.0.0.1:{old}")).workers(3).with_signals().start();
    let held = pen.hold_many(6);
    files.write("pen.cfg", content(new));
    pen.signal(Signal::SIGHUP);
    wait_until("it listens at the new place", || processes::listening(new));
    wait_until("it does not listen at the old one", || !processes::listening(old));
    pen.address.set_port(new);
    assert!(pen.hold_many(6).iter().all(|held| held.echoes()));
    assert!(held.iter().all(|held| held.echoes()));
    assert_eq!(pen.end_with(Signal::SIGTERM), Some(0));
    assert!(!processes::listening(new));
}

/// pen(1), COMPATIBILITY: a listener that cannot be opened at HUP leaves the old one in use.
#[test]
fn a_listener_that_cannot_be_had_leaves_the_old_one() {
    only_ours!("it ends");
    let (s, files) = (webs(1), Scratch::new());
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let port = free_port();
    let content = |at: &str| format!("listen {at}\nserver 0 address 127.0.0.1 port {}\n", s[0].port());
    let config = files.write("pen.cfg", content(&format!("127.0.0.1:{port}")));
    let pen = Pen::with(&["-F", &config]).listen(format!("127.0.0.1:{port}")).start();
    files.write("pen.cfg", content(&taken.to_string()));
    pen.signal(Signal::SIGHUP);
    wait_until("it is told", || pen.stderr().contains(&taken.to_string()));
    assert_eq!(pen.visits(5), "S0 S0 S0 S0 S0");
}

/// pen(1), CONFIGURATION, workers, conn_max: both can be changed by HUP, and nobody is disturbed.
#[test]
fn hup_changes_the_number_of_workers_and_connections() {
    only_ours!("it has no workers");
    let (g, files) = (greeters(1), Scratch::new());
    let config = files.write("pen.cfg", "workers 1\n");
    // What the file says goes before what the command line says.
    let pen = Pen::with(&["-F", &config, "-x", "2"]).servers(&g).workers(1).start();
    let held = pen.hold_many(2);
    let third = pen.connect();
    third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(read_line(&third), None, "more connections than -x allows");
    third.set_read_timeout(Some(SOON)).unwrap();
    files.write("pen.cfg", "workers 3\nconn_max 4\n");
    pen.signal(Signal::SIGHUP);
    wait_until("there are three workers", || pen.workers().len() == 3);
    let third = Held::greeted(third);
    let fourth = pen.hold();
    assert!(held.iter().chain([&third, &fourth]).all(Held::echoes));
    // Fewer: the first stays, the others go with their last connections.
    files.write("pen.cfg", "workers 1\n");
    pen.signal(Signal::SIGHUP);
    wait_until("it is in force", || pen.stderr().contains("generation 3"));
    assert!(held.iter().chain([&third, &fourth]).all(Held::echoes));
    drop((held, third, fourth));
    wait_until("there is one worker", || pen.workers().len() == 1);
    assert!(pen.hold().echoes());
}

/// pen(1), CONFIGURATION, keepalive: connections to servers are probed, those that are made after HUP, too.
#[test]
fn hup_turns_keepalive_on() {
    if std::process::Command::new("ss").arg("-V").output().is_err() {
        eprintln!("not told: there is no ss");
        return;
    }
    let (g, files) = (greeters(1), Scratch::new());
    let config = files.write("pen.cfg", "no keepalive\n");
    let pen = Pen::with(&["-F", &config]).servers(&g).with_signals().start();
    // The timers of pen's sockets to the server.
    let timers = || {
        let mut ss = std::process::Command::new("ss");
        let filter = format!("dport = :{}", g[0].port());
        let output = ss.args(["-Htno", "state", "established", &filter]).output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let probed = lines.lines().filter(|line| line.contains("timer:(keepalive")).count();
        (lines.lines().count(), probed)
    };
    let first = pen.hold();
    wait_until("the connection is there, without keepalive", || timers() == (1, 0));
    files.write("pen.cfg", "keepalive\n");
    pen.signal(Signal::SIGHUP);
    let mut held = vec![first];
    wait_until("new connections have it", || {
        held.push(pen.hold());
        timers().1 > 0
    });
    assert!(held.iter().all(Held::echoes));
}

/// pen(1), SIGNALS: they are for the master; a worker that is sent one by itself goes on working.
#[test]
fn a_worker_that_gets_a_signal_by_itself_does_no_harm() {
    only_ours!("it has no workers");
    let g = greeters(2);
    let pen = Pen::with(&["-r", "-w", "SCRATCH/status"]).servers(&g).workers(2).start();
    let held = pen.hold_many(8);
    let workers = pen.workers();
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        for &worker in &workers {
            kill(Pid::from_raw(worker), signal).unwrap();
        }
        assert!(held.iter().all(|held| held.echoes()), "after {signal}");
        assert!(pen.hold().echoes(), "after {signal}");
    }
    assert_eq!(pen.workers(), workers, "a worker was replaced");
    assert!(pen.page().contains("Pen status page"));
}

/// pen(1), SIGNALS: USR2 aborts pen with a core file; nothing of it goes on.
#[test]
fn usr2_aborts_pen_and_its_workers() {
    let (g, files) = (greeters(1), Scratch::new());
    let mut pen =
        Pen::with(&[]).servers(&g).workers(3).directory(files.path()).with_signals().controlled().start();
    let held = pen.hold();
    assert!(held.echoes());
    pen.signal(Signal::SIGUSR2);
    let status = pen.wait_for_end().unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
    assert!(
        classic() || !std::path::Path::new(&pen.scratch.file("ctl")).exists(),
        "the control socket is left"
    );
    assert_ne!(held.ending(SOON), Ending::Open);
    // Where core files go to the working directory and are not forbidden for good, there is one: of what pen uses,
    // not of all that its tables could grow to.
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let (_, most) = getrlimit(Resource::RLIMIT_CORE).unwrap();
    if !classic() && pattern.starts_with("core") && most == RLIM_INFINITY {
        let core = files.names().into_iter().find(|name| name.starts_with("core")).expect("a core file");
        let size = std::fs::metadata(files.file(&core)).unwrap().len();
        assert!(size < 64 << 20, "{size} bytes");
    }
}
