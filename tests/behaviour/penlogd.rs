//! penlogd from outside: what it makes of datagrams, and its manners as a daemon.

use std::fs::{self, File};
use std::io::Read;
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, User, getsid, mkfifo};

use crate::support::network::Network;
use crate::support::penlogd::{Sender, free_udp_port, penlogd_says};
use crate::support::{Penlogd, Scratch, needs_root, processes, wait_until};

/// A line as a web server writes it behind a balancer: the client is pen.
fn line(request: &str) -> String {
    format!("127.0.0.1 - - [22/Nov/2026:07:10:00 +0000] \"{request}\" 200 1\n")
}

/// The same, with the true client.
fn told(client: &str, request: &str) -> String {
    format!("{client} - - [22/Nov/2026:07:10:00 +0000] \"{request}\" 200 1\n")
}

/// Waits until the log of its own directory is this.
#[track_caller]
fn logs(penlogd: &Penlogd, wanted: &str) {
    wait_until(&format!("the log is {wanted:?}"), || {
        let log = penlogd.scratch.read("log");
        assert!(wanted.starts_with(&log), "{log:?}\nis not the beginning of\n{wanted:?}");
        log == wanted
    });
}

const LOG: [&str; 2] = ["-l", "SCRATCH/log"];

fn logging(options: &[&str]) -> Penlogd {
    Penlogd::with(&[&LOG, options].concat()).start()
}

/// penlogd(1), DESCRIPTION: the example of the manual (case 145).
#[test]
fn lines_get_the_address_of_the_client_that_pen_knows() {
    let penlogd = logging(&["--wait", "0"]);
    penlogd.send("127.0.0.1", "+ 127.0.0.7 127.0.0.2 GET /index.html HTTP/1.0\n");
    let web = penlogd.sender("127.0.0.2");
    web.send("127.0.0.1 - - [22/Nov/2026:07:10:00 +0000] \"GET /index.html HTTP/1.0\" 200 1\n");
    web.send("127.0.0.1 - - [22/Nov/2026:07:10:01 +0000] \"GET /other HTTP/1.0\" 404 9\n");
    logs(
        &penlogd,
        "127.0.0.7 - - [22/Nov/2026:07:10:00 +0000] \"GET /index.html HTTP/1.0\" 200 1\n\
         127.0.0.1 - - [22/Nov/2026:07:10:01 +0000] \"GET /other HTTP/1.0\" 404 9\n",
    );
}

/// penlogd(1), DESCRIPTION: requests of any length that a datagram holds are told apart (case 146).
#[test]
fn long_requests_match() {
    let penlogd = logging(&["--wait", "0"]);
    let request = |last: char| format!("GET /{}{last} HTTP/1.0", "x".repeat(110));
    let pen = penlogd.sender("127.0.0.1");
    for (client, last) in [("10.0.0.1", 'a'), ("10.0.0.2", 'b')] {
        pen.send(format!("+ {client} 127.0.0.2 {}\n", request(last)));
    }
    let web = penlogd.sender("127.0.0.2");
    web.send(line(&request('a')));
    web.send(line(&request('b')));
    logs(&penlogd, &[told("10.0.0.1", &request('a')), told("10.0.0.2", &request('b'))].concat());
}

/// penlogd(1), DESCRIPTION: servers with IPv6 addresses, and names, which are not looked up (case 147).
#[test]
fn servers_by_ipv6_and_by_name_do_no_harm() {
    let penlogd = logging(&["--wait", "0"]);
    let pen = penlogd.sender("127.0.0.1");
    pen.send("+ 1.2.3.4 no.such.host GET /\n");
    pen.send("+ 1.2.3.4 ::1 GET /\n");
    pen.send("+ 2001:db8::7 ::ffff:127.0.0.2 GET /mapped\n");
    penlogd.send("::1", line("GET /"));
    logs(&penlogd, &told("1.2.3.4", "GET /"));
    penlogd.send("127.0.0.2", line("GET /mapped"));
    logs(&penlogd, &[told("1.2.3.4", "GET /"), told("2001:db8::7", "GET /mapped")].concat());
}

