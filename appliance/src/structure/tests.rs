//! Raw results made by hand, put into codes with the phantom detector's manifest.

use std::path::Path;

use super::*;
use crate::finding::Completeness;
use crate::raw::{Geometry, RawDetection, Slice, Spacing};

fn bundle() -> Bundle {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/reference/phantom-detector/bundle");
    Bundle::open(&folder).unwrap()
}

fn region(left: f64, top: f64, side: f64) -> Region {
    Region { left, top, right: left + side, bottom: top + side }
}

/// A CT frame at a position, with disks of the given scores.
fn frame(number: u32, position_mm: f64, disks: &[(f64, Region)]) -> FrameOutput {
    FrameOutput {
        instance: InstanceRef {
            series_uid: "1.2.3".into(),
            sop_class_uid: "1.2.840.10008.5.1.4.1.1.2".into(),
            sop_instance_uid: format!("1.2.3.{number}").as_str().into(),
            modality: "CT".into(),
            frames: 1,
        },
        frame: 1,
        geometry: Geometry {
            columns: 64,
            rows: 64,
            spacing: Spacing::Patient { row_mm: 0.5, column_mm: 0.5 },
            slice: Some(Slice { orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], position_mm }),
        },
        output: RawOutput::Detections(
            disks
                .iter()
                .map(|(score, region)| RawDetection { label: 0, score: *score, region: *region })
                .collect(),
        ),
    }
}

fn result(frames: Vec<FrameOutput>) -> ModelResult {
    let examined = frames.iter().map(|frame| frame.instance.clone()).collect();
    structure(&bundle(), &RawResult { completeness: Completeness::Complete, frames, examined })
}

#[test]
fn thresholds_make_tiers_and_a_score_at_the_threshold_has_reached_it() {
    // 0.7 and 0.4 as a network's 32-bit floats: a hair below, or above, the manifest's numbers.
    let scores = [f64::from(0.7_f32), f64::from(0.4_f32), 0.399, 0.9];
    let disks: Vec<_> =
        scores.iter().zip(0_u32..).map(|(s, at)| (*s, region(f64::from(at) * 12.0, 3.0, 8.0))).collect();
    let result = result(vec![frame(1, 0.0, &disks)]);
    let tiers: Vec<_> =
        result.findings.iter().map(|finding| (finding.tier, finding.tracking_id.as_str())).collect();
    assert_eq!(
        tiers,
        [
            (Tier::Reported, "lightbox-phantom-detector disk 1"),
            (Tier::Reported, "lightbox-phantom-detector disk 2"),
            (Tier::Flagged, "lightbox-phantom-detector disk 3"),
            (Tier::Suppressed, "lightbox-phantom-detector disk 4"),
        ]
    );
    assert_eq!(result.findings[0].score, 0.9);
    assert_eq!(result.findings[0].measurements[0].value, 4.0);
    assert_eq!(result.visible().count(), 3);
}

#[test]
fn one_lesion_on_adjacent_slices_is_one_finding_on_its_best_slice() {
    let frames = vec![
        // Arrival in no order; slice 4 is empty, so what is on slice 5 is another lesion.
        frame(3, 6.0, &[(0.8, region(11.0, 11.0, 8.0))]),
        frame(1, 2.0, &[(0.8, region(11.0, 11.0, 8.0)), (0.9, region(40.0, 40.0, 6.0))]),
        frame(2, 4.0, &[(0.8, region(10.0, 10.0, 10.0))]),
        frame(4, 8.0, &[]),
        frame(5, 10.0, &[(0.8, region(10.0, 10.0, 10.0))]),
    ];
    let result = result(frames.clone());
    let found: Vec<_> = result
        .findings
        .iter()
        .map(|finding| (finding.score, finding.source.instance.sop_instance_uid.expose().as_str()))
        .collect();
    assert_eq!(found, [(0.9, "1.2.3.1"), (0.8, "1.2.3.2"), (0.8, "1.2.3.5")]);
    // The order in which images came changes nothing.
    let mut turned = frames;
    turned.reverse();
    assert_eq!(super::tests::result(turned).findings, result.findings);
}

#[test]
fn a_missing_slice_parts_lesions() {
    let disk = [(0.8, region(10.0, 10.0, 10.0))];
    let frames = vec![frame(1, 0.0, &[]), frame(2, 2.0, &disk), frame(3, 8.0, &disk), frame(4, 10.0, &[])];
    assert_eq!(result(frames).findings.len(), 2);
}

#[test]
fn the_device_uid_is_a_uid_and_goes_with_the_bundle() {
    let identity = identity(&bundle());
    let number: u128 = identity.device_uid.strip_prefix("2.25.").unwrap().parse().unwrap();
    assert_eq!((number >> 76 & 0xf, number >> 62 & 0x3), (8, 2));
    assert!(identity.device_uid.len() <= 64);
    assert_ne!(identity.device_uid, device_uid(&identity.id, "1.0.1", &identity.digest));
}
