//! Which servers are out of play, and until when.
//!
//! A failed connect shuns a server for the blacklist time (pen(1), -b). When that is up, one connection tries
//! it for all: while that probe is under way the others still keep away. Success forgives.
//! Pure: callers bring `now` and store the result in [`crate::shared::servers`].
//! Not here: choosing a server (selection), counting connections (limits).

use crate::model::time::{Moment, Seconds};

/// What is known of a server's failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// When it failed last, if it has not served since. May lie in the future: `server N blacklist T`. For
    /// this module only to read: from [`failed_for`] it may even be a moment before the clock's zero, wrapped.
    pub failed: Option<Moment>,
    /// Until when a connection under way counts as the one probe that a server gets whose time is up.
    pub probing_until: Option<Moment>,
}

/// How a server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Never failed, or has served since.
    Good,
    /// Failed, its time is up, nobody is trying it: whoever picks it is the probe.
    Due,
    /// Failed less than the blacklist time ago, or a probe is under way.
    Shunned,
}

/// How does a server with this record stand at `now`?
///
/// A blacklist time of 0 shuns nobody that failed, and makes nobody wait for a probe; a failure in the future,
/// which only the administrator can note, still keeps the server out until then.
pub fn standing(record: Record, blacklist: Seconds, now: Moment) -> Standing {
    if record.failed.is_none() {
        return Standing::Good;
    }
    let out = left(record, blacklist, now) > 0;
    let probed = record.probing_until.is_some_and(|until| now < until);
    match (out, blacklist) {
        (true, _) => Standing::Shunned,
        (false, Seconds(0)) => Standing::Good,
        (false, _) if probed => Standing::Shunned,
        (false, _) => Standing::Due,
    }
}

/// For how many microseconds more does a failure, or an order, keep a server with this record out? 0: it does not.
pub fn left(record: Record, blacklist: Seconds, now: Moment) -> u64 {
    let end = record.failed.map(|failed| Moment(failed.0.wrapping_add(blacklist.micros())));
    end.filter(|end| is_after(*end, now)).map_or(0, |end| end.0.wrapping_sub(now.0))
}

/// What is known of a server after a connect to it has failed. That does not shorten what the administrator ordered.
pub fn after_failure(record: Record, now: Moment) -> Record {
    let ordered = record.failed.filter(|failed| is_after(*failed, now));
    Record { failed: ordered.or(Some(now)), probing_until: None }
}

/// What is known of a server after a connect to it has succeeded: nothing, unless the administrator ordered something.
pub fn after_success(record: Record, now: Moment) -> Record {
    match record.failed {
        Some(failed) if is_after(failed, now) => record,
        _ => Record::default(),
    }
}

/// The sign of the wrapped difference orders all moments within 292,000 years of each other.
fn is_after(one: Moment, other: Moment) -> bool {
    (one.0.wrapping_sub(other.0) as i64) > 0
}

/// The moment to note as a failure so that the server stays out of use for `length` from `now`, whatever the
/// blacklist time is: `server N blacklist T`. None for a length of 0, which forgives.
pub fn failed_for(length: Seconds, blacklist: Seconds, now: Moment) -> Option<Moment> {
    // Soon after the system's start the moment may be before the clock's zero: it wraps, and standing() wraps
    // it back.
    let failed = now.plus(length).0.wrapping_sub(blacklist.micros());
    (length != Seconds(0)).then_some(Moment(failed))
}

