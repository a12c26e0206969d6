//! TLS: certificates and who makes them, clients and servers that can be told to do anything, and real programs.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use openssl::ssl::{
    ErrorCode, ShutdownState, Ssl, SslAcceptor, SslConnector, SslContextBuilder, SslMethod, SslMode, SslRef,
    SslSession, SslSessionCacheMode, SslStream, SslVerifyMode, SslVersion,
};
use openssl::symm::Cipher;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509Ref};

use super::backend::Visit;
use super::certificates::{Content, DAY, OcspResponse, Purpose, certify};
pub use super::certificates::{Kind, now};
use super::pen::Builder;
use super::{Backend, Pen, SOON, Scratch, became_true, client, free_port, processes, wait_until};

/// A certificate, its key, and the certificates above it that go with it, without the root.
#[derive(Clone)]
pub struct Identity {
    pub certificate: X509,
    pub key: PKey<Private>,
    pub above: Vec<X509>,
}

impl Identity {
    /// What is to be sent: this one and those above it.
    pub fn chain_pem(&self) -> Vec<u8> {
        let above = self.above.iter().flat_map(|certificate| certificate.to_pem().unwrap());
        self.certificate.to_pem().unwrap().into_iter().chain(above).collect()
    }

    pub fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }

    /// All in one file.
    pub fn pem(&self) -> Vec<u8> {
        [self.chain_pem(), self.key_pem()].concat()
    }

    /// The key with a passphrase that nobody will type.
    pub fn encrypted_key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"secret").unwrap()
    }

    /// Written to one file, which is named.
    pub fn file(&self, scratch: &Scratch, name: &str) -> String {
        scratch.write(name, self.pem())
    }

    /// Written to NAME.crt and NAME.key, as a directory of `ssl_sni_path` has them.
    pub fn pair(&self, scratch: &Scratch, name: &str) {
        scratch.write(&format!("{name}.crt"), self.chain_pem());
        scratch.write(&format!("{name}.key"), self.key_pem());
    }

    pub fn serial(&self) -> String {
        serial(&self.certificate)
    }
}

/// The serial number of a certificate: no two have the same.
pub fn serial(certificate: &X509Ref) -> String {
    certificate.serial_number().to_bn().unwrap().to_hex_str().unwrap().to_string()
}

/// Who makes certificates: a root, or somebody below one.
#[derive(Clone)]
pub struct Authority(pub Identity);

impl Authority {
    /// A root. Its certificate tells its name.
    pub fn new(name: &str) -> Self {
        Self::with_key(name, Kind::P256)
    }

    pub fn with_key(name: &str, kind: Kind) -> Self {
        Authority(make(None, name, &[], kind, this_month(), Purpose::Authority))
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str) -> Self {
        Authority(make(Some(self), name, &[], Kind::P256, this_month(), Purpose::Authority))
    }

    /// A certificate for these names and addresses, with a key of P-256.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(names, Kind::P256)
    }

    pub fn issue_with(&self, names: &[&str], kind: Kind) -> Identity {
        make(Some(self), names[0], names, kind, this_month(), Purpose::Peer)
    }

    /// A certificate that was good until yesterday.
    pub fn issue_expired(&self, names: &[&str]) -> Identity {
        make(Some(self), names[0], names, Kind::P256, (now() - 10 * DAY, now() - DAY), Purpose::Peer)
    }

    /// Its own certificate: what somebody has who trusts it.
    pub fn pem(&self) -> Vec<u8> {
        self.0.certificate.to_pem().unwrap()
    }

    pub fn file(&self, scratch: &Scratch, name: &str) -> String {
        scratch.write(name, self.pem())
    }
}

fn this_month() -> (i64, i64) {
    (now() - DAY, now() + 30 * DAY)
}

