//! Clients that send datagrams, for `benches/udp.sh`, and the server behind what they measure.
//!
//! ```text
//! udp_load serve|await ADDRESS [KEY=VALUE ...]
//! udp_load windows|paced ADDRESS [KEY=VALUE ...]
//! ```
//!
//! - `serve`: sends everything back; `await`: returns when that works.
//! - `windows`: each client sends a window of datagrams, and the next when all of them have come back.
//! - `paced`: all clients together send so many datagrams in a second, one by one, whatever comes back.
//!
//! Keys: `clients`, `window` (datagrams), `size` (bytes in each), `trains` (`gather`: who receives has the kernel put
//! trains together; `make`: a window is sent as one, too; the server sends trains back as they came), `rate` (datagrams
//! in a second), `seconds`, `pid` (the process to be measured, and its descendants; 0: nobody), `events` (what perf(1)
//! shall count in them).
//!
//! The answer is one line of `key=value`. `operations` are datagrams there and back, `failures` those that did not come
//! back in time ([`PATIENCE`]): nobody waits for them any longer. What comes before the measurement (a first window of
//! each client) and what the clients themselves cost is not in it.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};

use common::{Measurement, complain, fail, settle};
use pen::sys::datagram::{self, BATCH, Departure, Inbox};

/// A datagram that has not come back by then has got lost.
const PATIENCE: Duration = Duration::from_millis(200);
/// Bytes at the beginning of a datagram that tell its window.
const NUMBER: usize = 8;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (mode, address) = match arguments.as_slice() {
        // cargo runs benches and examples with arguments of its own, or with none.
        [mode, address, ..] if !mode.starts_with('-') => {
            (mode.as_str(), address.parse().unwrap_or_else(|e| fail(e)))
        }
        _ => fail("udp_load serve|await|windows|paced ADDRESS [KEY=VALUE ...]"),
    };
    let plan = Plan::parse(address, &arguments[2..]);
    match mode {
        "serve" => serve(&plan),
        "await" => wait_for(&plan),
        "windows" => windows(&plan),
        "paced" => paced(&plan),
        _ => fail(format_args!("no such mode: {mode}")),
    }
}

// What is to be done.

struct Plan {
    address: SocketAddr,
    clients: usize,
    window: usize,
    size: usize,
    gather: bool,
    make: bool,
    rate: f64,
    time: Duration,
    pid: Option<i32>,
    events: Option<String>,
}

impl Plan {
    fn parse(address: SocketAddr, options: &[String]) -> Plan {
        let mut plan = Plan {
            address,
            clients: 64,
            window: 1,
            size: 64,
            gather: false,
            make: false,
            rate: 1000.0,
            time: Duration::from_secs(2),
            pid: None,
            events: None,
        };
        for option in options {
            let (key, value) =
                option.split_once('=').unwrap_or_else(|| fail(format_args!("KEY=VALUE: {option}")));
            let number = || value.parse::<usize>().unwrap_or_else(|e| fail(e));
            match (key, value) {
                ("clients", _) => plan.clients = number().max(1),
                ("window", _) => plan.window = number().clamp(1, BATCH),
                ("size", _) => plan.size = number().clamp(NUMBER, 1 << 15),
                ("trains", "gather") => plan.gather = true,
                ("trains", "make") => (plan.gather, plan.make) = (true, true),
                ("rate", _) => plan.rate = value.parse().unwrap_or_else(|e| fail(e)),
                ("seconds", _) => {
                    plan.time = Duration::from_secs_f64(value.parse().unwrap_or_else(|e| fail(e)));
                }
                ("pid", _) => {
                    plan.pid = Some(value.parse().unwrap_or_else(|e| fail(e))).filter(|&pid| pid > 0)
                }
                ("events", _) => plan.events = Some(value.to_owned()),
                _ => fail(format_args!("no such key: {option}")),
            }
        }
        if plan.make && plan.window * plan.size > 65_507 {
            fail("a window does not fit into a train");
        }
        plan
    }

    fn measure(&self) -> Measurement {
        Measurement::begin(self.pid, self.events.as_deref())
    }
}

// Clients.

/// A socket, and how much of its last window is still to come.
struct Client {
    socket: OwnedFd,
    number: u64,
    missing: usize,
    since: Instant,
}

/// All clients, in one thread.
struct Load<'a> {
    plan: &'a Plan,
    epoll: Epoll,
    clients: Vec<Client>,
    /// How many of them have a window that is not complete.
    waiting: usize,
    inbox: Inbox,
    done: u64,
    lost: u64,
    /// A window, filled anew for each.
    bytes: Vec<u8>,
}

