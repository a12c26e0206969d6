//! Bytes both ways, and how a connection ends.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Scenario, controlled, scenario};
use crate::pen::{timed, within};
use crate::stage::Stage;
use crate::support::{Backend, Ending, SOON, became_true, client, let_pass, processes, wait_until};

/// Answers with the length of all that came, when that has ended.
fn counter(t: &Stage) -> Backend {
    let server = Backend::serving("S", |visit| {
        let (bytes, _) = client::read_all(&visit.stream);
        let _ = (&visit.stream).write_all(format!("{} bytes\n", bytes.len()).as_bytes());
    });
    t.server("S0", server)
}

/// Notes each line it gets, and the end of the stream, and sends what clients ask for with `send X`; `end` ends its
/// own stream.
fn listener(t: &Stage) -> Backend {
    let server = Backend::serving("S", |visit| {
        loop {
            match client::read_line(&visit.stream) {
                Some(line) if line == "end" => {
                    let _ = visit.stream.shutdown(Shutdown::Write);
                }
                Some(line) if line.is_empty() => break,
                Some(line) => visit.note(line),
                None => break,
            }
        }
        visit.note("(end)");
        let_pass(Duration::from_millis(200));
        let _ = (&visit.stream).write_all(b"still here\n");
    });
    t.server("S0", server)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("case_075_the_client_half_closes", |t| {
            let server = counter(t);
            let pen = t.pen(&[]).servers([&server]).start();
            let stream = pen.connect();
            (&stream).write_all(b"hello").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            t.note("answer", crate::pen::answer(&stream));
        }),
        scenario("case_076_the_client_half_closes_and_epoll", |t| {
            let server = Backend::serving("S", |visit| {
                if visit.read_head() {
                    let _ = (&visit.stream).write_all(&pattern(50_000));
                }
            });
            let server = t.server("S0", server);
            let pen = t.pen(&[]).epoll().servers([&server]).start();
            let mut whole = 0;
            for _ in 0..50 {
                let stream = pen.connect();
                let _ = (&stream).write_all(b"GET / HTTP/1.0\r\n\r\n");
                let _ = stream.shutdown(Shutdown::Write);
                whole += usize::from(client::read_all(&stream).0.len() == 50_000);
            }
            t.note("whole answers", if whole == 50 { "all" } else { "not all" });
        }),
        scenario("case_077_who_is_closed_when_one_side_ends", |t| {
            for whose in ["off", "up", "down", "both"] {
                let server = listener(t);
                let pen = t.pen(&[]).command(format!("tcp_fastclose {whose}")).servers([&server]).start();
                // The client ends first.
                let stream = pen.connect();
                (&stream).write_all(b"one\n").unwrap();
                wait_until("the line is there", || server.notes().len() == 1);
                stream.shutdown(Shutdown::Write).unwrap();
                t.note(format!("{whose}: the client ends, and gets"), crate::pen::answer(&stream));
                wait_until("the end is there", || server.notes().len() == 2);
                // The server ends first.
                let stream = pen.connect();
                (&stream).write_all(b"end\n").unwrap();
                t.note(format!("{whose}: the server ends, and the client sees"), crate::pen::answer(&stream));
                let _ = (&stream).write_all(b"two\n");
                let came = || server.notes().iter().any(|note| note == "two");
                let ended = || server.notes().iter().filter(|note| *note == "(end)").count() == 2;
                wait_until("the server knows", || came() || ended());
                t.note(format!("{whose}: then it can still send"), came());
            }
        })
        .slow(),
        scenario("case_078_resets", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&[]).servers(&g).start();
            let held = pen.hold();
            t.note("held", &held.name);
            client::reset(held.stream);
            t.note("the server sees the end", became_true(SOON, || g[0].open() == 0).is_some());
            let server = Backend::serving("R", |visit| {
                let _ = visit.read_head();
                nix::sys::socket::setsockopt(
                    &visit.stream,
                    nix::sys::socket::sockopt::Linger,
                    &nix::libc::linger { l_onoff: 1, l_linger: 0 },
                )
                .unwrap();
            });
            let server = t.server("R", server);
            let pen = t.pen(&[]).servers([&server]).start();
            t.note("a request to a server that resets", pen.visit());
        }),
        scenario("case_079_five_megabytes_each_way_slow_readers", |t| {
            const LENGTH: usize = 5_000_000;
            let server = Backend::serving("S", |visit| {
                // It does not read at first, then all, and only then it answers.
                let_pass(Duration::from_millis(300));
                let mut all = vec![0; LENGTH];
                if (&visit.stream).read_exact(&mut all).is_ok() && all == pattern(LENGTH) {
                    let _ = (&visit.stream).write_all(&all);
                }
            });
            let server = t.server("S0", server);
            let pen = t.pen(&[]).servers([&server]).start();
            let stream = pen.connect();
            (&stream).write_all(&pattern(LENGTH)).unwrap();
            let_pass(Duration::from_millis(300));
            let mut all = vec![0; LENGTH];
            t.note("all came back", (&stream).read_exact(&mut all).is_ok() && all == pattern(LENGTH));
            t.note("memory is bounded", processes::memory_kib(&pen.family()) < 64 * 1024);
        })
        .slow(),
        scenario("case_080_idle_connections_are_closed", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&[]).command("idle_timeout 1").servers(&g).start();
            let held = pen.hold();
            let (ending, took) = timed(|| held.ending(Duration::from_secs(8)));
            t.note("ends", ending != Ending::Open);
            t.note("when", within(took, 900, 4800));
        })
        .slow(),
        scenario("case_081_half_closed_idle_connections_too", |t| {
            let server = Backend::serving("S", |visit| {
                let _ = (&visit.stream).write_all(b"S\n");
                let _ = client::read_all(&visit.stream);
                // It knows that the client has ended, and says nothing.
                while visit.tally().notes.lock().unwrap().is_empty() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            let server = t.server("S0", server);
            let pen = t.pen(&["-t", "1"]).command("idle_timeout 1").servers([&server]).start();
            let held = pen.hold();
            held.stream.shutdown(Shutdown::Write).unwrap();
            let ending = held.ending(Duration::from_secs(5));
            t.note("ends", ending != Ending::Open);
            server.tally.notes.lock().unwrap().push("over".to_owned());
        })
        .slow(),
        scenario("a_client_that_leaves_is_told_to_the_server", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&[]).servers(&g).start();
            let held = pen.hold();
            t.note("echoes", held.echoes());
            drop(held);
            t.note("the server sees the end", became_true(SOON, || g[0].open() == 0).is_some());
        }),
        scenario("a_server_that_leaves_is_told_to_the_client", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).servers(&s).start();
            let stream = pen.connect();
            (&stream).write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let (bytes, ending) = client::read_all(&stream);
            t.note("answer", String::from_utf8_lossy(&bytes));
            t.note("then", format!("{ending:?}"));
        }),
        scenario("case_020_term_closes_what_is_open", |t| {
            let g = t.greeters(2);
            let pen = t.pen(&["-r"]).servers(&g).start();
            let held = pen.hold_many(3);
            t.note("ends", pen.end_with(Signal::SIGTERM));
            let ended = held.iter().all(|held| held.ending(SOON) != Ending::Open);
            t.note("all are closed", ended);
            t.note("for the servers, too", became_true(SOON, || g.iter().all(|g| g.open() == 0)).is_some());
        }),
        controlled("fastclose_changes_at_run_time", |t| {
            let server = listener(t);
            let pen = t.pen(&[]).control().servers([&server]).start();
            pen.note_asked(["tcp_fastclose down"]);
            let stream = pen.connect();
            (&stream).write_all(b"one\n").unwrap();
            wait_until("the line is there", || server.notes().len() == 1);
            stream.shutdown(Shutdown::Write).unwrap();
            t.note("the client ends, and gets", crate::pen::answer(&stream));
        }),
        controlled("idle_timeout_changes_at_run_time", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&["-t", "1"]).control().servers(&g).start();
            pen.note_asked(["idle_timeout 1"]);
            let held = pen.hold();
            t.note("ends", held.ending(Duration::from_secs(8)) != Ending::Open);
        })
        .slow(),
    ]
}
