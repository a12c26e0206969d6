//! penlog(1): a log on its way to penlogd.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::{Pid, pipe2};

use crate::support::{SOON, Scratch, free_port, processes, wait_until};

const OURS: &str = env!("CARGO_BIN_EXE_penlog");

/// pen 0.34.1's, where it is installed.
fn classic() -> Option<&'static str> {
    let found = Some("/usr/bin/penlog").filter(|path| {
        let output = Command::new(path).output();
        output.is_ok_and(|output| output.stderr.starts_with(b"Usage: ") && output.status.code() == Some(1))
    });
    if found.is_none() {
        eprintln!("not compared: pen 0.34.1's penlog is not installed");
    }
    found
}

/// A penlogd that only listens.
struct Ear {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Ear {
    fn at(address: SocketAddr) -> Ear {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        // As much as a test may leave unread; without privileges it is less.
        if setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &(64 << 20)).unwrap();
        }
        let address = socket.local_addr().unwrap();
        Ear { socket, address }
    }

    fn on(ip: IpAddr) -> Ear {
        Ear::at((ip, 0).into())
    }

    fn new() -> Ear {
        Ear::on([127, 0, 0, 1].into())
    }

    /// What comes next, and from where.
    #[track_caller]
    fn next_from(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 70_000];
        let (length, from) = self.socket.recv_from(&mut buffer).expect("a datagram comes");
        buffer.truncate(length);
        (buffer, from)
    }

    #[track_caller]
    fn next(&self) -> String {
        String::from_utf8(self.next_from().0).unwrap()
    }

    /// The next that is no mark.
    #[track_caller]
    fn next_line(&self) -> Vec<u8> {
        loop {
            let (datagram, _) = self.next_from();
            if !is_mark(&datagram) {
                return datagram;
            }
        }
    }

    /// What has come already. On loopback, all that was sent before this has.
    fn rest(&self) -> Vec<Vec<u8>> {
        self.socket.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 70_000];
        let next = || self.socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec());
        let rest = std::iter::from_fn(next).collect();
        self.socket.set_nonblocking(false).unwrap();
        rest
    }

    fn words(&self) -> [String; 2] {
        words(self.address)
    }
}

fn is_mark(datagram: &[u8]) -> bool {
    datagram.starts_with(b"#penlog ")
}

/// What a mark says: its stream, how many datagrams came before, and how long the next line is.
#[track_caller]
fn mark(datagram: &[u8]) -> (String, u64, Option<usize>) {
    let text = std::str::from_utf8(datagram).unwrap();
    let words: Vec<&str> = text.strip_suffix('\n').expect("a mark ends with a newline").split(' ').collect();
    assert!(words[0] == "#penlog" && (3..=4).contains(&words.len()), "no mark: {text:?}");
    assert!(words[1].len() == 8 && u32::from_str_radix(words[1], 16).is_ok(), "{text:?}");
    let length = words.get(3).map(|length| length.parse().unwrap());
    (words[1].to_owned(), words[2].parse().unwrap(), length)
}

/// A penlog at work, killed when dropped.
struct Penlog {
    child: Child,
    input: Option<ChildStdin>,
}

