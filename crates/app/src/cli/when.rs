//! Moments, as people write them.

use std::time::Duration;

use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime};

/// A moment that is over: RFC 3339, as tables show it (UTC), a date (its first moment in UTC), or how long ago, such as `2h` or `3d`.
pub(super) fn past(text: &str) -> Result<OffsetDateTime, String> {
    when(text, "how long ago", OffsetDateTime::checked_sub)
}

/// The moment to look at: as [`past`]. Tables leave out the fraction of a second: one that is written as they show it is the
/// second's last moment, so that what a row tells of has happened.
pub(super) fn as_of(text: &str) -> Result<OffsetDateTime, String> {
    let shown = format_description!("[year]-[month]-[day] [hour]:[minute]:[second][optional [ UTC]]");
    let now = OffsetDateTime::now_utc();
    match PrimitiveDateTime::parse(text, shown).map(PrimitiveDateTime::assume_utc) {
        Ok(at) if at <= now => Ok((at + Duration::from_micros(999_999)).min(now)),
        _ => past(text),
    }
}

/// A moment to come: RFC 3339, as tables show it (UTC), a date (its first moment in UTC), or in how long, such as `2h` or `3d`.
pub(super) fn to_come(text: &str) -> Result<OffsetDateTime, String> {
    when(text, "in how long", OffsetDateTime::checked_add)
}

fn when(
    text: &str,
    how_long: &str,
    away: impl FnOnce(OffsetDateTime, time::Duration) -> Option<OffsetDateTime>,
) -> Result<OffsetDateTime, String> {
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(at);
    }
    let shown =
        format_description!("[year]-[month]-[day] [hour]:[minute][optional [:[second]]][optional [ UTC]]");
    if let Ok(at) = PrimitiveDateTime::parse(text, shown) {
        return Ok(at.assume_utc());
    }
    if let Ok(date) = Date::parse(text, format_description!("[year]-[month]-[day]")) {
        return Ok(date.midnight().assume_utc());
    }
    let away = |long: Duration| away(OffsetDateTime::now_utc(), long.try_into().ok()?);
    humantime::parse_duration(text).ok().and_then(away).ok_or_else(|| {
        format!(
            "write a moment such as 2026-01-15T08:00:00Z, a date such as 2026-01-15, or {how_long}: 2h, 3d"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_dates_and_durations() {
        let unix = |at: Result<OffsetDateTime, String>| at.unwrap().unix_timestamp();
        assert_eq!(unix(past("2026-01-15T08:00:00+01:00")), 1_768_460_400);
        assert_eq!(unix(to_come("2026-01-15")), 1_768_435_200);
        for shown in ["2026-01-15 07:00:00", "2026-01-15 07:00:00 UTC", "2026-01-15 07:00"] {
            assert_eq!(unix(past(shown)), 1_768_460_400, "{shown}");
        }
        let exact = |text: &str| as_of(text).unwrap().unix_timestamp_nanos() / 1000;
        assert_eq!(exact("2026-01-15 07:00:00 UTC"), 1_768_460_400_999_999);
        assert_eq!(exact("2026-01-15T07:00:00Z"), 1_768_460_400_000_000);
        let now = OffsetDateTime::now_utc();
        let shown = now.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]")).unwrap();
        let at = as_of(&shown).unwrap();
        assert!(now <= at && at <= OffsetDateTime::now_utc(), "what is shown now is not to come: {at}");
        let now = now.unix_timestamp();
        let near = |at: i64, wanted: i64| (wanted..wanted + 60).contains(&at);
        assert!(near(unix(past("2h")), now - 7200));
        assert!(near(unix(to_come("1d 90m")), now + 86_400 + 5400));
        for wrong in ["", "yesterday", "90", "-2h", "2026-13-01", "999999999999999y"] {
            let refused = past(wrong).unwrap_err();
            assert!(refused.contains("2026-01-15") && refused.contains("how long ago"), "{wrong}: {refused}");
        }
    }
}
