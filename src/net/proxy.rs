//! The PROXY protocol: the headers that clients begin with, and those that servers get.
//!
//! A client's header is looked at and stays in the socket until it is whole; then it alone is taken, with one call, and
//! everything that comes after it is a connection that has just been accepted, from whom the header says. Mostly it is
//! there already when its client is accepted: then the poller hears nothing of it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::model::address::{ClientAddress, SocketAddress};
use crate::model::listen::Protocol;
use crate::model::record::Ended;
use crate::model::time::Seconds;
use crate::policy::proxy_header::{
    self, ClientCertificate, ClientTls, Flaw, Header, Outgoing, Route, Verdict,
};
use crate::shared::workers::Refusal;
use crate::sys::poller::Readiness;
use crate::sys::reason::words;
use crate::sys::socket;

use super::connection::{Connection, Ending, Key, Phase};
use super::endpoint::Endpoint;
use super::event_loop::Worker;
use super::pair::{Pair, Stage};

/// What was announced of a connection, beside its client.
#[derive(Debug)]
pub(super) struct Announced {
    /// What its client has connected to.
    destination: Option<SocketAddr>,
    /// Its client came by TLS, which ended before.
    secured: bool,
}

/// Why a client is refused that should have begun with a header.
#[derive(Debug, thiserror::Error)]
enum NoHeader {
    #[error("no header is accepted from it")]
    Stranger,
    #[error(transparent)]
    Flaw(#[from] Flaw),
    #[error("it has ended without a whole header")]
    Ended,
    #[error("no whole header within {0} s")]
    Late(Seconds),
    #[error("{}", words(.0))]
    Failed(io::Error),
}

impl NoHeader {
    /// What the log is told.
    fn ended(&self) -> Ended {
        match self {
            NoHeader::Stranger => Ended::ProxyRefused,
            NoHeader::Flaw(_) => Ended::ProxyBroken,
            NoHeader::Ended | NoHeader::Failed(_) => Ended::ClientGone,
            NoHeader::Late(_) => Ended::ProxyTimeout,
        }
    }
}

impl Connection {
    /// Its client came by TLS that ended before it reached us, as was announced.
    pub(super) fn is_secured_before(&self) -> bool {
        self.announced.as_ref().is_some_and(|announced| announced.secured)
    }
}

impl Worker<'_> {
    /// A client has been accepted where those begin with a header, or are nobody. `believed`: one is accepted from it.
    /// Its connection is in no queue, its phase is `Between`.
    pub(super) fn expect_header(&mut self, key: Key, client: OwnedFd, believed: bool) {
        let taken = match believed {
            true => take_header(client.as_fd(), &mut self.buffers.scratch),
            false => Err(NoHeader::Stranger),
        };
        match taken {
            Ok(Some(header)) => return self.introduce_client(key, client, header),
            Ok(None) => {}
            Err(reason) => {
                self.count_refused(key, &reason);
                drop(client);
                return self.forget(key, reason.ended());
            }
        }
        if let Some(connection) = self.connections.get_mut(key) {
            connection.phase = Phase::Announcing { client };
        }
        self.peeking.join(&mut self.connections, key, self.now);
        self.describe(key);
        if self.watch_client(key).is_err() {
            self.close(key, Ending::Closed, Ended::NoResources);
        }
    }

    /// More of a header has come, or its client is gone.
    pub(super) fn header_came(&mut self, key: Key, readiness: Readiness) {
        let Some(Connection { phase: Phase::Announcing { client }, client: sender, .. }) =
            self.connections.get(key)
        else {
            return;
        };
        // It was believed when it came, and a header can be a long time coming.
        let taken = match self.settings.proxy_accept {
            Some(list) if !self.verdicts_on(sender).permits(list) => Err(NoHeader::Stranger),
            Some(_) | None => take_header(client.as_fd(), &mut self.buffers.scratch),
        };
        match taken {
            Ok(Some(header)) => {
                // What is in the socket behind the header has been reported. It is to be again.
                self.poller.remove(client.as_fd());
                let Some(connection) = self.connections.get_mut(key) else {
                    return;
                };
                if let Phase::Announcing { client } = std::mem::replace(&mut connection.phase, Phase::Between)
                {
                    self.peeking.leave(&mut self.connections, key);
                    self.introduce_client(key, client, header);
                }
            }
            Ok(None) if readiness.ending() => self.refuse_header(key, &NoHeader::Ended),
            Ok(None) => {}
            Err(reason) => self.refuse_header(key, &reason),
        }
    }

