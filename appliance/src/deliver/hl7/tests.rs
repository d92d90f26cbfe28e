use super::super::context::ResultContext;
use super::super::fixture;
use super::*;
use crate::dicom::charset::Random;
use crate::finding::Completeness;
use crate::phi::Phi;

fn built(context: &ResultContext) -> String {
    build_oru(context, &settings()).unwrap()
}

fn settings() -> OruSettings {
    OruSettings {
        sending_facility: "RAD".into(),
        receiving_application: "RIS".into(),
        receiving_facility: "HOSP".into(),
        assigning_authority: "FALLBACK".into(),
        ..OruSettings::default()
    }
}

/// The fields of every segment of a name; field n is at index n.
fn segments(message: &str, name: &str) -> Vec<Vec<String>> {
    message
        .split('\r')
        .map(|segment| segment.split('|').map(str::to_owned).collect::<Vec<_>>())
        .filter(|fields| fields[0] == name)
        .collect()
}

fn set(context: &mut ResultContext, group: u16, element: u16, value: &[u8]) {
    context.header.elements.retain(|raw| (raw.group, raw.element) != (group, element));
    context.header.elements.push(fixture::raw(group, element, "LO", value));
}

/// With `LIGHTBOX_ORU_DIR` set, the messages are left there for the external validators.
#[test]
fn every_kind_of_result_makes_a_preliminary_message() {
    for (kind, context) in fixture::all() {
        let message = built(&context);
        assert_eq!(message, built(&context), "{kind}");
        assert!(!message.contains('\n') && message.ends_with('\r'), "{kind}");
        let names: Vec<&str> = message.split_terminator('\r').map(|segment| &segment[..3]).collect();
        assert_eq!(names[..5], ["MSH", "PID", "PV1", "ORC", "OBR"], "{kind}");
        assert!(names[5..].iter().all(|name| *name == "OBX"), "{kind}");
        assert_eq!(segments(&message, "OBR")[0][25], "P", "{kind}");
        assert_eq!(segments(&message, "OBR")[0].get(32), None, "{kind}");
        for (index, observation) in segments(&message, "OBX").iter().enumerate() {
            assert_eq!(observation[1], (index + 1).to_string(), "{kind}");
            assert_eq!(observation[11], if index == 0 { "O" } else { "P" }, "{kind}");
        }
        let text = message.to_lowercase();
        assert!(!text.contains("final") && !text.contains("verified"), "{kind}");
        assert!(message.contains("AI PRELIMINARY - NOT REVIEWED|"), "{kind}");
        assert!(message.contains("NOT FOR CLINICAL USE|"), "{kind}");
        if let Some(directory) = std::env::var_os("LIGHTBOX_ORU_DIR") {
            std::fs::write(std::path::Path::new(&directory).join(format!("{kind}.hl7")), &message).unwrap();
        }
    }
}

#[test]
fn the_header_and_the_order_are_where_a_ris_looks() {
    let message = built(&fixture::detection());
    assert!(message.starts_with(
        "MSH|^~\\&|LIGHTBOX|RAD|RIS|HOSP|20260102121112+0000||ORU^R01^ORU_R01|LB0000000000000001|P|2.5.1||||||UNICODE UTF-8\r"
    ));
    let patient = &segments(&message, "PID")[0];
    assert_eq!(patient[3], "P-1^^^HOSP^MR");
    assert_eq!(patient[5], "TEST^ONE^^JR^DR^^L^A");
    assert_eq!((patient[7].as_str(), patient[8].as_str()), ("19600101", "F"));
    let order = &segments(&message, "OBR")[0];
    assert_eq!((order[3].as_str(), order[4].as_str()), ("LB-F-1^EDGE-01", "24627-2^CT Chest^LN"));
    assert_eq!((order[7].as_str(), order[18].as_str()), ("20260102101112.5", "ACC 1"));
    assert_eq!((order[22].as_str(), order[24].as_str()), ("20260102121112+0000", "RAD"));
    let study = &segments(&message, "OBX")[0];
    assert_eq!(study[2..6], ["ST", "113014^DICOM Study^DCM", "", "1.2.826.0.1.3680043.2.1125.7"]);
    let enhanced = OruSettings { enhanced_acknowledgement: true, ..settings() };
    let message = build_oru(&fixture::detection(), &enhanced).unwrap();
    assert!(message.contains("|P|2.5.1|||AL|NE||UNICODE UTF-8\r"));
}

#[test]
fn names_come_in_their_representations() {
    let message = built(&fixture::kanji(fixture::detection()));
    assert_eq!(
        segments(&message, "PID")[0][5],
        "Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P"
    );
    let mut unnamed = fixture::detection();
    set(&mut unnamed, 0x0010, 0x0010, b"");
    assert_eq!(segments(&built(&unnamed), "PID")[0][5], "^^^^^^U");
}

#[test]
fn the_assigning_authority_comes_from_the_images_first() {
    let mut context = fixture::detection();
    set(&mut context, 0x0010, 0x0021, b"");
    assert_eq!(segments(&built(&context), "PID")[0][3], "P-1^^^FALLBACK^MR");
    set(&mut context, 0x0010, 0x0020, b"  ");
    assert!(matches!(build_oru(&context, &settings()), Err(Hl7Error::NoPatientId)));
}

