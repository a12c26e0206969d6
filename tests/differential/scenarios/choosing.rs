//! Which server a client gets.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Scenario, controlled, scenario};
use crate::pen::{DEADLINE, Pen, names, timed, visit, within};
use crate::support::{Backend, Held, client, let_pass, wait_until};

/// These servers, each with more fields.
fn with<'b>(servers: &'b [Backend], fields: &'b [&str]) -> impl Iterator<Item = String> + 'b {
    servers.iter().zip(fields).map(|(server, fields)| format!("{server}:{fields}"))
}

/// So many connections at the same moment: they wait already when pen looks.
pub fn burst(pen: &Pen<'_>, count: usize) -> Vec<Held> {
    let family = pen.family();
    let all = |signal| family.iter().for_each(|&pid| kill(Pid::from_raw(pid), signal).unwrap());
    all(Signal::SIGSTOP);
    wait_until("pen stops", || family.iter().all(|&pid| is_stopped(pid)));
    let from = "127.0.0.1".parse().unwrap();
    let clients: Vec<_> = (0..count).map(|_| client::connect(from, pen.address).unwrap()).collect();
    all(Signal::SIGCONT);
    clients.into_iter().map(Held::greeted).collect()
}

fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("case_029_round_robin", |t| {
            let s = t.webs(3);
            let pen = t.pen(&["-r"]).servers(&s).start();
            t.note("7 requests", pen.visits(7));
        })
        .with_two_workers_too(),
        scenario("case_030_031_a_client_stays_with_its_server", |t| {
            let s = t.webs(3);
            let pen = t.pen(&[]).servers(&s).start();
            t.note("one client", pen.visits(4));
            t.note("seven more", pen.visits_from(2..=8));
            t.note("again", pen.visits_from(2..=8));
        })
        .with_two_workers_too(),
        scenario("case_032_hash", |t| {
            let s = t.webs(3);
            let pen = t.pen(&["-h"]).servers(&s).start();
            t.note(".1 to .7", pen.visits_from(1..=7));
            t.note("again", pen.visits_from(1..=7));
            t.note("127.9.8.7", pen.visit_from("127.9.8.7"));
        })
        .with_two_workers_too(),
        scenario("case_033_hash_with_port", |t| {
            let s = t.webs(5);
            let pen = t.pen(&["-h", "-r"]).servers(&s).start();
            let mut right = 0;
            for _ in 0..25 {
                let stream = pen.connect();
                let port = stream.local_addr().unwrap().port();
                let number = u32::from_le_bytes([127, 0, 0, 1]) ^ u32::from(port.swap_bytes());
                right += usize::from(client::request(stream, "/") == format!("S{}", number % 5));
            }
            t.note("25 requests, as the formula says", right);
        })
        .with_two_workers_too(),
        scenario("case_034_035_036_weight", |t| {
            for weights in [["0:0:1", "0:0:2", "0:0:3"], ["0:0:0", "0:0:2", "0:0:3"], ["0:0:1"; 3]] {
                let g = t.greeters(3);
                let pen = t.pen(&["-W"]).servers(with(&g, &weights)).start();
                let mut held = Vec::new();
                for n in 2..14 {
                    held.push(pen.hold_from(&format!("127.0.0.{n}")));
                }
                t.note(weights.join(" "), names(&held));
            }
        })
        .with_two_workers_too(),
        scenario("case_037_weight_leaves_known_clients_alone", |t| {
            let g = t.greeters(3);
            let pen = t.pen(&["-W"]).servers(with(&g, &["0:0:1"; 3])).start();
            t.note("one client", names(&pen.hold_many(4)));
        })
        .with_two_workers_too(),
        scenario("weight_with_roundrobin", |t| {
            let g = t.greeters(3);
            let pen = t.pen(&["-W", "-r"]).servers(with(&g, &["0:0:1", "0:0:2", "0:0:3"])).start();
            t.note("one client", names(&pen.hold_many(12)));
        })
        .with_two_workers_too(),
        scenario("case_038_no_weight_at_all", |t| {
            let s = t.webs(3);
            let pen = t.pen(&["-W"]).servers(&s).start();
            let answers: Vec<String> = (2..5).map(|n| pen.visit_from(&format!("127.0.0.{n}"))).collect();
            let served = answers.iter().filter(|answer| answer.starts_with('S')).count();
            t.note("served of 3", served);
        })
        .with_two_workers_too(),
        scenario("case_039_a_burst_by_weight", |t| {
            let g = t.greeters(3);
            let pen = t.pen(&["-W", "-r"]).servers(with(&g, &["0:0:1"; 3])).start();
            let held = burst(&pen, 12);
            t.note("served of 12", held.iter().filter(|held| held.name.starts_with('G')).count());
            let most = g.iter().map(Backend::open).max().unwrap();
            t.note("on the busiest", if most > 4 { "more than 4".to_owned() } else { most.to_string() });
        })
        .with_two_workers_too(),
        controlled("case_040_prio", |t| {
            let s = t.webs(3);
            let servers = with(&s, &["0:0:0:2", "0:0:0:1", "0:0:0:3"]);
            let pen = t.pen(&[]).control().command("prio").servers(servers).start();
            t.note("four clients", pen.visits_from(2..6));
            pen.tell("server 1 blacklist 100");
            t.note("new clients", pen.visits_from(6..8));
        })
        .with_two_workers_too(),
        scenario("case_040_prio_without_commands", |t| {
            let s = t.webs(3);
            let servers = with(&s, &["0:0:0:2", "0:0:0:1", "0:0:0:3"]);
            let pen = t.pen(&[]).command("prio").servers(servers).start();
            t.note("four clients", pen.visits_from(2..6));
            t.note("again", pen.visits_from(2..6));
        })
        .with_two_workers_too(),
        scenario("case_041_prio_with_limits", |t| {
            let g = t.greeters(3);
            let servers = with(&g, &["2:0:0:2", "2:0:0:1", "2:0:0:3"]);
            let pen = t.pen(&["-r"]).command("prio").servers(servers).start();
            let held = pen.hold_many(6);
            t.note("six held", names(&held));
            t.note("a seventh", pen.hold().name);
        })
        .with_two_workers_too(),
        scenario("case_042_prio_beats_hash_weight_beats_hash", |t| {
            let g = t.greeters(3);
            let servers = with(&g, &["0:0:0:2", "0:0:0:1", "0:0:0:3"]);
            let pen = t.pen(&["-h"]).command("prio").servers(servers).start();
            t.note("-h and prio", names(&pen.hold_from_each(2..8)));
            let servers = with(&g, &["0:0:1", "0:0:2", "0:0:3"]);
            let pen = t.pen(&["-h", "-W"]).servers(servers).start();
            t.note("-h -W", names(&pen.hold_from_each(2..8)));
            let servers = with(&g, &["0:0:1:2", "0:0:2:1", "0:0:3:3"]);
            let pen = t.pen(&["-W"]).command("prio").servers(servers).start();
            t.note("-W and prio", names(&pen.hold_from_each(2..8)));
        })
        .with_two_workers_too(),
        controlled("case_043_a_server_is_blacklisted_by_command", |t| {
            let s = t.webs(3);
            let pen = t.pen(&["-r"]).control().servers(&s).start();
            pen.tell("server 1 blacklist 100");
            t.note("without it", pen.visits(4));
            pen.tell("server 1 blacklist 0");
            t.note("with it", pen.visits(4));
        })
        .with_two_workers_too(),
        controlled("case_044_all_servers_are_blacklisted", |t| {
            let s = t.webs(2);
            let pen = t.pen(&[]).control().servers(&s).start();
            pen.tell("server 0 blacklist 100");
            pen.tell("server 1 blacklist 100");
            t.note("requests", pen.visits(2));
            pen.note_asked(["blacklist 0"]);
            t.note("without a blacklist", pen.visits(2));
        }),
        controlled("case_045_the_emergency_server", |t| {
            let s = t.webs(2);
            let e = t.server("E", Backend::web("E"));
            let pen = t.pen(&["-e", &e.to_string()]).control().servers(&s).start();
            pen.tell("server 0 blacklist 100");
            pen.tell("server 1 blacklist 100");
            t.note("in an emergency", pen.visits(2));
            pen.tell("server 0 blacklist 0");
            pen.tell("server 1 blacklist 0");
            t.note("afterwards, served by a regular one", pen.visit().starts_with('S'));
        }),
        controlled("case_046_stubborn_has_no_emergency", |t| {
            let s = t.webs(2);
            let e = t.server("E", Backend::web("E"));
            let pen = t.pen(&["-s", "-e", &e.to_string()]).control().servers(&s).start();
            pen.tell("server 0 blacklist 100");
            pen.tell("server 1 blacklist 100");
            t.note("requests", pen.visits(2));
        }),
        controlled("case_047_who_had_to_move_stays", |t| {
            let s = t.webs(3);
            let pen = t.pen(&[]).control().servers(&s).start();
            t.note("at first", pen.visit());
            pen.tell("server 1 blacklist 2");
            t.note("without its server", pen.visit());
            let_pass(Duration::from_millis(2200));
            t.note("when it is back", pen.visits(2));
        })
        .slow(),
        controlled("case_048_stubborn_waits_for_its_server", |t| {
            let s = t.webs(3);
            let pen = t.pen(&["-s"]).control().servers(&s).start();
            t.note("at first", pen.visit());
            pen.tell("server 1 blacklist 2");
            t.note("without its server", pen.visit());
            let_pass(Duration::from_millis(2200));
            t.note("when it is back", pen.visit());
        })
        .slow(),
        controlled("case_049_hash_and_stubborn", |t| {
            let s = t.webs(3);
            let pen = t.pen(&["-h", "-s"]).control().servers(&s).start();
            pen.tell("server 0 blacklist 100");
            t.note(".1 to .7", pen.visits_from(1..=7));
        }),
        scenario("case_050_a_server_that_is_down", |t| {
            let mut s = t.webs(3);
            s[1].down();
            let pen = t.pen(&["-r"]).servers(&s).start();
            t.note("requests", pen.visits(6));
            s[1].up();
            t.note("still left out", pen.visits(4));
        })
        .with_two_workers_too(),
        scenario("case_050_a_server_that_was_down", |t| {
            let mut s = t.webs(3);
            s[1].down();
            let pen = t.pen(&["-r", "-b", "2"]).servers(&s).start();
            t.note("requests", pen.visits(3));
            s[1].up();
            let_pass(Duration::from_millis(3100));
            let later = pen.visits(3);
            let mut servers: Vec<&str> = later.split(' ').collect();
            servers.sort_unstable();
            t.note("after the blacklist time, every server once", servers.join(" "));
        })
        .slow(),
        scenario("case_051_a_server_that_is_down_and_epoll", |t| {
            let mut s = t.webs(3);
            s[1].down();
            let pen = t.pen(&["-r"]).epoll().servers(&s).start();
            t.note("requests", pen.visits(6));
        }),
        scenario("case_052_a_server_that_vanished", |t| {
            let mut s = t.webs(3);
            s[1] = t.server("S1x", Backend::hanging("S1"));
            let pen = t.pen(&["-t", "1", "-r"]).servers(&s).start();
            let (answer, took) = timed(|| pen.visit());
            t.note("first request", answer);
            t.note("it took", within(took, 900, 2500));
            let (answer, took) = timed(|| pen.visit());
            t.note("next request", answer);
            t.note("that took", within(took, 0, 700));
        }),
        scenario("case_053_two_dead_servers_and_no_blacklist", |t| {
            let mut s = t.webs(2);
            s.iter_mut().for_each(Backend::down);
            let pen = t.pen(&["-b", "0", "-t", "5"]).servers(&s).start();
            let stream = pen.connect();
            stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
            t.note("request", client::request(stream, "/"));
        }),
        scenario("case_054_the_emergency_server_for_one_that_is_down", |t| {
            let mut s = t.webs(1);
            s[0].down();
            let e = t.server("E", Backend::web("E"));
            let pen = t.pen(&["-e", &e.to_string()]).servers(&s).start();
            t.note("requests", pen.visits(4));
        })
        .with_two_workers_too(),
        scenario("stubborn_round_robin_leaves_a_dead_server_out", |t| {
            let mut s = t.webs(3);
            s[2].down();
            let pen = t.pen(&["-s"]).servers(&s).start();
            t.note(".1 to .4", pen.visits_from(1..=4));
            t.note("again", pen.visits_from(1..=4));
        })
        .with_two_workers_too(),
        scenario("fail_over_goes_by_index_also_from_a_hash", |t| {
            let mut s = t.webs(3);
            s[2].down();
            let pen = t.pen(&["-h"]).servers(&s).start();
            t.note(".1 to .7", pen.visits_from(1..=7));
            s[2].up();
            t.note("and there they stay", pen.visits_from(1..=7));
        })
        .with_two_workers_too(),
        scenario("a_server_with_port_0_is_never_tried", |t| {
            let s = t.webs(2);
            let file = format!(
                "server 0 address 127.0.0.1 port {}\nserver 1 address 127.0.0.1 port 0\nserver 2 address 127.0.0.1 port {}\n",
                s[0].port(),
                s[1].port()
            );
            let file = t.scratch.write("config", &file);
            let pen = t.pen(&["-r", "-F", &file]).start();
            t.note("requests", pen.visits(6));
        }),
        scenario("case_140_the_source_address", |t| {
            let server = Backend::serving("S", |visit| {
                let peer = visit.stream.peer_addr().unwrap().ip();
                if visit.read_head() {
                    visit.answer(&peer.to_string());
                }
            });
            let server = t.server("S0", server);
            let pen = t.pen(&[]).command("source 127.0.0.55").servers([&server]).start();
            // The classic binds to a port that it leaves to chance as well, so that a second connection may get neither.
            t.note("the server sees", pen.visit());
        }),
        scenario("case_141_dummy", |t| {
            let pen = t.pen(&[]).command("dummy").servers(["127.0.0.1:9"]).start();
            let stream = pen.connect();
            std::io::Write::write_all(&mut &stream, b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let answer = crate::pen::answer(&stream);
            t.note("status", answer.lines().next().unwrap_or_default());
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            let length =
                head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap_or_default();
            t.note("length is right", length == body.len().to_string());
        }),
        scenario("case_069_a_client_table_of_two", |t| {
            let s = t.webs(3);
            let pen = t.pen(&["-c", "2"]).servers(&s).start();
            let mut answers = Vec::new();
            for n in [2, 3, 2, 4, 2, 3] {
                answers.push(pen.visits_from([n]));
                let_pass(Duration::from_millis(1100));
            }
            t.note(".2 .3 .2 .4 .2 .3", answers.join(" "));
        })
        .slow(),
        scenario("case_070_the_tracking_time", |t| {
            let s = t.webs(3);
            let pen = t.pen(&["-T", "2"]).servers(&s).start();
            t.note("at first", pen.visits(2));
            let_pass(Duration::from_millis(4200));
            t.note("later", pen.visit());
        })
        .slow(),
        scenario("case_071_clients_over_ipv6", |t| {
            // ::1 and, through the dual stack, two IPv4 clients: all of one family for the classic.
            let s = t.webs(3);
            let pen = t.pen(&[]).listen(":::PORT").servers(&s).start();
            let port = pen.address.port();
            let from = |source: &str| {
                visit(
                    source,
                    SocketAddr::new(
                        if source.contains(':') { "::1" } else { "127.0.0.1" }.parse().unwrap(),
                        port,
                    ),
                )
            };
            let answers: Vec<String> = ["::1", "127.0.0.2", "127.0.0.3", "::1"].map(from).into();
            t.note("::1 .2 .3 ::1", answers.join(" "));
        }),
        controlled("case_071_records_of_clients_over_ipv6", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().listen(":::PORT").servers(&s).start();
            for (source, host) in [("::1", "::1"), ("127.0.0.2", "127.0.0.1"), ("127.0.0.3", "127.0.0.1")] {
                visit(source, SocketAddr::new(host.parse().unwrap(), pen.address.port()));
            }
            let recent = pen.ask("recent");
            t.note("records", recent.lines().count());
        }),
        scenario("a_refused_connect_moves_the_client_for_good", |t| {
            let mut s = t.webs(3);
            let pen = t.pen(&["-b", "1"]).servers(&s).start();
            t.note("at first", pen.visits(2));
            s[1].down();
            t.note("its server is down", pen.visit());
            s[1].up();
            let_pass(Duration::from_millis(2100));
            t.note("its server is back", pen.visits(2));
        })
        .slow(),
        scenario("who_is_served_in_an_emergency_is_new_afterwards", |t| {
            let mut s = t.webs(1);
            s[0].down();
            let e = t.server("E", Backend::web("E"));
            let pen = t.pen(&["-b", "1", "-e", &e.to_string()]).servers(&s).start();
            t.note("in an emergency", pen.visits(2));
            s[0].up();
            let mut last = String::new();
            crate::support::became_true(DEADLINE, || {
                last = pen.visit();
                last == "S0"
            });
            t.note("afterwards", last);
            wait_until("the emergency is over", || e.open() == 0);
        }),
    ]
}
