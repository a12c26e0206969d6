//! pen(1), -H: every request tells the server whom it is from, and nothing else of a connection changes.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::support::backend::greeters;
use crate::support::client::{read_all, read_line};
use crate::support::http::{Talk, echo, latin, recorded, recorder, response, server, values};
use crate::support::pen::Builder;
use crate::support::tls::client_hello;
use crate::support::{Backend, Ending, Pen, SOON, Scratch, let_pass, only_ours, processes, wait_until};

/// What a request from 127.0.0.1 gets.
const OURS: &str = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n";

/// A pen with -H and these commands.
fn http(commands: &[&str]) -> Builder {
    let commands = commands.iter().flat_map(|command| ["-O", command]);
    Pen::with(&["-H"].into_iter().chain(commands).collect::<Vec<_>>())
}

/// A message with these lines behind its headers.
fn with(lines: &str, message: &str) -> String {
    let (head, body) = message.split_once("\r\n\r\n").unwrap();
    format!("{head}\r\n{lines}\r\n{body}")
}

/// pen(1), -H: every request of a connection, whatever its method.
#[test]
fn every_request_has_the_headers_whatever_its_method() {
    only_ours!("it looks at GET, HEAD and POST, and only at the beginning of what it reads");
    let server = echo();
    let pen = http(&[]).servers([&server]).start();
    let talk = Talk::with(&pen);
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "get", "M-SEARCH"]
    {
        let request = format!("{method} /{method} HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n");
        assert_eq!(talk.echoed(&request), with(OURS, &request));
    }
    for request in ["OPTIONS * HTTP/1.1\r\n\r\n", "GET http://a/b HTTP/1.1\r\nHost:a\r\n\r\n"] {
        assert_eq!(talk.echoed(request), with(OURS, request));
    }
    talk.say("HEAD /x HTTP/1.1\r\n\r\n");
    let expected = with(OURS, "HEAD /x HTTP/1.1\r\n\r\n");
    assert_eq!(values(&talk.response_to("HEAD").head, "content-length"), [expected.len().to_string()]);
    assert_eq!(server.notes().last(), Some(&expected));
    assert_eq!(server.accepted(), 1);
}

/// The same for HTTP/1.0, for a client that ends its stream behind its request, and for line ends of one byte, which
/// become two.
#[test]
fn old_requests_have_them_too() {
    only_ours!("it ends lines as the client does");
    let server = echo();
    let pen = http(&[]).servers([&server]).start();
    let old = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let talk = Talk::with(&pen);
    assert_eq!(talk.echoed(old), with(OURS, old));
    assert_eq!(talk.echoed("\r\n\nGET / HTTP/1.0\nA: b\n\n"), with(OURS, "GET / HTTP/1.0\r\nA: b\r\n\r\n"));
    talk.say(old);
    talk.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(latin(&talk.response().body), with(OURS, old));
    assert_eq!(talk.rest(), (String::new(), Ending::EndOfStream));
}

/// pen(1), -H: pipelined requests, ten thousand of them in as few pieces as it takes: each has the headers once, and all
/// responses come, in order.
#[test]
fn each_of_ten_thousand_pipelined_requests_has_them_once() {
    only_ours!("it looks at the beginning of what it reads");
    const COUNT: usize = 10_000;
    let server = server("S", |request, _| {
        let lines = [request.values("x-forwarded-for"), request.values("x-forwarded-proto")];
        let body = format!("{} {lines:?} {}", request.target(), latin(&request.body));
        Some(response("200 OK", body.as_bytes()))
    });
    let pen = http(&[]).servers([&server]).workers(1).start();
    let talk = Talk::with(&pen);
    let mut stream = talk.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let requests = (0..COUNT).map(|number| match number % 4 {
                0 => format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
                1 => format!("POST /{number} HTTP/1.1\r\nContent-Length: 8\r\n\r\nGET / HT"),
                2 => format!(
                    "PUT /{number} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nGET / HT\r\n0\r\n\r\n"
                ),
                _ => format!("DELETE /{number} HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"),
            });
            stream.write_all(requests.collect::<String>().as_bytes()).unwrap();
        });
        for number in 0..COUNT {
            let client = if number % 4 == 3 { "192.0.2.7, 127.0.0.1" } else { "127.0.0.1" };
            let body = ["", "GET / HT", "8\r\nGET / HT\r\n0\r\n\r\n", ""][number % 4];
            let expected = format!("/{number} [[{client:?}], [\"http\"]] {body}");
            assert_eq!(latin(&talk.response().body), expected);
        }
    });
    assert_eq!(server.accepted(), 1);
}

