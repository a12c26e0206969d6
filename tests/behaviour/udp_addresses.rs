//! From where replies come, from where servers are asked, and with which rights: pen(1), `transparent`, `source`, -u, -j.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::ReusePort;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket};
use nix::unistd::{Pid, User};

use crate::support::network::{Machines, Network, OWN, SERVERS, SOURCES};
use crate::support::udp::{UdpClient, echoes};
use crate::support::{Pen, Scratch, UdpServer, needs_root, only_ours, processes, wait_until};

const WORKERS: [u32; 2] = [1, 4];

/// A client there that asks pen at this address.
#[track_caller]
fn client(source: &str, to: &str, pen: &Pen) -> UdpClient {
    let to: IpAddr = to.parse().unwrap();
    UdpClient::new(source.parse().unwrap(), SocketAddr::new(to, pen.address.port()))
}

/// -U: on a wildcard address a reply comes from the address that was asked, whichever that is. (The clients hear nothing
/// else.)
#[test]
fn replies_come_from_the_address_that_was_asked() {
    only_ours!("only its first datagram of a flow knows, and IPv6 does not work");
    for workers in WORKERS {
        for (listen, asked) in [
            ("PORT", &["127.0.0.1", "127.0.0.2", "127.3.2.1"][..]),
            ("0.0.0.0:PORT", &["127.0.0.2", "127.0.0.1"]),
            ("[::]:PORT", &["::1", "127.0.0.2", "127.0.0.1", "::1"]),
            ("127.0.0.2:PORT", &["127.0.0.2"]),
            ("[::1]:PORT", &["::1"]),
        ] {
            let s = echoes(2);
            let pen = Pen::with(&["-r"]).listen(listen).servers(&s).workers(workers).udp().start();
            let source = |to: &str| if to.contains(':') { "::1" } else { "127.0.0.1" };
            let clients: Vec<_> = asked.iter().map(|to| client(source(to), to, &pen)).collect();
            for round in 0..3 {
                for (number, client) in clients.iter().enumerate() {
                    let expected = ["S1", "S0"][number % 2];
                    assert_eq!(client.ask(&format!("round {round}")), expected, "{listen} {}", asked[number]);
                }
            }
            // Several at once: they may leave together.
            for _ in 0..3 {
                clients.iter().for_each(|client| client.send("again"));
            }
            for client in &clients {
                (0..3).for_each(|_| assert!(client.answer_to("again").starts_with('S')));
            }
        }
    }
}

/// -U: a datagram that claims to be from where pen itself hears is not served: its answer would come in again, for ever.
#[test]
fn what_claims_to_be_from_pen_itself_is_not_served() {
    only_ours!("it answers itself");
    let s = echoes(1);
    let pen = Pen::with(&[]).listen("0.0.0.0:PORT").servers(&s).controlled().udp().start();
    let own = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&own, ReusePort, &true).unwrap();
    bind(own.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 5, pen.address.port())).unwrap();
    let own = UdpSocket::from(own);
    own.send_to(b"round and round", ("127.0.0.1", pen.address.port())).unwrap();
    pen.wait_for_total("lost: no server", 1);
    assert_eq!(s[0].count(), 0);
    assert_eq!(client("127.0.0.5", "127.0.0.1", &pen).ask("from another port"), "S0");
}

/// -U: one client port that asks two of pen's addresses has two flows, and the replies of each come from where it asked.
#[test]
fn an_address_asked_is_part_of_the_flow() {
    only_ours!("it has one flow for both");
    let s = echoes(2);
    let pen = Pen::with(&["-r"]).listen("0.0.0.0:PORT").servers(&s).workers(2).controlled().udp().start();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(crate::support::SOON)).unwrap();
    let mut names = Vec::new();
    for to in ["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2"] {
        let to = SocketAddr::new(to.parse().unwrap(), pen.address.port());
        socket.send_to(b"hello", to).unwrap();
        let mut buffer = [0; 100];
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, to);
        names.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
    }
    assert_eq!(names, ["S1 hello", "S0 hello", "S1 hello", "S0 hello"]);
    assert_eq!(pen.flows(), 2);
}

