use proptest::prelude::*;

use super::*;
use crate::model::address::ClientAddress;
use crate::model::http::{Existing, HttpSettings};

const EVERY: [Existing; 3] = [Existing::Append, Existing::Replace, Existing::Keep];

fn settings(existing: Existing, forwarded: bool) -> HttpSettings {
    HttpSettings { existing, forwarded, ..HttpSettings::default() }
}

fn client(address: &str) -> ClientAddress {
    ClientAddress::Inet(address.parse().unwrap(), 4711)
}

/// For 192.0.2.1, without TLS.
fn rules(existing: Existing, forwarded: bool) -> HeadRules {
    HeadRules::new(&settings(existing, forwarded), &client("192.0.2.1"), false)
}

/// What a head becomes, or why it is refused; then nothing of it goes.
fn rewritten(head: impl AsRef<[u8]>, rules: &HeadRules) -> Result<(Vec<u8>, Request), &'static str> {
    let mut out = b"before".to_vec();
    match rewrite(head.as_ref(), rules, &mut out) {
        Ok(request) => Ok((out.strip_prefix(b"before").unwrap().to_vec(), request)),
        Err(Malformed(reason)) => {
            assert_eq!(out, b"before");
            Err(reason)
        }
    }
}

/// The headers that a request goes with, having come with these: a line each.
fn headers(before: &str, rules: &HeadRules) -> String {
    let head = format!("GET / HTTP/1.1\r\n{}\r\n", before.replace('\n', "\r\n"));
    let (out, _) = rewritten(head, rules).unwrap();
    let out = String::from_utf8(out).unwrap();
    let out = out.strip_prefix("GET / HTTP/1.1\r\n").unwrap().strip_suffix("\r\n").unwrap();
    out.replace("\r\n", "\n")
}

fn request(head: impl AsRef<[u8]>) -> Result<Request, &'static str> {
    rewritten(head, &rules(Existing::Append, false)).map(|(_, request)| request)
}

const FOR: &str = "X-Forwarded-For: 192.0.2.1\n";
const PROTO: &str = "X-Forwarded-Proto: http\n";
const FORWARDED: &str = "Forwarded: for=192.0.2.1;proto=http\n";

#[test]
fn a_request_gets_headers_that_tell_of_the_client() {
    for existing in EVERY {
        let expected = format!("Host: a\nAccept: */*\n{FOR}{PROTO}");
        assert_eq!(headers("Host: a\nAccept: */*\n", &rules(existing, false)), expected);
        assert_eq!(headers("", &rules(existing, false)), format!("{FOR}{PROTO}"));
        assert_eq!(headers("A: b\n", &rules(existing, true)), format!("A: b\n{FOR}{PROTO}{FORWARDED}"));
    }
}

#[test]
fn every_kind_of_client_has_its_form() {
    let told = |client: ClientAddress, secured| {
        headers("", &HeadRules::new(&settings(Existing::Append, true), &client, secured))
    };
    assert_eq!(
        told(client("2001:db8::1"), true),
        "X-Forwarded-For: 2001:db8::1\nX-Forwarded-Proto: https\nForwarded: for=\"[2001:db8::1]\";proto=https\n"
    );
    assert_eq!(told(client("::ffff:192.0.2.1"), false), format!("{FOR}{PROTO}{FORWARDED}"));
    assert_eq!(
        told(ClientAddress::Unix, false),
        "X-Forwarded-For: unknown\nX-Forwarded-Proto: http\nForwarded: for=unknown;proto=http\n"
    );
}

#[test]
fn append_adds_the_client_to_the_list_in_its_line() {
    let rules = rules(Existing::Append, true);
    assert_eq!(
        headers("A: b\nx-forwarded-FOR:  1.1.1.1,2.2.2.2 \t\nHost: a\n", &rules),
        format!("A: b\nx-forwarded-FOR: 1.1.1.1,2.2.2.2, 192.0.2.1\nHost: a\n{PROTO}{FORWARDED}")
    );
    assert_eq!(
        headers("Forwarded: for=\"[::1]\";by=x\nHost: a\n", &rules),
        format!("Forwarded: for=\"[::1]\";by=x, for=192.0.2.1;proto=http\nHost: a\n{FOR}{PROTO}")
    );
}

#[test]
fn append_puts_the_client_into_an_empty_line() {
    for empty in ["X-Forwarded-For:\n", "X-Forwarded-For: \t \n", "X-Forwarded-For:\nX-Forwarded-For:\n"] {
        assert_eq!(headers(empty, &rules(Existing::Append, false)), format!("{FOR}{PROTO}"), "{empty:?}");
    }
    assert_eq!(headers("Forwarded:\n", &rules(Existing::Append, true)), format!("{FORWARDED}{FOR}{PROTO}"));
}

