use super::*;
use crate::model::address::ClientAddress;
use crate::model::http::HttpSettings;

/// What became of a client's bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    sent: Vec<u8>,
    heads: Vec<Vec<u8>>,
    refusal: Option<Refusal>,
    foreign: bool,
}

fn exchange() -> Exchange {
    let client = ClientAddress::Inet([192, 0, 2, 7].into(), 4711);
    Exchange::new(HeadRules::new(&HttpSettings::default(), &client, false), 2048)
}

fn give(exchange: &mut Exchange, chunk: &[u8], outcome: &mut Outcome) {
    let mut out = Outgoing::default();
    out.begin(false);
    exchange.request_bytes(chunk, &mut out, &mut |head| outcome.heads.push(head.to_vec()));
    out.pieces(chunk).for_each(|piece| outcome.sent.extend_from_slice(piece));
    outcome.refusal = exchange.refusal();
}

fn resume(exchange: &mut Exchange, outcome: &mut Outcome) -> bool {
    let mut out = Outgoing::default();
    out.begin(false);
    let resumed = exchange.resume(&mut out, &mut |head| outcome.heads.push(head.to_vec()));
    out.pieces(&[]).for_each(|piece| outcome.sent.extend_from_slice(piece));
    outcome.refusal = exchange.refusal();
    resumed
}

fn end(exchange: &mut Exchange, outcome: &mut Outcome) {
    let mut out = Outgoing::default();
    out.begin(false);
    exchange.end_of_requests(&mut out, &mut |head| outcome.heads.push(head.to_vec()));
    out.pieces(&[]).for_each(|piece| outcome.sent.extend_from_slice(piece));
}

/// All of `stream`, in chunks that end at `cuts`, and its end.
fn run(stream: &[u8], cuts: impl IntoIterator<Item = usize>) -> Outcome {
    let (mut exchange, mut outcome) = (exchange(), Outcome::default());
    let mut from = 0;
    for cut in cuts.into_iter().chain([stream.len()]) {
        give(&mut exchange, &stream[from..cut], &mut outcome);
        from = cut;
    }
    end(&mut exchange, &mut outcome);
    outcome.foreign = exchange.is_foreign();
    outcome
}

const OURS: &str = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n";

/// With `@` where our lines belong.
fn with_ours(text: &str) -> Vec<u8> {
    text.replace('@', OURS).into_bytes()
}

