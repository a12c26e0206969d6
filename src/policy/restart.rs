//! When a dead worker's place is filled again.
//!
//! A worker that somebody killed is replaced at once: clients wait in the listener's queue meanwhile. Only
//! workers that die as soon as they are started are held back, longer each time, so that a fault that no new
//! start can mend costs neither the processor nor the log much.

use std::time::Duration;

/// A worker that dies younger than this died of its own start. Long enough for a slow start to fail, short
/// enough that a worker which served in between is replaced without delay: at four starts a second the starts
/// themselves cost nothing worth sparing, while every wait is a time without that worker.
pub const YOUNG: Duration = Duration::from_millis(250);

/// The first wait that is not 0; the waits double from here.
pub const SHORTEST_WAIT: Duration = Duration::from_millis(50);

/// No wait is longer.
pub const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How often a worker died young lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Deaths in a row that came soon after the start.
    pub failures: u32,
}

/// A worker that lived for `lifetime` has died: how long to wait before the next takes its place, and the new
/// history. The first is started at once; if they keep dying [`YOUNG`] the wait doubles; a longer life makes up
/// for all before it.
pub fn after_death(history: History, lifetime: Duration) -> (Duration, History) {
    if lifetime >= YOUNG {
        return (Duration::ZERO, History::default());
    }
    let wait = match history.failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => {
            let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
            SHORTEST_WAIT.saturating_mul(factor).min(LONGEST_WAIT)
        }
    };
    (wait, History { failures: history.failures.saturating_add(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits, in milliseconds, after workers that lived that many milliseconds each.
    fn waits(lifetimes: impl IntoIterator<Item = u64>) -> Vec<u128> {
        let mut history = History::default();
        let step = |lifetime| {
            let (wait, next) = after_death(history, Duration::from_millis(lifetime));
            history = next;
            wait.as_millis()
        };
        lifetimes.into_iter().map(step).collect()
    }

    #[test]
    fn the_first_death_costs_no_wait_and_then_waits_double_up_to_ten_seconds() {
        let expected = [0, 50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000];
        assert_eq!(waits([3; 11]), expected);
    }

    #[test]
    fn a_worker_that_served_for_a_while_is_replaced_at_once_and_clears_the_history() {
        assert_eq!(waits([0, 0, 0, 250, 0, 0]), [0, 50, 100, 0, 0, 50]);
        assert_eq!(waits([249, 249, 249]), [0, 50, 100]);
    }

    #[test]
    fn workers_that_somebody_kills_every_800_ms_are_always_replaced_at_once() {
        assert!(waits([800; 1000]).iter().all(|wait| *wait == 0));
    }

    #[test]
    fn workers_that_never_live_wait_ten_seconds_for_ever() {
        assert_eq!(waits([0; 200]).last(), Some(&10_000));
        let weary = History { failures: u32::MAX };
        assert_eq!(after_death(weary, Duration::ZERO), (LONGEST_WAIT, weary));
    }
}