/// Requests of every shape, and what the server gets of them.
fn stream_of_all_shapes() -> (String, String) {
    let requests = [
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nPOST /2 HTTP/1.1\r\nContent-Length: 20\r\n\r\nGET / HTTP/1.1\r\n\r\nX:",
        "PUT /3 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n13;x=y\r\nGET / HTTP/1.1\r\n\r\nX\r\n0\r\nT: u\r\n\r\n",
        "HEAD /4 HTTP/1.0\r\n\r\n",
        "DELETE /5 HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nHost: a\r\n\r\n",
    ];
    let mut expected = requests.map(|request| with(OURS, request.trim_start()));
    expected[4] = format!(
        "DELETE /5 HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7, 127.0.0.1\r\nHost: a\r\n{}\r\n",
        "X-Forwarded-Proto: http\r\n"
    );
    (requests.concat(), expected.concat())
}

/// pen(1), -H: whatever segments a request comes in: cut at every byte, the pieces read apart from each other.
#[test]
fn a_stream_cut_at_any_byte_reaches_the_server_as_if_it_were_not() {
    only_ours!("it needs a head in one piece");
    let (stream, expected) = stream_of_all_shapes();
    let server = recorder(b"");
    let pen = http(&[]).servers([&server]).workers(1).start();
    for cut in 0..stream.len() {
        let client = pen.connect();
        let (first, second) = stream.split_at(cut);
        (&client).write_all(first.as_bytes()).unwrap();
        wait_until("the first part is read", || processes::has_read_all(&client));
        (&client).write_all(second.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        wait_until("the server has everything", || recorded(&server).ends_with("the end"));
        assert_eq!(recorded(&server), format!("{expected}the end"), "cut at {cut}");
        server.tally.notes.lock().unwrap().clear();
    }
}

/// The same, byte by byte.
#[test]
fn a_stream_that_comes_byte_by_byte_reaches_the_server_as_if_it_did_not() {
    only_ours!("it needs a head in one piece");
    let (stream, expected) = stream_of_all_shapes();
    let server = recorder(b"");
    let pen = http(&[]).servers([&server]).workers(1).start();
    let client = pen.connect();
    for byte in stream.as_bytes() {
        (&client).write_all(&[*byte]).unwrap();
        wait_until("it is read", || processes::has_read_all(&client));
    }
    wait_until("the server has everything", || recorded(&server).len() >= expected.len());
    assert_eq!(recorded(&server), expected);
}

/// pen(1), -H: nothing of a body changes, whatever it looks like.
#[test]
fn bodies_arrive_as_they_were_sent() {
    only_ours!("it takes what begins like a request for one");
    let server = echo();
    let pen = http(&[]).servers([&server]).workers(1).start();
    let talk = Talk::with(&pen);
    let body = "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST /x HTTP/1.0\r\n\r\n".repeat(3000);
    let sized = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    let coded = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n".to_owned();
    let chunks = format!("{:X};GET / HTTP/1.1\r\n{body}\r\n10\r\n{}\r\n", body.len(), &body[..16])
        + "0;x\r\nT: GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
    for (head, body) in [(sized, body), (coded, chunks)] {
        let whole = with(OURS, &format!("{head}{body}"));
        // At once …
        assert_eq!(talk.echoed(format!("{head}{body}")), whole);
        // … with the head before the body, and in pieces that begin like requests.
        talk.say(&head);
        wait_until("the head is read", || processes::has_read_all(talk.stream()));
        for (number, piece) in body.split_inclusive("GET").enumerate() {
            talk.say(piece);
            if number < 20 {
                wait_until("the piece is read", || processes::has_read_all(talk.stream()));
            }
        }
        assert_eq!(latin(&talk.response().body), whole);
    }
    assert_eq!(server.accepted(), 1);
}

/// Bytes in which no place looks like another.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// So many bytes in chunks of a size that divides nothing.
fn chunked(bytes: &[u8]) -> Vec<u8> {
    let chunks = bytes.chunks(1_234_567).flat_map(|chunk| {
        let size = format!("{:x};a=b\r\n", chunk.len());
        [size.as_bytes(), chunk, b"\r\n"].concat()
    });
    chunks.chain(*b"0\r\n\r\n").collect()
}

/// Large bodies of requests or responses, with their length or in chunks, each followed by a small request.
fn large_bodies(method: &'static str, in_chunks: bool) {
    const SIZE: usize = 8_000_000;
    let bytes = noise(SIZE);
    let message = match in_chunks {
        false => [format!("Content-Length: {SIZE}\r\n\r\n").as_bytes(), &bytes].concat(),
        true => [b"Transfer-Encoding: chunked\r\n\r\n", &chunked(&bytes)[..]].concat(),
    };
    let (request, answer) = match method {
        "GET" => (b"GET / HTTP/1.1\r\n\r\n".to_vec(), [b"HTTP/1.1 200 OK\r\n", &message[..]].concat()),
        _ => ([format!("{method} / HTTP/1.1\r\n").as_bytes(), &message].concat(), response("200 OK", b"")),
    };
    let server = server("S", {
        let message = message.clone();
        move |request, _| {
            assert!(
                method == "GET" || request.method() == "HEAD" || ends_with(&message, &request.body, SIZE)
            );
            match request.method() {
                "HEAD" => Some(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec()),
                _ => Some(answer.clone()),
            }
        }
    });
    let pen = http(&[]).servers([&server]).workers(1).start();
    let worker = pen.workers()[0];
    // A pipe that was of use to a connection stays for the next.
    let pipes = || processes::descriptors_of(worker, "pipe:");
    let before = pipes();
    let talk = Talk::with(&pen);
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let (mut stream, request) = (talk.stream(), &request);
            scope.spawn(move || stream.write_all(request).unwrap());
            let response = talk.response();
            assert!(method != "GET" || ends_with(&message, &response.body, SIZE));
        });
        talk.say("HEAD / HTTP/1.1\r\n\r\n");
        assert_eq!(talk.response_to("HEAD").status, 200);
    }
    assert_eq!(server.notes().len(), 6);
    for head in server.notes() {
        assert_eq!(values(&head, "x-forwarded-for"), ["127.0.0.1"], "{head}");
    }
    assert!(pipes() > before, "nothing was spliced");
    talk.say("GET / HTTP/1.1\r\nbad\r\n\r\n");
    talk.is_refused(400);
}

