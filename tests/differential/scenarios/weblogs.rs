//! The logs of web servers: penlog, penlogd and mergelogs, with a few lines each, and with a hundred thousand.

use std::fs::{self, File};
use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Scenario, scenario};
use crate::stage::Stage;
use crate::support::http::latin;
use crate::support::{SOON, became_true, client, free_port, processes, udp, wait_until};
use crate::traffic::{self, Datagram, Plan};

/// Datagrams that fit into a socket's buffer, however little is allowed, together with what the kernel needs for them.
const BURST: usize = 100;
/// What penlogd takes out of a longer line at once.
const PIECE: usize = 1023;
/// A zone whose summer is on time: the classic's mergelogs takes the second line that it reads for one of the summer,
/// by what it finds in memory, and is an hour wrong where that means something.
const WHERE_SUMMER_MEANS_NOTHING: &str = "XXX0YYY0,J100,J200";

// Programs.

/// What became of a program that ends by itself.
struct Done {
    how: String,
    stdout: Vec<u8>,
    stderr: String,
}

impl Done {
    /// How it ended, and whether it spoke, and where.
    fn note(&self, t: &Stage, label: &str) {
        let spoke = |said: bool| if said { "speaks" } else { "silent" };
        let (stdout, stderr) = (spoke(!self.stdout.is_empty()), spoke(!self.stderr.is_empty()));
        t.note(label, format!("{}, stdout {stdout}, stderr {stderr}", self.how));
    }
}

fn how(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit {code}"),
        None => format!(
            "killed by {}",
            Signal::try_from(status.signal().unwrap_or(0)).map_or("?", Signal::as_str)
        ),
    }
}

/// Runs one of the log tools to its end.
fn run(t: &Stage, name: &str, words: &[&str], zone: &str, input: &[u8]) -> Done {
    let mut child = Command::new(t.program.sibling(name))
        .args(words)
        .env("TZ", zone)
        .current_dir(t.scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    let mut stdin = child.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        // It may end before it has read all.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Done { how: how(output.status), stdout: output.stdout, stderr }
}

/// mergelogs in UTC, on these files of the scratch directory. What it writes.
fn merged(t: &Stage, words: &[&str]) -> Vec<u8> {
    merged_in(t, "UTC", words)
}

fn merged_in(t: &Stage, zone: &str, words: &[&str]) -> Vec<u8> {
    let done = run(t, "mergelogs", words, zone, b"");
    assert_eq!(done.how, "exit 0", "mergelogs {words:?}: {}", done.stderr);
    done.stdout
}

/// A penlogd in the foreground. Dropping it ends it.
struct Daemon<'a> {
    stage: &'a Stage,
    child: Child,
    port: u16,
}

impl<'a> Daemon<'a> {
    /// Its log is the file `log`.
    fn start(t: &'a Stage, options: &[&str]) -> Daemon<'a> {
        Daemon::start_of(t, t.program.sibling("penlogd"), options)
    }

    fn start_of(t: &'a Stage, program: PathBuf, options: &[&str]) -> Daemon<'a> {
        let port = free_port();
        t.name(port, "port");
        let mut child = Command::new(program)
            .args(["-f", "-l", &t.scratch.file("log")])
            .args(options)
            .arg(port.to_string())
            .current_dir(t.scratch.path())
            .stdin(Stdio::null())
            .stdout(File::create(t.scratch.file("stdout")).unwrap())
            .stderr(File::create(t.scratch.file("stderr")).unwrap())
            .spawn()
            .expect("penlogd can be run");
        wait_until("penlogd waits for datagrams", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "penlogd {options:?}: {ended:?}: {}", t.scratch.read("stderr"));
            udp::bound(port) && processes::prepared_for(child.id() as i32, Signal::SIGTERM)
        });
        Daemon { stage: t, child, port }
    }

    /// Who sends to it from 127.0.0.N.
    fn source(&self, n: usize) -> UdpSocket {
        let socket = UdpSocket::bind(format!("127.0.0.{n}:0")).unwrap();
        socket.connect(("127.0.0.1", self.port)).unwrap();
        socket
    }

