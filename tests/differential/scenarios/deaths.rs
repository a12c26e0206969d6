//! What the classic does not survive, each in a scenario of its own.

use std::fs;
use std::io::Write;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Scenario, controlled, scenario};
use crate::pen::{DEADLINE, Pen, told};
use crate::stage::Stage;
use crate::support::{became_true, processes};

/// How it ends; `runs` if a request is answered after [`DEADLINE`].
fn fate(pen: &Pen<'_>, answer: &str) -> String {
    // Dying takes the classic a moment.
    let patience = if pen.stage.program.classic { DEADLINE } else { Duration::from_millis(300) };
    if became_true(patience, || pen.poll_end().is_some()).is_some() {
        return pen.end().unwrap();
    }
    if pen.visit() == answer { "runs".to_owned() } else { "silent".to_owned() }
}

/// One command, and what becomes of pen.
fn note_fate(t: &Stage, command: &str) {
    let s = t.webs(1);
    let pen = t.pen(&[]).control().servers(&s).start();
    t.note(command, told(&pen.ask(command)));
    t.note(format!("{command}: then it"), pen.fate());
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        controlled("case_106_no_acl_without_number", |t| note_fate(t, "no acl")),
        controlled("case_106_source_without_address", |t| note_fate(t, "source")),
        controlled("case_106_ssl_ocsp_response_without_file", |t| note_fate(t, "ssl_ocsp_response")),
        controlled("case_106_ssl_client_renegotiation_interval_without_number", |t| {
            note_fate(t, "ssl_client_renegotiation_interval");
        }),
        controlled("case_106_idlers", |t| note_fate(t, "idlers 3")),
        controlled("acl_without_words", |t| note_fate(t, "acl")),
        controlled("acl_without_action", |t| note_fate(t, "acl 1")),
        controlled("acl_without_address", |t| note_fate(t, "acl 1 permit")),
        controlled("socket_without_number", |t| note_fate(t, "socket")),
        controlled("include_without_file", |t| note_fate(t, "include")),
        controlled("a_connection_table_below_nothing", |t| note_fate(t, "conn_max -5")),
        controlled("no_without_word", |t| note_fate(t, "no")),
        controlled("case_100_a_log_that_cannot_be", |t| note_fate(t, "log /no/such/directory/x")),
        controlled("case_117_a_listener_that_is_not_ours", |t| note_fate(t, "listen 192.0.2.1:80")),
        controlled("a_listener_that_cannot_be", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().servers(&s).start();
            t.note("listen", told(&pen.ask("listen 127.0.0.1:70000")));
            t.note("then it", pen.fate());
            t.note(
                "the old one",
                if processes::listening(pen.address.port()) { "is kept" } else { "is gone" },
            );
        }),
        controlled("a_file_that_includes_itself_by_command", |t| {
            let s = t.webs(1);
            let name = t.scratch.file("circle");
            let file = t.scratch.write("circle", format!("include {name}\n"));
            let pen = t.pen(&[]).control().servers(&s).start();
            t.note("include", told(&pen.ask(&format!("include {file}"))));
            t.note("then it", pen.fate());
        }),
        controlled("far_too_many_servers", |t| {
            let s = t.webs(1);
            // So that it does not eat the memory of everybody else.
            let pen = t.pen(&[]).control().through(&["prlimit", "--data=200000000"]).servers(&s).start();
            t.note("server", told(&pen.ask("server 99999999 address 127.0.0.1")));
            t.note("then it", pen.fate());
        }),
        controlled("a_timeout_of_nothing_by_command", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().epoll().servers(&s).start();
            t.note("timeout 0", told(&pen.ask("timeout 0")));
            t.note("then it", if pen.spins() { "spins" } else { "is idle" });
        }),
        scenario("case_123_a_file_that_includes_itself_at_hup", |t| {
            let s = t.webs(1);
            let file = t.scratch.write("config", "blacklist 7\n");
            let pen = t.pen(&["-F", &file]).epoll().servers(&s).start();
            fs::write(&file, format!("include {file}\n")).unwrap();
            pen.signal(Signal::SIGHUP);
            t.note("then it", fate(&pen, "S0"));
        }),
        scenario("a_file_that_includes_itself_at_the_start", |t| {
            let name = t.scratch.file("config");
            let file = t.scratch.write("config", format!("include {name}\n"));
            let s = t.webs(1);
            let started = t.pen(&["-F", &file]).servers(&s).try_start();
            t.note("ends", started.map_or_else(|ended| ended.how(), |_| "serves".to_owned()));
        }),
        scenario("hup_with_a_log_that_cannot_be_opened", |t| {
            let s = t.webs(1);
            let directory = t.scratch.file("logs");
            fs::create_dir(&directory).unwrap();
            let pen = t.pen(&["-l", &format!("{directory}/log")]).epoll().servers(&s).start();
            fs::remove_dir_all(&directory).unwrap();
            pen.signal(Signal::SIGHUP);
            t.note("then it", fate(&pen, "S0"));
        }),
        scenario("hup_with_a_listener_that_is_not_ours", |t| {
            let s = t.webs(1);
            let file = t.scratch.write("config", "blacklist 7\n");
            let pen = t.pen(&["-F", &file]).epoll().servers(&s).start();
            fs::write(&file, "listen 192.0.2.1:80\n").unwrap();
            pen.signal(Signal::SIGHUP);
            t.note("then it", fate(&pen, "S0"));
        }),
        scenario("kqueue_on_linux", |t| {
            let s = t.webs(1);
            let started = t.pen(&[]).epoll().command("kqueue").servers(&s).try_start();
            t.note("start", started.map_or_else(|ended| ended.how(), |pen| pen.visit()));
        }),
        scenario("commands_that_lack_words_at_the_start", |t| {
            for command in ["no acl", "source", "ssl_ocsp_response", "ssl_client_renegotiation_interval"] {
                let started = t.pen(&[]).command(command).servers(["127.0.0.1:9"]).try_start();
                t.note(command, started.map_or_else(|ended| ended.how(), |_| "serves".to_owned()));
            }
        }),
        scenario("a_client_that_sends_much_and_leaves", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).servers(&s).start();
            let stream = pen.connect();
            let _ = (&stream).write_all(&[b'x'; 200_000]);
            crate::support::client::reset(stream);
            t.note("then it", fate(&pen, "S0"));
        }),
    ]
}
