use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashMap;
use std::net::UdpSocket;
use std::time::Duration;

fn any(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 0)
}

fn address(socket: &OwnedFd) -> SocketAddr {
    match local_address(socket.as_fd()).unwrap() {
        SocketAddress::Inet(inet) => inet,
        SocketAddress::Unix(_) => unreachable!(),
    }
}

/// A listener, and where it is.
fn ear(ip: &str) -> (OwnedFd, SocketAddr) {
    let ear = open_group(any(ip), 1).unwrap().remove(0);
    let at = address(&ear);
    (ear, at)
}

/// Somebody with a socket of the standard library, who waits for a while.
fn peer(ip: &str) -> UdpSocket {
    let peer = UdpSocket::bind(any(ip)).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    peer
}

fn has_come(socket: &OwnedFd) -> bool {
    wait_for(socket, PollFlags::POLLIN)
}

fn wait_for(socket: &OwnedFd, what: PollFlags) -> bool {
    let mut polled = [PollFd::new(socket.as_fd(), what)];
    poll(&mut polled, PollTimeout::from(10_000u16)).unwrap() == 1
}

/// What came, datagram by datagram, and in how many messages.
fn receive(inbox: &mut Inbox, socket: &OwnedFd, wanted: usize) -> (Vec<Vec<u8>>, usize) {
    let (mut datagrams, mut messages) = (Vec::new(), 0);
    while datagrams.len() < wanted {
        assert!(has_come(socket), "{} of {wanted} came", datagrams.len());
        let count = inbox.receive(socket.as_fd(), BATCH).unwrap();
        messages += count;
        for index in 0..count {
            let arrival = inbox.get(index);
            assert!(!arrival.truncated);
            datagrams.extend(arrival.datagrams().map(<[u8]>::to_vec));
        }
    }
    (datagrams, messages)
}

