use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;
use crate::sys::wait;

const UNIX: Peer = Peer { address: ClientAddress::Unix, to_loopback: false };

/// A port on the loopback interface, whose time goes by when a test says so.
struct Rig {
    port: ControlPort,
    address: SocketAddr,
    now: Moment,
}

impl Rig {
    fn new() -> Rig {
        let any = SocketAddress::Inet("127.0.0.1:0".parse().unwrap());
        let listener = socket::listen(&any, 128).unwrap();
        let SocketAddress::Inet(address) = socket::local_address(listener.as_fd()).unwrap() else {
            panic!("not the address that was asked for");
        };
        Rig { port: ControlPort::new(listener), address, now: Moment(1_000_000_000) }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }

    fn say(&self, text: &str) -> TcpStream {
        let mut client = self.connect();
        client.write_all(text.as_bytes()).unwrap();
        client
    }

    /// A session that was not accepted but given: what its client writes is there at once.
    fn pair(&mut self) -> (SessionId, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let id = SessionId(self.port.count);
        self.port.count += 1;
        self.port.sessions.insert(id, Session::new(ours.into(), UNIX, self.now));
        (id, theirs)
    }

    fn advance(&mut self) -> Vec<Asked> {
        self.port.advance(self.now, |_| true)
    }

    fn pass(&mut self, seconds: u32) {
        self.now = self.now.plus(Seconds(seconds));
    }

    /// Advances until it is so.
    fn until(&mut self, mut is_so: impl FnMut(&Self, Vec<Asked>) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let asked = self.advance();
            if is_so(self, asked) {
                return;
            }
            assert!(Instant::now() < end, "it never was so: {:?}", self.port);
            wait::until_ready(&self.port.descriptors(), Duration::from_millis(20)).unwrap();
        }
    }

    /// Advances until somebody asks, and says who.
    fn asked(&mut self) -> Asked {
        let mut found = Vec::new();
        self.until(|_, asked| {
            found.extend(asked);
            !found.is_empty()
        });
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    fn until_gone(&mut self) {
        self.until(|rig, _| rig.port.sessions.is_empty());
    }

    /// Advances until the client's socket takes no more of its answer.
    fn until_full(&mut self, session: SessionId) {
        let mut before = None;
        loop {
            let Phase::Writing { sent, .. } = self.port.sessions[&session].phase else {
                panic!("it is not being answered");
            };
            if before.replace(sent) == Some(sent) {
                return;
            }
            self.advance();
        }
    }

    fn reply(&mut self, session: SessionId, text: &str) {
        self.port.reply(session, text.to_owned(), self.now);
    }
}

fn rest(mut client: impl Read) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

fn command(text: &str) -> Request {
    Request::Command(text.to_owned())
}

#[test]
fn a_command_is_asked_once_and_its_answer_goes_to_whoever_asked() {
    let mut rig = Rig::new();
    let mode = rig.say("mode\nblacklist\n");
    let first = rig.asked();
    let timeout = rig.say("timeout\r\n");
    let second = rig.asked();
    assert_eq!((first.request, second.request), (command("mode"), command("timeout")));
    assert!(first.session != second.session && first.peer.is_local());
    rig.reply(second.session, "5\n");
    rig.reply(first.session, "no hash\n");
    rig.reply(first.session, "twice\n");
    let answers = std::thread::spawn(|| (rest(mode), rest(timeout)));
    rig.until_gone();
    assert!(!rig.port.is_open(first.session));
    rig.reply(first.session, "late\n");
    assert_eq!(answers.join().unwrap(), ("no hash\n".to_owned(), "5\n".to_owned()));
}

#[test]
fn wherever_a_request_is_cut_it_is_the_same_request() {
    let mut rig = Rig::new();
    for (text, request) in [
        ("blacklist\n", command("blacklist")),
        ("mode\r\n", command("mode")),
        ("  mode  \0", command("  mode  ")),
        ("server 0 max 5\nmode\n", command("server 0 max 5")),
        ("begin\r\nhash\r\nend\r\n", Request::Batch("hash\r\n".to_owned())),
        ("begin\nhash\n\nend\n", Request::Batch("hash\n\n".to_owned())),
    ] {
        for cut in 0..=text.len() {
            let (session, mut client) = rig.pair();
            let mut asked = rig.advance();
            for piece in [&text[..cut], &text[cut..]] {
                client.write_all(piece.as_bytes()).unwrap();
                rig.pass(1);
                asked.extend(rig.advance());
            }
            assert_eq!(asked.len(), 1, "{text:?} cut at {cut}: {asked:?}");
            assert_eq!((asked[0].session, &asked[0].request), (session, &request));
            rig.reply(session, "so be it\n");
            client.shutdown(Shutdown::Write).unwrap();
            assert!(rig.advance().is_empty() && !rig.port.is_open(session));
            assert_eq!(rest(client), "so be it\n");
        }
    }
}