/// It ends so, with so many bytes at least.
fn ends_with(message: &[u8], end: &[u8], least: usize) -> bool {
    message.ends_with(end) && end.len() >= least
}

/// pen(1), -H: large bodies move without being copied, and not a byte of them is lost or changed; what follows them is
/// looked at again.
#[test]
fn large_requests_arrive_byte_by_byte() {
    only_ours!("it takes what begins like a request for one");
    large_bodies("POST", false);
    large_bodies("PUT", true);
}

/// The same for responses.
#[test]
fn large_responses_arrive_byte_by_byte() {
    only_ours!("what follows is not answered there");
    large_bodies("GET", false);
    large_bodies("GET", true);
}

/// A response without a length ends with its stream.
#[test]
fn a_response_up_to_the_end_of_the_stream_arrives_whole() {
    let body = noise(3_000_000);
    let (answer, expected) = ([b"HTTP/1.0 200 OK\r\n\r\n", &body[..]].concat(), body);
    let server = Backend::serving("S", move |visit| {
        visit.read_head();
        (&visit.stream).write_all(&answer).unwrap();
    });
    let pen = http(&[]).servers([&server]).start();
    let client = pen.connect();
    (&client).write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let (bytes, ending) = read_all(&client);
    assert!(bytes.ends_with(&expected) && ending == Ending::EndOfStream);
}

