//! The ledger is lost: the index of instances comes back from the objects alone.

use std::process::Command;

use lightbox_tests::command::{program, run, run_lightbox};
use lightbox_tests::samples::{copy_as, sample, study_of_copies};
use lightbox_tests::{Daemon, Line};

/// Sender, object, state and time of receipt of each instance.
const INSTANCES: &str = "SELECT object || ' ' || state || ' ' || peer || ' ' || calling_ae || ' ' || received_at FROM instances ORDER BY object";

#[test]
fn a_lost_ledger_costs_no_instance_and_turns_no_conflict_round() {
    let mut line = Line::start_with(|_, site| Line::usual_rules(site));
    let folder = line.hospital.folder().to_owned();
    let mut files = study_of_copies(&line.hospital, &sample("CT_small.dcm"), "study", 3);
    let first = copy_as(&sample("MR_small.dcm"), &folder.join("first.dcm"), true);
    files.push(first.clone());
    line.send_and_wait(&files);
    // Several copies of one instance with other contents: by chance alone, some would sort first.
    for number in 0..4 {
        let other = folder.join(format!("other-{number}.dcm"));
        std::fs::copy(&first, &other).expect("copied");
        run(Command::new(program("dcmodify"))
            .args(["-nb", "-i", &format!("SeriesDescription=N{number}")])
            .arg(&other))
        .ok("dcmodify");
        line.modality.deliver(line.daemon.dicom, &[], &[other]);
    }
    line.daemon.wait_for("all copies in the index", 30, |ledger| {
        (ledger.number("SELECT count(*) FROM instances") == 8).then_some(())
    });
    let before = line.daemon.ledger().texts(INSTANCES);
    assert_eq!(before.len(), 8, "{before:?}");
    assert_eq!(before.iter().filter(|one| one.contains(" conflict ")).count(), 4, "{before:?}");

    line.daemon.stop();
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let _ = std::fs::remove_file(line.site.data_dir.join(name));
    }
    line.daemon = Daemon::start_without_models(&line.site, "info");
    assert_eq!(line.daemon.ledger().texts(INSTANCES), before);
    assert!(line.daemon.log().contains("brought in line"), "{}", line.daemon.log());

    // The record of what was seen of the repository of models is gone too: a person decides.
    let models = |arguments: &[&str]| {
        let site = line.site.path.to_str().expect("a plain path");
        run_lightbox(&[&["models", "--site", site], arguments].concat())
    };
    let check = ["check", "--by", "A. Meyer"];
    let refused = models(&check);
    assert!(refused.out.contains("lightbox models begin-anew"), "{}", refused.all());
    models(&["begin-anew", "--by", "A. Meyer", "--reason", "the disk was replaced"]).ok("begin-anew");
    models(&check).ok("models check");
    let active = "SELECT count(*) FROM model_versions WHERE state = 'active'";
    line.daemon.wait_for("the models to be active", 60, |ledger| (ledger.number(active) == 2).then_some(()));
    let again = models(&["begin-anew", "--by", "A. Meyer"]);
    assert!(again.err.contains("nothing was lost"), "{}", again.all());
    line.wait_until_quiet();
}
