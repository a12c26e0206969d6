//! What a process is born with and cannot choose: signals, descriptors, limits, and files of the wrong kind.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::support::pen::{Pen, pen_says};
use crate::support::{Backend, only_ours, processes, wait_until};

#[test]
fn signals_that_the_parent_ignored_or_blocked_work_all_the_same() {
    only_ours!("the classic has no workers");
    let backend = Backend::web("a");
    let odd = ["env", "--ignore-signal=CHLD,HUP,USR1", "--block-signal=CHLD,TERM,INT,QUIT"];
    // With a control port: a worker that is killed before all have started ends the start.
    let mut pen = Pen::with(&[]).servers([&backend]).controlled().through(&odd).start();
    let victim = pen.workers()[0];
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    wait_until("the worker is replaced", || {
        let workers = pen.workers();
        workers.len() == 2 && !workers.contains(&victim)
    });
    assert_eq!(pen.visit(), "a");
    assert_eq!(pen.end_with(Signal::SIGTERM), Some(0));
}

#[test]
fn a_full_stderr_is_no_reason_not_to_serve() {
    only_ours!("its notices differ");
    let backend = Backend::web("a");
    // -n has a notice, which cannot be written.
    let full = ["sh", "-c", "exec \"$@\" 2>/dev/full", "sh"];
    let mut pen = Pen::with(&["-n"]).servers([&backend]).through(&full).start();
    assert_eq!(pen.visit(), "a");
    assert_eq!(pen.end_with(Signal::SIGTERM), Some(0));
}

#[test]
fn a_daemon_keeps_nothing_open_that_its_starter_had() {
    only_ours!("the classic keeps it");
    let backend = Backend::web("a");
    let script = ["sh", "-c", "exec 9>lock && exec \"$@\"", "sh"];
    let pen = Pen::with(&[]).servers([&backend]).through(&script).background().start();
    let lock = pen.scratch.file("lock");
    assert!(fs::exists(&lock).unwrap());
    for pid in pen.family() {
        assert!(!processes::has_open(pid, &lock), "process {pid} has it open");
    }
}

#[test]
fn a_file_size_limit_kills_nobody() {
    only_ours!("the classic dies of the signal");
    let limited = ["sh", "-c", "ulimit -f 0; exec \"$@\"", "sh"];
    // The answer to the command is the first thing that is written, here to a file.
    let ended = Pen::with(&["-O", "blacklist 3"]).servers(["127.0.0.1:1"]).through(&limited).run();
    assert_eq!((ended.status.signal(), ended.status.code()), (None, Some(1)), "{ended:?}");
}

#[test]
fn a_configuration_file_that_became_a_fifo_does_not_stop_the_master() {
    only_ours!("the classic waits for a writer");
    let backend = Backend::web("a");
    let mut pen = Pen::with(&["-F", "SCRATCH/cfg"]).servers([&backend]).start();
    mkfifo(pen.scratch.file("cfg").as_str(), Mode::S_IRWXU).unwrap();
    pen.signal(Signal::SIGHUP);
    wait_until("it is refused", || pen.stderr().contains("cfg: nothing is changed"));
    assert!(pen.stderr().contains("cfg: it is not a regular file"), "{}", pen.stderr());
    assert_eq!(pen.visit(), "a");
    assert_eq!(pen.end_with(Signal::SIGTERM), Some(0));
}

#[test]
fn a_refused_file_is_named_with_every_line_that_is_wrong_or_skipped() {
    only_ours!("the classic has no line numbers");
    let backend = Backend::web("a");
    let pen = Pen::with(&["-F", "SCRATCH/cfg"]).servers([&backend]).start();
    let file = pen.scratch.write("cfg", "nonsense\nblacklist x\n");
    pen.signal(Signal::SIGHUP);
    wait_until("it is refused", || pen.stderr().contains(&format!("{file}: nothing is changed")));
    for line in [format!("{file}:1: "), format!("{file}:2: blacklist must be a number")] {
        assert!(pen.stderr().contains(&line), "{line} in {}", pen.stderr());
    }
}

#[test]
fn a_check_names_a_missing_port_once() {
    only_ours!("the classic has no --check");
    let ended = pen_says(&["--check", "/tmp/pen-check-no-such.sock", "127.0.0.1"]);
    assert_eq!((ended.code(), ended.stderr.lines().count()), (1, 1), "{}", ended.stderr);
}
