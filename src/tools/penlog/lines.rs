//! A log, cut into datagrams: pure.
//!
//! A line is a datagram. One of more than [`PIECE`] bytes is several, and its length is announced before them, so that
//! whoever puts it together again notices when one is missing. For that all of the line must have come: one that
//! is longer than [`LINE_MAX`] leaves as it comes instead, unannounced.

use std::ops::Range;

use crate::weblogs::datagram::{LINE_MAX, PIECE, UNKNOWN};

/// How much is read at a time, in bytes: what a pipe holds.
const READ: usize = 64 * 1024;

/// What has been read and is not sent yet.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: Box<[u8]>,
    /// What is not sent yet begins here,
    begin: usize,
    /// and ends here.
    end: usize,
    /// There is no newline between `begin` and here.
    searched: usize,
    stage: Stage,
    /// A piece of the line has been sent.
    begun: bool,
    /// Are the lengths of lines in pieces announced?
    announcing: bool,
    /// Nothing more will come.
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// `begin` is the beginning of a line.
    Between,
    /// The line, or the rest of it, ends here.
    Within(usize),
    /// A line that is sent as it comes: nobody knows how long it is.
    Endless,
}

/// What is to be sent next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// The next datagrams are a line of so many bytes, or [`UNKNOWN`].
    Announcement(usize),
    /// A line, or the first piece of one: see [`Lines::bytes`].
    Line(Range<usize>),
    /// A further piece of it.
    Piece(Range<usize>),
}

impl Lines {
    pub(super) fn new(announcing: bool) -> Self {
        let buffer = vec![0; LINE_MAX + READ].into_boxed_slice();
        Lines {
            buffer,
            begin: 0,
            end: 0,
            searched: 0,
            stage: Stage::Between,
            begun: false,
            announcing,
            ended: false,
        }
    }

