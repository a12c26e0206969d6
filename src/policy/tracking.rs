//! For how long a client is remembered.
//!
//! Asked when the client comes back, so that an entry nobody has needed the room of does not live longer than
//! the tracking time. See pen(1), -T.

use crate::model::time::{Moment, Seconds};

/// Is a client that was last seen at `last` still remembered at `now`? Tracking time 0: for ever. Expired when
/// older than the tracking time, not when exactly as old.
pub fn remembered(last: Moment, tracking: Seconds, now: Moment) -> bool {
    tracking == Seconds(0) || now.micros_since(last) <= tracking.micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn without_a_tracking_time_a_client_is_remembered_for_ever() {
        assert!(remembered(Moment(0), Seconds(0), Moment(u64::MAX)));
    }

    #[test]
    fn a_client_is_forgotten_when_older_than_the_tracking_time_and_not_before() {
        let last = Moment(7 * SECOND);
        assert!(remembered(last, Seconds(2), last));
        assert!(remembered(last, Seconds(2), Moment(9 * SECOND)));
        assert!(!remembered(last, Seconds(2), Moment(9 * SECOND + 1)));
        assert!(!remembered(last, Seconds(2), Moment(11 * SECOND)));
    }

    #[test]
    fn a_client_seen_by_a_worker_whose_clock_is_ahead_is_remembered() {
        assert!(remembered(Moment(9 * SECOND), Seconds(1), Moment(8 * SECOND)));
    }
}
