//! pen(1), -U: datagrams get to the servers and back, all of them, whole and in order.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::udp::{LARGEST, UdpClient, echoes};
use crate::support::{
    Backend, Pen, Scratch, UdpServer, classic, free_port, let_pass, only_ours, processes, wait_until,
};

const WORKERS: [u32; 2] = [1, 4];

/// Bytes that are nowhere the same, so that a mistake in putting them together shows.
fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ at >> 8 ^ seed.wrapping_mul(7)) as u8).collect()
}

/// -U, -r: every new client port is a new client for whom the next server is chosen; beginning with the second.
#[test]
fn new_client_ports_take_turns() {
    for workers in WORKERS {
        let s = echoes(2);
        let pen = Pen::with(&["-r"]).servers(&s).workers(workers).udp().start();
        assert_eq!(pen.udp_asks([1; 6]), "S1 S0 S1 S0 S1 S0");
    }
}

/// WHICH SERVER: a client is known by its address, whatever its port, also by datagrams.
#[test]
fn a_client_stays_with_its_server_and_new_ones_take_turns() {
    for workers in WORKERS {
        let s = echoes(3);
        let pen = Pen::with(&[]).servers(&s).workers(workers).udp().start();
        assert_eq!(pen.udp_asks([1; 4]), "S1 S1 S1 S1");
        assert_eq!(pen.udp_asks(2..=8), "S2 S0 S1 S2 S0 S1 S2");
        assert_eq!(pen.udp_asks(2..=8), "S2 S0 S1 S2 S0 S1 S2");
    }
}

/// -U: what comes from a client's port is one flow: it goes to one server, which sees one port of pen's.
#[test]
fn a_client_port_stays_on_its_flow() {
    for workers in WORKERS {
        let s = echoes(3);
        let pen = Pen::with(&["-r"]).servers(&s).workers(workers).udp().start();
        let clients: Vec<_> = (0..7).map(|_| pen.udp()).collect();
        for round in 0..4 {
            for (number, client) in clients.iter().enumerate() {
                let expected = format!("S{}", (number + 1) % 3);
                assert_eq!(client.ask(&format!("{round} of {number}")), expected, "in round {round}");
            }
        }
        for server in &s {
            let heard = server.heard();
            let flows: BTreeSet<_> = heard.iter().map(|heard| heard.from).collect();
            assert_eq!(heard.len(), flows.len() * 4, "{flows:?}");
        }
    }
}

/// -U: a server may answer as often as it likes, and late, and in any order.
#[test]
fn replies_may_come_in_any_number_at_any_time() {
    let server = UdpServer::answering("S", |question| {
        for number in 0..3 {
            question.reply(format!("{number}").as_bytes());
        }
    });
    let pen = Pen::with(&[]).servers([&server]).udp().start();
    let client = pen.udp();
    for _ in 0..2 {
        client.send("three times");
        assert_eq!([client.hear(), client.hear(), client.hear()], ["0", "1", "2"]);
    }
    server.push(b"unasked");
    assert_eq!(client.hear(), "unasked");
    // As many as the socket of a program that knows nothing of the rush has room for.
    for number in 0..200 {
        server.push(format!("{number}").as_bytes());
    }
    for number in 0..200 {
        assert_eq!(client.hear(), number.to_string());
    }
}

/// -U: a client does not have to wait for an answer before it sends again; it goes to the same server.
#[test]
fn several_datagrams_of_a_client_may_be_under_way() {
    only_ours!("the first of a flow may be overtaken by the second");
    for workers in WORKERS {
        let s = echoes(2);
        let pen = Pen::with(&["-r"]).servers(&s).workers(workers).udp().start();
        let clients: Vec<_> = (0..4).map(|_| pen.udp()).collect();
        for client in &clients {
            client.send("one");
            client.send("two");
        }
        for client in &clients {
            let names = [client.answer_to("one"), client.answer_to("two")];
            assert_eq!(names[0], names[1]);
        }
        assert_eq!((s[0].count(), s[1].count()), (4, 4));
    }
}

