//! Access lists with countries, looked up in the database of `geoip`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, User, mkfifo};

use crate::support::backend::webs;
use crate::support::mmdb::{Mmdb, Value};
use crate::support::pen::Builder;
use crate::support::{
    Backend, Pen, Scratch, client, free_port, needs_root, only_ours, processes, wait_until,
};

/// 127.0.0.2 and its neighbours are in SE, 127.0.0.4 to 7 in DK, but 127.0.0.6 in NO; 127.0.0.1 and 8 nowhere.
fn world() -> Mmdb {
    Mmdb::v6().countries([
        ("127.0.0.2/31", "SE"),
        ("127.0.0.4/30", "DK"),
        ("127.0.0.6/32", "NO"),
        ("::1/128", "SE"),
    ])
}

/// A configuration file with the database of this world and these commands.
fn config(files: &Scratch, commands: &[&str]) -> String {
    let database = files.write("world.mmdb", world().bytes());
    files.write("pen.cfg", format!("geoip {database}\n{}\n", commands.join("\n")))
}

fn pen(files: &Scratch, commands: &[&str]) -> Builder {
    Pen::with(&["-F", &config(files, commands)])
}

/// pen(1), ACCESS LISTS, geoip: an entry for a country matches the clients whose addresses the database has there.
#[test]
fn clients_of_a_country_are_let_in_or_kept_out() {
    only_ours!("its databases are of another kind");
    for (commands, expected) in [
        (&["acl 1 permit country SE"][..], "closed S0 S0 closed closed closed closed closed"),
        (&["acl 1 deny country SE"], "S0 closed closed S0 S0 S0 S0 S0"),
        (
            &["acl 1 permit country SE", "acl 1 permit country NO"],
            "closed S0 S0 closed closed S0 closed closed",
        ),
        (&["acl 1 permit country IS"], "closed closed closed closed closed closed closed closed"),
    ] {
        let (s, files) = (webs(1), Scratch::new());
        let pen = pen(&files, &[commands, &["client_acl 1"]].concat()).servers(&s).workers(2).start();
        assert_eq!(pen.visits_from(1..=8), expected, "{commands:?}");
    }
}

/// pen(1), ACCESS LISTS: the first entry that matches decides, be it for an address or for a country.
#[test]
fn countries_and_addresses_decide_in_the_order_of_the_list() {
    only_ours!("its databases are of another kind");
    for (commands, expected) in [
        (["acl 1 deny 127.0.0.2", "acl 1 permit country SE"], "closed closed S0 closed"),
        (["acl 1 permit country SE", "acl 1 deny 127.0.0.2"], "S0 S0 S0 S0"),
        (["acl 1 deny country SE", "acl 1 permit 127.0.0.0 255.255.255.0"], "S0 closed closed S0"),
    ] {
        let (s, files) = (webs(1), Scratch::new());
        let pen = pen(&files, &[&commands[..], &["client_acl 1"]].concat()).servers(&s).start();
        assert_eq!(pen.visits_from(1..=4), expected, "{commands:?}");
    }
}

/// pen(1), ACCESS LISTS: countries are looked up for IPv6 clients, too, and for IPv4 clients of a listener for both.
#[test]
fn clients_of_both_families_have_countries() {
    only_ours!("its databases are of another kind");
    let (s, files) = (webs(1), Scratch::new());
    let commands = ["acl 1 permit country SE", "client_acl 1"];
    let mut pen = pen(&files, &commands).listen(":::PORT").servers(&s).start();
    assert_eq!(pen.visits_from([2, 4]), "S0 closed");
    pen.address.set_ip("::1".parse().unwrap());
    assert_eq!(pen.visit_from("::1"), "S0");
}