#[test]
fn a_client_that_has_ended_its_direction_gets_its_answer() {
    let mut rig = Rig::new();
    let client = rig.say("mode");
    client.shutdown(Shutdown::Write).unwrap();
    let asked = rig.asked();
    assert_eq!(asked.request, command("mode"));
    rig.reply(asked.session, "no hash\n");
    // It needs no more turns: nothing can come any more.
    assert!(!rig.port.is_open(asked.session));
    assert_eq!(rest(client), "no hash\n");
}

#[test]
fn a_command_without_a_line_end_is_whole_after_two_seconds() {
    let mut rig = Rig::new();
    let (session, mut client) = rig.pair();
    client.write_all(b"blackl").unwrap();
    assert_eq!(rig.advance(), []);
    rig.pass(1);
    client.write_all(b"ist").unwrap();
    assert_eq!(rig.advance(), []);
    let due = rig.now.plus(SETTLE_TIME);
    assert_eq!(rig.port.next_deadline(), Some(due));
    rig.now = Moment(due.0 - 1);
    assert_eq!(rig.advance(), []);
    rig.now = due;
    let request = command("blacklist");
    assert_eq!(rig.advance(), [Asked { session, peer: UNIX, request }]);
    assert_eq!(rig.port.next_deadline(), None);
    rig.pass(100_000);
    assert_eq!(rig.advance(), []);
    rig.reply(session, "30\n");
    assert_eq!(rest(client), "30\n");
}

#[test]
fn a_batch_is_not_whole_before_its_end_however_long_that_takes() {
    for text in ["begin", "begin\n", "begin\nhash\n", "begin\nhash\nen"] {
        let mut rig = Rig::new();
        let (session, mut client) = rig.pair();
        client.write_all(text.as_bytes()).unwrap();
        assert_eq!(rig.advance(), []);
        assert_eq!(rig.port.next_deadline(), Some(rig.now.plus(STALL_TIME)), "{text:?}");
        rig.pass(9);
        assert_eq!(rig.advance(), []);
        rig.pass(1);
        assert_eq!(rig.advance(), []);
        rig.pass(1);
        rig.advance();
        assert!(!rig.port.is_open(session));
        assert_eq!(rest(client), "error: the batch does not end with end; nothing is changed\n");
    }
}

#[test]
fn a_batch_that_is_cut_off_is_refused() {
    let mut rig = Rig::new();
    let client = rig.say("begin\nblacklist 7\n");
    client.shutdown(Shutdown::Write).unwrap();
    let mut sessions = 0;
    rig.until(|rig, asked| {
        assert_eq!(asked, []);
        sessions = sessions.max(rig.port.count);
        sessions == 1 && rig.port.sessions.is_empty()
    });
    assert_eq!(rest(client), "error: the batch does not end with end; nothing is changed\n");
}

#[test]
fn an_empty_command_is_closed_without_a_byte_and_asks_for_nothing() {
    let mut rig = Rig::new();
    for text in ["", "\n", " \r\n", "\nmode\n"] {
        let (session, mut client) = rig.pair();
        client.write_all(text.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rig.advance(), []);
        assert!(!rig.port.is_open(session), "{text:?}");
        assert_eq!(rest(client), "");
    }
}

#[test]
fn an_empty_answer_closes_without_a_byte() {
    let mut rig = Rig::new();
    let mut client = rig.say("hash\nand more\n");
    let session = rig.asked().session;
    client.write_all(b"and still more").unwrap();
    rig.reply(session, "");
    assert_eq!(rest(client), "");
    rig.until_gone();
}

