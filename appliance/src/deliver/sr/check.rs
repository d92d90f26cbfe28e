//! A checker of our kind of report, on its bytes: the rows of TID 1500, 1501, 1410, 1004 and 4019
//! (PS3.16) and the rules of IHE AIR that dciodvfy, dsrdump and highdicom do not look at. (A report
//! without a Tracking Unique Identifier passes all three.)
//!
//! It shares no code with the builder, so that a mistake there is not repeated here.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::{InMemDicomObject, from_reader};

/// What is wrong with a report, one sentence each, by the place in the tree; none of it quotes a
/// value. Empty for a good one.
pub fn check(file: &[u8]) -> Vec<String> {
    let mut problems = Problems(Vec::new());
    match from_reader(file.get(128..).unwrap_or_default()) {
        Ok(object) => document(&object, &mut problems),
        Err(_) => problems.add("file", "cannot be read"),
    }
    problems.0
}

struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, place: &str, what: &str) {
        self.0.push(format!("{place}: {what}"));
    }

    fn require(&mut self, place: &str, holds: bool, what: &str) {
        if !holds {
            self.add(place, what);
        }
    }
}

fn value(object: &InMemDicomObject, tag: Tag) -> String {
    let text = object.get(tag).and_then(|element| element.to_str().ok());
    text.map(|text| text.trim_end_matches(['\0', ' ']).to_owned()).unwrap_or_default()
}

fn items(object: &InMemDicomObject, tag: Tag) -> &[InMemDicomObject] {
    object.get(tag).and_then(|element| element.items()).unwrap_or_default()
}

/// `value,scheme` of the first code in a code sequence.
fn code(object: &InMemDicomObject, tag: Tag) -> String {
    items(object, tag).first().map_or_else(String::new, |item| {
        let short = value(item, tags::CODE_VALUE);
        let value_ = if short.is_empty() { value(item, tags::LONG_CODE_VALUE) } else { short };
        format!("{value_},{}", value(item, tags::CODING_SCHEME_DESIGNATOR))
    })
}

fn name(item: &InMemDicomObject) -> String {
    code(item, tags::CONCEPT_NAME_CODE_SEQUENCE)
}

/// Children of a given name.
fn named<'a>(item: &'a InMemDicomObject, concept: &str) -> Vec<&'a InMemDicomObject> {
    items(item, tags::CONTENT_SEQUENCE).iter().filter(|child| name(child) == concept).collect()
}

/// One row of a template: exactly `count` children of this name, relationship and value type, each
/// with a value.
struct Row {
    concept: &'static str,
    relationship: &'static str,
    value_type: &'static str,
    count: std::ops::RangeInclusive<usize>,
}

const fn row(
    concept: &'static str,
    relationship: &'static str,
    value_type: &'static str,
    least: usize,
    most: usize,
) -> Row {
    Row { concept, relationship, value_type, count: least..=most }
}

const MANY: usize = usize::MAX;

const TID_1500: &[Row] = &[
    row("121049,DCM", "HAS CONCEPT MOD", "CODE", 1, 1),
    row("121058,DCM", "HAS CONCEPT MOD", "CODE", 1, MANY),
    row("126010,DCM", "CONTAINS", "CONTAINER", 0, 1),
    row("C0034375,UMLS", "CONTAINS", "CONTAINER", 0, 1),
];
const TID_1004: &[Row] = &[
    row("121005,DCM", "HAS OBS CONTEXT", "CODE", 1, 1),
    row("121012,DCM", "HAS OBS CONTEXT", "UIDREF", 1, 1),
    row("121013,DCM", "HAS OBS CONTEXT", "TEXT", 0, 1),
    row("121014,DCM", "HAS OBS CONTEXT", "TEXT", 1, 1),
    row("121015,DCM", "HAS OBS CONTEXT", "TEXT", 1, 1),
    row("121016,DCM", "HAS OBS CONTEXT", "TEXT", 0, 1),
];
const TID_4019: &[Row] = &[
    row("111000,DCM", "HAS CONCEPT MOD", "CODE", 0, 1),
    row("111001,DCM", "HAS CONCEPT MOD", "TEXT", 1, 1),
    row("111002,DCM", "HAS CONCEPT MOD", "TEXT", 0, MANY),
    row("111003,DCM", "HAS CONCEPT MOD", "TEXT", 1, 1),
];
const GROUP: &[Row] = &[
    row("112039,DCM", "HAS OBS CONTEXT", "TEXT", 1, 1),
    row("112040,DCM", "HAS OBS CONTEXT", "UIDREF", 1, 1),
    row("276214006,SCT", "CONTAINS", "CODE", 1, 1),
    row("121071,DCM", "CONTAINS", "CODE", 1, 1),
    row("363698007,SCT", "CONTAINS", "CODE", 0, MANY),
    row("TIER,99LIGHTBOX", "CONTAINS", "CODE", 1, 1),
    row("111012,DCM", "CONTAINS", "NUM", 1, 1),
];
const TID_1410: &[Row] =
    &[row("111030,DCM", "CONTAINS", "SCOORD", 1, 1), row("121112,DCM", "CONTAINS", "IMAGE", 0, 0)];
