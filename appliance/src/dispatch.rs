//! When what a rule sends may leave the box: at once, in certain hours, when a person says so, or
//! never (shadow mode). Shared by the stages that decide, queue and send.

use std::fmt;
use std::str::FromStr;

use lightbox_provisioning::site::{Day, Mode, Rule, Schedule, parse_time_of_day, parse_utc_offset};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const MINUTE_MS: i64 = 60_000;
const DAY_MINUTES: i64 = 24 * 60;
const DAYS: [(Day, &str); 7] = [
    (Day::Mon, "mon"),
    (Day::Tue, "tue"),
    (Day::Wed, "wed"),
    (Day::Thu, "thu"),
    (Day::Fri, "fri"),
    (Day::Sat, "sat"),
    (Day::Sun, "sun"),
];

/// A text in the ledger that is no way of sending.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a way of sending that this release knows")]
pub struct Unknown;

/// Hours of the week in which something may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Days on which it opens, from Monday.
    days: [bool; 7],
    /// Minutes after midnight at which it opens.
    from: u16,
    /// Minutes after midnight at which it closes; on the next day where that is not after `from`.
    to: u16,
    /// Minutes east of Greenwich.
    offset: i16,
}

impl Window {
    /// The hours of a schedule in local time; `None` for texts that the site file's check refuses.
    pub fn new(schedule: &Schedule, utc_offset: &str) -> Option<Self> {
        let days = DAYS.map(|(day, _)| schedule.days.is_empty() || schedule.days.contains(&day));
        Some(Window {
            days,
            from: parse_time_of_day(&schedule.from)?,
            to: parse_time_of_day(&schedule.to)?,
            offset: parse_utc_offset(utc_offset)?,
        })
    }

    /// The first instant at or after `now_ms` at which the window is open (ms since the epoch).
    pub fn opens(&self, now_ms: i64) -> i64 {
        let local = now_ms.div_euclid(MINUTE_MS) + i64::from(self.offset);
        let today = local.div_euclid(DAY_MINUTES);
        let (from, to) = (i64::from(self.from), i64::from(self.to));
        let length = if to > from { to - from } else { DAY_MINUTES - from + to };
        // From yesterday, whose hours may reach into today, to the same day of next week.
        for day in today - 1..=today + 7 {
            // The first day of the epoch was a Thursday.
            let opens = self.days[(day + 3).rem_euclid(7) as usize];
            let start = day * DAY_MINUTES + from;
            if opens && local < start + length {
                return if local >= start { now_ms } else { (start - i64::from(self.offset)) * MINUTE_MS };
            }
        }
        // A window without any day: the site file's check lets none pass.
        now_ms
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<&str> = (0..7).filter(|day| self.days[*day]).map(|day| DAYS[day].1).collect();
        let sign = if self.offset < 0 { '-' } else { '+' };
        let time = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        write!(
            f,
            "{} {}-{} {sign}{}",
            days.join(","),
            time(self.from),
            time(self.to),
            time(self.offset.unsigned_abs())
        )
    }
}

impl FromStr for Window {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let mut parts = text.split(' ');
        let (Some(days), Some(hours), Some(offset), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Unknown);
        };
        let mut open = [false; 7];
        for name in days.split(',') {
            let day = DAYS.iter().position(|(_, known)| *known == name).ok_or(Unknown)?;
            open[day] = true;
        }
        let (from, to) = hours.split_once('-').ok_or(Unknown)?;
        Ok(Window {
            days: open,
            from: parse_time_of_day(from).ok_or(Unknown)?,
            to: parse_time_of_day(to).ok_or(Unknown)?,
            offset: parse_utc_offset(offset).ok_or(Unknown)?,
        })
    }
}

/// How something may leave the box. Its text is `assist`, `shadow` or `hold`, and after the first and
/// the last the hours, if there are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Dispatch {
    /// Whether it leaves at all.
    pub mode: Mode,
    /// Whether a person has to release it.
    pub hold: bool,
    /// The hours in which it may leave.
    pub window: Option<Window>,
}

impl Dispatch {
    /// At once.
    pub const NOW: Dispatch = Dispatch { mode: Mode::Assist, hold: false, window: None };
    /// Never.
    pub const SHADOW: Dispatch = Dispatch { mode: Mode::Shadow, hold: false, window: None };

    /// What a rule says.
    pub fn of(rule: &Rule, utc_offset: &str) -> Self {
        if rule.mode == Mode::Shadow {
            return Dispatch::SHADOW;
        }
        let window = rule.schedule.as_ref().and_then(|schedule| Window::new(schedule, utc_offset));
        Dispatch { mode: Mode::Assist, hold: rule.hold, window }
    }