/// client_acl, the log: an IPv4 client of a listener for both families is known by its IPv4 address.
#[test]
fn clients_of_both_families_are_known_by_their_own_addresses() {
    only_ours!("it shows clients by IPv4 as ::ffff:127.0.0.2");
    let (s, files) = (echoes(1), Scratch::new());
    let pen =
        Pen::with(&["-l", &files.file("log"), "-O", "acl 1 permit 127.0.0.2", "-O", "acl 1 permit ::1"]);
    let pen = pen.option("-O").option("client_acl 1").listen("[::]:PORT").servers(&s).udp().start();
    for (source, to) in [("127.0.0.2", "127.0.0.1"), ("::1", "::1")] {
        assert_eq!(client(source, to, &pen).ask("hello"), "S0");
    }
    wait_until("both are logged", || files.read("log").lines().count() == 2);
    let log = files.read("log");
    let clients: Vec<_> = log.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(clients, ["127.0.0.2", "::1"]);
}

/// source: the address that servers see.
#[test]
fn servers_see_the_source_address() {
    let s = echoes(1);
    let pen = Pen::with(&["-O", "source 127.0.0.55"]).servers(&s).udp().start();
    for _ in 0..2 {
        assert_eq!(pen.udp().ask("hello"), "S0");
    }
    for heard in s[0].heard() {
        assert_eq!(heard.from.ip().to_string(), "127.0.0.55");
    }
}

/// Answers with the address that it sees as the client's.
fn seer(network: &Network, address: &str) -> UdpServer {
    let address = address.parse().unwrap();
    network.inside(|| {
        UdpServer::answering_at("seer", address, |question| {
            question.reply(question.from.ip().to_string().as_bytes());
        })
    })
}

const CLIENTS: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];

/// Where clients of each family reach pen.
const PEN: [&str; 2] = ["192.0.2.254", "2001:db8:1::fe"];

/// What a server sees of this client, who sends three times.
#[track_caller]
fn seen(machines: &Machines, source: &str, pen: &Pen) -> String {
    let to = PEN[usize::from(source.contains(':'))];
    let client = machines.clients.inside(|| client(source, to, pen));
    let mut answers: Vec<_> = (0..3)
        .map(|_| {
            client.send("who am I?");
            client.hear()
        })
        .collect();
    answers.dedup();
    answers.join(" ")
}

fn start(machines: &Machines, options: &[&str], servers: &[&UdpServer]) -> Pen {
    let pen = Pen::with(options).listen("[::]:PORT").servers(servers).controlled().udp();
    machines.pen.inside(|| pen.start())
}

/// transparent: servers see the clients' own addresses, of either family, and the answers come back; workers that take the
/// place of others can do it, too.
#[test]
fn servers_see_the_clients_own_addresses() {
    needs_root!();
    only_ours!("it keeps no right");
    let Some(machines) = Machines::new() else { return };
    let machines = machines.routed();
    for family in [0, 1] {
        let server = seer(&machines.servers, SERVERS[family]);
        let pen = start(&machines, &["-r", "-O", "transparent", "-u", "nobody"], &[&server]);
        let all_is_seen = || {
            assert_eq!(seen(&machines, CLIENTS[family], &pen), CLIENTS[family]);
            assert_eq!(seen(&machines, CLIENTS[1 - family], &pen), OWN[family], "of the other family");
        };
        all_is_seen();
        pen.kill_workers();
        all_is_seen();
        pen.tell("no transparent");
        assert_eq!(seen(&machines, CLIENTS[family], &pen), OWN[family]);
    }
}

/// transparent: a refusal comes back as well, so that the next server is asked.
#[test]
fn a_server_that_refuses_a_client_by_its_own_address_is_passed_over() {
    needs_root!();
    only_ours!("it keeps no right");
    let Some(machines) = Machines::new() else { return };
    let machines = machines.routed();
    for (server, client) in SERVERS.into_iter().zip(CLIENTS) {
        let [up, mut down] = [(); 2].map(|()| seer(&machines.servers, server));
        down.down();
        let pen = start(&machines, &["-r", "-O", "transparent", "-u", "nobody"], &[&up, &down]);
        assert_eq!([(); 2].map(|()| seen(&machines, client, &pen)), [client; 2]);
        assert!(pen.blacklisted(1), "{}", pen.stderr());
    }
}

