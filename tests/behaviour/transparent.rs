//! pen(1), `transparent` and `source`: where connections to the servers come from, and what right is kept for that.

use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::support::client::{connect, request};
use crate::support::network::{Machines, Network, OWN, SERVERS, SOURCES};
use crate::support::pen::{Ended, program};
use crate::support::processes::{self, capabilities};
use crate::support::tls::has_program;
use crate::support::{Backend, Pen, Scratch, needs_root, only_ours, wait_until};

/// A client of either family.
const CLIENTS: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];

/// CAP_NET_ADMIN.
const NET_ADMIN: u64 = 0x1000;

/// Answers every request with the address that it sees as the client's.
fn mirror(network: &Network, address: &str) -> Backend {
    let address = address.parse().unwrap();
    network.inside(|| {
        Backend::serving_at("mirror", address, |visit| {
            let peer = visit.stream.peer_addr().map(|peer| peer.ip().to_string());
            if visit.read_head() {
                visit.answer(&peer.unwrap_or_default());
            }
        })
    })
}

fn machines() -> Option<Machines> {
    Some(Machines::new()?.routed())
}

/// One request from there to a port of pen's machine.
#[track_caller]
fn visit(network: &Network, from: &str, to: &str, pen: &Pen) -> String {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let to = SocketAddr::new(to, pen.address.port());
    network.inside(|| request(connect(from, to).expect("pen accepts connections"), "/"))
}

impl Machines {
    /// On pen's machine, with these options and servers.
    fn start(&self, options: &[&str], servers: &[&Backend]) -> Pen {
        self.pen.inside(|| Pen::with(options).listen("[::]:PORT").servers(servers).controlled().start())
    }

    /// What a server sees of a client of this address.
    #[track_caller]
    fn seen(&self, pen: &Pen, client: &str) -> String {
        let to = if client.contains(':') { "2001:db8:1::fe" } else { "192.0.2.254" };
        visit(&self.clients, client, to, pen)
    }
}

/// All sets of capabilities of a process: what it can use and make use of, and what it could be given.
fn sets(pid: i32) -> [u64; 5] {
    ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"].map(|set| capabilities(pid, set))
}

/// The processes that are neither the master nor workers: those that look up names.
fn resolvers(pen: &Pen) -> Vec<i32> {
    let workers = pen.workers();
    pen.family().into_iter().filter(|pid| *pid != pen.pid && !workers.contains(pid)).collect()
}

/// Checks that the master and the workers have just this capability, and that the resolver has none.
#[track_caller]
fn only_net_admin_is_left(pen: &Pen) {
    let workers = pen.workers();
    assert_eq!(workers.len(), 2);
    for pid in [pen.pid].into_iter().chain(workers.iter().copied()) {
        assert_eq!(sets(pid), [NET_ADMIN, NET_ADMIN, 0, 0, 0], "of {pid}");
        assert_eq!(processes::status(pid, "NoNewPrivs"), "1");
    }
    let resolvers = resolvers(pen);
    assert_eq!(resolvers.len(), 1);
    assert_eq!(sets(resolvers[0]), [0; 5], "of {}, which looks up names", resolvers[0]);
}