fn make(
    issuer: Option<&Authority>,
    common_name: &str,
    names: &[&str],
    kind: Kind,
    time: (i64, i64),
    purpose: Purpose,
) -> Identity {
    let key = kind.generate();
    let by = issuer.map(|Authority(by)| (&*by.certificate, &*by.key));
    let certificate = certify(by, &key, Content { common_name, names, time, purpose });
    // A root is not sent: whoever trusts it has it.
    let above = issuer
        .filter(|by| by.0.certificate.subject_name_hash() != by.0.certificate.issuer_name_hash())
        .map(|by| std::iter::once(by.0.certificate.clone()).chain(by.0.above.iter().cloned()).collect());
    Identity { certificate, key, above: above.unwrap_or_default() }
}

/// An authority and a certificate for `localhost`, `pen.test` and 127.0.0.1, made once for all stories in which it does
/// not matter which.
pub fn usual() -> &'static (Authority, Identity) {
    static USUAL: OnceLock<(Authority, Identity)> = OnceLock::new();
    USUAL.get_or_init(|| {
        let root = Authority::new("Usual Root");
        let identity = root.issue(&["pen.test", "localhost", "127.0.0.1"]);
        (root, identity)
    })
}

/// The same, with a key of RSA.
pub fn usual_rsa() -> &'static (Authority, Identity) {
    static USUAL: OnceLock<(Authority, Identity)> = OnceLock::new();
    USUAL.get_or_init(|| {
        let root = Authority::with_key("Usual RSA Root", Kind::Rsa2048);
        let identity = root.issue_with(&["pen.test", "localhost", "127.0.0.1"], Kind::Rsa2048);
        (root, identity)
    })
}

/// A pen that is to be started with the usual certificate and these options.
pub fn pen(files: &Scratch, options: &[&str]) -> Builder {
    pen_as(&usual().1, files, options)
}

/// A pen that is to be started with this certificate and these options.
pub fn pen_as(identity: &Identity, files: &Scratch, options: &[&str]) -> Builder {
    let file = identity.file(files, "cert.pem");
    Pen::with(&[&["-E", &file], options].concat())
}

/// A configuration file of these lines.
pub fn config(files: &Scratch, lines: &[&str]) -> String {
    files.write("pen.cfg", lines.join("\n") + "\n")
}