/// penlogd(1), SIGNALS: HUP makes a new file at once, TERM ends it with 0 and removes the pid file (case 148).
#[test]
fn hup_opens_the_log_anew_and_term_ends_it() {
    let mut penlogd = logging(&["-p", "SCRATCH/pid", "--wait", "0"]);
    assert_eq!(penlogd.scratch.read("pid"), penlogd.pid.to_string());
    let web = penlogd.sender("127.0.0.2");
    web.send(line("GET /1"));
    logs(&penlogd, &line("GET /1"));
    fs::rename(penlogd.scratch.file("log"), penlogd.scratch.file("old")).unwrap();
    web.send(line("GET /2"));
    wait_until("the old file is written to", || penlogd.scratch.read("old").contains("/2"));
    penlogd.signal(Signal::SIGHUP);
    wait_until("there is a new log", || fs::exists(penlogd.scratch.file("log")).unwrap());
    web.send(line("GET /3"));
    logs(&penlogd, &line("GET /3"));
    assert_eq!(penlogd.end_with(Signal::SIGTERM), Some(0));
    assert_eq!(penlogd.scratch.names(), ["log", "old", "stderr", "stdout"]);
    assert_eq!(penlogd.stderr(), "");
}

/// penlogd(1), SIGNALS: INT and QUIT do as TERM does.
#[test]
fn int_and_quit_end_it_too() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let mut penlogd = logging(&["-p", "SCRATCH/pid"]);
        assert_eq!(penlogd.end_with(signal), Some(0));
        assert_eq!(penlogd.scratch.names(), ["log", "stderr", "stdout"], "{signal}");
    }
}

/// penlogd(1), EXIT STATUS: without a port, and with an option that there is not, the usage is the answer.
#[test]
fn usage_is_told_on_standard_output() {
    for words in [&[][..], &["0"], &["-f"], &["-Z", "9800"], &["9800", "-l"], &["--help"]] {
        let ended = penlogd_says(words);
        assert_eq!(ended.code(), 0, "{words:?} {ended:?}");
        assert!(ended.stdout.starts_with("usage: penlogd [options] port\n"), "{words:?} {ended:?}");
        let wrong = words.len() == 2;
        assert_eq!(ended.stderr.starts_with("penlogd: "), wrong, "{words:?} {ended:?}");
    }
    let ended = penlogd_says(&["--version"]);
    assert_eq!((ended.code(), ended.stdout), (0, format!("penlogd {}\n", env!("CARGO_PKG_VERSION"))));
}

/// penlogd(1), EXIT STATUS: a value that makes no sense ends the start.
#[test]
fn values_that_make_no_sense_are_refused() {
    for (words, reason) in [
        (&["http"][..], "the port must be a number from 0 to 65535"),
        (&["70000"], "the port must be a number from 0 to 65535"),
        (&["-n", "0", "9800"], "-n must be a number from 1"),
        (&["--wait", "x", "9800"], "--wait must be a number of seconds"),
        (&["9800", "9801"], "one port is enough"),
    ] {
        let ended = penlogd_says(words);
        assert_eq!((ended.code(), ended.stdout.as_str()), (1, ""), "{words:?} {ended:?}");
        assert!(ended.stderr.starts_with(&format!("penlogd: {reason}")), "{words:?} {ended:?}");
    }
}

/// penlogd(1), -b: accepted, and said to change nothing.
#[test]
fn b_is_said_to_change_nothing() {
    let penlogd = logging(&["-b"]);
    assert_eq!(penlogd.stderr(), "penlogd: -b has no effect: lines are never kept back\n");
}

/// penlogd(1), -f, -l: a daemon writes to the standard output that it was started with, unless there is a log.
#[test]
fn without_a_log_a_daemon_writes_to_the_standard_output_it_was_started_with() {
    let penlogd = Penlogd::with(&["--wait", "0"]).background().start();
    // The very next thing that a script does must work.
    penlogd.send("127.0.0.2", line("GET /"));
    wait_until("the line is there", || penlogd.stdout() == line("GET /"));
    assert_ne!(processes::stat(penlogd.pid).unwrap().parent, std::process::id() as i32);
    assert_ne!(getsid(Some(Pid::from_raw(penlogd.pid))).unwrap(), getsid(None).unwrap());
    for fd in 0..3 {
        let to = fs::read_link(format!("/proc/{}/fd/{fd}", penlogd.pid)).unwrap();
        assert_eq!(to.to_str(), Some("/dev/null"), "descriptor {fd}");
    }
    // HUP has nothing to open.
    penlogd.signal(Signal::SIGHUP);
    penlogd.send("127.0.0.2", line("GET /2"));
    wait_until("the next line is there", || penlogd.stdout() == [line("GET /"), line("GET /2")].concat());
    assert_eq!(penlogd.family().len(), 1);
}