/// -U: each client gets the replies to what it has sent itself.
#[test]
fn nobody_gets_the_replies_of_another() {
    let s = echoes(3);
    let pen = Pen::with(&["-r"]).servers(&s).workers(4).udp().start();
    let clients: Vec<_> =
        (0..100).map(|number| pen.udp_from(&format!("127.0.{}.{}", number / 10, number % 10 + 1))).collect();
    for (number, client) in clients.iter().enumerate() {
        client.send(format!("of {number}"));
    }
    for (number, client) in clients.iter().enumerate() {
        let first = client.answer_to(&format!("of {number}"));
        assert_eq!(client.ask("again"), first);
    }
}

/// -U: a datagram without bytes is one, at the beginning, in the middle and as a reply.
#[test]
fn empty_datagrams_go_both_ways() {
    only_ours!("an empty datagram ends its flow, and as a first one is not sent on");
    let server = UdpServer::mirror("M");
    let pen = Pen::with(&[]).servers([&server]).udp().start();
    for texts in [&["", "data", "", "", "more"][..], &["data", "", "data"]] {
        let client = pen.udp();
        for text in texts {
            client.send(text);
            assert_eq!(client.hear(), *text);
        }
        let flow = server.heard().last().unwrap().from;
        let heard = server.heard().iter().filter(|heard| heard.from == flow).count();
        assert_eq!(heard, texts.len(), "in one flow");
    }
    // Several at once, which must not be taken for one.
    let client = pen.udp();
    for text in ["", "", "a", "", "b", "b", ""] {
        client.send(text);
    }
    let replies: Vec<String> = (0..7).map(|_| client.hear()).collect();
    assert_eq!(replies, ["", "", "a", "", "b", "b", ""]);
}

/// -U: datagrams of all lengths that there are pass whole, both ways.
#[test]
fn datagrams_of_every_length_pass_whole() {
    only_ours!("it cuts datagrams at 32768 bytes");
    let server = UdpServer::mirror("M");
    let pen = Pen::with(&[]).servers([&server]).udp().start();
    let client = pen.udp();
    for length in [1, 2, 511, 512, 1472, 1473, 9000, 16_384, 32_768, 32_769, 65_506, LARGEST] {
        let sent = pattern(length, length);
        client.send(&sent);
        let received = client.receive();
        assert!(server.heard().last().unwrap().bytes == sent, "{length} bytes to the server");
        assert!(received == sent, "{length} bytes from the server: {} came", received.len());
    }
    // As a flow's first datagram, which pen keeps for a while.
    let client = pen.udp();
    client.send(pattern(1, LARGEST));
    assert!(client.receive() == pattern(1, LARGEST));
}

/// -U: one that is too long for the way to the server is lost, alone, and counted. (Over IPv6 there is room for 20 bytes
/// more than IPv4 takes.)
#[test]
fn a_datagram_too_long_for_the_server_is_lost_alone_and_counted() {
    only_ours!("it cuts datagrams at 32768 bytes");
    let server = UdpServer::mirror("M");
    let pen = Pen::with(&[]).servers([&server]).listen("[::1]:PORT").workers(1).controlled().udp().start();
    let client = UdpClient::new(
        "::1".parse().unwrap(),
        ("::1".parse::<std::net::IpAddr>().unwrap(), pen.address.port()).into(),
    );
    // In the middle of a flow, then as the first of one.
    client.send("before");
    assert_eq!(client.hear(), "before");
    for (count, client) in
        [(1, &client), (2, &UdpClient::new("::1".parse().unwrap(), client.socket.peer_addr().unwrap()))]
    {
        client.send(pattern(0, LARGEST + 1));
        client.send("after");
        assert_eq!(client.hear(), "after");
        pen.wait_for_total(super::udp::TOO_LONG, count);
    }
    assert!(!pen.blacklisted(0), "that is no fault of the server");
    assert_eq!(server.count(), 3);
}

/// The column of the page that counts datagrams that cannot be sent because of their length.
pub const TOO_LONG: &str = "lost: too long";

