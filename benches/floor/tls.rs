//! Mode `tls`: the library's calls and the socket's.
//!
//! The context is made as pen makes its own (`src/sys/tls/context`), but nobody chooses among certificates, and the
//! library seals its tickets with keys of its own. As with pen what a call of the library writes leaves with one send(2),
//! and a short read is known to have emptied the socket: with the library's own way to a socket each record would be a
//! send, and each event would end with a read that finds nothing.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslFiletype, SslMethod, SslMode, SslOptions,
    SslSessionCacheMode, SslStream, SslVersion,
};
use pen::model::address::SocketAddress;
use pen::sys::poller::{Events, Poller, Readiness};
use pen::sys::socket::{self, ConnectOptions};

use super::{ACCEPTS, EVENTS, LISTENER, SCRATCH};

/// Bytes that are passed on at a time, in their records. It is no whole number of pages: some processors need many times
/// as long to copy between places that are a few bytes more than that apart, and the library's own buffers come next.
const ROOM: usize = SCRATCH + 5 * 1024;

/// Pen's, for TLS 1.2.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
    ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
    ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/// `certificate`: a file with the key in it. `suites`: of TLS 1.3.
fn context(certificate: &str, suites: &str) -> SslContext {
    let mut builder = SslContext::builder(SslMethod::tls_server()).unwrap();
    builder.set_read_ahead(true);
    builder.set_mode(SslMode::RELEASE_BUFFERS | SslMode::AUTO_RETRY | SslMode::NO_AUTO_CHAIN);
    builder.set_options(SslOptions::NO_RENEGOTIATION | SslOptions::CIPHER_SERVER_PREFERENCE);
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    builder.set_max_proto_version(Some(SslVersion::TLS1_3)).unwrap();
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    special(&mut builder, suites);
    builder.set_cipher_list(CIPHERS).unwrap();
    builder
        .set_groups_list("X25519MLKEM768:X25519:P-256")
        .or_else(|_| builder.set_groups_list("X25519:P-256"))
        .unwrap();
    builder.set_certificate_chain_file(certificate).unwrap();
    builder.set_private_key_file(certificate, SslFiletype::PEM).unwrap();
    builder.build()
}

/// One ticket, and the suites; AWS-LC's are not bound by the openssl crate.
#[cfg(not(feature = "aws-lc"))]
fn special(builder: &mut SslContextBuilder, suites: &str) {
    builder.set_options(SslOptions::NO_COMPRESSION | SslOptions::PRIORITIZE_CHACHA);
    builder.set_num_tickets(1).unwrap();
    builder.set_ciphersuites(suites).unwrap();
}

#[cfg(feature = "aws-lc")]
#[allow(unsafe_code)]
fn special(builder: &mut SslContextBuilder, suites: &str) {
    let suites = std::ffi::CString::new(suites).unwrap();
    // SAFETY: the context is the builder's.
    assert_eq!(unsafe { openssl_sys::SSL_CTX_set_num_tickets(builder.as_ptr(), 1) }, 1);
    // SAFETY: the same; the list is copied.
    assert_eq!(unsafe { openssl_sys::SSL_CTX_set_ciphersuites(builder.as_ptr(), suites.as_ptr()) }, 1);
}

/// The library's way to a client's socket.
struct Wire {
    socket: OwnedFd,
    /// What is about to be sent, of whatever connection; empty between calls.
    outbox: Rc<RefCell<Vec<u8>>>,
    readable: bool,
    /// A short read does not mean that nothing is left.
    ending: bool,
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if !self.readable {
            return Err(ErrorKind::WouldBlock.into());
        }
        let result = socket::receive(self.socket.as_fd(), room);
        self.readable = match &result {
            Ok(came) => *came == room.len() || self.ending,
            Err(_) => false,
        };
        result
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outbox.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Connection {
    client: SslStream<Wire>,
    /// None before the handshake is done.
    server: Option<OwnedFd>,
    /// What they did not take.
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// There may be something to read from the server; and a short read does not mean that nothing is left.
    waiting: bool,
    ending: bool,
    /// Each has said its last.
    client_ended: bool,
    server_ended: bool,
}

impl Connection {
    fn new(context: &SslContext, socket: OwnedFd, outbox: &Rc<RefCell<Vec<u8>>>) -> Connection {
        let wire = Wire { socket, outbox: Rc::clone(outbox), readable: false, ending: false };
        let mut ssl = Ssl::new(context).unwrap();
        ssl.set_accept_state();
        Connection {
            client: SslStream::new(ssl, wire).unwrap(),
            server: None,
            to_server: Vec::new(),
            to_client: Vec::new(),
            waiting: false,
            ending: false,
            client_ended: false,
            server_ended: false,
        }
    }

