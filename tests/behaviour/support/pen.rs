//! The program under test: how a story starts it, talks to it and gets rid of it.

use std::fmt::Display;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::{self, Held};
use super::daemon::{self, Daemon, Process};
use super::{classic, free_port, page, processes, udp, wait_until};

pub use super::daemon::Ended;

/// The program: what cargo has built, or `PEN_UNDER_TEST`.
pub fn program() -> PathBuf {
    std::env::var_os("PEN_UNDER_TEST").map_or(env!("CARGO_BIN_EXE_pen").into(), PathBuf::from)
}

/// A pen that is still to be started.
pub type Builder = daemon::Builder<Own>;

/// What only pen is told.
#[derive(Debug, Clone)]
pub struct Own {
    servers: Vec<String>,
    workers: u32,
    listen: Option<String>,
    any_signals: bool,
}

impl Builder {
    /// The servers, as pen's command line gives them (a [`super::Backend`] displays so).
    pub fn servers(mut self, servers: impl IntoIterator<Item = impl Display>) -> Self {
        self.own.servers = servers.into_iter().map(|server| server.to_string()).collect();
        self
    }

    pub fn workers(mut self, workers: u32) -> Self {
        self.own.workers = workers;
        self
    }

    /// Where to listen; `PORT` is replaced by a free port.
    pub fn listen(mut self, spec: impl Display) -> Self {
        self.own.listen = Some(spec.to_string());
        self
    }

    /// With a control port, the Unix socket `ctl` in the pen's own directory.
    pub fn controlled(mut self) -> Self {
        if nix::unistd::geteuid().is_root() && !self.options.iter().any(|option| option == "-u") {
            self.options.extend(["-u".into(), "root".into()]);
        }
        self.options.extend(["-C".into(), "SCRATCH/ctl".into()]);
        self
    }

    /// One option more.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// The classic pen gets its default event engine, which survives signals but does not fail over.
    pub fn with_signals(mut self) -> Self {
        self.own.any_signals = true;
        self
    }

    fn command_at(&self, listen: &str, process: &Process) -> Command {
        let own = &self.own;
        let first = match classic() {
            false => vec!["--workers".into(), own.workers.to_string()],
            true if own.any_signals => Vec::new(),
            true => vec!["-O".into(), "select".into()],
        };
        let last = [&[listen.to_owned()], &own.servers[..]].concat();
        self.command(&program(), &first, &last, process)
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> Pen {
        loop {
            let (listen, port) = self.place();
            match self.start_at(&listen, port) {
                Ok(pen) => return pen,
                // Somebody else was quicker with this port; only worth another try if another port is free to use.
                Err(ended) if ended.stderr.contains("in use") && self.listen_is_ours_to_choose() => {}
                Err(ended) => panic!("pen does not start: {ended:?}\n{self:?}"),
            }
        }
    }

    /// Where to listen, and the port of it.
    fn place(&self) -> (String, u16) {
        let spec = self.own.listen.as_deref().unwrap_or("127.0.0.1:PORT");
        let port = spec.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_else(free_port);
        (spec.replace("PORT", &port.to_string()), port)
    }

    fn listen_is_ours_to_choose(&self) -> bool {
        self.own.listen.as_ref().is_none_or(|spec| spec.contains("PORT"))
    }

    fn start_at(&self, listen: &str, port: u16) -> Result<Pen, Ended> {
        let process = Process::new(format!("pen on {listen}"));
        let command = self.command_at(listen, &process);
        let pen = Pen {
            process,
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            listen: listen.to_owned(),
            workers: if classic() { 0 } else { self.own.workers as usize },
            is_controlled: self.options.iter().any(|option| option == "SCRATCH/ctl"),
            is_udp: self.options.iter().any(|option| option == "-U"),
        };
        // The classic returns before it has even tried.
        self.launch(pen, command, !classic())
    }

    /// Runs a command line that is expected to end by itself. A daemon that it starts all the same is ended here.
    #[track_caller]
    pub fn run(self) -> Ended {
        let (listen, _) = self.place();
        let process = Process::new(format!("pen on {listen}"));
        let command = self.command_at(&listen, &process);
        process.run(command, true)
    }
}

/// Runs pen with these arguments alone, which is expected to end by itself.
#[track_caller]
pub fn pen_says(arguments: &[&str]) -> Ended {
    Process::new("pen".to_owned()).run_alone(&program(), arguments, true)
}

/// A running pen.
pub struct Pen {
    process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    /// What pen was told to listen on.
    pub listen: String,
    workers: usize,
    is_controlled: bool,
    is_udp: bool,
}

impl Deref for Pen {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Pen {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Daemon for Pen {
    /// It listens, all workers are at work, and no signal that is meant for a running pen finds it unprepared.
    fn is_at_work(&self) -> bool {
        if !processes::prepared_for(self.pid, Signal::SIGHUP) || self.workers().len() < self.workers {
            return false;
        }
        // A worker that is stopped or dies before its master knows that it is ready ends the start. It says so when there
        // is nothing more to do, and the master sleeps when it has heard it.
        let asleep = |pid| processes::stat(pid).is_some_and(|stat| stat.state == 'S');
        let settled = classic() || self.workers().into_iter().all(asleep) && asleep(self.pid);
        if !settled {
            return false;
        }
        // Commands are taken when the master knows that all workers are ready.
        if self.is_controlled && self.ask_at_start().is_none() {
            return false;
        }
        match self.listen.contains('/') {
            true => processes::listening_at(&self.listen),
            false if self.is_udp => udp::bound(self.address.port()),
            false => processes::listening(self.address.port()),
        }
    }
}

impl Pen {
    /// A pen with these options. `SCRATCH` in them is replaced by the pen's own directory.
    pub fn with(options: &[&str]) -> Builder {
        let own = Own { servers: Vec::new(), workers: 2, listen: None, any_signals: false };
        Builder::new(options, own)
    }

