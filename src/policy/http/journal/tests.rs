use proptest::prelude::*;

use super::super::head::HeadRules;
use super::super::{Exchange, Outgoing};
use super::*;
use crate::model::address::ClientAddress;
use crate::model::http::HttpSettings;

fn exchange() -> Exchange {
    let client = ClientAddress::Inet([192, 0, 2, 7].into(), 4711);
    Exchange::new(HeadRules::new(&HttpSettings::default(), &client, false), 2048)
}

/// An exchange whose clock goes on by one with every piece.
struct Noted {
    exchange: Exchange,
    now: u64,
    sent: u64,
}

impl Noted {
    fn new() -> Self {
        Noted { exchange: exchange(), now: 0, sent: 0 }
    }

    fn tick(&mut self) {
        self.now += 1;
        self.exchange.keep_journal(Moment(self.now));
    }

    fn ask(&mut self, bytes: &[u8]) {
        self.tick();
        let mut out = Outgoing::default();
        out.begin(false);
        self.exchange.request_bytes(bytes, &mut out, &mut |_| ());
        self.sent += out.pieces(bytes).map(|piece| piece.len() as u64).sum::<u64>();
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.tick();
        self.exchange.response_bytes(bytes);
    }

    fn over(&mut self) -> Vec<(String, Option<u16>, Ended)> {
        let over = self.exchange.take_over();
        over.iter().map(|told| (text(told), told.status, told.ended)).collect()
    }
}

fn text(told: &Told) -> String {
    String::from_utf8_lossy(&told.text).into_owned()
}

fn answered(line: &str, status: u16) -> (String, Option<u16>, Ended) {
    (line.to_owned(), Some(status), Ended::Answered)
}

#[test]
fn a_request_is_over_with_its_response_and_times_and_bytes_are_its_own() {
    let mut one = Noted::new();
    one.ask(b"GET / HTTP/1.1\r\n");
    one.ask(b"\r\n");
    one.answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na");
    assert_eq!(one.over(), []);
    one.answer(b"bc\r\n");
    let over = one.exchange.take_over();
    assert_eq!((over[0].began, over[0].ended_at), (Moment(2), Moment(4)));
    assert_eq!((over[0].up, over[0].status, over.len()), (one.sent, Some(200), 1));
    let response = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(over[0].down, response.len() as u64, "an empty line too many is nobody's");
}

