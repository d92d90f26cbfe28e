//! The box as a router: images sent on as they were received, once, through dead destinations and
//! kill -9; what a rule holds; what a peer would not take.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lightbox_tests::command::run_lightbox;
use lightbox_tests::ledger::Ledger;
use lightbox_tests::peers::storescp::Storescp;
use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::samples::{data_set_digest, sample, sop_uid, study_of_copies};
use lightbox_tests::{Daemon, Hospital, Site};

/// Keeps data sets bit by bit, so that what arrives can be compared with what was sent.
const BIT_BY_BIT: &[&str] = &["+B"];

/// State, instances sent and instances in all of the forwards to a destination.
fn forwards(ledger: &Ledger, destination: &str) -> Vec<String> {
    ledger.texts(&format!(
        "SELECT state || ' ' || sent || '/' || total FROM forwards WHERE destination = '{destination}' ORDER BY id"
    ))
}

fn reasons(ledger: &Ledger, destination: &str) -> String {
    ledger
        .texts(&format!("SELECT coalesce(last_reason, '') FROM forwards WHERE destination = '{destination}'"))
        .join("\n")
}

#[track_caller]
fn wait_until_forwarded(daemon: &Daemon, destination: &str, wanted: &[&str]) {
    daemon.wait_for(&format!("{destination} to be {wanted:?}"), 40, |ledger| {
        (forwards(ledger, destination) == wanted).then_some(())
    });
}

/// By SOP Instance UID, the digests of the data sets.
fn digests(files: &[PathBuf]) -> BTreeMap<String, [u8; 32]> {
    files.iter().map(|file| (sop_uid(file), data_set_digest(file).expect("a whole file"))).collect()
}

/// C-STORE requests that a `storescp` has seen, repeated ones too.
fn requests(hospital: &Hospital, name: &str) -> usize {
    let log = std::fs::read_to_string(hospital.folder().join(format!("{name}.log"))).expect("a log");
    log.lines().filter(|line| line.contains("Received Store Request")).count()
}

struct Router {
    daemon: Daemon,
    site: Site,
    modality: Storescu,
    hospital: Hospital,
}

impl Router {
    /// A site without any model: `tables` are its archives and rules.
    #[track_caller]
    fn start(tables: impl FnOnce(&Hospital, Site) -> Site) -> Self {
        let hospital = Hospital::new();
        let modality = Storescu::new(&hospital, "CT1");
        let site = tables(&hospital, Site::new(&hospital).sender("ct-1", "CT1", modality.identity()));
        let daemon = Daemon::start(&site);
        Router { daemon, site, modality, hospital }
    }

    fn queue(&self, arguments: &[&str]) -> String {
        let site = self.site.path.to_str().expect("a plain path");
        let all = [&["queue", "--site", site], arguments].concat();
        run_lightbox(&all).ok("lightbox queue").out
    }
}

fn archive(site: Site, archive: &Storescp, name: &str) -> Site {
    site.receiver(name, &archive.ae_title(), archive.port, &archive.identity)
}

#[test]
fn a_plain_router_sends_to_two_archives_and_a_dead_one_delays_no_other() {
    let (mut one, mut two) = (None, None);
    let router = Router::start(|hospital, site| {
        let one = one.insert(Storescp::stopped(hospital, "archive-1", BIT_BY_BIT));
        let two = two.insert(Storescp::stopped(hospital, "archive-2", BIT_BY_BIT));
        two.run();
        let site = archive(archive(site, one, "archive-1"), two, "archive-2");
        site.text(
            "[[rule]]\nname = \"ct\"\nmatch = { modality = \"CT\" }\nforward = [\"archive-1\", \"archive-2\"]",
        )
    });
    let (mut one, two) = (one.expect("made"), two.expect("made"));
    let files = study_of_copies(&router.hospital, &sample("CT_small.dcm"), "study", 20);
    router.modality.deliver(router.daemon.dicom, &[], &files[..19]);
    wait_until_forwarded(&router.daemon, "archive-2", &["delivered 19/19"]);
    assert_eq!(digests(&two.files()), digests(&files[..19]));
    router.daemon.wait_for("a failed try at archive-1", 20, |ledger| {
        reasons(ledger, "archive-1").contains("cannot connect").then_some(())
    });
    assert!(router.queue(&["list"]).contains("0/19"), "the waiting forward is listed");
    one.run();
    wait_until_forwarded(&router.daemon, "archive-1", &["delivered 19/19"]);
    assert_eq!(digests(&one.files()), digests(&files[..19]));

    // A late image goes alone, and nothing goes twice.
    router.modality.deliver(router.daemon.dicom, &[], &files[19..]);
    for name in ["archive-1", "archive-2"] {
        wait_until_forwarded(&router.daemon, name, &["delivered 19/19", "delivered 1/1"]);
        assert_eq!(requests(&router.hospital, name), 20, "{name}");
    }
    assert_eq!(digests(&one.files()), digests(&files));
    assert_eq!(router.daemon.ledger().audit("instances-forwarded").len(), 4);
    assert!(router.daemon.ledger().texts("SELECT state FROM studies") == ["done"]);
}

