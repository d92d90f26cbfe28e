//! PACS are asked for studies, and have them sent: by C-MOVE to the running daemon, by C-GET into a folder.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dicom_dictionary_std::tags;
use lightbox_tests::command::{Said, run_lightbox};
use lightbox_tests::peers::orthanc::{AE_TITLE as ORTHANC, Orthanc};
use lightbox_tests::peers::port;
use lightbox_tests::peers::qr::{Dcmqrscp, OddPacs};
use lightbox_tests::peers::storescp;
use lightbox_tests::samples::{copy_as, sample, sop_uid, study_of_copies, text_of};
use lightbox_tests::{Daemon, Hospital, Identity, Site};
use serde_json::Value;

fn pacs(site: Site, name: &str, ae_title: &str, port: u16, identity: Option<&Identity>) -> Site {
    let how = match identity {
        Some(identity) => format!("certificate = {{ sha256 = {:?} }}", identity.sha256),
        None => "plaintext = true".to_owned(),
    };
    site.text(&format!(
        "[[peer]]\nname = {name:?}\nae_title = {ae_title:?}\naddress = \"127.0.0.1:{port}\"\n{how}\nmay = [\"query\", \"retrieve\"]"
    ))
}

fn query(site: &Site, peer: &str, words: &[&str]) -> Said {
    let path = site.path.to_str().expect("a plain path");
    let start = ["query", "--site", path, "--peer", peer];
    run_lightbox(&[&start[..], words].concat())
}

fn instances(daemon: &Daemon, count: i64) {
    daemon.wait_for("all instances to have come", 20, |ledger| {
        (ledger.number("SELECT count(*) FROM instances") == count).then_some(())
    });
}

#[test]
fn dcmqrscp_is_queried_moved_from_and_got_from() {
    let hospital = Hospital::new();
    let ours = port::reserve();
    let files = study_of_copies(&hospital, &sample("CT_small.dcm"), "study", 3);
    let qr = Dcmqrscp::start(&hospital, ours, &files);
    let site = Site::new(&hospital)
        .dicom_line(&format!("plaintext_listen = \"127.0.0.1:{ours}\"\nallow_plaintext = true"));
    let site = pacs(site, "archive", Dcmqrscp::AE_TITLE, qr.port, None);
    let daemon = Daemon::start(&site);
    let study = text_of(&files[0], tags::STUDY_INSTANCE_UID);

    let key = format!("StudyInstanceUID={study}");
    let said = query(&site, "archive", &["find", "--json", &key, "PatientName"]).ok("find");
    let found: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(found["complete"], true, "{found}");
    assert_eq!(found["matches"].as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(found["matches"][0]["PatientName"], text_of(&files[0], tags::PATIENT_NAME));
    let said = query(
        &site,
        "archive",
        &[
            "find",
            "--limit",
            "2",
            "--level",
            "image",
            "--json",
            &key,
            &format!("SeriesInstanceUID={}", text_of(&files[0], tags::SERIES_INSTANCE_UID)),
        ],
    );
    let found: Value = serde_json::from_str(&said.ok("find at IMAGE level").out).expect("JSON");
    assert_eq!(found["complete"], false, "three instances, a limit of two: {found}");
    assert_eq!(found["matches"].as_array().map(Vec::len), Some(2), "{found}");

    let to = hospital.folder().join("got");
    let said =
        query(&site, "archive", &["get", "--study", &study, "--to", to.to_str().expect("plain")]).ok("get");
    assert!(said.out.contains("3 completed, 0 failed"), "{}", said.all());
    let uids = |files: &[std::path::PathBuf]| {
        let mut uids: Vec<String> = files.iter().map(|file| sop_uid(file)).collect();
        uids.sort();
        uids
    };
    assert_eq!(uids(&storescp::files(&to)), uids(&files));

    let said = query(&site, "archive", &["move", "--study", &study]).ok("move");
    assert!(said.out.contains("3 completed, 0 failed"), "{}", said.all());
    instances(&daemon, 3);
    assert_eq!(daemon.ledger().audit("peer-queried").len(), 4);
    assert!(!daemon.log().contains(&study), "the study's UID is in the log");
}

#[test]
fn orthanc_moves_to_us_over_tls() {
    let hospital = Hospital::new();
    let ours = port::reserve();
    let orthanc = Orthanc::start_knowing(&hospital, SocketAddr::from(([127, 0, 0, 1], ours)));
    let site = Site::new(&hospital).dicom_listen(ours);
    let site = pacs(site, "pacs", ORTHANC, orthanc.port, Some(&orthanc.identity));
    let daemon = Daemon::start(&site);
    let file = copy_as(&sample("CT_small.dcm"), &hospital.folder().join("image.dcm"), true);
    orthanc.upload(&file);
    let (study, series) =
        (text_of(&file, tags::STUDY_INSTANCE_UID), text_of(&file, tags::SERIES_INSTANCE_UID));
    let said = query(
        &site,
        "pacs",
        &["find", "--json", &format!("StudyInstanceUID={study}"), "NumberOfStudyRelatedInstances"],
    );
    let found: Value = serde_json::from_str(&said.ok("find").out).expect("JSON");
    assert_eq!(found["matches"][0]["NumberOfStudyRelatedInstances"], "1", "{found}");
    let words = ["move", "--study", &study, "--series", &series, "--instance", &sop_uid(&file)];
    let said = query(&site, "pacs", &words).ok("move");
    assert!(said.out.contains("1 completed, 0 failed"), "{}", said.all());
    instances(&daemon, 1);
    let to = hospital.folder().join("got");
    query(&site, "pacs", &["get", "--study", &study, "--to", to.to_str().expect("plain")]).ok("get");
    assert_eq!(storescp::files(&to).len(), 1);
}

#[test]
fn odd_pacs_end_in_a_clear_error_and_never_hang() {
    let hospital = Hospital::new();
    let hows = ["endless", "silent", "garbage", "abort", "refuse", "move"];
    let odd = hows.map(|how| (how, OddPacs::start(&hospital, how)));
    let mut site = Site::new(&hospital).text("[query]\ndeadline_seconds = 2\nretrieve_deadline_seconds = 5");
    for (how, peer) in &odd {
        site = pacs(site, how, "ODD", peer.port, Some(&peer.identity));
    }
    site = site.sender("ct-1", "CT1", &hospital.issue("ct1"));
    let daemon = Daemon::start(&site);
    let started = Instant::now();
    let said = query(&site, "endless", &["find", "--limit", "5", "--json"]).ok("cut at the limit");
    let found: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(
        (found["matches"].as_array().map(Vec::len), &found["complete"]),
        (Some(5), &Value::Bool(false))
    );
    for (how, wanted) in [
        ("silent", "did not finish within 2 s"),
        ("garbage", "cannot be read"),
        ("abort", "aborted the association"),
        ("refuse", "0xa700 (out of resources); the peer says: Archive is being backed up"),
    ] {
        let said = query(&site, how, &["find"]);
        assert_ne!(said.code, Some(0), "{how}: {}", said.all());
        assert!(said.err.contains(wanted), "{how}: {}", said.all());
    }
    let said = query(&site, "move", &["move", "--study", "1.2.3"]);
    assert!(said.err.contains("0xa801") && said.err.contains("move destination"), "{}", said.all());
    let said = query(&site, "ct-1", &["find"]);
    assert!(said.err.contains("add \"query\" to `may`"), "{}", said.all());
    let said = query(&site, "nobody", &["find"]);
    assert!(said.err.contains("there is no peer \"nobody\""), "{}", said.all());
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert_eq!(daemon.ledger().audit("peer-queried").len(), 6);
}