impl Load<'_> {
    fn new(plan: &Plan) -> Load<'_> {
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let now = Instant::now();
        let connect = |number| {
            let attempt = datagram::connect(plan.address, None).unwrap_or_else(|e| fail(e));
            let socket = attempt.socket;
            if plan.gather {
                datagram::gather_trains(socket.as_fd()).unwrap();
            }
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number)).unwrap();
            Client { socket, number: 0, missing: 0, since: now }
        };
        let clients = (0..plan.clients as u64).map(connect).collect();
        let bytes = vec![b'x'; plan.window * plan.size];
        Load { plan, epoll, clients, waiting: 0, inbox: Inbox::new(), done: 0, lost: 0, bytes }
    }

    /// A client sends its next window.
    fn send(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.number += 1;
        self.waiting += usize::from(client.missing == 0);
        client.missing = self.plan.window;
        client.since = Instant::now();
        for datagram in self.bytes.chunks_mut(self.plan.size) {
            datagram[..NUMBER].copy_from_slice(&client.number.to_ne_bytes());
        }
        // One by one means one call each.
        let (each, segment) = match self.plan.make {
            true => (self.bytes.len(), Some(self.plan.size as u16)),
            false => (self.plan.size, None),
        };
        for bytes in self.bytes.chunks(each) {
            let pieces = [IoSlice::new(bytes)];
            let departure = Departure { to: None, from: None, pieces: &pieces, segment };
            // What could not be sent does not come back.
            datagram::send_all(client.socket.as_fd(), &[departure], |_, _| {});
        }
    }

    /// Waits for something to come and reads it; clients whose window is complete send another one where `again` says
    /// so.
    fn receive(&mut self, wait: Duration, mut again: impl FnMut() -> bool) {
        let mut events = [EpollEvent::empty(); 256];
        let wait = EpollTimeout::try_from(wait).unwrap();
        let count = match self.epoll.wait(&mut events, wait) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(e) => fail(e),
        };
        for event in &events[..count] {
            let number = event.data() as usize;
            let client = &mut self.clients[number];
            let most = if self.plan.window > 1 { BATCH } else { 1 };
            // An error is as good as nothing.
            let count = self.inbox.receive(client.socket.as_fd(), most).unwrap_or(0);
            let before = client.missing;
            for index in 0..count {
                for datagram in self.inbox.get(index).datagrams() {
                    if datagram.len() != self.plan.size {
                        fail(format_args!("{} bytes of {} came back", datagram.len(), self.plan.size));
                    }
                    // What was given up does not count any more.
                    if datagram[..NUMBER] == client.number.to_ne_bytes() && client.missing > 0 {
                        client.missing -= 1;
                        self.done += 1;
                    }
                }
            }
            if before > 0 && client.missing == 0 {
                self.waiting -= 1;
                if again() {
                    self.send(number);
                }
            }
        }
    }

    /// Windows without end for that time.
    fn run(&mut self, time: Duration) {
        let start = Instant::now();
        let mut looked = start;
        (0..self.clients.len()).for_each(|client| self.send(client));
        while self.waiting > 0 {
            self.receive(PATIENCE / 4, || start.elapsed() < time);
            if looked.elapsed() < PATIENCE / 4 {
                continue;
            }
            looked = Instant::now();
            for number in 0..self.clients.len() {
                let client = &mut self.clients[number];
                if client.missing > 0 && client.since.elapsed() > PATIENCE {
                    self.lost += client.missing as u64;
                    client.missing = 0;
                    self.waiting -= 1;
                    if start.elapsed() < time {
                        self.send(number);
                    }
                }
            }
        }
    }
}

fn print(operations: u64, lost: u64, seconds: f64, measured: &str) {
    println!(
        "operations={operations} failures={lost} seconds={seconds:.3} rate={:.0}{measured}",
        operations as f64 / seconds
    );
}

fn windows(plan: &Plan) {
    let mut load = Load::new(plan);
    load.run(Duration::ZERO);
    load.run(plan.time / 4);
    settle();
    (load.done, load.lost) = (0, 0);
    let running = plan.measure();
    let start = Instant::now();
    load.run(plan.time);
    let seconds = start.elapsed().as_secs_f64();
    let measured = running.end();
    print(load.done, load.lost, seconds, &measured);
}

fn paced(plan: &Plan) {
    let mut load = Load::new(plan);
    load.run(Duration::ZERO);
    settle();
    (load.done, load.lost) = (0, 0);
    let running = plan.measure();
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < plan.time {
        let due = (plan.rate * start.elapsed().as_secs_f64()) as u64;
        while sent < due {
            let number = (sent % plan.clients as u64) as usize;
            // Whatever comes back from now on is one of those.
            let before = load.clients[number].missing;
            load.clients[number].number = 0;
            load.send(number);
            load.clients[number].missing += before;
            sent += 1;
        }
        load.receive(Duration::from_millis(1), || false);
    }
    let seconds = start.elapsed().as_secs_f64();
    while load.done < sent && start.elapsed() < plan.time + PATIENCE {
        load.receive(PATIENCE / 4, || false);
    }
    let measured = running.end();
    print(load.done, sent - load.done, seconds, &measured);
}

/// Returns when something comes back.
fn wait_for(plan: &Plan) {
    for _ in 0..50 {
        let mut load = Load::new(plan);
        load.send(0);
        load.receive(PATIENCE, || false);
        if load.done > 0 {
            return;
        }
        thread::sleep(PATIENCE / 4);
    }
    complain(format_args!("{}: nothing comes back", plan.address));
    fail("given up");
}

// The server.

/// Answers in the cheapest way, so that most of the one CPU is left to what is measured.
fn serve(plan: &Plan) {
    let socket = datagram::open_group(plan.address, 1).unwrap_or_else(|e| fail(e)).remove(0);
    setsockopt(&socket, sockopt::UdpGroSegment, &plan.gather).unwrap();
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
    let mut inbox = Inbox::new();
    loop {
        match epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => fail(e),
        }
        let count = match inbox.receive(socket.as_fd(), BATCH) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => fail(e),
        };
        let pieces: Vec<[IoSlice<'_>; 1]> =
            (0..count).map(|index| [IoSlice::new(inbox.get(index).bytes)]).collect();
        let departures: Vec<Departure<'_>> = (0..count)
            .map(|index| {
                let arrival = inbox.get(index);
                let train = arrival.segment < arrival.bytes.len();
                Departure {
                    to: Some(arrival.from),
                    from: arrival.to,
                    pieces: &pieces[index],
                    segment: train.then_some(arrival.segment as u16),
                }
            })
            .collect();
        datagram::send_all(socket.as_fd(), &departures, |_, _| {});
    }
}
