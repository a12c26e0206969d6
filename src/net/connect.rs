//! From an accepted client to a connected server, by way of as many servers as it takes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::model::address::{ClientAddress, SocketAddress};
use crate::model::ids::ConnId;
use crate::policy::acl::Verdicts;
use crate::shared::clients::ClientRef;
use crate::shared::slots::Shortage;
use crate::shared::visits::{self, Reservation};
use crate::sys::poller::Readiness;
use crate::sys::reason::words;
use crate::sys::socket::{self, ConnectOptions};

use super::connection::{Connection, Ending, Key, Phase, Side};
use super::deadlines::Link;
use super::event_loop::Worker;
use super::relay::{Direction, Endpoint};

/// Somebody who waits for a server.
#[derive(Clone, Copy)]
struct Arrival {
    conn: ConnId,
    address: ClientAddress,
    visitor: ClientRef,
    verdicts: Verdicts,
}

/// A server that a connect to is under way, or done.
struct Connect {
    server: OwnedFd,
    established: bool,
    reservation: Reservation,
}

impl Worker<'_> {
    /// A client has been accepted; its slot is claimed.
    pub(super) fn admit(&mut self, client: OwnedFd, address: ClientAddress, conn: ConnId) {
        self.region.workers().opened(self.id);
        let country = |address| self.countries.as_ref()?.country(address);
        let verdicts = self.lists.verdicts(&address, country);
        let visit = visits::begin(self.region, self.id, &self.terms, address, verdicts, self.now);
        let arrival = Arrival { conn, address, visitor: visit.client, verdicts };
        let client = Endpoint::client(client, address == ClientAddress::Unix);
        if self.settings.dummy {
            if let Some(reservation) = visit.reservation {
                visits::give_back(self.region, self.id, reservation);
            }
            let key = self.insert(arrival, Phase::Answering { client });
            self.answering.join(&mut self.connections, key, self.now);
            if self.watch(key, Side::Client).is_err() {
                self.close(key, Ending::Closed);
            }
            return;
        }
        let Some(Connect { server, established, reservation }) =
            self.connect_any(&arrival, visit.reservation)
        else {
            drop(client);
            return self.release_slot(conn);
        };
        let key = self.insert(arrival, Phase::Connecting { client, server, reservation });
        self.region.workers().connecting(self.id, true);
        self.connecting.join(&mut self.connections, key, self.now);
        if self.watch(key, Side::Client).and_then(|()| self.watch(key, Side::Server)).is_err() {
            return self.close(key, Ending::Closed);
        }
        if established {
            self.establish(key, None, None);
        }
    }

    /// The arrival becomes a connection.
    fn insert(&mut self, arrival: Arrival, phase: Phase) -> Key {
        let key = self.connections.insert(Connection {
            phase,
            conn: arrival.conn,
            client: arrival.address,
            visitor: arrival.visitor,
            verdicts: arrival.verdicts,
            link: Link::default(),
            turn: true,
            queued: false,
        });
        self.describe(key);
        key
    }

    /// Tries one server after the other until a connect is at least under way. None: nobody takes this client.
    fn connect_any(&mut self, arrival: &Arrival, mut next: Option<Reservation>) -> Option<Connect> {
        let options = ConnectOptions { source: self.settings.source, keepalive: self.settings.keepalive };
        while let Some(reservation) = next {
            match socket::connect(&reservation.address, options) {
                Ok(attempt) => {
                    if let Some(error) = attempt.unbound {
                        self.messages
                            .debug(1, format_args!("cannot bind to the source address: {}", words(&error)));
                    }
                    return Some(Connect {
                        server: attempt.socket,
                        established: attempt.established,
                        reservation,
                    });
                }
                Err(error) if socket::is_exhaustion(&error) => {
                    // Another server needs a descriptor as well.
                    visits::give_back(self.region, self.id, reservation);
                    self.lack_descriptors();
                    return None;
                }
                Err(error) => next = self.server_failed(arrival, reservation, &error),
            }
        }
        self.messages.debug(1, format_args!("no server for client {}", arrival.address));
        None
    }

    /// A server failed a client: a place on the next one, if there is one.
    fn server_failed(
        &mut self,
        arrival: &Arrival,
        failed: Reservation,
        error: &io::Error,
    ) -> Option<Reservation> {
        let shun = !socket::is_our_lack(error);
        let error = words(error);
        let (target, address, blacklist) = (failed.target, &failed.address, self.terms.blacklist);
        if shun && blacklist.0 > 0 {
            self.messages
                .note(format_args!("server {target} ({address}): {error}; left alone for {blacklist} s"));
        } else if !shun && self.region.slots().tell_now(Shortage::Ports, self.now) {
            self.messages.note(format_args!(
                "cannot connect to server {target} ({address}): {error}: all local ports are in use; \
                 widen net.ipv4.ip_local_port_range or add servers"
            ));
        } else {
            self.messages.debug(1, format_args!("server {target} ({address}): {error}"));
        }
        let client = (arrival.address, arrival.visitor);
        visits::fail(self.region, self.id, &self.terms, client, arrival.verdicts, failed, shun, self.now)
    }

    /// The poller has news of a socket that is connecting.
    pub(super) fn connect_answered(&mut self, key: Key, readiness: Readiness) {
        let Some(Phase::Connecting { server, .. }) = self.connections.get(key).map(|it| &it.phase) else {
            return;
        };
        if readiness.broken() {
            let error =
                socket::take_error(server.as_fd()).unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
            // Refused is what a connect can be. Reset it can only be when it was made: no failure of connecting.
            if error.kind() == io::ErrorKind::ConnectionReset {
                self.establish(key, Some(readiness), Some(&error));
            } else {
                self.connect_failed(key, &error);
            }
        } else if readiness.writable() {
            self.establish(key, Some(readiness), None);
        }
    }

    /// The connect under way has failed or taken too long: on to the next server.
    pub(super) fn connect_failed(&mut self, key: Key, error: &io::Error) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let arrival = Arrival {
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
        let next = self.server_failed(&arrival, reservation, error);
        let Some(Connect { server, established, reservation }) = self.connect_any(&arrival, next) else {
            self.connections.remove(key);
            drop(client);
            self.region.workers().connecting(self.id, false);
            return self.release_slot(arrival.conn);
        };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.phase = Phase::Connecting { client, server, reservation };
        }
        self.connecting.join(&mut self.connections, key, self.now);
        self.describe(key);
        if self.watch(key, Side::Server).is_err() {
            return self.close(key, Ending::Closed);
        }
        if established {
            self.establish(key, None, None);
        }
    }

    /// The server has answered: bytes may flow. `readiness`: what else the poller said, and will not say again.
    /// `reset`: the server has done so since.
    fn establish(&mut self, key: Key, readiness: Option<Readiness>, reset: Option<&io::Error>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Phase::Connecting { client, server, reservation } =
            std::mem::replace(&mut connection.phase, Phase::Between)
        else {
            return;
        };
        visits::established(self.region, self.id, &self.terms, connection.visitor, &reservation, self.now);
        let unix = matches!(reservation.address, SocketAddress::Unix(_));
        let mut server = Endpoint::server(server, unix);
        if let Some(readiness) = readiness {
            server.note(readiness);
        }
        let mut up = Direction::default();
        if let Some(error) = reset {
            up.abandon(error, &mut self.buffers);
            server.suspect();
        }
        connection.phase = Phase::Relaying { client, server, up, down: Direction::default(), reservation };
        self.region.slots().set_state(connection.conn, super::connection::state::CONNECTED);
        self.connecting.leave(&mut self.connections, key);
        self.relaying.join(&mut self.connections, key, self.now);
        self.region.workers().connecting(self.id, false);
        self.ring_if_awaited();
        self.relay(key);
    }
}
