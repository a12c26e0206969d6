//! The request log: to a file, and over the network.

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Scenario, controlled, scenario};
use crate::stage::Stage;
use crate::support::{Backend, became_true, client, wait_until};

/// The log after these requests, each in one write, and after the end of the pen (it writes late).
fn logged(t: &Stage, requests: &[&[u8]]) -> String {
    let s = t.webs(1);
    let log = t.scratch.file("log");
    let pen = t.pen(&["-l", &log]).servers(&s).start();
    for request in requests {
        let stream = pen.connect();
        (&stream).write_all(request).unwrap();
        let _ = client::read_all(&stream);
    }
    pen.end_with(Signal::SIGTERM);
    let text = t.scratch.read("log");
    fs::remove_file(log).unwrap();
    text
}

/// What comes next to this socket, up to where the classic's penlogd stops reading; and is there more?
fn datagram(socket: &UdpSocket) -> (String, bool) {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut bytes = [0; 2048];
    match socket.recv(&mut bytes) {
        Ok(count) => {
            let end =
                bytes[..count].iter().position(|&byte| byte == b'\n').map_or(count, |newline| newline + 1);
            (String::from_utf8_lossy(&bytes[..end]).into_owned(), end < count)
        }
        Err(error) => (format!("({})", error.kind()), false),
    }
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("case_092_a_record", |t| {
            t.note("log", logged(t, &[b"GET / HTTP/1.0\r\n\r\n"]));
        }),
        scenario("case_092_records_of_several_clients", |t| {
            let s = t.webs(2);
            let log = t.scratch.file("log");
            let pen = t.pen(&["-r", "-l", &log]).servers(&s).start();
            for n in [7, 9, 7] {
                let _ = client::request(pen.connect_from(&format!("127.0.0.{n}")), &format!("/{n}"));
            }
            pen.end_with(Signal::SIGTERM);
            t.note("log", t.scratch.read("log"));
        }),
        scenario("case_093_a_long_request", |t| {
            let path = "x".repeat(200);
            t.note("log", logged(t, &[format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes()]));
        }),
        scenario("case_094_bytes_that_are_not_ascii", |t| {
            t.note("log", logged(t, &[b"GET /\x80\xc3\xa4\xff HTTP/1.0\r\n\r\n"]));
        }),
        scenario("case_095_control_bytes", |t| {
            t.note("log", logged(t, &[b"GET /\x1b[31m\x07\x7f\t HTTP/1.0\r\n\r\n"]).escape_debug());
        }),
        scenario("lines_that_end_otherwise", |t| {
            t.note("LF alone", logged(t, &[b"GET /lf HTTP/1.0\n\r\n\r\n"]));
            t.note("an empty first line", logged(t, &[b"\r\n\r\n"]));
        }),
        scenario("case_096_head_and_body_in_two_writes", |t| {
            let server = Backend::serving("S", |visit| {
                if visit.read_head() {
                    visit.note("head");
                    let _ = client::read_line(&visit.stream);
                    visit.answer("S");
                }
            });
            let server = t.server("S0", server);
            let log = t.scratch.file("log");
            let pen = t.pen(&["-l", &log]).servers([&server]).start();
            let stream = pen.connect();
            (&stream).write_all(b"POST /x HTTP/1.0\r\nContent-Length: 5\r\n\r\n").unwrap();
            wait_until("the head is there", || server.notes().len() == 2);
            (&stream).write_all(b"body\n").unwrap();
            let _ = client::read_all(&stream);
            pen.end_with(Signal::SIGTERM);
            t.note("log", t.scratch.read("log"));
        }),
        scenario("requests_on_one_connection", |t| {
            let g = t.greeters(1);
            let log = t.scratch.file("log");
            let pen = t.pen(&["-l", &log]).servers(&g).start();
            let held = pen.hold();
            t.note("echoes", (0..3).filter(|_| held.echoes()).count());
            drop(held);
            wait_until("it is closed", || g[0].open() == 0);
            pen.end_with(Signal::SIGTERM);
            t.note("log", t.scratch.read("log"));
        }),
        scenario("case_097_over_the_network", |t| {
            let s = t.webs(1);
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let log = socket.local_addr().unwrap().to_string();
            let pen = t.pen(&["-l", &log]).servers(&s).start();
            let _ = pen.visit();
            let (record, more) = datagram(&socket);
            t.note("a record", record);
            t.note("more behind it", more);
            let _ = pen.visit_from("127.0.0.7");
            t.note("another", datagram(&socket).0);
            let stream = pen.connect();
            (&stream).write_all(&[b"GET /\x80 ", "x".repeat(300).as_bytes(), b"\r\n\r\n"].concat()).unwrap();
            let _ = client::read_all(&stream);
            let (long, _) = datagram(&socket);
            t.note("a long one has", format!("{} characters", long.chars().count()));
        }),
        scenario("case_098_where_the_log_goes", |t| {
            let s = t.webs(1);
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let log = socket.local_addr().unwrap();
            t.name(log.port(), "LOG");
            let pen = t.pen(&["-l", &log.to_string()]).command("log").servers(&s).start();
            pen.end_with(Signal::SIGTERM);
            t.note("log", pen.stdout());
            let file = t.scratch.file("file");
            let pen = t.pen(&["-l", &file]).command("log").servers(&s).start();
            pen.end_with(Signal::SIGTERM);
            t.note("log of a file", pen.stdout());
        }),
        scenario("case_099_a_log_is_rotated", |t| {
            let s = t.webs(1);
            let (log, old) = (t.scratch.file("log"), t.scratch.file("old"));
            let pen = t.pen(&["-l", &log]).epoll().servers(&s).start();
            let _ = client::request(pen.connect(), "/1");
            let _ = client::request(pen.connect(), "/2");
            fs::rename(&log, &old).unwrap();
            pen.signal(Signal::SIGHUP);
            wait_until("it is opened anew", || t.scratch.names().contains(&"log".to_owned()));
            // The file is there a moment before it is written to.
            let mut requests = 2;
            became_true(Duration::from_millis(500), || {
                requests += 1;
                let _ = client::request(pen.connect(), &format!("/{requests}"));
                requests > 4 && !t.scratch.read("log").is_empty()
            });
            pen.end_with(Signal::SIGTERM);
            let (old, new) = (t.scratch.read("old"), t.scratch.read("log"));
            t.note("old", old.lines().take(2).collect::<Vec<_>>().join("\n"));
            t.note("the last is in the new one", new.contains(&format!("GET /{requests} ")));
            t.note("none is lost", old.lines().count() + new.lines().count() == requests);
        }),
        scenario("a_log_is_appended_to", |t| {
            let s = t.webs(1);
            let log = t.scratch.write("log", "what was there\n");
            let pen = t.pen(&["-l", &log]).servers(&s).start();
            let _ = pen.visit();
            pen.end_with(Signal::SIGTERM);
            t.note("log", t.scratch.read("log"));
        }),
        scenario("case_072_a_record_names_the_client_it_is_of", |t| {
            let g = t.greeters(1);
            let log = t.scratch.file("log");
            let pen = t.pen(&["-c", "1", "-l", &log]).servers(&g).start();
            let first = pen.hold_from("127.0.0.10");
            let second = pen.hold_from("127.0.0.20");
            t.note("first echoes", first.echoes());
            drop((first, second));
            wait_until("both are closed", || g[0].open() == 0);
            pen.end_with(Signal::SIGTERM);
            t.note("log", t.scratch.read("log"));
        }),
        controlled("the_log_changes_at_run_time", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().servers(&s).start();
            let (one, two) = (t.scratch.file("one"), t.scratch.file("two"));
            pen.note_asked(["log"]);
            t.note("log one", pen.ask(&format!("log {one}")));
            let _ = client::request(pen.connect(), "/1");
            t.note("log two", pen.ask(&format!("log {two}")));
            let _ = client::request(pen.connect(), "/2");
            pen.note_asked(["log", "no log", "log"]);
            let _ = client::request(pen.connect(), "/3");
            pen.end_with(Signal::SIGTERM);
            t.note("in one", t.scratch.read("one"));
            t.note("in two", t.scratch.read("two"));
        }),
        controlled("case_098_a_network_log_by_command", |t| {
            let s = t.webs(1);
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let log = socket.local_addr().unwrap();
            t.name(log.port(), "LOG");
            let pen = t.pen(&[]).control().servers(&s).start();
            t.note("set", pen.ask(&format!("log {log}")));
            pen.note_asked(["log"]);
            let _ = pen.visit();
            t.note("a record", datagram(&socket).0);
            pen.note_asked(["no log"]);
            let _ = pen.visit();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let more = socket.recv(&mut [0; 2048]).is_ok();
            t.note("records go on after no log", more);
        }),
    ]
}