    /// Its workers: those children of the master that wait for many connections at once. (Another child may look up
    /// names.)
    pub fn workers(&self) -> Vec<i32> {
        let mut pids = processes::children(self.pid);
        pids.retain(|&pid| processes::has_open(pid, "anon_inode:[eventpoll]"));
        pids
    }

    /// Kills all its workers, and waits until as many others have their places.
    #[track_caller]
    pub fn kill_workers(&self) {
        let before = self.workers();
        for &worker in &before {
            kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
        }
        wait_until("the workers are replaced", || {
            let now = self.workers();
            now.len() == before.len() && !now.iter().any(|worker| before.contains(worker))
        });
    }

    /// Connects from 127.0.0.1.
    pub fn connect(&self) -> TcpStream {
        self.connect_from("127.0.0.1")
    }

    #[track_caller]
    pub fn connect_from(&self, source: &str) -> TcpStream {
        let source: IpAddr = source.parse().unwrap();
        client::connect(source, self.address).expect("pen accepts connections")
    }

    /// One request from 127.0.0.1; the answer's body, or `closed`.
    #[track_caller]
    pub fn visit(&self) -> String {
        self.visit_from("127.0.0.1")
    }

    #[track_caller]
    pub fn visit_from(&self, source: &str) -> String {
        client::request(self.connect_from(source), "/")
    }

    /// So many requests from 127.0.0.1, one after the other; the answers joined by spaces.
    #[track_caller]
    pub fn visits(&self, count: usize) -> String {
        (0..count).map(|_| self.visit()).collect::<Vec<_>>().join(" ")
    }

    /// One request from each of 127.0.0.N.
    #[track_caller]
    pub fn visits_from(&self, last_bytes: impl IntoIterator<Item = u8>) -> String {
        let visit = |n| self.visit_from(&format!("127.0.0.{n}"));
        last_bytes.into_iter().map(visit).collect::<Vec<_>>().join(" ")
    }

    /// A connection that stays open, to a greeter.
    #[track_caller]
    pub fn hold(&self) -> Held {
        self.hold_from("127.0.0.1")
    }

    #[track_caller]
    pub fn hold_from(&self, source: &str) -> Held {
        Held::greeted(self.connect_from(source))
    }

    /// So many, one after the other.
    #[track_caller]
    pub fn hold_many(&self, count: usize) -> Vec<Held> {
        (0..count).map(|_| self.hold()).collect()
    }

    /// The worker of each of these connections.
    pub fn owners_of(&self, held: &[Held]) -> Vec<i32> {
        let owners = processes::owners(&self.workers(), self.address.port());
        held.iter().map(|held| owners[&held.port()]).collect()
    }

    /// Has a fresh status page written (pen runs with `-w SCRATCH/status`) and returns it.
    pub fn page(&self) -> String {
        let _ = fs::remove_file(self.scratch.file("status"));
        self.signal(Signal::SIGUSR1);
        wait_until("the status page is written", || !self.scratch.read("status").is_empty());
        self.scratch.read("status")
    }

    /// A column of the page's Workers table.
    pub fn worker_column(&self, column: &str) -> Vec<String> {
        page::column(&self.page(), "worker", column)
    }

    /// Has text statistics written to stderr (pen runs without `-w`) and returns them.
    pub fn statistics(&self) -> String {
        let before = self.stderr().len();
        self.signal(Signal::SIGUSR1);
        wait_until("statistics are written", || self.stderr()[before..].contains("Active connections:"));
        // What follows is the list of connections: it has come when nothing more comes.
        let mut length = 0;
        let mut steady = 0;
        wait_until("the statistics are complete", || {
            let now = self.stderr().len();
            steady = if now == length { steady + 1 } else { 0 };
            length = now;
            steady > 20
        });
        self.stderr()[before..].to_owned()
    }
}
