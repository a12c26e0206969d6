//! The log of requests.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::support::backend::webs;
use crate::support::rotation::{Client, ROTATIONS, rotate_under_load};
use crate::support::{Backend, Pen, SOON, Scratch, classic, client, only_ours, wait_until};

/// The lines of the log once there are so many. The classic writes them when it ends.
fn lines(pen: &mut Pen, files: &Scratch, count: usize) -> Vec<String> {
    if classic() {
        pen.end_with(Signal::SIGTERM);
    }
    wait_until("the log has its lines", || files.read("log").matches('\n').count() >= count);
    let text = files.read("log");
    assert!(text.ends_with('\n'), "half a line: {text}");
    text.lines().map(str::to_owned).collect()
}

/// pen(1), REQUEST LOG: client, time, server, request, separated by spaces.
#[test]
fn a_line_has_client_time_server_and_request() {
    let (s, files) = (webs(1), Scratch::new());
    let mut pen = Pen::with(&["-l", &files.file("log")]).servers(&s).start();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let before = now();
    let stream = pen.connect_from("127.0.0.7");
    assert_eq!(client::request(stream, "/index.html"), "S0");
    let after = now();
    let lines = lines(&mut pen, &files, 1);
    let words: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!((words[0], words[2]), ("127.0.0.7", "127.0.0.1"));
    assert!((before..=after).contains(&words[1].parse().unwrap()), "{lines:?}");
    assert_eq!(words[3..].join(" "), "GET /index.html HTTP/1.0");
    assert_eq!(lines.len(), 1);
}

/// Sends one chunk to a server that answers it with a line, and returns the request as logged.
fn logged(chunk: &[u8]) -> String {
    let files = Scratch::new();
    let server = Backend::serving("A", |visit| {
        use std::io::Read;
        let mut buffer = [0; 1024];
        while (&visit.stream).read(&mut buffer).is_ok_and(|count| count > 0) {
            let _ = (&visit.stream).write_all(b"ok\n");
        }
    });
    let mut pen = Pen::with(&["-l", &files.file("log")]).servers([&server]).start();
    let stream = pen.connect();
    (&stream).write_all(chunk).unwrap();
    assert_eq!(client::read_line(&stream).as_deref(), Some("ok"));
    drop(stream);
    let bytes = {
        lines(&mut pen, &files, 1);
        fs::read(files.file("log")).unwrap()
    };
    let text = String::from_utf8(bytes).expect("the log is ASCII");
    text.trim_end_matches('\n').splitn(4, ' ').nth(3).unwrap().to_owned()
}

/// pen(1), REQUEST LOG: at most 100 bytes of the request.
#[test]
fn a_long_request_is_cut_at_100_bytes() {
    let request = format!("GET /{} HTTP/1.0", "x".repeat(200));
    assert_eq!(logged(format!("{request}\r\n\r\n").as_bytes()), request[..100]);
}

/// pen(1), REQUEST LOG: what is not ASCII is logged as a dot.
#[test]
fn bytes_beyond_ascii_are_dots() {
    assert_eq!(logged(b"GET /\xe5\xe4\xf6\xff\x80 HTTP/1.0\r\n\r\n"), "GET /..... HTTP/1.0");
}

/// pen(1), REQUEST LOG: neither are control characters: nobody writes escapes to the terminal of who reads the log.
#[test]
fn control_characters_are_dots() {
    only_ours!("it writes them as they are");
    assert_eq!(logged(b"GET /\x1b[31m\x00\x07\x7f\t HTTP/1.0\r\n\r\n"), "GET /.[31m.... HTTP/1.0");
}

/// pen(1), REQUEST LOG: up to the end of the line, however that is written; an empty first line is an empty request.
#[test]
fn only_the_first_line_is_logged() {
    assert_eq!(logged(b"one\ntwo\n"), "one");
    assert_eq!(logged(b"one\rtwo"), "one");
    assert_eq!(logged(b"one"), "one");
    assert_eq!(logged(b"\r\nGET"), "");
}

/// pen(1), REQUEST LOG: one line each time the client begins to speak: a request of a kept-alive connection has its line, the
/// further parts of an upload have none.
#[test]
fn one_line_for_each_turn_of_the_client() {
    only_ours!("it writes a line for each piece that it reads");
    let files = Scratch::new();
    let server = Backend::serving("S", |visit| {
        while visit.read_head() {
            if visit.tally().notes.lock().unwrap().last().unwrap().starts_with("POST") {
                let mut body = vec![0; 300_000];
                std::io::Read::read_exact(&mut &visit.stream, &mut body).unwrap();
            }
            visit.answer("line\n");
        }
    });
    let mut pen = Pen::with(&["-l", &files.file("log")]).servers([&server]).start();
    let stream = pen.connect();
    let say = |bytes: &[u8]| (&stream).write_all(bytes).unwrap();
    let answer = || while client::read_line(&stream).as_deref() != Some("line") {};
    say(b"GET /1 HTTP/1.1\r\n\r\n");
    answer();
    say(b"GET /2 HTTP/1.1\r\n\r\n");
    answer();
    say(b"POST /3 HTTP/1.1\r\n\r\n");
    wait_until("the head has arrived", || server.notes().len() == 3);
    for _ in 0..100 {
        say(&[b'\n'; 3000]);
    }
    answer();
    say(b"GET /4 HTTP/1.1\r\n\r\n");
    answer();
    let lines = lines(&mut pen, &files, 4);
    let requests: Vec<_> = lines.iter().map(|line| line.splitn(4, ' ').nth(3).unwrap()).collect();
    assert_eq!(requests, ["GET /1 HTTP/1.1", "GET /2 HTTP/1.1", "POST /3 HTTP/1.1", "GET /4 HTTP/1.1"]);
}

