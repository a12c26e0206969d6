//! What pen's log says of a connection, a flow or a request when it is over: `log_format json`.
//!
//! Their text form, one JSON object on a line each, is `json`'s.
//! Not here: when something is over (`net`), where the text goes (`report::log`).

mod json;

use std::fmt;

use super::address::{ClientAddress, SocketAddress};
use super::ids::{ConnId, Target, WorkerId};
use super::listen::Protocol;
use super::time::civil;

/// Microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallMicros(pub u64);

impl WallMicros {
    /// The last that RFC 3339 has four digits for: 9999-12-31T23:59:59.999999Z.
    const LAST: WallMicros = WallMicros(253_402_300_799_999_999);

    /// So many microseconds earlier; not before 1970.
    pub fn before(self, micros: u64) -> WallMicros {
        WallMicros(self.0.saturating_sub(micros))
    }
}

/// A time in RFC 3339's form.
#[derive(Debug, Clone, Copy)]
struct Rfc3339([u8; 27]);

impl Rfc3339 {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits")
    }
}

impl WallMicros {
    fn rfc3339(self) -> Rfc3339 {
        let WallMicros(micros) = self.min(WallMicros::LAST);
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        let (year, month, day) = civil((seconds / 86_400) as i64);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        for (range, number) in [
            (0..4, year as u64),
            (5..7, month as u64),
            (8..10, day as u64),
            (11..13, seconds / 3600 % 24),
            (14..16, seconds / 60 % 60),
            (17..19, seconds % 60),
            (20..26, micros),
        ] {
            let mut rest = number;
            for digit in text[range].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        Rfc3339(text)
    }
}

/// As RFC 3339 has it, in UTC: `2026-11-23T18:42:05.000001Z`.
impl fmt::Display for WallMicros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rfc3339().as_str())
    }
}

