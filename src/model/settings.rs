//! What the administrator asked for: one immutable value with a generation number.
//!
//! Paths in it come from text and are UTF-8, because the value travels to the workers as text, and without control
//! characters, because it is written down as lines of text ([`super::render`]).
//! Not here: how a command changes it ([`super::apply`]), how a file does ([`super::config`]).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::address::{AddressError, Host, ListenSpec, Port, ServerSpec};
use super::config::Places;
use super::http::HttpSettings;
use super::ids::{AclId, ServerId, Target};
use super::listen::{Listen, Protocol};
use super::number::{self, NumberError};
use super::proxy::ProxySend;
use super::time::Seconds;
use super::tls::{NoSuchWord, TlsSettings, TlsVersion, VerifyClient, shown_as};

/// How many entries an access list can have.
pub const MAX_ENTRIES: usize = 65_536;

/// Everything that can be changed while pen runs. A command or a reload makes a new value; nothing changes
/// one in place. See pen(1), CONFIGURATION.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Goes up by one with every new value; what a worker has is seen in its row of the worker table.
    pub generation: u64,

    /// `-r`: choose without looking up the client's last server.
    pub roundrobin: bool,
    /// `-h`: the client's address decides for a new client.
    pub hash: bool,
    /// `-W`: fewest connections for its weight.
    pub weight: bool,
    /// `prio`: lowest priority number first.
    pub prio: bool,
    /// `-s`: no fail-over.
    pub stubborn: bool,
    /// `-N`: hash, without storing or using the client's last server.
    pub forgetful: bool,

    /// `-T`: how long a client is remembered; 0 = for ever.
    pub tracking: Seconds,
    /// `-b`: how long a failed server is left alone.
    pub blacklist: Seconds,
    /// `-t`: how long a connect may take; at least 1.
    pub timeout: Seconds,
    /// `idle_timeout`: connections without traffic end after this; 0 = never.
    pub idle_timeout: Seconds,

    /// The ten access lists.
    pub acls: [Vec<AclEntry>; AclId::COUNT],
    /// The list that clients must pass.
    pub client_acl: AclId,
    /// The list that users of the control port must pass.
    pub control_acl: AclId,
    /// `geoip`: the database that says which country an address belongs to.
    pub geoip: Option<PathBuf>,

    /// The regular servers, by number.
    pub servers: Vec<ServerSpec>,
    /// `-e`.
    pub emergency: Option<ServerSpec>,
    /// `-B`.
    pub abuse: Option<ServerSpec>,

    /// Where to listen. The port of the first is that of servers without one.
    pub listen: Vec<Listen>,
    /// `-U`: what is to listen without saying by which protocol does so with UDP.
    pub udp: bool,
    /// `udp_timeout`: when a flow of datagrams is over.
    pub udp_timeout: FlowTimeout,
    /// `-c`: slots of the client table.
    pub clients_max: u32,
    /// `-x`: slots of the connection table.
    pub conn_max: u32,
    /// Most connects under way at a time; at least 1.
    pub pending_max: u32,
    /// `-m`: most connections accepted per wake-up; at least 1.
    pub multi_accept: u32,
    /// `-q`: listen(2)'s backlog; at least 50.
    pub listen_queue: u32,
    /// `workers`: how many worker processes; none = one for each CPU that pen may use.
    pub workers: Option<u32>,

    /// `keepalive`: SO_KEEPALIVE towards the servers.
    pub keepalive: bool,
    /// `tcp_fastclose`.
    pub tcp_fastclose: FastClose,
    /// `source`: the local address towards the servers.
    pub source: Option<IpAddr>,
    /// `dummy`: answer every client with a fixed page instead of using servers.
    pub dummy: bool,

    /// `transparent`: servers see the client's own address as the source.
    pub transparent: bool,
    /// `peek`: no server is chosen before the client has sent something.
    pub peek: bool,

    /// What HTTP requests are given.
    pub http: HttpSettings,
    /// `proxy_accept N`: who passes this list begins with a header of the PROXY protocol, and nobody else is let in.
    pub proxy_accept: Option<AclId>,
    /// `proxy_send`: what servers get that say nothing of their own.
    pub proxy_send: ProxySend,

    /// TLS towards clients.
    pub tls: TlsSettings,

    /// `-d`: how much is told; 0 to 3.
    pub debug: u8,
    /// `-a`: dumps as text instead of hexadecimal.
    pub ascii: bool,
    /// `-l`.
    pub log: Option<LogDestination>,
    /// `log_format`.
    pub log_format: LogFormat,
    /// `-w`.
    pub web_stats: Option<PathBuf>,
    /// `abort_on_error`: fatal errors at start dump core.
    pub abort_on_error: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            generation: 1,
            roundrobin: false,
            hash: false,
            weight: false,
            prio: false,
            stubborn: false,
            forgetful: false,
            tracking: Seconds(0),
            blacklist: Seconds(30),
            timeout: Seconds(5),
            idle_timeout: Seconds(0),
            acls: Default::default(),
            client_acl: AclId::default(),
            control_acl: AclId::default(),
            geoip: None,
            servers: Vec::new(),
            emergency: None,
            abuse: None,
            listen: Vec::new(),
            udp: false,
            udp_timeout: FlowTimeout::default(),
            clients_max: 2048,
            conn_max: 500,
            pending_max: 100,
            multi_accept: 100,
            listen_queue: 500,
            workers: None,
            keepalive: false,
            tcp_fastclose: FastClose::Off,
            source: None,
            dummy: false,
            transparent: false,
            peek: false,
            http: HttpSettings::default(),
            proxy_accept: None,
            proxy_send: ProxySend::Off,
            tls: TlsSettings::default(),
            debug: 0,
            ascii: false,
            log: None,
            log_format: LogFormat::Classic,
            web_stats: None,
            abort_on_error: false,
        }
    }
}

