//! pen(1), The PROXY protocol: with datagrams.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ppp::v2::{Addresses, Builder, Command, Header, Protocol, Version};

use super::udp_choosing::NO_SERVER;
use crate::support::udp::{LARGEST, UdpClient, echoes};
use crate::support::{Pen, Scratch, UdpServer, only_ours, processes, wait_until};

/// Who sends headers, and is believed.
const TRUSTED: &[&str] = &["-O", "acl 1 permit 127.0.0.1", "-O", "proxy_accept 1"];

/// The column of the page that counts datagrams which had no header, or a broken one.
const PROXY: &str = "lost: no PROXY header";

const CLIENT: &str = "198.51.100.7:4711";
const OTHER: &str = "198.51.100.8:4711";
const SITE: &str = "192.0.2.80:53";
const CLIENT6: &str = "[2001:db8::7]:4711";
const SITE6: &str = "[2001:db8::80]:53";

fn parsed(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn named(protocol: Protocol, source: &str, destination: &str) -> Vec<u8> {
    let addresses: Addresses = (parsed(source), parsed(destination)).into();
    Builder::with_addresses(Version::Two | Command::Proxy, protocol, addresses).build().unwrap()
}

/// A header, made by somebody else's library.
fn header(source: &str, destination: &str) -> Vec<u8> {
    named(Protocol::Datagram, source, destination)
}

fn local() -> Vec<u8> {
    Builder::new(Version::Two | Command::Local, 0).build().unwrap()
}

/// What a server got: the client and the one whom it asked, by the header, and what follows that.
#[track_caller]
fn taken_apart(datagram: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let header =
        Header::try_from(datagram).unwrap_or_else(|error| panic!("{error:?}: {}", datagram.escape_ascii()));
    assert_eq!((header.command, header.protocol), (Command::Proxy, Protocol::Datagram));
    let rest = datagram[header.len()..].to_vec();
    match header.addresses {
        Addresses::IPv4(it) => (
            (it.source_address, it.source_port).into(),
            (it.destination_address, it.destination_port).into(),
            rest,
        ),
        Addresses::IPv6(it) => (
            (it.source_address, it.source_port).into(),
            (it.destination_address, it.destination_port).into(),
            rest,
        ),
        other => panic!("{other:?}"),
    }
}

fn has_header(datagram: &[u8]) -> bool {
    datagram.starts_with(b"\r\n\r\n\0\r\nQUIT\n")
}

/// The client's address as it is itself.
fn own(client: &UdpClient) -> SocketAddr {
    client.socket.local_addr().unwrap()
}

/// proxy_send 2: the first datagram of a flow begins with a header, and the others do not.
#[test]
fn version_2_is_before_a_flows_first_datagram() {
    only_ours!("it does not know the PROXY protocol");
    let server = UdpServer::mirror("M");
    for (listen, address) in
        [("127.0.0.1:PORT", "127.0.0.1"), ("[::1]:PORT", "::1"), ("0.0.0.0:PORT", "127.0.0.1")]
    {
        let mut pen = Pen::with(&["-O", "proxy_send 2"]).listen(listen).servers([&server]).udp().start();
        pen.address.set_ip(address.parse().unwrap());
        for text in ["one", ""] {
            let client = pen.udp_from(address);
            client.send(text);
            let (source, destination, rest) = taken_apart(&client.receive());
            assert_eq!((source, destination, &rest[..]), (own(&client), pen.address, text.as_bytes()));
            for text in ["two", "", "three"] {
                client.send(text);
                assert_eq!(client.hear(), text);
            }
        }
    }
}

/// proxy_send 2: a first datagram that is too long with a header is lost, and then the next one is the first.
#[test]
fn the_first_datagram_that_is_sent_has_the_header() {
    only_ours!("it does not know the PROXY protocol");
    let server = UdpServer::silent("S");
    let pen = Pen::with(&["-O", "proxy_send 2"]).servers([&server]).workers(1).controlled().udp().start();
    let worker = Pid::from_raw(pen.workers()[0]);
    let client = pen.udp();
    kill(worker, Signal::SIGSTOP).unwrap();
    wait_until("it is stopped", || processes::stat(worker.as_raw()).is_some_and(|stat| stat.state == 'T'));
    // All of these are read at once.
    client.send(vec![b'x'; LARGEST]);
    ["one", "two", "three"].into_iter().for_each(|text| client.send(text));
    kill(worker, Signal::SIGCONT).unwrap();
    let heard = server.wait_for(3);
    let (source, _, rest) = taken_apart(&heard[0].bytes);
    assert_eq!((source, &rest[..]), (own(&client), &b"one"[..]));
    assert_eq!([&heard[1].bytes[..], &heard[2].bytes[..]], [b"two" as &[u8], b"three"]);
    pen.wait_for_total("lost: too long", 1);
}

/// proxy_send every: each datagram does, as name servers want it; in bursts, too.
#[test]
fn every_datagram_can_have_a_header() {
    only_ours!("it does not know the PROXY protocol");
    let server = UdpServer::mirror("M");
    let pen = Pen::with(&["-O", "proxy_send every"]).servers([&server]).controlled().udp().start();
    assert_eq!(pen.ask("proxy_send"), "every\n");
    let client = pen.udp();
    for text in ["one", "two", "", "three"] {
        client.send(text);
        let (source, destination, rest) = taken_apart(&client.receive());
        assert_eq!((source, destination, &rest[..]), (own(&client), pen.address, text.as_bytes()));
    }
    for _ in 0..10 {
        (0..30).for_each(|number| client.send(format!("{number:02}")));
        for number in 0..30 {
            let (source, _, rest) = taken_apart(&client.receive());
            assert_eq!((source, rest), (own(&client), format!("{number:02}").into_bytes()));
        }
    }
}

/// A datagram that is too long with its header is lost alone, and counted.
#[test]
fn a_datagram_too_long_with_its_header_is_lost_alone() {
    only_ours!("it does not know the PROXY protocol");
    let server = UdpServer::silent("M");
    let pen = Pen::with(&["-O", "proxy_send every"]).servers([&server]).controlled().udp().start();
    let client = pen.udp();
    client.send(vec![b'x'; crate::support::udp::LARGEST - 28]);
    server.wait_for(1);
    client.send(vec![b'x'; crate::support::udp::LARGEST - 27]);
    pen.wait_for_total(super::udp::TOO_LONG, 1);
    client.send("after");
    let heard = server.wait_for(2);
    assert_eq!(heard[0].bytes.len(), crate::support::udp::LARGEST);
    assert_eq!(taken_apart(&heard[1].bytes).2, b"after");
}

/// server N proxy: each server as it wants it.
#[test]
fn each_server_can_have_its_own_way() {
    only_ours!("it does not know the PROXY protocol");
    let s: Vec<_> = (0..3).map(|number| UdpServer::mirror(&format!("S{number}"))).collect();
    let options = ["-r", "-O", "server 1 proxy 2", "-O", "server 2 proxy every", "-O", "proxy_send off"];
    let pen = Pen::with(&options).servers(&s).controlled().udp().start();
    for (server, expected) in [(1, [true, false]), (2, [true, true]), (0, [false, false])] {
        let client = pen.udp();
        let seen = ["one", "two"].map(|text| {
            client.send(text);
            has_header(&client.receive())
        });
        assert_eq!(seen, expected, "of server {server}");
    }
    let servers = pen.ask("servers");
    let lines: Vec<_> = servers.lines().collect();
    assert!(lines[1].ends_with(" proxy 2") && lines[2].ends_with(" proxy every"), "{servers}");
}

/// proxy_send 1: a line cannot be about datagrams.
#[test]
fn version_1_is_refused() {
    only_ours!("it does not know the PROXY protocol");
    for options in [&["-U", "-O", "proxy_send 1"][..], &["-U", "-O", "server 0 proxy 1"]] {
        let ended = Pen::with(options).servers(["127.0.0.1:9"]).run();
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert!(ended.stderr.contains("version 2"), "{ended:?}");
    }
    let s = echoes(1);
    let pen = Pen::with(&[]).servers(&s).controlled().udp().start();
    assert!(pen.ask("proxy_send 1").starts_with("error: "));
    assert_eq!(pen.ask("proxy_send"), "off\n");
    assert_eq!(pen.udp().ask("hello"), "S0");
}

/// Fail-over: the next server gets the header, too; as that one wants it.
#[test]
fn the_next_server_gets_a_header_of_its_own() {
    only_ours!("it does not know the PROXY protocol");
    let s = [UdpServer::mirror("S0"), UdpServer::absent("S1"), UdpServer::mirror("S2")];
    for (options, seen) in [
        (["-r", "-O", "proxy_send 2", "-O", "proxy_send 2"], true),
        (["-r", "-O", "proxy_send every", "-O", "server 2 proxy off"], false),
        (["-r", "-O", "server 2 proxy 2", "-O", "proxy_send off"], true),
    ] {
        let pen = Pen::with(&options).servers(&s).udp().start();
        let client = pen.udp();
        client.send("hello");
        let reply = client.receive();
        assert_eq!(has_header(&reply), seen, "{options:?}");
        let rest = if seen { taken_apart(&reply).2 } else { reply };
        assert_eq!(rest, b"hello");
    }
}

/// proxy_accept: the address in the header is the client's, in the log and for its server; the header is taken off, and
/// the replies go to whoever sent it.
#[test]
fn the_client_is_who_the_header_says() {
    only_ours!("it does not know the PROXY protocol");
    let (s, files) = (echoes(3), Scratch::new());
    let log = files.file("log");
    let options = [TRUSTED, &["-l", &log]].concat();
    let pen = Pen::with(&options).servers(&s).controlled().udp().start();
    let mut names = Vec::new();
    for (source, site) in [(CLIENT, SITE), (OTHER, SITE), (CLIENT6, SITE6), (CLIENT, SITE), (OTHER, SITE)] {
        let front = pen.udp();
        front.send([&header(source, site)[..], b"hello"].concat());
        names.push(front.answer_to("hello"));
    }
    assert_eq!(names, ["S1", "S2", "S0", "S1", "S2"]);
    wait_until("all are logged", || files.read("log").lines().count() == 5);
    let log = files.read("log");
    let clients: Vec<_> = log.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(clients, ["198.51.100.7", "198.51.100.8", "2001:db8::7", "198.51.100.7", "198.51.100.8"]);
    assert!(log.lines().all(|line| line.ends_with(" hello")), "{log}");
    let recent = pen.ask("recent");
    assert!(
        recent.contains("198.51.100.7 connects 2 ") && recent.contains("2001:db8::7 connects 1 "),
        "{recent}"
    );
    assert_eq!(pen.total(PROXY), 0);
}

/// proxy_accept: what comes later of the same flow needs no header, and may have one.
#[test]
fn later_datagrams_need_no_header() {
    only_ours!("it does not know the PROXY protocol");
    let server = UdpServer::mirror("M");
    let pen = Pen::with(TRUSTED).servers([&server]).controlled().udp().start();
    let front = pen.udp();
    let first = header(CLIENT, SITE);
    for (prefix, text) in [(&first[..], "one"), (b"", "two"), (&first, "three"), (b"", ""), (&first, "")] {
        front.send([prefix, text.as_bytes()].concat());
        assert_eq!(front.hear(), text);
    }
    let flows: BTreeSet<_> = server.heard().iter().map(|heard| heard.from).collect();
    assert_eq!((flows.len(), pen.flows()), (1, 1));
}

/// proxy_accept: a front that sends what several clients say from one port of its own has a flow for each of them.
#[test]
fn a_header_of_another_client_begins_another_flow() {
    only_ours!("it does not know the PROXY protocol");
    let s = echoes(3);
    let pen = Pen::with(TRUSTED).servers(&s).controlled().udp().start();
    let front = pen.udp();
    for (source, expected) in [(CLIENT, "S1"), (OTHER, "S2"), (CLIENT, "S1"), (OTHER, "S2")] {
        front.send([&header(source, SITE)[..], source.as_bytes()].concat());
        assert_eq!(front.answer_to(source), expected);
    }
    assert_eq!(pen.ask("recent").lines().count(), 2);
    // In one burst, too.
    for number in 0..20 {
        let source = [CLIENT, OTHER][number % 2];
        front.send([&header(source, SITE)[..], source.as_bytes()].concat());
    }
    let mut answers: Vec<_> = (0..20).map(|_| front.hear()).collect();
    answers.sort();
    let expected = |name: &str, source: &str| vec![format!("{name} {source}"); 10];
    assert_eq!(answers, [expected("S1", CLIENT), expected("S2", OTHER)].concat());
}

/// proxy_accept: who is not in the list, who has no header, and who has a broken one gets nothing, and is counted.
#[test]
fn who_has_no_header_gets_nothing() {
    only_ours!("it does not know the PROXY protocol");
    let s = echoes(2);
    let pen = Pen::with(TRUSTED).servers(&s).controlled().udp().start();
    let good = header(CLIENT, SITE);
    let mut lost = 0;
    let mut refused = |source: &str, datagram: &[u8]| {
        pen.udp_from(source).send(datagram);
        lost += 1;
        pen.wait_for_total(PROXY, lost);
    };
    refused("127.0.0.2", &[&good[..], b"from somebody else"].concat());
    refused("127.0.0.2", b"without");
    refused("127.0.0.1", b"without");
    refused("127.0.0.1", b"");
    refused("127.0.0.1", &good[..good.len() - 1]);
    refused("127.0.0.1", &good[..12]);
    refused("127.0.0.1", &[&named(Protocol::Stream, CLIENT, SITE)[..], b"about a stream"].concat());
    refused("127.0.0.1", b"PROXY UDP4 198.51.100.7 192.0.2.80 4711 53\r\nhello");
    refused("127.0.0.1", b"PROXY TCP4 198.51.100.7 192.0.2.80 4711 53\r\nhello");
    assert_eq!((s[0].count(), s[1].count(), pen.flows()), (0, 0, 0));
    assert_eq!(pen.ask("recent"), "");
    // One port may do better the next time.
    let front = pen.udp();
    front.send("without");
    pen.wait_for_total(PROXY, lost + 1);
    front.send([&good[..], b"with"].concat());
    assert!(front.answer_to("with").starts_with('S'));
}

/// proxy_accept: a broken header in the middle of a flow is not passed to the server.
#[test]
fn a_broken_header_in_mid_flow_is_lost_alone() {
    only_ours!("it does not know the PROXY protocol");
    let server = UdpServer::mirror("M");
    let pen = Pen::with(TRUSTED).servers([&server]).controlled().udp().start();
    let front = pen.udp();
    let good = header(CLIENT, SITE);
    front.send([&good[..], b"one"].concat());
    assert_eq!(front.hear(), "one");
    front.send(&good[..good.len() - 1]);
    pen.wait_for_total(PROXY, 1);
    front.send("two");
    assert_eq!(front.hear(), "two");
    assert_eq!(server.count(), 2);
}

/// proxy_accept: LOCAL, as health checks send it, leaves the front's own address.
#[test]
fn local_is_the_front_itself() {
    only_ours!("it does not know the PROXY protocol");
    let (s, files) = (echoes(1), Scratch::new());
    let log = files.file("log");
    let options = [TRUSTED, &["-l", &log]].concat();
    let pen = Pen::with(&options).servers(&s).udp().start();
    let front = pen.udp();
    front.send([&local()[..], b"are you well?"].concat());
    assert_eq!(front.answer_to("are you well?"), "S0");
    wait_until("it is logged", || files.read("log").lines().count() == 1);
    assert!(files.read("log").starts_with("127.0.0.1 "), "{}", files.read("log"));
}

/// proxy_accept with proxy_send: the servers are told what pen was told.
#[test]
fn what_a_header_says_is_passed_on() {
    only_ours!("it does not know the PROXY protocol");
    let server = UdpServer::mirror("M");
    for send in ["proxy_send 2", "proxy_send every"] {
        let pen = Pen::with(&[TRUSTED, &["-O", send]].concat()).servers([&server]).udp().start();
        for (source, site) in [(CLIENT, SITE), (CLIENT6, SITE6)] {
            let front = pen.udp();
            front.send([&header(source, site)[..], b"hello"].concat());
            let expected = (parsed(source), parsed(site), b"hello".to_vec());
            assert_eq!(taken_apart(&front.receive()), expected);
            front.send("again");
            let second = front.receive();
            match send {
                "proxy_send 2" => assert_eq!(second, b"again"),
                _ => assert_eq!(taken_apart(&second).0, parsed(source)),
            }
        }
    }
}

/// client_acl asks about the client that the header names.
#[test]
fn the_clients_list_is_asked_about_the_client_named() {
    only_ours!("it does not know the PROXY protocol");
    let s = echoes(1);
    let options = [TRUSTED, &["-O", "acl 2 permit 198.51.100.7", "-O", "client_acl 2"]].concat();
    let pen = Pen::with(&options).servers(&s).controlled().udp().start();
    let (one, two) = (pen.udp(), pen.udp());
    two.send([&header(OTHER, SITE)[..], b"hello"].concat());
    pen.wait_for_total(NO_SERVER, 1);
    one.send([&header(CLIENT, SITE)[..], b"hello"].concat());
    assert_eq!(one.answer_to("hello"), "S0");
    assert_eq!(s[0].count(), 1);
}
