//! Servers to balance, each in threads of the test.

use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{
    self, AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, sockopt,
};

use super::free_port;

/// What a server has seen.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections so far.
    pub accepted: AtomicUsize,
    /// Connections now.
    pub open: AtomicUsize,
    /// The most connections at any one time.
    pub most: AtomicUsize,
    /// How many bytes a handler has sent so far, if it says so.
    pub moved: AtomicU64,
    /// The heads of the requests, and whatever else handlers note.
    pub notes: Mutex<Vec<String>>,
}

/// One connection to a server. Dropping it first counts it out and then closes it: whoever sees the end of the stream
/// and connects anew is never counted twice.
#[derive(Debug)]
pub struct Visit {
    pub name: String,
    count: Count,
    pub stream: TcpStream,
}

#[derive(Debug)]
struct Count(Arc<Tally>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Visit {
    pub fn tally(&self) -> &Tally {
        &self.count.0
    }

    pub fn note(&self, text: impl Into<String>) {
        self.tally().notes.lock().unwrap().push(text.into());
    }

    /// Reads a request up to its blank line, and notes it. False: the stream ended before that.
    pub fn read_head(&self) -> bool {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match (&self.stream).read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return false,
            }
        }
        self.note(String::from_utf8_lossy(&head));
        true
    }

    /// Answers like a web server, with a text.
    pub fn answer(&self, body: &str) {
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = (&self.stream).write_all((head + body).as_bytes());
    }
}

type Handler = Arc<dyn Fn(Visit) + Send + Sync>;

/// A server on a port of 127.0.0.1. It displays as `127.0.0.1:PORT`, as pen's command line wants it.
pub struct Backend {
    name: String,
    address: SocketAddr,
    pub tally: Arc<Tally>,
    handler: Handler,
    /// Bound as long as this lives, listening or not: nobody else gets the port, and pen is refused, not misled.
    socket: OwnedFd,
    acceptor: Option<JoinHandle<()>>,
    fillers: Vec<TcpStream>,
}

impl Backend {
    /// Answers every request with its name and closes.
    pub fn web(name: &str) -> Self {
        Self::serving(name, |visit| {
            if visit.read_head() {
                visit.answer(&visit.name);
            }
        })
    }

    /// Sends its name at once, then echoes until the client ends the stream.
    pub fn greeter(name: &str) -> Self {
        Self::serving(name, |visit| {
            let mut stream = &visit.stream;
            let _ = stream.write_all(format!("{}\n", visit.name).as_bytes());
            let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        })
    }

    /// Does what `handler` does, in a thread for each connection.
    pub fn serving(name: &str, handler: impl Fn(Visit) + Send + Sync + 'static) -> Self {
        Self::serving_at(name, Ipv4Addr::LOCALHOST.into(), handler)
    }

    /// The same at any address.
    pub fn serving_at(name: &str, address: IpAddr, handler: impl Fn(Visit) + Send + Sync + 'static) -> Self {
        let mut backend = Self::absent_with(name, address, None, Arc::new(handler));
        backend.up();
        backend
    }

    /// A web server (as [`Backend::web`]) at any address and port.
    pub fn web_at(name: &str, address: IpAddr, port: u16) -> Self {
        let mut backend = Self::absent_with(name, address, Some(port), Self::web_handler());
        backend.up();
        backend
    }

    /// Refuses every connect; it becomes a web server with [`Backend::up`].
    pub fn absent(name: &str) -> Self {
        Self::absent_with(name, Ipv4Addr::LOCALHOST.into(), None, Self::web_handler())
    }

    /// Never answers a connect, as a host that vanished.
    pub fn hanging(name: &str) -> Self {
        let mut backend = Self::absent(name);
        // A full queue of connections to accept: the kernel drops every further SYN.
        socket::listen(&backend.socket, Backlog::new(0).unwrap()).unwrap();
        let full = |backend: &mut Backend| {
            let attempt = TcpStream::connect_timeout(&backend.address, Duration::from_millis(200));
            backend.fillers.extend(attempt.ok());
            backend.fillers.len()
        };
        let mut before = usize::MAX;
        while before != full(&mut backend) {
            before = backend.fillers.len();
            assert!(before < 10, "the kernel goes on accepting for a full queue");
        }
        backend
    }

    fn web_handler() -> Handler {
        Arc::new(|visit: Visit| {
            if visit.read_head() {
                visit.answer(&visit.name);
            }
        })
    }

    fn absent_with(name: &str, address: IpAddr, port: Option<u16>, handler: Handler) -> Self {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        // Without it, connections of its first life would keep a server from listening again.
        socket::setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
        let address = loop {
            let address = SocketAddr::new(address, port.unwrap_or_else(free_port));
            match socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
                Ok(()) => break address,
                Err(error) => assert!(port.is_none(), "cannot bind {address}: {error}"),
            }
        };
        let tally = Arc::default();
        Backend {
            name: name.to_owned(),
            address,
            tally,
            handler,
            socket,
            acceptor: None,
            fillers: Vec::new(),
        }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Begins to listen (again).
    pub fn up(&mut self) {
        socket::listen(&self.socket, Backlog::new(1024).unwrap()).unwrap();
        let listener = TcpListener::from(self.socket.try_clone().unwrap());
        let (name, tally, handler) = (self.name.clone(), Arc::clone(&self.tally), Arc::clone(&self.handler));
        self.acceptor = Some(std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                tally.accepted.fetch_add(1, Ordering::SeqCst);
                let now = tally.open.fetch_add(1, Ordering::SeqCst) + 1;
                tally.most.fetch_max(now, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                let visit = Visit { name: name.clone(), count: Count(Arc::clone(&tally)), stream };
                let handler = Arc::clone(&handler);
                std::thread::spawn(move || handler(visit));
            }
        }));
    }

    /// Stops listening: connects are refused from now on, open connections stay.
    pub fn down(&mut self) {
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
    }

    pub fn accepted(&self) -> usize {
        self.tally.accepted.load(Ordering::SeqCst)
    }

    pub fn open(&self) -> usize {
        self.tally.open.load(Ordering::SeqCst)
    }

    pub fn most(&self) -> usize {
        self.tally.most.load(Ordering::SeqCst)
    }

    pub fn notes(&self) -> Vec<String> {
        self.tally.notes.lock().unwrap().clone()
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.down();
    }
}

/// Web servers S0, S1, …
pub fn webs(count: usize) -> Vec<Backend> {
    (0..count).map(|number| Backend::web(&format!("S{number}"))).collect()
}

/// Greeters G0, G1, …
pub fn greeters(count: usize) -> Vec<Backend> {
    (0..count).map(|number| Backend::greeter(&format!("G{number}"))).collect()
}
