//! Addresses: what the administrator wrote ([`ListenSpec`], [`ServerSpec`]) and what it means
//! ([`SocketAddress`], [`ClientAddress`]).
//!
//! See pen(1), OPERANDS. Nothing is resolved here: a name stays a name until `sys::resolve` is asked.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::AclId;
use super::number::{self, LARGEST, NumberError};
use super::proxy::ProxySend;
use super::server_name::NamePattern;
use super::tls::ServerTls;

/// Who a client is. IPv4-mapped IPv6 addresses are IPv4 addresses here, everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAddress {
    /// A client that came over IP, with its port.
    Inet(IpAddr, u16),
    /// A client that came over a Unix socket: all of them are one client.
    Unix,
}

impl From<SocketAddr> for ClientAddress {
    fn from(peer: SocketAddr) -> Self {
        ClientAddress::Inet(peer.ip().to_canonical(), peer.port())
    }
}

/// The address as logs and reports show it, without the port; `unix` for clients of a Unix socket.
impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddress::Inet(ip, _) => ip.fmt(f),
            ClientAddress::Unix => f.write_str("unix"),
        }
    }
}

/// Where a server is, or where to listen: something that connect(2) and bind(2) take.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SocketAddress {
    /// IPv4 or IPv6.
    Inet(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// `127.0.0.1:80`, `[::1]:80`, `/run/x.sock`.
impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketAddress::Inet(address) => address.fmt(f),
            SocketAddress::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The host part of a specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Host {
    /// An address, literally.
    Ip(IpAddr),
    /// A name that a resolver must turn into an address.
    Name(String),
    /// A Unix socket.
    Path(PathBuf),
}

/// The port part of a specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Port {
    /// A number; 0 (only through the `server` command) takes a server out of use.
    Number(u16),
    /// A service name, such as `http`.
    Service(String),
    /// None given: the port that pen listens on.
    Listeners,
}

/// Where to listen: `port`, `host:port`, `[v6]:port`, bare `v6:port`, or a path with a slash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenSpec {
    /// As it was given; reports and `write` show this.
    pub text: String,
    /// The address; a bare port listens on 0.0.0.0.
    pub host: Host,
    /// The port; never [`Port::Listeners`]. `Number(0)` for a Unix socket.
    pub port: Port,
}

/// A server: `host[:port[:soft[:hard[:weight[:prio]]]]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpec {
    /// Where it is; none for a slot that `server N` created and nobody has filled.
    pub host: Option<Host>,
    /// Its port; without meaning for a Unix socket.
    pub port: Port,
    /// Most connections for new clients; 0 = no limit.
    pub soft: u32,
    /// Most connections for clients that this server knows; matters only above `soft`.
    pub hard: u32,
    /// Share under `-W`; 0 = takes no part.
    pub weight: u32,
    /// Rank under `prio`; the lowest is used first.
    pub prio: i32,
    /// The access list that clients of this server must pass.
    pub acl: AclId,
    /// `drain N`: whom it does not take any more.
    pub drain: Drain,
    /// `sni NAME`: with `ssl_passthrough sni`, the clients that ask for one of these names are its own.
    pub sni: Vec<NamePattern>,
    /// `tls …`: it is spoken to with TLS.
    pub tls: Option<ServerTls>,
    /// `proxy X`: whether it gets a header of the PROXY protocol; none: as `proxy_send` says.
    pub proxy: Option<ProxySend>,
}

/// Whom a server does not take any more. Connections that exist are never touched by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Drain {
    /// Nobody is refused.
    #[default]
    No,
    /// Clients that do not know it: those whose last server it is still come.
    New,
    /// Everybody.
    All,
}

impl ServerSpec {
    /// A slot without a server in it.
    pub fn unset() -> Self {
        ServerSpec {
            host: None,
            port: Port::Listeners,
            soft: 0,
            hard: 0,
            weight: 0,
            prio: 0,
            acl: AclId::default(),
            drain: Drain::No,
            sni: Vec::new(),
            tls: None,
            proxy: None,
        }
    }
}