/// How many places for connections are in use, over all workers. Pen must have a control port.
pub fn connections(pen: &Pen) -> u64 {
    let limits = pen.ask("limits");
    let line = limits.lines().find(|line| line.starts_with("connections")).expect("limits has connections");
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// Waits until no connection is left of any that there were.
#[track_caller]
pub fn nothing_is_left(pen: &Pen) {
    wait_until("no connection is left", || connections(pen) == 0);
}

/// An OCSP response that says `good` of the certificate, made by its authority (which must have a key of RSA). It was
/// made at `from` and is good until `until`, in seconds since 1970.
pub fn staple(authority: &Authority, of: &Identity, from: i64, until: i64) -> Vec<u8> {
    retimed(ocsp_response(authority, of, false), &authority.0.key, from, until)
}

/// The same, but it says that the certificate has been revoked, and is good for a day from now on.
pub fn revocation(authority: &Authority, of: &Identity) -> Vec<u8> {
    ocsp_response(authority, of, true)
}

fn ocsp_response(Authority(authority): &Authority, of: &Identity, revoked: bool) -> Vec<u8> {
    let (issuer, scratch) = (&*authority.certificate, Scratch::new());
    let signer = (issuer, &*authority.key);
    OcspResponse { issuer, signer, certificate: &of.certificate, revoked, ends: true }.make(scratch.path())
}

/// The response with other times, signed anew. openssl(1) only makes ones that are good from now on. An RSA signature
/// and a time always have the same length, so that everything stays where it is.
fn retimed(mut der: Vec<u8>, key: &PKey<Private>, from: i64, until: i64) -> Vec<u8> {
    // OCSPResponse: status, [0] { type, OCTET STRING { BasicOCSPResponse: data, algorithm, signature, [0] } }
    let outer = inside(&der, 0);
    let bytes = inside(&der, after(&der, outer));
    let basic = inside(&der, after(&der, inside(&der, bytes)));
    let data = inside(&der, basic);
    let end = after(&der, data);
    let signature = inside(&der, after(&der, end)) + 1;
    // Three times: when it was made, from when on it is good, and until when.
    let times: Vec<usize> =
        (data..end).filter(|&at| der[at..].starts_with(&[0x18, 15]) && der[at + 16] == b'Z').collect();
    assert_eq!(times.len(), 3, "an OCSP response has three times");
    for (at, time) in times.into_iter().zip([from, from, until]) {
        der[at + 2..at + 17].copy_from_slice(generalized(time).as_bytes());
    }
    let mut signer = Signer::new(MessageDigest::sha256(), key).unwrap();
    let signed = signer.sign_oneshot_to_vec(&der[data..end]).unwrap();
    der[signature..signature + signed.len()].copy_from_slice(&signed);
    der
}

/// Where the content of the DER value at `at` begins, and how long it is.
fn content(der: &[u8], at: usize) -> (usize, usize) {
    let long = der[at + 1];
    if long < 0x80 {
        return (at + 2, long.into());
    }
    let count = usize::from(long & 0x7f);
    let length = der[at + 2..at + 2 + count].iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    (at + 2 + count, length)
}

fn inside(der: &[u8], at: usize) -> usize {
    content(der, at).0
}

fn after(der: &[u8], at: usize) -> usize {
    let (start, length) = content(der, at);
    start + length
}

/// `20261123091500Z`.
fn generalized(time: i64) -> String {
    // "Nov 23 09:15:00 2026 GMT"
    let text = Asn1Time::from_unix(time).unwrap().to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    let month = "JanFebMarAprMayJunJulAugSepOctNovDec".find(words[0]).unwrap() / 3 + 1;
    format!("{}{month:02}{:0>2}{}Z", words[3], words[1], words[2].replace(':', ""))
}

/// How a connection with TLS ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsEnding {
    /// The other side declared the end (close_notify): all has come.
    Declared,
    /// The stream ended without that: something may be missing.
    Truncated,
    Reset,
    /// The other side said that something is wrong, or something is.
    Failed,
    /// None of these, in the time allowed.
    Open,
}

/// One end of a connection with TLS.
pub struct Secured(pub SslStream<TcpStream>);

/// An end that is not declared would make OpenSSL forget the session, which tests want to resume.
impl Drop for Secured {
    fn drop(&mut self) {
        self.0.set_shutdown(ShutdownState::SENT);
    }
}

impl Secured {
    pub fn socket(&self) -> &TcpStream {
        self.0.get_ref()
    }

    pub fn ssl(&self) -> &SslRef {
        self.0.ssl()
    }

    /// The other side's certificate, by its serial number.
    pub fn peer_serial(&self) -> String {
        serial(&self.ssl().peer_certificate().expect("the other side has a certificate"))
    }