/// RFC 9110, 10.1.1: a client may wait for the server's word before it sends a body.
#[test]
fn a_client_that_waits_for_100_gets_it() {
    only_ours!("it adds its headers in another order");
    let server = echo();
    let pen = http(&[]).servers([&server]).start();
    let talk = Talk::with(&pen);
    let head = "POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    for _ in 0..3 {
        talk.say(head);
        assert_eq!(talk.response().status, 100);
        assert_eq!(talk.echoed("GET"), with(OURS, &format!("{head}GET")));
    }
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// A server that grants upgrades and tunnels to `/chat` and `chat:1` with these bytes, then echoes; it denies others.
fn granting(grant: &'static [u8]) -> Backend {
    server("S", move |request, visit| {
        if !request.target().contains("chat") {
            return Some(response("403 Forbidden", &request.bytes()));
        }
        let mut stream = &visit.stream;
        stream.write_all(grant).unwrap();
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        None
    })
}

/// pen(1), -H: after an upgrade the bytes are another protocol's, both ways, also those that were sent too early to know.
#[test]
fn after_an_upgrade_nothing_is_looked_at() {
    only_ours!("it takes what begins like a request for one");
    let server = granting(SWITCHING);
    let pen = http(&[]).servers([&server]).workers(1).start();
    let frames = "\u{81}\u{fe}GET / HTTP/1.1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    let frames: Vec<u8> = frames.chars().map(|char| char as u8).collect();
    let large = noise(5_000_000);
    for early in [true, false] {
        let talk = Talk::with(&pen);
        assert_eq!(talk.echoed_by("GET / HTTP/1.1\r\n\r\n", 403), with(OURS, "GET / HTTP/1.1\r\n\r\n"));
        talk.say(UPGRADE);
        if early {
            talk.say(&frames);
        }
        assert_eq!(talk.response().status, 101);
        if !early {
            talk.say(&frames);
        }
        assert_eq!(talk.read(frames.len()), frames);
        for _ in 0..100 {
            talk.say(UPGRADE);
            assert_eq!(latin(&talk.read(UPGRADE.len())), UPGRADE);
        }
        let mut stream = talk.stream().try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| stream.write_all(&large).unwrap());
            assert!(talk.read(large.len()) == large);
        });
        assert_eq!(*server.notes().last().unwrap(), with(OURS, UPGRADE));
    }
    assert_eq!(server.notes().len(), 4);
}

/// pen(1), -H: a server need not grant an upgrade; what comes behind the request is one then, and is looked at.
#[test]
fn after_an_upgrade_that_is_denied_requests_have_the_headers() {
    only_ours!("it looks at the beginning of what it reads");
    let server = granting(SWITCHING);
    let pen = http(&[]).servers([&server]).workers(1).start();
    let refused = "POST /other HTTP/1.1\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nGET";
    let next = "GET /next HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
    let expected =
        "GET /next HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7, 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\r\n";
    let talk = Talk::with(&pen);
    for _ in 0..3 {
        talk.say(format!("{refused}{next}{next}"));
        assert_eq!(latin(&talk.response().body), with(OURS, refused));
        assert_eq!(latin(&talk.response().body), expected);
        assert_eq!(latin(&talk.response().body), expected);
    }
    talk.say(UPGRADE);
    assert_eq!(talk.response().status, 101);
}

