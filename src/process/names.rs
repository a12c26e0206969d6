//! What the names in the settings mean: servers, listeners, network logs.
//!
//! Pure: somebody else asks the resolver (at the start, and later the one of [`crate::process::resolver`]) and puts
//! the answers into a [`ResolvedNames`]. Literal addresses and numbers are never asked for.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::address::{Drain, Host, ListenSpec, Port, ServerSpec, SocketAddress};
use crate::model::ids::{ServerId, Target};
use crate::model::listen::{Listen, Protocol};
use crate::model::settings::{LogDestination, Settings, SettingsProblem};
use crate::process::listeners::Place;
use crate::shared::servers::Definition;

/// Something that only a resolver knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Question {
    /// The address of a host.
    Host(String),
    /// The port of a service of this protocol; none: of TCP, else of UDP.
    Service(String, Option<Protocol>),
}

/// What a resolver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The host's best address.
    Address(IpAddr),
    /// The service's port.
    Port(u16),
    /// It does not know, and why.
    Unknown(String),
}

/// All answers so far. An answer outlives a later failure to get it again: a name server that is away for a while
/// takes no server out of use.
#[derive(Debug, Default)]
pub struct ResolvedNames(HashMap<Question, Answer>);

/// Settings that contradict themselves or name what does not exist: no new start and no other answer mends them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No such service.
    #[error("{place}: there is no {}service called {service}; give the port as a number", of(.protocol))]
    Service {
        /// Where it stands.
        place: String,
        /// The name.
        service: String,
        /// Of which protocol; none: of neither.
        protocol: Option<Protocol>,
    },
    /// Two listeners are at one address, which they call by different names.
    #[error(
        "cannot listen on {listener}: it is the same address as {other}, {address}; leave one of them out"
    )]
    Twice {
        /// The later one.
        listener: String,
        /// The word that it is about.
        word: String,
        /// The earlier one.
        other: String,
        /// What both are.
        address: SocketAddress,
    },
    /// The default port is the listener's, and that is a path. In the words of those who read the settings, so that
    /// nobody reads of it twice.
    #[error(transparent)]
    PortNeeded(#[from] SettingsProblem),
    /// Clients would be sent to the control port, and be taken for users of this machine there.
    #[error("server {server}: {address} is the control port, where clients must not be sent")]
    ControlPort {
        /// The server.
        server: Target,
        /// The word that it is about.
        word: String,
        /// Where it would be.
        address: SocketAddress,
    },
    /// Clients would come back to pen itself, each time as another one, until there is no room left.
    #[error("server {server}: {listener} is where pen itself listens")]
    Circle {
        /// The server.
        server: Target,
        /// The word that it is about.
        word: String,
        /// The listener that it would be.
        listener: Place,
    },
    /// A listener's host is unknown.
    #[error("{place}: {reason}")]
    Unknown {
        /// Where it stands.
        place: String,
        /// The word that it is about.
        word: String,
        /// The resolver's words.
        reason: String,
    },
}

fn of(protocol: &Option<Protocol>) -> &'static str {
    match protocol {
        Some(Protocol::Tcp) => "TCP ",
        Some(Protocol::Udp) => "UDP ",
        None => "",
    }
}

/// Which services give servers their ports: of TCP; and where they are sent datagrams, of UDP if there is none of TCP.
fn servers_services(settings: &Settings) -> Option<Protocol> {
    if settings.listens_with(Protocol::Udp) { None } else { Some(Protocol::Tcp) }
}

/// The settings' servers with their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedServers {
    /// The regular servers.
    pub servers: Vec<Definition>,
    /// `-e`.
    pub emergency: Option<Definition>,
    /// `-B`.
    pub abuse: Option<Definition>,
    /// Names that mean nothing yet, each once, and why.
    pub unresolved: Vec<(String, String)>,
}

impl ResolvedServers {
    /// Is there a server that clients can be sent to?
    pub fn is_usable(&self) -> bool {
        self.servers.iter().chain(&self.emergency).any(|server| server.address.is_some())
    }

