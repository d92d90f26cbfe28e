//! `lightbox demo`: the second command of the README.

use std::fs;

use lightbox_tests::command::run_lightbox;
use lightbox_tests::samples::files_below;
use lightbox_tests::{Hospital, judges};
use serde_json::Value;

#[test]
fn the_demo_leaves_reports_messages_a_picture_and_a_summary() {
    let hospital = Hospital::new();
    let out = hospital.folder().join("out");
    let started = std::time::Instant::now();
    let said = run_lightbox(&["demo", "--out", out.to_str().expect("a plain path")]).ok("lightbox demo");
    let took = started.elapsed();
    assert!(took.as_secs() < 60, "the demo took {took:?}:\n{}", said.all());

    let reports = files_below(&out.join("results"), "dcm");
    assert!(reports.len() >= 3, "{reports:?}");
    reports.iter().for_each(|report| judges::accept_sr(report));
    let messages = files_below(&out.join("oru"), "hl7");
    // The MR of the samples has no Patient ID, so no HL7 message can speak of it.
    assert!(messages.len() >= 2, "{messages:?}");
    for message in &messages {
        judges::accept_oru(&hospital, &fs::read(message).expect("readable"));
    }
    let picture = fs::read(out.join("preview.png")).expect("preview.png");
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 5_000, "{} bytes", picture.len());

    let summary = fs::read_to_string(out.join("summary.json")).expect("summary.json");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    let studies = summary["studies"].as_array().expect("studies");
    assert!(studies.len() >= 3, "{summary}");
    let text = summary.to_string();
    for word in ["findings", "deliveries", "seconds"] {
        assert!(text.contains(word), "{word} is missing: {summary}");
    }
    assert!(!text.contains("\"dead\"") && !text.contains("\"failed\""), "{summary}");
}
