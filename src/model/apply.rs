//! What a command does to the settings, and what it answers.
//!
//! The replies of questions are an interface: scripts read them through penctl(1). See pen(1), COMMANDS.

use std::path::PathBuf;

use super::address::ServerSpec;
use super::command::{
    Command, HttpChange, ListenChange, Number, Operation, ServerChange, Switch, TlsChange, TlsFile, TlsList,
    TlsQuestion,
};
use super::http::HttpSettings;
use super::ids::ServerId;
use super::listen::Listen;
use super::settings::{FastClose, Settings};
use super::time::Seconds;
use super::tls::TlsSettings;

/// The highest debug level; more is the same.
pub const MAX_DEBUG: u8 = 3;

/// What came of a command besides the changed settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The text that goes back to whoever asked, with its line end; mostly empty.
    pub reply: String,
    /// What else the caller must do, in this order.
    pub actions: Vec<Action>,
}

/// What settings alone cannot express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Leave this server alone for so long from now on; 0 = it is in use again.
    Shun(ServerId, Seconds),
    /// Read the commands of this file.
    Include(String),
    /// Ask the running pen, or have it do this.
    Operate(Operation),
    /// Read the files of OCSP responses again.
    Restaple,
}

impl From<String> for Outcome {
    fn from(reply: String) -> Self {
        Outcome { reply, ..Outcome::default() }
    }
}

impl Settings {
    /// Carries a command out on this value. The generation stays: whoever hands the new value out counts it up.
    pub fn apply(&mut self, command: Command) -> Outcome {
        match command {
            Command::Switch(switch, on) => *self.switch(switch) = on,
            Command::Number(number, value) => return self.number(number, value).into(),
            Command::AclAdd(list, entry) => self.acls[list.index()].push(entry),
            Command::AclClear(list) => self.acls[list.index()].clear(),
            Command::ClientAcl(list) => {
                self.client_acl = list.unwrap_or(self.client_acl);
                return format!("{}\n", self.client_acl).into();
            }
            Command::ControlAcl(list) => {
                self.control_acl = list.unwrap_or(self.control_acl);
                return format!("{}\n", self.control_acl).into();
            }
            Command::Server(server, changes) => {
                let actions =
                    changes.into_iter().filter_map(|change| self.change_server(server, change)).collect();
                self.server(server);
                return Outcome { actions, ..Outcome::default() };
            }
            Command::ShowListen => return self.listeners().into(),
            Command::Listen(change) => {
                self.change_listeners(change);
                return self.listeners().into();
            }
            Command::ShowLog => return line(self.log.as_ref()).into(),
            Command::Log(destination) => {
                self.log = destination;
                return line(self.log.as_ref()).into();
            }
            Command::ShowLogFormat => return line(Some(self.log_format)).into(),
            Command::LogFormat(format) => {
                self.log_format = format;
                return line(Some(self.log_format)).into();
            }
            Command::ShowWebStats => return line(self.web_stats.as_ref().map(|path| path.display())).into(),
            Command::WebStats(file) => {
                self.web_stats = file;
                return line(self.web_stats.as_ref().map(|path| path.display())).into();
            }
            Command::ShowUdpTimeout => return line(Some(self.udp_timeout)).into(),
            Command::UdpTimeout(timeout) => {
                self.udp_timeout = timeout;
                return line(Some(self.udp_timeout)).into();
            }
            Command::ShowWorkers => return self.workers_line().into(),
            Command::Workers(workers) => {
                self.workers = workers;
                return self.workers_line().into();
            }
            Command::Mode => return self.mode().into(),
            Command::Source(address) => self.source = address,
            Command::FastClose(whose) => self.tcp_fastclose = whose,
            Command::Include(file) => {
                return Outcome { actions: vec![Action::Include(file)], ..Outcome::default() };
            }
            Command::Drain(server, whom) => {
                if let Some(slot) = self.servers.get_mut(server.0 as usize) {
                    slot.drain = whom;
                }
            }
            Command::ShowEmergency => return line(self.emergency.as_ref()).into(),
            Command::Emergency(spec) => {
                self.emergency = spec;
                return line(self.emergency.as_ref()).into();
            }
            Command::ShowAbuse => return line(self.abuse.as_ref()).into(),
            Command::Abuse(spec) => {
                self.abuse = spec;
                return line(self.abuse.as_ref()).into();
            }
            Command::ShowGeoip => return line(self.geoip.as_ref().map(|path| path.display())).into(),
            Command::Geoip(file) => {
                self.geoip = file;
                return line(self.geoip.as_ref().map(|path| path.display())).into();
            }
            Command::Http(change) => self.http.change(change),
            Command::ShowProxyAccept => {
                return self.proxy_accept.map_or_else(|| line(Some("off")), |list| line(Some(list))).into();
            }
            Command::ProxyAccept(list) => self.proxy_accept = list,
            Command::ShowProxySend => return line(Some(self.proxy_send)).into(),
            Command::ProxySend(version) => self.proxy_send = version,
            Command::Tls(change) => {
                // The same file may hold a new response.
                let restaple = matches!(change, TlsChange::File(TlsFile::OcspResponse, Some(_)));
                self.tls.change(change);
                let actions = restaple.then_some(Action::Restaple).into_iter().collect();
                return Outcome { actions, ..Outcome::default() };
            }
            Command::ShowTls(question) => return self.tls.answer(question).into(),
            Command::Operation(operation) => {
                return Outcome { actions: vec![Action::Operate(operation)], ..Outcome::default() };
            }
            Command::Constant(reply) => return reply.to_owned().into(),
            Command::Nothing => {}
        }
        Outcome::default()
    }

