//! The control port: how commands get there, and answers back.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Capability, Scenario, controlled};
use crate::pen::{DEADLINE, Pen, answer, timed, told, within};
use crate::stage::Stage;
use crate::support::{became_true, client, free_port, let_pass, wait_until};

/// Sends these bytes in one piece, and tells what comes back.
fn sent(pen: &Pen<'_>, bytes: &[u8]) -> String {
    match pen.connect_control() {
        Ok(mut stream) => {
            stream.write_all(bytes).unwrap();
            told(&answer(&stream))
        }
        Err(error) => format!("({})", error.kind()),
    }
}

/// Sends these pieces; each when the one before it has been answered, or was not in half a second.
fn sent_in_pieces(pen: &Pen<'_>, pieces: &[&str]) -> String {
    let mut stream = pen.connect_control().unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    for piece in pieces {
        // Whoever has answered has closed, too.
        let _ = stream.write_all(piece.as_bytes());
        let _ = stream.peek(&mut [0]);
    }
    told(&answer(&stream))
}

/// A run of the program penctl of Debian, or of ours: exit code, and the two outputs.
fn penctl(t: &Stage, program: &str, arguments: &[&str]) -> (String, String, String) {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(t.scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if became_true(2 * DEADLINE, || child.try_wait().unwrap().is_some()).is_none() {
        let _ = child.kill();
    }
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().map_or("killed".to_owned(), |code| format!("exit {code}"));
    (code, text(&output.stdout), text(&output.stderr))
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        controlled("case_101_one_command_a_connection", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            for bytes in [
                "mode\nblacklist\n",
                "mode\n",
                "mode\r\n",
                "  mode  \n",
                "mode\0blacklist\n",
                "mode\rblacklist\n",
                "mode extra words\n",
            ] {
                t.note(bytes.escape_debug(), sent(&pen, bytes.as_bytes()));
            }
        }),
        controlled("case_101_a_command_without_end_of_line", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            let stream = pen.connect_control().unwrap();
            (&stream).write_all(b"mode").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            t.note("and then the end of the stream", answer(&stream));
            let stream = pen.connect_control().unwrap();
            (&stream).write_all(b"mode").unwrap();
            t.note("and then silence", answer(&stream));
        }),
        controlled("case_102_nothing_and_comments", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            for bytes in ["\n", "\r\n", "\0", "   \n", "# x\n", "#x\n", "  # blacklist 7\n"] {
                t.note(bytes.escape_debug(), sent(&pen, bytes.as_bytes()));
            }
            let stream = pen.connect_control().unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            t.note("no byte at all", answer(&stream));
            pen.note_asked(["blacklist"]);
        }),
        controlled("case_103_unknown_commands", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            pen.note_asked(["foo bar", "BLACKLIST", "Mode", "no foo", "nonsense", "blacklistx", "mod"]);
        }),
        controlled("tabs_between_words", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            pen.note_asked(["blacklist\t7", "\tmode", "blacklist"]);
        }),
        controlled("spaces_between_words", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            pen.note_asked(["   blacklist    7   ", "blacklist 8 9 10", "no   hash", "blacklist"]);
        }),
        controlled("case_104_a_command_in_pieces", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            t.note("blackl, ist", sent_in_pieces(&pen, &["blackl", "ist\n"]));
            t.note("mode, line end", sent_in_pieces(&pen, &["mode", "\n"]));
        }),
        controlled("case_105_a_silent_client_at_the_control_port", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().servers(&s).start();
            let silent = pen.connect_control().unwrap();
            // The classic has accepted it when nothing else works any more.
            let_pass(Duration::from_millis(300));
            let stream = pen.connect();
            stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            t.note("a request meanwhile", client::request(stream, "/"));
            drop(silent);
            t.note("and afterwards", pen.visit());
        }),
        controlled("case_107_a_list_for_the_control_port", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            pen.note_asked(["acl 2 deny 127.0.0.3", "control_acl 2", "mode"]);
            t.note("from .2", pen.ask_from("127.0.0.2", "mode"));
            t.note("from .3", pen.ask_from("127.0.0.3", "mode"));
            pen.note_asked(["acl 3 deny 127.0.0.0 255.0.0.0", "control_acl 3", "mode", "control_acl 0"]);
            t.note("from .3, then", pen.ask_from("127.0.0.3", "mode"));
        }),
        controlled("case_113_exit", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            pen.note_asked(["exit"]);
            t.note("then it", pen.fate());
            drop(pen);
            let file = t.scratch.file("pid");
            let pen = t.pen(&["-X", "-p", &file]).control().servers(["127.0.0.1:9"]).start();
            wait_until("the pid file is written", || !t.scratch.read("pid").is_empty());
            t.note("exit with -X", pen.ask("exit"));
            t.note("it ends", pen.end().unwrap_or_else(|| "not".to_owned()));
            t.note("pid file is left", t.scratch.names().contains(&"pid".to_owned()));
        }),
        controlled("a_long_command", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            let line = format!("blacklist {}7\n", " ".repeat(3000));
            t.note("3000 characters", sent(&pen, line.as_bytes()));
        }),
        controlled("many_commands_one_after_the_other", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            let right = (0..100).filter(|n| pen.ask(&format!("blacklist {n}")) == format!("{n}\n")).count();
            t.note("right answers of 100", right);
        }),
        controlled("clients_of_the_control_port_all_at_once", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            let streams: Vec<_> = (0..20).map(|_| pen.connect_control().unwrap()).collect();
            let mut right = 0;
            for mut stream in streams {
                stream.write_all(b"timeout\n").unwrap();
                right += usize::from(answer(&stream).ends_with('\n'));
            }
            t.note("answers of 20", right);
        }),
        controlled("a_client_that_does_not_read_its_answer", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().servers(&s).start();
            let mut stream = pen.connect_control().unwrap();
            stream.write_all(b"servers\n").unwrap();
            client::reset(stream);
            t.note("then", pen.fate());
            let (answer, took) = timed(|| pen.visit());
            t.note("a request", answer);
            t.note("it took", within(took, 0, 2000));
        }),
        controlled("case_142_a_unix_control_port", |t| {
            let path = t.scratch.file("control");
            let user = if nix::unistd::geteuid().is_root() { &["-u", "root"][..] } else { &[] };
            let pen = t.pen(&["-C", &path]).options(user).servers(["127.0.0.1:9"]).start();
            wait_until("the control port is open", || UnixStream::connect(&path).is_ok());
            t.name(pen.pid, "pid");
            for command in ["pid", "mode", "control", "foo"] {
                let mut stream = UnixStream::connect(&path).unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                stream.write_all(format!("{command}\n").as_bytes()).unwrap();
                let mut text = String::new();
                let _ = std::io::Read::read_to_string(&mut stream, &mut text);
                t.note(command, text);
            }
            t.note("it is a socket", std::fs::metadata(&path).unwrap().file_type().is_socket());
        }),
        controlled("the_classic_penctl_with_either_pen", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
            let (port, refused) = (pen.control.port(), t.port("NOBODY"));
            let program = crate::classic_path().with_file_name("penctl").to_str().unwrap().to_owned();
            t.name(pen.pid, "pid");
            for arguments in ["mode", "blacklist 7", "blacklist", "pid", "foo", "servers", "no foo", "# x"] {
                let words: Vec<&str> = arguments.split(' ').collect();
                let target = format!("127.0.0.1:{port}");
                let (code, stdout, _) = penctl(t, &program, &[&[target.as_str()], &words[..]].concat());
                t.note(arguments, format!("{code}: {stdout}"));
            }
            let (code, ..) = penctl(t, &program, &[&format!("127.0.0.1:{refused}"), "mode"]);
            t.note("nobody there", code);
        }),
        Scenario {
            needs: &[Capability::Control, Capability::Penctl],
            ..controlled("case_143_144_penctl", |t| {
                let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
                let program = t.program.sibling("penctl").to_str().unwrap().to_owned();
                let target = format!("127.0.0.1:{}", pen.control.port());
                let refused = format!("127.0.0.1:{}", free_port());
                t.name(pen.pid, "pid");
                let long = "x".repeat(1022);
                for (label, arguments) in [
                    ("no arguments", &[][..]),
                    ("one argument", &[target.as_str()][..]),
                    ("no port", &["nowhere", "mode"]),
                    ("nobody there", &[refused.as_str(), "mode"]),
                    ("unknown command", &[target.as_str(), "foo"]),
                    ("mode", &[target.as_str(), "mode"]),
                    ("pid", &[target.as_str(), "pid"]),
                    ("two words", &[target.as_str(), "blacklist", "9"]),
                    ("quoted words", &[target.as_str(), "blacklist 10"]),
                    ("a setting without answer", &[target.as_str(), "hash"]),
                    ("long argument", &[target.as_str(), long.as_str()]),
                    ("no name for", &["nosuch.invalid:1", "mode"]),
                ] {
                    let (code, stdout, stderr) = penctl(t, &program, arguments);
                    t.note(format!("{label}: ends"), code);
                    let usage = stdout.starts_with("usage:");
                    t.note(format!("{label}: stdout"), if usage { "usage" } else { stdout.as_str() });
                    t.note(format!("{label}: stderr"), if stderr.is_empty() { "silent" } else { "speaks" });
                }
            })
        },
    ]
}
