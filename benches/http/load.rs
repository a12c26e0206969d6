//! HTTP clients for `benches/tcp.sh` and `benches/http.sh`, and the server behind what they measure.
//!
//! ```text
//! http_load serve ADDRESS
//! http_load requests|connections|bulk|idle ADDRESS [KEY=VALUE ...]
//! ```
//!
//! - `requests`: on connections that are kept alive; each client sends one when it has the response to the last.
//! - `connections`: one for each request, which asks for the connection to be closed.
//! - `bulk`: one response without end on each connection; an operation is a GiB.
//! - `idle`: connections that have had one response and then stay; nothing is timed, memory is read.
//!
//! Keys: `request` (`small`: three headers; `browser`: those of a browser; `post`: three and a body of 16 KiB), `clients`
//! (connections at a time), `seconds`, `pid` (the process to be measured, and its descendants), `events` (what perf(1)
//! shall count in them), `sources` (connections come from so many addresses of 127/8, one after the other; each has
//! visited once before the measurement).
//!
//! The answer is one line of `key=value`. Whatever comes before the measurement (connections that stay, and a first
//! request of each client) and what the clients themselves cost is not in it. `told` is the percentage of requests that
//! came to the server with exactly one X-Forwarded-For and one X-Forwarded-Proto. `p50`, `p99` and `p999` are
//! microseconds from a request (with its connection, if it has one of its own) to its response.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};
use std::{env, io};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, connect, listen,
    setsockopt, socket,
    sockopt::{IpBindAddressNoPort, RcvBuf, SndBuf},
};

use common::{GIB, Measurement, UNDER_WAY, complain, fail, memory, settle};

/// What else a browser says of itself.
const BROWSER: &str = "\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.example.com/catalogue/section/17?sort=price&page=3\r\n\
    Cookie: session=5f2b8c1e9a7d4036b1c2d3e4f5a60718; consent=all; theme=dark; visited=1718000000.1718900000\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-User: ?1\r\n\
    Priority: u=0, i\r\n";
/// What else a program says.
const PROGRAM: &str = "User-Agent: load/1.0\r\nAccept: */*\r\n";
/// Bytes in the body of a POST.
const POSTED: usize = 16 * 1024;
/// Bytes in the body of a response.
const ANSWER: usize = 512;
/// Where a response has no end that anybody lives to see.
const ENDLESS: &str = "/endless";
const NEVER: usize = 1 << 46;
/// When nothing comes for so long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (mode, address) = match arguments.as_slice() {
        // cargo runs benches and examples with arguments of its own, or with none.
        [mode, address, ..] if !mode.starts_with('-') => {
            (mode.as_str(), address.parse().unwrap_or_else(|e| fail(e)))
        }
        _ => fail("http_load serve|requests|connections|bulk|idle ADDRESS [KEY=VALUE ...]"),
    };
    let plan = Plan::parse(mode, address, &arguments[2..]);
    match mode {
        "serve" => serve(address),
        "requests" | "connections" => requests(&plan),
        "bulk" => bulk(&plan),
        "idle" => idle(&plan),
        _ => fail(format_args!("no such mode: {mode}")),
    }
}

// What is to be done.

struct Plan {
    address: SocketAddr,
    /// A request.
    request: Vec<u8>,
    /// Each on a connection of its own.
    apart: bool,
    clients: usize,
    /// Addresses that they come from; 0: the one that the system takes.
    sources: u32,
    time: Duration,
    pid: Option<i32>,
    events: Option<String>,
}

