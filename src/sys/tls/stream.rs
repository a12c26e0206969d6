//! One side of a connection, secured.
//!
//! What is to be sent is encrypted at once and leaves with one send(2) a call, or waits in the kernel for what the caller
//! says will follow; what the socket does not take is held here. A recv(2) that came back short has emptied the socket:
//! nothing is read before the poller says so again.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::ssl::{self, ErrorCode, NameType, Ssl, SslStream};
use openssl::x509::X509VerifyResult;

use super::library;
use crate::sys::socket;

/// How many bytes may be held before a peer is given up that has the library answer and does not read: nobody who
/// stops sending while something is held comes near it.
const MOST_HELD: usize = 1024 * 1024;

/// How many bytes there is room for from the start: a relay's 64 KiB in their records. It is no whole number of pages:
/// some processors need 25 times as long to copy between places that are a few bytes more than that apart, and the
/// library's own buffers come next.
const ROOM: usize = 69 * 1024;

/// How many bytes of a stream may be read in advance of what they bring, so that records of any size come in whole.
const CREDIT: usize = 32 * 1024;

/// How many bytes of a stream that brings next to nothing are read in one go. A peer can fill them with messages of
/// TLS itself, or with records of a byte or none; a change of keys takes fifty microseconds, and 27 bytes.
const BARREN: usize = 1024;

/// Where one worker's streams put what they are about to send. Empty between calls.
#[derive(Debug, Clone)]
pub struct Outbox(Rc<RefCell<Vec<u8>>>);

impl Default for Outbox {
    fn default() -> Self {
        Outbox(Rc::new(RefCell::new(Vec::with_capacity(ROOM))))
    }
}

/// A socket with TLS on it.
#[derive(Debug)]
pub struct Secured {
    stream: SslStream<Wire>,
    /// What the socket did not take.
    held: Vec<u8>,
    /// Found after bytes that came before it: for the next [`Secured::receive`].
    failure: Option<io::Error>,
    established: bool,
    finished: bool,
    /// The last read took all that there was.
    drained: bool,
}

/// A peer that has shown a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The certificate's common name. None also where it would not be the same to everybody who reads it.
    pub name: Option<String>,
    /// What came of verifying it: 0 if it is good, else X509_V_ERR_…
    pub result: u32,
}

/// The library's way to the socket.
#[derive(Debug)]
struct Wire {
    socket: OwnedFd,
    outbox: Outbox,
    /// There may be something to read.
    readable: bool,
    /// A short read does not mean that nothing is left.
    thorough: bool,
    /// The end of the stream was read.
    ended: bool,
    /// How many bytes may be read now. Each byte that is handed on allows two more.
    allowance: usize,
    /// There would have been more to read, but not now.
    paused: bool,
}

/// How a call of the library went that did not do it all.
enum Pause {
    /// It waits for bytes.
    Nothing,
    /// The peer declared the end.
    End,
    /// It never will.
    Broken(io::Error),
}

impl Secured {
    /// Nothing has been said yet. `ssl` knows which side it is.
    pub(super) fn new(ssl: Ssl, socket: OwnedFd, outbox: &Outbox) -> Result<Self, ErrorStack> {
        let outbox = outbox.clone();
        let wire = Wire {
            socket,
            outbox,
            readable: false,
            thorough: false,
            ended: false,
            // The library knows how long a handshake may be.
            allowance: usize::MAX,
            paused: false,
        };
        Ok(Secured {
            stream: SslStream::new(ssl, wire)?,
            held: Vec::new(),
            failure: None,
            established: false,
            finished: false,
            drained: false,
        })
    }

