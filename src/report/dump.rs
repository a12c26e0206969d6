//! Dumps of traffic: pen(1) `-ddd` and `-a`.
//!
//! The format is the classic's: the length in decimal, then the bytes. It goes to stderr as it is, without a time
//! in front, so that a dump can be cut out and compared.

use std::io::Write;

/// One chunk: `20: 47 45 54 ... ` and a newline, or with `ascii` the bytes themselves with unprintable ones as dots.
///
/// White space stays what it is in the second form, so that text breaks its lines where the sender broke them.
pub fn dump(chunk: &[u8], ascii: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunk.len() * if ascii { 1 } else { 3 } + 16);
    write!(out, "{}: ", chunk.len()).expect("a Vec takes every write");
    if ascii {
        out.extend(chunk.iter().map(|&byte| if shows(byte) { byte } else { b'.' }));
    } else {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in chunk {
            out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)], b' ']);
        }
    }
    out.push(b'\n');
    out
}

/// Printable, or one of the six white-space characters of C's `isspace`.
fn shows(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte == b' ' || (b'\t'..=b'\r').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_the_length_and_every_byte_in_hexadecimal() {
        assert_eq!(dump(b"GET /\x01\xff HTTP", false), b"12: 47 45 54 20 2f 01 ff 20 48 54 54 50 \n");
        assert_eq!(dump(b"", false), b"0: \n");
    }

    #[test]
    fn an_ascii_dump_keeps_text_and_line_breaks_and_dots_the_rest() {
        assert_eq!(dump(b"GET /\x01\xff\r\n\tx\x1b[2J", true), b"15: GET /..\r\n\tx.[2J\n");
        assert_eq!(dump(b"\x7f\x80", true), b"2: ..\n");
    }
}
