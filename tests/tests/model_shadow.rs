//! A candidate in shadow on a running daemon: it runs on live studies after the active version and gives no output;
//! its report, the approval that waits for it, and the plan's monitors that act by themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use dicom_core::Tag;
use lightbox_models::Bundle;
use lightbox_tests::chance::{Random, number};
use lightbox_tests::command::{Said, program, run, run_lightbox};
use lightbox_tests::ledger::Ledger;
use lightbox_tests::peers::curl::Browser;
use lightbox_tests::samples::{copy_as, text_of};
use lightbox_tests::{Daemon, Line, Vendor};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn models(line: &Line, arguments: &[&str]) -> Said {
    let site = line.site.path.to_str().expect("a plain path");
    run_lightbox(&[&["models", "--site", site], arguments].concat())
}

/// The state of each version, by its release.
fn states(ledger: &Ledger) -> Vec<String> {
    ledger.texts("SELECT release || ' ' || state FROM model_versions ORDER BY release")
}

fn wait_for(line: &Line, state: &str) {
    line.daemon.wait_for(&format!("the versions to hold {state:?}"), 60, |ledger| {
        states(ledger).contains(&state.to_owned()).then_some(())
    });
}

fn check(line: &Line) -> Said {
    models(line, &["check", "--by", "A. Meyer"]).ok("models check")
}

/// One slice with one disk, whose score is a thousandth of its intensity.
struct Images {
    folder: PathBuf,
    source: PathBuf,
    made: usize,
}

impl Images {
    fn new(line: &Line) -> Self {
        let folder = line.hospital.sub_folder("images");
        let out = folder.join("source");
        let out = out.to_str().expect("a plain path");
        run_lightbox(&["phantom", "--out", out, "--slices", "1", "--disks", "1", "--size", "128"])
            .ok("lightbox phantom");
        Images { source: Path::new(out).join("000.dcm"), folder, made: 0 }
    }

    /// A new study whose disk has that score.
    fn with_score(&mut self, score: f64) -> Vec<PathBuf> {
        const INTERCEPT: Tag = Tag(0x0028, 0x1052);
        let copy = copy_as(&self.source, &self.folder.join(format!("{}.dcm", self.made)), true);
        self.made += 1;
        let intercept: f64 = text_of(&copy, INTERCEPT).parse().expect("a number");
        let dimmed = format!("(0028,1052)={}", intercept - (900.0 - 1000.0 * score));
        run(Command::new(program("dcmodify")).args(["-nb", "-m", &dimmed]).arg(&copy)).ok("dimming");
        vec![copy]
    }
}

/// Brings version 1 into service under a plan with these edits.
fn first_version(vendor: &Vendor, line: &Line, approvals: u32, edit: &[(&str, &str)]) -> (Bundle, String) {
    let one = vendor.version(1, &[]);
    let set = vendor.publish_set(&line.site);
    vendor.publish_plan_with(&one, &set, approvals, edit);
    vendor.publish_version(&one);
    check(line);
    if approvals > 0 {
        models(line, &["approve", "detector", "--by", "A. Meyer"]).ok("models approve");
    }
    wait_for(line, "1 active");
    (one, set)
}

/// Studies on which the candidate has ended.
fn compared(ledger: &Ledger) -> i64 {
    ledger.number("SELECT count(*) FROM shadow_runs WHERE state <> 'begun'")
}

/// The greatest score of each study that the active version found, by the study's key.
fn scores(ledger: &Ledger) -> BTreeMap<String, f64> {
    let lines =
        ledger.texts("SELECT s.key || ' ' || j.outcome FROM jobs j JOIN studies s ON s.id = j.study_id");
    lines
        .iter()
        .map(|line| {
            let (key, outcome) = line.split_once(' ').expect("two words");
            let outcome: Value = serde_json::from_str(outcome).expect("JSON");
            let findings = outcome["findings"].as_array().expect("a list").iter();
            let best =
                findings.map(|finding| finding["score"].as_f64().expect("a number")).fold(0.0, f64::max);
            (key.to_owned(), best)
        })
        .collect()
}

