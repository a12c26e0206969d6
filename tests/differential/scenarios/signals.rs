//! HUP, USR1 and those that end it.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Scenario, scenario};
use crate::pen::{DEADLINE, Pen};
use crate::support::{became_true, page, wait_until};

/// The text of USR1, without the timestamps in front of its blocks.
fn statistics(pen: &Pen<'_>) -> String {
    let before = pen.stderr().len();
    pen.signal(Signal::SIGUSR1);
    let (mut length, mut steady) = (0, 0);
    wait_until("the statistics are complete", || {
        let text = &pen.stderr()[before..];
        let whole = text.contains("Active connections:");
        steady = if whole && text.len() == length { steady + 1 } else { 0 };
        length = text.len();
        steady > 20
    });
    let text = pen.stderr()[before..].to_owned();
    let mut out = String::new();
    for line in text.lines() {
        let plain = pen.stage.normalised(line);
        let plain = plain.strip_prefix("<time>: ").or(plain.strip_prefix("pen: ")).unwrap_or(&plain);
        out += &format!("{plain}\n");
    }
    out
}

/// The lines of a block that begins so, up to an empty one.
fn block(text: &str, heading: &str) -> String {
    let lines = text.lines().skip_while(|line| *line != heading);
    lines.take_while(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

/// Replaces the descriptors in a connection's block.
fn without_descriptors(block: &str) -> String {
    let line = |line: &str| match line.starts_with("downfd") {
        true => "downfd = <fd>, upfd = <fd>\n".to_owned(),
        false => format!("{line}\n"),
    };
    block.lines().map(line).collect()
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("case_126_connections_survive_hup_and_usr1", |t| {
            let g = t.greeters(2);
            let file = t.scratch.write("config", "blacklist 7\n");
            let pen = t.pen(&["-r", "-F", &file]).epoll().servers(&g).start();
            let held = pen.hold_many(5);
            for signal in [Signal::SIGHUP, Signal::SIGUSR1] {
                pen.signal(signal);
                // The next client is accepted by a loop that has seen the signal.
                let next = pen.hold();
                t.note(format!("{signal}: a new one"), next.echoes());
                let live = held.iter().filter(|held| held.echoes()).count();
                t.note(format!("{signal}: of 5 live"), live);
            }
        })
        .with_two_workers_too(),
        scenario("case_127_statistics_as_text", |t| {
            let g = t.greeters(2);
            let servers = [format!("{}:5:9", g[0]), g[1].to_string()];
            let pen = t.pen(&["-r"]).epoll().servers(servers).start();
            let held = pen.hold_many(3);
            t.note("all echo", held.iter().all(|held| held.echoes()));
            let mut text = String::new();
            became_true(DEADLINE, || {
                text = statistics(&pen);
                text.contains("15 sent, 18 received") && text.contains("30 sent, 36 received")
            });
            let first = text.lines().find(|line| line.starts_with("Time ")).unwrap_or_default();
            t.note("heading", first.rsplit_once(',').unwrap_or_default().0);
            t.note("server 0", block(&text, "Server 0 status:"));
            t.note("server 1", block(&text, "Server 1 status:"));
            for line in [
                "Max number of clients: 2048",
                "Active clients:",
                "Max number of connections: 500",
                "Active connections:",
            ] {
                t.note(line, text.lines().any(|told| told == line));
            }
            let client = block(&text, "Client 0 status:");
            let client: String = client
                .lines()
                .filter(|line| !line.starts_with("last used"))
                .map(|line| format!("{line}\n"))
                .collect();
            let client = if client.contains("address 127.0.0.1") { client } else { "garbage".to_owned() };
            t.note("client 0", client);
            for number in 0..3 {
                t.note(
                    format!("connection {number}"),
                    without_descriptors(&block(&text, &format!("Connection {number} status:"))),
                );
            }
        }),
        scenario("case_127_statistics_of_nothing", |t| {
            let pen = t.pen(&["-x", "77", "-c", "3000"]).epoll().servers(["127.0.0.1:9"]).start();
            let text = statistics(&pen);
            // Ours goes on with its workers.
            let (text, _) = text.split_once("Active connections:\n").unwrap();
            let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("Time ")).collect();
            t.note("lines", text.join("\n"));
        }),
        scenario("case_128_statistics_as_a_page", |t| {
            let g = t.greeters(2);
            let file = t.scratch.file("page");
            let servers = [format!("{}:5:9:3:4", g[0]), g[1].to_string()];
            let pen = t.pen(&["-r", "-w", &file]).epoll().servers(servers).start();
            let before = pen.stderr().len();
            let held = pen.hold_many(3);
            t.note("all echo", held.iter().all(|held| held.echoes()));
            let mut text = String::new();
            became_true(DEADLINE, || {
                let _ = fs::remove_file(&file);
                pen.signal(Signal::SIGUSR1);
                became_true(Duration::from_secs(2), || t.scratch.read("page").contains("</html>"));
                text = t.scratch.read("page");
                text.contains("</html>")
                    && page::column(&text, "server", "sent").get(..2) == Some(&["15".into(), "30".into()][..])
                    && page::column(&text, "server", "received").get(..2)
                        == Some(&["18".into(), "36".into()][..])
            });
            t.note("title", text.contains("Pen status page"));
            t.note("servers", text.contains("2 servers"));
            for (table, columns) in [
                (
                    "server",
                    &[
                        "server",
                        "address",
                        "port",
                        "connections",
                        "max soft",
                        "max hard",
                        "sent",
                        "received",
                        "weight",
                        "prio",
                    ][..],
                ),
                ("client", &["client", "address", "last server", "connects", "sent", "received"]),
                ("connection", &["connection", "pending data down", "pending data up", "client", "server"]),
            ] {
                for column in columns {
                    let cells = page::column(&text, table, column);
                    let regular = if table == "server" { 2 } else { cells.len() };
                    t.note(format!("{table}s: {column}"), cells[..regular].join(" "));
                }
            }
            let tables = page::tables(&text);
            t.note("three tables at least", tables.len() >= 3);
            for (number, table) in tables.iter().take(3).enumerate() {
                let heading: Vec<String> = table[0].iter().map(|cell| cell.to_lowercase()).collect();
                t.note(format!("columns of table {number}"), heading.join(" | "));
            }
            t.note("on stderr", pen.stage.normalised(&pen.stderr()[before..]));
        }),
        scenario("hup_without_a_file", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).epoll().servers(&s).start();
            pen.signal(Signal::SIGHUP);
            t.note("requests", pen.visits(3));
            t.note("ends", pen.end_with(Signal::SIGTERM));
        }),
        scenario("hup_with_a_file_that_is_gone", |t| {
            let s = t.webs(1);
            let file = t.scratch.write("config", "blacklist 7\n");
            let pen = t.pen(&["-F", &file]).epoll().servers(&s).start();
            fs::remove_file(&file).unwrap();
            pen.signal(Signal::SIGHUP);
            t.note("requests", pen.visits(3));
            t.note("ends", pen.end_with(Signal::SIGTERM));
        }),
        scenario("hup_with_a_mistake_in_the_file", |t| {
            let s = t.webs(2);
            let port = |number: usize| s[number].port();
            let file = t.scratch.write("config", format!("server 0 address 127.0.0.1 port {}\n", port(0)));
            let pen = t.pen(&["-F", &file]).epoll().start();
            t.note("at first", pen.visit());
            t.scratch.write("config", format!("blacklist abc\nserver 0 port {}\n", port(1)));
            pen.signal(Signal::SIGHUP);
            became_true(Duration::from_secs(1), || pen.visit() == "S1");
            t.note("then", pen.visit());
        }),
        scenario("signals_that_are_ignored", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).epoll().servers(&s).start();
            pen.signal(Signal::SIGPIPE);
            pen.signal(Signal::SIGCHLD);
            t.note("requests", pen.visits(3));
        }),
        scenario("signals_that_end_it", |t| {
            for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGALRM] {
                let s = t.webs(1);
                let pen = t.pen(&[]).epoll().servers(&s).start();
                t.note(signal, pen.end_with(signal));
            }
        }),
        scenario("usr2_leaves_a_core", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).epoll().servers(&s).start();
            t.note("ends", pen.end_with(Signal::SIGUSR2));
        }),
        scenario("case_099_hup_reopens_the_log_with_connections_open", |t| {
            let g = t.greeters(1);
            let log = t.scratch.file("log");
            let pen = t.pen(&["-l", &log]).epoll().servers(&g).start();
            let held = pen.hold();
            t.note("echoes", held.echoes());
            fs::rename(&log, t.scratch.file("old")).unwrap();
            pen.signal(Signal::SIGHUP);
            wait_until("it is opened anew", || t.scratch.names().contains(&"log".to_owned()));
            // The file is there a moment before it is written to.
            let mut echoed = 1;
            became_true(Duration::from_millis(500), || {
                echoed += usize::from(held.echoes());
                echoed > 3 && !t.scratch.read("log").is_empty()
            });
            drop(held);
            wait_until("it is closed", || g[0].open() == 0);
            pen.end_with(Signal::SIGTERM);
            let lines = |file: &str| t.scratch.read(file).lines().count();
            t.note("the old one has records", lines("old") > 0);
            t.note("the new one has records", lines("log") > 0);
            t.note("none is lost", lines("old") + lines("log") == echoed);
        }),
    ]
}
