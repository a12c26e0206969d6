//! Starting and stopping: exit codes, messages, pid files, listeners.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::backend::{greeters, webs};
use crate::support::pen::{Ended, pen_says};
use crate::support::{
    Backend, Pen, SOON, Scratch, became_true, classic, free_port, needs_root, only_ours, processes,
};
use crate::support::{Ending, client, wait_until};

/// pen(1), -f, SIGNALS: stays in the foreground; TERM ends it with 0.
#[test]
fn in_the_foreground_it_serves_and_ends_with_0() {
    let s = webs(2);
    let mut pen = Pen::with(&["-r"]).servers(&s).start();
    assert_eq!(pen.visits(2), "S1 S0");
    assert_eq!(pen.end_with(Signal::SIGTERM), Some(0));
    assert!(TcpStream::connect(pen.address).is_err(), "somebody still listens");
}

/// pen(1), PROCESSES: the command returns when the balancer accepts connections, not before.
#[test]
fn in_the_background_it_returns_when_it_accepts() {
    only_ours!("it returns first");
    let s = webs(1);
    for _ in 0..5 {
        let pen = Pen::with(&[]).servers(&s).workers(3).background().start();
        // The very next thing that a script does must work.
        assert_eq!(pen.visit(), "S0");
        assert_eq!(pen.workers().len(), 3);
        assert_ne!(processes::stat(pen.pid).unwrap().parent, std::process::id() as i32);
    }
}

/// pen(1), PROCESSES: a daemon is in a session of its own and has let go of its terminal.
#[test]
fn a_daemon_is_in_a_session_of_its_own() {
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).background().start();
    let session = |pid: i32| nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid))).unwrap();
    assert_ne!(session(pen.pid), session(0));
    for pid in pen.family() {
        for fd in 0..3 {
            let to = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
            assert_eq!(to.to_str(), Some("/dev/null"), "descriptor {fd} of {pid}");
        }
    }
}

/// Runs the command line in the foreground and in the background. Both must fail, with the reason on stderr.
#[track_caller]
fn fails(options: &[&str], servers: &[&str], reason: &str) {
    for background in [false, true] {
        if background && classic() {
            continue; // it is in the background before it looks for anything that may fail
        }
        let mut pen = Pen::with(options).servers(servers);
        if background {
            pen = pen.background();
        }
        let ended = pen.run();
        assert_eq!(ended.code(), 1, "background: {background}, {ended:?}");
        if !classic() {
            assert!(ended.stderr.to_lowercase().contains(&reason.to_lowercase()), "{reason}: {ended:?}");
            assert!(ended.stderr.starts_with("pen: "), "{ended:?}");
        }
    }
}

/// pen(1), EXIT STATUS: what it cannot do at the start ends the start, with 1 and the reason.
#[test]
fn a_start_that_cannot_succeed_says_why() {
    fails(&["-l", "/no/such/directory/log"], &["127.0.0.1:9"], "/no/such/directory/log");
    fails(&["-p", "/no/such/directory/pid"], &["127.0.0.1:9"], "/no/such/directory/pid");
    fails(&["-u", "nosuchuser"], &["127.0.0.1:9"], "nosuchuser");
    if nix::unistd::geteuid().is_root() {
        fails(&["-j", "/no/such/jail"], &["127.0.0.1:9"], "/no/such/jail");
    }
}

/// pen(1), EXIT STATUS: an address that is in use.
#[test]
fn a_port_in_use_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    for background in [false, true] {
        if background && classic() {
            continue; // it is in the background before it looks for anything that may fail
        }
        let pen = Pen::with(&[]).listen(&address).servers(["127.0.0.1:9"]);
        let ended = if background { pen.background() } else { pen }.run();
        assert_eq!(ended.code(), 1, "{ended:?}");
        if !classic() {
            assert!(ended.stderr.contains(&address) && ended.stderr.contains("in use"), "{ended:?}");
        }
    }
}

/// pen(1), EXIT STATUS: a second pen on the same address is refused, and the first goes on.
#[test]
fn two_pens_cannot_share_an_address() {
    only_ours!("it sets SO_REUSEPORT, and both get some of the clients");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).start();
    let second = Pen::with(&[]).listen(pen.address).servers(&s).run();
    assert_eq!(second.code(), 1, "{second:?}");
    assert_eq!(pen.visits(5), "S0 S0 S0 S0 S0");
}

