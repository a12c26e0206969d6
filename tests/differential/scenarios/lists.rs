//! Access lists, the abuse server and the emergency server.

use std::net::SocketAddr;

use super::{Scenario, controlled, scenario};
use crate::pen::visit;
use crate::stage::Stage;
use crate::support::Backend;

/// One server, these commands before the start, one request from each source.
fn note_lists(t: &Stage, label: &str, commands: &[&str], sources: &[&str]) {
    let s = t.webs(1);
    let mut pen = t.pen(&[]);
    for command in commands {
        pen = pen.command(command);
    }
    let pen = pen.servers(&s).start();
    for source in sources {
        t.note(format!("{label}: {source}"), pen.visit_from(source));
    }
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("case_055_a_list_that_permits", |t| {
            note_lists(t, "permit", &["acl 1 permit 127.0.0.2", "client_acl 1"], &["127.0.0.2", "127.0.0.3"]);
        })
        .with_two_workers_too(),
        scenario("case_056_a_list_that_denies", |t| {
            note_lists(t, "deny", &["acl 1 deny 127.0.0.2", "client_acl 1"], &["127.0.0.2", "127.0.0.3"]);
        }),
        scenario("case_057_the_last_entry_rules_the_rest", |t| {
            let commands = ["acl 1 permit 127.0.0.2", "acl 1 deny 127.0.0.3", "client_acl 1"];
            note_lists(t, "permit, deny", &commands, &["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
            let commands = ["acl 1 deny 127.0.0.3", "acl 1 permit 127.0.0.2", "client_acl 1"];
            note_lists(t, "deny, permit", &commands, &["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
        }),
        scenario("case_058_the_first_entry_that_matches", |t| {
            let commands = ["acl 1 deny 127.0.0.3", "acl 1 permit 127.0.0.0 255.255.255.0", "client_acl 1"];
            note_lists(t, "with a mask", &commands, &["127.0.0.3", "127.0.0.2", "127.0.1.1"]);
        }),
        scenario("an_empty_list_permits", |t| {
            note_lists(t, "empty", &["client_acl 7"], &["127.0.0.2"]);
            let commands = ["acl 1 deny 127.0.0.2", "no acl 1", "client_acl 1"];
            note_lists(t, "emptied", &commands, &["127.0.0.2"]);
        }),
        scenario("an_address_with_bits_outside_its_mask", |t| {
            let commands = ["acl 1 permit 127.0.0.9 255.0.0.0", "client_acl 1"];
            note_lists(t, "bits", &commands, &["127.0.0.2"]);
        }),
        scenario("case_059_lists_for_ipv6", |t| {
            for entry in
                ["permit ::/127", "permit ::2/127", "permit 2001:db8::/127", "permit ::1", "deny ::1/128"]
            {
                let s = t.webs(1);
                let pen = t
                    .pen(&[])
                    .command(format!("acl 1 {entry}"))
                    .command("client_acl 1")
                    .listen("::1:PORT")
                    .servers(&s)
                    .start();
                let to = SocketAddr::new("::1".parse().unwrap(), pen.address.port());
                t.note(entry, visit("::1", to));
            }
        }),
        scenario("entries_for_ipv4_do_not_apply_to_ipv6", |t| {
            let s = t.webs(1);
            let pen = t
                .pen(&[])
                .command("acl 1 deny 0.0.0.0 0.0.0.0")
                .command("client_acl 1")
                .listen("::1:PORT")
                .servers(&s)
                .start();
            let to = SocketAddr::new("::1".parse().unwrap(), pen.address.port());
            t.note("::1", visit("::1", to));
        }),
        scenario("case_060_lists_and_the_dual_stack", |t| {
            let s = t.webs(1);
            let commands = ["acl 1 permit 127.0.0.2", "client_acl 1"];
            let pen =
                t.pen(&[]).command(commands[0]).command(commands[1]).listen(":::PORT").servers(&s).start();
            t.note("127.0.0.2", pen.visit_from("127.0.0.2"));
            t.note("127.0.0.3", pen.visit_from("127.0.0.3"));
        }),
        scenario("case_061_062_063_where_denied_clients_go", |t| {
            let (b, e) = (t.server("B", Backend::web("B")), t.server("E", Backend::web("E")));
            let (abuse, emergency) = (["-B".to_owned(), b.to_string()], ["-e".to_owned(), e.to_string()]);
            for list in [1, 0] {
                let none: [String; 0] = [];
                for (label, options) in [
                    ("neither", none.to_vec()),
                    ("abuse server", abuse.to_vec()),
                    ("emergency server", emergency.to_vec()),
                    ("both", [abuse.clone(), emergency.clone()].concat()),
                ] {
                    let s = t.webs(1);
                    let pen = t
                        .pen(&[])
                        .options(options)
                        .command(format!("acl {list} deny 127.0.0.2"))
                        .command(format!("client_acl {list}"))
                        .servers(&s)
                        .start();
                    t.note(format!("list {list}, {label}: .2"), pen.visit_from("127.0.0.2"));
                    t.note(format!("list {list}, {label}: .3"), pen.visit_from("127.0.0.3"));
                }
            }
        }),
        controlled("case_064_a_list_of_a_server", |t| {
            let s = t.webs(3);
            let pen = t.pen(&["-r"]).control().servers(&s).start();
            pen.tell("acl 2 permit 127.0.0.7");
            pen.tell("server 1 acl 2");
            let visits = |source: &str| {
                let answers: Vec<String> = (0..6).map(|_| pen.visit_from(source)).collect();
                answers.join(" ")
            };
            t.note(".8", visits("127.0.0.8"));
            t.note(".7", visits("127.0.0.7"));
        })
        .with_two_workers_too(),
        scenario("case_064_a_list_of_a_server_in_the_file", |t| {
            let s = t.webs(3);
            let mut text = "acl 2 permit 127.0.0.7\n".to_owned();
            for (number, server) in s.iter().enumerate() {
                text += &format!("server {number} address 127.0.0.1 port {}\n", server.port());
            }
            let file = t.scratch.write("config", &(text + "server 1 acl 2\n"));
            let pen = t.pen(&["-r", "-F", &file]).start();
            let visits = |source: &str| {
                let answers: Vec<String> = (0..6).map(|_| pen.visit_from(source)).collect();
                answers.join(" ")
            };
            t.note(".8", visits("127.0.0.8"));
            t.note(".7", visits("127.0.0.7"));
        })
        .with_two_workers_too(),
        controlled("lists_change_at_run_time", |t| {
            let s = t.webs(1);
            let pen = t.pen(&[]).control().servers(&s).start();
            for command in
                ["acl 1 deny 127.0.0.2", "client_acl 1", "acl 1 permit 127.0.0.3", "no acl 1", "client_acl 0"]
            {
                pen.note_asked([command]);
                t.note(format!("{command}: .2 .3 .4"), pen.visits_from(2..=4));
            }
        })
        .with_two_workers_too(),
    ]
}