/// Why a text is not an address to listen on or a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing where an address should be.
    #[error("the address is empty")]
    Empty,
    /// It begins with a colon.
    #[error("no host before the colon in {0:?}")]
    NoHost(String),
    /// Neither an address, nor a name, nor a path.
    #[error("{0:?} is neither an IP address nor a host name nor a path")]
    Host(String),
    /// One cannot tell where the address ends and the port begins.
    #[error("cannot tell address and port apart in {0:?}; put an IPv6 address in brackets: [2001:db8::1]:80")]
    BareIpv6(String),
    /// `[` without `]`.
    #[error("no ] after the [ in {0:?}")]
    Unclosed(String),
    /// Something else than a colon after `]`.
    #[error("only a colon can follow the ] in {0:?}")]
    AfterBracket(String),
    /// An address to listen on that does not say which port.
    #[error("no port after the address in {0:?}")]
    NoPort(String),
    /// Not a port.
    #[error("port must be a number from 1 to 65535 or a service name, not {0:?}")]
    Port(String),
    /// One of the fields after the port is wrong.
    #[error(transparent)]
    Field(#[from] NumberError),
    /// More than six fields.
    #[error("nothing can follow the sixth field (prio) in {0:?}")]
    TooManyFields(String),
}

impl FromStr for Host {
    type Err = AddressError;

    /// An IP address (in brackets or not), a name, or (with a slash) a path.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) if !inner.contains('/') => Host::unbracketed(inner),
            _ => Host::unbracketed(text),
        }
    }
}

impl Host {
    fn unbracketed(text: &str) -> Result<Self, AddressError> {
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if text.is_empty() {
            Err(AddressError::Empty)
        } else if text.contains('/') && !text.contains(char::is_control) {
            Ok(Host::Path(text.into()))
        } else if let Ok(ip) = text.parse::<IpAddr>() {
            Ok(Host::Ip(ip.to_canonical()))
        } else if text.bytes().all(of_a_name) && !text.starts_with('-') {
            Ok(Host::Name(text.to_owned()))
        } else {
            Err(AddressError::Host(text.to_owned()))
        }
    }
}

/// `127.0.0.1`, `::1` (without brackets), `www.example.com`, `/run/x.sock`.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(ip) => ip.fmt(f),
            Host::Name(name) => f.write_str(name),
            Host::Path(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for Port {
    type Err = AddressError;

    /// A number from 1 to 65535, or a service name.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let of_a_service =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+');
        let refused = || AddressError::Port(text.to_owned());
        if let Some(number) = number::integer(text) {
            return u16::try_from(number).ok().filter(|&port| port > 0).map(Port::Number).ok_or_else(refused);
        }
        // Service names have a letter somewhere (RFC 6335); some begin with digits.
        match text.bytes().all(of_a_service) && text.bytes().any(|byte| byte.is_ascii_alphabetic()) {
            true => Ok(Port::Service(text.to_owned())),
            false => Err(refused()),
        }
    }
}

/// The number or the name; nothing for the listener's port.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Number(number) => number.fmt(f),
            Port::Service(name) => f.write_str(name),
            Port::Listeners => Ok(()),
        }
    }
}

impl FromStr for ListenSpec {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let spec = |host, port| ListenSpec { text: text.to_owned(), host, port };
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.contains('/') {
            return Ok(spec(Host::unbracketed(text)?, Port::Number(0)));
        }
        if text.starts_with('[') {
            let (host, port) = split_bracketed(text)?;
            let port =
                port.filter(|port| !port.is_empty()).ok_or_else(|| AddressError::NoPort(text.to_owned()))?;
            return Ok(spec(Host::unbracketed(host)?, port.parse()?));
        }
        // The last colon: what is before it may be an IPv6 address without brackets.
        match text.rsplit_once(':') {
            None => Ok(spec(Host::Ip(Ipv4Addr::UNSPECIFIED.into()), text.parse()?)),
            Some(("", _)) => Err(AddressError::NoHost(text.to_owned())),
            Some((_, "")) => Err(AddressError::NoPort(text.to_owned())),
            Some((host, port)) => Ok(spec(Host::unbracketed(host)?, port.parse()?)),
        }
    }
}

