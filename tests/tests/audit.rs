//! The audit log: it verifies after real work, and what was tampered with is found at its place.

use std::fs;
use std::path::{Path, PathBuf};

use lightbox_tests::Line;
use lightbox_tests::command::{Said, run_lightbox};
use lightbox_tests::samples::{copy_as, sample};

/// A line that has done a study and has stopped, and its audit log exported.
struct Scene {
    line: Line,
    site: String,
    key: PathBuf,
    lines: Vec<String>,
}

fn scene() -> Scene {
    let mut line = Line::start_with(|_, site| Line::usual_rules(site));
    let image = copy_as(&sample("CT_small.dcm"), &line.hospital.folder().join("image.dcm"), true);
    line.send_and_wait(&[image]);
    line.modality.called = "SOMEBODY".into();
    line.modality.send(line.daemon.dicom, &[], &[sample("CT_small.dcm")]);
    assert!(line.daemon.stop().success());
    let site = line.site.path.to_str().expect("a plain path").to_owned();
    let exported = run_lightbox(&["audit", "--site", &site, "export"]).ok("audit export");
    let key = line.hospital.folder().join("device.pub");
    fs::write(&key, run_lightbox(&["audit", "--site", &site, "public-key"]).ok("public-key").out)
        .expect("written");
    let lines = exported.out.lines().map(str::to_owned).collect();
    Scene { line, site, key, lines }
}

impl Scene {
    fn verify_lines(&self, lines: &[String]) -> Said {
        let file = self.line.hospital.folder().join("export.jsonl");
        fs::write(&file, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("written");
        let (file, key) = (path(&file), path(&self.key));
        run_lightbox(&["audit", "verify-file", &file, "--public-key", &key])
    }

    /// Where the records start; checkpoints and head come before them.
    fn first_record(&self) -> usize {
        self.lines.iter().position(|line| line.contains("\"record\"")).expect("records")
    }

    /// The lines with some changed; the verdict must name record `at`.
    #[track_caller]
    fn found_at(&self, what: &str, at: usize, tamper: impl FnOnce(&mut Vec<String>)) {
        let mut lines = self.lines.clone();
        tamper(&mut lines);
        assert_ne!(lines, self.lines, "{what}: nothing was changed");
        let said = self.verify_lines(&lines);
        assert_ne!(said.code, Some(0), "{what}: not found");
        let named = said.all().split(|c: char| !c.is_ascii_digit()).any(|number| number == at.to_string());
        assert!(named, "{what}: record {at} is not named:\n{}", said.all());
    }
}

fn path(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

#[test]
fn the_chain_verifies_after_real_work_in_place_and_exported() {
    let scene = scene();
    run_lightbox(&["audit", "--site", &scene.site, "verify"]).ok("audit verify");
    scene.verify_lines(&scene.lines).ok("audit verify-file");
    let all = scene.lines.join("\n");
    for event in [
        "started",
        "association-accepted",
        "association-refused",
        "instance-stored",
        "study-routed",
        "inference-run",
        "result-made",
        "result-sent",
        "stopped",
    ] {
        assert!(all.contains(&format!("\"{event}\"")), "no record of {event}");
    }
}

#[test]
fn an_edited_dropped_moved_or_cut_record_is_found_at_its_place() {
    let scene = scene();
    let first = scene.first_record();
    let count = scene.lines.len() - first;
    assert!(count > 6, "too few records to tamper with");
    let third = first + 2;
    scene.found_at("edited", 3, |lines| lines[third] = lines[third].replacen("success", "serious", 1));
    scene.found_at("dropped", 3, |lines| {
        lines.remove(third);
    });
    scene.found_at("moved", 3, |lines| lines.swap(third, third + 1));
    scene.found_at("cut off at the end", count, |lines| {
        lines.pop();
    });
}

#[test]
fn tampering_in_the_ledger_itself_is_found_at_its_place() {
    let scene = scene();
    let database = scene.line.site.data_dir.join("ledger.db");
    let open = || rusqlite::Connection::open(&database).expect("opens");
    let refused = open().execute("UPDATE audit SET outcome = 'success' WHERE seq = 3", []);
    assert!(refused.is_err(), "the ledger lets its own audit log be changed");
    // Someone with the disk in hand is not stopped by a trigger, but leaves a trace.
    let changed = open()
        .execute_batch(
            "DROP TRIGGER audit_is_append_only_1; UPDATE audit SET subject = 'somebody else' WHERE seq = 3;",
        )
        .map(|()| run_lightbox(&["audit", "--site", &scene.site, "verify"]));
    let said = changed.expect("the file can be written");
    assert_ne!(said.code, Some(0), "an edited record was not found");
    assert!(said.all().contains('3'), "its place is not named:\n{}", said.all());
}

#[test]
fn another_devices_key_verifies_nothing() {
    let (scene, other) = (scene(), Line::start());
    let site = path(&other.site.path);
    fs::write(&scene.key, run_lightbox(&["audit", "--site", &site, "public-key"]).ok("public-key").out)
        .expect("written");
    assert_ne!(scene.verify_lines(&scene.lines).code, Some(0));
}

/// A new key would orphan the audit log and every study key: it is never made over data, and a foreign
/// one is not taken.
#[test]
fn a_missing_or_foreign_device_key_is_refused() {
    let mut line = Line::start_with(|_, site| Line::usual_rules(site));
    line.send_and_wait(&[sample("CT_small.dcm")]);
    line.daemon.stop();
    let key = line.site.data_dir.join("device.key");
    let aside = key.with_extension("aside");
    std::fs::rename(&key, &aside).expect("moved aside");
    let serve = || run_lightbox(&["serve", "--site", line.site.path.to_str().expect("plain")]);
    let said = serve();
    assert_eq!(said.code, Some(1), "{}", said.all());
    assert!(said.err.contains("is missing") && said.err.contains("backup"), "{}", said.all());
    assert!(!key.exists(), "a new key was made");

    let other = Line::start();
    std::fs::copy(other.site.data_dir.join("device.key"), &key).expect("copied");
    let said = serve();
    assert_eq!(said.code, Some(1), "{}", said.all());
    assert!(said.err.contains("is not the one that signed"), "{}", said.all());
}
