//! Log files, line by line: plain or compressed, from standard input or by name.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, BufReader, Cursor, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// The longest line, in bytes; what is beyond is left out.
pub(super) const LONGEST_LINE: usize = 1 << 20;

/// How much is read at once, in bytes.
const PIECE: usize = 1 << 17;

/// What a file begins with that gzip(1) has made.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Which file something is, by whatever name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    number: u64,
}

impl FileId {
    /// None: it is not a regular file.
    pub(super) fn of(file: &impl AsFd) -> Option<Self> {
        let file = File::from(file.as_fd().try_clone_to_owned().ok()?);
        let data = file.metadata().ok().filter(Metadata::is_file)?;
        Some(FileId { device: data.dev(), number: data.ino() })
    }
}

/// The lines of one log.
pub(super) struct Lines {
    input: Box<dyn Read>,
    buffer: Vec<u8>,
    /// The line that was read last: it stands at `start..end` in the buffer.
    start: usize,
    end: usize,
    /// Where the next one begins.
    next: usize,
    /// Up to here the buffer is filled.
    filled: usize,
    ended: bool,
    /// How many lines were read.
    pub(super) number: u64,
    /// How many of them were longer than [`LONGEST_LINE`].
    pub(super) cut: u64,
    /// Where they come from.
    pub(super) file: Option<FileId>,
}

impl Lines {
    /// Opens a log; `-` is standard input.
    pub(super) fn open(name: &OsStr) -> io::Result<Self> {
        if name == "-" {
            let input = io::stdin().lock();
            let file = FileId::of(&input);
            return Ok(Lines { file, ..Self::new(input)? });
        }
        let file = File::open(Path::new(name))?;
        if file.metadata()?.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        let id = FileId::of(&file);
        Ok(Lines { file: id, ..Self::new(file)? })
    }

    /// The lines of `input`, which may be compressed.
    pub(super) fn new(mut input: impl Read + 'static) -> io::Result<Self> {
        let mut head = Vec::with_capacity(GZIP.len());
        input.by_ref().take(GZIP.len() as u64).read_to_end(&mut head)?;
        let compressed = head == GZIP;
        let input = Cursor::new(head).chain(input);
        let input: Box<dyn Read> = match compressed {
            true => Box::new(MultiGzDecoder::new(BufReader::with_capacity(PIECE, input))),
            false => Box::new(input),
        };
        let (start, end, next, filled, ended, number, cut) = (0, 0, 0, 0, false, 0, 0);
        Ok(Lines { input, buffer: vec![0; PIECE], start, end, next, filled, ended, number, cut, file: None })
    }