/// source: an address of this machine, of either family; it comes before `transparent`.
#[test]
fn a_source_comes_before_the_clients_address() {
    needs_root!();
    only_ours!("it knows IPv4 alone");
    let Some(machines) = Machines::new() else { return };
    let machines = machines.routed();
    for family in [0, 1] {
        let server = seer(&machines.servers, SERVERS[family]);
        let command = format!("source {}", SOURCES[family]);
        for options in [&["-O", &command][..], &["-O", &command, "-O", "transparent", "-u", "nobody"]] {
            let pen = start(&machines, options, &[&server]);
            for client in CLIENTS {
                assert_eq!(seen(&machines, client, &pen), SOURCES[family], "{options:?}");
            }
        }
    }
}

/// A path with a smaller MTU than that of the machines: what is longer is fragmented, as from any sender.
#[test]
fn long_datagrams_pass_where_the_way_is_narrow() {
    needs_root!();
    only_ours!("it cuts datagrams at 32768 bytes");
    let Some(machines) = Machines::new() else { return };
    for network in [&machines.servers, &machines.pen] {
        network.ip("link set s mtu 1280");
    }
    for family in [0, 1] {
        let server = machines.servers.inside(|| {
            UdpServer::answering_at("S", SERVERS[family].parse().unwrap(), |question| {
                question.reply(question.bytes);
            })
        });
        let pen = start(&machines, &[], &[&server]);
        let client = machines.clients.inside(|| client(CLIENTS[family], PEN[family], &pen));
        for length in [1472, 1232, 1233, 4000, 65_507, 100] {
            let sent: Vec<u8> = (0..length).map(|at| (at % 253) as u8).collect();
            client.send(&sent);
            assert!(client.receive() == sent, "{length} bytes");
        }
        // Bursts, of which trains would be made that are too long for this device.
        for length in [1400usize, 1300, 1200] {
            for round in 0..4u8 {
                for number in 0..20u8 {
                    client.send(vec![round * 20 + number; length]);
                }
                for number in 0..20u8 {
                    assert!(client.receive() == vec![round * 20 + number; length], "{length} bytes");
                }
            }
        }
    }
}

/// -u, -j: a port below 1024 is opened before the rights are given up, for all workers that there will be; more workers
/// than that are more workers for everything else.
#[test]
fn a_low_port_is_had_by_a_pen_without_rights() {
    needs_root!();
    only_ours!("it has no workers");
    let Some(machines) = Machines::new() else { return };
    let jail = Scratch::new();
    let server = machines.servers.inside(|| UdpServer::echo_at("S0", SERVERS[0].parse().unwrap()));
    let jail = jail.path().to_str().unwrap();
    // A worker that is to end does so with its last flow.
    let options = ["-r", "-u", "nobody", "-j", jail, "-O", "udp_timeout 1"];
    let pen = Pen::with(&options).listen("192.0.2.254:53").servers([&server]).workers(2).controlled().udp();
    let pen = machines.pen.inside(|| pen.start());
    let uid = User::from_name("nobody").unwrap().unwrap().uid;
    for pid in pen.family() {
        assert_eq!(processes::status(pid, "Uid"), format!("{uid} {uid} {uid} {uid}"));
    }
    let all_are_answered = || {
        let clients: Vec<_> =
            machines.clients.inside(|| (0..20).map(|_| client("192.0.2.1", "192.0.2.254", &pen)).collect());
        clients.iter().for_each(|client| assert_eq!(client.ask("hello"), "S0"));
    };
    all_are_answered();
    for worker in pen.workers() {
        kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    }
    all_are_answered();
    wait_until("there are two workers again", || pen.workers().len() == 2);
    // Of a smaller number some have two sockets.
    assert_eq!(pen.ask("workers 1"), "1\n");
    all_are_answered();
    assert_eq!(pen.ask("workers 4"), "4\n");
    wait_until("there are four workers", || pen.workers().len() == 4);
    let told = "UDP on 192.0.2.254:53 stays with 2 workers";
    wait_until("that is told", || pen.stderr().contains(told));
    all_are_answered();
}
