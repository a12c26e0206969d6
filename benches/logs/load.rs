//! Made-up traffic for `benches/logs.sh`: logs to be merged, lines to be sent, datagrams to be consolidated.
//!
//! ```text
//! logs_load write DIRECTORY [KEY=VALUE ...]
//! logs_load run [KEY=VALUE ...] -- PROGRAM [ARGUMENT ...]
//! logs_load sink PORT
//! logs_load turns|paced PORT [KEY=VALUE ...]
//! ```
//!
//! - `write`: writes `pen.log`, `access0.log` and so on, and `lines.log`, which is all that the servers write.
//! - `run`: runs a program to its end and tells what it used.
//! - `sink`: reads the datagrams that come, and forgets them.
//! - `turns`: sends pen's and the servers' datagrams to the penlogd at this port, some at a time, and the next when it has
//!   read those. What it takes to fill its cache comes before the measurement.
//! - `paced`: sends so many in a second, whatever becomes of them.
//!
//! Keys: `visits`, `rate` (of `write`: visits in a minute; of `paced`: datagrams in a second), `apart` (visits until the
//! line of a server comes), `entries` (the size of penlogd's cache), `seconds`, `pid` (of penlogd), `lines`, `input` (a
//! file), `pipe` (it goes into a pipe, a line with each write, as web servers do it), `output` (a file).
//!
//! The answer is one line of `key=value`: `operations` are lines or datagrams, `failures` are those that the kernel has
//! dropped because nobody read them, `cpu` are nanoseconds.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../tests/differential/traffic.rs"]
mod traffic;

use std::fs::{self, File};
use std::io::{IoSlice, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use common::{Measurement, fail};
use pen::sys::datagram::{self, BATCH, Departure};
use traffic::{Datagram, Plan};

/// Servers behind pen.
const SERVERS: usize = 3;
/// As long a penlogd may take for what it has been sent at a time.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (options, program) = match arguments.iter().position(|word| word == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments.as_slice(), &[][..]),
    };
    match options {
        [mode, options @ ..] if mode == "run" => run(&Task::parse(options), program),
        [mode, directory, options @ ..] if mode == "write" => {
            write(Path::new(directory), &Task::parse(options));
        }
        [mode, port] if mode == "sink" => sink(number(port)),
        [mode, port, options @ ..] if mode == "turns" => turns(number(port), &Task::parse(options)),
        [mode, port, options @ ..] if mode == "paced" => paced(number(port), &Task::parse(options)),
        // cargo runs benches and examples with arguments of its own, or with none.
        _ => fail("logs_load write|run|sink|turns|paced ..."),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| fail(format_args!("{text} is no number")))
}

struct Task {
    visits: usize,
    rate: u64,
    apart: u64,
    entries: usize,
    time: Duration,
    pid: Option<i32>,
    lines: u64,
    input: Option<String>,
    pipe: bool,
    output: Option<String>,
}

impl Task {
    fn parse(options: &[String]) -> Task {
        let mut task = Task {
            visits: 100_000,
            rate: 120,
            apart: 300,
            entries: 1000,
            time: Duration::from_secs(1),
            pid: None,
            lines: 1,
            input: None,
            pipe: false,
            output: None,
        };
        for option in options {
            let (key, value) =
                option.split_once('=').unwrap_or_else(|| fail(format_args!("KEY=VALUE: {option}")));
            match key {
                "visits" => task.visits = number(value),
                "rate" => task.rate = number(value),
                "apart" => task.apart = number(value),
                "entries" => task.entries = number(value),
                "seconds" => task.time = Duration::from_secs_f64(number(value)),
                "pid" => task.pid = Some(number(value)),
                "lines" => task.lines = number(value),
                "input" => task.input = Some(value.to_owned()),
                "pipe" => task.pipe = value != "0",
                "output" => task.output = Some(value.to_owned()),
                _ => fail(format_args!("no such key: {option}")),
            }
        }
        task
    }

    fn plan(&self, visits: usize) -> Plan {
        Plan {
            seed: 1,
            visits,
            servers: SERVERS,
            requests: 6_000,
            rate: self.rate,
            delay: 3,
            gaps: 20,
            bogus: 5,
        }
    }
}

fn print(operations: u64, failures: u64, seconds: f64, rest: &str) {
    println!(
        "operations={operations} failures={failures} seconds={seconds:.3} rate={:.0}{rest}",
        operations as f64 / seconds
    );
}

// Files and programs.

fn write(directory: &Path, task: &Task) {
    let files = traffic::files(task.plan(task.visits));
    let write = |name: String, text: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap_or_else(|e| fail(format_args!("{}: {e}", path.display())));
    };
    write("pen.log".to_owned(), files.pen.as_bytes());
    for (server, lines) in files.servers.iter().enumerate() {
        write(format!("access{server}.log"), lines.as_bytes());
    }
    write("lines.log".to_owned(), files.servers.concat().as_bytes());
    println!("lines={}", files.lines);
}

