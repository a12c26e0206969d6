//! Pens of either kind: how a scenario starts one, talks to it and gets rid of it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stage::Stage;
use crate::support::client::{self, Ending, Held};
use crate::support::{SOON, became_true, free_port, processes, udp, wait_until};

/// Long enough for a pen that is going to die of what it was told, or to fall silent.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// A pen that is still to be started.
pub struct Builder<'a> {
    stage: &'a Stage,
    options: Vec<String>,
    operands: Vec<String>,
    listen: Option<String>,
    elsewhere: Option<u16>,
    /// Further options, behind the operands.
    behind: Vec<String>,
    workers: u32,
    epoll: bool,
    background: bool,
    control: bool,
    launcher: Vec<String>,
}

/// A pen that has ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// `exit 1`, or `killed by SIGSEGV`.
    pub fn how(&self) -> String {
        how(self.status)
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
            format!("killed by {name}")
        }
        (None, None) => "gone".to_owned(),
    }
}

impl<'a> Builder<'a> {
    pub fn new(stage: &'a Stage, options: &[&str]) -> Self {
        Builder {
            stage,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            operands: Vec::new(),
            listen: None,
            elsewhere: None,
            behind: Vec::new(),
            workers: stage.workers,
            epoll: false,
            background: false,
            control: false,
            launcher: Vec::new(),
        }
    }

    /// The servers, as the command line gives them.
    pub fn servers(mut self, servers: impl IntoIterator<Item = impl Display>) -> Self {
        self.operands.extend(servers.into_iter().map(|server| server.to_string()));
        self
    }

    /// More options, with arguments that are made of something.
    pub fn options(mut self, options: impl IntoIterator<Item = impl Display>) -> Self {
        self.options.extend(options.into_iter().map(|option| option.to_string()));
        self
    }

    /// Options that stand behind everything else.
    pub fn behind(mut self, options: &[&str]) -> Self {
        self.behind.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// A command of `-O`.
    pub fn command(self, command: impl Display) -> Self {
        self.options(["-O".to_owned(), command.to_string()])
    }

    /// Where to listen; `PORT` is replaced by a free port. Empty: no such operand.
    pub fn listen(mut self, spec: impl Display) -> Self {
        self.listen = Some(spec.to_string());
        self
    }

    /// It does not listen where the operand says, but on this port of 127.0.0.1.
    pub fn listen_elsewhere(mut self, port: u16) -> Self {
        self.elsewhere = Some(port);
        self
    }

    /// With a control port, that of `-C`, as root.
    pub fn control(mut self) -> Self {
        self.control = true;
        self
    }

    /// The classic gets the event engine that it takes by default: it survives signals, but does not fail over.
    pub fn epoll(mut self) -> Self {
        self.epoll = true;
        self
    }

    pub fn background(mut self) -> Self {
        self.background = true;
        self
    }

    /// Runs pen through another program, such as prlimit, that ends by executing it.
    pub fn through(mut self, launcher: &[&str]) -> Self {
        self.launcher.extend(launcher.iter().map(|&word| word.to_owned()));
        self
    }

    fn command_line(&self, listen: &str, control: Option<u16>, marker: &str) -> Command {
        let program = &self.stage.program;
        let mut words = self.launcher.clone();
        words.push(program.path.to_str().unwrap().to_owned());
        if !self.background {
            words.push("-f".into());
        }
        if !program.classic {
            words.extend(["--workers".into(), self.workers.to_string()]);
        } else if !self.epoll {
            words.extend(["-O".into(), "select".into()]);
        }
        if let Some(port) = control {
            words.extend(["-C".into(), format!("127.0.0.1:{port}")]);
            if nix::unistd::geteuid().is_root() && !self.options.iter().any(|option| option == "-u") {
                words.extend(["-u".into(), "root".into()]);
            }
        }
        words.extend(self.options.iter().cloned());
        if !listen.is_empty() {
            words.push(listen.to_owned());
        }
        words.extend(self.operands.iter().chain(&self.behind).cloned());
        let mut command = Command::new(&words[0]);
        let (name, value) = marker.split_once('=').unwrap();
        command.args(&words[1..]).env(name, value).stdin(Stdio::null());
        // A pen that aborts leaves its core where it was started.
        command.current_dir(self.stage.scratch.path());
        command
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> Pen<'a> {
        match self.try_start() {
            Ok(pen) => pen,
            Err(ended) => panic!("pen does not start: {}\n{}{}", ended.how(), ended.stdout, ended.stderr),
        }
    }

    /// Starts it and waits until it serves, or has ended.
    pub fn try_start(self) -> Result<Pen<'a>, Ended> {
        let stage = self.stage;
        let spec = self.listen.as_deref().unwrap_or("127.0.0.1:PORT");
        let number = stage.next_pen();
        let name = |what: &str| if number == 1 { what.to_owned() } else { format!("{what}{number}") };
        let written = || spec.rsplit(':').next().and_then(|port| port.parse().ok());
        let given = self.elsewhere.or_else(written);
        let port = given.unwrap_or_else(|| stage.port(&name("L")));
        let listen = spec.replace("PORT", &port.to_string());
        let control = self.control.then(|| stage.port(&name("C")));
        let (stdout, stderr) = (format!("stdout{number}"), format!("stderr{number}"));
        let marker = processes::marker();
        let mut command = self.command_line(&listen, control, &marker);
        command.stdout(File::create(stage.scratch.file(&stdout)).unwrap());
        command.stderr(File::create(stage.scratch.file(&stderr)).unwrap());
        let mut pen = Pen {
            stage,
            marker,
            child: RefCell::default(),
            status: RefCell::default(),
            pid: 0,
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            control: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), control.unwrap_or(0)),
            listen,
            workers: if stage.program.classic { 0 } else { self.workers as usize },
            is_udp: self.options.iter().any(|option| option == "-U"),
            stdout,
            stderr,
        };
        if self.background {
            command.args(["-p", &stage.scratch.file("pen.pid")]);
        }
        let child = command.spawn().expect("pen can be run");
        pen.pid = child.id() as i32;
        *pen.child.borrow_mut() = Some(child);
        if self.background {
            let status = pen.wait_for_parent();
            let pid = || stage.scratch.read("pen.pid").trim().parse::<i32>().ok();
            // The classic returns before it has even tried; when it cannot, nothing of it is left.
            wait_until("the daemon serves, or has ended", || {
                pen.pid = pid().unwrap_or(0);
                (pen.pid != 0 && pen.is_serving()) || pen.family().is_empty()
            });
            return if pen.family().is_empty() { Err(pen.ended(status)) } else { Ok(pen) };
        }
        let mut ended = None;
        wait_until("pen serves, or ends", || {
            ended = pen.poll_end();
            ended.is_some() || pen.is_serving()
        });
        match ended {
            None => Ok(pen),
            Some(status) => Err(pen.ended(status)),
        }
    }

    /// Runs a command line that ends by itself. One that `runs` is ended here, and that is the error.
    pub fn run(self) -> Result<Ended, String> {
        let stage = self.stage;
        let number = stage.next_pen();
        let spec = self.listen.as_deref().unwrap_or("127.0.0.1:PORT");
        let listen = spec.replace("PORT", &free_port().to_string());
        let control = self.control.then(free_port);
        let marker = processes::marker();
        let mut command = self.command_line(&listen, control, &marker);
        run(stage, &mut command, &marker, number)
    }
}

