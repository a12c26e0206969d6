//! Datagrams: servers and clients of them, and what the kernel tells of their sockets.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::page::column;
use super::pen::Builder;
use super::{Pen, SOON, free_port, wait_until};

/// The longest datagram that IPv4 has.
pub const LARGEST: usize = 65_507;

/// A datagram that a server has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub from: SocketAddr,
    pub bytes: Vec<u8>,
}

/// A datagram that is to be answered.
pub struct Question<'a> {
    /// The server's.
    pub name: &'a str,
    pub from: SocketAddr,
    pub bytes: &'a [u8],
    /// The server's.
    pub socket: &'a UdpSocket,
}

impl Question<'_> {
    pub fn reply(&self, bytes: &[u8]) {
        let _ = self.socket.send_to(bytes, self.from);
    }
}

type Answer = Arc<dyn Fn(&Question<'_>) + Send + Sync>;

/// A server of datagrams. It displays as `ADDRESS:PORT`, as pen's command line wants it.
pub struct UdpServer {
    name: String,
    address: SocketAddr,
    answer: Answer,
    heard: Arc<Mutex<Vec<Heard>>>,
    life: Option<Life>,
}

struct Life {
    socket: UdpSocket,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl UdpServer {
    /// Answers every datagram with its name, a space, and the datagram.
    pub fn echo(name: &str) -> Self {
        Self::echo_at(name, Ipv4Addr::LOCALHOST.into())
    }

    /// The same at any address.
    pub fn echo_at(name: &str, address: IpAddr) -> Self {
        Self::answering_at(name, address, |question| {
            question.reply(&[question.name.as_bytes(), b" ", question.bytes].concat());
        })
    }

    /// Answers every datagram with itself.
    pub fn mirror(name: &str) -> Self {
        Self::answering(name, |question| question.reply(question.bytes))
    }

    /// Takes everything and says nothing.
    pub fn silent(name: &str) -> Self {
        Self::answering(name, |_| {})
    }

    /// Does this for every datagram, one after the other.
    pub fn answering(name: &str, answer: impl Fn(&Question<'_>) + Send + Sync + 'static) -> Self {
        Self::answering_at(name, Ipv4Addr::LOCALHOST.into(), answer)
    }

    /// The same at any address.
    pub fn answering_at(
        name: &str,
        address: IpAddr,
        answer: impl Fn(&Question<'_>) + Send + Sync + 'static,
    ) -> Self {
        let (socket, address) = loop {
            let address = SocketAddr::new(address, free_port());
            match UdpSocket::bind(address) {
                Ok(socket) => break (socket, address),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{address}: {error}"),
            }
        };
        let (name, heard) = (name.to_owned(), Arc::default());
        let mut server = UdpServer { name, address, answer: Arc::new(answer), heard, life: None };
        server.live(socket);
        server
    }

    /// An echo whose port nobody has: it refuses what is sent there until it is [`UdpServer::up`].
    pub fn absent(name: &str) -> Self {
        let mut server = Self::echo(name);
        server.down();
        server
    }

    /// Begins to serve (again), at the same port.
    pub fn up(&mut self) {
        self.live(UdpSocket::bind(self.address).unwrap());
    }

    fn live(&mut self, socket: UdpSocket) {
        assert!(self.life.is_none(), "it is up already");
        with_much_room(&socket);
        let ended = Arc::new(AtomicBool::new(false));
        let (name, answer, heard) = (self.name.clone(), Arc::clone(&self.answer), Arc::clone(&self.heard));
        let (own, told) = (socket.try_clone().unwrap(), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let arrival = own.recv_from(&mut buffer);
                if told.load(Ordering::SeqCst) {
                    return;
                }
                // A reply to somebody who has gone comes back as an error of the next call.
                let Ok((count, from)) = arrival else { continue };
                let bytes = &buffer[..count];
                heard.lock().unwrap().push(Heard { from, bytes: bytes.to_vec() });
                answer(&Question { name: &name, from, bytes, socket: &own });
            }
        });
        self.life = Some(Life { socket, ended, thread });
    }

    /// Stops serving: its port refuses from now on.
    pub fn down(&mut self) {
        let Some(Life { socket, ended, thread }) = self.life.take() else { return };
        ended.store(true, Ordering::SeqCst);
        // A word to itself, from wherever it is, wakes the thread.
        socket.send_to(b"the end", self.address).unwrap();
        thread.join().unwrap();
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that it has got so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// How many datagrams it has got so far.
    pub fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// Waits until it has got so many; all of them.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Heard> {
        wait_until(&format!("{} gets {count} datagrams", self.name), || self.count() >= count);
        self.heard()
    }

    /// Says something to whoever sent what it got last.
    #[track_caller]
    pub fn push(&self, bytes: &[u8]) {
        let to = self.heard.lock().unwrap().last().expect("somebody was here").from;
        self.push_to(to, bytes);
    }

    /// Says something to whoever is there.
    #[track_caller]
    pub fn push_to(&self, to: SocketAddr, bytes: &[u8]) {
        self.life.as_ref().expect("it is up").socket.send_to(bytes, to).unwrap();
    }
}

impl fmt::Display for UdpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.down();
    }
}

