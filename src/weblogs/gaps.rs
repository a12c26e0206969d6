//! How many datagrams were lost on their way, by their numbers.
//!
//! pen numbers its datagrams; penlog says now and then how many it has sent. What is missing is lost when it has not come
//! among the next datagrams, or in the time that `Gaps::new` was told: a network may change the order of datagrams. A
//! stream that is new begins with whatever comes first.

mod recent;

use std::net::{IpAddr, SocketAddr};

use super::datagram::{Mark, Number, Stream};
use crate::model::time::Moment;
use recent::Recent;

/// Streams of either kind that are followed; when there are more the least recently used one is forgotten, and what it
/// misses is lost.
const MOST_STREAMS: usize = 1024;

/// Senders whose losses are kept until somebody asks.
const MOST_LOSSES: usize = 256;

/// Numbers that are remembered one by one: so far apart can two datagrams change places.
const WINDOW: u64 = 64;

/// No stream loses so many at once: its numbering has begun anew.
const TOO_MANY: u64 = 1 << 32;

/// Datagrams that were lost on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Who sent them.
    pub from: IpAddr,
    /// Were they records of pen? Else they were lines of penlog.
    pub records: bool,
    /// How many.
    pub datagrams: u64,
}

/// All streams.
#[derive(Debug)]
pub(super) struct Gaps {
    pens: Recent<(IpAddr, Stream), Numbers>,
    penlogs: Recent<SocketAddr, Marks>,
    /// Microseconds that a datagram may be late.
    patience: u64,
    /// What is missing then is lost.
    settling: Option<Moment>,
    found: Vec<Loss>,
    lost_records: u64,
    lost_lines: u64,
}

/// What has come of a stream of pen.
#[derive(Debug)]
struct Numbers {
    /// One more than the largest.
    next: u64,
    /// Which of the last ones have come; the lowest bit is `next - 1`.
    seen: u64,
    /// Which of the last ones have been counted as lost.
    lost: u64,
}

/// What has come of a stream of penlog.
#[derive(Debug)]
struct Marks {
    stream: Stream,
    /// How many datagrams had been sent before the last mark, and how many had come.
    sent: u64,
    received_then: u64,
    /// How many have come by now.
    received: u64,
    /// How many were missing at the mark before.
    missing_before: u64,
    /// How many have been counted as lost.
    lost: u64,
}

impl Gaps {
    pub(super) fn new(patience: u64) -> Self {
        Gaps {
            pens: Recent::new(MOST_STREAMS),
            penlogs: Recent::new(MOST_STREAMS),
            patience,
            settling: None,
            found: Vec::new(),
            lost_records: 0,
            lost_lines: 0,
        }
    }

    /// A datagram of pen has come. Is it new? Else it is one that has come before.
    pub(super) fn record(&mut self, from: IpAddr, number: Number, now: Moment) -> bool {
        let Some(numbers) = self.pens.get((from, number.stream)) else {
            let gone = self.pens.put((from, number.stream), Numbers::beginning_with(number.seq));
            if let Some(((from, _), mut numbers)) = gone {
                self.lose(from, true, numbers.settle());
            }
            return true;
        };
        let (new, lost) = numbers.take(number.seq);
        if numbers.missing() != 0 {
            self.settle_later(now);
        }
        self.lose(from, true, lost);
        new
    }

    /// A datagram has come that is no mark. Is it of a penlog that marks what it sends?
    pub(super) fn line(&mut self, from: SocketAddr) -> bool {
        let Some(marks) = self.penlogs.get(from) else {
            return false;
        };
        marks.received = marks.received.saturating_add(1);
        true
    }

