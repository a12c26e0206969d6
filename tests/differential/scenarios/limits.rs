//! How many connections: to a server, and in all.

use std::time::Duration;

use super::choosing::burst;
use super::{Scenario, controlled, scenario};
use crate::pen::names;
use crate::support::{Ending, Held, client};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("case_065_a_soft_limit", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&[]).servers([format!("{}:1", g[0])]).start();
            let held = pen.hold_from_each(2..=4);
            t.note("three held", names(&held));
        })
        .with_two_workers_too(),
        scenario("case_066_067_a_hard_limit", |t| {
            let g = t.greeters(2);
            let servers = [g[0].to_string(), format!("{}:1:3", g[1])];
            let pen = t.pen(&[]).servers(servers).start();
            let held = pen.hold_many(6);
            t.note("one client", names(&held));
        })
        .with_two_workers_too(),
        scenario("case_067_everything_is_full", |t| {
            let g = t.greeters(2);
            let servers = [format!("{}:2", g[0]), format!("{}:1:3", g[1])];
            let pen = t.pen(&[]).servers(servers).start();
            let held = pen.hold_many(8);
            t.note("one client", names(&held));
        }),
        scenario("case_068_a_burst_meets_a_limit", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&[]).servers([format!("{}:2", g[0])]).start();
            let held = burst(&pen, 10);
            let served = held.iter().filter(|held| held.name == "G0").count();
            // The classic's number differs from run to run.
            t.note("served of 10", if served > 2 { "more than 2".to_owned() } else { served.to_string() });
        })
        .with_two_workers_too(),
        scenario("a_limit_sends_clients_elsewhere_and_to_the_emergency_server", |t| {
            let g = t.greeters(3);
            let servers = [format!("{}:1", g[0]), format!("{}:1", g[1])];
            let pen = t.pen(&["-e", &g[2].to_string()]).servers(servers).start();
            let held = pen.hold_from_each(2..=5);
            t.note("four held", names(&held));
        })
        .with_two_workers_too(),
        scenario("a_place_that_was_given_back_is_taken_again", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&[]).servers([format!("{}:1", g[0])]).start();
            let first = pen.hold_from("127.0.0.2");
            t.note("first", &first.name);
            drop(first);
            let mut next = pen.hold_from("127.0.0.3");
            crate::support::became_true(Duration::from_secs(5), || {
                if next.name == "closed" {
                    next = pen.hold_from("127.0.0.3");
                }
                next.name != "closed"
            });
            t.note("next", &next.name);
        })
        .with_two_workers_too(),
        scenario("case_073_a_table_of_two_connections", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&["-x", "2"]).servers(&g).start();
            let mut held = pen.hold_many(2);
            t.note("two held", names(&held));
            let third = pen.connect();
            third.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
            t.note("a third, at first", client::read_line(&third).unwrap_or_else(|| "silence".to_owned()));
            held.pop();
            third.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            t.note("when one leaves", Held::greeted(third).name);
        })
        .with_two_workers_too(),
        scenario("case_074_few_descriptors", |t| {
            let g = t.greeters(1);
            // Root could raise the limit.
            let limited = ["prlimit", "--nofile=20:20", "setpriv", "--bounding-set=-sys_resource"];
            let limited = if nix::unistd::geteuid().is_root() { &limited[..] } else { &limited[..2] };
            let pen = t.pen(&[]).through(limited).servers(&g).start();
            let clients: Vec<_> = (0..12).map(|_| pen.connect()).collect();
            let mut served = 0;
            for client in &clients {
                client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                served += usize::from(client::read_line(client).is_some_and(|line| line == "G0"));
            }
            let spins = pen.spins();
            drop(clients);
            let goes_on = pen.poll_end().is_none() && !spins && served > 0 && pen.hold().name == "G0";
            t.note("pen", if goes_on { "goes on, idle" } else { "ends or spins" });
        })
        .slow(),
        controlled("a_limit_changes_at_run_time", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&["-r"]).control().servers(&g).start();
            let held = pen.hold_many(2);
            t.note("two held", names(&held));
            pen.tell("server 0 max 2");
            t.note("max 2", pen.hold_from("127.0.0.2").name);
            pen.tell("server 0 max 3");
            let third = pen.hold_from("127.0.0.2");
            t.note("max 3", &third.name);
            t.note("the others live", held.iter().all(Held::echoes));
            t.note("and the third", third.ending(Duration::from_millis(100)) == Ending::Open);
        })
        .with_two_workers_too(),
        controlled("a_connection_table_grows_at_run_time", |t| {
            let g = t.greeters(1);
            let pen = t.pen(&[]).control().servers(&g).start();
            pen.note_asked(["conn_max 600", "clients_max 3000", "conn_max", "clients_max"]);
            t.note("a client", pen.hold().name);
        }),
    ]
}