/// Who reads only the first, or only the last, must not miss a part of the list.
#[test]
fn append_makes_one_line_of_several_in_the_place_of_the_last() {
    assert_eq!(
        headers(
            "X-Forwarded-For: 1.1.1.1\nA: b\nX-Forwarded-For:\nx-forwarded-for: 2.2.2.2, 3.3.3.3\nC: d\n",
            &rules(Existing::Append, false)
        ),
        format!("A: b\nx-forwarded-for: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.1\nC: d\n{PROTO}")
    );
    assert_eq!(
        headers("Forwarded: for=a\nForwarded: for=b\n", &rules(Existing::Append, true)),
        format!("Forwarded: for=a, for=b, for=192.0.2.1;proto=http\n{FOR}{PROTO}")
    );
}

#[test]
fn append_replaces_the_scheme_which_goes_with_the_last_address() {
    assert_eq!(
        headers("X-Forwarded-Proto: https\nA: b\nX-FORWARDED-PROTO: ftp\n", &rules(Existing::Append, false)),
        format!("A: b\n{FOR}{PROTO}")
    );
}

#[test]
fn append_leaves_forwarded_alone_if_it_is_not_wanted() {
    assert_eq!(
        headers("Forwarded: for=a\nForwarded: for=b\n", &rules(Existing::Append, false)),
        format!("Forwarded: for=a\nForwarded: for=b\n{FOR}{PROTO}")
    );
}

/// An open quote would have our entry for its end.
#[test]
fn append_does_not_add_to_a_forwarded_that_hides_what_follows() {
    let rules = rules(Existing::Append, true);
    for hiding in ["for=\"evil", "for=\"e\\\"", "for=\"a\\", "for=a, for=\"", "\"\"\""] {
        let before = format!("Forwarded: for=a\nForwarded: {hiding}\nForwarded: for=\"b\\\"\"\n");
        let list = "Forwarded: for=a, for=\"b\\\"\", for=192.0.2.1;proto=http\n";
        assert_eq!(headers(&before, &rules), format!("{list}{FOR}{PROTO}"), "{hiding:?}");
        let last = format!("Forwarded: {hiding}\n");
        assert_eq!(headers(&last, &rules), format!("{FORWARDED}{FOR}{PROTO}"), "{hiding:?}");
    }
}

#[test]
fn replace_takes_out_all_that_tells_of_clients() {
    let before = "X-Forwarded-For: 1.1.1.1\nA: b\nx-forwarded-proto: https\nforwarded: for=x\nX-Forwarded-For: 2.2.2.2\n";
    assert_eq!(headers(before, &rules(Existing::Replace, false)), format!("A: b\n{FOR}{PROTO}"));
    assert_eq!(headers(before, &rules(Existing::Replace, true)), format!("A: b\n{FOR}{PROTO}{FORWARDED}"));
}

#[test]
fn keep_changes_nothing_and_adds_what_is_not_there() {
    let rules = rules(Existing::Keep, true);
    for before in ["x-forwarded-for:\n", "X-Forwarded-For: 1.1.1.1\nX-Forwarded-For: 2.2.2.2\n"] {
        assert_eq!(headers(before, &rules), format!("{before}{PROTO}{FORWARDED}"));
    }
    let proto = "A: b\nX-Forwarded-Proto: gopher\n";
    assert_eq!(headers(proto, &rules), format!("{proto}{FOR}{FORWARDED}"));
    let all = "Forwarded: for=x\nX-Forwarded-Proto: gopher\nX-Forwarded-For:\n";
    assert_eq!(headers(all, &rules), all);
    let disguised = "X_Forwarded_For: evil\n";
    assert_eq!(headers(disguised, &rules), format!("{disguised}{FOR}{PROTO}{FORWARDED}"));
}

/// CGI and WSGI make the same variable of them.
#[test]
fn names_that_differ_only_by_other_signs_are_taken_out() {
    for name in
        ["X_Forwarded_For", "x-forwarded_for", "X_FORWARDED-FOR", "X.Forwarded.For", "X-Forwarded_Proto"]
    {
        for existing in [Existing::Append, Existing::Replace] {
            let before = format!("A: b\n{name}: evil\nC: d\n");
            assert_eq!(
                headers(&before, &rules(existing, false)),
                format!("A: b\nC: d\n{FOR}{PROTO}"),
                "{name}"
            );
        }
    }
    let both = "X-Forwarded-For: 1.1.1.1\nX_Forwarded_For: evil\n";
    let expected = format!("X-Forwarded-For: 1.1.1.1, 192.0.2.1\n{PROTO}");
    assert_eq!(headers(both, &rules(Existing::Append, false)), expected);
}

