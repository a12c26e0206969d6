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
//! - `tcp`: a half-closed connection stays open the other way, as with pen. Two full reads in a row, and bytes are
//!   spliced through a pipe of 1 MiB until they trickle.
//! - `http`: the same with two headers put into everything that a client sends, which must be whole heads of requests.
//! - `udp`: a connected socket for each client; a batch from the clients at a time, and one to them.
//! - `tls`: clients speak TLS with this certificate and, with TLS 1.3, these suites; the server does not (`tls.rs`).
#![allow(clippy::unwrap_used, missing_docs)]

mod tls;

use std::collections::HashMap;
use std::env;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use pen::model::address::SocketAddress;
use pen::sys::poller::{Events, Poller, Readiness};
use pen::sys::socket::{self, ConnectOptions, Pipe};

/// Events, and clients or datagrams, taken at a time; as pen does.
const EVENTS: usize = 256;
const ACCEPTS: usize = 16;
const BATCH: usize = 64;
/// Bytes of a read, and of a pipe; as pen's.
const SCRATCH: usize = 64 * 1024;
const PIPE: usize = 1024 * 1024;
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
            for index in 0..events.len() {
                match events.get(index) {
                    (LISTENER, _) => self.accept(),
                    (token, readiness) => self.ready((token / 2) as usize, (token % 2) as usize, readiness),
                }
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
            alive = self.pass(number, 1 - side, true);
        }
        if alive && readiness.readable() {
            alive = self.pass(number, side, readiness.ending());
        }
        let over = |connection: &Connection| connection.ways.iter().all(|way| way.closed);
        if !alive || self.connections[number].as_ref().is_some_and(over) {
            self.connections[number] = None;
            self.freed.push(number);
        }
    }

    /// Passes on what has come from that side. `ending`: the end of the stream may be there already. False: something is
    /// broken.
    fn pass(&mut self, number: usize, side: usize, ending: bool) -> bool {
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
                let came = match pipe.fill(from, PIPE - *content) {
                    Ok(0) if *content < PIPE => {
                        way.ended = true;
                        0
                    }
                    Ok(came) => came,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    Err(_) => return false,
                };
                *content += came;
                while *content > 0 {
                    match pipe.drain(to, *content) {
                        Ok(sent) => *content -= sent,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                        Err(_) => return false,
                    }
                }
                if came < TRICKLE || way.ended {
                    self.pipes.extend(way.pipe.take().map(|(pipe, _)| pipe));
                    way.full = 0;
                    if came == 0 {
                        break;
                    }
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
            let sent = match self.rewrites && side == 0 {
                true => rewritten(to, bytes),
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

fn datagrams(address: SocketAddrV4, server: SocketAddrV4) -> ! {
    let listener = UdpSocket::bind(address).unwrap();
    let poller = Poller::new().unwrap();
    poller.add_source(listener.as_fd(), LISTENER).unwrap();
    let mut clients: HashMap<SocketAddr, usize> = HashMap::new();
    let mut flows: Vec<(SockaddrIn, UdpSocket)> = Vec::new();
    let mut events = Events::with_capacity(EVENTS);
    let (mut rooms, mut replies) = (vec![[0; 2048]; BATCH], vec![[0; 2048]; BATCH]);
    let mut headers: MultiHeaders<SockaddrIn> = MultiHeaders::preallocate(BATCH, None);
    let mut out_headers: MultiHeaders<SockaddrIn> = MultiHeaders::preallocate(BATCH, None);
    let mut waiting: Vec<(SockaddrIn, usize)> = Vec::new();
    loop {
        poller.wait(&mut events, Duration::from_secs(60)).unwrap();
        for index in 0..events.len() {
            let (token, _) = events.get(index);
            if token == LISTENER {
                let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                    rooms.iter_mut().map(|room| [IoSliceMut::new(room)]).collect();
                let descriptor = listener.as_raw_fd();
                let Ok(came) =
                    recvmmsg(descriptor, &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)
                else {
                    continue;
                };
                let came: Vec<(SockaddrIn, usize)> =
                    came.map(|message| (message.address.unwrap(), message.bytes)).collect();
                for ((from, bytes), room) in came.into_iter().zip(&rooms) {
                    let client = SocketAddr::V4(from.into());
                    let flow = *clients.entry(client).or_insert_with(|| {
                        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                        socket.connect(server).unwrap();
                        poller.add_source(socket.as_fd(), flows.len() as u64).unwrap();
                        flows.push((from, socket));
                        flows.len() - 1
                    });
                    let _ = nix::sys::socket::send(
                        flows[flow].1.as_raw_fd(),
                        &room[..bytes],
                        MsgFlags::MSG_DONTWAIT,
                    );
                }
                continue;
            }
            let (client, socket) = &flows[token as usize];
            let room = &mut replies[waiting.len()];
            if let Ok(bytes) = nix::sys::socket::recv(socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
                waiting.push((*client, bytes));
            }
            if waiting.len() == BATCH {
                reply(&listener, &mut out_headers, &replies, &mut waiting);
            }
        }
        if !waiting.is_empty() {
            reply(&listener, &mut out_headers, &replies, &mut waiting);
        }
    }
}

/// Sends what waits.
fn reply(
    listener: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrIn>,
    replies: &[[u8; 2048]],
    waiting: &mut Vec<(SockaddrIn, usize)>,
) {
    let slices: Vec<[IoSlice<'_>; 1]> =
        replies.iter().zip(&*waiting).map(|(room, (_, bytes))| [IoSlice::new(&room[..*bytes])]).collect();
    let addresses: Vec<Option<SockaddrIn>> = waiting.iter().map(|(client, _)| Some(*client)).collect();
    let flags = MsgFlags::MSG_DONTWAIT;
    let _ = sendmmsg(listener.as_raw_fd(), headers, &slices, &addresses, [], flags).map(Iterator::count);
    waiting.clear();
}
