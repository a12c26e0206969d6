//! How much is read from a flow's server at a time.
//!
//! One datagram at a time is best read alone, and several together: the call for a batch costs more than the call for
//! one. A flow that has something to read in two turns of the loop in a row has bursts, until its batches are of one
//! again for a while.

/// So many batches of one in a row, and a flow is read one by one again.
const LONE: u8 = 4;

/// A flow's pace.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// The loop turn in which it was read last.
    turn: u64,
    bursty: bool,
    /// Batches of one in a row.
    lone: u8,
}

impl Pace {
    /// It has something to read: is that to be a batch?
    pub(super) fn wants_batch(&mut self, turn: u64) -> bool {
        let consecutive = self.turn + 1 == turn;
        self.turn = turn;
        if consecutive && !self.bursty {
            (self.bursty, self.lone) = (true, 0);
        }
        self.bursty
    }

    /// A batch had so many messages, or trains in them.
    pub(super) fn took(&mut self, datagrams: usize) {
        self.lone = if datagrams > 1 { 0 } else { self.lone + 1 };
        if self.lone >= LONE {
            self.bursty = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_read_one_by_one() {
        let mut pace = Pace::default();
        assert!((0..100).all(|round| !pace.wants_batch(2 + 2 * round)));
    }

    #[test]
    fn two_turns_in_a_row_are_a_burst_and_a_few_batches_of_one_end_it() {
        let mut pace = Pace::default();
        assert!(!pace.wants_batch(5));
        assert!(pace.wants_batch(6));
        pace.took(16);
        for turn in [10, 20, 30] {
            assert!(pace.wants_batch(turn), "{turn}");
            pace.took(1);
        }
        assert!(pace.wants_batch(40));
        pace.took(2);
        for turn in [50, 60, 70, 80] {
            assert!(pace.wants_batch(turn), "{turn}");
            pace.took(1);
        }
        assert!(!pace.wants_batch(90));
    }
}