/// When a flow of datagrams is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTimeout {
    /// This long after its last datagram, either way; at least 1.
    pub idle: Seconds,
    /// Before that: when every datagram of the client has had so many replies; at least 1.
    pub replies: Option<u32>,
}

impl Default for FlowTimeout {
    fn default() -> Self {
        FlowTimeout { idle: Seconds(30), replies: None }
    }
}

/// As the command `udp_timeout` takes it: `30`, `30 replies 1`.
impl fmt::Display for FlowTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.replies {
            Some(replies) => write!(f, "{} replies {replies}", self.idle),
            None => self.idle.fmt(f),
        }
    }
}

/// What is wrong with a whole that is right in its parts: [`Settings::problems`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsProblem {
    /// Neither operand nor `listen` command.
    #[error("no address to listen on; give [host:]port, or the command listen in the configuration file")]
    NowhereToListen,
    /// Nobody could ever be served.
    #[error("no servers; name at least one after the address to listen on, or with the command server")]
    NoServers,
    /// The port of the listener is the default, and a Unix socket has none.
    #[error(
        "server {server} ({host}) needs a port of its own, because pen listens on the Unix socket {socket}"
    )]
    PortNeeded {
        /// Which server.
        server: Target,
        /// Its host.
        host: Host,
        /// The listener.
        socket: PathBuf,
    },
    /// Nobody can say which country an address belongs to.
    #[error(
        "access list {0} has a country in it; name the database of countries with the command geoip FILE"
    )]
    NoCountries(AclId),
    /// It would be copied, sent to every worker and compiled there with every change.
    #[error(
        "access list {0} has more than {MAX_ENTRIES} entries; empty it first with no acl {0}, or name networks instead \
         of single addresses"
    )]
    LongList(AclId),
    /// There is no version between them.
    #[error("ssl_min_version {0} is above ssl_max_version {1}; change one of them")]
    VersionsCrossed(TlsVersion, TlsVersion),
    /// There are versions between them, but none is left.
    #[error(
        "no version of TLS is left: ssl_option takes away all from ssl_min_version {0} to ssl_max_version {1}; \
         take an option back with no ssl_option"
    )]
    NoVersion(TlsVersion, TlsVersion),
    /// Certificates of clients are to be verified, and nobody's are good.
    #[error(
        "ssl_verify_client {0} needs to know whose certificates are good; name a file with ssl_ca_file (-G) or a \
         directory with ssl_ca_path (-A)"
    )]
    NoAuthorities(VerifyClient),
    /// TLS can end here or at the servers.
    #[error(
        "ssl_passthrough sni leaves TLS to the servers, and ssl_certificate (-E) ends it here; turn one of them off"
    )]
    PassedThroughAndEnded,
    /// It would be TLS in TLS.
    #[error(
        "server {0} has tls, but with ssl_passthrough sni clients speak TLS with it themselves; turn one of them off"
    )]
    PassedThroughInTls(ServerId),
    /// A Unix socket is no place for UDP.
    #[error("UDP needs [host:]port to listen on, not the path {0}")]
    UdpAtPath(PathBuf),
    /// It takes connections alone.
    #[error(
        "server {0} is the Unix socket {1}, which takes no datagrams; with UDP give an address and a port"
    )]
    UdpToPath(Target, PathBuf),
    /// TLS needs a connection.
    #[error("server {0} has tls, which there is not for datagrams; turn it off, or listen with TCP alone")]
    UdpInTls(Target),
    /// Version 1 has words for TCP alone. None: `proxy_send` says it.
    #[error(
        "{} 1 cannot be used with UDP: only version 2 tells of datagrams; say 2 or every",
        .0.map_or_else(|| "proxy_send".to_owned(), |server| format!("server {server} proxy"))
    )]
    UdpInVersion1(Option<Target>),
    /// The page is an answer to a connection.
    #[error("dummy cannot answer datagrams; turn it off, or listen with TCP alone")]
    UdpDummy,
}

