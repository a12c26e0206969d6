//! Times as the common log format has them: `09/Jan/2002:00:28:50 +0100`.

use std::io::Write;
use std::ops::Range;

use crate::model::time::civil;

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

const DAY: i64 = 86_400;

/// How long `09/Jan/2002:00:28:50 +0000` is, and where `:00:28:50` stands in it.
const LENGTH: usize = 26;
const CLOCK: Range<usize> = 11..20;

/// The seconds since 1970 of what stands between a line's brackets. Fractions of a second are let go; without a zone it
/// is UTC, as with the classic. None: that is no time.
pub fn read(text: &[u8]) -> Option<i64> {
    let mut rest = Rest(text.trim_ascii());
    let day = rest.number(1, 2).filter(|day| (1..=31).contains(day))?;
    rest.byte(b'/')?;
    let month = rest.month()?;
    rest.byte(b'/')?;
    let year = rest.number(4, 4)?;
    rest.byte(b':')?;
    let hour = rest.number(1, 2).filter(|&hour| hour < 24)?;
    rest.byte(b':')?;
    let minute = rest.number(1, 2).filter(|&minute| minute < 60)?;
    let mut second = 0;
    if rest.byte(b':').is_some() {
        second = rest.number(1, 2).filter(|&second| second <= 60)?; // some seconds leap
        if rest.byte(b'.').is_some() {
            rest.number(1, 9)?;
        }
    }
    let east = rest.zone()?;
    Some(days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - east)
}

