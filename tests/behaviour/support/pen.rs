//! The program under test: how a story starts it, talks to it and gets rid of it.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::{self, Held};
use super::{SOON, Scratch, became_true, classic, free_port, page, processes, udp, wait_until};

/// The program: what cargo has built, or `PEN_UNDER_TEST`.
pub fn program() -> PathBuf {
    std::env::var_os("PEN_UNDER_TEST").map_or(env!("CARGO_BIN_EXE_pen").into(), PathBuf::from)
}

/// A pen that is still to be started.
#[derive(Debug, Clone)]
pub struct Builder {
    options: Vec<String>,
    servers: Vec<String>,
    workers: u32,
    listen: Option<String>,
    background: bool,
    launcher: Vec<String>,
    directory: Option<PathBuf>,
    any_signals: bool,
    pid_file: Option<(String, String)>,
}

/// A command line that ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The exit code; -1 for a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

impl Builder {
    /// The servers, as pen's command line gives them (a [`super::Backend`] displays so).
    pub fn servers(mut self, servers: impl IntoIterator<Item = impl Display>) -> Self {
        self.servers = servers.into_iter().map(|server| server.to_string()).collect();
        self
    }

    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    /// Where to listen; `PORT` is replaced by a free port.
    pub fn listen(mut self, spec: impl Display) -> Self {
        self.listen = Some(spec.to_string());
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

    /// As a daemon: [`Builder::start`] returns when the foreground parent has.
    pub fn background(mut self) -> Self {
        self.background = true;
        self
    }

    /// A daemon's pid file, if it cannot be in the pen's own directory: as pen is told, and as the story finds it.
    pub fn pid_file(mut self, told: &str, found: &str) -> Self {
        self.pid_file = Some((told.to_owned(), found.to_owned()));
        self
    }

    /// Runs pen through another program, such as prlimit, that ends by executing it.
    pub fn through(mut self, launcher: &[&str]) -> Self {
        self.launcher.extend(launcher.iter().map(|&word| word.to_owned()));
        self
    }

    /// Where pen is started.
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// One option more.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// The classic pen gets its default event engine, which survives signals but does not fail over.
    pub fn with_signals(mut self) -> Self {
        self.any_signals = true;
        self
    }

    fn command(&self, listen: &str, marker: &str, scratch: &Scratch) -> Command {
        let mut words: Vec<String> = self.launcher.clone();
        words.push(program().into_os_string().into_string().unwrap());
        if !self.background {
            words.push("-f".into());
        }
        if !classic() {
            words.extend(["--workers".into(), self.workers.to_string()]);
        } else if !self.any_signals {
            words.extend(["-O".into(), "select".into()]);
        }
        words.extend(
            self.options.iter().map(|option| option.replace("SCRATCH", scratch.path().to_str().unwrap())),
        );
        words.push(listen.to_owned());
        words.extend(self.servers.iter().cloned());
        let mut command = Command::new(&words[0]);
        let (name, value) = marker.split_once('=').unwrap();
        command.args(&words[1..]).env(name, value).stdin(Stdio::null());
        // A pen that aborts leaves its core where it was started.
        command.current_dir(self.directory.as_deref().unwrap_or(scratch.path()));
        command
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
        let spec = self.listen.as_deref().unwrap_or("127.0.0.1:PORT");
        let port = spec.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_else(free_port);
        (spec.replace("PORT", &port.to_string()), port)
    }

    fn listen_is_ours_to_choose(&self) -> bool {
        self.listen.as_ref().is_none_or(|spec| spec.contains("PORT"))
    }

    fn start_at(&self, listen: &str, port: u16) -> Result<Pen, Ended> {
        let scratch = Scratch::new();
        let marker = processes::marker();
        let mut command = self.command(listen, &marker, &scratch);
        command.stdout(File::create(scratch.file("stdout")).unwrap());
        command.stderr(File::create(scratch.file("stderr")).unwrap());
        let mut pen = Pen {
            marker,
            child: None,
            master: 0,
            status: None,
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            listen: listen.to_owned(),
            workers: if classic() { 0 } else { self.workers as usize },
            is_controlled: self.options.iter().any(|option| option == "SCRATCH/ctl"),
            is_udp: self.options.iter().any(|option| option == "-U"),
            scratch,
        };
        if self.background {
            let ours = pen.scratch.file("pen.pid");
            let (told, found) = self.pid_file.clone().unwrap_or((ours.clone(), ours));
            let status = command.args(["-p", &told]).status().expect("pen can be run");
            if !status.success() {
                return Err(pen.ended(status));
            }
            if classic() {
                // It returns before it has even tried.
                wait_until("the daemon serves", || {
                    pen.master = read_file(&found).parse().unwrap_or(0);
                    pen.master != 0 && pen.serving()
                });
            }
            pen.master = read_file(&found).parse().expect("the pid file holds a number");
            return Ok(pen);
        }
        let child = command.spawn().expect("pen can be run");
        pen.master = child.id() as i32;
        pen.child = Some(child);
        let mut status = None;
        wait_until("pen serves, or ends", || {
            status = pen.child.as_mut().unwrap().try_wait().unwrap();
            status.is_some() || pen.serving()
        });
        match status {
            None => Ok(pen),
            Some(status) => {
                pen.child = None;
                Err(pen.ended(status))
            }
        }
    }

    /// Runs a command line that is expected to end by itself. A daemon that it starts all the same is ended here.
    pub fn run(self) -> Ended {
        let (listen, _) = self.place();
        let (scratch, marker) = (Scratch::new(), processes::marker());
        run(self.command(&listen, &marker, &scratch), &marker, &scratch)
    }
}

/// Runs pen with these arguments alone, which is expected to end by itself.
pub fn pen_says(arguments: &[&str]) -> Ended {
    let (scratch, marker) = (Scratch::new(), processes::marker());
    let (name, value) = marker.split_once('=').unwrap();
    let mut command = Command::new(program());
    command.args(arguments).env(name, value).stdin(Stdio::null()).current_dir(scratch.path());
    run(command, &marker, &scratch)
}

fn run(mut command: Command, marker: &str, scratch: &Scratch) -> Ended {
    command.stdout(File::create(scratch.file("stdout")).unwrap());
    command.stderr(File::create(scratch.file("stderr")).unwrap());
    let mut child = command.spawn().expect("pen can be run");
    let mut status = None;
    let in_time = became_true(SOON, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    let left = processes::family(marker);
    processes::kill_all(&left);
    let status = status.unwrap_or_else(|| child.wait().unwrap());
    let ended = Ended { status, stdout: scratch.read("stdout"), stderr: scratch.read("stderr") };
    assert!(in_time.is_some(), "pen was expected to end by itself: {command:?} {ended:?}");
    if !ended.status.success() {
        assert!(left.is_empty(), "pen failed, but left processes: {command:?} {ended:?}");
    }
    ended
}

/// A running pen. Dropping it ends it, and makes sure that nothing of it is left.
pub struct Pen {
    marker: String,
    child: Option<Child>,
    pub master: i32,
    status: Option<ExitStatus>,
    /// Where clients connect.
    pub address: SocketAddr,
    /// What pen was told to listen on.
    pub listen: String,
    workers: usize,
    is_controlled: bool,
    is_udp: bool,
    pub scratch: Scratch,
}

impl Pen {
    /// A pen with these options. `SCRATCH` in them is replaced by the pen's own directory.
    pub fn with(options: &[&str]) -> Builder {
        Builder {
            options: options.iter().map(|&option| option.to_owned()).collect(),
            servers: Vec::new(),
            workers: 2,
            listen: None,
            background: false,
            launcher: Vec::new(),
            directory: None,
            any_signals: false,
            pid_file: None,
        }
    }

    fn ended(&self, status: ExitStatus) -> Ended {
        Ended { status, stdout: self.scratch.read("stdout"), stderr: self.stderr() }
    }

    /// It listens, all workers are at work, and no signal that is meant for a running pen finds it unprepared.
    fn serving(&self) -> bool {
        if !processes::prepared_for(self.master, Signal::SIGHUP) || self.workers().len() < self.workers {
            return false;
        }
        // A worker that is stopped or dies before its master knows that it is ready ends the start. It says so when there
        // is nothing more to do, and the master sleeps when it has heard it.
        let asleep = |pid| processes::stat(pid).is_some_and(|stat| stat.state == 'S');
        if !classic() && !(self.workers().into_iter().all(asleep) && asleep(self.master)) {
            return false;
        }
        // Commands are taken when the master knows that all workers are ready.
        if self.is_controlled && self.ask_at_start().is_none() {
            return false;
        }
        match self.listen.contains('/') {
            true => fs::read_to_string("/proc/net/unix").unwrap().contains(&self.listen),
            false if self.is_udp => udp::bound(self.address.port()),
            false => processes::listening(self.address.port()),
        }
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.scratch.read("stderr")
    }

    /// Its workers: those children of the master that wait for many connections at once. (Another child may look up
    /// names.)
    pub fn workers(&self) -> Vec<i32> {
        let mut pids = processes::children(self.master);
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

    /// All its processes.
    pub fn family(&self) -> BTreeSet<i32> {
        processes::family(&self.marker)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.master), signal).expect("the master lives");
    }

    /// Waits until it has ended by itself, all of it. The status is known for a pen in the foreground only.
    pub fn wait_for_end(&mut self) -> Option<ExitStatus> {
        self.wait_for_end_within(SOON)
    }

    pub fn wait_for_end_within(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let ended = became_true(deadline, || {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait().unwrap()
            {
                self.status = Some(status);
                self.child = None;
            }
            self.child.is_none() && self.family().is_empty()
        });
        assert!(ended.is_some(), "pen has not ended within {deadline:?}: left are {:?}", self.family());
        self.status
    }

    /// Sends a signal, waits for the end and returns the exit code (of a foreground pen).
    pub fn end_with(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.wait_for_end().and_then(|status| {
            assert_eq!(status.signal(), None, "pen died of a signal: {}", self.stderr());
            status.code()
        })
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

/// Reads what is there of a file that another process writes.
pub fn read_file(path: &str) -> String {
    let mut text = Vec::new();
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

impl Drop for Pen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- stderr of the pen on {}:\n{}---", self.listen, self.stderr());
        }
        let family = self.family();
        if processes::alive(self.master) && family.contains(&self.master) {
            let _ = kill(Pid::from_raw(self.master), Signal::SIGTERM);
        }
        let mut gone = |deadline| {
            became_true(deadline, || {
                if let Some(child) = &mut self.child
                    && child.try_wait().is_ok_and(|status| status.is_some())
                {
                    self.child = None;
                }
                self.child.is_none() && processes::family(&self.marker).is_empty()
            })
            .is_some()
        };
        if gone(SOON) {
            return;
        }
        let left = processes::family(&self.marker);
        processes::kill_all(&left);
        gone(SOON);
        if !std::thread::panicking() {
            panic!("TERM left processes of the pen on {}: {left:?}", self.listen);
        }
    }
}
