//! When a study counts as complete: evidence before silence, STAT before others, a series before its study.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use dicom_dictionary_std::tags;
use lightbox_tests::command::{program, run, run_lightbox};
use lightbox_tests::peers::announcer::{Announcer, announces, step_begins, step_ends};
use lightbox_tests::peers::order_sender::{OrderSender, orm};
use lightbox_tests::peers::orthanc::{self, Orthanc};
use lightbox_tests::peers::storescu::Storescu;
use lightbox_tests::samples::{copy_as, phantom, sample, sop_uid, study_of_copies, text_of};
use lightbox_tests::{Daemon, Line, judges};
use serde_json::json;

/// A quiet timer that no test waits for.
const LONG: u32 = 120;

fn line_with(quiet_seconds: u32, change: impl FnOnce(lightbox_tests::Site) -> lightbox_tests::Site) -> Line {
    Line::start_with(|_, mut site| {
        site.quiet_seconds = quiet_seconds;
        change(site)
    })
}

/// Writes evidence beside the daemon, as its services do.
fn write(daemon: &Daemon, sql: &str, values: &[&str]) {
    let ledger = rusqlite::Connection::open(daemon.data_dir.join("ledger.db")).expect("the ledger");
    ledger.busy_timeout(Duration::from_secs(10)).expect("set");
    ledger.execute(sql, rusqlite::params_from_iter(values)).expect("written");
}

fn listed(files: &[PathBuf]) -> String {
    let uids: Vec<String> = files.iter().map(|file| sop_uid(file)).collect();
    json!([{ "series_uid": text_of(&files[0], tags::SERIES_INSTANCE_UID), "instances": uids }]).to_string()
}

fn verdicts(line: &Line) -> Vec<String> {
    line.daemon.ledger().texts("SELECT verdict FROM revisions ORDER BY study_id, revision")
}

#[test]
fn a_finished_procedure_step_closes_the_study_and_the_verdict_is_everywhere() {
    let line = line_with(LONG, Line::usual_rules);
    let files = study_of_copies(&line.hospital, &sample("CT_small.dcm"), "mpps", 3);
    let study = text_of(&files[0], tags::STUDY_INSTANCE_UID);
    write(
        &line.daemon,
        "INSERT INTO procedure_steps VALUES ('1.2.9', ?1, 'ct-1', 'IN PROGRESS', '[]', 1, 1)",
        &[&study],
    );
    line.modality.deliver(line.daemon.dicom, &[], &files[..2]);
    write(
        &line.daemon,
        "UPDATE procedure_steps SET status = 'COMPLETED', series = ?1, updated_at = 2",
        &[&listed(&files)],
    );
    std::thread::sleep(Duration::from_millis(1500));
    assert!(verdicts(&line).is_empty(), "closed although an instance is missing");
    line.send_and_wait(&files[2..]);
    let expected =
        "all of the 3 instances that the procedure step of ct-1 lists are here; 3 instances in 1 series";
    assert_eq!(verdicts(&line), [expected]);
    let key = line.daemon.ledger().texts("SELECT key FROM studies").remove(0);
    let path = line.site.path.to_str().expect("a plain path");
    let shown = run_lightbox(&["studies", "show", &key, "--site", path]).ok("studies show").out;
    assert!(shown.contains(expected) && shown.contains("mpps says complete"), "{shown}");
    let report = line.pacs.files().remove(0);
    judges::accept_sr(&report);
    let text = run(Command::new(program("dsrdump")).arg("+Pl").arg(&report)).ok("dsrdump").out;
    assert!(text.contains("Study taken as complete: all of the 3 instances"), "{text}");
    assert!(!line.daemon.log().contains(&study), "a UID is in the log");
}