/// pen(1), -H: the same for tunnels.
#[test]
fn a_tunnel_is_opaque_and_one_that_is_denied_is_not() {
    only_ours!("it does not know CONNECT");
    let server = granting(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n");
    let pen = http(&[]).servers([&server]).workers(1).start();
    let connect = |host| format!("CONNECT {host}:1 HTTP/1.1\r\nHost: {host}:1\r\n\r\n");
    let talk = Talk::with(&pen);
    assert_eq!(talk.echoed_by(connect("other"), 403), with(OURS, &connect("other")));
    talk.say(connect("other") + &connect("chat") + "GET / HTTP/1.1\r\n\r\n");
    assert_eq!(latin(&talk.response().body), with(OURS, &connect("other")));
    assert_eq!(talk.response_to("HEAD").status, 200);
    assert_eq!(latin(&talk.read(18)), "GET / HTTP/1.1\r\n\r\n");
    // Each side ends by itself.
    talk.say("the last");
    talk.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(talk.rest(), ("the last".to_owned(), Ending::EndOfStream));
}

/// There are servers to whom CONNECT is a method like any other. What follows is a request to them.
#[test]
fn a_response_with_a_body_makes_no_tunnel() {
    only_ours!("it does not know CONNECT");
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ] {
        let server = server("S", move |_, _| Some(answer.as_bytes().to_vec()));
        let pen = http(&[]).servers([&server]).start();
        let talk = Talk::with(&pen);
        for request in
            ["CONNECT / HTTP/1.1\r\n\r\n", "GET /hidden HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"]
        {
            talk.say(request);
            assert!(talk.response().status < 300);
        }
        let last = server.notes().pop().unwrap();
        assert_eq!(values(&last, "x-forwarded-for"), ["192.0.2.7, 127.0.0.1"], "{answer:?}");
    }
}

/// A server that ends its stream will not say any more what becomes of an upgrade: nothing waits for that.
#[test]
fn a_client_is_not_kept_for_an_answer_that_cannot_come() {
    only_ours!("it does not wait for the answer to an upgrade");
    let server = Backend::serving("S", |visit| {
        visit.read_head();
    });
    let pen = http(&["debug 1"]).servers([&server]).workers(1).start();
    let sockets =
        || pen.workers().iter().map(|pid| processes::descriptors_of(*pid, "socket:")).sum::<usize>();
    let idle = sockets();
    for early in ["", "early"] {
        let talk = Talk::with(&pen);
        talk.say(format!("{UPGRADE}{early}"));
        assert_eq!(talk.rest(), (String::new(), Ending::EndOfStream));
        drop(talk);
        wait_until("both sides are closed", || sockets() == idle);
    }
}

/// A client that leaves while it waits for the answer to an upgrade: its server hears of it, as without -H.
#[test]
fn a_server_hears_of_a_client_that_leaves_before_the_answer_to_an_upgrade() {
    let server = Backend::serving("S", |visit| {
        visit.read_head();
        let _ = (&visit.stream).read(&mut [0; 9]);
        visit.note("left");
    });
    let pen = http(&[]).servers([&server]).start();
    Talk::with(&pen).say(UPGRADE);
    wait_until("the server knows", || server.notes().last().is_some_and(|note| note == "left"));
}

/// pen(1), -H: what is not HTTP passes as it is, and does not wait for more than it takes to see that.
#[test]
fn other_protocols_pass_unchanged() {
    only_ours!("it adds headers to whatever begins like a request");
    let hello = client_hello("www.example.com");
    let server = recorder(b"220 mail.example.com ESMTP\r\n");
    let pen = http(&[]).servers([&server]).workers(1).start();
    for first in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"EHLO client.example.com\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\x30\x0c\x02\x01\x01\x60\x07",
        b"stats\n",
        &hello,
    ] {
        let client = pen.connect();
        // Who waits for the server to speak first is not kept waiting.
        assert_eq!(read_line(&client).as_deref(), Some("220 mail.example.com ESMTP\r"));
        (&client).write_all(first).unwrap();
        wait_until("it is there", || recorded(&server) == latin(first));
        // It stays what it is.
        (&client).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let expected = format!("{}GET / HTTP/1.1\r\n\r\nthe end", latin(first));
        wait_until("the rest is there", || recorded(&server).len() >= expected.len());
        assert_eq!(recorded(&server), expected);
        server.tally.notes.lock().unwrap().clear();
    }
}