impl Plan {
    fn parse(mode: &str, address: SocketAddr, options: &[String]) -> Plan {
        let mut plan = Plan {
            address,
            request: Vec::new(),
            apart: mode == "connections",
            clients: if mode == "idle" { 1000 } else { 64 },
            sources: 0,
            time: Duration::from_secs(2),
            pid: None,
            events: None,
        };
        let mut request = "small";
        for option in options {
            let (key, value) =
                option.split_once('=').unwrap_or_else(|| fail(format_args!("KEY=VALUE: {option}")));
            match key {
                "request" => request = value,
                "clients" => plan.clients = value.parse().unwrap_or_else(|e| fail(e)),
                "sources" => plan.sources = value.parse().unwrap_or_else(|e| fail(e)),
                "seconds" => plan.time = Duration::from_secs_f64(value.parse().unwrap_or_else(|e| fail(e))),
                "pid" => plan.pid = Some(value.parse().unwrap_or_else(|e| fail(e))),
                "events" => plan.events = Some(value.to_owned()),
                _ => fail(format_args!("no such key: {key}")),
            }
        }
        let connection = if plan.apart { "Connection: close\r\n" } else { "" };
        let path = if mode == "bulk" { ENDLESS } else { "/catalogue/article?number=4711" };
        plan.request = match request {
            "small" => format!("GET {path} HTTP/1.1\r\nHost: www.example.com\r\n{PROGRAM}{connection}\r\n"),
            "browser" => format!("GET {path} HTTP/1.1\r\nHost: www.example.com\r\n{BROWSER}{connection}\r\n"),
            "post" => format!(
                "POST {path} HTTP/1.1\r\nHost: www.example.com\r\n{PROGRAM}{connection}\
                 Content-Type: application/octet-stream\r\nContent-Length: {POSTED}\r\n\r\n{}",
                "p".repeat(POSTED)
            ),
            _ => fail("request=small, request=browser or request=post"),
        }
        .into_bytes();
        plan
    }

    fn measure(&self) -> Measurement {
        Measurement::begin(self.pid, self.events.as_deref())
    }
}

/// Where a head ends: behind its blank line.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|start| start + 4)
}

/// The names and values in a head, without its first line.
fn headers(head: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    str::from_utf8(head).unwrap_or_default().split("\r\n").skip(1).filter_map(|line| line.split_once(": "))
}

fn content_length(head: &[u8]) -> Option<usize> {
    let (_, value) = headers(head).find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    value.parse().ok()
}

// Clients.

/// A connection and what has come of the response.
struct Client {
    stream: TcpStream,
    head: Vec<u8>,
    /// Of its body, once the head is there.
    left: Option<usize>,
    asked: Instant,
}

/// The address with this number, of those that connections come from: 127.1.0.1 and so on.
fn source(number: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from_bits(0x7f01_0001 + number), 0)
}

/// A connection from there.
fn connect_from(source: SocketAddrV4, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // As many ports as there are, to each address; the kernel chooses one when it knows where to.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(source))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(socket.into())
}

impl Client {
    fn connect(plan: &Plan, visits: u64) -> io::Result<Client> {
        let asked = Instant::now();
        let stream = match plan.sources {
            0 => TcpStream::connect(plan.address)?,
            sources => connect_from(source((visits % u64::from(sources)) as u32), plan.address)?,
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        // A whole request has room.
        setsockopt(&stream, SndBuf, &UNDER_WAY)?;
        Ok(Client { stream, head: Vec::new(), left: None, asked })
    }

    /// Reads what has come. True: the response is whole.
    fn receive(&mut self, buffer: &mut [u8], tally: &mut Tally) -> Result<bool, String> {
        let count = match self.stream.read(buffer) {
            Ok(0) => return Err("the end of the stream within a response".to_owned()),
            Ok(count) => count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(format!("response: {e}")),
        };
        let body = match self.left {
            Some(_) => count,
            None => {
                self.head.extend_from_slice(&buffer[..count]);
                let Some(end) = end_of_head(&self.head) else { return Ok(false) };
                let body = self.head.len() - end;
                self.left = Some(tally.look(&self.head[..end])?);
                self.head.clear();
                body
            }
        };
        tally.bytes += body as u64;
        let left = self.left.unwrap_or(0).checked_sub(body).ok_or("bytes behind the response")?;
        self.left = (left > 0).then_some(left);
        Ok(left == 0)
    }
}

/// What all clients have done, and the first thing that went wrong.
#[derive(Default)]
struct Tally {
    done: u64,
    /// Of bodies.
    bytes: u64,
    failures: u64,
    first: Option<String>,
    /// Heads of responses, and those to requests that told of the client.
    heads: u64,
    told: u64,
    /// Microseconds that clients have waited, each time.
    waits: Vec<u32>,
}

impl Tally {
    /// The length of the response's body.
    fn look(&mut self, head: &[u8]) -> Result<usize, String> {
        if !head.starts_with(b"HTTP/1.1 200 ") {
            return Err(String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned());
        }
        self.heads += 1;
        let told = |(name, value): (&str, _)| name.eq_ignore_ascii_case("x-told") && value == "yes";
        self.told += u64::from(headers(head).any(told));
        content_length(head).ok_or_else(|| "a response without a length".to_owned())
    }