/// penlogd(1), -l, -p: relative names are relative to where it was started, also for a daemon.
#[test]
fn relative_names_are_where_it_was_started() {
    let files = Scratch::new();
    let mut penlogd = Penlogd::with(&["-l", "log"])
        .directory(files.path())
        .background()
        .pid_file("pid", &files.file("pid"))
        .start();
    assert_eq!(files.names(), ["log", "pid"]);
    penlogd.end_with(Signal::SIGTERM);
    assert_eq!(files.names(), ["log"]);
}

/// Runs it in the foreground and in the background. Both must fail, with the reason on stderr, and leave `files` alone.
#[track_caller]
fn fails(options: &[&str], port: Option<u16>, reasons: &[&str], files: &Scratch) {
    let before = files.names();
    for background in [false, true] {
        let mut penlogd = Penlogd::with(options);
        if let Some(port) = port {
            penlogd = penlogd.port(port);
        }
        if background {
            penlogd = penlogd.background();
        }
        let ended = penlogd.run();
        assert_eq!((ended.code(), ended.stdout.as_str()), (1, ""), "{options:?} {ended:?}");
        for reason in reasons {
            assert!(ended.stderr.contains(reason), "{reason}: {ended:?}");
        }
        assert!(ended.stderr.starts_with("penlogd: ") && ended.stderr.lines().count() == 1, "{ended:?}");
        assert_eq!(files.names(), before, "{options:?} left something");
    }
}

/// penlogd(1), EXIT STATUS: what it cannot do at the start ends the start, with 1 and the reason; nothing is left.
#[test]
fn a_start_that_cannot_succeed_says_why_and_leaves_nothing() {
    let files = Scratch::new();
    let (log, pid) = (files.file("log"), files.file("pid"));
    fails(&["-l", "/no/such/log", "-p", &pid], None, &["cannot open the log /no/such/log"], &files);
    fails(&["-l", &log, "-p", "/no/such/pid"], None, &["cannot write the pid file /no/such/pid"], &files);
    fails(&["-l", &log, "-p", &pid, "-u", "nosuchuser"], None, &["nosuchuser"], &files);
    fails(&["-l", &log, "-p", &pid, "-j", "/no/such/jail"], None, &["/no/such/jail"], &files);
    let taken = free_udp_port();
    for address in ["0.0.0.0", "127.0.0.1", "::1"] {
        let _holder = UdpSocket::bind((address, taken)).unwrap();
        let reasons = [&format!("UDP port {taken}")[..], "in use"];
        fails(&["-l", &log, "-p", &pid], Some(taken), &reasons, &files);
    }
    let running = Penlogd::with(&["-p", &pid]).start();
    let reasons = [&format!("belongs to a running penlogd (pid {})", running.pid)[..], &pid];
    fails(&["-l", &log, "-p", &pid], None, &reasons, &files);
    fails(&["-l", &log], Some(running.port), &["in use"], &files);
    assert_eq!(files.read("pid"), running.pid.to_string());
}

/// penlogd(1), -p: the file of one that is gone is replaced.
#[test]
fn a_stale_pid_file_is_replaced() {
    let files = Scratch::new();
    let pid = files.write("pid", std::process::id().to_string());
    let penlogd = Penlogd::with(&["-p", &pid]).start();
    assert_eq!(files.read("pid"), penlogd.pid.to_string());
}

/// penlogd(1), -j, -u: root directory, working directory, user, groups, and no way back; the log is made inside, by the
/// user, and can be rotated there.
#[test]
fn it_is_in_the_jail_and_nobody() {
    needs_root!();
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    for background in [false, true] {
        let jail = Scratch::new();
        chown(jail.path(), Some(uid), Some(gid)).unwrap();
        let place = jail.path().to_str().unwrap();
        let mut penlogd = Penlogd::with(&["-j", place, "-u", "nobody", "-l", "/log", "--wait", "0"])
            .through(&["setpriv", "--groups", "1,2,3"]);
        if background {
            penlogd = penlogd.background().pid_file("/pid", &jail.file("pid"));
        }
        let mut penlogd = penlogd.start();
        processes::assert_confined(penlogd.pid, &nobody, jail.path());
        let web = penlogd.sender("127.0.0.2");
        web.send(line("GET /"));
        wait_until("the log is in the jail", || jail.read("log") == line("GET /"));
        assert_eq!(fs::metadata(jail.file("log")).unwrap().uid(), uid);
        fs::rename(jail.file("log"), jail.file("old")).unwrap();
        penlogd.signal(Signal::SIGHUP);
        wait_until("the log is opened anew", || jail.names().contains(&"log".to_owned()));
        web.send(line("GET /2"));
        wait_until("new lines are in the new log", || jail.read("log") == line("GET /2"));
        penlogd.end_with(Signal::SIGTERM);
        assert_eq!(jail.names(), ["log", "old"]);
    }
}

