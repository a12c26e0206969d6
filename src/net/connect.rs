//! From an accepted client to a connected server, by way of as many servers as it takes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use slotmap::Key as _;

use crate::model::address::{ClientAddress, SocketAddress};
use crate::model::ids::{ConnId, Target};
use crate::model::proxy::ProxySend;
use crate::model::record::Ended;
use crate::model::settings::Settings;
use crate::policy::acl::Verdicts;
use crate::policy::routes::ServerSet;
use crate::shared::clients::ClientRef;
use crate::shared::slots::Shortage;
use crate::shared::visits::{self, Reservation};
use crate::sys::poller::Readiness;
use crate::sys::reason::words;
use crate::sys::socket::{self, ConnectOptions, Source};

use super::connection::{Connection, Ending, Key, Phase, state};
use super::endpoint::Endpoint;
use super::event_loop::{Worker, token};
use super::http::exchange;
use super::pair::{Pair, Side, Stage};

/// Somebody who waits for a server.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) address: ClientAddress,
    pub(super) visitor: ClientRef,
    pub(super) verdicts: Verdicts,
    pub(super) among: Option<Rc<ServerSet>>,
    /// How many servers were tried.
    pub(super) attempts: u16,
}

impl Arrival {
    /// None: its visit has not begun.
    fn of(connection: &Connection) -> Option<Self> {
        let Connection { client: address, visitor, verdicts, attempts, .. } = *connection;
        Some(Arrival { address, visitor: visitor?, verdicts, among: connection.among.clone(), attempts })
    }
}

/// A server that a connect to is under way, or done.
struct Connect {
    server: Endpoint,
    established: bool,
    reservation: Reservation,
}

