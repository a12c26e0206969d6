//! From an accepted client to a connected server, by way of as many servers as it takes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::model::address::ClientAddress;
use crate::model::ids::ConnId;
use crate::policy::acl::Verdicts;
use crate::shared::clients::ClientRef;
use crate::shared::visits::{self, Reservation};
use crate::sys::poller::Readiness;
use crate::sys::reason::words;
use crate::sys::socket::{self, ConnectOptions};

use super::connection::{Connection, Ending, Key, Phase, Which};
use super::deadlines::Link;
use super::event_loop::Worker;
use super::relay::{Flow, Side};

/// Somebody who waits for a server.
#[derive(Clone, Copy)]
struct Guest {
    conn: ConnId,
    address: ClientAddress,
    visitor: ClientRef,
    verdicts: Verdicts,
}

/// A server that a connect to is under way, or done.
struct Found {
    server: OwnedFd,
    established: bool,
    reservation: Reservation,
}

impl Worker<'_> {
    /// A client has been accepted; its slot is claimed.
    pub(super) fn welcome(&mut self, client: OwnedFd, address: ClientAddress, conn: ConnId) {
        self.region.workers().opened(self.id);
        let verdicts = self.lists.verdicts(&address);
        let visit = visits::begin(self.region, self.id, &self.terms, address, verdicts, self.now);
        let guest = Guest { conn, address, visitor: visit.client, verdicts };
        let client = Side::client(client);
        if self.settings.dummy {
            if let Some(reservation) = visit.reservation {
                visits::give_back(self.region, self.id, reservation);
            }
            let key = self.admit(guest, Phase::Answering { client, answered: false });
            self.answering.join(&mut self.connections, key, self.now);
            if self.watch(key, Which::Client).is_err() {
                self.close(key, Ending::Closed);
            }
            return;
        }
        let Some(Found { server, established, reservation }) = self.seek(&guest, visit.reservation) else {
            drop(client);
            return self.forget_slot(conn);
        };
        let key = self.admit(guest, Phase::Connecting { client, server, reservation });
        self.region.workers().connecting(self.id, true);
        self.connecting.join(&mut self.connections, key, self.now);
        if self.watch(key, Which::Client).and_then(|()| self.watch(key, Which::Server)).is_err() {
            return self.close(key, Ending::Closed);
        }
        if established {
            self.establish(key, None);
        }
    }

    /// The guest becomes a connection.
    fn admit(&mut self, guest: Guest, phase: Phase) -> Key {
        let key = self.connections.insert(Connection {
            phase,
            conn: guest.conn,
            client: guest.address,
            visitor: guest.visitor,
            verdicts: guest.verdicts,
            link: Link::default(),
            turn: true,
            queued: false,
        });
        self.describe(key);
        key
    }

    /// Tries one server after the other until a connect is at least under way. None: nobody takes this client.
    fn seek(&mut self, guest: &Guest, mut next: Option<Reservation>) -> Option<Found> {
        let options = ConnectOptions { source: self.settings.source, keepalive: self.settings.keepalive };
        while let Some(reservation) = next {
            match socket::connect(&reservation.address, options) {
                Ok(attempt) => {
                    if let Some(error) = attempt.unbound {
                        self.messages.debug(1, format_args!("cannot bind to the source address: {error}"));
                    }
                    return Some(Found {
                        server: attempt.socket,
                        established: attempt.established,
                        reservation,
                    });
                }
                Err(error) => next = self.give_up(guest, reservation, &error),
            }
        }
        self.messages.debug(1, format_args!("no server for client {}", guest.address));
        None
    }

    /// A server failed a client: a place on the next one, if there is one.
    fn give_up(&mut self, guest: &Guest, failed: Reservation, error: &io::Error) -> Option<Reservation> {
        let (shun, error) = (!socket::is_our_lack(error), words(error));
        let (target, address, blacklist) = (failed.target, &failed.address, self.terms.blacklist);
        if shun && blacklist.0 > 0 {
            self.messages
                .note(format_args!("server {target} ({address}): {error}; left alone for {blacklist} s"));
        } else {
            self.messages.debug(1, format_args!("server {target} ({address}): {error}"));
        }
        let client = (guest.address, guest.visitor);
        visits::fail(self.region, self.id, &self.terms, client, guest.verdicts, failed, shun, self.now)
    }

    /// The poller has news of a socket that is connecting.
    pub(super) fn connect_answered(&mut self, key: Key, readiness: Readiness) {
        let Some(Phase::Connecting { server, .. }) = self.connections.get(key).map(|it| &it.phase) else {
            return;
        };
        if readiness.broken() {
            let error =
                socket::take_error(server.as_fd()).unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
            self.connect_failed(key, &error);
        } else if readiness.writable() {
            self.establish(key, Some(readiness));
        }
    }

    /// The connect under way has failed or taken too long: on to the next server.
    pub(super) fn connect_failed(&mut self, key: Key, error: &io::Error) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let guest = Guest {
            conn: connection.conn,
            address: connection.client,
            visitor: connection.visitor,
            verdicts: connection.verdicts,
        };
        let Phase::Connecting { client, server, reservation } =
            std::mem::replace(&mut connection.phase, Phase::Between)
        else {
            return;
        };
        self.connecting.leave(&mut self.connections, key);
        // Closed before its place is given back, so that the server never sees one connection too many.
        drop(server);
        let next = self.give_up(&guest, reservation, error);
        let Some(Found { server, established, reservation }) = self.seek(&guest, next) else {
            self.connections.remove(key);
            drop(client);
            self.region.workers().connecting(self.id, false);
            return self.forget_slot(guest.conn);
        };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.phase = Phase::Connecting { client, server, reservation };
        }
        self.connecting.join(&mut self.connections, key, self.now);
        self.describe(key);
        if self.watch(key, Which::Server).is_err() {
            return self.close(key, Ending::Closed);
        }
        if established {
            self.establish(key, None);
        }
    }

    /// The server has answered: bytes may flow. `readiness`: what else the poller said, and will not say again.
    fn establish(&mut self, key: Key, readiness: Option<Readiness>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Phase::Connecting { client, server, reservation } =
            std::mem::replace(&mut connection.phase, Phase::Between)
        else {
            return;
        };
        visits::established(self.region, self.id, &self.terms, connection.visitor, &reservation, self.now);
        let mut server = Side::server(server);
        if let Some(readiness) = readiness {
            server.note(readiness);
        }
        connection.phase =
            Phase::Relaying { client, server, up: Flow::default(), down: Flow::default(), reservation };
        self.region.slots().set_state(connection.conn, super::connection::state::CONNECTED);
        self.connecting.leave(&mut self.connections, key);
        self.relaying.join(&mut self.connections, key, self.now);
        self.region.workers().connecting(self.id, false);
        self.ring_if_awaited();
        self.relay(key);
    }
}
