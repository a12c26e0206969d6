//! The header of the PROXY protocol, versions 1 and 2: read here, written by [`Outgoing`].
//!
//! A proxy sends it before the first byte of a connection, to tell from whom that is. Nothing here is kept between two
//! looks: whoever asks brings everything that has come so far. What has been said of the first bytes holds for all that
//! may follow them, unless it was [`Verdict::Incomplete`].
//!
//! A datagram has it at its own beginning, whole and of version 2, or does not have it.
//!
//! ```text
//! 1   PROXY TCP4|TCP6 source destination port port CRLF        at most 107 bytes
//!     PROXY UNKNOWN whatever CRLF
//! 2   signature, version and command, family and transport, length in two bytes
//!     IPv4: 4 + 4 + 2 + 2 bytes, IPv6: 16 + 16 + 2 + 2, Unix: 108 + 108
//!     any number of extensions: type, length in two bytes, value
//! ```
//!
//! See <https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>. Not here: whose header is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::listen::Protocol;

pub use write::{ClientCertificate, ClientTls, Outgoing};

/// Most bytes that a header can have.
pub const LONGEST: usize = 16 * 1024;

/// Most bytes that a header of version 1 can have, with its line end.
pub const LONGEST_LINE: usize = 107;

/// What can be said of the first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough yet.
    Incomplete,
    /// A header.
    Whole(Header),
    /// None, whatever follows.
    Broken(Flaw),
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it is, 15 to [`LONGEST`]. What follows them is the client's.
    pub length: usize,
    /// Who has connected to whom.
    pub route: Route,
    /// The client came by TLS, which ended at the sender.
    pub secured: bool,
}

/// Who has connected to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Those that the connection itself is between: `LOCAL`, `UNKNOWN`, or nothing that is understood.
    Own,
    /// As it is announced.
    Inet {
        /// The client.
        source: SocketAddr,
        /// What it has connected to.
        destination: SocketAddr,
    },
    /// It was on a Unix socket.
    Unix,
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is something else.
    #[error("it begins without a header")]
    Missing,
    /// No CRLF where one must be, or too many bytes.
    #[error("its header is longer than {0} bytes")]
    TooLong(usize),
    /// CR without LF, or LF without CR.
    #[error("the line of its header does not end with CRLF")]
    LineEnd,
    /// Version 1, but not as it is to be.
    #[error("the line of its header is not PROXY, TCP4 or TCP6, two addresses, two ports")]
    Line,
    /// Neither 1 nor 2.
    #[error("its header is of version {0}")]
    Version(u8),
    /// Neither LOCAL nor PROXY.
    #[error("its header has the command {0}, which is none")]
    Command(u8),
    /// No family of addresses.
    #[error("its header has addresses of the family {0}, which is none")]
    Family(u8),
    /// No transport.
    #[error("its header has the transport {0}, which is none")]
    Transport(u8),
    /// It belongs in front of something else.
    #[error("its header is about datagrams, and what follows is a stream")]
    Datagrams,
    /// It belongs in front of something else.
    #[error("its header is about a stream, and what follows is a datagram")]
    Stream,
    /// A datagram is everything: nothing more will come.
    #[error("the datagram ends within its header")]
    Cut,
    /// It ends within its addresses.
    #[error("its header is too short for its addresses")]
    Short,
    /// One of the extensions goes beyond the end, or is too short.
    #[error("the extensions of its header are not built as they should be")]
    Extensions,
    /// The sum is that of something else, or there are two.
    #[error("its header does not have its checksum")]
    Checksum,
}

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with.
const LINE_START: &[u8; 6] = b"PROXY ";
/// The signature, version and command, family and transport, length.
const FIXED: usize = 16;

const VERSION: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

const UNSPECIFIED: u8 = 0;
const INET: u8 = 1;
const INET6: u8 = 2;
const UNIX: u8 = 3;
const STREAM: u8 = 1;
const DATAGRAM: u8 = 2;

const CHECKSUM: u8 = 0x03;
const TLS: u8 = 0x20;
/// In the first byte of [`TLS`]: the client came by it.
const BY_TLS: u8 = 1;

