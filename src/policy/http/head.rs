//! Heads of requests: found, checked, and rewritten with the headers that tell of the client.
//!
//! A head is read once, by httparse, which refuses most of what RFC 9112 does not allow. What is left to be checked here is
//! what two servers could understand in two ways: where the body ends, and who the client is.
//!
//! ```text
//! X-Forwarded-For: 192.0.2.1                     one line, whose last entry is ours
//! X-Forwarded-Proto: http                        one line, ours
//! Forwarded: for=192.0.2.1;proto=http            RFC 7239; for="[2001:db8::1]"
//! ```
//!
//! Several lines of one list become one in the place of the last, which means the same (RFC 9110, 5.3): there are servers
//! that look at the first line alone.

mod field;
mod opening;
mod rules;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;

use httparse::{Header, Status};
use memchr::memchr_iter;

use self::field::{Field, Ours, Spelling};
use self::rules::Fate;
use super::body::{Body, Chunked};

pub use self::opening::{Opening, empty_lines, opening};
pub use self::rules::HeadRules;

/// The most headers of a request.
pub const MOST_HEADERS: usize = 256;

/// The largest Content-Length: servers count in signed numbers.
const LONGEST_BODY: u64 = i64::MAX as u64;

/// Why something is no message, for the administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

const NOT_WHOLE: Malformed = Malformed("a head that is not whole");

/// What a request's response depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Nothing.
    #[default]
    Plain,
    /// HEAD: its response has no body, whatever it says.
    Head,
    /// It asks to go on in another protocol, which status 101 grants.
    Upgrade,
    /// CONNECT: any status 2xx makes the connection a tunnel, unless its response has a body.
    Connect,
}

/// What must be known of a request to find the next.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// What it asks for.
    pub kind: Kind,
    /// What follows its head.
    pub body: Body,
}

/// Where a head ends that begins with these bytes: behind its blank line. `looked`: how many of the bytes have been
/// looked at before, without success.
pub fn find_end(bytes: &[u8], looked: usize) -> Option<usize> {
    // The end of the line before may have been seen, and half of the blank line.
    let from = looked.saturating_sub(2);
    memchr_iter(b'\n', bytes.get(from..)?).map(|at| from + at + 1).find_map(|next| {
        match bytes.get(next..)? {
            [b'\n', ..] => Some(next + 1),
            [b'\r', b'\n', ..] => Some(next + 2),
            _ => None,
        }
    })
}

/// Checks a whole head, blank line included, and appends what the server gets instead.
///
/// # Errors
/// It is not one, or could be understood in two ways. Then nothing is appended.
pub fn rewrite(head: &[u8], rules: &HeadRules, out: &mut Vec<u8>) -> Result<Request, Malformed> {
    let before = out.len();
    let (request, length) = rewrite_first(head, rules, out)?;
    if length < head.len() {
        out.truncate(before);
        return Err(NOT_WHOLE);
    }
    Ok(request)
}

/// The same for the head that these bytes begin with, which ends where [`find_end`] says. How many of them are it?
///
/// # Errors
/// They do not begin with a whole one, or it could be understood in two ways. Then nothing is appended.
pub fn rewrite_first(
    bytes: &[u8],
    rules: &HeadRules,
    out: &mut Vec<u8>,
) -> Result<(Request, usize), Malformed> {
    let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let head = match parsed.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Status::Complete(length)) => bytes.get(..length).ok_or(NOT_WHOLE)?,
        Ok(Status::Partial) => return Err(NOT_WHOLE),
        Err(error) => return Err(Malformed(reason(error))),
    };
    let (Some(method), Some(version)) = (parsed.method, parsed.version) else {
        return Err(Malformed("a head without a request line"));
    };
    let lines = Lines::of(head, method, parsed.headers);
    let mut survey = Survey::of(&lines)?;
    let request = survey.conclude(method, version)?;
    out.reserve(head.len() + rules.ending().len());
    if survey.is_plain {
        out.extend_from_slice(lines.part(lines.start, lines.blank));
        out.extend_from_slice(rules.ending());
    } else {
        lines.copy(rules, &survey, out);
    }
    Ok((request, head.len()))
}