fn run(task: &Task, program: &[String]) {
    let Some((program, arguments)) = program.split_first() else { fail("run ... -- PROGRAM") };
    let open = |name: &String| File::open(name).unwrap_or_else(|e| fail(format_args!("{name}: {e}")));
    let stdin = match &task.input {
        Some(_) if task.pipe => Stdio::piped(),
        Some(name) => open(name).into(),
        None => Stdio::null(),
    };
    let stdout = match &task.output {
        Some(name) => File::create(name).unwrap_or_else(|e| fail(format_args!("{name}: {e}"))).into(),
        None => Stdio::null(),
    };
    let lines = task.input.as_ref().filter(|_| task.pipe).map(|name| fs::read(name).unwrap());
    let start = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(stdin)
        .stdout(stdout)
        .spawn()
        .unwrap_or_else(|e| fail(format_args!("{program}: {e}")));
    if let (Some(lines), Some(mut pipe)) = (lines, child.stdin.take()) {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            pipe.write_all(line).unwrap_or_else(|e| fail(format_args!("{program}: {e}")));
        }
    }
    let status = child.wait().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    if !status.success() {
        fail(format_args!("{program}: {status}"));
    }
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let cpu = (used.user_time() + used.system_time()).num_microseconds() * 1000;
    print(task.lines, 0, seconds, &format!(" cpu={cpu} memory={}", used.max_rss()));
}

// Datagrams.

fn sink(port: u16) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap_or_else(|e| fail(e));
    let mut bytes = [0; 2048];
    loop {
        // An error is as good as nothing.
        let _ = socket.recv(&mut bytes);
    }
}

/// Who sends, and what, again and again.
struct Source {
    socket: UdpSocket,
    to: SocketAddr,
    datagrams: Vec<(IpAddr, Vec<u8>)>,
    next: usize,
}

impl Source {
    fn new(port: u16, task: &Task) -> Source {
        let pen = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let server = |server| traffic::server_name(server).parse().unwrap();
        let datagrams = traffic::datagrams(task.plan(task.visits), task.apart);
        let datagrams = datagrams.into_iter().map(|datagram| match datagram {
            Datagram::Pen(text) => (pen, text.into_bytes()),
            Datagram::Server(number, line) => (server(number), line.into_bytes()),
        });
        Source {
            socket: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap(),
            to: (Ipv4Addr::LOCALHOST, port).into(),
            datagrams: datagrams.collect(),
            next: 0,
        }
    }

    /// Sends the next ones, at most a batch of them.
    fn send(&mut self, count: usize) -> usize {
        let count = count.min(BATCH).min(self.datagrams.len() - self.next);
        let batch = &self.datagrams[self.next..self.next + count];
        let pieces: Vec<[IoSlice<'_>; 1]> = batch.iter().map(|(_, bytes)| [IoSlice::new(bytes)]).collect();
        let departures: Vec<Departure<'_>> = batch
            .iter()
            .zip(&pieces)
            .map(|((from, _), pieces)| Departure {
                to: Some(self.to),
                from: Some(*from),
                pieces,
                segment: None,
            })
            .collect();
        datagram::send_all(self.socket.as_fd(), &departures, |_, outcome| {
            outcome.unwrap_or_else(|e| fail(e));
        });
        self.next = (self.next + count) % self.datagrams.len();
        count
    }
}

/// What the kernel tells of the socket at this port: bytes that nobody has read yet, and datagrams it has dropped.
fn socket(port: u16) -> (u64, u64) {
    let end = format!(":{port:04X}");
    for table in ["/proc/self/net/udp6", "/proc/self/net/udp"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields.get(1).is_some_and(|address| address.ends_with(&end)) {
                let unread = fields[4].split_once(':').unwrap().1;
                return (u64::from_str_radix(unread, 16).unwrap(), number(fields[fields.len() - 1]));
            }
        }
    }
    fail(format_args!("nobody waits for datagrams at port {port}"))
}

fn wait_for(port: u16) {
    let start = Instant::now();
    while socket(port).0 > 0 {
        if start.elapsed() > PATIENCE {
            fail("penlogd does not read any more");
        }
        thread::sleep(Duration::from_micros(20));
    }
}

fn turns(port: u16, task: &Task) {
    let mut source = Source::new(port, task);
    let filling = (2 * task.entries + 4 * task.apart as usize).min(source.datagrams.len());
    let mut rest = filling;
    while rest > 0 {
        rest -= source.send(rest);
        wait_for(port);
    }
    let before = socket(port).1;
    let running = Measurement::begin(task.pid, None);
    let start = Instant::now();
    let mut sent = 0;
    while sent < task.lines {
        sent += source.send(BATCH) as u64;
        wait_for(port);
    }
    let seconds = start.elapsed().as_secs_f64();
    print(sent, socket(port).1 - before, seconds, &running.end());
}

fn paced(port: u16, task: &Task) {
    let mut source = Source::new(port, task);
    let before = socket(port).1;
    let running = Measurement::begin(task.pid, None);
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < task.time {
        let due = (task.rate as f64 * start.elapsed().as_secs_f64()) as u64;
        // Whoever cannot send as fast as that ends in time, and the rate tells it.
        while sent < due && start.elapsed() < task.time {
            sent += source.send((due - sent) as usize) as u64;
        }
        thread::sleep(Duration::from_micros(100));
    }
    let seconds = start.elapsed().as_secs_f64();
    wait_for(port);
    print(sent, socket(port).1 - before, seconds, &running.end());
}
