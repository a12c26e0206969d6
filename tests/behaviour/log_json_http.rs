//! `log_format json` with `-H`: each request has an object when it is over, before that of its connection.

use std::io::Write;
use std::net::Shutdown;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::client::{self, read_line};
use crate::support::http::{self, Talk, response, server};
use crate::support::objects::{Objects, all, all_ended, ended, of_event};
use crate::support::tls::{self, Client};
use crate::support::{Backend, Pen, Scratch, only_ours, wait_until};

/// A pen with one worker that looks at requests.
fn pen(objects: &Objects, commands: &[&str], server: &Backend) -> Pen {
    let options: Vec<&str> =
        ["-H"].into_iter().chain(commands.iter().flat_map(|line| ["-O", line])).collect();
    objects.of(Pen::with(&options)).servers([server]).workers(1).controlled().start()
}

/// A server that answers each request with its target, and 404 to `/missing`.
fn web() -> Backend {
    server("S", |request, _| {
        let status = if request.target() == "/missing" { "404 Not Found" } else { "200 OK" };
        Some(response(status, request.target().as_bytes()))
    })
}

fn statuses(objects: &[Value]) -> Vec<Option<u64>> {
    objects.iter().map(|object| object["status"].as_u64()).collect()
}

/// One after the other on a connection that is kept, and several at once.
#[test]
fn kept_and_pipelined_requests_have_their_objects_in_order() {
    only_ours!("it has no log_format");
    let (s, objects) = (web(), Objects::new());
    let pen = pen(&objects, &[], &s);
    let talk = Talk::over(pen.connect_from("127.0.0.7"));
    talk.say("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    talk.response();
    assert_eq!(objects.wait_for(1).len(), 1, "the request's, while its connection goes on");
    talk.say("POST /2 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /missing HTTP/1.1\r\n\r\nHEAD /4 HTTP/1.1\r\n\r\n");
    talk.response();
    talk.response();
    objects.wait_for(3);
    drop(talk);
    let all_objects = objects.wait_for(5);
    let requests = of_event(all_objects.clone(), "request");
    let lines = ["GET /1 HTTP/1.1", "POST /2 HTTP/1.1", "GET /missing HTTP/1.1", "HEAD /4 HTTP/1.1"];
    assert_eq!(all(&requests, "request"), lines);
    assert_eq!(statuses(&requests), [Some(200), Some(200), Some(404), Some(200)]);
    assert_eq!(ended(&requests[0]), "answered");
    assert_eq!(all_objects[4]["event"], "connection", "it comes last");
    for request in &requests {
        assert_eq!((&request["client"], request["server"].as_u64()), (&"127.0.0.7".into(), Some(0)));
        assert_eq!(request["client_port"], all_objects[4]["client_port"]);
        assert_eq!(
            (&request["chosen"], &request["connection"]),
            (&"round_robin".into(), &all_objects[4]["connection"])
        );
    }
    let answer = response("200 OK", b"/1");
    assert_eq!(requests[0]["bytes_down"].as_u64(), Some(answer.len() as u64));
    let forwarded: usize = s.notes()[0].len();
    assert_eq!(requests[0]["bytes_up"].as_u64(), Some(forwarded as u64), "with what pen has added");
    assert_eq!(requests[1]["bytes_up"].as_u64(), Some(s.notes()[1].len() as u64 + 5), "with its body");
    assert_eq!(objects.exactly(5, pen).len(), 5);
}

/// A large upload and a large answer, spliced or not.
#[test]
fn bytes_are_counted_however_they_go_by() {
    only_ours!("it has no log_format");
    let large = vec![b'x'; 3 << 20];
    let answer = large.clone();
    let s = server("S", move |_, _| Some(response("200 OK", &answer)));
    let objects = Objects::new();
    let pen = pen(&objects, &[], &s);
    let talk = Talk::with(&pen);
    talk.say(format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", large.len()));
    talk.say(&large);
    assert_eq!(talk.response().body.len(), large.len());
    drop(talk);
    let all = objects.exactly(2, pen);
    assert_eq!(all_ended(&all)[0], "answered");
    assert_eq!(all[0]["bytes_up"].as_u64(), Some((s.notes()[0].len() + large.len()) as u64));
    assert_eq!(all[0]["bytes_down"].as_u64(), Some(response("200 OK", &large).len() as u64));
}

/// 400 and 408
#[test]
fn a_refused_request_has_the_status_that_its_client_was_sent() {
    only_ours!("it has no log_format");
    let (s, objects) = (web(), Objects::new());
    let pen = pen(&objects, &["http_head_timeout 1"], &s);
    for head in
        ["GET /a b HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "GET /long HTTP/1.1\r\n"]
    {
        let talk = Talk::with(&pen);
        talk.say("GET /good HTTP/1.1\r\n\r\n");
        assert_eq!(talk.response().status, 200);
        talk.say(head);
        let status = if head.ends_with("\r\n\r\n") { 400 } else { 408 };
        talk.is_refused(status);
    }
    let all_objects = objects.exactly(6, pen);
    let reasons =
        ["answered", "bad_request", "bad_request", "answered", "request_timeout", "request_timeout"];
    assert_eq!(all_ended(&all_objects), reasons);
    assert_eq!(statuses(&all_objects), [Some(200), Some(400), None, Some(200), Some(408), None]);
    assert_eq!(all(&all_objects, "request")[1], "GET /a b HTTP/1.1");
    assert_eq!(all(&all_objects, "request")[4], "GET /long HTTP/1.1");
    assert_eq!(all_objects[1]["bytes_up"].as_u64(), Some(0));
}

/// A body that is none: its request is the one that is refused.
#[test]
fn a_broken_body_refuses_its_request() {
    only_ours!("it has no log_format");
    let server = http::recorder(b"");
    let objects = Objects::new();
    let pen = pen(&objects, &[], &server);
    let talk = Talk::with(&pen);
    talk.say("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n");
    talk.is_refused(400);
    let all_objects = objects.exactly(2, pen);
    assert_eq!(all_ended(&all_objects), ["bad_request", "bad_request"]);
    assert_eq!(statuses(&all_objects), [Some(400), None]);
    assert_eq!(all(&all_objects, "request")[0], "POST / HTTP/1.1");
}

/// The connection ends before the responses have: all that wait have no status, or that of what had begun.
#[test]
fn requests_that_are_cut_off_end_as_their_connection_does() {
    only_ours!("it has no log_format");
    let silent = http::recorder(b"");
    let objects = Objects::new();
    let logged = pen(&objects, &[], &silent);
    let talk = Talk::with(&logged);
    talk.say("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
    wait_until("they have gone", || http::recorded(&silent).contains("/2"));
    client::reset(talk.stream().try_clone().unwrap());
    drop(talk);
    let all_objects = objects.exactly(3, logged);
    assert_eq!(all_ended(&all_objects), ["client_reset"; 3]);
    assert_eq!(all(&all_objects, "request"), ["GET /1 HTTP/1.1", "GET /2 HTTP/1.1", "none"]);

    // It begins an answer and closes in the middle of it.
    let breaking = Backend::serving("B", |visit| {
        visit.read_head();
        let _ = (&visit.stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
    });
    let objects = Objects::new();
    let logged = pen(&objects, &[], &breaking);
    let talk = Talk::with(&logged);
    talk.say("GET /1 HTTP/1.1\r\n\r\n");
    talk.rest();
    drop(talk);
    let all_objects = objects.exactly(2, logged);
    assert_eq!(all_ended(&all_objects), ["server_closed"; 2]);
    assert_eq!(statuses(&all_objects), [Some(200), None]);

    let silent = http::recorder(b"");
    let objects = Objects::new();
    let mut logged = pen(&objects, &[], &silent);
    let talk = Talk::with(&logged);
    talk.say("GET /1 HTTP/1.1\r\n\r\n");
    wait_until("it has gone", || http::recorded(&silent).contains("/1"));
    logged.end_with(Signal::SIGTERM);
    assert_eq!(all_ended(&objects.now()), ["shutdown"; 2]);
}

/// HTTP/1.0, and servers that end what they send by closing.
#[test]
fn an_answer_that_ends_with_its_connection_is_whole() {
    only_ours!("it has no log_format");
    let closing = Backend::serving("C", |visit| {
        visit.read_head();
        let _ = (&visit.stream).write_all(b"HTTP/1.0 200 OK\r\n\r\nall there is");
    });
    let objects = Objects::new();
    let pen = pen(&objects, &[], &closing);
    assert_eq!(pen.visit(), "all there is");
    let all_objects = objects.exactly(2, pen);
    assert_eq!(all_ended(&all_objects), ["answered", "server_closed"]);
    assert_eq!(
        all_objects[0]["bytes_down"].as_u64(),
        Some("HTTP/1.0 200 OK\r\n\r\nall there is".len() as u64)
    );
}

/// Upgrade: what is spoken after it belongs to the request.
#[test]
fn a_granted_upgrade_lasts_as_long_as_its_connection() {
    only_ours!("it has no log_format");
    let granting = Backend::serving("U", |visit| {
        visit.read_head();
        let _ = (&visit.stream).write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
        let mut stream = &visit.stream;
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    });
    let objects = Objects::new();
    let pen = pen(&objects, &[], &granting);
    let talk = Talk::with(&pen);
    talk.say("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(talk.response().status, 101);
    talk.say("GET /no HTTP/1.1\r\n\r\n");
    talk.read("GET /no HTTP/1.1\r\n\r\n".len());
    talk.stream().shutdown(Shutdown::Write).unwrap();
    talk.rest();
    let all_objects = objects.exactly(2, pen);
    assert_eq!(all_ended(&all_objects), ["client_closed"; 2]);
    assert_eq!(statuses(&all_objects), [Some(101), None]);
    let spoken = "GET /no HTTP/1.1\r\n\r\n".len();
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".len();
    assert_eq!(all_objects[0]["bytes_down"].as_u64(), Some((head + spoken) as u64));
    assert_eq!(all_objects[0]["bytes_up"].as_u64(), Some((granting.notes()[0].len() + spoken) as u64));
}

#[test]
fn an_answer_that_is_no_http_is_told_and_everything_after_it() {
    only_ours!("it has no log_format");
    let foreign = Backend::serving("F", |visit| {
        visit.read_head();
        let _ = (&visit.stream).write_all(b"hello\n");
        visit.read_head();
        let _ = (&visit.stream).write_all(b"again\n");
    });
    let objects = Objects::new();
    let pen = pen(&objects, &[], &foreign);
    let talk = Talk::with(&pen);
    for (path, answer) in [("/1", "hello"), ("/2", "again")] {
        talk.say(format!("GET {path} HTTP/1.1\r\n\r\n"));
        assert_eq!(read_line(talk.stream()).as_deref(), Some(answer));
    }
    drop(talk);
    let all_objects = objects.exactly(3, pen);
    assert_eq!(all_ended(&all_objects)[..2], ["not_http", "not_http"]);
    assert_eq!(all(&all_objects, "request"), ["GET /1 HTTP/1.1", "GET /2 HTTP/1.1", "none"]);
    assert_eq!(statuses(&all_objects), [None; 3]);
}

/// What never was HTTP has no requests, and neither has a head that never ends.
#[test]
fn what_is_no_request_has_no_object() {
    only_ours!("it has no log_format");
    let s = Backend::greeter("G");
    let objects = Objects::new();
    let pen = pen(&objects, &[], &s);
    let held = pen.hold();
    assert!(held.echoes());
    drop(held);
    objects.wait_for(1);
    let held = pen.hold();
    (&held.stream).write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
    drop(held);
    let all_objects = objects.exactly(2, pen);
    assert_eq!(all(&all_objects, "event"), ["connection"; 2]);
}

#[test]
fn requests_that_came_by_tls_say_so() {
    only_ours!("it has no log_format");
    let (s, objects, files) = (web(), Objects::new(), Scratch::new());
    let pen = objects.of(tls::pen(&files, &["-H"])).servers([&s]).workers(1).start();
    let mut client = Client::usual().name("pen.test").open(&pen);
    client.send("GET / HTTP/1.1\r\n\r\n");
    let mut room = vec![0; 1000];
    assert!(client.receive(&mut room).is_ok());
    client.finish();
    client.read_all();
    drop(client);
    let all_objects = objects.exactly(2, pen);
    assert_eq!(all(&all_objects, "tls_version"), ["TLSv1.3"; 2]);
    assert_eq!(all(&all_objects, "tls_name"), ["pen.test"; 2]);
}

/// Nobody writes lines, or commands for terminals, into the log.
#[test]
fn whatever_a_request_holds_it_stays_in_its_string() {
    only_ours!("it has no log_format");
    let (s, objects) = (web(), Objects::new());
    let pen = pen(&objects, &[], &s);
    let talk = Talk::with(&pen);
    talk.say(b"GET /\"}\x1b[31m\xff,\"status\":1 HTTP/1.1\r\n\r\n");
    let status = talk.response().status;
    drop(talk);
    let all_objects = objects.wait_for(2);
    assert_eq!(statuses(&all_objects)[0], Some(status.into()));
    assert!(all(&all_objects, "request")[0].starts_with("GET /\"}\x1b[31m\u{fffd}"), "{all_objects:#?}");
    let text = std::fs::read(objects.file()).unwrap();
    assert!(text.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
}

/// log_format: a connection that is kept has objects from its next request on.
#[test]
fn the_format_may_change_between_two_requests() {
    only_ours!("it has no log_format");
    let (s, files) = (web(), Scratch::new());
    let log = files.file("log");
    let pen = Pen::with(&["-H", "-l", &log]).servers([&s]).workers(1).controlled().start();
    let talk = Talk::with(&pen);
    for (path, format) in [("/1", "json"), ("/2", "classic"), ("/3", "json"), ("/4", "json")] {
        talk.say(format!("GET {path} HTTP/1.1\r\n\r\n"));
        assert_eq!(talk.response().status, 200);
        wait_until("it is told", || files.read("log").contains(&format!("GET {path} ")));
        pen.ask(&format!("log_format {format}"));
    }
    let text = files.read("log");
    let kinds: Vec<bool> = text.lines().map(|line| line.starts_with('{')).collect();
    assert_eq!(kinds, [false, true, false, true], "{text}");
}

fn sum(objects: &[Value], field: &str) -> u64 {
    objects.iter().map(|object| object[field].as_u64().unwrap()).sum()
}

/// With what pen adds to requests, without what it keeps back, and with its own answers.
#[test]
fn a_connection_has_the_bytes_of_its_requests() {
    only_ours!("it has no log_format");
    let (s, objects) = (web(), Objects::new());
    let pen = pen(&objects, &["http_head_timeout 1"], &s);
    let bad = "GET /a b HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    for (last, status) in [(bad, 400), ("GET /late HTTP/1.1\r\n", 408)] {
        let talk = Talk::with(&pen);
        talk.say("GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 2\r\n\r\nab");
        talk.response();
        talk.response();
        talk.say(last);
        talk.is_refused(status);
    }
    let talk = Talk::with(&pen);
    talk.say("GET /3 HTTP/1.1\r\n\r\nGET /half");
    talk.response();
    drop(talk);
    let mut rest = objects.exactly(3 + 1 + 3 + 1 + 1 + 1, pen);
    for requests in [3, 3, 1] {
        let others = rest.split_off(requests + 1);
        let connection = rest.pop().unwrap();
        assert_eq!(connection["event"], "connection");
        assert_eq!(sum(&rest, "bytes_up"), connection["bytes_up"].as_u64().unwrap());
        assert_eq!(sum(&rest, "bytes_down"), connection["bytes_down"].as_u64().unwrap());
        rest = others;
    }
}

/// What is refused begins when it is.
#[test]
fn the_time_for_a_head_is_not_its_requests() {
    only_ours!("it has no log_format");
    let (s, objects) = (web(), Objects::new());
    let pen = pen(&objects, &["http_head_timeout 1"], &s);
    let talk = Talk::with(&pen);
    talk.say("GET /late HTTP/1.1\r\n");
    talk.is_refused(408);
    let all = objects.exactly(2, pen);
    let duration = |object: &Value| object["duration_us"].as_u64().unwrap();
    assert!(duration(&all[0]) + 1_000_000 <= duration(&all[1]), "{all:#?}");
}

/// An answer that only the end of its connection would end, of a server that resets it while it still is sent something.
#[test]
fn an_answer_that_a_reset_ends_is_not_whole() {
    only_ours!("it has no log_format");
    let server = Backend::serving("R", |visit| {
        visit.read_head();
        let _ = (&visit.stream).write_all(b"HTTP/1.0 200 OK\r\n\r\npart");
        client::reset(visit.stream.try_clone().unwrap());
    });
    let objects = Objects::new();
    let pen = pen(&objects, &[], &server);
    for count in 1..=20 {
        let talk = Talk::with(&pen);
        talk.say("POST / HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n");
        let mut stream = talk.stream();
        while stream.write_all(&[b'x'; 30_000]).is_ok() {}
        drop(talk);
        objects.wait_for(2 * count);
    }
    let all = objects.exactly(40, pen);
    let (requests, connections) = (of_event(all.clone(), "request"), of_event(all, "connection"));
    assert_eq!(all_ended(&requests), all_ended(&connections));
    assert!(!all_ended(&requests).contains(&"answered"), "{requests:#?}");
}