    /// penlog says how many datagrams it has sent.
    pub(super) fn mark(&mut self, from: SocketAddr, mark: Mark, now: Moment) {
        let known = self.penlogs.get(from).filter(|marks| marks.goes_on_with(&mark));
        let Some(marks) = known else {
            if let Some((from, mut marks)) = self.penlogs.put(from, Marks::beginning_with(mark)) {
                self.lose(from.ip(), false, marks.settle_all());
            }
            return;
        };
        let lost = marks.take(mark);
        if marks.missing() > marks.lost {
            self.settle_later(now);
        }
        self.lose(from.ip(), false, lost);
    }

    /// When [`Gaps::settle`] must be called.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.settling
    }

    /// What is missing now is lost, if its time is up.
    pub(super) fn settle(&mut self, now: Moment) {
        if self.settling.is_some_and(|settling| settling <= now) {
            self.settle_all();
        }
    }

    /// What is missing now is lost.
    pub(super) fn settle_all(&mut self) {
        self.settling = None;
        let mut lost = Vec::new();
        for ((from, _), numbers) in self.pens.iter_mut() {
            lost.push((*from, true, numbers.settle()));
        }
        for (from, marks) in self.penlogs.iter_mut() {
            lost.push((from.ip(), false, marks.settle_all()));
        }
        for (from, records, datagrams) in lost {
            self.lose(from, records, datagrams);
        }
    }

    /// The losses that were found since this was called last, one for each sender.
    pub(super) fn take_losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.found)
    }

    /// All datagrams that were lost: records of pen, lines of penlog.
    pub(super) fn lost(&self) -> (u64, u64) {
        (self.lost_records, self.lost_lines)
    }

    fn settle_later(&mut self, now: Moment) {
        self.settling.get_or_insert(now.plus_micros(self.patience));
    }

    fn lose(&mut self, from: IpAddr, records: bool, datagrams: u64) {
        if datagrams == 0 {
            return;
        }
        let total = if records { &mut self.lost_records } else { &mut self.lost_lines };
        *total = total.saturating_add(datagrams);
        let known = self.found.iter().position(|loss| loss.from == from && loss.records == records);
        match known {
            Some(at) => self.found[at].datagrams = self.found[at].datagrams.saturating_add(datagrams),
            None if self.found.len() < MOST_LOSSES => self.found.push(Loss { from, records, datagrams }),
            None => {}
        }
    }
}

impl Numbers {
    /// Those before the first are not missed. They are new, though, if they come after it.
    fn beginning_with(seq: u64) -> Self {
        Numbers { next: seq.saturating_add(1), seen: 1, lost: !1 }
    }

    /// Is it new, and how many are lost for certain now?
    fn take(&mut self, seq: u64) -> (bool, u64) {
        if seq < self.next {
            let back = self.next - 1 - seq;
            // Too long ago to tell.
            let bit = if back < WINDOW { 1 << back } else { return (true, 0) };
            let new = self.seen & bit == 0;
            self.seen |= bit;
            return (new, 0);
        }
        let ahead = seq - self.next + 1;
        if ahead >= TOO_MANY || seq == u64::MAX {
            *self = Numbers::beginning_with(seq);
            return (true, 0);
        }
        self.next = seq + 1;
        if ahead < WINDOW {
            let leaving = self.missing() >> (WINDOW - ahead);
            self.seen = self.seen << ahead | 1;
            self.lost <<= ahead;
            (true, u64::from(leaving.count_ones()))
        } else {
            let lost = u64::from(self.missing().count_ones()) + (ahead - WINDOW);
            self.seen = 1;
            self.lost = 0;
            (true, lost)
        }
    }

    /// What is missing is lost: how many?
    fn settle(&mut self) -> u64 {
        let missing = self.missing();
        self.lost |= missing;
        u64::from(missing.count_ones())
    }

    /// The last ones that have not come, and can still come.
    fn missing(&self) -> u64 {
        !(self.seen | self.lost)
    }
}

impl Marks {
    fn beginning_with(mark: Mark) -> Self {
        let Mark { stream, sent, .. } = mark;
        Marks { stream, sent, received_then: sent, received: sent, missing_before: 0, lost: 0 }
    }

