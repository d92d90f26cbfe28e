//! Modality Performed Procedure Step and Instance Availability Notification: kept before success, and the
//! state rules of PS3.4 F.7 hold.

use lightbox_tests::peers::announcer::{Announcer, begun};
use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::{Daemon, Hospital, Site};
use serde_json::{Value, json};

fn series(status: &str) -> Value {
    let images: Vec<Value> = ["1.2.3.4.1", "1.2.3.4.2"]
        .iter()
        .map(|uid| {
            json!({ "ReferencedSOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "ReferencedSOPInstanceUID": uid })
        })
        .collect();
    json!({
        "PerformedProcedureStepStatus": status,
        "PerformedSeriesSequence": [{ "SeriesInstanceUID": "1.2.3.4", "ReferencedImageSequence": images }],
    })
}

#[test]
fn steps_and_announcements_are_kept_and_follow_the_rules() {
    let hospital = Hospital::new();
    let modality = Storescu::new(&hospital, "CT1");
    let site = Site::new(&hospital).sender("ct-1", "CT1", modality.identity());
    let mut daemon = Daemon::start(&site);
    let (step, study) = ("1.2.826.0.1.999.1", "1.2.826.0.1.999.2");
    let mut unknown = begun(study);
    unknown["PerformedProcedureStepStatus"] = "STARTED".into();
    let mut lacking = begun(study);
    lacking.as_object_mut().expect("an object").remove("Modality");
    let announced = json!({
        "ReferencedPerformedProcedureStepSequence": [],
        "StudyInstanceUID": study,
        "ReferencedSeriesSequence": [{ "SeriesInstanceUID": "1.2.3.4", "ReferencedSOPSequence": [
            { "ReferencedSOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "ReferencedSOPInstanceUID": "1.2.3.4.1",
              "InstanceAvailability": "ONLINE", "RetrieveAETitle": "PACS" },
            { "ReferencedSOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "ReferencedSOPInstanceUID": "1.2.3.4.2",
              "InstanceAvailability": "UNAVAILABLE", "RetrieveAETitle": "PACS" },
        ]}],
    });
    let steps = [
        json!(["set-step", step, series("COMPLETED")]),
        json!(["create-step", step, unknown]),
        json!(["create-step", step, lacking]),
        json!(["create-step", step, begun(study)]),
        json!(["create-step", step, begun(study)]),
        json!(["set-step", step, { "PerformedProcedureStepStatus": "FINISHED" }]),
        json!(["set-step", step, { "PerformedProcedureStepStatus": "COMPLETED" }]),
        json!(["set-step", step, series("IN PROGRESS")]),
        json!(["set-step", step, series("COMPLETED")]),
        json!(["set-step", step, series("DISCONTINUED")]),
        json!(["announce", "1.2.826.0.1.999.3", announced]),
        json!(["announce", "1.2.826.0.1.999.4", { "StudyInstanceUID": study }]),
    ];
    let answers = Announcer::new(&hospital, modality.identity()).tell(daemon.dicom, &steps);
    let statuses: Vec<u64> =
        answers.iter().map(|answer| answer["status"].as_u64().expect("a status")).collect();
    let wanted = [0x0112, 0x0106, 0x0120, 0, 0x0111, 0x0106, 0x0120, 0, 0, 0x0110, 0, 0x0120];
    assert_eq!(statuses, wanted, "{answers:?}");
    assert_eq!(answers[9]["error_id"], 0xA710, "{answers:?}");

    // Success meant that it is on disk.
    daemon.kill();
    let ledger = daemon.ledger();
    assert_eq!(
        ledger.texts("SELECT uid || ' ' || study_uid || ' ' || peer || ' ' || status || ' ' || series FROM procedure_steps"),
        [format!(r#"{step} {study} ct-1 COMPLETED [{{"series_uid":"1.2.3.4","instances":["1.2.3.4.1","1.2.3.4.2"]}}]"#)]
    );
    assert_eq!(
        ledger.texts("SELECT study_uid || ' ' || peer || ' ' || series FROM announcements"),
        [format!(r#"{study} ct-1 [{{"series_uid":"1.2.3.4","instances":1,"uids":["1.2.3.4.1"]}}]"#)]
    );
    assert_eq!(ledger.audit("study-announced").len(), 4);
    assert!(!daemon.log().contains(study) && !daemon.log().contains(step), "a UID is in the log");
}