/// What comes next to this socket: the record, and what follows it.
fn datagram(log: &UdpSocket) -> (String, String) {
    let mut datagram = [0; 2000];
    let length = log.recv(&mut datagram).expect("a datagram comes");
    let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
    let (record, rest) = text.split_once('\n').expect("a record ends with a newline");
    (record.to_owned(), rest.to_owned())
}

/// The stream and the number behind a record: `#STREAM SEQ`.
#[track_caller]
fn sequence(rest: &str) -> (String, u64) {
    let words = rest.strip_prefix('#').and_then(|rest| rest.strip_suffix('\n')?.split_once(' '));
    let (stream, number) = words.unwrap_or_else(|| panic!("no sequence: {rest:?}"));
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    assert!(stream.len() == 8 && stream.bytes().all(hex), "{rest:?}");
    (stream.to_owned(), number.parse().unwrap())
}

fn penlogd() -> UdpSocket {
    let log = UdpSocket::bind("127.0.0.1:0").unwrap();
    log.set_read_timeout(Some(SOON)).unwrap();
    log
}

/// pen(1), REQUEST LOG: with a port, a host that is sent each line in a datagram.
#[test]
fn lines_can_go_to_a_host() {
    let (s, log) = (webs(1), penlogd());
    let pen = Pen::with(&["-l", &log.local_addr().unwrap().to_string()]).servers(&s).start();
    for n in [7, 8] {
        client::request(pen.connect_from(&format!("127.0.0.{n}")), &format!("/page{n}"));
        assert_eq!(datagram(&log).0, format!("+ 127.0.0.{n} 127.0.0.1 GET /page{n} HTTP/1.0"));
    }
}

/// pen(1), REQUEST LOG: a second line has the worker's number and that of the datagram, from 0; a log that is set again
/// begins anew.
#[test]
fn datagrams_of_each_worker_are_numbered() {
    only_ours!("its datagrams have no numbers");
    let (s, log) = (webs(1), penlogd());
    let address = log.local_addr().unwrap().to_string();
    let pen = Pen::with(&["-l", &address]).servers(&s).workers(3).controlled().start();
    let mut next = BTreeMap::new();
    for n in 0..40 {
        client::request(pen.connect(), &format!("/{n}"));
        let (record, rest) = datagram(&log);
        assert!(record.ends_with(&format!(" GET /{n} HTTP/1.0")), "{record}");
        let (stream, number) = sequence(&rest);
        let expected = next.entry(stream.clone()).or_insert(0);
        assert_eq!(number, *expected, "of {stream}");
        *expected += 1;
    }
    assert!(next.len() <= 3, "more streams than workers: {next:?}");
    assert_eq!(pen.ask("no log") + &pen.ask(&format!("log {address}")), format!("{address}\n"));
    // A worker that has not heard of the log yet sends nothing.
    log.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 2000];
    wait_until("there is a stream that begins anew", || {
        client::request(pen.connect(), "/");
        let length = log.recv(&mut buffer).unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..length]);
        let Some((_, rest)) = text.split_once('\n') else { return false };
        let (stream, number) = sequence(rest);
        !next.contains_key(&stream) && number == 0
    });
}

/// pen(1), REQUEST LOG: a datagram has at most 1024 bytes, its number included.
#[test]
fn a_long_request_is_cut_to_fit_its_datagram() {
    only_ours!("its datagrams have no numbers");
    let (s, log) = (webs(1), penlogd());
    let pen = Pen::with(&["-l", &log.local_addr().unwrap().to_string()]).servers(&s).start();
    let path = "x".repeat(2000);
    client::request(pen.connect(), &format!("/{path}"));
    let (record, rest) = datagram(&log);
    sequence(&rest);
    assert_eq!(record.len() + 1 + rest.len(), 1024);
    let text = record.strip_prefix("+ 127.0.0.1 127.0.0.1 ").unwrap();
    assert!(format!("GET /{path} HTTP/1.0").starts_with(text), "{text}");
}

