//! The text of one request in the log: pen(1) `-l`, read by mergelogs(1) and penlogd(1).
//!
//! Both forms are appended to the caller's buffer, which keeps its room from line to line: nothing is allocated here.
//! Not here: when a request is logged (`net`), where the lines go (`report::log`).

use std::fmt::{self, Display};
use std::io::Write;

use super::address::ClientAddress;
use super::time::WallTime;

/// How much of a request's first line the file keeps, in bytes; mergelogs(1) compares no more.
pub const TEXT_MAX: usize = 100;

/// The largest datagram that penlogd(1) takes, in bytes.
pub const DATAGRAM_MAX: usize = 1024;

/// `CLIENT EPOCH SERVER TEXT\n`. TEXT is the first line of `chunk`, at most 100 bytes of it, with a dot for every byte
/// that is not printable ASCII.
pub fn file_line(
    out: &mut Vec<u8>,
    client: &ClientAddress,
    server: &dyn Display,
    now: WallTime,
    chunk: &[u8],
) {
    write!(out, "{client} {now} {server} ").expect("writing to memory");
    let text = first_line(chunk);
    let text = &text[..text.len().min(TEXT_MAX)];
    out.extend(text.iter().map(|&byte| if byte.is_ascii() { tame(byte) } else { b'.' }));
    out.push(b'\n');
}

/// Tells datagrams of one sender apart, so that their reader notices which are missing: `#STREAM SEQ`, where STREAM is
/// eight hexadecimal digits that no other sender has, and SEQ counts from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// Whose datagrams they are.
    pub stream: u32,
    /// The next one's number: how many there have been.
    pub next: u64,
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:08x} {}", self.stream, self.next)
    }
}

/// `+ CLIENT SERVER TEXT\n#STREAM SEQ\n`, at most 1024 bytes in all, and that many exactly if TEXT was cut for it. TEXT is
/// the first line of `chunk` with a dot for every control byte; bytes beyond ASCII stay as they are. The penlogd of pen
/// 0.34.1 reads no further than the first newline. The next datagram has the next number.
pub fn datagram(
    out: &mut Vec<u8>,
    client: &ClientAddress,
    server: &dyn Display,
    sequence: &mut Sequence,
    chunk: &[u8],
) {
    let start = out.len();
    write!(out, "+ {client} {server} ").expect("writing to memory");
    let text_at = out.len();
    write!(out, "\n{sequence}\n").expect("writing to memory");
    let room = DATAGRAM_MAX.saturating_sub(out.len() - start);
    let text = first_line(chunk);
    let text = &text[..text.len().min(room)];
    out.splice(text_at..text_at, text.iter().map(|&byte| tame(byte)));
    sequence.next += 1;
}

/// A control byte in a log could forge a line or take over the terminal of its reader.
fn tame(byte: u8) -> u8 {
    if byte.is_ascii_control() { b'.' } else { byte }
}

fn first_line(chunk: &[u8]) -> &[u8] {
    let end = chunk.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    &chunk[..end.unwrap_or(chunk.len())]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client() -> ClientAddress {
        ClientAddress::Inet([127, 0, 0, 7].into(), 40000)
    }

    fn line(chunk: &[u8]) -> String {
        let mut out = b"before\n".to_vec();
        file_line(&mut out, &client(), &"127.0.0.1", WallTime(1_795_331_283), chunk);
        String::from_utf8(out).unwrap().strip_prefix("before\n").unwrap().to_owned()
    }

    #[test]
    fn a_line_has_client_time_server_and_the_requests_first_line() {
        let expected = "127.0.0.7 1795331283 127.0.0.1 GET /index.html HTTP/1.0\n";
        assert_eq!(line(b"GET /index.html HTTP/1.0\r\nHost: a\r\n\r\n"), expected);
        assert_eq!(line(b"GET /index.html HTTP/1.0\nHost: a\n\n"), expected);
        assert_eq!(line(b"GET /index.html HTTP/1.0"), expected);
        assert_eq!(line(b"\r\nx"), "127.0.0.7 1795331283 127.0.0.1 \n");
    }

    #[test]
    fn the_text_is_cut_to_100_bytes() {
        assert_eq!(line(&[b'a'; 200]), format!("127.0.0.7 1795331283 127.0.0.1 {}\n", "a".repeat(100)));
    }

    #[test]
    fn bytes_that_are_not_printable_become_dots() {
        assert_eq!(
            line(b"\x16\x03\x00\x1b[2J\t\x7f\x80\xff~"),
            "127.0.0.7 1795331283 127.0.0.1 ....[2J....~\n"
        );
    }

    fn sequence(next: u64) -> Sequence {
        Sequence { stream: 0x00c0_ffee, next }
    }

    #[test]
    fn a_datagram_has_no_time_and_keeps_high_bytes() {
        let mut out = Vec::new();
        datagram(&mut out, &client(), &"127.0.0.1", &mut sequence(0), b"GET /\xe5\x1b HTTP/1.0\r\n");
        assert_eq!(out, b"+ 127.0.0.7 127.0.0.1 GET /\xe5. HTTP/1.0\n#00c0ffee 0\n");
    }

    #[test]
    fn datagrams_are_numbered() {
        let (mut out, mut numbers) = (Vec::new(), sequence(9));
        for text in ["a", "b"] {
            datagram(&mut out, &client(), &"::1", &mut numbers, text.as_bytes());
        }
        assert_eq!(out, b"+ 127.0.0.7 ::1 a\n#00c0ffee 9\n+ 127.0.0.7 ::1 b\n#00c0ffee 10\n");
        assert_eq!(numbers, sequence(11));
    }

    #[test]
    fn a_datagram_is_cut_to_1024_bytes_whatever_its_number() {
        for (next, end) in [(0, "a\n#00c0ffee 0\n"), (u64::MAX - 1, "a\n#00c0ffee 18446744073709551614\n")] {
            let mut out = b"another\n".to_vec();
            datagram(&mut out, &ClientAddress::Unix, &"/run/x.sock", &mut sequence(next), &[b'a'; 4096]);
            assert_eq!(out.len() - b"another\n".len(), 1024);
            assert!(out.starts_with(b"another\n+ unix /run/x.sock aaa") && out.ends_with(end.as_bytes()));
        }
    }

    #[test]
    fn a_text_that_fits_exactly_is_whole() {
        let mut out = Vec::new();
        datagram(&mut out, &client(), &"h", &mut sequence(0), b"");
        let longest = vec![b'a'; 1024 - out.len()];
        out.clear();
        datagram(&mut out, &client(), &"h", &mut sequence(0), &longest);
        assert_eq!(out, [b"+ 127.0.0.7 h ", &longest[..], b"\n#00c0ffee 0\n"].concat());
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_is_one_printable_line(chunk in prop::collection::vec(any::<u8>(), 0..1500)) {
            let text = line(&chunk);
            prop_assert!(text.ends_with('\n'));
            prop_assert!(text[..text.len() - 1].bytes().all(|byte| (b' '..=b'~').contains(&byte)));

            let mut out = Vec::new();
            datagram(&mut out, &client(), &"h", &mut sequence(7), &chunk);
            prop_assert!(out.len() <= 1024);
            let text = out.strip_suffix(b"\n#00c0ffee 7\n").unwrap();
            prop_assert!(!text.iter().any(u8::is_ascii_control));
        }
    }
}