#[test]
fn names_that_are_only_similar_are_left_alone() {
    let others = "X-Forwarded-Fox: 1\nX-Forwarded-Host: a\nXX-Forwarded-For: 2\nX-Forwarded-For1: 3\nXaForwardedaFor: 4\n\
                  Forwarde_: 5\nX-Real-IP: 6\nForwarded-: 7\n";
    for existing in EVERY {
        assert_eq!(headers(others, &rules(existing, false)), format!("{others}{FOR}{PROTO}"));
    }
}

#[test]
fn lines_that_end_with_lf_alone_go_on_with_crlf() {
    let ours = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n\r\n";
    for head in [
        "GET / HTTP/1.1\nHost: a\nB:\nC: \t\n\n",
        "GET / HTTP/1.1\r\nHost: a\nB:\r\nC: \t\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\nB:\nC: \t\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nB:\r\nC: \t\r\n\n",
    ] {
        let (out, _) = rewritten(head, &rules(Existing::Append, false)).unwrap();
        let expected = format!("GET / HTTP/1.1\r\nHost: a\r\nB:\r\nC: \t\r\n{ours}");
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{head:?}");
    }
    for head in ["GET / HTTP/1.0\n\n", "GET / HTTP/1.0\n\r\n", "GET / HTTP/1.0\r\n\n"] {
        let (out, _) = rewritten(head, &rules(Existing::Append, false)).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("GET / HTTP/1.0\r\n{ours}"));
    }
}

#[test]
fn lines_of_both_kinds_are_changed_as_well() {
    let head = "GET / HTTP/1.1\nA: b\nX-Forwarded-For: 1.1.1.1\nX_Forwarded_For: 2\r\nC: d\nX-Forwarded-Proto: x\n\n";
    let (out, _) = rewritten(head, &rules(Existing::Append, false)).unwrap();
    let expected = "GET / HTTP/1.1\r\nA: b\r\nX-Forwarded-For: 1.1.1.1, 192.0.2.1\r\nC: d\r\nX-Forwarded-Proto: http\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn empty_lines_before_the_head_do_not_go() {
    let (out, _) = rewritten("\r\n\nGET / HTTP/1.1\r\n\r\n", &rules(Existing::Append, false)).unwrap();
    assert!(out.starts_with(b"GET / HTTP/1.1\r\nX-"));
}

