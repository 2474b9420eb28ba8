//! Times as Intel's collateral writes them: RFC 3339, UTC, whole seconds.

use crate::time::UnixMillis;

/// `YYYY-MM-DDTHH:MM:SSZ`, since 1970, and nothing else.
pub(super) fn parse(text: &str) -> Option<UnixMillis> {
    let &[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T', h0, h1, b':', n0, n1, b':', s0, s1, b'Z'] = text.as_bytes()
    else {
        return None;
    };
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_i64, |value, digit| {
            let digit = digit.is_ascii_digit().then(|| i64::from(digit.wrapping_sub(b'0')))?;
            value.checked_mul(10)?.checked_add(digit)
        })
    };
    let (year, month, day) = (number(&[y0, y1, y2, y3])?, number(&[m0, m1])?, number(&[d0, d1])?);
    let (hour, minute, second) = (number(&[h0, h1])?, number(&[n0, n1])?, number(&[s0, s1])?);
    let days = days_from_civil(year, month, day)?;
    if 23 < hour || 59 < minute || 59 < second {
        return None;
    }
    let seconds = days.checked_mul(24)?.checked_add(hour)?.checked_mul(60)?.checked_add(minute)?;
    UnixMillis::from_seconds(seconds.checked_mul(60)?.checked_add(second)?)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Hinnant, `days_from_civil`), if there is such a date.
#[expect(clippy::arithmetic_side_effects, reason = "a year of four digits: no step comes near the limit")]
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=length).contains(&day) || year < 1970 {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted / 400;
    let year_of_era = shifted - era * 400;
    let day_of_year = (153 * (if 2 < month { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::parse;

    #[test]
    fn times_have_one_form() {
        for text in ["1970-01-01T00:00:00Z", "2000-02-29T23:59:59Z", "2026-08-13T10:45:38Z", "9999-12-31T00:00:00Z"] {
            let time = parse(text).expect("a time").to_string();
            assert_eq!(time.replace(".000", ""), text);
        }
        for text in [
            "2026-08-13T10:45:38",
            "2026-08-13T10:45:38+00:00",
            "2026-08-13 10:45:38Z",
            "2026-08-13T10:45:38.0Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "1969-12-31T23:59:59Z",
            "+026-01-01T00:00:00Z",
            "",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
