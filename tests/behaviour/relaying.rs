//! Bytes from one side to the other: all of them, in order, and the end of them too.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use crate::support::backend::{Visit, greeters};
use crate::support::client::{read_all, read_line, reset};
use crate::support::{
    Backend, Ending, Held, Pen, SOON, became_true, classic, let_pass, only_ours, processes, wait_until,
};

const MEGABYTE: usize = 1_000_000;

/// What is sent: a block of noise whose length has no common factor with any buffer's, over and over. So a byte that
/// is lost, doubled or moved is found at its place.
fn noise() -> &'static [u8] {
    static NOISE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    NOISE.get_or_init(|| {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..1_000_003).map(|_| next()).collect()
    })
}

/// Sends so many bytes of noise.
fn send(mut stream: &TcpStream, count: usize) -> io::Result<()> {
    let mut at = 0;
    while at < count {
        let block = &noise()[at % noise().len()..];
        let block = &block[..block.len().min(count - at).min(200_000)];
        stream.write_all(block)?;
        at += block.len();
    }
    Ok(())
}

/// Reads to the end of the stream, compares every byte, and returns how many there were.
fn receive(mut stream: &TcpStream, mut arrived: impl FnMut(usize)) -> usize {
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        let count = stream.read(&mut buffer).expect("the stream ends without an error");
        if count == 0 {
            return at;
        }
        let mut bytes = &buffer[..count];
        while !bytes.is_empty() {
            let expected = &noise()[at % noise().len()..];
            let length = expected.len().min(bytes.len());
            assert!(bytes[..length] == expected[..length], "wrong bytes after {at}");
            at += length;
            bytes = &bytes[length..];
        }
        arrived(at);
    }
}

/// A server that sends so many bytes and at the same time receives, and says how many it received.
fn exchanger(count: usize) -> (Backend, std::sync::mpsc::Receiver<usize>) {
    let (sender, receiver) = channel();
    let sender: Mutex<Sender<usize>> = Mutex::new(sender);
    let server = Backend::serving("X", move |visit| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                send(&visit.stream, count).unwrap();
                visit.stream.shutdown(Shutdown::Write).unwrap();
            });
            let received = receive(&visit.stream, |_| {});
            sender.lock().unwrap().send(received).unwrap();
        });
    });
    (server, receiver)
}

fn exchange(up: usize, down: usize) {
    let (server, received) = exchanger(down);
    let pen = Pen::with(&[]).servers([&server]).start();
    let client = pen.connect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(&client, up).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(receive(&client, |_| {}), down);
    });
    assert_eq!(received.recv_timeout(SOON), Ok(up));
}

/// pen(1), DESCRIPTION: what one side sends, the other receives: a hundred megabytes both ways at once.
#[test]
fn a_hundred_megabytes_both_ways_at_once() {
    exchange(100 * MEGABYTE, 100 * MEGABYTE);
}

/// The same for streams that go one way, which are moved without copying.
#[test]
fn a_hundred_megabytes_one_way() {
    exchange(100 * MEGABYTE + 1, 0);
    exchange(0, 100 * MEGABYTE + 7);
}

/// Both kinds mixed, with many connections on few workers.
#[test]
fn many_streams_at_once() {
    let (server, received) = exchanger(3 * MEGABYTE);
    let pen = Pen::with(&["-r"]).servers([&server]).workers(2).start();
    std::thread::scope(|scope| {
        for number in 0..24 {
            let pen = &pen;
            scope.spawn(move || {
                let client = pen.connect();
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        send(&client, number * MEGABYTE / 8).unwrap();
                        client.shutdown(Shutdown::Write).unwrap();
                    });
                    assert_eq!(receive(&client, |_| {}), 3 * MEGABYTE);
                });
            });
        }
    });
    let mut sizes: Vec<_> = (0..24).map(|_| received.recv_timeout(SOON).unwrap()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, (0..24).map(|number| number * MEGABYTE / 8).collect::<Vec<_>>());
}

