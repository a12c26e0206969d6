use proptest::prelude::*;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";

/// What is known after this stream of responses to these requests, however it is cut.
fn after(kinds: &[Kind], stream: impl AsRef<[u8]>) -> Responses {
    let stream = stream.as_ref();
    let whole = follow(kinds, stream, &[stream.len()], false);
    assert_eq!(follow(kinds, stream, &[1], false), whole, "byte by byte");
    for cut in 1..stream.len().min(300) {
        assert_eq!(follow(kinds, stream, &[cut, stream.len()], false), whole, "cut at {cut}");
        assert_eq!(follow(kinds, stream, &[cut], true), whole, "in pieces of {cut}, skipped");
    }
    whole
}

fn follow(kinds: &[Kind], stream: &[u8], sizes: &[usize], skipping: bool) -> Responses {
    let mut responses = Responses::default();
    kinds.iter().for_each(|kind| responses.expect(*kind));
    let mut sizes = sizes.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        let unseen = match skipping {
            true => usize::try_from(responses.unseen()).unwrap().min(piece.len()),
            false => 0,
        };
        responses.skip(unseen as u64);
        responses.see(&piece[unseen..]);
        rest = after;
    }
    responses
}

/// These responses are all there, and nothing else.
fn answers(kinds: &[Kind], stream: &str) {
    let responses = after(kinds, stream);
    assert!(responses.is_between() && !responses.is_lost(), "{stream:?}: {responses:?}");
    assert_eq!((responses.outstanding(), responses.unseen()), (0, 0), "{stream:?}");
}

/// These are none.
fn loses(kinds: &[Kind], stream: impl AsRef<[u8]>) {
    let responses = after(kinds, stream.as_ref());
    assert!(responses.is_lost(), "{}: {responses:?}", stream.as_ref().escape_ascii());
    assert_eq!((responses.outstanding(), responses.unseen()), (0, u64::MAX));
    assert!(!responses.is_between() && !responses.is_full());
}

#[test]
fn nothing_is_known_before_the_first_response() {
    let mut responses = Responses::default();
    assert!(responses.is_between() && !responses.is_lost() && !responses.is_full());
    assert_eq!((responses.outstanding(), responses.unseen(), responses.verdict()), (0, 0, None));
    responses.expect(Kind::Plain);
    assert!(responses.is_between());
    assert_eq!(responses.outstanding(), 1);
}

#[test]
fn each_response_answers_a_request() {
    answers(&[Kind::Plain], OK);
    answers(&[Kind::Plain; 3], &OK.repeat(3));
    let responses = after(&[Kind::Plain; 3], OK.repeat(2));
    assert_eq!((responses.outstanding(), responses.is_between()), (1, true));
    let responses = after(&[Kind::Plain; 3], OK.repeat(2) + "HTTP");
    assert_eq!((responses.outstanding(), responses.is_between()), (1, false));
    let responses = after(&[Kind::Plain; 3], &OK[..OK.len() - 1]);
    assert_eq!((responses.outstanding(), responses.is_between(), responses.unseen()), (3, false, 1));
}

