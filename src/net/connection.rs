//! One client's connection, from accept to close.
//!
//! | phase      | client has something  | client is gone     | server is ready       | server is gone        |
//! |------------|-----------------------|--------------------|-----------------------|-----------------------|
//! | Connecting | noted, read later     | closed             | Relaying              | next server, or closed|
//! | Relaying   | moved to the server   | server is reset    | moved to the client   | client is reset       |
//! | Answering  | answered, then ignored| closed             | –                     | –                     |
//!
//! Every way out leads through `Worker::close`, which gives back the slot, the place on the server and the
//! descriptors exactly once.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::model::address::{ClientAddress, SocketAddress};
use crate::model::ids::ConnId;
use crate::model::settings::FastClose;
use crate::policy::acl::Verdicts;
use crate::report::dump::dump;
use crate::shared::clients::ClientRef;
use crate::shared::visits::{self, Reservation};
use crate::sys::poller::Readiness;
use crate::sys::{clock, socket};

use super::deadlines::Link;
use super::event_loop::Worker;
use super::relay::{Broken, Course, Flow, Side, Turn};

slotmap::new_key_type! {
    /// Names a connection for as long as it exists; never another one after that.
    pub struct Key;
}

/// The classic's bits for the state column of reports.
pub mod state {
    /// A connect is under way.
    pub const CONNECTING: u32 = 1;
    /// Bytes flow.
    pub const CONNECTED: u32 = 2;
    /// The server has ended its stream.
    pub const SERVER_ENDED: u32 = 4;
    /// The client has ended its stream.
    pub const CLIENT_ENDED: u32 = 8;
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    pub(super) phase: Phase,
    /// Its slot in the connection table.
    pub(super) conn: ConnId,
    /// Who it is for. Kept here, because the slot of the client table may get another owner meanwhile.
    pub(super) client: ClientAddress,
    pub(super) visitor: ClientRef,
    pub(super) verdicts: Verdicts,
    /// Its place in the queue of its phase.
    pub(super) link: Link,
    /// The next bytes from the client begin a request, as far as the log is concerned.
    pub(super) turn: bool,
    /// It is on the list of those with more to do.
    pub(super) queued: bool,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// connect(2) is under way. The client's bytes wait in the kernel.
    Connecting { client: Side, server: OwnedFd, reservation: Reservation },
    /// Bytes flow; each direction ends on its own.
    Relaying { client: Side, server: Side, up: Flow, down: Flow, reservation: Reservation },
    /// `dummy`: waits for a request (or has answered it, and waits for the client to close).
    Answering { client: Side, answered: bool },
    /// Taken apart, for as long as it takes to put the next phase together.
    Between,
}

/// Which socket of a connection an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Client,
    Server,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Both streams came to their end, or time is up.
    Closed,
    /// One side is broken: the other gets a reset, so that it does not take this for an end.
    Reset,
}