    /// `TLSv1.3`.
    pub fn version(&self) -> &'static str {
        self.ssl().version_str()
    }

    pub fn cipher(&self) -> &'static str {
        self.ssl().current_cipher().unwrap().name()
    }

    pub fn resumed(&self) -> bool {
        self.ssl().session_reused()
    }

    /// Sends all of it; false if the connection does not take it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.write_all(bytes.as_ref()).is_ok()
    }

    /// Declares the end of this direction (close_notify). The other goes on.
    pub fn finish(&mut self) {
        self.0.shutdown().unwrap();
    }

    /// Ends the TCP stream without a word of TLS.
    pub fn truncate(&self) {
        self.socket().shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Closes so that the other side gets a reset.
    pub fn reset(self) {
        client::reset(self.socket().try_clone().unwrap());
    }

    /// Some bytes, or how it ended.
    pub fn receive(&mut self, room: &mut [u8]) -> Result<usize, TlsEnding> {
        loop {
            let error = match self.0.ssl_read(room) {
                Ok(count) => return Ok(count),
                Err(error) => error,
            };
            let kind = error.io_error().map(io::Error::kind);
            return Err(match (error.code(), kind) {
                (ErrorCode::ZERO_RETURN, _) => TlsEnding::Declared,
                (ErrorCode::WANT_READ, None) => continue,
                (_, Some(io::ErrorKind::Interrupted)) => continue,
                (_, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)) => TlsEnding::Open,
                (_, Some(io::ErrorKind::UnexpectedEof)) | (ErrorCode::SYSCALL, None) => TlsEnding::Truncated,
                (_, Some(_)) => TlsEnding::Reset,
                (ErrorCode::SSL, None) if error.to_string().contains("eof") => TlsEnding::Truncated,
                (ErrorCode::SSL, None) if error.to_string().contains("EOF") => TlsEnding::Truncated,
                _ => TlsEnding::Failed,
            });
        }
    }

    /// Everything until the end, whatever that is.
    pub fn read_all(&mut self) -> (Vec<u8>, TlsEnding) {
        let mut all = Vec::new();
        let mut room = vec![0; 64 * 1024];
        loop {
            match self.receive(&mut room) {
                Ok(count) => all.extend_from_slice(&room[..count]),
                Err(ending) => return (all, ending),
            }
        }
    }

    /// A line, without its end; none if it does not come.
    pub fn read_line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.receive(&mut byte).is_ok() {
            if byte[0] == b'\n' {
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            line.push(byte[0]);
        }
        None
    }

    /// Sends a line and looks whether it comes back (from a greeter).
    pub fn echoes(&mut self) -> bool {
        self.send("are you there?\n") && self.read_line().as_deref() == Some("are you there?")
    }

    /// Sends a request; the body of the answer and how it ended.
    pub fn request(&mut self, path: &str) -> (String, TlsEnding) {
        self.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
        let (bytes, ending) = self.read_all();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (text.split_once("\r\n\r\n").map_or(text.clone(), |(_, body)| body.to_owned()), ending)
    }
}

/// A client of TLS that can be told what to do.
pub struct Client {
    builder: SslContextBuilder,
    name: Option<String>,
    check_name: bool,
    /// Sessions that were offered for keeping.
    kept: Arc<Mutex<Vec<SslSession>>>,
}

impl Client {
    /// Trusts this authority and nobody else. Asks for no name.
    pub fn trusting(authority: &Authority) -> Self {
        Self::trusting_all(&[authority])
    }

    pub fn trusting_all(authorities: &[&Authority]) -> Self {
        let mut client = Self::new();
        let mut store = X509StoreBuilder::new().unwrap();
        for authority in authorities {
            store.add_cert(authority.0.certificate.clone()).unwrap();
        }
        client.builder.set_cert_store(store.build());
        client.builder.set_verify(SslVerifyMode::PEER);
        client
    }

    /// Trusts anybody.
    pub fn careless() -> Self {
        let mut client = Self::new();
        client.builder.set_verify(SslVerifyMode::NONE);
        client
    }

    /// Of the usual certificate ([`usual`]).
    pub fn usual() -> Self {
        Self::trusting(&usual().0)
    }

    fn new() -> Self {
        let mut builder = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
        let kept: Arc<Mutex<Vec<SslSession>>> = Arc::default();
        // What SslConnector sets, too: a write that would block may be tried again with what is left of its bytes.
        builder.set_mode(
            SslMode::AUTO_RETRY | SslMode::ACCEPT_MOVING_WRITE_BUFFER | SslMode::ENABLE_PARTIAL_WRITE,
        );
        let keeper = Arc::clone(&kept);
        builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        builder.set_new_session_callback(move |_, session| keeper.lock().unwrap().push(session));
        Client { builder, name: None, check_name: false, kept }
    }

    /// Asks for this name.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Asks for this name, and wants a certificate for it.
    pub fn checked_name(mut self, name: &str) -> Self {
        self.check_name = true;
        self.name(name)
    }