/// transparent: servers see the clients' own addresses, of either family, and the answers come back. The only right
/// that is left is the one for that, and new workers have it, too.
#[test]
fn servers_see_the_clients_own_addresses() {
    needs_root!();
    only_ours!("it knows IPv4 alone, and keeps no right");
    let Some(machines) = machines() else { return };
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let jail = Scratch::new();
    for family in [0, 1] {
        let server = mirror(&machines.servers, SERVERS[family]);
        let options = ["-r", "-O", "transparent", "-u", "nobody", "-j", jail.path().to_str().unwrap()];
        let pen = machines.start(&options, &[&server]);
        for pid in pen.family() {
            let uid = nobody.uid;
            assert_eq!(processes::status(pid, "Uid"), format!("{uid} {uid} {uid} {uid}"));
        }
        only_net_admin_is_left(&pen);
        let all_is_seen = || {
            assert_eq!(machines.seen(&pen, CLIENTS[family]), CLIENTS[family]);
            assert_eq!(machines.seen(&pen, CLIENTS[1 - family]), OWN[family], "of the other family");
        };
        all_is_seen();
        pen.kill_workers();
        all_is_seen();
        let before = resolvers(&pen);
        kill(Pid::from_raw(before[0]), Signal::SIGKILL).unwrap();
        wait_until("the resolver is gone", || !processes::alive(before[0]));
        assert!(pen.ask("server 1 address no-such-name.invalid").starts_with("error"));
        assert_ne!(resolvers(&pen), before);
        only_net_admin_is_left(&pen);
    }
}

/// transparent: a refusal comes back as well, so that the next server is tried.
#[test]
fn a_server_that_refuses_a_client_by_its_own_address_is_passed_over() {
    needs_root!();
    only_ours!("it keeps no right");
    let Some(machines) = machines() else { return };
    for (server, client) in SERVERS.into_iter().zip(CLIENTS) {
        let [mut down, up] = [(); 2].map(|()| mirror(&machines.servers, server));
        down.down();
        let pen = machines.start(&["-r", "-O", "transparent", "-u", "nobody"], &[&down, &up]);
        assert_eq!([(); 2].map(|()| machines.seen(&pen, client)), [client; 2]);
        assert!(pen.stderr().contains("Connection refused"), "{}", pen.stderr());
    }
}

/// transparent: it can be turned off and on again.
#[test]
fn it_can_be_turned_off_and_on_again() {
    needs_root!();
    only_ours!("it keeps no right");
    let Some(machines) = machines() else { return };
    let server = mirror(&machines.servers, SERVERS[0]);
    let pen = machines.start(&["-O", "transparent", "-u", "nobody"], &[&server]);
    let client = CLIENTS[0];
    for (command, seen) in [("no transparent", OWN[0]), ("transparent", client), ("no transparent", OWN[0])] {
        pen.tell(command);
        assert_eq!(machines.seen(&pen, client), seen, "after {command}");
    }
}

/// source: an address of this machine, of either family; it comes before `transparent`.
#[test]
fn a_source_comes_before_the_clients_address() {
    needs_root!();
    only_ours!("it knows IPv4 alone");
    let Some(machines) = machines() else { return };
    for family in [0, 1] {
        let server = mirror(&machines.servers, SERVERS[family]);
        let command = format!("source {}", SOURCES[family]);
        for options in [&["-O", &command][..], &["-O", &command, "-O", "transparent", "-u", "nobody"]] {
            let pen = machines.start(options, &[&server]);
            for client in CLIENTS {
                assert_eq!(machines.seen(&pen, client), SOURCES[family], "{options:?}");
            }
            pen.tell(&format!("source {}", SOURCES[1 - family]));
            assert_eq!(machines.seen(&pen, CLIENTS[family]), OWN[family], "a source of the other family");
        }
    }
}

/// transparent: where the client's address cannot be taken the connection is made all the same.
#[test]
fn clients_whose_address_cannot_be_taken_are_served() {
    needs_root!();
    only_ours!("it keeps no right");
    let Some(machines) = machines() else { return };
    let pens = SERVERS.map(|server| {
        let server = mirror(&machines.servers, server);
        (machines.start(&["-d", "-O", "transparent", "-u", "nobody"], &[&server]), server)
    });
    // An address that means nothing beyond the link.
    let v6 = &pens[1].0;
    let answer = machines.clients.inside(|| {
        let scope = nix::net::if_::if_nametoindex("c").unwrap();
        let to = SocketAddrV6::new("fe80::fe".parse().unwrap(), v6.address.port(), 0, scope);
        let stream = TcpStream::connect(to).unwrap();
        assert!(stream.local_addr().unwrap().to_string().starts_with("[fe80::"));
        request(stream, "/")
    });
    assert_eq!(answer, OWN[1]);
    assert!(v6.stderr().contains("cannot connect from client fe80::"), "{}", v6.stderr());
    // From pen's own machine: its loopback addresses lead nowhere else, which is not the servers' fault.
    for (((pen, _), loopback), own) in pens.iter().zip(["127.0.0.1", "::1"]).zip(OWN) {
        assert_eq!(visit(&machines.pen, loopback, loopback, pen), own);
        assert!(!pen.stderr().contains("left alone"), "{}", pen.stderr());
    }
}

