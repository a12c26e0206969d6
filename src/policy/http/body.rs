//! Where a message's body ends (RFC 9112, 6 and 7). Its bytes are never changed.
//!
//! Chunks are read strictly, because whoever reads them differently from the server can be made to see other requests
//! than it does:
//!
//! ```text
//! chunk      1 to 16 hex digits, blanks, perhaps ";" and an extension, CRLF; so many bytes; CRLF
//! last       a chunk of size 0 without bytes; fields, one a line; CRLF
//! field      a token, ":", anything but control characters, CRLF; never folded
//! ```
//!
//! Nothing is kept of what goes by, so that a body may come in pieces of any size.

use super::head::Malformed;

/// The most bytes of a chunk's first line, and of a field of the trailer section, without the line's end.
const LONGEST_LINE: u32 = 8 * 1024;
/// The most bytes of a trailer section, without ends of lines.
const LONGEST_TRAILERS: u32 = 64 * 1024;
/// The most digits of a chunk's size.
const MOST_DIGITS: u32 = 16;
/// Servers count in signed numbers.
const LARGEST_CHUNK: u64 = i64::MAX as u64;

/// What is left of a body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, with their trailers.
    Chunked(Chunked),
    /// Everything up to the end of the stream: of a response alone.
    Rest,
}

impl Body {
    /// How many of these bytes, the next of the stream, are its own. Fewer than all only if it ends among them.
    ///
    /// # Errors
    /// A chunk's head or end is not what it must be; and so it is with whatever comes after that.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self {
            Body::None => Ok(0),
            Body::Length(left) => Ok(take(left, bytes.len())),
            Body::Chunked(chunks) => chunks.pass(bytes),
            Body::Rest => Ok(bytes.len()),
        }
    }

    /// How many of the next bytes are its own whatever they are.
    pub fn unseen(&self) -> u64 {
        match self {
            Body::None => 0,
            Body::Length(left) => *left,
            Body::Chunked(chunks) => chunks.left,
            Body::Rest => u64::MAX,
        }
    }

    /// So many bytes, at most [`Body::unseen`], have gone by.
    pub fn skip(&mut self, bytes: u64) {
        match self {
            Body::None | Body::Rest => {}
            Body::Length(left) => *left = left.saturating_sub(bytes),
            Body::Chunked(chunks) => chunks.skip(bytes),
        }
    }

    /// It has come to its end.
    pub fn is_over(&self) -> bool {
        match self {
            Body::None => true,
            Body::Length(left) => *left == 0,
            Body::Chunked(chunks) => chunks.place == Place::End,
            Body::Rest => false,
        }
    }
}

/// Takes as many as there are of so many bytes from what is left.
fn take(left: &mut u64, bytes: usize) -> usize {
    // What does not fit into a usize is more than any slice has.
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes);
    *left = left.saturating_sub(taken as u64);
    taken
}

/// How far a chunked body has been followed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chunked {
    place: Place,
    /// The size of the next chunk, as far as it has come.
    size: u64,
    /// Bytes of data that come next: none but at [`Place::Data`].
    left: u64,
    /// Bytes of this line.
    line: u32,
    /// Bytes of the trailer section.
    trailers: u32,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// A digit of a chunk's size, or, after the first, what follows it.
    #[default]
    Size,
    /// An extension, or blanks before it.
    Padding,
    /// The rest of an extension.
    Extension,
    /// The LF of a chunk's first line.
    SizeEnd,
    /// Data.
    Data,
    /// CR and LF behind the data.
    DataCr,
    DataLf,
    /// A line of the trailer section: its first byte, the rest of its name, its value, its LF.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerEnd,
    /// The last LF.
    LastLf,
    /// Nothing: the body is over.
    End,
    /// Nobody knows.
    Lost(Malformed),
}