/// Streams of clients, with what goes to the server, `@` standing for our lines, and why they end.
fn streams() -> Vec<(Vec<u8>, Vec<u8>, Option<&'static str>)> {
    let good = [
        "GET / HTTP/1.1\r\nHost: a\r\n@\r\n",
        "GET /1 HTTP/1.1\r\n@\r\nGET /2 HTTP/1.1\r\n@\r\nDELETE /3 HTTP/1.0\r\nA: b\r\n@\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 31\r\n@\r\nGET / HTTP/1.1\r\nHost: body\r\n\r\n!PUT / HTTP/1.1\r\n@\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n@\r\n5;a=b\r\nGET /\r\n10\r\n HTTP/1.1\r\n\r\nX-F\r\n0\r\nTrailer: x\r\n\r\n\
         HEAD / HTTP/1.1\r\n@\r\n",
        "PUT /x HTTP/1.1\r\nContent-Length: 0\r\n@\r\nOPTIONS * HTTP/1.1\r\n@\r\n",
        "SSH-2.0-OpenSSH_9.2\r\nGET / HTTP/1.1\r\n\r\n",
        "\u{16}\u{3}\u{1} anything",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nwhatever follows",
        "no line at all",
        "\r\n\nSSH-2.0-x\n\r\n",
        "\r\n",
        "",
    ];
    let mut all: Vec<_> =
        good.iter().map(|text| (text.replace('@', "").into_bytes(), with_ours(text), None)).collect();
    let first = "GET / HTTP/1.1\r\n@\r\n";
    for bad in [
        "nonsense\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "GET / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\r\n c: d\r\n\r\n",
        " GET / HTTP/1.1\r\n\r\n",
    ] {
        let stream = [first.replace('@', "").as_bytes(), bad.as_bytes()].concat();
        all.push((stream, with_ours(first), Some("a head")));
    }
    all.push((b"\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec(), with_ours(first), None));
    let broken_chunk = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n@\r\n";
    let stream = [broken_chunk.replace('@', "").as_bytes(), b"zz\r\n"].concat();
    all.push((stream, with_ours(broken_chunk), Some("a chunk")));
    all
}

#[test]
fn what_goes_to_the_server_does_not_depend_on_where_the_stream_is_cut() {
    for (stream, expected, refused) in streams() {
        let shown = String::from_utf8_lossy(&stream).into_owned();
        let whole = run(&stream, []);
        assert_eq!(String::from_utf8_lossy(&whole.sent), String::from_utf8_lossy(&expected), "{shown:?}");
        assert_eq!(whole.refusal.is_some(), refused.is_some(), "{shown:?}: {:?}", whole.refusal);
        for cut in 0..=stream.len() {
            assert_same(&run(&stream, [cut]), &whole, &shown, cut);
        }
        assert_same(&run(&stream, 0..stream.len()), &whole, &shown, usize::MAX);
    }
}

fn assert_same(cut: &Outcome, whole: &Outcome, stream: &str, at: usize) {
    // What has gone before a refusal may be less of a body's framing when that came in one piece with what is wrong.
    match whole.refusal {
        None => assert_eq!(cut.sent, whole.sent, "{stream:?} cut at {at}"),
        Some(_) => assert!(cut.sent.starts_with(&whole.sent), "{stream:?} cut at {at}"),
    }
    assert_eq!(cut.refusal, whole.refusal, "{stream:?} cut at {at}");
    assert_eq!(cut.foreign, whole.foreign);
    // Of what is not HTTP, as much is shown as has come when that is found out.
    if !whole.foreign {
        assert_eq!(cut.heads, whole.heads, "{stream:?} cut at {at}");
    }
}

#[test]
fn the_bytes_after_an_upgrade_wait_for_what_the_server_says() {
    let upgrade = "GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (response, after, expected) in [
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "\u{1}\u{2}frame", "\u{1}\u{2}frame".to_owned()),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
            "GET /2 HTTP/1.1\r\n\r\n",
            format!("GET /2 HTTP/1.1\r\n{OURS}\r\n"),
        ),
    ] {
        let (mut exchange, mut outcome) = (exchange(), Outcome::default());
        give(&mut exchange, format!("{upgrade}{after}").as_bytes(), &mut outcome);
        assert!(!exchange.is_open() && !exchange.may_go_on());
        let sent = outcome.sent.len();
        assert!(outcome.sent.ends_with(format!("{OURS}\r\n").as_bytes()));
        assert!(!resume(&mut exchange, &mut outcome));
        exchange.response_bytes(response.as_bytes());
        assert!(exchange.may_go_on());
        assert!(resume(&mut exchange, &mut outcome));
        assert!(exchange.is_open());
        assert_eq!(String::from_utf8_lossy(&outcome.sent[sent..]), expected);
    }
}