/// pen(1), server acl, -B: servers may be for countries, and the abuse server is for clients of the others.
#[test]
fn servers_may_be_for_countries() {
    only_ours!("its databases are of another kind");
    let (s, x, files) = (webs(2), Backend::web("X"), Scratch::new());
    let commands = [
        "roundrobin",
        "acl 1 permit country SE",
        "acl 2 permit country SE",
        "acl 2 permit country DK",
        "server 0 acl 1",
        "client_acl 2",
    ];
    let pen = Pen::with(&["-F", &config(&files, &commands), "-B", &x.to_string()]).servers(&s).start();
    assert_eq!(pen.visits_from([4, 4, 5, 5]), "S1 S1 S1 S1");
    let swedes = pen.visits_from([2, 2, 3, 3]);
    assert!(swedes.contains("S0") && swedes.contains("S1"), "{swedes}");
    assert_eq!(pen.visits_from([6, 8]), "X X");
}

/// pen(1), geoip: the file is read once; what becomes of it later does not matter, to new workers neither.
#[test]
fn the_database_may_be_written_over_and_workers_may_die() {
    only_ours!("its databases are of another kind");
    let (s, files) = (webs(1), Scratch::new());
    let pen = pen(&files, &["acl 1 permit country SE", "client_acl 1"]).servers(&s).workers(2).start();
    let workers = pen.workers();
    File::options().write(true).open(files.file("world.mmdb")).unwrap().set_len(0).unwrap();
    assert_eq!(pen.visits_from([2, 4, 3, 6]), "S0 closed S0 closed");
    fs::remove_file(files.file("world.mmdb")).unwrap();
    assert_eq!(pen.visits_from([2, 4, 3, 6]), "S0 closed S0 closed");
    assert_eq!(pen.workers(), workers, "none has died of it");
    for &worker in &workers {
        kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    }
    wait_until("there are two other workers", || {
        let now = pen.workers();
        now.len() == 2 && now.iter().all(|worker| !workers.contains(worker))
    });
    assert_eq!(pen.visits_from([2, 4, 3, 6]), "S0 closed S0 closed");
}

