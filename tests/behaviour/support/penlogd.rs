//! penlogd: how a story starts it, what it sends to it, and how it gets rid of it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::pen::Ended;
use super::{SOON, Scratch, became_true, processes, udp, wait_until};

/// A penlogd that is still to be started.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    options: Vec<String>,
    port: Option<u16>,
    background: bool,
    launcher: Vec<String>,
    directory: Option<PathBuf>,
    pid_file: Option<(String, String)>,
    output: Option<String>,
}

impl Builder {
    /// As a daemon: [`Builder::start`] returns when the process that was started has.
    pub fn background(mut self) -> Self {
        self.background = true;
        self
    }

    /// A daemon's pid file, if it cannot be in its own directory: as it is told, and as the story finds it.
    pub fn pid_file(mut self, told: &str, found: &str) -> Self {
        self.pid_file = Some((told.to_owned(), found.to_owned()));
        self
    }

    /// Runs it through another program, such as setpriv, that ends by executing it.
    pub fn through(mut self, launcher: &[&str]) -> Self {
        self.launcher.extend(launcher.iter().map(|&word| word.to_owned()));
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Where it is started.
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// What its standard output leads to, if not to the file `stdout` in its own directory.
    pub fn output(mut self, path: &str) -> Self {
        self.output = Some(path.to_owned());
        self
    }

    fn command(&self, port: u16, marker: &str, scratch: &Scratch) -> Command {
        let mut words: Vec<String> = self.launcher.clone();
        words.push(env!("CARGO_BIN_EXE_penlogd").to_owned());
        if !self.background {
            words.push("-f".to_owned());
        }
        let own = scratch.path().to_str().unwrap();
        words.extend(self.options.iter().map(|option| option.replace("SCRATCH", own)));
        words.push(port.to_string());
        let mut command = Command::new(&words[0]);
        let (name, value) = marker.split_once('=').unwrap();
        command.args(&words[1..]).env(name, value).stdin(Stdio::null());
        command.current_dir(self.directory.as_deref().unwrap_or(scratch.path()));
        let stdout = match &self.output {
            Some(path) => File::options().read(true).write(true).open(path),
            None => File::create(scratch.file("stdout")),
        };
        command.stdout(stdout.unwrap()).stderr(File::create(scratch.file("stderr")).unwrap());
        command
    }

    /// Starts it and waits until it takes datagrams.
    #[track_caller]
    pub fn start(self) -> Penlogd {
        loop {
            let port = self.port.unwrap_or_else(free_udp_port);
            match self.start_at(port) {
                Ok(penlogd) => return penlogd,
                // Somebody else was quicker with this port.
                Err(ended) if ended.stderr.contains("in use") && self.port.is_none() => {}
                Err(ended) => panic!("penlogd does not start: {ended:?}\n{self:?}"),
            }
        }
    }

    fn start_at(&self, port: u16) -> Result<Penlogd, Ended> {
        let (scratch, marker) = (Scratch::new(), processes::marker());
        let mut command = self.command(port, &marker, &scratch);
        let mut penlogd = Penlogd { marker, child: None, pid: 0, port, scratch };
        if self.background {
            let ours = penlogd.scratch.file("penlogd.pid");
            let (told, found) = self.pid_file.clone().unwrap_or((ours.clone(), ours));
            let status = command.args(["-p", &told]).status().expect("penlogd can be run");
            if !status.success() {
                return Err(penlogd.ended(status));
            }
            penlogd.pid = fs::read_to_string(found).unwrap().parse().expect("the pid file holds a number");
            return Ok(penlogd);
        }
        let child = command.spawn().expect("penlogd can be run");
        penlogd.pid = child.id() as i32;
        penlogd.child = Some(child);
        let mut status = None;
        wait_until("penlogd listens, or ends", || {
            status = penlogd.child.as_mut().unwrap().try_wait().unwrap();
            status.is_some() || penlogd.is_at_work()
        });
        match status {
            None => Ok(penlogd),
            Some(status) => {
                penlogd.child = None;
                Err(penlogd.ended(status))
            }
        }
    }

    /// Runs a command line that is expected to end by itself. A daemon that it starts all the same is ended here.
    #[track_caller]
    pub fn run(self) -> Ended {
        let (scratch, marker) = (Scratch::new(), processes::marker());
        let port = self.port.unwrap_or_else(free_udp_port);
        let mut child = self.command(port, &marker, &scratch).spawn().expect("penlogd can be run");
        let mut status = None;
        let in_time = became_true(SOON, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        let left = processes::family(&marker);
        processes::kill_all(&left);
        let status = status.unwrap_or_else(|| child.wait().unwrap());
        let ended = Ended { status, stdout: scratch.read("stdout"), stderr: scratch.read("stderr") };
        assert!(in_time.is_some(), "penlogd was expected to end by itself: {self:?} {ended:?}");
        assert!(left.is_empty(), "penlogd left processes: {self:?} {ended:?}");
        ended
    }
}

/// Runs penlogd with these arguments alone, which is expected to end by itself.
#[track_caller]
pub fn penlogd_says(arguments: &[&str]) -> Ended {
    let output =
        Command::new(env!("CARGO_BIN_EXE_penlogd")).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A UDP port that nobody has, on any address.
pub fn free_udp_port() -> u16 {
    loop {
        let port = super::free_port();
        if UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// A penlogd at work. Dropping it ends it, and makes sure that nothing of it is left.
pub struct Penlogd {
    marker: String,
    child: Option<Child>,
    pub pid: i32,
    pub port: u16,
    pub scratch: Scratch,
}

impl Penlogd {
    /// One with these options. `SCRATCH` in them is replaced by its own directory.
    pub fn with(options: &[&str]) -> Builder {
        Builder { options: options.iter().map(|&option| option.to_owned()).collect(), ..Builder::default() }
    }

    fn ended(&self, status: ExitStatus) -> Ended {
        Ended { status, stdout: self.scratch.read("stdout"), stderr: self.stderr() }
    }

    /// It listens, and hears signals: which is the last thing that it prepares.
    fn is_at_work(&self) -> bool {
        let heard = u64::from_str_radix(&processes::status(self.pid, "SigCgt"), 16).unwrap_or(0);
        heard & 1 << (Signal::SIGUSR1 as u32 - 1) != 0 && udp::bound(self.port)
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.scratch.read("stderr")
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.scratch.read("stdout")
    }

    /// Where a sender at `ip` reaches it.
    pub fn address(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, self.port)
    }

    /// Somebody at this address who sends to it: a pen, or the penlog of a web server.
    #[track_caller]
    pub fn sender(&self, source: &str) -> Sender {
        let source: IpAddr = source.parse().unwrap();
        let socket = UdpSocket::bind((source, 0)).unwrap();
        let to: IpAddr = if source.is_ipv4() { [127, 0, 0, 1].into() } else { "::1".parse().unwrap() };
        socket.connect(self.address(to)).unwrap();
        Sender(socket)
    }

    /// One datagram from this address.
    #[track_caller]
    pub fn send(&self, source: &str, bytes: impl AsRef<[u8]>) {
        self.sender(source).send(bytes);
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).expect("penlogd lives");
    }

    /// How much waits in its socket.
    pub fn unread(&self) -> u64 {
        udp::unread(self.port)
    }

    /// Its processes.
    pub fn family(&self) -> BTreeSet<i32> {
        processes::family(&self.marker)
    }

    /// Waits for its end; the exit code, which is known for one in the foreground.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> Option<i32> {
        let mut code = None;
        wait_until("penlogd ends", || {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait().unwrap()
            {
                assert_eq!(
                    status.signal(),
                    None,
                    "penlogd died of a signal: {}",
                    self.scratch.read("stderr")
                );
                code = status.code();
                self.child = None;
            }
            self.child.is_none() && self.family().is_empty()
        });
        code
    }

    /// Sends a signal and waits for the end.
    #[track_caller]
    pub fn end_with(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.wait_for_end()
    }
}

impl Drop for Penlogd {
    fn drop(&mut self) {
        for pid in self.family() {
            for signal in [Signal::SIGTERM, Signal::SIGCONT] {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
        let mut gone = || {
            let ended = self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
            ended && processes::family(&self.marker).is_empty()
        };
        if became_true(SOON, &mut gone).is_some() {
            return;
        }
        processes::kill_all(&processes::family(&self.marker));
        became_true(SOON, gone);
        if !std::thread::panicking() {
            panic!("TERM left the penlogd at port {}", self.port);
        }
    }
}

/// Somebody who sends datagrams to penlogd.
pub struct Sender(pub UdpSocket);

impl Sender {
    #[track_caller]
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        assert_eq!(self.0.send(bytes).expect("penlogd is there"), bytes.len());
    }
}