/// pen(1), REQUEST LOG: HUP opens the log anew. Under load, with several workers, every line is written exactly once
/// and whole, to one file or the other.
#[test]
fn rotation_under_load_loses_nothing_and_doubles_nothing() {
    let (s, files) = (webs(2), Scratch::new());
    let mut pen = Pen::with(&["-r", "-l", &files.file("log")]).servers(&s).workers(4).with_signals().start();
    let clients = rotate_under_load(&mut pen, &files);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let names = files.names();
    for name in &names {
        let text = files.read(name);
        assert!(text.is_empty() || text.ends_with('\n'), "half a line at the end of {name}");
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words.len(), 6, "a torn line in {name}: {line}");
            let path: Vec<&str> = words[4].split('/').collect();
            let client: u8 = path[1].strip_prefix("client").unwrap().parse().unwrap();
            assert_eq!(words[0], format!("127.0.0.{}", client + 2), "{line}");
            assert!(words[3] == "GET" && words[5] == "HTTP/1.0" && path[3] == "end", "a torn line: {line}");
            *seen.entry(words[4].to_owned()).or_default() += 1;
        }
    }
    for path in clients.iter().flat_map(Client::paths) {
        assert_eq!(seen.remove(&path), Some(1), "lines for {path}");
    }
    assert!(seen.is_empty(), "lines that nobody asked for: {seen:?}");
    let filled = names.iter().filter(|name| !files.read(name).is_empty()).count();
    assert!(
        filled > ROTATIONS / 2,
        "the log was not rotated under load: {filled} of {ROTATIONS} files have lines"
    );
}

/// pen(1), REQUEST LOG: a log that cannot be opened anew is reported, and the old one kept.
#[test]
fn a_log_that_cannot_be_reopened_is_kept() {
    only_ours!("it ends");
    let (s, files) = (webs(1), Scratch::new());
    fs::create_dir(files.file("logs")).unwrap();
    let pen = Pen::with(&["-l", &files.file("logs/log")]).servers(&s).start();
    assert_eq!(pen.visit(), "S0");
    fs::rename(files.file("logs"), files.file("moved")).unwrap();
    pen.signal(Signal::SIGHUP);
    wait_until("it is told", || pen.stderr().contains("logs/log"));
    assert_eq!(pen.visit(), "S0");
    wait_until("the old log has both lines", || files.read("moved/log").lines().count() == 2);
}

/// pen(1), REQUEST LOG: lines are written soon, not when a buffer is full.
#[test]
fn lines_are_written_soon() {
    only_ours!("it writes when 4 KiB have gathered");
    let (s, files) = (webs(1), Scratch::new());
    let pen = Pen::with(&["-l", &files.file("log")]).servers(&s).start();
    for count in 1..=5 {
        pen.visit();
        wait_until("the line is there", || files.read("log").lines().count() == count);
    }
    assert_eq!(pen.workers().len(), 2);
}

/// pen(1), REQUEST LOG: the log is appended to.
#[test]
fn an_old_log_is_appended_to() {
    let (s, files) = (webs(1), Scratch::new());
    let log = files.write("log", "an old line\n");
    let mut pen = Pen::with(&["-l", &log]).servers(&s).start();
    pen.visit();
    let lines = lines(&mut pen, &files, 2);
    assert_eq!(lines[0], "an old line");
}

/// pen(1), PROCESSES: when the log is full lines are lost, with one message; connections are carried on.
#[test]
fn a_full_log_does_not_stop_anything() {
    only_ours!("it does not notice");
    let s = webs(1);
    let pen = Pen::with(&["-l", "/dev/full"]).servers(&s).workers(1).start();
    for _ in 0..30 {
        assert_eq!(pen.visit(), "S0");
    }
    let told = || pen.stderr().lines().filter(|line| line.contains("lost")).count();
    wait_until("it is told", || told() > 0);
    assert_eq!(told(), 1, "{}", pen.stderr());
}

/// pen(1), REQUEST LOG: a FIFO will do; a reader that does not read does not hold up connections.
#[test]
fn a_log_that_nobody_reads_does_not_stop_anything() {
    only_ours!("it waits for the reader");
    let (s, files) = (webs(1), Scratch::new());
    let path = files.file("fifo");
    nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let fifo = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let pen = Pen::with(&["-l", &path]).servers(&s).workers(2).start();
    let request = format!("/{}", "x".repeat(90));
    for _ in 0..1200 {
        assert_eq!(client::request(pen.connect(), &request), "S0");
    }
    drop(fifo);
}

/// pen(1), MESSAGES: -ddd dumps all data in hexadecimal, with -a as text.
#[test]
fn data_can_be_dumped() {
    for (options, expected) in [
        (&["-ddd"][..], "20: 47 45 54 20 2f 01 ff 20 48 54 54 50 2f 31 2e 30 0d 0a 0d 0a "),
        (&["-ddd", "-a"], "20: GET /.. HTTP/1.0\r\n\r\n"),
    ] {
        let server = Backend::serving("A", |visit| {
            let _ = std::io::Read::read(&mut &visit.stream, &mut [0; 100]);
        });
        let pen = Pen::with(options).servers([&server]).start();
        let stream = pen.connect();
        (&stream).write_all(b"GET /\x01\xff HTTP/1.0\r\n\r\n").unwrap();
        client::read_all(&stream);
        wait_until("the dump is there", || pen.stderr().contains(expected));
    }
}
