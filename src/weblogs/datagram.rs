//! What penlogd(1) receives, taken apart; and what pen and penlog(1) add so that losses are seen.
//!
//! | datagram | from |
//! |---|---|
//! | `+ CLIENT SERVER TEXT\n#STREAM SEQ\n` | pen: a client's request. The second line is missing in what pen 0.34.1 sends |
//! | `#penlog STREAM SENT\n` | penlog: a mark, so many datagrams were sent before it |
//! | `#penlog STREAM SENT LENGTH\n` | penlog: the next line comes in pieces, so many bytes in all; 0: nobody knows yet |
//! | `<PRI>Mon DD HH:MM:SS HOST TAG: LINE` | nginx: a line, by syslog |
//! | anything else | penlog: a line, or a piece of one |
//!
//! STREAM is eight hexadecimal digits that are drawn anew whenever numbering begins anew. Programs of 0.34.1 ignore what
//! follows the first newline, and drop marks.

use std::io::Write;
use std::net::IpAddr;
use std::str;

/// The largest datagram that pen sends, in bytes. The text of one that is as long as this may have been cut.
pub use crate::model::logline::DATAGRAM_MAX as RECORD_MAX;

/// The largest datagram that penlog sends, in bytes: longer lines come in pieces of this size.
pub const PIECE: usize = 1023;

/// The longest line that penlog announces, and that is put together from pieces, in bytes.
pub const LINE_MAX: usize = 65_536;

/// What is announced as the length of a longer line, which is sent as it comes.
pub const UNKNOWN: usize = 0;

/// No mark is longer, in bytes; the pieces of a line, which can hold what its client wants, are.
const MARK_MAX: usize = 64;

/// The longest name of a client, in bytes.
const CLIENT_MAX: usize = 99;

/// A datagram that has been understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// A client's request.
    Record(Record<'a>),
    /// What penlog says of the datagrams around this one.
    Mark(Mark),
    /// A line of a web server's log.
    Line(Line<'a>),
}

/// A client's request, as pen tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Who asked: printable and without spaces, but not more than a name for it.
    pub client: &'a [u8],
    /// Who was asked, with IPv4-mapped addresses as IPv4.
    pub server: IpAddr,
    /// The request's first line, or the beginning of it; as it came, not tamed.
    pub text: &'a [u8],
    /// There was no more room: the text may have been longer.
    pub cut: bool,
    /// Which of its sender's datagrams it is.
    pub number: Option<Number>,
}

/// The place of a datagram among those of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// The sender's log, since it was opened last.
    pub stream: Stream,
    /// From 0, one more for each datagram, also for those that could not be sent.
    pub seq: u64,
}

/// A sequence of datagrams that are counted from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stream(pub u32);

/// What penlog says between its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which penlog it is.
    pub stream: Stream,
    /// How many datagrams it had sent before, marks not counted.
    pub sent: u64,
    /// The next line has so many bytes, its newline included, or [`UNKNOWN`], and comes in pieces.
    pub length: Option<usize>,
}

/// A line of a web server's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Without the newline and without syslog's header; anything can be in it.
    pub bytes: &'a [u8],
    /// It may be the first piece of a line: it has the size of one, and no newline.
    pub piece: bool,
}

/// A datagram that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    /// Why.
    pub why: Malformed,
    /// Which of its sender's it is, which can be told nevertheless.
    pub number: Option<Number>,
}

/// Why a datagram has been dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// It begins as a record of pen, but is not CLIENT, SERVER and TEXT.
    Record,
    /// A record whose TEXT is empty. pen sends it for a client that begins with an empty line.
    NoText,
    /// A record whose SERVER is no address.
    Server,
    /// A record whose SERVER is a Unix socket: no line can come from there.
    UnixServer,
    /// It begins as a mark of penlog, but is none.
    Mark,
    /// A line without a request in quotes.
    Line,
}

impl Malformed {
    /// All of them, in the order of their declaration.
    pub const ALL: [Malformed; 6] = [
        Malformed::Record,
        Malformed::NoText,
        Malformed::Server,
        Malformed::UnixServer,
        Malformed::Mark,
        Malformed::Line,
    ];
}

