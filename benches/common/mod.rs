//! What the programs that make load for `benches/*.sh` have in common: how they measure a balancer's processes.
#![allow(unreachable_pub, dead_code)] // it is a part of each of them, and not all of them use all of it

use std::fmt::{Display, Write as _};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio, exit};
use std::time::Duration;
use std::{env, fs, iter, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Bytes in a socket's buffer at most while bytes flow without end. Megabytes there would have everybody copy from and to
/// memory that no cache holds, and that would be most of what is measured.
pub const UNDER_WAY: usize = 1 << 17;
/// Bytes in a GiB.
pub const GIB: f64 = (1u64 << 30) as f64;

/// Says so, with the program's name.
pub fn complain(what: impl Display) {
    let program = env::current_exe().unwrap_or_default();
    eprintln!("{}: {what}", program.file_name().unwrap_or_default().display());
}

/// Says why, and ends.
pub fn fail(why: impl Display) -> ! {
    complain(why);
    exit(1)
}

/// Time for a balancer to see the ends of connections that clients have seen already.
pub fn settle() {
    thread::sleep(Duration::from_millis(100));
}

/// What a process and its descendants use from now on.
pub struct Measurement {
    pids: Vec<i32>,
    cpu: u64,
    perf: Option<Perf>,
}

impl Measurement {
    /// `events`: what perf(1) shall count in them as well.
    pub fn begin(pid: Option<i32>, events: Option<&str>) -> Measurement {
        let pids: Vec<i32> = pid.into_iter().flat_map(family).collect();
        let perf = events.filter(|_| !pids.is_empty()).map(|events| Perf::start(events, &pids));
        Measurement { cpu: pids.iter().map(|&pid| cpu(pid)).sum(), pids, perf }
    }

    /// ` cpu=NANOSECONDS`, and ` EVENT=COUNT` for each counted event.
    pub fn end(self) -> String {
        if self.pids.is_empty() {
            return String::new();
        }
        let cpu = self.pids.iter().map(|&pid| cpu(pid)).sum::<u64>() - self.cpu;
        format!(" cpu={cpu}{}", self.perf.map(Perf::stop).unwrap_or_default())
    }
}

struct Perf(Child);

impl Perf {
    /// Counts when this returns.
    fn start(events: &str, pids: &[i32]) -> Perf {
        let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
        let perf = Command::new("perf")
            .args(["stat", "-x,", "--delay=-1", "--control=fd:0,1", "-e", events, "-p", &pids.join(",")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| fail(format_args!("perf: {e}")));
        let mut perf = Perf(perf);
        perf.tell("enable");
        perf
    }

    /// Returns when it is done.
    fn tell(&mut self, command: &str) {
        let mut done = [0; 4];
        let (Some(commands), Some(answers)) = (&mut self.0.stdin, &mut self.0.stdout) else { return };
        if writeln!(commands, "{command}").and_then(|()| answers.read_exact(&mut done)).is_err() {
            fail("perf stat does not count");
        }
    }

    fn stop(mut self) -> String {
        self.tell("disable");
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT).unwrap();
        let output = self.0.wait_with_output().unwrap();
        let mut text = String::new();
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            // value,unit,event,...
            let mut fields = line.split(',');
            if let (Some(value), Some(_), Some(event)) = (fields.next(), fields.next(), fields.next())
                && value.parse::<f64>().is_ok()
            {
                write!(text, " {event}={value}").unwrap();
            }
        }
        text
    }
}

/// A process and its descendants.
fn family(pid: i32) -> Box<dyn Iterator<Item = i32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<i32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    Box::new(iter::once(pid).chain(children.into_iter().flat_map(family)))
}

/// Nanoseconds of CPU that the threads of a process have used.
fn cpu(pid: i32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let used = |path| fs::read_to_string(path).ok()?.split_whitespace().next()?.parse::<u64>().ok();
    threads.filter_map(|thread| used(thread.path().join("schedstat"))).sum()
}

/// Bytes of memory that a process and its descendants occupy; what they share with others counts in part.
pub fn memory(pid: i32) -> u64 {
    family(pid).map(own_memory).sum()
}

fn own_memory(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