/// What somebody should know of settings that pen runs with all the same: [`Settings::remarks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Remark {
    /// Weight is to decide where no server has one.
    #[error("all servers have weight 0: they count as equal")]
    Weightless,
    /// A setting of TLS, by its command, where TLS is not ended.
    #[error("{0} has no effect without ssl_certificate (-E)")]
    Certificateless(&'static str),
    /// Nobody reads the names that clients ask for.
    #[error("the names of server {0} (sni) have no effect without ssl_passthrough sni")]
    UnusedNames(ServerId),
    /// What passes is encrypted.
    #[error("http (-H) has no effect with ssl_passthrough sni: requests are encrypted")]
    HttpPassedThrough,
    /// Not all HTTP is what `http` knows.
    #[error(
        "http (-H) has no effect on HTTP/2, which ssl_alpn h2 offers to clients: servers are not told who they are, \
         and believe what they say themselves"
    )]
    Http2,
    /// An empty list is everybody.
    #[error(
        "proxy_accept {0} believes everybody, because access list {0} is empty: any client can say that it is \
         another; permit those in front of pen alone"
    )]
    EverybodyBelieved(AclId),
    /// Whom no entry matches gets the opposite of the last: those of the other family, too.
    #[error(
        "proxy_accept {0} believes everybody whom no entry of access list {0} matches, because its last entry denies: \
         permit those in front of pen alone"
    )]
    OthersBelieved(AclId),
    /// One list is asked about two kinds of addresses.
    #[error(
        "proxy_accept and client_acl are the same list, {0}: it is asked about whoever connects, and about the client \
         that he names"
    )]
    OneListForBoth(AclId),
    /// Both say which address servers see.
    #[error("transparent has no effect: servers see the address of source")]
    SourceDecides,
    /// Something that connections alone have, by its command, where there are none.
    #[error("{0} has no effect without a TCP listener")]
    Connectionless(&'static str),
    /// The log has a format, and there is none.
    #[error("log_format has no effect without log (-l)")]
    Logless,
    /// Clients without addresses.
    #[error("transparent has no effect: clients of a Unix socket have no address")]
    NothingToShow,
}

impl Settings {
    /// The protocol of listeners that name none.
    pub fn protocol(&self) -> Protocol {
        if self.udp { Protocol::Udp } else { Protocol::Tcp }
    }

    /// Do clients come by this protocol?
    pub fn listens_with(&self, protocol: Protocol) -> bool {
        self.listen.iter().any(|listen| listen.protocol == protocol)
    }

    /// Is this one of the listeners, however its address is written?
    pub fn listens_at(&self, listen: &Listen) -> bool {
        self.listen.iter().any(|it| it.is(listen))
    }

    /// What makes it impossible to run with these settings; all of it.
    pub fn problems(&self) -> Vec<SettingsProblem> {
        let mut problems = Vec::new();
        if self.listen.is_empty() {
            problems.push(SettingsProblem::NowhereToListen);
        }
        if !self.dummy && self.servers.iter().all(|server| server.host.is_none()) {
            problems.push(SettingsProblem::NoServers);
        }
        if let Some(socket) = self.listen.first().and_then(|listen| listen.spec.path()) {
            let portless = self.targets().filter_map(|(target, spec)| match &spec.host {
                Some(host @ (Host::Ip(_) | Host::Name(_))) if spec.port == Port::Listeners => {
                    Some((target, host))
                }
                _ => None,
            });
            problems.extend(portless.map(|(server, host)| SettingsProblem::PortNeeded {
                server,
                host: host.clone(),
                socket: socket.to_owned(),
            }));
        }
        if self.geoip.is_none() {
            let lists = (0..).map_while(AclId::new).zip(&self.acls);
            let with_countries = lists.filter(|(_, entries)| entries.iter().any(AclEntry::is_country));
            problems.extend(with_countries.map(|(list, _)| SettingsProblem::NoCountries(list)));
        }
        let lists = (0..).map_while(AclId::new).zip(&self.acls);
        let long = lists.filter(|(_, entries)| entries.len() > MAX_ENTRIES);
        problems.extend(long.map(|(list, _)| SettingsProblem::LongList(list)));
        self.problems_of_tls(&mut problems);
        if self.listens_with(Protocol::Udp) {
            self.problems_of_udp(&mut problems);
        }
        problems
    }

    /// What datagrams cannot have. Servers are there for all listeners.
    fn problems_of_udp(&self, problems: &mut Vec<SettingsProblem>) {
        for Listen { protocol, spec } in &self.listen {
            match (protocol, spec.path()) {
                (Protocol::Udp, Some(path)) => problems.push(SettingsProblem::UdpAtPath(path.to_owned())),
                (Protocol::Udp, None) | (Protocol::Tcp, _) => {}
            }
        }
        let mut inherits = false;
        for (target, spec) in self.targets() {
            match &spec.host {
                None => continue,
                Some(Host::Path(path)) => problems.push(SettingsProblem::UdpToPath(target, path.clone())),
                Some(Host::Ip(_) | Host::Name(_)) => {}
            }
            if spec.tls.is_some() {
                problems.push(SettingsProblem::UdpInTls(target));
            }
            if spec.proxy == Some(ProxySend::V1) {
                problems.push(SettingsProblem::UdpInVersion1(Some(target)));
            }
            inherits |= spec.proxy.is_none();
        }
        if self.proxy_send == ProxySend::V1 && inherits {
            problems.push(SettingsProblem::UdpInVersion1(None));
        }
        if self.dummy {
            problems.push(SettingsProblem::UdpDummy);
        }
    }

