//! Is it HTTP at all?

use memchr::{memchr, memchr_iter};

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It cannot be told yet.
    Incomplete,
    /// A request, or what a server might take for one.
    Request,
    /// Nothing that anybody takes for a request of HTTP/1: HTTP/2 with prior knowledge, TLS, SSH …
    Other,
}

/// HTTP/2 with prior knowledge begins like this (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What are these, the first bytes of a connection? Empty lines at the beginning count for nothing. What has been said of
/// them holds for all that may follow, unless it was [`Opening::Incomplete`].
///
/// A server that is less strict than RFC 9112 must not see a request in what is nobody's here: nginx skips carriage returns
/// before a request, Python's servers skip and split at everything that is white space in Latin-1, and some take any method:
/// gunicorn, up to version 21, whatever begins with three of the characters from `$` to `_`.
/// Other protocols must not wait for the end of a line that never comes: LDAP begins with `0` and a control character,
/// AMQP and X11 with letters and NUL.
pub fn opening(bytes: &[u8]) -> Opening {
    let bytes = bytes.get(empty_lines(bytes)..).unwrap_or_default();
    if bytes.starts_with(PREFACE) {
        return Opening::Other;
    }
    if PREFACE.starts_with(bytes) || bytes == b"\r" {
        return Opening::Incomplete;
    }
    let end = memchr(b'\n', bytes);
    let line = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    match (first_word(line), end) {
        (Some(opening), _) => opening,
        (None, None) => Opening::Incomplete,
        (None, Some(_)) if is_request_line(line) => Opening::Request,
        (None, Some(_)) => Opening::Other,
    }
}

/// How many of these bytes are empty lines before a head.
pub fn empty_lines(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let [b'\n', after @ ..] | [b'\r', b'\n', after @ ..] = rest {
        rest = after;
    }
    bytes.len() - rest.len()
}

/// What the first word of a line says, however the line goes on.
fn first_word(line: &[u8]) -> Option<Opening> {
    let (first, rest) = line.split_first()?;
    if is_blank(*first) {
        return Some(Opening::Request);
    }
    let nearly = first.is_ascii_alphabetic() || line.iter().take(3).all(is_nearly_capital);
    if !nearly && !is_tchar(*first) {
        return Some(Opening::Other);
    }
    for &byte in rest {
        match byte {
            b' ' | b'\t' | b'\r' => return None,
            _ if is_tchar(byte) => {}
            // Nearly a method.
            _ if nearly && is_blank(byte) => return None,
            _ if nearly && byte.is_ascii_graphic() => {}
            _ => return Some(Opening::Other),
        }
    }
    None
}

/// Would some server try to read a request from a whole line?
fn is_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = |slash: usize| {
        slash
            .checked_sub(4)
            .and_then(|start| line.get(start..slash))
            .is_some_and(|name| name.eq_ignore_ascii_case(b"HTTP"))
    };
    memchr_iter(b'/', line).any(version) || begins_with_method(line)
}

/// HTTP/0.9 has no version. The classic takes three methods in any letter case.
fn begins_with_method(line: &[u8]) -> bool {
    let Some(end) = line.iter().position(|&byte| is_blank(byte)) else { return false };
    let word = line.get(..end).unwrap_or_default();
    let any_case: [&[u8]; 3] = [b"GET", b"HEAD", b"POST"];
    any_case.iter().any(|method| word.eq_ignore_ascii_case(method))
        || matches!(word, b"PUT" | b"DELETE" | b"OPTIONS" | b"PATCH" | b"TRACE" | b"CONNECT")
}

/// A character of a token (RFC 9110, 5.6.2).
pub(super) fn is_tchar(byte: u8) -> bool {
    TCHARS[usize::from(byte)]
}

const TCHARS: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
            | b'|' | b'~' => true,
            other => other.is_ascii_alphanumeric(),
        };
        byte += 1;
    }
    table
};

/// A capital to whoever writes `[A-Z0-9$-_.]`.
fn is_nearly_capital(byte: &u8) -> bool {
    matches!(byte, b'$'..=b'_')
}

/// White space in Latin-1, but for the line feed.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x0b | 0x0c | b'\r' | 0x1c..=0x1f | b' ' | 0x85 | 0xa0)
}

#[cfg(test)]
mod tests;
