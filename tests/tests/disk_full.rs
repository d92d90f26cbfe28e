//! A full disk: the sender is told so by 0xA7xx, nothing acknowledged is lost, and the service goes on
//! when there is space again. The data folder is a small tmpfs in a mount namespace of the daemon's own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lightbox_tests::command::{program, run, run_lightbox};
use lightbox_tests::peers::storescp::Storescp;
use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::samples::{data_set_digest, held_digests, large_sample, study_of_copies};
use lightbox_tests::site::bundle_for_any_image;
use lightbox_tests::wait::until;
use lightbox_tests::{Daemon, Hospital, Site};

/// Size of the disk.
const DISK_MIB: u64 = 96;
/// What is left of it when the images come.
const LEFT_MIB: u64 = 10;
/// Segments that the daemon makes when it starts: `store.segments_mib` of a test's site, in fours.
const READY_SEGMENTS: usize = 2;
/// Half a MiB each: more than fits.
const IMAGES: usize = 40;

/// Where the small disk is, for the test that runs inside its namespace.
const INSIDE: &str = "LIGHTBOX_SMALL_DISK";

#[test]
fn a_full_disk_is_said_to_the_sender_and_nothing_acknowledged_is_lost() {
    if let Some(disk) = std::env::var_os(INSIDE) {
        return fill_and_free(Path::new(&disk));
    }
    // The test runs itself again in a mount namespace of its own, where the small disk is.
    let folder = tempfile::tempdir().expect("a folder");
    let mut again = Command::new(program("unshare"));
    again.args(["--mount", "--propagation", "unchanged"]).env(INSIDE, folder.path());
    if !nix::unistd::geteuid().is_root() {
        again.arg("--map-root-user");
    }
    again.args(["sh", "-c", "mount --make-rprivate / 2>/dev/null; mount -t tmpfs -o \"size=$1m\" tmpfs \"$2\" && shift 2 && exec \"$@\"", "sh"]);
    again.arg(DISK_MIB.to_string()).arg(folder.path());
    again.arg(std::env::current_exe().expect("a test knows its own path"));
    again.args([
        "a_full_disk_is_said_to_the_sender_and_nothing_acknowledged_is_lost",
        "--exact",
        "--nocapture",
    ]);
    let said = run(&mut again).ok("the test on the small disk");
    assert!(said.out.contains("1 passed"), "{}", said.all());
}

fn fill_and_free(disk: &Path) {
    let hospital = Hospital::new();
    let modality = Storescu::new(&hospital, "CT1");
    let pacs = Storescp::start(&hospital, "pacs");
    let mut site = Site::new(&hospital)
        .sender("ct-1", "CT1", modality.identity())
        .receiver("pacs", &pacs.ae_title(), pacs.port, &pacs.identity)
        .model("any-image", &bundle_for_any_image(&hospital))
        .rule("all", "", &["any-image"], &["pacs"]);
    site.data_dir = disk.join("data");
    let mut daemon = Daemon::start(&site);
    let free = || {
        let found = nix::sys::statvfs::statvfs(disk).expect("the disk is there");
        found.blocks_available() * found.fragment_size() / (1 << 20)
    };
    assert!(free() <= DISK_MIB, "the data folder is not the small disk");

    // Made in the background: on a disk that is full before there would be room for no image at all.
    let segments = || {
        let names = fs::read_dir(disk.join("data/segments")).into_iter().flatten().flatten();
        names.filter(|entry| entry.path().extension().is_some_and(|end| end == "seg")).count()
    };
    until("segments to be made", 60, || (segments() >= READY_SEGMENTS).then_some(()), || "there are fewer");
    let filler = disk.join("filler");
    let size = (free() - LEFT_MIB) << 20;
    fs::write(&filler, vec![0; size as usize]).expect("filled up");
    let files = study_of_copies(&hospital, &large_sample("693_UNCR.dcm"), "slices", IMAGES);
    let first = modality.send(daemon.dicom, &[], &files);
    let refused: Vec<u16> = first.statuses.iter().copied().filter(|status| *status != 0).collect();
    assert!(!refused.is_empty(), "nothing was refused on a full disk:\n{}", first.said.all());
    assert!(refused.iter().all(|status| status >> 8 == 0xa7), "not out of resources: {refused:04x?}");
    assert!(!first.acknowledged.is_empty(), "nothing was taken while there was space");
    assert!(first.acknowledged.len() < IMAGES);

    // Still full: still said, still alive.
    let again = modality.send(daemon.dicom, &[], &files[IMAGES - 1..]);
    assert!(
        again.statuses.iter().all(|status| status >> 8 == 0xa7) && !again.statuses.is_empty(),
        "{again:?}"
    );

    let digests =
        |files: &[PathBuf]| files.iter().filter_map(|file| data_set_digest(file)).collect::<BTreeSet<_>>();
    let kept = || held_digests(&site);
    assert!(kept().is_superset(&digests(&first.acknowledged)), "an acknowledged image is not there");

    // Space returns.
    fs::remove_file(&filler).expect("removed");
    let missing: Vec<PathBuf> =
        files.iter().filter(|file| !first.acknowledged.contains(file)).cloned().collect();
    modality.deliver(daemon.dicom, &[], &missing);
    daemon.wait_for("the study to end with all its images", 60, |ledger| {
        (ledger.is_quiet() && !ledger.results().is_empty()).then_some(())
    });
    assert_eq!(kept(), digests(&files));
    let ledger = daemon.ledger();
    assert_eq!(ledger.number("SELECT count(*) FROM instances WHERE state = 'kept'"), IMAGES as i64);
    assert!(ledger.deliveries().iter().all(|delivery| delivery.state == "delivered"), "{}", ledger.summary());
    assert!(!ledger.audit("instance-refused").is_empty(), "the refusals are not in the audit log");
    assert!(!pacs.files().is_empty());
    assert!(daemon.stop().success());
}

#[test]
fn a_reserve_is_kept_for_the_results_of_what_was_taken() {
    let hospital = Hospital::new();
    let modality = Storescu::new(&hospital, "CT1");
    let mut site = Site::new(&hospital)
        .sender("ct-1", "CT1", modality.identity())
        .model("any-image", &bundle_for_any_image(&hospital));
    site.reserve_mib = 1_048_576;
    // The reserve is not for models either.
    let daemon = Daemon::start_without_models(&site, "info");
    let sent = modality.send(daemon.dicom, &[], &[large_sample("693_UNCR.dcm")]);
    assert_eq!(sent.statuses, [0xa700], "{}", sent.said.all());
    assert!(held_digests(&site).is_empty());
    daemon.wait_for("the look at the repository", 60, |ledger| {
        let notes = ledger.texts("SELECT note FROM model_slots");
        notes.iter().any(|note| note.starts_with("room: ")).then_some(())
    });
    let site = site.path.to_str().expect("a plain path");
    run_lightbox(&["audit", "--site", site, "verify"]).ok("audit verify");
}