/// Small messages are passed on as they come: nothing waits for more, or for the other side's acknowledgement.
#[test]
fn ten_thousand_small_messages_there_and_back() {
    let g = greeters(1);
    let pen = Pen::with(&[]).servers(&g).start();
    let held = pen.hold();
    let start = Instant::now();
    for number in 0..10_000u32 {
        (&held.stream).write_all(&number.to_le_bytes()).unwrap();
        let mut answer = [0; 4];
        (&held.stream).read_exact(&mut answer).unwrap();
        assert_eq!(answer, number.to_le_bytes());
    }
    // Waiting 40 ms for an acknowledgement each time would take 400 s.
    assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
}

/// pen(1), tcp_fastclose off: who ends its stream can still receive; here the client.
#[test]
fn a_client_may_end_its_stream_and_still_receive() {
    let server = Backend::serving("S", |visit| {
        let (request, ending) = read_all(&visit.stream);
        assert_eq!(ending, Ending::EndOfStream);
        let _ = (&visit.stream).write_all(format!("{} bytes", request.len()).as_bytes());
    });
    let pen = Pen::with(&["-r"]).servers([&server]).start();
    for count in (0..50).chain([5 * MEGABYTE]) {
        let client = pen.connect();
        send(&client, count).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (answer, ending) = read_all(&client);
        assert_eq!(String::from_utf8_lossy(&answer), format!("{count} bytes"));
        assert_eq!(ending, Ending::EndOfStream);
    }
}

/// pen(1), tcp_fastclose off: here the server.
#[test]
fn a_server_may_end_its_stream_and_still_receive() {
    let server = Backend::serving("S", |visit| {
        (&visit.stream).write_all(b"hello\n").unwrap();
        visit.stream.shutdown(Shutdown::Write).unwrap();
        visit.note(format!("{} bytes", receive(&visit.stream, |_| {})));
    });
    let pen = Pen::with(&["-r"]).servers([&server]).start();
    for count in [1, 2 * MEGABYTE] {
        let client = pen.connect();
        assert_eq!(read_all(&client), (b"hello\n".to_vec(), Ending::EndOfStream));
        send(&client, count).unwrap();
        drop(client);
        wait_until("the server has it all", || server.notes().last() == Some(&format!("{count} bytes")));
    }
}

/// A reset is passed on as a reset: neither side takes half a message for a whole one.
#[test]
fn a_clients_reset_reaches_the_server() {
    let server = Backend::serving("S", |visit| {
        let _ = (&visit.stream).write_all(b"hello\n");
        visit.note(format!("{:?}", read_all(&visit.stream).1));
    });
    let pen = Pen::with(&[]).servers([&server]).start();
    let client = pen.connect();
    (&client).write_all(b"half a mess").unwrap();
    assert_eq!(read_line(&client).as_deref(), Some("hello"));
    reset(client);
    let expected = if classic() { "EndOfStream" } else { "Reset" };
    wait_until("the server sees the end", || server.notes() == [expected]);
}

#[test]
fn a_servers_reset_reaches_the_client() {
    let server = Backend::serving("S", |visit| {
        (&visit.stream).write_all(b"half an ans").unwrap();
        // The answer must have left the pen before the reset overtakes it.
        let _ = (&visit.stream).read(&mut [0]);
        let Visit { stream, .. } = visit;
        reset(stream);
    });
    let pen = Pen::with(&[]).servers([&server]).start();
    let client = pen.connect();
    let mut answer = [0; 11];
    (&client).read_exact(&mut answer).unwrap();
    (&client).write_all(b"x").unwrap();
    let expected = if classic() { Ending::EndOfStream } else { Ending::Reset };
    assert_eq!(read_all(&client).1, expected);
}

/// A server that refuses an upload, says why and hangs up on the rest of it: the client is told, as it would be without
/// pen in between, however the answer and the reset meet what is still being sent.
#[test]
fn an_answer_before_the_end_of_an_upload_arrives() {
    const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n";
    let server = Backend::serving("S", |visit| {
        let _ = (&visit.stream).read(&mut [0; 1024]);
        let _ = (&visit.stream).write_all(ANSWER);
    });
    let pen = Pen::with(&["-r"]).servers([&server]).start();
    let mut told = 0;
    for _ in 0..40 {
        let client = pen.connect();
        let _ = send(&client, 5 * MEGABYTE);
        told += usize::from(read_all(&client).0 == ANSWER);
    }
    // The classic loses every fifth.
    assert!(told == 40 || classic(), "{told} of 40");
}