fn run(stage: &Stage, command: &mut Command, marker: &str, number: u32) -> Result<Ended, String> {
    let (stdout, stderr) = (format!("stdout{number}"), format!("stderr{number}"));
    command.stdout(File::create(stage.scratch.file(&stdout)).unwrap());
    command.stderr(File::create(stage.scratch.file(&stderr)).unwrap());
    let mut child = command.spawn().expect("pen can be run");
    let mut status = None;
    became_true(DEADLINE, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    processes::kill_all(&processes::family(marker));
    let Some(status) = status else {
        let _ = child.wait();
        return Err("runs".to_owned());
    };
    Ok(Ended { status, stdout: stage.scratch.read(&stdout), stderr: messages(stage, &stderr) })
}

/// Runs pen with these arguments alone.
pub fn bare(stage: &Stage, arguments: &[&str]) -> Result<Ended, String> {
    let marker = processes::marker();
    let (name, value) = marker.split_once('=').unwrap();
    let mut command = Command::new(&stage.program.path);
    command.args(arguments).env(name, value).stdin(Stdio::null()).current_dir(stage.scratch.path());
    run(stage, &mut command, &marker, stage.next_pen())
}

/// A running pen. Dropping it ends it; of ours nothing may be left then.
pub struct Pen<'a> {
    pub stage: &'a Stage,
    marker: String,
    child: RefCell<Option<Child>>,
    status: RefCell<Option<ExitStatus>>,
    /// The process that signals go to.
    pub pid: i32,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where commands go.
    pub control: SocketAddr,
    /// What it was told to listen on.
    pub listen: String,
    workers: usize,
    is_udp: bool,
    stdout: String,
    stderr: String,
}

