//! Reload: HUP and the command of that name read the configuration file again, all or nothing.

use std::net::Ipv4Addr;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::backend::{greeters, webs};
use crate::support::{Backend, Held, Pen, Scratch, became_true, only_ours, processes, wait_until};

fn servers(list: &[&Backend]) -> String {
    let line = |(number, server): (usize, &&Backend)| {
        format!("server {number} address 127.0.0.1 port {}\n", server.port())
    };
    list.iter().enumerate().map(line).collect()
}

/// pen(1), reload: `ok`, and what the file says is in effect everywhere.
#[test]
fn reload_answers_when_the_file_is_in_effect() {
    only_ours!("it cannot");
    let s = webs(2);
    let directory = Scratch::new();
    let file = directory.write("cfg", servers(&[&s[0]]));
    let pen = Pen::with(&["-r", "-F", &file]).workers(4).controlled().start();
    for round in 0..10 {
        directory.write("cfg", servers(&[&s[(round + 1) % 2]]));
        assert_eq!(pen.ask("reload"), "ok\n");
        let name = format!("S{}", (round + 1) % 2);
        assert_eq!(pen.visits(6), vec![name; 6].join(" "));
    }
}

/// pen(1), reload: with any mistake nothing changes; the messages name file, line and word, and so does the answer.
#[test]
fn a_faulty_file_changes_nothing_and_says_where() {
    only_ours!("it takes what it understands");
    let s = webs(2);
    let directory = Scratch::new();
    let good = servers(&[&s[0]]);
    let file = directory.write("cfg", &good);
    let pen = Pen::with(&["-r", "-F", &file]).workers(2).controlled().start();
    let faults = [
        ("blacklist 7\nserver 0 weight x\n", format!("{file}:2: "), "\"x\""),
        ("blacklist 7\nserver 0 port 99999\n", format!("{file}:2: "), "99999"),
        ("blacklist 7\nlisten 192.0.2.1:80\n", String::new(), "192.0.2.1:80"),
        ("blacklist 7\nlog /no/such/place/log\n", String::new(), "/no/such/place/log"),
        ("blacklist 7\ninclude /no/such/file\n", format!("{file}:2: "), "/no/such/file"),
        ("blacklist 7\ngeoip /no/such/file\n", String::new(), "/no/such/file"),
        ("blacklist 7\nacl 3 permit country SE\n", String::new(), "3"),
        ("blacklist 7\nlog \"unclosed\nhash\n", format!("{file}:2: "), "unclosed"),
    ];
    for (text, place, word) in faults {
        directory.write("cfg", text);
        let reply = pen.ask("reload");
        assert!(reply.starts_with(&format!("error: {place}")) && reply.contains(word), "{text}: {reply}");
        let told = |line: &str| line.contains(&place) && line.contains(word);
        wait_until("it is told", || pen.stderr().lines().any(told));
        let before = pen.stderr().len();
        pen.signal(Signal::SIGHUP);
        wait_until("the signal's reload is told of too", || {
            pen.stderr()[before..].contains("nothing is changed")
        });
        assert!(pen.stderr()[before..].lines().any(told), "{}", pen.stderr());
        assert_eq!(pen.ask("blacklist"), "30\n", "{text}");
        assert_eq!(pen.visits(2), "S0 S0");
    }
    directory.write("cfg", "nonsense\nblacklist 7\n");
    let reply = pen.ask("reload");
    assert!(reply.starts_with("ok\n") && reply.contains("nonsense"), "unknown commands are skipped: {reply}");
    assert_eq!(pen.ask("blacklist"), "7\n");
}

/// Clients keep their server when the list is put in another order, and connections stay.
#[test]
fn clients_and_connections_follow_their_server() {
    only_ours!("a number is a server for it");
    let g = greeters(3);
    let directory = Scratch::new();
    let file = directory.write("cfg", servers(&[&g[0], &g[1], &g[2]]));
    let pen = Pen::with(&["-F", &file]).workers(2).controlled().start();
    let held: Vec<Held> = (2..8).map(|client| pen.hold_from(&format!("127.0.0.{client}"))).collect();
    let before: Vec<String> = held.iter().map(|it| it.name.clone()).collect();
    // G1 goes, the others change places.
    directory.write("cfg", format!("{}server 2 port 0\n", servers(&[&g[2], &g[0]])));
    assert_eq!(pen.ask("reload"), "ok\n");
    assert!(held.iter().all(Held::echoes));
    for (client, before) in (2..8).zip(&before) {
        let now = pen.hold_from(&format!("127.0.0.{client}")).name;
        if before == "G1" {
            assert_ne!(now, "G1");
        } else {
            assert_eq!(now, *before, "client {client} has lost its server");
        }
    }
}

