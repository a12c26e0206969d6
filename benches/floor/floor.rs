//! A balancer that balances nothing: for `benches/tcp.sh`, `http.sh`, `udp.sh` and `tls.sh`, what passing on costs at
//! least.
//!
//! ```text
//! floor tcp|http|udp ADDRESS SERVER
//! floor tls ADDRESS SERVER CERTIFICATE SUITES
//! ```
//!
//! One process, one server, no client remembered, no limit, nothing counted, logged or timed, and no memory bounded: only
//! the system calls that it takes, through the same thin wrappers as pen's. What a balancer costs beyond this is its own.
//!
//! - `tcp`: a half-closed connection stays open the other way, as with pen. The last bytes and the end go together. Two
//!   full reads in a row, and bytes are spliced through a pipe of 256 KiB until they trickle; while the pipe waits for room,
//!   nobody is woken for what comes.
//! - `http`: the same with two headers put into everything that a client sends, which must be whole heads of requests.
//! - `udp`: a connected socket for each client; a batch from the clients at a time, and one to them. What a client has
//!   sent in a row goes on as one, if all of it is of one length, and what comes back to whoever sent several is read, and
//!   goes back, in the same way.
//! - `tls`: clients speak TLS with this certificate and, with TLS 1.3, these suites; the server does not (`tls.rs`).
#![allow(clippy::unwrap_used, missing_docs)]

mod tls;

use std::collections::HashMap;
use std::env;
use std::io::{ErrorKind, IoSlice};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use pen::model::address::SocketAddress;
use pen::sys::datagram::{self, Arrival, BATCH, Departure, Inbox};
use pen::sys::poller::{Events, Poller, Readiness};
use pen::sys::socket::{self, ConnectOptions, Pipe};