    fn fail(&mut self, why: String) {
        self.failures += 1;
        if self.failures > 1000 {
            fail(why);
        }
        self.first.get_or_insert(why);
    }

    fn print(self, operations: f64, seconds: f64, measured: &str) {
        if let Some(why) = self.first {
            complain(format_args!("first failure: {why}"));
        }
        let told = 100.0 * self.told as f64 / self.heads.max(1) as f64;
        let (failures, mut waits) = (self.failures, self.waits);
        waits.sort_unstable();
        let wait = |share: f64| waits.get((waits.len() as f64 * share) as usize);
        let waits = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)]
            .map(|(name, share)| wait(share).map_or(String::new(), |wait| format!(" {name}={wait}")));
        let rate = if seconds > 0.0 { format!(" rate={:.0}", operations / seconds) } else { String::new() };
        println!(
            "operations={operations} failures={failures} seconds={seconds:.3}{rate}{} told={told:.0}{measured}",
            waits.concat()
        );
    }
}

/// All clients, in one thread.
struct Load<'a> {
    plan: &'a Plan,
    epoll: Epoll,
    /// None: its connection was for one request, or has failed.
    clients: Vec<Option<Client>>,
    /// How many wait for a response.
    waiting: usize,
    /// Connections so far.
    visits: u64,
    tally: Tally,
    buffer: Vec<u8>,
}

impl Load<'_> {
    fn new(plan: &Plan) -> Load<'_> {
        Load {
            plan,
            epoll: Epoll::new(EpollCreateFlags::empty()).unwrap(),
            clients: (0..plan.clients).map(|_| None).collect(),
            waiting: 0,
            visits: 0,
            tally: Tally::default(),
            buffer: vec![0; 1 << 16],
        }
    }

    fn ask_all(&mut self) {
        (0..self.clients.len()).for_each(|number| self.ask(number));
    }

    /// A client sends its (next) request.
    fn ask(&mut self, number: usize) {
        if self.clients[number].is_none() {
            let client = Client::connect(self.plan, self.visits);
            let client = client.unwrap_or_else(|e| fail(format_args!("connect: {e}")));
            self.visits += 1;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
            self.epoll.add(&client.stream, event).unwrap();
            self.clients[number] = Some(client);
        }
        let Some(client) = &mut self.clients[number] else { return };
        self.waiting += 1;
        if !self.plan.apart {
            client.asked = Instant::now();
        }
        if let Err(e) = client.stream.write_all(&self.plan.request) {
            self.lose(number, format!("request: {e}"));
        }
    }

    fn lose(&mut self, number: usize, why: String) {
        self.clients[number] = None;
        self.waiting -= 1;
        self.tally.fail(why);
    }

    /// Reads what has come; who has got a response sends another request as long as `again` says so.
    fn receive(&mut self, mut again: impl FnMut() -> bool) {
        let mut events = [EpollEvent::empty(); 256];
        let patience = EpollTimeout::try_from(PATIENCE).unwrap();
        let count = match self.epoll.wait(&mut events, patience) {
            Ok(0) => fail(format_args!("{} clients hear nothing", self.waiting)),
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(e) => fail(e),
        };
        for event in &events[..count] {
            let number = event.data() as usize;
            let Some(client) = &mut self.clients[number] else { continue };
            match client.receive(&mut self.buffer, &mut self.tally) {
                Ok(false) => continue,
                Ok(true) => {
                    self.waiting -= 1;
                    self.tally.done += 1;
                    self.tally.waits.push(client.asked.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
                    if self.plan.apart {
                        self.clients[number] = None;
                    }
                }
                Err(why) => self.lose(number, why),
            }
            if again() {
                self.ask(number);
            }
        }
    }

    /// Until nobody waits for a response.
    fn finish(&mut self) {
        while self.waiting > 0 {
            self.receive(|| false);
        }
    }
}

