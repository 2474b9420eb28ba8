//! Moments as people write them.

use alloc::format;
use alloc::string::{String, ToString as _};

use countersign_attestation::UnixMillis;

/// `2026-12-24T00:00:00Z` (RFC 3339 in UTC, whole seconds), and nothing else.
pub(crate) fn parse(text: &str) -> Option<UnixMillis> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten()
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let days = days_from_civil(year, month, day)?;
    let seconds = days
        .checked_mul(86_400)?
        .checked_add(hour.checked_mul(3600)?)?
        .checked_add(minute.checked_mul(60)?)?
        .checked_add(second)?;
    let moment = UnixMillis(seconds.checked_mul(1000)?);
    // A day that is not in the calendar, an hour of 25 and other punctuation all read back as something else.
    let canonical = moment.to_string();
    let canonical = canonical.strip_suffix(".000Z")?;
    (format!("{canonical}Z") == text).then_some(moment)
}

/// As [`parse`] reads it. A moment within a second is written as the second's start.
pub(crate) fn write(at: UnixMillis) -> String {
    let text = at.to_string();
    format!("{}Z", text.split_once('.').map_or(text.as_str(), |(seconds, _)| seconds))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Hinnant, `days_from_civil`); `None` before.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, year_of_era) = (year.checked_div(400)?, year.checked_rem(400)?);
    let month_index = if month <= 2 { month.checked_add(9)? } else { month.checked_sub(3)? };
    let day_of_year = month_index.checked_mul(153)?.checked_add(2)?.checked_div(5)?.checked_add(day)?.checked_sub(1)?;
    let leap_days = year_of_era.checked_div(4)?.checked_sub(year_of_era.checked_div(100)?)?;
    let day_of_era = year_of_era.checked_mul(365)?.checked_add(leap_days)?.checked_add(day_of_year)?;
    era.checked_mul(146_097)?.checked_add(day_of_era)?.checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;

    use super::parse;

    #[test]
    fn one_moment_has_one_spelling() {
        assert_eq!(parse("1970-01-01T00:00:00Z"), Some(UnixMillis(0)));
        assert_eq!(parse("2000-02-29T23:59:59Z"), Some(UnixMillis(951_868_799_000)));
        assert_eq!(parse("2026-11-23T04:34:56Z"), Some(UnixMillis(1_795_408_496_000)));
        for other in [
            "",
            "2026-11-23",
            "2026-11-23T04:34:56",
            "2026-11-23T04:34:56+00:00",
            "2026-11-23T04:34:56.000Z",
            "2026-11-23t04:34:56z",
            "2026-11-23 04:34:56Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T04:60:00Z",
            "2026-11-23T04:34:60Z",
            "1969-12-31T23:59:59Z",
            "+026-11-23T04:34:56Z",
            "2026-11-23T04:34:56ZZ",
            "never",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
