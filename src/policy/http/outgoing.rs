//! What goes out for a chunk that came in: parts of it, and bytes in between.

use std::ops::Range;

/// Parts of a chunk that are smaller than this, in bytes, are copied: that costs less than a piece of their own.
pub const SMALL: usize = 1024;

/// A part of what goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// Of the chunk that came in.
    Chunk(Range<usize>),
    /// Of what was staged.
    Staged(Range<usize>),
}

/// What goes out, in order. Emptied, never freed: one a worker.
#[derive(Debug, Default)]
pub struct Outgoing {
    staged: Vec<u8>,
    pieces: Vec<Piece>,
    /// Everything is copied, so that it is one piece.
    whole: bool,
}

impl Outgoing {
    /// Empties it. `whole`: what comes next is to be one piece.
    pub fn begin(&mut self, whole: bool) {
        self.staged.clear();
        self.pieces.clear();
        self.whole = whole;
    }

    /// A part of the chunk goes out.
    pub fn pass(&mut self, chunk: &[u8], part: Range<usize>) {
        if part.is_empty() {
            return;
        }
        match self.pieces.last_mut() {
            Some(Piece::Chunk(last)) if last.end == part.start => last.end = part.end,
            _ if self.whole || part.len() < SMALL => {
                self.stage(|staged| staged.extend_from_slice(chunk.get(part).unwrap_or_default()));
            }
            _ => self.pieces.push(Piece::Chunk(part)),
        }
    }

    /// What `write` appends goes out.
    pub fn stage<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let before = self.staged.len();
        let result = write(&mut self.staged);
        let after = self.staged.len();
        match self.pieces.last_mut() {
            _ if after == before => {}
            Some(Piece::Staged(last)) if last.end == before => last.end = after,
            _ => self.pieces.push(Piece::Staged(before..after)),
        }
        result
    }

    /// The bytes of each piece.
    pub fn pieces<'a>(&'a self, chunk: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.pieces.iter().map(move |piece| match piece {
            Piece::Chunk(range) => chunk.get(range.clone()).unwrap_or_default(),
            Piece::Staged(range) => self.staged.get(range.clone()).unwrap_or_default(),
        })
    }

    /// How many pieces there are.
    pub fn count(&self) -> usize {
        self.pieces.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As long as what a worker reads at once.
    fn chunk() -> Vec<u8> {
        (0u32..65_536).map(|at| (at * 31 / 7) as u8).collect()
    }

    fn append(out: &mut Outgoing, bytes: &[u8]) {
        out.stage(|staged| staged.extend_from_slice(bytes));
    }

    #[test]
    fn a_head_and_its_small_body_are_one_piece() {
        let (chunk, mut out) = (chunk(), Outgoing::default());
        append(&mut out, b"head");
        out.pass(&chunk, 100..100 + SMALL - 1);
        assert_eq!(out.pieces, [Piece::Staged(0..4 + SMALL - 1)]);
    }

    #[test]
    fn a_large_body_is_not_copied() {
        let (chunk, mut out) = (chunk(), Outgoing::default());
        append(&mut out, b"head");
        out.pass(&chunk, 100..100 + SMALL);
        append(&mut out, b"next");
        assert_eq!(out.pieces, [Piece::Staged(0..4), Piece::Chunk(100..100 + SMALL), Piece::Staged(4..8)]);
        assert_eq!(out.staged, b"headnext");
    }

    #[test]
    fn what_follows_a_part_in_the_chunk_makes_it_longer_however_little_it_is() {
        let (chunk, mut out) = (chunk(), Outgoing::default());
        out.pass(&chunk, 0..2000);
        out.pass(&chunk, 2000..2001);
        out.pass(&chunk, 2001..5000);
        assert_eq!(out.pieces, [Piece::Chunk(0..5000)]);
        out.pass(&chunk, 5001..5002);
        assert_eq!(out.pieces, [Piece::Chunk(0..5000), Piece::Staged(0..1)]);
    }

    #[test]
    fn what_appends_nothing_is_no_piece_and_parts_nothing() {
        let (chunk, mut out) = (chunk(), Outgoing::default());
        append(&mut out, b"");
        out.pass(&chunk, 7..7);
        assert_eq!(out.count(), 0);
        out.pass(&chunk, 0..2000);
        assert_eq!(out.stage(|_| "what it says"), "what it says");
        out.pass(&chunk, 2000..4000);
        assert_eq!(out.pieces, [Piece::Chunk(0..4000)]);
    }

    #[test]
    fn nothing_is_left_of_what_went_out_before() {
        let (chunk, mut out) = (chunk(), Outgoing::default());
        out.begin(true);
        append(&mut out, b"head");
        out.pass(&chunk, 0..2000);
        assert_eq!(out.count(), 1);
        out.begin(false);
        assert_eq!((out.count(), out.pieces(&chunk).count()), (0, 0));
        append(&mut out, b"other");
        assert_eq!(out.pieces(&chunk).collect::<Vec<_>>(), [b"other"]);
    }

    #[test]
    fn a_part_that_the_chunk_has_not_is_nothing() {
        let (chunk, mut out) = (chunk(), Outgoing::default());
        out.pass(&chunk, 65_000..66_000);
        out.pass(&chunk, 65_000..67_000);
        assert_eq!(out.pieces(&chunk).map(<[u8]>::len).sum::<usize>(), 0);
    }

    /// What is done between two chunks: bytes in between, or so many bytes of the chunk after so many that do not go.
    #[derive(Debug, Clone)]
    enum Step {
        Append(Vec<u8>),
        Pass { gap: usize, length: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let length = prop_oneof![0..4usize, SMALL - 2..SMALL + 2, 0..20_000usize];
        let gap = prop_oneof![Just(0), 0..400usize];
        let step = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Step::Append),
            (gap, length).prop_map(|(gap, length)| Step::Pass { gap, length }),
        ];
        prop::collection::vec(step, 0..20)
    }

    proptest! {
        #[test]
        fn everything_goes_out_in_order_in_few_pieces(steps in steps(), whole: bool) {
            let (chunk, mut out, mut expected, mut at) = (chunk(), Outgoing::default(), Vec::new(), 0);
            out.begin(whole);
            for step in steps {
                match step {
                    Step::Append(bytes) => {
                        append(&mut out, &bytes);
                        expected.extend(bytes);
                    }
                    Step::Pass { gap, length } => {
                        let start = (at + gap).min(chunk.len());
                        at = (start + length).min(chunk.len());
                        out.pass(&chunk, start..at);
                        expected.extend_from_slice(&chunk[start..at]);
                    }
                }
            }
            prop_assert_eq!(out.pieces(&chunk).collect::<Vec<_>>().concat(), expected);
            prop_assert_eq!(out.pieces(&chunk).count(), out.count());
            prop_assert!(out.pieces(&chunk).all(|piece| !piece.is_empty()));
            prop_assert!(!whole || out.count() <= 1);
            for pair in out.pieces.windows(2) {
                match (&pair[0], &pair[1]) {
                    (Piece::Staged(_), Piece::Staged(_)) => prop_assert!(false, "two that could be one"),
                    (Piece::Chunk(one), Piece::Chunk(next)) => prop_assert!(one.end < next.start),
                    _ => {}
                }
            }
            for piece in &out.pieces {
                if let Piece::Chunk(part) = piece {
                    prop_assert!(part.len() >= SMALL);
                }
            }
        }
    }
}