const TID_1501: &[Row] =
    &[row("111030,DCM", "CONTAINS", "SCOORD", 0, 0), row("121112,DCM", "CONTAINS", "IMAGE", 1, MANY)];

fn rows(place: &str, parent: &InMemDicomObject, rows: &[Row], problems: &mut Problems) {
    for row in rows {
        let found = named(parent, row.concept);
        let (concept, count) = (row.concept, found.len());
        if !row.count.contains(&count) {
            problems.add(place, &format!("{count} items ({concept})"));
        }
        for item in found {
            let sound = value(item, tags::RELATIONSHIP_TYPE) == row.relationship
                && value(item, tags::VALUE_TYPE) == row.value_type
                && has_value(item);
            problems.require(place, sound, &format!("({concept}) has the wrong relationship, type or value"));
        }
    }
}

fn has_value(item: &InMemDicomObject) -> bool {
    match value(item, tags::VALUE_TYPE).as_str() {
        "TEXT" => !value(item, tags::TEXT_VALUE).is_empty(),
        "UIDREF" => !value(item, tags::UID).is_empty(),
        "CODE" => {
            let code = code(item, tags::CONCEPT_CODE_SEQUENCE);
            !code.starts_with(',') && !code.ends_with(',') && !code.is_empty()
        }
        "NUM" => items(item, tags::MEASURED_VALUE_SEQUENCE).first().is_some_and(|measured| {
            value(measured, tags::NUMERIC_VALUE).trim().parse::<f64>().is_ok_and(f64::is_finite)
                && code(measured, tags::MEASUREMENT_UNITS_CODE_SEQUENCE).ends_with(",UCUM")
        }),
        "IMAGE" => items(item, tags::REFERENCED_SOP_SEQUENCE).len() == 1,
        "SCOORD" => polyline(item),
        "CONTAINER" => !items(item, tags::CONTENT_SEQUENCE).is_empty(),
        _ => false,
    }
}

/// A closed polyline with an area, selected from exactly one image.
fn polyline(item: &InMemDicomObject) -> bool {
    let points =
        item.get(tags::GRAPHIC_DATA).and_then(|data| data.to_multi_float32().ok()).unwrap_or_default();
    let children = items(item, tags::CONTENT_SEQUENCE);
    let selected = children.len() == 1
        && value(&children[0], tags::RELATIONSHIP_TYPE) == "SELECTED FROM"
        && value(&children[0], tags::VALUE_TYPE) == "IMAGE"
        && has_value(&children[0]);
    let xs = points.iter().step_by(2);
    let wide = xs.clone().any(|x| Some(x) != xs.clone().next());
    value(item, tags::GRAPHIC_TYPE) == "POLYLINE"
        && points.len() >= 8
        && points.len().is_multiple_of(2)
        && points[..2] == points[points.len() - 2..]
        && wide
        && selected
}

fn template(item: &InMemDicomObject) -> String {
    items(item, tags::CONTENT_TEMPLATE_SEQUENCE).first().map_or_else(String::new, |item| {
        format!("{}/{}", value(item, tags::MAPPING_RESOURCE), value(item, tags::TEMPLATE_IDENTIFIER))
    })
}

fn document(object: &InMemDicomObject, problems: &mut Problems) {
    for (tag, expected, what) in [
        (tags::SOP_CLASS_UID, "1.2.840.10008.5.1.4.1.1.88.34", "SOP class"),
        (tags::MODALITY, "SR", "modality"),
        (tags::VERIFICATION_FLAG, "UNVERIFIED", "verification flag"),
        (tags::PRELIMINARY_FLAG, "PRELIMINARY", "preliminary flag"),
        (tags::VALUE_TYPE, "CONTAINER", "value type"),
    ] {
        problems.require("document", value(object, tag) == expected, &format!("the {what} is wrong"));
    }
    let completion = value(object, tags::COMPLETION_FLAG);
    let described = !value(object, tags::COMPLETION_FLAG_DESCRIPTION).is_empty();
    let sound = completion == "COMPLETE" || (completion == "PARTIAL" && described);
    problems.require("document", sound, "the completion flag is wrong, or PARTIAL gives no reason");
    problems.require("root", template(object) == "DCMR/1500", "the template is not TID 1500");
    problems.require("root", name(object) == "126000,DCM", "the title is not in CID 7021");
    rows("TID 1500", object, TID_1500, problems);
    rows("TID 1004", object, TID_1004, problems);
    let groups: Vec<_> =
        named(object, "126010,DCM").iter().flat_map(|container| named(container, "125007,DCM")).collect();
    let evaluations = named(object, "C0034375,UMLS");
    let row_6_or_12 = !evaluations.is_empty() || !groups.is_empty();
    problems.require("TID 1500", row_6_or_12, "rows 6, 10 and 12 are all absent");
    let mut tracking = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let place = format!("group {}", index + 1);
        rows(&place, group, GROUP, problems);
        rows(&place, group, TID_4019, problems);
        match template(group).as_str() {
            "DCMR/1410" => rows(&place, group, TID_1410, problems),
            "DCMR/1501" => rows(&place, group, TID_1501, problems),
            _ => problems.add(&place, "the template is neither TID 1410 nor TID 1501"),
        }
        tracking.extend(named(group, "112040,DCM").iter().map(|item| value(item, tags::UID)));
    }
    let count = tracking.len();
    tracking.sort_unstable();
    tracking.dedup();
    problems.require("document", tracking.len() == count, "two groups share a tracking UID");
    for container in &evaluations {
        rows("TID 1500 row 12", container, TID_4019, problems);
        let comments = named(container, "121106,DCM");
        let banner = comments.first().map(|comment| value(comment, tags::TEXT_VALUE)).unwrap_or_default();
        let sound = banner.contains("preliminary") && banner.contains("not reviewed");
        problems.require("TID 1500 row 12", sound, "the banner is not the first comment");
    }
    consistent_equipment(object, &groups, &evaluations, problems);
    referenced_evidence(object, problems);
    private_schemes(object, problems);
}