/// penlogd(1), -u: a port below 1024 can be had all the same.
#[test]
fn a_privileged_port_and_a_user() {
    needs_root!();
    let Some(network) = Network::alone() else { return };
    network.ip("link set lo up");
    network.inside(|| {
        let penlogd = Penlogd::with(&["-u", "nobody", "--wait", "0"]).port(514).start();
        let uid = User::from_name("nobody").unwrap().unwrap().uid;
        assert_eq!(processes::status(penlogd.pid, "Uid").split(' ').next(), Some(&*uid.to_string()));
        penlogd.send("127.0.0.1", line("GET /"));
        wait_until("the line is there", || penlogd.stdout() == line("GET /"));
    });
}

/// penlogd(1), -u: only root can become somebody else.
#[test]
fn a_port_or_a_user_that_needs_root_is_refused_to_others() {
    needs_root!();
    let files = Scratch::new();
    let as_nobody = |options: &[&str], port| {
        let through = ["setpriv", "--reuid", "nobody", "--clear-groups", "--bounding-set=-all"];
        Penlogd::with(options).port(port).through(&through).directory(files.path()).run()
    };
    let ended = as_nobody(&["-u", "daemon"], free_udp_port());
    assert!(ended.code() == 1 && ended.stderr.contains("cannot become user daemon"), "{ended:?}");
    let Some(network) = Network::alone() else { return };
    let ended = network.inside(|| as_nobody(&[], 514));
    assert!(ended.code() == 1 && ended.stderr.contains("start penlogd as root"), "{ended:?}");
}

/// Sends numbered lines, and never more than the socket holds.
fn send_numbered(penlogd: &Penlogd, web: &Sender, numbers: std::ops::Range<usize>) {
    for number in numbers {
        if number % 64 == 0 {
            wait_until("there is room in the socket", || penlogd.unread() < 1 << 20);
        }
        web.send(line(&format!("GET /{number}")));
    }
}

/// The numbers of the lines of a log.
fn numbers(log: &str) -> Vec<usize> {
    let number = |line: &str| line.split_once("\"GET /")?.1.split_once('"')?.0.parse().ok();
    log.lines().map(|line| number(line).unwrap_or_else(|| panic!("{line:?} is no line"))).collect()
}

/// penlogd(1), SIGNALS: rotation under load loses nothing and doubles nothing.
#[test]
fn nothing_is_lost_when_the_log_is_rotated_under_load() {
    const LINES: usize = 30_000;
    const FILES: usize = 20;
    let mut penlogd = logging(&["--wait", "0"]);
    let sent = AtomicBool::new(false);
    let mut old = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send_numbered(&penlogd, &penlogd.sender("127.0.0.2"), 0..LINES);
            sent.store(true, Ordering::SeqCst);
        });
        while !sent.load(Ordering::SeqCst) && old.len() < FILES {
            let written = || !penlogd.scratch.read("log").is_empty() || sent.load(Ordering::SeqCst);
            wait_until("something is in the log", written);
            let name = format!("log.{:02}", old.len());
            fs::rename(penlogd.scratch.file("log"), penlogd.scratch.file(&name)).unwrap();
            old.push(name);
            penlogd.signal(Signal::SIGHUP);
            wait_until("there is a new log", || fs::exists(penlogd.scratch.file("log")).unwrap());
        }
    });
    assert!(old.len() > 1, "nothing was rotated");
    assert_eq!(penlogd.end_with(Signal::SIGTERM), Some(0));
    old.push("log".to_owned());
    let all: String = old.iter().map(|name| penlogd.scratch.read(name)).collect();
    assert!(numbers(&all).into_iter().eq(0..LINES), "{:?}", penlogd.stderr());
}

/// Sends so many numbered lines to one that has been stopped: all of them are in its socket when it goes on.
fn fill_socket(penlogd: &Penlogd, lines: usize) {
    penlogd.signal(Signal::SIGSTOP);
    let web = penlogd.sender("127.0.0.2");
    for number in 0..lines {
        web.send(line(&format!("GET /{number}")));
    }
}