    fn switch(&mut self, switch: Switch) -> &mut bool {
        match switch {
            Switch::AbortOnError => &mut self.abort_on_error,
            Switch::Ascii => &mut self.ascii,
            Switch::Dummy => &mut self.dummy,
            Switch::Forgetful => &mut self.forgetful,
            Switch::Hash => &mut self.hash,
            Switch::Keepalive => &mut self.keepalive,
            Switch::Peek => &mut self.peek,
            Switch::Prio => &mut self.prio,
            Switch::Roundrobin => &mut self.roundrobin,
            Switch::Stubborn => &mut self.stubborn,
            Switch::Transparent => &mut self.transparent,
            Switch::Weight => &mut self.weight,
        }
    }

    /// Sets a number, if there is one, and words the answer.
    fn number(&mut self, number: Number, value: Option<u32>) -> String {
        let set = |slot: &mut u32| {
            *slot = value.unwrap_or(*slot);
            *slot
        };
        let now = match number {
            Number::Blacklist => set(&mut self.blacklist.0),
            Number::ClientsMax => set(&mut self.clients_max),
            Number::ConnMax => set(&mut self.conn_max),
            Number::Debug => {
                let level = value.unwrap_or(self.debug.into()).min(MAX_DEBUG.into());
                self.debug = level as u8;
                level
            }
            Number::HttpHeadMax => set(&mut self.http.head_max),
            Number::HttpHeadTimeout => set(&mut self.http.head_timeout.0),
            Number::IdleTimeout => {
                return format!("Idle timeout: {} seconds\n", set(&mut self.idle_timeout.0));
            }
            Number::ListenQueue => set(&mut self.listen_queue),
            Number::MultiAccept => set(&mut self.multi_accept),
            Number::PendingMax => {
                set(&mut self.pending_max);
                return String::new();
            }
            Number::SslHandshakeTimeout => set(&mut self.tls.handshake_timeout.0),
            Number::SslTicketRotation => set(&mut self.tls.ticket_rotation.0),
            Number::Timeout => set(&mut self.timeout.0),
            Number::Tracking => set(&mut self.tracking.0),
        };
        format!("{now}\n")
    }

    fn change_listeners(&mut self, change: ListenChange) {
        match change {
            ListenChange::Only(spec) => self.listen = vec![Listen { protocol: self.protocol(), spec }],
            ListenChange::Add(listen) if self.listens_at(&listen) => {}
            ListenChange::Add(listen) => self.listen.push(listen),
            ListenChange::Remove(listen) => self.listen.retain(|it| !it.is(&listen)),
        }
    }

    /// The address alone where there is nothing more to say, as ever.
    fn listeners(&self) -> String {
        match self.listen.as_slice() {
            [Listen { protocol, spec }] if *protocol == self.protocol() => line(Some(spec)),
            listeners => listeners.iter().map(|listen| line(Some(listen))).collect(),
        }
    }