#[test]
fn what_is_too_long_is_refused_and_the_client_gets_to_know() {
    let line = "x".repeat(3 << 20);
    let batch = format!("begin\n{}end\n", "#\n".repeat(1 << 20));
    for (text, start) in [
        (line.clone(), "error: the command is longer than 4095 bytes\n"),
        (format!("begin\n\n{line}"), "error: line 2 is longer than 4095 bytes; nothing is changed\n"),
        (batch, "error: the batch is larger than 1048576 bytes; nothing is changed; "),
    ] {
        let mut rig = Rig::new();
        let mut client = rig.connect();
        let client = std::thread::spawn(move || {
            client.write_all(text.as_bytes()).unwrap();
            rest(client)
        });
        rig.until(|rig, asked| {
            assert_eq!(asked, []);
            rig.port.count == 1 && rig.port.sessions.is_empty()
        });
        let reply = client.join().unwrap();
        assert!(reply.starts_with(start), "{reply}");
    }
}

#[test]
fn a_client_that_never_stops_sending_is_ended() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    let client = std::thread::spawn(move || {
        let mut sent = 0;
        while let Ok(length) = client.write(&[b'x'; 65536]) {
            sent += length;
        }
        sent
    });
    rig.until(|rig, _| rig.port.count == 1 && rig.port.sessions.is_empty());
    assert!(client.join().unwrap() >= MOST_DROPPED);
}

#[test]
fn a_long_answer_goes_to_a_slow_reader_in_pieces_and_nobody_waits_for_it() {
    let mut rig = Rig::new();
    let mut slow = rig.say("recent 100000\n");
    slow.set_nonblocking(true).unwrap();
    let session = rig.asked().session;
    let text: String = (0..400_000).map(|line| format!("{line:09}\n")).collect();
    assert!(text.len() >= 4_000_000);
    rig.reply(session, &text);
    assert!(rig.port.is_open(session));
    let mut received = Vec::new();
    let mut others = Vec::new();
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < end, "it has {} bytes", received.len());
        for other in rig.advance() {
            assert_eq!(other.request, command("mode"));
            rig.reply(other.session, "no hash\n");
        }
        let mut piece = [0; 8192];
        match slow.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => received.extend_from_slice(&piece[..length]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        if others.len() < 20 {
            others.push(rig.say("mode\n"));
        }
    }
    assert!(received == text.as_bytes(), "{} bytes of {}", received.len(), text.len());
    assert_eq!(others.into_iter().map(rest).collect::<Vec<_>>(), ["no hash\n"; 20]);
}

#[test]
fn whoever_takes_nothing_of_its_answer_for_ten_seconds_is_ended() {
    let mut rig = Rig::new();
    let (session, mut client) = rig.pair();
    client.write_all(b"recent\n").unwrap();
    assert_eq!(rig.advance().len(), 1);
    rig.pass(1000);
    rig.reply(session, &"x".repeat(4 << 20));
    rig.until_full(session);
    assert_eq!(rig.port.next_deadline(), Some(rig.now.plus(STALL_TIME)));
    rig.pass(9);
    rig.advance();
    assert!(rig.port.is_open(session));
    rig.pass(1);
    rig.advance();
    assert!(!rig.port.is_open(session));
}

#[test]
fn whoever_takes_a_minute_for_its_answer_is_ended() {
    let mut rig = Rig::new();
    let (session, mut client) = rig.pair();
    client.write_all(b"recent\n").unwrap();
    assert_eq!(rig.advance().len(), 1);
    rig.reply(session, &"x".repeat(4 << 20));
    for _ in 0..6 {
        rig.until_full(session);
        rig.pass(9);
        client.read_exact(&mut [0; 65536]).unwrap();
        rig.advance();
        assert!(rig.port.is_open(session));
    }
    rig.pass(6);
    client.read_exact(&mut [0; 65536]).unwrap();
    rig.advance();
    assert!(!rig.port.is_open(session));
}

#[test]
fn whoever_sends_nothing_for_ten_seconds_is_closed_without_a_byte() {
    let mut rig = Rig::new();
    let client = rig.connect();
    rig.until(|rig, _| rig.port.sessions.len() == 1);
    assert_eq!(rig.port.next_deadline(), Some(rig.now.plus(STALL_TIME)));
    rig.pass(10);
    assert_eq!(rig.advance(), []);
    assert_eq!(rest(client), "");
    assert!(rig.port.sessions.is_empty());
}

