//! The keys that say what is sent on, when, and with which changes, and their checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SiteFile;
use super::check::Problems;
use super::raw::Names;

/// `rule.schedule`: the hours in which what a rule sends may leave the box.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Days on which the hours begin: `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`. Left out: every
    /// day.
    #[serde(default)]
    pub days: Vec<Day>,
    /// Begin, local time as `appliance.utc_offset` says, e.g. `19:00`.
    pub from: String,
    /// End, e.g. `06:00`; at or before `from` it is on the next day. The same as `from`: the whole
    /// 24 hours.
    pub to: String,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

/// UID of a transfer syntax that `destination.dicom.transcode` may name.
pub fn parse_transcode(text: &str) -> Option<&'static str> {
    match text {
        "explicit" | "1.2.840.10008.1.2.1" => Some("1.2.840.10008.1.2.1"),
        "implicit" | "1.2.840.10008.1.2" => Some("1.2.840.10008.1.2"),
        _ => None,
    }
}

/// Minutes since midnight of `HH:MM`.
pub fn parse_time_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| text.parse::<u16>().ok())?
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

/// Minutes east of Greenwich of `+HH:MM` or `-HH:MM`; 14 hours at most.
pub fn parse_utc_offset(text: &str) -> Option<i16> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let minutes = parse_time_of_day(rest)?;
    (minutes <= 14 * 60).then_some(sign * minutes as i16)
}

pub(super) fn check(file: &SiteFile, destinations: &Names, problems: &mut Problems<'_>) {
    if parse_utc_offset(&file.appliance.utc_offset).is_none() {
        problems.add(
            "appliance.utc_offset",
            format!("\"{}\" is not an offset from UTC", file.appliance.utc_offset),
            "write hours and minutes with their sign, e.g. \"+02:00\" or \"-05:00\"",
        );
    }
    for (index, destination) in file.destination.iter().enumerate() {
        let syntaxes = destination.dicom.iter().flat_map(|dicom| &dicom.transcode).enumerate();
        for (position, syntax) in syntaxes.filter(|(_, syntax)| parse_transcode(syntax).is_none()) {
            problems.add(
                format!("destination[{index}].dicom.transcode[{position}]"),
                format!("\"{syntax}\" is no transfer syntax into which images can be changed"),
                "name \"explicit\" or \"implicit\", or their UIDs 1.2.840.10008.1.2.1 and 1.2.840.10008.1.2",
            );
        }
    }
    for (index, rule) in file.rule.iter().enumerate() {
        for (position, name) in rule.forward.iter().enumerate() {
            let key = format!("rule[{index}].forward[{position}]");
            match destinations.get(name).and_then(|found| file.destination.get(*found)) {
                None => problems.add(
                    key,
                    format!("there is no destination \"{name}\""),
                    "name a [[destination]] of this file",
                ),
                Some(destination) if destination.dicom.is_none() => problems.add(
                    key,
                    format!("the destination \"{name}\" takes HL7 messages, not images"),
                    "name a destination with dicom = { peer = \"…\" }",
                ),
                Some(_) => {}
            }
        }
        for (name, time) in
            rule.schedule.iter().flat_map(|schedule| [("from", &schedule.from), ("to", &schedule.to)])
        {
            if parse_time_of_day(time).is_none() {
                problems.add(
                    format!("rule[{index}].schedule.{name}"),
                    format!("\"{time}\" is not a time of day"),
                    "write hours and minutes, e.g. \"19:00\"",
                );
            }
        }
        if (rule.hold || rule.schedule.is_some()) && rule.deliver.is_empty() && rule.forward.is_empty() {
            let key = if rule.hold { "hold" } else { "schedule" };
            problems.add(
                format!("rule[{index}].{key}"),
                "this rule sends nothing that could wait",
                format!("add `deliver` or `forward`, or take `{key}` out"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_offsets_are_read_strictly() {
        assert_eq!(parse_time_of_day("19:05"), Some(19 * 60 + 5));
        for wrong in ["24:00", "7:00", "07:60", "0700", "+1:00", ""] {
            assert_eq!(parse_time_of_day(wrong), None, "{wrong}");
        }
        assert_eq!(parse_utc_offset("-05:30"), Some(-330));
        for wrong in ["05:00", "+15:00", "Europe/Berlin", "", "é1:00"] {
            assert_eq!(parse_utc_offset(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_forwarded_or_scheduled_is_named_with_its_line() {
        let site = include_str!("../../examples/site.toml");
        let (head, _) = site.split_once("[[rule]]").expect("the example has rules");
        let refused = |rule: &str, key: &str, what: &str| {
            let text = format!("{head}\n[[rule]]\nname = \"x\"\n{rule}\n");
            let error = super::super::Site::parse(std::path::Path::new("site.toml"), &text).expect_err(rule);
            let problem = &error.problems[0];
            assert_eq!(problem.key, key);
            assert!(problem.what.contains(what) && !problem.remedy.is_empty(), "{problem:?}");
            let name = key.rsplit('.').next().and_then(|last| last.split('[').next()).expect("a name");
            let line = text.lines().position(|line| line.contains(&format!("{name} ="))).expect("there") + 1;
            assert_eq!(problem.line, line, "{problem:?}");
        };
        refused("forward = [\"nowhere\"]", "rule[0].forward[0]", "no destination");
        refused("forward = [\"ris\"]", "rule[0].forward[0]", "HL7");
        refused(
            "forward = [\"pacs\"]\nschedule = { from = \"7\", to = \"06:00\" }",
            "rule[0].schedule.from",
            "time of day",
        );
        refused("hold = true", "rule[0].hold", "sends nothing");
    }
}
