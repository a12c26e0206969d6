//! Long lines, which penlog(1) sends in pieces, put together.
//!
//! A datagram of a piece's size without a newline begins a line that the next datagrams of the same sender (address and
//! port) go on with. If penlog has announced the line's length, a piece that does not fit means that one was lost, and the
//! line is given up: half a line with another's end would be a lie. It is told where the lengths do, so not if the end of
//! one line is lost with all of the next one but an end of the same length.
//!
//! What is left of a line that was given up is no line and no record of pen: where a piece begins is up to the client who
//! asked for the line. Such *remains* are dropped as they come.
//!
//! A line has 64 KiB, all of them together have a mebibyte, and each has a limited time.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use super::datagram::{LINE_MAX, PIECE};
use crate::model::time::Moment;

/// Bytes of all unfinished lines.
const MOST_BYTES: usize = 1 << 20;

/// Most lines that are unfinished.
const MOST_LINES: usize = 1024;

/// The unfinished lines.
#[derive(Debug)]
pub(super) struct Pieces {
    lines: HashMap<SocketAddr, Unfinished>,
    /// When each was begun, oldest first; with those that are finished, which are skipped.
    begun: VecDeque<Begun>,
    next: u64,
    bytes: usize,
    /// Microseconds that a line has.
    limit: u64,
}

#[derive(Debug)]
struct Unfinished {
    number: u64,
    bytes: Vec<u8>,
    /// How many bytes are still to come, if that was announced.
    missing: Option<usize>,
    cut: bool,
    /// It was given up: what still comes of it is dropped.
    remains: bool,
}

#[derive(Debug, Clone, Copy)]
struct Begun {
    number: u64,
    from: SocketAddr,
    given_up: Moment,
}

/// What a datagram is to an unfinished line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Its sender has none.
    None,
    /// More of it, but not all.
    Piece,
    /// Its end.
    End(Assembled),
    /// The datagram does not fit: a piece was lost, and the line is dropped. It can be a line of its own.
    Broken,
    /// The datagram is the end of a line of which a piece was lost: both are dropped.
    BrokenEnd,
    /// The datagram is of a line that was given up: it is dropped.
    Remains,
}

/// A line that was put together, or what there was of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assembled {
    /// Who sent it.
    pub(super) from: SocketAddr,
    /// What there is of it, with its line end if that has come.
    pub(super) bytes: Vec<u8>,
    /// There was more, for which there was no room.
    pub(super) cut: bool,
    /// More was announced, and did not come.
    pub(super) broken: bool,
}

impl Pieces {
    /// `limit`: microseconds that a line has from its first piece to its last.
    pub(super) fn new(limit: u64) -> Self {
        Pieces { lines: HashMap::new(), begun: VecDeque::new(), next: 0, bytes: 0, limit }
    }

    /// A datagram, as it came, that is no mark.
    pub(super) fn take(&mut self, from: SocketAddr, datagram: &[u8]) -> Fit {
        let Some(line) = self.lines.get_mut(&from) else {
            return Fit::None;
        };
        let ends = datagram.ends_with(b"\n");
        let last = match &mut line.missing {
            Some(missing) => {
                let fits = datagram.len() == PIECE.min(*missing) && (datagram.len() == *missing || !ends);
                if !fits {
                    // Whatever else was lost: this is as long as the end would be, and ends as a line does.
                    let end = ends && [*missing % PIECE, PIECE].contains(&datagram.len());
                    let remains = line.remains;
                    self.remove(from);
                    return match remains {
                        true => Fit::None,
                        false if end => Fit::BrokenEnd,
                        false => Fit::Broken,
                    };
                }
                *missing -= datagram.len();
                *missing == 0
            }
            None => datagram.len() != PIECE || ends,
        };
        if line.remains {
            if last {
                self.remove(from);
            }
            return Fit::Remains;
        }
        let taken = datagram.len().min(LINE_MAX.saturating_sub(line.bytes.len()));
        line.bytes.extend_from_slice(&datagram[..taken]);
        line.cut |= taken < datagram.len();
        self.bytes += taken;
        if !last {
            return Fit::Piece;
        }
        self.remove(from).and_then(|line| line.assembled(from)).map_or(Fit::Piece, Fit::End)
    }