/// What httparse found, in words.
fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::Token | httparse::Error::Status => "a malformed request line",
        httparse::Error::Version => "a version other than HTTP/1.0 and HTTP/1.1",
        httparse::Error::NewLine => "a line that ends in neither CRLF nor LF",
        httparse::Error::HeaderName => "a folded header, or one whose name is no token",
        httparse::Error::HeaderValue => "a control character in a header",
        httparse::Error::TooManyHeaders => "more than 256 headers",
    }
}

/// A head that has been read.
struct Lines<'a> {
    head: &'a [u8],
    headers: &'a [Header<'a>],
    /// Where the request line begins, and where the blank line.
    start: usize,
    blank: usize,
}

impl<'a> Lines<'a> {
    fn of(head: &'a [u8], method: &str, headers: &'a [Header<'a>]) -> Self {
        let blank = if head.ends_with(b"\r\n") { 2 } else { 1 };
        let mut lines = Lines { head, headers, start: 0, blank: head.len().saturating_sub(blank) };
        lines.start = lines.offset(method);
        lines
    }

    fn part(&self, from: usize, to: usize) -> &'a [u8] {
        self.head.get(from..to).unwrap_or_default()
    }

    /// Where something in the head is.
    fn offset(&self, part: &str) -> usize {
        part.as_ptr().addr().wrapping_sub(self.head.as_ptr().addr())
    }

    /// The line that ends here has its carriage return.
    fn has_return(&self, end: usize) -> bool {
        self.head.get(end.wrapping_sub(2)) == Some(&b'\r')
    }

    /// Line by line, with all that is to be done to them.
    fn copy(&self, rules: &HeadRules, survey: &Survey, out: &mut Vec<u8>) {
        // What has been looked at and stays as it is goes at once, when something does not.
        let (mut pending, mut begin) = (self.start, self.start);
        for index in 0..=self.headers.len() {
            let end = self.headers.get(index).map_or(self.blank, |next| self.offset(next.name));
            let header = index.checked_sub(1).and_then(|index| self.headers.get(index));
            match header.map_or(Fate::Stays, |header| rules.fate(header.name, index, survey)) {
                Fate::Stays if self.has_return(end) => {}
                Fate::Stays => {
                    out.extend_from_slice(self.part(pending, end.saturating_sub(1)));
                    out.extend_from_slice(b"\r\n");
                    pending = end;
                }
                Fate::Goes => {
                    out.extend_from_slice(self.part(pending, begin));
                    pending = end;
                }
                Fate::Grows(list, ours) => {
                    out.extend_from_slice(self.part(pending, begin));
                    self.append(list, index, ours, out);
                    pending = end;
                }
            }
            begin = end;
        }
        out.extend_from_slice(self.part(pending, self.blank));
        rules.add_missing(survey, out);
    }

    /// One line of what the first so many headers have of this list, and our entry.
    fn append(&self, list: Ours, count: usize, ours: &[u8], out: &mut Vec<u8>) {
        let headers = self.headers.get(..count).unwrap_or_default();
        let name = headers.last().map_or("", |header| header.name);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        let of_list = Some((Field::Ours(list), Spelling::Exact));
        for header in headers.iter().filter(|header| field::recognise(header.name) == of_list) {
            if !header.value.is_empty() && (list != Ours::Forwarded || closes_quotes(header.value)) {
                out.extend_from_slice(header.value);
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(ours);
        out.extend_from_slice(b"\r\n");
    }
}

/// What follows a value in its list is not within quotes. Whoever leaves one open hides our entry in it.
fn closes_quotes(value: &[u8]) -> bool {
    let (mut quoted, mut bytes) = (false, value.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted && bytes.next().is_none() => return false,
            _ => {}
        }
    }
    !quoted
}

/// What the headers say.
#[derive(Debug)]
struct Survey {
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    /// The header Upgrade is taken out.
    drops_upgrade: bool,
    /// The number of the last header of each of ours, rightly spelt, the first header being 1.
    last: [Option<usize>; 3],
    /// Nothing is to be done but to add ours.
    is_plain: bool,
}

impl Survey {
    fn of(lines: &Lines<'_>) -> Result<Self, Malformed> {
        let mut survey = Survey {
            length: None,
            chunked: false,
            upgrade: false,
            drops_upgrade: false,
            last: [None; 3],
            is_plain: lines.has_return(lines.blank),
        };
        for (index, header) in lines.headers.iter().enumerate() {
            survey.is_plain &= lines.has_return(lines.offset(header.name));
            if let Some((field, spelling)) = field::recognise(header.name) {
                survey.note(field, spelling, header.value, index + 1)?;
            }
        }
        Ok(survey)
    }