impl Pen<'_> {
    fn ended(&self, status: ExitStatus) -> Ended {
        Ended { status, stdout: self.stdout(), stderr: self.stderr() }
    }

    fn wait_for_parent(&self) -> ExitStatus {
        let mut status = None;
        wait_until("the parent returns", || {
            status = self.poll_end();
            status.is_some()
        });
        status.unwrap()
    }

    /// It listens, its workers are at work, and no signal finds it unprepared.
    fn is_serving(&self) -> bool {
        let listening = |address: SocketAddr| address.port() == 0 || processes::listening(address.port());
        let workers = processes::children(self.pid)
            .into_iter()
            .filter(|&pid| processes::has_open(pid, "anon_inode:[eventpoll]"));
        let public = match self.listen.contains('/') {
            true => processes::listening_at(&self.listen),
            false if self.is_udp => udp::bound(self.address.port()),
            false => listening(self.address),
        };
        processes::prepared_for(self.pid, Signal::SIGHUP)
            && public
            && listening(self.control)
            && workers.count() >= self.workers
    }

    /// How it ended, if it has. Of a daemon: how its parent did.
    pub fn poll_end(&self) -> Option<ExitStatus> {
        let mut child = self.child.borrow_mut();
        if let Some(status) = child.as_mut().and_then(|child| child.try_wait().unwrap()) {
            *child = None;
            *self.status.borrow_mut() = Some(status);
        }
        *self.status.borrow()
    }

    /// All its processes.
    pub fn family(&self) -> BTreeSet<i32> {
        processes::family(&self.marker)
    }

    pub fn stdout(&self) -> String {
        self.stage.scratch.read(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        messages(self.stage, &self.stderr)
    }

    pub fn signal(&self, signal: Signal) {
        // Whether it still lives is something that the scenario notes.
        let _ = kill(Pid::from_raw(self.pid), signal);
    }

    /// `runs`, as long as it answers at the control port; else how it ended.
    pub fn fate(&self) -> String {
        if self.ask("pid").trim() == self.pid.to_string() {
            return "runs".to_owned();
        }
        self.end().unwrap_or_else(|| "silent".to_owned())
    }

    /// How it ended; None if it does not, in [`DEADLINE`].
    pub fn end(&self) -> Option<String> {
        let mut status = None;
        became_true(DEADLINE, || {
            status = self.poll_end();
            status.is_some()
        })?;
        status.map(how)
    }

    /// Waits until it waits: no process of it has anything to do.
    pub fn wait_for_rest(&self) {
        let rests = |&pid: &i32| processes::stat(pid).is_none_or(|stat| stat.state == 'S');
        wait_until("pen waits", || self.family().iter().all(rests));
    }

    /// Does it use the processor all the time, although nothing happens? On a busy machine the classic gets little of
    /// it, and may need long to show that it would take more.
    pub fn spins(&self) -> bool {
        let before = processes::cpu_time(&self.family());
        let used = || processes::cpu_time(&self.family()).saturating_sub(before);
        let patience = Duration::from_secs(if self.stage.program.classic { 12 } else { 2 });
        became_true(patience, || {
            std::thread::sleep(Duration::from_millis(100));
            used() > Duration::from_millis(120)
        })
        .is_some()
    }

    /// Sends a signal and waits for all of it to be gone. Tells how it ended (a pen in the foreground).
    pub fn end_with(&self, signal: Signal) -> String {
        self.signal(signal);
        let ended = || self.poll_end().is_some() && !processes::alive(self.pid);
        let gone = became_true(SOON, || ended() && self.family().is_empty());
        match (gone, self.poll_end()) {
            (Some(_), Some(status)) => how(status),
            _ => format!("runs on after {signal}"),
        }
    }

    /// One command to the control port, and what comes back.
    pub fn ask(&self, command: &str) -> String {
        self.ask_from("127.0.0.1", command)
    }

    pub fn ask_from(&self, source: &str, command: &str) -> String {
        let mut stream = match client::connect(source.parse().unwrap(), self.control) {
            Ok(stream) => stream,
            Err(error) => return format!("({})", error.kind()),
        };
        // A port that shuts the door on us may have done so before this is written.
        let _ = stream.write_all(format!("{command}\n").as_bytes());
        answer(&stream)
    }

    /// Notes the answers to these commands, each under the command as label.
    pub fn note_asked<'c>(&self, commands: impl IntoIterator<Item = &'c str>) {
        for command in commands {
            self.stage.note(command, told(&self.ask(command)));
        }
    }

    /// Carries out a command that has no answer.
    pub fn tell(&self, command: impl Display) {
        let answer = self.ask(&command.to_string());
        assert_eq!(answer, "", "the answer to {command}");
    }

    /// Asks until the answer is as it should be, and returns the last one in any case.
    pub fn ask_until(&self, command: &str, right: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        became_true(DEADLINE, || {
            last = self.ask(command);
            right(&last)
        });
        last
    }

    /// Connects to the control port.
    pub fn connect_control(&self) -> io::Result<TcpStream> {
        client::connect(Ipv4Addr::LOCALHOST.into(), self.control)
    }

    pub fn connect(&self) -> TcpStream {
        self.connect_from("127.0.0.1")
    }

    pub fn connect_from(&self, source: &str) -> TcpStream {
        let source: IpAddr = source.parse().unwrap();
        client::connect(source, self.address).expect("pen accepts connections")
    }

    /// One request from 127.0.0.1; the answer's body, `closed`, or `refused`.
    pub fn visit(&self) -> String {
        self.visit_from("127.0.0.1")
    }

    pub fn visit_from(&self, source: &str) -> String {
        visit(source, self.address)
    }

    /// So many requests from 127.0.0.1, one after the other.
    pub fn visits(&self, count: usize) -> String {
        (0..count).map(|_| self.visit()).collect::<Vec<_>>().join(" ")
    }

    /// One request from each of 127.0.0.N.
    pub fn visits_from(&self, last_bytes: impl IntoIterator<Item = u8>) -> String {
        let visit = |n| self.visit_from(&format!("127.0.0.{n}"));
        last_bytes.into_iter().map(visit).collect::<Vec<_>>().join(" ")
    }

    /// A connection that stays open, to a greeter.
    pub fn hold(&self) -> Held {
        self.hold_from("127.0.0.1")
    }

    pub fn hold_from(&self, source: &str) -> Held {
        Held::greeted(self.connect_from(source))
    }

    /// So many, one after the other.
    pub fn hold_many(&self, count: usize) -> Vec<Held> {
        (0..count).map(|_| self.hold()).collect()
    }

    /// One from each of 127.0.0.N, one after the other.
    pub fn hold_from_each(&self, last_bytes: impl IntoIterator<Item = u8>) -> Vec<Held> {
        last_bytes.into_iter().map(|n| self.hold_from(&format!("127.0.0.{n}"))).collect()
    }
}

