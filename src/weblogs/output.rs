//! A line as it is written: with its client, and so that nothing in it can be taken for another line.

use std::io::Write;

/// Appends `line`, which has no line end, to `out`. `client` takes the place of its first word. Control characters, but
/// the tab, become `\xhh`: they could forge a line, or take over the terminal of its reader.
pub(super) fn write(out: &mut Vec<u8>, client: Option<&[u8]>, line: &[u8]) {
    out.reserve(line.len() + client.map_or(0, <[u8]>::len) + 2);
    let rest = match client {
        None => line,
        Some(client) => {
            out.extend_from_slice(client);
            after_first_word(line).unwrap_or_else(|| {
                out.push(b' ');
                line
            })
        }
    };
    append(out, rest);
    out.push(b'\n');
}

/// Appends `text` to `out`, control characters but the tab as `\xhh`: those of ASCII, and those from 0x80 to 0x9f, alone
/// (a terminal of eight bits) or in UTF-8 (all others; and there are readers who end a line at U+0085, and at the
/// separators U+2028 and U+2029, which are escaped as well).
pub fn append(out: &mut Vec<u8>, text: &[u8]) {
    // Hardly a line has such a byte.
    if has_controls(text) {
        escape(out, text);
    } else {
        out.extend_from_slice(text);
    }
}

/// Is there anything in `text` that [`append`] may not append as it is? If not, there is none in its parts, either.
pub(super) fn has_controls(text: &[u8]) -> bool {
    any(text, is_wild)
}

/// What follows the first word, the space included. None: the line begins with its request, which must stay whole.
fn after_first_word(line: &[u8]) -> Option<&[u8]> {
    let at = memchr::memchr2(b' ', b'"', line)?;
    (line[at] == b' ').then(|| &line[at..])
}

/// Is any of these bytes like that? Answered for sixteen at once, and for what is shorter for eight: the compiler makes
/// one step of each, and only at the end is looked at what was found. The last ones overlap those before.
pub(super) fn any(bytes: &[u8], like_that: impl Fn(u8) -> bool) -> bool {
    match (bytes.last_chunk::<16>(), bytes.last_chunk::<8>()) {
        (Some(last), _) => among(bytes.as_chunks().0, last, like_that),
        (None, Some(last)) => among(bytes.as_chunks().0, last, like_that),
        (None, None) => bytes.iter().any(|&byte| like_that(byte)),
    }
}

fn among<const N: usize>(chunks: &[[u8; N]], last: &[u8; N], like_that: impl Fn(u8) -> bool) -> bool {
    let mut found = [0; N];
    for chunk in chunks.iter().chain([last]) {
        for (found, &byte) in found.iter_mut().zip(chunk) {
            *found |= u8::from(like_that(byte));
        }
    }
    found != [0; N]
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find(is_control) {
            let (before, from_control) = rest.split_at(at);
            out.extend_from_slice(before.as_bytes());
            let length = from_control.chars().next().map_or(0, char::len_utf8);
            from_control.bytes().take(length).for_each(|byte| escape_byte(out, byte));
            rest = &from_control[length..];
        }
        out.extend_from_slice(rest.as_bytes());
        for &byte in chunk.invalid() {
            match is_wild(byte) {
                true => escape_byte(out, byte),
                false => out.push(byte),
            }
        }
    }
}

fn escape_byte(out: &mut Vec<u8>, byte: u8) {
    write!(out, "\\x{byte:02x}").expect("writing to memory");
}

fn is_control(character: char) -> bool {
    character.is_control() && character != '\t' || matches!(character, '\u{2028}' | '\u{2029}')
}

/// Is it a control character, or can it be a part of one?
fn is_wild(byte: u8) -> bool {
    // Below a space in both halves: fewer steps than two ranges.
    ((byte & 0x7f < b' ') & (byte != b'\t')) | (byte == 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(client: Option<&str>, line: &[u8]) -> String {
        let mut out = b"before\n".to_vec();
        write(&mut out, client.map(str::as_bytes), line);
        String::from_utf8_lossy(&out).strip_prefix("before\n").unwrap().to_owned()
    }

    #[test]
    fn one_byte_is_found_wherever_it_is() {
        for length in 0..70 {
            assert!(!any(&vec![b'a'; length], is_wild), "{length}");
            for place in 0..length {
                let mut text = vec![b'a'; length];
                text[place] = 0x1b;
                assert!(any(&text, is_wild), "{place} of {length}");
            }
        }
    }

    #[test]
    fn the_client_takes_the_place_of_the_first_word() {
        assert_eq!(written(Some("c"), b"10.0.0.1 - - \"GET /\" 200"), "c - - \"GET /\" 200\n");
        assert_eq!(written(Some("c"), b" lead \"GET /\""), "c lead \"GET /\"\n");
        assert_eq!(written(Some("c"), b"a\tb \"GET /\""), "c \"GET /\"\n");
        assert_eq!(written(None, b"10.0.0.1 - - \"GET /\" 200"), "10.0.0.1 - - \"GET /\" 200\n");
    }

    #[test]
    fn a_request_at_the_beginning_stays_whole() {
        assert_eq!(written(Some("c"), b"\"GET /\" 200"), "c \"GET /\" 200\n");
        assert_eq!(written(Some("c"), b"\"GET\""), "c \"GET\"\n");
    }

    #[test]
    fn control_characters_are_written_as_escapes() {
        let line = b"a \"GET /\"\n1.2.3.4 \x1b[2J\0\x7f\r\tb \xc3\xa5";
        let expected = "a \"GET /\"\\x0a1.2.3.4 \\x1b[2J\\x00\\x7f\\x0d\tb å\n";
        assert_eq!(written(None, line), expected);
        assert_eq!(written(Some("c"), b"a\n \x01\"\""), "c \\x01\"\"\n");
    }

    #[test]
    fn no_byte_alone_and_none_in_utf_8_is_a_control_character() {
        for byte in 0..=u8::MAX {
            let out = written(None, &[b'a', byte, b'b']);
            let wild = byte.is_ascii_control() && byte != b'\t' || (0x80..=0x9f).contains(&byte);
            assert_eq!(out == format!("a\\x{byte:02x}b\n"), wild, "{byte:02x}: {out}");
        }
        let text = "å€😀\u{2026}\u{85}\u{9b}2J\u{7f}é\u{80}\u{9f}\u{a0}\u{2028}\u{2029}";
        let expected = "å€😀\u{2026}\\xc2\\x85\\xc2\\x9b2J\\x7fé\\xc2\\x80\\xc2\\x9f\u{a0}\\xe2\\x80\\xa8\\xe2\\x80\\xa9\n";
        assert_eq!(written(None, text.as_bytes()), expected);
    }

    proptest::proptest! {
        #[test]
        fn what_has_no_control_characters_is_written_as_it_is(text in r"[[\P{Cc}\t]--[\x{2028}\x{2029}]]{0,20}") {
            assert_eq!(written(None, text.as_bytes()), text + "\n");
        }

        #[test]
        fn whatever_comes_is_one_line_without_control_characters(line: Vec<u8>) {
            let out = written(None, &line);
            let line = out.strip_suffix('\n').unwrap();
            assert!(!line.contains(is_control), "{line:?}");
        }
    }
}