/// Echoes S0, S1, …
pub fn echoes(count: usize) -> Vec<UdpServer> {
    (0..count).map(|number| UdpServer::echo(&format!("S{number}"))).collect()
}

/// So that nothing is lost on this machine that the story does not lose.
fn with_much_room(socket: &UdpSocket) {
    let _ = setsockopt(socket, sockopt::RcvBufForce, &(8 << 20));
    let _ = setsockopt(socket, sockopt::SndBuf, &(1 << 20));
}

/// A client's port. It hears only what comes from the address that it asks.
#[derive(Debug)]
pub struct UdpClient {
    pub socket: UdpSocket,
}

impl UdpClient {
    #[track_caller]
    pub fn new(source: IpAddr, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind((source, 0)).unwrap();
        with_much_room(&socket);
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        UdpClient { socket }
    }

    pub fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    #[track_caller]
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        assert_eq!(self.socket.send(bytes).expect("pen is there"), bytes.len());
    }

    /// A signal to these tests is no datagram.
    fn take(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.recv(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                taken => return taken,
            }
        }
    }

    /// The next datagram; it comes [`SOON`].
    #[track_caller]
    pub fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 16];
        let count = self.take(&mut buffer).expect("a datagram comes");
        buffer.truncate(count);
        buffer
    }

    /// The same as text.
    #[track_caller]
    pub fn hear(&self) -> String {
        String::from_utf8_lossy(&self.receive()).into_owned()
    }

    /// The next datagram, if one comes within this time.
    pub fn hear_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut buffer = vec![0; 1 << 16];
        let count = self.take(&mut buffer);
        self.socket.set_read_timeout(Some(SOON)).unwrap();
        count.ok().map(|count| String::from_utf8_lossy(&buffer[..count]).into_owned())
    }

    /// Asks an echo: its name.
    #[track_caller]
    pub fn ask(&self, what: &str) -> String {
        self.send(what);
        self.answer_to(what)
    }

    /// The name of the echo that answers this, which comes next.
    #[track_caller]
    pub fn answer_to(&self, what: &str) -> String {
        let answer = self.hear();
        match answer.split_once(' ') {
            Some((name, rest)) if rest == what => name.to_owned(),
            _ => panic!("the answer to {what:?} is {answer:?}"),
        }
    }

    /// Asks until an answer comes, as resolvers do: the echo's name, and how often it had to ask.
    #[track_caller]
    pub fn insist(&self, what: &str) -> (String, usize) {
        for tries in 1..100 {
            // A refusal that came meanwhile is told now.
            let _ = self.socket.send(what.as_bytes()).or_else(|_| self.socket.send(what.as_bytes()));
            while let Some(answer) = self.hear_within(Duration::from_millis(150)) {
                match answer.split_once(' ') {
                    Some((name, rest)) if rest == what => return (name.to_owned(), tries),
                    _ => {} // of an earlier try
                }
            }
        }
        panic!("nobody answers {what:?}");
    }
}