    /// A line begins: `first` is its first piece, or its length has been announced.
    pub(super) fn begin(&mut self, from: SocketAddr, first: &[u8], length: Option<usize>, now: Moment) {
        self.put(from, Unfinished { bytes: first.to_vec(), ..Unfinished::empty(length) }, now);
    }

    /// A line has begun, and nobody knows how: what still comes of it is dropped, up to its end.
    pub(super) fn begin_remains(&mut self, from: SocketAddr, now: Moment) {
        self.put(from, Unfinished { remains: true, ..Unfinished::empty(None) }, now);
    }

    fn put(&mut self, from: SocketAddr, mut line: Unfinished, now: Moment) {
        self.remove(from);
        let number = self.next;
        self.next += 1;
        line.number = number;
        self.bytes += line.bytes.len();
        self.lines.insert(from, line);
        self.begun.push_back(Begun { number, from, given_up: now.plus_micros(self.limit) });
        if self.begun.len() > 2 * MOST_LINES {
            let lines = &self.lines;
            self.begun.retain(|begun| lines.get(&begun.from).is_some_and(|line| line.number == begun.number));
        }
    }

    /// Nothing more comes of what this sender has begun.
    pub(super) fn interrupt(&mut self, from: SocketAddr) -> Option<Assembled> {
        self.remove(from).and_then(|line| line.assembled(from))
    }

    /// The next line that must be given up: its time is up, or there is no room.
    pub(super) fn give_up(&mut self, now: Moment) -> Option<Assembled> {
        loop {
            let crowded = self.bytes > MOST_BYTES || self.lines.len() > MOST_LINES;
            let Begun { from, .. } = self.oldest().filter(|oldest| crowded || oldest.given_up <= now)?;
            let line = self.remove(from)?;
            let remains = Unfinished { remains: true, ..Unfinished::empty(line.missing) };
            let given_up = line.assembled(from);
            if !crowded && given_up.as_ref().is_some_and(|line| line.broken) {
                self.put(from, remains, now);
            }
            if given_up.is_some() {
                return given_up;
            }
        }
    }

    /// The oldest of all.
    pub(super) fn give_up_oldest(&mut self) -> Option<Assembled> {
        loop {
            let Begun { from, .. } = self.oldest()?;
            let given_up = self.remove(from)?.assembled(from);
            if given_up.is_some() {
                return given_up;
            }
        }
    }

    /// When the oldest line must be given up; sooner, if lines have been finished since.
    pub(super) fn deadline(&self) -> Option<Moment> {
        if self.lines.is_empty() { None } else { Some(self.begun.front()?.given_up) }
    }

    fn oldest(&mut self) -> Option<Begun> {
        loop {
            let begun = *self.begun.front()?;
            if self.lines.get(&begun.from).is_some_and(|line| line.number == begun.number) {
                return Some(begun);
            }
            self.begun.pop_front();
        }
    }

    fn remove(&mut self, from: SocketAddr) -> Option<Unfinished> {
        let line = self.lines.remove(&from)?;
        self.bytes -= line.bytes.len();
        Some(line)
    }
}

impl Unfinished {
    /// Of so many bytes, if that is known. Its number is given to it later.
    fn empty(length: Option<usize>) -> Self {
        Unfinished { number: 0, bytes: Vec::new(), missing: length, cut: false, remains: false }
    }