/// What a datagram says.
///
/// # Errors
/// Why it says nothing. That a line has no request is not found out here.
pub fn read(datagram: &[u8]) -> Result<Datagram<'_>, Rejected> {
    if let Some(rest) = datagram.strip_prefix(b"+") {
        return record(rest, datagram.len() >= RECORD_MAX).map(Datagram::Record);
    }
    if let Some(rest) = datagram.strip_prefix(b"#penlog ") {
        return mark(rest).map(Datagram::Mark).ok_or(Rejected { why: Malformed::Mark, number: None });
    }
    let message = without_syslog_header(datagram);
    let piece = message.is_none() && datagram.len() == PIECE && !datagram.ends_with(b"\n");
    Ok(Datagram::Line(Line { bytes: without_line_end(message.unwrap_or(datagram)), piece }))
}

/// Appends a mark, a datagram of its own, to `out`.
pub fn write_mark(out: &mut Vec<u8>, mark: Mark) {
    write!(out, "#penlog {:08x} {}", mark.stream.0, mark.sent).expect("writing to memory");
    if let Some(length) = mark.length {
        write!(out, " {length}").expect("writing to memory");
    }
    out.push(b'\n');
}

/// `line` without the CR and LF at its end.
pub fn without_line_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
    &line[..end.map_or(0, |last| last + 1)]
}

fn record(bytes: &[u8], cut: bool) -> Result<Record<'_>, Rejected> {
    let end = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
    let (line, more) = bytes.split_at(end);
    let number = more.strip_prefix(b"\n#").and_then(number);
    let rejected = |why| Err(Rejected { why, number });
    let (client, rest) = word(line);
    let (server, text) = word(rest);
    let named = (1..=CLIENT_MAX).contains(&client.len()) && client.iter().all(u8::is_ascii_graphic);
    if !named || server.is_empty() {
        return rejected(Malformed::Record);
    }
    let address = str::from_utf8(server).ok().and_then(|server| server.parse::<IpAddr>().ok());
    let Some(address) = address else {
        return rejected(if server.contains(&b'/') { Malformed::UnixServer } else { Malformed::Server });
    };
    let text = without_spaces(text);
    if text.is_empty() {
        return rejected(Malformed::NoText);
    }
    Ok(Record { client, server: address.to_canonical(), text, cut, number })
}

fn number(bytes: &[u8]) -> Option<Number> {
    let (stream, seq) = word(without_line_end(bytes));
    Some(Number { stream: stream_name(stream)?, seq: decimal(without_spaces(seq))? })
}

fn mark(bytes: &[u8]) -> Option<Mark> {
    if bytes.len() > MARK_MAX {
        return None;
    }
    let mut words = without_line_end(bytes).split(|&byte| byte == b' ');
    let stream = stream_name(words.next()?)?;
    let sent = decimal(words.next()?)?;
    let length = match words.next() {
        None => None,
        Some(text) => Some(
            usize::try_from(decimal(text)?)
                .ok()
                .filter(|length| (PIECE..=LINE_MAX).contains(length) || *length == UNKNOWN)?,
        ),
    };
    words.next().is_none().then_some(Mark { stream, sent, length })
}

fn stream_name(text: &[u8]) -> Option<Stream> {
    if text.len() != 8 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(str::from_utf8(text).ok()?, 16).ok().map(Stream)
}