    /// Speaks this version and no other. Old ones with the ciphers that they need.
    pub fn version(mut self, version: SslVersion) -> Self {
        if version == SslVersion::TLS1 || version == SslVersion::TLS1_1 {
            // AWS-LC has no levels of security: what it has is allowed.
            let list = if cfg!(feature = "aws-lc") { "ALL" } else { "ALL:@SECLEVEL=0" };
            self.builder.set_cipher_list(list).unwrap();
        }
        self.builder.set_min_proto_version(Some(version)).unwrap();
        self.builder.set_max_proto_version(Some(version)).unwrap();
        self
    }

    /// Shows this certificate when it is asked for one.
    pub fn certificate(mut self, identity: &Identity) -> Self {
        self.builder.set_certificate(&identity.certificate).unwrap();
        self.builder.set_private_key(&identity.key).unwrap();
        for above in &identity.above {
            self.builder.add_extra_chain_cert(above.clone()).unwrap();
        }
        self
    }

    /// Offers these protocols.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        let list: Vec<u8> = protocols
            .iter()
            .flat_map(|protocol| std::iter::once(protocol.len() as u8).chain(protocol.bytes()))
            .collect();
        self.builder.set_alpn_protos(&list).unwrap();
        self
    }

    /// Takes these ciphers only, of TLS 1.2 and before.
    pub fn ciphers(mut self, list: &str) -> Self {
        self.builder.set_cipher_list(list).unwrap();
        self
    }

    /// Takes these groups only.
    pub fn groups(mut self, list: &str) -> Self {
        self.builder.set_groups_list(list).unwrap();
        self
    }

    pub fn build(self) -> Ready {
        Ready {
            context: self.builder.build(),
            name: self.name,
            session: None,
            check_name: self.check_name,
            kept: self.kept,
        }
    }

    /// For one connection.
    pub fn connect(self, to: TcpStream) -> Result<Secured, String> {
        self.build().connect(to)
    }

    /// For one connection from 127.0.0.1, which must come about.
    #[track_caller]
    pub fn open(self, pen: &Pen) -> Secured {
        self.build().open(pen)
    }
}

/// A client for any number of connections.
pub struct Ready {
    context: openssl::ssl::SslContext,
    name: Option<String>,
    session: Option<SslSession>,
    check_name: bool,
    kept: Arc<Mutex<Vec<SslSession>>>,
}

impl Ready {
    /// The handshake; an error is what the library says of it.
    pub fn connect(&self, to: TcpStream) -> Result<Secured, String> {
        self.handshake().connect(to).map(Secured).map_err(|error| format!("{error:?} {error}"))
    }

    /// A handshake that is still to be made, over whatever the caller likes.
    pub fn handshake(&self) -> Ssl {
        let mut ssl = Ssl::new(&self.context).unwrap();
        if let Some(name) = &self.name {
            ssl.set_hostname(name).unwrap();
            if self.check_name {
                ssl.param_mut().set_host(name).unwrap();
            }
        }
        if let Some(session) = &self.session {
            // A copy: OpenSSL resumes none for which a new ticket has come.
            resume(&mut ssl, &SslSession::from_der(&session.to_der().unwrap()).unwrap());
        }
        ssl
    }

    #[track_caller]
    pub fn open(&self, pen: &Pen) -> Secured {
        self.connect(pen.connect()).expect("the handshake succeeds")
    }

    /// A request from 127.0.0.1 with this name or with that of the client.
    #[track_caller]
    pub fn visit(&self, pen: &Pen) -> String {
        self.open(pen).request("/").0
    }

    /// The same client, offering to resume this session from now on.
    pub fn resuming(mut self, session: SslSession) -> Self {
        self.session = Some(session);
        self
    }

    /// The last session that came, for resuming it. With TLS 1.3 it comes after the handshake: with the first bytes.
    #[track_caller]
    pub fn session(&self) -> SslSession {
        self.kept.lock().unwrap().last().cloned().expect("the server offers sessions for keeping")
    }