/// AIR §6.5.3.1: the algorithm is in the Contributing Equipment Sequence, and the observer and the
/// algorithm identification say the same of it.
fn consistent_equipment(
    object: &InMemDicomObject,
    groups: &[&InMemDicomObject],
    evaluations: &[&InMemDicomObject],
    problems: &mut Problems,
) {
    let text = |parent: &InMemDicomObject, concept: &str| {
        named(parent, concept).first().map(|item| value(item, tags::TEXT_VALUE)).unwrap_or_default()
    };
    let uid = named(object, "121012,DCM").first().map(|item| value(item, tags::UID)).unwrap_or_default();
    for parent in groups.iter().chain(evaluations) {
        let same_name = text(parent, "111001,DCM") == text(object, "121015,DCM");
        problems.require("AIR", same_name, "the algorithm's name is not the observer's model name");
        let listed = items(object, tags::CONTRIBUTING_EQUIPMENT_SEQUENCE).iter().any(|item| {
            code(item, tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE) == "109102,DCM"
                && value(item, tags::MANUFACTURER) == text(object, "121014,DCM")
                && value(item, tags::MANUFACTURER_MODEL_NAME) == text(parent, "111001,DCM")
                && value(item, tags::SOFTWARE_VERSIONS) == text(parent, "111003,DCM")
                && value(item, tags::DEVICE_UID) == uid
        });
        problems.require("AIR", listed, "the algorithm is not in the Contributing Equipment Sequence");
    }
}

fn walk<'a>(item: &'a InMemDicomObject, visit: &mut dyn FnMut(&'a InMemDicomObject)) {
    visit(item);
    for child in items(item, tags::CONTENT_SEQUENCE) {
        walk(child, visit);
    }
}

/// Every image of the tree is among the evidence for the current procedure (PS3.3 Table C.17-2).
fn referenced_evidence(object: &InMemDicomObject, problems: &mut Problems) {
    let evidence: Vec<String> = items(object, tags::CURRENT_REQUESTED_PROCEDURE_EVIDENCE_SEQUENCE)
        .iter()
        .flat_map(|study| items(study, tags::REFERENCED_SERIES_SEQUENCE))
        .flat_map(|series| items(series, tags::REFERENCED_SOP_SEQUENCE))
        .map(|instance| value(instance, tags::REFERENCED_SOP_INSTANCE_UID))
        .collect();
    problems.require("evidence", !evidence.is_empty(), "there is none");
    let mut missing = 0;
    walk(object, &mut |item| {
        if value(item, tags::VALUE_TYPE) == "IMAGE" {
            missing += items(item, tags::REFERENCED_SOP_SEQUENCE)
                .iter()
                .filter(|image| !evidence.contains(&value(image, tags::REFERENCED_SOP_INSTANCE_UID)))
                .count();
        }
    });
    problems.require("evidence", missing == 0, "an image of the tree is not in it");
}

/// Private coding schemes are identified (PS3.3 §C.12.1.1.9).
fn private_schemes(object: &InMemDicomObject, problems: &mut Problems) {
    let listed: Vec<String> = items(object, tags::CODING_SCHEME_IDENTIFICATION_SEQUENCE)
        .iter()
        .map(|item| value(item, tags::CODING_SCHEME_DESIGNATOR))
        .collect();
    let mut unlisted = 0;
    walk(object, &mut |item| {
        for tag in [tags::CONCEPT_NAME_CODE_SEQUENCE, tags::CONCEPT_CODE_SEQUENCE] {
            let scheme = code(item, tag).rsplit(',').next().unwrap_or_default().to_owned();
            unlisted += usize::from(scheme.starts_with("99") && !listed.contains(&scheme));
        }
    });
    problems.require("coding schemes", unlisted == 0, "a private scheme is not identified");
}