    fn last(&self, ours: Ours) -> Option<usize> {
        self.last[ours as usize]
    }

    fn note(
        &mut self,
        field: Field,
        spelling: Spelling,
        value: &[u8],
        number: usize,
    ) -> Result<(), Malformed> {
        match (field, spelling) {
            (Field::Ours(ours), Spelling::Exact) => {
                self.last[ours as usize] = Some(number);
                self.is_plain = false;
            }
            (Field::Ours(_), Spelling::Disguised) => self.is_plain = false,
            (Field::ContentLength | Field::TransferEncoding, Spelling::Disguised) => {
                return Err(Malformed("a header nearly named Content-Length or Transfer-Encoding"));
            }
            (Field::ContentLength, Spelling::Exact) => {
                let length = length(value).ok_or(Malformed("a Content-Length that is not a number"))?;
                if self.length.replace(length).is_some() {
                    return Err(Malformed("more than one Content-Length"));
                }
            }
            (Field::TransferEncoding, Spelling::Exact) => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("a Transfer-Encoding other than chunked"));
                }
                if self.chunked {
                    return Err(Malformed("more than one Transfer-Encoding"));
                }
                self.chunked = true;
            }
            (Field::Connection, _) if names_ours(value) => {
                return Err(Malformed("a Connection header that names one of ours"));
            }
            (Field::Connection, _) => {}
            (Field::Upgrade, _) => self.upgrade = true,
        }
        Ok(())
    }

    /// What the request is, with all of its headers seen.
    fn conclude(&mut self, method: &str, version: u8) -> Result<Request, Malformed> {
        let kind = match method {
            "HEAD" => Kind::Head,
            "CONNECT" => Kind::Connect,
            // Whoever takes it for the method in capitals ends its response elsewhere than who does not.
            _ if method.eq_ignore_ascii_case("HEAD") || method.eq_ignore_ascii_case("CONNECT") => {
                return Err(Malformed("HEAD or CONNECT in small letters"));
            }
            _ if self.upgrade => Kind::Upgrade,
            _ => Kind::Plain,
        };
        let body = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Malformed("both Content-Length and Transfer-Encoding")),
            (true, None) if version == 0 => return Err(Malformed("a Transfer-Encoding in HTTP/1.0")),
            (true, None) => Body::Chunked(Chunked::default()),
            (false, None | Some(0)) => Body::None,
            (false, Some(length)) => Body::Length(length),
        };
        if kind == Kind::Connect && body != Body::None {
            return Err(Malformed("CONNECT with a body"));
        }
        // What a response to HEAD or CONNECT means could not be told if it could be an upgrade's as well. Any relay may
        // take the header out (RFC 9110, 7.8).
        if self.upgrade && kind != Kind::Upgrade {
            self.drops_upgrade = true;
            self.is_plain = false;
        }
        Ok(Request { kind, body })
    }
}

/// Digits, and nothing else.
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    value.iter().try_fold(0, add).filter(|&length| length <= LONGEST_BODY)
}

/// A server removes what Connection names before it looks at the rest (RFC 9110, 7.6.1).
fn names_ours(connection: &[u8]) -> bool {
    let mut words = connection.split(|&byte| !opening::is_tchar(byte));
    words.any(|word| Ours::ALL.iter().any(|ours| field::resembles(word, ours.name())))
}
