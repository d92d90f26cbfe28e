//! A signed model on a running daemon: it comes, is judged, approved, switched while studies arrive, and goes
//! back; what the plan does not allow never runs.

use std::collections::BTreeSet;
use std::process::Command;

use lightbox_tests::command::{Said, program, run, run_lightbox};
use lightbox_tests::ledger::Ledger;
use lightbox_tests::samples::{copy_as, phantom};
use lightbox_tests::{Line, Vendor, judges};
use serde_json::Value;

fn models(line: &Line, arguments: &[&str]) -> Said {
    let site = line.site.path.to_str().expect("a plain path");
    run_lightbox(&[&["models", "--site", site], arguments].concat())
}

/// The state of each version, by its release.
fn states(ledger: &Ledger) -> Vec<String> {
    ledger.texts("SELECT release || ' ' || state FROM model_versions ORDER BY release")
}

fn check(line: &Line) -> Said {
    models(line, &["check", "--by", "A. Meyer"]).ok("models check")
}

fn approve(line: &Line, people: &[&str]) {
    for person in people {
        models(line, &["approve", "detector", "--by", person]).ok("models approve");
    }
}

fn wait_for_active(line: &Line, release: u32) {
    line.daemon.wait_for("the version to be active", 60, |ledger| {
        states(ledger).contains(&format!("{release} active")).then_some(())
    });
}