impl Chunked {
    fn pass(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut rest = bytes;
        while self.place != Place::End {
            if self.place == Place::Data {
                let data = take(&mut self.left, rest.len());
                rest = rest.get(data..).unwrap_or_default();
                self.leave_data();
            }
            let Some((&byte, after)) = rest.split_first() else { break };
            let next = self.step(byte);
            self.place = next.unwrap_or_else(Place::Lost);
            next?;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    fn skip(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        self.leave_data();
    }

    fn leave_data(&mut self) {
        if self.place == Place::Data && self.left == 0 {
            self.place = Place::DataCr;
        }
    }

    /// What comes after this byte. Called for all but data.
    fn step(&mut self, byte: u8) -> Result<Place, Malformed> {
        match (self.place, byte) {
            (Place::Size, _) if byte.is_ascii_hexdigit() => self.digit(byte),
            // Nobody writes a size without a digit.
            (Place::Size, _) if self.line == 0 => Err(Malformed("a chunk without a size")),
            (Place::Size | Place::Padding, b' ' | b'\t') => self.go_on(Place::Padding),
            (Place::Size | Place::Padding, b';') => self.go_on(Place::Extension),
            (Place::Size | Place::Padding | Place::Extension, b'\r') => Ok(Place::SizeEnd),
            (Place::Size | Place::Padding, _) => {
                Err(Malformed("a chunk's size that is not a hexadecimal number"))
            }
            (Place::Extension, _) if is_text(byte) => self.go_on(Place::Extension),
            (Place::Extension, _) => Err(Malformed("a control character in a chunk's extension")),
            (Place::SizeEnd, b'\n') => Ok(self.begin_data()),
            (Place::DataCr, b'\r') => Ok(Place::DataLf),
            (Place::DataLf, b'\n') => Ok(Place::Size),
            (Place::DataCr | Place::DataLf, _) => Err(Malformed("a chunk longer than its size")),
            (Place::Trailer, b'\r') => Ok(Place::LastLf),
            (Place::TrailerName, b':') => self.go_on_in_trailers(Place::TrailerValue),
            (Place::Trailer | Place::TrailerName, _) if is_token(byte) => {
                self.go_on_in_trailers(Place::TrailerName)
            }
            (Place::Trailer | Place::TrailerName, _) => Err(Malformed("a trailer that is not a field")),
            (Place::TrailerValue, b'\r') => Ok(Place::TrailerEnd),
            (Place::TrailerValue, _) if is_text(byte) => self.go_on_in_trailers(Place::TrailerValue),
            (Place::TrailerValue, _) => Err(Malformed("a control character in a trailer")),
            (Place::TrailerEnd, b'\n') => {
                self.line = 0;
                Ok(Place::Trailer)
            }
            (Place::LastLf, b'\n') => Ok(Place::End),
            (Place::SizeEnd | Place::TrailerEnd | Place::LastLf, _) => {
                Err(Malformed("a CR alone among chunks"))
            }
            (Place::Lost(reason), _) => Err(reason),
            // Not called for these.
            (Place::Data | Place::End, _) => Ok(self.place),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<Place, Malformed> {
        let digit = char::from(byte).to_digit(16).unwrap_or_default();
        self.size = self.size << 4 | u64::from(digit);
        self.line += 1;
        if self.line > MOST_DIGITS || self.size > LARGEST_CHUNK {
            return Err(Malformed("a chunk's size that is too large"));
        }
        Ok(Place::Size)
    }

    fn begin_data(&mut self) -> Place {
        self.line = 0;
        self.left = std::mem::take(&mut self.size);
        match self.left {
            0 => Place::Trailer,
            _ => Place::Data,
        }
    }

    fn go_on(&mut self, place: Place) -> Result<Place, Malformed> {
        self.line += 1;
        match self.line {
            ..=LONGEST_LINE => Ok(place),
            _ => Err(Malformed("a line that is too long among chunks")),
        }
    }

    fn go_on_in_trailers(&mut self, place: Place) -> Result<Place, Malformed> {
        self.trailers += 1;
        match self.trailers {
            ..=LONGEST_TRAILERS => self.go_on(place),
            _ => Err(Malformed("trailers that are too long")),
        }
    }
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What may be in the value of a field.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

#[cfg(test)]
mod tests;