#[test]
fn an_answer_before_the_end_of_its_request_waits_for_that() {
    let mut one = Noted::new();
    one.ask(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab");
    one.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(one.over(), []);
    one.ask(b"cd");
    let over = one.exchange.take_over();
    assert_eq!((over[0].ended_at, over[0].up), (Moment(2), one.sent));
}

#[test]
fn what_was_refused_comes_behind_what_is_answered() {
    let mut one = Noted::new();
    one.ask(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\nContent-Length: x\r\n\r\n");
    assert!(one.exchange.refusal().is_some());
    one.answer(b"HTTP/1.1 204 No\r\n\r\n");
    assert_eq!(one.over(), [answered("GET /1 HTTP/1.1", 204)]);
    one.exchange.answered_here(400, 7);
    assert_eq!(one.over(), [("GET /2 HTTP/1.1".to_owned(), Some(400), Ended::BadRequest)]);
    one.exchange.end(Ended::BadRequest);
    assert_eq!(one.over(), []);
}

#[test]
fn what_nobody_answers_ends_with_its_connection() {
    let mut one = Noted::new();
    one.ask(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HT");
    one.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    one.exchange.end(Ended::ServerReset);
    let reset = |line: &str, status| (line.to_owned(), status, Ended::ServerReset);
    assert_eq!(one.over(), [reset("GET /1 HTTP/1.1", Some(200)), reset("GET /2 HTTP/1.1", None)]);
}

#[test]
fn memory_is_bounded_when_nobody_answers() {
    let mut one = Noted::new();
    let mut count = 0;
    while one.exchange.is_open() {
        one.ask(b"GET / HTTP/1.1\r\n\r\n");
        count += 1;
        assert!(count <= MOST);
    }
    one.answer(&b"HTTP/1.1 204 No\r\n\r\n".repeat(count));
    assert!(one.exchange.is_open());
    assert_eq!(one.over().len(), count);
    // Nor is it when nobody knows what an answer is.
    one.ask(b"GET / HTTP/1.1\r\n\r\n");
    one.answer(b"hello");
    for _ in 0..10 * MOST {
        one.ask(b"GET / HTTP/1.1\r\n\r\n");
        assert!(one.exchange.is_open() && !one.over().is_empty());
    }
}

#[test]
fn a_journal_begins_between_two_requests() {
    let mut one = Noted::new();
    let mut out = Outgoing::default();
    out.begin(false);
    one.exchange.request_bytes(b"GET /1 HTTP/1.1\r\n\r\n", &mut out, &mut |_| ());
    one.ask(b"GET /2 HTTP/1.1\r\n\r\n");
    one.answer(b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 204 No\r\n\r\n");
    one.ask(b"GET /3 HTTP/1.1\r\n\r\n");
    one.answer(b"HTTP/1.1 204 No\r\n\r\n");
    assert_eq!(one.over(), [answered("GET /3 HTTP/1.1", 204)]);
}

proptest! {
    /// Wherever the two streams are cut, the same requests have the same ends, and each byte is of one of them.
    #[test]
    fn what_is_told_does_not_depend_on_where_the_streams_are_cut(
        kinds in prop::collection::vec(0..5_usize, 1..12),
        cut in 1..60_usize,
    ) {
        let requests = [
            "GET /0 HTTP/1.1\r\n\r\n",
            "HEAD /1 HTTP/1.1\r\n\r\n",
            "POST /2 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "PUT /3 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "GET /4 HTTP/1.1\r\n\r\n",
        ];
        let responses = [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 301 Go\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "HTTP/1.1 304 Same\r\n\r\n",
        ];
        let statuses = [200, 301, 201, 500, 304];
        let asked: String = kinds.iter().map(|kind| requests[*kind]).collect();
        let answered_with: String = kinds.iter().map(|kind| responses[*kind]).collect();
        let mut one = Noted::new();
        asked.as_bytes().chunks(cut).for_each(|piece| one.ask(piece));
        answered_with.as_bytes().chunks(cut).for_each(|piece| one.answer(piece));
        let over = one.exchange.take_over();
        let seen: Vec<_> = over.iter().map(|told| (text(told), told.status, told.ended)).collect();
        let expected: Vec<_> = kinds
            .iter()
            .map(|kind| answered(requests[*kind].lines().next().unwrap(), statuses[*kind]))
            .collect();
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(over.iter().map(|told| told.up).sum::<u64>(), one.sent);
        prop_assert_eq!(over.iter().map(|told| told.down).sum::<u64>(), answered_with.len() as u64);
    }
}

/// Its body would never come.
#[test]
fn one_request_with_a_long_text_holds_nobody_up() {
    let client = ClientAddress::Inet([192, 0, 2, 7].into(), 4711);
    let mut one = Noted::new();
    one.exchange = Exchange::new(HeadRules::new(&HttpSettings::default(), &client, false), 1 << 20);
    let long = format!("POST /{} HTTP/1.1\r\nContent-Length: 2\r\n\r\n", "x".repeat(MOST_TEXT));
    one.ask(long.as_bytes());
    assert!(one.exchange.is_open());
    one.ask(b"ab");
    assert!(one.exchange.is_open());
    one.ask(b"GET / HTTP/1.1\r\n\r\n");
    assert!(!one.exchange.is_open(), "two of them are enough");
    one.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert!(one.exchange.is_open());
}

/// By whichever way they go by.
#[test]
fn what_follows_an_answer_that_is_none_is_not_counted() {
    for skipped in [false, true] {
        let mut one = Noted::new();
        one.ask(b"GET /1 HTTP/1.1\r\n\r\n");
        one.answer(b"nonsense");
        one.ask(b"POST /2 HTTP/1.1\r\nContent-Length: 2\r\n\r\na");
        match skipped {
            true => one.exchange.skip_responses(3),
            false => one.answer(b"abc"),
        }
        one.ask(b"b");
        let over = one.exchange.take_over();
        assert_eq!(over.iter().map(|told| told.down).collect::<Vec<_>>(), [0, 0], "{skipped}");
    }
}