impl Builder {
    /// Datagrams instead of connections.
    pub fn udp(self) -> Self {
        self.option("-U").with_signals()
    }
}

impl Pen {
    /// A new client of this address.
    #[track_caller]
    pub fn udp_from(&self, source: &str) -> UdpClient {
        UdpClient::new(source.parse().unwrap(), self.address)
    }

    /// A new client at 127.0.0.1.
    #[track_caller]
    pub fn udp(&self) -> UdpClient {
        self.udp_from("127.0.0.1")
    }

    /// A datagram from a new port of each of 127.0.0.N: the names of the echoes that answer.
    #[track_caller]
    pub fn udp_asks(&self, last_bytes: impl IntoIterator<Item = u8>) -> String {
        let ask = |n| self.udp_from(&format!("127.0.0.{n}")).ask(&format!("from {n}"));
        last_bytes.into_iter().map(ask).collect::<Vec<_>>().join(" ")
    }

    /// What the servers' table of this (controlled) pen's counts as flows and connections now.
    #[track_caller]
    pub fn flows(&self) -> usize {
        self.flows_of().iter().sum()
    }

    /// The same, server by server.
    #[track_caller]
    pub fn flows_of(&self) -> Vec<usize> {
        let reply = self.ask("servers");
        let count = |line: &str| line.split(" conn ").nth(1)?.split(' ').next()?.parse().ok();
        reply.lines().map(|line| count(line).unwrap_or_else(|| panic!("{reply}"))).collect()
    }

    /// Waits until there is no flow (and no connection) any more.
    #[track_caller]
    pub fn wait_for_no_flow(&self) {
        wait_until("all flows have ended", || self.flows() == 0);
    }

    /// A column of the page's Workers table (of a controlled pen), added up.
    #[track_caller]
    pub fn total(&self, what: &str) -> u64 {
        column(&self.ask("status"), "worker", what).iter().map(|cell| cell.parse::<u64>().unwrap()).sum()
    }

    /// Waits until a column has come to this.
    #[track_caller]
    pub fn wait_for_total(&self, what: &str, count: u64) {
        wait_until(&format!("{what} comes to {count}"), || self.total(what) >= count);
        assert_eq!(self.total(what), count, "{what}");
    }

    /// Is this server on the blacklist, as the page tells?
    #[track_caller]
    pub fn blacklisted(&self, server: usize) -> bool {
        column(&self.ask("status"), "server", "status")[server] != "0"
    }
}

/// A socket for datagrams, as the kernel's table has it.
struct Bound {
    port: u16,
    connected: bool,
    /// Bytes, with what the kernel needs for them.
    unread: u64,
}

fn sockets() -> Vec<Bound> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = hex(fields.get(1)?.rsplit(':').next()?)? as u16;
        let connected = *fields.get(3)? == "01";
        let unread = hex(fields.get(4)?.split_once(':')?.1)?;
        Some(Bound { port, connected, unread })
    };
    let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    let texts = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
    texts.iter().flat_map(|text| text.lines().skip(1).filter_map(parse)).collect()
}

/// Does anybody wait for datagrams at this port?
pub fn bound(port: u16) -> bool {
    sockets().iter().any(|socket| socket.port == port && !socket.connected)
}

/// How many sockets take datagrams at this port.
pub fn group(port: u16) -> usize {
    sockets().iter().filter(|socket| socket.port == port && !socket.connected).count()
}

/// How much waits to be read at this port: bytes, with what the kernel needs for them.
pub fn unread(port: u16) -> u64 {
    sockets().iter().filter(|socket| socket.port == port).map(|socket| socket.unread).sum()
}