    fn problems_of_tls(&self, problems: &mut Vec<SettingsProblem>) {
        let TlsSettings { min_version, max_version, verify_client, .. } = self.tls;
        if min_version > max_version {
            problems.push(SettingsProblem::VersionsCrossed(min_version, max_version));
        } else if self.tls.versions().next().is_none() {
            problems.push(SettingsProblem::NoVersion(min_version, max_version));
        }
        let no_authorities = self.tls.ca_file.is_none() && self.tls.ca_path.is_none();
        if self.tls.certificate.is_some() && verify_client != VerifyClient::Off && no_authorities {
            problems.push(SettingsProblem::NoAuthorities(verify_client));
        }
        if self.tls.passthrough {
            if self.tls.certificate.is_some() {
                problems.push(SettingsProblem::PassedThroughAndEnded);
            }
            let with_tls = (0..).map(ServerId).zip(&self.servers).filter(|(_, spec)| spec.tls.is_some());
            problems.extend(with_tls.map(|(server, _)| SettingsProblem::PassedThroughInTls(server)));
        }
    }

    /// What is likely not meant so, though nothing is wrong with it.
    pub fn remarks(&self) -> Vec<Remark> {
        let mut remarks = Vec::new();
        let mut servers = self.servers.iter().filter(|server| server.host.is_some()).peekable();
        if self.weight && servers.peek().is_some() && servers.all(|server| server.weight == 0) {
            remarks.push(Remark::Weightless);
        }
        if self.tls.certificate.is_none() {
            let TlsSettings { key, ca_file, ca_path, verify_client, sni_path, ocsp_response, .. } = &self.tls;
            let given = [
                ("ssl_key", key.is_some()),
                ("ssl_ca_file", ca_file.is_some()),
                ("ssl_ca_path", ca_path.is_some()),
                ("ssl_verify_client", *verify_client != VerifyClient::Off),
                ("ssl_sni_path", sni_path.is_some()),
                ("ssl_ocsp_response", ocsp_response.is_some()),
            ];
            let idle = given.into_iter().filter(|(_, given)| *given);
            remarks.extend(idle.map(|(command, _)| Remark::Certificateless(command)));
        }
        if !self.tls.passthrough {
            let named = self.servers.iter().position(|server| !server.sni.is_empty());
            remarks.extend(named.map(|server| Remark::UnusedNames(ServerId(server as u32))));
        }
        self.remarks_on_addresses(&mut remarks);
        if self.log_format != LogFormat::Classic && self.log.is_none() {
            remarks.push(Remark::Logless);
        }
        if !self.listen.is_empty() && !self.listens_with(Protocol::Tcp) {
            let of_connections = [
                ("ssl_certificate (-E)", self.tls.certificate.is_some()),
                ("ssl_passthrough", self.tls.passthrough),
                ("http (-H)", self.http.headers),
                ("peek", self.peek),
                ("tcp_fastclose", self.tcp_fastclose != FastClose::Off),
                ("keepalive", self.keepalive),
            ];
            let idle = of_connections.into_iter().filter(|(_, given)| *given);
            remarks.extend(idle.map(|(command, _)| Remark::Connectionless(command)));
        }
        remarks
    }

    /// On what servers are told of clients.
    fn remarks_on_addresses(&self, remarks: &mut Vec<Remark>) {
        let offers_http2 = || self.tls.certificate.is_some() && self.tls.alpn.iter().any(|name| name == "h2");
        let is_local = self.listen.iter().all(|listen| listen.spec.path().is_some());
        if self.http.headers && self.tls.passthrough {
            remarks.push(Remark::HttpPassedThrough);
        } else if self.http.headers && offers_http2() {
            remarks.push(Remark::Http2);
        }
        match self.proxy_accept {
            // Who may use a Unix socket is decided by its mode.
            Some(list) if self.acls[list.index()].is_empty() && !is_local => {
                remarks.push(Remark::EverybodyBelieved(list));
            }
            Some(list) if permits_the_unmatched(&self.acls[list.index()]) && !is_local => {
                remarks.push(Remark::OthersBelieved(list));
            }
            Some(list) if list == self.client_acl && !self.acls[list.index()].is_empty() => {
                remarks.push(Remark::OneListForBoth(list));
            }
            _ => {}
        }
        if self.transparent && self.source.is_some() {
            remarks.push(Remark::SourceDecides);
        } else if self.transparent && is_local && self.proxy_accept.is_none() {
            remarks.push(Remark::NothingToShow);
        }
    }

    /// Every server there is: the regular ones (unset slots too), the emergency server, the abuse server.
    pub fn targets(&self) -> impl Iterator<Item = (Target, &ServerSpec)> {
        let regular = (0..).map(|number| Target::Server(ServerId(number))).zip(&self.servers);
        let emergency = self.emergency.iter().map(|spec| (Target::Emergency, spec));
        regular.chain(emergency).chain(self.abuse.iter().map(|spec| (Target::Abuse, spec)))
    }
}