#[cfg(test)]
mod tests {
    use super::Standing::{Due, Good, Shunned};
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u32) -> Moment {
        Moment(0).plus(Seconds(seconds))
    }

    fn failed_at(seconds: u32) -> Record {
        Record { failed: Some(at(seconds)), probing_until: None }
    }

    #[test]
    fn a_server_that_never_failed_is_good() {
        assert_eq!(standing(Record::default(), Seconds(30), at(0)), Good);
        assert_eq!(standing(Record::default(), Seconds(30), at(1000)), Good);
    }

    #[test]
    fn a_failed_server_is_shunned_until_its_time_is_up() {
        assert_eq!(standing(failed_at(100), Seconds(30), at(100)), Shunned);
        assert_eq!(standing(failed_at(100), Seconds(30), Moment(at(130).0 - 1)), Shunned);
        assert_eq!(standing(failed_at(100), Seconds(30), at(130)), Due);
    }

    #[test]
    fn another_blacklist_time_acts_on_old_failures_at_once() {
        assert_eq!(standing(failed_at(100), Seconds(10), at(120)), Due);
        assert_eq!(standing(failed_at(100), Seconds(60), at(120)), Shunned);
    }

    #[test]
    fn a_blacklist_time_of_0_shuns_nobody_and_needs_no_probe() {
        assert_eq!(standing(failed_at(100), Seconds(0), at(100)), Good);
        let probed = Record { probing_until: Some(at(105)), ..failed_at(100) };
        assert_eq!(standing(probed, Seconds(0), at(101)), Good);
    }

    #[test]
    fn while_one_connection_probes_the_others_keep_away_and_then_another_may() {
        let probed = Record { probing_until: Some(at(135)), ..failed_at(100) };
        assert_eq!(standing(probed, Seconds(30), at(134)), Shunned);
        assert_eq!(standing(probed, Seconds(30), at(135)), Due);
    }

    #[test]
    fn a_failure_seen_by_a_worker_whose_clock_is_ahead_counts() {
        assert_eq!(standing(failed_at(101), Seconds(30), at(100)), Shunned);
    }

    #[test]
    fn the_administrator_takes_a_server_out_even_without_a_blacklist_time() {
        let record = Record { failed: failed_for(Seconds(100), Seconds(0), at(5)), probing_until: None };
        assert_eq!(standing(record, Seconds(0), at(104)), Shunned);
        assert_eq!(standing(record, Seconds(0), at(105)), Good);
    }

    #[test]
    fn soon_after_the_systems_start_failures_and_successes_count_as_they_do_later() {
        let record = Record { failed: failed_for(Seconds(1), Seconds(30), at(5)), probing_until: None };
        assert_eq!(standing(record, Seconds(30), at(6)), Due);
        assert_eq!(standing(after_failure(record, at(7)), Seconds(30), at(36)), Shunned);
        assert_eq!(after_success(record, at(7)), Record::default());
    }

    #[test]
    fn an_order_is_neither_shortened_by_a_failure_nor_undone_by_a_success() {
        let record = Record { failed: failed_for(Seconds(100), Seconds(30), at(5)), probing_until: None };
        assert_eq!(standing(after_failure(record, at(50)), Seconds(30), at(104)), Shunned);
        assert_eq!(standing(after_failure(record, at(50)), Seconds(30), at(105)), Due);
        assert_eq!(after_success(record, at(50)), record);
        assert_eq!(after_success(record, at(105)), Record::default());
    }

    #[test]
    fn a_length_of_0_forgives() {
        assert_eq!(failed_for(Seconds(0), Seconds(30), at(5)), None);
    }

    proptest! {
        /// Whatever the blacklist time, and however soon after the system's start.
        #[test]
        fn the_administrators_length_is_exact(length in 1u32.., blacklist: u32, now in 0u64..1 << 50) {
            let (now, blacklist) = (Moment(now), Seconds(blacklist));
            let failed = failed_for(Seconds(length), blacklist, now);
            let record = Record { failed, probing_until: None };
            let end = now.plus(Seconds(length));
            let back = if blacklist == Seconds(0) { Good } else { Due };
            prop_assert_eq!(standing(record, blacklist, now), Shunned);
            prop_assert_eq!(left(record, blacklist, now), end.micros_since(now));
            prop_assert_eq!(standing(record, blacklist, Moment(end.0 - 1)), Shunned);
            prop_assert_eq!(standing(record, blacklist, end), back);
        }
    }
}