/// What pen says that cannot start so.
fn refused(options: &[&str], launcher: &[&str]) -> Ended {
    let ended = Pen::with(options).servers(["127.0.0.1:1"]).through(launcher).run();
    assert_eq!(ended.code(), 1, "{ended:?}");
    ended
}

const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"];

/// transparent: whoever may not do it is told at once, in the foreground.
#[test]
fn a_start_without_the_right_is_refused() {
    needs_root!();
    only_ours!("it starts, and tells every client's connect");
    let without = ["setpriv", "--bounding-set=-net_admin"];
    let files = Scratch::new();
    let config = files.write("pen.cfg", "timeout 3\ntransparent\n");
    for launcher in [&AS_NOBODY[..], &without] {
        let reason =
            "transparent needs the capability CAP_NET_ADMIN: Operation not permitted; start pen as root";
        let ended = refused(&["-O", "transparent"], launcher);
        assert!(ended.stderr.starts_with(&format!("pen: {reason}")), "{ended:?}");
        let ended = refused(&["-F", &config], launcher);
        assert!(ended.stderr.starts_with(&format!("pen: {config}:2: {reason}")), "{ended:?}");
        let ended = refused(&["-F", &config, "--check"], launcher);
        assert!(ended.stderr.contains(&format!("{config}:2: {reason}")), "{ended:?}");
        let ended = Pen::with(&["-O", "transparent"]).servers(["127.0.0.1:1"]).through(launcher);
        let ended = ended.background().run();
        assert!(ended.code() == 1 && ended.stderr.contains(reason), "{ended:?}");
    }
    let ended = refused(&["-O", "transparent", "-u", "nobody"], &without);
    assert!(ended.stderr.contains("CAP_NET_ADMIN"), "{ended:?}");
    let ended = Pen::with(&["-O", "transparent", "-u", "nobody", "--check"]).servers(["127.0.0.1:1"]).run();
    assert_eq!((ended.code(), ended.stdout.as_str()), (0, "ok\n"), "{ended:?}");
}

/// transparent: a normal user who has been given the right (by systemd, or by setcap) may; nothing else is kept.
#[test]
fn a_normal_user_who_has_the_right_may() {
    needs_root!();
    only_ours!("it keeps what it has");
    let Some(machines) = machines() else { return };
    let server = mirror(&machines.servers, SERVERS[0]);
    let given = ["--inh-caps=+net_admin,+net_bind_service", "--ambient-caps=+net_admin,+net_bind_service"];
    let launcher: Vec<&str> = AS_NOBODY.into_iter().chain(given).collect();
    let started = |options: &[&str]| {
        let pen = Pen::with(options).listen("[::]:PORT").servers([&server]).through(&launcher);
        machines.pen.inside(|| pen.start())
    };
    let pen = started(&["-O", "transparent"]);
    let bounding = capabilities(pen.pid, "CapBnd");
    for pid in pen.family() {
        assert_eq!(sets(pid), [NET_ADMIN, NET_ADMIN, 0, 0, bounding]);
    }
    assert_eq!(machines.seen(&pen, CLIENTS[0]), CLIENTS[0]);
    let pen = started(&[]);
    for pid in pen.family() {
        assert_eq!(sets(pid)[..4], [0; 4], "without transparent");
    }
    assert_eq!(machines.seen(&pen, CLIENTS[0]), OWN[0]);
}

