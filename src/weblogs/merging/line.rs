//! The lines that are merged, taken apart: those of web servers, and those of pen's log.

use std::ops::Range;

use super::stamp;
use crate::weblogs::{output, request};

/// Where the parts of a web server's line stand in it:
/// `CLIENT MIDDLE[TIME] "REQUEST" REST`, the brackets and quotes included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebLine {
    /// Behind the client and the spaces that follow it, up to the bracket.
    pub middle: Range<usize>,
    /// Between the brackets.
    pub time: Range<usize>,
    /// Between the quotes, as the web server wrote it.
    pub request: Range<usize>,
}

/// What keeps a line from being one of the common log format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Bogus {
    /// It begins with a space, or has none.
    #[error("no client and space at its beginning")]
    Client,
    /// No `[...]` behind the client, or nothing between the two.
    #[error("no [time] behind the client's names")]
    Time,
    /// What is between the brackets is no time.
    #[error("[time] cannot be read; it must be like [09/Jan/2002:00:28:50 +0100]")]
    Stamp,
    /// No `"..."` behind the time, or nothing in it.
    #[error("no \"request\" behind the time")]
    Request,
    /// The line ends with the request.
    #[error("nothing behind the request")]
    Rest,
}

impl WebLine {
    /// Takes a line, without its line end, apart as the classic does. Everything but the client is kept as it is.
    pub fn read(line: &[u8]) -> Result<Self, Bogus> {
        let client = near(line, 0, is(b' ')).filter(|&end| end > 0).ok_or(Bogus::Client)?;
        let spaces = line[client..].iter().take_while(|&&byte| is_space(byte)).count();
        let middle = client + spaces;
        let open = near(line, middle, is(b'[')).filter(|&open| open > middle).ok_or(Bogus::Time)?;
        let (open, close, quote) = match usual_time(line, open) {
            Some((close, quote)) => (open, close, quote),
            None => any_time(line, open)?,
        };
        let start = quote + 1;
        let end =
            memchr::memchr(b'"', &line[start..]).filter(|&length| length > 0).ok_or(Bogus::Request)? + start;
        if end + 1 == line.len() {
            return Err(Bogus::Rest);
        }
        let end = match line[end - 1] {
            b'\\' => request::closing_quote(&line[start..]).map_or(end, |length| start + length),
            _ => end,
        };
        Ok(WebLine { middle: middle..open, time: open + 1..close, request: start..end })
    }
}

/// The bracket and the quote behind the time that `open` opens, if nothing is unusual about them: most lines are so.
fn usual_time(line: &[u8], open: usize) -> Option<(usize, usize)> {
    let [b'[', time @ .., b']', b' ', b'"'] = line.get(open..)?.first_chunk::<{ STAMP + 4 }>()? else {
        return None;
    };
    let close = open + 1 + STAMP;
    (!output::any(time, |byte| (byte == b'[') | (byte == b']'))).then_some((close, close + 2))
}

/// The brackets around the time, and the quote behind it, where `open` is the first bracket.
fn any_time(line: &[u8], open: usize) -> Result<(usize, usize, usize), Bogus> {
    let close = open + memchr::memchr(b']', &line[open..]).ok_or(Bogus::Time)?;
    let quote = opening_quote(line, close).ok_or(Bogus::Request)?;
    let (open, close) = match memchr::memchr(b'[', &line[open + 1..quote]) {
        Some(_) => last_time(line, open..quote).ok_or(Bogus::Stamp)?,
        None => (open, close),
    };
    if close == open + 1 {
        return Err(Bogus::Time);
    }
    if quote == close + 1 {
        return Err(Bogus::Request);
    }
    Ok((open, close, quote))
}

/// The first quote behind `from`. One behind a backslash belongs to a name, unless there is no other.
fn opening_quote(line: &[u8], from: usize) -> Option<usize> {
    let mut quotes = memchr::memchr_iter(b'"', &line[from..]).map(|at| from + at);
    let first = quotes.next()?;
    if line[first - 1] != b'\\' {
        return Some(first);
    }
    Some(quotes.find(|&at| line[at - 1] != b'\\').unwrap_or(first))
}

/// The brackets around the last time in `range`. A client chooses the user's name, which stands before it and may have
/// brackets, even with a time in them: that must neither hide the line nor move it.
fn last_time(line: &[u8], range: Range<usize>) -> Option<(usize, usize)> {
    let start = range.start;
    let mut close = None;
    for at in memchr::memrchr2_iter(b'[', b']', &line[range]).map(|at| start + at) {
        if line[at] == b']' {
            close = Some(at);
        } else if let Some(close) = close.take()
            && stamp::read(&line[at + 1..close]).is_some()
        {
            return Some((at, close));
        }
    }
    None
}