#[test]
fn methods_and_upgrades_say_what_the_response_will_be() {
    let kind = |head: &str| request(head).unwrap().kind;
    assert_eq!(kind("GET / HTTP/1.1\r\n\r\n"), Kind::Plain);
    assert_eq!(kind("BREW /pot HTTP/1.1\r\n\r\n"), Kind::Plain);
    assert_eq!(kind("get / HTTP/1.1\r\n\r\n"), Kind::Plain);
    assert_eq!(kind("HEAD / HTTP/1.0\r\n\r\n"), Kind::Head);
    assert_eq!(kind("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"), Kind::Connect);
    assert_eq!(kind("CONNECT a:1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), Kind::Connect);
    assert_eq!(kind("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"), Kind::Upgrade);
    // A lenient server might grant these.
    assert_eq!(kind("POST / HTTP/1.1\r\nuPGRADE:\r\n\r\n"), Kind::Upgrade);
    assert_eq!(kind("GET / HTTP/1.0\r\nUpgrade: h2c\r\n\r\n"), Kind::Upgrade);
    assert_eq!(
        kind("GET / HTTP/1.1\r\nUpgrade-Insecure-Requests: 1\r\nConnection: upgrade\r\n\r\n"),
        Kind::Plain
    );
}

/// `curl --http2 -I` sends it.
#[test]
fn head_and_connect_cannot_be_upgrades_as_well() {
    for (line, kind) in [("HEAD / HTTP/1.1", Kind::Head), ("CONNECT a:1 HTTP/1.1", Kind::Connect)] {
        let head = format!("{line}\r\nA: b\r\nUpgrade: h2c\r\nC: d\r\n\r\n");
        for existing in EVERY {
            let (out, request) = rewritten(&head, &rules(existing, false)).unwrap();
            assert_eq!(request.kind, kind);
            let ours = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n\r\n";
            assert_eq!(String::from_utf8(out).unwrap(), format!("{line}\r\nA: b\r\nC: d\r\n{ours}"));
        }
    }
}

#[test]
fn a_request_says_where_its_body_ends() {
    let body =
        |headers: &str| request(format!("POST / HTTP/1.1\r\n{headers}\r\n")).map(|request| request.body);
    assert_eq!(body(""), Ok(Body::None));
    assert_eq!(body("Content-Length: 0\r\n"), Ok(Body::None));
    assert_eq!(body("content-LENGTH:\t42 \r\n"), Ok(Body::Length(42)));
    assert_eq!(body("Content-Length: 0042\r\n"), Ok(Body::Length(42)));
    assert_eq!(body("Content-Length: 9223372036854775807\r\n"), Ok(Body::Length(u64::MAX / 2)));
    assert_eq!(body("Transfer-Encoding: chunked\r\n"), Ok(Body::Chunked(Chunked::default())));
    assert_eq!(body("transfer-encoding:CHUNKED\r\n"), Ok(Body::Chunked(Chunked::default())));
}

/// Whatever two servers might understand in two ways, with one word of the reason.
#[test]
fn what_could_smuggle_a_request_is_refused() {
    for (why, headers) in [
        // CL.TE and TE.CL
        ("both", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"),
        ("both", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"),
        ("both", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        // CL.CL
        ("more than one Content", "Content-Length: 6\r\nContent-Length: 6\r\n"),
        ("more than one Content", "Content-Length: 6\r\ncontent-length: 5\r\n"),
        ("not a number", "Content-Length: 6, 6\r\n"),
        ("not a number", "Content-Length: +6\r\n"),
        ("not a number", "Content-Length: -6\r\n"),
        ("not a number", "Content-Length: 0x6\r\n"),
        ("not a number", "Content-Length: 6 6\r\n"),
        ("not a number", "Content-Length: 6.0\r\n"),
        ("not a number", "Content-Length: 1_0\r\n"),
        ("not a number", "Content-Length: \u{666}\r\n"),
        ("not a number", "Content-Length:\r\n"),
        ("not a number", "Content-Length: 6;\r\n"),
        ("not a number", "Content-Length: 9223372036854775808\r\n"),
        ("not a number", "Content-Length: 18446744073709551622\r\n"),
        ("control", "Content-Length: \x0b6\r\n"),
        ("control", "Content-Length: 6\0\r\n"),
        ("token", "Content-Length : 6\r\n"),
        ("token", "Content Length: 6\r\n"),
        ("nearly", "Content_Length: 6\r\n"),
        // TE.TE
        ("other than", "Transfer-Encoding: xchunked\r\n"),
        ("other than", "Transfer-Encoding: chunked, identity\r\n"),
        ("other than", "Transfer-Encoding: identity, chunked\r\n"),
        ("other than", "Transfer-Encoding: chunked, chunked\r\n"),
        ("other than", "Transfer-Encoding: gzip, chunked\r\n"),
        ("other than", "Transfer-Encoding: identity\r\n"),
        ("other than", "Transfer-Encoding: x\r\n"),
        ("other than", "Transfer-Encoding: \"chunked\"\r\n"),
        ("other than", "Transfer-Encoding: chunked;q=1\r\n"),
        ("other than", "Transfer-Encoding: ,chunked\r\n"),
        ("other than", "Transfer-Encoding:\r\n"),
        ("other than", "Transfer-Encoding: chunked\u{a0}\r\n"),
        ("more than one Transfer", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("other than", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"),
        ("other than", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n"),
        ("control", "Transfer-Encoding:\x0bchunked\r\n"),
        ("control", "Transfer-Encoding: \x0cchunked\r\n"),
        ("control", "Transfer-Encoding: chunked\x0b\r\n"),
        ("control", "Transfer-Encoding: chunked\x7f\r\n"),
        ("control", "X: y\rTransfer-Encoding: chunked\r\n"),
        ("control", "Transfer-Encoding: chunked\r\r\n"),
        ("token", "Transfer-Encoding : chunked\r\n"),
        ("token", "Transfer-Encoding\t: chunked\r\n"),
        ("token", "Transfer-Encoding\r\n: chunked\r\n"),
        ("token", "Transfer-Encoding\r\n : chunked\r\n"),
        ("token", "Transfer-Encoding\0: chunked\r\n"),
        ("token", " Transfer-Encoding: chunked\r\n"),
        ("token", "\tTransfer-Encoding: chunked\r\n"),
        ("token", "A: b\r\n Transfer-Encoding: chunked\r\n"),
        ("token", "Transfer-Encoding:\r\n chunked\r\n"),
        ("token", "\u{ff}Transfer-Encoding: chunked\r\n"),
        ("nearly", "Transfer_Encoding: chunked\r\n"),
        ("nearly", "Transfer.Encoding: chunked\r\nContent-Length: 3\r\n"),
        // Our headers
        ("names one", "Connection: X-Forwarded-For\r\n"),
        ("names one", "Connection: close, x-forwarded-proto\r\n"),
        ("names one", "Connection: keep-alive\r\nConnection: x_forwarded_for,\r\n"),
        ("names one", "Connection: close ,\tForwarded\r\n"),
        ("names one", "Connection: \"forwarded\"\r\n"),
        ("names one", "Connection: close x-forwarded-for\r\n"),
        // Anything
        ("token", "A: b\r\n c\r\n"),
        ("token", "A: b\r\n\tc\r\n"),
        ("token", "A\r\n"),
        ("token", ": b\r\n"),
        ("token", "A b: c\r\n"),
        ("token", "A\0: b\r\n"),
        ("control", "A: b\0c\r\n"),
        ("control", "A: b\rc\r\n"),
        ("control", "A: \rb\r\n"),
        ("line", "A: b\r\n\rB: c\r\n"),
    ] {
        for existing in EVERY {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
            let refused = rewritten(&head, &rules(existing, true)).err();
            assert!(refused.is_some_and(|reason| reason.contains(why)), "{headers:?}: {refused:?}");
        }
    }
}

#[test]
fn connection_can_name_what_is_not_ours() {
    for value in
        ["close", "keep-alive, Upgrade, HTTP2-Settings", "TE", "X-Forwarded-Host", "x-forwarded-for1", ""]
    {
        assert!(request(format!("GET / HTTP/1.1\r\nConnection: {value}\r\n\r\n")).is_ok(), "{value:?}");
    }
}

#[test]
fn what_is_no_request_of_http1_is_refused() {
    for (why, head) in [
        ("version", "GET / HTTP/2.0\r\n\r\n"),
        ("version", "GET / HTTP/1.2\r\n\r\n"),
        ("version", "GET / HTTP/0.9\r\n\r\n"),
        ("version", "GET / http/1.1\r\n\r\n"),
        ("version", "GET / HTTP/01.1\r\n\r\n"),
        ("version", "GET / RTSP/1.0\r\n\r\n"),
        ("version", "GET / a HTTP/1.1\r\n\r\n"),
        ("version", "PRI * HTTP/2.0\r\n\r\n"),
        ("version", "GET /  HTTP/1.1\r\n\r\n"),
        ("version", "GET / H\r\n\r\n"),
        ("request line", "GET /\r\n\r\n"),
        ("request line", "GET\r\n\r\n"),
        ("request line", "GET  / HTTP/1.1\r\n\r\n"),
        ("request line", "GET\t/ HTTP/1.1\r\n\r\n"),
        ("request line", " GET / HTTP/1.1\r\n\r\n"),
        ("request line", "G(T / HTTP/1.1\r\n\r\n"),
        ("request line", "GET /\0 HTTP/1.1\r\n\r\n"),
        ("request line", "GET /\r HTTP/1.1\r\n\r\n"),
        ("request line", "GET /\x7f HTTP/1.1\r\n\r\n"),
        ("line", "GET / HTTP/1.1 \r\n\r\n"),
        ("line", "GET / HTTP/1.1\r\r\n\r\n"),
        ("line", "GET / HTTP/1.1\rA: b\r\n\r\n"),
        ("line", "\rGET / HTTP/1.1\r\n\r\n"),
        ("1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("CONNECT with", "CONNECT a:1 HTTP/1.1\r\nContent-Length: 1\r\n\r\n"),
        ("CONNECT with", "CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("small letters", "head / HTTP/1.1\r\n\r\n"),
        ("small letters", "Connect a:1 HTTP/1.1\r\n\r\n"),
        ("whole", ""),
        ("whole", "\r\n"),
        ("whole", "GET / HTTP/1.1\r\n"),
        ("whole", "GET / HTTP/1.1\r\nA: b\r\n"),
        ("whole", "GET / HTTP/1.1\r\nA: b\r\n\r"),
        ("whole", "GET / HTTP/1.1\r\n\r\nG"),
        ("whole", "GET / HTTP/1.1\r\n\r\n\r\n"),
    ] {
        let refused = request(head).err();
        assert!(refused.is_some_and(|reason| reason.contains(why)), "{head:?}: {refused:?}");
    }
    assert!(request(b"GET /\xff HTTP/1.1\r\n\r\n").is_err(), "not UTF-8");
}

#[test]
fn a_head_can_have_so_many_headers_and_no_more() {
    let head = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert!(request(head(MOST_HEADERS)).is_ok());
    let reason = request(head(MOST_HEADERS + 1)).unwrap_err();
    assert!(reason.contains(&MOST_HEADERS.to_string()), "{reason}");
}

#[test]
fn any_byte_in_the_wrong_place_is_refused_or_stays_where_it_is() {
    for byte in 0..=u8::MAX {
        let value = [b"GET / HTTP/1.1\r\nA: b", &[byte][..], b"c\r\n\r\n"].concat();
        assert_eq!(
            request(&value).is_ok(),
            byte == b'\t' || byte >= b' ' && byte != 0x7f,
            "in a value: {byte:#x}"
        );
        let name = [b"GET / HTTP/1.1\r\nA", &[byte][..], b"b: c\r\n\r\n"].concat();
        assert_eq!(request(&name).is_ok(), opening::is_tchar(byte) || byte == b':', "in a name: {byte:#x}");
        let method = [b"GE", &[byte][..], b"T / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(request(&method).is_ok(), opening::is_tchar(byte), "in a method: {byte:#x}");
        let target = [b"GET /", &[byte][..], b"x HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(request(&target).is_ok(), byte.is_ascii_graphic(), "in a target: {byte:#x}");
    }
}

#[test]
fn a_head_ends_behind_its_first_blank_line() {
    for (bytes, expected) in [
        ("", None),
        ("\n", None),
        ("\n\n", Some(2)),
        ("\r\n\r\n", Some(4)),
        ("A\r\n\r\nB\r\n\r\n", Some(5)),
        ("A\n\nB", Some(3)),
        ("A\r\n\nB", Some(4)),
        ("A\n\r\nB", Some(4)),
        ("A\r\n\r", None),
        ("A\n\r\r\n", None),
        ("A\r\r\n", None),
        ("A\nB\nC\n\n", Some(7)),
    ] {
        assert_eq!(find_end(bytes.as_bytes(), 0), expected, "{bytes:?}");
    }
    assert_eq!(find_end(b"A\n\n", 9), None, "more was looked at than there is");
}

/// The obvious way.
fn slow_end(bytes: &[u8]) -> Option<usize> {
    (0..=bytes.len()).find(|&end| bytes[..end].ends_with(b"\n\n") || bytes[..end].ends_with(b"\n\r\n"))
}

type Fields = Vec<(String, Vec<u8>)>;

/// Method, target, version and headers, read line by line.
fn slow_read(head: &[u8]) -> Option<(String, String, String, Fields)> {
    let mut lines: Vec<&[u8]> = head
        .strip_suffix(b"\n")?
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .collect();
    let empty = lines.iter().take_while(|line| line.is_empty()).count();
    lines.drain(..empty);
    if lines.pop()? != b"" || lines.is_empty() {
        return None;
    }
    let token = |text: &[u8]| !text.is_empty() && text.iter().all(|&byte| opening::is_tchar(byte));
    let request = String::from_utf8(lines.remove(0).to_vec()).ok()?;
    let [method, target, version] = request.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let graphic = |target: &str| !target.is_empty() && target.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    if !token(method.as_bytes()) || !graphic(target) || !["HTTP/1.0", "HTTP/1.1"].contains(&version) {
        return None;
    }
    let field = |line: &&[u8]| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let value = line[colon + 1..].trim_ascii();
        let blank = |byte: u8| byte == b'\t' || byte == b' ';
        let good = line[colon + 1..].iter().all(|&byte| blank(byte) || byte > b' ' && byte != 0x7f);
        (token(&line[..colon]) && good)
            .then(|| (String::from_utf8(line[..colon].to_vec()).unwrap(), value.to_vec()))
    };
    let fields = lines.iter().map(field).collect::<Option<Vec<_>>>()?;
    Some((method.to_owned(), target.to_owned(), version.to_owned(), fields))
}

fn named<'a>(fields: &'a Fields, name: &str) -> Vec<&'a [u8]> {
    let same = fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    same.map(|(_, value)| value.as_slice()).collect()
}

/// As CGI has it.
fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace(|sign: char| !sign.is_ascii_alphanumeric(), "_")
}

/// What a head is, if it is to be taken.
fn slow_request(method: &str, version: &str, fields: &Fields) -> Option<Request> {
    let (lengths, codings) = (named(fields, "content-length"), named(fields, "transfer-encoding"));
    let alike = |name| fields.iter().filter(|(other, _)| variable(other) == name).count();
    if alike("CONTENT_LENGTH") != lengths.len() || alike("TRANSFER_ENCODING") != codings.len() {
        return None;
    }
    for value in named(fields, "connection") {
        let mut words = value
            .split(|&byte| !opening::is_tchar(byte))
            .map(|word| variable(&String::from_utf8_lossy(word)));
        if words.any(|word| ["X_FORWARDED_FOR", "X_FORWARDED_PROTO", "FORWARDED"].contains(&word.as_str())) {
            return None;
        }
    }
    let body = match (&lengths[..], &codings[..]) {
        ([], []) => Body::None,
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && version == "HTTP/1.1" => {
            Body::Chunked(Chunked::default())
        }
        ([digits], []) if digits.iter().all(u8::is_ascii_digit) => {
            match str::from_utf8(digits).unwrap().parse::<i64>().ok()? {
                0 => Body::None,
                length => Body::Length(length.try_into().unwrap()),
            }
        }
        _ => return None,
    };
    let kind = match method {
        "HEAD" => Kind::Head,
        "CONNECT" if body == Body::None => Kind::Connect,
        _ if ["HEAD", "CONNECT"].contains(&method.to_ascii_uppercase().as_str()) => return None,
        _ if named(fields, "upgrade").is_empty() => Kind::Plain,
        _ => Kind::Upgrade,
    };
    Some(Request { kind, body })
}

/// What the headers become, with 192.0.2.1 as the client.
fn slow_headers(mut fields: Fields, existing: Existing, forwarded: bool, kind: Kind) -> Fields {
    if matches!(kind, Kind::Head | Kind::Connect) {
        fields.retain(|(name, _)| !name.eq_ignore_ascii_case("upgrade"));
    }
    let mut ours = vec![("X-Forwarded-For", "192.0.2.1", true), ("X-Forwarded-Proto", "http", false)];
    if forwarded {
        ours.push(("Forwarded", "for=192.0.2.1;proto=http", true));
    } else if existing == Existing::Replace {
        fields.retain(|(name, _)| !name.eq_ignore_ascii_case("Forwarded"));
    }
    let mut added = Fields::new();
    for (name, value, is_list) in ours {
        let place = fields.iter().rposition(|(other, _)| other.eq_ignore_ascii_case(name));
        match (existing, place) {
            (Existing::Keep, Some(_)) => {}
            (Existing::Keep, None) => added.push((name.to_owned(), value.into())),
            (Existing::Append, Some(place)) if is_list => {
                let mut list = named(&fields, name);
                list.retain(|value| !value.is_empty() && (name != "Forwarded" || closes_quotes(value)));
                list.push(value.as_bytes());
                fields[place].1 = list.join(&b", "[..]);
                let last = fields[place].clone();
                let mut number = 0;
                fields.retain(|(other, _)| {
                    number += 1;
                    variable(other) != variable(name) || number == place + 1
                });
                assert!(fields.contains(&last));
            }
            (Existing::Append | Existing::Replace, _) => {
                fields.retain(|(other, _)| variable(other) != variable(name));
                added.push((name.to_owned(), value.into()));
            }
        }
    }
    fields.extend(added);
    fields
}

/// A head is taken if it should be, and becomes what it should, whatever the rules.
fn check(head: &[u8]) {
    for (existing, forwarded) in EVERY.into_iter().flat_map(|existing| [(existing, false), (existing, true)])
    {
        let taken = rewritten(head, &rules(existing, forwarded));
        let expected = slow_read(head).and_then(|(method, target, version, fields)| {
            let request = slow_request(&method, &version, &fields)?;
            let fields = slow_headers(fields, existing, forwarded, request.kind);
            Some((method, target, version, fields, request))
        });
        let shown = head.escape_ascii();
        let Some((method, target, version, fields, request)) = expected else {
            assert!(taken.is_err(), "taken: {shown}");
            continue;
        };
        let (out, found) = taken.unwrap_or_else(|reason| panic!("{reason}: {shown}"));
        assert_eq!(found, request, "{shown}");
        assert_eq!(slow_end(&head[empty_lines(head)..]), Some(head.len() - empty_lines(head)), "{shown}");
        assert!(out.split_inclusive(|&byte| byte == b'\n').all(|line| line.ends_with(b"\r\n")), "{shown}");
        let mut of_stream = Vec::new();
        let stream = [head, b"\nGET / HTTP/1.1\r\n\r\n"].concat();
        let first = rewrite_first(&stream, &rules(existing, forwarded), &mut of_stream);
        assert_eq!(first, Ok((request, head.len())), "{shown}");
        assert_eq!(of_stream, out, "{shown}");
        let (mut headers, mut parsed) = ([httparse::EMPTY_HEADER; 2 * MOST_HEADERS], None);
        let mut again = httparse::Request::new(&mut headers);
        if let Ok(Status::Complete(length)) = again.parse(&out) {
            parsed = Some(length);
        }
        assert_eq!(parsed, Some(out.len()), "{shown}");
        assert_eq!((again.method, again.path), (Some(&*method), Some(&*target)), "{shown}");
        assert_eq!(again.version.map(|minor| format!("HTTP/1.{minor}")), Some(version), "{shown}");
        let got: Fields =
            again.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect();
        assert_eq!(got, fields, "{existing:?}, {forwarded}: {shown}");
        if existing != Existing::Keep {
            assert_tells_of_the_client(&got, "x-forwarded-for", b"192.0.2.1");
            assert_tells_of_the_client(&got, "x-forwarded-proto", b"http");
            if forwarded {
                assert_tells_of_the_client(&got, "forwarded", b"for=192.0.2.1;proto=http");
            }
        }
    }
}

/// There is one header that a server can take for this one, and it ends with our entry.
fn assert_tells_of_the_client(fields: &Fields, name: &str, entry: &[u8]) {
    let alike: Vec<_> = fields.iter().filter(|(other, _)| variable(other) == variable(name)).collect();
    let [(exact, value)] = alike[..] else { panic!("{alike:?}") };
    assert!(exact.eq_ignore_ascii_case(name));
    assert!(value == entry || value.ends_with(&[b", ", entry].concat()), "{}", value.escape_ascii());
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "X-Forwarded-For", "x-forwarded-for", "X_Forwarded_For", "X-forwarded_FOR", "X.Forwarded-For", "X-Forwarded-Proto",
            "x-forwarded-proto", "X_FORWARDED_PROTO", "Forwarded", "FORWARDED", "X-Forwarded-Host", "X-Forwarded-Fox",
        ]).prop_map(String::from),
        3 => prop::sample::select(vec!["Host", "Accept", "Cookie", "Upgrade", "Connection", "User-Agent"]).prop_map(String::from),
        1 => prop::sample::select(vec![
            "Content-Length", "Transfer-Encoding", "content-length", "TRANSFER-ENCODING", "Content_Length", "Content-Length ",
        ]).prop_map(String::from),
        1 => "[!-~]{1,18}",
    ]
}

fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "",
            "1.1.1.1",
            "1.1.1.1, 2.2.2.2",
            "for=a",
            "for=\"a",
            "for=\"[::1]\";by=\"\\\"\"",
            "close",
            "keep-alive, Upgrade",
            "x-forwarded-for",
            "chunked",
            "0",
            "7",
            "https",
            "é",
            "a,",
            ",",
        ])
        .prop_map(String::from),
        "[ -~\t]{0,20}",
    ]
}

prop_compose! {
    fn header()(name in names(), gap in "[ \t]{0,2}", value in values(), after in "[ \t]?", end in "\r?\n") -> String {
        format!("{name}:{gap}{value}{after}{end}")
    }
}

prop_compose! {
    fn head()(
        method in prop::sample::select(vec!["GET", "POST", "HEAD", "CONNECT", "BREW", "get", "head"]),
        target in "[!-~]{1,8}",
        version in prop::sample::select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2"]),
        ends in ("\r?\n", "\r?\n"),
        headers in prop::collection::vec(header(), 0..8),
    ) -> Vec<u8> {
        format!("{method} {target} {version}{}{}{}", ends.0, headers.concat(), ends.1).into_bytes()
    }
}

proptest! {
    #[test]
    fn heads_are_taken_and_rewritten_as_the_rules_say(head in head()) {
        check(&head);
    }

    #[test]
    fn so_are_heads_with_something_wrong_in_them(
        mut head in head(),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..4),
    ) {
        for (place, byte, what) in places {
            let place = place.index(head.len().max(1));
            let telling = b" \t\r\n\0\x0b:,\"_-\x7f\x80";
            let byte = if byte < 128 { telling[usize::from(byte) % telling.len()] } else { byte };
            match what {
                0 => head.insert(place.min(head.len()), byte),
                1 if place < head.len() => head[place] = byte,
                _ if place < head.len() => drop(head.remove(place)),
                _ => {}
            }
        }
        check(&head);
    }

    #[test]
    fn no_bytes_are_too_much_for_it(bytes in any::<Vec<u8>>()) {
        check(&bytes);
        check(&[b"GET / HTTP/1.1\r\n", &bytes[..], b"\r\n\r\n"].concat());
    }

    #[test]
    fn the_end_is_found_however_the_head_is_cut(bytes in prop::collection::vec(prop::sample::select(&b"\r\nA"[..]), 0..40)) {
        let whole = slow_end(&bytes);
        prop_assert_eq!(find_end(&bytes, 0), whole);
        for looked in 0..=bytes.len() {
            if slow_end(&bytes[..looked]).is_none() {
                prop_assert_eq!(find_end(&bytes, looked), whole, "{} looked at", looked);
            }
        }
    }
}