    /// Goes to the next line. False: there is none.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        self.start = self.next;
        let mut searched = self.start;
        loop {
            let found = self.buffer.get(searched..self.filled).and_then(|new| memchr::memchr(b'\n', new));
            if let Some(at) = found {
                self.end = searched + at;
                self.next = self.end + 1;
                break;
            }
            if self.ended {
                self.end = self.filled;
                self.next = self.filled;
                if self.start == self.end {
                    return Ok(false);
                }
                break;
            }
            searched = self.filled - self.start;
            if searched > LONGEST_LINE {
                self.skip()?;
                self.number += 1;
                self.cut += 1;
                return Ok(true);
            }
            self.fill()?;
        }
        self.number += 1;
        if self.end > self.start && self.buffer.get(self.end - 1) == Some(&b'\r') {
            self.end -= 1;
        }
        if self.end - self.start > LONGEST_LINE {
            self.end = self.start + LONGEST_LINE;
            self.cut += 1;
        }
        Ok(true)
    }

    /// The line that was gone to, without its line end.
    pub(super) fn line(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Moves what is left to the front and reads on.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.filled, 0);
        self.filled -= self.start;
        (self.start, self.next) = (0, 0);
        if self.buffer.len() - self.filled < PIECE / 2 {
            self.buffer.resize(self.buffer.len() + PIECE, 0);
        }
        self.filled += self.read_to(self.filled)?;
        Ok(())
    }

    /// Lets the rest of a line go that is too long: all but its beginning.
    fn skip(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.filled, 0);
        (self.start, self.end) = (0, LONGEST_LINE);
        (self.filled, self.next) = (self.end, self.end);
        self.buffer.resize(self.buffer.len().max(self.end + PIECE), 0);
        loop {
            let read = self.read_to(self.end)?;
            self.filled = self.end + read;
            let found = memchr::memchr(b'\n', &self.buffer[self.end..self.filled]);
            if found.is_some() || self.ended {
                self.next = found.map_or(self.filled, |at| self.end + at + 1);
                return Ok(());
            }
        }
    }

    /// Reads into the buffer from `place` on, and says how much.
    fn read_to(&mut self, place: usize) -> io::Result<usize> {
        loop {
            match self.input.read(&mut self.buffer[place..]) {
                Ok(read) => {
                    self.ended = read == 0;
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // What there is has no end, but it is a line.
                    self.ended = true;
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    /// Reads in pieces of the sizes of a list, again and again.
    struct Pieces(Cursor<Vec<u8>>, Vec<usize>, usize);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.1[self.2 % self.1.len()].min(buffer.len());
            self.2 += 1;
            self.0.read(&mut buffer[..most])
        }
    }

    fn all(input: impl Read + 'static) -> (Vec<Vec<u8>>, u64) {
        let mut lines = Lines::new(input).unwrap();
        let mut found = Vec::new();
        while lines.advance().unwrap() {
            found.push(lines.line().to_vec());
        }
        assert!(!lines.advance().unwrap());
        assert_eq!(lines.number, found.len() as u64);
        (found, lines.cut)
    }

    fn compressed(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn lines_end_with_lf_crlf_or_the_file() {
        let (lines, _) = all(&b"one\ntwo\r\n\nfour\rfour\nfive"[..]);
        assert_eq!(lines, [&b"one"[..], b"two", b"", b"four\rfour", b"five"]);
        assert!(all(&b""[..]).0.is_empty());
        assert_eq!(all(&b"\n"[..]).0, [b""]);
    }

    #[test]
    fn compressed_files_are_known_by_their_beginning() {
        let two = [compressed(b"one\ntwo"), compressed(b" and\nthree\n")].concat();
        assert_eq!(all(Cursor::new(two)).0, [&b"one"[..], b"two and", b"three"]);
        assert_eq!(all(&b"\x1f"[..]).0, [b"\x1f"]);
    }

    #[test]
    fn a_compressed_file_that_is_cut_is_an_error_after_what_can_be_read() {
        let mut file = compressed(b"one\ntwo\n");
        file.truncate(file.len() - 6);
        let mut lines = Lines::new(Cursor::new(file)).unwrap();
        let mut read = 0;
        while lines.advance().is_ok_and(|is_one| is_one) {
            read += 1;
        }
        assert!(read <= 2);
        assert!(!lines.advance().unwrap() || read < 2);
    }

    #[test]
    fn long_lines_are_cut_and_counted() {
        for length in [LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 1, 3 * LONGEST_LINE] {
            let text = [&vec![b'a'; length][..], b"\nnext\n"].concat();
            let (lines, cut) = all(Cursor::new(text));
            assert_eq!(lines.len(), 2, "{length}");
            assert_eq!(lines[0].len(), length.min(LONGEST_LINE));
            assert_eq!((&lines[1][..], cut), (&b"next"[..], u64::from(length > LONGEST_LINE)));
            let (lines, cut) = all(Cursor::new(vec![b'a'; length]));
            assert_eq!((lines.len(), cut), (1, u64::from(length > LONGEST_LINE)));
        }
    }

    proptest! {
        #[test]
        fn how_it_is_read_makes_no_difference(
            lines in prop::collection::vec("[a-c]{0,5}", 0..50),
            pieces in prop::collection::vec(1_usize..9, 1..6),
        ) {
            let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes();
            let plain = all(Pieces(Cursor::new(text.clone()), pieces.clone(), 0)).0;
            let packed = all(Pieces(Cursor::new(compressed(&text)), pieces, 0)).0;
            let expected: Vec<_> = lines.into_iter().map(String::into_bytes).collect();
            prop_assert_eq!(&plain, &expected);
            prop_assert_eq!(packed, expected);
        }
    }
}
