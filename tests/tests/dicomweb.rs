//! DICOMweb: instances to us by STOW-RS, with the policy and the durability of C-STORE; and QIDO-RS,
//! WADO-RS and STOW-RS at a PACS.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use dicom_dictionary_std::tags;
use lightbox_tests::command::run_lightbox;
use lightbox_tests::peers::orthanc::Orthanc;
use lightbox_tests::peers::storescp;
use lightbox_tests::peers::stow::{Stow, body, content_type};
use lightbox_tests::samples::{
    copy_as, data_set_digest, held, phantom, sample, sop_uid, study_of_copies, text_of,
};
use lightbox_tests::{Daemon, Hospital, Site};
use serde_json::Value;

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

/// A daemon that takes instances by DICOMweb, and one peer, `ct-1`.
struct Scene {
    site: Site,
    daemon: Daemon,
    ct: Stow,
    /// Its folder goes last.
    hospital: Hospital,
}

/// `peer` are further keys of the peer, `web` of `[dicomweb]`.
fn scene(peer: &str, web: &str, change: impl FnOnce(Site) -> Site) -> Scene {
    let hospital = Hospital::new();
    let identity = hospital.issue("ct1");
    let site = Site::new(&hospital).sender_with("ct-1", "CT1", &identity, peer);
    let site = change(site.text(&format!("[dicomweb]\nlisten = \"127.0.0.1:0\"\n{web}")));
    let daemon = Daemon::start(&site);
    let ct = Stow::new(&hospital, daemon.dicomweb.expect("it listens"), &identity);
    Scene { site, daemon, ct, hospital }
}

impl Scene {
    fn instances(&self) -> i64 {
        self.daemon.ledger().number("SELECT count(*) FROM instances")
    }

    #[track_caller]
    fn has(&self, count: i64) {
        self.daemon.wait_for("the instances to be in the index", 20, |ledger| {
            (ledger.number("SELECT count(*) FROM instances") == count).then_some(())
        });
    }

    /// The last refusal as `lightbox peers` shows it.
    fn refusal(&self) -> Value {
        let site = self.site.path.display().to_string();
        let said = run_lightbox(&["peers", "--site", &site, "--json"]).ok("lightbox peers");
        let peers: Value = serde_json::from_str(&said.out).expect("JSON");
        peers["peers"][0]["refusals"][0].clone()
    }

    #[track_caller]
    fn refused(&self, code: &str, reason: &str, remedy: &str) {
        let last = self.refusal();
        assert_eq!(last["code"], code, "{last:#}");
        for (key, told) in [("reason", reason), ("remedy", remedy)] {
            assert!(last[key].as_str().unwrap_or_default().contains(told), "{key} {told}: {last:#}");
        }
    }

    fn copy(&self, name: &str) -> PathBuf {
        copy_as(&sample("CT_small.dcm"), &self.hospital.folder().join(name), true)
    }
}

fn parts(files: &[PathBuf]) -> Vec<u8> {
    body("b", &files.iter().map(PathBuf::as_path).collect::<Vec<_>>(), "")
}

fn same(site: Site) -> Site {
    site
}

#[test]
fn what_was_answered_with_200_is_there_after_a_kill() {
    let mut scene = scene("", "", same);
    let files = study_of_copies(&scene.hospital, &sample("CT_small.dcm"), "study", 4);
    let study = text_of(&files[0], tags::STUDY_INSTANCE_UID);
    let mut uids: Vec<String> = files.iter().map(|file| sop_uid(file)).collect();
    uids.sort();
    let told = scene.ct.store(&files[..3], None);
    assert_eq!((told.status(), told.stored().len()), (Some(200), 3), "{told:?}");
    scene.has(3);
    // The same again is no other instance; one more comes to the study by its own address.
    let told = scene.ct.store(&files, Some(&study));
    assert_eq!((told.status(), told.stored()), (Some(200), uids.clone()), "{told:?}");
    scene.daemon.kill();
    let (_folder, kept) = held(&scene.site);
    let mut found: Vec<String> = kept.iter().map(|file| sop_uid(file)).collect();
    found.sort();
    assert_eq!(found, uids);
    // Byte for byte, by a client that does not write the file anew.
    let scene = crate::scene("", "", same);
    let file = scene.copy("whole.dcm");
    let answer = scene.ct.post("/dicom-web/studies", &content_type("b"), &body("b", &[&file], ""), &[]);
    assert_eq!((answer.status, answer.stored()), (200, vec![sop_uid(&file)]), "{answer:?}");
    assert!(answer.head.to_ascii_lowercase().contains("content-type: application/dicom+json"), "{answer:?}");
    scene.has(1);
    let (_folder, kept) = held(&scene.site);
    assert_eq!(data_set_digest(&kept[0]), data_set_digest(&file));
    let ledger = scene.daemon.ledger();
    assert_eq!(ledger.texts("SELECT peer || calling_ae FROM instances"), ["ct-1CT1"]);
    let accepted = ledger.audit("association-accepted");
    assert_eq!((accepted.len(), accepted[0].subject.as_str()), (1, "ct-1"), "{accepted:?}");
    for value in [text_of(&file, tags::STUDY_INSTANCE_UID), sop_uid(&file), text_of(&file, tags::PATIENT_ID)]
    {
        assert!(!scene.daemon.log().contains(&value), "an identifier is in the log");
    }
}