/// Does a list let clients in that it does not name?
fn permits_the_unmatched(list: &[AclEntry]) -> bool {
    let all_of_both = |all: (bool, bool), entry: &AclEntry| match entry.network {
        Network::V4(_, mask) => (all.0 || mask.is_unspecified(), all.1),
        Network::V6(_, length) => (all.0, all.1 || length == 0),
        Network::Country(_) => all,
    };
    list.last().is_some_and(|last| !last.permit)
        && list.iter().fold((false, false), all_of_both) != (true, true)
}

/// Whose end of stream ends the whole connection. See pen(1), `tcp_fastclose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FastClose {
    /// Nobody's: half-close is passed on.
    Off,
    /// The server's.
    Up,
    /// The client's.
    Down,
    /// Either's.
    Both,
}

/// Why a text is not the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileNameError {
    /// Nothing.
    #[error("the name of the file is empty")]
    Empty,
    /// It could not be written into a configuration file.
    #[error("no name of a file can have a control character, as {0:?} has")]
    Control(String),
}

/// The name of a file, as commands and options give it.
///
/// # Errors
/// It is empty, or has control characters.
pub fn file_name(text: &str) -> Result<PathBuf, FileNameError> {
    if text.is_empty() {
        return Err(FileNameError::Empty);
    }
    match text.contains(char::is_control) {
        true => Err(FileNameError::Control(text.to_owned())),
        false => Ok(text.into()),
    }
}

/// Where request lines go: pen(1), `-l`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogDestination {
    /// Appended to this file.
    File(PathBuf),
    /// One datagram a line to penlogd(1) at host and port.
    Network(String, u16),
}

/// Why a text is not a destination for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogDestinationError {
    /// Nothing.
    #[error("the name of the log is empty")]
    Empty,
    /// Not a file's name.
    #[error(transparent)]
    File(#[from] FileNameError),
    /// The colon makes it a network address; the host is wrong.
    #[error("{0}; a file whose name has a colon must be given from / on")]
    Host(AddressError),
    /// The colon makes it a network address; the port is wrong.
    #[error("{0}; a file whose name has a colon must be given from / on")]
    Port(NumberError),
}

impl FromStr for LogDestination {
    type Err = LogDestinationError;

    /// `host:port` or `[v6]:port` where there is a colon and no slash in front, else a file.
    fn from_str(text: &str) -> Result<Self, LogDestinationError> {
        match text.rsplit_once(':') {
            _ if text.is_empty() => Err(LogDestinationError::Empty),
            Some((host, port)) if !text.starts_with('/') => {
                let host = match host.parse().map_err(LogDestinationError::Host)? {
                    // A path here is a relative file name with a colon in it.
                    Host::Path(_) => {
                        return Err(LogDestinationError::Host(AddressError::Host(host.to_owned())));
                    }
                    host => host.to_string(),
                };
                let port = number::unsigned("port", port, 1..=65535).map_err(LogDestinationError::Port)?;
                Ok(LogDestination::Network(host, port as u16))
            }
            _ => Ok(LogDestination::File(file_name(text)?)),
        }
    }
}

/// As it can be given to `-l`.
impl fmt::Display for LogDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogDestination::File(path) => path.display().fmt(f),
            LogDestination::Network(host, port) if host.parse::<Ipv6Addr>().is_ok() => {
                write!(f, "[{host}]:{port}")
            }
            LogDestination::Network(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// What the log says, and how: pen(1), `log_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LogFormat {
    /// A line when a client begins to speak, or for each of its requests: [`super::logline`].
    #[default]
    Classic,
    /// An object when a connection is over, and for each request: [`super::record`].
    Json,
}

/// As the command `log_format` takes it.
impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Classic => "classic",
            LogFormat::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        shown_as(text, &[LogFormat::Classic, LogFormat::Json], "classic or json")
    }
}

/// One entry of an access list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclEntry {
    /// Whether clients that match are let in.
    pub permit: bool,
    /// Who matches.
    pub network: Network,
}

impl AclEntry {
    fn is_country(&self) -> bool {
        matches!(self.network, Network::Country(_))
    }
}

/// A set of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// `address AND mask` equals the first; the first has no bits outside the mask.
    V4(std::net::Ipv4Addr, std::net::Ipv4Addr),
    /// Address without bits after the prefix, and the prefix length, 0 to 128.
    V6(std::net::Ipv6Addr, u8),
    /// A country by its two letters, in capitals.
    Country(String),
}

/// As the command `acl` takes it: `10.0.0.0 255.0.0.0`, `2001:db8::/32`, `country SE`.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Network::V4(address, mask) => write!(f, "{address} {mask}"),
            Network::V6(address, length) => write!(f, "{address}/{length}"),
            Network::Country(letters) => write!(f, "country {letters}"),
        }
    }
}