/// -U: clients and servers need not be of one family.
#[test]
fn the_families_of_client_and_server_may_differ() {
    only_ours!("it sends from an IPv4 socket to IPv6 and the other way round");
    let s = [UdpServer::echo("S0"), UdpServer::echo_at("S1", "::1".parse().unwrap())];
    for (listen, address) in [("127.0.0.1:PORT", "127.0.0.1"), ("[::1]:PORT", "::1")] {
        let mut pen = Pen::with(&["-r"]).servers(&s).listen(listen).udp().start();
        pen.address.set_ip(address.parse().unwrap());
        let names: Vec<_> = (0..4).map(|_| pen.udp_from(address).ask("hello")).collect();
        assert_eq!(names, ["S1", "S0", "S1", "S0"]);
    }
}

/// -U: servers that never answer (syslog) get everything, and are not taken for dead.
#[test]
fn silence_is_no_failure() {
    only_ours!("it takes an option less");
    let s = [UdpServer::silent("S0"), UdpServer::silent("S1")];
    let pen = Pen::with(&["-t", "1", "-O", "udp_timeout 60"]).servers(&s).controlled().udp().start();
    let client = pen.udp();
    client.send("one");
    s[1].wait_for(1);
    let_pass(Duration::from_millis(2500)); // twice as long as a connection may take
    client.send("two");
    let heard = s[1].wait_for(2);
    assert_eq!(heard[0].from, heard[1].from, "it is another flow now");
    assert!(!pen.blacklisted(0) && !pen.blacklisted(1), "{}", pen.stderr());
    let another = pen.udp();
    another.send("three");
    s[1].wait_for(3);
    assert_eq!(s[0].count(), 0);
}

/// Performance is had by batches: what comes as a burst arrives whole and in order, in every flow, both ways.
#[test]
fn bursts_arrive_in_order_in_every_flow() {
    only_ours!("the first of a flow may be overtaken by the second");
    let s = [UdpServer::mirror("S0"), UdpServer::mirror("S1")];
    for workers in WORKERS {
        let pen = Pen::with(&["-r"]).servers(&s).workers(workers).udp().start();
        let clients: Vec<_> = (0..8).map(|_| pen.udp()).collect();
        for round in 0..50 {
            // All of one length, two lengths by turns, every one another.
            let length = |number: usize| match round % 3 {
                0 => 64,
                1 => 64 + 10 * (number % 2),
                _ => 20 + 83 * number,
            };
            for number in 0..16 {
                for (which, client) in clients.iter().enumerate() {
                    client.send(pattern(which * 1000 + round * 16 + number, length(number)));
                }
            }
            for (which, client) in clients.iter().enumerate() {
                for number in 0..16 {
                    let expected = pattern(which * 1000 + round * 16 + number, length(number));
                    assert!(
                        client.receive() == expected,
                        "number {number} of client {which} in round {round}"
                    );
                }
            }
        }
    }
}

/// The same for one client after the other, so that a burst is all that there is to read; to servers that wait until they
/// have all of it before they answer.
#[test]
fn a_burst_may_be_answered_by_a_burst() {
    only_ours!("the first of a flow may be overtaken by the second");
    let held = std::sync::Mutex::new(Vec::new());
    let server = UdpServer::answering("S", move |question| {
        let mut held = held.lock().unwrap();
        held.push(question.bytes.to_vec());
        if held.len() == 64 {
            held.drain(..).for_each(|bytes| question.reply(&bytes));
        }
    });
    let pen = Pen::with(&[]).servers([&server]).udp().start();
    let client = pen.udp();
    for round in 0..20 {
        for number in 0..64 {
            client.send(pattern(round * 64 + number, 100 + round % 3 * (number % 5)));
        }
        for number in 0..64 {
            let expected = pattern(round * 64 + number, 100 + round % 3 * (number % 5));
            assert!(client.receive() == expected, "number {number} in round {round}");
        }
    }
}