#[test]
fn who_may_not_send_is_refused_and_shown() {
    // Certificates of another hospital, pinned or not.
    let elsewhere = Hospital::new();
    let [mr, stranger, receiver] = ["mr1", "stranger", "receiver"].map(|name| elsewhere.issue(name));
    let scene = scene("sop_classes = [\"mr\"]", "", |site| {
        site.sender_with("mr-1", "MR1", &mr, "networks = [\"10.1.0.0/16\"]").text(&format!(
            "[[peer]]\nname = \"pacs\"\nae_title = \"PACS\"\naddress = \"127.0.0.1:4\"\ncertificate = {{ sha256 = {:?} }}\nmay = [\"receive\"]",
            receiver.sha256
        ))
    });
    let at = scene.daemon.dicomweb.expect("it listens");
    let client = |identity: &lightbox_tests::Identity| Stow::new(&scene.hospital, at, identity);
    let file = scene.copy("image.dcm");
    let sent =
        |client: &Stow| client.post("/dicom-web/studies", &content_type("b"), &body("b", &[&file], ""), &[]);
    let answer = sent(&scene.ct);
    assert_eq!((answer.status, answer.failed()), (409, vec![(sop_uid(&file), 0x0122)]), "{answer:?}");
    scene.refused("HTTP 409", "not among the `sop_classes`", "add the SOP classes to `sop_classes`");

    let answer = sent(&client(&stranger));
    assert_eq!(answer.status, 0, "no TLS connection: {answer:?}");
    scene.daemon.wait_for("the refusal to be recorded", 20, |ledger| {
        let said = ledger.texts("SELECT reason FROM refusals WHERE code = 'TLS'");
        said.iter().any(|reason| reason.contains("is not named in the site file")).then_some(())
    });

    let answer = sent(&client(&mr));
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("may not call from 127.0.0.1"), "{answer:?}");
    let answer = sent(&client(&receiver));
    assert_eq!(answer.status, 403, "{answer:?}");
    let codes = scene.daemon.ledger().texts("SELECT peer || ' ' || code FROM refusals ORDER BY id");
    assert_eq!(codes[2..], ["mr-1 HTTP 403", "pacs HTTP 403"], "{codes:?}");
    assert_eq!(scene.instances(), 0);
}