    /// The line that tells that there is none.
    pub fn why_unusable(&self) -> String {
        match self.unresolved.first() {
            Some((name, _)) => format!("unknown or invalid address [{name}]"),
            None => "no server has both an address and a port; name one after the address to listen on"
                .to_string(),
        }
    }
}

impl ResolvedNames {
    /// Notes an answer.
    pub fn learn(&mut self, question: Question, answer: Answer) {
        if matches!(answer, Answer::Unknown(_)) && self.knows(&question) {
            return;
        }
        self.0.insert(question, answer);
    }

    /// Is there an answer that helps?
    pub fn knows(&self, question: &Question) -> bool {
        matches!(self.0.get(question), Some(Answer::Address(_) | Answer::Port(_)))
    }

    /// Forgets everything else.
    pub fn keep_only(&mut self, questions: &BTreeSet<Question>) {
        self.0.retain(|question, _| questions.contains(question));
    }

    fn address(&self, name: &str) -> Result<IpAddr, String> {
        match self.0.get(&Question::Host(name.to_string())) {
            Some(Answer::Address(address)) => Ok(*address),
            Some(Answer::Unknown(reason)) => Err(reason.clone()),
            Some(Answer::Port(_)) | None => Err("nobody has answered yet".to_string()),
        }
    }

    fn service(&self, name: &str, protocol: Option<Protocol>, place: &str) -> Result<u16, NameError> {
        match self.0.get(&Question::Service(name.to_string(), protocol)) {
            Some(Answer::Port(port)) => Ok(*port),
            _ => Err(NameError::Service { place: place.to_string(), service: name.to_string(), protocol }),
        }
    }

    /// Where to listen.
    ///
    /// # Errors
    ///
    /// The host or the service is unknown.
    pub fn listen_address(&self, protocol: Protocol, spec: &ListenSpec) -> Result<SocketAddress, NameError> {
        let place = || format!("cannot listen on {}", spec.text);
        let ip = match &spec.host {
            Host::Path(path) => return Ok(SocketAddress::Unix(path.clone())),
            Host::Ip(ip) => *ip,
            Host::Name(name) => {
                let word = spec.text.clone();
                self.address(name).map_err(|reason| NameError::Unknown { place: place(), word, reason })?
            }
        };
        let port = match &spec.port {
            Port::Number(port) => *port,
            Port::Service(name) => self.service(name, Some(protocol), &place())?,
            // The parser gives none of these.
            Port::Listeners => {
                let word = spec.text.clone();
                return Err(NameError::Unknown { place: place(), word, reason: "give a port".to_string() });
            }
        };
        Ok(SocketAddress::Inet(SocketAddr::new(ip, port)))
    }

