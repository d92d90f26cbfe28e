//! Earlier studies: fetched from a PACS before the models run, never processed, and never a reason to wait longer
//! than the deadline.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use lightbox_tests::command::{program, run, run_lightbox};
use lightbox_tests::peers::orthanc::{AE_TITLE as ORTHANC, Orthanc};
use lightbox_tests::peers::port;
use lightbox_tests::peers::qr::{Dcmqrscp, OddPacs};
use lightbox_tests::samples::{sample, study_of_copies};
use lightbox_tests::{Daemon, Hospital, Identity, Line, Site};
use serde_json::Value;

fn archive(site: Site, ae_title: &str, port: u16, identity: Option<&Identity>) -> Site {
    let how = match identity {
        Some(identity) => format!("certificate = {{ sha256 = {:?} }}", identity.sha256),
        None => "plaintext = true".to_owned(),
    };
    site.text(&format!(
        "[[peer]]\nname = \"archive\"\nae_title = {ae_title:?}\naddress = \"127.0.0.1:{port}\"\n{how}\nmay = [\"query\", \"retrieve\"]"
    ))
}

fn rule(site: Site, priors: &str) -> Site {
    site.text(&format!(
        "[[rule]]\nname = \"ct\"\nmatch = {{ modality = \"CT\" }}\nmodels = [\"any-image\"]\ndeliver = [\"pacs\"]\npriors = {{ from = \"archive\", {priors} }}"
    ))
}

/// A study of a patient, of some images of one CT series.
#[track_caller]
fn study(
    hospital: &Hospital,
    name: &str,
    patient: &str,
    date: &str,
    part: &str,
    images: usize,
) -> Vec<PathBuf> {
    let files = study_of_copies(hospital, &sample("CT_small.dcm"), name, images);
    let mut command = Command::new(program("dcmodify"));
    command.arg("-nb");
    for change in [
        format!("PatientID={patient}"),
        format!("StudyDate={date}"),
        format!("BodyPartExamined={part}"),
        format!("StudyDescription=CT {part} plain"),
    ] {
        command.args(["-i", &change]);
    }
    run(command.args(&files)).ok("giving a study its patient and date");
    files
}

/// What the PACS holds: three that fit, and what does not.
fn held_at_the_pacs(hospital: &Hospital) -> Vec<PathBuf> {
    [
        study(hospital, "oldest", "PAT4711", "20200101", "HEAD", 1),
        study(hospital, "newer", "PAT4711", "20240101", "HEAD", 3),
        study(hospital, "newest", "PAT4711", "20250601", "HEAD", 2),
        study(hospital, "chest", "PAT4711", "20251201", "CHEST", 1),
        study(hospital, "other-patient", "PAT47110", "20251101", "HEAD", 1),
        study(hospital, "later", "PAT4711", "20270101", "HEAD", 1),
    ]
    .concat()
}

fn told(daemon: &Daemon) -> Vec<Value> {
    let texts = daemon.ledger().texts("SELECT priors FROM jobs WHERE priors IS NOT NULL ORDER BY id");
    texts.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect()
}

/// That the two priors are here whole, and that nothing was made of them.
#[track_caller]
fn assert_two_priors(line: &Line) {
    let ledger = line.daemon.ledger();
    assert_eq!(ledger.texts("SELECT state FROM studies ORDER BY id"), ["done", "fetched", "fetched"]);
    assert_eq!(ledger.number("SELECT count(*) FROM instances WHERE fetched = 1"), 5);
    assert_eq!(ledger.number("SELECT count(*) FROM jobs"), 1);
    for table in ["revisions", "decisions"] {
        let other = format!("SELECT count(*) FROM {table} WHERE study_id != 1");
        assert_eq!(ledger.number(&other), 0, "{table}");
    }
    assert_eq!(line.pacs.files().len(), 1);
    let told = told(&line.daemon);
    let fetch = &told[0][0];
    assert_eq!(
        (&fetch["wanted"], &fetch["found"], &fetch["reason"]),
        (&2.into(), &2.into(), &"".into()),
        "{fetch}"
    );
    let priors: Vec<_> = fetch["priors"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (&one["date"], &one["state"], &one["held"]))
        .collect();
    assert_eq!(
        priors,
        [
            (&"20250601".into(), &"held".into(), &Value::from(2)),
            (&"20240101".into(), &"held".into(), &Value::from(3))
        ]
    );
    assert_eq!(ledger.audit("priors-fetched").len(), 1);
}