    /// Where to put what is read. There is room once [`Lines::next`] has returned None; parts from before have no bytes
    /// any more.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.begin..self.end, 0);
        self.searched -= self.begin;
        self.end -= self.begin;
        self.begin = 0;
        &mut self.buffer[self.end..]
    }

    /// So many bytes have been put there.
    pub(super) fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// That was all: what has no newline is a line, too.
    pub(super) fn finish(&mut self) {
        self.ended = true;
    }

    /// What is to be sent next, if that has come.
    pub(super) fn next(&mut self) -> Option<Part> {
        loop {
            match self.stage {
                Stage::Between => match self.line_end() {
                    Some(end) => {
                        self.stage = Stage::Within(end);
                        let length = end - self.begin;
                        // Without a newline, a piece of full length is taken for the first of several.
                        let whole = length < PIECE || length == PIECE && self.buffer[end - 1] == b'\n';
                        if self.announcing && !whole {
                            let told = if length <= LINE_MAX { length } else { UNKNOWN };
                            return Some(Part::Announcement(told));
                        }
                    }
                    None => {
                        let enough = if self.announcing { LINE_MAX } else { PIECE };
                        if self.waiting() < enough {
                            return None;
                        }
                        self.stage = Stage::Endless;
                        if self.announcing {
                            return Some(Part::Announcement(UNKNOWN));
                        }
                    }
                },
                Stage::Within(end) => {
                    let part = self.take((end - self.begin).min(PIECE));
                    if self.begin == end {
                        self.stage = Stage::Between;
                        self.begun = false;
                    }
                    return Some(part);
                }
                Stage::Endless => match self.line_end() {
                    Some(end) => self.stage = Stage::Within(end),
                    // It has ended with its last piece.
                    None if self.ended => return None,
                    None if self.waiting() < PIECE => return None,
                    None => return Some(self.take(PIECE)),
                },
            }
        }
    }

    /// What a part consists of.
    pub(super) fn bytes(&self, part: &Range<usize>) -> &[u8] {
        &self.buffer[part.clone()]
    }

    /// How many bytes wait to be sent.
    fn waiting(&self) -> usize {
        self.end - self.begin
    }

    /// Where the line at `begin` ends, if it does.
    fn line_end(&mut self) -> Option<usize> {
        let found = memchr::memchr(b'\n', &self.buffer[self.searched..self.end]);
        match found {
            Some(newline) => Some(self.searched + newline + 1),
            None => {
                self.searched = self.end;
                (self.ended && self.begin < self.end).then_some(self.end)
            }
        }
    }

    fn take(&mut self, length: usize) -> Part {
        let part = self.begin..self.begin + length;
        self.begin = part.end;
        self.searched = self.searched.max(part.end);
        if std::mem::replace(&mut self.begun, true) { Part::Piece(part) } else { Part::Line(part) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `input` leaves as, when it comes in parts of these lengths: announced lengths, and datagrams.
    fn cut(input: &[u8], parts: &[usize], announcing: bool) -> Vec<Result<Vec<u8>, usize>> {
        let mut lines = Lines::new(announcing);
        let mut left = input;
        let mut out = Vec::new();
        let mut lengths = parts.iter().cycle();
        loop {
            while let Some(part) = lines.next() {
                out.push(match part {
                    Part::Announcement(length) => Err(length),
                    Part::Line(range) | Part::Piece(range) => Ok(lines.bytes(&range).to_vec()),
                });
            }
            if lines.ended {
                return out;
            }
            let room = lines.room();
            assert!(room.len() >= READ);
            let length = left.len().min(*lengths.next().unwrap()).min(room.len());
            room[..length].copy_from_slice(&left[..length]);
            left = &left[length..];
            lines.filled(length);
            if left.is_empty() {
                lines.finish();
            }
        }
    }

    /// As pen 0.34.1's penlog cuts.
    fn classic(input: &[u8]) -> Vec<Vec<u8>> {
        let lines = input.split_inclusive(|&byte| byte == b'\n');
        lines.flat_map(|line| line.chunks(PIECE)).map(<[u8]>::to_vec).collect()
    }

    fn datagrams(parts: Vec<Result<Vec<u8>, usize>>) -> Vec<Vec<u8>> {
        parts.into_iter().filter_map(Result::ok).collect()
    }

    fn shape(input: &[u8], announcing: bool) -> Vec<Result<usize, usize>> {
        cut(input, &[READ], announcing).into_iter().map(|part| part.map(|bytes| bytes.len())).collect()
    }

    #[test]
    fn each_line_is_a_datagram_also_blank_ones_and_one_without_newline() {
        let parts = datagrams(cut(b"\n\none\n\0\xff\r\n\nlast", &[READ], true));
        let expected: [&[u8]; 6] = [b"\n", b"\n", b"one\n", b"\0\xff\r\n", b"\n", b"last"];
        assert_eq!(parts, expected);
        assert!(cut(b"", &[READ], true).is_empty());
    }

    #[test]
    fn a_long_line_is_announced_and_cut() {
        let line = [&[b'x'; 2500][..], b"\n"].concat();
        assert_eq!(shape(&line, true), [Err(2501), Ok(1023), Ok(1023), Ok(455)]);
        assert_eq!(shape(&line, false), [Ok(1023), Ok(1023), Ok(455)]);
        assert_eq!(shape(&line[..2500], true), [Err(2500), Ok(1023), Ok(1023), Ok(454)]);
    }

    #[test]
    fn what_fits_one_datagram_is_not_announced() {
        let line = [&[b'x'; 1022][..], b"\n"].concat();
        assert_eq!(shape(&line, true), [Ok(1023)]);
        assert_eq!(shape(&[b'x'; 1022], true), [Ok(1022)]);
        // It could be the first piece of several.
        assert_eq!(shape(&[b'x'; 1023], true), [Err(1023), Ok(1023)]);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        assert_eq!(shape(&line, true), [Err(1024), Ok(1023), Ok(1)]);
    }

    #[test]
    fn the_length_of_the_longest_line_is_announced_and_of_a_longer_one_none() {
        let line = |length: usize| [vec![b'x'; length - 1], b"\n".to_vec()].concat();
        assert_eq!(shape(&line(LINE_MAX), true)[0], Err(LINE_MAX));
        let two = [line(LINE_MAX + 1), line(2000)].concat();
        let parts = shape(&two, true);
        let announced: Vec<_> = parts.iter().filter_map(|part| part.err()).collect();
        assert_eq!(announced, [UNKNOWN, 2000]);
        assert_eq!(parts.len(), 1 + 65 + 1 + 2);
    }

    #[test]
    fn what_goes_on_with_a_line_is_told_from_what_begins_one() {
        for announcing in [true, false] {
            let mut lines = Lines::new(announcing);
            let text = [&[b'x'; 3000][..], b"\none\n"].concat();
            lines.room()[..text.len()].copy_from_slice(&text);
            lines.filled(text.len());
            let parts: Vec<_> = std::iter::from_fn(|| lines.next()).collect();
            let announcement = announcing.then_some(Part::Announcement(3001));
            let datagrams = [
                Part::Line(0..1023),
                Part::Piece(1023..2046),
                Part::Piece(2046..3001),
                Part::Line(3001..3005),
            ];
            assert_eq!(parts, announcement.into_iter().chain(datagrams).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_line_leaves_when_its_newline_has_come() {
        let mut lines = Lines::new(true);
        lines.room()[..7].copy_from_slice(b"one\ntwo");
        lines.filled(7);
        assert_eq!(lines.next(), Some(Part::Line(0..4)));
        assert_eq!(lines.next(), None);
        lines.room()[0] = b'\n';
        lines.filled(1);
        assert_eq!(lines.next(), Some(Part::Line(0..4)));
        assert_eq!(lines.next(), None);
    }

    proptest! {
        #[test]
        fn datagrams_are_the_classics_however_the_log_comes(
            lines in prop::collection::vec((prop_oneof![0..30usize, 1000..3100usize], any::<u8>()), 0..20),
            whole in any::<bool>(),
            parts in prop::collection::vec(1..5000usize, 1..5),
            announcing in any::<bool>(),
        ) {
            let mut input: Vec<u8> = Vec::new();
            for (length, byte) in lines {
                input.extend(std::iter::repeat_n(byte, length));
                input.push(b'\n');
            }
            if !whole {
                input.pop();
            }
            let parts = cut(&input, &parts, announcing);
            prop_assert_eq!(datagrams(parts.clone()), classic(&input));
            prop_assert!(announcing || parts.iter().all(Result::is_ok));
            let mut line = None;
            for part in parts {
                match part {
                    Err(length) => line = Some(length),
                    Ok(bytes) => {
                        prop_assert!(line.is_some() || !announcing || bytes.len() < PIECE || bytes.ends_with(b"\n"));
                        line = line.map(|left| left - bytes.len()).filter(|&left| left > 0);
                    }
                }
            }
            prop_assert_eq!(line, None);
        }

        #[test]
        fn lines_without_end_leave_too(
            length in 60_000..300_000usize,
            parts in prop::collection::vec(1..70_000usize, 1..5),
            announcing in any::<bool>(),
        ) {
            let mut input = vec![b'x'; length];
            input.extend(b"\nshort\n");
            let parts = cut(&input, &parts, announcing);
            prop_assert_eq!(datagrams(parts), classic(&input));
        }
    }
}
