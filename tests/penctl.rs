//! penctl as people and scripts meet it: what goes over the line, what comes out, with which status; its completion, its
//! CGI page and its manual.
//!
//! The servers here are a few lines each: what pen itself answers is told elsewhere.
#![allow(clippy::unwrap_used)] // the whole crate is a test

#[allow(dead_code, unreachable_pub)] // it is there for all tests
#[path = "behaviour/support/scratch.rs"]
mod scratch;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use pen::model::command::{Command as Setting, CommandError};
use scratch::Scratch;

/// Long enough for anything that should happen at once.
const SOON: Duration = Duration::from_secs(30);

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap()
}

fn penctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penctl"));
    command.stdin(Stdio::null());
    command
}

/// penctl with this target and these arguments, to its end.
fn run(target: &str, arguments: &[&str]) -> Output {
    penctl().arg(target).args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn status(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

/// It ended with status 1 and one line on stderr, which is returned.
#[track_caller]
fn failure(output: &Output) -> String {
    let line = err(output);
    assert_eq!(status(output), 1, "{line}");
    assert!(line.starts_with("penctl: ") && line.ends_with('\n') && line.lines().count() == 1, "{line:?}");
    line
}

/// A control port in a thread of the test, for one connection or several; knows where it is.
struct Port<T> {
    target: String,
    server: JoinHandle<T>,
    _scratch: Option<Scratch>,
}

impl<T> Port<T> {
    /// What the server made of it.
    fn end(self) -> T {
        self.server.join().unwrap()
    }
}

/// Does `serve` with the first connection to a port of 127.0.0.1.
fn tcp<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> Port<T> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = listener.local_addr().unwrap().to_string();
    Port { target, server: thread::spawn(move || serve(accepted(&listener))), _scratch: None }
}

fn accepted(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The same on a Unix socket.
fn unix<T: Send + 'static>(serve: impl FnOnce(UnixStream) -> T + Send + 'static) -> Port<T> {
    let scratch = Scratch::new();
    let target = scratch.file("control");
    let listener = UnixListener::bind(&target).unwrap();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        serve(stream)
    });
    Port { target, server, _scratch: Some(scratch) }
}

/// Reads a line, with its end.
fn read_line(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the stream ended after {line:?}");
        line.push(byte[0]);
    }
    String::from_utf8_lossy(&line).into_owned()
}

/// Reads a line, answers and closes. Returns the line.
fn answer(mut stream: impl Read + Write, reply: &[u8]) -> String {
    let line = read_line(&mut stream);
    stream.write_all(reply).unwrap();
    line
}

/// What penctl sends, as one text, and what comes of it.
fn exchange(arguments: &[&str], reply: &'static [u8]) -> (String, Output) {
    let port = tcp(move |stream| answer(stream, reply));
    let output = run(&port.target, arguments);
    (port.end(), output)
}

#[test]
fn the_command_goes_out_as_one_line_and_the_answer_comes_out_as_it_is() {
    for (arguments, line) in [
        (&["mode"][..], "mode\n"),
        (&["server", "0", "max", "5"], "server 0 max 5\n"),
        (&["server 0 max 5"], "server 0 max 5\n"),
        (&["server", "0", "prio", "-5"], "server 0 prio -5\n"),
        (&["log", "/var/log/my pen.log"], "log /var/log/my pen.log\n"),
        (&["log \"/var/log/my pen.log\""], "log \"/var/log/my pen.log\"\n"),
        (&["--help"], "--help\n"),
        (&["--", "-t", "1"], "-- -t 1\n"),
        (&["", "mode", ""], " mode \n"),
    ] {
        let (sent, output) = exchange(arguments, b"line 1\n\0\xff no line end");
        assert_eq!(sent, line);
        assert_eq!(output.stdout, b"line 1\n\0\xff no line end");
        assert_eq!((err(&output).as_str(), status(&output)), ("", 0));
    }
}

#[test]
fn with_words_arguments_are_quoted_where_they_need_it() {
    let port = tcp(|stream| answer(stream, b""));
    let output = run("-w", &[&port.target, "log", "/var/log/my pen.log"]);
    assert_eq!((port.end().as_str(), status(&output)), ("log \"/var/log/my pen.log\"\n", 0));
}