    /// How many sessions came.
    pub fn sessions(&self) -> usize {
        self.kept.lock().unwrap().len()
    }
}

/// The crate wants a promise that session and connection are of the same context, which they are by construction here.
#[allow(unsafe_code)]
fn resume(ssl: &mut SslRef, session: &SslSession) {
    // SAFETY: `session` belongs to no context, and came from that of a `Client`: they are all of one method.
    unsafe { ssl.set_session(session) }.unwrap();
}

/// How a server of TLS is made.
pub fn acceptor(identity: &Identity, change: impl FnOnce(&mut SslContextBuilder)) -> SslAcceptor {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    builder.set_certificate(&identity.certificate).unwrap();
    builder.set_private_key(&identity.key).unwrap();
    for above in &identity.above {
        builder.add_extra_chain_cert(above.clone()).unwrap();
    }
    change(&mut builder);
    builder.build()
}

/// A server that speaks TLS and does what `handler` does. What fails in the handshake is noted as `handshake: …`,
/// else the name that was asked for as `name: …`.
pub fn serving(
    name: &str,
    acceptor: SslAcceptor,
    handler: impl Fn(Visit, Secured) + Send + Sync + 'static,
) -> Backend {
    Backend::serving(name, move |visit| {
        let stream = visit.stream.try_clone().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        match acceptor.accept(stream) {
            Ok(stream) => {
                let name = stream.ssl().servername(openssl::ssl::NameType::HOST_NAME).unwrap_or("none");
                visit.note(format!("name: {name}"));
                handler(visit, Secured(stream));
            }
            Err(error) => visit.note(format!("handshake: {error:?}")),
        }
    })
}

/// A web server with TLS that answers every request with its name and closes.
pub fn web(name: &str, identity: &Identity) -> Backend {
    serving(name, acceptor(identity, |_| ()), |visit, mut secured| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if secured.receive(&mut byte).is_err() {
                return;
            }
            head.push(byte[0]);
        }
        visit.note(String::from_utf8_lossy(&head));
        let body = &visit.name;
        secured.send(format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        secured.finish();
        secured.read_all();
    })
}

/// A server with TLS that sends its name, and echoes until the client declares the end.
pub fn greeter(name: &str, identity: &Identity) -> Backend {
    serving(name, acceptor(identity, |_| ()), |visit, mut secured| {
        secured.send(format!("{}\n", visit.name));
        let mut room = vec![0; 64 * 1024];
        while let Ok(count) = secured.receive(&mut room) {
            if !secured.send(&room[..count]) {
                return;
            }
        }
        secured.finish();
    })
}

/// What a program said until it ended.
#[derive(Debug, Clone)]
pub struct Said {
    /// -1 for a signal.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program, which must end by itself, with this as its input.
#[track_caller]
pub fn run(command: Command, input: &[u8]) -> Said {
    run_for(command, input, SOON + SOON)
}

#[track_caller]
pub fn run_for(mut command: Command, input: &[u8], deadline: Duration) -> Said {
    let scratch = Scratch::new();
    command.stdin(Stdio::piped());
    command.stdout(File::create(scratch.file("stdout")).unwrap());
    command.stderr(File::create(scratch.file("stderr")).unwrap());
    let mut child = command.spawn().expect("the program can be run");
    // Its input does not end before it does: there is more to come from a person.
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input);
    let mut status = None;
    let in_time = became_true(deadline, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if in_time.is_none() {
        let _ = child.kill();
        status = child.wait().ok();
    }
    let code = status.and_then(|status| status.code()).unwrap_or(-1);
    let said = Said { code, stdout: scratch.read("stdout"), stderr: scratch.read("stderr") };
    assert!(in_time.is_some(), "it should have ended by itself: {command:?} {said:?}");
    said
}

/// Is there such a program? Says so if not.
pub fn has_program(name: &str) -> bool {
    let there = Command::new("sh").args(["-c", &format!("command -v {name} >/dev/null")]).status().unwrap();
    if !there.success() {
        eprintln!("not told: {name} is not installed");
    }
    there.success()
}

/// `openssl s_client` with these arguments, this authority, and a request as its input. It stays until the other side
/// ends the connection.
#[track_caller]
pub fn s_client(to: SocketAddr, authority: &Authority, arguments: &[&str]) -> Said {
    s_client_says(to, authority, arguments, b"GET / HTTP/1.0\r\n\r\n")
}

/// The same with any input.
#[track_caller]
pub fn s_client_says(to: SocketAddr, authority: &Authority, arguments: &[&str], input: &[u8]) -> Said {
    let scratch = Scratch::new();
    let ca = authority.file(&scratch, "ca.pem");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &to.to_string(), "-CAfile", &ca, "-verify_return_error"]);
    command.args(arguments);
    if !arguments.contains(&"-servername") {
        command.arg("-noservername");
    }
    if !arguments.contains(&"-no_ign_eof") {
        command.arg("-ign_eof");
    }
    run(command, input)
}