#[test]
fn the_count_of_the_pacs_closes_the_study() {
    let mut pacs = None;
    let line = Line::start_with(|hospital, mut site| {
        site.quiet_seconds = LONG;
        let orthanc = pacs.insert(Orthanc::start(hospital));
        let site = site.timers_line("settle_seconds = 1\ncount_at = \"orthanc\"").receiver(
            "orthanc",
            orthanc::AE_TITLE,
            orthanc.port,
            &orthanc.identity,
        );
        Line::usual_rules(site)
    });
    let orthanc = pacs.expect("started");
    let files = study_of_copies(&line.hospital, &sample("CT_small.dcm"), "counted", 2);
    let mut to_pacs = Storescu::with(&line.hospital, "CT1", line.modality.identity().clone());
    to_pacs.called = orthanc::AE_TITLE.into();
    to_pacs.deliver(([127, 0, 0, 1], orthanc.port).into(), &[], &files);
    line.modality.deliver(line.daemon.dicom, &[], &files[..1]);
    // It has more than we have: the study waits.
    line.daemon.wait_for("a count", 20, |ledger| {
        (ledger.number("SELECT count(*) FROM counts WHERE instances = 2") > 0).then_some(())
    });
    assert!(verdicts(&line).is_empty());
    line.send_and_wait(&files[1..]);
    assert_eq!(verdicts(&line), ["orthanc has 2 instances as we have; 2 instances in 1 series"]);
}

#[test]
fn a_pacs_that_is_down_never_holds_a_study_up() {
    let line = Line::start_with(|hospital, mut site| {
        site.quiet_seconds = 3;
        let nobody = hospital.issue("nobody");
        let port = lightbox_tests::peers::port::reserve();
        let site = site
            .timers_line("settle_seconds = 1\ncount_at = \"nobody\"")
            .receiver("nobody", "NOBODY", port, &nobody);
        Line::usual_rules(site)
    });
    let files = study_of_copies(&line.hospital, &sample("CT_small.dcm"), "uncounted", 1);
    line.send_and_wait(&files);
    assert_eq!(verdicts(&line), ["no new instance for 3 s; 1 instance in 1 series"]);
    let evidence = line.daemon.ledger().texts("SELECT evidence FROM revisions").remove(0);
    assert!(evidence.contains("nobody did not tell its count"), "{evidence}");
}

#[test]
fn a_model_starts_with_its_series_and_a_late_image_replaces_only_that_result() {
    let mut line = Line::start_with(|_, mut site| {
        site.quiet_seconds = 6;
        site.text(
            "[[rule]]\nname = \"each series\"\nmodels = [\"any-image\"]\ndeliver = [\"pacs\"]\nstart = \"series\"\n[rule.match]\nmodality = \"CT\"",
        )
    });
    let first = study_of_copies(&line.hospital, &sample("CT_small.dcm"), "two-series", 2);
    let folder = line.hospital.sub_folder("second-series");
    let other = copy_as(&first[0], &folder.join("0.dcm"), false);
    run(Command::new(program("dcmodify")).args(["-nb", "-gse"]).arg(&other)).ok("a series of its own");
    let late = copy_as(&other, &folder.join("1.dcm"), false);
    let study = text_of(&first[0], tags::STUDY_INSTANCE_UID);
    line.modality.deliver(line.daemon.dicom, &[], &[first.clone(), vec![other]].concat());
    write(
        &line.daemon,
        "INSERT INTO announcements (study_uid, peer, series, at) VALUES (?1, 'pacs', ?2, 1)",
        &[&study, &listed(&first)],
    );
    // The announced series has its result while the study is open.
    line.daemon
        .wait_for("the first series' result", 20, |ledger| (ledger.results().len() == 1).then_some(()));
    assert_eq!(line.daemon.ledger().texts("SELECT state FROM studies"), ["receiving"]);
    assert!(verdicts(&line).is_empty());
    let early = line.daemon.ledger().results();
    line.daemon.kill();
    line.daemon = Daemon::start(&line.site);
    line.wait_until_quiet();
    let both = line.daemon.ledger().results();
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both.contains(&early[0]), "the early result has changed: {early:?}, {both:?}");
    assert!(both.iter().all(|result| result.revision == 1));
    line.send_and_wait(&[late]);
    let all = line.daemon.ledger().results();
    assert_eq!(all.len(), 3, "{all:?}");
    let replaced: Vec<_> = both.iter().filter(|result| result.sr_uid != early[0].sr_uid).collect();
    let newest = all.iter().find(|result| result.revision == 2).expect("revision 2");
    let reports = line.pacs.files();
    assert_eq!(reports.len(), 3);
    let second = reports.iter().find(|file| sop_uid(file) == newest.sr_uid).expect("it arrived");
    assert_eq!(judges::groups(second)["predecessors"], json!([replaced[0].sr_uid]));
    reports.iter().for_each(|file| judges::accept_sr(file));
}