    /// The client's handshake goes on: true when it is done. None: it has failed.
    fn handshake(&mut self) -> Option<bool> {
        let result = self.client.do_handshake();
        self.push(false)?;
        match result {
            Ok(()) => {
                let ssl = self.client.ssl();
                let unanswered = match ssl.version2() {
                    Some(SslVersion::TLS1_3) => cfg!(feature = "aws-lc"),
                    _ => ssl.session_reused(),
                };
                // A client may wait for it before it says anything more.
                if unanswered {
                    socket::acknowledge_now(self.client.get_ref().socket.as_fd());
                }
                Some(true)
            }
            Err(error) if error.code() == ErrorCode::WANT_READ => Some(false),
            Err(_) => None,
        }
    }

    /// From the client to the server. None: something is broken, as below.
    fn up(&mut self, scratch: &mut [u8]) -> Option<()> {
        let server = self.server.as_ref()?.as_fd();
        if self.client_ended && self.to_server.is_empty() {
            return Some(());
        }
        if !self.to_server.is_empty() {
            // What has come meanwhile waits in the library.
            let sent = taken(socket::send(server, &self.to_server))?;
            self.to_server.drain(..sent);
        }
        while self.to_server.is_empty() && !self.client_ended {
            let (mut count, mut more) = (0, true);
            while more && count < scratch.len() {
                match self.client.ssl_read(&mut scratch[count..]) {
                    Ok(came) => count += came,
                    Err(error) => {
                        more = false;
                        match error.code() {
                            ErrorCode::WANT_READ => {}
                            ErrorCode::ZERO_RETURN => self.client_ended = true,
                            _ => return None,
                        }
                    }
                }
            }
            let sent = if count == 0 { 0 } else { taken(socket::send(server, &scratch[..count]))? };
            self.to_server.extend_from_slice(&scratch[sent..count]);
            if !more {
                break;
            }
        }
        if self.client_ended && self.to_server.is_empty() && !self.server_ended {
            socket::shutdown_write(server);
        }
        // A change of keys, say, has an answer.
        self.push(false)
    }

