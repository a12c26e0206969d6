//! Handshakes of TLS: a client's before its visit begins, a server's before bytes flow.

use std::io;
use std::os::fd::OwnedFd;

use crate::model::ids::Target;
use crate::model::record::Ended;
use crate::policy::acl::Verdicts;
use crate::shared::visits;
use crate::shared::workers::Handshake;
use crate::sys::reason::words;

use super::connection::{Connection, Ending, Key, Phase};
use super::endpoint::Endpoint;
use super::event_loop::Worker;
use super::pair::Stage;

impl Worker<'_> {
    /// A client has been accepted that is to speak TLS. Its connection is in no queue, its phase is `Between`.
    /// `unix`: it came by a Unix socket.
    pub(super) fn begin_handshake(&mut self, key: Key, client: OwnedFd, unix: bool) {
        let Some(&Connection { client: address, verdicts, .. }) = self.connections.get(key) else {
            return;
        };
        if self.goes_nowhere(verdicts) {
            // Noted as it would be without TLS.
            let visit = visits::begin(self.region, self.id, &self.terms, address, verdicts, None, self.now);
            if let Some(reservation) = visit.reservation {
                visits::give_back(self.region, self.id, reservation);
            }
            self.messages.debug(1, format_args!("no server for client {address}"));
            return self.turn_away(key, Endpoint::client(client, unix), Ended::ClientRefused);
        }
        let secured = match self.tls.accept(client, &self.outbox) {
            Ok(secured) => secured,
            Err(error) => {
                self.tell_handshake_failed(key, &words(&error));
                return self.forget(key, Ended::NoResources);
            }
        };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.phase = Phase::Shaking { client: Endpoint::client(secured, unix) };
        }
        self.shaking.join(&mut self.connections, key, self.now);
        self.describe(key);
        if self.watch_client(key).is_err() {
            self.close(key, Ending::Closed, Ended::NoResources);
        }
    }

    /// Nobody takes a client of whom access lists say this: a handshake would be for nothing.
    pub(super) fn goes_nowhere(&self, verdicts: Verdicts) -> bool {
        !verdicts.permits(self.terms.rules.client_acl)
            && !self.settings.dummy
            && self.region.servers().definition(Target::Abuse).is_none()
    }

    /// The client's handshake goes on. When it is done, the visit begins.
    pub(super) fn shake_hands(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Phase::Shaking { client } = &mut connection.phase else {
            return;
        };
        match client.handshake() {
            Ok(false) => {}
            Ok(true) => {
                let how = if client.resumed() { Handshake::Resumed } else { Handshake::Full };
                self.region.workers().shook_hands(self.id, how);
                if let Phase::Shaking { client } = std::mem::replace(&mut connection.phase, Phase::Between) {
                    self.shaking.leave(&mut self.connections, key);
                    self.visit(key, client, true);
                }
            }
            Err(error) => {
                let gone = match error.kind() {
                    // Whoever just looks whether there is somebody, too.
                    io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::TimedOut => Ended::ClientGone,
                    _ => Ended::HandshakeFailed,
                };
                self.handshake_failed(key, &words(&error), gone);
            }
        }
    }

    /// The client's handshake has failed or taken too long.
    pub(super) fn handshake_failed(&mut self, key: Key, reason: &str, why: Ended) {
        self.tell_handshake_failed(key, reason);
        self.close(key, Ending::Closed, why);
    }

    fn tell_handshake_failed(&self, key: Key, reason: &str) {
        self.region.workers().shook_hands(self.id, Handshake::Failed);
        if let Some(connection) = self.connections.get(key) {
            let (conn, client) = (connection.conn, connection.client);
            self.messages.debug(1, format_args!("connection {conn}: client {client}: TLS: {reason}"));
        }
    }

    /// The server's handshake goes on. When it is done, bytes flow; if it fails, the server has.
    pub(super) fn secure(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Phase::Paired { stage: Stage::Securing, pair } = &mut connection.phase else {
            return;
        };
        match pair.server.handshake() {
            Ok(false) => {}
            Ok(true) => self.begin_relaying(key, None),
            Err(error) => {
                let named = std::io::Error::new(error.kind(), format!("TLS: {}", words(&error)));
                self.connect_failed(key, &named);
            }
        }
    }
}