#[test]
fn requests_that_are_none_hear_why() {
    let scene = scene("", "max_request_mib = 2\nmax_instance_mib = 1\nmax_instances = 3", same);
    let file = scene.copy("image.dcm");
    let (good, whole) = (content_type("b"), body("b", &[&file], ""));
    let studies = "/dicom-web/studies";
    let status = |answer: lightbox_tests::peers::stow::Answer| (answer.status, answer.body);
    for (path, expected) in
        [("/dicom-web/studies/1.2/series", 404), ("/studies", 404), ("/dicom-web/studies/patient", 400)]
    {
        assert_eq!(scene.ct.post(path, &good, &whole, &[]).status, expected, "{path}");
    }
    let answer = scene.ct.ask(studies, &[]);
    assert_eq!(answer.status, 405);
    assert!(answer.head.to_ascii_lowercase().contains("allow: post"), "{answer:?}");
    let (code, said) =
        status(scene.ct.post(studies, &good, &whole, &["-H", "Accept: application/dicom+xml"]));
    assert!(code == 406 && said.contains("application/dicom+json"), "{code} {said}");
    for kind in [
        "application/dicom",
        "multipart/form-data; boundary=b",
        "multipart/related; type=\"application/dicom+json\"; boundary=b",
    ] {
        let (code, said) = status(scene.ct.post(studies, kind, &whole, &[]));
        assert!(code == 415 && said.contains("multipart/related"), "{kind}: {code} {said}");
    }
    let (code, said) =
        status(scene.ct.post(studies, "multipart/related; type=\"application/dicom\"", &whole, &[]));
    assert!(code == 400 && said.contains("boundary"), "{code} {said}");
    assert_eq!(scene.ct.post(studies, &good, b"garbage, not multipart", &[]).status, 400);
    assert_eq!(scene.ct.post(studies, &good, b"--b--", &[]).status, 400, "no instance");
    let long = format!("X-Long: {}\r\n", "x".repeat(9000));
    assert_eq!(scene.ct.post(studies, &good, &body("b", &[&file], &long), &[]).status, 400);
    let large = vec![0; 3 << 20];
    assert_eq!(scene.ct.post(studies, &good, &large, &[]).status, 413);
    assert_eq!(scene.ct.post(studies, &good, &large, &["-H", "Transfer-Encoding: chunked"]).status, 400);
    assert_eq!(scene.instances(), 0);

    let other = scene.ct.post("/dicom-web/studies/1.2.3", &good, &whole, &[]);
    assert_eq!((other.status, other.failed()), (409, vec![(sop_uid(&file), 0xA901)]), "{other:?}");
    let mut odd =
        b"--b\r\n\r\nnot a Part 10 file\r\n--b\r\nContent-Type: text/plain\r\n\r\nwords\r\n".to_vec();
    odd.extend(&whole);
    let answer = scene.ct.post(studies, &good, &odd, &[]);
    assert_eq!((answer.status, answer.stored()), (202, vec![sop_uid(&file)]), "{answer:?}");
    assert_eq!(answer.failed(), [(String::new(), 0xC000), (String::new(), 0xC000)]);
    // Cut off in the second part; the first has come whole.
    let (first, second) = (scene.copy("first.dcm"), scene.copy("second.dcm"));
    let mut cut = body("b", &[&first, &second], "");
    cut.truncate(cut.len() - 1000);
    let answer = scene.ct.post(studies, &good, &cut, &[]);
    assert_eq!((answer.status, answer.stored()), (202, vec![sop_uid(&first)]), "{answer:?}");
    let answer = scene.ct.post(studies, &good, &body("b", &[&first, &first, &first, &second], ""), &[]);
    assert_eq!((answer.status, answer.stored().len()), (202, 3), "one more than max_instances: {answer:?}");
    // Longer than max_instance_mib: padding behind the data set.
    let big = scene.hospital.folder().join("big.dcm");
    fs::write(&big, [fs::read(&second).expect("a file"), vec![0; 1 << 20]].concat()).expect("written");
    let answer = scene.ct.post(studies, &good, &body("b", &[&big], ""), &[]);
    assert_eq!((answer.status, answer.failed()), (409, vec![(sop_uid(&second), 0xC000)]), "{answer:?}");
    scene.has(2);
    let log = scene.daemon.log();
    assert!(!log.contains(&sop_uid(&file)) && !log.contains(CT), "identifiers in the log");
}

