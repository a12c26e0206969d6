//! Name servers (NSD), and the programs that ask them: dig and dnsperf.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::programs::Running;
use super::tls::{Said, has_program, run};
use super::{Scratch, free_port, wait_until};

/// A running NSD for the zone `pen.test`: `who` is a text with its own name, `large` one of nearly 3,000 bytes. It displays
/// as `127.0.0.1:PORT`, as pen's command line wants it.
pub struct NameServer {
    running: Running,
    port: u16,
}

/// Two of them, `one` and `two`. None, and a message: a program is missing.
pub fn two_name_servers(also: &[&str]) -> Option<[NameServer; 2]> {
    let there = ["nsd", "dig"].iter().chain(also).all(|program| has_program(program));
    there.then(|| ["one", "two"].map(NameServer::start))
}

impl NameServer {
    pub fn start(name: &str) -> Self {
        let port = free_port();
        // One process answers, so that what it has counted is all; and it answers everybody who asks, however often.
        let config = format!(
            "server:\n\
             ip-address: 127.0.0.1@{port}\n\
             server-count: 1\n\
             rrl-ratelimit: 0\n\
             rrl-whitelist-ratelimit: 0\n\
             ipv4-edns-size: 4096\n\
             receive-buffer-size: 1048576\n\
             username: \"\"\n\
             chroot: \"\"\n\
             database: \"\"\n\
             zonesdir: \"SCRATCH\"\n\
             xfrdir: \"SCRATCH\"\n\
             pidfile: \"SCRATCH/pid\"\n\
             xfrdfile: \"SCRATCH/state\"\n\
             zonelistfile: \"SCRATCH/list\"\n\
             logfile: \"SCRATCH/log\"\n\
             remote-control:\n\
             control-enable: no\n\
             zone:\n\
             name: pen.test\n\
             zonefile: zone\n"
        );
        let large: String = (0..40).map(|n| format!("large TXT \"{n:060}\"\n")).collect();
        let zone = format!(
            "$ORIGIN pen.test.\n$TTL 60\n\
             @ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\nwho TXT \"{name}\"\n{large}"
        );
        let running = Running::start(&config, &[port], |files, config| {
            files.write("zone", &zone);
            let mut command = Command::new("nsd");
            command.args(["-d", "-c", config]);
            command
        });
        let server = NameServer { running, port };
        // It has its sockets before it has its zone, and hears no signal until then.
        wait_until("the name server is at work", || server.log().contains("nsd started"));
        server
    }

    fn log(&self) -> String {
        self.running.files.read("log")
    }

    /// Where it is asked directly.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new([127, 0, 0, 1].into(), self.port)
    }

    /// How many questions it has had so far; not none, for then it says nothing.
    #[track_caller]
    pub fn asked(&self) -> usize {
        let reports = || self.log().matches("XSTATS").count();
        let before = reports();
        kill(Pid::from_raw(self.running.pid()), Signal::SIGUSR1).unwrap();
        wait_until("the name server tells", || reports() > before && self.log().ends_with('\n'));
        let log = self.log();
        let (_, count) = log.rsplit_once(" RQ=").expect("it counts questions");
        count.split(' ').next().unwrap().parse().unwrap()
    }

    /// Kills it in the middle of whatever it does.
    pub fn kill(self) {
        self.running.kill();
    }
}

impl Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "127.0.0.1:{}", self.port)
    }
}

/// Asks there with dig, once, as the client of this address, and returns all that dig has to say. dig goes over to TCP by
/// itself when an answer is truncated.
#[track_caller]
pub fn dig(source: &str, to: SocketAddr, question: &[&str]) -> String {
    let mut command = Command::new("dig");
    let (at, port) = (format!("@{}", to.ip()), to.port().to_string());
    command.args(["-r", &at, "-p", &port, "-b", source, "+tries=1", "+time=20"]).args(question);
    let said = run(command, b"");
    assert_eq!(said.code, 0, "{said:?}");
    said.stdout
}

/// The name of the server that answers this client, with these more words for dig.
#[track_caller]
pub fn who(source: &str, to: SocketAddr, words: &[&str]) -> String {
    let answer = dig(source, to, &[&["who.pen.test", "TXT", "+short"], words].concat());
    answer.trim().trim_matches('"').to_owned()
}

/// What dnsperf has counted.
#[derive(Debug)]
pub struct Perf {
    pub sent: usize,
    pub completed: usize,
    pub lost: usize,
}

/// The most questions for which dnsperf waits at any one time.
pub const OUTSTANDING: usize = 100;

/// So many questions of so many client sockets through dnsperf. It gives an answer up after `patience` seconds.
#[track_caller]
pub fn dnsperf(to: SocketAddr, questions: usize, sockets: usize, patience: u32) -> Perf {
    let files = Scratch::new();
    let each = 100;
    let data = files.write("questions", "who.pen.test TXT\n".repeat(each));
    let mut command = Command::new("dnsperf");
    command.args(["-s", &to.ip().to_string(), "-p", &to.port().to_string(), "-d", &data]);
    command.args(["-n", &(questions / each).to_string(), "-c", &sockets.to_string()]);
    command.args(["-q", &OUTSTANDING.to_string(), "-t", &patience.to_string()]);
    let said = run(command, b"");
    assert_eq!(said.code, 0, "{said:?}");
    let perf = Perf {
        sent: counted(&said, "Queries sent:"),
        completed: counted(&said, "Queries completed:"),
        lost: counted(&said, "Queries lost:"),
    };
    assert_eq!(perf.sent, questions, "{said:?}");
    // No answer is anything but the answer.
    let noerror = format!("NOERROR {} (100.00%)", perf.completed);
    assert!(said.stdout.contains(&noerror), "{said:?}");
    perf
}

#[track_caller]
fn counted(said: &Said, what: &str) -> usize {
    let line = said.stdout.lines().find_map(|line| line.trim().strip_prefix(what));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {what} {said:?}"))
}
