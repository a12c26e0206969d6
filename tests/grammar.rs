//! Any line that the control port could be sent: nothing panics, what is refused says why, and whatever is accepted
//! can be written down and read back.
#![allow(clippy::unwrap_used)] // the whole crate is a test

use std::io;
use std::path::Path;

use pen::model::address::{Host, Port};
use pen::model::apply::Action;
use pen::model::command::Command;
use pen::model::config::{self, Reading};
use pen::model::ids::MAX_SERVERS;
use pen::model::listen::{Listen, MAX_LISTENERS, Protocol};
use pen::model::render;
use pen::model::settings::{Launch, Settings};

/// How many lines are tried. An unoptimised build takes its time with each.
const LINES: u32 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };

/// After so many lines the settings start anew: they are as colourful as they get, and only become slower.
const CHAIN: u32 = 300;

/// What a line can begin with: every command there is, and some that there are not.
const COMMANDS: &str = "abort_on_error abuse acl ascii blacklist block check client_acl clients_max close conn_max \
    connection control control_acl debug delayed_forward diff drain dsr_if dummy emergency epoll exit explain \
    forgetful geoip hash http http_head_max http_head_timeout idle_timeout idlers include keepalive kqueue limits \
    listen listen_queue log log_format mode multi_accept no peek pending_max pid poll prio proxy_accept proxy_send recent \
    reload roundrobin select server servers socket source ssl_alpn ssl_ca_file ssl_ca_path ssl_certificate \
    ssl_ciphers ssl_ciphersuites ssl_client_renegotiation_interval ssl_groups ssl_handshake_timeout ssl_key \
    ssl_max_version ssl_min_version ssl_ocsp_response ssl_option ssl_passthrough ssl_sni_path ssl_ticket_rotation \
    ssl_verify_client status stubborn tarpit_acl tcp_fastclose tcp_nodelay timeout tracking transparent \
    udp_timeout undrain web_stats weight workers write nonsense SERVER # \"server\"";

/// What can follow.
const ARGUMENTS: &str = "0 1 2 3 9 10 25 4095 4096 65535 65536 2147483647 2147483648 4294967296 99999999999999999999 \
    -1 -5 x 1x 0x1 +1 ٣ 127.0.0.1 10.1.2.3 255.255.255.0 10.0.0.0/8 10.0.0.0/33 ::1 [::1] [::1]:80 ::1:80 \
    2001:db8::/32 ::ffff:1.2.3.4 127.0.0.1:80 127.0.0.1:80:1:2:3:4 127.0.0.1:80:1:2:3:4:5 www www:http www:http:7 \
    :80 80 http unix /run/x.sock [/run/x:y]:1 /a\\b \"/a b\" \"/a\\\"b\" \"#x\" \"\" \"open /a:b a:b log:9900 permit \
    deny country SE se SEX all acl address blacklist hard max port prio weight sni tls verify none system \
    *.example.com request require TLSv1 TLSv1.2 TLSv1.3 HIGH:!aNULL h2 no_tlsv1 no_tlsv1.2 no_sslv3 append replace \
    keep forwarded proxy default 1024 auto off up down both on # #comment file two circle \
    tcp udp replies every classic json 53 [::]:53";

/// Small, fast and the same everywhere (Steele, Lea and Flood, 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    fn line(&mut self, commands: &[&str], arguments: &[&str]) -> String {
        match self.below(8) {
            0 => self.noise(),
            1 => self.words(arguments, 6),
            2 => {
                let mut line = self.command(commands, arguments);
                let place = line.char_indices().nth(self.below(20)).map_or(0, |(place, _)| place);
                line.insert_str(place, &self.noise());
                line
            }
            3 | 4 => self.entry(arguments),
            _ => self.command(commands, arguments),
        }
    }

    /// Bytes, read as what they are if they are UTF-8 and as the replacement if not.
    fn noise(&mut self) -> String {
        let ascii = self.below(2) == 0;
        let bytes: Vec<u8> = (0..self.below(40))
            .map(|_| self.next() as u8)
            .map(|byte| if ascii { byte & 0x7f } else { byte })
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn words(&mut self, words: &[&str], most: usize) -> String {
        let words: Vec<_> = (0..self.below(most)).map(|_| self.one_of(words)).collect();
        words.join(self.one_of(&[" ", " ", " ", "  ", "\t", "\r"]))
    }

    fn command(&mut self, commands: &[&str], arguments: &[&str]) -> String {
        let no = self.one_of(&["", "", "", "no "]);
        format!("{no}{} {}", self.one_of(commands), self.words(arguments, 4))
    }

    /// What has most ways to be right and wrong.
    fn entry(&mut self, arguments: &[&str]) -> String {
        let number = self.below(12);
        if self.below(4) == 0 {
            return self.listener(arguments);
        }
        if self.below(2) == 0 {
            let action = self.one_of(&["permit", "deny", "permit country"]);
            return format!("acl {number} {action} {}", self.words(arguments, 3));
        }
        let mut line = format!("server {number}");
        for _ in 0..self.below(5) {
            let keys = "acl address blacklist hard max port prio proxy sni tls weight";
            let keys: Vec<_> = keys.split(' ').collect();
            let key = self.one_of(&keys);
            let of_tls = ["", "off", "verify none", "sni a.test verify \"/c a\"", "verify", "sni *.a"];
            let value = if key == "tls" { self.one_of(&of_tls) } else { self.one_of(arguments) };
            line += &format!(" {key} {value}");
        }
        line
    }
}