#[test]
fn bodies_are_as_long_as_rfc_9112_says() {
    let chunks = "3;x\r\nHTT\r\n0\r\nServer-Timing: 1\r\n\r\n";
    answers(&[Kind::Plain], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    answers(&[Kind::Plain], &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
    answers(&[Kind::Plain], &format!("HTTP/1.1 200 OK\r\ntransfer-encoding:gzip , Chunked\r\n\r\n{chunks}"));
    answers(
        &[Kind::Plain],
        &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
    );
    // The coding comes before the length …
    answers(
        &[Kind::Plain; 2],
        &format!("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{OK}"),
    );
    // … unless it is none.
    answers(&[Kind::Plain], "HTTP/1.0 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc");
    answers(&[Kind::Plain], "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3, 3\r\n\r\nabc");
    for head in [
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;q=1\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n",
    ] {
        let responses = after(&[Kind::Plain], format!("{head}{OK}"));
        assert_eq!((responses.outstanding(), responses.unseen()), (1, u64::MAX), "{head:?}");
        assert!(!responses.is_lost() && !responses.is_between());
    }
}

#[test]
fn some_responses_have_no_body_whatever_they_say() {
    let fields = "Content-Length: 500\r\nTransfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n";
    for status in ["204 No Content", "304 Not Modified"] {
        answers(&[Kind::Plain; 2], &format!("HTTP/1.1 {status}\r\n{fields}{OK}"));
    }
    answers(
        &[Kind::Head, Kind::Plain, Kind::Head],
        &format!("HTTP/1.1 200 OK\r\n{fields}{OK}HTTP/1.1 302 X\r\n\r\n"),
    );
}

#[test]
fn interim_responses_answer_nothing() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 7\r\n\r\n";
    answers(&[Kind::Plain; 2], &format!("{CONTINUE}{hints}{hints}{OK}{CONTINUE}{OK}"));
    let responses = after(&[Kind::Plain], CONTINUE);
    assert_eq!((responses.outstanding(), responses.is_between()), (1, true));
}

#[test]
fn an_upgrade_is_granted_by_101_alone() {
    let responses = after(&[Kind::Plain, Kind::Upgrade], format!("{OK}{SWITCHING}\u{81}\x05HTTP/"));
    assert_eq!((responses.verdict(), responses.unseen()), (Some(Verdict::Granted), u64::MAX));
    assert!(!responses.is_lost() && !responses.is_between() && !responses.is_full());
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    let mut responses = after(&[Kind::Upgrade], head);
    assert_eq!(responses.verdict(), Some(Verdict::Denied), "known before its body has come");
    responses.expect(Kind::Upgrade);
    assert_eq!(responses.verdict(), None);
    responses.see(b"ok");
    assert_eq!(responses.verdict(), None);
    responses.see(CONTINUE.as_bytes());
    assert_eq!(responses.verdict(), None);
    responses.see(SWITCHING.as_bytes());
    assert_eq!(responses.verdict(), Some(Verdict::Granted));
    loses(&[Kind::Plain], SWITCHING);
    loses(&[Kind::Connect], SWITCHING);
}

#[test]
fn the_last_request_of_its_kind_has_the_verdict() {
    let responses = after(&[Kind::Upgrade, Kind::Upgrade], OK);
    assert_eq!(responses.verdict(), None);
    let responses = after(&[Kind::Upgrade, Kind::Upgrade], OK.repeat(2));
    assert_eq!(responses.verdict(), Some(Verdict::Denied));
}

#[test]
fn a_tunnel_is_granted_by_any_2xx_without_a_body() {
    for code in [200, 201, 299] {
        let responses = after(&[Kind::Connect], format!("HTTP/1.1 {code}\r\nVia: x\r\n\r\nSSH-2.0-x\r\n"));
        assert_eq!((responses.verdict(), responses.unseen()), (Some(Verdict::Granted), u64::MAX));
    }
    for answer in [
        "200\r\nContent-Length: 2\r\n\r\nok",
        "200\r\nContent-Length: 0\r\n\r\n",
        "200\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "204\r\n\r\n",
    ] {
        let responses = after(&[Kind::Connect, Kind::Plain], format!("HTTP/1.1 {answer}"));
        assert_eq!((responses.verdict(), responses.outstanding()), (Some(Verdict::Denied), 1), "{answer:?}");
    }
    let denied = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno";
    let responses = after(&[Kind::Connect, Kind::Plain], format!("{CONTINUE}{denied}"));
    assert_eq!((responses.verdict(), responses.outstanding()), (Some(Verdict::Denied), 1));
}

#[test]
fn real_servers_are_understood() {
    answers(&[Kind::Plain], "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n\n");
    answers(&[Kind::Plain], "HTTP/1.0 200\nContent-Length: 2\n\nok");
    answers(&[Kind::Plain], "HTTP/1.1  200 OK\r\nContent-Length \t:2\r\n\r\nok");
    answers(&[Kind::Plain], "HTTP/1.1 999 \u{1}\u{7f}\tNein\r\ncontent-length:\t2 \r\n\r\nok");
    answers(&[Kind::Plain], "HTTP/1.1 200 \r\nnonsense\r\n: x\r\n(\r\nContent-Length: 2\r\n\r\nok");
    answers(
        &[Kind::Plain],
        "HTTP/1.1 200 \r\n folded\r\nX: a\r\n\tContent-Length: 9\r\nContent-Length: 2\r\n\r\nok",
    );
    answers(&[Kind::Plain], "HTTP/1.1 200 \r\nTransfer-Encoding: gzip,\r\n chunked\r\n\r\n0\r\n\r\n");
    answers(
        &[Kind::Plain],
        "HTTP/1.1 200 \r\nContent-Lengths: 7\r\nX-Content-Length: 7\r\nContent-Length: 2\r\n\r\nok",
    );
    let mut latin = b"HTTP/1.1 404 Nicht gef\xfcnd\xe9n\r\nX: \xff\0\r\nContent-Length: 2\r\n\r\nok".to_vec();
    assert!(after(&[Kind::Plain], &latin).is_between());
    latin.truncate(20);
    assert!(!after(&[Kind::Plain], &latin).is_lost());
}

#[test]
fn what_is_no_response_is_lost() {
    for stream in [
        "SSH-2.0-x\r\n",
        "HTTP/2 200\r\n",
        "HTTP/1.1 20\r\n",
        "HTTP/1.1 2000\r\n",
        "HTTP/1.1 099 x\r\n",
        "x",
        "HTTX",
        "HTTP/1.1200 OK\r\n",
        "HTTP/1.\r\n",
        "HTTP/1.x 200\r\n",
        "HTTP/1.1 200,\r\n",
        "ICY 200 OK\r\n",
        "HTT\r\nP/1.1",
        "HTTP/1.1 \u{661}00 x\r\n",
        " HTTP/1.1 200 OK\r\n",
        "HTTP/1.1\r\n\r\n",
        "\x15\x03\x03",
    ] {
        loses(&[Kind::Plain], stream);
        loses(&[Kind::Plain; 2], format!("{OK}{stream}"));
    }
    for length in [
        "",
        "+5",
        "-1",
        "5, 6",
        "5,",
        "5 5",
        "0x5",
        "9223372036854775808",
        "5\r\nContent-Length: 6",
        "5\r\n 5",
    ] {
        loses(&[Kind::Plain], format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
    }
    loses(&[Kind::Plain], "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    loses(&[Kind::Plain], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello");
}

#[test]
fn what_nobody_asked_for_is_lost() {
    loses(&[], OK);
    loses(&[], CONTINUE);
    loses(&[Kind::Plain], format!("{OK}{CONTINUE}"));
    loses(&[Kind::Plain], format!("{OK}HTTP/1.1 408 Request Timeout\r\n\r\n"));
    loses(&[Kind::Head], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
}

#[test]
fn who_is_lost_stays_so_and_denies() {
    let mut responses = after(&[Kind::Plain, Kind::Upgrade], "nonsense");
    assert_eq!(responses.verdict(), Some(Verdict::Denied));
    responses.see(OK.as_bytes());
    responses.skip(u64::MAX);
    (0..2 * MOST_REQUESTS).for_each(|_| responses.expect(Kind::Plain));
    assert!(responses.is_lost() && !responses.is_full());
    assert_eq!(after(&[], "nonsense").verdict(), None);
    let mut responses = after(&[], "nonsense");
    responses.expect(Kind::Connect);
    assert_eq!(responses.verdict(), Some(Verdict::Denied));
}

#[test]
fn heads_are_bounded() {
    let head = |length: usize| format!("HTTP/1.1 204 {}\r\n\r\n", "x".repeat(length - 17));
    let whole = |stream: &str, size| follow(&[Kind::Plain], stream.as_bytes(), &[size], false);
    for size in [1, 1000, LONGEST_HEAD - 1, LONGEST_HEAD, LONGEST_HEAD + 1] {
        assert!(whole(&head(LONGEST_HEAD), size).is_between());
        assert!(whole(&head(LONGEST_HEAD + 1), size).is_lost());
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(LONGEST_HEAD));
        assert!(whole(&endless, size).is_lost());
    }
}

#[test]
fn what_is_nearly_named_like_a_length_or_a_coding_is_none() {
    for field in [
        "Content-Lengt: 5",
        "Content-Language: de",
        "Content-Lengths: 5",
        "Transfer-Encodings: chunked",
        "C",
        "t",
    ] {
        let stream = format!("HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 2\r\n\r\nok");
        assert!(after(&[Kind::Plain], stream).is_between(), "{field}");
    }
    for field in [
        "CONTENT-LENGTH: 2",
        "content-length \t: 2",
        "cONTENT-lENGTH:2",
        "tRANSFER-eNCODING: identity\r\nContent-Length: 2",
    ] {
        let stream = format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\nok");
        assert!(after(&[Kind::Plain], stream).is_between(), "{field}");
    }
}

#[test]
fn a_queue_of_requests_is_bounded() {
    let mut responses = Responses::default();
    (1..MOST_REQUESTS).for_each(|_| responses.expect(Kind::Plain));
    assert!(!responses.is_full());
    responses.expect(Kind::Plain);
    assert!(responses.is_full());
    responses.see(OK.as_bytes());
    assert!(!responses.is_full());
    responses.see(OK.repeat(MOST_REQUESTS - 1).as_bytes());
    assert!(responses.is_between());
    assert_eq!(responses.outstanding(), 0);
    let kinds = [Kind::Plain, Kind::Head];
    (0..MOST_RUNS).zip(kinds.iter().cycle()).for_each(|(_, kind)| responses.expect(*kind));
    assert!(responses.is_full());
    responses.expect(Kind::Head);
    assert_eq!(responses.outstanding(), MOST_RUNS + 1);
    let heads = OK.strip_suffix("ok").unwrap();
    responses.see(format!("{OK}{heads}").repeat(MOST_RUNS / 2).as_bytes());
    assert_eq!((responses.outstanding(), responses.asked.later.capacity() <= KEPT_RUNS), (1, true));
}

#[test]
fn a_usual_response_takes_no_memory() {
    let mut responses = Responses::default();
    for _ in 0..3 {
        responses.expect(Kind::Plain);
        responses.expect(Kind::Plain);
        responses.see(OK.repeat(2).as_bytes());
        assert_eq!(responses.asked.later.capacity(), 0);
    }
    // Nor does the part of a head that has come, but for the line that is under way.
    responses.expect(Kind::Plain);
    responses.see(b"HTTP/1.1 200 OK\r\nServer: x\r\nDate");
    match &responses.stage {
        Stage::Head(head) => assert_eq!(head.line, b"Date"),
        stage => panic!("{stage:?}"),
    }
}

/// A response to a request of some kind, whole.
fn exchanges() -> impl Strategy<Value = (Kind, String)> {
    let fields = "(Server: [ -~]{0,9}\r\n|Date : x\r\n|C: \r\n \tfolded\r\n){0,3}";
    let interim = prop_oneof![4 => Just(String::new()), 1 => Just(CONTINUE.to_string())];
    let coded = |code: &str, field: String, body: String, fields: &str| {
        format!("HTTP/1.1 {code} Some Reason\r\n{fields}{field}\r\n{body}")
    };
    let length = move |body: &str| format!("Content-Length: {}\r\n", body.len());
    let response = (0..6, "[ -~\r\n]{0,20}", fields).prop_map(move |(shape, body, fields)| match shape {
        0 => (Kind::Plain, coded("200", length(&body), body, &fields)),
        1 => {
            let chunk = format!("{:x}\r\n{body}x\r\n0\r\n\r\n", body.len() + 1);
            (Kind::Plain, coded("200", "Transfer-Encoding: chunked\r\n".to_string(), chunk, &fields))
        }
        2 => (Kind::Head, coded("200", length(&body), String::new(), &fields)),
        3 => (Kind::Plain, coded("304", length(&body), String::new(), &fields)),
        4 => (Kind::Upgrade, coded("426", length(&body), body, &fields)),
        _ => (Kind::Connect, coded("403", length(&body), body, &fields)),
    });
    (interim, response).prop_map(|(interim, (kind, response))| (kind, interim + &response))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_sequence_of_responses_answers_its_requests(
        exchanges in prop::collection::vec(exchanges(), 0..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let kinds: Vec<Kind> = exchanges.iter().map(|(kind, _)| *kind).collect();
        let stream: String = exchanges.iter().map(|(_, response)| response.as_str()).collect();
        answers(&kinds, &stream);
        // Any beginning of it leaves as many as have not come to their end.
        let cut = cut.index(stream.len() + 1);
        let mut end = 0;
        let ends = exchanges.iter().map(|(_, response)| {
            end += response.len();
            end
        });
        let outstanding = ends.filter(|end| *end > cut).count();
        let responses = after(&kinds, &stream.as_bytes()[..cut]);
        prop_assert_eq!(responses.outstanding(), outstanding);
        prop_assert!(!responses.is_lost());
    }

    #[test]
    fn any_bytes_are_followed_the_same_however_they_are_cut(
        stream in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            (prop::collection::vec(exchanges(), 1..3), any::<prop::sample::Index>(), any::<u8>()).prop_map(
                |(exchanges, at, byte)| {
                    let mut stream: Vec<u8> =
                        exchanges.iter().flat_map(|(_, response)| response.bytes()).collect();
                    let at = at.index(stream.len());
                    stream[at] = byte;
                    stream
                }
            ),
        ],
        kinds in prop::collection::vec(
            prop::sample::select(vec![Kind::Plain, Kind::Head, Kind::Upgrade, Kind::Connect]),
            0..4
        ),
    ) {
        after(&kinds, &stream);
    }
}
