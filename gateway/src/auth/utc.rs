//! Formats a time as RFC 3339, in UTC.

/// Returns seconds since 1970 as a date and a time, if the year has four digits; else as the number.
pub(super) fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (hour, minute, second) = (second / 3_600, second % 3_600 / 60, second % 60);
    match date(days) {
        Some((year, month, day)) => {
            format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
        }
        None => format!("{seconds} seconds since 1970"),
    }
}

/// Returns the date of the day that lies this many days after 1970-01-01.
fn date(days: i64) -> Option<(i64, i64, i64)> {
    let mut left = days;
    if !(-719_528..2_932_897).contains(&left) {
        return None;
    }
    // The calendar repeats every 400 years, which have 146,097 days.
    let mut year = 1970 + left.div_euclid(146_097) * 400;
    left = left.rem_euclid(146_097);
    while left >= year_days(year) {
        left -= year_days(year);
        year += 1;
    }
    let mut month = 1;
    while left >= month_days(year, month) {
        left -= month_days(year, month);
        month += 1;
    }
    Some((year, month, left + 1))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn year_days(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (253_402_300_800, "253402300800 seconds since 1970"),
            (i64::MAX, "9223372036854775807 seconds since 1970"),
            (i64::MIN, "-9223372036854775808 seconds since 1970"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }
}
