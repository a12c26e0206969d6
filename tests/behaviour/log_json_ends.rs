//! `log_format json`: each connection has one object when it is over, which says how that came about.

use std::io::Write;
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::backend::{greeters, webs};
use crate::support::client::{self, read_line};
use crate::support::objects::{Objects, all, all_ended, ended, of_event};
use crate::support::pen::Builder;
use crate::support::processes::connects_under_way;
use crate::support::tls::{self, Client, acceptor, client_hello, connections, usual};
use crate::support::{Backend, Held, Pen, SOON, Scratch, only_ours, wait_until};

/// A pen with one worker and a log.
fn logged(objects: &Objects, options: &[&str], servers: &[&Backend]) -> Pen {
    one(objects, Pen::with(options)).servers(servers).start()
}

fn one(objects: &Objects, pen: Builder) -> Builder {
    objects.of(pen).workers(1).controlled()
}

/// Sends these bytes, and looks at nothing that comes.
fn sends(pen: &Pen, bytes: &[u8]) -> TcpStream {
    let client = pen.connect();
    (&client).write_all(bytes).unwrap();
    client
}

/// A server that sends a greeting and waits for a line, and then resets the connection.
fn resetting() -> Backend {
    Backend::serving("R", |visit| {
        let _ = (&visit.stream).write_all(b"R\n");
        read_line(&visit.stream);
        client::reset(visit.stream.try_clone().unwrap());
    })
}

/// Times, addresses, why that server, and what has gone by.
#[test]
fn an_object_says_all_that_is_known_of_a_connection() {
    only_ours!("it has no log_format");
    let (s, objects) = (webs(1), Objects::new());
    let pen = logged(&objects, &[], &[&s[0]]);
    let stream = pen.connect_from("127.0.0.7");
    let port = stream.local_addr().unwrap().port();
    assert_eq!(client::request(stream, "/"), "S0");
    let object = objects.only(pen);
    let text = |field: &str| object[field].as_str().unwrap_or("none").to_owned();
    let number = |field: &str| object[field].as_u64();
    assert_eq!(
        ["event", "protocol", "client"].map(text),
        ["connection", "tcp", "127.0.0.7"].map(String::from)
    );
    assert_eq!(
        (text("server_address"), number("server_port")),
        ("127.0.0.1".into(), Some(s[0].port().into()))
    );
    assert_eq!((number("server"), text("chosen")), (Some(0), "round_robin".into()));
    assert_eq!((number("attempts"), number("client_port")), (Some(1), Some(port.into())));
    assert_eq!(
        (number("bytes_up"), number("worker")),
        (Some("GET / HTTP/1.0\r\n\r\n".len() as u64), Some(0))
    );
    assert_eq!(number("bytes_down"), Some("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nS0".len() as u64));
    assert!(number("connect_us") <= number("duration_us"), "{object}");
    assert!(text("began") <= text("time") && text("time").ends_with('Z'), "{object}");
    assert_eq!(text("ended"), "server_closed");
    assert!(object.get("tls_version").is_none() && object.get("datagrams_up").is_none(), "{object}");
}

#[test]
fn whose_stream_ended_first_has_ended_the_connection() {
    only_ours!("it has no log_format");
    let (s, objects) = (greeters(1), Objects::new());
    let pen = logged(&objects, &[], &[&s[0]]);
    let held = pen.hold();
    held.stream.shutdown(Shutdown::Write).unwrap();
    let object = objects.only(pen);
    assert_eq!(ended(&object), "client_closed");
    assert_eq!((object["bytes_up"].as_u64(), object["bytes_down"].as_u64()), (Some(0), Some(3)));
}

/// tcp_fastclose
#[test]
fn one_end_may_be_enough() {
    only_ours!("it has no log_format");
    let (s, objects) = (greeters(1), Objects::new());
    let pen = logged(&objects, &["-O", "tcp_fastclose both"], &[&s[0]]);
    let held = pen.hold();
    held.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ended(&objects.only(pen)), "fast_close");
}

