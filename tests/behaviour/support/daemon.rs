//! What pen and penlogd have in common: how a story starts one, and how it gets rid of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::ops::DerefMut;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{SOON, Scratch, became_true, processes, wait_until};

/// One that is still to be started. `own` is what only this program has.
#[derive(Debug, Clone)]
pub struct Builder<Own> {
    pub(super) options: Vec<String>,
    background: bool,
    launcher: Vec<String>,
    directory: Option<PathBuf>,
    pid_file: Option<(String, String)>,
    pub(super) own: Own,
}

impl<Own> Builder<Own> {
    /// With these options. `SCRATCH` in them is replaced by its own directory.
    pub(super) fn new(options: &[&str], own: Own) -> Self {
        Builder {
            options: options.iter().map(|&option| option.to_owned()).collect(),
            background: false,
            launcher: Vec::new(),
            directory: None,
            pid_file: None,
            own,
        }
    }

    /// As a daemon: it has started when the process that was started has ended.
    pub fn background(mut self) -> Self {
        self.background = true;
        self
    }

    /// A daemon's pid file, if it cannot be in its own directory: as it is told, and as the story finds it.
    pub fn pid_file(mut self, told: &str, found: &str) -> Self {
        self.pid_file = Some((told.to_owned(), found.to_owned()));
        self
    }

    /// Runs it through another program, such as prlimit, that ends by executing it.
    pub fn through(mut self, launcher: &[&str]) -> Self {
        self.launcher.extend(launcher.iter().map(|&word| word.to_owned()));
        self
    }

    /// Where it is started.
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// The program with these words before its options and these behind them. What it says goes into its own directory.
    pub(super) fn command(
        &self,
        program: &Path,
        first: &[String],
        last: &[String],
        process: &Process,
    ) -> Command {
        let own = process.scratch.path().to_str().unwrap();
        let mut words = self.launcher.clone();
        words.push(program.to_str().unwrap().to_owned());
        words.extend((!self.background).then(|| "-f".to_owned()));
        words.extend_from_slice(first);
        words.extend(self.options.iter().map(|option| option.replace("SCRATCH", own)));
        words.extend_from_slice(last);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        process.adopt(&mut command);
        // Who aborts leaves its core where it was started.
        command.current_dir(self.directory.as_deref().unwrap_or(process.scratch.path()));
        command
    }

    /// Starts this, and waits until it is at work. `promises`: a daemon is, when the process that was started has ended.
    pub(super) fn launch<D: Daemon>(
        &self,
        mut daemon: D,
        mut command: Command,
        promises: bool,
    ) -> Result<D, Ended> {
        if self.background {
            let ours = daemon.scratch.file("daemon.pid");
            let (told, found) = self.pid_file.clone().unwrap_or((ours.clone(), ours));
            let status = command.args(["-p", &told]).status().expect("the program can be run");
            if !status.success() {
                return Err(daemon.ended(status));
            }
            if !promises {
                wait_until("the daemon is at work", || {
                    daemon.pid = read_file(&found).parse().unwrap_or(0);
                    daemon.pid != 0 && daemon.is_at_work()
                });
            }
            daemon.pid = read_file(&found).parse().expect("the pid file holds a number");
            return Ok(daemon);
        }
        let child = command.spawn().expect("the program can be run");
        daemon.pid = child.id() as i32;
        daemon.child = Some(child);
        wait_until("it is at work, or ends", || daemon.has_child_ended() || daemon.is_at_work());
        match daemon.status {
            None => Ok(daemon),
            Some(status) => Err(daemon.ended(status)),
        }
    }
}

/// One that is started with a [`Builder`].
pub(super) trait Daemon: DerefMut<Target = Process> {
    /// It does what it is there for, and no signal that is meant for one at work finds it unprepared.
    fn is_at_work(&self) -> bool;
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

/// A program, with all the processes that it has. Dropping it ends it, and makes sure that nothing of it is left.
pub struct Process {
    /// What it is called when something is wrong with it.
    name: String,
    marker: String,
    child: Option<Child>,
    /// The process that signals are for; 0 as long as there is none.
    pub pid: i32,
    status: Option<ExitStatus>,
    pub scratch: Scratch,
}

impl Process {
    pub(super) fn new(name: String) -> Self {
        let (scratch, marker) = (Scratch::new(), processes::marker());
        Process { name, marker, child: None, pid: 0, status: None, scratch }
    }