/// pen(1), -p: the master's pid, without a newline; the file goes when pen does, however it is told to.
#[test]
fn the_pid_file_holds_the_pid_and_goes_with_pen() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        if signal == Signal::SIGINT && classic() {
            continue; // INT kills it and leaves the file
        }
        let s = webs(1);
        let files = Scratch::new();
        let mut pen = Pen::with(&["-p", &files.file("pid")]).servers(&s).start();
        wait_until("there is a pid file", || files.read("pid") == pen.pid.to_string());
        pen.end_with(signal);
        assert_eq!(files.names(), [""; 0], "after {signal}");
    }
}

/// pen(1), -p: a relative name is relative to where pen was started, also for a daemon.
#[test]
fn a_relative_pid_file_is_where_pen_was_started() {
    let (s, files) = (webs(1), Scratch::new());
    let ended = {
        let mut pen = Pen::with(&["-p", "pen.pid"]).servers(&s).directory(files.path()).start();
        wait_until("there is a pid file", || files.read("pen.pid") == pen.pid.to_string());
        pen.end_with(Signal::SIGTERM)
    };
    assert_eq!(ended, Some(0));
    assert_eq!(files.names(), [""; 0]);
}

/// pen(1), -p: the file of a pen that is gone is replaced, whoever has that pid now.
#[test]
fn a_stale_pid_file_is_replaced() {
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    for stale in [gone.id().to_string(), std::process::id().to_string(), "junk\n".into(), String::new()] {
        let (s, files) = (webs(1), Scratch::new());
        let file = files.write("pid", &stale);
        let pen = Pen::with(&["-p", &file]).servers(&s).start();
        wait_until("the pid file is replaced", || files.read("pid") == pen.pid.to_string());
    }
}

/// pen(1), -p: the file of a pen that runs is left alone, and the second pen does not start.
#[test]
fn the_pid_file_of_a_running_pen_is_respected() {
    only_ours!("it overwrites the file");
    let (s, files) = (webs(1), Scratch::new());
    let file = files.file("pid");
    let pen = Pen::with(&["-p", &file]).servers(&s).start();
    wait_until("there is a pid file", || files.read("pid") == pen.pid.to_string());
    for background in [false, true] {
        let second = Pen::with(&["-p", &file]).servers(&s);
        let ended = if background { second.background() } else { second }.run();
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert!(ended.stderr.contains(&file), "{ended:?}");
    }
    assert_eq!(files.read("pid"), pen.pid.to_string());
    assert_eq!(pen.visit(), "S0");
}

/// pen(1), Addresses: a listener with a slash is a Unix socket; an old socket there is replaced, and pen's own is
/// removed at the end.
#[test]
fn it_listens_on_a_unix_socket() {
    let (s, files) = (webs(1), Scratch::new());
    let path = files.file("socket");
    drop(UnixListener::bind(&path).unwrap());
    let mut pen = Pen::with(&[]).listen(&path).servers(&s).start();
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("S0"), "{answer}");
    pen.end_with(Signal::SIGTERM);
    if !classic() {
        assert_eq!(files.names(), [""; 0]);
    }
}

/// pen(1), Addresses: what is not a socket is not removed to make room for one.
#[test]
fn a_file_in_the_place_of_the_socket_is_not_deleted() {
    only_ours!("it deletes whatever is there");
    let files = Scratch::new();
    let path = files.write("precious", "data");
    let ended = Pen::with(&[]).listen(&path).servers(["127.0.0.1:9"]).run();
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains(&path), "{ended:?}");
    assert_eq!(files.read("precious"), "data");
}

/// pen(1), Addresses: the socket of a pen that runs is not taken from it.
#[test]
fn a_unix_socket_in_use_is_not_taken() {
    only_ours!("it removes whatever is there");
    let (s, files) = (webs(1), Scratch::new());
    let path = files.file("socket");
    let _pen = Pen::with(&[]).listen(&path).servers(&s).start();
    let second = Pen::with(&[]).listen(&path).servers(&s).run();
    assert_eq!(second.code(), 1, "{second:?}");
    assert!(UnixStream::connect(&path).is_ok());
}

