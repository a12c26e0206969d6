//! Every command and its answer: asked, set, with junk, and switched off.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Scenario, controlled, scenario};
use crate::pen::{DEADLINE, Pen, names};
use crate::stage::Stage;
use crate::support::{Backend, Ending, Held, became_true, let_pass, page, processes, wait_until};

/// A pen whose only server is nobody, for commands alone.
fn idle(t: &Stage) -> Pen<'_> {
    t.pen(&[]).control().servers(["127.0.0.1:9"]).start()
}

/// These commands in this order, to one pen.
fn asked(t: &Stage, commands: &[&str]) {
    idle(t).note_asked(commands.iter().copied());
}

/// What `servers` tells once nothing is open any more.
fn settled(pen: &Pen<'_>, command: &str, all: &str) -> String {
    pen.ask_until(command, |answer| answer.contains(all))
}

/// The same, and all connections have ended.
fn at_rest(pen: &Pen<'_>, all: &str, times: usize) -> String {
    pen.ask_until("servers", |answer| {
        answer.matches(all).count() == times && answer.matches(" conn 0 ").count() == answer.lines().count()
    })
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        controlled("case_108_numbers", |t| {
            let commands = [
                "blacklist",
                "blacklist 7",
                "blacklist",
                "timeout",
                "timeout 8",
                "timeout",
                "tracking",
                "tracking 5",
                "tracking",
                "client_acl",
                "client_acl 3",
                "client_acl",
                "control_acl",
                "control_acl 4",
                "control_acl",
                "debug",
                "debug 1",
                "debug",
                "debug 0",
            ];
            asked(t, &commands);
        }),
        controlled("numbers_that_are_none", |t| {
            let commands = [
                "blacklist abc",
                "blacklist",
                "timeout 4",
                "timeout abc",
                "timeout",
                "timeout 4",
                "tracking abc",
                "tracking",
                "client_acl abc",
                "client_acl",
                "control_acl abc",
                "control_acl",
                "debug abc",
                "debug",
                "idle_timeout abc",
                "idle_timeout",
                "clients_max abc",
                "clients_max",
                "conn_max abc",
                "conn_max",
                "pending_max abc",
                "recent abc",
                "connection abc",
                "close abc",
                "socket abc",
            ];
            asked(t, &commands);
        }),
        controlled("numbers_with_something_behind", |t| {
            asked(
                t,
                &["blacklist 7x", "blacklist", "timeout 8s", "timeout", "idle_timeout 3s", "idle_timeout"],
            );
        }),
        controlled("numbers_below_zero", |t| {
            let commands = [
                "blacklist -5",
                "blacklist",
                "tracking -5",
                "tracking",
                "client_acl -1",
                "client_acl",
                "control_acl -1",
                "control_acl",
                "debug -1",
                "debug",
                "idle_timeout -4",
                "idle_timeout",
                "clients_max -5",
                "clients_max",
                "pending_max -5",
                "recent -1",
                "connection -1",
                "close -1",
            ];
            asked(t, &commands);
        }),
        controlled("numbers_that_are_large", |t| {
            asked(
                t,
                &["blacklist 2147483647", "blacklist", "tracking 1000000", "debug 9", "debug", "debug 0"],
            );
        }),
        controlled("case_109_a_list_that_does_not_exist", |t| {
            asked(t, &["client_acl 10", "client_acl", "control_acl 10", "control_acl"]);
        }),
        controlled("case_110_tables_only_grow", |t| {
            asked(
                t,
                &[
                    "clients_max",
                    "clients_max 10",
                    "clients_max 3000",
                    "conn_max",
                    "conn_max 10",
                    "conn_max 600",
                ],
            );
        }),
        controlled("case_111_connections_out_of_range", |t| {
            asked(t, &["close 999", "connection 500", "connection 999", "close 500"]);
        }),
        controlled("case_112_the_other_numbers", |t| {
            let commands = [
                "idle_timeout",
                "idle_timeout 9",
                "idle_timeout",
                "idlers",
                "idlers 0",
                "tarpit_acl",
                "tarpit_acl -1",
                "pending_max",
                "pending_max 5",
                "pending_max",
            ];
            asked(t, &commands);
        }),
        controlled("switches_of_the_mode", |t| {
            let mut commands = Vec::new();
            for word in ["hash", "roundrobin", "stubborn", "weight", "prio"] {
                commands.extend([word.to_owned(), "mode".into(), format!("no {word}"), "mode".into()]);
            }
            asked(t, &commands.iter().map(String::as_str).collect::<Vec<_>>());
        }),
        controlled("other_switches", |t| {
            for word in ["ascii", "keepalive", "tcp_nodelay", "dummy", "abort_on_error"] {
                asked(t, &[word, &format!("no {word}")]);
            }
        }),
        controlled("switched_off_although_never_on", |t| {
            asked(t, &["no http", "no peek", "no transparent", "no log", "no web_stats"]);
        }),
        controlled("event_engines", |t| {
            asked(t, &["epoll", "poll", "select", "mode"]);
        }),
        controlled("words_of_old", |t| {
            asked(t, &["block", "delayed_forward", "no block", "no delayed_forward"]);
        }),
        controlled("not_in_this_version_commands", |t| {
            let commands = ["tarpit_acl 1", "idlers 0", "dsr_ip 127.0.0.1"];
            asked(t, &commands);
        }),
        controlled("tls_by_command", |t| {
            let commands = [
                "ssl_ciphers HIGH",
                "ssl_ciphers",
                "ssl_option no_sslv3",
                "ssl_option nonsense",
                "ssl_sni_path /tmp",
                "ssl_client_renegotiation_interval 60",
            ];
            asked(t, &commands);
        }),
        controlled("lists_by_command", |t| {
            let commands = [
                "acl 1 permit 127.0.0.2",
                "acl 1 deny 10.0.0.0 255.0.0.0",
                "acl 1 permit ::1",
                "acl 1 deny 2001:db8::/32",
                "no acl 1",
                "no acl 9",
            ];
            asked(t, &commands);
        }),
        controlled("lists_by_command_with_mistakes", |t| {
            let commands = [
                "acl x permit 127.0.0.2",
                "acl 10 permit 127.0.0.2",
                "acl 1 allow 127.0.0.2",
                "acl 1 permit nonsense",
                "no acl 10",
            ];
            asked(t, &commands);
        }),
        controlled("networks_with_a_length", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().servers(&s).start();
            pen.note_asked(["acl 1 deny 127.0.0.0/8", "client_acl 1"]);
            t.note("127.0.0.1", pen.visit());
        }),
        controlled("the_pid_and_where_commands_go", |t| {
            let pen = idle(t);
            t.name(pen.pid, "pid");
            pen.note_asked(["pid", "pid x", "control", "listen", "log", "web_stats", "mode"]);
        }),
        controlled("files_are_answered", |t| {
            let pen = idle(t);
            let (log, page) = (t.scratch.file("log"), t.scratch.file("page"));
            for command in
                [format!("log {log}"), "log".into(), format!("web_stats {page}"), "web_stats".into()]
            {
                t.note(&command, pen.ask(&command));
            }
            pen.note_asked(["no log", "log", "no web_stats", "web_stats"]);
        }),
        controlled("case_114_a_server_far_up", |t| {
            let s = t.webs(3);
            let pen = t.pen(&["-r"]).control().servers(&s[..2]).start();
            pen.tell(format!("server 5 address 127.0.0.1 port {}", s[2].port()));
            let servers = pen.ask("servers");
            t.note("servers", servers.lines().count());
            t.note("the sixth", servers.lines().nth(5).unwrap_or_default());
            // Where in the order the free slots come is not the point.
            let answers = pen.visits(12);
            t.note("it is used", answers.split(' ').any(|answer| answer == "S2"));
            t.note("nobody is closed", !answers.contains("closed"));
        }),
        controlled("case_115_a_server_changes", |t| {
            let s = t.webs(2);
            let pen = t.pen(&[]).control().servers(&s[..1]).start();
            t.note("at first", pen.visit());
            wait_until("it is over", || s[0].open() == 0);
            pen.tell(format!("server 0 port {} max 4", s[1].port()));
            t.note("then", pen.visit());
            let servers = pen.ask_until("servers", |servers| servers.contains("conn 0"));
            let shown: Vec<&str> = servers.split(" sx ").next().unwrap_or_default().split(' ').collect();
            t.note("servers", shown.join(" "));
        }),
        controlled("keys_of_a_server", |t| {
            let pen = t.pen(&[]).control().servers(["127.0.0.1:9", "127.0.0.1:10"]).start();
            for command in [
                "server 0 max 5",
                "server 0 hard 6",
                "server 0 weight 7",
                "server 0 prio 8",
                "server 0 port 11",
                "server 0 address 127.0.0.9",
                "server 0 acl 3",
                "server 0 max 1 hard 2 weight 3 prio 4",
                "server 1 address ::1",
                "server 1",
                "server 2 address 127.0.0.1 port 12 max 3",
                "server 0 prio -5",
            ] {
                pen.note_asked([command, "servers"]);
            }
        }),
        controlled("keys_of_a_server_with_mistakes", |t| {
            for command in [
                "server abc max 3",
                "server -1 max 3",
                "server 0 wieght 3",
                "server 0 max",
                "server 0 max abc",
                "server 0 max -1",
                "server 0 port 70000",
                "server 0 port http",
                "server 0 acl 10",
                "server 0 address nosuch.invalid max 3",
                "server 0 nonsense 1 max 3",
                "server",
            ] {
                let pen = t.pen(&[]).control().servers(["127.0.0.1:9"]).start();
                pen.note_asked([command]);
                t.note(format!("{command}, then servers"), pen.ask("servers"));
            }
        })
        .slow(),
        controlled("blacklisting_by_command", |t| {
            let s = t.webs(2);
            let pen = t.pen(&["-r"]).control().servers(&s).start();
            for command in
                ["server 0 blacklist 100", "server 0 blacklist 0", "server 1 blacklist 100", "blacklist 0"]
            {
                t.note(command, pen.ask(command));
                t.note(format!("{command}: requests"), pen.visits(3));
            }
        }),
        controlled("case_116_another_listener", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&[]).control().servers(&g).start();
            let held = pen.hold();
            t.note("held", &held.name);
            let port = t.port("L2");
            t.note("listen", pen.ask(&format!("listen 127.0.0.1:{port}")));
            pen.note_asked(["listen"]);
            wait_until("it listens", || processes::listening(port));
            let new = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            new.set_read_timeout(Some(DEADLINE)).unwrap();
            t.note("the new port", Held::greeted(new).name);
            let refused = became_true(DEADLINE, || !processes::listening(pen.address.port())).is_some();
            t.note("the old port is closed", refused);
            t.note("the connection lives", held.echoes());
        })
        .with_two_workers_too(),
        controlled("case_118_the_status_page", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().servers(&s).start();
            let without = pen.ask("status");
            t.note("without -w", if without.contains("Pen status page") { "a page" } else { &without });
            drop(pen);
            let file = t.scratch.file("page");
            let pen = t.pen(&["-w", &file]).control().servers(&s).start();
            t.note("a request", pen.visit());
            let page = pen.ask("status");
            t.note("title", page.contains("Pen status page"));
            t.note("servers", page.contains("1 servers"));
            let tables = page::tables(&page);
            t.note("three tables at least", tables.len() >= 3);
            for (number, table) in tables.iter().take(3).enumerate() {
                let heading: Vec<String> = table[0].iter().map(|cell| cell.to_lowercase()).collect();
                t.note(format!("columns of table {number}"), heading.join(" | "));
            }
            t.note("server", page::column(&page, "server", "address").join(" "));
            t.note("port", page::column(&page, "server", "port").join(" "));
            t.note("client", page::column(&page, "client", "address").join(" "));
            t.note("connects", page::column(&page, "client", "connects").join(" "));
            t.note("the file is written, too", t.scratch.read("page").contains("Pen status page"));
        }),
        controlled("case_120_counts", |t| {
            let s = t.webs(2);
            let pen = t.pen(&[]).control().servers(&s).start();
            pen.note_asked(["servers", "recent"]);
            t.note("a request", pen.visit());
            // 18 bytes of request, 40 of answer.
            t.note(
                "servers, then",
                settled(&pen, "servers", "conn 0 max 0 hard 0 weight 0 prio 0 sx 18 rx 40"),
            );
            t.note("recent, then", settled(&pen, "recent", "sx 40 rx 18"));
            t.note("another", pen.visit_from("127.0.0.9"));
            t.note("and one more", pen.visit());
            t.note("servers, at last", at_rest(&pen, "sx 36 rx 80", 1));
            t.note("recent, at last", settled(&pen, "recent", "sx 80 rx 36"));
            pen.note_asked(["recent 100"]);
        }),
        controlled("case_120_counts_with_two_workers", |t| {
            let s = t.webs(3);
            let pen = t.pen(&["-r"]).control().servers(&s).start();
            t.note("requests", pen.visits(6));
            t.note("servers", at_rest(&pen, "sx 36 rx 80", 3));
            t.note("recent", settled(&pen, "recent", "sx 240 rx 108"));
        })
        .with_two_workers_too(),
        controlled("open_connections_are_counted", |t| {
            let g = t.greeters(2);
            let pen = t.pen(&["-r"]).control().servers(&g).start();
            let held = pen.hold_many(3);
            t.note("held", names(&held));
            let counted = |text: &str| {
                [
                    "conn 1 max 0 hard 0 weight 0 prio 0 sx 0 rx 3",
                    "conn 2 max 0 hard 0 weight 0 prio 0 sx 0 rx 6",
                ]
                .iter()
                .all(|line| text.contains(line))
            };
            t.note("servers", pen.ask_until("servers", counted));
            drop(held);
            let none = |text: &str| text.matches("conn 0").count() == 2;
            t.note("servers, then", pen.ask_until("servers", none));
        })
        .with_two_workers_too(),
        controlled("a_connection_is_shown", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&[]).control().servers(&g).start();
            let held = pen.hold();
            t.note("echoes", held.echoes());
            let shown = pen.ask("connection 0");
            let descriptors: Vec<&str> =
                shown.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()).collect();
            let (down, up) = (descriptors.get(2).unwrap_or(&"?"), descriptors.get(3).unwrap_or(&"?"));
            let named = shown.replace(&format!("downfd = {down},"), "downfd = <down>,");
            t.note("connection 0", named.replace(&format!("upfd = {up}\n"), "upfd = <up>\n"));
            t.note("connection", pen.ask("connection").lines().next().unwrap_or_default());
            let socket =
                pen.ask(&format!("socket {down}")).replace(&format!("Socket {down} "), "Socket <down> ");
            t.note("socket of the client", socket);
            let socket = pen.ask(&format!("socket {up}")).replace(&format!("Socket {up} "), "Socket <up> ");
            t.note("socket of the server", socket);
            pen.note_asked(["socket 400"]);
            t.note("close 0", pen.ask("close 0"));
            t.note("it ends", held.ending(DEADLINE) != Ending::Open);
            t.note("for the server, too", became_true(DEADLINE, || g[0].open() == 0).is_some());
            t.note("servers", at_rest(&pen, "sx 15 rx 18", 1));
        }),
        controlled("an_unused_connection_is_shown", |t| {
            let pen = idle(t);
            let shown = pen.ask("connection 7");
            t.note("connection 7", shown.lines().take(2).collect::<Vec<_>>().join("\n"));
        }),
        controlled("an_unused_connection_is_closed", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&[]).control().servers(&g).start();
            pen.note_asked(["close 7", "close"]);
            let held = pen.hold();
            t.note("a client", &held.name);
            let count = settled(&pen, "servers", "conn 1");
            t.note("counted", count.split(' ').nth(6).unwrap_or_default().to_owned());
        }),
        controlled("recent_clients", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().servers(&s).start();
            pen.note_asked(["recent"]);
            for n in [2, 3, 2] {
                pen.visits_from([n]);
            }
            t.note("recent, then", settled(&pen, "recent", "127.0.0.2 connects 2 sx 80 rx 36"));
            let_pass(Duration::from_millis(2100));
            pen.visits_from([4]);
            t.note("recent 1", settled(&pen, "recent 1", "sx 40 rx 18"));
        })
        .slow(),
        controlled("the_source_address_by_command", |t| {
            let server = Backend::serving("S", |visit| {
                let peer = visit.stream.peer_addr().unwrap().ip();
                if visit.read_head() {
                    visit.answer(&peer.to_string());
                }
            });
            let server = t.server("S0", server);
            let pen = t.pen(&[]).control().servers([&server]).start();
            t.note("at first", pen.visit());
            pen.note_asked(["source 127.0.0.55"]);
            t.note("then", pen.visit());
            pen.note_asked(["source nosuch.invalid"]);
        }),
        controlled("fastclose_by_command", |t| {
            let commands = [
                "tcp_fastclose up",
                "tcp_fastclose down",
                "tcp_fastclose both",
                "tcp_fastclose off",
                "tcp_fastclose",
                "tcp_fastclose junk",
            ];
            asked(t, &commands);
        }),
        controlled("dummy_by_command", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().servers(&s).start();
            pen.note_asked(["dummy"]);
            let stream = pen.connect();
            std::io::Write::write_all(&mut &stream, b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let answer = crate::pen::answer(&stream);
            t.note("status", answer.lines().next().unwrap_or_default());
            pen.note_asked(["no dummy"]);
            t.note("then", pen.visit());
        }),
        controlled("a_file_is_included", |t| {
            let pen = idle(t);
            let file = t.scratch.write("file", "blacklist 7\nhash\nfoo\ntimeout\n");
            t.note("include", pen.ask(&format!("include {file}")));
            pen.note_asked(["blacklist", "mode"]);
            pen.end_with(Signal::SIGTERM);
            t.note("stdout", pen.stdout());
        }),
        controlled("modes_change_at_run_time", |t| {
            let s = t.webs(3);
            let pen = t.pen(&[]).control().servers(&s).start();
            t.note("one client", pen.visits(3));
            for command in ["roundrobin", "hash", "no roundrobin", "no hash"] {
                pen.note_asked([command]);
                // By address alone, so that ports do not matter.
                let answers = match command {
                    "hash" => "by address and port".to_owned(),
                    _ => pen.visits(3),
                };
                t.note(format!("{command}: one client"), answers);
            }
        })
        .with_two_workers_too(),
        scenario("commands_at_the_start_and_their_answers", |t| {
            let s = t.webs(1);
            for commands in [
                &["blacklist 7", "blacklist"][..],
                &["client_acl 3"],
                &["timeout 8"],
                &["tracking 5"],
                &["debug 0"],
                &["idle_timeout 9", "idle_timeout"],
                &["idlers"],
                &["tarpit_acl"],
                &["clients_max 10"],
                &["clients_max 3000"],
                &["conn_max 10"],
                &["hash", "mode", "no hash", "mode"],
                &["tcp_fastclose up"],
                &["pending_max 7"],
                &["web_stats /tmp/nobody", "web_stats", "no web_stats", "web_stats"],
                &["foo bar"],
                &["no foo"],
                &["# a comment"],
                &["BLACKLIST"],
                &["block"],
                &["tcp_fastclose"],
                &["keepalive", "no keepalive"],
                &["ascii", "no ascii"],
                &["tcp_nodelay", "no tcp_nodelay"],
                &["abort_on_error", "no abort_on_error"],
                &["poll", "epoll"],
            ] {
                let mut pen = t.pen(&[]);
                for command in commands {
                    pen = pen.command(command);
                }
                let pen = pen.servers(&s).start();
                t.note(format!("{}: request", commands.join(", ")), pen.visit());
                pen.end_with(Signal::SIGTERM);
                t.note(commands.join(", "), pen.stdout());
            }
        })
        .slow(),
        scenario("commands_at_the_start_with_mistakes", |t| {
            for command in [
                "blacklist abc",
                "tracking -5",
                "client_acl 10",
                "acl x permit 127.0.0.2",
                "acl 1 allow 127.0.0.2",
                "server abc max 3",
                "tcp_fastclose junk",
                "include /no/such/file",
                "source nosuch.invalid",
            ] {
                let started = t.pen(&[]).command(command).servers(["127.0.0.1:9"]).try_start();
                t.note(command, started.map_or_else(|ended| ended.how(), |_| "starts".to_owned()));
            }
        }),
    ]
}
