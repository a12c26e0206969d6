//! One line of text to one [`Command`]: the grammar that configuration file, `-O` and control port share.
//!
//! Words are separated by spaces and tabs; double quotes hold a word with spaces, `\"` and `\\` being a quote and a
//! backslash in it; a word that begins with `#` begins a comment. See pen(1), COMMANDS.
//! Not here: what a command does ([`super::apply`]), lines of a file ([`super::config`]), commands from settings
//! ([`super::render`]).

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use super::address::{AddressError, ClientAddress, Drain, Host, ListenSpec, Port, ServerSpec};
use super::http::{Existing, HEAD_MAX};
use super::ids::{AclId, ConnId, MAX_CLIENTS, MAX_CONNECTIONS, MAX_SERVERS, MAX_WORKERS, ServerId};
use super::listen::{Listen, Protocol};
use super::number::{self, LARGEST, NumberError};
use super::proxy::ProxySend;
use super::server_name::NamePattern;
use super::settings::{
    AclEntry, FastClose, FileNameError, FlowTimeout, LogDestination, LogDestinationError, LogFormat, Network,
    file_name,
};
use super::time::Seconds;
use super::tls::{self, NoSuchWord, ServerTls, TlsOption, TlsVersion, Trust, VerifyClient};

/// What a line asks for. Every value in it has been checked: nothing is left that could fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `hash`, `no hash` and the like.
    Switch(Switch, bool),
    /// `blacklist N` and the like; without a number, the question for it.
    Number(Number, Option<u32>),
    /// `acl N permit|deny …`.
    AclAdd(AclId, AclEntry),
    /// `no acl N`.
    AclClear(AclId),
    /// `client_acl [N]`.
    ClientAcl(Option<AclId>),
    /// `control_acl [N]`.
    ControlAcl(Option<AclId>),
    /// `server N [key value]…`, in the order given.
    Server(ServerId, Vec<ServerChange>),
    /// `listen`: where?
    ShowListen,
    /// `listen SPEC`, `listen tcp|udp SPEC`, `no listen tcp|udp SPEC`.
    Listen(ListenChange),
    /// `log`: where to?
    ShowLog,
    /// `log X`, `no log`.
    Log(Option<LogDestination>),
    /// `log_format`: which?
    ShowLogFormat,
    /// `log_format X`.
    LogFormat(LogFormat),
    /// `web_stats`: which file?
    ShowWebStats,
    /// `web_stats FILE`, `no web_stats`.
    WebStats(Option<PathBuf>),
    /// `udp_timeout`: how long?
    ShowUdpTimeout,
    /// `udp_timeout N [replies M]`.
    UdpTimeout(FlowTimeout),
    /// `workers`: how many?
    ShowWorkers,
    /// `workers N`, `workers auto`.
    Workers(Option<u32>),
    /// `mode`.
    Mode,
    /// `source ADDR`, `no source`.
    Source(Option<IpAddr>),
    /// `tcp_fastclose X`.
    FastClose(FastClose),
    /// `include FILE`.
    Include(String),
    /// `drain N [all]`, `undrain N`. Nothing happens to a server that does not exist: whoever reads commands makes
    /// sure that it does.
    Drain(ServerId, Drain),
    /// `emergency`: which server?
    ShowEmergency,
    /// `emergency SPEC`, `no emergency`.
    Emergency(Option<ServerSpec>),
    /// `abuse`: which server?
    ShowAbuse,
    /// `abuse SPEC`, `no abuse`.
    Abuse(Option<ServerSpec>),
    /// `geoip`: which file?
    ShowGeoip,
    /// `geoip FILE`, `no geoip`.
    Geoip(Option<PathBuf>),
    /// `http [WORD]…`, `no http`, `no http forwarded`.
    Http(HttpChange),
    /// `proxy_accept`: from whom?
    ShowProxyAccept,
    /// `proxy_accept N`, `proxy_accept off`, `no proxy_accept`.
    ProxyAccept(Option<AclId>),
    /// `proxy_send`: which version?
    ShowProxySend,
    /// `proxy_send X`, `no proxy_send`.
    ProxySend(ProxySend),
    /// `ssl_certificate FILE` and the like.
    Tls(TlsChange),
    /// `ssl_certificate` and the like: what is it?
    ShowTls(TlsQuestion),
    /// For a running pen alone: see [`Operation`].
    Operation(Operation),
    /// Answered always in the same way, because what it asks for cannot be on.
    Constant(&'static str),
    /// Asks for what is so anyway.
    Nothing,
}

/// What only a running pen can answer or do. In a file, and with `-O`, there is nobody to ask yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// `check [FILE]`: would it be accepted? Without a file: that of `-F`.
    Check(Option<PathBuf>),
    /// `close [N]`: end a connection.
    Close(ConnId),
    /// `connection [N]`.
    Connection(ConnId),
    /// `control`: where is the control port?
    Control,
    /// `diff [FILE]`: what would it change? Without a file: that of `-F`.
    Diff(Option<PathBuf>),
    /// `exit`.
    Exit,
    /// `explain ADDRESS`: which server would that client get, and why?
    Explain(ClientAddress),
    /// `limits`.
    Limits,
    /// `pid`.
    Pid,
    /// `recent [N]`: clients of the last so many seconds.
    Recent(Seconds),
    /// `reload`: what HUP does.
    Reload,
    /// `servers`.
    Servers,
    /// `socket N`: which connection has this descriptor?
    Socket(i32),
    /// `status`.
    Status,
    /// `write [FILE]`: the settings as a configuration file. Without a file: that of `-F`.
    Write(Option<PathBuf>),
}

impl Operation {
    /// The word that the command begins with.
    pub fn word(&self) -> &'static str {
        match self {
            Operation::Check(_) => "check",
            Operation::Close(_) => "close",
            Operation::Connection(_) => "connection",
            Operation::Control => "control",
            Operation::Diff(_) => "diff",
            Operation::Exit => "exit",
            Operation::Explain(_) => "explain",
            Operation::Limits => "limits",
            Operation::Pid => "pid",
            Operation::Recent(_) => "recent",
            Operation::Reload => "reload",
            Operation::Servers => "servers",
            Operation::Socket(_) => "socket",
            Operation::Status => "status",
            Operation::Write(_) => "write",
        }
    }
}

/// The settings that are on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// `abort_on_error`.
    AbortOnError,
    /// `ascii`.
    Ascii,
    /// `dummy`.
    Dummy,
    /// `forgetful`.
    Forgetful,
    /// `hash`.
    Hash,
    /// `keepalive`.
    Keepalive,
    /// `peek`.
    Peek,
    /// `prio`.
    Prio,
    /// `roundrobin`.
    Roundrobin,
    /// `stubborn`.
    Stubborn,
    /// `transparent`.
    Transparent,
    /// `weight`.
    Weight,
}

const SWITCHES: [(&str, Switch); 12] = [
    ("abort_on_error", Switch::AbortOnError),
    ("ascii", Switch::Ascii),
    ("dummy", Switch::Dummy),
    ("forgetful", Switch::Forgetful),
    ("hash", Switch::Hash),
    ("keepalive", Switch::Keepalive),
    ("peek", Switch::Peek),
    ("prio", Switch::Prio),
    ("roundrobin", Switch::Roundrobin),
    ("stubborn", Switch::Stubborn),
    ("transparent", Switch::Transparent),
    ("weight", Switch::Weight),
];

/// The settings that are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// `blacklist`, seconds.
    Blacklist,
    /// `clients_max`; a running pen's only grows.
    ClientsMax,
    /// `conn_max`; a running pen's only grows.
    ConnMax,
    /// `debug`; above 3 is 3.
    Debug,
    /// `http_head_max`, bytes.
    HttpHeadMax,
    /// `http_head_timeout`, seconds.
    HttpHeadTimeout,
    /// `idle_timeout`, seconds.
    IdleTimeout,
    /// `listen_queue`.
    ListenQueue,
    /// `multi_accept`.
    MultiAccept,
    /// `pending_max`.
    PendingMax,
    /// `ssl_handshake_timeout`, seconds.
    SslHandshakeTimeout,
    /// `ssl_ticket_rotation`, seconds.
    SslTicketRotation,
    /// `timeout`, seconds.
    Timeout,
    /// `tracking`, seconds.
    Tracking,
}

/// What each number may be, and whether a smaller one is raised (as the classic did) instead of refused.
const NUMBERS: [(&str, Number, u32, u32, bool); 14] = [
    ("blacklist", Number::Blacklist, 0, LARGEST, false),
    ("clients_max", Number::ClientsMax, 1, MAX_CLIENTS, false),
    ("conn_max", Number::ConnMax, 1, MAX_CONNECTIONS, false),
    ("debug", Number::Debug, 0, LARGEST, false),
    ("http_head_max", Number::HttpHeadMax, *HEAD_MAX.start(), *HEAD_MAX.end(), false),
    ("http_head_timeout", Number::HttpHeadTimeout, 1, LARGEST, false),
    ("idle_timeout", Number::IdleTimeout, 0, LARGEST, true),
    ("listen_queue", Number::ListenQueue, 50, LARGEST, true),
    ("multi_accept", Number::MultiAccept, 1, LARGEST, true),
    ("pending_max", Number::PendingMax, 1, LARGEST, true),
    ("ssl_handshake_timeout", Number::SslHandshakeTimeout, 1, LARGEST, false),
    ("ssl_ticket_rotation", Number::SslTicketRotation, 1, LARGEST, false),
    ("timeout", Number::Timeout, 1, LARGEST, false),
    ("tracking", Number::Tracking, 0, LARGEST, false),
];

/// What a command changes of where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenChange {
    /// `listen SPEC`: there, with the protocol of `-U` or without it, and nowhere else.
    Only(ListenSpec),
    /// `listen tcp|udp SPEC`: there, too.
    Add(Listen),
    /// `no listen tcp|udp SPEC`: there no longer. Nothing happens if nobody listens there: whoever reads commands makes
    /// sure that somebody does.
    Remove(Listen),
}