#[test]
fn it_finds_pen_on_ipv4_ipv6_by_name_and_on_unix_sockets() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server =
        thread::spawn(move || (0..3).map(|_| answer(accepted(&listener), b"4\n")).collect::<Vec<_>>());
    for target in [format!("127.0.0.1:{port}"), format!("[127.0.0.1]:{port}"), format!("localhost:{port}")] {
        assert_eq!(out(&run(&target, &["pid"])), "4\n", "{target}");
    }
    assert_eq!(server.join().unwrap(), ["pid\n"; 3]);

    let port = unix(|stream| answer(stream, b"u\n"));
    assert_eq!(out(&run(&port.target, &["pid"])), "u\n");
    assert_eq!(port.end(), "pid\n");

    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        eprintln!("no IPv6 here: skipped");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let server =
        thread::spawn(move || (0..2).map(|_| answer(accepted(&listener), b"6\n")).collect::<Vec<_>>());
    for target in [format!("[::1]:{port}"), format!("::1:{port}")] {
        assert_eq!(out(&run(&target, &["pid"])), "6\n", "{target}");
    }
    assert_eq!(server.join().unwrap(), ["pid\n"; 2]);
}

#[test]
fn the_answer_is_shown_as_it_comes() {
    let (seen, go_on) = mpsc::channel::<()>();
    let port = unix(move |mut stream| {
        read_line(&mut stream);
        for piece in ["a", "bc\nd", "e\n"] {
            stream.write_all(piece.as_bytes()).unwrap();
            // Nothing more before penctl has shown this.
            go_on.recv_timeout(SOON).unwrap();
        }
    });
    let mut child = penctl().args([&port.target, "status"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    for piece in ["a", "bc\nd", "e\n"] {
        let mut shown = vec![0; piece.len()];
        stdout.read_exact(&mut shown).unwrap();
        assert_eq!(shown, piece.as_bytes());
        seen.send(()).unwrap();
    }
    assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
    assert!(child.wait().unwrap().success());
    port.end();
}

#[test]
fn large_answers_come_whole() {
    let port = tcp(|mut stream| {
        let line = read_line(&mut stream);
        let block: Vec<u8> = (0..=255).cycle().take(64 * 1024).collect();
        for _ in 0..160 {
            stream.write_all(&block).unwrap();
        }
        line
    });
    let output = run(&port.target, &["status"]);
    assert_eq!(status(&output), 0);
    assert_eq!(output.stdout.len(), 160 * 64 * 1024);
    assert!(output.stdout.iter().enumerate().all(|(place, &byte)| byte == (place % 256) as u8));
    port.end();
}

#[test]
fn the_status_says_whether_the_command_was_carried_out() {
    for reply in [
        "error: server 9 does not exist\n",
        "error: pen.cfg:7: weight must be a number\nerror: pen.cfg:9: no closing quote\n",
        "do_cmd: ignoring command starting with 'foo'\n",
        "do_cmd: ignoring tcp_fastclose without argument\n",
        "Exit is not enabled; restart with -X flag\n",
        "Connection 999 out of range\n",
        "Unable to create webstats\n",
        "unable to set source address to 'www'",
    ] {
        let (_, output) = exchange(&["x"], reply.as_bytes());
        // The reason is where scripts have always found it.
        assert_eq!((out(&output).as_str(), err(&output).as_str(), status(&output)), (reply, "", 1));
    }
    for reply in
        ["", "ok\n", "30\n", "Connection 0:\nstate = 2\n", "/log/error: x\n", "x\nerror: x\n", "e", "error"]
    {
        let (_, output) = exchange(&["x"], reply.as_bytes());
        assert_eq!((out(&output).as_str(), err(&output).as_str(), status(&output)), (reply, "", 0));
    }
}

#[test]
fn a_failure_is_known_also_when_it_comes_byte_by_byte() {
    let port = tcp(|mut stream| {
        read_line(&mut stream);
        for byte in b"Connection 7 out of range\n" {
            stream.write_all(&[*byte]).unwrap();
            thread::yield_now();
        }
    });
    assert_eq!(status(&run(&port.target, &["close", "7"])), 1);
    port.end();
}

/// Closing sends a reset.
fn reset(stream: TcpStream) {
    setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

#[test]
fn a_reset_is_an_error_with_and_without_an_answer() {
    let port = tcp(|mut stream| {
        read_line(&mut stream);
        reset(stream);
    });
    let line = failure(&run(&port.target, &["mode"]));
    assert!(line.contains(&port.target) && line.contains("closed before it read the command"), "{line}");
    port.end();

    let (seen, go_on) = mpsc::channel::<()>();
    let port = tcp(move |mut stream| {
        read_line(&mut stream);
        stream.write_all(b"half an answer").unwrap();
        go_on.recv_timeout(SOON).unwrap();
        reset(stream);
    });
    let mut child = penctl()
        .args([&port.target, "status"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = [0; 14];
    child.stdout.as_mut().unwrap().read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"half an answer");
    seen.send(()).unwrap();
    let line = failure(&child.wait_with_output().unwrap());
    assert!(line.ends_with("the answer is not whole\n"), "{line}");
    port.end();
}

#[test]
fn who_is_let_go_unheard_is_told_so() {
    let port = tcp(drop);
    let line = failure(&run(&port.target, &["mode"]));
    assert!(line.contains("control_acl"), "{line}");
    port.end();
    let port = unix(drop);
    let line = failure(&run(&port.target, &["mode"]));
    assert!(line.contains("control_acl"), "{line}");
    port.end();
}

#[test]
fn silence_has_an_end() {
    let (end, wait) = mpsc::channel::<()>();
    let port = tcp(move |mut stream| {
        read_line(&mut stream);
        let _ = wait.recv_timeout(SOON);
    });
    let start = Instant::now();
    let line = failure(&run("-t", &["1", &port.target, "mode"]));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(line.contains("silent for 1 s, "), "{line}");
    drop(end);
    port.end();
}

#[test]
fn a_slow_answer_is_no_silence() {
    let port = unix(|mut stream| {
        read_line(&mut stream);
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(900));
            stream.write_all(b".").unwrap();
        }
    });
    let output = penctl().args(["-t", "4", &port.target, "status"]).output().unwrap();
    assert_eq!((out(&output).as_str(), err(&output).as_str(), status(&output)), (".....", "", 0));
    port.end();
}

#[test]
fn where_nobody_listens_it_says_so() {
    let closed = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // As long as this connection is there, nobody else gets its port.
        (client.local_addr().unwrap().to_string(), client, listener)
    };
    let line = failure(&run(&closed.0, &["mode"]));
    assert_eq!(line, format!("penctl: {}: Connection refused; does a pen with -C listen there?\n", closed.0));

    let scratch = Scratch::new();
    let path = scratch.file("control");
    assert!(failure(&run(&path, &["mode"])).contains("No such file or directory"));
    drop(UnixListener::bind(&path).unwrap());
    assert!(failure(&run(&path, &["mode"])).contains("Connection refused"));
    let long = format!("/{}", "x".repeat(200));
    assert!(failure(&run(&long, &["mode"])).starts_with(&format!("penctl: {long}: ")));
    assert!(failure(&run("no..such:7001", &["mode"])).starts_with("penctl: no..such:7001: "));
    assert!(failure(&run("localhost:no-such-service", &["mode"])).contains("no TCP service of that name"));
}

/// A port that never answers a connect; and what keeps it so.
fn deaf_port() -> (String, Vec<OwnedFd>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket::listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![OwnedFd::from(listener)];
    while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        held.push(filler.into());
        assert!(held.len() < 10, "the kernel goes on accepting for a full queue");
    }
    (address.to_string(), held)
}

