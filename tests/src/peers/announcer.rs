//! A modality that tells of what it does: pynetdicom as SCU of Modality Performed Procedure Step and Instance
//! Availability Notification, over TLS (`tests/peers/announcer.py`).

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use dicom_dictionary_std::tags;
use serde_json::{Value, json};

use crate::command::python;
use crate::hospital::{Hospital, Identity};
use crate::samples::{sop_uid, text_of};

/// The modality. It calls itself CT1.
#[derive(Clone, Debug)]
pub struct Announcer {
    identity: Identity,
    ca: PathBuf,
}

impl Announcer {
    /// A modality with this certificate.
    pub fn new(hospital: &Hospital, identity: &Identity) -> Self {
        Announcer { identity: identity.clone(), ca: hospital.ca() }
    }

    /// Sends messages over one association, one after another; yields the responses.
    #[track_caller]
    pub fn tell(&self, to: SocketAddr, messages: &[Value]) -> Vec<Value> {
        let mut child = python("announcer.py")
            .arg(to.to_string())
            .args([&self.identity.certificate, &self.identity.key, &self.ca])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let text = json!(messages).to_string();
        child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "the modality failed; its error is above");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The same; panics unless each was answered with success.
    #[track_caller]
    pub fn deliver(&self, to: SocketAddr, messages: &[Value]) {
        let answers = self.tell(to, messages);
        assert!(answers.iter().all(|answer| answer["status"] == 0), "{answers:?}");
    }
}

/// Attributes of a step that begins.
pub fn begun(study: &str) -> Value {
    json!({
        "PerformedProcedureStepID": "P1", "PerformedStationAETitle": "CT1", "Modality": "CT",
        "PerformedProcedureStepStartDate": "20260101", "PerformedProcedureStepStartTime": "120000",
        "PerformedProcedureStepStatus": "IN PROGRESS",
        "ScheduledStepAttributesSequence": [{ "StudyInstanceUID": study }],
    })
}

/// N-CREATE of a step on the study of these files; its UID is made of the study's.
#[track_caller]
pub fn step_begins(files: &[PathBuf]) -> Value {
    json!(["create-step", step_uid(&files[0]), begun(&study_uid(&files[0]))])
}

/// N-SET: the step has ended, and lists these files, all of one series.
#[track_caller]
pub fn step_ends(files: &[PathBuf]) -> Value {
    let images: Vec<Value> = files.iter().map(|file| reference(file)).collect();
    let series = json!({
        "SeriesInstanceUID": text_of(&files[0], tags::SERIES_INSTANCE_UID),
        "ReferencedImageSequence": images,
    });
    let attributes =
        json!({ "PerformedProcedureStepStatus": "COMPLETED", "PerformedSeriesSequence": [series] });
    json!(["set-step", step_uid(&files[0]), attributes])
}

/// An Instance Availability Notification that lists these files, all of one series, as on line.
#[track_caller]
pub fn announces(files: &[PathBuf]) -> Value {
    let images: Vec<Value> = files
        .iter()
        .map(|file| {
            let mut image = reference(file);
            image["InstanceAvailability"] = "ONLINE".into();
            image["RetrieveAETitle"] = "PACS".into();
            image
        })
        .collect();
    let series = json!({
        "SeriesInstanceUID": text_of(&files[0], tags::SERIES_INSTANCE_UID),
        "ReferencedSOPSequence": images,
    });
    let attributes = json!({
        "ReferencedPerformedProcedureStepSequence": [],
        "StudyInstanceUID": study_uid(&files[0]),
        "ReferencedSeriesSequence": [series],
    });
    json!(["announce", short(&format!("{}.8", study_uid(&files[0]))), attributes])
}

fn reference(file: &Path) -> Value {
    json!({
        "ReferencedSOPClassUID": text_of(file, tags::SOP_CLASS_UID),
        "ReferencedSOPInstanceUID": sop_uid(file),
    })
}

fn study_uid(file: &Path) -> String {
    text_of(file, tags::STUDY_INSTANCE_UID)
}

fn step_uid(file: &Path) -> String {
    short(&format!("{}.9", study_uid(file)))
}

/// The last 60 characters, without a dot or zero before them: a UID has at most 64.
fn short(uid: &str) -> String {
    let tail = &uid[uid.len().saturating_sub(60)..];
    format!("1.{}", tail.trim_start_matches(['.', '0']))
}