impl ListenSpec {
    /// The path, if it is a Unix socket.
    pub fn path(&self) -> Option<&Path> {
        match &self.host {
            Host::Path(path) => Some(path),
            Host::Ip(_) | Host::Name(_) => None,
        }
    }

    /// Is it the same address, however it is written?
    pub fn is(&self, other: &ListenSpec) -> bool {
        (&self.host, &self.port) == (&other.host, &other.port)
    }
}

/// As it was given.
impl fmt::Display for ListenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ServerSpec {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        let (host, rest) = if text.starts_with('[') {
            split_bracketed(text)?
        } else if text.parse::<Ipv6Addr>().is_ok() {
            return Err(AddressError::BareIpv6(text.to_owned()));
        } else {
            text.split_once(':').map_or((text, None), |(host, rest)| (host, Some(rest)))
        };
        if host.is_empty() {
            return Err(AddressError::NoHost(text.to_owned()));
        }
        let mut server = ServerSpec { host: Some(Host::unbracketed(host)?), ..ServerSpec::unset() };
        let fields = rest.into_iter().flat_map(|rest| rest.split(':')).enumerate();
        for (position, field) in fields.filter(|(position, field)| *position > 4 || !field.is_empty()) {
            match position {
                0 => server.port = field.parse()?,
                1 => server.soft = number::unsigned("soft limit", field, 0..=LARGEST)?,
                2 => server.hard = number::unsigned("hard limit", field, 0..=LARGEST)?,
                3 => server.weight = number::unsigned("weight", field, 0..=LARGEST)?,
                4 => server.prio = number::signed("prio", field)?,
                _ => return Err(AddressError::TooManyFields(text.to_owned())),
            }
        }
        Ok(server)
    }
}

/// The shortest text that reads as the same server; the access list has no place in it. Nothing for an unset slot.
impl fmt::Display for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(host) = &self.host else { return Ok(()) };
        let mut fields = vec![
            self.port.to_string(),
            self.soft.to_string(),
            self.hard.to_string(),
            self.weight.to_string(),
            self.prio.to_string(),
        ];
        while fields.last().is_some_and(|field| field.is_empty() || field == "0") {
            fields.pop();
        }
        let fields: String = fields.iter().map(|field| format!(":{field}")).collect();
        let host = host.to_string();
        // Brackets also where a name and empty fields would look like an IPv6 address: abc::5.
        match host.contains([':', ']'])
            || host.starts_with('[')
            || format!("{host}{fields}").parse::<Ipv6Addr>().is_ok()
        {
            true => write!(f, "[{host}]{fields}"),
            false => write!(f, "{host}{fields}"),
        }
    }
}