/// What are these, the first bytes of a connection?
pub fn parse(bytes: &[u8]) -> Verdict {
    let read = if starts_as(bytes, SIGNATURE) {
        read_binary(bytes, Protocol::Tcp)
    } else if starts_as(bytes, LINE_START) {
        read_line(bytes)
    } else {
        Err(Flaw::Missing)
    };
    match read {
        Ok(Some(header)) => Verdict::Whole(header),
        Ok(None) => Verdict::Incomplete,
        Err(flaw) => Verdict::Broken(flaw),
    }
}

/// Does this datagram begin with a header? None: with nothing that is one, as far as can be told. The header's `length` is
/// not beyond its end; what follows there is the client's, and may be nothing.
///
/// # Errors
/// Something is wrong with it, or it is one of version 1: that cannot be about datagrams.
pub fn parse_datagram(bytes: &[u8]) -> Result<Option<Header>, Flaw> {
    if bytes.starts_with(SIGNATURE) {
        return read_binary(bytes, Protocol::Udp)?.ok_or(Flaw::Cut).map(Some);
    }
    // Only a whole one is one for certain. Else these may be a client's own words.
    match bytes.starts_with(LINE_START) && matches!(read_line(bytes), Ok(Some(_))) {
        true => Err(Flaw::Version(1)),
        false => Ok(None),
    }
}

/// As far as both go.
fn starts_as(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}

/// Version 1. None: there is more to come.
fn read_line(bytes: &[u8]) -> Result<Option<Header>, Flaw> {
    let seen = &bytes[..bytes.len().min(LONGEST_LINE)];
    let all = seen.len() == LONGEST_LINE;
    let Some(end) = seen.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if all { Err(Flaw::TooLong(LONGEST_LINE)) } else { Ok(None) };
    };
    match &seen[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if all => return Err(Flaw::TooLong(LONGEST_LINE)),
        [b'\r'] => return Ok(None),
        _ => return Err(Flaw::LineEnd),
    }
    let line = seen.get(LINE_START.len()..end).ok_or(Flaw::Line)?;
    let route = match str::from_utf8(line).ok().and_then(announced) {
        Some(route) => route,
        None if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") => Route::Own,
        None => return Err(Flaw::Line),
    };
    Ok(Some(Header { length: end + 2, route, secured: false }))
}

/// What follows PROXY, if it is about TCP.
fn announced(words: &str) -> Option<Route> {
    let mut words = words.split(' ');
    let address: fn(&str) -> Option<IpAddr> = match words.next()? {
        "TCP4" => |word| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |word| word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return None,
    };
    let (from, to) = (address(words.next()?)?, address(words.next()?)?);
    let (from_port, to_port) = (port(words.next()?)?, port(words.next()?)?);
    let (source, destination) = (SocketAddr::new(from, from_port), SocketAddr::new(to, to_port));
    words.next().is_none().then_some(Route::Inet { source, destination })
}

/// A number without sign and leading zeros.
fn port(word: &str) -> Option<u16> {
    let plain = word == "0" || word.starts_with(|first| matches!(first, '1'..='9'));
    if plain { word.parse().ok() } else { None }
}

