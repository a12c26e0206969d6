//! `log_format`: when the log has objects instead of lines, and where they go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::Value;

use crate::support::backend::{greeters, webs};
use crate::support::rotation::rotate_under_load;
use crate::support::{Backend, Pen, SOON, Scratch, client, only_ours, wait_until};

/// Lines of the log that are not whole objects would stop the story here.
fn objects(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "half a line: {text}");
    assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|it| panic!("{it}: {line}"))).collect()
}

/// The log once it has so many objects.
fn logged(files: &Scratch, count: usize) -> Vec<Value> {
    wait_until("the log has its objects", || files.read("log").matches('\n').count() >= count);
    let objects = objects(&files.read("log"));
    assert_eq!(objects.len(), count, "{objects:#?}");
    objects
}

/// A field of each.
fn field(objects: &[Value], name: &str) -> Vec<String> {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    objects.iter().map(|object| shown(&object[name])).collect()
}

/// pen(1), log_format: objects instead of lines, from the start.
#[test]
fn with_json_the_log_has_an_object_for_each_connection_and_no_line() {
    only_ours!("it knows only lines");
    let (s, files) = (webs(1), Scratch::new());
    let options = ["-r", "-O", "log_format json", "-l", &files.file("log")];
    let pen = Pen::with(&options).servers(&s).workers(2).start();
    for last_byte in [7, 8, 9] {
        assert_eq!(pen.visit_from(&format!("127.0.0.{last_byte}")), "S0");
        logged(&files, last_byte - 6);
    }
    let objects = logged(&files, 3);
    assert_eq!(field(&objects, "event"), ["connection"; 3]);
    assert_eq!(field(&objects, "client"), ["127.0.0.7", "127.0.0.8", "127.0.0.9"]);
    assert_eq!(field(&objects, "server_port"), vec![s[0].port().to_string(); 3]);
}

/// pen(1), log_format: also in the configuration file, and with each reload.
#[test]
fn the_format_is_read_with_the_configuration() {
    only_ours!("it knows only lines");
    let (s, files) = (webs(1), Scratch::new());
    let log = files.file("log");
    let write = |format: &str| files.write("cfg", format!("log {log}\n{format}"));
    let file = write("log_format json\n");
    let pen = Pen::with(&["-F", &file]).servers(&s).workers(2).controlled().start();
    assert_eq!((pen.ask("log_format").as_str(), pen.visit().as_str()), ("json\n", "S0"));
    logged(&files, 1);

    write("log_format classic\n");
    assert_eq!((pen.ask("reload").as_str(), pen.ask("log_format").as_str()), ("ok\n", "classic\n"));
    assert_eq!(pen.visit(), "S0");
    wait_until("there is a line", || files.read("log").ends_with("GET / HTTP/1.0\n"));
    fs::write(&log, "").unwrap();

    // What the file does not say stays.
    write("");
    assert_eq!(pen.ask("reload"), "ok\n");
    assert_eq!(pen.ask("log_format"), "classic\n");

    write("log_format json\n");
    pen.signal(Signal::SIGHUP);
    wait_until("it is reloaded", || pen.ask("log_format") == "json\n");
    assert_eq!(pen.visit(), "S0");
    logged(&files, 1);
    pen.kill_workers();
    assert_eq!(pen.visit(), "S0");
    logged(&files, 2);
}

/// penctl(1), log_format: the answer is the new format, or the old one and a reason; with the answer all workers have it.
#[test]
fn the_format_changes_by_command_while_connections_are_open() {
    only_ours!("it knows only lines");
    let (g, files) = (greeters(1), Scratch::new());
    let pen = Pen::with(&["-r", "-l", &files.file("log")]).servers(&g).workers(4).controlled().start();
    let before = pen.hold_many(8);
    assert!(before.iter().all(|held| held.echoes()));
    wait_until("each has its line", || files.read("log").lines().count() == 8);
    assert_eq!(pen.ask("log_format"), "classic\n");
    let refused = "error: log_format must be classic or json, not \"xml\"\n";
    assert_eq!(pen.ask("log_format xml"), refused);

    fs::write(files.file("log"), "").unwrap();
    assert_eq!(pen.ask("log_format json"), "json\n");
    let between = pen.hold_many(8);
    assert!(between.iter().chain(&before).all(|held| held.echoes()));
    assert_eq!(files.read("log"), "", "nothing is over, and nobody has a line any more");
    drop(between);
    assert_eq!(field(&logged(&files, 8), "event"), ["connection"; 8]);

    assert_eq!(pen.ask("log_format classic"), "classic\n");
    fs::write(files.file("log"), "").unwrap();
    let after = pen.hold_many(8);
    assert!(after.iter().all(|held| held.echoes()));
    wait_until("each has its line", || files.read("log").lines().count() == 8);
    drop((before, after));
    assert!(files.read("log").lines().all(|line| line.starts_with("127.0.0.1 ")), "{}", files.read("log"));
}

