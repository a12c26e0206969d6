//! The request in a line of a web server's log, and the same request as pen logs it.
//!
//! Apache and nginx write some bytes of a request as escapes (`\"`, `\\`, `\n`, `\x1b`); pen writes dots for control
//! bytes and ends at the first CR or LF. [`as_pen_logs`] turns the one into the other, so that the two can be compared.

use std::ops::Range;

use super::output;

/// What pen makes of bytes that are not ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeyondAscii {
    /// They stay as they are: in datagrams for penlogd(1).
    Kept,
    /// They become dots: in log files, for mergelogs(1).
    Dotted,
}

/// Where the request stands in `line`: behind its first quote, up to the quote that closes it. None: there are no two
/// quotes.
pub fn find(line: &[u8]) -> Option<Range<usize>> {
    let start = memchr::memchr(b'"', line)? + 1;
    let length = closing_quote(line.get(start..)?)?;
    Some(start..start + length)
}

/// Where in `text`, which begins behind a quote, the quote stands that closes it. An escaped quote does not; but if there
/// are no others the writer knows of no escapes, and the first one does.
pub fn closing_quote(text: &[u8]) -> Option<usize> {
    let escaped = |&at: &usize| text[..at].iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1;
    let mut quotes = memchr::memchr_iter(b'"', text);
    let first = quotes.next()?;
    if !escaped(&first) {
        return Some(first);
    }
    Some(quotes.find(|at| !escaped(at)).unwrap_or(first))
}

/// Is there anything in `quoted` that could be an escape?
pub fn has_escapes(quoted: &[u8]) -> bool {
    memchr::memchr(b'\\', quoted).is_some()
}

/// Does pen log `quoted` as it is, in log files? No escapes are in it, and nothing that [`tame`] would change.
pub(super) fn is_plain(quoted: &[u8]) -> bool {
    !output::any(quoted, |byte| is_wild(byte) | (byte == b'\\'))
}

/// Does pen log `text` as it is, in log files?
pub(super) fn is_tame(text: &[u8]) -> bool {
    !output::any(text, is_wild)
}

/// What becomes a dot, or ends the line, in log files.
fn is_wild(byte: u8) -> bool {
    byte.wrapping_sub(b' ') >= 0x7f - b' '
}

/// Appends to `out` what pen logs of a request that a web server has written as `quoted`: without escapes, up to the first
/// CR or LF, with dots for control bytes. What is no escape of Apache or nginx stays as it is.
pub fn as_pen_logs(quoted: &[u8], beyond: BeyondAscii, out: &mut Vec<u8>) {
    let mut rest = quoted;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        if tame(&rest[..at], beyond, out) {
            return;
        }
        let (byte, length) = unescaped(&rest[at..]);
        if tame(&[byte], beyond, out) {
            return;
        }
        rest = &rest[at + length..];
    }
    tame(rest, beyond, out);
}

/// Appends to `out` what pen logs of `raw`, and says whether that ended at a CR or LF.
pub fn tame(raw: &[u8], beyond: BeyondAscii, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let line = match memchr::memchr2(b'\r', b'\n', raw) {
        Some(end) => &raw[..end],
        None => raw,
    };
    out.extend_from_slice(line);
    // Most requests have nothing to be tamed.
    let wild = |byte: u8| byte < b' ' || byte == 0x7f || (beyond == BeyondAscii::Dotted && byte > 0x7f);
    if output::any(line, wild) {
        for byte in &mut out[start..] {
            if wild(*byte) {
                *byte = b'.';
            }
        }
    }
    line.len() < raw.len()
}

