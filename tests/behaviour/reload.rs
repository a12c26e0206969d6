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
    let broken = directory.write("broken", "blacklist x\nserver 0 port y:\n");
    let reply = pen.ask(&format!("check {broken}"));
    assert!(reply.lines().count() == 2 && reply.lines().all(|line| line.starts_with("error: ")), "{reply}");
    assert!(pen.ask("check /no/such/file").starts_with("error: "));
    assert_eq!(pen.ask("blacklist"), "30\n");
    assert!(held.iter().all(Held::echoes));
    // That somebody else has the address is found out without taking it.
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let clash = directory.write("clash", "listen 192.0.2.1:80\n");
    assert!(pen.ask(&format!("check {clash}")).starts_with("error: "));
    drop(taken);
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
    let all = || std::iter::once(pen.master).chain(pen.workers()).collect::<Vec<_>>();
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
    assert!(processes::alive(pen.master));
}