/// A server that dies in the middle of an answer: what it sent arrives, then the end, and the client is not sent to
/// another server.
#[test]
fn a_server_that_dies_in_mid_stream_ends_the_connection() {
    let dying = || {
        Backend::serving("S", |visit| {
            visit.read_head();
            (&visit.stream).write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\nten bytes.").unwrap();
        })
    };
    let servers = [dying(), dying()];
    let pen = Pen::with(&[]).servers(&servers).start();
    let client = pen.connect();
    (&client).write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let (answer, ending) = read_all(&client);
    assert!(answer.ends_with(b"\r\n\r\nten bytes."), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(ending, Ending::EndOfStream);
    assert_eq!(servers.iter().map(Backend::accepted).sum::<usize>(), 1);
}

/// While one side does not read, the other is not read either: pen's memory does not grow, it does not spin, and when
/// reading goes on everything is there.
#[test]
fn a_stalled_reader_costs_neither_memory_nor_time() {
    const COUNT: usize = 100 * MEGABYTE;
    for client_stalls in [true, false] {
        let (go, gone) = channel::<()>();
        let gone = Mutex::new(gone);
        let server = Backend::serving("S", move |visit| {
            if (&visit.stream).read(&mut [0]).is_ok_and(|count| count == 0) {
                return; // the first connection
            }
            if client_stalls {
                let mut sent = 0;
                while sent < COUNT {
                    let block = &noise()[sent % noise().len()..];
                    let block = &block[..block.len().min(COUNT - sent).min(50_000)];
                    (&visit.stream).write_all(block).unwrap();
                    sent += block.len();
                    visit.tally().moved.store(sent as u64, Ordering::Relaxed);
                }
            } else {
                gone.lock().unwrap().recv().unwrap();
                let count = receive(&visit.stream, |_| {});
                visit.note(format!("{count} bytes"));
            }
        });
        let pen = Pen::with(&[]).servers([&server]).workers(1).start();
        // Pages that the first connection touches are not growth.
        drop(pen.connect());
        wait_until("a first connection has come and gone", || server.accepted() == 1 && server.open() == 0);
        let before = processes::memory_kib(&pen.family());
        let client = pen.connect();
        client.set_write_timeout(Some(SOON * 4)).unwrap();
        (&client).write_all(b"!").unwrap();
        let moved = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            if !client_stalls {
                scope.spawn(|| {
                    let mut sent = 0;
                    while sent < COUNT {
                        let block = &noise()[sent % noise().len()..];
                        let block = &block[..block.len().min(COUNT - sent).min(50_000)];
                        (&client).write_all(block).unwrap();
                        sent += block.len();
                        moved.store(sent as u64, Ordering::Relaxed);
                    }
                    client.shutdown(Shutdown::Write).unwrap();
                });
            }
            let progress =
                || if client_stalls { &server.tally.moved } else { &moved }.load(Ordering::Relaxed);
            let mut last = 0;
            let mut since = Instant::now();
            wait_until("the sender is held back", || {
                if progress() != last {
                    (last, since) = (progress(), Instant::now());
                }
                last > 0 && since.elapsed() > Duration::from_millis(700)
            });
            assert!(last < COUNT as u64, "everything was sent to a reader that does not read");
            let grown = processes::memory_kib(&pen.family()).saturating_sub(before);
            assert!(grown < 4096, "pen's memory grew by {grown} KiB for one stalled connection");
            let cpu = processes::cpu_time(&pen.family());
            let_pass(Duration::from_millis(500));
            let used = processes::cpu_time(&pen.family()) - cpu;
            assert!(used <= Duration::from_millis(50), "used {used:?} while nothing moved");
            if client_stalls {
                assert_eq!(receive(&client, |_| {}), COUNT);
            } else {
                go.send(()).unwrap();
                wait_until("all has arrived", || server.notes().contains(&format!("{COUNT} bytes")));
            }
        });
    }
}