#[test]
fn a_command_that_is_not_whole_after_a_minute_is_not_carried_out() {
    let mut rig = Rig::new();
    let (session, mut client) = rig.pair();
    for _ in 0..60 {
        assert!(rig.port.is_open(session));
        client.write_all(b"x").unwrap();
        assert_eq!(rig.advance(), []);
        rig.pass(1);
    }
    client.write_all(b"x").unwrap();
    assert_eq!(rig.advance(), []);
    assert!(!rig.port.is_open(session));
    assert_eq!(rest(client), "");
}

#[test]
fn whoever_does_not_close_after_its_answer_is_closed_a_second_later() {
    let mut rig = Rig::new();
    let (session, mut client) = rig.pair();
    client.write_all(b"mode\n").unwrap();
    assert_eq!(rig.advance().len(), 1);
    rig.reply(session, "no hash\n");
    assert_eq!(rig.port.next_deadline(), Some(rig.now.plus(LINGER_TIME)));
    client.write_all(b"more").unwrap();
    rig.advance();
    assert!(rig.port.is_open(session));
    rig.pass(1);
    rig.advance();
    assert!(!rig.port.is_open(session));
    assert_eq!(rest(client), "no hash\n");
}

#[test]
fn a_hundred_silent_sessions_keep_nobody_out() {
    let mut rig = Rig::new();
    let mut silent: Vec<_> = (0..50).map(|_| rig.connect()).collect();
    let mut client = rig.say("mode\n");
    silent.extend((0..50).map(|_| rig.connect()));
    let mut found = Vec::new();
    rig.until(|rig, asked| {
        found.extend(asked);
        rig.port.count == 101
    });
    let [asked] = &found[..] else { panic!("{found:?}") };
    assert_eq!(asked.request, command("mode"));
    assert_eq!(rig.port.sessions.len(), MOST_SESSIONS);
    // More of them come while it waits for its answer.
    let more: Vec<_> = (0..100).map(|_| rig.connect()).collect();
    rig.until(|rig, _| rig.port.count == 201);
    assert!(rig.port.is_open(asked.session));
    assert_eq!(rig.port.sessions.len(), MOST_SESSIONS);
    rig.reply(asked.session, "no hash\n");
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"no hash\n");
    drop((silent, more, client));
    rig.until_gone();
}

#[test]
fn whoever_got_nowhere_for_longest_makes_room() {
    let mut rig = Rig::new();
    let mut sessions: Vec<_> = (0..MOST_SESSIONS).map(|_| rig.pair()).collect();
    for silent in [&[5][..], &[2, 5]] {
        rig.pass(1);
        for (number, (_, client)) in sessions.iter_mut().enumerate() {
            if !silent.contains(&number) {
                client.write_all(b"begin\n").unwrap();
            }
        }
        assert_eq!(rig.advance(), []);
    }
    let mut clients = Vec::new();
    for gone in [&[5][..], &[2, 5]] {
        let count = rig.port.count;
        clients.push(rig.connect());
        rig.until(|rig, _| rig.port.count > count);
        let closed = |number: &usize| !rig.port.is_open(sessions[*number].0);
        assert_eq!((0..sessions.len()).filter(closed).collect::<Vec<_>>(), gone);
    }
}

#[test]
fn nobody_whose_command_is_there_makes_room_unread() {
    let mut rig = Rig::new();
    let mut clients = Vec::new();
    for _ in 1..MOST_SESSIONS {
        clients.push(rig.say("mode\n"));
        rig.asked();
    }
    let last = rig.say("blacklist\n");
    let silent = rig.connect();
    assert_eq!(rig.asked().request, command("blacklist"));
    drop((clients, last, silent));
}

#[test]
fn nobody_who_waits_for_an_answer_makes_room() {
    let mut rig = Rig::new();
    let mut waiting = Vec::new();
    for _ in 0..MOST_SESSIONS {
        let client = rig.say("mode\n");
        waiting.push((rig.asked().session, client));
    }
    let late = rig.connect();
    let late = std::thread::spawn(move || rest(late));
    rig.until(|_, asked| {
        assert_eq!(asked, []);
        late.is_finished()
    });
    assert_eq!(late.join().unwrap(), FULL);
    for (session, client) in waiting {
        rig.reply(session, "no hash\n");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(client), "no hash\n");
    }
    rig.until_gone();
}