#[test]
fn slow_senders_end_and_busy_boxes_say_when_to_come_again() {
    let scene = scene("max_associations = 1", "", |site| site.dicom_line("idle_timeout_seconds = 3"));
    let file = scene.copy("image.dcm");
    let (good, whole) = (content_type("b"), body("b", &[file.as_path(); 8], ""));
    let studies = "/dicom-web/studies";
    let (slow, busy) = std::thread::scope(|threads| {
        let slow = threads.spawn(|| scene.ct.post(studies, &good, &whole, &["--limit-rate", "2k"]));
        scene.daemon.wait_for("the slow one to have its place", 20, |ledger| {
            (!ledger.audit("association-accepted").is_empty()).then_some(())
        });
        let busy = scene.ct.post(studies, &good, &body("b", &[&file], ""), &[]);
        (slow.join().expect("no panic"), busy)
    });
    assert_eq!(busy.status, 503, "{busy:?}");
    assert!(busy.head.to_ascii_lowercase().contains("retry-after: "), "{busy:?}");
    scene.refused("HTTP 503", "has 1 associations open already", "max_associations");
    // The instances that have come whole by then are stored.
    assert!(matches!(slow.status, 202 | 408), "{slow:?}");
    // Its place is free again, and it is told where it failed.
    let answer = scene.ct.post(studies, &good, &body("b", &[&file], ""), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    scene.has(1);
    // A sender that goes in the middle leaves nothing half.
    let cut = scene.ct.post(
        studies,
        &good,
        &whole[..whole.len() / 8 - 500],
        &["-H", "Content-Length: 900000", "--max-time", "1"],
    );
    assert_eq!(cut.status, 0, "{cut:?}");

    let scene = crate::scene("", "", |mut site| {
        site.congestion_mib = 1_073_741_824;
        site
    });
    let file = scene.copy("image.dcm");
    let told = scene.ct.store(&[file], None);
    assert_eq!(told.status(), Some(503), "{told:?}");
    assert!(told.error().contains("store.congestion_mib"), "{told:?}");
    scene.refused("HTTP 503", "store.congestion_mib", "make room");
    assert_eq!(scene.instances(), 0);
}

#[test]
fn orthanc_gets_results_by_stow_and_is_counted_queried_and_got_from() {
    let hospital = Hospital::new();
    let orthanc = Orthanc::start_with_dicomweb(&hospital);
    let identity = hospital.issue("ct1");
    let mut site = Site::new(&hospital)
        .dicom_line("allow_plaintext = true")
        .timers_line("count_at = \"pacs\"")
        .sender("ct-1", "CT1", &identity)
        .text("[dicomweb]\nlisten = \"127.0.0.1:0\"")
        .text(&format!(
            "[[peer]]\nname = \"pacs\"\nae_title = \"ORTHANC\"\nplaintext = true\nmay = [\"receive\", \"query\", \"retrieve\"]\ndicomweb = {{ url = {:?} }}\n\n[[destination]]\nname = \"pacs\"\ndicomweb = {{ peer = \"pacs\" }}",
            orthanc.dicomweb()
        ))
        .phantom_detector()
        .rule("phantom", "modality = \"CT\"", &["phantom"], &["pacs"])
        .text("[[rule]]\nname = \"route\"\nmatch = { modality = \"MR\" }\nforward = [\"pacs\"]\nquiet_seconds = 1");
    // The count at the PACS closes the study, not silence.
    site.quiet_seconds = 600;
    let daemon = Daemon::start(&site);
    let ct = Stow::new(&hospital, daemon.dicomweb.expect("it listens"), &identity);
    let images = phantom(&hospital, "ct", 7).files;
    images.iter().for_each(|file| orthanc.upload(file));
    let told = ct.store(&images, None);
    assert_eq!((told.status(), told.stored().len()), (Some(200), images.len()), "{told:?}");
    daemon.wait_for("the result to be delivered", 60, |ledger| {
        ledger.deliveries_in("pacs", "delivered").into_iter().next()
    });
    assert_eq!(orthanc.count(), images.len() + 1);
    let verdict = daemon.ledger().texts("SELECT verdict FROM revisions");
    assert!(verdict[0].contains("pacs"), "{verdict:?}");

    let path = site.path.to_str().expect("plain").to_owned();
    let query = |words: &[&str]| {
        run_lightbox(&[&["query", "--site", &path, "--peer", "pacs"][..], words].concat())
            .ok("lightbox query")
    };
    let study = text_of(&images[0], tags::STUDY_INSTANCE_UID);
    let said =
        query(&["find", "--json", &format!("StudyInstanceUID={study}"), "NumberOfStudyRelatedInstances"]);
    let found: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(found["complete"], true, "{found}");
    let count = (images.len() + 1).to_string();
    assert_eq!(found["matches"][0]["NumberOfStudyRelatedInstances"], count.as_str(), "{found}");
    assert_eq!(found["matches"][0]["PatientName"], text_of(&images[0], tags::PATIENT_NAME), "{found}");
    let said =
        query(&["find", "--json", "--level", "series", &format!("StudyInstanceUID={study}"), "Modality"]);
    let found: Value = serde_json::from_str(&said.out).expect("JSON");
    let modalities: Vec<&str> = found["matches"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["Modality"].as_str())
        .collect();
    assert!(modalities.contains(&"CT") && modalities.contains(&"SR"), "{found}");
    let to = hospital.folder().join("got");
    let said = query(&["get", "--study", &study, "--to", to.to_str().expect("plain")]);
    assert!(said.out.contains(&format!("{count} completed, 0 failed")), "{}", said.all());
    let got = storescp::files(&to);
    assert_eq!(got.len(), images.len() + 1);
    assert!(got.iter().any(|file| data_set_digest(file) == data_set_digest(&images[0])));
    assert!(!daemon.log().contains(&study), "the study's UID is in the log");

    // Images that a rule sends on come as they were, late ones alone.
    let mr = study_of_copies(&hospital, &sample("MR_small.dcm"), "mr", 3);
    for (sent, wanted) in [(&mr[..2], vec!["delivered2"]), (&mr[2..], vec!["delivered2", "delivered1"])] {
        assert_eq!(ct.post("/dicom-web/studies", &content_type("b"), &parts(sent), &[]).status, 200);
        daemon.wait_for("the images to be forwarded", 60, |ledger| {
            (ledger.texts("SELECT state || sent FROM forwards ORDER BY id") == wanted).then_some(())
        });
    }
    let digests = |files: &[PathBuf]| files.iter().map(|file| data_set_digest(file)).collect::<BTreeSet<_>>();
    assert!(digests(&orthanc.download_all()).is_superset(&digests(&mr)));

    // Orthanc goes: what waits says why.
    drop(orthanc);
    std::thread::sleep(Duration::from_millis(100));
    let said = run_lightbox(&["query", "--site", &path, "--peer", "pacs", "find"]);
    assert!(said.err.contains("cannot connect"), "{}", said.all());
}