/// Events, and clients, taken at a time; as pen does.
const EVENTS: usize = 256;
const ACCEPTS: usize = 16;
/// Bytes of a read, and of a pipe; as pen's.
const SCRATCH: usize = 64 * 1024;
const PIPE: usize = 256 * 1024;
/// Bytes in a pipe below which splicing is not worth while.
const TRICKLE: usize = 8 * 1024;
/// The listener's token. Others are twice the number of a connection, and one more for its server's side.
const LISTENER: u64 = u64::MAX;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [mode, address, server, more @ ..] = arguments.as_slice() else {
        // cargo runs examples without any.
        eprintln!("floor tcp|http|udp ADDRESS SERVER, or floor tls ADDRESS SERVER CERTIFICATE SUITES");
        std::process::exit(1);
    };
    let (address, server): (SocketAddrV4, SocketAddrV4) = (address.parse().unwrap(), server.parse().unwrap());
    match (mode.as_str(), more) {
        ("udp", []) => datagrams(address, server),
        ("tcp" | "http", []) => Floor::new(address, server, mode == "http").run(),
        ("tls", [certificate, suites]) => tls::run(address, server, certificate, suites),
        _ => panic!("no such mode: {mode} {more:?}"),
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Way {
    /// What was not taken.
    left: Vec<u8>,
    /// How many reads in a row were full.
    full: u8,
    pipe: Option<(Pipe, usize)>,
    sent: bool,
    nodelay: bool,
    /// Nothing comes any more; that has been passed on.
    ended: bool,
    closed: bool,
    hushed: bool,
}

struct Connection {
    sockets: [OwnedFd; 2],
    /// From each of them.
    ways: [Way; 2],
}

struct Floor {
    poller: Poller,
    listener: OwnedFd,
    server: SocketAddress,
    rewrites: bool,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Free, but the poller may have something to say of them in this turn.
    freed: Vec<usize>,
    scratch: Vec<u8>,
    pipes: Vec<Pipe>,
}

impl Floor {
    fn new(address: SocketAddrV4, server: SocketAddrV4, rewrites: bool) -> Floor {
        let poller = Poller::new().unwrap();
        let listener = socket::listen(&SocketAddress::Inet(address.into()), 2000).unwrap();
        socket::set_nodelay(listener.as_fd());
        poller.add_listener(listener.as_fd(), LISTENER).unwrap();
        Floor {
            poller,
            listener,
            server: SocketAddress::Inet(server.into()),
            rewrites,
            connections: Vec::new(),
            free: Vec::new(),
            freed: Vec::new(),
            scratch: vec![0; SCRATCH],
            pipes: Vec::new(),
        }
    }

    fn run(mut self) -> ! {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.poller.wait(&mut events, Duration::from_secs(60)).unwrap();
            let mut arrivals = false;
            for event in events.iter() {
                match event {
                    (LISTENER, _) => arrivals = true,
                    (token, readiness) => self.ready((token / 2) as usize, (token % 2) as usize, readiness),
                }
            }
            if arrivals {
                self.accept();
            }
            self.free.append(&mut self.freed);
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let Ok((client, _)) = socket::accept(self.listener.as_fd()) else { return };
            let server = socket::connect(&self.server, ConnectOptions::default()).unwrap().socket;
            let number = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poller.add_stream(client.as_fd(), number as u64 * 2).unwrap();
            self.poller.add_stream(server.as_fd(), number as u64 * 2 + 1).unwrap();
            self.connections[number] =
                Some(Connection { sockets: [client, server], ways: Default::default() });
        }
    }

    /// Something is to be done on this side of a connection.
    fn ready(&mut self, number: usize, side: usize, readiness: Readiness) {
        let Some(connection) = self.connections[number].as_mut() else { return };
        let mut alive = true;
        let back = &connection.ways[1 - side];
        if readiness.writable() && (!back.left.is_empty() || back.pipe.is_some()) {
            alive = self.pass(number, 1 - side, true, false);
        }
        if alive && readiness.readable() {
            alive = self.pass(number, side, readiness.ending(), readiness.ended());
        }
        if alive {
            self.hush(number, side);
            self.hush(number, 1 - side);
        }
        let over = |connection: &Connection| connection.ways.iter().all(|way| way.closed);
        if !alive || self.connections[number].as_ref().is_some_and(over) {
            self.connections[number] = None;
            self.freed.push(number);
        }
    }

    fn hush(&mut self, number: usize, side: usize) {
        let Connection { sockets, ways } = self.connections[number].as_mut().unwrap();
        let hushed = ways[side].pipe.as_ref().is_some_and(|(_, content)| *content > 0);
        if std::mem::replace(&mut ways[side].hushed, hushed) != hushed {
            let token = number as u64 * 2 + side as u64;
            self.poller.change_stream(sockets[side].as_fd(), token, !hushed).unwrap();
        }
    }

    /// Passes on what has come from that side. `ending`: the end of the stream may be there already; `ended`: it is, right
    /// behind what can be read. False: something is broken.
    fn pass(&mut self, number: usize, side: usize, ending: bool, ended: bool) -> bool {
        let Connection { sockets, ways } = self.connections[number].as_mut().unwrap();
        let (from, to, way) = (sockets[side].as_fd(), sockets[1 - side].as_fd(), &mut ways[side]);
        if !way.left.is_empty() {
            match socket::send(to, &way.left) {
                Ok(sent) => drop(way.left.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
            if !way.left.is_empty() {
                return true;
            }
        }
        while !way.ended {
            if let Some((pipe, content)) = &mut way.pipe {
                while *content > 0 {
                    match pipe.drain(to, *content) {
                        Ok(sent) => *content -= sent,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                        Err(_) => return false,
                    }
                }
                *content = match pipe.fill(from, PIPE) {
                    Ok(came) => came,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                    Err(_) => return false,
                };
                way.ended = *content == 0;
                if *content >= TRICKLE {
                    continue;
                }
                way.full = 0;
                let (pipe, content) = way.pipe.take().unwrap();
                // Whoever has room for what trickled in has room for this.
                let drained = content == 0 || pipe.drain(to, content).is_ok_and(|sent| sent == content);
                self.pipes.push(pipe);
                if !drained {
                    return false;
                }
                continue;
            }
            let came = match socket::receive(from, &mut self.scratch) {
                Ok(0) => {
                    way.ended = true;
                    break;
                }
                Ok(came) => came,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            };
            let bytes = &self.scratch[..came];
            // Nothing waits for the acknowledgement of a first segment.
            if std::mem::replace(&mut way.sent, true)
                && side == 0
                && !std::mem::replace(&mut way.nodelay, true)
            {
                socket::set_nodelay(to);
            }
            let last = ended && came < SCRATCH;
            let sent = match self.rewrites && side == 0 {
                true => rewritten(to, bytes),
                false if last => socket::send_with_more(to, bytes),
                false => socket::send(to, bytes),
            };
            match sent {
                Ok(sent) if sent >= came => {}
                Ok(sent) => way.left.extend_from_slice(&bytes[sent..]),
                // It is not connected yet, perhaps.
                Err(_) => way.left.extend_from_slice(bytes),
            }
            if !way.left.is_empty() {
                return true;
            }
            if last {
                way.ended = true;
                break;
            }
            way.full = if came == SCRATCH { way.full + 1 } else { 0 };
            if way.full == 2 {
                let pipe = self.pipes.pop().unwrap_or_else(|| Pipe::new(PIPE).unwrap());
                way.pipe = Some((pipe, 0));
            } else if came < SCRATCH && !ending {
                return true;
            }
        }
        if way.ended && !way.closed {
            way.closed = true;
            // The second one to end is told by closing.
            if !ways[1 - side].closed {
                socket::shutdown_write(to);
            }
        }
        true
    }
}

/// Sends a request with two more headers.
fn rewritten(to: std::os::fd::BorrowedFd<'_>, request: &[u8]) -> std::io::Result<usize> {
    let end = memchr::memmem::find(request, b"\r\n\r\n").unwrap() + 2;
    let (head, rest) = request.split_at(end);
    let more = b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n";
    socket::send_pieces(to, &[IoSlice::new(head), IoSlice::new(more), IoSlice::new(rest)])
}

/// A client of datagrams.
struct Flow {
    client: SocketAddr,
    socket: OwnedFd,
    /// It has sent several at once: the kernel puts replies together.
    bursts: bool,
}

/// Bytes that leave as one: to whom, where they end among the others, and the length of their datagrams.
struct Train {
    to: usize,
    start: usize,
    end: usize,
    segment: usize,
    closed: bool,
}

/// Puts a message to the others: to the last train, if it may.
fn couple(trains: &mut Vec<Train>, bytes: &mut Vec<u8>, to: usize, arrival: &Arrival<'_>) {
    let start = bytes.len();
    bytes.extend_from_slice(arrival.bytes);
    let (length, segment) = (arrival.bytes.len(), arrival.segment.min(arrival.bytes.len()));
    let closed = segment == 0 || !length.is_multiple_of(segment);
    match trains.last_mut() {
        Some(last)
            if last.to == to
                && !last.closed
                && (segment == last.segment || (0 < segment && length < last.segment))
                && bytes.len() - last.start <= BATCH.min(65_507 / last.segment) * last.segment =>
        {
            last.end = bytes.len();
            last.closed = closed || segment < last.segment;
        }
        _ => trains.push(Train { to, start, end: bytes.len(), segment, closed }),
    }
}

fn datagrams(address: SocketAddrV4, server: SocketAddrV4) -> ! {
    let listener = datagram::open_group(address.into(), 1).unwrap().remove(0);
    let poller = Poller::new().unwrap();
    poller.add_source(listener.as_fd(), LISTENER).unwrap();
    let mut clients: HashMap<SocketAddr, usize> = HashMap::new();
    let mut flows: Vec<Flow> = Vec::new();
    let mut events = Events::with_capacity(EVENTS);
    let mut inbox = Inbox::new();
    let (mut bytes, mut trains) = (Vec::new(), Vec::new());
    let (mut replies, mut back) = (Vec::new(), Vec::new());
    loop {
        poller.wait(&mut events, Duration::from_secs(60)).unwrap();
        for (token, _) in events.iter() {
            if token != LISTENER {
                let flow = &flows[token as usize];
                let came = match flow.bursts {
                    true => inbox.receive_nameless(flow.socket.as_fd(), BATCH),
                    false => inbox.receive_alone(flow.socket.as_fd()).map(|()| 1),
                };
                for message in 0..came.unwrap_or(0) {
                    couple(&mut back, &mut replies, token as usize, &inbox.get(message));
                }
                if back.len() >= BATCH {
                    reply(&listener, &flows, &mut replies, &mut back);
                }
                continue;
            }
            let came = inbox.receive(listener.as_fd(), BATCH).unwrap_or(0);
            let mut last = None;
            for message in 0..came {
                let arrival = inbox.get(message);
                let flow = match last {
                    Some((from, flow)) if from == arrival.from => flow,
                    _ => *clients.entry(arrival.from).or_insert_with(|| {
                        let socket = datagram::connect(server.into(), None).unwrap().socket;
                        poller.add_source(socket.as_fd(), flows.len() as u64).unwrap();
                        flows.push(Flow { client: arrival.from, socket, bursts: false });
                        flows.len() - 1
                    }),
                };
                last = Some((arrival.from, flow));
                couple(&mut trains, &mut bytes, flow, &arrival);
            }
            for train in trains.drain(..) {
                let flow = &mut flows[train.to];
                let several = train.segment < train.end - train.start;
                if several && !flow.bursts {
                    datagram::gather_trains(flow.socket.as_fd()).unwrap();
                    flow.bursts = true;
                }
                let pieces = [IoSlice::new(&bytes[train.start..train.end])];
                let segment = several.then_some(train.segment as u16);
                let departure = Departure { to: None, from: None, pieces: &pieces, segment };
                datagram::send_all(flow.socket.as_fd(), &[departure], |_, _| {});
            }
            bytes.clear();
        }
        if !back.is_empty() {
            reply(&listener, &flows, &mut replies, &mut back);
        }
    }
}

/// Sends what waits.
fn reply(listener: &OwnedFd, flows: &[Flow], replies: &mut Vec<u8>, back: &mut Vec<Train>) {
    let pieces: Vec<[IoSlice<'_>; 1]> =
        back.iter().map(|train| [IoSlice::new(&replies[train.start..train.end])]).collect();
    let departures: Vec<Departure<'_>> = back
        .iter()
        .zip(&pieces)
        .map(|(train, pieces)| {
            let segment = (train.segment < train.end - train.start).then_some(train.segment as u16);
            Departure { to: Some(flows[train.to].client), from: None, pieces, segment }
        })
        .collect();
    datagram::send_all(listener.as_fd(), &departures, |_, _| {});
    replies.clear();
    back.clear();
}