/// SIGNALS, USR2: a normal user's pen may leave core files although its right came with its file (by setcap).
#[test]
fn a_right_that_comes_with_the_file_takes_no_core_files_away() {
    needs_root!();
    only_ours!("it keeps what it has");
    if !has_program("setcap") {
        return;
    }
    let files = Scratch::new();
    let copy = files.file("pen");
    std::fs::copy(program(), &copy).unwrap();
    assert!(Command::new("setcap").args(["cap_net_admin+p", &copy]).status().unwrap().success());
    let server = Backend::web("S0");
    let exchanged = format!("shift; exec {copy} \"$@\"");
    let launcher: Vec<&str> = AS_NOBODY.into_iter().chain(["sh", "-c", &exchanged, "sh"]).collect();
    for (options, kept) in [(&["-O", "transparent"][..], NET_ADMIN), (&[], 0)] {
        let pen = Pen::with(options).servers([&server]).through(&launcher).start();
        for pid in pen.family() {
            assert_eq!(sets(pid)[..4], [kept, kept, 0, 0]);
            // What is here belongs to root where there is to be no core file.
            let owner = std::fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
            assert_eq!(owner.to_string(), processes::status(pid, "Uid").split_whitespace().next().unwrap());
        }
    }
}

/// transparent: it cannot be turned on where the right has been given up, and nothing else of such a change is made.
#[test]
fn it_cannot_be_turned_on_when_the_right_is_gone() {
    needs_root!();
    only_ours!("it can, to no effect");
    let server = Backend::web("S0");
    let files = Scratch::new();
    let config = files.write("pen.cfg", "timeout 3\n");
    let pen = Pen::with(&["-u", "nobody", "-F", &config]).servers([&server]).controlled().start();
    let reason =
        "transparent needs the capability CAP_NET_ADMIN, which pen keeps only if it starts with transparent";
    let unchanged = || {
        assert_eq!(pen.ask("timeout"), "3\n");
        assert_eq!(pen.visit(), "S0");
        assert!(pen.family().iter().all(|&pid| sets(pid) == [0; 5]));
    };
    let refused = |answer: String| {
        assert!(answer.starts_with("error: ") && answer.contains(reason), "{answer}");
        unchanged();
    };
    refused(pen.ask("transparent"));
    refused(pen.batch(&["timeout 4", "transparent"]));
    files.write("pen.cfg", "timeout 5\ntransparent\n");
    for command in ["check", "diff", "reload"] {
        let answer = pen.ask(command);
        assert!(answer.contains(&format!("{config}:2: {reason}")), "{command}: {answer}");
        refused(answer);
    }
    let before = pen.stderr().len();
    pen.signal(Signal::SIGHUP);
    wait_until("the refusal is told", || pen.stderr()[before..].contains("nothing is changed"));
    assert!(pen.stderr()[before..].contains(&format!("{config}:2: {reason}")), "{}", pen.stderr());
    unchanged();
    files.write("pen.cfg", "timeout 5\n");
    assert_eq!(pen.ask("reload"), "ok\n");
    assert_eq!(pen.ask("timeout"), "5\n");
}

/// transparent, -u: root that stays root keeps its rights, and can turn it on at any time.
#[test]
fn root_can_turn_it_on_at_any_time() {
    needs_root!();
    only_ours!("it has no answer to it");
    let Some(machines) = machines() else { return };
    let server = mirror(&machines.servers, SERVERS[1]);
    let pen = machines.start(&[], &[&server]);
    assert_eq!(machines.seen(&pen, CLIENTS[1]), OWN[1]);
    pen.tell("transparent");
    assert_eq!(machines.seen(&pen, CLIENTS[1]), CLIENTS[1]);
}