/// pen(1), log_format: a connection from before the change has its object too.
#[test]
fn what_is_open_when_the_format_changes_has_its_object_at_its_end() {
    only_ours!("it knows only lines");
    let (g, files) = (greeters(1), Scratch::new());
    let pen = Pen::with(&["-l", &files.file("log")]).servers(&g).workers(1).controlled().start();
    let held = pen.hold_from("127.0.0.9");
    assert!(held.echoes());
    wait_until("it has its line", || files.read("log").lines().count() == 1);
    fs::write(files.file("log"), "").unwrap();
    assert_eq!(pen.ask("log_format json"), "json\n");
    drop(held);
    let objects = logged(&files, 1);
    assert_eq!(objects[0]["client"], "127.0.0.9");
    assert!(objects[0]["bytes_down"].as_u64().unwrap() > 0, "{objects:?}");
}

/// pen(1), write, diff, check: as of any other setting.
#[test]
fn the_format_is_written_compared_and_checked() {
    only_ours!("it knows only lines");
    let (s, files) = (webs(1), Scratch::new());
    let file = files.write("cfg", format!("log {}\n", files.file("log")));
    let pen = Pen::with(&["-F", &file]).servers(&s).controlled().start();
    let other = files.write("other", "log_format json\n");
    let diff = pen.ask(&format!("diff {other}"));
    assert!(diff.contains("- log_format classic\n") && diff.contains("+ log_format json\n"), "{diff}");
    assert_eq!(pen.ask("log_format"), "classic\n", "nothing is changed");
    assert_eq!(pen.ask(&format!("check {other}")), "ok\n");
    let wrong = files.write("wrong", "blacklist 7\nlog_format jsonl\n");
    let reply = pen.ask(&format!("check {wrong}"));
    assert!(reply.starts_with(&format!("error: {wrong}:2: ")) && reply.contains("\"jsonl\""), "{reply}");

    assert_eq!(pen.ask("log_format json"), "json\n");
    assert_eq!(pen.ask("write"), "");
    let written = files.read("cfg");
    assert!(written.lines().any(|line| line == "log_format json"), "{written}");
    let second = Pen::with(&["-F", &file]).servers(&s).controlled().start();
    assert_eq!(second.ask("log_format"), "json\n");
    assert_eq!(second.ask("diff"), "");
}

/// pen(1), --check: a format without a log is told of.
#[test]
fn a_format_without_a_log_is_remarked_on() {
    only_ours!("it knows only lines");
    let s = webs(1);
    let pen = Pen::with(&["-O", "log_format json"]).servers(&s).start();
    let remark = "log_format has no effect without log (-l)";
    wait_until("it is told", || pen.stderr().contains(remark));
    assert_eq!(pen.visit(), "S0");
}

/// pen(1), REQUEST LOG: HUP opens the log anew. Under load, with several workers, every object is written exactly once
/// and whole, to one file or the other.
#[test]
fn rotation_under_load_loses_no_object_and_doubles_none() {
    only_ours!("it knows only lines");
    let (s, files) = (webs(2), Scratch::new());
    let options = ["-r", "-H", "-O", "log_format json", "-l", &files.file("log")];
    let mut pen = Pen::with(&options).servers(&s).workers(4).start();
    let clients = rotate_under_load(&mut pen, &files);
    let (mut requests, mut connections) = (BTreeMap::new(), BTreeMap::new());
    for object in files.names().iter().flat_map(|name| objects(&files.read(name))) {
        let client = object["client"].as_str().unwrap().to_owned();
        match object["event"].as_str().unwrap() {
            "request" => {
                let key = (client, object["request"].as_str().unwrap().to_owned());
                *requests.entry(key).or_insert(0) += 1;
            }
            _ => *connections.entry(client).or_insert(0) += 1,
        }
    }
    for client in &clients {
        let address = client.address();
        for path in client.paths() {
            let key = (address.clone(), format!("GET {path} HTTP/1.0"));
            assert_eq!(requests.remove(&key), Some(1), "objects for {key:?}");
        }
        let made = Some(client.requests);
        assert_eq!(connections.remove(&address), made, "objects for connections of {address}");
    }
    assert!(requests.is_empty(), "objects that nobody asked for: {requests:?}");
}

/// pen(1), PROCESSES: when the log is full objects are lost, with one message; connections are carried on.
#[test]
fn a_full_log_of_objects_does_not_stop_anything() {
    only_ours!("it knows only lines");
    let s = webs(1);
    let options = ["-O", "log_format json", "-l", "/dev/full"];
    let pen = Pen::with(&options).servers(&s).workers(1).controlled().start();
    for _ in 0..30 {
        assert_eq!(pen.visit(), "S0");
    }
    let told = || pen.stderr().lines().filter(|line| line.contains("lost")).count();
    wait_until("it is told", || told() > 0);
    assert_eq!(told(), 1, "{}", pen.stderr());
    // And goes on where there is room.
    let files = Scratch::new();
    pen.ask(&format!("log {}", files.file("log")));
    assert_eq!(pen.visit(), "S0");
    logged(&files, 1);
}