    /// This command is to be one of its processes.
    fn adopt(&self, command: &mut Command) {
        let (name, value) = self.marker.split_once('=').unwrap();
        let output = |name| File::create(self.scratch.file(name)).unwrap();
        command.env(name, value).current_dir(self.scratch.path());
        command.stdin(Stdio::null()).stdout(output("stdout")).stderr(output("stderr"));
    }

    fn ended(&self, status: ExitStatus) -> Ended {
        Ended { status, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Runs a command line that is expected to end by itself. A daemon that it starts all the same is ended here. `may_leave`
    /// one: only a command that has failed must not.
    #[track_caller]
    pub(super) fn run(self, mut command: Command, may_leave: bool) -> Ended {
        let mut child = command.spawn().expect("the program can be run");
        let mut status = None;
        let in_time = became_true(SOON, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        let left = self.family();
        processes::kill_all(&left);
        let status = status.unwrap_or_else(|| child.wait().unwrap());
        let ended = self.ended(status);
        assert!(in_time.is_some(), "this was expected to end by itself: {command:?} {ended:?}");
        let may_leave = may_leave && ended.status.success();
        assert!(may_leave || left.is_empty(), "this left processes: {command:?} {ended:?}");
        ended
    }

    /// The same of a program with these arguments alone.
    #[track_caller]
    pub(super) fn run_alone(self, program: &Path, arguments: &[&str], may_leave: bool) -> Ended {
        let mut command = Command::new(program);
        self.adopt(command.args(arguments));
        self.run(command, may_leave)
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.scratch.read("stderr")
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.scratch.read("stdout")
    }

    /// All its processes.
    pub fn family(&self) -> BTreeSet<i32> {
        processes::family(&self.marker)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).expect("it lives");
    }

    /// Has the process ended that was started? Also true if there is none, as there is none of a daemon.
    fn has_child_ended(&mut self) -> bool {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait().unwrap()
        {
            self.status = Some(status);
            self.child = None;
        }
        self.child.is_none()
    }

    /// Waits until it has ended by itself, all of it. The status is known for one in the foreground only.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> Option<ExitStatus> {
        self.wait_for_end_within(SOON)
    }

    #[track_caller]
    pub fn wait_for_end_within(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let ended = became_true(deadline, || self.has_child_ended() && self.family().is_empty());
        assert!(
            ended.is_some(),
            "the {} has not ended within {deadline:?}: left are {:?}",
            self.name,
            self.family()
        );
        self.status
    }

    /// Sends a signal, waits for the end and returns the exit code (of one in the foreground).
    #[track_caller]
    pub fn end_with(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.wait_for_end().and_then(|status| {
            assert_eq!(status.signal(), None, "the {} died of a signal: {}", self.name, self.stderr());
            status.code()
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- stderr of the {}:\n{}---", self.name, self.stderr());
        }
        if processes::alive(self.pid) && self.family().contains(&self.pid) {
            // It may have been stopped.
            for signal in [Signal::SIGTERM, Signal::SIGCONT] {
                let _ = kill(Pid::from_raw(self.pid), signal);
            }
        }
        let mut gone = || self.has_child_ended() && self.family().is_empty();
        if became_true(SOON, &mut gone).is_some() {
            return;
        }
        let left = self.family();
        processes::kill_all(&left);
        became_true(SOON, || self.has_child_ended() && self.family().is_empty());
        if !std::thread::panicking() {
            panic!("TERM left processes of the {}: {left:?}", self.name);
        }
    }
}

/// Reads what is there of a file that another process writes.
pub fn read_file(path: &str) -> String {
    let mut text = Vec::new();
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}
