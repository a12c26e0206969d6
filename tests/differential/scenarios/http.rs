//! `-H`: what servers are told of clients in the heads of requests.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Scenario, controlled, scenario};
use crate::stage::Stage;
use crate::support::{Backend, became_true, client, wait_until};

/// A server that reads to the end, notes all that it has read, and closes.
fn reader() -> Backend {
    Backend::serving("S", |visit| {
        let (mut all, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = (&visit.stream).read(&mut part) {
            all.extend_from_slice(&part[..count]);
            visit.tally().moved.fetch_add(count as u64, Ordering::SeqCst);
        }
        visit.note(all.escape_ascii().to_string());
    })
}

/// Sends the pieces, one after the other has been passed on, if it is passed on by itself.
fn send(mut stream: TcpStream, server: &Backend, pieces: &[&[u8]]) {
    let visits = server.notes().len() + 1;
    for piece in pieces {
        let moved = server.tally.moved.load(Ordering::SeqCst);
        stream.write_all(piece).unwrap();
        became_true(Duration::from_millis(300), || server.tally.moved.load(Ordering::SeqCst) > moved);
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let _ = client::read_all(&stream);
    wait_until("the server has seen the end", || server.notes().len() == visits);
}

/// What a server gets that these pieces are meant for.
fn got(t: &Stage, pieces: &[&[u8]]) -> String {
    let server = t.server("S0", reader());
    let pen = t.pen(&["-H"]).servers([&server]).start();
    send(pen.connect(), &server, pieces);
    server.notes().remove(0)
}

/// The lines of one head: neither the order of headers nor how lines end matters.
fn lines(head: &str) -> String {
    let mut lines: Vec<&str> = head.split(r"\n").map(|line| line.trim_end_matches(r"\r")).collect();
    lines[1..].sort_unstable();
    lines.retain(|line| !line.is_empty());
    lines.join(" | ")
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("case_082_the_methods_that_the_classic_knows", |t| {
            for method in ["GET", "HEAD", "get"] {
                let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
                t.note(method, lines(&got(t, &[request.as_bytes()])));
            }
            t.note("POST", lines(&got(t, &[b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"])));
        }),
        scenario("case_083_lines_without_carriage_returns", |t| {
            t.note("head", lines(&got(t, &[b"GET / HTTP/1.1\nHost: a\n\n"])));
        }),
        scenario("case_084_a_client_that_says_who_it_is", |t| {
            let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
            t.note("head", lines(&got(t, &[request])));
        }),
        scenario("case_085_other_methods", |t| {
            for method in ["PUT", "DELETE", "OPTIONS"] {
                let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
                t.note(method, lines(&got(t, &[request.as_bytes()])));
            }
        }),
        scenario("case_086_a_head_in_two_writes", |t| {
            t.note("head", lines(&got(t, &[b"GET / HTTP/1.1\r\nHost", b": a\r\n\r\n"])));
        }),
        scenario("case_087_two_requests_in_one_write", |t| {
            let both = got(t, &[b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"]);
            let place = both.find("GET /2").unwrap();
            t.note("the first", lines(&both[..place]));
            t.note("the second", lines(&both[place..]));
        }),
        scenario("case_088_a_body_like_a_request", |t| {
            let body: &[u8] = b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
            let all = got(t, &[head.as_bytes(), body]);
            t.note("the body", all.split_once(r"\r\n\r\n").unwrap().1);
        }),
        scenario("case_089_a_body_with_a_line_like_a_header", |t| {
            let body = "x\r\nX-Forwarded-For: 1.2.3.4\r\n";
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
            let all = got(t, &[(head + body).as_bytes()]);
            let (head, body) = all.split_once(r"\r\n\r\n").unwrap();
            t.note("head", lines(head));
            t.note("body", body);
        }),
        scenario("case_090_what_is_not_http", |t| {
            t.note("TLS", got(t, &[b"\x16\x03\x01\x00\x05hello", b"GET / HTTP/1.1\r\n\r\n"]));
            t.note("SSH", got(t, &[b"SSH-2.0-OpenSSH_9.2\r\n", b"\0\0\x04\x0c"]));
        }),
        controlled("case_091_turned_on_and_off", |t| {
            let server = t.server("S0", reader());
            let pen = t.pen(&[]).servers([&server]).control().start();
            for command in ["mode", "http", "no http"] {
                let _ = pen.ask(command);
                send(pen.connect(), &server, &[b"GET / HTTP/1.0\r\n\r\n"]);
                t.note(format_args!("after {command}"), lines(server.notes().last().unwrap()));
            }
        }),
    ]
}