#[test]
fn nothing_looks_like_an_answer_that_is_none() {
    let mut rig = Rig::new();
    let (waiting, asker) = rig.pair();
    (&asker).write_all(b"acl 1 deny ::1\n").unwrap();
    assert_eq!(rig.asked().session, waiting);
    let (_, batch) = rig.pair();
    (&batch).write_all(b"begin\nacl 1 deny ::1\n").unwrap();
    assert_eq!(rig.advance(), []);
    rig.port.end();
    assert_eq!((rest(asker), rest(batch)), (ENDED.to_owned(), NOT_HEARD.to_owned()));
}

#[test]
fn whoever_is_not_let_in_is_closed_unread() {
    let mut rig = Rig::new();
    for text in ["", "exit\n"] {
        let mut client = rig.say(text);
        let end = Instant::now() + Duration::from_secs(20);
        let asked_about = std::cell::Cell::new(0);
        while asked_about.get() == 0 {
            let nobody = |peer: &Peer| {
                assert_eq!(peer.address.to_string(), "127.0.0.1");
                asked_about.set(asked_about.get() + 1);
                false
            };
            assert_eq!(rig.port.advance(rig.now, nobody), []);
            assert!(Instant::now() < end);
        }
        assert!(rig.port.sessions.is_empty());
        // Closed with a reset, if there was something to read.
        let mut byte = [0];
        let ended = client.read(&mut byte);
        assert!(ended.as_ref().is_ok_and(|&length| length == 0) || !text.is_empty() && ended.is_err());
    }
}

#[test]
fn accepting_pauses_while_it_cannot_work_and_says_so_once() {
    let (bound, _other) = UnixStream::pair().unwrap();
    bound.set_nonblocking(true).unwrap();
    let mut port = ControlPort::new(bound);
    let start = Moment(5_000_000);
    assert_eq!(port.descriptors().len(), 1);
    assert_eq!(port.advance(start, |_| true), []);
    assert!(port.take_trouble().is_some() && port.take_trouble().is_none());
    assert!(port.descriptors().is_empty());
    let due = Moment(start.0 + PAUSE);
    assert_eq!(port.next_deadline(), Some(due));
    port.advance(Moment(due.0 - 1), |_| true);
    assert_eq!(port.next_deadline(), Some(due));
    port.advance(due, |_| true);
    assert_eq!(port.next_deadline(), Some(Moment(due.0 + PAUSE)));
    assert!(port.take_trouble().is_none());
}

#[test]
fn accepting_goes_on_when_it_works_again() {
    let mut rig = Rig::new();
    rig.port.pause = Some(Pause { until: rig.now.plus(Seconds(1)), reason: None });
    let _client = rig.say("mode\n");
    assert_eq!(rig.advance(), []);
    assert_eq!(rig.port.count, 0);
    rig.pass(1);
    rig.asked();
    assert_eq!(rig.port.descriptors().len(), 1);
}

#[test]
fn a_client_that_is_gone_ends_its_session() {
    let mut rig = Rig::new();
    let (reading, client) = rig.pair();
    drop(client);
    assert_eq!(rig.advance(), []);
    assert!(!rig.port.is_open(reading));
    let (waiting, mut client) = rig.pair();
    client.write_all(b"mode\n").unwrap();
    assert_eq!(rig.advance().len(), 1);
    drop(client);
    assert_eq!(rig.advance(), []);
    assert!(rig.port.is_open(waiting) && rig.port.descriptors().len() == 1);
    rig.reply(waiting, "no hash\n");
    assert!(!rig.port.is_open(waiting));
}

#[test]
fn a_session_knows_where_it_has_connected_to() {
    let mut rig = Rig::new();
    let _client = rig.say("mode\n");
    let asked = rig.asked();
    assert!(asked.peer.to_loopback && asked.peer.is_local(), "{asked:?}");
}

#[test]
fn only_this_machine_is_local() {
    let inet = |ip: &str| Peer { address: ClientAddress::Inet(ip.parse().unwrap(), 1), to_loopback: true };
    for local in [UNIX, inet("127.0.0.1"), inet("127.9.9.9"), inet("::1"), inet("::ffff:127.0.0.1")] {
        assert!(local.is_local(), "{local:?}");
    }
    let from_loopback_to_elsewhere = Peer { to_loopback: false, ..inet("127.0.0.1") };
    assert!(!from_loopback_to_elsewhere.is_local());
    for foreign in ["10.0.0.1", "128.0.0.1", "::2", "::ffff:10.0.0.1", "0.0.0.0"] {
        assert!(!inet(foreign).is_local(), "{foreign}");
    }
}
