//! Images that come late, twice, or with other contents.

use lightbox_tests::samples::{copy_as, sample, sop_uid, study_of_copies};
use lightbox_tests::{Line, judges};

fn line() -> Line {
    Line::start_with(|_, site| Line::usual_rules(site))
}

#[test]
fn a_late_image_makes_revision_2_which_names_its_predecessor() {
    let line = line();
    let files = study_of_copies(&line.hospital, &sample("CT_small.dcm"), "late", 2);
    line.send_and_wait(&files[..1]);
    let first = line.daemon.ledger().results();
    assert_eq!(first.len(), 1);
    line.send_and_wait(&files[1..]);

    let results = line.daemon.ledger().results();
    let revisions: Vec<i64> = results.iter().map(|result| result.revision).collect();
    assert_eq!(revisions, [1, 2]);
    assert_eq!(results[0], first[0], "the first revision's result has changed");
    assert_ne!(results[0].sr_uid, results[1].sr_uid);
    let reports = line.pacs.files();
    assert_eq!(reports.len(), 2);
    let second = reports.iter().find(|file| sop_uid(file) == results[1].sr_uid).expect("revision 2 arrived");
    judges::accept_sr(second);
    let read = judges::groups(second);
    assert_eq!(read["predecessors"], serde_json::json!([results[0].sr_uid]), "{read}");
    assert_eq!(line.ris.received().len(), 2);
}

#[test]
fn an_identical_resend_changes_nothing() {
    let line = line();
    let files = study_of_copies(&line.hospital, &sample("CT_small.dcm"), "twice", 2);
    line.send_and_wait(&files);
    let (results, deliveries) = (line.daemon.ledger().results(), line.daemon.ledger().deliveries());
    line.modality.deliver(line.daemon.dicom, &[], &files);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let ledger = line.daemon.ledger();
    assert!(ledger.is_quiet(), "{}", ledger.summary());
    assert_eq!(ledger.results(), results);
    assert_eq!(ledger.deliveries(), deliveries);
    assert_eq!(ledger.number("SELECT count(*) FROM instances"), 2);
    assert_eq!(line.pacs.files().len(), 1);
}

#[test]
fn the_same_instance_with_other_contents_is_kept_beside_and_flagged() {
    let line = line();
    let first = copy_as(&sample("CT_small.dcm"), &line.hospital.folder().join("first.dcm"), true);
    let other = line.hospital.folder().join("other.dcm");
    std::fs::copy(&first, &other).expect("copied");
    lightbox_tests::command::run(
        std::process::Command::new(lightbox_tests::command::program("dcmodify"))
            .args(["-nb", "-i", "SeriesDescription=CHANGED"])
            .arg(&other),
    )
    .ok("changing a copy");
    assert_eq!(sop_uid(&first), sop_uid(&other));
    line.send_and_wait(&[first]);
    line.send_and_wait(&[other]);
    line.daemon.wait_for("the second copy in the index", 30, |ledger| {
        (ledger.number("SELECT count(*) FROM instances") == 2).then_some(())
    });
    let ledger = line.daemon.ledger();
    assert_eq!(ledger.texts("SELECT state FROM instances ORDER BY id"), ["kept", "conflict"]);
    assert_eq!(lightbox_tests::samples::held_digests(&line.site).len(), 2);
}
