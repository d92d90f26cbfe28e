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

/// Elements that may be changed on the way to another archive, and their new values. An empty value
/// empties the element.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Edits {
    /// Institution Name (0008,0080), at most 64 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub institution_name: Option<String>,
    /// Institutional Department Name (0008,1040), at most 64 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub department_name: Option<String>,
    /// Station Name (0008,1010), at most 16 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub station_name: Option<String>,
    /// Study Description (0008,1030), at most 64 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub study_description: Option<String>,
    /// Series Description (0008,103E), at most 64 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series_description: Option<String>,
    /// Body Part Examined (0018,0015): at most 16 capital letters, digits, spaces and underscores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_part_examined: Option<String>,
    /// Protocol Name (0018,1030), at most 64 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol_name: Option<String>,
    /// Issuer of Patient ID (0010,0021), at most 64 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_of_patient_id: Option<String>,
    /// Requesting Service (0032,1033), at most 64 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requesting_service: Option<String>,
    /// Put before Accession Number (0008,0050), unless it is empty or begins so already. The whole may
    /// have 16 characters; an image where it would be more becomes a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accession_number_prefix: Option<String>,
}

/// What is done with a value of [`Edits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// It replaces the old one.
    Replace,
    /// It goes before the old one.
    Prefix,
}

/// Key, kind, tag, VR and new value of one element.
pub type Edit<'a> = (&'static str, SetKind, (u16, u16), &'static [u8; 2], &'a Option<String>);

impl Edits {
    /// All that may be changed.
    pub fn entries(&self) -> [Edit<'_>; 10] {
        use SetKind::{Prefix, Replace};
        [
            ("accession_number_prefix", Prefix, (0x0008, 0x0050), b"SH", &self.accession_number_prefix),
            ("institution_name", Replace, (0x0008, 0x0080), b"LO", &self.institution_name),
            ("station_name", Replace, (0x0008, 0x1010), b"SH", &self.station_name),
            ("study_description", Replace, (0x0008, 0x1030), b"LO", &self.study_description),
            ("series_description", Replace, (0x0008, 0x103e), b"LO", &self.series_description),
            ("department_name", Replace, (0x0008, 0x1040), b"LO", &self.department_name),
            ("issuer_of_patient_id", Replace, (0x0010, 0x0021), b"LO", &self.issuer_of_patient_id),
            ("body_part_examined", Replace, (0x0018, 0x0015), b"CS", &self.body_part_examined),
            ("protocol_name", Replace, (0x0018, 0x1030), b"LO", &self.protocol_name),
            ("requesting_service", Replace, (0x0032, 0x1033), b"LO", &self.requesting_service),
        ]
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Edits::default()
    }

    /// These, and the other ones where these say nothing.
    #[must_use]
    pub fn or(self, other: &Edits) -> Edits {
        let or = |own: Option<String>, other: &Option<String>| own.or_else(|| other.clone());
        Edits {
            institution_name: or(self.institution_name, &other.institution_name),
            department_name: or(self.department_name, &other.department_name),
            station_name: or(self.station_name, &other.station_name),
            study_description: or(self.study_description, &other.study_description),
            series_description: or(self.series_description, &other.series_description),
            body_part_examined: or(self.body_part_examined, &other.body_part_examined),
            protocol_name: or(self.protocol_name, &other.protocol_name),
            issuer_of_patient_id: or(self.issuer_of_patient_id, &other.issuer_of_patient_id),
            requesting_service: or(self.requesting_service, &other.requesting_service),
            accession_number_prefix: or(self.accession_number_prefix, &other.accession_number_prefix),
        }
    }
}

/// Most characters of a value of that VR (PS3.5 table 6.2-1), of those that [`Edits`] has.
pub fn longest(vr: &[u8; 2]) -> usize {
    if vr == b"LO" { 64 } else { 16 }
}

fn check_edits(key: &str, edits: &Edits, problems: &mut Problems<'_>) {
    for (name, kind, _, vr, value) in edits.entries() {
        let Some(value) = value else { continue };
        let key = format!("{key}.{name}");
        let longest = longest(vr);
        if value.chars().count() > longest {
            problems.add(&key, format!("longer than {longest} characters"), "shorten it");
        }
        if value.contains('\\') || value.chars().any(char::is_control) || value.trim() != value {
            problems.add(
                &key,
                "a backslash, a control character, or a space at an end",
                "these cannot be part of a DICOM value: take them out",
            );
        }
        let code = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' ' || c == '_';
        if vr == b"CS" && !value.chars().all(code) {
            problems.add(
                &key,
                "not a code string",
                "capital letters, digits, spaces and underscores only, e.g. \"CHEST\"",
            );
        }
        if kind == SetKind::Prefix && !value.is_ascii() {
            problems.add(&key, "not ASCII", "accession numbers are compared by machines: use ASCII");
        }
    }
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
        if let Some(dicom) = &destination.dicom {
            check_edits(&format!("destination[{index}].dicom.set"), &dicom.set, problems);
        }
        if let Some(web) = &destination.dicomweb {
            check_edits(&format!("destination[{index}].dicomweb.set"), &web.set, problems);
        }
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
                Some(destination) if destination.hl7.is_some() => problems.add(
                    key,
                    format!("the destination \"{name}\" takes HL7 messages, not images"),
                    "name a destination with dicom = { peer = \"…\" } or dicomweb = { peer = \"…\" }",
                ),
                Some(_) => {}
            }
        }
        check_edits(&format!("rule[{index}].set"), &rule.set, problems);
        if !rule.set.is_empty() && rule.forward.is_empty() {
            problems.add(
                format!("rule[{index}].set"),
                "this rule forwards no image that could be changed",
                "add `forward`, or take `set` out",
            );
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
        refused(
            "forward = [\"pacs\"]\nset = { station_name = \"longer than 16 chars\" }",
            "rule[0].set.station_name",
            "16",
        );
        refused(
            "forward = [\"pacs\"]\nset = { body_part_examined = \"Chest\" }",
            "rule[0].set.body_part_examined",
            "code",
        );
        refused("set = { station_name = \"CT-1\" }", "rule[0].set", "no image");
        refused("hold = true", "rule[0].hold", "sends nothing");
    }
}
