//! pen(1), -H: what is no request, or could be two, is answered by pen, and no server hears of it.

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::client::read_all;
use crate::support::http::{Talk, echo, recorded, recorder, response, values};
use crate::support::pen::Builder;
use crate::support::tls::{self, Client, TlsEnding};
use crate::support::{Backend, Ending, Pen, SOON, Scratch, let_pass, only_ours, processes, wait_until};

/// A pen with -H and these commands.
fn http(commands: &[&str]) -> Builder {
    let commands = commands.iter().flat_map(|command| ["-O", command]);
    Pen::with(&["-H"].into_iter().chain(commands).collect::<Vec<_>>())
}

/// Heads that nobody should send, each with the blank line.
const BAD_HEADS: &[&str] = &[
    // Two lengths, or none that is one.
    "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 5 5\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 18446744073709551621\r\n\r\n",
    "GET / HTTP/1.1\r\nContent_Length: 5\r\n\r\n",
    // Both.
    "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\n",
    // Codings that one server sees and another does not.
    "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked;q=1\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: \"chunked\"\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer_Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
    "POST / HTTP/1.1\r\n Transfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding\r\n : chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
    // Lines that are none.
    "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
    "GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
    "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
    "GET / HTTP/1.1\r\nX: a\r\r\n\r\n",
    "GET / HTTP/1.1\r\nX\r\n\r\n",
    "GET / HTTP/1.1\r\n: a\r\n\r\n",
    "GET / HTTP/1.1\r\nX Y: a\r\n\r\n",
    "GET / HTTP/1.1\r\nX\0: a\r\n\r\n",
    // Request lines that are none.
    " GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1 \r\n\r\n",
    "GET /\0 HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\rX: y\r\n\r\n",
    "GET / HTTP/2.0\r\n\r\n",
    "GET / HTTP/1.2\r\n\r\n",
    "GET / http/1.1\r\n\r\n",
    "GET /\r\n\r\n",
    "POST /\r\nContent-Length: 5\r\n\r\n",
    "GE(T / HTTP/1.1\r\n\r\n",
    "GET  HTTP/1.1\r\n\r\n",
    // A server would take them away.
    "GET / HTTP/1.1\r\nConnection: close, X-Forwarded-For\r\n\r\n",
    "GET / HTTP/1.1\r\nConnection: x-forwarded-proto\r\n\r\n",
];

/// What would get through if the body were understood in another way.
const HIDDEN: &str = "0\r\n\r\nGET /hidden HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";

/// pen(1), -H: heads and lengths that two servers could understand in two ways get 400, and the client is closed.
#[test]
fn no_server_hears_of_a_bad_head_or_of_what_is_behind_it() {
    only_ours!("it passes them on");
    let server = recorder(b"");
    let pen = http(&["debug 1"]).servers([&server]).workers(1).start();
    for (number, head) in BAD_HEADS.iter().enumerate() {
        let before = server.notes().len();
        let talk = Talk::with(&pen);
        talk.say(format!("{head}{HIDDEN}"));
        let answer = talk.response();
        assert_eq!((answer.status, values(&answer.head, "connection")), (400, vec!["close"]), "{head:?}");
        talk.stream().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(talk.rest(), (String::new(), Ending::EndOfStream), "{head:?}");
        wait_until("the server's connection ends", || server.notes().len() > before);
        assert_eq!(server.notes()[before..].concat(), "the end", "{head:?}");
        wait_until("it is told", || pen.stderr().matches("request refused").count() == number + 1);
    }
}

/// The same byte by byte, and behind a good request on the same connection.
#[test]
fn a_bad_head_is_bad_however_it_comes() {
    only_ours!("it passes them on");
    let server = echo();
    let pen = http(&[]).servers([&server]).workers(1).start();
    let good = "PUT /good HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    for (number, head) in BAD_HEADS.iter().enumerate() {
        let talk = Talk::with(&pen);
        talk.say(good);
        let (beginning, end) = head.split_at(number % head.len());
        talk.say(beginning);
        wait_until("it is read", || processes::has_read_all(talk.stream()));
        talk.say(end);
        assert_eq!(talk.response().status, 200);
        talk.is_refused(400);
    }
    assert!(server.notes().iter().all(|head| head.starts_with("PUT /good ")), "{:?}", server.notes());
}

