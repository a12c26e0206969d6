//! Whether anybody can speak TLS with a key.
//!
//! The library takes keys that it has no handshake for: on curves that TLS does not know, or that no client asks for
//! unless it is told to. Whether it has one depends on versions, groups and ciphers too, so that it is asked: a client
//! that has all that the library has says its hello, and must be content with the answer. Nearly all keys are of kinds
//! that are known to work, which saves this.

use std::io::{self, Read, Write};

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{HasParams, Id, PKeyRef};
use openssl::ssl::{ErrorCode, Ssl, SslContext, SslMethod, SslStream, SslVerifyMode};

use super::front::version;
use super::{TlsError, failed};
use crate::model::tls::{TlsSettings, TlsVersion};
use crate::sys::tls::library;

/// Has `context`, with the certificate from `file`, an answer for any client?
///
/// # Errors
/// It has none.
pub(super) fn check(context: &SslContext, settings: &TlsSettings, file: &str) -> Result<(), TlsError> {
    // Not every library says which key a context has.
    let any = Ssl::new(context).map_err(failed)?;
    let Some(key) = any.private_key().filter(|key| !is_common(key)) else {
        return Ok(());
    };
    for version in settings.versions() {
        if is_answered(context, settings, version).map_err(failed)? {
            return Ok(());
        }
    }
    let (library, kind) = (library::name(), kind(key));
    let reason = format!(
        "cannot use the certificate in {file}: {library} has no handshake for its kind of key ({kind}); take one on \
         P-256, or RSA"
    );
    Err(TlsError { word: file.to_owned(), reason, unreachable: None })
}

/// Those that clients have signatures for, whoever made them.
fn is_common<T: HasParams>(key: &PKeyRef<T>) -> bool {
    match key.id() {
        Id::RSA => true,
        Id::EC => [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1].map(Some).contains(&curve(key)),
        _ => false,
    }
}

fn curve<T: HasParams>(key: &PKeyRef<T>) -> Option<Nid> {
    key.ec_key().ok()?.group().curve_name()
}

/// `EC, secp256k1`
fn kind<T: HasParams>(key: &PKeyRef<T>) -> String {
    let name = |nid: Nid| nid.short_name().unwrap_or("unknown").to_owned();
    match key.id() {
        Id::EC => format!("EC, {}", curve(key).map_or_else(|| "a curve without a name".to_owned(), name)),
        other => name(Nid::from_raw(other.as_raw())),
    }
}

fn is_answered(
    context: &SslContext,
    settings: &TlsSettings,
    version: TlsVersion,
) -> Result<bool, ErrorStack> {
    let (mut client, mut server) = (client(settings, version)?, Ssl::new(context)?);
    client.set_connect_state();
    server.set_accept_state();
    let mut client = SslStream::new(client, Wire::default())?;
    let mut server = SslStream::new(server, Wire::default())?;
    // Not to the end: then the server might ask for the client's certificate.
    let goes_on = goes_on(&mut client)
        && {
            server.get_mut().unread = std::mem::take(&mut client.get_mut().sent);
            goes_on(&mut server)
        }
        && {
            client.get_mut().unread = std::mem::take(&mut server.get_mut().sent);
            goes_on(&mut client)
        };
    drop(ErrorStack::get());
    Ok(goes_on)
}

/// Is one side done, or does it wait for the other?
fn goes_on(side: &mut SslStream<Wire>) -> bool {
    drop(ErrorStack::get());
    side.do_handshake().map_or_else(|error| error.code() == ErrorCode::WANT_READ, |()| true)
}

/// Whoever is content with anything, and speaks this version.
fn client(settings: &TlsSettings, tls: TlsVersion) -> Result<Ssl, ErrorStack> {
    let mut builder = SslContext::builder(SslMethod::tls_client())?;
    builder.set_verify(SslVerifyMode::NONE);
    library::allow_sha1(&mut builder);
    builder.set_min_proto_version(Some(version(tls)))?;
    builder.set_max_proto_version(Some(version(tls)))?;
    builder.set_cipher_list("ALL")?;
    // Who names groups has clients that are told to use them.
    if let Some(groups) = &settings.groups {
        builder.set_groups_list(groups)?;
    }
    Ssl::new(&builder.build())
}

/// One end of a connection to nobody.
#[derive(Debug, Default)]
struct Wire {
    unread: Vec<u8>,
    sent: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self.unread.as_slice().read(room)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => {
                self.unread.drain(..count);
                Ok(count)
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
