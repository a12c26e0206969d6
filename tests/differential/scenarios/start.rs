//! The command line, starting and ending.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Scenario, controlled, scenario};
use crate::pen::{Ended, bare};
use crate::stage::Stage;
use crate::support::{became_true, client, processes, wait_until};

/// How a command line ended, and where it said so.
fn note_end(t: &Stage, label: &str, ended: Result<Ended, String>) {
    match ended {
        Ok(ended) => {
            t.note(format!("{label}: ends"), ended.how());
            let speaks = |text: &str| if text.is_empty() { "silent" } else { "speaks" };
            t.note(format!("{label}: stderr"), speaks(&ended.stderr));
        }
        Err(runs) => t.note(format!("{label}: ends"), runs),
    }
}

/// Does a line of it end so?
fn says(text: &str, words: &str) -> String {
    let said = text.lines().any(|line| line.contains(words));
    if said { format!("says {words}") } else { format!("does not say {words}") }
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("case_001_without_arguments_usage_is_shown", |t| {
            let ended = bare(t, &[]).unwrap();
            t.note("ends", ended.how());
            let usage = |text: &str| text.lines().any(|line| line.starts_with("usage:"));
            t.note("usage on stdout", usage(&ended.stdout));
            t.note("usage on stderr", usage(&ended.stderr));
        }),
        scenario("case_002_an_unknown_option", |t| {
            note_end(t, "-z", t.pen(&["-z"]).servers(["127.0.0.1:9"]).run());
            note_end(t, "-b without argument", bare(t, &["-b"]));
        }),
        scenario("case_003_a_timeout_of_nothing", |t| {
            for timeout in ["0", "abc"] {
                let label = format!("-t {timeout}");
                note_end(t, &label, t.pen(&["-t", timeout]).servers(["127.0.0.1:9"]).run());
            }
        }),
        scenario("case_004_an_unknown_protocol", |t| {
            let ended = t.pen(&["-L", "foo"]).servers(["127.0.0.1:9"]).run().unwrap();
            t.note("ends", ended.how());
            t.note("stderr", says(&ended.stderr, "protocol version foo not known"));
        }),
        scenario("case_005_obsolete_options", |t| {
            let s = t.webs(1);
            let pen = t.pen(&["-D", "-Q", "-n", "-S", "5"]).servers(&s).start();
            t.note("request", pen.visit());
            t.note("stderr", if pen.stderr().is_empty() { "silent" } else { "speaks" });
            t.note("ends", pen.end_with(Signal::SIGTERM));
            t.note("stdout", pen.stdout());
        }),
        scenario("case_006_numbers_that_are_too_small", |t| {
            for (option, value, notice) in
                [("-m", "0", "multi_accept bumped to 1"), ("-q", "10", "listen_queue bumped to 50")]
            {
                let s = t.webs(1);
                let pen = t.pen(&[option, value]).servers(&s).start();
                t.note(format!("{option}: request"), pen.visit());
                t.note(format!("{option}: stderr"), says(&pen.stderr(), notice));
            }
        }),
        scenario("case_007_options_behind_the_operands", |t| {
            let s = t.webs(3);
            let pen = t.pen(&[]).servers(&s).behind(&["-r", "-O", "mode"]).start();
            t.note("requests", pen.visits(4));
            pen.end_with(Signal::SIGTERM);
            t.note("stdout", pen.stdout());
        }),
        controlled("case_007_options_behind_the_operands_mode", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().servers(&s).behind(&["-r", "-X"]).start();
            pen.note_asked(["mode"]);
        }),
        scenario("case_008_009_010_what_cannot_be_had_ends_the_start", |t| {
            for options in [
                ["-u", "nosuchuser"],
                ["-p", "/no/such/directory/pid"],
                ["-l", "/no/such/directory/log"],
                ["-j", "/no/such/jail"],
            ] {
                note_end(t, options[0], t.pen(&options).servers(["127.0.0.1:9"]).run());
            }
        })
        .needing_root(),
        scenario("case_011_a_configuration_file_that_is_missing", |t| {
            let s = t.webs(1);
            match t.pen(&["-F", "/no/such/file"]).servers(&s).try_start() {
                Ok(pen) => t.note("request", pen.visit()),
                Err(ended) => t.note("ends", ended.how()),
            }
        }),
        scenario("case_012_a_server_without_address", |t| {
            let ended = t.pen(&[]).servers(["nosuch.invalid:80"]).run().unwrap();
            t.note("ends", ended.how());
            t.note("stderr names it", ended.stderr.contains("nosuch.invalid"));
        }),
        scenario("case_013_a_failure_in_the_background", |t| {
            let ended = t.pen(&[]).background().servers(["nosuch.invalid:80"]).try_start();
            t.note("ends", ended.map_or_else(|ended| ended.how(), |_| "serves".to_owned()));
        }),
        scenario("case_014_listeners_that_cannot_be", |t| {
            for listen in ["127.0.0.1:0", "127.0.0.1:70000", "127.0.0.1:junk"] {
                note_end(t, listen, t.pen(&[]).epoll().listen(listen).servers(["127.0.0.1:9"]).run());
            }
        }),
        scenario("case_015_a_port_that_is_in_use", |t| {
            let holder = TcpListener::bind("127.0.0.1:0").unwrap();
            let listen = holder.local_addr().unwrap();
            note_end(t, "in use", t.pen(&[]).listen(listen).servers(["127.0.0.1:9"]).run());
        }),
        scenario("case_016_two_pens_on_one_address", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).servers(&s).start();
            let second = t.pen(&[]).listen(pen.address).servers(&s).run();
            t.note("the second", second.map_or_else(|_| "runs".to_owned(), |ended| ended.how()));
            t.note("the first", pen.visits(3));
        }),
        controlled("case_017_the_control_port_as_root_needs_a_user", |t| {
            let s = t.webs(1);
            let port = t.port("C");
            let control = format!("127.0.0.1:{port}");
            let pen = t.pen(&["-C", &control]).servers(&s).start();
            t.note("request", pen.visit());
            t.note("control port", if processes::listening(port) { "open" } else { "closed" });
        })
        .needing_root(),
        controlled("case_018_the_control_port_on_every_address", |t| {
            let s = t.webs(1);
            let port = t.port("C");
            let pen = t.pen(&["-C", &port.to_string(), "-u", "root"]).servers(&s).start();
            wait_until("the control port is open", || processes::listening(port));
            t.name(pen.pid, "pid");
            for address in ["127.0.0.1", "127.0.0.2", "127.1.2.3"] {
                let stream = TcpStream::connect((address, port)).unwrap();
                std::io::Write::write_all(&mut &stream, b"pid\n").unwrap();
                t.note(address, crate::pen::answer(&stream));
            }
        })
        .needing_root(),
        controlled("case_019_in_the_background", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().background().servers(&s).start();
            t.name(pen.pid, "pid");
            t.note("the parent ends", pen.end().unwrap());
            t.note("pid file", t.scratch.read("pen.pid"));
            pen.note_asked(["pid"]);
            t.note("request", pen.visit());
        }),
        scenario("case_019_the_pid_file", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).background().servers(&s).start();
            t.name(pen.pid, "pid");
            t.note("the parent ends", pen.end().unwrap());
            t.note("pid file", t.scratch.read("pen.pid"));
            t.note("request", pen.visit());
            pen.signal(Signal::SIGTERM);
            t.note("ends", became_true(Duration::from_secs(5), || pen.family().is_empty()).is_some());
            t.note("pid file, then", t.scratch.names().contains(&"pen.pid".to_owned()));
        }),
        scenario("case_020_term_ends_it", |t| {
            let g = t.greeters(1);
            let file = t.scratch.file("pid");
            let pen = t.pen(&["-p", &file]).servers(&g).start();
            let held = pen.hold();
            t.name(pen.pid, "pid");
            t.note("held", &held.name);
            wait_until("the pid file is written", || !t.scratch.read("pid").is_empty());
            t.note("pid file", t.scratch.read("pid"));
            t.note("ends", pen.end_with(Signal::SIGTERM));
            t.note("pid file, then", t.scratch.names().contains(&"pid".to_owned()));
            t.note("connection ended", held.ending(Duration::from_secs(5)) != client::Ending::Open);
        }),
        scenario("case_021_int_ends_it", |t| {
            let s = t.webs(1);
            let file = t.scratch.file("pid");
            let pen = t.pen(&["-p", &file]).servers(&s).start();
            wait_until("the pid file is written", || !t.scratch.read("pid").is_empty());
            t.note("ends", pen.end_with(Signal::SIGINT));
            t.note("pid file is left", t.scratch.names().contains(&"pid".to_owned()));
        }),
        controlled("case_022_a_connection_table_of_nothing", |t| {
            let s = t.webs(1);
            for connections in ["0", "abc"] {
                match t.pen(&["-x", connections]).control().servers(&s).try_start() {
                    Ok(pen) => t.note(format!("-x {connections}"), pen.ask("conn_max")),
                    Err(ended) => t.note(format!("-x {connections}"), ended.how()),
                }
            }
        }),
        scenario("case_022_a_connection_table_of_nothing_at_the_start", |t| {
            let s = t.webs(1);
            for connections in ["0", "abc", "-5"] {
                match t.pen(&["-x", connections]).command("conn_max").servers(&s).try_start() {
                    Ok(pen) => {
                        t.note(format!("-x {connections}: request"), pen.visit());
                        pen.end_with(Signal::SIGTERM);
                        t.note(format!("-x {connections}: conn_max"), pen.stdout());
                    }
                    Err(ended) => t.note(format!("-x {connections}"), ended.how()),
                }
            }
        }),
        scenario("case_023_groups_of_root_are_given_up", |t| {
            let s = t.webs(1);
            let pen = t.pen(&["-u", "nobody"]).servers(&s).through(&["setpriv", "--groups", "1,2,3"]).start();
            let gid = nix::unistd::User::from_name("nobody").unwrap().unwrap().gid;
            t.name(gid, "nogroup");
            let groups = processes::status(pen.pid, "Groups");
            // Only the group of that user, or none at all: both are right.
            t.note("groups", if groups.is_empty() { gid.to_string() } else { groups });
            t.note("request", pen.visit());
        })
        .needing_root(),
        controlled("case_024_025_026_forms_of_a_server", |t| {
            let servers = [
                "127.0.0.1",
                "[::1]:9001:1:2:3:4",
                "127.0.0.1:http:3",
                "[::1]",
                "127.0.0.1::5",
                "127.0.0.1:9001:10:20:3:4",
                "[127.0.0.1]:9002",
                "/run/x.sock",
            ];
            let pen = t.pen(&[]).control().servers(servers).start();
            let told = pen.ask("servers");
            t.note("lines", told.lines().count());
            for (server, line) in servers.iter().zip(told.lines()) {
                t.note(server, line);
            }
        }),
        scenario("case_027_numbers_of_servers_that_cannot_be", |t| {
            for server in [
                "127.0.0.1:99999",
                "127.0.0.1:9001x",
                "127.0.0.1:abc",
                "127.0.0.1:9001:-1",
                "127.0.0.1:9001:1x:2",
                "127.0.0.1:9001:10:20:3:4:junk",
                ":9001",
                "2001:db8::1:80",
            ] {
                let started = t.pen(&[]).servers([server]).try_start();
                t.note(server, started.map_or_else(|ended| ended.how(), |_| "starts".to_owned()));
            }
        }),
        scenario("case_028_ipv6_and_dual_stack", |t| {
            let s = t.webs(2);
            let pen = t.pen(&["-r"]).listen("::1:PORT").servers(&s).start();
            let port = pen.address.port();
            let visit = |host: &str| {
                let to = std::net::SocketAddr::new(host.parse().unwrap(), port);
                crate::pen::visit(host, to)
            };
            t.note("::1", visit("::1"));
            t.note("not 127.0.0.1", visit("127.0.0.1"));
            drop(pen);
            let pen = t.pen(&["-r"]).listen(":::PORT").servers(&s).start();
            let port = pen.address.port();
            let visit = |host: &str| {
                let to = std::net::SocketAddr::new(host.parse().unwrap(), port);
                crate::pen::visit(host, to)
            };
            t.note("dual stack, ::1", visit("::1"));
            t.note("dual stack, 127.0.0.1", visit("127.0.0.1"));
        }),
        scenario("unix_listener_and_unix_server", |t| {
            let path = t.scratch.file("front");
            let back = t.scratch.file("back");
            let listener = std::os::unix::net::UnixListener::bind(&back).unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut bytes = [0; 16];
                let count = std::io::Read::read(&mut stream, &mut bytes).unwrap();
                std::io::Write::write_all(&mut stream, &bytes[..count]).unwrap();
            });
            let pen = t.pen(&[]).listen(&path).servers([&back]).start();
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            std::io::Write::write_all(&mut stream, b"hello").unwrap();
            let mut bytes = [0; 5];
            let came = std::io::Read::read(&mut stream, &mut bytes).unwrap_or(0);
            t.note("echo", String::from_utf8_lossy(&bytes[..came]));
            server.join().unwrap();
            drop(pen);
        }),
        scenario("case_142_a_file_in_place_of_a_unix_listener", |t| {
            let s = t.webs(1);
            let file = t.scratch.write("file", "precious");
            let started = t.pen(&[]).listen(&file).servers(&s).try_start();
            t.note("start", started.map_or_else(|ended| ended.how(), |_| "serves".to_owned()));
            t.note("the file", t.scratch.read("file"));
            // A socket that a pen has left behind is replaced.
            let path = t.scratch.file("socket");
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let pen = t.pen(&[]).listen(&path).servers(&s).start();
            t.note("in place of a socket", UnixStream::connect(&path).is_ok());
            drop(pen);
        }),
        scenario("several_flags_in_one_word", |t| {
            let s = t.webs(3);
            let pen =
                t.pen(&["-hr", "-b5", "-ac", "100"]).command("mode").command("blacklist").servers(&s).start();
            pen.end_with(Signal::SIGTERM);
            t.note("stdout", pen.stdout());
        }),
        scenario("an_option_that_is_repeated_keeps_the_last_value", |t| {
            let s = t.webs(1);
            let pen = t.pen(&["-b", "5", "-b", "6"]).command("blacklist").servers(&s).start();
            pen.end_with(Signal::SIGTERM);
            t.note("stdout", pen.stdout());
        }),
        scenario("options_are_commands", |t| {
            let s = t.webs(1);
            let log = t.scratch.file("log");
            let page = t.scratch.file("page");
            let options =
                ["-W", "-h", "-r", "-s", "-b", "7", "-T", "8", "-t", "9", "-c", "3000", "-x", "600"];
            // The classic has too few descriptors for that many connections with select.
            let mut pen = t.pen(&options).epoll().options(["-l", &log, "-w", &page]);
            for query in
                ["mode", "blacklist", "tracking", "timeout", "clients_max", "conn_max", "log", "web_stats"]
            {
                pen = pen.command(query);
            }
            let pen = pen.servers(&s).start();
            pen.end_with(Signal::SIGTERM);
            t.note("stdout", pen.stdout());
        }),
        scenario("defaults", |t| {
            let s = t.webs(1);
            for query in [
                "mode",
                "blacklist",
                "tracking",
                "timeout",
                "clients_max",
                "conn_max",
                "log",
                "web_stats",
                "client_acl",
                "control_acl",
                "debug",
                "idle_timeout",
                "idlers",
                "tarpit_acl",
                "listen",
            ] {
                let pen = t.pen(&[]).command(query).servers(&s).start();
                pen.end_with(Signal::SIGTERM);
                t.note(query, pen.stdout());
            }
        }),
        scenario("windows_only", |t| {
            note_end(t, "-i", t.pen(&["-i", "name"]).servers(["127.0.0.1:9"]).run());
        }),
        scenario("no_servers_at_all", |t| {
            let started = t.pen(&[]).try_start();
            t.note("request", started.map_or_else(|ended| ended.how(), |pen| pen.visit()));
        }),
    ]
}