    fn goes_on_with(&self, mark: &Mark) -> bool {
        mark.stream == self.stream && mark.sent >= self.sent && mark.sent - self.sent < TOO_MANY
    }

    /// How many are lost for certain now: those that were missing at the mark before, and still are.
    fn take(&mut self, mark: Mark) -> u64 {
        self.missing_before = self.missing();
        self.sent = mark.sent;
        self.received_then = self.received;
        self.settle(self.missing_before.min(self.missing()))
    }

    /// How many were missing at the last mark.
    fn missing(&self) -> u64 {
        self.sent.saturating_sub(self.received_then)
    }

    /// What is missing is lost: how many?
    fn settle_all(&mut self) -> u64 {
        // What came after the mark may have been sent before it.
        let late = self.received.saturating_sub(self.received_then);
        self.settle(self.missing().saturating_sub(late))
    }

    /// So many are lost: how many of them were not known to be?
    fn settle(&mut self, lost: u64) -> u64 {
        let more = lost.saturating_sub(self.lost);
        self.lost += more;
        more
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: u64 = 100;

    fn pen() -> IpAddr {
        [10, 0, 0, 9].into()
    }

    fn penlog(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    fn records(gaps: &mut Gaps, seqs: impl IntoIterator<Item = u64>) -> Vec<bool> {
        let take = |seq| gaps.record(pen(), Number { stream: Stream(7), seq }, Moment(1));
        seqs.into_iter().map(take).collect()
    }

    fn lines(gaps: &mut Gaps, count: u64) {
        for _ in 0..count {
            gaps.line(penlog(5));
        }
    }

    fn mark(gaps: &mut Gaps, stream: u32, sent: u64) {
        gaps.mark(penlog(5), Mark { stream: Stream(stream), sent, length: None }, Moment(1));
    }

    #[test]
    fn a_number_that_does_not_come_in_time_is_lost() {
        let mut gaps = Gaps::new(PATIENCE);
        records(&mut gaps, [5, 6, 9]);
        assert_eq!((gaps.lost(), gaps.deadline()), ((0, 0), Some(Moment(1 + PATIENCE))));
        gaps.settle(Moment(PATIENCE));
        assert_eq!(gaps.lost(), (0, 0));
        gaps.settle(Moment(1 + PATIENCE));
        assert_eq!((gaps.lost(), gaps.deadline()), ((2, 0), None));
        assert_eq!(gaps.take_losses(), [Loss { from: pen(), records: true, datagrams: 2 }]);
        assert_eq!(gaps.take_losses(), []);
        // Later still they are new, but not found again.
        assert_eq!(records(&mut gaps, [7, 7]), [true, false]);
        gaps.settle_all();
        assert_eq!(gaps.lost(), (2, 0));
    }

    #[test]
    fn datagrams_that_change_places_are_not_lost() {
        let mut gaps = Gaps::new(PATIENCE);
        assert!(records(&mut gaps, [10, 12, 11, 73, 14, 13]).iter().all(|&new| new));
        records(&mut gaps, 15..73);
        gaps.settle_all();
        assert_eq!(gaps.lost(), (0, 0));
    }

    #[test]
    fn what_comes_twice_is_told() {
        let mut gaps = Gaps::new(PATIENCE);
        assert_eq!(records(&mut gaps, [3, 4, 4, 6, 5, 5]), [true, true, false, true, true, false]);
    }

    #[test]
    fn the_first_of_a_stream_may_have_changed_places() {
        let mut gaps = Gaps::new(PATIENCE);
        assert_eq!(records(&mut gaps, [2, 0, 3, 1, 0, 2]), [true, true, true, true, false, false]);
        gaps.settle_all();
        assert_eq!(gaps.lost(), (0, 0));
    }

    #[test]
    fn a_stream_that_is_new_begins_anew() {
        let mut gaps = Gaps::new(PATIENCE);
        records(&mut gaps, [1000, 1001]);
        gaps.record(pen(), Number { stream: Stream(8), seq: 0 }, Moment(1));
        records(&mut gaps, [1 << 40, u64::MAX, u64::MAX, 0]);
        gaps.settle_all();
        assert_eq!(gaps.lost(), (0, 0));
    }

    #[test]
    fn penlog_says_how_many_lines_there_were() {
        let mut gaps = Gaps::new(PATIENCE);
        lines(&mut gaps, 3);
        mark(&mut gaps, 1, 0);
        lines(&mut gaps, 990);
        mark(&mut gaps, 1, 1000);
        assert_eq!(gaps.lost(), (0, 0));
        lines(&mut gaps, 1000);
        mark(&mut gaps, 1, 2000);
        assert_eq!(gaps.lost(), (0, 10));
        lines(&mut gaps, 999);
        mark(&mut gaps, 1, 3000);
        gaps.settle_all();
        assert_eq!(gaps.lost(), (0, 11));
        assert_eq!(gaps.take_losses(), [Loss { from: penlog(5).ip(), records: false, datagrams: 11 }]);
        // Another penlog at the same port.
        mark(&mut gaps, 2, 500);
        lines(&mut gaps, 1);
        mark(&mut gaps, 2, 501);
        gaps.settle_all();
        assert_eq!(gaps.lost(), (0, 11));
    }

    #[test]
    fn lines_that_come_behind_their_mark_are_not_lost() {
        let mut gaps = Gaps::new(PATIENCE);
        mark(&mut gaps, 1, 0);
        for number in 1..10 {
            lines(&mut gaps, if number == 1 { 997 } else { 1000 });
            mark(&mut gaps, 1, number * 1000);
            lines(&mut gaps, if number == 9 { 3 } else { 0 });
            if number == 1 {
                lines(&mut gaps, 3);
            }
        }
        gaps.settle_all();
        assert_eq!(gaps.lost(), (0, 0));
    }

    #[test]
    fn however_many_streams_there_are_memory_is_bounded() {
        let mut gaps = Gaps::new(PATIENCE);
        for stream in 0..5000 {
            gaps.record(pen(), Number { stream: Stream(stream), seq: 1 }, Moment(1));
            gaps.record(pen(), Number { stream: Stream(stream), seq: 3 }, Moment(1));
            let from = SocketAddr::from((stream.to_be_bytes(), 5));
            for sent in [0, 9, 10] {
                gaps.mark(from, Mark { stream: Stream(stream), sent, length: None }, Moment(1));
            }
        }
        gaps.settle_all();
        assert_eq!((gaps.pens.len(), gaps.penlogs.len()), (MOST_STREAMS, MOST_STREAMS));
        // Those that were forgotten have lost no less.
        assert_eq!(gaps.lost(), (5000, 5000 * 10));
        assert_eq!(gaps.found.len(), MOST_LOSSES);
    }

    proptest! {
        #[test]
        fn what_did_not_come_is_lost_and_nothing_else(
            fates in prop::collection::vec((0_u8..4, 0_usize..30), 1..400),
        ) {
            // One in four does not come; the others come up to 30 places late.
            let mut places: Vec<(usize, u64)> = Vec::new();
            for (seq, (fate, late)) in fates.iter().enumerate() {
                if *fate > 0 || seq == 0 || seq + 1 == fates.len() {
                    let place = if seq == 0 { 0 } else { seq + late };
                    places.push((place, seq as u64));
                }
            }
            places.sort_unstable();
            let mut gaps = Gaps::new(PATIENCE);
            let came = places.len() as u64;
            let new = records(&mut gaps, places.into_iter().map(|(_, seq)| seq));
            prop_assert!(new.iter().all(|&new| new));
            gaps.settle_all();
            prop_assert_eq!(gaps.lost(), (fates.len() as u64 - came, 0));
        }
    }
}