/// What a command changes of the headers of HTTP requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpChange {
    /// `http [append|replace|keep] [forwarded]`: they are on; what is not named stays as it is.
    On {
        /// What becomes of those that are there already.
        existing: Option<Existing>,
        /// RFC 7239's header too.
        forwarded: bool,
    },
    /// `no http forwarded`: without RFC 7239's header, whether the others are on or not.
    NoForwarded,
    /// `no http`: they are off.
    Off,
}

/// What a command changes of TLS with clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsChange {
    /// `ssl_certificate FILE` and its like, with `no` too.
    File(TlsFile, Option<PathBuf>),
    /// `ssl_ciphers [LIST]` and its like; none is the default list.
    List(TlsList, Option<String>),
    /// `ssl_verify_client X`.
    VerifyClient(VerifyClient),
    /// `ssl_min_version V`.
    MinVersion(TlsVersion),
    /// `ssl_max_version V`.
    MaxVersion(TlsVersion),
    /// `ssl_alpn [PROTO…]`.
    Alpn(Vec<String>),
    /// `ssl_option X`.
    AddOption(TlsOption),
    /// `no ssl_option X`.
    TakeOption(TlsOption),
    /// `no ssl_option`.
    NoOptions,
    /// `ssl_passthrough X`.
    Passthrough(bool),
}

/// What can be asked of TLS with clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsQuestion {
    /// `ssl_certificate` and its like.
    File(TlsFile),
    /// `ssl_verify_client`.
    VerifyClient,
    /// `ssl_min_version`.
    MinVersion,
    /// `ssl_max_version`.
    MaxVersion,
    /// `ssl_option`.
    Options,
    /// `ssl_passthrough`.
    Passthrough,
}

/// The files, and directories, of TLS with clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// `ssl_certificate`.
    Certificate,
    /// `ssl_key`.
    Key,
    /// `ssl_ca_file`.
    CaFile,
    /// `ssl_ca_path`, a directory.
    CaPath,
    /// `ssl_sni_path`, a directory.
    SniPath,
    /// `ssl_ocsp_response`.
    OcspResponse,
}

const TLS_FILES: [(&str, TlsFile); 6] = [
    ("ssl_certificate", TlsFile::Certificate),
    ("ssl_key", TlsFile::Key),
    ("ssl_ca_file", TlsFile::CaFile),
    ("ssl_ca_path", TlsFile::CaPath),
    ("ssl_sni_path", TlsFile::SniPath),
    ("ssl_ocsp_response", TlsFile::OcspResponse),
];

/// What is listed in the words of the TLS library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsList {
    /// `ssl_ciphers`.
    Ciphers,
    /// `ssl_ciphersuites`.
    Ciphersuites,
    /// `ssl_groups`.
    Groups,
}

const TLS_LISTS: [(&str, TlsList); 3] = [
    ("ssl_ciphers", TlsList::Ciphers),
    ("ssl_ciphersuites", TlsList::Ciphersuites),
    ("ssl_groups", TlsList::Groups),
];

/// How many replies `udp_timeout` can wait for.
const MOST_REPLIES: u32 = 1000;

/// How many bytes the name of a protocol can have in ALPN.
const LONGEST_PROTOCOL: usize = 255;

/// One key and value of the command `server`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerChange {
    /// `acl A`.
    Acl(AclId),
    /// `address X`.
    Address(Host),
    /// `blacklist T`: out of use for so long from now on; 0 = in use again.
    Blacklist(Seconds),
    /// `hard H`.
    Hard(u32),
    /// `max M`.
    Max(u32),
    /// `port P`; 0 takes the server out of use.
    Port(Port),
    /// `prio P`.
    Prio(i32),
    /// `proxy 1|2|every|off`; none for `proxy default`: as `proxy_send` says.
    Proxy(Option<ProxySend>),
    /// `sni NAME`, added to those that it has.
    Sni(NamePattern),
    /// `sni none`.
    NoSni,
    /// `tls [verify X] [sni NAME]`, `tls off`.
    Tls(Option<ServerTls>),
    /// `weight W`.
    Weight(u32),
}

/// How far back `recent` looks unless it is told.
const RECENT: u32 = 300;

/// Commands of capabilities that this version lacks.
const NOT_AVAILABLE: [&str; 2] = ["dsr_if", "dsr_ip"];

/// Commands without effect today, with and without `no`.
const OBSOLETE: [&str; 7] =
    ["block", "delayed_forward", "epoll", "kqueue", "poll", "select", "ssl_client_renegotiation_interval"];

/// Why a line is not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such command, with or without `no` before it. The classic went on to the next line, and its wording is kept.
    #[error("do_cmd: ignoring command starting with '{0}'")]
    Unknown(String),
    /// The classic's wording again.
    #[error("do_cmd: ignoring tcp_fastclose without argument")]
    FastCloseAlone,
    /// No such option. The classic went on without a word.
    #[error(
        "do_cmd: ignoring ssl_option {0:?}: it can be no_sslv2, no_sslv3, no_tlsv1, no_tlsv1.1, no_tlsv1.2 or \
         cipher_server_preference"
    )]
    TlsOption(String),
    /// Something that the command cannot do without.
    #[error("{command} needs {what}")]
    Missing {
        /// The command so far.
        command: String,
        /// What should follow.
        what: &'static str,
    },
    /// A capability that pen does not have.
    #[error("{0} is not available in this version")]
    NotAvailable(String),
    /// A number that is none, or out of range.
    #[error(transparent)]
    Number(#[from] NumberError),
    /// Not an address.
    #[error("{what}: {reason}")]
    Address {
        /// The command or key.
        what: &'static str,
        /// Why.
        reason: AddressError,
    },
    /// Not the name of a file.
    #[error("{what}: {reason}")]
    FileName {
        /// The command.
        what: &'static str,
        /// Why.
        reason: FileNameError,
    },
    /// Not a destination for the log.
    #[error("log: {0}")]
    Log(#[from] LogDestinationError),
    /// The classic's wording, and the reason.
    #[error("unable to set source address to '{0}': it must be an IP address")]
    Source(String),
    /// None of the words that can stand here.
    #[error("{what} must be {choices}, not {given:?}")]
    Choice {
        /// What is chosen.
        what: &'static str,
        /// The words that it can be.
        choices: &'static str,
        /// The word instead of them.
        given: String,
    },
    /// Not a network.
    #[error("acl needs an IP address, address/length or address and mask, not {0:?}")]
    Network(String),
    /// Not a country.
    #[error("a country is two letters, not {0:?}")]
    Country(String),
    /// Not a client.
    #[error(
        "explain needs the IP address of a client, with its port or without, or the word unix, not {0:?}"
    )]
    Client(String),
    /// A quote too few.
    #[error("no closing quote after {0:?}")]
    Unclosed(String),
}

impl CommandError {
    /// The classic went on after them. So a file with such a line is read, and only `--check` counts it as wrong.
    pub fn is_ignorable(&self) -> bool {
        matches!(self, CommandError::Unknown(_) | CommandError::FastCloseAlone | CommandError::TlsOption(_))
    }
}

/// Something that the administrator should know, although the command is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Notice {
    /// The command is accepted for old files only.
    Obsolete(String),
    /// pen does it otherwise, always.
    AlwaysOn(&'static str),
    /// A number was too small, and is the smallest possible now.
    Bumped(&'static str, u32),
    /// Words that nobody asked for.
    Extra(String),
    /// The address had bits outside its mask; shows the network without them.
    Masked(String),
    /// The command allows a version of TLS that should not be used.
    Insecure(&'static str, TlsVersion),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Obsolete(word) => match word.trim_start_matches("no ") {
                "epoll" | "kqueue" | "poll" | "select" => write!(f, "{word} has no effect: epoll is used"),
                _ => write!(f, "{word} is obsolete and has no effect"),
            },
            Notice::AlwaysOn(word) => write!(f, "{word} is always on"),
            Notice::Bumped(what, value) => write!(f, "{what} bumped to {value}"),
            Notice::Extra(word) => write!(f, "{word:?} and what follows it is ignored"),
            Notice::Masked(network) => write!(f, "the address has bits outside its mask; taken as {network}"),
            Notice::Insecure(command, version) => {
                write!(f, "{command} {version} is insecure: use TLSv1.2 or newer unless old clients need it")
            }
        }
    }
}

/// A command, and what there is to say about its wording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What to do.
    pub command: Command,
    /// What the administrator should know.
    pub notices: Vec<Notice>,
}

impl Command {
    /// Reads one line (without line end). None for an empty line and a comment.
    pub fn parse(line: &str) -> Result<Option<Parsed>, CommandError> {
        let mut words = Words { rest: split(line)?.into_iter(), notices: Vec::new() };
        let Some(first) = words.next() else { return Ok(None) };
        let command = match first.as_str() {
            "no" => negative(words.need("no", "the name of what is to be off")?, &mut words)?,
            _ => positive(first, &mut words)?,
        };
        if let Some(extra) = words.next() {
            words.notices.push(Notice::Extra(extra));
        }
        Ok(Some(Parsed { command, notices: words.notices }))
    }
}

impl Command {
    /// Does it only ask what a setting is?
    pub fn is_question(&self) -> bool {
        match self {
            Command::Number(_, None)
            | Command::ClientAcl(None)
            | Command::ControlAcl(None)
            | Command::ShowListen
            | Command::ShowUdpTimeout
            | Command::ShowLog
            | Command::ShowLogFormat
            | Command::ShowWebStats
            | Command::ShowWorkers
            | Command::ShowEmergency
            | Command::ShowAbuse
            | Command::ShowGeoip
            | Command::ShowProxyAccept
            | Command::ShowProxySend
            | Command::ShowTls(_)
            | Command::Mode
            | Command::Constant(_) => true,
            Command::Switch(..)
            | Command::Number(_, Some(_))
            | Command::AclAdd(..)
            | Command::AclClear(_)
            | Command::ClientAcl(Some(_))
            | Command::ControlAcl(Some(_))
            | Command::Server(..)
            | Command::Listen(_)
            | Command::UdpTimeout(_)
            | Command::Log(_)
            | Command::LogFormat(_)
            | Command::WebStats(_)
            | Command::Workers(_)
            | Command::Source(_)
            | Command::FastClose(_)
            | Command::Include(_)
            | Command::Drain(..)
            | Command::Emergency(_)
            | Command::Abuse(_)
            | Command::Geoip(_)
            | Command::Http(_)
            | Command::ProxyAccept(_)
            | Command::ProxySend(_)
            | Command::Tls(_)
            | Command::Operation(_)
            | Command::Nothing => false,
        }
    }
}

