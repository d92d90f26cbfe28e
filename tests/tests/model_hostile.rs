//! Signed, in-plan candidates that would harm the box: each is refused with its clause, and patients' studies go on.

use std::time::{Duration, Instant};

use lightbox_models::Bundle;
use lightbox_tests::command::{Said, run_lightbox};
use lightbox_tests::site::phantom_bundle;
use lightbox_tests::{Daemon, Line, Vendor};

fn models(line: &Line, arguments: &[&str]) -> Said {
    let site = line.site.path.to_str().expect("a plain path");
    run_lightbox(&[&["models", "--site", site], arguments].concat())
}

/// Version 1 active, as any site has it.
fn with_version_one(edit: &[(&str, &str)]) -> (Vendor, Line) {
    with_version_one_of(edit, "")
}

/// The same; `more` goes into the site's `[updates]`.
fn with_version_one_of(edit: &[(&str, &str)], more: &str) -> (Vendor, Line) {
    let (vendor, line) =
        Vendor::line_from(|_, vendor| format!("repository = {:?}\n{more}", vendor.repository()));
    let one = vendor.version(1, edit);
    let set = vendor.publish_set(&line.site);
    // It allows other weights: what is wrong with a candidate is no matter of its documents.
    let weights = "[allowed.change]\nkind = \"retrain_weights\"\n\n[[criterion]]\nid = \"C1\"";
    let threshold = "[allowed.change]\nkind = \"threshold\"\nlabel = \"disk\"\ntier = \"reported\"\nmin = 0.4\nmax = 0.8\n\
        step_max = 0.2\nbaseline = 0.7\ncumulative_max = 0.2\n\n[[criterion]]\nid = \"C1\"";
    let documents = "accompanying = [\"name\", \"card\", \"documents\"";
    let edits = [(threshold, weights), (documents, &*format!("{documents}, \"sbom\""))];
    vendor.publish_plan_with(&one, &set, 0, &edits);
    vendor.publish_version(&one);
    models(&line, &["check", "--by", "A. Meyer"]).ok("models check");
    wait_for(&line, "1 active", "");
    (vendor, line)
}

fn publish(vendor: &Vendor, line: &Line, candidate: &Bundle) -> Said {
    vendor.publish_version(candidate);
    models(line, &["check", "--by", "A. Meyer"])
}

/// Waits until a release is in that state with a note, or a reason of its last event, that holds these words.
fn wait_for(line: &Line, state: &str, words: &str) {
    let query = "SELECT v.release || ' ' || v.state || ' ' || v.note || ' ' || coalesce(e.reason, '')
        FROM model_versions v LEFT JOIN model_events e ON e.id = (SELECT max(id) FROM model_events
            WHERE slot = v.slot AND digest = v.digest)";
    line.daemon.wait_for(&format!("version {state} {words}"), 90, |ledger| {
        let found = ledger.texts(query);
        found.iter().any(|version| version.starts_with(state) && version.contains(words)).then_some(())
    });
}

fn one_study(line: &Line, images: &[std::path::PathBuf]) {
    line.send_and_wait(images);
    assert_eq!(line.daemon.ledger().number("SELECT count(*) FROM jobs WHERE state <> 'done'"), 0);
}

fn phantom(line: &Line, name: &str, slices: u32) -> Vec<std::path::PathBuf> {
    let out = line.hospital.sub_folder("images").join(name);
    let text = out.to_str().expect("a plain path");
    run_lightbox(&[
        "phantom",
        "--out",
        text,
        "--slices",
        &slices.to_string(),
        "--disks",
        "1",
        "--size",
        "128",
    ])
    .ok("lightbox phantom");
    let mut images: Vec<_> = std::fs::read_dir(&out)
        .expect("images")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "dcm"))
        .collect();
    images.sort();
    images
}

#[test]
fn a_candidate_without_end_is_cut_short_and_refused_while_studies_go_on() {
    let limit = [("runtime_seconds = 60", "runtime_seconds = 3")];
    let (vendor, line) = with_version_one(&limit);
    let two = vendor.flawed_version(2, "endless-loop", &limit);
    let begun = Instant::now();
    vendor.publish_version(&two);
    let site = line.site.path.to_str().expect("a plain path").to_owned();
    let look =
        std::thread::spawn(move || run_lightbox(&["models", "--site", &site, "check", "--by", "A. Meyer"]));
    wait_for(&line, "2 planned_in", "runs on this hardware");
    one_study(&line, &phantom(&line, "meanwhile", 2));
    look.join().expect("the look ends");
    wait_for(&line, "2 refused", "acceptance-run");
    // The golden case alone, not one run for each case.
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    let history = models(&line, &["history", "detector"]).ok("models history").out;
    assert!(history.contains("longer than the 3 s that its manifest allows"), "{history}");
    one_study(&line, &phantom(&line, "afterwards", 1));
    let active = "SELECT release FROM model_versions WHERE state = 'active'";
    assert_eq!(line.daemon.ledger().number(active), 1);
}

