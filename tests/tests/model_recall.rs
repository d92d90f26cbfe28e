//! What stops a model, and what must not keep it from stopping: notices that are withheld, unreadable or badly
//! addressed, a repository past its dates, a lost record of what was seen. And bundles that cannot be fetched.

use lightbox_tests::command::{Said, run_lightbox};
use lightbox_tests::{Hospital, Line, Vendor};
use time::{Duration, OffsetDateTime};

const NOTICE: &str = "recalls/acme/2026-1.toml";

fn models(line: &Line, arguments: &[&str]) -> Said {
    let site = line.site.path.to_str().expect("a plain path");
    run_lightbox(&[&["models", "--site", site], arguments].concat())
}

fn check(line: &Line) -> Said {
    models(line, &["check", "--by", "A. Meyer"])
}

/// A look that must fail, and say so.
#[track_caller]
fn refused(line: &Line, told: &str) -> Said {
    let said = check(line);
    assert!(said.code == Some(1) && said.out.contains(told), "{told} is not in\n{}", said.all());
    said
}

/// The state of each version, by its release.
fn states(line: &Line) -> Vec<String> {
    line.daemon.ledger().texts("SELECT release || ' ' || state FROM model_versions ORDER BY release")
}

fn wait_for(line: &Line, wanted: &str) {
    line.daemon.wait_for(wanted, 60, |_| states(line).iter().any(|state| state == wanted).then_some(()));
}

/// A line with version 1 active; yields its digest too.
fn with_one() -> (Vendor, Line, String) {
    let (vendor, line) = Vendor::line();
    let one = vendor.version(1, &[]);
    let set = vendor.publish_set(&line.site);
    vendor.publish_plan(&one, &set, 0);
    vendor.publish_version(&one);
    check(&line).ok("models check");
    wait_for(&line, "1 active");
    (vendor, line, one.digest().to_owned())
}

fn notice(model: &str, digest: &str) -> String {
    format!("schema = 1\nmodel = {model:?}\ndigests = [{digest:?}]\nreason = \"Misses disks.\"\n")
}

fn publish_notice(vendor: &Vendor, line: &Line, text: &str, at: OffsetDateTime) {
    let file = line.hospital.folder().join("notice.toml");
    std::fs::write(&file, text).expect("written");
    vendor.publish_at(&[(NOTICE, "vendor-acme", &file)], at);
}

#[expect(
    clippy::disallowed_methods,
    reason = "the box under test compares the dates with the machine's clock"
)]
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// As an intruder on the box, or a fault of its disk, changes the ledger.
fn tamper(line: &Line, sql: &str) {
    let ledger = rusqlite::Connection::open(line.site.data_dir.join("ledger.db")).expect("the ledger");
    ledger.busy_timeout(std::time::Duration::from_secs(10)).expect("set");
    ledger.execute(sql, []).expect("changed");
}

fn serious(line: &Line, event: &str) -> usize {
    let records = line.daemon.ledger().audit(event);
    records.iter().filter(|record| record.outcome == "serious").count()
}

#[test]
fn a_notice_that_is_withheld_or_unreadable_fails_the_look_until_it_is_heard() {
    let (vendor, line, one) = with_one();
    vendor.publish_version(&vendor.version(2, &[("reported_min = 0.7", "reported_min = 0.6")]));
    publish_notice(&vendor, &line, &notice("lightbox-phantom-detector", &one), now());
    let (file, aside) = (vendor.target(NOTICE), line.hospital.folder().join("aside"));
    std::fs::rename(&file, &aside).expect("withheld");
    let said = refused(&line, "[recall-withheld]");
    assert!(said.out.contains("NOT OBEYED") && said.out.contains("Repository REFUSED"), "{}", said.out);
    assert_eq!(states(&line), ["1 active"], "nothing is installed, and what runs goes on");
    std::fs::write(&file, "schema = 1\n").expect("altered");
    refused(&line, "[recall-withheld]");
    assert_eq!((serious(&line, "recall-kept"), serious(&line, "repository-checked")), (2, 2));
    let note = line.daemon.ledger().texts("SELECT note FROM model_slots").remove(0);
    assert!(note.contains("recall-withheld"), "{note}");

    // No key that this box does not know is passed over: it may be what matters.
    std::fs::rename(&aside, &file).expect("given back");
    let other = format!("{}digest_prefixes = []\n", notice("lightbox-phantom-detector", &one));
    vendor.slip_in("recalls/all.toml", "safety", other.as_bytes());
    let said = refused(&line, "[recall-unreadable]");
    assert!(said.out.contains("digest_prefixes") && said.out.contains("matched 1 version"), "{}", said.out);
    assert_eq!(states(&line), ["1 recalled"], "what can be read is obeyed, and nothing is installed");
    vendor.slip_in("recalls/all.toml", "safety", notice("other", &"ab".repeat(32)).as_bytes());
    let said = check(&line).ok("models check");
    assert!(said.out.contains("lists it no more") && said.out.contains("none on this box"), "{}", said.out);
    assert_eq!(states(&line)[0], "1 recalled");
    wait_for(&line, "2 active");
}