#[test]
fn each_shown_finding_is_one_group_and_suppressed_ones_are_absent() {
    let message = built(&fixture::detection());
    let observations = segments(&message, "OBX");
    let group = |sub_id: &str| -> Vec<String> {
        let group = observations.iter().filter(|observation| observation[4] == sub_id);
        group.map(|observation| format!("{} {} {}", observation[2], observation[3], observation[5])).collect()
    };
    assert_eq!(
        group("2"),
        [
            "CE 121071^Finding^DCM DISK^Bright disk^99PHANTOM",
            "CE 276214006^Finding category^SCT 49755003^Morphologically abnormal structure^SCT",
            "CE 363698007^Finding Site^SCT 39607008^Lung^SCT",
            "CE 272741003^Laterality^SCT 24028007^Right^SCT",
            "NM 111012^Certainty of Finding^DCM 87.5",
            "NM 103339001^Long Axis^SCT 8.4",
            "NM 103340004^Short Axis^SCT 6.125",
            "CE TIER^Result tier^99LIGHTBOX FLAGGED^Flagged: needs explicit attention^99LIGHTBOX",
            "ST 112040^Tracking Unique Identifier^DCM 2.25.4003",
        ]
    );
    assert_eq!((group("1").len(), group("3").len()), (9, 0));
    assert!(!message.contains("2.25.4002"));
    let certainty = observations.iter().find(|observation| observation[3].starts_with("111012")).unwrap();
    assert_eq!(certainty[6], "%^percent^UCUM");
    assert_eq!(
        (certainty[14].as_str(), certainty[17].as_str()),
        ("20260102101112.5", "123110^Artificial Intelligence^DCM")
    );
    assert_eq!(certainty[18], "Phantom disk detector 1.2.0^^2.25.2002^ISO~EDGE-01^^2.25.1001^ISO");
}

#[test]
fn the_text_says_how_far_the_model_got() {
    let text = |context: &ResultContext| -> Vec<String> {
        let message = built(context);
        segments(&message, "OBX").iter().filter(|obx| obx[2] == "TX").map(|obx| obx[5].clone()).collect()
    };
    let absent = text(&fixture::no_finding());
    let sentence = "No bright disks reported by Phantom disk detector 1.2.0.";
    assert_eq!(absent.iter().filter(|line| *line == sentence).count(), 1);
    let mut undrafted = fixture::no_finding();
    undrafted.findings_text.clear();
    assert_eq!(text(&undrafted), absent);
    let not_run = text(&fixture::not_run());
    assert!(not_run.contains(&"Study not examined: no image can be decoded".to_owned()));
    assert!(!not_run.iter().any(|line| line.contains("reported")));
    assert!(text(&fixture::partial()).iter().any(|line| line.starts_with("Examination incomplete: 1 of 3")));
}

#[test]
fn what_the_sender_or_the_model_wrote_stays_in_its_field() {
    let mut context = fixture::detection();
    set(&mut context, 0x0010, 0x0020, b"P|1^2~3&4\\5");
    set(&mut context, 0x0008, 0x0050, b"A\rOBX|9");
    set(&mut context, 0x0010, 0x0040, b"X|");
    context.findings_text = vec!["line one\nOBX|1|TX\u{1c}".into()];
    let message = built(&context);
    assert!(message.contains("|P\\F\\1\\S\\2\\R\\3\\T\\4\\E\\5^^^HOSP^MR|"));
    assert_eq!(segments(&message, "OBR")[0][18], "A\\.br\\OBX\\F\\9");
    assert_eq!(segments(&message, "PID")[0].get(8), None);
    assert!(message.contains("|line one\\.br\\OBX\\F\\1\\F\\TX\\X1C\\|"));
    assert!(crate::hl7::mllp::encode(&message).is_ok());
}

type Spoil = fn(&mut ResultContext);

#[test]
fn a_broken_context_is_refused() {
    let cases: &[(&str, Spoil)] = &[
        ("Contradiction", |c| c.result.completeness = Completeness::NotRun("why".into())),
        ("ControlId", |c| c.ids.message_control_id.clear()),
        ("ControlId", |c| c.ids.message_control_id = "A".repeat(21)),
        ("ControlId", |c| c.ids.message_control_id = "A B".into()),
        ("FillerOrderNumber", |c| c.ids.filler_order_number = " ".into()),
        ("TrackingUids", |c| c.ids.tracking_uids.clear()),
        ("Number", |c| c.result.findings[0].score = f64::NAN),
        ("Number", |c| c.result.findings[0].measurements[0].value = f64::INFINITY),
    ];
    for (expected, spoil) in cases {
        let mut context = fixture::detection();
        spoil(&mut context);
        let error = build_oru(&context, &settings()).unwrap_err();
        assert_eq!(format!("{error:?}"), *expected);
    }
}

#[test]
fn mutated_headers_never_break_the_message() {
    let mut random = Random(13);
    let expected = built(&fixture::detection()).matches('\r').count();
    for _ in 0..2_000 {
        let mut context = fixture::kanji(fixture::detection());
        for element in &mut context.header.elements {
            let mut bytes = element.value.expose().clone();
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
            bytes.insert(at, b"\r\n|^~\\&\x0b\x1c"[random.below(9)]);
            element.value = Phi::new(bytes);
        }
        let Ok(message) = build_oru(&context, &settings()) else { continue };
        assert_eq!(message.matches('\r').count(), expected);
        assert!(crate::hl7::mllp::encode(&message).is_ok());
        assert!(segments(&message, "PID")[0].len() <= 9);
    }
}
