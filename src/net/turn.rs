//! One turn of a connection whose bytes flow: both directions moved as far as they go now.

use crate::model::address::{ClientAddress, SocketAddress};
use crate::policy::http::Exchange;
use crate::report::dump::dump;
use crate::report::log::RequestLog;
use crate::report::messages::Messages;
use crate::sys::clock;

use super::buffers::RelayBuffers;
use super::endpoint::Endpoint;
use super::http::{Requests, Responses};
use super::pair::Side;
use super::relay::{Broken, Direction, Progress, Shown};

/// A connection with all that its bytes meet.
pub(super) struct Turn<'a> {
    pub(super) client: &'a mut Endpoint,
    pub(super) server: &'a mut Endpoint,
    pub(super) up: &'a mut Direction,
    pub(super) down: &'a mut Direction,
    pub(super) http: Option<&'a mut Exchange>,
    /// The next bytes from the client begin a request, as far as the log is concerned.
    pub(super) turn: &'a mut bool,
    pub(super) buffers: &'a mut RelayBuffers,
    pub(super) observer: Observer<'a>,
}

/// Whoever wants to know what the bytes are.
pub(super) struct Observer<'a> {
    pub(super) log: &'a mut RequestLog,
    pub(super) messages: &'a Messages,
    /// `-d -d -d`: every chunk is shown.
    pub(super) dumping: bool,
    pub(super) ascii: bool,
    pub(super) client: &'a ClientAddress,
    pub(super) server: &'a SocketAddress,
}

impl Observer<'_> {
    /// The log wants to know with what each request begins.
    pub(super) fn is_logging(&self) -> bool {
        self.log.wants_lines()
    }

    /// A request begins with these bytes.
    pub(super) fn record(&mut self, bytes: &[u8]) {
        if self.log.wants_lines() {
            self.log.record(self.client, &Host(self.server), clock::wall(), bytes);
        }
    }

    /// These bytes were read.
    pub(super) fn show(&self, chunk: &[u8]) {
        if self.dumping {
            self.messages.raw(&dump(chunk, self.ascii));
        }
    }
}

/// What a direction came to in a turn.
type Moved = Result<Progress, Broken>;

impl Turn<'_> {
    /// Moves what can be moved now: what came of it from the client to the server, and back. `broken`: what has turned
    /// out already of one direction, the one that the side's bytes take.
    pub(super) fn run(&mut self, broken: Option<(Side, Broken)>) -> (Moved, Moved) {
        let (mut broken_up, mut broken_down) = (None, None);
        match broken {
            Some((Side::Client, broken)) => broken_up = Some(broken),
            Some((Side::Server, broken)) => broken_down = Some(broken),
            None => {}
        }
        let mut moved_up = broken_up.map_or_else(|| self.pump_up(), Err);
        self.look_after(&moved_up);
        let was_held_up = self.http.as_ref().is_some_and(|http| !http.is_open());
        let mut moved_down = broken_down.map_or_else(|| self.pump_down(), Err);
        match (&moved_up, &moved_down) {
            (Ok(_), Err(Broken::Sink(_))) => {
                // The same of the client: its last words.
                self.client.suspect();
                moved_up = self.pump_up();
            }
            (&Ok(first), Ok(_)) if was_held_up && self.http.as_ref().is_some_and(|http| http.may_go_on()) => {
                // A response was what the client's bytes have waited for.
                moved_up = self.pump_up().map(|second| first.and(second));
                self.look_after(&moved_up);
                if moved_up.is_err() {
                    moved_down = self.pump_down();
                }
            }
            _ => {}
        }
        (moved_up, moved_down)
    }

    /// What a server that is gone has sent before may be a whole answer.
    fn look_after(&mut self, moved_up: &Moved) {
        if let Err(Broken::Sink(error)) = moved_up {
            self.up.abandon(error, self.buffers);
            self.server.suspect();
        }
    }

    fn pump_up(&mut self) -> Moved {
        let Turn { client, server, up, buffers, turn, observer, .. } = self;
        let Some(exchange) = self.http.as_deref_mut() else {
            if up.is_at_rest(client, server) {
                return Ok(Progress::default());
            }
            let splice = !(observer.dumping || observer.is_logging() && **turn);
            let see = |chunk: &[u8]| {
                if std::mem::take(*turn) {
                    observer.record(chunk);
                }
                observer.show(chunk);
            };
            return up.pump(client, server, buffers, &mut Shown { splice, see });
        };
        up.pump(client, server, buffers, &mut Requests { exchange, turn, observer })
    }

    fn pump_down(&mut self) -> Moved {
        let Turn { client, server, up, down, buffers, observer, .. } = self;
        let Some(exchange) = self.http.as_deref_mut() else {
            if down.is_at_rest(server, client) {
                return Ok(Progress::default());
            }
            let see = |chunk: &[u8]| observer.show(chunk);
            return down.pump(server, client, buffers, &mut Shown { splice: !observer.dumping, see });
        };
        down.pump(server, client, buffers, &mut Responses { exchange, observer, reset: up.was_reset() })
    }
}

/// The server's address as the log shows it: without the port.
struct Host<'a>(&'a SocketAddress);

impl std::fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            SocketAddress::Inet(inet) => inet.ip().fmt(f),
            SocketAddress::Unix(path) => path.display().fmt(f),
        }
    }
}
