//! Points in time and lengths of time. Monotonic time (for everything that is measured) and wall time (for
//! everything that is shown or logged) are different types and never mix.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A length of time in whole seconds, as options and commands give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Seconds(pub u32);

impl Seconds {
    /// The same in microseconds.
    pub fn micros(self) -> u64 {
        u64::from(self.0) * 1_000_000
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point of monotonic time: microseconds of the system's CLOCK_MONOTONIC, so that all processes agree.
/// Zero is before anything that pen does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment and `length` more.
    pub fn plus(self, length: Seconds) -> Moment {
        Moment(self.0.saturating_add(length.micros()))
    }

    /// This moment and so many microseconds more.
    pub fn plus_micros(self, length: u64) -> Moment {
        Moment(self.0.saturating_add(length))
    }

    /// Microseconds since `earlier`; 0 if that is not earlier.
    pub fn micros_since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds since `earlier`; 0 if that is not earlier.
    pub fn seconds_since(self, earlier: Moment) -> u64 {
        self.micros_since(earlier) / 1_000_000
    }
}

/// A point of wall time: seconds since 1970-01-01 00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct WallTime(pub u64);

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
