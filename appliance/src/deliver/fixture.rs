//! Contexts for the tests of the builders: one of each kind of result.

use crate::finding::{
    Code, Completeness, Finding, InstanceRef, Measurement, ModelIdentity, ModelResult, Region, Source, Tier,
};

use crate::phi::Phi;

use super::context::{Device, Predecessor, ResultContext, ResultIds};
use crate::dicom::header::{RawElement, StudyHeader};

pub fn raw(group: u16, element: u16, vr: &str, value: &[u8]) -> RawElement {
    RawElement { group, element, vr: vr.into(), value: Phi::new(value.to_vec()) }
}

pub fn image(series: u32, number: u32, frames: u32) -> InstanceRef {
    InstanceRef {
        series_uid: format!("1.2.826.0.1.3680043.2.1125.7.{series}").as_str().into(),
        sop_class_uid: if frames > 1 { "1.2.840.10008.5.1.4.1.1.2.1" } else { "1.2.840.10008.5.1.4.1.1.2" }
            .into(),
        sop_instance_uid: format!("1.2.826.0.1.3680043.2.1125.7.{series}.{number}").as_str().into(),
        modality: "CT".into(),
        frames,
    }
}

pub fn header() -> StudyHeader {
    StudyHeader {
        character_sets: vec![],
        elements: vec![
            raw(0x0008, 0x0020, "DA", b"20260102"),
            raw(0x0008, 0x0030, "TM", b"101112.5"),
            raw(0x0008, 0x0050, "SH", b"ACC 1"),
            raw(0x0008, 0x0090, "PN", b"REFERRER^RITA"),
            raw(0x0010, 0x0010, "PN", b"TEST^ONE^^DR^JR"),
            raw(0x0010, 0x0020, "LO", b"P-1"),
            raw(0x0010, 0x0021, "LO", b"HOSP"),
            raw(0x0010, 0x0030, "DA", b"19600101"),
            raw(0x0010, 0x0040, "CS", b"F"),
            raw(0x0010, 0x1030, "DS", b"61.5"),
            raw(0x0020, 0x0010, "SH", b"S1"),
        ],
    }
}

/// A name in Latin letters, kanji and hiragana, as PS3.5 Annex H.3.1 has it.
pub const KANJI_NAME: &[u8] =
    b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B";

pub fn kanji(mut context: ResultContext) -> ResultContext {
    context.header.character_sets = vec![String::new(), "ISO 2022 IR 87".into()];
    for element in &mut context.header.elements {
        if (element.group, element.element) == (0x0010, 0x0010) {
            element.value = Phi::new(KANJI_NAME.to_vec());
        }
    }
    context
}

fn finding(number: u32, tier: Tier, source: Source) -> Finding {
    let measured = |value: &str, meaning: &str, number: f64| Measurement {
        name: Code::new(value, "SCT", meaning),
        value: number,
        unit: Code::new("mm", "UCUM", "millimeter"),
    };
    Finding {
        tracking_id: format!("phantom-detector disk {number}"),
        label: "disk".into(),
        category: Code::new("49755003", "SCT", "Morphologically abnormal structure"),
        finding: Code::new("DISK", "99PHANTOM", "Bright disk"),
        site: Some(Code::new("39607008", "SCT", "Lung")),
        laterality: Some(Code::new("24028007", "SCT", "Right")),
        score: 0.875,
        tier,
        measurements: vec![
            measured("103339001", "Long Axis", 8.4),
            measured("103340004", "Short Axis", 6.125),
        ],
        source,
    }
}

