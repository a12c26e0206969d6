//! penlogd: how a story starts it, what it sends to it, and how it gets rid of it.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use super::daemon::{self, Daemon, Ended, Process};
use super::{processes, udp};

const PROGRAM: &str = env!("CARGO_BIN_EXE_penlogd");

/// A penlogd that is still to be started.
pub type Builder = daemon::Builder<Own>;

/// What only penlogd is told.
#[derive(Debug, Clone, Default)]
pub struct Own {
    port: Option<u16>,
    output: Option<String>,
}

impl Builder {
    pub fn port(mut self, port: u16) -> Self {
        self.own.port = Some(port);
        self
    }

    /// What its standard output leads to, if not to the file `stdout` in its own directory.
    pub fn output(mut self, path: &str) -> Self {
        self.own.output = Some(path.to_owned());
        self
    }

    fn command_at(&self, port: u16, process: &Process) -> Command {
        let mut command = self.command(Path::new(PROGRAM), &[], &[port.to_string()], process);
        if let Some(path) = &self.own.output {
            command.stdout(File::options().read(true).write(true).open(path).unwrap());
        }
        command
    }

    /// Starts it and waits until it takes datagrams.
    #[track_caller]
    pub fn start(self) -> Penlogd {
        loop {
            let port = self.own.port.unwrap_or_else(free_udp_port);
            match self.start_at(port) {
                Ok(penlogd) => return penlogd,
                // Somebody else was quicker with this port.
                Err(ended) if ended.stderr.contains("in use") && self.own.port.is_none() => {}
                Err(ended) => panic!("penlogd does not start: {ended:?}\n{self:?}"),
            }
        }
    }

    fn start_at(&self, port: u16) -> Result<Penlogd, Ended> {
        let process = Process::new(format!("penlogd at port {port}"));
        let command = self.command_at(port, &process);
        self.launch(Penlogd { process, port }, command, true)
    }

    /// Runs a command line that is expected to end by itself. A daemon that it starts all the same is ended here.
    #[track_caller]
    pub fn run(self) -> Ended {
        let port = self.own.port.unwrap_or_else(free_udp_port);
        let process = Process::new(format!("penlogd at port {port}"));
        let command = self.command_at(port, &process);
        process.run(command, false)
    }
}

/// Runs penlogd with these arguments alone, which is expected to end by itself.
#[track_caller]
pub fn penlogd_says(arguments: &[&str]) -> Ended {
    Process::new("penlogd".to_owned()).run_alone(Path::new(PROGRAM), arguments, false)
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

/// A penlogd at work.
pub struct Penlogd {
    process: Process,
    pub port: u16,
}

impl Deref for Penlogd {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Penlogd {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Daemon for Penlogd {
    /// It listens, and hears signals: which is the last thing that it prepares.
    fn is_at_work(&self) -> bool {
        processes::catches(self.pid, Signal::SIGUSR1) && udp::bound(self.port)
    }
}

impl Penlogd {
    /// One with these options. `SCRATCH` in them is replaced by its own directory.
    pub fn with(options: &[&str]) -> Builder {
        Builder::new(options, Own::default())
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

    /// How much waits in its socket.
    pub fn unread(&self) -> u64 {
        udp::unread(self.port)
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
