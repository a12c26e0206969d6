//! The two clocks, and wall time as people read it.
//!
//! Decisions rest on [`now`] alone, which no administrator and no time server can set; [`wall`] is for what people
//! read. Both are answered without entering the kernel (vDSO).
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::sync::Once;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::record::WallMicros;
use crate::model::time::{Moment, WallTime};

unsafe extern "C" {
    /// tzset(3): reads `TZ` and the zone file that it names.
    fn tzset();

    /// Seconds that UTC is ahead of the local zone when no summer time applies: tzset sets it.
    static timezone: libc::c_long;
}

/// CLOCK_MONOTONIC: the same in all processes.
pub fn now() -> Moment {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live timespec that the call may write to. It cannot fail: the clock exists on every Linux
    // and the pointer is good; if it did, the moment would be 0, which is valid too.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_nsec).unwrap_or(0) / 1000;
    Moment(seconds.saturating_mul(1_000_000).saturating_add(micros))
}

/// CLOCK_REALTIME; 0 on a machine whose clock says that it is before 1970.
pub fn wall() -> WallTime {
    WallTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// The same in microseconds.
pub fn wall_micros() -> WallMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// `YYYY-MM-DD HH:MM:SS` in local time. The zone is read once, at the first call: call it before a chroot.
/// A time that no calendar holds is shown as its number of seconds.
pub fn local(time: WallTime) -> String {
    read_zone();
    let Ok(seconds) = libc::time_t::try_from(time.0) else {
        return time.to_string();
    };
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of the right types; localtime_r writes the second.
    let converted = unsafe { libc::localtime_r(&seconds, parts.as_mut_ptr()) };
    if converted.is_null() {
        return time.to_string();
    }
    // SAFETY: it was zeroed, which is a valid `tm`, and localtime_r has filled it in since.
    let parts = unsafe { parts.assume_init() };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        i64::from(parts.tm_year) + 1900,
        parts.tm_mon + 1,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec
    )
}

/// How many seconds the local zone is ahead of UTC when no summer time applies.
pub fn standard_zone() -> i64 {
    read_zone();
    // SAFETY: it exists wherever tzset does, has this type there (POSIX), and only tzset writes to it, which has been
    // called for the last time.
    let behind = unsafe { timezone };
    -behind
}

/// The zone is read once.
fn read_zone() {
    static ZONE: Once = Once::new();
    // SAFETY: tzset reads the environment; pen is single-threaded wherever it changes that, and `Once` keeps two
    // threads from being in here.
    ZONE.call_once(|| unsafe { tzset() });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_does_not_go_back_and_is_not_zero() {
        let first = now();
        let second = now();
        assert!(first > Moment(0));
        assert!(second >= first);
    }

    #[test]
    fn wall_time_is_after_2020() {
        assert!(wall() > WallTime(1_577_836_800));
    }

    #[test]
    fn local_time_is_at_most_a_day_off_utc_and_well_formed() {
        let text = local(WallTime(1_000_000_000)); // 2001-09-09 01:46:40 UTC
        assert_eq!(text.len(), 19, "{text}");
        assert!(text.starts_with("2001-09-0"), "{text}");
        assert!(text.ends_with(":40"), "{text}");
    }

    #[test]
    fn no_zone_is_more_than_a_day_from_utc() {
        assert!(standard_zone().abs() < 86_400);
    }

    #[test]
    fn an_impossible_time_is_shown_as_a_number() {
        assert_eq!(local(WallTime(u64::MAX)), u64::MAX.to_string());
    }
}