/// A client that is held back because its server does not read is heard again when that server is gone: what it still
/// sends is taken, so that it can read the server's last words.
#[test]
fn a_client_that_was_held_back_is_heard_when_its_server_has_gone() {
    const COUNT: usize = 50 * MEGABYTE;
    let (go, gone) = channel::<()>();
    let gone = Mutex::new(gone);
    let server = Backend::serving("S", move |visit| {
        gone.lock().unwrap().recv().unwrap();
        (&visit.stream).write_all(b"enough").unwrap();
        visit.stream.shutdown(Shutdown::Write).unwrap();
        gone.lock().unwrap().recv().unwrap();
        // There is much that it has not read: a reset.
    });
    let pen = Pen::with(&[]).servers([&server]).workers(1).start();
    let client = pen.connect();
    client.set_write_timeout(Some(SOON * 4)).unwrap();
    let sent = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..COUNT / MEGABYTE {
                for block in noise()[..MEGABYTE].chunks(50_000) {
                    (&client).write_all(block).unwrap();
                    sent.fetch_add(block.len() as u64, Ordering::Relaxed);
                }
            }
            client.shutdown(Shutdown::Write).unwrap();
        });
        let (mut last, mut since) = (0, Instant::now());
        wait_until("the client is held back", || {
            let now = sent.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            last > 0 && since.elapsed() > Duration::from_millis(700)
        });
        assert!(last < COUNT as u64, "everything was sent to a server that does not read");
        go.send(()).unwrap();
        let (answer, ending) = read_all(&client);
        assert_eq!((&answer[..], ending), (&b"enough"[..], Ending::EndOfStream));
        go.send(()).unwrap();
    });
    assert_eq!(sent.load(Ordering::Relaxed), COUNT as u64);
}

/// pen(1), tcp_fastclose: whose end of stream ends the whole connection.
#[test]
fn fastclose_decides_whose_end_is_the_end() {
    // On "end\n" the server ends its stream; in any case it notes when the client's has ended.
    let server = |name: &str| {
        Backend::serving(name, |visit| {
            loop {
                match read_line(&visit.stream).as_deref() {
                    Some("end") => visit.stream.shutdown(Shutdown::Write).unwrap(),
                    Some("") | None => break,
                    Some(_) => drop((&visit.stream).write_all(b"echo\n")),
                }
            }
            visit.note("client ended");
            // Half closed: the server can still send, if the connection still exists.
            let_pass(Duration::from_millis(200));
            let _ = (&visit.stream).write_all(b"late\n");
        })
    };
    for (word, client_ends, server_ends) in
        [("off", false, false), ("up", false, true), ("down", true, false), ("both", true, true)]
    {
        let s = [server("S")];
        let pen = Pen::with(&["-O", &format!("tcp_fastclose {word}")]).servers(&s).start();
        // The client ends its stream.
        let client = pen.connect();
        (&client).write_all(b"hello\n").unwrap();
        assert_eq!(read_line(&client).as_deref(), Some("echo"));
        client.shutdown(Shutdown::Write).unwrap();
        let late = read_all(&client).0;
        assert_eq!(
            late.is_empty(),
            client_ends,
            "tcp_fastclose {word}, the client ends its stream: {late:?}"
        );
        wait_until("the server sees the end", || s[0].notes().len() == 1);
        // The server does.
        let client = pen.connect();
        (&client).write_all(b"hello\nend\n").unwrap();
        assert_eq!(read_all(&client), (b"echo\n".to_vec(), Ending::EndOfStream), "tcp_fastclose {word}");
        let ended = became_true(Duration::from_millis(500), || s[0].notes().len() == 2).is_some();
        assert_eq!(ended, server_ends, "tcp_fastclose {word}, the server ends its stream");
        drop(client);
        wait_until("the server sees the end", || s[0].notes().len() == 2);
    }
}

