use dicom_dictionary_std::tags;
use dicom_object::{InMemDicomObject, from_reader};

use super::super::context::ResultContext;
use super::super::fixture;
use super::check::check;
use super::*;
use crate::finding::{Completeness, Tier};
use crate::phi::Phi;

fn built(context: &ResultContext) -> Vec<u8> {
    build(context).unwrap()
}

fn read(file: &[u8]) -> InMemDicomObject {
    from_reader(&file[128..]).unwrap().into_inner()
}

fn text(object: &InMemDicomObject, tag: dicom_core::Tag) -> String {
    object.element(tag).unwrap().to_str().unwrap().into_owned()
}

fn contains(file: &[u8], needle: &[u8]) -> bool {
    file.windows(needle.len()).any(|window| window == needle)
}

/// With `LIGHTBOX_SR_DIR` set, the files are left there for the external validators.
#[test]
fn every_kind_of_result_passes_the_checker_and_is_built_the_same_twice() {
    for (kind, context) in fixture::all() {
        let file = built(&context);
        assert_eq!(check(&file), Vec::<String>::new(), "{kind}");
        assert_eq!(file, built(&context), "{kind}");
        if let Some(directory) = std::env::var_os("LIGHTBOX_SR_DIR") {
            std::fs::write(std::path::Path::new(&directory).join(format!("{kind}.dcm")), &file).unwrap();
        }
    }
}

#[test]
fn names_keep_their_bytes_and_their_character_set() {
    let file = built(&fixture::kanji(fixture::detection()));
    let mut element = vec![0x10, 0, 0x10, 0, b'P', b'N'];
    let padded = fixture::KANJI_NAME.len().next_multiple_of(2);
    element.extend((padded as u16).to_le_bytes());
    element.extend(fixture::KANJI_NAME);
    assert!(contains(&file, &element));
    assert!(contains(&file, b"\x08\x00\x05\x00CS\x10\x00\\ISO 2022 IR 87 "));
    assert!(!contains(&built(&fixture::detection()), b"\x08\x00\x05\x00CS"));
}

#[test]
fn odd_values_are_padded_numbers_stay_text_and_absent_type_2_is_empty() {
    let mut context = fixture::detection();
    context.header.elements.retain(|raw| (raw.group, raw.element) != (0x0020, 0x0010));
    let file = built(&context);
    assert!(contains(&file, b"\x10\x00\x40\x00CS\x02\x00F "));
    assert!(contains(&file, b"\x10\x00\x30\x10DS\x04\x0061.5"));
    assert!(contains(&file, b"\x20\x00\x10\x00SH\x00\x00"));
    // An element that is no part of the copied modules does not come along.
    context.header.elements.push(fixture::raw(0x0009, 0x0010, "LO", b"PRIVATE CREATOR"));
    assert_eq!(built(&context), file);
}

#[test]
fn suppressed_findings_leave_no_trace() {
    let file = built(&fixture::detection());
    assert!(contains(&file, b"2.25.4001") && contains(&file, b"2.25.4003"));
    assert!(!contains(&file, b"2.25.4002") && !contains(&file, b"phantom-detector disk 2"));
    let file = built(&fixture::no_finding());
    assert!(contains(&file, b"No bright disks reported by Phantom disk detector 1.2.0."));
    assert!(!contains(&file, b"Bright disk\0") && !contains(&file, b"99PHANTOM"));
}

#[test]
fn the_document_says_how_far_the_model_got_and_never_more() {
    let complete = read(&built(&fixture::detection()));
    assert_eq!(text(&complete, tags::COMPLETION_FLAG), "COMPLETE");
    let file = built(&fixture::partial());
    let partial = read(&file);
    assert_eq!(text(&partial, tags::COMPLETION_FLAG), "PARTIAL");
    assert_eq!(text(&partial, tags::COMPLETION_FLAG_DESCRIPTION).len(), 64);
    assert!(contains(
        &file,
        b"Examination incomplete: 1 of 3 images is compressed in a transfer syntax that is not"
    ));
    let file = built(&fixture::not_run());
    assert!(contains(&file, b"Study not examined: no image can be decoded"));
    assert!(!contains(&file, b"reported by"), "nothing was looked at, so nothing is said to be absent");
    for (kind, context) in fixture::all() {
        let file = built(&context);
        assert!(contains(&file, b"AI-generated, preliminary, not reviewed."), "{kind}");
        assert!(contains(&file, b"Not for clinical use."), "{kind}");
        for word in [&b"FINAL"[..], b"final", b"\x04\x00VERIFIED"] {
            assert!(!contains(&file, word), "{kind}");
        }
    }
}

#[test]
fn a_partial_absence_speaks_of_the_examined_images_only() {
    let mut context = fixture::partial();
    for finding in &mut context.result.findings {
        finding.tier = Tier::Suppressed;
    }
    context.findings_text.clear();
    let file = built(&context);
    assert!(contains(
        &file,
        b"No bright disks reported by Phantom disk detector 1.2.0 in the images that it examined."
    ));
    assert!(!contains(&file, b"1.2.0. "));
    assert!(contains(&file, b"images examined 2 of 3."));
}

