//! Several C-STOREs under way on one association (asynchronous operations window, PS3.7 D.3.3.3): what is negotiated, that
//! each is answered when it is durable and not before, and that whoever does not ask for it is served as ever.

use std::collections::BTreeSet;
use std::io::Write;

use lightbox_tests::command::run_lightbox;
use lightbox_tests::peers::orthanc::Orthanc;
use lightbox_tests::peers::raw;
use lightbox_tests::peers::storescp::Storescp;
use lightbox_tests::peers::windowed::Windowed;
use lightbox_tests::samples::{held_digests, phantom, sample};
use lightbox_tests::{Daemon, Hospital, Identity, Site};

struct Scene {
    site: Site,
    daemon: Daemon,
    ct: Identity,
    hospital: Hospital,
}

fn scene(line: &str) -> Scene {
    let hospital = Hospital::new();
    let ct = hospital.issue("ct1");
    let site = Site::new(&hospital).dicom_line(line).sender("ct-1", "CT1", &ct);
    let daemon = Daemon::start(&site);
    Scene { site, daemon, ct, hospital }
}

impl Scene {
    #[track_caller]
    fn associate(&self, invoked: u16) -> Windowed {
        Windowed::associate(self.daemon.dicom, &self.hospital, &self.ct, "CT1", invoked).expect("accepted")
    }
}

const STUDY: &str = "1.2.840.99.1";

fn uid(number: usize) -> String {
    format!("{STUDY}.2.{number}")
}

/// Pixels that no other instance of a test has; some go to the disk in one piece, some in several.
fn pixels(number: usize) -> Vec<u8> {
    let bytes = [40_000, 520_000, 1_900_000][number % 3];
    (0..bytes).map(|at| (at * 31 + number * 7) as u8).collect()
}

fn digest(number: usize) -> [u8; 32] {
    Windowed::digest(STUDY, &uid(number), &pixels(number))
}

#[test]
fn a_full_window_is_answered_message_by_message_each_when_it_is_durable() {
    let scene = scene("operations_at_once = 4");
    let mut sender = scene.associate(16);
    assert_eq!(sender.granted, Some((4, 1)));
    let mut open = BTreeSet::new();
    let (mut acknowledged, mut digests) = (BTreeSet::new(), std::collections::BTreeMap::new());
    for number in 0..30 {
        let id = sender.begin(STUDY, &uid(number), &pixels(number)).expect("sent");
        digests.insert(id, digest(number));
        assert!(open.insert(id));
        if open.len() == 4 {
            let (id, status) = sender.answer().expect("an answer");
            assert_eq!(status, 0);
            assert!(open.remove(&id), "message {id} was answered and was not open");
            acknowledged.insert(digests[&id]);
        }
    }
    // Release with answers outstanding: they come first (PS3.8 §7.2: what was sent before arrives before).
    sender.stream.write_all(&raw::release()).expect("sent");
    while !open.is_empty() {
        let (id, status) = sender.answer().expect("an answer");
        assert_eq!(status, 0);
        assert!(open.remove(&id), "message {id} was answered and was not open");
        acknowledged.insert(digests[&id]);
    }
    assert_eq!(raw::read(&mut sender.stream).expect("an answer").0, 6, "A-RELEASE-RP");
    assert_eq!(acknowledged.len(), 30);
    assert_eq!(held_digests(&scene.site), acknowledged);
}

#[test]
fn an_abort_in_the_middle_takes_nothing_of_what_was_acknowledged() {
    let scene = scene("");
    let mut acknowledged = BTreeSet::new();
    let mut sent = BTreeSet::new();
    for round in 0..6 {
        let mut sender = scene.associate(8);
        let mut open = std::collections::BTreeMap::new();
        for number in 0..8 {
            let number = round * 8 + number;
            let id = sender.begin(STUDY, &uid(number), &pixels(number)).expect("sent");
            open.insert(id, digest(number));
            sent.insert(digest(number));
        }
        for _ in 0..round {
            let (id, status) = sender.answer().expect("an answer");
            assert_eq!(status, 0);
            acknowledged.insert(open.remove(&id).expect("an open message"));
        }
        // Half of the next one, then the end.
        let half = raw::c_store(STUDY, &uid(1000), 60_000);
        sender.stream.write_all(&half[..2].concat()).expect("sent");
        if round % 2 == 0 {
            sender.stream.write_all(&raw::abort()).expect("sent");
        }
    }
    // The places of those that were cut are free again, and an ordinary sender is served.
    let mut sender = scene.associate(0);
    assert_eq!(sender.granted, Some((8, 1)), "without limit means as many as we grant");
    let id = sender.begin(STUDY, &uid(2000), &pixels(2000)).expect("sent");
    assert_eq!(sender.answer().expect("an answer"), (id, 0));
    acknowledged.insert(digest(2000));
    sent.insert(digest(2000));
    let held = held_digests(&scene.site);
    assert!(acknowledged.is_subset(&held), "an acknowledged image is not there");
    assert!(held.is_subset(&sent), "something is there that nobody sent whole");
}