fn send(socket: &OwnedFd, departures: &[Departure<'_>]) -> Vec<io::Result<()>> {
    let mut results = Vec::new();
    send_all(socket.as_fd(), departures, |index, result| {
        assert_eq!(index, results.len(), "in their order");
        results.push(result);
    });
    assert_eq!(results.len(), departures.len());
    results
}

fn kinds(results: &[io::Result<()>]) -> Vec<Option<i32>> {
    results.iter().map(|result| result.as_ref().err().and_then(io::Error::raw_os_error)).collect()
}

fn to<'a>(to: Option<SocketAddr>, pieces: &'a [IoSlice<'a>]) -> Departure<'a> {
    Departure { to, from: None, pieces, segment: None }
}

#[test]
fn an_inbox_without_messages_would_block() {
    let (ear, _) = ear("127.0.0.1");
    let mut inbox = Inbox::new();
    assert_eq!(inbox.receive(ear.as_fd(), BATCH).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(inbox.receive(ear.as_fd(), 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_batch_has_who_sent_each_message_and_its_bytes_whatever_was_there_before() {
    let (ear, at) = ear("127.0.0.1");
    let peers = [peer("127.0.0.1"), peer("127.0.0.2")];
    let mut inbox = Inbox::new();
    for round in 0..3 {
        for n in 0..BATCH + 6 {
            peers[n % 2].send_to(format!("{round} {n}").as_bytes(), at).unwrap();
        }
        let mut n = 0;
        while n < BATCH + 6 {
            assert!(has_come(&ear));
            let count = inbox.receive(ear.as_fd(), 1000).unwrap();
            assert!(count <= BATCH);
            for index in 0..count {
                let arrival = inbox.get(index);
                assert_eq!(arrival.bytes, format!("{round} {n}").as_bytes());
                assert_eq!(arrival.from, peers[n % 2].local_addr().unwrap());
                assert_eq!(arrival.to, None, "it is bound to one address");
                assert_eq!(arrival.segment, arrival.bytes.len());
                n += 1;
            }
        }
    }
}

#[test]
fn no_more_messages_are_taken_than_asked_for() {
    let (ear, at) = ear("127.0.0.1");
    let peer = peer("127.0.0.1");
    for byte in 0..50 {
        peer.send_to(&[byte], at).unwrap();
    }
    let mut inbox = Inbox::new();
    let mut next = 0;
    for most in [3, 1, 2].into_iter().cycle() {
        assert!(has_come(&ear));
        let count = inbox.receive(ear.as_fd(), most).unwrap();
        assert!(count <= most);
        for index in 0..count {
            assert_eq!(inbox.get(index).bytes, [next]);
            next += 1;
        }
        if next == 50 {
            break;
        }
    }
}

#[test]
#[should_panic(expected = "message 1 of 1")]
fn there_is_no_message_beyond_those_that_came() {
    let (ear, at) = ear("127.0.0.1");
    peer("127.0.0.1").send_to(b"x", at).unwrap();
    let mut inbox = Inbox::new();
    assert!(has_come(&ear));
    assert_eq!(inbox.receive(ear.as_fd(), BATCH).unwrap(), 1);
    inbox.get(1);
}

#[test]
fn the_largest_datagram_and_empty_ones_are_passed_whole() {
    for ip in ["127.0.0.1", "::1"] {
        let (ear, at) = ear(ip);
        let server = peer(ip);
        let up = connect(server.local_addr().unwrap(), None).unwrap().socket;
        let largest: Vec<u8> = (0..65_507u32).map(|n| (n % 251) as u8).collect();
        let client = peer(ip);
        for bytes in [b"" as &[u8], &largest, b""] {
            client.send_to(bytes, at).unwrap();
        }
        let mut inbox = Inbox::new();
        assert_eq!(receive(&mut inbox, &ear, 3), (vec![vec![], largest.clone(), vec![]], 3));

        let half = [IoSlice::new(&largest[..30_000]), IoSlice::new(&largest[30_000..])];
        let results = send(&up, &[to(None, &[]), to(None, &half), to(None, &[IoSlice::new(b"")])]);
        assert_eq!(kinds(&results), [None; 3]);
        let mut room = vec![0; LARGEST];
        assert_eq!(server.recv(&mut room).unwrap(), 0);
        assert_eq!(server.recv(&mut room).unwrap(), largest.len());
        assert_eq!(room[..largest.len()], largest);
        assert_eq!(server.recv(&mut room).unwrap(), 0);

        let results = send(&up, &[to(None, &[IoSlice::new(&vec![0; LARGEST])])]);
        assert_eq!(kinds(&results), [Some(libc::EMSGSIZE)], "no datagram can have so many bytes");
    }
}

#[test]
fn trains_come_whole_where_they_are_gathered_and_else_in_pieces() {
    let (ear, at) = ear("127.0.0.1");
    let plain = peer("127.0.0.1");
    let up = connect(at, None).unwrap().socket;
    let bytes: Vec<u8> = (0..50 * 100 + 7u32).map(|n| (n % 251) as u8).collect();
    let expected: Vec<Vec<u8>> = bytes.chunks(100).map(<[u8]>::to_vec).collect();
    let pieces = [IoSlice::new(&bytes[..333]), IoSlice::new(&bytes[333..])];
    let train = |to| Departure { to, from: None, pieces: &pieces, segment: Some(100) };
    let mut inbox = Inbox::new();

    assert_eq!(kinds(&send(&up, &[train(None)])), [None]);
    assert_eq!(receive(&mut inbox, &ear, 51), (expected.clone(), 1));
    assert_eq!(inbox.get(0).segment, 100);

    // One that does not gather gets each.
    let results = send(&ear, &[train(Some(plain.local_addr().unwrap()))]);
    assert_eq!(kinds(&results), [None]);
    let mut room = [0; 200];
    for datagram in &expected {
        let count = plain.recv(&mut room).unwrap();
        assert_eq!(room[..count], *datagram);
    }

    // As does this one, before it is told to.
    for (gathered, messages) in [(false, 51), (true, 1)] {
        if gathered {
            gather_trains(up.as_fd()).unwrap();
        }
        let results = send(&ear, &[train(Some(address(&up)))]);
        assert_eq!(kinds(&results), [None]);
        assert_eq!(receive(&mut inbox, &up, 51), (expected.clone(), messages));
    }
}

#[test]
fn a_message_that_is_received_alone_takes_nothing_from_the_batches_around_it() {
    let (ear, at) = ear("127.0.0.1");
    let up = connect(at, None).unwrap().socket;
    let mut inbox = Inbox::new();
    let bytes = vec![7; 350];
    let pieces = [IoSlice::new(&bytes)];
    let train = || Departure { to: None, from: None, pieces: &pieces, segment: Some(100) };
    for _ in 0..2 {
        assert_eq!(kinds(&send(&up, &[train(), train(), train()])), [None; 3]);
        let (datagrams, messages) = receive(&mut inbox, &ear, 12);
        assert_eq!((datagrams.len(), messages), (12, 3));
        assert!(datagrams.chunks(4).all(|train| train[3].len() == 50));

        let back = [IoSlice::new(b"back")];
        assert_eq!(kinds(&send(&ear, &[to(Some(address(&up)), &back)])), [None]);
        assert!(has_come(&up));
        inbox.receive_alone(up.as_fd()).unwrap();
        let arrival = inbox.get(0);
        assert_eq!((arrival.bytes, arrival.segment), (&b"back"[..], 4));
        assert_eq!(inbox.receive_alone(up.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn messages_without_names_take_nothing_from_the_batches_around_them() {
    let (ear, at) = ear("127.0.0.1");
    let up = connect(at, None).unwrap().socket;
    gather_trains(up.as_fd()).unwrap();
    let mut inbox = Inbox::new();
    let bytes = vec![7; 350];
    let pieces = [IoSlice::new(&bytes)];
    let train = |to| Departure { to, from: None, pieces: &pieces, segment: Some(100) };
    let trains = |inbox: &Inbox, count| {
        (0..count).for_each(|index| {
            let Arrival { bytes, segment, truncated, .. } = inbox.get(index);
            assert_eq!((bytes.len(), segment, truncated), (350, 100, false));
        });
    };
    for _ in 0..3 {
        assert_eq!(kinds(&send(&up, &[train(None), train(None)])), [None; 2]);
        assert!(has_come(&ear));
        assert_eq!(inbox.receive(ear.as_fd(), BATCH).unwrap(), 2);
        trains(&inbox, 2);
        assert!((0..2).all(|index| inbox.get(index).from == address(&up)));

        let back = train(Some(address(&up)));
        assert_eq!(kinds(&send(&ear, &[back])), [None]);
        assert!(has_come(&up));
        assert_eq!(inbox.receive_nameless(up.as_fd(), BATCH).unwrap(), 1);
        trains(&inbox, 1);
        assert_eq!(inbox.get(0).from, NOBODY);
        let nothing = inbox.receive_nameless(up.as_fd(), BATCH);
        assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn a_train_that_the_way_does_not_take_is_an_error_of_its_own() {
    let (ear, at) = ear("127.0.0.1");
    let up = connect(at, None).unwrap().socket;
    let bytes = vec![0; 1000];
    let train = |segment| Departure { to: None, from: None, pieces: &[], segment: Some(segment) };
    let pieces = [IoSlice::new(&bytes)];
    // More datagrams than any kernel makes of one message.
    let results = send(&up, &[Departure { pieces: &pieces, ..train(1) }, to(None, &pieces)]);
    assert_eq!(kinds(&results), [Some(libc::EINVAL), None]);
    let mut inbox = Inbox::new();
    assert_eq!(receive(&mut inbox, &ear, 1), (vec![bytes.clone()], 1));
}

#[test]
fn a_message_that_fails_does_no_harm_to_the_others() {
    let (ear, _) = ear("127.0.0.1");
    let peer = peer("127.0.0.1");
    let good = peer.local_addr().ok();
    let texts: Vec<String> = (0..2 * BATCH + 10).map(|n| n.to_string()).collect();
    let pieces: Vec<[IoSlice<'_>; 1]> = texts.iter().map(|text| [IoSlice::new(text.as_bytes())]).collect();
    let bad = [0, 10, 11, BATCH - 1, BATCH, 2 * BATCH + 9];
    let departures: Vec<Departure<'_>> = pieces
        .iter()
        .enumerate()
        .map(|(n, pieces)| match bad.iter().position(|&bad| bad == n) {
            // There is no port 0; and this is nobody's address to send from.
            Some(0..3) => to(Some(any("127.0.0.1")), pieces),
            Some(_) => Departure { from: Some("192.0.2.1".parse().unwrap()), ..to(good, pieces) },
            None => to(good, pieces),
        })
        .collect();
    let results = send(&ear, &departures);
    let mut room = [0; 100];
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), bad.contains(&n), "{n}: {result:?}");
        if result.is_ok() {
            let count = peer.recv(&mut room).unwrap();
            assert_eq!(room[..count], *texts[n].as_bytes());
        }
    }
}

#[test]
fn when_the_server_is_gone_no_message_is_thrown_after_it() {
    let mut server = Some(peer("127.0.0.1"));
    let at = server.as_ref().unwrap().local_addr().unwrap();
    let up = connect(at, None).unwrap().socket;
    let departures: Vec<Departure<'_>> = (0..BATCH + 10).map(|_| to(None, &[])).collect();
    assert!(kinds(&send(&up, &departures)).iter().all(Option::is_none));
    drop(server.take());
    // The first is one too many, and nobody knows that before.
    send(&up, &departures[..1]).remove(0).unwrap();
    assert!(wait_for(&up, PollFlags::empty()), "an error is waiting");
    let again = UdpSocket::bind(at).unwrap();
    again.set_nonblocking(true).unwrap();
    assert!(kinds(&send(&up, &departures)).iter().all(|kind| *kind == Some(libc::ECONNREFUSED)));
    assert_eq!(again.recv(&mut []).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(kinds(&send(&up, &departures[..3])).iter().all(Option::is_none), "it is told once");
}

#[test]
fn without_room_the_rest_of_the_messages_would_block() {
    let (a, b) = nix::sys::socket::socketpair(
        nix::sys::socket::AddressFamily::Unix,
        SockType::Datagram,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    let departures: Vec<Departure<'_>> = (0..3 * BATCH).map(|_| to(None, &[])).collect();
    let mut results = Vec::new();
    // A receiver of this kind that reads nothing makes the sender wait at once, and not by the clock.
    while results.iter().all(io::Result::is_ok) {
        results = send(&a, &departures);
    }
    let first = results.iter().position(io::Result::is_err).unwrap();
    for result in &results[first..] {
        assert_eq!(result.as_ref().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
    drop(b);
}

#[test]
fn a_closed_port_is_heard_of_once_by_whoever_asks() {
    for ip in ["127.0.0.1", "::1"] {
        let closed = peer(ip).local_addr().unwrap();
        let up = connect(closed, None).unwrap().socket;
        assert!(take_error(up.as_fd()).is_none());
        let mut inbox = Inbox::new();
        let refused = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);

        send(&up, &[to(None, &[])]).remove(0).unwrap();
        assert!(wait_for(&up, PollFlags::empty()), "an error is waiting");
        refused(inbox.receive(up.as_fd(), BATCH).unwrap_err());
        assert_eq!(inbox.receive(up.as_fd(), 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);

        send(&up, &[to(None, &[])]).remove(0).unwrap();
        assert!(wait_for(&up, PollFlags::empty()));
        refused(take_error(up.as_fd()).unwrap());
        assert!(take_error(up.as_fd()).is_none());

        send(&up, &[to(None, &[])]).remove(0).unwrap();
        assert!(wait_for(&up, PollFlags::empty()));
        refused(send(&up, &[to(None, &[])]).remove(0).unwrap_err());
        assert!(take_error(up.as_fd()).is_none());

        let mut polled = [PollFd::new(up.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut polled, PollTimeout::ZERO).unwrap(), 0, "and nothing is left of it");
    }
}

/// Has ICMP say that of what a socket sends; false if this process may not.
fn complain_of(socket: &OwnedFd, peer: SocketAddr, kind: u8, code: u8) -> bool {
    let Ok(raw) = ns::socket(
        nix::sys::socket::AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        nix::sys::socket::SockProtocol::Icmp,
    ) else {
        return false;
    };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    // The headers of the datagram.
    message.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
    message.extend(address(socket).port().to_be_bytes());
    message.extend(peer.port().to_be_bytes());
    message.extend([0, 8, 0, 0]);
    let words = message.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let target = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, 0);
    ns::sendto(raw.as_raw_fd(), &message, &target, MsgFlags::empty()).unwrap();
    assert!(wait_for(socket, PollFlags::empty()), "the error has come");
    true
}

#[test]
fn a_host_that_cannot_be_reached_is_told_and_a_lost_datagram_is_not() {
    let server = peer("127.0.0.1");
    let at = server.local_addr().unwrap();
    let up = connect(at, None).unwrap().socket;
    let mut inbox = Inbox::new();
    // Only root can play the network.
    if !complain_of(&up, at, 3, 1) {
        return;
    }
    assert_eq!(take_error(up.as_fd()).unwrap().raw_os_error(), Some(libc::EHOSTUNREACH));
    complain_of(&up, at, 3, 0);
    assert_eq!(inbox.receive(up.as_fd(), 1).unwrap_err().raw_os_error(), Some(libc::ENETUNREACH));

    let too_far = |up| complain_of(up, at, 11, 0);
    too_far(&up);
    assert!(take_error(up.as_fd()).is_none());
    assert!(take_error(up.as_fd()).is_none());

    too_far(&up);
    assert_eq!(inbox.receive(up.as_fd(), 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);

    // What has come comes, what is sent is sent.
    server.send_to(b"reply", address(&up)).unwrap();
    too_far(&up);
    assert_eq!(receive(&mut inbox, &up, 1).0, [b"reply"]);
    too_far(&up);
    send(&up, &[to(None, &[IoSlice::new(b"question")])]).remove(0).unwrap();
    let mut room = [0; 20];
    assert_eq!(server.recv(&mut room).unwrap(), 8);

    // A lack of ways for large datagrams is nobody's fault.
    complain_of(&up, at, 3, 1);
    complain_of(&up, at, 11, 0);
    assert_eq!(take_error(up.as_fd()).unwrap().raw_os_error(), Some(libc::EHOSTUNREACH));
}

#[test]
fn a_wildcard_listener_tells_which_address_was_asked_and_replies_from_it() {
    for (wildcard, addresses) in
        [("0.0.0.0", &["127.0.0.1", "127.0.0.7"] as &[&str]), ("::", &["::1", "127.0.0.1", "127.0.0.7"])]
    {
        let (ear, at) = ear(wildcard);
        let mut inbox = Inbox::new();
        for ip in addresses {
            let asked = SocketAddr::new(ip.parse().unwrap(), at.port());
            // Not the address that the system would choose for it.
            let client = peer(if asked.is_ipv4() { "127.0.0.1" } else { "::1" });
            client.send_to(b"where?", asked).unwrap();
            assert!(has_come(&ear));
            assert_eq!(inbox.receive(ear.as_fd(), BATCH).unwrap(), 1);
            let arrival = inbox.get(0);
            assert_eq!(arrival.from, client.local_addr().unwrap());
            assert_eq!(arrival.to, Some(asked.ip()));
            let pieces = [IoSlice::new(b"here")];
            let reply = Departure { from: arrival.to, ..to(Some(arrival.from), &pieces) };
            let train = Departure { segment: Some(3), from: arrival.to, ..to(Some(arrival.from), &pieces) };
            assert_eq!(kinds(&send(&ear, &[reply, train])), [None, None]);
            let mut room = [0; 10];
            for length in [4, 3, 1] {
                assert_eq!(client.recv_from(&mut room).unwrap(), (length, asked));
            }
        }
    }
}

#[test]
fn a_broadcast_is_answered_from_an_address_of_this_machine() {
    for wildcard in ["0.0.0.0", "::"] {
        let (ear, at) = ear(wildcard);
        let client = peer("127.0.0.1");
        client.set_broadcast(true).unwrap();
        client.send_to(b"anybody?", ("127.255.255.255", at.port())).unwrap();
        let mut inbox = Inbox::new();
        assert!(has_come(&ear));
        assert_eq!(inbox.receive(ear.as_fd(), BATCH).unwrap(), 1);
        assert_eq!(inbox.get(0).to, Some("127.0.0.1".parse().unwrap()));
    }
}

#[test]
fn an_ipv6_listener_that_is_no_wildcard_leaves_ipv4_to_others() {
    let (_ear, at) = ear("::1");
    drop(open_group(SocketAddr::new("127.0.0.1".parse().unwrap(), at.port()), 1).unwrap());
}

#[test]
fn a_group_shares_clients_and_each_stays_with_one_member() {
    for ip in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
        let group = open_group(any(ip), 4).unwrap();
        let at = address(&group[0]);
        assert!(group.iter().all(|member| address(member) == at));
        let target = match at.ip() {
            ip if !ip.is_unspecified() => at,
            IpAddr::V4(_) => SocketAddr::new("127.0.0.1".parse().unwrap(), at.port()),
            IpAddr::V6(_) => SocketAddr::new("::1".parse().unwrap(), at.port()),
        };
        let clients: Vec<UdpSocket> = (0..64).map(|_| peer(&target.ip().to_string())).collect();
        let mut inbox = Inbox::new();
        let mut members: HashMap<SocketAddr, Vec<usize>> = HashMap::new();
        for round in 1..=3 {
            for client in &clients {
                client.send_to(b"hello", target).unwrap();
            }
            while members.values().map(Vec::len).sum::<usize>() < round * clients.len() {
                let mut polled: Vec<PollFd<'_>> =
                    group.iter().map(|member| PollFd::new(member.as_fd(), PollFlags::POLLIN)).collect();
                assert!(poll(&mut polled, PollTimeout::from(10_000u16)).unwrap() > 0, "on {ip}");
                for (number, member) in group.iter().enumerate() {
                    for index in 0..inbox.receive(member.as_fd(), BATCH).unwrap_or(0) {
                        members.entry(inbox.get(index).from).or_default().push(number);
                    }
                }
            }
        }
        assert_eq!(members.len(), clients.len());
        assert!(members.values().all(|of| of.iter().all(|&member| member == of[0])), "on {ip}: {members:?}");
        for number in 0..group.len() {
            let share = members.values().filter(|of| of[0] == number).count();
            assert!(share > 0, "on {ip}, member {number} of {} has no client", group.len());
        }
    }
}

#[test]
fn nobody_else_can_have_the_address_of_a_group() {
    for ip in ["127.0.0.1", "::1", "::"] {
        let group = open_group(any(ip), 2).unwrap();
        let at = address(&group[0]);
        let in_use = |result: io::Result<_>| {
            assert_eq!(result.map(drop).unwrap_err().kind(), io::ErrorKind::AddrInUse, "on {ip}");
        };
        in_use(open_group(at, 1).map(drop));
        in_use(open_group(at, 3).map(drop));
        in_use(UdpSocket::bind(at).map(drop));
        // But one who knows of it can join, and then it has a share.
        let joined = join_group(at).unwrap();
        in_use(open_group(at, 2).map(drop));
        drop(group);
        in_use(open_group(at, 2).map(drop));
        drop(joined);
        drop(open_group(at, 2).unwrap());
    }
}

#[test]
fn nobody_is_joined_who_had_the_address_before() {
    let first = UdpSocket::bind(any("127.0.0.1")).unwrap();
    setsockopt(&first, sockopt::ReusePort, &true).unwrap();
    setsockopt(&first, sockopt::ReuseAddr, &true).unwrap();
    let error = open_group(first.local_addr().unwrap(), 2).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_socket_to_a_server_comes_from_the_source() {
    let server = peer("127.0.0.1");
    let at = server.local_addr().unwrap();
    for (source, from) in [("127.0.0.9", "127.0.0.9"), ("::1", "127.0.0.1")] {
        let attempt = connect(at, Some(Source::Own(source.parse().unwrap()))).unwrap();
        assert!(attempt.unbound.is_none());
        send(&attempt.socket, &[to(None, &[])]).remove(0).unwrap();
        let (_, client) = server.recv_from(&mut []).unwrap();
        assert_eq!(client.ip(), from.parse::<IpAddr>().unwrap());
    }
    let attempt = connect(at, Some(Source::Own("192.0.2.1".parse().unwrap()))).unwrap();
    assert_eq!(attempt.unbound.unwrap().kind(), io::ErrorKind::AddrNotAvailable);
    send(&attempt.socket, &[to(None, &[])]).remove(0).unwrap();
    assert!(server.recv_from(&mut []).unwrap().1.ip().is_loopback());
}

#[test]
fn a_socket_to_a_server_hears_nobody_else() {
    let server = peer("127.0.0.1");
    let up = connect(server.local_addr().unwrap(), None).unwrap().socket;
    peer("127.0.0.1").send_to(b"a lie", address(&up)).unwrap();
    server.send_to(b"the truth", address(&up)).unwrap();
    let mut inbox = Inbox::new();
    assert_eq!(receive(&mut inbox, &up, 1), (vec![b"the truth".to_vec()], 1));
    assert_eq!(inbox.get(0).from, server.local_addr().unwrap());
}

#[test]
fn a_server_in_the_mapped_form_of_ipv4_is_one_of_ipv4() {
    let server = peer("127.0.0.1");
    let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), server.local_addr().unwrap().port());
    let up = connect(mapped, None).unwrap().socket;
    assert!(address(&up).is_ipv4());
}

#[test]
fn a_collector_hears_both_families_and_nobody_else_has_its_port() {
    let collector = open_collector(0).unwrap();
    let port = address(&collector).port();
    for ip in ["127.0.0.1", "::1"] {
        let from = peer(ip);
        from.send_to(b"x", (ip, port)).unwrap();
        let mut inbox = Inbox::new();
        assert_eq!(receive(&mut inbox, &collector, 1).0, [b"x"]);
        assert_eq!(inbox.get(0).from, from.local_addr().unwrap());
    }
    let taken = open_collector(port).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_queue_says_what_waits_and_what_was_dropped() {
    let (ear, at) = ear("127.0.0.1");
    let empty = queue(ear.as_fd()).unwrap();
    assert!(empty.limit > 0 && empty.waiting == 0 && empty.dropped == 0, "{empty:?}");
    setsockopt(&ear, sockopt::RcvBuf, &4096).unwrap();
    let from = peer("127.0.0.1");
    for _ in 0..100 {
        from.send_to(&[b'x'; 1000], at).unwrap();
    }
    let full = queue(ear.as_fd()).unwrap();
    assert!(full.waiting > 0 && full.limit < empty.limit, "{full:?}");
    let mut inbox = Inbox::new();
    let kept = inbox.receive(ear.as_fd(), BATCH).unwrap();
    assert_eq!(kept as u32 + full.dropped, 100);
}