/// pen(1), geoip, -j, -u: the file is read outside the jail, as whoever starts pen.
#[test]
fn the_database_is_read_before_the_jail() {
    needs_root!();
    only_ours!("its databases are of another kind");
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let (s, files, jail) = (webs(1), Scratch::new(), Scratch::new());
    chown(jail.path(), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
    let config = config(&files, &["acl 1 permit country SE", "client_acl 1"]);
    fs::set_permissions(files.file("world.mmdb"), fs::Permissions::from_mode(0o600)).unwrap();
    let options = ["-F", &config, "-j", jail.path().to_str().unwrap(), "-u", "nobody"];
    let ended = Pen::with(&[&options[..], &["--check"]].concat()).servers(&s).run();
    assert_eq!(ended.code(), 0, "{ended:?}");
    let pen = Pen::with(&options).servers(&s).start();
    assert_eq!(pen.visits_from([2, 4]), "S0 closed");
}

/// pen(1), geoip, --check: without a database that can be used pen does not start, and says why; so does --check.
#[test]
fn a_file_that_is_no_database_of_countries_ends_the_start() {
    only_ours!("its databases are of another kind");
    let (s, files) = (webs(1), Scratch::new());
    let system = Value::map([("autonomous_system_number", Value::Number(64512))]);
    let numbers = Mmdb::v4().kind("GeoLite2-ASN").networks([("127.0.0.0/8", system)]).bytes();
    let whole = world().bytes();
    mkfifo(files.file("fifo").as_str(), Mode::S_IRWXU).unwrap();
    for (database, reason) in [
        (files.file("missing.mmdb"), "No such file"),
        (files.file("fifo"), "not a regular file"),
        (files.path().to_str().unwrap().to_owned(), "directory"),
        (files.write("text.mmdb", "geoip\n"), "not a MaxMind database"),
        (files.write("empty.mmdb", ""), "not a MaxMind database"),
        (files.write("half.mmdb", &whole[..whole.len() / 2]), "not a MaxMind database"),
        (files.write("asn.mmdb", numbers), "GeoLite2-ASN"),
    ] {
        let config = files.write("pen.cfg", format!("geoip {database}\nacl 1 permit country SE\n"));
        for check in [&[][..], &["--check"]] {
            let ended = Pen::with(&[&["-F", &config], check].concat()).servers(&s).run();
            assert_eq!(ended.code(), 1, "{check:?} {ended:?}");
            assert_eq!(ended.stderr.lines().count(), 1, "{check:?} {ended:?}");
            assert!(ended.stderr.contains(&database) && ended.stderr.contains(reason), "{check:?} {ended:?}");
        }
    }
}

/// pen(1), control_acl: users of the control port have countries, too.
#[test]
fn the_control_port_may_be_for_countries() {
    only_ours!("its databases are of another kind");
    let (s, files) = (webs(1), Scratch::new());
    let control = format!("127.0.0.1:{}", free_port());
    let user: &[&str] = if nix::unistd::geteuid().is_root() { &["-u", "root"] } else { &[] };
    let config = config(&files, &["acl 2 permit country SE", "control_acl 2"]);
    let _pen = Pen::with(&[user, &["-C", &control, "-F", &config]].concat()).servers(&s).start();
    let ask = |client: u8| {
        let source = format!("127.0.0.{client}").parse().unwrap();
        let mut session = client::connect(source, control.parse().unwrap()).unwrap();
        let _ = session.write_all(b"blacklist\n");
        let mut reply = String::new();
        let _ = session.read_to_string(&mut reply); // a reset is as good as an end
        reply
    };
    assert_eq!([1, 2, 3, 4].map(ask), ["", "30\n", "30\n", ""]);
}

/// pen(1), ACCESS LISTS: country entries without a database are a mistake, which is named.
#[test]
fn countries_need_a_database() {
    only_ours!("it says so for every client");
    let ended = Pen::with(&["-O", "acl 1 deny country SE"]).servers(["127.0.0.1:9"]).run();
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("list 1") && ended.stderr.contains("geoip FILE"), "{ended:?}");
}

/// pen(1), geoip, CONTROL PORT: a database that is named while pen runs is in effect in every worker when the reply
/// comes; so is a new file under the same name after a reload, and so is none.
#[test]
fn the_database_can_be_changed_while_pen_runs() {
    only_ours!("its databases are of another kind");
    let (s, files) = (webs(1), Scratch::new());
    let database = files.write("world.mmdb", world().bytes());
    let config = files.write("pen.cfg", "");
    let pen = Pen::with(&["-F", &config]).servers(&s).workers(3).controlled().start();
    let geoip = format!("geoip {database}");
    let replies = format!("{database}\n1\n");
    assert_eq!(pen.batch(&[&geoip, "acl 1 permit country SE", "client_acl 1"]), replies);
    assert_eq!(pen.visits_from([2, 4, 2, 4, 2, 4, 2, 4]), "S0 closed S0 closed S0 closed S0 closed");
    files.write("world.mmdb", Mmdb::v6().countries([("127.0.0.4/32", "SE")]).bytes());
    assert_eq!(pen.visits_from([2, 4]), "S0 closed");
    assert_eq!(pen.ask("reload"), "ok\n");
    assert_eq!(pen.visits_from([2, 4, 2, 4, 2, 4, 2, 4]), "closed S0 closed S0 closed S0 closed S0");
    let open = || pen.workers().iter().map(|pid| processes::descriptors(*pid)).sum::<usize>();
    let before = open();
    for _ in 0..20 {
        assert_eq!(pen.ask("reload"), "ok\n");
    }
    wait_until("no descriptors are left of the earlier ones", || open() <= before);
    assert_eq!(pen.batch(&["no acl 1", "no geoip"]), "");
    assert_eq!(pen.visits_from([2, 4, 6]), "S0 S0 S0");
}