/// Milliseconds from the last image, or the last word on it, to the verdict; the longest.
fn waited(line: &Line) -> i64 {
    line.daemon.ledger().number(
        "SELECT max(r.closed_at - max(s.last_at,
            coalesce((SELECT max(p.updated_at) FROM procedure_steps p WHERE p.study_uid = s.study_uid), 0),
            coalesce((SELECT max(a.at) FROM announcements a WHERE a.study_uid = s.study_uid), 0)))
         FROM revisions r JOIN studies s ON s.id = r.study_id",
    )
}

#[test]
fn a_modality_that_tells_its_step_closes_the_study_with_the_last_image() {
    let line = line_with(LONG, Line::usual_rules);
    let modality = Announcer::new(&line.hospital, line.modality.identity());
    // The step ends before its last image is here, and after.
    for (name, before) in [("step-then-image", 2), ("image-then-step", 3)] {
        let files = study_of_copies(&line.hospital, &sample("CT_small.dcm"), name, 3);
        modality.deliver(line.daemon.dicom, &[step_begins(&files)]);
        line.modality.deliver(line.daemon.dicom, &[], &files[..before]);
        line.wait_until_indexed(&files[..before]);
        modality.deliver(line.daemon.dicom, &[step_ends(&files)]);
        if before < files.len() {
            std::thread::sleep(Duration::from_millis(700));
            assert!(verdicts(&line).is_empty(), "closed although an image is missing");
            line.modality.deliver(line.daemon.dicom, &[], &files[before..]);
            line.wait_until_indexed(&files);
        }
        line.wait_until_quiet();
    }
    let expected =
        "all of the 3 instances that the procedure step of ct-1 lists are here; 3 instances in 1 series";
    assert_eq!(verdicts(&line), [expected, expected]);
    assert!(waited(&line) < 5_000, "a routing decision took {} ms", waited(&line));
    assert_eq!(line.pacs.files().len(), 2);
}

#[test]
fn an_announcement_closes_the_study_with_the_last_image() {
    let line = line_with(LONG, Line::usual_rules);
    let files = study_of_copies(&line.hospital, &sample("CT_small.dcm"), "announced", 2);
    line.modality.deliver(line.daemon.dicom, &[], &files[..1]);
    let announcer = Announcer::new(&line.hospital, line.modality.identity());
    announcer.deliver(line.daemon.dicom, &[announces(&files)]);
    std::thread::sleep(Duration::from_millis(700));
    assert!(verdicts(&line).is_empty(), "closed although an image is missing");
    line.send_and_wait(&files[1..]);
    let expected =
        "all of the 2 instances that the announcement of ct-1 lists are here; 2 instances in 1 series";
    assert_eq!(verdicts(&line), [expected]);
    assert!(waited(&line) < 5_000, "the routing decision took {} ms", waited(&line));
}

#[test]
fn a_step_that_lists_more_than_came_holds_the_study_until_the_longest_wait() {
    let line = line_with(1, |site| Line::usual_rules(site.timers_line("longest_seconds = 4")));
    let files = study_of_copies(&line.hospital, &sample("CT_small.dcm"), "lost", 3);
    let modality = Announcer::new(&line.hospital, line.modality.identity());
    modality.deliver(line.daemon.dicom, &[step_begins(&files), step_ends(&files)]);
    line.send_and_wait(&files[..2]);
    let expected = "no new instance for 4 s, although 2 of the 3 instances that the procedure step of ct-1 lists \
                    are here; 2 instances in 1 series";
    assert_eq!(verdicts(&line), [expected]);
    assert!(waited(&line) >= 4_000, "closed after {} ms", waited(&line));
    let text =
        run(Command::new(program("dsrdump")).arg("+Pl").arg(line.pacs.files().remove(0))).ok("dsrdump");
    assert!(text.out.contains("although 2 of the 3 instances"), "{}", text.out);
}