/// pen(1), idle_timeout: a connection on which nothing moves ends after so long; others do not.
#[test]
fn an_idle_connection_ends() {
    let g = greeters(1);
    let pen = Pen::with(&["-O", "idle_timeout 1"]).servers(&g).start();
    let quiet = pen.hold();
    let busy = pen.hold();
    let start = Instant::now();
    let busy = std::thread::scope(|scope| {
        let keeps_talking = scope.spawn(|| {
            while start.elapsed() < Duration::from_secs(4) {
                assert!(busy.echoes(), "a busy connection was ended");
                let_pass(Duration::from_millis(200));
            }
            &busy
        });
        assert_ne!(quiet.ending(SOON), Ending::Open);
        let took = start.elapsed();
        // The classic counts in whole seconds, and looks every few of them.
        let (least, most) = if classic() { (0, 5000) } else { (950, 2500) };
        assert!((least..most).contains(&took.as_millis()), "ended after {took:?}");
        keeps_talking.join().unwrap()
    });
    assert_ne!(busy.ending(SOON), Ending::Open);
    wait_until("the server's side is closed, too", || g[0].open() == 0);
}

/// pen(1), idle_timeout: half-closed connections are no exception.
#[test]
fn an_idle_half_closed_connection_ends() {
    only_ours!("it keeps them for ever");
    let server = Backend::serving("S", |visit| {
        (&visit.stream).write_all(b"hello\n").unwrap();
        let _ = visit.stream.shutdown(Shutdown::Write);
        let _ = read_all(&visit.stream);
    });
    let pen = Pen::with(&["-O", "idle_timeout 1"]).servers([&server]).start();
    let client = pen.connect();
    assert_eq!(read_all(&client), (b"hello\n".to_vec(), Ending::EndOfStream));
    wait_until("the server's side is closed", || server.open() == 0);
}

/// pen(1), idle_timeout: without it, a connection may be silent for as long as it likes.
#[test]
fn without_idle_timeout_silence_is_allowed() {
    let g = greeters(1);
    let pen = Pen::with(&["-t", "1"]).servers(&g).start();
    let held = pen.hold();
    let_pass(Duration::from_millis(3500));
    assert!(held.echoes());
}

/// pen(1), -t: a client that speaks first is heard by the server that it gets in the end, after one that hangs and one
/// that refuses.
#[test]
fn what_a_client_says_before_it_has_a_server_is_not_lost() {
    let servers = [Backend::web("S0"), Backend::hanging("S1"), Backend::absent("S2")];
    let pen = Pen::with(&["-t", "1", "-r"]).servers(&servers).start();
    let start = Instant::now();
    assert_eq!(pen.visit(), "S0");
    assert!(start.elapsed() < Duration::from_secs(4), "took {:?}", start.elapsed());
    assert_eq!(servers[0].notes(), ["GET / HTTP/1.0\r\n\r\n"]);
}

/// Hundreds of connections that come and go leave nothing behind: no descriptor, no connection.
#[test]
fn closed_connections_leave_nothing_behind() {
    let g = greeters(2);
    let pen = Pen::with(&["-r"]).servers(&g).workers(2).start();
    let descriptors = || -> usize {
        let count = |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        pen.family().into_iter().map(count).sum()
    };
    pen.hold_many(8).iter().for_each(|held| assert!(held.echoes()));
    wait_until("they are gone", || g[0].open() + g[1].open() == 0);
    let before = became_steady(descriptors);
    for round in 0..300 {
        let held = pen.hold();
        match round % 3 {
            0 => drop(held),
            1 => {
                let Held { stream, .. } = held;
                reset(stream);
            }
            _ => {
                held.stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(held.ending(SOON), Ending::EndOfStream);
            }
        }
    }
    wait_until("all connections are gone", || g[0].open() + g[1].open() == 0);
    // A worker may keep a few descriptors for later (pipes): their number must not depend on that of connections.
    wait_until("the descriptors are closed", || descriptors() <= before + 8);
}

/// The value once it no longer changes.
fn became_steady(value: impl Fn() -> usize) -> usize {
    let (mut last, mut since) = (value(), Instant::now());
    wait_until("it no longer changes", || {
        let now = value();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(100)
    });
    last
}