#[test]
fn a_reset_is_told_from_an_end() {
    only_ours!("it has no log_format");
    let (s, objects) = (greeters(1), Objects::new());
    let pen = logged(&objects, &[], &[&s[0]]);
    client::reset(pen.hold().stream);
    assert_eq!(ended(&objects.only(pen)), "client_reset");

    let (server, objects) = (resetting(), Objects::new());
    let pen = logged(&objects, &[], &[&server]);
    let held = pen.hold();
    (&held.stream).write_all(b"now\n").unwrap();
    let _ = client::read_all(&held.stream);
    drop(held);
    assert_eq!(ended(&objects.only(pen)), "server_reset");
}

/// idle_timeout
#[test]
fn nothing_going_by_ends_it() {
    only_ours!("it has no log_format");
    let (s, objects) = (greeters(1), Objects::new());
    let pen = logged(&objects, &["-O", "idle_timeout 1"], &[&s[0]]);
    let held = pen.hold();
    let object = objects.only(pen);
    drop(held);
    assert_eq!(ended(&object), "idle_timeout");
    assert!(object["duration_us"].as_u64() >= Some(1_000_000), "{object}");
}

#[test]
fn a_client_that_does_not_wait_for_a_server_is_gone() {
    only_ours!("it has no log_format");
    let (server, objects) = (Backend::hanging("H"), Objects::new());
    let before = connects_under_way(server.port());
    let pen = logged(&objects, &["-t", "30"], &[&server]);
    let client = pen.connect();
    wait_until("the connect is under way", || connects_under_way(server.port()) > before);
    client::reset(client);
    let object = objects.only(pen);
    assert_eq!((ended(&object), object["server"].as_u64()), ("client_gone", Some(0)));
    assert_eq!((object.get("connect_us"), object["attempts"].as_u64()), (None, Some(1)));
}

#[test]
fn nobody_was_tried_or_everybody_in_vain() {
    only_ours!("it has no log_format");
    let (servers, objects) = ([Backend::absent("A"), Backend::absent("B")], Objects::new());
    let pen = logged(&objects, &["-b", "60"], &[&servers[0], &servers[1]]);
    assert_eq!(pen.visit(), "closed");
    objects.wait_for(1);
    assert_eq!(pen.visit(), "closed");
    let all = objects.exactly(2, pen);
    assert_eq!(all_ended(&all), ["connect_failed", "no_server"]);
    assert_eq!([0, 1].map(|at| all[at]["attempts"].as_u64()), [Some(2), Some(0)]);
    assert!(all.iter().all(|object| object.get("server").is_none() && object.get("chosen").is_none()));
}

/// client_acl, -B: with TLS nobody speaks to such a client, either.
#[test]
fn a_client_that_the_list_keeps_out_is_refused() {
    only_ours!("it has no log_format");
    let deny = ["-O", "acl 1 deny 127.0.0.9", "-O", "acl 1 permit 0.0.0.0/0", "-O", "client_acl 1"];
    let (s, objects) = (webs(2), Objects::new());
    let pen = logged(&objects, &deny, &[&s[0]]);
    assert_eq!(pen.visit_from("127.0.0.9"), "closed");
    assert_eq!(ended(&objects.only(pen)), "client_refused");

    let (objects, files) = (Objects::new(), Scratch::new());
    let pen = one(&objects, tls::pen(&files, &deny)).servers([&s[0]]).start();
    assert_eq!(pen.visit_from("127.0.0.9"), "closed");
    assert_eq!(ended(&objects.only(pen)), "client_refused");

    let objects = Objects::new();
    let pen = logged(&objects, &[&deny[..], &["-B", &s[1].to_string()]].concat(), &[&s[0]]);
    assert_eq!(pen.visit_from("127.0.0.9"), "S1");
    let object = objects.only(pen);
    assert_eq!(
        (ended(&object), &object["server"], &object["chosen"]),
        ("server_closed", &"abuse".into(), &"abuse".into())
    );
}