/// penlogd(1), SIGNALS: TERM takes what has come before it, however much that is.
#[test]
fn what_was_in_the_socket_when_term_came_is_written() {
    const LINES: usize = 2000;
    let mut penlogd = logging(&[]);
    fill_socket(&penlogd, LINES);
    penlogd.signal(Signal::SIGTERM);
    penlogd.signal(Signal::SIGCONT);
    assert_eq!(penlogd.wait_for_end().and_then(|status| status.code()), Some(0));
    assert!(numbers(&penlogd.scratch.read("log")).into_iter().eq(0..LINES));
}

/// penlogd(1), SIGNALS: HUP loses nothing of what is still in the socket when it comes.
#[test]
fn what_was_in_the_socket_when_hup_came_is_written() {
    const LINES: usize = 2000;
    let mut penlogd = logging(&["--wait", "0"]);
    fs::rename(penlogd.scratch.file("log"), penlogd.scratch.file("old")).unwrap();
    fill_socket(&penlogd, LINES);
    penlogd.signal(Signal::SIGHUP);
    penlogd.signal(Signal::SIGCONT);
    wait_until("there is a new log", || fs::exists(penlogd.scratch.file("log")).unwrap());
    assert_eq!(penlogd.end_with(Signal::SIGTERM), Some(0));
    let both = ["old", "log"].map(|name| penlogd.scratch.read(name)).concat();
    assert!(numbers(&both).into_iter().eq(0..LINES));
}

/// penlogd(1), SIGNALS: senders who do not stop do not keep it, and nothing is missing up to where it ends.
#[test]
fn term_under_load_ends_it_with_all_that_came_before() {
    let mut penlogd = logging(&["-p", "SCRATCH/pid"]);
    let (count, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let before = std::thread::scope(|scope| {
        let web = penlogd.sender("127.0.0.2");
        let port = penlogd.port;
        let (count, ended) = (&count, &ended);
        scope.spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                let number = count.load(Ordering::SeqCst);
                if number % 64 == 0 {
                    let roomy =
                        || crate::support::udp::unread(port) < 1 << 20 || ended.load(Ordering::SeqCst);
                    wait_until("there is room in the socket", roomy);
                }
                // Refused when it is gone.
                if web.0.send(line(&format!("GET /{number}")).as_bytes()).is_ok() {
                    count.store(number + 1, Ordering::SeqCst);
                }
            }
        });
        wait_until("there is some load", || count.load(Ordering::SeqCst) > 5000);
        let before = count.load(Ordering::SeqCst);
        penlogd.signal(Signal::SIGTERM);
        assert_eq!(penlogd.wait_for_end().and_then(|status| status.code()), Some(0));
        ended.store(true, Ordering::SeqCst);
        before
    });
    let numbers = numbers(&penlogd.scratch.read("log"));
    assert!(numbers.len() >= before, "{} lines of {before}", numbers.len());
    assert!(numbers.iter().copied().eq(0..numbers.len()), "something is missing in between");
    assert_eq!(penlogd.scratch.names(), ["log", "stderr", "stdout"]);
}

/// penlogd(1), --wait: a line waits for pen's word, and others wait behind it; TERM writes what waits.
#[test]
fn lines_wait_for_what_pen_knows() {
    let mut penlogd = logging(&["--wait", "600"]);
    let (pen, web) = (penlogd.sender("127.0.0.1"), penlogd.sender("127.0.0.2"));
    pen.send("+ 10.0.0.2 127.0.0.2 GET /2\n");
    web.send(line("GET /1"));
    web.send(line("GET /2"));
    wait_until("both have been read", || penlogd.unread() == 0);
    assert_eq!(penlogd.scratch.read("log"), "");
    pen.send("+ 10.0.0.1 127.0.0.2 GET /1\n");
    let both = [told("10.0.0.1", "GET /1"), told("10.0.0.2", "GET /2")].concat();
    logs(&penlogd, &both);
    web.send(line("GET /3"));
    assert_eq!(penlogd.end_with(Signal::SIGTERM), Some(0));
    assert_eq!(penlogd.scratch.read("log"), both + &line("GET /3"));
}

/// penlogd(1), --wait: not for ever.
#[test]
fn a_line_that_nobody_knows_of_is_written_when_its_time_is_up() {
    let penlogd = logging(&["--wait", "0.3"]);
    penlogd.send("127.0.0.2", line("GET /"));
    logs(&penlogd, &line("GET /"));
}