#[test]
fn a_revision_names_the_report_before_it() {
    let revised = read(&built(&fixture::revision()));
    let study = &revised.element(tags::PREDECESSOR_DOCUMENTS_SEQUENCE).unwrap().items().unwrap()[0];
    let series = &study.element(tags::REFERENCED_SERIES_SEQUENCE).unwrap().items().unwrap()[0];
    assert_eq!(text(series, tags::SERIES_INSTANCE_UID), "2.25.2901");
    let document = &series.element(tags::REFERENCED_SOP_SEQUENCE).unwrap().items().unwrap()[0];
    assert_eq!(text(document, tags::REFERENCED_SOP_INSTANCE_UID), "2.25.2902");
    assert_eq!(text(&revised, tags::INSTANCE_NUMBER), "2");
    assert!(read(&built(&fixture::detection())).get(tags::PREDECESSOR_DOCUMENTS_SEQUENCE).is_none());
}

#[test]
fn evidence_is_grouped_by_series() {
    let object = read(&built(&fixture::detection()));
    let study =
        &object.element(tags::CURRENT_REQUESTED_PROCEDURE_EVIDENCE_SEQUENCE).unwrap().items().unwrap()[0];
    let series = study.element(tags::REFERENCED_SERIES_SEQUENCE).unwrap().items().unwrap();
    let counts: Vec<usize> = series
        .iter()
        .map(|series| series.element(tags::REFERENCED_SOP_SEQUENCE).unwrap().items().unwrap().len())
        .collect();
    assert_eq!(counts, [2, 1]);
}

#[test]
fn only_multi_frame_references_name_a_frame() {
    let frame = b"\x08\x00\x60\x11IS";
    assert!(!contains(&built(&fixture::detection()), frame));
    assert!(contains(&built(&fixture::multi_frame()), b"\x08\x00\x60\x11IS\x02\x0017"));
}

type Spoil = fn(&mut ResultContext);

#[test]
fn a_broken_context_is_refused_without_a_word_about_the_patient() {
    let cases: &[(&str, Spoil)] = &[
        ("Contradiction", |c| c.result.completeness = Completeness::NotRun("why".into())),
        ("NoEvidence", |c| c.evidence.clear()),
        ("NotInEvidence", |c| c.evidence.truncate(2)),
        ("TrackingUids", |c| c.ids.tracking_uids.truncate(1)),
        ("Uid", |c| c.study_uid = "1.2.SECRET".into()),
        ("Uid", |c| c.evidence[0].sop_instance_uid = "1".repeat(65).into()),
        ("Number", |c| c.result.findings[0].score = 1.1),
        ("Number", |c| c.result.findings[0].measurements[0].value = f64::NAN),
        ("Region", |c| c.result.findings[0].source.region.as_mut().unwrap().right = 10.0),
        ("Frame", |c| c.result.findings[0].source.frame = 2),
        ("Empty", |c| c.result.model.version = " ".into()),
        ("Empty", |c| c.result.findings[0].tracking_id.clear()),
        ("Code", |c| c.result.findings[0].finding.value.clear()),
        ("Code", |c| c.result.model.procedure.scheme = "99SEVENTEENLETTER".into()),
        ("HeaderTooLong", |c| c.header.elements[4].value = Phi::new(vec![b'A'; 65_535])),
    ];
    for (expected, spoil) in cases {
        let mut context = fixture::detection();
        spoil(&mut context);
        let error = build(&context).unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{expected}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("SECRET"));
    }
}

/// Bytes that take something away that the standard or AIR wants, and keep the length.
#[test]
fn the_checker_sees_what_the_public_validators_let_pass() {
    let file = built(&fixture::detection());
    for (what, from, to) in [
        ("no tracking UID", &b"112040"[..], &b"112041"[..]),
        ("no tracking identifier", b"112039", b"112038"),
        ("a shared tracking UID", b"2.25.4003", b"2.25.4001"),
        ("no region", b"111030", b"111031"),
        ("no finding", b"121071", b"121079"),
        ("another algorithm version", b"1.2.0 ", b"1.2.1 "),
        ("no device observer UID", b"121012", b"121018"),
        ("another purpose", b"109102", b"109101"),
        ("a final report", b"PRELIMINARY ", b"FINAL       "),
        ("a wrong template", b"1410", b"1411"),
        ("no tier", b"TIER", b"TEAR"),
        ("an unlisted scheme", b"99PHANTOM ", b"99PHANTAM "),
    ] {
        let mut mutant = file.clone();
        let at = mutant.windows(from.len()).position(|window| window == from).expect(what);
        mutant[at..at + from.len()].copy_from_slice(to);
        assert!(!check(&mutant).is_empty(), "{what}");
    }
    assert!(!check(b"").is_empty());
}

#[test]
fn names_of_a_bundle_are_the_same_wherever_the_report_has_them() {
    let mut context = fixture::detection();
    context.result.model.name = "Détecteur \\ ".repeat(10);
    context.result.model.vendor = "Vendor\r\n".repeat(20);
    context.device.station = "A station name longer than sixteen".into();
    context.result.findings[0].finding.value = "A code value longer than sixteen".into();
    assert_eq!(check(&build(&context).unwrap()), Vec::<String>::new());
}