/// pen(1), check, diff: what a reload would say and change; nothing is touched.
#[test]
fn check_and_diff_change_nothing() {
    only_ours!("it cannot");
    let g = greeters(2);
    let directory = Scratch::new();
    let file = directory.write("cfg", servers(&[&g[0]]));
    let pen = Pen::with(&["-r", "-F", &file]).workers(2).controlled().start();
    let held = pen.hold_many(3);
    assert_eq!((pen.ask("check"), pen.ask("diff")), ("ok\n".into(), String::new()));
    let other = directory.write("other", format!("{}blacklist 7\nidle_timeout 9\n", servers(&[&g[1]])));
    assert_eq!(pen.ask(&format!("check {other}")), "ok\n");
    let diff = pen.ask(&format!("diff {other}"));
    let expect = |line: String| assert!(diff.lines().any(|it| it.starts_with(&line)), "{line}: {diff}");
    expect("- blacklist 30".into());
    expect("+ blacklist 7".into());
    expect(format!("- server 0 acl 0 address 127.0.0.1 port {}", g[0].port()));
    expect(format!("+ server 0 acl 0 address 127.0.0.1 port {}", g[1].port()));
    assert!(diff.contains("# 3 connections"), "{diff}");
    drop(held);
    wait_until("nothing is left of them", || pen.ask("servers").contains(" conn 0 "));
    let diff = pen.ask(&format!("diff {other}"));
    assert!(diff.contains("\n+ idle_timeout 9\n") && !diff.contains('#'), "remarks about nobody: {diff}");
    let held = pen.hold_many(3);
    let broken = directory.write("broken", "blacklist x\nserver 0 port y:\n");
    let reply = pen.ask(&format!("check {broken}"));
    assert!(reply.lines().count() == 2 && reply.lines().all(|line| line.starts_with("error: ")), "{reply}");
    assert!(pen.ask("check /no/such/file").starts_with("error: "));
    assert_eq!(pen.ask("blacklist"), "30\n");
    assert!(held.iter().all(Held::echoes));
    // A reload would fail of an address that somebody else has, so that is said.
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let _listener = std::net::TcpListener::bind(taken).unwrap();
    let _unix = std::os::unix::net::UnixListener::bind(directory.file("taken")).unwrap();
    for address in [taken.to_string(), directory.file("taken"), "192.0.2.1:80".to_string()] {
        let clash = directory.write("clash", format!("listen {address}\n"));
        let (check, reload) = (pen.ask(&format!("check {clash}")), pen.ask(&format!("diff {clash}")));
        assert!(check.starts_with(&format!("error: {clash}:1: cannot listen on {address}: ")), "{check}");
        assert_eq!(check, reload);
        directory.write("cfg", format!("listen {address}\n"));
        assert_eq!(pen.ask("reload"), check.replace(&clash, &file));
    }
    // The address of pen itself is no obstacle.
    let same = directory.write("same", format!("listen {}\n", pen.address));
    assert_eq!(pen.ask(&format!("check {same}")), "ok\n");
    // All that cannot be opened is named at once, by reload as by check.
    directory.write("cfg", format!("listen {taken}\nlog /no/such/log\ngeoip /none\n"));
    let (check, reload) = (pen.ask("check"), pen.ask("reload"));
    assert_eq!((check.lines().count(), &reload), (3, &check), "{check}");
}

/// pen(1), check: would reload accept this file? A status page that cannot be written is a warning, for both.
#[test]
fn check_and_reload_agree_about_the_status_page() {
    only_ours!("it cannot");
    let s = webs(1);
    let directory = Scratch::new();
    let page = directory.file("missing/page");
    let file = directory.write("cfg", format!("{}web_stats {page}\n", servers(&[&s[0]])));
    let pen = Pen::with(&["-F", &file]).controlled().start();
    let warned = format!("ok\nwarning: cannot write the status page {page}: No such file or directory\n");
    assert_eq!(
        (pen.ask("check"), pen.ask("reload"), pen.ask("diff")),
        (warned.clone(), warned, String::new())
    );
    let other = directory.write("other", "no web_stats\n");
    assert_eq!(pen.ask(&format!("check {other}")), "ok\n");
    let told = || pen.stderr().matches("cannot write the status page").count();
    let before = told();
    assert_eq!(pen.ask("web_stats /no/such/page"), "/no/such/page\n");
    assert_eq!(told(), before + 1, "{}", pen.stderr());
}