    /// Sends each of these from 127.0.0.N, and waits until all of them are read.
    fn hears(&self, datagrams: &[(usize, &[u8])]) {
        for (n, datagram) in datagrams {
            self.source(*n).send(datagram).unwrap();
        }
        self.has_read();
    }

    fn has_read(&self) {
        let start = Instant::now();
        while udp::unread(self.port) > 0 {
            assert!(start.elapsed() < SOON, "penlogd does not read any more");
            sleep(Duration::from_micros(50));
        }
    }

    fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    /// How it ended; `runs`, if it does.
    fn fate(&mut self, patience: Duration) -> String {
        let mut status = None;
        became_true(patience, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.map_or("runs".to_owned(), how)
    }

    /// Ends it; the log that it has written, or how it ended if that was not well.
    fn log(mut self) -> Vec<u8> {
        self.signal(Signal::SIGTERM);
        let fate = self.fate(SOON);
        match fate == "exit 0" {
            true => fs::read(self.stage.scratch.file("log")).unwrap(),
            false => format!("{fate}\n").into_bytes(),
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The log of a penlogd that has got these datagrams, from 127.0.0.N each.
fn consolidated(t: &Stage, options: &[&str], datagrams: &[(usize, &[u8])]) -> Vec<u8> {
    let daemon = Daemon::start(t, options);
    daemon.hears(datagrams);
    let log = daemon.log();
    let _ = fs::remove_file(t.scratch.file("log"));
    log
}

/// A line of a web server.
fn line(request: &str) -> Vec<u8> {
    format!("127.0.0.1 - - [22/Nov/2026:07:10:00 +0000] \"{request}\" 200 1\n").into_bytes()
}

/// Plays these to a penlogd: pen's datagrams as they are, `LINE request` for the line of a server.
fn exchange(t: &Stage, label: &str, options: &[&str], told: &[(usize, &str)]) {
    let datagrams: Vec<(usize, Vec<u8>)> = told
        .iter()
        .map(|(n, text)| (*n, text.strip_prefix("LINE ").map_or(text.as_bytes().to_vec(), line)))
        .collect();
    let datagrams: Vec<(usize, &[u8])> = datagrams.iter().map(|(n, bytes)| (*n, bytes.as_slice())).collect();
    t.note_lines(label, latin(&consolidated(t, options, &datagrams)));
}

/// A penlog that sends to this port what is written to it.
struct Sender {
    child: Child,
    /// Bytes that it will have read, with those of its own start.
    read: Option<u64>,
}

impl Sender {
    fn start(program: PathBuf, port: u16, from: &str) -> Sender {
        let child = Command::new(program)
            .args(["127.0.0.1", &port.to_string(), from])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("penlog can be run");
        Sender { child, read: None }
    }

    fn write(&mut self, bytes: &[u8]) {
        let read = self.read.unwrap_or_else(|| {
            wait_until("penlog waits for lines", || self.waits());
            self.has_read()
        });
        self.read = Some(read + bytes.len() as u64);
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// It has its socket, so that it has read all that a program reads for its own start, and waits.
    fn waits(&self) -> bool {
        let pid = self.child.id() as i32;
        processes::descriptors_of(pid, "socket:") > 0
            && processes::stat(pid).is_some_and(|stat| stat.state == 'S')
    }

    /// Waits until all that was written is on its way.
    fn has_sent(&self) {
        let start = Instant::now();
        while self.read.is_some_and(|read| self.has_read() < read) || !self.waits() {
            assert!(start.elapsed() < SOON, "penlog does not read any more");
            sleep(Duration::from_micros(50));
        }
    }

    fn has_read(&self) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap_or_default();
        let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        read.and_then(|read| read.parse().ok()).unwrap_or(0)
    }

    /// How it ends when there is nothing more to read.
    fn end(mut self) -> String {
        self.child.stdin = None;
        how(self.child.wait().unwrap())
    }
}

/// Does it tell how much was sent, and no line? The classic's penlogd drops that.
fn is_mark(datagram: &[u8]) -> bool {
    datagram.starts_with(b"#penlog ")
}

/// What comes next to this socket, but for marks.
fn received(socket: &UdpSocket) -> Vec<u8> {
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut bytes = [0; 2048];
    loop {
        let count = socket.recv(&mut bytes).expect("a datagram comes");
        if !is_mark(&bytes[..count]) {
            return bytes[..count].to_vec();
        }
    }
}

/// The datagrams that penlog makes of these lines, one in a line. They are given to it a few at a time, so that none
/// gets lost.
fn sent(t: &Stage, all_lines: &[String]) -> (String, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut sender = Sender::start(t.program.sibling("penlog"), port, "127.0.0.2");
    let mut all = String::new();
    for (number, lines) in (1..).zip(all_lines.chunks(16)) {
        sender.write(lines.concat().as_bytes());
        // A last line without an end is one when nothing more can come.
        if number == all_lines.len().div_ceil(16) {
            sender.child.stdin = None;
        }
        let pieces = lines.iter().map(|line| line.len().div_ceil(PIECE)).sum::<usize>();
        for _ in 0..pieces {
            let datagram = received(&socket);
            all += &format!("{}: {}\n", datagram.len(), latin(&datagram).escape_debug());
        }
    }
    let how = sender.end();
    socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 2048];
    while let Ok(count) = socket.recv(&mut bytes) {
        if !is_mark(&bytes[..count]) {
            all += &format!("and then {}\n", latin(&bytes[..count]).escape_debug());
        }
    }
    (all, how)
}

/// A hundred thousand visits to three servers.
fn a_hundred_thousand(seed: u64) -> Plan {
    Plan { seed, visits: 100_000, servers: 3, requests: 6_000, rate: 120, delay: 3, gaps: 20, bogus: 5 }
}

/// Sends datagrams of pen and of servers in this order, as fast as they are read.
fn tell(daemon: &Daemon<'_>, datagrams: &[Datagram]) {
    let pen = daemon.source(1);
    let servers: Vec<UdpSocket> = (0..3).map(|server| daemon.source(server + 2)).collect();
    for burst in datagrams.chunks(BURST) {
        for datagram in burst {
            match datagram {
                Datagram::Pen(text) => pen.send(text.as_bytes()),
                Datagram::Server(server, line) => servers[*server].send(line.as_bytes()),
            }
            .unwrap();
        }
        daemon.has_read();
    }
}

/// The classic keeps one entry less than it is told.
fn entries(t: &Stage, count: usize) -> String {
    (count + usize::from(t.program.classic)).to_string()
}

/// Lines of three servers through three penlogs, each with its own pipe, to a penlogd, and pen's datagrams beside them.
fn piped(t: &Stage, penlog: PathBuf, penlogd: PathBuf, count: &str) {
    let daemon = Daemon::start_of(t, penlogd, &["-n", count]);
    let pen = daemon.source(1);
    let mut senders: Vec<Sender> =
        (0..3).map(|n| Sender::start(penlog.clone(), daemon.port, &traffic::server_name(n))).collect();
    let plan = Plan { visits: 10_000, ..a_hundred_thousand(145) };
    // A burst is of one sender: each sends when it can, and the order would be another every time.
    for datagrams in traffic::datagrams(plan, 100).chunks(BURST) {
        for datagram in datagrams {
            if let Datagram::Pen(text) = datagram {
                pen.send(text.as_bytes()).unwrap();
            }
        }
        daemon.has_read();
        for (number, sender) in senders.iter_mut().enumerate() {
            let lines = datagrams.iter().filter_map(|datagram| match datagram {
                Datagram::Server(server, line) if *server == number => Some(line.as_str()),
                _ => None,
            });
            sender.write(lines.collect::<String>().as_bytes());
            sender.has_sent();
            daemon.has_read();
        }
    }
    let ends: Vec<String> = senders.into_iter().map(Sender::end).collect();
    daemon.has_read();
    t.note_lines("log", latin(&daemon.log()));
    t.note("penlogs", ends.join(", "));
}

/// Writes these logs into files, and returns the operands of mergelogs for the servers'.
fn written(t: &Stage, files: &traffic::Files) -> Vec<String> {
    t.scratch.write("pen.log", &files.pen);
    let write = |(server, lines)| {
        let name = format!("access{server}.log");
        t.scratch.write(&name, lines);
        format!("{}:{name}", traffic::server_name(server))
    };
    files.servers.iter().enumerate().map(write).collect()
}

/// These logs, merged with these options; with each of them where times can be told from another.
fn merges(t: &Stage, files: &traffic::Files, options: &[&[&str]]) {
    let operands = written(t, files);
    for options in options {
        let words: Vec<&str> = ["-p", "pen.log"]
            .iter()
            .chain(*options)
            .copied()
            .chain(operands.iter().map(String::as_str))
            .collect();
        let zone = if t.program.classic { WHERE_SUMMER_MEANS_NOTHING } else { "UTC" };
        let label = if options.is_empty() { "log".to_owned() } else { options.join(" ") };
        t.note_lines(label, latin(&merged_in(t, zone, &words)));
    }
}

/// pen's log and those of two servers.
fn example(t: &Stage) {
    t.scratch.write(
        "pen.log",
        "192.0.2.10 1010532530 10.0.0.1 GET /robots.txt HTTP/1.0\n\
         192.0.2.11 1010532531 10.0.0.2 GET /news.html HTTP/1.0\n\
         192.0.2.12 1010532590 10.0.0.1 GET /robots.txt HTTP/1.0\n",
    );
    t.scratch.write(
        "a1",
        "10.0.18.6 - - [09/Jan/2002:00:28:50 +0100] \"GET /robots.txt HTTP/1.0\" 404 268\n\
         10.0.18.6 - bob [09/Jan/2002:00:31:00 +0100] \"GET /other HTTP/1.0\" 200 1 \"ref\" \"UA x\"\n",
    );
    let line = "10.0.18.6 - - [09/Jan/2002:00:28:51 +0100] \"GET /news.html HTTP/1.0\" 200 4017\n";
    t.scratch.write("a2", line);
}

/// mergelogs with pen's log `pen.log`, of three visits with this request, and one server's log with these lines: what it
/// makes of it.
fn merges_lines(t: &Stage, label: &str, request: &str, options: &[&str], lines: &str) {
    let visit = |n: u64| format!("192.0.2.{n} {} 10.0.0.1 {request}\n", NOON + 100 * n);
    t.scratch.write("pen.log", (1..=3).map(visit).collect::<String>());
    t.scratch.write("access.log", lines);
    let words: Vec<&str> =
        ["-p", "pen.log"].iter().chain(options).copied().chain(["10.0.0.1:access.log"]).collect();
    t.note_lines(label, latin(&merged_in(t, WHERE_SUMMER_MEANS_NOTHING, &words)));
}

/// 12:00:00 on the first of March, 2024.
const NOON: u64 = 1_709_294_400;

/// A line at so many minutes and seconds past [`NOON`].
fn past_noon(time: &str, request: &str) -> String {
    format!("127.0.0.1 - - [01/Mar/2024:12:{time} +0000] \"{request}\" 200 1\n")
}

/// The fates of a program of the log tools with these words.
fn fates(t: &Stage, name: &str, all: &[&[&str]]) {
    for words in all {
        run(t, name, words, "UTC", b"").note(t, &words.join(" "));
    }
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("penlogd_and_a_hundred_thousand_visits", |t| {
            let daemon = Daemon::start(t, &["-n", &entries(t, 1000)]);
            tell(&daemon, &traffic::datagrams(a_hundred_thousand(145), 300));
            t.note_lines("log", latin(&daemon.log()));
        })
        .slow(),
        scenario("penlogd_and_few_entries", |t| {
            let daemon = Daemon::start(t, &["-n", &entries(t, 20)]);
            let plan = Plan { requests: 300, ..a_hundred_thousand(146) };
            tell(&daemon, &traffic::datagrams(plan, 5));
            t.note_lines("log", latin(&daemon.log()));
        })
        .slow(),
        scenario("penlog_and_a_hundred_thousand_lines", |t| {
            let lines = traffic::datagrams(a_hundred_thousand(149), 300);
            let mut lines: Vec<String> = lines.into_iter().filter_map(Datagram::line).collect();
            for (number, line) in lines.iter_mut().enumerate().filter(|(number, _)| number % 1000 == 999) {
                line.insert_str(0, &"x".repeat(number / 25));
            }
            // The last one has no end.
            if let Some(last) = lines.last_mut() {
                *last = last.trim_end().to_owned();
            }
            let (datagrams, how) = sent(t, &lines);
            t.note_lines("datagrams", datagrams);
            t.note("ends", how);
        })
        .slow(),
        scenario("mergelogs_and_a_hundred_thousand_visits", |t| {
            let files = traffic::files(a_hundred_thousand(150));
            merges(t, &files, &[&[]]);
        })
        .slow(),
        scenario("mergelogs_and_little_jitter", |t| {
            let files =
                traffic::files(Plan { rate: 600, requests: 1_000, delay: 12, ..a_hundred_thousand(151) });
            merges(t, &files, &[&["-j", "5"], &["-j", "1"], &["-j", "0"], &["-t", "-2", "-j", "20"]]);
        })
        .slow(),
        scenario("mergelogs_without_a_cache", |t| {
            let plan = Plan { visits: 1_000, requests: 50, delay: 300, ..a_hundred_thousand(152) };
            merges(t, &traffic::files(plan), &[&["-c"]]);
        }),
        scenario("the_log_tools_together", |t| {
            piped(t, t.program.sibling("penlog"), t.program.sibling("penlogd"), &entries(t, 1000));
        })
        .slow(),
        scenario("penlog_and_the_classics_penlogd", |t| {
            piped(t, t.program.sibling("penlog"), crate::classic_path().with_file_name("penlogd"), "1001");
        })
        .slow(),
        scenario("the_classics_penlog_and_penlogd", |t| {
            let penlog = crate::classic_path().with_file_name("penlog");
            piped(t, penlog, t.program.sibling("penlogd"), &entries(t, 1000));
        })
        .slow(),
        scenario("case_145_a_log_with_the_clients_addresses", |t| {
            let s = t.webs(1);
            let daemon = Daemon::start(t, &[]);
            let pen = t.pen(&["-l", &format!("127.0.0.1:{}", daemon.port)]).servers(&s).start();
            let stream = pen.connect_from("127.0.0.7");
            (&stream).write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
            let _ = client::read_all(&stream);
            daemon.has_read();
            let mut penlog = Sender::start(t.program.sibling("penlog"), daemon.port, "127.0.0.1");
            penlog.write(&line("GET /index.html HTTP/1.0"));
            penlog.write(&line("GET /other HTTP/1.0"));
            t.note("penlog", penlog.end());
            daemon.has_read();
            t.note_lines("log", latin(&daemon.log()));
            pen.end_with(Signal::SIGTERM);
        }),
        scenario("case_146_a_request_of_many_characters", |t| {
            for length in [98, 99, 100, 120] {
                let request = format!("GET /{}", "y".repeat(length - "GET /".len()));
                let pen = format!("+ 192.0.2.1 127.0.0.2 {request}\n");
                exchange(t, &length.to_string(), &[], &[(1, &pen), (2, &format!("LINE {request}"))]);
            }
        }),
        scenario("as_many_entries_as_penlogd_is_told_to_keep", |t| {
            let pen = ["+ 192.0.2.1 127.0.0.2 GET /1\n", "+ 192.0.2.2 127.0.0.2 GET /2\n"];
            exchange(t, "-n 2", &["-n", "2"], &[(1, pen[0]), (1, pen[1]), (2, "LINE GET /2")]);
            exchange(t, "-n 2, the first", &["-n", "2"], &[(1, pen[0]), (1, pen[1]), (2, "LINE GET /1")]);
        }),
        scenario("case_147_servers_that_are_no_ipv4_addresses", |t| {
            for server in ["::1", "no.such.host.invalid"] {
                let pen = format!("+ 192.0.2.1 {server} GET /\n");
                exchange(t, server, &[], &[(1, &pen), (2, "LINE GET /")]);
            }
        }),
        scenario("what_penlogd_takes_for_the_same_request", |t| {
            let of = |n: usize, request: &str| format!("+ 192.0.2.{n} 127.0.0.2 {request}\n");
            let (first, second) = (of(1, "GET /a HTTP/1.0"), of(2, "GET /a HTTP/1.0"));
            exchange(t, "the newest", &[], &[(1, &first), (1, &second), (2, "LINE GET /a HTTP/1.0")]);
            exchange(
                t,
                "twice",
                &[],
                &[(1, &first), (2, "LINE GET /a HTTP/1.0"), (2, "LINE GET /a HTTP/1.0")],
            );
            exchange(t, "its beginning", &[], &[(1, &first), (2, "LINE GET /a")]);
            exchange(t, "more than it", &[], &[(1, &of(1, "GET /a")), (2, "LINE GET /a HTTP/1.0")]);
            exchange(t, "nothing", &[], &[(1, &first), (1, &of(2, "GET /b")), (2, "LINE ")]);
            exchange(t, "another server's", &[], &[(1, &first), (3, "LINE GET /a HTTP/1.0")]);
            exchange(t, "another case", &[], &[(1, &first), (2, "LINE get /a HTTP/1.0")]);
        }),
        scenario("what_penlogd_takes_from_pen", |t| {
            for (label, pen) in [
                ("several spaces", "+  192.0.2.1   127.0.0.2  GET /z\n"),
                ("no space", "+192.0.2.1 127.0.0.2 GET /z\n"),
                ("no newline", "+ 192.0.2.1 127.0.0.2 GET /z"),
                ("more behind the newline", "+ 192.0.2.1 127.0.0.2 GET /z\n#00000000 1\n"),
                ("a carriage return", "+ 192.0.2.1 127.0.0.2 GET /z\r\n"),
                ("no request", "+ 192.0.2.1 127.0.0.2\n"),
                ("no server", "+ 192.0.2.1\n"),
                ("nothing", "+\n"),
                ("not even that", ""),
            ] {
                exchange(t, label, &[], &[(1, pen), (2, "LINE GET /z")]);
            }
        }),
        scenario("what_penlogd_takes_for_a_line", |t| {
            let pen = "+ 192.0.2.1 127.0.0.2 GET /z\n";
            for (label, line) in [
                ("no quotes", "127.0.0.1 - - GET /z\n"),
                ("one", "127.0.0.1 - - \"GET /z\n"),
                ("the request alone", "\"GET /z\"\n"),
                ("a first word, and the request", "127.0.0.1 \"GET /z\"\n"),
                ("a space first", " lead \"GET /z\"\n"),
                ("a tab", "a\tb \"GET /z\"\n"),
                ("more quotes", "127.0.0.1 - - [] \"GET /z\" \"http://a/\" \"a \\\"b\\\"\"\n"),
                ("nothing in it", "\n"),
            ] {
                exchange(t, label, &[], &[(1, pen), (2, line)]);
            }
        }),
        scenario("a_request_with_quotes", |t| {
            let pen = "+ 192.0.2.1 127.0.0.2 GET /\"z\" HTTP/1.0\n";
            exchange(t, "as servers write them", &[], &[(1, pen), (2, "LINE GET /\\\"z\\\" HTTP/1.0")]);
        }),
        scenario("a_line_that_comes_before_its_counterpart", |t| {
            exchange(t, "log", &[], &[(2, "LINE GET /z"), (1, "+ 192.0.2.1 127.0.0.2 GET /z\n")]);
        }),
        scenario("datagrams_that_forge_lines", |t| {
            for (label, line) in [
                ("two lines", "a - - \"GET /1\"\nb - - \"GET /2\"\n"),
                ("an escape sequence", "a - - \"GET /\x1b[2J\"\n"),
                ("a carriage return", "a - - \"GET /\rb\"\n"),
            ] {
                let log = consolidated(t, &[], &[(2, line.as_bytes())]);
                t.note_lines(label, format!("{}\n", latin(&log).escape_debug()));
            }
            let log = consolidated(t, &[], &[(2, b"a \"GET /1\""), (2, b"b \"GET /2\"\n")]);
            t.note_lines("no newline", latin(&log));
        }),
        scenario("case_148_signals_to_penlogd", |t| {
            let mut daemon = Daemon::start(t, &["-p", &t.scratch.file("pid")]);
            // The socket is there before.
            became_true(SOON, || !t.scratch.read("pid").is_empty());
            let pid = t.scratch.read("pid");
            t.note("pid file", if pid == daemon.child.id().to_string() { "its number" } else { &pid });
            let pen: [(usize, &[u8]); 2] =
                [(1, b"+ 192.0.2.1 127.0.0.2 GET /1\n"), (1, b"+ 192.0.2.2 127.0.0.2 GET /2\n")];
            daemon.hears(&pen);
            daemon.hears(&[(2, b"a \"GET /1\"\n")]);
            fs::rename(t.scratch.file("log"), t.scratch.file("old")).unwrap();
            daemon.signal(Signal::SIGHUP);
            let new = || t.scratch.names().contains(&"log".to_owned());
            t.note("HUP opens it anew", became_true(SOON, new).is_some());
            daemon.hears(&[(2, b"a \"GET /2\"\n")]);
            daemon.signal(Signal::SIGTERM);
            t.note("TERM", daemon.fate(SOON));
            t.note(
                "files",
                t.scratch
                    .names()
                    .into_iter()
                    .filter(|name| !name.starts_with("std"))
                    .collect::<Vec<_>>()
                    .join(" "),
            );
            t.note_lines("old", t.scratch.read("old"));
            t.note_lines("new", t.scratch.read("log"));
            let mut daemon = Daemon::start(t, &["-p", &t.scratch.file("pid")]);
            daemon.signal(Signal::SIGINT);
            t.note("INT", daemon.fate(SOON));
            t.note("then there is a pid file", t.scratch.names().contains(&"pid".to_owned()));
        }),
        scenario("how_penlogd_is_called", |t| {
            let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
            let port = taken.local_addr().unwrap().port();
            t.name(port, "taken");
            let port = port.to_string();
            fates(t, "penlogd", &[&[], &["0"], &["abc"], &["-z", "9800"], &["-f", "-n"], &["-f", &port]]);
            fates(
                t,
                "penlogd",
                &[&["-f", "-j", "/no/such/directory", "9800"], &["-f", "-u", "nobody.here", "9800"]],
            );
        }),
        scenario("how_penlog_is_called", |t| {
            fates(t, "penlog", &[&[], &["127.0.0.1"], &["127.0.0.1", "9"], &["127.0.0.1", "9", "127.0.0.2"]]);
            fates(
                t,
                "penlog",
                &[&["no.such.host.invalid", "9"], &["127.0.0.1", "9", "192.0.2.1"], &["::1", "9"]],
            );
            let done = run(t, "penlog", &["127.0.0.1", "9"], "UTC", &b"nobody hears this\n".repeat(1000));
            done.note(t, "nobody there");
        }),
        scenario("case_149_lines_that_penlog_sends", |t| {
            let lines = [
                "a\n",
                "\n",
                &format!("{}\n", "x".repeat(2499)),
                &format!("{}\n", "y".repeat(1022)),
                &format!("{}\n", "z".repeat(1023)),
                "the end",
            ];
            let (datagrams, how) = sent(t, &lines.map(str::to_owned));
            t.note_lines("datagrams", datagrams);
            t.note("ends", how);
        }),
        scenario("a_long_line_through_penlog_and_penlogd", |t| {
            let daemon = Daemon::start(t, &[]);
            daemon.hears(&[(1, b"+ 192.0.2.1 127.0.0.2 GET /z\n")]);
            let mut penlog = Sender::start(t.program.sibling("penlog"), daemon.port, "127.0.0.2");
            penlog.write(format!("a \"GET /z\" {}\n", "x".repeat(2000)).as_bytes());
            t.note("penlog", penlog.end());
            daemon.has_read();
            let log = latin(&daemon.log());
            let told =
                |line: &str| format!("{} and so on, {} bytes\n", &line[..line.len().min(20)], line.len());
            t.note_lines("log", log.lines().map(told).collect());
        }),
        scenario("case_150_logs_merged", |t| {
            example(t);
            let words = ["-p", "pen.log", "10.0.0.1:a1", "10.0.0.2:a2"];
            t.note_lines("a zone without summer", latin(&merged_in(t, WHERE_SUMMER_MEANS_NOTHING, &words)));
            let late = "10.0.18.6 - - [09/Jan/2002:00:29:40 +0100] \"GET /robots.txt HTTP/1.0\" 404 268\n";
            t.scratch.write("a1", t.scratch.read("a1").replacen('\n', &format!("\n{late}"), 1));
            t.note_lines("a second line", latin(&merged(t, &words)));
        }),
        scenario("case_151_pens_times_are_others", |t| {
            let lines =
                [past_noon("01:40", "GET /"), past_noon("03:21", "GET /"), past_noon("05:00", "GET /")]
                    .concat();
            for offset in ["0", "100", "-100", "3600", "-3600"] {
                merges_lines(t, &format!("-t {offset}"), "GET /", &["-t", offset], &lines);
            }
        }),
        scenario("case_152_how_mergelogs_is_called", |t| {
            example(t);
            let all: &[&[&str]] = &[
                &[],
                &["-p", "pen.log"],
                &["10.0.0.1:a1"],
                &["-z", "-p", "pen.log", "10.0.0.1:a1"],
                &["-p", "no.log", "10.0.0.1:a1"],
                &["-p", "pen.log", "10.0.0.1:no"],
                &["-p", "pen.log", "a1"],
                &["-p", "pen.log", "-j", "1", "-t", "1", "-c", "10.0.0.1:a1"],
            ];
            fates(t, "mergelogs", all);
        }),
        scenario("which_visit_mergelogs_takes", |t| {
            for time in ["01:40", "02:29", "02:30", "02:31", "04:09", "04:10", "04:11", "30:00"] {
                let line = past_noon(time, "GET /");
                merges_lines(t, time, "GET /", &[], &line);
                merges_lines(t, &format!("-j 50: {time}"), "GET /", &["-j", "50"], &line);
                merges_lines(t, &format!("-c: {time}"), "GET /", &["-c"], &line);
            }
        }),
        scenario("what_mergelogs_takes_for_a_line", |t| {
            for (label, line) in [
                ("common", "a - - [01/Mar/2024:12:01:40 +0000] \"GET /\" 200 1\n"),
                ("combined", "a - - [01/Mar/2024:12:01:40 +0000] \"GET /\" 200 1 \"-\" \"b \\\"c\\\"\"\n"),
                ("no end", "a - - [01/Mar/2024:12:01:40 +0000] \"GET /\" 200 1"),
                ("nothing behind the request", "a - - [01/Mar/2024:12:01:40 +0000] \"GET /\"\n"),
                ("no user", "a [01/Mar/2024:12:01:40 +0000] \"GET /\" 200 1\n"),
                ("no time", "a - - \"GET /\" 200 1\n"),
                ("half a time", "a - - [01/Mar/2024 \"GET /\" 200 1\n"),
                ("no request", "a - - [01/Mar/2024:12:01:40 +0000] 200 1\n"),
                ("no quotes", "a - - [01/Mar/2024:12:01:40 +0000] GET / 200 1\n"),
                ("an empty request", "a - - [01/Mar/2024:12:01:40 +0000] \"\" 200 1\n"),
                ("nothing", "\n"),
                ("another zone", "a - - [01/Mar/2024:17:46:40 +0545] \"GET /\" 200 1\n"),
                ("a zone behind", "a - - [01/Mar/2024:08:31:40 -0330] \"GET /\" 200 1\n"),
            ] {
                merges_lines(t, label, "GET /", &[], line);
            }
        }),
        scenario("requests_that_pen_has_cut", |t| {
            for length in [99, 100, 101, 150] {
                let request = format!("GET /{}", "y".repeat(length - "GET /".len()));
                let line = past_noon("01:40", &request);
                merges_lines(t, &length.to_string(), &request[..length.min(100)], &[], &line);
            }
        }),
        scenario("a_request_with_quotes_is_merged", |t| {
            merges_lines(t, "log", "GET /\"z\"", &[], &past_noon("01:40", "GET /\\\"z\\\""));
        }),
        scenario("the_zone_of_a_merged_log", |t| {
            example(t);
            for zone in ["UTC", "AAA-1", "AAA5"] {
                let words = ["-p", "pen.log", "10.0.0.2:a2"];
                t.note_lines(zone, latin(&merged_in(t, zone, &words)));
            }
        }),
    ]
}