#[test]
fn a_candidate_runs_beside_the_active_version_and_is_approved_by_its_report() {
    let mut viewer = None;
    let (vendor, line) = Vendor::line_from(|hospital, vendor| {
        let identity = viewer.insert(hospital.issue("vera"));
        format!(
            "repository = {:?}\n\n[[operator]]\nname = \"Vera Viewer\"\ncertificate = {{ sha256 = {:?} }}",
            vendor.repository(),
            identity.sha256
        )
    });
    let mut images = Images::new(&line);
    // 0.0005 hours are 1.8 seconds.
    let duty = [("shadow_hours = 0", "shadow_hours = 0.0005"), ("canary_cases = 0", "canary_cases = 8")];
    let (one, _) = first_version(&vendor, &line, 1, &duty);
    // All done before the candidate comes: what ends after that is compared.
    line.send_and_wait(&images.with_score(0.9));

    let two = vendor.version(2, &[("reported_min = 0.7", "reported_min = 0.5")]);
    vendor.publish_version(&two);
    check(&line);
    wait_for(&line, "2 shadow");
    let early = models(&line, &["approve", "detector", "--by", "A. Meyer"]);
    assert!(early.code != Some(0), "{}", early.all());
    for said in ["8 of 8 studies are left", "lightbox models shadow detector"] {
        assert!(early.err.contains(said), "{said} is not in {}", early.err);
    }

    // Under load: what is reported, what is flagged by version 1 and reported by version 2, what neither shows.
    let given = [0.9, 0.6, 0.95, 0.3, 0.8, 0.55, 0.9, 0.6, 0.3, 0.75];
    let studies: Vec<Vec<PathBuf>> = given.iter().map(|score| images.with_score(*score)).collect();
    for study in &studies {
        line.modality.deliver(line.daemon.dicom, &[], study);
    }
    line.wait_until_indexed(&studies.concat());
    line.wait_until_quiet();
    line.daemon.wait_for("the candidate to have run on every study", 60, |ledger| {
        (compared(ledger) == given.len() as i64).then_some(())
    });

    // Nothing of the candidate has left the box or is among the results.
    let ledger = line.daemon.ledger();
    let all = given.len() as i64 + 1;
    assert_eq!(ledger.number("SELECT count(*) FROM results"), all);
    assert_eq!(line.pacs.files().len() as i64, all);
    assert_eq!(line.ris.received().len() as i64, all);
    let foreign = format!("SELECT count(*) FROM jobs WHERE model_digest <> '{}'", one.digest());
    assert_eq!(ledger.number(&foreign), 0);
    let named = "SELECT count(*) FROM results WHERE context LIKE '%' || (SELECT digest FROM model_versions
        WHERE release = 2) || '%'";
    assert_eq!(ledger.number(named), 0);
    let before_result =
        "SELECT count(*) FROM shadow_runs c JOIN results r ON r.job_id = c.job_id WHERE c.at < r.created_at";
    assert_eq!(ledger.number(before_result), 0, "it ran before the result was queued");
    let inferences = ledger.audit("inference-run");
    let in_shadow: Vec<_> = inferences.iter().filter(|record| record.detail["shadow"] == true).collect();
    assert_eq!(in_shadow.len(), given.len());
    assert!(in_shadow.iter().all(|record| record.detail["model_digest"] == two.digest()));

    // The figures are those that the scores of version 1 give, as the networks are the same.
    let compared_keys =
        ledger.texts("SELECT s.key FROM shadow_runs c JOIN studies s ON s.id = c.study_id ORDER BY c.id");
    let found = scores(&ledger);
    let tier = |score: f64, reported: f64| match score {
        score if score >= reported => 2,
        score if score >= 0.4 => 1,
        _ => 0,
    };
    let mut expected = [[0_u64; 3]; 3];
    for key in &compared_keys {
        expected[tier(found[key], 0.7)][tier(found[key], 0.5)] += 1;
    }
    assert_eq!(expected, [[2, 0, 0], [0, 0, 3], [0, 0, 5]], "the images are as they were meant to be");
    let folder = line.hospital.sub_folder("reports");
    let file = |name: &str| folder.join(name);
    for name in ["shadow.json", "shadow.html"] {
        let to = file(name);
        models(&line, &["shadow", "detector", "--out", to.to_str().expect("plain")])
            .ok("models shadow --out");
    }
    let report: Value =
        serde_json::from_slice(&std::fs::read(file("shadow.json")).expect("written")).expect("JSON");
    let disk = &report["labels"][0];
    assert_eq!(disk["flips"]["counts"], serde_json::json!(expected), "{report}");
    assert_eq!((&disk["candidate_failed"], &report["standing"]["studies"]), (&0.into(), &given.len().into()));
    assert_eq!(disk["mean_difference"], 0.0, "the same network");
    assert!(disk["candidate_latency"]["p50"].as_f64().expect("a time") > 0.0);
    let page = std::fs::read(file("shadow.html")).expect("written");
    let digest: String = Sha256::digest(&page).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(report["sha256"], digest.as_str());
    let page = String::from_utf8(page).expect("UTF-8");
    assert!(page.contains("<tr><th>flagged</th><td>0</td><td>0</td><td>3</td></tr>"), "{page}");
    assert_eq!(page.matches("<circle").count(), given.len());
    let keys_or_uids = compared_keys.iter().any(|key| page.contains(key.as_str()));
    assert!(!keys_or_uids && !page.contains("1.2.826"), "the report names a study");
    let browser = Browser::new(&line.hospital, line.daemon.admin, viewer.as_ref());
    let served = browser.get(&format!("/models/detector/{}/shadow", two.digest()));
    assert_eq!((served.status, served.body), (200, page.clone()), "the administration page serves the same");
    let shown = models(&line, &["shadow", "detector"]).ok("models shadow");
    assert!(shown.out.contains("The candidate puts 3 higher and 0 lower"), "{}", shown.out);
    assert!(shown.out.contains("10 of 8 studies, 0 failed, 0 wait"), "{}", shown.out);

    // The hours are done too, a person approves, and the plan rules on what was seen.
    line.daemon.wait_for("the hours to be done", 60, |ledger| {
        (ledger.number("SELECT served_ms FROM shadow_times") >= 1800).then_some(())
    });
    assert_eq!(states(&line.daemon.ledger()), ["1 active", "2 shadow"], "nobody has approved");
    models(&line, &["approve", "detector", "--by", "B. Huber"]).ok("models approve");
    wait_for(&line, "2 active");
    let ledger = line.daemon.ledger();
    let evidence =
        ledger.texts("SELECT evidence FROM model_events WHERE event = 'activate' ORDER BY id").pop();
    assert!(evidence.expect("it was activated").ends_with(&format!("shadow report {digest}")));
    let verdict = ledger
        .texts("SELECT verdict FROM model_events WHERE event = 'activate' ORDER BY id")
        .pop()
        .expect("one");
    let verdict: Value = serde_json::from_str(&verdict).expect("JSON");
    let clause = |name: &str| {
        let clauses = verdict["clauses"].as_array().expect("a list");
        clauses.iter().find(|clause| clause["name"] == name).expect("ruled on").clone()
    };
    let cases = clause("canary_cases");
    assert_eq!(cases["why"], format!("10 studies in shadow, asked for are 8; report {digest}"));
    assert_eq!((&cases["outcome"], &clause("shadow_hours")["outcome"]), (&"met".into(), &"met".into()));
    let approvals = ledger.audit("operator-action");
    assert!(
        approvals.iter().any(|record| record.detail["shadow_report"] == digest.as_str()),
        "{approvals:?}"
    );
    let kept = file("kept.html");
    let kept_path = kept.to_str().expect("plain");
    models(&line, &["shadow", "detector", "--kept", &digest[..12], "--out", kept_path])
        .ok("models shadow --kept");
    assert_eq!(std::fs::read_to_string(kept).expect("written"), page);

    line.send_and_wait(&images.with_score(0.6));
    let last = line.daemon.ledger().texts("SELECT model_digest FROM jobs ORDER BY id DESC LIMIT 1");
    assert_eq!(last, [two.digest()]);

    // And back, at once. No study was lost, and each result names its bundle, plan and record.
    models(&line, &["rollback", "detector", "--by", "C. Chief"]).ok("models rollback");
    line.send_and_wait(&images.with_score(0.6));
    let ledger = line.daemon.ledger();
    assert_eq!(states(&ledger), ["1 active", "2 rolled_back"]);
    assert_eq!(
        ledger.texts("SELECT model_digest FROM jobs ORDER BY id DESC LIMIT 1"),
        [one.digest()],
        "the version before runs again"
    );
    let all = given.len() as i64 + 3;
    assert_eq!(ledger.number("SELECT count(*) FROM studies WHERE state = 'done'"), all);
    let named = "SELECT count(*) FROM jobs j JOIN model_versions v ON v.digest = j.pinned_digest
        WHERE json_extract(j.outcome, '$.model.digest') = v.digest
        AND json_extract(j.outcome, '$.model.plan') = v.plan || ' version ' || v.plan_version
        AND json_extract(j.outcome, '$.model.acceptance') = v.acceptance";
    assert_eq!(ledger.number(named), all);
    let site = line.site.path.to_str().expect("a plain path").to_owned();
    run_lightbox(&["audit", "--site", &site, "verify"]).ok("audit verify");
}