fn decimal(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

/// What follows the header that nginx puts before a line, with or without the name of its host.
fn without_syslog_header(datagram: &[u8]) -> Option<&[u8]> {
    let rest = datagram.strip_prefix(b"<")?;
    let digits = rest.iter().take(4).position(|&byte| byte == b'>')?;
    if digits == 0 || !rest[..digits].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (time, rest) = rest[digits + 1..].split_at_checked("Mon DD HH:MM:SS ".len())?;
    let as_written = time.iter().zip(b"Aaa  0 00:00:00 ").all(|(byte, form)| match form {
        b'A' | b'a' => byte.is_ascii_alphabetic(),
        b'0' => byte.is_ascii_digit(),
        _ if form == byte => true,
        // The first digit of the day, which can be a space.
        _ => *form == b' ' && byte.is_ascii_digit() && (b'1'..=b'3').contains(byte),
    });
    if !as_written {
        return None;
    }
    let (first, rest) = rest.split_at(memchr::memchr(b' ', rest)?);
    if is_tag(first) {
        return rest.get(1..);
    }
    let rest = rest.get(1..)?;
    let (second, rest) = rest.split_at(memchr::memchr(b' ', rest)?);
    if is_tag(second) { rest.get(1..) } else { None }
}

/// `nginx:`, `httpd[17]:`
fn is_tag(word: &[u8]) -> bool {
    word.len() > 1 && word.ends_with(b":") && !word.contains(&b'"')
}

/// The first word, and what follows it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = without_spaces(text);
    text.split_at(memchr::memchr(b' ', text).unwrap_or(text.len()))
}