impl Worker<'_> {
    /// A client has been accepted; its slot is claimed.
    pub(super) fn admit(&mut self, client: OwnedFd, address: ClientAddress, conn: ConnId) {
        self.region.workers().opened(self.id);
        let verdicts = self.verdicts_on(&address);
        let key = self.connections.insert_with_key(|_| Connection::new(conn, address, verdicts));
        match self.settings.proxy_accept {
            None => self.welcome(key, client, address == ClientAddress::Unix),
            Some(list) => self.expect_header(key, client, verdicts.permits(list)),
        }
    }

    /// What the access lists say of a client.
    pub(super) fn verdicts_on(&self, client: &ClientAddress) -> Verdicts {
        self.lists.verdicts(client, |address| self.countries.as_ref()?.country(address))
    }

    /// It is known who a client is, and nothing more. Its connection is in no queue, its phase is `Between`, its socket
    /// is not registered. `unix`: that is a Unix socket.
    pub(super) fn welcome(&mut self, key: Key, client: OwnedFd, unix: bool) {
        let Some(&Connection { verdicts, .. }) = self.connections.get(key) else {
            return;
        };
        if self.tls.terminate() {
            return self.begin_handshake(key, client, unix);
        }
        let client = Endpoint::client(client, unix);
        match self.has_to_peek(verdicts) {
            true => self.begin_peeking(key, client),
            false => self.visit(key, client, false),
        }
    }

    /// The client may have a server: it is noted, a server chosen, a place reserved, and a connect begun. The
    /// connection is in no queue, its phase is `Between`. `watched`: the client's socket is registered already.
    pub(super) fn visit(&mut self, key: Key, client: Endpoint, watched: bool) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let (address, verdicts, among) = (connection.client, connection.verdicts, connection.among.clone());
        let visit =
            visits::begin(self.region, self.id, &self.terms, address, verdicts, among.as_deref(), self.now);
        connection.visitor = Some(visit.client);
        let mut arrival = Arrival { address, visitor: visit.client, verdicts, among, attempts: 0 };
        if self.settings.dummy {
            if let Some(reservation) = visit.reservation {
                visits::give_back(self.region, self.id, reservation);
            }
            let readable = client.readable();
            connection.phase = Phase::Answering { client };
            self.answering.join(&mut self.connections, key, self.now);
            self.describe(key);
            if !watched && self.watch_client(key).is_err() {
                return self.close(key, Ending::Closed, Ended::NoResources);
            }
            if readable {
                self.answer(key);
            }
            return;
        }
        match self.connect_any(&mut arrival, visit.reservation) {
            Ok(connect) => {
                self.region.workers().connecting(self.id, true);
                self.await_connect(key, client, watched, connect, arrival.attempts);
            }
            Err(why) => self.without_server(key, client, watched, arrival.attempts, why),
        }
    }

    /// A connect to a server is under way, or done, and counted as under way. The connection is in no queue, its phase is
    /// `Between`. `watched`: the client's socket is registered already.
    #[inline]
    fn await_connect(&mut self, key: Key, client: Endpoint, watched: bool, connect: Connect, attempts: u16) {
        let Connect { server, established, reservation } = connect;
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.attempts = attempts;
        let name = key.data().as_ffi();
        let client_watched = match watched {
            true => Ok(()),
            false => self.poller.add_stream(client.socket().as_fd(), name),
        };
        let server_watched = self.poller.add_stream(server.socket().as_fd(), name | token::SERVER);
        let fds = (client.socket().as_raw_fd(), server.socket().as_raw_fd());
        connection.show(self.region, fds, Some(&reservation), state::CONNECTING);
        let pair = Pair::new(client, server, reservation);
        connection.phase = Phase::Paired { stage: Stage::Connecting, pair };
        self.connecting.join(&mut self.connections, key, self.now);
        if client_watched.and(server_watched).is_err() {
            return self.close(key, Ending::Closed, Ended::NoResources);
        }
        if established {
            self.establish(key, None, None);
        }
    }

    /// No server was found for this client. If the list of servers is a newer one than the client was looked after with,
    /// that says nothing: it comes again, as soon as this worker has been told what belongs to that list.
    fn without_server(&mut self, key: Key, client: Endpoint, watched: bool, attempts: u16, why: Ended) {
        let newest = self.region.servers().generation();
        let told = self.settings.generation == newest;
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.attempts = attempts;
        let among = connection.among.take();
        if told && among.is_none_or(|set| set.generation() == newest) {
            return self.turn_away(key, client, why);
        }
        connection.phase = Phase::Waiting { client };
        self.peeking.join(&mut self.connections, key, self.now);
        self.describe(key);
        if !watched && self.watch_client(key).is_err() {
            return self.close(key, Ending::Closed, Ended::NoResources);
        }
        if told {
            self.call(key);
        }
    }

    /// This worker has been told something: those that wait for that come again.
    pub(super) fn call_the_waiting(&mut self) {
        let waiting = self.connections.iter().filter(|(_, it)| matches!(it.phase, Phase::Waiting { .. }));
        for key in waiting.map(|(key, _)| key).collect::<Vec<Key>>() {
            self.call(key);
        }
    }

    /// A connection that waits comes again, as if it had just been accepted.
    fn call(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let verdicts = connection.verdicts;
        let client = match std::mem::replace(&mut connection.phase, Phase::Between) {
            Phase::Waiting { client } => client,
            other => {
                connection.phase = other;
                return;
            }
        };
        // What it said first is still in its socket.
        if !client.is_secured() && self.has_to_peek(verdicts) {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.phase = Phase::Peeking { client };
            }
            return self.peek(key, false);
        }
        self.peeking.leave(&mut self.connections, key);
        self.visit(key, client, true);
    }

    /// Nobody takes this client. The connection is in no queue, its phase is `Between`.
    pub(super) fn turn_away(&mut self, key: Key, client: Endpoint, why: Ended) {
        if let Some(connection) = self.connections.remove(key) {
            self.log_turned_away(&connection, Some(&client), why);
            client.part();
            self.release_slot(connection.conn);
        }
    }

    /// A connection that holds nothing any more but its slot is over.
    pub(super) fn forget(&mut self, key: Key, why: Ended) {
        if let Some(connection) = self.connections.remove(key) {
            self.log_turned_away(&connection, None, why);
            self.release_slot(connection.conn);
        }
    }

    /// Tries one server after the other until a connect is at least under way. Else nobody takes this client, and why.
    fn connect_any(
        &mut self,
        arrival: &mut Arrival,
        mut next: Option<Reservation>,
    ) -> Result<Connect, Ended> {
        while let Some(reservation) = next {
            let identity = self.identities.get(&reservation.tls);
            if reservation.tls != 0 && identity.is_none() {
                // This worker has not been told yet how to speak TLS to it.
                visits::give_back(self.region, self.id, reservation);
                return Err(self.unserved(arrival));
            }
            arrival.attempts = arrival.attempts.saturating_add(1);
            let source = source(&self.settings, arrival.address, &reservation.address);
            let options = ConnectOptions { source, keepalive: self.settings.keepalive };
            match socket::connect(&reservation.address, options) {
                Ok(attempt) => {
                    if let Some(error) = attempt.unbound {
                        self.tell_unbound(arrival, source, &error);
                    }
                    let unix = matches!(reservation.address, SocketAddress::Unix(_));
                    let server = match identity {
                        None => Endpoint::server(attempt.socket, unix),
                        Some(identity) => match self.tls.connect(identity, attempt.socket, &self.outbox) {
                            Ok(secured) => Endpoint::server(secured, unix),
                            Err(error) => {
                                next = self.pass_over(arrival, reservation, &words(&error));
                                continue;
                            }
                        },
                    };
                    return Ok(Connect { server, established: attempt.established, reservation });
                }
                Err(error) if socket::is_exhaustion(&error) => {
                    // Another server needs a descriptor as well.
                    visits::give_back(self.region, self.id, reservation);
                    self.lack_descriptors();
                    return Err(Ended::NoResources);
                }
                Err(error) => next = self.server_failed(arrival, reservation, &error),
            }
        }
        self.messages.debug(1, format_args!("no server for client {}", arrival.address));
        Err(self.unserved(arrival))
    }

    /// Why nobody takes this client.
    pub(super) fn unserved(&self, arrival: &Arrival) -> Ended {
        if arrival.attempts > 0 {
            Ended::ConnectFailed
        } else if !arrival.verdicts.permits(self.terms.rules.client_acl) {
            Ended::ClientRefused
        } else {
            Ended::NoServer
        }
    }

    pub(super) fn tell_unbound(&self, arrival: &Arrival, source: Option<Source>, error: &io::Error) {
        let error = words(error);
        match source {
            Some(Source::Foreign(_)) => {
                let client = arrival.address;
                self.messages
                    .debug(1, format_args!("cannot connect from client {client}'s address: {error}"));
            }
            Some(Source::Own(_)) | None => {
                self.messages.debug(1, format_args!("cannot bind to the source address: {error}"));
            }
        }
    }

    /// A server failed a client: a place on the next one, if there is one.
    pub(super) fn server_failed(
        &mut self,
        arrival: &Arrival,
        failed: Reservation,
        error: &io::Error,
    ) -> Option<Reservation> {
        let shun = !socket::is_our_lack(error);
        let (target, address) = (failed.target, failed.address.clone());
        let visits::Failed { is_news, next } = self.next_place(arrival, failed, shun);
        if !shun && self.region.slots().tell_now(Shortage::Ports, self.now) {
            self.messages.note(format_args!(
                "cannot connect to server {target} ({address}): {}: all local ports are in use; \
                 widen net.ipv4.ip_local_port_range or add servers",
                words(error)
            ));
        } else {
            self.tell_failure(target, &address, error, is_news);
        }
        next
    }

    /// A server has failed. `is_news`: it is left alone from now on.
    pub(super) fn tell_failure(
        &self,
        target: Target,
        address: &SocketAddress,
        error: &io::Error,
        is_news: bool,
    ) {
        let (error, blacklist) = (words(error), self.terms.blacklist);
        if is_news && blacklist.0 > 0 {
            self.messages
                .note(format_args!("server {target} ({address}): {error}; left alone for {blacklist} s"));
        } else {
            self.messages.debug(1, format_args!("server {target} ({address}): {error}"));
        }
    }

    /// A server cannot be used by this worker now, without its fault: a place on the next one, if there is one.
    pub(super) fn pass_over(
        &mut self,
        arrival: &Arrival,
        passed: Reservation,
        reason: &str,
    ) -> Option<Reservation> {
        let (target, address) = (passed.target, &passed.address);
        self.messages.debug(1, format_args!("server {target} ({address}): {reason}"));
        self.next_place(arrival, passed, false).next
    }

    fn next_place(&mut self, arrival: &Arrival, last: Reservation, shun: bool) -> visits::Failed {
        let client = (arrival.address, arrival.visitor);
        visits::fail(
            self.region,
            self.id,
            &self.terms,
            client,
            arrival.verdicts,
            arrival.among.as_deref(),
            last,
            shun,
            self.now,
        )
    }

    /// The poller has news of a socket that is connecting.
    pub(super) fn connect_answered(&mut self, key: Key, readiness: Readiness) {
        let Some(Phase::Paired { stage: Stage::Connecting, pair }) =
            self.connections.get(key).map(|it| &it.phase)
        else {
            return;
        };
        if readiness.broken() {
            let server = &pair.server;
            let error = socket::take_error(server.socket().as_fd())
                .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
            // Refused is what a connect can be. Reset it can only be when it was made: no failure of connecting.
            if error.kind() == io::ErrorKind::ConnectionReset && !server.is_secured() {
                self.establish(key, Some(readiness), Some(&error));
            } else {
                self.connect_failed(key, &error);
            }
        } else if readiness.writable() {
            self.establish(key, Some(readiness), None);
        }
    }

    /// The connect under way, or the handshake after it, has failed or taken too long: on to the next server.
    pub(super) fn connect_failed(&mut self, key: Key, error: &io::Error) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Some(mut arrival) = Arrival::of(connection) else {
            return;
        };
        let pair = match std::mem::replace(&mut connection.phase, Phase::Between) {
            Phase::Paired { stage: Stage::Connecting | Stage::Securing, pair } => pair,
            other => {
                connection.phase = other;
                return;
            }
        };
        let Pair { client, server, reservation, .. } = pair;
        self.connecting.leave(&mut self.connections, key);
        // Closed before its place is given back, so that the server never sees one connection too many.
        drop(server);
        let next = self.server_failed(&arrival, reservation, error);
        match self.connect_any(&mut arrival, next) {
            Ok(connect) => self.await_connect(key, client, true, connect, arrival.attempts),
            Err(why) => {
                self.region.workers().connecting(self.id, false);
                self.without_server(key, client, true, arrival.attempts, why);
            }
        }
    }

    /// The server has answered. `readiness`: what else the poller said, and will not say again. `reset`: the server has
    /// done so since.
    fn establish(&mut self, key: Key, readiness: Option<Readiness>, reset: Option<&io::Error>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Phase::Paired { stage: Stage::Connecting, pair } = &mut connection.phase else {
            return;
        };
        let Pair { server, reservation, .. } = pair;
        if let Some(readiness) = readiness {
            server.note(readiness);
        }
        let secured = server.is_secured();
        let wants_header = reservation.proxy != ProxySend::Off;
        // Where it is gone already, nothing is sent, as nothing would be without a header. It may be so only now.
        let announced = if wants_header && reset.is_none() { self.announce(key) } else { Ok(()) };
        let gone = match &announced {
            Ok(()) => reset,
            Err(error) if !secured && is_gone(error) => Some(error),
            Err(error) => return self.connect_failed(key, error),
        };
        if !secured {
            self.begin_relaying(key, gone);
            if wants_header {
                self.hold_back_nothing(key);
            }
            return;
        }
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if let Phase::Paired { stage, .. } = &mut connection.phase {
            *stage = Stage::Securing;
        }
        // The time of the connect begins anew.
        self.connecting.touch(&mut self.connections, key, self.now);
        self.secure(key);
    }

    /// Bytes may flow. `reset`: the server has been so already.
    pub(super) fn begin_relaying(&mut self, key: Key, reset: Option<&io::Error>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let secured_before = connection.is_secured_before();
        let Phase::Paired { stage, pair } = &mut connection.phase else {
            return;
        };
        *stage = Stage::Relaying;
        if self.log.wants_records() {
            connection.connected = Some(self.now);
        }
        if let Some(visitor) = connection.visitor {
            visits::established(self.region, self.id, &self.terms, visitor, &pair.reservation, self.now);
        }
        if self.routes.is_none() {
            let secured = pair.client.is_secured() || secured_before;
            connection.http = exchange(&self.settings.http, &connection.client, secured);
        }
        let readable = pair.client.readable();
        if let Some(error) = reset {
            pair.up.abandon(error, &mut self.buffers);
            pair.server.suspect();
        }
        self.region.slots().set_state(connection.conn, state::CONNECTED);
        self.connecting.leave(&mut self.connections, key);
        self.relaying.join(&mut self.connections, key, self.now);
        self.region.workers().connecting(self.id, false);
        self.ring_if_awaited();
        // Mostly the client has spoken meanwhile, and that is all there is to do.
        if !(readable && self.pass_on::<false>(key, Side::Client)) {
            self.relay(key, None);
        }
    }

    /// The header that a server was to get together with the client's first bytes goes alone, if none have gone: whoever
    /// waits for the server to speak first would wait for nothing.
    fn hold_back_nothing(&mut self, key: Key) {
        if let Some(Phase::Paired { stage: Stage::Relaying, pair }) =
            self.connections.get_mut(key).map(|it| &mut it.phase)
        {
            pair.server.release();
        }
    }
}