#[test]
fn kills_in_shadow_lose_no_study_and_compare_none_twice() {
    const KILLS: u64 = 5;
    let seed = number("LIGHTBOX_SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ 0x5_ad07);
    println!("seed {seed}; LIGHTBOX_SEED={seed} repeats the instants");
    let mut random = Random(seed);
    let (vendor, mut line) = Vendor::line();
    let mut images = Images::new(&line);
    first_version(&vendor, &line, 0, &[("canary_cases = 0", "canary_cases = 1000")]);
    vendor.publish_version(&vendor.version(2, &[("reported_min = 0.7", "reported_min = 0.5")]));
    check(&line);
    wait_for(&line, "2 shadow");
    let mut sent = 0;
    for _ in 0..KILLS {
        for _ in 0..3 {
            line.modality.deliver(line.daemon.dicom, &[], &images.with_score(0.9));
            sent += 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(800 + random.below(1200)));
        line.daemon.kill();
        line.daemon = Daemon::start(&line.site);
    }
    line.daemon.wait_for("every study to have its result and its comparison", 90, |ledger| {
        let done = ledger.number("SELECT count(*) FROM studies WHERE state = 'done'");
        (done == sent && ledger.is_quiet() && compared(ledger) == sent).then_some(())
    });
    let ledger = line.daemon.ledger();
    assert_eq!(ledger.number("SELECT count(*) FROM results"), sent);
    assert_eq!(ledger.number("SELECT count(DISTINCT study_id) FROM shadow_runs WHERE state = 'ran'"), sent);
    let audited = ledger.audit("inference-run");
    let in_shadow = audited.iter().filter(|record| record.detail["shadow"] == true).count() as i64;
    assert_eq!((in_shadow, audited.len() as i64), (sent, 2 * sent));
    assert_eq!(states(&ledger), ["1 active", "2 shadow"]);
    let site = line.site.path.to_str().expect("a plain path").to_owned();
    run_lightbox(&["audit", "--site", &site, "verify"]).ok("audit verify");
}

#[test]
fn a_monitor_goes_back_by_itself_then_disables_and_only_people_bring_a_version_back() {
    let (vendor, mut line) = Vendor::line();
    let mut images = Images::new(&line);
    let (one, set) = first_version(&vendor, &line, 0, &[]);
    let two = vendor.version(2, &[("reported_min = 0.7", "reported_min = 0.55")]);
    vendor.publish_version(&two);
    check(&line);
    wait_for(&line, "2 active");
    // From now on every run is too slow.
    let monitor = "[rollback]\nkeep = 2\n\n[[monitor]]\nid = \"slow\"\nmetric = \"latency_p95_ms\"\nwindow_studies = 3\nwarn = 0.0001\nstop = 0.001\naction = \"revert\"\n";
    let edit = [("[rollback]\nkeep = 2\n", monitor), ("version = 1\nmodel", "version = 2\nmodel")];
    vendor.publish_plan_with(&one, &set, 0, &edit);
    check(&line);

    // A restart keeps the window.
    for _ in 0..2 {
        line.send_and_wait(&images.with_score(0.9));
    }
    assert!(line.daemon.stop().success());
    line.daemon = Daemon::start(&line.site);
    assert_eq!(states(&line.daemon.ledger()), ["1 retired", "2 active"]);
    line.modality.deliver(line.daemon.dicom, &[], &images.with_score(0.9));
    wait_for(&line, "2 rolled_back");
    assert_eq!(states(&line.daemon.ledger()), ["1 active", "2 rolled_back"]);
    line.wait_until_quiet();

    // Nothing offers it again, and what runs now is judged by what it does itself: after three studies it stops as
    // well, and there is nothing left to go back to.
    check(&line);
    assert_eq!(states(&line.daemon.ledger()), ["1 active", "2 rolled_back"]);
    for _ in 0..3 {
        line.modality.deliver(line.daemon.dicom, &[], &images.with_score(0.9));
    }
    wait_for(&line, "1 rolled_back");
    line.modality.deliver(line.daemon.dicom, &[], &images.with_score(0.9));
    line.daemon.wait_for("the job to say what it waits for", 60, |ledger| {
        let waiting =
            "SELECT count(*) FROM jobs WHERE state = 'waiting' AND error LIKE '%no active version%'";
        (ledger.number(waiting) == 1).then_some(())
    });
    check(&line);
    assert!(line.daemon.stop().success());
    line.daemon = Daemon::start(&line.site);
    assert_eq!(states(&line.daemon.ledger()), ["1 rolled_back", "2 rolled_back"]);

    // History, list and audit log name the monitor, and the box as who acted.
    let history = models(&line, &["history", "detector", "--json"]).ok("models history");
    let history: Value = serde_json::from_str(&history.out).expect("JSON");
    let acts: Vec<_> = history
        .as_array()
        .expect("a list")
        .iter()
        .filter(|event| event["after"] == "rolled_back")
        .map(|event| {
            let reason = event["reason"].as_str().expect("text");
            assert!(reason.starts_with("monitor slow: 95th percentile"), "{reason}");
            assert!(reason.contains("plan PCCP-DISKS version 2"), "{reason}");
            (event["event"].as_str().expect("text"), event["actor"].as_str().expect("text"))
        })
        .collect();
    assert_eq!(acts, [("roll_back", "box"), ("disable", "box")]);
    let listed = models(&line, &["list"]).ok("models list").out;
    assert!(listed.contains("nothing to go back to") && listed.contains("the box goes back"), "{listed}");
    let serious = line.daemon.ledger().audit("model-transition");
    let serious = serious.iter().filter(|record| record.outcome == "serious").count();
    assert_eq!(serious, 2);

    // A person brings one back; its window begins anew, so that the study that waited does not stop it again.
    let digits = &two.digest()[..16];
    let nobody = models(&line, &["approve", "detector", "--digest", digits, "--by", " "]);
    assert!(nobody.code != Some(0), "{}", nobody.all());
    models(&line, &["approve", "detector", "--digest", digits, "--by", "C. Chief"]).ok("models approve");
    wait_for(&line, "2 active");
    line.wait_until_quiet();
    let last = line.daemon.ledger().texts("SELECT model_digest FROM jobs ORDER BY id DESC LIMIT 1");
    assert_eq!(last, [two.digest()]);
    assert_eq!(states(&line.daemon.ledger()), ["1 rolled_back", "2 active"]);
}
