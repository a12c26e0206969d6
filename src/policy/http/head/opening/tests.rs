use proptest::prelude::*;

use super::*;

/// What is said of the whole, which must be so from the first byte on that tells.
fn said_of(bytes: &[u8]) -> Opening {
    let whole = opening(bytes);
    for cut in 0..bytes.len() {
        let sooner = opening(&bytes[..cut]);
        assert!(
            sooner == Opening::Incomplete || sooner == whole,
            "{}: {sooner:?} at {cut}",
            bytes.escape_ascii()
        );
    }
    whole
}

fn all_are(expected: Opening, beginnings: &[&str]) {
    for beginning in beginnings {
        assert_eq!(said_of(beginning.as_bytes()), expected, "{beginning:?}");
    }
}

#[test]
fn a_line_with_a_version_of_http_is_a_request_whatever_its_method() {
    all_are(
        Opening::Request,
        &[
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.0\n",
            "BREW /pot HTTP/1.1\r\n",
            "m-search * http/1.1\r\n",
            "x\tHtTp/9\n",
            "PRI * HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\nHost: a\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\nX",
            "QUIT foo bar HTTP/ \r\n",
        ],
    );
}

#[test]
fn a_line_that_begins_with_a_method_is_a_request() {
    all_are(
        Opening::Request,
        &[
            "GET /\r\n",
            "get /\n",
            "Head /x\r\n",
            "pOST /x\r\n",
            "PUT /x\r\n",
            "DELETE /x\r\n",
            "OPTIONS *\r\n",
            "PATCH /x\r\n",
            "TRACE /x\r\n",
            "CONNECT a:1\r\n",
            "GET \r\n",
            "GET\t/\n",
        ],
    );
}

#[test]
fn any_other_line_is_not() {
    all_are(
        Opening::Other,
        &[
            "SSH-2.0-OpenSSH_9.2\r\n",
            "@RSYNCD: 31.0 sha512\n",
            "<34>1 2003-10-11T22:14:15.003Z host su\n",
            "EHLO example.com\r\n",
            "stats\r\n",
            "delete key\r\n",
            "set key 0 0 3\r\nabc\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "PING\r\n",
            "put /x\r\n",
            "GET\r\n",
            "GETTY / \r\n",
            "USER HTTP\r\n",
            "a/b TTP/ HTT/P\r\n",
            "/ HTTP/1.1\r\n",
        ],
    );
}

#[test]
fn what_begins_with_no_token_is_not_waited_for() {
    all_are(
        Opening::Other,
        &[
            "\0",
            "\u{16}\u{3}\u{1}",
            "{\"a\"",
            "<stream:stream",
            "<?xml version='1.0'?>",
            "(a)",
            "[{",
            "\u{13}BitTorrent protocol",
            "é",
        ],
    );
}

#[test]
fn what_has_no_lines_is_not_waited_for() {
    let binary: [&[u8]; 6] = [
        b"\x30\x0c\x02\x01\x01\x60", // LDAP
        b"AMQP\0\0\x09\x01",
        b"l\0\x0b\0",
        b"70:CONTENT_LENGTH\x0027\0",
        b"GIOP\x01\x02",
        b"\x80\x2e\x01\x00\x02",
    ];
    for beginning in binary {
        assert_eq!(said_of(beginning), Opening::Other, "{}", beginning.escape_ascii());
    }
}

#[test]
fn a_line_that_is_not_whole_is_waited_for() {
    all_are(
        Opening::Incomplete,
        &[
            "",
            "\r",
            "\n",
            "\r\n\r\n\r",
            "G",
            "GET",
            "GET ",
            "GET / HTTP/1.1\r",
            "PRI",
            "SSH-2.0",
            "get key",
            "\r\nx",
            "(",
            "@RSYNCD: 31",
        ],
    );
    for cut in 0..PREFACE.len() {
        assert_eq!(opening(&PREFACE[..cut]), Opening::Incomplete);
    }
}

#[test]
fn http2_with_prior_knowledge_is_told_by_its_whole_preface() {
    all_are(
        Opening::Other,
        &[
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\u{12}\u{4}",
            "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
    );
}

#[test]
fn empty_lines_before_a_request_count_for_nothing() {
    all_are(Opening::Request, &["\r\n\nGET / HTTP/1.1\r\n", "\n\r\n\r\nGET /\n"]);
    all_are(Opening::Other, &["\r\n\0", "\n\nSSH-2.0\n"]);
    for (bytes, expected) in
        [("", 0), ("\r", 0), ("\n", 1), ("\r\n", 2), ("\n\r\n\r", 3), ("\n\nGET\n", 2), ("\r\r\n", 0)]
    {
        assert_eq!(empty_lines(bytes.as_bytes()), expected, "{bytes:?}");
    }
}

/// nginx skips CR and LF, Python's servers everything that is white space in Latin-1, and split at it.
#[test]
fn what_a_lenient_server_reads_as_a_request_is_one() {
    let request = b"GET / HTTP/1.1\r\n";
    for blank in [b' ', b'\t', 0x0b, 0x0c, b'\r', 0x1c, 0x1d, 0x1e, 0x1f, 0x85, 0xa0] {
        assert_eq!(said_of(&[&[blank], &request[..]].concat()), Opening::Request, "before: {blank:#x}");
        let between = [b"GET", &[blank][..], b"/", &[blank], b"HTTP/1.1\r\n"].concat();
        assert_eq!(said_of(&between), Opening::Request, "between: {blank:#x}");
        let old = [b"GET", &[blank][..], b"/\n"].concat();
        assert_eq!(said_of(&old), Opening::Request, "HTTP/0.9: {blank:#x}");
    }
    all_are(Opening::Request, &["(GET / HTTP/1.1\r\n", "1:A / HTTP/1.1\r\n", "<?>x\t/ HTTP/1.0\n"]);
    all_are(Opening::Request, &["GE(T / HTTP/1.1\r\n", "GET/ HTTP/1.1\r\n", "G\"E\"T / HTTP/1.1\n"]);
}

proptest! {
    #[test]
    fn what_has_been_said_is_not_taken_back(bytes in any::<Vec<u8>>()) {
        said_of(&bytes);
    }

    #[test]
    fn nor_is_it_of_what_looks_like_lines(text in "(\r\n|\n)?[GETPRIhx0 \t\r/(\u{b}\0]{0,6}( |\u{c})?[*/] ?(HTTP/[12].[01]|[ -~]{0,5})(\r\n|\n|\r)[ -~]{0,4}") {
        said_of(text.as_bytes());
    }

    #[test]
    fn no_request_hides_behind_any_first_bytes_of_a_method(prefix in "[A-Za-z]{1,8}", target in "[!-~]{1,20}", end in "\r?\n") {
        prop_assert_eq!(said_of(format!("{prefix} {target} HTTP/1.1{end}").as_bytes()), Opening::Request);
    }
}