#[test]
fn priors_are_moved_over_tls_and_never_processed_unless_they_are_sent() {
    let ours = port::reserve();
    let (mut started, mut files) = (None, Vec::new());
    let line = Line::start_with(|hospital, site| {
        let orthanc =
            started.insert(Orthanc::start_knowing(hospital, SocketAddr::from(([127, 0, 0, 1], ours))));
        files = held_at_the_pacs(hospital);
        files.iter().for_each(|file| orthanc.upload(file));
        let site = archive(site.dicom_listen(ours), ORTHANC, orthanc.port, Some(&orthanc.identity));
        rule(site, "by = \"move\", within_days = 3650, deadline_seconds = 60")
    });
    line.send_and_wait(&study(&line.hospital, "now", "PAT4711", "20260110", "HEAD", 2));
    assert_two_priors(&line);
    let key = line.daemon.ledger().texts("SELECT key FROM studies WHERE id = 1").remove(0);
    let path = line.site.path.to_str().expect("a plain path");
    let shown = run_lightbox(&["studies", "show", &key, "--site", path]).ok("studies show").out;
    assert!(shown.contains("2 wanted from archive, 2 found, 2 here whole (5 images in all)"), "{shown}");
    assert!(shown.contains("20250601: held, 2 of 2 images"), "{shown}");

    // One of them is sent to us: it is a study like any other, and its own priors are looked for.
    line.send_and_wait(&files[1..4]);
    let ledger = line.daemon.ledger();
    assert_eq!(
        ledger.texts(
            "SELECT DISTINCT peer FROM instances WHERE study_id IN (SELECT study_id FROM results) ORDER BY 1"
        ),
        ["ct-1"]
    );
    assert_eq!(ledger.number("SELECT count(*) FROM studies WHERE state = 'done'"), 2);
    assert_eq!(line.pacs.files().len(), 2);
    assert_eq!(told(&line.daemon)[1][0]["priors"][0]["date"], "20200101");
}

#[test]
fn priors_are_got_once_from_a_pacs_that_names_no_body_part() {
    let ours = port::reserve();
    let mut started = None;
    let line = Line::start_with(|hospital, site| {
        let pacs = started.insert(Dcmqrscp::start(hospital, ours, &held_at_the_pacs(hospital)));
        let site = site.dicom_line("allow_plaintext = true");
        let site = archive(site, Dcmqrscp::AE_TITLE, pacs.port, None);
        rule(site, "by = \"get\", deadline_seconds = 60")
    });
    line.send_and_wait(&study(&line.hospital, "now", "PAT4711", "20260110", "HEAD", 2));
    assert_two_priors(&line);
    // The PACS is asked again for the next study, and has nothing that is not here.
    let got = || {
        let log =
            std::fs::read_to_string(line.hospital.folder().join("dcmqrscp/dcmqrscp.log")).expect("a log");
        log.matches("C-GET RQ").count()
    };
    let before = got();
    assert!(before >= 2, "the log does not name the requests: {before}");
    line.send_and_wait(&study(&line.hospital, "next", "PAT4711", "20260301", "HEAD", 1));
    assert_eq!(got(), before, "what is here was got again");
    let fetch = &told(&line.daemon)[1][0];
    assert_eq!(
        (&fetch["priors"][0]["state"], &fetch["priors"][1]["state"]),
        (&"held".into(), &"held".into()),
        "{fetch}"
    );
}