    /// The socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.stream.get_ref().socket
    }

    /// The poller says that there is something to read from the socket; nothing is read before that. `ending`: a short
    /// read does not mean from now on that the socket is empty, because the end of the stream or an error has been
    /// reported already (or because it is a Unix socket).
    pub fn readable(&mut self, ending: bool) {
        let wire = self.stream.get_mut();
        wire.readable = true;
        wire.thorough |= ending;
    }

    /// Goes on with the handshake: true when it is done. Then nothing may be readable any more from the socket while
    /// there is still something to [`Secured::receive`].
    ///
    /// # Errors
    /// It failed, in words for the administrator: the peer spoke something else, had no cipher in common, was not
    /// whom it should be … The peer has been told, if it takes that.
    pub fn handshake(&mut self) -> io::Result<bool> {
        if self.established {
            return Ok(true);
        }
        if self.stream.ssl().is_server() && !self.stream.get_ref().readable {
            // It is the client's turn. The library would set up its buffers for one that may never say anything.
            return Ok(false);
        }
        let result = self.fresh().do_handshake();
        let pause = result.map_err(|error| self.pause(error));
        let pushed = self.push(false);
        match pause {
            Ok(()) => {
                pushed?;
                self.established = true;
                self.stream.get_mut().allowance = CREDIT;
                if library::client_had_the_last_word(self.stream.ssl()) {
                    socket::acknowledge_now(self.socket().as_fd());
                }
                Ok(true)
            }
            Err(Pause::Nothing) => pushed.map(|()| false),
            Err(Pause::End) => Err(unexpected_end()),
            Err(Pause::Broken(error)) => Err(error),
        }
    }

    /// As a socket: bytes, 0 at the end that the peer declared, `None` when there is nothing now. There may be more as
    /// long as it is not `None`, and if it [has paused](Secured::has_paused).
    ///
    /// # Errors
    /// The connection is broken; `UnexpectedEof`: the peer ended it without a word, and what came may not be all. (Not
    /// an error once [`Secured::finish`] was called: many do not answer that.) `NotConnected` before the handshake is
    /// done.
    pub fn receive(&mut self, room: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.established {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.drained = false;
        let wire = self.stream.get_mut();
        wire.allowance = wire.allowance.min(CREDIT) + BARREN;
        wire.paused = false;
        let mut count = 0;
        let mut end = false;
        while count < room.len() && self.failure.is_none() {
            match self.fresh().ssl_read(&mut room[count..]).map_err(|error| self.pause(error)) {
                Ok(more) => {
                    count += more;
                    self.stream.get_mut().allowance += 2 * more;
                }
                Err(Pause::Nothing) => {
                    self.drained = !self.stream.get_ref().paused;
                    break;
                }
                Err(Pause::End) => {
                    end = true;
                    break;
                }
                Err(Pause::Broken(error))
                    if error.kind() == io::ErrorKind::UnexpectedEof && self.finished =>
                {
                    end = true;
                    break;
                }
                Err(Pause::Broken(error)) => self.failure = Some(error),
            }
        }
        // What cannot be sent any more is found out again by the next that is. What can be read must be read first.
        let _ = self.push(false);
        if self.held.len() > MOST_HELD {
            self.failure = Some(io::Error::other("the peer asks for answers that it does not read"));
        }
        match (count, end, &self.failure) {
            // The library says so again with the next call.
            (0, true, None) => Ok(Some(0)),
            (0, false, None) => Ok(None),
            (0, _, Some(_)) => Err(self.failure.take().unwrap_or_else(unexpected_end)),
            (count, _, _) => Ok(Some(count)),
        }
    }

    /// There is nothing to [`Secured::receive`] before the poller says so: the last time found that out.
    pub fn is_drained(&self) -> bool {
        self.drained && self.failure.is_none()
    }

    /// Encrypts and sends all of it; what the socket does not take is held.
    ///
    /// # Errors
    /// The connection is broken. `NotConnected` before the handshake is done.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.encrypt(bytes, false)
    }

    /// As [`Secured::send`], but what does not fill a segment may wait for what is sent next, or for the socket's end.
    ///
    /// # Errors
    /// As [`Secured::send`].
    pub fn send_with_more(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.encrypt(bytes, true)
    }

    fn encrypt(&mut self, bytes: &[u8], more: bool) -> io::Result<()> {
        if !self.established {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        // All or nothing: a write to the wire never has to wait.
        let result = self.fresh().ssl_write(bytes).map_err(|error| self.pause(error));
        let pushed = self.push(more);
        match result {
            Ok(_) => pushed,
            Err(Pause::Broken(error)) => Err(error),
            Err(Pause::Nothing | Pause::End) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// The last [`Secured::receive`] stopped although there is more: what comes takes much work and brings little, so
    /// somebody else should have a turn before the next.
    pub fn has_paused(&self) -> bool {
        self.stream.get_ref().paused
    }

    /// How many bytes are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Sends what is held: true when all of it is gone.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<bool> {
        if self.held.is_empty() {
            return Ok(true);
        }
        let sent = send_some(socket::send, self.socket(), &self.held)?;
        if sent == self.held.len() {
            // Its memory goes too.
            self.held = Vec::new();
        } else {
            self.held.drain(..sent);
        }
        Ok(self.held.is_empty())
    }

    /// Declares the end of this direction (close_notify); the other goes on. It may have to be flushed. Before the
    /// handshake is done, and the second time, it does nothing.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn finish(&mut self) -> io::Result<()> {
        self.declare_end(false)
    }

    /// As [`Secured::finish`], but the word may wait for the socket's end to go with it.
    ///
    /// # Errors
    /// As [`Secured::finish`].
    pub fn finish_with_more(&mut self) -> io::Result<()> {
        self.declare_end(true)
    }

    fn declare_end(&mut self, more: bool) -> io::Result<()> {
        if !self.established || self.finished {
            return Ok(());
        }
        self.finished = true;
        let result = self.fresh().shutdown().map_err(|error| self.pause(error));
        let pushed = self.push(more);
        match result {
            Err(Pause::Broken(error)) => Err(error),
            Ok(_) | Err(Pause::Nothing | Pause::End) => pushed,
        }
    }

    /// The handshake is done.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// The handshake resumed an earlier session.
    pub fn resumed(&self) -> bool {
        self.stream.ssl().session_reused()
    }

    /// The version and cipher, for messages: `TLSv1.3 TLS_AES_128_GCM_SHA256`.
    pub fn describe(&self) -> String {
        format!("{} {}", self.version(), self.cipher())
    }

    /// `TLSv1.3`.
    pub fn version(&self) -> &'static str {
        self.stream.ssl().version_str()
    }

    /// `TLS_AES_128_GCM_SHA256`; `no cipher` before one is agreed on.
    pub fn cipher(&self) -> &'static str {
        self.stream.ssl().current_cipher().map_or("no cipher", |cipher| cipher.name())
    }

    /// The name that the client has asked for. Where a session is resumed with TLS 1.2, that may be the one of then.
    pub fn server_name(&self) -> Option<&str> {
        self.stream.ssl().servername(NameType::HOST_NAME)
    }

    /// What is spoken inside, if that was agreed on (ALPN).
    pub fn protocol(&self) -> Option<&[u8]> {
        self.stream.ssl().selected_alpn_protocol()
    }

    /// The certificate that the peer has shown, on this connection or when the session began that it has resumed.
    pub fn peer(&self) -> Option<Peer> {
        let ssl = self.stream.ssl();
        let certificate = ssl.peer_certificate()?;
        let name = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next();
        let name = name.and_then(|name| name.data().to_string().ok()).filter(|name| !name.contains('\0'));
        Some(Peer { name, result: u32::try_from(ssl.verify_result().as_raw()).unwrap_or(u32::MAX) })
    }

    /// The connection, for what only tests want to know.
    #[cfg(test)]
    pub(super) fn ssl(&self) -> &ssl::SslRef {
        self.stream.ssl()
    }

    /// The stream, for a call of the library. The library keeps its errors in one queue for all connections, and looks
    /// there to find out whether a call failed: nobody else's may be in it.
    fn fresh(&mut self) -> &mut SslStream<Wire> {
        drop(ErrorStack::get());
        &mut self.stream
    }

    /// What an error of the library means.
    fn pause(&self, error: ssl::Error) -> Pause {
        match error.code() {
            ErrorCode::WANT_READ | ErrorCode::WANT_WRITE => return Pause::Nothing,
            ErrorCode::ZERO_RETURN => return Pause::End,
            _ => {}
        }
        match error.into_io_error() {
            Ok(error) => Pause::Broken(error),
            Err(error) => match error.ssl_error().and_then(reason) {
                Some(reason) if reason.starts_with("unexpected eof") => Pause::Broken(unexpected_end()),
                Some(reason) => Pause::Broken(io::Error::other(self.in_words(&reason))),
                None if self.stream.get_ref().ended => Pause::Broken(unexpected_end()),
                None => Pause::Broken(io::Error::other("the connection has failed before")),
            },
        }
    }

    /// The library's reason with what it leaves out.
    fn in_words(&self, reason: &str) -> String {
        if let Some((_, alert)) = reason.split_once(" alert ") {
            return format!("the peer refused: {alert}");
        }
        match self.stream.ssl().verify_result() {
            result if result != X509VerifyResult::OK && reason.contains("certificate verify failed") => {
                format!("{reason} ({})", result.error_string())
            }
            _ => reason.to_owned(),
        }
    }

    /// Sends what the library has just written, behind what is held. `more`: it may wait for what follows.
    fn push(&mut self, more: bool) -> io::Result<()> {
        let wire = self.stream.get_ref();
        let mut outbox = wire.outbox.0.borrow_mut();
        if outbox.is_empty() {
            return Ok(());
        }
        let send = if more { socket::send_with_more } else { socket::send };
        let sent = if self.held.is_empty() { send_some(send, &wire.socket, &outbox) } else { Ok(0) };
        if let Ok(sent) = sent {
            self.held.extend_from_slice(&outbox[sent..]);
        }
        outbox.clear();
        sent.map(|_| ())
    }
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if !self.readable {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.allowance == 0 {
            self.paused = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let allowed = room.len().min(self.allowance);
        let room = &mut room[..allowed];
        loop {
            match socket::receive(self.socket.as_fd(), room) {
                Ok(count) => {
                    self.ended = count == 0;
                    self.allowance -= count;
                    self.readable = count == room.len() || (self.thorough && count > 0);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.readable = false;
                    return Err(error);
                }
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outbox.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends what the socket takes now.
fn send_some(
    send: impl Fn(BorrowedFd<'_>, &[u8]) -> io::Result<usize>,
    to: &OwnedFd,
    bytes: &[u8],
) -> io::Result<usize> {
    loop {
        match send(to.as_fd(), bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn unexpected_end() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the peer ended the connection without saying so")
}

/// Why the library failed, in its own words. Of many errors the first of its TLS part counts: those before it are
/// what led there, those after it repeat it.
fn reason(stack: &ErrorStack) -> Option<String> {
    let errors = stack.errors();
    let of_tls = errors.iter().find(|error| error.library().is_some_and(|name| name.contains("SSL")));
    let reason = of_tls.or(errors.first())?.reason().unwrap_or("unknown error");
    Some(library::plain(reason))
}