#[test]
fn a_tunnel_is_one_only_when_the_server_says_so() {
    for (response, opaque) in [
        ("HTTP/1.1 200 Connection established\r\n\r\n", true),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", false),
    ] {
        let (mut exchange, mut outcome) = (exchange(), Outcome::default());
        give(&mut exchange, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", &mut outcome);
        exchange.response_bytes(response.as_bytes());
        assert!(resume(&mut exchange, &mut outcome));
        assert_eq!(exchange.requests_unseen() == u64::MAX, opaque);
        assert_eq!(exchange.responses_unseen() == u64::MAX, opaque);
    }
}

#[test]
fn a_bad_request_is_answered_when_the_responses_before_it_are_through() {
    let (mut exchange, mut outcome) = (exchange(), Outcome::default());
    give(&mut exchange, b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nHTTP/1.1 bad\r\n\r\n", &mut outcome);
    assert!(matches!(outcome.refusal, Some(Refusal::Bad(_))));
    assert!(!exchange.is_open());
    assert_eq!(exchange.turn(), Turn::NotYet);
    exchange.response_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    assert_eq!(exchange.turn(), Turn::NotYet);
    exchange.response_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
    assert_eq!(exchange.turn(), Turn::NotYet);
    exchange.response_bytes(b"2");
    assert!(matches!(exchange.turn(), Turn::Answer(Refusal::Bad(_))));
}

#[test]
fn a_bad_body_is_answered_without_waiting_for_a_response_that_cannot_come() {
    let (mut exchange, mut outcome) = (exchange(), Outcome::default());
    give(&mut exchange, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", &mut outcome);
    assert!(matches!(exchange.turn(), Turn::Answer(Refusal::Bad(_))));
}

#[test]
fn a_bad_request_after_something_that_is_no_response_is_not_answered() {
    let (mut exchange, mut outcome) = (exchange(), Outcome::default());
    give(&mut exchange, b"GET /1 HTTP/1.1\r\n\r\n", &mut outcome);
    exchange.response_bytes(b"what is this?\r\n\r\n");
    give(&mut exchange, b"bad\r\n\r\n", &mut outcome);
    assert_eq!(exchange.turn(), Turn::Close);
}

#[test]
fn a_head_that_has_begun_is_pending_until_it_ends() {
    let (mut exchange, mut outcome) = (exchange(), Outcome::default());
    assert!(!exchange.has_head_pending());
    for (chunk, pending) in [
        (&b"\r\n"[..], false),
        (b"\r", true),
        (b"\n", false),
        (b"G", true),
        (b"ET / HTTP/1.1\r\n\r", true),
        (b"\n", false),
        (b"P", true),
    ] {
        give(&mut exchange, chunk, &mut outcome);
        assert_eq!(exchange.has_head_pending(), pending, "{chunk:?}");
    }
    exchange.refuse(Refusal::Slow);
    assert!(!exchange.has_head_pending());
    assert_eq!(exchange.turn(), Turn::NotYet);
    exchange.response_bytes(b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(exchange.turn(), Turn::Answer(Refusal::Slow));
}

#[test]
fn a_head_that_is_too_long_is_refused_however_it_comes() {
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(3000));
    for cuts in [vec![], vec![2040], (0..long.len()).collect()] {
        let outcome = run(long.as_bytes(), cuts);
        assert_eq!(outcome.refusal, Some(Refusal::Bad("the head is too long")));
        assert!(outcome.sent.is_empty());
    }
    let empty = b"\r\n".repeat(1500);
    assert_eq!(run(&empty, [10]).refusal, Some(Refusal::Bad("nothing but empty lines")));
    let endless = [b'G'; 3000];
    assert_eq!(run(&endless, []).refusal, Some(Refusal::Bad("the head is too long")));
}

#[test]
fn bytes_that_are_skipped_count_as_if_they_had_been_seen() {
    let (mut exchange, mut outcome) = (exchange(), Outcome::default());
    give(&mut exchange, b"PUT / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n", &mut outcome);
    assert_eq!(exchange.requests_unseen(), 100_000);
    exchange.skip_requests(99_999);
    give(&mut exchange, b"!GET / HTTP/1.1\r\n\r\n", &mut outcome);
    assert_eq!(outcome.heads.len(), 2);
    exchange.response_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
    assert_eq!(exchange.responses_unseen(), 100_000);
    exchange.skip_responses(100_000);
    assert!(exchange.responses_unseen() < u64::MAX);
}
