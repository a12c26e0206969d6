//! `peek`: no server hears of a client that has not said anything. `ssl_passthrough sni`: from an accepted client to the
//! name that it asks for.
//!
//! The client's first bytes are looked at and stay where they are: once it is known which servers it is for, the
//! connection is as any other. What is too much for the socket's buffer is never seen, and the timeout ends that.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use crate::model::record::Ended;
use crate::policy::acl::Verdicts;
use crate::policy::client_hello::{self, Hello};
use crate::sys::socket;

use super::connection::{Connection, Ending, Key, Phase};
use super::endpoint::Endpoint;
use super::event_loop::Worker;

/// The longest name that the log is told, in bytes: none is longer, and none is where TLS ends here. No more of what clients
/// make up is kept, or makes an object too long for a datagram or a pipe.
const LONGEST_TOLD: usize = 255;

impl Worker<'_> {
    /// Must the client speak first? Not to `dummy`, which waits for a request anyway, and not if nobody takes it.
    pub(super) fn has_to_peek(&self, verdicts: Verdicts) -> bool {
        !self.settings.dummy
            && (self.has_to_route(verdicts) || self.settings.peek && !self.goes_nowhere(verdicts))
    }

    /// Does it depend on the client's first bytes where it goes? Not if the access list refuses it, whatever it says.
    fn has_to_route(&self, verdicts: Verdicts) -> bool {
        self.routes.is_some() && verdicts.permits(self.settings.client_acl)
    }

    /// Waits for the client's first bytes. The connection is in no queue, its phase is `Between`.
    pub(super) fn begin_peeking(&mut self, key: Key, client: Endpoint) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.phase = Phase::Peeking { client };
        }
        self.peeking.join(&mut self.connections, key, self.now);
        self.describe(key);
        if self.watch_client(key).is_err() {
            self.close(key, Ending::Closed, Ended::NoResources);
        }
    }

    /// The client has sent something, or is gone: is it known now which servers it is for? `ending`: no more will come.
    pub(super) fn peek(&mut self, key: Key, ending: bool) {
        let Some(Connection { phase: Phase::Peeking { client }, verdicts, .. }) = self.connections.get(key)
        else {
            return;
        };
        let routes = self.routes.as_ref().filter(|_| self.has_to_route(*verdicts));
        // Where nothing depends on them, any byte will do.
        let length = if routes.is_some() { client_hello::LONGEST } else { 1 };
        let room = &mut self.buffers.scratch[..length];
        let count = match socket::peek(client.socket().as_fd(), room) {
            Ok(0) => return self.close(key, Ending::Closed, Ended::ClientGone),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return;
            }
            Err(_) => return self.close(key, Ending::Closed, Ended::ClientGone),
        };
        let mut asked = None;
        let among = match routes {
            None => None,
            Some(routes) => match client_hello::parse(&room[..count]) {
                Hello::Incomplete if ending => {
                    return self.close(key, Ending::Closed, Ended::ClientGone);
                }
                Hello::Incomplete => return,
                Hello::Name(name) => {
                    let is_told = self.log.wants_records() && name.len() <= LONGEST_TOLD;
                    asked = is_told.then(|| Box::<str>::from(&*name));
                    routes.find(Some(&name))
                }
                Hello::NoName | Hello::NotTls => routes.find(None),
            },
        };
        let among = among.map(Rc::clone);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.among = among;
        connection.asked = asked;
        let Phase::Peeking { client } = std::mem::replace(&mut connection.phase, Phase::Between) else {
            return;
        };
        self.peeking.leave(&mut self.connections, key);
        self.visit(key, client, true);
    }

    /// Ends those that have not said in time who they are or which servers they are for, or have waited in vain.
    pub(super) fn end_overdue_peeking(&mut self) {
        let timeout = Some(self.settings.tls.handshake_timeout);
        while let Some(key) = self.peeking.overdue(&self.connections, timeout, self.now) {
            match self.connections.get(key).map(|it| &it.phase) {
                Some(Phase::Announcing { .. }) => self.header_overdue(key),
                Some(Phase::Waiting { .. }) => self.close(key, Ending::Closed, Ended::NoServer),
                _ => self.close(key, Ending::Closed, Ended::PeekTimeout),
            }
        }
    }
}