/// A client and a server that send trains (UDP_SEGMENT), as QUIC programs do, lose nothing of them.
#[test]
fn trains_pass() {
    only_ours!("the first of a flow may be overtaken by the second");
    let server = UdpServer::answering("S", |question| {
        // Two bytes say how long the datagrams of the train are that is to come back.
        let length = usize::from(question.bytes[0]) << 8 | usize::from(question.bytes[1]);
        let all = pattern(length, 10 * length + 7);
        let _ = setsockopt(question.socket, sockopt::UdpGsoSegment, &(length as i32));
        question.reply(&all);
        let _ = setsockopt(question.socket, sockopt::UdpGsoSegment, &0);
    });
    let mirror = UdpServer::mirror("M");
    let pen = Pen::with(&[]).servers([&mirror]).udp().start();
    let client = pen.udp();
    for length in [1usize, 64, 700, 1200, 1472] {
        for count in [2usize, 10, 40] {
            if length * count > 60_000 {
                continue;
            }
            let all = pattern(length + count, length * count + length / 2);
            setsockopt(&client.socket, sockopt::UdpGsoSegment, &(length as i32)).unwrap();
            client.send(&all);
            setsockopt(&client.socket, sockopt::UdpGsoSegment, &0).unwrap();
            for (number, part) in all.chunks(length).enumerate() {
                assert!(client.receive() == part, "number {number} of {count} with {length} bytes");
            }
        }
    }
    let pen = Pen::with(&[]).servers([&server]).udp().start();
    let client = pen.udp();
    for _ in 0..3 {
        for length in [8usize, 64, 700, 1200, 1472] {
            client.send((length as u16).to_be_bytes());
            for part in pattern(length, 10 * length + 7).chunks(length) {
                assert!(client.receive() == part, "of {length} bytes");
            }
        }
    }
}

/// REQUEST LOG: a line for each datagram of a client, the first included.
#[test]
fn the_log_has_a_line_for_each_datagram() {
    only_ours!("it forgets the first of a flow, and writes when it ends");
    let (s, files) = (echoes(2), Scratch::new());
    let pen = Pen::with(&["-r", "-l", &files.file("log")]).servers(&s).udp().start();
    let client = pen.udp_from("127.0.0.7");
    for number in 0..3 {
        client.ask(&format!("number {number}\nsecond line"));
    }
    pen.udp_from("127.0.0.8").ask("of another\x1b[31m");
    for number in 3..20 {
        client.send(format!("number {number}"));
    }
    wait_until("all lines are there", || files.read("log").lines().count() >= 21);
    let log = files.read("log");
    let line = |line: &str| {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        assert!(words[1].parse::<u64>().is_ok(), "{log}");
        format!("{} {} {}", words[0], words[2], words[3])
    };
    let mut lines: Vec<_> = log.lines().map(line).collect();
    let other = lines.iter().position(|line| line.starts_with("127.0.0.8")).unwrap();
    assert_eq!(lines.remove(other), "127.0.0.8 127.0.0.1 of another.[31m");
    let expected: Vec<_> = (0..20).map(|number| format!("127.0.0.7 127.0.0.1 number {number}")).collect();
    assert_eq!(lines, expected);
}

/// MESSAGES: -ddd dumps all datagrams, both ways.
#[test]
fn datagrams_can_be_dumped() {
    for (options, up, down) in [
        (&["-d", "-d", "-d"][..], "5: 68 65 6c 6c 6f \n", "8: 53 30 20 68 65 6c 6c 6f \n"),
        (&["-ddd", "-a"], "5: hello\n", "8: S0 hello\n"),
    ] {
        let s = echoes(1);
        let pen = Pen::with(options).servers(&s).udp().start();
        let client = pen.udp();
        for _ in 0..2 {
            assert_eq!(client.ask("hello"), "S0");
        }
        if classic() {
            continue; // it does not dump what begins a flow
        }
        wait_until("the dumps are there", || {
            pen.stderr().matches(up).count() == 2 && pen.stderr().matches(down).count() == 2
        });
    }
}

/// listen: TCP and UDP on one port, from one pen; a client has one server for both.
#[test]
fn tcp_and_udp_can_share_a_port() {
    only_ours!("it is for one of them");
    for workers in WORKERS {
        // Each server answers both kinds at one port.
        let udp = echoes(3);
        let tcp: Vec<_> = (udp.iter().enumerate())
            .map(|(number, udp)| Backend::web_at(&format!("S{number}"), udp.address().ip(), udp.port()))
            .collect();
        let (files, port) = (Scratch::new(), free_port());
        let config = format!("listen tcp 127.0.0.1:{port}\nlisten udp 127.0.0.1:{port}\n");
        let config = files.write("pen.cfg", config);
        let pen =
            Pen::with(&["-F", &config]).listen(format!("127.0.0.1:{port}")).servers(&tcp).workers(workers);
        let pen = pen.controlled().start();
        assert_eq!(pen.ask("listen"), format!("tcp 127.0.0.1:{port}\nudp 127.0.0.1:{port}\n"));
        // By TCP first, then by UDP first.
        assert_eq!(pen.visits_from(2..=4), "S1 S2 S0");
        assert_eq!(pen.udp_asks(2..=4), "S1 S2 S0");
        assert_eq!(pen.udp_asks(5..=7), "S1 S2 S0");
        assert_eq!(pen.visits_from(5..=7), "S1 S2 S0");
        assert_eq!(pen.udp_asks([7, 2]), "S0 S1");
        assert_eq!(pen.ask("recent").lines().count(), 6);
    }
}