    /// Where to listen, in the order of the settings.
    ///
    /// # Errors
    ///
    /// A host or a service is unknown, or means what another one does; all of them.
    pub fn places(&self, settings: &Settings) -> Result<Vec<Place>, Vec<NameError>> {
        let mut problems = Vec::new();
        let mut places: Vec<(Place, &Listen)> = Vec::new();
        for listen in &settings.listen {
            let protocol = listen.protocol;
            let address = match self.listen_address(protocol, &listen.spec) {
                Ok(address) => address,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            let place = Place { protocol, address };
            match places.iter().find(|(other, _)| *other == place) {
                Some(&(_, other)) => {
                    problems.push(NameError::Twice {
                        listener: listen.to_string(),
                        word: listen.spec.to_string(),
                        other: other.to_string(),
                        address: place.address,
                    });
                }
                None => places.push((place, listen)),
            }
        }
        match problems.is_empty() {
            true => Ok(places.into_iter().map(|(place, _)| place).collect()),
            false => Err(problems),
        }
    }

    /// The servers of these settings, of a pen that listens there and has its control port there. Those without a port
    /// have the first listener's.
    ///
    /// # Errors
    ///
    /// Everything that is wrong. A host without an address is not: it is in [`ResolvedServers::unresolved`].
    pub fn resolve_servers(
        &self,
        settings: &Settings,
        listeners: &[Place],
        control: Option<&SocketAddress>,
    ) -> Result<ResolvedServers, Vec<NameError>> {
        let services = servers_services(settings);
        let mut problems = Vec::new();
        let mut unresolved = Vec::new();
        let mut define = |target: Target, spec: &ServerSpec| {
            let address = match self.server_address(target, spec, services, listeners, control) {
                Ok(address) => address,
                Err(ServerError::Wrong(problem)) => {
                    problems.push(problem);
                    None
                }
                Err(ServerError::Unresolved(name, reason)) => {
                    if !unresolved.iter().any(|(known, _)| *known == name) {
                        unresolved.push((name, reason));
                    }
                    None
                }
            };
            Definition {
                address,
                soft: spec.soft,
                hard: spec.hard,
                weight: spec.weight,
                prio: spec.prio,
                acl: spec.acl,
                // There is no command that drains the others.
                drain: if matches!(target, Target::Server(_)) { spec.drain } else { Drain::No },
                tls: spec.identity().map_or(0, |identity| identity.fingerprint()),
                proxy: spec.proxy.unwrap_or(settings.proxy_send),
            }
        };
        let servers = (0..).map(ServerId).zip(&settings.servers);
        let servers = servers.map(|(id, spec)| define(Target::Server(id), spec)).collect();
        let emergency = settings.emergency.as_ref().map(|spec| define(Target::Emergency, spec));
        let abuse = settings.abuse.as_ref().map(|spec| define(Target::Abuse, spec));
        match problems.is_empty() {
            true => Ok(ResolvedServers { servers, emergency, abuse, unresolved }),
            false => Err(problems),
        }
    }

    fn server_address(
        &self,
        target: Target,
        spec: &ServerSpec,
        services: Option<Protocol>,
        listeners: &[Place],
        control: Option<&SocketAddress>,
    ) -> Result<Option<SocketAddress>, ServerError> {
        let Some(host) = &spec.host else {
            return Ok(None);
        };
        if let Host::Path(path) = host {
            let address = SocketAddress::Unix(path.clone());
            return match own_place(target, host, &address, listeners, control) {
                Some(wrong) => Err(ServerError::Wrong(wrong)),
                None => Ok(Some(address)),
            };
        }
        let port = match (&spec.port, listeners.first().map(|first| &first.address)) {
            (Port::Number(port), _) => *port,
            (Port::Service(name), _) => {
                self.service(name, services, &format!("server {target}")).map_err(ServerError::Wrong)?
            }
            (Port::Listeners, None) => return Ok(None),
            (Port::Listeners, Some(SocketAddress::Inet(first))) => first.port(),
            (Port::Listeners, Some(SocketAddress::Unix(socket))) => {
                let (host, socket) = (host.clone(), socket.clone());
                return Err(ServerError::Wrong(
                    SettingsProblem::PortNeeded { server: target, host, socket }.into(),
                ));
            }
        };
        if port == 0 {
            return Ok(None);
        }
        let ip = match host {
            Host::Ip(ip) => *ip,
            Host::Name(name) => {
                self.address(name).map_err(|reason| ServerError::Unresolved(name.clone(), reason))?
            }
            Host::Path(_) => return Ok(None),
        };
        let address = SocketAddress::Inet(SocketAddr::new(ip, port));
        // As ever, 0.0.0.0 is what a place in the list has that no server is to have.
        if *host == Host::Ip(Ipv4Addr::UNSPECIFIED.into())
            && listeners.iter().any(|place| leads_to(&address, &place.address))
        {
            return Ok(None);
        }
        match (own_place(target, host, &address, listeners, control), host) {
            (None, _) => Ok(Some(address)),
            (Some(wrong), Host::Name(name)) => Err(ServerError::Unresolved(name.clone(), wrong.to_string())),
            (Some(wrong), Host::Ip(_) | Host::Path(_)) => Err(ServerError::Wrong(wrong)),
        }
    }
}

/// The mistake that a server at this address is, if it is one of pen's own sockets.
fn own_place(
    server: Target,
    host: &Host,
    address: &SocketAddress,
    listeners: &[Place],
    control: Option<&SocketAddress>,
) -> Option<NameError> {
    let word = host.to_string();
    if control.is_some_and(|control| leads_to(address, control)) {
        return Some(NameError::ControlPort { server, word, address: address.clone() });
    }
    // Connections that go round end when there is no room for another; a datagram would go round for ever.
    let mut datagrams = listeners.iter().filter(|place| place.protocol == Protocol::Udp);
    let listener = datagrams.find(|place| leads_to(address, &place.address))?.clone();
    Some(NameError::Circle { server, word, listener })
}

/// Does what is sent to `server` come to the socket bound to `own`? Where that has all addresses only loopback's are
/// known to be this machine's.
fn leads_to(server: &SocketAddress, own: &SocketAddress) -> bool {
    let (server, own) = match (server, own) {
        (SocketAddress::Inet(server), SocketAddress::Inet(own)) => (server, own),
        (SocketAddress::Unix(server), SocketAddress::Unix(own)) => return server == own,
        (SocketAddress::Inet(_), SocketAddress::Unix(_))
        | (SocketAddress::Unix(_), SocketAddress::Inet(_)) => return false,
    };
    let bound = own.ip().to_canonical();
    // The kernel takes a connection to 0.0.0.0 or :: for one to loopback.
    let to = match server.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        to => to,
    };
    // A listener at :: takes IPv4, too.
    let takes_in = bound.is_unspecified() && to.is_loopback() && (bound.is_ipv6() || to.is_ipv4());
    server.port() == own.port() && (to == bound || takes_in)
}

