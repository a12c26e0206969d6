//! The first message of a TLS client: which name does it ask for?
//!
//! It may come in any number of segments and records; a post-quantum one does not fit into one segment. Nothing here is
//! kept between two looks: whoever asks brings everything that has come so far. What has been said of the first bytes
//! holds for all that may follow them, unless it was [`Hello::Incomplete`].
//!
//! ```text
//! record     22, version 3.x, length 1 to 16384, fragment          RFC 8446, 5.1
//! message    1, length in three bytes, hello; over any number of records, with nothing between them
//! hello      version 3.x, random, session, ciphers, compressions, extensions (none: an old client)   4.1.2
//! extension  0: a list of names, of which the one of type 0 is a host's                              RFC 6066, 3
//! ```
//!
//! Only what leads to the name is checked: the rest is the server's to judge.

use std::borrow::Cow;

/// Most bytes of records that are looked at.
pub const LONGEST: usize = 16 * 1024;

/// What can be said of the first bytes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello<'a> {
    /// Not enough yet.
    Incomplete,
    /// A whole client hello that asks for this name, as the client wrote it.
    Name(Cow<'a, str>),
    /// A whole client hello that asks for none, or for none that is text.
    NoName,
    /// Something else, or longer than [`LONGEST`].
    NotTls,
}

/// A record's header: type, version, length.
const RECORD_HEADER: usize = 5;
/// A handshake message's: type, length.
const MESSAGE_HEADER: usize = 4;
/// The longest fragment of a record that is not encrypted.
const LONGEST_FRAGMENT: usize = 1 << 14;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// The first byte of every version that a hello or its records can have.
const MAJOR: u8 = 3;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What are these, the first bytes of a connection? Allocates only if it is a whole hello in more than one record.
pub fn parse(bytes: &[u8]) -> Hello<'_> {
    let seen = &bytes[..bytes.len().min(LONGEST)];
    match message(seen) {
        Message::Incomplete if seen.len() == LONGEST => Hello::NotTls,
        Message::Incomplete => Hello::Incomplete,
        Message::Other => Hello::NotTls,
        Message::Whole(Cow::Borrowed(hello)) => match name(hello) {
            Ok(Some(name)) => Hello::Name(Cow::Borrowed(name)),
            Ok(None) => Hello::NoName,
            Err(Malformed) => Hello::NotTls,
        },
        Message::Whole(Cow::Owned(hello)) => match name(&hello) {
            Ok(Some(name)) => Hello::Name(Cow::Owned(name.to_owned())),
            Ok(None) => Hello::NoName,
            Err(Malformed) => Hello::NotTls,
        },
    }
}

/// What the records bring.
enum Message<'a> {
    Incomplete,
    /// A client hello, without its header.
    Whole(Cow<'a, [u8]>),
    Other,
}

/// The fragments of handshake records, as far as they have come.
struct Fragments<'a>(&'a [u8]);

/// What follows in the stream is no handshake record.
struct Foreign;

impl<'a> Iterator for Fragments<'a> {
    type Item = Result<&'a [u8], Foreign>;

    fn next(&mut self) -> Option<Self::Item> {
        let (header, rest) = self.0.split_at(self.0.len().min(RECORD_HEADER));
        let expected = header.iter().zip([HANDSHAKE, MAJOR]).all(|(byte, expected)| *byte == expected);
        if !expected {
            return Some(Err(Foreign));
        }
        let &[_, _, _, high, low] = header else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(1..=LONGEST_FRAGMENT).contains(&length) {
            return Some(Err(Foreign));
        }
        let (fragment, rest) = rest.split_at(rest.len().min(length));
        self.0 = rest;
        (!fragment.is_empty()).then_some(Ok(fragment))
    }
}

/// The first message in the records. Nothing behind it is looked at.
fn message(records: &[u8]) -> Message<'_> {
    // Once to find out how long it is and whether all of it is there, so that nothing is allocated for half of one.
    let (mut header, mut have) = ([0; MESSAGE_HEADER], 0);
    for fragment in Fragments(records) {
        let Ok(fragment) = fragment else {
            return Message::Other;
        };
        for (place, byte) in header.iter_mut().skip(have).zip(fragment) {
            *place = *byte;
        }
        let first = have == 0;
        have += fragment.len();
        if header[0] != CLIENT_HELLO {
            return Message::Other;
        }
        if have >= MESSAGE_HEADER {
            let [_, high, middle, low] = header;
            let wanted = MESSAGE_HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
            if wanted > LONGEST - RECORD_HEADER {
                return Message::Other;
            }
            if have >= wanted {
                return Message::Whole(match first {
                    true => Cow::Borrowed(&fragment[MESSAGE_HEADER..wanted]),
                    false => Cow::Owned(assembled(records, wanted)),
                });
            }
        }
    }
    Message::Incomplete
}

/// The body of a message of that length, header included, which is there.
fn assembled(records: &[u8], length: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(length);
    for fragment in Fragments(records).map_while(Result::ok) {
        message.extend_from_slice(&fragment[..fragment.len().min(length - message.len())]);
        if message.len() == length {
            break;
        }
    }
    message.split_off(MESSAGE_HEADER.min(message.len()))
}

/// It is not built as a hello is.
struct Malformed;

/// The name that a client hello asks for.
fn name(hello: &[u8]) -> Result<Option<&str>, Malformed> {
    let mut hello = Reader(hello);
    if hello.take(2)?[0] != MAJOR {
        return Err(Malformed);
    }
    hello.take(32)?;
    for (length_bytes, lengths) in [(1, 0..=32), (2, 2..=0xfffe), (1, 1..=0xff)] {
        if !lengths.contains(&hello.vector(length_bytes)?.0.len()) {
            return Err(Malformed);
        }
    }
    if hello.is_empty() {
        return Ok(None);
    }
    let mut extensions = hello.only_vector()?;
    let mut names = None;
    while !extensions.is_empty() {
        let (kind, content) = (extensions.number(2)?, extensions.vector(2)?);
        if kind == usize::from(SERVER_NAME) && names.replace(content).is_some() {
            return Err(Malformed);
        }
    }
    names.map_or(Ok(None), host_name)
}

/// The first host name in the extension, if it is text.
fn host_name(mut extension: Reader<'_>) -> Result<Option<&str>, Malformed> {
    let mut names = extension.only_vector()?;
    let mut host = None;
    while !names.is_empty() {
        let (kind, name) = (names.number(1)?, names.vector(2)?);
        if kind == usize::from(HOST_NAME) && host.is_none() {
            host = Some(name.0);
        }
    }
    Ok(host.and_then(|name| str::from_utf8(name).ok()).filter(|name| !name.is_empty()))
}

/// What is left to read of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// In so many bytes.
    fn number(&mut self, bytes: usize) -> Result<usize, Malformed> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What has its length in front, in so many bytes.
    fn vector(&mut self, length_bytes: usize) -> Result<Reader<'a>, Malformed> {
        let length = self.number(length_bytes)?;
        self.take(length).map(Reader)
    }

    /// One with its length in two bytes, behind which nothing comes.
    fn only_vector(&mut self) -> Result<Reader<'a>, Malformed> {
        let vector = self.vector(2)?;
        self.is_empty().then_some(vector).ok_or(Malformed)
    }
}

#[cfg(test)]
mod tests;