/// A server that answers whatever is a head.
fn patient() -> Backend {
    Backend::serving("S", |visit| {
        while visit.read_head() {
            visit.answer("line\n");
        }
    })
}

/// The answer of such a server is there.
fn answered(stream: &TcpStream) {
    while client::read_line(stream).expect("the answer has its line") != "line" {}
}

/// pen(1), REQUEST LOG: with a port, each object is a datagram; a request that is too long for it is cut.
#[test]
fn objects_can_go_to_a_host() {
    only_ours!("it knows only lines");
    let server = patient();
    let log = UdpSocket::bind("127.0.0.1:0").unwrap();
    log.set_read_timeout(Some(SOON)).unwrap();
    let options = ["-H", "-O", "log_format json", "-l", &log.local_addr().unwrap().to_string()];
    let pen = Pen::with(&options).servers([&server]).workers(1).start();
    let receive = || {
        let mut datagram = vec![0; 70_000];
        let length = log.recv(&mut datagram).expect("a datagram comes");
        let text = String::from_utf8(datagram[..length].to_vec()).unwrap();
        let mut objects = objects(&text);
        assert_eq!(objects.len(), 1, "{text}");
        (length, objects.remove(0))
    };
    let stream = pen.connect_from("127.0.0.7");
    let ask = |target: &[u8]| {
        (&stream).write_all(&[b"GET /", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).unwrap();
    };
    ask(b"short");
    answered(&stream);
    let (_, object) = receive();
    assert_eq!((&object["event"], &object["request"]), (&"request".into(), &"GET /short HTTP/1.1".into()));
    assert_eq!((&object["client"], object.get("request_length")), (&"127.0.0.7".into(), None));
    // No server gets this, but the log does. Each of these bytes is six there.
    ask(&[0xe5; 20_000]);
    let (length, object) = receive();
    assert!(length <= 65_507 && length > 65_507 - 6, "{length}");
    assert_eq!((&object["ended"], &object["request_length"]), (&"bad_request".into(), &20_014.into()));
    assert!(object["request"].as_str().unwrap().starts_with("GET /\u{fffd}\u{fffd}"));
    assert_eq!(receive().1["event"], "connection");
}

/// pen(1), REQUEST LOG: in a FIFO, too, objects of several workers are never within each other.
#[test]
fn long_requests_of_several_workers_stay_apart_in_a_fifo() {
    only_ours!("it knows only lines");
    const CLIENTS: usize = 8;
    const EACH: usize = 20;
    let (server, files) = (patient(), Scratch::new());
    let path = files.file("fifo");
    nix::unistd::mkfifo(path.as_str(), Mode::from_bits_truncate(0o600)).unwrap();
    let mut options = fs::OpenOptions::new();
    let mut fifo = options.read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
    // All fits: what a reader is too slow for would be lost.
    fcntl(&fifo, FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
    let options = ["-r", "-H", "-O", "log_format json", "-l", &path];
    let pen = Pen::with(&options).servers([&server]).workers(4).start();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let pen = &pen;
            scope.spawn(move || {
                let stream = pen.connect();
                for number in 0..EACH {
                    let target = format!("/{client}/{number}/{}", "x".repeat(6000));
                    let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
                    (&stream).write_all(head.as_bytes()).unwrap();
                    answered(&stream);
                }
            });
        }
    });
    let mut text = Vec::new();
    wait_until("all is in the FIFO", || {
        // It never ends, but says when there is nothing.
        let _ = fifo.read_to_end(&mut text);
        text.iter().filter(|&&byte| byte == b'\n').count() >= CLIENTS * (EACH + 1)
    });
    let text = String::from_utf8(text).unwrap();
    assert!(text.lines().all(|line| line.len() < 4096));
    let (requests, connections): (Vec<_>, Vec<_>) =
        objects(&text).into_iter().partition(|object| object["event"] == "request");
    assert_eq!(connections.len(), CLIENTS);
    let mut seen = BTreeSet::new();
    for object in requests {
        assert!(object["request_length"].as_u64().unwrap() > 6000);
        let request = object["request"].as_str().unwrap();
        let (name, rest) = request.split_once("/x").unwrap();
        assert!(rest.len() > 3000 && rest.bytes().all(|byte| byte == b'x'), "{request}");
        assert!(seen.insert(name.to_owned()), "two of {name}");
    }
    assert_eq!(seen.len(), CLIENTS * EACH);
}