/// A Unix socket whose queue is full, where connect(2) waits.
fn full_socket(path: &str) -> Vec<OwnedFd> {
    let make = |flags| socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    let address = UnixAddr::new(path).unwrap();
    let listener = make(SockFlag::SOCK_CLOEXEC);
    socket::bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &address).unwrap();
    socket::listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let mut held = vec![listener];
    loop {
        let filler = make(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK);
        let connected = socket::connect(std::os::fd::AsRawFd::as_raw_fd(&filler), &address);
        held.push(filler);
        match connected {
            Ok(()) => assert!(held.len() < 10, "the kernel goes on accepting for a full queue"),
            Err(error) => {
                assert_eq!(error, nix::Error::EAGAIN);
                return held;
            }
        }
    }
}

#[test]
fn connecting_has_ten_seconds() {
    let scratch = Scratch::new();
    let path = scratch.file("control");
    let _full = full_socket(&path);
    let (deaf, _held) = deaf_port();
    let start = Instant::now();
    let spawn =
        |target: &str| penctl().args(["-t", "0", target, "mode"]).stderr(Stdio::piped()).spawn().unwrap();
    let children: [Child; 2] = [spawn(&path), spawn(&deaf)];
    for child in children {
        let line = failure(&child.wait_with_output().unwrap());
        assert!(line.contains("no connection within 10 seconds") || line.contains("timed out"), "{line}");
        assert!(start.elapsed() >= Duration::from_secs(9), "{line}");
        assert!(start.elapsed() < SOON, "{line}");
    }
}

#[test]
fn wrong_usage_is_told_on_stderr() {
    for words in [&[][..], &["localhost:7001"], &["7001"], &["-x"], &["-t", "5"], &["--frob", "/s", "mode"]] {
        let output = penctl().args(words).output().unwrap();
        assert_eq!((status(&output), out(&output).as_str()), (1, ""), "{words:?}");
        assert!(err(&output).contains("\nusage: penctl "), "{words:?}: {}", err(&output));
    }
    for portless in ["7001", "localhost", "localhost:"] {
        let line = failure(&run(portless, &["mode"]));
        assert_eq!(
            line,
            format!("penctl: {portless}: no port given; give host:port or the /path of a Unix socket\n")
        );
    }
    assert!(failure(&run("-t", &["soon", "/s", "mode"])).contains("--timeout must be a number from 0 to"));
}