    /// The slot of that number, made if there is none.
    fn server(&mut self, server: ServerId) -> &mut ServerSpec {
        let index = server.0 as usize;
        if self.servers.len() <= index {
            self.servers.resize_with(index + 1, ServerSpec::unset);
        }
        &mut self.servers[index]
    }

    fn change_server(&mut self, server: ServerId, change: ServerChange) -> Option<Action> {
        let slot = self.server(server);
        match change {
            ServerChange::Acl(list) => slot.acl = list,
            ServerChange::Address(host) => slot.host = Some(host),
            ServerChange::Hard(hard) => slot.hard = hard,
            ServerChange::Max(max) => slot.soft = max,
            ServerChange::Port(port) => slot.port = port,
            ServerChange::Prio(prio) => slot.prio = prio,
            ServerChange::Proxy(proxy) => slot.proxy = proxy,
            ServerChange::Sni(name) if slot.sni.contains(&name) => {}
            ServerChange::Sni(name) => slot.sni.push(name),
            ServerChange::NoSni => slot.sni.clear(),
            ServerChange::Tls(tls) => slot.tls = tls,
            ServerChange::Weight(weight) => slot.weight = weight,
            ServerChange::Blacklist(seconds) => return Some(Action::Shun(server, seconds)),
        }
        None
    }

    fn mode(&self) -> String {
        let modes = [
            ("hash", self.hash),
            ("roundrobin", self.roundrobin),
            ("stubborn", self.stubborn),
            ("weight", self.weight),
            ("prio", self.prio),
        ];
        let words: Vec<_> =
            modes.map(|(word, on)| if on { word.to_owned() } else { format!("no {word}") }).into();
        words.join(" ") + "\n"
    }

    fn workers_line(&self) -> String {
        self.workers.map_or_else(|| "auto\n".to_owned(), |workers| format!("{workers}\n"))
    }
}

impl HttpSettings {
    fn change(&mut self, change: HttpChange) {
        match change {
            HttpChange::On { existing, forwarded } => {
                self.headers = true;
                self.existing = existing.unwrap_or(self.existing);
                self.forwarded |= forwarded;
            }
            HttpChange::NoForwarded => self.forwarded = false,
            HttpChange::Off => self.headers = false,
        }
    }
}

impl TlsSettings {
    fn change(&mut self, change: TlsChange) {
        match change {
            TlsChange::File(file, path) => *self.file(file) = path,
            TlsChange::List(TlsList::Ciphers, list) => self.ciphers = list,
            TlsChange::List(TlsList::Ciphersuites, list) => self.ciphersuites = list,
            TlsChange::List(TlsList::Groups, list) => self.groups = list,
            TlsChange::VerifyClient(whom) => self.verify_client = whom,
            TlsChange::MinVersion(version) => self.min_version = version,
            TlsChange::MaxVersion(version) => self.max_version = version,
            TlsChange::Alpn(protocols) => self.alpn = protocols,
            TlsChange::AddOption(option) => {
                if let Err(place) = self.options.binary_search(&option) {
                    self.options.insert(place, option);
                }
            }
            TlsChange::TakeOption(option) => self.options.retain(|it| *it != option),
            TlsChange::NoOptions => self.options.clear(),
            TlsChange::Passthrough(on) => self.passthrough = on,
        }
    }

    fn file(&mut self, file: TlsFile) -> &mut Option<PathBuf> {
        match file {
            TlsFile::Certificate => &mut self.certificate,
            TlsFile::Key => &mut self.key,
            TlsFile::CaFile => &mut self.ca_file,
            TlsFile::CaPath => &mut self.ca_path,
            TlsFile::SniPath => &mut self.sni_path,
            TlsFile::OcspResponse => &mut self.ocsp_response,
        }
    }