#[test]
fn priors_come_by_dicomweb_where_the_rule_says_so() {
    let mut started = None;
    let line = Line::start_with(|hospital, site| {
        let orthanc = started.insert(Orthanc::start_with_dicomweb(hospital));
        held_at_the_pacs(hospital).iter().for_each(|file| orthanc.upload(file));
        let site = site.dicom_line("allow_plaintext = true").text(&format!(
            "[[peer]]\nname = \"archive\"\nae_title = {ORTHANC:?}\nplaintext = true\nmay = [\"query\", \"retrieve\"]\ndicomweb = {{ url = {:?} }}",
            orthanc.dicomweb()
        ));
        rule(site, "by = \"dicomweb\", deadline_seconds = 60")
    });
    line.send_and_wait(&study(&line.hospital, "now", "PAT4711", "20260110", "HEAD", 2));
    assert_two_priors(&line);
    // Orthanc goes: the next study waits no longer than the deadline, and says why.
    drop(started);
    line.send_and_wait(&study(&line.hospital, "next", "PAT4712", "20260301", "HEAD", 1));
    let reasons = line.daemon.ledger().texts("SELECT reason FROM prior_fetches ORDER BY id");
    assert!(reasons[0].is_empty() && reasons[1].contains("the query failed"), "{reasons:?}");
}

/// Milliseconds from the wish to the job's start.
fn started_after(daemon: &Daemon) -> i64 {
    daemon.ledger().number(
        "SELECT j.started_at - f.created_at FROM jobs j JOIN prior_fetches f ON f.study_id = j.study_id",
    )
}

#[track_caller]
fn reason(daemon: &Daemon) -> String {
    let reasons = daemon.ledger().texts("SELECT reason FROM prior_fetches");
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    reasons.into_iter().next().expect("one")
}

fn silent_pacs(deadline: u32) -> (Line, OddPacs) {
    let mut started = None;
    let line = Line::start_with(|hospital, site| {
        let pacs = started.insert(OddPacs::start(hospital, "silent"));
        let site = archive(site, "ODD", pacs.port, Some(&pacs.identity));
        rule(site, &format!("latest = 1, same = [\"modality\"], deadline_seconds = {deadline}"))
    });
    (line, started.expect("started"))
}

fn now(hospital: &Hospital) -> Vec<PathBuf> {
    study(hospital, "now", "PAT4711", "20260110", "HEAD", 1)
}

#[test]
fn a_pacs_that_hangs_holds_the_models_up_to_the_deadline_and_no_longer() {
    let (line, _pacs) = silent_pacs(4);
    line.send_and_wait(&now(&line.hospital));
    let after = started_after(&line.daemon);
    assert!((3_000..9_000).contains(&after), "the job began after {after} ms");
    let why = reason(&line.daemon);
    assert!(why.contains("deadline") || why.contains("did not finish"), "{why}");
    assert_eq!(told(&line.daemon)[0][0]["found"], Value::Null);
    assert_eq!(line.pacs.files().len(), 1);
}

#[test]
fn a_pacs_that_is_down_holds_nothing_up() {
    let line = Line::start_with(|hospital, site| {
        let nobody = hospital.issue("nobody");
        rule(archive(site, "NOBODY", port::reserve(), Some(&nobody)), "deadline_seconds = 120")
    });
    line.send_and_wait(&now(&line.hospital));
    assert!(started_after(&line.daemon) < 60_000);
    assert!(reason(&line.daemon).contains("cannot connect"), "{}", reason(&line.daemon));
    assert_eq!(line.pacs.files().len(), 1);
    assert!(!line.daemon.log().contains("PAT4711"), "the patient is in the log");
}

#[test]
fn a_crash_while_priors_are_fetched_changes_nothing() {
    let (mut line, _pacs) = silent_pacs(6);
    let files = now(&line.hospital);
    line.modality.deliver(line.daemon.dicom, &[], &files);
    line.daemon.wait_for("the wish", 20, |ledger| {
        (ledger.number("SELECT count(*) FROM prior_fetches WHERE state = 'wanted'") == 1).then_some(())
    });
    line.daemon.kill();
    line.daemon = Daemon::start(&line.site);
    line.wait_until_quiet();
    let after = started_after(&line.daemon);
    assert!((4_000..20_000).contains(&after), "the job began after {after} ms");
    assert_eq!(line.daemon.ledger().texts("SELECT state FROM prior_fetches"), ["ended"]);
    assert_eq!(line.daemon.ledger().results().len(), 1);
}