enum ServerError {
    Wrong(NameError),
    Unresolved(String, String),
}

impl NameError {
    /// The word in the settings that is wrong.
    pub fn word(&self) -> String {
        match self {
            NameError::Service { service, .. } => service.clone(),
            NameError::PortNeeded(SettingsProblem::PortNeeded { host, .. }) => host.to_string(),
            NameError::PortNeeded(_) => String::new(),
            NameError::ControlPort { word, .. }
            | NameError::Circle { word, .. }
            | NameError::Twice { word, .. }
            | NameError::Unknown { word, .. } => word.clone(),
        }
    }
}

/// Everything that must be asked to understand these settings.
pub fn questions(settings: &Settings) -> BTreeSet<Question> {
    let mut questions = BTreeSet::new();
    let mut ask = |host: Option<&Host>, port: &Port, services| {
        if let Some(Host::Name(name)) = host {
            questions.insert(Question::Host(name.clone()));
        }
        if let Port::Service(name) = port {
            questions.insert(Question::Service(name.clone(), services));
        }
    };
    for spec in settings.servers.iter().chain(&settings.emergency).chain(&settings.abuse) {
        ask(spec.host.as_ref(), &spec.port, servers_services(settings));
    }
    for Listen { protocol, spec } in &settings.listen {
        ask(Some(&spec.host), &spec.port, Some(*protocol));
    }
    if let Some(LogDestination::Network(name, _)) = &settings.log
        && name.parse::<IpAddr>().is_err()
    {
        questions.insert(Question::Host(name.clone()));
    }
    questions
}