/// An enum whose every value has a word, which pen(1) lists: `ALL` cannot miss one.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $value:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $value,)+
        }

        impl $name {
            /// All there are, in the order of pen(1).
            pub const ALL: &[$name] = &[$($name::$value),+];

            /// Its word.
            pub fn word(self) -> &'static str {
                match self {
                    $($name::$value => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words! {
    /// Why a connection went to its server.
    Chosen {
        /// The client's last server.
        LastServer = "last_server",
        /// `prio`.
        Prio = "prio",
        /// `-W`.
        Weight = "weight",
        /// `-h` or `-N`.
        Hash = "hash",
        /// None of these.
        RoundRobin = "round_robin",
        /// Those that come before it, by any of these rules, did not take it.
        Failover = "failover",
        /// No regular server took it.
        Emergency = "emergency",
        /// `client_acl` refuses the client.
        Abuse = "abuse",
    }
}

words! {
    /// How a connection, a flow or a request ended. The list is closed: pen(1) has it.
    Ended {
        /// Both streams came to their end, the client's first.
        ClientClosed = "client_closed",
        /// Both streams came to their end, the server's first. Or the server's alone, and it takes no more.
        ServerClosed = "server_closed",
        /// `tcp_fastclose`: one stream came to its end, and that was enough.
        FastClose = "fast_close",
        /// The client has reset the connection, or closed it before it had everything.
        ClientReset = "client_reset",
        /// The server has.
        ServerReset = "server_reset",
        /// The client's TLS stopped without a word, or made no sense.
        ClientTlsBroken = "client_tls_broken",
        /// The server's did.
        ServerTlsBroken = "server_tls_broken",
        /// Nothing went by for `idle_timeout`, or for the time of a flow; or `dummy` had no request.
        IdleTimeout = "idle_timeout",
        /// The client has gone away before there was a server for it.
        ClientGone = "client_gone",
        /// `client_acl` refuses the client, and there is no abuse server that takes it.
        ClientRefused = "client_refused",
        /// No server was to be tried: all are full, left alone, drained, or not for this client.
        NoServer = "no_server",
        /// All servers that could be tried have failed.
        ConnectFailed = "connect_failed",
        /// The system had no descriptor, port or memory for it.
        NoResources = "no_resources",
        /// The client's handshake of TLS failed.
        HandshakeFailed = "handshake_failed",
        /// The client's handshake of TLS took too long.
        HandshakeTimeout = "handshake_timeout",
        /// The client said nothing, or too little to know whom it is for: `peek`, `ssl_passthrough sni`.
        PeekTimeout = "peek_timeout",
        /// `proxy_accept`: no header is accepted from whoever has connected.
        ProxyRefused = "proxy_refused",
        /// `proxy_accept`: what it began with is no header.
        ProxyBroken = "proxy_broken",
        /// `proxy_accept`: its header took too long.
        ProxyTimeout = "proxy_timeout",
        /// `-H`: a request was none, or ambiguous: 400.
        BadRequest = "bad_request",
        /// `-H`: the head of a request took too long: 408.
        RequestTimeout = "request_timeout",
        /// `dummy`: the client has its page.
        Dummy = "dummy",
        /// A flow: each datagram has had as many replies as `udp_timeout` says.
        Replied = "replied",
        /// A flow: another needed its place.
        Evicted = "evicted",
        /// A flow: its server is not there any more, as the network says.
        ServerLost = "server_lost",
        /// A flow: pen does not listen any more where it came in.
        ListenerClosed = "listener_closed",
        /// The command `close`.
        ClosedByCommand = "closed_by_command",
        /// Its worker was told to end.
        Shutdown = "shutdown",
        /// Its worker has died.
        WorkerDied = "worker_died",
        /// A request: it has its response.
        Answered = "answered",
        /// A request: what the server sent is no response to it, and nothing is known of what followed.
        NotHttp = "not_http",
    }
}

/// The server of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChosenServer<'a> {
    /// Its number, or emergency or abuse.
    pub target: Target,
    /// Where it is.
    pub address: &'a SocketAddress,
    /// Why it is this one.
    pub chosen: Chosen,
}

/// What is known of a client's TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsFacts<'a> {
    /// `TLSv1.3`; none: it was not agreed on, or is not for us to know.
    pub version: Option<&'a str>,
    /// The name that the client asked for.
    pub name: Option<&'a str>,
}

/// A connection that is over, or a flow of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionRecord<'a> {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who served it.
    pub worker: WorkerId,
    /// Its slot in the connection table, as penctl(1) shows it.
    pub conn: ConnId,
    /// Who it was for; none: nobody knows any more. Without its port: 0.
    pub client: Option<ClientAddress>,
    /// Where it went; none: nowhere.
    pub server: Option<ChosenServer<'a>>,
    /// How many servers were tried, the last one included.
    pub attempts: u32,
    /// When the client was accepted.
    pub began: WallMicros,
    /// Microseconds from then until the server had answered the connect; none: it never did.
    pub connected_after: Option<u64>,
    /// Microseconds from then until the end.
    pub duration: u64,
    /// Bytes from the client to the server.
    pub up: u64,
    /// Bytes from the server to the client.
    pub down: u64,
    /// Datagrams there and back; none: it was a connection.
    pub datagrams: Option<(u64, u64)>,
    /// Why it is over.
    pub ended: Ended,
    /// What the client's handshake, or its ClientHello that was passed through, has said.
    pub tls: Option<TlsFacts<'a>>,
}

/// A request that is over, on a connection with `-H`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRecord<'a> {
    /// Who served it.
    pub worker: WorkerId,
    /// The slot of its connection.
    pub conn: ConnId,
    /// Who asked.
    pub client: ClientAddress,
    /// Who answered.
    pub server: Option<ChosenServer<'a>>,
    /// The first line of its head, without the line end.
    pub request: &'a [u8],
    /// The status of its final response; none: there was none.
    pub status: Option<u16>,
    /// When its head was whole.
    pub began: WallMicros,
    /// Microseconds from then until the end of the response.
    pub duration: u64,
    /// Bytes of head and body as they went to the server.
    pub up: u64,
    /// Bytes of the response.
    pub down: u64,
    /// Why it is over.
    pub ended: Ended,
    /// What is known of the client's TLS.
    pub tls: Option<TlsFacts<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_the_gregorian_calendar_in_utc() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (951_868_800_000_000, "2000-03-01T00:00:00.000000Z"),
            (1_000_000_000_000_000, "2001-09-09T01:46:40.000000Z"),
            (1_798_761_599_123_456, "2026-12-31T23:59:59.123456Z"),
            (4_107_542_399_000_000, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(WallMicros(micros).to_string(), text);
        }
    }

    #[test]
    fn every_day_follows_the_one_before_it() {
        let leaps = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let mut expected = (1970, 1, 1);
        for day in 0..366 * 900 {
            assert_eq!(civil(day), expected);
            let (year, month, day) = expected;
            let length = match month {
                2 => 28 + i64::from(leaps(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (day == length, month == 12) {
                (false, _) => (year, month, day + 1),
                (true, false) => (year, month + 1, 1),
                (true, true) => (year + 1, 1, 1),
            };
        }
    }
}