fn requests(plan: &Plan) {
    let mut load = Load::new(plan);
    load.ask_all();
    let mut coming = u64::from(plan.sources).saturating_sub(load.visits);
    while load.waiting > 0 {
        load.receive(|| {
            let more = coming > 0;
            coming = coming.saturating_sub(1);
            more
        });
    }
    settle();
    load.tally.waits.clear();
    let running = plan.measure();
    let (start, before) = (Instant::now(), load.tally.done);
    load.ask_all();
    while load.waiting > 0 {
        load.receive(|| start.elapsed() < plan.time);
    }
    let seconds = start.elapsed().as_secs_f64();
    settle();
    let measured = running.end();
    let operations = load.tally.done - before;
    load.tally.print(operations as f64, seconds, &measured);
}

fn bulk(plan: &Plan) {
    let mut load = Load::new(plan);
    load.ask_all();
    for client in load.clients.iter().flatten() {
        setsockopt(&client.stream, RcvBuf, &UNDER_WAY).unwrap();
    }
    let mut receive_for = |time: Duration| {
        let (start, before) = (Instant::now(), load.tally.bytes);
        while start.elapsed() < time && load.waiting > 0 {
            load.receive(|| false);
        }
        (load.tally.bytes - before, start.elapsed().as_secs_f64())
    };
    // Megabytes fill the buffers of each connection's sockets first.
    receive_for(plan.time / 2);
    let running = plan.measure();
    let (bytes, seconds) = receive_for(plan.time);
    let measured = running.end();
    load.tally.print(bytes as f64 / GIB, seconds, &measured);
}

fn idle(plan: &Plan) {
    let mut load = Load::new(plan);
    // What the first connections make the balancer load or allocate for good is not theirs.
    let some = plan.clients.min(16);
    (0..some).for_each(|number| load.ask(number));
    load.finish();
    load.clients[..some].fill_with(|| None);
    settle();
    let before = plan.pid.map(memory);
    load.ask_all();
    load.finish();
    settle();
    let after = plan.pid.map(memory);
    let growth = match (before, after) {
        (Some(before), Some(after)) => format!(" memory={}", after as i64 - before as i64),
        _ => String::new(),
    };
    let open = load.clients.iter().flatten().count();
    load.tally.print(open as f64, 0.0, &growth);
}

// The server.

/// A connection to the server.
struct Visit {
    stream: TcpStream,
    head: Vec<u8>,
    /// What was asked for, once its head is there.
    asked: Option<Asked>,
}

struct Asked {
    /// Bytes of its body that are still to come.
    body: usize,
    told: bool,
    last: bool,
    endless: bool,
}

impl Asked {
    fn parse(head: &[u8]) -> Asked {
        let (mut addresses, mut protocols, mut last) = (0, 0, false);
        for (name, value) in headers(head) {
            addresses += usize::from(name.eq_ignore_ascii_case("x-forwarded-for"));
            protocols += usize::from(name.eq_ignore_ascii_case("x-forwarded-proto"));
            last |= name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close");
        }
        Asked {
            body: content_length(head).unwrap_or(0),
            told: addresses == 1 && protocols == 1,
            last,
            endless: head.starts_with(format!("GET {ENDLESS} ").as_bytes()),
        }
    }
}

