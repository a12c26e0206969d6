//! Statistics: the text of USR1, and the page.

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::backend::{greeters, webs};
use crate::support::page::{column, tables};
use crate::support::{Pen, Scratch, classic, client, let_pass, only_ours, wait_until};

/// pen(1), SIGNALS: USR1 writes statistics to stderr.
#[test]
fn usr1_writes_text_to_stderr() {
    let g = greeters(2);
    let pen = Pen::with(&["-r", "-c", "100", "-x", "50"])
        .servers([format!("{}:5:9", g[0]), g[1].to_string()])
        .workers(2)
        .with_signals()
        .start();
    let held = pen.hold_many(3);
    assert!(held.iter().all(|held| held.echoes()));
    // Held are G1, G0, G1; each has had 3 bytes of greeting and an echo of 15 bytes. A client may have its bytes a
    // moment before they are counted.
    let mut text = String::new();
    wait_until("all bytes are counted", || {
        text = pen.statistics();
        text.contains("30 sent, 36 received") && text.contains("15 sent, 18 received")
    });
    for expected in [
        "2 servers".to_owned(),
        format!(
            "Server 0 status:\naddress 127.0.0.1\n0\nport {}\n1 connections (5 soft, 9 hard)",
            g[0].port()
        ),
        format!(
            "Server 1 status:\naddress 127.0.0.1\n0\nport {}\n2 connections (0 soft, 0 hard)",
            g[1].port()
        ),
        "Active clients:".into(),
        "Active connections:".into(),
        "Connection 0 status:\ndownfd = ".into(),
        "pending data 0 down, 0 up".into(),
        "client 0, server 1".into(),
    ] {
        assert!(text.contains(&expected), "not found: {expected}\nin: {text}");
    }
    if !classic() {
        // There the client's blocks are garbage, and the table has a least size.
        assert!(text.contains("Max number of clients: 100"), "{text}");
        assert!(text.contains("Max number of connections: 50"), "{text}");
        assert!(text.contains("Client 0 status:\naddress 127.0.0.1\n"), "{text}");
        assert!(text.contains("connects  3"), "{text}");
    }
    assert_eq!(text.matches("Connection ").count(), 3, "{text}");
}

/// pen(1), -w: USR1 writes the page to the file, and nothing to stderr; tables and columns are those of old.
#[test]
fn usr1_writes_the_page() {
    let g = greeters(2);
    let pen = Pen::with(&["-r", "-w", "SCRATCH/status"])
        .servers([format!("{}:5:9:3:4", g[0]), g[1].to_string()])
        .workers(2)
        .with_signals()
        .start();
    let before = pen.stderr();
    let held = pen.hold_many(3);
    assert!(held.iter().all(|held| held.echoes()));
    let mut page = String::new();
    wait_until("all bytes are counted", || {
        page = pen.page();
        column(&page, "server", "sent")[..2] == ["15", "30"]
            && column(&page, "server", "received")[..2] == ["18", "36"]
    });
    assert!(page.contains("Pen status page"), "{page}");
    assert!(page.contains("2 servers"), "{page}");
    let tables = tables(&page);
    let heading = |index: usize| tables[index][0].join(" | ").to_lowercase();
    assert!(
        heading(0).starts_with(
            "server | address | status | port | connections | max soft | max hard | sent | received | weight | prio"
        ),
        "{}",
        heading(0)
    );
    assert!(
        heading(1).starts_with("client | address | age(secs) | last server | connects | sent | received")
    );
    assert!(
        heading(2).starts_with(
            "connection | downfd | upfd | pending data down | pending data up | client | server"
        ),
        "{}",
        heading(2)
    );
    let of = |name: &str| column(&page, "server", name);
    assert_eq!(of("connections")[..2], ["1", "2"]);
    assert_eq!(of("port")[..2], [g[0].port().to_string(), g[1].port().to_string()]);
    assert_eq!((of("max soft")[0].as_str(), of("max hard")[0].as_str()), ("5", "9"));
    assert_eq!((of("weight")[0].as_str(), of("prio")[0].as_str()), ("3", "4"));
    assert_eq!(column(&page, "client", "connects"), ["3"]);
    assert_eq!(column(&page, "client", "address"), ["127.0.0.1"]);
    if !classic() {
        assert_eq!(column(&page, "connection", "server").len(), 3);
        let mut pids = column(&page, "worker", "pid");
        let mut expected: Vec<_> = pen.workers().iter().map(i32::to_string).collect();
        pids.sort();
        expected.sort();
        assert_eq!(pids, expected);
        let connections: usize =
            column(&page, "worker", "connections").iter().map(|n| n.parse::<usize>().unwrap()).sum();
        assert_eq!(connections, 3);
    }
    assert_eq!(pen.stderr(), before, "with -w, USR1 is silent");
}