/// Version 2, before what comes by this protocol. None: there is more to come.
fn read_binary(bytes: &[u8], protocol: Protocol) -> Result<Option<Header>, Flaw> {
    let Some(&command) = bytes.get(SIGNATURE.len()) else {
        return Ok(None);
    };
    let is_local = match (command >> 4, command & 0xf) {
        (VERSION, LOCAL) => true,
        (VERSION, PROXY) => false,
        (VERSION, command) => return Err(Flaw::Command(command)),
        (version, _) => return Err(Flaw::Version(version)),
    };
    let Some(&kind) = bytes.get(SIGNATURE.len() + 1) else {
        return Ok(None);
    };
    let kind = if is_local { None } else { Some(Kind::of(kind, protocol)?) };
    let Some(&[high, low]) = bytes.get(FIXED - 2..FIXED) else {
        return Ok(None);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(Flaw::TooLong(LONGEST));
    }
    let addresses = FIXED + kind.as_ref().map_or(0, Kind::addresses_length);
    if length < addresses {
        return Err(Flaw::Short);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    let Some(kind) = kind else {
        // Whatever it says of addresses, families and extensions, it says of nobody.
        return Ok(Some(Header { length, route: Route::Own, secured: false }));
    };
    let (route, extensions) = match kind.route(&header[FIXED..addresses]) {
        Some(route) => (route, extensions(header, addresses)?),
        // Where nothing is specified, there need not be extensions behind the addresses: there may be others.
        None => match extensions(header, addresses) {
            Err(Flaw::Extensions) => (Route::Own, Extensions::default()),
            extensions => (Route::Own, extensions?),
        },
    };
    Ok(Some(Header { length, route, secured: extensions.secured }))
}

/// What is announced of the connection.
struct Kind {
    family: u8,
    transport: u8,
}

impl Kind {
    /// It must be about what comes by this protocol, or say nothing of it.
    fn of(byte: u8, protocol: Protocol) -> Result<Self, Flaw> {
        let (family, transport) = (byte >> 4, byte & 0xf);
        if family > UNIX {
            return Err(Flaw::Family(family));
        }
        match (transport, protocol) {
            (UNSPECIFIED, _) | (STREAM, Protocol::Tcp) | (DATAGRAM, Protocol::Udp) => {
                Ok(Kind { family, transport })
            }
            (DATAGRAM, Protocol::Tcp) => Err(Flaw::Datagrams),
            (STREAM, Protocol::Udp) => Err(Flaw::Stream),
            _ => Err(Flaw::Transport(transport)),
        }
    }

    /// How many bytes its addresses take.
    fn addresses_length(&self) -> usize {
        match self.family {
            INET => 12,
            INET6 => 36,
            UNIX => 216,
            _ => 0,
        }
    }

    /// None: nothing is to be understood by these addresses.
    fn route(&self, addresses: &[u8]) -> Option<Route> {
        if self.transport == UNSPECIFIED {
            return None;
        }
        match self.family {
            INET => inet::<4, Ipv4Addr>(addresses),
            INET6 => inet::<16, Ipv6Addr>(addresses),
            UNIX => Some(Route::Unix),
            _ => None,
        }
    }
}

/// Two addresses of so many bytes, then two ports.
fn inet<const LENGTH: usize, Ip>(bytes: &[u8]) -> Option<Route>
where
    Ip: From<[u8; LENGTH]> + Into<IpAddr>,
{
    let (from, rest) = bytes.split_first_chunk::<LENGTH>()?;
    let (to, rest) = rest.split_first_chunk::<LENGTH>()?;
    let &[from_high, from_low, to_high, to_low] = rest else {
        return None;
    };
    Some(Route::Inet {
        source: SocketAddr::new(Ip::from(*from).into(), u16::from_be_bytes([from_high, from_low])),
        destination: SocketAddr::new(Ip::from(*to).into(), u16::from_be_bytes([to_high, to_low])),
    })
}

/// What the extensions say that is wanted.
#[derive(Default)]
struct Extensions {
    secured: bool,
}

/// Those of a whole header, which begin at `start`. Unknown ones say nothing.
fn extensions(header: &[u8], start: usize) -> Result<Extensions, Flaw> {
    let mut found = Extensions::default();
    let mut sum = None;
    let mut rest = &header[start..];
    while let Some((kind, after)) = rest.split_first() {
        let (&length, after) = after.split_first_chunk::<2>().ok_or(Flaw::Extensions)?;
        let length = usize::from(u16::from_be_bytes(length));
        let (value, after) = after.split_at_checked(length).ok_or(Flaw::Extensions)?;
        match *kind {
            // Where it is, and what it should be. All must be there before it means anything.
            CHECKSUM if sum.is_some() => return Err(Flaw::Checksum),
            CHECKSUM => sum = Some((header.len() - after.len() - length, value)),
            TLS => match value {
                [client, _, _, _, _, ..] => found.secured |= client & BY_TLS != 0,
                _ => return Err(Flaw::Extensions),
            },
            _ => {}
        }
        rest = after;
    }
    match sum {
        Some((place, sum)) if !is_sum_of(header, place, sum) => Err(Flaw::Checksum),
        _ => Ok(found),
    }
}

/// Is this, at this place of the header, its sum? There it counts as zero.
fn is_sum_of(header: &[u8], place: usize, sum: &[u8]) -> bool {
    let Ok(sum) = <[u8; 4]>::try_from(sum) else {
        return false;
    };
    let (before, after) = (&header[..place], &header[place + sum.len()..]);
    let sums = [&[0; 4], after].into_iter().fold(crc32c::crc32c(before), crc32c::crc32c_append);
    sums == u32::from_be_bytes(sum)
}

mod write;

#[cfg(test)]
mod tests;