/// Reads times; those of lines that follow each other are mostly of the same day and zone.
#[derive(Debug, Default)]
pub struct Stamps {
    /// The one that was read last and is like all others, and when the day began that it is of.
    last: Option<([u8; STAMP], i64)>,
}

/// How long `09/Jan/2002:00:28:50 +0100` is.
const STAMP: usize = 26;

/// Where `00:28:50` stands in it.
const CLOCK: Range<usize> = 12..20;

impl Stamps {
    /// [`stamp::read`].
    pub fn read(&mut self, text: &[u8]) -> Result<i64, Bogus> {
        let usual = <&[u8; STAMP]>::try_from(text).ok();
        if let Some((text, clock)) = usual.and_then(|text| Some((text, stamp::clock(&text[CLOCK])?))) {
            // Of arrays the compiler compares all at once.
            let day = |text: &[u8; STAMP]| text.first_chunk::<{ CLOCK.start }>().copied();
            let zone = |text: &[u8; STAMP]| text.last_chunk::<{ STAMP - CLOCK.end }>().copied();
            if let Some((last, midnight)) = &self.last
                && day(text) == day(last)
                && zone(text) == zone(last)
            {
                return Ok(midnight + clock);
            }
            let seconds = stamp::read(text).ok_or(Bogus::Stamp)?;
            self.last = Some((*text, seconds - clock));
            return Ok(seconds);
        }
        stamp::read(text).ok_or(Bogus::Stamp)
    }
}

/// A line of pen's log: `CLIENT EPOCH SERVER TEXT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PenLine<'a> {
    /// Who asked.
    pub client: &'a [u8],
    /// When, in seconds since 1970.
    pub time: i64,
    /// Who was asked.
    pub server: &'a [u8],
    /// What was asked: the first 100 bytes of the line. Never empty.
    pub text: &'a [u8],
}

/// Where the parts of a line of pen's stand in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PenParts {
    client: Range<usize>,
    time: i64,
    server: Range<usize>,
    text: usize,
}

impl PenParts {
    /// None: it has no text, or it is not a line of pen's.
    pub fn read(line: &[u8]) -> Option<Self> {
        let client = word(line, 0)?;
        let digits = word(line, client.end)?;
        let server = word(line, digits.end)?;
        let text = word(line, server.end)?.start;
        let (sign, digits) = match &line[digits] {
            [b'-', digits @ ..] => (-1, digits),
            [b'+', digits @ ..] => (1, digits),
            digits => (1, digits),
        };
        Some(PenParts { client, time: sign * number(digits)?, server, text })
    }

    /// The parts of the line that they were read from.
    pub fn of<'a>(&self, line: &'a [u8]) -> PenLine<'a> {
        let part = |range: Range<usize>| line.get(range).unwrap_or_default();
        PenLine {
            client: part(self.client.clone()),
            time: self.time,
            server: part(self.server.clone()),
            text: part(self.text..line.len()),
        }
    }
}

impl<'a> PenLine<'a> {
    /// [`PenParts::read`].
    pub fn read(line: &'a [u8]) -> Option<Self> {
        PenParts::read(line).map(|parts| parts.of(line))
    }

    /// Is it a whole line of pen's about a chunk of a client's data that began with a line end?
    pub fn has_no_text(line: &[u8]) -> bool {
        line.ends_with(b" ") && line.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).count() == 3
    }
}

/// What these digits say, or the largest number there is.
fn number(digits: &[u8]) -> Option<i64> {
    let mut number = 0_i64;
    for digit in digits {
        let digit = i64::from(digit.wrapping_sub(b'0'));
        if digit > 9 {
            return None;
        }
        // Before 18 digits nothing overflows, and no time in seconds has as many.
        number = match digits.len() {
            ..=18 => number * 10 + digit,
            _ => number.saturating_mul(10).saturating_add(digit),
        };
    }
    (!digits.is_empty()).then_some(number)
}

/// The first word from `start` on.
fn word(line: &[u8], start: usize) -> Option<Range<usize>> {
    let start = start + line.get(start..)?.iter().position(|&byte| !is_space(byte))?;
    let mut end = start;
    loop {
        match near(line, end, at_most_a_space) {
            None => return Some(start..line.len()),
            Some(at) if is_space(line[at]) => return Some(start..at),
            Some(at) => end = at + 1,
        }
    }
}

/// One comparison for nearly all bytes.
fn is_space(byte: u8) -> bool {
    byte <= b' ' && byte.is_ascii_whitespace()
}

/// In each byte of a number: what it is called.
const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