/// Bodies that nobody should send, behind the head of a chunked one.
const BAD_BODIES: &[&str] = &[
    "5\nhello\r\n",
    "5\r\nhello\n",
    "5\r\nhelloX\r\n",
    "5;\n\r\nhello\r\n",
    "5;a\rb\r\nhello\r\n",
    "5\r\r\nhello\r\n",
    "+5\r\nhello\r\n",
    "0x5\r\nhello\r\n",
    "5 5\r\nhello\r\n",
    "\r\nhello\r\n",
    "10000000000000005\r\nhello\r\n",
    "ffffffffffffffff\r\nhello\r\n",
    "0\r\nGET /x HTTP/1.1\r\n\r\n",
    "0\r\nA: b\r\n c\r\n\r\n",
    "0\r\nA: b\n\r\n",
    "0\r\n\n",
];

/// pen(1), -H: the same for bodies: what is behind the place where it goes wrong reaches nobody.
#[test]
fn nothing_gets_through_behind_a_bad_body() {
    only_ours!("it passes them on");
    let server = recorder(b"");
    let pen = http(&[]).servers([&server]).workers(1).start();
    for body in BAD_BODIES {
        for apart in [false, true] {
            server.tally.notes.lock().unwrap().clear();
            let talk = Talk::with(&pen);
            talk.say("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
            if apart {
                wait_until("the head is there", || recorded(&server).ends_with("\r\n\r\n"));
            }
            talk.say(format!("{body}{HIDDEN}"));
            talk.is_refused(400);
            wait_until("the server's connection ends", || recorded(&server).ends_with("the end"));
            let heard = recorded(&server);
            assert!(
                !heard.contains("hidden") && heard.matches("HTTP/1.1").count() <= 1,
                "{body:?}: {heard:?}"
            );
        }
    }
}

/// pen(1), -H: a bad request is answered in its turn, after the responses to those before it: whatever these are.
#[test]
fn a_bad_request_is_answered_after_the_responses_before_it() {
    only_ours!("it passes it on");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let none = "Content-Length: 700\r\n\r\n";
    let responses = [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc".to_owned()),
        ("GET", format!("{chunked}3;x\r\nabc\r\n0\r\nT: u\r\n\r\n")),
        (
            "GET",
            format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{chunked}0\r\n\r\n"
            ),
        ),
        ("HEAD", format!("HTTP/1.1 200 OK\r\n{none}")),
        ("GET", format!("HTTP/1.1 304 Not Modified\r\n{none}")),
        ("DELETE", "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.0 200 OK\nServer : old\nContent-Length: 3\n\nabc".to_owned()),
    ];
    for cut in [None, Some(1), Some(17)] {
        for (method, answer) in &responses {
            let (asked, heard) = channel();
            let (allow, allowed) = channel::<()>();
            let (asked, allowed) = (Mutex::new(asked), Mutex::new(allowed));
            let bytes = answer.repeat(2).into_bytes();
            let server = Backend::serving("S", move |visit| {
                visit.read_head();
                visit.read_head();
                asked.lock().unwrap().send(()).unwrap();
                // Nothing of the third has come when this is said.
                let _ = allowed.lock().unwrap().recv();
                for piece in bytes.chunks(cut.unwrap_or(bytes.len())) {
                    (&visit.stream).write_all(piece).unwrap();
                }
                assert!(!visit.read_head());
            });
            let pen = http(&[]).servers([&server]).workers(1).start();
            let client = pen.connect();
            let request = format!("{method} / HTTP/1.1\r\n\r\n");
            (&client)
                .write_all(format!("{request}{request}GET / HTTP/1.1\r\nbad\r\n\r\n{request}").as_bytes())
                .unwrap();
            heard.recv_timeout(SOON).expect("two requests arrive");
            allow.send(()).unwrap();
            let (all, ending) = read_all(&client);
            let all = String::from_utf8(all).unwrap();
            let refusal =
                all.strip_prefix(&answer.repeat(2)).unwrap_or_else(|| panic!("{answer:?}: {all:?}"));
            assert!(refusal.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer:?}: {all:?}");
            assert_eq!(refusal.matches("HTTP/1.1").count(), 1, "{all:?}");
            assert_eq!(ending, Ending::EndOfStream);
            wait_until("the server has seen the end", || server.open() == 0);
            assert_eq!(server.notes().len(), 2);
        }
    }
}

