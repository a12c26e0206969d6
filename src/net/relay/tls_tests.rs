//! Flows with TLS on one side, or on both.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::model::tls::ServerIdentity;
use crate::net::buffers::SCRATCH;
use crate::sys::poller::{Events, Poller};
use crate::sys::socket;
use crate::sys::tls::testing::contexts;
use crate::sys::tls::{Contexts, Outbox};

const PATIENCE: Duration = Duration::from_secs(60);

/// What records add to the bytes of one read, and what a library may have to say beside them.
const OVERHEAD: usize = 2048;

/// A flow between two peers, and the flow back.
struct Rig {
    /// Who writes, and its side of pen.
    source: Endpoint,
    from: Endpoint,
    /// Who reads, and its side of pen.
    sink: Endpoint,
    to: Endpoint,
    flow: Direction,
    back: Direction,
    buffers: RelayBuffers,
    poller: Poller,
    deadline: Instant,
}

/// The way of the bytes, as a user would name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    PlainToTls,
    TlsToPlain,
    TlsToTls,
}

fn connected() -> (OwnedFd, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (two, _) = listener.accept().unwrap();
    one.set_nonblocking(true).unwrap();
    two.set_nonblocking(true).unwrap();
    (one.into(), two.into())
}

/// Whoever connects, and whoever accepts.
fn sides(tls: bool, contexts: &Contexts, server: &ServerIdentity, outbox: &Outbox) -> [Endpoint; 2] {
    let (one, two) = connected();
    match tls {
        false => [Endpoint::server(one, false), Endpoint::client(two, false)],
        true => [
            Endpoint::server(contexts.connect(server, one, outbox).unwrap(), false),
            Endpoint::client(contexts.accept(two, outbox).unwrap(), false),
        ],
    }
}

impl Rig {
    fn new(way: Way) -> Rig {
        let (contexts, server) = contexts();
        let outbox = Outbox::default();
        let [source, from] = sides(way != Way::PlainToTls, &contexts, &server, &outbox);
        let [to, sink] = sides(way != Way::TlsToPlain, &contexts, &server, &outbox);
        let poller = Poller::new().unwrap();
        for (token, endpoint) in (0..).zip([&source, &from, &sink, &to]) {
            poller.add_stream(endpoint.socket().as_fd(), token).unwrap();
        }
        let (flow, back) = (Direction::default(), Direction::default());
        let deadline = Instant::now() + PATIENCE;
        let buffers = RelayBuffers::new(2);
        let mut rig = Rig { source, from, sink, to, flow, back, buffers, poller, deadline };
        let mut done = false;
        while !done {
            rig.look();
            done = true;
            for endpoint in [&mut rig.source, &mut rig.from, &mut rig.sink, &mut rig.to] {
                done &= endpoint.handshake().unwrap();
            }
        }
        rig
    }

    /// Notes what the poller says.
    fn look(&mut self) {
        assert!(Instant::now() < self.deadline, "stalled: {:?}", self.flow);
        let mut events = Events::with_capacity(8);
        self.poller.wait(&mut events, Duration::ZERO).unwrap();
        for (token, readiness) in events.iter() {
            match token {
                0 => self.source.note(readiness),
                1 => self.from.note(readiness),
                2 => self.sink.note(readiness),
                _ => self.to.note(readiness),
            }
        }
    }

    /// One turn of a worker's loop: both directions, as with any connection.
    fn turn(&mut self) -> Result<(Progress, Progress), Broken> {
        self.look();
        let held = self.to.held();
        let Rig { from, to, flow, back, buffers, .. } = self;
        let forth = flow.pump(from, to, buffers, &mut Shown { splice: true, see: |_: &[u8]| () })?;
        if held > 0 && to.held() > 0 {
            assert_eq!(forth.bytes, 0, "it was read on while {held} bytes were held");
        }
        let waiting = flow.backlog() + to.held();
        assert!(waiting <= SCRATCH + OVERHEAD, "{waiting} bytes wait");
        if waiting == 0 && !forth.again && flow.state() == DirectionState::Flowing {
            assert!(!from.readable(), "nobody would come back for what the library has");
        }
        if forth.ended {
            assert_eq!(waiting, 0);
            to.finish();
        }
        let backwards = back.pump(to, from, buffers, &mut Shown { splice: true, see: |_: &[u8]| () })?;
        if backwards.ended {
            from.finish();
        }
        Ok((forth, backwards))
    }
}

