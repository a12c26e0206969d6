use proptest::prelude::*;

use super::*;

/// The first bytes that are a body's, or why they are none: whatever pieces of whatever size they come in.
fn chunked(stream: &[u8]) -> Result<Option<usize>, Malformed> {
    let whole = follow(stream, &[stream.len()]);
    assert_eq!(follow(stream, &[1]), whole, "byte by byte");
    for cut in 1..stream.len().min(300) {
        assert_eq!(follow(stream, &[cut, stream.len()]), whole, "cut at {cut}");
    }
    whole
}

/// Where the body ends, if it does.
fn follow(stream: &[u8], sizes: &[usize]) -> Result<Option<usize>, Malformed> {
    let mut body = Body::Chunked(Chunked::default());
    let mut sizes = sizes.iter().cycle();
    let mut at = 0;
    while at < stream.len() {
        let end = stream.len().min(at + sizes.next().unwrap());
        let passed = body.pass(&stream[at..end])?;
        at += passed;
        if body.is_over() {
            assert_eq!((body.unseen(), body.pass(b"0\r\n\r\n")), (0, Ok(0)));
            return Ok(Some(at));
        }
        assert_eq!(at, end, "a body takes all that comes before its end");
    }
    Ok(None)
}

fn is_whole(body: &str) {
    let stream = [body.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
    assert_eq!(chunked(&stream), Ok(Some(body.len())), "{body:?}");
}

fn is_malformed(body: &str) {
    assert!(chunked(body.as_bytes()).is_err(), "{body:?}");
}

#[test]
fn a_length_is_counted_down() {
    let mut body = Body::Length(10);
    assert_eq!((body.pass(b"GET / "), body.unseen()), (Ok(6), 4));
    body.skip(3);
    assert!(!body.is_over());
    assert_eq!(body.pass(b"!GET"), Ok(1));
    assert!(body.is_over());
    assert_eq!((body.pass(b"GET"), body.unseen()), (Ok(0), 0));
}

#[test]
fn the_longest_length_is_counted_down_too() {
    let mut body = Body::Length(u64::MAX);
    body.skip(u64::MAX - 1);
    assert_eq!(body.pass(b"ab"), Ok(1));
    assert!(body.is_over());
}

#[test]
fn no_body_is_over_at_once_and_the_rest_never() {
    assert!(Body::None.is_over() && Body::Length(0).is_over());
    assert_eq!((Body::None.pass(b"GET"), Body::None.unseen()), (Ok(0), 0));
    let mut rest = Body::Rest;
    assert_eq!((rest.pass(b"0\r\n\r\n"), rest.unseen(), rest.is_over()), (Ok(5), u64::MAX, false));
    rest.skip(u64::MAX);
    assert_eq!(rest, Body::Rest);
}

#[test]
fn chunks_end_with_the_empty_one_and_its_trailers() {
    is_whole("0\r\n\r\n");
    is_whole("5\r\nhello\r\n0\r\n\r\n");
    is_whole("A\r\n0\r\n\r\n12345\r\na\r\n\r\n\r\n\r\n\r\n\r\n\r\n00\r\n\r\n");
    is_whole("0000000000000003;name=\"va;l\\\"ue\" ; other\r\nabc\r\n0;last\r\n\r\n");
    is_whole("3 \t\r\nabc\r\n0  ; x\r\n\r\n");
    is_whole("0\r\nServer-Timing: 12\r\nX:\r\nY: \t\"\u{e9}\"\r\n\r\n");
}

#[test]
fn what_two_servers_could_read_differently_is_no_chunk() {
    for line in [
        "\r\n",
        "\n",
        " 5\r\n",
        "5\n",
        "5\r\r\n",
        "+5\r\n",
        "-5\r\n",
        "0x5\r\n",
        "5,\r\n",
        "5 5\r\n",
        "g\r\n",
        ";a\r\n",
        "5;\n",
        "5;a\rb\r\n",
        "5;a\nb\r\n",
        "5;a\0\r\n",
        "5\0\r\n",
        "5 \n",
        "5h\r\n",
        "\"5\"\r\n",
        "5\u{b}\r\n",
        "٥\r\n",
        "5;\u{7f}\r\n",
    ] {
        is_malformed(&format!("{line}hello\r\n0\r\n\r\n"));
        is_malformed(&format!("3\r\nabc\r\n{line}hello\r\n0\r\n\r\n"));
    }
    for end in ["", "\n", "\r", "x\r\n", "xx", "\r\r", "\n\r"] {
        is_malformed(&format!("5\r\nhello{end}0\r\n\r\n"));
    }
    for trailers in [
        "\n",
        "a: b\n\r\n",
        "a: b\r\r\n\r\n",
        "a: b\rc\r\n\r\n",
        "a\r\n\r\n",
        "a : b\r\n\r\n",
        ": b\r\n\r\n",
        "a: b\r\n c\r\n\r\n",
        "\ta: b\r\n\r\n",
        "a: \0\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "\r\r\n",
        "\rGET",
        "a\0: b\r\n\r\n",
        "\u{e9}: b\r\n\r\n",
    ] {
        is_malformed(&format!("0\r\n{trailers}"));
    }
}

#[test]
fn sizes_are_bounded() {
    is_malformed("00000000000000000\r\n\r\n");
    is_malformed("8000000000000000\r\n");
    is_malformed("ffffffffffffffff\r\n");
    is_malformed("10000000000000005\r\nhello");
    let mut body = Body::Chunked(Chunked::default());
    assert_eq!(body.pass(b"7fffffffffffffff\r\n0\r\n\r\n"), Ok(23));
    assert_eq!(body.unseen(), i64::MAX as u64 - 5);
}

#[test]
fn lines_and_trailers_are_bounded() {
    let longest = LONGEST_LINE as usize;
    is_whole(&format!("0;{}\r\n\r\n", "x".repeat(longest - 2)));
    is_malformed(&format!("0;{}\r\n\r\n", "x".repeat(longest - 1)));
    is_malformed(&format!("0{}\r\n\r\n", " ".repeat(longest)));
    let field = |length: usize| format!("a:{}\r\n", "x".repeat(length - 2));
    is_whole(&format!("0\r\n{}\r\n", field(longest).repeat(8)));
    is_malformed(&format!("0\r\n{}\r\n", field(longest + 1)));
    is_malformed(&format!("0\r\n{}\r\n", field(longest).repeat(8) + &field(2)));
    is_malformed(&format!("0\r\n{}:\r\n\r\n", "x".repeat(longest)));
}

#[test]
fn the_data_of_a_chunk_can_be_skipped() {
    let mut body = Body::Chunked(Chunked::default());
    assert_eq!((body.pass(b"1"), body.unseen()), (Ok(1), 0));
    assert_eq!((body.pass(b"000\r\nabc"), body.unseen()), (Ok(8), 0x1000 - 3));
    body.skip(0x1000 - 4);
    assert_eq!(body.unseen(), 1);
    body.skip(1);
    assert_eq!((body.unseen(), body.is_over()), (0, false));
    assert_eq!(body.pass(b"\r\n0\r\n\r\nGET"), Ok(7));
    assert!(body.is_over());
}

#[test]
fn what_is_malformed_remains_so() {
    let mut body = Body::Chunked(Chunked::default());
    let first = body.pass(b"5\nhello");
    assert!(first.is_err());
    assert_eq!(body.pass(b"\r\n0\r\n\r\n"), first);
    assert_eq!((body.unseen(), body.is_over()), (0, false));
}

/// A body, chunk by chunk.
fn bodies() -> impl Strategy<Value = String> {
    let chunk = ("[ -~\r\n]{1,40}", "( {0,2};[ -~]{0,9})?", any::<bool>());
    let chunks = prop::collection::vec(chunk, 0..6);
    (chunks, "0{1,9}(;x)?\r\n(Trailer-1: ?[ -~]{0,9}\r\n){0,3}\r\n").prop_map(|(chunks, last)| {
        let chunks = chunks.iter().map(|(data, extension, upper)| match upper {
            true => format!("{:X}{extension}\r\n{data}\r\n", data.len()),
            false => format!("{:02x}{extension}\r\n{data}\r\n", data.len()),
        });
        chunks.collect::<String>() + &last
    })
}

proptest! {
    #[test]
    fn bodies_end_where_they_end_however_they_are_cut(body in bodies(), behind in "[ -~\r\n]{0,9}") {
        prop_assert_eq!(chunked(format!("{body}{behind}").as_bytes()), Ok(Some(body.len())));
    }

    #[test]
    fn skipping_is_passing(body in bodies(), steps in prop::collection::vec(1_usize..20, 1..20)) {
        let mut passed = Body::Chunked(Chunked::default());
        let mut skipped = passed.clone();
        let mut rest = body.as_bytes();
        for step in steps.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(rest.len().min(*step));
            prop_assert_eq!(passed.pass(piece), Ok(piece.len()));
            let unseen = usize::try_from(skipped.unseen()).unwrap().min(piece.len());
            skipped.skip(unseen as u64);
            prop_assert_eq!(skipped.pass(&piece[unseen..]), Ok(piece.len() - unseen));
            prop_assert_eq!(&passed, &skipped);
            rest = after;
        }
        prop_assert!(passed.is_over());
    }

    #[test]
    fn any_bytes_are_followed_the_same_however_they_are_cut(
        stream in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            "[0-9a-f;\r\n: ]{0,60}".prop_map(String::into_bytes),
            (bodies(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(body, at, byte)| {
                let mut body = body.into_bytes();
                let at = at.index(body.len());
                body[at] = byte;
                body
            }),
        ]
    ) {
        let _ = chunked(&stream);
    }
}