/// A server that answers with something else cannot be followed: its client gets all of that, and nothing of pen.
#[test]
fn where_responses_cannot_be_told_apart_a_bad_request_just_ends_the_connection() {
    only_ours!("it passes it on");
    let server = Backend::serving("S", |visit| {
        visit.read_head();
        (&visit.stream).write_all(b"hello").unwrap();
        visit.read_head();
    });
    let pen = http(&[]).servers([&server]).start();
    let talk = Talk::with(&pen);
    talk.say("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(talk.read(5), b"hello");
    talk.say("GET / HTTP/1.1\r\nbad\r\n\r\n");
    assert_eq!(talk.rest(), (String::new(), Ending::EndOfStream));
    wait_until("the server has seen the end", || server.open() == 0);
    assert_eq!(server.notes().len(), 1);
}

/// A client that goes on sending after its bad request gets the answer all the same.
#[test]
fn a_client_that_does_not_listen_gets_its_answer() {
    only_ours!("it passes it on");
    let server = echo();
    let pen = http(&[]).servers([&server]).workers(1).start();
    let talk = Talk::with(&pen);
    talk.say(["GET / HTTP/1.1\r\nbad\r\n\r\n".as_bytes(), &[b'x'; 300_000]].concat());
    talk.is_refused(400);
    assert_eq!(server.notes(), [""; 0]);
    // Nobody else has noticed.
    assert!(Talk::with(&pen).echoed("GET / HTTP/1.1\r\n\r\n").contains("127.0.0.1"));
}

/// pen(1), http_head_max: a head of just so many bytes passes, and no longer one, however it comes.
#[test]
fn heads_have_a_greatest_length() {
    only_ours!("it has no http_head_max");
    let head = |length: usize| {
        let start = "GET / HTTP/1.1\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4))
    };
    let server = echo();
    for (commands, most) in
        [(&["http_head_max 1024"][..], 1024), (&[], 32_768), (&["http_head_max 1048576"], 1_048_576)]
    {
        let pen = http(commands).servers([&server]).workers(1).start();
        for apart in [false, true] {
            let talk = Talk::with(&pen);
            for (length, good) in [(most, true), (most - 1, true), (most + 1, false)] {
                let head = head(length);
                let (beginning, end) = head.split_at(if apart { most / 2 } else { 0 });
                talk.say(beginning);
                wait_until("it is read", || processes::has_read_all(talk.stream()));
                talk.say(end);
                match good {
                    true => assert_eq!(talk.response().status, 200, "{length}"),
                    false => talk.is_refused(400),
                }
            }
        }
        // Neither one that never ends.
        for endless in ["GET / HTTP/1.1\r\nX: ", "x", "GET /", "GET / HTTP/1.1\r\n"] {
            let talk = Talk::with(&pen);
            talk.say(format!("{endless}{}", "X: y\r".repeat(most / 5 + 1)));
            talk.is_refused(400);
        }
    }
    assert!(server.notes().iter().all(|head| head.starts_with("GET / HTTP/1.1\r\nX: xxx")));
}

/// pen(1), http_head_timeout: a head that has begun must end in time; between requests there is as much as there is.
#[test]
fn a_slow_head_is_given_up() {
    only_ours!("it has no http_head_timeout");
    let server = echo();
    let pen = http(&["http_head_timeout 1"]).servers([&server]).workers(1).start();
    let beginnings = ["G", "GET / HTTP/1.1\r\nHost: a", "GET / HTTP/1.1\r\n\r", "GET /"];
    let slow = beginnings.map(|beginning| {
        let (first, next) = (Talk::with(&pen), Talk::with(&pen));
        next.echoed("GET / HTTP/1.1\r\n\r\n");
        first.say(beginning);
        next.say(beginning);
        [first, next]
    });
    slow.as_flattened().iter().for_each(|talk| talk.is_refused(408));
    // Not more time for those who send something now and then.
    let drip = Talk::with(&pen);
    drip.say("GET / HTTP/1.1\r\n");
    let refused = || {
        drip.stream().set_nonblocking(true).unwrap();
        let refused = drip.stream().peek(&mut [0; 4]).is_ok();
        drip.stream().set_nonblocking(false).unwrap();
        refused
    };
    for _ in 0..200 {
        if refused() {
            break;
        }
        drip.say("X: y\r\n");
        let_pass(Duration::from_millis(20));
    }
    drip.is_refused(408);
    assert!(server.notes().iter().all(|head| head.starts_with("GET / HTTP/1.1\r\nX-Forwarded-For")));
}

/// The same for a client whose heads follow each other so closely that one has always begun: each has its own time.
#[test]
fn every_head_has_its_own_time() {
    only_ours!("it has no http_head_timeout");
    let server = echo();
    let pen = http(&["http_head_timeout 1"]).servers([&server]).workers(1).start();
    let talk = Talk::with(&pen);
    talk.say("GET / HT");
    for _ in 0..40 {
        let_pass(Duration::from_millis(50));
        talk.say("TP/1.1\r\n\r\nGET / HT");
        assert_eq!(talk.response().status, 200);
    }
    talk.is_refused(408);
}

/// The same for one whose next head is not read because the server does not take what came before it.
#[test]
fn a_head_that_the_server_keeps_waiting_is_not_slow() {
    only_ours!("it has no http_head_timeout");
    let (allow, allowed) = channel::<()>();
    let allowed = Mutex::new(allowed);
    let server = Backend::serving("S", move |visit| {
        let _ = allowed.lock().unwrap().recv();
        while visit.read_head() {
            (&visit.stream).write_all(&response("200 OK", b"")).unwrap();
        }
    });
    let pen = http(&["http_head_timeout 1"]).servers([&server]).workers(1).start();
    let talk = Talk::with(&pen);
    // Nothing but heads, so that wherever a read ends, it is within one.
    let request = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(30_000));
    let many = request.repeat(4);
    talk.stream().set_nonblocking(true).unwrap();
    let (mut sent, mut full) = (0, 0);
    while full < 250 {
        match talk.stream().write(&many.as_bytes()[sent % request.len()..]) {
            Ok(count) => (sent, full) = (sent + count, 0),
            Err(_) => {
                full += 1;
                let_pass(Duration::from_millis(10));
            }
        }
    }
    talk.stream().set_nonblocking(false).unwrap();
    allow.send(()).unwrap();
    let mut stream = talk.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| stream.write_all(&request.as_bytes()[sent % request.len()..]).unwrap());
        for _ in 0..=sent / request.len() {
            assert_eq!(talk.response().status, 200);
        }
    });
}