/// The words after the command, and the notices so far.
struct Words {
    rest: std::vec::IntoIter<String>,
    notices: Vec<Notice>,
}

impl Words {
    fn next(&mut self) -> Option<String> {
        self.rest.next()
    }

    /// The next word, if it is one of these.
    fn next_of(&mut self, words: &[&'static str]) -> Option<&'static str> {
        let next = self.rest.as_slice().first()?;
        let word = words.iter().find(|word| *word == next)?;
        self.rest.next();
        Some(word)
    }

    fn need(&mut self, command: &str, what: &'static str) -> Result<String, CommandError> {
        self.next().ok_or_else(|| CommandError::Missing { command: command.to_owned(), what })
    }

    /// The name of a file, if there is a word left.
    fn file(&mut self, command: &'static str) -> Result<Option<PathBuf>, CommandError> {
        let Some(given) = self.next() else { return Ok(None) };
        match file_name(&given) {
            Ok(file) => Ok(Some(file)),
            Err(FileNameError::Empty) => {
                Err(CommandError::Missing { command: command.to_owned(), what: "the name of a file" })
            }
            Err(reason) => Err(CommandError::FileName { what: command, reason }),
        }
    }

    /// A number, or `absent` if there is no word left.
    fn number(
        &mut self,
        command: &str,
        range: RangeInclusive<u32>,
        absent: u32,
    ) -> Result<u32, CommandError> {
        let given = self.next().map(|given| number::unsigned(command, &given, range));
        Ok(given.transpose()?.unwrap_or(absent))
    }

    /// The number of a server.
    fn server(&mut self, command: &str) -> Result<ServerId, CommandError> {
        let given = self.need(command, "a number")?;
        Ok(ServerId(number::unsigned(command, &given, 0..=MAX_SERVERS - 1)?))
    }

    /// All words that are left mean nothing, and need not be told of one by one.
    fn skip(&mut self) {
        self.rest = Vec::new().into_iter();
    }
}

fn positive(word: String, words: &mut Words) -> Result<Command, CommandError> {
    if let Some((_, switch)) = SWITCHES.iter().find(|(name, _)| *name == word) {
        return Ok(Command::Switch(*switch, true));
    }
    if let Some((name, number, min, max, raise)) = NUMBERS.into_iter().find(|row| row.0 == word) {
        let Some(given) = words.next() else { return Ok(Command::Number(number, None)) };
        let value = match raise {
            true => number::raised(name, &given, min..=max)?,
            false => (number::unsigned(name, &given, min..=max)?, false),
        };
        if value.1 {
            words.notices.push(Notice::Bumped(name, min));
        }
        return Ok(Command::Number(number, Some(value.0)));
    }
    if let Some(operation) = operation(&word, words)? {
        return Ok(Command::Operation(operation));
    }
    if let Some((name, file)) = TLS_FILES.into_iter().find(|(name, _)| *name == word) {
        return Ok(match words.file(name)? {
            Some(path) => Command::Tls(TlsChange::File(file, Some(path))),
            None => Command::ShowTls(TlsQuestion::File(file)),
        });
    }
    if let Some((name, list)) = TLS_LISTS.into_iter().find(|(name, _)| *name == word) {
        return Ok(Command::Tls(TlsChange::List(
            list,
            words.next().map(|it| tls_list(name, it)).transpose()?,
        )));
    }
    match word.as_str() {
        "abuse" => match words.next() {
            Some(given) => Ok(Command::Abuse(Some(address("abuse", &given)?))),
            None => Ok(Command::ShowAbuse),
        },
        "acl" => acl(words),
        "client_acl" => {
            Ok(Command::ClientAcl(words.next().map(|given| list("client_acl", &given)).transpose()?))
        }
        "control_acl" => {
            Ok(Command::ControlAcl(words.next().map(|given| list("control_acl", &given)).transpose()?))
        }
        "drain" => drain(words),
        "emergency" => match words.next() {
            Some(given) => Ok(Command::Emergency(Some(address("emergency", &given)?))),
            None => Ok(Command::ShowEmergency),
        },
        "geoip" => match words.file("geoip")? {
            Some(file) => Ok(Command::Geoip(Some(file))),
            None => Ok(Command::ShowGeoip),
        },
        "http" => Ok(Command::Http(http(words)?)),
        "idlers" => nothing_but("idlers", "0", "Idlers: 0/0\n", words),
        "include" => Ok(Command::Include(words.need("include", "the name of a file")?)),
        "listen" => {
            if let Some(listen) = listener("listen", words)? {
                return Ok(Command::Listen(ListenChange::Add(listen)));
            }
            match words.next() {
                Some(given) => Ok(Command::Listen(ListenChange::Only(address("listen", &given)?))),
                None => Ok(Command::ShowListen),
            }
        }
        "log" => match words.next() {
            Some(given) => Ok(Command::Log(Some(given.parse()?))),
            None => Ok(Command::ShowLog),
        },
        "log_format" => match words.next() {
            Some(given) => Ok(Command::LogFormat(one_of("log_format", &given)?)),
            None => Ok(Command::ShowLogFormat),
        },
        "mode" => Ok(Command::Mode),
        "proxy_accept" => match words.next().as_deref() {
            None => Ok(Command::ShowProxyAccept),
            Some("off") => Ok(Command::ProxyAccept(None)),
            Some(given) => Ok(Command::ProxyAccept(Some(list("proxy_accept", given)?))),
        },
        "proxy_send" => match words.next() {
            None => Ok(Command::ShowProxySend),
            Some(given) => Ok(Command::ProxySend(one_of("proxy_send", &given)?)),
        },
        "server" => server(words),
        "source" => {
            let given = words.need("source", "an address")?;
            match given.parse() {
                Ok(address) => Ok(Command::Source(Some(IpAddr::to_canonical(&address)))),
                Err(_) => Err(CommandError::Source(given)),
            }
        }
        "ssl_alpn" => {
            let protocols = std::mem::take(&mut words.rest).map(protocol).collect::<Result<_, _>>()?;
            Ok(Command::Tls(TlsChange::Alpn(protocols)))
        }
        "ssl_max_version" => match tls_version("ssl_max_version", words)? {
            Some(version) => Ok(Command::Tls(TlsChange::MaxVersion(version))),
            None => Ok(Command::ShowTls(TlsQuestion::MaxVersion)),
        },
        "ssl_min_version" => match tls_version("ssl_min_version", words)? {
            Some(version) => Ok(Command::Tls(TlsChange::MinVersion(version))),
            None => Ok(Command::ShowTls(TlsQuestion::MinVersion)),
        },
        "ssl_option" => match words.next() {
            Some(given) => tls_option(given, TlsChange::AddOption, words),
            None => Ok(Command::ShowTls(TlsQuestion::Options)),
        },
        "ssl_passthrough" => match words.next().as_deref() {
            None => Ok(Command::ShowTls(TlsQuestion::Passthrough)),
            Some("sni") => Ok(Command::Tls(TlsChange::Passthrough(true))),
            Some("off") => Ok(Command::Tls(TlsChange::Passthrough(false))),
            Some(given) => Err(choice("ssl_passthrough", "sni or off", given)),
        },
        "ssl_verify_client" => match words.next() {
            Some(given) => Ok(Command::Tls(TlsChange::VerifyClient(one_of("ssl_verify_client", &given)?))),
            None => Ok(Command::ShowTls(TlsQuestion::VerifyClient)),
        },
        "tarpit_acl" => nothing_but("tarpit_acl", "-1", "tarpit_acl = -1", words),
        "tcp_fastclose" => fast_close(words),
        "tcp_nodelay" => Ok(Command::Nothing),
        "udp_timeout" => match words.next() {
            Some(given) => Ok(Command::UdpTimeout(flow_timeout(&given, words)?)),
            None => Ok(Command::ShowUdpTimeout),
        },
        "undrain" => Ok(Command::Drain(words.server("undrain")?, Drain::No)),
        "web_stats" => match words.file("web_stats")? {
            Some(file) => Ok(Command::WebStats(Some(file))),
            None => Ok(Command::ShowWebStats),
        },
        "workers" => match words.next().as_deref() {
            None => Ok(Command::ShowWorkers),
            Some("auto") => Ok(Command::Workers(None)),
            Some(given) => Ok(Command::Workers(Some(number::unsigned("workers", given, 1..=MAX_WORKERS)?))),
        },
        _ if OBSOLETE.contains(&word.as_str()) => Ok(obsolete(word, words)),
        _ if NOT_AVAILABLE.contains(&word.as_str()) => Err(CommandError::NotAvailable(word)),
        _ => Err(CommandError::Unknown(word)),
    }
}

fn negative(word: String, words: &mut Words) -> Result<Command, CommandError> {
    if let Some((_, switch)) = SWITCHES.iter().find(|(name, _)| *name == word) {
        return Ok(Command::Switch(*switch, false));
    }
    if let Some((_, file)) = TLS_FILES.into_iter().find(|(name, _)| *name == word) {
        return Ok(Command::Tls(TlsChange::File(file, None)));
    }
    if let Some((_, list)) = TLS_LISTS.into_iter().find(|(name, _)| *name == word) {
        return Ok(Command::Tls(TlsChange::List(list, None)));
    }
    match word.as_str() {
        "abuse" => Ok(Command::Abuse(None)),
        "acl" => Ok(Command::AclClear(list("acl", &words.need("no acl", "the number of a list")?)?)),
        "emergency" => Ok(Command::Emergency(None)),
        "geoip" => Ok(Command::Geoip(None)),
        "http" => match words.next().as_deref() {
            None => Ok(Command::Http(HttpChange::Off)),
            Some("forwarded") => Ok(Command::Http(HttpChange::NoForwarded)),
            Some(given) => Err(choice("what follows no http", "forwarded, or nothing", given)),
        },
        "listen" => match listener("no listen", words)? {
            Some(listen) => Ok(Command::Listen(ListenChange::Remove(listen))),
            // There is no listening nowhere.
            None => Err(CommandError::Unknown("no listen".to_owned())),
        },
        "log" => Ok(Command::Log(None)),
        "proxy_accept" => Ok(Command::ProxyAccept(None)),
        "proxy_send" => Ok(Command::ProxySend(ProxySend::Off)),
        "source" => Ok(Command::Source(None)),
        "ssl_alpn" => Ok(Command::Tls(TlsChange::Alpn(Vec::new()))),
        "ssl_option" => match words.next() {
            Some(given) => tls_option(given, TlsChange::TakeOption, words),
            None => Ok(Command::Tls(TlsChange::NoOptions)),
        },
        "ssl_passthrough" => Ok(Command::Tls(TlsChange::Passthrough(false))),
        "web_stats" => Ok(Command::WebStats(None)),
        "tcp_nodelay" => {
            words.notices.push(Notice::AlwaysOn("tcp_nodelay"));
            Ok(Command::Nothing)
        }
        _ if OBSOLETE.contains(&word.as_str()) => Ok(obsolete(format!("no {word}"), words)),
        _ => Err(CommandError::Unknown(format!("no {word}"))),
    }
}

/// What follows `http`. No word is passed over: one that is misspelt would leave clients to say who they are.
fn http(words: &mut Words) -> Result<HttpChange, CommandError> {
    let (mut existing, mut forwarded) = (None, false);
    while let Some(given) = words.next() {
        match (given.as_str(), given.parse::<Existing>()) {
            ("forwarded", _) => forwarded = true,
            (_, Ok(said)) => existing = Some(said),
            (_, Err(NoSuchWord(_))) => {
                return Err(choice("what follows http", "append, replace, keep or forwarded", &given));
            }
        }
    }
    Ok(HttpChange::On { existing, forwarded })
}

/// What only a running pen can answer or do, if the word is one of those.
fn operation(word: &str, words: &mut Words) -> Result<Option<Operation>, CommandError> {
    Ok(Some(match word {
        "check" => Operation::Check(words.file("check")?),
        "close" => Operation::Close(ConnId(words.number("close", 0..=u32::MAX, 0)?)),
        "connection" => Operation::Connection(ConnId(words.number("connection", 0..=u32::MAX, 0)?)),
        "control" => Operation::Control,
        "diff" => Operation::Diff(words.file("diff")?),
        "exit" => Operation::Exit,
        "explain" => Operation::Explain(client(words.need("explain", "the address of a client")?)?),
        "limits" => Operation::Limits,
        "pid" => Operation::Pid,
        "recent" => Operation::Recent(Seconds(words.number("recent", 0..=LARGEST, RECENT)?)),
        "reload" => Operation::Reload,
        "servers" => Operation::Servers,
        "socket" => {
            let given = words.need("socket", "the number of a descriptor")?;
            Operation::Socket(number::unsigned("socket", &given, 0..=LARGEST)? as i32)
        }
        "status" => Operation::Status,
        "write" => Operation::Write(words.file("write")?),
        _ => return Ok(None),
    }))
}

/// `1.2.3.4`, `::1`, `[::1]`, each with a port or without (`1.2.3.4:5`, `[::1]:5`), or `unix`.
fn client(given: String) -> Result<ClientAddress, CommandError> {
    if given == "unix" {
        return Ok(ClientAddress::Unix);
    }
    let bare = given.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&given);
    match (given.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
        (Ok(peer), _) => Ok(peer.into()),
        (_, Ok(ip)) => Ok(SocketAddr::new(ip, 0).into()),
        _ => Err(CommandError::Client(given)),
    }
}

/// A protocol, and where; none if no protocol follows.
fn listener(command: &'static str, words: &mut Words) -> Result<Option<Listen>, CommandError> {
    let Some(protocol) = words.next_of(&["tcp", "udp"]) else { return Ok(None) };
    let (protocol, what) = match protocol {
        "udp" => (Protocol::Udp, "[host:]port"),
        _ => (Protocol::Tcp, "[host:]port or a path"),
    };
    let command = format!("{command} {protocol}");
    let spec: ListenSpec = address("listen", &words.need(&command, what)?)?;
    match (protocol, spec.path()) {
        (Protocol::Udp, Some(_)) => Err(CommandError::Missing { command, what: "[host:]port, not a path" }),
        _ => Ok(Some(Listen { protocol, spec })),
    }
}

/// What follows `udp_timeout`.
fn flow_timeout(given: &str, words: &mut Words) -> Result<FlowTimeout, CommandError> {
    let idle = Seconds(number::unsigned("udp_timeout", given, 1..=LARGEST)?);
    let replies = match words.next().as_deref() {
        None => None,
        Some("replies") => {
            let given = words.need(&format!("udp_timeout {idle} replies"), "a number")?;
            Some(number::unsigned("replies", &given, 1..=MOST_REPLIES)?)
        }
        Some(given) => return Err(choice("what follows udp_timeout N", "replies, or nothing", given)),
    };
    Ok(FlowTimeout { idle, replies })
}

fn drain(words: &mut Words) -> Result<Command, CommandError> {
    let server = words.server("drain")?;
    match words.next() {
        None => Ok(Command::Drain(server, Drain::New)),
        Some(whom) if whom == "all" => Ok(Command::Drain(server, Drain::All)),
        Some(given) => Err(CommandError::Choice { what: "what follows drain N", choices: "all", given }),
    }
}

fn obsolete(word: String, words: &mut Words) -> Command {
    words.skip();
    words.notices.push(Notice::Obsolete(word));
    Command::Nothing
}

/// A capability that is not built and can be asked for, or set to the value that means off.
fn nothing_but(
    command: &str,
    off: &str,
    reply: &'static str,
    words: &mut Words,
) -> Result<Command, CommandError> {
    match words.next() {
        Some(given) if given != off => Err(CommandError::NotAvailable(format!("{command} {given}"))),
        _ => Ok(Command::Constant(reply)),
    }
}

fn address<T: FromStr<Err = AddressError>>(what: &'static str, given: &str) -> Result<T, CommandError> {
    given.parse().map_err(|reason| CommandError::Address { what, reason })
}

fn list(what: &str, given: &str) -> Result<AclId, CommandError> {
    let number = number::unsigned(what, given, 0..=AclId::COUNT as u32 - 1)?;
    Ok(AclId::new(number).expect("the number was checked"))
}

fn fast_close(words: &mut Words) -> Result<Command, CommandError> {
    let given = words.next().ok_or(CommandError::FastCloseAlone)?;
    Ok(Command::FastClose(match given.as_str() {
        "off" => FastClose::Off,
        "up" => FastClose::Up,
        "down" => FastClose::Down,
        "both" => FastClose::Both,
        _ => {
            return Err(CommandError::Choice {
                what: "tcp_fastclose",
                choices: "off, up, down or both",
                given,
            });
        }
    }))
}

fn choice(what: &'static str, choices: &'static str, given: &str) -> CommandError {
    CommandError::Choice { what, choices, given: given.to_owned() }
}

fn one_of<T: FromStr<Err = NoSuchWord>>(what: &'static str, given: &str) -> Result<T, CommandError> {
    given.parse().map_err(|NoSuchWord(choices)| choice(what, choices, given))
}

fn tls_version(command: &'static str, words: &mut Words) -> Result<Option<TlsVersion>, CommandError> {
    let Some(given) = words.next() else { return Ok(None) };
    let version = one_of(command, &given)?;
    if version < TlsVersion::Tls12 {
        words.notices.push(Notice::Insecure(command, version));
    }
    Ok(Some(version))
}

/// What is in it is for the library to judge.
fn tls_list(command: &'static str, given: String) -> Result<String, CommandError> {
    match given.trim().is_empty() || given.contains(char::is_control) {
        true => Err(choice(command, "a list of names with colons between them", &given)),
        false => Ok(given),
    }
}

fn protocol(given: String) -> Result<String, CommandError> {
    match (1..=LONGEST_PROTOCOL).contains(&given.len()) && !given.contains(char::is_control) {
        true => Ok(given),
        false => Err(choice(
            "ssl_alpn",
            "names of protocols, of up to 255 bytes without control characters",
            &given,
        )),
    }
}

fn tls_option(
    given: String,
    change: fn(TlsOption) -> TlsChange,
    words: &mut Words,
) -> Result<Command, CommandError> {
    if let Some(word) = tls::ALWAYS_ON.into_iter().find(|word| *word == given) {
        words.notices.push(Notice::AlwaysOn(word));
        return Ok(Command::Nothing);
    }
    match given.parse() {
        Ok(option) => Ok(Command::Tls(change(option))),
        Err(NoSuchWord(_)) => Err(CommandError::TlsOption(given)),
    }
}

/// A name, or none for the word `none`.
fn server_name(
    what: &'static str,
    choices: &'static str,
    given: &str,
) -> Result<Option<NamePattern>, CommandError> {
    let name: NamePattern = given.parse().map_err(|_| choice(what, choices, given))?;
    Ok((name.to_string() != "none").then_some(name))
}

/// What follows `tls`: words of its own, as far as there are some.
fn server_tls(server: ServerId, words: &mut Words) -> Result<Option<ServerTls>, CommandError> {
    const NAME: &str = "a host name, or none";
    if words.next_of(&["off"]).is_some() {
        return Ok(None);
    }
    let mut tls = ServerTls { trust: Trust::System, name: None };
    while let Some(key) = words.next_of(&["verify", "sni"]) {
        let given = words.need(&format!("server {server} tls {key}"), "a value")?;
        if key == "verify" {
            let trust = given.parse();
            tls.trust = trust.map_err(|reason| CommandError::FileName { what: "tls verify", reason })?;
        } else if given.parse::<IpAddr>().is_ok() {
            // It is the certificate of a name that is asked for with it.
            return Err(choice("tls sni", NAME, &given));
        } else {
            let name = server_name("tls sni", NAME, &given)?;
            if name.as_ref().is_some_and(NamePattern::is_wildcard) {
                return Err(choice("tls sni", NAME, &given));
            }
            tls.name = name.map(|name| name.to_string());
        }
    }
    Ok(Some(tls))
}

fn server_proxy(given: &str) -> Result<Option<ProxySend>, CommandError> {
    if given == "default" {
        return Ok(None);
    }
    given.parse().map(Some).map_err(|NoSuchWord(_)| choice("proxy", "1, 2, every, off or default", given))
}

fn server(words: &mut Words) -> Result<Command, CommandError> {
    let server = words.server("server")?;
    let mut changes = Vec::new();
    while let Some(key) = words.next() {
        if key == "tls" {
            changes.push(ServerChange::Tls(server_tls(server, words)?));
            continue;
        }
        let value = words.need(&format!("server {server} {key}"), "a value")?;
        let count = |what| number::unsigned(what, &value, 0..=LARGEST);
        changes.push(match key.as_str() {
            "acl" => ServerChange::Acl(list("acl", &value)?),
            "address" => ServerChange::Address(address("address", &value)?),
            "blacklist" => ServerChange::Blacklist(Seconds(count("blacklist")?)),
            "hard" => ServerChange::Hard(count("hard")?),
            "max" => ServerChange::Max(count("max")?),
            "port" if value == "0" => ServerChange::Port(Port::Number(0)),
            "port" => ServerChange::Port(address("server", &value)?),
            "prio" => ServerChange::Prio(number::signed("prio", &value)?),
            "proxy" => ServerChange::Proxy(server_proxy(&value)?),
            "sni" => match server_name("sni", "a host name, *. and a host name, or none", &value)? {
                Some(name) => ServerChange::Sni(name),
                None => ServerChange::NoSni,
            },
            "weight" => ServerChange::Weight(count("weight")?),
            _ => {
                let choices = "acl, address, blacklist, hard, max, port, prio, proxy, sni, tls or weight";
                return Err(CommandError::Choice { what: "a key of server", choices, given: key });
            }
        });
    }
    Ok(Command::Server(server, changes))
}

fn acl(words: &mut Words) -> Result<Command, CommandError> {
    let number = list("acl", &words.need("acl", "the number of a list")?)?;
    let permit = match words.need(&format!("acl {number}"), "permit or deny")? {
        action if action == "permit" => true,
        action if action == "deny" => false,
        given => {
            return Err(CommandError::Choice { what: "acl N", choices: "followed by permit or deny", given });
        }
    };
    let given = words.need("acl", "an address")?;
    if given == "country" {
        let letters = words.need("country", "two letters")?;
        if letters.len() != 2 || !letters.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(CommandError::Country(letters));
        }
        let network = Network::Country(letters.to_ascii_uppercase());
        return Ok(Command::AclAdd(number, AclEntry { permit, network }));
    }
    let (address, length) = given.split_once('/').map_or((given.as_str(), None), |(a, l)| (a, Some(l)));
    let (network, exact) = match address.parse() {
        Ok(IpAddr::V4(address)) => {
            let mask = match length {
                Some(length) => v4_mask(number::unsigned("prefix length", length, 0..=32)?),
                None => match words.next() {
                    Some(mask) => {
                        mask.parse().map_err(|_| CommandError::Network(format!("{address} {mask}")))?
                    }
                    None => Ipv4Addr::BROADCAST,
                },
            };
            (Network::V4(address & mask, mask), address & mask == address)
        }
        Ok(IpAddr::V6(address)) => {
            let length =
                length.map(|length| number::unsigned("prefix length", length, 0..=128)).transpose()?;
            let length = length.unwrap_or(128);
            let masked = address & v6_mask(length);
            let network = match (masked.to_ipv4_mapped(), length.checked_sub(96)) {
                // Whoever comes from there is an IPv4 client.
                (Some(mapped), Some(length)) => Network::V4(mapped, v4_mask(length)),
                _ => Network::V6(masked, length as u8),
            };
            (network, masked == address)
        }
        Err(_) => return Err(CommandError::Network(given)),
    };
    if !exact {
        words.notices.push(Notice::Masked(network.to_string()));
    }
    Ok(Command::AclAdd(number, AclEntry { permit, network }))
}

