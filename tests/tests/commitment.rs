//! Storage commitment, both ways: what we acknowledged we commit to, on the asker's own association or on
//! one that we open; and a PACS is asked to commit to what it was given.

use std::net::SocketAddr;

use lightbox_tests::command::{python, run};
use lightbox_tests::peers::orthanc::{AE_TITLE as ORTHANC, Orthanc};
use lightbox_tests::peers::port;
use lightbox_tests::samples::{copy_as, sample, sop_uid, text_of};
use lightbox_tests::{Daemon, Hospital, Line, Site};
use serde_json::{Value, json};

const NOBODYS: &str = "1.2.826.0.1.3680043.8.498.1";

/// The modality asks for commitment; yields what it was told.
#[track_caller]
fn ask(line: &Line, how: &str, listen: u16, references: &[(&str, &str)]) -> Value {
    let identity = line.modality.identity();
    let mut command = python("commitment_scu.py");
    command.arg(line.daemon.dicom.to_string());
    command
        .args([&identity.certificate, &identity.key, &line.hospital.ca()])
        .arg(how)
        .arg(listen.to_string());
    for (class, instance) in references {
        command.args([class, instance]);
    }
    let said = run(&mut command).ok("asking for commitment");
    serde_json::from_str(&said.out).expect("JSON")
}

fn stored(line: &Line) -> (String, String) {
    let file = copy_as(&sample("CT_small.dcm"), &line.hospital.folder().join("image.dcm"), true);
    line.modality.deliver(line.daemon.dicom, &[], std::slice::from_ref(&file));
    (text_of(&file, dicom_dictionary_std::tags::SOP_CLASS_UID), sop_uid(&file))
}

#[test]
fn reports_go_over_the_askers_association_while_it_is_open_else_over_one_of_ours() {
    let listen = port::reserve();
    // The modality is known with an address, to which reports can go.
    let line = Line::start_with(|_, site| site.with_address("CT1", listen));
    let (class, instance) = stored(&line);
    let told = ask(&line, "stay", listen, &[(&class, &instance)]);
    assert_eq!(told["status"], 0, "{told}");
    assert_eq!(told["reports"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told["reports"][0]["type"], 1, "{told}");
    assert_eq!(told["reports"][0]["committed"], json!([instance]), "{told}");
    assert_eq!(told["same_transaction"], true);

    let secondary_capture = "1.2.840.10008.5.1.4.1.1.7";
    let references = [(class.as_str(), instance.as_str()), (&class, NOBODYS), (secondary_capture, &instance)];
    let told = ask(&line, "leave", listen, &references);
    assert_eq!(told["reports"].as_array().map(Vec::len), Some(1), "{told}");
    let report = &told["reports"][0];
    assert_eq!(report["type"], 2, "{told}");
    assert_eq!(report["committed"], json!([instance]), "{told}");
    assert_eq!(report["failed"], json!([[NOBODYS, 0x0112], [instance, 0x0119]]), "{told}");
    line.daemon.wait_for("both reports to be written down", 10, |ledger| {
        (ledger.number("SELECT count(*) FROM commitments WHERE state = 'reported'") == 2).then_some(())
    });
    assert_eq!(line.daemon.ledger().audit("commitment-reported").len(), 2);
    assert!(!line.daemon.log().contains(&instance), "an instance's UID is in the log");
}

#[test]
fn a_report_waits_for_an_asker_that_is_away_and_survives_a_kill() {
    let listen = port::reserve();
    let mut line = Line::start_with(|_, site| site.with_address("CT1", listen));
    let (class, instance) = stored(&line);
    // It asks, leaves, and does not listen: another port is in the site file than it opens.
    let elsewhere = port::reserve();
    let identity = line.modality.identity().clone();
    let mut command = python("commitment_scu.py");
    command.arg(line.daemon.dicom.to_string());
    command.args([&identity.certificate, &identity.key, &line.hospital.ca()]);
    command.args(["leave", &elsewhere.to_string(), &class, &instance]);
    let child = command.stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    line.daemon.wait_for("a try that fails", 20, |ledger| {
        (ledger.number("SELECT count(*) FROM commitments WHERE attempts > 0 AND reason != ''") == 1)
            .then_some(())
    });
    let told = child.wait_with_output().expect("it ends");
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!((&told["status"], &told["reports"]), (&json!(0), &json!([])));
    line.daemon.kill();
    let daemon = Daemon::start(&line.site);
    line.daemon = daemon;
    // Now it is there again (it asks about something else), and both reports come.
    let told = ask(&line, "leave", listen, &[(&class, NOBODYS)]);
    assert!(!told["reports"].as_array().expect("a list").is_empty(), "{told}");
    let asked = line.daemon.ledger().number("SELECT count(*) FROM commitments");
    assert_eq!(asked, 2);
}

#[test]
fn orthanc_asks_us_and_we_ask_orthanc() {
    let hospital = Hospital::new();
    let ours = port::reserve();
    let orthanc = Orthanc::start_knowing(&hospital, SocketAddr::from(([127, 0, 0, 1], ours)));
    let modality = lightbox_tests::peers::storescu::Storescu::new(&hospital, "CT1");
    let site = Site::new(&hospital)
        .dicom_listen(ours)
        .sender("ct-1", "CT1", modality.identity())
        .text(&format!(
            "[[peer]]\nname = \"pacs\"\nae_title = {ORTHANC:?}\naddress = \"127.0.0.1:{}\"\ncertificate = {{ sha256 = {:?} }}\nmay = [\"send\", \"receive\"]\n\n[[destination]]\nname = \"pacs\"\ndicom = {{ peer = \"pacs\", commit = true }}",
            orthanc.port, orthanc.identity.sha256
        ))
        .phantom_detector()
        .model("any-image", &lightbox_tests::site::bundle_for_any_image(&hospital));
    let daemon = Daemon::start(&Line::rules_to(site, &["pacs"]));
    let file = copy_as(&sample("CT_small.dcm"), &hospital.folder().join("image.dcm"), true);
    modality.deliver(daemon.dicom, &[], std::slice::from_ref(&file));
    // We are SCU: Orthanc reports over an association that it opens to us.
    daemon.wait_for("Orthanc to commit to the SR", 40, |ledger| {
        (ledger.number("SELECT count(*) FROM deliveries WHERE committed_at IS NOT NULL") == 1).then_some(())
    });
    assert_eq!(daemon.ledger().audit("result-committed").len(), 1);

    // We are SCP: Orthanc asks about an image that we have and one that we have not.
    let class = text_of(&file, dicom_dictionary_std::tags::SOP_CLASS_UID);
    let asked = orthanc.post(
        "modalities/lightbox/storage-commitment",
        &json!({ "DicomInstances": [[class, sop_uid(&file)], [class, NOBODYS]], "Timeout": 20 }),
    );
    let path = asked["Path"].as_str().expect("a path").trim_start_matches('/').to_owned();
    let report = daemon.wait_for("Orthanc to have our report", 30, |_| {
        let report = orthanc.get(&path);
        (report["Status"] != "Pending").then_some(report)
    });
    assert_eq!(report["Status"], "Failure", "{report}");
    assert_eq!(report["Success"][0]["SOPInstanceUID"], sop_uid(&file), "{report}");
    assert_eq!(report["Failures"][0]["SOPInstanceUID"], NOBODYS, "{report}");
    assert_eq!(report["Failures"][0]["FailureReason"], 0x0112, "{report}");
}