/// The byte that the escape at the head of `text` stands for, and how long the escape is.
fn unescaped(text: &[u8]) -> (u8, usize) {
    let digit = |at: usize| text.get(at).and_then(|&byte| (byte as char).to_digit(16));
    let byte = match text.get(1) {
        Some(b'"') => b'"',
        Some(b'\\') => b'\\',
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'b') => 0x08,
        Some(b'v') => 0x0b,
        Some(b'x') => match (digit(2), digit(3)) {
            (Some(high), Some(low)) => return ((high << 4 | low) as u8, 4),
            _ => return (b'\\', 1),
        },
        _ => return (b'\\', 1),
    };
    (byte, 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(line: &[u8]) -> Option<String> {
        find(line).map(|range| String::from_utf8_lossy(&line[range]).into_owned())
    }

    fn logged(quoted: &[u8], beyond: BeyondAscii) -> Vec<u8> {
        let mut out = b"before ".to_vec();
        as_pen_logs(quoted, beyond, &mut out);
        out.split_off(b"before ".len())
    }

    #[test]
    fn the_request_stands_between_the_first_two_quotes() {
        let line = br#"10.0.0.1 - bob [09/Jan/2002:00:28:50 +0100] "GET / HTTP/1.0" 200 1 "ref" "agent""#;
        assert_eq!(request(line).as_deref(), Some("GET / HTTP/1.0"));
        assert_eq!(request(br#"a "" b"#).as_deref(), Some(""));
        for line in [&b""[..], b"no quote", b"one \" quote", b"\""] {
            assert_eq!(request(line), None);
        }
    }

    #[test]
    fn an_escaped_quote_does_not_close_the_request() {
        assert_eq!(request(br#"a "GET /\"x\" HTTP/1.0" 200"#).as_deref(), Some(r#"GET /\"x\" HTTP/1.0"#));
        assert_eq!(request(br#"a "GET /\\" 200 "x""#).as_deref(), Some(r"GET /\\"));
        assert_eq!(request(br#"a "GET /\\\" y" 200"#).as_deref(), Some(r#"GET /\\\" y"#));
    }

    #[test]
    fn where_nothing_else_closes_it_an_escaped_quote_does() {
        assert_eq!(request(br#"a "GET /\" 200 1"#).as_deref(), Some(r"GET /\"));
        assert_eq!(request(br#"a "GET /\"x\" 200 1"#).as_deref(), Some(r"GET /\"));
    }

    #[test]
    fn escapes_of_apache_and_nginx_are_taken_off() {
        let kept = |quoted: &str| logged(quoted.as_bytes(), BeyondAscii::Kept);
        assert_eq!(kept(r#"GET /\"a\\b\x22\x5C"#), br#"GET /"a\b"\"#);
        assert_eq!(kept(r"GET /\xe5\xC3"), b"GET /\xe5\xc3");
        assert_eq!(kept(r"GET /\t\x1b\x7f\b\v"), b"GET /.....");
        assert_eq!(kept(r"GET /\q\x4\xg0\"), br"GET /\q\x4\xg0\");
    }

    #[test]
    fn a_request_ends_where_pen_ends_it() {
        assert_eq!(logged(br"GET /\r\nHost", BeyondAscii::Kept), b"GET /");
        assert_eq!(logged(br"GET /\x0aHost", BeyondAscii::Kept), b"GET /");
        assert_eq!(logged(b"GET /\nHost", BeyondAscii::Kept), b"GET /");
        assert_eq!(logged(b"GET /\nHost\\x41", BeyondAscii::Kept), b"GET /");
    }

    #[test]
    fn log_files_have_dots_for_everything_beyond_ascii() {
        assert_eq!(logged(br"GET /\xe5|\x7f|", BeyondAscii::Dotted), b"GET /.|.|");
        assert_eq!(logged(b"GET /\xe5", BeyondAscii::Dotted), b"GET /.");
        assert_eq!(logged(b"GET /\xe5", BeyondAscii::Kept), b"GET /\xe5");
    }

    /// As Apache escapes.
    fn escaped(raw: &[u8]) -> Vec<u8> {
        let escape = |&byte: &u8| match byte {
            b'"' => br#"\""#.to_vec(),
            b'\\' => br"\\".to_vec(),
            b' '..=b'~' => vec![byte],
            _ => format!("\\x{byte:02x}").into_bytes(),
        };
        raw.iter().flat_map(escape).collect()
    }

    proptest! {
        #[test]
        fn what_a_server_escapes_is_what_pen_logs(raw in prop::collection::vec(any::<u8>(), 0..60)) {
            let line = [b"127.0.0.1 - - \"", &escaped(&raw)[..], b"\" 200 1 \"agent\""].concat();
            let range = find(&line).unwrap();
            let mut expected = Vec::new();
            tame(&raw, BeyondAscii::Kept, &mut expected);
            prop_assert_eq!(logged(&line[range], BeyondAscii::Kept), expected);
        }

        #[test]
        fn what_is_found_never_leaves_the_line(line in prop::collection::vec(prop::sample::select(&b"a\\\"x4\n"[..]), 0..40)) {
            let quotes = line.iter().filter(|&&byte| byte == b'"').count();
            match find(&line) {
                Some(range) => prop_assert!(line[range.start - 1] == b'"' && line[range.end] == b'"'),
                None => prop_assert!(quotes < 2),
            }
        }
    }
}