/// Two shown detections, one of them flagged, and a suppressed one, in two series.
pub fn detection() -> ResultContext {
    let region = Some(Region { left: 10.0, top: 20.5, right: 22.0, bottom: 31.0 });
    let evidence = vec![image(1, 1, 1), image(1, 2, 1), image(2, 1, 1)];
    let at = |index: usize| Source { instance: evidence[index].clone(), frame: 1, region };
    ResultContext {
        device: Device {
            uid: "2.25.1001".into(),
            station: "EDGE-01".into(),
            manufacturer: "Lightbox project".into(),
            model: "Lightbox".into(),
            serial: "LB-0001".into(),
            software: "0.1.0".into(),
        },
        header: header(),
        study_uid: "1.2.826.0.1.3680043.2.1125.7".into(),
        revision: 1,
        evidence: evidence.clone(),
        completion_note: "No image came for 60 s.".into(),
        result: ModelResult {
            model: ModelIdentity {
                id: "phantom-detector".into(),
                name: "Phantom disk detector".into(),
                version: "1.2.0".into(),
                vendor: "Lightbox project".into(),
                digest: "ab".repeat(32),
                device_uid: "2.25.2002".into(),
                looked_for: "bright disks".into(),
                procedure: Code::new("24627-2", "LN", "CT Chest"),
                not_for_clinical_use: true,
                plan: None,
                acceptance: None,
            },
            completeness: Completeness::Complete,
            findings: vec![
                finding(1, Tier::Reported, at(0)),
                finding(2, Tier::Suppressed, at(1)),
                finding(3, Tier::Flagged, at(2)),
            ],
            examined: evidence,
        },
        findings_text: vec!["Finding 1: Bright disk.".into(), "Finding 2: Bright disk, flagged.".into()],
        impression_text: vec!["2 findings; 1 flagged.".into()],
        order: None,
        predecessor: None,
        ids: ResultIds {
            series_uid: "2.25.3001".into(),
            sr_instance_uid: "2.25.3002".into(),
            tracking_uids: vec!["2.25.4001".into(), "2.25.4002".into(), "2.25.4003".into()],
            message_control_id: "LB0000000000000001".into(),
            filler_order_number: "LB-F-1".into(),
            created_ms: 1_767_355_872_250,
        },
    }
}

/// One finding of a whole image, without site.
pub fn classification() -> ResultContext {
    let mut context = detection();
    let findings = &mut context.result.findings;
    findings.truncate(1);
    findings[0].source.region = None;
    findings[0].site = None;
    findings[0].measurements.clear();
    context.ids.tracking_uids.truncate(1);
    context
}

/// Nothing that is shown: the suppressed finding stays in the ledger.
pub fn no_finding() -> ResultContext {
    let mut context = detection();
    context.result.findings.retain(|finding| finding.tier == Tier::Suppressed);
    context.ids.tracking_uids.truncate(1);
    context.findings_text = vec!["No bright disks reported by Phantom disk detector 1.2.0.".into()];
    context.impression_text.clear();
    context
}

/// As [`detection`], but an image could not be read.
pub fn partial() -> ResultContext {
    let mut context = detection();
    context.result.completeness = Completeness::Partial(
        "1 of 3 images is compressed in a transfer syntax that is not supported".into(),
    );
    context.result.examined.pop();
    context
}

/// Nothing could be examined.
pub fn not_run() -> ResultContext {
    let mut context = no_finding();
    context.result.findings.clear();
    context.ids.tracking_uids.clear();
    context.result.examined.clear();
    context.findings_text.clear();
    context.result.completeness = Completeness::NotRun("no image can be decoded".into());
    context
}

/// A finding on a frame of a multi-frame image.
pub fn multi_frame() -> ResultContext {
    let mut context = detection();
    context.evidence = vec![image(3, 1, 40)];
    context.result.examined = context.evidence.clone();
    for finding in &mut context.result.findings {
        finding.source.instance = context.evidence[0].clone();
        finding.source.frame = 17;
    }
    context
}

/// A revision: it names the report before it.
pub fn revision() -> ResultContext {
    let mut context = detection();
    context.revision = 2;
    context.predecessor =
        Some(Predecessor { series_uid: "2.25.2901".into(), sop_instance_uid: "2.25.2902".into() });
    context
}

/// Every kind, by name.
pub fn all() -> Vec<(&'static str, ResultContext)> {
    vec![
        ("detection", detection()),
        ("classification", classification()),
        ("no_finding", no_finding()),
        ("partial", partial()),
        ("not_run", not_run()),
        ("multi_frame", multi_frame()),
        ("revision", revision()),
        ("kanji", kanji(detection())),
    ]
}