/// pen(1), reload: the log is opened again, for whoever rotates it, even without a file and whatever is in it; but a
/// file that names a log that cannot be opened is faulty.
#[test]
fn reload_opens_the_log_again() {
    only_ours!("it has no reload");
    let s = webs(1);
    let directory = Scratch::new();
    let log = directory.file("log");
    let rotate = |pen: &Pen, number: u32| {
        std::fs::rename(&log, format!("{log}.{number}")).unwrap();
        let reply = pen.ask("reload");
        assert!(std::path::Path::new(&log).exists(), "{reply}");
        reply
    };
    let pen = Pen::with(&["-l", &log]).servers(&s).controlled().start();
    let reply = rotate(&pen, 1);
    assert!(reply.starts_with("ok\nwarning: ") && reply.contains("-F"), "{reply}");
    drop(pen);

    let good = format!("{}log {log}\n", servers(&[&s[0]]));
    let file = directory.write("cfg", &good);
    let pen = Pen::with(&["-F", &file]).controlled().start();
    assert_eq!(rotate(&pen, 2), "ok\n");
    directory.write("cfg", format!("{good}blacklist x\n"));
    assert!(rotate(&pen, 3).starts_with("error: "));
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    directory.write("cfg", &good);
    let refused = |what: &str| {
        let reply = pen.ask(what);
        assert!(reply.starts_with("error: ") && reply.contains(":2: cannot "), "{what}: {reply}");
    };
    refused("check");
    refused("reload");
    let elsewhere = directory.file("elsewhere");
    directory.write("cfg", format!("log {elsewhere}\n"));
    assert_eq!(
        (pen.ask("check"), pen.ask("reload"), pen.ask("log")),
        ("ok\n".into(), "ok\n".into(), format!("{elsewhere}\n"))
    );
}

/// Without -F there is nothing to reload, and that is said.
#[test]
fn reload_without_a_file_is_an_error() {
    only_ours!("it cannot");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    assert!(pen.ask("reload").starts_with("error: "));
    assert!(pen.ask("check").starts_with("error: ") && pen.ask("diff").starts_with("error: "));
}

/// Reload after reload under load: nobody is refused or cut off, nothing leaks, every client keeps its server.
#[test]
fn reloads_under_load_are_not_noticed() {
    only_ours!("it loses connections");
    let g = greeters(2);
    let s = webs(2);
    let directory = Scratch::new();
    let list = [&g[0], &g[1], &s[0], &s[1]];
    let lines = servers(&list);
    let acl = "no acl 4\nacl 4 permit 127.0.0.0 255.0.0.0\nclient_acl 4\n";
    let file = directory.write("cfg", format!("{lines}{acl}"));
    let pen = Pen::with(&["-F", &file]).workers(2).controlled().start();
    pen.tell("server 2 blacklist 1000");
    pen.tell("server 3 blacklist 1000");
    let held: Vec<Held> = (2..5).map(|client| pen.hold_from(&format!("127.0.0.{client}"))).collect();
    pen.batch(&[
        "server 0 blacklist 1000",
        "server 1 blacklist 1000",
        "server 2 blacklist 0",
        "server 3 blacklist 0",
    ]);
    let sticky: Vec<String> = (20..30).map(|client| pen.visit_from(&format!("127.0.0.{client}"))).collect();
    let descriptors = |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let all = || std::iter::once(pen.pid).chain(pen.workers()).collect::<Vec<_>>();
    let before: Vec<usize> = all().into_iter().map(descriptors).collect();
    let (processes_before, done) = (all(), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (20..24)
            .map(|client| {
                let (pen, done, expected) = (&pen, &done, &sticky[client as usize - 20]);
                scope.spawn(move || {
                    let mut served = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        assert_eq!(pen.visit_from(&format!("127.0.0.{client}")), *expected);
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for round in 0..60 {
            directory.write("cfg", format!("{lines}{acl}idle_timeout {}\n", 1000 + round));
            assert_eq!(pen.ask("reload"), "ok\n");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(clients.into_iter().all(|client| client.join().unwrap() > 0));
    });
    assert!(held.iter().all(Held::echoes));
    assert_eq!(all(), processes_before, "a process was replaced");
    let after = || all().into_iter().map(descriptors).collect::<Vec<_>>();
    assert!(
        became_true(Duration::from_secs(5), || after().iter().zip(&before).all(|(now, then)| now <= then))
            .is_some(),
        "descriptors: {before:?} became {:?}",
        after()
    );
    for (client, expected) in (20..30).zip(&sticky) {
        assert_eq!(pen.visit_from(&format!("127.0.0.{client}")), *expected);
    }
    assert!(processes::alive(pen.pid));
}