/// Where the first byte is, from `from` on, that is wanted. What is near is found faster so than with memchr: `wanted` sets
/// the highest bit of such bytes among eight of them, and clears it of those before the first one.
fn near(line: &[u8], from: usize, wanted: impl Fn(u64) -> u64) -> Option<usize> {
    let (eights, rest) = line.get(from..)?.as_chunks();
    let mut at = from;
    for &eight in eights {
        let found = wanted(u64::from_le_bytes(eight)) & HIGH;
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    // The bytes that are missing have all bits: none of them is wanted.
    let mut last = [0xff; 8];
    last[..rest.len()].copy_from_slice(rest);
    let found = wanted(u64::from_le_bytes(last)) & HIGH;
    (found != 0).then(|| at + found.trailing_zeros() as usize / 8)
}

/// Is it this byte of ASCII?
fn is(byte: u8) -> impl Fn(u64) -> u64 {
    let all = LOW * u64::from(byte);
    move |eight| below(eight ^ all, 1)
}

fn at_most_a_space(eight: u64) -> u64 {
    below(eight, b' ' + 1)
}

/// Which of these bytes are less than `limit`? Right up to the first that is, for which is borrowed from the next one.
fn below(eight: u64, limit: u8) -> u64 {
    eight.wrapping_sub(LOW * u64::from(limit)) & !eight
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(line: &str) -> Result<(&str, &str, &str), Bogus> {
        WebLine::read(line.as_bytes())
            .map(|parts| (&line[parts.middle], &line[parts.time], &line[parts.request]))
    }

    #[test]
    fn a_line_has_names_a_time_a_request_and_a_rest() {
        let line = r#"10.0.0.1 - bob [09/Jan/2002:00:28:50 +0100] "GET / HTTP/1.0" 200 1 "ref" "agent""#;
        assert_eq!(parts(line), Ok(("- bob ", "09/Jan/2002:00:28:50 +0100", "GET / HTTP/1.0")));
        assert_eq!(parts(r#"::1   -  x[t]  y"GET /"z"#), Ok(("-  x", "t", "GET /")));
        assert_eq!(parts("c \t- - [t] \"r\" "), Ok(("- - ", "t", "r")));
    }

    #[test]
    fn an_escaped_quote_belongs_to_the_request() {
        assert_eq!(parts(r#"c - - [t] "GET /a\"b" 200 "x""#), Ok(("- - ", "t", r#"GET /a\"b"#)));
        assert_eq!(parts(r#"c - - [t] "GET /a\" 200 1"#), Ok(("- - ", "t", r"GET /a\")));
        assert_eq!(parts(r#"c - - [t] "GET /a\\" 200 "x""#), Ok(("- - ", "t", r"GET /a\\")));
    }

    #[test]
    fn brackets_in_the_users_name_are_not_those_of_the_time() {
        let time = "08/Jan/2002:23:28:50 +0000";
        for user in
            ["a[b", "[", "]", "a]b", "[]", "[x]", "[01/Jan/2030:00:00:00 +0000]", r#"[t] \"GET /"#, "[[[]"]
        {
            let line = format!("c - {user} [{time}] \"GET /\" 200 1");
            assert_eq!(parts(&line), Ok((&format!("- {user} ")[..], time, "GET /")), "{line}");
        }
        assert_eq!(parts("c - [x] [y] \"GET /\" 200"), Err(Bogus::Stamp));
        assert_eq!(parts(&format!("c - [{time}] [pid 5] \"GET /\" 200")), Ok(("- ", time, "GET /")));
    }

    #[test]
    fn what_lacks_a_part_is_bogus() {
        for (line, why) in [
            ("", Bogus::Client),
            ("hello", Bogus::Client),
            (r#" c - - [t] "r" 1"#, Bogus::Client),
            ("c\t-\t-\t[t]\t\"r\"\t1", Bogus::Client),
            ("hello you", Bogus::Time),
            (r#"c [t] "r" 1"#, Bogus::Time),
            (r#"c - - [] "r" 1"#, Bogus::Time),
            (r#"c - - [t "r" 1"#, Bogus::Time),
            (r#"c - - [t]"r" 1"#, Bogus::Request),
            (r#"c - - [t] "" 1"#, Bogus::Request),
            (r#"c - - [t] "r 1"#, Bogus::Request),
            (r"c - - [t] r 1", Bogus::Request),
            (r#"c - - [t] "r""#, Bogus::Rest),
        ] {
            assert_eq!(parts(line), Err(why), "{line}");
        }
    }

    fn pen(line: &str) -> Option<(&str, i64, &str, &str)> {
        fn text(bytes: &[u8]) -> &str {
            std::str::from_utf8(bytes).unwrap()
        }
        PenLine::read(line.as_bytes()).map(|it| (text(it.client), it.time, text(it.server), text(it.text)))
    }

    #[test]
    fn pens_line_has_client_time_server_and_text() {
        let expected = Some(("192.0.2.10", 1_010_532_530, "10.0.0.1", "GET / HTTP/1.0"));
        assert_eq!(pen("192.0.2.10 1010532530 10.0.0.1 GET / HTTP/1.0"), expected);
        assert_eq!(pen("  192.0.2.10\t +1010532530   10.0.0.1   GET / HTTP/1.0"), expected);
        assert_eq!(pen("::1 -5 ::2 x "), Some(("::1", -5, "::2", "x ")));
        assert_eq!(pen("c 99999999999999999999999 s x").map(|line| line.1), Some(i64::MAX));
        assert_eq!(pen("c -99999999999999999999999 s x").map(|line| line.1), Some(-i64::MAX));
    }

    #[test]
    fn other_lines_are_not_pens() {
        for line in ["", "x", "x 5", "x 5 z", "x 5 z ", "x y z w", "x 5.5 z w", "x - z w", "x 5x z w"] {
            assert_eq!(pen(line), None, "{line}");
        }
        assert!(PenLine::has_no_text(b"127.0.0.1 5 127.0.0.2 "));
        assert!(!PenLine::has_no_text(b"127.0.0.1 5 127.0.0.2"));
        assert!(!PenLine::has_no_text(b"garbage"));
    }

    /// The rule, without any haste.
    fn slow_parts(line: &[u8]) -> Option<(Range<usize>, Range<usize>, usize)> {
        let find =
            |byte: u8, from: usize| line[from..].iter().position(|&other| other == byte).map(|at| from + at);
        let client = find(b' ', 0).filter(|&end| end > 0)?;
        let middle = (client..line.len()).find(|&at| !line[at].is_ascii_whitespace())?;
        let open = find(b'[', middle).filter(|&open| open > middle)?;
        let close = find(b']', open)?;
        let quote = find(b'"', close)?;
        let is_time = |&(open, close): &(usize, usize)| stamp::read(&line[open + 1..close]).is_some();
        let end_of = |open: usize| {
            let end = find(b']', open).filter(|&end| end < quote && !line[open + 1..end].contains(&b'['));
            end.map(|end| (open, end))
        };
        let (open, close) = match line[open + 1..quote].contains(&b'[') {
            true => (open..quote).rev().filter(|&at| line[at] == b'[').filter_map(end_of).find(is_time)?,
            false => (open, close),
        };
        if close == open + 1 || quote == close + 1 {
            return None;
        }
        let end = find(b'"', quote + 1).filter(|&end| end > quote + 1)?;
        (end + 1 < line.len()).then_some((middle..open, open + 1..close, quote + 1))
    }

    proptest! {
        #[test]
        fn haste_makes_no_difference(
            names in "[a \\[\\]\"]{0,6}",
            time in "[0-9:\\[\\]\" ]{24,28}|09/Jan/2002:00:28:50 [+]0100(\\] ?\\[)?",
            rest in "[] \"a]{0,6}",
        ) {
            let line = format!("c {names}[{time}]{rest}\"GET\" 1");
            let fast = WebLine::read(line.as_bytes()).ok();
            let fast = fast.map(|parts| (parts.middle, parts.time, parts.request.start));
            prop_assert_eq!(fast, slow_parts(line.as_bytes()), "{}", line);
        }

        #[test]
        fn times_are_read_the_same_whatever_was_read_before(
            times in prop::collection::vec("(0[0-9]|31)/(Jan|Feb|Foo)/200[23]:[012][0-9]:[056x][0-9]:[056][0-9] [+-]0[012][037]0", 0..9)
        ) {
            let mut stamps = Stamps::default();
            for time in times.iter().chain(&times) {
                prop_assert_eq!(stamps.read(time.as_bytes()).ok(), stamp::read(time.as_bytes()), "{}", time);
            }
        }

        #[test]
        fn parts_are_in_order_and_inside_of_the_line(line in prop::collection::vec(prop::sample::select(&b"a [\"]\\\t"[..]), 0..40)) {
            if let Ok(parts) = WebLine::read(&line) {
                prop_assert!(parts.middle.start < parts.middle.end);
                prop_assert_eq!(parts.middle.end + 1, parts.time.start);
                prop_assert!(parts.time.start < parts.time.end);
                prop_assert!(parts.time.end + 2 < parts.request.start);
                prop_assert!(parts.request.start < parts.request.end && parts.request.end < line.len());
                prop_assert_eq!(line[parts.request.end], b'"');
            }
        }
    }
}
