//! What pen may still do once it runs: read back from /proc, for every one of its processes.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use nix::sys::signal::Signal;
use nix::unistd::User;

use crate::support::backend::webs;
use crate::support::{Pen, Scratch, classic, needs_root, only_ours, processes, wait_until};

/// pen(1), -j, -u: root directory, working directory, user, groups, and no way back.
#[test]
fn every_process_is_in_the_jail_and_nobody() {
    needs_root!();
    only_ours!("it keeps root's groups and a working directory outside");
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    for background in [false, true] {
        let (s, jail) = (webs(2), Scratch::new());
        chown(jail.path(), Some(uid), Some(gid)).unwrap();
        let options = ["-r", "-j", jail.path().to_str().unwrap(), "-u", "nobody", "-l", "/log"];
        let mut pen = Pen::with(&options).servers(&s).workers(3).through(&["setpriv", "--groups", "1,2,3"]);
        if background {
            pen = pen.background().pid_file("/pen.pid", &jail.file("pen.pid"));
        }
        let pen = pen.start();
        assert_eq!(pen.visits(3), "S1 S0 S1");
        let family = pen.family();
        assert_eq!(family.len(), 4, "a master and three workers");
        for pid in family {
            processes::assert_confined(pid, &nobody, jail.path());
        }
        wait_until("the log is in the jail", || jail.read("log").lines().count() == 3);
        assert_eq!(fs::metadata(jail.file("log")).unwrap().uid(), uid);
        // Rotation works from inside, too.
        fs::rename(jail.file("log"), jail.file("old")).unwrap();
        pen.signal(Signal::SIGHUP);
        wait_until("the log is opened anew", || jail.names().contains(&"log".to_owned()));
        wait_until("new lines are in the new log", || {
            pen.visit();
            !jail.read("log").is_empty()
        });
    }
}

/// pen(1), -p, -j: the pid file is inside, and removed from there.
#[test]
fn the_pid_file_in_the_jail_is_removed() {
    needs_root!();
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let (s, jail) = (webs(1), Scratch::new());
    chown(jail.path(), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
    let options = ["-j", jail.path().to_str().unwrap(), "-u", "nobody", "-p", "/pen.pid"];
    let mut pen = Pen::with(&options).servers(&s).start();
    wait_until("the pid file is there", || jail.read("pen.pid") == pen.pid.to_string());
    pen.end_with(Signal::SIGTERM);
    assert_eq!(jail.names(), [""; 0]);
}

/// pen(1), -u: without a jail, too.
#[test]
fn a_user_without_a_jail() {
    needs_root!();
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let s = webs(1);
    let pen = Pen::with(&["-u", "nobody"]).servers(&s).workers(2).start();
    assert_eq!(pen.visit(), "S0");
    for pid in pen.family() {
        let ids = processes::status(pid, "Uid");
        assert!(ids.split(' ').all(|id| id == nobody.uid.to_string()), "{ids}");
    }
    if !classic() {
        assert!(pen.family().iter().all(|&pid| processes::status(pid, "NoNewPrivs") == "1"));
    }
}
