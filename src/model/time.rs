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

/// Year, month and day of so many days after 1970-01-01, or before. Years are counted from March here, so that a leap day
/// is the last of its year. After Howard Hinnant's date algorithms.
pub fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    // 0000-03-01 is so many days before 1970-01-01.
    let days = days + 719_468;
    let day_of_400 = days.rem_euclid(DAYS_OF_400_YEARS);
    let year_of_400 = (day_of_400 - day_of_400 / 1460 + day_of_400 / 36_524 - day_of_400 / 146_096) / 365;
    let day_of_year = day_of_400 - (365 * year_of_400 + year_of_400 / 4 - year_of_400 / 100);
    // March to July and August to December have 153 days each, January is as long as March.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = days.div_euclid(DAYS_OF_400_YEARS) * 400 + year_of_400 + i64::from(month <= 2);
    (year, month, day)
}