fn without_spaces(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| byte != b' ').unwrap_or(text.len());
    &text[start..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::address::ClientAddress;
    use crate::model::logline::{self, Sequence};

    fn record(datagram: &[u8]) -> Result<(String, String, String), Malformed> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match read(datagram) {
            Ok(Datagram::Record(record)) => {
                Ok((text(record.client), record.server.to_string(), text(record.text)))
            }
            Err(rejected) => Err(rejected.why),
            other => panic!("{other:?}"),
        }
    }

    fn fields(client: &str, server: &str, text: &str) -> Result<(String, String, String), Malformed> {
        Ok((client.to_owned(), server.to_owned(), text.to_owned()))
    }

    fn line(datagram: &[u8]) -> &[u8] {
        match read(datagram) {
            Ok(Datagram::Line(line)) => line.bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_record_is_client_server_and_text() {
        let whole = fields("10.0.0.7", "127.0.0.2", "GET /a b HTTP/1.0");
        assert_eq!(record(b"+ 10.0.0.7 127.0.0.2 GET /a b HTTP/1.0\n"), whole);
        assert_eq!(record(b"+  10.0.0.7   127.0.0.2  GET /a b HTTP/1.0"), whole);
        assert_eq!(record(b"+10.0.0.7 127.0.0.2 GET /a b HTTP/1.0\r\nmore"), whole);
        assert_eq!(record(b"+ unix ::ffff:127.0.0.2 GET /\n"), fields("unix", "127.0.0.2", "GET /"));
        assert_eq!(record(b"+ 2001:db8::1 ::1 GET /\n"), fields("2001:db8::1", "::1", "GET /"));
    }

    #[test]
    fn what_is_no_record_is_told_by_kind() {
        for bogus in
            [&b"+"[..], b"+ ", b"+ c", b"+ c \n", b"+\n c 127.0.0.1 GET /", b"+ c\x1b 127.0.0.1 GET /"]
        {
            assert_eq!(record(bogus), Err(Malformed::Record), "{}", bogus.escape_ascii());
        }
        assert_eq!(record(&[b"+ ", &[b'c'; 100][..], b" 127.0.0.1 GET /"].concat()), Err(Malformed::Record));
        assert!(record(&[b"+ ", &[b'c'; 99][..], b" 127.0.0.1 GET /"].concat()).is_ok());
        assert_eq!(record(b"+ 1.2.3.4 no.such.host GET /\n"), Err(Malformed::Server));
        assert_eq!(record(b"+ 1.2.3.4 /run/x.sock GET /\n"), Err(Malformed::UnixServer));
        assert_eq!(record(b"+ 1.2.3.4 127.0.0.1 \n"), Err(Malformed::NoText));
    }

    #[test]
    fn a_records_number_stands_in_its_second_line() {
        let number = |datagram: &[u8]| match read(datagram) {
            Ok(Datagram::Record(record)) => record.number,
            Err(rejected) => rejected.number,
            other => panic!("{other:?}"),
        };
        let expected = Some(Number { stream: Stream(0xab12_0099), seq: 17 });
        assert_eq!(number(b"+ c 127.0.0.1 GET /\n#ab120099 17\n"), expected);
        assert_eq!(number(b"+ c 127.0.0.1 GET /\n#ab120099 17"), expected);
        assert_eq!(number(b"+ c 127.0.0.1 \n#ab120099 17\n"), expected);
        assert_eq!(number(b"+ c 127.0.0.1 GET /\n"), None);
        for bogus in ["ab12009 17", "ab120099 ", "ab120099 -1", "+b120099 1", "ab120099 99999999999999999999"]
        {
            assert_eq!(number(format!("+ c 127.0.0.1 GET /\n#{bogus}\n").as_bytes()), None, "{bogus}");
        }
    }

    #[test]
    fn a_mark_says_how_many_were_sent_and_what_comes() {
        let mark = |text: &str| match read(text.as_bytes()) {
            Ok(Datagram::Mark(mark)) => Some((mark.stream.0, mark.sent, mark.length)),
            Err(rejected) if rejected.why == Malformed::Mark => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(mark("#penlog 00000001 1000\n"), Some((1, 1000, None)));
        assert_eq!(mark("#penlog 00000001 0 1024"), Some((1, 0, Some(1024))));
        for bogus in
            ["", "1 1", "00000001", "00000001 x", "00000001 1 1022", "00000001 1 65537", "00000001 1 2000 3"]
        {
            assert_eq!(mark(&format!("#penlog {bogus}\n")), None, "{bogus}");
        }
    }

    #[test]
    fn syslogs_header_is_taken_off() {
        for header in [
            "<190>Nov 23 10:00:00 host.example nginx: ",
            "<190>Nov  3 10:00:00 nginx: ",
            "<6>Jan 31 23:59:59 host access[17]: ",
        ] {
            assert_eq!(line(format!("{header}10.0.0.1 - - \"GET /\"").as_bytes()), b"10.0.0.1 - - \"GET /\"");
        }
        for none in [
            "<190>x",
            "<1900>Nov 23 10:00:00 h n: l",
            "<>Nov 23 10:00:00 h n: l",
            "<190>Nov 43 10:00:00 h n: l",
        ] {
            assert_eq!(line(none.as_bytes()), none.as_bytes());
        }
        assert_eq!(line(b"<190>Nov 23 10:00:00 host nginx no"), b"<190>Nov 23 10:00:00 host nginx no");
    }

    #[test]
    fn a_datagram_of_a_pieces_size_without_newline_may_be_one() {
        let piece = |datagram: &[u8]| matches!(read(datagram), Ok(Datagram::Line(Line { piece: true, .. })));
        assert!(piece(&[b'a'; PIECE]));
        assert!(!piece(&[b'a'; PIECE - 1]) && !piece(&[b'a'; PIECE + 1]));
        assert!(!piece(&[&[b'a'; PIECE - 1][..], b"\n"].concat()));
        let syslog = [b"<190>Nov  3 10:00:00 nginx: ", &[b'a'; PIECE][..]].concat();
        assert!(!piece(&syslog[..PIECE]));
    }

    #[test]
    fn a_line_has_no_line_end() {
        assert_eq!(line(b"a b\r\n"), b"a b");
        assert_eq!(line(b"a\nb\n\n"), b"a\nb");
        assert_eq!(line(b""), b"");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(stream: u32, seq: u64, sent: u64, length in prop::option::of(1024_usize..65_536)) {
            let seq = seq.min(u64::MAX - 1);
            let number = Number { stream: Stream(stream), seq };
            let client = ClientAddress::Inet([10, 0, 0, 7].into(), 40000);
            let mut datagram = Vec::new();
            logline::datagram(&mut datagram, &client, &"127.0.0.1", &mut Sequence { stream, next: seq }, b"GET /\r\n");
            let Ok(Datagram::Record(record)) = read(&datagram) else { panic!() };
            prop_assert_eq!((record.number, record.text), (Some(number), &b"GET /"[..]));

            let mark = Mark { stream: Stream(stream), sent, length };
            let mut datagram = Vec::new();
            write_mark(&mut datagram, mark);
            prop_assert_eq!(read(&datagram), Ok(Datagram::Mark(mark)));
        }
    }
}