/// The names of the servers that greeted.
pub fn names(held: &[Held]) -> String {
    held.iter().map(|held| held.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// One request; the answer's body, `closed`, or why there is no connection.
pub fn visit(source: &str, to: SocketAddr) -> String {
    match client::connect(source.parse().unwrap(), to) {
        Ok(stream) => client::request(stream, "/"),
        Err(error) => format!("({})", error.kind()),
    }
}

/// Everything that comes until the end of the stream.
pub fn answer(stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let (bytes, ending) = client::read_all(stream);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if ending == Ending::Open { text + "(and then silence)" } else { text }
}

/// An answer as it is noted: the wording of a failure is for people, that it is one is for scripts.
pub fn told(answer: &str) -> String {
    match answer.strip_prefix("error: ") {
        Some(reason) if reason.ends_with('\n') && reason.lines().count() == 1 => "error: …\n".to_owned(),
        _ => answer.to_owned(),
    }
}

/// How long it took, as far as two pens can be compared: within the bounds, or how long.
pub fn within(took: Duration, from_ms: u64, to_ms: u64) -> String {
    let bounds = Duration::from_millis(from_ms)..=Duration::from_millis(to_ms);
    if bounds.contains(&took) { format!("after {bounds:?}") } else { format!("after {took:?}") }
}

/// What `work` gives, and how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

impl Drop for Pen<'_> {
    fn drop(&mut self) {
        if self.poll_end().is_none() || processes::alive(self.pid) && self.family().contains(&self.pid) {
            self.signal(Signal::SIGTERM);
        }
        let gone = |deadline| {
            let gone =
                || self.poll_end().is_some() && !processes::alive(self.pid) && self.family().is_empty();
            became_true(deadline, gone).is_some()
        };
        let patience = if self.stage.program.classic { Duration::from_secs(1) } else { SOON };
        if gone(patience) {
            self.stage.look_at_end(&self.stderr());
            return;
        }
        let left = self.family();
        processes::kill_all(&left);
        gone(SOON);
        if !self.stage.program.classic {
            self.stage.fault(format!("TERM left processes of the pen on {}: {left:?}", self.listen));
        }
    }
}

/// What a pen has said, without what the library that the classic looks countries up with says where their database is not
/// installed.
fn messages(stage: &Stage, file: &str) -> String {
    let said = stage.scratch.read(file);
    said.split_inclusive('\n')
        .filter(|line| !line.starts_with("Error Opening file /usr/share/GeoIP/"))
        .collect()
}