impl SplitMix {
    /// Few enough that some are there already, and many enough that there are too many.
    fn listener(&mut self, arguments: &[&str]) -> String {
        let no = self.one_of(&["", "", "", "no "]);
        let protocol = self.one_of(&["tcp ", "udp ", ""]);
        match self.below(8) {
            0 => format!("{no}listen {protocol}{}", self.one_of(arguments)),
            1 => format!("udp_timeout {} replies {}", self.below(99), self.one_of(arguments)),
            _ => format!(
                "{no}listen {protocol}{}{}",
                self.one_of(&["0.0.0.0:", "", "[::]:"]),
                1 + self.below(12)
            ),
        }
    }
}

fn files(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("file") => Ok("hash\nserver 3 address a port 1\nnonsense\ninclude two".to_owned()),
        Some("two") => Ok("acl 1 permit ::1\nacl 1 deny ::2\npid\ndrain 3".to_owned()),
        Some("circle") => Ok("include circle".to_owned()),
        _ => Err(io::Error::from_raw_os_error(2)),
    }
}

/// With `-U` or without.
fn start(udp: bool) -> Settings {
    let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
    Settings {
        udp,
        listen: vec![Listen { protocol, spec: "127.0.0.1:8001".parse().unwrap() }],
        servers: vec!["127.0.0.1:9001".parse().unwrap(), "www".parse().unwrap()],
        ..Settings::default()
    }
}

/// What a file can say of settings: all but the generation, -U, and which server had no port of its own.
fn sayable(settings: &Settings) -> Settings {
    let mut settings = Settings { generation: 0, ..settings.clone() };
    let Some(Listen { spec: listen, .. }) = settings.listen.first() else { return settings };
    if listen.path().is_none() {
        for server in &mut settings.servers {
            if matches!(server.host, Some(Host::Ip(_) | Host::Name(_))) && server.port == Port::Listeners {
                server.port = listen.port.clone();
            }
        }
    }
    settings
}

fn changes_nothing(command: &Command) -> bool {
    command.is_question() || matches!(command, Command::Operation(_) | Command::Nothing)
}

/// The settings after the line; none if it was refused.
fn send(base: &Settings, line: &str) -> Option<Settings> {
    let parsed = Command::parse(line);
    let reading = config::read_command(base, "control", line, files);
    let (parsed, reading) = match (parsed, reading) {
        (Err(error), Err(rejected)) => {
            assert_eq!(rejected.faults.len(), 1);
            assert_eq!(rejected.faults[0].what, error.into());
            return None;
        }
        (Err(error), Ok(_)) => panic!("accepted in spite of: {error}"),
        (Ok(_), Err(rejected)) => {
            assert!(!rejected.faults.is_empty());
            return None;
        }
        (Ok(parsed), Ok(reading)) => (parsed, reading),
    };
    let Reading { settings, replies, actions, .. } = reading;
    assert_eq!(settings.generation, base.generation + 1);
    assert!(replies.is_empty() || replies.ends_with('\n') || replies == "tarpit_acl = -1", "{replies:?}");
    let is_left_to_pen = |action: &Action| matches!(action, Action::Shun(..) | Action::Restaple);
    assert!(actions.iter().all(is_left_to_pen), "{actions:?}");
    assert!(settings.servers.len() <= MAX_SERVERS as usize);
    assert!((1..=MAX_LISTENERS).contains(&settings.listen.len()));
    assert_eq!((settings.problems(), settings.udp), (vec![], base.udp));
    assert!(settings.clients_max >= base.clients_max && settings.conn_max >= base.conn_max);
    let same = Settings { generation: base.generation, ..settings.clone() } == *base;
    if parsed.is_none_or(|parsed| changes_nothing(&parsed.command)) {
        assert!(same, "a question changed the settings");
    }
    if !same {
        let text = render::file(&settings, &Launch::default(), "now");
        let started = Settings { udp: settings.udp, ..Settings::default() };
        let back = config::read(&started, "written", &text, files)
            .unwrap_or_else(|rejected| panic!("{rejected:?}\n{text}"));
        assert_eq!(sayable(&back.settings), sayable(&settings), "{text}");
    }
    Some(settings)
}

#[test]
fn whatever_the_control_port_is_sent_the_settings_stay_whole() {
    let mut random = SplitMix(1);
    let commands: Vec<_> = COMMANDS.split_whitespace().collect();
    let arguments: Vec<_> = ARGUMENTS.split_whitespace().collect();
    let (mut settings, mut accepted, mut changes, mut most_listeners) = (start(false), 0, 0, 0);
    for number in 0..LINES {
        let line = random.line(&commands, &arguments);
        let after = std::panic::catch_unwind(|| send(&settings, &line));
        let after = after.unwrap_or_else(|_| panic!("line {number}: {line:?}"));
        accepted += u32::from(after.is_some());
        if let Some(after) = after {
            changes += u32::from(sayable(&after) != sayable(&settings));
            settings = after;
        }
        most_listeners = most_listeners.max(settings.listen.len());
        if number % CHAIN == 0 || settings.servers.len() > 30 {
            settings = start(random.below(2) == 0);
        }
    }
    eprintln!("{LINES} lines: {accepted} accepted, {changes} changed something");
    assert!(
        accepted > LINES / 10 && changes > LINES / 20,
        "{accepted} accepted, {changes} changed something"
    );
    assert!(most_listeners > 8, "{most_listeners}");
}

#[test]
fn commands_cannot_make_more_servers_than_there_can_be() {
    let mut settings = start(false);
    for line in
        ["server 4095", "server 4095 address a port 1", "server 4096 address a", "drain 4095", "drain 4094"]
    {
        if let Some(after) = send(&settings, line) {
            settings = after;
        }
        assert_eq!(settings.servers.len(), MAX_SERVERS as usize, "{line}");
    }
    let huge: String = (0..5000).map(|number| format!("server {number} max 1\n")).collect();
    assert!(config::read(&settings, "control", &huge, files).is_err());
}