/// penlogd(1), -n: so many entries are remembered, the newest.
#[test]
fn n_entries_are_remembered() {
    let penlogd = logging(&["-n", "2", "--wait", "0"]);
    let (pen, web) = (penlogd.sender("127.0.0.1"), penlogd.sender("127.0.0.2"));
    for number in 1..=3 {
        pen.send(format!("+ 10.0.0.{number} 127.0.0.2 GET /{number}\n"));
    }
    for number in 1..=3 {
        web.send(line(&format!("GET /{number}")));
    }
    let wanted = [line("GET /1"), told("10.0.0.2", "GET /2"), told("10.0.0.3", "GET /3")];
    logs(&penlogd, &wanted.concat());
}

/// penlogd(1), DESCRIPTION: nothing that comes makes a line of its own or reaches a terminal.
#[test]
fn nobody_can_forge_a_line() {
    let penlogd = logging(&["--wait", "0"]);
    penlogd.send("127.0.0.1", "+ 10.0.0.7\n127.0.0.2 GET /\n");
    let web = penlogd.sender("127.0.0.2");
    web.send("a \"GET /\x1b[2J\" 200\n10.0.0.1 - - \"GET /forged\" 200 1\r\nb\0\n");
    web.send(line("GET /"));
    let first = "a \"GET /\\x1b[2J\" 200\\x0a10.0.0.1 - - \"GET /forged\" 200 1\\x0d\\x0ab\\x00\n";
    logs(&penlogd, &[first, &line("GET /")].concat());
}

/// penlogd(1), DIAGNOSTICS: a full disk loses lines, which is told once; when there is room again they are written.
#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let files = Scratch::new();
    let log = files.file("log");
    symlink("/dev/full", &log).unwrap();
    let mut penlogd = Penlogd::with(&["-l", &log, "--wait", "0"]).start();
    let web = penlogd.sender("127.0.0.2");
    for _ in 0..100 {
        web.send(line("GET /lost"));
        wait_until("it has been read", || penlogd.unread() == 0);
    }
    wait_until("the loss is told", || penlogd.stderr().contains("No space left on device"));
    assert_eq!(penlogd.stderr().lines().count(), 1, "{}", penlogd.stderr());
    fs::remove_file(&log).unwrap();
    penlogd.signal(Signal::SIGHUP);
    wait_until("there is a file", || fs::exists(&log).unwrap());
    web.send(line("GET /kept"));
    wait_until("the log is written to", || files.read("log") == line("GET /kept"));
    assert_eq!(penlogd.end_with(Signal::SIGTERM), Some(0));
    let lost: u64 = penlogd
        .stderr()
        .lines()
        .map(|line| {
            let count = line.split(" lines lost").next().unwrap().rsplit(' ').next().unwrap();
            count.parse::<u64>().unwrap_or_else(|_| panic!("{line}"))
        })
        .sum();
    assert_eq!(lost, 100);
}

/// penlogd(1), SIGNALS: a log that cannot be opened anew is told, and the old one is kept.
#[test]
fn a_log_that_cannot_be_opened_anew_is_kept() {
    let files = Scratch::new();
    fs::create_dir(files.file("there")).unwrap();
    let log = files.file("there/log");
    let penlogd = Penlogd::with(&["-l", &log, "--wait", "0"]).start();
    fs::rename(files.file("there"), files.file("gone")).unwrap();
    penlogd.signal(Signal::SIGHUP);
    wait_until("that is told", || penlogd.stderr().contains("; the old one is kept"));
    penlogd.send("127.0.0.2", line("GET /"));
    wait_until("the old one is written to", || files.read("gone/log") == line("GET /"));
}

/// penlogd(1), -l: a FIFO that nobody reads keeps nobody; who reads it later gets what has waited.
#[test]
fn a_fifo_without_a_reader_keeps_its_lines() {
    const LINES: usize = 5000;
    let files = Scratch::new();
    let fifo = files.file("fifo");
    mkfifo(fifo.as_str(), Mode::S_IRWXU).unwrap();
    let mut penlogd = Penlogd::with(&["-l", &fifo, "--wait", "0"]).start();
    send_numbered(&penlogd, &penlogd.sender("127.0.0.2"), 0..LINES);
    wait_until("all have been read", || penlogd.unread() == 0);
    // Held open by penlogd, so that this need not wait.
    let mut reader = File::open(fifo).unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(penlogd.end_with(Signal::SIGTERM), Some(0));
    assert!(numbers(&reader.join().unwrap()).into_iter().eq(0..LINES), "{}", penlogd.stderr());
    assert_eq!(penlogd.stderr(), "");
}