#[test]
fn a_digest_is_met_in_any_case_by_whatever_name_and_without_a_manifest() {
    let (vendor, line, one) = with_one();
    let short = notice("lightbox-phantom-detector", &one[..32]);
    vendor.slip_in(NOTICE, "vendor-acme", short.as_bytes());
    refused(&line, "not 64 hex digits");
    assert_eq!(states(&line), ["1 active"]);
    tamper(&line, "UPDATE model_versions SET manifest = 'of a release that this one cannot read'");
    publish_notice(&vendor, &line, &notice("lightbox-fantom-detector", &one.to_uppercase()), now());
    let said = check(&line);
    assert!(said.out.contains("matched 1 version"), "{}", said.all());
    assert_eq!(states(&line), ["1 recalled"]);
    let kept = line.daemon.ledger().audit("recall-kept");
    assert!(kept.iter().any(|record| record.detail["matched"] == 1 && record.detail["clause"] == ""));
}

#[test]
fn a_repository_past_its_dates_is_heard_for_what_it_recalls_and_installs_nothing() {
    let (vendor, line, one) = with_one();
    let long_ago = now() - Duration::days(1000);
    publish_notice(&vendor, &line, &notice("lightbox-phantom-detector", &one), long_ago);
    vendor.publish_version(&vendor.version(2, &[("reported_min = 0.7", "reported_min = 0.6")]));
    let file = line.hospital.folder().join("empty.toml");
    std::fs::write(&file, "x").expect("written");
    vendor.publish_at(&[("vendors/acme/none", "vendor-acme", &file)], long_ago);
    refused(&line, "[timestamp-frozen]");
    assert_eq!(states(&line), ["1 recalled"]);
}

#[test]
fn one_bundle_that_cannot_be_fetched_keeps_back_no_other_and_is_told_each_time() {
    let (vendor, line, _) = with_one();
    vendor.publish_version(&vendor.version(2, &[("reported_min = 0.7", "reported_min = 0.6")]));
    vendor.publish_version(&vendor.version(3, &[("reported_min = 0.7", "reported_min = 0.6")]));
    let file = line.hospital.folder().join("text");
    std::fs::write(&file, "no bundle").expect("written");
    vendor.publish(&[("vendors/acme/detector-4.lightbox", "vendor-acme", &file)]);
    std::fs::remove_file(vendor.target("vendors/acme/detector-2.lightbox")).expect("removed");
    let said = refused(&line, "vendors/acme/detector-2.lightbox is not there");
    assert!(said.out.contains("vendors/acme/detector-4.lightbox is no bundle"), "{}", said.out);
    wait_for(&line, "3 active");
    let left = || std::fs::read_dir(line.site.data_dir.join("models/incoming")).expect("there").count();
    assert_eq!(left(), 0);
    let again = refused(&line, "vendors/acme/detector-2.lightbox is not there");
    assert!(!again.out.lines().next().expect("a line").contains("detector-4"), "{}", again.out);
    assert_eq!((left(), states(&line)), (0, vec!["1 retired".to_owned(), "3 active".to_owned()]));
    let fetches = line.daemon.ledger().audit("model-transition");
    assert_eq!(fetches.iter().filter(|record| record.detail["event"] == "fetch").count(), 2);
}

#[test]
fn a_lost_record_and_another_publisher_each_have_a_way_that_a_person_opens() {
    let (vendor, line, _) = with_one();
    let anew = |more: &[&str]| models(&line, &[&["begin-anew", "--by", "A. Meyer"], more].concat());
    for (sql, clause) in [
        ("UPDATE model_trust SET seen = NULL", "[seen-versions-missing]"),
        ("UPDATE model_trust SET seen = 'garbage'", "[seen-versions-unreadable]"),
    ] {
        tamper(&line, sql);
        let said = refused(&line, clause);
        assert!(said.out.contains("lightbox models begin-anew"), "{}", said.out);
        anew(&["--reason", "the disk failed"]).ok("begin-anew");
        check(&line).ok("models check");
        let again = anew(&[]);
        assert!(again.code != Some(0) && again.err.contains("nothing was lost"), "{}", again.all());
    }
    assert_eq!(states(&line), ["1 active"]);

    // The site changes to another publisher, whose root has the same number.
    let elsewhere = Hospital::new();
    let other = Vendor::new(&elsewhere);
    let two = other.version(2, &[("reported_min = 0.7", "reported_min = 0.6")]);
    let set = other.publish_set(&line.site);
    other.publish_plan(&two, &set, 0);
    other.publish_version(&two);
    std::fs::copy(other.root(), vendor.root()).expect("copied");
    std::fs::remove_dir_all(vendor.repository()).expect("removed");
    let copied =
        std::process::Command::new("cp").arg("-r").args([other.repository(), vendor.repository()]).status();
    assert!(copied.expect("cp").success());
    let said = refused(&line, "[root-replaced]");
    assert!(said.out.contains("begin-anew --new-root"), "{}", said.out);
    let without = anew(&["--reason", "why"]);
    assert!(without.err.contains("--new-root"), "{}", without.all());
    assert!(anew(&["--new-root"]).err.contains("--reason"));
    anew(&["--new-root", "--reason", "new vendor"]).ok("begin-anew");
    check(&line).ok("models check");
    wait_for(&line, "2 active");
    assert_eq!(states(&line), ["1 retired", "2 active"], "the versions are kept");
    let said_so = line.daemon.ledger().audit("repository-checked");
    let begun: Vec<_> = said_so.iter().filter(|record| record.detail["begins_anew"].is_string()).collect();
    assert_eq!(begun.len(), 3);
    assert!(begun[2].detail["new_root"] == true && begun[2].detail["by"] == "A. Meyer");
}