/// pen(1), Addresses: a server may be a Unix socket.
#[test]
fn a_server_may_be_a_unix_socket() {
    let files = Scratch::new();
    let path = files.file("server");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..20 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            stream.read_to_string(&mut request).unwrap();
            stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{}", request.len()).as_bytes()).unwrap();
        }
    });
    let pen = Pen::with(&[]).servers([&path]).start();
    for _ in 0..20 {
        // The answer comes after the client has ended its stream: nothing of it may be lost.
        let stream = pen.connect();
        (&stream).write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let (answer, ending) = client::read_all(&stream);
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.0 200 OK\r\n\r\n18");
        assert_eq!(ending, Ending::EndOfStream);
    }
    server.join().unwrap();
}

/// pen(1), Addresses: every way to write the address to listen on.
#[test]
fn listeners_can_be_written_in_many_ways() {
    let s = webs(1);
    for (spec, from, to) in [
        ("PORT", "127.0.0.1", "127.0.0.1"),
        ("localhost:PORT", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.9:PORT", "127.0.0.1", "127.0.0.9"),
        ("::1:PORT", "::1", "::1"),
        ("[::1]:PORT", "::1", "::1"),
        (":::PORT", "::1", "::1"),
        (":::PORT", "127.0.0.1", "127.0.0.1"),
    ] {
        if classic() && (spec.starts_with('[') || spec.starts_with("localhost")) {
            continue; // brackets fail; and a name may give it ::1
        }
        let mut pen = Pen::with(&[]).listen(spec).servers(&s).start();
        pen.address.set_ip(to.parse().unwrap());
        let answer =
            client::connect(from.parse().unwrap(), pen.address).map(|stream| client::request(stream, "/"));
        match answer {
            Ok(answer) => assert_eq!(answer, "S0", "{spec}"),
            // localhost may mean ::1 first.
            Err(_) if spec.starts_with("localhost") => {
                pen.address.set_ip("::1".parse().unwrap());
                assert_eq!(pen.visit_from("::1"), "S0", "{spec}");
            }
            Err(error) => panic!("{spec}: {error}"),
        }
    }
}

/// pen(1), Addresses: without a port of its own, a server has the listener's.
#[test]
fn a_server_without_a_port_has_the_listeners() {
    for server in ["127.0.0.2", "[127.0.0.2]"] {
        let port = free_port();
        let _s = Backend::web_at("S0", "127.0.0.2".parse().unwrap(), port);
        let pen = Pen::with(&[]).listen(format!("127.0.0.1:{port}")).servers([server]).start();
        assert_eq!(pen.visit(), "S0");
    }
}

/// pen(1), Options: flags may be bundled, follow the operands, and have their argument attached.
#[test]
fn options_are_taken_as_getopt_takes_them() {
    let s = webs(3);
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    // The builder puts `listen` before the servers; what follows it can be options, too.
    let servers = [&s[0].to_string(), "-b30", &s[1].to_string(), "-drx", "50", &s[2].to_string(), "-t", "2"];
    let pen = Pen::with(&["-t3", "-T", "0"]).listen(listen).servers(servers).start();
    assert_eq!(pen.visits(4), "S1 S2 S0 S1");
}

/// pen(1), Options: each has a long name.
#[test]
fn options_have_long_names() {
    only_ours!("it has none");
    let (s, files) = (webs(3), Scratch::new());
    let help = pen_says(&["--help"]);
    assert_eq!(help.code(), 0);
    assert!(help.stderr.is_empty() && help.stdout.contains("--workers"), "{help:?}");
    let version = pen_says(&["--version"]);
    let library = if cfg!(feature = "aws-lc") { "AWS-LC" } else { "OpenSSL" };
    let start = format!("pen {} with {library} ", env!("CARGO_PKG_VERSION"));
    let number = version.stdout.strip_prefix(&start).and_then(|rest| rest.strip_suffix('\n'));
    assert!(version.code() == 0 && version.stderr.is_empty(), "{version:?}");
    assert!(number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit())), "{version:?}");
    let pid = format!("--pidfile={}", files.file("pid"));
    let pen = Pen::with(&["--roundrobin", "--blacklist", "30", &pid]).servers(&s).start();
    assert_eq!(pen.visits(4), "S1 S2 S0 S1");
    wait_until("there is a pid file", || files.read("pid") == pen.pid.to_string());
}

