//! The box as a router: images sent on as they were received, once, through dead destinations and
//! kill -9; what a rule holds; what a peer would not take.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dicom_dictionary_std::tags;
use lightbox_tests::command::{program, run, run_lightbox};
use lightbox_tests::ledger::Ledger;
use lightbox_tests::peers::storescp::Storescp;
use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::samples::{copy_as, data_set_digest, sample, sop_uid, study_of_copies};
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

/// The pixels of a file, as they lie in it.
#[track_caller]
fn pixels(file: &Path) -> Vec<u8> {
    let object = dicom_object::open_file(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let element = object.element(tags::PIXEL_DATA).expect("pixels");
    element.to_bytes().expect("native pixels").into_owned()
}

#[test]
fn compressed_images_are_decompressed_for_a_peer_that_takes_nothing_else() {
    let (mut explicit, mut implicit) = (None, None);
    let router = Router::start(|hospital, site| {
        let explicit = explicit.insert(Storescp::stopped(hospital, "explicit", &["+x=", "+B"]));
        let implicit = implicit.insert(Storescp::stopped(hospital, "implicit", &["+xi", "+B"]));
        explicit.run();
        implicit.run();
        let peer = |name: &str, archive: &Storescp, keys: &str| {
            format!(
                "[[peer]]\nname = \"{name}\"\nae_title = \"{}\"\naddress = \"127.0.0.1:{}\"\ncertificate = {{ sha256 = \"{}\" }}\nmay = [\"receive\"]\n[[destination]]\nname = \"{name}\"\ndicom = {{ peer = \"{name}\", {keys} }}\n",
                archive.ae_title(),
                archive.port,
                archive.identity.sha256
            )
        };
        site.text(&peer("explicit", explicit, "transcode = [\"explicit\"]"))
            .text(&peer("implicit", implicit, "transcode = [\"explicit\", \"1.2.840.10008.1.2\"]"))
            .text("[[rule]]\nname = \"all\"\nforward = [\"explicit\", \"implicit\"]")
    });
    // The same image three times, uncompressed being the truth.
    let names = ["MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm"];
    let truth = pixels(&sample("MR_small.dcm"));
    let mut sources = BTreeMap::new();
    for (index, name) in names.iter().enumerate() {
        // Each its own study: the samples share their UIDs.
        let copy = copy_as(&sample(name), &router.hospital.folder().join(format!("{index}.dcm")), true);
        router.modality.deliver_as_it_is(router.daemon.dicom, &copy);
        sources.insert(sop_uid(&copy), copy);
    }
    for (name, archive, syntax) in [
        ("explicit", explicit.as_ref(), "1.2.840.10008.1.2.1"),
        ("implicit", implicit.as_ref(), "1.2.840.10008.1.2"),
    ] {
        wait_until_forwarded(&router.daemon, name, &["delivered 1/1"; 3]);
        let files = archive.expect("made").files();
        assert_eq!(files.len(), 3);
        for file in files {
            let object = dicom_object::open_file(&file).expect("a whole file");
            assert_eq!(object.meta().transfer_syntax().trim_end_matches('\0'), syntax);
            let source = &sources[&sop_uid(&file)];
            assert!(pixels(&file) == truth, "{} came out otherwise", source.display());
            let said = run(std::process::Command::new(program("dciodvfy")).arg("-new").arg(&file));
            let of_source = run(std::process::Command::new(program("dciodvfy")).arg("-new").arg(source));
            let errors = |text: &str| text.lines().filter(|line| line.starts_with("Error")).count();
            assert!(errors(&said.all()) <= errors(&of_source.all()), "{}", said.all());
        }
    }
}

#[test]
fn rules_diff_names_each_changed_decision_and_the_history_keeps_the_old_rules() {
    let mut archive_1 = None;
    let mut router = Router::start(|hospital, site| {
        let one = archive_1.insert(Storescp::start(hospital, "archive-1"));
        archive(site, one, "archive-1")
            .text("[[rule]]\nname = \"ct\"\nmatch = { modality = \"CT\" }\nforward = [\"archive-1\"]")
            .text("[[rule]]\nname = \"mr\"\nmatch = { modality = \"MR\" }")
    });
    let ct = study_of_copies(&router.hospital, &sample("CT_small.dcm"), "ct", 2);
    let mr = study_of_copies(&router.hospital, &sample("MR_small.dcm"), "mr", 2);
    router.modality.deliver(router.daemon.dicom, &[], &ct);
    router.modality.deliver(router.daemon.dicom, &[], &mr);
    router.daemon.wait_for("both studies to be routed", 40, |ledger| {
        (ledger.number("SELECT count(*) FROM revisions") == 2 && ledger.is_quiet()).then_some(())
    });
    let site = router.site.path.to_str().expect("a plain path").to_owned();
    let changed = router.hospital.folder().join("new.toml");
    let text = router
        .site
        .toml()
        .replace("modality = \"MR\" }", "modality = \"MR\" }\nforward = [\"archive-1\"]\nhold = true");
    std::fs::write(&changed, &text).expect("written");
    let new = changed.to_str().expect("a plain path");

    let same = run_lightbox(&["rules", "diff", &site, "--site", &site, "--since", "7d"]);
    assert_eq!(same.code, Some(0), "{}", same.all());
    assert!(same.out.contains("2 studies") && same.out.contains("0 would change"), "{}", same.out);
    let diff = run_lightbox(&["rules", "diff", new, "--site", &site, "--since", "7d"]);
    assert_eq!(diff.code, Some(3), "{}", diff.all());
    let key = router.daemon.ledger().texts(
        "SELECT s.key FROM studies s JOIN instances i ON i.study_id = s.id WHERE i.modality = 'MR' LIMIT 1",
    );
    assert!(diff.out.contains(&key[0]), "{}", diff.out);
    for wanted in [
        "series 1 sent on to archive-1",
        "held until released",
        "rule \"mr\"",
        "modality is \"MR\"",
        "1 would change, 1 would not",
    ] {
        assert!(diff.out.contains(wanted), "{wanted}: {}", diff.out);
    }
    let json = run_lightbox(&["rules", "diff", new, "--site", &site, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(
        (&json["unchanged"], &json["changed"][0]["changes"][0]["subject"]),
        (&1.into(), &"forward".into())
    );

    // Under the changed rules the next start has another rule set; the first one can still be read.
    router.daemon.stop();
    router.site = router.site.text("[[rule]]\nname = \"more\"\nmatch = { modality = \"US\" }");
    router.daemon = Daemon::start(&router.site);
    let history = run_lightbox(&["rules", "history", "--site", &site, "--json"]).ok("rules history");
    let history: serde_json::Value = serde_json::from_str(&history.out).expect("JSON");
    let lines = history.as_array().expect("a list");
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["decided"], &lines[1]["decided"]), (&0.into(), &2.into()));
    let first = lines[1]["revision"].as_str().expect("a text");
    assert_eq!(router.daemon.ledger().texts("SELECT DISTINCT rule_set FROM revisions"), [first]);
    let shown = run_lightbox(&["rules", "show", &first[..10], "--site", &site]).ok("rules show");
    assert!(shown.out.contains("name = \"ct\"") && !shown.out.contains("more"), "{}", shown.out);
}

#[test]
fn elements_of_the_list_change_on_the_way_and_what_was_there_is_kept() {
    let mut archive_1 = None;
    let router = Router::start(|hospital, site| {
        let one = archive_1.insert(Storescp::stopped(hospital, "archive-1", BIT_BY_BIT));
        one.run();
        archive(site, one, "archive-1").text(
            "[[rule]]\nname = \"all\"\nforward = [\"archive-1\"]\nset = { institution_name = \"St. Mary\", accession_number_prefix = \"SM-\" }",
        )
    });
    let archive_1 = archive_1.expect("made");
    let source = copy_as(&sample("CT_small.dcm"), &router.hospital.folder().join("one.dcm"), true);
    run(std::process::Command::new(program("dcmodify"))
        .args(["-nb", "-i", "(0008,0050)=4711", "-i", "(0008,0080)=Old place"])
        .arg(&source))
    .ok("dcmodify");
    router.modality.deliver(router.daemon.dicom, &[], std::slice::from_ref(&source));
    wait_until_forwarded(&router.daemon, "archive-1", &["delivered 1/1"]);
    let file = archive_1.files().pop().expect("one");
    let dumped = run(std::process::Command::new(program("dcmdump")).arg(&file)).ok("dcmdump").out;
    let line = |tag: &str| -> Vec<String> {
        dumped.lines().filter(|line| line.contains(tag)).map(|line| line.trim_start().to_owned()).collect()
    };
    assert!(line("(0008,0080)")[0].contains("[St. Mary]"), "{dumped}");
    assert!(line("(0008,0080)")[1].contains("[Old place]"), "{dumped}");
    assert!(line("(0008,0050)")[0].contains("[SM-4711]"), "{dumped}");
    assert!(line("(0008,0050)")[1].contains("[4711]"), "{dumped}");
    assert!(line("(0400,0563)")[0].contains("RAD-AI-1"), "{dumped}");
    assert!(line("(0400,0564)")[0].contains("CT1"), "{dumped}");
    assert!(line("(0400,0565)")[0].contains("COERCE"), "{dumped}");
    assert_eq!(sop_uid(&file), sop_uid(&source));
    assert!(pixels(&file) == pixels(&source));
    let errors = |file: &Path| {
        let said = run(std::process::Command::new(program("dciodvfy")).arg("-new").arg(file)).all();
        said.lines().filter(|line| line.starts_with("Error")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(errors(&file), errors(&source), "dciodvfy finds something new");
}