    /// The one of two that sends sooner; this one where they are alike.
    pub fn sooner(self, other: Self) -> Self {
        let rank = |dispatch: &Dispatch| match dispatch {
            Dispatch { mode: Mode::Shadow, .. } => 0,
            Dispatch { hold: true, .. } => 1,
            Dispatch { window: Some(_), .. } => 2,
            _ => 3,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }

    /// Whether it is kept back when it is made.
    pub fn is_held(&self) -> bool {
        self.hold || self.mode == Mode::Shadow
    }

    /// The first instant at or after `now_ms` at which it may leave.
    pub fn due(&self, now_ms: i64) -> i64 {
        self.window.map_or(now_ms, |window| window.opens(now_ms))
    }

    /// For people; empty where it leaves at once.
    pub fn words(&self) -> String {
        let hours = self.window.map(|window| format!("in the hours {window}"));
        match (self.mode, self.hold, hours) {
            (Mode::Shadow, ..) => "shadow: kept, not sent".into(),
            (Mode::Assist, true, None) => "held until released".into(),
            (Mode::Assist, true, Some(hours)) => format!("held until released, then {hours}"),
            (Mode::Assist, false, hours) => hours.unwrap_or_default(),
        }
    }
}

impl fmt::Display for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.mode, self.hold) {
            (Mode::Shadow, _) => "shadow",
            (Mode::Assist, true) => "hold",
            (Mode::Assist, false) => "assist",
        })?;
        self.window.map_or(Ok(()), |window| write!(f, " {window}"))
    }
}

impl FromStr for Dispatch {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let (word, window) = match text.split_once(' ') {
            Some((word, window)) => (word, Some(window.parse()?)),
            None => (text, None),
        };
        match word {
            "assist" => Ok(Dispatch { window, ..Dispatch::NOW }),
            "hold" => Ok(Dispatch { hold: true, window, ..Dispatch::NOW }),
            "shadow" => Ok(Dispatch::SHADOW),
            _ => Err(Unknown),
        }
    }
}

impl TryFrom<String> for Dispatch {
    type Error = Unknown;

    fn try_from(text: String) -> Result<Self, Unknown> {
        text.parse()
    }
}

impl From<Dispatch> for String {
    fn from(dispatch: Dispatch) -> String {
        dispatch.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_ms;

    fn window(text: &str) -> Window {
        text.parse().expect("a window")
    }

    /// Milliseconds of an hour of 2026-01-05, a Monday, or of the days after it, in UTC.
    fn at(day: i64, hour: i64, minute: i64) -> i64 {
        let monday = 1_767_571_200_000;
        assert_eq!(from_ms(monday).weekday(), time::Weekday::Monday);
        monday + (day * DAY_MINUTES + hour * 60 + minute) * MINUTE_MS
    }

    #[test]
    fn hours_over_midnight_belong_to_the_day_on_which_they_begin() {
        let nights = window("mon,fri 19:00-06:00 +00:00");
        assert_eq!(nights.opens(at(0, 18, 59)), at(0, 19, 0));
        assert_eq!(nights.opens(at(0, 19, 0)), at(0, 19, 0));
        assert_eq!(nights.opens(at(1, 5, 59)), at(1, 5, 59), "Monday's night reaches into Tuesday");
        assert_eq!(nights.opens(at(1, 6, 0)), at(4, 19, 0), "the next night is Friday's");
        assert_eq!(nights.opens(at(5, 6, 0)), at(7, 19, 0), "and then Monday's");
    }

    #[test]
    fn local_time_shifts_hours_and_days() {
        let local = window("mon 00:30-01:00 +02:00");
        assert_eq!(local.opens(at(-1, 12, 0)), at(-1, 22, 30), "Monday begins on Sunday evening in UTC");
        assert_eq!(local.opens(at(-1, 23, 0)), at(6, 22, 30));
        let west = window("sun 23:00-23:00 -05:00");
        assert_eq!(west.opens(at(0, 0, 0)), at(0, 4, 0));
        assert_eq!(west.opens(at(1, 3, 59)), at(1, 3, 59), "equal ends mean 24 hours");
        assert_eq!(west.opens(at(1, 4, 0)), at(7, 4, 0));
    }

    #[test]
    fn texts_are_read_back_as_they_were_written() {
        for text in
            ["assist", "shadow", "hold", "hold sat 08:00-12:30 -03:30", "assist mon,tue 19:00-06:00 +02:00"]
        {
            assert_eq!(text.parse::<Dispatch>().expect(text).to_string(), text);
        }
        for wrong in ["", "now", "assist nights", "hold mon 8-9 +00:00", "assist mon 08:00-09:00 +00:00 x"] {
            assert_eq!(wrong.parse::<Dispatch>(), Err(Unknown), "{wrong}");
        }
    }

    #[test]
    fn of_two_the_one_that_sends_sooner_counts() {
        let hold = Dispatch { hold: true, ..Dispatch::NOW };
        let hours = Dispatch { window: Some(window("sat 08:00-12:00 +00:00")), ..Dispatch::NOW };
        assert_eq!(Dispatch::SHADOW.sooner(hold), hold);
        assert_eq!(hold.sooner(hours), hours);
        assert_eq!(hours.sooner(Dispatch::NOW), Dispatch::NOW);
        assert_eq!(hours.sooner(hold), hours);
    }
}
