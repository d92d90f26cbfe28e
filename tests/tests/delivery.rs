//! Destinations that are down, hang or refuse: the others get their results at once, and what went to
//! the dead letters says why in the peer's own words and can be sent again.

use std::time::{Duration, Instant};

use lightbox_tests::command::run_lightbox;
use lightbox_tests::ledger::Delivery;
use lightbox_tests::peers::mllp::{Behaviour, MllpReceiver};
use lightbox_tests::peers::refusing::{Refusal, RefusingScp};
use lightbox_tests::peers::silent::Silent;
use lightbox_tests::peers::storescp::Storescp;
use lightbox_tests::samples::{copy_as, sample};
use lightbox_tests::{Line, Site};

/// The one delivery to a destination, once it is in that state.
#[track_caller]
fn delivery(line: &Line, destination: &str, state: &str) -> Delivery {
    line.daemon.wait_for(&format!("the delivery to {destination} to be {state}"), 40, |ledger| {
        ledger.deliveries_in(destination, state).into_iter().next()
    })
}

fn image(line: &Line) -> std::path::PathBuf {
    copy_as(&sample("CT_small.dcm"), &line.hospital.folder().join("image.dcm"), true)
}

#[test]
fn dead_and_hanging_destinations_delay_no_other() {
    let (mut down, mut slow) = (None, None);
    let (silent, ris_down, ris_hangs) =
        (Silent::start(), MllpReceiver::down(Behaviour::Accept), MllpReceiver::start(Behaviour::Hang));
    let line = Line::start_with(|hospital, site| {
        let down = down.insert(Storescp::stopped(hospital, "down", &[]));
        // Takes the object and answers only after ten minutes.
        let slow = slow.insert(Storescp::stopped(hospital, "slow", &["--sleep-during", "600"]));
        slow.run();
        let nobody = hospital.issue("silent");
        let site = site
            .receiver("down", "DOWN", down.port, &down.identity)
            .receiver("slow", "SLOW", slow.port, &slow.identity)
            .receiver("silent", "SILENT", silent.port, &nobody)
            .hl7("ris-down", ris_down.port, "")
            .hl7("ris-hangs", ris_hangs.port, "");
        // The sound ones come last: a queue that goes in order would make them wait.
        Line::rules_to(site, &["down", "slow", "silent", "ris-down", "ris-hangs", "pacs", "ris"])
    });
    let mut down = down.expect("made");
    line.modality.deliver(line.daemon.dicom, &[], &[image(&line)]);
    line.daemon
        .wait_for("the result to be queued", 30, |ledger| (!ledger.deliveries().is_empty()).then_some(()));
    let queued = Instant::now();
    delivery(&line, "pacs", "delivered");
    delivery(&line, "ris", "delivered");
    let waited = queued.elapsed();
    assert!(waited < Duration::from_secs(3), "the sound destinations waited {waited:?}");
    for name in ["down", "slow", "silent", "ris-down", "ris-hangs"] {
        assert!(line.daemon.ledger().deliveries_in(name, "delivered").is_empty(), "{name}");
        assert!(line.daemon.ledger().deliveries_in(name, "dead").is_empty(), "{name} was given up");
    }
    // Those that come back get theirs.
    line.daemon.wait_for("a failed try at `down`", 20, |ledger| {
        ledger.deliveries().into_iter().find(|one| one.destination == "down" && one.attempts > 0)
    });
    down.run();
    ris_down.listen();
    ris_hangs.behave(Behaviour::Accept);
    delivery(&line, "down", "delivered");
    delivery(&line, "ris-down", "delivered");
    delivery(&line, "ris-hangs", "delivered");
    assert_eq!(down.files().len(), 1);
    assert_eq!(ris_down.received().len(), 1);
    let again = ris_hangs.received();
    assert!(
        again.len() >= 2 && again.iter().all(|message| *message == again[0]),
        "a retry changed the message"
    );
}