/// `[host]` and `[host]:rest`, without the brackets and the colon. The last `]` counts: a path may contain one.
fn split_bracketed(text: &str) -> Result<(&str, Option<&str>), AddressError> {
    let inner = text.strip_prefix('[').unwrap_or(text);
    let (host, rest) = inner.rsplit_once(']').ok_or_else(|| AddressError::Unclosed(text.to_owned()))?;
    match rest.strip_prefix(':') {
        Some(fields) => Ok((host, Some(fields))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(AddressError::AfterBracket(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server(text: &str) -> ServerSpec {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(text: &str) -> String {
        text.parse::<ServerSpec>().unwrap_err().to_string()
    }

    fn listen(text: &str) -> (Host, Port) {
        let spec: ListenSpec = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(spec.to_string(), text);
        (spec.host, spec.port)
    }

    fn ip(text: &str) -> Host {
        Host::Ip(text.parse().unwrap())
    }

    #[test]
    fn a_server_takes_six_fields() {
        let all = server("127.0.0.1:9001:10:20:3:-4");
        assert_eq!(all.host, Some(ip("127.0.0.1")));
        assert_eq!(all.port, Port::Number(9001));
        assert_eq!((all.soft, all.hard, all.weight, all.prio), (10, 20, 3, -4));
        assert_eq!(all.acl, AclId::default());
    }

    #[test]
    fn missing_fields_are_zero_and_a_missing_port_is_the_listeners() {
        assert_eq!(server("127.0.0.1"), ServerSpec { host: Some(ip("127.0.0.1")), ..ServerSpec::unset() });
        assert_eq!(server("127.0.0.1::5"), ServerSpec { soft: 5, ..server("127.0.0.1") });
        assert_eq!(server("127.0.0.1:9001:::7"), ServerSpec { weight: 7, ..server("127.0.0.1:9001") });
        assert_eq!(server("127.0.0.1:9001::::"), server("127.0.0.1:9001"));
        assert_eq!(server("www:http:3").port, Port::Service("http".into()));
        assert_eq!(server("www").host, Some(Host::Name("www".into())));
    }

    #[test]
    fn brackets_hold_any_address() {
        let six = server("[::1]:9001:1:2:3:4");
        assert_eq!((six.host, six.port, six.prio), (Some(ip("::1")), Port::Number(9001), 4));
        assert_eq!(server("[127.0.0.1]:9002"), server("127.0.0.1:9002"));
        assert_eq!(server("[::1]").port, Port::Listeners);
        assert_eq!(server("[::ffff:10.0.0.1]:80"), server("10.0.0.1:80"));
    }

    #[test]
    fn a_slash_makes_a_unix_socket() {
        assert_eq!(server("/run/x.sock").host, Some(Host::Path("/run/x.sock".into())));
        let limited = server("./x:1:7:8:9");
        assert_eq!(limited.host, Some(Host::Path("./x".into())));
        assert_eq!((limited.soft, limited.hard, limited.weight), (7, 8, 9));
    }

    #[test]
    fn what_a_server_cannot_be_is_refused_with_the_reason() {
        assert_eq!(refused(""), "the address is empty");
        assert_eq!(refused("[]:1"), r#"no host before the colon in "[]:1""#);
        assert_eq!(refused(":9001"), r#"no host before the colon in ":9001""#);
        assert!(refused("2001:db8::1:80").ends_with("put an IPv6 address in brackets: [2001:db8::1]:80"));
        for (port, text) in [
            ("99999", "127.0.0.1:99999"),
            ("0", "127.0.0.1:0"),
            ("-1", "127.0.0.1:-1"),
            ("80 ", "127.0.0.1:80 "),
        ] {
            let message = format!("port must be a number from 1 to 65535 or a service name, not {port:?}");
            assert_eq!(refused(text), message);
        }
        assert_eq!(refused("h:1:-1"), r#"soft limit must be a number from 0 to 2147483647, not "-1""#);
        assert_eq!(refused("h:1:2:x"), r#"hard limit must be a number from 0 to 2147483647, not "x""#);
        assert_eq!(refused("h:1:2:3:1x"), r#"weight must be a number from 0 to 2147483647, not "1x""#);
        assert!(refused("h:1:2:3:4:five").starts_with("prio must be a number from -2147483648"));
        assert!(refused("h:1:2:3:4:5:junk").starts_with("nothing can follow the sixth field"));
        assert!(refused("h:1:2:3:4:5:").starts_with("nothing can follow the sixth field"));
        assert_eq!(refused("[::1:80"), r#"no ] after the [ in "[::1:80""#);
        assert_eq!(refused("[::1]80"), r#"only a colon can follow the ] in "[::1]80""#);
        assert!(refused("[fe80::1%eth0]:80").contains("is neither an IP address nor a host name"));
        assert!(refused("a b:80").starts_with(r#""a b" is neither"#));
        assert!(refused("-x:80").starts_with(r#""-x" is neither"#));
        assert!(refused("/a\0b").contains("is neither"));
    }

    #[test]
    fn pen_listens_on_ports_addresses_names_and_paths() {
        assert_eq!(listen("80"), (ip("0.0.0.0"), Port::Number(80)));
        assert_eq!(listen("http"), (ip("0.0.0.0"), Port::Service("http".into())));
        assert_eq!(listen("127.0.0.1:8001"), (ip("127.0.0.1"), Port::Number(8001)));
        assert_eq!(listen("localhost:http"), (Host::Name("localhost".into()), Port::Service("http".into())));
        assert_eq!(listen("[::1]:8001"), (ip("::1"), Port::Number(8001)));
        assert_eq!(listen("::1:8001"), (ip("::1"), Port::Number(8001)));
        assert_eq!(listen(":::8001"), (ip("::"), Port::Number(8001)));
        assert_eq!(listen("/run/pen.sock"), (Host::Path("/run/pen.sock".into()), Port::Number(0)));
        assert_eq!(listen("./a:b").0, Host::Path("./a:b".into()));
    }

    #[test]
    fn what_pen_cannot_listen_on_is_refused() {
        let refused = |text: &str| text.parse::<ListenSpec>().unwrap_err();
        for port in ["0", "70000", "-1", "8 0", "127.0.0.1:0", "127.0.0.1:70000", "[::1]:0"] {
            assert!(matches!(refused(port), AddressError::Port(_)), "{port}");
        }
        assert_eq!(refused(""), AddressError::Empty);
        assert_eq!(refused(":80"), AddressError::NoHost(":80".into()));
        for portless in ["[::1]", "[::1]:", "127.0.0.1:"] {
            assert_eq!(refused(portless), AddressError::NoPort(portless.into()));
        }
        assert_eq!(refused("2001:db8::1"), AddressError::Host("2001:db8:".into()));
        assert_eq!(refused("a:b:80"), AddressError::Host("a:b".into()));
    }

    fn host() -> impl Strategy<Value = Host> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(|octets| Host::Ip(octets.into())),
            any::<[u16; 8]>().prop_map(|groups| Host::Ip(IpAddr::from(groups).to_canonical())),
            "[a-f]{1,4}|[a-z_][a-z0-9_.-]{0,20}[a-z]".prop_map(Host::Name),
            r"[a-z:/ \[\]]{0,9}/[a-z:/ \[\]]{0,9}".prop_map(|path| Host::Path(path.into())),
        ]
    }

    fn port() -> impl Strategy<Value = Port> {
        prop_oneof![
            (1..=u16::MAX).prop_map(Port::Number),
            "[0-9]{0,2}[a-z][a-z0-9-]{0,9}".prop_map(Port::Service),
            Just(Port::Listeners),
        ]
    }

    proptest! {
        #[test]
        fn the_text_of_a_server_reads_as_the_same_server(
            host in host(), port in port(),
            soft in 0..=LARGEST, hard in 0..3_u32, weight in 0..3_u32, prio in any::<i32>(), fields in 0..5,
        ) {
            let spec = ServerSpec {
                host: Some(host),
                port,
                soft: if fields > 0 { soft } else { 0 },
                hard: if fields > 1 { hard } else { 0 },
                weight: if fields > 2 { weight } else { 0 },
                prio: if fields > 3 { prio } else { 0 },
                ..ServerSpec::unset()
            };
            prop_assert_eq!(spec.to_string().parse::<ServerSpec>(), Ok(spec.clone()), "{}", spec);
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in r"[a-f0-9:.,/ \[\]-]{0,24}|\PC{0,12}") {
            if let Ok(spec) = text.parse::<ServerSpec>() {
                prop_assert_eq!(spec.to_string().parse(), Ok(spec));
            }
            if let Ok(spec) = text.parse::<ListenSpec>() {
                prop_assert_eq!(spec.to_string(), text);
            }
        }
    }
}