#[test]
fn a_refused_one_is_answered_as_such_and_the_others_are_kept() {
    let scene = scene("");
    let mut sender = scene.associate(4);
    let first = sender.begin(STUDY, &uid(1), &pixels(1)).expect("sent");
    // Its data set does not say which study it is of.
    let unidentified = raw::numbered_c_store(77, &uid(2), &raw::element(8, 0x60, b"CS", b"CT"));
    sender.stream.write_all(&unidentified.concat()).expect("sent");
    let last = sender.begin(STUDY, &uid(4), &pixels(4)).expect("sent");
    sender.stream.write_all(&raw::c_echo()).expect("sent");
    let mut answers = std::collections::BTreeMap::new();
    for _ in 0..4 {
        let answer = raw::read(&mut sender.stream).expect("an answer");
        let key = (raw::number(&answer, 0x0100), raw::number(&answer, 0x0120));
        answers.insert(key, raw::status(&answer).expect("a status"));
    }
    let store = |id| answers.get(&(Some(0x8001), Some(id))).copied();
    assert_eq!((store(first), store(last)), (Some(0), Some(0)), "{answers:?}");
    assert!(store(77).is_some_and(|status| status >= 0xa000), "{answers:?}");
    assert_eq!(answers.get(&(Some(0x8030), Some(1))), Some(&0), "{answers:?}");
}

#[test]
fn a_site_that_wants_one_after_the_other_says_so() {
    let scene = scene("operations_at_once = 1");
    let mut sender = scene.associate(8);
    assert_eq!(sender.granted, Some((1, 1)));
    // It sends several all the same: they are answered in their order.
    let ids: Vec<u16> =
        (0..3).map(|number| sender.begin(STUDY, &uid(number), &pixels(0)).expect("sent")).collect();
    let answered: Vec<u16> = (0..3).map(|_| sender.answer().expect("an answer").0).collect();
    assert_eq!(answered, ids);
}

#[test]
fn our_own_sender_uses_a_window_where_it_is_granted_and_only_there() {
    let scene = scene("");
    let mut files = phantom(&scene.hospital, "ct", 12).files;
    files.push(sample("CT_small.dcm"));
    let send = |port: u16, called: &str, window: &str| {
        let to = format!("127.0.0.1:{port}");
        let ca = scene.hospital.ca().display().to_string();
        let (certificate, key) =
            (scene.ct.certificate.display().to_string(), scene.ct.key.display().to_string());
        let mut arguments = vec![
            "send",
            "--to",
            &to,
            "--called",
            called,
            "--calling",
            "CT1",
            "--window",
            window,
            "--ca",
            &ca,
        ];
        arguments.extend(["--cert", &certificate, "--key", &key]);
        let paths: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        arguments.extend(paths.iter().map(String::as_str));
        let said = run_lightbox(&arguments).ok("lightbox send");
        assert_eq!(said.out.matches(": stored").count(), files.len(), "{}", said.all());
    };
    send(scene.daemon.dicom.port(), "LIGHTBOX", "8");
    assert_eq!(held_digests(&scene.site).len(), files.len());
    send(scene.daemon.dicom.port(), "LIGHTBOX", "1");
    assert_eq!(held_digests(&scene.site).len(), files.len());
    // Neither of these grants one.
    let dcmtk = Storescp::start(&scene.hospital, "dcmtk");
    send(dcmtk.port, &dcmtk.ae_title(), "8");
    assert_eq!(dcmtk.files().len(), files.len());
    let orthanc = Orthanc::start(&scene.hospital);
    send(orthanc.port, "ORTHANC", "8");
    assert_eq!(orthanc.count(), files.len());
}