/// CONFIGURATION, listen: several for datagrams; the replies come from where each was asked.
#[test]
fn there_can_be_several_listeners() {
    only_ours!("it has one");
    let s = echoes(3);
    let (files, ports) = (Scratch::new(), [free_port(), free_port()]);
    let config = format!("listen udp 127.0.0.1:{}\nlisten udp 127.0.0.2:{}\n", ports[0], ports[1]);
    let config = files.write("pen.cfg", config);
    let pen = Pen::with(&["-U", "-r", "-F", &config]).listen(format!("127.0.0.1:{}", ports[0]));
    let pen = pen.servers(&s).workers(2).controlled().start();
    let source = "127.0.0.1".parse().unwrap();
    let places = [(0, "127.0.0.1"), (1, "127.0.0.2"), (0, "127.0.0.1"), (1, "127.0.0.2")];
    let clients = places.map(|(number, ip)| {
        let ip: std::net::IpAddr = ip.parse().unwrap();
        UdpClient::new(source, (ip, ports[number]).into())
    });
    for _ in 0..2 {
        assert_eq!(clients.each_ref().map(|client| client.ask("hello")), ["S1", "S2", "S0", "S1"]);
    }
    // One client port that speaks to both is two flows.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(crate::support::SOON)).unwrap();
    for (number, ip) in [(0, "127.0.0.1"), (1, "127.0.0.2")] {
        socket.send_to(b"hello", (ip, ports[number])).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 100]).unwrap();
        assert_eq!(from, format!("{ip}:{}", ports[number]).parse().unwrap());
    }
    assert_eq!(pen.flows(), 6);
}

/// -U: pen needs no more of a processor for flows that are quiet.
#[test]
fn quiet_flows_cost_nothing() {
    let s = echoes(2);
    let pen = Pen::with(&["-r"]).servers(&s).workers(2).udp().start();
    let clients: Vec<_> = (0..20).map(|_| pen.udp()).collect();
    for client in &clients {
        client.ask("hello");
    }
    let before = processes::cpu_time(&pen.family());
    let_pass(Duration::from_secs(1));
    let used = processes::cpu_time(&pen.family()) - before;
    assert!(used <= Duration::from_millis(100), "used {used:?} of processor time in a second of waiting");
}

/// STATISTICS: bytes and datagrams are counted for servers, clients and workers, the first datagram too.
#[test]
fn everything_is_counted() {
    only_ours!("it counts neither first datagrams nor replies");
    let s = echoes(2);
    let pen = Pen::with(&[]).servers(&s).controlled().udp().start();
    let client = pen.udp();
    for _ in 0..5 {
        client.ask("hello");
    }
    // 5 bytes there, 8 back.
    let servers = |conn| {
        format!(
            "0 addr 127.0.0.1 port {} conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0 dsx 0 drx 0\n\
             1 addr 127.0.0.1 port {} conn {conn} max 0 hard 0 weight 0 prio 0 sx 25 rx 40 dsx 5 drx 5\n",
            s[0].port(),
            s[1].port()
        )
    };
    wait_until("the flow is counted", || pen.ask("servers") == servers(1));
    assert_eq!([pen.total("flows"), pen.total("datagrams up"), pen.total("datagrams down")], [1, 5, 5]);
    assert_eq!(pen.ask("recent"), "127.0.0.1 connects 1 sx 40 rx 25\n");
    pen.udp().ask("hello");
    wait_until("both flows are counted", || pen.ask("recent") == "127.0.0.1 connects 2 sx 48 rx 30\n");
}