/// What is fixed when pen starts and never changes after.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Launch {
    /// `-f`.
    pub foreground: bool,
    /// `--check`: parse, resolve and load everything, report, and exit.
    pub check: bool,
    /// `-p`.
    pub pidfile: Option<PathBuf>,
    /// `-j`.
    pub jail: Option<PathBuf>,
    /// `-u`.
    pub user: Option<String>,
    /// `-F`.
    pub config: Option<PathBuf>,
    /// `-C`: where the control port is.
    pub control: Option<ListenSpec>,
    /// `-X`: the control command `exit` works.
    pub exit_enabled: bool,
    /// The operand that says where to listen, unless a command did.
    pub operand: Option<ListenSpec>,
    /// All arguments, as they were given.
    pub arguments: Vec<String>,
    /// Where in the configuration is what turns out to be wrong when it is used.
    pub places: Places,
    /// Servers that the configuration puts on the blacklist (`server N blacklist T`), in the order given; 0 takes one
    /// off again.
    pub shunned: Vec<(ServerId, Seconds)>,
}

#[cfg(test)]
mod tests {
    use super::super::command::Command;
    use super::*;

    fn settings(listen: &str, servers: &[&str]) -> Settings {
        Settings {
            listen: Listen::tcp(listen),
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            ..Settings::default()
        }
    }

    #[test]
    fn a_listener_and_a_server_are_all_that_is_needed() {
        assert_eq!(settings("80", &["www"]).problems(), []);
        assert_eq!(Settings { dummy: true, ..settings("80", &[]) }.problems(), []);
    }

    #[test]
    fn nowhere_to_listen_and_nobody_to_serve_are_problems() {
        let nothing = Settings { servers: vec![ServerSpec::unset()], ..Settings::default() };
        assert_eq!(nothing.problems(), [SettingsProblem::NowhereToListen, SettingsProblem::NoServers]);
    }