/// The same of one whose reader has gone, until there is another.
#[test]
fn a_fifo_keeps_its_lines_from_one_reader_to_the_next() {
    const LINES: usize = 5000;
    let files = Scratch::new();
    let fifo = files.file("fifo");
    mkfifo(fifo.as_str(), Mode::S_IRWXU).unwrap();
    // Opened for writing too, so that this need not wait.
    let mut first = File::options().read(true).write(true).open(&fifo).unwrap();
    let mut penlogd = Penlogd::with(&["-l", &fifo, "--wait", "0"]).start();
    let sender = penlogd.sender("127.0.0.2");
    send_numbered(&penlogd, &sender, 0..1);
    let mut text = Vec::new();
    while !text.ends_with(b"\n") {
        let mut room = [0; 100];
        let count = first.read(&mut room).unwrap();
        text.extend_from_slice(&room[..count]);
    }
    drop(first);
    send_numbered(&penlogd, &sender, 1..LINES);
    wait_until("all have been read", || penlogd.unread() == 0);
    let mut next = File::open(fifo).unwrap();
    let reader = std::thread::spawn(move || {
        next.read_to_end(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    });
    assert_eq!(penlogd.end_with(Signal::SIGTERM), Some(0));
    assert!(numbers(&reader.join().unwrap()).into_iter().eq(0..LINES), "{}", penlogd.stderr());
    assert_eq!(penlogd.stderr(), "");
}

/// penlogd(1), -l: nobody who leaves standard output unread keeps it from its signals.
#[test]
fn an_output_that_nobody_reads_does_not_keep_it() {
    const LINES: usize = 5000;
    let files = Scratch::new();
    let fifo = files.file("fifo");
    mkfifo(fifo.as_str(), Mode::S_IRWXU).unwrap();
    // There is a reader, who does not read.
    let _reader = File::options().read(true).write(true).open(&fifo).unwrap();
    let mut penlogd = Penlogd::with(&["--wait", "0"]).output(&fifo).start();
    send_numbered(&penlogd, &penlogd.sender("127.0.0.2"), 0..LINES);
    wait_until("all have been read", || penlogd.unread() == 0);
    penlogd.signal(Signal::SIGUSR1);
    wait_until("it answers", || penlogd.stderr().contains(&format!("{LINES} unmatched")));
    assert_eq!(penlogd.end_with(Signal::SIGTERM), Some(0));
    assert!(penlogd.stderr().contains("lines lost, because the log takes no more"), "{}", penlogd.stderr());
}

/// penlogd(1), DESCRIPTION: senders by IPv4 and by IPv6, at the same port.
#[test]
fn both_families_are_heard() {
    let penlogd = logging(&["--wait", "0"]);
    penlogd.send("::1", "+ 10.0.0.1 127.0.0.2 GET /4\n");
    penlogd.send("127.0.0.1", "+ 2001:db8::1 ::1 GET /6\n");
    penlogd.send("127.0.0.2", line("GET /4"));
    logs(&penlogd, &told("10.0.0.1", "GET /4"));
    penlogd.send("::1", line("GET /6"));
    logs(&penlogd, &[told("10.0.0.1", "GET /4"), told("2001:db8::1", "GET /6")].concat());
}

/// penlogd(1), DESCRIPTION: IPv4 alone will do where there is no IPv6.
#[test]
fn without_ipv6_there_is_ipv4() {
    needs_root!();
    let Some(network) = Network::alone() else { return };
    network.ip("link set lo up");
    network.inside(|| {
        // Only of this network.
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let penlogd = logging(&["--wait", "0"]);
        penlogd.send("127.0.0.2", line("GET /"));
        logs(&penlogd, &line("GET /"));
    });
}

/// penlogd(1), DIAGNOSTICS: what is malformed is counted and told rarely, takes no memory, and is not in the log.
#[test]
fn a_flood_of_rubbish_is_counted_and_costs_no_memory() {
    const EACH: usize = 4000;
    let penlogd = logging(&[]);
    let piece = "x".repeat(1023);
    let rubbish: [&[u8]; 9] = [
        b"",
        b"\n",
        b"+",
        b"+ 1.2.3.4\n",
        b"+ 1.2.3.4 no.such.host GET /\n",
        b"#penlog zzz\n",
        b"no request\n",
        b"\xff\0\x1b[2J",
        piece.as_bytes(),
    ];
    let large = vec![b'y'; 60_000];
    for round in 0..EACH {
        // From ever new ports, and from many addresses.
        let source = format!("127.0.{}.{}", round / 250 % 250, 1 + round % 250);
        let sender = penlogd.sender(&source);
        rubbish.iter().for_each(|bytes| sender.send(bytes));
        if round % 16 == 0 {
            sender.send(&large);
            wait_until("it keeps up", || penlogd.unread() < 1 << 20);
        }
    }
    wait_until("all has been read", || penlogd.unread() == 0);
    let memory = processes::memory_kib(&penlogd.family());
    assert!(memory < 48 * 1024, "{memory} KiB");
    assert!(penlogd.stderr().lines().count() <= 3, "{}", penlogd.stderr());
    assert!(penlogd.stderr().contains("malformed records of pen dropped"), "{}", penlogd.stderr());
    penlogd.signal(Signal::SIGUSR1);
    wait_until("all is counted", || {
        let told = penlogd.stderr();
        let counts = told.lines().find(|line| line.starts_with("malformed: "));
        let Some(counts) = counts else { return false };
        assert!(counts.contains(&format!("{} records, {EACH} servers, {EACH} marks", 2 * EACH)), "{told}");
        true
    });
    assert_eq!(penlogd.scratch.read("log"), "");
    // It is as well as ever.
    penlogd.send("127.0.0.1", "+ 10.0.0.7 127.0.0.2 GET /\n");
    penlogd.send("127.0.0.2", line("GET /"));
    logs(&penlogd, &told("10.0.0.7", "GET /"));
}

/// penlogd(1), DIAGNOSTICS: the datagrams of a pen that did not arrive are seen by the gaps in their numbers.
#[test]
fn lost_datagrams_are_told() {
    let penlogd = logging(&[]);
    let pen = penlogd.sender("127.0.0.5");
    for number in (0..10).chain(14..500) {
        pen.send(format!("+ 10.0.0.1 127.0.0.2 GET /{number}\n#0badcafe {number}\n"));
    }
    wait_until("that is told", || penlogd.stderr().contains("4 datagrams of pen at 127.0.0.5 lost"));
}

/// penlogd(1), DIAGNOSTICS: what the system has no room for is told.
#[test]
fn what_the_system_drops_is_told() {
    let penlogd = logging(&["--wait", "0"]);
    penlogd.signal(Signal::SIGSTOP);
    let web = penlogd.sender("127.0.0.2");
    let full = format!("{} \"GET /\"\n", "x".repeat(8000));
    let mut before = 0;
    wait_until("the socket is full", || {
        (0..500).for_each(|_| web.send(&full));
        let now = penlogd.unread();
        std::mem::replace(&mut before, now) == now
    });
    penlogd.signal(Signal::SIGCONT);
    wait_until("it is told", || penlogd.stderr().contains("datagrams dropped by the system"));
}

/// penlogd(1), SIGNALS, -d: counts are told when USR1 comes, and with -d at the end.
#[test]
fn counts_are_told() {
    let mut penlogd = logging(&["-d", "--wait", "0"]);
    let listens = format!("listens on UDP port {}", penlogd.port);
    wait_until("it says where it listens", || penlogd.stderr().contains(&listens));
    penlogd.send("127.0.0.1", "+ 10.0.0.7 127.0.0.2 GET /\n");
    penlogd.send("127.0.0.2", line("GET /"));
    logs(&penlogd, &told("10.0.0.7", "GET /"));
    penlogd.signal(Signal::SIGUSR1);
    wait_until("they are told", || penlogd.stderr().contains("lines: 1 matched, 0 unmatched"));
    penlogd.end_with(Signal::SIGTERM);
    assert_eq!(penlogd.stderr().matches("lines: 1 matched").count(), 2, "{}", penlogd.stderr());
}

/// penlogd(1), DESCRIPTION: it does nothing while there is nothing to do.
#[test]
fn an_idle_one_uses_no_time() {
    let penlogd = logging(&[]);
    penlogd.send("127.0.0.2", line("GET /"));
    logs(&penlogd, &line("GET /"));
    let before = processes::cpu_time(&penlogd.family());
    crate::support::let_pass(Duration::from_millis(1500));
    let after = processes::cpu_time(&penlogd.family());
    assert!(after - before <= Duration::from_millis(50), "{:?}", after - before);
}