/// Sends what the endpoint takes of `bytes` from `sent` on, at most `most`.
fn write(endpoint: &mut Endpoint, bytes: &[u8], sent: &mut usize, most: usize) {
    if *sent < bytes.len() && endpoint.flush().unwrap() {
        *sent += endpoint.send(&bytes[*sent..bytes.len().min(*sent + most)]).unwrap();
    }
}

/// Reads all there is now: true at the end of the stream.
fn read(endpoint: &mut Endpoint, most: usize, got: &mut Vec<u8>) -> bool {
    let mut room = vec![0; most];
    match endpoint.receive(&mut room).unwrap() {
        None => false,
        Some(count) => {
            got.extend_from_slice(&room[..count]);
            count == 0
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) >> 3) as u8 ^ at as u8).collect()
}

/// Who does something in which step; repeated.
fn pauses() -> impl Strategy<Value = Vec<bool>> {
    prop_oneof![
        Just(vec![true]),
        prop::collection::vec(any::<bool>(), 1..40).prop_map(|mut steps| {
            steps.push(true);
            steps
        })
    ]
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..2000, 16_000usize..17_000, 60_000usize..70_000, 500_000usize..1_000_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_byte_arrives_once_and_in_order(
        way in prop_oneof![Just(Way::PlainToTls), Just(Way::TlsToPlain), Just(Way::TlsToTls)],
        total in 0usize..2_000_000,
        (most_written, most_read) in (sizes(), sizes()),
        (writes, reads) in (pauses(), pauses()),
    ) {
        // Small steps over large totals would only take long.
        let bytes = pattern(total.min(most_written.min(most_read) * 1000));
        let mut rig = Rig::new(way);
        let (mut sent, mut got) = (0, Vec::with_capacity(bytes.len()));
        let (mut finished, mut ends, mut over) = (false, 0, false);
        let mut steps = writes.iter().cycle().zip(reads.iter().cycle());
        while !over {
            let (&writes, &reads) = steps.next().unwrap();
            if writes {
                write(&mut rig.source, &bytes, &mut sent, most_written);
            }
            if sent == bytes.len() && !finished {
                rig.source.finish();
                finished = true;
            }
            let _ = rig.source.flush().unwrap();
            ends += u32::from(rig.turn().unwrap().0.ended);
            if reads {
                over = read(&mut rig.sink, most_read, &mut got);
            }
        }
        prop_assert_eq!(ends, 1);
        prop_assert_eq!(rig.flow.state(), DirectionState::Ended);
        prop_assert_eq!(rig.flow.bytes(), bytes.len() as u64);
        prop_assert!(got == bytes, "the bytes changed on the way");
    }
}

#[test]
fn after_the_end_of_one_stream_the_other_goes_on() {
    for way in [Way::PlainToTls, Way::TlsToPlain, Way::TlsToTls] {
        let mut rig = Rig::new(way);
        let question = b"everything, please".to_vec();
        let answer = pattern(1_000_000);
        rig.source.send(&question).unwrap();
        rig.source.finish();
        let (mut asked, mut sent, mut got) = (Vec::new(), 0, Vec::new());
        while !read(&mut rig.sink, 100, &mut asked) {
            rig.turn().unwrap();
        }
        assert_eq!(asked, question);
        let mut over = false;
        while !over {
            write(&mut rig.sink, &answer, &mut sent, 50_000);
            if sent == answer.len() {
                sent += 1;
                rig.sink.finish();
            }
            let _ = rig.sink.flush().unwrap();
            rig.turn().unwrap();
            over = read(&mut rig.source, 50_000, &mut got);
        }
        assert!(got == answer, "{way:?}: {} bytes of {}", got.len(), answer.len());
        assert_eq!((rig.flow.state(), rig.back.state()), (DirectionState::Ended, DirectionState::Ended));
    }
}

#[test]
fn the_last_record_waits_for_the_end_to_go_with_it() {
    let mut rig = Rig::new(Way::PlainToTls);
    rig.source.send(b"bye").unwrap();
    rig.source.finish();
    while !rig.from.known.contains(Known::WHOLE) {
        rig.look();
    }
    let Rig { from, to, flow, buffers, .. } = &mut rig;
    let progress = flow.pump(from, to, buffers, &mut Shown { splice: true, see: |_: &[u8]| () }).unwrap();
    assert!(progress.ended && to.declare_end(true));
    let arrived = socket::peek(rig.sink.socket().as_fd(), &mut [0; 64]).map_err(|error| error.kind());
    assert_eq!(arrived, Err(io::ErrorKind::WouldBlock));
    rig.to.finish();
    let mut got = Vec::new();
    while !read(&mut rig.sink, 64, &mut got) {
        rig.look();
    }
    assert_eq!(got, b"bye");
}

