//! Connections between our own two sides, and with peers that are not ours.

mod handshakes;
mod sessions;
mod streams;

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use openssl::pkey::PKey;
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslVerifyMode};
use openssl::x509::X509;

use super::material::{Front, Identity};
use super::testing::{Authority, IssueOptions, identity};
use super::{Contexts, Material, Outbox, Scope, Secured, TicketKeys};
use crate::model::settings::Settings;
use crate::model::tls::{ServerIdentity, Subject, TlsSettings, TlsVersion, Trust};

const PATIENCE: Duration = Duration::from_secs(20);

/// Both ends of a connection.
struct Pair {
    client: Secured,
    server: Secured,
}

/// How a handshake ended on each side, in the words for the administrator: the client's, the server's.
type Ends = (Result<(), String>, Result<(), String>);

const BOTH_ARE_HAPPY: Ends = (Ok(()), Ok(()));

/// Goes on with something until it is done.
fn until<T>(what: &str, mut step: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = step() {
            return done;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for socket in [&client, &server] {
        socket.set_nonblocking(true).unwrap();
        socket.set_nodelay(true).unwrap();
    }
    (client, server)
}

/// Clients get these certificates; servers are those whom the authority vouches for.
fn material(authority: &Authority, default: Identity, named: Vec<Identity>) -> Material {
    let trust = BTreeMap::from([(Trust::System, vec![authority.certificate.to_der().unwrap()])]);
    Material { front: Some(Front { default, named }), trust }
}

/// One certificate, for www.test.
fn simple() -> (Authority, Material) {
    let authority = Authority::new("authority");
    let default = identity(&authority, &["www.test"]);
    let material = material(&authority, default, Vec::new());
    (authority, material)
}

fn keys() -> Rc<TicketKeys> {
    Rc::new(TicketKeys::create().unwrap())
}

fn with(tls: TlsSettings) -> Settings {
    Settings { tls, ..Settings::default() }
}

fn only(version: TlsVersion) -> TlsSettings {
    TlsSettings { min_version: version, max_version: version, ..TlsSettings::default() }
}

fn build(tls: TlsSettings, material: &Material) -> Contexts {
    Contexts::build(&with(tls), material, &keys(), Scope::Everything).unwrap()
}

fn at(name: &str) -> ServerIdentity {
    ServerIdentity { trust: Trust::System, subject: Subject::Name(name.to_owned()) }
}

/// A client that is not one of pen's: it believes everybody, and is what `prepare` makes of it.
fn stranger(prepare: impl FnOnce(&mut SslContextBuilder)) -> Ssl {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    prepare(&mut builder);
    let mut ssl = Ssl::new(&builder.build()).unwrap();
    ssl.set_connect_state();
    ssl
}

impl Pair {
    /// A connection from pen to pen.
    fn new(clients: &Contexts, servers: &Contexts, to: &ServerIdentity) -> Self {
        let (client, server) = sockets();
        let outbox = Outbox::default();
        Pair {
            client: clients.connect(to, client.into(), &outbox).unwrap(),
            server: servers.accept(server.into(), &outbox).unwrap(),
        }
    }

    /// A connection of somebody else to pen.
    fn from_stranger(ssl: Ssl, servers: &Contexts) -> Self {
        let (client, server) = sockets();
        let outbox = Outbox::default();
        Pair {
            client: Secured::new(ssl, client.into(), &outbox).unwrap(),
            server: servers.accept(server.into(), &outbox).unwrap(),
        }
    }

    /// Both do what they can until both are done. The server has said something then, and the client heard it, which
    /// it only does if the server is content with it.
    fn shake(&mut self) -> Ends {
        let mut ends = [None, None];
        until("the end of a handshake", || {
            for (side, end) in [&mut self.client, &mut self.server].into_iter().zip(&mut ends) {
                if end.is_none() {
                    *end = shake(side).transpose();
                }
            }
            ends.iter().all(Option::is_some).then_some(())
        });
        let [mut client, server] = ends.map(Option::unwrap);
        if server.is_ok() {
            self.server.send(b"welcome").unwrap();
        }
        if client.is_ok() {
            client = match collect(&mut self.client, b"welcome".len()) {
                Ok(said) => {
                    assert_eq!(said, b"welcome");
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            };
        }
        (client, server)
    }

    /// The name that the client sees in the server's certificate.
    fn presented(&self) -> String {
        let certificate = self.client.ssl().peer_certificate().unwrap();
        let names = certificate.subject_alt_names().unwrap();
        names[0].dnsname().unwrap().to_owned()
    }
}

fn shake(side: &mut Secured) -> Result<Option<()>, String> {
    side.readable(false);
    side.flush().map_err(|error| error.to_string())?;
    side.handshake().map(|done| done.then_some(())).map_err(|error| error.to_string())
}

/// What comes until it is so long, or until the end.
fn collect(from: &mut Secured, length: usize) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut room = vec![0; 64 * 1024];
    until("what was to be received", || {
        from.readable(false);
        match from.receive(&mut room) {
            Ok(Some(0)) => Some(Ok(())),
            Ok(Some(count)) => {
                all.extend_from_slice(&room[..count]);
                (all.len() >= length).then_some(Ok(()))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    })?;
    Ok(all)
}