    /// From the server to the client.
    fn down(&mut self, scratch: &mut [u8]) -> Option<()> {
        if !self.to_client.is_empty() {
            let socket = self.client.get_ref().socket.as_fd();
            let sent = taken(socket::send(socket, &self.to_client))?;
            self.to_client.drain(..sent);
        }
        while self.waiting && self.to_client.is_empty() && !self.server_ended {
            match socket::receive(self.server.as_ref()?.as_fd(), scratch) {
                Ok(0) => {
                    self.server_ended = true;
                    let _ = self.client.shutdown();
                }
                Ok(came) => {
                    self.waiting = came == scratch.len() || self.ending;
                    self.client.ssl_write(&scratch[..came]).ok()?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.waiting = false,
                Err(_) => return None,
            }
            // The last word goes with the end that closing makes.
            self.push(self.server_ended && self.client_ended)?;
        }
        Some(())
    }

    /// Sends what the library has written. `more`: it may wait for what follows.
    fn push(&mut self, more: bool) -> Option<()> {
        let Wire { socket, outbox, .. } = self.client.get_ref();
        let mut outbox = outbox.borrow_mut();
        if !outbox.is_empty() {
            let sent = if self.to_client.is_empty() {
                taken(match more {
                    true => socket::send_with_more(socket.as_fd(), &outbox),
                    false => socket::send(socket.as_fd(), &outbox),
                })
            } else {
                Some(0)
            };
            self.to_client.extend_from_slice(&outbox[sent.unwrap_or(0)..]);
            outbox.clear();
            sent?;
        }
        Some(())
    }

    fn is_over(&self) -> bool {
        self.client_ended && self.server_ended && self.to_client.is_empty()
    }
}

/// How much of it was sent. A server may not be connected yet.
fn taken(result: io::Result<usize>) -> Option<usize> {
    match result {
        Ok(sent) => Some(sent),
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected).then_some(0),
    }
}

struct Floor {
    poller: Poller,
    listener: OwnedFd,
    server: SocketAddress,
    context: SslContext,
    outbox: Rc<RefCell<Vec<u8>>>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Free, but the poller may have something to say of them in this turn.
    freed: Vec<usize>,
    scratch: Vec<u8>,
}

pub(super) fn run(address: SocketAddrV4, server: SocketAddrV4, certificate: &str, suites: &str) -> ! {
    let poller = Poller::new().unwrap();
    let listener = socket::listen(&SocketAddress::Inet(address.into()), 2000).unwrap();
    socket::set_nodelay(listener.as_fd());
    poller.add_listener(listener.as_fd(), LISTENER).unwrap();
    let mut scratch = Vec::with_capacity(ROOM);
    scratch.resize(SCRATCH, 0);
    let mut floor = Floor {
        poller,
        listener,
        server: SocketAddress::Inet(server.into()),
        context: context(certificate, suites),
        outbox: Rc::new(RefCell::new(Vec::with_capacity(ROOM))),
        connections: Vec::new(),
        free: Vec::new(),
        freed: Vec::new(),
        scratch,
    };
    let mut events = Events::with_capacity(EVENTS);
    loop {
        floor.poller.wait(&mut events, Duration::from_secs(60)).unwrap();
        let mut arrivals = false;
        for event in events.iter() {
            match event {
                (LISTENER, _) => arrivals = true,
                (token, readiness) => floor.ready((token / 2) as usize, token % 2 == 0, readiness),
            }
        }
        if arrivals {
            floor.accept();
        }
        floor.free.append(&mut floor.freed);
    }
}

impl Floor {
    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let Ok((client, _)) = socket::accept(self.listener.as_fd()) else { return };
            let number = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poller.add_stream(client.as_fd(), number as u64 * 2).unwrap();
            self.connections[number] = Some(Connection::new(&self.context, client, &self.outbox));
        }
    }

    /// Something is to be done for the client's side of a connection, or for the server's.
    fn ready(&mut self, number: usize, client: bool, readiness: Readiness) {
        if self.connections[number].is_none() {
            return;
        }
        let alive =
            if client { self.of_client(number, readiness) } else { self.of_server(number, readiness) };
        if alive.is_none() || self.connections[number].as_ref().is_some_and(Connection::is_over) {
            self.connections[number] = None;
            self.freed.push(number);
        }
    }

    fn of_client(&mut self, number: usize, readiness: Readiness) -> Option<()> {
        let connection = self.connections[number].as_mut()?;
        if readiness.readable() {
            let wire = connection.client.get_mut();
            wire.readable = true;
            wire.ending |= readiness.ending();
        }
        if connection.server.is_none() {
            if !readiness.readable() {
                // What it did not take of the handshake.
                return connection.down(&mut self.scratch);
            }
            if !connection.handshake()? {
                return Some(());
            }
            let server = socket::connect(&self.server, ConnectOptions::default()).ok()?.socket;
            self.poller.add_stream(server.as_fd(), number as u64 * 2 + 1).ok()?;
            connection.server = Some(server);
        } else if readiness.writable() && !connection.to_client.is_empty() {
            connection.down(&mut self.scratch)?;
        }
        if readiness.readable() { connection.up(&mut self.scratch) } else { Some(()) }
    }

    fn of_server(&mut self, number: usize, readiness: Readiness) -> Option<()> {
        let connection = self.connections[number].as_mut()?;
        if readiness.writable() && !connection.to_server.is_empty() {
            connection.up(&mut self.scratch)?;
        }
        if readiness.readable() {
            connection.waiting = true;
            connection.ending |= readiness.ending();
            connection.down(&mut self.scratch)?;
        }
        Some(())
    }
}