/// The last response before a refusal arrives whole, though the server ends its stream behind it and the client has sent
/// more than anybody reads: closing on that would be a reset.
#[test]
fn a_response_that_is_the_servers_last_arrives_before_a_bad_request_ends_the_connection() {
    only_ours!("it passes it on");
    const SIZE: usize = 1_000_000;
    let (allow, allowed) = channel::<()>();
    let allowed = Mutex::new(allowed);
    let server = Backend::serving("S", move |visit| {
        visit.read_head();
        let _ = allowed.lock().unwrap().recv();
        (&visit.stream).write_all(&response("200 OK", &vec![b'x'; SIZE])).unwrap();
    });
    let pen = http(&["debug 1"]).servers([&server]).workers(1).controlled().start();
    let talk = Talk::with(&pen);
    talk.say("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nbad\r\n\r\n");
    wait_until("it is refused", || pen.stderr().contains("request refused"));
    talk.say("more");
    allow.send(()).unwrap();
    // Pen has everything before the client reads a byte of it.
    wait_until("the server is gone", || server.open() == 0);
    assert_eq!(talk.response().body.len(), SIZE);
    assert_eq!(talk.rest().1, Ending::EndOfStream);
}

/// A slow head is answered in its turn, too.
#[test]
fn a_slow_head_is_answered_after_the_responses_before_it() {
    only_ours!("it has no http_head_timeout");
    let (allow, allowed) = channel::<()>();
    let allowed = Mutex::new(allowed);
    let server = Backend::serving("S", move |visit| {
        visit.read_head();
        let _ = allowed.lock().unwrap().recv();
        (&visit.stream).write_all(&response("200 OK", b"late")).unwrap();
        visit.read_head();
    });
    let pen = http(&["http_head_timeout 1", "debug 1"]).servers([&server]).workers(1).start();
    let talk = Talk::with(&pen);
    talk.say("GET / HTTP/1.1\r\n\r\nGET / HT");
    wait_until("it is told", || pen.stderr().contains("the head took too long"));
    allow.send(()).unwrap();
    assert_eq!(talk.response().body, b"late");
    talk.is_refused(408);
}

/// pen(1), -H: a client gets 400 too when its connection is encrypted.
#[test]
fn a_bad_request_over_tls_is_answered() {
    only_ours!("it passes it on");
    let (server, files) = (echo(), Scratch::new());
    let pen = tls::pen(&files, &["-H"]).servers([&server]).start();
    let mut secured = Client::usual().open(&pen);
    secured.send("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nbad\r\n\r\n");
    let (bytes, ending) = secured.read_all();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("X-Forwarded-Proto: https\r\n"), "{text}");
    assert_eq!((text.matches("HTTP/1.1 400").count(), ending), (1, TlsEnding::Declared), "{text}");
}