impl Worker<'_> {
    /// The poller has news of one of a connection's sockets.
    pub(super) fn advance(&mut self, key: Key, which: Which, readiness: Readiness) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match (&mut connection.phase, which) {
            (Phase::Connecting { client, .. }, Which::Client) => {
                client.note(readiness);
                if readiness.failed() {
                    self.close(key, Ending::Closed);
                }
            }
            (Phase::Connecting { .. }, Which::Server) => self.connect_answered(key, readiness),
            (Phase::Relaying { client, .. }, Which::Client) => {
                client.note(readiness);
                self.relay(key);
            }
            (Phase::Relaying { server, .. }, Which::Server) => {
                server.note(readiness);
                self.relay(key);
            }
            (Phase::Answering { client, .. }, Which::Client) => {
                client.note(readiness);
                self.answer(key);
            }
            (Phase::Answering { .. }, Which::Server) | (Phase::Between, _) => {}
        }
    }

    /// Moves bytes both ways, as far as they go now.
    pub(super) fn relay(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Phase::Relaying { client, server, up, down, reservation } = &mut connection.phase else {
            return;
        };

        let (dumping, ascii) = (self.settings.debug >= 3, self.settings.ascii);
        let logging = self.log.enabled();
        let splice_up = !(dumping || logging && connection.turn);
        let before = (up.bytes(), down.bytes());
        let (log, messages, turn) = (&mut self.log, &self.messages, &mut connection.turn);
        let moved_up = up.pump(client, server, &mut self.means, splice_up, |chunk| {
            if logging && std::mem::take(turn) {
                log.record(&connection.client, &host(&reservation.address), clock::wall(), chunk);
            }
            if dumping {
                messages.raw(&dump(chunk, ascii));
            }
        });
        let moved_down = down.pump(server, client, &mut self.means, !dumping, |chunk| {
            if dumping {
                messages.raw(&dump(chunk, ascii));
            }
        });

        let (bytes_up, bytes_down) = (up.bytes() - before.0, down.bytes() - before.1);
        if bytes_up + bytes_down > 0 {
            visits::count(self.region, self.id, reservation, bytes_up, bytes_down);
        }
        connection.turn |= bytes_down > 0;
        let (up_turn, down_turn) = match (moved_up, moved_down) {
            (Ok(up), Ok(down)) => (up, down),
            (Err(broken), _) => return self.broken(key, Which::Client, &broken),
            (_, Err(broken)) => return self.broken(key, Which::Server, &broken),
        };
        if up_turn.active || down_turn.active {
            let (held_up, held_down) = (up.held() as u32, down.held() as u32);
            self.region.slots().progress(connection.conn, up.bytes(), down.bytes(), held_up, held_down);
        }
        if up_turn.ended || down_turn.ended {
            let fast = self.settings.tcp_fastclose;
            let over = (up.course() == Course::Ended && down.course() == Course::Ended)
                || (up_turn.ended && matches!(fast, FastClose::Down | FastClose::Both))
                || (down_turn.ended && matches!(fast, FastClose::Up | FastClose::Both));
            if over {
                return self.close(key, Ending::Closed);
            }
            if up_turn.ended {
                socket::shutdown_write(server.socket().as_fd());
            }
            if down_turn.ended {
                socket::shutdown_write(client.socket().as_fd());
            }
            let bits = state::CONNECTED
                | if down.course() == Course::Ended { state::SERVER_ENDED } else { 0 }
                | if up.course() == Course::Ended { state::CLIENT_ENDED } else { 0 };
            self.region.slots().set_state(connection.conn, bits);
        }
        self.after_turn(key, up_turn, down_turn);
    }

    fn after_turn(&mut self, key: Key, up: Turn, down: Turn) {
        if up.active || down.active {
            self.relaying.touch(&mut self.connections, key, self.now);
        }
        if up.again || down.again {
            self.come_back_to(key);
        }
    }

    /// The connection has more to do than its turn allowed.
    fn come_back_to(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.unfinished.push_back(key);
        }
    }

    /// A direction is broken: `source` is the side that it reads from.
    fn broken(&mut self, key: Key, source: Which, broken: &Broken) {
        let (side, error) = match (source, broken) {
            (Which::Client, Broken::Source(error)) | (Which::Server, Broken::Sink(error)) => {
                ("client", error)
            }
            (Which::Server, Broken::Source(error)) | (Which::Client, Broken::Sink(error)) => {
                ("server", error)
            }
        };
        if let Some(connection) = self.connections.get(key) {
            self.messages.debug(1, format_args!("connection {}: {side}: {error}", connection.conn));
        }
        self.close(key, Ending::Reset);
    }

    /// `dummy`: any request gets the same page, then the connection ends.
    pub(super) fn answer(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Phase::Answering { client, answered } = &mut connection.phase else {
            return;
        };
        // What comes after the first chunk is read and ignored: closing on unread bytes would be a reset, which
        // can overtake the answer.
        while client.readable() {
            match client.receive(&mut self.means.scratch) {
                Ok(Some(count)) if count > 0 => {
                    if !std::mem::replace(answered, true) {
                        // A page of a few hundred bytes always fits into an empty socket.
                        let sent = client.send(&self.page).is_ok_and(|sent| sent == self.page.len());
                        socket::shutdown_write(client.socket().as_fd());
                        if !sent {
                            return self.close(key, Ending::Reset);
                        }
                    }
                }
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => return self.close(key, Ending::Closed),
            }
        }
    }

    /// Ends a connection, whatever its phase: everything that it holds is given back, once.
    pub(super) fn close(&mut self, key: Key, ending: Ending) {
        let queue = match self.connections.get(key).map(|connection| &connection.phase) {
            None | Some(Phase::Between) => return,
            Some(Phase::Connecting { .. }) => &mut self.connecting,
            Some(Phase::Relaying { .. }) => &mut self.relaying,
            Some(Phase::Answering { .. }) => &mut self.answering,
        };
        queue.leave(&mut self.connections, key);
        let Some(connection) = self.connections.remove(key) else {
            return;
        };
        match connection.phase {
            Phase::Connecting { server, reservation, .. } => {
                drop(server);
                visits::give_back(self.region, self.id, reservation);
                self.region.workers().connecting(self.id, false);
            }
            Phase::Relaying { client, server, mut up, mut down, reservation } => {
                if ending == Ending::Reset {
                    socket::reset_on_close(client.socket().as_fd());
                    socket::reset_on_close(server.socket().as_fd());
                }
                up.drop_held(&mut self.means);
                down.drop_held(&mut self.means);
                self.region.clients().count(connection.visitor, up.bytes(), down.bytes());
                // Closed before its place is given back, so that the server never sees one connection too many.
                drop(server);
                visits::give_back(self.region, self.id, reservation);
            }
            Phase::Answering { client, .. } => drop(client),
            Phase::Between => {}
        }
        self.forget_slot(connection.conn);
    }

    /// The slot of a connection that is over (or never began) is free for another.
    pub(super) fn forget_slot(&mut self, conn: ConnId) {
        self.region.slots().release(&mut self.finder, conn);
        self.region.workers().closed(self.id);
        self.ring_if_awaited();
    }

    /// Shows the connection's sockets and its server in its slot.
    pub(super) fn describe(&self, key: Key) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let (client, server, target, bits) = match &connection.phase {
            Phase::Connecting { client, server, reservation } => {
                (client, server.as_raw_fd(), Some(reservation.target), state::CONNECTING)
            }
            Phase::Relaying { client, server, reservation, .. } => {
                (client, server.socket().as_raw_fd(), Some(reservation.target), state::CONNECTED)
            }
            Phase::Answering { client, .. } => (client, -1, None, state::CONNECTED),
            Phase::Between => return,
        };
        let client = client.socket().as_raw_fd();
        let visitor = Some(connection.visitor.id);
        self.region.slots().describe(connection.conn, visitor, target, bits, client, server);
    }
}

/// The server's address as the log shows it: without the port.
fn host(address: &SocketAddress) -> Host<'_> {
    Host(address)
}

struct Host<'a>(&'a SocketAddress);

impl std::fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            SocketAddress::Inet(inet) => inet.ip().fmt(f),
            SocketAddress::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
impl Connection {
    pub(super) fn for_tests(phase: Phase) -> Self {
        Connection {
            phase,
            conn: ConnId(0),
            client: ClientAddress::Unix,
            visitor: ClientRef { id: crate::model::ids::ClientId(0), tag: 0 },
            verdicts: Verdicts::ALL,
            link: Link::default(),
            turn: true,
            queued: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_takes_less_than_half_a_kilobyte() {
        assert!(size_of::<Connection>() < 512, "{} bytes", size_of::<Connection>());
    }
}