#[test]
fn help_and_version_go_to_stdout() {
    let help = penctl().arg("--help").output().unwrap();
    assert_eq!((status(&help), err(&help).as_str()), (0, ""));
    assert!(out(&help).starts_with("usage: penctl "));
    let version = penctl().arg("--version").output().unwrap();
    assert_eq!((status(&version), out(&version)), (0, format!("penctl {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn what_cannot_be_sent_is_refused_before_connecting() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let long = "x".repeat(4096);
    assert!(failure(&run(&target, &[&long])).contains("overlong argument list: 4096 bytes"));
    assert!(failure(&run(&target, &["mode\nexit"])).contains("a line end within the command"));
    assert!(failure(&run(&target, &["mode", "\n"])).contains("a line end within the command"));
    for (lines, message) in [
        ("mode\nend\nexit\n", "standard input:2: begin and end"),
        ("begin\n", "standard input:1: begin and end"),
        ("mode\0\n", "standard input:1: "),
        (&long, "standard input:1: longer than 4095 bytes"),
        (&"# a comment\n".repeat(100_000), "standard input: more than 1048576 bytes"),
    ] {
        let line = failure(&batch(&target, lines));
        assert!(line.contains(message), "{line}");
    }
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// `penctl TARGET -` with these lines.
fn batch(target: &str, lines: &str) -> Output {
    let mut child = penctl()
        .args([target, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, lines) = (child.stdin.take().unwrap(), lines.to_owned());
    // It may not read all of it.
    let writer = thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    output
}

/// Reads up to the line `end`, and answers.
fn answer_batch(mut stream: impl Read + Write, reply: &str) -> String {
    let mut all = String::new();
    while !all.ends_with("end\n") {
        all += &read_line(&mut stream);
    }
    stream.write_all(reply.as_bytes()).unwrap();
    all
}

#[test]
fn a_batch_goes_out_between_begin_and_end_and_all_answers_come_back() {
    let port = unix(|stream| answer_batch(stream, "30\nno hash\n"));
    let output = batch(&port.target, "blacklist 30\n# a comment\n\nmode");
    assert_eq!((out(&output).as_str(), err(&output).as_str(), status(&output)), ("30\nno hash\n", "", 0));
    assert_eq!(port.end(), "begin\nblacklist 30\n# a comment\n\nmode\nend\n");

    let port = tcp(|stream| answer_batch(stream, "error: control:2: no such server\n"));
    let output = batch(&port.target, "mode\nserver x\n");
    assert_eq!((out(&output).as_str(), status(&output)), ("error: control:2: no such server\n", 1));
    port.end();

    let port = tcp(|stream| answer_batch(stream, ""));
    assert_eq!(status(&batch(&port.target, "")), 0);
    assert_eq!(port.end(), "begin\nend\n");
}

#[test]
fn a_batch_may_have_a_mebibyte() {
    let lines = format!("#{}\n", "x".repeat(1022)).repeat(1024);
    let port = unix(|stream| answer_batch(stream, "ok\n").len());
    let output = batch(&port.target, &lines);
    assert_eq!((out(&output).as_str(), err(&output).as_str(), status(&output)), ("ok\n", "", 0));
    assert_eq!(port.end(), lines.len() + "begin\nend\n".len());
}

#[test]
fn an_answer_that_comes_before_the_batch_is_read_is_shown() {
    let port = tcp(|mut stream| {
        read_line(&mut stream);
        stream.write_all(b"error: busy; try again later\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // Does not read the rest, and closes: the kernel sends a reset.
        thread::sleep(Duration::from_millis(100));
    });
    let output = batch(&port.target, &"# a comment\n".repeat(80_000));
    assert_eq!((out(&output).as_str(), status(&output)), ("error: busy; try again later\n", 1));
    port.end();
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let port = tcp(|mut stream| {
        read_line(&mut stream);
        // Ends when penctl does.
        while stream.write_all(&[b'x'; 64 * 1024]).is_ok() {}
    });
    let mut child = penctl()
        .args([&port.target, "status"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((err(&output).as_str(), status(&output)), ("", 0));
    port.end();
}

#[test]
fn a_full_disk_is_an_error() {
    let port = tcp(|stream| answer(stream, b"30\n"));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = penctl().args([&port.target, "blacklist"]).stdout(full).output().unwrap();
    assert_eq!(failure(&output), "penctl: standard output: No space left on device\n");
    port.end();
}

#[test]
fn it_sends_and_shows_what_the_classic_did() {
    let classic = Path::new("/usr/bin/penctl");
    if !classic.exists() {
        eprintln!("no classic penctl here: skipped");
        return;
    }
    let told = |program: &Path, arguments: &[&str]| {
        let port = tcp(|mut stream| {
            let line = read_line(&mut stream);
            stream.write_all(b"30\nno line end").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            line + &rest
        });
        let output = Command::new(program).arg(&port.target).args(arguments).output().unwrap();
        (port.end(), output.stdout, output.stderr, output.status.code())
    };
    let longest = "x".repeat(1000);
    for arguments in [
        &["mode"][..],
        &["server", "0", "max", "5"],
        &["server 0 max 5"],
        &["server 0", " max ", "5"],
        &["server", "0", "prio", "-5"],
        &["log", "/var/log/my pen.log"],
        &["log", "\"/a b\""],
        &["acl", "1", "permit", "127.0.0.0", "255.0.0.0"],
        &["", "mode", ""],
        &["-t", "1"],
        &["--"],
        &["--help"],
        &["# comment"],
        &["mode\r"],
        &["åäö"],
        &[&longest],
    ] {
        let ours = told(Path::new(env!("CARGO_BIN_EXE_penctl")), arguments);
        assert_eq!(ours, told(classic, arguments), "{arguments:?}");
    }
    // Where there is nothing to talk to, the status is the same and the words that scripts may look for are there.
    for arguments in [&["7001", "mode"][..], &["127.0.0.1:1", "mode"], &["/no/such", "mode"]] {
        let ours = penctl().args(arguments).output().unwrap();
        let theirs = Command::new(classic).args(arguments).output().unwrap();
        assert_eq!((ours.status, &ours.stdout), (theirs.status, &theirs.stdout), "{arguments:?}");
    }
    assert!(err(&run("7001", &["mode"])).contains("no port given"));
}

// What is around it: completion, manual, CGI.

/// What bash would offer at the end of this line.
fn completions(line: &str) -> BTreeSet<String> {
    let script = "source contrib/penctl.bash; COMP_LINE=$1 COMP_POINT=${#1}; _penctl; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output =
        Command::new("bash").args(["-c", script, "-", line]).current_dir(repository()).output().unwrap();
    assert_eq!(err(&output), "", "{line}");
    out(&output).lines().filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn set(words: &str) -> BTreeSet<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

fn is_unknown(command: &str) -> bool {
    match Setting::parse(command) {
        Err(error) => error.is_ignorable() && !matches!(error, CommandError::FastCloseAlone),
        Ok(_) => false,
    }
}

/// The commands that a manual defines: the words after `.It Ic` and `, Ic`, without `no`.
fn commands_of(manual: &str) -> BTreeSet<String> {
    let manual = text(manual);
    let items = manual.lines().filter_map(|line| line.strip_prefix(".It Ic "));
    let words = items.flat_map(|item| item.split(" , ")).map(|command| {
        let mut words = command.split_whitespace().filter(|word| *word != "Ic" && *word != "no");
        words.next().unwrap().to_owned()
    });
    words.collect()
}

#[test]
fn bash_completes_every_command_of_the_manual_behind_the_target() {
    let commands = completions("penctl 127.0.0.1:7001 ");
    let mut documented = commands_of("man/penctl.1");
    documented.insert("no".to_owned());
    assert!(commands.len() > 60, "{commands:?}");
    assert_eq!(commands, documented);
    let missing: Vec<String> = commands_of("man/pen.1").difference(&commands).cloned().collect();
    assert_eq!(missing, [""; 0], "in pen(1) and not completed");
    for line in ["penctl -w -t 5 /run/pen.ctl ", "penctl --timeout=5 [::1]:7001 ", "penctl -- x:1 "] {
        assert_eq!(completions(line), commands, "{line}");
    }
    assert_eq!(completions("penctl 127.0.0.1:7001 web"), set("web_stats"));
}

#[test]
fn bash_completes_nothing_that_pen_does_not_know() {
    let unknown = |words: BTreeSet<String>, before: &str| -> Vec<String> {
        // Alone these two are nothing.
        let begins_one =
            |word: &String| before.is_empty() && word == "no" || before == "no " && word == "listen";
        words.into_iter().filter(|word| !begins_one(word) && is_unknown(&format!("{before}{word}"))).collect()
    };
    assert_eq!(unknown(completions("penctl x:1 "), ""), [""; 0]);
    assert_eq!(unknown(completions("penctl x:1 no "), "no "), [""; 0]);
    for key in completions("penctl x:1 server 0 ") {
        let value = match key.as_str() {
            "address" => "127.0.0.1",
            "tls" => "off",
            _ => "1",
        };
        assert!(Setting::parse(&format!("server 0 {key} {value}")).is_ok(), "{key}");
    }
    for command in
        ["ssl_max_version", "ssl_min_version", "ssl_option", "ssl_passthrough", "ssl_verify_client"]
    {
        let words = completions(&format!("penctl x:1 {command} "));
        assert!(
            words.len() > 1 && words.iter().all(|word| Setting::parse(&format!("{command} {word}")).is_ok())
        );
    }
    for command in ["http", "no http", "log_format", "proxy_accept", "proxy_send", "server 0 proxy"] {
        let words = completions(&format!("penctl x:1 {command} "));
        assert!(!words.is_empty(), "{command}");
        for word in words {
            assert!(Setting::parse(&format!("{command} {word}")).is_ok(), "{command} {word}");
        }
    }
    for whose in completions("penctl x:1 tcp_fastclose ") {
        assert!(Setting::parse(&format!("tcp_fastclose {whose}")).is_ok(), "{whose}");
    }
}

#[test]
fn bash_completes_options_before_the_target_alone() {
    let help = out(&penctl().arg("--help").output().unwrap());
    let listed = help.split_whitespace().filter(|word| word.starts_with("--")).map(str::to_owned).collect();
    assert_eq!(completions("penctl -"), listed);
    assert_eq!(completions("penctl --"), set("--help --timeout --version --words"));
    assert_eq!(completions("penctl -t "), set(""));
    assert_eq!(completions("penctl -t 5 --w"), set("--words"));
    assert_eq!(completions("penctl x:1 --w"), set(""));
    assert_eq!(completions("penctl contrib/penctl.b"), set("contrib/penctl.bash"));
}

#[test]
fn bash_completes_the_words_of_commands() {
    assert_eq!(completions("penctl x:1 server 0 max 5 w"), set("weight"));
    assert_eq!(completions("penctl x:1 server 0 max "), set(""));
    assert_eq!(completions("penctl x:1 listen "), set("tcp udp"));
    assert_eq!(completions("penctl x:1 no listen "), set("tcp udp"));
    assert_eq!(completions("penctl x:1 udp_timeout 5 "), set("replies"));
    assert_eq!(completions("penctl x:1 udp_timeout "), set(""));
    assert_eq!(completions("penctl x:1 log_format "), set("classic json"));
    assert_eq!(completions("penctl x:1 server "), set(""));
    let keys = completions("penctl x:1 server 0 ");
    let with = |more: &str| keys.union(&set(more)).cloned().collect::<BTreeSet<_>>();
    assert_eq!(completions("penctl x:1 server 0 tls "), with("off verify"));
    assert_eq!(completions("penctl x:1 server 0 max 1 tls verify "), set("none system"));
    assert_eq!(completions("penctl x:1 server 0 tls verify none "), with("verify"));
    assert_eq!(completions("penctl x:1 server 0 tls off "), keys);
    assert_eq!(completions("penctl x:1 server 0 tls max 1 "), keys);
    assert_eq!(completions("penctl x:1 server 0 tls max "), set(""));
    assert_eq!(completions("penctl x:1 server 0 sni "), set("none"));
    assert_eq!(completions("penctl x:1 drain 0 "), set("all"));
    assert_eq!(completions("penctl x:1 acl 1 "), set("permit deny"));
    assert_eq!(completions("penctl x:1 include man/penctl."), set("man/penctl.1"));
    assert_eq!(completions("penctl x:1 mode "), set(""));
}

#[test]
fn every_option_is_in_the_manual() {
    let manual = text("man/penctl.1");
    for option in ["Fl t Ar seconds , Fl -timeout Ar seconds", "Fl w , Fl -words", "Fl -help", "Fl -version"]
    {
        assert!(manual.contains(&format!("\n.It {option}\n")), "{option}");
    }
}

/// The shell commands that the manual's examples are made of; a here-document with what belongs to it.
fn examples_of_the_manual() -> Vec<String> {
    let manual = text("man/penctl.1");
    let (_, section) = manual.split_once(".Sh EXAMPLES\n").unwrap();
    let (section, _) = section.split_once("\n.Sh ").unwrap();
    let mut examples = Vec::new();
    let mut block = None;
    for line in section.replace("\\(dq", "\"").lines() {
        match (line, &mut block) {
            (".Ed", _) => examples.extend(block.take()),
            (_, Some(text)) => *text = format!("{text}{line}\n"),
            _ if line.starts_with(".Bd -literal") => block = Some(String::new()),
            _ => examples.extend(line.strip_prefix(".Dl ").map(str::to_owned)),
        }
    }
    examples
}

#[test]
fn the_manuals_examples_run() {
    let scratch = Scratch::new();
    let target = scratch.file("pen.ctl");
    let listener = UnixListener::bind(&target).unwrap();
    let (told, asked) = mpsc::channel();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = read_line(&mut stream);
            while request.starts_with("begin\n") && !request.ends_with("\nend\n") {
                request += &read_line(&mut stream);
            }
            if told.send(request).is_err() {
                return;
            }
        }
    });
    let programs = Path::new(env!("CARGO_BIN_EXE_penctl")).parent().unwrap().to_str().unwrap();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let examples = examples_of_the_manual();
    assert!(examples.len() >= 6, "{examples:?}");
    for example in examples {
        let script = format!("set -e\n{}", example.replace("/run/pen.ctl", &target));
        let output = Command::new("sh").args(["-c", &script]).env("PATH", &path).output().unwrap();
        assert_eq!((err(&output).as_str(), status(&output)), ("", 0), "{example}");
    }
    let asked: Vec<String> = asked.try_iter().collect();
    let known = completions("penctl x:1 ");
    for request in &asked {
        let word = request.split_whitespace().next().unwrap();
        assert!(word == "begin" || known.contains(word), "{request}");
    }
    let quoted = "log \"/var/log/pen log\"\n".to_owned();
    assert_eq!(asked.iter().filter(|request| **request == quoted).count(), 2, "{asked:?}");
    assert!(asked.iter().any(|request| request.starts_with("begin\nserver 0 ")), "{asked:?}");
}

/// The CGI program as a web server runs it: these variables and no others, and this body.
fn cgi(target: &str, variables: &[(&str, &str)], body: &str) -> Page {
    let mut child = Command::new(repository().join("contrib/penctl.cgi"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("GATEWAY_INTERFACE", "CGI/1.1")
        .env("SERVER_PROTOCOL", "HTTP/1.1")
        .env("SCRIPT_NAME", "/pen")
        .env("PENCTL", env!("CARGO_BIN_EXE_penctl"))
        .env("PENCTL_TARGET", target)
        .env("REMOTE_USER", "operator")
        .env("HTTP_HOST", "pen.example:8443")
        .env("CONTENT_LENGTH", body.len().to_string())
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may not want it.
    let _ = child.stdin.take().unwrap().write_all(body.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert_eq!((err(&output).as_str(), status(&output)), ("", 0));
    let all = out(&output);
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nContent-Security-Policy: default-src 'none';"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/html; charset=utf-8\r\n"), "{head}");
    let status = head.lines().next().unwrap().strip_prefix("Status: ").unwrap();
    Page { status: status[..3].parse().unwrap(), body: body.to_owned() }
}

#[derive(Debug)]
struct Page {
    status: u16,
    body: String,
}

/// A control port that answers all that come with this; what it was asked.
fn asked(reply: &'static str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let (told, asked) = mpsc::channel();
    thread::spawn(move || {
        // Until the test has ended.
        while told.send(answer(accepted(&listener), reply.as_bytes())).is_ok() {}
    });
    (target, asked)
}

const GET: (&str, &str) = ("REQUEST_METHOD", "GET");
const POST: (&str, &str) = ("REQUEST_METHOD", "POST");
const FROM_HERE: (&str, &str) = ("HTTP_ORIGIN", "https://pen.example:8443");

#[test]
fn the_cgi_page_shows_what_pen_says_with_nothing_in_it_taken_for_markup() {
    let (target, asked) = asked("0 addr <script>alert('1')</script> & \"x\"\n");
    for (query, command) in [
        ("", "servers\n"),
        ("view=servers", "servers\n"),
        ("view=recent", "recent\n"),
        ("x=y&view=mode&z", "mode\n"),
        ("view=limits", "limits\n"),
    ] {
        let page = cgi(&target, &[GET, ("QUERY_STRING", query)], "");
        assert_eq!(page.status, 200, "{query}");
        assert_eq!(asked.recv_timeout(SOON).unwrap(), command);
        let shown = "0 addr &lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;\n";
        assert!(page.body.contains(shown), "{}", page.body);
        assert!(!page.body.contains("<script"));
    }
}

#[test]
fn the_cgi_page_passes_the_status_page_on() {
    let (target, asked) = asked("<html><title>Pen status page</title></html>\n");
    let page = cgi(&target, &[GET, ("QUERY_STRING", "view=status")], "");
    assert_eq!((page.status, page.body.as_str()), (200, "<html><title>Pen status page</title></html>\n"));
    assert_eq!(asked.recv_timeout(SOON).unwrap(), "status\n");
}

#[test]
fn the_cgi_page_carries_out_what_its_own_forms_send() {
    let (target, asked) = asked("ok\n");
    for (form, command) in [
        ("number=3&action=drain", "drain 3\n"),
        ("action=drain-all&number=0", "drain 0 all\n"),
        ("number=12&action=undrain", "undrain 12\n"),
        ("number=7&action=close", "close 7\n"),
        ("number=7&action=connection", "connection 7\n"),
        ("action=check", "check\n"),
        ("action=diff", "diff\n"),
        ("action=reload", "reload\n"),
    ] {
        for origin in [
            FROM_HERE,
            ("HTTP_ORIGIN", "http://pen.example:8443"),
            ("HTTP_SEC_FETCH_SITE", "same-origin"),
            ("HTTP_REFERER", "https://pen.example:8443/pen?view=mode"),
        ] {
            let page = cgi(&target, &[POST, origin], form);
            assert_eq!(page.status, 200, "{form}: {}", page.body);
            assert!(page.body.contains("ok\n"));
            assert_eq!(asked.recv_timeout(SOON).unwrap(), command);
        }
    }
}

#[test]
fn the_cgi_page_says_when_pen_refuses_or_is_not_there() {
    let (target, _asked) = asked("error: there is no server 9\n");
    let page = cgi(&target, &[POST, FROM_HERE], "action=drain&number=9");
    assert_eq!(page.status, 502);
    assert!(page.body.contains("error: there is no server 9"), "{}", page.body);
    for query in ["view=servers", "view=status"] {
        let page = cgi("/no/such<b>", &[GET, ("QUERY_STRING", query)], "");
        assert_eq!(page.status, 502);
        assert!(page.body.contains("penctl: /no/such&lt;b&gt;: No such file or directory"), "{}", page.body);
    }
}

#[test]
fn the_cgi_page_does_nothing_that_it_should_not() {
    let (target, asked) = asked("ok\n");
    let form = "action=drain&number=0";
    let other: [&[(&str, &str)]; 9] = [
        // Sent by another site, or nobody knows from where.
        &[POST],
        &[POST, ("HTTP_ORIGIN", "https://evil.example")],
        &[POST, ("HTTP_ORIGIN", "null")],
        &[POST, ("HTTP_ORIGIN", "https://pen.example:8443.evil.example")],
        &[POST, FROM_HERE, ("HTTP_SEC_FETCH_SITE", "cross-site")],
        &[POST, FROM_HERE, ("HTTP_SEC_FETCH_SITE", "same-site")],
        &[POST, ("HTTP_REFERER", "https://pen.example:8443.evil.example/")],
        &[POST, ("HTTP_HOST", ""), ("HTTP_ORIGIN", "https://")],
        &[POST, ("HTTP_HOST", "*"), ("HTTP_REFERER", "https://evil.example/")],
    ];
    for variables in other {
        assert_eq!(cgi(&target, variables, form).status, 403, "{variables:?}");
    }
    for method in [GET, POST] {
        assert_eq!(cgi(&target, &[method, FROM_HERE, ("REMOTE_USER", "")], form).status, 403);
    }
    for form in [
        "action=drain",
        "action=drain&number=",
        "action=drain&number=-1",
        "action=drain&number=0+all",
        "action=drain&number=0%20all",
        "action=drain&number=0;reboot",
        "action=drain&number=$(reboot)",
        "action=drain&number=0\nexit",
        "action=drain&number=12345678",
        "action=exit",
        "action=write&number=0",
        "action=*",
        "",
    ] {
        assert_eq!(cgi(&target, &[POST, FROM_HERE], form).status, 400, "{form}");
    }
    let long = format!("action=drain&number=0&x={}", "x".repeat(500));
    assert_eq!(cgi(&target, &[POST, FROM_HERE], &long).status, 400);
    for length in ["", "x", "-1", "99999999999999999999"] {
        assert_eq!(
            cgi(&target, &[POST, FROM_HERE, ("CONTENT_LENGTH", length)], form).status,
            400,
            "{length}"
        );
    }
    // Asking changes nothing, whatever the question looks like.
    for query in ["view=drain", "view=exit", "view=servers%0aexit", "view=$(reboot)", "view=-", "view=../x"] {
        assert_eq!(cgi(&target, &[GET, ("QUERY_STRING", query)], "").status, 404, "{query}");
    }
    assert_eq!(cgi(&target, &[("REQUEST_METHOD", "DELETE"), FROM_HERE], form).status, 405);
    assert!(asked.try_recv().is_err(), "pen was asked something");
    let page = cgi(&target, &[GET, ("QUERY_STRING", "action=drain&number=0&target=x:1")], "");
    assert_eq!((page.status, asked.recv_timeout(SOON).unwrap().as_str()), (200, "servers\n"));
}