#[test]
fn a_stat_study_overtakes_a_backlog_in_jobs_and_deliveries() {
    const ROUTINE: usize = 8;
    let mut sender = None;
    let line = Line::start_with(|hospital, mut site| {
        site.quiet_seconds = LONG;
        let ris = sender.insert(OrderSender::new(hospital));
        site.orders("ris-orders", &ris.identity, "")
            .text("[[rule]]\nname = \"all\"\nmodels = [\"any-image\"]\ndeliver = [\"pacs\"]\nhold = true")
    });
    let ris = sender.expect("made");
    let image = phantom(&line.hospital, "dx", 1).files.remove(0);
    // The first three jobs take seconds, so that there is a backlog behind them.
    let studies: Vec<Vec<PathBuf>> = (0..=ROUTINE)
        .map(|index| {
            let images = if index < 3 { 40 } else { 1 };
            study_of_copies(&line.hospital, &image, &format!("backlog-{index}"), images)
        })
        .collect();
    let order = orm("M1", &text_of(&studies[ROUTINE][0], tags::STUDY_INSTANCE_UID), "S", None);
    assert_eq!(ris.send(line.daemon.orders.expect("a port"), &[order])[0].code, "AA");
    let modality = Announcer::new(&line.hospital, line.modality.identity());
    let begin: Vec<_> = studies.iter().map(|files| step_begins(files)).collect();
    modality.deliver(line.daemon.dicom, &begin);
    let all = studies.concat();
    line.modality.deliver(line.daemon.dicom, &[], &all);
    line.wait_until_indexed(&all);
    // The STAT study's step ends last.
    let end: Vec<_> = studies.iter().map(|files| step_ends(files)).collect();
    modality.deliver(line.daemon.dicom, &end);
    line.wait_until_quiet();

    let ledger = line.daemon.ledger();
    let waiting = "FROM jobs j JOIN studies s ON s.id = j.study_id,
         (SELECT j.created_at, j.started_at FROM jobs j JOIN studies s ON s.id = j.study_id WHERE s.priority = 1) stat
         WHERE s.priority = 0";
    let of = |condition: &str| ledger.number(&format!("SELECT count(*) {waiting} AND {condition}"));
    assert_eq!(ledger.number("SELECT count(*) FROM studies WHERE priority = 1"), 1);
    let overtaken = of("j.created_at < stat.created_at AND j.started_at > stat.started_at");
    assert!(overtaken >= 2, "it overtook {overtaken} jobs: {}", ledger.summary());
    let before = of("j.started_at > stat.created_at AND j.started_at < stat.started_at");
    assert_eq!(before, 0, "routine jobs began while it waited");

    // Deliveries that were made before its own are released with it.
    assert!(ledger.number(
        "SELECT count(*) FROM deliveries d JOIN results r ON r.id = d.result_id JOIN studies s ON s.id = r.study_id
         WHERE s.priority = 0 AND d.state = 'held' AND d.id < (SELECT d.id FROM deliveries d JOIN results r
            ON r.id = d.result_id JOIN studies s ON s.id = r.study_id WHERE s.priority = 1)"
    ) >= 1);
    let path = line.site.path.to_str().expect("a plain path");
    run_lightbox(&["queue", "--site", path, "release", "--all"]).ok("queue release");
    line.wait_until_quiet();
    let sent = line.daemon.ledger().audit("result-sent");
    let stat = line.daemon.ledger().texts("SELECT key FROM studies WHERE priority = 1").remove(0);
    assert_eq!(sent.len(), ROUTINE + 1);
    assert_eq!(sent[0].subject, stat, "a routine result left first");
}