/// `curl` with these arguments before the address `https://localhost:PORT/`, trusting this authority.
#[track_caller]
pub fn curl(to: SocketAddr, authority: &Authority, arguments: &[&str]) -> Said {
    let scratch = Scratch::new();
    let ca = authority.file(&scratch, "ca.pem");
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "25", "--cacert", &ca]);
    command.args(["--resolve", &format!("localhost:{}:{}", to.port(), to.ip())]);
    command.args(arguments).arg(format!("https://localhost:{}/", to.port()));
    run(command, b"")
}

/// Python with its module for TLS: a script that finds a connection to `to` as `tls`, trusting this authority and nothing
/// that is cut off.
pub fn python(to: SocketAddr, authority: &Authority, script: &str) -> Said {
    let scratch = Scratch::new();
    let ca = authority.file(&scratch, "ca.pem");
    let connect = format!(
        "import socket, ssl\n\
         context = ssl.create_default_context(cafile='{ca}')\n\
         tls = context.wrap_socket(socket.create_connection(('{}', {}), timeout=25), server_hostname='localhost', \
         suppress_ragged_eofs=False)\n",
        to.ip(),
        to.port()
    );
    let mut command = Command::new("python3");
    command.args(["-c", &(connect + script)]);
    run(command, b"")
}

/// A running `openssl s_server`. It displays as `127.0.0.1:PORT`, as pen's command line wants it.
pub struct Server {
    child: Child,
    port: u16,
    /// Where its files are.
    _scratch: Scratch,
}

impl Server {
    /// With `-www` it answers requests with a page about the connection, with `-rev` lines backwards.
    pub fn start(identity: &Identity, arguments: &[&str]) -> Self {
        let (scratch, port) = (Scratch::new(), free_port());
        let file = identity.file(&scratch, "server.pem");
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-cert", &file, "-key", &file]);
        if !identity.above.is_empty() {
            command.args(["-cert_chain", &file]);
        }
        command.args(arguments).stdin(Stdio::null());
        command.stdout(File::create(scratch.file("stdout")).unwrap());
        command.stderr(File::create(scratch.file("stderr")).unwrap());
        let child = command.spawn().expect("openssl can be run");
        let server = Server { child, port, _scratch: scratch };
        wait_until("s_server listens", || processes::listening(port));
        server
    }
}

impl Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first flight of a client that asks for this name: records with its ClientHello, as they go over the wire.
pub fn client_hello(name: &str) -> Vec<u8> {
    struct Wire(Arc<Mutex<Vec<u8>>>);
    impl Read for Wire {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let sent = Arc::default();
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.set_verify(SslVerifyMode::NONE);
    let outcome = connector.build().connect(name, Wire(Arc::clone(&sent)));
    assert!(outcome.is_err(), "nobody answers");
    let bytes = sent.lock().unwrap().clone();
    assert!(bytes.starts_with(&[22, 3, 1]), "a handshake record comes first");
    bytes
}
