//! The conditions of a rule's table, each with what decided in words.

use lightbox_provisioning::site::{Match, OneOrMany, Range};
use wildmatch::WildMatch;

use super::SeriesFacts;

/// Whether a series meets a rule's table: the conditions that held, or the one that did not, in words.
pub(super) fn judge(wanted: &Match, facts: &SeriesFacts) -> Result<Vec<String>, String> {
    let a = &facts.attributes;
    let texts: [(&str, &Option<OneOrMany>, Option<&str>); 12] = [
        ("modality", &wanted.modality, a.modality.as_deref()),
        ("body_part", &wanted.body_part, a.body_part.as_deref()),
        ("study_description", &wanted.study_description, a.study_description.as_deref()),
        ("series_description", &wanted.series_description, a.series_description.as_deref()),
        ("protocol", &wanted.protocol, a.protocol.as_deref()),
        ("calling_ae", &wanted.calling_ae, Some(&facts.calling_ae)),
        ("peer", &wanted.peer, Some(&facts.peer)),
        ("station", &wanted.station, a.station.as_deref()),
        ("manufacturer", &wanted.manufacturer, a.manufacturer.as_deref()),
        ("sex", &wanted.sex, a.sex.as_deref()),
        ("sop_class", &wanted.sop_class, Some(&facts.sop_class_uid)),
        ("view", &wanted.view, a.view.as_deref()),
    ];
    let mut held = Vec::new();
    for (name, wanted, value) in texts {
        if let Some(wanted) = wanted {
            held.push(text_condition(name, wanted.texts(), value)?);
        }
    }
    let ranges: [(&str, Option<Range>, Option<f64>); 3] = [
        ("age_years", wanted.age_years, a.age_years),
        ("slice_thickness_mm", wanted.slice_thickness_mm, a.slice_thickness_mm),
        ("instances", wanted.instances, Some(facts.instances as f64)),
    ];
    for (name, wanted, value) in ranges {
        if let Some(wanted) = wanted {
            held.push(range_condition(name, wanted, value)?);
        }
    }
    Ok(held)
}

fn text_condition(name: &str, wanted: &[String], value: Option<&str>) -> Result<String, String> {
    let Some(value) = value else { return Err(format!("{name} is absent")) };
    match wanted.iter().find(|pattern| WildMatch::new_case_insensitive(pattern).matches(value)) {
        Some(pattern) if pattern.contains(['*', '?']) => Ok(format!("{name} \"{value}\" fits \"{pattern}\"")),
        Some(_) => Ok(format!("{name} is \"{value}\"")),
        None => Err(format!("{name} \"{value}\" is none of: {}", wanted.join(", "))),
    }
}

fn range_condition(name: &str, wanted: Range, value: Option<f64>) -> Result<String, String> {
    let Some(value) = value else { return Err(format!("{name} is absent")) };
    let end = |end: Option<f64>| end.map_or("any".to_owned(), |end| end.to_string());
    let range = format!("{} to {}", end(wanted.min), end(wanted.max));
    if wanted.contains(value) {
        Ok(format!("{name} {value} is within {range}"))
    } else {
        Err(format!("{name} {value} is outside {range}"))
    }
}