#[test]
fn an_end_that_has_to_wait_for_room_is_told_later() {
    let mut rig = Rig::new(Way::PlainToTls);
    let chunk = pattern(SCRATCH);
    let mut sent = 0;
    while rig.to.held() == 0 {
        rig.look();
        sent += rig.to.send(&chunk).unwrap();
    }
    rig.to.finish();
    let (mut got, mut over) = (Vec::new(), false);
    while !over {
        rig.look();
        rig.to.flush().unwrap();
        over = read(&mut rig.sink, SCRATCH, &mut got);
    }
    assert_eq!(got.len(), sent);
    // Read once more, it still is an end and no error: the socket's own end has come too.
    rig.sink.suspect();
    assert!(read(&mut rig.sink, SCRATCH, &mut got));
}

#[test]
fn an_end_that_is_not_declared_is_no_end() {
    let mut rig = Rig::new(Way::TlsToPlain);
    rig.source.send(b"half a sent").unwrap();
    socket::shutdown_write(rig.source.socket().as_fd());
    let mut got = Vec::new();
    let broken = loop {
        match rig.turn() {
            Ok(_) => assert!(!read(&mut rig.sink, 100, &mut got)),
            Err(broken) => break broken,
        }
    };
    let Broken::Source(error) = broken else { panic!("{broken:?}") };
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_ne!(rig.flow.state(), DirectionState::Ended);
    while got.len() < b"half a sent".len() {
        rig.look();
        assert!(!read(&mut rig.sink, 100, &mut got));
    }
}

#[test]
fn a_reset_is_told_from_an_end() {
    let mut rig = Rig::new(Way::TlsToTls);
    let gone = std::mem::replace(&mut rig.source, Endpoint::client(connected().0, false));
    gone.cut();
    let broken = loop {
        if let Err(broken) = rig.turn() {
            break broken;
        }
    };
    let Broken::Source(error) = broken else { panic!("{broken:?}") };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn whoever_is_left_in_peace_is_told_so() {
    let mut rig = Rig::new(Way::TlsToTls);
    std::mem::replace(&mut rig.source, Endpoint::client(connected().0, false)).part();
    while !rig.turn().unwrap().0.ended {}
    assert!(rig.sink.receive(&mut [0; 100]).is_ok());
}

#[test]
fn a_reader_that_stalls_stops_the_reading() {
    let mut rig = Rig::new(Way::PlainToTls);
    let chunk = vec![7; 1 << 20];
    let mut quiet = 0;
    // Until neither the writer gets anything off nor the flow moves anything, many turns in a row.
    while quiet < 200 {
        let wrote = rig.source.send(&chunk).unwrap() > 0;
        let active = rig.turn().unwrap().0.active;
        quiet = if wrote || active { 0 } else { quiet + 1 };
    }
    assert!(rig.to.held() > 0);
    let before = rig.flow.bytes();
    assert_eq!(rig.turn().unwrap().0, Progress::default());
    assert_eq!(rig.flow.bytes(), before);
}

#[test]
fn a_peer_that_makes_much_work_of_few_bytes_has_short_turns_and_loses_nothing() {
    let mut rig = Rig::new(Way::TlsToPlain);
    let mut sent = 0;
    while rig.source.held() == 0 {
        rig.source.send(b"x").unwrap();
        sent += 1;
    }
    let (mut got, mut turns) = (Vec::new(), 0);
    while got.len() < sent {
        let _ = rig.source.flush().unwrap();
        turns += usize::from(rig.turn().unwrap().0.active);
        read(&mut rig.sink, 65_536, &mut got);
    }
    assert!(turns > sent / 100, "{turns} turns for {sent} records");
}

#[test]
fn what_a_peer_says_is_not_held_back_by_the_handshake_before() {
    let rig = Rig::new(Way::PlainToTls);
    let mut to = rig.to;
    let watched = TcpStream::from(to.socket().try_clone().unwrap());
    assert!(!watched.nodelay().unwrap());
    to.send(b"one").unwrap();
    assert!(watched.nodelay().unwrap());
}
