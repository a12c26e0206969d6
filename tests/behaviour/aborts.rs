//! Connections that do not end as they should: resets, early answers, urgent data, and what they must not cost.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use pen::sys::socket::unacknowledged;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::Pid;

use crate::support::backend::{greeters, webs};
use crate::support::client::{read_all, reset};
use crate::support::{Backend, Ending, Held, Pen, SOON, Scratch, let_pass, only_ours, wait_until};

/// Waits until the connection is broken. False: it was not, in the time allowed.
fn breaks(stream: &TcpStream) -> bool {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::from(100u8)).unwrap();
        if fds[0].revents().is_some_and(|ready| ready.contains(PollFlags::POLLERR)) {
            return true;
        }
    }
    false
}

/// DESCRIPTION: a reset is passed on as a reset, also if that side's stream had ended before.
#[test]
fn a_client_that_resets_after_its_end_of_stream_is_noticed() {
    only_ours!("it waits for the server to send something");
    let server = Backend::serving("S", |visit| {
        let _ = (&visit.stream).read_to_end(&mut Vec::new());
        visit.note("ended");
        visit.note(if breaks(&visit.stream) { "reset" } else { "nothing" });
    });
    let pen = Pen::with(&[]).servers([&server]).workers(1).start();
    let client = pen.connect();
    (&client).write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    wait_until("the server sees the end", || !server.notes().is_empty());
    reset(client);
    wait_until("the server knows", || server.notes().len() == 2);
    assert_eq!(server.notes(), ["ended", "reset"]);
}

/// DESCRIPTION: the same while the server takes nothing, and pen therefore reads nothing from the client.
#[test]
fn a_client_that_resets_while_it_is_held_up_is_noticed() {
    only_ours!("it waits for the server to take something");
    let server = Backend::serving("S", |visit| {
        visit.note(if breaks(&visit.stream) { "reset" } else { "nothing" });
    });
    let pen = Pen::with(&[]).servers([&server]).workers(1).start();
    let client = pen.connect();
    client.set_nonblocking(true).unwrap();
    let (chunk, mut last) = ([7; 65_536], Instant::now());
    while last.elapsed() < Duration::from_millis(500) {
        match (&client).write(&chunk) {
            Ok(count) if count > 0 => last = Instant::now(),
            _ => let_pass(Duration::from_millis(5)),
        }
    }
    reset(client);
    wait_until("the server knows", || !server.notes().is_empty());
    assert_eq!(server.notes(), ["reset"]);
}

/// DESCRIPTION: bytes are passed on unchanged. An answer that comes before the end of the request is one.
#[test]
fn an_answer_that_the_server_gives_before_it_has_read_everything_arrives() {
    const LENGTH: usize = 200_000;
    let server = Backend::serving("S", |visit| {
        let _ = (&visit.stream).read(&mut [0; 1000]);
        let _ = (&visit.stream).write_all(&vec![b'r'; LENGTH]);
        // From here on the answer is pen's to deliver. Closing with bytes unread sends a reset.
        wait_until("pen has the answer", || unacknowledged(visit.stream.as_fd()) == 0);
    });
    let pen = Pen::with(&[]).servers([&server]).start();
    for _ in 0..5 {
        let client = pen.connect();
        std::thread::scope(|scope| {
            scope.spawn(|| while (&client).write_all(&[b'u'; 65_536]).is_ok() {});
            let (answer, ending) = read_all(&client);
            assert_eq!(answer.len(), LENGTH);
            assert_ne!(ending, Ending::Open);
            let _ = client.shutdown(Shutdown::Both);
        });
    }
    wait_until("nothing is left of them", || pen.statistics().contains("\n0 connections (0 soft"));
}

/// DESCRIPTION: bytes are passed on in order and unchanged; urgent data is skipped, and stops nothing.
#[test]
fn urgent_data_does_not_hold_up_what_follows() {
    only_ours!("it passes on what is left at the next chance");
    let server = Backend::serving("S", |visit| {
        let mut all = Vec::new();
        let _ = (&visit.stream).read_to_end(&mut all);
        visit.note(String::from_utf8_lossy(&all));
    });
    let pen = Pen::with(&[]).servers([&server]).workers(1).start();
    let client = pen.connect();
    (&client).write_all(b"0").unwrap();
    wait_until("it is connected", || server.open() == 1);
    // So that all of it is there when pen looks.
    let worker = Pid::from_raw(pen.workers()[0]);
    kill(worker, Signal::SIGSTOP).unwrap();
    (&client).write_all(b"abc").unwrap();
    send(client.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
    (&client).write_all(b"def").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    kill(worker, Signal::SIGCONT).unwrap();
    wait_until("the server has it all", || !server.notes().is_empty());
    assert_eq!(server.notes(), ["0abcdef"]);
}

/// When everything is in use: new clients are served as others leave, whichever worker was told of them.
#[test]
fn with_a_single_place_and_many_workers_nobody_is_forgotten() {
    only_ours!("it has no workers");
    let s = webs(1);
    let pen = Pen::with(&["-r", "-x", "1"]).servers(&s).workers(4).start();
    for _ in 0..1500 {
        let start = Instant::now();
        assert_eq!(pen.visit(), "S0");
        assert!(start.elapsed() < SOON, "somebody waited for the next to come");
    }
}

/// CONFIGURATION, conn_max: it counts at once, for those too who wait already.
#[test]
fn more_connections_are_for_those_who_wait_too() {
    only_ours!("its table cannot grow");
    let (g, files) = (greeters(1), Scratch::new());
    let config = files.write("pen.cfg", "conn_max 1\n");
    let pen = Pen::with(&["-x", "1", "-F", &config]).servers(&g).workers(2).start();
    let first = pen.hold();
    let second = pen.connect();
    wait_until("it is told", || pen.stderr().contains("raise the number with -x"));
    files.write("pen.cfg", "conn_max 2\n");
    pen.signal(Signal::SIGHUP);
    let second = Held::greeted(second);
    assert!(first.echoes() && second.echoes());
}

/// WHICH SERVER, Blacklist: a failure after the connection was made does not count.
#[test]
fn a_server_that_resets_at_once_is_not_left_alone() {
    only_ours!("it takes that for a failed connect, now and then");
    let server = Backend::serving("S", |visit| reset(visit.stream));
    let pen = Pen::with(&[]).servers([&server]).start();
    for _ in 0..50 {
        assert_eq!(read_all(&pen.connect()), (Vec::new(), Ending::Reset));
    }
    assert!(!pen.stderr().contains("left alone"), "{}", pen.stderr());
}