#[test]
fn refused_results_are_dead_letters_with_the_peers_own_words() {
    let (mut by_status, mut by_class) = (None, None);
    let words = "Patient unknown, study was archived";
    let ris = MllpReceiver::start(Behaviour::Answer("AE", "Unknown patient in PID-3"));
    let old = MllpReceiver::start(Behaviour::Answer("AR", "Unsupported version ID"));
    let line = Line::start_with(|hospital, site| {
        let by_status =
            by_status.insert(RefusingScp::start(hospital, "strict", Refusal::Status(0xa900, words)));
        let by_class = by_class.insert(RefusingScp::start(hospital, "ct-only", Refusal::SopClass));
        let site = site
            .receiver("strict", "REFUSING", by_status.port, &by_status.identity)
            .receiver("ct-only", "REFUSING", by_class.port, &by_class.identity)
            .hl7("ris-strict", ris.port, "")
            .hl7("ris-old", old.port, "on_reject = \"dead_letter\"");
        Line::rules_to(site, &["strict", "ct-only", "ris-strict", "ris-old", "pacs", "ris"])
    });
    line.modality.deliver(line.daemon.dicom, &[], &[image(&line)]);
    delivery(&line, "pacs", "delivered");
    delivery(&line, "ris", "delivered");
    let strict = delivery(&line, "strict", "dead");
    assert!(strict.reason.contains(words), "{strict:?}");
    assert!(strict.reason.to_lowercase().contains("a900"), "{strict:?}");
    let ct_only = delivery(&line, "ct-only", "dead");
    assert!(ct_only.reason.to_lowercase().contains("abstract syntax"), "{ct_only:?}");
    let ris_strict = delivery(&line, "ris-strict", "dead");
    assert!(ris_strict.reason.contains("Unknown patient in PID-3"), "{ris_strict:?}");
    assert!(ris_strict.reason.contains("AE"), "{ris_strict:?}");
    let ris_old = delivery(&line, "ris-old", "dead");
    assert!(ris_old.reason.contains("Unsupported version ID"), "{ris_old:?}");
    for dead in [&strict, &ct_only, &ris_strict, &ris_old] {
        assert_eq!(dead.attempts, 1, "a refusal for good was tried again: {dead:?}");
    }
    assert!(!line.daemon.ledger().audit("result-dead-letter").is_empty());

    // Listed, and sent again once the receiver knows the patient.
    let site = line.site.path.to_str().expect("a plain path").to_owned();
    let listed = run_lightbox(&["queue", "--site", &site, "list"]).ok("queue list");
    assert!(
        listed.out.contains("ris-strict") && listed.out.contains("Unknown patient in PID-3"),
        "{}",
        listed.out
    );
    ris.behave(Behaviour::Accept);
    run_lightbox(&["queue", "--site", &site, "replay", &ris_strict.id.to_string()]).ok("queue replay");
    delivery(&line, "ris-strict", "delivered");
    let received = ris.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0], received[1], "a replay changed the message");
}

#[test]
fn a_rejected_association_says_why() {
    let mut other = None;
    let line = Line::start_with(|hospital, site| {
        let other = other.insert(lightbox_tests::peers::orthanc::Orthanc::start(hospital));
        let site: Site = site.receiver("orthanc", "WRONG_TITLE", other.port, &other.identity);
        Line::rules_to(site, &["orthanc", "pacs"])
    });
    line.modality.deliver(line.daemon.dicom, &[], &[image(&line)]);
    delivery(&line, "pacs", "delivered");
    let dead = delivery(&line, "orthanc", "dead");
    let reason = dead.reason.to_lowercase().replace(['-', '_'], " ");
    assert!(reason.contains("called ae title not recognized"), "{dead:?}");
    drop(other);
}

#[test]
fn a_receiver_that_hangs_up_or_rejects_for_now_is_tried_again() {
    let ris = MllpReceiver::start(Behaviour::Close);
    let line =
        Line::start_with(|_, site| Line::rules_to(site.hl7("ris-flaky", ris.port, ""), &["ris-flaky"]));
    line.modality.deliver(line.daemon.dicom, &[], &[image(&line)]);
    line.daemon.wait_for("two tries", 30, |_| (ris.received().len() >= 2).then_some(()));
    ris.behave(Behaviour::Answer("AR", "Busy, come back later"));
    let tries = ris.received().len();
    line.daemon.wait_for("two rejected tries", 30, |_| (ris.received().len() >= tries + 2).then_some(()));
    ris.behave(Behaviour::Accept);
    delivery(&line, "ris-flaky", "delivered");
}