#[test]
fn kill_9_in_the_middle_of_a_forward_costs_no_image() {
    let mut archive_1 = None;
    let mut router = Router::start(|hospital, site| {
        let one = archive_1.insert(Storescp::stopped(hospital, "archive-1", BIT_BY_BIT));
        one.run();
        let rule = "[[rule]]\nname = \"all\"\nforward = [\"archive-1\"]";
        archive(site, one, "archive-1").text(rule)
    });
    let archive_1 = archive_1.expect("made");
    let mut sent = Vec::new();
    let mut interrupted = 0;
    for round in 0..6 {
        let name = format!("study-{round}");
        let files = study_of_copies(&router.hospital, &sample("CT_small.dcm"), &name, 60);
        router.modality.deliver(router.daemon.dicom, &[], &files);
        let before = sent.len();
        sent.extend(files);
        let deadline = Instant::now() + Duration::from_secs(30);
        while archive_1.files().len() < before + 10 {
            assert!(Instant::now() < deadline, "nothing is forwarded\n{}", router.daemon.log());
            std::thread::sleep(Duration::from_millis(2));
        }
        router.daemon.kill();
        let left = "SELECT total - sent FROM forwards WHERE state = 'sending'";
        interrupted = Ledger::open(&router.site.data_dir)
            .texts(&format!("SELECT CAST(({left}) AS TEXT) WHERE ({left}) > 0"))
            .len();
        router.daemon = Daemon::start(&router.site);
        router.daemon.wait_for("all forwards to be delivered", 40, |ledger| {
            forwards(ledger, "archive-1").iter().all(|line| line == "delivered 60/60").then_some(())
        });
        if interrupted > 0 {
            break;
        }
    }
    assert!(interrupted > 0, "no kill hit a forward");
    assert_eq!(digests(&archive_1.files()), digests(&sent));
    let doubled = requests(&router.hospital, "archive-1") - sent.len();
    assert!(doubled <= 9, "{doubled} images were sent twice: more than were under way");
}

#[test]
fn what_a_rule_holds_goes_when_a_person_says_so() {
    let mut archive_1 = None;
    let router = Router::start(|hospital, site| {
        let one = archive_1.insert(Storescp::start(hospital, "archive-1"));
        let rule = "[[rule]]\nname = \"research\"\nforward = [\"archive-1\"]\nhold = true";
        archive(site, one, "archive-1").text(rule)
    });
    let archive_1 = archive_1.expect("made");
    let files = study_of_copies(&router.hospital, &sample("CT_small.dcm"), "study", 3);
    router.modality.deliver(router.daemon.dicom, &[], &files);
    wait_until_forwarded(&router.daemon, "archive-1", &["held 0/3"]);
    let listed = router.queue(&["list"]);
    assert!(listed.contains("f1") && listed.contains("held"), "{listed}");
    assert!(router.queue(&["release", "--all", "--destination", "archive-1"]).contains("1 released"));
    wait_until_forwarded(&router.daemon, "archive-1", &["delivered 3/3"]);
    assert_eq!(archive_1.files().len(), 3);
    let audit = router.daemon.ledger().audit("operator-action");
    assert!(audit.iter().any(|record| record.detail["action"] == "release-forward"), "{audit:?}");
}

#[test]
fn a_syntax_that_the_peer_does_not_take_is_a_dead_letter_with_the_remedy() {
    let mut archive_1 = None;
    let router = Router::start(|hospital, site| {
        let one = archive_1.insert(Storescp::stopped(hospital, "archive-1", &["+x="]));
        one.run();
        let rule = "[[rule]]\nname = \"all\"\nforward = [\"archive-1\"]";
        archive(site, one, "archive-1").text(rule)
    });
    let files = compressed(&router, &["MR_small_RLE.dcm"]);
    wait_until_forwarded(&router.daemon, "archive-1", &["dead 0/1"]);
    let reason = reasons(&router.daemon.ledger(), "archive-1");
    for wanted in
        ["1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.5", "Explicit VR Little Endian", "`transcode`"]
    {
        assert!(reason.contains(wanted), "{wanted}: {reason}");
    }
    let sop = sop_uid(&files[0]);
    assert!(!reason.contains(&sop) && !router.daemon.log().contains(&sop), "a UID in a reason or a log");
}

/// Sends samples of compressed transfer syntaxes as they are.
#[track_caller]
fn compressed(router: &Router, names: &[&str]) -> Vec<PathBuf> {
    let files: Vec<PathBuf> = names.iter().map(|name| sample(name)).collect();
    for file in &files {
        router.modality.deliver_as_it_is(router.daemon.dicom, Path::new(file));
    }
    files
}