#[test]
fn a_candidate_that_takes_too_long_to_load_holds_up_nothing_and_is_refused() {
    let (vendor, line) = with_version_one_of(&[], "load_seconds = 10");
    vendor.publish_version(&vendor.flawed_version(2, "slow-load", &[]));
    let site = line.site.path.to_str().expect("a plain path").to_owned();
    let look =
        std::thread::spawn(move || run_lightbox(&["models", "--site", &site, "check", "--by", "A. Meyer"]));
    wait_for(&line, "2 planned_in", "runs on this hardware");
    one_study(&line, &phantom(&line, "meanwhile", 2));
    look.join().expect("the look ends");
    wait_for(&line, "2 refused", "takes longer than 10 s to load (updates.load_seconds)");
    let active = "SELECT release FROM model_versions WHERE state = 'active'";
    assert_eq!(line.daemon.ledger().number(active), 1);
}

#[test]
fn what_says_more_than_its_memory_holds_is_refused() {
    let (vendor, line) = with_version_one(&[]);
    let two = vendor.flawed_version(2, "long-output", &[]);
    publish(&vendor, &line, &two);
    wait_for(&line, "2 refused", "golden_cases");
    one_study(&line, &phantom(&line, "afterwards", 1));
}

#[test]
fn a_candidate_that_takes_the_daemon_down_is_not_run_for_ever() {
    let limit = [("runtime_seconds = 60", "runtime_seconds = 3600")];
    let (vendor, mut line) = with_version_one(&limit);
    let two = vendor.flawed_version(2, "endless-loop", &limit);
    vendor.publish_version(&two);
    let site = line.site.path.to_str().expect("a plain path").to_owned();
    let look =
        std::thread::spawn(move || run_lightbox(&["models", "--site", &site, "check", "--by", "A. Meyer"]));
    for attempt in 1..=3 {
        let tries = format!("SELECT count(*) FROM model_versions WHERE release = 2 AND trials = {attempt}");
        line.daemon
            .wait_for(&format!("try {attempt}"), 60, |ledger| (ledger.number(&tries) == 1).then_some(()));
        line.daemon.kill();
        line.daemon = Daemon::start(&line.site);
    }
    wait_for(&line, "2 refused", "the daemon ended each of the 3 times");
    drop(look.join().expect("the look ends"));
    one_study(&line, &phantom(&line, "afterwards", 1));
}

#[test]
fn weights_in_another_file_are_found_before_any_runtime_sees_them() {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(phantom_bundle()).expect("the bundle") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
    }
    let flawed = phantom_bundle().join("../../flawed/external-data.onnx");
    std::fs::copy(flawed, folder.path().join("model.onnx")).expect("copied");
    let text = folder.path().to_str().expect("a plain path");
    run_lightbox(&["bundle", "refresh", text]).ok("bundle refresh");
    let refused = Bundle::open(folder.path()).expect_err("it names another file");
    assert_eq!(refused.clause(), "network-external-data", "{refused}");
    let said = run_lightbox(&["bundle", "check", text]);
    assert!(said.code != Some(0) && said.all().contains("values lie in another file"), "{}", said.all());
}

#[test]
fn a_16_bit_network_comes_in_only_if_it_says_here_what_the_32_bit_one_says() {
    let (vendor, line) = Vendor::line_from(|_, vendor| format!("repository = {:?}\n", vendor.repository()));
    let one = vendor.version(1, &[]);
    let set = vendor.publish_set(&line.site);
    let threshold = "[allowed.change]\nkind = \"threshold\"\nlabel = \"disk\"\ntier = \"reported\"\nmin = 0.4\nmax = 0.8\n\
        step_max = 0.2\nbaseline = 0.7\ncumulative_max = 0.2\n\n[[criterion]]\nid = \"C1\"";
    let precision =
        "[allowed.change]\nkind = \"precision\"\nprecisions = [\"fp16\"]\n\n[[criterion]]\nid = \"C1\"";
    let documents = "accompanying = [\"name\", \"card\", \"documents\"";
    let edits = [(threshold, precision), (documents, &*format!("{documents}, \"sbom\""))];
    vendor.publish_plan_with(&one, &set, 0, &edits);
    publish(&vendor, &line, &one).ok("models check");
    wait_for(&line, "1 active", "");

    publish(&vendor, &line, &vendor.version_with_half(2, "half-off"));
    wait_for(&line, "2 refused", "equivalence");
    let reason =
        line.daemon.ledger().texts("SELECT reason FROM model_events WHERE reason LIKE '%equivalence%'");
    // Scores of 0.95 times the reference's, so above the plan's 0.01.
    assert!(reason.iter().any(|why| why.contains("1 of 1 cases compared")), "{reason:?}");

    publish(&vendor, &line, &vendor.version_with_half(3, "half"));
    wait_for(&line, "3 active", "");
    let ruled = "SELECT verdict FROM model_events WHERE state_after = 'accepted' AND verdict LIKE '%1 of 1 cases compared%'";
    assert_eq!(line.daemon.ledger().texts(ruled).len(), 1, "the ruling names what was compared");
}