/// The seconds since midnight of `00:28:50`. None: it is not of this form, or no time.
pub fn clock(text: &[u8]) -> Option<i64> {
    let &[h1, h2, b':', m1, m2, b':', s1, s2] = text else {
        return None;
    };
    let two = |tens: u8, ones: u8| {
        let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
        digits.then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
    };
    let (hour, minute, second) = (two(h1, h2)?, two(m1, m2)?, two(s1, s2)?);
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Appends the same as [`read`] reads, in UTC.
pub fn write(seconds: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(seconds.div_euclid(DAY));
    let of_day = seconds.rem_euclid(DAY);
    let name = usize::try_from(month - 1).ok().and_then(|month| MONTHS.get(month)).unwrap_or(&MONTHS[0]);
    out.extend_from_slice(&two_digits(day));
    out.push(b'/');
    out.extend_from_slice(&name[..]);
    out.push(b'/');
    match year {
        0..=9999 => {
            out.extend_from_slice(&two_digits(year / 100));
            out.extend_from_slice(&two_digits(year % 100));
        }
        _ => write!(out, "{year:04}").expect("writing to memory"),
    }
    out.extend_from_slice(&shown_clock(of_day));
    out.extend_from_slice(b" +0000");
}

/// Makes of what [`write()`] appended for `before`, and nothing else, what it appends for `seconds`.
pub fn rewrite(before: i64, seconds: i64, stamp: &mut Vec<u8>) {
    if before.div_euclid(DAY) == seconds.div_euclid(DAY)
        && stamp.len() == LENGTH
        && let Some(clock) = stamp.get_mut(CLOCK)
    {
        clock.copy_from_slice(&shown_clock(seconds.rem_euclid(DAY)));
    } else {
        stamp.clear();
        write(seconds, stamp);
    }
}

/// `:00:28:50`, so many seconds after midnight. Faster than formatting: this is done for nearly each line.
fn shown_clock(of_day: i64) -> [u8; 9] {
    let [h1, h2] = two_digits(of_day / 3600);
    let [m1, m2] = two_digits(of_day / 60 % 60);
    let [s1, s2] = two_digits(of_day % 60);
    [b':', h1, h2, b':', m1, m2, b':', s1, s2]
}

/// Of a number from 0 to 99.
fn two_digits(number: i64) -> [u8; 2] {
    let number = u8::try_from(number).unwrap_or(0);
    [b'0' + number / 10, b'0' + number % 10]
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self, wanted: u8) -> Option<()> {
        let (&first, rest) = self.0.split_first()?;
        (first == wanted).then(|| self.0 = rest)
    }

    /// A number of so many digits; there are no more of them behind it.
    fn number(&mut self, least: usize, most: usize) -> Option<i64> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(least..=most).contains(&digits) {
            return None;
        }
        let (digits, rest) = self.0.split_at(digits);
        self.0 = rest;
        Some(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    /// 1 to 12.
    fn month(&mut self) -> Option<i64> {
        let (name, rest) = self.0.split_at_checked(3)?;
        let month = (1..).zip(MONTHS).find(|(_, month)| name.eq_ignore_ascii_case(&month[..]))?.0;
        self.0 = rest;
        Some(month)
    }

    /// How many seconds the zone is ahead of UTC. What follows it, behind a space, is not looked at.
    fn zone(&mut self) -> Option<i64> {
        let spaces = self.0.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.0 = &self.0[spaces..];
        let word = self.0.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let (sign, digits) = match word {
            [] | b"Z" | b"UTC" | b"GMT" => return Some(0),
            [b'+', digits @ ..] => (1, digits),
            [b'-', digits @ ..] => (-1, digits),
            _ => return None,
        };
        let mut digits = Rest(digits);
        let (hours, minutes) = match digits.0.len() {
            4 => digits.number(4, 4).map(|number| (number / 100, number % 100))?,
            _ => {
                let hours = digits.number(2, 2)?;
                digits.byte(b':')?;
                (hours, digits.number(2, 2)?)
            }
        };
        (digits.0.is_empty() && hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
    }
}

/// The days from 1970 to a date; days that a month does not have are those of the next one. After Howard Hinnant's
/// date algorithms: years begin in March, so that the leap day is the last of them.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(seconds: i64) -> String {
        let mut out = Vec::new();
        write(seconds, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn in_utc(text: &str) -> Option<String> {
        read(text.as_bytes()).map(shown)
    }

    #[test]
    fn times_are_brought_to_utc() {
        for (given, expected) in [
            ("09/Jan/2002:00:28:50 +0100", "08/Jan/2002:23:28:50 +0000"),
            ("08/Jan/2002:23:28:50 -0530", "09/Jan/2002:04:58:50 +0000"),
            ("08/Jan/2002:23:28:50 +05:30", "08/Jan/2002:17:58:50 +0000"),
            ("31/Dec/1999:23:59:60 +0000", "01/Jan/2000:00:00:00 +0000"),
            ("29/Feb/2024:12:00:00 +0000", "29/Feb/2024:12:00:00 +0000"),
            ("29/Feb/2023:12:00:00 +0000", "01/Mar/2023:12:00:00 +0000"),
            ("01/Jan/1970:00:00:00 +0000", "01/Jan/1970:00:00:00 +0000"),
            ("31/Dec/1969:23:59:59 +0000", "31/Dec/1969:23:59:59 +0000"),
            ("01/Jan/2040:00:00:00 +0000", "01/Jan/2040:00:00:00 +0000"),
        ] {
            assert_eq!(in_utc(given).as_deref(), Some(expected), "{given}");
        }
        assert_eq!(read(b"08/Jan/2002:23:28:50 +0000"), Some(1_010_532_530));
    }

    #[test]
    fn what_others_write_is_a_time_too() {
        let expected = Some("08/Jan/2002:23:28:50 +0000");
        for given in [
            "8/Jan/2002:23:28:50 +0000",
            "08/jan/2002:23:28:50 +0000",
            "08/Jan/2002:23:28:50",
            "08/Jan/2002:23:28:50 ",
            "08/Jan/2002:23:28:50 GMT",
            "08/Jan/2002:23:28:50.123 +0000",
            "08/Jan/2002:23:28:50   +0000 more",
        ] {
            assert_eq!(in_utc(given).as_deref(), expected, "{given}");
        }
        assert_eq!(in_utc("08/Jan/2002:23:28 +0000").as_deref(), Some("08/Jan/2002:23:28:00 +0000"));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for given in [
            "",
            "x",
            "x/Jan/2002:23:28:50 +0000",
            "0/Jan/2002:23:28:50 +0000",
            "32/Jan/2002:23:28:50 +0000",
            "08/Foo/2002:23:28:50 +0000",
            "08/January/2002:23:28:50 +0000",
            "08/Jan/02:23:28:50 +0000",
            "08/Jan/99999:23:28:50 +0000",
            "08/Jan/2002:24:00:00 +0000",
            "08/Jan/2002:23:61:00 +0000",
            "08/Jan/2002:23:28:61 +0000",
            "08/Jan/2002:23:28:-5 +0000",
            "08/Jan/2002:23:28:50 +100",
            "08/Jan/2002:23:28:50 +9999",
            "08/Jan/2002:23:28:50 +0000x",
            "08/Jan/2002:23:28:50 CET",
            "2002-01-08T23:28:50+00:00",
        ] {
            assert_eq!(in_utc(given), None, "{given}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(seconds in -62_000_000_000_i64..253_000_000_000) {
            let text = shown(seconds);
            prop_assert_eq!(text.len(), 26);
            prop_assert_eq!(read(text.as_bytes()), Some(seconds));
        }

        #[test]
        fn what_is_rewritten_is_what_is_written(
            seconds in -90_000_000_000_i64..300_000_000_000,
            steps in prop::collection::vec(prop_oneof![-3_i64..90, -100_000_i64..100_000], 0..9),
        ) {
            let (mut before, mut stamp) = (seconds, shown(seconds).into_bytes());
            for step in steps {
                rewrite(before, before + step, &mut stamp);
                before += step;
                prop_assert_eq!(String::from_utf8_lossy(&stamp), shown(before));
            }
        }

        #[test]
        fn one_day_follows_the_other(day in -700_000_i64..2_900_000) {
            let (year, month, of_month) = civil(day);
            prop_assert_eq!(days(year, month, of_month), day);
            let next = civil(day + 1);
            let follows = next == (year, month, of_month + 1)
                || next == (year, month + 1, 1) && of_month >= 28
                || next == (year + 1, 1, 1) && (month, of_month) == (12, 31);
            prop_assert!(follows, "{:?}", next);
        }

        #[test]
        fn nothing_makes_reading_fail(text in prop::collection::vec(any::<u8>(), 0..40)) {
            read(&text);
        }
    }
}
