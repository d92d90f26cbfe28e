//! What rules look at: the attributes of an instance, a series and a study, and nothing else.

use dicom_dictionary_std::tags;
use serde::{Deserialize, Serialize};

use crate::dicom::header::Header;

/// The routing attributes of one instance; those of a series are its first instance's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Modality (0008,0060), as sent.
    pub modality: Option<String>,
    /// Body Part Examined (0018,0015).
    pub body_part: Option<String>,
    /// Study Description (0008,1030), decoded.
    pub study_description: Option<String>,
    /// Series Description (0008,103E), decoded.
    pub series_description: Option<String>,
    /// Protocol Name (0018,1030), decoded.
    pub protocol: Option<String>,
    /// Station Name (0008,1010).
    pub station: Option<String>,
    /// Manufacturer (0008,0070).
    pub manufacturer: Option<String>,
    /// Patient's Sex (0010,0040).
    pub sex: Option<String>,
    /// View Position (0018,5101).
    pub view: Option<String>,
    /// Age in years: Patient's Age, or from birth date and study date.
    pub age_years: Option<f64>,
    /// Slice Thickness (0018,0050), mm.
    pub slice_thickness_mm: Option<f64>,
    /// Instance Number (0020,0013).
    pub instance_number: Option<i64>,
}

impl Attributes {
    /// Reads them from a header.
    pub fn of(header: &Header) -> Self {
        Attributes {
            modality: header.ascii(tags::MODALITY),
            body_part: header.ascii(tags::BODY_PART_EXAMINED),
            study_description: header.text(tags::STUDY_DESCRIPTION),
            series_description: header.text(tags::SERIES_DESCRIPTION),
            protocol: header.text(tags::PROTOCOL_NAME),
            station: header.text(tags::STATION_NAME),
            manufacturer: header.text(tags::MANUFACTURER),
            sex: header.ascii(tags::PATIENT_SEX),
            view: header.ascii(tags::VIEW_POSITION),
            age_years: age_years(
                header.ascii(tags::PATIENT_AGE).as_deref(),
                header.ascii(tags::PATIENT_BIRTH_DATE).as_deref(),
                header.ascii(tags::STUDY_DATE).as_deref(),
            ),
            slice_thickness_mm: header
                .ascii(tags::SLICE_THICKNESS)
                .and_then(|text| text.split('\\').next().and_then(|first| first.trim().parse().ok()))
                .filter(|mm: &f64| mm.is_finite()),
            instance_number: header.ascii(tags::INSTANCE_NUMBER).and_then(|text| text.parse().ok()),
        }
    }
}

/// Age in years from an Age String (PS3.5 §6.2: `nnnD`, `nnnW`, `nnnM`, `nnnY`), or else from the
/// birth date and the study date (whole years).
pub fn age_years(age: Option<&str>, born: Option<&str>, studied: Option<&str>) -> Option<f64> {
    if let Some(age) = age
        && let Some((digits, unit)) = age.split_at_checked(age.len().saturating_sub(1))
        && let Ok(count) = digits.trim().parse::<u16>()
    {
        let count = f64::from(count);
        match unit {
            "Y" => return Some(count),
            "M" => return Some(count / 12.0),
            "W" => return Some(count * 7.0 / 365.25),
            "D" => return Some(count / 365.25),
            _ => {}
        }
    }
    let (born, studied) = (date(born?)?, date(studied?)?);
    let years = studied.0 - born.0 - i32::from((studied.1, studied.2) < (born.1, born.2));
    (years >= 0).then(|| f64::from(years))
}

/// Year, month and day of a DA value (`YYYYMMDD`, or the ACR-NEMA form `YYYY.MM.DD`).
fn date(text: &str) -> Option<(i32, u8, u8)> {
    let digits: String = text.chars().filter(|c| *c != '.').collect();
    if digits.len() != 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((digits[..4].parse().ok()?, digits[4..6].parse().ok()?, digits[6..].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_come_from_the_age_string_or_from_the_dates() {
        assert_eq!(age_years(Some("045Y"), None, None), Some(45.0));
        assert_eq!(age_years(Some("006M"), None, None), Some(0.5));
        assert_eq!(age_years(None, Some("19800615"), Some("20260614")), Some(45.0));
        assert_eq!(age_years(None, Some("1980.06.15"), Some("20260615")), Some(46.0));
        assert_eq!(age_years(Some("junk"), Some("19800615"), Some("20260615")), Some(46.0));
        assert_eq!(age_years(None, Some("20300101"), Some("20260615")), None);
        assert_eq!(age_years(Some(""), None, None), None);
        assert_eq!(age_years(Some("é"), None, None), None);
    }
}