impl Penlog {
    fn run(program: &str, arguments: &[String], stdin: Stdio, stderr: Stdio) -> Penlog {
        let mut command = Command::new(program);
        let mut child = command.args(arguments).stdin(stdin).stderr(stderr).spawn().unwrap();
        let input = child.stdin.take();
        if let Some(input) = &input {
            fcntl(input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        Penlog { child, input }
    }

    fn to(ear: &Ear) -> Penlog {
        Penlog::run(OURS, &ear.words(), Stdio::piped(), Stdio::piped())
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits until it hears signals, and does not die of them.
    fn ready(self) -> Penlog {
        wait_until("it hears signals", || processes::catches(self.pid(), Signal::SIGINT));
        self
    }

    /// Writes to its log. A log that is held up for long is a failure.
    #[track_caller]
    fn say(&mut self, text: impl AsRef<[u8]>) {
        let (input, mut left) = (self.input.as_mut().unwrap(), text.as_ref());
        while !left.is_empty() {
            wait_until("the log can be written", || match input.write(left) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                written => {
                    left = &left[written.unwrap()..];
                    true
                }
            });
        }
    }

    /// The end of its log.
    fn hang_up(&mut self) {
        drop(self.input.take());
    }

    #[track_caller]
    fn end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// What it has said when it has ended.
    fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// The end of its log, its status and what it said.
    #[track_caller]
    fn finish(&mut self) -> (Option<i32>, String) {
        self.hang_up();
        let status = self.end();
        (status.code(), self.stderr())
    }
}

impl Drop for Penlog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that a penlog sends for this log.
fn sent(program: &str, options: &[&str], log: &[u8]) -> Vec<Vec<u8>> {
    let ear = Ear::new();
    let options = options.iter().map(|&option| option.to_owned());
    let arguments: Vec<String> = options.chain(ear.words()).collect();
    let mut penlog = Penlog::run(program, &arguments, Stdio::piped(), Stdio::piped());
    penlog.say(log);
    assert_eq!(penlog.finish(), (Some(0), String::new()));
    ear.rest()
}

fn lines(datagrams: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    datagrams.into_iter().filter(|datagram| !is_mark(datagram)).collect()
}

/// penlog(1), COMPATIBILITY: what is sent, marks aside, is what the classic sends.
#[test]
fn lines_leave_as_the_classic_sends_them() {
    let line = |length: usize, end: &str| format!("{}{end}", "x".repeat(length));
    let mut logs: Vec<Vec<u8>> = vec![
        b"one\ntwo\n".to_vec(),
        b"\n\n\nblank\n\n".to_vec(),
        b"the last has\nno newline".to_vec(),
        b"not text: \xff\xfe\x80\x01\x1b[2J\x7f\r\nnext\r\n".to_vec(),
        b"#penlog 00000000 7\n+ 1.2.3.4 5.6.7.8 GET /\n".to_vec(),
        Vec::new(),
    ];
    for length in [1021, 1022, 1023, 1024, 2045, 2046, 2047, 2499, 2500, 10_000, 65_535, 65_536, 200_000] {
        logs.push([line(length, "\n"), line(7, "\n")].concat().into_bytes());
        logs.push(line(length, "").into_bytes());
    }
    let Some(classic) = classic() else { return };
    for log in logs {
        let told =
            || format!("{} bytes: {:?}", log.len(), String::from_utf8_lossy(&log[..log.len().min(60)]));
        let expected = sent(classic, &[], &log);
        assert!(sent(OURS, &["--no-marks"], &log) == expected, "{}", told());
        let ours = sent(OURS, &[], &log);
        // A line that looks like a mark is one to us, too: what is left must be the same.
        assert!(lines(ours) == lines(expected), "{}", told());
    }
}

/// penlog(1), DESCRIPTION: lines of more than 1023 bytes leave in pieces.
#[test]
fn a_long_line_is_announced_and_leaves_in_pieces() {
    let line = [&[b'x'; 2500][..], b"\n"].concat();
    let datagrams = sent(OURS, &[], &[&line[..], b"short\n"].concat());
    let (stream, before, length) = mark(&datagrams[0]);
    assert_eq!((before, length), (0, Some(2501)));
    let lengths: Vec<usize> = datagrams[1..].iter().map(Vec::len).collect();
    assert_eq!(lengths[..4], [1023, 1023, 455, 6]);
    assert_eq!(datagrams[1..4].concat(), line);
    assert_eq!(mark(&datagrams[5]), (stream, 4, None));
    assert_eq!(datagrams.len(), 6);
}

/// penlog(1), COMPATIBILITY: a NUL does not end a line.
#[test]
fn bytes_of_zero_are_sent_too() {
    assert_eq!(lines(sent(OURS, &[], b"a\0b\n\0\n")), [&b"a\0b\n"[..], b"\0\n"]);
}

/// penlog(1), MARKS: one before the first line, one after each 1000 datagrams, one at the end.
#[test]
fn marks_count_what_was_sent() {
    let log: String = (0..2500).map(|n| format!("line {n}\n")).collect();
    let datagrams = sent(OURS, &[], log.as_bytes());
    let (mut before, mut marks, mut streams) = (0, Vec::new(), Vec::new());
    for datagram in &datagrams {
        if is_mark(datagram) {
            let (stream, sent, length) = mark(datagram);
            assert_eq!((sent, length), (before, None));
            marks.push(sent);
            streams.push(stream);
        } else {
            assert_eq!(datagram, format!("line {before}\n").as_bytes());
            before += 1;
        }
    }
    assert_eq!(marks, [0, 1000, 2000, 2500]);
    assert!(streams.iter().all(|stream| *stream == streams[0]), "{streams:?}");
    assert!(sent(OURS, &[], b"").is_empty(), "there is nothing to tell of an empty log");
    assert_ne!(mark(&sent(OURS, &[], b"x\n")[0]).0, streams[0], "another penlog is another stream");
}

/// penlog(1), MARKS: and one when nothing has come for a second.
#[test]
fn a_pause_is_marked_once() {
    let ear = Ear::new();
    let mut penlog = Penlog::to(&ear);
    for number in 0..3 {
        penlog.say("line\n");
        if number == 0 {
            assert_eq!(mark(ear.next().as_bytes()).1, 0);
        }
        assert_eq!(ear.next(), "line\n");
        assert_eq!(mark(ear.next().as_bytes()).1, number + 1);
    }
    // Nothing has been sent since the last one.
    assert_eq!(penlog.finish(), (Some(0), String::new()));
    assert!(ear.rest().is_empty());
}

/// penlog(1), DESCRIPTION: a line is sent when it has come, whatever comes after it.
#[test]
fn each_line_is_sent_at_once() {
    let ear = Ear::new();
    let mut penlog = Penlog::to(&ear);
    for number in 0..50 {
        penlog.say(format!("the first half of {number}, "));
        penlog.say(format!("the second half of {number}\n"));
        let expected = format!("the first half of {number}, the second half of {number}\n");
        assert_eq!(ear.next_line(), expected.as_bytes());
    }
    penlog.say("no newline");
    assert_eq!(penlog.finish().0, Some(0));
    assert_eq!(lines(ear.rest()), [b"no newline"]);
}

/// penlog(1), DESCRIPTION: my_ip is where it comes from; IPv6 works as well.
#[test]
fn lines_come_from_the_address_that_is_asked_for() {
    let local = |ip: &str| ip.parse::<IpAddr>().unwrap();
    let mut ways =
        vec![("127.0.0.1", "127.0.0.9", local("127.0.0.9")), ("127.0.0.1", "", local("127.0.0.1"))];
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        ways.push(("::1", "::1", local("::1")));
        ways.push(("::1", "", local("::1")));
    }
    for program in [Some(OURS), classic()].into_iter().flatten() {
        for &(server, my_ip, expected) in &ways {
            let ear = Ear::on(local(server));
            let mut arguments = ear.words().to_vec();
            arguments.extend(Some(my_ip.to_owned()).filter(|my_ip| !my_ip.is_empty()));
            let mut penlog = Penlog::run(program, &arguments, Stdio::piped(), Stdio::piped());
            penlog.say("a line\n");
            assert_eq!(penlog.finish(), (Some(0), String::new()));
            let (_, from) = ear.next_from();
            assert_eq!(from.ip(), expected, "{program} {arguments:?}");
        }
    }
}

/// The status and what is said of arguments.
fn refused(program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// penlog(1), EXIT STATUS: 1, and a message, if it cannot begin.
#[test]
fn what_cannot_work_is_told_and_ends_with_1() {
    let usage = "usage: penlog [options] server port [my_ip]";
    for (arguments, complaint, as_the_classic) in [
        (&[][..], usage, true),
        (&["127.0.0.1"], usage, true),
        (&["no..such", "10000"], "penlog: no..such: ", true),
        (&["127.0.0.1", "no-such-service"], "penlog: no-such-service: there is no UDP service", true),
        (&["127.0.0.1", "10000", "no..such"], "penlog: no..such: ", true),
        (
            &["127.0.0.1", "10000", "192.0.2.1"],
            "penlog: cannot send from 192.0.2.1: Cannot assign requested address\n",
            true,
        ),
        (&["127.0.0.1", "10000", "::1"], "one is IPv4 and the other IPv6", true),
        (&["127.0.0.1", "0"], "penlog: port must be a number from 1 to 65535", false),
        (&["127.0.0.1", "10000", "127.0.0.1", "more"], usage, false),
        (&["--such", "127.0.0.1", "10000"], "penlog: unknown option --such\nusage: ", false),
    ] {
        let (status, told) = refused(OURS, arguments);
        assert_eq!(status, Some(1), "{arguments:?}");
        assert!(told.starts_with("penlog: ") && told.contains(complaint), "{arguments:?}: {told}");
        if let (Some(classic), true) = (classic(), as_the_classic) {
            let (status, told) = refused(classic, arguments);
            assert!(status == Some(1) && !told.is_empty(), "{arguments:?}");
        }
    }
}

/// penlog(1), OPTIONS.
#[test]
fn help_and_version_go_to_standard_output() {
    for (option, beginning) in [("--help", "usage: penlog "), ("--version", "penlog ")] {
        let output = Command::new(OURS).arg(option).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8(output.stdout).unwrap().starts_with(beginning));
        assert!(output.stderr.is_empty());
    }
}

/// Somebody who is not there (yet).
fn nobody() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

fn words(address: SocketAddr) -> [String; 2] {
    [address.ip().to_string(), address.port().to_string()]
}

/// penlog(1), DIAGNOSTICS: a penlogd that is not there is told of, once, and ends nothing.
#[test]
fn without_a_penlogd_it_goes_on_and_says_so_once() {
    let nobody = nobody();
    let mut penlog = Penlog::run(OURS, &words(nobody), Stdio::piped(), Stdio::piped());
    for _ in 0..20 {
        penlog.say("a line\n".repeat(100));
    }
    let (status, told) = penlog.finish();
    assert_eq!(status, Some(0));
    let expected = format!("penlog: {} port {}: Connection refused; ", nobody.ip(), nobody.port());
    // At once, and at the end what came since then.
    assert!((1..=2).contains(&told.lines().count()), "{told}");
    assert!(told.lines().all(|line| line.starts_with(&expected) && line.ends_with(" lost")), "{told}");
}

/// penlog(1), DIAGNOSTICS: when it is there, it gets the next line.
#[test]
fn a_penlogd_that_comes_later_gets_what_comes_then() {
    let address = nobody();
    let mut penlog = Penlog::run(OURS, &words(address), Stdio::piped(), Stdio::piped());
    penlog.say("lost\n");
    let mut told = [0; 100];
    // It has been refused: this says that lines before it were lost, and nothing of itself.
    wait_until("it says so", || {
        penlog.say("lost, too\n");
        let stderr = penlog.child.stderr.as_ref().unwrap().as_fd();
        poll(&mut [PollFd::new(stderr, PollFlags::POLLIN)], 10_u8).unwrap() > 0
    });
    assert!(penlog.child.stderr.as_mut().unwrap().read(&mut told).unwrap() > 0);
    let ear = Ear::at(address);
    penlog.say("heard\n");
    assert_eq!(ear.next_line(), b"heard\n");
    assert_eq!(penlog.finish().0, Some(0));
}

/// penlog(1), DESCRIPTION: it never waits for the network.
#[test]
fn a_penlogd_that_does_not_read_does_not_hold_up_the_log() {
    let ear = Ear::new();
    setsockopt(&ear.socket, sockopt::RcvBuf, &4096).unwrap();
    let mut penlog = Penlog::to(&ear);
    let line = format!("{}\n", "x".repeat(199));
    let chunk = line.repeat(1000);
    for _ in 0..100 {
        penlog.say(&chunk);
    }
    assert_eq!(penlog.finish().0, Some(0));
    let (some, mut last) = (ear.rest(), None);
    assert!(some.len() < 100_000);
    for datagram in some.iter().filter(|datagram| is_mark(datagram)) {
        last = Some(mark(datagram).1);
    }
    assert!(last.is_none_or(|last| last <= 100_000));
}

/// penlog(1), DIAGNOSTICS: nor does it wait for whoever should read its messages.
#[test]
fn messages_that_nobody_reads_do_not_hold_up_the_log() {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while nix::unistd::write(&writer, &[b'x'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut penlog = Penlog::run(OURS, &words(nobody()), Stdio::piped(), writer.into());
    penlog.say("a line\n".repeat(50_000));
    penlog.hang_up();
    assert_eq!(penlog.end().code(), Some(0));
    drop(reader);
}

/// A FIFO that is never at its end.
fn fifo(files: &Scratch) -> File {
    let path = files.file("fifo");
    nix::unistd::mkfifo(Path::new(&path), nix::sys::stat::Mode::S_IRWXU).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

/// penlog(1), SIGNALS: TERM ends it, when what is in the pipe has been sent.
#[test]
fn term_and_int_end_it_after_what_is_in_the_pipe() {
    for (signal, has_name) in
        [Signal::SIGTERM, Signal::SIGINT].into_iter().flat_map(|signal| [(signal, true), (signal, false)])
    {
        let (ear, files) = (Ear::new(), Scratch::new());
        let mut penlog = match has_name {
            true => {
                let fifo = fifo(&files);
                let writer = OwnedFd::from(fifo.try_clone().unwrap());
                let mut penlog = Penlog::run(OURS, &ear.words(), fifo.into(), Stdio::piped());
                penlog.input = Some(ChildStdin::from(writer));
                penlog
            }
            false => Penlog::to(&ear),
        }
        .ready();
        penlog.signal(Signal::SIGSTOP);
        wait_until("it has stopped", || processes::stat(penlog.pid()).is_some_and(|stat| stat.state == 'T'));
        let log: Vec<String> = (0..3000).map(|n| format!("line {n}\n")).collect();
        penlog.say(log.concat());
        penlog.say("the beginning of a line");
        penlog.signal(signal);
        penlog.signal(Signal::SIGCONT);
        if !has_name {
            penlog.hang_up();
        }
        // The FIFO goes on: nothing but the signal can end it there.
        assert_eq!(penlog.end().code(), Some(0));
        let mut arrived = lines(ear.rest());
        assert_eq!(arrived.pop().unwrap(), b"the beginning of a line");
        assert_eq!(arrived.concat(), log.concat().as_bytes());
    }
}

/// penlog(1), SIGNALS: what is written to a pipe later nobody else will read. So it is read, however long that takes.
#[test]
fn whoever_still_writes_to_its_pipe_is_listened_to_to_the_end() {
    let ear = Ear::new();
    let mut penlog = Penlog::to(&ear).ready();
    penlog.say("before\n");
    assert_eq!(ear.next_line(), b"before\n");
    penlog.signal(Signal::SIGTERM);
    // It has been quiet for a second.
    assert_eq!(mark(ear.next().as_bytes()).1, 1);
    penlog.say("after\n");
    assert_eq!(ear.next_line(), b"after\n");
    assert_eq!(penlog.finish(), (Some(0), String::new()));
}

/// penlog(1), SIGNALS: a second signal ends it at once.
#[test]
fn a_second_signal_ends_it_at_once() {
    let ear = Ear::new();
    let mut penlog = Penlog::to(&ear).ready();
    penlog.signal(Signal::SIGTERM);
    penlog.signal(Signal::SIGINT);
    assert_eq!(penlog.end().code(), Some(0));
}

/// penlog(1), SIGNALS: HUP and USR1 are for the web server.
#[test]
fn signals_that_open_logs_anew_do_not_end_it() {
    let ear = Ear::new();
    let mut penlog = Penlog::to(&ear).ready();
    for signal in [Signal::SIGHUP, Signal::SIGUSR1] {
        penlog.signal(signal);
        penlog.say("still here\n");
        assert_eq!(ear.next_line(), b"still here\n");
    }
    assert_eq!(penlog.finish().0, Some(0));
}

/// penlog(1), SIGNALS: a web server that is restarted may have two loggers at one pipe for a while: the one that finds
/// nothing hears its signal nevertheless.
#[test]
fn two_of_them_at_one_pipe_both_hear_their_signals() {
    let ear = Ear::new();
    let files = Scratch::new();
    let mut writer = fifo(&files);
    let start =
        || Penlog::run(OURS, &ear.words(), writer.try_clone().unwrap().into(), Stdio::piped()).ready();
    let mut both = [start(), start()];
    for number in 0..200 {
        let line = format!("line {number}\n");
        writer.write_all(line.as_bytes()).unwrap();
        assert_eq!(ear.next_line(), line.as_bytes());
    }
    // Who is second does not wait in read(2), though neither changes what the other has been given.
    for penlog in &both {
        assert_eq!(nonblocking(penlog.pid(), files.path().to_str().unwrap()), [false, true]);
        penlog.signal(Signal::SIGTERM);
    }
    for penlog in &mut both {
        assert_eq!(penlog.end().code(), Some(0));
    }
}

/// Which of a process's descriptors for reading of things named like this do not wait, in their order.
fn nonblocking(pid: i32, what: &str) -> Vec<bool> {
    let mut found: Vec<(u32, bool)> = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let number = entry.file_name().into_string().unwrap();
        let about = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        let flags = about.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = OFlag::from_bits_retain(i32::from_str_radix(flags.unwrap_or("0").trim(), 8).unwrap());
        if target.to_string_lossy().starts_with(what) && flags & OFlag::O_ACCMODE != OFlag::O_WRONLY {
            found.push((number.parse().unwrap(), flags.contains(OFlag::O_NONBLOCK)));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(_, flag)| flag).collect()
}

/// penlog(1), DESCRIPTION: nothing is lost on the way to a penlogd that reads.
#[test]
fn a_hundred_thousand_lines_arrive() {
    const LINES: usize = 100_000;
    const AHEAD: usize = 100;
    let ear = Ear::new();
    let mut penlog = Penlog::to(&ear);
    let line = |number: usize| format!("10.0.0.1 - - [x] \"GET /{number} HTTP/1.1\" 200 {number}\n");
    for start in (0..LINES).step_by(AHEAD) {
        // No further ahead than the smallest socket has room for.
        let part: String = (start..start + AHEAD).map(line).collect();
        penlog.say(part);
        for number in start..start + AHEAD {
            assert_eq!(ear.next_line(), line(number).as_bytes());
        }
    }
    assert_eq!(penlog.finish(), (Some(0), String::new()));
    let last = ear.rest();
    assert_eq!(last.iter().map(|datagram| mark(datagram).1).collect::<Vec<_>>(), [LINES as u64]);
}

/// penlog(1), DESCRIPTION: a file will do as a log.
#[test]
fn a_file_is_sent_to_its_end() {
    let ear = Ear::new();
    let files = Scratch::new();
    let log = files.write("log", "one\ntwo\nthree");
    let input = File::open(Path::new(&log)).unwrap();
    let mut penlog = Penlog::run(OURS, &ear.words(), input.into(), Stdio::piped());
    assert_eq!(penlog.finish(), (Some(0), String::new()));
    assert_eq!(lines(ear.rest()), [&b"one\n"[..], b"two\n", b"three"]);
}

/// penlog(1), EXIT STATUS: 1 if the log cannot be read.
#[test]
fn a_log_that_cannot_be_read_is_told_of() {
    let ear = Ear::new();
    let input = File::open("/").unwrap();
    let mut penlog = Penlog::run(OURS, &ear.words(), input.into(), Stdio::piped());
    let (status, told) = penlog.finish();
    assert_eq!((status, told.as_str()), (Some(1), "penlog: standard input: Is a directory\n"));
}
