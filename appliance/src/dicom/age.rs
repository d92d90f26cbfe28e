//! A patient's age, as headers state it.

/// Age in years from an Age String (PS3.5 §6.2: `nnnD`, `nnnW`, `nnnM`, `nnnY`), or else from the
/// birth date and the study date (whole years).
pub fn in_years(age: Option<&str>, born: Option<&str>, studied: Option<&str>) -> Option<f64> {
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
    // A birth date of more than 150 years ago is a slip of the pen.
    (0..=150).contains(&years).then(|| f64::from(years))
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
        assert_eq!(in_years(Some("045Y"), None, None), Some(45.0));
        assert_eq!(in_years(Some("006M"), None, None), Some(0.5));
        assert_eq!(in_years(None, Some("19800615"), Some("20260614")), Some(45.0));
        assert_eq!(in_years(None, Some("1980.06.15"), Some("20260615")), Some(46.0));
        assert_eq!(in_years(Some("junk"), Some("19800615"), Some("20260615")), Some(46.0));
        assert_eq!(in_years(None, Some("20300101"), Some("20260615")), None);
        assert_eq!(in_years(None, Some("18000101"), Some("20260615")), None);
        assert_eq!(in_years(Some(""), None, None), None);
        assert_eq!(in_years(Some("é"), None, None), None);
    }
}