/// pen(1), EXIT STATUS: wrong usage is an error, told on stderr.
#[test]
fn wrong_usage_is_an_error() {
    only_ours!("it prints the usage text and exits with 0");
    for arguments in [
        &[][..],
        &["-z", "127.0.0.1:PORT", "127.0.0.1:9"],
        &["--no-such-option", "127.0.0.1:PORT", "127.0.0.1:9"],
        &["-b"],
        &["-t", "0", "127.0.0.1:PORT", "127.0.0.1:9"],
        &["-t", "abc", "127.0.0.1:PORT", "127.0.0.1:9"],
        &["-L", "foo", "127.0.0.1:PORT", "127.0.0.1:9"],
        &["--workers", "0", "127.0.0.1:PORT", "127.0.0.1:9"],
        &["-x", "-1", "127.0.0.1:PORT", "127.0.0.1:9"],
        &["127.0.0.1:0", "127.0.0.1:9"],
        &["127.0.0.1:70000", "127.0.0.1:9"],
        &["127.0.0.1:junk", "127.0.0.1:9"],
        &["127.0.0.1:PORT", "127.0.0.1:99999"],
        &["127.0.0.1:PORT", "127.0.0.1:9:x"],
    ] {
        let port = free_port().to_string();
        let arguments: Vec<_> = arguments.iter().map(|word| word.replace("PORT", &port)).collect();
        let arguments: Vec<_> = ["-f"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let Ended { status, stdout, stderr } = pen_says(&arguments);
        assert!(status.code().is_some_and(|code| code != 0), "{arguments:?} {status}");
        assert!(!stderr.trim().is_empty() && stdout.is_empty(), "{arguments:?} {stdout} {stderr}");
    }
}

/// pen(1), Options: they say so, once, and change nothing.
#[test]
fn obsolete_options_are_noticed_and_nothing_else() {
    let s = webs(2);
    let pen = Pen::with(&["-D", "-Q", "-n", "-S", "5", "-r"]).servers(&s).start();
    assert_eq!(pen.visits(3), "S1 S0 S1");
    if !classic() {
        for option in ["-D", "-Q", "-n", "-S"] {
            let notices = pen.stderr().lines().filter(|line| line.contains(option)).count();
            assert_eq!(notices, 1, "for {option}: {}", pen.stderr());
        }
    }
}

/// pen(1), -m, -q: too small numbers are raised, which is said.
#[test]
fn too_small_numbers_are_raised() {
    let s = webs(1);
    let pen = Pen::with(&["-m", "0", "-q", "10"]).servers(&s).start();
    assert_eq!(pen.visit(), "S0");
    for notice in ["multi_accept bumped to 1", "listen_queue bumped to 50"] {
        assert!(pen.stderr().contains(notice), "{}", pen.stderr());
    }
}

/// pen(1), Addresses: a name that does not resolve is reported and does not stop the others.
#[test]
fn a_name_that_does_not_resolve_does_not_stop_the_others() {
    only_ours!("it ends");
    let s = webs(2);
    let servers = [s[0].to_string(), "no-such-host.invalid:80".into(), s[1].to_string()];
    let pen = Pen::with(&["-r"]).servers(servers).start();
    assert_eq!(pen.visits(4), "S1 S0 S1 S0");
    assert!(pen.stderr().contains("no-such-host.invalid"), "{}", pen.stderr());
}

/// pen(1), Addresses: if none can be used, the start fails.
#[test]
fn without_any_server_that_resolves_the_start_fails() {
    fails(&[], &["no-such-host.invalid:80", "neither-this.invalid:80"][..1], "no-such-host.invalid");
    only_ours!("it ends at the first");
    fails(&[], &["no-such-host.invalid:80", "neither-this.invalid:80"], "neither-this.invalid");
}

/// pen(1), -F: a file that is wrong ends the start, with its name and line.
#[test]
fn a_wrong_file_ends_the_start() {
    only_ours!("it goes on");
    let files = Scratch::new();
    let config = files.write("pen.cfg", "# a comment\nblacklist 5\nblacklist soon\n");
    fails(&["-F", &config], &["127.0.0.1:9"], &format!("{config}:3"));
}

/// pen(1), --check: looks at everything, starts nothing, and 0 means that pen would start.
#[test]
fn check_accepts_what_would_start() {
    only_ours!("it has no --check");
    let (s, files) = (webs(1), Scratch::new());
    let config = files.write("pen.cfg", "roundrobin\nacl 1 permit 127.0.0.1\nclient_acl 1\n");
    let pid = files.file("pid");
    let ended = Pen::with(&["--check", "-F", &config, "-p", &pid]).servers(&s).run();
    assert_eq!((ended.code(), ended.stdout.as_str(), ended.stderr.as_str()), (0, "ok\n", ""));
    assert_eq!(files.names(), ["pen.cfg"]);
    assert_eq!(s[0].accepted(), 0);
}

/// pen(1), --check: names every problem, not only the first.
#[test]
fn check_names_every_problem() {
    only_ours!("it has no --check");
    let files = Scratch::new();
    let config = files.write("pen.cfg", "roundrobin\nblacklist soon\nhash\nclient_acl 1000\nweigth\n");
    let options = ["--check", "-F", &config, "-u", "nosuchuser", "-j", "/no/such/jail"];
    let ended = Pen::with(&options).servers(["127.0.0.1:9", "no-such-host.invalid:80"]).run();
    assert_eq!(ended.code(), 1, "{ended:?}");
    for problem in [":2", ":4", ":5", "nosuchuser", "/no/such/jail", "no-such-host.invalid"] {
        assert!(ended.stderr.contains(problem), "{problem} is not named: {ended:?}");
    }
}

/// pen(1), -x: the limit of descriptors is raised to what the connections need.
#[test]
fn the_descriptor_limit_is_raised_to_fit() {
    only_ours!("it does not raise it");
    let s = webs(1);
    let pen = Pen::with(&["-x", "1000"]).servers(&s).through(&["prlimit", "--nofile=64:8192"]).start();
    for worker in pen.workers() {
        assert!(processes::descriptor_limit(worker) >= 2000);
    }
}

/// pen(1), -x: if the system does not grant that many, pen says so and runs.
#[test]
fn a_descriptor_limit_that_is_not_granted_is_told() {
    only_ours!("it does not look");
    needs_root!();
    let s = webs(1);
    let pen = Pen::with(&["-x", "1000"]).servers(&s).through(&LIMITED).start();
    assert_eq!(pen.visit(), "S0");
    let told = became_true(SOON, || {
        pen.stderr().lines().any(|line| line.contains("descriptor") && line.contains("64"))
    });
    assert!(told.is_some(), "{}", pen.stderr());
}

/// pen(1), -x: with so few that no worker could serve anybody, pen does not start; with what it says that it needs, it
/// serves one connection at a time.
#[test]
fn a_start_that_could_serve_nobody_fails() {
    only_ours!("it starts and serves nobody");
    needs_root!();
    let g = greeters(1);
    let limited = |limit: u64, background: bool| {
        let limit = format!("--nofile={limit}:{limit}");
        let pen = Pen::with(&["-l", "SCRATCH/log"]).servers(&g).workers(1);
        let pen = pen.through(&["prlimit", &limit, LIMITED[2], LIMITED[3]]);
        if background { pen.background() } else { pen }
    };
    for background in [false, true] {
        let ended = limited(12, background).run();
        assert_eq!(ended.code(), 1, "{ended:?}");
        let needed = ended.stderr.split("a worker needs ").nth(1).and_then(|rest| rest.split(' ').next());
        let needed: u64 =
            needed.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{ended:?}"));
        assert_eq!(limited(needed - 1, background).run().code(), 1);
        let pen = limited(needed, background).start();
        let held = pen.hold();
        let second = pen.connect();
        second.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert_eq!(client::read_line(&second), None, "there was room for two");
        assert!(held.echoes());
    }
}

/// pen(1), --check: too few descriptors for all connections are told, and no problem; too few for one are.
#[test]
fn check_tells_of_too_few_descriptors() {
    only_ours!("it has no --check");
    needs_root!();
    let check = |limit: &str| {
        let through = ["prlimit", limit, LIMITED[2], LIMITED[3]];
        Pen::with(&["--check"]).servers(["127.0.0.1:9"]).background().through(&through).run()
    };
    let some = check("--nofile=64:64");
    assert_eq!(some.code(), 0, "{some:?}");
    assert!(some.stderr.contains("may have 64 descriptors, enough for 23 connections"), "{some:?}");
    let none = check("--nofile=12:12");
    assert_eq!(none.code(), 1, "{none:?}");
    assert!(none.stderr.contains("to serve a single connection"), "{none:?}");
}

/// pen(1), -w: a page that cannot be written is told at the start, which goes on.
#[test]
fn a_status_page_that_cannot_be_written_is_told_at_the_start() {
    only_ours!("it does not look");
    let s = webs(1);
    let options = ["-w", "/no/such/directory/status"];
    for background in [false, true] {
        let pen = Pen::with(&options).servers(&s);
        let pen = if background { pen.background() } else { pen }.start();
        assert_eq!(pen.visit(), "S0");
        let told = || pen.stderr().contains("cannot write the status page /no/such/directory/status");
        assert!(became_true(SOON, told).is_some(), "background: {background}, {}", pen.stderr());
    }
}

/// pen(1), --workers: by default one for each CPU that pen may use, not for each that there is.
#[test]
fn by_default_there_is_a_worker_for_each_cpu() {
    only_ours!("it has no workers");
    let s = webs(1);
    let cpus = std::thread::available_parallelism().unwrap().get() as u32;
    // What the builder gives is taken back. It waits until there are as many as are expected.
    let other = format!("workers {}", cpus + 2);
    let by_default =
        |expected| Pen::with(&["-O", &other, "-O", "workers auto"]).servers(&s).workers(expected);
    assert_eq!(by_default(cpus).start().workers().len(), cpus as usize);
    let Some(first) = first_cpu() else {
        return;
    };
    if Command::new("taskset").args(["-c", &first, "true"]).output().is_ok_and(|done| done.status.success()) {
        let pen = by_default(1).through(&["taskset", "-c", &first]).start();
        assert_eq!(pen.workers().len(), 1);
    } else {
        eprintln!("not told: there is no taskset");
    }
}

/// The number of the first CPU that this process may use.
fn first_cpu() -> Option<String> {
    let cpus = processes::status(std::process::id() as i32, "Cpus_allowed_list");
    cpus.split([',', '-']).next().map(|first| first.trim().to_owned())
}

/// A hard limit that even root cannot raise.
const LIMITED: [&str; 4] = ["prlimit", "--nofile=64:64", "setpriv", "--bounding-set=-sys_resource"];

/// pen(1), SIGNALS: a TERM that comes right at the start ends it all the same, and leaves nothing.
#[test]
fn term_during_the_start_leaves_nothing() {
    only_ours!("it may leave its pid file");
    let s = webs(1);
    for _ in 0..10 {
        let files = Scratch::new();
        let mut pen = Pen::with(&["-p", &files.file("pid")]).servers(&s).start();
        pen.end_with(Signal::SIGTERM);
        assert_eq!(files.names(), [""; 0]);
    }
}

/// pen(1), -q: so many connections wait in the system to be accepted.
#[test]
fn the_listen_queue_is_as_long_as_it_was_asked_for() {
    if Command::new("ss").arg("-V").output().is_err() {
        eprintln!("not told: there is no ss");
        return;
    }
    let s = webs(1);
    let pen = Pen::with(&["-q", "77"]).servers(&s).controlled().start();
    let filter = format!("sport = :{}", pen.address.port());
    let length = || {
        let output = Command::new("ss").args(["-Hltn", &filter]).output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        // State, waiting now, the most that may.
        line.split_whitespace().nth(2).map(str::to_owned)
    };
    assert_eq!(length().as_deref(), Some("77"));
    if !classic() {
        assert_eq!(pen.ask("listen_queue 88"), "88\n");
        assert_eq!(length().as_deref(), Some("88"));
    }
}