/// pen(1), -w: the file is replaced as a whole; who reads it never gets a half page.
#[test]
fn the_page_is_never_half_written() {
    only_ours!("it writes in place");
    let s = webs(4);
    let pen = Pen::with(&["-r", "-w", "SCRATCH/status"]).servers(&s).start();
    for n in 1..100 {
        pen.visit_from(&format!("127.0.0.{n}"));
    }
    pen.page();
    let done = AtomicBool::new(false);
    let file = pen.scratch.file("status");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut inodes = std::collections::BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let page = fs::read_to_string(&file).expect("the page is always there");
                assert!(page.trim_end().to_lowercase().ends_with("</html>"), "half a page: {page}");
                inodes.insert(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&file).unwrap()));
            }
            inodes.len()
        });
        for _ in 0..100 {
            pen.signal(Signal::SIGUSR1);
            let_pass(Duration::from_millis(5));
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 1, "the page was not replaced");
    });
    let mut names = pen.scratch.names();
    names.retain(|name| name != "stderr" && name != "stdout");
    assert_eq!(names, ["status"], "something was left behind");
}

/// pen(1), CONFIGURATION, clients_max: HUP makes room for more clients, and forgets none.
#[test]
fn hup_makes_room_for_more_clients() {
    only_ours!("it has a least size");
    let s = webs(1);
    let files = Scratch::new();
    let config = files.write("pen.cfg", "clients_max 3\n");
    let pen = Pen::with(&["-c", "5", "-F", &config, "-w", "SCRATCH/status"]).servers(&s).workers(2).start();
    let clients = |page: &str| column(page, "client", "address").len();
    pen.visits_from(1..=9);
    let page = pen.page();
    assert!(page.contains("Max number of clients: 3") && clients(&page) == 3, "{page}");
    files.write("pen.cfg", "clients_max 20\n");
    pen.signal(Signal::SIGHUP);
    wait_until("there is room", || pen.page().contains("Max number of clients: 20"));
    assert_eq!(clients(&pen.page()), 3, "a client was forgotten");
    pen.visits_from(11..=17);
    wait_until("all are remembered", || clients(&pen.page()) == 10);
}

/// pen(1), -w: a page that cannot be written is reported, and pen goes on.
#[test]
fn a_page_that_cannot_be_written_is_reported() {
    let s = webs(1);
    let pen = Pen::with(&["-w", "/no/such/directory/status"]).servers(&s).with_signals().start();
    assert_eq!(pen.visit(), "S0");
    pen.signal(Signal::SIGUSR1);
    if !classic() {
        wait_until("it is told", || pen.stderr().contains("/no/such/directory/status"));
    }
    assert_eq!(pen.visit(), "S0");
}

/// pen(1), STATISTICS: with -H also the clients that were turned away, for a bad request, for a slow one.
#[test]
fn clients_that_are_turned_away_are_counted_where_they_can_be() {
    only_ours!("it turns nobody away");
    let s = webs(1);
    let told_of = |page: &str| page.contains(">HTTP bad<");
    let quiet = Pen::with(&["-w", "SCRATCH/status"]).servers(&s).start();
    assert!(!told_of(&quiet.page()), "there is nothing that could be refused");

    let options = ["-H", "-O", "http_head_timeout 1", "-w", "SCRATCH/status"];
    let pen = Pen::with(&options).servers(&s).workers(2).start();
    assert_eq!(pen.visit(), "S0");
    for (request, answer) in [
        ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 400 "),
        ("GET / HTTP/1.1\r\nHost", "HTTP/1.1 408 "),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let stream = pen.connect();
        (&stream).write_all(request.as_bytes()).unwrap();
        let (reply, _) = client::read_all(&stream);
        assert!(String::from_utf8_lossy(&reply).starts_with(answer), "{request:?}");
    }
    let sum = |column| {
        let cells = pen.worker_column(column);
        cells.iter().map(|cell| cell.parse::<u32>().unwrap()).sum::<u32>()
    };
    assert_eq!([sum("HTTP bad"), sum("HTTP slow"), sum("PROXY refused")], [2, 1, 0]);
}