impl ResolvedNames {
    /// The same destination with an address instead of a name, if that is known: opening it asks nobody then.
    pub fn log_destination(&self, destination: &LogDestination) -> LogDestination {
        match destination {
            LogDestination::Network(name, port) => match self.address(name) {
                Ok(address) => LogDestination::Network(address.to_string(), *port),
                Err(_) => destination.clone(),
            },
            LogDestination::File(_) => destination.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tls::{ServerTls, Trust};
    use std::path::PathBuf;

    fn server(host: Option<Host>, port: Port) -> ServerSpec {
        ServerSpec { host, port, soft: 1, hard: 2, weight: 3, prio: 4, ..ServerSpec::unset() }
    }

    fn named(name: &str, port: Port) -> ServerSpec {
        server(Some(Host::Name(name.to_string())), port)
    }

    fn literal(ip: &str, port: Port) -> ServerSpec {
        server(Some(Host::Ip(ip.parse().unwrap())), port)
    }

    fn host(name: &str) -> Question {
        Question::Host(name.to_string())
    }

    fn listeners() -> Vec<Place> {
        vec![listening("0.0.0.0:8001")]
    }

    fn listening(address: &str) -> Place {
        Place { protocol: Protocol::Tcp, address: SocketAddress::Inet(address.parse().unwrap()) }
    }

    fn addresses(servers: &ResolvedServers) -> Vec<String> {
        let text = |server: &Definition| server.address.as_ref().map_or("-".to_string(), ToString::to_string);
        servers.servers.iter().chain(&servers.emergency).chain(&servers.abuse).map(text).collect()
    }

    #[test]
    fn literals_and_numbers_are_never_asked_for() {
        let settings = Settings {
            servers: vec![
                literal("2001:db8::1", Port::Listeners),
                ServerSpec { drain: Drain::New, ..literal("127.0.0.1", Port::Number(80)) },
            ],
            log: Some(LogDestination::Network("127.0.0.1".to_string(), 514)),
            ..Settings::default()
        };
        assert!(questions(&settings).is_empty());
        let servers = ResolvedNames::default().resolve_servers(&settings, &listeners(), None).unwrap();
        assert_eq!(addresses(&servers), ["[2001:db8::1]:8001", "127.0.0.1:80"]);
        assert_eq!((servers.servers[0].soft, servers.servers[0].hard), (1, 2));
        assert_eq!((servers.servers[0].weight, servers.servers[0].prio), (3, 4));
        let drains: Vec<Drain> = servers.servers.iter().map(|server| server.drain).collect();
        assert_eq!(drains, [Drain::No, Drain::New]);
    }

    #[test]
    fn how_a_server_is_spoken_to_depends_on_the_name_that_it_must_have() {
        let tls = Some(ServerTls { trust: Trust::System, name: None });
        let settings = Settings {
            servers: vec![
                literal("127.0.0.1", Port::Number(443)),
                ServerSpec { tls: tls.clone(), ..literal("127.0.0.1", Port::Number(443)) },
                ServerSpec { tls, ..literal("127.0.0.2", Port::Number(443)) },
            ],
            ..Settings::default()
        };
        let servers =
            ResolvedNames::default().resolve_servers(&settings, &listeners(), None).unwrap().servers;
        let fingerprint = |number: usize| settings.servers[number].identity().unwrap().fingerprint();
        let ways: Vec<u64> = servers.iter().map(|server| server.tls).collect();
        assert_eq!(ways, [0, fingerprint(1), fingerprint(2)]);
        assert_ne!(ways[1], ways[2]);
    }

    #[test]
    fn every_name_is_asked_for_once() {
        let settings = Settings {
            servers: vec![named("a", Port::Service("http".to_string())), named("a", Port::Listeners)],
            emergency: Some(named("e", Port::Listeners)),
            abuse: Some(named("b", Port::Listeners)),
            listen: Listen::tcp("l:www"),
            log: Some(LogDestination::Network("g".to_string(), 514)),
            ..Settings::default()
        };
        let expected = ["a", "b", "e", "g", "l"].map(host).into_iter();
        let services = ["http", "www"].map(|name| Question::Service(name.to_string(), Some(Protocol::Tcp)));
        assert_eq!(questions(&settings), expected.chain(services).collect());
    }

    #[test]
    fn a_server_without_address_takes_no_other_out_of_use() {
        let settings = Settings {
            servers: vec![
                named("gone", Port::Number(1)),
                named("here", Port::Number(2)),
                server(None, Port::Number(3)),
            ],
            emergency: Some(named("gone", Port::Number(4))),
            ..Settings::default()
        };
        let mut names = ResolvedNames::default();
        names.learn(host("here"), Answer::Address("192.0.2.1".parse().unwrap()));
        names.learn(host("gone"), Answer::Unknown("no such name".to_string()));
        let servers = names.resolve_servers(&settings, &listeners(), None).unwrap();
        assert_eq!(addresses(&servers), ["-", "192.0.2.1:2", "-", "-"]);
        assert_eq!(servers.unresolved, [("gone".to_string(), "no such name".to_string())]);
        assert!(servers.is_usable());
    }

    #[test]
    fn port_zero_and_unknown_names_are_not_usable() {
        let settings = Settings {
            servers: vec![literal("127.0.0.1", Port::Number(0)), named("x", Port::Number(1))],
            ..Settings::default()
        };
        assert!(
            !ResolvedNames::default().resolve_servers(&settings, &listeners(), None).unwrap().is_usable()
        );
    }

    #[test]
    fn a_known_address_outlives_a_name_server() {
        let mut names = ResolvedNames::default();
        names.learn(host("a"), Answer::Unknown("timeout".to_string()));
        assert!(!names.knows(&host("a")));
        names.learn(host("a"), Answer::Address("192.0.2.1".parse().unwrap()));
        names.learn(host("a"), Answer::Unknown("timeout".to_string()));
        assert_eq!(names.address("a"), Ok("192.0.2.1".parse().unwrap()));
        names.learn(host("a"), Answer::Address("192.0.2.2".parse().unwrap()));
        assert_eq!(names.address("a"), Ok("192.0.2.2".parse().unwrap()));
        names.keep_only(&BTreeSet::new());
        assert!(!names.knows(&host("a")));
    }

    #[test]
    fn all_mistakes_are_named() {
        let settings = Settings {
            listen: crate::model::listen::Listen::tcp("/run/pen"),
            servers: vec![
                literal("127.0.0.1", Port::Service("nonsense".to_string())),
                literal("127.0.0.1", Port::Listeners),
                server(Some(Host::Path(PathBuf::from("/run/x"))), Port::Listeners),
            ],
            ..Settings::default()
        };
        let unix = SocketAddress::Unix(PathBuf::from("/run/pen"));
        let problems: Vec<_> = ResolvedNames::default()
            .resolve_servers(&settings, &[Place { protocol: Protocol::Tcp, address: unix }], None)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(problems.len(), 2);
        assert!(problems[0].starts_with("server 0: there is no TCP service called nonsense"), "{problems:?}");
        let words = "server 1 (127.0.0.1) needs a port of its own";
        assert!(problems[1].starts_with(words), "{problems:?}");
        assert_eq!(problems[1], settings.problems()[0].to_string(), "--check would name it twice");
    }

    #[test]
    fn no_server_is_the_control_port() {
        let mut names = ResolvedNames::default();
        names.learn(host("here"), Answer::Address("127.0.0.1".parse().unwrap()));
        let refusal = |control: &str, spec: ServerSpec| {
            let settings = Settings { emergency: Some(spec), ..Settings::default() };
            let control = SocketAddress::Inet(control.parse().unwrap());
            match names.resolve_servers(&settings, &listeners(), Some(&control)) {
                Err(errors) => Some(errors[0].to_string()),
                Ok(servers) => servers.unresolved.first().map(|(name, reason)| format!("{name}: {reason}")),
            }
        };
        let at = |ip: &str| literal(ip, Port::Number(7001));
        let words = "is the control port, where clients must not be sent";
        for control in ["0.0.0.0:7001", "[::]:7001"] {
            for ip in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::ffff:127.0.0.1"] {
                assert!(refusal(control, at(ip)).unwrap().ends_with(words), "{control} {ip}");
            }
            for ip in ["::1", "::"] {
                assert_eq!(refusal(control, at(ip)).is_some(), control == "[::]:7001", "{control} {ip}");
            }
            assert_eq!(refusal(control, at("192.0.2.1")), None, "it may be another machine");
        }
        assert_eq!(refusal("127.0.0.1:7001", at("127.0.0.2")), None);
        assert_eq!(refusal("127.0.0.1:7001", literal("127.0.0.1", Port::Number(7002))), None);
        assert_eq!(
            refusal("192.0.2.1:7001", at("192.0.2.1")).unwrap(),
            format!("server -1: 192.0.2.1:7001 {words}")
        );
        let named = refusal("127.0.0.1:7001", named("here", Port::Number(7001))).unwrap();
        assert!(named.starts_with("here: ") && named.ends_with(words), "{named}");
    }

    #[test]
    fn a_server_without_a_port_has_the_first_listeners() {
        let settings =
            Settings { servers: vec![literal("192.0.2.1", Port::Listeners)], ..Settings::default() };
        let port = |places: &[Place]| {
            let servers = ResolvedNames::default().resolve_servers(&settings, places, None).unwrap();
            addresses(&servers).remove(0)
        };
        let (one, two) = (listening("127.0.0.1:53"), listening("127.0.0.1:54"));
        assert_eq!(port(&[one.clone(), two.clone()]), "192.0.2.1:53");
        assert_eq!(port(&[two, one]), "192.0.2.1:54");
        assert_eq!(port(&[]), "-");
    }

    #[test]
    fn no_server_is_where_pens_own_datagrams_come_in() {
        let udp = |address: &str| Place { protocol: Protocol::Udp, ..listening(address) };
        let places = [listening("127.0.0.1:80"), udp("0.0.0.0:53"), udp("[::1]:54")];
        let refusal = |spec: ServerSpec| {
            let settings = Settings { servers: vec![spec], ..Settings::default() };
            let servers = ResolvedNames::default().resolve_servers(&settings, &places, None);
            servers.err().map(|errors| errors[0].to_string())
        };
        let at = |ip: &str, port| refusal(literal(ip, Port::Number(port)));
        let words = |listener: &str| Some(format!("server 0: {listener} is where pen itself listens"));
        assert_eq!(at("127.0.0.1", 80), None, "connections end");
        assert_eq!(at("127.0.0.2", 80), None);
        assert_eq!(at("127.0.0.2", 53), words("udp 0.0.0.0:53"));
        assert_eq!(at("192.0.2.1", 53), None, "it may be another machine");
        assert_eq!(at("::1", 54), words("udp [::1]:54"));
        let same = [udp("127.0.0.1:80")];
        let settings =
            Settings { servers: vec![literal("127.0.0.1", Port::Listeners)], ..Settings::default() };
        assert!(ResolvedNames::default().resolve_servers(&settings, &same, None).is_err());
        assert_eq!((at("::1", 53), at("::", 54)), (None, words("udp [::1]:54")), "one is IPv4's alone");
        // Where the classic had no server either.
        let none = Settings { servers: vec![literal("0.0.0.0", Port::Listeners)], ..Settings::default() };
        let servers = ResolvedNames::default().resolve_servers(&none, &places, None).unwrap();
        assert_eq!(addresses(&servers), ["-"]);
        let elsewhere = [listening("192.0.2.1:80")];
        let servers = ResolvedNames::default().resolve_servers(&none, &elsewhere, None).unwrap();
        assert_eq!(addresses(&servers), ["0.0.0.0:80"], "that is this machine's");
    }

    #[test]
    fn no_server_is_the_path_of_the_control_port() {
        let path = SocketAddress::Unix(PathBuf::from("/run/pen"));
        let place = Place { protocol: Protocol::Tcp, address: path.clone() };
        let refusal = |path: &str, listeners: &[Place], control| {
            let spec = server(Some(Host::Path(PathBuf::from(path))), Port::Listeners);
            let settings = Settings { servers: vec![spec], ..Settings::default() };
            let servers = ResolvedNames::default().resolve_servers(&settings, listeners, control);
            servers.err().map(|errors| errors[0].to_string())
        };
        assert_eq!(refusal("/run/pen", std::slice::from_ref(&place), None), None);
        assert_eq!(refusal("/run/another", &[place], None), None);
        let control = refusal("/run/pen", &[], Some(&path)).unwrap();
        assert_eq!(control, "server 0: /run/pen is the control port, where clients must not be sent");
    }

    #[test]
    fn two_names_of_one_address_are_told_apart_by_their_words() {
        let mut names = ResolvedNames::default();
        names.learn(host("here"), Answer::Address("127.0.0.1".parse().unwrap()));
        let listen = |all: &[(Protocol, &str)]| {
            let listen =
                |(protocol, spec): &(_, &str)| Listen { protocol: *protocol, spec: spec.parse().unwrap() };
            let settings = Settings { listen: all.iter().map(listen).collect(), ..Settings::default() };
            names.places(&settings).map_err(|errors| (errors[0].word(), errors[0].to_string()))
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let words = "cannot listen on udp 127.0.0.1:53: it is the same address as udp here:53, 127.0.0.1:53; leave one of \
                     them out";
        let twice = [(udp, "here:53"), (tcp, "127.0.0.1:53"), (udp, "127.0.0.1:53")];
        assert_eq!(listen(&twice), Err(("127.0.0.1:53".to_string(), words.to_string())));
        assert_eq!(listen(&twice[..2]).unwrap().len(), 2, "of two protocols they are two");
    }

    #[test]
    fn a_services_port_is_that_of_the_protocol() {
        let settings = |listen: &[(Protocol, &str)]| Settings {
            listen: listen
                .iter()
                .map(|(protocol, spec)| Listen { protocol: *protocol, spec: spec.parse().unwrap() })
                .collect(),
            servers: vec![literal("192.0.2.1", Port::Service("syslog".to_string()))],
            ..Settings::default()
        };
        let service = |protocol| Question::Service("syslog".to_string(), protocol);
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        for (listen, of) in [(tcp, Some(tcp)), (udp, None)] {
            let settings = settings(&[(listen, "1.2.3.4:syslog")]);
            assert_eq!(questions(&settings), BTreeSet::from([service(Some(listen)), service(of)]));
            let mut names = ResolvedNames::default();
            let errors = names.places(&settings).unwrap_err();
            let word = listen.to_string().to_uppercase();
            let words = format!(
                "cannot listen on 1.2.3.4:syslog: there is no {word} service called syslog; give the port as a number"
            );
            assert_eq!(errors[0].to_string(), words);
            let errors = names.resolve_servers(&settings, &listeners(), None).unwrap_err();
            let word = of.map_or_else(String::new, |_| word + " ");
            assert!(
                errors[0]
                    .to_string()
                    .starts_with(&format!("server 0: there is no {word}service called syslog;"))
            );
            questions(&settings).into_iter().for_each(|question| names.learn(question, Answer::Port(514)));
            assert_eq!(names.places(&settings).unwrap()[0].address.to_string(), "1.2.3.4:514");
            let servers = names.resolve_servers(&settings, &listeners(), None).unwrap();
            assert_eq!(addresses(&servers), ["192.0.2.1:514"]);
        }
        let both = settings(&[(tcp, "80"), (udp, "syslog")]);
        assert_eq!(questions(&both), BTreeSet::from([service(Some(udp)), service(None)]));
    }

    #[test]
    fn listeners_have_names_too() {
        let mut spec = ListenSpec {
            text: "l:www".to_string(),
            host: Host::Name("l".to_string()),
            port: Port::Number(80),
        };
        let mut names = ResolvedNames::default();
        assert!(
            names
                .listen_address(Protocol::Tcp, &spec)
                .unwrap_err()
                .to_string()
                .starts_with("cannot listen on l:www: ")
        );
        names.learn(host("l"), Answer::Address("::1".parse().unwrap()));
        assert_eq!(names.listen_address(Protocol::Tcp, &spec).unwrap().to_string(), "[::1]:80");
        spec.host = Host::Path(PathBuf::from("/run/pen"));
        assert_eq!(names.listen_address(Protocol::Tcp, &spec).unwrap().to_string(), "/run/pen");
        let log = LogDestination::Network("l".to_string(), 514);
        assert_eq!(names.log_destination(&log), LogDestination::Network("::1".to_string(), 514));
    }
}
