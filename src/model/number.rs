//! Numbers as options, commands and addresses write them.
//!
//! Only digits are a number (a rank may have a sign): trailing junk, an empty word and a number out of range are
//! refused with a message that names the field, because a wrong number that counts as 0 hides the mistake.

use std::ops::RangeInclusive;

/// The largest length of time and the largest count that can be given: what fits 31 bits.
pub const LARGEST: u32 = i32::MAX as u32;

/// A word is not a number, or not one that fits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be a number from {min} to {max}, not {given:?}")]
pub struct NumberError {
    /// The field, command or option that the number is for.
    pub what: String,
    /// The smallest number that would do.
    pub min: i64,
    /// The largest number that would do.
    pub max: i64,
    /// The word instead of it.
    pub given: String,
}

/// The number that `given` is, if it is one and within `range`.
pub fn unsigned(what: &str, given: &str, range: RangeInclusive<u32>) -> Result<u32, NumberError> {
    integer(given)
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| error(what, given, &range))
}

/// Like [`unsigned`], but a number below the range counts as the smallest one. Says whether it was.
pub fn raised(what: &str, given: &str, range: RangeInclusive<u32>) -> Result<(u32, bool), NumberError> {
    match integer(given) {
        Some(number) if number < i64::from(*range.start()) => Ok((*range.start(), true)),
        _ => unsigned(what, given, range).map(|number| (number, false)),
    }
}

/// A number that may be negative.
pub fn signed(what: &str, given: &str) -> Result<i32, NumberError> {
    integer(given).and_then(|number| i32::try_from(number).ok()).ok_or_else(|| NumberError {
        what: what.to_owned(),
        min: i32::MIN.into(),
        max: i32::MAX.into(),
        given: given.to_owned(),
    })
}

/// Decimal digits, after a minus sign or not. `str::parse` alone would accept a plus sign too.
pub fn integer(given: &str) -> Option<i64> {
    let digits = given.strip_prefix('-').unwrap_or(given);
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| given.parse().ok()).flatten()
}

fn error(what: &str, given: &str, range: &RangeInclusive<u32>) -> NumberError {
    NumberError {
        what: what.to_owned(),
        min: (*range.start()).into(),
        max: (*range.end()).into(),
        given: given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_within_the_range_are_numbers() {
        assert_eq!(unsigned("x", "0", 0..=9), Ok(0));
        assert_eq!(unsigned("x", "0009", 0..=9), Ok(9));
        assert_eq!(signed("x", "-7"), Ok(-7));
        assert_eq!(raised("x", "-7", 1..=9), Ok((1, true)));
        assert_eq!(raised("x", "0", 1..=9), Ok((1, true)));
        assert_eq!(raised("x", "1", 1..=9), Ok((1, false)));
    }

    #[test]
    fn everything_else_is_refused_with_the_fields_name() {
        for junk in ["", "x", "1x", "+1", "-", "--1", " 1", "1.5", "10", "-1", "99999999999999999999", "٣"] {
            let error = unsigned("weight", junk, 0..=9).unwrap_err();
            assert_eq!(error.to_string(), format!("weight must be a number from 0 to 9, not {junk:?}"));
        }
        for junk in ["", "x", "10", "99999999999999999999"] {
            assert!(raised("weight", junk, 1..=9).is_err(), "{junk}");
        }
        assert!(signed("prio", "2147483648").is_err());
    }
}