    /// Time is up for a client that should have begun with a header.
    pub(super) fn header_overdue(&mut self, key: Key) {
        self.refuse_header(key, &NoHeader::Late(self.settings.tls.handshake_timeout));
    }

    fn refuse_header(&mut self, key: Key, reason: &NoHeader) {
        self.count_refused(key, reason);
        self.close(key, Ending::Closed, reason.ended());
    }

    fn count_refused(&self, key: Key, reason: &NoHeader) {
        self.region.workers().refused(self.id, Refusal::Proxy);
        if let Some(Connection { conn, client, .. }) = self.connections.get(key) {
            self.messages
                .debug(1, format_args!("connection {conn}: client {client}: PROXY protocol: {reason}"));
        }
    }

    /// It is known now whose connection it is: it begins. It is in no queue, its phase is `Between`.
    fn introduce_client(&mut self, key: Key, client: OwnedFd, header: Header) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let unix = connection.client == ClientAddress::Unix;
        let (address, destination) = match header.route {
            Route::Own => (connection.client, None),
            Route::Inet { source, destination } => (source.into(), Some(destination)),
            Route::Unix => (ClientAddress::Unix, None),
        };
        if destination.is_some() || header.secured {
            connection.announced = Some(Box::new(Announced { destination, secured: header.secured }));
        }
        if header.route != Route::Own {
            connection.client = address;
            let verdicts = self.verdicts_on(&address);
            if let Some(connection) = self.connections.get_mut(key) {
                connection.verdicts = verdicts;
            }
        }
        self.welcome(key, client, unix);
    }

    /// A server that wants a header gets it, before anything else. The connect to it is done, its phase is still
    /// `Connecting`.
    ///
    /// # Errors
    /// It has not taken all of it.
    pub(super) fn announce(&mut self, key: Key) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(());
        };
        let Phase::Paired { stage: Stage::Connecting, pair } = &mut connection.phase else {
            return Ok(());
        };
        let Pair { client, server, reservation, .. } = pair;
        let announced = connection.announced.as_ref().and_then(|announced| announced.destination);
        let header = Outgoing {
            protocol: Protocol::Tcp,
            source: connection.client,
            destination: announced.or_else(|| own_address(client)),
            tls: if reservation.proxy.is_binary() { tls_of(client) } else { None },
        };
        let header = header.header(reservation.proxy);
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("it does not take the header of PROXY: {}", words(&error)))
        };
        server.precede(&header, client.readable()).map_err(named)
    }
}

/// Takes a header from a socket, and nothing else. None: there is more to come of it.
fn take_header(client: BorrowedFd<'_>, room: &mut [u8]) -> Result<Option<Header>, NoHeader> {
    let most = room.len().min(proxy_header::LONGEST);
    let header = match socket::peek(client, &mut room[..most]) {
        Ok(0) => return Err(NoHeader::Ended),
        Ok(count) => match proxy_header::parse(&room[..count]) {
            Verdict::Incomplete => return Ok(None),
            Verdict::Whole(header) => header,
            Verdict::Broken(flaw) => return Err(flaw.into()),
        },
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            return Ok(None);
        }
        Err(error) => return Err(NoHeader::Failed(error)),
    };
    match socket::receive(client, &mut room[..header.length]) {
        Ok(count) if count == header.length => Ok(Some(header)),
        // Urgent data, or descriptors on a Unix socket: it could be looked past, but not taken with the rest.
        Ok(_) => Err(NoHeader::Ended),
        Err(error) => Err(NoHeader::Failed(error)),
    }
}

/// What the client has connected to, as its socket says.
fn own_address(client: &Endpoint) -> Option<SocketAddr> {
    match socket::local_address(client.socket().as_fd()) {
        Ok(SocketAddress::Inet(address)) => Some(address),
        Ok(SocketAddress::Unix(_)) | Err(_) => None,
    }
}

/// What is known of a client by its TLS, if that ends here.
fn tls_of(client: &Endpoint) -> Option<ClientTls<'_>> {
    let secured = client.secured()?;
    Some(ClientTls {
        server_name: secured.server_name(),
        protocol: secured.protocol(),
        version: secured.version(),
        cipher: secured.cipher(),
        certificate: secured.peer().map(|peer| ClientCertificate {
            name: peer.name,
            resumed: secured.resumed(),
            result: peer.result,
        }),
    })
}