/// Nor does what never becomes a line, when the client has ended its stream.
#[test]
fn the_beginning_of_another_protocol_passes_at_the_end_of_the_stream() {
    let server = recorder(b"");
    let pen = http(&[]).servers([&server]).start();
    let client = pen.connect();
    (&client).write_all(b"QUIT").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    wait_until("it is there", || recorded(&server) == "QUITthe end");
}

/// pen(1), -H: half a head is no request: the server hears nothing of it.
#[test]
fn half_a_head_reaches_nobody() {
    only_ours!("it looks at the beginning of what it reads");
    let server = recorder(b"");
    let pen = http(&[]).servers([&server]).start();
    for half in ["GET /", "GET / HTTP/1.1", "GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\n"] {
        let client = pen.connect();
        (&client).write_all(half.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        wait_until("the end is there", || recorded(&server).ends_with("the end"));
        assert_eq!(recorded(&server), "the end", "{half:?}");
        server.tally.notes.lock().unwrap().clear();
    }
}

/// Sends a request with these lines to a pen with these commands, from 127.0.0.1; the lines that the server gets.
fn rewritten(commands: &[&str], lines: &str) -> String {
    let server = echo();
    let pen = http(commands).servers([&server]).workers(1).start();
    let head = Talk::with(&pen).echoed(format!("GET / HTTP/1.1\r\n{lines}\r\n"));
    head.strip_prefix("GET / HTTP/1.1\r\n").unwrap().strip_suffix("\r\n").unwrap().to_owned()
}

/// A request that has come through two others, one of which has lied, perhaps.
const TOLD: &str = "X-Forwarded-For: 192.0.2.1\r\n\
                    Forwarded: for=192.0.2.1;proto=https\r\n\
                    Host: a\r\n\
                    x-forwarded-for: 192.0.2.2, 192.0.2.3\r\n\
                    X-Forwarded-Proto: https\r\n\
                    forwarded: for=192.0.2.2\r\n\
                    X_Forwarded_For: 192.0.2.4\r\n";

/// pen(1), http append: our client is the last of the list, in one line.
#[test]
fn the_client_is_added_to_a_list_that_is_there() {
    only_ours!("it keeps what is there");
    let list = "Host: a\r\nx-forwarded-for: 192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1\r\n";
    let plain = "Forwarded: for=192.0.2.1;proto=https\r\n".to_owned()
        + list
        + "forwarded: for=192.0.2.2\r\nX-Forwarded-Proto: http\r\n";
    assert_eq!(rewritten(&[], TOLD), plain);
    assert_eq!(rewritten(&["http append"], TOLD), plain);
    let both = list.to_owned()
        + "forwarded: for=192.0.2.1;proto=https, for=192.0.2.2, for=127.0.0.1;proto=http\r\n"
        + "X-Forwarded-Proto: http\r\n";
    assert_eq!(rewritten(&["http forwarded"], TOLD), both);
    assert_eq!(
        rewritten(&[], "X-Forwarded-For:\r\n"),
        "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"
    );
}

/// pen(1), http replace: nothing is left of what was there.
#[test]
fn what_the_client_says_of_itself_is_replaced() {
    only_ours!("it keeps what is there");
    assert_eq!(rewritten(&["http replace forwarded"], TOLD), format!("Host: a\r\n{OURS}{FORWARDED}"));
}

/// RFC 7239.
const FORWARDED: &str = "Forwarded: for=127.0.0.1;proto=http\r\n";

/// pen(1), http keep: what is there stays, and only what is missing is added.
#[test]
fn what_is_there_can_be_kept() {
    only_ours!("it adds its headers in another order");
    assert_eq!(rewritten(&["http keep"], TOLD), TOLD);
    assert_eq!(rewritten(&["http keep"], "Host: a\r\n"), format!("Host: a\r\n{OURS}"));
    let some = "X-Forwarded-For: 192.0.2.1\r\n";
    let expected = format!("{some}X-Forwarded-Proto: http\r\n{FORWARDED}");
    assert_eq!(rewritten(&["http keep forwarded"], some), expected);
}

/// pen(1), http forwarded: RFC 7239's header as well.
#[test]
fn forwarded_is_added_when_it_is_wanted() {
    only_ours!("it has no Forwarded");
    assert_eq!(rewritten(&["http forwarded"], ""), format!("{OURS}{FORWARDED}"));
    assert_eq!(rewritten(&["http forwarded", "no http forwarded"], ""), OURS);
}

/// pen(1), -H: clients with IPv6, in the form of each header; and those with IPv4 on a listener for both.
#[test]
fn ipv6_clients_are_named_too() {
    only_ours!("it has no Forwarded");
    let server = echo();
    for (listen, to, address, forwarded) in [
        ("[::1]:PORT", "::1", "::1", "\"[::1]\""),
        ("[::]:PORT", "::1", "::1", "\"[::1]\""),
        ("[::]:PORT", "127.0.0.1", "127.0.0.1", "127.0.0.1"),
    ] {
        let pen = http(&["http forwarded"]).listen(listen).servers([&server]).start();
        let stream = std::net::TcpStream::connect((to, pen.address.port())).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let head = Talk::over(stream).echoed("GET / HTTP/1.1\r\n\r\n");
        assert_eq!(values(&head, "x-forwarded-for"), [address], "{listen}");
        assert_eq!(values(&head, "forwarded"), [format!("for={forwarded};proto=http")], "{listen}");
    }
}

/// pen(1), -H: a client on a Unix socket has no address.
#[test]
fn clients_on_a_unix_socket_are_unknown() {
    only_ours!("it has no Forwarded");
    let (server, files) = (echo(), Scratch::new());
    let path = files.file("socket");
    let _pen = http(&["http forwarded"]).listen(&path).servers([&server]).start();
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(values(answer.split_once("\r\n\r\n").unwrap().1, "x-forwarded-for"), ["unknown"], "{answer}");
    assert!(answer.contains("\r\nForwarded: for=unknown;proto=http\r\n"), "{answer}");
}

/// pen(1), http, no http: at run time, for connections from then on.
#[test]
fn headers_can_be_turned_on_and_off() {
    only_ours!("it looks at every piece that it reads");
    let server = echo();
    let pen = Pen::with(&[]).servers([&server]).controlled().start();
    let plain = "GET / HTTP/1.1\r\n\r\n";
    let before = Talk::with(&pen);
    assert_eq!(before.echoed(plain), plain);
    pen.tell("http");
    let during = Talk::with(&pen);
    assert_eq!(during.echoed(plain), with(OURS, plain));
    assert_eq!(before.echoed(plain), plain);
    pen.tell("no http");
    assert_eq!(Talk::with(&pen).echoed(plain), plain);
    assert_eq!(during.echoed(plain), with(OURS, plain));
}

/// pen(1), REQUEST LOG: with -H each request has its line, however it comes, and nothing else has.
#[test]
fn each_request_has_a_line_in_the_log() {
    only_ours!("it writes a line for each piece that it reads");
    let (server, files) = (echo(), Scratch::new());
    let log = files.file("log");
    let pen = Pen::with(&["-H", "-l", &log]).servers([&server]).workers(1).start();
    let talk = Talk::with(&pen);
    talk.say("GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET /x HTTP/1.1\r\n\r\n\r\nGET /3 HT");
    wait_until("it is read", || processes::has_read_all(talk.stream()));
    talk.say("TP/1.1\r\n\r\nPUT /4 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    wait_until("it is read", || processes::has_read_all(talk.stream()));
    (0..3).for_each(|_| drop(talk.response()));
    talk.say("3\r\nGET\r\n");
    wait_until("it is read", || processes::has_read_all(talk.stream()));
    talk.say("0\r\n\r\nGET /5 HTTP/1.0\r\n\r\nGET bad\r\n\r\n");
    (0..2).for_each(|_| drop(talk.response()));
    assert_eq!(talk.response().status, 400);
    Talk::with(&pen).echoed("GET /6 HTTP/1.1\r\n\r\n");
    let count = || files.read("log").lines().count();
    wait_until("the log has its lines", || count() >= 6);
    let text = files.read("log");
    let requests: Vec<_> = text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap()).collect();
    let expected = ["GET /1 ", "POST /2 ", "GET /3 ", "PUT /4 ", "GET /5 ", "GET /6 "];
    assert_eq!(requests.len(), expected.len(), "{text}");
    assert!(requests.iter().zip(expected).all(|(line, begin)| line.starts_with(begin)), "{text}");
}

/// pen(1), REQUEST LOG: what is not HTTP has a line for each turn, with -H too.
#[test]
fn other_protocols_have_a_line_for_each_turn() {
    only_ours!("it writes a line for each piece that it reads");
    let (s, files) = (greeters(1), Scratch::new());
    let log = files.file("log");
    let pen = Pen::with(&["-H", "-l", &log]).servers(&s).workers(1).start();
    let client = pen.hold();
    assert!(client.echoes() && client.echoes());
    wait_until("the log has its lines", || files.read("log").lines().count() == 2);
    assert!(files.read("log").lines().all(|line| line.ends_with(" are you there?")), "{}", files.read("log"));
}

/// A server that is slow to answer does not keep its client from being heard, nor the other way round.
#[test]
fn requests_are_passed_on_before_the_answers_to_earlier_ones() {
    let (seen, heads) = channel();
    let (allow, allowed) = channel::<()>();
    let (seen, allowed) = (Mutex::new(seen), Mutex::new(allowed));
    let server = Backend::serving("S", move |visit| {
        for _ in 0..3 {
            visit.read_head();
            seen.lock().unwrap().send(()).unwrap();
        }
        let _ = allowed.lock().unwrap().recv();
        (&visit.stream).write_all(&response("200 OK", b"x").repeat(3)).unwrap();
    });
    let pen = http(&[]).servers([&server]).start();
    let talk = Talk::with(&pen);
    talk.say("GET /1 HTTP/1.1\r\n\r\nHEAD /2 HTTP/1.1\r\n\r\n");
    talk.say("GET /3 HTTP/1.1\r\n\r\n");
    (0..3).for_each(|_| heads.recv_timeout(SOON).expect("the server hears of it"));
    allow.send(()).unwrap();
    assert_eq!(talk.response().body, b"x");
}

/// An idle connection is not one whose head takes too long.
#[test]
fn between_requests_a_client_may_be_silent() {
    only_ours!("it has no http_head_timeout");
    let server = echo();
    let pen = http(&["http_head_timeout 1"]).servers([&server]).start();
    let (talk, silent) = (Talk::with(&pen), Talk::with(&pen));
    let plain = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(talk.echoed(plain), with(OURS, plain));
    // Half a body has all the time there is, too.
    let (head, rest) = plain.split_at(plain.len() - 1);
    talk.say(head);
    let_pass(std::time::Duration::from_millis(2500));
    assert_eq!(talk.echoed(rest), with(OURS, plain));
    assert_eq!(talk.echoed(plain), with(OURS, plain));
    assert_eq!(silent.echoed(plain), with(OURS, plain));
}