/// Has the peer ended the connection?
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Where a connection to a server comes from, if that is not the system's to choose: `source`, `transparent`.
pub(super) fn source(settings: &Settings, client: ClientAddress, server: &SocketAddress) -> Option<Source> {
    match (settings.source, client, server) {
        (Some(own), _, _) => Some(Source::Own(own)),
        // Nothing gets from a loopback address to another machine. The server is not to be blamed for that.
        (None, ClientAddress::Inet(client, _), SocketAddress::Inet(server))
            if settings.transparent && (server.ip().is_loopback() || !client.is_loopback()) =>
        {
            Some(Source::Foreign(client))
        }
        (None, ClientAddress::Inet(..) | ClientAddress::Unix, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(settings: &Settings, client: &str, server: &str) -> Option<Source> {
        let client = ClientAddress::Inet(client.parse().unwrap(), 7);
        source(settings, client, &SocketAddress::Inet(server.parse().unwrap()))
    }

    #[test]
    fn transparent_takes_the_clients_address_where_it_leads_to_the_server() {
        let own = "192.0.2.9".parse().unwrap();
        let plain = Settings::default();
        let transparent = Settings { transparent: true, ..Settings::default() };
        let both = Settings { source: Some(own), ..transparent.clone() };
        let (client, server) = ("198.51.100.1", "192.0.2.1:80");
        let foreign = |client: &str| Some(Source::Foreign(client.parse().unwrap()));
        assert_eq!(chosen(&plain, client, server), None);
        assert_eq!(chosen(&both, client, server), Some(Source::Own(own)), "source comes first");
        assert_eq!(chosen(&transparent, client, server), foreign(client));
        assert_eq!(chosen(&transparent, client, "127.0.0.1:80"), foreign(client));
        assert_eq!(chosen(&transparent, "127.0.0.2", "127.0.0.1:80"), foreign("127.0.0.2"));
        assert_eq!(chosen(&transparent, "127.0.0.2", server), None);
        assert_eq!(chosen(&transparent, "::1", "[2001:db8::1]:80"), None);
    }

    #[test]
    fn unix_sockets_have_no_address_to_lend_or_to_take() {
        let settings = Settings { transparent: true, ..Settings::default() };
        let inet = SocketAddress::Inet("192.0.2.1:80".parse().unwrap());
        let unix = SocketAddress::Unix("/run/server".into());
        assert_eq!(source(&settings, ClientAddress::Unix, &inet), None);
        assert_eq!(source(&settings, ClientAddress::Inet([192, 0, 2, 7].into(), 7), &unix), None);
    }
}
