//! Headers for servers.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use super::{
    BY_TLS, DATAGRAM, FIXED, INET, INET6, LINE_START, PROXY, SIGNATURE, STREAM, TLS, UNSPECIFIED, VERSION,
};
use crate::model::address::ClientAddress;
use crate::model::listen::Protocol;
use crate::model::proxy::ProxySend;

const PROTOCOL: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
/// Within [`TLS`].
const TLS_VERSION: u8 = 0x21;
const TLS_NAME: u8 = 0x22;
const TLS_CIPHER: u8 = 0x23;

/// In the first byte of [`TLS`]: the client has shown a certificate, on this connection or in this session.
const CERTIFICATE_NOW: u8 = 2;
const CERTIFICATE_EVER: u8 = 4;

/// Nobody was verified: any number but 0 says so.
const NOT_VERIFIED: u32 = 1;

/// Values with more bytes are left out. A piece of a name would be another's name.
const LONGEST_VALUE: usize = 1024;

/// What a server is told of a client.
#[derive(Debug, Clone)]
pub struct Outgoing<'a> {
    /// How it has come, and how its server is spoken to.
    pub protocol: Protocol,
    /// The client.
    pub source: ClientAddress,
    /// What it has connected to; none: not to be said in addresses.
    pub destination: Option<SocketAddr>,
    /// It came by TLS, which ends here.
    pub tls: Option<ClientTls<'a>>,
}

/// What is known of a client by its TLS.
#[derive(Debug, Clone)]
pub struct ClientTls<'a> {
    /// The name that it has asked for.
    pub server_name: Option<&'a str>,
    /// What is spoken (ALPN).
    pub protocol: Option<&'a [u8]>,
    /// `TLSv1.3`.
    pub version: &'a str,
    /// The cipher, as OpenSSL calls it.
    pub cipher: &'a str,
    /// Its certificate.
    pub certificate: Option<ClientCertificate>,
}

/// A client's certificate.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// Its common name.
    pub name: Option<String>,
    /// It was shown earlier in the session, which this connection has resumed.
    pub resumed: bool,
    /// The library's result of verifying it; 0: it is good.
    pub result: u32,
}

impl Outgoing<'_> {
    /// The header; nothing where none is to be sent. Version 1 says of datagrams that their client is unknown.
    pub fn header(&self, version: ProxySend) -> Vec<u8> {
        match version {
            ProxySend::Off => Vec::new(),
            ProxySend::V1 => self.line().into_bytes(),
            ProxySend::V2 | ProxySend::V2Every => self.binary(),
        }
    }

    fn line(&self) -> String {
        let start = String::from_utf8_lossy(LINE_START);
        let Some((source, destination)) = self.ends().filter(|_| self.protocol == Protocol::Tcp) else {
            return format!("{start}UNKNOWN\r\n");
        };
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (plain(source.ip()), plain(destination.ip()));
        format!("{start}{family} {from} {to} {} {}\r\n", source.port(), destination.port())
    }

    fn binary(&self) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.push(VERSION << 4 | PROXY);
        // The length is not known yet.
        match self.ends() {
            None => header.extend([UNSPECIFIED << 4 | UNSPECIFIED, 0, 0]),
            Some((source, destination)) => {
                let family = if source.is_ipv4() { INET } else { INET6 };
                let transport = match self.protocol {
                    Protocol::Tcp => STREAM,
                    Protocol::Udp => DATAGRAM,
                };
                header.extend([family << 4 | transport, 0, 0]);
                for ip in [source.ip(), destination.ip()] {
                    match ip {
                        IpAddr::V4(v4) => header.extend(v4.octets()),
                        IpAddr::V6(v6) => header.extend(v6.octets()),
                    }
                }
                header.extend([source.port(), destination.port()].map(u16::to_be_bytes).concat());
            }
        }
        if let Some(tls) = &self.tls {
            tls.extend(&mut header);
        }
        let length = u16::try_from(header.len() - FIXED).unwrap_or(u16::MAX);
        header[FIXED - 2..FIXED].copy_from_slice(&length.to_be_bytes());
        header
    }

    /// Both ends, in one family: IPv4 has a form in IPv6, too. None: they cannot be told.
    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let ClientAddress::Inet(ip, port) = self.source else {
            return None;
        };
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (source, destination) = (canonical(SocketAddr::new(ip, port)), canonical(self.destination?));
        match source.is_ipv4() == destination.is_ipv4() {
            true => Some((source, destination)),
            false => Some((in_v6(source), in_v6(destination))),
        }
    }
}

fn in_v6(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// As version 1 has addresses: those of IPv6 in groups of hexadecimal digits alone.
fn plain(ip: IpAddr) -> String {
    let mut text = String::new();
    let written = match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let [.., high, low] = v6.segments();
            write!(text, "::ffff:{high:x}:{low:x}")
        }
        ip => write!(text, "{ip}"),
    };
    debug_assert!(written.is_ok(), "a string takes everything");
    text
}

impl ClientTls<'_> {
    /// Adds what is known to a header.
    fn extend(&self, header: &mut Vec<u8>) {
        if let Some(protocol) = self.protocol {
            extend(header, PROTOCOL, protocol);
        }
        if let Some(name) = self.server_name {
            extend(header, AUTHORITY, name.as_bytes());
        }
        let mut client = BY_TLS;
        let mut result = NOT_VERIFIED;
        if let Some(certificate) = &self.certificate {
            client |= CERTIFICATE_EVER | if certificate.resumed { 0 } else { CERTIFICATE_NOW };
            result = certificate.result;
        }
        let mut value = vec![client];
        value.extend(result.to_be_bytes());
        extend(&mut value, TLS_VERSION, self.version.as_bytes());
        if let Some(name) = self.certificate.as_ref().and_then(|certificate| certificate.name.as_ref()) {
            extend(&mut value, TLS_NAME, name.as_bytes());
        }
        extend(&mut value, TLS_CIPHER, self.cipher.as_bytes());
        extend_by(header, TLS, &value);
    }
}

/// Adds an extension, unless its value is too long.
fn extend(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
    if value.len() <= LONGEST_VALUE {
        extend_by(to, kind, value);
    }
}

/// Adds an extension of a few thousand bytes at most.
fn extend_by(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
    to.push(kind);
    to.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    to.extend_from_slice(value);
}
