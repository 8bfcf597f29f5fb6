//! Dates without times.

use std::{
    fmt,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

/// A day of the Gregorian calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Date {
    year: i64,
    month: i64,
    day: i64,
}

impl Date {
    pub(crate) fn today() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        Self::after_epoch(i64::try_from(seconds / SECONDS_A_DAY).unwrap_or_default())
    }

    pub(super) fn plus(self, days: i64) -> Self {
        Self::after_epoch(self.days_after_epoch() + days)
    }

    /// Counts in eras of 400 years that begin with March, so that the leap day is the last one.
    fn after_epoch(days: i64) -> Self {
        let days = days + DAYS_TO_EPOCH;
        let (era, day) = (days.div_euclid(DAYS_AN_ERA), days.rem_euclid(DAYS_AN_ERA));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        Self { year, month, day }
    }

    fn days_after_epoch(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
        let month = (self.month + 9) % 12;
        let day = (153 * month + 2) / 5 + self.day - 1;
        era * DAYS_AN_ERA + year * 365 + year / 4 - year / 100 + day - DAYS_TO_EPOCH
    }
}

impl FromStr for Date {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '-').map(str::parse);
        let (Some(Ok(year)), Some(Ok(month)), Some(Ok(day))) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(());
        };
        let date = Self { year, month, day };
        // A day that does not exist becomes another one.
        let exists = date.to_string() == text && date.plus(0) == date;
        exists.then_some(date).ok_or(())
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

const SECONDS_A_DAY: u64 = 24 * 60 * 60;
const DAYS_AN_ERA: i64 = 146_097;
/// From 1 March of the year 0.
const DAYS_TO_EPOCH: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::Date;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, text) in [
            (0, "1970-01-01"),
            (11_016, "2000-02-29"),
            (20_454, "2026-01-01"),
            (20_783, "2026-11-26"),
        ] {
            let date = Date::after_epoch(days);
            assert_eq!(
                (date.to_string().as_str(), date.days_after_epoch()),
                (text, days)
            );
            assert_eq!(text.parse(), Ok(date));
        }
        assert_eq!(Date::after_epoch(0).plus(90).to_string(), "1970-04-01");
    }

    #[test]
    fn days_that_do_not_exist_are_rejected() {
        for text in [
            "2026-02-29",
            "2026-13-01",
            "2026-1-1",
            "tomorrow",
            "2026-01-01x",
            "",
        ] {
            assert_eq!(text.parse::<Date>(), Err(()), "{text}");
        }
    }
}