    /// What there is of it; None: it was given up before.
    fn assembled(self, from: SocketAddr) -> Option<Assembled> {
        let broken = self.missing.is_some_and(|missing| missing > 0);
        (!self.remains).then_some(Assembled { from, bytes: self.bytes, cut: self.cut, broken })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Moment = Moment(5);

    fn sender(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    fn line(length: usize) -> Vec<u8> {
        let mut line: Vec<u8> = (0..length - 1).map(|at| b'a' + (at / 100 % 26) as u8).collect();
        line.push(b'\n');
        line
    }

    /// As consolidation does it.
    fn take(pieces: &mut Pieces, from: SocketAddr, datagram: &[u8]) -> Fit {
        match pieces.take(from, datagram) {
            Fit::None if datagram.len() == PIECE && !datagram.ends_with(b"\n") => {
                pieces.begin(from, datagram, None, NOW);
                Fit::Piece
            }
            fit => fit,
        }
    }

    #[test]
    fn pieces_of_two_senders_do_not_mix() {
        let mut pieces = Pieces::new(10);
        let (long, longer) = (line(2500), line(4000));
        assert_eq!(take(&mut pieces, sender(1), &long[..PIECE]), Fit::Piece);
        assert_eq!(take(&mut pieces, sender(2), &longer[..PIECE]), Fit::Piece);
        assert_eq!(take(&mut pieces, sender(3), b"short\n"), Fit::None);
        assert_eq!(take(&mut pieces, sender(1), &long[PIECE..2 * PIECE]), Fit::Piece);
        let Fit::End(assembled) = take(&mut pieces, sender(1), &long[2 * PIECE..]) else { panic!() };
        assert_eq!(assembled, Assembled { from: sender(1), bytes: long, cut: false, broken: false });
        assert_eq!(take(&mut pieces, sender(1), b"short\n"), Fit::None);
        let rest = pieces.interrupt(sender(2)).unwrap();
        assert_eq!(rest.bytes, longer[..PIECE]);
        assert_eq!((pieces.bytes, pieces.give_up_oldest()), (0, None));
    }

    #[test]
    fn an_announced_line_with_a_lost_piece_is_dropped_and_its_end_with_it() {
        let mut pieces = Pieces::new(10);
        let long = line(2500);
        let (first, end) = (&long[..PIECE], &long[2 * PIECE..]);
        pieces.begin(sender(1), b"", Some(long.len()), NOW);
        assert_eq!(take(&mut pieces, sender(1), first), Fit::Piece);
        assert_eq!(take(&mut pieces, sender(1), end), Fit::BrokenEnd);
        pieces.begin(sender(1), b"", Some(long.len()), NOW);
        assert_eq!(take(&mut pieces, sender(1), first), Fit::Piece);
        assert_eq!(take(&mut pieces, sender(1), b"another line\n"), Fit::Broken);
        assert_eq!(take(&mut pieces, sender(1), b"another line\n"), Fit::None);
        // Two end to end, of which a whole piece ends as a line.
        let even = line(2 * PIECE);
        pieces.begin(sender(1), b"", Some(even.len()), NOW);
        assert_eq!(take(&mut pieces, sender(1), &even[..PIECE]), Fit::Piece);
        let Fit::End(assembled) = take(&mut pieces, sender(1), &even[PIECE..]) else { panic!() };
        assert!(assembled.bytes == even && !assembled.broken);
    }

    #[test]
    fn more_than_a_line_may_have_is_cut() {
        let mut pieces = Pieces::new(10);
        let long = line(100_000);
        let mut fits = long.chunks(PIECE).map(|piece| take(&mut pieces, sender(1), piece));
        let Some(Fit::End(assembled)) = fits.find(|fit| *fit != Fit::Piece) else { panic!() };
        assert!(assembled.cut);
        assert_eq!(assembled.bytes, long[..LINE_MAX]);
        assert!(fits.next().is_none());
    }

    #[test]
    fn a_line_that_does_not_end_is_given_up() {
        let mut pieces = Pieces::new(10);
        pieces.begin(sender(1), &[b'a'; PIECE], None, NOW);
        pieces.begin(sender(2), b"", Some(3000), Moment(6));
        assert_eq!(pieces.deadline(), Some(Moment(15)));
        assert_eq!(pieces.give_up(Moment(14)), None);
        assert!(!pieces.give_up(Moment(15)).unwrap().broken);
        assert_eq!(pieces.give_up(Moment(15)), None);
        assert!(pieces.give_up(Moment(16)).unwrap().broken);
        assert_eq!(pieces.give_up(Moment(26)), None);
        assert_eq!(pieces.deadline(), None);
    }

    #[test]
    fn what_is_left_of_a_line_that_was_given_up_is_dropped() {
        let mut pieces = Pieces::new(10);
        let (long, even) = (line(2500), line(2 * PIECE));
        let (first, end) = (&long[..PIECE], &long[2 * PIECE..]);
        // Its time is up: so many bytes are left.
        pieces.begin(sender(1), b"", Some(long.len()), NOW);
        assert_eq!(take(&mut pieces, sender(1), first), Fit::Piece);
        assert!(pieces.give_up(Moment(15)).unwrap().broken);
        assert_eq!(take(&mut pieces, sender(1), first), Fit::Remains);
        assert_eq!(take(&mut pieces, sender(1), end), Fit::Remains);
        assert_eq!(take(&mut pieces, sender(1), b"next\n"), Fit::None);
        // What does not fit is something else.
        pieces.begin(sender(1), b"", Some(long.len()), NOW);
        assert!(pieces.give_up(Moment(15)).is_some());
        assert_eq!(take(&mut pieces, sender(1), b"next\n"), Fit::None);
        assert_eq!((pieces.give_up(Moment(100)), pieces.deadline()), (None, None));
        // Nobody knows how long it is.
        for (last, end) in [(end, "short"), (&even[PIECE..], "long")] {
            pieces.begin_remains(sender(1), NOW);
            assert_eq!(take(&mut pieces, sender(1), first), Fit::Remains, "{end}");
            assert_eq!(take(&mut pieces, sender(1), last), Fit::Remains, "{end}");
            assert_eq!(take(&mut pieces, sender(1), b"next\n"), Fit::None, "{end}");
        }
        // They have a time, too, and are nothing that could be written.
        pieces.begin_remains(sender(1), NOW);
        assert_eq!((pieces.give_up(Moment(15)), pieces.deadline()), (None, None));
        pieces.begin_remains(sender(1), NOW);
        assert_eq!((pieces.interrupt(sender(1)), pieces.give_up_oldest()), (None, None));
    }

    #[test]
    fn a_piece_that_ends_as_a_line_does_is_not_in_the_middle_of_one() {
        let mut pieces = Pieces::new(10);
        let even = line(2 * PIECE);
        pieces.begin(sender(1), b"", Some(2500), NOW);
        assert_eq!(take(&mut pieces, sender(1), &even[PIECE..]), Fit::BrokenEnd);
        assert_eq!(take(&mut pieces, sender(1), b"next\n"), Fit::None);
    }

    #[test]
    fn however_many_lines_are_begun_memory_is_bounded() {
        let mut pieces = Pieces::new(10);
        let mut given_up = 0;
        for number in 0..50_000_u32 {
            let from = SocketAddr::from((number.to_be_bytes(), 1));
            pieces.begin(from, &[b'a'; PIECE][..number as usize % 2 * PIECE], None, NOW);
            while pieces.give_up(NOW).is_some() {
                given_up += 1;
            }
            pieces.begin(sender(1), b"", None, NOW);
            assert!(pieces.bytes <= MOST_BYTES && pieces.lines.len() <= MOST_LINES + 1);
            assert!(pieces.begun.len() <= 2 * MOST_LINES);
        }
        assert!(given_up > 40_000);
    }

    proptest! {
        #[test]
        fn a_line_in_pieces_is_the_line(length in PIECE + 1..LINE_MAX, announced in any::<bool>()) {
            let (mut pieces, line) = (Pieces::new(10), line(length));
            if announced {
                pieces.begin(sender(1), b"", Some(length), NOW);
            }
            let mut ends = Vec::new();
            for piece in line.chunks(PIECE) {
                match take(&mut pieces, sender(1), piece) {
                    Fit::Piece => {}
                    Fit::End(assembled) => ends.push(assembled.bytes),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(ends, [line]);
        }
    }
}