#[test]
fn a_model_is_installed_updated_under_load_and_rolled_back() {
    let (vendor, mut line) = Vendor::line();
    let image = phantom(&line.hospital, "dx", 1).files.remove(0);
    let folder = line.hospital.sub_folder("studies");
    let study = |name: String| vec![copy_as(&image, &folder.join(format!("{name}.dcm")), true)];

    // A study that comes before its model waits, and says so.
    line.modality.deliver(line.daemon.dicom, &[], &study("early".into()));
    line.daemon.wait_for("the job to say what it waits for", 30, |ledger| {
        let waiting =
            "SELECT count(*) FROM jobs WHERE state = 'waiting' AND error LIKE '%no active version%'";
        (ledger.number(waiting) == 1).then_some(())
    });

    let one = vendor.version(1, &[]);
    let set = vendor.publish_set(&line.site);
    vendor.publish_plan(&one, &set, 2);
    vendor.publish_version(&one);
    let said = check(&line);
    assert!(
        said.out.contains("accepted") && said.out.contains("0 different people approved"),
        "{}",
        said.out
    );
    approve(&line, &["A. Meyer"]);
    let again = models(&line, &["approve", "detector", "--by", "a. meyer "]);
    assert!(again.code != Some(0) && again.err.contains("another person has to"), "{}", again.all());
    assert_eq!(states(&line.daemon.ledger()), ["1 accepted"]);
    approve(&line, &["B. Huber"]);
    wait_for_active(&line, 1);
    line.wait_until_quiet();

    // A result names digest, plan and acceptance record: in the report, the ledger and `studies show`.
    let record = line.daemon.ledger().texts("SELECT acceptance FROM model_versions").remove(0);
    let report = line.pacs.files().remove(0);
    judges::accept_sr(&report);
    let text = run(Command::new(program("dsrdump")).arg("+Pl").arg(&report)).ok("dsrdump").out;
    for named in [one.digest(), "change_control_plan=PCCP-DISKS version 1", &record] {
        assert!(text.contains(named), "{named} is not in\n{text}");
    }
    let key = line.daemon.ledger().texts("SELECT key FROM studies").remove(0);
    let site = line.site.path.to_str().expect("a plain path").to_owned();
    let shown = run_lightbox(&["studies", "--site", &site, "show", &key]).ok("studies show");
    assert!(shown.out.contains(&record) && shown.out.contains("PCCP-DISKS version 1"), "{}", shown.out);

    // Version 2 comes while studies are sent.
    let two = vendor.version(2, &[("reported_min = 0.7", "reported_min = 0.52")]);
    vendor.publish_version(&two);
    const STUDIES: usize = 24;
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for at in 0..STUDIES {
                line.modality.deliver(line.daemon.dicom, &[], &study(format!("load-{at}")));
            }
        });
        check(&line);
        approve(&line, &["A. Meyer", "B. Huber"]);
        wait_for_active(&line, 2);
        sending.join().expect("sent");
    });
    line.send_and_wait(&study("late".into()));
    let ledger = line.daemon.ledger();
    assert_eq!(states(&ledger), ["1 retired", "2 active"]);
    assert_eq!(ledger.number("SELECT count(*) FROM studies WHERE state = 'done'"), STUDIES as i64 + 2);
    assert_eq!(ledger.number("SELECT count(*) FROM jobs WHERE state = 'done'"), STUDIES as i64 + 2);
    let digests = ledger.texts("SELECT model_digest FROM jobs ORDER BY finished_at, id");
    let known = BTreeSet::from([one.digest().to_owned(), two.digest().to_owned()]);
    assert_eq!(digests.iter().cloned().collect::<BTreeSet<_>>(), known);
    assert_eq!(digests.last().map(String::as_str), Some(two.digest()));
    let differs = "SELECT count(*) FROM jobs WHERE model_digest <> pinned_digest
        OR model_digest <> json_extract(outcome, '$.model.digest')";
    assert_eq!(ledger.number(differs), 0, "a result names another version than began it");

    // Outside the plan: a label more, and a threshold too far. Refused, by their clauses.
    let label = "\n[[label]]\nindex = 1\nname = \"ring\"\nfinding = { value = \"RING\", scheme = \"99LIGHTBOX\", meaning = \"Ring\" }\ncategory = { value = \"49755003\", scheme = \"SCT\", meaning = \"Morphologically abnormal structure\" }\nreported_min = 0.7\nflagged_min = 0.4\n";
    let with_label = format!("measurements = [\"long_axis\", \"short_axis\"]\n{label}");
    vendor.publish_version(
        &vendor.version(3, &[("measurements = [\"long_axis\", \"short_axis\"]", &with_label)]),
    );
    vendor.publish_version(&vendor.version(4, &[("reported_min = 0.7", "reported_min = 0.95")]));
    let said = check(&line);
    assert!(said.out.contains("labels: "), "{}", said.out);
    assert!(said.out.contains("threshold_bounds (disk reported)"), "{}", said.out);
    assert_eq!(states(&line.daemon.ledger()), ["1 retired", "2 active", "3 refused", "4 refused"]);
    let explained = models(&line, &["explain", "detector"]).ok("models explain");
    assert!(
        explained.out.contains("refused, ") && explained.out.contains("threshold_bounds"),
        "{}",
        explained.out
    );

    // Back to version 1, at once; it runs, over a restart too.
    let back = models(&line, &["rollback", "detector", "--by", "C. Chief", "--reason", "too many rings"]);
    back.ok("models rollback");
    assert_eq!(states(&line.daemon.ledger())[..2], ["1 active", "2 rolled_back"]);
    line.send_and_wait(&study("after".into()));
    let last = "SELECT model_digest FROM jobs ORDER BY id DESC LIMIT 1";
    assert_eq!(line.daemon.ledger().texts(last), [one.digest()]);
    assert!(line.daemon.stop().success());
    line.daemon = lightbox_tests::Daemon::start(&line.site);
    line.send_and_wait(&study("restarted".into()));
    assert_eq!(line.daemon.ledger().texts(last), [one.digest()]);
    models(&line, &["verify"]).ok("models verify");

    // Two people bring version 2 back.
    let digits = &two.digest()[..16];
    for person in ["A. Meyer", "B. Huber"] {
        models(&line, &["approve", "detector", "--digest", digits, "--by", person]).ok("models approve");
    }
    wait_for_active(&line, 2);

    // A recall takes it away again, and says whom it touched.
    let notice = line.hospital.folder().join("notice.toml");
    let text = format!(
        "schema = 1\nmodel = \"lightbox-phantom-detector\"\ndigests = [\"{}\"]\nreason = \"Misses disks.\"\n",
        two.digest()
    );
    std::fs::write(&notice, text).expect("written");
    vendor.publish(&[("recalls/acme/2026-1.toml", "vendor-acme", &notice)]);
    let said = check(&line);
    assert!(said.out.contains("Misses disks."), "{}", said.out);
    assert_eq!(states(&line.daemon.ledger())[..2], ["1 retired", "2 recalled"]);
    let touched = models(&line, &["studies", "detector", "--digest", digits]).ok("models studies");
    let with_two = digests.iter().filter(|digest| *digest == two.digest()).count();
    assert_eq!(touched.out.lines().count(), with_two, "{}", touched.out);
    let history: Value =
        serde_json::from_str(&models(&line, &["history", "detector", "--json"]).ok("models history").out)
            .expect("JSON");
    let by_chief = history.as_array().expect("a list").iter().any(|event| {
        event["actor"] == "C. Chief" && event["reason"] == "too many rings" && event["after"] == "rolled_back"
    });
    assert!(by_chief, "{history}");

    // Nothing runs until people bring back the version that it had followed.
    let back = |person: &str| {
        models(&line, &["approve", "detector", "--digest", &one.digest()[..16], "--by", person])
    };
    back("A. Meyer").ok("the first approval");
    let same = back("a.  MEYER");
    assert!(same.code != Some(0) && same.err.contains("another person has to"), "{}", same.all());
    assert_eq!(states(&line.daemon.ledger())[..2], ["1 retired", "2 recalled"]);
    back("B. Huber").ok("the second approval");
    wait_for_active(&line, 1);
    run_lightbox(&["audit", "--site", &site, "verify"]).ok("audit verify");
}

#[test]
fn a_repository_that_goes_back_in_time_is_refused_and_changes_nothing() {
    let (vendor, line) = Vendor::line();
    let one = vendor.version(1, &[]);
    let set = vendor.publish_set(&line.site);
    vendor.publish_plan(&one, &set, 0);
    let old = line.hospital.folder().join("old");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status();
        assert!(copied.expect("cp").success());
    };
    copy(&vendor.repository(), &old);
    vendor.publish_version(&one);
    check(&line);
    // Nobody has to approve: it is active when the plan is met.
    wait_for_active(&line, 1);
    std::fs::remove_dir_all(vendor.repository()).expect("removed");
    copy(&old, &vendor.repository());
    let said = models(&line, &["check", "--by", "A. Meyer"]);
    assert!(said.code != Some(0) && said.out.contains("[version-rolled-back]"), "{}", said.all());
    let overridden = models(&line, &["check", "--by", "A. Meyer", "--override-dates", "because"]);
    assert!(
        overridden.out.contains("[version-rolled-back]"),
        "no override of versions: {}",
        overridden.all()
    );
    assert_eq!(states(&line.daemon.ledger()), ["1 active"], "what runs goes on");
    let refused = line.daemon.ledger().audit("repository-checked");
    assert_eq!(refused.iter().filter(|record| record.outcome == "minor").count(), 2);
}