/// A worker that has one descriptor left: enough for a client, not for a server.
#[test]
fn without_a_descriptor_there_is_no_server() {
    only_ours!("it has no log_format");
    let (s, objects) = (webs(1), Objects::new());
    let pen = logged(&objects, &[], &[&s[0]]);
    let worker = pen.workers()[0];
    let open: Vec<u64> = std::fs::read_dir(format!("/proc/{worker}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let free = (0..).find(|number| !open.contains(number)).unwrap();
    let limit = format!("--nofile={0}:{0}", free + 1);
    let limited = Command::new("prlimit").args(["--pid", &worker.to_string(), &limit]).status().unwrap();
    assert!(limited.success());
    assert_eq!(pen.visit(), "closed");
    assert_eq!(ended(&objects.only(pen)), "no_resources");
}

/// -E, ssl_handshake_timeout
#[test]
fn a_handshake_fails_or_takes_too_long_or_is_given_up() {
    only_ours!("it has no log_format");
    let (s, objects, files) = (greeters(1), Objects::new(), Scratch::new());
    let pen = one(&objects, tls::pen(&files, &["-O", "ssl_handshake_timeout 1"])).servers([&s[0]]).start();
    let talks = sends(&pen, b"GET / HTTP/1.0\r\n\r\n");
    objects.wait_for(1);
    drop(pen.connect());
    objects.wait_for(2);
    let silent = pen.connect();
    let all = objects.exactly(3, pen);
    drop((talks, silent));
    assert_eq!(all_ended(&all), ["handshake_failed", "client_gone", "handshake_timeout"]);
    assert!(all.iter().all(|object| object.get("tls_version").is_none()), "{all:#?}");
}

#[test]
fn what_tls_says_is_told_and_so_is_that_it_broke() {
    only_ours!("it has no log_format");
    let (s, objects, files) = (greeters(1), Objects::new(), Scratch::new());
    let pen = one(&objects, tls::pen(&files, &[])).servers([&s[0]]).start();
    let mut client = Client::usual().name("pen.test").open(&pen);
    assert_eq!(client.read_line().as_deref(), Some("G0"));
    client.truncate();
    objects.wait_for(1);
    let mut client = Client::usual().name("pen.test").open(&pen);
    assert_eq!(client.read_line().as_deref(), Some("G0"));
    client.finish();
    client.read_all();
    drop(client);
    let all = objects.exactly(2, pen);
    assert_eq!(all_ended(&all), ["client_tls_broken", "client_closed"]);
    for object in all {
        assert_eq!((&object["tls_version"], &object["tls_name"]), (&"TLSv1.3".into(), &"pen.test".into()));
    }
}

/// server N tls
#[test]
fn a_servers_tls_may_break_too() {
    only_ours!("it has no log_format");
    let (authority, identity) = usual();
    let server = tls::serving("T", acceptor(identity, |_| ()), |_, mut secured| {
        secured.send("T\n");
        secured.read_line();
        secured.truncate();
        let _ = secured.read_all();
    });
    let (objects, files) = (Objects::new(), Scratch::new());
    let trusted = authority.file(&files, "ca.pem");
    let spoken = format!("server 0 tls verify {trusted}");
    let pen = logged(&objects, &["-O", &spoken], &[&server]);
    let held = pen.hold();
    assert_eq!(held.name, "T");
    (&held.stream).write_all(b"now\n").unwrap();
    let _ = client::read_all(&held.stream);
    drop(held);
    let object = objects.only(pen);
    assert_eq!(ended(&object), "server_tls_broken");
    assert!(object.get("tls_version").is_none(), "that is the server's: {object}");
}

/// peek, ssl_passthrough sni
#[test]
fn a_client_that_does_not_say_whom_it_wants_waits_in_vain() {
    only_ours!("it has no log_format");
    let (s, objects) = (greeters(1), Objects::new());
    let pen = logged(&objects, &["-O", "peek", "-O", "ssl_handshake_timeout 1"], &[&s[0]]);
    let silent = pen.connect();
    objects.wait_for(1);
    drop(silent);
    drop(pen.connect());
    assert_eq!(all_ended(&objects.exactly(2, pen)), ["peek_timeout", "client_gone"]);
}

#[test]
fn a_name_that_is_passed_through_is_told() {
    only_ours!("it has no log_format");
    let (server, objects) = (Backend::greeter("G"), Objects::new());
    let options = ["-O", "ssl_passthrough sni", "-O", "server 0 sni a.test"];
    let pen = logged(&objects, &options, &[&server]);
    let client = sends(&pen, &client_hello("a.test"));
    assert_eq!(read_line(&client).as_deref(), Some("G"));
    client.shutdown(Shutdown::Write).unwrap();
    let _ = client::read_all(&client);
    let object = objects.only(pen);
    assert_eq!((ended(&object), &object["tls_name"]), ("client_closed", &"a.test".into()));
    assert!(object.get("tls_version").is_none(), "nobody here knows: {object}");
}

/// proxy_accept
#[test]
fn a_header_is_refused_broken_late_or_taken() {
    only_ours!("it has no log_format");
    let (s, objects) = (webs(1), Objects::new());
    let list = ["-O", "acl 3 permit 127.0.0.1", "-O", "proxy_accept 3", "-O", "ssl_handshake_timeout 1"];
    let pen = logged(&objects, &list, &[&s[0]]);
    assert_eq!(pen.visit_from("127.0.0.9"), "closed");
    objects.wait_for(1);
    assert_eq!(pen.visit(), "closed");
    objects.wait_for(2);
    let late = sends(&pen, b"PROXY TCP4 198.");
    objects.wait_for(3);
    drop(late);
    drop(sends(&pen, b"PROXY TCP4 198."));
    objects.wait_for(4);
    let named = sends(&pen, b"PROXY TCP4 198.51.100.7 192.0.2.80 4711 443\r\n");
    assert_eq!(client::request(named, "/"), "S0");
    let all = objects.exactly(5, pen);
    let expected = ["proxy_refused", "proxy_broken", "proxy_timeout", "client_gone", "server_closed"];
    assert_eq!(all_ended(&all), expected);
    assert_eq!((&all[4]["client"], all[4]["client_port"].as_u64()), (&"198.51.100.7".into(), Some(4711)));
}

/// dummy
#[test]
fn a_page_without_a_server() {
    only_ours!("it has no log_format");
    let (s, objects) = (webs(1), Objects::new());
    let pen = logged(&objects, &["-O", "dummy", "-t", "1"], &[&s[0]]);
    let page = pen.visit();
    assert!(page.starts_with("pen dummy"));
    assert!(objects.wait_for(1)[0]["bytes_down"].as_u64() > Some(page.len() as u64), "with its head");
    drop(pen.connect());
    objects.wait_for(2);
    let silent = pen.connect();
    let all = objects.exactly(3, pen);
    drop(silent);
    assert_eq!(all_ended(&all), ["dummy", "client_gone", "idle_timeout"]);
}

/// close
#[test]
fn a_command_ends_it() {
    only_ours!("it has no log_format");
    let (s, objects) = (greeters(1), Objects::new());
    let pen = logged(&objects, &[], &[&s[0]]);
    let held = pen.hold();
    pen.ask("close 0");
    let object = objects.only(pen);
    drop(held);
    assert_eq!((ended(&object), object["connection"].as_u64()), ("closed_by_command", Some(0)));
}

/// TERM: whatever is not over, each in whatever it is doing; but what had an end already keeps it.
#[test]
fn pen_ends_and_with_it_what_is_open() {
    only_ours!("it has no log_format");
    let (s, objects) = (greeters(1), Objects::new());
    let mut pen = objects.of(Pen::with(&[])).servers(&s).controlled().start();
    let held = pen.hold_many(20);
    let (closed, open) = held.split_at(5);
    closed.iter().for_each(|held| held.stream.shutdown(Shutdown::Both).unwrap());
    objects.wait_for(5);
    assert!(open.iter().all(Held::echoes));
    pen.end_with(Signal::SIGTERM);
    let all = objects.now();
    assert_eq!(all.len(), 20, "{all:#?}");
    assert_eq!(all.iter().filter(|object| ended(object) == "shutdown").count(), 15);
    let mut numbers: Vec<u64> =
        all[5..].iter().map(|object| object["client_port"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    let mut expected: Vec<u64> = open.iter().map(|held| held.port().into()).collect();
    expected.sort_unstable();
    assert_eq!(numbers, expected);
    let passed = (3 + "are you there?\n".len()) as u64;
    assert!(all[5..].iter().all(|object| object["bytes_down"].as_u64() == Some(passed)), "{all:#?}");
}

/// A client that has been refused may take its time to read that.
#[test]
fn what_only_lingers_when_pen_ends_was_over_before() {
    only_ours!("it has no log_format");
    let objects = Objects::new();
    let server = Backend::serving("S", |visit| drop(read_line(&visit.stream)));
    let mut pen = logged(&objects, &["-H"], &[&server]);
    let bad = sends(&pen, b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n");
    wait_until("it is refused", || client_has(&bad, b"400"));
    pen.end_with(Signal::SIGTERM);
    let all = objects.now();
    assert_eq!(all_ended(&all), ["bad_request", "bad_request"], "the request and its connection: {all:#?}");
    assert_eq!((all[1]["server"].as_u64(), all[1]["attempts"].as_u64()), (Some(0), Some(1)));
}

fn client_has(stream: &TcpStream, bytes: &[u8]) -> bool {
    let mut room = [0; 200];
    stream.peek(&mut room).is_ok() && room.windows(bytes.len()).any(|window| window == bytes)
}

/// The master tells of what a worker that was killed had, from the slots.
#[test]
fn what_a_dead_worker_had_is_told_by_the_master() {
    only_ours!("it has no log_format");
    let (s, objects) = (greeters(2), Objects::new());
    let pen = objects.of(Pen::with(&["-r"])).servers(&s).controlled().start();
    let held: Vec<Held> = (1..=8).map(|last| pen.hold_from(&format!("127.0.0.{last}"))).collect();
    assert!(held.iter().all(Held::echoes));
    drop(pen.hold());
    objects.wait_for(1);
    let silent = Backend::hanging("H");
    drop(silent);
    pen.kill_workers();
    let after = pen.hold();
    assert!(after.echoes());
    drop(after);
    let all = objects.exactly(10, pen);
    let dead: Vec<&Value> = all.iter().filter(|object| ended(object) == "worker_died").collect();
    assert_eq!(dead.len(), 8, "{all:#?}");
    let mut clients: Vec<&str> = dead.iter().map(|object| object["client"].as_str().unwrap()).collect();
    clients.sort_unstable();
    assert_eq!(clients, (1..=8).map(|last| format!("127.0.0.{last}")).collect::<Vec<_>>());
    for object in dead {
        let server = object["server"].as_u64().unwrap() as usize;
        assert_eq!(object["server_port"].as_u64(), Some(s[server].port().into()));
        assert_eq!((&object["chosen"], object["attempts"].as_u64()), (&"round_robin".into(), Some(1)));
        assert_eq!(object["bytes_up"].as_u64(), Some("are you there?\n".len() as u64));
        assert!(object.get("client_port").is_none() && object["protocol"] == "tcp", "{object}");
    }
    drop(held);
}

/// workers: one that is to be no more ends with its last connection, and tells of that as always.
#[test]
fn a_worker_that_retires_tells_of_its_last_connections() {
    only_ours!("it has no log_format");
    let (s, objects) = (greeters(1), Objects::new());
    let pen = objects.of(Pen::with(&[])).servers(&s).workers(4).controlled().start();
    let held = pen.hold_many(40);
    pen.ask("workers 1");
    held.iter().for_each(|held| held.stream.shutdown(Shutdown::Write).unwrap());
    wait_until("there is one worker", || pen.workers().len() == 1);
    let all = objects.exactly(40, pen);
    assert_eq!(all_ended(&all), ["client_closed"; 40]);
}

/// -h, -W, prio, -r, tracking, failover, -e
#[test]
fn why_it_went_to_its_server() {
    only_ours!("it has no log_format");
    let (s, absent) = (webs(2), Backend::absent("A"));
    for (options, rule) in [(["-h"], "hash"), (["-N"], "hash"), (["-W"], "weight"), (["-r"], "round_robin")] {
        let objects = Objects::new();
        let pen = logged(&objects, &options, &[&s[0], &s[1]]);
        pen.visits(2);
        assert_eq!(all(&objects.exactly(2, pen), "chosen")[0], rule, "{options:?}");
    }
    let objects = Objects::new();
    let pen = logged(&objects, &["-O", "prio"], &[&s[0]]);
    pen.visits(2);
    assert_eq!(all(&objects.exactly(2, pen), "chosen"), ["prio", "last_server"]);

    let objects = Objects::new();
    let pen = logged(&objects, &["-e", &s[1].to_string(), "-b", "60"], &[&absent]);
    pen.visits(1);
    let object = objects.only(pen);
    assert_eq!((&object["chosen"], &object["server"]), (&"emergency".into(), &"emergency".into()));
    assert_eq!(object["attempts"].as_u64(), Some(2));

    let objects = Objects::new();
    // Round robin begins behind server 0.
    let pen = logged(&objects, &["-b", "60"], &[&s[0], &absent]);
    pen.visits(1);
    let object = objects.only(pen);
    assert_eq!((&object["chosen"], object["attempts"].as_u64()), (&"failover".into(), Some(2)));
    assert_eq!(object["server"].as_u64(), Some(0));
}

/// Many at once, with clients that do all sorts of things, over two workers: none is missed and none told twice.
#[test]
fn every_connection_has_exactly_one_object() {
    only_ours!("it has no log_format");
    let (s, objects) = (greeters(2), Objects::new());
    let pen = objects.of(Pen::with(&["-x", "400"])).servers(&s).start();
    let mut ports = Vec::new();
    let mut held = Vec::new();
    for number in 0..300 {
        let client = pen.connect();
        ports.push(u64::from(client.local_addr().unwrap().port()));
        match number % 4 {
            0 => client::reset(client),
            1 => client.shutdown(Shutdown::Write).unwrap(),
            2 => drop(client),
            _ => held.push(Held::greeted(client)),
        }
    }
    objects.wait_for(225);
    let all = objects_at_the_end(&objects, pen);
    drop(held);
    let mut told: Vec<u64> = all.iter().map(|object| object["client_port"].as_u64().unwrap()).collect();
    told.sort_unstable();
    ports.sort_unstable();
    assert_eq!(told, ports);
}

fn objects_at_the_end(objects: &Objects, mut pen: Pen) -> Vec<Value> {
    pen.end_with(Signal::SIGTERM);
    objects.now()
}

/// log_format: a connection that was there before has its object too.
#[test]
fn the_format_may_change_under_a_connection() {
    only_ours!("it has no log_format");
    let (s, files) = (greeters(1), Scratch::new());
    let log = files.file("log");
    let pen = Pen::with(&["-l", &log]).servers(&s).workers(1).controlled().start();
    let held = pen.hold();
    assert!(held.echoes());
    pen.ask("log_format json");
    assert!(held.echoes());
    drop(held);
    wait_until("there is an object", || files.read("log").contains("\"event\""));
    let text = files.read("log");
    let object: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((ended(&object), object["bytes_up"].as_u64()), ("client_closed", Some(30)));
    assert_eq!(text.lines().count(), 2, "the classic's line of before, and the object: {text}");
    let other = pen.hold();
    pen.ask("log_format classic");
    drop(other);
    wait_until("it is over", || connections(&pen) == 0);
    assert_eq!(files.read("log").lines().count(), 2);
}

/// The list is closed, and each word of it is provoked by one of these stories.
#[test]
fn every_reason_has_its_story() {
    let stories =
        [include_str!("log_json_ends.rs"), include_str!("log_json_http.rs"), include_str!("log_json_udp.rs")];
    for reason in pen::model::record::Ended::ALL {
        let word = format!("\"{reason}\"");
        assert!(stories.iter().any(|story| story.contains(&word)), "{word}");
    }
}

/// Its record in the client table may be another client's by then.
#[test]
fn nobody_else_is_named_for_a_connection_of_a_dead_worker() {
    only_ours!("it has no log_format");
    let (s, objects) = (greeters(1), Objects::new());
    let pen = one(&objects, Pen::with(&["-c", "2"])).servers(&s).start();
    let first = pen.hold_from("127.0.0.1");
    drop(pen.hold_from("127.0.0.2"));
    objects.wait_for(1);
    let others = ["127.0.0.3", "127.0.0.4"].map(|client| pen.hold_from(client));
    pen.kill_workers();
    let mut all = objects.wait_for(4).split_off(1);
    drop((first, others));
    assert_eq!(all_ended(&all), ["worker_died"; 3]);
    all.sort_by_key(|object| object["client"].to_string());
    assert_eq!(self::all(&all, "client"), ["127.0.0.3", "127.0.0.4", "none"]);
}

/// -l HOST:PORT
#[test]
fn a_host_is_told_of_what_a_dead_worker_had_too() {
    only_ours!("it has no log_format");
    let s = greeters(1);
    let log = UdpSocket::bind("127.0.0.1:0").unwrap();
    log.set_read_timeout(Some(SOON)).unwrap();
    let options = ["-O", "log_format json", "-l", &log.local_addr().unwrap().to_string()];
    let mut pen = Pen::with(&options).servers(&s).workers(1).controlled().start();
    let receive = || {
        let mut datagram = [0; 2000];
        let length = log.recv(&mut datagram).expect("a datagram comes");
        serde_json::from_slice::<Value>(&datagram[..length]).unwrap()
    };
    let held = pen.hold();
    pen.kill_workers();
    assert_eq!(ended(&receive()), "worker_died");
    drop(held);
    let held = pen.hold();
    pen.end_with(Signal::SIGTERM);
    assert_eq!(ended(&receive()), "shutdown");
    drop(held);
    log.set_nonblocking(true).unwrap();
    assert!(log.recv(&mut [0]).is_err(), "nobody else tells of them");
}

/// What only lingers has lost its server: the master knows no more than that it was there.
#[test]
fn what_lingers_when_its_worker_is_killed_has_one_object() {
    only_ours!("it has no log_format");
    let server = Backend::serving("S", |visit| drop(read_line(&visit.stream)));
    let objects = Objects::new();
    let pen = logged(&objects, &["-H"], &[&server]);
    let bad = sends(&pen, b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n");
    wait_until("it is refused", || client_has(&bad, b"400"));
    // Its request is over, and written: what a worker has gathered goes with it.
    objects.wait_for(1);
    pen.kill_workers();
    let all = objects.exactly(2, pen);
    assert_eq!(of_event(all.clone(), "request").len(), 1);
    // It may just have been over.
    assert!(["worker_died", "bad_request"].contains(&ended(&all[1])), "{all:#?}");
}

/// What a client says that is no name, so long that no datagram or pipe would take it whole.
#[test]
fn nobody_gets_out_of_the_log_by_what_is_asked_for() {
    only_ours!("it has no log_format");
    let (server, log) = (Backend::greeter("G"), UdpSocket::bind("127.0.0.1:0").unwrap());
    log.set_read_timeout(Some(SOON)).unwrap();
    let to = log.local_addr().unwrap().to_string();
    let options = ["-O", "ssl_passthrough sni", "-O", "log_format json", "-l", &to];
    let pen = Pen::with(&options).servers([&server]).workers(1).start();
    for (length, is_told) in [(255, true), (15_000, false), (256, false)] {
        let client = sends(&pen, &hello_for(&vec![1; length]));
        assert_eq!(read_line(&client).as_deref(), Some("G"));
        drop(client);
        let mut datagram = [0; 4096];
        let count = log.recv(&mut datagram).expect("a datagram comes");
        let object: Value = serde_json::from_slice(&datagram[..count]).expect("a whole object");
        assert_eq!(object.get("tls_name").is_some(), is_told, "{length}: {object}");
    }
}

/// A ClientHello that asks for this.
fn hello_for(name: &[u8]) -> Vec<u8> {
    let with_length = |bytes: usize, content: Vec<u8>| {
        let length = (content.len() as u32).to_be_bytes();
        [length[4 - bytes..].to_vec(), content].concat()
    };
    let names = with_length(2, [vec![0], with_length(2, name.to_vec())].concat());
    let extensions = with_length(2, [vec![0, 0], with_length(2, names)].concat());
    let before = [vec![3, 3], vec![7; 32], vec![0], vec![0, 2, 0x13, 1], vec![1, 0]].concat();
    let message = [vec![1], with_length(3, [before, extensions].concat())].concat();
    [vec![22, 3, 1], with_length(2, message)].concat()
}