/// The mask of so many leading ones; `length` is at most 32.
fn v4_mask(length: u32) -> Ipv4Addr {
    u32::MAX.checked_shl(32 - length).unwrap_or(0).into()
}

/// The mask of so many leading ones; `length` is at most 128.
fn v6_mask(length: u32) -> Ipv6Addr {
    u128::MAX.checked_shl(128 - length).unwrap_or(0).into()
}

/// What separates words.
fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// The text as one word of a command: in quotes if it would not be read as one otherwise.
pub fn quoted(text: &str) -> Cow<'_, str> {
    match text.is_empty() || text.starts_with(['"', '#']) || text.contains(blank) {
        true => Cow::Owned(format!("\"{}\"", text.replace('\\', r"\\").replace('"', r#"\""#))),
        false => Cow::Borrowed(text),
    }
}

/// The words of a line, without its comment.
fn split(line: &str) -> Result<Vec<String>, CommandError> {
    let mut words = Vec::new();
    let mut rest = line.trim_start_matches(blank);
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted).ok_or_else(|| CommandError::Unclosed(quoted.to_owned()))?,
            None => {
                let end = rest.find(blank).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        words.push(word);
        rest = after.trim_start_matches(blank);
    }
    Ok(words)
}

/// What stands before the closing quote, and what after it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut chars = text.char_indices();
    while let Some((position, c)) = chars.next() {
        match c {
            '"' => return Some((word, &text[position + 1..])),
            '\\' => match chars.next()?.1 {
                escaped @ ('"' | '\\') => word.push(escaped),
                other => word.extend(['\\', other]),
            },
            _ => word.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(line: &str) -> Parsed {
        let parsed = Command::parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        parsed.unwrap_or_else(|| panic!("{line}: no command"))
    }

    fn command(line: &str) -> Command {
        let parsed = parsed(line);
        assert_eq!(parsed.notices, [], "{line}");
        parsed.command
    }

    fn notices(line: &str) -> Vec<String> {
        parsed(line).notices.iter().map(ToString::to_string).collect()
    }

    fn refused(line: &str) -> String {
        match Command::parse(line) {
            Err(error) => error.to_string(),
            Ok(parsed) => panic!("{line}: {parsed:?}"),
        }
    }

    fn acl(number: u32) -> AclId {
        AclId::new(number).unwrap()
    }

    #[test]
    fn empty_lines_and_comments_are_no_commands() {
        for line in ["", "   ", "\t", "\r", "# x", "  # x", "\t#blacklist 3", "#"] {
            assert_eq!(Command::parse(line), Ok(None), "{line:?}");
        }
    }

    #[test]
    fn spaces_tabs_quotes_and_line_ends_separate_words() {
        assert_eq!(command("  mode  "), Command::Mode);
        assert_eq!(command("\tmode\r"), Command::Mode);
        assert_eq!(command("blacklist\t \t7"), Command::Number(Number::Blacklist, Some(7)));
        assert_eq!(command("blacklist 7 # seconds"), Command::Number(Number::Blacklist, Some(7)));
        let path = |line| match command(line) {
            Command::WebStats(Some(path)) => path.to_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(path(r#"web_stats "/a b/c""#), "/a b/c");
        assert_eq!(path(r#"web_stats "/a\"b\\c\d#""#), r#"/a"b\c\d#"#);
        assert_eq!(path("web_stats \"#x\""), "#x");
        assert_eq!(path(r#"web_stats a"b"#), r#"a"b"#);
        assert_eq!(refused(r#"web_stats "/a b"#), r#"no closing quote after "/a b""#);
    }

    #[test]
    fn every_switch_goes_on_and_off() {
        for (word, switch) in SWITCHES {
            assert_eq!(command(word), Command::Switch(switch, true));
            assert_eq!(command(&format!("no {word}")), Command::Switch(switch, false));
        }
    }

    #[test]
    fn every_number_is_asked_for_set_and_checked() {
        for (word, number, min, max, raise) in NUMBERS {
            assert_eq!(command(word), Command::Number(number, None));
            assert_eq!(command(&format!("{word} {min}")), Command::Number(number, Some(min)));
            assert_eq!(command(&format!("{word} {max}")), Command::Number(number, Some(max)));
            for junk in ["x", "1x", "99999999999"] {
                let message = format!("{word} must be a number from {min} to {max}, not {junk:?}");
                assert_eq!(refused(&format!("{word} {junk}")), message);
            }
            let below = format!("{word} {}", i64::from(min) - 1);
            if raise {
                assert_eq!(parsed(&below).command, Command::Number(number, Some(min)));
                assert_eq!(notices(&below), [format!("{word} bumped to {min}")]);
            } else {
                assert!(refused(&below).starts_with(word));
            }
        }
        assert_eq!(refused("timeout 0"), r#"timeout must be a number from 1 to 2147483647, not "0""#);
    }

    #[test]
    fn lists_take_addresses_of_both_families() {
        let entry = |permit, network| Command::AclAdd(acl(1), AclEntry { permit, network });
        let v4 = |address: &str, mask: &str| Network::V4(address.parse().unwrap(), mask.parse().unwrap());
        let v6 = |address: &str, length| Network::V6(address.parse().unwrap(), length);
        for (text, network) in [
            ("127.0.0.2", v4("127.0.0.2", "255.255.255.255")),
            ("127.0.0.0 255.255.255.0", v4("127.0.0.0", "255.255.255.0")),
            ("10.0.0.1 255.0.0.255", v4("10.0.0.1", "255.0.0.255")),
            ("10.0.0.0/8", v4("10.0.0.0", "255.0.0.0")),
            ("0.0.0.0/0", v4("0.0.0.0", "0.0.0.0")),
            ("10.0.0.1/32", v4("10.0.0.1", "255.255.255.255")),
            ("2001:db8::1", v6("2001:db8::1", 128)),
            ("2001:db8::/127", v6("2001:db8::", 127)),
            ("::/0", v6("::", 0)),
            ("::ffff:10.0.0.1", v4("10.0.0.1", "255.255.255.255")),
            ("::ffff:10.0.0.0/104", v4("10.0.0.0", "255.0.0.0")),
            ("::ffff:0:0/96", v4("0.0.0.0", "0.0.0.0")),
            ("::/95", v6("::", 95)),
        ] {
            assert_eq!(command(&format!("acl 1 permit {text}")), entry(true, network.clone()), "{text}");
            assert_eq!(command(&format!("acl 1 deny {text}")), entry(false, network), "{text}");
        }
        assert_eq!(command("acl 1 permit country se"), entry(true, Network::Country("SE".into())));
        assert_eq!(command("no acl 9"), Command::AclClear(acl(9)));
    }

    #[test]
    fn bits_outside_the_mask_are_taken_off_with_a_warning() {
        for (line, result) in [
            ("acl 2 deny 10.1.2.3 255.0.0.0", "10.0.0.0 255.0.0.0"),
            ("acl 2 deny 10.1.2.3/8", "10.0.0.0 255.0.0.0"),
            ("acl 2 deny 2001:db8::1/32", "2001:db8::/32"),
        ] {
            let message = format!("the address has bits outside its mask; taken as {result}");
            assert_eq!(notices(line), [message]);
        }
        let network = Network::V4([10, 0, 0, 0].into(), [255, 0, 0, 0].into());
        let entry = AclEntry { permit: false, network };
        assert_eq!(parsed("acl 2 deny 10.1.2.3/8").command, Command::AclAdd(acl(2), entry));
    }

    #[test]
    fn mistakes_in_lists_are_named() {
        assert_eq!(refused("acl x permit 1.2.3.4"), r#"acl must be a number from 0 to 9, not "x""#);
        assert_eq!(refused("acl 10 permit 1.2.3.4"), r#"acl must be a number from 0 to 9, not "10""#);
        assert_eq!(refused("no acl"), "no acl needs the number of a list");
        assert_eq!(refused("acl"), "acl needs the number of a list");
        assert_eq!(refused("acl 1"), "acl 1 needs permit or deny");
        assert_eq!(refused("acl 1 permit"), "acl needs an address");
        assert_eq!(
            refused("acl 1 allow 1.2.3.4"),
            r#"acl N must be followed by permit or deny, not "allow""#
        );
        assert_eq!(
            refused("acl 1 permit ::/129"),
            r#"prefix length must be a number from 0 to 128, not "129""#
        );
        assert_eq!(
            refused("acl 1 permit 1.2.3.4/33"),
            r#"prefix length must be a number from 0 to 32, not "33""#
        );
        assert!(refused("acl 1 permit www").ends_with(r#"not "www""#));
        assert!(refused("acl 1 permit 1.2.3.4 24").ends_with(r#"not "1.2.3.4 24""#));
        for country in ["S", "SWE", "S1", "\u{e5}", "country"] {
            let message = format!("a country is two letters, not {country:?}");
            assert_eq!(refused(&format!("acl 1 deny country {country}")), message);
        }
        assert_eq!(refused("acl 1 deny country"), "country needs two letters");
        assert_eq!(refused("client_acl 10"), r#"client_acl must be a number from 0 to 9, not "10""#);
        assert_eq!(command("client_acl 9"), Command::ClientAcl(Some(acl(9))));
        assert_eq!(command("control_acl"), Command::ControlAcl(None));
    }

    #[test]
    fn a_server_takes_keys_and_values_in_order() {
        use ServerChange::*;
        let line = "server 5 acl 2 address ::1 port 80 max 1 hard 2 blacklist 3 weight 4 prio -5";
        let changes = vec![
            Acl(acl(2)),
            Address(Host::Ip("::1".parse().unwrap())),
            ServerChange::Port(super::Port::Number(80)),
            Max(1),
            Hard(2),
            Blacklist(Seconds(3)),
            Weight(4),
            Prio(-5),
        ];
        assert_eq!(command(line), Command::Server(ServerId(5), changes));
        assert_eq!(command("server 0"), Command::Server(ServerId(0), vec![]));
        for (line, change) in [
            ("server 0 address www", Address(Host::Name("www".into()))),
            ("server 0 address [::1]", Address(Host::Ip("::1".parse().unwrap()))),
            ("server 0 address /run/x:y", Address(Host::Path("/run/x:y".into()))),
            ("server 0 port http", ServerChange::Port(super::Port::Service("http".into()))),
            ("server 0 port 0", ServerChange::Port(super::Port::Number(0))),
        ] {
            assert_eq!(command(line), Command::Server(ServerId(0), vec![change]));
        }
    }

    #[test]
    fn mistakes_in_servers_are_named() {
        assert_eq!(refused("server"), "server needs a number");
        assert_eq!(refused("server abc max 1"), r#"server must be a number from 0 to 4095, not "abc""#);
        assert_eq!(
            refused("server 99999999 max 1"),
            r#"server must be a number from 0 to 4095, not "99999999""#
        );
        assert_eq!(refused("server -1 max 1"), r#"server must be a number from 0 to 4095, not "-1""#);
        assert_eq!(refused("server 1 max"), "server 1 max needs a value");
        assert_eq!(refused("server 1 max -1"), r#"max must be a number from 0 to 2147483647, not "-1""#);
        assert!(refused("server 1 port 70000").ends_with(r#"not "70000""#));
        assert!(refused("server 1 address a:80").starts_with(r#"address: "a:80" is neither"#));
        assert!(refused("server 1 wieght 5").ends_with(r#"prio, proxy, sni, tls or weight, not "wieght""#));
    }

    #[test]
    fn a_server_has_names_and_is_spoken_to_with_tls() {
        use ServerChange::*;
        let changes = |keys: &str| match command(&format!("server 1 {keys}")) {
            Command::Server(ServerId(1), changes) => changes,
            other => panic!("{other:?}"),
        };
        let sni = |name: &str| Sni(name.parse().unwrap());
        let tls = |trust, name: Option<&str>| Tls(Some(ServerTls { trust, name: name.map(str::to_owned) }));
        let file = |name: &str| Trust::File(name.into());
        for (keys, expected) in [
            ("sni a.test sni *.B.test", vec![sni("a.test"), sni("*.b.test")]),
            ("sni none sni a", vec![NoSni, sni("a")]),
            ("sni None.", vec![NoSni]),
            ("tls", vec![tls(Trust::System, None)]),
            ("tls off", vec![Tls(None)]),
            ("tls off sni a", vec![Tls(None), sni("a")]),
            ("tls verify none max 1", vec![tls(Trust::Nobody, None), Max(1)]),
            ("tls verify system sni A.test.", vec![tls(Trust::System, Some("a.test"))]),
            ("sni b tls sni a verify \"/c a\"", vec![sni("b"), tls(file("/c a"), Some("a"))]),
            ("tls sni a sni none weight 2", vec![tls(Trust::System, None), Weight(2)]),
            ("tls max 1 sni a", vec![tls(Trust::System, None), Max(1), sni("a")]),
        ] {
            assert_eq!(changes(keys), expected, "{keys}");
        }
    }

    #[test]
    fn mistakes_in_names_and_tls_of_servers_are_named() {
        for name in ["*", "a..b", "../a", "*.*.a", "\"\""] {
            let told = refused(&format!("server 1 sni {name}"));
            assert!(told.starts_with("sni must be a host name, *. and a host name, or none, not "), "{told}");
        }
        for name in ["*.a.test", "10.0.0.1", "::1", "a/b"] {
            assert_eq!(
                refused(&format!("server 1 tls sni {name}")),
                format!("tls sni must be a host name, or none, not {name:?}")
            );
        }
        assert_eq!(refused("server 1 sni"), "server 1 sni needs a value");
        assert_eq!(refused("server 1 tls verify"), "server 1 tls verify needs a value");
        assert_eq!(refused("server 1 tls sni"), "server 1 tls sni needs a value");
        assert_eq!(refused(r#"server 1 tls verify """#), "tls verify: the name of the file is empty");
        assert!(refused("server 1 tls maybe so").ends_with(r#"tls or weight, not "maybe""#));
    }

    #[test]
    fn tls_with_clients_is_set_and_asked_for() {
        use TlsChange::*;
        for (word, file) in TLS_FILES {
            assert_eq!(command(&format!("{word} \"/a b\"")), Command::Tls(File(file, Some("/a b".into()))));
            assert_eq!(command(&format!("no {word}")), Command::Tls(File(file, None)));
            assert_eq!(command(word), Command::ShowTls(TlsQuestion::File(file)));
            assert_eq!(refused(&format!(r#"{word} """#)), format!("{word} needs the name of a file"));
        }
        for (word, list) in TLS_LISTS {
            let given = "HIGH:!aNULL";
            assert_eq!(command(&format!("{word} {given}")), Command::Tls(List(list, Some(given.into()))));
            assert_eq!(command(word), Command::Tls(List(list, None)));
            assert_eq!(command(&format!("no {word}")), Command::Tls(List(list, None)));
            for list in ["\"\"", "\" \"", "\"a\u{1b}\""] {
                let told = refused(&format!("{word} {list}"));
                assert!(told.starts_with(&format!("{word} must be a list of names with colons")), "{told}");
            }
        }
        for (line, expected) in [
            ("ssl_verify_client request", Command::Tls(VerifyClient(tls::VerifyClient::Request))),
            ("ssl_verify_client", Command::ShowTls(TlsQuestion::VerifyClient)),
            ("ssl_min_version TLSv1.3", Command::Tls(MinVersion(TlsVersion::Tls13))),
            ("ssl_min_version", Command::ShowTls(TlsQuestion::MinVersion)),
            ("ssl_max_version TLSv1.2", Command::Tls(MaxVersion(TlsVersion::Tls12))),
            ("ssl_max_version", Command::ShowTls(TlsQuestion::MaxVersion)),
            ("ssl_alpn h2 http/1.1", Command::Tls(Alpn(vec!["h2".into(), "http/1.1".into()]))),
            ("ssl_alpn", Command::Tls(Alpn(vec![]))),
            ("no ssl_alpn", Command::Tls(Alpn(vec![]))),
            ("ssl_option no_tlsv1", Command::Tls(AddOption(TlsOption::NoTlsv1))),
            ("ssl_option", Command::ShowTls(TlsQuestion::Options)),
            ("no ssl_option no_tlsv1.1", Command::Tls(TakeOption(TlsOption::NoTlsv11))),
            ("no ssl_option", Command::Tls(NoOptions)),
            ("ssl_passthrough sni", Command::Tls(Passthrough(true))),
            ("ssl_passthrough off", Command::Tls(Passthrough(false))),
            ("no ssl_passthrough", Command::Tls(Passthrough(false))),
            ("ssl_passthrough", Command::ShowTls(TlsQuestion::Passthrough)),
            ("ssl_handshake_timeout 5", Command::Number(Number::SslHandshakeTimeout, Some(5))),
            ("ssl_ticket_rotation 60", Command::Number(Number::SslTicketRotation, Some(60))),
        ] {
            assert_eq!(command(line), expected);
        }
    }

    #[test]
    fn mistakes_in_tls_with_clients_are_named() {
        assert_eq!(
            refused("ssl_min_version TLSv1.0"),
            r#"ssl_min_version must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3, not "TLSv1.0""#
        );
        assert_eq!(
            refused("ssl_verify_client on"),
            r#"ssl_verify_client must be off, request or require, not "on""#
        );
        assert_eq!(refused("ssl_passthrough on"), r#"ssl_passthrough must be sni or off, not "on""#);
        for word in ["ssl_handshake_timeout", "ssl_ticket_rotation"] {
            let told = format!("{word} must be a number from 1 to 2147483647, not \"0\"");
            assert_eq!(refused(&format!("{word} 0")), told);
        }
        for protocol in ["\"\"", "\"a\u{7f}\"", &"x".repeat(256)] {
            assert!(refused(&format!("ssl_alpn h2 {protocol}")).starts_with("ssl_alpn must be names of"));
        }
        assert!(!command(&format!("ssl_alpn {}", "x".repeat(255))).is_question());
        for no in ["", "no "] {
            let error = Command::parse(&format!("{no}ssl_option no_tlsv1.3")).unwrap_err();
            assert!(error.is_ignorable(), "the classic ignored it");
            assert!(
                error.to_string().starts_with(r#"do_cmd: ignoring ssl_option "no_tlsv1.3": it can be no_"#)
            );
        }
    }

    #[test]
    fn what_is_insecure_or_so_anyway_is_told() {
        for (command, version) in [("ssl_min_version", "TLSv1"), ("ssl_max_version", "TLSv1.1")] {
            let told =
                format!("{command} {version} is insecure: use TLSv1.2 or newer unless old clients need it");
            assert_eq!(notices(&format!("{command} {version}")), [told]);
        }
        for word in tls::ALWAYS_ON {
            for no in ["", "no "] {
                let line = format!("{no}ssl_option {word}");
                assert_eq!(parsed(&line).command, Command::Nothing);
                assert_eq!(notices(&line), [format!("{word} is always on")]);
            }
        }
    }

    #[test]
    fn headers_of_http_are_turned_on_with_words_that_say_which() {
        use Existing::*;
        let on = |existing, forwarded| Command::Http(HttpChange::On { existing, forwarded });
        for (line, expected) in [
            ("http", on(None, false)),
            ("http append", on(Some(Append), false)),
            ("http replace", on(Some(Replace), false)),
            ("http keep", on(Some(Keep), false)),
            ("http forwarded", on(None, true)),
            ("http replace forwarded", on(Some(Replace), true)),
            ("http forwarded keep", on(Some(Keep), true)),
            ("no http", Command::Http(HttpChange::Off)),
            ("no http forwarded", Command::Http(HttpChange::NoForwarded)),
        ] {
            assert_eq!(command(line), expected);
            assert!(!expected.is_question());
        }
        for given in ["on", "Append", "replace repalce", "\"\"", "off"] {
            let last = given.rsplit(' ').next().unwrap().trim_matches('"');
            let told = format!("what follows http must be append, replace, keep or forwarded, not {last:?}");
            assert_eq!(refused(&format!("http {given}")), told);
        }
        assert_eq!(
            refused("no http keep"),
            r#"what follows no http must be forwarded, or nothing, not "keep""#
        );
        assert_eq!(
            refused("http_head_max 1023"),
            r#"http_head_max must be a number from 1024 to 1048576, not "1023""#
        );
    }

    #[test]
    fn listeners_take_the_place_of_all_or_have_a_protocol_and_come_and_go() {
        let spec = |text: &str| text.parse::<ListenSpec>().unwrap();
        let with = |protocol, text| Listen { protocol, spec: spec(text) };
        for (line, expected) in [
            ("listen 53", ListenChange::Only(spec("53"))),
            ("listen /run/pen.sock", ListenChange::Only(spec("/run/pen.sock"))),
            ("listen tcp [::1]:53", ListenChange::Add(with(Protocol::Tcp, "[::1]:53"))),
            ("listen tcp /run/pen.sock", ListenChange::Add(with(Protocol::Tcp, "/run/pen.sock"))),
            ("listen udp dns:domain", ListenChange::Add(with(Protocol::Udp, "dns:domain"))),
            ("listen udp udp", ListenChange::Add(with(Protocol::Udp, "udp"))),
            ("no listen udp 53", ListenChange::Remove(with(Protocol::Udp, "53"))),
            ("no listen tcp /run/pen.sock", ListenChange::Remove(with(Protocol::Tcp, "/run/pen.sock"))),
        ] {
            assert_eq!(command(line), Command::Listen(expected.clone()), "{line}");
            assert!(!Command::Listen(expected).is_question());
        }
        assert_eq!(command("listen"), Command::ShowListen);
        assert!(Command::ShowListen.is_question());
        assert_eq!(notices("listen udp 53 54"), [r#""54" and what follows it is ignored"#]);
        for (line, reason) in [
            ("listen udp", "listen udp needs [host:]port"),
            ("listen tcp", "listen tcp needs [host:]port or a path"),
            ("no listen udp", "no listen udp needs [host:]port"),
            ("listen udp /run/pen.sock", "listen udp needs [host:]port, not a path"),
            ("no listen", "do_cmd: ignoring command starting with 'no listen'"),
            ("no listen 53", "do_cmd: ignoring command starting with 'no listen'"),
        ] {
            assert_eq!(refused(line), reason);
        }
        assert!(refused("listen udp 0").starts_with("listen: port must be"));
    }

    #[test]
    fn the_log_has_one_of_two_formats() {
        assert_eq!(command("log_format"), Command::ShowLogFormat);
        assert_eq!(command("log_format json"), Command::LogFormat(LogFormat::Json));
        assert_eq!(command("log_format classic"), Command::LogFormat(LogFormat::Classic));
        assert!(Command::ShowLogFormat.is_question() && !command("log_format json").is_question());
        for (line, reason) in [
            ("log_format JSON", r#"log_format must be classic or json, not "JSON""#),
            ("log_format ''", r#"log_format must be classic or json, not "''""#),
            ("no log_format", "do_cmd: ignoring command starting with 'no log_format'"),
        ] {
            assert_eq!(refused(line), reason);
        }
    }

    #[test]
    fn flows_end_after_a_time_or_with_so_many_replies() {
        let timeout = |idle, replies| Command::UdpTimeout(FlowTimeout { idle: Seconds(idle), replies });
        assert_eq!(command("udp_timeout"), Command::ShowUdpTimeout);
        assert!(Command::ShowUdpTimeout.is_question() && !timeout(1, None).is_question());
        assert_eq!(command("udp_timeout 1"), timeout(1, None));
        assert_eq!(command("udp_timeout 2147483647 replies 1000"), timeout(LARGEST, Some(1000)));
        for (line, reason) in [
            ("udp_timeout 0", r#"udp_timeout must be a number from 1 to 2147483647, not "0""#),
            ("udp_timeout 5 replies", "udp_timeout 5 replies needs a number"),
            ("udp_timeout 5 replies 0", r#"replies must be a number from 1 to 1000, not "0""#),
            ("udp_timeout 5 replies 1001", r#"replies must be a number from 1 to 1000, not "1001""#),
            ("udp_timeout 5 1", r#"what follows udp_timeout N must be replies, or nothing, not "1""#),
            ("no udp_timeout", "do_cmd: ignoring command starting with 'no udp_timeout'"),
        ] {
            assert_eq!(refused(line), reason);
        }
    }

    #[test]
    fn the_proxy_protocol_is_accepted_from_a_list_and_sent_in_a_version() {
        use ProxySend::*;
        for (line, expected) in [
            ("proxy_accept", Command::ShowProxyAccept),
            ("proxy_accept 9", Command::ProxyAccept(Some(acl(9)))),
            ("proxy_accept off", Command::ProxyAccept(None)),
            ("no proxy_accept", Command::ProxyAccept(None)),
            ("proxy_send", Command::ShowProxySend),
            ("proxy_send 1", Command::ProxySend(V1)),
            ("proxy_send 2", Command::ProxySend(V2)),
            ("proxy_send every", Command::ProxySend(V2Every)),
            ("proxy_send off", Command::ProxySend(Off)),
            ("no proxy_send", Command::ProxySend(Off)),
        ] {
            assert_eq!(command(line), expected);
            assert_eq!(expected.is_question(), !line.contains(' '));
        }
        for (value, change) in [
            ("1", Some(V1)),
            ("2", Some(V2)),
            ("every", Some(V2Every)),
            ("off", Some(Off)),
            ("default", None),
        ] {
            let expected = Command::Server(ServerId(1), vec![ServerChange::Proxy(change)]);
            assert_eq!(command(&format!("server 1 proxy {value}")), expected);
        }
        assert_eq!(refused("proxy_accept 10"), r#"proxy_accept must be a number from 0 to 9, not "10""#);
        assert_eq!(refused("proxy_send 3"), r#"proxy_send must be 1, 2, every or off, not "3""#);
        assert_eq!(refused("server 1 proxy v2"), r#"proxy must be 1, 2, every, off or default, not "v2""#);
        assert_eq!(refused("server 1 proxy"), "server 1 proxy needs a value");
    }

    #[test]
    fn servers_are_drained_and_put_back_to_work() {
        assert_eq!(command("drain 3"), Command::Drain(ServerId(3), Drain::New));
        assert_eq!(command("drain 3 all"), Command::Drain(ServerId(3), Drain::All));
        assert_eq!(command("undrain 3"), Command::Drain(ServerId(3), Drain::No));
        assert_eq!(refused("drain"), "drain needs a number");
        assert_eq!(refused("drain 1 al"), r#"what follows drain N must be all, not "al""#);
        assert_eq!(refused("undrain 4096"), r#"undrain must be a number from 0 to 4095, not "4096""#);
    }

    #[test]
    fn a_running_pen_is_asked_and_told() {
        use Operation::*;
        for (line, expected) in [
            ("check", Check(None)),
            ("check /a", Check(Some("/a".into()))),
            ("close", Close(ConnId(0))),
            ("close 4294967295", Close(ConnId(u32::MAX))),
            ("connection", Connection(ConnId(0))),
            ("connection 500", Connection(ConnId(500))),
            ("control", Control),
            ("diff", Diff(None)),
            ("diff a", Diff(Some("a".into()))),
            ("exit", Exit),
            ("limits", Limits),
            ("pid", Pid),
            ("recent", Recent(Seconds(300))),
            ("recent 0", Recent(Seconds(0))),
            ("reload", Reload),
            ("servers", Servers),
            ("socket 8", Socket(8)),
            ("status", Status),
            ("write", Write(None)),
            (r#"write "/a b""#, Write(Some("/a b".into()))),
        ] {
            assert!(line.starts_with(expected.word()));
            assert_eq!(command(line), Command::Operation(expected));
        }
        for line in
            ["close x", "close -1", "connection 1x", "connection 4294967296", "recent -1", "socket -1"]
        {
            assert!(refused(line).contains("must be a number from 0 to"), "{line}");
        }
        assert_eq!(refused("socket"), "socket needs the number of a descriptor");
    }

    #[test]
    fn a_client_is_named_by_its_address() {
        let explained = |text: &str| match command(&format!("explain {text}")) {
            Command::Operation(Operation::Explain(client)) => client,
            other => panic!("{other:?}"),
        };
        let client = |ip: &str, port| ClientAddress::Inet(ip.parse().unwrap(), port);
        assert_eq!(explained("unix"), ClientAddress::Unix);
        assert_eq!(explained("1.2.3.4"), client("1.2.3.4", 0));
        assert_eq!(explained("1.2.3.4:5"), client("1.2.3.4", 5));
        assert_eq!(explained("::1"), client("::1", 0));
        assert_eq!(explained("[::1]"), client("::1", 0));
        assert_eq!(explained("[::1]:5"), client("::1", 5));
        assert_eq!(explained("::ffff:1.2.3.4"), client("1.2.3.4", 0));
        assert_eq!(explained("[::ffff:1.2.3.4]:5"), client("1.2.3.4", 5));
        assert_eq!(refused("explain"), "explain needs the address of a client");
        for junk in ["www", "1.2.3.4:x", "1.2.3.4:65536", "1.2.3", "[::1", "::1]", "/run/x", "Unix"] {
            assert!(refused(&format!("explain {junk}")).ends_with(&format!("not {junk:?}")));
        }
    }

    #[test]
    fn the_other_settings_are_read() {
        assert_eq!(command("log"), Command::ShowLog);
        assert_eq!(command("log /a"), Command::Log(Some(LogDestination::File("/a".into()))));
        assert_eq!(command("no log"), Command::Log(None));
        assert_eq!(command("web_stats"), Command::ShowWebStats);
        assert_eq!(command("no web_stats"), Command::WebStats(None));
        assert_eq!(command("workers"), Command::ShowWorkers);
        assert_eq!(command("workers 4"), Command::Workers(Some(4)));
        assert_eq!(command("workers auto"), Command::Workers(None));
        assert_eq!(command("include /x"), Command::Include("/x".into()));
        assert_eq!(command("source 127.0.0.55"), Command::Source("127.0.0.55".parse().ok()));
        assert_eq!(command("source ::ffff:127.0.0.55"), Command::Source("127.0.0.55".parse().ok()));
        assert_eq!(command("no source"), Command::Source(None));
        assert_eq!(command("geoip"), Command::ShowGeoip);
        assert_eq!(command(r#"geoip "/a b""#), Command::Geoip(Some("/a b".into())));
        assert_eq!(command("no geoip"), Command::Geoip(None));
        assert_eq!(command("emergency"), Command::ShowEmergency);
        assert_eq!(command("emergency a:1:2"), Command::Emergency("a:1:2".parse().ok()));
        assert_eq!(command("no emergency"), Command::Emergency(None));
        assert_eq!(command("abuse"), Command::ShowAbuse);
        assert_eq!(command("abuse [::1]:80"), Command::Abuse("[::1]:80".parse().ok()));
        assert_eq!(command("no abuse"), Command::Abuse(None));
        for (word, value) in [
            ("off", FastClose::Off),
            ("up", FastClose::Up),
            ("down", FastClose::Down),
            ("both", FastClose::Both),
        ] {
            assert_eq!(command(&format!("tcp_fastclose {word}")), Command::FastClose(value));
        }
        assert_eq!(command("idlers"), Command::Constant("Idlers: 0/0\n"));
        assert_eq!(command("tarpit_acl"), Command::Constant("tarpit_acl = -1"));
    }

    #[test]
    fn mistakes_in_the_other_settings_are_named() {
        assert!(refused("listen 0").starts_with("listen: port must be a number from 1 to 65535"));
        assert!(refused("log h:0").starts_with(r#"log: port must be a number from 1 to 65535, not "0""#));
        assert_eq!(refused(r#"log """#), "log: the name of the log is empty");
        for word in ["web_stats", "geoip", "write"] {
            assert_eq!(refused(&format!(r#"{word} """#)), format!("{word} needs the name of a file"));
            let message =
                format!(r#"{word}: no name of a file can have a control character, as "/a\u{{1b}}" has"#);
            assert_eq!(refused(&format!("{word} /a\u{1b}")), message);
        }
        assert!(refused("log \"/a\nb\"").starts_with("log: no name of a file can have a control character"));
        assert!(refused("emergency :80").starts_with("emergency: no host before the colon"));
        assert!(refused("abuse 2001:db8::1:80").starts_with("abuse: cannot tell address and port apart"));
        assert_eq!(refused("workers 0"), r#"workers must be a number from 1 to 256, not "0""#);
        assert_eq!(refused("include"), "include needs the name of a file");
        assert_eq!(refused("source"), "source needs an address");
        assert_eq!(refused("source www"), "unable to set source address to 'www': it must be an IP address");
        assert_eq!(refused("tcp_fastclose x"), r#"tcp_fastclose must be off, up, down or both, not "x""#);
        assert_eq!(refused("tcp_fastclose"), "do_cmd: ignoring tcp_fastclose without argument");
        assert_eq!(refused("no"), "no needs the name of what is to be off");
    }

    #[test]
    fn unknown_commands_are_ignored_as_ever() {
        for word in ["foo", "BLACKLIST", "blackl", "no foo"] {
            let error = Command::parse(&format!("{word} bar")).unwrap_err();
            assert!(error.is_ignorable());
            let word = if word.starts_with("no") { "no foo" } else { word };
            assert_eq!(error.to_string(), format!("do_cmd: ignoring command starting with '{word}'"));
        }
        assert!(!Command::parse("no acl").unwrap_err().is_ignorable());
    }

    #[test]
    fn what_cannot_be_done_now_is_refused_and_never_ignored() {
        for word in NOT_AVAILABLE {
            assert_eq!(refused(&format!("{word} x")), format!("{word} is not available in this version"));
        }
        assert_eq!(refused("idlers 3"), "idlers 3 is not available in this version");
        assert_eq!(refused("tarpit_acl 1"), "tarpit_acl 1 is not available in this version");
    }

    #[test]
    fn old_words_are_accepted_with_a_notice() {
        for word in OBSOLETE {
            assert_eq!(parsed(&format!("{word} 1")).command, Command::Nothing);
            for given in [word.to_owned(), format!("no {word}")] {
                let why = match word {
                    "epoll" | "kqueue" | "poll" | "select" => "has no effect: epoll is used",
                    _ => "is obsolete and has no effect",
                };
                assert_eq!(notices(&given), [format!("{given} {why}")]);
            }
        }
        assert_eq!(notices("no tcp_nodelay"), ["tcp_nodelay is always on"]);
        assert_eq!(command("tcp_nodelay"), Command::Nothing);
    }

    #[test]
    fn extra_words_are_told_of() {
        assert_eq!(notices("hash on please"), [r#""on" and what follows it is ignored"#]);
        assert_eq!(parsed("timeout 7 s").command, Command::Number(Number::Timeout, Some(7)));
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(
            line in r#"(no |acl 1 permit |server 1 |log |listen )?[a-z0-9_:./" \\#\[\]-]{0,30}|\PC{0,20}"#,
        ) {
            let _ = Command::parse(&line);
        }
    }
}