    fn answer(&mut self, question: TlsQuestion) -> String {
        match question {
            TlsQuestion::File(file) => line(self.file(file).as_ref().map(|path| path.display())),
            TlsQuestion::VerifyClient => line(Some(self.verify_client)),
            TlsQuestion::MinVersion => line(Some(self.min_version)),
            TlsQuestion::MaxVersion => line(Some(self.max_version)),
            TlsQuestion::Options => {
                let words: Vec<_> = self.options.iter().map(ToString::to_string).collect();
                line(Some(words.join(" ")).filter(|words| !words.is_empty()))
            }
            TlsQuestion::Passthrough => line(Some(passthrough_word(self.passthrough))),
        }
    }
}

/// The word of `ssl_passthrough`.
pub(super) fn passthrough_word(on: bool) -> &'static str {
    if on { "sni" } else { "off" }
}

/// The value on a line, or no line at all.
fn line(value: Option<impl std::fmt::Display>) -> String {
    value.map(|value| format!("{value}\n")).unwrap_or_default()
}

impl std::fmt::Display for FastClose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FastClose::Off => "off",
            FastClose::Up => "up",
            FastClose::Down => "down",
            FastClose::Both => "both",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::{Drain, Host, Port};
    use super::super::http::Existing;
    use super::super::ids::AclId;
    use super::super::proxy::ProxySend;
    use super::super::settings::{LogDestination, LogFormat};
    use super::super::tls::{ServerTls, Trust};
    use super::*;

    fn run(settings: &mut Settings, line: &str) -> Outcome {
        settings.apply(Command::parse(line).unwrap().unwrap().command)
    }

    fn reply(settings: &mut Settings, line: &str) -> String {
        run(settings, line).reply
    }

    #[test]
    fn questions_are_answered_from_the_settings() {
        let mut settings = Settings::default();
        for (question, answer) in [
            ("blacklist", "30\n"),
            ("client_acl", "0\n"),
            ("clients_max", "2048\n"),
            ("conn_max", "500\n"),
            ("control_acl", "0\n"),
            ("debug", "0\n"),
            ("idle_timeout", "Idle timeout: 0 seconds\n"),
            ("abuse", ""),
            ("emergency", ""),
            ("geoip", ""),
            ("idlers", "Idlers: 0/0\n"),
            ("listen", ""),
            ("listen_queue", "500\n"),
            ("log", ""),
            ("log_format", "classic\n"),
            ("mode", "no hash no roundrobin no stubborn no weight no prio\n"),
            ("multi_accept", "100\n"),
            ("pending_max", ""),
            ("ssl_certificate", ""),
            ("ssl_handshake_timeout", "10\n"),
            ("ssl_max_version", "TLSv1.3\n"),
            ("ssl_min_version", "TLSv1.2\n"),
            ("ssl_ocsp_response", ""),
            ("ssl_option", ""),
            ("ssl_passthrough", "off\n"),
            ("ssl_ticket_rotation", "28800\n"),
            ("ssl_verify_client", "off\n"),
            ("tarpit_acl", "tarpit_acl = -1"),
            ("timeout", "5\n"),
            ("tracking", "0\n"),
            ("udp_timeout", "30\n"),
            ("web_stats", ""),
            ("workers", "auto\n"),
        ] {
            assert_eq!(reply(&mut settings, question), answer, "{question}");
        }
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn numbers_are_set_and_answered_with_the_new_value() {
        let mut settings = Settings::default();
        assert_eq!(reply(&mut settings, "blacklist 7"), "7\n");
        assert_eq!(reply(&mut settings, "timeout 8"), "8\n");
        assert_eq!(reply(&mut settings, "tracking 5"), "5\n");
        assert_eq!(reply(&mut settings, "client_acl 3"), "3\n");
        assert_eq!(reply(&mut settings, "clients_max 9"), "9\n");
        assert_eq!(reply(&mut settings, "conn_max 10"), "10\n");
        assert_eq!(reply(&mut settings, "control_acl 4"), "4\n");
        assert_eq!(reply(&mut settings, "debug 1"), "1\n");
        assert_eq!(reply(&mut settings, "debug 9"), "3\n");
        assert_eq!(reply(&mut settings, "idle_timeout 9"), "Idle timeout: 9 seconds\n");
        assert_eq!(reply(&mut settings, "idle_timeout -4"), "Idle timeout: 0 seconds\n");
        assert_eq!(reply(&mut settings, "listen_queue 7"), "50\n");
        assert_eq!(reply(&mut settings, "multi_accept 0"), "1\n");
        assert_eq!((settings.listen_queue, settings.multi_accept), (50, 1));
        assert_eq!((settings.clients_max, settings.conn_max), (9, 10));
        assert_eq!(reply(&mut settings, "pending_max 12"), "");
        assert_eq!(reply(&mut settings, "workers 2"), "2\n");
        assert_eq!(
            (settings.blacklist, settings.timeout, settings.tracking),
            (Seconds(7), Seconds(8), Seconds(5))
        );
        assert_eq!((settings.client_acl.index(), settings.control_acl.index()), (3, 4));
        assert_eq!((settings.debug, settings.pending_max, settings.workers), (3, 12, Some(2)));
    }

    #[test]
    fn the_mode_shows_what_is_on() {
        let mut settings = Settings::default();
        for line in ["roundrobin", "weight", "hash", "prio", "stubborn"] {
            assert_eq!(reply(&mut settings, line), "");
        }
        assert_eq!(reply(&mut settings, "mode"), "hash roundrobin stubborn weight prio\n");
        run(&mut settings, "no weight");
        assert_eq!(reply(&mut settings, "mode"), "hash roundrobin stubborn no weight prio\n");
    }

    #[test]
    fn each_switch_moves_its_own_setting() {
        for (word, read) in [
            ("abort_on_error", (|s| s.abort_on_error) as fn(&Settings) -> bool),
            ("ascii", |s| s.ascii),
            ("dummy", |s| s.dummy),
            ("forgetful", |s| s.forgetful),
            ("keepalive", |s| s.keepalive),
            ("peek", |s| s.peek),
            ("transparent", |s| s.transparent),
            ("http", |s| s.http.headers),
        ] {
            let mut settings = Settings::default();
            run(&mut settings, word);
            assert!(read(&settings), "{word}");
            run(&mut settings, &format!("no {word}"));
            assert_eq!(settings, Settings::default(), "{word}");
        }
    }

    #[test]
    fn files_and_addresses_are_answered_as_given() {
        let mut settings = Settings::default();
        assert_eq!(reply(&mut settings, "log /a"), "/a\n");
        assert_eq!(reply(&mut settings, "log 127.0.0.1:9900"), "127.0.0.1:9900\n");
        assert_eq!(settings.log, Some(LogDestination::Network("127.0.0.1".into(), 9900)));
        assert_eq!(reply(&mut settings, "log_format json"), "json\n");
        assert_eq!(reply(&mut settings, "log_format"), "json\n");
        assert_eq!(settings.log_format, LogFormat::Json);
        assert_eq!(reply(&mut settings, "log_format classic"), "classic\n");
        assert_eq!(reply(&mut settings, "no log"), "");
        assert_eq!(reply(&mut settings, "log"), "");
        assert_eq!(reply(&mut settings, "web_stats /w"), "/w\n");
        assert_eq!(reply(&mut settings, "no web_stats"), "");
        assert_eq!(reply(&mut settings, "listen 127.0.0.1:8009"), "127.0.0.1:8009\n");
        assert_eq!(reply(&mut settings, "listen"), "127.0.0.1:8009\n");
        assert_eq!(reply(&mut settings, "geoip /geo"), "/geo\n");
        assert_eq!(reply(&mut settings, "geoip"), "/geo\n");
        assert_eq!(reply(&mut settings, "no geoip"), "");
        for word in ["abuse", "emergency"] {
            assert_eq!(reply(&mut settings, &format!("{word} [::1]:80:1:0")), "[::1]:80:1\n");
            assert_eq!(reply(&mut settings, word), "[::1]:80:1\n");
        }
        assert_eq!((&settings.abuse, &settings.emergency), (&"[::1]:80:1".parse().ok(), &settings.abuse));
        assert_eq!(reply(&mut settings, "no abuse"), "");
        assert!(settings.abuse.is_none() && settings.emergency.is_some() && settings.geoip.is_none());
        assert_eq!(reply(&mut settings, "no emergency"), "");
        run(&mut settings, "source ::1");
        run(&mut settings, "tcp_fastclose both");
        assert_eq!(settings.source, Some("::1".parse().unwrap()));
        assert_eq!(settings.tcp_fastclose, FastClose::Both);
        run(&mut settings, "no source");
        assert_eq!((settings.source, settings.emergency), (None, None));
    }

    #[test]
    fn listeners_are_shown_with_their_protocol_unless_it_goes_without_saying() {
        let mut settings = Settings::default();
        assert_eq!(reply(&mut settings, "listen 53"), "53\n");
        assert_eq!(reply(&mut settings, "listen udp 53"), "tcp 53\nudp 53\n");
        assert_eq!(reply(&mut settings, "listen udp 0.0.0.0:53"), "tcp 53\nudp 53\n", "it is the same");
        assert_eq!(reply(&mut settings, "listen tcp 54"), "tcp 53\nudp 53\ntcp 54\n");
        assert_eq!(reply(&mut settings, "no listen tcp 53"), "udp 53\ntcp 54\n");
        assert_eq!(reply(&mut settings, "no listen tcp 54"), "udp 53\n");
        assert_eq!(reply(&mut settings, "no listen udp 0.0.0.0:53"), "");
        let mut settings = Settings { udp: true, ..Settings::default() };
        assert_eq!(reply(&mut settings, "listen 53"), "53\n");
        assert_eq!(settings.listen[0].to_string(), "udp 53");
        run(&mut settings, "listen tcp 53");
        assert_eq!(reply(&mut settings, "listen 54"), "54\n", "all others are gone");
        run(&mut settings, "listen tcp 53");
        assert_eq!(reply(&mut settings, "no listen udp 54"), "tcp 53\n");
    }

    #[test]
    fn the_time_of_flows_is_said_as_a_whole() {
        let mut settings = Settings::default();
        for value in ["7 replies 2", "8", "9 replies 1000"] {
            assert_eq!(reply(&mut settings, &format!("udp_timeout {value}")), format!("{value}\n"));
            assert_eq!(reply(&mut settings, "udp_timeout"), format!("{value}\n"));
        }
        assert_eq!((settings.udp_timeout.idle, settings.udp_timeout.replies), (Seconds(9), Some(1000)));
        run(&mut settings, "udp_timeout 30");
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn lists_grow_in_order_and_are_emptied() {
        let mut settings = Settings::default();
        run(&mut settings, "acl 1 permit 10.0.0.0/8");
        run(&mut settings, "acl 1 deny ::1");
        assert_eq!(settings.acls[1].iter().map(|entry| entry.permit).collect::<Vec<_>>(), [true, false]);
        run(&mut settings, "no acl 1");
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn a_server_far_up_makes_the_slots_below_it() {
        let mut settings = Settings::default();
        let outcome = run(&mut settings, "server 5 address 127.0.0.1 port 9005");
        assert_eq!(outcome, Outcome::default());
        assert_eq!(settings.servers.len(), 6);
        assert_eq!(settings.servers[5], "127.0.0.1:9005".parse().unwrap());
        assert!(settings.servers[..5].iter().all(|server| *server == ServerSpec::unset()));
        run(&mut settings, "server 7");
        assert_eq!(settings.servers.len(), 8);
    }

    #[test]
    fn a_server_keeps_what_the_command_does_not_name() {
        let mut settings = Settings { servers: vec!["a:1:2:3:4:5".parse().unwrap()], ..Settings::default() };
        run(&mut settings, "server 0 port 9003 max 4 acl 6");
        let server = &settings.servers[0];
        assert_eq!(server.to_string(), "a:9003:4:3:4:5");
        assert_eq!(server.acl.index(), 6);
        run(&mut settings, "server 0 address b hard 1 weight 2 prio 3");
        assert_eq!(settings.servers[0].to_string(), "b:9003:4:1:2:3");
    }

    #[test]
    fn a_server_without_a_port_has_the_listeners() {
        let mut settings = Settings::default();
        run(&mut settings, "server 0 address www");
        assert_eq!(settings.servers[0].host, Some(Host::Name("www".into())));
        assert_eq!(settings.servers[0].port, Port::Listeners);
    }

    #[test]
    fn draining_makes_no_servers() {
        let mut settings = Settings { servers: vec!["a:1".parse().unwrap()], ..Settings::default() };
        run(&mut settings, "drain 0");
        assert_eq!(settings.servers[0].drain, Drain::New);
        run(&mut settings, "drain 0 all");
        assert_eq!(settings.servers[0].drain, Drain::All);
        run(&mut settings, "undrain 0");
        run(&mut settings, "drain 1");
        assert_eq!(settings.servers, ["a:1".parse().unwrap()]);
    }

    #[test]
    fn headers_of_http_stay_as_they_were_while_they_are_off() {
        let mut settings = Settings::default();
        assert_eq!(reply(&mut settings, "http replace"), "");
        assert_eq!((settings.http.headers, settings.http.existing), (true, Existing::Replace));
        run(&mut settings, "no http");
        assert!(!settings.http.headers && !settings.http.forwarded);
        run(&mut settings, "http forwarded");
        assert!(settings.http.headers && settings.http.forwarded);
        assert_eq!(settings.http.existing, Existing::Replace);
        run(&mut settings, "http keep");
        assert!(settings.http.forwarded);
        run(&mut settings, "no http forwarded");
        assert_eq!((settings.http.headers, settings.http.existing), (true, Existing::Keep));
        assert!(!settings.http.forwarded);
        run(&mut settings, "no http");
        run(&mut settings, "no http forwarded");
        assert!(!settings.http.headers);
        run(&mut settings, "http append");
        run(&mut settings, "no http");
        assert_eq!(reply(&mut settings, "http_head_max 1024"), "1024\n");
        assert_eq!(reply(&mut settings, "http_head_timeout 3"), "3\n");
        assert_eq!((settings.http.head_max, settings.http.head_timeout), (1024, Seconds(3)));
        for line in ["http_head_max 32768", "http_head_timeout 10"] {
            run(&mut settings, line);
        }
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn the_proxy_protocol_is_answered_in_the_words_that_set_it() {
        let mut settings = Settings { servers: vec!["a:1".parse().unwrap()], ..Settings::default() };
        let before = settings.clone();
        for line in [
            "proxy_accept off",
            "proxy_accept 3",
            "proxy_send 1",
            "proxy_send every",
            "proxy_send 2",
            "proxy_send off",
        ] {
            let (word, value) = line.split_once(' ').unwrap();
            assert_eq!(reply(&mut settings, line), "");
            assert_eq!(reply(&mut settings, word), format!("{value}\n"));
        }
        assert_eq!(settings.proxy_accept, AclId::new(3));
        run(&mut settings, "proxy_send 2");
        for (line, proxy) in [
            ("server 0 proxy 1", Some(ProxySend::V1)),
            ("server 0 max 3", Some(ProxySend::V1)),
            ("server 0 proxy every", Some(ProxySend::V2Every)),
            ("server 0 proxy off", Some(ProxySend::Off)),
            ("server 0 proxy default max 0", None),
        ] {
            run(&mut settings, line);
            assert_eq!((settings.servers[0].proxy, settings.proxy_send), (proxy, ProxySend::V2), "{line}");
        }
        run(&mut settings, "no proxy_accept");
        run(&mut settings, "no proxy_send");
        assert_eq!(settings, before);
    }

    #[test]
    fn tls_with_clients_is_changed_without_a_word_and_answered_when_asked() {
        let mut settings = Settings::default();
        for word in
            ["ssl_certificate", "ssl_key", "ssl_ca_file", "ssl_ca_path", "ssl_sni_path", "ssl_ocsp_response"]
        {
            assert_eq!(reply(&mut settings, &format!("{word} /{word}")), "");
            assert_eq!(reply(&mut settings, word), format!("/{word}\n"));
        }
        for line in ["ssl_verify_client require", "ssl_min_version TLSv1.3", "ssl_passthrough sni"] {
            let (word, value) = line.split_once(' ').unwrap();
            assert_eq!(reply(&mut settings, line), "");
            assert_eq!(reply(&mut settings, word), format!("{value}\n"));
        }
        assert_eq!(reply(&mut settings, "ssl_handshake_timeout 3"), "3\n");
        assert_eq!(reply(&mut settings, "ssl_ticket_rotation 4"), "4\n");
        for line in
            ["ssl_ciphers A", "ssl_ciphersuites B", "ssl_groups C", "ssl_alpn x", "ssl_alpn h2 http/1.1"]
        {
            assert_eq!(reply(&mut settings, line), "");
        }
        let TlsSettings { certificate, ciphers, ciphersuites, groups, alpn, handshake_timeout, .. } =
            &settings.tls;
        assert_eq!(*certificate, Some("/ssl_certificate".into()));
        assert_eq!(
            (ciphers.as_deref(), ciphersuites.as_deref(), groups.as_deref()),
            (Some("A"), Some("B"), Some("C"))
        );
        assert_eq!((alpn, *handshake_timeout), (&vec!["h2".to_owned(), "http/1.1".to_owned()], Seconds(3)));
        for line in [
            "no ssl_certificate",
            "no ssl_key",
            "no ssl_ca_file",
            "no ssl_ca_path",
            "no ssl_sni_path",
            "no ssl_ocsp_response",
            "ssl_verify_client off",
            "ssl_min_version TLSv1.2",
            "no ssl_passthrough",
            "ssl_ciphers",
            "ssl_ciphersuites",
            "no ssl_groups",
            "ssl_alpn",
            "ssl_handshake_timeout 10",
            "ssl_ticket_rotation 28800",
        ] {
            run(&mut settings, line);
        }
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn options_of_tls_add_up() {
        let mut settings = Settings::default();
        for option in ["no_tlsv1.2", "no_tlsv1", "no_tlsv1.2", "no_tlsv1.1"] {
            assert_eq!(reply(&mut settings, &format!("ssl_option {option}")), "");
        }
        assert_eq!(reply(&mut settings, "ssl_option"), "no_tlsv1 no_tlsv1.1 no_tlsv1.2\n");
        run(&mut settings, "no ssl_option no_tlsv1.1");
        run(&mut settings, "no ssl_option no_tlsv1.1");
        assert_eq!(reply(&mut settings, "ssl_option"), "no_tlsv1 no_tlsv1.2\n");
        run(&mut settings, "no ssl_option");
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn names_of_a_server_are_added_once_and_its_tls_is_said_as_a_whole() {
        let mut settings = Settings { servers: vec!["a:1".parse().unwrap()], ..Settings::default() };
        run(&mut settings, "server 0 sni a.test sni *.a.test");
        run(&mut settings, "server 0 sni A.test sni b.test");
        let names =
            |settings: &Settings| settings.servers[0].sni.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&settings), ["a.test", "*.a.test", "b.test"]);
        run(&mut settings, "server 0 sni none sni c.test");
        assert_eq!(names(&settings), ["c.test"]);
        run(&mut settings, "server 0 tls verify /ca sni x.test");
        let tls = |trust, name: Option<&str>| Some(ServerTls { trust, name: name.map(str::to_owned) });
        assert_eq!(settings.servers[0].tls, tls(Trust::File("/ca".into()), Some("x.test")));
        run(&mut settings, "server 0 tls max 2");
        assert_eq!(settings.servers[0].tls, tls(Trust::System, None));
        run(&mut settings, "server 0 max 0 tls off sni none");
        assert_eq!(settings.servers, ["a:1".parse().unwrap()]);
    }

    #[test]
    fn a_response_is_stapled_anew_whenever_its_file_is_named() {
        let mut settings = Settings::default();
        for _ in 0..2 {
            assert_eq!(run(&mut settings, "ssl_ocsp_response /o").actions, [Action::Restaple]);
        }
        for line in ["ssl_ocsp_response", "no ssl_ocsp_response", "ssl_certificate /o"] {
            assert_eq!(run(&mut settings, line).actions, []);
        }
    }

    #[test]
    fn what_settings_cannot_hold_is_left_to_the_caller() {
        let mut settings = Settings::default();
        let outcome = run(&mut settings, "server 1 blacklist 100 max 2 blacklist 0");
        let actions = [Action::Shun(ServerId(1), Seconds(100)), Action::Shun(ServerId(1), Seconds(0))];
        assert_eq!(outcome.actions, actions);
        assert_eq!(settings.servers[1].soft, 2);
        assert_eq!(run(&mut settings, "include x").actions, [Action::Include("x".into())]);
        assert_eq!(run(&mut settings, "pid").actions, [Action::Operate(Operation::Pid)]);
    }
}