    #[test]
    fn a_unix_listener_has_no_port_to_lend() {
        let mut settings = settings("/run/pen.sock", &["a:80", "b", "/run/c.sock"]);
        settings.abuse = Some("d".parse().unwrap());
        settings.emergency = Some("[::1]:7".parse().unwrap());
        let texts: Vec<_> = settings.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "server 1 (b) needs a port of its own, because pen listens on the Unix socket /run/pen.sock",
                "server -2 (d) needs a port of its own, because pen listens on the Unix socket /run/pen.sock",
            ]
        );
    }

    #[test]
    fn lists_have_a_length_that_no_list_exceeds() {
        let mut settings = settings("80", &["a"]);
        let entry = AclEntry { permit: true, network: Network::V6(Ipv6Addr::LOCALHOST, 128) };
        settings.acls[4] = vec![entry.clone(); MAX_ENTRIES];
        assert_eq!(settings.problems(), []);
        settings.acls[4].push(entry);
        let text = settings.problems()[0].to_string();
        assert!(text.starts_with("access list 4 has more than 65536 entries; "), "{text}");
    }

    #[test]
    fn countries_need_a_database() {
        let mut settings = settings("80", &["a"]);
        for list in [3, 3, 7] {
            settings.acls[list].push(AclEntry { permit: true, network: Network::Country("SE".into()) });
        }
        let texts: Vec<_> = settings.problems().iter().map(ToString::to_string).collect();
        let way_out = "has a country in it; name the database of countries with the command geoip FILE";
        assert_eq!(texts, [format!("access list 3 {way_out}"), format!("access list 7 {way_out}")]);
        settings.geoip = Some("/geo".into());
        assert_eq!(settings.problems(), []);
    }

    #[test]
    fn weights_are_missed_only_where_they_decide() {
        let mut settings = settings("80", &["a", "b"]);
        assert_eq!(settings.remarks(), []);
        settings.weight = true;
        assert_eq!(settings.remarks(), [Remark::Weightless]);
        settings.servers[1].weight = 1;
        assert_eq!(settings.remarks(), []);
    }

    /// What is wrong after these commands.
    fn wrong(commands: &[&str]) -> Vec<String> {
        let settings = with(commands);
        settings.problems().iter().map(ToString::to_string).collect()
    }

    fn with(commands: &[&str]) -> Settings {
        let mut settings = settings("443", &["a", "b"]);
        for command in commands {
            settings.apply(Command::parse(command).unwrap().unwrap().command);
        }
        settings
    }

    #[test]
    fn some_version_of_tls_must_be_left() {
        assert_eq!(wrong(&["ssl_min_version TLSv1", "ssl_option no_tlsv1"]), [""; 0]);
        assert_eq!(
            wrong(&["ssl_min_version TLSv1.3", "ssl_max_version TLSv1.2"]),
            ["ssl_min_version TLSv1.3 is above ssl_max_version TLSv1.2; change one of them"]
        );
        let none = wrong(&["ssl_max_version TLSv1.2", "ssl_option no_tlsv1.2"]);
        assert!(none.len() == 1 && none[0].starts_with("no version of TLS is left"), "{none:?}");
        assert_eq!(wrong(&["ssl_option no_tlsv1.2"]), [""; 0]);
    }

    #[test]
    fn certificates_of_clients_need_somebody_to_trust() {
        for whom in ["request", "require"] {
            let verify = format!("ssl_verify_client {whom}");
            let missing = wrong(&["ssl_certificate c", &verify]);
            assert_eq!(missing.len(), 1);
            assert!(
                missing[0].starts_with(&verify) && missing[0].contains("ssl_ca_file (-G)"),
                "{missing:?}"
            );
            assert_eq!(wrong(&["ssl_certificate c", &verify, "ssl_ca_file ca"]), [""; 0]);
            assert_eq!(wrong(&["ssl_certificate c", &verify, "ssl_ca_path ca"]), [""; 0]);
            assert_eq!(wrong(&[&verify]), [""; 0], "nobody is asked");
        }
    }

    #[test]
    fn tls_that_is_passed_through_is_left_alone() {
        assert_eq!(wrong(&["ssl_passthrough sni", "server 0 sni www.example.com"]), [""; 0]);
        let both = wrong(&["ssl_passthrough sni", "ssl_certificate c"]);
        assert!(both.len() == 1 && both[0].contains("ssl_certificate (-E) ends it here"), "{both:?}");
        let inner = wrong(&["ssl_passthrough sni", "server 1 tls"]);
        assert!(inner.len() == 1 && inner[0].starts_with("server 1 has tls"), "{inner:?}");
    }

    #[test]
    fn what_has_no_effect_without_something_else_is_remarked_on() {
        let remarks = |commands| with(commands).remarks().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(remarks(&["ssl_key k"]), ["ssl_key has no effect without ssl_certificate (-E)"]);
        assert_eq!(remarks(&["ssl_verify_client require", "ssl_sni_path /d"]).len(), 2);
        assert_eq!(remarks(&["ssl_key k", "ssl_certificate c"]), [""; 0]);
        assert_eq!(
            remarks(&["server 1 sni www.example.com"]),
            ["the names of server 1 (sni) have no effect without ssl_passthrough sni"]
        );
        assert_eq!(remarks(&["server 1 sni www.example.com", "ssl_passthrough sni"]), [""; 0]);
    }

    #[test]
    fn what_there_is_not_for_datagrams_is_refused_where_there_are_any() {
        let udp = |commands: &[&str]| wrong(&[&["listen udp 53"], commands].concat());
        assert_eq!(
            udp(&["proxy_send 2", "server 0 proxy every", "server 1 proxy off", "transparent"]),
            [""; 0]
        );
        let connections_alone = [
            (
                "server 1 address /run/dns",
                "server 1 is the Unix socket /run/dns, which takes no datagrams; with UDP give an address and a port",
            ),
            (
                "emergency /run/dns",
                "server -1 is the Unix socket /run/dns, which takes no datagrams; with UDP give an address and a port",
            ),
            (
                "abuse /run/dns",
                "server -2 is the Unix socket /run/dns, which takes no datagrams; with UDP give an address and a port",
            ),
            (
                "server 0 tls",
                "server 0 has tls, which there is not for datagrams; turn it off, or listen with TCP alone",
            ),
            (
                "server 1 proxy 1",
                "server 1 proxy 1 cannot be used with UDP: only version 2 tells of datagrams; say 2 or every",
            ),
            (
                "proxy_send 1",
                "proxy_send 1 cannot be used with UDP: only version 2 tells of datagrams; say 2 or every",
            ),
            ("dummy", "dummy cannot answer datagrams; turn it off, or listen with TCP alone"),
        ];
        for (command, reason) in connections_alone {
            assert_eq!(udp(&[command]), [reason]);
            assert_eq!(wrong(&[command]), [""; 0]);
        }
        let own = ["proxy_send 1", "server 0 proxy 2", "server 1 proxy off"];
        assert_eq!(udp(&own), [""; 0], "nobody gets it");
        assert_eq!(udp(&[&own[..], &["abuse a:1"]].concat()).len(), 1, "the abuse server does");
        assert_eq!(udp(&["server 3 tls proxy 1"]), [""; 0], "there is no such server");
        let mut at_path = Settings { udp: true, ..settings("80", &["a:1"]) };
        at_path.apply(Command::parse("listen /run/pen").unwrap().unwrap().command);
        assert_eq!(at_path.problems(), [SettingsProblem::UdpAtPath("/run/pen".into())]);
    }

    #[test]
    fn what_has_no_effect_on_datagrams_is_remarked_on_where_there_is_nothing_else() {
        for (command, name) in [
            ("ssl_certificate c", "ssl_certificate (-E)"),
            ("ssl_passthrough sni", "ssl_passthrough"),
            ("http", "http (-H)"),
            ("peek", "peek"),
            ("tcp_fastclose up", "tcp_fastclose"),
            ("keepalive", "keepalive"),
        ] {
            let none = ["listen udp 53", "no listen tcp 443", command];
            assert_eq!(remarked(&none), [Remark::Connectionless(name)]);
            assert_eq!(remarked(&["listen udp 53", command]), []);
        }
        let text = Remark::Connectionless("peek").to_string();
        assert_eq!(text, "peek has no effect without a TCP listener");
    }

    /// What is remarked on after these commands.
    fn remarked(commands: &[&str]) -> Vec<Remark> {
        let settings = with(commands);
        assert_eq!(settings.problems(), []);
        settings.remarks()
    }

    #[test]
    fn headers_that_nothing_can_be_added_to_are_remarked_on() {
        assert_eq!(remarked(&["http", "http_head_max 2048", "http forwarded"]), []);
        assert_eq!(remarked(&["http", "ssl_passthrough sni"]), [Remark::HttpPassedThrough]);
        assert_eq!(remarked(&["http", "ssl_certificate c", "ssl_alpn http/1.1"]), []);
        assert_eq!(remarked(&["http", "ssl_certificate c", "ssl_alpn h2 http/1.1"]), [Remark::Http2]);
        assert_eq!(remarked(&["http", "ssl_alpn h2"]), []);
        assert_eq!(remarked(&["ssl_certificate c", "ssl_alpn h2"]), []);
        assert_eq!(remarked(&["http_head_max 2048"]), []);
    }

    #[test]
    fn whom_one_believes_should_be_on_a_list_of_its_own() {
        let list = AclId::new(3).unwrap();
        assert_eq!(remarked(&["proxy_accept 3"]), [Remark::EverybodyBelieved(list)]);
        assert_eq!(remarked(&["proxy_accept 3", "acl 3 permit 10.0.0.1"]), []);
        let both = ["proxy_accept 3", "acl 3 permit 10.0.0.1", "client_acl 3"];
        assert_eq!(remarked(&both), [Remark::OneListForBoth(list)]);
        // Who denies all others often means those of one family alone.
        let denies = ["proxy_accept 3", "acl 3 permit 10.0.0.1", "acl 3 deny 0.0.0.0/0", "acl 3 deny ::/0"];
        assert_eq!(remarked(&denies[..3]), [Remark::OthersBelieved(list)]);
        assert_eq!(remarked(&denies), []);
        assert_eq!(remarked(&["proxy_accept 3", "acl 3 deny 10.0.0.1"]), [Remark::OthersBelieved(list)]);
        assert_eq!(remarked(&["proxy_accept 3", "acl 3 deny 10.0.0.1", "acl 3 permit 10.0.0.0/8"]), []);
        assert_eq!(remarked(&["proxy_accept 0"]).len(), 1);
        assert_eq!(
            remarked(&["proxy_accept 0", "listen /run/pen.sock", "server 0 port 1", "server 1 port 1"]),
            []
        );
    }

    #[test]
    fn a_format_without_a_log_is_remarked_on() {
        assert_eq!(remarked(&["log_format json"]), [Remark::Logless]);
        assert_eq!(remarked(&["log_format json", "log /l"]), []);
        assert_eq!(remarked(&["log_format classic"]), []);
        assert_eq!(Remark::Logless.to_string(), "log_format has no effect without log (-l)");
    }

    #[test]
    fn an_address_that_servers_will_not_see_is_remarked_on() {
        let unix = ["transparent", "listen /run/pen.sock", "server 0 port 1", "server 1 port 1"];
        assert_eq!(remarked(&["transparent"]), []);
        assert_eq!(remarked(&["transparent", "source ::1"]), [Remark::SourceDecides]);
        assert_eq!(remarked(&unix), [Remark::NothingToShow]);
        assert_eq!(remarked(&[&unix[..], &["proxy_accept 0"]].concat()), []);
        let text = Remark::SourceDecides.to_string();
        assert_eq!(text, "transparent has no effect: servers see the address of source");
    }

    #[test]
    fn a_log_is_a_file_or_with_a_colon_a_host_and_port() {
        let destination = |text: &str| {
            let destination: LogDestination = text.parse().unwrap();
            assert_eq!(destination.to_string(), text);
            destination
        };
        assert_eq!(destination("pen.log"), LogDestination::File("pen.log".into()));
        assert_eq!(destination("/var/log/a:b"), LogDestination::File("/var/log/a:b".into()));
        assert_eq!(destination("127.0.0.1:9900"), LogDestination::Network("127.0.0.1".into(), 9900));
        assert_eq!(destination("[::1]:9900"), LogDestination::Network("::1".into(), 9900));
        assert_eq!("::1:9900".parse(), Ok(LogDestination::Network("::1".into(), 9900)));
        for bad in ["", "a\nb", "/a\r", "host:", "host:0", "host:syslog", ":9", "a/b:9", "ho st:9"] {
            assert!(bad.parse::<LogDestination>().is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_survive_the_way_to_a_worker() {
        let mut settings = settings("[::1]:80", &["www:http:1:2:3:4", "/run/x.sock"]);
        settings.log = Some(LogDestination::Network("::1".into(), 9900));
        for command in [
            "log_format json",
            "ssl_certificate /c",
            "ssl_alpn h2",
            "ssl_option no_tlsv1",
            "server 0 sni *.a.test tls verify /ca sni b.test",
        ] {
            settings.apply(Command::parse(command).unwrap().unwrap().command);
        }
        settings.acls[3].push(AclEntry { permit: true, network: Network::V6(Ipv6Addr::LOCALHOST, 128) });
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
    }
}
