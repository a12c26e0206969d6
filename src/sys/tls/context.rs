//! What connections are made from: contexts of OpenSSL, for one generation of settings.

mod front;
mod servers;
mod trial;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMode};
use openssl::x509::X509;
use openssl::x509::store::{X509Store, X509StoreBuilder};

use super::library;
use super::material::{Der, Material, TlsError};
use super::stream::{Outbox, Secured};
use super::tickets::TicketKeys;
use crate::model::settings::Settings;
use crate::model::tls::{ServerIdentity, Trust};
use servers::Towards;

/// How much of it is made at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All: whoever checks new settings must know that nothing will fail.
    Everything,
    /// The rest when it is needed first: what has been checked elsewhere must not hold up a worker.
    AsNeeded,
}

/// All contexts. Copies share them; connections keep theirs when others take their place.
#[derive(Clone, Default)]
pub struct Contexts(Rc<Inner>);

#[derive(Default)]
struct Inner {
    /// The one that clients begin with; it knows the others.
    front: Option<SslContext>,
    servers: BTreeMap<Trust, Towards>,
}

impl Contexts {
    /// Makes them.
    ///
    /// # Errors
    /// The library, as it was built, does not take something: a cipher, a group, a key that is too short.
    pub fn build(
        settings: &Settings,
        material: &Material,
        tickets: &Rc<TicketKeys>,
        scope: Scope,
    ) -> Result<Self, TlsError> {
        let front = match &material.front {
            Some(front) => Some(front::build(&settings.tls, front, tickets, scope)?),
            None => None,
        };
        let mut servers = BTreeMap::new();
        for (trust, authorities) in &material.trust {
            servers.insert(trust.clone(), Towards::build(Some(authorities))?);
        }
        if settings.servers.iter().any(|spec| spec.tls.as_ref().is_some_and(|tls| tls.trust == Trust::Nobody))
        {
            servers.insert(Trust::Nobody, Towards::build(None)?);
        }
        Ok(Contexts(Rc::new(Inner { front, servers })))
    }

    /// Is TLS terminated?
    pub fn terminate(&self) -> bool {
        self.0.front.is_some()
    }

    /// A client's side, before its handshake. TLS must be terminated.
    ///
    /// # Errors
    /// No memory. `NotFound`: TLS is not terminated.
    pub fn accept(&self, socket: OwnedFd, outbox: &Outbox) -> io::Result<Secured> {
        let context = self.0.front.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut ssl = Ssl::new(context)?;
        ssl.set_accept_state();
        Ok(Secured::new(ssl, socket, outbox)?)
    }

    /// A server's side, before its handshake; the socket may still be connecting.
    ///
    /// # Errors
    /// No memory; `NotFound`: the settings that this was built for have no such server.
    pub fn connect(&self, server: &ServerIdentity, socket: OwnedFd, outbox: &Outbox) -> io::Result<Secured> {
        let towards = self.0.servers.get(&server.trust).ok_or(io::ErrorKind::NotFound)?;
        Ok(Secured::new(towards.connect(server)?, socket, outbox)?)
    }
}

impl fmt::Debug for Contexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There are keys in it.
        f.write_str("Contexts")
    }
}

/// What both sides have in common.
fn prepare(builder: &mut SslContextBuilder) {
    // One recv(2) fetches as many records as there is room for.
    builder.set_read_ahead(true);
    // An idle connection has no buffers.
    builder.set_mode(SslMode::RELEASE_BUFFERS | SslMode::AUTO_RETRY | SslMode::NO_AUTO_CHAIN);
}

fn store(authorities: &[Der]) -> Result<X509Store, ErrorStack> {
    let mut builder = X509StoreBuilder::new()?;
    for authority in authorities {
        builder.add_cert(X509::from_der(authority)?)?;
    }
    Ok(builder.build())
}

/// The groups for whoever names none: the one that also withstands quantum computers first, where there is one.
fn set_default_groups(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    builder
        .set_groups_list("X25519MLKEM768:X25519:P-256")
        .or_else(|_| builder.set_groups_list("X25519:P-256"))
}

/// An error that is about no word of the settings.
fn failed(error: ErrorStack) -> TlsError {
    refused("", "TLS cannot be set up", &error)
}

/// `what` is not taken by the library, because of `word`.
fn refused(word: &str, what: &str, error: &ErrorStack) -> TlsError {
    let reason = error.errors().first().and_then(|error| error.reason()).map(library::plain);
    let reason = reason.as_deref().unwrap_or("it is not known");
    TlsError {
        word: word.to_owned(),
        reason: format!("{what}: {reason} ({})", library::name()),
        unreachable: None,
    }
}