/// The responses: to requests that did not tell of the client, and to those that did.
struct Answers([Vec<u8>; 2]);

impl Answers {
    fn new() -> Self {
        Answers(["no", "yes"].map(|told| {
            let mut answer = Self::head(told, ANSWER).into_bytes();
            answer.resize(answer.len() + ANSWER, b'x');
            answer
        }))
    }

    fn head(told: &str, length: usize) -> String {
        format!(
            "HTTP/1.1 200 OK\r\nServer: load\r\nDate: Sun, 01 Jun 2025 12:00:00 GMT\r\n\
             Content-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\n\
             Last-Modified: Sun, 01 Jun 2025 00:00:00 GMT\r\nETag: \"683b9c00-200\"\r\n\
             Cache-Control: max-age=60\r\nX-Told: {told}\r\n\r\n"
        )
    }
}

impl Visit {
    /// Reads and answers what has come. True: from now on bytes without end are to be sent.
    fn read(&mut self, buffer: &mut [u8], answers: &Answers) -> io::Result<bool> {
        let count = self.stream.read(buffer)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = &buffer[..count];
        while !bytes.is_empty() {
            let asked = match &mut self.asked {
                Some(asked) => asked,
                None => {
                    let before = self.head.len();
                    self.head.extend_from_slice(bytes);
                    let Some(end) = end_of_head(&self.head) else { break };
                    bytes = &bytes[end - before..];
                    let asked = Asked::parse(&self.head[..end]);
                    self.head.clear();
                    self.asked.insert(asked)
                }
            };
            let body = asked.body.min(bytes.len());
            asked.body -= body;
            bytes = &bytes[body..];
            if asked.body > 0 {
                continue;
            }
            if asked.endless {
                setsockopt(&self.stream, SndBuf, &UNDER_WAY)?;
                let head = Answers::head(if asked.told { "yes" } else { "no" }, NEVER);
                self.stream.write_all(head.as_bytes())?;
                return Ok(true);
            }
            self.stream.write_all(&answers.0[usize::from(asked.told)])?;
            if asked.last {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.asked = None;
        }
        Ok(false)
    }
}

/// Answers in the cheapest way, so that most of the one CPU is left to what is measured.
fn serve(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap_or_else(|e| fail(format_args!("{address}: {e}")));
    listener.set_nonblocking(true).unwrap();
    // A thousand balancer's connections may come at once.
    listen(&listener, Backlog::new(4096).unwrap()).unwrap();
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    let watch = |socket: &dyn AsFd, number| {
        epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, number)).unwrap();
    };
    watch(&listener, 0);
    let mut visits: HashMap<u64, Visit> = HashMap::new();
    let mut events = [EpollEvent::empty(); 256];
    let mut buffer = vec![0; 1 << 16];
    let plenty = vec![b'x'; 1 << 18];
    let answers = Answers::new();
    let mut last = 0;
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(Errno::EINTR) => continue,
            Err(e) => fail(e),
        };
        for event in &events[..count] {
            if event.data() == 0 {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    stream.set_nodelay(true).unwrap();
                    last += 1;
                    watch(&stream, last);
                    visits.insert(last, Visit { stream, head: Vec::new(), asked: None });
                }
                continue;
            }
            let Some(visit) = visits.get_mut(&event.data()) else { continue };
            let outcome = if event.events().contains(EpollFlags::EPOLLIN) {
                visit.read(&mut buffer, &answers).and_then(|endless| {
                    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
                    let mut event = EpollEvent::new(flags, event.data());
                    if endless { Ok(epoll.modify(&visit.stream, &mut event)?) } else { Ok(()) }
                })
            } else {
                visit.stream.write(&plenty).map(drop)
            };
            if outcome.is_err_and(|e| e.kind() != ErrorKind::WouldBlock) {
                visits.remove(&event.data());
            }
        }
    }
}
